//! The vhost driver under the conformance suite, a guest's driver at the other end: split and packed rings, mergeable and large
//! buffers, indirect tables, event index, in-order.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use buf::{Checksum, Offload, SegmentKind};
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use guest_mem::{GuestMemory, RegionSpec};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use towpath_ports::conformance::{Fixture, Taken};
use towpath_ports::vhost::{NetFeatures, VhostRx, VhostTx};
use virtio_driver::{
    Arena, Gso, NetHeader, Queue, QueueConfig, RingLayout, RxConfig, Segment, SharedMemory, Virtqueue,
    features,
};
use virtqueue::{Ring, RingConfig, RingFeatures};

const RING: u16 = 256;
const HEADER: usize = 12;
/// Frames that the guest can have in flight.
const SLOTS: u32 = 128;
const LONGEST: usize = 65_562;
const SLOT_BYTES: u64 = (HEADER + LONGEST).next_multiple_of(64) as u64;
const OFFLOADS: u64 = features::NET_CSUM
    | features::NET_GUEST_CSUM
    | features::NET_GUEST_TSO4
    | features::NET_GUEST_TSO6
    | features::NET_GUEST_ECN
    | features::NET_HOST_TSO4
    | features::NET_HOST_TSO6
    | features::NET_HOST_ECN
    | features::NET_GUEST_USO4
    | features::NET_GUEST_USO6
    | features::NET_HOST_USO
    | features::VERSION_1;

/// The guest: its memory, what it sends in and what it receives in.
struct Guest {
    memory: Arc<SharedMemory>,
    tx: Queue,
    slots: u64,
    free: Vec<u32>,
    indirect: bool,
    rx: virtio_driver::RxQueue,
    taken: VecDeque<Taken>,
}

impl Guest {
    fn reclaim(&mut self) {
        while let Some(used) = self.tx.next_used().unwrap() {
            self.free.push(used.token);
        }
    }

    /// Whether it was sent, and whether the device wants to hear of it.
    fn send(&mut self, pieces: &[&[u8]], offload: Offload) -> (bool, bool) {
        self.reclaim();
        let Some(slot) = self.free.last().copied() else { return (false, false) };
        let start = self.slots + u64::from(slot) * SLOT_BYTES;
        self.memory.write(start, &header(offload).encode()).unwrap();
        // The header has a descriptor of its own when there are many pieces, else it shares the first's.
        let mut segments = vec![Segment::readable(start, HEADER as u32)];
        let mut at = start + HEADER as u64;
        for piece in pieces {
            self.memory.write(at, piece).unwrap();
            segments.push(Segment::readable(at, piece.len() as u32));
            at += piece.len() as u64;
        }
        if pieces.len() < 3 {
            let first = segments.remove(1);
            segments[0].len += first.len;
        }
        let added =
            if self.indirect { self.tx.add_indirect(&segments, slot) } else { self.tx.add(&segments, slot) };
        if added.is_err() {
            return (false, false);
        }
        self.free.pop();
        self.tx.publish();
        (true, self.tx.needs_kick())
    }

    fn receive(&mut self) {
        let (memory, taken) = (&self.memory, &mut self.taken);
        let mut sink = |frame: &virtio_driver::RxFrame<'_>| {
            let parts = frame.parts.iter().map(|(at, len)| memory.read_vec(*at, *len as usize).unwrap());
            taken.push_back(Taken {
                bytes: parts.collect::<Vec<_>>().concat(),
                offload: offload(&frame.header),
            });
        };
        while self.rx.receive(usize::from(RING), &mut sink).unwrap() > 0 {}
        self.rx.refill(usize::from(RING));
    }
}

fn header(offload: Offload) -> NetHeader {
    let mut header = NetHeader::default();
    if let Checksum::Partial { start, offset } = offload.checksum {
        (header.needs_csum, header.csum_start, header.csum_offset) = (true, start, offset);
    }
    if let Some(segment) = offload.segment {
        header.gso = match segment.kind {
            SegmentKind::TcpV4 => Gso::TcpV4,
            SegmentKind::TcpV6 => Gso::TcpV6,
            SegmentKind::Udp => Gso::UdpL4,
        };
        (header.ecn, header.gso_size) = (segment.ecn, segment.size);
    }
    header
}

