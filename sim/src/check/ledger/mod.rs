//! Every frame that was sent, and whether what arrives is one of them.
//!
//! A frame is known by its bytes. What the device may do to it on its way is done here by hand ([`crate::net::offload`]): the checksum completed,
//! the large send cut.
//!
//! **Order.** The packets of a flow (addresses of both layers, protocol, ports) of one sender are numbered as they are sent; a driver here sends a flow on
//! one queue pair. Three things are compared, and together they are what a guest may expect of a flow, whatever the number of queue pairs:
//!
//! 1. The switch takes the packets of a flow in order ([`Ledger::taken`]) and decides on them in that order ([`Ledger::decided`]).
//! 2. Each arrives on the queue pair that it was decided for: the one on which the receiver last sent in that direction's opposite
//!    ([`super::steering`]), so a flow changes its pair only when the receiver moved it.
//! 3. On each pair packets and segments of a flow arrive in order.
//!
//! Nothing more can be asked across pairs: nobody promises an order between two receive rings, and which of two a guest looks into first is its
//! own choice.
//!
//! Equal frames (retransmissions, a hostile guest's copies) are matched oldest first among those decided for this pair and not behind the last
//! arrival. If any choice keeps the order, this one does.

mod forms;

use super::isolation;
use super::{Checked, Violation};
use crate::guest::nic::Received;
use crate::net::offload::{complete_blindly, segments};
use crate::net::read::{Neighbour, describe, flow, macs, neighbour, transport};
use crate::net::tunnel;
use crate::network::Network;
use crate::trace::hash;
use engine::{DropReason, PuntKind};
use forms::{Forms, Piece, is_partial, is_whole};
use std::collections::HashMap;
use std::net::IpAddr;
use virtio_driver::{Gso, NetHeader};

/// What should become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Goes to that guest's port.
    To(usize),
    /// Is answered by the switch.
    Answer,
    /// Is answered by the switch, unless that may not be or was asked too often: then it ends for this reason.
    AnswerOr(DropReason),
    /// Ends, for this reason.
    Drop(DropReason),
    /// Is given to the control thread, for this reason; or ends because that was asked too often.
    Punt(PuntKind),
    /// Nobody says.
    Any,
}

/// A frame that was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Who sent it.
    pub guest: usize,
    /// Its flow, and the how-manyeth of the flow it is.
    pub flow: u64,
    /// See [`Sent::flow`].
    pub order: u64,
    /// The network's epoch.
    pub epoch: u64,
    /// What should become of it.
    pub expect: Expect,
    /// What its sender asked for.
    pub header: NetHeader,
    /// The frame it is a copy of, which another host sent; nothing if somebody else made it.
    pub origin: Option<usize>,
    /// Its bytes, if it came by the underlay.
    pub wire: Option<Vec<u8>>,
    /// By its headers it should go nowhere.
    pub unlikely: bool,
    /// The switch took it.
    pub seen: bool,
    /// Whom the switch decided to give it to, and on which of their queue pairs if that can be known.
    pub decided: Option<(usize, Option<usize>)>,
    /// What is left of a frame whose sender's memory was taken away under way: nobody knows where it was in its flow.
    torn: bool,
    /// Its sender put the right sum where the device completes the checksum.
    sound: bool,
    /// A guest has it, or a copy or piece of it.
    reached: bool,
    /// It arrived whole.
    arrived: bool,
    /// Which of its segments arrived.
    segments: Vec<bool>,
}

