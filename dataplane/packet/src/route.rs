//! What a router does to the packets it forwards.

use std::net::IpAddr;

use crate::bytes::{array, put, put16};
use crate::{Headers, L3, MacAddr, checksum, ethernet, icmp, ipv4};

/// Offset of the time to live in an IPv4 header, and of the hop limit in IPv6's.
const TTL_OFFSET_V4: usize = 8;
const HOP_LIMIT_OFFSET: usize = 7;

/// Hops that this packet may still take: IPv4's time to live, IPv6's hop limit; `None` for anything else.
#[inline]
#[must_use]
pub fn hops(head: &[u8], headers: &Headers) -> Option<u8> {
    match headers.l3 {
        L3::Ipv4 => headers.ipv4(head).map(|ip| ip.time_to_live()),
        L3::Ipv6 => headers.ipv6(head).map(|ip| ip.hop_limit()),
        L3::Arp | L3::Other => None,
    }
}

/// Takes one hop off and puts new Ethernet addresses on. The hops were looked at: there are at least two. `None` unless this is IP.
#[inline]
pub fn forward(head: &mut [u8], headers: &Headers, destination: MacAddr, source: MacAddr) -> Option<()> {
    let at = usize::from(headers.l3_offset);
    match headers.l3 {
        L3::Ipv4 => {
            let [hops, protocol] = *array(head, at + TTL_OFFSET_V4)?;
            set_ttl(head, at, hops.wrapping_sub(1), [hops, protocol])?;
        }
        L3::Ipv6 => {
            let [hops] = *array(head, at + HOP_LIMIT_OFFSET)?;
            put(head, at + HOP_LIMIT_OFFSET, [hops.wrapping_sub(1)])?;
        }
        L3::Arp | L3::Other => return None,
    }
    ethernet::set_addresses(head, destination, source)
}

/// Writes the time to live and mends the header checksum; `before` is what stands there and the protocol.
#[inline]
fn set_ttl(head: &mut [u8], at: usize, hops: u8, before: [u8; 2]) -> Option<()> {
    let old = u16::from_be_bytes(before);
    let new = u16::from_be_bytes([hops, before[1]]);
    let sum = u16::from_be_bytes(*array(head, at + ipv4::CHECKSUM_OFFSET)?);
    put(head, at + TTL_OFFSET_V4, [hops])?;
    put16(head, at + ipv4::CHECKSUM_OFFSET, checksum::update(sum, old, new))
}

/// Hops of what a router itself sends.
const OWN_HOPS: u8 = 64;

/// Turns an echo request (RFC 792, RFC 4443) into its reply: from `mac` to where it came from, with the addresses exchanged. `partial`: its checksum is yet
/// to be completed, and then not touched. `None`, with `head` as it was, unless these headers are an echo request's.
#[must_use]
pub fn echo_in_place(head: &mut [u8], headers: &Headers, mac: MacAddr, partial: bool) -> Option<()> {
    let (at, l4) = (usize::from(headers.l3_offset), usize::from(headers.l4_offset));
    let (request, reply) = match (headers.l3, icmp::type_and_code(head, headers)?) {
        (L3::Ipv4, (8, 0)) => (8u8, 0u8),
        (L3::Ipv6, (128, 0)) => (128, 129),
        _ => return None,
    };
    let asker = ethernet::View::new(head)?.source();
    let sum = u16::from_be_bytes(*array(head, l4 + icmp::CHECKSUM_OFFSET)?);
    if headers.l3 == L3::Ipv4 {
        let [from, to]: [[u8; 4]; 2] = [*array(head, at + 12)?, *array(head, at + 16)?];
        put(head, at + 12, to)?;
        put(head, at + 16, from)?;
        let before = *array(head, at + TTL_OFFSET_V4)?;
        set_ttl(head, at, OWN_HOPS, before)?;
    } else {
        let [from, to]: [[u8; 16]; 2] = [*array(head, at + 8)?, *array(head, at + 24)?];
        put(head, at + 8, to)?;
        put(head, at + 24, from)?;
        put(head, at + HOP_LIMIT_OFFSET, [OWN_HOPS])?;
    }
    put(head, l4, [reply])?;
    if !partial {
        let word = |kind: u8| u16::from_be_bytes([kind, 0]);
        put16(head, l4 + icmp::CHECKSUM_OFFSET, checksum::update(sum, word(request), word(reply)))?;
    }
    ethernet::set_addresses(head, asker, mac)
}

