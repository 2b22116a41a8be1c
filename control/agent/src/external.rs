//! Ways out of VPCs as this host has them: exits that routes lead to, what ports are called there, and whose each external address is.
//!
//! Which block a port has is the same on every host ([`Blocks`]). While hosts apply different revisions of the set they may differ for a moment, and two ports of one
//! VPC may send from the same external port. Answers then go where the host that announces the address has the block; who gets one that is not of a session of its own does not take it
//! (`nat_unknown`). Blocks are of one VPC alone, so no packet ever comes into another one by this.

use crate::action::{Action, ExternalAction, ExternalOwner};
use crate::agent::Agent;
use crate::blocks::Blocks;
use crate::outside::{Address, Of};
use crate::scope::Way;
use ipnet::IpNet;
use model::external::FIRST_PORT;
use model::{Kind, Name, NatGatewaySpec, ObjectName, PortSpec, Resource, ResourceSet, Spec, Typed, Uid};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use tables::external::{Block, Inside, Source};

/// What a port is called outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The ExternalNetwork.
    pub network: Name,
    /// The NatGateway; `None`: a floating IP.
    pub gateway: Option<ObjectName>,
    /// The port's address inside.
    pub inside: IpAddr,
    /// The address outside.
    pub address: IpAddr,
    /// Its ports, where they are shared.
    pub ports: Option<RangeInclusive<u16>>,
}

/// The entry of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Block(IpAddr, u16),
    Source(u16, IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Inside(IpAddr),
    Source(Source),
}

impl Entry {
    fn unbind(self) -> ExternalAction {
        match self {
            Self::Block(address, block) => ExternalAction::UnbindBlock { address, block },
            Self::Source(exit, inside) => ExternalAction::UnbindSource { exit, inside },
        }
    }

    fn bind(self, value: Value) -> Option<ExternalAction> {
        match (self, value) {
            (Self::Block(address, block), Value::Inside(inside)) => {
                Some(ExternalAction::BindBlock { address, block, inside })
            }
            (Self::Source(exit, inside), Value::Source(source)) => {
                Some(ExternalAction::BindSource { exit, inside, source })
            }
            _ => None,
        }
    }
}

/// An exit of a VPC.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exit {
    number: u16,
    network: Name,
    gateway: Option<ObjectName>,
}

#[derive(Debug)]
struct Gateway {
    spec: NatGatewaySpec,
    blocks: Blocks,
}

impl Gateway {
    fn new(spec: &NatGatewaySpec) -> Self {
        let of_each = u16::try_from(spec.blocks_per_address()).unwrap_or(u16::MAX);
        Self { spec: spec.clone(), blocks: Blocks::new(spec.addresses.clone(), of_each) }
    }

    /// The address of a port that answers to its block lead to.
    fn inside(&self, port: &PortSpec) -> Option<IpAddr> {
        port.ips.iter().copied().find(|address| self.spec.is_like(*address))
    }

    /// The block of a port, and which one of its address it is.
    fn block(&self, port: Uid) -> Option<(Block, u16)> {
        let slot = self.blocks.of(port)?;
        let (address, count) =
            (*self.spec.addresses.get(usize::from(slot.address))?, self.spec.ports_per_port);
        Some((Block { address, first: FIRST_PORT + slot.block * count, count }, slot.block))
    }
}

/// A VPC with addresses or ways outside.
#[derive(Debug, Default)]
struct Realm {
    number: u16,
    exits: Vec<Exit>,
    gateways: BTreeMap<ObjectName, Gateway>,
    /// Its ports.
    names: BTreeMap<Uid, ObjectName>,
    /// What was said because of each port.
    said: BTreeMap<ObjectName, BTreeMap<Entry, Value>>,
}

impl Realm {
    fn insert(&mut self, port: Typed<'_, PortSpec>, dirty: &mut BTreeSet<ObjectName>) {
        let uid = port.meta.uid;
        self.names.insert(uid, port.meta.object());
        dirty.insert(port.meta.object());
        let mut moved = BTreeSet::new();
        for gateway in self.gateways.values_mut().filter(|gateway| gateway.spec.serves(port.spec)) {
            gateway.blocks.insert(uid, &mut moved);
        }
        dirty.extend(moved.iter().filter_map(|uid| self.names.get(uid).cloned()));
    }

