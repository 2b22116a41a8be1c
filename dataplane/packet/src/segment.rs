//! The headers of the segments that a large packet is cut into (TCP and UDP segmentation offload in software).
//!
//! A [`Segmenter`] is made once per packet from its head; it adds up what all segments have in common and then writes the
//! head of segment i into the caller's buffer: the headers, and as much of the segment's payload as lies in the private
//! head. The rest of the payload the caller copies from where it is; [`Segmenter::range`] says which bytes that are.

use buf::{Checksum, Segment, SegmentKind};

use crate::bytes::{array, be16, put, put16};
use crate::checksum::Sum;
use crate::{Headers, L3, ipv4, ipv6, tcp, udp};

pub use crate::offload::MAX_SEGMENTS;

/// The bytes of the packet that a segment carries, by offset in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRange {
    /// Bytes of payload that [`Segmenter::write`] takes from the private head.
    pub in_head: usize,
    /// First byte of the rest, from the start of the original frame; at or behind the end of the private head.
    pub body_from: usize,
    /// Bytes of the rest; 0 if the private head had all of it.
    pub body_length: usize,
}

impl SegmentRange {
    /// Bytes of payload in this segment.
    #[must_use]
    pub fn payload_length(&self) -> usize {
        self.in_head + self.body_length
    }
}

/// What [`Segmenter::write`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes written into the buffer: headers and the payload that was in the private head. The segment's body follows.
    pub head_length: usize,
    /// `Valid` if the body's sum was given, else `Partial`.
    pub checksum: Checksum,
}

/// Bytes of the longest private head: that of what came by an uplink.
const LONGEST: usize = buf::HEAD_BYTES + buf::TUNNEL_BYTES;

/// Makes the headers of the segments of one packet.
#[derive(Clone, Debug)]
pub struct Segmenter {
    /// The private head; checksums, lengths, sequence number, identification and flags zeroed.
    template: [u8; LONGEST],
    head_length: usize,
    header_length: usize,
    l3_offset: usize,
    l4_offset: usize,
    is_v6: bool,
    is_tcp: bool,
    ecn: bool,
    payload_length: usize,
    size: usize,
    sequence: u32,
    identification: u16,
    flags: u8,
    /// Of the IPv4 header as it is in the template.
    ip_sum: Sum,
    /// Of the addresses and the protocol.
    pseudo_sum: Sum,
    /// Of the transport header as it is in the template.
    l4_sum: Sum,
}

impl Segmenter {
    /// Prepares to cut the packet whose private head this is. `None` if [`validate_offload`](crate::validate_offload)
    /// would refuse `segment` for these headers, or these are not the head's.
    #[must_use]
    pub fn new(head: &[u8], headers: &Headers, segment: Segment) -> Option<Segmenter> {
        let is_tcp = matches!(segment.kind, SegmentKind::TcpV4 | SegmentKind::TcpV6);
        let checksum = if is_tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let asked = buf::Offload {
            checksum: Checksum::Partial { start: headers.l4_offset.into(), offset: checksum as u16 },
            segment: Some(segment),
            tunnel: 0,
        };
        crate::validate_offload(headers, asked, headers.l3_end()).ok()?;
        let head = head.get(..head.len().min(LONGEST).min(headers.l3_end() as usize))?;
        if head.len() < usize::from(headers.payload_offset) {
            return None;
        }
        let mut template = [0; LONGEST];
        template.get_mut(..head.len())?.copy_from_slice(head);
        let mut segmenter = Segmenter {
            template,
            head_length: head.len(),
            header_length: headers.payload_offset.into(),
            l3_offset: headers.l3_offset.into(),
            l4_offset: headers.l4_offset.into(),
            is_v6: headers.l3 == L3::Ipv6,
            is_tcp,
            ecn: segment.ecn,
            payload_length: headers.payload_length() as usize,
            size: segment.size.into(),
            sequence: 0,
            identification: 0,
            flags: 0,
            ip_sum: Sum::ZERO,
            pseudo_sum: Sum::ZERO,
            l4_sum: Sum::ZERO,
        };
        segmenter.take_network(headers.protocol)?;
        if headers.has_options {
            segmenter.take_pseudo_sum(checksum)?;
        }
        segmenter.take_transport()?;
        Some(segmenter)
    }

