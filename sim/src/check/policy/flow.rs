//! What rules and sessions see of a frame, read here by hand.

use crate::check::groups::First;
use crate::net::frame::{ICMPV6, TCP, UDP};
use crate::net::read::{addresses, ethertype};
use std::net::IpAddr;

/// ICMP and SCTP by their numbers.
const ICMP: u8 = 1;
const SCTP: u8 = 132;

/// What tells the packets of a flow in one direction from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Where it says it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// What the transport layer says.
    pub upper: Upper,
}

/// See [`Flow::upper`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upper {
    /// Source and destination port; 0 where a protocol has none.
    Ports(u16, u16),
    /// An echo request or its reply, with its identifier.
    Echo(u16, bool),
    /// Another message of ICMP: type and code.
    Message(u8, u8),
}

/// What a frame is to rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A packet of a flow; whether it is the first fragment of a datagram, and its number.
    Packet(Flow, Option<u32>),
    /// A later fragment of a datagram.
    Fragment(u32),
    /// An error of ICMP about a packet of this flow, or of one that cannot be read.
    Error(Option<Flow>),
}

impl Flow {
    /// Its answers.
    #[must_use]
    pub fn reversed(&self) -> Option<Self> {
        let upper = match self.upper {
            Upper::Ports(source, destination) => Upper::Ports(destination, source),
            Upper::Echo(identifier, reply) => Upper::Echo(identifier, !reply),
            Upper::Message(..) => return None,
        };
        Some(Self { source: self.destination, destination: self.source, upper, ..*self })
    }

    /// Whether packets of it answer an echo request.
    #[must_use]
    pub fn is_echo_reply(&self) -> bool {
        matches!(self.upper, Upper::Echo(_, true))
    }

    /// As rules see it.
    #[must_use]
    pub fn first(&self) -> First {
        let kinds = if self.source.is_ipv4() { (8, 0) } else { (128, 129) };
        let (destination_port, icmp) = match self.upper {
            Upper::Ports(_, destination) => (destination, None),
            Upper::Echo(_, reply) => (0, Some((if reply { kinds.1 } else { kinds.0 }, 0))),
            Upper::Message(kind, code) => (0, Some((kind, code))),
        };
        let Self { source, destination, protocol, .. } = *self;
        First { source, destination, protocol, destination_port, icmp }
    }

    /// That of a datagram whose transport header, or some of it, is `rest`.
    fn read((source, destination): (IpAddr, IpAddr), protocol: u8, rest: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        let upper = match (protocol, source.is_ipv4()) {
            (TCP | UDP | SCTP, _) => Upper::Ports(word(0)?, word(2)?),
            (ICMP, true) | (ICMPV6, false) => match (*rest.first()?, *rest.get(1)?, source.is_ipv4()) {
                (8, 0, true) | (128, 0, false) => Upper::Echo(word(4)?, false),
                (0, 0, true) | (129, 0, false) => Upper::Echo(word(4)?, true),
                (kind, code, _) => Upper::Message(kind, code),
            },
            _ => Upper::Ports(0, 0),
        };
        Some(Self { source, destination, protocol, upper })
    }
}

/// Where the transport layer of an IP packet is, of which protocol, and which fragment it is: its number and whether it begins its datagram.
struct Layer {
    protocol: u8,
    at: usize,
    fragment: Option<(u32, bool)>,
}

fn layer(packet: &[u8], is_v4: bool) -> Option<Layer> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    if is_v4 {
        let (offset, id) = (word(6)?, u32::from(word(4)?));
        let fragment = (offset & 0x3fff != 0).then_some((id, offset & 0x1fff == 0));
        return Some(Layer {
            protocol: *packet.get(9)?,
            at: usize::from(packet.first()? & 15) * 4,
            fragment,
        });
    }
    let (mut protocol, mut at, mut fragment) = (*packet.get(6)?, 40, None);
    while matches!(protocol, 0 | 43 | 44 | 51 | 60) {
        let (next, length) = (*packet.get(at)?, usize::from(*packet.get(at + 1)?));
        if protocol == 44 {
            let id = u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?);
            let offset = word(at + 2)?;
            fragment = (offset & 0xfff9 != 0).then_some((id, offset & 0xfff8 == 0));
            if fragment.is_some_and(|(_, first)| !first) {
                return Some(Layer { protocol: next, at: at + 8, fragment });
            }
        }
        at += match protocol {
            44 => 8,
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        protocol = next;
    }
    Some(Layer { protocol, at, fragment })
}

/// What a frame is; `None` unless it is IP.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Kind> {
    let ((kind, at), ends) = (ethertype(frame)?, addresses(frame)?);
    let packet = frame.get(at..)?;
    let is_v4 = kind == 0x0800;
    let layer = layer(packet, is_v4)?;
    if let Some((number, false)) = layer.fragment {
        return Some(Kind::Fragment(number));
    }
    let rest = packet.get(layer.at..)?;
    let is_error = match (layer.protocol, is_v4) {
        (ICMP, true) => matches!(rest.first()?, 3 | 4 | 5 | 11 | 12),
        (ICMPV6, false) => *rest.first()? < 128,
        _ => false,
    };
    if is_error {
        return Some(Kind::Error(quoted(rest.get(8..)?, ends.1)));
    }
    let flow = Flow::read(ends, layer.protocol, rest)?;
    Some(Kind::Packet(flow, layer.fragment.map(|(number, _)| number)))
}

/// The flow of a packet that an error quotes, if the error goes to who sent it.
fn quoted(packet: &[u8], to: IpAddr) -> Option<Flow> {
    let take = |at: usize| packet.get(at..at + 16)?.first_chunk::<16>().copied();
    let is_v4 = packet.first()? >> 4 == 4;
    let ends: (IpAddr, IpAddr) = if is_v4 {
        let four = |at: usize| packet.get(at..at + 4)?.first_chunk::<4>().copied();
        (four(12)?.into(), four(16)?.into())
    } else {
        (take(8)?.into(), take(24)?.into())
    };
    let layer = layer(packet, is_v4)?;
    (ends.0 == to).then(|| Flow::read(ends, layer.protocol, packet.get(layer.at..)?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::frame::{Fill, Flow as Between, echo_request, packet};
    use crate::network::station;

    #[test]
    fn packets_echoes_and_errors_are_told_apart() {
        let (from, to) = (station((0, 0), 10), station((0, 0), 11));
        for v6 in [false, true] {
            let between = Between { from, to, v6, protocol: UDP, ports: (5, 7) };
            let frame = packet(&between, 1, &[0; 40], Fill::Whole);
            let Some(Kind::Packet(flow, None)) = read(&frame) else { panic!("a packet") };
            assert_eq!((flow.upper, flow.protocol, flow.source), (Upper::Ports(5, 7), UDP, from.ip(v6)));
            let back = flow.reversed().unwrap();
            assert_eq!(
                (back.upper, back.source, back.reversed()),
                (Upper::Ports(7, 5), to.ip(v6), Some(flow))
            );
            let Some(Kind::Packet(echo, None)) = read(&echo_request(&between, 0x0009_0000)) else {
                panic!("an echo")
            };
            assert_eq!(echo.upper, Upper::Echo(9, false));
            assert!(echo.reversed().unwrap().is_echo_reply());
        }
    }
}
