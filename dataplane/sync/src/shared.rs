//! Things that one thread at a time may touch, and that a worker never waits for.
//!
//! # Safety boundary
//!
//! [`Shared`] hands out `&mut T` to whoever is inside. What must hold: at most one of the workers and control threads is.
//!
//! * A control thread sets `wanted`, then looks at `inside`; a worker sets `inside`, then looks at `wanted`. Between its two
//!   steps each side has a full barrier, so at least one sees the other (Dekker). The worker is the one that backs out.
//! * The worker's barrier is none where the kernel offers `membarrier(2)`: the control thread's system call then puts one into every running
//!   thread of the process, between any two instructions. A worker's locked instruction would wait for all its stores to guest
//!   memory, which takes long when the cores are far apart.
//! * Control threads exclude each other by a mutex.
//! * Workers exclude each other by compare-and-swap on `inside`, or ([`Shared::for_one_worker`]) by identity: the first thread that tries
//!   owns the worker's side for good, all others are turned away.
//!
//! The tests below attack it with threads; `tests/shared_model.rs` explores every interleaving of its steps.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize, compiler_fence, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How often a control thread looks whether the worker is out before it sleeps between looks.
const LOOKS: u32 = 200;
/// How long it sleeps then.
const NAP: Duration = Duration::from_micros(20);

/// An ownership word around `T`.
///
/// Workers call [`Shared::try_take`] once per burst and do something else when it fails. Control threads call [`Shared::take`], which
/// first makes all later tries fail; so they get in as soon as the worker that is inside ends its burst.
#[derive(Debug, Default)]
pub struct Shared<T> {
    /// A control thread is inside or asks.
    wanted: AtomicBool,
    /// A worker is inside.
    inside: AtomicBool,
    /// With one worker: the thread that may try, once it has tried.
    worker: AtomicUsize,
    one_worker: bool,
    gate: Mutex<()>,
    value: UnsafeCell<T>,
}

// SAFETY: see the Safety boundary chapter: `&mut T` is handed to one thread at a time, with acquire and release around it.
unsafe impl<T: Send> Sync for Shared<T> {}

/// A worker's ownership, until dropped.
pub struct WorkerGuard<'a, T>(&'a Shared<T>);

/// A control thread's ownership, until dropped.
pub struct ControlGuard<'a, T> {
    shared: &'a Shared<T>,
    _gate: MutexGuard<'a, ()>,
}

/// Whether `membarrier` can replace the workers' barriers. Asked for once per process.
fn has_membarrier() -> bool {
    use rustix::thread::{MembarrierCommand, membarrier};
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok())
}

/// A number that no two living threads share.
#[inline(always)]
fn this_thread() -> usize {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark) as usize)
}

impl<T> Shared<T> {
    /// Wraps `value`; any number of workers may try.
    pub const fn new(value: T) -> Self {
        Self {
            wanted: AtomicBool::new(false),
            inside: AtomicBool::new(false),
            worker: AtomicUsize::new(0),
            one_worker: false,
            gate: Mutex::new(()),
            value: UnsafeCell::new(value),
        }
    }

    /// Wraps `value` for one worker: the thread that tries first. Its tries cost no locked instruction; those of other threads fail.
    pub fn for_one_worker(value: T) -> Self {
        Self { one_worker: has_membarrier(), ..Self::new(value) }
    }

