//! P, O and T: packets that a hostile guest sends by its port. The packets are in `catalogue`; each is judged alone, by what it delivers, what is
//! answered, and the one counter that moves.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use towpath_tests::Result;
use towpath_tests::frontend::is_advertisement;
use towpath_tests::hostile::guest::{BUFFERS, HEADER, Options, RX, SCRATCH, SIZE, THIRD, TX};
use towpath_tests::hostile::ring::Desc;
use towpath_tests::hostile::stage::{
    Attack, Counts, LIMIT, Must as Oracle, Setting, Stage, difference, soon,
};
use towpath_tests::manifests::{CIDRS, resource};

use crate::catalogue::{self, Must, Parties, Row};
use crate::claims;
use crate::frames::{ARP, BROADCAST, IPV4, Station, UDP, arp, ethernet, ipv4, tagged, udp, with};

/// `VIRTIO_NET_F_CSUM`, `_HOST_TSO4` and `_HOST_TSO6` (virtio 1.2 section 5.1.3).
const CSUM: u64 = 1;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
/// Reasons of the parser that a frame cut anywhere may end for.
pub(crate) const CUT: [&str; 11] = [
    "runt",
    "llc",
    "vlan_truncated",
    "vlan_depth",
    "arp_truncated",
    "ipv4_truncated",
    "ipv4_total_length",
    "ipv6_truncated",
    "ipv6_payload_length",
    "l4_truncated",
    "bad_tunnel",
];
/// Buffers that the guest receives by.
const RECEIVING: u64 = 32;
/// Bytes of each, and of each place that it sends from.
const BUFFER: u64 = 2048;

/// The subnet with its services, and its VPC.
pub(crate) fn network() -> Vec<Value> {
    let dhcp = json!({"enabled": true, "dns": ["10.0.1.2"], "domain": "blue.internal"});
    vec![
        resource("Vpc", "blue", &json!({"vni": 100, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]})),
        resource("Subnet", "web", &json!({"vpc": "blue", "cidrs": CIDRS, "dhcp": dhcp})),
    ]
}

/// What it negotiates: it may ask for checksums and cuts.
pub(crate) fn options() -> Options {
    Options::SPLIT.with(CSUM | HOST_TSO4 | HOST_TSO6)
}

/// The gateway as everybody in the subnet sees it, but for its MAC address.
pub(crate) fn gateway(mac: [u8; 6]) -> Station {
    Station { mac, v4: [10, 0, 1, 1].into(), v6: [0xfd00, 0x10, 0, 1, 0, 0, 0, 1].into() }
}

/// A guest that sends what it likes, and what became of it so far.
pub(crate) struct Hostile<'a, 's> {
    attack: &'a mut Attack<'s>,
    parties: Parties,
    /// Counters at the end of the packet before.
    seen: Counts,
    refused: Counts,
    /// Where each receive buffer is, by the id that comes back.
    buffers: HashMap<u16, u64>,
}

impl<'a, 's> Hostile<'a, 's> {
    pub(crate) fn new(attack: &'a mut Attack<'s>) -> Result<Self> {
        let me = Station::of(&attack.port)?;
        let peer = Station::of(&attack.stage.peer_port())?;
        let parties = Parties { me, peer, gateway: gateway([0; 6]) };
        let buffers = HashMap::new();
        let mut hostile = Self { attack, parties, seen: Counts::new(), refused: Counts::new(), buffers };
        for index in 0..RECEIVING {
            hostile.offer(BUFFERS + BUFFER * index)?;
        }
        hostile.attack.guest.kick(RX);
        let question = arp(1, (me.mac, me.v4), ([0; 6], hostile.parties.gateway.v4));
        hostile.send(&[0; 12], &ethernet(BROADCAST, me.mac, ARP, &question))?;
        let answer = hostile.answer()?;
        let mac = answer.get(22..28).and_then(|mac| mac.try_into().ok());
        hostile.parties.gateway = gateway(mac.context("the gateway's ARP reply")?);
        // The gateway may have advertised itself before there were buffers: what that counted is not ours.
        hostile.seen = hostile.attack.stage.counts(&hostile.attack.port)?;
        hostile.refused = hostile.attack.stage.refusals()?;
        Ok(hostile)
    }

    fn offer(&mut self, at: u64) -> Result<()> {
        let id = self.attack.guest.rx().chain(&[Desc::writable(at, BUFFER as u32)])?;
        self.buffers.insert(id, at);
        Ok(())
    }

