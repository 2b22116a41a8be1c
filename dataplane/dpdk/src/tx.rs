//! A transmit queue.

use crate::offload::{Request, capabilities, request};
use crate::port::{Port, SegmentLimits};
use crate::{Mempool, mempool};
use buf::{BURST_PACKETS, ExtentMut, Frame, Offload};
use dpdk_sys::rte_mbuf;
use engine::{OffloadCapabilities, TxQueue, TxReport};
use packet::checksum::Sum;
use std::ptr;
use std::sync::Arc;

/// How many frames ahead of the one being copied all lines of the next are asked for, on the sender's side. (The mbufs were used last by this core.)
const COPY_AHEAD: usize = 2;
/// Segments of the longest frame: 64 KiB and its headers in pieces of 2 KiB.
const MOST_SEGMENTS: usize = 33;

/// A transmit queue of a started device. Frames are copied into mbufs of the device's pool and given to it in bursts of up to 32.
///
/// Counted as `full`: frames that the device had no descriptors for, or the pool no mbufs. Counted as `too_large`: frames longer than
/// the MTU (unless the device is to cut them), of more segments than the device takes, to be cut in a way that it
/// cannot, or refused by its driver.
#[derive(Debug)]
pub struct DpdkTx {
    pool: Mempool,
    /// Mbufs of the packets being put together; null beyond `send`.
    fresh: Box<[*mut rte_mbuf; BURST_PACKETS * MOST_SEGMENTS]>,
    queue: u16,
    longest: usize,
    most_segments: SegmentLimits,
    tx_offloads: u64,
    port: Arc<Port>,
    _in_use: Arc<()>,
}

// SAFETY: between calls no mbuf is held; within one `&mut` keeps them to one thread, and pools and devices are not bound to any.
unsafe impl Send for DpdkTx {}

/// Packets on their way to the device: the first mbuf of each, and its length in bytes.
struct Ready {
    mbufs: [*mut rte_mbuf; BURST_PACKETS],
    lengths: [u32; BURST_PACKETS],
    count: usize,
    /// Whether one of them carries flags, so that the driver has to look at them first.
    flagged: bool,
}

impl Ready {
    fn push(&mut self, packet: Filled) {
        if let (Some(mbuf), Some(length)) = (self.mbufs.get_mut(self.count), self.lengths.get_mut(self.count))
        {
            *mbuf = packet.first;
            *length = packet.length;
            self.count += 1;
            self.flagged |= packet.flagged;
        }
    }
}

/// A packet in mbufs.
struct Filled {
    first: *mut rte_mbuf,
    length: u32,
    flagged: bool,
}

impl DpdkTx {
    pub(crate) fn new(
        port: Arc<Port>,
        in_use: Arc<()>,
        queue: u16,
        longest: usize,
        most_segments: SegmentLimits,
        tx_offloads: u64,
    ) -> Self {
        Self {
            pool: port.pool.clone(),
            fresh: Box::new([ptr::null_mut(); BURST_PACKETS * MOST_SEGMENTS]),
            queue,
            longest,
            most_segments,
            tx_offloads,
            port,
            _in_use: in_use,
        }
    }

    /// How many mbufs a frame takes; `None` when it is too large.
    #[inline(always)]
    fn segments(&self, frame: &Frame<'_, '_>) -> Option<usize> {
        let segments = frame.len().div_ceil(mempool::DATA_ROOM_BYTES).max(1);
        let (longest, most) = match frame.offload.segment {
            None => (self.longest, self.most_segments.whole),
            Some(_) => (usize::MAX, self.most_segments.cut),
        };
        (frame.len() <= longest && segments <= usize::from(most).min(MOST_SEGMENTS)).then_some(segments)
    }

