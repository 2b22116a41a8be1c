//! What kind of thing a stranger's descriptor is, asked before it is used.
//!
//! Only questions that the kernel answers by itself are asked first. `fstat` on a file of a FUSE file system, for one, is
//! answered by whoever serves it, which may be the stranger, whenever it likes; the name of an anonymous inode and the
//! seals of a memory file are not.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, OFlags, SealFlags};

use crate::refusal::Refusal;

/// The prefixes by which `/proc/self/fd` names what is no file. A file's name begins with a slash.
const EVENTFD: &[u8] = b"anon_inode:[eventfd]";
const PIPE: &[u8] = b"pipe:[";
const SOCKET: &[u8] = b"socket:[";

fn is_named(fd: &OwnedFd, prefix: &[u8]) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    rustix::fs::readlink(path, Vec::new()).is_ok_and(|name| name.to_bytes().starts_with(prefix))
}

/// A descriptor that must be an eventfd, made non-blocking: neither a kick that someone else drained nor a call counter
/// that a front end filled up can then hold a worker (V-20).
pub(crate) fn event(fd: OwnedFd) -> Result<OwnedFd, Refusal> {
    if !is_named(&fd, EVENTFD) {
        return Err(Refusal::EventDescriptor);
    }
    set_non_blocking(&fd).map_err(|_| Refusal::EventDescriptor)?;
    Ok(fd)
}

/// A descriptor that must be a socket, made non-blocking.
pub(crate) fn socket(fd: OwnedFd) -> Option<OwnedFd> {
    (is_named(&fd, SOCKET) && set_non_blocking(&fd).is_ok()).then_some(fd)
}

/// A descriptor that must be a pipe or a socket, made non-blocking.
pub(crate) fn stream(fd: OwnedFd) -> Option<OwnedFd> {
    ((is_named(&fd, PIPE) || is_named(&fd, SOCKET)) && set_non_blocking(&fd).is_ok()).then_some(fd)
}

/// Sets O_NONBLOCK, if it is not set.
fn set_non_blocking(fd: &OwnedFd) -> rustix::io::Result<()> {
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

/// Whether `fd` is a memory file (memfd, hugetlbfs, tmpfs), writable through a shared mapping, and at least `end` bytes
/// long. The guard of `guest-mem` covers what is cut off later.
pub(crate) fn shared_file(fd: &OwnedFd, end: u64) -> Result<(), FileFault> {
    // Memory files know seals, and nothing else does.
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| FileFault::Kind)?;
    let flags = rustix::fs::fcntl_getfl(fd).map_err(|_| FileFault::Kind)?;
    if flags & OFlags::ACCMODE != OFlags::RDWR || seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE)
    {
        return Err(FileFault::ReadOnly);
    }
    let stat = rustix::fs::fstat(fd).map_err(|_| FileFault::Kind)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileFault::Kind);
    }
    if u64::try_from(stat.st_size).unwrap_or(0) < end {
        return Err(FileFault::Short);
    }
    Ok(())
}
