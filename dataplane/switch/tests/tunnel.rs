//! Two hosts joined by a wire: tunnels, routing by the subnets' gateways, and what a hostile underlay may not do.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use buf::{Checksum, Extent, Frame, Offload, Pool, Segment, SegmentKind};
use engine::{DropReason, OffloadCapabilities, PortIndex, PuntKind, RxQueue, TxQueue, TxReport, Unobserved};
use packet::checksum::{Sum, pseudo_header};
use packet::{MacAddr, vxlan};
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use std::net::{IpAddr, Ipv4Addr};
use switch::{Clock, Control, SwitchConfig, UPLINK, UplinkPlan, Vtep, Worker};
use tables::{Endpoint, Location, NextHop, OwnAddress, PortProfile, RouteTable, Subnet, Vpc, vpc_space};
use towpath_switch as switch;

const PORT: PortIndex = PortIndex(0);
const VNI: u32 = 0x00ab_cdef;
const VPC: u16 = 3;
/// The other host, as each knows it.
const OTHER: u16 = 5;
const NEIGHBOUR: u16 = 9;

struct Still;

impl Clock for Still {
    fn cycles(&mut self) -> u64 {
        0
    }
}

/// What a uplink's transmit queue does itself, over a wire that could do all.
struct Limited(LoopbackTx, OffloadCapabilities);

impl TxQueue for Limited {
    fn capabilities(&self) -> OffloadCapabilities {
        self.1
    }
    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        self.0.send(frames)
    }
    fn flush(&mut self) {
        self.0.flush();
    }
}

struct Host {
    control: Control,
    worker: Worker,
    sends: LoopbackTx,
    receives: LoopbackRx,
}

fn guest_mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, host])
}

fn uplink_mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 9, host])
}

fn gateway_mac(subnet: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 7, subnet as u8])
}

/// Hosts 1 and 2; the guest of host n is 10.0.n.10 in subnet n, and 10.0.0.n0 in subnet 0 as well.
fn address(host: u8, routed: bool) -> Ipv4Addr {
    if routed { Ipv4Addr::new(10, 0, host, 10) } else { Ipv4Addr::new(10, 0, 0, host * 10) }
}

fn underlay(host: u8, v6: bool) -> IpAddr {
    if v6 {
        IpAddr::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()].into())
    } else {
        IpAddr::V4([192, 0, 2, host].into())
    }
}

impl Host {
    /// `routed`: the guests are in subnets of their own.
    fn new(
        own: u8,
        routed: bool,
        v6: bool,
        wire: (LoopbackRx, LoopbackTx),
        takes: OffloadCapabilities,
    ) -> Self {
        let (mut control, mut workers) =
            Control::new(&SwitchConfig { workers: 1, pool_chunks: 4096, secret: [1, 2] });
        let other = 3 - own;
        let subnet_of = |host: u8| if routed { u16::from(host) } else { 0 };
        let addresses = vec![OwnAddress { address: underlay(own, v6), answered: true }];
        control.set_uplink(&UplinkPlan { mac: uplink_mac(own), mtu: 1500, addresses });
        control.attach_rx(UPLINK, 0, Box::new(wire.0.with_long_heads())).unwrap();
        control.attach_tx(UPLINK, 0, Box::new(Limited(wire.1, takes))).unwrap();
        control.set_vpc(
            VPC,
            Vpc { vni: VNI, mtu: 1430, directory: vec![], peers: vec![], clamp_mss: true },
            true,
        );
        let routes = [(0, "10.0.0.0/24"), (1, "10.0.1.0/24"), (2, "10.0.2.0/24")];
        for (number, prefix) in routes {
            let gateway = IpAddr::V4(Ipv4Addr::new(10, 0, number as u8, 1));
            let subnet = Subnet {
                vpc: VPC,
                gateway_mac: gateway_mac(number),
                prefixes: vec![prefix.parse().unwrap()],
                gateways: vec![gateway],
                routes: Some(0),
                multicast: false,
            };
            control.set_subnet(number, Some(subnet));
        }
        let routes = routes.map(|(number, prefix)| (prefix.parse().unwrap(), NextHop::Subnet(number)));
        let dark = ("10.9.0.0/16".parse().unwrap(), NextHop::Blackhole);
        control.set_routes(0, Some(RouteTable::build(routes.into_iter().chain([dark]))));
        let source = underlay(other, v6);
        control.set_vtep(
            OTHER,
            Vtep { address: source, sources: vec![source], is_host: true, neighbour: NEIGHBOUR },
        );
        let (mac, ip) = (guest_mac(own), IpAddr::V4(address(own, routed)));
        let profile = PortProfile::new(subnet_of(own), mac, 1430, &[ip], &[]);
        control.add_port(PORT, profile.in_vpc(VPC, gateway_mac(subnet_of(own)), 7));
        for (host, location) in [(own, Location::Local(PORT.0)), (other, Location::Remote(OTHER))] {
            let (mac, subnet) = (guest_mac(host), subnet_of(host));
            control.place_mac(subnet, mac, location);
            control.place_endpoint(
                VPC,
                IpAddr::V4(address(host, routed)),
                Endpoint { mac, subnet, location },
            );
        }
        control.place_mac(vpc_space(VPC), mac, Location::Local(PORT.0));
        let pool = Pool::new(1024);
        let (rx, sends) = loopback(&pool, 256, || {});
        let (receives, tx) = loopback(&pool, 256, || {});
        control.attach_rx(PORT, 0, Box::new(rx)).unwrap();
        control.attach_tx(PORT, 0, Box::new(tx)).unwrap();
        Self { control, worker: workers.remove(0), sends, receives }
    }

