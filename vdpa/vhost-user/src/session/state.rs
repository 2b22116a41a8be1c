//! Device state for migration: SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE.
//!
//! A front end hands over a pipe while all queues are stopped, and asks afterwards whether the transfer went well. The
//! state is small (it fits the smallest pipe), so it is written at once, and read at once when the front end has closed
//! its end; neither ever waits.
//!
//! The format is little-endian: magic `TPVU` (u32), version (u16), queues (u16), features (u64), one base (u32, as in
//! SET_VRING_BASE) for each queue, and an FNV-1a checksum (u64) of all that. A state is taken whole or refused whole
//! (L-10).

use std::os::fd::OwnedFd;

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase};

use super::queue::QueueState;
use super::{Outcome, Session, descriptor};
use crate::features::VHOST_F_LOG_ALL;
use crate::message::{Message, NO_DESCRIPTOR, Reader};
use crate::refusal::Refusal;

/// Version of the format.
pub const STATE_VERSION: u16 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"TPVU");
const HEADER_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 8;
/// The greatest state: 256 queues.
const MAX_BYTES: usize = HEADER_BYTES + 256 * 4 + CHECKSUM_BYTES;

/// The state that a migration carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateBlob {
    /// Acknowledged features; 0 when none were.
    pub features: u64,
    /// Where each queue stopped, in SET_VRING_BASE encoding.
    pub bases: Vec<u32>,
}

/// FNV-1a, 64 bits: finds truncation and flipped bits; the pipe's other end is no adversary that a checksum could stop.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl StateBlob {
    /// Writes the format.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let queues = u16::try_from(self.bases.len()).unwrap_or(u16::MAX);
        let mut bytes = [
            MAGIC.to_le_bytes().as_slice(),
            &STATE_VERSION.to_le_bytes(),
            &queues.to_le_bytes(),
            &self.features.to_le_bytes(),
        ]
        .concat();
        bytes.extend(self.bases.iter().take(usize::from(queues)).flat_map(|base| base.to_le_bytes()));
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Reads the format.
    ///
    /// # Errors
    /// [`Refusal::StateContent`] for anything but exactly what [`Self::encode`] writes in this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        const WRONG: Refusal = Refusal::StateContent;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(WRONG)?;
        let (header, bases) = body.split_first_chunk::<HEADER_BYTES>().ok_or(WRONG)?;
        let mut fields = Reader(header);
        let magic = u32::from_le(fields.u32()?);
        let version = u16::from_le(fields.u16()?);
        let queues = usize::from(u16::from_le(fields.u16()?));
        let features = u64::from_le(fields.u64()?);
        let (bases, rest) = bases.as_chunks::<4>();
        if u64::from_le_bytes(*sum) != checksum(body)
            || (magic, version) != (MAGIC, STATE_VERSION)
            || bases.len() != queues
            || !rest.is_empty()
        {
            return Err(WRONG);
        }
        Ok(Self { features, bases: bases.iter().map(|base| u32::from_le_bytes(*base)).collect() })
    }
}

/// A transfer that CHECK_DEVICE_STATE will ask about.
#[derive(Debug, Default)]
pub(crate) enum Transfer {
    #[default]
    None,
    Saved(Result<(), Refusal>),
    Loading(OwnedFd),
}

impl Session {
    /// SET_DEVICE_STATE_FD.
    pub(super) fn set_device_state_fd(&mut self, message: Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::DEVICE_STATE)?;
        let mut reader = Reader(&message.payload);
        let direction = VhostTransferStateDirection::try_from(reader.u32()?);
        let phase = VhostTransferStatePhase::try_from(reader.u32()?);
        let (Ok(direction), Ok(VhostTransferStatePhase::STOPPED)) = (direction, phase) else {
            return Err(Refusal::StateTransfer);
        };
        if self.any_active() {
            return Err(Refusal::StateRunning);
        }
        let fd = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        let fd = descriptor::stream(fd).ok_or(Refusal::StateTransfer)?;
        self.transfer = match direction {
            VhostTransferStateDirection::SAVE => Transfer::Saved(self.save(fd)),
            VhostTransferStateDirection::LOAD => Transfer::Loading(fd),
        };
        // Done, and no descriptor of ours to use instead.
        Ok(Outcome::u64(NO_DESCRIPTOR))
    }

    /// CHECK_DEVICE_STATE: whether the last transfer went well.
    pub(super) fn check_device_state(&mut self) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::DEVICE_STATE)?;
        match std::mem::take(&mut self.transfer) {
            Transfer::None => Err(Refusal::StateTransfer),
            Transfer::Saved(result) => result.map(|()| Outcome::u64(0)),
            Transfer::Loading(fd) => self.load(&fd).map(|()| Outcome::u64(0)),
        }
    }

    fn save(&self, fd: OwnedFd) -> Result<(), Refusal> {
        let features = self.front.features.unwrap_or(0);
        let bases = self.front.queues.iter().map(|queue| queue.base_or_initial(features)).collect();
        let bytes = StateBlob { features, bases }.encode();
        // One write: the pipe takes it whole or it is not a pipe that a front end would make.
        match rustix::io::write(fd, &bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            _ => Err(Refusal::StateTransfer),
        }
    }

    fn load(&mut self, fd: &OwnedFd) -> Result<(), Refusal> {
        let blob = StateBlob::decode(&read_to_end(fd)?)?;
        let offered = self.config.features;
        let known = self.front.features.unwrap_or(blob.features);
        if blob.features & !offered != 0
            || (known ^ blob.features) & !VHOST_F_LOG_ALL != 0
            || blob.bases.len() > usize::from(self.config.max_queues())
        {
            return Err(Refusal::StateContent);
        }
        if self.front.queues.len() < blob.bases.len() {
            self.front.queues.resize_with(blob.bases.len(), QueueState::default);
        }
        for (queue, base) in self.front.queues.iter_mut().zip(blob.bases) {
            queue.base = Some(base);
        }
        Ok(())
    }
}

/// Reads what is there; the writer must have closed its end, and not written more than any state has.
fn read_to_end(fd: &OwnedFd) -> Result<Vec<u8>, Refusal> {
    let mut bytes = vec![0; MAX_BYTES.saturating_add(1)];
    let mut filled = 0usize;
    loop {
        let space = bytes.get_mut(filled..).filter(|space| !space.is_empty());
        match rustix::io::read(fd, space.ok_or(Refusal::StateContent)?) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(Refusal::StateContent),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
