//! How a guest's driver behaves.

use crate::random::Random;
use virtio_driver::{QueueConfig, RingLayout, features};

/// Longest frame a guest sends: 64 KiB of payload less headers.
pub const FRAME_MAX: usize = 65_549;
/// Room for a short frame.
pub(super) const SMALL: usize = 2048;
/// Slots for large frames.
pub(super) const LARGE_SLOTS: u32 = 3;
/// Bytes of each guard.
pub(super) const GUARD: usize = 4096;

/// How a driver behaves that does nothing forbidden.
#[derive(Clone, Copy, Debug)]
pub struct NicConfig {
    /// Negotiated feature bits.
    pub features: u64,
    /// Descriptors per ring.
    pub size: u16,
    /// Queue pairs.
    pub pairs: u16,
    /// Polls instead of waiting for interrupts.
    pub polls: bool,
    /// Lays chains out oddly: headers apart, many pieces, empty tables avoided.
    pub odd_layouts: bool,
    /// Bytes of a receive buffer, net header included.
    pub rx_buffer: u32,
    /// Receive buffers per ring.
    pub rx_buffers: u16,
    /// Receive buffers are chains of so many descriptors.
    pub rx_descriptors: u16,
}

impl NicConfig {
    /// Whether a feature was negotiated.
    #[must_use]
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The layout of the rings.
    #[must_use]
    pub fn layout(&self) -> RingLayout {
        if self.has(features::RING_PACKED) { RingLayout::Packed } else { RingLayout::Split }
    }

    pub(super) fn ring(&self, with_tables: bool) -> QueueConfig {
        QueueConfig {
            size: self.size,
            layout: self.layout(),
            features: self.features,
            indirect_entries: if with_tables && self.has(features::INDIRECT_DESC) { 40 } else { 0 },
        }
    }

    /// Bytes of shared memory the driver lays out.
    pub(super) fn memory(&self) -> usize {
        let size = usize::from(self.size);
        let ring = 16 * size + 4096 * 3 + 8 * size + size * 40 * 16;
        let tx = size * SMALL + LARGE_SLOTS as usize * (FRAME_MAX + 4096);
        let rx = usize::from(self.rx_buffers) * (self.rx_buffer as usize + 64);
        (usize::from(self.pairs) * (2 * ring + tx + rx + 4 * GUARD) + 4 * GUARD).next_multiple_of(0x4000)
    }
}

/// Lengths of the pieces a frame is sent in.
pub(super) fn pieces_of(
    config: &NicConfig,
    header: usize,
    total: usize,
    max: usize,
    random: &mut Random,
) -> Vec<usize> {
    if !config.odd_layouts {
        let apart = total > header && random.chance(300);
        return if apart { vec![header, total - header] } else { vec![total] };
    }
    let mut pieces = Vec::new();
    let mut left = total;
    // The header itself may be scattered (virtio 1.2 section 2.7.4.1: no assumption about framing).
    while left > 0 && pieces.len() + 1 < max {
        let length = match random.below(4) {
            0 => 1 + random.below(header),
            1 => header,
            2 => 1 + random.below(left),
            _ => left,
        };
        let length = length.min(left);
        pieces.push(length);
        left -= length;
    }
    if left > 0 {
        pieces.push(left);
    }
    pieces
}
