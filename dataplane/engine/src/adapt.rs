//! Does in software what a receiver does not take: cuts large packets and completes checksums.
//!
//! The receiver still gets each byte of payload copied once, from the sender's buffers: a segment is a head made here and a range of the
//! sender's body. Only checksums read the payload a second time.

use crate::{OffloadCapabilities, TxQueue, TxReport};
use arrayvec::ArrayVec;
use buf::{Checksum, Frame, MAX_HEAD_BYTES, Offload, Segment, SegmentKind};
use packet::checksum::{Sum, complete_partial, pseudo_header};
use packet::segment::{SegmentRange, Segmenter};
use packet::{L3, vxlan};

/// Segments sent together.
const CHUNK: usize = 16;

/// Sends `frames` in order, each as it is if `queue` takes it so, else in the form it takes.
pub fn deliver_adapted(queue: &mut dyn TxQueue, frames: &[Frame<'_, '_>]) -> TxReport {
    let capabilities = queue.capabilities();
    let mut report = TxReport::default();
    let mut rest = frames;
    while !rest.is_empty() {
        let plain = rest.iter().take_while(|frame| takes(&capabilities, frame)).count();
        let (as_they_are, others) = rest.split_at(plain);
        if !as_they_are.is_empty() {
            report.merge(queue.send(as_they_are));
        }
        rest = others;
        if let Some((frame, others)) = rest.split_first() {
            report.merge(match frame.offload.segment {
                Some(segment) if !takes_segment(&capabilities, frame, segment) => {
                    send_segments(queue, frame, segment, &capabilities)
                }
                _ => send_completed(queue, frame),
            });
            rest = others;
        }
    }
    report
}

fn takes(capabilities: &OffloadCapabilities, frame: &Frame<'_, '_>) -> bool {
    let checksum = capabilities.checksum || !matches!(frame.offload.checksum, Checksum::Partial { .. });
    checksum && frame.offload.segment.is_none_or(|segment| takes_segment(capabilities, frame, segment))
}

fn takes_segment(capabilities: &OffloadCapabilities, frame: &Frame<'_, '_>, segment: Segment) -> bool {
    let kind = match segment.kind {
        SegmentKind::TcpV4 => capabilities.tso4,
        SegmentKind::TcpV6 => capabilities.tso6,
        SegmentKind::Udp if capabilities.uso4 == capabilities.uso6 => capabilities.uso4,
        SegmentKind::Udp => match packet::parse(inner_of(frame).head(), inner_of(frame).len() as u32)
            .map(|headers| headers.l3)
        {
            Ok(L3::Ipv4) => capabilities.uso4,
            _ => capabilities.uso6,
        },
    };
    let tunnel = capabilities.tunnel || frame.offload.tunnel == 0;
    kind && tunnel && capabilities.checksum && (capabilities.ecn || !segment.ecn)
}

/// Sends `frame` with its checksum completed.
fn send_completed(queue: &mut dyn TxQueue, frame: &Frame<'_, '_>) -> TxReport {
    let Checksum::Partial { start, offset } = frame.offload.checksum else { return queue.send(&[*frame]) };
    let mut head = [0; MAX_HEAD_BYTES];
    let Some(head) = head.get_mut(..frame.head().len()) else { return refused() };
    head.copy_from_slice(frame.head());
    if complete_partial(head, start, offset, body_sum(frame)).is_none() {
        return refused();
    }
    let offload = Offload { checksum: Checksum::Valid, segment: None, tunnel: 0 };
    queue.send(&[frame.segment(head, frame.head().len(), frame.body_len(), offload)])
}

/// Cuts `frame` and sends the pieces. Counts as one packet delivered if any piece was; what did not fit is the receiver's loss,
/// as on a wire.
fn send_segments(
    queue: &mut dyn TxQueue,
    frame: &Frame<'_, '_>,
    segment: Segment,
    capabilities: &OffloadCapabilities,
) -> TxReport {
    let inner = inner_of(frame);
    let cut = packet::parse(inner.head(), inner.len() as u32)
        .ok()
        .and_then(|headers| Segmenter::new(inner.head(), &headers, segment));
    let Some(cut) = cut else { return refused() };
    let mut total = TxReport::default();
    let mut first = 0;
    while first < cut.count() {
        let count = CHUNK.min(cut.count() - first);
        total.merge(send_chunk(queue, frame, &cut, first..first + count, capabilities.checksum));
        first += count;
    }
    let lost = u32::from(total.sent == 0);
    let full = lost & u32::from(total.full > 0);
    let too_large = lost & !full & u32::from(total.too_large > 0);
    let stopped = lost - full - too_large;
    TxReport { sent: 1 - lost, full, too_large, stopped, ..total }
}

