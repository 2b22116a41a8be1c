//! LoadBalancer: an address of a VPC that stands for many targets.

use crate::fields::{Fields, Parsed, Reader, Refusal};
use crate::health_check::HealthCheck;
use crate::name::{Name, ObjectName};
use crate::net::parse_address;
use crate::security_group::Protocol;
use crate::suggest::nearest;
use crate::yaml::Node;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Most listeners of a load balancer.
pub const LISTENERS_MAX: usize = 64;
/// Most targets of a load balancer.
pub const TARGETS_MAX: usize = 128;
/// Greatest weight of a target.
pub const WEIGHT_MAX: u16 = 256;

/// What a LoadBalancer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadBalancerSpec {
    /// The VPC whose ports may use it, and those of its peers.
    pub vpc: ObjectName,
    /// A free address of the VPC.
    pub vip: IpAddr,
    /// What it answers to; no two of one protocol and port.
    pub listeners: Vec<Listener>,
    /// Who takes connections; each once.
    pub targets: Vec<Target>,
    /// What decides which target a connection goes to.
    pub session_affinity: SessionAffinity,
    /// How it is found out whether targets live; otherwise that is not asked.
    pub health_check: Option<HealthCheck>,
    /// What becomes of connections when no target is up.
    pub when_all_down: WhenAllDown,
}

/// A port of the shared address, and that of the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port that clients use.
    pub port: u16,
    /// The port that targets are asked at.
    pub target_port: u16,
}

/// Who takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Who it is.
    pub at: TargetAddress,
    /// Its share of new connections, among the weights of all. 0: none, but it keeps those that it has.
    pub weight: u16,
}

/// How a target is named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetAddress {
    /// A port of the VPC: its first address of the shared address's family. It is up unless it is shut down or without a host.
    Port(ObjectName),
    /// An address of the VPC.
    Ip(IpAddr),
}

/// What decides which target a connection goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionAffinity {
    /// Addresses, ports and protocol.
    #[default]
    None,
    /// The client's address alone.
    ClientIp,
}

/// What becomes of connections when no target is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenAllDown {
    /// They are refused.
    #[default]
    Refuse,
    /// They go to all targets, as if all were up.
    Spread,
}

