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

mod arrivals;
mod forms;
mod report;

use super::services::Services;
use super::{Checked, Violation, secrets};
use crate::net::offload::complete_blindly;
use crate::net::read::{Neighbour, describe, flow, neighbour, transport};
use crate::net::tunnel;
use crate::trace::hash;
use engine::{DropReason, PuntKind};
use forms::Forms;
use std::collections::HashMap;
use std::net::IpAddr;
use virtio_driver::NetHeader;

/// What should become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Goes to that guest's port.
    To(usize),
    /// Goes to that endpoint, behind a tunnel end point that is no towpathd.
    Away(usize),
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
    /// The frame that a guest got last, until somebody looks.
    pub accepted: Option<usize>,
    /// What guests asked of the switch's own services.
    pub services: Services,
    /// Broadcasts by the number of the frame that their sender sent: who got one.
    heard: HashMap<usize, Vec<usize>>,
    /// Frames before this one were on their way when a guest went from one host to another.
    loose: usize,
    /// By guest: it sent of its own accord what marks memory that nobody may see.
    pub revealed: Vec<bool>,
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
            revealed: vec![false; guests],
            services: Services::new(guests),
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
        let (inner, vni) = tunnel::open(frame).map_or((frame, 0), |(outer, at)| (&frame[at..], outer.vni));
        // VPCs may use the same addresses.
        let flow = flow(inner) ^ u64::from(vni).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let at = self.sent_in(wire, flow, &NetHeader::default(), frame, expect, epoch);
        let entry = &mut self.entries[at];
        (entry.origin, entry.wire) = (origin, Some(frame.to_vec()));
        entry.unlikely = !matches!(judged, Expect::To(_) | Expect::Away(_) | Expect::Any);
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
        if guest < self.guests {
            self.services.sent(guest, frame, epoch);
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

    /// A frame reached an endpoint.
    pub fn reached(&mut self, entry: usize) {
        let mut copy = Some(entry);
        while let Some(at) = copy {
            self.entries[at].reached = true;
            copy = self.entries[at].origin;
        }
    }

    /// Whether a frame reached anybody, in whatever form.
    #[must_use]
    pub fn has_arrived(&self, entry: usize) -> bool {
        self.entries[entry].reached
    }

    /// A guest goes on on another host: no order is promised between what was on its way before, which may wait for another next hop, and after.
    pub fn moved(&mut self) {
        self.loose = self.entries.len();
    }

    /// Whether guest `to` got this broadcast.
    #[must_use]
    pub fn has_heard(&self, entry: usize, to: usize) -> bool {
        self.heard.get(&entry).is_some_and(|heard| heard.contains(&to))
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
        if let Some(revealed) = self.revealed.get_mut(guest) {
            *revealed |= secrets::is_in(guest, frame);
        }
        let at = self.sent(guest, header, frame, Expect::Any, epoch);
        let entry = &mut self.entries[at];
        entry.seen = true;
        self.taken.entry((guest, entry.flow)).or_default().0 = entry.order;
        at
    }

    /// The switch has a frame of `guest` that is not as it was when it was taken: its number.
    pub fn torn(&mut self, guest: usize, header: &NetHeader, frame: &[u8], epoch: u64) -> usize {
        if let Some(revealed) = self.revealed.get_mut(guest) {
            *revealed |= secrets::is_in(guest, frame);
        }
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
        let loose = entry < self.loose;
        let entry = &mut self.entries[entry];
        entry.decided = Some((to, pair));
        if entry.torn || loose {
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
}

#[cfg(test)]
mod tests;
