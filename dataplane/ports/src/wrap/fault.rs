//! Faults on purpose, repeatable from a seed: frames lost, doubled, changed, cut, or overtaken by the next.
//!
//! Stands for a bad wire, so the driver's own numbers stay true: a lost frame was sent. Copies lie in a bounded pool; a fault for which
//! it has no room is not made.

use crate::loopback::LONGEST_FRAME;
use buf::{BURST_PACKETS, Burst, Extent, Frame, HEAD_BYTES, OwnedPacket, Pool};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use std::collections::VecDeque;

/// How often each fault happens, in frames per million. A frame has at most one; together they are at most a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Lost.
    pub lose: u32,
    /// Arrives twice.
    pub double: u32,
    /// One bit is changed.
    pub corrupt: u32,
    /// Loses its end.
    pub truncate: u32,
    /// Arrives after the frame behind it.
    pub reorder: u32,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames looked at.
    pub frames: u64,
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub doubled: u64,
    /// Changed in one bit.
    pub corrupted: u64,
    /// Cut.
    pub truncated: u64,
    /// Held back behind the next.
    pub reordered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Lost,
    Doubled,
    Corrupted,
    Truncated,
    Reordered,
}

/// A queue with faults.
#[derive(Debug)]
pub struct Faulty<Q> {
    queue: Q,
    injector: Injector,
    /// Received, faults made: those of the burst in use, then others.
    ready: VecDeque<OwnedPacket>,
    shown: usize,
}

impl<Q> Faulty<Q> {
    /// Wraps `queue`. The same seed and the same frames give the same faults.
    pub fn new(queue: Q, seed: u64, rates: FaultRates, pool: &Pool) -> Self {
        let injector = Injector {
            pool: pool.clone(),
            rates,
            counts: FaultCounts::default(),
            random: SplitMix64(seed),
            scratch: Vec::with_capacity(LONGEST_FRAME),
            held: None,
        };
        // A burst at most doubles, and one frame may be held back from the burst before.
        Self { queue, injector, ready: VecDeque::with_capacity(2 * BURST_PACKETS + 1), shown: 0 }
    }

    /// What happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.injector.counts
    }

    /// From now on, other rates.
    pub fn set_rates(&mut self, rates: FaultRates) {
        self.injector.rates = rates;
    }

    /// The queue without its wrapper. A frame that is held back is lost.
    pub fn into_inner(self) -> Q {
        self.queue
    }
}

impl<Q: RxQueue> Faulty<Q> {
    /// Polls the queue once into `ready`.
    fn fetch(&mut self) -> RxReport {
        let mut burst = Burst::new();
        let report = self.queue.poll(&mut burst);
        let (ready, pool) = (&mut self.ready, self.injector.pool.clone());
        let mut uncopied = 0;
        for frame in (0..burst.len()).filter_map(|at| burst.frame(at)) {
            self.injector.pass(&frame, |passing| {
                let packet = match passing {
                    Passing::Original(frame) | Passing::Extra(frame) => pool.copy(frame),
                    Passing::Instead(packet) | Passing::Late(packet) => Some(packet),
                };
                match packet {
                    Some(packet) => ready.push_back(packet),
                    None => uncopied += 1,
                }
            });
        }
        if burst.is_empty() {
            ready.extend(self.injector.held.take());
        }
        self.injector.counts.lost += uncopied;
        self.queue.complete();
        report
    }
}

impl<Q: RxQueue> RxQueue for Faulty<Q> {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.complete();
        let mut report = if self.ready.is_empty() { self.fetch() } else { RxReport::default() };
        let mut shown = 0;
        for packet in &self.ready {
            if burst.is_full() || !packet.add_to(burst) {
                break;
            }
            shown += 1;
        }
        self.shown = shown;
        burst.load_heads();
        report.more |= shown < self.ready.len();
        report
    }

    fn complete(&mut self) {
        self.ready.drain(..self.shown);
        self.shown = 0;
    }

    fn settle(&mut self) {
        self.queue.settle();
    }

    fn arm(&mut self) -> Armed {
        if self.ready.len() > self.shown || self.injector.held.is_some() {
            Armed::Ready
        } else {
            self.queue.arm()
        }
    }

    fn disarm(&mut self) {
        self.queue.disarm();
    }
}

