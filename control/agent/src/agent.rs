//! The state machine.

use crate::action::Action;
use crate::holders::Holders;
use crate::index::Indices;
use crate::plan::PortPlan;
use crate::stations::Stations;
use engine::{Announcement, PortIndex};
use model::{Name, ObjectName, PortSpec, ResourceSet, Typed, VhostUserAttachment};
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::{Endpoint, Location, vpc_space};

/// Ports one host can have.
const PORT_LIMIT: usize = 16_384;

/// This host has no number left for another port or subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "port {port}: this host already has {PORT_LIMIT} ports or subnets; delete some, or place the port on another host (spec.host)"
)]
pub struct Exhausted {
    /// The port that was left out.
    pub port: String,
}

struct Realized {
    index: PortIndex,
    subnet: ObjectName,
    plan: PortPlan,
}

/// See the crate's documentation.
pub struct Agent {
    host: Name,
    ports: BTreeMap<ObjectName, Realized>,
    by_index: BTreeMap<PortIndex, ObjectName>,
    subnets: BTreeMap<ObjectName, u16>,
    vpcs: BTreeMap<ObjectName, u16>,
    vpc_of_subnet: BTreeMap<u16, u16>,
    port_indices: Indices,
    vpc_indices: Indices,
    subnet_indices: Indices,
    holders: Holders,
    stations: Stations,
}

impl Agent {
    /// An agent for the host of that name, which has realized nothing.
    pub fn new(host: Name) -> Self {
        Self {
            host,
            ports: BTreeMap::new(),
            by_index: BTreeMap::new(),
            subnets: BTreeMap::new(),
            vpcs: BTreeMap::new(),
            vpc_of_subnet: BTreeMap::new(),
            port_indices: Indices::default(),
            vpc_indices: Indices::default(),
            subnet_indices: Indices::default(),
            holders: Holders::default(),
            stations: Stations::default(),
        }
    }

