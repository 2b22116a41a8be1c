//! Things that one thread at a time may touch, and that a worker never waits for.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// An ownership word around `T`.
///
/// Workers call [`Shared::try_take`] once per burst and do something else when it fails. Control threads call [`Shared::take`], which
/// first makes all later tries fail; so they get in as soon as the worker that is inside ends its burst.
#[derive(Debug, Default)]
pub struct Shared<T> {
    wanted: AtomicUsize,
    value: Mutex<T>,
}

/// Ownership, until dropped.
pub struct SharedGuard<'a, T>(MutexGuard<'a, T>);

impl<T> Shared<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self { wanted: AtomicUsize::new(0), value: Mutex::new(value) }
    }

    /// Takes ownership if nobody has it and no control thread asks for it. Never waits.
    #[inline(always)]
    pub fn try_take(&self) -> Option<SharedGuard<'_, T>> {
        if self.wanted.load(Relaxed) != 0 {
            return None;
        }
        match self.value.try_lock() {
            Ok(guard) => Some(SharedGuard(guard)),
            // A worker that panicked inside was stopped; whoever comes next resets what it finds.
            Err(TryLockError::Poisoned(error)) => Some(SharedGuard(error.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Takes ownership, waiting for the burst in progress. For control threads only.
    pub fn take(&self) -> SharedGuard<'_, T> {
        self.wanted.fetch_add(1, Relaxed);
        let guard = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.fetch_sub(1, Relaxed);
        SharedGuard(guard)
    }
}

impl<T> Deref for SharedGuard<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for SharedGuard<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    #[test]
    fn a_try_fails_while_taken() {
        let shared = Shared::new(1);
        let guard = shared.try_take().unwrap();
        assert!(shared.try_take().is_none());
        drop(guard);
        *shared.take() += 1;
        assert_eq!(*shared.try_take().unwrap(), 2);
    }

    #[test]
    fn a_polling_worker_lets_a_control_thread_in() {
        let shared = Arc::new(Shared::new(0u64));
        let stop = Arc::new(AtomicBool::new(false));
        let worker = {
            let (shared, stop) = (shared.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    if let Some(mut guard) = shared.try_take() {
                        *guard += 1;
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            })
        };
        let start = Instant::now();
        for _ in 0..100 {
            drop(shared.take());
        }
        stop.store(true, Relaxed);
        worker.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(20), "the worker starved the control thread");
    }
}
