//! Rules for benchmarks, and packets they are about.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use tables::rules::{Action, Direction, Flow, Remote, Rule};

/// Marsaglia's xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// What the rules look like. IPv4 only, as `rte_acl` is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Prefixes anywhere, of any length from 8 to 32; half of the ports exact, the rest any range or all.
    Random,
    /// As the filter sets that ClassBench (Taylor and Turner, 2007) takes its seeds from: two thirds hosts and small subnets of a few networks inside each other, mostly TCP,
    /// well-known ports and the ranges above and below 1024.
    ClassBench,
}

impl Shape {
    /// One rule of this shape.
    pub(crate) fn rule(self, random: &mut Random, counter: u32) -> Rule {
        let (protocol, ports, remote) = match self {
            Self::Random => random_fields(random),
            Self::ClassBench => classbench_fields(random),
        };
        Rule {
            direction: Direction::Ingress,
            action: if random.below(2) == 0 { Action::Deny } else { Action::Allow },
            priority: random.below(1000) as u16,
            protocol,
            family: None,
            ports: if protocol.is_some_and(|protocol| protocol != 1) { ports } else { Vec::new() },
            icmp: None,
            remote,
            log: false,
            counter,
        }
    }

    /// So many.
    pub(crate) fn rules(self, count: u32) -> Vec<Rule> {
        let mut random = Random(0x1234_5678_9abc_def1);
        (0..count).map(|counter| self.rule(&mut random, counter)).collect()
    }
}

type Ports = Vec<std::ops::RangeInclusive<u16>>;

fn prefix(address: u32, length: u64) -> Remote {
    Ipv4Net::new(Ipv4Addr::from_bits(address), length as u8)
        .map_or(Remote::Any, |net| Remote::Prefix(IpNet::V4(net.trunc())))
}

fn random_fields(random: &mut Random) -> (Option<u8>, Ports, Remote) {
    let protocol = [Some(6), Some(6), Some(6), Some(17), None][random.below(5) as usize];
    let (one, other) = (random.next() as u16, random.next() as u16);
    let ports = match random.below(10) {
        0..5 => vec![one..=one],
        5..8 => vec![one.min(other)..=one.max(other)],
        _ => Vec::new(),
    };
    let remote = prefix(random.next() as u32, 8 + random.below(25));
    (protocol, ports, remote)
}

fn classbench_fields(random: &mut Random) -> (Option<u8>, Ports, Remote) {
    let protocol = match random.below(100) {
        0..75 => Some(6),
        75..90 => Some(17),
        90..95 => Some(1),
        _ => None,
    };
    const WELL_KNOWN: [u16; 16] = [20, 21, 22, 23, 25, 53, 80, 110, 123, 143, 161, 179, 389, 443, 1433, 8080];
    let one = random.next() as u16;
    let ports = match random.below(100) {
        0..40 => {
            let port = WELL_KNOWN[random.below(16) as usize];
            vec![port..=port]
        }
        40..55 => vec![one..=one],
        55..65 => vec![1024..=u16::MAX],
        65..70 => vec![0..=1023],
        70..80 => vec![one..=one.saturating_add(random.below(200) as u16)],
        _ => Vec::new(),
    };
    // 64 networks, each with 64 subnets that are used.
    let network = (random.below(64) * 0x0345_6789) as u32 & 0xffff_0000;
    let address = network | ((random.below(64) as u32 * 0x0357) & 0xff) << 8 | random.below(256) as u32;
    let remote = match random.below(100) {
        0..45 => prefix(address, 32),
        45..65 => prefix(address, 24),
        65..75 => prefix(address, 25 + random.below(7)),
        75..85 => prefix(address, 16),
        85..90 => prefix(address, 17 + random.below(7)),
        90..95 => prefix(address, 8 + random.below(8)),
        _ => Remote::Any,
    };
    (protocol, ports, remote)
}

/// Packets, each with the protocol, a port and an address of a random one of these rules.
pub(crate) fn flows(rules: &[Rule], count: usize) -> Vec<Flow<'static>> {
    let mut random = Random(0xfeed_5678_9abc_def1);
    let mut flow = |rule: &Rule| {
        let bits = random.next();
        let remote = match rule.remote {
            Remote::Prefix(IpNet::V4(net)) => {
                net.network().to_bits() | bits as u32 & net.hostmask().to_bits()
            }
            _ => bits as u32,
        };
        let destination_port = match rule.ports.first() {
            Some(range) => range.start() + random.below(u64::from(range.end() - range.start()) + 1) as u16,
            None => random.next() as u16,
        };
        let remote = IpAddr::V4(remote.into());
        Flow {
            remote,
            protocol: rule.protocol.unwrap_or(6),
            destination_port,
            icmp: Some((8, 0)),
            groups: &[],
        }
    };
    let mut pick = Random(0xabcd_ef01_2345_6789);
    (0..count).filter_map(|_| rules.get(pick.below(rules.len() as u64) as usize)).map(&mut flow).collect()
}
