//! Longest prefix match against a model that looks at every route.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use packet::MacAddr;
use proptest::prelude::*;
use towpath_tables::{Location, NextHop, RouteTable};

fn hop(number: u16) -> NextHop {
    match number % 4 {
        0 => NextHop::Subnet(number),
        1 => NextHop::Vpc(number),
        2 => NextHop::Port {
            location: Location::Remote(number),
            mac: MacAddr::from_u64(number.into()),
            subnet: number,
        },
        _ => NextHop::Blackhole,
    }
}

fn net(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, length.min(32)).unwrap().into(),
        IpAddr::V6(v6) => Ipv6Net::new(v6, length).unwrap().into(),
    }
}

/// The last of the longest routes that match.
fn model(routes: &[(IpNet, NextHop)], address: IpAddr) -> Option<NextHop> {
    let matching = routes.iter().filter(|(prefix, _)| prefix.contains(&address));
    matching.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, hop)| *hop)
}

/// Addresses where answers change: the first and last of each prefix and their neighbours.
fn edges(routes: &[(IpNet, NextHop)]) -> Vec<IpAddr> {
    let around = |first: u128, last: u128| {
        [first, last, first.wrapping_sub(1), last.wrapping_add(1), first + (last - first) / 2]
    };
    let mut edges: Vec<IpAddr> = Vec::new();
    for (prefix, _) in routes {
        match prefix.trunc() {
            IpNet::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                let around = around(first.into(), last.into()).map(|bits| Ipv4Addr::from(bits as u32));
                edges.extend(around.map(IpAddr::V4));
            }
            IpNet::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                edges.extend(around(first, last).map(|bits| IpAddr::V6(Ipv6Addr::from(bits))));
            }
        }
    }
    edges.extend([IpAddr::V4(0.into()), IpAddr::V4(u32::MAX.into())]);
    edges.extend([IpAddr::V6(0.into()), IpAddr::V6(u128::MAX.into())]);
    edges
}

fn check(routes: &[(IpNet, NextHop)], more: &[IpAddr]) {
    let table = RouteTable::build(routes.iter().copied());
    let mut addresses = edges(routes);
    addresses.extend_from_slice(more);
    let mut found = vec![Some(NextHop::Subnet(0xdead)); addresses.len()];
    table.lookup_batch(&addresses, &mut found);
    for (address, found) in addresses.iter().zip(found) {
        let expected = model(routes, *address);
        assert_eq!(table.lookup(*address), expected, "{address}");
        assert_eq!(found, expected, "{address}, in a batch");
    }
}

/// Prefixes near each other and far apart, of all lengths, of both families, some of them equal.
fn route() -> impl Strategy<Value = (IpNet, NextHop)> {
    let ipv4 = prop_oneof![
        any::<u32>(),
        (0u32..4).prop_map(|low| 0x0a00_0000 | low),
        (0u32..4096).prop_map(|low| 0x0a00_0000 | low << 8),
    ];
    let ipv6 = prop_oneof![
        any::<u128>(),
        (0u128..8).prop_map(|low| 0xfd00 << 112 | low),
        (0u128..512).prop_map(|low| 0xfd00 << 112 | low << 62),
        (0u128..4, any::<u64>()).prop_map(|(high, low)| 0xfd00 << 112 | high << 64 | u128::from(low)),
    ];
    let address = prop_oneof![
        ipv4.prop_map(|bits| IpAddr::V4(bits.into())),
        ipv6.prop_map(|bits| IpAddr::V6(bits.into())),
    ];
    let length = prop_oneof![0u8..=128, Just(0), Just(32), Just(64), Just(65), Just(128), 20u8..33];
    (address, length, 0u16..40).prop_map(|(address, length, number)| (net(address, length), hop(number)))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_longest_prefix_matches(routes in prop::collection::vec(route(), 0..200), more in prop::collection::vec(address(), 0..50)) {
        check(&routes, &more);
    }
}

#[test]
fn nested_prefixes_of_all_lengths() {
    for bits in [0u128, u128::MAX, 0xfd00 << 112 | 0x1234_5678_9abc] {
        let v4 = IpAddr::V4(Ipv4Addr::from(bits as u32));
        let v6 = IpAddr::V6(Ipv6Addr::from(bits));
        let mut routes: Vec<_> = (0..=32).map(|length| (net(v4, length), hop(length.into()))).collect();
        routes.extend((0..=128).map(|length| (net(v6, length), hop(u16::from(length) + 200))));
        check(&routes, &[v4, v6]);
        routes.reverse();
        check(&routes, &[v4, v6]);
    }
}

/// Clusters within clusters, each of which needs a node of its own.
#[test]
fn clusters_of_host_routes() {
    let mut routes = Vec::new();
    for cluster in 0..24u32 {
        for host in 0..30u32 {
            let bits = (1 << cluster) + host * 7;
            routes.push((net(IpAddr::V4(bits.into()), 32), hop(host as u16)));
            routes.push((net(IpAddr::V6((u128::from(bits) << 60).into()), 128), hop(host as u16)));
            routes.push((net(IpAddr::V6((u128::from(bits) << 90).into()), 64), hop(host as u16)));
        }
    }
    check(&routes, &[]);
}

#[test]
fn of_equal_prefixes_the_last_one_counts() {
    let prefix = |text: &str| text.parse::<IpNet>().unwrap();
    let table = RouteTable::build([
        (prefix("10.0.0.0/8"), hop(0)),
        (prefix("10.1.2.3/8"), hop(4)),
        (prefix("fd00::1/64"), hop(8)),
        (prefix("fd00::2/64"), hop(12)),
    ]);
    assert_eq!(table.lookup("10.9.9.9".parse().unwrap()), Some(hop(4)));
    assert_eq!(table.lookup("fd00::9".parse().unwrap()), Some(hop(12)));
    assert_eq!(table.lookup("11.0.0.0".parse().unwrap()), None);
}

#[test]
fn small_tables_are_small() {
    let table = |count: u32| {
        let routes = (0..count).map(|number| {
            let address = if number == 0 { 0 } else { number.wrapping_mul(0x9e37_79b9) };
            let length = if number == 0 { 0 } else { 8 + (number % 25) as u8 };
            (net(IpAddr::V4(address.into()), length), hop(number as u16))
        });
        RouteTable::build(routes)
    };
    let bytes = [0, 10, 1_000, 20_000].map(|count| table(count).memory_bytes());
    assert!(bytes[0] < 500 && bytes[1] < 1_500, "{bytes:?}");
    assert!(bytes[2] < 50 * 1_000 && bytes[3] < 50 * 20_000, "{bytes:?}");
}
