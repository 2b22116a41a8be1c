//! What the operator wants, as the simulator knows it: the manifests are written from it, and the checkers judge by it.

mod foreign;
mod groups;
mod manifests;
mod ways;

pub use foreign::EndpointView;
pub use groups::{GROUPS, GroupView};
pub use ways::{PEERS, ROUTED, Routes, Way, is_routed_net};

use crate::net::services::Right;
use crate::net::{Mac, Station, link_local};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// MTU of the underlay, in bytes.
pub const UNDERLAY_MTU: u16 = 1500;
/// Seconds that an address is lent by DHCP.
pub const LEASE: u32 = 7200;
/// Where the metadata service is.
pub const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];
/// VPCs, and subnets of each. The first two use the same addresses; the third, which uses others, is the first one's peer.
pub const VPCS: usize = 3;
/// See [`VPCS`].
pub const SUBNETS: usize = 2;

/// A host as its neighbours on the underlay know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostView {
    /// Its uplink's MAC address.
    pub mac: Mac,
    /// The address of its tunnel end point.
    pub address: IpAddr,
}

impl HostView {
    /// Host number `host`, on an underlay of IPv6 or IPv4.
    #[must_use]
    pub fn new(host: usize, v6: bool) -> Self {
        let last = 10 + host as u8;
        let address = if v6 {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)))
        } else {
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
        };
        Self { mac: [6, 0, 0, 0, 0, last], address }
    }
}

/// The number of a VPC on the wire.
#[must_use]
pub fn vni(vpc: usize) -> u32 {
    // All three bytes differ, and a byte less or swapped is another VPC's or nobody's.
    0x0a_0100 + 0x0101 * vpc as u32
}

/// A port as the operator wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortView {
    /// Whether it exists.
    pub present: bool,
    /// Whether it is not shut down.
    pub up: bool,
    /// VPC and subnet.
    pub subnet: (usize, usize),
    /// Its addresses.
    pub station: Station,
    /// Whether it may hold its subnet's virtual addresses.
    pub vip: bool,
    /// Whether it routes for [`ROUTED`], and so may send from there.
    pub router: bool,
    /// The host on which its guest runs.
    pub host: usize,
    /// While it moves: the hosts that it moves from and to, both of which realize it.
    pub moves: Option<(usize, usize)>,
    /// The groups of its VPC that it is in, by place; none: `default`. `None`: it is under no rules.
    pub groups: Option<Vec<usize>>,
}

impl PortView {
    /// A port that is there and open, and nothing more.
    #[must_use]
    pub fn new(subnet: (usize, usize), station: Station, host: usize) -> Self {
        Self {
            present: true,
            up: true,
            subnet,
            station,
            vip: false,
            router: false,
            host,
            moves: None,
            groups: None,
        }
    }

    /// Whether a host realizes it.
    #[must_use]
    pub fn is_on(&self, host: usize) -> bool {
        self.moves.map_or(self.host == host, |(from, to)| from == host || to == host)
    }

    /// Whether the port may send packets from `address` in frames from `mac`.
    #[must_use]
    pub fn may_send(&self, mac: Mac, address: IpAddr) -> bool {
        let held = self.vip && vips(self.subnet).contains(&address);
        mac == self.station.mac && (self.owns(address) || held || self.router && is_routed_net(address))
    }

    /// Whether `address` is its own.
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        address == self.station.v4 || address == self.station.v6 || address == link_local(self.station.mac)
    }
}

/// What tells the addresses of VPCs apart: the second byte of IPv4's, the second group of IPv6's.
pub(crate) fn block(vpc: usize) -> (u8, u16) {
    if vpc == PEERS[1] { (2, 0x12) } else { (0, 0x10) }
}

/// The addresses of a subnet that move between ports.
#[must_use]
pub fn vips(subnet: (usize, usize)) -> [IpAddr; 2] {
    let (second, block) = block(subnet.0);
    [[10, second, subnet.1 as u8, 100].into(), [0xfd00, block, 0, subnet.1 as u16, 0, 0, 0, 0x100].into()]
}

/// Whether an address is good on one link only.
#[must_use]
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The station at a place of a subnet. The first two VPCs use the same addresses: nothing but the VPC tells two guests apart.
#[must_use]
pub fn station(subnet: (usize, usize), place: u8) -> Station {
    let (second, block) = block(subnet.0);
    Station {
        mac: [2, 0, 0, 0, subnet.1 as u8, place],
        v4: [10, second, subnet.1 as u8, place].into(),
        v6: [0xfd00, block, 0, subnet.1 as u16, 0, 0, 0, u16::from(place)].into(),
    }
}

/// The gateway of a subnet that has `mac`.
#[must_use]
pub fn gateway(subnet: (usize, usize), mac: Mac) -> Station {
    Station { mac, ..station(subnet, 1) }
}

