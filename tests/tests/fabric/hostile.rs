//! A hostile underlay: frames that no honest tunnel end point sends, at a host whose ports talk across the fabric all the while.
//! Cases O-01 to O-11 and P-21 to P-28 of the hostile cases, and tunnel packets cut at every byte.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use etherparse::PacketBuilder;
use serde_json::json;
use towpath_tests::daemon::Daemon;
use towpath_tests::fabric::{Host, Underlay};
use towpath_tests::frontend::{Frontend, ping_pong, udp};
use towpath_tests::hostile::stage::Holdings;
use towpath_tests::inject::{self, Injector, Packet, VALID, stranger, vxlan};
use towpath_tests::manifests::{Port, resource};
use towpath_tests::scratch::Scratch;
use towpath_tests::{Result, wait};

use crate::{GREEN_VNI, LIMIT, VNI, in_green, network, port};

/// How long a packet may take that should come.
const SOON: Duration = Duration::from_secs(10);

/// Reasons with which the uplink's packets were dropped, and how many.
type Counts = BTreeMap<String, u64>;

fn counts(daemon: &Daemon) -> Result<Counts> {
    let text = daemon.metrics()?;
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.starts_with("towpath_uplink_drops_total{")) {
        let label = line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        let (label, value) = label.zip(value).with_context(|| format!("a reason and a value in {line:?}"))?;
        // Kernels of the underlay talk among themselves all the time.
        if label != "underlay_not_ours" {
            *counts.entry(label.to_owned()).or_default() += value as u64;
        }
    }
    Ok(counts)
}

/// Two hosts, and a member of their underlay that injects. Ports: 0 and 1 talk across the fabric, 2 (node-a) is the victim, 3 (node-b)
/// the honest sender to it, 4 and 5 are green's on node-b and node-a.
struct Scene {
    injector: Injector,
    bystanders: Bystanders,
    victim: Frontend,
    ports: [Port; 6],
    /// Of node-a, node-b, and the attacker, who is also known as the way to a bare machine.
    addresses: [IpAddr; 3],
    hosts: [Host; 2],
    before: Holdings,
    _underlay: Underlay,
    _scratch: Scratch,
}

struct Bystanders {
    stop: Arc<AtomicBool>,
    passed: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Bystanders {
    fn start([mut one, mut other]: [Frontend; 2], ports: [Port; 2]) -> Self {
        let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&passed));
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                ping_pong((&mut one, &ports[0]), (&mut other, &ports[1]), 5, SOON)
                    .with_context(|| format!("after {} round trips", count.load(Relaxed)))?;
                count.fetch_add(5, Relaxed);
                // They are to be undisturbed, not to keep everybody else from working.
                thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        Self { stop, passed, thread: Some(thread) }
    }

    /// Wait for more round trips of theirs.
    fn more(&mut self) -> Result<()> {
        let wanted = self.passed.load(Relaxed) + 10;
        wait::until("the bystanders' packets", SOON, || {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                self.end().context("the bystanders")?;
            }
            Ok((self.passed.load(Relaxed) >= wanted).then_some(()))
        })
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let thread = self.thread.take().context("the bystanders ended before")?;
        thread.join().map_err(|_| anyhow!("the bystanders panicked"))?
    }
}

/// What becomes of an injected packet.
#[derive(Clone, Copy, Debug)]
enum Must<'a> {
    /// Dropped, counted once under one of these reasons, and nothing else counted.
    Drop(&'a [&'a str]),
    /// Given to the victim as this frame, nothing counted.
    Deliver(&'a [u8]),
    /// Not given to the victim; what is counted may differ.
    Vanish,
}

