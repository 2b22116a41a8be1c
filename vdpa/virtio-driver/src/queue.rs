//! What both ring layouts have in common: configuration, the trait, errors, the choice at run time.

use std::sync::Arc;

use crate::{
    arena::Arena,
    features,
    memory::{MemoryError, SharedMemory},
    packed::PackedQueue,
    split::SplitQueue,
};

/// The two ring layouts of virtio 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RingLayout {
    /// Section 2.7.
    #[default]
    Split,
    /// Section 2.8.
    Packed,
}

/// Guest addresses of a ring's three areas, as `SET_VRING_ADDR` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingAddresses {
    /// Descriptor table (split) or descriptor ring (packed).
    pub descriptors: u64,
    /// Available ring (split) or driver event suppression (packed): written by the driver.
    pub driver: u64,
    /// Used ring (split) or device event suppression (packed): written by the device.
    pub device: u64,
}

impl RingAddresses {
    /// Takes the memory of a ring of `size` descriptors, each area on cache lines of its own.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Exhausted`].
    pub fn allocate(arena: &mut Arena, layout: RingLayout, size: u16) -> Result<Self, MemoryError> {
        let size = usize::from(size);
        let (driver, device) = match layout {
            RingLayout::Split => (6 + 2 * size, 6 + 8 * size),
            RingLayout::Packed => (4, 4),
        };
        Ok(Self {
            descriptors: arena.allocate(16 * size, 4096)?,
            driver: arena.allocate(driver.next_multiple_of(64), 64)?,
            device: arena.allocate(device.next_multiple_of(64), 64)?,
        })
    }
}

/// What a queue is made of.
#[derive(Debug, Clone, Copy)]
pub struct QueueConfig {
    /// Descriptors, 1 to 32768; a power of two for split rings.
    pub size: u16,
    /// Ring layout; must agree with [`features::RING_PACKED`] in what is negotiated.
    pub layout: RingLayout,
    /// Negotiated features: `EVENT_IDX`, `IN_ORDER` and `INDIRECT_DESC` change what the queue does.
    pub features: u64,
    /// Entries of each indirect table; 0 reserves none and refuses [`Virtqueue::add_indirect`].
    pub indirect_entries: u16,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { size: 256, layout: RingLayout::Split, features: features::VERSION_1, indirect_entries: 0 }
    }
}

/// Why a queue could not be made.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum SetupError {
    /// A size the layout does not allow.
    #[error("ring size {size}: a {layout:?} ring has 1 to 32768 descriptors, split a power of two")]
    Size {
        /// What was asked for.
        size: u16,
        /// Of which layout.
        layout: RingLayout,
    },
    /// An area that is not aligned to 8 bytes.
    #[error("ring area at guest address {address:#x} is not aligned to 8 bytes")]
    Alignment {
        /// The area's address.
        address: u64,
    },
    /// Ring or indirect tables do not fit the memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// One buffer, or one part of it: what a descriptor says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

impl Segment {
    /// A part the device reads.
    #[must_use]
    pub const fn readable(address: u64, len: u32) -> Self {
        Self { address, len, writable: false }
    }

    /// A part the device writes.
    #[must_use]
    pub const fn writable(address: u64, len: u32) -> Self {
        Self { address, len, writable: true }
    }
}

/// Why a buffer was not added. Nothing was written to the ring.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum AddError {
    /// Too few free descriptors: take used buffers back first.
    #[error("{wanted} descriptors wanted, {free} free")]
    Full {
        /// Descriptors the buffer needs.
        wanted: usize,
        /// Descriptors free.
        free: u16,
    },
    /// A buffer has at least one segment.
    #[error("a buffer without segments")]
    Empty,
    /// More segments than an indirect table has entries.
    #[error("{segments} segments, indirect tables have {entries} entries")]
    Indirect {
        /// Segments of the buffer.
        segments: usize,
        /// Entries per table; 0: `indirect_entries` was 0 or `INDIRECT_DESC` is not negotiated.
        entries: u16,
    },
}

/// A buffer the device has finished with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// What was given to [`Virtqueue::add`].
    pub token: u32,
    /// Bytes the device says it wrote. For buffers skipped by an in-order device: all its writable bytes (2.7.9).
    pub len: u32,
}

