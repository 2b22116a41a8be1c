//! The internet checksum (RFC 1071) and what is built on it.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::be16;
use buf::fold;

/// A ones'-complement sum of big-endian 16-bit words, not yet complemented.
///
/// Sums of pieces add up in any order as long as each begins at an even offset of the whole; [`Sum::at_odd_offset`] turns
/// the sum of a piece into what it contributes at an odd one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Sum(u16);

impl Sum {
    /// Of nothing.
    pub const ZERO: Sum = Sum(0);

    /// From a folded sum of big-endian words, as [`Sum::folded`] returns it.
    #[inline]
    #[must_use]
    pub const fn from_folded(folded: u16) -> Sum {
        Sum(folded)
    }

    /// Of the bytes of a frame after its head, as if they began at an even offset.
    #[inline]
    #[must_use]
    pub const fn of_body(body: buf::BodySum) -> Sum {
        Sum(body.folded())
    }

    /// Of these bytes; an odd last one counts as if a zero followed.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut total = if blocks.is_empty() { 0 } else { sum_blocks(blocks) };
        let (words, tail) = rest.as_chunks::<4>();
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        total += u64::from(u32::from_ne_bytes(last));
        // Summed in the machine's byte order; RFC 1071 section 2(B) lets us swap once at the end.
        Sum(u16::from_be(fold(total)))
    }

    /// Of numbers that are already 16-bit words (lengths, protocol numbers); a 32-bit one is two of them.
    #[inline]
    #[must_use]
    pub const fn of_word(word: u32) -> Sum {
        Sum(fold(word as u64))
    }

    /// This sum without `other`, which is part of it.
    #[inline]
    #[must_use]
    pub const fn minus(self, other: Sum) -> Sum {
        self.plus(Sum(!other.0))
    }

    /// Both together.
    #[inline]
    #[must_use]
    pub const fn plus(self, other: Sum) -> Sum {
        Sum(fold(self.0 as u64 + other.0 as u64))
    }

    /// What this sum contributes when its bytes begin at an odd offset of the whole.
    #[inline]
    #[must_use]
    pub const fn at_odd_offset(self) -> Sum {
        Sum(self.0.swap_bytes())
    }

    /// What this sum contributes when its bytes begin at `offset` of the whole.
    #[inline]
    #[must_use]
    pub const fn at_offset(self, offset: usize) -> Sum {
        if offset & 1 == 0 { self } else { self.at_odd_offset() }
    }

    /// The sum, as a big-endian word's value.
    #[inline]
    #[must_use]
    pub const fn folded(self) -> u16 {
        self.0
    }

    /// The checksum field's value.
    #[inline]
    #[must_use]
    pub const fn finish(self) -> u16 {
        !self.0
    }

    /// The same, but never 0, which in UDP would mean that there is none (RFC 768). To any receiver 0xffff says what 0 does.
    #[inline]
    #[must_use]
    pub const fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Is this the sum of bytes that hold their own right checksum?
    #[inline]
    #[must_use]
    pub const fn is_right(self) -> bool {
        self.0 == 0xffff
    }
}

/// Of whole blocks, in the machine's byte order and not folded: eight lanes of 32 bits each, which the compiler makes two vectors of.
#[inline]
fn sum_blocks(blocks: &[[u8; 32]]) -> u64 {
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            // At most 2^32 blocks before a lane overflows: 128 GiB.
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    lanes.iter().map(|lane| (lane & 0xffff_ffff) + (lane >> 32)).sum()
}

/// Of the pseudo header that TCP and UDP checksums cover in IPv4; `length` is the transport header's and data's.
#[inline]
#[must_use]
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u16) -> Sum {
    let words = u64::from(source.to_bits()) + u64::from(destination.to_bits());
    Sum(fold(words + u64::from(protocol) + u64::from(length)))
}

/// The same in IPv6 (RFC 8200 section 8.1).
#[inline]
#[must_use]
pub fn pseudo_header_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: u32) -> Sum {
    let addresses = Sum::of(&source.octets()).plus(Sum::of(&destination.octets()));
    addresses.plus(Sum::of_word(length)).plus(Sum::of_word(u32::from(protocol)))
}

/// Of the pseudo header of the TCP or UDP packet that `headers` found whole in `head` (source routing aside); `None` unless it is IP.
#[inline]
#[must_use]
pub fn pseudo_header(head: &[u8], headers: &crate::Headers) -> Option<Sum> {
    let length = headers.l3_end().checked_sub(u32::from(headers.l4_offset))?;
    if let Some(ip) = headers.ipv4(head) {
        return Some(pseudo_header_v4(ip.source(), ip.destination(), headers.protocol, length as u16));
    }
    let ip = headers.ipv6(head)?;
    Some(pseudo_header_v6(ip.source(), ip.destination(), headers.protocol, length))
}

/// The checksum after one 16-bit word under it changed from `old` to `new` (RFC 1624, equation 3).
#[inline]
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// The same for a 32-bit number at an even offset, such as an IPv4 address.
#[inline]
#[must_use]
pub const fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    let checksum = update(checksum, (old >> 16) as u16, (new >> 16) as u16);
    update(checksum, old as u16, new as u16)
}

