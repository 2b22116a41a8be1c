//! The keyed hash that says in which line of a table a key belongs.
//!
//! Pair-multiply-shift (M. Thorup, "High Speed Hashing for Integers and Strings", 2015, section 3): strongly universal, so that for
//! any two different keys, chosen by anybody who does not know the secret, the chance to meet in the same of `m` lines is `1/m`.
//! Then a bijection of 32 bits (the first round of the finaliser of MurmurHash3: the upper bits alone say the line), which keeps that and
//! spreads the arithmetic progressions that
//! consecutive MAC addresses are, which multiply-shift alone maps to arithmetic progressions, hence at times to few lines.
//!
//! One multiplication per 64 bits of key and two more, against five rounds for SipHash-1-3. That is enough here because the hash does not
//! bound a look-up's work, which is two lines in any case; it only decides how full lines get. The multipliers come from the
//! table's secret by SipHash-2-4, anew for each growth, so that nothing learnt by timing survives one.

/// Key words of up to this many 32-bit pairs.
const PAIRS: usize = 3;

/// Multipliers of one hash function.
#[derive(Clone, Debug)]
pub(crate) struct Hash {
    multipliers: [(u64, u64); PAIRS],
    addend: u64,
}

impl Hash {
    /// The function number `number` of the family that `secret` gives.
    pub(crate) fn new(secret: [u64; 2], number: u64) -> Hash {
        let word = |position: u64| siphash(secret, number, position);
        Hash { multipliers: [0, 2, 4].map(|at| (word(at), word(at + 1))), addend: word(6) }
    }

    /// Of a key of 64 bits.
    #[inline(always)]
    pub(crate) fn of_one(&self, key: u64) -> u32 {
        mix((self.product(0, key).wrapping_add(self.addend) >> 32) as u32)
    }

    /// Of a key of 192 bits.
    #[inline(always)]
    pub(crate) fn of_three(&self, key: [u64; PAIRS]) -> u32 {
        let [first, second, third] = key;
        let sum =
            self.product(0, first).wrapping_add(self.product(1, second)).wrapping_add(self.product(2, third));
        mix((sum.wrapping_add(self.addend) >> 32) as u32)
    }

    #[inline(always)]
    fn product(&self, pair: usize, key: u64) -> u64 {
        let (first, second) = self.multipliers[pair % PAIRS];
        first.wrapping_add(key & 0xffff_ffff).wrapping_mul(second.wrapping_add(key >> 32))
    }
}

/// A bijection in which each of the upper bits of the result depends on each bit of the argument.
#[inline(always)]
fn mix(word: u32) -> u32 {
    (word ^ (word >> 15)).wrapping_mul(0x85eb_ca6b)
}

/// SipHash-2-4 (J.-P. Aumasson, D. J. Bernstein, 2012) of the sixteen bytes of two little-endian words.
fn siphash(key: [u64; 2], first: u64, second: u64) -> u64 {
    let mut state = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    for word in [first, second, 16 << 56] {
        state[3] ^= word;
        round(&mut state);
        round(&mut state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut state));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

fn round(state: &mut [u64; 4]) {
    let [a, b, c, d] = state;
    *a = a.wrapping_add(*b);
    *b = b.rotate_left(13) ^ *a;
    *a = a.rotate_left(32);
    *c = c.wrapping_add(*d);
    *d = d.rotate_left(16) ^ *c;
    *a = a.wrapping_add(*d);
    *d = d.rotate_left(21) ^ *a;
    *c = c.wrapping_add(*b);
    *b = b.rotate_left(17) ^ *c;
    *c = c.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    #[test]
    fn siphash_is_siphash() {
        for (key, first, second) in [([0, 0], 0, 0), ([1, 2], 3, 4), ([u64::MAX, 7], 1 << 63, 99)] {
            #[expect(deprecated, reason = "the standard library's SipHash-2-4 has no other name")]
            let mut hasher = std::hash::SipHasher::new_with_keys(key[0], key[1]);
            hasher.write(&u64::to_le_bytes(first));
            hasher.write(&u64::to_le_bytes(second));
            assert_eq!(siphash(key, first, second), hasher.finish());
        }
    }

    /// Keys that differ in few bits, as MAC addresses do, spread like random ones.
    #[test]
    fn consecutive_keys_spread() {
        for (secret, stride) in
            (0..200).flat_map(|secret| [1, 2, 256, 65_536, 1 << 20].map(|stride| (secret, stride)))
        {
            let hash = Hash::new([secret, 1], 0);
            let mut lines = vec![0u32; 1000];
            for key in 0..2000u64 {
                let line = (u64::from(hash.of_one(0x0002_0200_0000_0000 + key * stride)) * 1000) >> 32;
                lines[line as usize] += 1;
            }
            assert!(lines.iter().all(|count| *count <= 16), "secret {secret}, stride {stride}");
            // Two keys a line on average leave exp(-2) of them, 135, unused.
            let empty = lines.iter().filter(|count| **count == 0).count();
            assert!(
                (80..200).contains(&empty),
                "secret {secret}, stride {stride}: {empty} of 1000 lines unused"
            );
        }
    }

    #[test]
    fn secrets_and_numbers_give_different_functions() {
        let of = |secret, number| (0..8).map(|key| Hash::new(secret, number).of_one(key)).collect::<Vec<_>>();
        assert_ne!(of([0, 0], 0), of([0, 1], 0));
        assert_ne!(of([0, 0], 0), of([0, 0], 1));
        let three = Hash::new([0, 0], 0);
        assert_ne!(three.of_three([1, 0, 0]), three.of_three([0, 1, 0]));
    }
}
