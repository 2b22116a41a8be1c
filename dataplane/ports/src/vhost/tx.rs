//! The guest's receive ring.

use super::header::{self, NetFeatures};
use buf::Frame;
use engine::{OffloadCapabilities, TxQueue, TxReport};
use guest_mem::{DirtyLog, GuestMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtqueue::{DeviceRing, GiveError, Notifier, Ring, SetupError};

/// Buffers asked for a burst ahead, at most.
const AHEAD: usize = 32;

/// Gives packets to a guest.
pub struct VhostTx {
    ring: Ring,
    features: NetFeatures,
    notifier: Arc<dyn Notifier>,
    stopped: Arc<AtomicBool>,
    /// Buffers refused, as last reported.
    refused: u64,
}

impl VhostTx {
    /// A queue over `ring`; `notifier` interrupts the guest.
    pub fn new(mut ring: Ring, features: NetFeatures, notifier: Arc<dyn Notifier>) -> Self {
        // A guest that refills its buffers need not tell: they are looked at when there is something to give.
        ring.suppress_kicks();
        let refused = ring.stats().refused_total();
        Self { ring, features, notifier, stopped: Arc::default(), refused }
    }

    /// Moves to another memory map.
    ///
    /// # Errors
    ///
    /// The ring is not in the new memory; the queue takes nothing any more.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<(), SetupError> {
        self.ring.set_memory(memory)
    }

    /// Set once the ring has refused a frame because it is broken or gone. To be looked at without taking the queue from its worker,
    /// which would lose what arrives meanwhile.
    pub fn stopped(&self) -> Arc<AtomicBool> {
        self.stopped.clone()
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

impl VhostTx {
    /// Sends a frame that needs several buffers, or when runs cannot be given.
    #[inline(never)]
    fn send_one(&mut self, frame: &Frame<'_, '_>, report: &mut TxReport) {
        let header = header::of(frame, &self.features.receives);
        let header = &header[..usize::from(self.features.header_length).min(header.len())];
        match self.ring.give(header, frame) {
            Ok(()) => {
                report.sent += 1;
                report.bytes += frame.len() as u64;
            }
            Err(GiveError::NoBuffers) => report.full += 1,
            Err(GiveError::TooSmall) => report.too_large += 1,
            Err(_) => report.stopped += 1,
        }
    }
}

impl TxQueue for VhostTx {
    fn capabilities(&self) -> OffloadCapabilities {
        self.features.receives
    }

    #[inline]
    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        // Asks for the lines of all buffers before the first is written. A ring that is broken says so in `give`.
        let _ = self.ring.reserve(frames.len());
        let mut rest = frames;
        let receives = self.features.receives;
        loop {
            let (given, bytes) = self.ring.give_run(rest, |frame| header::of(frame, &receives));
            report.sent += given as u32;
            report.bytes += bytes as u64;
            let Some((frame, others)) = rest.get(given..).and_then(|rest| rest.split_first()) else { break };
            self.send_one(frame, &mut report);
            rest = others;
        }
        if report.stopped > 0 {
            self.stopped.store(true, Ordering::Relaxed);
        }
        let refused = self.ring.stats().refused_total();
        report.refused = refused.wrapping_sub(self.refused) as u32;
        self.refused = refused;
        report
    }

    #[inline]
    fn flush(&mut self) {
        let published = self.ring.publish();
        if published > 0 && self.ring.interrupt_hint() {
            self.notifier.notify();
        }
        if published > 0 {
            // Another burst of that size will come: the lines of its buffers are on their way here meanwhile.
            let _ = self.ring.reserve(published.min(AHEAD));
        }
    }

    fn settle(&mut self) {
        if self.ring.interrupt_due() {
            self.notifier.notify();
        }
    }
}
