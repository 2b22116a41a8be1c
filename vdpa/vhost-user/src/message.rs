//! Messages: what one looks like, how long its payload is and how many descriptors it carries.
//!
//! Request numbers, flags and payload structures are those of the `vhost` crate
//! ([`vhost::vhost_user::message`]); reading and writing them is done here, field by field, because a payload comes
//! from a stranger. Source: the vhost-user specification (QEMU, `docs/interop/vhost-user.rst`).

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserHeaderFlag, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserVringAddr, VhostUserVringState,
};

use crate::refusal::Refusal;

/// Bytes of a header: request, flags, payload size (u32 each, in the machine's byte order).
pub const HEADER_BYTES: usize = 12;
/// Greatest payload that any request has; [`FrontendReq`]s that are refused anyway may carry up to this.
pub const MAX_PAYLOAD_BYTES: usize = 4096;
/// Regions in one SET_MEM_TABLE, as every front end and back end keeps it.
pub const MAX_TABLE_REGIONS: usize = 8;
/// Bytes of the virtio configuration space that vhost-user transfers.
pub const CONFIG_SPACE_BYTES: usize = 256;
/// In the payload of SET_VRING_KICK, CALL and ERR: the queue index.
pub const VRING_INDEX_MASK: u64 = 0xff;
/// In the payload of SET_VRING_KICK, CALL and ERR, and in the reply to SET_DEVICE_STATE_FD: no descriptor comes along.
pub const NO_DESCRIPTOR: u64 = 0x100;

const VERSION: u32 = 1;
const REGION_BYTES: usize = 32;
const TABLE_HEADER_BYTES: usize = 8;

/// A whole request of a front end, its descriptors not yet matched to its meaning.
#[derive(Debug)]
pub struct Message {
    /// What is asked.
    pub request: FrontendReq,
    /// Whether the front end waits for an acknowledgement.
    pub need_reply: bool,
    /// Payload bytes; their number fits the request.
    pub payload: Vec<u8>,
    /// Descriptors that came along, all close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A reply, or a request on the back end's own channel: bytes, and descriptors to send with the first of them.
#[derive(Debug)]
pub struct Outgoing {
    /// Header and payload.
    pub bytes: Vec<u8>,
    /// Descriptors sent with the first byte.
    pub fds: Vec<OwnedFd>,
}

/// A checked header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) request: FrontendReq,
    pub(crate) need_reply: bool,
    pub(crate) size: usize,
}

impl Header {
    /// Parses a header. Refuses another version, reserved flags, unknown requests, and sizes the request cannot have.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Refusal> {
        let mut reader = Reader(bytes);
        let (request, flags, size) = (reader.u32()?, reader.u32()?, reader.u32()?);
        if flags & VhostUserHeaderFlag::VERSION.bits() != VERSION {
            return Err(Refusal::Version);
        }
        if flags & (VhostUserHeaderFlag::RESERVED_BITS.bits() | VhostUserHeaderFlag::REPLY.bits()) != 0 {
            return Err(Refusal::HeaderFlags);
        }
        let request = FrontendReq::try_from(request).map_err(|_| Refusal::UnknownRequest)?;
        let size = usize::try_from(size).map_err(|_| Refusal::PayloadSize)?;
        if !payload_sizes(request).contains(&size) {
            return Err(Refusal::PayloadSize);
        }
        Ok(Self { request, need_reply: flags & VhostUserHeaderFlag::NEED_REPLY.bits() != 0, size })
    }
}

/// The payload sizes a request may have. Requests with several are checked again when they are handled.
fn payload_sizes(request: FrontendReq) -> RangeInclusive<usize> {
    use FrontendReq as R;
    match request {
        R::GET_FEATURES
        | R::SET_OWNER
        | R::RESET_OWNER
        | R::GET_PROTOCOL_FEATURES
        | R::GET_QUEUE_NUM
        | R::GET_MAX_MEM_SLOTS
        | R::RESET_DEVICE
        | R::GET_STATUS
        | R::CHECK_DEVICE_STATE
        | R::SET_BACKEND_REQ_FD
        | R::SET_LOG_FD => 0..=0,
        R::SET_FEATURES
        | R::SET_PROTOCOL_FEATURES
        | R::SET_VRING_KICK
        | R::SET_VRING_CALL
        | R::SET_VRING_ERR
        | R::SEND_RARP
        | R::NET_SET_MTU
        | R::SET_STATUS
        | R::SET_VRING_NUM
        | R::SET_VRING_BASE
        | R::GET_VRING_BASE
        | R::SET_VRING_ENABLE
        | R::SET_DEVICE_STATE_FD => 8..=8,
        // Any number of regions that fits a message: more than 8 are refused by name when the table is read.
        R::SET_MEM_TABLE => TABLE_HEADER_BYTES..=MAX_PAYLOAD_BYTES,
        R::SET_LOG_BASE => 8..=16,
        R::SET_VRING_ADDR | R::ADD_MEM_REG | R::REM_MEM_REG => 40..=40,
        R::GET_CONFIG | R::SET_CONFIG => 12..=MAX_PAYLOAD_BYTES,
        // The structure is 20 bytes; C front ends send it with its trailing padding.
        R::GET_INFLIGHT_FD | R::SET_INFLIGHT_FD => 20..=24,
        R::IOTLB_MSG
        | R::SET_VRING_ENDIAN
        | R::CREATE_CRYPTO_SESSION
        | R::CLOSE_CRYPTO_SESSION
        | R::POSTCOPY_ADVISE
        | R::POSTCOPY_LISTEN
        | R::POSTCOPY_END
        | R::GPU_SET_SOCKET
        | R::VRING_KICK
        | R::GET_SHARED_OBJECT
        | R::GET_SHMEM_CONFIG => 0..=MAX_PAYLOAD_BYTES,
    }
}

