//! What a device does for a driver, done by hand: checksums completed, large packets cut.

use super::checksum::{fold, sum};
use super::frame::{Fill, TCP, UDP, fill_ipv4_checksum, set_checksum};
use super::read::{ethertype, transport};
use virtio_driver::{Gso, NetHeader};

/// Completes what [`NetHeader::needs_csum`] leaves to the receiver, which knows where the datagram ends.
pub fn complete(header: &NetHeader, frame: &mut [u8]) -> Option<()> {
    if !header.needs_csum {
        return Some(());
    }
    let end = transport(frame).map_or(frame.len(), |transport| transport.end);
    complete_until(header, frame, end)
}

/// Completes a checksum as a device does: from where it starts to the end of the frame, padding and all (virtio 1.2 section 5.1.6.2).
pub fn complete_blindly(header: &NetHeader, frame: &mut [u8]) -> Option<()> {
    if !header.needs_csum {
        return Some(());
    }
    complete_until(header, frame, frame.len())
}

fn complete_until(header: &NetHeader, frame: &mut [u8], end: usize) -> Option<()> {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    let udp = transport(frame).is_some_and(|transport| transport.protocol == UDP);
    let value = match !fold(sum(frame.get(start..end)?)) {
        0 if udp => 0xffff,
        value => value,
    };
    frame.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// Leaves the checksum of a TCP or UDP frame to the device; the header that says so.
pub fn make_partial(frame: &mut [u8]) -> Option<NetHeader> {
    let transport = transport(frame).filter(|transport| matches!(transport.protocol, TCP | UDP))?;
    if transport.end != frame.len() {
        return None;
    }
    let (from, to) = transport.addresses;
    set_checksum(frame, transport.start, from, to, transport.protocol, Fill::Partial);
    Some(NetHeader {
        needs_csum: true,
        csum_start: transport.start as u16,
        csum_offset: (transport.checksum_at() - transport.start) as u16,
        ..NetHeader::default()
    })
}

/// The segments that a frame is to be cut into, their transport checksums zeroed.
///
/// TCP: sequence numbers go on, FIN and PSH only in the last, CWR only in the first if the header speaks of ECN. IPv4: the identification counts up.
pub fn segments(header: &NetHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let at = transport(frame)?;
    let is_tcp = at.protocol == TCP;
    if header.gso == Gso::None || header.gso_size == 0 || at.protocol == 1 || at.protocol == 58 {
        return None;
    }
    let header_len = if is_tcp { usize::from(frame.get(at.start + 12)? >> 4) * 4 } else { 8 };
    if is_tcp && header_len < 20 {
        return None;
    }
    let payload_at = at.start + header_len;
    // What is behind the datagram is padding of the frame, and gone.
    let payload = frame.get(payload_at..at.end)?;
    let size = usize::from(header.gso_size);
    let count = payload.len().div_ceil(size);
    let mut segments = Vec::with_capacity(count);
    let (_, l3) = ethertype(frame)?;
    for (index, piece) in payload.chunks(size).enumerate() {
        let mut segment = frame.get(..payload_at)?.to_vec();
        segment.extend(piece);
        if at.addresses.0.is_ipv4() {
            let id = u16::from_be_bytes([segment[l3 + 4], segment[l3 + 5]]).wrapping_add(index as u16);
            let length = (segment.len() - l3) as u16;
            segment[l3 + 2..l3 + 4].copy_from_slice(&length.to_be_bytes());
            segment[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            fill_ipv4_checksum(&mut segment[l3..at.start]);
        } else {
            let length = (segment.len() - l3 - 40) as u16;
            segment[l3 + 4..l3 + 6].copy_from_slice(&length.to_be_bytes());
        }
        if is_tcp {
            let number: [u8; 4] = segment[at.start + 4..at.start + 8].try_into().ok()?;
            let number = u32::from_be_bytes(number).wrapping_add((index * size) as u32);
            segment[at.start + 4..at.start + 8].copy_from_slice(&number.to_be_bytes());
            if index + 1 < count {
                segment[at.start + 13] &= !0x09;
            }
            // Who says nothing of ECN has CWR for a flag like others.
            if index > 0 && header.ecn {
                segment[at.start + 13] &= !0x80;
            }
        } else {
            let length = (8 + piece.len()) as u16;
            segment[at.start + 4..at.start + 6].copy_from_slice(&length.to_be_bytes());
        }
        let checksum = at.checksum_at();
        segment[checksum..checksum + 2].fill(0);
        segments.push(segment);
    }
    Some(segments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Station;
    use crate::net::frame::{Flow, packet};

    fn flow(v6: bool, protocol: u8) -> Flow {
        let station = |last: u8| Station {
            mac: [2, 0, 0, 0, 0, last],
            v4: [10, 0, 0, last].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into(),
        };
        Flow { from: station(1), to: station(2), v6, protocol, ports: (1000, 2000) }
    }

    #[test]
    fn a_completed_checksum_is_the_whole_one() {
        for (v6, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
            for len in [0, 1, 7, 1000] {
                let payload = vec![0x5a; len];
                let whole = packet(&flow(v6, protocol), 7, &payload, Fill::Whole);
                assert!(transport(&whole).unwrap().is_checksum_right(&whole));
                let mut frame = whole.clone();
                let header = make_partial(&mut frame).unwrap();
                assert_ne!(frame, whole);
                complete(&header, &mut frame).unwrap();
                assert_eq!(frame, whole);
            }
        }
    }

    #[test]
    fn segments_hold_the_payload_and_right_lengths() {
        let payload: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
        for (v6, protocol, gso) in
            [(false, TCP, Gso::TcpV4), (true, TCP, Gso::TcpV6), (true, UDP, Gso::UdpL4)]
        {
            let mut frame = packet(&flow(v6, protocol), 7, &payload, Fill::Whole);
            let mut header = make_partial(&mut frame).unwrap();
            (header.gso, header.gso_size) = (gso, 1400);
            let pieces = segments(&header, &frame).unwrap();
            assert_eq!(pieces.len(), 4);
            let mut joined: Vec<u8> = Vec::new();
            for piece in &pieces {
                let at = transport(piece).unwrap();
                assert_eq!(at.end, piece.len());
                joined.extend(&piece[at.start + if protocol == TCP { 20 } else { 8 }..]);
            }
            assert_eq!(joined, payload);
        }
    }
}
