//! DHCP and router solicitations as a client sends them, and what it is told, by code that shares nothing with the switch's own.

use super::frame::{Fill, Flow, ICMPV6, UDP, icmpv6, packet};
use super::read::{addresses, hops, macs, transport};
use super::{Mac, Station, link_local};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A DISCOVER with this number.
    Discover(u32),
    /// A REQUEST with this number, for this address.
    Request(u32, Ipv4Addr),
    /// A SOLICIT with this number (3 bytes) and the rapid commit option.
    Solicit(u32),
    /// For routers.
    Routers,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// By DHCPv4.
    Dhcp4 {
        /// The number of the question.
        number: u32,
        /// Message type: 2 offer, 5 acknowledgement, 6 refusal.
        kind: u8,
        /// The address lent.
        address: Ipv4Addr,
        /// Whom it is for.
        client: Mac,
        /// Options by number.
        options: Vec<(u8, Vec<u8>)>,
    },
    /// By DHCPv6.
    Dhcp6 {
        /// The number of the question.
        number: u32,
        /// Message type: 7 reply.
        kind: u8,
        /// Options by number, those inside an identity association behind it.
        options: Vec<(u16, Vec<u8>)>,
    },
    /// By a router advertisement.
    Router {
        /// The flags: 0x80 for addresses by DHCPv6.
        flags: u8,
        /// Seconds.
        lifetime: u16,
        /// Options by number, without their first two bytes.
        options: Vec<(u8, Vec<u8>)>,
    },
}

const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Where DHCPv4's options begin.
const OPTIONS: usize = 240;

/// The frame that asks `question` as `from`, who has a gateway at `gateway`.
#[must_use]
pub fn ask(question: Question, from: &Station, gateway: Ipv4Addr) -> Vec<u8> {
    match question {
        Question::Discover(number) => dhcp4(from, number, &[53, 1, 1]),
        Question::Request(number, address) => {
            let mut options = vec![53, 1, 3, 50, 4];
            options.extend(address.octets());
            options.extend([54, 4]);
            options.extend(gateway.octets());
            dhcp4(from, number, &options)
        }
        Question::Solicit(number) => {
            let mut body = (0x0100_0000 | number).to_be_bytes().to_vec();
            let mut option = |kind: u16, bytes: &[u8]| {
                body.extend(kind.to_be_bytes());
                body.extend((bytes.len() as u16).to_be_bytes());
                body.extend(bytes);
            };
            option(1, &duid(from.mac));
            option(3, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            option(8, &[0, 0]);
            option(14, &[]);
            option(6, &[0, 23, 0, 24]);
            let from = Station { v6: link_local(from.mac), ..*from };
            let servers = [0xff02, 0, 0, 0, 0, 0, 1, 2].into();
            let to = Station { mac: [0x33, 0x33, 0, 1, 0, 2], v4: Ipv4Addr::BROADCAST, v6: servers };
            packet(&Flow { from, to, v6: true, protocol: UDP, ports: (546, 547) }, 0, &body, Fill::Whole)
        }
        Question::Routers => {
            let mut body = vec![133, 0, 0, 0, 0, 0, 0, 0, 1, 1];
            body.extend(from.mac);
            let routers = [0xff02, 0, 0, 0, 0, 0, 0, 2].into();
            icmpv6([0x33, 0x33, 0, 0, 0, 2], from.mac, link_local(from.mac), routers, 255, &body)
        }
    }
}

/// A client's identity, made of its MAC address.
fn duid(mac: Mac) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &mac].concat()
}

fn dhcp4(from: &Station, number: u32, options: &[u8]) -> Vec<u8> {
    let mut body = vec![1, 1, 6, 0];
    body.extend(number.to_be_bytes());
    body.resize(28, 0);
    body.extend(from.mac);
    body.resize(OPTIONS - 4, 0);
    body.extend(COOKIE);
    body.extend(options);
    body.extend([55, 6, 1, 3, 6, 15, 26, 51, 255]);
    let from = Station { v4: Ipv4Addr::UNSPECIFIED, ..*from };
    let to = Station { mac: [0xff; 6], v4: Ipv4Addr::BROADCAST, v6: Ipv6Addr::UNSPECIFIED };
    packet(&Flow { from, to, v6: false, protocol: UDP, ports: (68, 67) }, 0, &body, Fill::Whole)
}