/// What a guest received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Packets: a large send that was cut counts once.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Answers of the switch among them.
    pub answers: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Sent>,
    /// Guests come first, then the uplinks of the hosts, then those that only answer: one for each of the others.
    guests: usize,
    answers: usize,
    forms: Forms,
    /// By guest and flow: packets sent.
    orders: HashMap<(usize, u64), u64>,
    /// By guest and flow: the last order that was taken, and decided.
    taken: HashMap<(usize, u64), (u64, u64)>,
    /// By flow's sender, flow, receiver and its queue pair: the last order and segment that arrived.
    last: HashMap<(usize, u64, usize, usize), (u64, usize)>,
    /// What came through tunnels, by the bytes of the inner frame.
    inner: HashMap<u64, Vec<usize>>,
    /// Broadcasts by their bytes: who sent one, and who got it.
    broadcasts: HashMap<u64, Vec<(usize, Vec<usize>)>>,
    /// Questions to neighbours: guest, address, epoch.
    questions: Vec<(usize, IpAddr, u64)>,
    /// By guest.
    pub arrivals: Vec<Arrivals>,
    /// By guest: it got segments of equal large sends that were not all delivered, so its packets cannot be counted.
    pub uncertain: Vec<bool>,
}

fn lost(what: String) -> Violation {
    Violation::new("ledger", what)
}

impl Ledger {
    /// For so many guests and uplinks.
    #[must_use]
    pub fn new(guests: usize, uplinks: usize) -> Self {
        Self {
            guests,
            answers: guests + uplinks,
            arrivals: vec![Arrivals::default(); guests + uplinks],
            uncertain: vec![false; guests + uplinks],
            ..Self::default()
        }
    }

    /// Notes a frame that the underlay gives to `wire`, the uplink of a host; its number. `origin`: the frame of another host that it is. Of an `odd` one nobody
    /// can say what becomes of it; what it was judged as tells it from its like.
    pub fn came(
        &mut self,
        wire: usize,
        frame: &[u8],
        (judged, odd): (Expect, bool),
        epoch: u64,
        origin: Option<usize>,
    ) -> usize {
        let expect = if odd { Expect::Any } else { judged };
        let inner = tunnel::open(frame).map_or(frame, |(_, at)| &frame[at..]);
        let at = self.sent_in(wire, flow(inner), &NetHeader::default(), frame, expect, epoch);
        let entry = &mut self.entries[at];
        (entry.origin, entry.wire) = (origin, Some(frame.to_vec()));
        entry.unlikely = !matches!(judged, Expect::To(_) | Expect::Any);
        self.inner.entry(hash(inner)).or_default().push(at);
        at
    }

    /// Notes an answer of the switch to `to`.
    pub fn answer(&mut self, to: usize, header: &NetHeader, frame: &[u8], epoch: u64) {
        let at = self.sent_in(self.answers + to, flow(frame), header, frame, Expect::Any, epoch);
        let entry = &mut self.entries[at];
        (entry.seen, entry.decided) = (true, Some((to, None)));
    }

    /// Frame number `entry` has this form from now on: its headers were changed as they had to be.
    pub fn changed(&mut self, entry: usize, header: &NetHeader, frame: &[u8]) {
        self.forms.add(entry, header, frame);
        if self.entries[entry].wire.is_some() {
            self.forms.add_joinable(entry, frame);
        }
    }

    /// Notes a frame that `guest` made available; its number.
    pub fn sent(
        &mut self,
        guest: usize,
        header: &NetHeader,
        frame: &[u8],
        expect: Expect,
        epoch: u64,
    ) -> usize {
        self.sent_in(guest, flow(frame), header, frame, expect, epoch)
    }

    fn sent_in(
        &mut self,
        guest: usize,
        flow: u64,
        header: &NetHeader,
        frame: &[u8],
        expect: Expect,
        epoch: u64,
    ) -> usize {
        let order = self.orders.entry((guest, flow)).or_default();
        *order += 1;
        let entry = self.entries.len();
        let segments = self.forms.add(entry, header, frame);
        if let Some(Neighbour::Asks(address)) = neighbour(frame).filter(|_| guest < self.guests) {
            self.questions.push((guest, address, epoch));
        }
        self.entries.push(Sent {
            guest,
            flow,
            order: *order,
            epoch,
            expect,
            header: *header,
            origin: None,
            wire: None,
            unlikely: false,
            seen: false,
            decided: None,
            torn: false,
            sound: transport(frame).is_some_and(|transport| {
                let at = transport.checksum_at();
                // With padding behind the datagram the sum (to the end of the frame) is wrong whoever completes it.
                frame[at..at + 2] == transport.pseudo().to_be_bytes() && transport.end == frame.len()
            }),
            reached: false,
            arrived: false,
            segments: vec![false; segments],
        });
        entry
    }