fn send_chunk(
    queue: &mut dyn TxQueue,
    frame: &Frame<'_, '_>,
    cut: &Segmenter,
    indices: std::ops::Range<usize>,
    partial: bool,
) -> TxReport {
    let inner = inner_of(frame);
    let tunnel = frame.head().get(..frame.head().len() - inner.head().len()).unwrap_or_default();
    let mut heads = [[0u8; MAX_HEAD_BYTES]; CHUNK];
    let mut pieces: ArrayVec<(usize, SegmentRange, Offload), CHUNK> = ArrayVec::new();
    for (index, head) in indices.zip(&mut heads) {
        let Some(range) = cut.range(index) else { break };
        let sum = (!partial)
            .then(|| body_sum(&inner.segment(&[], range.body_from, range.body_length, Offload::NONE)));
        let Some(written) = head.get_mut(tunnel.len()..).and_then(|head| cut.write(index, sum, head)) else {
            break;
        };
        let (length, mut checksum) = (written.head_length + tunnel.len(), written.checksum);
        if !tunnel.is_empty() {
            let Some(moved) = wrap(head, tunnel, length, range.body_length, checksum) else { break };
            checksum = moved;
        }
        pieces.push((length, range, Offload { checksum, segment: None, tunnel: tunnel.len() as u8 }));
    }
    let frames: ArrayVec<Frame<'_, '_>, CHUNK> = pieces
        .iter()
        .zip(&heads)
        .filter_map(|((len, range, offload), head)| {
            Some(inner.segment(head.get(..*len)?, range.body_from, range.body_length, *offload))
        })
        .collect();
    queue.send(&frames)
}

/// What a tunnel carries; without one, the frame itself.
fn inner_of<'a, 'm>(frame: &Frame<'a, 'm>) -> Frame<'a, 'm> {
    frame.strip(usize::from(frame.offload.tunnel).min(frame.head().len()))
}

/// Puts the tunnel's headers before the segment in `head`, of which `length` bytes are head and `body` follow; where its checksum is now.
fn wrap(
    head: &mut [u8; MAX_HEAD_BYTES],
    tunnel: &[u8],
    length: usize,
    body: usize,
    checksum: Checksum,
) -> Option<Checksum> {
    let outer = tunnel.len();
    head.get_mut(..outer)?.copy_from_slice(tunnel);
    vxlan::set_inner_length(head, outer, length - outer + body)?;
    if outer == vxlan::OUTER_LENGTH_V6 {
        let inner = head.get(outer..length)?;
        let headers = packet::parse(inner, (inner.len() + body) as u32).ok()?;
        let pseudo = match checksum {
            Checksum::Partial { start, offset } => {
                let field = inner.get(usize::from(start + offset)..)?.first_chunk::<2>()?;
                Sum::from_folded(u16::from_be_bytes(*field))
            }
            _ => pseudo_header(inner, &headers)?,
        };
        vxlan::checksum_from_inner(head, outer, outer + usize::from(headers.l4_offset), pseudo)?;
    }
    Some(match checksum {
        Checksum::Partial { start, offset } => Checksum::Partial { start: start + outer as u16, offset },
        other => other,
    })
}

fn body_sum(frame: &Frame<'_, '_>) -> Sum {
    Sum::of_body(frame.body_sum())
}

