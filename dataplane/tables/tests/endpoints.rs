//! The endpoint table and the tables of the underlay against a `HashMap`, and under readers that must not see a mixture.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use packet::MacAddr;
use proptest::prelude::*;
use towpath_tables::{Endpoint, EndpointWriter, Location, MacTable, MacWriter, VniWriter, VtepWriter};

#[derive(Clone, Debug)]
enum Step {
    Insert((u16, IpAddr), Endpoint),
    Remove((u16, IpAddr)),
    Reserve(usize, usize),
    Refresh,
}

/// Few enough that they are removed and replaced often, with the same numbers in both families and several VPCs.
fn key() -> impl Strategy<Value = (u16, IpAddr)> + Clone {
    (prop_oneof![0u16..2, Just(0x7fff)], 0u32..120, 0u8..4).prop_map(|(vpc, number, kind)| {
        let v4 = Ipv4Addr::from(if number < 2 { 0u32.wrapping_sub(number) } else { 0x0a00_0100 + number });
        let address = match kind {
            0 | 1 => IpAddr::V4(v4),
            2 => IpAddr::V6(Ipv6Addr::from(u128::from(v4.to_bits()))),
            _ => IpAddr::V6(Ipv6Addr::from((0xfdu128 << 120) | u128::from(number) << 64)),
        };
        (vpc, address)
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let number = || prop_oneof![any::<u16>(), Just(0), Just(u16::MAX)];
    let location = prop_oneof![
        number().prop_map(Location::Local),
        number().prop_map(Location::Remote),
        number().prop_map(Location::Directory)
    ];
    let mac = prop_oneof![any::<[u8; 6]>(), Just([0; 6]), Just([0xff; 6])];
    (mac, 0..Endpoint::SUBNETS, location).prop_map(|(mac, subnet, location)| Endpoint {
        mac: MacAddr(mac),
        subnet,
        location,
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        60 => (key(), endpoint()).prop_map(|(key, endpoint)| Step::Insert(key, endpoint)),
        30 => key().prop_map(Step::Remove),
        1 => (0usize..600, 0usize..600).prop_map(|(ipv4, ipv6)| Step::Reserve(ipv4, ipv6)),
        10 => Just(Step::Refresh),
    ];
    prop::collection::vec(step, 0..800)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn endpoint_table_is_a_map(steps in steps(), secret: [u64; 2], probes in prop::collection::vec(key(), 0..80)) {
        let mut writer = EndpointWriter::new(secret);
        let mut reader = writer.reader();
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, endpoint) => {
                    prop_assert_eq!(writer.insert(key.0, key.1, endpoint), model.insert(key, endpoint));
                    prop_assert_eq!(writer.get(key.0, key.1), Some(endpoint));
                }
                Step::Remove(key) => prop_assert_eq!(writer.remove(key.0, key.1), model.remove(&key)),
                Step::Reserve(ipv4, ipv6) => writer.reserve(ipv4, ipv6),
                Step::Refresh => {
                    reader.refresh();
                    prop_assert_eq!(writer.reclaim(), 0);
                }
            }
            prop_assert_eq!(writer.len(), model.len());
        }
        reader.refresh();
        // Every entry, some that are not, and some twice in a row.
        let probes: Vec<_> = model.keys().copied().chain(probes).flat_map(|key| [key, key]).collect();
        let mut found = vec![None; probes.len()];
        let lines = reader.lookup_batch(&probes, &mut found);
        prop_assert!(lines <= probes.len(), "{} lines for {} keys, each twice", lines, probes.len());
        for (key, found) in probes.iter().zip(found) {
            prop_assert_eq!(found, model.get(key).copied());
            prop_assert_eq!(reader.lookup(key.0, key.1), model.get(key).copied());
        }
    }
}

#[test]
fn tunnels_and_identifiers_are_found_by_their_numbers() {
    let (mut vteps, mut vnis) = (VtepWriter::new([1, 2]), VniWriter::new([3, 4]));
    let (mut vtep, mut vni) = (vteps.reader(), vnis.reader());
    let address = |number: u16| -> IpAddr {
        if number.is_multiple_of(2) {
            Ipv4Addr::from(0xc000_0200 + u32::from(number)).into()
        } else {
            Ipv6Addr::from(u128::from(number)).into()
        }
    };
    for number in 0..2_000u16 {
        assert_eq!(vteps.insert(address(number), number), None);
        assert_eq!(vnis.insert(u32::from(number) << 13, number), None);
    }
    assert_eq!((vteps.len(), vnis.len()), (2_000, 2_000));
    vtep.refresh();
    vni.refresh();
    for number in 0..2_000 {
        assert_eq!(vtep.lookup(address(number)), Some(number));
        assert_eq!(vni.lookup(u32::from(number) << 13), Some(number));
    }
    assert_eq!(vtep.lookup(address(2_000)), None);
    assert_eq!(vni.lookup(1), None);
    assert_eq!(vteps.insert(address(7), 9), Some(7));
    assert_eq!((vteps.remove(address(7)), vteps.get(address(7))), (Some(9), None));
    assert_eq!((vnis.insert(0, 9), vnis.remove(0), vnis.get(0)), (Some(0), Some(9), None));
    assert_eq!((vtep.lookup(address(7)), vni.lookup(0)), (None, None));
    vtep.off_line();
    vni.off_line();
    assert!(vteps.synchronize(std::time::Duration::from_secs(1)));
    assert!(vnis.synchronize(std::time::Duration::from_secs(1)));
}