    /// Frames noted so far.
    #[expect(clippy::len_without_is_empty, reason = "a position, not a size")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// A frame sent.
    #[must_use]
    pub fn entry(&self, entry: usize) -> &Sent {
        &self.entries[entry]
    }

    /// The frame of which a frame is a copy, and that of a copy of a copy; nothing if nobody's guest sent the first.
    #[must_use]
    pub fn first_of(&self, entry: usize) -> Option<&Sent> {
        let mut first = self.entries.get(entry)?;
        while let Some(origin) = first.origin {
            first = self.entries.get(origin)?;
        }
        Some(first)
    }

    /// Whether the switch wrote this frame as an answer to what `to` asked.
    #[must_use]
    pub fn is_answer(&self, to: usize, frame: &[u8]) -> bool {
        let alike = self.forms.exact(hash(frame)).iter().map(|at| &self.entries[*at]);
        alike.into_iter().any(|entry| entry.guest == self.answers + to && !entry.arrived)
    }

    /// Whether a frame reached anybody, in whatever form.
    #[must_use]
    pub fn has_arrived(&self, entry: usize) -> bool {
        self.entries[entry].reached
    }

    /// The switch took a frame of `guest` with these bytes: its number. Of equal ones the oldest that no later one of its flow has overtaken (a
    /// ring that was reset lost what was in it).
    pub fn taken(&mut self, guest: usize, key: u64) -> Option<usize> {
        let (entries, taken) = (&mut self.entries, &mut self.taken);
        let at = self.forms.exact(key).iter().copied().find(|at| {
            let entry = &entries[*at];
            let last = taken.get(&(guest, entry.flow)).map_or(0, |(last, _)| *last);
            entry.guest == guest && !entry.seen && entry.order > last
        })?;
        let entry = &mut entries[at];
        entry.seen = true;
        taken.entry((guest, entry.flow)).or_default().0 = entry.order;
        Some(at)
    }

    /// The switch took a frame of `guest`, who lies about what it sends: its number.
    pub fn sent_and_taken(&mut self, guest: usize, header: &NetHeader, frame: &[u8], epoch: u64) -> usize {
        let at = self.sent(guest, header, frame, Expect::Any, epoch);
        let entry = &mut self.entries[at];
        entry.seen = true;
        self.taken.entry((guest, entry.flow)).or_default().0 = entry.order;
        at
    }

    /// The switch has a frame of `guest` that is not as it was when it was taken: its number.
    pub fn torn(&mut self, guest: usize, header: &NetHeader, frame: &[u8], epoch: u64) -> usize {
        let at = self.sent(guest, header, frame, Expect::Any, epoch);
        let entry = &mut self.entries[at];
        (entry.seen, entry.torn) = (true, true);
        at
    }

    /// The switch decided to give frame number `entry` to guest `to` on its queue pair `pair`.
    ///
    /// # Errors
    ///
    /// Later ones of its flow were decided before.
    pub fn decided(&mut self, entry: usize, to: usize, pair: Option<usize>) -> Checked {
        let entry = &mut self.entries[entry];
        entry.decided = Some((to, pair));
        if entry.torn {
            return Ok(());
        }
        let last = &mut self.taken.entry((entry.guest, entry.flow)).or_default().1;
        if entry.order <= *last {
            let inner =
                entry.wire.as_deref().map(|frame| tunnel::open(frame).map_or(frame, |(_, at)| &frame[at..]));
            let what = format!(
                "packet {} of a flow of guest {} is decided after {last}, which was sent later ({})",
                entry.order,
                entry.guest,
                inner.map_or_else(String::new, describe)
            );
            return Err(Violation::new("order", what));
        }
        *last = entry.order;
        Ok(())
    }