    fn step(&mut self) -> u32 {
        let progress = self.worker.step(0, &mut Still, &mut Unobserved);
        progress.packets + progress.handovers + progress.commands
    }

    fn send(&mut self, frame: &[u8], offload: Offload) {
        let (head, body) = frame.split_at(frame.len().min(128));
        let report = self.sends.send(&[Frame::new(head, &[Extent::from_slice(body)], body.len(), offload)]);
        assert_eq!(report.sent, 1);
        self.sends.flush();
    }

    fn receive(&mut self) -> Vec<(Vec<u8>, Offload)> {
        received(&mut self.receives)
    }

    fn drops(&self, port: PortIndex) -> Vec<(DropReason, u64)> {
        self.control.counters(port).unwrap().drops
    }
}

fn received(queue: &mut LoopbackRx) -> Vec<(Vec<u8>, Offload)> {
    let mut frames = Vec::new();
    loop {
        let mut burst = buf::Burst::new();
        queue.poll(&mut burst);
        if burst.is_empty() {
            return frames;
        }
        let frame = |index| burst.frame(index).unwrap();
        frames.extend((0..burst.len()).map(|index| (frame(index).to_vec(), frame(index).offload)));
        queue.complete();
    }
}

/// Two hosts; `known`: they know each other's MAC addresses.
fn pair(routed: bool, v6: bool, takes: OffloadCapabilities, known: bool) -> [Host; 2] {
    let pool = Pool::new(4096);
    let (one, two) = (loopback(&pool, 256, || {}), loopback(&pool, 256, || {}));
    let mut hosts =
        [Host::new(1, routed, v6, (one.0, two.1), takes), Host::new(2, routed, v6, (two.0, one.1), takes)];
    if known {
        for (host, other) in [(0, 2), (1, 1)] {
            hosts[host].control.neighbours().set(NEIGHBOUR, Some(uplink_mac(other)));
        }
    }
    run(&mut hosts);
    hosts
}

fn run(hosts: &mut [Host; 2]) {
    while hosts.iter_mut().map(Host::step).sum::<u32>() > 0 {}
}

/// A host whose uplink is in the test's hands: what it receives, what it sends.
fn alone(v6: bool) -> (Host, LoopbackTx, LoopbackRx) {
    let pool = Pool::new(1024);
    let (rx, inject) = loopback(&pool, 256, || {});
    let (observe, tx) = loopback(&pool, 256, || {});
    let mut host = Host::new(1, false, v6, (rx, tx), OffloadCapabilities::default());
    host.control.neighbours().set(NEIGHBOUR, Some(uplink_mac(2)));
    while host.step() > 0 {}
    (host, inject, observe)
}

const ALL: OffloadCapabilities = OffloadCapabilities {
    checksum: true,
    tso4: true,
    tso6: true,
    uso4: true,
    uso6: true,
    ecn: true,
    tunnel: true,
};
const NONE: OffloadCapabilities = OffloadCapabilities {
    checksum: false,
    tso4: false,
    tso6: false,
    uso4: false,
    uso6: false,
    ecn: false,
    tunnel: false,
};

