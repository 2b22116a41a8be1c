//! The last stage: groups packets by output and copies them into the receivers' buffers.
//!
//! It is here and not in `stages` because it alone touches queues of other ports.
//!
//! Drops: [`DropReason::ReceiverFull`], [`DropReason::TooLarge`], [`DropReason::ReceiverStopped`], [`DropReason::HandoverFull`],
//! [`DropReason::PoolExhausted`]; all counted at the port the packet came from.

use crate::handover::{Handover, Links};
use crate::kept::Kept;
use crate::poll_set::QueueId;
use crate::unsettled::Unsettled;
use arrayvec::ArrayVec;
use buf::{BURST_PACKETS, Frame, Pool};
use engine::{
    Batch, DropReason, Group, Indices, Observer, Output, PortCounters, PortIndex, TxQueue, TxReport,
    deliver_adapted, deliver_coalesced,
};
use packet::L4;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use sync::Shared;

/// A transmit queue that any worker may take for a burst and control threads may take away.
pub type SharedTx = Arc<Shared<Option<Box<dyn TxQueue>>>>;

/// Entries of the table that remembers on which queue pair a guest sends which flows.
const STEERING: usize = 256;

/// Bytes before the network layer in a frame without a VLAN tag.
const ETHERNET_HEADER: usize = 14;

/// A port as a destination, as one worker sees it.
#[derive(Clone)]
pub struct OutputPort {
    /// Its transmit queues, by queue pair.
    pub queues: Vec<SharedTx>,
    /// The worker that drains handovers for it; of an uplink, that of its first queue pair.
    pub home: usize,
    /// Whether it leads to the underlay: each worker then sends by a queue pair of its own, as far as there are enough.
    pub uplink: bool,
    /// Largest network-layer packet it is given uncut, in bytes.
    pub mtu: u16,
    /// This worker's counters of it.
    pub counters: Arc<PortCounters>,
    /// By flow hash: the queue pair its guest last sent that flow on (virtio 1.2 section 5.1.6.5.6.1, automatic receive steering).
    /// Shared by all workers; a stale or torn choice costs a reordering at most.
    pub steering: Option<Arc<[AtomicU8]>>,
}

impl OutputPort {
    /// An output of the given queues, steered only if there is more than one.
    pub fn new(
        queues: Vec<SharedTx>,
        home: usize,
        mtu: u16,
        counters: Arc<PortCounters>,
        steering: &Arc<[AtomicU8]>,
    ) -> Self {
        let steering = (queues.len() > 1).then(|| steering.clone());
        Self { queues, home, uplink: false, mtu, counters, steering }
    }

    /// A steering table in which every flow goes to the first queue pair.
    pub fn steering_table() -> Arc<[AtomicU8]> {
        (0..STEERING).map(|_| AtomicU8::new(0)).collect()
    }

    /// The queue pair on which the first of `packets` is to be received, and which of them are received there.
    #[inline(always)]
    fn first_pair(&self, batch: &Batch<'_, '_>, packets: u32, worker: usize) -> (usize, u32) {
        match &self.steering {
            None if self.uplink => (worker % self.queues.len().max(1), packets),
            None => (0, packets),
            Some(steering) => self.steered(steering, batch, packets),
        }
    }

    #[inline(never)]
    fn steered(&self, steering: &[AtomicU8], batch: &Batch<'_, '_>, packets: u32) -> (usize, u32) {
        let pair = |index| {
            let slot = steering.get(flow_hash(batch, index) % STEERING);
            slot.map_or(0, |slot| usize::from(slot.load(Relaxed))) % self.queues.len().max(1)
        };
        let mut indices = Indices(packets);
        let Some(first) = indices.next() else { return (0, packets) };
        let chosen = pair(first);
        let there = indices.filter(|index| pair(*index) == chosen);
        (chosen, there.fold(1 << first, |bits, index| bits | 1 << index))
    }

    /// The worker that drains handovers for queue pair `pair`.
    #[inline(always)]
    pub(crate) fn home_of(&self, pair: usize) -> usize {
        if self.uplink { pair } else { self.home }
    }

    /// Takes away what is longer than its MTU, given the length of the longest; how many.
    #[inline(always)]
    fn fit(&self, frames: &mut ArrayVec<Frame<'_, '_>, BURST_PACKETS>, longest: usize) -> u32 {
        if longest > usize::from(self.mtu) + ETHERNET_HEADER { remove_too_long(frames, self.mtu) } else { 0 }
    }

    /// Remembers that this port's guest sent the packets of `batch` on `pair`.
    #[inline(always)]
    pub(crate) fn steer(&self, batch: &Batch<'_, '_>, pair: u16) {
        let Some(steering) = &self.steering else { return };
        for index in batch.indices() {
            if let Some(slot) = steering.get(flow_hash(batch, index) % STEERING)
                && slot.load(Relaxed) != pair as u8
            {
                slot.store(pair as u8, Relaxed);
            }
        }
    }
}

