//! A guest's virtio-net driver: buffers laid out in many ways, and its own memory watched.
//!
//! Every byte that the device may not write holds a known value and is compared: free and posted receive buffers are poisoned, what lies behind
//! a received packet must still be poison (G-43), transmit buffers must come back as they were sent, and guard pages stay as they are.

use super::config::{FRAME_MAX, GUARD, LARGE_SLOTS, NicConfig, SMALL, pieces_of};
use crate::random::Random;
use crate::trace::hash;
use std::sync::Arc;
use virtio_driver::{
    Arena, MemoryOptions, NetHeader, Queue, Segment, SharedMemory, UsedError, Virtqueue, features,
};

/// First guest physical address of a guest's memory.
pub const GUEST_BASE: u64 = 0x4000_0000;
/// What the front end calls it.
pub const USER_BASE: u64 = 0x7f00_0000_0000;

/// A device broke a promise to a driver that kept its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NicError {
    /// See [`UsedError`].
    #[error("pair {pair}: {error}")]
    Ring {
        /// Queue pair.
        pair: usize,
        /// What was wrong.
        error: UsedError,
    },
    /// A received packet that cannot be put together.
    #[error("pair {pair}: {what}")]
    Packet {
        /// Queue pair.
        pair: usize,
        /// What was wrong.
        what: String,
    },
    /// A byte was written that no buffer offered.
    #[error("guest address {address:#x}: {what}")]
    Written {
        /// Where.
        address: u64,
        /// What it was.
        what: &'static str,
    },
}

/// A packet as the driver got it.
#[derive(Clone, Debug)]
pub struct Received {
    /// Queue pair.
    pub pair: usize,
    /// The net header.
    pub header: NetHeader,
    /// The frame.
    pub bytes: Vec<u8>,
}

/// A transmit buffer.
#[derive(Clone, Copy, Debug)]
struct Slot {
    address: u64,
    capacity: usize,
    length: usize,
    content: u64,
}

/// A transmit ring and its buffers.
#[derive(Debug)]
pub struct Tx {
    /// The ring.
    pub queue: Queue,
    slots: Vec<Slot>,
    small: Vec<u32>,
    large: Vec<u32>,
    /// Frames made available so far.
    pub sent: u64,
    /// Frames taken back.
    pub returned: u64,
}

/// A receive ring and its buffers.
#[derive(Debug)]
pub struct Rx {
    /// The ring.
    pub queue: Queue,
    pub(super) base: u64,
    pub(super) stride: u64,
    pub(super) free: Vec<u32>,
    /// Buffers taken back so far.
    pub returned: u64,
}

/// Both rings of a queue pair.
#[derive(Debug)]
pub struct Pair {
    /// What the guest sends.
    pub tx: Tx,
    /// What it receives.
    pub rx: Rx,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Nic {
    /// The guest's memory.
    pub memory: Arc<SharedMemory>,
    /// How the driver behaves.
    pub config: NicConfig,
    /// Its queue pairs.
    pub pairs: Vec<Pair>,
    guards: Vec<u64>,
    /// What guards and poisoned buffers hold: nobody else may ever see it.
    pub secret: u64,
    pub(super) header_len: usize,
    /// What the device wrote since the guest is migrated: address and length.
    pub written: Option<Vec<(u64, u32)>>,
}

impl Nic {
    /// Lays out memory and rings. `secret` is the pattern of everything that is nobody else's.
    ///
    /// # Errors
    ///
    /// The kernel gives no memory.
    pub fn new(config: NicConfig, secret: u64) -> anyhow::Result<Self> {
        let options =
            MemoryOptions { guest_base: GUEST_BASE, user_base: Some(USER_BASE), ..MemoryOptions::default() };
        let memory = SharedMemory::new(config.memory(), options)?.into_shared();
        Self::over(memory, config, secret)
    }

    /// The same over memory that exists: a guest that starts again.
    ///
    /// # Errors
    ///
    /// The memory is too small.
    pub fn over(memory: Arc<SharedMemory>, config: NicConfig, secret: u64) -> anyhow::Result<Self> {
        let mut arena = Arena::new(&memory);
        let header_len = features::net_header_len(config.features);
        let mut nic =
            Self { memory, config, pairs: Vec::new(), guards: Vec::new(), secret, header_len, written: None };
        nic.guard(&mut arena)?;
        for _ in 0..config.pairs {
            let tx = nic.make_tx(&mut arena)?;
            nic.guard(&mut arena)?;
            let rx = nic.make_rx(&mut arena)?;
            nic.guard(&mut arena)?;
            nic.pairs.push(Pair { tx, rx });
        }
        Ok(nic)
    }

    fn guard(&mut self, arena: &mut Arena) -> anyhow::Result<()> {
        let at = arena.allocate(GUARD, 64)?;
        self.memory.fill_words(at, GUARD, self.secret)?;
        self.guards.push(at);
        Ok(())
    }

    fn make_tx(&mut self, arena: &mut Arena) -> anyhow::Result<Tx> {
        let queue = Queue::new(&self.memory, arena, &self.config.ring(true))?;
        let mut slots = Vec::new();
        for index in 0..u32::from(self.config.size) + LARGE_SLOTS {
            let large = index >= u32::from(self.config.size);
            let capacity = if large { FRAME_MAX + 64 } else { SMALL };
            let address = arena.allocate(capacity, 64)?;
            slots.push(Slot { address, capacity, length: 0, content: 0 });
        }
        let size = u32::from(self.config.size);
        Ok(Tx {
            queue,
            slots,
            small: (0..size).rev().collect(),
            large: (size..size + LARGE_SLOTS).rev().collect(),
            sent: 0,
            returned: 0,
        })
    }

