//! Reads frames as a guest's kernel would.

use super::Mac;
use super::checksum::{fold, pseudo, sum};
use super::frame::{ICMPV6, TCP, UDP, checksum_offset};
use crate::trace::hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where the transport layer of an IP packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its first byte, from the start of the frame.
    pub start: usize,
    /// The byte after its last, as the IP header says.
    pub end: usize,
    /// TCP, UDP, ICMP or ICMPv6.
    pub protocol: u8,
    /// Source and destination.
    pub addresses: (IpAddr, IpAddr),
}

fn take<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at + N)?.try_into().ok()
}

/// Destination and source MAC address.
#[must_use]
pub fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    Some((take(frame, 0)?, take(frame, 6)?))
}

/// The number of the datagram that a frame is a fragment of, if it is one whose fragment header comes first.
#[must_use]
pub fn fragment(frame: &[u8]) -> Option<u32> {
    let (kind, at) = ethertype(frame)?;
    match kind {
        0x0800 if u16::from_be_bytes(take(frame, at + 6)?) & 0x3fff != 0 => {
            Some(u16::from_be_bytes(take(frame, at + 4)?).into())
        }
        0x86dd if *frame.get(at + 6)? == 44 => Some(u32::from_be_bytes(take(frame, at + 44)?)),
        _ => None,
    }
}

/// The EtherType behind at most two VLAN tags, and where its payload starts.
#[must_use]
pub fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    loop {
        let value = u16::from_be_bytes(take(frame, at)?);
        at += 2;
        match value {
            0x8100 | 0x88a8 | 0x9100 if at < 22 => at += 2,
            _ => return Some((value, at)),
        }
    }
}

/// Source and destination address of an IP packet.
#[must_use]
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (kind, at) = ethertype(frame)?;
    match kind {
        0x0800 => Some((
            Ipv4Addr::from(take::<4>(frame, at + 12)?).into(),
            Ipv4Addr::from(take::<4>(frame, at + 16)?).into(),
        )),
        0x86dd => Some((
            Ipv6Addr::from(take::<16>(frame, at + 8)?).into(),
            Ipv6Addr::from(take::<16>(frame, at + 24)?).into(),
        )),
        _ => None,
    }
}

/// DSCP and ECN of an IP packet.
#[must_use]
pub fn traffic_class(frame: &[u8]) -> Option<u8> {
    let (kind, at) = ethertype(frame)?;
    let [first, second] = take::<2>(frame, at)?;
    match kind {
        0x0800 => Some(second),
        0x86dd => Some(first << 4 | second >> 4),
        _ => None,
    }
}

/// Hops that an IP packet may still take.
#[must_use]
pub fn hops(frame: &[u8]) -> Option<u8> {
    let (kind, at) = ethertype(frame)?;
    match kind {
        0x0800 => frame.get(at + 8).copied(),
        0x86dd => frame.get(at + 7).copied(),
        _ => None,
    }
}

/// The transport layer of an unfragmented packet without IPv6 extension headers.
#[must_use]
pub fn transport(frame: &[u8]) -> Option<Transport> {
    let (kind, at) = ethertype(frame)?;
    let addresses = addresses(frame)?;
    let (start, end, protocol) = if kind == 0x0800 {
        if u16::from_be_bytes(take(frame, at + 6)?) & 0x3fff != 0 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(take(frame, at + 2)?));
        let header = usize::from(frame.get(at)? & 15) * 4;
        if header < 20 {
            return None;
        }
        (at + header, at + length, *frame.get(at + 9)?)
    } else {
        let length = usize::from(u16::from_be_bytes(take(frame, at + 4)?));
        (at + 40, at + 40 + length, *frame.get(at + 6)?)
    };
    let room = checksum_offset(protocol) + 2;
    (matches!(protocol, TCP | UDP | 1 | ICMPV6) && end <= frame.len() && start + room <= end)
        .then_some(Transport { start, end, protocol, addresses })
}

impl Transport {
    /// What the sum over the transport layer starts with.
    #[must_use]
    pub fn pseudo(&self) -> u16 {
        if self.protocol == 1 {
            return 0;
        }
        pseudo(self.addresses.0, self.addresses.1, self.protocol, self.end - self.start)
    }