/// Whether an error or an answer may be sent to this address: one that a single station can have.
#[must_use]
pub fn is_station(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}

/// Whether no station of a network has this address, unless somebody says so of it: the blocks of RFC 6890 that are a host's own, one link's, a group's or nobody's.
/// IPv6's link-local ones are not among them, as every station has one.
#[must_use]
pub fn is_bogon(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            // This network, loopback, link-local, groups, and what is reserved with the broadcast address.
            matches!((first, second), (0 | 127 | 224.., _) | (169, 254))
        }
        // ::, ::1, and IPv4's mapped (RFC 4291 section 2.5.5.2) and compatible (2.5.5.1) addresses.
        IpAddr::V6(v6) => v6.is_multicast() || matches!(v6.segments(), [0, 0, 0, 0, 0, 0 | 0xffff, _, _]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{Sum, pseudo_header_v6};
    use crate::parse;

    fn echo_v4() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xa, 8, 0];
        frame.extend([0x45, 0, 0, 36, 0, 1, 0, 0, 2, 1, 0, 0, 10, 0, 1, 10, 10, 0, 1, 1]);
        frame.extend([8, 0, 0, 0, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        let sum = Sum::of(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let sum = Sum::of(&frame[34..]).finish();
        frame[36..38].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    #[test]
    fn p18_bogons_are_what_no_station_has() {
        let bogon = |text: &str| is_bogon(text.parse().unwrap());
        for text in ["0.0.0.0", "0.255.255.255", "127.0.0.1", "169.254.0.0", "169.254.255.255", "224.0.0.0"] {
            assert!(bogon(text), "{text}");
        }
        for text in [
            "239.1.2.3",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:10.0.0.1",
            "ff02::1",
        ] {
            assert!(bogon(text), "{text}");
        }
        for text in [
            "1.0.0.0",
            "10.0.0.1",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "169.255.0.1",
            "223.255.255.255",
        ] {
            assert!(!bogon(text), "{text}");
        }
        for text in ["::1:0:0:1", "fe80::1", "fd00::1", "2001:db8::1", "64:ff9b::a00:1", "::fffe:10.0.0.1"] {
            assert!(!bogon(text), "{text}");
        }
    }

    #[test]
    fn a_hop_less_keeps_the_checksum_right() {
        let mut frame = echo_v4();
        let headers = parse(&frame, frame.len() as u32).unwrap();
        let macs = [MacAddr([2, 0, 0, 0, 9, 9]), MacAddr([2, 0, 0, 0, 8, 8])];
        forward(&mut frame, &headers, macs[0], macs[1]).unwrap();
        assert_eq!(
            (hops(&frame, &headers), &frame[..12]),
            (Some(1), &[2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 8, 8][..])
        );
        assert!(Sum::of(&frame[14..34]).is_right());
    }

    #[test]
    fn an_echo_is_turned_round_with_right_checksums() {
        let mut frame = echo_v4();
        let headers = parse(&frame, frame.len() as u32).unwrap();
        echo_in_place(&mut frame, &headers, MacAddr([2, 0, 0, 0, 0, 1]), false).unwrap();
        assert!(Sum::of(&frame[14..34]).is_right() && Sum::of(&frame[34..]).is_right());
        assert_eq!((frame[34], &frame[26..34], frame[22]), (0, &[10, 0, 1, 1, 10, 0, 1, 10][..], 64));
        assert_eq!(
            echo_in_place(&mut frame, &headers, MacAddr::default(), false),
            None,
            "a reply is no request"
        );
    }

    #[test]
    fn an_echo_over_ipv6_too() {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xa, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 16, 58, 1];
        frame.extend("fd00::10".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend([128, 0, 0, 0, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        let pseudo = pseudo_header_v6("fd00::10".parse().unwrap(), "fd00::1".parse().unwrap(), 58, 16);
        let sum = pseudo.plus(Sum::of(&frame[54..])).finish();
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
        let headers = parse(&frame, frame.len() as u32).unwrap();
        echo_in_place(&mut frame, &headers, MacAddr([2, 0, 0, 0, 0, 1]), false).unwrap();
        assert!(pseudo.plus(Sum::of(&frame[54..])).is_right());
        assert_eq!((frame[54], frame[21]), (129, 64));
    }
}