    /// The control thread was given a frame of `guest`.
    ///
    /// # Errors
    ///
    /// That guest did not send it, or it was not one for the control thread.
    pub fn punted(
        &mut self,
        guest: usize,
        kind: PuntKind,
        (header, bytes): (&NetHeader, &[u8]),
        (epoch, lies): (u64, bool),
    ) -> Checked {
        let (exact, inner) = (self.forms.exact(hash(bytes)), self.inner.get(&hash(bytes)));
        let alike = exact.iter().chain(inner.into_iter().flatten()).copied();
        let fits = |entry: &Sent| {
            entry.epoch != epoch || matches!(entry.expect, Expect::Any) || entry.expect == Expect::Punt(kind)
        };
        let mut alike = alike.filter(|at| {
            let entry = &self.entries[*at];
            entry.guest == guest && entry.seen && fits(entry)
        });
        let at = alike.next_back();
        let torn = at.is_none() && lies;
        // What a liar's memory held when it was copied is another frame than what was taken.
        if let Some(at) = if torn { Some(self.torn(guest, header, bytes, epoch)) } else { at } {
            if matches!(kind, PuntKind::Broadcast | PuntKind::Multicast) {
                let mut whole = bytes.to_vec();
                complete_blindly(header, &mut whole);
                self.broadcasts.entry(hash(&whole)).or_default().push((at, vec![guest]));
            }
            return Ok(());
        }
        Err(lost(format!(
            "the control thread was given a frame of guest {guest} as {kind:?} that it did not send as such"
        )))
    }

    /// Compares what guest `to` got; whether it is a segment of something larger.
    ///
    /// # Errors
    ///
    /// Nobody sent it, or not to that guest, or it came before.
    pub fn arrived(&mut self, to: usize, received: &Received, network: &Network) -> Result<bool, Violation> {
        let arrivals = &mut self.arrivals[to];
        arrivals.bytes += received.bytes.len() as u64;
        if let Some(Neighbour::Says(address, mac)) = neighbour(&received.bytes) {
            arrivals.packets += 1;
            arrivals.answers += 1;
            return self.answered(to, received, address, mac, network).map(|()| false);
        }
        let candidates = self.candidates(to, received);
        if candidates.is_empty() {
            if let Some(pieces) = self.joined(to, received) {
                for piece in pieces {
                    self.accept(to, received, &[piece], network)?;
                }
                return Ok(false);
            }
            if self.replicated(to, received, network)? {
                self.arrivals[to].packets += 1;
                return Ok(false);
            }
        }
        self.accept(to, received, &candidates, network).map(|(_, segment)| segment.is_some())
    }

    /// Compares what leaves `wire`, the uplink of a host, to go through the underlay: the frame that it is, if a guest or the underlay sent it.
    ///
    /// # Errors
    ///
    /// Nobody sent it, or not to another host, or it came before.
    pub fn left(
        &mut self,
        wire: usize,
        inner: Vec<u8>,
        bytes: usize,
        network: &Network,
    ) -> Result<usize, Violation> {
        self.arrivals[wire].bytes += bytes as u64;
        let received = Received { pair: 0, header: NetHeader::default(), bytes: inner };
        let candidates = self.candidates(wire, &received);
        // A broadcast is copied to each tunnel end point of its subnet.
        if candidates.is_empty()
            && let Some(copies) = self.broadcasts.get(&hash(&received.bytes))
            && let Some((at, _)) = copies.iter().rev().find(|(at, _)| self.entries[*at].guest < self.guests)
        {
            self.arrivals[wire].packets += 1;
            return Ok(*at);
        }
        self.accept(wire, &received, &candidates, network).map(|(at, _)| at)
    }

    /// A frame of its own that the control side sent by an uplink.
    pub fn left_unsent(&mut self, wire: usize, bytes: usize) {
        self.arrivals[wire].bytes += bytes as u64;
        self.arrivals[wire].packets += 1;
    }

    /// The segments that were joined to what guest `to` got.
    fn joined(&self, to: usize, received: &Received) -> Option<Vec<Piece>> {
        let cut = segments(&received.header, &received.bytes)?;
        let mut pieces = Vec::new();
        for segment in cut {
            let at = self.forms.joinable(&segment).iter().copied().find(|at| {
                let entry = &self.entries[*at];
                let here = entry.decided.is_some_and(|(guest, pair)| {
                    guest == to && pair.is_none_or(|pair| pair == received.pair)
                });
                here && !entry.arrived && !pieces.contains(&(*at, None))
            })?;
            pieces.push((at, None));
        }
        Some(pieces)
    }

