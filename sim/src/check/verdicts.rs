//! What the stages decide, compared with what was expected when a frame was sent.

use super::carriage::Sender;
use super::ledger::{Expect, Ledger};
use super::steering::{self, Steering};
use super::{Checked, Violation, answers};
use crate::net::tunnel::{self, Outer};
use crate::network::{Network, vni};
use crate::queues::Polled;
use crate::trace::hash;
use buf::{Checksum, Frame, Offload, SegmentKind};
use engine::{DropReason, Observer, Output, PortIndex};
use std::collections::BTreeMap;
use switch::UPLINK;
use virtio_driver::{Gso, NetHeader};

/// A frame as the observer was shown it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What is asked to be done to it.
    pub header: NetHeader,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Hash of its bytes.
    pub key: u64,
    /// Hash of both.
    ident: u64,
}

impl Shown {
    fn new(frame: &Frame<'_, '_>) -> Self {
        let (bytes, header) = (frame.to_vec(), header_of(frame.offload));
        let (key, ident) = (hash(&bytes), hash(&[&header.encode(), &bytes[..]].concat()));
        Self { header, bytes, key, ident }
    }

    /// What is in the tunnel, if it is in one.
    fn inner(&self) -> Option<(Outer, Self)> {
        let (outer, at) = tunnel::open(&self.bytes)?;
        let bytes = self.bytes[at..].to_vec();
        let mut header = NetHeader::default();
        // A checksum before the inner frame is the outer one.
        if self.header.needs_csum && usize::from(self.header.csum_start) >= at {
            header = NetHeader { csum_start: self.header.csum_start - at as u16, ..self.header };
        }
        let key = hash(&bytes);
        Some((outer, Self { header, bytes, key, ident: 0 }))
    }
}

/// Something the observer saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A frame was taken.
    Received {
        /// From.
        port: PortIndex,
        /// And the queue pair.
        pair: usize,
        /// The frame.
        frame: Shown,
        /// Its port's guest lies: nobody else knows what it sent.
        lies: bool,
    },
    /// A frame goes somewhere.
    Forwarded {
        /// From.
        port: PortIndex,
        /// To.
        output: Output,
        /// The frame.
        frame: Shown,
        /// As in [`Seen::Received`].
        lies: bool,
    },
    /// A frame ended.
    Dropped {
        /// From.
        port: PortIndex,
        /// Why.
        reason: DropReason,
    },
}

/// Writes down what a worker shows.
#[derive(Debug, Default)]
pub struct Watch {
    /// What it showed.
    pub seen: Vec<Seen>,
    /// Ports of hostile guests.
    pub hostile: Vec<PortIndex>,
    /// The queue pair that is polled.
    pub polled: Polled,
}

impl Observer for Watch {
    fn received(&mut self, port: PortIndex, frame: &Frame<'_, '_>) {
        let lies = self.hostile.contains(&port);
        self.seen.push(Seen::Received { port, pair: self.polled.get(), frame: Shown::new(frame), lies });
    }

    fn forwarded(&mut self, port: PortIndex, output: Output, frame: &Frame<'_, '_>) {
        let lies = self.hostile.contains(&port);
        self.seen.push(Seen::Forwarded { port, output, frame: Shown::new(frame), lies });
    }

    fn dropped(&mut self, port: PortIndex, reason: DropReason) {
        self.seen.push(Seen::Dropped { port, reason });
    }
}

/// The header that asks for `offload`.
#[must_use]
pub fn header_of(offload: Offload) -> NetHeader {
    let mut header = NetHeader::default();
    if let Checksum::Partial { start, offset } = offload.checksum {
        (header.needs_csum, header.csum_start, header.csum_offset) = (true, start, offset);
    }
    if let Some(segment) = offload.segment {
        header.gso = match segment.kind {
            SegmentKind::TcpV4 => Gso::TcpV4,
            SegmentKind::TcpV6 => Gso::TcpV6,
            SegmentKind::Udp => Gso::UdpL4,
        };
        (header.gso_size, header.ecn) = (segment.size, segment.ecn);
    }
    header
}

