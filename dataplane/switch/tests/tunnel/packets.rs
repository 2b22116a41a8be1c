//! Packets that break protocols: on a port, and inside a tunnel, where they end for the same reason.

use crate::hosts::*;
use buf::{Frame, Offload};
use engine::{DropReason, TxQueue};
use std::net::Ipv4Addr;
use switch::UPLINK;
use towpath_switch as switch;

/// From the guest of host `from` to the other one's, or with other bytes.
fn frame(from: u8, change: &[(usize, &[u8])]) -> Vec<u8> {
    let to = 3 - from;
    let macs = [guest_mac(from), guest_mac(to)];
    let mut frame = udp(macs, [address(from, false), address(to, false)], 40);
    for (at, bytes) in change {
        frame[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    frame
}

/// The same with other bytes behind its Ethernet addresses.
fn with_rest(from: u8, rest: &[u8]) -> Vec<u8> {
    [&frame(from, &[])[..12], rest].concat()
}

fn ipv6(from: u8, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut rest = vec![0x86, 0xdd, 0x60, 0, 0, 0];
    rest.extend((payload.len() as u16).to_be_bytes());
    rest.extend([next_header, 64]);
    rest.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, from]);
    rest.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3 - from]);
    rest.extend(payload);
    with_rest(from, &rest)
}

/// What each breaks, and why it ends.
fn cases(from: u8) -> Vec<(&'static str, Vec<u8>, DropReason)> {
    use DropReason::*;
    let changed = |change: &[(usize, &[u8])]| frame(from, change);
    vec![
        ("P-07 length field", with_rest(from, &[0, 46, 0xaa, 0xaa, 3, 0, 0, 0]), Llc),
        ("P-07 no payload", frame(from, &[])[..14].to_vec(), Runt),
        ("P-08 16 tags", with_rest(from, &[[0x81, 0, 0, 1]; 16].concat()), VlanDepth),
        ("P-08 tag without a type", with_rest(from, &[0x81, 0, 0]), VlanTruncated),
        (
            "P-08, T-23 a tag",
            with_rest(from, &[&[0x81, 0, 0, 5], &frame(from, &[])[12..]].concat()),
            VlanTagged,
        ),
        ("P-10 IHL below 5", changed(&[(14, &[0x44])]), Ipv4HeaderLength),
        ("P-10 IHL above the total length", changed(&[(14, &[0x4f]), (16, &[0, 40])]), Ipv4HeaderLength),
        ("P-10 total above the frame", changed(&[(16, &[0xff, 0xff])]), Ipv4TotalLength),
        ("P-10 another version", changed(&[(14, &[0x65])]), Ipv4Version),
        ("P-10 truncated", frame(from, &[])[..30].to_vec(), Ipv4Truncated),
        ("P-12 UDP length 0", changed(&[(38, &[0, 0])]), UdpLength),
        ("P-12 UDP length above IP's", changed(&[(38, &[0, 200])]), UdpLength),
        ("P-12 TCP cut off", changed(&[(16, &[0, 30]), (23, &[6])]), L4Truncated),
        ("P-12 TCP data offset 4", changed(&[(23, &[6]), (46, &[0x40])]), TcpHeaderLength),
        (
            "P-13 payload above the frame",
            with_payload_length(ipv6(from, 17, &[0; 20]), 60),
            Ipv6PayloadLength,
        ),
        (
            "P-13 jumbogram",
            with_payload_length(ipv6(from, 0, &[17, 0, 0xc2, 4, 0, 1, 0, 0]), 0),
            Ipv6Jumbogram,
        ),
        (
            "P-14 100 extension headers",
            ipv6(from, 60, &[[60, 0, 1, 4, 0, 0, 0, 0]; 9].concat()),
            Ipv6ExtensionCount,
        ),
        (
            "P-14 hop-by-hop behind others",
            ipv6(from, 60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]),
            Ipv6ExtensionOrder,
        ),
        ("P-14 extension past the packet", ipv6(from, 60, &[17, 9, 1, 4, 0, 0, 0, 0]), Ipv6ExtensionLength),
        (
            "P-14 routing type 0",
            ipv6(from, 43, &[&[17, 2, 0, 1, 0, 0, 0, 0][..], &[1; 16]].concat()),
            Ipv6Routing,
        ),
        (
            "P-16 ARP for another network",
            with_rest(from, &[&[8, 6, 0, 1, 0x86, 0xdd, 6, 16, 0, 1][..], &[0; 40]].concat()),
            ArpFormat,
        ),
        ("P-16 ARP cut off", with_rest(from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 0, 0]), ArpTruncated),
        ("P-30 overlapping the header", changed(&[(20, &[0, 1]), (23, &[6])]), FragmentOverlap),
        ("P-31 past the longest datagram", changed(&[(20, &[0x1f, 0xff])]), FragmentOverrun),
        ("P-31 not a multiple of 8", changed(&[(16, &[0, 67]), (20, &[0x20, 0])]), FragmentLength),
        (
            "P-32 a tiny first fragment",
            changed(&[(16, &[0, 28]), (20, &[0x20, 0]), (23, &[6])]),
            FragmentTiny,
        ),
        ("P-40 LLDP", with_rest(from, &[&[0x88, 0xcc][..], &[0; 46]].concat()), EtherTypeRefused),
        ("T-19, P-20 MPLS", with_rest(from, &[&[0x88, 0x47][..], &[0; 46]].concat()), EtherTypeRefused),
    ]
}

