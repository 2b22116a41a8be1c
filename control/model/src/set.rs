//! A validated set of resources.

use crate::endpoint::EndpointSpec;
use crate::external::{ExternalNetworkSpec, FloatingIpSpec, NatGatewaySpec};
use crate::host::HostSpec;
use crate::kind::Kind;
use crate::load::Manifests;
use crate::load_balancer::LoadBalancerSpec;
use crate::name::{Key, Name, ObjectName};
use crate::peering::PeeringSpec;
use crate::port::PortSpec;
use crate::problem::Problem;
use crate::resource::{Metadata, Resource, Spec};
use crate::route_table::RouteTableSpec;
use crate::security_group::{SecurityGroupSpec, resolve};
use crate::sorted::Sorted;
use crate::subnet::SubnetSpec;
use crate::underlay::{Spans, Underlay};
use crate::validate::Candidates;
use crate::vpc::{MTU_WITHOUT_UPLINK, VpcSpec};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What validation must know beyond the resources.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The host towpathd runs on, as its own file says. A manifest of the same Host must agree. Without one (validation
    /// away from any daemon) references to hosts are checked only if the set has Hosts of its own.
    pub own_host: Option<(Name, HostSpec)>,
}

/// What happens to the resources of the same owner that are not among those applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// They stay.
    Keep,
    /// They are removed: what is applied is all the owner has (the folder of manifests).
    Remove,
}

/// Resources that are valid together, by kind and name. Immutable; a change makes another set, which shares what is equal, so that
/// copies and comparisons cost what they differ in.
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    /// By key.
    resources: Sorted<Resource>,
    /// What belongs to a VPC (NatGateways, RouteTables, SecurityGroups, Subnets, LoadBalancers) or to a Subnet (Ports, Endpoints), by that and by key.
    members: Sorted<Resource>,
    /// Which hosts each subnet is on.
    spans: Spans,
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.resources.len() == other.resources.len() && self.iter().eq(other.iter())
    }
}

impl Eq for ResourceSet {}

/// One resource that two sets differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// As the older set has it; `None` when it has not.
    pub old: Option<Arc<Resource>>,
    /// As the newer set has it; `None` when it has not.
    pub new: Option<Arc<Resource>>,
}

impl Difference {
    /// The resource's key.
    pub fn key(&self) -> Option<&Key> {
        self.new.as_ref().or(self.old.as_ref()).map(|resource| &resource.meta.key)
    }
}

fn by_key(left: &Resource, right: &Resource) -> Ordering {
    left.meta.key.cmp(&right.meta.key)
}

/// The Vpc or Subnet that something belongs to.
fn parent_of(resource: &Resource) -> Option<(Kind, &ObjectName)> {
    match &resource.spec {
        Spec::RouteTable(spec) => Some((Kind::Vpc, &spec.vpc)),
        Spec::SecurityGroup(spec) => Some((Kind::Vpc, &spec.vpc)),
        Spec::Subnet(spec) => Some((Kind::Vpc, &spec.vpc)),
        Spec::LoadBalancer(spec) => Some((Kind::Vpc, &spec.vpc)),
        Spec::Port(spec) => Some((Kind::Subnet, &spec.subnet)),
        Spec::Endpoint(spec) => Some((Kind::Subnet, &spec.subnet)),
        Spec::Host(_) | Spec::Vpc(_) | Spec::Peering(_) => None,
        Spec::NatGateway(spec) => Some((Kind::Vpc, &spec.vpc)),
        Spec::ExternalNetwork(_) | Spec::FloatingIp(_) => None,
    }
}

/// The subnet of a Port or Endpoint.
fn subnet_of(resource: &Resource) -> Option<&ObjectName> {
    parent_of(resource).filter(|(kind, _)| *kind == Kind::Subnet).map(|(_, subnet)| subnet)
}

