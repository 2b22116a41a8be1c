//! Security groups, and the rules that the operator writes into them.

use super::{Network, PEERS, PortView, SUBNETS, VPCS, block, station};
use crate::random::Random;
use std::net::IpAddr;

/// Groups of each VPC; the first is its `default`.
pub const GROUPS: usize = 4;
/// Rules of a group, at most.
const RULES: usize = 6;

/// A group as the operator wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupView {
    /// Whether it exists; of `default`, whether the operator has written it.
    pub present: bool,
    /// Its rules, each as a manifest writes it.
    pub rules: Vec<String>,
}

/// How manifests write the group at a place of its VPC.
pub(super) fn name(vpc: usize, group: usize) -> String {
    if group == 0 { "default".to_owned() } else { format!("a{vpc}-{group}") }
}

fn rule(direction: &str, action: &str, rest: &str) -> String {
    format!("{{direction: {direction}, action: {action}, {rest}}}")
}

/// Rules by which everybody of the VPC and its peer is heard, each kind in another way; the last hears its own group alone.
fn open_rules(vpc: usize, group: usize, kind: usize) -> Vec<String> {
    let any = "remote: {any: true}";
    let all = rule("egress", "allow", any);
    match kind % GROUPS {
        0 => vec![rule("ingress", "allow", any)],
        1 => ["tcp, ports: 1-65535", "udp, ports: \"0-30003,30004-65535\"", "icmp", "icmpv6"]
            .iter()
            .map(|protocol| rule("ingress", "allow", &format!("protocol: {protocol}, {any}")))
            .chain([all])
            .collect(),
        2 => vec![
            rule("ingress", "allow", "remote: {cidr: 0.0.0.0/0}"),
            rule("ingress", "allow", "remote: {cidr: \"::/0\"}"),
            rule("ingress", "deny", &format!("priority: 60000, {any}")),
            all,
        ],
        _ => vec![
            rule("ingress", "allow", &format!("remote: {{group: {}}}", name(vpc, group))),
            rule("ingress", "deny", &format!("priority: 60000, {any}")),
            all,
        ],
    }
}

impl Network {
    /// Groups of all VPCs with some rules each.
    pub fn add_groups(&mut self, random: &mut Random) {
        self.groups = vec![GroupView { present: true, rules: Vec::new() }; VPCS * GROUPS];
        for at in 0..self.groups.len() {
            let (vpc, group) = (at / GROUPS, at % GROUPS);
            // The VPC's own as it is without being written.
            self.groups[at].present = group > 0 || random.chance(500);
            self.groups[at].rules = self.some_rules(vpc, group, random);
        }
    }

    /// Rules for a group: mostly ones that let something pass, and then others.
    fn some_rules(&self, vpc: usize, group: usize, random: &mut Random) -> Vec<String> {
        let mut rules =
            if random.chance(750) { open_rules(vpc, group, random.below(GROUPS)) } else { Vec::new() };
        let more = random.below(RULES - 1);
        rules.extend((0..more).map(|_| self.some_rule(vpc, random)));
        if rules.is_empty() && group == 0 {
            rules.push(rule("egress", "allow", "remote: {any: true}"));
        }
        rules
    }

    fn some_rule(&self, vpc: usize, random: &mut Random) -> String {
        let direction = random.pick(&["ingress", "ingress", "egress"]);
        let action = random.pick(&["allow", "allow", "deny"]);
        let priority = match random.pick(&[0, 1000, 10, 100, 1000, 2000]) {
            0 => String::new(),
            priority => format!("priority: {priority}, "),
        };
        let number = random.below(10);
        let (v4, v6) = (number == 6, number == 7);
        let ports = random.pick(&[
            "30000-30003",
            "30004-30007",
            "\"30000,30002,30005\"",
            "5001",
            "7",
            "1-29999",
            "30001-65535",
        ]);
        let about = match number {
            0..=2 => format!("protocol: udp, ports: {ports}, "),
            3..=4 => format!("protocol: tcp, ports: {ports}, "),
            5 => format!("protocol: {}, ", random.pick(&["tcp", "udp", "sctp", "47"])),
            6 => format!(
                "protocol: icmp, {}",
                random.pick(&["", "icmpType: 8, ", "icmpType: 3, icmpCode: 3, "])
            ),
            7 => format!(
                "protocol: icmpv6, {}",
                random.pick(&["", "icmpType: 128, icmpCode: 0, ", "icmpType: 1, "])
            ),
            _ => String::new(),
        };
        let remote = match random.below(10) {
            0..=2 => "any: true".to_owned(),
            3..=5 => self.some_cidr(vpc, (v4, v6), random),
            _ => format!("group: {}", name(vpc, self.some_group(vpc, random))),
        };
        rule(direction, action, &format!("{priority}{about}remote: {{{remote}}}"))
    }