fn offload(header: &NetHeader) -> Offload {
    let checksum = match (header.needs_csum, header.data_valid) {
        (true, _) => Checksum::Partial { start: header.csum_start, offset: header.csum_offset },
        (false, true) => Checksum::Valid,
        (false, false) => Checksum::Unverified,
    };
    let kind = match header.gso {
        Gso::TcpV4 => Some(SegmentKind::TcpV4),
        Gso::TcpV6 => Some(SegmentKind::TcpV6),
        Gso::UdpL4 => Some(SegmentKind::Udp),
        _ => None,
    };
    Offload {
        checksum,
        segment: kind.map(|kind| buf::Segment { kind, ecn: header.ecn, size: header.gso_size }),
        tunnel: 0,
    }
}

struct Port {
    rx: VhostRx,
    tx: VhostTx,
    guest: Arc<Mutex<Guest>>,
    features: NetFeatures,
    kicked: bool,
}

/// A guest that negotiated the offloads and `more`, and the port it is attached to.
fn attach(layout: RingLayout, more: u64) -> Port {
    let packed = if layout == RingLayout::Packed { features::RING_PACKED } else { 0 };
    let bits = OFFLOADS | packed | more;
    let mergeable = bits & features::NET_MRG_RXBUF != 0;
    let memory = SharedMemory::new(32 << 20, Default::default()).unwrap().into_shared();
    let mut arena = Arena::new(&memory);
    let indirect = bits & features::INDIRECT_DESC != 0;
    let entries = if indirect { 64 } else { 0 };
    let config = QueueConfig { size: RING, layout, features: bits, indirect_entries: entries };
    let tx = Queue::new(&memory, &mut arena, &config).unwrap();
    let slots = arena.allocate(SLOTS as usize * SLOT_BYTES as usize, 64).unwrap();
    let rx = Queue::new(&memory, &mut arena, &QueueConfig { indirect_entries: 0, ..config }).unwrap();
    let buffer = RxConfig { buffers: RING, buffer_len: 2048, descriptors: 1, offset: 52, features: bits };
    let large = RxConfig { buffers: 128, buffer_len: (HEADER + LONGEST) as u32, descriptors: 2, ..buffer };
    let device_rx = device_ring(&memory, &tx, bits);
    let device_tx = device_ring(&memory, &rx, bits);
    let buffers = if mergeable { buffer } else { large };
    let mut rx = virtio_driver::RxQueue::new(&memory, &mut arena, rx, buffers).unwrap();
    rx.refill(usize::from(RING));
    let features = NetFeatures::from_bits(bits);
    let notifier = Arc::new(virtqueue::Counter::default());
    let free = (0..SLOTS).collect();
    let guest = Guest { memory, tx, slots, free, indirect, rx, taken: VecDeque::new() };
    Port {
        rx: VhostRx::new(device_rx, features, notifier.clone()),
        tx: VhostTx::new(device_tx, features, notifier),
        guest: Arc::new(Mutex::new(guest)),
        features,
        kicked: false,
    }
}

fn device_ring(memory: &Arc<SharedMemory>, queue: &Queue, bits: u64) -> Ring {
    let region = RegionSpec {
        guest_addr: memory.guest_base(),
        user_addr: memory.user_base(),
        size: memory.len() as u64,
        file_offset: 0,
        file: memory.fd().try_clone_to_owned().unwrap(),
    };
    let mapped = GuestMemory::map(vec![region]).unwrap();
    let user = |address| memory.user_address(address);
    let at = queue.addresses();
    let config = RingConfig {
        size: RING,
        features: RingFeatures::from_bits(bits),
        header_len: HEADER as u8,
        desc_addr: user(at.descriptors),
        driver_addr: user(at.driver),
        device_addr: user(at.device),
        base: queue.resume_base(),
    };
    Ring::new(&config, mapped).unwrap()
}

impl Fixture for Port {
    fn rx(&mut self) -> &mut dyn RxQueue {
        &mut self.rx
    }

    fn tx(&mut self) -> &mut dyn TxQueue {
        &mut self.tx
    }

    fn give(&mut self, pieces: &[&[u8]], offload: Offload) -> bool {
        let (sent, kick) = self.guest.lock().unwrap().send(pieces, offload);
        self.kicked |= kick;
        sent
    }

