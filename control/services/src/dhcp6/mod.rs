//! DHCPv6 (RFC 8415): the stateful server of one port.
//!
//! Leases are static, as in [`dhcp4`](crate::dhcp4): a binding exists because the port does, so nothing is remembered and an answer depends
//! on the plan of the port and on the packet alone. The client's DUID comes back in the answer and means nothing: RFC 8415 section 11 lets
//! a machine use one DUID, made of any of its MAC addresses, on all its interfaces. Whose answer it is, is decided by the port.
//!
//! An address belongs to the first identity association for addresses of a message; temporary addresses and prefixes are not given.

mod reply;
mod request;

use std::net::{IpAddr, Ipv6Addr};

use packet::MacAddr;

use crate::{Refusal, frame};
use reply::{Answer, Status};
use request::{Association, Message};

/// The server's UDP port.
pub const SERVER_PORT: u16 = 547;
/// The client's UDP port.
pub const CLIENT_PORT: u16 = 546;
/// All DHCP relay agents and servers, to which clients send.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The longest frame that [`answer`] returns, in bytes: IPv6's minimum MTU in Ethernet.
pub const MAX_ANSWER: usize = 14 + 1280;

/// What a port is told. The plan's side of every answer.
#[derive(Clone, Debug)]
pub struct Lease6 {
    /// The port's MAC address.
    pub mac: MacAddr,
    /// The port's addresses; the first 8 are given.
    pub addresses: Vec<Ipv6Addr>,
    /// The gateway's MAC address: the server's DUID and its link-local address follow from it.
    pub gateway_mac: MacAddr,
    /// Name servers, the preferred first; at most 8 are sent.
    pub dns: Vec<Ipv6Addr>,
    /// Domains that short names belong to; as many as fit in 255 bytes are sent.
    pub domains: Vec<String>,
    /// How long the guest may keep its addresses before it asks again, in seconds; at least 60 are given.
    pub lease: u32,
}

/// Message types (RFC 8415 section 7.3).
mod kind {
    pub(super) const SOLICIT: u8 = 1;
    pub(super) const ADVERTISE: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const CONFIRM: u8 = 4;
    pub(super) const RENEW: u8 = 5;
    pub(super) const REBIND: u8 = 6;
    pub(super) const REPLY: u8 = 7;
    pub(super) const RELEASE: u8 = 8;
    pub(super) const DECLINE: u8 = 9;
    pub(super) const RECONFIGURE: u8 = 10;
    pub(super) const INFORMATION_REQUEST: u8 = 11;
    pub(super) const RELAY_FORWARD: u8 = 12;
    pub(super) const RELAY_REPLY: u8 = 13;
}

/// Is this frame for this service, by its ports alone? What [`answer`] makes of it is another matter.
#[must_use]
pub fn is_request(headers: &packet::Headers) -> bool {
    headers.l3 == packet::L3::Ipv6 && headers.l4 == packet::L4::Udp && headers.destination_port == SERVER_PORT
}

/// The frame that answers this one; `None` if it needs no answer because it is for another server.
///
/// # Errors
///
/// The frame is not a message that this port may send.
pub fn answer(lease: &Lease6, question: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let datagram = frame::datagram(question)?;
    let (IpAddr::V6(source), IpAddr::V6(ALL_SERVERS)) = (datagram.source, datagram.destination) else {
        return Err(Refusal::NotForUs);
    };
    if datagram.destination_port != SERVER_PORT {
        return Err(Refusal::NotForUs);
    }
    if !source.is_unicast_link_local() {
        return Err(Refusal::Addresses);
    }
    if datagram.link_source != lease.mac {
        return Err(Refusal::ForeignHardware);
    }
    let message = Message::parse(datagram.payload)?;
    let server = reply::server_duid(lease.gateway_mac);
    let Some(answer) = decide(lease, &message, &server)? else { return Ok(None) };
    Ok(Some(reply::write(lease, &message, &answer, source)))
}

/// RFC 8415 sections 16 (which messages are valid) and 18.3 (what they are answered).
fn decide(lease: &Lease6, message: &Message<'_>, server: &[u8]) -> Result<Option<Answer>, Refusal> {
    let for_another = message.server_id.is_some_and(|id| id != server);
    let (needs_client, needs_server) = match message.kind {
        kind::SOLICIT | kind::CONFIRM | kind::REBIND => (true, Some(false)),
        kind::REQUEST | kind::RENEW | kind::RELEASE | kind::DECLINE => (true, Some(true)),
        kind::INFORMATION_REQUEST => (false, None),
        kind::ADVERTISE | kind::REPLY | kind::RECONFIGURE => return Err(Refusal::ServerMessage),
        kind::RELAY_FORWARD | kind::RELAY_REPLY => return Err(Refusal::Relayed),
        _ => return Err(Refusal::MessageType),
    };
    if (needs_client && message.client_id.is_none())
        || needs_server.is_some_and(|needed| needed != message.server_id.is_some())
    {
        return Err(Refusal::OptionMissing);
    }
    if for_another {
        return Ok(None);
    }
    let answer = match message.kind {
        kind::SOLICIT if message.rapid_commit => Answer::RapidReply,
        kind::SOLICIT => Answer::Advertise,
        kind::REQUEST | kind::RENEW | kind::REBIND => Answer::Reply,
        kind::CONFIRM => Answer::Status(confirm(lease, &message.associations)?),
        kind::RELEASE | kind::DECLINE => Answer::Status(Status::Success),
        _ if !message.associations.is_empty() => return Err(Refusal::OptionMissing),
        _ => Answer::Information,
    };
    Ok(Some(answer))
}

/// May a client that comes back keep what it has? Any address that is not the port's is told not to be on this link, which makes the
/// client solicit anew.
fn confirm(lease: &Lease6, associations: &[Association]) -> Result<Status, Refusal> {
    let mut addresses = associations.iter().flat_map(|association| &association.addresses).peekable();
    if addresses.peek().is_none() {
        return Err(Refusal::OptionMissing);
    }
    let all_ours = addresses.all(|address| lease.addresses.contains(address));
    Ok(if all_ours { Status::Success } else { Status::NotOnLink })
}