fn by_parent(left: &Resource, right: &Resource) -> Ordering {
    parent_of(left).cmp(&parent_of(right)).then_with(|| by_key(left, right))
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

fn as_peering(resource: &Resource) -> Option<Typed<'_, PeeringSpec>> {
    typed(resource, if let Spec::Peering(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_route_table(resource: &Resource) -> Option<Typed<'_, RouteTableSpec>> {
    typed(resource, if let Spec::RouteTable(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_security_group(resource: &Resource) -> Option<Typed<'_, SecurityGroupSpec>> {
    typed(resource, if let Spec::SecurityGroup(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_endpoint(resource: &Resource) -> Option<Typed<'_, EndpointSpec>> {
    typed(resource, if let Spec::Endpoint(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_load_balancer(resource: &Resource) -> Option<Typed<'_, LoadBalancerSpec>> {
    typed(resource, if let Spec::LoadBalancer(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_external_network(resource: &Resource) -> Option<Typed<'_, ExternalNetworkSpec>> {
    typed(resource, if let Spec::ExternalNetwork(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_nat_gateway(resource: &Resource) -> Option<Typed<'_, NatGatewaySpec>> {
    typed(resource, if let Spec::NatGateway(spec) = &resource.spec { Some(spec) } else { None })
}

fn as_floating_ip(resource: &Resource) -> Option<Typed<'_, FloatingIpSpec>> {
    typed(resource, if let Spec::FloatingIp(spec) = &resource.spec { Some(spec) } else { None })
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
        candidates.finish(environment).map(|mut resources| {
            resources.sort_by(by_key);
            self.with(resources)
        })
    }

    /// This set with `resources`, in the order of their keys, in its place: what is equal stays shared.
    fn with(&self, resources: Vec<Resource>) -> Self {
        let mut changes = Vec::new();
        let mut old = self.iter().peekable();
        for resource in resources {
            while let Some(gone) = old.next_if(|old| by_key(old, &resource) == Ordering::Less) {
                changes.push(Difference { old: Some(gone.clone()), new: None });
            }
            let before = old.next_if(|old| by_key(old, &resource) == Ordering::Equal);
            if before.is_none_or(|before| **before != resource) {
                changes.push(Difference { old: before.cloned(), new: Some(Arc::new(resource)) });
            }
        }
        changes.extend(old.map(|gone| Difference { old: Some(gone.clone()), new: None }));
        self.changed(changes)
    }

    /// This set after changes that whoever made them validated against it, as a store's. (What is valid is decided where a
    /// change is made: [`ResourceSet::apply`].) Costs what the changes cost.
    #[must_use]
    pub fn changed(&self, changes: Vec<Difference>) -> Self {
        if changes.len() > 1024 + self.len() / 4 {
            return self.rebuilt(changes);
        }
        let mut set = self.clone();
        for Difference { old, new } in changes {
            if let Some(old) = old {
                set.resources.remove(|other| by_key(other, &old));
                set.members.remove(|other| by_parent(other, &old));
                if let Some(subnet) = subnet_of(&old) {
                    set.spans.count(subnet, &old, false);
                }
            }
            if let Some(new) = new {
                if let Some(subnet) = subnet_of(&new) {
                    set.spans.count(subnet, &new, true);
                }
                if parent_of(&new).is_some() {
                    set.members.insert(Arc::clone(&new), by_parent);
                }
                set.resources.insert(new, by_key);
            }
        }
        set
    }

    /// The same, at the cost of the whole.
    fn rebuilt(&self, mut changes: Vec<Difference>) -> Self {
        changes.sort_by(|left, right| left.key().cmp(&right.key()));
        let mut items = Vec::with_capacity(self.len() + changes.len());
        let mut old = self.iter().peekable();
        for change in changes {
            let Some(key) = change.key() else { continue };
            items.extend(std::iter::from_fn(|| old.next_if(|other| other.meta.key < *key).cloned()));
            old.next_if(|other| other.meta.key == *key);
            items.extend(change.new);
        }
        items.extend(old.cloned());
        // In the order of their keys already, so they need only be parted by what they belong to.
        let mut families: BTreeMap<(Kind, &ObjectName), Vec<Arc<Resource>>> = BTreeMap::new();
        for item in &items {
            if let Some(parent) = parent_of(item) {
                families.entry(parent).or_default().push(Arc::clone(item));
            }
        }
        let of_subnets = families.iter().filter(|((kind, _), _)| *kind == Kind::Subnet);
        let spans = Spans::of(of_subnets.map(|((_, subnet), members)| (*subnet, members.as_slice())));
        let members = Sorted::from_sorted(families.into_values().flatten().collect());
        Self { resources: Sorted::from_sorted(items), members, spans }
    }

    /// What must change to get from this set to `newer`, by key. Costs what they differ in, if one was made of the other.
    pub fn differences(&self, newer: &Self) -> Vec<Difference> {
        let found = self.resources.differences(&newer.resources, by_key);
        let owned = found.into_iter().map(|(old, new)| Difference { old: old.cloned(), new: new.cloned() });
        owned.filter(|difference| difference.old != difference.new).collect()
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
            match self.get(key) {
                Some(resource) if resource.meta.owner == owner => {
                    rest = rest.changed(vec![Difference { old: Some(resource.clone()), new: None }]);
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

    /// Number of resources.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.len() == 0
    }

    /// One resource.
    pub fn get(&self, key: &Key) -> Option<&Arc<Resource>> {
        self.resources.find(|other| other.meta.key.cmp(key))
    }

    /// All resources in dependency order ([`Kind::ALL`]), each kind by project and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.iter()
    }

    /// All resources of one kind, by project and name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        let before = move |other: &Resource| other.meta.key.kind < kind;
        self.resources.beginning_at(before).take_while(move |other| other.meta.key.kind == kind)
    }

    /// The NatGateways, RouteTables, SecurityGroups, Subnets and LoadBalancers of a Vpc, or the Ports and Endpoints of a Subnet; by kind, project and name.
    pub fn members<'a>(&'a self, of: Kind, name: &'a ObjectName) -> impl Iterator<Item = &'a Arc<Resource>> {
        let parent = Some((of, name));
        let before = move |other: &Resource| parent_of(other) < parent;
        self.members.beginning_at(before).take_while(move |other| parent_of(other) == parent)
    }

    /// The subnets of a VPC.
    pub fn subnets_of<'a>(&'a self, vpc: &'a ObjectName) -> impl Iterator<Item = Typed<'a, SubnetSpec>> {
        self.members(Kind::Vpc, vpc).filter_map(|resource| as_subnet(resource))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Typed<'_, HostSpec>> {
        self.of_kind(Kind::Host).filter_map(|resource| as_host(resource))
    }

    /// All external networks.
    pub fn external_networks(&self) -> impl Iterator<Item = Typed<'_, ExternalNetworkSpec>> {
        self.of_kind(Kind::ExternalNetwork).filter_map(|resource| as_external_network(resource))
    }

    /// All NAT gateways.
    pub fn nat_gateways(&self) -> impl Iterator<Item = Typed<'_, NatGatewaySpec>> {
        self.of_kind(Kind::NatGateway).filter_map(|resource| as_nat_gateway(resource))
    }

    /// All floating IPs.
    pub fn floating_ips(&self) -> impl Iterator<Item = Typed<'_, FloatingIpSpec>> {
        self.of_kind(Kind::FloatingIp).filter_map(|resource| as_floating_ip(resource))
    }

    /// All VPCs.
    pub fn vpcs(&self) -> impl Iterator<Item = Typed<'_, VpcSpec>> {
        self.of_kind(Kind::Vpc).filter_map(|resource| as_vpc(resource))
    }

    /// All subnets.
    pub fn subnets(&self) -> impl Iterator<Item = Typed<'_, SubnetSpec>> {
        self.of_kind(Kind::Subnet).filter_map(|resource| as_subnet(resource))
    }

    /// All peerings.
    pub fn peerings(&self) -> impl Iterator<Item = Typed<'_, PeeringSpec>> {
        self.of_kind(Kind::Peering).filter_map(|resource| as_peering(resource))
    }

    /// All route tables.
    pub fn route_tables(&self) -> impl Iterator<Item = Typed<'_, RouteTableSpec>> {
        self.of_kind(Kind::RouteTable).filter_map(|resource| as_route_table(resource))
    }

    /// All security groups.
    pub fn security_groups(&self) -> impl Iterator<Item = Typed<'_, SecurityGroupSpec>> {
        self.of_kind(Kind::SecurityGroup).filter_map(|resource| as_security_group(resource))
    }

    /// All endpoints that are not ours.
    pub fn endpoints(&self) -> impl Iterator<Item = Typed<'_, EndpointSpec>> {
        self.of_kind(Kind::Endpoint).filter_map(|resource| as_endpoint(resource))
    }

    /// All load balancers.
    pub fn load_balancers(&self) -> impl Iterator<Item = Typed<'_, LoadBalancerSpec>> {
        self.of_kind(Kind::LoadBalancer).filter_map(|resource| as_load_balancer(resource))
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

    /// A peering.
    pub fn peering(&self, name: &ObjectName) -> Option<Typed<'_, PeeringSpec>> {
        self.get(&Key::of(Kind::Peering, name)).and_then(|resource| as_peering(resource))
    }

    /// An external network.
    pub fn external_network(&self, name: &Name) -> Option<Typed<'_, ExternalNetworkSpec>> {
        let key = Key { kind: Kind::ExternalNetwork, project: None, name: name.clone() };
        self.get(&key).and_then(|resource| as_external_network(resource))
    }

    /// A NAT gateway.
    pub fn nat_gateway(&self, name: &ObjectName) -> Option<Typed<'_, NatGatewaySpec>> {
        self.get(&Key::of(Kind::NatGateway, name)).and_then(|resource| as_nat_gateway(resource))
    }

    /// The NAT gateways of a VPC.
    pub fn nat_gateways_of<'a>(
        &'a self,
        vpc: &'a ObjectName,
    ) -> impl Iterator<Item = Typed<'a, NatGatewaySpec>> {
        self.members(Kind::Vpc, vpc).filter_map(|resource| as_nat_gateway(resource))
    }

    /// A floating IP.
    pub fn floating_ip(&self, name: &ObjectName) -> Option<Typed<'_, FloatingIpSpec>> {
        self.get(&Key::of(Kind::FloatingIp, name)).and_then(|resource| as_floating_ip(resource))
    }

    /// A route table.
    pub fn route_table(&self, name: &ObjectName) -> Option<Typed<'_, RouteTableSpec>> {
        self.get(&Key::of(Kind::RouteTable, name)).and_then(|resource| as_route_table(resource))
    }

    /// A security group, by the name it is kept under.
    pub fn security_group(&self, name: &ObjectName) -> Option<Typed<'_, SecurityGroupSpec>> {
        self.get(&Key::of(Kind::SecurityGroup, name)).and_then(|resource| as_security_group(resource))
    }

    /// The groups of a port, by the names they are kept under, each once; none of an unfiltered port. `None` when there is no
    /// such subnet.
    pub fn groups_of(&self, port: Typed<'_, PortSpec>) -> Option<BTreeSet<ObjectName>> {
        let vpc = &self.subnet(&port.spec.subnet)?.spec.vpc;
        let project = port.meta.object().project;
        Some(port.spec.security_groups.iter().map(|group| resolve(group, &project, vpc)).collect())
    }

    /// An endpoint that is not ours.
    pub fn endpoint(&self, name: &ObjectName) -> Option<Typed<'_, EndpointSpec>> {
        self.get(&Key::of(Kind::Endpoint, name)).and_then(|resource| as_endpoint(resource))
    }

    /// The hosts that ports of a subnet are on, or move to.
    pub fn hosts_of<'a>(&'a self, subnet: &ObjectName) -> impl Iterator<Item = &'a Name> {
        self.spans.get(subnet).into_iter().flat_map(|span| span.hosts.keys())
    }

    /// The tunnel end points that Endpoints of a subnet are behind.
    pub fn foreign_vteps_of<'a>(&'a self, subnet: &ObjectName) -> impl Iterator<Item = IpAddr> + 'a {
        self.spans.get(subnet).into_iter().flat_map(|span| span.foreign.keys().copied())
    }

    /// The subnets with ports on a host, or ports that move there.
    pub fn subnets_on<'a>(&'a self, host: &'a Name) -> impl Iterator<Item = &'a ObjectName> {
        self.spans.subnets_on(host)
    }

    /// Whether the Ports and Endpoints of a subnet are on the same hosts and behind the same tunnel end points in both sets, however
    /// many on each.
    pub fn is_in_same_places(&self, other: &Self, subnet: &ObjectName) -> bool {
        self.spans.agree(&other.spans, subnet)
    }

    /// MTU of a VPC in bytes: as written, else what the uplinks of its hosts leave, else 1500. `None` without such a VPC.
    pub fn mtu(&self, vpc: &ObjectName) -> Option<u16> {
        let spec = self.vpc(vpc)?.spec;
        if let Some(mtu) = spec.mtu {
            return Some(mtu);
        }
        let subnets: Vec<ObjectName> = self.subnets_of(vpc).map(|subnet| subnet.meta.object()).collect();
        let span = self.spans.sum(subnets.iter());
        let host = |host: &Name| self.host(host).map(|host| host.spec.clone());
        let room = Underlay::new(&span, &spec.directory, host).room();
        Some(room.map_or(MTU_WITHOUT_UPLINK, |room| room.bytes()))
    }
}