    /// Sends up to 32 frames.
    #[inline(always)]
    fn send_burst(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        let needed = frames.iter().filter_map(|frame| self.segments(frame)).sum();
        // One call for the mbufs of all; when the pool has not that many, one for each frame, as far as they go.
        let at_once = self.fresh.get_mut(..needed).is_some_and(|mbufs| self.pool.take(mbufs));
        let (mbufs, lengths) = ([ptr::null_mut(); BURST_PACKETS], [0; BURST_PACKETS]);
        let mut ready = Ready { mbufs, lengths, count: 0, flagged: false };
        let mut used = 0;
        for frame in frames.iter().take(COPY_AHEAD) {
            frame.prefetch_body();
        }
        for (at, frame) in frames.iter().enumerate() {
            if let Some(ahead) = frames.get(at + COPY_AHEAD).filter(|ahead| ahead.body_len() > 0) {
                ahead.prefetch_body();
            }
            let Some(segments) = self.segments(frame) else {
                report.too_large += 1;
                continue;
            };
            let chain = self.fresh.get_mut(used..used + segments).unwrap_or_default();
            if chain.is_empty() || !(at_once || self.pool.take(chain)) {
                report.full += 1;
                continue;
            }
            used += segments;
            match fill(chain, frame, self.tx_offloads) {
                Some(packet) => ready.push(packet),
                None => {
                    report.too_large += 1;
                    // SAFETY: taken from the pool above, each on its own and given to nobody.
                    unsafe { mempool::free(chain) };
                }
            }
        }
        self.hand_over(&mut ready, &mut report);
        report
    }

    /// Gives the packets to the device, in order; those that it has no room for, or that its driver refuses, are freed and counted.
    #[inline(always)]
    fn hand_over(&self, ready: &mut Ready, report: &mut TxReport) {
        let mut from = 0;
        while let Some(rest) = ready.mbufs.get_mut(from..ready.count).filter(|rest| !rest.is_empty()) {
            let acceptable = if ready.flagged { self.prepare(rest) } else { rest.len() };
            let (good, others) = rest.split_at_mut(acceptable.min(rest.len()));
            // SAFETY: the port is started while this queue lives, and only this value sends on it; whole packets that are ours, and the
            // device's as far as it takes them.
            let sent = unsafe {
                dpdk_sys::towpath_eth_tx_burst(self.port.id, self.queue, good.as_mut_ptr(), good.len() as u16)
            };
            let lengths = ready.lengths.iter().skip(from).take(usize::from(sent));
            report.sent += u32::from(sent);
            report.bytes += lengths.map(|length| u64::from(*length)).sum::<u64>();
            let unsent = good.get_mut(usize::from(sent)..).unwrap_or_default();
            let refused = others.get_mut(..1).unwrap_or_default();
            report.full += unsent.len() as u32;
            report.too_large += refused.len() as u32;
            // SAFETY: packets that the device did not take, or that its driver refused before, are still ours.
            unsafe {
                mempool::free(unsent);
                mempool::free(refused);
            }
            from += acceptable + 1;
        }
    }

    /// Lets the driver look at packets with flags (it may change headers): how many of the first it can send.
    #[cold]
    fn prepare(&self, mbufs: &mut [*mut rte_mbuf]) -> usize {
        // SAFETY: as for sending; the packets stay ours.
        let good = unsafe {
            dpdk_sys::towpath_eth_tx_prepare(self.port.id, self.queue, mbufs.as_mut_ptr(), mbufs.len() as u16)
        };
        usize::from(good)
    }
}

impl TxQueue for DpdkTx {
    fn capabilities(&self) -> OffloadCapabilities {
        capabilities(self.tx_offloads)
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        let mut report = TxReport::default();
        for burst in frames.chunks(BURST_PACKETS) {
            report.merge(self.send_burst(burst));
        }
        report
    }

    /// Nothing: the device was told in `send`, which could not have counted otherwise.
    fn flush(&mut self) {}
}

/// Copies a frame into the mbufs of `chain`, and writes down what the device is to do with it. `None` when it cannot do that.
#[inline(always)]
fn fill(chain: &mut [*mut rte_mbuf], frame: &Frame<'_, '_>, tx_offloads: u64) -> Option<Filled> {
    if frame.offload == Offload::NONE {
        copy(chain, frame)
    } else {
        fill_with_request(chain, frame, tx_offloads)
    }
}

