//! SCTP (RFC 9260): the common header only.

use crate::parse::Input;
use crate::upper::{Datagram, Upper};
use crate::{L4, ParseError};

/// IP protocol number.
pub const PROTOCOL: u8 = 132;
/// Bytes of the common header.
pub const HEADER_LENGTH: usize = 12;

pub(crate) fn parse(input: Input<'_>, place: Datagram) -> Result<Upper, ParseError> {
    let header: &[u8; HEADER_LENGTH] = input.take(place.at, place.end, ParseError::L4Truncated)?;
    Ok(Upper {
        l4: L4::Sctp,
        payload_offset: place.at + HEADER_LENGTH,
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
    })
}
