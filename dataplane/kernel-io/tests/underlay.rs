//! An uplink beside the host that owns the interface, and beside the kernel's own tunnels.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use buf::{Burst, Checksum, Offload};
use engine::{RxQueue, TxQueue};
use packet::vxlan;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};
use support::{enter_namespace, ip, open, plain, veth};
use towpath_kernel_io::{Error, Interface, Options};

const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A veth pair of which `near` is the host's, with addresses, and `far` has a neighbour of it at each.
fn host() {
    enter_namespace();
    veth(1500);
    ip("link set near address 02:00:00:00:00:01");
    ip("link set far address 02:00:00:00:00:02");
    std::fs::write("/proc/sys/net/ipv6/conf/near/disable_ipv6", "0").unwrap();
    ip("addr add 10.0.0.1/24 dev near");
    ip("addr add fd00::1/64 dev near nodad");
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev near nud permanent");
    ip("neigh replace fd00::2 lladdr 02:00:00:00:00:02 dev near nud permanent");
}

/// A frame from `far`'s neighbour to the host: IP with a right header, then `payload`.
fn frame(v6: bool, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = NEAR.to_vec();
    bytes.extend(FAR);
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend([protocol, 64]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    } else {
        let mut header = vec![0x45, 0];
        header.extend((20 + payload.len() as u16).to_be_bytes());
        header.extend([0, 1]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
        let sum = packet::checksum::Sum::of(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend([0x08, 0x00]);
        bytes.extend(header);
    }
    bytes.extend(payload);
    bytes
}

/// A UDP datagram to `port`, with a right checksum.
fn udp(v6: bool, port: u16) -> Vec<u8> {
    let mut datagram = vec![0x30, 0x39];
    datagram.extend(port.to_be_bytes());
    datagram.extend([0, 28, 0, 0]);
    datagram.extend([8; 20]);
    let pseudo = if v6 {
        packet::checksum::pseudo_header_v6("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap(), 17, 28)
    } else {
        packet::checksum::pseudo_header_v4("10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap(), 17, 28)
    };
    let sum = pseudo.plus(packet::checksum::Sum::of(&datagram)).finish();
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    frame(v6, 17, 0, &datagram)
}

/// What the queue has now.
fn collect(rx: &mut dyn RxQueue) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    loop {
        let mut burst = Burst::new();
        rx.poll(&mut burst);
        if burst.is_empty() {
            return all;
        }
        all.extend((0..burst.len()).filter_map(|at| burst.frame(at)).map(|f| (f.to_vec(), f.offload)));
    }
}

fn send(tx: &mut dyn TxQueue, bytes: &[u8]) {
    assert_eq!(ports::conformance::send_one(tx, bytes, 1, Offload::NONE).sent, 1);
}

/// Waits for a frame that `wanted` knows; the frames that came before it.
fn until(rx: &mut dyn RxQueue, wanted: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let (patience, mut before) = (Instant::now() + Duration::from_secs(10), Vec::new());
    loop {
        for (bytes, _) in collect(rx) {
            if wanted(&bytes) {
                return before;
            }
            before.push(bytes);
        }
        assert!(Instant::now() < patience, "it never came, but {before:x?}");
        std::thread::yield_now();
    }
}

/// An ICMP error of the host about a datagram to `port`.
fn unreachable_for(bytes: &[u8], v6: bool, port: u16) -> bool {
    let (icmp, kind, quoted) = if v6 { (54, 1, 54 + 8 + 40) } else { (34, 3, 34 + 8 + 20) };
    let ours = bytes.get(12..14) == Some(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
    ours && bytes.get(icmp) == Some(&kind) && bytes.get(quoted + 2..quoted + 4) == Some(&port.to_be_bytes())
}

#[test]
#[ignore = "needs root"]
fn the_kernel_is_silent_on_the_tunnels_port_only() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &Options::default());
    let addresses: Vec<IpAddr> = near.interface.info().addresses.iter().map(ipnet::IpNet::addr).collect();
    assert!(addresses.contains(&"10.0.0.1".parse().unwrap()), "{addresses:?}");
    assert!(addresses.contains(&"fd00::1".parse().unwrap()), "{addresses:?}");
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
    let arp = {
        let mut bytes = NEAR.to_vec();
        bytes.extend(FAR);
        bytes.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2]);
        bytes.resize(60, 3);
        bytes
    };
    let wanted = [
        arp,
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
    let received: Vec<Vec<u8>> = collect(&mut *near.rx).into_iter().map(|(bytes, _)| bytes).collect();
    assert!(received == wanted, "in order, and nothing else: {received:x?}");
    assert_eq!(collect(&mut *all.rx).len(), hosts.len() + wanted.len());
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