    fn remove(&mut self, port: Typed<'_, PortSpec>, dirty: &mut BTreeSet<ObjectName>) {
        let mut moved = BTreeSet::new();
        self.gateways.values_mut().for_each(|gateway| gateway.blocks.remove(port.meta.uid, &mut moved));
        self.names.remove(&port.meta.uid);
        dirty.insert(port.meta.object());
        dirty.extend(moved.iter().filter_map(|uid| self.names.get(uid).cloned()));
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct External {
    realms: BTreeMap<ObjectName, Realm>,
    /// Whose each address is said to be, and whether this host announces it.
    owners: BTreeMap<IpAddr, (ExternalOwner, bool)>,
    /// The networks of each VPC number that was said to have ways out.
    inside: BTreeMap<u16, Vec<IpNet>>,
}

/// What an application concerns of it.
#[derive(Debug, Default)]
pub(crate) struct ExternalWork {
    /// Ports to look at, by VPC.
    dirty: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    before: Vec<ExternalAction>,
    after: Vec<ExternalAction>,
}

impl ExternalWork {
    fn dirty(&mut self, vpc: &ObjectName) -> &mut BTreeSet<ObjectName> {
        self.dirty.entry(vpc.clone()).or_default()
    }
}

fn as_port(member: &Resource) -> Option<Typed<'_, PortSpec>> {
    if let Spec::Port(spec) = &member.spec { Some(Typed { meta: &member.meta, spec }) } else { None }
}

fn vpc_of<'a>(set: &'a ResourceSet, port: &PortSpec) -> Option<&'a ObjectName> {
    set.subnet(&port.subnet).map(|subnet| &subnet.spec.vpc)
}

/// Whether nothing differs between two states of a port that its block depends on.
fn is_alike(old: Typed<'_, PortSpec>, new: Typed<'_, PortSpec>) -> bool {
    let families = |port: &PortSpec| [true, false].map(|v4| port.ips.iter().any(|ip| ip.is_ipv4() == v4));
    let said = |port: Typed<'_, PortSpec>| (port.meta.uid, families(port.spec), port.spec.unfiltered);
    said(old) == said(new) && old.spec.subnet == new.spec.subnet
}

impl External {
    /// Whether a VPC has addresses or ways outside here.
    pub(crate) fn is_about(&self, vpc: &ObjectName) -> bool {
        self.realms.contains_key(vpc)
    }
}

impl Agent {
    /// A port that was, while the old set is still in place; `stays`: it is there after, with this.
    pub(crate) fn leave_external(
        &mut self,
        member: &Resource,
        stays: Option<&Resource>,
        work: &mut ExternalWork,
    ) {
        if self.external.realms.is_empty() {
            return;
        }
        let Some(port) = as_port(member) else { return };
        let Some(vpc) = vpc_of(&self.set, port.spec) else { return };
        let Some(realm) = self.external.realms.get_mut(vpc) else { return };
        let dirty = work.dirty(vpc);
        match stays.and_then(as_port).is_some_and(|new| is_alike(port, new)) {
            true => drop(dirty.insert(port.meta.object())),
            false => realm.remove(port, dirty),
        }
    }

    /// A port that is, with the new set in place.
    pub(crate) fn join_external(&mut self, member: &Resource, work: &mut ExternalWork) {
        if self.external.realms.is_empty() {
            return;
        }
        let Some(port) = as_port(member) else { return };
        let Some(vpc) = vpc_of(&self.set, port.spec) else { return };
        let Some(realm) = self.external.realms.get_mut(vpc) else { return };
        realm.insert(port, work.dirty(vpc));
    }