/// The device broke the ring. The queue is unusable until it is made anew.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum UsedError {
    /// An id that is not in flight.
    #[error("used id {id} is not in flight")]
    NotInFlight {
        /// What the device wrote.
        id: u32,
    },
    /// The used index moved by more buffers than are in flight.
    #[error("used index moved by {moved}, {in_flight} buffers are in flight")]
    IndexJump {
        /// Distance.
        moved: u16,
        /// Buffers in flight.
        in_flight: u16,
    },
    /// More bytes than the buffer holds.
    #[error("used id {id}: {len} bytes written into a buffer with {writable} writable")]
    Length {
        /// The buffer.
        id: u32,
        /// Bytes the device claims.
        len: u32,
        /// Bytes it was given.
        writable: u32,
    },
}

/// Rings the doorbell of a queue: an eventfd, or the simulator's event list.
pub trait Kick {
    /// Tells the device to look at `queue`.
    fn kick(&mut self, queue: u16);
}

impl<F: FnMut(u16)> Kick for F {
    fn kick(&mut self, queue: u16) {
        self(queue);
    }
}

/// The driver's operations, the same for both layouts.
///
/// A burst is any number of `add`, then one `publish`, then one `needs_kick`. Nothing is visible to the device before
/// `publish`.
pub trait Virtqueue {
    /// Descriptors in the ring.
    fn size(&self) -> u16;

    /// Where the ring is.
    fn addresses(&self) -> RingAddresses;

    /// Descriptors not in use.
    fn free_descriptors(&self) -> u16;

    /// Buffers added (published or not) and not yet taken back.
    fn in_flight(&self) -> u16;

