//! What work costs in virtual time.
//!
//! The constants are placeholders: they follow from the spike's figures in cycles at 2.596 GHz (64 B: 48 cycles per packet of which 28 for rings
//! and copy; 1,518 B: 110), not from a fit to this tree's benches. They make queues build up and drain in the right order of magnitude; absolute
//! latencies in virtual time are no claims (ADR 5).

use switch::{Clock, Progress};

/// A look at one queue, found empty or not, in picoseconds.
pub const POLL_PS: u64 = 10_000;
/// A packet through all stages, without its bytes: 48 cycles.
pub const PACKET_PS: u64 = 18_500;
/// One byte copied: 60 cycles more for 1,454 bytes more.
pub const BYTE_PS: u64 = 16;
/// A packet handed from one worker to another, copied once more.
pub const HANDOVER_PS: u64 = 60_000;
/// A command of the control thread.
pub const COMMAND_PS: u64 = 200_000;
/// What a step costs besides: two clock readings, the mailbox, the tables' epochs.
pub const STEP_PS: u64 = 30_000;
/// From an interrupt or a kick until the one that sleeps runs, in nanoseconds.
pub const WAKE_NS: u64 = 5_000;
/// The same as `towpathd`: how long a worker looks in vain before it sleeps, in nanoseconds.
pub const SPIN_NS: u64 = 50_000;
/// The same as `towpathd`: the longest sleep of a worker, in nanoseconds.
pub const SLEEP_NS: u64 = 1_000_000_000;

/// Nanoseconds a step took.
#[must_use]
pub fn of_step(progress: &Progress) -> u64 {
    let picoseconds = STEP_PS
        + POLL_PS * u64::from(progress.polls)
        + PACKET_PS * u64::from(progress.packets)
        + BYTE_PS * u64::from(progress.bytes)
        + HANDOVER_PS * u64::from(progress.handovers)
        + COMMAND_PS * u64::from(progress.commands);
    picoseconds.div_ceil(1000)
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
    fn work_costs_and_more_work_costs_more() {
        let idle = of_step(&Progress::default());
        let small = Progress { packets: 32, bytes: 32 * 64, polls: 1, ..Progress::default() };
        let large = Progress { bytes: 32 * 1518, ..small };
        assert!(idle > 0 && of_step(&small) > idle);
        let per_packet = |progress: &Progress| (of_step(progress) - idle) / 32;
        assert!((15..30).contains(&per_packet(&small)), "{}", per_packet(&small));
        assert!((40..60).contains(&per_packet(&large)), "{}", per_packet(&large));
    }
}
