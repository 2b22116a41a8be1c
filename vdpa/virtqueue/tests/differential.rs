//! The same guest memory shown to our rings and to a slow, obvious device: the same chains must be seen, the same refused, and after every round both
//! memories must be equal in every byte.
//!
//! For split rings that device walks and fills chains with the `virtio-queue` crate; for packed rings it is written here from section 2.8 of virtio 1.2.
//! Whether a chain is legal is decided by [`judge`], in the words of the standard, for both.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use buf::{Burst, Extent, Frame, Offload};
use guest_mem::{ANONYMOUS_USER_OFFSET, GuestMemory};
use proptest::prelude::*;
use proptest::sample::Index;
use towpath_virtqueue::{DeviceRing, GiveError, Headers, Ring, RingConfig, RingFeatures, RingLayout};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

const HEADER: usize = 12;
const SIZE: u16 = 16;
/// Two adjoining regions for buffers, and one for the ring and tables.
const REGIONS: [(u64, u64); 3] = [(0, 0x4000), (0x4000, 0x4000), (0x10_0000, 0x2000)];
const DESC: u64 = 0x10_0000;
const DRIVER: u64 = DESC + 0x400;
const DEVICE: u64 = DESC + 0x800;
const TABLES: u64 = DESC + 0x1000;
const TABLE: u64 = 0x80;

/// A descriptor as generated. In a table `next` is used as it is.
#[derive(Debug, Clone, Copy)]
struct D {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// What one round of the guest does: tables are rewritten, then chains offered.
#[derive(Debug, Clone)]
struct Round {
    tables: Vec<(usize, Vec<D>)>,
    /// Split: entries of the descriptor table to overwrite.
    descs: Vec<(Index, D)>,
    /// Split: how many heads become available, and in which order.
    heads: Vec<Index>,
    /// Packed: chains.
    chains: Vec<Vec<D>>,
    /// Give: lengths of the frames.
    frames: Vec<usize>,
}

fn descriptor(write: bool) -> impl Strategy<Value = D> {
    let addr = prop_oneof![
        12 => 0u64..0x7000,
        3 => 0x3f00u64..0x4080,
        1 => 0x7f00u64..0x8100,
        1 => prop_oneof![Just(u64::MAX), Just(0xf_ffff), Just(u64::MAX - 20)],
    ];
    let len = prop_oneof![2 => Just(0u32), 3 => 1u32..16, 8 => 16u32..300, 1 => 300u32..5000];
    let flags = (
        prop::bool::weighted(0.45),
        prop::bool::weighted(if write { 0.95 } else { 0.04 }),
        prop::bool::weighted(0.12),
        prop::bool::weighted(0.02),
    );
    (addr, len, flags, 0u16..20, 0u64..5, prop::bool::weighted(0.85)).prop_map(
        |(addr, len, (more, writable, indirect, reserved), next, table, whole)| {
            let mut flags = 0;
            for (set, bit) in [(more, NEXT), (writable, WRITE), (indirect, INDIRECT), (reserved, 0x100)] {
                flags |= if set { bit } else { 0 };
            }
            if !indirect {
                return D { addr, len, flags, next };
            }
            let len = if whole { (len % 8 + 1) * 16 } else { len };
            let clean = if whole { INDIRECT } else { flags };
            D { addr: TABLES + table * TABLE + u64::from(!whole) * (addr % 16), len, flags: clean, next }
        },
    )
}

fn round(write: bool) -> impl Strategy<Value = Round> {
    let table = prop::collection::vec(descriptor(write), 1..8);
    (
        prop::collection::vec((0usize..5, table), 0..3),
        prop::collection::vec((any::<Index>(), descriptor(write)), 0..12),
        prop::collection::vec(any::<Index>(), 0..16),
        prop::collection::vec(prop::collection::vec(descriptor(write), 1..5), 0..8),
        prop::collection::vec(1usize..600, 0..10),
    )
        .prop_map(|(tables, descs, heads, chains, frames)| Round {
            tables,
            descs,
            heads,
            chains,
            frames,
        })
}

/// The guest: our mapping of its memory, and its copy for the slow device.
struct World {
    layout: RingLayout,
    guest: Arc<GuestMemory>,
    memory: Arc<GuestMemory>,
    copy: GuestMemoryMmap,
    /// Split: heads not in use. Packed: the position, its wrap counter, free positions.
    free: VecDeque<u16>,
    avail: u16,
    at: u16,
    wrap: bool,
    free_descs: u16,
}

impl World {
    fn new(layout: RingLayout) -> Self {
        let memory = GuestMemory::anonymous(&REGIONS).unwrap();
        let guest = GuestMemory::map(memory.specs().unwrap()).unwrap();
        let ranges: Vec<_> =
            REGIONS.iter().map(|&(start, size)| (GuestAddress(start), size as usize)).collect();
        let copy = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let world = Self {
            layout,
            guest,
            memory,
            copy,
            free: (0..SIZE).collect(),
            avail: 0,
            at: 0,
            wrap: true,
            free_descs: SIZE,
        };
        for (start, size) in &REGIONS[..2] {
            let bytes: Vec<u8> = (*start..start + size).map(|at| (at * 13 + (at >> 8)) as u8).collect();
            world.write(*start, &bytes);
        }
        for index in 0..SIZE {
            world.desc(DESC, index, D { addr: u64::from(index) * 0x100, len: 0x100, flags: 0, next: 0 });
        }
        if layout == RingLayout::Packed {
            world.write(DESC, &[0; 16 * SIZE as usize]);
        }
        world
    }

