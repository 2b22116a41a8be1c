//! What the stages decide, compared with what was expected when a frame was sent.

use super::ledger::{Expect, Ledger};
use super::steering::{self, Steering};
use super::{Checked, Violation};
use crate::network::Network;
use crate::queues::Polled;
use crate::trace::hash;
use buf::{Checksum, Frame, Offload, SegmentKind};
use engine::{DropReason, Observer, Output, PortIndex};
use std::collections::BTreeMap;
use virtio_driver::{Gso, NetHeader};

/// Something the observer saw.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A frame was taken.
    Received {
        /// From.
        port: PortIndex,
        /// And the queue pair.
        pair: usize,
        /// Hash of its bytes.
        key: u64,
        /// Hash of them and of what its sender asked for.
        ident: u64,
        /// Its bytes, if its port's guest is hostile: nobody else knows what it sent.
        bytes: Option<(NetHeader, Vec<u8>)>,
    },
    /// A frame goes somewhere.
    Forwarded {
        /// From.
        port: PortIndex,
        /// To.
        output: Output,
        /// Hash of its bytes.
        key: u64,
        /// As when it was taken, unless it was changed since.
        ident: u64,
        /// The slot of its conversation ([`steering`]).
        slot: usize,
        /// As in [`Seen::Received`].
        bytes: Option<(NetHeader, Vec<u8>)>,
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
        let bytes = frame.to_vec();
        let (key, ident) = (hash(&bytes), ident(&bytes, frame.offload));
        let bytes = self.hostile.contains(&port).then(|| (header_of(frame.offload), bytes));
        self.seen.push(Seen::Received { port, pair: self.polled.get(), key, ident, bytes });
    }

    fn forwarded(&mut self, port: PortIndex, output: Output, frame: &Frame<'_, '_>) {
        let bytes = frame.to_vec();
        let (key, slot, ident) = (hash(&bytes), steering::slot(&bytes), ident(&bytes, frame.offload));
        let bytes = self.hostile.contains(&port).then(|| (header_of(frame.offload), bytes));
        self.seen.push(Seen::Forwarded { port, output, key, ident, slot, bytes });
    }

    fn dropped(&mut self, port: PortIndex, reason: DropReason) {
        self.seen.push(Seen::Dropped { port, reason });
    }
}

fn ident(bytes: &[u8], offload: Offload) -> u64 {
    hash(&[&header_of(offload).encode(), bytes].concat())
}

/// The header that asks for `offload`.
fn header_of(offload: Offload) -> NetHeader {
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
    use DropReason::{HandoverFull, PoolExhausted, ReceiverFull, ReceiverStopped, TooLarge};
    matches!(reason, ReceiverFull | TooLarge | ReceiverStopped | HandoverFull | PoolExhausted)
}

/// The edge of the pipeline on which a packet with that reason leaves it. (A rogue service is found by two stages: that edge has no one name; and so for
/// others.)
#[must_use]
pub fn edge_of(reason: DropReason) -> Option<&'static str> {
    use DropReason::{
        BadChain, BadNeighbour, BadOffload, BadTunnel, Blackhole, BogusSource, EtherTypeRefused,
        GatewayConsumed, Hairpin, HopLimit, Multicast, NeighbourConsumed, NeighbourUnresolved, NoRoute,
        NoUplink, PortDown, RogueService, ServiceBudget, ServiceBusy, ServiceConsumed, SpoofedAddress,
        SpoofedMac, SpoofedNeighbour, TooBig, TunnelChecksum, TunnelCongestion, TunnelSource,
        UnderlayNotOurs, UnknownEndpoint, UnknownNeighbour, UnknownUnicast, UnknownVni, UnknownVtep,
        VlanTagged,
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
        NeighbourUnresolved => "waiting > dropped",
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
    dropped: BTreeMap<DropReason, u64>,
}

/// A burst on its way: what was taken together from one queue.
#[derive(Debug, Default)]
struct Batch {
    pair: usize,
    /// Identity and number in the ledger; taken out when it is forwarded.
    frames: Vec<(u64, usize)>,
    decided: bool,
}