    /// What must be done so that this host realizes `desired`; ports it has no room for are left out and reported.
    pub fn apply(&mut self, desired: &ResourceSet) -> (Vec<Action>, Vec<Exhausted>) {
        let (mut actions, mut exhausted) = (Vec::new(), Vec::new());
        let host = self.host.clone();
        let wanted: BTreeMap<ObjectName, Typed<'_, PortSpec>> =
            desired.ports_on(&host).map(|port| (port.meta.object(), port)).collect();
        // A port that changes subnet or MAC address is unbound as it was and bound as it is.
        let gone: Vec<ObjectName> =
            self.ports.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.remove(&name, &mut actions);
        }
        for (name, port) in wanted {
            if let Err(error) = self.realize(name, port, desired, &mut actions) {
                exhausted.push(error);
            }
        }
        self.drop_unheld(&mut actions);
        self.drop_unused_subnets();
        (actions, exhausted)
    }

    /// What follows from a port saying that it holds an address. Nothing when it may not (any more), when the address is
    /// some port's own, or when it is known.
    pub fn announced(&mut self, announcement: Announcement) -> Vec<Action> {
        let Announcement { port, address, mac } = announcement;
        let Some(realized) = self.by_index.get(&port).and_then(|name| self.ports.get(name)) else {
            return Vec::new();
        };
        let profile = &realized.plan.profile;
        let (vpc, subnet) = (realized.plan.vpc, profile.subnet);
        let own_of_one = self.stations.has_address(subnet, address);
        if own_of_one || !profile.up || !profile.may_announce(mac, address) {
            return Vec::new();
        }
        let own_mac = mac == profile.mac;
        let Ok(before) = self.holders.set(subnet, address, port, mac) else { return Vec::new() };
        let mut actions = Vec::new();
        let location = Location::Local(port.0);
        if !own_mac {
            actions.push(Action::BindMac { space: subnet, mac, location });
            actions.push(Action::BindMac { space: vpc_space(vpc), mac, location });
        }
        actions.push(Action::BindEndpoint { vpc, address, endpoint: Endpoint { mac, subnet, location } });
        if let Some((old_port, old_mac)) = before {
            self.unbind_spare_mac(vpc, subnet, old_port, old_mac, &mut actions);
        }
        actions
    }

    /// The port that last announced `address` in the subnet of `port`, and the MAC address it said.
    pub fn holder(&self, port: PortIndex, address: IpAddr) -> Option<(PortIndex, MacAddr)> {
        let subnet = self.plan(port)?.profile.subnet;
        self.holders.get(subnet, address)
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

    fn realize(
        &mut self,
        name: ObjectName,
        port: Typed<'_, PortSpec>,
        desired: &ResourceSet,
        actions: &mut Vec<Action>,
    ) -> Result<(), Exhausted> {
        let no_room = || Exhausted { port: name.to_string() };
        let subnet = match self.subnets.get(&port.spec.subnet) {
            Some(number) => *number,
            None => {
                let number = self.subnet_indices.take(PORT_LIMIT).ok_or_else(no_room)?;
                self.subnets.insert(port.spec.subnet.clone(), number);
                number
            }
        };
        let vpc =
            desired.subnet(&port.spec.subnet).map(|subnet| subnet.spec.vpc.clone()).ok_or_else(no_room)?;
        let vpc = match self.vpcs.get(&vpc) {
            Some(number) => *number,
            None => {
                let number = self.vpc_indices.take(PORT_LIMIT).ok_or_else(no_room)?;
                self.vpcs.insert(vpc, number);
                number
            }
        };
        self.vpc_of_subnet.insert(subnet, vpc);
        let plan = PortPlan::of(port, desired, subnet, vpc);
        if let Some(realized) = self.ports.get(&name)
            && needs_reopening(&realized.plan, &plan)
        {
            self.remove(&name, actions);
        }
        match self.ports.get_mut(&name) {
            Some(realized) if realized.plan == plan => {}
            Some(realized) => {
                let (index, before) = (realized.index, std::mem::replace(&mut realized.plan, plan.clone()));
                self.stations.remove(&before);
                self.stations.add(&plan);
                realized.subnet = port.spec.subnet.clone();
                rebind(index, &before, &plan, actions);
            }
            None => {
                let index = PortIndex(self.port_indices.take(PORT_LIMIT).ok_or_else(no_room)?);
                actions.push(Action::OpenPort { index, plan: Box::new(plan.clone()) });
                bind(index, &plan, actions);
                self.by_index.insert(index, name.clone());
                self.stations.add(&plan);
                self.ports.insert(name, Realized { index, subnet: port.spec.subnet.clone(), plan });
            }
        }
        Ok(())
    }

    fn remove(&mut self, name: &ObjectName, actions: &mut Vec<Action>) {
        let Some(realized) = self.ports.remove(name) else { return };
        self.by_index.remove(&realized.index);
        self.stations.remove(&realized.plan);
        self.drop_unheld(actions);
        unbind(&realized.plan, actions);
        actions.push(Action::ClosePort { index: realized.index });
    }

    /// Unbinds announced addresses whose holder is gone, down, or not allowed any more.
    fn drop_unheld(&mut self, actions: &mut Vec<Action>) {
        let (ports, by_index) = (&self.ports, &self.by_index);
        let gone = self.holders.retain(|subnet, address, port, mac| {
            let plan =
                by_index.get(&port).and_then(|name| ports.get(name)).map(|realized| &realized.plan.profile);
            plan.is_some_and(|profile| {
                profile.subnet == subnet && profile.up && profile.may_announce(mac, address)
            })
        });
        for (subnet, address, port, mac) in gone {
            // An address that became some port's own was bound to it after it was announced.
            let Some(vpc) = self.vpc_of(subnet) else { continue };
            if !self.stations.has_address(subnet, address) {
                actions.push(Action::UnbindEndpoint { vpc, address });
            }
            self.unbind_spare_mac(vpc, subnet, port, mac, actions);
        }
    }

    /// Unbinds a MAC address that only announced addresses went by, when none does any more.
    fn unbind_spare_mac(
        &self,
        vpc: u16,
        subnet: u16,
        port: PortIndex,
        mac: MacAddr,
        actions: &mut Vec<Action>,
    ) {
        let of_a_port = self.stations.has_mac(subnet, mac);
        let moved = actions
            .iter()
            .any(|action| matches!(action, Action::BindMac { mac: bound, .. } if *bound == mac));
        if !of_a_port && !moved && !self.holders.uses(subnet, port, mac) {
            actions.push(Action::UnbindMac { space: subnet, mac });
            actions.push(Action::UnbindMac { space: vpc_space(vpc), mac });
        }
    }

    fn vpc_of(&self, subnet: u16) -> Option<u16> {
        self.vpc_of_subnet.get(&subnet).copied()
    }

    fn drop_unused_subnets(&mut self) {
        let used: BTreeSet<&ObjectName> = self.ports.values().map(|realized| &realized.subnet).collect();
        let indices = &mut self.subnet_indices;
        self.subnets.retain(|name, number| {
            let stays = used.contains(name);
            if !stays {
                indices.give_back(*number);
            }
            stays
        });
    }
}

