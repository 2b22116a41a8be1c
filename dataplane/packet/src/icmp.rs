//! ICMP (RFC 792) and ICMPv6 (RFC 4443): type and code.

use crate::bytes::array;
use crate::parse::Input;
use crate::upper::{Datagram, Upper};
use crate::{Headers, L4, ParseError};

/// IP protocol number of ICMP, meaningful in IPv4.
pub const PROTOCOL: u8 = 1;
/// Next-header value of ICMPv6, meaningful in IPv6.
pub const PROTOCOL_V6: u8 = 58;
/// Bytes up to the end of the second word, which every message that is in use has.
pub const HEADER_LENGTH: usize = 8;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 2;

pub(crate) fn parse(input: Input<'_>, place: Datagram, l4: L4) -> Result<Upper, ParseError> {
    let _header: &[u8; HEADER_LENGTH] = input.take(place.at, place.end, ParseError::L4Truncated)?;
    Ok(Upper::none(l4, place.at + HEADER_LENGTH))
}

/// The identifier of an echo message, or of another query (RFC 792, RFC 4443 section 4): what tells queries of one host to another apart.
#[inline]
#[must_use]
pub fn identifier(head: &[u8], headers: &Headers) -> Option<u16> {
    match headers.l4 {
        L4::Icmp | L4::Icmpv6 => {
            array(head, usize::from(headers.l4_offset) + 4).map(|word| u16::from_be_bytes(*word))
        }
        _ => None,
    }
}

/// The type of the answer to a query, or of the query to an answer: echo, time stamp, information and address mask (RFC 792, RFC 950), echo in IPv6.
/// `None` for errors and all else that nobody answers.
#[inline]
#[must_use]
pub const fn opposite(l4: L4, kind: u8) -> Option<u8> {
    match (l4, kind) {
        (L4::Icmp, 8) => Some(0),
        (L4::Icmp, 0) => Some(8),
        (L4::Icmp, 13 | 15 | 17) => Some(kind + 1),
        (L4::Icmp, 14 | 16 | 18) => Some(kind - 1),
        (L4::Icmpv6, 128) => Some(129),
        (L4::Icmpv6, 129) => Some(128),
        _ => None,
    }
}

/// Whether the type is an error's, which quotes the packet that it is about (RFC 1122 section 3.2.2, RFC 4443 section 2.1).
#[inline]
#[must_use]
pub const fn is_error(l4: L4, kind: u8) -> bool {
    match l4 {
        L4::Icmp => matches!(kind, 3 | 4 | 5 | 11 | 12),
        L4::Icmpv6 => kind < 128,
        _ => false,
    }
}

/// The type and code of an ICMP or ICMPv6 message; `None` if these headers have none.
#[inline]
#[must_use]
pub fn type_and_code(head: &[u8], headers: &Headers) -> Option<(u8, u8)> {
    match headers.l4 {
        L4::Icmp | L4::Icmpv6 => {
            array(head, usize::from(headers.l4_offset)).map(|&[kind, code]| (kind, code))
        }
        _ => None,
    }
}