    fn take(&mut self) -> Option<Taken> {
        let mut guest = self.guest.lock().unwrap();
        if guest.taken.is_empty() {
            guest.receive();
        }
        guest.taken.pop_front()
    }

    fn longest(&self) -> usize {
        LONGEST
    }

    fn depth(&self) -> usize {
        100
    }

    fn free_buffers(&self) -> Box<dyn Fn() -> usize> {
        let guest = self.guest.clone();
        Box::new(move || {
            let mut guest = guest.lock().unwrap();
            guest.reclaim();
            usize::from(guest.tx.free_descriptors()) + usize::from(guest.rx.queue_ref().in_flight())
        })
    }

    fn gives(&self) -> OffloadCapabilities {
        self.features.sends
    }

    fn woken(&mut self) -> Option<bool> {
        Some(std::mem::take(&mut self.kicked))
    }
}

fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).count_total
}

// Buffers are the guest's, so a dropped queue has none to give back; mergeable buffers together have room for any frame.
macro_rules! guests {
    ($($name:ident: $layout:expr, $features:expr;)+) => {
        $(
            mod $name {
                use super::*;

                fn make() -> Port {
                    attach($layout, $features)
                }

                towpath_ports::conformance_tests!(make;
                    all_lengths_arrive_whole,
                    scattered_frames_arrive_whole,
                    offloads_arrive_as_they_were_asked,
                    bursts_of_any_size_keep_their_order,
                    bursts_are_bounded_in_bytes,
                    reports_add_up,
                    a_full_receiver_is_counted,
                    arming_reports_what_is_there_and_what_comes,
                    completing_returns_the_buffers,
                );

                #[test]
                fn nothing_is_allocated_per_packet() {
                    towpath_ports::conformance::nothing_is_allocated_per_packet(make, measure);
                }
            }
        )+
    };
}

guests! {
    split_mergeable: RingLayout::Split, features::NET_MRG_RXBUF;
    packed_mergeable: RingLayout::Packed, features::NET_MRG_RXBUF;
    split_large: RingLayout::Split, 0;
    packed_large: RingLayout::Packed, 0;
    split_indirect_event_index: RingLayout::Split,
        features::NET_MRG_RXBUF | features::INDIRECT_DESC | features::EVENT_IDX;
    packed_indirect_event_index: RingLayout::Packed,
        features::NET_MRG_RXBUF | features::INDIRECT_DESC | features::EVENT_IDX;
    split_in_order: RingLayout::Split, features::NET_MRG_RXBUF | features::IN_ORDER | features::EVENT_IDX;
    packed_in_order: RingLayout::Packed, features::NET_MRG_RXBUF | features::IN_ORDER;
}

#[test]
fn a_frame_longer_than_a_receive_buffer_is_too_large() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        towpath_ports::conformance::too_large_frames_are_counted(|| attach(layout, 0));
    }
}

/// Queues of several guests can be polled into one burst: each offload stays with the packet it came with.
#[test]
fn offloads_stay_with_their_packets_when_queues_share_a_burst() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let mut ports: Vec<Port> = (0..3).map(|_| attach(layout, features::NET_MRG_RXBUF)).collect();
        let asks =
            Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, segment: None, tunnel: 0 };
        let mut expected = Vec::new();
        for (number, port) in ports.iter_mut().enumerate() {
            for at in 0..5u8 {
                let offload = if usize::from(at) % 3 == number { asks } else { Offload::NONE };
                let frame = [number as u8 * 16 + at; 80];
                // One piece, or several behind a header of their own.
                let pieces = [&frame[..20], &frame[20..30], &frame[30..]];
                let pieces = if at == 2 { &pieces[..] } else { &[&frame[..]] };
                assert!(port.give(pieces, offload));
                expected.push((frame.to_vec(), offload));
            }
        }
        let mut burst = buf::Burst::new();
        for port in &mut ports {
            assert_eq!(port.rx.poll(&mut burst), engine::RxReport::default());
        }
        let seen: Vec<_> =
            (0..burst.len()).map(|at| (burst.frame(at).unwrap().to_vec(), burst.offload(at))).collect();
        assert!(
            seen == expected,
            "{layout:?}: {:?}",
            seen.iter().map(|(_, offload)| offload).collect::<Vec<_>>()
        );
    }
}