/// Whether the difference touches the socket itself. What is withheld from a guest is settled when its front end connects.
fn needs_reopening(old: &PortPlan, new: &PortPlan) -> bool {
    let socket = |plan: &PortPlan| {
        let attachment = plan.attachment.clone();
        attachment.map(|attachment| VhostUserAttachment { without_features: Vec::new(), ..attachment })
    };
    old.uid != new.uid || socket(old) != socket(new)
}

/// Makes a port reachable, unless it is shut down.
fn bind(port: PortIndex, plan: &PortPlan, actions: &mut Vec<Action>) {
    let profile = &plan.profile;
    if !profile.up {
        return;
    }
    let location = Location::Local(port.0);
    actions.push(Action::BindMac { space: profile.subnet, mac: profile.mac, location });
    actions.push(Action::BindMac { space: vpc_space(plan.vpc), mac: profile.mac, location });
    plan.addresses().iter().for_each(|address| bind_address(port, plan, *address, actions));
}

fn bind_address(port: PortIndex, plan: &PortPlan, address: IpAddr, actions: &mut Vec<Action>) {
    let (mac, subnet) = (plan.profile.mac, plan.profile.subnet);
    let endpoint = Endpoint { mac, subnet, location: Location::Local(port.0) };
    actions.push(Action::BindEndpoint { vpc: plan.vpc, address, endpoint });
}

fn unbind(plan: &PortPlan, actions: &mut Vec<Action>) {
    let profile = &plan.profile;
    actions.push(Action::UnbindMac { space: profile.subnet, mac: profile.mac });
    actions.push(Action::UnbindMac { space: vpc_space(plan.vpc), mac: profile.mac });
    let unbind = |address: &IpAddr| Action::UnbindEndpoint { vpc: plan.vpc, address: *address };
    actions.extend(plan.addresses().iter().map(unbind));
}