/// An address that moves: the host that knows of it, its subnet, and itself.
pub type Held = (usize, (usize, usize), IpAddr);

/// Everything desired, and since when.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// By guest.
    pub ports: Vec<PortView>,
    /// The hosts, if there are several.
    pub hosts: Vec<HostView>,
    /// Tunnel end points that are no towpathd, in places behind the hosts.
    pub foreign: Vec<HostView>,
    /// What is behind those.
    pub endpoints: Vec<EndpointView>,
    /// By subnet: its gateway's MAC address.
    pub gateways: BTreeMap<(usize, usize), Mac>,
    /// MTU of all VPCs, in bytes.
    pub mtu: u16,
    /// Subnets with number 0 tell their ports by DHCP and router advertisements who they are.
    pub served: bool,
    /// Who announced each virtual address last, by host and subnet.
    pub holders: BTreeMap<Held, (usize, Mac)>,
    /// Guests that move, and which of their two hosts has heard that they run on the other.
    pub heard: BTreeSet<(usize, usize)>,
    /// Counts changes; what was sent before one may be judged by either state.
    pub epoch: u64,
    /// Earlier states of ports: guest, the epoch in which the state ended, the state.
    pub past: Vec<(usize, u64, PortView)>,
    /// Groups of each VPC, one VPC after the other.
    pub groups: Vec<GroupView>,
    /// What route tables and peerings say.
    pub routes: Routes,
    /// Earlier ones, and the epochs in which they ended.
    pub past_routes: Vec<(u64, Routes)>,
}

impl Network {
    /// Changes a port.
    pub fn change(&mut self, guest: usize, change: impl FnOnce(&mut PortView)) {
        let before = self.ports[guest].clone();
        change(&mut self.ports[guest]);
        self.heard.retain(|(other, _)| *other != guest);
        if before != self.ports[guest] {
            self.past.push((guest, self.epoch, before));
            self.epoch += 1;
        }
    }

    /// All states of a port since `epoch`, the present one first.
    pub fn since(&self, guest: usize, epoch: u64) -> impl Iterator<Item = &PortView> {
        let past = self.past.iter().filter(move |(of, ended, _)| *of == guest && *ended >= epoch);
        std::iter::once(&self.ports[guest]).chain(past.map(|(_, _, view)| view))
    }

    /// The guest whose port has `mac` in `subnet`.
    #[must_use]
    pub fn by_mac(&self, subnet: (usize, usize), mac: Mac) -> Option<usize> {
        self.ports
            .iter()
            .position(|port| port.present && port.up && port.subnet == subnet && port.station.mac == mac)
    }

    /// The guest that has `address` in `subnet`, as `host` knows it: who announces an address is known to its own host.
    #[must_use]
    pub fn by_address(&self, host: usize, subnet: (usize, usize), address: IpAddr) -> Option<usize> {
        let own = self
            .ports
            .iter()
            .position(|port| port.present && port.up && port.subnet == subnet && port.owns(address));
        own.or_else(|| self.holders.get(&(host, subnet, address)).map(|(guest, _)| *guest))
    }

    /// The same in a whole VPC; link-local addresses are nobody's there.
    #[must_use]
    pub fn in_vpc(&self, host: usize, vpc: usize, address: IpAddr) -> Option<usize> {
        if is_link_local(address) {
            return None;
        }
        (0..SUBNETS).find_map(|subnet| self.by_address(host, (vpc, subnet), address))
    }

    /// The guest of a VPC whose port, on `host`, has `mac`.
    #[must_use]
    pub fn on_host(&self, host: usize, vpc: usize, mac: Mac) -> Option<usize> {
        self.ports.iter().position(|port| {
            (port.present && port.up && port.is_on(host)) && port.subnet.0 == vpc && port.station.mac == mac
        })
    }

    /// `host` heard that the port with `mac`, which moves, runs on its other host.
    pub fn hear(&mut self, host: usize, mac: Mac) {
        let is_it = |port: &PortView| {
            port.station.mac == mac && port.moves.is_some() && port.host != host && port.is_on(host)
        };
        let mut guests = (0..self.ports.len()).filter(|guest| is_it(&self.ports[*guest]));
        // VPCs may use the same MAC addresses.
        if let (Some(guest), None) = (guests.next(), guests.next()) {
            self.heard.insert((guest, host));
            self.epoch += 1;
        }
    }

    /// Whether a port ever moved between two hosts: who has not heard of it sends to the one, which sends on to the other.
    #[must_use]
    pub fn moved_between(&self, guest: usize, hosts: (usize, usize)) -> bool {
        let (one, other) = hosts;
        self.since(guest, 0).any(|port| port.moves.is_some() && port.is_on(one) && port.is_on(other))
    }

