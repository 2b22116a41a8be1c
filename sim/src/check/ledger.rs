//! Every frame that was sent, and whether what arrives is one of them.
//!
//! A frame is known by its bytes. What the device may do to it on its way is done here by hand ([`crate::net::offload`]): the checksum completed,
//! the large send cut. Identical frames are told apart by the order in which they were sent.

use super::isolation;
use super::{Checked, Violation};
use crate::guest::nic::Received;
use crate::net::offload::segments;
use crate::net::read::{Neighbour, flow, macs, neighbour, transport, without_checksum};
use crate::network::Network;
use crate::trace::hash;
use engine::DropReason;
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
    /// Ends, for this reason.
    Drop(DropReason),
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
    /// The switch took it.
    pub seen: bool,
    /// The switch decided to deliver it.
    pub forwarded: bool,
    /// Its sender put the right sum where the device completes the checksum.
    sound: bool,
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
    /// By hash of the bytes.
    exact: HashMap<u64, Vec<usize>>,
    /// By hash of the bytes without checksum: entry and segment (`None`: whole).
    changed: HashMap<u64, Vec<(usize, Option<usize>)>>,
    orders: HashMap<(usize, u64), u64>,
    /// By flow's sender, flow, receiver and its queue pair: the last order and segment that arrived.
    last: HashMap<(usize, u64, usize, usize), (u64, usize)>,
    /// Questions to neighbours: guest, address, epoch.
    questions: Vec<(usize, IpAddr, u64)>,
    /// MAC addresses of frames whose form after the device's work nobody knows: an inner checksum, a cut behind extension headers.
    strange: Vec<Vec<u8>>,
    /// By guest.
    pub arrivals: Vec<Arrivals>,
    /// By guest: it got something whose origin nobody knows, so its packets cannot be counted.
    pub uncertain: Vec<bool>,
}

fn lost(what: String) -> Violation {
    Violation::new("ledger", what)
}

