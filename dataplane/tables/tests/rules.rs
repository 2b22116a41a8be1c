//! Rules beside a walk through their list, over random rules and packets that have to do with them.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use towpath_tables::rules::{
    Action, Direction, Family, Flow, Judgement, Policy, PolicyError, PolicyWriter, Remote, Rule,
};

/// (Rules, packet) pairs; with `TOWPATH_LONG` ten times as many.
const PAIRS: u64 = 2_000_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }
}

/// What the rules say, as model.md has it: one list by priority, then deny before allow; the first that matches decides.
fn walk(
    rules: &[Rule],
    direction: Direction,
    open_egress: bool,
    flow: &Flow<'_>,
) -> (Judgement, Option<usize>) {
    let of = || rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction);
    let order = |rule: &Rule| (rule.priority, rule.action == Action::Allow, rule.counter);
    match of().filter(|(_, rule)| matches(rule, flow)).min_by_key(|(_, rule)| order(rule)) {
        Some((at, rule)) => {
            let allowed = rule.action == Action::Allow;
            (Judgement { allowed, rule: Some(rule.counter), log: rule.log }, Some(at))
        }
        None => {
            let allowed = open_egress && direction == Direction::Egress && of().next().is_none();
            (Judgement { allowed, rule: None, log: false }, None)
        }
    }
}

fn matches(rule: &Rule, flow: &Flow<'_>) -> bool {
    let has_ports = [6, 17, 132].contains(&flow.protocol);
    let type_and_code = flow.icmp.filter(|_| [1, 58].contains(&flow.protocol));
    let remote = match rule.remote {
        Remote::Any => true,
        Remote::Prefix(prefix) => prefix.contains(&flow.remote),
        Remote::Group(group) => flow.groups.contains(&group),
    };
    remote
        && rule.protocol.is_none_or(|protocol| protocol == flow.protocol)
        && rule.family.is_none_or(|family| (family == Family::Ipv6) == flow.remote.is_ipv6())
        && (rule.ports.is_empty()
            || has_ports && rule.ports.iter().any(|range| range.contains(&flow.destination_port)))
        && rule.icmp.is_none_or(|(kind, code)| {
            type_and_code
                .is_some_and(|(its, its_code)| kind == its && code.is_none_or(|code| code == its_code))
        })
}

