//! A validated set of resources.

use crate::host::HostSpec;
use crate::kind::Kind;
use crate::load::Manifests;
use crate::name::{Key, Name, ObjectName};
use crate::port::PortSpec;
use crate::problem::Problem;
use crate::resource::{Metadata, Resource, Spec};
use crate::subnet::SubnetSpec;
use crate::validate::{Candidates, mtu_of};
use crate::vpc::VpcSpec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What validation must know beyond the resources.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The host towpathd runs on, as its own file says. A manifest of the same Host must agree. Without one (validation
    /// away from any daemon) references to hosts are checked only if the set has Hosts of its own.
    pub own_host: Option<(Name, HostSpec)>,
    /// MTU in bytes of the uplink of each host that has one.
    pub uplink_mtus: BTreeMap<Name, u16>,
}

/// What happens to the resources of the same owner that are not among those applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// They stay.
    Keep,
    /// They are removed: what is applied is all the owner has (the folder of manifests).
    Remove,
}

/// Resources that are valid together, by kind and name. Immutable; a change makes another set, which shares what is equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceSet {
    resources: BTreeMap<Key, Arc<Resource>>,
    mtus: BTreeMap<ObjectName, u16>,
}

/// A resource of a known kind.
#[derive(Debug)]
pub struct Typed<'a, S> {
    /// Name, uid, labels, owner.
    pub meta: &'a Metadata,
    /// What it says.
    pub spec: &'a S,
}

impl<S> Clone for Typed<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Typed<'_, S> {}

/// Narrows a resource to one kind.
fn typed<'a, S>(resource: &'a Resource, spec: Option<&'a S>) -> Option<Typed<'a, S>> {
    spec.map(|spec| Typed { meta: &resource.meta, spec })
}

fn as_host(resource: &Resource) -> Option<Typed<'_, HostSpec>> {
    typed(resource, if let Spec::Host(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_vpc(resource: &Resource) -> Option<Typed<'_, VpcSpec>> {
    typed(resource, if let Spec::Vpc(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_subnet(resource: &Resource) -> Option<Typed<'_, SubnetSpec>> {
    typed(resource, if let Spec::Subnet(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_port(resource: &Resource) -> Option<Typed<'_, PortSpec>> {
    typed(resource, if let Spec::Port(spec) = &resource.spec { Some(spec) } else { None })
}

impl ResourceSet {
    /// This set with `manifests` applied: the whole or nothing.
    ///
    /// Resources of other owners stay as they are. The Host of `environment` is put in first.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of files and lines; this set is unchanged.
    pub fn apply(
        &self,
        manifests: Manifests,
        absent: Absent,
        environment: &Environment,
    ) -> Result<Self, Vec<Problem>> {
        let candidates = Candidates::gather(self, manifests, absent, environment);
        candidates.finish(environment).map(|resources| {
            let resources: BTreeMap<Key, Arc<Resource>> = resources
                .into_iter()
                .map(|resource| {
                    // Share what did not change, so that a diff of two sets costs little.
                    let old = self.resources.get(&resource.meta.key).filter(|old| ***old == resource);
                    (resource.meta.key.clone(), old.cloned().unwrap_or_else(|| Arc::new(resource)))
                })
                .collect();
            Self::index(resources, environment)
        })
    }

    /// This set without the named resources. Only their owner may remove them.
    ///
    /// # Errors
    /// A key that is not there or is another owner's, or what would then refer to nothing.
    pub fn remove(
        &self,
        keys: &[Key],
        owner: crate::Owner,
        environment: &Environment,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut rest = self.clone();
        for key in keys {
            match self.resources.get(key) {
                Some(resource) if resource.meta.owner == owner => {
                    rest.resources.remove(key);
                }
                Some(resource) => problems.push(crate::validate::foreign_owner(key, resource.meta.owner)),
                None => problems.push(
                    Problem::new("there is no such resource", "see what there is with `towpath get`")
                        .of(key.to_string()),
                ),
            }
        }
        match problems.is_empty() {
            true => rest.apply(Manifests::none(owner), Absent::Keep, environment),
            false => Err(problems),
        }
    }

    fn index(resources: BTreeMap<Key, Arc<Resource>>, environment: &Environment) -> Self {
        let mut set = Self { resources, mtus: BTreeMap::new() };
        set.mtus = set.vpcs().map(|vpc| (vpc.meta.object(), mtu_of(&set, vpc, environment))).collect();
        set
    }

    /// Number of resources.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// One resource.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.resources.get(key)
    }

    /// All resources in dependency order: Hosts, Vpcs, Subnets, Ports.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// All resources of one kind, by project and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        let of_kind = move |(key, _): &(&Key, _)| key.kind == kind;
        self.resources.range(Key::least(kind)..).take_while(of_kind).map(|(_, resource)| resource)
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Typed<'_, HostSpec>> {
        self.of_kind(Kind::Host).filter_map(|resource| as_host(resource))
    }

    /// All VPCs.
    pub fn vpcs(&self) -> impl Iterator<Item = Typed<'_, VpcSpec>> {
        self.of_kind(Kind::Vpc).filter_map(|resource| as_vpc(resource))
    }

    /// All subnets.
    pub fn subnets(&self) -> impl Iterator<Item = Typed<'_, SubnetSpec>> {
        self.of_kind(Kind::Subnet).filter_map(|resource| as_subnet(resource))
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = Typed<'_, PortSpec>> {
        self.of_kind(Kind::Port).filter_map(|resource| as_port(resource))
    }

    /// The ports a host realizes.
    pub fn ports_on<'a>(&'a self, host: &'a Name) -> impl Iterator<Item = Typed<'a, PortSpec>> {
        self.ports().filter(move |port| port.spec.is_on(host))
    }

    /// A host.
    pub fn host(&self, name: &Name) -> Option<Typed<'_, HostSpec>> {
        self.get(&Key::host(name)).and_then(|resource| as_host(resource))
    }

    /// A VPC.
    pub fn vpc(&self, name: &ObjectName) -> Option<Typed<'_, VpcSpec>> {
        self.get(&Key::of(Kind::Vpc, name)).and_then(|resource| as_vpc(resource))
    }

    /// A subnet.
    pub fn subnet(&self, name: &ObjectName) -> Option<Typed<'_, SubnetSpec>> {
        self.get(&Key::of(Kind::Subnet, name)).and_then(|resource| as_subnet(resource))
    }

    /// A port.
    pub fn port(&self, name: &ObjectName) -> Option<Typed<'_, PortSpec>> {
        self.get(&Key::of(Kind::Port, name)).and_then(|resource| as_port(resource))
    }

    /// MTU of a VPC in bytes: as written, else what the uplinks of its hosts leave, else 1500. `None` without such a VPC.
    pub fn mtu(&self, vpc: &ObjectName) -> Option<u16> {
        self.mtus.get(vpc).copied()
    }
}
