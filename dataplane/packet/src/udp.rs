//! UDP (RFC 768).

use crate::parse::Input;
use crate::upper::{Datagram, Upper};
use crate::{L4, ParseError};

/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Bytes of the header.
pub const HEADER_LENGTH: usize = 8;
/// Offset of the length in the header.
pub const LENGTH_OFFSET: usize = 4;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 6;

#[inline(always)]
pub(crate) fn parse(input: Input<'_>, place: Datagram) -> Result<Upper, ParseError> {
    let header: &[u8; HEADER_LENGTH] = input.take(place.at, place.end, ParseError::L4Truncated)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // A datagram may be shorter than IP says (RFC 9868 puts options there). Length 0 is for jumbograms only.
    if length < HEADER_LENGTH || (place.at + length > place.end && !place.first_fragment) {
        return Err(ParseError::UdpLength);
    }
    Ok(Upper {
        l4: L4::Udp,
        payload_offset: place.at + HEADER_LENGTH,
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
    })
}
