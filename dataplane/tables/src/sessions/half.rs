//! The words of a half: one cache line, each word stored whole.
//!
//! | word | upper | lower |
//! |---|---|---|
//! | 0, 1 | the key, or its first two words | |
//! | 2 | MAC address judged for, 48 bits | [flags](super::tcp), 16 bits |
//! | 3 | new destination MAC address, 48 bits | subnet, 14 bits, above them [`TRANSLATES`] and [`NOT_ROUTED`] |
//! | 4 | output, [`UNKNOWN`] or [`REMOVED`] | epoch |
//! | 5 | stamp | last seen, milliseconds |
//! | 6 | TCP: end of what was sent | TCP: end of what the other side may send |
//! | 7 | TCP: what was acknowledged | packets, 11 bits, and bytes, 21 bits, not yet in the cold part |

use packet::MacAddr;

use super::Way;

pub(super) const KEY: usize = 0;
pub(super) const JUDGED: usize = 2;
pub(super) const REWRITE: usize = 3;
pub(super) const WAY: usize = 4;
pub(super) const TIME: usize = 5;
pub(super) const SEQUENCE: usize = 6;
pub(super) const COUNT: usize = 7;

/// The output of a session that was removed.
pub(super) const REMOVED: u32 = u32::MAX;
/// The output of a half whose way nobody asked for yet.
pub(super) const UNKNOWN: u32 = u32::MAX - 1;
const SUBNET: u64 = 0x3fff;
const TRANSLATES: u64 = 1 << 14;
const NOT_ROUTED: u64 = 1 << 15;

const BYTES_BITS: u32 = 21;
const MOST_BYTES: u32 = (1 << BYTES_BITS) - 1;
const MOST_PACKETS: u32 = (1 << (32 - BYTES_BITS)) - 1;

/// Two halves of a word.
#[inline(always)]
pub(super) const fn join(upper: u32, lower: u32) -> u64 {
    (upper as u64) << 32 | lower as u64
}

/// Upper and lower half.
#[inline(always)]
pub(super) const fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The protocol in a first key word.
#[inline(always)]
pub(super) const fn protocol(first: u64) -> u8 {
    (first >> 32) as u8
}

#[inline(always)]
pub(super) fn rewrite_word(way: &Way) -> u64 {
    let routed =
        way.rewrite.map_or(NOT_ROUTED, |(mac, subnet)| mac.to_u64() << 16 | u64::from(subnet) & SUBNET);
    if way.translate { routed | TRANSLATES } else { routed }
}

#[inline(always)]
pub(super) fn way(output: u32, rewrite: u64) -> Way {
    let routed = rewrite & NOT_ROUTED == 0;
    let rewritten = routed.then(|| (MacAddr::from_u64(rewrite >> 16), (rewrite & SUBNET) as u16));
    Way { output, rewrite: rewritten, translate: rewrite & TRANSLATES != 0 }
}

/// The small counters with one more packet; `None` if they would overflow: then the cold part takes them.
#[inline(always)]
pub(super) const fn count(counters: u32, length: u32) -> Option<u32> {
    if length > MOST_BYTES - (counters & MOST_BYTES) || counters >> BYTES_BITS == MOST_PACKETS {
        return None;
    }
    Some(counters + (1 << BYTES_BITS) + length)
}

/// Packets and bytes in small counters.
#[inline(always)]
pub(super) const fn counted(counters: u32) -> (u64, u64) {
    ((counters >> BYTES_BITS) as u64, (counters & MOST_BYTES) as u64)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn small_counters_count_until_they_are_full() {
        let mut counters = 0;
        for sent in 1..=2047u64 {
            counters = count(counters, 1000).unwrap();
            assert_eq!(counted(counters), (sent, sent * 1000));
        }
        assert_eq!(count(counters, 1), None);
        assert_eq!(count(0, MOST_BYTES + 1), None);
        assert_eq!(count(0, u32::MAX), None);
        assert_eq!(counted(count(0, MOST_BYTES).unwrap()), (1, u64::from(MOST_BYTES)));
        assert_eq!(count(count(0, MOST_BYTES).unwrap(), 1), None);
    }

    #[test]
    fn ways_are_words_and_back() {
        let mac = MacAddr([2, 0, 0, 0, 1, 255]);
        for rewrite in [None, Some((mac, 0)), Some((MacAddr::ZERO, 16_383))] {
            for translate in [false, true] {
                let whole = Way { output: 0x2_0001, rewrite, translate };
                assert_eq!(way(whole.output, rewrite_word(&whole)), whole);
            }
        }
    }
}
