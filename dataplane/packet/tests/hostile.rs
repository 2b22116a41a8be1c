//! Hostile packets: `P-..` are the numbers of the catalogue of hostile cases; the verdict is a named refusal or a
//! classification that claims nothing the packet does not hold.

mod support;

use proptest::prelude::*;
use support::*;
use towpath_packet::{Fragment, Headers, L3, L4, ParseError, parse as parse_head, udp as udp_constants};

/// Every packet kind of the tests, well formed.
fn corpus() -> Vec<Vec<u8>> {
    let mut frames = vec![
        V4::new(17).frame(&udp(1000, 2000, b"payload")),
        V4::new(6).frame(&tcp(1000, 2000, &[1; 12], b"payload")),
        V4 { options: vec![1; 8], ..V4::new(6) }.frame(&tcp(1, 2, &[], b"")),
        V4::new(132).frame(&sctp(5, 6)),
        V4::new(1).frame(&[8, 0, 0, 0, 0, 1, 0, 1]),
        V4::new(47).frame(&[0; 8]),
        V4 { fragment: 0x2000, ..V4::new(17) }.frame(&udp(1, 2, &[0; 16])),
        V4 { fragment: 0x0004, ..V4::new(17) }.frame(&[0; 16]),
        v6(17, &udp(1000, 2000, b"payload")),
        v6(6, &tcp(1000, 2000, &[1; 12], b"payload")),
        v6(58, &[128, 0, 0, 0, 0, 1, 0, 1]),
        v6(0, &[&[60u8, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0][..], &udp(7, 8, b"x")].concat()),
        v6(43, &[&[17u8, 2, 4, 1, 0, 0, 0, 0][..], &[0; 16], &udp(7, 8, b"x")].concat()),
        v6(44, &[&[17u8, 0, 0, 1, 0, 0, 0, 9][..], &udp(7, 8, &[0; 16])].concat()),
        v6(51, &[&[17u8, 4, 0, 0][..], &[0; 20], &udp(7, 8, b"x")].concat()),
        ethernet(0x0806, &[&[0u8, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat()),
        ethernet(0x88cc, &[0; 30]),
    ];
    let tagged_frames: Vec<_> = frames
        .iter()
        .flat_map(|f| [tagged(f, &[(0x8100, 5)]), tagged(f, &[(0x88a8, 7), (0x8100, 5)])])
        .collect();
    frames.extend(tagged_frames);
    frames
}

/// What must hold of any accepted packet.
fn assert_honest(frame: &[u8], headers: &Headers) {
    let end = headers.l3_end() as usize;
    assert!(end <= frame.len(), "declared beyond the frame");
    let offsets = [headers.l3_offset, headers.l4_offset, headers.payload_offset].map(usize::from);
    assert!(offsets.is_sorted() && offsets[2] <= HEAD && offsets[2] <= end, "{headers:?}");
    if headers.has_ports() {
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!(headers.source_port, port(offsets[1]));
        assert_eq!(headers.destination_port, port(offsets[1] + 2));
        assert!(offsets[1] + 8 <= end);
    } else {
        assert_eq!((headers.source_port, headers.destination_port), (0, 0));
    }
    assert!(headers.fragment != Fragment::Later || headers.l4 == L4::None);
}

#[test]
fn well_formed_corpus_is_accepted() {
    for frame in corpus() {
        let headers = parse(&frame).unwrap_or_else(|error| panic!("{error}: {frame:02x?}"));
        assert_honest(&frame, &headers);
    }
}

#[test]
fn every_truncation_is_refused_or_honest() {
    for frame in corpus() {
        for length in 0..frame.len() {
            if let Ok(headers) = parse(&frame[..length]) {
                assert_honest(&frame[..length], &headers);
                // Cutting an IP packet contradicts its own length field.
                assert!(!headers.is_ip(), "cut to {length}: {headers:?}");
            }
            // The same when only the head is short: what is missing is never taken for absent.
            match parse_head(&frame[..length], frame.len() as u32) {
                Ok(headers) => assert_eq!(Ok(headers), parse(&frame)),
                Err(error) => assert_eq!(error, ParseError::HeaderTooLong, "head of {length} bytes"),
            }
        }
    }
}

#[test]
fn bytes_beyond_the_frame_are_not_read() {
    for frame in corpus() {
        for length in 0..frame.len() {
            assert_eq!(parse_head(&frame, length as u32), parse(&frame[..length]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn mutations_never_panic_and_stay_honest(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        cut: bool,
    ) {
        let corpus = corpus();
        let mut frame = pick.get(&corpus).clone();
        for (at, value) in edits {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if cut {
            frame.truncate(keep.index(frame.len()));
        }
        if let Ok(headers) = parse(&frame) {
            assert_honest(&frame, &headers);
        }
    }

    #[test]
    fn noise_never_panics(mut frame in prop::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
        if frame.len() > 16 {
            let kinds: [&[u8]; 4] = [&[0x08, 0x00, 0x45], &[0x86, 0xdd, 0x60], &[0x81, 0x00], &[0x08, 0x06]];
            frame[12..12 + kinds[kind].len()].copy_from_slice(kinds[kind]);
        }
        if let Ok(headers) = parse(&frame) {
            assert_honest(&frame, &headers);
        }
    }
}

#[test]
fn p07_runts_and_length_fields() {
    for length in 0..=14 {
        assert_eq!(parse(&ethernet(0x0800, &[])[..length]), Err(ParseError::Runt), "{length} bytes");
    }
    assert_eq!(parse(&ethernet(0x0800, &[0x45])), Err(ParseError::Ipv4Truncated));
    for length in [0, 46, 0x05dc, 0x05ff] {
        assert_eq!(parse(&ethernet(length, &[0xaa; 60])), Err(ParseError::Llc), "length field {length:#x}");
        assert_eq!(parse(&tagged(&ethernet(length, &[0xaa; 60]), &[(0x8100, 3)])), Err(ParseError::Llc));
    }
    assert!(parse(&ethernet(0x0600, &[0; 46])).is_ok());
}

#[test]
fn p08_vlan_tags() {
    let frame = V4::new(17).frame(&udp(1000, 2000, b""));
    let plain = parse(&frame).unwrap();
    for outer in [0x8100, 0x88a8, 0x9100] {
        let one = parse(&tagged(&frame, &[(outer, 0xe005)])).unwrap();
        assert_eq!((one.vlan_count, one.vlan_id, one.l3_offset, one.tag_count()), (1, 5, 18, 1));
        for inner in [0x8100, 0x88a8, 0x9100] {
            let two = parse(&tagged(&frame, &[(outer, 7), (inner, 5)])).unwrap();
            assert_eq!((two.vlan_count, two.vlan_id, two.l3_offset), (2, 7, 22));
            assert_eq!((two.source_port, two.destination_port), (1000, 2000));
            let three = tagged(&frame, &[(outer, 7), (inner, 5), (0x8100, 0)]);
            assert_eq!(parse(&three), Err(ParseError::VlanDepth));
        }
    }
    assert_eq!(parse(&tagged(&frame, &[(0x8100, 1); 16])), Err(ParseError::VlanDepth));
    // T-23: priority tags change nothing but the offsets.
    for tags in [&[(0x8100, 0xe000)][..], &[(0x8100, 0), (0x88a8, 0)]] {
        let skipped = parse(&tagged(&frame, tags)).unwrap();
        assert_eq!((skipped.vlan_count, skipped.vlan_id), (0, 0));
        assert_eq!((skipped.l3, skipped.l4, skipped.source_port), (plain.l3, plain.l4, plain.source_port));
    }
    assert_eq!(parse(&tagged(&frame, &[(0x8100, 0), (0x8100, 9)])).unwrap().vlan_id, 9);
    let tag = tagged(&ethernet(0x0800, &[]), &[(0x8100, 5)]);
    for length in 15..=18 {
        assert_eq!(parse(&tag[..length]), Err(ParseError::VlanTruncated), "{length} bytes");
    }
}

#[test]
fn p10_ipv4_lengths() {
    let good = V4::new(17).frame(&udp(1000, 2000, b"payload"));
    let edit = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        parse(&frame)
    };
    for words in 0..5 {
        assert_eq!(edit(14, 0x40 | words), Err(ParseError::Ipv4HeaderLength), "IHL {words}");
    }
    assert_eq!(edit(14, 0x4f), Err(ParseError::Ipv4HeaderLength), "IHL 60 above the total length 35");
    for version in [0, 1, 5, 6, 15] {
        assert_eq!(edit(14, version << 4 | 5), Err(ParseError::Ipv4Version));
    }
    assert_eq!(edit(17, 19), Err(ParseError::Ipv4HeaderLength), "total length below the header's");
    assert_eq!(edit(17, 36), Err(ParseError::Ipv4TotalLength), "one byte more than the frame");
    assert_eq!(edit(16, 0xff), Err(ParseError::Ipv4TotalLength));
    // No transport header is read from padding: the datagram ends before the bytes that look like ports.
    for total in 20..28 {
        let mut frame = good.clone();
        frame[17] = total;
        assert_eq!(parse(&frame), Err(ParseError::L4Truncated), "total length {total}");
    }
}

#[test]
fn p11_padding_changes_nothing() {
    for base in corpus() {
        let bare = parse(&base).unwrap();
        for padding in [1, 17, 46, 1500] {
            let mut frame = base.clone();
            frame.extend(std::iter::repeat_n(0xa5, padding));
            let padded = parse(&frame).unwrap();
            if bare.l3 == L3::Other {
                assert_eq!(padded.l3_length, bare.l3_length + padding as u32);
            } else {
                assert_eq!(padded, bare, "{padding} bytes of padding");
            }
        }
    }
}

#[test]
fn p12_transport_headers() {
    for (protocol, header) in
        [(6, tcp(1, 2, &[], &[])), (17, udp(1, 2, &[])), (132, sctp(1, 2)), (1, vec![8, 0, 0, 0, 0, 0, 0, 0])]
    {
        for length in 0..header.len() {
            let refused = parse(&V4::new(protocol).frame(&header[..length]));
            let expected =
                if protocol == 17 && length >= 8 { ParseError::UdpLength } else { ParseError::L4Truncated };
            assert_eq!(refused, Err(expected), "protocol {protocol} cut to {length}");
            let protocol_v6 = if protocol == 1 { 58 } else { protocol };
            assert!(parse(&v6(protocol_v6, &header[..length])).is_err());
        }
        assert!(parse(&V4::new(protocol).frame(&header)).is_ok());
    }
    for words in 0..16u8 {
        let mut segment = tcp(1, 2, &[1; 8], b"12");
        segment[12] = words << 4;
        let fits = (5..=7).contains(&words);
        let result = parse(&V4::new(6).frame(&segment));
        assert_eq!(result.is_ok(), fits, "data offset {words}");
        assert!(fits || result == Err(ParseError::TcpHeaderLength));
    }
    for (length, fits) in
        [(0, false), (7, false), (8, true), (11, true), (12, true), (13, false), (0xffff, false)]
    {
        let mut datagram = udp(1, 2, b"1234");
        datagram[udp_constants::LENGTH_OFFSET..][..2].copy_from_slice(&u16::to_be_bytes(length));
        for frame in [V4::new(17).frame(&datagram), v6(17, &datagram)] {
            assert_eq!(parse(&frame).err(), (!fits).then_some(ParseError::UdpLength), "UDP length {length}");
        }
    }
}

#[test]
fn p13_ipv6_payload_length() {
    let datagram = udp(1, 2, &[0; 60]);
    let length = datagram.len() as u16;
    assert_eq!(parse(&v6_with_length(17, length + 40, &datagram)), Err(ParseError::Ipv6PayloadLength));
    assert_eq!(parse(&v6_with_length(17, length + 1, &datagram)), Err(ParseError::Ipv6PayloadLength));
    assert_eq!(parse(&v6_with_length(17, length - 40, &datagram)), Err(ParseError::UdpLength));
    assert_eq!(parse(&v6_with_length(17, 0, &datagram)), Err(ParseError::L4Truncated));
    let jumbo = [&[17, 0, 0xc2, 4, 0, 1, 0, 0][..], &datagram].concat();
    assert_eq!(parse(&v6_with_length(0, 0, &jumbo)), Err(ParseError::Ipv6Jumbogram));
    assert_eq!(parse(&v6(0, &jumbo)), Err(ParseError::Ipv6Jumbogram), "the option contradicts the length");
    let mut wrong_version = v6(17, &datagram);
    wrong_version[14] = 0x45;
    assert_eq!(parse(&wrong_version), Err(ParseError::Ipv6Version));
}

/// `count` destination-option headers of eight bytes before `next`.
fn destination_options(count: usize, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for left in (0..count).rev() {
        bytes.extend([if left == 0 { next } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend_from_slice(rest);
    bytes
}

#[test]
fn p14_ipv6_extension_headers() {
    let datagram = udp(7, 8, b"x");
    for count in 1..=5 {
        let headers = parse(&v6(60, &destination_options(count, 17, &datagram))).unwrap();
        assert_eq!((headers.source_port, usize::from(headers.l4_offset)), (7, 54 + 8 * count));
        assert!(headers.has_options);
    }
    // Eight are the cap; they fit in the head only before a header that needs no more than two bytes of it.
    assert_eq!(parse(&v6(60, &destination_options(8, 17, &datagram))).unwrap().destination_port, 8);
    assert_eq!(parse(&v6(60, &destination_options(9, 17, &datagram))), Err(ParseError::Ipv6ExtensionCount));
    assert_eq!(parse(&v6(60, &destination_options(100, 17, &datagram))), Err(ParseError::Ipv6ExtensionCount));

    let after_destination = destination_options(1, 0, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat());
    assert_eq!(parse(&v6(60, &after_destination)), Err(ParseError::Ipv6ExtensionOrder));
    for length in [4, 50, 255] {
        let mut beyond = destination_options(1, 17, &datagram);
        beyond[1] = length;
        assert_eq!(parse(&v6(60, &beyond)), Err(ParseError::Ipv6ExtensionLength), "length {length}");
    }
    for option_length in [5, 255] {
        let mut option = destination_options(1, 17, &datagram);
        option[3] = option_length;
        assert_eq!(
            parse(&v6(60, &option)),
            Err(ParseError::Ipv6ExtensionLength),
            "option of {option_length}"
        );
    }
    let long = [&[17, 15, 1, 124][..], &[0; 124], &datagram].concat();
    assert_eq!(parse(&v6(60, &long)), Err(ParseError::HeaderTooLong));
    // Nothing of the rest is looked into, but its beginning must be in the head.
    for units in [8, 9, 31, 100, 255u8] {
        let routing =
            [&[50, units, 200, 0, 0, 0, 0, 0][..], &vec![0; usize::from(units) * 8], &[0; 8]].concat();
        let expected = if units > 8 { Some(ParseError::HeaderTooLong) } else { None };
        assert_eq!(parse(&v6(43, &routing)).err(), expected, "{units} units");
    }

    let nothing = parse(&v6(59, b"ignored")).unwrap();
    assert_eq!((nothing.l4, nothing.protocol, nothing.has_ports()), (L4::None, 59, false));
    assert_eq!(parse(&v6(59, b"")).unwrap().l4, L4::None);
}

#[test]
fn p14_routing_headers() {
    let datagram = udp(7, 8, b"x");
    let routing = |length: u8, kind: u8, left: u8, last: u8| {
        let body = vec![0; usize::from(length) * 8];
        parse(&v6(43, &[&[17, length, kind, left, last, 0, 0, 0][..], &body, &datagram].concat()))
    };
    assert!(routing(4, 4, 2, 1).is_ok());
    assert_eq!(routing(4, 4, 3, 1).unwrap_err(), ParseError::Ipv6Routing, "segments left above the list");
    assert_eq!(routing(4, 4, 1, 2).unwrap_err(), ParseError::Ipv6Routing, "last entry above the list");
    assert_eq!(routing(4, 4, 255, 255).unwrap_err(), ParseError::Ipv6Routing);
    assert_eq!(routing(2, 0, 1, 0).unwrap_err(), ParseError::Ipv6Routing, "RFC 5095");
    assert!(routing(2, 0, 0, 0).is_ok());
    assert!(routing(2, 2, 1, 0).is_ok());
    assert_eq!(routing(2, 2, 2, 0).unwrap_err(), ParseError::Ipv6Routing);
}

#[test]
fn p14_authentication_header_length() {
    let datagram = udp(7, 8, b"x");
    for (field, fits) in [(0, false), (1, false), (2, true), (3, false), (4, true), (5, false)] {
        let body = vec![0; (usize::from(field) + 2) * 4 - 4];
        let result = parse(&v6(51, &[&[17, field, 0, 0][..], &body, &datagram].concat()));
        match result {
            Ok(headers) => {
                assert!(fits && headers.destination_port == 8, "length field {field}: {headers:?}");
            }
            Err(error) => assert!(!fits && error == ParseError::Ipv6ExtensionLength, "{field}: {error}"),
        }
    }
    let beyond = [&[17, 254, 0, 0][..], &[0; 20], &datagram].concat();
    assert_eq!(parse(&v6(51, &beyond)), Err(ParseError::Ipv6ExtensionLength));
}

#[test]
fn p16_arp_format() {
    let good = [&[0u8, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat();
    assert_eq!(parse(&ethernet(0x0806, &good)).unwrap().l3, L3::Arp);
    for (at, value) in [(1, 6), (2, 0x86), (4, 5), (4, 8), (5, 16), (5, 0)] {
        let mut message = good.clone();
        message[at] = value;
        assert_eq!(parse(&ethernet(0x0806, &message)), Err(ParseError::ArpFormat));
    }
    assert_eq!(parse(&ethernet(0x0806, &good[..27])), Err(ParseError::ArpTruncated));
}

#[test]
fn p17_p38_ports_are_not_invented() {
    for protocol in 0..=255u8 {
        let looks_like_ports =
            [0, 80, 0, 80, 0x50, 0, 0, 40, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        if let Ok(headers) = parse(&V4::new(protocol).frame(&looks_like_ports)) {
            assert_eq!(headers.protocol, protocol);
            assert_eq!(headers.has_ports(), matches!(protocol, 6 | 132), "protocol {protocol}");
            assert_eq!(headers.source_port != 0, headers.has_ports());
        } else {
            assert_eq!(protocol, 17, "only UDP has a length here");
        }
    }
    // Each family has its own ICMP; the other's number is just a number.
    assert_eq!(parse(&V4::new(58).frame(&[0; 8])).unwrap().l4, L4::Other);
    assert_eq!(parse(&v6(1, &[0; 8])).unwrap().l4, L4::Other);
}

#[test]
fn p20_mpls_is_opaque() {
    for labels in [1usize, 2, 64] {
        let headers = parse(&ethernet(0x8847, &vec![0; labels * 4])).unwrap();
        assert_eq!((headers.l3, headers.l4, headers.ether_type), (L3::Other, L4::None, 0x8847));
        assert_eq!(headers.l3_length as usize, labels * 4);
    }
}

#[test]
fn p30_overlapping_fragments() {
    // Offset in units of eight bytes: inside the transport header of its protocol, or behind it.
    for (protocol, offset, expected) in [
        (6, 1, Some(ParseError::FragmentOverlap)),
        (6, 2, Some(ParseError::FragmentOverlap)),
        (6, 3, None),
        (17, 1, None),
        (132, 1, Some(ParseError::FragmentOverlap)),
        (132, 2, None),
    ] {
        let frame = V4 { fragment: offset, ..V4::new(protocol) }.frame(&[0; 16]);
        assert_eq!(parse(&frame).err(), expected, "protocol {protocol}, offset {offset}");
        let frame = v6(44, &[&[protocol, 0, 0, (offset << 3) as u8, 0, 0, 0, 1][..], &[0; 16]].concat());
        assert_eq!(parse(&frame).err(), expected, "protocol {protocol}, offset {offset}, IPv6");
    }
}

#[test]
fn p31_fragment_lengths() {
    let ipv4 = |fragment, length| parse(&V4 { fragment, ..V4::new(17) }.frame(&vec![0; length])).err();
    assert_eq!(ipv4(0x1fff, 8), Some(ParseError::FragmentOverrun));
    assert_eq!(ipv4(0x1ffd, 4), Some(ParseError::FragmentOverrun), "65,512 + 4 + 20 bytes of header");
    assert_eq!(ipv4(0x1ffb, 16), None);
    assert_eq!(ipv4(0x2004, 12), Some(ParseError::FragmentLength), "more to come, not a multiple of 8");
    assert_eq!(ipv4(0x0004, 12), None);
    assert_eq!(ipv4(0x0004, 0), Some(ParseError::FragmentLength));
    let ipv6 = |field: u16, length| {
        let [high, low] = field.to_be_bytes();
        parse(&v6(44, &[&[17, 0, high, low, 0, 0, 0, 1][..], &vec![0; length]].concat())).err()
    };
    assert_eq!(ipv6(0xfff8, 8), Some(ParseError::FragmentOverrun));
    assert_eq!(ipv6(0xfff8, 7), None);
    assert_eq!(ipv6(0x0021, 12), Some(ParseError::FragmentLength));
    assert_eq!(ipv6(0x0020, 0), Some(ParseError::FragmentLength));
}

#[test]
fn p32_first_fragments_hold_the_transport_header() {
    let segment = tcp(1000, 2000, &[1; 12], &[0; 32]);
    for length in (8..=64).step_by(8) {
        let whole_header = length >= 32;
        let expected = (!whole_header).then_some(ParseError::FragmentTiny);
        let frame = V4 { fragment: 0x2000, ..V4::new(6) }.frame(&segment[..length]);
        assert_eq!(parse(&frame).err(), expected, "{length} bytes");
        let frame = v6(44, &[&[6u8, 0, 0, 1, 0, 0, 0, 1][..], &segment[..length]].concat());
        assert_eq!(parse(&frame).err(), expected, "{length} bytes, IPv6");
    }
    let first = parse(&V4 { fragment: 0x2000, ..V4::new(17) }.frame(&udp(1, 2, &[0; 64])[..16])).unwrap();
    assert_eq!((first.fragment, first.source_port), (Fragment::First, 1));
    // Later fragments have no ports, whatever their bytes look like, in whatever order they come.
    let later = parse(&V4 { fragment: 3, ..V4::new(6) }.frame(&segment)).unwrap();
    assert_eq!(
        (later.fragment, later.l4, later.source_port, later.protocol),
        (Fragment::Later, L4::None, 0, 6)
    );
    // RFC 7112: the chain of extension headers ends in the first fragment.
    let chain = [&[60u8, 0, 0, 1, 0, 0, 0, 1][..], &[6, 1, 1, 12, 0, 0, 0, 0]].concat();
    assert_eq!(parse(&v6(44, &chain)), Err(ParseError::FragmentTiny));
    // RFC 6946: an atomic fragment is a whole packet.
    let atomic = v6(44, &[&[17u8, 0, 0, 0, 0, 0, 0, 1][..], &udp(1, 2, b"x")].concat());
    assert_eq!(parse(&atomic).unwrap().fragment, Fragment::Whole);
    let twice = [&[44u8, 0, 0, 0, 0, 0, 0, 1][..], &[17, 0, 0, 0, 0, 0, 0, 1], &udp(1, 2, b"x")].concat();
    assert_eq!(parse(&v6(44, &twice)), Err(ParseError::Ipv6ExtensionOrder));
}

#[test]
fn headers_beyond_the_head_are_refused() {
    let frame = V4 { options: vec![1; 40], ..V4::new(6) }.frame(&tcp(1, 2, &[1; 40], &[0; 100]));
    assert_eq!(parse(&frame), Err(ParseError::HeaderTooLong), "134 bytes of headers");
    assert_eq!(
        parse(&tagged(&v6(6, &tcp(1, 2, &[1; 40], b"")), &[(0x88a8, 1), (0x8100, 2)]))
            .unwrap()
            .payload_offset,
        122
    );
}