/// What kind of protocol, ports or type, remote and family a rule has: the combinations that are counted.
type Combination = (Action, &'static str, &'static str, &'static str, Option<Family>);

const PROTOCOLS: [(&str, Option<u8>, &[&str]); 8] = [
    ("any", None, &["all", "port", "ports", "type", "code"]),
    ("tcp", Some(6), &["all", "port", "ports"]),
    ("udp", Some(17), &["all", "port", "ports"]),
    ("sctp", Some(132), &["all", "port", "ports"]),
    ("icmp", Some(1), &["all", "type", "code"]),
    ("icmpv6", Some(58), &["all", "type", "code"]),
    ("gre", Some(47), &["all"]),
    ("255", Some(255), &["all"]),
];
const REMOTES: [(&str, &[Option<Family>]); 4] = [
    ("any", &[None, Some(Family::Ipv4), Some(Family::Ipv6)]),
    ("ipv4", &[None, Some(Family::Ipv4)]),
    ("ipv6", &[None, Some(Family::Ipv6)]),
    ("group", &[None, Some(Family::Ipv4), Some(Family::Ipv6)]),
];

fn combinations() -> Vec<Combination> {
    let mut all = Vec::new();
    for action in [Action::Deny, Action::Allow] {
        for (protocol, _, details) in PROTOCOLS {
            for detail in details {
                for (remote, families) in REMOTES {
                    all.extend(families.iter().map(|family| (action, protocol, *detail, remote, *family)));
                }
            }
        }
    }
    all
}

/// Few enough ports, types, addresses and groups that rules overlap.
const PORTS: [u16; 9] = [0, 1, 22, 80, 443, 1023, 1024, 8080, u16::MAX];

fn address(random: &mut Random, ipv6: bool) -> IpAddr {
    let host = random.of(&[0, 1, 2, 3, 255, 256, 511, 0xffff, 0x1_0000, 0xff_ffff]);
    if ipv6 {
        let high = random.of(&[0xfd10_u128 << 112, 0xfd10 << 112 | 1 << 64, 0xfd11 << 112, 0]);
        return IpAddr::V6((high | u128::from(host)).into());
    }
    IpAddr::V4((random.of(&[0x0a00_0000, 0x0a01_0000, 0xc0a8_0000, 0]) | host).into())
}

fn rule(random: &mut Random, combination: Combination, counter: u32) -> Rule {
    let (action, protocol, detail, remote, family) = combination;
    let ports = |random: &mut Random| {
        let (one, other) = (random.of(&PORTS), random.of(&PORTS));
        if random.one_in(2) { one..=one } else { one.min(other)..=one.max(other) }
    };
    let remote = match remote {
        "any" => Remote::Any,
        "group" => Remote::Group(random.below(5) as u16),
        prefix => {
            let ipv6 = prefix == "ipv6";
            let lengths: &[u8] = if ipv6 {
                &[0, 8, 16, 48, 63, 64, 65, 104, 120, 127, 128]
            } else {
                &[0, 1, 8, 15, 16, 24, 31, 32]
            };
            // Bits beyond the length are there too.
            Remote::Prefix(IpNet::new(address(random, ipv6), random.of(lengths)).unwrap())
        }
    };
    Rule {
        direction: if random.one_in(2) { Direction::Ingress } else { Direction::Egress },
        action,
        priority: random.of(&[0, 1, 10, 1000, 1000, 1000, u16::MAX]),
        protocol: PROTOCOLS.iter().find(|(name, ..)| *name == protocol).unwrap().1,
        family,
        ports: match detail {
            "port" => vec![ports(random)],
            "ports" => (0..2 + random.below(3)).map(|_| ports(random)).collect(),
            _ => Vec::new(),
        },
        icmp: match detail {
            "type" => Some((random.of(&[0, 3, 8, 128, 255]), None)),
            "code" => Some((random.of(&[0, 3, 8, 128, 255]), Some(random.of(&[0, 4, 255])))),
            _ => None,
        },
        remote,
        log: random.one_in(4),
        counter,
    }
}

/// A packet that one of the rules is about, more or less.
fn flow<'a>(random: &mut Random, rules: &[Rule], groups: &'a mut Vec<u16>) -> (Direction, Flow<'a>) {
    groups.clear();
    groups.extend((0..random.below(3)).map(|_| random.below(6) as u16));
    let about = rules.get(random.below(rules.len() as u64 + 1) as usize);
    let ipv6 = match about.map(|rule| (rule.remote, rule.family)) {
        Some((Remote::Prefix(prefix), _)) => prefix.addr().is_ipv6(),
        Some((_, Some(family))) => family == Family::Ipv6,
        _ => random.one_in(2),
    };
    let mut remote = address(random, ipv6);
    let mut destination_port = random.of(&PORTS);
    let mut icmp = Some((random.of(&[0, 3, 8, 127, 128, 255]), random.of(&[0, 4, 255])));
    let protocols = [6, 17, 132, 1, 58, 47, 255, 33];
    let mut protocol = random.of(&protocols);
    if let Some(rule) = about {
        match rule.remote {
            Remote::Prefix(prefix) if !random.one_in(8) => {
                remote = match (prefix.network(), prefix.hostmask(), remote) {
                    (IpAddr::V4(net), IpAddr::V4(mask), IpAddr::V4(v4)) => {
                        IpAddr::V4((net.to_bits() | v4.to_bits() & mask.to_bits()).into())
                    }
                    (IpAddr::V6(net), IpAddr::V6(mask), IpAddr::V6(v6)) => {
                        IpAddr::V6((net.to_bits() | v6.to_bits() & mask.to_bits()).into())
                    }
                    (_, _, other) => other,
                };
            }
            Remote::Group(group) if !random.one_in(8) => groups.push(group),
            _ => {}
        }
        if let Some(range) = rule.ports.first() {
            destination_port = random.of(&[
                *range.start(),
                *range.end(),
                range.start().wrapping_sub(1),
                range.start().midpoint(*range.end()),
            ]);
        }
        if let Some((kind, code)) = rule.icmp {
            icmp = Some((kind, code.unwrap_or_else(|| random.next() as u8)));
        }
        let default = match (rule.ports.is_empty(), rule.icmp) {
            (false, _) => random.of(&[6, 17, 132]),
            (_, Some(_)) => random.of(&[1, 58]),
            _ => protocol,
        };
        protocol = rule.protocol.unwrap_or(default);
    }
    if random.one_in(16) {
        icmp = None;
    }
    let direction = match about {
        Some(rule) if !random.one_in(16) => rule.direction,
        _ => random.of(&[Direction::Ingress, Direction::Egress]),
    };
    (direction, Flow { remote, protocol, destination_port, icmp, groups })
}

