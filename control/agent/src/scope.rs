//! What of the desired state this host must know: the VPCs of its ports and their peers, and where these are.

use crate::action::VtepKind;
use crate::outside::Outside;
use crate::plan::{DhcpPlan, SubnetPlan, VpcPlan};
use ipnet::IpNet;
use model::underlay::tunnel_address;
use model::{DhcpSpec, Name, ObjectName, ResourceSet, SubnetSpec, Typed, Via};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tables::external::Mapping;
use tables::{Location, NextHop};

/// Whose tunnel end point it is, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum VtepKey {
    /// A Host's.
    Host(Name),
    /// Somebody else's.
    Foreign(IpAddr),
}

/// A tunnel end point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VtepPlan {
    pub(crate) address: IpAddr,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) kind: VtepKind,
}

/// A route table in use: of a VPC, by its name, or the one with nothing but the VPC's subnets.
pub(crate) type RoutesKey = (ObjectName, Option<ObjectName>);

/// A way out of a VPC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// By a NAT gateway's addresses, but for ports with floating IPs.
    Gateway(ObjectName),
    /// By floating IPs alone.
    Network(Name),
}

/// An exit that routes lead to: of a VPC, by a way.
pub(crate) type ExitKey = (ObjectName, Way);

/// An exit, in numbers of this host: its VPC and its external network.
pub(crate) type ExitPlan = (u16, u16, Mapping);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// The VPCs, and whether each has ports here. Others are peers of those, or this host announces an external address of theirs.
    pub(crate) vpcs: BTreeMap<ObjectName, bool>,
    /// Which of them are peered, with at least one of the two having ports here.
    pub(crate) peers: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    /// Their subnets, with their VPCs.
    pub(crate) subnets: BTreeMap<ObjectName, ObjectName>,
    /// The route tables of subnets of VPCs with ports here.
    pub(crate) routes: BTreeSet<RoutesKey>,
    /// The tunnel end points that anything of it is behind, and that this host can reach.
    pub(crate) vteps: BTreeMap<VtepKey, VtepPlan>,
    /// Ports that route tables lead to.
    pub(crate) hops: BTreeSet<ObjectName>,
    /// The exits that they lead to.
    pub(crate) exits: BTreeSet<ExitKey>,
    /// External networks that exits or addresses of these VPCs are in.
    pub(crate) networks: BTreeSet<Name>,
    /// VPCs with addresses or ways outside that ports here have, or of which this host announces an address.
    pub(crate) outside: BTreeSet<ObjectName>,
}

impl Scope {
    /// What `host` must know of `set`.
    pub(crate) fn of(set: &ResourceSet, host: &Name, outside: &Outside) -> Self {
        let mut scope = Self::default();
        for subnet in set.subnets_on(host) {
            if let Some(subnet) = set.subnet(subnet) {
                scope.vpcs.insert(subnet.spec.vpc.clone(), true);
            }
        }
        let local: BTreeSet<ObjectName> = scope.vpcs.keys().cloned().collect();
        for [one, other] in set.peerings().map(|peering| &peering.spec.vpcs) {
            if local.contains(one) || local.contains(other) {
                for (vpc, peer) in [(one, other), (other, one)] {
                    scope.vpcs.entry(vpc.clone()).or_insert(false);
                    scope.peers.entry(vpc.clone()).or_default().insert(peer.clone());
                }
            }
        }
        let announced = outside.addresses().filter(|(_, entry)| entry.announcer.as_ref() == Some(host));
        for vpc in announced.filter_map(|(_, entry)| entry.vpc.as_ref()) {
            scope.vpcs.entry(vpc.clone()).or_insert(false);
            scope.outside.insert(vpc.clone());
        }
        for (vpc, local) in &scope.vpcs {
            for subnet in set.subnets_of(vpc) {
                scope.subnets.insert(subnet.meta.object(), vpc.clone());
                if *local {
                    scope.routes.insert((vpc.clone(), subnet.spec.route_table.clone()));
                }
            }
        }
        let tables = scope.routes.iter().filter_map(|(_, table)| set.route_table(table.as_ref()?));
        for (table, route) in
            tables.flat_map(|table| table.spec.routes.iter().map(move |route| (table, route)))
        {
            let way = match &route.via {
                Via::Port(port) => {
                    scope.hops.insert(port.clone());
                    continue;
                }
                Via::NatGateway(gateway) => Way::Gateway(gateway.clone()),
                Via::External(network) => Way::Network(network.clone()),
                Via::Peering(_) | Via::Blackhole => continue,
            };
            scope.exits.insert((table.spec.vpc.clone(), way));
        }
        scope.find_outside(set, &local, outside);
        scope.find_vteps(set, host, outside);
        scope
    }