    /// What came to the guest, but for router advertisements that nobody asked for.
    fn try_receive(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut came = Vec::new();
        for (id, length) in self.attack.guest.rx().used()? {
            let at = self.buffers.remove(&id).context("a buffer that was not out")?;
            let packet =
                self.attack.guest.read(at + u64::from(HEADER), length.saturating_sub(HEADER) as usize)?;
            self.offer(at)?;
            self.attack.guest.kick(RX);
            if !is_advertisement(&packet) {
                came.push(packet);
            }
        }
        Ok(came)
    }

    fn answer(&mut self) -> Result<Vec<u8>> {
        soon("an answer", LIMIT, || Ok(self.try_receive()?.pop()))
    }

    /// One frame behind this header, and waits until the switch has looked at it.
    pub(crate) fn send(&mut self, header: &[u8; 12], frame: &[u8]) -> Result<()> {
        let guest = &mut self.attack.guest;
        // What is long ends in a page that another descriptor shows again and again: its content is of no importance.
        let (head, rest) = frame.split_at(frame.len().min(2000));
        guest.write(SCRATCH, &[header, head].concat())?;
        let mut chain = vec![Desc::new(SCRATCH, HEADER + head.len() as u32)];
        chain.extend((!rest.is_empty()).then(|| Desc::new(THIRD, rest.len() as u32)));
        guest.tx().chain(&chain)?;
        guest.kick(TX);
        self.attack.until_used(TX, 1).map(drop)
    }

    /// Up to a ring of frames at once.
    fn burst(&mut self, frames: &[Vec<u8>]) -> Result<()> {
        for (frame, at) in frames.iter().zip((SCRATCH..).step_by(BUFFER as usize)) {
            self.attack.guest.write(at, &[&[0; 12][..], frame].concat())?;
            self.attack.guest.tx().chain(&[Desc::new(at, HEADER + frame.len() as u32)])?;
        }
        self.attack.guest.kick(TX);
        self.attack.until_used(TX, frames.len()).map(drop)
    }

    /// What the port counted since the packet before.
    fn moved(&self) -> Result<Counts> {
        Ok(difference(&self.attack.stage.counts(&self.attack.port)?, &self.seen))
    }

    /// Wait until so many are counted; all of these reasons.
    fn until_counted(&mut self, count: u64, reasons: &[&str]) -> Result<()> {
        let mut moved = Counts::new();
        let enough = soon("the counters", LIMIT, || {
            moved = self.moved()?;
            Ok((moved.values().sum::<u64>() >= count).then_some(()))
        });
        enough.with_context(|| format!("O6: {count} of {reasons:?}, but {moved:?}"))?;
        let right = moved.keys().all(|name| reasons.contains(&name.as_str()));
        ensure!(right && moved.values().sum::<u64>() == count, "O6: {count} of {reasons:?}, but {moved:?}");
        self.seen = self.attack.stage.counts(&self.attack.port)?;
        Ok(())
    }

    fn until_refused(&mut self, why: &str) -> Result<()> {
        let mut moved = Counts::new();
        let enough = soon("a refusal", LIMIT, || {
            moved = difference(&self.attack.stage.refusals()?, &self.refused);
            Ok((!moved.is_empty()).then_some(()))
        });
        enough.with_context(|| format!("O6: a refusal {why}; the port counted {:?}", self.moved()))?;
        ensure!(moved == Counts::from([(why.to_owned(), 1)]), "O6: a refusal {why}, but {moved:?}");
        self.refused = self.attack.stage.refusals()?;
        Ok(())
    }

    pub(crate) fn judge(&mut self, asks: &[u8; 12], frame: &[u8], must: Must) -> Result<()> {
        self.send(asks, frame)?;
        match must {
            Must::Drop(reason) => self.until_counted(1, &[reason]),
            Must::OneOf(reasons) => self.until_counted(1, reasons),
            Must::Refuse(why) => self.until_refused(why),
            Must::Pass => {
                let got = self.attack.stage.peer.receive_other(LIMIT)?;
                ensure!(got == frame, "{got:02x?} came instead of {frame:02x?}");
                Ok(())
            }
            Must::Cut(count) => {
                for number in 0..count {
                    let got = self
                        .attack
                        .stage
                        .peer
                        .receive_other(LIMIT)
                        .with_context(|| format!("piece {number}"))?;
                    ensure!(
                        got[..12] == frame[..12] && got.len() < frame.len(),
                        "piece {number}: {got:02x?}"
                    );
                }
                Ok(())
            }
            Must::Answer(right) => {
                let answer = self.answer().with_context(|| format!("O6: {:?}", self.moved()))?;
                ensure!(
                    right(&answer) && (answer[0] & 1 == 1 || answer.starts_with(&frame[6..12])),
                    "the answer {answer:02x?}"
                );
                Ok(())
            }
            Must::Quiet | Must::Skip => Ok(()),
        }
    }

