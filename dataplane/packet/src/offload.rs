//! Is what a guest asks for its packet (checksum, cutting) possible for this packet?
//!
//! The guest's header length is not among the inputs: where headers end is known from the head alone.

use buf::{Checksum, Offload, Segment, SegmentKind};

use crate::error::refusals;
use crate::{Fragment, Headers, L3, L4, icmp, tcp, udp};

/// Segments that one packet may be cut into: 64 KiB at Linux' smallest segment (`TCP_MIN_SND_MSS` less options: 36 bytes).
pub const MAX_SEGMENTS: usize = 2_048;

refusals! {
    /// Why [`validate_offload`] refused a packet. Each is a drop reason of its own.
    OffloadError {
        /// The checksum's field or the beginning of what it covers is not in the transport layer of an IP packet; or the field is at an odd
        /// distance from there, where no sum of 16-bit words can be (RFC 1071): virtio does not forbid to ask, but no receiver finds it right.
        ChecksumRange => "offload_checksum_range", "checksum to complete lies outside the transport layer";
        /// The checksum's field is not where this protocol has it, or the protocol has none.
        ChecksumProtocol => "offload_checksum_protocol", "checksum offset does not fit the transport protocol";
        /// A checksum or a cut is asked for a fragment, which does not hold what is needed for either.
        Fragment => "offload_fragment", "offload asked for a fragment";
        /// The kind of the cut does not fit the packet's protocols.
        SegmentProtocol => "offload_segment_protocol", "segmentation type does not fit the packet";
        /// A cut without a checksum to complete (virtio 1.2 section 5.1.6.2.1 demands both).
        SegmentChecksum => "offload_segment_checksum", "segmentation without checksum offload";
        /// The size of the segments is 0 or above the payload.
        SegmentSize => "offload_segment_size", "segment size is 0 or exceeds the payload";
        /// More segments than [`MAX_SEGMENTS`](crate::segment::MAX_SEGMENTS).
        SegmentCount => "offload_segment_count", "packet would be cut into more than 2048 segments";
    }
}

/// Checks what a packet asks of its transmitter against the packet. `frame_len` is the frame's whole length in bytes.
///
/// A checksum may also be an inner one (the guest runs an overlay of its own): behind the outer header, and then of an
/// outer UDP or unknown protocol only.
///
/// # Errors
///
/// The first contradiction; the packet is to be dropped.
#[inline]
pub fn validate_offload(headers: &Headers, offload: Offload, frame_len: u32) -> Result<(), OffloadError> {
    match (offload.checksum, offload.segment) {
        (Checksum::Unverified | Checksum::Valid, None) => Ok(()),
        (Checksum::Partial { start, offset }, None) => validate_checksum(headers, start, offset, frame_len),
        (Checksum::Partial { start, offset }, Some(segment)) => {
            validate_segment(headers, segment)?;
            if start != u16::from(headers.l4_offset) {
                return Err(OffloadError::ChecksumRange);
            }
            validate_checksum(headers, start, offset, frame_len)
        }
        (_, Some(segment)) => {
            validate_segment(headers, segment)?;
            Err(OffloadError::SegmentChecksum)
        }
    }
}

fn validate_checksum(headers: &Headers, start: u16, offset: u16, frame_len: u32) -> Result<(), OffloadError> {
    let field_end = u32::from(start) + u32::from(offset) + 2;
    if !headers.is_ip() || field_end > headers.l3_end().min(frame_len) || offset & 1 != 0 {
        return Err(OffloadError::ChecksumRange);
    }
    if headers.fragment != Fragment::Whole {
        return Err(OffloadError::Fragment);
    }
    if start == u16::from(headers.l4_offset) {
        return match (headers.l4, usize::from(offset)) {
            (L4::Tcp, tcp::CHECKSUM_OFFSET)
            | (L4::Udp, udp::CHECKSUM_OFFSET)
            | (L4::Icmp | L4::Icmpv6, icmp::CHECKSUM_OFFSET)
            | (L4::Other, _) => Ok(()),
            _ => Err(OffloadError::ChecksumProtocol),
        };
    }
    match headers.l4 {
        L4::Udp | L4::Other if start >= u16::from(headers.payload_offset) => Ok(()),
        _ => Err(OffloadError::ChecksumRange),
    }
}

fn validate_segment(headers: &Headers, segment: Segment) -> Result<(), OffloadError> {
    let fits = match segment.kind {
        SegmentKind::TcpV4 => headers.l3 == L3::Ipv4 && headers.l4 == L4::Tcp,
        SegmentKind::TcpV6 => headers.l3 == L3::Ipv6 && headers.l4 == L4::Tcp,
        // CWR is TCP's.
        SegmentKind::Udp => headers.l4 == L4::Udp && !segment.ecn,
    };
    if headers.fragment != Fragment::Whole {
        return Err(OffloadError::Fragment);
    }
    if !fits {
        return Err(OffloadError::SegmentProtocol);
    }
    let payload = headers.payload_length() as usize;
    let size = usize::from(segment.size);
    if size == 0 || size > payload {
        return Err(OffloadError::SegmentSize);
    }
    if payload > size * MAX_SEGMENTS {
        return Err(OffloadError::SegmentCount);
    }
    Ok(())
}
