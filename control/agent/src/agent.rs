//! The state machine.

use crate::action::Action;
use crate::balancers::Balancers;
use crate::bindings::changes;
use crate::external::External;
use crate::holders::Holders;
use crate::index::{Indices, Numbered};
use crate::members::Members;
use crate::outside::Outside;
use crate::plan::{ExternalPlan, PortPlan, SubnetPlan, VpcPlan};
use crate::policies::{Policies, PolicyKey};
use crate::scope::{ExitKey, ExitPlan, Numbers, RoutesKey, Scope, VtepKey, VtepPlan};
use crate::watch::{Watch, may_hold};
use engine::{Announcement, PortIndex};
use ipnet::IpNet;
use model::{Name, ObjectName, ResourceSet};
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::{Location, NextHop};

/// Ports, VPCs and subnets one host can have, each: below the numbers that mean something else.
pub(crate) const LIMIT: u16 = 16_384;

/// This host has no number left for another port, subnet or VPC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "port {port}: this host already has {LIMIT} ports, subnets or VPCs; delete some, or place the port on another host (spec.host)"
)]
pub struct Exhausted {
    /// The port that was left out.
    pub port: String,
}

/// A port that is open here.
#[derive(Debug)]
pub(crate) struct Realized {
    pub(crate) index: PortIndex,
    pub(crate) subnet: ObjectName,
    pub(crate) plan: PortPlan,
    /// `None`: it is unfiltered.
    pub(crate) policy: Option<PolicyKey>,
}

/// See the crate's documentation.
#[derive(Debug)]
pub struct Agent {
    pub(crate) host: Name,
    /// What is realized.
    pub(crate) set: ResourceSet,
    pub(crate) scope: Scope,
    pub(crate) ports: BTreeMap<ObjectName, Realized>,
    pub(crate) by_index: BTreeMap<PortIndex, ObjectName>,
    pub(crate) port_indices: Indices<u16>,
    /// Ports there was no room for.
    pub(crate) waiting: BTreeSet<ObjectName>,
    pub(crate) vpcs: Numbered<ObjectName, VpcPlan>,
    pub(crate) subnets: Numbered<ObjectName, SubnetPlan>,
    pub(crate) routes: Numbered<RoutesKey, Vec<(IpNet, NextHop)>>,
    pub(crate) vteps: Numbered<VtepKey, VtepPlan>,
    pub(crate) networks: Numbered<Name, ExternalPlan>,
    pub(crate) exits: Numbered<ExitKey, ExitPlan>,
    pub(crate) outside: Outside,
    pub(crate) external: External,
    pub(crate) policies: Policies,
    pub(crate) members: Members,
    pub(crate) balancers: Balancers,
    pub(crate) holders: Holders,
    pub(crate) watch: Watch,
    /// The host on which each port that moves was last heard to run, of its two.
    pub(crate) active: BTreeMap<ObjectName, Name>,
}

impl Agent {
    /// An agent for the host of that name, which has realized nothing.
    pub fn new(host: Name) -> Self {
        Self {
            host,
            set: ResourceSet::default(),
            scope: Scope::default(),
            ports: BTreeMap::new(),
            by_index: BTreeMap::new(),
            port_indices: Indices::new(LIMIT),
            waiting: BTreeSet::new(),
            vpcs: Numbered::new(LIMIT),
            subnets: Numbered::new(LIMIT),
            routes: Numbered::new(u16::MAX),
            vteps: Numbered::new(u16::MAX),
            networks: Numbered::new(LIMIT),
            exits: Numbered::new(LIMIT),
            outside: Outside::default(),
            external: External::default(),
            policies: Policies::new(),
            members: Members::default(),
            balancers: Balancers::default(),
            holders: Holders::default(),
            watch: Watch::default(),
            active: BTreeMap::new(),
        }
    }

    /// What follows from a port saying that it holds an address. Nothing when it may not (any more), when the address is
    /// some port's own, when its guest runs elsewhere, or when it is known.
    pub fn announced(&mut self, announcement: Announcement) -> Vec<Action> {
        let Announcement { port, address, mac } = announcement;
        let Some(name) = self.by_index.get(&port).cloned() else { return Vec::new() };
        let Some(plan) = self.ports.get(&name).map(|realized| &realized.plan) else { return Vec::new() };
        let vpc = plan.vpc;
        let is_here = self.set.port(&name).and_then(|port| self.place_of(&name, port.spec));
        match is_here {
            Some(Location::Local(_)) => self.held(vpc, address, mac, &name),
            _ => Vec::new(),
        }
    }

    /// What follows from a tunnel end point saying, in a VPC, that `mac` has `address` (gratuitous ARP, unsolicited NA) or that
    /// `mac` is there (RARP): a port that moves has arrived, or a virtual address has a new holder. Nothing when no port of that
    /// host may say so.
    pub fn heard_of(&mut self, vpc: u16, vtep: u16, mac: MacAddr, address: Option<IpAddr>) -> Vec<Action> {
        let moved = self.moved(vpc, mac, vtep);
        match address {
            Some(address) if moved.is_empty() => self.announced_remotely(vpc, address, mac, vtep),
            _ => moved,
        }
    }

    /// What follows from an announcement of `mac` by a tunnel end point: a port with `migratingTo` runs on that host from now on, if it is
    /// one of its two.
    pub fn moved(&mut self, vpc: u16, mac: MacAddr, vtep: u16) -> Vec<Action> {
        let Some(VtepKey::Host(host)) = self.vteps.key(vtep).cloned() else { return Vec::new() };
        let Some(name) = self.watch.migrating(vpc, mac).cloned() else { return Vec::new() };
        let Some(port) = self.set.port(&name).filter(|port| port.spec.is_on(&host)) else {
            return Vec::new();
        };
        match self.host_of(&name, port.spec) == Some(&host) {
            true => Vec::new(),
            false => self.transition(vec![name.clone()], |agent| drop(agent.active.insert(name, host))),
        }
    }

