//! The driver against a model of the device, written from virtio 1.2 sections 2.7 and 2.8, that completes at random.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::{collections::VecDeque, sync::Arc};

use rand::{Rng, SeedableRng, rngs::StdRng};
use towpath_virtio_driver::{
    AddError, Arena, MemoryOptions, NetHeader, NullDevice, Queue, QueueConfig, RingLayout, RxConfig, RxError,
    RxQueue, Segment, SharedMemory, TxConfig, TxQueue, Used, UsedError, Virtqueue, features, raw,
};

/// What a device found: id, descriptors it took, readable bytes, writable segments.
#[derive(Debug, Clone)]
struct Chain {
    id: u16,
    descriptors: u16,
    readable: Vec<u8>,
    writable: Vec<(u64, u32)>,
}

impl Chain {
    fn room(&self) -> u32 {
        self.writable.iter().map(|w| w.1).sum()
    }
}

/// A device without mercy for the ring's memory: it reads what the standard says is there.
struct Device {
    memory: Arc<SharedMemory>,
    config: QueueConfig,
    split: raw::RawSplit,
    packed: raw::RawPacked,
    addresses: towpath_virtio_driver::RingAddresses,
    avail: u16,
    avail_wrap: bool,
    used: u16,
    used_wrap: bool,
}

impl Device {
    fn new(memory: &Arc<SharedMemory>, queue: &Queue, config: QueueConfig) -> Self {
        let addresses = queue.addresses();
        Self {
            memory: Arc::clone(memory),
            config,
            split: raw::RawSplit::new(memory, addresses, config.size),
            packed: raw::RawPacked::new(memory, addresses),
            addresses,
            avail: 0,
            avail_wrap: true,
            used: 0,
            used_wrap: true,
        }
    }

    fn gather(&self, segments: &[(u64, u32, u16)], id: u16, descriptors: u16) -> Chain {
        let mut chain = Chain { id, descriptors, readable: Vec::new(), writable: Vec::new() };
        for &(address, len, flags) in segments {
            if flags & raw::WRITE != 0 {
                chain.writable.push((address, len));
            } else {
                assert!(chain.writable.is_empty(), "readable parts come first (2.7.4.2)");
                chain.readable.extend(self.memory.read_vec(address, len as usize).unwrap());
            }
        }
        chain
    }

    fn table(&self, address: u64, len: u32) -> Vec<(u64, u32, u16)> {
        assert_eq!(len % 16, 0);
        (0..u64::from(len / 16))
            .map(|i| {
                let entry = u128::from_le_bytes(
                    self.memory.read_vec(address + 16 * i, 16).unwrap().try_into().unwrap(),
                );
                let shift = if self.config.layout == RingLayout::Split { 96 } else { 112 };
                (entry as u64, (entry >> 64) as u32, (entry >> shift) as u16)
            })
            .collect()
    }

    fn next_available(&mut self) -> Option<Chain> {
        match self.config.layout {
            RingLayout::Split => self.next_split(),
            RingLayout::Packed => self.next_packed(),
        }
    }

    fn next_split(&mut self) -> Option<Chain> {
        if self.split.available_index().unwrap() == self.avail {
            return None;
        }
        let slot = u64::from(self.avail % self.config.size);
        let head: [u8; 2] =
            self.memory.read_vec(self.addresses.driver + 4 + 2 * slot, 2).unwrap().try_into().unwrap();
        let head = u16::from_le_bytes(head);
        self.avail = self.avail.wrapping_add(1);
        let mut segments = Vec::new();
        let mut index = head;
        loop {
            let d = self.split.descriptor(index).unwrap();
            if d.flags & raw::INDIRECT != 0 {
                return Some(self.gather(&self.table(d.address, d.len), head, 1));
            }
            segments.push((d.address, d.len, d.flags));
            if d.flags & raw::NEXT == 0 {
                break;
            }
            index = d.next;
        }
        Some(self.gather(&segments, head, segments.len() as u16))
    }

