//! A guest's virtio-net driver: buffers laid out in many ways, and its own memory watched.
//!
//! Every byte that the device may not write holds a known value and is compared: free and posted receive buffers are poisoned, what lies behind
//! a received packet must still be poison (G-43), transmit buffers must come back as they were sent, and guard pages stay as they are.

use crate::random::Random;
use crate::trace::hash;
use std::sync::Arc;
use virtio_driver::{
    Arena, MemoryOptions, NetHeader, Queue, QueueConfig, RingLayout, Segment, SharedMemory, UsedError,
    Virtqueue, features,
};

/// First guest physical address of a guest's memory.
pub const GUEST_BASE: u64 = 0x4000_0000;
/// What the front end calls it.
pub const USER_BASE: u64 = 0x7f00_0000_0000;
/// Longest frame a guest sends: 64 KiB of payload less headers.
pub const FRAME_MAX: usize = 65_549;
/// Room for a short frame.
const SMALL: usize = 2048;
/// Slots for large frames.
const LARGE_SLOTS: u32 = 3;
/// Bytes of each guard.
const GUARD: usize = 4096;

/// How a driver behaves that does nothing forbidden.
#[derive(Clone, Copy, Debug)]
pub struct NicConfig {
    /// Negotiated feature bits.
    pub features: u64,
    /// Descriptors per ring.
    pub size: u16,
    /// Queue pairs.
    pub pairs: u16,
    /// Polls instead of waiting for interrupts.
    pub polls: bool,
    /// Lays chains out oddly: headers apart, many pieces, empty tables avoided.
    pub odd_layouts: bool,
    /// Bytes of a receive buffer, net header included.
    pub rx_buffer: u32,
    /// Receive buffers per ring.
    pub rx_buffers: u16,
    /// Receive buffers are chains of so many descriptors.
    pub rx_descriptors: u16,
}

impl NicConfig {
    /// Whether a feature was negotiated.
    #[must_use]
    pub fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    /// The layout of the rings.
    #[must_use]
    pub fn layout(&self) -> RingLayout {
        if self.has(features::RING_PACKED) { RingLayout::Packed } else { RingLayout::Split }
    }

    fn ring(&self, with_tables: bool) -> QueueConfig {
        QueueConfig {
            size: self.size,
            layout: self.layout(),
            features: self.features,
            indirect_entries: if with_tables && self.has(features::INDIRECT_DESC) { 40 } else { 0 },
        }
    }

