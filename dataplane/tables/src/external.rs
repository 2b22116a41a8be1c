//! What ports are called outside of all VPCs: floating IPs, one to one, and blocks of the ports of NAT gateways' addresses.
//!
//! Immutable, a part of [`Network`](crate::Network). Nothing here says on which host a port is: an external address leads to an address of a VPC, which is
//! looked up among the endpoints, so that it moves with its port. All hosts make the same of the same resources.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use packet::MacAddr;

use crate::Neighbours;

/// The first port that a NAT gateway gives out: those below are for services.
pub const FIRST_PORT: u16 = 1024;

/// Ports of an external address that one port of a VPC sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The external address.
    pub address: IpAddr,
    /// Its first port.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl Block {
    /// The ports.
    pub fn ports(self) -> Range<u32> {
        u32::from(self.first)..u32::from(self.first) + u32::from(self.count)
    }
}

/// What a source address becomes outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This address; ports stay.
    Floating(IpAddr),
    /// The address and one of the ports of a block.
    Block(Block),
}

/// What an external port of a block stands for (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// One port inside with one destination: other destinations may get another. Only what it was opened towards comes in by it.
    #[default]
    Destination,
    /// One port inside, whatever it talks to. Whoever sends there reaches it, as far as its rules let him.
    EndpointIndependent,
}

/// A way out of one VPC: what its route tables lead to.
#[derive(Clone, Debug, Default)]
pub struct Exit {
    /// The VPC.
    pub vpc: u16,
    /// A number of the external network, the same for all exits to it.
    pub network: u16,
    /// Which of [`Neighbours`] is the network's router: over IPv4, then IPv6.
    pub routers: [Option<u16>; 2],
    /// Floating IPs, by the address inside. They win over blocks.
    pub floating: HashMap<IpAddr, IpAddr>,
    /// Blocks, by the address inside.
    pub blocks: HashMap<IpAddr, Block>,
    /// What the ports of these blocks stand for.
    pub mapping: Mapping,
}

impl Exit {
    /// What a source address of the VPC becomes.
    pub fn source(&self, inside: IpAddr) -> Option<Source> {
        let floating = self.floating.get(&inside).copied().map(Source::Floating);
        floating.or_else(|| self.blocks.get(&inside).copied().map(Source::Block))
    }

    /// The neighbour that packets of a family leave by.
    pub fn router(&self, v4: bool) -> Option<u16> {
        if v4 { self.routers[0] } else { self.routers[1] }
    }
}

/// An address inside a VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inside {
    /// The VPC.
    pub vpc: u16,
    /// The address.
    pub address: IpAddr,
}

/// Whose an external address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// That of one port, in this external network.
    Floating(Inside, u16),
    /// A NAT gateway's: who has its blocks of so many ports, from [`FIRST_PORT`] on.
    Shared {
        /// The gateway's VPC.
        vpc: u16,
        /// Ports of a block.
        count: u16,
        /// The first address of the port that has each block; `None` for nobody.
        blocks: Vec<Option<IpAddr>>,
    },
}

