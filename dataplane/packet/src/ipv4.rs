//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use crate::bytes::array;
use crate::parse::Input;
use crate::upper::{self, Datagram, Upper};
use crate::vlan::Link;
use crate::{Fragment, Headers, L3, L4, ParseError};

/// Bytes of a header without options.
pub const MIN_HEADER_LENGTH: usize = 20;
/// Bytes of the longest datagram.
pub const MAX_LENGTH: usize = 65_535;
/// Offset of the total length in the header.
pub const TOTAL_LENGTH_OFFSET: usize = 2;
/// Offset of the identification in the header.
pub const IDENTIFICATION_OFFSET: usize = 4;
/// Offset of the header checksum.
pub const CHECKSUM_OFFSET: usize = 10;

/// The identification, which a datagram's fragments have in common; `None` unless this is IPv4.
#[must_use]
pub fn identification(head: &[u8], headers: &Headers) -> Option<u16> {
    let at = usize::from(headers.l3_offset) + IDENTIFICATION_OFFSET;
    array(head, at).filter(|_| headers.l3 == L3::Ipv4).map(|word| u16::from_be_bytes(*word))
}

/// More fragments follow.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment's offset, in units of eight bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(&'a [u8; MIN_HEADER_LENGTH]);

impl<'a> View<'a> {
    /// The header at `at`, if the head has it. That it is one is for [`parse`](crate::parse()) to say.
    #[inline]
    #[must_use]
    pub fn new(head: &'a [u8], at: usize) -> Option<Self> {
        array(head, at).map(View)
    }

    /// Bytes of header and options: 0 to 60, at least 20 once parsed.
    #[inline]
    #[must_use]
    pub fn header_length(&self) -> usize {
        usize::from(self.0[0] & 0x0f) * 4
    }

    /// Bytes of the datagram, header included.
    #[inline]
    #[must_use]
    pub fn total_length(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Identifies the fragments of one datagram.
    #[inline]
    #[must_use]
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Hops it may still take.
    #[inline]
    #[must_use]
    pub fn time_to_live(&self) -> u8 {
        self.0[8]
    }

    /// The protocol it carries.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.0[9]
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[12], self.0[13], self.0[14], self.0[15])
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.0[16], self.0[17], self.0[18], self.0[19])
    }
}

#[inline(always)]
pub(crate) fn parse(input: Input<'_>, link: Link, out: &mut Headers) -> Result<(), ParseError> {
    let l3_offset = usize::from(link.l3_offset);
    let header: &[u8; MIN_HEADER_LENGTH] =
        input.take(l3_offset, input.frame_len, ParseError::Ipv4Truncated)?;
    let view = View(header);
    let (header_length, total_length) = (view.header_length(), usize::from(view.total_length()));
    if header[0] >> 4 != 4 {
        return Err(ParseError::Ipv4Version);
    }
    if header_length < MIN_HEADER_LENGTH || header_length > total_length {
        return Err(ParseError::Ipv4HeaderLength);
    }
    let end = l3_offset + total_length;
    if end > input.frame_len {
        return Err(ParseError::Ipv4TotalLength);
    }
    let l4_offset = l3_offset + header_length;
    let fragment_field = u16::from_be_bytes([header[6], header[7]]);
    let (fragment, upper) = if fragment_field & (MORE_FRAGMENTS | FRAGMENT_OFFSET) == 0 {
        let place = Datagram { at: l4_offset, end, first_fragment: false };
        (Fragment::Whole, upper::parse(input, view.protocol(), false, place)?)
    } else {
        let place = Datagram { at: l4_offset, end, first_fragment: true };
        parse_fragment(input, view, place, fragment_field)?
    };
    *out = Headers {
        l3_length: total_length as u32,
        ether_type: link.ether_type,
        vlan_id: link.vlan_id,
        source_port: upper.source_port,
        destination_port: upper.destination_port,
        l3_offset: link.l3_offset,
        l4_offset: l4_offset as u8,
        payload_offset: upper.payload_offset as u8,
        l3: L3::Ipv4,
        l4: upper.l4,
        protocol: view.protocol(),
        fragment,
        vlan_count: link.vlan_count,
        has_options: header_length > MIN_HEADER_LENGTH,
    };
    Ok(())
}

#[inline(never)]
fn parse_fragment(
    input: Input<'_>,
    view: View<'_>,
    place: Datagram,
    fragment_field: u16,
) -> Result<(Fragment, Upper), ParseError> {
    let offset = usize::from(fragment_field & FRAGMENT_OFFSET) * 8;
    let more = fragment_field & MORE_FRAGMENTS != 0;
    upper::check_fragment(offset, place.end - place.at, more, view.header_length())?;
    if offset == 0 {
        let upper = upper::parse_first_fragment(input, view.protocol(), false, place)?;
        return Ok((Fragment::First, upper));
    }
    upper::check_later_fragment(view.protocol(), offset)?;
    Ok((Fragment::Later, Upper::none(L4::None, place.at)))
}
