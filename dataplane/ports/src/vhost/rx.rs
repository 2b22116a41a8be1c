//! The guest's transmit ring.

use super::header::{self, HEADER_LENGTH, NetFeatures};
use buf::Burst;
use engine::{Armed, QueueFault, RxQueue, RxReport};
use guest_mem::{DirtyLog, GuestMemory};
use std::sync::Arc;
use virtqueue::{DeviceRing, Headers, Notifier, Ring, RingError, SetupError};

/// Takes packets from a guest.
pub struct VhostRx {
    ring: Ring,
    /// The ring's memory once more, so that a burst borrows it and not the ring.
    memory: Arc<GuestMemory>,
    features: NetFeatures,
    notifier: Arc<dyn Notifier>,
    refused: u64,
    faulted: bool,
}

impl VhostRx {
    /// A queue over `ring`; `notifier` interrupts the guest.
    pub fn new(ring: Ring, features: NetFeatures, notifier: Arc<dyn Notifier>) -> Self {
        let memory = ring.memory().clone();
        let mut queue = Self { ring, memory, features, notifier, refused: 0, faulted: false };
        queue.refused = queue.ring.stats().refused_total();
        queue.ring.suppress_kicks();
        queue
    }

    /// Moves to another memory map. Between bursts only, which exclusive access guarantees.
    ///
    /// # Errors
    ///
    /// The ring is not in the new memory; the queue yields nothing any more.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), SetupError> {
        self.ring.set_memory(memory)?;
        self.memory = self.ring.memory().clone();
        Ok(())
    }

    /// The ring, to read where it stands or to change its log.
    pub fn ring_mut(&mut self) -> &mut Ring {
        &mut self.ring
    }

    /// Starts or ends marking writes in a dirty log.
    pub fn set_dirty_log(&mut self, log: Option<Arc<DirtyLog>>) {
        self.ring.set_dirty_log(log);
    }

    /// Replaces how the guest is interrupted.
    pub fn set_notifier(&mut self, notifier: Arc<dyn Notifier>) {
        self.notifier = notifier;
        // What the old way may have lost.
        self.notifier.notify();
    }
}

impl RxQueue for VhostRx {
    #[inline]
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let mut headers = Headers::if_read(self.features.sends_offloads());
        let mut report = RxReport::default();
        let before = burst.len();
        if let Err(error) = self.ring.take(&self.memory, burst, &mut headers) {
            if !self.faulted {
                self.faulted = true;
                report.fault = Some(fault_of(error));
            }
            return report;
        }
        burst.load_heads();
        if self.features.sends_offloads() {
            for index in 0..headers.len() {
                let mut bytes = [0; HEADER_LENGTH];
                headers.read(index, &mut bytes);
                if header::asks(&bytes) {
                    burst.set_offload(before + index, header::read(&bytes, &self.features.sends));
                }
            }
        }
        let refused = self.ring.stats().refused_total();
        report.refused = refused.wrapping_sub(self.refused) as u32;
        self.refused = refused;
        report.more = burst.is_full();
        report
    }

    #[inline]
    fn complete(&mut self) {
        self.ring.return_taken();
        if self.ring.interrupt_hint() {
            self.notifier.notify();
        }
    }

    fn settle(&mut self) {
        if self.ring.interrupt_due() {
            self.notifier.notify();
        }
    }

    fn arm(&mut self) -> Armed {
        if self.ring.arm() { Armed::Ready } else { Armed::Quiet }
    }

    fn disarm(&mut self) {
        self.ring.suppress_kicks();
    }
}

/// What a broken ring means to the port.
pub(crate) fn fault_of(error: RingError) -> QueueFault {
    match error {
        RingError::MemoryGone => QueueFault::MemoryGone,
        _ => QueueFault::RingCorrupt,
    }
}