    /// Nothing came to anybody that should not have, and nothing else was counted: a right packet behind all is the next that the peer sees.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.attack.guest.send()?;
        self.attack.until_used(TX, 1)?;
        let got = self.attack.stage.peer.receive_other(LIMIT).context("a right packet after the attack")?;
        ensure!(got == self.attack.guest.packet, "{got:02x?} came to the peer");
        while let Some(more) = self.attack.stage.peer.try_receive()? {
            ensure!(is_advertisement(&more), "{more:02x?} came to the peer");
        }
        let came = self.try_receive()?;
        ensure!(came.is_empty(), "{came:02x?} came to the guest");
        let moved = self.moved()?;
        ensure!(moved.is_empty(), "O6: {moved:?} in the end");
        Ok(())
    }
}

/// All rows, each once; where it is dropped, also in a priority tag, which changes nothing, and behind three tags, which are too many.
fn send_all(hostile: &mut Hostile<'_, '_>, rows: &[Row]) -> Result<()> {
    let mut deep = Vec::new();
    for row in rows.iter().filter(|row| !matches!(row.plain, Must::Skip)) {
        hostile.judge(&row.asks, &row.frame, row.plain).with_context(|| row.name)?;
        let whole = row.frame.len() > 14 && row.asks == [0; 12] && row.frame[12..14] != [0x81, 0];
        if let (Must::Drop(reason), true) = (row.plain, whole && !reason_of_links(row.plain)) {
            let frame = tagged(&row.frame, &[(0x8100, 0)]);
            hostile.send(&[0; 12], &frame)?;
            hostile
                .until_counted(1, &[reason, "header_too_long", "bad_neighbour"])
                .with_context(|| format!("{}, in VLAN 0", row.name))?;
            deep.push(tagged(&row.frame, &[(0x8100, 0), (0x88a8, 0), (0x9100, 0)]));
        }
    }
    for frames in deep.chunks(usize::from(SIZE) / 2) {
        hostile.burst(frames)?;
        hostile
            .until_counted(frames.len() as u64, &["vlan_depth"])
            .context("P-08 the same behind three tags")?;
    }
    hostile.finish()
}

/// Reasons that tags change.
fn reason_of_links(must: Must) -> bool {
    matches!(must, Must::Drop("vlan_truncated" | "vlan_tagged" | "vlan_depth"))
}

pub(crate) fn case(stage: &mut Stage, name: &str, rows: impl FnOnce(&Parties) -> Vec<Row>) {
    stage.case(name, options(), Oracle::Survive, |attack| {
        let mut hostile = Hostile::new(attack)?;
        let rows = rows(&hostile.parties);
        ensure!(rows.len() > 5, "{} packets", rows.len());
        send_all(&mut hostile, &rows)
    });
}

/// Every kind of datagram, cut at every byte.
fn cut_everywhere(hostile: &mut Hostile<'_, '_>) -> Result<()> {
    let whole = catalogue::whole(&hostile.parties);
    let cut: Vec<Vec<u8>> =
        whole.iter().flat_map(|frame| (1..frame.len()).map(|length| frame[..length].to_vec())).collect();
    ensure!(cut.len() > 700, "{} frames", cut.len());
    for frames in cut.chunks(usize::from(SIZE) - 4) {
        hostile.burst(frames)?;
        hostile.until_counted(frames.len() as u64, &CUT).with_context(|| format!("{frames:02x?}"))?;
    }
    hostile.finish()
}

