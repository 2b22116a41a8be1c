//! A receive queue: buffers kept posted, packets put together from mergeable buffers.

use std::sync::Arc;

use crate::{
    arena::Arena,
    features,
    memory::{MemoryError, SharedMemory},
    net_header::NetHeader,
    queue::{Queue, Segment, Used, UsedError, Virtqueue},
};

/// How receive buffers look.
#[derive(Debug, Clone, Copy)]
pub struct RxConfig {
    /// Buffers, at most the ring's size (divided by `descriptors` without indirect tables).
    pub buffers: u16,
    /// Bytes of one buffer, net header included.
    pub buffer_len: u32,
    /// Descriptors per buffer: 1, or more to offer it as a chain.
    pub descriptors: u16,
    /// Offset of each buffer from a cache line; 52 puts the packet (behind a 12-byte header) at the start of one, as
    /// DPDK's driver does.
    pub offset: u32,
    /// Negotiated features: `MRG_RXBUF` and what fixes the header's length.
    pub features: u64,
}

/// Why receiving failed. The queue is to be reset.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum RxError {
    /// The ring is broken.
    #[error(transparent)]
    Used(#[from] UsedError),
    /// The header promises more buffers than were used.
    #[error("num_buffers says {expected}, {got} were used")]
    Missing {
        /// What the header says (0 is never right with mergeable buffers).
        expected: u16,
        /// Buffers found.
        got: u16,
    },
    /// A first buffer without room for the header.
    #[error("{len} bytes used, the header has {header}")]
    Short {
        /// Bytes the device wrote.
        len: u32,
        /// Length of the header.
        header: usize,
    },
    /// A buffer outside the shared memory, which cannot happen to a queue of this crate.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// One received packet. Its bytes are the guest's until the call that received it returns.
#[derive(Debug)]
pub struct RxFrame<'a> {
    /// The net header.
    pub header: NetHeader,
    /// Guest addresses and lengths of the packet's bytes, without the header, in order.
    pub parts: &'a [(u64, u32)],
    /// Bytes of the packet.
    pub len: u32,
}

/// A queue whose free buffers are posted again and again.
#[derive(Debug)]
pub struct RxQueue {
    queue: Queue,
    memory: Arc<SharedMemory>,
    config: RxConfig,
    base: u64,
    stride: u64,
    header_len: usize,
    mergeable: bool,
    free: Vec<u32>,
    burst: Vec<Used>,
    parts: Vec<(u64, u32)>,
}

/// Packets looked at in one go; their first lines are asked for together.
const BURST: usize = 64;

impl RxQueue {
    /// Takes buffers from `arena`. Nothing is posted before [`RxQueue::refill`].
    ///
    /// # Errors
    ///
    /// [`MemoryError::Exhausted`].
    pub fn new(
        memory: &Arc<SharedMemory>,
        arena: &mut Arena,
        queue: Queue,
        config: RxConfig,
    ) -> Result<Self, MemoryError> {
        let stride = u64::from(config.buffer_len + config.offset).next_multiple_of(64);
        let base =
            arena.allocate(usize::from(config.buffers) * stride as usize, 64)? + u64::from(config.offset);
        Ok(Self {
            queue,
            memory: Arc::clone(memory),
            config,
            base,
            stride,
            header_len: features::net_header_len(config.features),
            mergeable: config.features & features::NET_MRG_RXBUF != 0,
            free: (0..u32::from(config.buffers)).rev().collect(),
            burst: Vec::with_capacity(BURST),
            parts: Vec::with_capacity(64),
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

    #[inline]
    fn address(&self, buffer: u32) -> u64 {
        self.base + u64::from(buffer) * self.stride
    }

    /// Adds up to `limit` free buffers and publishes them; returns how many.
    #[inline]
    pub fn refill(&mut self, limit: usize) -> usize {
        let mut added = 0;
        while added < limit {
            let Some(&buffer) = self.free.last() else { break };
            if !self.post(buffer) {
                break;
            }
            self.free.pop();
            added += 1;
        }
        if added > 0 {
            self.queue.publish();
        }
        added
    }

    #[inline]
    fn post(&mut self, buffer: u32) -> bool {
        let address = self.address(buffer);
        let len = self.config.buffer_len;
        if self.config.descriptors <= 1 {
            return self.queue.add(&[Segment::writable(address, len)], buffer).is_ok();
        }
        let pieces = u32::from(self.config.descriptors);
        let piece = len / pieces;
        let segments: Vec<Segment> = (0..pieces)
            .map(|i| {
                let rest = if i + 1 == pieces { len - i * piece } else { piece };
                Segment::writable(address + u64::from(i * piece), rest)
            })
            .collect();
        self.queue.add(&segments, buffer).is_ok()
    }

    /// Receives up to `limit` buffers' worth of packets, calls `sink` for each in order, and keeps the buffers for the
    /// next [`RxQueue::refill`]. Returns the number of packets.
    ///
    /// # Errors
    ///
    /// [`RxError`]; packets before the fault were delivered.
    #[inline]
    pub fn receive(&mut self, limit: usize, mut sink: impl FnMut(&RxFrame<'_>)) -> Result<usize, RxError> {
        self.burst.clear();
        while self.burst.len() < limit.min(BURST) {
            let Some(used) = self.queue.next_used()? else { break };
            let address = self.address(used.token);
            self.memory.prefetch(address);
            self.memory.prefetch(address + self.header_len as u64);
            self.burst.push(used);
        }
        let mut packets = 0;
        let mut at = 0;
        while let Some(&first) = self.burst.get(at) {
            at += 1 + self.assemble(at, first, &mut sink)?;
            packets += 1;
        }
        Ok(packets)
    }

    /// Delivers the packet that starts with `first`; returns how many further buffers it took.
    #[inline]
    fn assemble(
        &mut self,
        at: usize,
        first: Used,
        sink: &mut impl FnMut(&RxFrame<'_>),
    ) -> Result<usize, RxError> {
        let header_len = self.header_len;
        if (first.len as usize) < header_len {
            return Err(RxError::Short { len: first.len, header: header_len });
        }
        let address = self.address(first.token);
        let header = if header_len >= NetHeader::LEN {
            NetHeader::decode(&self.memory.read_array(address)?)
        } else {
            let mut bytes = [0; NetHeader::LEN];
            self.memory.read(address, bytes.split_at_mut(header_len).0)?;
            NetHeader::decode(&bytes)
        };
        let mut len = first.len - header_len as u32;
        self.parts.clear();
        self.parts.push((address + header_len as u64, len));
        self.free.push(first.token);
        let expected = if self.mergeable { header.num_buffers } else { 1 };
        if expected == 0 {
            return Err(RxError::Missing { expected, got: 1 });
        }
        let more = usize::from(expected) - 1;
        for i in 0..more {
            let next = match self.burst.get(at + 1 + i) {
                Some(&used) => used,
                None => {
                    let used =
                        self.queue.next_used()?.ok_or(RxError::Missing { expected, got: 1 + i as u16 })?;
                    self.burst.push(used);
                    used
                }
            };
            self.parts.push((self.address(next.token), next.len));
            self.free.push(next.token);
            len = len.saturating_add(next.len);
        }
        sink(&RxFrame { header, parts: &self.parts, len });
        Ok(more)
    }
}
