//! What a session tells its owner.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::inflight::InflightRegion;
use super::log::LogRegion;
use super::memory::Region;
use super::queue::Addresses;
use crate::features::VIRTIO_F_RING_PACKED;
use crate::refusal::Refusal;

/// Everything needed to run a queue.
#[derive(Clone, Debug)]
pub struct QueueStart {
    /// Queue index: even ones receive in the guest (we write), odd ones send (we read).
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Acknowledged features, closed under their dependencies.
    pub features: u64,
    /// Where to go on, in SET_VRING_BASE encoding. On a split ring the used index in memory is the better truth, on a packed
    /// one perhaps `inflight`.
    pub base: u32,
    /// The front end's own addresses of the ring's parts.
    pub addresses: Addresses,
    /// How the guest tells of new buffers; nothing to read when it is polled.
    pub kick: Option<Arc<OwnedFd>>,
    /// How the guest is told of used buffers; nothing when it polls.
    pub call: Option<Arc<OwnedFd>>,
    /// How the front end is told of a broken ring.
    pub err: Option<Arc<OwnedFd>>,
    /// For a packed ring: where to keep how far it came.
    pub inflight: Option<InflightStart>,
}

/// A packed queue's part of the in-flight region.
#[derive(Clone, Debug)]
pub struct InflightStart {
    /// The whole region.
    pub region: InflightRegion,
    /// Where in it the part begins, in bytes.
    pub offset: u64,
    /// Whether what the part says is the better truth than `base`: the queue starts for the first time in this session.
    pub resume: bool,
}

impl QueueStart {
    /// Whether the ring is packed (virtio 1.2, 2.8).
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.features & VIRTIO_F_RING_PACKED != 0
    }
}

/// What the owner must do or know. In order: acting on them in another order is an error.
#[derive(Clone, Debug)]
pub enum Event {
    /// SET_FEATURES was accepted.
    FeaturesSettled {
        /// Acknowledged features, closed under their dependencies.
        features: u64,
        /// Negotiated protocol features.
        protocol: VhostUserProtocolFeatures,
    },
    /// Map these regions instead of the present ones; no queue runs. Answer with [`super::Session::memory_mapped`]. On failure
    /// keep the present mapping.
    MapMemory {
        /// All regions; those kept share their descriptor (`Arc::ptr_eq`) with the earlier ones.
        regions: Vec<Region>,
    },
    /// Log dirty pages here (or nowhere) from the next [`Event::QueueReady`] on; no queue runs. Answer with
    /// [`super::Session::log_mapped`].
    LogChanged {
        /// The log, or nothing.
        log: Option<LogRegion>,
    },
    /// Start this queue, and look into it once without a kick (L-11).
    QueueReady(Box<QueueStart>),
    /// Let go of this queue between two bursts. Answer with [`super::Session::queue_stopped`].
    StopQueue {
        /// Queue index.
        index: u16,
    },
    /// Notify the guest through another descriptor from now on. Needs no answer.
    CallChanged {
        /// Queue index.
        index: u16,
        /// The descriptor, or nothing when the guest polls.
        call: Option<Arc<OwnedFd>>,
    },
    /// Announce the guest's address: a migration ended here (SEND_RARP). The owner applies its anti-spoofing.
    Rarp {
        /// A unicast address.
        mac: [u8; 6],
    },
    /// The front end set the guest's MTU.
    Mtu {
        /// 68 to the port's greatest.
        mtu: u16,
    },
    /// The device status changed (virtio 1.2, 2.1).
    Status {
        /// Status bits.
        status: u8,
    },
    /// Something was refused; it is already counted. For a rate-limited log line.
    Refused(Refusal),
    /// All queues stopped after [`super::Session::freeze`]: the session can be taken apart.
    Frozen,
    /// The session is over: unmap the memory, close the socket. All its descriptors are closed.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The front end closed its end.
    Disconnected,
    /// Something was refused in a way that leaves no common ground.
    Refused(Refusal),
    /// The socket failed.
    Io(rustix::io::Errno),
    /// The owner closed it (port deleted, shutdown).
    Owner,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disconnected => f.write_str("front end disconnected"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Io(errno) => write!(f, "socket failed: {errno}"),
            Self::Owner => f.write_str("closed by towpathd"),
        }
    }
}
