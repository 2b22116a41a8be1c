//! External networks: plain maps that carry actions out, and what should be in them, in the same words.

use model::{Name, ObjectName, PortSpec, ResourceSet, Typed, Via};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::external::{Mapping, Source};
use towpath_agent::{ExternalAction, ExternalOwner, ExternalPlan};

#[derive(Debug, Default)]
pub(crate) struct Outside {
    networks: BTreeMap<u16, ExternalPlan>,
    /// VPC, network, what external ports stand for.
    pub(crate) exits: BTreeMap<u16, (u16, u16, Mapping)>,
    inside: BTreeMap<u16, Vec<ipnet::IpNet>>,
    owners: BTreeMap<IpAddr, ExternalOwner>,
    blocks: BTreeMap<(IpAddr, u16), IpAddr>,
    sources: BTreeMap<(u16, IpAddr), Source>,
    pub(crate) announced: BTreeSet<IpAddr>,
}

fn source_words(source: Source) -> String {
    match source {
        Source::Floating(address) => format!("{address}"),
        Source::Block(block) => format!("{}:{}+{}", block.address, block.first, block.count),
    }
}

impl Outside {
    pub(crate) fn is_empty(&self) -> bool {
        self.networks.is_empty()
            && self.exits.is_empty()
            && self.inside.is_empty()
            && self.owners.is_empty()
            && self.blocks.is_empty()
            && self.sources.is_empty()
            && self.announced.is_empty()
    }

    fn vpc_of(owner: &ExternalOwner) -> u16 {
        match owner {
            ExternalOwner::Floating { inside, .. } => inside.vpc,
            ExternalOwner::Shared { vpc, .. } => *vpc,
        }
    }

    pub(crate) fn is_about(&self, vpc: u16) -> bool {
        let exits = self.exits.values().any(|(other, ..)| *other == vpc);
        exits
            || self.inside.contains_key(&vpc)
            || self.owners.values().any(|owner| Self::vpc_of(owner) == vpc)
    }

    pub(crate) fn carry_out(&mut self, action: &ExternalAction, is_vpc: impl Fn(u16) -> bool) {
        match action.clone() {
            ExternalAction::SetExternalNetwork { network, plan } => {
                assert_ne!(self.networks.insert(network, (*plan).clone()), Some(*plan), "again");
            }
            ExternalAction::RemoveExternalNetwork { network } => {
                assert!(self.networks.remove(&network).is_some());
                assert!(!self.exits.values().any(|(_, other, _)| *other == network));
                let owners = self.owners.values();
                assert!(!owners.into_iter().any(|owner| matches!(owner, ExternalOwner::Floating { network: other, .. } if *other == network)));
            }
            ExternalAction::SetExit { exit, vpc, network, mapping } => {
                let plan = (vpc, network, mapping);
                assert!(is_vpc(vpc) && self.networks.contains_key(&network));
                assert_ne!(self.exits.insert(exit, plan), Some(plan), "again");
            }
            ExternalAction::RemoveExit { exit } => {
                assert!(self.exits.remove(&exit).is_some());
                assert!(!self.sources.keys().any(|(other, _)| *other == exit), "{exit}");
            }
            ExternalAction::SetInside { vpc, networks } => {
                assert!(is_vpc(vpc));
                assert_ne!(self.inside.insert(vpc, networks.clone()), Some(networks), "again");
            }
            ExternalAction::RemoveInside { vpc } => assert!(self.inside.remove(&vpc).is_some()),
            ExternalAction::BindExternal { address, owner } => {
                assert!(is_vpc(Self::vpc_of(&owner)));
                assert_eq!(self.owners.insert(address, owner), None, "{address} was somebody's");
                assert!(!self.blocks.keys().any(|(other, _)| *other == address));
            }
            ExternalAction::UnbindExternal { address } => {
                assert!(self.owners.remove(&address).is_some());
                self.blocks.retain(|(other, _), _| *other != address);
            }
            ExternalAction::BindBlock { address, block, inside } => {
                let owner = self.owners.get(&address);
                assert!(
                    matches!(owner, Some(ExternalOwner::Shared { blocks, .. }) if block < *blocks),
                    "{action:?}"
                );
                assert_ne!(self.blocks.insert((address, block), inside), Some(inside), "{action:?} again");
            }
            ExternalAction::UnbindBlock { address, block } => {
                assert!(self.blocks.remove(&(address, block)).is_some(), "{action:?}");
            }
            ExternalAction::BindSource { exit, inside, source } => {
                assert!(self.exits.contains_key(&exit), "{action:?}");
                assert_ne!(self.sources.insert((exit, inside), source), Some(source), "{action:?} again");
            }
            ExternalAction::UnbindSource { exit, inside } => {
                assert!(self.sources.remove(&(exit, inside)).is_some(), "{action:?}");
            }
            ExternalAction::AnnounceExternal { address } => {
                assert!(self.owners.contains_key(&address) && self.announced.insert(address), "{action:?}");
            }
            ExternalAction::WithdrawExternal { address } => assert!(self.announced.remove(&address)),
        }
    }