/// Reasons that delivery has, not a stage.
#[must_use]
pub fn is_delivery(reason: DropReason) -> bool {
    use DropReason::{
        HandoverFull, NeighbourUnresolved, PoolExhausted, ReceiverFull, ReceiverStopped, TooLarge,
    };
    matches!(
        reason,
        ReceiverFull | TooLarge | ReceiverStopped | HandoverFull | PoolExhausted | NeighbourUnresolved
    )
}

/// Reasons that may be found when a packet is shown to no observer any more.
#[must_use]
pub fn is_late(reason: DropReason) -> bool {
    is_delivery(reason) || reason == DropReason::NoUplink
}

/// The edge of the pipeline on which a packet with that reason leaves it. (A rogue service is found by two stages: that edge has no one name; and so for
/// others.)
#[must_use]
pub fn edge_of(reason: DropReason) -> Option<&'static str> {
    use DropReason::{
        BadChain, BadNeighbour, BadOffload, BadTunnel, Blackhole, BogusSource, EtherTypeRefused,
        GatewayConsumed, Hairpin, HopLimit, Multicast, NeighbourConsumed, NoRoute, NoUplink, PortDown,
        RogueService, ServiceBudget, ServiceBusy, ServiceConsumed, SpoofedAddress, SpoofedMac,
        SpoofedNeighbour, TooBig, TunnelChecksum, TunnelCongestion, TunnelSource, UnderlayNotOurs,
        UnknownEndpoint, UnknownNeighbour, UnknownUnicast, UnknownVni, UnknownVtep, VlanTagged,
    };
    Some(match reason {
        BadChain => "ring > refused",
        reason if is_delivery(reason) => "delivery > dropped",
        SpoofedMac | SpoofedAddress | BogusSource | VlanTagged | EtherTypeRefused | PortDown => {
            "port_security > dropped"
        }
        SpoofedNeighbour | BadNeighbour | UnknownNeighbour | NeighbourConsumed => "neighbours > dropped",
        UnknownUnicast | Hairpin => "forward > dropped",
        Multicast => "broadcast > dropped",
        ServiceBudget | ServiceBusy | ServiceConsumed => "control thread > refused",
        NoRoute | Blackhole | UnknownEndpoint | HopLimit | GatewayConsumed => "route > dropped",
        TooBig | NoUplink => "encapsulate > dropped",
        UnderlayNotOurs | BadTunnel | TunnelChecksum | UnknownVtep | UnknownVni => "decapsulate > dropped",
        TunnelSource | TunnelCongestion => "arrive > dropped",
        RogueService => return None,
        // What is left is the parser's.
        BadOffload => "parse > dropped (offload)",
        _ => "parse > dropped",
    })
}

#[derive(Debug, Default)]
struct Tally {
    received: u64,
    forwarded: u64,
    unknown: u64,
    /// Packets for the control thread: expected, and given to it.
    asks: u64,
    punted: u64,
    expected: BTreeMap<DropReason, u64>,
    /// Those that are answered, or end for this reason.
    perhaps: BTreeMap<DropReason, u64>,
    dropped: BTreeMap<DropReason, u64>,
}

/// A frame that was taken, and its number in the ledger.
#[derive(Debug)]
struct Taken {
    entry: usize,
    frame: Shown,
}

/// A burst on its way: what was taken together from one queue.
#[derive(Debug, Default)]
struct Batch {
    pair: usize,
    /// Taken out when they are forwarded.
    frames: Vec<Taken>,
    decided: bool,
}

