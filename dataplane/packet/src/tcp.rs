//! TCP (RFC 9293).

use crate::bytes::array;
use crate::parse::Input;
use crate::upper::{Datagram, Upper};
use crate::{L4, ParseError};

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Bytes of a header without options.
pub const MIN_HEADER_LENGTH: usize = 20;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// Offset of the sequence number in the header.
pub const SEQUENCE_OFFSET: usize = 4;
/// Offset of the data offset, in the upper four bits, in the header.
pub const DATA_OFFSET: usize = 12;
/// Offset of the flags (the lower eight) in the header.
pub const FLAGS_OFFSET: usize = 13;

/// No more data follows.
pub const FIN: u8 = 0x01;
/// Hand the data to the receiver.
pub const PSH: u8 = 0x08;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// Bytes of the header, from its data offset; 0 to 60.
#[inline(always)]
fn header_length(data_offset: u8) -> usize {
    usize::from(data_offset >> 4) * 4
}

#[inline(always)]
pub(crate) fn parse(input: Input<'_>, place: Datagram) -> Result<Upper, ParseError> {
    let header: &[u8; MIN_HEADER_LENGTH] = input.take(place.at, place.end, ParseError::L4Truncated)?;
    let length = header_length(header[DATA_OFFSET]);
    let payload_offset = place.at + length;
    if length < MIN_HEADER_LENGTH || payload_offset > place.end {
        return Err(ParseError::TcpHeaderLength);
    }
    if payload_offset > input.head.len() {
        return Err(ParseError::HeaderTooLong);
    }
    Ok(Upper {
        l4: L4::Tcp,
        payload_offset,
        source_port: u16::from_be_bytes([header[0], header[1]]),
        destination_port: u16::from_be_bytes([header[2], header[3]]),
    })
}

/// Does the data offset at `at` claim fewer than 20 bytes? (Otherwise a refused one claimed too many.)
pub(crate) fn header_length_is_short(head: &[u8], at: usize) -> bool {
    array::<MIN_HEADER_LENGTH>(head, at)
        .is_some_and(|header| header_length(header[DATA_OFFSET]) < MIN_HEADER_LENGTH)
}
