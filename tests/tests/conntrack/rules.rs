//! Random security groups, as manifests for us and as a ruleset for nftables.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::hosts::{HOSTS, UNFILTERED, address, v4, v6};
use crate::packets::{ESP, GRE, ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::random::Random;

/// Ports that rules and packets have in common.
pub(crate) const PORTS: [u16; 12] = [0, 1, 22, 53, 80, 81, 443, 1000, 8000, 8100, 40_000, 65_535];
const GROUPS: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Remote {
    Any,
    Cidr(String),
    Group(usize),
}

#[derive(Clone, Debug)]
struct Rule {
    egress: bool,
    allow: bool,
    priority: u16,
    protocol: Option<u8>,
    ports: Vec<(u16, u16)>,
    icmp: Option<(u8, Option<u8>)>,
    remote: Remote,
}

/// Security groups, and which host is in which.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    groups: Vec<Vec<Rule>>,
    members: Vec<BTreeSet<usize>>,
}

fn rule(random: &mut Random) -> Rule {
    let protocol = random.of(&[
        None,
        None,
        Some(TCP),
        Some(TCP),
        Some(TCP),
        Some(UDP),
        Some(UDP),
        Some(ICMP),
        Some(ICMPV6),
        Some(SCTP),
        Some(GRE),
        Some(ESP),
    ]);
    let mut ports: Vec<(u16, u16)> = Vec::new();
    if matches!(protocol, Some(TCP | UDP | SCTP)) && !random.one_in(4) {
        for _ in 0..1 + random.below(2) {
            let (one, other) = (random.of(&PORTS), random.of(&PORTS));
            let last = if random.one_in(2) { one } else { one.max(other) };
            ports.push((one.min(last), last));
        }
        ports.sort_unstable();
        // Ranges of a rule lie apart.
        ports.dedup_by(|next, kept| u32::from(next.0) <= u32::from(kept.1) + 1);
    }
    let icmp = match protocol {
        Some(ICMP) if random.one_in(2) => Some((random.of(&[8, 0, 3, 13]), random.of(&[None, Some(0)]))),
        Some(ICMPV6) if random.one_in(2) => Some((random.of(&[128, 129, 1]), random.of(&[None, Some(0)]))),
        _ => None,
    };
    let remote = match random.below(8) {
        0 => {
            let host = random.below(HOSTS);
            let (v4, v6) = (v4(host), v6(host));
            Remote::Cidr(random.of(&[format!("{v4}/32"), format!("{v6}/128")]))
        }
        1 => Remote::Cidr(random.of(&[
            "10.0.1.0/24".to_owned(),
            "10.0.2.0/24".to_owned(),
            "10.0.0.0/22".to_owned(),
            "fd00:10:0:1::/64".to_owned(),
            "fd00:10::/32".to_owned(),
        ])),
        2 | 3 => Remote::Group(random.below(GROUPS)),
        _ => Remote::Any,
    };
    // No packet would match: the model refuses that.
    let other_family = |cidr: &String| match protocol {
        Some(ICMP) => cidr.contains(':'),
        Some(ICMPV6) => !cidr.contains(':'),
        _ => false,
    };
    let remote = match remote {
        Remote::Cidr(cidr) if other_family(&cidr) => Remote::Any,
        remote => remote,
    };
    Rule {
        egress: random.one_in(2),
        allow: !random.one_in(4),
        priority: random.of(&[0, 100, 1000, 1000, 1000, 2000, 65_535]),
        protocol,
        ports,
        icmp,
        remote,
    }
}

impl Groups {
    pub(crate) fn random(random: &mut Random) -> Self {
        let groups = (0..GROUPS).map(|_| (0..random.below(12)).map(|_| rule(random)).collect()).collect();
        let members = (0..HOSTS)
            .map(|_| (0..1 + random.below(3)).map(|_| random.below(GROUPS - 1)).collect())
            .collect();
        Self { groups, members }
    }