/// An IPv4 packet with right checksums.
fn ipv4(macs: [MacAddr; 2], addresses: [Ipv4Addr; 2], ttl: u8, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut frame = [macs[1].0, macs[0].0].concat();
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + l4.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, ttl, protocol, 0, 0]);
    addresses.iter().for_each(|address| frame.extend(address.octets()));
    let sum = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(l4);
    frame
}

fn udp(macs: [MacAddr; 2], addresses: [Ipv4Addr; 2], payload: usize) -> Vec<u8> {
    let length = (8 + payload as u16).to_be_bytes();
    let mut l4 = vec![3, 232, 3, 233, length[0], length[1], 0, 0];
    l4.extend((0..payload).map(|at| at as u8));
    ipv4(macs, addresses, 64, 17, &l4)
}

/// From the guest of host 1 to that of host 2, in one subnet.
fn across(payload: usize) -> Vec<u8> {
    udp([guest_mac(1), guest_mac(2)], [address(1, false), address(2, false)], payload)
}

#[test]
fn a_packet_crosses_and_comes_out_as_it_was() {
    for v6 in [false, true] {
        let mut hosts = pair(false, v6, NONE, true);
        for payload in [18, 100, 1000, 1402] {
            hosts[0].send(&across(payload), Offload::NONE);
            run(&mut hosts);
            assert_eq!(
                hosts[1].receive(),
                [(across(payload), Offload::NONE)],
                "{payload} {:?}",
                hosts[1].drops(UPLINK)
            );
        }
        assert_eq!(hosts[0].drops(PORT), []);
    }
}

#[test]
fn what_is_on_the_wire_is_vxlan_with_right_checksums_and_the_senders_identity() {
    for v6 in [false, true] {
        let (mut host, _inject, mut observe) = alone(v6);
        for checksum in [Checksum::Unverified, Checksum::Partial { start: 34, offset: 6 }] {
            let mut frame = across(501);
            if checksum != Checksum::Unverified {
                let headers = packet::parse(&frame[..128], frame.len() as u32).unwrap();
                let pseudo = pseudo_header(&frame, &headers).unwrap().folded();
                frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
            }
            host.send(&frame, Offload { checksum, ..Offload::NONE });
            while host.step() > 0 {}
            let (bytes, _) = received(&mut observe).remove(0);
            let headers = packet::parse(&bytes, bytes.len() as u32).unwrap();
            assert_eq!((headers.destination_port, headers.l3_end() as usize), (vxlan::PORT, bytes.len()));
            let view = vxlan::View::new(&bytes, headers.payload_offset.into()).unwrap();
            assert_eq!((view.is_vxlan(), view.vni(), view.policy()), (true, VNI, Some(7)));
            if v6 {
                let sum = pseudo_header(&bytes, &headers).unwrap().plus(Sum::of(&bytes[54..]));
                assert!(sum.is_right(), "{checksum:?}");
            }
            let inner = &bytes[headers.payload_offset as usize + 8..];
            let headers = packet::parse(inner, inner.len() as u32).unwrap();
            if checksum != Checksum::Unverified {
                assert!(pseudo_header(inner, &headers).unwrap().plus(Sum::of(&inner[34..])).is_right());
            }
            assert_eq!(bytes[..6], uplink_mac(2).0);
        }
    }
}

#[test]
fn between_subnets_the_sending_host_routes() {
    let mut hosts = pair(true, false, NONE, true);
    let frame = udp([guest_mac(1), gateway_mac(1)], [address(1, true), address(2, true)], 100);
    hosts[0].send(&frame, Offload::NONE);
    run(&mut hosts);
    let (seen, _) = hosts[1].receive().remove(0);
    assert_eq!((&seen[..6], &seen[6..12], seen[22]), (&guest_mac(2).0[..], &gateway_mac(2).0[..], 63));
    assert!(Sum::of(&seen[14..34]).is_right());
    assert_eq!(seen[26..], frame[26..]);
}

