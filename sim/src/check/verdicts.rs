//! What the stages decide, compared with what was expected when a frame was sent.

use super::ledger::{Expect, Ledger};
use super::{Checked, Violation};
use crate::network::Network;
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
        /// Hash of its bytes.
        key: u64,
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
}

impl Observer for Watch {
    fn received(&mut self, port: PortIndex, frame: &Frame<'_, '_>) {
        let bytes = frame.to_vec();
        let key = crate::trace::hash(&bytes);
        let bytes = self.hostile.contains(&port).then(|| (header_of(frame.offload), bytes));
        self.seen.push(Seen::Received { port, key, bytes });
    }

    fn forwarded(&mut self, port: PortIndex, output: Output, frame: &Frame<'_, '_>) {
        let key = crate::trace::hash(&frame.to_vec());
        self.seen.push(Seen::Forwarded { port, output, key });
    }

    fn dropped(&mut self, port: PortIndex, reason: DropReason) {
        self.seen.push(Seen::Dropped { port, reason });
    }
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

#[derive(Debug, Default)]
struct Tally {
    received: u64,
    forwarded: u64,
    unknown: u64,
    expected: BTreeMap<DropReason, u64>,
    dropped: BTreeMap<DropReason, u64>,
}

/// Compares one step. `guest_of` names the guest of a port (also of one that is about to be forgotten).
///
/// # Errors
///
/// A frame went elsewhere or ended for another reason than expected.
pub fn check(
    seen: Vec<Seen>,
    ledger: &mut Ledger,
    network: &Network,
    guest_of: impl Fn(PortIndex) -> Option<usize>,
) -> Checked {
    let mut tallies: BTreeMap<PortIndex, Tally> = BTreeMap::new();
    for seen in seen {
        match seen {
            Seen::Received { port, key, bytes } => {
                let Some(guest) = guest_of(port) else { return nobody(port) };
                if let Some((header, bytes)) = bytes {
                    ledger.sent(guest, &header, &bytes, Expect::Any, network.epoch);
                }
                let tally = tallies.entry(port).or_default();
                tally.received += 1;
                let Some(entry) = ledger.find(guest, key, |entry| !entry.seen) else {
                    let what = format!("the switch took a frame of guest {guest} that it did not send");
                    return Err(Violation::new("verdicts", what));
                };
                entry.seen = true;
                match entry.expect {
                    _ if entry.epoch != network.epoch => tally.unknown += 1,
                    Expect::Any => tally.unknown += 1,
                    Expect::Drop(reason) => *tally.expected.entry(reason).or_default() += 1,
                    Expect::To(_) | Expect::Answer => {}
                }
            }
            Seen::Forwarded { port, output, key } => {
                tallies.entry(port).or_default().forwarded += 1;
                check_output(ledger, network, &guest_of, port, output, key)?;
            }
            Seen::Dropped { port, reason } => {
                *tallies.entry(port).or_default().dropped.entry(reason).or_default() += 1;
            }
        }
    }
    tallies.iter().try_for_each(|(port, tally)| tally.check(*port))
}

fn nobody(port: PortIndex) -> Checked {
    Err(Violation::new("verdicts", format!("a frame was taken from {port:?}, which is nobody's")))
}

fn check_output(
    ledger: &mut Ledger,
    network: &Network,
    guest_of: &impl Fn(PortIndex) -> Option<usize>,
    port: PortIndex,
    output: Output,
    key: u64,
) -> Checked {
    let Some(from) = guest_of(port) else { return nobody(port) };
    let Output::Port(target) = output else { return Ok(()) };
    let to = guest_of(target);
    let wrong = |what: String| Err(Violation::new("verdicts", what));
    let Some(entry) = ledger.find(from, key, |entry| entry.seen && !entry.forwarded) else {
        // Written over: an answer, which goes back.
        return match target == port {
            true => Ok(()),
            false => wrong(format!("a frame of guest {from} was changed and goes to {to:?}")),
        };
    };
    entry.forwarded = true;
    match entry.expect {
        _ if entry.epoch != network.epoch => Ok(()),
        Expect::Any => Ok(()),
        Expect::To(guest) if to == Some(guest) => Ok(()),
        other => wrong(format!("a frame of guest {from} goes to guest {to:?}, expected: {other:?}")),
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
            let want = self.expected.get(reason).copied().unwrap_or(0);
            if *got > want + self.unknown {
                return wrong(format!(
                    "{got} frames ended as {}, {want} should have, {} were anything",
                    reason.name(),
                    self.unknown
                ));
            }
        }
        let ended: u64 = stages().map(|(_, count)| count).sum();
        if self.forwarded + ended != self.received {
            return wrong(format!(
                "{} frames taken, {} forwarded, {ended} ended",
                self.received, self.forwarded
            ));
        }
        Ok(())
    }
}