impl SessionAffinity {
    const WORDS: [(&'static str, Self); 2] = [("none", Self::None), ("clientIP", Self::ClientIp)];
}

impl WhenAllDown {
    const WORDS: [(&'static str, Self); 2] = [("refuse", Self::Refuse), ("spread", Self::Spread)];
}

impl LoadBalancerSpec {
    /// Reads `spec`.
    pub(crate) fn read(mut fields: Fields<'_>, reader: &mut Reader, project: &Name) -> Option<Self> {
        let remedy = "name the Vpc whose ports use it";
        let vpc = fields.required(reader, "vpc", remedy, |text| ObjectName::parse(text, project));
        let remedy = "write a free address of the Vpc, as vip: 10.0.100.1";
        let vip = fields.required(reader, "vip", remedy, parse_address);
        let listeners = read_listeners(&mut fields, reader);
        let targets = read_targets(&mut fields, reader, project, vip);
        let affinity = fields.parse(reader, "sessionAffinity", |text| word(text, &SessionAffinity::WORDS));
        let when_all_down = fields.parse(reader, "whenAllDown", |text| word(text, &WhenAllDown::WORDS));
        let health_check = HealthCheck::read(&mut fields, reader, &listeners);
        fields.finish(reader);
        Some(Self {
            vpc: vpc?,
            vip: vip?,
            listeners,
            targets,
            session_affinity: affinity.unwrap_or_default(),
            health_check,
            when_all_down: when_all_down.unwrap_or_default(),
        })
    }

    /// As a manifest writes it.
    pub(crate) fn to_json(&self, project: &Name) -> Value {
        let listener = |listener: &Listener| {
            json!({
                "protocol": listener.protocol.to_string(),
                "port": listener.port,
                "targetPort": listener.target_port,
            })
        };
        let target = |target: &Target| {
            let mut json = Map::new();
            match &target.at {
                TargetAddress::Port(port) => json.insert("port".into(), json!(port.relative_to(project))),
                TargetAddress::Ip(ip) => json.insert("ip".into(), json!(ip)),
            };
            json.insert("weight".into(), json!(target.weight));
            Value::Object(json)
        };
        let mut json = json!({
            "vpc": self.vpc.relative_to(project),
            "vip": self.vip,
            "listeners": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(target).collect::<Vec<_>>(),
            "sessionAffinity": named(self.session_affinity, &SessionAffinity::WORDS),
            "whenAllDown": named(self.when_all_down, &WhenAllDown::WORDS),
        });
        if let (Some(check), Some(fields)) = (&self.health_check, json.as_object_mut()) {
            fields.insert("healthCheck".to_owned(), check.to_json());
        }
        json
    }
}

pub(crate) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Parsed<T> {
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let near = nearest(text, known.iter().copied()).unwrap_or_default();
            Err(Refusal::new("unknown word", format!("write one of {}; nearest: {near}", known.join(", "))))
        }
    }
}

pub(crate) fn named<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

fn protocol(text: &str) -> Parsed<Protocol> {
    word(text, &[("tcp", Protocol::TCP), ("udp", Protocol::UDP), ("sctp", Protocol::SCTP)])
}

/// The items of a list that must have one and may have `most`; none is a problem.
fn items<'n>(
    fields: &mut Fields<'n>,
    reader: &mut Reader,
    (name, remedy): (&'static str, &str),
    most: usize,
) -> Vec<(String, &'n Node)> {
    let items = fields.items(reader, name);
    match &items {
        Some(items) if items.len() > most => {
            let message = format!("has {} entries, more than {most}", items.len());
            let remedy = "use another LoadBalancer for some of them";
            reader.refuse(fields.position, &fields.path(name), None, Refusal::new(message, remedy));
        }
        Some(items) if !items.is_empty() => {}
        _ => fields.missing(reader, name, remedy),
    }
    items.unwrap_or_default()
}

fn read_listeners(fields: &mut Fields<'_>, reader: &mut Reader) -> Vec<Listener> {
    let how = ("listeners", "write what it answers to, as listeners: [{protocol: tcp, port: 80}]");
    let mut listeners: Vec<Listener> = Vec::new();
    for (path, node) in items(fields, reader, how, LISTENERS_MAX) {
        let Some(mut item) = Fields::open(node, &path, reader) else { continue };
        let protocol = item.required(reader, "protocol", "write tcp, udp or sctp", protocol);
        let range = 1..=u64::from(u16::MAX);
        if item.node("port").is_none() {
            item.missing(reader, "port", "write the port that clients use");
        }
        let as_port = |port: u64| u16::try_from(port).ok();
        let port = item.integer(reader, "port", range.clone()).and_then(as_port);
        let target_port = item.integer(reader, "targetPort", range).and_then(as_port).or(port);
        let position = item.position;
        item.finish(reader);
        let Some(((protocol, port), target_port)) = protocol.zip(port).zip(target_port) else { continue };
        let refusal = if listeners.iter().any(|other| (other.protocol, other.port) == (protocol, port)) {
            Some(Refusal::new(format!("{protocol} {port} is listened to already"), "remove one of them"))
        } else if protocol == Protocol::SCTP && port != target_port {
            let message = "SCTP's checksum covers the ports, which can therefore not be changed on the way";
            Some(Refusal::new(message, "let the targets listen at the same port"))
        } else {
            None
        };
        match refusal {
            Some(refusal) => reader.refuse(position, &path, None, refusal),
            None => listeners.push(Listener { protocol, port, target_port }),
        }
    }
    listeners
}

fn read_targets(
    fields: &mut Fields<'_>,
    reader: &mut Reader,
    project: &Name,
    vip: Option<IpAddr>,
) -> Vec<Target> {
    let how = ("targets", "write who takes connections, as targets: [{port: vm1-eth0}]");
    let (mut targets, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, node) in items(fields, reader, how, TARGETS_MAX) {
        let Some(mut item) = Fields::open(node, &path, reader) else { continue };
        let written = [item.node("port").is_some(), item.node("ip").is_some()];
        let port = item.parse(reader, "port", |text| ObjectName::parse(text, project));
        let ip = item.parse(reader, "ip", |text| {
            let address = parse_address(text)?;
            match vip.is_some_and(|vip| vip.is_ipv4() != address.is_ipv4()) {
                true => Err(Refusal::new("is of another IP version than the vip", "use one of the vip's")),
                false => Ok(address),
            }
        });
        let weight = item.integer(reader, "weight", 0..=u64::from(WEIGHT_MAX));
        let position = item.position;
        item.finish(reader);
        if written[0] == written[1] {
            let refusal = Refusal::new("is not one target", "write either port: NAME or ip: ADDRESS");
            reader.refuse(position, &path, None, refusal);
            continue;
        }
        let Some(at) = port.map(TargetAddress::Port).or(ip.map(TargetAddress::Ip)) else { continue };
        if !seen.insert(at.clone()) {
            reader.refuse(position, &path, None, Refusal::new("is written twice", "remove one of them"));
        }
        let weight = weight.and_then(|weight| u16::try_from(weight).ok()).unwrap_or(1);
        targets.push(Target { at, weight });
    }
    targets
}
