//! One region of guest memory: what a front end says about it, and its mapping.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use crate::error::{MapError, Space};
use crate::mapping::Mapping;

/// Granularity of regions and of the dirty log, in bytes (vhost-user: `VHOST_LOG_PAGE`).
pub const PAGE_BYTES: u64 = 4096;

/// A region as a front end describes it (vhost-user `SET_MEM_TABLE`, `ADD_MEM_REG`).
#[derive(Debug)]
pub struct RegionSpec {
    /// First guest physical address; a multiple of 4 KiB.
    pub guest_addr: u64,
    /// First address in the front end's own address space; a multiple of 4 KiB. Ring addresses are given in it.
    pub user_addr: u64,
    /// Bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// Where in the file the region starts; a multiple of 4 KiB.
    pub file_offset: u64,
    /// The memory file.
    pub file: OwnedFd,
}

/// A mapped region. Shared between successive memory tables that both hold it.
#[derive(Debug)]
pub struct Region {
    guest_addr: u64,
    user_addr: u64,
    file_offset: u64,
    mapping: Mapping,
}

impl Region {
    /// Checks and maps a region.
    pub(crate) fn map(spec: RegionSpec) -> Result<Self, MapError> {
        let RegionSpec { guest_addr, user_addr, size, file_offset, file } = spec;
        if size == 0 {
            return Err(MapError::Empty);
        }
        for (space, start) in
            [(Space::Guest, guest_addr), (Space::User, user_addr), (Space::File, file_offset)]
        {
            if start % PAGE_BYTES != 0 {
                return Err(MapError::Unaligned { space, value: start });
            }
            start.checked_add(size).ok_or(MapError::Wraps { space, start, size })?;
        }
        if size % PAGE_BYTES != 0 {
            return Err(MapError::Unaligned { space: Space::File, value: size });
        }
        Ok(Self { guest_addr, user_addr, file_offset, mapping: Mapping::new(file, file_offset, size)? })
    }

    /// First guest physical address.
    #[must_use]
    pub fn guest_addr(&self) -> u64 {
        self.guest_addr
    }

    /// First address in the front end's address space.
    #[must_use]
    pub fn user_addr(&self) -> u64 {
        self.user_addr
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Where in the file the region starts, in bytes.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// The memory file.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.mapping.file()
    }

    /// Whether the peer took the memory away; it reads zero since and the port must be closed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.mapping.is_dead()
    }

    /// First byte of the mapping; valid for [`size`](Self::size) bytes while the region lives.
    pub(crate) fn host(&self) -> NonNull<u8> {
        self.mapping.as_ptr()
    }

    /// The start in `space` (guest or user).
    pub(crate) fn start(&self, space: Space) -> u64 {
        if space == Space::User { self.user_addr } else { self.guest_addr }
    }
}
