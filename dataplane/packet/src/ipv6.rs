//! IPv6 (RFC 8200) and its extension headers.

use std::net::Ipv6Addr;

use crate::bytes::array;
use crate::parse::Input;
use crate::upper::{self, Datagram, Upper};
use crate::vlan::Link;
use crate::{Fragment, Headers, L3, L4, ParseError};

/// Bytes of the fixed header.
pub const HEADER_LENGTH: usize = 40;
/// Extension headers a packet may carry.
pub const MAX_EXTENSIONS: usize = 8;
/// Offset of the payload length in the header.
pub const PAYLOAD_LENGTH_OFFSET: usize = 4;

/// Next-header value of hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next-header value of a routing header.
pub const ROUTING: u8 = 43;
/// Next-header value of a fragment header.
pub const FRAGMENT: u8 = 44;
/// Next-header value of an authentication header (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// Next-header value saying that nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Next-header value of destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Option type of one byte of padding.
const PAD1: u8 = 0;
/// Option type of a jumbogram's length (RFC 2675).
const JUMBO_PAYLOAD: u8 = 0xc2;
/// Routing type 0, deprecated by RFC 5095.
const SOURCE_ROUTE: u8 = 0;
/// Routing type of Mobile IPv6 (RFC 6275).
const MOBILE: u8 = 2;
/// Routing type of segment routing (RFC 8754).
const SEGMENT_ROUTING: u8 = 4;

/// The fixed IPv6 header.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    fixed: &'a [u8; 8],
    source: &'a [u8; 16],
    destination: &'a [u8; 16],
}

impl<'a> View<'a> {
    /// The header at `at`, if the head has it. That it is one is for [`parse`](crate::parse()) to say.
    #[inline]
    #[must_use]
    pub fn new(head: &'a [u8], at: usize) -> Option<Self> {
        let (fixed, rest) = head.get(at..)?.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        Some(View { fixed, source, destination: rest.first_chunk()? })
    }

    /// Bytes behind the fixed header.
    #[inline]
    #[must_use]
    pub fn payload_length(&self) -> u16 {
        u16::from_be_bytes([self.fixed[4], self.fixed[5]])
    }

    /// What follows the fixed header.
    #[inline]
    #[must_use]
    pub fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// Hops it may still take.
    #[inline]
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(*self.source)
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(*self.destination)
    }
}

/// Where the chain of extension headers ended.
#[derive(Clone, Copy)]
struct Chain {
    protocol: u8,
    at: usize,
    fragment: Fragment,
}

#[inline(always)]
pub(crate) fn parse(input: Input<'_>, link: Link, out: &mut Headers) -> Result<(), ParseError> {
    let l3_offset = usize::from(link.l3_offset);
    let header: &[u8; HEADER_LENGTH] = input.take(l3_offset, input.frame_len, ParseError::Ipv6Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(ParseError::Ipv6Version);
    }
    let l3_length = HEADER_LENGTH + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let next_header = header[6];
    if l3_length == HEADER_LENGTH && next_header == HOP_BY_HOP {
        return Err(ParseError::Ipv6Jumbogram);
    }
    let end = l3_offset + l3_length;
    if end > input.frame_len {
        return Err(ParseError::Ipv6PayloadLength);
    }
    let at = l3_offset + HEADER_LENGTH;
    let (chain, upper) = if is_extension(next_header) {
        parse_extended(input, next_header, at, end)?
    } else {
        let place = Datagram { at, end, first_fragment: false };
        let chain = Chain { protocol: next_header, at, fragment: Fragment::Whole };
        (chain, upper::parse(input, next_header, true, place)?)
    };
    *out = Headers {
        l3_length: l3_length as u32,
        ether_type: link.ether_type,
        vlan_id: link.vlan_id,
        source_port: upper.source_port,
        destination_port: upper.destination_port,
        l3_offset: link.l3_offset,
        l4_offset: chain.at as u8,
        payload_offset: upper.payload_offset as u8,
        l3: L3::Ipv6,
        l4: upper.l4,
        protocol: chain.protocol,
        fragment: chain.fragment,
        vlan_count: link.vlan_count,
        has_options: is_extension(next_header) && next_header != NO_NEXT_HEADER,
    };
    Ok(())
}

#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | NO_NEXT_HEADER | DESTINATION_OPTIONS
    )
}

/// A packet with extension headers: walks them, then reads the transport header.
#[inline(never)]
fn parse_extended(
    input: Input<'_>,
    next_header: u8,
    at: usize,
    end: usize,
) -> Result<(Chain, Upper), ParseError> {
    let chain = walk(input, next_header, at, end)?;
    if chain.at > input.head.len() {
        return Err(ParseError::HeaderTooLong);
    }
    let first_fragment = chain.fragment == Fragment::First;
    let place = Datagram { at: chain.at, end, first_fragment };
    let upper = match chain.fragment {
        Fragment::Later => Upper::none(L4::None, chain.at),
        _ if chain.protocol == NO_NEXT_HEADER => Upper::none(L4::None, chain.at),
        Fragment::First => upper::parse_first_fragment(input, chain.protocol, true, place)?,
        Fragment::Whole => upper::parse(input, chain.protocol, true, place)?,
    };
    Ok((chain, upper))
}