    /// Exits, gateways and VPCs may be others.
    pub(crate) fn set_realms(&mut self, work: &mut ExternalWork) {
        let (scope, vpcs, external) = (&self.scope, &self.vpcs, &mut self.external);
        let number = |vpc: &ObjectName| scope.outside.contains(vpc).then(|| vpcs.number(vpc)).flatten();
        let gone = external.realms.extract_if(.., |vpc, realm| number(vpc) != Some(realm.number));
        for (_, realm) in gone {
            let said = realm.said.values().flat_map(BTreeMap::keys);
            work.before.extend(said.map(|entry| entry.unbind()));
        }
        for (vpc, number) in self.scope.outside.iter().filter_map(|vpc| Some((vpc, number(vpc)?))) {
            let exits: Vec<Exit> = self.scope.exits_of(vpc).filter_map(|way| self.exit(vpc, way)).collect();
            let specs: BTreeMap<ObjectName, &NatGatewaySpec> =
                self.set.nat_gateways_of(vpc).map(|gateway| (gateway.meta.object(), gateway.spec)).collect();
            let realm = self.external.realms.entry(vpc.clone()).or_default();
            realm.number = number;
            let known = realm.gateways.iter().map(|(name, gateway)| (name.clone(), &gateway.spec));
            let same = known.eq(specs.iter().map(|(name, spec)| (name.clone(), *spec)));
            if same && realm.exits == exits && !(realm.names.is_empty() && realm.said.is_empty()) {
                continue;
            }
            realm.exits = exits;
            realm.gateways.retain(|name, gateway| specs.get(name).is_some_and(|spec| **spec == gateway.spec));
            let dirty = work.dirty(vpc);
            dirty.extend(realm.said.keys().cloned());
            for (name, spec) in specs {
                realm.gateways.entry(name).or_insert_with(|| Gateway::new(spec));
            }
            for subnet in self.set.subnets_of(vpc) {
                let subnet = subnet.meta.object();
                let members = self.set.members(Kind::Subnet, &subnet);
                members.filter_map(|member| as_port(member)).for_each(|port| realm.insert(port, dirty));
            }
        }
        self.set_inside(work);
    }

    fn exit(&self, vpc: &ObjectName, way: &Way) -> Option<Exit> {
        let number = self.exits.number(&(vpc.clone(), way.clone()))?;
        Some(match way {
            Way::Network(network) => Exit { number, network: network.clone(), gateway: None },
            Way::Gateway(gateway) => {
                let network = self.set.nat_gateway(gateway)?.spec.external.clone();
                Exit { number, network, gateway: Some(gateway.clone()) }
            }
        })
    }

    /// Which networks nobody outside has an address of.
    fn set_inside(&mut self, work: &mut ExternalWork) {
        let set = &self.set;
        let mut inside: BTreeMap<u16, Vec<IpNet>> = BTreeMap::new();
        for (vpc, realm) in &self.external.realms {
            let peers = set.peerings().filter_map(|peering| peering.spec.peer_of(vpc));
            let vpcs = std::iter::once(vpc).chain(peers).filter_map(|vpc| set.vpc(vpc));
            inside.insert(realm.number, vpcs.flat_map(|vpc| vpc.spec.cidrs.iter().copied()).collect());
        }
        for (vpc, networks) in &inside {
            if self.external.inside.get(vpc) != Some(networks) {
                work.after.push(ExternalAction::SetInside { vpc: *vpc, networks: networks.clone() });
            }
        }
        let gone = self.external.inside.keys().filter(|vpc| !inside.contains_key(vpc));
        work.before.extend(gone.map(|vpc| ExternalAction::RemoveInside { vpc: *vpc }));
        self.external.inside = inside;
    }

