//! A frame for every reason to drop one that the sender alone can bring about.

use super::frame::{
    Fill, Flow, TCP, UDP, arp, ethernet, gratuitous, icmpv6, packet, push_ipv6, solicitation,
};
use super::{Station, link_local};
use crate::random::Random;
use engine::DropReason;
use std::net::Ipv6Addr;
use virtio_driver::{Gso, NetHeader};

/// Reasons that [`odd_frame`] provokes.
pub const PROVOKED: &[DropReason] = {
    use DropReason::*;
    &[
        BadOffload,
        VlanTagged,
        SpoofedMac,
        SpoofedAddress,
        SpoofedNeighbour,
        BadNeighbour,
        EtherTypeRefused,
        BogusSource,
        RogueService,
        UnknownNeighbour,
        NeighbourConsumed,
        UnknownUnicast,
        Multicast,
        Hairpin,
        Runt,
        Llc,
        VlanTruncated,
        VlanDepth,
        HeaderTooLong,
        ArpTruncated,
        ArpFormat,
        Ipv4Truncated,
        Ipv4Version,
        Ipv4HeaderLength,
        Ipv4TotalLength,
        Ipv6Truncated,
        Ipv6Version,
        Ipv6PayloadLength,
        Ipv6Jumbogram,
        Ipv6ExtensionOrder,
        Ipv6ExtensionCount,
        Ipv6ExtensionLength,
        Ipv6Routing,
        FragmentLength,
        FragmentOverrun,
        FragmentTiny,
        FragmentOverlap,
        L4Truncated,
        TcpHeaderLength,
        UdpLength,
    ]
};

