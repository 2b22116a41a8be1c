//! What each stage costs a burst of 32 packets, in order, with everything in one core's caches. `cargo bench -p towpath-stages`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use buf::{BURST_PACKETS, Burst, Checksum, Extent, Offload};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{Batch, Metadata, PortCounters, PortIndex};
use packet::MacAddr;
use tables::{EndpointWriter, Location, MacTable, MacWriter, Network, PortProfile, TokenBucket};
use towpath_stages::{forward, neighbours, parse, port_security};

const SUBNET: u16 = 1;
const INGRESS: PortIndex = PortIndex(1);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Other ports of the subnet.
const OTHERS: u16 = 1000;

fn other(number: u16) -> (MacAddr, Ipv4Addr) {
    let [high, low] = number.to_be_bytes();
    (MacAddr([2, 0, 0, 1, high, low]), Ipv4Addr::new(10, 1, high, low))
}

/// 64 bytes of UDP to another port.
fn udp(to: u16) -> Vec<u8> {
    let (mac, ip) = other(to);
    let mut frame = [&mac.0[..], &MAC.0, &[8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0]].concat();
    frame.extend(ADDRESS.octets());
    frame.extend(ip.octets());
    frame.extend([4, 0, 4, 1, 0, 26, 0, 0]);
    frame.resize(60, 0x5a);
    frame
}

/// Who has that port's address?
fn arp(to: u16) -> Vec<u8> {
    let mut frame =
        [&[0xff; 6][..], &MAC.0, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC.0, &ADDRESS.octets()].concat();
    frame.extend([0; 6]);
    frame.extend(other(to).1.octets());
    frame.resize(60, 0);
    frame
}

/// A burst of these, heads loaded.
fn burst(frames: &[Vec<u8>], offload: Offload) -> Burst<'_> {
    let mut burst = Burst::new();
    for frame in frames.iter().cycle().take(BURST_PACKETS) {
        burst.push_extent(Extent::from_slice(frame)).unwrap();
        assert!(burst.commit(offload));
    }
    burst.load_heads();
    burst
}

