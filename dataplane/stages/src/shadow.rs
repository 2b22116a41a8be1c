//! Compares candidates for rules with the rules in force, on the flows that are judged: what would be different is counted and written down.
//!
//! Not a stage, and not an observer: [`policy`](crate::policy) calls it where it asks the rules, which is where both ends, their rules and the addresses that rules speak of
//! are known. Established packets never come there; a port without a candidate pays one branch per first packet. Nothing here changes what becomes of a packet, or its session.

use crate::police::{self, End, Police};
use crate::tuple::Tuple;
use crossbeam::queue::ArrayQueue;
use std::net::IpAddr;
use std::sync::Arc;
use tables::Shares;
use tables::rules::{Comparisons, Direction, Judgement, Outcome};

/// A flow that a candidate would treat otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The port whose candidate it is.
    pub port: u16,
    /// Which way the flow's first packet goes, seen from the port.
    pub direction: Direction,
    /// What the rules in force say at this port.
    pub live: Judgement,
    /// What the candidate says.
    pub candidate: Judgement,
    /// Who begins the flow.
    pub source: IpAddr,
    /// With whom, as rules see it.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports; of a query of ICMP its identifier, type and code.
    pub ports: [u16; 2],
}

/// Where a worker says what candidates would change.
#[derive(Clone, Debug)]
pub struct Shadow {
    comparisons: Arc<Comparisons>,
    differences: Arc<ArrayQueue<Difference>>,
    budgets: Shares,
}

impl Shadow {
    /// Differences of a port that are written down per second, and at once, by one worker.
    const RATE: (u64, u64) = (100, 64);
    /// Ports that have budgets of their own. Of more, a few share one.
    const SHARES: u16 = 1024;

    /// One that counts at `comparisons` and whose differences are read from `differences`.
    pub fn new(comparisons: Arc<Comparisons>, differences: Arc<ArrayQueue<Difference>>) -> Self {
        let (rate, burst) = Self::RATE;
        Self { comparisons, differences, budgets: Shares::new(Self::SHARES, rate, burst) }
    }

    fn write(&mut self, difference: Difference, now: u64) {
        // A control thread that is behind misses some.
        let listed =
            self.budgets.of(difference.port).take(now, 1) && self.differences.push(difference).is_ok();
        if !listed {
            self.comparisons.leave_out();
        }
    }
}

/// Whether an end has a candidate.
#[inline(always)]
pub(crate) fn has_candidate(end: Option<End<'_>>) -> bool {
    end.is_some_and(|end| end.candidate.is_some())
}

/// What is said at one end.
struct Said<'a> {
    end: End<'a>,
    direction: Direction,
    live: Judgement,
    candidate: Judgement,
}

impl Said<'_> {
    /// What the candidate of this end changes about the flow.
    fn outcome(&self, passes: bool, would_pass: bool) -> Outcome {
        match (passes, would_pass) {
            (true, false) if !self.candidate.allowed => Outcome::WouldDeny,
            (false, true) if !self.live.allowed => Outcome::WouldAllow,
            _ => Outcome::Agrees,
        }
    }
}

impl<'a> Police<'a> {
    /// Judges a flow by what is in force and by the candidates of its ends, as if these were in force, and says what would be different.
    #[cold]
    #[inline(never)]
    pub(crate) fn compare(&mut self, ends: [(Option<End<'a>>, Direction); 2], tuple: &Tuple, now: u64) {
        let said = ends.map(|(end, direction)| {
            let end = end?;
            let live = police::ask(self.members, end, direction, tuple);
            let mut ask =
                |candidate| police::ask_policy(self.members, (candidate, end.vpc), direction, tuple);
            let candidate = end.candidate.map_or(live, |candidate| ask(&candidate.policy));
            Some(Said { end, direction, live, candidate })
        });
        let passes = said.iter().flatten().all(|said| said.live.allowed);
        let would_pass = said.iter().flatten().all(|said| said.candidate.allowed);
        let mut listed = false;
        for said in said.iter().flatten() {
            let Some(candidate) = said.end.candidate else { continue };
            let outcome = said.outcome(passes, would_pass);
            let rules = [said.live.rule, said.candidate.rule].into_iter().flatten();
            for number in candidate.totals.iter().copied().chain(rules) {
                self.shadow.comparisons.count(number, outcome);
            }
            if outcome != Outcome::Agrees && !listed {
                // Once, though both ends may differ.
                listed = true;
                let Tuple { source, destination, protocol, .. } = *tuple;
                let (port, ports) = (said.end.port, tuple.ports());
                let Said { direction, live, candidate, .. } = *said;
                let difference =
                    Difference { port, direction, live, candidate, source, destination, protocol, ports };
                self.shadow.write(difference, now);
            }
        }
    }
}