impl Ledger {
    /// For so many guests.
    #[must_use]
    pub fn new(guests: usize) -> Self {
        Self {
            arrivals: vec![Arrivals::default(); guests],
            uncertain: vec![false; guests],
            ..Self::default()
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
        let flow = flow(frame);
        let order = self.orders.entry((guest, flow)).or_default();
        *order += 1;
        let entry = self.entries.len();
        let cut = if header.gso == Gso::None { None } else { segments(header, frame) };
        self.exact.entry(hash(frame)).or_default().push(entry);
        let usual = transport(frame).is_some_and(|transport| {
            (usize::from(header.csum_start), usize::from(header.csum_start) + usize::from(header.csum_offset))
                == (transport.start, transport.checksum_at())
        });
        if (header.needs_csum && !usual) || (header.gso != Gso::None && cut.is_none()) {
            self.strange.push(frame.get(..12).unwrap_or(frame).to_vec());
        }
        if header.needs_csum {
            self.changed.entry(hash(&without_checksum(frame))).or_default().push((entry, None));
        }
        for (index, segment) in cut.iter().flatten().enumerate() {
            self.changed.entry(hash(segment)).or_default().push((entry, Some(index)));
        }
        if let Some(Neighbour::Asks(address)) = neighbour(frame) {
            self.questions.push((guest, address, epoch));
        }
        self.entries.push(Sent {
            guest,
            flow,
            order: *order,
            epoch,
            expect,
            header: *header,
            seen: false,
            forwarded: false,
            sound: transport(frame).is_some_and(|transport| {
                let at = transport.checksum_at();
                // With padding behind the datagram the sum (to the end of the frame) is wrong whoever completes it.
                frame[at..at + 2] == transport.pseudo().to_be_bytes() && transport.end == frame.len()
            }),
            arrived: false,
            segments: vec![false; cut.map_or(0, |cut| cut.len())],
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

    /// Whether a frame reached anybody, in whatever form.
    #[must_use]
    pub fn has_arrived(&self, entry: usize) -> bool {
        let entry = &self.entries[entry];
        entry.arrived || entry.segments.iter().any(|arrived| *arrived)
    }

    /// The oldest frame of `guest` with these bytes for which `fits`.
    pub fn find(&mut self, guest: usize, key: u64, fits: impl Fn(&Sent) -> bool) -> Option<&mut Sent> {
        let entries = &mut self.entries;
        let at = self.exact.get(&key)?.iter().copied().find(|at| {
            let entry = &entries[*at];
            entry.guest == guest && fits(entry)
        })?;
        entries.get_mut(at)
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
        let Some((entry, segment)) = self.match_frame(to, received, network) else {
            if received.bytes.len() > 12 && self.strange.iter().any(|macs| *macs == received.bytes[..12]) {
                self.uncertain[to] = true;
                return Ok(false);
            }
            return Err(self.unmatched(to, received));
        };
        let changed = self.changed.get(&hash(&without_checksum(&received.bytes))).map_or(0, Vec::len);
        let exact = self.exact.get(&hash(&received.bytes)).map_or(0, Vec::len);
        let alike = changed > 1 || exact > 1;
        if segment.is_some() && alike {
            // Which of two equal large sends it is a part of cannot be told.
            self.uncertain[to] = true;
        }
        self.arrive(to, received, (entry, segment), alike)?;
        isolation::check(network, &self.entries[entry], to, &received.bytes)?;
        Ok(segment.is_some())
    }

    /// Notes an arrival. The order is compared only of frames that are like no other: which of several equal ones came on which of two
    /// queue pairs cannot be told.
    fn arrive(
        &mut self,
        to: usize,
        received: &Received,
        (at, segment): (usize, Option<usize>),
        alike: bool,
    ) -> Checked {
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
        let entry = &self.entries[at];
        // Nor what a hostile guest's large sends, half alike, were cut from.
        if alike || (segment.is_some() && entry.expect == Expect::Any) {
            return Ok(());
        }
        let position = (entry.order, segment.unwrap_or(0));
        let last = self.last.entry((entry.guest, entry.flow, to, received.pair)).or_default();
        if *last >= position && *last != (0, 0) {
            let what = format!(
                "guest {to} got packet {position:?} of a flow of guest {} after {last:?} on pair {}",
                entry.guest, received.pair
            );
            return Err(Violation::new("order", what));
        }
        *last = position;
        Ok(())
    }

    /// The frame that this is: of those alike, the first sent that would not break the order, of the receiver's subnet if there is one.
    fn match_frame(
        &self,
        to: usize,
        received: &Received,
        network: &Network,
    ) -> Option<(usize, Option<usize>)> {
        let bytes = &received.bytes;
        let exact = self.exact.get(&hash(bytes)).map_or(&[][..], Vec::as_slice);
        let whole = exact.iter().map(|at| (*at, None)).filter(|(at, _)| {
            let entry = &self.entries[*at];
            !entry.arrived
                && entry.segments.iter().all(|arrived| !arrived)
                && is_whole(&entry.header, &received.header)
        });
        let form = !received.header.needs_csum && received.header.gso == Gso::None;
        let right = transport(bytes).is_some_and(|transport| transport.is_checksum_right(bytes));
        let changed = self.changed.get(&hash(&without_checksum(bytes))).map_or(&[][..], Vec::as_slice);
        let changed = changed.iter().copied().filter(|(at, segment)| {
            let entry = &self.entries[*at];
            let fresh = match segment {
                None => !entry.arrived && entry.header.gso == Gso::None && form,
                Some(index) => !entry.arrived && !entry.segments[*index] && received.header.gso == Gso::None,
            };
            let partial = received.header.needs_csum && is_partial(&received.header, bytes);
            fresh && (right || partial || !entry.sound)
        });
        let rank = |(at, segment): &(usize, Option<usize>)| {
            let entry = &self.entries[*at];
            let last =
                self.last.get(&(entry.guest, entry.flow, to, received.pair)).copied().unwrap_or_default();
            let foreign = network.ports[entry.guest].subnet != network.ports[to].subnet;
            (
                foreign,
                (entry.order, segment.unwrap_or(0)) <= last && last != (0, 0),
                *at,
                segment.unwrap_or(0),
            )
        };
        whole.chain(changed).min_by_key(rank)
    }

    fn unmatched(&self, to: usize, received: &Received) -> Violation {
        let bytes = &received.bytes;
        let again = self.exact.get(&hash(bytes)).is_some_and(|entries| !entries.is_empty())
            || self.changed.contains_key(&hash(&without_checksum(bytes)));
        let what = if again { "again, or in a form its sender did not ask for" } else { "that nobody sent" };
        let right = transport(bytes).is_some_and(|transport| transport.is_checksum_right(bytes));
        let changed = self.changed.get(&hash(&without_checksum(bytes))).map_or(&[][..], Vec::as_slice);
        let alike: Vec<String> = changed
            .iter()
            .map(|(at, segment)| {
                let entry = &self.entries[*at];
                let arrived = segment.map_or(entry.arrived, |index| entry.segments[index]);
                format!("{at}/{segment:?}: arrived {arrived}, whole {}, sound {}", entry.arrived, entry.sound)
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

/// Whether a frame that arrived with `got` is whole: nothing was done to it that its sender left undone, or all is said again.
fn is_whole(asked: &NetHeader, got: &NetHeader) -> bool {
    if !asked.needs_csum {
        return !got.needs_csum && got.gso == Gso::None;
    }
    let same_checksum =
        got.needs_csum && (got.csum_start, got.csum_offset) == (asked.csum_start, asked.csum_offset);
    same_checksum
        && got.gso == asked.gso
        && (asked.gso == Gso::None || (got.gso_size, got.ecn) == (asked.gso_size, asked.ecn))
}

/// Whether the checksum is left to the receiver, and the pseudo header's sum is in its place.
fn is_partial(header: &NetHeader, bytes: &[u8]) -> bool {
    transport(bytes).is_some_and(|transport| {
        let at = transport.checksum_at();
        usize::from(header.csum_start) == transport.start
            && usize::from(header.csum_start + header.csum_offset) == at
            && bytes[at..at + 2] == transport.pseudo().to_be_bytes()
    })
}
