//! What neighbours say, and how they are asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use packet::{HEAD_LENGTH, L3, MacAddr, arp, ethernet, ndp};

use super::Link;
use crate::{Refusal, frame, link_local};

/// Bytes of an ARP frame, padded to Ethernet's minimum.
const ARP_FRAME: usize = 60;
/// Option of a solicitation: the sender's MAC address, in units of eight bytes.
const SOURCE_LINK: [u8; 2] = [1, 1];

/// Somebody says where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) address: IpAddr,
    /// The MAC address of one station; `None` if it only says that it is there.
    pub(super) mac: Option<MacAddr>,
    /// It says to answer a question of ours.
    pub(super) solicited: bool,
    /// It replaces what is known.
    pub(super) overrides: bool,
}

impl Said {
    /// Reads ARP (any operation: its sender speaks of itself) and neighbour discovery; `None` for anything else, and for what nobody
    /// may say: our own addresses, or a MAC address that is a group's or ours.
    pub(super) fn parse(link: &Link, bytes: &[u8]) -> Result<Option<Said>, Refusal> {
        let headers = frame::headers(bytes)?;
        let head = bytes.get(..HEAD_LENGTH).unwrap_or(bytes);
        let said = match headers.l3 {
            L3::Arp => arp::View::new(head, &headers).map(|message| of_arp(link, &message)),
            L3::Ipv6 => {
                let to_us = ethernet::View::new(head).is_some_and(|frame| frame.destination() == link.mac);
                let message = ndp::parse(head, &headers).map_err(refusal)?;
                of_ndp(&message, to_us)
            }
            L3::Ipv4 | L3::Other => None,
        };
        Ok(said.filter(|said| {
            said.mac.is_none_or(|mac| mac.is_unicast() && mac != link.mac) && !link.is_own(said.address)
        }))
    }
}

/// What is counted for a message that a node must not act on.
fn refusal(error: ndp::NdError) -> Refusal {
    match error {
        ndp::NdError::Checksum => Refusal::Checksum,
        ndp::NdError::HopLimit => Refusal::HopLimit,
        ndp::NdError::OptionLength => Refusal::OptionLength,
        ndp::NdError::Addresses | ndp::NdError::Target => Refusal::Addresses,
        ndp::NdError::Fragmented => Refusal::Fragmented,
        ndp::NdError::Code | ndp::NdError::Truncated | ndp::NdError::TooLong => Refusal::Format,
    }
}

fn of_arp(link: &Link, message: &arp::View<'_>) -> Said {
    let reply = message.operation() == arp::Operation::Reply;
    // A probe is answered to nobody's address.
    let asked = message.target_ip().is_unspecified() || link.is_own(IpAddr::V4(message.target_ip()));
    Said {
        address: IpAddr::V4(message.sender_ip()),
        mac: Some(message.sender_mac()),
        solicited: reply && message.target_mac() == link.mac && asked,
        overrides: true,
    }
}

fn of_ndp(message: &ndp::Message, to_us: bool) -> Option<Said> {
    match *message {
        ndp::Message::Advertisement(said) => Some(Said {
            address: IpAddr::V6(said.target),
            mac: said.target_link,
            solicited: said.solicited && to_us,
            overrides: said.overrides,
        }),
        // RFC 4861 section 7.2.3: who asks says where it is.
        ndp::Message::Solicitation(asked) => Some(Said {
            address: IpAddr::V6(asked.source),
            mac: Some(asked.source_link?),
            solicited: false,
            overrides: true,
        }),
        ndp::Message::Other => None,
    }
}

/// A solicitation of `address`: to all that may have it, or to `mac`, where it was.
pub(super) fn solicit(link: &Link, address: IpAddr, mac: Option<MacAddr>) -> Vec<u8> {
    match address {
        IpAddr::V4(target) => arp_request(link.mac, source_v4(link, target), target, mac),
        IpAddr::V6(target) => solicitation(link.mac, source_v6(link, target), target, mac),
    }
}

/// The address with which `target` is asked: one of its own prefix, else nobody's, as in a probe (RFC 5227 section 2.1.1). With one of another prefix it might answer
/// nobody, or elsewhere.
fn source_v4(link: &Link, target: Ipv4Addr) -> Ipv4Addr {
    let mut own =
        link.addresses.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(net) } else { None });
    own.find(|net| net.contains(&target)).map_or(Ipv4Addr::UNSPECIFIED, ipnet::Ipv4Net::addr)
}

/// The same; the uplink's link-local address where it has no other in the target's prefix.
fn source_v6(link: &Link, target: Ipv6Addr) -> Ipv6Addr {
    let own = link.addresses.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(net) } else { None });
    let mut fitting = own.filter(|net| net.contains(&target)).map(ipnet::Ipv6Net::addr);
    fitting.next().unwrap_or_else(|| link_local(link.mac))
}

fn arp_request(mac: MacAddr, source: Ipv4Addr, target: Ipv4Addr, at: Option<MacAddr>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ARP_FRAME);
    frame.extend_from_slice(&at.unwrap_or(MacAddr::BROADCAST).0);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&ethernet::ARP.to_be_bytes());
    // Ethernet and IPv4, six and four bytes long; a request.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac.0);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame.resize(ARP_FRAME, 0);
    frame
}

fn solicitation(mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr, at: Option<MacAddr>) -> Vec<u8> {
    let mut message = vec![ndp::NEIGHBOR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&target.octets());
    message.extend_from_slice(&SOURCE_LINK);
    message.extend_from_slice(&mac.0);
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let (link, destination) = match at {
        Some(at) => (at, target),
        None => (MacAddr::of_ipv6_multicast(group), group),
    };
    frame::icmp6((link, mac), source, destination, &message)
}