impl Scene {
    fn start(ipv6: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        let underlay = Underlay::new(&scratch, &["node-a", "node-b", "attacker"], 1500)?;
        let ports = [
            port(0, "node-a"),
            port(1, "node-b"),
            port(2, "node-a"),
            port(3, "node-b"),
            in_green(&port(4, ""), "node-b"),
            in_green(&port(5, ""), "node-a"),
        ];
        let mut resources = network(&json!({}));
        // No advertisements: what a front end gets is the test's.
        for resource in &mut resources {
            resource["spec"].as_object_mut().context("a specification")?.remove("dhcp");
        }
        resources.extend([0, 1].map(|number| underlay.host_resource(number, ipv6)));
        let addresses = [0, 1, 2].map(|number| underlay.address(number, ipv6));
        let endpoint = json!({"subnet": "web", "ips": [Ipv4Addr::from(FOREIGN_IP)], "mac": FOREIGN_MAC, "vtep": addresses[2]});
        resources.push(resource("Endpoint", "bare", &endpoint));
        let start = |number| {
            let config = underlay.config(number, ipv6);
            Host::start(&scratch, &underlay, number, (&resources, &ports), &config)
        };
        let hosts = [start(0)?, start(1)?];
        let attach = |host: &Host, port: &Port| -> Result<Frontend> {
            let frontend = Frontend::attach_within(&host.socket(&port.name), LIMIT)?;
            host.daemon.until_phase(&port.name, "Forwarding")?;
            Ok(frontend)
        };
        let mut pair = [attach(&hosts[0], &ports[0])?, attach(&hosts[1], &ports[1])?];
        let victim = attach(&hosts[0], &ports[2])?;
        first_round(&mut pair, [&ports[0], &ports[1]])?;
        let bystanders = Bystanders::start(pair, [ports[0].clone(), ports[1].clone()]);
        let injector = Injector::new(underlay.member(2))?;
        let mut scene = Self {
            injector,
            bystanders,
            victim,
            ports,
            addresses,
            hosts,
            before: Holdings { descriptors: 0, threads: 0, maps: 0 },
            _underlay: underlay,
            _scratch: scratch,
        };
        scene.bystanders.more()?;
        scene.before = Holdings::of(scene.hosts[0].daemon.process().id())?;
        Ok(scene)
    }

    /// A frame from a port to another, as honest as can be.
    fn frame(&self, from: usize, to: usize, payload: &[u8]) -> Result<Vec<u8>> {
        udp(&self.ports[from], &self.ports[to], payload)
    }

    /// From node-b to node-a.
    fn tunnelled(&self, vni: u32, frame: &[u8]) -> Packet {
        Packet::vxlan(self.addresses[1], self.addresses[0], vni, frame)
    }

    /// Datagram of node-b to node-a's VXLAN port with this content.
    fn datagram(&self, content: &[u8]) -> Packet {
        Packet::datagram(self.addresses[1], self.addresses[0], content)
    }

    fn case(&mut self, name: &str, packet: &Packet, must: Must<'_>) -> Result<()> {
        self.judge(packet, must).with_context(|| name.to_owned())
    }

    fn judge(&mut self, packet: &Packet, must: Must<'_>) -> Result<()> {
        let daemon = &self.hosts[0].daemon;
        let before = counts(daemon)?;
        self.injector.send(&packet.bytes())?;
        match must {
            Must::Deliver(frame) => {
                let got = self.victim.receive(SOON).context("it should have been delivered")?;
                ensure!(got.starts_with(frame), "{got:02x?} came instead of {frame:02x?}");
                let after = counts(daemon)?;
                ensure!(after == before, "delivered, but counted: {before:?}, then {after:?}");
            }
            Must::Drop(reasons) => {
                let moved = wait::until(&format!("one more of {reasons:?}"), SOON, || {
                    let moved = difference(&counts(daemon)?, &before);
                    Ok((!moved.is_empty()).then_some(moved))
                })?;
                let one = moved.iter().all(|(name, count)| reasons.contains(&name.as_str()) && *count == 1);
                ensure!(one && moved.len() == 1, "{moved:?} was counted, not one of {reasons:?}");
            }
            // Counted, if at all, before an honest packet behind it comes.
            Must::Vanish => return self.settle(),
        }
        if let Some(got) = self.victim.try_receive()? {
            anyhow::bail!("the victim got {got:02x?}");
        }
        Ok(())
    }

