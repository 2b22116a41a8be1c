//! Addresses that belong to whoever last announced them.

use model::ObjectName;
use packet::MacAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Who holds what, by VPC and address; and whose a MAC address is that several may go by (VRRP): his who announced it last.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    held: BTreeMap<(u16, IpAddr), (ObjectName, MacAddr)>,
    of_port: BTreeMap<ObjectName, BTreeSet<(u16, IpAddr, MacAddr)>>,
    owners: BTreeMap<(u16, MacAddr), ObjectName>,
}

impl Holders {
    /// The port that holds an address, and the MAC address it goes by.
    pub(crate) fn get(&self, vpc: u16, address: IpAddr) -> Option<(&ObjectName, MacAddr)> {
        self.held.get(&(vpc, address)).map(|(port, mac)| (port, *mac))
    }

    /// What a port holds: VPC, address, MAC address.
    pub(crate) fn of(&self, port: &ObjectName) -> impl Iterator<Item = (u16, IpAddr, MacAddr)> {
        self.of_port.get(port).into_iter().flatten().copied()
    }

    /// Whether frames to `mac` are for `port`, of those that hold something by it.
    pub(crate) fn owns_mac(&self, vpc: u16, mac: MacAddr, port: &ObjectName) -> bool {
        self.owners.get(&(vpc, mac)) == Some(port)
    }

    /// Ports that an announcement by `port` concerns besides itself.
    pub(crate) fn concerned(&self, vpc: u16, address: IpAddr, mac: MacAddr) -> Vec<ObjectName> {
        let before = self.held.get(&(vpc, address));
        let mut ports: Vec<ObjectName> = before.iter().map(|(port, _)| port.clone()).collect();
        // Who loses an address may have been the one that frames to its MAC address were for, and others go by it.
        for mac in before.iter().map(|(_, mac)| *mac).chain([mac]) {
            ports.extend(self.held_by_mac(vpc, mac));
        }
        ports.sort();
        ports.dedup();
        ports
    }

    fn held_by_mac(&self, vpc: u16, mac: MacAddr) -> impl Iterator<Item = ObjectName> {
        let all =
            self.held.range((vpc, IpAddr::from([0; 4]))..).take_while(move |((other, _), _)| *other == vpc);
        all.filter(move |(_, (_, other))| *other == mac).map(|(_, (port, _))| port.clone())
    }

    /// Records who holds an address from now on.
    pub(crate) fn set(&mut self, vpc: u16, address: IpAddr, mac: MacAddr, port: &ObjectName) {
        self.remove(vpc, address);
        self.held.insert((vpc, address), (port.clone(), mac));
        self.of_port.entry(port.clone()).or_default().insert((vpc, address, mac));
        self.owners.insert((vpc, mac), port.clone());
    }

    /// Nobody holds an address any more.
    pub(crate) fn remove(&mut self, vpc: u16, address: IpAddr) {
        let Some((port, mac)) = self.held.remove(&(vpc, address)) else { return };
        if let Some(of_port) = self.of_port.get_mut(&port) {
            of_port.remove(&(vpc, address, mac));
            if of_port.is_empty() {
                self.of_port.remove(&port);
            }
        }
        let still = self.of(&port).any(|(other_vpc, _, other)| (other_vpc, other) == (vpc, mac));
        if !still && self.owners.get(&(vpc, mac)) == Some(&port) {
            let other = self.held_by_mac(vpc, mac).next();
            match other {
                Some(other) => self.owners.insert((vpc, mac), other),
                None => self.owners.remove(&(vpc, mac)),
            };
        }
    }

    /// Ports that hold anything.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &ObjectName> {
        self.of_port.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Name;

    fn port(name: &str) -> ObjectName {
        ObjectName { project: Name::default_project(), name: Name::parse(name).unwrap() }
    }

    #[test]
    fn a_mac_address_is_in_use_as_long_as_an_address_goes_by_it() {
        let mut holders = Holders::default();
        let (one, other) = (port("one"), port("other"));
        let mac = MacAddr([0, 0, 0x5e, 0, 1, 1]);
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        holders.set(7, a, mac, &one);
        holders.set(7, b, mac, &one);
        assert!(holders.owns_mac(7, mac, &one) && !holders.owns_mac(8, mac, &one));
        holders.set(7, a, mac, &other);
        assert!(holders.owns_mac(7, mac, &other) && !holders.owns_mac(7, mac, &one), "the last one");
        assert_eq!(holders.get(7, b), Some((&one, mac)));
        assert_eq!(holders.concerned(7, a, MacAddr([2; 6])), [one.clone(), other.clone()]);
        holders.remove(7, a);
        assert!(holders.owns_mac(7, mac, &one), "who is left");
        holders.remove(7, b);
        assert!(!holders.owns_mac(7, mac, &one) && holders.ports().next().is_none());
    }
}
