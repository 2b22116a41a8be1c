//! References: each names something that is there and may be used.

use super::{Candidate, Candidates, project_of};
use crate::kind::Kind;
use crate::load_balancer::{LoadBalancerSpec, TargetAddress};
use crate::name::{Key, Name, ObjectName};
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::route_table::{RouteTableSpec, Via};
use crate::security_group::{Remote, default_group, means_default};
use crate::set::Environment;
use crate::suggest::nearest;

/// For how many dangling references the nearest name is looked for: the search compares with every name of the kind.
const SUGGESTIONS_MAX: usize = 100;

/// Checks all references.
pub(super) fn check(candidates: &Candidates, environment: &Environment, problems: &mut Vec<Problem>) {
    let mut check = Check { candidates, environment, problems };
    for candidate in &candidates.list {
        match &candidate.spec {
            DraftSpec::Host(_) | DraftSpec::ExternalNetwork(_) => {}
            DraftSpec::NatGateway(spec) => {
                check.object(candidate, "spec.vpc", Kind::Vpc, &spec.vpc);
                check.network(candidate, "spec.external", &spec.external);
            }
            DraftSpec::FloatingIp(spec) => {
                check.network(candidate, "spec.external", &spec.external);
                check.object(candidate, "spec.port", Kind::Port, &spec.port);
            }
            DraftSpec::Vpc(draft) => {
                for (index, host) in draft.directory.iter().enumerate() {
                    check.host(candidate, &format!("spec.directory[{index}]"), host);
                }
            }
            DraftSpec::Peering(spec) => {
                for (index, vpc) in spec.vpcs.iter().enumerate() {
                    check.object(candidate, &format!("spec.vpcs[{index}]"), Kind::Vpc, vpc);
                }
            }
            DraftSpec::RouteTable(spec) => {
                check.object(candidate, "spec.vpc", Kind::Vpc, &spec.vpc);
                check.next_hops(candidate, spec);
            }
            DraftSpec::SecurityGroup(spec) => {
                check.object(candidate, "spec.vpc", Kind::Vpc, &spec.vpc);
                for (field, rule) in spec.all_rules() {
                    if let Remote::Group(group) = &rule.remote {
                        check.group(candidate, &format!("{field}.remote.group"), group, &spec.vpc);
                    }
                }
            }
            DraftSpec::Subnet(spec) => {
                check.object(candidate, "spec.vpc", Kind::Vpc, &spec.vpc);
                if let Some(table) = &spec.route_table {
                    check.object(candidate, "spec.routeTable", Kind::RouteTable, table);
                }
            }
            DraftSpec::LoadBalancer(spec) => check.load_balancer(candidate, spec),
            DraftSpec::Endpoint(spec) => check.object(candidate, "spec.subnet", Kind::Subnet, &spec.subnet),
            DraftSpec::Port(draft) => {
                check.object(candidate, "spec.subnet", Kind::Subnet, &draft.spec.subnet);
                let subnet = candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet));
                if let Some(Candidate { spec: DraftSpec::Subnet(subnet), .. }) = subnet {
                    for (index, group) in draft.spec.security_groups.iter().enumerate() {
                        let field = format!("spec.securityGroups[{index}]");
                        check.group(candidate, &field, group, &subnet.vpc);
                    }
                }
                if let Some(host) = &draft.spec.host {
                    check.host(candidate, "spec.host", host);
                }
                if let Some(host) = &draft.spec.migrating_to {
                    check.host(candidate, "spec.migratingTo", host);
                }
            }
        }
    }
}