    fn next_packed(&mut self) -> Option<Chain> {
        let mut segments = Vec::new();
        let (mut slot, mut wrap) = (self.avail, self.avail_wrap);
        loop {
            let d = self.packed.descriptor(slot).unwrap();
            let available = (d.flags & raw::AVAIL != 0) == wrap && (d.flags & raw::USED != 0) != wrap;
            if segments.is_empty() && !available {
                return None;
            }
            assert!(available, "the rest of a chain is visible before its head");
            segments.push((d.address, d.len, d.flags));
            slot += 1;
            if slot == self.config.size {
                (slot, wrap) = (0, !wrap);
            }
            if d.flags & raw::NEXT == 0 {
                (self.avail, self.avail_wrap) = (slot, wrap);
                if d.flags & raw::INDIRECT != 0 {
                    return Some(self.gather(&self.table(d.address, d.len), d.id, 1));
                }
                return Some(self.gather(&segments, d.id, segments.len() as u16));
            }
        }
    }

    /// Marks the buffers used, all of them by one entry when `batch` (in order only).
    fn complete(&mut self, chains: &[(Chain, u32)], batch: bool) {
        let entries: Vec<_> =
            if batch { chains.last().into_iter().collect() } else { chains.iter().collect() };
        match self.config.layout {
            RingLayout::Split => {
                let mut at = self.used;
                for (chain, len) in entries {
                    let entry = u64::from(chain.id) | u64::from(*len) << 32;
                    let slot = u64::from(at % self.config.size);
                    self.memory.write(self.addresses.device + 4 + 8 * slot, &entry.to_le_bytes()).unwrap();
                    at = at.wrapping_add(1);
                }
                self.used = self.used.wrapping_add(chains.len() as u16);
                self.split.set_used_index(self.used).unwrap();
            }
            RingLayout::Packed => {
                let first = self.used;
                for (i, (chain, _)) in chains.iter().enumerate() {
                    if !batch || i == 0 {
                        let (last, len) = if batch { chains.last().unwrap() } else { &chains[i] };
                        let flags = if self.used_wrap { raw::AVAIL | raw::USED } else { 0 };
                        let slot = if batch { first } else { self.used };
                        let d = raw::PackedDescriptor { address: 0, len: *len, id: last.id, flags };
                        self.packed.set_descriptor(slot, d).unwrap();
                    }
                    self.used += chain.descriptors;
                    if self.used >= self.config.size {
                        self.used -= self.config.size;
                        self.used_wrap = !self.used_wrap;
                    }
                }
            }
        }
    }
}

fn memory() -> Arc<SharedMemory> {
    let options = MemoryOptions { guest_base: 0x10_0000, ..MemoryOptions::default() };
    SharedMemory::new(8 << 20, options).unwrap().into_shared()
}

fn configs() -> Vec<QueueConfig> {
    let mut all = Vec::new();
    for (layout, sizes) in [(RingLayout::Split, [1u16, 16, 256]), (RingLayout::Packed, [1, 21, 256])] {
        for size in sizes {
            for in_order in [0, features::IN_ORDER] {
                for (indirect, entries) in [(0, 0), (features::INDIRECT_DESC, 6)] {
                    let features = features::VERSION_1 | in_order | indirect;
                    all.push(QueueConfig { size, layout, features, indirect_entries: entries });
                }
            }
        }
    }
    all
}