    fn write(&self, addr: u64, bytes: &[u8]) {
        self.guest.write(addr, bytes).unwrap();
        self.copy.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    fn u16(&self, addr: u64, value: u16) {
        self.write(addr, &value.to_le_bytes());
    }

    /// Writes a descriptor in the ring's layout; `next` is the id of a packed one.
    fn desc(&self, table: u64, index: u16, d: D) {
        let (third, fourth) =
            if self.layout == RingLayout::Split { (d.flags, d.next) } else { (d.next, d.flags) };
        let mut bytes = d.addr.to_le_bytes().to_vec();
        bytes.extend(d.len.to_le_bytes());
        bytes.extend(third.to_le_bytes());
        bytes.extend(fourth.to_le_bytes());
        self.write(table + u64::from(index) * 16, &bytes);
    }

    fn play(&mut self, round: &Round) {
        for (table, entries) in &round.tables {
            for (index, d) in (0u16..).zip(entries) {
                self.desc(TABLES + *table as u64 * TABLE, index, *d);
            }
        }
        if self.layout == RingLayout::Split { self.offer_split(round) } else { self.offer_packed(round) }
    }

    fn offer_split(&mut self, round: &Round) {
        for (index, d) in &round.descs {
            self.desc(DESC, index.index(SIZE.into()) as u16, *d);
        }
        for head in &round.heads {
            if self.free.is_empty() {
                break;
            }
            let head = self.free.remove(head.index(self.free.len())).unwrap();
            self.u16(DRIVER + 4 + 2 * u64::from(self.avail % SIZE), head);
            self.avail = self.avail.wrapping_add(1);
        }
        self.u16(DRIVER + 2, self.avail);
    }

    fn offer_packed(&mut self, round: &Round) {
        for chain in &round.chains {
            if chain.len() > usize::from(self.free_descs) {
                return;
            }
            let id = self.free.pop_front().unwrap();
            self.free_descs -= chain.len() as u16;
            for (index, d) in chain.iter().enumerate() {
                let more = if index + 1 < chain.len() { NEXT } else { 0 };
                let flags = (d.flags & !NEXT) | more | if self.wrap { AVAIL } else { USED };
                self.desc(DESC, self.at, D { flags, next: id, ..*d });
                self.at = (self.at + 1) % SIZE;
                self.wrap ^= self.at == 0;
            }
        }
    }

    /// Takes back what the device returned.
    fn returned(&mut self, chains: &[(u16, u16)]) {
        for (id, descs) in chains {
            self.free.push_back(*id);
            self.free_descs += descs;
        }
        if self.layout == RingLayout::Split {
            self.free_descs = SIZE;
        }
    }

    fn compare(&self) {
        for (start, size) in REGIONS {
            let (mut ours, mut theirs) = (vec![0; size as usize], vec![0; size as usize]);
            self.guest.read(start, &mut ours).unwrap();
            self.copy.read_slice(&mut theirs, GuestAddress(start)).unwrap();
            let difference = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
            assert_eq!(difference.map(|at| start + at as u64), None, "first byte that differs");
        }
    }
}

fn mapped(addr: u64, len: u32) -> bool {
    let inside = |addr: u64| REGIONS.iter().any(|&(start, size)| addr >= start && addr - start < size);
    (0..u64::from(len)).all(|at| addr.checked_add(at).is_some_and(inside))
}

fn load(copy: &GuestMemoryMmap, layout: RingLayout, addr: u64) -> D {
    let mut bytes = [0; 16];
    for (at, byte) in (addr..).zip(&mut bytes) {
        *byte = copy.read_obj(GuestAddress(at)).unwrap();
    }
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (flags, next) = if layout == RingLayout::Split { (half(12), half(14)) } else { (half(14), half(12)) };
    let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    D { addr: u64::from_le_bytes(bytes[..8].try_into().unwrap()), len, flags, next }
}

/// The buffers of a legal chain, `None` of an illegal one. `at` is the head or the first position.
fn judge(copy: &GuestMemoryMmap, layout: RingLayout, at: u16, write: bool) -> Option<Vec<(u64, u32)>> {
    let split = layout == RingLayout::Split;
    let mut buffers = Vec::new();
    let mut index = at;
    for step in 1..=SIZE {
        let mut d = load(copy, layout, DESC + u64::from(index) * 16);
        if !split {
            d.flags &= !(AVAIL | USED);
        }
        if d.flags & INDIRECT != 0 {
            if d.flags != INDIRECT
                || d.len == 0
                || !d.len.is_multiple_of(16)
                || !mapped(d.addr, d.len)
                || (step > 1 && !split)
            {
                return None;
            }
            let count = d.len / 16;
            let mut entry = 0;
            for taken in 1.. {
                if entry >= count || taken > count {
                    return None;
                }
                let e = load(copy, layout, d.addr + u64::from(entry) * 16);
                let flags = if split { e.flags } else { e.flags & (WRITE | INDIRECT) };
                buffers.push(legal(D { flags, ..e }, write)?);
                let more = if split { flags & NEXT != 0 } else { entry + 1 < count };
                if !more {
                    break;
                }
                entry = if split { u32::from(e.next) } else { entry + 1 };
            }
        } else {
            buffers.push(legal(d, write)?);
        }
        if d.flags & NEXT == 0 {
            let total: u64 = buffers.iter().map(|(_, len)| u64::from(*len)).sum();
            return (total > HEADER as u64).then_some(buffers);
        }
        index = if split { d.next } else { (index + 1) % SIZE };
        if index >= SIZE {
            return None;
        }
    }
    None
}

fn legal(d: D, write: bool) -> Option<(u64, u32)> {
    let flags = d.flags & !NEXT;
    (flags == if write { WRITE } else { 0 } && mapped(d.addr, d.len)).then_some((d.addr, d.len))
}

/// A chain the slow device has in its hands.
struct Popped {
    /// What is returned, and how many packed positions that covers.
    id: u16,
    descs: u16,
    legal: Option<Vec<(u64, u32)>>,
    chain: Option<virtio_queue::DescriptorChain<Arc<GuestMemoryMmap>>>,
}

/// The slow device.
struct Slow {
    layout: RingLayout,
    write: bool,
    copy: Arc<GuestMemoryMmap>,
    queue: Queue,
    avail: (u16, bool),
    used: (u16, bool),
}

impl Slow {
    fn new(world: &World, write: bool) -> Self {
        let mut queue = Queue::new(SIZE).unwrap();
        queue.try_set_desc_table_address(GuestAddress(DESC)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(DRIVER)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(DEVICE)).unwrap();
        queue.set_ready(true);
        let start = (0, true);
        Self {
            layout: world.layout,
            write,
            copy: Arc::new(world.copy.clone()),
            queue,
            avail: start,
            used: start,
        }
    }

