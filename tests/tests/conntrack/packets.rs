//! IP packets, without a link layer: each side of the comparison adds its own.

use std::net::IpAddr;

use crate::hosts::address;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const GRE: u8 = 47;
pub(crate) const ESP: u8 = 50;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;
const FRAGMENT: u8 = 44;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;

/// From which host to which, by which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) ipv6: bool,
}

impl Pair {
    pub(crate) fn back(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    fn addresses(self) -> [IpAddr; 2] {
        [address(self.from, self.ipv6), address(self.to, self.ipv6)]
    }

    pub(crate) fn icmp(self) -> u8 {
        if self.ipv6 { ICMPV6 } else { ICMP }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IP packet around its payload, whose fields beyond addresses may be changed before it is made.
#[derive(Clone, Debug)]
pub(crate) struct Ip {
    pub(crate) pair: Pair,
    pub(crate) protocol: u8,
    pub(crate) payload: Vec<u8>,
    /// IPv4: options, a multiple of four bytes. IPv6: extension headers, whose first says `protocol` at the end of the chain; its own type is `first`.
    pub(crate) options: Vec<u8>,
    pub(crate) first: u8,
    /// IPv4's identification and fragment field.
    pub(crate) identification: u16,
    pub(crate) fragment: u16,
}

impl Ip {
    pub(crate) fn new(pair: Pair, protocol: u8, payload: Vec<u8>) -> Self {
        Self { pair, protocol, payload, options: vec![], first: protocol, identification: 1, fragment: 0 }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let [source, destination] = self.pair.addresses().map(octets);
        if self.pair.ipv6 {
            let length = (self.options.len() + self.payload.len()) as u16;
            let mut bytes = vec![0x60, 0, 0, 0];
            bytes.extend(length.to_be_bytes());
            bytes.extend([self.first, 64]);
            return [bytes, source, destination, self.options.clone(), self.payload.clone()].concat();
        }
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        let mut bytes = [bytes, source, destination, self.options.clone()].concat();
        let right = sum(&bytes);
        bytes[10..12].copy_from_slice(&right.to_be_bytes());
        [bytes, self.payload.clone()].concat()
    }

    /// The same in fragments, of which each begins where it is said (a multiple of 8), and is so long; the last of them, by place in the packet, ends it.
    pub(crate) fn fragments(&self, identification: u16, parts: &[(usize, usize)]) -> Vec<Vec<u8>> {
        let end = self.payload.len();
        let part = |&(offset, length): &(usize, usize)| {
            let until = (offset + length).min(end);
            let payload = self.payload[offset.min(end)..until].to_vec();
            let more = u16::from(until < end);
            let mut piece = Self { payload, identification, ..self.clone() };
            if self.pair.ipv6 {
                let mut header = vec![self.protocol, 0];
                header.extend((offset as u16 | more).to_be_bytes());
                header.extend([0x12, 0x34]);
                header.extend(identification.to_be_bytes());
                (piece.options, piece.first) = (header, FRAGMENT);
            } else {
                piece.fragment = (offset / 8) as u16 | more << 13;
            }
            piece.bytes()
        };
        parts.iter().map(part).collect()
    }
}

/// What the checksum of an upper layer covers besides it.
fn pseudo(pair: Pair, protocol: u8, length: usize) -> Vec<u8> {
    let [source, destination] = pair.addresses().map(octets);
    let mut bytes = [source, destination].concat();
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// `upper` with its checksum at `at`.
fn summed(pair: Pair, protocol: u8, at: usize, mut upper: Vec<u8>) -> Vec<u8> {
    let covered = match protocol {
        ICMP => upper.clone(),
        _ => [pseudo(pair, protocol, upper.len()), upper.clone()].concat(),
    };
    let right = match sum(&covered) {
        0 if protocol == UDP => 0xffff,
        right => right,
    };
    upper[at..at + 2].copy_from_slice(&right.to_be_bytes());
    upper
}

pub(crate) fn udp(pair: Pair, ports: [u16; 2], data: &[u8]) -> Ip {
    let mut upper = ports.map(u16::to_be_bytes).concat();
    upper.extend((8 + data.len() as u16).to_be_bytes());
    upper.extend([0, 0]);
    upper.extend(data);
    Ip::new(pair, UDP, summed(pair, UDP, 6, upper))
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) ports: [u16; 2],
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) data: usize,
}

impl Segment {
    pub(crate) fn packet(&self, pair: Pair) -> Ip {
        let mut upper = self.ports.map(u16::to_be_bytes).concat();
        upper.extend(self.sequence.to_be_bytes());
        upper.extend(self.acknowledgment.to_be_bytes());
        let words = 5 + self.options.len().div_ceil(4);
        upper.extend([(words as u8) << 4, self.flags]);
        upper.extend(self.window.to_be_bytes());
        upper.extend([0, 0, 0, 0]);
        upper.extend(&self.options);
        upper.resize(words * 4, 0);
        upper.resize(words * 4 + self.data, 0x5a);
        Ip::new(pair, TCP, summed(pair, TCP, 16, upper))
    }
}

/// A message of ICMP or ICMPv6: type, code, the second word, and what follows.
pub(crate) fn icmp(pair: Pair, (kind, code): (u8, u8), word: [u8; 4], data: &[u8]) -> Ip {
    let mut upper = vec![kind, code, 0, 0];
    upper.extend(word);
    upper.extend(data);
    Ip::new(pair, pair.icmp(), summed(pair, pair.icmp(), 2, upper))
}

pub(crate) fn echo(pair: Pair, reply: bool, identifier: u16, sequence: u16) -> Ip {
    let kind = match (pair.ipv6, reply) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let word = [identifier.to_be_bytes(), sequence.to_be_bytes()].concat();
    icmp(pair, (kind, 0), [word[0], word[1], word[2], word[3]], b"how are you")
}

/// That a packet did not arrive because of its port, to who sent it; by `pair`, whoever that is.
pub(crate) fn unreachable(pair: Pair, about: &[u8]) -> Ip {
    let kind = if pair.ipv6 { (1, 4) } else { (3, 3) };
    icmp(pair, kind, [0; 4], &about[..about.len().min(120)])
}

/// An SCTP packet with one chunk of a type (CRC32c, RFC 9260 section 6.8).
pub(crate) fn sctp(pair: Pair, ports: [u16; 2], tag: u32, chunk: u8) -> Ip {
    let mut upper = ports.map(u16::to_be_bytes).concat();
    upper.extend(tag.to_be_bytes());
    upper.extend([0; 4]);
    let mut body = vec![0; 16];
    body[3] = 1;
    upper.extend([chunk, 0, 0, 20]);
    upper.extend(body);
    let right = crc32c(&upper).to_le_bytes();
    upper[8..12].copy_from_slice(&right);
    Ip::new(pair, SCTP, upper)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Whether an IP packet is a fragment.
pub(crate) fn is_fragment(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[6] & 0x3f | packet[7] != 0,
        _ => packet[6] == FRAGMENT,
    }
}

/// Where in its datagram what an IP packet carries belongs, and that. IPv6: the fragment header comes first, if there is one.
pub(crate) fn place(packet: &[u8]) -> (usize, &[u8]) {
    let field = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    match packet[0] >> 4 {
        4 => ((field(6) & 0x1fff) * 8, &packet[usize::from(packet[0] & 15) * 4..]),
        _ if packet[6] == FRAGMENT => (field(42) & !7, &packet[48..]),
        _ => (0, &packet[40..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_what_a_parser_reads() {
        for ipv6 in [false, true] {
            let pair = Pair { from: 0, to: 3, ipv6 };
            let segment = Segment {
                ports: [1000, 80],
                flags: SYN,
                sequence: 7,
                acknowledgment: 0,
                window: 100,
                options: vec![2, 4, 5, 0xb4],
                data: 3,
            };
            for packet in [segment.packet(pair), udp(pair, [1, 2], b"odd"), echo(pair, false, 5, 6)] {
                let bytes = packet.bytes();
                let read = etherparse::PacketHeaders::from_ip_slice(&bytes).unwrap();
                let (payload, right) = (read.payload.slice(), 0);
                let transport = read.transport.unwrap();
                let net = read.net.unwrap();
                let (said, computed) = match (&transport, &net) {
                    (etherparse::TransportHeader::Tcp(tcp), etherparse::NetHeaders::Ipv4(ip, _)) => {
                        (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
                    }
                    (etherparse::TransportHeader::Tcp(tcp), etherparse::NetHeaders::Ipv6(ip, _)) => {
                        (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
                    }
                    (etherparse::TransportHeader::Udp(udp), etherparse::NetHeaders::Ipv4(ip, _)) => {
                        (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
                    }
                    (etherparse::TransportHeader::Udp(udp), etherparse::NetHeaders::Ipv6(ip, _)) => {
                        (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
                    }
                    (etherparse::TransportHeader::Icmpv6(icmp), etherparse::NetHeaders::Ipv6(ip, _)) => {
                        let sum = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload);
                        (icmp.checksum, sum.unwrap())
                    }
                    (etherparse::TransportHeader::Icmpv4(_), _) => (sum(&bytes[20..]), right),
                    other => panic!("{other:?}"),
                };
                assert_eq!(said, computed, "{packet:?}");
            }
        }
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }
}