    /// Whether `host` has ports of a VPC.
    #[must_use]
    pub fn has_vpc(&self, host: usize, vpc: usize) -> bool {
        self.ports.iter().any(|port| port.present && port.is_on(host) && port.subnet.0 == vpc)
    }

    /// Whether `host` knows a VPC: it has ports of it, or of a peer.
    #[must_use]
    pub fn sees(&self, host: usize, vpc: usize) -> bool {
        self.has_vpc(host, vpc) || self.peer_of(vpc).is_some_and(|peer| self.has_vpc(host, peer))
    }

    /// Whether a host knows the other's tunnel end point: it knows a VPC that the other has ports of.
    #[must_use]
    pub fn knows(&self, host: usize, other: usize) -> bool {
        (0..VPCS).any(|vpc| self.sees(host, vpc) && self.has_vpc(other, vpc))
    }

    /// The host whose tunnel end point has `address`.
    #[must_use]
    pub fn host_at(&self, address: IpAddr) -> Option<usize> {
        self.hosts.iter().position(|host| host.address == address)
    }

    /// The gateway of a subnet.
    #[must_use]
    pub fn gateway(&self, subnet: (usize, usize)) -> Station {
        gateway(subnet, self.gateways.get(&subnet).copied().unwrap_or_default())
    }

    /// Whether `address` is a gateway's of that subnet, or a service that every subnet has.
    #[must_use]
    pub fn is_gateway(&self, subnet: (usize, usize), address: IpAddr) -> bool {
        let gateway = self.gateway(subnet);
        let own = [gateway.v4.into(), gateway.v6.into(), link_local(gateway.mac).into()];
        own.contains(&address) || METADATA.contains(&address)
    }

    /// How a guest reaches another's station: at its own MAC address, or by the gateway.
    #[must_use]
    pub fn next_hop(&self, from: usize, to: usize) -> Station {
        let (mine, theirs) = (&self.ports[from], &self.ports[to]);
        if mine.subnet == theirs.subnet {
            return theirs.station;
        }
        Station { mac: self.gateway(mine.subnet).mac, ..theirs.station }
    }

    /// What a port is told by DHCP and router advertisements, if it is.
    #[must_use]
    pub fn told(&self, port: &PortView) -> Option<Right> {
        let dns = station(port.subnet, 2);
        (self.served && port.subnet.1 == 0).then(|| Right {
            station: port.station,
            gateway: self.gateway(port.subnet),
            dns: (dns.v4, dns.v6),
            mtu: self.mtu,
            lease: LEASE,
        })
    }

    /// Forgets holders that may not hold their address any more.
    pub fn drop_holders(&mut self) {
        let ports = &self.ports;
        // A host that a VPC has left knows nothing of it any more.
        let hosts = 0..self.hosts.len().max(1);
        let seen: Vec<Vec<bool>> =
            hosts.map(|host| (0..VPCS).map(|vpc| self.sees(host, vpc)).collect()).collect();
        self.holders.retain(|(host, subnet, _), (guest, mac)| {
            let port = &ports[*guest];
            seen[*host][subnet.0]
                && port.present
                && port.up
                && port.vip
                && port.subnet == *subnet
                && port.station.mac == *mac
        });
    }

    /// The guests a guest may talk to: all of its VPC, and of its peer.
    #[must_use]
    pub fn partners(&self, guest: usize) -> Vec<usize> {
        let vpc = self.ports[guest].subnet.0;
        let reached = |other: usize| other == vpc || self.peer_of(vpc) == Some(other);
        (0..self.ports.len())
            .filter(|other| {
                let port = &self.ports[*other];
                *other != guest && port.present && port.up && reached(port.subnet.0)
            })
            .collect()
    }

    /// The guests of a guest's subnet.
    #[must_use]
    pub fn neighbours(&self, guest: usize) -> Vec<usize> {
        let subnet = self.ports[guest].subnet;
        (0..self.ports.len())
            .filter(|other| {
                let port = &self.ports[*other];
                *other != guest && port.present && port.up && port.subnet == subnet
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Name;

    #[test]
    fn the_manifests_are_valid_and_two_vpcs_may_use_the_same_addresses() {
        let port = |vpc, place| PortView {
            vip: place == 10,
            ..PortView::new((vpc, 0), station((vpc, 0), place), 0)
        };
        let network = Network { ports: vec![port(0, 10), port(0, 11), port(1, 10)], ..Network::default() };
        let host = Name::parse("node-0").unwrap();
        assert_eq!(network.resources(&host).unwrap().ports_on(&host).count(), 3);
        assert_eq!(network.by_mac((1, 0), station((1, 0), 10).mac), Some(2));
        assert_eq!(network.neighbours(0), [1]);
    }
}