    /// Bytes of shared memory the driver lays out.
    fn memory(&self) -> usize {
        let size = usize::from(self.size);
        let ring = 16 * size + 4096 * 3 + 8 * size + size * 40 * 16;
        let tx = size * SMALL + LARGE_SLOTS as usize * (FRAME_MAX + 4096);
        let rx = usize::from(self.rx_buffers) * (self.rx_buffer as usize + 64);
        (usize::from(self.pairs) * (2 * ring + tx + rx + 4 * GUARD) + 4 * GUARD).next_multiple_of(0x4000)
    }
}

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
    base: u64,
    stride: u64,
    free: Vec<u32>,
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
    header_len: usize,
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

    /// Makes up to `limit` receive buffers available; whether the device wants a kick.
    ///
    /// # Errors
    ///
    /// A buffer that was not available was written to.
    pub fn refill(&mut self, pair: usize, limit: usize) -> Result<bool, NicError> {
        let (length, descriptors) = (self.config.rx_buffer, u32::from(self.config.rx_descriptors.max(1)));
        let rx = &mut self.pairs[pair].rx;
        let mut added = 0;
        while added < limit {
            let Some(&index) = rx.free.last() else { break };
            let address = rx.base + u64::from(index) * rx.stride;
            check_poison(&self.memory, self.secret, address, address, u64::from(length))?;
            let piece = length / descriptors;
            let segments: Vec<Segment> = (0..descriptors)
                .map(|at| {
                    let rest = if at + 1 == descriptors { length - at * piece } else { piece };
                    Segment::writable(address + u64::from(at * piece), rest)
                })
                .collect();
            if rx.queue.add(&segments, index).is_err() {
                break;
            }
            rx.free.pop();
            added += 1;
        }
        if added == 0 {
            return Ok(false);
        }
        rx.queue.publish();
        Ok(rx.queue.needs_kick())
    }

    /// Takes up to `limit` packets.
    ///
    /// # Errors
    ///
    /// [`NicError`].
    pub fn receive(&mut self, pair: usize, limit: usize) -> Result<Vec<Received>, NicError> {
        let mut packets = Vec::new();
        while packets.len() < limit {
            let Some((first, mut bytes)) = self.take_buffer(pair)? else { break };
            if bytes.len() < self.header_len {
                let what = format!("{first} bytes in a buffer, the header has {}", self.header_len);
                return Err(NicError::Packet { pair, what });
            }
            let mut encoded = [0; NetHeader::LEN];
            let known = self.header_len.min(NetHeader::LEN);
            encoded[..known].copy_from_slice(&bytes[..known]);
            let header = NetHeader::decode(&encoded);
            bytes.drain(..self.header_len);
            let buffers = if self.config.has(features::NET_MRG_RXBUF) { header.num_buffers } else { 1 };
            if buffers == 0 {
                return Err(NicError::Packet { pair, what: "num_buffers is 0".to_owned() });
            }
            for missing in (1..buffers).rev() {
                let Some((_, more)) = self.take_buffer(pair)? else {
                    let what = format!("num_buffers is {buffers}, {missing} are missing");
                    return Err(NicError::Packet { pair, what });
                };
                bytes.extend(more);
            }
            packets.push(Received { pair, header, bytes });
        }
        Ok(packets)
    }

    /// One used receive buffer, poisoned again behind us.
    fn take_buffer(&mut self, pair: usize) -> Result<Option<(u32, Vec<u8>)>, NicError> {
        let rx = &mut self.pairs[pair].rx;
        let Some(used) = rx.queue.next_used().map_err(|error| NicError::Ring { pair, error })? else {
            return Ok(None);
        };
        let address = rx.base + u64::from(used.token) * rx.stride;
        let bytes = self.memory.read_vec(address, used.len as usize).unwrap_or_default();
        let end = address + u64::from(self.config.rx_buffer);
        check_poison(&self.memory, self.secret, address, address + u64::from(used.len), end - address)?;
        // Poison is a pattern of words from the start of the buffer.
        let dirty = (used.len as usize).next_multiple_of(8).min(self.config.rx_buffer as usize);
        let _ = self.memory.fill_words(address, dirty, self.secret);
        rx.free.push(used.token);
        rx.returned += 1;
        if let Some(written) = &mut self.written {
            written.push((address, used.len));
            // Where the device said so: the used index, or a packed ring's descriptor (the whole ring is within a page).
            let ring = rx.queue.addresses();
            written.push(if matches!(rx.queue, Queue::Split(_)) {
                (ring.device, 4)
            } else {
                (ring.descriptors, 1)
            });
        }
        Ok(Some((used.len, bytes)))
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

/// Compares the first and last 128 bytes from `from` to the end of the buffer at `start` with poison.
fn check_poison(
    memory: &SharedMemory,
    secret: u64,
    start: u64,
    from: u64,
    length: u64,
) -> Result<(), NicError> {
    const LOOK: u64 = 128;
    let pattern = secret.to_le_bytes();
    let end = start + length;
    // The last bytes of a buffer that is no multiple of eight hold the pattern's low bytes, which is the pattern going on.
    let first = from..end.min(from + LOOK);
    let last = from.max(end.saturating_sub(LOOK))..end;
    for range in [first, last] {
        let bytes = memory.read_vec(range.start, (range.end - range.start) as usize).unwrap_or_default();
        let wrong =
            bytes.iter().zip(range.clone()).find(|(byte, at)| **byte != pattern[((at - start) % 8) as usize]);
        if let Some((_, address)) = wrong {
            return Err(NicError::Written {
                address,
                what: "a receive buffer was written beyond what it was used for",
            });
        }
    }
    Ok(())
}

/// Lengths of the pieces a frame is sent in.
fn pieces_of(config: &NicConfig, header: usize, total: usize, max: usize, random: &mut Random) -> Vec<usize> {
    if !config.odd_layouts {
        let apart = total > header && random.chance(300);
        return if apart { vec![header, total - header] } else { vec![total] };
    }
    let mut pieces = Vec::new();
    let mut left = total;
    // The header itself may be scattered (virtio 1.2 section 2.7.4.1: no assumption about framing).
    while left > 0 && pieces.len() + 1 < max {
        let length = match random.below(4) {
            0 => 1 + random.below(header),
            1 => header,
            2 => 1 + random.below(left),
            _ => left,
        };
        let length = length.min(left);
        pieces.push(length);
        left -= length;
    }
    if left > 0 {
        pieces.push(left);
    }
    pieces
}
