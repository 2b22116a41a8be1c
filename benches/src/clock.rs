//! Time: the stamp counter, and how fast it runs.

use std::time::{Duration, Instant};

/// The rate of the time stamp counter.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    per_second: f64,
}

impl Clock {
    /// Measures the rate against the monotonic clock for 50 ms.
    #[must_use]
    pub fn calibrate() -> Self {
        let (start, from) = (Instant::now(), cpu::time_stamp());
        while start.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let (elapsed, to) = (start.elapsed(), cpu::time_stamp());
        Self { per_second: (to - from) as f64 / elapsed.as_secs_f64() }
    }

    /// Ticks per second.
    #[must_use]
    pub const fn hertz(&self) -> f64 {
        self.per_second
    }

    /// Ticks in nanoseconds.
    #[must_use]
    pub fn nanoseconds(&self, ticks: u64) -> u64 {
        (ticks as f64 * 1e9 / self.per_second) as u64
    }

    /// A time in ticks.
    #[must_use]
    pub fn ticks(&self, time: Duration) -> u64 {
        (time.as_secs_f64() * self.per_second) as u64
    }
}
