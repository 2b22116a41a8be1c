//! Memory shared with the device: one mapping of a memfd, addressed as the guest does.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::Arc,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// What can go wrong with shared memory.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum MemoryError {
    /// The kernel refused the file or the mapping.
    #[error("shared memory of {len} bytes ({pages} pages): {errno}")]
    Create {
        /// Bytes asked for.
        len: usize,
        /// `normal` or `huge`.
        pages: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// Guest addresses that are not in the region.
    #[error("guest address {address:#x}+{len} is outside the region {base:#x}+{size:#x}")]
    OutOfRange {
        /// First guest address of the access.
        address: u64,
        /// Bytes accessed.
        len: usize,
        /// First guest address of the region.
        base: u64,
        /// Bytes of the region.
        size: usize,
    },
    /// The arena has too little left.
    #[error("{wanted} bytes wanted, {left} left in the arena; make the region larger")]
    Exhausted {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes left.
        left: u64,
    },
}

/// How a region is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct MemoryOptions {
    /// Back it with 2 MiB pages; fails when none are free.
    pub huge_pages: bool,
    /// Guest (physical) address of the first byte.
    pub guest_base: u64,
    /// Front-end virtual address to announce for the first byte; absent: where it is mapped here. A simulator chooses it
    /// so that two runs are equal.
    pub user_base: Option<u64>,
    /// Refuse later shrinking of the file (`F_SEAL_SHRINK`), as a careful VMM does.
    pub seal: bool,
}

/// A mapped memfd that a device is given to map too.
#[derive(Debug)]
pub struct SharedMemory {
    map: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
    guest_base: u64,
    user_base: u64,
}

// SAFETY: the mapping is process-wide and lives until drop; all access is by raw copies or atomics, and the type offers
// no reference into it.
unsafe impl Send for SharedMemory {}
// SAFETY: as above. Races between threads on the same bytes are races between guest CPUs: values may tear, the
// contents are never interpreted as anything but integers and bytes.
unsafe impl Sync for SharedMemory {}

const HUGE_PAGE: usize = 2 << 20;