/// From `old` to `new`: what is not new is unbound first, the profile changes, what was not old is bound last.
fn rebind(port: PortIndex, old: &PortPlan, new: &PortPlan, actions: &mut Vec<Action>) {
    let (before, after) = (&old.profile, &new.profile);
    let same_station =
        (old.vpc, before.subnet, before.mac, before.up) == (new.vpc, after.subnet, after.mac, after.up);
    if !same_station {
        unbind(old, actions);
    } else {
        for address in old.addresses().iter().filter(|address| !new.addresses().contains(address)) {
            actions.push(Action::UnbindEndpoint { vpc: old.vpc, address: *address });
        }
    }
    actions.push(Action::ChangePort { index: port, plan: Box::new(new.clone()) });
    if !same_station {
        bind(port, new, actions);
    } else if after.up {
        for address in new.addresses().iter().filter(|address| !old.addresses().contains(address)) {
            bind_address(port, new, *address, actions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Environment, HostSpec};

    const NETWORK: &str = "
apiVersion: towpath.dev/v1
kind: Vpc
metadata: {name: blue}
spec: {vni: 100, cidrs: [10.0.0.0/16]}
---
apiVersion: towpath.dev/v1
kind: Subnet
metadata: {name: web}
spec: {vpc: blue, cidrs: [10.0.1.0/24]}
---
apiVersion: towpath.dev/v1
kind: Port
metadata: {name: a}
spec: {subnet: web, host: node-a, mac: \"02:00:00:00:01:0a\", ips: [10.0.1.10], unfiltered: true";

    fn apply(agent: &mut Agent, rest: &str) -> Vec<Action> {
        let host = Name::parse("node-a").unwrap();
        let own = Some((host, HostSpec::default()));
        let environment = Environment { own_host: own, ..Environment::default() };
        let set = model::load_text(&format!("{NETWORK}{rest}}}\n"), "test", &environment).unwrap();
        agent.apply(&set).0
    }

    fn binds(actions: &[Action]) -> usize {
        let is_bind =
            |action: &&Action| matches!(action, Action::BindMac { .. } | Action::BindEndpoint { .. });
        actions.iter().filter(is_bind).count()
    }

    #[test]
    fn a_port_that_is_shut_down_is_reached_by_nobody() {
        let mut agent = Agent::new(Name::parse("node-a").unwrap());
        let bound = binds(&apply(&mut agent, ""));
        assert_eq!(bound, 4, "the MAC address in both spaces, the own and the link-local address");
        let down = apply(&mut agent, ", shutdown: true");
        assert!(down.iter().any(|action| matches!(action, Action::UnbindMac { .. })));
        assert_eq!(binds(&down), 0);
        assert_eq!(binds(&apply(&mut agent, ", shutdown: false")), bound);
        let mut other = Agent::new(Name::parse("node-a").unwrap());
        assert_eq!(binds(&apply(&mut other, ", shutdown: true")), 0, "nor one that begins so");
    }

    #[test]
    fn what_is_withheld_from_a_guest_changes_without_its_socket() {
        let mut agent = Agent::new(Name::parse("node-a").unwrap());
        let with = |rest: &str| format!(", attachment: {{vhostUser: {{socket: /run/a.sock{rest}}}}}");
        apply(&mut agent, &with(""));
        let masked = apply(&mut agent, &with(", withoutFeatures: [packed ring]"));
        assert!(matches!(&masked[..], [Action::ChangePort { .. }]), "{masked:?}");
        let moved = apply(&mut agent, &with(", maxQueuePairs: 1"));
        assert!(moved.iter().any(|action| matches!(action, Action::OpenPort { .. })), "{moved:?}");
    }

    #[test]
    fn own_addresses_are_known_exactly_as_long_as_their_ports() {
        let mut agent = Agent::new(Name::parse("node-a").unwrap());
        apply(&mut agent, "");
        let (index, subnet) = (PortIndex(0), agent.plan(PortIndex(0)).unwrap().profile.subnet);
        let own: IpAddr = "10.0.1.10".parse().unwrap();
        assert!(agent.stations.has_address(subnet, own));
        let mac = agent.plan(index).unwrap().profile.mac;
        assert_eq!(agent.announced(Announcement { port: index, address: own, mac }), []);
        apply(&mut agent, ", shutdown: true");
        apply(&mut agent, "");
        assert!(agent.stations.has_address(subnet, own) && agent.stations.has_mac(subnet, mac));
        agent.apply(&ResourceSet::default());
        assert!(agent.stations.is_empty());
    }
}
