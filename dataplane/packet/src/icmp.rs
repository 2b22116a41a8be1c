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
