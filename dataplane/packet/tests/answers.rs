//! ARP and neighbour discovery: questions read, answers written in place, announcements both ways.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use support::*;
use towpath_packet::ndp::{self, Message, NdError, Role};
use towpath_packet::{Headers, L3, MacAddr, announce, arp, ethernet as eth, vrrp};

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const HOLDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn arp_frame(operation: u16, sender: (MacAddr, [u8; 4]), target: (MacAddr, [u8; 4])) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend(sender.0.0);
    message.extend(sender.1);
    message.extend(target.0.0);
    message.extend(target.1);
    ethernet(0x0806, &message)
}

#[test]
fn arp_request_becomes_the_reply() {
    let request = arp_frame(1, (ASKER, [10, 0, 1, 10]), (MacAddr::ZERO, [10, 0, 1, 11]));
    for tags in [&[][..], &[(0x8100, 0)], &[(0x88a8, 7), (0x8100, 5)]] {
        let mut frame = tagged(&request, tags);
        let headers = parse(&frame).unwrap();
        let length = arp::reply_in_place(&mut frame, &headers, HOLDER).unwrap();
        assert_eq!(length as usize, frame.len());
        let mut expected = tagged(&arp_frame(2, (HOLDER, [10, 0, 1, 11]), (ASKER, [10, 0, 1, 10])), tags);
        expected[..12].copy_from_slice(&[ASKER.0, HOLDER.0].concat());
        assert_eq!(frame, expected);
    }
}

#[test]
fn arp_answers_requests_only() {
    for operation in [0, 2, 3, 4, 0xffff] {
        let mut frame = arp_frame(operation, (ASKER, [10, 0, 1, 10]), (HOLDER, [10, 0, 1, 11]));
        let headers = parse(&frame).unwrap();
        let before = frame.clone();
        assert_eq!(arp::reply_in_place(&mut frame, &headers, HOLDER), None);
        assert_eq!(frame, before);
    }
    let mut other = V4::new(17).frame(&udp(1, 2, b""));
    let headers = parse(&other).unwrap();
    assert_eq!(arp::reply_in_place(&mut other, &headers, HOLDER), None);
}

