//! Bytes that cannot be right by accident: a pseudo-random stream from a seed, and a checksum in which order counts.

/// A stream of bytes decided by its seed (xorshift64*, Marsaglia 2003 / Vigna 2014). Not for secrets.
#[derive(Clone, Debug)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    /// The next eight bytes of the stream.
    pub fn next_word(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Fill `bytes` with what comes next; a last part of a word is cut off.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// A running FNV-1a, 64 bits: the same whatever pieces the bytes arrive in.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Add what came next.
    pub fn update(&mut self, bytes: &[u8]) {
        let mut sum = self.0;
        for &byte in bytes {
            sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.0 = sum;
    }

    /// The checksum of everything so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }

    /// The checksum of one piece.
    #[must_use]
    pub fn of(bytes: &[u8]) -> u64 {
        let mut sum = Self::default();
        sum.update(bytes);
        sum.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_does_not_depend_on_the_pieces() {
        let mut bytes = vec![0; 1000];
        Pattern::new(7).fill(&mut bytes);
        let mut sum = Checksum::default();
        for piece in bytes.chunks(13) {
            sum.update(piece);
        }
        assert_eq!(sum.value(), Checksum::of(&bytes));
    }

    #[test]
    fn a_swap_a_loss_and_another_seed_are_seen() {
        let mut bytes = vec![0; 64];
        Pattern::new(1).fill(&mut bytes);
        let whole = Checksum::of(&bytes);
        assert_ne!(whole, Checksum::of(&bytes[1..]));
        bytes.swap(3, 40);
        assert_ne!(whole, Checksum::of(&bytes));
        Pattern::new(2).fill(&mut bytes);
        assert_ne!(whole, Checksum::of(&bytes));
    }

    #[test]
    fn fnv_1a_matches_its_published_vector() {
        assert_eq!(Checksum::of(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
