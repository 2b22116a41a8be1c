//! Cost of parsing, summing and cutting, per packet. `cargo bench -p towpath-packet`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;

use buf::{Segment, SegmentKind};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use towpath_packet::checksum::Sum;
use towpath_packet::segment::Segmenter;
use towpath_packet::{HEAD_LENGTH, parse};

const BURST: usize = 32;

fn frame(ether_type: [u8; 2], l3: &[u8], l4: &[u8], payload: usize) -> Vec<u8> {
    let ethernet = [2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa];
    [&ethernet[..], &ether_type, l3, l4, &vec![0x5a; payload]].concat()
}

fn ipv4(protocol: u8, l4: &[u8], payload: usize) -> Vec<u8> {
    let [high, low] = ((20 + l4.len() + payload) as u16).to_be_bytes();
    let l3 = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11];
    frame([8, 0], &l3, l4, payload)
}

fn ipv6(next: u8, l4: &[u8], payload: usize) -> Vec<u8> {
    let [high, low] = ((l4.len() + payload) as u16).to_be_bytes();
    let l3 = [&[0x60, 0, 0, 0, high, low, next, 64][..], &[0xfd; 32]].concat();
    frame([0x86, 0xdd], &l3, l4, payload)
}

fn udp(payload: usize) -> [u8; 8] {
    let [high, low] = ((8 + payload) as u16).to_be_bytes();
    [4, 0, 8, 0, high, low, 0, 0]
}

const TCP: [u8; 32] = [
    4, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x80, 0x10, 0xff, 0xff, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0,
    2,
];

/// Heads in a burst's layout: each in storage of its own, so that the parser sees other addresses every time.
fn heads(frame: &[u8]) -> Vec<[u8; HEAD_LENGTH]> {
    let mut head = [0; HEAD_LENGTH];
    let length = frame.len().min(HEAD_LENGTH);
    head[..length].copy_from_slice(&frame[..length]);
    vec![head; BURST]
}

fn parsing(criterion: &mut Criterion) {
    let tagged = {
        let plain = ipv4(17, &udp(18), 18);
        [&plain[..12], &[0x81, 0, 0, 5], &plain[12..]].concat()
    };
    let extended = ipv6(60, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(18)].concat(), 18);
    let truncated = ipv4(17, &udp(18)[..7], 0);
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, frame) in [
        ("ipv4-udp", ipv4(17, &udp(18), 18)),
        ("ipv4-tcp", ipv4(6, &TCP, 0)),
        ("ipv6-udp", ipv6(17, &udp(18), 18)),
        ("ipv6-extension", extended),
        ("vlan-ipv4-udp", tagged),
        ("refused", truncated),
    ] {
        let heads = heads(&frame);
        let length = frame.len().min(HEAD_LENGTH);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for head in &heads {
                    let _ = black_box(parse(black_box(&head[..length]), frame.len() as u32));
                }
            });
        });
    }
    group.finish();
}

fn summing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for length in [20, 64, 1448, 65_536] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_with_input(BenchmarkId::from_parameter(length), &bytes, |bencher, bytes| {
            bencher.iter(|| Sum::of(black_box(bytes)));
        });
    }
    group.finish();
}

fn cutting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("segment");
    for (name, frame, kind) in [
        ("tcp4", ipv4(6, &TCP, 64_000), SegmentKind::TcpV4),
        ("tcp6", ipv6(6, &TCP, 64_000), SegmentKind::TcpV6),
        ("udp4", ipv4(17, &udp(64_000), 64_000), SegmentKind::Udp),
    ] {
        let head = &frame[..HEAD_LENGTH];
        let headers = parse(head, frame.len() as u32).unwrap();
        let segment = Segment { kind, ecn: false, size: 1448 };
        let segmenter = Segmenter::new(head, &headers, segment).unwrap();
        group.throughput(Throughput::Elements(segmenter.count() as u64));
        group.bench_function(name, |bencher| {
            let mut out = [0; HEAD_LENGTH];
            bencher.iter(|| {
                let segmenter = Segmenter::new(black_box(head), &headers, segment).unwrap();
                for index in 0..segmenter.count() {
                    let _ = black_box(segmenter.write(index, Some(Sum::from_folded(7)), &mut out));
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, parsing, summing, cutting);
criterion_main!(benches);
