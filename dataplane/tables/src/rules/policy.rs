//! A policy as readers see it: the rules of all groups of a port, ready to judge packets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::key::key_of;
use super::rank::Rank;
use super::rule::{Direction, Flow, Judgement, PolicyError, Rule};
use super::table::{Arena, Table};
use super::writer::PolicyWriter;
use crate::prefixes::Prefixes;
use crate::table::BATCH;

/// The rules of a port, or of all ports with the same groups, in both directions. Immutable; clones are of the same.
///
/// A look-up takes the same steps whatever the packet is: one for the rules for any remote, one for each table of prefixes (one, unless many rules have
/// prefixes that contain many others), and one for each group of the remote address. Each goes down a tree of eight or nine ways, among the places
/// where ports and protocols begin and end.
#[derive(Clone, Debug)]
pub struct Policy(Arc<Both>);

#[derive(Debug)]
pub(super) struct Both {
    pub(super) arena: Arena,
    pub(super) ingress: Way,
    pub(super) egress: Way,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Way {
    /// What no rule matches passes.
    pub(super) is_open: bool,
    pub(super) ipv4: Table,
    pub(super) ipv6: Table,
}

impl Way {
    #[inline(always)]
    fn table(&self, remote: IpAddr) -> &Table {
        match remote {
            IpAddr::V4(_) => &self.ipv4,
            IpAddr::V6(_) => &self.ipv6,
        }
    }
}

/// Packets of one version of IP out of a batch.
struct Chunk<A> {
    count: usize,
    /// Where in the batch they are.
    positions: [u8; BATCH],
    keys: [u32; BATCH],
    addresses: [A; BATCH],
    ranks: [Rank; BATCH],
}

impl<A: Copy> Chunk<A> {
    #[inline(always)]
    fn new(address: A) -> Self {
        let (positions, keys) = ([0; BATCH], [0; BATCH]);
        Self { count: 0, positions, keys, addresses: [address; BATCH], ranks: [Rank::NONE; BATCH] }
    }

    #[inline(always)]
    fn push(&mut self, position: usize, flow: &Flow<'_>, address: A) {
        if let (Some(to), Some(key), Some(of)) = (
            self.positions.get_mut(self.count),
            self.keys.get_mut(self.count),
            self.addresses.get_mut(self.count),
        ) {
            (*to, *key, *of) = (position as u8, key_of(flow), address);
            self.count += 1;
        }
    }

    /// Judges them by `table`, in whose prefixes `find` finds addresses.
    #[inline(always)]
    fn judge(
        &mut self,
        table: &Table,
        arena: &Arena,
        flows: &[Flow<'_>],
        find: impl Fn(&Prefixes, &[A], &mut [u32; BATCH]),
    ) {
        let (Some(keys), Some(ranks), Some(addresses)) =
            (self.keys.get(..self.count), self.ranks.get_mut(..self.count), self.addresses.get(..self.count))
        else {
            return;
        };
        if table.any != 0 {
            for (rank, key) in ranks.iter_mut().zip(keys) {
                *rank = arena.find(table.any, *key);
            }
        }
        for prefixes in &table.prefixes {
            let mut handles = [0; BATCH];
            find(prefixes, addresses, &mut handles);
            handles.iter().zip(keys).for_each(|(handle, _)| arena.prefetch(*handle));
            for ((handle, key), rank) in handles.iter().zip(keys).zip(ranks.iter_mut()) {
                *rank = (*rank).min(arena.find(*handle, *key));
            }
        }
        if !table.groups.is_empty() {
            for ((position, key), rank) in self.positions.iter().zip(keys).zip(ranks) {
                let groups = flows.get(usize::from(*position)).map_or(&[][..], |flow| flow.groups);
                *rank = (*rank).min(table.judge_groups(arena, groups, *key));
            }
        }
    }

    /// Writes what was found to where they are in the batch.
    #[inline(always)]
    fn tell(&self, is_open: bool, out: &mut [Judgement]) {
        for (position, rank) in self.positions.iter().zip(&self.ranks).take(self.count) {
            if let Some(out) = out.get_mut(usize::from(*position)) {
                *out = rank.judgement(is_open);
            }
        }
    }
}

impl Policy {
    /// Rules that a policy may have.
    pub const MAX_RULES: usize = 1 << 16;
    /// Port ranges that the rules of a policy may have together, those for each protocol and version of IP counted.
    pub const MAX_RANGES: usize = 1 << 18;
    /// Tables of prefixes that a look-up may go through.
    pub const MAX_TABLES: usize = 16;
    /// Bytes that it may take.
    pub const MAX_BYTES: usize = 32 << 20;

