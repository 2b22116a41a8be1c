//! The rules that concern more than one resource.
//!
//! [`Candidates`] is a set before it is known to be valid. Every rule looks at all of it and reports all it finds; a
//! document that could not be read still counts as there, so that what refers to it is not reported too.

mod addresses;
mod balancers;
mod external;
mod groups;
mod numbers;
mod references;
mod routes;
mod tunnels;

use crate::fields::{Refusal, Source};
use crate::kind::Kind;
use crate::load::Manifests;
use crate::name::{Key, Name, ObjectName};
use crate::owner::Owner;
use crate::port::PortDraft;
use crate::problem::Problem;
use crate::resource::{DraftSpec, Metadata, Resource, Spec};
use crate::security_group::{SecurityGroupSpec, default_group};
use crate::set::{Absent, Environment, ResourceSet};
use crate::vpc::{VpcDraft, VpcSpec};
use std::collections::{BTreeMap, BTreeSet};

/// One resource that may become part of the set.
pub(crate) struct Candidate {
    meta: Metadata,
    spec: DraftSpec,
    source: Source,
}

impl Candidate {
    /// A problem of this resource at a field.
    fn problem(&self, field: &str, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        self.source.problem(&self.meta.key.to_string(), field, Refusal::new(message, remedy))
    }

    /// How to find it: its name, and its place when it has one.
    fn describe(&self) -> String {
        match &self.source.file {
            Some(file) => format!("{} ({file}:{})", self.meta.key, self.source.start.line),
            None => self.meta.key.to_string(),
        }
    }
}

/// A set before it is known to be valid.
pub(crate) struct Candidates {
    /// In the order in which a conflict blames the later one: what was there, then what is applied, by file and line.
    list: Vec<Candidate>,
    by_key: BTreeMap<Key, usize>,
    /// Named by documents that could not be read whole.
    broken: BTreeSet<Key>,
    problems: Vec<Problem>,
}

impl Candidates {
    /// Puts what is applied over what is there.
    pub(crate) fn gather(
        old: &ResourceSet,
        manifests: Manifests,
        absent: Absent,
        environment: &Environment,
    ) -> Self {
        let mut candidates = Self {
            list: Vec::new(),
            by_key: BTreeMap::new(),
            broken: BTreeSet::new(),
            problems: manifests.problems,
        };
        if let Some((name, spec)) = &environment.own_host {
            candidates.keep(&Resource::own_host(name, spec.clone()));
        }
        let owner = manifests.owner;
        let mut incoming = BTreeSet::new();
        for document in &manifests.documents {
            incoming.extend(document.key.clone());
        }
        for resource in old.iter() {
            let own = resource.meta.owner == owner;
            let replaced = own && (absent == Absent::Remove || incoming.contains(&resource.meta.key));
            if !replaced && resource.meta.owner != Owner::Daemon {
                candidates.keep(resource);
            }
        }
        for document in manifests.documents {
            candidates.problems.extend(document.reader.problems);
            match (document.draft, document.key) {
                (Some((meta, spec)), _) => {
                    candidates.add(Candidate { meta, spec, source: document.reader.source });
                }
                (None, Some(key)) => {
                    candidates.broken.insert(key);
                }
                (None, None) => {}
            }
        }
        candidates.add_default_groups();
        candidates
    }

    /// Each VPC has a group `default`: its own until somebody writes it.
    fn add_default_groups(&mut self) {
        let vpcs: Vec<ObjectName> = vpcs(self).map(|(candidate, _)| candidate.meta.object()).collect();
        for vpc in vpcs {
            let key = Key::of(Kind::SecurityGroup, &default_group(&vpc));
            if !self.by_key.contains_key(&key) && !self.broken.contains(&key) {
                let spec = DraftSpec::SecurityGroup(SecurityGroupSpec::default_of(&vpc));
                self.add(Candidate { meta: Metadata::of_daemon(key), spec, source: Source::default() });
            }
        }
    }

    /// Takes over a resource that is valid already.
    fn keep(&mut self, resource: &Resource) {
        let spec = match resource.spec.clone() {
            Spec::Host(spec) => DraftSpec::Host(spec),
            Spec::Vpc(VpcSpec { vni, cidrs, mtu, directory, clamp_mss }) => {
                DraftSpec::Vpc(VpcDraft { vni: Some(vni), cidrs, mtu, directory, clamp_mss })
            }
            Spec::Peering(spec) => DraftSpec::Peering(spec),
            Spec::RouteTable(spec) => DraftSpec::RouteTable(spec),
            Spec::SecurityGroup(spec) => DraftSpec::SecurityGroup(spec),
            Spec::Subnet(spec) => DraftSpec::Subnet(spec),
            Spec::Port(spec) => DraftSpec::Port(PortDraft { spec, ips_written: true }),
            Spec::Endpoint(spec) => DraftSpec::Endpoint(spec),
            Spec::LoadBalancer(spec) => DraftSpec::LoadBalancer(spec),
            Spec::ExternalNetwork(spec) => DraftSpec::ExternalNetwork(spec),
            Spec::NatGateway(spec) => DraftSpec::NatGateway(spec),
            Spec::FloatingIp(spec) => DraftSpec::FloatingIp(spec),
        };
        self.add(Candidate { meta: resource.meta.clone(), spec, source: Source::default() });
    }

