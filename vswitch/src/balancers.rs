//! What the API and the log say of load balancers: how their targets are, since when, and why.

use crate::host::Host;
use api::pb;
use fabric::Fabric;
use model::load_balancer::{Target, TargetAddress};
use model::{LoadBalancerSpec, Name, ObjectName, Typed};
use services::health::{Health, TargetId, Verdict};
use services::metadata::Upstream;
use std::net::IpAddr;
use std::time::Duration;

/// The word for a verdict.
fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Up => "up",
        Verdict::Down => "down",
    }
}

/// Why a target is so.
fn reason(health: &Health) -> String {
    health.last.map_or_else(|| "no check has ended yet".to_owned(), |last| last.to_string())
}

/// Writes down what checks found out.
pub(crate) fn log_changes(fabric: &mut Fabric<impl Upstream>) {
    for (TargetId { vpc, shared, target }, health) in fabric.health_changes() {
        let vpc = fabric.vpc(vpc).map_or("", |vpc| vpc.name.as_str());
        let (state, reason) = (word(health.verdict), reason(&health));
        tracing::info!(vpc, vip = %shared, %target, state, reason, "target of a load balancer");
    }
}

impl Host {
    /// Targets of all load balancers, or of one.
    pub fn targets(&self, wanted: Option<&ObjectName>, now: Duration) -> Vec<pb::Target> {
        let balancers = self.resources.load_balancers();
        let balancers =
            balancers.filter(|balancer| wanted.is_none_or(|wanted| balancer.meta.object() == *wanted));
        balancers.flat_map(|balancer| self.targets_of(balancer, now)).collect()
    }

    fn targets_of(&self, balancer: Typed<'_, LoadBalancerSpec>, now: Duration) -> Vec<pb::Target> {
        let spec = balancer.spec;
        let vpc = self.fabric.vpc_named(&spec.vpc.to_string());
        let project = &balancer.meta.object().project;
        let one = |target: &Target| {
            let address = self.address_of(target, spec.vip);
            let id = vpc.zip(address).map(|(vpc, target)| TargetId { vpc, shared: spec.vip, target });
            let connections = id
                .and_then(|id| Some(self.control.balancers().get(id.vpc, id.shared)?.connections(id.target)));
            let mut said = pb::Target {
                balancer: balancer.meta.object().to_string(),
                name: named(target, project),
                address: address.map(|address| address.to_string()),
                weight: target.weight.into(),
                connections: connections.unwrap_or(0),
                ..pb::Target::default()
            };
            let health = id.and_then(|id| Some((id, self.fabric.health(&id)?)));
            match (self.refused(target), health) {
                (Some(reason), _) => (said.state, said.reason) = ("down".to_owned(), reason.to_owned()),
                (None, Some((id, health))) => {
                    said.state = word(health.verdict).to_owned();
                    said.since_seconds = Some(now.saturating_sub(health.since).as_secs_f64());
                    said.reason = reason(&health);
                    said.said_by = self.said_by(&id);
                }
                (None, None) => {
                    said.state = "unknown".to_owned();
                    let reason = match (&spec.health_check, id) {
                        (None, _) => "there is no health check",
                        (Some(_), None) => "this host has no ports of the Vpc",
                        (Some(_), Some(_)) => "this host checks too many targets already",
                    };
                    said.reason = reason.to_owned();
                }
            }
            said
        };
        spec.targets.iter().map(one).collect()
    }

    fn address_of(&self, target: &Target, vip: IpAddr) -> Option<IpAddr> {
        match &target.at {
            TargetAddress::Ip(address) => Some(*address),
            TargetAddress::Port(port) => {
                let like = |address: &&IpAddr| address.is_ipv4() == vip.is_ipv4();
                self.resources.port(port)?.spec.ips.iter().find(like).copied()
            }
        }
    }

    /// Why a target is down whatever checks say.
    fn refused(&self, target: &Target) -> Option<&'static str> {
        let TargetAddress::Port(port) = &target.at else { return None };
        match self.resources.port(port).map(|port| port.spec) {
            None => Some("there is no such Port"),
            Some(port) if port.shutdown => Some("its Port is shut down"),
            Some(port) if port.host.is_none() => Some("its Port has no host"),
            Some(_) => None,
        }
    }

    /// The host by whose word a target's health is known.
    fn said_by(&self, id: &TargetId) -> Option<String> {
        let vtep = self.fabric.health_by_word_of(&self.control, id)?;
        let host = self.resources.hosts().find(|host| host.spec.vteps.contains(&vtep));
        Some(host.map_or_else(|| vtep.to_string(), |host| host.meta.name().to_string()))
    }
}

fn named(target: &Target, project: &Name) -> String {
    match &target.at {
        TargetAddress::Port(port) => format!("port {}", port.relative_to(project)),
        TargetAddress::Ip(address) => format!("ip {address}"),
    }
}