/// Runs `before` unmeasured and `stage` measured on fresh bursts.
fn bench(
    criterion: &mut Criterion,
    id: BenchmarkId,
    frames: &[Vec<u8>],
    offload: Offload,
    (before, mut stage): (impl Fn(&mut Batch<'_, '_>), impl FnMut(&mut Batch<'_, '_>)),
) {
    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Elements(BURST_PACKETS as u64));
    group.bench_function(id, |bencher| {
        bencher.iter_batched_ref(
            || (Box::new(burst(frames, offload)), Box::new([Metadata::default(); BURST_PACKETS])),
            |(burst, metadata)| {
                let mut batch = Batch::new(burst, metadata, 0);
                before(&mut batch);
                stage(&mut batch);
                black_box(batch.alive())
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn stages(criterion: &mut Criterion) {
    let profile = PortProfile::new(SUBNET, MAC, 1500, &[IpAddr::V4(ADDRESS)], &[]);
    let counters = PortCounters::default();
    let (mut macs, mut addresses) = (MacWriter::new([1, 2]), EndpointWriter::new([3, 4]));
    for number in 2..OTHERS + 2 {
        let (mac, ip) = other(number);
        macs.insert(MacTable::key(SUBNET, mac), u32::from(number));
        let endpoint = tables::Endpoint { mac, subnet: SUBNET, location: Location::Local(number) };
        addresses.insert(0, IpAddr::V4(ip), endpoint);
    }
    let (macs, endpoints, network) = (macs.reader(), addresses.reader(), Network::default());
    let balancers = tables::balancers::Balancers::default();
    let known =
        neighbours::Tables { network: &network, endpoints: &endpoints, macs: &macs, balancers: &balancers };
    let one = [udp(2)];
    let many: Vec<_> = (0..BURST_PACKETS as u16).map(|number| udp(2 + number * 31)).collect();
    let asks = [arp(2)];
    let partial = Offload { checksum: Checksum::Partial { start: 34, offset: 6 }, segment: None, tunnel: 0 };

    // Each row has the stages before it, whose rows are above: the difference is the stage's own.
    bench(criterion, BenchmarkId::new("none", "udp"), &one, Offload::NONE, (|_| {}, |_| {}));
    bench(criterion, BenchmarkId::new("parse", "udp"), &one, Offload::NONE, (|_| {}, parse::run));
    bench(criterion, BenchmarkId::new("parse", "udp, partial checksum"), &one, partial, (|_| {}, parse::run));
    let secure = |batch: &mut Batch<'_, '_>| port_security::run(batch, &profile, &counters);
    bench(criterion, BenchmarkId::new("port_security", "udp"), &one, Offload::NONE, (parse::run, secure));
    for (name, frames) in [("udp", &one[..]), ("arp", &asks[..])] {
        let mut budget = TokenBucket::new(1000, 1000);
        let before = |batch: &mut Batch<'_, '_>| {
            parse::run(batch);
            secure(batch);
        };
        let answer = |batch: &mut Batch<'_, '_>| {
            neighbours::run(batch, &profile, INGRESS, known, &mut budget, &mut |_| {});
        };
        let id = BenchmarkId::new("neighbours", name);
        bench(criterion, id, frames, Offload::NONE, (before, answer));
    }
    for (name, frames) in [("one destination", &one[..]), ("32 of 1,000 destinations", &many[..])] {
        let before = |batch: &mut Batch<'_, '_>| {
            parse::run(batch);
            secure(batch);
        };
        let send = |batch: &mut Batch<'_, '_>| forward::run(batch, &macs, &profile, INGRESS);
        bench(criterion, BenchmarkId::new("forward", name), frames, Offload::NONE, (before, send));
    }
}

/// Packets that end before anybody gets them, each for another reason.
fn invalid() -> Vec<(&'static str, Vec<u8>)> {
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = udp(2);
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let behind = |rest: &[u8]| {
        let mut frame = [&udp(2)[..12], rest].concat();
        frame.resize(126, 0);
        frame
    };
    let options = [60, 0, 1, 4, 0, 0, 0, 0].repeat(8);
    let extensions = [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 64, 60, 64][..], &[0; 32], &options].concat();
    let solicitation = [&[0x86, 0xdd, 0x60, 0, 0, 0, 0, 64, 58, 255][..], &[0; 32], &[135, 0, 0, 0]].concat();
    vec![
        ("cut off", with(16, &[0xff, 0xff])),
        ("three tags", with(12, &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0])),
        ("nine extension headers", behind(&extensions)),
        ("neither ARP nor IP", with(12, &[0x88, 0xcc])),
        ("another's MAC address", with(6, &[2, 9, 9, 9, 9, 9])),
        ("another's address", with(26, &[10, 9, 9, 9])),
        ("a tiny fragment", with(16, &[0, 24, 0, 0, 0x20, 0])),
        ("a wrong solicitation", behind(&solicitation)),
        ("to nobody", with(0, &[2, 9, 9, 9, 9, 9])),
    ]
}

/// P-43: what a burst costs that ends in these stages, beside one that is delivered. At most 1.5 times as much.
fn whole(criterion: &mut Criterion) {
    let profile = PortProfile::new(SUBNET, MAC, 1500, &[IpAddr::V4(ADDRESS)], &[]);
    let counters = PortCounters::default();
    let (mut macs, endpoints, network) =
        (MacWriter::new([1, 2]), EndpointWriter::new([3, 4]).reader(), Network::default());
    macs.insert(MacTable::key(SUBNET, other(2).0), 2);
    let macs = macs.reader();
    let balancers = tables::balancers::Balancers::default();
    let known =
        neighbours::Tables { network: &network, endpoints: &endpoints, macs: &macs, balancers: &balancers };
    for (name, frame) in std::iter::once(("valid", udp(2))).chain(invalid()) {
        let mut budget = TokenBucket::new(1000, 1000);
        let all = |batch: &mut Batch<'_, '_>| {
            parse::run(batch);
            port_security::run(batch, &profile, &counters);
            neighbours::run(batch, &profile, INGRESS, known, &mut budget, &mut |_| {});
            forward::run(batch, &macs, &profile, INGRESS);
            assert!(name == "valid" || batch.alive() == 0, "{name}");
        };
        let id = BenchmarkId::new("all", name);
        bench(criterion, id, std::slice::from_ref(&frame), Offload::NONE, (|_| {}, all));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_millis(700));
    targets = stages, whole
}
criterion_main!(benches);