/// The UDP ports and payload of a frame.
fn datagram(frame: &[u8]) -> Option<((u16, u16), &[u8])> {
    let at = transport(frame).filter(|at| at.protocol == UDP)?;
    let word = |from: usize| Some(u16::from_be_bytes(frame.get(from..from + 2)?.try_into().ok()?));
    Some(((word(at.start)?, word(at.start + 2)?), frame.get(at.start + 8..at.end)?))
}

/// What a frame asks, if it is one of [`ask`]'s.
#[must_use]
pub fn question(frame: &[u8]) -> Option<Question> {
    if let Some(at) = transport(frame).filter(|at| at.protocol == ICMPV6) {
        return (frame[at.start] == 133).then_some(Question::Routers);
    }
    let (ports, body) = datagram(frame)?;
    let number = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    match ports {
        (68, 67) if body.get(OPTIONS - 4..OPTIONS)? == COOKIE => {
            let options = options4(&body[OPTIONS..]);
            let find = |kind: u8| options.iter().find(|(is, _)| *is == kind).map(|(_, bytes)| &bytes[..]);
            let xid = number(body.get(4..8)?)?;
            match find(53)? {
                [1] => Some(Question::Discover(xid)),
                [3] => Some(Question::Request(xid, Ipv4Addr::from(<[u8; 4]>::try_from(find(50)?).ok()?))),
                _ => None,
            }
        }
        (546, 547) if body.first() == Some(&1) => {
            Some(Question::Solicit(number(body.get(..4)?)? & 0xff_ffff))
        }
        _ => None,
    }
}

