//! Frames to test with.

use buf::{Checksum, Offload, Segment, SegmentKind};
use engine::OffloadCapabilities;
use packet::checksum::{pseudo_header_v4, pseudo_header_v6};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A frame of `bytes` bytes that begins with `number` (as many of its eight bytes as fit) and goes on with bytes that follow from it.
pub fn numbered(number: u64, bytes: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let filler = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    number.to_be_bytes().into_iter().chain(filler).take(bytes).collect()
}

/// The transport of a test packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Traffic {
    /// All of them.
    pub const ALL: [Traffic; 4] = [Traffic::Tcp4, Traffic::Tcp6, Traffic::Udp4, Traffic::Udp6];

    /// Bytes before the transport header.
    pub fn l4_offset(self) -> u16 {
        if self.is_v4() { 34 } else { 54 }
    }

    fn is_v4(self) -> bool {
        matches!(self, Traffic::Tcp4 | Traffic::Udp4)
    }

    fn is_tcp(self) -> bool {
        matches!(self, Traffic::Tcp4 | Traffic::Tcp6)
    }

    fn checksum_offset(self) -> u16 {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// The state of a checksum that is left to the receiver of this packet.
    pub fn partial(self) -> Checksum {
        Checksum::Partial { start: self.l4_offset(), offset: self.checksum_offset() }
    }

    /// The request to cut this packet into segments of `size` bytes, if the receiver takes such.
    pub fn segment(self, takes: OffloadCapabilities, size: u16) -> Option<Segment> {
        let (kind, taken) = match self {
            Traffic::Tcp4 => (SegmentKind::TcpV4, takes.tso4),
            Traffic::Tcp6 => (SegmentKind::TcpV6, takes.tso6),
            Traffic::Udp4 => (SegmentKind::Udp, takes.uso4),
            Traffic::Udp6 => (SegmentKind::Udp, takes.uso6),
        };
        taken.then_some(Segment { kind, ecn: false, size })
    }

    /// A packet with `payload` bytes, correct but for the transport checksum, which is the pseudo header's sum.
    pub fn packet(self, payload: usize) -> Vec<u8> {
        let l4 = self.l4_header(payload);
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        frame.extend(if self.is_v4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(self.l3_header(l4.len() + payload));
        frame.extend(l4);
        frame.extend(numbered(payload as u64, payload));
        frame
    }

    fn protocol(self) -> u8 {
        if self.is_tcp() { 6 } else { 17 }
    }

    fn l3_header(self, length: usize) -> Vec<u8> {
        if !self.is_v4() {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend((length as u16).to_be_bytes());
            header.extend([self.protocol(), 64]);
            header.extend(V6[0].octets());
            header.extend(V6[1].octets());
            return header;
        }
        let mut header = vec![0x45, 0];
        header.extend((length as u16 + 20).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, self.protocol(), 0, 0]);
        header.extend(V4[0].octets());
        header.extend(V4[1].octets());
        let sum = packet::checksum::Sum::of(&header).finish();
        header.splice(10..12, sum.to_be_bytes());
        header
    }

    fn l4_header(self, payload: usize) -> Vec<u8> {
        let mut header = if self.is_tcp() { vec![0; 20] } else { vec![0; 8] };
        let length = header.len() + payload;
        header.splice(0..4, [0x30, 0x39, 0x00, 0x50]);
        if self.is_tcp() {
            header.splice(12..16, [0x50, 0x18, 0xff, 0xff]);
        } else {
            header.splice(4..6, (length as u16).to_be_bytes());
        }
        let sum = if self.is_v4() {
            pseudo_header_v4(V4[0], V4[1], self.protocol(), length as u16)
        } else {
            pseudo_header_v6(V6[0], V6[1], self.protocol(), length as u32)
        };
        let at = usize::from(self.checksum_offset());
        header.splice(at..at + 2, sum.folded().to_be_bytes());
        header
    }
}

const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
const V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)];

/// What may be asked of a packet of `traffic` by somebody whose receiver takes `takes`, nothing included.
pub(crate) fn requests(traffic: Traffic, takes: OffloadCapabilities) -> Vec<Offload> {
    let mut requests = vec![Offload::NONE];
    if takes.checksum {
        requests.push(Offload { checksum: traffic.partial(), segment: None, tunnel: 0 });
        if let Some(segment) = traffic.segment(takes, 1400) {
            requests.push(Offload { checksum: traffic.partial(), segment: Some(segment), tunnel: 0 });
            if takes.ecn && traffic.is_tcp() {
                let segment = Some(Segment { ecn: true, ..segment });
                requests.push(Offload { checksum: traffic.partial(), segment, tunnel: 0 });
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;
    use packet::{L3, L4};

    #[test]
    fn test_packets_are_what_they_say() {
        for traffic in Traffic::ALL {
            let frame = traffic.packet(1000);
            let headers = packet::parse(&frame[..128], frame.len() as u32).unwrap();
            assert_eq!(headers.l3, if traffic.is_v4() { L3::Ipv4 } else { L3::Ipv6 });
            assert_eq!(headers.l4, if traffic.is_tcp() { L4::Tcp } else { L4::Udp });
            assert_eq!(u16::from(headers.l4_offset), traffic.l4_offset());
            assert_eq!((headers.payload_length(), headers.l3_end()), (1000, frame.len() as u32));
        }
    }

    #[test]
    fn numbers_make_frames_differ() {
        assert_eq!(numbered(7, 3), [0, 0, 0]);
        assert_eq!(numbered(7, 100)[..8], 7u64.to_be_bytes());
        assert_ne!(numbered(7, 100)[8..], numbered(8, 100)[8..]);
        assert_eq!(numbered(9, 65_562), numbered(9, 65_562));
    }
}
