//! The virtio-net header in front of every packet (virtio 1.2 section 5.1.6).

/// What the packet behind the header is to be cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gso {
    /// One packet (`VIRTIO_NET_HDR_GSO_NONE`).
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// UDP fragmentation (legacy; no sane device offers it).
    Udp,
    /// TCP over IPv6.
    TcpV6,
    /// UDP segmentation (USO).
    UdpL4,
    /// Any other value, as hostile guests write it.
    Other(u8),
}

impl Gso {
    const fn to_byte(self) -> u8 {
        match self {
            Self::None => 0,
            Self::TcpV4 => 1,
            Self::Udp => 3,
            Self::TcpV6 => 4,
            Self::UdpL4 => 5,
            Self::Other(byte) => byte,
        }
    }

    const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            1 => Self::TcpV4,
            3 => Self::Udp,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Other(other),
        }
    }
}

/// The header's fields; offsets count from the packet's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NetHeader {
    /// The checksum is to be completed: sum from `csum_start`, stored at `csum_start + csum_offset`.
    pub needs_csum: bool,
    /// The checksum was verified by the device (receive only).
    pub data_valid: bool,
    /// Other flag bits, for hostile guests and tests (never 0x01 or 0x02).
    pub other_flags: u8,
    /// Segmentation wanted.
    pub gso: Gso,
    /// The packet carries TCP with ECN (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
    /// Bytes of Ethernet, IP and transport header: a hint.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where summing starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
    /// Buffers the packet was spread over (receive with mergeable buffers); 0 from a driver.
    pub num_buffers: u16,
}

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const ECN: u8 = 0x80;

impl NetHeader {
    /// Bytes of the modern header; the longest that [`NetHeader::encode`] fills with meaning.
    pub const LEN: usize = 12;

    /// The header's 12 bytes. A legacy header is the first 10 of them, a longer one continues with zeroes.
    #[must_use]
    pub const fn encode(&self) -> [u8; Self::LEN] {
        let flags = self.other_flags
            | if self.needs_csum { NEEDS_CSUM } else { 0 }
            | if self.data_valid { DATA_VALID } else { 0 };
        let gso = self.gso.to_byte() | if self.ecn { ECN } else { 0 };
        // Put together in registers: see `SharedMemory::sum`.
        let first = flags as u64
            | (gso as u64) << 8
            | (self.hdr_len as u64) << 16
            | (self.gso_size as u64) << 32
            | (self.csum_start as u64) << 48;
        let second = self.csum_offset as u32 | (self.num_buffers as u32) << 16;
        let (f, s) = (first.to_le_bytes(), second.to_le_bytes());
        [f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], s[0], s[1], s[2], s[3]]
    }

    /// Reads a header; of a 10-byte legacy header the caller passes two zeroes at the end.
    #[must_use]
    pub const fn decode(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            needs_csum: bytes[0] & NEEDS_CSUM != 0,
            data_valid: bytes[0] & DATA_VALID != 0,
            other_flags: bytes[0] & !(NEEDS_CSUM | DATA_VALID),
            gso: Gso::from_byte(bytes[1] & !ECN),
            ecn: bytes[1] & ECN != 0,
            hdr_len: u16::from_le_bytes([bytes[2], bytes[3]]),
            gso_size: u16::from_le_bytes([bytes[4], bytes[5]]),
            csum_start: u16::from_le_bytes([bytes[6], bytes[7]]),
            csum_offset: u16::from_le_bytes([bytes[8], bytes[9]]),
            num_buffers: u16::from_le_bytes([bytes[10], bytes[11]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_survives_decode_and_encode() {
        for flags in 0..=255u8 {
            for gso in 0..=255u8 {
                let bytes = [flags, gso, 54, 0, 0xb4, 5, 34, 0, 16, 0, 3, 0];
                assert_eq!(NetHeader::decode(&bytes).encode(), bytes);
            }
        }
        let tso = NetHeader::decode(&[1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0, 3, 0]);
        assert!(tso.needs_csum && tso.ecn && !tso.data_valid);
        assert_eq!(
            (tso.gso, tso.gso_size, tso.csum_start, tso.csum_offset, tso.num_buffers),
            (Gso::TcpV4, 1460, 34, 16, 3)
        );
    }
}