    /// Takes ownership if nobody has it and no control thread asks for it. Never waits.
    #[inline(always)]
    pub fn try_take(&self) -> Option<WorkerGuard<'_, T>> {
        if self.wanted.load(Acquire) || self.inside.load(Relaxed) {
            return None;
        }
        if self.one_worker {
            let thread = this_thread();
            if self.worker.load(Relaxed) != thread && !self.claim(thread) {
                return None;
            }
            self.inside.store(true, Relaxed);
            // The barrier is in `take`.
            compiler_fence(SeqCst);
        } else {
            self.inside.compare_exchange(false, true, AcqRel, Relaxed).ok()?;
            fence(SeqCst);
        }
        let guard = WorkerGuard(self);
        // Dropping the guard backs out.
        (!self.wanted.load(Acquire)).then_some(guard)
    }

    #[cold]
    fn claim(&self, thread: usize) -> bool {
        self.worker.compare_exchange(0, thread, AcqRel, Relaxed).is_ok()
    }

    /// Takes ownership, waiting for the burst in progress. For control threads only.
    pub fn take(&self) -> ControlGuard<'_, T> {
        // Nothing is protected by the gate itself, so a poisoned one is as good.
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.store(true, SeqCst);
        fence(SeqCst);
        if self.one_worker {
            use rustix::thread::{MembarrierCommand, membarrier};
            let barrier = membarrier(MembarrierCommand::PrivateExpedited);
            // It was registered, and there is no other way for it to fail.
            debug_assert!(barrier.is_ok());
        }
        let mut looks = 0;
        while self.inside.load(Acquire) {
            looks += 1;
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::sleep(NAP) }
        }
        ControlGuard { shared: self, _gate: gate }
    }
}

impl<T> Drop for WorkerGuard<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.0.inside.store(false, Release);
    }
}

impl<T> Drop for ControlGuard<'_, T> {
    fn drop(&mut self) {
        self.shared.wanted.store(false, Release);
    }
}

impl<T> Deref for WorkerGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: this guard says that its worker is inside, alone.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for WorkerGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Deref for ControlGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the gate keeps other control threads out, `wanted` and the wait in `take` the workers.
        unsafe { &*self.shared.value.get() }
    }
}

impl<T> DerefMut for ControlGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed exclusively.
        unsafe { &mut *self.shared.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    fn both() -> [Shared<u64>; 2] {
        [Shared::new(1), Shared::for_one_worker(1)]
    }

    #[test]
    fn a_try_fails_while_taken() {
        for shared in both() {
            let guard = shared.try_take().unwrap();
            assert!(shared.try_take().is_none());
            drop(guard);
            {
                let mut control = shared.take();
                *control += 1;
                assert!(shared.try_take().is_none());
            }
            assert_eq!(*shared.try_take().unwrap(), 2);
        }
    }

    #[test]
    fn a_second_thread_is_turned_away_from_one_workers_own() {
        let shared = Shared::for_one_worker(0);
        drop(shared.try_take().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(shared.try_take().is_none(), has_membarrier()));
        });
        assert!(shared.try_take().is_some());
    }

    #[test]
    fn l03_a_polling_worker_lets_control_threads_in_and_nobody_meets_inside() {
        for shared in both() {
            let shared = Arc::new(Shared { value: UnsafeCell::new((0u64, 0u64)), ..convert(shared) });
            let stop = Arc::new(AtomicBool::new(false));
            let count = |pair: &mut (u64, u64)| {
                // Two halves that only exclusive owners keep equal.
                assert_eq!(pair.0, pair.1);
                pair.0 += 1;
                std::hint::black_box(&pair);
                pair.1 += 1;
            };
            let worker = {
                let (shared, stop) = (shared.clone(), stop.clone());
                std::thread::spawn(move || {
                    let mut bursts = 0u64;
                    while !stop.load(Relaxed) {
                        if let Some(mut guard) = shared.try_take() {
                            count(&mut guard);
                            bursts += 1;
                        }
                    }
                    bursts
                })
            };
            let start = Instant::now();
            let controls: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    std::thread::spawn(move || (0..2000).for_each(|_| count(&mut shared.take())))
                })
                .collect();
            controls.into_iter().for_each(|thread| thread.join().unwrap());
            stop.store(true, Relaxed);
            let bursts = worker.join().unwrap();
            assert_eq!(shared.take().0, bursts + 4000);
            assert!(start.elapsed() < Duration::from_secs(30), "the worker starved the control threads");
        }
    }

    fn convert(shared: Shared<u64>) -> Shared<(u64, u64)> {
        Shared { one_worker: shared.one_worker, ..Shared::new((0, 0)) }
    }
}
