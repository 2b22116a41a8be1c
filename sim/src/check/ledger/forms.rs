//! The forms that a frame may arrive in, by hash.

use crate::net::frame::TCP;
use crate::net::offload::{complete_blindly, segments};
use crate::net::read::{ethertype, transport, without_checksum};
use crate::trace::hash;
use std::collections::HashMap;
use virtio_driver::{Gso, NetHeader};

/// A frame by its number, and the segment of it (`None`: whole).
pub(super) type Piece = (usize, Option<usize>);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Forms {
    /// As sent, by all bytes.
    exact: HashMap<u64, Vec<usize>>,
    /// With a checksum completed that is not the usual one (an inner one), by all bytes.
    completed: HashMap<u64, Vec<usize>>,
    /// With its checksum completed, or cut: by the bytes without the checksum.
    changed: HashMap<u64, Vec<Piece>>,
    /// TCP segments that came by the underlay and are right: by the bytes without the checksum, as a cut of what they are joined to has them.
    joinable: HashMap<u64, Vec<usize>>,
}

/// Whether the checksum that `header` asks for is that of the frame's own transport header.
fn is_usual(header: &NetHeader, frame: &[u8]) -> bool {
    transport(frame).is_some_and(|transport| {
        (usize::from(header.csum_start), usize::from(header.csum_start) + usize::from(header.csum_offset))
            == (transport.start, transport.checksum_at())
    })
}

/// What a segment and the cut of what it was joined to have in common: all but checksums, PSH, which only the last keeps, and the
/// identification, which means nothing in a datagram that is no fragment (RFC 6864 section 4).
fn joinable(frame: &[u8]) -> u64 {
    let mut bytes = without_checksum(frame);
    if let Some((0x0800, l3)) = ethertype(frame) {
        bytes[l3 + 4..l3 + 6].fill(0);
        bytes[l3 + 10..l3 + 12].fill(0);
    }
    if let Some(transport) = transport(frame) {
        bytes[transport.start + 13] &= !0x08;
    }
    hash(&bytes)
}

impl Forms {
    /// Notes the forms of frame number `entry`; how many segments it may be cut into.
    pub(super) fn add(&mut self, entry: usize, header: &NetHeader, frame: &[u8]) -> usize {
        let cut = if header.gso == Gso::None { None } else { segments(header, frame) };
        self.exact.entry(hash(frame)).or_default().push(entry);
        if header.needs_csum && is_usual(header, frame) {
            self.changed.entry(hash(&without_checksum(frame))).or_default().push((entry, None));
        } else if header.needs_csum {
            let mut frame = frame.to_vec();
            if complete_blindly(header, &mut frame).is_some() {
                self.completed.entry(hash(&frame)).or_default().push(entry);
            }
        }
        for (index, segment) in cut.iter().flatten().enumerate() {
            self.changed.entry(hash(segment)).or_default().push((entry, Some(index)));
        }
        cut.map_or(0, |cut| cut.len())
    }

    /// Notes that frame number `entry` may be joined with others.
    pub(super) fn add_joinable(&mut self, entry: usize, frame: &[u8]) {
        let right = transport(frame).filter(|at| at.protocol == TCP && at.is_checksum_right(frame));
        if right.is_some() {
            self.joinable.entry(joinable(frame)).or_default().push(entry);
        }
    }

    /// Frames that may be joined to one of which this is a segment, oldest first.
    pub(super) fn joinable(&self, segment: &[u8]) -> &[usize] {
        self.joinable.get(&joinable(segment)).map_or(&[], Vec::as_slice)
    }

    /// Frames with exactly these bytes, oldest first.
    pub(super) fn exact(&self, key: u64) -> &[usize] {
        self.exact.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Frames that have exactly these bytes after a checksum inside them was completed.
    pub(super) fn completed(&self, key: u64) -> &[usize] {
        self.completed.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Frames and segments that differ from this one in their checksum at most.
    pub(super) fn changed(&self, frame: &[u8]) -> &[Piece] {
        self.changed.get(&hash(&without_checksum(frame))).map_or(&[], Vec::as_slice)
    }
}

/// Whether a frame that arrived with `got` is whole: nothing was done to it that its sender left undone, or all is said again.
pub(super) fn is_whole(asked: &NetHeader, got: &NetHeader) -> bool {
    if !asked.needs_csum {
        return !got.needs_csum && got.gso == Gso::None;
    }
    let same_checksum =
        got.needs_csum && (got.csum_start, got.csum_offset) == (asked.csum_start, asked.csum_offset);
    same_checksum
        && got.gso == asked.gso
        && (asked.gso == Gso::None || (got.gso_size, got.ecn) == (asked.gso_size, asked.ecn))
}

/// Whether the checksum is left to the receiver, and the pseudo header's sum is in its place.
pub(super) fn is_partial(header: &NetHeader, bytes: &[u8]) -> bool {
    transport(bytes).is_some_and(|transport| {
        let at = transport.checksum_at();
        usize::from(header.csum_start) == transport.start
            && usize::from(header.csum_start + header.csum_offset) == at
            && bytes[at..at + 2] == transport.pseudo().to_be_bytes()
    })
}
