//! How often something may happen: a token bucket in integers.

/// Parts of a token: nanoseconds times tokens per second come out in this unit, so nothing is ever rounded.
const UNIT: u64 = 1_000_000_000;
/// The deepest bucket whose parts fit 64 bits.
const MAX_BURST: u64 = u64::MAX / UNIT;

/// Lets `burst` events pass at once and `rate` per second in the long run: exactly, whatever the times between calls.
///
/// It starts full. A rate of 0 passes the first `burst` and then nothing; a burst of 0 passes nothing.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: u64,
    capacity: u64,
    credit: u64,
    last_ns: u64,
}

impl TokenBucket {
    /// A full bucket. `rate` in events per second, `burst` in events (above 18,446,744,073 it counts as that many).
    #[must_use]
    pub const fn new(rate: u64, burst: u64) -> Self {
        let burst = if burst > MAX_BURST { MAX_BURST } else { burst };
        let capacity = burst * UNIT;
        Self { rate, capacity, credit: capacity, last_ns: 0 }
    }

    /// May `count` events happen at `now_ns`? If so they are charged, else nothing is.
    ///
    /// `now_ns` is any clock in nanoseconds; when it goes backwards, no time has passed.
    #[inline]
    pub fn take(&mut self, now_ns: u64, count: u64) -> bool {
        self.refill(now_ns);
        match count.checked_mul(UNIT).and_then(|cost| self.credit.checked_sub(cost)) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }

    /// Charges `count` events at `now_ns`, or as many of them as may happen; how many.
    pub fn take_some(&mut self, now_ns: u64, count: u64) -> u64 {
        let taken = self.available(now_ns).min(count);
        self.credit -= taken * UNIT;
        taken
    }

    /// Lets `count` events more happen than time allows, but no more at once than the bucket holds.
    pub fn give(&mut self, count: u64) {
        self.credit = self.credit.saturating_add(count.saturating_mul(UNIT)).min(self.capacity);
    }

    /// Whole events that may happen at `now_ns`.
    #[must_use]
    pub fn available(&mut self, now_ns: u64) -> u64 {
        self.refill(now_ns);
        self.credit / UNIT
    }

    #[inline]
    fn refill(&mut self, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.last_ns);
        self.last_ns = now_ns;
        let earned = elapsed.saturating_mul(self.rate);
        self.credit = self.credit.saturating_add(earned).min(self.capacity);
    }
}

/// One bucket for each of some sources, or for a few of them together: what one spends is not missing to others.
#[derive(Clone, Debug)]
pub struct Shares {
    first: TokenBucket,
    /// One less than a power of two: a mask.
    others: Box<[TokenBucket]>,
}

impl Shares {
    /// Full buckets, `count` of them (rounded up to a power of two, at most 32,768), each as [`TokenBucket::new`] makes it.
    #[must_use]
    pub fn new(count: u16, rate: u64, burst: u64) -> Self {
        let count = usize::from(count.clamp(1, 1 << 15)).next_power_of_two();
        let first = TokenBucket::new(rate, burst);
        Self { others: vec![first.clone(); count - 1].into(), first }
    }

    /// The bucket of a source. Sources whose numbers follow each other have buckets of their own, as far as there are as many.
    #[inline]
    pub fn of(&mut self, source: u16) -> &mut TokenBucket {
        let at = usize::from(source) & self.others.len();
        at.checked_sub(1).and_then(|at| self.others.get_mut(at)).unwrap_or(&mut self.first)
    }

