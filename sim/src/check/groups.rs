//! Security groups as the resources say them, read anew for each packet: what may pass, from another side than compiled rules.
//!
//! Nothing here is shared with the switch but the resources themselves: no table, no number of a group, no order kept. For each packet all ports are looked
//! through for who is a member, and all rules for which match.
//!
//! This is about the first packet of a flow. What answers it passes by its session, and who sends to whom by which way is not asked here.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use model::security_group::{
    Action, Direction, Protocol, Remote, Rule, SecurityGroupSpec, default_group, resolve,
};
use model::{ObjectName, PortSpec, ResourceSet, Typed};

/// What rules can see of the first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct First {
    /// Where it says it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Its protocol; in IPv6 that of the last header of the chain.
    pub protocol: u8,
    /// Its destination port; no matter which for protocols without.
    pub destination_port: u16,
    /// Its ICMP or ICMPv6 type and code; `None`, for these, if it is too short to have any.
    pub icmp: Option<(u8, u8)>,
}

/// What the rules of one port say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The port has no groups: there is nothing to ask.
    Unfiltered,
    /// No group of the port has a rule for this direction: open for egress, closed for ingress.
    NoRules {
        /// It passes.
        allowed: bool,
    },
    /// There are rules, and none matches: denied.
    NoMatch,
    /// These decide, all of the same priority and action: the groups they are of, and where in the group.
    Rules {
        /// They allow.
        allowed: bool,
        /// At least one.
        rules: Vec<(ObjectName, usize)>,
    },
}

impl Decision {
    /// The packet passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Unfiltered => true,
            Self::NoMatch => false,
            Self::NoRules { allowed } | Self::Rules { allowed, .. } => *allowed,
        }
    }
}

/// What the rules of `port` say of what it sends or is sent; `None` if there is no such port.
#[must_use]
pub fn decide(
    set: &ResourceSet,
    port: &ObjectName,
    direction: Direction,
    packet: &First,
) -> Option<Decision> {
    let port = set.port(port)?;
    if port.spec.unfiltered {
        return Some(Decision::Unfiltered);
    }
    let vpc = &set.subnet(&port.spec.subnet)?.spec.vpc;
    let groups = names(port, vpc);
    let remote = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let mut is_empty = true;
    let mut best: Option<(u16, bool)> = None;
    let mut rules = Vec::new();
    for name in groups {
        let group = spec_of(set, &name, vpc)?;
        let project = name.project.clone();
        for (index, rule) in group.rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction) {
            is_empty = false;
            let is_remote = match &rule.remote {
                Remote::Any => true,
                Remote::Cidr(cidr) => cidr.contains(&remote),
                Remote::Group(of) => is_member(set, &resolve(of, &project, vpc), vpc, remote),
            };
            if !is_remote || !is_about(rule, packet) {
                continue;
            }
            // Lower first, then deny (false) before allow.
            let order = (rule.priority, rule.action == Action::Allow);
            if best.is_none_or(|best| order < best) {
                best = Some(order);
                rules.clear();
            }
            if best == Some(order) {
                rules.push((name.clone(), index));
            }
        }
    }
    Some(match best {
        Some((_, allowed)) => Decision::Rules { allowed, rules },
        None if is_empty => Decision::NoRules { allowed: direction == Direction::Egress },
        None => Decision::NoMatch,
    })
}

/// Whether a packet between two addresses passes the rules of whom it comes from and whom it goes to, of which either may be no port of ours; `None` if one of them does
/// not exist.
#[must_use]
pub fn passes(
    set: &ResourceSet,
    sender: Option<&ObjectName>,
    receiver: Option<&ObjectName>,
    packet: &First,
) -> Option<bool> {
    let says = |port: Option<&ObjectName>, direction| match port {
        Some(port) => decide(set, port, direction, packet).map(|decision| decision.is_allowed()),
        None => Some(true),
    };
    Some(says(sender, Direction::Egress)? && says(receiver, Direction::Ingress)?)
}