    /// What leaves by an exit, and where to.
    pub(crate) fn exit(&self, exit: u16, name: impl Fn(u16) -> String) -> String {
        let (vpc, network, mapping) = self.exits[&exit];
        let sources = self.sources.iter().filter(|((other, _), _)| *other == exit);
        let sources: BTreeMap<IpAddr, String> =
            sources.map(|((_, inside), source)| (*inside, source_words(*source))).collect();
        format!("exit {} {} {mapping:?} {sources:?}", name(vpc), self.networks[&network].name)
    }

    pub(crate) fn words(&self, name: impl Fn(u16) -> String) -> Vec<(String, String)> {
        let mut words = Vec::new();
        let networks = self.networks.values();
        words.extend(
            networks.map(|plan| (format!("external network {}", plan.name), plan.gateway.to_string())),
        );
        let mut exits: Vec<String> = self.exits.keys().map(|exit| self.exit(*exit, &name)).collect();
        exits.sort();
        words.push(("exits".into(), exits.join("; ")));
        words.extend(
            self.inside.iter().map(|(vpc, nets)| (format!("inside {}", name(*vpc)), format!("{nets:?}"))),
        );
        for (address, owner) in &self.owners {
            let whose = match owner {
                ExternalOwner::Floating { inside, network } => {
                    format!("{} {} {}", name(inside.vpc), inside.address, self.networks[network].name)
                }
                ExternalOwner::Shared { vpc, count, blocks } => {
                    let own = self.blocks.iter().filter(|((other, _), _)| other == address);
                    let own: BTreeMap<u16, IpAddr> =
                        own.map(|((_, block), inside)| (*block, *inside)).collect();
                    format!("{} {blocks} of {count} {own:?}", name(*vpc))
                }
            };
            words.push((
                format!("external {address}"),
                format!("{whose} here={}", self.announced.contains(address)),
            ));
        }
        assert!(self.announced.iter().all(|address| self.owners.contains_key(address)));
        words
    }
}

/// What there should be, from a set and who is alive.
pub(crate) struct Wanted<'a> {
    pub(crate) set: &'a ResourceSet,
    pub(crate) host: &'a Name,
    pub(crate) live: Option<&'a BTreeSet<Name>>,
}

/// FNV-1a, mixed as splitmix64 does.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut state: u64 = 14_695_981_039_346_656_037;
    for part in parts {
        for byte in (part.len() as u32).to_be_bytes().iter().chain(*part) {
            state ^= u64::from(*byte);
            state = state.wrapping_mul(1_099_511_628_211);
        }
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d049bb133111eb);
    state ^ (state >> 31)
}

fn octets(address: IpAddr) -> Vec<u8> {
    let IpAddr::V4(address) = address else { panic!("of this world") };
    address.octets().to_vec()
}

/// An address and its block: first port and number of ports.
type Share = (IpAddr, u16, u16);