/// An ICMPv6 message with its checksum, in a frame from ASKER.
fn icmpv6_frame(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, message: &[u8]) -> Vec<u8> {
    let mut frame = v6(58, message);
    frame[21] = hop_limit;
    frame[22..38].copy_from_slice(&source.octets());
    frame[38..54].copy_from_slice(&destination.octets());
    let end = frame.len();
    let sum = !transport_sum(&frame, 14, 54, 58, end);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn neighbor(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat()
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn link_option(kind: u8, mac: MacAddr) -> Vec<u8> {
    [&[kind, 1][..], &mac.0].concat()
}

fn read(frame: &[u8]) -> Result<Message, NdError> {
    ndp::parse(head(frame), &parse(frame).unwrap())
}

#[test]
fn solicitation_becomes_the_advertisement() {
    let (asker, target, group) = (address("fd00::10"), address("fd00::10a"), address("ff02::1:ff00:10a"));
    for (source, options, tags, role) in [
        (asker, link_option(1, ASKER), &[][..], Role::Host),
        (asker, vec![], &[(0x8100, 9)], Role::Router),
        (Ipv6Addr::UNSPECIFIED, vec![], &[], Role::Host),
    ] {
        let frame = tagged(&icmpv6_frame(source, group, 255, &neighbor(135, 0, target, &options)), tags);
        let Ok(Message::Solicitation(solicitation)) = read(&frame) else {
            panic!("refused: {:?}", read(&frame))
        };
        assert_eq!((solicitation.source, solicitation.target), (source, target));
        assert_eq!(solicitation.source_link, (!options.is_empty()).then_some(ASKER));

        let mut buffer = [0xee; HEAD];
        buffer[..frame.len()].copy_from_slice(&frame);
        let headers = parse(&frame).unwrap();
        let length =
            ndp::advertise_in_place(&mut buffer, &headers, &solicitation, HOLDER, role).unwrap() as usize;
        assert_eq!(length, ndp::ADVERTISEMENT_FRAME_LENGTH + tags.len() * 4);
        assert!(buffer[length..].iter().all(|b| *b == 0xee), "written behind the answer");
        let answer = &buffer[..length];
        let solicited = source == asker;
        let to = if solicited {
            (asker, ASKER)
        } else {
            (address("ff02::1"), "33:33:00:00:00:01".parse().unwrap())
        };
        let view = eth::View::new(answer).unwrap();
        assert_eq!((view.destination(), view.source()), (to.1, HOLDER));
        let headers = parse(answer).unwrap();
        assert_eq!(headers.vlan_id, if tags.is_empty() { 0 } else { 9 });
        assert_eq!(headers.source_ip(answer), Some(target.into()));
        assert_eq!(headers.destination_ip(answer), Some(to.0.into()));
        let l4 = usize::from(headers.l4_offset);
        assert_eq!(transport_sum(answer, l4 - 40, l4, 58, length), 0xffff);
        let expected = ndp::Advertisement {
            target,
            target_link: Some(HOLDER),
            router: role == Role::Router,
            solicited,
            overrides: true,
        };
        assert_eq!(read(answer), Ok(Message::Advertisement(expected)));
    }
}

#[test]
fn p15_options() {
    let (asker, target) = (address("fd00::10"), address("fd00::10a"));
    let with = |options: &[u8]| read(&icmpv6_frame(asker, target, 255, &neighbor(135, 0, target, options)));
    assert_eq!(with(&[1, 0, 0, 0, 0, 0, 0, 0]), Err(NdError::OptionLength), "length 0");
    assert_eq!(with(&[1, 255, 0, 0, 0, 0, 0, 0]), Err(NdError::OptionLength), "length 255");
    assert_eq!(with(&[1, 2, 0, 0, 0, 0, 0, 0]), Err(NdError::OptionLength), "one unit past the end");
    assert_eq!(with(&[1]), Err(NdError::OptionLength), "half an option head");
    assert_eq!(with(&[1, 1, 2, 0]), Err(NdError::OptionLength), "half an option");
    let six: Vec<u8> = (0..6).flat_map(|_| [14, 1, 0, 0, 0, 0, 0, 0]).collect();
    assert!(with(&six).is_ok(), "unknown options are skipped");
    assert_eq!(with(&six.repeat(2)), Err(NdError::TooLong), "more options than the head holds");
    let Ok(Message::Solicitation(last)) = with(&[six[..16].to_vec(), link_option(1, HOLDER)].concat()) else {
        panic!("refused");
    };
    assert_eq!(last.source_link, Some(HOLDER));
}

#[test]
fn p15_messages_a_node_must_ignore() {
    let (asker, target, group) = (address("fd00::10"), address("fd00::10a"), address("ff02::1:ff00:10a"));
    let message = neighbor(135, 0, target, &[]);
    assert!(read(&icmpv6_frame(asker, group, 255, &message)).is_ok());
    assert_eq!(read(&icmpv6_frame(asker, group, 64, &message)), Err(NdError::HopLimit));
    let mut coded = message.clone();
    coded[1] = 1;
    assert_eq!(read(&icmpv6_frame(asker, group, 255, &coded)), Err(NdError::Code));
    assert_eq!(read(&icmpv6_frame(asker, group, 255, &message[..23])), Err(NdError::Truncated));
    let multicast_target = neighbor(135, 0, group, &[]);
    assert_eq!(read(&icmpv6_frame(asker, group, 255, &multicast_target)), Err(NdError::Target));
    let linked = neighbor(135, 0, target, &link_option(1, ASKER));
    assert_eq!(read(&icmpv6_frame(Ipv6Addr::UNSPECIFIED, group, 255, &linked)), Err(NdError::Addresses));
    assert_eq!(read(&icmpv6_frame(Ipv6Addr::UNSPECIFIED, target, 255, &message)), Err(NdError::Addresses));
    let solicited = neighbor(136, 0x60, target, &[]);
    assert_eq!(read(&icmpv6_frame(target, address("ff02::1"), 255, &solicited)), Err(NdError::Addresses));
    // P-21: a wrong checksum.
    let mut wrong = icmpv6_frame(asker, group, 255, &message);
    wrong[60] ^= 1;
    assert_eq!(read(&wrong), Err(NdError::Checksum));
    // RFC 6980: none in fragments.
    let fragment = [&[58u8, 0, 0, 1, 0, 0, 0, 1][..], &message].concat();
    assert_eq!(read(&v6(44, &fragment)), Err(NdError::Fragmented));
    // Echo requests, router advertisements and everything else are not ours.
    assert_eq!(read(&icmpv6_frame(asker, group, 255, &neighbor(134, 0, target, &[]))), Ok(Message::Other));
    assert_eq!(read(&V4::new(1).frame(&[135, 0, 0, 0, 0, 0, 0, 0])), Ok(Message::Other));
}

/// The addresses and MAC that a frame announces.
fn announced(frame: &[u8]) -> Option<(MacAddr, Vec<IpAddr>)> {
    let headers = parse(frame).unwrap();
    announce::detect(head(frame), &headers).map(|found| (found.mac(), found.addresses().collect()))
}

#[test]
fn p16_gratuitous_arp_in_both_forms() {
    let ip = [10, 0, 1, 100];
    for operation in [1, 2] {
        let frame = arp_frame(operation, (ASKER, ip), (MacAddr::ZERO, ip));
        assert_eq!(announced(&frame), Some((ASKER, vec![Ipv4Addr::from(ip).into()])));
    }
    let probe = arp_frame(1, (ASKER, [0; 4]), (MacAddr::ZERO, [0; 4]));
    let request = arp_frame(1, (ASKER, ip), (MacAddr::ZERO, [10, 0, 1, 1]));
    let reply = arp_frame(2, (ASKER, ip), (HOLDER, [10, 0, 1, 11]));
    let unknown = arp_frame(9, (ASKER, ip), (MacAddr::ZERO, ip));
    for frame in [probe, request, reply, unknown] {
        assert_eq!(announced(&frame), None);
    }
}

#[test]
fn unsolicited_advertisements_announce() {
    let target = address("fd00::64");
    let all = address("ff02::1");
    let frame = icmpv6_frame(target, all, 255, &neighbor(136, 0x20, target, &link_option(2, HOLDER)));
    assert_eq!(announced(&frame), Some((HOLDER, vec![target.into()])));
    let without_option = icmpv6_frame(target, all, 255, &neighbor(136, 0x20, target, &[]));
    assert_eq!(announced(&without_option), Some((ASKER, vec![target.into()])));
    let solicited = icmpv6_frame(target, address("fd00::1"), 255, &neighbor(136, 0x60, target, &[]));
    assert_eq!(announced(&solicited), None);
    let asking = icmpv6_frame(target, all, 255, &neighbor(135, 0, target, &[]));
    assert_eq!(announced(&asking), None);
}

/// A VRRP advertisement over IPv4, with the checksum that its version wants.
fn vrrp_v4(version: u8, ttl: u8, addresses: &[[u8; 4]], pseudo: bool) -> Vec<u8> {
    let mut message = vec![version << 4 | 1, 51, 100, addresses.len() as u8, 0, 1, 0, 0];
    message.extend(addresses.concat());
    if version == 2 {
        message.extend([0; 8]);
    }
    let mut frame = V4::new(112).frame(&message);
    frame[22] = ttl;
    frame[30..34].copy_from_slice(&[224, 0, 0, 18]);
    let end = frame.len();
    let sum = if pseudo { transport_sum(&frame, 14, 34, 112, end) } else { naive_sum(&frame[34..]) };
    frame[40..42].copy_from_slice(&(!sum).to_be_bytes());
    frame
}

#[test]
fn vrrp_masters_announce() {
    let list = [[10, 0, 1, 100], [10, 0, 1, 101]];
    let expected: Vec<IpAddr> = list.iter().map(|octets| IpAddr::from(*octets)).collect();
    for (version, pseudo) in [(2, false), (3, false), (3, true)] {
        let frame = vrrp_v4(version, 255, &list, pseudo);
        assert_eq!(announced(&frame), Some((ASKER, expected.clone())), "version {version}");
        let found = vrrp::parse(head(&frame), &parse(&frame).unwrap()).unwrap();
        assert_eq!((found.version, found.virtual_router, found.priority), (version, 51, 100));
        for length in 34..frame.len() {
            let mut cut = frame[..length].to_vec();
            cut[16..18].copy_from_slice(&((length - 14) as u16).to_be_bytes());
            assert_eq!(announced(&cut), None, "cut to {length}");
        }
    }
    assert_eq!(announced(&vrrp_v4(2, 254, &list, false)), None, "forwarded");
    assert_eq!(announced(&vrrp_v4(2, 255, &list, true)), None, "version 2 has no pseudo header");
    assert_eq!(announced(&vrrp_v4(4, 255, &list, false)), None, "unknown version");
    let mut resigned = vrrp_v4(2, 255, &list, false);
    resigned[36] = 0;
    resigned[40..42].copy_from_slice(&[0, 0]);
    let sum = !naive_sum(&resigned[34..]);
    resigned[40..42].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(announced(&resigned), None, "priority 0 gives the addresses up");
    let mut elsewhere = vrrp_v4(2, 255, &list, false);
    elsewhere[33] = 19;
    assert_eq!(announced(&elsewhere), None, "another group");
}

#[test]
fn vrrp_over_ipv6() {
    let list = [address("fe80::1"), address("fd00::64")];
    let mut message = vec![0x31, 7, 200, 2, 0, 100, 0, 0];
    list.iter().for_each(|a| message.extend(a.octets()));
    let mut frame = v6(112, &message);
    frame[21] = 255;
    frame[38..54].copy_from_slice(&address("ff02::12").octets());
    let end = frame.len();
    let sum = !transport_sum(&frame, 14, 54, 112, end);
    frame[60..62].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(announced(&frame), Some((ASKER, list.map(IpAddr::from).to_vec())));
    frame[54] = 0x21;
    assert_eq!(announced(&frame), None, "version 2 is for IPv4");
}

#[test]
fn announcements_we_write_are_announcements_we_read() {
    let mut buffer = [0xee; HEAD];
    let length =
        announce::gratuitous_arp(&mut buffer, HOLDER, Ipv4Addr::new(10, 0, 1, 100)).unwrap() as usize;
    assert_eq!(length, 60);
    assert_eq!(announced(&buffer[..length]), Some((HOLDER, vec![Ipv4Addr::new(10, 0, 1, 100).into()])));
    assert_eq!(buffer[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0xb, 8, 6]);
    assert!(buffer[42..60].iter().all(|b| *b == 0) && buffer[60..].iter().all(|b| *b == 0xee));

    let length = ndp::announce(&mut buffer, HOLDER, address("fd00::64"), Role::Host).unwrap() as usize;
    assert_eq!(announced(&buffer[..length]), Some((HOLDER, vec![address("fd00::64").into()])));

    // The frame that QEMU sends after a migration (net/announce.c).
    let length = announce::rarp(&mut buffer, HOLDER).unwrap() as usize;
    let mut expected = vec![0xff; 6];
    expected.extend(HOLDER.0);
    expected.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    expected.extend(HOLDER.0);
    expected.extend([0; 4]);
    expected.extend(HOLDER.0);
    expected.extend([0; 22]);
    assert_eq!(buffer[..length], expected);
    assert_eq!(parse(&buffer[..length]).unwrap().l3, L3::Other);

    for length in 0..60 {
        assert_eq!(announce::rarp(&mut buffer[..length], HOLDER), None);
        assert_eq!(announce::gratuitous_arp(&mut buffer[..length], HOLDER, Ipv4Addr::LOCALHOST), None);
    }
    assert_eq!(ndp::announce(&mut buffer[..85], HOLDER, address("fd00::64"), Role::Host), None);
}

proptest! {
    #[test]
    fn no_message_panics(
        kind in prop::sample::select(vec![135u8, 136]),
        body in prop::collection::vec(any::<u8>(), 0..150),
        headers in (any::<u8>(), any::<u8>(), any::<u32>()),
    ) {
        let frame = icmpv6_frame(address("fd00::1"), address("fd00::2"), 255, &[&[kind, 0, 0, 0][..], &body].concat());
        if let Ok(found) = parse(&frame) {
            let _ = ndp::parse(head(&frame), &found);
            let _ = announce::detect(head(&frame), &found);
        }
        // Headers that do not belong to the head.
        let (l3_offset, l4_offset, l3_length) = headers;
        let mut copy = frame.clone();
        for l3 in [L3::Arp, L3::Ipv4, L3::Ipv6, L3::Other] {
            for (l4, protocol) in [(towpath_packet::L4::Icmpv6, 58), (towpath_packet::L4::Other, 112)] {
                let wrong = Headers { l3, l4, l3_offset, l4_offset, l3_length, protocol, ..Headers::default() };
                let _ = announce::detect(head(&frame), &wrong);
                let _ = arp::reply_in_place(&mut copy, &wrong, HOLDER);
                let solicitation = ndp::Solicitation {
                    source: Ipv6Addr::LOCALHOST, target: Ipv6Addr::LOCALHOST, source_link: None,
                };
                let _ = ndp::advertise_in_place(&mut copy, &wrong, &solicitation, HOLDER, Role::Host);
            }
        }
    }
}