/// Follows the chain to the first header that is no extension, or to the data of a later fragment.
fn walk(input: Input<'_>, next_header: u8, at: usize, end: usize) -> Result<Chain, ParseError> {
    let mut chain = Chain { protocol: next_header, at, fragment: Fragment::Whole };
    let mut fragmented = false;
    for position in 0..=MAX_EXTENSIONS {
        if !is_extension(chain.protocol) || chain.protocol == NO_NEXT_HEADER {
            return Ok(chain);
        }
        if position == MAX_EXTENSIONS {
            break;
        }
        let misplaced = match chain.protocol {
            HOP_BY_HOP => position != 0,
            FRAGMENT => fragmented,
            _ => false,
        };
        if misplaced {
            return Err(ParseError::Ipv6ExtensionOrder);
        }
        // RFC 7112: the first fragment holds the whole chain.
        let short = match chain.fragment {
            Fragment::First => ParseError::FragmentTiny,
            _ => ParseError::Ipv6ExtensionLength,
        };
        let header: &[u8; 8] = input.take(chain.at, end, short)?;
        if chain.protocol == FRAGMENT {
            fragmented = true;
            chain.fragment = fragment(header, end - chain.at - header.len())?;
        }
        let length = extension_length(chain.protocol, header[1]);
        if length < header.len() || chain.at + length > end {
            return Err(short);
        }
        check_content(input, chain, length)?;
        chain.protocol = header[0];
        chain.at += length;
        if chain.fragment == Fragment::Later {
            return Ok(chain);
        }
    }
    Err(ParseError::Ipv6ExtensionCount)
}

/// The identification in a packet's fragment header (RFC 8200 section 4.5), which its datagram's fragments have in common; `None` without one.
#[must_use]
pub fn identification(head: &[u8], headers: &Headers) -> Option<u32> {
    let mut at = usize::from(headers.l3_offset);
    let mut next = array::<HEADER_LENGTH>(head, at).filter(|_| headers.l3 == L3::Ipv6)?[6];
    at += HEADER_LENGTH;
    for _ in 0..MAX_EXTENSIONS {
        let header: &[u8; 8] = array(head, at).filter(|_| is_extension(next))?;
        if next == FRAGMENT {
            return Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
        }
        at += extension_length(next, header[1]).max(header.len());
        next = header[0];
    }
    None
}

/// Bytes of an extension header whose second byte is `field`; 0 for an authentication header of impossible length.
fn extension_length(protocol: u8, field: u8) -> usize {
    match protocol {
        FRAGMENT => 8,
        // RFC 4302 section 2.2: in words of four bytes less two, and in IPv6 a multiple of eight. 12 bytes are fixed.
        AUTHENTICATION => match (usize::from(field) + 2) * 4 {
            length if length < 16 || !length.is_multiple_of(8) => 0,
            length => length,
        },
        _ => (usize::from(field) + 1) * 8,
    }
}

/// Which part of a datagram a fragment header announces; `length` is that of the data behind it.
fn fragment(header: &[u8; 8], length: usize) -> Result<Fragment, ParseError> {
    let field = u16::from_be_bytes([header[2], header[3]]);
    let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
    if offset == 0 && !more {
        return Ok(Fragment::Whole);
    }
    upper::check_fragment(offset, length, more, 0)?;
    if offset == 0 {
        return Ok(Fragment::First);
    }
    upper::check_later_fragment(header[0], offset)?;
    Ok(Fragment::Later)
}

/// Looks inside the extension headers whose content can make the packet unfit to forward.
fn check_content(input: Input<'_>, chain: Chain, length: usize) -> Result<(), ParseError> {
    match chain.protocol {
        HOP_BY_HOP | DESTINATION_OPTIONS => {
            let content = input.head.get(chain.at + 2..chain.at + length).ok_or(ParseError::HeaderTooLong)?;
            check_options(content)
        }
        ROUTING => check_routing(array(input.head, chain.at).ok_or(ParseError::HeaderTooLong)?),
        _ => Ok(()),
    }
}

/// Type-length-value options: each must fit, none may be a jumbogram's.
fn check_options(mut options: &[u8]) -> Result<(), ParseError> {
    loop {
        options = match options {
            [] => return Ok(()),
            [PAD1, rest @ ..] => rest,
            [JUMBO_PAYLOAD, ..] => return Err(ParseError::Ipv6Jumbogram),
            [_, length, rest @ ..] => {
                rest.get(usize::from(*length)..).ok_or(ParseError::Ipv6ExtensionLength)?
            }
            [_] => return Err(ParseError::Ipv6ExtensionLength),
        };
    }
}

/// A routing header must not claim more segments than it has room for; type 0 must have none left.
fn check_routing(header: &[u8; 8]) -> Result<(), ParseError> {
    let [_, length, kind, segments_left, last_entry, ..] = *header;
    let addresses = length / 2;
    let broken = match kind {
        SOURCE_ROUTE => segments_left != 0,
        MOBILE => segments_left > addresses,
        // RFC 8754 section 4.3.1.1.
        SEGMENT_ROUTING => {
            u16::from(last_entry) + 1 > u16::from(addresses)
                || u16::from(segments_left) > u16::from(last_entry) + 1
        }
        _ => false,
    };
    if broken { Err(ParseError::Ipv6Routing) } else { Ok(()) }
}