#[derive(Default)]
struct Tally {
    pairs: u64,
    /// Packets that a rule decided about which is not the last of its list.
    not_last: u64,
    unmatched: u64,
    decided: BTreeMap<Combination, u64>,
}

impl Tally {
    /// Judges packets by a policy in all ways there are, and by a walk through the list.
    fn compare(
        &mut self,
        random: &mut Random,
        policy: &Policy,
        rules: &[(Combination, Rule)],
        open: bool,
        packets: u64,
    ) {
        let list: Vec<Rule> = rules.iter().map(|(_, rule)| rule.clone()).collect();
        let mut groups = vec![Vec::new(); packets as usize];
        let flows: Vec<_> = groups.iter_mut().map(|groups| flow(random, &list, groups)).collect();
        for direction in [Direction::Ingress, Direction::Egress] {
            let of_direction = flows.iter().filter(|(of, _)| *of == direction);
            let flows: Vec<Flow<'_>> = of_direction.map(|(_, flow)| *flow).collect();
            let unset = Judgement { allowed: true, rule: Some(u32::MAX), log: true };
            let mut batch = vec![unset; flows.len()];
            policy.judge_batch(direction, &flows, &mut batch);
            for (flow, judged) in flows.iter().zip(batch) {
                let (expected, decided_by) = walk(&list, direction, open, flow);
                assert_eq!(policy.judge(direction, flow), expected, "{direction:?} {flow:?} by {list:#?}");
                assert_eq!(judged, expected, "in a batch: {direction:?} {flow:?} by {list:#?}");
                self.pairs += 1;
                match decided_by {
                    None => self.unmatched += 1,
                    Some(at) => {
                        let order = |rule: &Rule| (rule.priority, rule.action == Action::Allow, rule.counter);
                        let last = list.iter().filter(|rule| rule.direction == direction).map(order).max();
                        self.not_last += u64::from(Some(order(&list[at])) != last);
                        *self.decided.entry(rules[at].0).or_default() += 1;
                    }
                }
            }
        }
    }
}

fn random_rules(random: &mut Random, all: &[Combination], count: u64) -> Vec<(Combination, Rule)> {
    (0..count)
        .map(|at| {
            let combination = random.of(all);
            (combination, rule(random, combination, at as u32))
        })
        .collect()
}