    /// A policy of these rules, in any order. What no rule matches is denied, except that with `open_egress` all egress is allowed if
    /// there is no egress rule at all. For rules that come and go one by one use [`PolicyWriter`].
    ///
    /// # Errors
    ///
    /// More of something than the bounds above.
    pub fn compile(rules: impl IntoIterator<Item = Rule>, open_egress: bool) -> Result<Self, PolicyError> {
        let mut writer = PolicyWriter::new(open_egress);
        rules.into_iter().try_for_each(|rule| writer.insert(&rule))?;
        writer.policy()
    }

    pub(super) fn new(both: Both) -> Self {
        Self(Arc::new(both))
    }

    #[inline(always)]
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Ingress => &self.0.ingress,
            Direction::Egress => &self.0.egress,
        }
    }

    /// What the rules say of a packet. For many use [`Policy::judge_batch`].
    #[inline]
    #[must_use]
    pub fn judge(&self, direction: Direction, flow: &Flow<'_>) -> Judgement {
        let way = self.way(direction);
        let table = way.table(flow.remote);
        table.judge(&self.0.arena, flow.remote, flow.groups, key_of(flow)).judgement(way.is_open)
    }

    /// The same for many, to the same positions of `out`; positions that only one of them has are left alone. What the look-ups
    /// read is asked for 32 at a time.
    pub fn judge_batch(&self, direction: Direction, flows: &[Flow<'_>], out: &mut [Judgement]) {
        let way = self.way(direction);
        for (flows, out) in flows.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let mut ipv4 = Chunk::new(0u32);
            let mut ipv6 = Chunk::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            for (position, flow) in flows.iter().enumerate() {
                match flow.remote {
                    IpAddr::V4(v4) => ipv4.push(position, flow, v4.to_bits()),
                    IpAddr::V6(_) => ipv6.push(position, flow, flow.remote),
                }
            }
            let find = |prefixes: &Prefixes, addresses: &[u32], to: &mut [u32; BATCH]| {
                prefixes.find_ipv4_batch(addresses, to);
            };
            ipv4.judge(&way.ipv4, &self.0.arena, flows, find);
            ipv4.tell(way.is_open, out);
            if ipv6.count > 0 {
                let find = |prefixes: &Prefixes, addresses: &[IpAddr], to: &mut [u32; BATCH]| {
                    prefixes.find_batch(addresses, to);
                };
                ipv6.judge(&way.ipv6, &self.0.arena, flows, find);
                ipv6.tell(way.is_open, out);
            }
        }
    }

    /// Rules of this direction name groups: whoever asks looks up those of the remote address before.
    #[must_use]
    pub fn needs_groups(&self, direction: Direction) -> bool {
        let way = self.way(direction);
        !way.ipv4.groups.is_empty() || !way.ipv6.groups.is_empty()
    }

    /// How many tables of prefixes a look-up of either version of IP goes through.
    #[must_use]
    pub fn tables(&self, direction: Direction) -> [usize; 2] {
        let way = self.way(direction);
        [way.ipv4.prefixes.len(), way.ipv6.prefixes.len()]
    }