    /// Adds one buffer as a chain of descriptors, readable segments first (2.7.4.2).
    ///
    /// # Errors
    ///
    /// [`AddError::Full`], [`AddError::Empty`].
    fn add(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError>;

    /// Adds one buffer through an indirect table, using one descriptor.
    ///
    /// # Errors
    ///
    /// Also [`AddError::Indirect`].
    fn add_indirect(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError>;

    /// Makes everything added visible to the device.
    fn publish(&mut self);

    /// Whether the device wants to hear of what was published since the last call (2.7.10, 2.8.10.1).
    fn needs_kick(&mut self) -> bool;

    /// Whether [`Virtqueue::next_used`] has something; reads the ring only when what it saw last has run out.
    fn has_used(&mut self) -> bool;

    /// Takes one used buffer back.
    ///
    /// # Errors
    ///
    /// [`UsedError`] when the device wrote something impossible.
    fn next_used(&mut self) -> Result<Option<Used>, UsedError>;

    /// Asks for the lines in which the next `buffers` used ones will be found. A hint: several queues can be asked for
    /// before the first is looked at, so that the cache misses overlap.
    fn prefetch_used(&self, buffers: u16);

    /// Asks for the lines that adding the next `buffers` will write.
    fn prefetch_available(&self, buffers: u16);

    /// Asks the device not to interrupt: a polling driver. With `EVENT_IDX` on a split ring this is a hint that lapses
    /// once per 65,536 buffers.
    fn suppress_interrupts(&mut self);

    /// Asks for an interrupt once `buffers` (at least 1) more buffers are used, and says whether some are used already, in
    /// which case it may not come.
    #[must_use]
    fn request_interrupt(&mut self, buffers: u16) -> bool;

    /// The value for `SET_VRING_BASE` (vhost-user's encoding) that lets a device without memory continue where used
    /// buffers end: what is in flight is looked at again. For a fresh ring it is the initial value.
    fn resume_base(&self) -> u32;

    /// [`Virtqueue::needs_kick`], then the kick.
    fn kick_if_needed(&mut self, queue: u16, kick: &mut impl Kick) -> bool
    where
        Self: Sized,
    {
        let needed = self.needs_kick();
        if needed {
            kick.kick(queue);
        }
        needed
    }
}

/// Whether moving an index from `old` to `new` passes `event` (2.7.7.1, `vring_need_event`).
pub(crate) const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A queue of either layout, chosen at run time.
#[derive(Debug)]
pub enum Queue {
    /// Section 2.7.
    Split(SplitQueue),
    /// Section 2.8.
    Packed(PackedQueue),
}

impl Queue {
    /// Lays a fresh ring (and its indirect tables) out in `arena` and takes it into use, all memory zeroed.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(
        memory: &Arc<SharedMemory>,
        arena: &mut Arena,
        config: &QueueConfig,
    ) -> Result<Self, SetupError> {
        let valid = (1..=32768).contains(&config.size)
            && (config.layout == RingLayout::Packed || config.size.is_power_of_two());
        if !valid {
            return Err(SetupError::Size { size: config.size, layout: config.layout });
        }
        let addresses = RingAddresses::allocate(arena, config.layout, config.size)?;
        let tables = if config.indirect_entries > 0 {
            arena.allocate(usize::from(config.size) * usize::from(config.indirect_entries) * 16, 16)?
        } else {
            0
        };
        Ok(match config.layout {
            RingLayout::Split => Self::Split(SplitQueue::new(memory, addresses, tables, config)?),
            RingLayout::Packed => Self::Packed(PackedQueue::new(memory, addresses, tables, config)?),
        })
    }
}

macro_rules! either {
    ($self:ident, $queue:ident => $call:expr) => {
        match $self {
            Queue::Split($queue) => $call,
            Queue::Packed($queue) => $call,
        }
    };
}

impl Virtqueue for Queue {
    #[inline]
    fn size(&self) -> u16 {
        either!(self, q => q.size())
    }
    fn addresses(&self) -> RingAddresses {
        either!(self, q => q.addresses())
    }
    #[inline]
    fn free_descriptors(&self) -> u16 {
        either!(self, q => q.free_descriptors())
    }
    #[inline]
    fn in_flight(&self) -> u16 {
        either!(self, q => q.in_flight())
    }
    #[inline]
    fn add(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError> {
        either!(self, q => q.add(segments, token))
    }
    #[inline]
    fn add_indirect(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError> {
        either!(self, q => q.add_indirect(segments, token))
    }
    #[inline]
    fn publish(&mut self) {
        either!(self, q => q.publish());
    }
    #[inline]
    fn needs_kick(&mut self) -> bool {
        either!(self, q => q.needs_kick())
    }
    #[inline]
    fn has_used(&mut self) -> bool {
        either!(self, q => q.has_used())
    }
    #[inline]
    fn next_used(&mut self) -> Result<Option<Used>, UsedError> {
        either!(self, q => q.next_used())
    }
    #[inline]
    fn prefetch_used(&self, buffers: u16) {
        either!(self, q => q.prefetch_used(buffers));
    }
    #[inline]
    fn prefetch_available(&self, buffers: u16) {
        either!(self, q => q.prefetch_available(buffers));
    }
    fn suppress_interrupts(&mut self) {
        either!(self, q => q.suppress_interrupts());
    }
    fn request_interrupt(&mut self, buffers: u16) -> bool {
        either!(self, q => q.request_interrupt(buffers))
    }
    fn resume_base(&self) -> u32 {
        either!(self, q => q.resume_base())
    }
}

/// What a driver remembers of a buffer in flight; never in shared memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InFlight {
    pub(crate) token: u32,
    /// Writable bytes, to check and to complete what the device says.
    pub(crate) writable: u32,
    /// Descriptors in the ring; 0: not in flight.
    pub(crate) descriptors: u16,
}

impl InFlight {
    pub(crate) fn new(segments: &[Segment], descriptors: u16, token: u32) -> Self {
        let writable = segments.iter().filter(|s| s.writable).fold(0u32, |sum, s| sum.saturating_add(s.len));
        Self { token, writable, descriptors }
    }

    /// The used buffer, if the device's length is possible.
    #[inline]
    pub(crate) fn used(&self, id: u32, len: u32) -> Result<Used, UsedError> {
        // A device may report a length for a buffer it only read; the standard says 0, DPDK reports the frame's length.
        if len > self.writable && self.writable > 0 {
            return Err(UsedError::Length { id, len, writable: self.writable });
        }
        Ok(Used { token: self.token, len: if self.writable == 0 { 0 } else { len } })
    }
}
