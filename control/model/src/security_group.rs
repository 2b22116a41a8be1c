//! SecurityGroup: rules for what its ports send and are sent, and a name by which other rules mean those ports.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::name::{Name, ObjectName};
use crate::net::parse_remote;
use crate::problem::quoted;
use crate::suggest::nearest;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::fmt;
use std::ops::RangeInclusive;

/// Most rules of a group.
pub const RULES_MAX: usize = 1000;
/// Most groups of a port.
pub const GROUPS_PER_PORT_MAX: usize = 10;
/// Most groups of a set: each that rules name has a number of 16 bits on a host, and half of them may be about to be replaced.
pub const GROUPS_MAX: usize = 32_768;
/// Most ranges of ports of a rule: of all rules of all groups of a port there may be 2^18.
pub const PORT_RANGES_MAX: usize = 24;
/// Most groups that one network may be in, because of all ports that may send from it.
pub const GROUPS_PER_NETWORK_MAX: usize = 64;
/// Most different lengths of the networks that the ports of a VPC may send from, for each IP version, besides single addresses and all: each is a look-up
/// for first packets.
pub const NETWORK_LENGTHS_MAX: usize = 16;
/// Priority of a rule that says none.
pub const PRIORITY_DEFAULT: u16 = 1000;

/// What a SecurityGroup says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityGroupSpec {
    /// The VPC whose ports may be in it.
    pub vpc: ObjectName,
    /// Its rules. Their order means nothing: all rules of all groups of a port count by priority, then deny before allow.
    pub rules: Vec<Rule>,
    /// Rules that might replace them: what they would change is counted and listed, and nothing is changed.
    pub shadow: Option<Vec<Rule>>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Seen from the port.
    pub direction: Direction,
    /// What becomes of a packet that matches.
    pub action: Action,
    /// Lower counts first.
    pub priority: u16,
    /// The protocol; `None`: any.
    pub protocol: Option<Protocol>,
    /// Destination ports, in order, apart and not adjacent; empty: all, and those of protocols without ports.
    pub ports: Vec<PortRange>,
    /// ICMP type, and code.
    pub icmp: Option<(u8, Option<u8>)>,
    /// Who is at the other end: the destination of what the port sends, the source of what it is sent.
    pub remote: Remote,
    /// Whether new sessions that it decides are logged.
    pub log: bool,
}

/// Which way a packet goes, seen from the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the port.
    Ingress,
    /// From the port.
    Egress,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passes, and what answers it.
    Allow,
    /// It is dropped.
    Deny,
}

/// An IP protocol by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub u8);

/// Both ends of a range of ports; the first is not above the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remote {
    /// Anybody, of either family.
    Any,
    /// The addresses of a network.
    Cidr(IpNet),
    /// The members of a group of the same VPC: its ports' addresses. A group without members is nobody.
    Group(ObjectName),
}

impl Direction {
    /// The name, as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl Action {
    /// The name, as manifests write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Protocol {
    /// RFC 792.
    pub const ICMP: Self = Self(1);
    /// RFC 9293.
    pub const TCP: Self = Self(6);
    /// RFC 768.
    pub const UDP: Self = Self(17);
    /// RFC 4443.
    pub const ICMPV6: Self = Self(58);
    /// RFC 9260.
    pub const SCTP: Self = Self(132);

    /// Those with names of their own in manifests.
    const NAMED: [(&'static str, Self); 5] = [
        ("tcp", Self::TCP),
        ("udp", Self::UDP),
        ("icmp", Self::ICMP),
        ("icmpv6", Self::ICMPV6),
        ("sctp", Self::SCTP),
    ];

    /// Reads a protocol as a rule names it.
    ///
    /// # Errors
    /// Unknown, or any: what to write instead.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        parse_protocol(text)?.ok_or_else(|| Refusal::new("is no protocol", "leave it out to mean any"))
    }

    /// Whether its packets have ports that rules can name.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// Whether its packets have an ICMP type and code.
    pub const fn has_types(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => formatter.write_str(name),
            None => fmt::Display::fmt(&self.0, formatter),
        }
    }
}

