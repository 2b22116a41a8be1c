//! Random traffic: flows of hosts that mostly do what they should, under rules that let some of them in.

use crate::difference::{Difference, More};
use crate::hosts::HOSTS;
use crate::packets::{ACK, ESP, FIN, GRE, Ip, PSH, Pair, RST, SYN, Segment, echo, sctp, udp, unreachable};
use crate::random::Random;
use crate::rules::PORTS;

/// What of a packet may be judged differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tag {
    Datagram,
    Echo,
    Error,
    Other,
    Fragments,
    /// A segment as its sender would send it.
    Segment,
    /// The same with another sequence number, acknowledgment number, or flags.
    Moved,
    Acknowledging,
    Flagged,
    /// A reset anywhere.
    Reset,
    /// A SYN where a connection is.
    Opening,
}

/// Packets of one host at once, and the flow they are of.
pub(crate) struct Sent {
    pub(crate) flow: usize,
    pub(crate) from: usize,
    pub(crate) packets: Vec<Vec<u8>>,
    pub(crate) tag: Tag,
    segment: Option<(bool, Segment)>,
    /// Of a segment: the number that was its sender's next, and whether the client had acknowledged anything.
    next: u32,
    acknowledged: bool,
}

/// What one side of a connection did.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    opened: bool,
    closed: bool,
    /// The number after the last it sent, and after the last that the other end got of it.
    next: u32,
    heard: u32,
}

#[derive(Clone, Debug)]
enum Kind {
    Tcp { ends: [End; 2], sent: Vec<(bool, Segment)> },
    Udp,
    Echo,
    Other(u8),
}

#[derive(Clone, Debug)]
struct Flow {
    pair: Pair,
    ports: [u16; 2],
    kind: Kind,
    /// Packets that arrived.
    seen: Vec<Vec<u8>>,
    over: bool,
    /// What was sent, in words.
    log: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Traffic {
    flows: Vec<Flow>,
    sent: u16,
}

impl Traffic {
    /// The next packets.
    pub(crate) fn next(&mut self, random: &mut Random) -> Sent {
        let live: Vec<usize> = (0..self.flows.len()).filter(|at| !self.flows[*at].over).collect();
        if live.is_empty() || random.one_in(4) {
            self.flows.push(flow(random));
            return self.of(self.flows.len() - 1, random);
        }
        // Mostly those that came late.
        let recent = live.len().min(12);
        let flow = live[live.len() - 1 - random.below(recent)];
        self.of(flow, random)
    }

    fn of(&mut self, at: usize, random: &mut Random) -> Sent {
        self.sent += 1;
        let number = self.sent;
        let flow = &self.flows[at];
        let back = random.one_in(2) && !flow.seen.is_empty();
        let pair = if back { flow.pair.back() } else { flow.pair };
        let ports = if back { [flow.ports[1], flow.ports[0]] } else { flow.ports };
        let sent = |packet: &Ip, tag| Sent {
            flow: at,
            from: packet.pair.from,
            packets: vec![packet.bytes()],
            tag,
            segment: None,
            next: 0,
            acknowledged: false,
        };
        if !flow.seen.is_empty() && random.one_in(12) {
            let about = random.of(&flow.seen);
            // To who sent it, by who got it: by the addresses of the packet.
            let towards = if about[..] == flow.seen[0][..] { flow.pair.back() } else { pair };
            return sent(&unreachable(towards, &about), Tag::Error);
        }
        match &flow.kind {
            Kind::Udp if random.one_in(6) => {
                let whole = udp(pair, ports, &[9; 64]);
                let packets = whole.fragments(1000 + number, &[(0, 40), (40, 32)]);
                Sent { packets, ..sent(&whole, Tag::Fragments) }
            }
            Kind::Udp => sent(&udp(pair, ports, b"datagram"), Tag::Datagram),
            Kind::Echo => {
                let reply = if random.one_in(8) { !back } else { back };
                sent(&echo(pair, reply, ports[0].max(ports[1]), number), Tag::Echo)
            }
            Kind::Other(0) => sent(&sctp(pair, ports, 0, 1), Tag::Other),
            Kind::Other(protocol) => sent(&Ip::new(pair, *protocol, vec![0; 32]), Tag::Other),
            Kind::Tcp { ends, sent: before } => {
                let (segment, tag) = segment(random, ports, usize::from(back), ends, before);
                let next = ends[usize::from(back)].next;
                let acknowledged = before.iter().any(|(back, segment)| !back && segment.flags & ACK != 0);
                let packet = segment.packet(pair);
                Sent { segment: Some((back, segment)), next, acknowledged, ..sent(&packet, tag) }
            }
        }
    }

    /// What came of it: whether it arrived, and whether the two agreed.
    pub(crate) fn learn(&mut self, sent: &Sent, arrived: bool, agreed: bool) {
        let flow = &mut self.flows[sent.flow];
        let said = match &sent.segment {
            Some((back, segment)) => format!(
                "{} {:?} flags {:02x} sequence {} acknowledges {} data {}",
                if *back { "back" } else { "there" },
                sent.tag,
                segment.flags,
                segment.sequence,
                segment.acknowledgment,
                segment.data
            ),
            None => format!("from {} {:?}", sent.from, sent.tag),
        };
        flow.log.push(format!("{said}: {}", if arrived { "arrived" } else { "did not arrive" }));
        // Who is refused tries elsewhere.
        let odd =
            matches!(sent.tag, Tag::Moved | Tag::Acknowledging | Tag::Flagged | Tag::Reset | Tag::Opening);
        // After what is out of order the two may rightly remember different things: the scripts follow that up.
        flow.over |= odd || !agreed || flow.seen.is_empty() && !arrived;
        if sent.tag == Tag::Error || sent.tag == Tag::Fragments {
            return;
        }
        if arrived && flow.seen.len() < 8 {
            flow.seen.push(sent.packets[0].clone());
        }
        if let (Kind::Tcp { ends, sent: before }, Some((back, segment))) = (&mut flow.kind, &sent.segment) {
            if odd {
                return;
            }
            let syn = u32::from(segment.flags & SYN != 0);
            let fin = u32::from(segment.flags & FIN != 0);
            let end = segment.sequence.wrapping_add(segment.data as u32).wrapping_add(syn + fin);
            let own = &mut ends[usize::from(*back)];
            own.opened |= syn == 1;
            own.closed |= fin == 1;
            if (end.wrapping_sub(own.next) as i32) > 0 || syn == 1 && before.is_empty() {
                own.next = end;
            }
            if arrived {
                own.heard = own.next;
                before.push((*back, segment.clone()));
            }
        }
    }