/// What the checks of one step compare with.
pub struct Checks<'a> {
    /// The worker's host.
    pub host: usize,
    /// What was sent.
    pub ledger: &'a mut Ledger,
    /// Who sends on which queue pair.
    pub steering: &'a mut Steering,
    /// The worker knows all queues: a step that did as many commands as one may do has left some, and steers by what it knew before.
    pub up_to_date: bool,
    /// What the operator wants.
    pub network: &'a Network,
    /// The guest of each port, also of one that is about to be forgotten, and its queue pairs; of the uplink, its place behind the guests.
    pub guest_of: &'a dyn Fn(PortIndex) -> Option<(usize, usize)>,
    /// How many packets of a port were given to the control thread in this step.
    pub punted: &'a dyn Fn(PortIndex) -> u64,
    /// Counts edges that were taken.
    pub edge: &'a mut dyn FnMut(&'static str),
}

/// Compares one step.
///
/// # Errors
///
/// A frame went elsewhere or ended for another reason than expected.
pub fn check(seen: Vec<Seen>, checks: &mut Checks<'_>) -> Checked {
    let mut tallies: BTreeMap<PortIndex, Tally> = BTreeMap::new();
    let mut batch = Batch::default();
    for seen in seen {
        match seen {
            Seen::Received { port, pair, frame, lies } => {
                if std::mem::take(&mut batch.decided) {
                    batch.frames.clear();
                }
                batch.pair = pair;
                let entry = checks.take(port, &frame, lies, tallies.entry(port).or_default())?;
                batch.frames.push(Taken { entry, frame });
            }
            Seen::Forwarded { port, output, frame, lies } => {
                batch.decided = true;
                tallies.entry(port).or_default().forwarded += 1;
                checks.forward(port, output, &mut batch, frame, lies)?;
            }
            Seen::Dropped { port, reason } => {
                // A refused chain is shown before the frames of its burst.
                batch.decided |= reason != DropReason::BadChain;
                *tallies.entry(port).or_default().dropped.entry(reason).or_default() += 1;
            }
        }
    }
    for (port, tally) in &mut tallies {
        tally.punted = (checks.punted)(*port);
        tally.check(*port)?;
    }
    Ok(())
}

fn nobody<T>(port: PortIndex) -> Result<T, Violation> {
    Err(Violation::new("verdicts", format!("a frame was taken from {port:?}, which is nobody's")))
}

fn wrong(what: String) -> Checked {
    Err(Violation::new("verdicts", what))
}