/// Buffers of 1 to 5 segments, in order or not, direct or indirect, one by one or batched: each comes back once, with its
/// token and length, and the device reads what was written. Enough of them to wrap every index.
#[test]
fn every_buffer_comes_back_once_with_what_the_device_said() {
    for config in configs() {
        let mut rng = StdRng::seed_from_u64(u64::from(config.size) ^ config.features);
        let memory = memory();
        let mut arena = Arena::new(&memory);
        let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
        let scratch = arena.allocate(1 << 20, 64).unwrap();
        let mut device = Device::new(&memory, &queue, config);
        let in_order = config.features & features::IN_ORDER != 0;
        let mut expected: VecDeque<(u32, Vec<u8>, u32)> = VecDeque::new();
        let mut held: Vec<(Chain, u32)> = Vec::new();
        let mut said: Vec<(u32, u32)> = Vec::new();
        let mut returned = 0u32;
        let mut token = 0u32;
        while returned < 70_000 {
            for _ in 0..rng.random_range(0..8) {
                let count = rng.random_range(1..=5usize);
                let writable = rng.random_range(0..=count);
                let segments: Vec<Segment> = (0..count)
                    .map(|i| {
                        let address = scratch + 64 * u64::from(token % 512) + 8 * i as u64;
                        if i < count - writable {
                            Segment::readable(address, 8)
                        } else {
                            Segment::writable(address, 8)
                        }
                    })
                    .collect();
                let bytes: Vec<u8> =
                    (0..8 * (count - writable)).map(|i| (token as u8).wrapping_add(i as u8)).collect();
                let added = if config.indirect_entries > 0 && rng.random() {
                    queue.add_indirect(&segments, token)
                } else {
                    queue.add(&segments, token)
                };
                match added {
                    Ok(()) => {
                        memory.write(segments[0].address, &bytes).unwrap();
                        expected.push_back((token, bytes, 8 * writable as u32));
                        token += 1;
                    }
                    Err(AddError::Full { wanted, free }) => assert!(wanted > usize::from(free)),
                    Err(other) => panic!("{other}"),
                }
            }
            if rng.random_bool(0.7) {
                queue.publish();
            }
            while let Some(chain) = device.next_available() {
                let (token, bytes, room) = expected.pop_front().expect("only published buffers are found");
                assert_eq!(chain.readable, bytes);
                assert_eq!(chain.room(), room);
                let len = rng.random_range(0..=room);
                said.push((token, len));
                held.push((chain, len));
            }
            let n = rng.random_range(0..=held.len());
            if n > 0 {
                let batch = in_order && rng.random();
                if !in_order {
                    for i in (1..held.len()).rev() {
                        let j = rng.random_range(0..=i);
                        held.swap(i, j);
                        said.swap(i, j);
                    }
                }
                let mut done: Vec<_> = held.drain(..n).collect();
                if batch {
                    // A skipped buffer counts as filled (2.7.9).
                    for (i, (chain, len)) in done.iter_mut().enumerate().take(n - 1) {
                        *len = chain.room();
                        said[i].1 = chain.room();
                    }
                }
                device.complete(&done, batch);
                for (token, len) in said.drain(..n) {
                    assert_eq!(queue.next_used().unwrap(), Some(Used { token, len }), "{config:?}");
                    returned += 1;
                }
                assert_eq!(queue.next_used().unwrap(), None);
            }
        }
        let unpublished = expected.len();
        assert_eq!(usize::from(queue.in_flight()), held.len() + unpublished);
    }
}

#[test]
fn used_entries_that_were_never_made_available_are_refused() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for features in [features::VERSION_1, features::VERSION_1 | features::IN_ORDER] {
            let config = QueueConfig { size: 8, layout, features, indirect_entries: 0 };
            let memory = memory();
            let mut arena = Arena::new(&memory);
            let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
            let buffer = arena.allocate(64, 64).unwrap();
            queue.add(&[Segment::writable(buffer, 64)], 7).unwrap();
            queue.publish();
            let mut device = Device::new(&memory, &queue, config);
            let mut chain = device.next_available().unwrap();
            let good = chain.id;
            chain.id = 5;
            device.complete(&[(chain.clone(), 0)], false);
            assert_eq!(queue.next_used(), Err(UsedError::NotInFlight { id: 5 }), "{layout:?}");
            if layout == RingLayout::Split {
                chain.id = good;
                device.complete(&[(chain, 0)], false);
                let error = queue.next_used();
                assert!(error.is_err(), "the index passed what is in flight: {error:?}");
            }
        }
    }
}

#[test]
fn a_length_beyond_the_buffer_is_refused() {
    let config = QueueConfig { size: 8, ..QueueConfig::default() };
    let memory = memory();
    let mut arena = Arena::new(&memory);
    let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
    let buffer = arena.allocate(64, 64).unwrap();
    queue.add(&[Segment::writable(buffer, 64)], 7).unwrap();
    queue.publish();
    let mut device = Device::new(&memory, &queue, config);
    let chain = device.next_available().unwrap();
    device.complete(&[(chain, 65)], false);
    assert_eq!(queue.next_used(), Err(UsedError::Length { id: 0, len: 65, writable: 64 }));
}

#[test]
fn kicks_follow_the_devices_wish() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let config = QueueConfig { size: 8, layout, ..QueueConfig::default() };
        let memory = memory();
        let mut arena = Arena::new(&memory);
        let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
        let buffer = arena.allocate(64, 64).unwrap();
        let one = |queue: &mut Queue| {
            queue.add(&[Segment::readable(buffer, 1)], 0).unwrap();
            assert!(!queue.needs_kick(), "nothing is published yet");
            queue.publish();
            let mut kicked = Vec::new();
            let needed = queue.kick_if_needed(3, &mut |q| kicked.push(q));
            assert_eq!(kicked, if needed { vec![3] } else { vec![] });
            assert!(!queue.needs_kick(), "the same publication is not announced twice");
            needed
        };
        assert!(one(&mut queue));
        let device = queue.addresses().device;
        let (address, value): (u64, u16) =
            if layout == RingLayout::Split { (device, 1) } else { (device + 2, 1) };
        memory.write(address, &value.to_le_bytes()).unwrap();
        assert!(!one(&mut queue));
        memory.write(address, &[0, 0]).unwrap();
        assert!(one(&mut queue));
    }
}