#[test]
fn a_large_send_crosses_whole_or_in_segments_and_means_the_same() {
    let tcp = |payload: usize| {
        let mut l4 = vec![0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
        l4.extend((0..payload).map(|at| (at % 251) as u8));
        let mut frame =
            ipv4([guest_mac(1), guest_mac(2)], [address(1, false), address(2, false)], 64, 6, &l4);
        let headers = packet::parse(&frame[..128], frame.len() as u32).unwrap();
        let pseudo = pseudo_header(&frame, &headers).unwrap().folded();
        frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
        frame
    };
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segment: Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1380 }),
        tunnel: 0,
    };
    for (takes, v6) in [(ALL, false), (ALL, true), (NONE, false), (NONE, true)] {
        let mut hosts = pair(false, v6, takes, true);
        hosts[0].send(&tcp(20_000), offload);
        run(&mut hosts);
        let seen = hosts[1].receive();
        let bytes: Vec<u8> = seen.iter().flat_map(|(frame, _)| frame[54..].to_vec()).collect();
        assert_eq!(bytes, tcp(20_000)[54..], "{v6} {:?} {:?}", hosts[0].drops(PORT), hosts[1].drops(UPLINK));
        // Cut on the way or not, a guest that takes large packets gets one.
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0], (tcp(20_000), offload));
    }
}

#[test]
fn p34_what_is_too_big_for_the_fabric_is_told_so() {
    let mut hosts = pair(false, false, NONE, true);
    hosts[0].send(&across(1403), Offload::NONE);
    run(&mut hosts);
    assert!(hosts[1].receive().is_empty());
    let (answer, _) = hosts[0].receive().remove(0);
    assert_eq!((answer[34], answer[35], &answer[40..42]), (3, 4, &1430u16.to_be_bytes()[..]));
    assert_eq!(
        (&answer[26..30], &answer[..6], &answer[6..12]),
        (&[10, 0, 0, 1][..], &guest_mac(1).0[..], &gateway_mac(0).0[..])
    );
    assert!(Sum::of(&answer[34..]).is_right());
}

#[test]
fn the_gateway_answers_pings_and_says_what_goes_no_further() {
    let mut hosts = pair(true, false, NONE, true);
    let echo = [8, 0, 0xf7, 0xfe, 0, 0, 0, 1];
    let macs = [guest_mac(1), gateway_mac(1)];
    let to = |last: [u8; 4], ttl| ipv4(macs, [address(1, true), last.into()], ttl, 1, &echo);
    let kind = |frame: &[u8]| (frame[34], frame[35]);
    let cases: [(_, u8, _); 6] = [
        ([10, 0, 1, 1], 64, Some((0, 0))),
        ([10, 0, 2, 1], 1, Some((0, 0))),
        ([10, 0, 2, 10], 1, Some((11, 0))),
        ([10, 0, 2, 77], 64, Some((3, 1))),
        ([172, 16, 0, 1], 64, Some((3, 0))),
        ([10, 9, 0, 1], 64, None),
    ];
    for (destination, ttl, expected) in cases {
        hosts[0].send(&to(destination, ttl), Offload::NONE);
        run(&mut hosts);
        let seen = hosts[0].receive();
        assert_eq!(
            seen.first().map(|(frame, _)| kind(frame)),
            expected,
            "{destination:?} {:?}",
            hosts[0].drops(PORT)
        );
        assert!(
            seen.iter()
                .all(|(frame, _)| Sum::of(&frame[34..]).is_right() && Sum::of(&frame[14..34]).is_right())
        );
    }
    assert_eq!(hosts[0].drops(PORT), [(DropReason::Blackhole, 1)]);
}

#[test]
fn packets_wait_for_the_next_hop_in_order_and_some_are_too_many() {
    let mut hosts = pair(false, false, NONE, false);
    for payload in 20..60 {
        hosts[0].send(&across(payload), Offload::NONE);
    }
    run(&mut hosts);
    assert!(hosts[1].receive().is_empty());
    assert_eq!(hosts[0].control.exceptions().wanted.pop(), Some(NEIGHBOUR));
    assert_eq!(hosts[0].control.exceptions().wanted.pop(), None, "asked for once");
    hosts[0].control.neighbours().set(NEIGHBOUR, Some(uplink_mac(2)));
    run(&mut hosts);
    let seen: Vec<_> = hosts[1].receive().into_iter().map(|(frame, _)| frame.len() - 42).collect();
    assert_eq!(seen, (20..52).collect::<Vec<_>>());
    assert_eq!(hosts[0].drops(PORT), [(DropReason::NeighbourUnresolved, 8)]);
}