impl From<PortRange> for RangeInclusive<u16> {
    fn from(range: PortRange) -> Self {
        range.first..=range.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => fmt::Display::fmt(&self.first, formatter),
            false => write!(formatter, "{}-{}", self.first, self.last),
        }
    }
}

/// The word that means a VPC's own group, of ports that name no other.
const DEFAULT: &str = "default";

/// The name under which a VPC's group `default` is kept: names are unique in a project, and a project may have several VPCs.
pub fn default_group(vpc: &ObjectName) -> ObjectName {
    let name = Name::prefixed(DEFAULT, &vpc.name);
    ObjectName { project: vpc.project.clone(), name }
}

/// The VPC, of the group's own project, whose group `default` has that name.
pub(crate) fn is_default_group_of(group: &ObjectName) -> Option<ObjectName> {
    let name = group.name.without_prefix(DEFAULT)?;
    Some(ObjectName { project: group.project.clone(), name })
}

/// Whether a resource in `project` means the group `default` of `vpc` by `reference`.
pub(crate) fn means_default(reference: &ObjectName, project: &Name, vpc: &ObjectName) -> bool {
    let own = reference.project == *project || reference.project == vpc.project;
    own && reference.name.as_str() == DEFAULT
}

/// The group that a resource in `project` means by `reference`, among those of `vpc`: `default` is the VPC's own.
pub fn resolve(reference: &ObjectName, project: &Name, vpc: &ObjectName) -> ObjectName {
    match means_default(reference, project, vpc) {
        true => default_group(vpc),
        false => reference.clone(),
    }
}

/// `default`, as a resource of `project` writes it.
pub(crate) fn default_reference(project: &Name) -> ObjectName {
    ObjectName { project: project.clone(), name: Name::of_word(DEFAULT) }
}

impl SecurityGroupSpec {
    /// The group of a VPC's ports that name none, as it is until somebody writes it: they send to anybody, and are sent to by each other.
    pub fn default_of(vpc: &ObjectName) -> Self {
        let rule = |direction, remote| Rule {
            direction,
            action: Action::Allow,
            priority: PRIORITY_DEFAULT,
            protocol: None,
            ports: Vec::new(),
            icmp: None,
            remote,
            log: false,
        };
        let own = Remote::Group(default_reference(&vpc.project));
        Self {
            vpc: vpc.clone(),
            rules: vec![rule(Direction::Egress, Remote::Any), rule(Direction::Ingress, own)],
            shadow: None,
        }
    }

    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let remedy = "name the Vpc this group is for";
        let vpc = fields.required(reader, "vpc", remedy, |text| ObjectName::parse(text, project));
        let rules = read_rules(&mut fields, reader, "rules", project).unwrap_or_default();
        let shadow = read_rules(&mut fields, reader, "shadow", project);
        fields.finish(reader);
        Some(Self { vpc: vpc?, rules, shadow })
    }

    /// The rules in force, and those that might replace them, each with the field that it is in.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = (String, &Rule)> {
        let named = |list: &'static str| move |(index, rule)| (format!("spec.{list}[{index}]"), rule);
        let shadow = self.shadow.iter().flatten().enumerate().map(named("shadow"));
        self.rules.iter().enumerate().map(named("rules")).chain(shadow)
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        let rules: Vec<Value> = self.rules.iter().map(|rule| rule.to_json(project)).collect();
        let mut spec = json!({ "vpc": self.vpc.relative_to(project), "rules": rules });
        if let (Some(shadow), Some(fields)) = (&self.shadow, spec.as_object_mut()) {
            fields.insert("shadow".into(), shadow.iter().map(|rule| rule.to_json(project)).collect());
        }
        spec
    }
}

impl Rule {
    fn to_json(&self, project: &Name) -> Value {
        let mut rule = Map::new();
        rule.insert("direction".into(), json!(self.direction.as_str()));
        rule.insert("action".into(), json!(self.action.as_str()));
        rule.insert("priority".into(), json!(self.priority));
        if let Some(protocol) = self.protocol {
            rule.insert("protocol".into(), json!(protocol.to_string()));
        }
        if !self.ports.is_empty() {
            let ports: Vec<String> = self.ports.iter().map(ToString::to_string).collect();
            rule.insert("ports".into(), json!(ports.join(",")));
        }
        if let Some((kind, code)) = self.icmp {
            rule.insert("icmpType".into(), json!(kind));
            if let Some(code) = code {
                rule.insert("icmpCode".into(), json!(code));
            }
        }
        let remote = match &self.remote {
            Remote::Any => json!({ "any": true }),
            Remote::Cidr(cidr) => json!({ "cidr": cidr }),
            Remote::Group(group) => json!({ "group": group.relative_to(project) }),
        };
        rule.insert("remote".into(), remote);
        if self.log {
            rule.insert("log".into(), json!(true));
        }
        Value::Object(rule)
    }
}

