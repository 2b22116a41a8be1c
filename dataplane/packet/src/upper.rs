//! The transport layer inside a datagram: which protocol, where its payload begins, its ports.

use crate::parse::Input;
use crate::{L4, ParseError, icmp, ipv4, sctp, tcp, udp};

/// What the transport layer adds to [`Headers`](crate::Headers).
#[derive(Clone, Copy)]
pub(crate) struct Upper {
    pub(crate) l4: L4,
    pub(crate) payload_offset: usize,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
}

impl Upper {
    /// Nothing that is looked into.
    pub(crate) fn none(l4: L4, at: usize) -> Upper {
        Upper { l4, payload_offset: at, source_port: 0, destination_port: 0 }
    }
}

/// A transport header's place: it begins at `at` and the datagram, or this first fragment of it, ends at `end`.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    pub(crate) at: usize,
    pub(crate) end: usize,
    /// More fragments follow, so that lengths inside may exceed `end`.
    pub(crate) first_fragment: bool,
}

/// Reads the transport header of `protocol`.
#[inline(always)]
pub(crate) fn parse(
    input: Input<'_>,
    protocol: u8,
    l3_is_v6: bool,
    place: Datagram,
) -> Result<Upper, ParseError> {
    match protocol {
        tcp::PROTOCOL => tcp::parse(input, place),
        udp::PROTOCOL => udp::parse(input, place),
        sctp::PROTOCOL => sctp::parse(input, place),
        icmp::PROTOCOL if !l3_is_v6 => icmp::parse(input, place, L4::Icmp),
        icmp::PROTOCOL_V6 if l3_is_v6 => icmp::parse(input, place, L4::Icmpv6),
        _ => Ok(Upper::none(L4::Other, place.at)),
    }
}

/// The same for a first fragment, where a header that is not whole is an attempt to hide it.
#[inline(never)]
pub(crate) fn parse_first_fragment(
    input: Input<'_>,
    protocol: u8,
    l3_is_v6: bool,
    place: Datagram,
) -> Result<Upper, ParseError> {
    parse(input, protocol, l3_is_v6, place).map_err(|error| match error {
        ParseError::L4Truncated => ParseError::FragmentTiny,
        ParseError::TcpHeaderLength if !tcp::header_length_is_short(input.head, place.at) => {
            ParseError::FragmentTiny
        }
        other => other,
    })
}

/// Refuses fragments that no honest sender makes. `offset` and `length` are in bytes and of the fragment's data,
/// `before` is what precedes the data in the reassembled datagram's length field.
pub(crate) fn check_fragment(
    offset: usize,
    length: usize,
    more: bool,
    before: usize,
) -> Result<(), ParseError> {
    if length == 0 || (more && !length.is_multiple_of(8)) {
        return Err(ParseError::FragmentLength);
    }
    if before + offset + length > ipv4::MAX_LENGTH {
        return Err(ParseError::FragmentOverrun);
    }
    Ok(())
}

/// Refuses a later fragment that begins inside the transport header which the first one must hold whole (RFC 3128).
pub(crate) fn check_later_fragment(protocol: u8, offset: usize) -> Result<(), ParseError> {
    let header = match protocol {
        tcp::PROTOCOL => tcp::MIN_HEADER_LENGTH,
        sctp::PROTOCOL => sctp::HEADER_LENGTH,
        _ => udp::HEADER_LENGTH,
    };
    if offset < header { Err(ParseError::FragmentOverlap) } else { Ok(()) }
}
