//! Protocol, destination port, ICMP type and code as one number, and what a rule says of them as ranges of it.

use std::ops::RangeInclusive;

use super::rule::{Flow, Rule};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// Protocols whose destination port is known.
const WITH_PORTS: [u8; 3] = [TCP, UDP, SCTP];
/// Protocols with a type and a code.
const WITH_TYPES: [u8; 2] = [ICMP, ICMPV6];

/// A protocol's numbers begin at this multiple of it: 2^16 for ports or types, and one more for none.
const PROTOCOL_SHIFT: u32 = 17;
/// Above a protocol's ports and types: it has none, or they are not known.
const NONE: u32 = 1 << 16;
/// The greatest number there is.
pub(super) const LAST: u32 = (1 << (8 + PROTOCOL_SHIFT)) - 1;

/// All numbers from `first` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) first: u32,
    pub(super) last: u32,
}

/// The number of a packet.
#[inline(always)]
pub(super) fn key_of(flow: &Flow<'_>) -> u32 {
    let detail = match flow.protocol {
        TCP | UDP | SCTP => flow.destination_port.into(),
        ICMP | ICMPV6 => match flow.icmp {
            Some((kind, code)) => u32::from(kind) << 8 | u32::from(code),
            None => NONE,
        },
        _ => NONE,
    };
    u32::from(flow.protocol) << PROTOCOL_SHIFT | detail
}

/// The numbers that a rule is for, in no order; they may overlap.
pub(super) fn spans_of(rule: &Rule) -> Vec<Span> {
    let of = |protocol: u8, details: RangeInclusive<u32>| {
        let base = u32::from(protocol) << PROTOCOL_SHIFT;
        Span { first: base | details.start(), last: base | details.end() }
    };
    let fits = |protocol: &u8| rule.protocol.is_none_or(|only| only == *protocol);
    match (rule.ports.as_slice(), rule.icmp) {
        ([], None) => match rule.protocol {
            None => vec![Span { first: 0, last: LAST }],
            Some(protocol) => vec![of(protocol, 0..=(1 << PROTOCOL_SHIFT) - 1)],
        },
        ([], Some((kind, code))) => {
            let (first, last) = code.map_or((0, u8::MAX), |code| (code, code));
            let kind = u32::from(kind) << 8;
            let details = kind | u32::from(first)..=kind | u32::from(last);
            WITH_TYPES.into_iter().filter(fits).map(|protocol| of(protocol, details.clone())).collect()
        }
        // Ports and an ICMP type: nothing has both.
        (_, Some(_)) => Vec::new(),
        (ports, None) => {
            let ports = ports.iter().filter(|range| !range.is_empty());
            let details = ports.map(|range| u32::from(*range.start())..=u32::from(*range.end()));
            details
                .flat_map(|details| {
                    WITH_PORTS.into_iter().filter(fits).map(move |protocol| of(protocol, details.clone()))
                })
                .collect()
        }
    }
}
