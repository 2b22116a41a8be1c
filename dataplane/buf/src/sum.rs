//! Internet checksums (RFC 1071) over bytes of others, which are read in place.

use crate::copy::copy_bytes;

/// Adds the carries of a sum of 16-bit words (or of words of 32 or 64 bits, which are several of them) back in until 16 bits remain.
#[inline]
#[must_use]
pub const fn fold(total: u64) -> u16 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff) + (total >> 16);
    let total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// A ones'-complement sum of big-endian 16-bit words over bytes that come in pieces of any length, in order. An odd last byte counts as
/// if a zero followed.
#[derive(Clone, Copy, Debug, Default)]
pub struct BodySum {
    /// In the machine's byte order; each piece adds 16 bits.
    total: u64,
    /// Whether the next piece begins at an odd offset.
    odd: bool,
}

impl BodySum {
    /// Adds a piece of `len` bytes with this sum, as [`sum_bytes`] returns it.
    #[inline(always)]
    pub(crate) fn add(&mut self, piece: u64, len: usize) {
        let piece = fold(piece);
        // RFC 1071 section 2(B): words that begin at an odd offset add up with their bytes swapped.
        self.total += u64::from(if self.odd { piece.swap_bytes() } else { piece });
        self.odd ^= len & 1 == 1;
    }

    /// The sum as a big-endian word's value, not complemented.
    #[inline]
    #[must_use]
    pub const fn folded(self) -> u16 {
        // Summed in the machine's byte order; the section cited lets us swap once at the end.
        u16::from_be(fold(self.total))
    }
}

/// Sums `len` bytes as words in the machine's byte order, to be folded. Eight lanes, which the compiler makes two vectors of.
///
/// # Safety
///
/// `source` must be readable for `len` bytes. They may be changed by another process meanwhile; the sum is then unspecified.
#[inline]
pub(crate) unsafe fn sum_bytes(source: *const u8, len: usize) -> u64 {
    const BLOCK: usize = size_of::<[u32; 8]>();
    let mut lanes = [0u64; 8];
    let blocks = len / BLOCK;
    for block in 0..blocks {
        // SAFETY: (block + 1) * BLOCK <= len.
        let words = unsafe { source.add(block * BLOCK).cast::<[u32; 8]>().read_unaligned() };
        for (lane, word) in lanes.iter_mut().zip(words) {
            // At most 2^32 blocks before a lane overflows: 128 GiB.
            *lane += u64::from(word);
        }
    }
    let mut total: u64 = lanes.iter().map(|lane| (lane & 0xffff_ffff) + (lane >> 32)).sum();
    let mut last = [0u32; 8];
    // SAFETY: what is left lies inside `len` bytes and is less than a block; private memory does not overlap memory of others.
    unsafe { copy_bytes(source.add(blocks * BLOCK), last.as_mut_ptr().cast(), len % BLOCK) };
    for word in last {
        total += u64::from(word);
    }
    total
}