    fn find_outside(&mut self, set: &ResourceSet, local: &BTreeSet<ObjectName>, outside: &Outside) {
        for (vpc, way) in &self.exits {
            self.outside.insert(vpc.clone());
            self.networks.extend(match way {
                Way::Network(network) => Some(network.clone()),
                Way::Gateway(gateway) => {
                    set.nat_gateway(gateway).map(|gateway| gateway.spec.external.clone())
                }
            });
        }
        for (_, entry) in outside.addresses() {
            let Some(vpc) = &entry.vpc else { continue };
            if local.contains(vpc) {
                self.outside.insert(vpc.clone());
            }
            if self.outside.contains(vpc) {
                self.networks.insert(entry.network.clone());
            }
        }
    }

    /// The ways out of a VPC.
    pub(crate) fn exits_of(&self, vpc: &ObjectName) -> impl Iterator<Item = &Way> {
        self.exits.iter().filter(move |(other, _)| other == vpc).map(|(_, way)| way)
    }

    fn find_vteps(&mut self, set: &ResourceSet, own_host: &Name, outside: &Outside) {
        let Some(own) = set.host(own_host).map(|host| &host.spec.vteps) else { return };
        let of_subnets = self.subnets.keys().flat_map(|subnet| set.hosts_of(subnet));
        let directories = self.vpcs.keys().filter_map(|vpc| set.vpc(vpc)).flat_map(|vpc| &vpc.spec.directory);
        // What comes from outside comes from who announces the address that it is for.
        let announcers = outside.addresses().filter_map(|(_, entry)| {
            let is_local = self.vpcs.get(entry.vpc.as_ref()?) == Some(&true);
            entry.announcer.as_ref().filter(|_| is_local)
        });
        let hosts: BTreeSet<&Name> =
            of_subnets.chain(directories).chain(announcers).filter(|host| *host != own_host).collect();
        for host in hosts {
            let Some(sources) = set.host(host).map(|host| host.spec.vteps.clone()) else { continue };
            if let Some(address) = tunnel_address(own, &sources) {
                let plan = VtepPlan { address, sources, kind: VtepKind::Host };
                self.vteps.insert(VtepKey::Host(host.clone()), plan);
            }
        }
        let foreign: BTreeSet<IpAddr> =
            self.subnets.keys().flat_map(|subnet| set.foreign_vteps_of(subnet)).collect();
        for address in foreign.into_iter().filter(|address| tunnel_address(own, &[*address]).is_some()) {
            let plan = VtepPlan { address, sources: vec![address], kind: VtepKind::Foreign };
            self.vteps.insert(VtepKey::Foreign(address), plan);
        }
    }
}

/// The numbers that plans are made of.
pub(crate) struct Numbers<'a> {
    pub(crate) scope: &'a Scope,
    pub(crate) vpc: &'a dyn Fn(&ObjectName) -> Option<u16>,
    pub(crate) subnet: &'a dyn Fn(&ObjectName) -> Option<u16>,
    pub(crate) routes: &'a dyn Fn(&RoutesKey) -> Option<u16>,
    pub(crate) vtep: &'a dyn Fn(&VtepKey) -> Option<u16>,
    pub(crate) exit: &'a dyn Fn(&ExitKey) -> Option<u16>,
    /// Where a port is now.
    pub(crate) place: &'a dyn Fn(&ObjectName) -> Option<Location>,
}

