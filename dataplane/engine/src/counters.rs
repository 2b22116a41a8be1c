//! Counters of a port, one shard per worker.

use crate::DropReason;
use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use sync::Counter;

/// What one worker did for one port. Each field has that worker as its only writer. Packets and bytes are frames without FCS.
#[derive(Debug)]
#[repr(align(64))]
pub struct PortCounters {
    /// Packets taken from the port (sent by the guest).
    pub rx_packets: Counter,
    /// Bytes taken from the port.
    pub rx_bytes: Counter,
    /// Packets given to the port (received by the guest).
    pub tx_packets: Counter,
    /// Bytes given to the port.
    pub tx_bytes: Counter,
    /// Busy time spent on what the port sent, in time stamp cycles.
    pub busy_cycles: Counter,
    /// Packets given to the port as a second copy because another worker owned its ring.
    pub handed_over: Counter,
    /// Packets given to the control thread, which answers them or not.
    pub punted: Counter,
    /// Receive buffers of the guest that were refused: chains with lies in them, and buffers too small for any frame.
    pub bad_buffers: Counter,
    /// Ethernet source of the last packet dropped as [`DropReason::SpoofedMac`], as a number; 0 when there was none.
    pub last_spoofed_mac: AtomicU64,
    drops: [Counter; DropReason::COUNT],
}

impl Default for PortCounters {
    fn default() -> Self {
        Self {
            rx_packets: Counter::new(),
            rx_bytes: Counter::new(),
            tx_packets: Counter::new(),
            tx_bytes: Counter::new(),
            busy_cycles: Counter::new(),
            handed_over: Counter::new(),
            punted: Counter::new(),
            bad_buffers: Counter::new(),
            last_spoofed_mac: AtomicU64::new(0),
            drops: array::from_fn(|_| Counter::new()),
        }
    }
}

impl PortCounters {
    /// Counts `packets` of this port as ended for `reason`. A packet is counted at the port that sent it.
    #[inline]
    pub fn count_drop(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(packets);
        }
    }

    /// Packets ended for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }
}

/// The shards of a port added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterTotals {
    /// See [`PortCounters::rx_packets`].
    pub rx_packets: u64,
    /// See [`PortCounters::rx_bytes`].
    pub rx_bytes: u64,
    /// See [`PortCounters::tx_packets`].
    pub tx_packets: u64,
    /// See [`PortCounters::tx_bytes`].
    pub tx_bytes: u64,
    /// See [`PortCounters::busy_cycles`].
    pub busy_cycles: u64,
    /// See [`PortCounters::handed_over`].
    pub handed_over: u64,
    /// See [`PortCounters::punted`].
    pub punted: u64,
    /// See [`PortCounters::bad_buffers`].
    pub bad_buffers: u64,
    /// See [`PortCounters::last_spoofed_mac`].
    pub last_spoofed_mac: u64,
    /// Packets by reason, those that are not zero.
    pub drops: Vec<(DropReason, u64)>,
}

impl CounterTotals {
    /// Adds up `shards`.
    pub fn of<'a>(shards: impl IntoIterator<Item = &'a PortCounters>) -> Self {
        let mut total = Self::default();
        let mut drops = [0u64; DropReason::COUNT];
        for shard in shards {
            total.rx_packets += shard.rx_packets.get();
            total.rx_bytes += shard.rx_bytes.get();
            total.tx_packets += shard.tx_packets.get();
            total.tx_bytes += shard.tx_bytes.get();
            total.busy_cycles += shard.busy_cycles.get();
            total.handed_over += shard.handed_over.get();
            total.punted += shard.punted.get();
            total.bad_buffers += shard.bad_buffers.get();
            total.last_spoofed_mac = total.last_spoofed_mac.max(shard.last_spoofed_mac.load(Relaxed));
            for (sum, reason) in drops.iter_mut().zip(DropReason::ALL) {
                *sum += shard.dropped(*reason);
            }
        }
        total.drops = DropReason::ALL.iter().copied().zip(drops).filter(|(_, count)| *count > 0).collect();
        total
    }

    /// Packets ended for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }
}
