//! IPv6 neighbour discovery (RFC 4861): neighbour solicitations and advertisements.

use std::net::Ipv6Addr;

use crate::bytes::{array, put, put16};
use crate::checksum::{Sum, pseudo_header_v6};
use crate::{Fragment, Headers, L4, MacAddr, ethernet, icmp, ipv6};

/// ICMPv6 type of a router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// ICMPv6 type of a router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// ICMPv6 type of a neighbour solicitation.
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 type of a redirect.
pub const REDIRECT: u8 = 137;

/// Bytes of a message without its options.
const FIXED_LENGTH: usize = 24;
/// Bytes of a link-layer address option for Ethernet.
const LINK_OPTION_LENGTH: usize = 8;
/// Option type: the sender's link-layer address.
const SOURCE_LINK: u8 = 1;
/// Option type: the target's link-layer address.
const TARGET_LINK: u8 = 2;
/// Flag of an advertisement: its sender is a router.
const ROUTER: u8 = 0x80;
/// Flag of an advertisement: it answers a solicitation.
const SOLICITED: u8 = 0x40;
/// Flag of an advertisement: it replaces what is cached.
const OVERRIDE: u8 = 0x20;
/// Every node on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why a message was refused (RFC 4861 sections 7.1.1 and 7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NdError {
    /// The hop limit is not 255: a router forwarded it.
    #[error("hop limit is not 255, so it did not come from this link")]
    HopLimit,
    /// The code is not 0.
    #[error("ICMPv6 code is not 0")]
    Code,
    /// Fewer than 24 bytes.
    #[error("message is shorter than 24 bytes")]
    Truncated,
    /// The message reaches beyond the private head.
    #[error("message reaches beyond the 128 bytes that are looked at")]
    TooLong,
    /// It comes in fragments (RFC 6980).
    #[error("neighbour discovery in fragments")]
    Fragmented,
    /// The checksum is wrong.
    #[error("ICMPv6 checksum is wrong")]
    Checksum,
    /// The target is a multicast address.
    #[error("target is a multicast address")]
    Target,
    /// An option of length 0, or one that ends past the message.
    #[error("option of length 0 or past the end of the message")]
    OptionLength,
    /// A solicitation from the unspecified address with a link-layer address, or not to a solicited-node group; an
    /// advertisement to a group that says it was solicited.
    #[error("source, destination and flags do not fit together")]
    Addresses,
}

/// Who holds the target?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The asker's address; unspecified while it checks whether the target is free (RFC 4862).
    pub source: Ipv6Addr,
    /// The address asked for.
    pub target: Ipv6Addr,
    /// The asker's MAC address, as the option says.
    pub source_link: Option<MacAddr>,
}

/// The target is held by the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The address spoken of.
    pub target: Ipv6Addr,
    /// The target's MAC address, as the option says.
    pub target_link: Option<MacAddr>,
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation.
    pub solicited: bool,
    /// It replaces what is cached.
    pub overrides: bool,
}

/// What [`parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A neighbour solicitation.
    Solicitation(Solicitation),
    /// A neighbour advertisement.
    Advertisement(Advertisement),
    /// Not ICMPv6, or none of these two.
    Other,
}

/// Who an advertisement speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A station.
    Host,
    /// A gateway; without this flag hosts drop it from their default routers.
    Router,
}

/// Reads a neighbour solicitation or advertisement, checksum verified.
///
/// # Errors
///
/// It is one of the two, but a node must not act on it.
#[inline]
pub fn parse(head: &[u8], headers: &Headers) -> Result<Message, NdError> {
    match icmp::type_and_code(head, headers) {
        Some((kind @ (NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT), code)) if headers.l4 == L4::Icmpv6 => {
            parse_neighbor(head, headers, kind, code)
        }
        _ => Ok(Message::Other),
    }
}

#[inline(never)]
fn parse_neighbor(head: &[u8], headers: &Headers, kind: u8, code: u8) -> Result<Message, NdError> {
    if headers.fragment != Fragment::Whole {
        return Err(NdError::Fragmented);
    }
    let ip = headers.ipv6(head).ok_or(NdError::TooLong)?;
    if ip.hop_limit() != 255 {
        return Err(NdError::HopLimit);
    }
    if code != 0 {
        return Err(NdError::Code);
    }
    let message = message(head, headers).ok_or(NdError::TooLong)?;
    let (fixed, options) = message.split_first_chunk::<FIXED_LENGTH>().ok_or(NdError::Truncated)?;
    let pseudo = pseudo_header_v6(ip.source(), ip.destination(), icmp::PROTOCOL_V6, message.len() as u32);
    if !pseudo.plus(Sum::of(message)).is_right() {
        return Err(NdError::Checksum);
    }
    let target = Ipv6Addr::from(*array(fixed, 8).ok_or(NdError::Truncated)?);
    if target.is_multicast() {
        return Err(NdError::Target);
    }
    if kind == NEIGHBOR_SOLICITATION {
        let solicitation =
            Solicitation { source: ip.source(), target, source_link: link_option(options, SOURCE_LINK)? };
        let asks_group = is_solicited_node(ip.destination());
        if ip.source().is_unspecified() && (solicitation.source_link.is_some() || !asks_group) {
            return Err(NdError::Addresses);
        }
        return Ok(Message::Solicitation(solicitation));
    }
    let advertisement = Advertisement {
        target,
        target_link: link_option(options, TARGET_LINK)?,
        router: fixed[4] & ROUTER != 0,
        solicited: fixed[4] & SOLICITED != 0,
        overrides: fixed[4] & OVERRIDE != 0,
    };
    if advertisement.solicited && ip.destination().is_multicast() {
        return Err(NdError::Addresses);
    }
    Ok(Message::Advertisement(advertisement))
}