/// The same number for both directions of a flow: the exclusive or of its addresses and of its ports, mixed.
fn flow_hash(batch: &Batch<'_, '_>, index: usize) -> usize {
    let Some(packet) = batch.burst.packet(index) else { return 0 };
    // The flow is the inner one: of what goes to a tunnel, which has its outer headers by now, as of what came out of one.
    let came = batch.decapsulated >> (index & 31) & 1 != 0;
    let (headers, head) =
        (&batch.metadata[index].headers, if came { packet.head() } else { packet.own_head() });
    let addresses = match (headers.source_ip(head), headers.destination_ip(head)) {
        (Some(IpAddr::V4(source)), Some(IpAddr::V4(destination))) => {
            u64::from(source.to_bits() ^ destination.to_bits())
        }
        (Some(IpAddr::V6(source)), Some(IpAddr::V6(destination))) => {
            let both = source.to_bits() ^ destination.to_bits();
            both as u64 ^ (both >> 64) as u64
        }
        _ => 0,
    };
    let ports = u64::from(headers.source_port ^ headers.destination_port);
    let mixed =
        (addresses ^ ports << 32 ^ u64::from(headers.protocol) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 48) as usize
}

/// What delivery works with besides the batch.
pub(crate) struct Delivery<'w> {
    pub(crate) outputs: &'w [Option<OutputPort>],
    pub(crate) links: &'w mut Links,
    pub(crate) kept: &'w mut Kept,
    pub(crate) pool: &'w Pool,
    pub(crate) worker: usize,
    /// Workers that were asleep when something was handed to them, as bits.
    pub(crate) wake: &'w mut u64,
    pub(crate) unsettled: &'w mut Unsettled,
}

impl Delivery<'_> {
    /// Delivers every packet alive in `batch`.
    #[inline(always)]
    pub(crate) fn run<O: Observer>(
        &mut self,
        batch: &mut Batch<'_, '_>,
        ingress: PortIndex,
        observer: &mut O,
    ) {
        let mut at = 0;
        while let Some(Group { output, packets }) = batch.group(at) {
            at += 1;
            // What goes to a tunnel went to the uplink already.
            let Output::Port(port) = output else { continue };
            let target = self.outputs.get(usize::from(port.0)).and_then(Option::as_ref);
            let mut remaining = packets;
            while remaining != 0 {
                let (pair, packets) = match target {
                    Some(target) => target.first_pair(batch, remaining, self.worker),
                    None => (0, remaining),
                };
                remaining &= !packets;
                let (mut frames, longest) = batch.burst.frames(packets);
                if O::ACTIVE {
                    frames.iter().for_each(|frame| observer.forwarded(ingress, output, frame));
                }
                let form = Form::of(batch, packets, longest, target.is_some_and(|target| target.uplink));
                let too_long = target.map_or(0, |target| target.fit(&mut frames, longest));
                let mut report = match target {
                    Some(target) => self.send(target, port, pair, ingress, &frames, form),
                    None => GroupReport::stopped(frames.len()),
                };
                report.too_large += too_long;
                drop(frames);
                report.count(batch);
            }
        }
    }

    #[inline(always)]
    fn send(
        &mut self,
        target: &OutputPort,
        port: PortIndex,
        pair: usize,
        ingress: PortIndex,
        frames: &[Frame<'_, '_>],
        form: Form,
    ) -> GroupReport {
        let Some(queue) = target.queues.get(pair) else { return GroupReport::stopped(frames.len()) };
        let id = QueueId { port, pair: pair as u16 };
        let home = target.home_of(pair);
        let elsewhere = home != self.worker;
        // What was handed over or kept goes first.
        let behind =
            if elsewhere { !self.links.is_clear(home) } else { !self.kept.is_empty() && self.kept.holds(id) };
        if behind {
            return self.hand_over(target, id, ingress, frames);
        }
        match queue.try_take() {
            Some(mut guard) => match guard.as_deref_mut() {
                Some(queue) => {
                    let report = transmit(queue, &target.counters, frames, form);
                    if !self.unsettled.note_tx(id) {
                        queue.settle();
                    }
                    GroupReport::from(report)
                }
                None => GroupReport::stopped(frames.len()),
            },
            // Another worker's for this burst, or a control thread's for a moment.
            None => self.hand_over(target, id, ingress, frames),
        }
    }

    /// Copies `frames` for the queue's home worker, which may be this one.
    #[cold]
    fn hand_over(
        &mut self,
        target: &OutputPort,
        queue: QueueId,
        ingress: PortIndex,
        frames: &[Frame<'_, '_>],
    ) -> GroupReport {
        let (mut report, mut handed_over) = (GroupReport::default(), 0);
        let home = target.home_of(usize::from(queue.pair));
        for frame in frames {
            let Some(packet) = self.pool.copy(frame) else {
                report.pool_exhausted += 1;
                continue;
            };
            let handover = Handover { output: queue.port, pair: queue.pair, ingress, packet };
            let pushed =
                if home == self.worker { self.kept.push(handover) } else { self.links.push(home, handover) };
            match pushed {
                Ok(()) => handed_over += 1,
                Err(_) => report.handover_full += 1,
            }
        }
        target.counters.handed_over.add(handed_over);
        if self.links.is_asleep(home) {
            *self.wake |= 1u64.wrapping_shl(home as u32);
        }
        report
    }
}