    /// Adds a resource unless one of its name is there.
    fn add(&mut self, candidate: Candidate) {
        let Some(index) = self.by_key.get(&candidate.meta.key) else {
            self.by_key.insert(candidate.meta.key.clone(), self.list.len());
            self.list.push(candidate);
            return;
        };
        let Some(other) = self.list.get(*index) else { return };
        if other.meta.owner == candidate.meta.owner {
            let message = format!("is written twice; the first is {}", other.describe());
            let problem = candidate.problem("metadata.name", message, "remove one, or give it another name");
            self.problems.push(problem);
        } else if let Some(field) = difference(other, &candidate) {
            let owner = other.meta.owner;
            let message = format!("belongs to owner {owner}, where it differs in {field}");
            let problem = candidate.problem(&field, message, owner.remedy());
            self.problems.push(problem);
        }
    }

    /// A candidate by its key.
    fn find(&self, key: &Key) -> Option<&Candidate> {
        self.by_key.get(key).and_then(|index| self.list.get(*index))
    }

    /// Candidates with drafts of ports.
    fn ports(&self) -> impl Iterator<Item = (&Candidate, &PortDraft)> {
        self.list.iter().filter_map(|candidate| match &candidate.spec {
            DraftSpec::Port(draft) => Some((candidate, draft)),
            _ => None,
        })
    }

    /// Checks all rules.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn finish(mut self, environment: &Environment) -> Result<Vec<Resource>, Vec<Problem>> {
        let mut found = Vec::new();
        references::check(&self, environment, &mut found);
        numbers::check(&self, &mut found);
        addresses::check(&self, &mut found);
        routes::check(&self, &mut found);
        groups::check(&self, &mut found);
        balancers::check(&self, &mut found);
        external::check(&self, &mut found);
        tunnels::check(&self, &mut found);
        self.problems.append(&mut found);
        if self.problems.is_empty() {
            let resources: Option<Vec<Resource>> = self.list.into_iter().map(Candidate::finish).collect();
            return resources.ok_or_else(|| {
                vec![Problem::new(
                    "a resource passed validation without what it needs",
                    "report this as a bug of towpath",
                )]
            });
        }
        let place = |problem: &Problem| (problem.file.clone(), problem.line, problem.column);
        self.problems.sort_by_key(place);
        Err(self.problems)
    }
}

impl Candidate {
    /// The resource, when nothing is missing.
    fn finish(self) -> Option<Resource> {
        let spec = match self.spec {
            DraftSpec::Host(spec) => Spec::Host(spec),
            DraftSpec::Vpc(VpcDraft { vni, cidrs, mtu, directory, clamp_mss }) => {
                Spec::Vpc(VpcSpec { vni: vni?, cidrs, mtu, directory, clamp_mss })
            }
            DraftSpec::Peering(spec) => Spec::Peering(spec),
            DraftSpec::RouteTable(spec) => Spec::RouteTable(spec),
            DraftSpec::SecurityGroup(spec) => Spec::SecurityGroup(spec),
            DraftSpec::Subnet(spec) => Spec::Subnet(spec),
            DraftSpec::Port(draft) => Spec::Port(draft.spec),
            DraftSpec::Endpoint(spec) => Spec::Endpoint(spec),
            DraftSpec::LoadBalancer(spec) => Spec::LoadBalancer(spec),
            DraftSpec::ExternalNetwork(spec) => Spec::ExternalNetwork(spec),
            DraftSpec::NatGateway(spec) => Spec::NatGateway(spec),
            DraftSpec::FloatingIp(spec) => Spec::FloatingIp(spec),
        };
        Some(Resource { meta: self.meta, spec })
    }
}

/// The first field in which two candidates of one name differ; their owners do not count, nor does what a manifest leaves out of
/// a Host that towpathd wrote.
fn difference(left: &Candidate, right: &Candidate) -> Option<String> {
    if let (DraftSpec::Host(own), DraftSpec::Host(written)) = (&left.spec, &right.spec)
        && left.meta.owner == Owner::Daemon
    {
        let filled = Candidate {
            meta: right.meta.clone(),
            spec: DraftSpec::Host(written.clone().or(own)),
            source: Source::default(),
        };
        return difference_of(left, &filled);
    }
    difference_of(left, right)
}

fn difference_of(left: &Candidate, right: &Candidate) -> Option<String> {
    let finish = |candidate: &Candidate| {
        Candidate { meta: candidate.meta.clone(), spec: candidate.spec.clone(), source: Source::default() }
            .finish()
    };
    match (finish(left), finish(right)) {
        (Some(left), Some(right)) => {
            crate::diff::fields(&left, &right).into_iter().find(|field| field != "metadata.owner")
        }
        _ => Some("spec".into()),
    }
}

/// Candidates with drafts of VPCs.
fn vpcs(candidates: &Candidates) -> impl Iterator<Item = (&Candidate, &VpcDraft)> {
    candidates.list.iter().filter_map(|candidate| match &candidate.spec {
        DraftSpec::Vpc(draft) => Some((candidate, draft)),
        _ => None,
    })
}

/// A resource that belongs to somebody else.
pub(crate) fn foreign_owner(key: &Key, owner: Owner) -> Problem {
    let remedy = match (key.kind, owner) {
        (Kind::SecurityGroup, Owner::Daemon) => {
            "a Vpc has it as long as it is there; to change it, write a SecurityGroup `default` of that Vpc"
        }
        _ => owner.remedy(),
    };
    Problem::new(format!("belongs to owner {owner}"), remedy).of(key.to_string())
}

/// The project of a candidate.
fn project_of(candidate: &Candidate) -> Name {
    candidate.meta.object().project
}