impl<'a> Wanted<'a> {
    /// The host that announces an address.
    fn announcer(&self, address: IpAddr) -> Option<&'a Name> {
        let may = |host: &&Name| self.live.is_none_or(|live| live.contains(*host));
        let hosts = self.set.hosts().filter(|host| !host.spec.vteps.is_empty()).map(|host| host.meta.name());
        hosts.filter(may).max_by_key(|host| hash(&[host.as_str().as_bytes(), b"announces", &octets(address)]))
    }

    fn vpc_of(&self, port: &ObjectName) -> &'a ObjectName {
        &self.set.subnet(&self.set.port(port).unwrap().spec.subnet).unwrap().spec.vpc
    }

    /// All external addresses, with their VPCs and networks.
    fn addresses(&self) -> Vec<(IpAddr, &'a ObjectName, &'a Name)> {
        let shared = self.set.nat_gateways().flat_map(|gateway| {
            gateway.spec.addresses.iter().map(move |at| (*at, &gateway.spec.vpc, &gateway.spec.external))
        });
        let floating = self.set.floating_ips();
        let floating = floating.map(|floating| {
            (floating.spec.address, self.vpc_of(&floating.spec.port), &floating.spec.external)
        });
        shared.chain(floating).collect()
    }

    /// VPCs of which this host announces an address.
    pub(crate) fn announced(&self) -> BTreeSet<ObjectName> {
        let all = self.addresses().into_iter();
        all.filter(|(address, ..)| self.announcer(*address) == Some(self.host))
            .map(|(_, vpc, _)| vpc.clone())
            .collect()
    }

    /// Hosts that send what comes from outside for ports here.
    pub(crate) fn announcers(&self, local: &BTreeSet<ObjectName>) -> BTreeSet<Name> {
        let of_local = self.addresses().into_iter().filter(|(_, vpc, _)| local.contains(*vpc));
        of_local.filter_map(|(address, ..)| self.announcer(address)).cloned().collect()
    }

    fn ports(&self, vpc: &'a ObjectName) -> impl Iterator<Item = Typed<'a, PortSpec>> {
        self.set.ports().filter(move |port| self.vpc_of(&port.meta.object()) == vpc)
    }

    /// Who has which block of a gateway: each in the order of uids what it likes best of what is left.
    fn shares(&self, gateway: &ObjectName) -> BTreeMap<ObjectName, Share> {
        let spec = self.set.nat_gateway(gateway).unwrap().spec;
        let count = spec.ports_per_port;
        let of_each = u64::from((65_536 - 1024) / u32::from(count));
        let mut ports: Vec<_> = self.ports(&spec.vpc).filter(|port| !port.spec.unfiltered).collect();
        ports.sort_by_key(|port| port.meta.uid);
        let mut taken = BTreeMap::new();
        for port in ports {
            let uid = port.meta.uid.as_bytes();
            let mut likes: Vec<(u64, usize)> = (0..spec.addresses.len())
                .map(|at| (hash(&[uid, b"block", &octets(spec.addresses[at])]), at))
                .collect();
            likes.sort();
            likes.reverse();
            let wanted = hash(&[uid, b"stride"]);
            let gcd = |mut one: u64, mut other: u64| {
                while other > 0 {
                    (one, other) = (other, one % other);
                }
                one
            };
            let stride = (0..of_each)
                .map(|more| 1 + (wanted % of_each + more) % of_each)
                .find(|step| gcd(*step, of_each) == 1)
                .unwrap();
            let rounds =
                (0..of_each).flat_map(|round| likes.iter().map(move |(start, at)| (round, *start, *at)));
            for (round, start, at) in rounds {
                let block = ((start % of_each + round * stride) % of_each) as u16;
                let share = (spec.addresses[at], 1024 + block * count, count);
                if let std::collections::btree_map::Entry::Vacant(place) = taken.entry(share) {
                    place.insert(port.meta.object());
                    break;
                }
            }
        }
        taken.into_iter().map(|(share, port)| (port, share)).collect()
    }

    fn inside(port: &PortSpec) -> IpAddr {
        port.ips[0]
    }

    /// What leaves by a route's exit.
    pub(crate) fn exit(&self, vpc: &'a ObjectName, via: &Via) -> String {
        let (network, gateway) = match via {
            Via::NatGateway(gateway) => {
                let spec = self.set.nat_gateway(gateway).unwrap().spec;
                (&spec.external, Some((gateway, format!("{:?}", spec.mapping))))
            }
            Via::External(network) => (network, None),
            _ => panic!("{via:?}"),
        };
        let mut sources: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (port, (address, first, count)) in gateway.iter().flat_map(|(gateway, _)| self.shares(gateway)) {
            sources.insert(
                Self::inside(self.set.port(&port).unwrap().spec),
                format!("{address}:{first}+{count}"),
            );
        }
        for floating in self.set.floating_ips().filter(|floating| floating.spec.external == *network) {
            let port = &floating.spec.port;
            if self.vpc_of(port) == vpc {
                sources.insert(
                    Self::inside(self.set.port(port).unwrap().spec),
                    floating.spec.address.to_string(),
                );
            }
        }
        let mapping = gateway.map_or("Destination".to_owned(), |(_, mapping)| mapping);
        format!("exit {vpc} {network} {mapping} {sources:?}")
    }

    pub(crate) fn words(&self, local: &BTreeSet<ObjectName>, words: &mut BTreeMap<String, String>) {
        let announced = self.announced();
        let mut exits: BTreeMap<String, String> = BTreeMap::new();
        let (mut known, mut networks) = (announced.clone(), BTreeSet::new());
        for subnet in self.set.subnets().filter(|subnet| local.contains(&subnet.spec.vpc)) {
            let table = subnet.spec.route_table.as_ref().map(|table| self.set.route_table(table).unwrap());
            for route in table.iter().flat_map(|table| &table.spec.routes) {
                if matches!(route.via, Via::NatGateway(_) | Via::External(_)) {
                    let vpc = &subnet.spec.vpc;
                    known.insert(vpc.clone());
                    let said = self.exit(vpc, &route.via);
                    networks.insert(said.split(' ').nth(2).unwrap().to_owned());
                    exits.insert(format!("{vpc} {:?}", route.via), said);
                }
            }
        }
        let mut exits: Vec<String> = exits.into_values().collect();
        exits.sort();
        words.insert("exits".into(), exits.join("; "));
        for (address, vpc, network) in self.addresses() {
            if !local.contains(vpc) && !announced.contains(vpc) {
                continue;
            }
            known.insert(vpc.clone());
            networks.insert(network.to_string());
            let here = self.announcer(address) == Some(self.host);
            let floating = self.set.floating_ips().find(|floating| floating.spec.address == address);
            let whose = match floating {
                Some(floating) => format!(
                    "{vpc} {} {network}",
                    Self::inside(self.set.port(&floating.spec.port).unwrap().spec)
                ),
                None => {
                    let gateway = self
                        .set
                        .nat_gateways()
                        .find(|gateway| gateway.spec.addresses.contains(&address))
                        .unwrap();
                    let count = gateway.spec.ports_per_port;
                    let own = self
                        .shares(&gateway.meta.object())
                        .into_iter()
                        .filter(|(_, (at, ..))| *at == address);
                    let inside = |port: &ObjectName| Self::inside(self.set.port(port).unwrap().spec);
                    let own: BTreeMap<u16, IpAddr> =
                        own.map(|(port, (_, first, _))| ((first - 1024) / count, inside(&port))).collect();
                    format!("{vpc} {} of {count} {own:?}", (65_536 - 1024) / u32::from(count))
                }
            };
            words.insert(format!("external {address}"), format!("{whose} here={here}"));
        }
        for network in networks {
            let spec = self.set.external_network(&Name::parse(&network).unwrap()).unwrap().spec;
            words.insert(format!("external network {network}"), spec.gateway.to_string());
        }
        for vpc in known {
            let mut inside = self.set.vpc(&vpc).unwrap().spec.cidrs.clone();
            let peers = self.set.peerings().filter_map(|peering| peering.spec.peer_of(&vpc));
            inside.extend(peers.flat_map(|peer| self.set.vpc(peer).unwrap().spec.cidrs.iter().copied()));
            words.insert(format!("inside {vpc}"), format!("{inside:?}"));
        }
    }
}
