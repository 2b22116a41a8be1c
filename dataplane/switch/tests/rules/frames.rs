//! Frames of ports to each other.

use crate::world::{address, gateway_mac, mac, subnet_of};
use packet::checksum::{Sum, pseudo_header};
use packet::{L4, MacAddr};
use std::net::Ipv4Addr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;

/// An IPv4 packet of one port to another, by the gateway if it is elsewhere.
pub(crate) fn ipv4(from: u16, to: u16, protocol: u8, upper: &[u8]) -> Vec<u8> {
    let direct = subnet_of(from) == subnet_of(to);
    let destination = if direct { mac(to) } else { gateway_mac(subnet_of(from)) };
    ipv4_to(from, (destination, address(to)), protocol, upper)
}

/// An IPv4 packet of a port to any address.
pub(crate) fn ipv4_to(
    from: u16,
    (destination, to): (MacAddr, Ipv4Addr),
    protocol: u8,
    upper: &[u8],
) -> Vec<u8> {
    let mut frame = [destination.0, mac(from).0].concat();
    let length = (20 + upper.len()) as u16;
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    frame.extend(address(from).octets());
    frame.extend(to.octets());
    frame.extend(upper);
    seal(&mut frame);
    frame
}

/// Makes the header checksum right.
pub(crate) fn seal(frame: &mut [u8]) {
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Makes all checksums right.
pub(crate) fn complete(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12] == 8 {
        seal(&mut frame);
    }
    let headers = packet::parse(&frame, frame.len() as u32).unwrap();
    let l4 = usize::from(headers.l4_offset);
    let (at, pseudo) = match headers.l4 {
        L4::Tcp => (l4 + 16, pseudo_header(&frame, &headers).unwrap()),
        L4::Udp => (l4 + 6, pseudo_header(&frame, &headers).unwrap()),
        L4::Icmpv6 => (l4 + 2, pseudo_header(&frame, &headers).unwrap()),
        _ => (l4 + 2, Sum::ZERO),
    };
    frame[at..at + 2].copy_from_slice(&[0, 0]);
    let sum = pseudo.plus(Sum::of(&frame[l4..])).finish();
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

pub(crate) fn udp(from: u16, to: u16, ports: [u16; 2]) -> Vec<u8> {
    let [source, destination] = ports.map(u16::to_be_bytes);
    ipv4(
        from,
        to,
        UDP,
        &[source, destination, [0, 16], [0, 0]].concat().into_iter().chain([7; 8]).collect::<Vec<_>>(),
    )
}

/// A segment: flags, sequence and acknowledgment number, bytes of data.
pub(crate) fn tcp(
    from: u16,
    to: u16,
    ports: [u16; 2],
    (flags, seq, ack): (u8, u32, u32),
    data: usize,
) -> Vec<u8> {
    let mut upper = ports.map(u16::to_be_bytes).concat();
    upper.extend(seq.to_be_bytes());
    upper.extend(ack.to_be_bytes());
    upper.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    upper.resize(20 + data, 9);
    ipv4(from, to, TCP, &upper)
}

/// An ICMP message: type, code and the second word.
pub(crate) fn icmp(from: u16, to: u16, kind: u8, code: u8, word: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut upper = vec![kind, code, 0, 0];
    upper.extend(word);
    upper.extend(data);
    let sum = Sum::of(&upper).finish();
    upper[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(from, to, ICMP, &upper)
}