    /// An honest packet comes behind what must vanish, and all that is to be counted has been.
    fn settle(&mut self) -> Result<()> {
        let honest = self.frame(3, 2, b"what came before is through")?;
        self.injector.send(&self.tunnelled(VNI, &honest).bytes())?;
        let got = self.victim.receive(SOON).context("an honest packet behind those that must vanish")?;
        ensure!(got.starts_with(&honest), "the victim got {got:02x?}");
        let mut last = counts(&self.hosts[0].daemon)?;
        wait::until("the counters to settle", SOON, || {
            let now = counts(&self.hosts[0].daemon)?;
            Ok((std::mem::replace(&mut last, now.clone()) == now).then_some(()))
        })
    }

    /// What follows all cases: an honest packet behind them arrives, and nothing else did; the oracle.
    fn finish(mut self) -> Result<()> {
        let last = self.frame(3, 2, b"the last one")?;
        self.case("the last packet, an honest one", &self.tunnelled(VNI, &last), Must::Deliver(&last))?;
        self.bystanders.more()?;
        self.bystanders.end().context("O2: the bystanders")?;
        for host in &mut self.hosts {
            host.daemon.process().assert_running()?;
            let log = host.daemon.process().log();
            ensure!(!log.contains("panicked"), "{log}");
        }
        let process = self.hosts[0].daemon.process().id();
        wait::until("the daemon to hold no more than before", SOON, || {
            Ok(Holdings::of(process)?.within(&self.before).then_some(()))
        })
        .with_context(|| format!("O5: {:?} before, {:?} now", self.before, Holdings::of(process)))
    }
}

fn difference(after: &Counts, before: &Counts) -> Counts {
    let moved = |(name, count): (&String, &u64)| {
        let more = count - before.get(name).unwrap_or(&0);
        (more > 0).then(|| (name.clone(), more))
    };
    after.iter().filter_map(moved).collect()
}

/// The first packet between two hosts may be lost while the underlay's neighbours are asked for.
fn first_round([one, other]: &mut [Frontend; 2], [from, to]: [&Port; 2]) -> Result<()> {
    wait::until("a packet across the fabric", LIMIT, || {
        one.send(&udp(from, to, b"anybody there?")?)?;
        other.send(&udp(to, from, b"anybody there?")?)?;
        thread::sleep(Duration::from_millis(20));
        Ok((other.try_receive()?.is_some() && one.try_receive()?.is_some()).then_some(()))
    })?;
    // What was late is not the ping-pong's.
    let quiet = || thread::sleep(Duration::from_millis(200));
    quiet();
    while one.try_receive()?.is_some() || other.try_receive()?.is_some() {}
    Ok(())
}

/// The machine behind the third member of the underlay.
const FOREIGN_MAC: &str = "02:00:00:00:02:00";
const FOREIGN_IP: [u8; 4] = [10, 0, 1, 100];

const UNREADABLE: &[&str] = &["bad_tunnel"];

fn strangers(scene: &mut Scene, ipv6: bool) -> Result<()> {
    let [here, there, _] = scene.addresses;
    let honest = scene.frame(3, 2, b"hello")?;
    scene.case("an honest packet", &scene.tunnelled(VNI, &honest), Must::Deliver(&honest))?;
    let packet = Packet::vxlan(stranger(ipv6), here, VNI, &honest);
    scene.case("O-01 a source that is no tunnel end point", &packet, Must::Drop(&["unknown_vtep"]))?;
    for vni in [0, 1, 999, VNI + 1, VNI << 8, 0xff_ffff] {
        let packet = scene.tunnelled(vni, &honest);
        scene.case(&format!("P-26 VNI {vni}"), &packet, Must::Drop(&["unknown_vni"]))?;
    }
    foreigner(scene)?;
    let hairpin = scene.frame(0, 2, b"I am your neighbour")?;
    scene.case(
        "O-03 the source is a local VM's",
        &scene.tunnelled(VNI, &hairpin),
        Must::Drop(&["tunnel_source"]),
    )?;
    let mut half = scene.frame(3, 2, b"my MAC, another's address")?;
    half[26..30].copy_from_slice(&[10, 0, 1, 10]);
    fix_ipv4(&mut half);
    scene.case(
        "O-03 the IP source is a local VM's",
        &scene.tunnelled(VNI, &half),
        Must::Drop(&["tunnel_source"]),
    )?;
    let other_tenant = scene.frame(4, 2, b"from green to blue")?;
    scene.case(
        "O-04 an honest sender of one tenant, a receiver of another",
        &scene.tunnelled(GREEN_VNI, &other_tenant),
        Must::Drop(&["unknown_unicast"]),
    )?;
    let outside = Packet::vxlan(there, here, VNI, &honest);
    scene.case("the same sender, honest again", &outside, Must::Deliver(&honest))
}