    /// A network that packets of a VPC may come from or go to, of a version that the rule is about.
    fn some_cidr(&self, vpc: usize, (v4, v6): (bool, bool), random: &mut Random) -> String {
        let vpc = random.pick(&[vpc, vpc, PEERS[0], PEERS[1]]);
        let ((second, block), subnet) = (block(vpc), random.below(SUBNETS));
        let is_v6 = v6 || (!v4 && random.chance(500));
        match random.below(4) {
            0 if is_v6 => format!("cidr: \"fd00:{block:x}::/48\""),
            0 => format!("cidr: 10.{second}.0.0/16"),
            1 if is_v6 => "cidr: \"::/0\"".to_owned(),
            1 => "cidr: 0.0.0.0/0".to_owned(),
            2 if is_v6 => format!("cidr: \"fd00:{block:x}:0:{subnet:x}::/64\""),
            2 => format!("cidr: 10.{second}.{subnet}.0/24"),
            _ => match station((vpc, subnet), 10 + random.below(3) as u8).ip(is_v6) {
                IpAddr::V4(address) => format!("cidr: {address}/32"),
                IpAddr::V6(address) => format!("cidr: \"{address}/128\""),
            },
        }
    }

    /// A group of a VPC that is there.
    fn some_group(&self, vpc: usize, random: &mut Random) -> usize {
        let there: Vec<usize> =
            (0..GROUPS).filter(|group| *group == 0 || self.groups[vpc * GROUPS + group].present).collect();
        random.pick(&there)
    }

    /// Groups for a port of a VPC; none means `default`.
    #[must_use]
    pub fn some_groups(&self, vpc: usize, random: &mut Random) -> Vec<usize> {
        let mut groups: Vec<usize> = (0..random.below(4)).map(|_| self.some_group(vpc, random)).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// Changes a group.
    pub fn change_group(&mut self, at: usize, change: impl FnOnce(&mut GroupView)) {
        let before = self.groups[at].clone();
        change(&mut self.groups[at]);
        if before != self.groups[at] {
            self.epoch += 1;
        }
    }

    /// Rewrites, changes, deletes or makes a group; what happened.
    pub fn change_some_group(&mut self, random: &mut Random) -> &'static str {
        let at = random.below(self.groups.len());
        let (vpc, group) = (at / GROUPS, at % GROUPS);
        let there = self.groups[at].present;
        match random.below(6) {
            0 | 5 if there && group > 0 => {
                self.delete_group(vpc, group);
                "group deleted"
            }
            0..=2 if there && self.groups[at].rules.len() > 1 => {
                let which = random.below(self.groups[at].rules.len());
                self.change_group(at, |group| drop(group.rules.remove(which)));
                "rule removed"
            }
            3 | 4 if there && self.groups[at].rules.len() < RULES => {
                let rule = self.some_rule(vpc, random);
                self.change_group(at, |group| group.rules.push(rule));
                "rule added"
            }
            _ => {
                let rules = self.some_rules(vpc, group, random);
                self.change_group(at, |group| *group = GroupView { present: true, rules });
                "group written anew"
            }
        }
    }

    /// Takes a group away from all who are in it or name it.
    fn delete_group(&mut self, vpc: usize, group: usize) {
        for guest in 0..self.ports.len() {
            if self.ports[guest].subnet.0 == vpc {
                self.change(guest, |port| {
                    port.groups.iter_mut().for_each(|groups| groups.retain(|other| *other != group));
                });
            }
        }
        let named = format!("{{group: {}}}", name(vpc, group));
        for at in vpc * GROUPS..(vpc + 1) * GROUPS {
            self.change_group(at, |view| view.rules.retain(|rule| !rule.contains(&named)));
        }
        self.change_group(vpc * GROUPS + group, |view| *view = GroupView::default());
    }

    /// All groups are there, and open.
    pub fn open_groups(&mut self) {
        for at in 0..self.groups.len() {
            let (vpc, group) = (at / GROUPS, at % GROUPS);
            let rules = open_rules(vpc, group, vpc + group);
            self.change_group(at, |group| *group = GroupView { present: true, rules });
        }
    }

    /// Groups as manifests say them: name, and the rest.
    pub(super) fn group_specs(&self) -> Vec<(String, String)> {
        let there = self.groups.iter().enumerate().filter(|(_, group)| group.present);
        there
            .map(|(at, group)| {
                let vpc = at / GROUPS;
                let spec = format!("vpc: v{vpc}, rules: [{}]", group.rules.join(", "));
                (name(vpc, at % GROUPS), spec)
            })
            .collect()
    }
}

/// What a port says of its groups.
pub(super) fn membership(port: &PortView) -> String {
    match &port.groups {
        None => "unfiltered: true".to_owned(),
        Some(groups) if groups.is_empty() => "unfiltered: false".to_owned(),
        Some(groups) => {
            let names: Vec<String> = groups.iter().map(|group| name(port.subnet.0, *group)).collect();
            format!("securityGroups: [{}]", names.join(", "))
        }
    }
}
