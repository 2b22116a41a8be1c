//! Which entries of the tables a Port or Endpoint is behind, and what changes between two times.

use crate::action::Action;
use crate::agent::Agent;
use crate::scope::VtepKey;
use model::{Name, ObjectName, PortSpec, Resource, Spec};
use packet::MacAddr;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use tables::{Endpoint, Location, vpc_space};

/// The entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Mac(u16, MacAddr),
    Address(u16, IpAddr),
}

fn entry_of(binding: &Action) -> Option<Entry> {
    match binding {
        Action::BindMac { space, mac, .. } => Some(Entry::Mac(*space, *mac)),
        Action::BindEndpoint { vpc, address, .. } => Some(Entry::Address(*vpc, *address)),
        _ => None,
    }
}

/// What ends a binding.
pub(crate) fn unbound(binding: &Action) -> Option<Action> {
    Some(match entry_of(binding)? {
        Entry::Mac(space, mac) => Action::UnbindMac { space, mac },
        Entry::Address(vpc, address) => Action::UnbindEndpoint { vpc, address },
    })
}

fn is_at(binding: &Action, closing: &BTreeSet<u16>) -> bool {
    let location = match binding {
        Action::BindMac { location, .. } => *location,
        Action::BindEndpoint { endpoint, .. } => endpoint.location,
        _ => return false,
    };
    matches!(location, Location::Local(port) if closing.contains(&port))
}

/// Entries that there will be more of.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    macs: usize,
    ipv4: usize,
    ipv6: usize,
}

impl Newcomers {
    /// Fewer find room one by one.
    const MANY: usize = 16;

    /// Of bindings of which each is of a new entry.
    pub(crate) fn add(&mut self, bindings: &[Action]) {
        bindings.iter().for_each(|binding| self.add_one(binding));
    }

    fn add_one(&mut self, binding: &Action) {
        match binding {
            Action::BindMac { .. } => self.macs += 1,
            Action::BindEndpoint { address: IpAddr::V4(_), .. } => self.ipv4 += 1,
            Action::BindEndpoint { address: IpAddr::V6(_), .. } => self.ipv6 += 1,
            _ => {}
        }
    }

    /// What is said of them before they are bound, if they are many.
    pub(crate) fn announce(self) -> Option<Action> {
        let Self { macs, ipv4, ipv6 } = self;
        (macs + ipv4 + ipv6 >= Self::MANY).then_some(Action::Expect { macs, ipv4, ipv6 })
    }
}

/// What must be unbound and bound to get from `old` to `new`, and how many of the bound are entries that there are none of once that is unbound. What leads
/// to a port that closes is unbound in any case.
pub(crate) fn changes(
    old: &[Action],
    new: Vec<Action>,
    closing: &BTreeSet<u16>,
) -> (Vec<Action>, Vec<Action>, Newcomers) {
    let mut unbinds: Vec<Action> =
        old.iter().filter(|binding| is_at(binding, closing)).filter_map(unbound).collect();
    let staying = old.iter().filter(|binding| !is_at(binding, closing));
    let mut before: HashMap<Entry, &Action> =
        staying.filter_map(|binding| Some((entry_of(binding)?, binding))).collect();
    let (mut binds, mut newcomers) = (new, Newcomers::default());
    if before.is_empty() {
        newcomers.add(&binds);
    } else {
        binds.retain(|binding| {
            let known = entry_of(binding).and_then(|entry| before.remove(&entry));
            if known.is_none() {
                newcomers.add_one(binding);
            }
            known != Some(binding)
        });
    }
    unbinds.extend(before.into_values().filter_map(unbound));
    unbinds.sort_by_key(|action| match action {
        Action::UnbindMac { space, mac } => (Some((*space, *mac)), None),
        Action::UnbindEndpoint { vpc, address } => (None, Some((*vpc, *address))),
        _ => (None, None),
    });
    (unbinds, binds, newcomers)
}

impl Agent {
    /// The host that a port forwards on.
    pub(crate) fn host_of<'a>(&'a self, name: &ObjectName, spec: &'a PortSpec) -> Option<&'a Name> {
        match &spec.migrating_to {
            Some(_) => self.active.get(name).or(spec.host.as_ref()),
            None => spec.host.as_ref(),
        }
    }

    /// Where frames to a port go.
    pub(crate) fn place_of(&self, name: &ObjectName, spec: &PortSpec) -> Option<Location> {
        let host = self.host_of(name, spec).filter(|_| !spec.shutdown)?;
        match *host == self.host {
            true => self.ports.get(name).map(|port| Location::Local(port.index.0)),
            false => self.vteps.number(&VtepKey::Host(host.clone())).map(Location::Remote),
        }
    }

    /// Adds the bindings that follow from a Port or Endpoint at present.
    pub(crate) fn bindings(&self, member: &Resource, to: &mut Vec<Action>) {
        match &member.spec {
            Spec::Port(spec) => self.port_bindings(&member.meta.object(), spec, to),
            Spec::Endpoint(spec) => {
                let Some((subnet, plan)) = self.subnets.plan(&spec.subnet) else { return };
                let Some(vtep) = self.vteps.number(&VtepKey::Foreign(spec.vtep)) else { return };
                let endpoint = Endpoint { mac: spec.mac, subnet, location: Location::Remote(vtep) };
                to.push(Action::BindMac { space: subnet, mac: spec.mac, location: endpoint.location });
                bind_addresses(plan.vpc, &spec.ips, endpoint, to);
            }
            _ => {}
        }
    }

    fn port_bindings(&self, name: &ObjectName, spec: &PortSpec, to: &mut Vec<Action>) {
        let Some((subnet, plan)) = self.subnets.plan(&spec.subnet) else { return };
        let Some(location) = self.place_of(name, spec) else { return };
        let vpc = plan.vpc;
        // The underlay reaches ports that are here; and, by way of the host they left, which may be either of the two, those that moved away just now.
        let from_underlay =
            matches!(location, Location::Local(_)) || spec.migrating_to.is_some() && spec.is_on(&self.host);
        let mut bind_mac = |mac| {
            to.push(Action::BindMac { space: subnet, mac, location });
            if from_underlay {
                to.push(Action::BindMac { space: vpc_space(vpc), mac, location });
            }
        };
        bind_mac(spec.mac);
        let held: Vec<(u16, IpAddr, MacAddr)> = self.holders.of(name).filter(|held| held.0 == vpc).collect();
        let macs: BTreeSet<MacAddr> = held.iter().map(|(_, _, mac)| *mac).collect();
        for mac in macs.into_iter().filter(|mac| *mac != spec.mac && self.holders.owns_mac(vpc, *mac, name)) {
            bind_mac(mac);
        }
        bind_addresses(vpc, &spec.ips, Endpoint { mac: spec.mac, subnet, location }, to);
        for (_, address, mac) in held {
            bind_addresses(vpc, &[address], Endpoint { mac, subnet, location }, to);
        }
    }
}

fn bind_addresses(vpc: u16, addresses: &[IpAddr], endpoint: Endpoint, to: &mut Vec<Action>) {
    to.extend(addresses.iter().map(|address| Action::BindEndpoint { vpc, address: *address, endpoint }));
}