#[test]
fn event_index_kicks_once_when_it_is_passed() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let features = features::VERSION_1 | features::EVENT_IDX;
        let config = QueueConfig { size: 8, layout, features, indirect_entries: 0 };
        let memory = memory();
        let mut arena = Arena::new(&memory);
        let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
        let buffer = arena.allocate(64, 64).unwrap();
        let mut device = Device::new(&memory, &queue, config);
        let area = queue.addresses().device;
        let mut kicks = Vec::new();
        for round in 0..40u16 {
            // The device asks for the buffer that is 3 further whenever it was kicked.
            if round == 0 || kicks.last() == Some(&(round - 1)) {
                let at = round + 2;
                match layout {
                    RingLayout::Split => memory.write(area + 4 + 8 * 8, &at.to_le_bytes()).unwrap(),
                    RingLayout::Packed => {
                        let wrap = if (at / 8) % 2 == 0 { 1u16 << 15 } else { 0 };
                        memory.write(area, &((at % 8) | wrap).to_le_bytes()).unwrap();
                        memory.write(area + 2, &2u16.to_le_bytes()).unwrap();
                    }
                }
            }
            queue.add(&[Segment::readable(buffer, 1)], 0).unwrap();
            queue.publish();
            if queue.needs_kick() {
                kicks.push(round);
            }
            let chain = device.next_available().unwrap();
            device.complete(&[(chain, 0)], false);
            queue.next_used().unwrap().unwrap();
        }
        assert_eq!(kicks, (0..13).map(|i| 3 * i + 2).collect::<Vec<u16>>(), "{layout:?}");
    }
}

#[test]
fn asking_for_an_interrupt_sees_what_is_used_already() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for extra in [0, features::EVENT_IDX] {
            let config =
                QueueConfig { size: 8, layout, features: features::VERSION_1 | extra, indirect_entries: 0 };
            let memory = memory();
            let mut arena = Arena::new(&memory);
            let mut queue = Queue::new(&memory, &mut arena, &config).unwrap();
            let buffer = arena.allocate(64, 64).unwrap();
            let mut device = Device::new(&memory, &queue, config);
            queue.suppress_interrupts();
            assert!(!queue.request_interrupt(1));
            queue.add(&[Segment::writable(buffer, 64)], 9).unwrap();
            queue.publish();
            assert!(!queue.request_interrupt(1));
            let chain = device.next_available().unwrap();
            device.complete(&[(chain, 12)], false);
            assert!(queue.request_interrupt(1));
            assert_eq!(queue.next_used().unwrap(), Some(Used { token: 9, len: 12 }));
        }
    }
}

fn net_pair(layout: RingLayout, extra: u64) -> (Arc<SharedMemory>, TxQueue, Device, RxQueue, Device) {
    let features = features::VERSION_1 | features::NET_MRG_RXBUF | extra;
    let entries = if extra & features::INDIRECT_DESC != 0 { 40 } else { 0 };
    let config = QueueConfig { size: 64, layout, features, indirect_entries: entries };
    let memory = memory();
    let mut arena = Arena::new(&memory);
    let tx = Queue::new(&memory, &mut arena, &config).unwrap();
    let rx = Queue::new(&memory, &mut arena, &config).unwrap();
    let (tx_device, rx_device) = (Device::new(&memory, &tx, config), Device::new(&memory, &rx, config));
    let tx_config = TxConfig { buffers: 16, packet_len: 65536, part_len: 4096, offset: 52, features };
    let rx_config = RxConfig { buffers: 64, buffer_len: 1536, descriptors: 1, offset: 52, features };
    let tx = TxQueue::new(&memory, &mut arena, tx, tx_config).unwrap();
    let rx = RxQueue::new(&memory, &mut arena, rx, rx_config).unwrap();
    (memory, tx, tx_device, rx, rx_device)
}

