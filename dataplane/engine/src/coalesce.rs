//! Joins segments of one TCP connection that follow each other into one large packet, for receivers that take such (generic receive offload).
//!
//! Nothing is copied for it: the large packet is the first one's head and a list of the others' bytes. Only what a cut of the result would give back
//! is joined: same headers but for lengths, sequence numbers that follow, equal sizes but for the last. Checksums are verified first, as
//! the receiver will not.

use crate::{OffloadCapabilities, TxQueue, TxReport, deliver_adapted};
use arrayvec::ArrayVec;
use buf::{BURST_PACKETS, Checksum, Extent, Frame, MAX_HEAD_BYTES, Offload, Segment, SegmentKind};
use packet::checksum::{Sum, pseudo_header};
use packet::{Fragment, Headers, L3, L4, ipv4, ipv6, tcp};

/// Runs of bytes that a large packet may consist of.
const RUNS: usize = 3 * BURST_PACKETS;
/// Bytes of the longest network-layer packet.
const LONGEST: usize = 65_535;
/// Flags with which a segment may be joined; PSH ends the large packet.
const FLAGS: u8 = 0x10;

/// Sends `frames` in order, those that can be joined as one if `queue` takes that. In the report each of them counts.
pub fn deliver_coalesced(queue: &mut dyn TxQueue, frames: &[Frame<'_, '_>]) -> TxReport {
    let capabilities = queue.capabilities();
    let mut report = TxReport::default();
    let mut rest = frames;
    while let Some(first) = rest.first() {
        let run = Run::begin(&capabilities, first)
            .map_or(1, |mut run| 1 + rest.iter().skip(1).take_while(|frame| run.joins(frame)).count());
        // What begins no run is sent together with what follows it and begins none either.
        let alone = match run {
            1 => rest.len().min(1 + rest.windows(2).take_while(|pair| !begins(&capabilities, pair)).count()),
            _ => 0,
        };
        let (now, later) = rest.split_at(run.max(alone));
        report.merge(match run {
            1 => deliver_adapted(queue, now),
            _ => send_joined(queue, now).unwrap_or_else(|| deliver_adapted(queue, now)),
        });
        rest = later;
    }
    report
}

/// Whether the second of two frames begins a run.
fn begins(capabilities: &OffloadCapabilities, pair: &[Frame<'_, '_>]) -> bool {
    pair.get(1).is_some_and(|second| Run::begin(capabilities, second).is_some())
}

/// Segments that were found to follow each other, as far as it matters for the next.
struct Run<'a> {
    head: &'a [u8],
    headers: Headers,
    /// Payload bytes of the first; of all but perhaps the last.
    size: usize,
    next_sequence: u32,
    length: usize,
    ended: bool,
}

/// A TCP segment with data that may be joined with others.
struct Piece {
    headers: Headers,
    payload: usize,
    sequence: u32,
    flags: u8,
}

impl Piece {
    fn of(frame: &Frame<'_, '_>) -> Option<Self> {
        let head = frame.head();
        let headers = packet::parse(head, frame.len() as u32).ok()?;
        let plain = headers.l4 == L4::Tcp && headers.fragment == Fragment::Whole && headers.tag_count() == 0;
        let payload = headers.payload_length() as usize;
        if !plain
            || headers.has_options
            || payload == 0
            || headers.l3_end() as usize != frame.len()
            || frame.offload.segment.is_some()
        {
            return None;
        }
        let l4 = usize::from(headers.l4_offset);
        let header: &[u8; tcp::MIN_HEADER_LENGTH] = head.get(l4..)?.first_chunk()?;
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let flags = header[tcp::FLAGS_OFFSET];
        (flags & !tcp::PSH == FLAGS).then_some(Self { headers, payload, sequence, flags })
    }
}

