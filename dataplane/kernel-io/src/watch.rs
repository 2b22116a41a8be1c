//! Descriptors to sleep on that cost nothing while nobody sleeps.
//!
//! A socket that somebody may wait for calls him for every packet: some 250 cycles each over a veth pair, asleep or not. So a
//! queue is waited for by an epoll set of its own, which its socket is in only while the queue is armed.

use crate::sys;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// An empty set: what is waited for.
pub(crate) fn set() -> io::Result<Arc<OwnedFd>> {
    // SAFETY: numbers only.
    let set = sys::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    // SAFETY: a descriptor made just now, which nobody else knows.
    Ok(Arc::new(unsafe { OwnedFd::from_raw_fd(set) }))
}

/// A socket and the set it is in while its queue is armed.
#[derive(Debug)]
pub(crate) struct Watch {
    set: Arc<OwnedFd>,
    on: bool,
}

impl Watch {
    pub(crate) fn new(set: &Arc<OwnedFd>) -> Self {
        Self { set: set.clone(), on: false }
    }

    /// The set becomes readable with the socket's next packet, or is now if there is one. False if the kernel would not.
    pub(crate) fn begin(&mut self, socket: &OwnedFd) -> bool {
        self.on = self.on || self.change(libc::EPOLL_CTL_ADD, socket).is_ok();
        self.on
    }

    /// Nobody waits any more.
    pub(crate) fn end(&mut self, socket: &OwnedFd) {
        if self.on && self.change(libc::EPOLL_CTL_DEL, socket).is_ok() {
            self.on = false;
        }
    }

    fn change(&self, what: i32, socket: &OwnedFd) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let (set, socket) = (self.set.as_raw_fd(), socket.as_raw_fd());
        // SAFETY: the kernel reads the event, which lives through the call.
        sys::check(unsafe { libc::epoll_ctl(set, what, socket, &mut event) }).map(drop)
    }
}
