//! Ports of which something may be heard from the fabric.

use model::{ObjectName, PortSpec};
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Ports that move, and ports that may announce addresses.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    migrating: BTreeMap<(u16, MacAddr), ObjectName>,
    claims: BTreeMap<(u16, IpAddr), BTreeSet<ObjectName>>,
}

impl Watch {
    /// Watches a port of VPC number `vpc`.
    pub(crate) fn add(&mut self, vpc: u16, name: &ObjectName, spec: &PortSpec) {
        if spec.migrating_to.is_some() {
            self.migrating.insert((vpc, spec.mac), name.clone());
        }
        for address in singles(spec) {
            self.claims.entry((vpc, address)).or_default().insert(name.clone());
        }
    }

    /// Ends that.
    pub(crate) fn remove(&mut self, vpc: u16, name: &ObjectName, spec: &PortSpec) {
        if self.migrating.get(&(vpc, spec.mac)) == Some(name) {
            self.migrating.remove(&(vpc, spec.mac));
        }
        for address in singles(spec) {
            if let Some(ports) = self.claims.get_mut(&(vpc, address)) {
                ports.remove(name);
                if ports.is_empty() {
                    self.claims.remove(&(vpc, address));
                }
            }
        }
    }

    /// The port with that MAC address, if it moves.
    pub(crate) fn migrating(&self, vpc: u16, mac: MacAddr) -> Option<&ObjectName> {
        self.migrating.get(&(vpc, mac))
    }

    /// Ports that may announce an address, by some MAC address.
    pub(crate) fn claimants(&self, vpc: u16, address: IpAddr) -> impl Iterator<Item = &ObjectName> {
        self.claims.get(&(vpc, address)).into_iter().flatten()
    }
}

fn singles(spec: &PortSpec) -> impl Iterator<Item = IpAddr> {
    spec.allowed_addresses.iter().filter_map(model::AllowedAddress::single)
}

/// Whether a port may say that `mac` has `address`, which is not its own.
pub(crate) fn may_hold(spec: &PortSpec, mac: MacAddr, address: IpAddr) -> bool {
    let allowed = |allowed: &model::AllowedAddress| {
        allowed.single() == Some(address) && allowed.mac.unwrap_or(spec.mac) == mac
    };
    !spec.shutdown && !spec.ips.contains(&address) && spec.allowed_addresses.iter().any(allowed)
}