fn options4(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut options = Vec::new();
    while let [kind, length, rest @ ..] = bytes {
        let length = usize::from(*length);
        if *kind == 255 || rest.len() < length {
            break;
        }
        options.push((*kind, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    options
}

fn options6(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let (kind, length) = (u16::from_be_bytes([*a, *b]), usize::from(u16::from_be_bytes([*c, *d])));
        if rest.len() < length {
            break;
        }
        options.push((kind, rest[..length].to_vec()));
        if kind == 3 && length >= 12 {
            options.extend(options6(&rest[12..length]));
        }
        bytes = &rest[length..];
    }
    options
}

/// What a frame tells its receiver as only a server or router may.
#[must_use]
pub fn told(frame: &[u8]) -> Option<Told> {
    if let Some(at) = transport(frame).filter(|at| at.protocol == ICMPV6) {
        if frame[at.start] != 134 || hops(frame) != Some(255) {
            return None;
        }
        let body = frame.get(at.start..at.end)?;
        let (flags, lifetime) = (*body.get(5)?, u16::from_be_bytes(body.get(6..8)?.try_into().ok()?));
        let (mut options, mut left) = (Vec::new(), body.get(16..)?);
        while let [kind, units, ..] = left
            && *units > 0
        {
            let length = usize::from(*units) * 8;
            options.push((*kind, left.get(2..length)?.to_vec()));
            left = &left[length..];
        }
        return Some(Told::Router { flags, lifetime, options });
    }
    let (ports, body) = datagram(frame)?;
    match ports {
        (67, 68) => {
            let word = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
            let right = body.first() == Some(&2) && body.get(OPTIONS - 4..OPTIONS)? == COOKIE;
            let options = options4(body.get(OPTIONS..)?);
            let kind = options.iter().find(|(kind, _)| *kind == 53).and_then(|(_, bytes)| bytes.first());
            let client = body.get(28..34)?.try_into().ok()?;
            let address = word(16)?.into();
            right.then_some(Told::Dhcp4 { number: word(4)?, kind: *kind?, address, client, options })
        }
        (547, 546) => {
            let head = u32::from_be_bytes(body.get(..4)?.try_into().ok()?);
            let options = options6(&body[4..]);
            Some(Told::Dhcp6 { number: head & 0xff_ffff, kind: (head >> 24) as u8, options })
        }
        _ => None,
    }
}

/// What a subnet tells its ports.
#[derive(Clone, Copy, Debug)]
pub struct Right {
    /// The port.
    pub station: Station,
    /// Its gateway.
    pub gateway: Station,
    /// The name servers.
    pub dns: (Ipv4Addr, Ipv6Addr),
    /// The MTU.
    pub mtu: u16,
    /// Seconds that an address is lent.
    pub lease: u32,
}

/// What is wrong with what a frame tells, which answers `question` if it is no advertisement.
#[must_use]
pub fn flaw(frame: &[u8], told: &Told, question: Option<Question>, right: &Right) -> Option<&'static str> {
    let ((to, from), ends) = (macs(frame)?, addresses(frame)?);
    let whole = transport(frame).is_some_and(|at| at.is_checksum_right(frame) && at.end == frame.len());
    let router = link_local(right.gateway.mac);
    let server: IpAddr = match told {
        Told::Dhcp4 { .. } => right.gateway.v4.into(),
        Told::Dhcp6 { .. } | Told::Router { .. } => router.into(),
    };
    let for_it = to == right.station.mac || to[0] & 1 == 1;
    let first = [
        ("it is not whole", whole),
        ("it is not from the gateway", (from, ends.0) == (right.gateway.mac, server)),
        ("it is for somebody else", for_it),
    ];
    let rest = match told {
        Told::Dhcp4 { kind, address, client, options, .. } => {
            flaws4((*kind, *address, *client), options, question, right)
        }
        Told::Dhcp6 { kind, options, .. } => flaws6(*kind, options, right),
        Told::Router { flags, lifetime, options } => flaws_of_router((*flags, *lifetime), options, right),
    };
    first.into_iter().chain(rest).find(|(_, right)| !right).map(|(what, _)| what)
}

fn flaws4(
    (kind, address, client): (u8, Ipv4Addr, Mac),
    options: &[(u8, Vec<u8>)],
    question: Option<Question>,
    right: &Right,
) -> Vec<(&'static str, bool)> {
    let is = |number: u8, bytes: &[u8]| options.iter().any(|(kind, is)| *kind == number && is == bytes);
    let wanted = match question {
        Some(Question::Discover(_)) => 2,
        Some(Question::Request(_, address)) if address == right.station.v4 => 5,
        _ => 6,
    };
    let mut flaws = vec![
        ("it is not the message that follows", kind == wanted),
        ("it is another client's", client == right.station.mac),
        ("it names another server", is(54, &right.gateway.v4.octets())),
    ];
    if kind != 6 {
        flaws.extend([
            ("the address is another's", address == right.station.v4),
            ("the mask is wrong", is(1, &[255, 255, 255, 0])),
            ("the router is wrong", is(3, &right.gateway.v4.octets())),
            ("the name server is wrong", is(6, &right.dns.0.octets())),
            ("the MTU is wrong", is(26, &right.mtu.to_be_bytes())),
            ("the lease is wrong", is(51, &right.lease.to_be_bytes())),
        ]);
    }
    flaws
}

fn flaws6(kind: u8, options: &[(u16, Vec<u8>)], right: &Right) -> Vec<(&'static str, bool)> {
    let is = |number: u16, bytes: &[u8]| options.iter().any(|(kind, is)| *kind == number && is == bytes);
    let lent: Vec<&[u8]> =
        options.iter().filter(|(kind, _)| *kind == 5).map(|(_, bytes)| &bytes[..]).collect();
    vec![
        ("it is not the message that follows", kind == 7 && is(14, &[])),
        ("it is another client's", is(1, &duid(right.station.mac))),
        ("it names no server", options.iter().any(|(kind, _)| *kind == 2)),
        ("the address is another's", {
            matches!(lent[..], [one] if one.starts_with(&right.station.v6.octets()))
        }),
        ("the name server is wrong", is(23, &right.dns.1.octets())),
    ]
}

fn flaws_of_router(
    (flags, lifetime): (u8, u16),
    options: &[(u8, Vec<u8>)],
    right: &Right,
) -> Vec<(&'static str, bool)> {
    let find = |number: u8| options.iter().find(|(kind, _)| *kind == number).map(|(_, bytes)| &bytes[..]);
    let prefix = right.station.v6.octets();
    vec![
        ("it does not say that addresses are by DHCPv6", flags & 0x80 != 0),
        ("it is no router's", lifetime > 0),
        (
            "the MTU is wrong",
            find(5).and_then(|bytes| bytes.get(2..6)) == Some(&u32::from(right.mtu).to_be_bytes()),
        ),
        ("the prefix is wrong", {
            // 64 bits, on the link, and no address to be made of it.
            find(3).is_some_and(|bytes| bytes[..2] == [64, 0x80] && bytes[14..22] == prefix[..8])
        }),
        ("its MAC address is another's", find(1) == Some(&right.gateway.mac)),
    ]
}