/// The numbers of descriptors a message may carry; anything else is refused and all are closed.
pub(crate) fn descriptor_counts(message: &Message) -> RangeInclusive<usize> {
    use FrontendReq as R;
    match message.request {
        R::SET_MEM_TABLE => match Reader(&message.payload).u32() {
            // One for each region; the count itself is judged by the handler.
            Ok(regions) => {
                let regions = usize::try_from(regions).unwrap_or(usize::MAX);
                regions..=regions
            }
            Err(_) => 0..=0,
        },
        R::SET_VRING_KICK | R::SET_VRING_CALL | R::SET_VRING_ERR => match Reader(&message.payload).u64() {
            Ok(value) if value & NO_DESCRIPTOR != 0 => 0..=0,
            _ => 1..=1,
        },
        R::SET_LOG_BASE if message.payload.len() == 8 => 0..=0,
        R::SET_LOG_BASE
        | R::SET_LOG_FD
        | R::SET_BACKEND_REQ_FD
        | R::SET_INFLIGHT_FD
        | R::ADD_MEM_REG
        | R::SET_DEVICE_STATE_FD => 1..=1,
        // "For compatibility with existing incorrect front ends" a descriptor may come with it and is closed.
        R::REM_MEM_REG => 0..=1,
        R::GPU_SET_SOCKET => 0..=1,
        _ => 0..=0,
    }
}

/// Reads fields off the front of a payload.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Refusal::PayloadSize)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Refusal> {
        self.take().map(u16::from_ne_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Refusal> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Refusal> {
        self.take().map(u64::from_ne_bytes)
    }

    pub(crate) fn vring_state(&mut self) -> Result<VhostUserVringState, Refusal> {
        Ok(VhostUserVringState { index: self.u32()?, num: self.u32()? })
    }

    pub(crate) fn vring_addr(&mut self) -> Result<VhostUserVringAddr, Refusal> {
        Ok(VhostUserVringAddr {
            index: self.u32()?,
            flags: self.u32()?,
            descriptor: self.u64()?,
            used: self.u64()?,
            available: self.u64()?,
            log: self.u64()?,
        })
    }

    pub(crate) fn region(&mut self) -> Result<VhostUserMemoryRegion, Refusal> {
        Ok(VhostUserMemoryRegion {
            guest_phys_addr: self.u64()?,
            memory_size: self.u64()?,
            user_addr: self.u64()?,
            mmap_offset: self.u64()?,
        })
    }

    /// The regions of SET_MEM_TABLE: 1 to 8, and nothing behind them.
    pub(crate) fn table(&mut self) -> Result<Vec<VhostUserMemoryRegion>, Refusal> {
        let count = usize::try_from(self.u32()?).map_err(|_| Refusal::RegionCount)?;
        let _padding = self.u32()?;
        if count == 0 || count > MAX_TABLE_REGIONS || self.0.len() != count.saturating_mul(REGION_BYTES) {
            return Err(Refusal::RegionCount);
        }
        (0..count).map(|_| self.region()).collect()
    }

    /// The region of ADD_MEM_REG and REM_MEM_REG, behind 8 bytes of padding.
    pub(crate) fn single_region(&mut self) -> Result<VhostUserMemoryRegion, Refusal> {
        self.u64()?;
        self.region()
    }

    pub(crate) fn log(&mut self) -> Result<VhostUserLog, Refusal> {
        Ok(VhostUserLog::new(self.u64()?, self.u64()?))
    }

    pub(crate) fn config(&mut self) -> Result<VhostUserConfig, Refusal> {
        Ok(VhostUserConfig { offset: self.u32()?, size: self.u32()?, flags: self.u32()? })
    }

    pub(crate) fn inflight(&mut self) -> Result<VhostUserInflight, Refusal> {
        Ok(VhostUserInflight::new(self.u64()?, self.u64()?, self.u16()?, self.u16()?))
    }
}

/// Builds the reply to `request`.
pub(crate) fn reply(request: FrontendReq, payload: &[u8], fds: Vec<OwnedFd>) -> Outgoing {
    Outgoing { bytes: encode(request.into(), VERSION | VhostUserHeaderFlag::REPLY.bits(), payload), fds }
}

/// Builds a message of any kind: header and payload.
pub(crate) fn encode(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(payload.len()));
    for field in [request, flags, size] {
        bytes.extend_from_slice(&field.to_ne_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Builds a request on the back end's own channel, one that asks for no reply.
pub(crate) fn backend_request(request: vhost::vhost_user::message::BackendReq, payload: &[u8]) -> Vec<u8> {
    encode(request.into(), VERSION, payload)
}