    /// Where the checksum is.
    #[must_use]
    pub fn checksum_at(&self) -> usize {
        self.start + checksum_offset(self.protocol)
    }

    /// Whether the checksum is right (or left out, which UDP over IPv4 may).
    #[must_use]
    pub fn is_checksum_right(&self, frame: &[u8]) -> bool {
        let bytes = frame.get(self.start..self.end).unwrap_or(&[]);
        let field = frame.get(self.checksum_at()..self.checksum_at() + 2).unwrap_or(&[]);
        let left_out = self.protocol == UDP && self.addresses.0.is_ipv4() && field == [0, 0];
        left_out || fold(u32::from(self.pseudo()) + sum(bytes)) == 0xffff
    }
}

/// What packets of one flow have in common: a number.
#[must_use]
pub fn flow(frame: &[u8]) -> u64 {
    let mut key = Vec::with_capacity(64);
    key.extend(frame.get(..14).unwrap_or(frame));
    if let Some((source, destination)) = addresses(frame) {
        for address in [source, destination] {
            match address {
                IpAddr::V4(address) => key.extend(address.octets()),
                IpAddr::V6(address) => key.extend(address.octets()),
            }
        }
    }
    // Datagrams in fragments are flows of their own: nobody knows the ports of the later ones.
    key.extend(fragment(frame).into_iter().flat_map(u32::to_be_bytes));
    if let Some(transport) = transport(frame) {
        key.push(transport.protocol);
        if matches!(transport.protocol, TCP | UDP) {
            key.extend(frame.get(transport.start..transport.start + 4).unwrap_or(&[]));
        }
    }
    hash(&key)
}

/// The frame with its transport checksum zeroed: equal whether or not somebody completed it.
#[must_use]
pub fn without_checksum(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    if let Some(transport) = transport(frame) {
        let at = transport.checksum_at();
        bytes[at..at + 2].fill(0);
    }
    bytes
}

/// A question to a neighbour, or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Who has this address?
    Asks(IpAddr),
    /// That MAC address has it.
    Says(IpAddr, Mac),
}

/// ARP and neighbour discovery.
#[must_use]
pub fn neighbour(frame: &[u8]) -> Option<Neighbour> {
    let (kind, at) = ethertype(frame)?;
    if kind == 0x0806 {
        let sender: Ipv4Addr = take::<4>(frame, at + 14)?.into();
        let target: Ipv4Addr = take::<4>(frame, at + 24)?.into();
        return match u16::from_be_bytes(take(frame, at + 6)?) {
            1 => Some(Neighbour::Asks(target.into())),
            2 => Some(Neighbour::Says(sender.into(), take(frame, at + 8)?)),
            _ => None,
        };
    }
    let transport = transport(frame).filter(|transport| transport.protocol == ICMPV6)?;
    let target: Ipv6Addr = take::<16>(frame, transport.start + 8)?.into();
    match *frame.get(transport.start)? {
        135 => Some(Neighbour::Asks(target.into())),
        136 => Some(Neighbour::Says(target.into(), take(frame, transport.start + 26)?)),
        _ => None,
    }
}

/// The address an ARP message is sent from; nothing for other frames.
#[must_use]
pub fn sender(frame: &[u8]) -> Option<IpAddr> {
    let (kind, at) = ethertype(frame)?;
    (kind == 0x0806).then_some(())?;
    Some(Ipv4Addr::from(take::<4>(frame, at + 14)?).into())
}

/// One line about a frame, for people.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let length = frame.len();
    if let Some(neighbour) = neighbour(frame) {
        return format!("{neighbour:?}");
    }
    let Some((from, to)) = addresses(frame) else {
        return format!("ethertype {:x?}, {length} bytes", ethertype(frame).map(|(kind, _)| kind));
    };
    match transport(frame) {
        None => format!("{from} > {to}, {length} bytes"),
        Some(transport) => {
            let word =
                |at: usize| frame.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
            let (first, second) = (word(transport.start), word(transport.start + 2));
            format!("{from} > {to} protocol {} {first} > {second}, {length} bytes", transport.protocol)
        }
    }
}