/// The ICMPv6 message, if the head has all of it.
fn message<'a>(head: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    head.get(usize::from(headers.l4_offset)..headers.l3_end() as usize)
}

/// Is this a group that solicitations are sent to, `ff02::1:ff00:0/104`?
fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.octets().starts_with(&[0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff])
}

/// Walks all options; the last link-layer address of this kind, if there is one.
fn link_option(mut options: &[u8], kind: u8) -> Result<Option<MacAddr>, NdError> {
    let mut found = None;
    while let [option_kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        let option = options.get(..length).ok_or(NdError::OptionLength)?;
        if option.is_empty() {
            return Err(NdError::OptionLength);
        }
        if option_kind == kind && length == LINK_OPTION_LENGTH {
            found = array(option, 2).copied().map(MacAddr);
        }
        options = options.get(length..).ok_or(NdError::OptionLength)?;
    }
    // One byte is left over: an option cut off inside its own head.
    if options.is_empty() { Ok(found) } else { Err(NdError::OptionLength) }
}

/// Bytes of an untagged frame with an advertisement.
pub const ADVERTISEMENT_FRAME_LENGTH: usize =
    ethernet::HEADER_LENGTH + ipv6::HEADER_LENGTH + FIXED_LENGTH + LINK_OPTION_LENGTH;

/// Turns the solicitation in `head` into the advertisement saying that its target is at `mac`, VLAN tags kept, and
/// returns the length of the frame (86 bytes without tags).
///
/// The answer goes to the asker; to all nodes if it asked from the unspecified address (RFC 4861 section 7.2.4).
/// `None`, with nothing useful in `head`, if that is shorter than the answer: 128 bytes are enough.
pub fn advertise_in_place(
    head: &mut [u8],
    headers: &Headers,
    solicitation: &Solicitation,
    mac: MacAddr,
    role: Role,
) -> Option<u32> {
    let asker = ethernet::View::new(head)?.source();
    let role_flag = match role {
        Role::Host => 0,
        Role::Router => ROUTER,
    };
    let (destination, destination_mac, flags) = if solicitation.source.is_unspecified() {
        (ALL_NODES, MacAddr::of_ipv6_multicast(ALL_NODES), OVERRIDE | role_flag)
    } else {
        (solicitation.source, asker, SOLICITED | OVERRIDE | role_flag)
    };
    ethernet::set_addresses(head, destination_mac, mac)?;
    emit(head, usize::from(headers.l3_offset), destination, solicitation.target, mac, flags)
}

/// Writes a frame announcing to all nodes that `address` is at `mac`, and returns its length (86 bytes).
/// `None` for a shorter `head`.
pub fn announce(head: &mut [u8], mac: MacAddr, address: Ipv6Addr, role: Role) -> Option<u32> {
    let flags = match role {
        Role::Host => OVERRIDE,
        Role::Router => OVERRIDE | ROUTER,
    };
    ethernet::emit(head, MacAddr::of_ipv6_multicast(ALL_NODES), mac, ethernet::IPV6)?;
    emit(head, ethernet::HEADER_LENGTH, ALL_NODES, address, mac, flags)
}

/// Writes the IPv6 header and the advertisement at `at`; returns where it ends.
fn emit(
    head: &mut [u8],
    at: usize,
    destination: Ipv6Addr,
    target: Ipv6Addr,
    mac: MacAddr,
    flags: u8,
) -> Option<u32> {
    const MESSAGE_LENGTH: usize = FIXED_LENGTH + LINK_OPTION_LENGTH;
    let icmp_at = at + ipv6::HEADER_LENGTH;
    let end = icmp_at + MESSAGE_LENGTH;
    head.get(..end)?;
    put(head, at, [0x60, 0, 0, 0, 0, MESSAGE_LENGTH as u8, icmp::PROTOCOL_V6, 255])?;
    put(head, at + 8, target.octets())?;
    put(head, at + 24, destination.octets())?;
    put(head, icmp_at, [NEIGHBOR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0])?;
    put(head, icmp_at + 8, target.octets())?;
    put(head, icmp_at + FIXED_LENGTH, [TARGET_LINK, 1])?;
    put(head, icmp_at + FIXED_LENGTH + 2, mac.0)?;
    let sum = pseudo_header_v6(target, destination, icmp::PROTOCOL_V6, MESSAGE_LENGTH as u32)
        .plus(Sum::of(head.get(icmp_at..end)?));
    put16(head, icmp_at + icmp::CHECKSUM_OFFSET, sum.finish())?;
    Some(end as u32)
}
