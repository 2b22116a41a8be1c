//! How a guest is interrupted, changed under a running queue.
//!
//! QEMU sends SET_VRING_CALL whenever a guest masks or unmasks an interrupt, and a hostile front end in a loop. So it is not done by taking the
//! queue from its worker: the worker looks up the descriptor at each interrupt, which it pays for with a system call anyway.

use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use virtqueue::{CallFd, Notifier};

/// The call descriptor of a queue; none while its guest polls.
#[derive(Debug)]
pub(crate) struct Call(ArcSwapOption<CallFd>);

impl Call {
    pub(crate) fn new(call: Option<Arc<CallFd>>) -> Self {
        Self(ArcSwapOption::new(call))
    }

    /// Interrupts through another descriptor from now on, and once at once: for what the old one may have swallowed.
    pub(crate) fn set(&self, call: Option<Arc<CallFd>>) {
        self.0.store(call);
        self.notify();
    }
}

impl Notifier for Call {
    fn notify(&self) {
        // Buffers were returned before this. Either `set` is seen here, or its own interrupt, which follows, finds the buffers.
        fence(Ordering::SeqCst);
        if let Some(call) = &*self.0.load() {
            call.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::OwnedFd;

    fn made() -> (OwnedFd, Arc<CallFd>) {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let call = Arc::new(CallFd::new(event.try_clone().unwrap()).unwrap());
        (event, call)
    }

    fn count(event: &OwnedFd) -> u64 {
        let mut bytes = [0; 8];
        rustix::io::read(event, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    }

    #[test]
    fn the_descriptor_set_last_is_told_at_once_and_from_then_on() {
        let ((old, old_call), (new, new_call)) = (made(), made());
        let call = Call::new(Some(old_call));
        call.notify();
        call.set(Some(new_call));
        assert_eq!((count(&old), count(&new)), (1, 1));
        call.notify();
        assert_eq!((count(&old), count(&new)), (0, 1));
        call.set(None);
        call.notify();
        assert_eq!((count(&old), count(&new)), (0, 0));
    }
}