/// Reads a list of rules, if it is there.
fn read_rules(
    fields: &mut Fields<'_>,
    reader: &mut Reader,
    list: &'static str,
    project: &Name,
) -> Option<Vec<Rule>> {
    let items = fields.items(reader, list)?;
    if items.len() > RULES_MAX {
        let message = format!("has {} rules, more than {RULES_MAX}", items.len());
        let remedy = format!("split the group: a port may be in {GROUPS_PER_PORT_MAX}");
        reader.refuse(fields.position, &fields.path(list), None, Refusal::new(message, remedy));
    }
    let rule = |(path, node): (String, _)| read_rule(Fields::open(node, &path, reader)?, reader, project);
    Some(items.into_iter().take(RULES_MAX).filter_map(rule).collect())
}

fn read_rule(mut rule: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Rule> {
    let words = [("ingress", Direction::Ingress), ("egress", Direction::Egress)];
    let direction = rule.required(reader, "direction", "write ingress or egress", |text| word(text, &words));
    let words = [("allow", Action::Allow), ("deny", Action::Deny)];
    let action = rule.required(reader, "action", "write allow or deny", |text| word(text, &words));
    let priority = rule.integer(reader, "priority", 0..=u64::from(u16::MAX));
    let written = rule.node("protocol").is_some();
    let protocol = rule.parse(reader, "protocol", parse_protocol);
    let ports = rule.parse(reader, "ports", parse_ports);
    let kind = read_byte(&mut rule, reader, "icmpType");
    let code = read_byte(&mut rule, reader, "icmpCode");
    let remote = read_remote(&mut rule, reader, project);
    let log = rule.boolean(reader, "log").unwrap_or(false);
    // Of a protocol that could not be read nobody knows what belongs to it.
    if protocol.is_some() || !written {
        check_fields(&mut rule, reader, protocol.flatten(), remote.as_ref());
    }
    rule.finish(reader);
    Some(Rule {
        direction: direction?,
        action: action?,
        priority: priority.and_then(|priority| u16::try_from(priority).ok()).unwrap_or(PRIORITY_DEFAULT),
        protocol: if written { protocol? } else { None },
        ports: ports.unwrap_or_default(),
        icmp: kind.map(|kind| (kind, code)),
        remote: remote?,
        log,
    })
}

/// Refuses fields that the rule's protocol has no use for, and a remote that its packets cannot have.
fn check_fields(
    rule: &mut Fields<'_>,
    reader: &mut Reader,
    protocol: Option<Protocol>,
    remote: Option<&Remote>,
) {
    let named = protocol.map_or_else(|| "any".to_owned(), |protocol| protocol.to_string());
    if !protocol.is_some_and(Protocol::has_ports) {
        let message = format!("protocol {named} has no ports");
        rule.unsupported(reader, "ports", &message, "write protocol: tcp, udp or sctp, or remove the field");
    }
    if !protocol.is_some_and(Protocol::has_types) {
        let message = format!("protocol {named} has no ICMP types");
        for name in ["icmpType", "icmpCode"] {
            rule.unsupported(reader, name, &message, "write protocol: icmp or icmpv6, or remove the field");
        }
    } else if rule.node("icmpType").is_none() {
        let message = "a code means nothing without its type";
        rule.unsupported(reader, "icmpCode", message, "write icmpType too, or remove the field");
    }
    let other_family = match (protocol, remote) {
        (Some(Protocol::ICMP), Some(Remote::Cidr(IpNet::V6(_)))) => Some("icmp is IPv4's: write icmpv6"),
        (Some(Protocol::ICMPV6), Some(Remote::Cidr(IpNet::V4(_)))) => Some("icmpv6 is IPv6's: write icmp"),
        _ => None,
    };
    if let Some(why) = other_family {
        let refusal = Refusal::new(
            format!("no packet of protocol {named} has such an address"),
            format!("{why}, or a network of the other family"),
        );
        let path = rule.path("remote.cidr");
        reader.refuse(rule.position, &path, None, refusal);
    }
}

fn read_byte(rule: &mut Fields<'_>, reader: &mut Reader, name: &'static str) -> Option<u8> {
    rule.integer(reader, name, 0..=u64::from(u8::MAX)).and_then(|value| u8::try_from(value).ok())
}

/// One of some words.
fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Err(Refusal::new("unknown word", format!("write {}", names.join(" or "))))
        }
    }
}

