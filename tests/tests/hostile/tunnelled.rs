//! P, O and T inside VXLAN: the packets of `catalogue` as the tenant of another host would send them, out of a known tunnel end point, into a
//! `towpathd` with an uplink in a namespace.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context, ensure};
use serde_json::json;
use towpath_tests::Result;
use towpath_tests::fabric::{UPLINK, Underlay, VXLAN};
use towpath_tests::frontend::is_advertisement;
use towpath_tests::hostile::stage::{Counts, LIMIT, Must as Oracle, PASS, Setting, Stage, difference, soon};
use towpath_tests::inject::{Injector, Packet};
use towpath_tests::manifests::Port;
use towpath_tests::scratch::Scratch;

use crate::catalogue::{self, Must, Parties, Row};
use crate::claims;
use crate::frames::{Station, UDP, ethernet, ipv4, tagged, tcp, udp};
use crate::packets::{CUT, gateway, network};

const VNI: u32 = 100;
/// What the neighbour's kernel says of its own accord; nothing of ours ends for it.
const NOISE: &str = "underlay_not_ours";

/// The other host: what it may send, and hears.
struct Elsewhere {
    injector: Injector,
    /// Where tunnel packets to it arrive.
    socket: UdpSocket,
    /// Of the daemon, and its own.
    addresses: [IpAddr; 2],
    parties: Parties,
}

/// A daemon with an uplink, and the other host.
struct Scene {
    stage: Stage,
    elsewhere: Elsewhere,
    _underlay: Underlay,
    _scratch: Scratch,
}

impl Scene {
    fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let underlay = Underlay::new(&scratch, &["node-a", "node-b"], 1500)?;
        let remote = Port { host: "node-b".to_owned(), ..Port::number(100, scratch.path()) };
        let mut network = network();
        network.extend([0, 1].map(|number| underlay.host_resource(number, false)));
        let config = json!({
            "workers": {"cores": [0], "idle": "adaptive"},
            "uplink": {"kernel": {"ifname": UPLINK}},
        });
        let setting = Setting {
            config,
            network,
            elsewhere: vec![remote.clone()],
            namespace: Some(underlay.member(0).clone()),
            groups: Vec::new(),
        };
        let stage = Stage::start_in(&setting)?;
        let (injector, socket) = {
            let member = underlay.member(1);
            let address = underlay.address(1, false);
            let socket = member.enter(|| Ok(UdpSocket::bind((address, VXLAN))?))?;
            socket.set_nonblocking(true)?;
            (Injector::new(member)?, socket)
        };
        let parties = Parties {
            me: Station::of(&remote)?,
            peer: Station::of(&stage.peer_port())?,
            gateway: gateway([2, 0, 0, 0, 0, 1]),
        };
        let addresses = [underlay.address(0, false), underlay.address(1, false)];
        let elsewhere = Elsewhere { injector, socket, addresses, parties };
        Ok(Self { stage, elsewhere, _underlay: underlay, _scratch: scratch })
    }

    fn case(&mut self, name: &str, harm: impl FnOnce(&Elsewhere, &mut Stage) -> Result<()>) {
        let elsewhere = &self.elsewhere;
        self.stage.try_case(name, PASS, |stage, _| {
            harm(elsewhere, stage)?;
            elsewhere.finish(stage)
        });
    }

    fn rows(&mut self, rows: fn(&Parties) -> Vec<Row>, name: &str) {
        self.case(name, |elsewhere, stage| {
            for row in rows(&elsewhere.parties).iter().filter(|row| !matches!(row.inside, Must::Skip)) {
                elsewhere.judge(stage, &row.frame, row.inside).with_context(|| row.name)?;
            }
            Ok(())
        });
    }
}

/// Reasons with which packets of the uplink were dropped, but for the kernel's own.
fn counts(stage: &mut Stage) -> Result<Counts> {
    let text = stage.daemon().metrics()?;
    let mut counts = Counts::new();
    for line in text.lines().filter(|line| line.starts_with("towpath_uplink_drops_total{")) {
        let reason = line.split("reason=\"").nth(1).and_then(|rest| rest.split('"').next());
        let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        let (reason, value) =
            reason.zip(value).with_context(|| format!("a reason and a value in {line:?}"))?;
        if reason != NOISE {
            *counts.entry(reason.to_owned()).or_default() += value as u64;
        }
    }
    Ok(counts)
}

