//! The dirty log of live migration (vhost-user `SET_LOG_BASE`): a bit per 4 KiB page of guest memory.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::MapError;
use crate::mapping::Mapping;
use crate::memory::GuestMemory;
use crate::region::PAGE_BYTES;

/// A mapped dirty log. The front end reads and clears bits while we set them, so each is set by an atomic OR, which is a full barrier:
/// data written before the mark is seen by whoever sees (and clears) the bit.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
}

impl DirtyLog {
    /// Maps a log of `size` bytes at `offset` of `file`.
    ///
    /// # Errors
    ///
    /// [`MapError`] as for a region; alignment is not asked for.
    pub fn map(file: OwnedFd, offset: u64, size: u64) -> Result<Self, MapError> {
        Ok(Self { mapping: Mapping::new(file, offset, size)? })
    }

    /// Whether there is a bit for each page of `memory`.
    ///
    /// # Errors
    ///
    /// [`MapError::LogTooSmall`] with the size that is needed.
    pub fn check_covers(&self, memory: &GuestMemory) -> Result<(), MapError> {
        let needed = memory.guest_end().div_ceil(PAGE_BYTES).div_ceil(8);
        let size = self.mapping.len() as u64;
        if size < needed { Err(MapError::LogTooSmall { size, needed }) } else { Ok(()) }
    }

    /// Marks the pages of `len` bytes at `guest_addr` as written. Pages beyond the log are left out: the front end said it does not want them.
    pub fn mark(&self, guest_addr: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = guest_addr / PAGE_BYTES;
        let last = guest_addr.saturating_add(len - 1) / PAGE_BYTES;
        for page in first..=last {
            let Some(byte) = self.byte(page / 8) else { return };
            byte.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    /// Whether the page that holds `guest_addr` is marked.
    #[must_use]
    pub fn is_marked(&self, guest_addr: u64) -> bool {
        let page = guest_addr / PAGE_BYTES;
        self.byte(page / 8).is_some_and(|byte| byte.load(Ordering::SeqCst) & (1 << (page % 8)) != 0)
    }

    /// Whether the front end took the log away.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.mapping.is_dead()
    }

    fn byte(&self, index: u64) -> Option<&AtomicU8> {
        if index >= self.mapping.len() as u64 {
            return None;
        }
        // SAFETY: index < len, so the address lies in the mapping, which `self` keeps; AtomicU8 has no alignment, and every access
        // of ours to it is atomic.
        Some(unsafe { AtomicU8::from_ptr(self.mapping.as_ptr().as_ptr().add(index as usize)) })
    }
}