impl Checks<'_> {
    /// A frame was taken: its number.
    fn take(
        &mut self,
        port: PortIndex,
        frame: &Shown,
        lies: bool,
        tally: &mut Tally,
    ) -> Result<usize, Violation> {
        let Some((guest, _)) = (self.guest_of)(port) else { return nobody(port) };
        tally.received += 1;
        let at = if lies {
            self.ledger.sent_and_taken(guest, &frame.header, &frame.bytes, self.network.epoch)
        } else {
            self.ledger.taken(guest, frame.key).ok_or_else(|| {
                let what =
                    format!("the switch took a frame of guest {guest} that it did not send, or not in order");
                Violation::new("verdicts", what)
            })?
        };
        let entry = self.ledger.entry(at);
        match entry.expect {
            _ if entry.epoch != self.network.epoch => tally.unknown += 1,
            Expect::Any => tally.unknown += 1,
            Expect::Drop(reason) => *tally.expected.entry(reason).or_default() += 1,
            Expect::AnswerOr(reason) => *tally.perhaps.entry(reason).or_default() += 1,
            Expect::Punt(_) => tally.asks += 1,
            Expect::To(_) | Expect::Answer => {}
        }
        Ok(at)
    }

    /// A frame of `port` goes to `output`.
    fn forward(
        &mut self,
        port: PortIndex,
        output: Output,
        batch: &mut Batch,
        frame: Shown,
        lies: bool,
    ) -> Checked {
        let Some((from, _)) = (self.guest_of)(port) else { return nobody(port) };
        let Output::Port(target) = output else {
            return wrong(format!("a frame of guest {from} goes to {output:?}"));
        };
        let to = (self.guest_of)(target);
        if let Some(at) = batch.frames.iter().position(|taken| taken.frame.ident == frame.ident) {
            let entry = batch.frames.remove(at).entry;
            self.steering.sent((self.host, port), steering::slot(&frame.bytes), batch.pair);
            if target == UPLINK {
                return wrong(format!("a frame of guest {from} goes to the underlay as it is"));
            }
            return self.decide(entry, from, target, to, &frame);
        }
        let inner = if target == UPLINK { frame.inner() } else { None };
        if target == port && (port != UPLINK || inner.is_none()) {
            return self.answer(from, port, batch, &frame);
        }
        let (outer, frame) = match inner {
            Some((outer, inner)) => (Some(outer), inner),
            None if target == UPLINK => {
                return wrong(format!("a frame of guest {from} goes to the underlay as it is"));
            }
            None => (None, frame),
        };
        // What waits for its next hop is not noted.
        if outer.is_none_or(|outer| outer.macs.0 != [0; 6]) {
            self.steering.sent((self.host, port), steering::slot(&frame.bytes), batch.pair);
        }
        let entry = self.find_entry(port, from, batch, &frame, lies)?;
        self.ledger.changed(entry, &frame.header, &frame.bytes);
        if let Some(outer) = outer {
            (self.edge)("encapsulate > uplink");
            self.check_tunnel(entry, from, &outer)?;
        } else {
            (self.edge)(if port == UPLINK { "arrive > delivery" } else { "route > delivery" });
        }
        self.decide(entry, from, target, to, &frame)
    }

    /// Which frame of a burst this one was before it was changed, as it may have been.
    fn find_entry(
        &mut self,
        port: PortIndex,
        from: usize,
        batch: &mut Batch,
        frame: &Shown,
        lies: bool,
    ) -> Result<usize, Violation> {
        let sender = Sender { network: self.network, host: self.host, guest: from };
        let essence = tunnel::essence(&frame.bytes);
        let mut why = None;
        let mut fits = |taken: &Taken| {
            let before = if port == UPLINK { taken.frame.inner() } else { None };
            let (class, before) = match before {
                Some((outer, inner)) => (Some(outer.class), inner),
                None => (None, taken.frame.clone()),
            };
            if before.header != frame.header || tunnel::essence(&before.bytes) != essence {
                return false;
            }
            why = sender.flaw(class, &before.bytes, &frame.bytes);
            why.is_none()
        };
        let like: Vec<usize> = (0..batch.frames.len()).filter(|at| fits(&batch.frames[*at])).collect();
        // Of equal ones the first that should go anywhere.
        let goes = |at: &usize| {
            let entry = self.ledger.entry(batch.frames[*at].entry);
            !entry.unlikely || entry.epoch != self.network.epoch
        };
        let found = like.iter().copied().find(goes).or(like.first().copied());
        match found {
            Some(at) => Ok(batch.frames.remove(at).entry),
            // The memory of a liar may have been taken away since the frame was taken: what is left of it is another frame.
            None if lies => Ok(self.ledger.torn(from, &frame.header, &frame.bytes, self.network.epoch)),
            None => {
                let what = why.unwrap_or("it is none of its burst");
                Err(Violation::new("verdicts", format!("a frame of guest {from} was changed: {what}")))
            }
        }
    }

    /// Whom the ledger is told to give it to, and whether that is right.
    fn decide(
        &mut self,
        at: usize,
        from: usize,
        target: PortIndex,
        to: Option<(usize, usize)>,
        frame: &Shown,
    ) -> Checked {
        if let Some((to, pairs)) = to {
            let pair = if target == UPLINK {
                Some(0)
            } else {
                let slot = steering::slot(&frame.bytes);
                self.up_to_date.then(|| self.steering.pair((self.host, target), slot, pairs))
            };
            self.ledger.decided(at, to, pair)?;
        }
        let entry = self.ledger.entry(at);
        let there = |guest: usize| match self.network.ports.get(guest) {
            Some(port) if port.host != self.host => target == UPLINK,
            _ => to.is_some_and(|(to, _)| to == guest),
        };
        match entry.expect {
            _ if entry.epoch != self.network.epoch => Ok(()),
            Expect::Any => Ok(()),
            Expect::To(guest) if there(guest) => Ok(()),
            other => wrong(format!("a frame of guest {from} goes to guest {to:?}, expected: {other:?}")),
        }
    }

    /// A frame goes to another host: the one that its receiver is on, in its VPC.
    fn check_tunnel(&self, at: usize, from: usize, outer: &Outer) -> Checked {
        let entry = self.ledger.entry(at);
        if let (Expect::To(guest), true) = (entry.expect, entry.epoch == self.network.epoch) {
            let port = &self.network.ports[guest];
            let host = self.network.hosts[port.host];
            if outer.addresses.1 != host.address || outer.vni != vni(port.subnet.0) {
                return wrong(format!(
                    "a frame of guest {from} for guest {guest} goes to {} with VNI {:x}",
                    outer.addresses.1, outer.vni
                ));
            }
        }
        Ok(())
    }

    /// A frame was written over and goes back: it must be an answer to one of its burst that is to be answered.
    fn answer(&mut self, from: usize, port: PortIndex, batch: &mut Batch, frame: &Shown) -> Checked {
        let found = batch.frames.iter().position(|taken| {
            let entry = self.ledger.entry(taken.entry);
            let may = matches!(entry.expect, Expect::Any | Expect::Answer | Expect::AnswerOr(_))
                || entry.epoch != self.network.epoch;
            may && answers::is_answer(&taken.frame.bytes, &frame.bytes)
        });
        let Some(at) = found else {
            return wrong(format!(
                "guest {from} is sent an answer to nothing that it asked: {}",
                crate::net::read::describe(&frame.bytes)
            ));
        };
        let asked = batch.frames.remove(at).frame;
        self.steering.sent((self.host, port), steering::slot_of(&asked.bytes, &frame.bytes), batch.pair);
        let kind = answers::kind(&frame.bytes);
        (self.edge)(kind);
        if kind != answers::NEIGHBOUR || self.network.ports.len() <= from {
            self.ledger.answer(from, &frame.header, &frame.bytes, self.network.epoch);
        }
        Ok(())
    }
}

