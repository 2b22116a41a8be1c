//! Cost of a look-up, per key, in batches of 32 and one by one, and of filling the tables. `cargo bench -p towpath-tables`.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use packet::MacAddr;
use towpath_tables::{Endpoint, EndpointWriter, Location, MacTable, MacWriter, TokenBucket};

const BURST: usize = 32;

/// Keys in an order that no prefetcher guesses.
fn shuffled(count: u64) -> Vec<u64> {
    let mut state = 0x1234_5678_9abc_def1u64;
    (0..4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % count
        })
        .collect()
}

fn key(number: u64) -> u64 {
    MacTable::key(1, MacAddr::from_u64(0x0200_0000_0000 | number))
}

fn macs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mac");
    group.throughput(Throughput::Elements(BURST as u64));
    for count in [2u64, 1_000, 100_000] {
        let mut writer = MacWriter::new([1, 2]);
        (0..count).for_each(|number| {
            writer.insert(key(number), number as u32);
        });
        let mut reader = writer.reader();
        for (name, offset) in [("hit", 0), ("miss", count)] {
            let keys: Vec<u64> = shuffled(count).into_iter().map(|number| key(number + offset)).collect();
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                let mut out = [0; BURST];
                let mut bursts = keys.chunks(BURST).cycle();
                bencher.iter(|| {
                    reader.refresh();
                    let keys = bursts.next().unwrap_or_default();
                    black_box(reader.lookup_batch(black_box(keys), &mut out));
                    black_box(&out);
                });
            });
        }
    }
    group.finish();
}

fn endpoint(number: u64) -> Endpoint {
    let location = Location::Remote((number % 1_000) as u16);
    Endpoint { mac: MacAddr::from_u64(0x0200_0000_0000 | number), subnet: (number % 100) as u16, location }
}

fn ipv4(number: u64) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + number as u32).into())
}

fn ipv6(number: u64) -> IpAddr {
    IpAddr::V6((0xfd10u128 << 112 | u128::from(number)).into())
}

fn endpoints(criterion: &mut Criterion) {
    for (family, address) in [("ipv4", ipv4 as fn(u64) -> IpAddr), ("ipv6", ipv6)] {
        let mut group = criterion.benchmark_group(format!("endpoint-{family}"));
        for count in [1_000u64, 100_000, 1_000_000] {
            let mut writer = EndpointWriter::new([1, 2]);
            (0..count).for_each(|number| {
                writer.insert(1, address(number), endpoint(number));
            });
            let mut reader = writer.reader();
            for (name, offset) in [("hit", 0), ("miss", count)] {
                let keys: Vec<_> = shuffled(count).into_iter().map(|n| (1, address(n + offset))).collect();
                group.throughput(Throughput::Elements(BURST as u64));
                group.bench_function(BenchmarkId::new(format!("batch-{name}"), count), |bencher| {
                    let mut out = [None; BURST];
                    let mut bursts = keys.chunks(BURST).cycle();
                    bencher.iter(|| {
                        reader.refresh();
                        let keys = bursts.next().unwrap_or_default();
                        black_box(reader.lookup_batch(black_box(keys), &mut out));
                        black_box(&out);
                    });
                });
                group.throughput(Throughput::Elements(1));
                group.bench_function(BenchmarkId::new(format!("single-{name}"), count), |bencher| {
                    let mut keys = keys.iter().cycle();
                    bencher.iter(|| {
                        reader.refresh();
                        keys.next().map(|(vpc, address)| black_box(reader.lookup(*vpc, *address)))
                    });
                });
            }
        }
        group.finish();
    }
}

/// A million endpoints, as the control plane brings them: into the endpoint table and the MAC table, until a reader sees the last one.
fn insertion(criterion: &mut Criterion) {
    const COUNT: u64 = 1_000_000;
    let mut group = criterion.benchmark_group("insert");
    group.sample_size(10).throughput(Throughput::Elements(COUNT));
    for reserved in [true, false] {
        let name = if reserved { "reserved" } else { "growing" };
        group.bench_function(BenchmarkId::new(name, COUNT), |bencher| {
            bencher.iter_with_large_drop(|| {
                let (mut endpoints, mut macs) = (EndpointWriter::new([1, 2]), MacWriter::new([3, 4]));
                let (mut endpoint_reader, mut mac_reader) = (endpoints.reader(), macs.reader());
                if reserved {
                    endpoints.reserve(COUNT as usize, 0);
                    macs.reserve(COUNT as usize);
                }
                for number in 0..COUNT {
                    let endpoint = endpoint(number);
                    endpoints.insert(1, ipv4(number), endpoint);
                    macs.insert(MacTable::key(endpoint.subnet, endpoint.mac), endpoint.location.pack());
                }
                endpoint_reader.refresh();
                mac_reader.refresh();
                assert_eq!(endpoint_reader.lookup(1, ipv4(COUNT - 1)), Some(endpoint(COUNT - 1)));
                (endpoints, macs, endpoint_reader, mac_reader)
            });
        });
    }
    group.finish();
}

/// One change of an endpoint among many: it moves to another host.
fn change(criterion: &mut Criterion) {
    const COUNT: u64 = 1_000_000;
    let mut writer = EndpointWriter::new([1, 2]);
    writer.reserve(COUNT as usize, 0);
    (0..COUNT).for_each(|number| {
        writer.insert(1, ipv4(number), endpoint(number));
    });
    let keys = shuffled(COUNT);
    criterion.bench_function("change/1000000", |bencher| {
        let mut keys = keys.iter().cycle();
        let mut round = 0;
        bencher.iter(|| {
            round += 1;
            let number = keys.next().copied().unwrap_or_default();
            black_box(writer.insert(1, ipv4(number), endpoint(number ^ round)))
        });
    });
}

fn bucket(criterion: &mut Criterion) {
    let mut bucket = TokenBucket::new(1_000_000, 1_000);
    let mut now = 0;
    criterion.bench_function("token-bucket", |bencher| {
        bencher.iter(|| {
            now += 900;
            black_box(bucket.take(black_box(now), 1))
        });
    });
}

criterion_group!(benches, macs, endpoints, insertion, change, bucket);
criterion_main!(benches);
