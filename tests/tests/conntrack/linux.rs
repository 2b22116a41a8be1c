//! Linux' side: a router between two interfaces, whose ends are in our hands, with nftables and conntrack in it.
//!
//! A frame that is written to one end has been routed, or dropped, when the write returns; a marker that follows it by the same way, past all rules, says so for sure.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use smoltcp::phy::{self, Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;
use towpath_tests::Result;

use crate::hosts::{HOSTS, mac, side, v4, v6};
use crate::packets::sum;
use crate::rules::Groups;

/// Who sends the markers of each side.
const MARKERS: [&str; 2] = ["10.0.1.250", "10.0.2.250"];
const MARKER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 250];
/// Generous: a busy machine may stop for seconds.
const LIMIT: Duration = Duration::from_secs(30);

/// What a host was sent: which one, and the IP packet.
pub(crate) type Delivered = (usize, Vec<u8>);

pub(crate) struct Linux {
    ends: [TunTapInterface; 2],
    macs: [[u8; 6]; 2],
    zone: u16,
    marked: u32,
}

fn run(words: &str) -> Result<()> {
    let mut parts = words.split_whitespace();
    let output = Command::new(parts.next().context("a program")?).args(parts).output()?;
    ensure!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Linux {
    /// The router, in the namespace that this thread is in.
    pub(crate) fn new() -> Result<Self> {
        for (name, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
        ] {
            let file = format!("/proc/sys/net/{name}");
            fs::write(&file, value).with_context(|| format!("write {file}"))?;
        }
        let open = |number: u8| -> Result<TunTapInterface> {
            let name = format!("side{number}");
            let end = TunTapInterface::new(&name, Medium::Ethernet).context("make a TAP interface")?;
            run(&format!("ip link set {name} address 02:00:00:00:07:0{number} mtu 1450 up"))?;
            run(&format!("ip address add 10.0.{number}.1/24 dev {name}"))?;
            run(&format!("ip address add fd00:10:0:{number}::1/64 dev {name} nodad"))?;
            Ok(end)
        };
        let ends = [open(1)?, open(2)?];
        for host in 0..HOSTS {
            let (mac, device) = (colons(mac(host)), 1 + side(host));
            for address in [v4(host).to_string(), v6(host).to_string()] {
                run(&format!("ip neighbour add {address} lladdr {mac} nud permanent dev side{device}"))?;
            }
        }
        for (marker, device) in MARKERS.iter().zip(1..) {
            let mac = colons(MARKER_MAC);
            run(&format!("ip neighbour add {marker} lladdr {mac} nud permanent dev side{device}"))?;
        }
        let macs = [1, 2].map(|number| [2, 0, 0, 0, 7, number]);
        Ok(Self { ends, macs, zone: 0, marked: 0 })
    }

    /// Judge by other rules, and know no connection.
    pub(crate) fn set_rules(&mut self, groups: &Groups) -> Result<()> {
        self.zone += 1;
        let ruleset = groups.ruleset(self.zone, MARKERS);
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut nft = command.spawn().context("start nft")?;
        nft.stdin.take().context("its input")?.write_all(ruleset.as_bytes())?;
        let output = nft.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "nft: {complaint}\n{ruleset}");
        Ok(())
    }

    /// What becomes of a packet of a host: who is sent what.
    pub(crate) fn judge(&mut self, from: usize, packet: &[u8]) -> Result<Vec<Delivered>> {
        let side = side(from);
        self.send(side, mac(from), packet)?;
        self.marked += 1;
        let marker = marker(side, self.marked);
        self.send(side, MARKER_MAC, &marker)?;
        let mut delivered = Vec::new();
        let end = &mut self.ends[1 - side];
        loop {
            let Some((frame, _)) = end.receive(Instant::ZERO) else {
                phy::wait(end.as_raw_fd(), Some(LIMIT.into())).context("wait for the marker")?;
                let frame = end.receive(Instant::ZERO).context("the marker did not come through")?.0;
                if Self::take(frame, self.marked, &mut delivered) {
                    return Ok(delivered);
                }
                continue;
            };
            if Self::take(frame, self.marked, &mut delivered) {
                return Ok(delivered);
            }
        }
    }

    /// Notes what a frame brings to a host; whether it is the marker.
    fn take(frame: impl RxToken, marked: u32, delivered: &mut Vec<Delivered>) -> bool {
        frame.consume(|frame| {
            let (Some(to), Some(packet)) = (frame.first_chunk::<6>(), frame.get(14..)) else { return false };
            if *to == MARKER_MAC {
                return packet.get(28..32) == Some(&marked.to_be_bytes());
            }
            // All else is the router's own: it asks who is there.
            if let Some(host) = (0..HOSTS).find(|host| mac(*host) == *to) {
                delivered.push((host, packet.to_vec()));
            }
            false
        })
    }

    fn send(&mut self, side: usize, source: [u8; 6], packet: &[u8]) -> Result<()> {
        let kind = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let frame = [&self.macs[side][..], &source, &kind, packet].concat();
        let token = self.ends[side].transmit(Instant::ZERO).context("an end takes frames")?;
        token.consume(frame.len(), |buffer| buffer.copy_from_slice(&frame));
        Ok(())
    }

    /// States of the connections that are known now, and how many are in each.
    pub(crate) fn states(&self) -> Result<BTreeMap<String, usize>> {
        let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack")?;
        let mut states = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains(&format!("zone={} ", self.zone))) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let protocol = *words.get(2).context("a protocol")?;
            let mut state = match protocol {
                "tcp" | "sctp" => format!("{protocol} {}", words.get(5).context("a state")?),
                _ => protocol.to_owned(),
            };
            if line.contains("[UNREPLIED]") {
                state.push_str(" unreplied");
            }
            *states.entry(state).or_default() += 1;
        }
        Ok(states)
    }

    /// How many first packets were decided by the last rule of a list, by another, and by none.
    pub(crate) fn decided(&self) -> Result<[u64; 3]> {
        let output = Command::new("nft").args(["-j", "list", "counters"]).output()?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("what nft counts")?;
        let counted = |name: &str| {
            let entries = said["nftables"].as_array().into_iter().flatten();
            let found = entries.map(|entry| &entry["counter"]).find(|counter| counter["name"] == name);
            found.and_then(|counter| counter["packets"].as_u64()).context("a counter")
        };
        Ok([counted("last")?, counted("other")?, counted("none")?])
    }
}

/// A UDP packet between the two that rules know nothing of, with a number.
fn marker(side: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend([10, 0, 1 + side as u8, 250, 10, 0, 2 - side as u8, 250]);
    let right = sum(&packet);
    packet[10..12].copy_from_slice(&right.to_be_bytes());
    packet.extend([0, 9, 0, 9, 0, 12, 0, 0]);
    packet.extend(number.to_be_bytes());
    packet
}