    fn pop(&mut self) -> Option<Popped> {
        if self.layout == RingLayout::Split {
            let chain = self.queue.pop_descriptor_chain(Arc::clone(&self.copy))?;
            let id = chain.head_index();
            let legal = judge(&self.copy, self.layout, id, self.write);
            return Some(Popped { id, descs: 1, legal, chain: Some(chain) });
        }
        let first = load(&self.copy, self.layout, DESC + u64::from(self.avail.0) * 16);
        if first.flags & (AVAIL | USED) != if self.avail.1 { AVAIL } else { USED } {
            return None;
        }
        let legal = judge(&self.copy, self.layout, self.avail.0, self.write);
        let (mut d, mut descs) = (first, 1);
        while d.flags & NEXT != 0 {
            let at = (self.avail.0 + descs) % SIZE;
            d = load(&self.copy, self.layout, DESC + u64::from(at) * 16);
            descs += 1;
        }
        self.avail = step(self.avail, descs);
        Some(Popped { id: d.next, descs, legal, chain: None })
    }

    fn unpop(&mut self, popped: &Popped) {
        if self.layout == RingLayout::Split {
            self.queue.go_to_previous_position();
        } else if self.avail.0 >= popped.descs {
            self.avail.0 -= popped.descs;
        } else {
            self.avail = (self.avail.0 + SIZE - popped.descs, !self.avail.1);
        }
    }