    /// Whether it is a broadcast of somebody of the same subnet, which each guest gets once.
    fn replicated(&mut self, to: usize, received: &Received, network: &Network) -> Result<bool, Violation> {
        let Some(copies) = self.broadcasts.get_mut(&hash(&received.bytes)) else { return Ok(false) };
        let Some((at, got)) = copies.iter_mut().find(|(_, got)| !got.contains(&to)) else {
            return Err(lost(format!("guest {to} got a broadcast twice")));
        };
        got.push(to);
        let mut sent = &self.entries[*at];
        while let Some(origin) = sent.origin {
            sent = &self.entries[origin];
        }
        if sent.guest < self.guests {
            isolation::check_broadcast(network, sent, to)?;
        }
        Ok(true)
    }

    fn accept(
        &mut self,
        to: usize,
        received: &Received,
        candidates: &[Piece],
        network: &Network,
    ) -> Result<Piece, Violation> {
        let last = |at: usize| {
            let entry = &self.entries[at];
            self.last.get(&(entry.guest, entry.flow, to, received.pair)).copied()
        };
        let position = |(at, segment): Piece| (self.entries[at].order, segment.unwrap_or(0));
        let fits = |piece: &Piece| self.entries[piece.0].torn || last(piece.0) < Some(position(*piece));
        let in_order = candidates.iter().copied().filter(fits);
        let Some((at, segment)) = in_order.min_by_key(|piece| (piece.0, position(*piece))) else {
            return Err(match candidates.first() {
                None => self.unmatched(to, received),
                Some(piece) => {
                    let (guest, pair) = (self.entries[piece.0].guest, received.pair);
                    let (position, last) = (position(*piece), last(piece.0).unwrap_or_default());
                    let what = format!(
                        "guest {to} got packet {position:?} of a flow of guest {guest} after {last:?} on pair {pair}"
                    );
                    Violation::new("order", what)
                }
            });
        };
        // If some segments of one of two equal large sends were lost, which of the two arrived at all cannot be told.
        self.uncertain[to] |= segment.is_some() && candidates.len() > 1;
        self.arrive(to, received.pair, (at, segment));
        if to < self.guests {
            let mut copy = Some(at);
            while let Some(at) = copy {
                self.entries[at].reached = true;
                copy = self.entries[at].origin;
            }
            self.check_isolation(network, at, to, &received.bytes)?;
        }
        Ok((at, segment))
    }

    /// Nobody gets what is not for it: judged by who sent it first, wherever that is.
    fn check_isolation(&self, network: &Network, at: usize, to: usize, bytes: &[u8]) -> Checked {
        let entry = &self.entries[at];
        if entry.guest >= self.answers {
            return Ok(());
        }
        let mut first = entry;
        while let Some(origin) = first.origin {
            first = &self.entries[origin];
        }
        match &first.wire {
            None => isolation::check(network, first, to, bytes),
            Some(frame) => isolation::check_stranger(network, (first, first.guest - self.guests), to, frame),
        }
    }

    /// Notes an arrival.
    fn arrive(&mut self, to: usize, pair: usize, (at, segment): Piece) {
        let entry = &mut self.entries[at];
        let first = match segment {
            None => !std::mem::replace(&mut entry.arrived, true),
            Some(index) => {
                let first = !entry.segments.iter().any(|arrived| *arrived);
                entry.segments[index] = true;
                first
            }
        };
        self.arrivals[to].packets += u64::from(first);
        if !entry.torn {
            self.last.insert((entry.guest, entry.flow, to, pair), (entry.order, segment.unwrap_or(0)));
        }
    }

