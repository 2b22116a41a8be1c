//! A transmit queue: a pool of packet buffers, each with room for the net header in front.

use std::sync::Arc;

use crate::{
    arena::Arena,
    features,
    memory::{MemoryError, SharedMemory},
    net_header::NetHeader,
    queue::{AddError, Queue, Segment, UsedError, Virtqueue},
};

/// How transmit buffers look.
#[derive(Debug, Clone, Copy)]
pub struct TxConfig {
    /// Packet buffers.
    pub buffers: u32,
    /// Longest packet, without the net header.
    pub packet_len: u32,
    /// Longest part one descriptor describes: a longer packet becomes a chain (or an indirect table, if the queue has
    /// them). The header shares the first part.
    pub part_len: u32,
    /// Offset of each buffer from a cache line; 52 puts the packet (behind a 12-byte header) at the start of one.
    pub offset: u32,
    /// Negotiated features: what fixes the header's length, and `INDIRECT_DESC`.
    pub features: u64,
}

/// A packet buffer that is the guest's to fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxSlot {
    /// Guest address of the packet's first byte.
    pub address: u64,
    index: u32,
}

/// A queue with its free packet buffers.
#[derive(Debug)]
pub struct TxQueue {
    queue: Queue,
    memory: Arc<SharedMemory>,
    config: TxConfig,
    base: u64,
    stride: u64,
    header_len: usize,
    free: Vec<u32>,
    segments: Vec<Segment>,
    indirect: bool,
}

impl TxQueue {
    /// Takes buffers from `arena`.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Exhausted`].
    pub fn new(
        memory: &Arc<SharedMemory>,
        arena: &mut Arena,
        queue: Queue,
        config: TxConfig,
    ) -> Result<Self, MemoryError> {
        let header_len = features::net_header_len(config.features);
        let stride = (u64::from(config.packet_len + config.offset) + header_len as u64).next_multiple_of(64);
        let base = arena.allocate(config.buffers as usize * stride as usize, 64)? + u64::from(config.offset);
        Ok(Self {
            queue,
            memory: Arc::clone(memory),
            config,
            base,
            stride,
            header_len,
            free: (0..config.buffers).rev().collect(),
            segments: Vec::with_capacity(64),
            indirect: config.features & features::INDIRECT_DESC != 0,
        })
    }

    /// The queue underneath.
    pub fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The queue underneath, to read.
    #[must_use]
    pub const fn queue_ref(&self) -> &Queue {
        &self.queue
    }

    /// Packets that could be sent now: buffers and, one each, descriptors.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len().min(usize::from(self.queue.free_descriptors()))
    }

    /// Takes sent buffers back, at most `limit`; returns how many.
    ///
    /// # Errors
    ///
    /// [`UsedError`].
    #[inline]
    pub fn reclaim(&mut self, limit: usize) -> Result<usize, UsedError> {
        let mut taken = 0;
        while taken < limit {
            let Some(used) = self.queue.next_used()? else { break };
            self.free.push(used.token);
            taken += 1;
        }
        Ok(taken)
    }

    /// The buffer the next [`TxQueue::send`] will use; `None` when all are in flight.
    #[inline]
    #[must_use]
    pub fn slot(&self) -> Option<TxSlot> {
        self.ahead(0)
    }

    /// The buffer of the `n`th send from now, to be prefetched.
    #[inline]
    #[must_use]
    pub fn ahead(&self, n: usize) -> Option<TxSlot> {
        let at = self.free.len().checked_sub(n + 1)?;
        let &index = self.free.get(at)?;
        let address = self.base + u64::from(index) * self.stride + self.header_len as u64;
        Some(TxSlot { address, index })
    }

    /// Adds the packet of `len` bytes that was written to [`TxQueue::slot`]. Nothing is visible before
    /// [`Virtqueue::publish`].
    ///
    /// # Errors
    ///
    /// [`AddError`]; the slot stays free.
    #[inline]
    pub fn send(&mut self, header: &NetHeader, len: u32) -> Result<(), AddError> {
        let Some(slot) = self.slot() else { return Err(AddError::Full { wanted: 1, free: 0 }) };
        let start = slot.address - self.header_len as u64;
        // The address is one of ours, so the write cannot fail; a longer header's rest is zero from the start.
        let written = match (header.encode(), self.header_len) {
            (bytes, NetHeader::LEN..) => self.memory.write_array(start, &bytes),
            (bytes, short) => self.memory.write(start, bytes.split_at(short).0),
        };
        if written.is_err() {
            return Err(AddError::Empty);
        }
        let total = len + self.header_len as u32;
        if total <= self.config.part_len {
            self.queue.add(&[Segment::readable(start, total)], slot.index)?;
        } else {
            self.send_in_parts(start, total, slot.index)?;
        }
        self.free.pop();
        Ok(())
    }

    fn send_in_parts(&mut self, start: u64, total: u32, token: u32) -> Result<(), AddError> {
        self.segments.clear();
        let mut at = 0;
        while at < total {
            let len = self.config.part_len.min(total - at);
            self.segments.push(Segment::readable(start + u64::from(at), len));
            at += len;
        }
        if self.indirect {
            self.queue.add_indirect(&self.segments, token)
        } else {
            self.queue.add(&self.segments, token)
        }
    }

    /// Copies a whole packet into the next buffer and adds it: what tests and simulated guests want.
    ///
    /// # Errors
    ///
    /// [`AddError::Full`] without a free buffer or descriptor, or when the packet is longer than the buffers.
    pub fn send_bytes(&mut self, header: &NetHeader, packet: &[u8]) -> Result<(), AddError> {
        let full = AddError::Full { wanted: 1, free: 0 };
        let slot = self.slot().filter(|_| packet.len() <= self.config.packet_len as usize).ok_or(full)?;
        self.memory.write(slot.address, packet).map_err(|_| full)?;
        self.send(header, packet.len() as u32)
    }
}
