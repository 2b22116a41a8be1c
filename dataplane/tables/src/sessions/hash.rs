//! The keyed hash of a flow: SipHash-1-3 (J.-P. Aumasson, D. J. Bernstein, 2012) of its key's words.
//!
//! It decides which buckets a session may be in, and so who fills whose; a pseudo-random function, unlike the universal hash of the other tables, keeps
//! that secret even from a guest that watches for a long time which of its sessions are refused.

/// The secret, expanded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hasher([u64; 4]);

impl Hasher {
    pub(super) fn new(secret: [u64; 2]) -> Self {
        let [a, b] = secret;
        Self([
            a ^ 0x736f_6d65_7073_6575,
            b ^ 0x646f_7261_6e64_6f6d,
            a ^ 0x6c79_6765_6e65_7261,
            b ^ 0x7465_6462_7974_6573,
        ])
    }

    /// Of some words, how many of which is the same in all calls for one table.
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