    /// Takes out of the template what differs between the network headers, and sums the rest.
    fn take_network(&mut self, protocol: u8) -> Option<()> {
        let (l3, end) = (self.l3_offset, self.l4_offset);
        let addresses = if self.is_v6 {
            put16(&mut self.template, l3 + ipv6::PAYLOAD_LENGTH_OFFSET, 0)?;
            self.template.get(l3 + 8..l3 + ipv6::HEADER_LENGTH)?
        } else {
            self.identification = be16(&self.template, l3 + ipv4::IDENTIFICATION_OFFSET)?;
            put16(&mut self.template, l3 + ipv4::IDENTIFICATION_OFFSET, 0)?;
            put16(&mut self.template, l3 + ipv4::TOTAL_LENGTH_OFFSET, 0)?;
            put16(&mut self.template, l3 + ipv4::CHECKSUM_OFFSET, 0)?;
            self.ip_sum = Sum::of(self.template.get(l3..end)?);
            self.template.get(l3 + 12..l3 + ipv4::MIN_HEADER_LENGTH)?
        };
        self.pseudo_sum = Sum::of(addresses).plus(Sum::of_word(u32::from(protocol)));
        Some(())
    }

    /// With source routing the pseudo header has another destination than the network header: that of the sender's own
    /// sum, which is in the checksum field at `offset` and includes the length of the whole.
    fn take_pseudo_sum(&mut self, offset: usize) -> Option<()> {
        let whole = self.header_length - self.l4_offset + self.payload_length;
        let field = be16(&self.template, self.l4_offset + offset)?;
        self.pseudo_sum = Sum::from_folded(field).minus(Sum::of_word(whole as u32));
        Some(())
    }

    /// The same for the transport headers.
    fn take_transport(&mut self) -> Option<()> {
        let l4 = self.l4_offset;
        if self.is_tcp {
            self.sequence = u32::from_be_bytes(*array(&self.template, l4 + tcp::SEQUENCE_OFFSET)?);
            [self.flags] = *array(&self.template, l4 + tcp::FLAGS_OFFSET)?;
            put(&mut self.template, l4 + tcp::SEQUENCE_OFFSET, [0; 4])?;
            put(&mut self.template, l4 + tcp::FLAGS_OFFSET, [0])?;
            put16(&mut self.template, l4 + tcp::CHECKSUM_OFFSET, 0)?;
        } else {
            put16(&mut self.template, l4 + udp::LENGTH_OFFSET, 0)?;
            put16(&mut self.template, l4 + udp::CHECKSUM_OFFSET, 0)?;
        }
        self.l4_sum = Sum::of(self.template.get(l4..self.header_length)?);
        Some(())
    }

    /// How many segments there are: 1 to [`MAX_SEGMENTS`].
    #[must_use]
    pub fn count(&self) -> usize {
        self.payload_length.div_ceil(self.size)
    }

    /// Bytes of headers that every segment has.
    #[must_use]
    pub fn header_length(&self) -> usize {
        self.header_length
    }

    /// Which bytes segment `index` carries; `None` behind the last.
    #[inline]
    #[must_use]
    pub fn range(&self, index: usize) -> Option<SegmentRange> {
        if index >= self.count() {
            return None;
        }
        let skipped = index * self.size;
        let length = self.size.min(self.payload_length - skipped);
        let from = self.header_length + skipped;
        let in_head = self.head_length.saturating_sub(from).min(length);
        Some(SegmentRange { in_head, body_from: from + in_head, body_length: length - in_head })
    }