    /// The frames and segments that this may be: decided for this guest and this pair, in this form, and not arrived yet.
    fn candidates(&self, to: usize, received: &Received) -> Vec<Piece> {
        let (bytes, header) = (&received.bytes, &received.header);
        let here = |at: usize| {
            self.entries[at]
                .decided
                .is_some_and(|(guest, pair)| guest == to && pair.is_none_or(|pair| pair == received.pair))
        };
        let fresh =
            |at: usize| !self.entries[at].arrived && !self.entries[at].segments.iter().any(|piece| *piece);
        let finished = !header.needs_csum && header.gso == Gso::None;
        let exact = self.forms.exact(hash(bytes)).iter().copied();
        let exact = exact.filter(|at| fresh(*at) && is_whole(&self.entries[*at].header, header));
        let completed = self.forms.completed(hash(bytes)).iter().copied();
        let completed = completed.filter(|at| fresh(*at) && finished);
        let right = transport(bytes).is_some_and(|transport| transport.is_checksum_right(bytes));
        let partial = header.needs_csum && is_partial(header, bytes);
        let changed = self.forms.changed(bytes).iter().copied().filter(|(at, segment)| {
            let entry = &self.entries[*at];
            let fits = match segment {
                None => fresh(*at) && entry.header.gso == Gso::None && finished,
                Some(index) => !entry.arrived && !entry.segments[*index] && header.gso == Gso::None,
            };
            fits && (right || partial || !entry.sound)
        });
        let whole = exact.chain(completed).map(|at| (at, None));
        whole.chain(changed).filter(|(at, _)| here(*at)).collect()
    }

    fn unmatched(&self, to: usize, received: &Received) -> Violation {
        let bytes = &received.bytes;
        let mut alike: Vec<Piece> = self.forms.changed(bytes).to_vec();
        alike.extend(self.forms.exact(hash(bytes)).iter().map(|at| (*at, None)));
        let what = if alike.is_empty() {
            "that nobody sent"
        } else {
            "again, or in a form its sender did not ask for"
        };
        let arrived =
            |at: usize| self.entries[at].arrived || self.entries[at].segments.iter().any(|piece| *piece);
        let elsewhere = alike.iter().filter(|(at, _)| !arrived(*at)).find_map(|(at, _)| {
            self.entries[*at]
                .decided
                .and_then(|(guest, pair)| pair.filter(|pair| guest == to && *pair != received.pair))
        });
        if let Some(pair) = elsewhere {
            let what = format!(
                "guest {to} got a packet on pair {} whose conversation it sends on pair {pair}",
                received.pair
            );
            return Violation::new("steering", what);
        }
        let right = transport(bytes).is_some_and(|transport| transport.is_checksum_right(bytes));
        let alike: Vec<String> = alike
            .iter()
            .map(|(at, segment)| {
                let entry = &self.entries[*at];
                let arrived = segment.map_or(entry.arrived, |index| entry.segments[index]);
                format!(
                    "{at}/{segment:?} of guest {}: seen {} for {:?}, arrived {arrived}, {:?}",
                    entry.guest, entry.seen, entry.decided, entry.header
                )
            })
            .collect();
        let head: Vec<String> = bytes.iter().take(80).map(|byte| format!("{byte:02x}")).collect();
        lost(format!(
            "guest {to} got a frame of {} bytes {what} on pair {} ({:?}, checksum right: {right}; alike: {}): {}",
            bytes.len(),
            received.pair,
            received.header,
            alike.join(", "),
            head.join("")
        ))
    }

