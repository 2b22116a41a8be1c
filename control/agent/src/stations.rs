//! Which addresses realized ports have of their own, so that an announcement need not look at every port.

use crate::plan::PortPlan;
use packet::MacAddr;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many ports have an address, by subnet. (More than one only while one replaces another.)
#[derive(Debug, Default)]
pub(crate) struct Stations {
    addresses: BTreeMap<(u16, IpAddr), u32>,
    macs: BTreeMap<(u16, MacAddr), u32>,
}

impl Stations {
    pub(crate) fn add(&mut self, plan: &PortPlan) {
        let subnet = plan.profile.subnet;
        *self.macs.entry((subnet, plan.profile.mac)).or_default() += 1;
        for address in plan.addresses() {
            *self.addresses.entry((subnet, *address)).or_default() += 1;
        }
    }

    pub(crate) fn remove(&mut self, plan: &PortPlan) {
        let subnet = plan.profile.subnet;
        take_one(&mut self.macs, (subnet, plan.profile.mac));
        for address in plan.addresses() {
            take_one(&mut self.addresses, (subnet, *address));
        }
    }

    /// Whether it is some port's own.
    pub(crate) fn has_address(&self, subnet: u16, address: IpAddr) -> bool {
        self.addresses.contains_key(&(subnet, address))
    }

    /// Whether some port goes by it.
    pub(crate) fn has_mac(&self, subnet: u16, mac: MacAddr) -> bool {
        self.macs.contains_key(&(subnet, mac))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.macs.is_empty()
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
