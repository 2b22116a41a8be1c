//! An uplink beside the host that owns the interface, and beside the kernel's own tunnels.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use buf::Checksum;
use packet::vxlan;
use std::net::{IpAddr, UdpSocket};
use support::{
    arp, arrived, collect, enter_namespace, frame, host, ip, open, plain, send, udp, unreachable_for, until,
    veth,
};
use towpath_kernel_io::{Error, Interface, Options};

#[test]
#[ignore = "needs root"]
fn the_kernel_is_silent_on_the_tunnels_port_only() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &Options::default());
    let addresses: Vec<IpAddr> = near.interface.info().addresses.iter().map(ipnet::IpNet::addr).collect();
    assert!(addresses.contains(&"10.0.0.1".parse().unwrap()), "{addresses:?}");
    assert!(addresses.contains(&"fd00::1".parse().unwrap()), "{addresses:?}");
    assert!(!addresses.iter().any(|address| address.to_string().starts_with("fe80")), "{addresses:?}");
    for v6 in [false, true] {
        send(&mut *far.tx, &udp(v6, 4789));
        send(&mut *far.tx, &udp(v6, 4790));
        let before = until(&mut *far.rx, |bytes| unreachable_for(bytes, v6, 4790));
        assert!(!before.iter().any(|bytes| unreachable_for(bytes, v6, 4789)), "{before:x?}");
        assert!(collect(&mut *near.rx).iter().any(|(bytes, _)| *bytes == udp(v6, 4789)), "it is ours");
    }
    // An address that comes later.
    ip("addr add 10.0.0.9/24 dev near");
    assert!(near.interface.refresh().unwrap());
    let taken = UdpSocket::bind("10.0.0.9:4789").map(drop);
    assert!(taken.is_err(), "the port of the new address is held");
    drop(near);
    UdpSocket::bind("10.0.0.9:4789").unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_is_the_hosts_is_not_received() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &Options::default());
    let mut all = open("near", &plain());
    let wanted = [
        arp(),
        udp(false, 4789),
        udp(true, 4789),
        frame(false, 1, 0, &[0; 30]),
        frame(true, 58, 0, &[136; 30]),
        frame(false, 17, 100, &[0; 30]),
        frame(true, 44, 0, &[17; 30]),
        frame(false, 89, 0, &[0; 30]),
    ];
    // TCP in fragments too.
    let hosts = [
        udp(false, 53),
        udp(true, 53),
        frame(false, 6, 0, &[0; 30]),
        frame(false, 6, 100, &[0; 30]),
        frame(true, 6, 0, &[0; 30]),
    ];
    for bytes in hosts.iter().chain(&wanted) {
        send(&mut *far.tx, bytes);
    }
    arrived(&all.interface, (hosts.len() + wanted.len()) as u64);
    arrived(&near.interface, wanted.len() as u64);
    let received: Vec<Vec<u8>> = collect(&mut *near.rx).into_iter().map(|(bytes, _)| bytes).collect();
    assert!(received == wanted, "in order, and nothing else: {received:x?}");
    assert_eq!(collect(&mut *all.rx).len(), hosts.len() + wanted.len());
}

#[test]
#[ignore = "needs root"]
fn what_is_for_external_addresses_is_received_while_it_is_asked_for() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &Options::default());
    let ours = [frame(false, 6, 0, &[0; 30]), udp(false, 53), udp(true, 53), frame(true, 6, 0, &[0; 30])];
    let mut sent = 0;
    let mut receive = |near: &mut support::End, expected: &[Vec<u8>]| {
        // The last comes in any way, behind all others.
        ours.iter().chain([&arp()]).for_each(|bytes| send(&mut *far.tx, bytes));
        sent += expected.len() as u64 + 1;
        arrived(&near.interface, sent);
        let received: Vec<Vec<u8>> = collect(&mut *near.rx).into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(received, [expected, &[arp()]].concat());
    };
    receive(&mut near, &[]);
    let networks = ["10.0.0.1/32", "fd00::/64"].map(|net| net.parse().unwrap());
    near.interface.take_in(&networks).unwrap();
    receive(&mut near, &ours);
    near.interface.take_in(&networks[1..]).unwrap();
    receive(&mut near, &ours[2..]);
    near.interface.take_in(&[]).unwrap();
    receive(&mut near, &[]);
}

