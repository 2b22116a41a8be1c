//! What route tables and peerings say, and where a packet goes by them.

use super::{Network, SUBNETS, block};
use std::net::IpAddr;

/// The VPCs that are peers, when they are.
pub const PEERS: [usize; 2] = [0, 2];
/// The name of their peering.
pub(super) const PEERING: &str = "p0-2";
/// Networks behind the router: a port that the first VPC's route table leads to.
pub const ROUTED: [&str; 2] = ["10.77.0.0/16", "fd00:77::/48"];

/// What the operator changes of routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// [`PEERS`] are peers, and have routes to each other.
    pub peered: bool,
    /// [`ROUTED`] goes to the router.
    pub routed: bool,
    /// A network of each VPC goes nowhere.
    pub blackhole: bool,
}

impl Routes {
    /// All there is.
    pub const ALL: Self = Self { peered: true, routed: true, blackhole: true };

    /// The peer of a VPC.
    #[must_use]
    pub fn peer_of(&self, vpc: usize) -> Option<usize> {
        let [one, other] = PEERS;
        match vpc {
            _ if !self.peered => None,
            vpc if vpc == one => Some(other),
            vpc if vpc == other => Some(one),
            _ => None,
        }
    }
}

/// What a VPC's route table says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is in a subnet of this VPC, which is the same or a peer.
    Connected(usize),
    /// Its packets go to that guest, a router.
    Hop(usize),
    /// Its packets go nowhere.
    Blackhole,
    /// There is no route.
    None,
}

/// Whether an address is behind the router.
#[must_use]
pub fn is_routed_net(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..2] == [10, 77],
        IpAddr::V6(address) => address.segments()[..3] == [0xfd00, 0x77, 0],
    }
}

/// The block of a VPC and the subnet's number in it that an address is of.
fn place(address: IpAddr) -> Option<(u16, u16)> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [10, second @ (0 | 2), subnet, _] => Some((u16::from(second), u16::from(subnet))),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd00, 0x10, 0, subnet, ..] => Some((0, subnet)),
            [0xfd00, 0x12, 0, subnet, ..] => Some((2, subnet)),
            _ => None,
        },
    }
}

impl Network {
    /// Changes routes.
    pub fn change_routes(&mut self, change: impl FnOnce(&mut Routes)) {
        let before = self.routes;
        change(&mut self.routes);
        if before != self.routes {
            self.past_routes.push((self.epoch, before));
            self.epoch += 1;
        }
    }

    /// The peer of a VPC.
    #[must_use]
    pub fn peer_of(&self, vpc: usize) -> Option<usize> {
        self.routes.peer_of(vpc)
    }

    /// All that was said about routes since `epoch`.
    pub fn routes_since(&self, epoch: u64) -> impl Iterator<Item = &Routes> {
        let past = self.past_routes.iter().filter(move |(ended, _)| *ended >= epoch);
        std::iter::once(&self.routes).chain(past.map(|(_, routes)| routes))
    }

    /// Whether packets could go from one VPC to another at any time since `epoch`.
    #[must_use]
    pub fn reached_since(&self, epoch: u64, from: usize, to: usize) -> bool {
        from == to || self.routes_since(epoch).any(|routes| routes.peer_of(from) == Some(to))
    }

    /// The guest that routes for [`ROUTED`], as long as it is there.
    #[must_use]
    pub fn router(&self) -> Option<usize> {
        self.ports.iter().position(|port| port.present && port.router)
    }

    /// The route of a VPC to `address`.
    #[must_use]
    pub fn way(&self, vpc: usize, address: IpAddr) -> Way {
        if is_routed_net(address) && vpc == PEERS[0] && self.routes.routed {
            // A router that is shut down is a way to nowhere, one that is gone is no way.
            return self.router().map_or(Way::None, |router| {
                if self.ports[router].up { Way::Hop(router) } else { Way::Blackhole }
            });
        }
        let Some((number, subnet)) = place(address) else { return Way::None };
        if number != u16::from(block(vpc).0) {
            let peer = self.peer_of(vpc).filter(|peer| u16::from(block(*peer).0) == number);
            return peer.map_or(Way::None, Way::Connected);
        }
        match subnet {
            subnet if usize::from(subnet) < SUBNETS => Way::Connected(vpc),
            66 if address.is_ipv4() && self.routes.blackhole => Way::Blackhole,
            0x66 if address.is_ipv6() && self.routes.blackhole => Way::Blackhole,
            _ => Way::None,
        }
    }

    /// Destinations of a VPC's route table, and what each goes by, as manifests say it.
    pub(super) fn route_table(&self, vpc: usize) -> Vec<(String, String)> {
        let mut table = Vec::new();
        let nets = |vpc| {
            let (second, block) = block(vpc);
            [format!("10.{second}."), format!("fd00:{block:x}:")]
        };
        if self.routes.blackhole {
            let [v4, v6] = nets(vpc);
            table.extend(
                [format!("{v4}66.0/24"), format!("{v6}0:66::/64")]
                    .map(|net| (net, "blackhole: true".to_owned())),
            );
        }
        if let Some(peer) = self.peer_of(vpc) {
            let [v4, v6] = nets(peer);
            let via = format!("peering: {PEERING}");
            table.extend([format!("{v4}0.0/16"), format!("{v6}:/48")].map(|net| (net, via.clone())));
        }
        if let Some(router) = self.router().filter(|_| self.routes.routed && vpc == PEERS[0]) {
            table.extend(super::ROUTED.map(|net| (net.to_owned(), format!("port: g{router}"))));
        }
        table
    }
}
