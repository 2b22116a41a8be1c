//! A wire inside the process: what is sent at one end is received at the other, through a bounded pool of packets.
//!
//! Carries every offload as it is. Either end may belong to another thread. For tests, the simulator, and ports that one part of the
//! switch offers to another.

use buf::{BURST_BYTES, BURST_PACKETS, Burst, Frame, OwnedPacket, Pool};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

/// The longest frame that a loopback carries: an IP packet of 65,535 bytes with room for link headers.
pub const LONGEST_FRAME: usize = 65_562;

/// A wire for up to `depth` packets (at least one), whose bytes lie in `pool`.
///
/// `wake` is called in [`TxQueue::flush`], on the sender's thread, when the receiver had armed itself: at most once per arming.
pub fn loopback(pool: &Pool, depth: usize, wake: impl Fn() + Send + 'static) -> (LoopbackRx, LoopbackTx) {
    let (producer, consumer) = RingBuffer::new(depth.max(1));
    let armed = Arc::new(AtomicBool::new(false));
    let rx = LoopbackRx {
        ring: consumer,
        held: VecDeque::with_capacity(BURST_PACKETS),
        shown: 0,
        armed: armed.clone(),
        long_heads: false,
    };
    let tx = LoopbackTx { ring: producer, pool: pool.clone(), armed, wake: Box::new(wake) };
    (rx, tx)
}

/// The receiving end.
pub struct LoopbackRx {
    ring: Consumer<OwnedPacket>,
    /// Packets of the burst in use, then packets that did not fit it.
    held: VecDeque<OwnedPacket>,
    shown: usize,
    armed: Arc<AtomicBool>,
    long_heads: bool,
}

impl fmt::Debug for LoopbackRx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackRx")
            .field("waiting", &self.ring.slots())
            .field("held", &self.held.len())
            .finish()
    }
}

impl LoopbackRx {
    /// The same, for the end of an uplink: see [`Burst::load_long_heads`].
    #[must_use]
    pub fn with_long_heads(mut self) -> Self {
        self.long_heads = true;
        self
    }

    /// Takes as many packets from the ring as one burst has room for.
    fn fetch(&mut self) {
        let mut bytes: usize = self.held.iter().map(OwnedPacket::len).sum();
        while self.held.len() < BURST_PACKETS && bytes < BURST_BYTES {
            let Ok(packet) = self.ring.pop() else { return };
            bytes += packet.len();
            self.held.push_back(packet);
        }
    }
}

impl RxQueue for LoopbackRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.complete();
        self.fetch();
        let mut shown = 0;
        for packet in &self.held {
            if burst.is_full() || !packet.add_to(burst) {
                break;
            }
            shown += 1;
        }
        self.shown = shown;
        if self.long_heads {
            burst.load_long_heads();
        } else {
            burst.load_heads();
        }
        RxReport { more: shown < self.held.len() || !self.ring.is_empty(), ..RxReport::default() }
    }

    fn complete(&mut self) {
        self.held.drain(..self.shown);
        self.shown = 0;
    }

    fn arm(&mut self) -> Armed {
        self.armed.store(true, SeqCst);
        // Either the sender's swap in `flush` sees the store above, or the look below sees what it had sent before.
        fence(SeqCst);
        if self.held.len() > self.shown || !self.ring.is_empty() {
            self.disarm();
            return Armed::Ready;
        }
        Armed::Quiet
    }

    fn disarm(&mut self) {
        self.armed.store(false, SeqCst);
    }
}

/// The sending end.
pub struct LoopbackTx {
    ring: Producer<OwnedPacket>,
    pool: Pool,
    armed: Arc<AtomicBool>,
    wake: Box<dyn Fn() + Send>,
}

impl fmt::Debug for LoopbackTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoopbackTx").field("room", &self.ring.slots()).field("pool", &self.pool).finish()
    }
}

impl TxQueue for LoopbackTx {
    fn capabilities(&self) -> OffloadCapabilities {
        OffloadCapabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso4: true,
            uso6: true,
            ecn: true,
            tunnel: true,
        }
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        if self.ring.is_abandoned() {
            report.stopped = frames.len() as u32;
            return report;
        }
        for frame in frames {
            if frame.len() > LONGEST_FRAME {
                report.too_large += 1;
            } else if self.ring.is_full() {
                report.full += 1;
            } else if let Some(packet) = self.pool.copy(frame)
                && self.ring.push(packet).is_ok()
            {
                report.sent += 1;
                report.bytes += frame.len() as u64;
            } else {
                report.full += 1;
            }
        }
        report
    }

    fn flush(&mut self) {
        fence(SeqCst);
        if self.armed.load(SeqCst) && self.armed.swap(false, SeqCst) {
            (self.wake)();
        }
    }
}