/// What the checks of one step compare with.
pub struct Checks<'a> {
    /// What was sent.
    pub ledger: &'a mut Ledger,
    /// Who sends on which queue pair.
    pub steering: &'a mut Steering,
    /// The worker knows all queues: a step that did as many commands as one may do has left some, and steers by what it knew before.
    pub up_to_date: bool,
    /// What the operator wants.
    pub network: &'a Network,
    /// The guest of each port, also of one that is about to be forgotten, and its queue pairs.
    pub guest_of: &'a dyn Fn(PortIndex) -> Option<(usize, usize)>,
    /// How many packets of a port were given to the control thread in this step.
    pub punted: &'a dyn Fn(PortIndex) -> u64,
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
            Seen::Received { port, pair, key, ident, bytes } => {
                if std::mem::take(&mut batch.decided) {
                    batch.frames.clear();
                }
                batch.pair = pair;
                let entry = checks.take(port, key, bytes, tallies.entry(port).or_default())?;
                batch.frames.push((ident, entry));
            }
            Seen::Forwarded { port, output, ident, slot, bytes, .. } => {
                batch.decided = true;
                tallies.entry(port).or_default().forwarded += 1;
                let at = batch.frames.iter().position(|(other, _)| *other == ident);
                let entry = at.map(|at| batch.frames.remove(at).1);
                checks.steering.sent(port, slot, batch.pair);
                checks.forward(port, output, (entry, bytes), slot)?;
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

impl Checks<'_> {
    /// A frame was taken: its number.
    fn take(
        &mut self,
        port: PortIndex,
        key: u64,
        bytes: Option<(NetHeader, Vec<u8>)>,
        tally: &mut Tally,
    ) -> Result<usize, Violation> {
        let Some((guest, _)) = (self.guest_of)(port) else { return nobody(port) };
        tally.received += 1;
        let at = match bytes {
            Some((header, bytes)) => self.ledger.sent_and_taken(guest, &header, &bytes, self.network.epoch),
            None => self.ledger.taken(guest, key).ok_or_else(|| {
                let what =
                    format!("the switch took a frame of guest {guest} that it did not send, or not in order");
                Violation::new("verdicts", what)
            })?,
        };
        let entry = self.ledger.entry(at);
        match entry.expect {
            _ if entry.epoch != self.network.epoch => tally.unknown += 1,
            Expect::Any => tally.unknown += 1,
            Expect::Drop(reason) => *tally.expected.entry(reason).or_default() += 1,
            Expect::Punt(_) => tally.asks += 1,
            Expect::To(_) | Expect::Answer => {}
        }
        Ok(at)
    }

    /// A frame of `port` goes to `output`; `entry`: its number, nothing if it is no frame of its burst any more; its bytes, if its sender lies.
    fn forward(
        &mut self,
        port: PortIndex,
        output: Output,
        (entry, bytes): (Option<usize>, Option<(NetHeader, Vec<u8>)>),
        slot: usize,
    ) -> Checked {
        let Some((from, _)) = (self.guest_of)(port) else { return nobody(port) };
        let Output::Port(target) = output else {
            return Err(Violation::new("verdicts", format!("a frame of guest {from} goes to {output:?}")));
        };
        let to = (self.guest_of)(target);
        let wrong = |what: String| Err(Violation::new("verdicts", what));
        // The memory of a liar may have been taken away since the frame was taken: what is left of it is another frame.
        let torn = bytes.filter(|_| entry.is_none() && target != port);
        let torn = torn.map(|(header, bytes)| self.ledger.torn(from, &header, &bytes, self.network.epoch));
        let Some(at) = entry.or(torn) else {
            // Written over: an answer, which goes back.
            return match target == port {
                true => Ok(()),
                false => wrong(format!("a frame of guest {from} was changed and goes to {to:?}")),
            };
        };
        if let Some((to, pairs)) = to {
            let pair = self.up_to_date.then(|| self.steering.pair(target, slot, pairs));
            self.ledger.decided(at, to, pair)?;
        }
        let entry = self.ledger.entry(at);
        match entry.expect {
            _ if entry.epoch != self.network.epoch => Ok(()),
            Expect::Any => Ok(()),
            Expect::To(guest) if to.is_some_and(|(to, _)| to == guest) => Ok(()),
            other => wrong(format!("a frame of guest {from} goes to guest {to:?}, expected: {other:?}")),
        }
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
            let want = self.expected.get(reason).copied().unwrap_or(0) + asks;
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
        let unkept =
            self.dropped.get(&DropReason::PoolExhausted).copied().unwrap_or(0).min(self.asks + self.unknown);
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
