//! What work costs in virtual time.
//!
//! Every constant is fitted to a measurement, named beside it, on the machine of `docs/benchmarks.md` (2.6 GHz, cores near each other, split rings):
//!
//! | measured | cycles | where |
//! |---|---|---|
//! | one frame of 60 bytes in flight: a burst of one | 482.4 | `docs/benchmarks.md` at fa30a8a, split/64/in-flight-1 |
//! | frames of 60 and of 1,514 bytes, 1,000 flows: a packet | 77.6, 192.6 | the same, split/64/1000 and split/1518/1000 |
//! | a step with a burst of 32, of 8 frames of 60 bytes | 1,588, 663 | criterion `worker`, split_64, 20 November 2026, same switch |
//! | from core to core and back: a line | 120 ns | `docs/benchmarks.md` at fa30a8a, calibration |
//! | from `write` on an eventfd to the return of `epoll_wait` on the other core | 18.5 us | 3 x 2,000 wake-ups of a pinned thread, same machine |
//!
//! They make queues build up and drain as on that machine. Absolute latencies in virtual time are no claims about another (ADR 5), nor about a later
//! switch until the rows are taken again.

use switch::{Clock, Progress};

/// Picoseconds of ten cycles.
const TEN_CYCLES_PS: u64 = 3_846;
/// What a byte adds, in thousandths of a cycle: (192.6 - 77.6) / (1,514 - 60).
const BYTE_MILLICYCLES: u64 = 79;
/// What a packet adds to a burst, with 60 bytes: the slope of the criterion bench, (1,588 - 663) / (32 - 8), in tenths of a cycle.
const SLOPE: u64 = 385;

/// A burst: what one frame in flight costs beyond the packet itself; the lines come from the other core.
pub const BURST_PS: u64 = (4_824 - SLOPE) * TEN_CYCLES_PS / 100;
/// A packet through all stages and both rings, without its bytes.
pub const PACKET_PS: u64 = (SLOPE - 60 * BYTE_MILLICYCLES / 100) * TEN_CYCLES_PS / 100;
/// One byte copied.
pub const BYTE_PS: u64 = BYTE_MILLICYCLES * TEN_CYCLES_PS / 10_000;
/// A line that the other core wrote: half of its way there and back.
pub const LINE_PS: u64 = 60_000;
/// A packet handed from one worker to another: a packet of its own, found in a line of another core.
pub const HANDOVER_PS: u64 = PACKET_PS + LINE_PS;
/// A command of the control thread: found in a line of another core.
pub const COMMAND_PS: u64 = LINE_PS;
/// From an interrupt or a kick until the one that sleeps runs, in nanoseconds.
pub const WAKE_NS: u64 = 18_500;
/// The same as `towpathd`: how long a worker looks in vain before it sleeps, in nanoseconds.
pub const SPIN_NS: u64 = 50_000;
/// The same as `towpathd`: the longest sleep of a worker, in nanoseconds.
pub const SLEEP_NS: u64 = 1_000_000_000;

/// Nanoseconds a step took that had packets in `bursts` of its polls; at least one. A look in vain was not measured and is free: the lines are the
/// worker's own then, and a worker that found nothing pauses.
#[must_use]
pub fn of_step(progress: &Progress, bursts: u64) -> u64 {
    let picoseconds = BURST_PS * bursts
        + PACKET_PS * u64::from(progress.packets)
        + BYTE_PS * u64::from(progress.bytes)
        + HANDOVER_PS * u64::from(progress.handovers)
        + COMMAND_PS * u64::from(progress.commands);
    picoseconds.div_ceil(1000).max(1)
}

/// The cycle counter of a worker in virtual time: moves one nanosecond whenever it is read, so that what is measured is never nothing.
#[derive(Clone, Copy, Debug)]
pub struct VirtualClock(pub u64);

impl Clock for VirtualClock {
    fn cycles(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_gives_back_what_it_was_fitted_to() {
        let cycles = |packets: u32, bytes: u32| {
            let progress = Progress { packets, bytes: packets * bytes, polls: 1, ..Progress::default() };
            of_step(&progress, 1) as f64 * 2.6
        };
        let near =
            |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.02, "{found}, {wanted}");
        near(cycles(1, 60), 482.4);
        near((cycles(32, 60) - cycles(8, 60)) / 24.0, (1588.0 - 663.0) / 24.0);
        near((cycles(32, 1514) - cycles(32, 60)) / 32.0, 192.6 - 77.6);
        // Between bursts of 8 and 32, as the worker of that row had them.
        assert!((cycles(32, 60) / 32.0..cycles(8, 60) / 8.0).contains(&77.6));
    }

    #[test]
    fn a_step_takes_time_even_if_nothing_was_done() {
        assert_eq!(of_step(&Progress::default(), 0), 1);
    }
}