    fn push(&mut self, popped: &Popped, len: u32) {
        if self.layout == RingLayout::Split {
            self.queue.add_used(&*self.copy, popped.id, len).unwrap();
            return;
        }
        let flags = if self.used.1 { AVAIL | USED } else { 0 } | if len > 0 { WRITE } else { 0 };
        let at = DESC + u64::from(self.used.0) * 16;
        self.copy.write_obj(len.to_le(), GuestAddress(at + 8)).unwrap();
        self.copy.write_obj(popped.id.to_le(), GuestAddress(at + 12)).unwrap();
        self.copy.write_obj(flags.to_le(), GuestAddress(at + 14)).unwrap();
        self.used = step(self.used, popped.descs);
    }

    /// The bytes of a legal chain.
    fn read(&self, popped: &Popped) -> Option<Vec<u8>> {
        let buffers = match (&popped.legal, &popped.chain) {
            (None, _) => return None,
            (Some(_), Some(chain)) => chain.clone().readable().map(|d| (d.addr().0, d.len())).collect(),
            (Some(buffers), None) => buffers.clone(),
        };
        let mut bytes = Vec::new();
        for (addr, len) in buffers {
            for at in addr..addr + u64::from(len) {
                bytes.push(self.copy.read_obj(GuestAddress(at)).unwrap());
            }
        }
        Some(bytes)
    }

    /// Fills a chain from the front of `bytes`; how many fitted.
    fn fill(&self, popped: &Popped, bytes: &[u8]) -> usize {
        if let Some(chain) = &popped.chain {
            let mut writer = chain.clone().writer(&self.copy).unwrap();
            let count = bytes.len().min(writer.available_bytes());
            writer.write_all(&bytes[..count]).unwrap();
            return count;
        }
        let mut written = 0;
        for (addr, len) in popped.legal.as_ref().unwrap() {
            for at in *addr..addr + u64::from(*len) {
                if let Some(byte) = bytes.get(written) {
                    self.copy.write_obj(*byte, GuestAddress(at)).unwrap();
                    written += 1;
                }
            }
        }
        written
    }

