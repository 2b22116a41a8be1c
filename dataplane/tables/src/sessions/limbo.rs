//! When a removed session's record may be used again: once every worker has begun another burst.
//!
//! Whoever removed some sessions raises the generation, then waits for all workers to have seen it. A worker reads the generation between two
//! bursts (acquire), so what it looks up afterwards no longer leads to what was removed before the generation was raised (release); then it says so by one store. Workers asleep
//! are off line and hold up nobody; the two barriers around that make sure that a worker that wakes either is waited for or sees the removal.

use std::collections::VecDeque;

use crate::atomic::{AtomicU64, Ordering, fence};
use Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// What a worker that sleeps, or is not there, claims to have seen.
const OFF_LINE: u64 = u64::MAX;
/// Batches that may wait before more is put into the last one.
const BATCHES: usize = 8;

/// One worker's word, in a line of its own.
#[repr(align(64))]
struct Seen(AtomicU64);

/// What workers have seen.
pub(super) struct Quiescence {
    generation: AtomicU64,
    seen: Box<[Seen]>,
}

impl Quiescence {
    pub(super) fn new(workers: usize) -> Self {
        let seen = (0..workers).map(|_| Seen(AtomicU64::new(OFF_LINE))).collect();
        Self { generation: AtomicU64::new(1), seen }
    }

    /// Worker `worker` holds nothing of before.
    #[inline(always)]
    pub(super) fn pass(&self, worker: usize) {
        let seen = &self.seen[worker].0;
        let generation = self.generation.load(Acquire);
        let before = seen.load(Relaxed);
        if before != generation {
            seen.store(generation, Release);
            if before == OFF_LINE {
                self.wake(seen);
            }
        }
    }

    #[cold]
    fn wake(&self, seen: &AtomicU64) {
        fence(SeqCst);
        seen.store(self.generation.load(Acquire), Release);
    }

    pub(super) fn off_line(&self, worker: usize) {
        self.seen[worker].0.store(OFF_LINE, Release);
    }

    fn raise(&self) -> u64 {
        self.generation.fetch_add(1, AcqRel) + 1
    }

    fn oldest_seen(&self) -> u64 {
        fence(SeqCst);
        self.seen.iter().map(|seen| seen.0.load(Acquire)).min().unwrap_or(OFF_LINE)
    }
}

/// Records of one worker that rest.
#[derive(Default)]
pub(super) struct Limbo {
    /// Numbers, oldest first; the last `open` belong to no batch yet.
    resting: VecDeque<u32>,
    open: usize,
    /// The generation that all must have seen, and how many numbers wait for it.
    batches: VecDeque<(u64, usize)>,
}

impl Limbo {
    #[inline]
    pub(super) fn rest(&mut self, number: u32) {
        self.resting.push_back(number);
        self.open += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resting.is_empty()
    }

    /// Between two bursts: what may be used again.
    pub(super) fn release(&mut self, quiescence: &Quiescence, mut freed: impl FnMut(u32)) {
        if self.open > 0 && self.batches.len() < BATCHES {
            self.batches.push_back((quiescence.raise(), self.open));
            self.open = 0;
        }
        if self.batches.is_empty() {
            return;
        }
        let seen = quiescence.oldest_seen();
        while let Some((_, count)) = self.batches.pop_front_if(|(goal, _)| *goal <= seen) {
            self.resting.drain(..count).for_each(&mut freed);
        }
    }

    /// Everything, to be handed to another worker.
    pub(super) fn take(&mut self) -> Vec<u32> {
        self.open = 0;
        self.batches.clear();
        self.resting.drain(..).collect()
    }
}
