//! A host's uplink as its switch gets it: queues whose other ends are the fabric's.

use crate::net::frame::set_hops;
use crate::net::read::hops;
use crate::net::tunnel;
use crate::plant::{Mischief, Plant};
use crate::queues::Polled;
use buf::{Burst, Checksum, Extent, Frame, Offload};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Frames that a receive queue of the uplink holds.
pub const DEPTH: usize = 512;
/// Frames of one burst.
const BURST: usize = 32;

/// A frame as a queue has it.
pub type Carried = (Vec<u8>, Offload);

/// The two ends of a queue, shared with the fabric.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<Mutex<VecDeque<Carried>>>);

impl Line {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Carried>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame at the end.
    pub fn push(&self, frame: Carried) {
        self.lock().push_back(frame);
    }

    /// Takes all there is.
    #[must_use]
    pub fn take(&self) -> VecDeque<Carried> {
        std::mem::take(&mut self.lock())
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the switch takes frames of the underlay from.
pub struct UplinkRx {
    line: Line,
    pair: usize,
    polled: Polled,
    shown: Vec<Carried>,
}

impl UplinkRx {
    /// The queue whose frames come by `line`.
    #[must_use]
    pub fn new(line: Line, pair: usize, polled: &Polled) -> Self {
        Self { line, pair, polled: polled.clone(), shown: Vec::new() }
    }
}

impl RxQueue for UplinkRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let mut line = self.line.lock();
        let count = line.len().min(BURST);
        self.shown = line.drain(..count).collect();
        let more = !line.is_empty();
        drop(line);
        for (bytes, offload) in &self.shown {
            if burst.push_extent(Extent::from_slice(bytes)).is_err() || !burst.commit(*offload) {
                burst.abandon();
            }
        }
        burst.load_long_heads();
        self.polled.note(self.pair, !burst.is_empty());
        RxReport { more, ..RxReport::default() }
    }

    fn complete(&mut self) {
        self.shown.clear();
    }

    fn arm(&mut self) -> Armed {
        if self.line.is_empty() { Armed::Quiet } else { Armed::Ready }
    }

    fn disarm(&mut self) {}
}

/// Where it gives them to.
pub struct UplinkTx {
    line: Line,
    capabilities: OffloadCapabilities,
    plant: Option<Plant>,
    frames: u64,
}

impl UplinkTx {
    /// The queue whose frames go by `line`, of a device that does `capabilities` itself.
    #[must_use]
    pub fn new(line: Line, capabilities: OffloadCapabilities, mischief: &Mischief) -> Self {
        Self { line, capabilities, plant: mischief.plant(), frames: 0 }
    }

    /// What the bug of the run makes of a frame.
    fn spoil(&self, bytes: &mut [u8], offload: &mut Offload) {
        let Some((_, at)) = tunnel::open(bytes) else { return };
        match (self.plant, &mut offload.checksum) {
            (Some(Plant::KeepHops), _) => {
                let hops = hops(&bytes[at..]).unwrap_or(0);
                if hops == 63 {
                    set_hops(&mut bytes[at..], 64);
                }
            }
            (Some(Plant::OffloadLeft), Checksum::Partial { start, .. }) if usize::from(*start) > at => {
                *start -= at as u16;
            }
            _ => {}
        }
    }
}

impl TxQueue for UplinkTx {
    fn capabilities(&self) -> OffloadCapabilities {
        self.capabilities
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        for frame in frames {
            let (mut bytes, mut offload) = (frame.to_vec(), frame.offload);
            self.spoil(&mut bytes, &mut offload);
            self.frames += 1;
            if self.plant == Some(Plant::DoubleOnWire) && self.frames.is_multiple_of(61) {
                self.line.push((bytes.clone(), offload));
            }
            (report.sent, report.bytes) = (report.sent + 1, report.bytes + bytes.len() as u64);
            self.line.push((bytes, offload));
        }
        report
    }

    fn flush(&mut self) {}
}
