//! How far apart two cores are: the round trip of a cache line between them.
//!
//! A hypervisor moves virtual cores between places that share a cache and places that do not; nothing in the guest says
//! so, and every result changes with it. A measurement counts only between two probes that agree.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::affinity;

/// What a probe says about two cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// They share a cache: the round trip is below 200 ns.
    Near,
    /// They do not: it is above 300 ns.
    Far,
}

impl std::fmt::Display for Distance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Near => "near",
            Self::Far => "far",
        })
    }
}

/// One probe's result.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Probe {
    /// Mean nanoseconds per round trip over the middle of the probe.
    pub round_trip_ns: f64,
}

impl Probe {
    /// Near, far, or neither.
    #[must_use]
    pub fn distance(self) -> Option<Distance> {
        match self.round_trip_ns {
            ns if ns < 200.0 => Some(Distance::Near),
            ns if ns > 300.0 => Some(Distance::Far),
            _ => None,
        }
    }
}

#[repr(align(128))]
struct Line(AtomicU64);

/// Bounces two cache lines between two cores for `time`; the median of short windows, so that being scheduled out once
/// does not count.
///
/// # Errors
///
/// When a thread cannot be pinned.
pub fn ping_pong(cores: (usize, usize), time: Duration) -> std::io::Result<Probe> {
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            affinity::pin(cores.1)?;
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let value = ping.0.load(Ordering::Acquire);
                if value != last {
                    last = value;
                    pong.0.store(value, Ordering::Release);
                }
            }
            Ok::<(), std::io::Error>(())
        });
        let probe = scope.spawn(|| {
            let result = affinity::pin(cores.0).map(|()| bounce(&ping.0, &pong.0, time));
            stop.store(true, Ordering::Relaxed);
            result
        });
        let windows = probe.join().unwrap_or_else(|_| Err(std::io::Error::other("the probe panicked")));
        echo.join().unwrap_or_else(|_| Err(std::io::Error::other("the echo panicked")))?;
        let mut windows = windows?;
        windows.sort_by(f64::total_cmp);
        let median = windows.get(windows.len() / 2).copied().unwrap_or(f64::NAN);
        Ok(Probe { round_trip_ns: median })
    })
}

/// Nanoseconds per round trip, one value per 200 round trips.
fn bounce(ping: &AtomicU64, pong: &AtomicU64, time: Duration) -> Vec<f64> {
    const ROUNDS: u32 = 200;
    let end = Instant::now() + time;
    let mut windows = Vec::new();
    let mut value = 0;
    while Instant::now() < end {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            value += 1;
            ping.store(value, Ordering::Release);
            let mut polls = 0u32;
            while pong.load(Ordering::Acquire) != value {
                polls += 1;
                // An echo thread that could not be pinned is gone: give up rather than wait for ever. The clock costs
                // as much as a near round trip, so it is read rarely.
                if polls.is_multiple_of(1 << 20) && Instant::now() > end + Duration::from_secs(1) {
                    return vec![f64::NAN];
                }
            }
        }
        windows.push(start.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_leave_a_gap() {
        let distance = |ns| Probe { round_trip_ns: ns }.distance();
        assert_eq!(distance(110.0), Some(Distance::Near));
        assert_eq!(distance(250.0), None);
        assert_eq!(distance(510.0), Some(Distance::Far));
        assert_eq!(distance(f64::NAN), None);
    }
}