impl Tally {
    fn check(&self, port: PortIndex) -> Checked {
        let wrong = |what: String| Err(Violation::new("verdicts", format!("{port:?}: {what}")));
        let stages = || {
            self.dropped
                .iter()
                .filter(|(reason, _)| !is_delivery(**reason) && **reason != DropReason::BadChain)
        };
        for (reason, count) in &self.expected {
            let got = self.dropped.get(reason).copied().unwrap_or(0);
            if got < *count {
                return wrong(format!(
                    "{count} frames should have ended as {}, {got} did: {:?}",
                    reason.name(),
                    self.dropped
                ));
            }
        }
        for (reason, got) in stages() {
            let refused = matches!(reason, DropReason::ServiceBudget | DropReason::ServiceBusy);
            let asks = if refused { self.asks } else { 0 };
            let perhaps = self.perhaps.get(reason).copied().unwrap_or(0);
            let want = self.expected.get(reason).copied().unwrap_or(0) + asks + perhaps;
            if *got > want + self.unknown {
                return wrong(format!(
                    "{got} frames ended as {}, {want} should have, {} were anything",
                    reason.name(),
                    self.unknown
                ));
            }
        }
        if self.punted > self.asks + self.unknown {
            return wrong(format!(
                "{} frames given to the control thread, {} should",
                self.punted, self.asks
            ));
        }
        let ended: u64 = stages().map(|(_, count)| count).sum();
        // What had no memory to be given to the control thread in.
        let unkept = self.dropped.get(&DropReason::PoolExhausted).copied().unwrap_or(0);
        let unkept = unkept.min(self.asks + self.unknown);
        let known = self.forwarded + ended + self.punted;
        if known > self.received || self.received > known + unkept {
            return wrong(format!(
                "{} frames taken, {} forwarded, {ended} ended, {} given to the control thread",
                self.received, self.forwarded, self.punted
            ));
        }
        Ok(())
    }
}
