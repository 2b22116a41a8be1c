//! The packet that an ICMP error is about (RFC 792, RFC 4443 section 3): as much of it as the error quotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{array, be16};
use crate::{Headers, L3, L4, icmp, ipv4, ipv6, sctp, tcp, udp};

/// Whose packet the error is about, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Who sent the packet.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// IPv4's protocol, or IPv6's next header.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP and SCTP. Of a query of ICMP and ICMPv6: its identifier, and type and code. 0 for others.
    pub ports: [u16; 2],
}

/// Reads what the error behind these headers quotes. `None` unless it is an error of ICMP or ICMPv6, quotes a whole network header without IPv6 extension headers
/// and the first four (ICMP: six) bytes behind it, and what it quotes is neither an error itself nor a later fragment.
#[must_use]
pub fn read(head: &[u8], headers: &Headers) -> Option<Quoted> {
    let (kind, _) = icmp::type_and_code(head, headers)?;
    if !icmp::is_error(headers.l4, kind) {
        return None;
    }
    let end = (headers.l3_end() as usize).min(head.len());
    let quoted = head.get(usize::from(headers.l4_offset) + icmp::HEADER_LENGTH..end)?;
    match headers.l3 {
        L3::Ipv4 => read_v4(quoted),
        L3::Ipv6 => read_v6(quoted),
        L3::Arp | L3::Other => None,
    }
}

fn read_v4(quoted: &[u8]) -> Option<Quoted> {
    let header: &[u8; ipv4::MIN_HEADER_LENGTH] = array(quoted, 0)?;
    let length = usize::from(header[0] & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || length < ipv4::MIN_HEADER_LENGTH || later_fragment {
        return None;
    }
    let address = |at| Some(IpAddr::V4(Ipv4Addr::from(*array::<4>(quoted, at)?)));
    let ports = ports(quoted.get(length..)?, header[9], L4::Icmp)?;
    Some(Quoted { source: address(12)?, destination: address(16)?, protocol: header[9], ports })
}

fn read_v6(quoted: &[u8]) -> Option<Quoted> {
    let header: &[u8; ipv6::HEADER_LENGTH] = array(quoted, 0)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |at| Some(IpAddr::V6(Ipv6Addr::from(*array::<16>(quoted, at)?)));
    let ports = ports(quoted.get(ipv6::HEADER_LENGTH..)?, header[6], L4::Icmpv6)?;
    Some(Quoted { source: address(8)?, destination: address(24)?, protocol: header[6], ports })
}

fn ports(upper: &[u8], protocol: u8, l4: L4) -> Option<[u16; 2]> {
    let icmp = if l4 == L4::Icmp { icmp::PROTOCOL } else { icmp::PROTOCOL_V6 };
    match protocol {
        tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL => Some([be16(upper, 0)?, be16(upper, 2)?]),
        // Hop-by-hop options, routing, fragment, destination options: the ports are further behind.
        0 | 43 | 44 | 60 if l4 == L4::Icmpv6 => None,
        protocol if protocol == icmp => {
            let kind_and_code = be16(upper, 0)?;
            icmp::opposite(l4, (kind_and_code >> 8) as u8)?;
            Some([be16(upper, 4)?, kind_and_code])
        }
        _ => Some([0, 0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ICMP error of that type from 10.0.0.9 to 10.0.0.1 that quotes `quoted`.
    fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
        let length = (28 + quoted.len()) as u16;
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0];
        frame.extend(length.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1, kind, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(quoted);
        frame
    }

    fn packet(protocol: u8, upper: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 63, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend(upper);
        packet
    }

    fn read_frame(frame: &[u8]) -> Option<Quoted> {
        read(frame, &crate::parse(frame, frame.len() as u32).unwrap())
    }

    #[test]
    fn whose_packet_an_error_is_about() {
        let udp = [0x30, 0x39, 0, 53, 0, 8, 0, 0];
        let expected = Quoted {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 17,
            ports: [12345, 53],
        };
        assert_eq!(read_frame(&error(3, &packet(17, &udp))), Some(expected));
        let echo = [8, 0, 1, 2, 0x12, 0x34, 0, 1];
        let expected = Quoted { protocol: 1, ports: [0x1234, 0x800], ..expected };
        assert_eq!(read_frame(&error(11, &packet(1, &echo))), Some(expected));
    }

    #[test]
    fn nothing_is_made_up_from_what_is_not_there() {
        let whole = packet(17, &[0x30, 0x39, 0, 53]);
        assert!(read_frame(&error(3, &whole)).is_some());
        for length in 0..whole.len() {
            assert_eq!(read_frame(&error(3, &whole[..length])), None, "{length} bytes");
        }
        assert_eq!(read_frame(&error(8, &whole)), None, "a query is no error");
        assert_eq!(
            read_frame(&error(3, &packet(1, &[3, 1, 0, 0, 0, 0, 0, 0]))),
            None,
            "an error about an error"
        );
        let mut fragment = whole;
        fragment[7] = 1;
        assert_eq!(read_frame(&error(3, &fragment)), None, "a later fragment has no ports");
    }
}
