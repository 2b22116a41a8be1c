//! Values replaced as a whole and read without waiting.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The generation a reader that is asleep claims to have seen.
const OFF_LINE: u64 = u64::MAX;

struct Slot<T> {
    generation: AtomicU64,
    current: Mutex<Arc<T>>,
    readers: Mutex<Vec<Arc<AtomicU64>>>,
}

/// The writer's half. Belongs to one control thread.
pub struct Published<T> {
    slot: Arc<Slot<T>>,
    retired: Vec<Arc<T>>,
}

/// A reader's half. Belongs to one worker.
pub struct Reader<T> {
    slot: Arc<Slot<T>>,
    seen: Arc<AtomicU64>,
    current: Arc<T>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding these locks, so a poisoned one still holds a whole value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Published<T> {
    /// Publishes a first value.
    pub fn new(value: T) -> Self {
        let current = Mutex::new(Arc::new(value));
        Self {
            slot: Arc::new(Slot { generation: AtomicU64::new(1), current, readers: Mutex::default() }),
            retired: Vec::new(),
        }
    }

    /// A new reader, on line, seeing the present value.
    pub fn reader(&self) -> Reader<T> {
        let seen = Arc::new(AtomicU64::new(self.slot.generation.load(Acquire)));
        lock(&self.slot.readers).push(seen.clone());
        let current = lock(&self.slot.current).clone();
        Reader { slot: self.slot.clone(), seen, current }
    }

    /// The present value.
    pub fn current(&self) -> Arc<T> {
        lock(&self.slot.current).clone()
    }

    /// Replaces the value. Readers see it from their next [`Reader::refresh`] on. Never waits for them.
    pub fn publish(&mut self, value: T) {
        let old = std::mem::replace(&mut *lock(&self.slot.current), Arc::new(value));
        self.slot.generation.fetch_add(1, Release);
        self.retired.push(old);
        self.reclaim();
    }

    /// Drops replaced values that no reader holds any more; returns how many are still held.
    pub fn reclaim(&mut self) -> usize {
        self.retired.retain(|value| Arc::strong_count(value) > 1);
        self.retired.len()
    }

    /// Waits until every reader on line has seen the present value; false after `limit`. For control threads only.
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        let goal = self.slot.generation.load(Acquire);
        let deadline = Instant::now() + limit;
        loop {
            {
                let mut readers = lock(&self.slot.readers);
                readers.retain(|seen| Arc::strong_count(seen) > 1);
                if readers.iter().all(|seen| seen.load(Acquire) >= goal) {
                    break;
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        self.reclaim();
        true
    }
}

impl<T> Reader<T> {
    /// Takes up the present value if it changed: one load when it did not. Call once per burst, between packets. True if it changed.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        let generation = self.slot.generation.load(Acquire);
        generation != self.seen.load(Relaxed) && self.take_up(generation)
    }

    #[cold]
    fn take_up(&mut self, generation: u64) -> bool {
        // A writer that holds the lock is about to publish again; the old value is good for one more burst.
        let Ok(current) = self.slot.current.try_lock() else { return false };
        // The value may be newer than `generation`; then the next refresh takes up the same value once more.
        self.current = current.clone();
        drop(current);
        self.seen.store(generation, Release);
        true
    }

    /// Whether the value last taken up is the present one.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.slot.generation.load(Acquire) == self.seen.load(Relaxed)
    }

    /// The value last taken up.
    #[inline(always)]
    pub fn get(&self) -> &T {
        &self.current
    }

    /// Says that this reader looks at nothing until it calls [`Reader::refresh`] again (its worker goes to sleep).
    pub fn off_line(&mut self) {
        self.seen.store(OFF_LINE, Release);
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        let seen = Arc::new(AtomicU64::new(0));
        lock(&self.slot.readers).push(seen.clone());
        let mut reader = Self { slot: self.slot.clone(), seen, current: self.current.clone() };
        reader.refresh();
        reader
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn readers_see_a_value_after_refresh_and_not_before() {
        let mut published = Published::new(1);
        let mut reader = published.reader();
        published.publish(2);
        assert_eq!(*reader.get(), 1);
        assert!(reader.refresh());
        assert_eq!(*reader.get(), 2);
        assert!(!reader.refresh());
    }

    #[test]
    fn values_are_dropped_by_the_writer_once_unseen() {
        let mut published = Published::new(Arc::new(()));
        let first = Arc::downgrade(&published.current());
        let mut reader = published.reader();
        published.publish(Arc::new(()));
        assert_eq!(published.reclaim(), 1);
        assert!(first.upgrade().is_some());
        assert!(
            !published.synchronize(Duration::from_millis(1)),
            "the reader is on line and has not refreshed"
        );
        reader.off_line();
        assert!(published.synchronize(Duration::from_secs(1)));
        reader.refresh();
        assert_eq!(published.reclaim(), 0);
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn a_dropped_reader_does_not_hold_up_the_writer() {
        let mut published = Published::new(1);
        drop(published.reader());
        published.publish(2);
        assert!(published.synchronize(Duration::from_secs(1)));
    }

    #[test]
    fn concurrent_readers_see_whole_values_in_order() {
        let mut published = Published::new((0u64, 0u64));
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (mut reader, stop) = (published.reader(), stop.clone());
                std::thread::spawn(move || {
                    let mut last = 0;
                    while !stop.load(Relaxed) {
                        reader.refresh();
                        let (first, second) = *reader.get();
                        assert_eq!(first, second);
                        assert!(first >= last);
                        last = first;
                    }
                })
            })
            .collect();
        for value in 1..2000 {
            published.publish((value, value));
        }
        assert!(published.synchronize(Duration::from_secs(10)));
        stop.store(true, Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(published.reclaim(), 0);
    }
}