#[inline(never)]
fn fill_with_request(chain: &mut [*mut rte_mbuf], frame: &Frame<'_, '_>, tx_offloads: u64) -> Option<Filled> {
    match request(frame.offload, frame.head(), frame.len() as u32, tx_offloads) {
        Request::Plain => copy(chain, frame),
        Request::Refuse => None,
        Request::Sum { start, offset } => {
            let field = usize::from(start) + usize::from(offset);
            if field + 2 > frame.head().len().min(mempool::DATA_ROOM_BYTES) {
                return None;
            }
            let packet = copy(chain, frame)?;
            let sum = sum_from(chain, start.into());
            // SAFETY: the first mbuf of a packet that is ours alone; its data begin with the head, as much as there is room for, in
            // which the field lies (looked at above).
            unsafe {
                data(packet.first).add(field).cast::<[u8; 2]>().write(sum.finish_nonzero().to_be_bytes());
            };
            Some(packet)
        }
        Request::Flags { flags, lengths, zero } => {
            let packet = copy(chain, frame)?;
            // SAFETY: the first mbuf of a packet that is ours alone; header checksums lie in the head, which its data begin with.
            unsafe {
                let first = &mut *packet.first;
                first.ol_flags |= flags;
                dpdk_sys::mbuf::set_tx_offload(first, lengths);
                for at in zero.into_iter().flatten() {
                    data(packet.first).add(usize::from(at)).cast::<[u8; 2]>().write([0; 2]);
                }
            }
            Some(Filled { flagged: true, ..packet })
        }
    }
}

/// Copies a frame into fresh mbufs and links them. `None` without mbufs.
#[inline(always)]
fn copy(chain: &mut [*mut rte_mbuf], frame: &Frame<'_, '_>) -> Option<Filled> {
    let (first, mut length, mut reader) = (*chain.first()?, 0, frame.reader());
    for at in 0..chain.len() {
        let (mbuf, next) = (*chain.get(at)?, chain.get(at + 1).copied().unwrap_or(ptr::null_mut()));
        // SAFETY: a fresh mbuf, ours alone, whose data begin after the headroom and have DATA_ROOM_BYTES of room behind them (the pool
        // was made so); nobody holds a reference to either.
        unsafe {
            let copied = reader.copy_to(ExtentMut::new(data(mbuf), mempool::DATA_ROOM_BYTES));
            (*mbuf).data_len = copied as u16;
            (*mbuf).next = next;
            length += copied as u32;
        }
    }
    // SAFETY: the first mbuf of the chain just linked.
    unsafe {
        (*first).pkt_len = length;
        (*first).nb_segs = chain.len() as u16;
    }
    Some(Filled { first, length, flagged: false })
}

/// Sums the data of a packet's mbufs from byte `start` of it on. Of the copy, not of the sender's bytes: those may have changed since.
#[inline(always)]
fn sum_from(chain: &[*mut rte_mbuf], start: usize) -> Sum {
    let (mut sum, mut skip, mut at) = (Sum::ZERO, start, 0);
    for mbuf in chain {
        // SAFETY: an mbuf that `copy` filled with `data_len` bytes, ours alone: nobody writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(data(*mbuf), usize::from((**mbuf).data_len)) };
        let covered = bytes.get(skip..).unwrap_or_default();
        skip -= bytes.len() - covered.len();
        sum = sum.plus(Sum::of(covered).at_offset(at));
        at += covered.len();
    }
    sum
}

/// Where the data of an mbuf begin.
///
/// # Safety
///
/// `mbuf` must be an mbuf that is ours.
#[inline(always)]
unsafe fn data(mbuf: *mut rte_mbuf) -> *mut u8 {
    // SAFETY: an mbuf's data begin inside its buffer.
    unsafe { (*mbuf).buf_addr.cast::<u8>().add(usize::from((*mbuf).data_off)) }
}