/// A frame that cannot be put into a form the receiver takes.
fn refused() -> TxReport {
    TxReport { too_large: 1, ..TxReport::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buf::Extent;

    /// Takes what it says it takes and keeps the bytes.
    #[derive(Default)]
    struct Sink {
        capabilities: OffloadCapabilities,
        frames: Vec<(Vec<u8>, Offload)>,
        room: Option<usize>,
    }

    impl TxQueue for Sink {
        fn capabilities(&self) -> OffloadCapabilities {
            self.capabilities
        }
        fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
            let mut report = TxReport::default();
            for frame in frames {
                if self.room.is_some_and(|room| self.frames.len() >= room) {
                    report.full += 1;
                    continue;
                }
                self.frames.push((frame.to_vec(), frame.offload));
                report.merge(TxReport { sent: 1, bytes: frame.len() as u64, ..TxReport::default() });
            }
            report
        }
        fn flush(&mut self) {}
    }

    const TCP: [u8; 54] = {
        let mut frame = [0u8; 54];
        let start = [
            2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa, 8, 0, 0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0,
            1, 10, 10, 0, 1, 11,
        ];
        let mut at = 0;
        while at < start.len() {
            frame[at] = start[at];
            at += 1;
        }
        frame[37] = 80;
        frame[46] = 0x50;
        frame[47] = 0x18;
        frame
    };

    fn large(payload: usize) -> Vec<u8> {
        let mut frame = TCP.to_vec();
        frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        frame.extend((0..payload).map(|at| (at % 253) as u8));
        frame
    }

    fn naive_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn tcp_is_right(frame: &[u8]) -> bool {
        let l4 = &frame[34..];
        let mut pseudo = frame[26..34].to_vec();
        pseudo.extend([0, 6]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        pseudo.extend(l4);
        naive_sum(&pseudo) == 0xffff && naive_sum(&frame[14..34]) == 0xffff
    }

    fn send(sink: &mut Sink, bytes: &[u8], offload: Offload) -> TxReport {
        let body = [Extent::from_slice(&bytes[128.min(bytes.len())..])];
        let head = &bytes[..128.min(bytes.len())];
        deliver_adapted(sink, &[Frame::new(head, &body, bytes.len() - head.len(), offload)])
    }

    const TSO: Offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        segment: Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1460 }),
        tunnel: 0,
    };

    #[test]
    fn a_large_packet_stays_whole_for_who_takes_it() {
        let mut sink = Sink {
            capabilities: OffloadCapabilities { checksum: true, tso4: true, ..Default::default() },
            ..Sink::default()
        };
        assert_eq!(send(&mut sink, &large(60_000), TSO).sent, 1);
        assert_eq!(sink.frames, [(large(60_000), TSO)]);
    }

    #[test]
    fn a_large_packet_is_cut_with_right_checksums_for_who_takes_nothing() {
        let cuts = [
            (1, 1),
            (50, 7),
            (74, 74),
            (75, 74),
            (1460, 1460),
            (1461, 1460),
            (4000, 1460),
            (4000, 20),
            (60_001, 1448),
        ];
        for (payload, size) in cuts {
            let mut sink = Sink::default();
            let segment = Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size });
            let report = send(&mut sink, &large(payload), Offload { segment, ..TSO });
            assert_eq!((report.sent, sink.frames.len()), (1, payload.div_ceil(usize::from(size))));
            let mut seen = Vec::new();
            for (frame, offload) in &sink.frames {
                assert!(tcp_is_right(frame), "payload {payload}");
                assert_eq!(offload.segment, None);
                seen.extend_from_slice(&frame[54..]);
            }
            assert_eq!(seen, large(payload)[54..]);
        }
    }

    #[test]
    fn segments_keep_partial_checksums_for_who_takes_them() {
        let mut sink = Sink {
            capabilities: OffloadCapabilities { checksum: true, ..Default::default() },
            ..Sink::default()
        };
        send(&mut sink, &large(5000), TSO);
        assert_eq!(sink.frames.len(), 4);
        assert!(
            sink.frames
                .iter()
                .all(|(_, offload)| offload.checksum == Checksum::Partial { start: 34, offset: 16 })
        );
    }

    #[test]
    fn a_checksum_is_completed_for_who_takes_none() {
        for payload in [0, 1, 74, 75, 1000, 1001] {
            let mut frame = large(payload);
            // The sender left the sum of the pseudo header in the field.
            let mut pseudo = frame[26..34].to_vec();
            pseudo.extend([0, 6]);
            pseudo.extend((20 + payload as u16).to_be_bytes());
            frame[50..52].copy_from_slice(&naive_sum(&pseudo).to_be_bytes());
            let ip = !naive_sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&ip.to_be_bytes());
            let mut sink = Sink::default();
            let offload =
                Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, segment: None, tunnel: 0 };
            assert_eq!(send(&mut sink, &frame, offload).sent, 1);
            assert!(tcp_is_right(&sink.frames[0].0), "payload {payload}");
            assert_eq!(sink.frames[0].1.checksum, Checksum::Valid);
        }
    }

    #[test]
    fn a_large_packet_in_a_tunnel_is_cut_inside_it() {
        use std::net::IpAddr;
        let ends = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]]
            .map(|ends| ends.map(|text| text.parse::<IpAddr>().unwrap()));
        for ([source, destination], checksum) in
            [(ends[0], false), (ends[1], false), (ends[0], true), (ends[1], true)]
        {
            let outer = vxlan::Outer::new(packet::MacAddr([2; 6]), source, destination, 64).unwrap();
            let inner = large(4000);
            let mut bytes = Vec::new();
            let per = vxlan::PerPacket {
                destination_mac: packet::MacAddr([4; 6]),
                vni: 7,
                policy: 0,
                source_port: 50_000,
                traffic_class: 0,
                inner_length: inner.len(),
            };
            outer.append(&mut bytes, &per);
            bytes.extend_from_slice(&inner);
            let tunnel = outer.length();
            let asks = Offload {
                checksum: Checksum::Partial { start: 34 + tunnel as u16, offset: 16 },
                tunnel: tunnel as u8,
                ..TSO
            };
            let mut sink = Sink {
                capabilities: OffloadCapabilities { checksum, tso4: true, ..Default::default() },
                ..Sink::default()
            };
            let head = tunnel + 128;
            let body = [Extent::from_slice(&bytes[head..])];
            let frame = Frame::new(&bytes[..head], &body, bytes.len() - head, asks);
            assert_eq!(deliver_adapted(&mut sink, &[frame]).sent, 1);
            assert_eq!(sink.frames.len(), 3);
            let mut seen = Vec::new();
            for (frame, offload) in &mut sink.frames {
                let headers = packet::parse(frame, frame.len() as u32).unwrap();
                assert_eq!((headers.l3_end() as usize, headers.destination_port), (frame.len(), vxlan::PORT));
                if let Checksum::Partial { start, offset } = offload.checksum {
                    assert!(checksum);
                    assert!(complete_partial(frame, start, offset, Sum::ZERO).is_some());
                }
                assert!(tcp_is_right(&frame[tunnel..]));
                if source.is_ipv6() {
                    let pseudo = pseudo_header(frame, &headers).unwrap();
                    assert!(pseudo.plus(Sum::of(&frame[54..])).is_right());
                }
                seen.extend_from_slice(&frame[tunnel + 54..]);
            }
            assert_eq!(seen, inner[54..]);
        }
    }

    #[test]
    fn order_holds_when_some_frames_need_help() {
        let frames = [large(10), large(3000), large(20)];
        let bodies: Vec<_> =
            frames.iter().map(|frame| [Extent::from_slice(&frame[frame.len().min(128)..])]).collect();
        let list: Vec<_> = frames
            .iter()
            .zip(&bodies)
            .zip([Offload::NONE, TSO, Offload::NONE])
            .map(|((bytes, body), offload)| {
                Frame::new(&bytes[..bytes.len().min(128)], body, body[0].len(), offload)
            })
            .collect();
        let mut sink = Sink::default();
        assert_eq!(deliver_adapted(&mut sink, &list).sent, 3);
        let lengths: Vec<_> = sink.frames.iter().map(|(frame, _)| frame.len()).collect();
        assert_eq!(lengths, [64, 1514, 1514, 134, 74]);
    }

    #[test]
    fn a_full_receiver_is_reported_once_per_packet() {
        let mut sink = Sink { room: Some(0), ..Sink::default() };
        let report = send(&mut sink, &large(5000), TSO);
        assert_eq!(report, TxReport { full: 1, ..TxReport::default() });
    }
}