impl<'a> Run<'a> {
    fn begin(capabilities: &OffloadCapabilities, frame: &Frame<'a, '_>) -> Option<Self> {
        if !(capabilities.checksum && (capabilities.tso4 || capabilities.tso6)) {
            return None;
        }
        let piece = Piece::of(frame)?;
        let takes = if piece.headers.l3 == L3::Ipv4 { capabilities.tso4 } else { capabilities.tso6 };
        if !takes || piece.flags & tcp::PSH != 0 || !is_right(frame, &piece.headers) {
            return None;
        }
        Some(Self {
            head: frame.head(),
            headers: piece.headers,
            size: piece.payload,
            next_sequence: piece.sequence.wrapping_add(piece.payload as u32),
            length: piece.headers.l3_length as usize,
            ended: false,
        })
    }

    /// Whether `frame` continues the run; it is then part of it.
    fn joins(&mut self, frame: &Frame<'_, '_>) -> bool {
        if self.ended {
            return false;
        }
        let Some(piece) = Piece::of(frame) else { return false };
        let fits = piece.payload <= self.size
            && self.length + piece.payload <= LONGEST
            && frame.body_extents().len() <= 2;
        if !fits || piece.sequence != self.next_sequence || !self.is_like(frame.head(), &piece.headers) {
            return false;
        }
        if !is_right(frame, &piece.headers) {
            return false;
        }
        self.ended = piece.payload < self.size || piece.flags & tcp::PSH != 0;
        self.length += piece.payload;
        self.next_sequence = piece.sequence.wrapping_add(piece.payload as u32);
        true
    }

    /// Whether the headers are the same but for what differs between segments.
    fn is_like(&self, head: &[u8], headers: &Headers) -> bool {
        let (own, l3, l4) =
            (&self.headers, usize::from(self.headers.l3_offset), usize::from(self.headers.l4_offset));
        let same = |from: usize, to: usize| {
            self.head.get(from..to).is_some_and(|bytes| Some(bytes) == head.get(from..to))
        };
        if (own.l3, own.l4_offset, own.payload_offset)
            != (headers.l3, headers.l4_offset, headers.payload_offset)
        {
            return false;
        }
        let network = match own.l3 {
            // Type of service; flags and time to live and protocol; addresses. Not length, identification, checksum.
            L3::Ipv4 => same(0, l3 + 2) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4),
            _ => same(0, l3 + ipv6::PAYLOAD_LENGTH_OFFSET) && same(l3 + 6, l4),
        };
        // Ports; acknowledgement and data offset; window; urgent pointer and options. Not sequence, flags, checksum.
        network
            && same(l4, l4 + 4)
            && same(l4 + 8, l4 + tcp::FLAGS_OFFSET)
            && same(l4 + 14, l4 + tcp::CHECKSUM_OFFSET)
            && same(l4 + 18, usize::from(own.payload_offset))
    }
}

/// Whether the transport checksum is right, or nobody need look.
fn is_right(frame: &Frame<'_, '_>, headers: &Headers) -> bool {
    if frame.offload.checksum != Checksum::Unverified {
        return true;
    }
    let (Some(pseudo), Some(covered)) =
        (pseudo_header(frame.head(), headers), frame.head().get(usize::from(headers.l4_offset)..))
    else {
        return false;
    };
    let body = Sum::of_body(frame.body_sum());
    pseudo.plus(Sum::of(covered)).plus(body.at_offset(covered.len())).is_right()
}

