//! Offload requests refused or met: every segment is checked by an independent sum and together they are the original.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use buf::{Checksum, Offload, Segment, SegmentKind};
use proptest::prelude::*;
use support::*;
use towpath_packet::checksum::Sum;
use towpath_packet::segment::{MAX_SEGMENTS, Segmenter};
use towpath_packet::{L3, L4, OffloadError, validate_offload};

fn partial(start: u16, offset: u16) -> Offload {
    Offload { checksum: Checksum::Partial { start, offset }, segment: None, tunnel: 0 }
}

fn cut(start: u16, offset: u16, kind: SegmentKind, size: u16) -> Offload {
    Offload { segment: Some(Segment { kind, ecn: false, size }), ..partial(start, offset) }
}

fn verdict(frame: &[u8], offload: Offload) -> Result<(), OffloadError> {
    validate_offload(&parse(frame).unwrap(), offload, frame.len() as u32)
}

fn tcp_frame(payload: usize) -> Vec<u8> {
    V4::new(6).frame(&tcp(1, 2, &[], &vec![7; payload]))
}

#[test]
fn p01_checksum_ranges() {
    let frame = tcp_frame(100);
    assert_eq!(verdict(&frame, partial(34, 16)), Ok(()));
    for (start, offset) in
        [(0, 16), (14, 16), (33, 17), (34, 1000), (200, 16), (0xffff, 0xffff), (34, 0xffff)]
    {
        assert_eq!(
            verdict(&frame, partial(start, offset)),
            Err(OffloadError::ChecksumRange),
            "{start}+{offset}"
        );
    }
    for offset in [15, 17] {
        assert_eq!(verdict(&frame, partial(34, offset)), Err(OffloadError::ChecksumRange), "offset {offset}");
    }
    for offset in [0, 6, 14, 18] {
        assert_eq!(
            verdict(&frame, partial(34, offset)),
            Err(OffloadError::ChecksumProtocol),
            "offset {offset}"
        );
    }
    // Not in the padding, not inside TCP's data.
    let mut padded = tcp_frame(0);
    padded.extend([0; 100]);
    assert_eq!(verdict(&padded, partial(54, 16)), Err(OffloadError::ChecksumRange));
    assert_eq!(verdict(&frame, partial(60, 16)), Err(OffloadError::ChecksumRange));
    assert_eq!(verdict(&V4::new(17).frame(&udp(1, 2, &[0; 9])), partial(34, 6)), Ok(()));
    let mut datagram = V4::new(17).frame(&udp(1, 2, &[0; 9]));
    datagram.extend([0; 100]);
    assert_eq!(verdict(&datagram, partial(60, 6)), Err(OffloadError::ChecksumRange), "in the padding");
    assert_eq!(
        verdict(&V4::new(132).frame(&sctp(1, 2)), partial(34, 8)),
        Err(OffloadError::ChecksumProtocol)
    );
    // A guest that runs VXLAN itself asks for the inner checksum.
    let overlay =
        V4::new(17).frame(&udp(4789, 4789, &[&[8, 0, 0, 0, 0, 0, 1, 0], &tcp_frame(64)[..]].concat()));
    assert_eq!(verdict(&overlay, partial(34 + 16 + 34, 16)), Ok(()));
    // It may begin anywhere, but a field that is not in line with what it covers is no checksum's.
    assert_eq!(verdict(&overlay, partial(34 + 16 + 33, 16)), Ok(()));
    assert_eq!(verdict(&overlay, partial(34 + 16 + 34, 15)), Err(OffloadError::ChecksumRange));
    assert_eq!(verdict(&V4::new(99).frame(&[0; 40]), partial(34, 7)), Err(OffloadError::ChecksumRange));
    assert_eq!(verdict(&V4::new(99).frame(&[0; 40]), partial(34, 6)), Ok(()));
    let inner = cut(34 + 16 + 34, 16, SegmentKind::Udp, 50);
    assert_eq!(verdict(&overlay, inner), Err(OffloadError::ChecksumRange), "a cut with an inner checksum");
    let end = overlay.len() as u16;
    assert_eq!(verdict(&overlay, partial(end - 17, 16)), Err(OffloadError::ChecksumRange));
    assert_eq!(verdict(&overlay, partial(end - 18, 16)), Ok(()));
    let arp = ethernet(0x0806, &[&[0u8, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat());
    assert_eq!(verdict(&arp, partial(14, 6)), Err(OffloadError::ChecksumRange));
    for fragment in [0x2000, 0x0008] {
        let frame = V4 { fragment, ..V4::new(6) }.frame(&tcp(1, 2, &[], &[0; 20]));
        assert_eq!(verdict(&frame, partial(34, 16)), Err(OffloadError::Fragment));
        assert_eq!(verdict(&frame, cut(34, 16, SegmentKind::TcpV4, 10)), Err(OffloadError::Fragment));
    }
}

#[test]
fn p02_kind_fits_the_packet() {
    let kinds = [SegmentKind::TcpV4, SegmentKind::TcpV6, SegmentKind::Udp];
    let frames: [(Vec<u8>, u16, u16, &[SegmentKind]); 6] = [
        (tcp_frame(100), 34, 16, &[SegmentKind::TcpV4]),
        (v6(6, &tcp(1, 2, &[], &[0; 100])), 54, 16, &[SegmentKind::TcpV6]),
        (V4::new(17).frame(&udp(1, 2, &[0; 100])), 34, 6, &[SegmentKind::Udp]),
        (v6(17, &udp(1, 2, &[0; 100])), 54, 6, &[SegmentKind::Udp]),
        (V4::new(1).frame(&[8; 108]), 34, 2, &[]),
        (ethernet(0x0806, &[&[0u8, 1, 8, 0, 6, 4, 0, 1][..], &[0; 60]].concat()), 14, 2, &[]),
    ];
    for (frame, start, offset, fitting) in frames {
        for kind in kinds {
            let expected = if fitting.contains(&kind) { Ok(()) } else { Err(OffloadError::SegmentProtocol) };
            assert_eq!(verdict(&frame, cut(start, offset, kind, 50)), expected, "{kind:?}");
        }
    }
}

#[test]
fn p03_sizes() {
    let frame = tcp_frame(100);
    for (size, expected) in [
        (0, Err(OffloadError::SegmentSize)),
        (1, Ok(())),
        (99, Ok(())),
        (100, Ok(())),
        (101, Err(OffloadError::SegmentSize)),
        (0xffff, Err(OffloadError::SegmentSize)),
    ] {
        assert_eq!(verdict(&frame, cut(34, 16, SegmentKind::TcpV4, size)), expected, "size {size}");
    }
    let mut ecn = cut(34, 6, SegmentKind::Udp, 50);
    ecn.segment.as_mut().unwrap().ecn = true;
    let datagram = V4::new(17).frame(&udp(1, 2, &[0; 100]));
    assert_eq!(verdict(&datagram, ecn), Err(OffloadError::SegmentProtocol), "ECN without TCP");
    for checksum in [Checksum::Unverified, Checksum::Valid] {
        let offload = Offload { checksum, ..cut(34, 16, SegmentKind::TcpV4, 50) };
        assert_eq!(verdict(&frame, offload), Err(OffloadError::SegmentChecksum));
    }
}

#[test]
fn p05_segment_count() {
    let frame = tcp_frame(65_000);
    assert_eq!(verdict(&frame, cut(34, 16, SegmentKind::TcpV4, 1)), Err(OffloadError::SegmentCount));
    assert_eq!(verdict(&frame, cut(34, 16, SegmentKind::TcpV4, 31)), Err(OffloadError::SegmentCount));
    assert_eq!(verdict(&frame, cut(34, 16, SegmentKind::TcpV4, 32)), Ok(()));
    let segment = Segment { kind: SegmentKind::TcpV4, ecn: false, size: 32 };
    let segmenter = Segmenter::new(head(&frame), &parse(&frame).unwrap(), segment).unwrap();
    assert!(segmenter.count() <= MAX_SEGMENTS);
    assert_eq!(segmenter.range(segmenter.count()), None);
    let refused = Segment { size: 1, ..segment };
    assert!(Segmenter::new(head(&frame), &parse(&frame).unwrap(), refused).is_none());
}

#[test]
fn a_longer_head_of_an_uplink_is_used_whole() {
    let frame = tcp_frame(3000);
    let segment = Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1200 };
    for length in [128, 148, 198] {
        let segmenter = Segmenter::new(&frame[..length], &parse(&frame).unwrap(), segment).unwrap();
        let range = segmenter.range(0).unwrap();
        // What is in the head is in no body: who cuts goes on behind the head.
        assert_eq!((range.body_from, range.in_head, range.body_length), (length, length - 54, 1254 - length));
        let mut out = [0; 198];
        assert_eq!(segmenter.write(0, None, &mut out).unwrap().head_length, length);
        assert_eq!(out[54..length], frame[54..length]);
        assert_eq!(segmenter.range(1).unwrap().body_from, 1254);
    }
}

/// Cuts a frame into whole segment frames, checksums in software.
fn segments(frame: &[u8], segment: Segment, whole: bool) -> Vec<Vec<u8>> {
    let headers = parse(frame).unwrap();
    let segmenter = Segmenter::new(head(frame), &headers, segment).unwrap();
    let mut out = Vec::new();
    while let Some(range) = segmenter.range(out.len()) {
        let body = &frame[range.body_from..range.body_from + range.body_length];
        let mut buffer = [0xee; HEAD];
        let written = segmenter.write(out.len(), whole.then(|| Sum::of(body)), &mut buffer).unwrap();
        assert_eq!(written.checksum == Checksum::Valid, whole);
        assert_eq!(written.head_length, segmenter.header_length() + range.in_head);
        assert!(range.body_length == 0 || range.body_from >= head(frame).len(), "body from the private head");
        let mut made = buffer[..written.head_length].to_vec();
        made.extend_from_slice(body);
        if let Checksum::Partial { start, offset } = written.checksum {
            // As a receiver completes it.
            let sum = !naive_sum(&made[usize::from(start)..]);
            made[usize::from(start + offset)..][..2].copy_from_slice(&sum.to_be_bytes());
        }
        out.push(made);
    }
    assert_eq!(out.len(), segmenter.count());
    out
}

#[derive(Clone, Debug)]
struct Large {
    frame: Vec<u8>,
    kind: SegmentKind,
    payload: Vec<u8>,
}

fn large() -> impl Strategy<Value = Large> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..400),
        prop::collection::vec(any::<u8>(), 1000..9000)
    ];
    let kind = prop::sample::select(vec![0, 1, 2, 3]);
    (payload, kind, 0usize..=10, 0usize..3, any::<u32>(), any::<u8>(), 0usize..30).prop_map(
        |(payload, kind, options, tags, sequence, flags, padding)| {
            let (v6_kind, tcp_kind) = (kind & 1 == 1, kind & 2 == 0);
            let mut l4 = if tcp_kind {
                tcp(1000, 2000, &vec![1; options * 4], &payload)
            } else {
                udp(1000, 2000, &payload)
            };
            if tcp_kind {
                l4[4..8].copy_from_slice(&sequence.to_be_bytes());
                l4[13] = flags;
            }
            let protocol = if tcp_kind { 6 } else { 17 };
            let mut frame = if v6_kind { v6(protocol, &l4) } else { V4::new(protocol).frame(&l4) };
            frame.extend(vec![0; padding]);
            let tags = [(0x88a8, 7), (0x8100, 5)][..tags].to_vec();
            let kind = match (tcp_kind, v6_kind) {
                (true, false) => SegmentKind::TcpV4,
                (true, true) => SegmentKind::TcpV6,
                (false, _) => SegmentKind::Udp,
            };
            Large { frame: tagged(&frame, &tags), kind, payload }
        },
    )
}

