//! Longest prefix match: per look-up, one by one and in batches of 32, over addresses that match; and building. `cargo bench -p
//! towpath-tables --bench routes`.
#![allow(missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::IpNet;
use packet::MacAddr;
use towpath_tables::{Location, NextHop, RouteTable};

const BURST: usize = 32;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// What a table's prefixes look like.
#[derive(Clone, Copy)]
enum Shape {
    /// IPv4, lengths 8 to 32, anywhere.
    Ipv4,
    /// IPv4, subnets and hosts of a few /16s, most lengths 24 to 32.
    Ipv4Clusters,
    /// IPv6, lengths 32 to 64, in fc00::/7.
    Ipv6,
    /// IPv6, hosts of one /64.
    Ipv6Hosts,
}

impl Shape {
    fn prefix(self, random: &mut Random) -> IpNet {
        let bits = random.bits();
        let (address, length): (IpAddr, u64) = match self {
            Shape::Ipv4 => (IpAddr::V4((bits as u32).into()), 8 + random.next() % 25),
            Shape::Ipv4Clusters => {
                let cluster = [0x0a00_0000, 0x0a63_0000, 0xac10_0000, 0xc0a8_0000][bits as usize >> 40 & 3];
                (IpAddr::V4((cluster | bits as u32 & 0xffff).into()), 24 + random.next() % 9)
            }
            Shape::Ipv6 => (IpAddr::V6((0xfc << 120 | bits >> 7).into()), 32 + random.next() % 33),
            Shape::Ipv6Hosts => (IpAddr::V6((0xfd10 << 112 | bits & 0xff_ffff_ffff).into()), 128),
        };
        IpNet::new(address, length as u8).unwrap_or_default().trunc()
    }
}

fn routes(shape: Shape, count: usize) -> Vec<(IpNet, NextHop)> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let hop = |number: usize| match number % 4 {
        0 => NextHop::Subnet((number % 256) as u16),
        1 => NextHop::Vpc((number % 256) as u16),
        2 => {
            let (location, subnet) = (Location::Remote((number % 256) as u16), (number % 256) as u16);
            NextHop::Port { location, mac: MacAddr::from_u64(number as u64 % 256), subnet }
        }
        _ => NextHop::Blackhole,
    };
    (0..count).map(|number| (shape.prefix(&mut random), hop(number))).collect()
}

/// Random addresses in random ones of these prefixes.
fn matching(routes: &[(IpNet, NextHop)]) -> Vec<IpAddr> {
    let mut random = Random(0xfeed_5678_9abc_def1);
    (0..65_536)
        .filter_map(|_| {
            let (prefix, _) = routes.get(random.next() as usize % routes.len())?;
            let bits = random.bits();
            Some(match (prefix.network(), prefix.hostmask()) {
                (IpAddr::V4(net), IpAddr::V4(mask)) => {
                    IpAddr::V4((net.to_bits() | bits as u32 & mask.to_bits()).into())
                }
                (IpAddr::V6(net), IpAddr::V6(mask)) => {
                    IpAddr::V6((net.to_bits() | bits & mask.to_bits()).into())
                }
                (other, _) => other,
            })
        })
        .collect()
}

fn lookup(criterion: &mut Criterion) {
    let shapes = [
        ("ipv4", Shape::Ipv4),
        ("ipv4-clusters", Shape::Ipv4Clusters),
        ("ipv6", Shape::Ipv6),
        ("ipv6-hosts", Shape::Ipv6Hosts),
    ];
    for (name, shape) in shapes {
        let mut group = criterion.benchmark_group(format!("route-{name}"));
        for count in [10, 1_000, 100_000] {
            let routes = routes(shape, count);
            let table = RouteTable::build(routes.iter().copied());
            let addresses = matching(&routes);
            println!("route-{name}/{count}: {} bytes", table.memory_bytes());
            group.throughput(Throughput::Elements(BURST as u64));
            group.bench_function(BenchmarkId::new("batch", count), |bencher| {
                let mut bursts = addresses.chunks(BURST).cycle();
                let mut out = [None; BURST];
                bencher.iter(|| {
                    table.lookup_batch(black_box(bursts.next().unwrap_or_default()), &mut out);
                    black_box(&out);
                });
            });
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new("single", count), |bencher| {
                let mut addresses = addresses.iter().cycle();
                bencher.iter(|| addresses.next().map(|address| black_box(table.lookup(*black_box(address)))));
            });
        }
        group.sample_size(10).throughput(Throughput::Elements(100_000));
        let routes = routes(shape, 100_000);
        group.bench_function(BenchmarkId::new("build", 100_000), |bencher| {
            bencher.iter_with_large_drop(|| RouteTable::build(routes.iter().copied()));
        });
        group.finish();
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