/// The groups that a port is in, by the names they are kept under, each once.
fn names(port: Typed<'_, PortSpec>, vpc: &ObjectName) -> Vec<ObjectName> {
    let project = port.meta.object().project;
    let mut names: Vec<ObjectName> =
        port.spec.security_groups.iter().map(|group| resolve(group, &project, vpc)).collect();
    names.sort();
    names.dedup();
    names
}

/// What a group says; the group `default` of the VPC if nobody wrote it, too.
fn spec_of(set: &ResourceSet, name: &ObjectName, vpc: &ObjectName) -> Option<SecurityGroupSpec> {
    match set.security_group(name) {
        Some(group) => Some(group.spec.clone()),
        None => (*name == default_group(vpc)).then(|| SecurityGroupSpec::default_of(vpc)),
    }
}

/// Whether `address` is one of a port in that group of that VPC. An allowed prefix of all addresses makes nobody a member.
fn is_member(set: &ResourceSet, group: &ObjectName, vpc: &ObjectName, address: IpAddr) -> bool {
    set.ports()
        .filter(|port| set.subnet(&port.spec.subnet).is_some_and(|subnet| subnet.spec.vpc == *vpc))
        .filter(|port| !port.spec.unfiltered && names(*port, vpc).contains(group))
        .any(|port| {
            let allowed = port.spec.allowed_addresses.iter().map(|allowed| allowed.ip);
            port.spec.ips.contains(&address)
                || allowed.filter(|net| net.prefix_len() > 0).any(|net| net.contains(&address))
        })
}

/// Whether the rule's protocol, ports and type are the packet's.
fn is_about(rule: &Rule, packet: &First) -> bool {
    let protocol = Protocol(packet.protocol);
    let has_port = |range: &model::security_group::PortRange| {
        RangeInclusive::from(*range).contains(&packet.destination_port)
    };
    rule.protocol.is_none_or(|wanted| wanted == protocol)
        && (rule.ports.is_empty() || protocol.has_ports() && rule.ports.iter().any(has_port))
        && match (rule.icmp, packet.icmp) {
            (None, _) => true,
            (Some((kind, code)), Some((its, its_code))) => {
                protocol.has_types() && kind == its && code.is_none_or(|code| code == its_code)
            }
            (Some(_), None) => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Environment, Name, load_text};

    const SET: &str = "\
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16, 'fd00::/48']}
---
kind: Vpc
metadata: {name: green}
spec: {vni: 200, cidrs: [10.0.0.0/16]}
---
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24, 'fd00::/64']}
---
kind: Subnet
metadata: {name: lawn}
spec: {vpc: green, cidrs: [10.0.1.0/24]}
---
kind: SecurityGroup
metadata: {name: web}
spec:
  vpc: blue
  rules:
    - {direction: ingress, action: allow, protocol: tcp, ports: '80,8000-8100', remote: {cidr: 0.0.0.0/0}}
    - {direction: ingress, action: allow, protocol: tcp, ports: '22', remote: {group: ops}}
    - {direction: ingress, action: allow, protocol: icmp, icmpType: 8, remote: {any: true}}
    - {direction: ingress, action: deny, protocol: tcp, ports: '80', remote: {cidr: 10.0.1.66/32}}
    - {direction: ingress, action: deny, priority: 1001, remote: {any: true}}
---
kind: SecurityGroup
metadata: {name: ops}
spec:
  vpc: blue
  rules: [{direction: egress, action: deny, priority: 10, remote: {cidr: 192.0.2.0/24}}, {direction: egress, action: allow, remote: {any: true}}]
