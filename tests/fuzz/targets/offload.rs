//! Any frame with any offload request: what is refused is refused without a panic, what is accepted can be met, and the
//! segments are packets that together carry the payload.
#![no_main]

use buf::{Checksum, Offload, Segment, SegmentKind};
use libfuzzer_sys::fuzz_target;
use packet::checksum::{Sum, complete_partial};
use packet::segment::Segmenter;
use packet::{HEAD_LENGTH, parse, validate_offload};

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, start_high, start, offset_high, offset, size_high, size], frame)) =
        data.split_first_chunk()
    else {
        return;
    };
    let checksum = Checksum::Partial {
        start: u16::from_be_bytes([start_high, start]),
        offset: u16::from_be_bytes([offset_high, offset]),
    };
    let kind = match flags & 3 {
        0 => None,
        1 => Some(SegmentKind::TcpV4),
        2 => Some(SegmentKind::TcpV6),
        _ => Some(SegmentKind::Udp),
    };
    let size = u16::from_be_bytes([size_high, size]);
    let segment = kind.map(|kind| Segment { kind, ecn: flags & 4 != 0, size });
    let head = &frame[..frame.len().min(HEAD_LENGTH)];
    let Ok(headers) = parse(head, frame.len() as u32) else { return };
    if validate_offload(&headers, Offload { checksum, segment, tunnel: 0 }, frame.len() as u32).is_err() {
        return;
    }
    let Some(segment) = segment else {
        let Checksum::Partial { start, offset } = checksum else { return };
        let body = Sum::of(&frame[head.len()..]);
        let _ = complete_partial(&mut head.to_vec(), start, offset, body);
        return;
    };
    let cut = Segmenter::new(head, &headers, segment).expect("what was accepted can be cut");
    let mut payload = Vec::new();
    let mut buffer = [0; HEAD_LENGTH];
    while let Some(range) = cut.range(payload.len() / usize::from(size)) {
        let index = payload.len() / usize::from(size);
        let body = &frame[range.body_from..range.body_from + range.body_length];
        let written = cut.write(index, Some(Sum::of(body)), &mut buffer).expect("128 bytes suffice");
        let made = [&buffer[..written.head_length], body].concat();
        let found =
            parse(&made[..made.len().min(HEAD_LENGTH)], made.len() as u32).expect("a segment is a packet");
        assert_eq!(found.l3_end() as usize, made.len());
        payload.extend_from_slice(&made[usize::from(found.payload_offset)..]);
        if index + 1 == cut.count() {
            break;
        }
    }
    assert_eq!(payload, &frame[usize::from(headers.payload_offset)..headers.l3_end() as usize]);
});