/// Keys below this are always in the table, the others come and go.
const STAY: u64 = 40;
const KEYS: u64 = 120;
const ROUNDS: u64 = 300_000;

/// A small generator of our own, so that the run repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn address(key: u64) -> IpAddr {
    if key.is_multiple_of(2) {
        IpAddr::V4((key as u32).into())
    } else {
        IpAddr::V6((u128::from(key) << 64 | u128::from(key)).into())
    }
}

/// All parts of an endpoint say the key and the round.
fn made(key: u64, round: u64) -> Endpoint {
    let number = (round % 60_000) as u16;
    let location = match round % 3 {
        0 => Location::Local(number),
        1 => Location::Remote(number),
        _ => Location::Directory(number),
    };
    Endpoint {
        mac: MacAddr::from_u64(key << 32 | u64::from(number)),
        subnet: number % Endpoint::SUBNETS,
        location,
    }
}

#[test]
fn endpoint_readers_see_no_mixture() {
    let mut writer = EndpointWriter::new([13, 14]);
    for key in 0..STAY {
        writer.insert(1, address(key), made(key, 0));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let looked = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (mut reader, stop, looked) = (writer.reader(), stop.clone(), looked.clone());
            thread::spawn(move || {
                let keys: Vec<_> = (0..KEYS).map(|key| (1, address(key))).collect();
                let mut found = vec![None; keys.len()];
                while !stop.load(Relaxed) {
                    reader.refresh();
                    reader.lookup_batch(&keys, &mut found);
                    for (key, found) in (0..KEYS).zip(&found) {
                        let Some(found) = found else {
                            assert!(key >= STAY, "missed {key}, which never left");
                            continue;
                        };
                        let number = found.mac.to_u64() & 0xffff_ffff;
                        // Rounds are 0..60,000 and a multiple of 60,000 more, which 3 divides.
                        assert_eq!(*found, made(key, number), "a mixture, or a value of another key");
                    }
                    looked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let mut random = Random(0xfeed_5678_9abc_def1);
    let mut round = 0;
    while round < ROUNDS || looked.load(Relaxed) < 100 {
        assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader failed");
        let key = random.below(KEYS);
        if key >= STAY && random.below(2) == 0 {
            writer.remove(1, address(key));
        } else {
            writer.insert(1, address(key), made(key, round));
        }
        if round % 50_000 == 49_999 {
            // Growth, in the middle of it: keys that nobody looks up.
            for extra in 0..100 {
                writer.insert(2, address(1_000_000 + round * 1_000 + extra), made(1, 1));
            }
        }
        writer.reclaim();
        round += 1;
    }
    stop.store(true, Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    assert_eq!(writer.reclaim(), 0);
}

/// MAC entry and endpoint entry together, at every fill.
#[test]
fn an_ipv4_address_takes_at_most_64_bytes() {
    takes_at_most_64_bytes(|number| IpAddr::V4((number as u32).into()));
}

#[test]
fn an_ipv6_address_takes_at_most_64_bytes() {
    takes_at_most_64_bytes(|number| IpAddr::V6((0xfd00 << 112 | u128::from(number)).into()));
}

fn takes_at_most_64_bytes(address: impl Fn(u64) -> IpAddr) {
    let (mut endpoints, mut macs) = (EndpointWriter::new([5, 6]), MacWriter::new([7, 8]));
    let check = |endpoints: &EndpointWriter, macs: &MacWriter, least: usize| {
        // An empty table of the other family is there, too.
        let (bytes, count) = (endpoints.memory_bytes() + macs.memory_bytes() - 1024, endpoints.len());
        assert!(count < least || bytes <= 64 * count, "{bytes} bytes for {count} addresses");
    };
    for number in 0..60_000 {
        let endpoint = made(number, number);
        endpoints.insert(1, address(number), endpoint);
        macs.insert(MacTable::key(1, MacAddr::from_u64(1 << 40 | number)), endpoint.location.pack());
        check(&endpoints, &macs, 2_000);
    }
    // Changes of what is there do not make the tables grow.
    let before = endpoints.memory_bytes();
    for number in 60_000..200_000 {
        assert!(endpoints.remove(1, address(number - 60_000)).is_some());
        assert_eq!(endpoints.insert(1, address(number), made(number, number)), None);
    }
    assert_eq!(endpoints.memory_bytes(), before);
    // A table that is left by most of its keys becomes smaller.
    for number in 140_000..199_000 {
        assert!(endpoints.remove(1, address(number)).is_some());
    }
    assert!(endpoints.memory_bytes() <= before / 20, "{} of {before} bytes", endpoints.memory_bytes());
    for number in 199_000..200_000 {
        assert_eq!(endpoints.get(1, address(number)), Some(made(number, number)));
    }
}

#[test]
fn room_made_beforehand_is_enough() {
    let mut reserved = EndpointWriter::new([9, 9]);
    reserved.reserve(10_000, 5_000);
    let before = reserved.memory_bytes();
    for number in 0..10_000u64 {
        reserved.insert(1, IpAddr::V4((number as u32).into()), made(number, number));
        if number < 5_000 {
            reserved.insert(1, IpAddr::V6(u128::from(number).into()), made(number, number));
        }
    }
    assert_eq!(reserved.memory_bytes(), before);
}