    /// What follows from a tunnel end point saying that `mac` has the virtual address `address`. Accepted only if a port of that host
    /// may hold it.
    pub fn announced_remotely(&mut self, vpc: u16, address: IpAddr, mac: MacAddr, vtep: u16) -> Vec<Action> {
        let Some(VtepKey::Host(host)) = self.vteps.key(vtep) else { return Vec::new() };
        let may = |name: &&ObjectName| {
            let Some(port) = self.set.port(name) else { return false };
            self.host_of(name, port.spec) == Some(host) && may_hold(port.spec, mac, address)
        };
        let claimant = self.watch.claimants(vpc, address).find(may).cloned();
        match claimant {
            Some(name) => self.held(vpc, address, mac, &name),
            None => Vec::new(),
        }
    }

    /// What follows from the guest of a port running here: if the port moves, it has arrived, and is reached here from now on. The
    /// fabric is told in any case.
    pub fn activated(&mut self, port: PortIndex) -> Vec<Action> {
        let Some(name) = self.by_index.get(&port).cloned() else { return Vec::new() };
        let Some(spec) = self.set.port(&name).map(|port| port.spec) else { return Vec::new() };
        // Heard of even where it was already: if the two hosts of the port change places, it stays where it runs.
        let moves = spec.migrating_to.is_some() && spec.is_on(&self.host);
        let mut actions = match moves {
            true => {
                let host = self.host.clone();
                self.transition(vec![name.clone()], |agent| drop(agent.active.insert(name, host)))
            }
            false => Vec::new(),
        };
        actions.push(Action::Announce { port });
        actions
    }

    /// The local port that last announced `address` in the VPC of `port`, and the MAC address it said.
    pub fn holder(&self, port: PortIndex, address: IpAddr) -> Option<(PortIndex, MacAddr)> {
        let (name, mac) = self.holders.get(self.plan(port)?.vpc, address)?;
        self.index_of(name).map(|index| (index, mac))
    }

    /// Says that no worker knows the port of an [`Action::ClosePort`] any more.
    pub fn closed(&mut self, index: PortIndex) {
        if !self.by_index.contains_key(&index) {
            self.port_indices.give_back(index.0);
        }
    }

    /// The port of that index.
    pub fn plan(&self, index: PortIndex) -> Option<&PortPlan> {
        self.ports.get(self.by_index.get(&index)?).map(|realized| &realized.plan)
    }

    /// The index of the port of that name, if it is realized here.
    pub fn index_of(&self, name: &ObjectName) -> Option<PortIndex> {
        self.ports.get(name).map(|realized| realized.index)
    }

    /// All ports realized, in the order of their names.
    pub fn ports(&self) -> impl Iterator<Item = (PortIndex, &PortPlan)> {
        self.ports.values().map(|realized| (realized.index, &realized.plan))
    }

    fn held(&mut self, vpc: u16, address: IpAddr, mac: MacAddr, name: &ObjectName) -> Vec<Action> {
        let allowed = self.set.port(name).is_some_and(|port| may_hold(port.spec, mac, address));
        let known =
            self.holders.get(vpc, address) == Some((name, mac)) && self.holders.owns_mac(vpc, mac, name);
        if !allowed || known {
            return Vec::new();
        }
        let mut concerned = self.holders.concerned(vpc, address, mac);
        concerned.push(name.clone());
        self.transition(concerned, |agent| agent.holders.set(vpc, address, mac, name))
    }

    /// What follows from a change of what is known of some ports.
    fn transition(&mut self, mut ports: Vec<ObjectName>, change: impl FnOnce(&mut Self)) -> Vec<Action> {
        ports.sort();
        ports.dedup();
        let bindings = |agent: &Self| {
            let mut all = Vec::new();
            for port in
                ports.iter().filter_map(|name| agent.set.get(&model::Key::of(model::Kind::Port, name)))
            {
                agent.bindings(port, &mut all);
            }
            all
        };
        let old = bindings(self);
        change(self);
        let (mut actions, binds, _few) = changes(&old, bindings(self), &BTreeSet::new());
        if ports.iter().any(|port| self.scope.hops.contains(port)) {
            self.set_routes(&mut actions);
        }
        actions.extend(binds);
        actions
    }

    /// Compiles the route tables in use; those that say something else are set.
    pub(crate) fn set_routes(&mut self, actions: &mut Vec<Action>) {
        let keys: Vec<RoutesKey> = self.scope.routes.iter().cloned().collect();
        for key in keys {
            let plan = self.with_numbers(|numbers| numbers.routes_plan(&self.set, &key));
            if let Some(routes) = self.routes.set(&key, &plan) {
                actions.push(Action::SetRoutes { routes, plan });
            }
        }
    }

    pub(crate) fn with_numbers<R>(&self, act: impl FnOnce(&Numbers<'_>) -> R) -> R {
        act(&Numbers {
            scope: &self.scope,
            vpc: &|name| self.vpcs.number(name),
            subnet: &|name| self.subnets.number(name),
            routes: &|key| self.routes.number(key),
            vtep: &|key| self.vteps.number(key),
            exit: &|key| self.exits.number(key),
            place: &|name| self.place_of(name, self.set.port(name)?.spec),
        })
    }
}