    /// Bytes it takes, shared by all clones.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let ways = [&self.0.ingress, &self.0.egress];
        let tables = ways.iter().map(|way| way.ipv4.memory_bytes() + way.ipv6.memory_bytes()).sum::<usize>();
        size_of::<Both>() + self.0.arena.memory_bytes() + tables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Action, Family, Remote};

    fn rule(action: Action, priority: u16, counter: u32) -> Rule {
        Rule {
            direction: Direction::Ingress,
            action,
            priority,
            protocol: None,
            family: None,
            ports: Vec::new(),
            icmp: None,
            remote: Remote::Any,
            log: false,
            counter,
        }
    }

    fn tcp(remote: &str, port: u16) -> Flow<'static> {
        Flow { remote: remote.parse().unwrap(), protocol: 6, destination_port: port, icmp: None, groups: &[] }
    }

    fn prefix(text: &str) -> Remote {
        Remote::Prefix(text.parse().unwrap())
    }

    fn ingress(rules: Vec<Rule>) -> impl Fn(Flow<'_>) -> Judgement {
        let policy = Policy::compile(rules, true).unwrap();
        move |flow| policy.judge(Direction::Ingress, &flow)
    }

    const DENIED: Judgement = Judgement { allowed: false, rule: None, log: false };

    fn allowed(rule: u32) -> Judgement {
        Judgement { allowed: true, rule: Some(rule), log: false }
    }

    fn denied(rule: u32) -> Judgement {
        Judgement { allowed: false, rule: Some(rule), log: false }
    }

    #[test]
    fn without_rules_egress_may_be_open_and_ingress_is_closed() {
        let flow = tcp("10.0.0.1", 80);
        let open = Policy::compile([], true).unwrap();
        assert!(open.judge(Direction::Egress, &flow).allowed);
        assert_eq!(open.judge(Direction::Ingress, &flow), DENIED);
        let closed = Policy::compile([], false).unwrap();
        assert_eq!(closed.judge(Direction::Egress, &flow), DENIED);
        let one = Rule { direction: Direction::Egress, protocol: Some(17), ..rule(Action::Allow, 1, 1) };
        let one = Policy::compile([one], true).unwrap();
        assert_eq!(one.judge(Direction::Egress, &flow), DENIED, "with a rule the direction is closed");
    }

    #[test]
    fn t01_priority_then_deny_before_allow_not_the_length_of_prefixes() {
        let wide = Rule { remote: prefix("10.1.0.0/16"), ..rule(Action::Deny, 10, 1) };
        let narrow = Rule { remote: prefix("10.1.2.0/24"), ..rule(Action::Allow, 20, 2) };
        let judge = ingress(vec![narrow.clone(), wide.clone()]);
        assert_eq!(judge(tcp("10.1.2.3", 80)), denied(1));
        let judge = ingress(vec![wide.clone(), Rule { priority: 5, ..narrow.clone() }]);
        assert_eq!(judge(tcp("10.1.2.3", 80)), allowed(2));
        assert_eq!(judge(tcp("10.1.3.3", 80)), denied(1));
        let judge = ingress(vec![Rule { priority: 10, ..narrow }, wide]);
        assert_eq!(judge(tcp("10.1.2.3", 80)), denied(1), "a tie");
    }

    #[test]
    fn t02_ports_types_and_protocols_are_exact() {
        let ports = Rule { protocol: Some(6), ports: vec![0..=0, 80..=90], ..rule(Action::Allow, 1, 1) };
        let judge = ingress(vec![ports.clone()]);
        for (port, expected) in [(0, true), (1, false), (79, false), (80, true), (90, true), (91, false)] {
            assert_eq!(judge(tcp("10.0.0.1", port)).allowed, expected, "{port}");
        }
        assert_eq!(judge(Flow { protocol: 17, ..tcp("10.0.0.1", 80) }), DENIED);
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let judge = ingress(vec![Rule { ports: vec![90..=80], ..ports.clone() }]);
        assert_eq!(judge(tcp("10.0.0.1", 85)), DENIED, "a reversed range is empty, not everything");
        let judge = ingress(vec![Rule { ports: vec![0..=u16::MAX], protocol: None, ..ports }]);
        assert_eq!(judge(tcp("10.0.0.1", u16::MAX)), allowed(1));
        for protocol in [1, 33, 47, 50, 58, 136] {
            let flow = Flow { protocol, icmp: Some((0, 80)), ..tcp("10.0.0.1", 80) };
            assert_eq!(judge(flow), DENIED, "P-38: protocol {protocol} has no ports");
        }
        let echo = Rule { protocol: Some(1), icmp: Some((8, None)), ..rule(Action::Allow, 1, 1) };
        let judge = ingress(vec![echo.clone()]);
        let icmp = |icmp| Flow { protocol: 1, icmp, ..tcp("10.0.0.1", 80) };
        assert_eq!(judge(icmp(Some((8, 255)))), allowed(1));
        assert_eq!([judge(icmp(Some((7, 0)))), judge(icmp(Some((9, 0)))), judge(icmp(None))], [DENIED; 3]);
        let judge = ingress(vec![Rule { icmp: Some((3, Some(4))), ..echo }]);
        assert_eq!(judge(icmp(Some((3, 4)))), allowed(1));
        assert_eq!([judge(icmp(Some((3, 3)))), judge(icmp(Some((4, 3))))], [DENIED; 2]);
        assert_eq!(judge(Flow { protocol: 58, icmp: Some((3, 4)), ..tcp("10.0.0.1", 0) }), DENIED);
        let judge = ingress(vec![Rule { protocol: Some(1), ..rule(Action::Allow, 1, 1) }]);
        assert_eq!(judge(icmp(None)), allowed(1), "a protocol alone needs no type");
    }

    #[test]
    fn t03_a_group_without_members_is_nobody() {
        let judge = ingress(vec![
            Rule { remote: Remote::Group(7), ..rule(Action::Deny, 1, 1) },
            Rule { remote: Remote::Group(8), ..rule(Action::Allow, 2, 2) },
        ]);
        assert_eq!(judge(tcp("10.0.0.1", 80)), DENIED);
        assert_eq!(judge(Flow { groups: &[9, 8], ..tcp("10.0.0.1", 80) }), allowed(2));
        assert_eq!(judge(Flow { groups: &[8, 7, 7], ..tcp("10.0.0.1", 80) }), denied(1));
    }

    #[test]
    fn a_prefix_and_a_family_are_of_one_version() {
        let judge = ingress(vec![
            Rule { remote: prefix("0.0.0.0/0"), ..rule(Action::Allow, 1, 1) },
            Rule { remote: prefix("fd00::/8"), protocol: Some(6), ..rule(Action::Allow, 2, 2) },
            Rule { family: Some(Family::Ipv6), protocol: Some(17), ..rule(Action::Allow, 0, 3) },
        ]);
        assert_eq!(judge(tcp("10.0.0.1", 80)), allowed(1));
        assert_eq!(judge(tcp("fd00::1", 80)), allowed(2));
        assert_eq!(judge(tcp("fc00::1", 80)), DENIED);
        assert_eq!(judge(Flow { protocol: 17, ..tcp("fc00::1", 80) }), allowed(3));
        assert_eq!(judge(Flow { protocol: 17, ..tcp("10.0.0.1", 80) }), allowed(1));
        assert_eq!(judge(tcp("::ffff:10.0.0.1", 80)), DENIED);
    }

    #[test]
    fn t06_any_order_of_rules_is_the_same_policy_and_extremes_are_priorities() {
        let rules = [
            Rule { log: true, ..rule(Action::Allow, u16::MAX, u32::MAX) },
            Rule { protocol: Some(6), ..rule(Action::Allow, 7, 2) },
            Rule { protocol: Some(6), ..rule(Action::Allow, 7, 1) },
            Rule { protocol: Some(17), ..rule(Action::Deny, 0, 0) },
        ];
        for turn in 0..rules.len() {
            let mut rules = rules.to_vec();
            rules.rotate_left(turn);
            let judge = ingress(rules);
            assert_eq!(judge(tcp("10.0.0.1", 80)), allowed(1), "of the same the lowest counter");
            assert_eq!(judge(Flow { protocol: 17, ..tcp("10.0.0.1", 80) }), denied(0));
            let last = Judgement { allowed: true, rule: Some(u32::MAX), log: true };
            assert_eq!(judge(Flow { protocol: 255, ..tcp("10.0.0.1", 80) }), last);
        }
    }

    #[test]
    fn too_many_rules_or_ranges_are_refused_by_name() {
        let many = vec![rule(Action::Allow, 1, 1); Policy::MAX_RULES + 1];
        let error = Policy::compile(many, true).unwrap_err();
        assert_eq!(error, PolicyError::TooManyRules { rules: 65_537, bound: 65_536 });
        let ranges = Rule { ports: vec![1..=2; 60_000], ..rule(Action::Allow, 1, 1) };
        let error = Policy::compile(vec![ranges; 3], true).unwrap_err();
        assert!(matches!(error, PolicyError::TooManyRanges { bound: 262_144, .. }), "{error:?}");
        assert!(error.to_string().contains("262144"));
    }
}
