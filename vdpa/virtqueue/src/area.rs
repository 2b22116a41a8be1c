//! A part of a ring in guest memory: where it is, and atomic access to its fields.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};

use guest_mem::{DirtyLog, GuestMemory};

use crate::error::SetupError;

/// A contiguous part of a ring. Valid while the [`GuestMemory`] it was found in lives; the ring's owner keeps that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Area {
    name: &'static str,
    start: NonNull<u8>,
    len: usize,
    user_addr: u64,
    /// For the dirty log.
    guest_addr: u64,
}

// SAFETY: an address of memory shared with a guest belongs to no thread; access is atomic.
unsafe impl Send for Area {}
// SAFETY: as for Send.
unsafe impl Sync for Area {}

impl Area {
    /// Finds `len` bytes at `user_addr`, which must be a multiple of `align` (at least the size of the fields accessed in it).
    pub(crate) fn find(
        name: &'static str,
        user_addr: u64,
        len: usize,
        align: u64,
        memory: &GuestMemory,
    ) -> Result<Self, SetupError> {
        if !user_addr.is_multiple_of(align) {
            return Err(SetupError::Unaligned { part: name, user_addr, align });
        }
        let lost = SetupError::NotInMemory { part: name, user_addr, len };
        let start = memory.translate_user(user_addr, len).ok_or(lost)?;
        let guest_addr = memory.guest_addr_of_user(user_addr).ok_or(lost)?;
        Ok(Self { name, start, len, user_addr, guest_addr })
    }

    /// The same part in another memory.
    pub(crate) fn find_again(&self, memory: &GuestMemory) -> Result<Self, SetupError> {
        Self::find(self.name, self.user_addr, self.len, 1, memory)
    }

    /// Refuses parts that share bytes.
    pub(crate) fn check_disjoint(areas: &[&Area]) -> Result<(), SetupError> {
        for (index, first) in areas.iter().enumerate() {
            for second in areas.iter().skip(index + 1) {
                let (low, high) =
                    if first.user_addr <= second.user_addr { (first, second) } else { (second, first) };
                if high.user_addr - low.user_addr < low.len as u64 {
                    return Err(SetupError::Overlap { first: first.name, second: second.name });
                }
            }
        }
        Ok(())
    }

    /// Address of `len` bytes at `offset`, which our own masked positions keep inside: no value of the guest's is ever an offset.
    #[inline(always)]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        debug_assert!(offset + len <= self.len, "{} + {offset}", self.name);
        // SAFETY: offset + len <= self.len, which is inside one mapping (`find`). Split masks or range-checks every index, packed keeps
        // its positions below the size; the areas were found with the lengths of that size.
        unsafe { self.start.as_ptr().add(offset) }
    }

    /// The 16-bit field at `offset`, a multiple of 2.
    #[inline(always)]
    pub(crate) fn u16(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: inside the mapping (`at`); aligned because `find` demanded at least 2 for every part and mappings are page-aligned to
        // user addresses, and offsets are multiples of 2. Shared with the guest, hence atomic.
        unsafe { AtomicU16::from_ptr(self.at(offset, 2).cast()) }
    }

    /// The 32-bit field at `offset`, a multiple of 4, in a part aligned to 4.
    #[inline(always)]
    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as `u16`, with 4.
        unsafe { AtomicU32::from_ptr(self.at(offset, 4).cast()) }
    }

    /// The 64-bit field at `offset`, a multiple of 8, in a part aligned to 16.
    #[inline(always)]
    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as `u16`, with 8.
        unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) }
    }

    /// Hints that the line at `offset` will be read soon.
    #[inline(always)]
    pub(crate) fn prefetch(&self, offset: usize) {
        cpu::prefetch_read_at(self.start.as_ptr().wrapping_add(offset));
    }

    /// Hints that the line at `offset` will be written soon.
    #[inline(always)]
    pub(crate) fn prefetch_write(&self, offset: usize) {
        cpu::prefetch_write_at(self.start.as_ptr().wrapping_add(offset));
    }

    /// Marks `len` bytes at `offset` as written.
    pub(crate) fn mark(&self, log: &DirtyLog, offset: usize, len: usize) {
        log.mark(self.guest_addr.saturating_add(offset as u64), len as u64);
    }
}
