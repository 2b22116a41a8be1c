//! Frames through both rings and back, with the driver's half of `virtio-driver` as the guest.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;

use buf::{Burst, Extent, Frame, Offload};
use guest_mem::{GuestMemory, RegionSpec};
use towpath_virtqueue::{DeviceRing, GiveError, Headers, Ring, RingConfig, RingFeatures};
use virtio_driver::{
    Arena, MemoryOptions, NetHeader, Queue, QueueConfig, RingLayout as DriverLayout, RxConfig, RxQueue,
    SharedMemory, TxConfig, TxQueue, Virtqueue, features,
};

const HEADER: usize = 12;
const SIZE: u16 = 256;

/// A guest's memory, and our mapping of it.
fn memory(bytes: usize) -> (Arc<SharedMemory>, Arc<GuestMemory>) {
    let options =
        MemoryOptions { guest_base: 0x10_0000, user_base: Some(0x7f00_0000_0000), ..Default::default() };
    let guest = SharedMemory::new(bytes, options).unwrap().into_shared();
    let spec = RegionSpec {
        guest_addr: 0x10_0000,
        user_addr: 0x7f00_0000_0000,
        size: bytes as u64,
        file_offset: 0,
        file: guest.fd().try_clone_to_owned().unwrap(),
    };
    (guest, GuestMemory::map(vec![spec]).unwrap())
}

/// The device's half of a driver's queue.
fn device(queue: &Queue, bits: u64, memory: &Arc<GuestMemory>) -> Ring {
    let addresses = queue.addresses();
    let user = |guest_addr: u64| guest_addr - 0x10_0000 + 0x7f00_0000_0000;
    let features = RingFeatures::from_bits(bits);
    let config = RingConfig {
        size: queue.size(),
        features,
        header_len: HEADER as u8,
        desc_addr: user(addresses.descriptors),
        driver_addr: user(addresses.driver),
        device_addr: user(addresses.device),
        base: queue.resume_base(),
    };
    Ring::new(&config, Arc::clone(memory)).unwrap()
}

fn layouts() -> impl Iterator<Item = (DriverLayout, u64)> {
    let extra = [0, features::IN_ORDER, features::EVENT_IDX, features::INDIRECT_DESC];
    let both = [(DriverLayout::Split, 0), (DriverLayout::Packed, features::RING_PACKED)];
    both.into_iter().flat_map(move |(layout, bit)| {
        extra.map(|more| (layout, features::VERSION_1 | features::NET_MRG_RXBUF | bit | more))
    })
}

fn frame(index: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (index * 31 + at * 7) as u8).collect()
}

#[test]
fn transmitted_frames_arrive_whole_and_are_returned() {
    for (layout, bits) in layouts() {
        for part_len in [2048, 100, 13, 5] {
            let (guest, memory) = memory(4 << 20);
            let mut arena = Arena::new(&guest);
            let config = QueueConfig { size: SIZE, layout, features: bits, indirect_entries: 128 };
            let queue = Queue::new(&guest, &mut arena, &config).unwrap();
            let mut ring = device(&queue, bits, &memory);
            let tx = TxConfig { buffers: 64, packet_len: 600, part_len, offset: 52, features: bits };
            let mut driver = TxQueue::new(&guest, &mut arena, queue, tx).unwrap();
            let mut sent = 0;
            let mut seen = 0;
            for round in 0..200 {
                while sent - seen < 1 + round % 40 {
                    let len = if part_len == 5 { 60 } else { 1 + (sent * 37) % 600 };
                    if driver.send_bytes(&NetHeader::default(), &frame(sent, len)).is_err() {
                        break;
                    }
                    sent += 1;
                }
                driver.queue().publish();
                let mut burst = Burst::new();
                let mut headers = Headers::new();
                let count = ring.take(&memory, &mut burst, &mut headers).unwrap();
                burst.load_heads();
                assert_eq!((count, headers.len()), (burst.len(), burst.len()));
                for index in 0..count {
                    let mut header = [0xff; HEADER];
                    assert_eq!(headers.read(index, &mut header), HEADER);
                    assert_eq!(header, [0; HEADER]);
                    let len = if part_len == 5 { 60 } else { 1 + (seen * 37) % 600 };
                    assert_eq!(
                        burst.frame(index).unwrap().to_vec(),
                        frame(seen, len),
                        "{layout:?} {bits:#x} {part_len}"
                    );
                    seen += 1;
                }
                assert_eq!(ring.return_taken(), count);
                assert_eq!(driver.reclaim(1000).unwrap(), count);
            }
            assert!(seen > 2 * usize::from(SIZE), "went round the ring");
            assert_eq!(ring.stats().refused_total(), 0);
        }
    }
}

#[test]
fn given_frames_arrive_whole_over_any_buffers() {
    for (layout, bits) in layouts() {
        for (buffer_len, descriptors) in [(2048, 1), (100, 1), (100, 3), (2048, 5)] {
            let (guest, memory) = memory(4 << 20);
            let mut arena = Arena::new(&guest);
            let config = QueueConfig { size: SIZE, layout, features: bits, indirect_entries: 8 };
            let queue = Queue::new(&guest, &mut arena, &config).unwrap();
            let mut ring = device(&queue, bits, &memory);
            let rx = RxConfig { buffers: 48, buffer_len, descriptors, offset: 52, features: bits };
            let mut driver = RxQueue::new(&guest, &mut arena, queue, rx).unwrap();
            let (mut given, mut seen) = (0, 0);
            for round in 0..300usize {
                driver.refill(100);
                ring.reserve(round % 8).unwrap();
                for _ in 0..round % 7 {
                    let bytes = frame(given, 1 + (given * 53) % 1500);
                    let body = [Extent::from_slice(&bytes[bytes.len().min(20)..])];
                    let head = &bytes[..bytes.len().min(20)];
                    let frame = Frame::new(head, &body, bytes.len() - head.len(), Offload::NONE);
                    let mut header = [0; HEADER];
                    header[10] = 1;
                    match ring.give(&header, &frame) {
                        Ok(()) => given += 1,
                        Err(error) => assert_eq!(error, GiveError::NoBuffers),
                    }
                }
                ring.publish();
                driver
                    .receive(1000, |received| {
                        let expected = frame(seen, 1 + (seen * 53) % 1500);
                        let mut bytes = Vec::new();
                        for &(address, len) in received.parts {
                            bytes.extend(guest.read_vec(address, len as usize).unwrap());
                        }
                        assert_eq!(bytes, expected, "{layout:?} {bits:#x} {buffer_len}/{descriptors}");
                        seen += 1;
                    })
                    .unwrap();
                assert_eq!(seen, given);
            }
            assert!(given > 500);
            assert_eq!(ring.stats().refused_total(), 0);
        }
    }
}