#[test]
fn waiting_ends() {
    let mut hosts = pair(false, false, NONE, false);
    hosts[0].send(&across(20), Offload::NONE);
    run(&mut hosts);
    hosts[0].worker.step(4_000_000_000, &mut Still, &mut Unobserved);
    assert_eq!(hosts[0].drops(PORT), [(DropReason::NeighbourUnresolved, 1)]);
}

/// What host 2 sends to host 1, with some bytes replaced.
fn from_other(v6: bool, inner: &[u8], change: &[(usize, &[u8])]) -> Vec<u8> {
    let outer = vxlan::Outer::new(uplink_mac(2), underlay(2, v6), underlay(1, v6), 64).unwrap();
    let mut bytes = [outer.template(), inner].concat();
    let per = vxlan::PerPacket {
        destination_mac: uplink_mac(1),
        vni: VNI,
        policy: 0,
        source_port: 50_000,
        traffic_class: 0,
        inner_length: inner.len(),
    };
    outer.write(&mut bytes, &per).unwrap();
    if v6 {
        bytes[60..62].fill(0);
    }
    for (at, with) in change {
        bytes[*at..at + with.len()].copy_from_slice(with);
    }
    if !v6 {
        bytes[24..26].fill(0);
        let sum = Sum::of(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn back(payload: usize) -> Vec<u8> {
    udp([guest_mac(2), guest_mac(1)], [address(2, false), address(1, false)], payload)
}

#[test]
fn o01_to_o04_p25_to_p28_what_the_underlay_may_not_do() {
    use DropReason::{BadTunnel, TunnelSource, UnderlayNotOurs, UnknownUnicast, UnknownVni, UnknownVtep};
    let inner = back(100);
    let with_source = |ip: [u8; 4]| udp([guest_mac(2), guest_mac(1)], [ip.into(), address(1, false)], 100);
    let elsewhere =
        udp([guest_mac(2), MacAddr([2, 0, 0, 0, 5, 5])], [address(2, false), address(1, false)], 100);
    let cases: Vec<(&str, Vec<u8>, Option<DropReason>)> = vec![
        ("as it should be", from_other(false, &inner, &[]), None),
        ("reserved bits", from_other(false, &inner, &[(43, &[0xff, 0xff, 0xff]), (49, &[0xff])]), None),
        (
            "O-01 unknown tunnel end point",
            from_other(false, &inner, &[(26, &[192, 0, 2, 77])]),
            Some(UnknownVtep),
        ),
        ("P-26 unknown VNI", from_other(false, &inner, &[(46, &[1, 2, 3])]), Some(UnknownVni)),
        ("P-26 VNI 0", from_other(false, &inner, &[(46, &[0, 0, 0])]), Some(UnknownVni)),
        ("P-26 I flag off", from_other(false, &inner, &[(42, &[0])]), Some(BadTunnel)),
        ("P-25 VXLAN-GPE", from_other(false, &inner, &[(42, &[0x0c])]), Some(BadTunnel)),
        (
            "O-03 inner source lives here",
            from_other(false, &with_source([10, 0, 0, 10]), &[]),
            Some(TunnelSource),
        ),
        ("a broadcast source", from_other(false, &with_source([255; 4]), &[]), Some(TunnelSource)),
        ("O-04 nobody's MAC address", from_other(false, &elsewhere, &[]), Some(UnknownUnicast)),
        ("another station's", from_other(false, &inner, &[(0, &uplink_mac(7).0)]), Some(UnderlayNotOurs)),
        ("another address", from_other(false, &inner, &[(30, &[192, 0, 2, 9])]), Some(UnderlayNotOurs)),
        ("P-28 fragment", from_other(false, &inner[..96], &[(20, &[0x20, 0])]), Some(UnderlayNotOurs)),
        ("another port", from_other(false, &inner, &[(36, &[0x12, 0xb6])]), Some(UnderlayNotOurs)),
        ("P-26 truncated", from_other(false, &[], &[]), Some(BadTunnel)),
        ("P-26 13 bytes inside", from_other(false, &inner[..13], &[]), Some(BadTunnel)),
        ("UDP length short", from_other(false, &inner, &[(38, &[0, 60])]), Some(BadTunnel)),
        ("over IPv6 without checksum", from_other(true, &inner, &[]), None),
    ];
    for (name, frame, expected) in cases {
        let (mut host, mut inject, _observe) = alone(frame[12] == 0x86);
        inject.send(&[Frame::from_head(&frame, Offload::NONE)]);
        inject.flush();
        while host.step() > 0 {}
        let drops: Vec<_> = host.drops(UPLINK).into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(drops, expected.into_iter().collect::<Vec<_>>(), "{name}");
        assert_eq!(host.receive().len(), usize::from(expected.is_none()), "{name}");
    }
}

#[test]
fn p21_a_wrong_outer_checksum_is_seen() {
    for v6 in [false, true] {
        let at = if v6 { 60 } else { 40 };
        let (mut host, mut inject, _observe) = alone(v6);
        let frame = from_other(v6, &back(100), &[(at, &[0x12, 0x34])]);
        inject.send(&[Frame::from_head(&frame, Offload::NONE)]);
        while host.step() > 0 {}
        assert_eq!(host.drops(UPLINK), [(DropReason::TunnelChecksum, 1)]);
    }
}

#[test]
fn the_uplink_answers_for_its_own_addresses_alone() {
    let (mut host, mut inject, mut observe) = alone(false);
    let mut ask = |target: [u8; 4], operation: u8| {
        let mut arp = [[0xff; 6], uplink_mac(2).0].concat();
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
        arp.extend(uplink_mac(2).0);
        arp.extend([192, 0, 2, 2, 0, 0, 0, 0, 0, 0]);
        arp.extend(target);
        inject.send(&[Frame::from_head(&arp, Offload::NONE)]);
        while host.step() > 0 {}
        (received(&mut observe), host.control.exceptions().punts.pop().map(|punt| punt.kind))
    };
    let (answers, _) = ask([192, 0, 2, 1], 1);
    assert_eq!(
        (&answers[0].0[..6], &answers[0].0[22..32]),
        (&uplink_mac(2).0[..], &[2, 0, 0, 0, 9, 1, 192, 0, 2, 1][..])
    );
    assert_eq!(ask([192, 0, 2, 9], 1), (vec![], None));
    assert_eq!(ask([192, 0, 2, 1], 2), (vec![], Some(PuntKind::UnderlayNeighbour)));
}

#[test]
fn a_gateway_serves_stations_behind_tunnel_ends_of_others_too() {
    let (mut host, mut inject, mut observe) = alone(false);
    let source = underlay(2, false);
    let vtep = Vtep { address: source, sources: vec![source], is_host: false, neighbour: NEIGHBOUR };
    host.control.set_vtep(OTHER, vtep);
    host.control.publish();
    let mut exchange = |inner: &[u8]| {
        inject.send(&[Frame::from_head(&from_other(false, inner, &[]), Offload::NONE)]);
        while host.step() > 0 {}
        let back =
            received(&mut observe).into_iter().map(|(frame, _)| frame[50..].to_vec()).collect::<Vec<_>>();
        (back, host.receive().into_iter().map(|(frame, _)| frame).collect::<Vec<_>>())
    };
    let mut arp = [[0xff; 6], guest_mac(2).0].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(guest_mac(2).0);
    arp.extend(address(2, false).octets());
    arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let (answer, _) = exchange(&arp);
    assert_eq!((answer[0][21], &answer[0][22..28]), (2, &gateway_mac(0).0[..]));
    let to_gateway = [guest_mac(2), gateway_mac(0)];
    let (answer, _) = exchange(&ipv4(
        to_gateway,
        [address(2, false), [10, 0, 0, 1].into()],
        64,
        1,
        &[8, 0, 0xf7, 0xfe, 0, 0, 0, 1],
    ));
    assert_eq!((answer[0][34], &answer[0][..6]), (0, &guest_mac(2).0[..]));
    let (none, seen) = exchange(&udp(to_gateway, [address(2, false), address(1, false)], 20));
    assert_eq!((none.len(), seen[0][22], &seen[0][..6]), (0, 63, &guest_mac(1).0[..]));
    let (answer, none) = exchange(&udp(to_gateway, [address(2, false), [10, 0, 1, 77].into()], 20));
    assert_eq!((answer[0][34], answer[0][35], none.len()), (3, 1, 0), "nobody has the address");
    let stranger = udp([guest_mac(2), guest_mac(1)], [[10, 0, 0, 99].into(), address(1, false)], 20);
    assert_eq!(
        exchange(&stranger),
        (vec![], vec![]),
        "an address that nobody has is believed of towpathds alone"
    );
}
