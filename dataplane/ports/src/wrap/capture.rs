//! Copies what passes a queue to somebody who writes it down.
//!
//! The copies go through a bounded ring and a bounded pool. When either is full they are lost and counted: watching never holds a
//! packet up.

use crate::pcap::{PcapError, PcapWriter};
use buf::{Burst, Frame, OwnedPacket, Pool};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use rtrb::{Consumer, Producer, RingBuffer};
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use sync::Counter;

/// Wraps `queue` so that a copy of each frame goes to the [`Captured`] returned beside it: up to `depth` at a time, in memory of `pool`.
/// `clock` yields nanoseconds and is read once per burst. Of a transmit queue, all frames given are captured, also those that the receiver had
/// no room for.
pub fn capture<Q>(
    queue: Q,
    pool: &Pool,
    depth: usize,
    clock: impl Fn() -> u64 + Send + 'static,
) -> (Capturing<Q>, Captured) {
    let (producer, consumer) = RingBuffer::new(depth.max(1));
    let lost = Arc::new(Counter::new());
    let recorder =
        Recorder { ring: producer, pool: pool.clone(), clock: Box::new(clock), lost: lost.clone() };
    (Capturing { queue, recorder }, Captured { ring: consumer, lost })
}

struct Recorder {
    ring: Producer<(u64, OwnedPacket)>,
    pool: Pool,
    clock: Box<dyn Fn() -> u64 + Send>,
    lost: Arc<Counter>,
}

impl Recorder {
    fn record<'a, 'm: 'a>(&mut self, frames: impl Iterator<Item = Frame<'a, 'm>>) {
        let mut frames = frames.peekable();
        if self.ring.is_abandoned() || frames.peek().is_none() {
            return;
        }
        let now = (self.clock)();
        for frame in frames {
            let copied = if self.ring.is_full() { None } else { self.pool.copy(&frame) };
            if copied.is_none_or(|packet| self.ring.push((now, packet)).is_err()) {
                self.lost.add(1);
            }
        }
    }
}

/// A queue whose frames are copied as they pass. When nobody holds its [`Captured`] any more, nothing is copied.
pub struct Capturing<Q> {
    queue: Q,
    recorder: Recorder,
}

impl<Q: fmt::Debug> fmt::Debug for Capturing<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capturing").field("queue", &self.queue).field("lost", &self.recorder.lost).finish()
    }
}

impl<Q> Capturing<Q> {
    /// The queue without its wrapper.
    pub fn into_inner(self) -> Q {
        self.queue
    }
}

impl<Q: RxQueue> RxQueue for Capturing<Q> {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        let first = burst.len();
        let report = self.queue.poll(burst);
        self.recorder.record((first..burst.len()).filter_map(|at| burst.frame(at)));
        report
    }

    fn complete(&mut self) {
        self.queue.complete();
    }

    fn settle(&mut self) {
        self.queue.settle();
    }

    fn arm(&mut self) -> Armed {
        self.queue.arm()
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }
}

impl<Q: TxQueue> TxQueue for Capturing<Q> {
    fn capabilities(&self) -> OffloadCapabilities {
        self.queue.capabilities()
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        self.recorder.record(frames.iter().copied());
        self.queue.send(frames)
    }

    fn flush(&mut self) {
        self.queue.flush();
    }

    fn settle(&mut self) {
        self.queue.settle();
    }
}

/// What was captured and not yet written down.
pub struct Captured {
    ring: Consumer<(u64, OwnedPacket)>,
    lost: Arc<Counter>,
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captured").field("waiting", &self.ring.slots()).field("lost", &self.lost()).finish()
    }
}

impl Captured {
    /// The next frame and its time in nanoseconds.
    pub fn next_frame(&mut self) -> Option<(u64, OwnedPacket)> {
        self.ring.pop().ok()
    }

    /// Frames that passed and could not be copied.
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }

    /// Writes what there is as frames of one interface of `file`; how many.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; what was taken until then is lost.
    pub fn write_to<W: Write>(
        &mut self,
        file: &mut PcapWriter<W>,
        interface: u32,
    ) -> Result<usize, PcapError> {
        let mut written = 0;
        while let Some((time_ns, packet)) = self.next_frame() {
            file.write(interface, time_ns, &packet.with_frame(|frame| frame.to_vec()))?;
            written += 1;
        }
        file.flush()?;
        Ok(written)
    }
}