fn with_payload_length(mut frame: Vec<u8>, length: u16) -> Vec<u8> {
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

#[test]
fn p07_to_p40_what_breaks_a_protocol_ends_for_the_same_reason_on_a_port_and_in_a_tunnel() {
    for ((name, outgoing, reason), (_, incoming, _)) in cases(1).into_iter().zip(cases(2)) {
        let (mut host, mut inject, mut observe) = alone(false);
        host.send(&outgoing, Offload::NONE);
        while host.step() > 0 {}
        assert_eq!(host.drops(PORT), [(reason, 1)], "{name}");
        inject.send(&[Frame::from_head(&from_other(false, &incoming, &[]), Offload::NONE)]);
        while host.step() > 0 {}
        assert_eq!(host.drops(UPLINK), [(reason, 1)], "{name}, inside a tunnel");
        assert!(host.receive().is_empty() && received(&mut observe).is_empty(), "{name}");
    }
}

/// P-43: a port that sends nothing but these costs no more steps than an honest one, no memory, and nothing of the control thread. What it costs in
/// time is a benchmark of `stages`.
#[test]
fn p43_invalid_packets_cost_no_step_more_no_memory_and_nobody_elses_work() {
    const BURST: u32 = 32;
    let (mut host, _inject, mut observe) = alone(false);
    let mut work = |outgoing: &[u8]| {
        (0..BURST).for_each(|_| host.send(outgoing, Offload::NONE));
        let mut steps = 0;
        let memory = allocation_counter::measure(|| {
            while host.step() > 0 {
                steps += 1;
            }
        });
        assert!(host.control.exceptions().is_empty());
        (steps, memory.count_total, received(&mut observe).len())
    };
    // The first burst may be the first time that something is set up.
    work(&frame(1, &[]));
    let (steps, memory, delivered) = work(&frame(1, &[]));
    assert_eq!((memory, delivered), (0, BURST as usize));
    for (name, outgoing, _) in cases(1) {
        let cost = work(&outgoing);
        assert!(cost.0 <= steps, "{name}: {} steps, {steps} for what is valid", cost.0);
        assert_eq!((cost.1, cost.2), (0, 0), "{name}");
    }
}

#[test]
fn p11_padding_is_carried_and_changes_nothing() {
    let (mut host, mut inject, mut observe) = alone(false);
    for padding in [1, 100, 1300] {
        let padded = |from: u8| [frame(from, &[]), vec![0xee; padding]].concat();
        host.send(&padded(1), Offload::NONE);
        inject.send(&[Frame::from_head(&from_other(false, &padded(2), &[]), Offload::NONE)]);
        while host.step() > 0 {}
        assert_eq!(received(&mut observe)[0].0[50..], padded(1));
        assert_eq!(host.receive()[0].0, padded(2));
    }
}

#[test]
fn p18_sources_that_nobody_can_have_pass_nowhere() {
    let from = |source: [u8; 4], host: u8| {
        let macs = [guest_mac(host), guest_mac(3 - host)];
        udp(macs, [Ipv4Addr::from(source), address(3 - host, false)], 40)
    };
    let (bogus, spoofed) = (DropReason::BogusSource, DropReason::SpoofedAddress);
    for (source, of_port) in [
        ([0, 0, 0, 0], bogus),
        ([0, 1, 2, 3], spoofed),
        ([127, 0, 0, 1], bogus),
        ([169, 254, 3, 4], spoofed),
        ([224, 0, 0, 1], bogus),
        ([240, 0, 0, 1], spoofed),
        ([255, 255, 255, 255], bogus),
    ] {
        let (mut host, mut inject, _observe) = alone(false);
        host.send(&from(source, 1), Offload::NONE);
        inject.send(&[Frame::from_head(&from_other(false, &from(source, 2), &[]), Offload::NONE)]);
        while host.step() > 0 {}
        assert_eq!(host.drops(PORT), [(of_port, 1)], "{source:?}");
        assert_eq!(host.drops(UPLINK), [(DropReason::TunnelSource, 1)], "{source:?}");
    }
    // From a towpathd, an address that nobody is known to have passes otherwise: its Port may be newer than this host's manifests.
    for (source, passes) in [
        ("2001:db8::77", true),
        ("fe80::77", true),
        ("::", false),
        ("::1", false),
        ("ff02::1", false),
        ("::ffff:10.0.0.20", false),
        ("::10.0.0.20", false),
    ] {
        let (mut host, mut inject, _observe) = alone(false);
        let mut inner = ipv6(2, 17, &[3, 232, 3, 233, 0, 9, 0x12, 0x34, 1]);
        inner[22..38].copy_from_slice(&source.parse::<std::net::Ipv6Addr>().unwrap().octets());
        inject.send(&[Frame::from_head(&from_other(false, &inner, &[]), Offload::NONE)]);
        while host.step() > 0 {}
        let drops: &[_] = if passes { &[] } else { &[(DropReason::TunnelSource, 1)] };
        assert_eq!(
            (host.drops(UPLINK).as_slice(), host.receive().len()),
            (drops, usize::from(passes)),
            "{source}"
        );
    }
}

#[test]
fn o05_p27_a_guest_that_speaks_vxlan_is_a_guest_that_speaks_udp() {
    let (mut host, mut inject, mut observe) = alone(false);
    // From a guest, to the tunnel end point of its own host and to the other one.
    let inside = from_other(false, &back(40), &[]);
    let speaks = |addresses: [Ipv4Addr; 2], to| {
        let mut frame = udp([guest_mac(1), to], addresses, inside.len() - 42);
        frame[34..38].copy_from_slice(&[0xc3, 0x50, 0x12, 0xb5]);
        frame[42..].copy_from_slice(&inside[42..]);
        frame
    };
    host.send(&speaks([address(1, false), [192, 0, 2, 1].into()], gateway_mac(0)), Offload::NONE);
    host.send(&speaks([address(1, false), address(2, false)], guest_mac(2)), Offload::NONE);
    while host.step() > 0 {}
    let (answer, _) = host.receive().remove(0);
    assert_eq!((answer[34], answer[35]), (3, 0), "O-06: no route leads to the underlay");
    let carried = received(&mut observe);
    assert_eq!(carried.len(), 1);
    // From the other host: a tunnel in a tunnel is the inner guest's own business.
    let mut nested =
        udp([guest_mac(2), guest_mac(1)], [address(2, false), address(1, false)], inside.len() - 42);
    nested[34..38].copy_from_slice(&[0xc3, 0x50, 0x12, 0xb5]);
    nested[42..].copy_from_slice(&inside[42..]);
    inject.send(&[Frame::from_head(&from_other(false, &nested, &[]), Offload::NONE)]);
    while host.step() > 0 {}
    assert_eq!(host.receive(), [(nested, Offload::NONE)]);
}
