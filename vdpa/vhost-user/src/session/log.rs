//! The dirty log: SET_LOG_BASE with a shared memory descriptor, SET_LOG_FD.
//!
//! Logging is on when the log is there and VHOST_F_LOG_ALL is acknowledged. It changes only while all queues are stopped,
//! and the front end has its answer only when they run again with it: after that nothing is written unlogged, and after
//! it is off nothing is logged.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::descriptor::{self, shared_file};
use super::memory::Region;
use super::{Outcome, Session, Then};
use crate::message::{Message, Reader};
use crate::refusal::Refusal;

/// Guest bytes per bit of the log.
const LOG_PAGE_BYTES: u64 = 4096;

/// Where to log: one bit for each 4 KiB of guest physical memory, from `mmap_offset` of the file on.
#[derive(Clone, Debug)]
pub struct LogRegion {
    /// Bytes.
    pub size: u64,
    /// Offset of the first bit's byte in the file; need not be aligned to pages (V-22).
    pub mmap_offset: u64,
    /// A writable file that is long enough.
    pub file: Arc<OwnedFd>,
}

/// Whether the log has a bit for every page of the regions (V-21).
pub(super) fn check_covers(log: &LogRegion, regions: &[Region]) -> Result<(), Refusal> {
    let end = regions.iter().map(Region::guest_end).max().unwrap_or(0);
    if log.size < end.div_ceil(LOG_PAGE_BYTES).div_ceil(8) { Err(Refusal::LogTooSmall) } else { Ok(()) }
}

impl Session {
    /// SET_LOG_BASE.
    pub(super) fn set_log_base(&mut self, message: Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::LOG_SHMFD)?;
        let log = Reader(&message.payload).log()?;
        let end = log.mmap_offset.checked_add(log.mmap_size).filter(|_| log.mmap_size != 0);
        let end = end.ok_or(Refusal::LogRange)?;
        let file = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        shared_file(&file, end).map_err(|_| Refusal::LogFile)?;
        let log = LogRegion { size: log.mmap_size, mmap_offset: log.mmap_offset, file: Arc::new(file) };
        check_covers(&log, &self.front.regions)?;
        if self.logging {
            return Ok(Outcome::Quiesce(None, Then::Log(log)));
        }
        // If LOG_ALL waits for a log, this switches it on.
        let on = self.front.features.is_some_and(|f| f & crate::features::VHOST_F_LOG_ALL != 0);
        if on {
            return Ok(Outcome::Quiesce(None, Then::Log(log)));
        }
        self.front.log = Some(log);
        Ok(Outcome::Done)
    }

    pub(super) fn apply_log(&mut self, log: LogRegion) -> Outcome {
        self.front.log = Some(log);
        Outcome::Log
    }

    /// SET_LOG_FD: an eventfd to signal when the log changes. Checked and closed: front ends read the log when they
    /// synchronise, none waits for it.
    pub(super) fn set_log_fd(&mut self, message: Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::LOG_SHMFD)?;
        let fd = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        descriptor::event(fd)?;
        Ok(Outcome::Done)
    }
}
