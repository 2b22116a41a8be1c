//! Writing the server's message.

use std::net::{Ipv6Addr, SocketAddrV6};

use packet::MacAddr;

use super::request::{Association, MAX_ADDRESSES, Message, code};
use super::{CLIENT_PORT, Lease6, SERVER_PORT, kind};
use crate::{domain, frame, link_local};

/// Name servers and bytes of domains that are sent at most.
const MAX_SERVERS: usize = 8;
const MAX_SEARCH: usize = 255;
/// The shortest lease that is given, in seconds: renewals of a whole host stay a trickle.
const MIN_LEASE: u32 = 60;

/// Status codes (RFC 8415 section 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Success = 0,
    NoAddresses = 2,
    NotOnLink = 4,
    NoPrefixes = 6,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Status::Success => "done",
            Status::NoAddresses => "no more addresses",
            Status::NotOnLink => "not on this link",
            Status::NoPrefixes => "no prefixes",
        }
    }
}

/// Which answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Advertise,
    Reply,
    /// A reply to a SOLICIT.
    RapidReply,
    /// A reply without addresses.
    Information,
    /// A reply that says how it went, and nothing else.
    Status(Status),
}

/// The server's DUID: of the gateway's MAC address (DUID-LL, RFC 8415 section 11.4).
pub(super) fn server_duid(mac: MacAddr) -> [u8; 10] {
    let [a, b, c, d, e, f] = mac.0;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// The whole frame.
pub(super) fn write(lease: &Lease6, message: &Message<'_>, answer: &Answer, client: Ipv6Addr) -> Vec<u8> {
    let mut out = vec![if *answer == Answer::Advertise { kind::ADVERTISE } else { kind::REPLY }];
    out.extend_from_slice(&message.transaction);
    if let Some(id) = message.client_id {
        put(&mut out, code::CLIENT_ID, id);
    }
    put(&mut out, code::SERVER_ID, &server_duid(lease.gateway_mac));
    match answer {
        Answer::Status(status) => put_status(&mut out, *status),
        Answer::Information => {
            names(&mut out, lease);
            if message.asks(code::REFRESH) {
                put(&mut out, code::REFRESH, &seconds(lease).to_be_bytes());
            }
        }
        Answer::Advertise | Answer::Reply | Answer::RapidReply => {
            if *answer == Answer::RapidReply {
                put(&mut out, code::RAPID_COMMIT, &[]);
            }
            let renews = matches!(message.kind, kind::RENEW | kind::REBIND);
            let mut given = false;
            for association in &message.associations {
                let gives = association.kind == code::IA_NA && !given && !lease.addresses.is_empty();
                given |= gives;
                put(&mut out, association.kind, &identity(lease, association, gives, renews));
            }
            names(&mut out, lease);
        }
    }
    let link = (lease.mac, lease.gateway_mac);
    let server = SocketAddrV6::new(link_local(lease.gateway_mac), SERVER_PORT, 0, 0);
    frame::udp6(link, server, SocketAddrV6::new(client, CLIENT_PORT, 0, 0), &out)
}

/// The lease's time.
fn seconds(lease: &Lease6) -> u32 {
    lease.lease.max(MIN_LEASE)
}

/// The value of an association: with the port's addresses, or with the reason why there are none. A client that renews addresses that are
/// not the port's is told that they are over (RFC 8415 section 18.3.4).
fn identity(lease: &Lease6, association: &Association, gives: bool, renews: bool) -> Vec<u8> {
    let time = seconds(lease);
    let mut value = association.id.to_vec();
    if association.kind != code::IA_TA {
        // T1 and T2: half and four fifths (section 21.4).
        let (renew, rebind) = if gives { (time / 2, time / 5 * 4) } else { (0, 0) };
        value.extend_from_slice(&renew.to_be_bytes());
        value.extend_from_slice(&rebind.to_be_bytes());
    }
    if gives {
        let own = lease.addresses.iter().take(MAX_ADDRESSES);
        own.for_each(|address| put(&mut value, code::IA_ADDRESS, &lifetime(*address, time)));
    }
    if renews {
        let over =
            association.addresses.iter().filter(|address| !gives || !lease.addresses.contains(address));
        over.for_each(|address| put(&mut value, code::IA_ADDRESS, &lifetime(*address, 0)));
    }
    match association.kind {
        _ if gives => {}
        code::IA_PD => put_status(&mut value, Status::NoPrefixes),
        _ => put_status(&mut value, Status::NoAddresses),
    }
    value
}

/// An address that is preferred and valid for so many seconds.
fn lifetime(address: Ipv6Addr, seconds: u32) -> Vec<u8> {
    let mut value = address.octets().to_vec();
    value.extend_from_slice(&seconds.to_be_bytes());
    value.extend_from_slice(&seconds.to_be_bytes());
    value
}

/// Name servers and domains (RFC 3646).
fn names(out: &mut Vec<u8>, lease: &Lease6) {
    let servers: Vec<u8> = lease.dns.iter().take(MAX_SERVERS).flat_map(Ipv6Addr::octets).collect();
    if !servers.is_empty() {
        put(out, code::DNS, &servers);
    }
    let mut search = Vec::new();
    for name in &lease.domains {
        let before = search.len();
        domain::put(&mut search, name);
        if search.len() > MAX_SEARCH {
            search.truncate(before);
            break;
        }
    }
    if !search.is_empty() {
        put(out, code::DOMAINS, &search);
    }
}

fn put_status(out: &mut Vec<u8>, status: Status) {
    let value = [&(status as u16).to_be_bytes()[..], status.text().as_bytes()].concat();
    put(out, code::STATUS, &value);
}

/// Appends an option; values are far below 2^16 bytes.
fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}
