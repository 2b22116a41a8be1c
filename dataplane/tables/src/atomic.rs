//! The atomics that the tables are made of: the standard library's or, to be explored by loom, its own.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Waits a little for somebody who holds something for some tens of instructions, after so many `tries`: unless it lost its processor meanwhile, a pause does.
pub(crate) fn relax(tries: u32) {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    match tries {
        0..100 => cpu::pause(),
        _ => std::thread::yield_now(),
    }
    let _ = tries;
}
