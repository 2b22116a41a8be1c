//! Memory of plain data that outlives a process: a sealed memory file, mapped.
//!
//! # Safety boundary
//!
//! [`Region`] hands out `&[T]` into a mapping. What must hold:
//!
//! * The memory stays mapped while anybody can reach it: every region keeps an `Arc` of the mapping, which unmaps when the last one goes.
//! * The file stays as long as the mapping: it carries the seals against shrinking and growing, which [`Arena::open`] asks the kernel for
//!   before it maps anything. So no access faults, whatever the holder of another descriptor does.
//! * Any contents are a valid `T`, whoever wrote them: [`Plain`] is implemented for atomics, and lines of atomics, alone. Other
//!   processes may write at any time, which is what atomics allow. One region is viewed as one type, so that no word is accessed in
//!   two sizes.
//!
//! Entry points: [`Arena::create`], [`Arena::open`], [`Arena::region`]. The tests below attack the bounds and the seals.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of a page that the processor maps with one entry.
const HUGE_PAGE: usize = 2 << 20;
/// What a file must promise before it is mapped.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A cache line of eight words.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; 8]);

/// Types that any bytes are a valid value of, and that others may write meanwhile.
///
/// # Safety
///
/// Every bit pattern is a value, every part is an atomic, and the alignment is at most 4 KiB.
pub unsafe trait Plain: Send + Sync + 'static {}

// SAFETY: an integer of 64 bits, atomic.
unsafe impl Plain for AtomicU64 {}
// SAFETY: eight of them without padding, aligned to 64.
unsafe impl Plain for Line {}

/// The mapping; unmapped when nobody has a part of it.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is shared by design and reached through atomics alone; unmapping may happen on any thread.
unsafe impl Send for Mapping {}
// SAFETY: the same; `start` and `length` never change.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the whole of a mapping made in `map`, and the last reference to it; regions keep one each.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// A memory file and its mapping.
#[derive(Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    file: OwnedFd,
    huge: bool,
}

/// A part of an arena, as a slice. Keeps the arena mapped.
#[derive(Debug)]
pub struct Region<T> {
    start: NonNull<T>,
    count: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: a region is a `&[T]` with what keeps it alive.
unsafe impl<T: Plain> Send for Region<T> {}
// SAFETY: the same.
unsafe impl<T: Plain> Sync for Region<T> {}

impl<T: Plain> Deref for Region<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `Arena::region` checked that `count` aligned elements lie in the mapping, which `_mapping` keeps.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Arena {
    /// New memory of at least `length` bytes, all zero. On 2 MiB pages of the kernel's reserve if `huge` and the reserve has them, otherwise on
    /// ordinary pages, for which the kernel is asked to use large ones where it can.
    ///
    /// # Errors
    ///
    /// Those of `memfd_create(2)`, `ftruncate(2)` and `mmap(2)`: no memory, no descriptors.
    pub fn create(name: &str, length: usize, huge: bool) -> io::Result<Self> {
        let length = length.max(1).next_multiple_of(HUGE_PAGE);
        if huge && let Ok(arena) = Self::with_flags(name, length, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        {
            return Ok(arena);
        }
        Self::with_flags(name, length, MemfdFlags::empty())
    }

    fn with_flags(name: &str, length: usize, flags: MemfdFlags) -> io::Result<Self> {
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags)?;
        rustix::fs::ftruncate(&file, length as u64)?;
        rustix::fs::fcntl_add_seals(&file, SEALS | SealFlags::SEAL)?;
        let mapping = Arc::new(map(&file, length)?);
        Ok(Self { mapping, file, huge: flags.contains(MemfdFlags::HUGETLB) })
    }

    /// Maps the memory that another process, or an earlier one, made with [`Arena::create`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if the file is not sealed against shrinking and growing; those of `fstat(2)` and `mmap(2)`.
    pub fn open(file: OwnedFd) -> io::Result<Self> {
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        if !seals.contains(SEALS) {
            let text = "the descriptor of an arena is no memory file sealed against shrinking and growing: pass one that \
                        this switch made";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let status = rustix::fs::fstat(&file)?;
        let length = usize::try_from(status.st_size).ok().filter(|length| *length > 0);
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the arena is empty"))?;
        let huge = status.st_blksize as usize >= HUGE_PAGE;
        Ok(Self { mapping: Arc::new(map(&file, length)?), file, huge })
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.mapping.length
    }

    /// Whether it is on reserved 2 MiB pages.
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The file, to be handed to another process.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// `count` elements from byte `offset` on; `None` if that is not within the arena, or not aligned.
    pub fn region<T: Plain>(&self, offset: usize, count: usize) -> Option<Region<T>> {
        let end = count.checked_mul(size_of::<T>())?.checked_add(offset)?;
        if end > self.mapping.length || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` is at most `end`, which is within the mapping (or one past it, for no elements).
        let start = unsafe { self.mapping.start.add(offset) }.cast();
        Some(Region { start, count, _mapping: self.mapping.clone() })
    }
}

fn map(file: &OwnedFd, length: usize) -> io::Result<Mapping> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            length,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            file,
            0,
        )
    }?;
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = Mapping { start, length };
    // SAFETY: the advice concerns the mapping just made and changes no contents; kernels without large pages for files refuse it.
    let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), length, Advice::LinuxHugepage) };
    Ok(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_one_mapping_wrote_another_reads() {
        let arena = Arena::create("towpath-test", 1000, false).unwrap();
        let words = arena.region::<AtomicU64>(0, 125).unwrap();
        words[124].store(7, Relaxed);
        let again = Arena::open(arena.file().try_clone_to_owned().unwrap()).unwrap();
        drop((arena, words));
        assert_eq!(again.region::<AtomicU64>(124 * 8, 1).unwrap()[0].load(Relaxed), 7);
        assert_eq!(again.length() % HUGE_PAGE, 0);
    }

    #[test]
    fn regions_keep_the_mapping_and_its_bounds() {
        let arena = Arena::create("towpath-test", HUGE_PAGE, true).unwrap();
        let lines = arena.region::<Line>(64, HUGE_PAGE / 64 - 1).unwrap();
        for (offset, count) in
            [(0, HUGE_PAGE / 64 + 1), (64, HUGE_PAGE / 64), (8, 1), (0, usize::MAX), (usize::MAX - 63, 1)]
        {
            assert!(arena.region::<Line>(offset, count).is_none(), "{offset}, {count}");
        }
        assert!(arena.region::<Line>(HUGE_PAGE, 0).is_some());
        drop(arena);
        lines.last().unwrap().0[7].store(1, Relaxed);
    }

    #[test]
    fn files_that_could_shrink_are_refused() {
        let file = rustix::fs::memfd_create("towpath-test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 4096).unwrap();
        assert_eq!(Arena::open(file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let file = std::fs::File::open("/proc/self/exe").unwrap().into();
        assert!(Arena::open(file).is_err());
        let arena = Arena::create("towpath-test", 1, false).unwrap();
        assert!(rustix::fs::ftruncate(arena.file(), 0).is_err());
    }
}