/// A tunnel end point that is known for one machine and is no `towpathd`: it speaks for that machine, in its VPC, and for nobody else.
fn foreigner(scene: &mut Scene) -> Result<()> {
    let [here, _, foreign] = scene.addresses;
    let mut machine = scene.ports[3].clone();
    (machine.mac, machine.ips) = (FOREIGN_MAC.to_owned(), vec![Ipv4Addr::from(FOREIGN_IP).into()]);
    let own = udp(&machine, &scene.ports[2], b"a bare machine")?;
    let packet = |vni, frame: &[u8]| Packet::vxlan(foreign, here, vni, frame);
    scene.case("a foreign tunnel end point, honest", &packet(VNI, &own), Must::Deliver(&own))?;
    let to_green = udp(&machine, &scene.ports[5], b"I am no tenant of yours")?;
    let must = Must::Drop(&["tunnel_source"]);
    scene.case(
        "O-02 a VNI that is here, and a sender that is not there",
        &packet(GREEN_VNI, &to_green),
        must,
    )?;
    for (who, name) in [(3, "another host's VM"), (0, "a local VM")] {
        let frame = scene.frame(who, 2, b"in the name of others")?;
        scene.case(&format!("O-03 in the name of {name}"), &packet(VNI, &frame), must)?;
    }
    let mut nobody = machine.clone();
    nobody.ips = vec![[10, 0, 1, 222].into()];
    let frame = udp(&nobody, &scene.ports[2], b"in nobody's name")?;
    scene.case("O-03 in nobody's name", &packet(VNI, &frame), must)
}

