//! Frames byte by byte, as a guest that keeps no rule writes them: nothing here refuses an impossible value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context;
use towpath_tests::Result;
use towpath_tests::manifests::Port;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// Where routers speak to everybody.
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A station of the subnet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Station {
    pub(crate) mac: [u8; 6],
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Station {
    pub(crate) fn of(port: &Port) -> Result<Self> {
        let mac: Vec<u8> = port
            .mac
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16))
            .collect::<std::result::Result<_, _>>()?;
        let v4 = port.ips.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None });
        let v6 = port.ips.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None });
        Ok(Self {
            mac: mac.try_into().ok().context("a MAC address")?,
            v4: v4.context("an IPv4 address")?,
            v6: v6.context("an IPv6 address")?,
        })
    }

    /// The link-local address that follows from its MAC address.
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

pub(crate) fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// The same frame behind these tags: protocol and VLAN.
pub(crate) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags: Vec<u8> =
        tags.iter().flat_map(|(kind, id)| [kind.to_be_bytes(), id.to_be_bytes()].concat()).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// The same frame with other bytes at a place.
pub(crate) fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// An IPv4 packet; its header's checksum is right. `fragment`: flags and offset.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    (ttl, fragment): (u8, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend([0x12, 0x34]);
    header.extend(fragment.to_be_bytes());
    header.extend([ttl, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&[&header]);
    header.splice(10..12, sum.to_be_bytes());
    header.extend(payload);
    header
}

pub(crate) fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    (next, hops): (u8, u8),
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// UDP without a checksum.
pub(crate) fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// TCP without a right checksum; `options` are a multiple of 4 bytes.
pub(crate) fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = (5 + options.len() / 4) as u8;
    let mut segment = vec![0x9c, 0x40, 0x9c, 0x41, 1, 2, 3, 4, 0, 0, 0, 0, words << 4, flags, 0xff, 0xff];
    segment.extend([0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// ICMP with its checksum, whose place in `message` is ignored.
pub(crate) fn icmp(message: &[u8]) -> Vec<u8> {
    let mut message = with(message.to_vec(), 2, &[0, 0]);
    let sum = checksum(&[&message]);
    message.splice(2..4, sum.to_be_bytes());
    message
}

/// An ICMPv6 packet with hop limit 255 and its checksum.
pub(crate) fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let mut message = with(message.to_vec(), 2, &[0, 0]);
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[&pseudo, &message]);
    message.splice(2..4, sum.to_be_bytes());
    ipv6(source, destination, (ICMPV6, 255), &message)
}

/// A neighbour message: type, flags, target, options.
pub(crate) fn neighbour(kind: u8, flags: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat()
}

/// An ARP message.
pub(crate) fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    message.extend(sender.0);
    message.extend(sender.1.octets());
    message.extend(target.0);
    message.extend(target.1.octets());
    message
}

/// A DHCPv4 message of a client with this hardware address; `operation` 1 is a question.
pub(crate) fn dhcp4(operation: u8, hardware: [u8; 6], options: &[u8]) -> Vec<u8> {
    let mut message = vec![operation, 1, 6, 0, 1, 2, 3, 4];
    message.extend([0; 20]);
    message.extend(hardware);
    message.extend([0; 202]);
    message.extend([99, 130, 83, 99]);
    message.extend(options);
    message
}

/// A DHCPv6 option.
pub(crate) fn option6(code: u16, length: u16, value: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
}

/// The Internet checksum (RFC 1071) of parts, all but the last of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
