//! Rules that might come into force, judged beside those that are: what they would change is counted, and nothing is changed.

use super::Policy;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that are allocated together.
const CHUNK: usize = 1 << 10;
const CHUNKS: usize = super::RuleCounters::MAX as usize / CHUNK;

/// A candidate for a policy.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its rules. Their counters are numbers of [`Comparisons`].
    pub policy: Policy,
    /// Numbers at which all that is judged by it is counted, whatever rule decides: those of the groups whose rules are candidates.
    pub totals: Box<[u32]>,
}

/// What a candidate would change about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Agrees,
    /// It passes, and would not.
    WouldDeny,
    /// It does not pass, and would.
    WouldAllow,
}

/// What was counted at a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// [`Outcome::Agrees`].
    pub agrees: u64,
    /// [`Outcome::WouldDeny`].
    pub would_deny: u64,
    /// [`Outcome::WouldAllow`].
    pub would_allow: u64,
}

type Counts = [AtomicU64; 3];

/// Outcomes by number: of rules, in force or candidates, and of groups. Shared by all workers, who write them for the first packets of flows of ports with a
/// candidate only.
pub struct Comparisons {
    chunks: Box<[OnceLock<Box<[Counts]>>]>,
    unlisted: AtomicU64,
}

impl fmt::Debug for Comparisons {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Comparisons").field("unlisted", &self.unlisted).finish_non_exhaustive()
    }
}

impl Default for Comparisons {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(), unlisted: AtomicU64::new(0) }
    }
}

impl Comparisons {
    /// Outcomes at these numbers count, from zero on: before a candidate with them is published. For control threads: it may allocate.
    pub fn start(&self, numbers: &[u32]) {
        for number in numbers {
            let Some(chunk) = self.chunks.get(*number as usize / CHUNK) else { continue };
            chunk.get_or_init(|| (0..CHUNK).map(|_| Counts::default()).collect());
            self.counts(*number).into_iter().flatten().for_each(|count| count.store(0, Relaxed));
        }
    }

    /// One more. Without effect if the number was not started.
    pub fn count(&self, number: u32, outcome: Outcome) {
        if let Some(counts) = self.counts(number) {
            let [agrees, would_deny, would_allow] = counts;
            let count = match outcome {
                Outcome::Agrees => agrees,
                Outcome::WouldDeny => would_deny,
                Outcome::WouldAllow => would_allow,
            };
            count.fetch_add(1, Relaxed);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn read(&self, number: u32) -> Compared {
        let read = |counts: &Counts| counts.each_ref().map(|count| count.load(Relaxed));
        let [agrees, would_deny, would_allow] = self.counts(number).map(read).unwrap_or_default();
        Compared { agrees, would_deny, would_allow }
    }

    /// A difference was counted, but there was no room to say of which flow.
    pub fn leave_out(&self) {
        self.unlisted.fetch_add(1, Relaxed);
    }

    /// How many differences were counted without being listed.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.unlisted.load(Relaxed)
    }

    fn counts(&self, number: u32) -> Option<&Counts> {
        self.chunks.get(number as usize / CHUNK)?.get()?.get(number as usize % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_from_the_start() {
        let comparisons = Comparisons::default();
        comparisons.count(7, Outcome::WouldDeny);
        comparisons.start(&[7, 5000, u32::MAX]);
        assert_eq!(comparisons.read(7), Compared::default(), "what came before was not counted");
        for outcome in [Outcome::Agrees, Outcome::WouldDeny, Outcome::WouldDeny, Outcome::WouldAllow] {
            comparisons.count(7, outcome);
            comparisons.count(u32::MAX, outcome);
        }
        assert_eq!(comparisons.read(7), Compared { agrees: 1, would_deny: 2, would_allow: 1 });
        assert_eq!([5000, u32::MAX].map(|number| comparisons.read(number)), [Compared::default(); 2]);
        comparisons.start(&[7]);
        assert_eq!(comparisons.read(7), Compared::default());
    }
}
