//! Writing the server's message.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;
use packet::MacAddr;

use super::request::{COOKIE, Request};
use super::{CLIENT_PORT, Lease4, SERVER_PORT, kind};
use crate::frame;

/// Option codes (RFC 2132 where nothing else is said).
pub(super) mod code {
    pub(in super::super) const PAD: u8 = 0;
    pub(in super::super) const MASK: u8 = 1;
    pub(in super::super) const ROUTER: u8 = 3;
    pub(in super::super) const DNS: u8 = 6;
    pub(in super::super) const HOST_NAME: u8 = 12;
    pub(in super::super) const DOMAIN: u8 = 15;
    pub(in super::super) const MTU: u8 = 26;
    pub(in super::super) const BROADCAST: u8 = 28;
    pub(in super::super) const REQUESTED_ADDRESS: u8 = 50;
    pub(in super::super) const LEASE: u8 = 51;
    pub(in super::super) const OVERLOAD: u8 = 52;
    pub(in super::super) const MESSAGE_TYPE: u8 = 53;
    pub(in super::super) const SERVER: u8 = 54;
    pub(in super::super) const PARAMETERS: u8 = 55;
    pub(in super::super) const MESSAGE: u8 = 56;
    pub(in super::super) const MAX_MESSAGE: u8 = 57;
    pub(in super::super) const RENEWAL: u8 = 58;
    pub(in super::super) const REBINDING: u8 = 59;
    pub(in super::super) const CLIENT_ID: u8 = 61;
    /// RFC 4039.
    pub(in super::super) const RAPID_COMMIT: u8 = 80;
    /// RFC 3397.
    pub(in super::super) const SEARCH: u8 = 119;
    /// RFC 3442.
    pub(in super::super) const ROUTES: u8 = 121;
    /// The same, as Windows asked for it before there was an RFC.
    pub(in super::super) const MICROSOFT_ROUTES: u8 = 249;
    pub(in super::super) const END: u8 = 255;

    /// Those that are read, each at most once.
    pub(in super::super) const READ: &[u8] = &[
        REQUESTED_ADDRESS,
        OVERLOAD,
        MESSAGE_TYPE,
        SERVER,
        PARAMETERS,
        MAX_MESSAGE,
        CLIENT_ID,
        RAPID_COMMIT,
    ];
}

/// Bytes of IPv4 and UDP headers, which a client's limit counts.
const HEADERS: usize = 28;
/// What every client takes (RFC 2131 section 2), in bytes of the datagram.
const MIN_DATAGRAM: usize = 576;
/// The most that is sent to a client that takes more.
pub(super) const MAX_DATAGRAM: usize = 1280;
/// BOOTP's length, below which some clients drop a message (RFC 1542 section 2.1).
const BOOTP_LENGTH: usize = 300;
/// The longest value of an option.
const MAX_VALUE: usize = 255;
/// The shortest lease that is given, in seconds: renewals of a whole host stay a trickle.
const MIN_LEASE: u32 = 60;

/// Which answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Ack,
    /// An acknowledgement of a DISCOVER (RFC 4039).
    RapidAck,
    /// An acknowledgement of an INFORM: no address, no lease.
    Inform,
    Nak,
}

/// The whole frame.
pub(super) fn write(lease: &Lease4, request: &Request<'_>, answer: Kind) -> Vec<u8> {
    let (link, destination) = destination(lease, request, answer);
    let message = message(lease, request, answer);
    let source = SocketAddrV4::new(lease.gateway, SERVER_PORT);
    frame::udp4((link, lease.gateway_mac), source, SocketAddrV4::new(destination, CLIENT_PORT), &message)
}

/// RFC 2131 section 4.1: where an answer without relay goes.
fn destination(lease: &Lease4, request: &Request<'_>, answer: Kind) -> (MacAddr, Ipv4Addr) {
    let everybody = (MacAddr::BROADCAST, Ipv4Addr::BROADCAST);
    match answer {
        Kind::Nak => everybody,
        Kind::Inform => (lease.mac, lease.ip),
        // A renewing client has its address and hears it.
        _ if request.client == lease.ip => (lease.mac, lease.ip),
        _ if request.broadcast => everybody,
        _ => (lease.mac, lease.ip),
    }
}

fn message(lease: &Lease4, request: &Request<'_>, answer: Kind) -> Vec<u8> {
    let mut message = Vec::with_capacity(MIN_DATAGRAM);
    message.extend_from_slice(&[2, 1, 6, 0]);
    message.extend_from_slice(&request.transaction);
    message.extend_from_slice(&[0, 0, if request.broadcast { 0x80 } else { 0 }, 0]);
    let renewing = request.client == lease.ip && answer != Kind::Nak;
    let client = if renewing { lease.ip } else { Ipv4Addr::UNSPECIFIED };
    let yours = match answer {
        Kind::Nak | Kind::Inform => Ipv4Addr::UNSPECIFIED,
        _ => lease.ip,
    };
    message.extend_from_slice(&client.octets());
    message.extend_from_slice(&yours.octets());
    // No next server, no relay; the hardware address is padded to 16 bytes; no server name and no file.
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&lease.mac.0);
    message.extend_from_slice(&[0; 10 + 64 + 128]);
    message.extend_from_slice(&COOKIE);
    options(&mut message, lease, request, answer);
    message.push(code::END);
    if message.len() < BOOTP_LENGTH {
        message.resize(BOOTP_LENGTH, 0);
    }
    message
}

