//! Packets without a session that a port has had judged, and that nobody answered.
//!
//! The first packet of a flow costs ten times a later one and more. Where somebody answers, it was worth it, and its port pays for it as for any packet, in
//! cycles. Where nobody does, because the packet was refused or its flow is one of a flood, the port pays dearly ([`DEAR`]) whenever others want the worker, beyond
//! so many a second that any port may try.

use engine::Batch;
use tables::TokenBucket;

/// What a packet costs its port, as a multiple of its cycles, that was judged, is answered by nobody, and is one too many. With one other port that could use all
/// of the worker this leaves it 1 / (DEAR + 1) of it.
pub(crate) const DEAR: u64 = 64;
/// Per second, and at once: packets that a port's queue may have judged in vain.
const IN_VAIN: (u64, u64) = (5_000, 1_024);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Newcomers {
    in_vain: TokenBucket,
    /// Sessions of the port's that were answered, when last looked at: it wraps.
    answered: u32,
}

impl Newcomers {
    pub(crate) fn new(answered: u32) -> Self {
        Self { in_vain: TokenBucket::new(IN_VAIN.0, IN_VAIN.1), answered }
    }

    /// How many of a batch's packets that were judged are too many; `answered` is how many sessions of the port's were answered so far.
    #[cold]
    pub(crate) fn in_vain(&mut self, batch: &Batch<'_, '_>, answered: u32) -> u32 {
        self.too_many(batch.now, batch.judged, answered)
    }

    fn too_many(&mut self, now: u64, judged: u32, answered: u32) -> u32 {
        self.in_vain.give(u64::from(answered.wrapping_sub(self.answered)));
        self.answered = answered;
        judged - self.in_vain.take_some(now, judged.into()) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_answered_is_never_too_much() {
        let mut newcomers = Newcomers::new(u32::MAX - 5);
        let mut answered = u32::MAX - 5;
        for _ in 0..1_000 {
            assert_eq!(newcomers.too_many(SECOND, 32, answered), 0);
            answered = answered.wrapping_add(32);
        }
    }

    #[test]
    fn so_many_in_vain_at_once_and_then_per_second() {
        let mut newcomers = Newcomers::new(7);
        assert_eq!(newcomers.too_many(SECOND, 1_024, 7), 0);
        assert_eq!(newcomers.too_many(SECOND, 32, 7), 32);
        assert_eq!(newcomers.too_many(SECOND, 32, 17), 22, "ten were answered");
        assert_eq!(newcomers.too_many(SECOND + SECOND / 1_000, 32, 17), 27, "a millisecond later");
    }
}