/// The header checksum of the IPv4 packet in a frame without options, and no UDP checksum.
fn fix_ipv4(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let mut sum: u32 =
        frame[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[40..42].fill(0);
}

fn headers(scene: &mut Scene, ipv6: bool) -> Result<()> {
    let honest = scene.frame(3, 2, b"hello")?;
    // RFC 7348: reserved bits are ignored. The group policy of a host that is no part of this fabric's is one of them.
    for flags in
        [[VALID, 0, 0, 0], [VALID | 0x41, 0, 0, 0], [VALID | 0x80, 0, 0, 7], [VALID, 0xff, 0xff, 0xff]]
    {
        let packet = scene.datagram(&vxlan(flags, VNI, &honest));
        scene.case(&format!("P-25 reserved bits {flags:02x?}"), &packet, Must::Deliver(&honest))?;
    }
    let mut last = vxlan([VALID, 0, 0, 0], VNI, &honest);
    last[7] = 0xff;
    scene.case("P-25 the last reserved byte", &scene.datagram(&last), Must::Deliver(&honest))?;
    // No valid VNI; Geneve; VXLAN-GPE with a next protocol, another version.
    for flags in [
        [0, 0, 0, 0],
        [0xf7, 0, 0, 0],
        [0x02, 0x40, 0x65, 0x58],
        [VALID | 0x04, 0, 0, 3],
        [VALID | 0x10, 0, 0, 0],
    ] {
        let packet = scene.datagram(&vxlan(flags, VNI, &honest));
        scene.case(&format!("P-25, P-26 another format: {flags:02x?}"), &packet, Must::Drop(UNREADABLE))?;
    }
    let whole = vxlan([VALID, 0, 0, 0], VNI, &honest);
    for length in 0..whole.len() {
        // Inner addresses and lengths that are cut are the inner parser's to refuse.
        let must = if length < 8 + 14 { Must::Drop(UNREADABLE) } else { Must::Vanish };
        scene.case(&format!("P-26 cut to {length} bytes"), &scene.datagram(&whole[..length]), must)?;
    }
    scene.settle()?;
    let (mut wrong, right) = (scene.tunnelled(VNI, &honest), scene.tunnelled(VNI, &honest));
    let [here, there] = [scene.addresses[0], scene.addresses[1]];
    let summed = Packet { payload: inject::udp(there, here, &whole, true), ..right.clone() };
    scene.case("an outer checksum that is right", &summed, Must::Deliver(&honest))?;
    wrong.payload = summed.payload.clone();
    wrong.payload[6] ^= 0x10;
    scene.case("P-21 an outer checksum that is wrong", &wrong, Must::Drop(&["tunnel_checksum"]))?;
    for length in [0_u16, 7, 8, 15, whole.len() as u16 + 7, whole.len() as u16 + 9, 0xffff] {
        let mut lying = right.clone();
        lying.payload[4..6].copy_from_slice(&length.to_be_bytes());
        scene.case(&format!("P-12 an outer UDP length of {length}"), &lying, Must::Vanish)?;
    }
    scene.settle()?;
    if !ipv6 {
        let options = Packet { options: vec![1, 1, 1, 0], ..right.clone() };
        scene.case("P-28 outer IPv4 options", &options, Must::Drop(UNREADABLE))?;
        for fragment in [0x2000, 0x2001, 0x0001] {
            let piece = Packet { fragment, ..right.clone() };
            scene.case(&format!("P-28 an outer fragment {fragment:04x}"), &piece, Must::Vanish)?;
            scene.settle()?;
        }
    }
    for protocol in [4, 41, 47, 97, 132] {
        let other = Packet { protocol, ..right.clone() };
        scene.case(&format!("O-07 protocol {protocol}"), &other, Must::Vanish)?;
    }
    scene.settle()?;
    scene.bystanders.more()
}

/// The inner frame is what the tenant of another host controls, or the underlay's attacker who knows a VTEP.
fn inner_frames(scene: &mut Scene) -> Result<()> {
    let honest = scene.frame(3, 2, b"hello")?;
    let mut nested = honest.clone();
    for _ in 0..3 {
        let inside = vxlan([VALID, 0, 0, 0], VNI, &nested);
        let frame = PacketBuilder::ethernet2(mac(&scene.ports[3]), [2, 0, 0, 0, 9, 9])
            .ipv4([10, 0, 1, 13], [192, 0, 2, 1], 64)
            .udp(0xc001, 4789);
        nested = Vec::new();
        frame.write(&mut nested, &inside)?;
        let packet = scene.tunnelled(VNI, &nested);
        scene.case("P-27 a tunnel in a tunnel, to us", &packet, Must::Drop(&["unknown_unicast"]))?;
    }
    let mut tagged = honest.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    scene.case("an inner VLAN tag", &scene.tunnelled(VNI, &tagged), Must::Drop(&["vlan_tagged"]))?;
    let mut protocol = honest.clone();
    protocol[12..14].copy_from_slice(&[0x88, 0xcc]);
    scene.case("P-40 LLDP inside", &scene.tunnelled(VNI, &protocol), Must::Vanish)?;
    let mut sender = honest.clone();
    sender[6] |= 1;
    scene.case(
        "a group's MAC address as source",
        &scene.tunnelled(VNI, &sender),
        Must::Drop(&["bogus_source"]),
    )?;
    sender[6..12].copy_from_slice(&mac(&scene.ports[0]));
    scene.case(
        "O-03 a local VM's MAC address",
        &scene.tunnelled(VNI, &sender),
        Must::Drop(&["tunnel_source"]),
    )?;
    let mut to_gateway = honest.clone();
    to_gateway[..6].copy_from_slice(&[0x02, 0, 0x5e, 0, 1, 1]);
    scene.case("to nobody's MAC address", &scene.tunnelled(VNI, &to_gateway), Must::Vanish)?;
    scene.settle()?;
    // O-11 and RFC 6040: congestion outside is told inside; where nobody would understand it, the packet is lost instead.
    let capable = with_class(&honest, 0x02);
    let marked = with_class(&honest, 0x03);
    let packet = Packet { class: 0x03, ..scene.tunnelled(VNI, &capable) };
    scene.case("O-11 congestion met, ECN spoken", &packet, Must::Deliver(&marked))?;
    let packet = Packet { class: 0x03, ..scene.tunnelled(VNI, &honest) };
    scene.case("O-11 congestion met, ECN not spoken", &packet, Must::Drop(&["tunnel_congestion"]))?;
    let packet = Packet { class: 0xb8, ..scene.tunnelled(VNI, &honest) };
    scene.case("O-11 the outer DSCP stays outside", &packet, Must::Deliver(&honest))
}

fn mac(port: &Port) -> [u8; 6] {
    let octets: Vec<u8> = port.mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
    octets.try_into().unwrap()
}

/// The IPv4 packet in a frame with another traffic class; its UDP checksum does not cover that.
fn with_class(frame: &[u8], class: u8) -> Vec<u8> {
    let mut changed = frame.to_vec();
    let udp_sum = [changed[40], changed[41]];
    changed[15] = class;
    fix_ipv4(&mut changed);
    changed[40..42].copy_from_slice(&udp_sum);
    changed
}

/// O-05 and O-06: what a tenant sends to the underlay's addresses and VXLAN's port is a tenant's packet like any other.
fn tenants(scene: &mut Scene) -> Result<()> {
    let honest = scene.frame(3, 2, b"hello")?;
    let inside = vxlan([VALID, 0, 0, 0], VNI, &honest);
    let build = |to: &Port, destination: Ipv4Addr| -> Result<Vec<u8>> {
        let frame = PacketBuilder::ethernet2(mac(&scene.ports[2]), mac(to))
            .ipv4([10, 0, 1, 12], destination.octets(), 64)
            .udp(4789, 4789);
        let mut bytes = Vec::new();
        frame.write(&mut bytes, &inside)?;
        Ok(bytes)
    };
    // To the other host's VM: it gets what was sent, as it was sent.
    let mut other = Frontend::attach_within(&scene.hosts[1].socket(&scene.ports[3].name), LIMIT)?;
    scene.hosts[1].daemon.until_phase(&scene.ports[3].name, "Forwarding")?;
    let plain = build(&scene.ports[3], Ipv4Addr::new(10, 0, 1, 13))?;
    scene.victim.send(&plain)?;
    let got = other.receive(SOON).context("O-05 a tenant's own packet to VXLAN's port")?;
    ensure!(got.starts_with(&plain), "{got:02x?} came instead of {plain:02x?}");
    // To the hosts themselves: there is no such place in the VPC.
    let gateway = gateway_mac(&mut scene.victim, &scene.ports[2])?;
    for host in [[192, 0, 2, 1], [192, 0, 2, 2]] {
        let mut packet = build(&scene.ports[3], host.into())?;
        packet[..6].copy_from_slice(&gateway);
        scene.victim.send(&packet)?;
        let told = scene.victim.receive(SOON).context("O-06 the underlay's addresses from inside")?;
        ensure!(told[23] == 1 && told[34] == 3, "not ICMP's destination unreachable: {told:02x?}");
    }
    while scene.victim.try_receive()?.is_some() {}
    Ok(())
}

/// The gateway's MAC address as it answers ARP.
fn gateway_mac(frontend: &mut Frontend, port: &Port) -> Result<[u8; 6]> {
    let own = mac(port);
    let mut question = [[0xff; 6], own].concat();
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(own);
    question.extend([10, 0, 1, 12]);
    question.extend([0, 0, 0, 0, 0, 0, 10, 0, 1, 1]);
    frontend.send(&question)?;
    let answer = frontend.receive(SOON).context("the gateway's ARP reply")?;
    answer.get(22..28).and_then(|mac| mac.try_into().ok()).context("a whole ARP reply")
}

fn all(ipv6: bool) -> Result<()> {
    let mut scene = Scene::start(ipv6)?;
    strangers(&mut scene, ipv6)?;
    headers(&mut scene, ipv6)?;
    inner_frames(&mut scene)?;
    tenants(&mut scene)?;
    scene.finish()
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn o_01_to_o_11_and_p_21_to_p_28_over_ipv4() -> Result<()> {
    all(false)
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn o_01_to_o_11_and_p_21_to_p_28_over_ipv6() -> Result<()> {
    all(true)
}
