//! What an interface and its queues know in common.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use sync::Counter;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// The state of an interface, written by whoever notices and read by its queues before every burst.
#[derive(Debug, Default)]
pub(crate) struct State {
    gone: AtomicBool,
    mtu: AtomicU16,
}

impl State {
    /// Whether the interface was removed.
    #[inline(always)]
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// The interface was removed: its queues end.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Relaxed);
    }

    /// The longest IP packet it carries, in bytes.
    #[inline(always)]
    pub(crate) fn mtu(&self) -> usize {
        usize::from(self.mtu.load(Relaxed))
    }

    pub(crate) fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
    }
}

/// What a receive queue counts beside what it reports.
#[derive(Debug, Default)]
pub(crate) struct RxCounters {
    /// Packets taken from an AF_XDP ring.
    pub(crate) received: Counter,
    /// Frames that were longer than a slot of the ring.
    pub(crate) truncated: Counter,
    /// Frames with lengths, offsets or wishes that cannot be.
    pub(crate) malformed: Counter,
}

/// What a transmit queue counts beside what it reports.
#[derive(Debug, Default)]
pub(crate) struct TxCounters {
    /// Frames sent and then lost: the interface went down, or the kernel refused them.
    pub(crate) lost: Counter,
    /// Times the kernel could not take everything at once.
    pub(crate) congested: Counter,
}
