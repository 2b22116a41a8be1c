//! No guest can read another's memory: patterns that fill what nobody may see are looked for where they must not be.

use super::{Checked, Violation};
use virtio_driver::SharedMemory;

/// What guards and poison of guest `guest` hold: eight equal bytes that no packet consists of.
#[must_use]
pub fn of(guest: usize) -> u64 {
    0x0101_0101_0101_0101 * (0xc0 + guest as u64)
}

/// Looks for the patterns of other guests in the memory of `guest`, at every multiple of eight.
///
/// # Errors
///
/// One is there.
pub fn check(guest: usize, guests: usize, memory: &SharedMemory) -> Checked {
    const PIECE: usize = 1 << 16;
    let others: Vec<u64> = (0..guests).filter(|other| *other != guest).map(of).collect();
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
        assert_eq!(check(3, 5, &memory), Ok(()));
        // Wherever 15 bytes of it lie, a whole word is aligned.
        memory.fill_words(0x2_0003, 15, of(2)).unwrap();
        assert_eq!(check(3, 5, &memory).unwrap_err().checker, "secrets");
    }
}
