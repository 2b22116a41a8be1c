//! What workers know of VPCs, subnets, route tables and tunnels: one immutable snapshot, published whole when any of it changes.
//!
//! What there are many of (endpoints, MAC addresses) is in tables of its own; what changes by itself (where a next hop of the underlay is) is in
//! [`Neighbours`].

use crate::RouteTable;
use crate::external::External;
use ipnet::IpNet;
use packet::{MacAddr, vxlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// A VPC with ports on this host, or a peer of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vpc {
    /// Its number on the wire.
    pub vni: u32,
    /// Bytes of the longest network-layer packet.
    pub mtu: u16,
    /// Tunnel end points that know all its addresses; none: this host knows them.
    pub directory: Vec<u16>,
    /// Whether this host is one of those, for others.
    pub is_directory: bool,
    /// VPCs whose endpoints may be reached from it by a route, and may send to it.
    pub peers: Vec<u16>,
    /// Whether the segment size that TCP offers over the fabric is lowered to what fits.
    pub clamp_mss: bool,
}

/// A subnet of one of those VPCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The VPC it belongs to.
    pub vpc: u16,
    /// Its gateway's MAC address: the same on all hosts.
    pub gateway_mac: MacAddr,
    /// Its networks.
    pub prefixes: Vec<IpNet>,
    /// Its gateways, one for each network.
    pub gateways: Vec<IpAddr>,
    /// The route table of packets to the gateway; none in a VPC without local ports.
    pub routes: Option<u16>,
    /// Whether multicast is replicated to all of it.
    pub multicast: bool,
}

impl Subnet {
    /// Whether `address` is in one of its networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    /// Whether `address` is the gateway's: as configured, or the link-local one that follows from its MAC address.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateways.contains(&address) || address == IpAddr::V6(crate::link_local(self.gateway_mac))
    }

    /// The gateway's address of the family of `like`, if the subnet has one.
    pub fn gateway_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == like.is_ipv4())
    }
}

/// A tunnel end point of somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its address.
    pub address: IpAddr,
    /// The outer headers to it; `None` while this host has no address of its family.
    pub outer: Option<vxlan::Outer>,
    /// Which of [`Neighbours`] is the way to it.
    pub neighbour: u16,
    /// Whether towpathd runs there: it checks what its ports send, and reads the group policy field.
    pub is_host: bool,
}

/// The port that leads to the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub port: u16,
    /// Its MAC address.
    pub mac: MacAddr,
    /// This host's addresses on it.
    pub addresses: Vec<OwnAddress>,
    /// Routers on the link.
    pub gateways: Vec<IpAddr>,
}

/// An address of this host on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether the switch answers ARP, neighbour solicitations and ping for it, or the host's kernel does.
    pub answered: bool,
}

/// See the module's documentation. Each part is found by its number.
#[derive(Clone, Debug, Default)]
pub struct Network {
    vpcs: Vec<Option<Arc<Vpc>>>,
    subnets: Vec<Option<Arc<Subnet>>>,
    routes: Vec<Option<Arc<RouteTable>>>,
    tunnels: Vec<Option<Arc<Tunnel>>>,
    /// The way to other hosts.
    pub uplink: Option<Uplink>,
    /// The ways out of VPCs, and who has which address there.
    pub external: Arc<External>,
}

fn set<T>(parts: &mut Vec<Option<Arc<T>>>, number: u16, part: Option<T>) {
    let at = usize::from(number);
    if parts.len() <= at {
        parts.resize_with(at + 1, || None);
    }
    if let Some(slot) = parts.get_mut(at) {
        *slot = part.map(Arc::new);
    }
}

fn get<T>(parts: &[Option<Arc<T>>], number: u16) -> Option<&T> {
    parts.get(usize::from(number))?.as_deref()
}

impl Network {
    /// The VPC of that number.
    #[inline]
    pub fn vpc(&self, number: u16) -> Option<&Vpc> {
        get(&self.vpcs, number)
    }

    /// The subnet of that number.
    #[inline]
    pub fn subnet(&self, number: u16) -> Option<&Subnet> {
        get(&self.subnets, number)
    }

    /// The route table of that number.
    #[inline]
    pub fn routes(&self, number: u16) -> Option<&RouteTable> {
        get(&self.routes, number)
    }

    /// The tunnel end point of that number.
    #[inline]
    pub fn tunnel(&self, number: u16) -> Option<&Tunnel> {
        get(&self.tunnels, number)
    }

