//! The virtio-net header that stands before every frame of a packet socket with `PACKET_VNET_HDR` (struct `virtio_net_hdr`, ten bytes,
//! little-endian as virtio 1.2 section 5.1.6 has it on every machine this builds for).

use buf::{Checksum, Offload, Segment, SegmentKind};

/// Bytes of the header.
pub(crate) const LENGTH: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_F_DATA_VALID`.
const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `_TCPV6`, `_UDP_L4` and the `_ECN` bit.
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the kernel says of a frame of which `inserted` bytes (a VLAN tag) were put back before the network layer. `None`: a kind of segmentation
/// that nobody here can do.
#[inline(always)]
pub(crate) fn read(header: [u8; LENGTH], inserted: u16) -> Option<Offload> {
    if header[0] & NEEDS_CHECKSUM == 0 && header[1] == 0 {
        let mut offload = Offload::NONE;
        if header[0] & DATA_VALID != 0 {
            offload.checksum = Checksum::Valid;
        }
        return Some(offload);
    }
    read_request(header, inserted)
}

#[inline(never)]
fn read_request(header: [u8; LENGTH], inserted: u16) -> Option<Offload> {
    let [flags, gso, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high] = header;
    let mut offload = Offload::NONE;
    if flags & NEEDS_CHECKSUM != 0 {
        let start = u16::from_le_bytes([start_low, start_high]).checked_add(inserted)?;
        let offset = u16::from_le_bytes([offset_low, offset_high]);
        offload.checksum = Checksum::Partial { start, offset };
    }
    if gso != 0 {
        let kind = match gso & !GSO_ECN {
            GSO_TCP_V4 => SegmentKind::TcpV4,
            GSO_TCP_V6 => SegmentKind::TcpV6,
            GSO_UDP => SegmentKind::Udp,
            _ => return None,
        };
        let size = u16::from_le_bytes([size_low, size_high]);
        offload.segment = Some(Segment { kind, ecn: gso & GSO_ECN != 0, size });
    }
    Some(offload)
}

/// The header for a frame with these wishes, whose first `linear` bytes the kernel is to have in one piece.
#[inline(always)]
pub(crate) fn write(offload: Offload, linear: u16) -> [u8; LENGTH] {
    let [low, high] = linear.to_le_bytes();
    let mut header = [0, 0, low, high, 0, 0, 0, 0, 0, 0];
    if offload != Offload::NONE {
        write_request(&mut header, offload);
    }
    header
}

#[inline(never)]
fn write_request(header: &mut [u8; LENGTH], offload: Offload) {
    if let Checksum::Partial { start, offset } = offload.checksum {
        header[0] = NEEDS_CHECKSUM;
        [header[6], header[7]] = start.to_le_bytes();
        [header[8], header[9]] = offset.to_le_bytes();
    }
    if let Some(segment) = offload.segment {
        let kind = match segment.kind {
            SegmentKind::TcpV4 => GSO_TCP_V4,
            SegmentKind::TcpV6 => GSO_TCP_V6,
            SegmentKind::Udp => GSO_UDP,
        };
        header[1] = kind | if segment.ecn { GSO_ECN } else { 0 };
        [header[4], header[5]] = segment.size.to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offload(checksum: Checksum, segment: Option<Segment>) -> Offload {
        let mut offload = Offload::NONE;
        offload.checksum = checksum;
        offload.segment = segment;
        offload
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let partial = Checksum::Partial { start: 54, offset: 16 };
        for segment in [
            None,
            Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1448 }),
            Some(Segment { kind: SegmentKind::TcpV6, ecn: true, size: 1 }),
            Some(Segment { kind: SegmentKind::Udp, ecn: false, size: 65_535 }),
        ] {
            let asked = offload(partial, segment);
            assert_eq!(read(write(asked, 77), 0), Some(asked));
        }
        assert_eq!(write(Offload::NONE, 0x1234), [0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(write(offload(Checksum::Valid, None), 9), 0), Some(Offload::NONE));
    }

    #[test]
    fn a_tag_put_back_moves_the_checksum() {
        let asked = offload(Checksum::Partial { start: 34, offset: 6 }, None);
        let moved = offload(Checksum::Partial { start: 38, offset: 6 }, None);
        assert_eq!(read(write(asked, 0), 4), Some(moved));
        let last = offload(Checksum::Partial { start: 65_535, offset: 6 }, None);
        assert_eq!(read(write(last, 0), 4), None, "no checksum starts beyond 65,535");
    }

    #[test]
    fn what_nobody_can_do_is_refused() {
        for gso in [2u8, 3, 6, 7, 0x20, 0x7f, 0x80] {
            assert_eq!(read([1, gso, 0, 0, 10, 0, 34, 0, 16, 0], 0), None, "{gso:#x}");
        }
        assert_eq!(read([2, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0), Some(offload(Checksum::Valid, None)));
        assert_eq!(read([0; LENGTH], 0), Some(Offload::NONE));
    }
}