/// Reads a protocol: a name, a number, or `any`. Numbers that have a name mean the same.
fn parse_protocol(text: &str) -> Parsed<Option<Protocol>> {
    if text == "any" {
        return Ok(None);
    }
    let named = Protocol::NAMED.iter().find(|(name, _)| *name == text);
    if let Some((_, protocol)) = named {
        return Ok(Some(*protocol));
    }
    match text.parse::<u8>() {
        Ok(number) if !text.starts_with('+') => Ok(Some(Protocol(number))),
        _ => {
            let names: Vec<&str> = Protocol::NAMED.iter().map(|(name, _)| *name).chain(["any"]).collect();
            let near = nearest(text, names.iter().copied()).unwrap_or("any");
            let remedy =
                format!("write {}, or a number from 0 to 255; nearest known: {near}", names.join(", "));
            Err(Refusal::new("unknown protocol", remedy))
        }
    }
}

/// Reads ports, as `80,443,8000-8100`: in order, joined where they touch.
fn parse_ports(text: &str) -> Parsed<Vec<PortRange>> {
    let remedy = "write ports from 0 to 65535, alone or as ranges, as \"80,443,8000-8100\"";
    let refuse = |part: &str, why: &str| Err(Refusal::new(format!("\"{}\" {why}", quoted(part)), remedy));
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Some(first), Some(last)) = (number(first.trim()), number(last.trim())) else {
            return refuse(part, "is neither a port nor a range of ports");
        };
        if first > last {
            return refuse(part, "ends before it begins");
        }
        ranges.push(PortRange { first, last });
    }
    if ranges.len() > PORT_RANGES_MAX {
        let message = format!("names {} ranges, more than {PORT_RANGES_MAX}", ranges.len());
        return Err(Refusal::new(message, "write several rules"));
    }
    ranges.sort();
    let mut joined: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                before.last = before.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    Ok(joined)
}

/// Reads who is at the other end: exactly one of the three ways. That nothing is written does not mean anybody.
fn read_remote(rule: &mut Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Remote> {
    let remedy = "write one of {any: true}, {cidr: NETWORK}, {group: NAME}";
    if rule.node("remote").is_none() {
        rule.missing(reader, "remote", remedy);
        return None;
    }
    let mut remote = rule.mapping(reader, "remote")?;
    let names: Vec<&str> = remote.names().collect();
    if names.len() != 1 {
        let message = format!("says {} times who is meant", names.len());
        reader.refuse(remote.position, &rule.path("remote"), None, Refusal::new(message, remedy));
    }
    let position = remote.position;
    let missing = "write its value";
    let cidr = names.contains(&"cidr").then(|| remote.required(reader, "cidr", missing, parse_remote));
    let group = |text: &str| ObjectName::parse(text, project);
    let group = names.contains(&"group").then(|| remote.required(reader, "group", missing, group));
    let any = remote.boolean(reader, "any");
    if any == Some(false) {
        let refusal = Refusal::new("means nobody", "write true, or remove the rule");
        reader.refuse(position, &remote.path("any"), Some("false"), refusal);
    }
    // What is not known is refused with the nearest of these.
    remote.node("cidr");
    remote.node("group");
    remote.finish(reader);
    match (names.len(), any, cidr.flatten(), group.flatten()) {
        (1, Some(true), None, None) => Some(Remote::Any),
        (1, None, Some(cidr), None) => Some(Remote::Cidr(cidr)),
        (1, None, None, Some(group)) => Some(Remote::Group(group)),
        _ => None,
    }
}
