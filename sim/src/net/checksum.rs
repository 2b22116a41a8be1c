//! The Internet checksum (RFC 1071), the slow and obvious way.

use std::net::IpAddr;

/// Adds 16-bit words, big endian, an odd byte padded with zero.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Folds a sum to 16 bits.
#[must_use]
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header (RFC 793, RFC 8200 section 8.1), folded and not inverted: what `VIRTIO_NET_HDR_F_NEEDS_CSUM` wants in the field.
#[must_use]
pub fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u16 {
    let mut total = u32::from(protocol) + (length as u32 & 0xffff) + (length as u32 >> 16);
    for address in [source, destination] {
        total += match address {
            IpAddr::V4(address) => sum(&address.octets()),
            IpAddr::V6(address) => sum(&address.octets()),
        };
    }
    fold(total)
}
