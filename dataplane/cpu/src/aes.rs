//! A keyed hash by rounds of AES, many keys at once.

/// Round keys, on a processor that has AES instructions.
#[derive(Clone, Copy, Debug)]
pub struct AesHash {
    round_keys: [[u64; 2]; 5],
}

impl AesHash {
    /// With these round keys, which must be secret and random; `None` if the processor has no AES instructions.
    pub fn new(round_keys: [[u64; 2]; 5]) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let present = std::arch::is_x86_feature_detected!("aes");
        #[cfg(not(target_arch = "x86_64"))]
        let present = false;
        present.then_some(Self { round_keys })
    }

    /// Hashes keys 0 to `count`, exclusive, of `blocks` blocks each: `block(key, number)` gives block `number` of a key, `hashed` takes a key's hash. Four rounds for the first
    /// block, two for each other: after two every bit of the state depends on every bit of the block.
    #[inline(always)]
    pub fn hash(
        &self,
        (count, blocks): (usize, usize),
        block: impl Fn(usize, usize) -> [u64; 2],
        hashed: impl FnMut(usize, u64),
    ) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` exists, so `new` found that the processor has AES instructions.
        unsafe {
            hash_aes(&self.round_keys, (count, blocks), block, hashed);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (count, blocks, block, hashed, self.round_keys);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "aes")]
#[inline]
fn hash_aes(
    keys: &[[u64; 2]; 5],
    (count, blocks): (usize, usize),
    block: impl Fn(usize, usize) -> [u64; 2],
    mut hashed: impl FnMut(usize, u64),
) {
    use std::arch::x86_64::{_mm_aesenc_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_xor_si128};
    let load = |[low, high]: [u64; 2]| _mm_set_epi64x(high as i64, low as i64);
    let [k0, k1, k2, k3, k4] = keys.map(load);
    for key in 0..count {
        let mut state = _mm_xor_si128(load(block(key, 0)), k0);
        state = _mm_aesenc_si128(_mm_aesenc_si128(state, k1), k2);
        for number in 1..blocks {
            state = _mm_xor_si128(state, load(block(key, number)));
            state = _mm_aesenc_si128(_mm_aesenc_si128(state, k1), k2);
        }
        state = _mm_aesenc_si128(_mm_aesenc_si128(state, k3), k4);
        hashed(key, _mm_cvtsi128_si64(state) as u64);
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_every_block_and_key_changes_half_of_the_hash() {
        let keys = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]];
        let Some(hash) = AesHash::new(keys) else { return };
        let of = |hash: &AesHash, blocks: [[u64; 2]; 3]| {
            let mut out = [0];
            hash.hash((1, 3), |_, number| blocks[number], |at, hash| out[at] = hash);
            out[0]
        };
        let plain = of(&hash, [[0; 2]; 3]);
        let mut changed = 0;
        for bit in 0..384 {
            let mut blocks = [[0u64; 2]; 3];
            blocks[bit / 128][bit / 64 % 2] ^= 1 << (bit % 64);
            let difference = (of(&hash, blocks) ^ plain).count_ones();
            assert!((8..=56).contains(&difference), "bit {bit}: {difference} bits");
            changed += difference;
        }
        assert!((30 * 384..=34 * 384).contains(&changed), "{changed}");
        for key in 0..5 {
            let mut keys = keys;
            keys[key][0] ^= 1;
            assert_ne!(AesHash::new(keys).map(|other| of(&other, [[0; 2]; 3])), Some(plain), "key {key}");
        }
    }

    #[test]
    fn many_at_once_are_as_one_by_one() {
        let Some(hash) = AesHash::new([[11, 12], [13, 14], [15, 16], [17, 18], [19, 20]]) else { return };
        let block = |key: usize, _: usize| [key as u64, 1];
        let mut all = [0; 33];
        hash.hash((33, 1), block, |at, hash| all[at] = hash);
        for (key, expected) in all.into_iter().enumerate() {
            let mut one = [0];
            hash.hash((1, 1), |_, number| block(key, number), |at, hash| one[at] = hash);
            assert_eq!(one[0], expected);
        }
    }
}