    /// All may send to all, and what is sent to host 3 is let in, by which scripts are about connections and not about rules: to others only what answers.
    pub(crate) fn open_to_one() -> Self {
        let any = |egress| Rule {
            egress,
            allow: true,
            priority: 1000,
            protocol: None,
            ports: vec![],
            icmp: None,
            remote: Remote::Any,
        };
        let groups = vec![vec![any(true)], vec![any(false)]];
        let members = (0..HOSTS).map(|host| if host == 3 { [0, 1].into() } else { [0].into() }).collect();
        Self { groups, members }
    }

    /// As resources.
    pub(crate) fn resources(&self) -> Vec<Value> {
        let mut resources = vec![
            resource("Host", "node-a", &json!({})),
            resource("Vpc", "blue", &json!({"vni": 100, "cidrs": ["10.0.0.0/16", "fd00:10::/48"]})),
        ];
        for side in 1..=2 {
            let cidrs = [format!("10.0.{side}.0/24"), format!("fd00:10:0:{side}::/64")];
            resources.push(resource(
                "Subnet",
                &format!("side{side}"),
                &json!({"vpc": "blue", "cidrs": cidrs}),
            ));
        }
        for (number, rules) in self.groups.iter().enumerate() {
            let rules: Vec<Value> = rules.iter().map(Rule::resource).collect();
            let spec = json!({"vpc": "blue", "rules": rules});
            resources.push(resource("SecurityGroup", &format!("g{number}"), &spec));
        }
        for host in 0..HOSTS {
            let mac = crate::hosts::mac(host).map(|byte| format!("{byte:02x}")).join(":");
            let mut spec = json!({
                "subnet": format!("side{}", 1 + crate::hosts::side(host)),
                "host": "node-a",
                "mac": mac,
                "ips": [v4(host), v6(host)],
                "attachment": {"vhostUser": {"socket": format!("/run/h{host}.sock"), "role": "server"}},
            });
            if host == UNFILTERED {
                spec["unfiltered"] = json!(true);
            } else {
                let groups: Vec<String> =
                    self.members[host].iter().map(|group| format!("g{group}")).collect();
                spec["securityGroups"] = json!(groups);
            }
            resources.push(resource("Port", &format!("h{host}"), &spec));
        }
        resources
    }

    /// The merged list of a host: by priority, then deny before allow.
    fn list(&self, host: usize, egress: bool) -> Vec<&Rule> {
        let rules = self.members[host].iter().flat_map(|group| &self.groups[*group]);
        let mut list: Vec<&Rule> = rules.filter(|rule| rule.egress == egress).collect();
        list.sort_by_key(|rule| (rule.priority, rule.allow));
        list
    }

    /// Hosts in a group. Who is under no rules is in none.
    fn hosts_in(&self, group: usize) -> Vec<usize> {
        (0..HOSTS).filter(|host| *host != UNFILTERED && self.members[*host].contains(&group)).collect()
    }

    /// The ruleset for nftables, with a conntrack zone of its own. What goes between `marker`s passes untracked.
    pub(crate) fn ruleset(&self, zone: u16, markers: [&str; 2]) -> String {
        let [one, other] = markers;
        let mut text = format!(
            "flush ruleset\ntable inet judge {{\n\
             chain before {{ type filter hook prerouting priority raw; policy accept;\n\
             ip saddr {{ {one}, {other} }} notrack accept\n ct zone set {zone}\n }}\n"
        );
        for host in (0..HOSTS).filter(|host| *host != UNFILTERED) {
            for egress in [true, false] {
                let direction = if egress { "egress" } else { "ingress" };
                writeln!(text, "chain {direction}{host} {{").expect("a string can be written to");
                let list = self.list(host, egress);
                for (at, rule) in list.iter().enumerate() {
                    for matches in rule.matches(self) {
                        let counter = if at + 1 == list.len() { "last" } else { "other" };
                        let verdict = match (rule.allow, egress) {
                            (true, true) => "return",
                            (true, false) => "accept",
                            (false, _) => "drop",
                        };
                        writeln!(text, "{matches} counter name {counter} {verdict}").expect("as before");
                    }
                }
                let rest = if egress && list.is_empty() { "return" } else { "counter name none drop" };
                writeln!(text, "{rest}\n}}").expect("as before");
            }
        }
        text.push_str("counter last { }\ncounter other { }\ncounter none { }\n");
        text.push_str("chain forward { type filter hook forward priority filter; policy drop;\n");
        writeln!(text, "ip saddr {{ {one}, {other} }} accept").expect("as before");
        text.push_str("ct state established,related accept\nct state invalid drop\n");
        for (direction, field) in [("egress", "saddr"), ("ingress", "daddr")] {
            for host in 0..HOSTS {
                for (family, ipv6) in [("ip", false), ("ip6", true)] {
                    let address = address(host, ipv6);
                    let does = match (host == UNFILTERED, direction) {
                        (false, _) => format!("jump {direction}{host}"),
                        (true, "ingress") => "accept".to_owned(),
                        (true, _) => continue,
                    };
                    writeln!(text, "{family} {field} {address} {does}").expect("as before");
                }
            }
        }
        text.push_str("}\n}\n");
        text
    }
}

