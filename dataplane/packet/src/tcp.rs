//! TCP (RFC 9293).

use crate::bytes::{array, be16, put16};
use crate::parse::Input;
use crate::upper::{Datagram, Upper};
use crate::{Headers, L4, ParseError, checksum};

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

/// Begins a connection.
pub const SYN: u8 = 0x02;
/// Ends a connection at once.
pub const RST: u8 = 0x04;
/// The acknowledgment number counts.
pub const ACK: u8 = 0x10;
/// No more data follows.
pub const FIN: u8 = 0x01;
/// The urgent pointer says something.
pub const URG: u8 = 0x20;
/// Hand the data to the receiver.
pub const PSH: u8 = 0x08;
/// Congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

/// What connection tracking looks at (RFC 9293 section 3.1): one segment, or what will be cut into several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// The number of its first byte.
    pub sequence: u32,
    /// The number of the byte its sender expects next; counts with [`ACK`].
    pub acknowledgment: u32,
    /// Bytes it carries.
    pub payload: u32,
    /// The window, as it stands there: not scaled.
    pub window: u16,
    /// The lower eight flags.
    pub flags: u8,
    /// The shift of a SYN's window scale option (RFC 7323 section 2.2), at most 14; none without it, and in what is no SYN.
    pub scale: Option<u8>,
}

impl Segment {
    /// Reads it from behind headers that were parsed as TCP's; `None` from others.
    #[inline(always)]
    #[must_use]
    pub fn read(head: &[u8], headers: &Headers) -> Option<Self> {
        if headers.l4 != L4::Tcp {
            return None;
        }
        let header: &[u8; MIN_HEADER_LENGTH] = array(head, usize::from(headers.l4_offset))?;
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let flags = header[FLAGS_OFFSET];
        Some(Self {
            sequence: word(SEQUENCE_OFFSET),
            acknowledgment: word(8),
            payload: headers.payload_length(),
            window: u16::from_be_bytes([header[14], header[15]]),
            flags,
            scale: if flags & SYN != 0 { scale(head, headers) } else { None },
        })
    }
}

impl Segment {
    /// The sequence number behind it: a SYN and a FIN count as a byte each.
    #[inline(always)]
    #[must_use]
    pub const fn end(&self) -> u32 {
        let counted = (self.flags & SYN != 0) as u32 + (self.flags & FIN != 0) as u32;
        self.sequence.wrapping_add(self.payload).wrapping_add(counted)
    }
}

/// The shift that a SYN offers. Greater ones count as 14 (RFC 7323 section 2.3).
#[cold]
fn scale(head: &[u8], headers: &Headers) -> Option<u8> {
    const WINDOW_SCALE: u8 = 3;
    let options = head.get(..usize::from(headers.payload_offset))?;
    let at = option_at(options, usize::from(headers.l4_offset) + MIN_HEADER_LENGTH, WINDOW_SCALE, 3)?;
    Some((*options.get(at)?).min(14))
}

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

/// Lowers the maximum segment size that a SYN offers (RFC 9293 section 3.7.1) to `most`, if it is greater; whether it was. `partial`: the checksum is yet to
/// be completed, and then not touched. Anything but a whole SYN with the option stays as it is.
pub fn clamp_mss(head: &mut [u8], headers: &Headers, most: u16, partial: bool) -> bool {
    clamp(head, headers, most, partial).is_some()
}

fn clamp(head: &mut [u8], headers: &Headers, most: u16, partial: bool) -> Option<()> {
    let l4 = usize::from(headers.l4_offset);
    let [flags] = *array(head, l4 + FLAGS_OFFSET)?;
    if headers.l4 != L4::Tcp || flags & SYN == 0 {
        return None;
    }
    let at = mss_at(head.get(..usize::from(headers.payload_offset))?, l4 + MIN_HEADER_LENGTH)?;
    let old = be16(head, at).filter(|old| *old > most)?;
    put16(head, at, most)?;
    if !partial {
        // A word at an odd offset adds up with its bytes exchanged.
        let [old, new] = [old, most].map(|word| if (at - l4) % 2 == 0 { word } else { word.swap_bytes() });
        let sum = be16(head, l4 + CHECKSUM_OFFSET)?;
        put16(head, l4 + CHECKSUM_OFFSET, checksum::update(sum, old, new))?;
    }
    Some(())
}