struct Check<'a> {
    candidates: &'a Candidates,
    environment: &'a Environment,
    problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn load_balancer(&mut self, candidate: &Candidate, spec: &LoadBalancerSpec) {
        self.object(candidate, "spec.vpc", Kind::Vpc, &spec.vpc);
        for (index, target) in spec.targets.iter().enumerate() {
            if let TargetAddress::Port(port) = &target.at {
                self.object(candidate, &format!("spec.targets[{index}].port"), Kind::Port, port);
            }
        }
    }

    /// A reference to a resource with a project.
    fn object(&mut self, candidate: &Candidate, field: &str, kind: Kind, target: &ObjectName) {
        let key = Key::of(kind, target);
        let project = project_of(candidate);
        match self.candidates.find(&key) {
            Some(found) if found.meta.is_visible_to(&project) => {}
            Some(found) => {
                let message = format!("{} is not shared with project {project}", found.describe());
                let remedy = format!(
                    "add metadata.sharedWith: [{project}] to it, or use a {kind} of project {project}"
                );
                self.problems.push(candidate.problem(field, message, remedy));
            }
            None if self.candidates.broken.contains(&key) => {}
            None => {
                let names = self.names(kind, |found| found.meta.is_visible_to(&project));
                let near = self
                    .near(&target.relative_to(&project), names.iter().map(|name| name.relative_to(&project)));
                self.problems.push(candidate.problem(
                    field,
                    format!("there is no {key}"),
                    missing(kind, near),
                ));
            }
        }
    }

    /// A reference to a group of a VPC. Its own group `default` comes with the VPC.
    fn group(&mut self, candidate: &Candidate, field: &str, group: &ObjectName, vpc: &ObjectName) {
        if !means_default(group, &project_of(candidate), vpc) && *group != default_group(vpc) {
            self.object(candidate, field, Kind::SecurityGroup, group);
        }
    }

    fn next_hops(&mut self, candidate: &Candidate, table: &RouteTableSpec) {
        for (index, route) in table.routes.iter().enumerate() {
            let field = |hop| format!("spec.routes[{index}].via.{hop}");
            match &route.via {
                Via::Port(port) => self.object(candidate, &field("port"), Kind::Port, port),
                Via::Peering(name) => self.object(candidate, &field("peering"), Kind::Peering, name),
                Via::NatGateway(name) => {
                    self.object(candidate, &field("natGateway"), Kind::NatGateway, name);
                }
                Via::External(name) => self.network(candidate, &field("external"), name),
                Via::Blackhole => {}
            }
        }
    }

    /// A reference to an external network, which is of no project.
    fn network(&mut self, candidate: &Candidate, field: &str, name: &Name) {
        let key = Key { kind: Kind::ExternalNetwork, project: None, name: name.clone() };
        if self.candidates.find(&key).is_none() && !self.candidates.broken.contains(&key) {
            let names = self.names(Kind::ExternalNetwork, |_| true);
            let near = self.near(name.as_str(), names.iter().map(|name| name.name.to_string()));
            let remedy = missing(Kind::ExternalNetwork, near);
            self.problems.push(candidate.problem(field, format!("there is no {key}"), remedy));
        }
    }

    /// A reference to a host. Away from any daemon and without Hosts in the set, nobody knows which there are.
    fn host(&mut self, candidate: &Candidate, field: &str, host: &Name) {
        let key = Key::host(host);
        if self.candidates.find(&key).is_some() || self.candidates.broken.contains(&key) {
            return;
        }
        let names = self.names(Kind::Host, |_| true);
        if names.is_empty() {
            return;
        }
        let near = self.near(host.as_str(), names.iter().map(|name| name.name.to_string()));
        let remedy = match &self.environment.own_host {
            Some((own, _)) => format!("towpathd.yaml says host: {own}; {}", missing(Kind::Host, near)),
            None => missing(Kind::Host, near),
        };
        self.problems.push(candidate.problem(field, format!("there is no {key}"), remedy));
    }

    fn names(&self, kind: Kind, usable: impl Fn(&Candidate) -> bool) -> Vec<ObjectName> {
        let of_kind =
            self.candidates.list.iter().filter(|found| found.meta.key.kind == kind && usable(found));
        of_kind.map(|found| found.meta.object()).collect()
    }

    fn near(&self, word: &str, names: impl Iterator<Item = String>) -> Option<String> {
        if self.problems.len() >= SUGGESTIONS_MAX {
            return None;
        }
        let names: Vec<String> = names.collect();
        nearest(word, names.iter().map(String::as_str)).map(str::to_owned)
    }
}

fn missing(kind: Kind, near: Option<String>) -> String {
    match near {
        Some(near) => format!("add a {kind} of that name, or use the nearest there is: {near}"),
        None => format!("add a {kind} of that name"),
    }
}
