//! Errors that a router answers with: ICMP (RFC 792, RFC 1812) and ICMPv6 (RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{put, put16};
use crate::checksum::{Sum, pseudo_header_v6};
use crate::route::is_station;
use crate::{Fragment, HEAD_LENGTH, Headers, L3, MacAddr, ethernet, icmp, ipv4, ipv6};

/// What went wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// It took too many hops.
    TimeExceeded,
    /// It is longer than the way it has to take.
    TooBig {
        /// What fits: bytes of the network layer.
        mtu: u16,
    },
    /// There is no route to where it is to go.
    NoRoute,
    /// Nobody has the address it is for.
    HostUnreachable,
}

impl IcmpError {
    /// Type, code and the second half of the header, in ICMP.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::TimeExceeded => (11, 0, 0),
            Self::TooBig { mtu } => (3, 4, u32::from(mtu)),
            Self::NoRoute => (3, 0, 0),
            Self::HostUnreachable => (3, 1, 0),
        }
    }

    /// The same in ICMPv6.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::TimeExceeded => (3, 0, 0),
            Self::TooBig { mtu } => (2, 0, u32::from(mtu)),
            Self::NoRoute => (1, 0, 0),
            Self::HostUnreachable => (1, 3, 0),
        }
    }
}

/// Writes the answer to the packet in `head` (of which `length` bytes are there) over it, from `gateway` at `mac`, with as much of the packet as
/// fits behind; returns its length. `None`, with `head` as it was, where an error must not be answered: to errors, to later fragments, to groups or for
/// them (RFC 1122 section 3.2.2, RFC 4443 section 2.4), or when `gateway` is of the other family.
#[must_use]
pub fn answer(
    head: &mut [u8; HEAD_LENGTH],
    length: usize,
    headers: &Headers,
    error: IcmpError,
    mac: MacAddr,
    gateway: IpAddr,
) -> Option<u32> {
    if !may_be_answered(head, headers, error)? {
        return None;
    }
    let (source, asker) = (headers.source_ip(head)?, ethernet::View::new(head)?.source());
    let (l3, at) = (usize::from(headers.l3_offset), ethernet::HEADER_LENGTH);
    let network = if headers.l3 == L3::Ipv4 { ipv4::MIN_HEADER_LENGTH } else { ipv6::HEADER_LENGTH };
    let icmp_at = at + network;
    let there = length.min(HEAD_LENGTH).checked_sub(l3)?.min(headers.l3_length as usize);
    let quoted = there.min(HEAD_LENGTH - icmp_at - icmp::HEADER_LENGTH);
    let end = icmp_at + icmp::HEADER_LENGTH + quoted;
    if gateway.is_ipv4() != source.is_ipv4() {
        return None;
    }
    head.copy_within(l3..l3 + quoted, icmp_at + icmp::HEADER_LENGTH);
    ethernet::emit(head, asker, mac, if source.is_ipv4() { ethernet::IPV4 } else { ethernet::IPV6 })?;
    match (gateway, source) {
        (IpAddr::V4(gateway), IpAddr::V4(source)) => emit_v4(head, end, [gateway, source], error)?,
        (IpAddr::V6(gateway), IpAddr::V6(source)) => emit_v6(head, end, [gateway, source], error)?,
        _ => return None,
    }
    Some(end as u32)
}

/// Whether an error about this packet may be sent.
fn may_be_answered(head: &[u8], headers: &Headers, error: IcmpError) -> Option<bool> {
    let (source, destination) = (headers.source_ip(head)?, headers.destination_ip(head)?);
    // Packet Too Big is for groups too: path MTU discovery of multicast (RFC 4443 section 2.4 (e.3)).
    let too_big = matches!(error, IcmpError::TooBig { .. }) && destination.is_ipv6();
    let asker = ethernet::View::new(head)?.source();
    let from_station = is_station(source) && !asker.is_multicast();
    let about_station = is_station(destination) || too_big;
    Some(from_station && about_station && !is_error(head, headers) && headers.fragment != Fragment::Later)
}

fn emit_v4(head: &mut [u8], end: usize, [from, to]: [Ipv4Addr; 2], error: IcmpError) -> Option<()> {
    let at = ethernet::HEADER_LENGTH;
    put(head, at, [0x45, 0, 0, 0, 0, 0, 0, 0, 64, icmp::PROTOCOL, 0, 0])?;
    put16(head, at + ipv4::TOTAL_LENGTH_OFFSET, (end - at) as u16)?;
    put(head, at + 12, from.octets())?;
    put(head, at + 16, to.octets())?;
    let sum = Sum::of(head.get(at..at + ipv4::MIN_HEADER_LENGTH)?);
    put16(head, at + ipv4::CHECKSUM_OFFSET, sum.finish())?;
    emit(head, at + ipv4::MIN_HEADER_LENGTH, end, error.v4(), Sum::ZERO)
}

