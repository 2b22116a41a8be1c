//! Against etherparse, which was written by others: what it makes of a frame, we make of it too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use etherparse::{InternetSlice, LaxNetSlice, LaxSlicedPacket, LinkExtSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use support::*;
use towpath_packet::{Fragment, Headers, L3, L4, ParseError};

/// Frames built by etherparse.
fn built() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..200);
    let link = (0u16..3, 1u16..4095, 1u16..4095);
    let net = (any::<bool>(), any::<u128>(), any::<u128>(), 0usize..3);
    (link, net, 0u8..5, any::<(u16, u16, u32)>(), payload).prop_map(
        |(
            (tags, outer, inner),
            (is_v6, from, to, options),
            transport,
            (source, destination, word),
            payload,
        )| {
            use etherparse::*;
            let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            let ip = if is_v6 {
                IpHeaders::Ipv6(
                    Ipv6Header {
                        hop_limit: 64,
                        source: from.to_be_bytes(),
                        destination: to.to_be_bytes(),
                        ..Default::default()
                    },
                    Ipv6Extensions {
                        destination_options: (options > 0)
                            .then(|| Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]).unwrap()),
                        ..Default::default()
                    },
                )
            } else {
                IpHeaders::Ipv4(
                    Ipv4Header {
                        time_to_live: 64,
                        source: (from as u32).to_be_bytes(),
                        destination: (to as u32).to_be_bytes(),
                        options: [1u8; 40][..options * 4].try_into().unwrap(),
                        ..Default::default()
                    },
                    Ipv4Extensions::default(),
                )
            };
            let builder = match tags {
                0 => ethernet.ip(ip),
                1 => ethernet.single_vlan(VlanId::try_new(outer).unwrap()).ip(ip),
                _ => ethernet
                    .double_vlan(VlanId::try_new(outer).unwrap(), VlanId::try_new(inner).unwrap())
                    .ip(ip),
            };
            let mut frame = Vec::new();
            match (transport, is_v6) {
                (0 | 1, _) => builder.tcp(source, destination, word, 100).write(&mut frame, &payload),
                (2 | 3, _) => builder.udp(source, destination).write(&mut frame, &payload),
                (_, false) => builder.icmpv4_echo_request(source, destination).write(&mut frame, &payload),
                (_, true) => builder.icmpv6_echo_request(source, destination).write(&mut frame, &payload),
            }
            .unwrap();
            frame
        },
    )
}

/// Where a slice lies in the frame it was cut from.
fn offset_in(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

/// Compares everything both sides speak of.
fn compare(frame: &[u8], ours: &Headers, theirs: &SlicedPacket<'_>) {
    let tags: Vec<_> = theirs
        .link_exts
        .iter()
        .filter_map(|ext| match ext {
            LinkExtSlice::Vlan(tag) => Some(tag.vlan_identifier().value()),
            LinkExtSlice::Macsec(_) => None,
        })
        .collect();
    assert_eq!(usize::from(ours.tag_count()), tags.len());
    assert_eq!(usize::from(ours.vlan_count), tags.iter().filter(|id| **id != 0).count());
    assert_eq!(ours.vlan_id, tags.iter().copied().find(|id| *id != 0).unwrap_or(0));
    let fragmented = match &theirs.net {
        Some(InternetSlice::Ipv4(ip)) => {
            assert_eq!(ours.l3, L3::Ipv4);
            assert_eq!(usize::from(ours.l3_offset), offset_in(frame, ip.header().slice()));
            assert_eq!(ours.l3_length, u32::from(ip.header().total_len()));
            assert_eq!(ours.source_ip(frame), Some(ip.header().source_addr().into()));
            assert_eq!(ours.destination_ip(frame), Some(ip.header().destination_addr().into()));
            ip.is_payload_fragmented()
        }
        Some(InternetSlice::Ipv6(ip)) => {
            assert_eq!(ours.l3, L3::Ipv6);
            assert_eq!(ours.l3_length, 40 + u32::from(ip.header().payload_length()));
            assert_eq!(ours.source_ip(frame), Some(ip.header().source_addr().into()));
            assert_eq!(ours.destination_ip(frame), Some(ip.header().destination_addr().into()));
            ip.is_payload_fragmented()
        }
        Some(InternetSlice::Arp(_)) | None => false,
    };
    assert_eq!(ours.fragment != Fragment::Whole, fragmented);
    if fragmented {
        return;
    }
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(ours.l4, L4::Tcp);
            assert_eq!(
                (ours.source_port, ours.destination_port),
                (tcp.source_port(), tcp.destination_port())
            );
            assert_eq!(usize::from(ours.l4_offset), offset_in(frame, tcp.slice()));
            assert_eq!(usize::from(ours.payload_offset), offset_in(frame, tcp.payload()));
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(ours.l4, L4::Udp);
            assert_eq!(
                (ours.source_port, ours.destination_port),
                (udp.source_port(), udp.destination_port())
            );
            assert_eq!(usize::from(ours.l4_offset), offset_in(frame, udp.slice()));
        }
        // etherparse reads each ICMP in either family; the other family's number is just a number to us.
        Some(TransportSlice::Icmpv4(_)) if ours.l3 == L3::Ipv6 => assert_eq!(ours.l4, L4::Other),
        Some(TransportSlice::Icmpv6(_)) if ours.l3 == L3::Ipv4 => assert_eq!(ours.l4, L4::Other),
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!((ours.l4, usize::from(ours.l4_offset)), (L4::Icmp, offset_in(frame, icmp.slice())));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!((ours.l4, usize::from(ours.l4_offset)), (L4::Icmpv6, offset_in(frame, icmp.slice())));
        }
        Some(TransportSlice::Igmp(_)) | None => assert!(!matches!(ours.l4, L4::Tcp | L4::Udp)),
    }
}

