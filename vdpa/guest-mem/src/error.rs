//! Why memory offered by a peer is refused.

/// Which address of a region a message speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Guest physical addresses, as used in descriptors.
    Guest,
    /// Front-end user addresses, as used in `SET_VRING_ADDR`.
    User,
    /// Offsets in the file.
    File,
}

impl std::fmt::Display for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest address",
            Self::User => "user address",
            Self::File => "file offset",
        })
    }
}

/// A memory table, region or shared file was refused. The session that sent it is not to be trusted with less: it
/// answers the request with an error (REPLY_ACK) or closes; nothing was mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// A table of no regions, or a region of size 0.
    #[error("memory region of 0 bytes, or a table of no regions: nothing to map")]
    Empty,
    /// An address, size or offset is not a multiple of 4 KiB.
    #[error("{space} {value:#x} of a memory region is not a multiple of 4096: align it in the front end")]
    Unaligned {
        /// Which of the region's fields.
        space: Space,
        /// Its value.
        value: u64,
    },
    /// Start plus size exceeds the space.
    #[error("{space} {start:#x} plus {size:#x} bytes wraps around: the front end sent a broken region")]
    Wraps {
        /// Which of the region's fields.
        space: Space,
        /// Where the region starts.
        start: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// The file is shorter than the region says.
    #[error("memory region needs {offset:#x}+{size:#x} bytes of a file of {file_size:#x}: it would fault")]
    PastEndOfFile {
        /// Offset of the region in the file.
        offset: u64,
        /// Size of the region in bytes.
        size: u64,
        /// Size of the file in bytes.
        file_size: u64,
    },
    /// Not a memory file: a device, pipe, socket, folder, or a file of a disk or FUSE (whose page faults its server may stall).
    #[error("the descriptor of a memory region is no memory file: use memfd, /dev/shm or hugetlbfs")]
    NotMemory,
    /// Opened read-only or sealed against writing.
    #[error("the descriptor of a memory region cannot be written: open it read-write, without F_SEAL_WRITE")]
    ReadOnly,
    /// Two regions share addresses.
    #[error("memory regions at {space} {first:#x} and {second:#x} overlap")]
    Overlap {
        /// In which space.
        space: Space,
        /// Start of the lower region.
        first: u64,
        /// Start of the higher region.
        second: u64,
    },
    /// More regions than [`crate::MAX_REGIONS`].
    #[error("{count} memory regions, at most {} are supported", crate::MAX_REGIONS)]
    TooManyRegions {
        /// How many there would be.
        count: usize,
    },
    /// A region to be removed does not exist.
    #[error(
        "no memory region at guest address {guest_addr:#x}, user address {user_addr:#x}, of {size:#x} bytes"
    )]
    UnknownRegion {
        /// Guest physical address asked for.
        guest_addr: u64,
        /// User address asked for.
        user_addr: u64,
        /// Size asked for, in bytes.
        size: u64,
    },
    /// The process has as many mappings as its SIGBUS guard can watch.
    #[error("the process maps as many memory regions as it can guard against truncation: detach ports")]
    GuardFull,
    /// The dirty log does not have a bit for each page of guest memory.
    #[error("dirty log of {size:#x} bytes, {needed:#x} are needed for the highest guest address")]
    LogTooSmall {
        /// Size offered, in bytes.
        size: u64,
        /// Size needed, in bytes.
        needed: u64,
    },
    /// The kernel refused.
    #[error("mapping guest memory: {0}")]
    Os(#[from] std::io::Error),
}

impl From<rustix::io::Errno> for MapError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Os(errno.into())
    }
}