#[test]
#[ignore = "needs root"]
fn whoever_holds_the_port_already_is_named() {
    host();
    let taken = |problem: Result<_, Error>| {
        let Err(problem) = problem else { panic!("the port is not free") };
        assert!(matches!(problem, Error::PortTaken { port: 4789, .. }), "{problem}");
        let text = problem.to_string();
        assert!(text.contains("near") && text.contains("4789") && text.contains("ip -d link"), "{text}");
    };
    let holder = UdpSocket::bind("0.0.0.0:4789").unwrap();
    taken(Interface::open("near", &Options::default()));
    drop(holder);
    ip("link add vx type vxlan id 5 dstport 4789 dev near local 10.0.0.1");
    ip("link set vx up");
    taken(Interface::open("near", &Options::default()));
    ip("link del vx");
    drop(open("near", &Options::default()));
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_opened_says_why() {
    enter_namespace();
    veth(1500);
    ip("link set lo up");
    let open = |ifname: &str, options: &Options| Interface::open(ifname, options).map(drop).unwrap_err();
    for ifname in ["nosuch", "", "a-name-that-is-too-long-for-one", "ne\0ar"] {
        let problem = open(ifname, &plain());
        assert!(matches!(problem, Error::NoInterface { .. }), "{problem}");
    }
    assert!(matches!(open("lo", &plain()), Error::NotEthernet { .. }));
    for (field, options) in [
        ("queue_pairs", Options { queue_pairs: 0, ..plain() }),
        ("queue_pairs", Options { queue_pairs: 65, ..plain() }),
        ("ring_bytes", Options { ring_bytes: 4096, ..plain() }),
        ("ring_bytes", Options { ring_bytes: usize::MAX, ..plain() }),
        ("tunnel_port", Options { tunnel_port: Some(0), ..plain() }),
    ] {
        match open("near", &options) {
            Error::Options { field: named, .. } => assert_eq!(named, field),
            problem => panic!("{problem}"),
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_kernel_tunnel_hands_over_what_it_did_not_cut() {
    enter_namespace();
    veth(1500);
    ip("link set near address 02:00:00:00:00:01");
    // The kernel's VXLAN device over `far`, with a large TCP send through it, by hand: a raw send into the device.
    ip("addr add 10.0.0.2/24 dev far");
    ip("neigh replace 10.0.0.1 lladdr 02:00:00:00:00:01 dev far nud permanent");
    ip("link add vx mtu 1450 type vxlan id 7 dstport 4789 remote 10.0.0.1 local 10.0.0.2 dev far");
    ip("link set vx up");
    let mut near = open("near", &Options::default());
    let mut sent = 0;
    for (traffic, gso, size) in
        [(ports::conformance::Traffic::Tcp4, 1u8, 1400u16), (ports::conformance::Traffic::Tcp6, 4, 1380)]
    {
        for payload in [500, 20_000] {
            let inner = traffic.packet(payload);
            let start = traffic.l4_offset();
            let cut = payload > usize::from(size);
            let mut bytes = vec![1, if cut { gso } else { 0 }, start as u8 + 20, 0];
            bytes.extend(if cut { size.to_le_bytes() } else { [0; 2] });
            bytes.extend(start.to_le_bytes());
            bytes.extend([16, 0]);
            bytes.extend(&inner);
            support::send_raw("vx", &bytes);
            sent += 1;
            arrived(&near.interface, sent);
            let taken = collect(&mut *near.rx);
            assert_eq!(taken.len(), 1, "{traffic:?} {payload}: whole");
            let (outer, offload) = &taken[0];
            let tunnel = vxlan::OUTER_LENGTH_V4;
            assert!(outer[tunnel..] == inner, "{traffic:?} {payload}: other bytes inside");
            assert_eq!(usize::from(offload.tunnel), tunnel);
            let expected = Checksum::Partial { start: start + tunnel as u16, offset: 16 };
            assert_eq!(offload.checksum, expected);
            assert_eq!(offload.segment.map(|segment| segment.size), cut.then_some(size));
        }
    }
}