#[test]
fn two_million_packets_are_judged_as_by_a_walk_through_the_list() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (all, mut tally) = (combinations(), Tally::default());
    let pairs = if std::env::var_os("TOWPATH_LONG").is_some() { 10 * PAIRS } else { PAIRS };
    while tally.pairs < pairs {
        let count = random.of(&[0, 1, 2, 3, 5, 5, 8, 8, 8, 20, 20, 60]);
        let rules = random_rules(&mut random, &all, count);
        let open = random.one_in(2);
        let policy = Policy::compile(rules.iter().map(|(_, rule)| rule.clone()), open).unwrap();
        tally.compare(&mut random, &policy, &rules, open, 40 * count.max(1));
    }
    let Tally { pairs, not_last, unmatched, decided } = tally;
    println!("{pairs} packets, {not_last} decided by a rule that is not the last, {unmatched} by none");
    let (rarest, least) = all
        .iter()
        .map(|of| (of, decided.get(of).copied().unwrap_or(0)))
        .min_by_key(|(_, hits)| *hits)
        .unwrap();
    println!("{} combinations of action and fields; the rarest decided {least} times: {rarest:?}", all.len());
    assert!(
        not_last * 100 >= pairs * 30,
        "{not_last} of {pairs} were decided by a rule that is not the last"
    );
    assert!(unmatched * 100 >= pairs * 5, "{unmatched} of {pairs} were decided by no rule");
    assert!(least >= 1000, "{rarest:?} decided {least} times");
}

#[test]
fn rules_that_come_and_go_leave_what_compiling_the_rest_makes() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (all, mut tally) = (combinations(), Tally::default());
    for _ in 0..60 {
        let open = random.one_in(2);
        let mut writer = PolicyWriter::new(open);
        let mut rules: Vec<(Combination, Rule)> = Vec::new();
        for step in 0..60u32 {
            for _ in 0..1 + random.below(4) {
                if !rules.is_empty() && random.one_in(if step < 40 { 3 } else { 1 }) {
                    let (_, rule) = rules.swap_remove(random.below(rules.len() as u64) as usize);
                    assert!(writer.remove(&rule));
                    assert!(!writer.remove(&rule), "{rule:?} is gone");
                } else {
                    let combination = random.of(&all);
                    let rule = rule(&mut random, combination, step * 8 + rules.len() as u32 % 8);
                    if !rules.iter().any(|(_, other)| *other == rule) {
                        writer.insert(&rule).unwrap();
                        rules.push((combination, rule));
                    }
                }
            }
            assert_eq!(writer.len(), rules.len());
            let policy = writer.policy().unwrap();
            tally.compare(&mut random, &policy, &rules, open, 20);
        }
    }
    assert!(tally.pairs > 50_000 && tally.not_last * 100 > tally.pairs * 30);
}

/// `count` rules that each deny or allow one destination port of TCP.
fn tcp_rules(count: u32, remote: impl Fn(u32) -> Remote) -> Vec<Rule> {
    let rule = |at: u32| Rule {
        direction: Direction::Ingress,
        action: if at.is_multiple_of(3) { Action::Deny } else { Action::Allow },
        priority: (at % 1000) as u16,
        protocol: Some(6),
        family: None,
        ports: vec![(at * 5 % 60_000) as u16..=(at * 5 % 60_000 + at % 40) as u16],
        icmp: None,
        remote: remote(at),
        log: false,
        counter: at,
    };
    (0..count).map(rule).collect()
}

fn prefix(address: u32, length: u8) -> Remote {
    Remote::Prefix(IpNet::new(IpAddr::V4(address.into()), length).unwrap())
}

fn judges_as_walk(rules: &[Rule], policy: &Policy, packets: u64) {
    let mut random = Random(0x1357_9bdf_2468_ace1);
    for _ in 0..packets {
        let mut groups = Vec::new();
        let (direction, flow) = flow(&mut random, rules, &mut groups);
        assert_eq!(policy.judge(direction, &flow), walk(rules, direction, true, &flow).0, "{flow:?}");
    }
}

/// 10,000 rules, each merged into 64 prefixes on average, where it begins and ends a step of 12 bytes.
const MOST_BYTES: usize = 10_000 * 64 * 2 * 12;

