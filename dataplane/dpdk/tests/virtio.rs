//! `net_vhost` and `net_virtio_user` in one process: devices of others with checksum and segmentation offloads, under the conformance
//! suite. Needs no root and no NIC.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/joined.rs"]
mod joined;
mod support;

use engine::TxQueue;
use joined::Joined;
use ports::conformance::{Fixture, receive};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use support::{eal, measure, name, pool};
use towpath_dpdk::{DeviceOptions, EthDev, Hugepages, LinkState};

/// A virtio-user device hands its memory to the vhost device, so it must be few files.
const HUGEPAGES: Hugepages = Hugepages::Never;
const DESCRIPTORS: u16 = 256;

/// The pair of this process. It is never closed: DPDK 22.11's vhost library frees a connection twice when it is told to end one that
/// its front end is just leaving.
fn make() -> MutexGuard<'static, Joined> {
    static PAIR: OnceLock<Mutex<Joined>> = OnceLock::new();
    let mut pair = PAIR.get_or_init(|| Mutex::new(join())).lock().unwrap_or_else(PoisonError::into_inner);
    // What a failed test left behind is no other test's.
    while pair.take().is_some() || !receive(&mut pair.near.0).0.is_empty() {}
    pair
}

fn join() -> Joined {
    let pool = pool(2047);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let options = DeviceOptions {
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        mtu: Some(9000),
        ..DeviceOptions::default()
    };
    let backend = format!("{},iface={},tso=1", name("net_vhost"), socket.display());
    let frontend = format!("{},path={},queue_size={DESCRIPTORS}", name("net_virtio_user"), socket.display());
    let mut far = EthDev::probe(eal(), &backend, &pool, &options).unwrap();
    let far_queues = far.start().unwrap().remove(0);
    let mut near = EthDev::probe(eal(), &frontend, &pool, &options).unwrap();
    let near_queues = near.start().unwrap().remove(0);
    let patience = Instant::now() + Duration::from_secs(10);
    while [&near, &far].iter().any(|device| device.link().unwrap() == LinkState::Down) {
        assert!(Instant::now() < patience, "the two never met");
        std::thread::yield_now();
    }
    Joined {
        near: near_queues,
        far: far_queues,
        taken: VecDeque::new(),
        pool,
        // Its driver drops what is shorter than an Ethernet header.
        shortest: 14,
        longest: 9022,
        depth: usize::from(DESCRIPTORS) / 2,
        events: joined::events(&near),
        _devices: [near, far],
    }
}

// Virtio keeps mbufs of frames sent until it needs their descriptors, and fills its receive ring when it starts: the two checks that
// count buffers after every burst are `net_ring`'s.
ports::conformance_tests!(make;
    all_lengths_arrive_whole,
    scattered_frames_arrive_whole,
    offloads_arrive_as_they_were_asked,
    bursts_of_any_size_keep_their_order,
    bursts_are_bounded_in_bytes,
    reports_add_up,
    a_full_receiver_is_counted,
    too_large_frames_are_counted,
    arming_reports_what_is_there_and_what_comes,
);

#[test]
fn nothing_is_allocated_per_packet() {
    ports::conformance::nothing_is_allocated_per_packet(make, measure);
}

#[test]
fn both_ends_have_checksums_and_virtio_cuts_tcp() {
    let joined = make();
    let (near, far) = (joined.near.1.capabilities(), joined.far.1.capabilities());
    assert!(near.checksum && near.tso4 && near.tso6, "{near:?}");
    assert!(far.checksum, "{far:?}");
    assert!(!near.tunnel && !far.tunnel, "neither looks into tunnels");
}

#[test]
fn virtio_raises_events_and_vhost_none_that_hold() {
    let mut joined = make();
    assert!(joined.woken().is_some(), "its worker may sleep");
    let [near, far] = &joined._devices;
    assert!(near.info().events && near.event_fd(0).is_some() && near.event_fd(1).is_none());
    assert!(far.event_fd(0).is_none(), "its descriptors come and go with the front end");
    assert_eq!((near.info().driver.as_str(), near.info().mtu), ("net_virtio_user", 9000));
}