fn emit_v6(head: &mut [u8], end: usize, [from, to]: [Ipv6Addr; 2], error: IcmpError) -> Option<()> {
    let at = ethernet::HEADER_LENGTH;
    let payload = end - at - ipv6::HEADER_LENGTH;
    put(head, at, [0x60, 0, 0, 0, 0, 0, icmp::PROTOCOL_V6, 64])?;
    put16(head, at + ipv6::PAYLOAD_LENGTH_OFFSET, payload as u16)?;
    put(head, at + 8, from.octets())?;
    put(head, at + 24, to.octets())?;
    let pseudo = pseudo_header_v6(from, to, icmp::PROTOCOL_V6, payload as u32);
    emit(head, at + ipv6::HEADER_LENGTH, end, error.v6(), pseudo)
}

fn emit(
    head: &mut [u8],
    at: usize,
    end: usize,
    (kind, code, rest): (u8, u8, u32),
    pseudo: Sum,
) -> Option<()> {
    put(head, at, [kind, code, 0, 0])?;
    put(head, at + 4, rest.to_be_bytes())?;
    let sum = pseudo.plus(Sum::of(head.get(at..end)?));
    put16(head, at + icmp::CHECKSUM_OFFSET, sum.finish())
}

/// Whether the packet is itself an error, or of a kind nobody knows.
fn is_error(head: &[u8], headers: &Headers) -> bool {
    match (headers.l3, icmp::type_and_code(head, headers)) {
        (L3::Ipv4, Some((kind, _))) => !matches!(kind, 0 | 8 | 9 | 10 | 13..=18),
        (L3::Ipv6, Some((kind, _))) => kind < 128,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn udp_v4(payload: usize) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xa, 8, 0];
        frame.extend([0x45, 0, 0, 28 + payload as u8, 0, 1, 0x40, 0, 1, 17, 0, 0, 10, 0, 1, 10, 10, 0, 2, 1]);
        frame.extend([0x12, 0x34, 0x56, 0x78, 0, 8 + payload as u8, 0, 0]);
        frame.extend(vec![9; payload]);
        frame
    }

    fn answered(frame: &[u8], error: IcmpError, gateway: &str) -> Option<Vec<u8>> {
        let mut head = [0; HEAD_LENGTH];
        let length = frame.len().min(HEAD_LENGTH);
        head[..length].copy_from_slice(&frame[..length]);
        let headers = parse(&head[..length], frame.len() as u32).unwrap();
        let end = answer(
            &mut head,
            length,
            &headers,
            error,
            MacAddr([2, 0, 0, 0, 0, 1]),
            gateway.parse().unwrap(),
        )?;
        Some(head[..end as usize].to_vec())
    }

    #[test]
    fn an_error_quotes_the_packet_and_sums_up() {
        let frame = udp_v4(100);
        let answer = answered(&frame, IcmpError::TooBig { mtu: 1450 }, "10.0.1.1").unwrap();
        assert_eq!(
            (answer.len(), answer[34], answer[35], &answer[38..42]),
            (128, 3, 4, &[0, 0, 5, 0xaa][..])
        );
        assert!(Sum::of(&answer[14..34]).is_right() && Sum::of(&answer[34..]).is_right());
        assert_eq!(&answer[42..], &frame[14..14 + 86]);
        assert_eq!(&answer[26..34], &[10, 0, 1, 1, 10, 0, 1, 10]);
        assert!(parse(&answer, 128).is_ok());
        let short = answered(&udp_v4(0), IcmpError::TimeExceeded, "10.0.1.1").unwrap();
        assert_eq!((short.len(), short[34]), (14 + 28 + 28, 11));
    }

    #[test]
    fn an_error_over_ipv6_sums_up() {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0xa, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 200, 17, 1];
        frame.extend("fd00::10".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend("fd00:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        frame.extend([0x12, 0x34, 0x56, 0x78, 0, 200, 0, 1]);
        frame.extend(vec![9; 192]);
        let answer = answered(&frame, IcmpError::TimeExceeded, "fd00::1").unwrap();
        assert_eq!((answer.len(), answer[54], answer[55]), (128, 3, 0));
        let pseudo = pseudo_header_v6("fd00::1".parse().unwrap(), "fd00::10".parse().unwrap(), 58, 74);
        assert!(pseudo.plus(Sum::of(&answer[54..])).is_right());
        assert_eq!(answered(&frame, IcmpError::TimeExceeded, "10.0.1.1"), None);
    }

    #[test]
    fn p19_errors_fragments_and_groups_are_not_answered() {
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = udp_v4(20);
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            answered(&frame, IcmpError::TimeExceeded, "10.0.1.1").is_some()
        };
        assert!(with(0, &[2]));
        assert!(!with(20, &[0x00, 0x20]), "a later fragment");
        assert!(!with(26, &[224, 0, 0, 1]) && !with(26, &[0, 0, 0, 0]) && !with(30, &[224, 0, 0, 1]));
        assert!(!with(6, &[3]), "from a group");
        let mut error = udp_v4(20);
        error[23] = 1;
        error[34] = 3;
        assert_eq!(answered(&error, IcmpError::TimeExceeded, "10.0.1.1"), None);
        error[34] = 8;
        assert!(answered(&error, IcmpError::TimeExceeded, "10.0.1.1").is_some());
    }
}