    /// What follows for this host: what is to be done first, and what when everything else is there. `all`: anything may have changed.
    pub(crate) fn say_external(
        &mut self,
        mut work: ExternalWork,
        floating: &BTreeSet<ObjectName>,
        all: bool,
    ) -> (Vec<Action>, Vec<Action>) {
        for port in floating {
            let vpc = self.set.port(port).and_then(|port| vpc_of(&self.set, port.spec));
            if let Some(vpc) = vpc.filter(|vpc| self.external.is_about(vpc)) {
                work.dirty.entry(vpc.clone()).or_default().insert(port.clone());
            }
        }
        let addresses: BTreeSet<IpAddr> = match all {
            true => self
                .external
                .owners
                .keys()
                .copied()
                .chain(self.outside.addresses().map(|(at, _)| at))
                .collect(),
            false => {
                let ports = work.dirty.values().flatten();
                ports.flat_map(|port| self.outside.floating(port)).map(|(_, address)| address).collect()
            }
        };
        let (mut unbound, mut bound, mut announced, mut renewed) = (vec![], vec![], vec![], BTreeSet::new());
        for address in addresses {
            let wanted = self.outside.get(address).and_then(|entry| self.owner(entry));
            let known = match wanted {
                Some(wanted) => self.external.owners.insert(address, wanted),
                None => self.external.owners.remove(&address),
            };
            let (owner, known_owner) = (wanted.map(|(owner, _)| owner), known.map(|(owner, _)| owner));
            if owner != known_owner {
                renewed.insert(address);
                unbound.extend(known_owner.map(|_| ExternalAction::UnbindExternal { address }));
                bound.extend(owner.map(|owner| ExternalAction::BindExternal { address, owner }));
            }
            let is = |state: Option<(ExternalOwner, bool)>| state.is_some_and(|(_, announced)| announced);
            match (is(known), is(wanted)) {
                (true, false) => work.before.push(ExternalAction::WithdrawExternal { address }),
                (false, true) => announced.push(ExternalAction::AnnounceExternal { address }),
                _ => {}
            }
        }
        let mut after = std::mem::take(&mut work.after);
        after.append(&mut bound);
        self.say_entries(&mut work, &renewed, &mut after);
        let mut before = work.before;
        before.append(&mut unbound);
        after.append(&mut announced);
        let actions = |actions: Vec<ExternalAction>| actions.into_iter().map(Action::External).collect();
        (actions(before), actions(after))
    }

    /// Blocks and sources of ports that may have others.
    fn say_entries(
        &mut self,
        work: &mut ExternalWork,
        renewed: &BTreeSet<IpAddr>,
        after: &mut Vec<ExternalAction>,
    ) {
        for (vpc, ports) in std::mem::take(&mut work.dirty) {
            let (mut old, mut new): (BTreeMap<Entry, Value>, BTreeMap<Entry, Value>) = Default::default();
            for port in &ports {
                let entries = self.entries(&vpc, port);
                new.extend(entries.iter().map(|(entry, value)| (*entry, *value)));
                let Some(realm) = self.external.realms.get_mut(&vpc) else { continue };
                let before = match entries.is_empty() {
                    true => realm.said.remove(port),
                    false => realm.said.insert(port.clone(), entries),
                };
                old.extend(before.unwrap_or_default());
            }
            for entry in old.keys().filter(|entry| !new.contains_key(entry)) {
                work.before.push(entry.unbind());
            }
            for (entry, value) in &new {
                let anew = matches!(entry, Entry::Block(address, _) if renewed.contains(address));
                if anew || old.get(entry) != Some(value) {
                    after.extend(entry.bind(*value));
                }
            }
        }
    }

    fn owner(&self, entry: &Address) -> Option<(ExternalOwner, bool)> {
        let realm = self.external.realms.get(entry.vpc.as_ref()?)?;
        let announced = entry.announcer.as_ref() == Some(&self.host);
        let owner = match &entry.of {
            Of::Gateway(gateway) => {
                let spec = &realm.gateways.get(gateway)?.spec;
                let blocks = u16::try_from(spec.blocks_per_address()).unwrap_or(u16::MAX);
                ExternalOwner::Shared { vpc: realm.number, count: spec.ports_per_port, blocks }
            }
            Of::Port(port) => {
                let (address, v4) = (self.set.port(port)?.spec, entry.address.is_ipv4());
                let address = *address.ips.iter().find(|address| address.is_ipv4() == v4)?;
                let network = self.networks.number(&entry.network)?;
                ExternalOwner::Floating { inside: Inside { vpc: realm.number, address }, network }
            }
        };
        Some((owner, announced))
    }