/// Sends `frames`, which were found to follow each other, as one; `None` (and nothing sent) if that cannot be.
fn send_joined(queue: &mut dyn TxQueue, frames: &[Frame<'_, '_>]) -> Option<TxReport> {
    let (first, others) = frames.split_first()?;
    let headers = packet::parse(first.head(), first.len() as u32).ok()?;
    let mut head = [0; MAX_HEAD_BYTES];
    let head = head.get_mut(..first.head().len())?;
    head.copy_from_slice(first.head());
    let mut runs: ArrayVec<Extent<'_>, RUNS> = ArrayVec::new();
    for extent in first.body_extents() {
        runs.try_push(*extent).ok()?;
    }
    let (mut body, mut last_flags) = (first.body_len(), 0);
    for frame in others {
        let headers = packet::parse(frame.head(), frame.len() as u32).ok()?;
        let payload = frame.head().get(usize::from(headers.payload_offset)..)?;
        runs.try_push(Extent::from_slice(payload)).ok()?;
        for extent in frame.body_extents() {
            runs.try_push(*extent).ok()?;
        }
        body += payload.len() + frame.body_len();
        last_flags = *frame.head().get(usize::from(headers.l4_offset) + tcp::FLAGS_OFFSET)?;
    }
    let size = headers.payload_length() as u16;
    let total = head.len() + body;
    let offload = finish(head, &headers, total, size, last_flags)?;
    let one = queue.send(&[Frame::new(head, &runs, body, offload)]);
    let count = frames.len() as u32;
    let all = |value: u32| if value > 0 { count } else { 0 };
    Some(TxReport {
        sent: all(one.sent),
        full: all(one.full),
        too_large: all(one.too_large),
        stopped: all(one.stopped),
        ..one
    })
}

