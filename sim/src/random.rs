//! The one source of chance: every choice of a run is drawn from it, in the order in which events happen.

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Draws from one seed.
#[derive(Clone, Debug)]
pub struct Random(SmallRng);

impl Random {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// An independent generator, so that what one part draws does not shift what another does.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.0.next_u64())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `limit`; 0 when there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { self.0.random_range(0..limit) }
    }

    /// A number from `low` up to and including `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if low >= high { low } else { self.0.random_range(low..=high) }
    }

    /// True in so many of 1,000 cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.0.random_range(0..1000) < per_mille
    }

    /// One of `choices`, which is not empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_draws_and_forks_are_independent() {
        let draws = |seed: u64| {
            let mut random = Random::new(seed);
            let mut fork = random.fork();
            let first = (0..50).map(|_| fork.below(1000)).collect::<Vec<_>>();
            (first, random.between(5, 9), random.number())
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        assert!((0..1000).all(|seed| (5..=9).contains(&Random::new(seed).between(5, 9))));
    }
}
