//! What an mbuf costs: bursts of 32 through `net_null` (no device work) and through a ring. `cargo bench -p towpath-dpdk`; with
//! hugepages, or everything is slower.

#![allow(unsafe_code, reason = "one row is DPDK alone")]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark fails by panicking; criterion's macro makes items"
)]

use buf::{BURST_PACKETS, Burst, Frame, Offload};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{RxQueue, TxQueue};
use std::hint::black_box;
use towpath_dpdk::{DeviceOptions, Eal, EalOptions, EthDev, Mempool, register_worker, ring_pair};

fn queues(criterion: &mut Criterion) {
    let eal = Eal::init(&EalOptions::default()).unwrap();
    let pool = Mempool::new(eal, "bench", 16_383).unwrap();
    let _worker = register_worker(eal).unwrap();
    let options = DeviceOptions::default();
    let mut null = EthDev::probe(eal, "net_null0,size=64,no-rx=0", &pool, &options).unwrap();
    let (mut rx, mut tx) = null.start().unwrap().remove(0);
    let mut group = criterion.benchmark_group("dpdk");
    group.throughput(Throughput::Elements(BURST_PACKETS as u64));
    group.bench_function("null_rx_32x64_bare", |bencher| {
        let mut mbufs = [std::ptr::null_mut(); BURST_PACKETS];
        bencher.iter(|| {
            // SAFETY: port 0 is the device above, started, and nobody else polls it meanwhile; what it gave is freed once.
            unsafe {
                let count = dpdk_sys::towpath_eth_rx_burst(0, 0, mbufs.as_mut_ptr(), 32);
                dpdk_sys::rte_pktmbuf_free_bulk(mbufs.as_mut_ptr(), u32::from(count));
            }
        });
    });
    group.bench_function("null_rx_32x64", |bencher| {
        bencher.iter(|| {
            let mut burst = Burst::new();
            rx.poll(&mut burst);
            black_box(burst.packets().iter().map(|packet| u32::from(packet.head()[0])).sum::<u32>());
            rx.complete();
        });
    });
    for bytes in [64usize, 1514] {
        let (head, body) = (vec![1u8; bytes.min(128)], vec![2u8; bytes.saturating_sub(128)]);
        let body = [buf::Extent::from_slice(&body)];
        let frame = Frame::new(&head, &body, bytes - head.len(), Offload::NONE);
        let frames = [frame; BURST_PACKETS];
        group.bench_function(format!("null_tx_32x{bytes}"), |bencher| {
            bencher.iter(|| assert_eq!(tx.send(black_box(&frames)).sent, 32));
        });
        let [mut near, mut far] =
            ring_pair(eal, &format!("b{bytes}"), 256, [&pool, &pool], &options).unwrap();
        let (mut tx, mut rx) = (near.start().unwrap().remove(0).1, far.start().unwrap().remove(0).0);
        group.bench_function(format!("ring_tx_rx_32x{bytes}"), |bencher| {
            bencher.iter(|| {
                assert_eq!(tx.send(black_box(&frames)).sent, 32);
                let mut burst = Burst::new();
                rx.poll(&mut burst);
                assert_eq!(burst.len(), 32);
                rx.complete();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, queues);
criterion_main!(benches);