impl Numbers<'_> {
    pub(crate) fn vpc_plan(
        &self,
        set: &ResourceSet,
        own: &Name,
        name: &ObjectName,
        local: bool,
    ) -> Option<VpcPlan> {
        let spec = set.vpc(name)?.spec;
        // A host of the directory knows the VPC whole itself.
        let directory = match spec.directory.contains(own) {
            true => Vec::new(),
            false => {
                let vtep = |host: &Name| (self.vtep)(&VtepKey::Host(host.clone()));
                spec.directory.iter().filter_map(vtep).collect()
            }
        };
        let peers = self.scope.peers.get(name).into_iter().flatten().filter_map(self.vpc);
        Some(VpcPlan {
            name: name.to_string(),
            vni: spec.vni.get(),
            mtu: set.mtu(name).unwrap_or(model::vpc::MTU_WITHOUT_UPLINK),
            local,
            directory,
            is_directory: spec.directory.contains(own),
            peers: peers.collect(),
            clamp_mss: spec.clamp_mss,
        })
    }

    pub(crate) fn subnet_plan(&self, subnet: Typed<'_, SubnetSpec>) -> Option<SubnetPlan> {
        let spec = subnet.spec;
        let key = (spec.vpc.clone(), spec.route_table.clone());
        Some(SubnetPlan {
            name: subnet.meta.object().to_string(),
            vpc: (self.vpc)(&spec.vpc)?,
            prefixes: spec.cidrs.clone(),
            gateways: spec.gateways.clone(),
            gateway_mac: spec.gateway_mac,
            dhcp: spec.dhcp.as_ref().filter(|dhcp| dhcp.enabled).map(dhcp_plan),
            multicast: spec.multicast,
            routes: (self.routes)(&key),
        })
    }

    /// The routes of a table, each destination once.
    pub(crate) fn routes_plan(&self, set: &ResourceSet, key: &RoutesKey) -> Vec<(IpNet, NextHop)> {
        let (vpc, table) = key;
        let mut plan = Vec::new();
        for subnet in set.subnets_of(vpc) {
            let Some(number) = (self.subnet)(&subnet.meta.object()) else { continue };
            plan.extend(subnet.spec.cidrs.iter().map(|cidr| (*cidr, NextHop::Subnet(number))));
        }
        let table = table.as_ref().and_then(|table| set.route_table(table));
        for route in table.iter().flat_map(|table| &table.spec.routes) {
            let hop = match &route.via {
                Via::Blackhole => None,
                Via::Peering(peering) => set
                    .peering(peering)
                    .and_then(|peering| peering.spec.peer_of(vpc))
                    .and_then(|peer| (self.vpc)(peer))
                    .map(NextHop::Vpc),
                Via::Port(port) => self.port_hop(set, port),
                Via::NatGateway(gateway) => self.exit_hop(vpc, Way::Gateway(gateway.clone())),
                Via::External(network) => self.exit_hop(vpc, Way::Network(network.clone())),
            };
            plan.push((route.destination, hop.unwrap_or(NextHop::Blackhole)));
        }
        plan
    }

    fn exit_hop(&self, vpc: &ObjectName, way: Way) -> Option<NextHop> {
        (self.exit)(&(vpc.clone(), way)).map(NextHop::External)
    }

    /// A router, as long as it is somewhere.
    fn port_hop(&self, set: &ResourceSet, port: &ObjectName) -> Option<NextHop> {
        let location = (self.place)(port)?;
        let spec = set.port(port)?.spec;
        Some(NextHop::Port { location, mac: spec.mac, subnet: (self.subnet)(&spec.subnet)? })
    }
}

fn dhcp_plan(spec: &DhcpSpec) -> DhcpPlan {
    DhcpPlan {
        dns: spec.dns.clone(),
        domain: spec.domain.as_ref().map(ToString::to_string),
        lease: spec.lease_time.duration(),
        metadata: spec.metadata.map(|service| service.to_string()),
    }
}