    fn make_rx(&mut self, arena: &mut Arena) -> anyhow::Result<Rx> {
        let mut queue = Queue::new(&self.memory, arena, &self.config.ring(false))?;
        if self.config.polls {
            queue.suppress_interrupts();
        }
        let stride = u64::from(self.config.rx_buffer).next_multiple_of(64);
        let base = arena.allocate(stride as usize * usize::from(self.config.rx_buffers), 64)?;
        for index in 0..u64::from(self.config.rx_buffers) {
            self.memory.fill_words(base + index * stride, self.config.rx_buffer as usize, self.secret)?;
        }
        let free = (0..u32::from(self.config.rx_buffers)).rev().collect();
        Ok(Rx { queue, base, stride, free, returned: 0 })
    }

    /// Whether a page boundary at this guest address would cut a part of a ring in two.
    #[must_use]
    pub fn is_in_ring(&self, address: u64) -> bool {
        let size = u64::from(self.config.size);
        let queues = self.pairs.iter().flat_map(|pair| [&pair.tx.queue, &pair.rx.queue]);
        queues.map(Virtqueue::addresses).any(|ring| {
            let parts =
                [(ring.descriptors, 16 * size), (ring.driver, 6 + 2 * size), (ring.device, 6 + 8 * size)];
            parts.iter().any(|(start, length)| (start + 1..start + length).contains(&address))
        })
    }

    /// Bytes of the net header.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Frames that can be added to a pair's transmit ring now, at least.
    #[must_use]
    pub fn room(&self, pair: usize) -> usize {
        let tx = &self.pairs[pair].tx;
        tx.small.len().min(usize::from(tx.queue.free_descriptors()) / self.chain_max())
    }

    /// Descriptors of the longest chain.
    fn chain_max(&self) -> usize {
        if self.config.odd_layouts { 12 } else { 2 }
    }

    /// Adds a frame; `false` when there is no room. Visible after [`Nic::publish`].
    pub fn send(&mut self, pair: usize, header: &NetHeader, frame: &[u8], random: &mut Random) -> bool {
        let (header_len, config, chain_max) = (self.header_len, self.config, self.chain_max());
        let memory = Arc::clone(&self.memory);
        let tx = &mut self.pairs[pair].tx;
        let total = header_len + frame.len();
        let large = total > SMALL;
        let Some(index) = (if large { tx.large.last() } else { tx.small.last() }).copied() else {
            return false;
        };
        let slot = &mut tx.slots[index as usize];
        if total > slot.capacity {
            return false;
        }
        let mut bytes = Vec::with_capacity(total);
        let encoded = header.encode();
        bytes.extend(&encoded[..header_len.min(encoded.len())]);
        bytes.resize(header_len, 0);
        bytes.extend(frame);
        if memory.write(slot.address, &bytes).is_err() {
            return false;
        }
        let pieces = pieces_of(&config, header_len, total, chain_max, random);
        let mut at = slot.address;
        let segments: Vec<Segment> = pieces
            .iter()
            .map(|length| {
                let segment = Segment::readable(at, *length as u32);
                at += *length as u64;
                segment
            })
            .collect();
        let indirect = config.has(features::INDIRECT_DESC) && (large || random.chance(500));
        let added = if indirect && segments.len() > 1 {
            tx.queue.add_indirect(&segments, index)
        } else {
            tx.queue.add(&segments, index)
        };
        if added.is_err() {
            return false;
        }
        (slot.length, slot.content) = (total, hash(&bytes));
        if large {
            tx.large.pop();
        } else {
            tx.small.pop();
        }
        tx.sent += 1;
        true
    }

    /// Makes what was added visible; whether the device wants a kick.
    pub fn publish(&mut self, pair: usize) -> bool {
        let queue = &mut self.pairs[pair].tx.queue;
        queue.publish();
        queue.needs_kick()
    }

    /// Takes sent buffers back and compares them; how many.
    ///
    /// # Errors
    ///
    /// [`NicError`].
    pub fn reclaim(&mut self, pair: usize) -> Result<u64, NicError> {
        let mut taken = 0;
        let tx = &mut self.pairs[pair].tx;
        while let Some(used) = tx.queue.next_used().map_err(|error| NicError::Ring { pair, error })? {
            let slot = tx.slots[used.token as usize];
            let bytes = self.memory.read_vec(slot.address, slot.length).unwrap_or_default();
            if hash(&bytes) != slot.content {
                return Err(NicError::Written {
                    address: slot.address,
                    what: "a transmit buffer was changed",
                });
            }
            if used.token < u32::from(self.config.size) {
                tx.small.push(used.token);
            } else {
                tx.large.push(used.token);
            }
            taken += 1;
        }
        tx.returned += taken;
        Ok(taken)
    }

    /// Sleeps until there is something to receive: whether there is already.
    pub fn request_interrupts(&mut self) -> bool {
        if self.config.polls {
            return true;
        }
        let mut ready = false;
        for pair in &mut self.pairs {
            ready |= pair.rx.queue.request_interrupt(1);
        }
        ready
    }

    /// Compares all guards.
    ///
    /// # Errors
    ///
    /// One was written to.
    pub fn check_guards(&self) -> Result<(), NicError> {
        for at in &self.guards {
            let want = self.secret.wrapping_mul(GUARD as u64 / 8);
            if self.memory.sum(*at, GUARD) != Ok(want) {
                return Err(NicError::Written { address: *at, what: "a guard page was changed" });
            }
        }
        Ok(())
    }
}