    /// All tunnel end points, with their numbers.
    pub fn tunnels(&self) -> impl Iterator<Item = (u16, &Tunnel)> {
        (0..).zip(&self.tunnels).filter_map(|(number, tunnel)| Some((number, tunnel.as_deref()?)))
    }

    /// All subnets, with their numbers.
    pub fn subnets(&self) -> impl Iterator<Item = (u16, &Subnet)> {
        (0..).zip(&self.subnets).filter_map(|(number, subnet)| Some((number, subnet.as_deref()?)))
    }

    /// Puts a VPC at a number, or takes away what is there.
    pub fn set_vpc(&mut self, number: u16, vpc: Option<Vpc>) {
        set(&mut self.vpcs, number, vpc);
    }

    /// Puts a subnet at a number, or takes away what is there.
    pub fn set_subnet(&mut self, number: u16, subnet: Option<Subnet>) {
        set(&mut self.subnets, number, subnet);
    }

    /// Puts a route table at a number, or takes away what is there.
    pub fn set_routes(&mut self, number: u16, routes: Option<RouteTable>) {
        set(&mut self.routes, number, routes);
    }

    /// Puts a tunnel end point at a number, or takes away what is there.
    pub fn set_tunnel(&mut self, number: u16, tunnel: Option<Tunnel>) {
        set(&mut self.tunnels, number, tunnel);
    }

    /// The gateway's IPv4 and IPv6 address of a subnet, for what it sends itself.
    pub fn gateways(&self, subnet: u16) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let gateways = self.subnet(subnet).map_or(&[][..], |subnet| &subnet.gateways);
        let v4 =
            gateways.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None });
        let v6 =
            gateways.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None });
        (v4, v6)
    }
}

/// Where the next hops of the underlay are: written by a control thread when it found out, read by workers for every burst.
///
/// A number means nothing by itself; [`Tunnel::neighbour`] is one.
#[derive(Clone, Debug)]
pub struct Neighbours {
    neighbours: Arc<[Neighbour]>,
    changes: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Neighbour {
    /// The MAC address with bit 48 set; 0 while it is not known.
    mac: AtomicU64,
    /// Set by workers that send by it.
    used: AtomicBool,
}

/// In the word of a neighbour whose MAC address is known.
const KNOWN: u64 = 1 << 48;

impl Neighbours {
    /// `count` neighbours of which nothing is known.
    pub fn new(count: u16) -> Self {
        Self { neighbours: (0..count).map(|_| Neighbour::default()).collect(), changes: Arc::default() }
    }

    /// Its MAC address, and notes that it is in use.
    #[inline]
    pub fn of_use(&self, number: u16) -> Option<MacAddr> {
        let neighbour = self.neighbours.get(usize::from(number))?;
        if !neighbour.used.load(Relaxed) {
            neighbour.used.store(true, Relaxed);
        }
        self.mac(number)
    }

    /// Its MAC address, if it is known.
    #[inline]
    pub fn mac(&self, number: u16) -> Option<MacAddr> {
        let word = self.neighbours.get(usize::from(number))?.mac.load(Relaxed);
        (word & KNOWN != 0).then(|| MacAddr::from_u64(word & (KNOWN - 1)))
    }

    /// Writes down where it is, or that nobody knows.
    pub fn set(&self, number: u16, mac: Option<MacAddr>) {
        if let Some(neighbour) = self.neighbours.get(usize::from(number)) {
            neighbour.mac.store(mac.map_or(0, |mac| mac.to_u64() | KNOWN), Relaxed);
            self.changes.fetch_add(1, Release);
        }
    }

    /// A number that changes whenever any of them does.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Whether it was in use since the last call.
    pub fn take_used(&self, number: u16) -> bool {
        self.neighbours.get(usize::from(number)).is_some_and(|neighbour| neighbour.used.swap(false, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_known_and_forgotten() {
        let neighbours = Neighbours::new(2);
        assert_eq!((neighbours.of_use(1), neighbours.of_use(2)), (None, None));
        let zero = MacAddr([0; 6]);
        neighbours.set(1, Some(zero));
        assert_eq!((neighbours.mac(1), neighbours.mac(0)), (Some(zero), None));
        assert!(neighbours.take_used(1) && !neighbours.take_used(1) && !neighbours.take_used(0));
        neighbours.set(1, None);
        assert_eq!(neighbours.mac(1), None);
    }
}