#[test]
fn t17_prefixes_that_contain_each_other_do_not_multiply() {
    // 5,000 rules for a prefix that contains the prefixes of 5,000 others.
    let rules =
        tcp_rules(
            10_000,
            |at| if at % 2 == 0 { prefix(0x0a00_0000, 8) } else { prefix(0x0a00_0000 + at, 32) },
        );
    let policy = Policy::compile(rules.iter().cloned(), true).unwrap();
    assert_eq!(policy.tables(Direction::Ingress), [2, 0]);
    assert!(policy.memory_bytes() < 1_000_000, "{}", policy.memory_bytes());
    judges_as_walk(&rules, &policy, 300);
    // Every length, each around all longer ones, with a tenth of all rules at some and many hosts inside.
    let rules = tcp_rules(10_000, |at| match at % 4 {
        0 => prefix(0x0a00_0000, 8 + (at / 4 % 24) as u8),
        1 => prefix(0x0a00_0000 + at * 16, 28),
        _ => prefix(0x0a00_0000 + at, 32),
    });
    let policy = Policy::compile(rules.iter().cloned(), true).unwrap();
    assert!(policy.tables(Direction::Ingress)[0] <= 5, "{:?}", policy.tables(Direction::Ingress));
    assert!(policy.memory_bytes() < MOST_BYTES, "{}", policy.memory_bytes());
    judges_as_walk(&rules, &policy, 300);
    // Every length of IPv6.
    let nested = |at: u32| {
        let address =
            0xfd00_u128 << 112 | if at.is_multiple_of(2) { 0 } else { u128::from(at) << (at % 100) };
        Remote::Prefix(IpNet::new(IpAddr::V6(address.into()), (1 + at % 128) as u8).unwrap())
    };
    let rules = tcp_rules(10_000, nested);
    let policy = Policy::compile(rules.iter().cloned(), true).unwrap();
    assert!(policy.tables(Direction::Ingress)[1] <= Policy::MAX_TABLES);
    assert!(policy.memory_bytes() < MOST_BYTES, "{}", policy.memory_bytes());
    judges_as_walk(&rules, &policy, 300);
}

#[test]
fn a_typical_policy_is_small() {
    let rules = tcp_rules(15, |at| match at % 3 {
        0 => Remote::Any,
        1 => Remote::Group(at as u16 % 2),
        _ => prefix(0x0a00_0000 + (at << 16), 16),
    });
    let policy = Policy::compile(rules, true).unwrap();
    println!("15 rules take {} bytes", policy.memory_bytes());
    assert!(policy.memory_bytes() < 4096, "{}", policy.memory_bytes());
    let empty = Policy::compile([], true).unwrap();
    assert!(empty.memory_bytes() < 512, "{}", empty.memory_bytes());
}

#[test]
fn what_cannot_be_compiled_is_refused_by_name_and_the_writer_goes_on() {
    let mut writer = PolicyWriter::new(true);
    let rules = tcp_rules(10, |_| Remote::Any);
    rules.iter().for_each(|rule| writer.insert(rule).unwrap());
    let before = writer.policy().unwrap();
    let wide = Rule { ports: (0..u16::MAX).map(|port| port..=port).collect(), ..rules[0].clone() };
    let others: Vec<Rule> = (100..110).map(|counter| Rule { counter, ..wide.clone() }).collect();
    let refused = others.iter().find_map(|rule| writer.insert(rule).err()).unwrap();
    assert!(matches!(refused, PolicyError::TooManyRanges { bound: Policy::MAX_RANGES, .. }), "{refused:?}");
    assert!(refused.to_string().contains("at most 262144"), "{refused}");
    others.iter().take_while(|rule| writer.remove(rule)).for_each(drop);
    let after = writer.policy().unwrap();
    assert_eq!(writer.len(), 10);
    let mut random = Random(77);
    for _ in 0..500 {
        let mut groups = Vec::new();
        let (direction, flow) = flow(&mut random, &rules, &mut groups);
        assert_eq!(before.judge(direction, &flow), after.judge(direction, &flow));
    }
}