/// Refusals of ours for reasons etherparse has no eye for, or where it is lenient by design.
fn stricter(error: ParseError) -> bool {
    !matches!(
        error,
        ParseError::Ipv4Version
            | ParseError::Ipv4Truncated
            | ParseError::Ipv6Version
            | ParseError::Ipv6Truncated
            | ParseError::Ipv4HeaderLength
            | ParseError::Ipv4TotalLength
            | ParseError::L4Truncated
            | ParseError::TcpHeaderLength
    )
}

/// etherparse takes an IPv6 payload length of 0 for "up to the end of the frame"; P-13 has it dropped.
fn zero_length(theirs: &SlicedPacket<'_>) -> bool {
    matches!(&theirs.net, Some(InternetSlice::Ipv6(ip)) if ip.header().payload_length() == 0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_on_well_formed_frames(frame in built()) {
        let ours = parse(&frame).unwrap();
        compare(&frame, &ours, &SlicedPacket::from_ethernet(&frame).unwrap());
    }

    #[test]
    fn agrees_on_damaged_frames(
        mut frame in built(), at in any::<prop::sample::Index>(), value: u8, length in any::<prop::sample::Index>(), cut: bool
    ) {
        let header_bytes = frame.len().min(80);
        frame[at.index(header_bytes)] = value;
        if cut {
            frame.truncate(length.index(frame.len()));
        }
        match (parse(&frame), SlicedPacket::from_ethernet(&frame)) {
            (Ok(ours), Ok(theirs)) => compare(&frame, &ours, &theirs),
            (Err(_), Err(_)) => {}
            (Err(error), Ok(theirs)) => {
                prop_assert!(stricter(error) || zero_length(&theirs), "{error:?}, but etherparse reads {theirs:?}");
            }
            // MACsec, the lengths that single ICMP types have: what we do not look into, it may refuse to read.
            (Ok(ours), Err(error)) => prop_assert!(
                !ours.has_ports(), "{ours:?}, but etherparse: {error:?}"
            ),
        }
    }

    #[test]
    fn lax_reading_never_sees_ports_that_we_do_not(frame in built(), padding in 0usize..60) {
        let mut padded = frame.clone();
        padded.extend(vec![0xa5; padding]);
        let theirs = LaxSlicedPacket::from_ethernet(&padded).unwrap();
        let ours = parse(&padded).unwrap();
        prop_assert_eq!(ours.is_ip(), matches!(theirs.net, Some(LaxNetSlice::Ipv4(_) | LaxNetSlice::Ipv6(_))));
        prop_assert_eq!(parse(&frame).unwrap(), ours);
    }
}
