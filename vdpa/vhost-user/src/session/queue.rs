//! One queue's state, and whether it can run.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::QueueStart;
use super::memory::Region;
use crate::features::{VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_RING_PACKED, with_dependencies};
use crate::refusal::Refusal;

/// Greatest queue size (virtio 1.2, 2.7 and 2.8).
pub(crate) const MAX_QUEUE_SIZE: u32 = 32768;
/// Base of a packed queue that was never set: index 0, both wrap counters 1 (virtio 1.2, 2.8.1).
const PACKED_BASE: u32 = 0x8000_8000;

/// Front-end user addresses of a ring's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Descriptor table (split), descriptor ring (packed).
    pub descriptor: u64,
    /// Available ring (split), driver event suppression (packed).
    pub driver: u64,
    /// Used ring (split), device event suppression (packed).
    pub device: u64,
    /// Guest address of the used ring for the dirty log, when the front end wants it logged.
    pub log: Option<u64>,
}

/// The kick of a queue: a queue has started when it has one.
#[derive(Clone, Debug, Default)]
pub enum Kick {
    /// Not started.
    #[default]
    None,
    /// Started; the guest does not kick, the ring is polled.
    Polled,
    /// Started; the guest kicks here.
    Descriptor(Arc<OwnedFd>),
}

/// Whether a worker has the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Run {
    #[default]
    Idle,
    /// Handed out by `QueueReady`.
    Active,
    /// Asked back by `StopQueue`.
    Stopping,
    /// Stopped by the worker; needs new settings from the front end.
    Broken,
}

/// What the front end told about a queue.
#[derive(Clone, Debug, Default)]
pub struct QueueState {
    pub(crate) size: Option<u16>,
    pub(crate) base: Option<u32>,
    pub(crate) addresses: Option<Addresses>,
    pub(crate) kick: Kick,
    pub(crate) call: Option<Arc<OwnedFd>>,
    pub(crate) err: Option<Arc<OwnedFd>>,
    pub(crate) enabled: bool,
    pub(crate) run: Run,
    /// Whether size, addresses and memory were judged and refused; cleared when one of them changes.
    pub(crate) judged: bool,
    /// Whether it ran in this session: then `base` is where it really stopped.
    pub(crate) ran: bool,
}

/// A queue as a port's status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// Queue index.
    pub index: u16,
    /// Entries, once told.
    pub size: Option<u16>,
    /// Enabled by SET_VRING_ENABLE.
    pub enabled: bool,
    /// A worker has it.
    pub running: bool,
    /// Its ring was found broken.
    pub broken: bool,
    /// The guest is told by an eventfd.
    pub notifies: bool,
}

impl QueueState {
    pub(crate) fn status(&self, index: usize) -> QueueStatus {
        QueueStatus {
            index: u16::try_from(index).unwrap_or(u16::MAX),
            size: self.size,
            enabled: self.enabled,
            running: matches!(self.run, Run::Active | Run::Stopping),
            broken: self.run == Run::Broken,
            notifies: self.call.is_some(),
        }
    }

    /// The base to go on from, or to answer GET_VRING_BASE with.
    pub(crate) fn base_or_initial(&self, features: u64) -> u32 {
        let initial = if features & VIRTIO_F_RING_PACKED != 0 { PACKED_BASE } else { 0 };
        self.base.unwrap_or(initial)
    }

    /// Whether the queue can start now: everything is there and lies inside of `regions`.
    ///
    /// # Errors
    /// Everything is there, but unusable. Told once for each change.
    pub(crate) fn ready(&self, features: u64, regions: &[Region]) -> Result<bool, Refusal> {
        let enabled = self.enabled || features & VHOST_USER_F_PROTOCOL_FEATURES == 0;
        if self.run != Run::Idle || self.judged || !enabled || matches!(self.kick, Kick::None) {
            return Ok(false);
        }
        let (Some(size), Some(addresses)) = (self.size, self.addresses) else { return Ok(false) };
        check_ring(size, addresses, features & VIRTIO_F_RING_PACKED != 0, regions)?;
        Ok(true)
    }

    /// What a worker needs to run the queue; nothing if a part is missing.
    pub(crate) fn start(&self, index: usize, features: u64) -> Option<QueueStart> {
        Some(QueueStart {
            index: u16::try_from(index).ok()?,
            size: self.size?,
            features: with_dependencies(features),
            base: self.base_or_initial(features),
            addresses: self.addresses?,
            kick: match &self.kick {
                Kick::Descriptor(fd) => Some(Arc::clone(fd)),
                Kick::None | Kick::Polled => None,
            },
            call: self.call.clone(),
            err: self.err.clone(),
            inflight: None,
        })
    }

    /// Tells the front end that the ring is broken. Never blocks: the descriptor is non-blocking, and a full counter says
    /// it already.
    pub(crate) fn signal_error(&self) {
        if let Some(err) = &self.err {
            let _full_or_gone = rustix::io::write(err, &1u64.to_ne_bytes());
        }
    }

    /// Back to a queue that is not set up, as after a stop.
    pub(crate) fn stop(&mut self) {
        self.kick = Kick::None;
        if self.run == Run::Broken {
            self.run = Run::Idle;
        }
    }
}

/// Whether the parts of a ring are aligned, apart, and each inside of one region (virtio 1.2, 2.7 and 2.8).
fn check_ring(size: u16, at: Addresses, packed: bool, regions: &[Region]) -> Result<(), Refusal> {
    let entries = u64::from(size);
    if !packed && !size.is_power_of_two() {
        return Err(Refusal::QueueSize);
    }
    // (address, bytes, alignment); the event index adds 2 bytes to both split rings.
    let parts = if packed {
        [(at.descriptor, entries.saturating_mul(16), 16), (at.driver, 4, 4), (at.device, 4, 4)]
    } else {
        let (driver, device) = (entries.saturating_mul(2), entries.saturating_mul(8));
        [
            (at.descriptor, entries.saturating_mul(16), 16),
            (at.driver, driver.saturating_add(6), 2),
            (at.device, device.saturating_add(6), 4),
        ]
    };
    let mut ranges = [(0u64, 0u64); 3];
    for ((address, bytes, alignment), range) in parts.into_iter().zip(&mut ranges) {
        if address % alignment != 0 {
            return Err(Refusal::RingUnaligned);
        }
        let end = address.checked_add(bytes).ok_or(Refusal::RingOutsideMemory)?;
        if !regions.iter().any(|region| region.contains_user(address, bytes)) {
            return Err(Refusal::RingOutsideMemory);
        }
        *range = (address, end);
    }
    let [first, second, third] = ranges;
    let overlap = |a: (u64, u64), b: (u64, u64)| a.0 < b.1 && b.0 < a.1;
    if overlap(first, second) || overlap(first, third) || overlap(second, third) {
        return Err(Refusal::RingOverlap);
    }
    Ok(())
}
