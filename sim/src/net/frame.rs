//! Makes frames.

use super::checksum::{fold, pseudo, sum};
use super::{Mac, Station};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// TCP and UDP by their numbers.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;

/// What becomes of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// It is right.
    Whole,
    /// The device is to complete it.
    Partial,
}

/// The addresses of a conversation between two stations.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Who sends.
    pub from: Station,
    /// Who receives.
    pub to: Station,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Source and destination port.
    pub ports: (u16, u16),
}

/// An Ethernet header.
#[must_use]
pub fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// Appends an IPv4 header for `length` bytes of payload, its checksum right.
pub fn push_ipv4(frame: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, protocol: u8, id: u16, length: usize) {
    let start = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((20 + length as u16).to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend([0x40, 0, 64, protocol, 0, 0]);
    frame.extend(from.octets());
    frame.extend(to.octets());
    fill_ipv4_checksum(&mut frame[start..]);
}

/// Sets the checksum of an IPv4 header.
pub fn fill_ipv4_checksum(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = !fold(sum(packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Appends an IPv6 header for `length` bytes of payload.
pub fn push_ipv6(frame: &mut Vec<u8>, from: Ipv6Addr, to: Ipv6Addr, protocol: u8, length: usize) {
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((length as u16).to_be_bytes());
    frame.extend([protocol, 64]);
    frame.extend(from.octets());
    frame.extend(to.octets());
}

/// Offset of the checksum in a transport header.
#[must_use]
pub fn checksum_offset(protocol: u8) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// A packet of `flow`. `id` goes where it makes packets differ: the IPv4 identification and the TCP sequence number.
#[must_use]
pub fn packet(flow: &Flow, id: u32, payload: &[u8], fill: Fill) -> Vec<u8> {
    let header = if flow.protocol == TCP { 20 } else { 8 };
    let length = header + payload.len();
    let mut frame = ethernet(flow.to.mac, flow.from.mac, if flow.v6 { 0x86dd } else { 0x0800 });
    if flow.v6 {
        push_ipv6(&mut frame, flow.from.v6, flow.to.v6, flow.protocol, length);
    } else {
        push_ipv4(&mut frame, flow.from.v4, flow.to.v4, flow.protocol, id as u16, length);
    }
    let l4 = frame.len();
    frame.extend(flow.ports.0.to_be_bytes());
    frame.extend(flow.ports.1.to_be_bytes());
    if flow.protocol == TCP {
        frame.extend(id.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0]);
    } else {
        frame.extend((length as u16).to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend(payload);
    set_checksum(&mut frame, l4, flow.from.ip(flow.v6), flow.to.ip(flow.v6), flow.protocol, fill);
    frame
}

/// Writes the hops that a packet may still take.
pub fn set_hops(frame: &mut [u8], hops: u8) {
    if frame.get(12..14) == Some(&[8, 0]) {
        frame[22] = hops;
        fill_ipv4_checksum(&mut frame[14..34]);
    } else {
        frame[21] = hops;
    }
}

/// A ping of number `id` along `flow`.
#[must_use]
pub fn echo_request(flow: &Flow, id: u32) -> Vec<u8> {
    let number = id.to_be_bytes();
    let body =
        |kind: u8| [&[kind, 0, 0, 0, number[0], number[1], number[2], number[3]][..], &[0x77; 40]].concat();
    if flow.v6 {
        return icmpv6(flow.to.mac, flow.from.mac, flow.from.v6, flow.to.v6, 64, &body(128));
    }
    let mut frame = ethernet(flow.to.mac, flow.from.mac, 0x0800);
    push_ipv4(&mut frame, flow.from.v4, flow.to.v4, 1, id as u16, 48);
    let at = frame.len();
    frame.extend(body(8));
    let value = !fold(sum(&frame[at..]));
    frame[at + 2..at + 4].copy_from_slice(&value.to_be_bytes());
    frame
}

/// Sets the transport checksum of the frame whose transport header is at `l4`.
pub fn set_checksum(frame: &mut [u8], l4: usize, from: IpAddr, to: IpAddr, protocol: u8, fill: Fill) {
    let field = l4 + checksum_offset(protocol);
    let start = pseudo(from, to, protocol, frame.len() - l4);
    let value = match fill {
        Fill::Partial => start,
        Fill::Whole => {
            frame[field..field + 2].fill(0);
            match !fold(u32::from(start) + sum(&frame[l4..])) {
                0 if protocol == UDP => 0xffff,
                value => value,
            }
        }
    };
    frame[field..field + 2].copy_from_slice(&value.to_be_bytes());
}

/// An ARP message (RFC 826); `operation` 1 asks, 2 answers.
#[must_use]
pub fn arp(to: Mac, from: Mac, operation: u8, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = ethernet(to, from, 0x0806);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    frame.resize(60, 0);
    frame
}

/// An ARP request of `from` for `address`.
#[must_use]
pub fn arp_request(from: &Station, address: Ipv4Addr) -> Vec<u8> {
    arp([0xff; 6], from.mac, 1, (from.mac, from.v4), ([0; 6], address))
}

/// An ICMPv6 message; `body` starts with type and code, its checksum is set.
#[must_use]
pub fn icmpv6(to: Mac, from: Mac, source: Ipv6Addr, destination: Ipv6Addr, hops: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(to, from, 0x86dd);
    push_ipv6(&mut frame, source, destination, ICMPV6, body.len());
    frame[21] = hops;
    let l4 = frame.len();
    frame.extend(body);
    set_checksum(&mut frame, l4, source.into(), destination.into(), ICMPV6, Fill::Whole);
    frame
}

/// A neighbour solicitation of `from` for `address` (RFC 4861 section 4.3).
#[must_use]
pub fn solicitation(from: &Station, address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(address.octets());
    body.extend([1, 1]);
    body.extend(from.mac);
    icmpv6([0x33, 0x33, 0xff, a, b, c], from.mac, from.v6, group, 255, &body)
}

/// An unsolicited neighbour advertisement: `from` says that `mac` has `address` (RFC 4861 section 4.4).
#[must_use]
pub fn advertisement(from: Mac, address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address.octets());
    body.extend([2, 1]);
    body.extend(mac);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    icmpv6([0x33, 0x33, 0, 0, 0, 1], from, address, group, 255, &body)
}

/// A gratuitous ARP: `from` says that it has `address`.
#[must_use]
pub fn gratuitous(from: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp([0xff; 6], from, 1, (from, address), ([0; 6], address))
}
