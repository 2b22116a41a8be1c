//! Where a packed ring stands, kept where a back end that died finds it again: in its queue's part of the vhost-user in-flight region.
//!
//! A split ring needs none of this: its used index is in the guest's memory, and all of it that is returned is returned in the order in which it was
//! made available, so the index is also the next chain to take. Of a packed ring nothing in memory tells a place where chains were returned from the
//! inside of a chain. So its part of the region holds two positions, as the specification lays them out (`used_idx`, `old_used_idx` and their wrap
//! counters): what is published begins at the old one and ends before the other. They are written, together, just before the driver can see the
//! first of the returned chains. After a crash the descriptor at the old position says whether it did.
//!
//! Entries of single descriptors are not written: in order, what is in flight is everything from the position on.

use guest_mem::Mapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Offsets of `version` and what follows it, and of the two positions (vhost-user, "Inflight I/O tracking", packed virtqueue).
const HEADER: usize = 8;
const POSITIONS: usize = 16;
const VERSION: u16 = 1;

/// One packed queue's part of an in-flight region.
#[derive(Debug)]
pub struct InflightPart {
    mapping: Arc<Mapping>,
    offset: usize,
}

/// A position and its wrap counter.
pub(crate) type Place = (u16, bool);

impl InflightPart {
    /// Bytes of a part that are used.
    pub const BYTES: usize = 32;

    /// The part at `offset` of a mapping; nothing if it does not lie in there, or not on a multiple of 8 bytes in memory.
    #[must_use]
    pub fn new(mapping: Arc<Mapping>, offset: usize) -> Option<Self> {
        let end = offset.checked_add(Self::BYTES)?;
        let aligned = (mapping.as_ptr().as_ptr() as usize).wrapping_add(offset).is_multiple_of(8);
        (end <= mapping.len() && aligned).then_some(Self { mapping, offset })
    }

    #[inline(always)]
    fn u64(&self, at: usize) -> &AtomicU64 {
        // SAFETY: `new` saw that BYTES at `offset` lie in the mapping, which this holds, and that they are aligned; `at` is one of the two constants
        // above, 8 bytes before the end at least. Shared with the front end, hence atomic.
        unsafe { AtomicU64::from_ptr(self.mapping.as_ptr().as_ptr().add(self.offset + at).cast()) }
    }

    /// Says that everything up to `next` will have been returned once the descriptor at `from` says that it is. To be followed by that.
    #[inline(always)]
    pub(crate) fn intend(&self, from: Place, next: Place) {
        let bytes =
            [next.0.to_ne_bytes(), from.0.to_ne_bytes(), [u8::from(next.1), u8::from(from.1)], [0; 2]];
        // One store: whoever comes after us finds both or neither.
        self.u64(POSITIONS).store(u64::from_ne_bytes(flatten(bytes)), Ordering::Release);
    }

    /// Begins, for a ring of `size` at `at`.
    pub(crate) fn begin(&self, size: u16, at: Place) {
        self.intend(at, at);
        let bytes = [VERSION.to_ne_bytes(), size.to_ne_bytes(), [0; 2], [0; 2]];
        self.u64(HEADER).store(u64::from_ne_bytes(flatten(bytes)), Ordering::Release);
    }

    /// The old and the next position, if the part is of a ring of `size` that ran; the front end may have written anything here.
    pub(crate) fn read(&self, size: u16) -> Option<(Place, Place)> {
        let header = self.u64(HEADER).load(Ordering::Acquire).to_ne_bytes();
        let [v0, v1, s0, s1, ..] = header;
        let [n0, n1, o0, o1, next_wrap, old_wrap, ..] =
            self.u64(POSITIONS).load(Ordering::Acquire).to_ne_bytes();
        let (next, old) = (u16::from_ne_bytes([n0, n1]), u16::from_ne_bytes([o0, o1]));
        let ran = u16::from_ne_bytes([v0, v1]) == VERSION && u16::from_ne_bytes([s0, s1]) == size;
        (ran && next < size && old < size && next_wrap <= 1 && old_wrap <= 1)
            .then_some(((old, old_wrap == 1), (next, next_wrap == 1)))
    }
}

fn flatten(bytes: [[u8; 2]; 4]) -> [u8; 8] {
    let mut flat = [0; 8];
    for (to, from) in flat.iter_mut().zip(bytes.as_flattened()) {
        *to = *from;
    }
    flat
}
