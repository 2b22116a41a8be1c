//! VXLAN (RFC 7348) as a peer reads and writes it, by code that shares nothing with the switch's own.

use super::checksum::{fold, pseudo, sum};
use super::frame::{UDP, ethernet, fill_ipv4_checksum, push_ipv4, push_ipv6};
use super::{Mac, read};
use std::net::IpAddr;

/// The port of tunnel end points.
pub const PORT: u16 = 4789;
/// The first port that source ports are from.
const FIRST_SOURCE: u16 = 49_152;

/// A flaw of tunnel packets.
pub const WRONG_SUM: &str = "the UDP checksum is wrong";

/// What the outer headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Destination and source on the link.
    pub macs: (Mac, Mac),
    /// Source and destination of the tunnel.
    pub addresses: (IpAddr, IpAddr),
    /// The UDP source port.
    pub port: u16,
    /// The traffic class: DSCP and ECN.
    pub class: u8,
    /// The first byte of the VXLAN header.
    pub flags: u8,
    /// The group policy field.
    pub policy: u16,
    /// The network.
    pub vni: u32,
}

/// Splits a tunnel packet; where the inner frame begins. Nothing unless it is a whole UDP datagram to the tunnels' port with room for a VXLAN header.
#[must_use]
pub fn open(frame: &[u8]) -> Option<(Outer, usize)> {
    let transport = read::transport(frame).filter(|transport| transport.protocol == UDP)?;
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let at = transport.start;
    (word(at + 2)? == PORT && at + 16 <= transport.end).then_some(())?;
    let outer = Outer {
        macs: read::macs(frame)?,
        addresses: transport.addresses,
        port: word(at)?,
        class: read::traffic_class(frame)?,
        flags: *frame.get(at + 8)?,
        policy: word(at + 10)?,
        vni: u32::from(word(at + 12)?) << 8 | u32::from(*frame.get(at + 14)?),
    };
    Some((outer, at + 16))
}

/// Puts outer headers before `inner`. The UDP checksum is left out over IPv4, unless `summed`.
#[must_use]
pub fn wrap(outer: &Outer, inner: &[u8], summed: bool) -> Vec<u8> {
    let length = 16 + inner.len();
    let (from, to) = outer.addresses;
    let mut frame = ethernet(outer.macs.0, outer.macs.1, if from.is_ipv4() { 0x0800 } else { 0x86dd });
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => push_ipv4(&mut frame, from, to, UDP, 0, length),
        (IpAddr::V6(from), IpAddr::V6(to)) => push_ipv6(&mut frame, from, to, UDP, length),
        _ => {}
    }
    set_class(&mut frame, outer.class);
    let at = frame.len();
    frame.extend(outer.port.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend((length as u16).to_be_bytes());
    frame.extend([0, 0, outer.flags, 0]);
    frame.extend(outer.policy.to_be_bytes());
    frame.extend((outer.vni << 8).to_be_bytes());
    frame.extend(inner);
    if summed || from.is_ipv6() {
        let value = match !fold(u32::from(pseudo(from, to, UDP, length)) + sum(&frame[at..])) {
            0 => 0xffff,
            value => value,
        };
        frame[at + 6..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    frame
}

/// Writes the traffic class of an untagged IP packet, and mends its header checksum.
pub fn set_class(frame: &mut [u8], class: u8) {
    match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 34 => {
            frame[15] = class;
            let end = 14 + usize::from(frame[14] & 15) * 4;
            if end >= 34 && end <= frame.len() {
                fill_ipv4_checksum(&mut frame[14..end]);
            }
        }
        Some([0x86, 0xdd]) if frame.len() >= 54 => {
            frame[14] = 0x60 | class >> 4;
            frame[15] = frame[15] & 15 | class << 4;
        }
        _ => {}
    }
}

/// What is wrong with the outer headers of a tunnel packet on the wire; `inner` is where the inner frame begins.
#[must_use]
pub fn flaw(frame: &[u8], outer: &Outer, inner: usize) -> Option<&'static str> {
    let transport = read::transport(frame)?;
    let right = [
        ("it is longer than its IP header says", transport.end == frame.len()),
        ("the UDP length is not the IP header's", {
            let length = frame.get(transport.start + 4..transport.start + 6)?;
            usize::from(u16::from_be_bytes([length[0], length[1]])) == transport.end - transport.start
        }),
        (WRONG_SUM, transport.is_checksum_right(frame)),
        ("the UDP checksum is left out over IPv6", {
            outer.addresses.0.is_ipv4() || frame.get(transport.checksum_at()..)?.get(..2)? != [0, 0]
        }),
        ("the header checksum is wrong", {
            outer.addresses.0.is_ipv6() || fold(sum(frame.get(14..34)?)) == 0xffff
        }),
        ("the VNI is not valid", outer.flags & 0x7f == 0x08),
        ("the source port is not a dynamic one", outer.port >= FIRST_SOURCE),
        ("it has no hop to take", *frame.get(if outer.addresses.0.is_ipv4() { 22 } else { 21 })? > 1),
        ("reserved bits are set", frame.get(inner - 1)? == &0 && frame.get(inner - 7)? == &0),
        ("it may be fragmented", outer.addresses.0.is_ipv6() || *frame.get(20)? & 0x40 != 0),
    ];
    right.into_iter().find(|(_, right)| !right).map(|(what, _)| what)
}

/// The frame as it is for all that carry it: without MAC addresses, hops, ECN and the header checksum that follows from them.
#[must_use]
pub fn essence(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if bytes.len() < 14 {
        return bytes;
    }
    if let Some((kind, at)) = read::ethertype(frame) {
        let room = bytes.len();
        match kind {
            0x0800 if room >= at + 20 => {
                bytes[at + 1] &= !3;
                bytes[at + 8] = 0;
                bytes[at + 10..at + 12].fill(0);
            }
            0x86dd if room >= at + 40 => {
                bytes[at + 1] &= !0x30;
                bytes[at + 7] = 0;
            }
            _ => return bytes,
        }
        bytes[..12].fill(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrapped_opens_and_has_no_flaw() {
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            let outer = Outer {
                macs: ([2; 6], [4; 6]),
                addresses: (from.parse().unwrap(), to.parse().unwrap()),
                port: 50_000,
                class: 2,
                flags: 0x88,
                policy: 2,
                vni: 0x0a_0b0c,
            };
            let frame = wrap(&outer, &[7; 60], false);
            let (read, inner) = open(&frame).unwrap();
            assert_eq!((read, &frame[inner..]), (outer, &[7; 60][..]));
            assert_eq!(flaw(&frame, &read, inner), None);
            let other = wrap(&outer, &[7; 60], true);
            assert_eq!(flaw(&other, &read, inner), None);
            let mut wrong = other;
            *wrong.last_mut().unwrap() ^= 1;
            assert_eq!(flaw(&wrong, &read, inner), Some("the UDP checksum is wrong"));
        }
    }
}
