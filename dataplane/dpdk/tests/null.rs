//! `net_null`: takes everything and yields frames of zeroes, as fast as it is asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use buf::{BURST_PACKETS, Burst, Frame, Offload};
use engine::{RxQueue, TxQueue, TxReport};
use support::{eal, measure, name, pool};
use towpath_dpdk::{
    DeviceError, DeviceOptions, DpdkRx, DpdkTx, Eal, EalError, EalOptions, EthDev, Hugepages, Mempool,
    MempoolError,
};

const HUGEPAGES: Hugepages = Hugepages::WhenFree;

fn device(arguments: &str, pool: &Mempool) -> (EthDev, DpdkRx, DpdkTx) {
    let devargs = format!("{}{arguments}", name("net_null"));
    let mut device = EthDev::probe(eal(), &devargs, pool, &DeviceOptions::default()).unwrap();
    let (rx, tx) = device.start().unwrap().remove(0);
    (device, rx, tx)
}

#[test]
fn bursts_are_full_and_their_buffers_come_back() {
    let pool = pool(1023);
    let (device, mut rx, tx) = device(",size=700,copy=1", &pool);
    let before = pool.available();
    for _ in 0..1000 {
        let mut burst = Burst::new();
        let report = rx.poll(&mut burst);
        assert!(report.more, "there is always more");
        assert_eq!((burst.len(), report.refused), (BURST_PACKETS, 0));
        assert!(burst.packets().iter().all(|packet| packet.len() == 700));
        rx.complete();
        assert_eq!(pool.available(), before);
    }
    assert_eq!(device.statistics().unwrap().rx_packets, 32_000);
    drop((rx, tx, device));
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn everything_is_taken_and_counted() {
    let pool = pool(1023);
    let (device, _rx, mut tx) = device("", &pool);
    let bytes = [7u8; 1500];
    for count in [0usize, 1, 31, 32, 33, 64, 100] {
        let frames: Vec<Frame<'_, '_>> =
            (0..count).map(|at| Frame::from_head(&bytes[..60 + at], Offload::NONE)).collect();
        let sent: usize = frames.iter().map(Frame::len).sum();
        let expected = TxReport { sent: count as u32, bytes: sent as u64, ..TxReport::default() };
        assert_eq!(tx.send(&frames), expected);
    }
    assert_eq!(device.statistics().unwrap().tx_packets, 261);
    assert_eq!(pool.available(), pool.capacity());
}

#[test]
fn nothing_is_allocated_per_packet() {
    let pool = pool(1023);
    let (_device, mut rx, mut tx) = device("", &pool);
    let allocations = measure(&mut || {
        for _ in 0..100 {
            let mut burst = Burst::new();
            rx.poll(&mut burst);
            let frames: [Frame<'_, '_>; BURST_PACKETS] = std::array::from_fn(|at| burst.frame(at).unwrap());
            assert_eq!(tx.send(&frames).sent, 32);
            tx.flush();
            rx.complete();
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn what_cannot_be_made_says_what_is_wrong_with_it() {
    let pool = pool(255);
    let probe = |devargs: &str, options: &DeviceOptions| {
        EthDev::probe(eal(), devargs, &pool, options).map(|device| device.name().to_owned())
    };
    let plain = DeviceOptions::default();
    assert!(matches!(
        probe("net_unheard_of0", &plain),
        Err(DeviceError::Failed { operation: "probing it", .. })
    ));
    assert!(matches!(probe("net_null\0", &plain), Err(DeviceError::Devargs { .. })));
    let none = DeviceOptions { queue_pairs: 0, ..plain };
    assert!(matches!(probe(&name("net_null"), &none), Err(DeviceError::QueuePairs { asked: 0, .. })));
    let many = DeviceOptions { queue_pairs: 5000, ..plain };
    let most = EthDev::probe(eal(), &name("net_null"), &pool, &many).unwrap().info().queue_pairs;
    assert!((1..5000).contains(&most), "as many as there are: {most}");
    let tiny = DeviceOptions { mtu: Some(10), ..plain };
    let problem = probe(&name("net_null"), &tiny).unwrap_err();
    assert!(matches!(problem, DeviceError::Mtu { asked: 10, .. }), "{problem}");
    let taken = name("net_null");
    let kept = EthDev::probe(eal(), &taken, &pool, &plain).unwrap();
    assert_eq!(kept.name(), taken);
    assert_eq!(probe(&taken, &plain), Err(DeviceError::Held { device: taken.clone() }));
    assert_ne!(kept.mac().unwrap(), packet::MacAddr([0; 6]));

    drop(kept);
    assert_eq!(probe(&taken, &plain), Ok(taken));

    assert!(matches!(
        Mempool::new(eal(), "twenty-six bytes are too many", 255),
        Err(MempoolError::Name { .. })
    ));
    let twice = name("twice");
    let first = Mempool::new(eal(), &twice, 255).unwrap();
    assert_eq!(Mempool::new(eal(), &twice, 255).unwrap_err(), MempoolError::Name { name: twice.clone() });
    drop(first);
    Mempool::new(eal(), &twice, 255).unwrap();
    assert!(matches!(
        Mempool::new(eal(), "huge", 10_000_000),
        Err(MempoolError::NoMemory { mbufs: 10_000_000, .. })
    ));
}

#[test]
fn the_eal_starts_once_and_leaves_this_thread_where_it_was() {
    let before = rustix::thread::sched_getaffinity(None).unwrap();
    eal();
    eal();
    assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), before);
    let other = EalOptions { memory_mebibytes: 65, ..EalOptions::default() };
    assert_eq!(Eal::init(&other).unwrap_err(), EalError::OtherOptions);
}
