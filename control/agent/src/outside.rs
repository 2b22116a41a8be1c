//! Whose each external address is, and which host announces it: known of the whole set on every host.
//!
//! An address is announced by the live host that rates highest for it (rendezvous hashing): when a host comes or goes, only the addresses that it gets or had move.
//! Nobody says who is alive in this version; all hosts with an uplink count as live until [`crate::Agent::set_live`] says otherwise.

use crate::hash::{bytes, hash};
use model::{Difference, Kind, Name, ObjectName, Resource, ResourceSet, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Whose an external address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    Gateway(ObjectName),
    Port(ObjectName),
}

/// An external address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) address: IpAddr,
    pub(crate) of: Of,
    pub(crate) network: Name,
    /// The VPC whose packets have it; `None` of a port that is nowhere.
    pub(crate) vpc: Option<ObjectName>,
    /// The host that answers for it; `None` when none can.
    pub(crate) announcer: Option<Name>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    addresses: BTreeMap<IpAddr, Address>,
    /// The floating IPs of each port that has any.
    floating: BTreeMap<ObjectName, BTreeMap<Name, IpAddr>>,
    /// Hosts that are alive; `None`: all.
    live: Option<BTreeSet<Name>>,
    /// Hosts that may announce.
    hosts: BTreeSet<Name>,
}

/// What changed of it.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// VPCs of which addresses, or who announces them, are others.
    pub(crate) vpcs: BTreeSet<ObjectName>,
    /// Hosts that began or ceased to announce something.
    pub(crate) hosts: BTreeSet<Name>,
    /// Ports whose floating IPs are others.
    pub(crate) ports: BTreeSet<ObjectName>,
}

fn addresses_of(resource: &Resource) -> Vec<(IpAddr, Of, &Name)> {
    match &resource.spec {
        Spec::NatGateway(spec) => {
            let of = || Of::Gateway(resource.meta.object());
            spec.addresses.iter().map(|address| (*address, of(), &spec.external)).collect()
        }
        Spec::FloatingIp(spec) => vec![(spec.address, Of::Port(spec.port.clone()), &spec.external)],
        _ => Vec::new(),
    }
}

impl Outside {
    /// Takes up what changed to get to `desired`.
    pub(crate) fn follow(&mut self, desired: &ResourceSet, differences: &[Difference]) -> Changed {
        let mut changed = Changed::default();
        let mut again: BTreeSet<IpAddr> = BTreeSet::new();
        let (mut all, mut hosts) = (false, false);
        for difference in differences {
            match difference.key().map(|key| key.kind) {
                Some(Kind::NatGateway | Kind::FloatingIp) => {
                    let Some(old) = &difference.old else { continue };
                    addresses_of(old).into_iter().for_each(|(address, of, network)| {
                        self.forget(address, &of, network, &mut changed);
                    });
                }
                Some(Kind::Port) => {
                    let port =
                        difference.new.as_ref().or(difference.old.as_ref()).map(|port| port.meta.object());
                    let floating = port.and_then(|port| self.floating.get(&port));
                    again.extend(floating.into_iter().flat_map(BTreeMap::values));
                }
                Some(Kind::Subnet) => all = true,
                Some(Kind::Host) => hosts = true,
                _ => {}
            }
        }
        for difference in differences {
            let Some(new) = &difference.new else { continue };
            for (address, of, network) in addresses_of(new) {
                if let Of::Port(port) = &of {
                    self.floating.entry(port.clone()).or_default().insert(network.clone(), address);
                    changed.ports.insert(port.clone());
                }
                let entry = Address { address, of, network: network.clone(), vpc: None, announcer: None };
                self.addresses.insert(address, entry);
                again.insert(address);
            }
        }
        if hosts {
            let can = desired.hosts().filter(|host| !host.spec.vteps.is_empty());
            self.hosts = can.map(|host| host.meta.name().clone()).collect();
        }
        if all || hosts {
            again = self.addresses.keys().copied().collect();
        }
        self.place(desired, again, hosts, &mut changed);
        changed
    }

    /// These hosts are alive; `None`: all.
    pub(crate) fn set_live(&mut self, set: &ResourceSet, live: Option<BTreeSet<Name>>) -> Changed {
        let mut changed = Changed::default();
        self.live = live;
        let all: Vec<IpAddr> = self.addresses.keys().copied().collect();
        self.place(set, all, true, &mut changed);
        changed
    }

    fn forget(&mut self, address: IpAddr, of: &Of, network: &Name, changed: &mut Changed) {
        if let Some(old) = self.addresses.remove(&address) {
            changed.vpcs.extend(old.vpc);
            changed.hosts.extend(old.announcer);
        }
        if let Of::Port(port) = of
            && let Some(floating) = self.floating.get_mut(port)
        {
            floating.remove(network);
            if floating.is_empty() {
                self.floating.remove(port);
            }
            changed.ports.insert(port.clone());
        }
    }

    /// Says of addresses which VPC they are of, and, of new ones or when `hosts` are others, who announces them.
    fn place(
        &mut self,
        set: &ResourceSet,
        addresses: impl IntoIterator<Item = IpAddr>,
        hosts: bool,
        changed: &mut Changed,
    ) {
        for address in addresses {
            let known = self.addresses.get(&address).and_then(|entry| entry.announcer.clone());
            let announcer = if hosts || known.is_none() { self.announcer(address).cloned() } else { known };
            let Some(entry) = self.addresses.get_mut(&address) else { continue };
            let vpc = match &entry.of {
                Of::Gateway(gateway) => set.nat_gateway(gateway).map(|gateway| &gateway.spec.vpc),
                Of::Port(port) => set
                    .port(port)
                    .and_then(|port| set.subnet(&port.spec.subnet))
                    .map(|subnet| &subnet.spec.vpc),
            };
            if entry.vpc.as_ref() != vpc || entry.announcer != announcer {
                changed.vpcs.extend(entry.vpc.iter().chain(vpc).cloned());
                changed.hosts.extend(entry.announcer.iter().chain(&announcer).cloned());
                (entry.vpc, entry.announcer) = (vpc.cloned(), announcer);
            }
        }
    }

    /// The host that answers for an address.
    fn announcer(&self, address: IpAddr) -> Option<&Name> {
        let live = |host: &&Name| self.live.as_ref().is_none_or(|live| live.contains(*host));
        let address = bytes(address);
        self.hosts
            .iter()
            .filter(live)
            .max_by_key(|host| hash(&[host.as_str().as_bytes(), b"announces", &address]))
    }

    /// All external addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Address)> {
        self.addresses.iter().map(|(address, entry)| (*address, entry))
    }

    /// An external address.
    pub(crate) fn get(&self, address: IpAddr) -> Option<&Address> {
        self.addresses.get(&address)
    }

    /// The floating IPs of a port, by network.
    pub(crate) fn floating(&self, port: &ObjectName) -> impl Iterator<Item = (&Name, IpAddr)> {
        self.floating.get(port).into_iter().flatten().map(|(network, address)| (network, *address))
    }
}
