//! The virtio-net header: read into an [`Offload`], written from one.

use buf::{Checksum, Frame, Offload, Segment, SegmentKind};
use engine::OffloadCapabilities;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_TCPV4`, `_TCPV6`, `_UDP_L4` and the `_ECN` bit.
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
const GSO_UDP: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// Bytes of the header with `num_buffers` (`VIRTIO_F_VERSION_1` or `VIRTIO_NET_F_MRG_RXBUF`).
pub(crate) const HEADER_LENGTH: usize = 12;

/// The header of a frame that asks nothing. A constant, because a header put together byte by byte and then copied in words makes the
/// processor wait for its own stores (by a sampled profile, some 40 cycles per packet, far).
pub(crate) const PLAIN: [u8; HEADER_LENGTH] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What a driver negotiated, as far as it concerns packets (virtio 1.2 section 5.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetFeatures {
    /// What the driver may ask of us (`VIRTIO_NET_F_CSUM`, `HOST_TSO4`, `HOST_TSO6`, `HOST_ECN`, `HOST_USO`).
    pub sends: OffloadCapabilities,
    /// What the driver takes from us (`VIRTIO_NET_F_GUEST_CSUM`, `GUEST_TSO4`, ...).
    pub receives: OffloadCapabilities,
    /// Length of the virtio-net header in bytes: 12, or 10 for a legacy driver without mergeable buffers.
    pub header_length: u8,
}

impl NetFeatures {
    /// Reads feature bits.
    pub fn from_bits(bits: u64) -> Self {
        let has = |bit: u32| bits & (1 << bit) != 0;
        let sends = OffloadCapabilities {
            checksum: has(0),
            tso4: has(11),
            tso6: has(12),
            ecn: has(13),
            uso4: has(56),
            uso6: has(56),
            tunnel: false,
        };
        let receives = OffloadCapabilities {
            checksum: has(1),
            tso4: has(7),
            tso6: has(8),
            ecn: has(9),
            uso4: has(54),
            uso6: has(55),
            tunnel: false,
        };
        Self { sends, receives, header_length: if has(32) || has(15) { 12 } else { 10 } }
    }

    /// Whether a sent header can say anything at all.
    #[inline]
    pub(crate) fn sends_offloads(&self) -> bool {
        self.sends != OffloadCapabilities::default()
    }
}

/// What no packet can have: the parse stage drops it as `bad_offload`.
const IMPOSSIBLE: Offload = Offload {
    checksum: Checksum::Unverified,
    segment: Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 0 }),
    tunnel: 0,
};

/// Whether a driver asks anything in `header`.
#[inline(always)]
pub(crate) fn asks(header: &[u8; HEADER_LENGTH]) -> bool {
    let [flags, gso_type, ..] = *header;
    flags & NEEDS_CHECKSUM != 0 || gso_type != 0
}

/// What a driver asks in `header`. Only what it negotiated: anything else becomes an offload that no packet can have. `hdr_len` is
/// not looked at (virtio 1.2 section 5.1.6.2.2 forbids to rely on it); lengths come from the packet.
pub(crate) fn read(header: &[u8; HEADER_LENGTH], sends: &OffloadCapabilities) -> Offload {
    let [flags, gso_type, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high, ..] =
        *header;
    if !asks(header) {
        return Offload::NONE;
    }
    let mut offload = Offload::NONE;
    if flags & NEEDS_CHECKSUM != 0 {
        if !sends.checksum {
            return IMPOSSIBLE;
        }
        let start = u16::from_le_bytes([start_low, start_high]);
        let offset = u16::from_le_bytes([offset_low, offset_high]);
        offload.checksum = Checksum::Partial { start, offset };
    }
    if gso_type != 0 {
        let ecn = gso_type & GSO_ECN != 0;
        let (kind, allowed) = match gso_type & !GSO_ECN {
            GSO_TCP_V4 => (SegmentKind::TcpV4, sends.tso4),
            GSO_TCP_V6 => (SegmentKind::TcpV6, sends.tso6),
            GSO_UDP => (SegmentKind::Udp, sends.uso4 && !ecn),
            _ => return IMPOSSIBLE,
        };
        if !allowed || (ecn && !sends.ecn) {
            return IMPOSSIBLE;
        }
        offload.segment = Some(Segment { kind, ecn, size: u16::from_le_bytes([size_low, size_high]) });
    }
    offload
}

/// The header for `frame`, which asks nothing that `receives` does not cover. `num_buffers` is 1; the ring corrects it.
#[inline(always)]
pub(crate) fn of(frame: &Frame<'_, '_>, receives: &OffloadCapabilities) -> [u8; HEADER_LENGTH] {
    match frame.offload {
        Offload::NONE => PLAIN,
        _ => write(frame, receives),
    }
}

#[inline(never)]
fn write(frame: &Frame<'_, '_>, receives: &OffloadCapabilities) -> [u8; HEADER_LENGTH] {
    let mut header = PLAIN;
    match frame.offload.checksum {
        Checksum::Partial { start, offset } if receives.checksum => {
            header[0] = NEEDS_CHECKSUM;
            header[6..8].copy_from_slice(&start.to_le_bytes());
            header[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        Checksum::Valid if receives.checksum => header[0] = DATA_VALID,
        _ => {}
    }
    if let (Some(segment), Checksum::Partial { start, .. }) = (frame.offload.segment, frame.offload.checksum)
    {
        let (kind, transport) = match segment.kind {
            SegmentKind::TcpV4 => (GSO_TCP_V4, tcp_header_length(frame.head(), start)),
            SegmentKind::TcpV6 => (GSO_TCP_V6, tcp_header_length(frame.head(), start)),
            SegmentKind::Udp => (GSO_UDP, 8),
        };
        header[1] = kind | if segment.ecn { GSO_ECN } else { 0 };
        header[2..4].copy_from_slice(&start.saturating_add(transport).to_le_bytes());
        header[4..6].copy_from_slice(&segment.size.to_le_bytes());
    }
    header
}

/// Length of the TCP header at `start`, which the parse stage found to be inside the head.
fn tcp_header_length(head: &[u8], start: u16) -> u16 {
    head.get(usize::from(start) + 12).map_or(20, |offset| u16::from(offset >> 4) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: OffloadCapabilities = OffloadCapabilities {
        checksum: true,
        tso4: true,
        tso6: true,
        uso4: true,
        uso6: true,
        ecn: true,
        tunnel: false,
    };

    #[test]
    fn headers_round_trip() {
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let mut head = [0u8; 66];
        head[46] = 0x80;
        for kind in [SegmentKind::TcpV4, SegmentKind::TcpV6, SegmentKind::Udp] {
            for ecn in [false, true] {
                let segment = Some(Segment { kind, ecn: ecn && kind != SegmentKind::Udp, size: 1448 });
                for offload in [
                    Offload { checksum: partial, segment, tunnel: 0 },
                    Offload { checksum: partial, segment: None, tunnel: 0 },
                    Offload::NONE,
                ] {
                    let header = write(&Frame::from_head(&head, offload), &ALL);
                    assert_eq!(read(&header, &ALL), offload);
                    assert_eq!(header[10..], [1, 0]);
                }
            }
        }
        let tso = Offload {
            checksum: partial,
            segment: Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1448 }),
            tunnel: 0,
        };
        assert_eq!(
            write(&Frame::from_head(&head, tso), &ALL)[2..4],
            [66, 0],
            "hdr_len is what the packet has"
        );
    }

    #[test]
    fn g20_what_was_not_negotiated_is_impossible() {
        let nothing = OffloadCapabilities::default();
        let only_checksum = OffloadCapabilities { checksum: true, ..nothing };
        let mut header = [0u8; HEADER_LENGTH];
        header[0] = NEEDS_CHECKSUM;
        assert_eq!(read(&header, &nothing), IMPOSSIBLE);
        header[1] = GSO_TCP_V4;
        assert_eq!(read(&header, &only_checksum), IMPOSSIBLE);
        for unknown in [2, 3, 6, 0x7f, 0x80, GSO_UDP | GSO_ECN] {
            header[1] = unknown;
            assert_eq!(read(&header, &ALL), IMPOSSIBLE, "gso_type {unknown}");
        }
    }

    #[test]
    fn a_receiver_without_checksum_offload_gets_an_empty_header() {
        let offload = Offload { checksum: Checksum::Valid, segment: None, tunnel: 0 };
        let header = write(&Frame::from_head(&[0; 60], offload), &OffloadCapabilities::default());
        assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    }
}
