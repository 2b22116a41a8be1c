//! The headers of a frame as they are written again and again: Ethernet, IPv4 and UDP or TCP, and those of a tunnel before them.

use virtio_driver::{Gso, MemoryError, NetHeader, SharedMemory};

use crate::{
    frame::{Endpoint, FrameKind, MSS, TCP_HEADERS, UDP_HEADERS},
    segments::{Cutting, fold},
    wire::OUTER,
};

#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) kind: FrameKind,
    /// The first 42 bytes, with ports of 0, and those that TCP has more.
    udp: [u8; UDP_HEADERS],
    tcp: [u8; TCP_HEADERS - UDP_HEADERS],
    pub(crate) headers: usize,
    pub(crate) net: NetHeader,
    /// What precedes the frame: the outer headers of a tunnel, whose source port is the flow's.
    pub(crate) outer: Option<[u8; OUTER]>,
}

impl Template {
    pub(crate) fn new(from: Endpoint, to: Endpoint, kind: FrameKind) -> Self {
        let mut p = [0u8; TCP_HEADERS];
        let ip_len = kind.len - 14;
        let transport_len = ip_len - 20;
        p[0..6].copy_from_slice(&to.mac);
        p[6..12].copy_from_slice(&from.mac);
        p[12..14].copy_from_slice(&[0x08, 0x00]);
        p[14] = 0x45;
        p[16..18].copy_from_slice(&(ip_len as u16).to_be_bytes());
        p[20] = 0x40; // don't fragment
        p[22] = 64;
        p[23] = if kind.tso { 6 } else { 17 };
        p[26..30].copy_from_slice(&from.ip.octets());
        p[30..34].copy_from_slice(&to.ip.octets());
        let checksum = !ones_complement(&p[14..34], 0);
        p[24..26].copy_from_slice(&checksum.to_be_bytes());
        if !kind.tso {
            p[38..40].copy_from_slice(&(transport_len as u16).to_be_bytes());
            return Self::cut(kind, &p, UDP_HEADERS, NetHeader::default());
        }
        p[46] = 5 << 4;
        p[47] = 0x10; // ACK
        p[48..50].copy_from_slice(&[0xff, 0xff]);
        let pseudo = ones_complement(&p[26..34], 6 + transport_len);
        p[50..52].copy_from_slice(&pseudo.to_be_bytes());
        let net = NetHeader {
            needs_csum: true,
            gso: Gso::TcpV4,
            hdr_len: TCP_HEADERS as u16,
            gso_size: MSS,
            csum_start: 34,
            csum_offset: 16,
            ..NetHeader::default()
        };
        Self::cut(kind, &p, TCP_HEADERS, net)
    }

    fn cut(kind: FrameKind, headers: &[u8; TCP_HEADERS], len: usize, net: NetHeader) -> Self {
        let (udp, tcp) = (headers.first_chunk(), headers.last_chunk());
        let (udp, tcp) = (*udp.unwrap_or(&[0; _]), *tcp.unwrap_or(&[0; _]));
        Self { kind, udp, tcp, headers: len, net, outer: None }
    }

    /// Of a send's segment instead of the whole; the checksums are right for the length.
    pub(crate) fn become_segment(&mut self) {
        let length = TCP_HEADERS as u32 + u32::from(MSS);
        let (udp, tcp) = (&mut self.udp, &mut self.tcp);
        udp[16..18].copy_from_slice(&(length as u16 - 14).to_be_bytes());
        udp[24..26].fill(0);
        let checksum = !ones_complement(&udp[14..34], 0);
        udp[24..26].copy_from_slice(&checksum.to_be_bytes());
        let pseudo = ones_complement(&udp[26..34], 6 + (length - 34));
        tcp[8..10].copy_from_slice(&pseudo.to_be_bytes());
        self.kind = FrameKind { len: length, tso: true };
        self.net = NetHeader::default();
    }

    /// The headers with these ports, and before them those of the tunnel; returns the latter's length.
    #[inline(always)]
    pub(crate) fn write_headers(
        &self,
        memory: &SharedMemory,
        address: u64,
        (source, destination): (u16, u16),
    ) -> Result<u32, MemoryError> {
        let (address, outer) = match &self.outer {
            None => (address, 0),
            Some(outer) => {
                memory.write_array(address, outer)?;
                let entropy = 0xc000 | source.wrapping_add(destination.rotate_left(10)) & 0x3fff;
                memory.write_array(address + 34, &entropy.to_be_bytes())?;
                (address + OUTER as u64, OUTER as u32)
            }
        };
        let ports = u32::from(source.swap_bytes()) | u32::from(destination.swap_bytes()) << 16;
        memory.write_array(address, &self.udp)?;
        if self.headers == TCP_HEADERS {
            memory.write_array(address + UDP_HEADERS as u64, &self.tcp)?;
        }
        memory.write_array(address + 34, &ports.to_le_bytes())?;
        Ok(outer)
    }

    /// The next segment of a send, with its checksum.
    pub(crate) fn write_segment(
        &self,
        memory: &SharedMemory,
        address: u64,
        (source, destination): (u16, u16),
        cutting: &Cutting,
        word: u64,
    ) -> Result<(NetHeader, u32), MemoryError> {
        let outer = self.write_headers(memory, address, (source, destination))?;
        let address = address + u64::from(outer);
        let next = cutting.write(memory, address + TCP_HEADERS as u64, word)?;
        memory.write_array(address + 38, &next.tcp_sequence.to_be_bytes())?;
        memory.write_array(address + 47, &[next.flags])?;
        let [_, _, _, _, offset, _, window @ .., a, b, _, _] = self.tcp;
        let fixed = [offset, next.flags, window[0], window[1], a, b].chunks(2).map(word_of).sum::<u32>();
        let moving = u32::from(source)
            + u32::from(destination)
            + (next.tcp_sequence >> 16)
            + (next.tcp_sequence & 0xffff)
            + next.sum;
        let checksum = !fold(u64::from(fixed + moving));
        memory.write_array(address + 50, &checksum.to_be_bytes())?;
        Ok((self.net, self.kind.len + outer))
    }
}

/// Two bytes in network order.
fn word_of(pair: &[u8]) -> u32 {
    match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    }
}

/// RFC 1071's sum of big-endian 16-bit words, folded.
pub(crate) fn ones_complement(bytes: &[u8], start: u32) -> u16 {
    fold(u64::from(bytes.chunks(2).map(word_of).fold(start, u32::wrapping_add)))
}
