//! No guest can read another's memory: patterns that fill what nobody may see are looked for where they must not be.

use super::{Checked, Violation};
use virtio_driver::SharedMemory;

/// What guards and poison of guest `guest` hold: eight equal bytes that no packet consists of.
#[must_use]
pub fn of(guest: usize) -> u64 {
    0x0101_0101_0101_0101 * (0xc0 + guest as u64)
}

/// Whether a frame of `guest` has its own pattern in it: one that lies about what it sends may send what it likes of its own memory.
#[must_use]
pub fn is_in(guest: usize, frame: &[u8]) -> bool {
    let pattern = of(guest).to_le_bytes();
    frame.windows(pattern.len()).any(|bytes| bytes == pattern)
}

/// Looks for the patterns of other guests in the memory of `guest`, at every multiple of eight, but for those that were `sent` by their own.
///
/// # Errors
///
/// One is there.
pub fn check(guest: usize, sent: &[bool], memory: &SharedMemory) -> Checked {
    const PIECE: usize = 1 << 16;
    let others: Vec<u64> = (0..sent.len()).filter(|other| *other != guest && !sent[*other]).map(of).collect();
    let mut at = 0;
    while at < memory.len() {
        let length = PIECE.min(memory.len() - at);
        let bytes = memory.read_vec(memory.guest_base() + at as u64, length).unwrap_or_default();
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word =
                u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            // All patterns are eight equal bytes; nearly nothing else is.
            if word == word.rotate_left(8) && others.contains(&word) {
                let address = at + 8 * index;
                let what = format!("guest {guest} can read memory of another at {address:#x}: {word:x}");
                return Err(Violation::new("secrets", what));
            }
        }
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_driver::MemoryOptions;

    #[test]
    fn anothers_pattern_is_found_and_ones_own_is_not() {
        let memory = SharedMemory::new(1 << 18, MemoryOptions::default()).unwrap();
        memory.fill_words(0x1000, 64, of(3)).unwrap();
        assert_eq!(check(3, &[false; 5], &memory), Ok(()));
        // Wherever 15 bytes of it lie, a whole word is aligned.
        memory.fill_words(0x2_0003, 15, of(2)).unwrap();
        assert_eq!(check(3, &[false; 5], &memory).unwrap_err().checker, "secrets");
        assert_eq!(check(3, &[false, false, true, false, false], &memory), Ok(()));
        assert!(is_in(2, &[1, 2, 0xc2, 0xc2, 0xc2, 0xc2, 0xc2, 0xc2, 0xc2, 0xc2]) && !is_in(2, &[0xc2; 7]));
    }
}
