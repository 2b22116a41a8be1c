//! What kind of thing a stranger's descriptor is, asked before it is used.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, SealFlags};

use crate::refusal::Refusal;

/// A descriptor that must be an eventfd, made non-blocking: neither a kick that someone else drained nor a call counter
/// that a front end filled up can then hold a worker (V-20).
pub(crate) fn event(fd: OwnedFd) -> Result<OwnedFd, Refusal> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let target = rustix::fs::readlink(path, Vec::new()).map_err(|_| Refusal::EventDescriptor)?;
    if target.to_bytes() != b"anon_inode:[eventfd]" {
        return Err(Refusal::EventDescriptor);
    }
    set_non_blocking(&fd).map_err(|_| Refusal::EventDescriptor)?;
    Ok(fd)
}

/// Sets O_NONBLOCK, if it is not set.
pub(crate) fn set_non_blocking(fd: &OwnedFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    }
    Ok(())
}

/// Why a descriptor cannot be mapped as shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFault {
    Kind,
    ReadOnly,
    Short,
}

/// Whether `fd` is a regular file (memfd, hugetlbfs, tmpfs), writable through a shared mapping, and at least `end` bytes
/// long. The guard of `guest-mem` covers what is cut off later.
pub(crate) fn shared_file(fd: &OwnedFd, end: u64) -> Result<(), FileFault> {
    let stat = rustix::fs::fstat(fd).map_err(|_| FileFault::Kind)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileFault::Kind);
    }
    let flags = rustix::fs::fcntl_getfl(fd).map_err(|_| FileFault::Kind)?;
    if flags & OFlags::ACCMODE != OFlags::RDWR {
        return Err(FileFault::ReadOnly);
    }
    // Files that know no seals answer with an error: they have none.
    let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(FileFault::ReadOnly);
    }
    if u64::try_from(stat.st_size).unwrap_or(0) < end {
        return Err(FileFault::Short);
    }
    Ok(())
}

/// Whether `fd` is of the given type.
pub(crate) fn is(fd: &OwnedFd, kind: FileType) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}