/// Writes the lengths of the whole into its headers, and its checksum as one that is yet to be completed.
fn finish(head: &mut [u8], headers: &Headers, total: usize, size: u16, last_flags: u8) -> Option<Offload> {
    let (l3, l4) = (usize::from(headers.l3_offset), usize::from(headers.l4_offset));
    let length = total - l3;
    let mut put = |at: usize, value: u16| -> Option<()> {
        head.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
        Some(())
    };
    let kind = if headers.l3 == L3::Ipv4 {
        put(l3 + ipv4::TOTAL_LENGTH_OFFSET, length as u16)?;
        put(l3 + ipv4::CHECKSUM_OFFSET, 0)?;
        SegmentKind::TcpV4
    } else {
        put(l3 + ipv6::PAYLOAD_LENGTH_OFFSET, (length - ipv6::HEADER_LENGTH) as u16)?;
        SegmentKind::TcpV6
    };
    if headers.l3 == L3::Ipv4 {
        let sum = Sum::of(head.get(l3..l4)?).finish();
        head.get_mut(l3 + ipv4::CHECKSUM_OFFSET..)?
            .first_chunk_mut::<2>()?
            .copy_from_slice(&sum.to_be_bytes());
    }
    *head.get_mut(l4 + tcp::FLAGS_OFFSET)? |= last_flags & tcp::PSH;
    let whole = Headers { l3_length: length as u32, ..*headers };
    let pseudo = pseudo_header(head, &whole)?.folded();
    head.get_mut(l4 + tcp::CHECKSUM_OFFSET..)?.first_chunk_mut::<2>()?.copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Partial { start: l4 as u16, offset: tcp::CHECKSUM_OFFSET as u16 };
    Some(Offload { checksum, segment: Some(Segment { kind, ecn: false, size }), tunnel: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what it says it takes and keeps the bytes.
    struct Sink(OffloadCapabilities, Vec<(Vec<u8>, Offload)>);

    impl TxQueue for Sink {
        fn capabilities(&self) -> OffloadCapabilities {
            self.0
        }
        fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
            self.1.extend(frames.iter().map(|frame| (frame.to_vec(), frame.offload)));
            let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
            TxReport { sent: frames.len() as u32, bytes, ..TxReport::default() }
        }
        fn flush(&mut self) {}
    }

    const TAKES: OffloadCapabilities = OffloadCapabilities {
        checksum: true,
        tso4: true,
        tso6: true,
        uso4: false,
        uso6: false,
        ecn: false,
        tunnel: false,
    };

    /// A large send as its sender left it.
    fn large(v6: bool, payload: usize) -> (Vec<u8>, Offload) {
        let mut frame = vec![2, 0, 0, 0, 1, 0xb, 2, 0, 0, 0, 1, 0xa];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((20 + payload as u16).to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([1; 16]);
            frame.extend([2; 16]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((40 + payload as u16).to_be_bytes());
            frame.extend([0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 10, 10, 0, 1, 11]);
            let sum = Sum::of(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        let l4 = frame.len() as u16;
        frame.extend([0, 80, 0, 81, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.extend((0..payload).map(|at| (at % 251) as u8));
        let headers = packet::parse(&frame[..frame.len().min(128)], frame.len() as u32).unwrap();
        let pseudo = pseudo_header(&frame, &headers).unwrap().folded();
        let at = usize::from(l4) + tcp::CHECKSUM_OFFSET;
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let kind = if v6 { SegmentKind::TcpV6 } else { SegmentKind::TcpV4 };
        let segment = Some(Segment { kind, ecn: false, size: 1400 });
        (frame, Offload { checksum: Checksum::Partial { start: l4, offset: 16 }, segment, tunnel: 0 })
    }

    /// Its segments, as they come off a wire.
    fn cut(frame: &(Vec<u8>, Offload)) -> Vec<Vec<u8>> {
        let mut sink = Sink(OffloadCapabilities::default(), Vec::new());
        let (head, body) = frame.0.split_at(frame.0.len().min(128));
        deliver_adapted(&mut sink, &[Frame::new(head, &[Extent::from_slice(body)], body.len(), frame.1)]);
        sink.1.into_iter().map(|(frame, _)| frame).collect()
    }

    fn joined(segments: &[Vec<u8>], takes: OffloadCapabilities) -> Vec<(Vec<u8>, Offload)> {
        let bodies: Vec<_> =
            segments.iter().map(|frame| [Extent::from_slice(&frame[frame.len().min(148)..])]).collect();
        let frames: Vec<_> = segments
            .iter()
            .zip(&bodies)
            .map(|(frame, body)| {
                Frame::new(&frame[..frame.len().min(148)], body, body[0].len(), Offload::NONE)
            })
            .collect();
        let mut sink = Sink(takes, Vec::new());
        let report = deliver_coalesced(&mut sink, &frames);
        assert_eq!(report.sent as usize, frames.len(), "each packet counts");
        sink.1
    }

    #[test]
    fn segments_become_what_they_were_cut_of() {
        for v6 in [false, true] {
            for payload in [2800, 2801, 4000, 20_000] {
                let whole = large(v6, payload);
                let seen = joined(&cut(&whole), TAKES);
                assert_eq!(seen.len(), 1, "{v6} {payload}");
                assert_eq!(seen[0], whole);
            }
        }
    }

    #[test]
    fn only_what_follows_and_is_alike_is_joined() {
        let segments = cut(&large(false, 7000));
        let lengths = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut segments = segments.clone();
            change(&mut segments);
            joined(&segments, TAKES).into_iter().map(|(frame, _)| frame.len() - 54).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&|_| {}), [7000]);
        assert_eq!(lengths(&|all| all.swap(1, 2)), [1400, 1400, 1400, 2800], "out of order");
        assert_eq!(lengths(&|all| drop(all.remove(2))), [2800, 2800], "one lost");
        assert_eq!(
            lengths(&|all| all[2][60] ^= 1),
            [2800, 1400, 2800],
            "a wrong checksum is left to the receiver"
        );
        assert_eq!(
            lengths(&|all| all.insert(2, vec![0xff; 60])),
            [2800, 6, 4200],
            "something else in between"
        );
        let other_window = |all: &mut Vec<Vec<u8>>| {
            all[3][48] ^= 1;
            let sum = u16::from_be_bytes([all[3][50], all[3][51]]);
            let sum = packet::checksum::update(sum, 0x0100, 0x0000);
            all[3][50..52].copy_from_slice(&sum.to_be_bytes());
        };
        assert_eq!(lengths(&other_window), [4200, 1400, 1400], "another window");
    }

    #[test]
    fn who_takes_no_large_packets_gets_none() {
        let segments = cut(&large(false, 5000));
        let seen = joined(&segments, OffloadCapabilities { tso4: false, ..TAKES });
        assert_eq!(seen.into_iter().map(|(frame, _)| frame).collect::<Vec<_>>(), segments);
    }
}