/// IPv6 extension headers between a right Ethernet header and a UDP datagram.
fn extended(from: &Station, to: &Station, first: u8, extensions: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(to.mac, from.mac, 0x86dd);
    push_ipv6(&mut frame, from.v6, to.v6, first, extensions.len() + 16);
    frame.extend(extensions);
    frame.extend([0x13, 0x88, 0x13, 0x89, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    frame
}

fn with(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn cut(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.truncate(length);
    frame
}

/// Puts VLAN tags between the addresses and the EtherType.
fn tagged(frame: &[u8], ids: &[u8]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    ids.iter().for_each(|id| out.extend([0x81, 0, 0, *id]));
    out.extend(&frame[12..]);
    out
}

/// Two stations of one subnet, and right packets from the first to the second that an oddity starts from.
struct Right<'a> {
    from: &'a Station,
    to: &'a Station,
    udp4: Vec<u8>,
    udp6: Vec<u8>,
    tcp4: Vec<u8>,
}

/// A frame of `from` that must end as `reason`, with its virtio-net header; `to` is a neighbour of its subnet.
#[must_use]
pub fn odd_frame(
    reason: DropReason,
    from: &Station,
    to: &Station,
    random: &mut Random,
) -> Option<(NetHeader, Vec<u8>)> {
    let mut payload = [0; 32];
    random.fill(&mut payload);
    let right = |v6: bool, protocol: u8| {
        let flow = Flow { from: *from, to: *to, v6, protocol, ports: (5000, 5001) };
        packet(&flow, 1, &payload, Fill::Whole)
    };
    let right = Right { from, to, udp4: right(false, UDP), udp6: right(true, UDP), tcp4: right(false, TCP) };
    if reason == DropReason::BadOffload {
        return Some((impossible_request(random), right.udp4));
    }
    let link = right.link(reason, random);
    let frame = link
        .or_else(|| right.foreign(reason, random))
        .or_else(|| right.neighbours(reason, random))
        .or_else(|| right.ipv4(reason, random))
        .or_else(|| right.ipv6(reason, random))
        .or_else(|| right.transport(reason))?;
    Some((NetHeader::default(), frame))
}

/// A request for offloads that no frame of this length and kind can have.
fn impossible_request(random: &mut Random) -> NetHeader {
    let header = NetHeader::default();
    match random.below(4) {
        0 => NetHeader { needs_csum: true, csum_start: 60_000, csum_offset: 6, ..header },
        1 => NetHeader { needs_csum: true, csum_start: 34, csum_offset: 60_000, ..header },
        2 => NetHeader { gso: Gso::Other(0x7f), gso_size: 100, ..header },
        _ => NetHeader {
            needs_csum: true,
            csum_start: 34,
            csum_offset: 6,
            gso: Gso::TcpV4,
            gso_size: 0,
            ..header
        },
    }
}

impl Right<'_> {
    /// Ethernet and VLAN tags; destinations that nobody is.
    fn link(&self, reason: DropReason, random: &mut Random) -> Option<Vec<u8>> {
        let udp4 = self.udp4.clone();
        Some(match reason {
            DropReason::VlanTagged => tagged(&udp4, &[1 + random.below(255) as u8]),
            DropReason::VlanTruncated => cut(tagged(&udp4, &[0]), 16 + random.below(2)),
            DropReason::VlanDepth => tagged(&udp4, &[0, 0, 0]),
            DropReason::EtherTypeRefused => with(udp4, 12, &[0x88, 0xcc]),
            DropReason::Runt => cut(udp4, 1 + random.below(14)),
            DropReason::Llc => with(udp4, 12, &[0, 60]),
            DropReason::UnknownUnicast => with(udp4, 0, &[2, 0xdd, 0, 0, 0, random.below(256) as u8]),
            // IGMP to all, as the general query is not sent.
            DropReason::Multicast if random.chance(500) => with(with(udp4, 0, &[0xff; 6]), 23, &[2]),
            DropReason::Multicast => with(self.udp6.clone(), 0, &[0x33, 0x33, 0, 0, 0, 0xfb]),
            DropReason::Hairpin => with(udp4, 0, &self.from.mac),
            _ => return None,
        })
    }

    /// Sources that are not the sender's, and services that no guest has.
    fn foreign(&self, reason: DropReason, random: &mut Random) -> Option<Vec<u8>> {
        let (from, to) = (self.from, self.to);
        let (udp4, udp6) = (self.udp4.clone(), self.udp6.clone());
        Some(match reason {
            DropReason::SpoofedMac => with(udp4, 6, &[2, 0xee, 0, 0, 0, random.below(256) as u8]),
            DropReason::SpoofedAddress if random.chance(500) => with(udp4, 26, &to.v4.octets()),
            DropReason::SpoofedAddress => with(udp6, 22, &to.v6.octets()),
            DropReason::BogusSource => match random.below(4) {
                0 => with(udp4, 26, &[127, 0, 0, 1]),
                1 => with(udp4, 26, &[224, 0, 0, 9]),
                2 => with(udp4, 26, &[255; 4]),
                _ => with(udp6, 22, &Ipv6Addr::LOCALHOST.octets()),
            },
            DropReason::RogueService if random.chance(500) => with(udp4, 34, &[0, 67, 0, 68]),
            DropReason::RogueService => {
                let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
                let advertises = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
                icmpv6([0x33, 0x33, 0, 0, 0, 1], from.mac, link_local(from.mac), all, 255, &advertises)
            }
            _ => return None,
        })
    }

    /// ARP and neighbour discovery.
    fn neighbours(&self, reason: DropReason, random: &mut Random) -> Option<Vec<u8>> {
        let (from, to) = (self.from, self.to);
        Some(match reason {
            DropReason::SpoofedNeighbour => arp(to.mac, from.mac, 2, (from.mac, to.v4), (to.mac, to.v4)),
            DropReason::BadNeighbour => {
                let asks = solicitation(from, to.v6);
                match random.below(3) {
                    0 => with(asks, 21, &[64]),
                    1 => with(asks, 56, &[0x5a, 0xa5]),
                    _ => with(asks, 79, &[0]),
                }
            }
            DropReason::UnknownNeighbour => {
                let [a, b, c, _] = from.v4.octets();
                arp([0xff; 6], from.mac, 1, (from.mac, from.v4), ([0; 6], [a, b, c, 251].into()))
            }
            DropReason::NeighbourConsumed => gratuitous(from.mac, from.v4),
            DropReason::ArpTruncated => cut(gratuitous(from.mac, from.v4), 15 + random.below(27)),
            DropReason::ArpFormat => with(gratuitous(from.mac, from.v4), 18, &[8]),
            _ => return None,
        })
    }

    /// IPv4 headers and fragments.
    fn ipv4(&self, reason: DropReason, random: &mut Random) -> Option<Vec<u8>> {
        let (udp4, tcp4) = (self.udp4.clone(), self.tcp4.clone());
        Some(match reason {
            DropReason::Ipv4Truncated => cut(udp4, 15 + random.below(19)),
            DropReason::Ipv4Version => with(udp4, 14, &[0x55]),
            DropReason::Ipv4HeaderLength => with(udp4, 14, &[0x44]),
            DropReason::Ipv4TotalLength => with(udp4, 16, &[0x20, 0]),
            DropReason::FragmentLength => with(cut(udp4, 14 + 20 + 21), 16, &[0, 41, 0, 7, 0x20, 0]),
            DropReason::FragmentOverrun => with(udp4, 20, &[0x1f, 0xff]),
            DropReason::FragmentTiny => with(cut(tcp4, 14 + 20 + 8), 16, &[0, 28, 0, 7, 0x20, 0]),
            DropReason::FragmentOverlap => with(tcp4, 20, &[0, 1]),
            _ => return None,
        })
    }

    /// IPv6 headers and their extensions.
    fn ipv6(&self, reason: DropReason, random: &mut Random) -> Option<Vec<u8>> {
        let udp6 = self.udp6.clone();
        let extended = |first: u8, extensions: &[u8]| extended(self.from, self.to, first, extensions);
        Some(match reason {
            DropReason::Ipv6Truncated => cut(udp6, 15 + random.below(39)),
            DropReason::Ipv6Version => with(udp6, 14, &[0x40]),
            DropReason::Ipv6PayloadLength => with(udp6, 18, &[0x20, 0]),
            DropReason::Ipv6Jumbogram => extended(0, &[17, 0, 0xc2, 4, 0, 1, 0, 0]),
            DropReason::Ipv6ExtensionOrder => {
                extended(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0])
            }
            DropReason::Ipv6ExtensionCount => {
                let mut extensions = [60, 0, 1, 4, 0, 0, 0, 0].repeat(9);
                extensions[64] = 17;
                // Nine of eight bytes lie within the head.
                cut(extended(60, &extensions), 14 + 40 + 72 + 16)
            }
            DropReason::Ipv6ExtensionLength => extended(60, &[17, 200, 1, 4, 0, 0, 0, 0]),
            DropReason::Ipv6Routing => extended(43, &[17, 0, 0, 3, 0, 0, 0, 0]),
            DropReason::HeaderTooLong => {
                // Two destination options of 48 bytes end the private head before the UDP header.
                let mut extensions = vec![60, 5, 1, 44];
                extensions.resize(48, 0);
                let mut last = extensions.clone();
                last[0] = 17;
                extended(60, &[extensions, last].concat())
            }
            _ => return None,
        })
    }

    /// TCP and UDP headers.
    fn transport(&self, reason: DropReason) -> Option<Vec<u8>> {
        Some(match reason {
            DropReason::L4Truncated => with(cut(self.udp4.clone(), 14 + 20 + 4), 16, &[0, 24]),
            DropReason::TcpHeaderLength => with(self.tcp4.clone(), 46, &[0x40]),
            DropReason::UdpLength => with(self.udp4.clone(), 38, &[0, 7]),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_odd_frame_the_parser_refuses_is_refused_for_its_reason() {
        let station = |last: u8| Station {
            mac: [2, 0, 0, 0, 0, last],
            v4: [10, 0, 0, last].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)].into(),
        };
        let mut random = Random::new(1);
        for reason in PROVOKED {
            for _ in 0..50 {
                let (_, frame) = odd_frame(*reason, &station(1), &station(2), &mut random).unwrap();
                let verdict = packet::parse(&frame[..frame.len().min(128)], frame.len() as u32);
                let parsed_as = verdict.err().map(DropReason::from);
                let by_parser =
                    packet::ParseError::ALL.iter().any(|error| DropReason::from(*error) == *reason);
                assert_eq!(parsed_as, by_parser.then_some(*reason), "{reason:?}");
            }
        }
    }
}