/// Takes away what is longer than the receiver's MTU, or would be once it is cut; how many. (virtio 1.2 section 5.1.4.1: a device must not pass
/// such packets. There is no ICMP between stations of one subnet, as there is none on a wire.)
#[cold]
#[inline(never)]
fn remove_too_long(frames: &mut ArrayVec<Frame<'_, '_>, BURST_PACKETS>, mtu: u16) -> u32 {
    let before = frames.len();
    frames.retain(|frame| {
        // Of a packet in a tunnel the inner headers are repeated, after the outer ones.
        let tunnel = if frame.offload.segment.is_some() { usize::from(frame.offload.tunnel) } else { 0 };
        let inner = frame.strip(tunnel);
        let Ok(headers) = packet::parse(inner.head(), inner.len() as u32) else { return true };
        let end = match frame.offload.segment {
            None => frame.len(),
            Some(segment) => tunnel + usize::from(headers.payload_offset) + usize::from(segment.size),
        };
        let before = if tunnel > 0 { ETHERNET_HEADER } else { usize::from(headers.l3_offset) };
        end.saturating_sub(before) <= usize::from(mtu)
    });
    (before - frames.len()) as u32
}

/// What may have to be done to frames on their way into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing: none asks for an offload.
    Plain,
    /// What the receiver does not do itself.
    Adapted,
    /// Segments from a wire may be joined.
    Coalesced,
}

impl Form {
    /// That of `packets`, the longest of `longest` bytes, of which none goes to the underlay again.
    #[inline(always)]
    fn of(batch: &Batch<'_, '_>, packets: u32, longest: usize, to_uplink: bool) -> Self {
        let from_wire = packets & batch.decapsulated != 0 && !to_uplink;
        if from_wire && longest >= LEAST_JOINED && has_segments(batch, packets) {
            Self::Coalesced
        } else if packets & batch.burst.with_offload() == 0 {
            Self::Plain
        } else {
            Self::Adapted
        }
    }
}

/// Bytes of a segment's data from which on joining it with others may pay.
const LEAST_JOINED: usize = 256;

/// Whether at least two of `packets` are TCP with that much data.
#[inline(never)]
fn has_segments(batch: &Batch<'_, '_>, packets: u32) -> bool {
    let large = |index: &usize| {
        let headers = &batch.metadata[*index].headers;
        headers.l4 == L4::Tcp && headers.payload_length() as usize >= LEAST_JOINED
    };
    Indices(packets).filter(large).nth(1).is_some()
}

/// Sends, flushes and counts at the receiving port.
#[inline(always)]
pub(crate) fn transmit(
    queue: &mut dyn TxQueue,
    counters: &PortCounters,
    frames: &[Frame<'_, '_>],
    form: Form,
) -> TxReport {
    let report = match form {
        Form::Plain => queue.send(frames),
        Form::Adapted => deliver_adapted(queue, frames),
        Form::Coalesced => deliver_coalesced(queue, frames),
    };
    queue.flush();
    counters.tx_packets.add(u64::from(report.sent));
    counters.tx_bytes.add(report.bytes);
    if report.refused > 0 {
        counters.bad_buffers.add(u64::from(report.refused));
    }
    report
}

/// What was lost of one group of packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupReport {
    full: u32,
    too_large: u32,
    stopped: u32,
    handover_full: u32,
    pool_exhausted: u32,
}

impl From<TxReport> for GroupReport {
    #[inline(always)]
    fn from(report: TxReport) -> Self {
        Self { full: report.full, too_large: report.too_large, stopped: report.stopped, ..Self::default() }
    }
}

impl GroupReport {
    fn stopped(count: usize) -> Self {
        Self { stopped: count as u32, ..Self::default() }
    }

    #[inline(always)]
    fn count(&self, batch: &mut Batch<'_, '_>) {
        if self.full | self.too_large | self.stopped | self.handover_full | self.pool_exhausted != 0 {
            batch.lost(DropReason::ReceiverFull, self.full);
            batch.lost(DropReason::TooLarge, self.too_large);
            batch.lost(DropReason::ReceiverStopped, self.stopped);
            batch.lost(DropReason::HandoverFull, self.handover_full);
            batch.lost(DropReason::PoolExhausted, self.pool_exhausted);
        }
    }
}