/// The next frame that comes out of the tunnel at the other host, if there is one; but not what says where a port of the daemon is now.
fn receive(socket: &UdpSocket) -> Result<Option<Vec<u8>>> {
    let mut datagram = [0; 2048];
    loop {
        match socket.recv(&mut datagram) {
            Ok(length) => {
                let frame = datagram.get(8..length).context("a VXLAN header")?;
                if !is_announcement(frame) {
                    return Ok(Some(frame.to_vec()));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e).context("receive from the tunnel"),
        }
    }
}

/// Gratuitous ARP, RARP, and neighbour advertisements to all.
fn is_announcement(frame: &[u8]) -> bool {
    let to_all = frame.first().is_some_and(|first| first & 1 == 1);
    let advertisement = frame.get(20) == Some(&58) && frame.get(54) == Some(&136);
    match frame.get(12..14) {
        Some([8, 6] | [0x80, 0x35]) => to_all,
        Some([0x86, 0xdd]) => to_all && advertisement,
        _ => false,
    }
}

impl Elsewhere {
    fn send(&self, frame: &[u8]) -> Result<()> {
        let [to, from] = self.addresses;
        self.injector.send(&Packet::vxlan(from, to, VNI, frame).bytes())
    }

    fn try_receive(&self) -> Result<Option<Vec<u8>>> {
        receive(&self.socket)
    }

    fn until_counted(&self, stage: &mut Stage, before: &Counts, count: u64, reasons: &[&str]) -> Result<()> {
        let mut moved = Counts::new();
        let enough = soon("the counters", LIMIT, || {
            moved = difference(&counts(stage)?, before);
            Ok((moved.values().sum::<u64>() >= count).then_some(()))
        });
        enough.with_context(|| format!("O6: {count} of {reasons:?}, but {moved:?}"))?;
        let right = moved.keys().all(|name| reasons.contains(&name.as_str()));
        ensure!(right && moved.values().sum::<u64>() == count, "O6: {count} of {reasons:?}, but {moved:?}");
        Ok(())
    }

    fn judge(&self, stage: &mut Stage, frame: &[u8], must: Must) -> Result<()> {
        let before = counts(stage)?;
        self.send(frame)?;
        match must {
            Must::Drop(reason) => return self.until_counted(stage, &before, 1, &[reason]),
            Must::OneOf(reasons) => return self.until_counted(stage, &before, 1, reasons),
            Must::Pass => {
                let got = stage.peer.receive_other(LIMIT)?;
                ensure!(got == frame, "{got:02x?} came instead of {frame:02x?}");
            }
            Must::Answer(right) => {
                let answer = soon("an answer", LIMIT, || self.try_receive())?;
                ensure!(right(&answer) && answer.starts_with(&frame[6..12]), "the answer {answer:02x?}");
            }
            Must::Quiet | Must::Skip => {}
            Must::Cut(_) | Must::Refuse(_) => anyhow::bail!("{must:?} is not for tunnels"),
        }
        let moved = difference(&counts(stage)?, &before);
        ensure!(moved.is_empty(), "O6: {moved:?}");
        Ok(())
    }

    /// Nothing came to the peer or here that should not have: an honest packet behind all is the next that the peer sees.
    fn finish(&self, stage: &mut Stage) -> Result<()> {
        let Parties { me, peer, .. } = self.parties;
        let packet = ipv4(me.v4, peer.v4, UDP, (64, 0), &udp(7, 7, b"an honest one"));
        let honest = ethernet(peer.mac, me.mac, crate::frames::IPV4, &packet);
        self.judge(stage, &honest, Must::Pass).context("an honest packet after all")?;
        while let Some(more) = stage.peer.try_receive()? {
            ensure!(is_advertisement(&more), "{more:02x?} came to the peer");
        }
        let came = self.try_receive()?;
        ensure!(came.is_none(), "{came:02x?} came out of the tunnel");
        Ok(())
    }
}

/// Every kind of datagram, cut at every byte, and whole ones behind tags.
fn cut_everywhere(elsewhere: &Elsewhere, stage: &mut Stage) -> Result<()> {
    let whole = catalogue::whole(&elsewhere.parties);
    let cut: Vec<Vec<u8>> =
        whole.iter().flat_map(|frame| (0..frame.len()).map(|length| frame[..length].to_vec())).collect();
    for frames in cut.chunks(64) {
        let before = counts(stage)?;
        frames.iter().try_for_each(|frame| elsewhere.send(frame))?;
        elsewhere.until_counted(stage, &before, frames.len() as u64, &CUT)?;
    }
    for frame in &whole {
        let deep = tagged(frame, &[(0x8100, 0), (0x88a8, 0), (0x9100, 0)]);
        elsewhere.judge(stage, &deep, Must::Drop("vlan_depth")).context("P-08 three tags")?;
        let one = tagged(frame, &[(0x8100, 5)]);
        elsewhere.judge(stage, &one, Must::OneOf(&["vlan_tagged", "vlan_depth"])).context("P-08 a tag")?;
    }
    Ok(())
}

/// P-06, P-34: a guest here asks for what cannot be, or sends what does not fit, on the way into the tunnel.
fn outwards(scene: &mut Scene) {
    let Elsewhere { parties, socket, .. } = &scene.elsewhere;
    let there = parties.me;
    scene.stage.case("P-06, P-34", crate::packets::options(), Oracle::Survive, |attack| {
        let me = Station::of(&attack.port)?;
        let packet = ipv4(me.v4, there.v4, 6, (64, 0x4000), &tcp(0x18, &[], &[0x5a; 100]));
        let frame = ethernet(there.mac, me.mac, crate::frames::IPV4, &packet);
        let mut hostile = crate::packets::Hostile::new(attack)?;
        // Segments of nothing, a checksum past the end, a cut without a checksum.
        for lie in [
            [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0],
            [1, 0, 0, 0, 0, 0, 0xff, 0xff, 16, 0, 0, 0],
            [0, 1, 54, 0, 50, 0, 0, 0, 0, 0, 0, 0],
        ] {
            hostile.judge(&lie, &frame, Must::Drop("bad_offload"))?;
        }
        let long = ipv4(me.v4, there.v4, UDP, (64, 0x4000), &udp(7, 7, &[0x5a; 1452]));
        let long = ethernet(there.mac, me.mac, crate::frames::IPV4, &long);
        hostile
            .judge(&[0; 12], &long, Must::Answer(catalogue::is_too_big))
            .context("P-34 longer than the VPC's MTU")?;
        // What is right goes, and all that comes there is right.
        hostile.send(&[1, 1, 54, 0, 50, 0, 34, 0, 16, 0, 0, 0], &frame)?;
        let mut pieces = 0;
        soon("two segments out of the tunnel", LIMIT, || {
            while let Some(inner) = receive(socket)? {
                ensure!(inner.starts_with(&there.mac) && inner.len() == 14 + 20 + 20 + 50, "{inner:02x?}");
                pieces += 1;
            }
            Ok((pieces == 2).then_some(()))
        })?;
        hostile.finish()
    });
}

#[test]
#[ignore = "needs root and the binaries built: run by `make test`"]
fn p_06_to_p_40_o_03_to_o_10_and_t_18_to_t_25_inside_vxlan() -> Result<()> {
    let mut scene = Scene::start()?;
    scene.rows(catalogue::links, "P-07, P-08, P-20, P-40, T-19, T-23, T-24");
    scene.rows(catalogue::lengths, "P-10 to P-13, P-17, P-21, P-36, P-38");
    scene.rows(catalogue::extensions, "P-14");
    scene.rows(claims::neighbours, "P-15, P-16, T-20, T-21, T-25");
    scene.rows(claims::addresses, "P-18, O-03, O-05, O-08, T-18, T-20");
    scene.rows(catalogue::fragments, "P-30 to P-32");
    scene.rows(catalogue::states, "P-35, P-37, O-10");
    scene.rows(claims::rogues, "T-22, T-23");
    scene.case("P-07 to P-16 cut at every byte", cut_everywhere);
    outwards(&mut scene);
    scene.stage.finish(10)
}