/// Moves one packet from the transmit to the receive ring as a switch does, over as many buffers as it needs.
fn forward(memory: &SharedMemory, tx: &mut Device, rx: &mut Device) -> bool {
    let Some(chain) = tx.next_available() else { return false };
    let mut bytes = chain.readable.clone();
    tx.complete(&[(chain, 0)], false);
    let mut used = Vec::new();
    let mut left = bytes.len();
    while left > 0 {
        let chain = rx.next_available().expect("enough buffers are posted");
        let len = left.min(chain.room() as usize);
        left -= len;
        used.push((chain, len as u32));
    }
    bytes[10..12].copy_from_slice(&(used.len() as u16).to_le_bytes());
    let mut rest = &bytes[..];
    for (chain, len) in &used {
        let mut piece = *len as usize;
        for &(address, room) in &chain.writable {
            let n = piece.min(room as usize);
            memory.write(address, &rest[..n]).unwrap();
            rest = &rest[n..];
            piece -= n;
        }
    }
    rx.complete(&used, false);
    true
}

#[test]
fn packets_of_every_size_cross_mergeable_buffers() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for extra in [0, features::INDIRECT_DESC, features::IN_ORDER] {
            let (memory, mut tx, mut tx_device, mut rx, mut rx_device) = net_pair(layout, extra);
            rx.refill(64);
            for round in 0..300u32 {
                let len = [60, 1514, 1524, 1525, 9000, 65535][round as usize % 6];
                let header =
                    NetHeader { needs_csum: true, csum_start: 34, csum_offset: 16, ..NetHeader::default() };
                let packet: Vec<u8> = (0..len).map(|i: u32| (i + round) as u8).collect();
                tx.send_bytes(&header, &packet).unwrap();
                tx.queue().publish();
                assert!(forward(&memory, &mut tx_device, &mut rx_device));
                assert_eq!(tx.reclaim(16).unwrap(), 1);
                let mut got = Vec::new();
                let packets = rx
                    .receive(64, |frame| {
                        assert!(frame.header.needs_csum);
                        assert_eq!(usize::from(frame.header.num_buffers), frame.parts.len());
                        assert_eq!(frame.len, len);
                        for &(address, len) in frame.parts {
                            got.extend(memory.read_vec(address, len as usize).unwrap());
                        }
                    })
                    .unwrap();
                assert_eq!(packets, 1);
                assert!(got == packet, "round {round}: the packet arrived changed");
                rx.refill(64);
            }
        }
    }
}

#[test]
fn a_header_that_promises_missing_buffers_is_an_error() {
    let (memory, mut tx, mut tx_device, mut rx, mut rx_device) = net_pair(RingLayout::Split, 0);
    rx.refill(4);
    tx.send_bytes(&NetHeader::default(), &[0; 60]).unwrap();
    tx.queue().publish();
    forward(&memory, &mut tx_device, &mut rx_device);
    let first = raw::RawSplit::new(&memory, rx.queue_ref().addresses(), 64).descriptor(0).unwrap();
    memory.write(first.address + 10, &2u16.to_le_bytes()).unwrap();
    assert_eq!(rx.receive(64, |_| ()), Err(RxError::Missing { expected: 2, got: 1 }));
}

#[test]
fn the_null_device_returns_what_was_sent_and_fills_what_was_posted() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let (memory, mut tx, _, mut rx, _) = net_pair(layout, 0);
        let features = features::VERSION_1 | features::NET_MRG_RXBUF;
        let config = QueueConfig { size: 64, layout, features, indirect_entries: 0 };
        let mut sink = NullDevice::new(&memory, tx.queue_ref().addresses(), &config).unwrap();
        let mut source = NullDevice::new(&memory, rx.queue_ref().addresses(), &config).unwrap();
        rx.refill(64);
        let mut lengths = [0; 32];
        for round in 0..1000usize {
            let burst = round % 17;
            for i in 0..burst {
                tx.send_bytes(&NetHeader::default(), &vec![0; 60 + i]).unwrap();
            }
            tx.queue().publish();
            assert!(!tx.queue().needs_kick(), "a polling device wants no kicks");
            assert_eq!(sink.take(&mut lengths), burst);
            assert_eq!(source.fill(&lengths[..burst]), burst);
            assert_eq!(tx.reclaim(64).unwrap(), burst);
            let mut got = Vec::new();
            assert_eq!(rx.receive(64, |frame| got.push(frame.len)).unwrap(), burst);
            assert_eq!(got, (0..burst as u32).map(|i| 60 + i).collect::<Vec<_>>());
            rx.refill(64);
        }
    }
}
