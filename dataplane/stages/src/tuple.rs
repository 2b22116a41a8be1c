//! What tells flows apart: addresses, protocol and ports of a packet, or of the one that an ICMP error is about.
//!
//! Not a stage: both that deal with sessions share it.

use packet::nat::Translated;
use packet::quoted::Quoted;
use packet::{Headers, L4, icmp};
use std::net::IpAddr;
use tables::sessions::AnyKey;

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) upper: Upper,
}

/// What of the transport layer tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    /// Source and destination port of TCP, UDP and SCTP. Of other protocols 0: none are made up.
    Ports([u16; 2]),
    /// An echo request of ICMP or ICMPv6 or its reply, with its identifier.
    Echo { identifier: u16, reply: bool },
    /// Another message of ICMP or ICMPv6, which belongs to no session: type and code.
    Message(u8, u8),
}

/// Types of echo messages: request and reply of ICMP, then of ICMPv6 (RFC 792, RFC 4443 section 4).
const ECHO: [(u8, u8); 2] = [(8, 0), (128, 129)];

impl Tuple {
    /// That of a packet whose transport header is there; `None` unless it is IP.
    pub(crate) fn of(head: &[u8], headers: &Headers) -> Option<Self> {
        let (source, destination) = (headers.source_ip(head)?, headers.destination_ip(head)?);
        let upper = match headers.l4 {
            L4::Icmp | L4::Icmpv6 => {
                let (kind, code) = icmp::type_and_code(head, headers)?;
                Upper::icmp(headers.l4, kind, code, icmp::identifier(head, headers)?)
            }
            _ => Upper::Ports([headers.source_port, headers.destination_port]),
        };
        Some(Self { source, destination, protocol: headers.protocol, upper })
    }

    /// That of the packets of who began a session, by its keys, as rules are asked about it: from where they are sent, to where they go in the end. Of echoes requests alone
    /// begin one.
    pub(crate) fn of_session(key: &AnyKey, responder: &AnyKey) -> Self {
        let ((source, _), (first, _)) = (key.addresses(), key.ports());
        let ((destination, _), (second, _)) = (responder.addresses(), responder.ports());
        let is_echo = match source {
            IpAddr::V4(_) => key.protocol() == icmp::PROTOCOL,
            IpAddr::V6(_) => key.protocol() == icmp::PROTOCOL_V6,
        };
        let upper = match is_echo {
            true => Upper::Echo { identifier: first, reply: false },
            false => Upper::Ports([first, second]),
        };
        Self { source, destination, protocol: key.protocol(), upper }
    }

    /// The same before and after its addresses were changed, as rules are asked about it.
    pub(crate) fn judged(before: &Self, after: &Self) -> Self {
        let upper = match (before.upper, after.upper) {
            (Upper::Ports([source, _]), Upper::Ports([_, destination])) => {
                Upper::Ports([source, destination])
            }
            (upper, _) => upper,
        };
        Self { destination: after.destination, upper, ..*before }
    }

    /// The same with these addresses and ports.
    pub(crate) fn become_like(&self, to: &Translated) -> Self {
        let upper = match self.upper {
            Upper::Ports(_) => Upper::Ports(to.ports),
            Upper::Echo { reply, .. } => Upper::Echo { identifier: to.ports[0], reply },
            upper @ Upper::Message(..) => upper,
        };
        Self { source: to.source, destination: to.destination, upper, ..*self }
    }

    /// Type and code of a message of ICMP or ICMPv6.
    pub(crate) fn icmp(&self) -> Option<(u8, u8)> {
        let (request, answer) = ECHO[usize::from(self.source.is_ipv6())];
        match self.upper {
            Upper::Ports(_) => None,
            Upper::Echo { reply, .. } => Some((if reply { answer } else { request }, 0)),
            Upper::Message(kind, code) => Some((kind, code)),
        }
    }

    /// Source and destination port; of an echo its identifier, twice.
    pub(crate) fn ports(&self) -> [u16; 2] {
        match self.upper {
            Upper::Ports(ports) => ports,
            Upper::Echo { identifier, .. } => [identifier; 2],
            Upper::Message(..) => [0; 2],
        }
    }

    /// Its key for packets that come in by `attachment`; none for what belongs to no session.
    pub(crate) fn key(&self, attachment: u32) -> Option<AnyKey> {
        let Self { source, destination, protocol, upper } = *self;
        match upper {
            Upper::Ports(ports) => AnyKey::new(attachment, source, destination, protocol, ports),
            Upper::Echo { identifier, reply } => {
                AnyKey::echo(attachment, source, destination, protocol, identifier, reply)
            }
            Upper::Message(..) => None,
        }
    }
}

impl Upper {
    fn icmp(l4: L4, kind: u8, code: u8, identifier: u16) -> Self {
        let (request, reply) = ECHO[usize::from(l4 == L4::Icmpv6)];
        match (kind, code) {
            (kind, 0) if kind == request || kind == reply => Self::Echo { identifier, reply: kind == reply },
            _ => Self::Message(kind, code),
        }
    }
}

/// The key of the half that answers to the quoted packet are found by, where they come in by `attachment`. `None` unless the error goes to who sent that packet.
pub(crate) fn answered(quoted: &Quoted, attachment: u32, destination: IpAddr) -> Option<AnyKey> {
    let Quoted { source, destination: to, protocol, ports } = *quoted;
    let l4 = if source.is_ipv4() { L4::Icmp } else { L4::Icmpv6 };
    let upper = match (l4, protocol) {
        (L4::Icmp, icmp::PROTOCOL) | (L4::Icmpv6, icmp::PROTOCOL_V6) => {
            let [kind, code] = ports[1].to_be_bytes();
            Upper::icmp(l4, kind, code, ports[0])
        }
        _ => Upper::Ports(ports),
    };
    let tuple = Tuple { source, destination: to, protocol, upper };
    // The attachment of the key that is reversed means nothing.
    let key = (source == destination).then(|| tuple.key(0)).flatten()?;
    Some(key.reversed(attachment))
}
