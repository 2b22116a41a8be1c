//! What [`parse`](crate::parse()) found: where the headers lie and what they are.

use std::net::IpAddr;

use crate::{ethernet, ipv4, ipv6};

/// The network layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum L3 {
    /// None of the below: opaque, known by [`Headers::ether_type`] only.
    #[default]
    Other,
    /// ARP for Ethernet and IPv4 (RFC 826).
    Arp,
    /// IPv4 (RFC 791).
    Ipv4,
    /// IPv6 (RFC 8200).
    Ipv6,
}

/// The transport layer. Its header is whole and inside both the datagram and the head, or this is `None` or `Other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum L4 {
    /// There is none here: not IP, a later fragment, or "no next header".
    #[default]
    None,
    /// A protocol without a parser; see [`Headers::protocol`]. Its ports, if it has any, are not looked at.
    Other,
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// SCTP (RFC 9260).
    Sctp,
    /// ICMP in IPv4 (RFC 792).
    Icmp,
    /// ICMPv6 in IPv6 (RFC 4443).
    Icmpv6,
}

/// Which part of a datagram this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Fragment {
    /// All of it. An IPv6 "atomic fragment" (RFC 6946) counts as whole.
    #[default]
    Whole,
    /// Its beginning, with the whole transport header; more follows.
    First,
    /// A later part: no transport header, no ports.
    Later,
}

/// Where the headers of one packet lie and what they say. Offsets are in bytes from the start of the frame; each is at
/// most [`HEAD_LENGTH`](crate::HEAD_LENGTH).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Headers {
    /// Length that the network layer declares, from `l3_offset`: IPv4's total length, 40 + IPv6's payload length, 28 for
    /// ARP, the rest of the frame for anything else. What the frame has beyond it is padding.
    pub l3_length: u32,
    /// The type of what is at `l3_offset`, after any VLAN tags.
    pub ether_type: u16,
    /// VLAN ID of the outermost tag that has one other than 0; 0 without such a tag.
    pub vlan_id: u16,
    /// Source port of TCP, UDP and SCTP; otherwise, and in later fragments, 0.
    pub source_port: u16,
    /// Destination port, likewise.
    pub destination_port: u16,
    /// Start of the network header: 14, or more with VLAN tags.
    pub l3_offset: u8,
    /// Start of the transport header (of the data in a later fragment). `l3_offset` unless this is IP.
    pub l4_offset: u8,
    /// Start of what the transport layer carries; `l4_offset` where `l4` is `None` or `Other`.
    pub payload_offset: u8,
    /// The network layer.
    pub l3: L3,
    /// The transport layer.
    pub l4: L4,
    /// IPv4's protocol or the next-header value that ended IPv6's chain; 0 unless this is IP.
    pub protocol: u8,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// VLAN tags with an ID other than 0. A priority tag (ID 0) is skipped and not counted.
    pub vlan_count: u8,
    /// IPv4 options or IPv6 extension headers are present.
    pub has_options: bool,
}

impl Headers {
    /// End of what the network layer declares, in bytes from the start of the frame; padding begins here.
    #[inline]
    #[must_use]
    pub const fn l3_end(&self) -> u32 {
        self.l3_length + self.l3_offset as u32
    }

    /// Bytes that the transport layer carries, as the network layer's length has it.
    #[inline]
    #[must_use]
    pub const fn payload_length(&self) -> u32 {
        self.l3_end().saturating_sub(self.payload_offset as u32)
    }

    /// IPv4 or IPv6.
    #[inline]
    #[must_use]
    pub const fn is_ip(&self) -> bool {
        matches!(self.l3, L3::Ipv4 | L3::Ipv6)
    }

    /// TCP, UDP or SCTP with its header here, so that the ports are real.
    #[inline]
    #[must_use]
    pub const fn has_ports(&self) -> bool {
        matches!(self.l4, L4::Tcp | L4::Udp | L4::Sctp)
    }

    /// VLAN tags on the wire, priority tags included.
    #[inline]
    #[must_use]
    pub const fn tag_count(&self) -> u8 {
        self.l3_offset.saturating_sub(ethernet::HEADER_LENGTH as u8) / 4
    }

    /// The IPv4 header, if there is one.
    #[inline]
    #[must_use]
    pub fn ipv4<'a>(&self, head: &'a [u8]) -> Option<ipv4::View<'a>> {
        match self.l3 {
            L3::Ipv4 => ipv4::View::new(head, usize::from(self.l3_offset)),
            _ => None,
        }
    }

    /// The IPv6 header, if there is one.
    #[inline]
    #[must_use]
    pub fn ipv6<'a>(&self, head: &'a [u8]) -> Option<ipv6::View<'a>> {
        match self.l3 {
            L3::Ipv6 => ipv6::View::new(head, usize::from(self.l3_offset)),
            _ => None,
        }
    }

    /// The source address of IPv4 or IPv6.
    #[inline]
    #[must_use]
    pub fn source_ip(&self, head: &[u8]) -> Option<IpAddr> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(head).map(|ip| IpAddr::V4(ip.source())),
            L3::Ipv6 => self.ipv6(head).map(|ip| IpAddr::V6(ip.source())),
            L3::Arp | L3::Other => None,
        }
    }

    /// The destination address of IPv4 or IPv6.
    #[inline]
    #[must_use]
    pub fn destination_ip(&self, head: &[u8]) -> Option<IpAddr> {
        match self.l3 {
            L3::Ipv4 => self.ipv4(head).map(|ip| IpAddr::V4(ip.destination())),
            L3::Ipv6 => self.ipv6(head).map(|ip| IpAddr::V6(ip.destination())),
            L3::Arp | L3::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Headers;

    #[test]
    fn stays_small() {
        assert!(size_of::<Headers>() <= 24);
    }
}