    /// Gives a frame as the standard says; the chains that went back.
    fn give(&mut self, frame: &[u8], mergeable: bool) -> (Result<(), GiveError>, Vec<(u16, u16)>) {
        let mut bytes = header().to_vec();
        bytes.extend(frame);
        let (mut gathered, mut room, mut returned) = (Vec::<Popped>::new(), 0, Vec::new());
        let result = loop {
            let Some(popped) = self.pop() else { break Err(GiveError::NoBuffers) };
            let capacity = popped
                .legal
                .as_ref()
                .map(|buffers| buffers.iter().map(|(_, len)| *len as usize).sum::<usize>());
            // Without merging, a buffer for less than a plain Ethernet frame goes back empty when such a frame does not fit it.
            let runt = |capacity: &usize| !mergeable && *capacity < bytes.len() && frame.len() <= 1514;
            let Some(capacity) = capacity.filter(|capacity| !runt(capacity)) else {
                gathered.push(popped);
                for bad in gathered.drain(..) {
                    self.push(&bad, 0);
                    returned.push((bad.id, bad.descs));
                }
                room = 0;
                continue;
            };
            room += capacity;
            gathered.push(popped);
            if room >= bytes.len() {
                break Ok(());
            }
            if !mergeable {
                break Err(GiveError::TooSmall);
            }
        };
        if result.is_err() {
            for popped in gathered.iter().rev() {
                self.unpop(popped);
            }
            return (result, returned);
        }
        bytes[10..12].copy_from_slice(&(gathered.len() as u16).to_le_bytes());
        let mut rest = &bytes[..];
        for popped in &gathered {
            let count = self.fill(popped, rest);
            rest = &rest[count..];
            self.push(popped, count as u32);
            returned.push((popped.id, popped.descs));
        }
        assert!(rest.is_empty());
        (Ok(()), returned)
    }
}

fn step((at, wrap): (u16, bool), by: u16) -> (u16, bool) {
    if at + by >= SIZE { (at + by - SIZE, !wrap) } else { (at + by, wrap) }
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[10] = 1;
    header
}

fn ring(world: &World, mergeable: bool) -> Ring {
    let features = RingFeatures { layout: world.layout, indirect: true, mergeable, ..Default::default() };
    let config = RingConfig {
        size: SIZE,
        features,
        header_len: HEADER as u8,
        desc_addr: DESC + ANONYMOUS_USER_OFFSET,
        driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
        device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
        base: if world.layout == RingLayout::Packed { 0x8000 } else { 0 },
    };
    Ring::new(&config, Arc::clone(&world.memory)).unwrap()
}

fn take_like_the_slow_device(layout: RingLayout, rounds: &[Round]) {
    let mut world = World::new(layout);
    let (mut ring, mut slow) = (ring(&world, false), Slow::new(&world, false));
    for round in rounds {
        world.play(round);
        let memory = Arc::clone(&world.memory);
        let (mut burst, mut headers) = (Burst::new(), Headers::new());
        let count = ring.take(&memory, &mut burst, &mut headers).unwrap();
        burst.load_heads();
        let (mut expected, mut returned) = (Vec::new(), Vec::new());
        while let Some(popped) = slow.pop() {
            expected.extend(slow.read(&popped));
            returned.push(popped);
        }
        assert_eq!(count, expected.len());
        for (index, expected) in expected.iter().enumerate() {
            let mut bytes = vec![0; HEADER];
            headers.read(index, &mut bytes);
            bytes.extend(burst.frame(index).unwrap().to_vec());
            assert_eq!(&bytes, expected, "packet {index}");
        }
        assert_eq!(ring.return_taken(), returned.len());
        for popped in &returned {
            slow.push(popped, 0);
        }
        world.returned(&returned.iter().map(|popped| (popped.id, popped.descs)).collect::<Vec<_>>());
        world.compare();
    }
}

fn give_like_the_slow_device(layout: RingLayout, mergeable: bool, rounds: &[Round]) {
    let mut world = World::new(layout);
    let (mut ring, mut slow) = (ring(&world, mergeable), Slow::new(&world, true));
    for (number, round) in rounds.iter().enumerate() {
        world.play(round);
        // Reserving ahead must make no difference.
        ring.reserve(number % 5).unwrap();
        let mut returned = Vec::new();
        for (index, len) in round.frames.iter().enumerate() {
            let bytes: Vec<u8> = (0..*len).map(|at| (at * 11 + index + number) as u8).collect();
            let head = len / 3;
            let body = [Extent::from_slice(&bytes[head..])];
            let frame = Frame::new(&bytes[..head], &body, len - head, Offload::NONE);
            let (expected, back) = slow.give(&bytes, mergeable);
            assert_eq!(ring.give(&header(), &frame), expected, "round {number} frame {index}");
            returned.extend(back);
        }
        assert_eq!(ring.publish(), returned.len());
        world.returned(&returned);
        world.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn split_takes_what_virtio_queue_takes(rounds in prop::collection::vec(round(false), 1..25)) {
        take_like_the_slow_device(RingLayout::Split, &rounds);
    }

    #[test]
    fn packed_takes_what_the_standard_says(rounds in prop::collection::vec(round(false), 1..25)) {
        take_like_the_slow_device(RingLayout::Packed, &rounds);
    }

    #[test]
    fn split_gives_what_virtio_queue_gives(rounds in prop::collection::vec(round(true), 1..25), mergeable: bool) {
        give_like_the_slow_device(RingLayout::Split, mergeable, &rounds);
    }

    #[test]
    fn packed_gives_what_the_standard_says(rounds in prop::collection::vec(round(true), 1..25), mergeable: bool) {
        give_like_the_slow_device(RingLayout::Packed, mergeable, &rounds);
    }
}
