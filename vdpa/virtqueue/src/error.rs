//! What can be wrong with a ring, a chain, or a frame.

/// A ring cannot be started with this configuration; the queue stays stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Size 0, beyond 32,768, or no power of two in a split ring.
    #[error("ring size {0}: must be 1 to 32768, and a power of two for a split ring")]
    Size(u16),
    /// The base of a packed ring lies outside it.
    #[error("ring base {base:#x} does not fit a ring of {size} descriptors")]
    Base {
        /// As in `SET_VRING_BASE`.
        base: u32,
        /// Descriptors of the ring.
        size: u16,
    },
    /// A header longer than [`crate::MAX_HEADER`].
    #[error("virtio-net header of {0} bytes: at most {max} are supported", max = crate::MAX_HEADER)]
    Header(u8),
    /// Part of the ring is not aligned as virtio demands.
    #[error("{part} at user address {user_addr:#x} is not aligned to {align} bytes")]
    Unaligned {
        /// Which part of the ring.
        part: &'static str,
        /// Its address.
        user_addr: u64,
        /// Alignment demanded, in bytes.
        align: u64,
    },
    /// Part of the ring does not lie inside one region of guest memory.
    #[error("{part} at user address {user_addr:#x} ({len} bytes) is not inside one region of guest memory")]
    NotInMemory {
        /// Which part of the ring.
        part: &'static str,
        /// Its address.
        user_addr: u64,
        /// Its length in bytes.
        len: usize,
    },
    /// Two parts of the ring overlap.
    #[error("{first} and {second} of the ring overlap")]
    Overlap {
        /// One part.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}

/// The ring itself is broken: nothing in it can be trusted. The queue is stopped until the driver resets the device
/// (`DEVICE_NEEDS_RESET`); what was already taken is still returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The available index says that more chains are outstanding than the ring has descriptors.
    #[error("available index {index} with {used} used: more than {size} outstanding chains")]
    AvailableJump {
        /// The index found.
        index: u16,
        /// Our used index.
        used: u16,
        /// Descriptors of the ring.
        size: u16,
    },
    /// A head of the available ring is no descriptor.
    #[error("available ring names descriptor {head} of a ring of {size}")]
    Head {
        /// The entry found.
        head: u16,
        /// Descriptors of the ring.
        size: u16,
    },
    /// A chain was made available again before it was returned.
    #[error("descriptor {head} was made available twice")]
    DuplicateHead {
        /// The entry found.
        head: u16,
    },
    /// A packed ring's chain has no end.
    #[error("descriptor chain at position {position} does not end within the {size} of the ring")]
    EndlessChain {
        /// Where it starts.
        position: u16,
        /// Descriptors of the ring.
        size: u16,
    },
    /// The peer took memory of the guest away.
    #[error("guest memory was truncated by its owner")]
    MemoryGone,
    /// The memory passed is not the one the ring was given.
    #[error("the burst's memory is not the ring's: take the ring's own")]
    ForeignMemory,
}

/// One chain is bad while the ring is sound: the chain is returned used with length 0, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum ChainError {
    /// No bytes, or no more than the header has.
    #[error("chain holds no byte beyond its header")]
    TooShort,
    /// More bytes than header and [`crate::MAX_FRAME`].
    #[error("chain holds more bytes than the longest frame")]
    TooLarge,
    /// More descriptors than the ring has or than 1024: a loop, or as bad as one.
    #[error("chain has too many descriptors or a loop")]
    TooLong,
    /// `next` is no descriptor.
    #[error("chain links to a descriptor that does not exist")]
    Next,
    /// A buffer lies outside guest memory.
    #[error("buffer is not in guest memory")]
    NotInMemory,
    /// The guest's transmit buffer is device-writable.
    #[error("device-writable descriptor in a chain to be read")]
    Writable,
    /// The guest's receive buffer is not device-writable.
    #[error("device-readable descriptor in a chain to be written")]
    NotWritable,
    /// Flag bits without a meaning.
    #[error("reserved descriptor flags")]
    ReservedFlags,
    /// An indirect descriptor although that was not negotiated.
    #[error("indirect descriptor without VIRTIO_F_INDIRECT_DESC")]
    IndirectNotNegotiated,
    /// An indirect descriptor that also has NEXT or WRITE, or follows another in a packed chain.
    #[error("indirect descriptor with other flags or linked by NEXT")]
    IndirectFlags,
    /// An indirect descriptor in an indirect table.
    #[error("nested indirect descriptor")]
    IndirectNested,
    /// A table of no entries, of a fraction of one, or of more than 1024.
    #[error("indirect table of a length that is no multiple of 16 up to 16384")]
    IndirectLength,
    /// A table outside guest memory.
    #[error("indirect table is not in guest memory")]
    IndirectNotInMemory,
    /// More pieces of memory than a burst has room for.
    #[error("chain is scattered over too many pieces of memory")]
    TooManyPieces,
    /// A receive buffer for less than a plain Ethernet frame, without mergeable buffers (virtio 1.2 section 5.1.6.3.1).
    #[error("receive buffer holds less than a header and 1514 bytes, and buffers are not mergeable")]
    Runt,
}

impl ChainError {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::TooShort,
        Self::TooLarge,
        Self::TooLong,
        Self::Next,
        Self::NotInMemory,
        Self::Writable,
        Self::NotWritable,
        Self::ReservedFlags,
        Self::IndirectNotNegotiated,
        Self::IndirectFlags,
        Self::IndirectNested,
        Self::IndirectLength,
        Self::IndirectNotInMemory,
        Self::TooManyPieces,
        Self::Runt,
    ];
}

/// A frame was not given to the guest; the ring is as before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GiveError {
    /// The guest has not made enough buffers available: hold the frame or drop it.
    #[error("the guest's receive ring has no buffers left")]
    NoBuffers,
    /// The frame is longer than a plain Ethernet frame, the guest's buffer too small for it, and mergeable buffers were not negotiated (or the
    /// frame needs more than 256 of them): drop it.
    #[error("the frame does not fit the guest's receive buffer")]
    TooSmall,
    /// The ring is broken.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// Chains handled and refused since the ring was made. A chain counts when it is returned, so each counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingStats {
    /// Chains returned to the guest, good and bad.
    pub chains: u64,
    /// Bad chains by reason, indexed as [`ChainError::ALL`].
    pub refused: [u64; ChainError::ALL.len()],
    /// Their sum, which is looked at once per burst.
    total: u64,
}

impl RingStats {
    /// Counts one bad chain.
    pub(crate) fn count(&mut self, error: ChainError) {
        if let Some(counter) = self.refused.get_mut(error as usize) {
            *counter += 1;
            self.total += 1;
        }
    }

    /// Chains refused for `error`.
    #[must_use]
    pub fn of(&self, error: ChainError) -> u64 {
        self.refused.get(error as usize).copied().unwrap_or(0)
    }

    /// Bad chains of all reasons.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.total
    }
}
