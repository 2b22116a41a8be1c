//! What a ring is made from: the values of the vhost-user `SET_VRING_*` messages and the negotiated features.

/// `VIRTIO_NET_F_MRG_RXBUF` (virtio 1.2 section 5.1.3).
const MRG_RXBUF: u64 = 1 << 15;
/// `VIRTIO_F_INDIRECT_DESC`, `VIRTIO_F_EVENT_IDX`, `VIRTIO_F_RING_PACKED`, `VIRTIO_F_IN_ORDER` (section 6).
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const RING_PACKED: u64 = 1 << 34;
const IN_ORDER: u64 = 1 << 35;

/// Descriptors a ring may have (virtio 1.2 sections 2.7 and 2.8.10.1).
pub const MAX_RING_SIZE: u16 = 32_768;
/// Longest virtio-net header a ring strips or writes, in bytes (20 with hash report, section 5.1.6).
pub const MAX_HEADER: usize = 32;
/// Longest frame a ring takes, in bytes without the virtio-net header: the largest segmentation offload with room for headers and
/// tags, and far beyond it; longer chains are refused.
pub const MAX_FRAME: usize = 128 * 1024;

/// The layout of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RingLayout {
    /// Descriptor table, available ring and used ring (virtio 1.2 section 2.7).
    #[default]
    Split,
    /// One descriptor ring and two event structures (section 2.8).
    Packed,
}

/// The negotiated features a ring depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingFeatures {
    /// Layout of the ring (`VIRTIO_F_RING_PACKED`).
    pub layout: RingLayout,
    /// Notifications are suppressed by index (`VIRTIO_F_EVENT_IDX`).
    pub event_idx: bool,
    /// Descriptors may refer to tables (`VIRTIO_F_INDIRECT_DESC`).
    pub indirect: bool,
    /// Buffers are used in the order they were made available (`VIRTIO_F_IN_ORDER`): one used entry speaks for a batch.
    pub in_order: bool,
    /// A frame may be spread over several receive buffers (`VIRTIO_NET_F_MRG_RXBUF`).
    pub mergeable: bool,
}

impl RingFeatures {
    /// Picks what concerns rings from all negotiated feature bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            layout: if bits & RING_PACKED != 0 { RingLayout::Packed } else { RingLayout::Split },
            event_idx: bits & EVENT_IDX != 0,
            indirect: bits & INDIRECT_DESC != 0,
            in_order: bits & IN_ORDER != 0,
            mergeable: bits & MRG_RXBUF != 0,
        }
    }
}

/// Everything a ring is made from. Addresses are in the front end's own address space, as in `SET_VRING_ADDR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Descriptors (`SET_VRING_NUM`): 1 to [`MAX_RING_SIZE`]; a power of two for a split ring.
    pub size: u16,
    /// Negotiated features.
    pub features: RingFeatures,
    /// Bytes of the virtio-net header in front of each frame: 0 to [`MAX_HEADER`].
    pub header_len: u8,
    /// Descriptor table, or the descriptor ring of a packed queue; a multiple of 16.
    pub desc_addr: u64,
    /// Available ring (multiple of 2), or the driver event suppression structure (multiple of 4).
    pub driver_addr: u64,
    /// Used ring (multiple of 4), or the device event suppression structure (multiple of 4).
    pub device_addr: u64,
    /// Where to start, in the encoding of `SET_VRING_BASE`: the available index of a split ring; of a packed ring bits 0-14 the next
    /// available position, bit 15 its wrap counter, and the same for used in bits 16-31.
    pub base: u32,
}
