//! Words in rings: the only place where ring memory is loaded and stored.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
};

use crate::memory::{MemoryError, SharedMemory};

/// A window of ring memory, aligned to 8 bytes, that stays mapped as long as the window exists.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the mapping; never read.
    _memory: Arc<SharedMemory>,
}

// SAFETY: the window only offers atomic loads and stores on memory that the Arc keeps mapped.
unsafe impl Send for Window {}

macro_rules! words {
    ($load:ident, $store:ident, $atomic:ty, $word:ty, $bytes:literal) => {
        /// Loads the little-endian word at byte `offset`.
        #[inline]
        pub(crate) fn $load(&self, offset: usize, order: Ordering) -> $word {
            debug_assert!(offset % $bytes == 0 && offset + $bytes <= self.len, "{offset} in {}", self.len);
            // SAFETY: callers mask slots with the ring's size, which `new` was given the bytes for, so the word is in
            // the window; window and offset are aligned for it; concurrent access by the device is atomic too.
            let word = unsafe { <$atomic>::from_ptr(self.start.as_ptr().add(offset).cast()) };
            <$word>::from_le(word.load(order))
        }

        /// Stores the little-endian word at byte `offset`.
        #[inline]
        pub(crate) fn $store(&self, offset: usize, value: $word, order: Ordering) {
            debug_assert!(offset % $bytes == 0 && offset + $bytes <= self.len, "{offset} in {}", self.len);
            // SAFETY: as for the load above.
            let word = unsafe { <$atomic>::from_ptr(self.start.as_ptr().add(offset).cast()) };
            word.store(value.to_le(), order);
        }
    };
}

impl Window {
    /// The window of `len` bytes at a guest address; `None` when the address is not aligned to 8 bytes.
    pub(crate) fn new(
        memory: &Arc<SharedMemory>,
        address: u64,
        len: usize,
    ) -> Result<Option<Self>, MemoryError> {
        let start = memory.pointer(address, len)?;
        if !(start.as_ptr() as usize).is_multiple_of(8) {
            return Ok(None);
        }
        Ok(Some(Self { start, len, _memory: Arc::clone(memory) }))
    }

    words!(load_u16, store_u16, AtomicU16, u16, 2);
    words!(load_u32, store_u32, AtomicU32, u32, 4);
    words!(load_u64, store_u64, AtomicU64, u64, 8);

    /// Asks for the line of byte `offset`, to be read; a hint, so an offset outside does no harm.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        prefetch(self.start.as_ptr().wrapping_add(offset));
    }

    /// Asks for the line of byte `offset`, to be written.
    #[inline]
    pub(crate) fn prefetch_write(&self, offset: usize) {
        prefetch_write(self.start.as_ptr().wrapping_add(offset));
    }
}

/// Asks for the cache line at `address`. Any address is allowed: a prefetch never faults.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of the x86-64 baseline and does not fault on any address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line at `address` for writing (exclusive). Any address is allowed: a prefetch never faults.
#[inline]
pub(crate) fn prefetch_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW does not fault on any address; processors without it run it as a no-op. The intrinsic would become
    // a prefetch for reading, since the instruction is not in any x86-64 level.
    unsafe {
        core::arch::asm!("prefetchw [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
