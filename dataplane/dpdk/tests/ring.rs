//! `net_ring`: two devices joined by rings, under the conformance suite, in ordinary memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/joined.rs"]
mod joined;
mod support;

use buf::{Burst, Checksum, Extent, Frame, Offload};
use engine::{RxQueue, TxQueue};
use joined::Joined;
use std::collections::VecDeque;
use support::{eal, measure, name, pool};
use towpath_dpdk::{DeviceError, DeviceOptions, Hugepages, LinkState, register_worker, ring_pair};

const HUGEPAGES: Hugepages = Hugepages::Never;
const SLOTS: u32 = 256;

fn make() -> Joined {
    let pool = pool(2047);
    let options = DeviceOptions { mtu: Some(u16::MAX), ..DeviceOptions::default() };
    let mut devices = ring_pair(eal(), &name("c"), SLOTS, [&pool, &pool], &options).unwrap();
    let mut queues = devices.each_mut().map(|device| device.start().unwrap().remove(0)).into_iter();
    Joined {
        near: queues.next().unwrap(),
        far: queues.next().unwrap(),
        taken: VecDeque::new(),
        pool,
        shortest: 1,
        longest: usize::from(u16::MAX) + 22,
        depth: SLOTS as usize - 1,
        events: joined::events(&devices[0]),
        _devices: devices,
    }
}

ports::conformance_tests!(make, measure);

#[test]
fn a_registered_worker_passes_what_an_unregistered_one_does() {
    let worker = register_worker(eal()).unwrap();
    assert!(register_worker(eal()).is_err(), "one registration per thread");
    ports::conformance::completing_returns_the_buffers(make);
    drop(worker);
    drop(register_worker(eal()).unwrap());
}

#[test]
fn queues_hold_their_device_and_a_device_in_use_is_not_stopped() {
    let pool = pool(1023);
    let [mut near, far] =
        ring_pair(eal(), &name("s"), 64, [&pool, &pool], &DeviceOptions::default()).unwrap();
    let queues = near.start().unwrap();
    assert!(matches!(near.stop(), Err(DeviceError::QueuesInUse { .. })));
    assert!(matches!(near.start(), Err(DeviceError::QueuesInUse { .. })));
    drop(queues);
    near.stop().unwrap();
    near.stop().unwrap();
    let queues = near.start().unwrap();
    assert!(matches!(near.link().unwrap(), LinkState::Up { .. }));
    drop(near);
    drop(far);
    let mut queues = queues;
    let report = ports::conformance::send_short(&mut queues[0].1, &[vec![1; 60]]);
    assert_eq!(report.sent, 1, "the ring outlives the other end");
    drop(queues);
    assert_eq!(pool.available(), pool.capacity());
}

/// RFC 1071 as it reads.
fn naive_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let sum: u64 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn checksums_that_no_device_completes_are_of_the_bytes_sent() {
    let Joined { mut near, mut far, _devices, .. } = make();
    let bytes: Vec<u8> = (0..9000u32).map(|at| ((at * at) >> 3) as u8 | 0x80).collect();
    let (first, second) = bytes.split_at(3001);
    let body = [Extent::from_slice(first), Extent::from_slice(second)];
    let whole = Frame::new(&[], &body, bytes.len(), Offload::NONE);
    // Heads of any length, bytes from any offset, in one mbuf or more.
    for (head_length, start, offset) in [(104usize, 84u16, 16u16), (105, 84, 6), (54, 35, 16), (40, 38, 0)] {
        for (from, length) in
            [(0, 0), (0, 1), (1, 2), (2999, 3), (7, 1448), (2000, 1447), (5, 4095), (0, 9000)]
        {
            let head: Vec<u8> = (0..head_length as u32).map(|at| (at * 7) as u8).collect();
            let checksum = Checksum::Partial { start, offset };
            let frame = whole.segment(&head, from, length, Offload { checksum, ..Offload::NONE });
            assert_eq!(near.1.send(&[frame]).sent, 1);
            let mut burst = Burst::new();
            far.0.poll(&mut burst);
            let got = burst.frame(0).unwrap().to_vec();
            far.0.complete();
            let field = usize::from(start + offset);
            let mut expected = frame.to_vec();
            let sum = !naive_sum(&expected[start.into()..]);
            let sum = if sum == 0 { 0xffff } else { sum };
            expected[field..field + 2].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(got, expected, "head {head_length}, start {start}, {length} bytes from {from}");
        }
    }
    for (start, offset) in [(30, 9), (30, 16), (41, 0), (u16::MAX, u16::MAX)] {
        let checksum = Checksum::Partial { start, offset };
        let frame = whole.segment(&[1; 40], 0, 100, Offload { checksum, ..Offload::NONE });
        let report = near.1.send(&[frame]);
        assert_eq!((report.sent, report.too_large), (0, 1), "the field {start}+{offset} is not in the head");
    }
}

#[test]
fn several_queue_pairs_are_several_wires() {
    let pool = pool(1023);
    let options = DeviceOptions { queue_pairs: 3, ..DeviceOptions::default() };
    let [mut near, mut far] = ring_pair(eal(), &name("m"), 64, [&pool, &pool], &options).unwrap();
    let (mut near_queues, mut far_queues) = (near.start().unwrap(), far.start().unwrap());
    assert_eq!((near_queues.len(), far_queues.len()), (3, 3));
    for (number, (_, tx)) in near_queues.iter_mut().enumerate() {
        assert_eq!(ports::conformance::send_short(tx, &[vec![number as u8; 60]]).sent, 1);
    }
    for (number, (rx, _)) in far_queues.iter_mut().enumerate() {
        let (taken, _) = ports::conformance::receive(rx);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].bytes, [number as u8; 60]);
    }
    let statistics = near.statistics().unwrap();
    assert_eq!((statistics.tx_packets, statistics.rx_packets), (3, 0));
    near.reset_statistics().unwrap();
    assert_eq!(near.statistics().unwrap().tx_packets, 0);
}

#[test]
fn an_exhausted_pool_is_a_full_receiver() {
    let pool = pool(63);
    let options = DeviceOptions { mtu: Some(9000), ..DeviceOptions::default() };
    let [mut near, mut far] = ring_pair(eal(), &name("x"), 1024, [&pool, &pool], &options).unwrap();
    let (mut tx, mut rx) = (near.start().unwrap().remove(0).1, far.start().unwrap().remove(0).0);
    let small: Vec<Vec<u8>> = (0..60).map(|at| vec![at; 60]).collect();
    assert_eq!(ports::conformance::send_short(&mut tx, &small).sent, 60);
    // Three mbufs are left: the large frame needs five, its neighbours one each.
    let mixed = [vec![1; 60], vec![2; 9000], vec![3; 60], vec![4; 60], vec![5; 60]];
    let report = ports::conformance::send_short(&mut tx, &mixed);
    assert_eq!((report.sent, report.full, report.bytes), (3, 2, 180));
    let taken = ports::conformance::receive_all(&mut rx, 63);
    assert_eq!(taken.len(), 63);
    assert!(taken[60..].iter().map(|frame| frame.bytes[0]).eq([1, 3, 4]), "those that fit, in order");
    assert_eq!(pool.available(), 63);
}
