//! Where a worker's cycle counts come from.

/// Reads a counter of work done. Only differences matter.
pub trait Clock {
    /// The count: time stamp cycles on a real host, virtual nanoseconds in the simulator.
    fn cycles(&mut self) -> u64;
}

/// The processor's time stamp counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeStampClock;

impl Clock for TimeStampClock {
    #[inline(always)]
    fn cycles(&mut self) -> u64 {
        cpu::time_stamp()
    }
}
