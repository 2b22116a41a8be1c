//! What crosses, and how it comes out.

use crate::hosts::*;
use buf::{Checksum, Frame, Offload, Segment, SegmentKind};
use engine::{Armed, DropReason, TxQueue, Unobserved};
use packet::checksum::{Sum, pseudo_header};
use packet::{MacAddr, vxlan};
use std::net::IpAddr;
use switch::{UPLINK, Vtep};
use tables::{Endpoint, Location, NextHop, PortProfile, RouteTable, Vpc, vpc_space};
use towpath_switch as switch;

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
        // 53: an overlay of the guest's own, whose checksum begins to cover at an odd place.
        for start in [None, Some(34), Some(53)] {
            let mut frame = across(501);
            let checksum = start.map_or(Checksum::Unverified, |start| Checksum::Partial { start, offset: 6 });
            if let Some(start) = start.map(usize::from) {
                let headers = packet::parse(&frame[..128], frame.len() as u32).unwrap();
                let pseudo = pseudo_header(&frame, &headers).unwrap().folded();
                frame[start + 6..start + 8].copy_from_slice(&pseudo.to_be_bytes());
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
            if let Some(start) = start.map(usize::from) {
                assert!(pseudo_header(inner, &headers).unwrap().plus(Sum::of(&inner[start..])).is_right());
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
    assert_eq!(hosts[0].worker.deadline(), None);
    hosts[0].send(&across(20), Offload::NONE);
    run(&mut hosts);
    // Meanwhile the worker sleeps, if nothing else is to be done: until then, or until it is woken for a neighbour that was heard of.
    let due = hosts[0].worker.deadline().unwrap();
    assert_eq!((due, hosts[0].worker.arm(due - 1)), (3_000_000_000, Armed::Quiet));
    hosts[0].worker.disarm();
    hosts[0].control.neighbours().set(NEIGHBOUR + 1, Some(uplink_mac(2)));
    assert_eq!(hosts[0].worker.arm(due - 1), Armed::Ready);
    hosts[0].worker.step(due - 1, &mut Still, &mut Unobserved);
    assert_eq!((hosts[0].worker.arm(due - 1), hosts[0].drops(PORT)), (Armed::Quiet, vec![]));
    hosts[0].worker.disarm();
    assert_eq!(hosts[0].worker.arm(due), Armed::Ready);
    hosts[0].worker.step(due, &mut Still, &mut Unobserved);
    assert_eq!(hosts[0].drops(PORT), [(DropReason::NeighbourUnresolved, 1)]);
    assert_eq!((hosts[0].worker.arm(due), hosts[0].worker.deadline()), (Armed::Quiet, None));
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

#[test]
fn a_peering_leads_into_the_other_vpc_and_its_answers_back() {
    const PEER: u16 = 4;
    const PEER_VNI: u32 = 500;
    let mut hosts = pair(true, false, NONE, true);
    // The guest of host 2 is in another VPC now, which is peered with the first.
    let vpc = |vni, peer| Vpc {
        vni,
        mtu: 1430,
        directory: vec![],
        is_directory: false,
        peers: vec![peer],
        clamp_mss: false,
    };
    for (own, host) in (1..).zip(&mut hosts) {
        let control = &mut host.control;
        control.set_vpc(VPC, vpc(VNI, PEER), own == 1);
        control.set_vpc(PEER, vpc(PEER_VNI, VPC), own == 2);
        let mut subnet = control.network().subnet(2).unwrap().clone();
        (subnet.vpc, subnet.routes) = (PEER, Some(1));
        control.set_subnet(2, Some(subnet));
        let to = |prefix: &str, hop| (prefix.parse().unwrap(), hop);
        control.set_routes(
            0,
            Some(RouteTable::build([
                to("10.0.1.0/24", NextHop::Subnet(1)),
                to("10.0.2.0/24", NextHop::Vpc(PEER)),
            ])),
        );
        control.set_routes(
            1,
            Some(RouteTable::build([
                to("10.0.2.0/24", NextHop::Subnet(2)),
                to("10.0.1.0/24", NextHop::Vpc(VPC)),
            ])),
        );
        let (address, mac) = (IpAddr::V4(address(2, true)), guest_mac(2));
        control.forget_endpoint(VPC, address);
        let location = if own == 2 { Location::Local(PORT.0) } else { Location::Remote(OTHER) };
        control.place_endpoint(PEER, address, Endpoint { mac, subnet: 2, location });
        if own == 2 {
            control.forget_mac(vpc_space(VPC), mac);
            control.place_mac(vpc_space(PEER), mac, location);
            let profile = PortProfile::new(2, mac, 1430, &[address], &[]);
            control.set_profile(PORT, profile.in_vpc(PEER, gateway_mac(2), 7));
        }
        control.publish();
    }
    run(&mut hosts);
    let there = udp([guest_mac(1), gateway_mac(1)], [address(1, true), address(2, true)], 100);
    hosts[0].send(&there, Offload::NONE);
    run(&mut hosts);
    let (seen, _) = hosts[1].receive().remove(0);
    assert_eq!((&seen[6..12], seen[22], &seen[26..]), (&gateway_mac(2).0[..], 63, &there[26..]));
    let back = udp([guest_mac(2), gateway_mac(2)], [address(2, true), address(1, true)], 100);
    hosts[1].send(&back, Offload::NONE);
    run(&mut hosts);
    assert_eq!(hosts[0].receive()[0].0[26..], back[26..]);
    // Without the peering, the same source is nobody's in this VPC, and lives elsewhere in the other.
    let unpeered =
        Vpc { vni: VNI, mtu: 1430, directory: vec![], is_directory: false, peers: vec![], clamp_mss: false };
    hosts[0].control.set_vpc(VPC, unpeered, true);
    let (foreign, source) = (underlay(2, false), underlay(2, false));
    let vtep = Vtep { address: foreign, sources: vec![source], is_host: false, neighbour: NEIGHBOUR };
    hosts[0].control.set_vtep(OTHER, vtep);
    hosts[0].control.publish();
    hosts[1].send(&back, Offload::NONE);
    run(&mut hosts);
    assert_eq!(hosts[0].drops(UPLINK), [(DropReason::TunnelSource, 1)]);
}

#[test]
fn a_burst_to_as_many_hosts_as_it_has_packets_leaves_whole() {
    let (mut host, _inject, mut observe) = alone(false);
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 4, number]);
    for number in 0..40u8 {
        let (vtep, address) = (100 + u16::from(number), IpAddr::from([192, 0, 2, 100 + number]));
        let plan = Vtep { address, sources: vec![address], is_host: true, neighbour: NEIGHBOUR };
        host.control.set_vtep(vtep, plan);
        host.control.place_mac(0, mac(number), Location::Remote(vtep));
    }
    while host.step() > 0 {}
    let to = |number| udp([guest_mac(1), mac(number)], [address(1, false), address(2, false)], 50);
    (0..40).for_each(|number| host.send(&to(number), Offload::NONE));
    while host.step() > 0 {}
    let seen: Vec<_> = received(&mut observe).into_iter().map(|(frame, _)| (frame[33], frame[55])).collect();
    assert_eq!(seen, (0..40).map(|number| (100 + number, number)).collect::<Vec<_>>());
    assert_eq!(host.drops(PORT), []);
}

/// Host 1 gets, from host 2, what somebody at a third host sent to the guest of host 1.
fn sent_on(change: impl FnOnce(&mut switch::Control)) -> (usize, Vec<(DropReason, u64)>) {
    let (mut host, mut inject, _observe) = alone(false);
    let (third, mac) = (underlay(3, false), MacAddr([2, 0, 0, 0, 1, 3]));
    let vtep = Vtep { address: third, sources: vec![third], is_host: true, neighbour: NEIGHBOUR };
    host.control.set_vtep(6, vtep);
    let endpoint = Endpoint { mac, subnet: 0, location: Location::Remote(6) };
    host.control.place_endpoint(VPC, IpAddr::V4(address(3, false)), endpoint);
    change(&mut host.control);
    host.control.publish();
    let frame = udp([mac, guest_mac(1)], [address(3, false), address(1, false)], 50);
    inject.send(&[Frame::from_head(&from_other(false, &frame, &[]), Offload::NONE)]);
    while host.step() > 0 {}
    (host.receive().len(), host.drops(UPLINK))
}

#[test]
fn a_host_of_the_directory_sends_on_what_others_do_not_know() {
    let vpc =
        |directory, is_directory| Vpc { vni: VNI, mtu: 1430, directory, is_directory, ..Vpc::default() };
    assert_eq!(sent_on(|control| control.set_vpc(VPC, vpc(vec![OTHER], false), true)), (1, vec![]));
    // Host 1 knows only that host 2 is of the directory; host 2 knows where the address is: at itself.
    let mut hosts = pair(true, false, NONE, true);
    hosts[0].control.set_vpc(VPC, vpc(vec![OTHER], false), true);
    hosts[0].control.forget_endpoint(VPC, IpAddr::V4(address(2, true)));
    hosts[0].control.publish();
    hosts[1].control.set_vpc(VPC, vpc(vec![], true), true);
    hosts[1].control.publish();
    let frame = udp([guest_mac(1), gateway_mac(1)], [address(1, true), address(2, true)], 50);
    hosts[0].send(&frame, Offload::NONE);
    run(&mut hosts);
    let (seen, _) = hosts[1].receive().remove(0);
    assert_eq!((&seen[..6], &seen[26..]), (&guest_mac(2).0[..], &frame[26..]));
}
