//! Cost of a look-up, per key, in batches of 32. `cargo bench -p towpath-tables`.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use packet::MacAddr;
use towpath_tables::{AddressEntry, AddressWriter, MacTable, MacWriter, TokenBucket};

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

fn addresses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("address");
    for count in [2u64, 1_000, 100_000] {
        let mut writer = AddressWriter::new([1, 2]);
        (0..count).for_each(|number| {
            let entry = AddressEntry { mac: MacAddr::from_u64(number), port: number as u16 };
            writer.insert(1, IpAddr::V6(u128::from(number).into()), entry);
        });
        let mut reader = writer.reader();
        let keys: Vec<IpAddr> =
            shuffled(count).into_iter().map(|n| IpAddr::V6(u128::from(n).into())).collect();
        group.bench_function(BenchmarkId::new("single", count), |bencher| {
            let mut keys = keys.iter().cycle();
            bencher.iter(|| {
                reader.refresh();
                keys.next().map(|address| black_box(reader.lookup(1, *address)))
            });
        });
    }
    group.finish();
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

criterion_group!(benches, macs, addresses, bucket);
criterion_main!(benches);