    /// May `count` events of a source happen at `now_ns`, by its bucket and by `all`, the bucket of all sources? If so both are charged, else neither.
    pub fn take(&mut self, source: u16, all: &mut TokenBucket, now_ns: u64, count: u64) -> bool {
        all.available(now_ns) >= count && self.of(source).take(now_ns, count) && all.take(now_ns, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    proptest! {
        /// Against exact arithmetic in 128 bits.
        #[test]
        fn passes_exactly_what_it_should(
            rate in prop_oneof![0u64..10, 1u64..1_000_000, Just(u64::MAX)],
            burst in prop_oneof![0u64..10, 1u64..100_000, Just(u64::MAX)],
            steps in prop::collection::vec((prop_oneof![0u64..1000, 0..3 * SECOND, Just(u64::MAX / 2)], 0u64..5), 1..200),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let capacity = u128::from(burst.min(MAX_BURST)) * u128::from(UNIT);
            let mut credit = capacity;
            let mut now = 0u64;
            for (wait, count) in steps {
                let before = now;
                now = now.saturating_add(wait);
                credit = (credit + u128::from(now - before) * u128::from(rate)).min(capacity);
                let cost = u128::from(count) * u128::from(UNIT);
                let passes = cost <= credit;
                if passes {
                    credit -= cost;
                }
                prop_assert_eq!(bucket.take(now, count), passes);
                prop_assert_eq!(u128::from(bucket.available(now)), credit / u128::from(UNIT));
            }
        }
    }

    #[test]
    fn does_not_drift_over_a_day_of_odd_intervals() {
        let mut bucket = TokenBucket::new(3, 1);
        assert!(bucket.take(0, 1));
        let (mut now, mut passed) = (0, 0u64);
        while now < 86_400 * SECOND {
            now += 33_333_331;
            passed += u64::from(bucket.take(now, 1));
        }
        // A bucket of depth one loses what overflows it, at most one call's worth of each event's interval.
        assert!((235_600..=259_200).contains(&passed), "{passed}");
        let mut deep = TokenBucket::new(3, 10);
        assert!(deep.take(0, 10));
        let passed: u64 = (1..=86_400 * 30).map(|step| u64::from(deep.take(step * 33_333_333, 1))).sum();
        assert_eq!(passed, 259_199, "30 calls of 33,333,333 ns a second, 3 tokens a second, no token lost");
    }

    #[test]
    fn s10_s11_extremes() {
        let mut nothing = TokenBucket::new(u64::MAX, 0);
        assert!(!nothing.take(u64::MAX, 1) && nothing.take(u64::MAX, 0));
        let mut once = TokenBucket::new(0, 2);
        assert!(once.take(0, 2) && !once.take(u64::MAX, 1));
        let mut all = TokenBucket::new(u64::MAX, u64::MAX);
        assert!(all.take(0, MAX_BURST) && !all.take(0, 1) && all.take(1, MAX_BURST));
        assert!(!all.take(2, MAX_BURST + 1) && !all.take(2, u64::MAX));
    }

    #[test]
    fn what_one_source_spends_is_not_missing_to_others() {
        let (mut shares, mut all) = (Shares::new(3, 1, 2), TokenBucket::new(10, 5));
        let mut take = |source, now| shares.take(source, &mut all, now, 1);
        assert!(take(7, 0) && take(7, 0) && !take(7, 0), "rounded up to four buckets: 7 has the last");
        assert!(!take(3, 0), "and 3 has it too");
        assert!(take(4, 0) && take(4, 0), "the first");
        assert!(take(1, 0), "what was refused cost nobody anything");
        assert!(!take(2, 0), "all together have spent what they may");
        assert!(take(2, SECOND) && take(7, SECOND) && !take(7, SECOND));
        let mut one = Shares::new(1, 0, 1);
        assert!(one.of(9).take(0, 1) && !one.of(0).take(0, 1), "a single bucket is everybody's");
        assert_eq!(Shares::new(u16::MAX, 1, 1).others.len(), (1 << 15) - 1);
        assert_eq!(Shares::new(0, 1, 1).others.len(), 0);
    }

    #[test]
    fn l19_a_clock_that_goes_back_earns_nothing() {
        let mut bucket = TokenBucket::new(10, 1);
        assert!(bucket.take(1000 * SECOND, 1));
        assert!(!bucket.take(0, 1));
        assert!(!bucket.take(SECOND / 10 - 1, 1));
        assert!(bucket.take(SECOND / 10, 1));
    }
}
