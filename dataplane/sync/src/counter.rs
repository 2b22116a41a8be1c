//! Counters with one writer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A 64-bit counter that exactly one thread adds to and any thread reads. Adding is a load and a store, never a locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `amount` (wrapping). Only the one writer calls this: a second writer's additions could get lost, nothing worse.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// The present value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Replaces the value. Only for the one writer.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}
