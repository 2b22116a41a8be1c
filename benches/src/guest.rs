//! One port of the generator: it sends its own frames and checks its peer's.

use std::sync::Arc;

use hdrhistogram::Histogram;
use virtio_driver::{Kick, NetHeader, RxError, RxQueue, SharedMemory, TxQueue, Virtqueue};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    attach::{AttachError, Attachment, Connection},
    clock::Clock,
    frame::{Endpoint, Payload, Ports, Receiver, SEGMENTS, Sender, Sizes},
    generator::Load,
    segments::Reassembly,
    wire::Wire,
};

/// Rings doorbells by eventfd; the null back end needs none.
pub(crate) struct Doorbells([Option<EventFd>; 2]);

impl Kick for Doorbells {
    fn kick(&mut self, queue: u16) {
        if let Some(Some(bell)) = self.0.get(usize::from(queue)) {
            // A full counter means the bell is ringing already.
            let _ringing = bell.write(1);
        }
    }
}

/// Records latencies of every n-th frame.
pub(crate) struct Latency {
    pub(crate) histogram: Histogram<u64>,
    pub(crate) clock: Clock,
    /// A power of two, minus one.
    pub(crate) mask: u32,
}

/// A port: queues, who it is, what it has sent and received.
pub struct Guest {
    pub(crate) memory: Arc<SharedMemory>,
    pub(crate) tx: TxQueue,
    pub(crate) rx: RxQueue,
    pub(crate) bells: Doorbells,
    pub(crate) me: Endpoint,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// Frames handed to the back end since the start.
    pub(crate) sent: u64,
    /// Receive buffers a frame of the longest size takes.
    pub(crate) buffers_per_frame: usize,
    refill_at: usize,
    posted: usize,
    ring_size: usize,
    connection: Option<Connection>,
    /// Set if this is the wire of the pair.
    wire: Option<Wire>,
    /// Set if large sends arrive in pieces, and whether they leave cut.
    stream: Option<Reassembly>,
    cuts: bool,
}

/// Descriptors of one burst.
pub(crate) const BURST: usize = 32;

impl Guest {
    /// A guest on a back end.
    #[must_use]
    pub fn attached(attachment: Attachment, me: Endpoint, peer: Endpoint) -> Self {
        let Attachment { memory, tx, rx, kicks: [receive, transmit], connection, .. } = attachment;
        let mut guest = Self::new(memory, tx, rx, me, peer);
        guest.bells = Doorbells([Some(receive), Some(transmit)]);
        guest.connection = Some(connection);
        guest
    }