---
kind: SecurityGroup
metadata: {name: nobody}
spec: {vpc: blue, rules: [{direction: ingress, action: allow, remote: {group: nobody}}]}
---
kind: Port
metadata: {name: server}
spec: {subnet: web, ips: [10.0.1.10, 'fd00::10'], securityGroups: [web]}
---
kind: Port
metadata: {name: operator}
spec: {subnet: web, ips: [10.0.1.20], securityGroups: [ops], allowedAddresses: [{ip: 10.0.9.0/24}, {ip: 0.0.0.0/0}]}
---
kind: Port
metadata: {name: plain}
spec: {subnet: web, ips: [10.0.1.30]}
---
kind: Port
metadata: {name: other}
spec: {subnet: web, ips: [10.0.1.31]}
---
kind: Port
metadata: {name: router}
spec: {subnet: web, ips: [10.0.1.40], unfiltered: true}
---
kind: Port
metadata: {name: gardener}
spec: {subnet: lawn, ips: [10.0.1.20]}
";

    fn object(name: &str) -> ObjectName {
        ObjectName::parse(name, &Name::default_project()).unwrap()
    }

    fn packet(source: &str, destination: &str, protocol: u8, destination_port: u16) -> First {
        let icmp = ([1, 58].contains(&protocol)).then_some((8, 0));
        First {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            destination_port,
            icmp,
        }
    }

    #[test]
    fn one_list_by_priority_then_deny_before_allow() {
        let set = load_text(SET, "set.yaml", &Environment::default()).unwrap();
        let ingress = |source: &str, protocol, port| {
            let packet = packet(source, "10.0.1.10", protocol, port);
            decide(&set, &object("server"), Direction::Ingress, &packet).unwrap()
        };
        let by = |allowed, index| Decision::Rules { allowed, rules: vec![(object("web"), index)] };
        assert_eq!(ingress("10.0.1.30", 6, 80), by(true, 0));
        assert_eq!(ingress("10.0.1.66", 6, 80), by(false, 3), "the same priority: deny");
        assert_eq!(ingress("10.0.1.30", 6, 81), by(false, 4));
        assert_eq!(ingress("10.0.1.20", 6, 22), by(true, 1));
        assert_eq!(ingress("10.0.9.7", 6, 22), by(true, 1), "an allowed prefix of a member");
        assert_eq!(ingress("192.0.2.1", 6, 22), by(false, 4), "0.0.0.0/0 makes nobody a member");
        assert_eq!(ingress("192.0.2.1", 1, 0), by(true, 2));
        assert_eq!(ingress("fd00::20", 6, 80), by(false, 4), "a CIDR is of its own family");
    }

    #[test]
    fn directions_without_rules_and_groups_without_members() {
        let set = load_text(SET, "set.yaml", &Environment::default()).unwrap();
        let says =
            |port: &str, direction, packet: &First| decide(&set, &object(port), direction, packet).unwrap();
        let out = packet("10.0.1.10", "192.0.2.1", 6, 443);
        assert_eq!(says("server", Direction::Egress, &out), Decision::NoRules { allowed: true });
        assert_eq!(says("operator", Direction::Ingress, &out), Decision::NoRules { allowed: false });
        let denied = Decision::Rules { allowed: false, rules: vec![(object("ops"), 0)] };
        assert_eq!(says("operator", Direction::Egress, &out), denied);
        assert_eq!(says("router", Direction::Ingress, &out), Decision::Unfiltered);
        let among = packet("10.0.1.30", "10.0.1.31", 17, 53);
        assert_eq!(
            passes(&set, Some(&object("plain")), Some(&object("other")), &among),
            Some(true),
            "the same `default`"
        );
        let from_other_vpc = packet("10.0.1.20", "10.0.1.31", 17, 53);
        assert_eq!(
            says("other", Direction::Ingress, &from_other_vpc),
            Decision::NoMatch,
            "the gardener is of another VPC"
        );
        assert_eq!(passes(&set, Some(&object("plain")), Some(&object("operator")), &among), Some(false));
        assert_eq!(passes(&set, None, Some(&object("absent")), &among), None);
    }
}