    /// What is to be said because of a port.
    fn entries(&self, vpc: &ObjectName, name: &ObjectName) -> BTreeMap<Entry, Value> {
        let mut entries = BTreeMap::new();
        let Some(realm) = self.external.realms.get(vpc) else { return entries };
        let Some(port) = self.set.port(name) else { return entries };
        if realm.names.get(&port.meta.uid) != Some(name) {
            return entries;
        }
        for gateway in realm.gateways.values() {
            if let (Some((block, number)), Some(inside)) =
                (gateway.block(port.meta.uid), gateway.inside(port.spec))
            {
                entries.insert(Entry::Block(block.address, number), Value::Inside(inside));
            }
        }
        for exit in &realm.exits {
            let gateway = exit.gateway.as_ref().and_then(|gateway| realm.gateways.get(gateway));
            let block = gateway.and_then(|gateway| Some((gateway, gateway.block(port.meta.uid)?.0)));
            let shared = port.spec.ips.iter().filter_map(|inside| {
                let (_, block) = block.filter(|(gateway, _)| gateway.spec.is_like(*inside))?;
                Some((*inside, Source::Block(block)))
            });
            let floating = self.floating(name, port.spec).filter(|(network, ..)| **network == exit.network);
            let floating = floating.map(|(_, inside, address)| (inside, Source::Floating(address)));
            for (inside, source) in shared.chain(floating) {
                entries.insert(Entry::Source(exit.number, inside), Value::Source(source));
            }
        }
        entries
    }

    /// The floating IPs of a port, with the networks that they are in and the addresses inside.
    fn floating<'a>(
        &'a self,
        name: &ObjectName,
        port: &'a PortSpec,
    ) -> impl Iterator<Item = (&'a Name, IpAddr, IpAddr)> {
        self.outside.floating(name).filter_map(|(network, address)| {
            let inside = port.ips.iter().find(|inside| inside.is_ipv4() == address.is_ipv4())?;
            Some((network, *inside, address))
        })
    }

    /// What a port is called outside; nothing of one whose VPC this host does not know.
    pub fn translations(&self, name: &ObjectName) -> Vec<Translation> {
        let Some(port) = self.set.port(name) else { return Vec::new() };
        let vpc = vpc_of(&self.set, port.spec);
        let Some(realm) = vpc.and_then(|vpc| self.external.realms.get(vpc)) else { return Vec::new() };
        let floating = self.floating(name, port.spec).map(|(network, inside, address)| Translation {
            network: network.clone(),
            gateway: None,
            inside,
            address,
            ports: None,
        });
        let shared = realm.gateways.iter().filter_map(|(name, gateway)| {
            let (block, _) = gateway.block(port.meta.uid)?;
            Some(Translation {
                network: gateway.spec.external.clone(),
                gateway: Some(name.clone()),
                inside: gateway.inside(port.spec)?,
                address: block.address,
                ports: Some(block.first..=block.first + (block.count - 1)),
            })
        });
        floating.chain(shared).collect()
    }

    /// Ports that a gateway has no block left for, with the gateway.
    pub fn without_blocks(&self) -> impl Iterator<Item = (&ObjectName, &ObjectName)> {
        self.external.realms.values().flat_map(|realm| {
            realm.gateways.iter().flat_map(move |(name, gateway)| {
                let ports = gateway.blocks.without().filter_map(|port| realm.names.get(&port));
                ports.map(move |port| (port, name))
            })
        })
    }

    /// How many of a gateway's blocks are ports', and how many it has; `None` of one whose VPC this host does not know.
    pub fn blocks_in_use(&self, gateway: &ObjectName) -> Option<(usize, usize)> {
        let gateway = self.external.realms.values().find_map(|realm| realm.gateways.get(gateway))?;
        Some((gateway.blocks.in_use(), gateway.spec.capacity()))
    }

    /// The host that announces an external address; `None` when none can, or nobody has the address.
    pub fn announcer_of(&self, address: IpAddr) -> Option<&Name> {
        self.outside.get(address)?.announcer.as_ref()
    }
}