impl SharedMemory {
    /// Creates a memfd of `len` bytes (rounded up to whole pages) and maps it; all bytes are zero.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Create`] with the kernel's reason (`ENOMEM`: no free huge pages).
    pub fn new(len: usize, options: MemoryOptions) -> Result<Self, MemoryError> {
        let page = if options.huge_pages { HUGE_PAGE } else { 4096 };
        let len = len.max(1).next_multiple_of(page);
        let pages = if options.huge_pages { "huge" } else { "normal" };
        let fail = |errno| MemoryError::Create { len, pages, errno };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if options.huge_pages {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let fd = memfd_create("towpath-guest", flags).map_err(fail)?;
        ftruncate(&fd, len as u64).map_err(fail)?;
        if options.seal {
            fcntl_add_seals(&fd, SealFlags::SHRINK).map_err(fail)?;
        }
        let mut map_flags = MapFlags::SHARED;
        if options.huge_pages {
            map_flags |= MapFlags::POPULATE;
        }
        // SAFETY: a fresh shared mapping of a file we own, at an address of the kernel's choice; it replaces nothing.
        let map = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, map_flags, &fd, 0)
                .map_err(fail)?
        };
        let map = NonNull::new(map.cast::<u8>()).ok_or(fail(Errno::FAULT))?;
        let user_base = options.user_base.unwrap_or(map.as_ptr() as u64);
        Ok(Self { map, len, fd, guest_base: options.guest_base, user_base })
    }

    /// Shares it between rings.
    #[must_use]
    pub fn into_shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// The file behind the region; its offset 0 is the first byte. Truncating it makes later access here a SIGBUS.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes in the region.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Guest address of the first byte.
    #[must_use]
    pub const fn guest_base(&self) -> u64 {
        self.guest_base
    }

    /// Front-end virtual address of the first byte, for memory tables and ring addresses.
    #[must_use]
    pub const fn user_base(&self) -> u64 {
        self.user_base
    }

    /// The front-end virtual address that belongs to a guest address; wraps for one outside the region, which hostile
    /// guests use.
    #[must_use]
    pub const fn user_address(&self, guest: u64) -> u64 {
        guest.wrapping_sub(self.guest_base).wrapping_add(self.user_base)
    }

    /// The pointer to `len` bytes at a guest address, all inside the mapping.
    #[inline]
    pub(crate) fn pointer(&self, address: u64, len: usize) -> Result<NonNull<u8>, MemoryError> {
        let offset = address.wrapping_sub(self.guest_base);
        if offset > self.len as u64 || len as u64 > self.len as u64 - offset {
            return Err(MemoryError::OutOfRange { address, len, base: self.guest_base, size: self.len });
        }
        // SAFETY: offset + len <= self.len was just checked, so the result is in (or one past) the mapping.
        Ok(unsafe { self.map.add(offset as usize) })
    }

    /// Copies bytes out.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`]; nothing is copied then.
    #[inline]
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.pointer(address, into.len())?;
        // SAFETY: `pointer` vouches for the source; `into` is a private slice, so they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`]; nothing is copied then.
    #[inline]
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let into = self.pointer(address, from.len())?;
        // SAFETY: `pointer` vouches for the destination; `from` is a private slice, so they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_ptr(), from.len()) };
        Ok(())
    }

    /// Copies `N` bytes in: a length known to the compiler, so no call of `memcpy`.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`]; nothing is copied then.
    #[inline(always)]
    pub fn write_array<const N: usize>(&self, address: u64, from: &[u8; N]) -> Result<(), MemoryError> {
        let into = self.pointer(address, N)?;
        // SAFETY: `pointer` vouches for N bytes at the destination; an array of bytes has alignment 1.
        unsafe { into.as_ptr().cast::<[u8; N]>().write(*from) };
        Ok(())
    }

    /// Copies `N` bytes out, as [`SharedMemory::write_array`] copies them in.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    #[inline(always)]
    pub fn read_array<const N: usize>(&self, address: u64) -> Result<[u8; N], MemoryError> {
        let from = self.pointer(address, N)?;
        // SAFETY: `pointer` vouches for N bytes at the source; an array of bytes has alignment 1 and no invalid values.
        Ok(unsafe { from.as_ptr().cast::<[u8; N]>().read() })
    }

    /// Reads bytes into a new vector.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn read_vec(&self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        self.pointer(address, len)?;
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Sets `len` bytes to `value`.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    pub fn fill(&self, address: u64, len: usize, value: u8) -> Result<(), MemoryError> {
        let into = self.pointer(address, len)?;
        // SAFETY: `pointer` vouches for the whole range.
        unsafe { std::ptr::write_bytes(into.as_ptr(), value, len) };
        Ok(())
    }

    /// Writes `len` bytes of the pattern that [`SharedMemory::sum`] adds up: every whole 8-byte word holds `word`, a rest
    /// holds its low bytes (little endian). Every byte is stored.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    #[inline]
    pub fn fill_words(&self, address: u64, len: usize, word: u64) -> Result<(), MemoryError> {
        let into = self.pointer(address, len)?.as_ptr();
        let words = len / 8;
        let start = into.cast::<u64>();
        for i in 0..words {
            // SAFETY: word i ends at 8 * (i + 1) <= len, inside the range `pointer` vouched for; unaligned store.
            unsafe { start.add(i).write_unaligned(word.to_le()) };
        }
        for i in 0..len % 8 {
            // SAFETY: 8 * words + i < len.
            unsafe { into.add(8 * words + i).write((word >> (8 * i)) as u8) };
        }
        Ok(())
    }

    /// Reads `len` bytes and adds them up as little-endian 8-byte words (a rest counts as a word with zeroes above),
    /// wrapping. Every byte is loaded.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`].
    #[inline]
    pub fn sum(&self, address: u64, len: usize) -> Result<u64, MemoryError> {
        let from = self.pointer(address, len)?.as_ptr();
        let words = len / 8;
        let start = from.cast::<u64>();
        let mut sum = 0u64;
        for i in 0..words {
            // SAFETY: word i ends at 8 * (i + 1) <= len, inside the range `pointer` vouched for; unaligned load.
            sum = sum.wrapping_add(u64::from_le(unsafe { start.add(i).read_unaligned() }));
        }
        // The rest stays in a register: bytes put together in memory could only be loaded as a word once every store before
        // them has left the store buffer, cache misses of the ring among them.
        let mut rest = 0u64;
        for i in 0..len % 8 {
            // SAFETY: 8 * words + i < len.
            rest |= u64::from(unsafe { from.add(8 * words + i).read() }) << (8 * i);
        }
        Ok(sum.wrapping_add(rest))
    }

    /// Asks for the cache line at a guest address, to be read. Outside the region it does nothing.
    #[inline]
    pub fn prefetch(&self, address: u64) {
        if let Ok(pointer) = self.pointer(address, 1) {
            crate::cell::prefetch(pointer.as_ptr());
        }
    }

    /// Asks for the cache line at a guest address, to be written. Outside the region it does nothing.
    #[inline]
    pub fn prefetch_write(&self, address: u64) {
        if let Ok(pointer) = self.pointer(address, 1) {
            crate::cell::prefetch_write(pointer.as_ptr());
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length; rings hold an Arc, so no pointer outlives this.
        let unmapped = unsafe { munmap(self.map.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> SharedMemory {
        SharedMemory::new(
            8192,
            MemoryOptions { guest_base: 0x1000, user_base: Some(0x7000_0000), ..Default::default() },
        )
        .unwrap()
    }

    #[test]
    fn addresses_are_checked_at_both_ends() {
        let memory = region();
        assert_eq!(
            memory.read(0xfff, &mut [0; 1]).unwrap_err(),
            MemoryError::OutOfRange { address: 0xfff, len: 1, base: 0x1000, size: 8192 }
        );
        assert!(memory.write(0x1000 + 8192, &[]).is_ok(), "an empty access may end the region");
        assert!(memory.write(0x1000 + 8191, &[1, 2]).is_err());
        assert!(memory.write(u64::MAX, &[1, 2]).is_err());
        memory.write(0x1000 + 8190, &[1, 2]).unwrap();
        assert_eq!(memory.read_vec(0x1000 + 8189, 3).unwrap(), [0, 1, 2]);
        assert_eq!(memory.user_address(0x1010), 0x7000_0010);
    }

    #[test]
    fn sum_adds_what_fill_words_wrote() {
        let memory = region();
        for len in [0usize, 1, 7, 8, 9, 46, 1500] {
            memory.fill(0x1000, 4096, 0xff).unwrap();
            memory.fill_words(0x1003, len, 0x0102_0304_0506_0708).unwrap();
            let rest = 0x0102_0304_0506_0708u64 & ((1 << (8 * (len % 8))) - 1);
            let want = 0x0102_0304_0506_0708u64.wrapping_mul(len as u64 / 8).wrapping_add(rest);
            assert_eq!(memory.sum(0x1003, len).unwrap(), want, "length {len}");
            assert_eq!(
                memory.read_vec(0x1003 + len as u64, 1).unwrap(),
                [0xff],
                "one past the end is untouched"
            );
        }
    }
}