    /// All that was sent in the flow of these packets, and whether it arrived by Linux.
    pub(crate) fn history(&self, sent: &Sent) -> String {
        let flow = &self.flows[sent.flow];
        format!("{:?} ports {:?}\n    {}", flow.pair, flow.ports, flow.log.join("\n    "))
    }
}

fn flow(random: &mut Random) -> Flow {
    let half = HOSTS / 2;
    let (one, other) = (random.below(half), half + random.below(half));
    let (from, to) = if random.one_in(2) { (one, other) } else { (other, one) };
    let pair = Pair { from, to, ipv6: random.one_in(3) };
    let source = if random.one_in(10) { random.of(&PORTS) } else { 30_000 + random.below(3000) as u16 };
    let kind = match random.below(12) {
        0..=5 => {
            let ends = [0, 1].map(|_| {
                let start = random.of(&[1000, u32::MAX - 300, 0x7fff_ff00, 77]);
                End { next: start, heard: start, ..End::default() }
            });
            Kind::Tcp { ends, sent: vec![] }
        }
        6..=8 => Kind::Udp,
        9 | 10 => Kind::Echo,
        _ => Kind::Other(random.of(&[GRE, ESP, 0, 253])),
    };
    Flow { pair, ports: [source, random.of(&PORTS)], kind, seen: vec![], over: false, log: vec![] }
}

/// The next segment of one end, or one that is not.
fn segment(
    random: &mut Random,
    ports: [u16; 2],
    back: usize,
    ends: &[End; 2],
    before: &[(bool, Segment)],
) -> (Segment, Tag) {
    let (own, other) = (ends[back], ends[1 - back]);
    let mine: Vec<&Segment> =
        before.iter().filter(|(of, _)| usize::from(*of) == back).map(|(_, s)| s).collect();
    if !mine.is_empty() && random.one_in(8) {
        let again = mine[random.below(mine.len())].clone();
        return (Segment { acknowledgment: other.heard, ..again }, Tag::Segment);
    }
    let answers = back == 1 || other.opened;
    let mut segment = Segment {
        ports,
        flags: if answers { ACK } else { 0 },
        sequence: own.next,
        acknowledgment: if answers { other.heard } else { 0 },
        window: 2000,
        options: vec![],
        data: 0,
    };
    if !own.opened || !answers {
        segment.flags |= SYN;
        segment.sequence = if own.opened { own.next.wrapping_sub(1) } else { own.next };
        // Somebody who was in a connection before we looked.
        if back == 0 && !own.opened && random.one_in(8) {
            (segment.flags, segment.data, segment.acknowledgment) = (ACK, 10, 5000);
            return (segment, Tag::Opening);
        }
    } else if !own.closed {
        segment.data = random.of(&[0, 0, 1, 100, 500]);
        segment.flags |= random.of(&[0, PSH]);
        if random.one_in(6) {
            segment.flags |= FIN;
        }
    }
    if !random.one_in(6) {
        return (segment, Tag::Segment);
    }
    let delta = random.of(&[
        1u32,
        u32::MAX,
        1000,
        1_000u32.wrapping_neg(),
        1999,
        2000,
        2001,
        3000,
        5000,
        70_000,
        70_000u32.wrapping_neg(),
        1 << 31,
    ]);
    match random.below(8) {
        0 | 1 => {
            segment.sequence = segment.sequence.wrapping_add(delta);
            (segment, Tag::Moved)
        }
        2 | 3 => {
            segment.acknowledgment = segment.acknowledgment.wrapping_add(delta);
            (segment, Tag::Acknowledging)
        }
        4 => {
            segment.flags = random.below(64) as u8;
            (segment, Tag::Flagged)
        }
        5 | 6 => {
            segment.flags = random.of(&[RST, RST | ACK]);
            segment.data = 0;
            segment.sequence = random.of(&[own.next, own.heard, 0, own.next.wrapping_add(delta)]);
            (segment, Tag::Reset)
        }
        _ => {
            segment.flags = random.of(&[SYN, SYN | ACK]);
            segment.data = 0;
            segment.sequence = segment.sequence.wrapping_add(delta);
            (segment, Tag::Opening)
        }
    }
}

/// The name of a difference in random traffic, by what the packet was and who lets more pass.
pub(crate) fn explain(sent: &Sent, more: More) -> Option<Difference> {
    let (back, segment) = sent.segment.as_ref()?;
    let ahead = segment.sequence.wrapping_sub(sent.next) as i32 > 0;
    match (sent.tag, more) {
        (Tag::Reset, More::Linux) if ahead => Some(Difference::ResetBeyond),
        (Tag::Reset, More::Ours) if !back && !sent.acknowledged => Some(Difference::ResetOfOwn),
        (_, More::Ours) if *back && !sent.acknowledged => Some(Difference::Unacknowledged),
        _ => None,
    }
}