    /// Writes the head of segment `index` into `out` (the bytes of the private head always suffice).
    ///
    /// `body` is the sum of the bytes that [`Segmenter::range`] names as body, as if they began at an even offset. With it
    /// the transport checksum is written whole; without, that of the pseudo header, to be completed by the receiver.
    /// `None` behind the last segment, or if `out` is too short.
    #[inline]
    pub fn write(&self, index: usize, body: Option<Sum>, out: &mut [u8]) -> Option<Written> {
        let range = self.range(index)?;
        let from = self.header_length + index * self.size;
        let head_length = self.header_length + range.in_head;
        let out = out.get_mut(..head_length)?;
        let (headers, payload) = out.split_at_mut_checked(self.header_length)?;
        headers.copy_from_slice(self.template.get(..self.header_length)?);
        if range.in_head > 0 {
            payload.copy_from_slice(self.template.get(from..from + range.in_head)?);
        }
        self.write_network(headers, index, range.payload_length())?;
        let varying = self.write_transport(headers, index, range.payload_length())?;
        let l4_length = self.header_length - self.l4_offset + range.payload_length();
        let pseudo = self.pseudo_sum.plus(Sum::of_word(l4_length as u32));
        let field = if self.is_tcp { tcp::CHECKSUM_OFFSET } else { udp::CHECKSUM_OFFSET };
        let (value, checksum) = match body {
            Some(body) => {
                // The transport headers are of even length, so the payload begins at an even offset.
                let data = Sum::of(payload).plus(body.at_offset(payload.len()));
                let sum = pseudo.plus(self.l4_sum).plus(varying).plus(data);
                (sum.finish_nonzero(), Checksum::Valid)
            }
            None => {
                (pseudo.folded(), Checksum::Partial { start: self.l4_offset as u16, offset: field as u16 })
            }
        };
        put16(headers, self.l4_offset + field, value)?;
        Some(Written { head_length, checksum })
    }

    /// Lengths and, in IPv4, identification and header checksum.
    #[inline(always)]
    fn write_network(&self, headers: &mut [u8], index: usize, payload: usize) -> Option<()> {
        let length = (self.header_length - self.l3_offset + payload) as u16;
        if self.is_v6 {
            let length = length.wrapping_sub(ipv6::HEADER_LENGTH as u16);
            return put16(headers, self.l3_offset + ipv6::PAYLOAD_LENGTH_OFFSET, length);
        }
        let identification = self.identification.wrapping_add(index as u16);
        let sum =
            self.ip_sum.plus(Sum::of_word(u32::from(length))).plus(Sum::of_word(u32::from(identification)));
        put16(headers, self.l3_offset + ipv4::TOTAL_LENGTH_OFFSET, length)?;
        put16(headers, self.l3_offset + ipv4::IDENTIFICATION_OFFSET, identification)?;
        put16(headers, self.l3_offset + ipv4::CHECKSUM_OFFSET, sum.finish())
    }

    /// What differs between the transport headers; returns its sum.
    #[inline(always)]
    fn write_transport(&self, headers: &mut [u8], index: usize, payload: usize) -> Option<Sum> {
        if !self.is_tcp {
            let length = (udp::HEADER_LENGTH + payload) as u16;
            put16(headers, self.l4_offset + udp::LENGTH_OFFSET, length)?;
            return Some(Sum::of_word(u32::from(length)));
        }
        let sequence = self.sequence.wrapping_add((index * self.size) as u32);
        let mut flags = self.flags;
        if index + 1 < self.count() {
            flags &= !(tcp::FIN | tcp::PSH);
        }
        if index > 0 && self.ecn {
            flags &= !tcp::CWR;
        }
        put(headers, self.l4_offset + tcp::SEQUENCE_OFFSET, sequence.to_be_bytes())?;
        put(headers, self.l4_offset + tcp::FLAGS_OFFSET, [flags])?;
        Some(Sum::of_word(sequence).plus(Sum::of_word(u32::from(flags))))
    }
}
