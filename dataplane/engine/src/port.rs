//! What a driver offers: receive queues and transmit queues.

use buf::{Burst, Frame};
use packet::MacAddr;
use std::any::Any;
use std::net::IpAddr;

/// A port of this switch: an index into its tables. Given out by the control plane, reused only after all workers forgot it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortIndex(pub u16);

/// What a poll found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxReport {
    /// Chains or frames that were refused before they became packets.
    pub refused: u32,
    /// Whether the queue held more than the burst took.
    pub more: bool,
    /// Set once when the queue broke: it yields nothing until it is made anew.
    pub fault: Option<QueueFault>,
}

/// Why a queue stopped for good. The port stays; its owner is told and the guest may reset it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueFault {
    /// The indices in shared memory cannot be true.
    RingCorrupt,
    /// Memory of the guest went away (truncated file).
    MemoryGone,
    /// The device below failed.
    Device,
}

/// Whether a queue may be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// An event will come with the next packet.
    Quiet,
    /// There is a packet already.
    Ready,
}

/// A queue packets come from.
///
/// For each burst the worker calls [`RxQueue::poll`], uses the packets, drops the burst, and calls [`RxQueue::complete`].
pub trait RxQueue: Send + Any {
    /// Fills `burst` (heads loaded) with what there is, up to its limits. Must not block, allocate or make a system call.
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport;

    /// Returns the buffers of the last poll to whoever owns them and notifies, if asked, once.
    fn complete(&mut self);

    /// Makes up for a notification that [`RxQueue::complete`] may have missed: it need not wait until its writes are visible, this must.
    /// Called once after the last of some bursts, and at the latest after some more.
    fn settle(&mut self) {}

    /// Asks for an event with the next packet; [`Armed::Ready`] if one came meanwhile.
    fn arm(&mut self) -> Armed;

    /// Says that polling begins again: no events needed.
    fn disarm(&mut self);
}

/// What a receiver takes as it is; everything else is done in software before it gets the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadCapabilities {
    /// Partial checksums.
    pub checksum: bool,
    /// TCP over IPv4 larger than the MTU.
    pub tso4: bool,
    /// TCP over IPv6 larger than the MTU.
    pub tso6: bool,
    /// UDP over IPv4 larger than the MTU.
    pub uso4: bool,
    /// UDP over IPv6 larger than the MTU.
    pub uso6: bool,
    /// TCP larger than the MTU with CWR set.
    pub ecn: bool,
    /// What is said of TCP and UDP larger than the MTU also holds inside a VXLAN tunnel: the outer headers of each segment are made.
    pub tunnel: bool,
}

/// What became of the frames given to a transmit queue: `sent`, `full`, `too_large` and `stopped` add up to the number of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxReport {
    /// Delivered.
    pub sent: u32,
    /// Bytes delivered.
    pub bytes: u64,
    /// Not delivered: no room.
    pub full: u32,
    /// Not delivered: fits no buffer.
    pub too_large: u32,
    /// Not delivered: the queue is stopped.
    pub stopped: u32,
    /// Buffers of the receiver that were refused on the way, for lies of its own; no frame is lost by that alone.
    pub refused: u32,
}

impl TxReport {
    /// Adds another report.
    #[inline]
    pub fn merge(&mut self, other: TxReport) {
        self.sent += other.sent;
        self.bytes += other.bytes;
        self.full += other.full;
        self.too_large += other.too_large;
        self.stopped += other.stopped;
        self.refused += other.refused;
    }
}

/// A queue packets go to. Copies synchronously; keeps nothing of a frame.
pub trait TxQueue: Send + Any {
    /// What it takes as it is. Constant until the queue is made anew.
    fn capabilities(&self) -> OffloadCapabilities;

    /// Copies each frame into buffers of the receiver, in order; tries every frame. Must not block, allocate or make a system call.
    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport;

    /// Makes what was sent visible to the receiver and notifies it, if it asked, once. Called once per burst and output.
    fn flush(&mut self);

    /// Makes up for a notification that [`TxQueue::flush`] may have missed, as [`RxQueue::settle`].
    fn settle(&mut self) {}
}

/// A port said that it now holds an address that it is allowed to hold (gratuitous ARP, unsolicited NA, VRRP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who said it.
    pub port: PortIndex,
    /// The address.
    pub address: IpAddr,
    /// The MAC address it is to be reached by.
    pub mac: MacAddr,
}
