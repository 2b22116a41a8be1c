//! What arrives, compared with what was sent: the ledger's second half.

use super::forms::{Piece, is_partial, is_whole};
use super::{Ledger, lost};
use crate::check::{Checked, Violation, isolation};
use crate::guest::nic::Received;
use crate::net::offload::segments;
use crate::net::read::{Neighbour, macs, neighbour, transport};
use crate::network::Network;
use crate::trace::hash;
use std::net::IpAddr;
use virtio_driver::{Gso, NetHeader};

impl Ledger {
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
        if self.services.arrived(to, &received.bytes, network)? {
            self.arrivals[to].packets += 1;
            return Ok(false);
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
                // Equal ones are told apart by their order, in which they were joined too.
                let key = (entry.guest, entry.flow, to, received.pair);
                let before = self.last.get(&key).map(|(order, _)| *order);
                let piece = pieces.last().map(|(at, _): &Piece| self.entries[*at].order);
                let in_order = *at < self.loose || before.max(piece) < Some(entry.order);
                here && in_order && !entry.arrived && !pieces.contains(&(*at, None))
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
        let mut first = *at;
        while let Some(origin) = self.entries[first].origin {
            first = origin;
        }
        self.heard.entry(first).or_default().push(to);
        self.accepted = Some(first);
        let sent = &self.entries[first];
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
        let unordered = |at: usize| self.entries[at].torn || at < self.loose;
        let fits = |piece: &Piece| unordered(piece.0) || last(piece.0) < Some(position(*piece));
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
            self.accepted = Some(at);
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
        if !entry.torn && at >= self.loose {
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