/// Options in order of importance, as far as the client has room.
fn options(message: &mut Vec<u8>, lease: &Lease4, request: &Request<'_>, answer: Kind) {
    let limit = request
        .max_message
        .map_or(MIN_DATAGRAM, |bytes| usize::from(bytes).clamp(MIN_DATAGRAM, MAX_DATAGRAM));
    let mut options = Options { message, end: limit - HEADERS - 1 };
    let kind = match answer {
        Kind::Offer => kind::OFFER,
        Kind::Nak => kind::NAK,
        Kind::Ack | Kind::RapidAck | Kind::Inform => kind::ACK,
    };
    options.put(code::MESSAGE_TYPE, &[kind]);
    options.put(code::SERVER, &lease.gateway.octets());
    if answer == Kind::RapidAck {
        options.put(code::RAPID_COMMIT, &[]);
    }
    if let Some(id) = request.client_id {
        // RFC 6842: the client's own identifier comes back.
        options.put(code::CLIENT_ID, id);
    }
    if answer == Kind::Nak {
        options.put(code::MESSAGE, b"this port has another address");
        return;
    }
    if answer != Kind::Inform {
        let seconds = lease.lease.max(MIN_LEASE);
        options.put(code::LEASE, &seconds.to_be_bytes());
        options.put(code::RENEWAL, &(seconds / 2).to_be_bytes());
        options.put(code::REBINDING, &rebinding(seconds).to_be_bytes());
    }
    network(&mut options, lease, request);
}

/// When to ask anybody, if the server did not answer: 7/8 of the lease (RFC 2131 section 4.4.5).
fn rebinding(seconds: u32) -> u32 {
    seconds - seconds / 8
}

/// What the guest needs to know of its network. Sent whether asked for or not (`udhcpc` uses an MTU that it did not ask for), but for
/// routes and the name: a client that asks for routes forgets about the router (RFC 3442), and one that does not ask must not.
fn network(options: &mut Options<'_>, lease: &Lease4, request: &Request<'_>) {
    let asked = |code: u8| request.parameters.is_none_or(|list| list.contains(&code));
    if let Ok(net) = Ipv4Net::new(lease.ip, lease.prefix) {
        options.put(code::MASK, &net.netmask().octets());
        options.put(code::ROUTER, &lease.gateway.octets());
        options.put(code::MTU, &lease.mtu.to_be_bytes());
        let routes = routes(lease, net);
        for code in [code::ROUTES, code::MICROSOFT_ROUTES] {
            if asked(code) && (code == code::ROUTES || request.parameters.is_some()) {
                options.put_list(code, &routes);
            }
        }
        if lease.prefix < 31 {
            options.put(code::BROADCAST, &net.broadcast().octets());
        }
    }
    let servers: Vec<u8> = lease.dns.iter().take(MAX_VALUE / 4).flat_map(Ipv4Addr::octets).collect();
    if !servers.is_empty() {
        options.put(code::DNS, &servers);
    }
    if let Some(domain) = &lease.domain {
        options.put(code::DOMAIN, domain.as_bytes());
        let mut search = Vec::new();
        crate::domain::put(&mut search, domain);
        if asked(code::SEARCH) && !search.is_empty() {
            options.put(code::SEARCH, &search);
        }
    }
    if let Some(name) = lease.hostname.as_ref().filter(|_| asked(code::HOST_NAME)) {
        options.put(code::HOST_NAME, name.as_bytes());
    }
}

/// RFC 3442: all routes, the default route too, because a client that reads them ignores the router. A gateway outside the prefix is
/// made reachable first.
fn routes(lease: &Lease4, net: Ipv4Net) -> Vec<Vec<u8>> {
    let route = |destination: Ipv4Net, router: Ipv4Addr| {
        let length = usize::from(destination.prefix_len().div_ceil(8));
        let mut route = vec![destination.prefix_len()];
        route.extend(destination.network().octets().iter().take(length));
        route.extend_from_slice(&router.octets());
        route
    };
    let mut routes = Vec::new();
    if !net.contains(&lease.gateway) {
        routes.push(route(Ipv4Net::from(lease.gateway), Ipv4Addr::UNSPECIFIED));
    }
    routes.extend(lease.routes.iter().map(|(destination, router)| route(*destination, *router)));
    routes.push(route(Ipv4Net::default(), lease.gateway));
    routes
}

/// The options of a message that may grow to `end` bytes.
struct Options<'a> {
    message: &'a mut Vec<u8>,
    end: usize,
}

impl Options<'_> {
    /// Writes an option, unless it is too long or does not fit any more.
    fn put(&mut self, code: u8, value: &[u8]) {
        if value.len() <= MAX_VALUE {
            self.put_list(code, &[value]);
        }
    }

    /// Writes an option whose value is a list of items, unless it does not fit any more. A value longer than 255 bytes comes in parts,
    /// which the client joins (RFC 3396); they are cut between items, for readers that do not.
    fn put_list(&mut self, code: u8, items: &[impl AsRef<[u8]>]) {
        let mut parts = vec![Vec::new()];
        for item in items.iter().map(AsRef::as_ref) {
            match parts.last_mut() {
                Some(part) if part.len() + item.len() <= MAX_VALUE => part.extend_from_slice(item),
                _ => parts.push(item.to_vec()),
            }
        }
        let length: usize = parts.iter().map(|part| part.len() + 2).sum();
        if self.message.len() + length > self.end {
            return;
        }
        for part in parts {
            self.message.extend_from_slice(&[code, part.len() as u8]);
            self.message.extend_from_slice(&part);
        }
    }
}