/// P-19, S-05: the gateway tells who asks too much within a budget, and no more.
fn late(hostile: &mut Hostile<'_, '_>) -> Result<()> {
    const BUDGET: usize = 200;
    const RATE: f64 = 100.0;
    let Parties { me, peer, gateway } = hostile.parties;
    let packet = ipv4(me.v4, peer.v4, UDP, (1, 0), &udp(7, 7, b"late"));
    let frames = vec![ethernet(gateway.mac, me.mac, IPV4, &packet); RECEIVING as usize - 4];
    let (begin, mut answers, mut sent) = (Instant::now(), 0, 0);
    while sent < 3 * BUDGET {
        hostile.burst(&frames)?;
        sent += frames.len();
        let mut dropped = 0;
        let before = answers;
        soon("every packet to be answered or counted", LIMIT, || {
            answers += hostile.try_receive()?.len();
            dropped = hostile.moved()?.get("hop_limit").copied().unwrap_or_default() as usize;
            Ok((answers - before + dropped >= frames.len()).then_some(()))
        })?;
        hostile.until_counted(dropped as u64, &["hop_limit"])?;
    }
    let most = BUDGET + (begin.elapsed().as_secs_f64() * RATE) as usize + 1;
    ensure!(answers > 0 && answers <= most, "{answers} answers to {sent} packets, {most} at most");
    hostile.finish()
}

/// O-09: a thousand MAC addresses from one port. The MAC table is told, not taught: nobody is moved, and nothing is kept.
fn flapping(hostile: &mut Hostile<'_, '_>) -> Result<()> {
    let Parties { me, peer, .. } = hostile.parties;
    let packet = ipv4(me.v4, peer.v4, UDP, (64, 0), &udp(7, 7, b"who am I?"));
    for high in 0..20 {
        let frames: Vec<_> = (0..50)
            .map(|low| with(ethernet(peer.mac, me.mac, IPV4, &packet), 6, &[2, 9, 9, 9, high, low]))
            .collect();
        hostile.burst(&frames)?;
        hostile.until_counted(frames.len() as u64, &["spoofed_mac"])?;
    }
    hostile.finish()
}

/// P-33: first fragments of datagrams whose rest never comes. The switch keeps none of them: its memory stays as it is, and all pass.
fn unfinished(hostile: &mut Hostile<'_, '_>) -> Result<()> {
    const EACH: u16 = 48;
    let Parties { me, peer, .. } = hostile.parties;
    let packet = ipv4(me.v4, peer.v4, UDP, (64, 0x2000), &udp(7, 7, &[0x5a; 16]));
    let frame = ethernet(peer.mac, me.mac, IPV4, &packet);
    let mut before = None;
    for round in 0..40_u16 {
        let frames: Vec<_> =
            (0..EACH).map(|number| with(frame.clone(), 18, &(round * EACH + number).to_be_bytes())).collect();
        hostile.burst(&frames)?;
        for frame in &frames {
            let got = hostile.attack.stage.peer.receive_other(LIMIT)?;
            ensure!(got == *frame, "{got:02x?} came instead of {frame:02x?}");
        }
        // The first round may touch what no packet has touched before.
        let now = hostile.attack.stage.memory()?;
        let first = *before.get_or_insert(now);
        ensure!(now <= first + (1 << 20), "O5: {first} bytes, then {now}");
    }
    hostile.finish()
}

fn special(stage: &mut Stage, name: &str, harm: fn(&mut Hostile<'_, '_>) -> Result<()>) {
    stage.case(name, options(), Oracle::Survive, |attack| harm(&mut Hostile::new(attack)?));
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn p_01_to_p_42_o_05_to_o_10_and_t_07_to_t_25_on_a_port() -> Result<()> {
    let mut stage = Stage::start_in(&Setting { network: network(), ..Setting::default() })?;
    let s = &mut stage;
    case(s, "P-01 to P-05", catalogue::offloads);
    case(s, "P-07, P-08, P-20, P-40, T-19, T-23, T-24", catalogue::links);
    case(s, "P-10 to P-13, P-17, P-21, P-36, P-38", catalogue::lengths);
    case(s, "P-14", catalogue::extensions);
    case(s, "P-15, P-16, T-20, T-21, T-25", claims::neighbours);
    case(s, "P-18, O-05, O-09, T-18, T-20", claims::addresses);
    case(s, "P-19, O-05, O-06, O-08, T-07", claims::destinations);
    case(s, "P-30 to P-32", catalogue::fragments);
    case(s, "P-35, P-37, O-10", catalogue::states);
    case(s, "P-42, T-07, T-22", claims::services);
    case(s, "T-22, T-23", claims::rogues);
    special(s, "P-07 to P-16 cut at every byte", cut_everywhere);
    special(s, "P-19", late);
    special(s, "O-09", flapping);
    special(s, "P-33", unfinished);
    stage.finish(15)
}
