//! One shared, writable mapping of a file that a peer handed over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FileType, OFlags, SealFlags};
use rustix::io::FdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::{MapError, Space};
use crate::guard::Registration;

/// `statfs` magic numbers (linux/magic.h) of file systems whose pages are memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A range of a peer's memory file, mapped shared, readable and writable, never executable, left out of core dumps.
///
/// The peer can change its bytes at any time, and can truncate the file: then the range reads zero, [`is_dead`](Self::is_dead)
/// turns true and nothing written reaches the peer any more. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    /// Start of the mapped window: on a (huge) page boundary, at or before the range.
    window: NonNull<u8>,
    window_len: usize,
    /// The range within the window.
    start: NonNull<u8>,
    len: usize,
    /// Always `Some` until drop, which must unregister before it unmaps.
    guard: Option<Registration>,
    file: OwnedFd,
}

// SAFETY: the mapping is plain memory owned by this value; it is not tied to a thread, and every access to its bytes goes
// through raw pointers or atomics of the accessor's own responsibility.
unsafe impl Send for Mapping {}
// SAFETY: `&Mapping` only gives out the address, the length, the flag of the guard (an atomic) and the descriptor.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes at `offset` of `file`. Neither has to be aligned.
    ///
    /// # Errors
    ///
    /// Every way in which the file or range cannot be mapped safely, see [`MapError`]; nothing is left mapped and the file is closed.
    pub fn new(file: OwnedFd, offset: u64, len: u64) -> Result<Self, MapError> {
        let block = check_file(file.as_fd(), offset, len)?;
        let end = offset + len; // checked not to wrap and to lie in the file
        let window_offset = offset - offset % block;
        let too_big = || MapError::Wraps { space: Space::File, start: offset, size: len };
        let window_end = end.checked_next_multiple_of(block).ok_or_else(too_big)?;
        let window_len = usize::try_from(window_end - window_offset).map_err(|_| too_big())?;
        if isize::try_from(window_len).is_err() {
            return Err(too_big());
        }
        let lead = (offset - window_offset) as usize;
        // SAFETY: the kernel chooses the address, so no existing mapping is touched.
        let window = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                window_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                window_offset,
            )
        }?;
        let Some(window) = NonNull::new(window.cast::<u8>()) else {
            return Err(MapError::Os(std::io::ErrorKind::InvalidData.into()));
        };
        let mut mapping = Self {
            window,
            window_len,
            // SAFETY: `lead < block <= window_len`, so the result stays in the window just mapped.
            start: unsafe { window.add(lead) },
            len: len as usize,
            guard: None,
            file,
        };
        // SAFETY: the window was mapped by us just now; advice on it affects nothing else.
        unsafe { rustix::mm::madvise(window.as_ptr().cast(), window_len, Advice::LinuxDontDump) }?;
        // SAFETY: the window is ours, starts and ends on block boundaries of its file system, and `drop` unregisters it before
        // unmapping; all accessors tolerate that it turns to zeroes.
        let guard = unsafe { Registration::new(window.as_ptr() as usize, window_len) }?;
        mapping.guard = Some(guard.ok_or(MapError::GuardFull)?);
        Ok(mapping)
    }

    /// First byte of the range. Valid for [`len`](Self::len) bytes while the mapping lives; shared with the peer, so no reference to
    /// it may ever be formed.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// Length of the range in bytes, never 0.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the peer took the memory away (truncated the file); it reads zero since.
    #[inline]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.guard.as_ref().is_some_and(Registration::is_dead)
    }

    /// The file, for handing it on to a successor process.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // First out of the guard's table: the addresses may belong to somebody else right after munmap.
        self.guard = None;
        // SAFETY: this is exactly the window mapped in `new`, and no pointer from it outlives `self`.
        // An error could only mean that it is not mapped; nothing to be done in a drop.
        let _ = unsafe { rustix::mm::munmap(self.window.as_ptr().cast(), self.window_len) };
    }
}

/// Checks that `file` is a writable memory file with `len` bytes at `offset`; marks it close-on-exec. Returns its page size in bytes.
fn check_file(file: BorrowedFd<'_>, offset: u64, len: u64) -> Result<u64, MapError> {
    if len == 0 {
        return Err(MapError::Empty);
    }
    let wraps = || MapError::Wraps { space: Space::File, start: offset, size: len };
    let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(wraps)?;
    // First the question that the kernel answers by itself: what is asked of a file of FUSE is answered by whoever serves it, which may be
    // the peer, whenever it likes. Memory files know seals, and nothing else does.
    let seals = rustix::fs::fcntl_get_seals(file).map_err(|_| MapError::NotMemory)?;
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(MapError::NotMemory);
    }
    let file_system = rustix::fs::fstatfs(file)?.f_type;
    if file_system != TMPFS_MAGIC && file_system != HUGETLBFS_MAGIC {
        return Err(MapError::NotMemory);
    }
    let access = rustix::fs::fcntl_getfl(file)?;
    if !access.contains(OFlags::RDWR) || seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(MapError::ReadOnly);
    }
    let file_size = u64::try_from(stat.st_size).unwrap_or(0);
    if end > file_size {
        return Err(MapError::PastEndOfFile { offset, size: len, file_size });
    }
    rustix::io::fcntl_setfd(file, FdFlags::CLOEXEC)?;
    let block = if file_system == HUGETLBFS_MAGIC { u64::try_from(stat.st_blksize).unwrap_or(0) } else { 0 };
    Ok(block.max(rustix::param::page_size() as u64))
}
