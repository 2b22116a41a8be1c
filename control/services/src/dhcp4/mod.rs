//! DHCPv4 (RFC 2131, RFC 2132): the server of one port.
//!
//! Leases are static: a port has its address for as long as it exists, so nothing is remembered and an answer depends on the plan of the
//! port and on the packet alone. The server's identifier is the subnet's gateway, which answers on every host with the same MAC address;
//! a client that moves with its guest renews where it wakes up.

mod reply;
mod request;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use packet::MacAddr;

use crate::{Refusal, frame};
use reply::Kind;
use request::Request;

/// The server's UDP port.
pub const SERVER_PORT: u16 = 67;
/// The client's UDP port.
pub const CLIENT_PORT: u16 = 68;
/// The longest frame that [`answer`] returns, in bytes.
pub const MAX_ANSWER: usize = 14 + reply::MAX_DATAGRAM;

/// What a port is told. The plan's side of every answer.
#[derive(Clone, Debug)]
pub struct Lease4 {
    /// The port's MAC address.
    pub mac: MacAddr,
    /// The port's address.
    pub ip: Ipv4Addr,
    /// Length of the subnet's prefix, 0 to 32.
    pub prefix: u8,
    /// The subnet's gateway: default router and the server's identifier.
    pub gateway: Ipv4Addr,
    /// The gateway's MAC address, from which answers come.
    pub gateway_mac: MacAddr,
    /// Name servers, the preferred first.
    pub dns: Vec<Ipv4Addr>,
    /// The domain that short names belong to.
    pub domain: Option<String>,
    /// The guest's name.
    pub hostname: Option<String>,
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// How long the guest may keep its address before it asks again, in seconds; at least 60 are given.
    pub lease: u32,
    /// Classless static routes (RFC 3442) beside the default route and those that it needs: destination and router, 0.0.0.0 for on-link.
    /// The metadata service's 169.254.169.254/32 via the gateway is one of them where the subnet has it.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// DHCP message types (RFC 2132 section 9.6).
mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const DECLINE: u8 = 4;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const RELEASE: u8 = 7;
    pub(super) const INFORM: u8 = 8;
}

/// Is this frame for this service, by its ports alone? What [`answer`] makes of it is another matter.
#[must_use]
pub fn is_request(headers: &packet::Headers) -> bool {
    headers.l3 == packet::L3::Ipv4 && headers.l4 == packet::L4::Udp && headers.destination_port == SERVER_PORT
}

/// The frame that answers this one; `None` if it needs no answer: a release, or a request to another server.
///
/// # Errors
///
/// The frame is not a request that this port may send.
pub fn answer(lease: &Lease4, question: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let datagram = frame::datagram(question)?;
    let (std::net::IpAddr::V4(source), std::net::IpAddr::V4(destination)) =
        (datagram.source, datagram.destination)
    else {
        return Err(Refusal::NotForUs);
    };
    if datagram.destination_port != SERVER_PORT || !is_ours(lease, destination) {
        return Err(Refusal::NotForUs);
    }
    if datagram.source_port == SERVER_PORT {
        return Err(Refusal::Relayed);
    }
    let request = Request::parse(datagram.payload)?;
    if request.hardware != lease.mac || datagram.link_source != lease.mac {
        return Err(Refusal::ForeignHardware);
    }
    // Type 1 is Ethernet's: it says a MAC address. Others are names that clients make up (RFC 4361) and mean nothing here.
    if let Some([1, mac @ ..]) = request.client_id
        && mac.len() == 6
        && mac != lease.mac.0
    {
        return Err(Refusal::ForeignClient);
    }
    Ok(decide(lease, &request, source)?.map(|kind| reply::write(lease, &request, kind)))
}

/// Addresses at which this service listens.
fn is_ours(lease: &Lease4, destination: Ipv4Addr) -> bool {
    let directed = Ipv4Net::new(lease.ip, lease.prefix).map(|net| net.broadcast());
    destination.is_broadcast() || destination == lease.gateway || directed == Ok(destination)
}

/// RFC 2131 sections 4.3.1 to 4.3.5, for a server whose every lease is fixed.
fn decide(lease: &Lease4, request: &Request<'_>, source: Ipv4Addr) -> Result<Option<Kind>, Refusal> {
    let for_another = request.server.is_some_and(|server| server != lease.gateway);
    match request.kind {
        kind::DISCOVER if request.rapid_commit => Ok(Some(Kind::RapidAck)),
        kind::DISCOVER => Ok(Some(Kind::Offer)),
        kind::REQUEST if for_another => Ok(None),
        kind::REQUEST => {
            // Selecting and rebooting clients name the address in an option, renewing and rebinding ones in the header.
            let wanted = match (request.requested, request.client) {
                (Some(requested), Ipv4Addr::UNSPECIFIED) => requested,
                (None, client) if !client.is_unspecified() => client,
                (Some(requested), client) if requested == client => client,
                (None, _) => return Err(Refusal::OptionMissing),
                (Some(_), _) => return Err(Refusal::ForeignAddress),
            };
            Ok(Some(if wanted == lease.ip { Kind::Ack } else { Kind::Nak }))
        }
        kind::DECLINE if for_another => Ok(None),
        kind::DECLINE => Err(Refusal::Declined),
        kind::RELEASE => Ok(None),
        kind::INFORM => {
            let client = if request.client.is_unspecified() { source } else { request.client };
            if client == lease.ip { Ok(Some(Kind::Inform)) } else { Err(Refusal::ForeignAddress) }
        }
        kind::OFFER | kind::ACK | kind::NAK => Err(Refusal::ServerMessage),
        _ => Err(Refusal::MessageType),
    }
}