impl Owner {
    /// Who inside has a port (or an identifier of ICMP) of the address.
    pub fn inside(&self, port: Option<u16>) -> Option<Inside> {
        match self {
            Self::Floating(inside, _) => Some(*inside),
            Self::Shared { vpc, count, blocks } => {
                let at = port?.checked_sub(FIRST_PORT)?.checked_div(*count)?;
                let address = (*blocks.get(usize::from(at))?)?;
                Some(Inside { vpc: *vpc, address })
            }
        }
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct External {
    /// By the numbers that routes lead to.
    pub exits: Vec<Exit>,
    /// Whose each external address is.
    pub owners: HashMap<IpAddr, Owner>,
    /// Those that this host answers neighbours for.
    pub announced: HashSet<IpAddr>,
    /// The networks of each VPC with an exit, and of its peers: nobody outside has an address of them.
    pub inside: HashMap<u16, Vec<IpNet>>,
    /// The routers of external networks, by address, and which of [`Neighbours`] they are.
    pub routers: HashMap<IpAddr, u16>,
}

impl External {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty() && self.exits.is_empty()
    }

    /// An exit by its number.
    #[inline]
    pub fn exit(&self, number: u16) -> Option<&Exit> {
        self.exits.get(usize::from(number))
    }

    /// Whose an external address is.
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<&Owner> {
        if self.owners.is_empty() { None } else { self.owners.get(&address) }
    }

    /// What an address of a VPC becomes in an external network, and what its ports there stand for.
    pub fn source(&self, from: Inside, network: u16) -> (Option<Source>, Mapping) {
        let exits = self.exits.iter().filter(|exit| (exit.vpc, exit.network) == (from.vpc, network));
        let mut found = (None, Mapping::default());
        for (source, mapping) in exits.filter_map(|exit| Some((exit.source(from.address)?, exit.mapping))) {
            found = (Some(source), mapping);
            if matches!(source, Source::Floating(_)) {
                break;
            }
        }
        found
    }

    /// The exit by which `inside` has a block of a shared address.
    pub fn exit_of(&self, inside: Inside, shared: IpAddr) -> Option<&Exit> {
        self.exits.iter().find(|exit| {
            exit.vpc == inside.vpc
                && exit.blocks.get(&inside.address).is_some_and(|block| block.address == shared)
        })
    }

    /// Whether the external address, with that port where ports are shared, still is that of `inside`.
    pub fn is_still(&self, inside: Inside, address: IpAddr, port: u16) -> bool {
        match self.owner(address) {
            Some(Owner::Floating(owner, _)) => *owner == inside,
            Some(Owner::Shared { .. }) => {
                self.exits.iter().filter(|exit| exit.vpc == inside.vpc).any(|exit| {
                    exit.source(inside.address).is_some_and(|source| match source {
                        Source::Block(block) => {
                            block.address == address && block.ports().contains(&port.into())
                        }
                        Source::Floating(_) => false,
                    })
                })
            }
            None => false,
        }
    }

    /// Whether an address is one of a VPC's, or its peers', networks.
    pub fn is_inside(&self, vpc: u16, address: IpAddr) -> bool {
        self.inside
            .get(&vpc)
            .is_some_and(|networks| networks.iter().any(|network| network.contains(&address)))
    }

    /// Whether a router of an external network that says it is at `mac` is somewhere else than known.
    pub fn is_router_elsewhere(&self, address: IpAddr, mac: MacAddr, neighbours: &Neighbours) -> bool {
        self.routers.get(&address).is_some_and(|number| neighbours.mac(*number) != Some(mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_a_shared_address_leads_to_who_has_its_block() {
        let inside = |last| IpAddr::from([10, 0, 0, last]);
        let owner =
            Owner::Shared { vpc: 3, count: 1000, blocks: vec![Some(inside(1)), None, Some(inside(2))] };
        let of = |port| owner.inside(Some(port)).map(|inside| inside.address);
        assert_eq!([of(1023), of(1024), of(2023), of(2024)], [None, Some(inside(1)), Some(inside(1)), None]);
        assert_eq!([of(3024), of(4023), of(4024)], [Some(inside(2)), Some(inside(2)), None]);
        assert_eq!(owner.inside(None), None);
        let floating = Owner::Floating(Inside { vpc: 3, address: inside(9) }, 0);
        assert_eq!(floating.inside(None).map(|inside| inside.address), Some(inside(9)));
    }

    #[test]
    fn a_floating_ip_wins_over_a_block() {
        let (inside, shared, own) =
            (IpAddr::from([10, 0, 0, 1]), IpAddr::from([198, 51, 100, 10]), IpAddr::from([198, 51, 100, 20]));
        let block = Block { address: shared, first: 1024, count: 64 };
        let exit = Exit { vpc: 3, blocks: [(inside, block)].into(), ..Exit::default() };
        let mut external = External { exits: vec![exit], ..External::default() };
        let owner = Owner::Shared { vpc: 3, count: 64, blocks: vec![Some(inside)] };
        external.owners.insert(shared, owner);
        let from = Inside { vpc: 3, address: inside };
        assert_eq!(external.source(from, 0), (Some(Source::Block(block)), Mapping::Destination));
        assert_eq!(external.exit_of(from, shared).map(|exit| exit.vpc), Some(3));
        assert!(external.is_still(from, shared, 1087) && !external.is_still(from, shared, 1088));
        external.exits[0].floating.insert(inside, own);
        external.owners.insert(own, Owner::Floating(from, 0));
        assert_eq!(external.source(from, 0).0, Some(Source::Floating(own)));
        assert!(external.is_still(from, own, 5) && !external.is_still(from, shared, 1087));
        assert_eq!(external.source(Inside { vpc: 4, ..from }, 0).0, None);
    }
}
