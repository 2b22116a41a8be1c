//! What a hostile underlay may not do.

use crate::hosts::*;
use buf::{Frame, Offload};
use engine::{DropReason, PuntKind, TxQueue};
use packet::MacAddr;
use packet::checksum::{Sum, pseudo_header_v6};
use ports::loopback::{LoopbackRx, LoopbackTx};
use std::net::IpAddr;
use switch::{UPLINK, Vtep};
use tables::{Location, late_mac, vpc_space};
use towpath_switch as switch;

#[test]
fn o01_to_o04_p25_to_p28_what_the_underlay_may_not_do() {
    use DropReason::{
        BadTunnel, BogusSource, TunnelSource, UnderlayNotOurs, UnknownUnicast, UnknownVni, UnknownVtep,
    };
    let inner = back(100);
    let mac_of = |mac| udp([mac, guest_mac(1)], [address(2, false), address(1, false)], 100);
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
        (
            "O-03 inner MAC address of a port here",
            from_other(false, &mac_of(guest_mac(1)), &[]),
            Some(TunnelSource),
        ),
        (
            "inner MAC address of a group",
            from_other(false, &mac_of(MacAddr([3, 0, 0, 0, 1, 2])), &[]),
            Some(BogusSource),
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
fn late_packets_for_a_port_that_moved_here_come_by_the_host_it_left() {
    let source = underlay(3, false);
    let third = |is_host| Vtep { address: source, sources: vec![source], is_host, neighbour: NEIGHBOUR };
    let late = late_mac(guest_mac(1));
    let foreign_source = udp([guest_mac(2), guest_mac(1)], [address(1, false), address(1, false)], 100);
    for (what, from, is_host, inner, passes) in [
        ("from where it was", Some(Location::Remote(6)), true, back(100), true),
        ("it was nowhere", None, true, back(100), false),
        ("it was elsewhere", Some(Location::Remote(OTHER)), true, back(100), false),
        ("no towpathd", Some(Location::Remote(6)), false, back(100), false),
        ("in the name of a port here", Some(Location::Remote(6)), true, foreign_source, false),
    ] {
        let (mut host, mut inject, _observe) = alone(false);
        host.control.set_vtep(6, third(is_host));
        host.control.publish();
        if let Some(from) = from {
            host.control.place_mac(vpc_space(VPC), late, from);
        }
        inject.send(&[Frame::from_head(&from_other(false, &inner, &[(29, &[3])]), Offload::NONE)]);
        while host.step() > 0 {}
        let drops: &[_] = if passes { &[] } else { &[(DropReason::TunnelSource, 1)] };
        assert_eq!((host.receive().len(), &host.drops(UPLINK)[..]), (usize::from(passes), drops), "{what}");
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

/// What hosts 5 (at 192.0.2.2) and 6 (at 192.0.2.3) get heard: so many broadcasts of each, at once.
fn heard(broadcasts: [usize; 2]) -> ([usize; 2], Vec<(DropReason, u64)>) {
    let (mut host, mut inject, _observe) = alone(false);
    let source = underlay(3, false);
    let third = Vtep { address: source, sources: vec![source], is_host: true, neighbour: NEIGHBOUR };
    host.control.set_vtep(6, third);
    host.control.publish();
    let mut counts = [0; 2];
    for (at, count) in broadcasts.into_iter().enumerate() {
        let to_all = [guest_mac(2 + at as u8), MacAddr::BROADCAST];
        let addresses = [[10, 0, 0, 20 + 40 * at as u8].into(), [10, 0, 0, 255].into()];
        let frame = from_other(false, &udp(to_all, addresses, 40), &[(29, &[2 + at as u8])]);
        for _ in 0..count {
            assert_eq!(inject.send(&[Frame::from_head(&frame, Offload::NONE)]).sent, 1);
            inject.flush();
            while host.step() > 0 {}
            while let Some(punt) = host.control.exceptions().punts.pop() {
                assert_eq!(punt.kind, PuntKind::Broadcast);
                counts[usize::from(punt.origin.unwrap().vtep - OTHER)] += 1;
            }
        }
    }
    (counts, host.drops(UPLINK))
}

#[test]
fn what_one_host_floods_does_not_keep_another_from_being_heard() {
    let (counts, drops) = heard([3000, 100]);
    assert_eq!((counts, drops), ([250, 100], vec![(DropReason::ServiceBudget, 2750)]));
}

/// An ARP message of host `from`, which says that it is at `mac`, about `target`.
fn arp(operation: u8, (from, mac): (u8, MacAddr), target: [u8; 4]) -> Vec<u8> {
    let mut arp = [[0xff; 6], mac.0].concat();
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    arp.extend(mac.0);
    arp.extend([192, 0, 2, from, 0, 0, 0, 0, 0, 0]);
    arp.extend(target);
    arp
}

/// A solicitation of host 1 by host `from`, which says that it is at `mac`, if it does.
fn solicitation(from: u8, mac: Option<MacAddr>) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(target)) = (underlay(from, true), underlay(1, true)) else {
        return Vec::new();
    };
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend(mac.iter().flat_map(|mac| [&[1, 1][..], &mac.0].concat()));
    let mut frame = [uplink_mac(1).0, mac.unwrap_or(uplink_mac(from)).0].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(&message);
    let sum = pseudo_header_v6(source, target, 58, message.len() as u32).plus(Sum::of(&message)).finish();
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// What a host answers to a frame of the underlay, and what it leaves to the control thread.
fn asked(
    host: &mut Host,
    wire: (&mut LoopbackTx, &mut LoopbackRx),
    frame: &[u8],
) -> (Vec<Vec<u8>>, Option<PuntKind>) {
    wire.0.send(&[Frame::from_head(frame, Offload::NONE)]);
    while host.step() > 0 {}
    let answers = received(wire.1).into_iter().map(|(bytes, _)| bytes).collect();
    (answers, host.control.exceptions().punts.pop().map(|punt| punt.kind))
}

#[test]
fn the_uplink_answers_for_its_own_addresses_alone() {
    let (mut host, mut inject, mut observe) = alone(false);
    let mut ask = |operation: u8, target: [u8; 4]| {
        let question = arp(operation, (2, uplink_mac(2)), target);
        asked(&mut host, (&mut inject, &mut observe), &question)
    };
    let (answers, _) = ask(1, [192, 0, 2, 1]);
    assert_eq!(
        (&answers[0][..6], &answers[0][22..32]),
        (&uplink_mac(2).0[..], &[2, 0, 0, 0, 9, 1, 192, 0, 2, 1][..])
    );
    assert_eq!(ask(1, [192, 0, 2, 9]), (vec![], None));
    assert_eq!(ask(2, [192, 0, 2, 1]), (vec![], Some(PuntKind::UnderlayNeighbour)));
    // Who announces itself is a neighbour that may have moved: the sender is 192.0.2.2.
    assert_eq!(ask(1, [192, 0, 2, 2]), (vec![], Some(PuntKind::UnderlayNeighbour)));
}

#[test]
fn o09_a_next_hop_that_asks_from_elsewhere_is_heard_and_nobody_else() {
    let (moved, here, other) = (uplink_mac(7), [192, 0, 2, 1], [192, 0, 2, 9]);
    let news = (vec![], Some(PuntKind::UnderlayNeighbour));
    let (mut host, mut inject, mut observe) = alone(false);
    let mut ask = |frame: &[u8]| asked(&mut host, (&mut inject, &mut observe), frame);
    assert_eq!(ask(&arp(1, (2, moved), here)), news, "answered by who hears it");
    assert_eq!(ask(&arp(1, (2, moved), other)), news);
    assert_eq!(ask(&arp(1, (254, moved), other)), news, "a router");
    assert_eq!(ask(&arp(1, (2, uplink_mac(2)), other)), (vec![], None), "it is where it was");
    assert_eq!(ask(&arp(1, (3, moved), other)), (vec![], None), "a stranger");
    assert_eq!(ask(&arp(1, (3, moved), here)).0.len(), 1, "he is answered");
    let (mut host, mut inject, mut observe) = alone(true);
    let mut ask = |frame: &[u8]| asked(&mut host, (&mut inject, &mut observe), frame);
    assert_eq!(ask(&solicitation(2, Some(moved))), news);
    assert_eq!(ask(&solicitation(254, Some(moved))), news, "a router");
    for (from, mac) in [(2, Some(uplink_mac(2))), (2, None), (3, Some(moved))] {
        let (answers, punt) = ask(&solicitation(from, mac));
        assert_eq!((answers.len(), punt), (1, None), "{from} {mac:?}");
    }
}
