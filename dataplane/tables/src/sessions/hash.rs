//! The keyed hash of a flow: rounds of AES where the processor has them ([`cpu::aes`]), otherwise SipHash-1-3 (J.-P. Aumasson, D. J. Bernstein, 2012).
//!
//! It decides which buckets a session may be in, and so who fills whose. Unlike the universal hash of the other tables it has no structure that a guest could learn by
//! watching for a long time which of its sessions are refused.

use cpu::aes::AesHash;

use super::key::Key;

/// Which of the two; kept with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sip,
    Aes,
}

impl Kind {
    /// The faster one that this processor has.
    pub(super) fn best() -> Self {
        if AesHash::new([[0; 2]; 5]).is_some() { Self::Aes } else { Self::Sip }
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Sip => 1,
            Self::Aes => 2,
        }
    }

    /// `None` if there is none of this number, or this processor cannot do it.
    #[cfg(not(loom))]
    pub(super) fn of_number(number: u64) -> Option<Self> {
        [Self::Sip, Self::Aes]
            .into_iter()
            .find(|kind| kind.number() == number && (*kind == Self::Sip || Self::best() == *kind))
    }
}

/// The hash, with its secret.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hasher {
    Sip(SipHasher),
    Aes(AesHash),
}

impl Hasher {
    pub(super) fn new(kind: Kind, secret: [u64; 2]) -> Self {
        let sip = SipHasher::new(secret);
        let round_keys = std::array::from_fn(|round| [0, 1].map(|half| sip.of(&[round as u64, half])));
        let aes = (kind == Kind::Aes).then(|| AesHash::new(round_keys)).flatten();
        aes.map_or(Self::Sip(sip), Self::Aes)
    }

    #[inline(always)]
    pub(super) fn of<K: Key>(&self, key: K) -> u64 {
        let mut only = 0;
        self.of_burst(&[key], |_, hash| only = hash);
        only
    }

    /// Of many; `hashed` takes the hash of each, by its place.
    #[inline(always)]
    pub(super) fn of_burst<K: Key>(&self, keys: &[K], mut hashed: impl FnMut(usize, u64)) {
        match self {
            Self::Aes(aes) => {
                aes.hash((keys.len(), K::BLOCKS), |key, number| keys[key].block(number), hashed);
            }
            Self::Sip(sip) => {
                for (at, key) in keys.iter().enumerate() {
                    let words = key.words();
                    hashed(at, if K::BLOCKS == 1 { sip.of(&words[..2]) } else { sip.of(&words) });
                }
            }
        }
    }
}

/// SipHash-1-3; the secret, expanded.
#[derive(Clone, Copy, Debug)]
pub(super) struct SipHasher([u64; 4]);

impl SipHasher {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        let [a, b] = secret;
        Self([
            a ^ 0x736f_6d65_7073_6575,
            b ^ 0x646f_7261_6e64_6f6d,
            a ^ 0x6c79_6765_6e65_7261,
            b ^ 0x7465_6462_7974_6573,
        ])
    }

    /// Of the bytes of some words.
    #[inline(always)]
    pub(super) fn of(&self, words: &[u64]) -> u64 {
        let mut state = self.0;
        for word in words.iter().copied().chain([(words.len() as u64) << 59]) {
            state[3] ^= word;
            round(&mut state);
            state[0] ^= word;
        }
        state[2] ^= 0xff;
        (0..3).for_each(|_| round(&mut state));
        state[0] ^ state[1] ^ state[2] ^ state[3]
    }
}

#[inline(always)]
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::Key4;
    use super::*;

    /// The standard library's default hash is SipHash-1-3 with a key of zeros.
    #[test]
    fn siphash_is_siphash() {
        for words in [&[1, 2][..], &[u64::MAX, 7], &[0; 5], &[1, 2, 3, 4, 5]] {
            let mut expected = std::hash::DefaultHasher::new();
            words.iter().for_each(|word| std::hash::Hasher::write(&mut expected, &word.to_le_bytes()));
            assert_eq!(SipHasher::new([0, 0]).of(words), std::hash::Hasher::finish(&expected));
        }
        assert_ne!(SipHasher::new([0, 1]).of(&[1, 2]), SipHasher::new([0, 0]).of(&[1, 2]));
    }

    #[test]
    fn both_kinds_spread_consecutive_flows() {
        for kind in [Kind::Sip, Kind::best()] {
            let hasher = Hasher::new(kind, [1, 2]);
            let mut buckets = vec![0u32; 1024];
            for ports in 0..8192u32 {
                let hash = hasher.of(Key4::new(1, 0x0200_000a_0100_000a, 17, ports));
                buckets[(hash & 1023) as usize] += 1;
                buckets[(hash >> 54) as usize] += 1;
            }
            assert!(buckets.iter().all(|count| (1..=48).contains(count)), "{kind:?}");
            assert_eq!(Kind::of_number(kind.number()), Some(kind));
        }
    }
}