/// Completes a checksum that the sender left to us (`Checksum::Partial`): the field holds the sum of the pseudo header;
/// everything from `start` on is added and the complement stored.
///
/// `head` is the private head, `body` the sum of what follows it in the frame, as if that began at an even offset.
/// `None`, with `head` unchanged, if the field is not in the head.
pub fn complete_partial(head: &mut [u8], start: u16, offset: u16, body: Sum) -> Option<()> {
    let field = usize::from(start) + usize::from(offset);
    let covered = head.get(usize::from(start)..)?;
    be16(head, field)?;
    let sum = Sum::of(covered).plus(body.at_offset(covered.len()));
    crate::bytes::put16(head, field, sum.finish_nonzero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 as it reads, with nothing shared with the code above.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        sum as u16
    }

    /// Sums are equal when they differ only in the two names of zero.
    fn same(a: u16, b: u16) -> bool {
        a % 0xffff == b % 0xffff
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(same(Sum::of(&bytes).folded(), naive(&bytes)));
            // Zero only for zeroes: 0 and 0xffff differ where UDP reads them.
            prop_assert_eq!(Sum::of(&bytes).folded() == 0, bytes.iter().all(|b| *b == 0));
        }

        #[test]
        fn pieces_add_up_at_any_offset(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300) {
            let (front, back) = bytes.split_at(cut.min(bytes.len()));
            let sum = Sum::of(front).plus(Sum::of(back).at_offset(front.len()));
            prop_assert_eq!(sum, Sum::of(&bytes));
        }

        #[test]
        fn update_equals_summing_again(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..80), at in 0usize..10, new: u16
        ) {
            // A word that is never 0 keeps the sum away from zero, where RFC 1624 and a new sum may differ in its name.
            bytes[19] = 1;
            bytes[18] = 0;
            let at = at.min(8) * 2;
            let before = Sum::of(&bytes).finish();
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), Sum::of(&bytes).finish());
        }

        #[test]
        fn update32_equals_summing_again(mut bytes: [u8; 20], new: u32) {
            bytes[10] |= 1;
            let before = Sum::of(&bytes).finish();
            let old = u32::from_be_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
            bytes[12..16].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update32(before, old, new), Sum::of(&bytes).finish());
        }

        #[test]
        fn pseudo_headers_are_the_sum_of_their_bytes(
            source: u128, destination: u128, protocol: u8, length: u16, long: u32
        ) {
            let mut v4 = Vec::new();
            v4.extend((source as u32).to_be_bytes());
            v4.extend((destination as u32).to_be_bytes());
            v4.extend([0, protocol]);
            v4.extend(length.to_be_bytes());
            let sum = pseudo_header_v4((source as u32).into(), (destination as u32).into(), protocol, length);
            prop_assert!(same(sum.folded(), naive(&v4)));
            let mut v6 = Vec::new();
            v6.extend(source.to_be_bytes());
            v6.extend(destination.to_be_bytes());
            v6.extend(long.to_be_bytes());
            v6.extend([0, 0, 0, protocol]);
            let sum = pseudo_header_v6(source.into(), destination.into(), protocol, long);
            prop_assert!(same(sum.folded(), naive(&v6)));
        }

        #[test]
        fn p01_completion_stays_in_the_head(
            head in proptest::collection::vec(any::<u8>(), 0..128), start: u16, offset: u16, body: u16
        ) {
            let mut copy = head.clone();
            let done = complete_partial(&mut copy, start, offset, Sum::from_folded(body));
            let field = usize::from(start) + usize::from(offset);
            prop_assert_eq!(done.is_some(), usize::from(start) <= head.len() && field + 2 <= head.len());
            if done.is_none() {
                prop_assert_eq!(copy, head);
            }
        }

        #[test]
        fn completed_checksum_is_right(
            bytes in proptest::collection::vec(any::<u8>(), 48..400), start in 0u16..20, field in 0u16..10, cut in 42usize..128
        ) {
            let (head, body) = bytes.split_at(cut.min(bytes.len()));
            let mut head = head.to_vec();
            let offset = field * 2;
            complete_partial(&mut head, start, offset, Sum::of(body)).unwrap();
            // The field held the pseudo header's sum, which the receiver adds: here the old content of the field.
            let pseudo = be16(&bytes, usize::from(start + offset)).unwrap();
            let mut covered = head[usize::from(start)..].to_vec();
            covered.extend_from_slice(body);
            covered.extend(if covered.len() % 2 == 1 { vec![0] } else { vec![] });
            covered.extend(pseudo.to_be_bytes());
            prop_assert!(same(naive(&covered), 0xffff));
        }
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).folded(), 0xddf2);
    }

    #[test]
    fn udp_never_says_that_there_is_none() {
        assert_eq!(Sum::from_folded(0xffff).finish_nonzero(), 0xffff);
        assert_eq!(Sum::from_folded(0xffff).finish(), 0);
    }

    #[test]
    fn large_buffers_do_not_lose_carries() {
        let bytes = vec![0xff; 70_001];
        assert_eq!(Sum::of(&bytes).folded(), naive(&bytes));
    }
}
