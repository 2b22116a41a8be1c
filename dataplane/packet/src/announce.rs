//! Announcements: a station says, unasked, that an address is at its MAC. Read from guests, written for them.

use std::net::{IpAddr, Ipv4Addr};

use crate::{Headers, L3, L4, MacAddr, arp, ethernet, ndp, vrrp};

/// Bytes of an announcing ARP or RARP frame, padded to Ethernet's minimum (without checksum).
pub const FRAME_LENGTH: usize = 60;
/// RARP operation "request reverse" (RFC 903), which QEMU and vhost-user's SEND_RARP announce with.
const REQUEST_REVERSE: u16 = 3;

/// What a station announces.
#[derive(Clone, Copy, Debug)]
pub enum Announcement<'a> {
    /// Gratuitous ARP, in request or reply form.
    Arp {
        /// The address.
        address: Ipv4Addr,
        /// Where it is.
        mac: MacAddr,
    },
    /// An unsolicited neighbour advertisement.
    Neighbor {
        /// The address.
        address: std::net::Ipv6Addr,
        /// Where it is: as its option says or, without one, the frame's source.
        mac: MacAddr,
    },
    /// The master of a virtual router.
    Vrrp {
        /// The addresses it is master for, and its priority (never 0).
        advertisement: vrrp::Advertisement<'a>,
        /// The frame's source.
        mac: MacAddr,
    },
}

impl<'a> Announcement<'a> {
    /// The MAC address the announced addresses are at.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        match *self {
            Announcement::Arp { mac, .. }
            | Announcement::Neighbor { mac, .. }
            | Announcement::Vrrp { mac, .. } => mac,
        }
    }

    /// The announced addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let (single, many) = match *self {
            Announcement::Arp { address, .. } => (Some(IpAddr::V4(address)), None),
            Announcement::Neighbor { address, .. } => (Some(IpAddr::V6(address)), None),
            Announcement::Vrrp { advertisement, .. } => (None, Some(advertisement)),
        };
        single.into_iter().chain(many.into_iter().flat_map(|advertisement| advertisement.addresses()))
    }
}

/// Does this packet announce addresses? Malformed announcements do not.
#[inline]
#[must_use]
pub fn detect<'a>(head: &'a [u8], headers: &Headers) -> Option<Announcement<'a>> {
    match (headers.l3, headers.l4) {
        (L3::Arp, _) => detect_arp(head, headers),
        (L3::Ipv6, L4::Icmpv6) => detect_neighbor(head, headers),
        (_, L4::Other) if headers.protocol == vrrp::PROTOCOL => detect_vrrp(head, headers),
        _ => None,
    }
}

fn detect_arp<'a>(head: &'a [u8], headers: &Headers) -> Option<Announcement<'a>> {
    let message = arp::View::new(head, headers)?;
    message
        .is_gratuitous()
        .then(|| Announcement::Arp { address: message.sender_ip(), mac: message.sender_mac() })
}

fn detect_neighbor<'a>(head: &'a [u8], headers: &Headers) -> Option<Announcement<'a>> {
    match ndp::parse(head, headers) {
        Ok(ndp::Message::Advertisement(advertisement)) if !advertisement.solicited => {
            let mac = advertisement.target_link.or_else(|| Some(ethernet::View::new(head)?.source()))?;
            Some(Announcement::Neighbor { address: advertisement.target, mac })
        }
        _ => None,
    }
}

fn detect_vrrp<'a>(head: &'a [u8], headers: &Headers) -> Option<Announcement<'a>> {
    let advertisement = vrrp::parse(head, headers)?;
    let mac = ethernet::View::new(head)?.source();
    (advertisement.priority != 0).then_some(Announcement::Vrrp { advertisement, mac })
}

/// Writes a broadcast gratuitous ARP request saying that `address` is at `mac`, and returns its length (60 bytes).
/// `None` for a shorter `head`.
pub fn gratuitous_arp(head: &mut [u8], mac: MacAddr, address: Ipv4Addr) -> Option<u32> {
    let message = arp::Message {
        operation: 1,
        sender_mac: mac,
        sender_ip: address,
        target_mac: MacAddr::ZERO,
        target_ip: address,
    };
    broadcast(head, ethernet::ARP, mac, message)
}

/// Writes the broadcast RARP request by which other switches learn where `mac` now is, and returns its length (60 bytes).
/// `None` for a shorter `head`.
pub fn rarp(head: &mut [u8], mac: MacAddr) -> Option<u32> {
    let message = arp::Message {
        operation: REQUEST_REVERSE,
        sender_mac: mac,
        sender_ip: Ipv4Addr::UNSPECIFIED,
        target_mac: mac,
        target_ip: Ipv4Addr::UNSPECIFIED,
    };
    broadcast(head, ethernet::RARP, mac, message)
}

fn broadcast(head: &mut [u8], ether_type: u16, source: MacAddr, message: arp::Message) -> Option<u32> {
    let frame = head.get_mut(..FRAME_LENGTH)?;
    frame.fill(0);
    ethernet::emit(frame, MacAddr::BROADCAST, source, ether_type)?;
    message.emit(frame, ethernet::HEADER_LENGTH)?;
    Some(FRAME_LENGTH as u32)
}
