//! What the stages decide, compared with what was expected when a frame was sent.

mod reasons;
mod seen;
mod tally;

pub use reasons::{edge_of, is_delivery, is_late};
pub use seen::{Seen, Shown, Watch, header_of};

use super::carriage::Sender;
use super::ledger::{Expect, Ledger, Sent};
use super::policy::{Policies, Way, is_policy};
use super::steering::{self, Steering};
use super::{Checked, Violation, answers};
use crate::net::tunnel::{self, Outer};
use crate::network::{Network, vni};
use engine::{DropReason, Output, PortIndex};
use std::collections::BTreeMap;
use switch::UPLINK;
use tally::Tally;

/// A frame that was taken, and its number in the ledger.
#[derive(Debug)]
struct Taken {
    port: PortIndex,
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
    /// What its frames were dropped for by rules and sessions.
    dropped: BTreeMap<DropReason, u64>,
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
    /// What its rules say.
    pub policies: &'a mut Policies,
    /// Virtual time, in nanoseconds.
    pub now: u64,
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
                    checks.end(&mut batch)?;
                }
                batch.pair = pair;
                let entry = checks.take(port, &frame, lies, tallies.entry(port).or_default())?;
                batch.frames.push(Taken { port, entry, frame });
            }
            Seen::Forwarded { port, output, frame, lies } => {
                batch.decided = true;
                tallies.entry(port).or_default().forwarded += 1;
                checks.forward(port, output, &mut batch, frame, lies)?;
            }
            Seen::Dropped { port, reason } => {
                // A refused chain is shown before the frames of its burst.
                batch.decided |= reason != DropReason::BadChain;
                if is_policy(reason) {
                    *batch.dropped.entry(reason).or_default() += 1;
                }
                *tallies.entry(port).or_default().dropped.entry(reason).or_default() += 1;
            }
        }
    }
    checks.end(&mut batch)?;
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
        let inner = if port == UPLINK { frame.inner() } else { None };
        let bytes = inner.as_ref().map_or(&frame.bytes, |(_, inner)| &inner.bytes);
        if guest < self.network.ports.len() {
            self.policies.took(guest, &frame.bytes);
        }
        self.policies.attempted(self.network, (self.host, guest), entry, bytes, self.now);
        match entry.expect {
            _ if entry.epoch != self.network.epoch => tally.unknown += 1,
            Expect::Any => tally.unknown += 1,
            Expect::Drop(reason) => *tally.expected.entry(reason).or_default() += 1,
            Expect::AnswerOr(reason) => *tally.perhaps.entry(reason).or_default() += 1,
            Expect::Punt(_) => tally.asks += 1,
            Expect::To(_) | Expect::Away(_) | Expect::Answer => {}
        }
        Ok(at)
    }

    /// A burst is over: what is left of it went nowhere.
    fn end(&mut self, batch: &mut Batch) -> Checked {
        self.policies.settle()?;
        let (frames, dropped) = (std::mem::take(&mut batch.frames), std::mem::take(&mut batch.dropped));
        if dropped.is_empty() {
            return Ok(());
        }
        let rest: Vec<(usize, &Sent, Vec<u8>)> = frames
            .into_iter()
            .filter_map(|taken| {
                let (from, _) = (self.guest_of)(taken.port)?;
                let inner = if taken.port == UPLINK { taken.frame.inner() } else { None };
                let frame = inner.map_or(taken.frame, |(_, inner)| inner);
                Some((from, self.ledger.entry(taken.entry), frame.bytes))
            })
            .collect();
        self.policies.ends(self.network, self.host, self.now, &rest, &dropped)
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
        if let Some((_, inner)) = inner.as_ref().filter(|_| target == port)
            && self.answer_in_tunnel(from, batch, inner)
        {
            return Ok(());
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
            (self.edge)(if port == UPLINK { "late packet sent on" } else { "encapsulate > uplink" });
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
        let goes = |at: &usize| !self.ledger.entry(batch.frames[*at].entry).unlikely;
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
        let guest = |at: usize| (at < self.network.ports.len()).then_some(at);
        let way = Way { host: self.host, from: guest(from), to: to.and_then(|(to, _)| guest(to)) };
        self.policies.passes(self.network, way, self.now, &frame.bytes)?;
        let entry = self.ledger.entry(at);
        let there = |guest: usize| match self.network.ports.get(guest) {
            Some(port) if target == UPLINK => port.host != self.host || port.moves.is_some(),
            Some(port) if !port.is_on(self.host) || self.network.heard.contains(&(guest, self.host)) => false,
            _ => to.is_some_and(|(to, _)| to == guest),
        };
        match entry.expect {
            _ if entry.epoch != self.network.epoch => Ok(()),
            Expect::Any => Ok(()),
            Expect::To(guest) if there(guest) => Ok(()),
            Expect::Away(_) if target == UPLINK => Ok(()),
            other => wrong(format!("a frame of guest {from} goes to guest {to:?}, expected: {other:?}")),
        }
    }

    /// A frame goes to another host: the one that its receiver is on, in its VPC.
    fn check_tunnel(&self, at: usize, from: usize, outer: &Outer) -> Checked {
        let entry = self.ledger.entry(at);
        if let (Expect::Away(endpoint), true) = (entry.expect, entry.epoch == self.network.epoch) {
            let endpoint = &self.network.endpoints[endpoint];
            let vtep = self.network.vtep(endpoint.vtep).address;
            if outer.addresses.1 != vtep || outer.vni != vni(endpoint.subnet.0) {
                let (to, vni) = (outer.addresses.1, outer.vni);
                return wrong(format!(
                    "a frame of guest {from} for {endpoint:?} goes to {to} with VNI {vni:x}"
                ));
            }
        }
        if let (Expect::To(guest), true) = (entry.expect, entry.epoch == self.network.epoch) {
            let port = &self.network.ports[guest];
            let host = self.network.host_at(outer.addresses.1).filter(|host| *host != self.host);
            if !host.is_some_and(|host| port.is_on(host)) || outer.vni != vni(port.subnet.0) {
                return wrong(format!(
                    "a frame of guest {from} for guest {guest} goes to {} with VNI {:x}",
                    outer.addresses.1, outer.vni
                ));
            }
        }
        Ok(())
    }

    /// Whether what goes back into a tunnel answers what came out of one.
    fn answer_in_tunnel(&mut self, from: usize, batch: &mut Batch, frame: &Shown) -> bool {
        let found = batch.frames.iter().position(|taken| {
            let entry = self.ledger.entry(taken.entry);
            let may = matches!(entry.expect, Expect::Any | Expect::Answer | Expect::AnswerOr(_))
                || entry.epoch != self.network.epoch;
            let asked = taken.frame.inner();
            may && asked.is_some_and(|(_, asked)| answers::is_answer(&asked.bytes, &frame.bytes))
        });
        let Some(at) = found else { return false };
        batch.frames.remove(at);
        let kind = answers::kind(&frame.bytes);
        (self.edge)(kind);
        if kind != answers::NEIGHBOUR {
            self.ledger.answer(from, &frame.header, &frame.bytes, self.network.epoch);
        }
        true
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
            let asked = |taken: &Taken| {
                let entry = self.ledger.entry(taken.entry);
                answers::is_answer(&taken.frame.bytes, &frame.bytes).then_some(entry.expect)
            };
            let expected: Vec<Expect> = batch.frames.iter().filter_map(asked).collect();
            return wrong(format!(
                "guest {from} is sent an answer to nothing that it asked: {} (expected {expected:?})",
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
