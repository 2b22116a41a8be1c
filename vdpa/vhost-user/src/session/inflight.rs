//! The in-flight region: GET_INFLIGHT_FD, SET_INFLIGHT_FD.
//!
//! The region lets a back end that died find the descriptors it had taken and not given back. This one takes and gives
//! back within one burst and in order, so that what is in flight is everything from one position on, and entries of single
//! descriptors are neither written nor believed: a poisoned one has nothing to poison (V-28). On a split ring that position is the
//! used index in the guest's memory; `virtqueue` starts from there whatever index the front end believes (Cloud Hypervisor
//! sends the *available* index with an in-flight region, QEMU the used one). On a packed ring it is in the header of the
//! queue's part, written once a burst (`virtqueue::InflightPart`); it is believed when a queue first starts in a session,
//! unless the queue was stopped in peace, after which the front end knows better. See ADR 11.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::VhostUserInflight;

use super::descriptor::shared_file;
use super::queue::MAX_QUEUE_SIZE;
use super::{Outcome, Session};
use crate::features::VIRTIO_F_RING_PACKED;
use crate::message::{Message, Reader};
use crate::refusal::Refusal;

/// Version of the region's layout.
const VERSION: u16 = 1;
/// Each queue's part begins at a multiple of this.
const ALIGNMENT: u64 = 64;
/// `features` (u64), `version` (u16), `desc_num` (u16) and indices; 16 bytes on split rings, 32 on packed ones.
const HEADER_BYTES_SPLIT: u64 = 16;
const ENTRY_BYTES_SPLIT: u64 = 16;
const HEADER_BYTES_PACKED: u64 = 32;
const ENTRY_BYTES_PACKED: u64 = 32;

/// A checked in-flight region of the front end.
#[derive(Clone, Debug)]
pub struct InflightRegion {
    /// Bytes.
    pub size: u64,
    /// Offset in the file.
    pub mmap_offset: u64,
    /// Queues it has room for.
    pub num_queues: u16,
    /// Entries for each queue.
    pub queue_size: u16,
    /// A writable file that is long enough.
    pub file: Arc<OwnedFd>,
}

impl InflightRegion {
    /// Where in the file the part of a packed queue begins; nothing for a queue beyond the region.
    #[must_use]
    pub fn packed_part(&self, queue: u16) -> Option<u64> {
        let before = part_bytes(self.queue_size, true).checked_mul(u64::from(queue))?;
        (queue < self.num_queues).then(|| self.mmap_offset.checked_add(before))?
    }

    /// Notes that a packed queue stopped in peace: its front end was told where.
    pub(super) fn forget(&self, queue: u16) {
        if let Some(at) = self.packed_part(queue) {
            // What cannot be written to (truncated) is not believed later either.
            let _ = rustix::io::pwrite(&self.file, &[0; 4], at.saturating_add(8));
        }
    }
}

/// Bytes of one queue's part.
fn part_bytes(queue_size: u16, packed: bool) -> u64 {
    let (header, entry) = if packed {
        (HEADER_BYTES_PACKED, ENTRY_BYTES_PACKED)
    } else {
        (HEADER_BYTES_SPLIT, ENTRY_BYTES_SPLIT)
    };
    entry.saturating_mul(u64::from(queue_size)).saturating_add(header).next_multiple_of(ALIGNMENT)
}

impl Session {
    /// Queue count and size of a request, each in its range; and whether rings are packed.
    fn inflight_geometry(&self, message: &Message) -> Result<(VhostUserInflight, bool), Refusal> {
        self.require(VhostUserProtocolFeatures::INFLIGHT_SHMFD)?;
        let inflight = Reader(&message.payload).inflight()?;
        let queues = 1..=self.config.max_queues();
        if !queues.contains(&inflight.num_queues)
            || inflight.queue_size == 0
            || u32::from(inflight.queue_size) > MAX_QUEUE_SIZE
        {
            return Err(Refusal::InflightGeometry);
        }
        Ok((inflight, self.front.features.is_some_and(|f| f & VIRTIO_F_RING_PACKED != 0)))
    }

    /// GET_INFLIGHT_FD: a new region, empty. The front end keeps it; nothing of it stays here (V-25).
    pub(super) fn get_inflight_fd(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let (asked, packed) = self.inflight_geometry(message)?;
        let part = part_bytes(asked.queue_size, packed);
        let size = part.saturating_mul(u64::from(asked.num_queues));
        let file = create(size, part, asked.num_queues, (!packed).then_some(asked.queue_size))
            .map_err(|_| Refusal::InflightFile)?;
        let mut payload = [size.to_ne_bytes(), 0u64.to_ne_bytes()].concat();
        payload.extend([asked.num_queues, asked.queue_size].iter().flat_map(|v| v.to_ne_bytes()));
        // With the padding it was asked with, if it was.
        payload.resize(message.payload.len(), 0);
        Ok(Outcome::Reply(payload, vec![file]))
    }

    /// SET_INFLIGHT_FD: the region for the queues to come. Every queue's size must be known (V-26).
    pub(super) fn set_inflight_fd(&mut self, message: Message) -> Result<Outcome, Refusal> {
        let (given, packed) = self.inflight_geometry(&message)?;
        if self.any_active() {
            return Err(Refusal::QueueRunning);
        }
        let mut sizes = self.front.queues.iter().filter_map(|queue| queue.size).peekable();
        if sizes.peek().is_none() || sizes.any(|size| size > given.queue_size) {
            return Err(Refusal::InflightGeometry);
        }
        let part = part_bytes(given.queue_size, packed);
        let needed = part.saturating_mul(u64::from(given.num_queues));
        let end = given.mmap_offset.checked_add(given.mmap_size).filter(|_| given.mmap_size >= needed);
        let end = end.ok_or(Refusal::InflightFile)?;
        let file = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        shared_file(&file, end).map_err(|_| Refusal::InflightFile)?;
        for queue in 0..u64::from(given.num_queues) {
            check_part(
                &file,
                given.mmap_offset.saturating_add(queue.saturating_mul(part)),
                given.queue_size,
            )?;
        }
        self.front.inflight = Some(InflightRegion {
            size: given.mmap_size,
            mmap_offset: given.mmap_offset,
            num_queues: given.num_queues,
            queue_size: given.queue_size,
            file: Arc::new(file),
        });
        Ok(Outcome::Done)
    }
}

/// Makes a region: version and size in each queue's header, all else zero. A packed queue's header is written when it runs.
fn create(size: u64, part: u64, queues: u16, queue_size: Option<u16>) -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("towpath-inflight", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size)?;
    let Some(queue_size) = queue_size else { return Ok(file) };
    let header = [VERSION.to_ne_bytes(), queue_size.to_ne_bytes()].concat();
    for queue in 0..u64::from(queues) {
        let place = queue.saturating_mul(part).saturating_add(8);
        rustix::io::pwrite(&file, &header, place)?;
    }
    Ok(file)
}

/// Checks one queue's header: ours, or one that nobody wrote yet.
fn check_part(file: &OwnedFd, offset: u64, queue_size: u16) -> Result<(), Refusal> {
    let mut header = [0u8; 12];
    let read = rustix::io::pread(file, &mut header, offset).map_err(|_| Refusal::InflightFile)?;
    let mut reader = Reader(header.get(..read).unwrap_or_default());
    let _features = reader.u64().map_err(|_| Refusal::InflightFile)?;
    match (reader.u16(), reader.u16()) {
        (Ok(0), Ok(0)) => Ok(()),
        (Ok(VERSION), Ok(size)) if size == queue_size => Ok(()),
        _ => Err(Refusal::InflightContent),
    }
}
