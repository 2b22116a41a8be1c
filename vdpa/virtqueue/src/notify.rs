//! Interrupting the guest: who is told when [`interrupt_due`](crate::DeviceRing::interrupt_due) says so.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Tells a guest that a ring has news. Called at most once per burst and ring.
pub trait Notifier: Send + Sync {
    /// Interrupts the guest. Never blocks; what cannot be delivered is lost, as it would be with a device that the guest has torn down.
    fn notify(&self);
}

/// A call descriptor (`SET_VRING_CALL`): an eventfd of the front end's.
#[derive(Debug)]
pub struct CallFd {
    file: OwnedFd,
    /// Interrupts that could not be written (counter full, or the peer closed a pipe).
    lost: AtomicU64,
}

impl CallFd {
    /// Takes a descriptor over and makes writes to it non-blocking and close-on-exec, so that a peer that hands over something else than an
    /// eventfd cannot stall a polling core.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for everything but eventfds and pipes that can be written: writing to it might do more than wake somebody, or block
    /// whatever the flags. Otherwise what the kernel says.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        // The kernel names it without asking anybody: `fstat` of a FUSE file would be answered by its server. Pipes are what test
        // front ends pass.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = rustix::fs::readlink(path, Vec::new())?;
        if !name.to_bytes().starts_with(b"anon_inode:[eventfd]") && !name.to_bytes().starts_with(b"pipe:[") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "call descriptor is neither an eventfd nor a pipe",
            ));
        }
        let flags = rustix::fs::fcntl_getfl(&file)?;
        if !flags.intersects(OFlags::RDWR | OFlags::WRONLY) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "call descriptor cannot be written"));
        }
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { file, lost: AtomicU64::new(0) })
    }

    /// Interrupts that could not be delivered.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The descriptor.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Notifier for CallFd {
    fn notify(&self) {
        match rustix::io::write(&self.file, &1u64.to_ne_bytes()) {
            // A full counter means that the guest has an interrupt pending: nothing is lost.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Counts interrupts: for tests and the simulator.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Interrupts so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Notifier for Counter {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