/// Checks one segment and returns its payload.
fn check_segment(whole: &[u8], made: &[u8], index: usize, last: bool, segment: Segment) -> Vec<u8> {
    let (before, after) = (parse(whole).unwrap(), parse(made).unwrap());
    assert_eq!((before.l3, before.l4, before.payload_offset), (after.l3, after.l4, after.payload_offset));
    assert_eq!(after.l3_end() as usize, made.len(), "declared length is the frame's");
    let (l3, l4) = (usize::from(after.l3_offset), usize::from(after.l4_offset));
    assert_eq!(transport_sum(made, l3, l4, after.protocol, made.len()), 0xffff, "transport checksum");
    let be16 = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let mut same = vec![(0, l3)];
    if after.l3 == L3::Ipv4 {
        assert_eq!(naive_sum(&made[l3..l4]), 0xffff, "IPv4 checksum");
        assert_eq!(be16(made, l3 + 4), be16(whole, l3 + 4).wrapping_add(index as u16), "identification");
        same.extend([(l3, l3 + 2), (l3 + 6, l3 + 10), (l3 + 12, l4)]);
    } else {
        same.extend([(l3, l3 + 4), (l3 + 6, l4)]);
    }
    if after.l4 == L4::Tcp {
        let sequence = |frame: &[u8]| u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
        let skipped = (index * usize::from(segment.size)) as u32;
        assert_eq!(sequence(made), sequence(whole).wrapping_add(skipped));
        let mut flags = whole[l4 + 13];
        flags &= if last { 0xff } else { !0x09 };
        flags &= if index > 0 && segment.ecn { !0x80 } else { 0xff };
        assert_eq!(made[l4 + 13], flags, "flags of segment {index}");
        same.extend([
            (l4, l4 + 4),
            (l4 + 8, l4 + 13),
            (l4 + 14, l4 + 16),
            (l4 + 18, after.payload_offset.into()),
        ]);
    } else {
        assert_eq!(usize::from(be16(made, l4 + 4)), made.len() - l4, "UDP length");
        assert_ne!(be16(made, l4 + 6), 0, "UDP checksum 0 means none");
        same.push((l4, l4 + 4));
    }
    for (from, to) in same {
        assert_eq!(whole[from..to], made[from..to], "bytes {from}..{to} of segment {index}");
    }
    made[usize::from(after.payload_offset)..].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn segments_are_right_and_together_the_original(
        large in large(), size in 1u16..1500, ecn: bool, whole: bool
    ) {
        let size = size.clamp(large.payload.len().div_ceil(MAX_SEGMENTS) as u16, large.payload.len() as u16);
        let ecn = ecn && large.kind != SegmentKind::Udp;
        let segment = Segment { kind: large.kind, ecn, size };
        let made = segments(&large.frame, segment, whole);
        let mut payload = Vec::new();
        for (index, frame) in made.iter().enumerate() {
            let last = index + 1 == made.len();
            let piece = check_segment(&large.frame, frame, index, last, segment);
            prop_assert!(piece.len() == usize::from(size) || (last && piece.len() < usize::from(size)));
            payload.extend(piece);
        }
        prop_assert_eq!(payload, large.payload);
    }

    #[test]
    fn no_offload_panics(
        large in large(), start: u16, offset: u16, size: u16, kind in 0usize..3, ecn: bool, cut_head in 0usize..200
    ) {
        let headers = parse(&large.frame).unwrap();
        let kind = [SegmentKind::TcpV4, SegmentKind::TcpV6, SegmentKind::Udp][kind];
        let segment = Segment { kind, ecn, size };
        let offload = Offload { checksum: Checksum::Partial { start, offset }, segment: Some(segment), tunnel: 0 };
        let _ = validate_offload(&headers, offload, large.frame.len() as u32);
        let short = &large.frame[..cut_head.min(large.frame.len())];
        if let Some(segmenter) = Segmenter::new(short, &headers, segment) {
            let mut out = [0; buf::HEAD_BYTES + buf::TUNNEL_BYTES];
            for index in [0, 1, segmenter.count() - 1, segmenter.count(), usize::MAX] {
                let written = segmenter.write(index, None, &mut out);
                prop_assert_eq!(written.is_some(), index < segmenter.count());
                let _ = segmenter.write(index, None, &mut out[..cut_head.min(HEAD)]);
            }
        }
    }
}

#[test]
fn source_routed_segments_keep_the_senders_pseudo_header() {
    // A type 2 routing header with one address left: the pseudo header's destination is that address (RFC 8200 8.1).
    let home = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77];
    let routing = [&[6u8, 2, 2, 1, 0, 0, 0, 0][..], &home].concat();
    let mut segment = tcp(1, 2, &[], &[9; 100]);
    let mut pseudo = [&V6_SOURCE[..], &home, &(segment.len() as u32).to_be_bytes(), &[0, 0, 0, 6]].concat();
    segment[16..18].copy_from_slice(&naive_sum(&pseudo).to_be_bytes());
    let frame = v6(43, &[routing, segment].concat());
    for made in segments(&frame, Segment { kind: SegmentKind::TcpV6, ecn: false, size: 60 }, true) {
        let l4 = usize::from(parse(&made).unwrap().l4_offset);
        pseudo[32..36].copy_from_slice(&((made.len() - l4) as u32).to_be_bytes());
        assert_eq!(naive_sum(&[&pseudo, &made[l4..]].concat()), 0xffff);
    }
}