impl Rule {
    fn resource(&self) -> Value {
        let mut rule = json!({
            "direction": if self.egress { "egress" } else { "ingress" },
            "action": if self.allow { "allow" } else { "deny" },
            "priority": self.priority,
            "remote": match &self.remote {
                Remote::Any => json!({"any": true}),
                Remote::Cidr(cidr) => json!({"cidr": cidr}),
                Remote::Group(group) => json!({"group": format!("g{group}")}),
            },
        });
        if let Some(protocol) = self.protocol {
            rule["protocol"] = match protocol {
                TCP => json!("tcp"),
                UDP => json!("udp"),
                ICMP => json!("icmp"),
                ICMPV6 => json!("icmpv6"),
                SCTP => json!("sctp"),
                number => json!(number),
            };
        }
        if !self.ports.is_empty() {
            rule["ports"] = json!(ranges(&self.ports, ","));
        }
        if let Some((kind, code)) = self.icmp {
            rule["icmpType"] = json!(kind);
            if let Some(code) = code {
                rule["icmpCode"] = json!(code);
            }
        }
        rule
    }

    /// What nftables matches with; several where it takes one rule per family. A group without members is nobody.
    fn matches(&self, groups: &Groups) -> Vec<String> {
        let side = if self.egress { "daddr" } else { "saddr" };
        let remotes: Vec<String> = match &self.remote {
            Remote::Any => vec![String::new()],
            Remote::Cidr(cidr) if cidr.contains(':') => vec![format!("ip6 {side} {cidr} ")],
            Remote::Cidr(cidr) => vec![format!("ip {side} {cidr} ")],
            Remote::Group(group) => {
                let hosts = groups.hosts_in(*group);
                let list = |ipv6: bool| {
                    hosts.iter().map(|host| address(*host, ipv6).to_string()).collect::<Vec<_>>().join(", ")
                };
                match hosts.is_empty() {
                    true => vec![],
                    false => vec![
                        format!("ip {side} {{ {} }} ", list(false)),
                        format!("ip6 {side} {{ {} }} ", list(true)),
                    ],
                }
            }
        };
        let family = match self.protocol {
            Some(ICMP) => "meta nfproto ipv4 ",
            Some(ICMPV6) => "meta nfproto ipv6 ",
            _ => "",
        };
        let mut rest = self.protocol.map_or(String::new(), |number| format!("meta l4proto {number} "));
        if !self.ports.is_empty() {
            write!(rest, "th dport {{ {} }} ", ranges(&self.ports, ", ")).expect("as before");
        }
        if let Some((kind, code)) = self.icmp {
            let name = if self.protocol == Some(ICMP) { "icmp" } else { "icmpv6" };
            write!(rest, "{name} type {kind} ").expect("as before");
            if let Some(code) = code {
                write!(rest, "{name} code {code} ").expect("as before");
            }
        }
        // No packet is of both families.
        let never = |remote: &String| match self.protocol {
            Some(ICMP) => remote.starts_with("ip6 "),
            Some(ICMPV6) => remote.starts_with("ip "),
            _ => false,
        };
        remotes
            .into_iter()
            .filter(|remote| !never(remote))
            .map(|remote| format!("{family}{remote}{rest}"))
            .collect()
    }
}

fn ranges(ranges: &[(u16, u16)], between: &str) -> String {
    let range = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(between)
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    towpath_tests::manifests::resource(kind, name, spec)
}
