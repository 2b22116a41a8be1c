//! How often each rule decided, and when it last did.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Counters that are allocated together.
const CHUNK: usize = 1 << 10;
const CHUNKS: usize = RuleCounters::MAX as usize / CHUNK;

#[derive(Default)]
struct Counter {
    hits: AtomicU64,
    /// Seconds, of the clock that those who hit it look at; 0 never.
    last: AtomicU32,
}

/// Hits of rules by their counters' numbers, shared by all workers, who write them for the first packets of flows only.
pub struct RuleCounters {
    chunks: Box<[OnceLock<Box<[Counter]>>]>,
}

/// What a counter says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleHits {
    /// Packets that the rule decided about. Later packets of a session are not among them.
    pub hits: u64,
    /// When it last did, in seconds of the workers' clock; `None` if never.
    pub last: Option<u32>,
}

impl Default for RuleCounters {
    fn default() -> Self {
        Self { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }
}

impl RuleCounters {
    /// Numbers are below this.
    pub const MAX: u32 = 1 << 22;

    /// No counters yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes sure that hits of this number are counted: before a policy with it is published. False for a number of [`RuleCounters::MAX`] or more.
    /// For control threads: it may allocate.
    pub fn prepare(&self, number: u32) -> bool {
        let Some(chunk) = self.chunks.get(number as usize / CHUNK) else { return false };
        chunk.get_or_init(|| (0..CHUNK).map(|_| Counter::default()).collect());
        true
    }

    /// A hit, now: a number of seconds. Without effect if the number was not prepared.
    #[inline]
    pub fn hit(&self, number: u32, now: u32) {
        if let Some(counter) = self.counter(number) {
            counter.hits.fetch_add(1, Relaxed);
            if counter.last.load(Relaxed) != now {
                counter.last.store(now.max(1), Relaxed);
            }
        }
    }

    /// What was counted.
    #[must_use]
    pub fn read(&self, number: u32) -> RuleHits {
        self.counter(number).map_or_else(RuleHits::default, |counter| RuleHits {
            hits: counter.hits.load(Relaxed),
            last: Some(counter.last.load(Relaxed)).filter(|last| *last != 0),
        })
    }

    /// Begins anew: the number goes to another rule. A worker that still uses the old one may count one more.
    pub fn reset(&self, number: u32) {
        if let Some(counter) = self.counter(number) {
            counter.hits.store(0, Relaxed);
            counter.last.store(0, Relaxed);
        }
    }

    #[inline]
    fn counter(&self, number: u32) -> Option<&Counter> {
        self.chunks.get(number as usize / CHUNK)?.get()?.get(number as usize % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_and_their_time_are_counted() {
        let counters = RuleCounters::new();
        assert!(!counters.prepare(RuleCounters::MAX));
        counters.hit(5000, 7);
        assert_eq!(counters.read(5000), RuleHits::default(), "not prepared");
        assert!(counters.prepare(5000));
        assert_eq!(counters.read(5000), RuleHits::default());
        counters.hit(5000, 7);
        counters.hit(5000, 9);
        counters.hit(RuleCounters::MAX, 9);
        assert_eq!(counters.read(5000), RuleHits { hits: 2, last: Some(9) });
        assert_eq!(counters.read(5001), RuleHits::default());
        counters.reset(5000);
        assert_eq!(counters.read(5000), RuleHits::default());
    }

    #[test]
    fn two_threads_lose_no_hit() {
        let counters = RuleCounters::new();
        assert!(counters.prepare(3));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..10_000).for_each(|at| counters.hit(3, at / 1000)));
            }
        });
        assert_eq!(counters.read(3).hits, 20_000);
    }
}
