//! The look-up table of Maglev's consistent hashing (D. E. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! Each target has its own order of all slots. They take turns, each the first slot of its order that is still free, until none is left. So each has its share
//! to one slot (the paper's least with weights: a target's turn comes as often as its weight says), whatever is hashed to slots; and if one leaves, nearly all
//! that the others have stays theirs. The order depends on the target's address alone: every host makes the same table.

use std::net::IpAddr;

/// Slots: a prime, so that every step from every start passes all of them. With up to [`MOST`](super::MOST_TARGETS) targets the removal of one moves less than
/// 1 % of the others' slots (the tests measure it).
pub(super) const SLOTS: usize = 65_537;
const NONE: u8 = u8::MAX;

/// The finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", 2014): a bijection.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

pub(super) fn hash_address(seed: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ (bits >> 64) as u64) ^ bits as u64)
}

/// A target's order of slots, and how far it is in it.
struct Turns {
    target: u8,
    weight: u32,
    credit: u32,
    at: usize,
    step: usize,
}

/// The table for targets given as number (below [`MOST`](super::MOST_TARGETS)), address and weight above 0. Empty without targets.
pub(super) fn table(targets: impl IntoIterator<Item = (u8, IpAddr, u16)>) -> Box<[u8]> {
    let mut turns: Vec<Turns> = targets
        .into_iter()
        .map(|(target, address, weight)| Turns {
            target,
            weight: weight.into(),
            credit: 0,
            at: hash_address(1, address) as usize % SLOTS,
            step: hash_address(2, address) as usize % (SLOTS - 1) + 1,
        })
        .filter(|turns| turns.weight > 0)
        .collect();
    let Some(heaviest) = turns.iter().map(|turns| turns.weight).max() else { return Box::default() };
    let mut slots = vec![NONE; SLOTS];
    let mut left = SLOTS;
    // Ends: whoever has the greatest weight takes a slot in every round.
    while left > 0 {
        for turns in &mut turns {
            turns.credit += turns.weight;
            if turns.credit < heaviest || left == 0 {
                continue;
            }
            turns.credit -= heaviest;
            left -= usize::from(turns.take(&mut slots));
        }
    }
    slots.into_boxed_slice()
}

impl Turns {
    /// Takes the next free slot of its order; whether there was one.
    fn take(&mut self, slots: &mut [u8]) -> bool {
        for _ in 0..SLOTS {
            let slot = slots.get_mut(self.at);
            self.at = (self.at + self.step) % SLOTS;
            if let Some(slot) = slot
                && *slot == NONE
            {
                *slot = self.target;
                return true;
            }
        }
        false
    }
}
