//! Carving shared memory into rings and buffers.

use crate::memory::{MemoryError, SharedMemory};

/// Hands out guest addresses from the start of a region to its end; nothing is ever given back.
///
/// A test or a generator lays its memory out once, and a guest that starts again makes a new arena over the same memory.
#[derive(Debug, Clone)]
pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// An arena over all of `memory`.
    #[must_use]
    pub fn new(memory: &SharedMemory) -> Self {
        Self { next: memory.guest_base(), end: memory.guest_base().saturating_add(memory.len() as u64) }
    }

    /// An arena over the guest addresses from `start` up to but not including `end`.
    #[must_use]
    pub const fn over(start: u64, end: u64) -> Self {
        Self { next: start, end }
    }

    /// Takes `len` bytes aligned to `align` (a power of two) and returns their guest address.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Exhausted`] when the rest of the region is too small; nothing is taken then.
    pub fn allocate(&mut self, len: usize, align: u64) -> Result<u64, MemoryError> {
        debug_assert!(align.is_power_of_two(), "an alignment is a power of two");
        let start = self.next.checked_next_multiple_of(align);
        let end = start.and_then(|start| start.checked_add(len as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.end => {
                self.next = end;
                Ok(start)
            }
            _ => Err(MemoryError::Exhausted { wanted: len, left: self.end.saturating_sub(self.next) }),
        }
    }

    /// Bytes not handed out yet (alignment may cost some of them).
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.end.saturating_sub(self.next)
    }
}