impl<Q: TxQueue> TxQueue for Faulty<Q> {
    fn capabilities(&self) -> OffloadCapabilities {
        self.queue.capabilities()
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        let (queue, mut unsent) = (&mut self.queue, 0);
        for frame in frames {
            let mut outcome = None;
            self.injector.pass(frame, |passing| match passing {
                Passing::Original(frame) => outcome = Some(queue.send(&[*frame])),
                Passing::Instead(packet) => outcome = Some(packet.with_frame(|frame| queue.send(&[frame]))),
                Passing::Extra(frame) => unsent += 1 - u64::from(queue.send(&[*frame]).sent),
                Passing::Late(packet) => {
                    unsent += 1 - u64::from(packet.with_frame(|frame| queue.send(&[frame])).sent);
                }
            });
            match outcome {
                Some(outcome) if outcome.sent == 0 => report.merge(outcome),
                _ => report.merge(TxReport { sent: 1, bytes: frame.len() as u64, ..TxReport::default() }),
            }
        }
        self.injector.counts.lost += unsent;
        report
    }

    fn flush(&mut self) {
        if let Some(packet) = self.injector.held.take() {
            let sent = packet.with_frame(|frame| self.queue.send(&[frame])).sent;
            self.injector.counts.lost += 1 - u64::from(sent);
        }
        self.queue.flush();
    }

    fn settle(&mut self) {
        self.queue.settle();
    }
}

/// A frame on its way past the injector.
enum Passing<'f, 'a, 'm> {
    /// As it came.
    Original(&'f Frame<'a, 'm>),
    /// In its place, a changed copy.
    Instead(OwnedPacket),
    /// Once more.
    Extra(&'f Frame<'a, 'm>),
    /// An earlier one, which it has overtaken.
    Late(OwnedPacket),
}

#[derive(Debug)]
struct Injector {
    pool: Pool,
    rates: FaultRates,
    counts: FaultCounts,
    random: SplitMix64,
    scratch: Vec<u8>,
    /// The frame that the next one overtakes.
    held: Option<OwnedPacket>,
}

impl Injector {
    fn fate(&mut self) -> Fate {
        self.counts.frames += 1;
        let mut drawn = self.random.below(1_000_000);
        let rates = self.rates;
        for (rate, fate) in [
            (rates.lose, Fate::Lost),
            (rates.double, Fate::Doubled),
            (rates.corrupt, Fate::Corrupted),
            (rates.truncate, Fate::Truncated),
            (rates.reorder, Fate::Reordered),
        ] {
            match drawn.checked_sub(u64::from(rate)) {
                None => return fate,
                Some(left) => drawn = left,
            }
        }
        Fate::Whole
    }

    /// Decides about a frame and hands on what becomes of it.
    fn pass<'f, 'a, 'm>(&mut self, frame: &'f Frame<'a, 'm>, mut deliver: impl FnMut(Passing<'f, 'a, 'm>)) {
        let late = self.held.take();
        match self.fate() {
            Fate::Lost => self.counts.lost += 1,
            Fate::Doubled => {
                self.counts.doubled += 1;
                deliver(Passing::Original(frame));
                deliver(Passing::Extra(frame));
            }
            Fate::Reordered if let Some(packet) = self.pool.copy(frame) => {
                self.counts.reordered += 1;
                self.held = Some(packet);
            }
            Fate::Corrupted if let Some(packet) = self.corrupted(frame) => {
                self.counts.corrupted += 1;
                deliver(Passing::Instead(packet));
            }
            Fate::Truncated if let Some(packet) = self.truncated(frame) => {
                self.counts.truncated += 1;
                deliver(Passing::Instead(packet));
            }
            _ => deliver(Passing::Original(frame)),
        }
        if let Some(packet) = late {
            deliver(Passing::Late(packet));
        }
    }

    fn corrupted(&mut self, frame: &Frame<'_, '_>) -> Option<OwnedPacket> {
        let len = self.read(frame);
        let (at, bit) = (self.random.below(len as u64) as usize, self.random.below(8));
        *self.scratch.get_mut(at)? ^= 1 << bit;
        self.copy(len, frame)
    }

    /// At least one byte is cut and one is left; a frame of one byte cannot be cut.
    fn truncated(&mut self, frame: &Frame<'_, '_>) -> Option<OwnedPacket> {
        let len = self.read(frame);
        let left = len.checked_sub(1).filter(|most| *most > 0)?;
        let left = 1 + self.random.below(left as u64) as usize;
        self.copy(left, frame)
    }

    fn read(&mut self, frame: &Frame<'_, '_>) -> usize {
        self.scratch.clear();
        self.scratch.resize(frame.len(), 0);
        frame.reader().read(&mut self.scratch)
    }

    fn copy(&self, len: usize, frame: &Frame<'_, '_>) -> Option<OwnedPacket> {
        let (head, body) = self.scratch.get(..len)?.split_at(len.min(HEAD_BYTES));
        self.pool.copy(&Frame::new(head, &[Extent::from_slice(body)], body.len(), frame.offload))
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): the same numbers on every machine, for ever.
#[derive(Clone, Copy, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 when that is 0. The bias is below one in 2^44.
    fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }
}
