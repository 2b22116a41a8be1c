//! Packets of the underlay as nobody honest sends them: any outer source, any header, any length, out of raw sockets in a namespace.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use crate::Result;
use crate::fabric::VXLAN;
use crate::netns::Namespace;

/// VXLAN's I flag: the VNI is valid (RFC 7348, section 5).
pub const VALID: u8 = 0x08;

const UDP: u8 = 17;
/// "Raw": the header is the sender's own (raw(7), and for IPv6 Linux does the same).
const OWN_HEADER: u32 = 255;

/// A sender of packets with their IP header. Linux itself writes the total length and the checksum of an IPv4 header.
#[derive(Debug)]
pub struct Injector {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl Injector {
    /// One in a namespace.
    ///
    /// # Errors
    /// It takes root.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        namespace.enter(|| Ok(Self { v4: raw(AddressFamily::INET)?, v6: raw(AddressFamily::INET6)? }))
    }

    /// Send a packet, header included, to where its header says.
    ///
    /// # Errors
    /// Linux does not take it: it fits no link, or has no version.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let (socket, to) = match packet.first().map(|first| first >> 4) {
            Some(4) => {
                let octets: [u8; 4] = part(packet, 16)?;
                (&self.v4, IpAddr::from(octets))
            }
            Some(6) => {
                let octets: [u8; 16] = part(packet, 24)?;
                (&self.v6, IpAddr::from(octets))
            }
            _ => bail!("not an IP packet: {packet:02x?}"),
        };
        let sent = sendto(socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0));
        sent.with_context(|| format!("send {} bytes to {to}", packet.len())).map(drop)
    }
}

fn raw(family: AddressFamily) -> Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(OWN_HEADER).map(Protocol::from_raw);
    socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).context("open a raw socket")
}

fn part<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N]> {
    packet.get(at..).and_then(<[u8]>::first_chunk).copied().context("an address in the header")
}

/// An IP packet of the underlay around what is in it, honest unless told otherwise.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
    /// Protocol or next header.
    pub protocol: u8,
    /// DSCP and ECN.
    pub class: u8,
    /// Options of an IPv4 header, a multiple of 4 bytes.
    pub options: Vec<u8>,
    /// IPv4's flags and fragment offset.
    pub fragment: u16,
    /// Whatever follows the header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet of some protocol.
    #[must_use]
    pub fn new(source: IpAddr, destination: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self { source, destination, protocol, class: 0, options: Vec::new(), fragment: 0x4000, payload }
    }

    /// A datagram to VXLAN's port. Its checksum is zero over IPv4 and right over IPv6.
    #[must_use]
    pub fn datagram(source: IpAddr, destination: IpAddr, content: &[u8]) -> Self {
        let sum = source.is_ipv6();
        Self::new(source, destination, UDP, udp(source, destination, content, sum))
    }

    /// A frame in a tunnel.
    #[must_use]
    pub fn vxlan(source: IpAddr, destination: IpAddr, vni: u32, frame: &[u8]) -> Self {
        Self::datagram(source, destination, &vxlan([VALID, 0, 0, 0], vni, frame))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60 + self.payload.len());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let words = 5 + self.options.len() / 4;
                bytes.extend([0x40 | words as u8, self.class]);
                bytes.extend(((words * 4 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(self.fragment.to_be_bytes());
                bytes.extend([64, self.protocol, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
                bytes.extend(&self.options);
            }
            (source, destination) => {
                bytes.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
                bytes.extend((self.payload.len() as u16).to_be_bytes());
                bytes.extend([self.protocol, 64]);
                bytes.extend(octets(source));
                bytes.extend(octets(destination));
            }
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// A VXLAN header with these four bytes in front and this VNI, then a frame.
#[must_use]
pub fn vxlan(flags: [u8; 4], vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut bytes = flags.to_vec();
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(frame);
    bytes
}

/// A UDP datagram to VXLAN's port, with its checksum or none.
#[must_use]
pub fn udp(source: IpAddr, destination: IpAddr, content: &[u8], with_sum: bool) -> Vec<u8> {
    let length = (8 + content.len()) as u16;
    let mut bytes = Vec::with_capacity(length.into());
    for word in [0xc001, VXLAN, length, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(content);
    if with_sum {
        let mut pseudo = [octets(source), octets(destination)].concat();
        pseudo.extend([0, UDP]);
        pseudo.extend(length.to_be_bytes());
        let sum = match sum(&[pseudo.as_slice(), &bytes]) {
            0 => u16::MAX,
            sum => sum,
        };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of parts, all but the last of even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An address that no member of an [`Underlay`](crate::fabric::Underlay) has.
#[must_use]
pub fn stranger(ipv6: bool) -> IpAddr {
    if ipv6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xbad].into() } else { Ipv4Addr::new(192, 0, 2, 250).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_injected_is_what_a_parser_reads() {
        for ipv6 in [false, true] {
            let packet = Packet::vxlan(stranger(ipv6), stranger(ipv6), 0x0012_3456, b"inner").bytes();
            let read = etherparse::PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(etherparse::TransportHeader::Udp(udp)) = read.transport else { panic!("{read:?}") };
            assert_eq!((udp.destination_port, udp.length), (VXLAN, 8 + 8 + 5));
            let content = read.payload.slice();
            assert_eq!(content, b"\x08\0\0\0\x12\x34\x56\0inner");
            if let Some(etherparse::NetHeaders::Ipv6(header, _)) = read.net {
                assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&header, content).unwrap());
            }
        }
    }
}