    fn answered(
        &mut self,
        to: usize,
        received: &Received,
        address: IpAddr,
        mac: [u8; 6],
        network: &Network,
    ) -> Checked {
        let question = self.questions.iter().position(|(guest, asked, _)| *guest == to && *asked == address);
        let Some(question) = question else {
            return Err(lost(format!("guest {to} is told that {address} is at {mac:02x?} and did not ask")));
        };
        let (_, _, epoch) = self.questions.swap_remove(question);
        let right =
            transport(&received.bytes).is_none_or(|transport| transport.is_checksum_right(&received.bytes));
        let to_asker = macs(&received.bytes).is_some_and(|(destination, _)| {
            network.since(to, epoch).any(|port| port.station.mac == destination)
        });
        if !right || !to_asker {
            return Err(lost(format!("guest {to} got an answer for {address} that is malformed")));
        }
        isolation::check_answer(network, to, epoch, address, mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::{Fill, Flow, UDP, packet, set_checksum};
    use crate::net::offload::{make_partial, segments};
    use crate::network::{PortView, station};

    fn network() -> Network {
        let subnet = (0, 0);
        let port = |place| {
            let station = station(subnet, place);
            PortView { present: true, up: true, subnet, station, vip: false, host: 0 }
        };
        Network { ports: vec![port(10), port(11)], ..Network::default() }
    }

    /// A large send of guest 0 to guest 1, with its header.
    fn large(network: &Network) -> (NetHeader, Vec<u8>) {
        let (from, to) = (network.ports[0].station, network.ports[1].station);
        let flow = Flow { from, to, v6: true, protocol: UDP, ports: (30_007, 30_007) };
        let payload: Vec<u8> = (0..5000u32).flat_map(|at| (at * 7).to_be_bytes()).take(8000).collect();
        let mut frame = packet(&flow, 1, &payload, Fill::Whole);
        let mut header = make_partial(&mut frame).unwrap();
        (header.gso, header.gso_size) = (Gso::UdpL4, 1400);
        (header, frame)
    }

    /// Its segments as a receiver that takes no offload gets them on queue pair 0.
    fn cut(network: &Network, header: &NetHeader, frame: &[u8]) -> Vec<Received> {
        let (from, to) = (network.ports[0].station.ip(true), network.ports[1].station.ip(true));
        let finish = |mut bytes: Vec<u8>| {
            set_checksum(&mut bytes, 54, from, to, UDP, Fill::Whole);
            Received { pair: 0, header: NetHeader::default(), bytes }
        };
        segments(header, frame).unwrap().into_iter().map(finish).collect()
    }

    /// What seed 54 met: a copy of a large send, one byte changed and 40 bytes of padding behind it, and then the large send itself.
    #[test]
    fn near_equal_large_sends_are_told_apart_and_keep_their_order() {
        let network = network();
        let (header, original) = large(&network);
        let mut copy = original.clone();
        copy[80] ^= 1;
        copy.extend([0x99; 40]);
        let sent = |frames: &[&Vec<u8>]| {
            let mut ledger = Ledger::new(2, 0);
            for frame in frames {
                let at = ledger.sent_and_taken(0, &header, frame, 0);
                ledger.decided(at, 1, Some(0)).unwrap();
            }
            ledger
        };
        let (first, second) = (cut(&network, &header, &copy), cut(&network, &header, &original));
        assert_eq!(first.iter().zip(&second).filter(|(one, other)| one.bytes == other.bytes).count(), 5);
        let mut ledger = sent(&[&copy, &original]);
        for segment in first.iter().chain(&second) {
            assert_eq!(ledger.arrived(1, segment, &network), Ok(true));
        }
        assert_eq!(ledger.arrivals[1].packets, 2);
        // The other way round it would be a reordering: found with the first segment, which only one of them has.
        let mut ledger = sent(&[&copy, &original]);
        second.iter().for_each(|segment| assert_eq!(ledger.arrived(1, segment, &network), Ok(true)));
        assert_eq!(ledger.arrived(1, &first[0], &network).unwrap_err().checker, "order");
    }

    #[test]
    fn a_packet_on_another_queue_pair_is_found() {
        let network = network();
        let (header, frame) = large(&network);
        let mut ledger = Ledger::new(2, 0);
        let at = ledger.sent_and_taken(0, &header, &frame, 0);
        ledger.decided(at, 1, Some(1)).unwrap();
        let first = &cut(&network, &header, &frame)[0];
        assert_eq!(ledger.arrived(1, first, &network).unwrap_err().checker, "steering");
        let moved = Received { pair: 1, ..first.clone() };
        assert_eq!(ledger.arrived(1, &moved, &network), Ok(true));
        assert_eq!(ledger.arrived(1, &moved, &network).unwrap_err().checker, "ledger");
    }
}