    /// A guest on a null back end; its queues are served by somebody else.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, tx: TxQueue, rx: RxQueue, me: Endpoint, peer: Endpoint) -> Self {
        let ring_size = usize::from(rx.queue_ref().size());
        let posted = usize::from(rx.queue_ref().in_flight());
        Self {
            memory,
            tx,
            rx,
            bells: Doorbells([None, None]),
            me,
            sender: Sender::new(me, peer, &Sizes::default(), 1, Ports::First, 0),
            receiver: Receiver::new(peer, me, 1, Ports::Second, 0, Payload::Whole),
            sent: 0,
            buffers_per_frame: 1,
            refill_at: BURST.min(ring_size / 2).max(1),
            posted,
            ring_size,
            connection: None,
            wire: None,
            stream: None,
            cuts: false,
        }
    }

    /// The same as the wire: a tunnel end point that sends and receives for `me`.
    #[must_use]
    pub fn as_wire(mut self, wire: Wire) -> Self {
        self.wire = Some(wire);
        self.cuts = true;
        self
    }

    /// The same at the other end of a wire: its large sends leave whole, or in segments if it `cuts` them, and arrive in any pieces.
    #[must_use]
    pub fn behind_wire(mut self, cuts: bool) -> Self {
        self.stream = Some(Reassembly::default());
        self.cuts = cuts;
        self
    }

    /// Sets what is sent and expected from now on, from these sequence numbers on.
    pub(crate) fn load(&mut self, peer: Endpoint, load: &Load, odd: bool, (own, expected): (u32, u32)) {
        let (sizes, flows, payload) = (&load.sizes, load.flows, load.payload);
        let tally = self.receiver.tally;
        let [mine, theirs] = [odd, !odd].map(|odd| Ports::of_end(odd, load.answers));
        self.sender = Sender::new(self.me, peer, sizes, flows, mine, own);
        self.receiver = Receiver::new(peer, self.me, flows, theirs, expected, payload);
        self.receiver.tally = tally;
        self.stream = self.stream.map(|_| Reassembly::default());
        let cuts = self.cuts && sizes.tso();
        if cuts {
            self.sender = self.sender.clone().cut();
        }
        if let Some(wire) = &self.wire {
            self.sender.set_outer(|length| wire.outer(length));
        }
        let buffer = if sizes.longest() > 9018 { 4096 } else { 2060 };
        self.buffers_per_frame = match cuts {
            true => SEGMENTS as usize,
            false => (sizes.longest() as usize + 12).div_ceil(buffer),
        };
    }

    /// Asks for the lines that this turn will look at and write, before any of them is waited for.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.rx.queue_ref().prefetch_used(BURST as u16);
        self.tx.queue_ref().prefetch_used(BURST as u16);
        self.rx.queue_ref().prefetch_available(BURST as u16);
        self.tx.queue_ref().prefetch_available(BURST as u16);
    }

    /// Receives a burst, if there is one, and posts buffers again; returns frames received.
    #[inline]
    pub(crate) fn receive(&mut self, latency: &mut Latency) -> Result<usize, RxError> {
        if !self.rx.queue().has_used() {
            return Ok(0);
        }
        let now = cpu::time_stamp();
        let large = self.sender.is_large();
        let Self { rx, receiver, memory, wire, stream, .. } = self;
        let mut failed = None;
        let mut buffers = 0;
        let frames = rx.receive(2 * BURST, |frame| {
            buffers += frame.parts.len();
            let taken = match (&mut *wire, &mut *stream) {
                (Some(wire), _) => wire.take(receiver, memory, frame),
                (None, Some(stream)) if large => stream.take(receiver, memory, frame.parts),
                (None, _) => receiver.take(memory, frame),
            };
            match taken {
                Ok(Some((sequence, stamp))) if sequence & latency.mask == 0 => {
                    let nanoseconds = latency.clock.nanoseconds(now.saturating_sub(stamp));
                    latency.histogram.saturating_record(nanoseconds);
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.posted -= buffers.min(self.posted);
        if self.ring_size - self.posted >= self.refill_at {
            self.posted += self.rx.refill(self.ring_size);
            self.rx.queue().kick_if_needed(0, &mut self.bells);
        }
        if let Some(wire) = &mut self.wire {
            let reply = wire.reply();
            if wire.news() {
                self.sender.set_outer(|length| wire.outer(length));
            }
            if let Some(reply) = reply {
                self.send_reply(&reply)?;
            }
        }
        Ok(frames)
    }

    /// Answers who asked for the wire.
    #[cold]
    fn send_reply(&mut self, reply: &[u8]) -> Result<(), RxError> {
        self.tx.reclaim(usize::MAX)?;
        // Without room the question is asked again.
        if let Some(slot) = self.tx.slot() {
            self.memory.write(slot.address, reply)?;
            if self.tx.send(&NetHeader::default(), reply.len() as u32).is_ok() {
                self.tx.queue().publish();
                self.tx.queue().kick_if_needed(1, &mut self.bells);
            }
        }
        Ok(())
    }

    /// Sends up to `count` frames; `stamp` says when the n-th of them was meant to leave. Returns how many were sent.
    #[inline]
    pub(crate) fn send(&mut self, count: usize, stamp: impl Fn(usize) -> u64) -> Result<usize, RxError> {
        if self.wire.as_ref().is_some_and(|wire| !wire.is_up()) {
            return Ok(0);
        }
        if self.tx.room() < count.max(BURST) {
            self.tx.reclaim(usize::MAX)?;
        }
        let count = count.min(self.tx.room()).min(BURST);
        // The switch has read these lines since: ask for all of them back before writing the first.
        for slot in (0..count).map_while(|ahead| self.tx.ahead(ahead)) {
            self.memory.prefetch_write(slot.address);
            self.memory.prefetch_write(slot.address.wrapping_sub(NetHeader::LEN as u64));
        }
        let mut sent = 0;
        for _ in 0..count {
            let Some(slot) = self.tx.slot() else { break };
            let (header, len) = self.sender.write(&self.memory, slot.address, stamp(sent))?;
            if self.tx.send(&header, len).is_err() {
                // Too few descriptors, of which long frames take several: written again next time.
                self.sender.take_back();
                break;
            }
            sent += 1;
        }
        if sent > 0 {
            self.tx.queue().publish();
            self.tx.queue().kick_if_needed(1, &mut self.bells);
            self.sent += sent as u64;
        }
        Ok(sent)
    }

    /// Frames of ours that may be under way without any being dropped for want of receive buffers.
    pub(crate) fn window(&self) -> usize {
        (self.ring_size.saturating_sub(self.refill_at) / self.buffers_per_frame).max(1)
    }

    /// Frames of ours that `peer` has neither received nor given up.
    #[inline]
    pub(crate) fn under_way(&self, peer: &Self) -> usize {
        self.sender.sequence().wrapping_sub(peer.receiver.expected()) as usize
    }

    /// What `self` still misses of the peer's frames below `sequence` is lost.
    pub(crate) fn give_up(&mut self, sequence: u32) {
        self.receiver.give_up(sequence);
    }

    /// Detaches from the back end, waiting until it has stopped.
    ///
    /// # Errors
    ///
    /// When the back end does not answer.
    pub fn detach(self) -> Result<(), AttachError> {
        self.connection.map_or(Ok(()), Connection::stop)
    }
}