/// Where the value of the maximum segment size is, among the options from `at` on.
fn mss_at(headers: &[u8], at: usize) -> Option<usize> {
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    option_at(headers, at, MAXIMUM_SEGMENT_SIZE, 4)
}

/// Where the value of the first option `wanted` of `bytes` bytes is, among the options from `at` on.
fn option_at(headers: &[u8], mut at: usize, wanted: u8, bytes: usize) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    loop {
        match *headers.get(at)? {
            END => return None,
            NOTHING => at += 1,
            kind => {
                let length = usize::from(*headers.get(at + 1)?);
                if kind == wanted && length == bytes {
                    return headers.get(at + 2..at + bytes).map(|_| at + 2);
                }
                at += length.max(2);
            }
        }
    }
}

/// Does the data offset at `at` claim fewer than 20 bytes? (Otherwise a refused one claimed too many.)
pub(crate) fn header_length_is_short(head: &[u8], at: usize) -> bool {
    array::<MIN_HEADER_LENGTH>(head, at)
        .is_some_and(|header| header_length(header[DATA_OFFSET]) < MIN_HEADER_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::{Sum, pseudo_header};

    fn syn(options: &[u8]) -> Vec<u8> {
        let length = 40 + options.len() as u16;
        let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 8, 0, 0x45, 0];
        frame.extend(length.to_be_bytes());
        frame.extend([
            0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11, 0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 0,
        ]);
        frame.extend([(5 + options.len() as u8 / 4) << 4, SYN, 1, 0, 0, 0, 0, 0]);
        frame.extend(options);
        let headers = crate::parse(&frame, frame.len() as u32).unwrap();
        let sum = pseudo_header(&frame, &headers).unwrap().plus(Sum::of(&frame[34..])).finish();
        frame[50..52].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    fn clamped(options: &[u8], most: u16) -> Option<u16> {
        let mut frame = syn(options);
        let headers = crate::parse(&frame, frame.len() as u32).unwrap();
        let done = clamp_mss(&mut frame, &headers, most, false);
        assert!(pseudo_header(&frame, &headers).unwrap().plus(Sum::of(&frame[34..])).is_right());
        let at = mss_at(&frame, 54);
        assert_eq!(frame == syn(options), !done);
        at.and_then(|at| be16(&frame, at))
    }

    #[test]
    fn a_greater_offer_is_lowered_wherever_the_option_lies() {
        for options in [
            &[2, 4, 5, 0xb4][..],
            &[1, 2, 4, 5, 0xb4, 1, 1, 1],
            &[1, 1, 2, 4, 5, 0xb4, 0, 0],
            &[3, 3, 7, 2, 4, 5, 0xb4, 0],
        ] {
            assert_eq!(clamped(options, 1410), Some(1410), "{options:?}");
            assert_eq!(clamped(options, 1460), Some(1460), "not above");
            assert_eq!(clamped(options, 9000), Some(1460));
        }
    }

    #[test]
    fn p35_options_that_lie_are_left_alone() {
        for options in
            [&[2, 0, 5, 0xb4][..], &[2, 3, 5, 0xb4], &[8, 0xff, 2, 4], &[1, 1, 2, 4], &[0, 2, 4, 5]]
        {
            assert_eq!(clamped(options, 100), None, "{options:?}");
        }
        assert_eq!(clamped(&[], 100), None);
    }

    #[test]
    fn what_tracking_looks_at_is_read_and_the_scale_of_a_syn_alone() {
        let mut frame = syn(&[2, 4, 5, 180, 1, 3, 3, 15]);
        frame[38..46].copy_from_slice(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0]);
        let read =
            |frame: &[u8]| Segment::read(frame, &crate::parse(frame, frame.len() as u32).unwrap()).unwrap();
        let expected = Segment {
            sequence: 0x1234_5678,
            acknowledgment: 0x9abc_def0,
            payload: 0,
            window: 0x100,
            flags: SYN,
            scale: Some(14),
        };
        assert_eq!(read(&frame), expected, "a shift above 14 counts as 14");
        frame[47] = ACK;
        assert_eq!(read(&frame), Segment { flags: ACK, scale: None, ..expected });
        assert_eq!(read(&syn(&[3, 4, 5, 180])).scale, None, "an option of another length is not it");
    }
}
