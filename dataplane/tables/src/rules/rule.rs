//! Rules as they are written, packets as rules see them, and what the rules say of one.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// Which way packets go, seen from the port that the rules are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the port: the remote address is the source.
    Ingress,
    /// From the port: the remote address is the destination.
    Egress,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Its packets are dropped. Comes before [`Action::Allow`] where the priority is the same.
    Deny,
    /// Its packets pass.
    Allow,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Version 4.
    Ipv4,
    /// Version 6.
    Ipv6,
}

impl Family {
    /// The version of this address. An IPv4 address mapped into IPv6 is an IPv6 address.
    #[inline(always)]
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// Anybody.
    Any,
    /// An address in this prefix, of the prefix's own family. Bits beyond its length are ignored.
    Prefix(IpNet),
    /// A member of the group with this number. A group without members is nobody.
    Group(u16),
}

/// One rule. All that it says of a packet must hold for it to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which way the packet goes.
    pub direction: Direction,
    /// What becomes of it.
    pub action: Action,
    /// Lower ones come first; among equal ones those that deny.
    pub priority: u16,
    /// The number of its protocol (IANA; in IPv6 that of the last header of the chain); `None` is any.
    pub protocol: Option<u8>,
    /// Its version of IP; `None` is either. A prefix as remote has a family of its own as well.
    pub family: Option<Family>,
    /// Its destination port, in any of these ranges; none at all: whatever it is, and protocols without ports too. With ranges
    /// only TCP, UDP and SCTP match: other protocols have no ports here, whatever their bytes are. A range that ends before it
    /// begins contains nothing.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Its ICMP or ICMPv6 type and perhaps code. With it only these two protocols match.
    pub icmp: Option<(u8, Option<u8>)>,
    /// Who is at the other end.
    pub remote: Remote,
    /// Packets that this rule decides about are to be logged.
    pub log: bool,
    /// Where its hits are counted ([`RuleCounters`](super::RuleCounters)). Of rules that say the same at the same priority, the one with the lowest
    /// number counts.
    pub counter: u32,
}

/// A packet as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<'a> {
    /// The address at the other end: the source on ingress, the destination on egress.
    pub remote: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its destination port. Looked at for TCP, UDP and SCTP only.
    pub destination_port: u16,
    /// Its ICMP or ICMPv6 type and code; looked at for these protocols only. `None`: not known, and rules with a type do not match.
    pub icmp: Option<(u8, u8)>,
    /// The groups that the remote address is a member of, in any order.
    pub groups: &'a [u16],
}

/// What a policy says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It may pass.
    pub allowed: bool,
    /// The counter of the rule that decided; `None` if no rule matched.
    pub rule: Option<u32>,
    /// That rule wants it logged.
    pub log: bool,
}

/// Why a set of rules is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// More rules than [`Policy::MAX_RULES`](super::Policy::MAX_RULES).
    TooManyRules {
        /// So many.
        rules: usize,
        /// The most there may be.
        bound: usize,
    },
    /// More port ranges, over all rules, than [`Policy::MAX_RANGES`](super::Policy::MAX_RANGES).
    TooManyRanges {
        /// So many, counted until there were too many.
        ranges: usize,
        /// The most there may be.
        bound: usize,
    },
    /// The prefixes are nested in so many levels, with so many rules at each, that a look-up would need more tables than
    /// [`Policy::MAX_TABLES`](super::Policy::MAX_TABLES).
    TooManyTables {
        /// So many.
        tables: usize,
        /// The most there may be.
        bound: usize,
    },
    /// What readers look at would take more memory than [`Policy::MAX_BYTES`](super::Policy::MAX_BYTES).
    TooLarge {
        /// So much.
        bytes: usize,
        /// The most there may be.
        bound: usize,
    },
}

impl std::fmt::Display for PolicyError {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooManyRules { rules, bound } => {
                write!(to, "{rules} rules, and a policy has at most {bound}: fewer rules or groups per port")
            }
            Self::TooManyRanges { ranges, bound } => {
                write!(to, "{ranges} port ranges, and a policy has at most {bound}: fewer ranges per rule")
            }
            Self::TooManyTables { tables, bound } => write!(
                to,
                "prefixes nested so deeply, with so many rules at each level, that {tables} tables would be looked through, \
                 and there are at most {bound}: fewer rules whose prefixes contain many others"
            ),
            Self::TooLarge { bytes, bound } => write!(
                to,
                "compiled rules of {bytes} bytes, and a policy has at most {bound}: fewer rules whose prefixes contain many others"
            ),
        }
    }
}

impl std::error::Error for PolicyError {}
