//! What of the desired state this host must know: the VPCs of its ports and their peers, and where these are.

use crate::action::VtepKind;
use crate::plan::{DhcpPlan, SubnetPlan, VpcPlan};
use ipnet::IpNet;
use model::underlay::tunnel_address;
use model::{DhcpSpec, Name, ObjectName, ResourceSet, SubnetSpec, Typed, Via};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// The VPCs, and whether each has ports here.
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
}

impl Scope {
    /// What `host` must know of `set`.
    pub(crate) fn of(set: &ResourceSet, host: &Name) -> Self {
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
        for (vpc, local) in &scope.vpcs {
            for subnet in set.subnets_of(vpc) {
                scope.subnets.insert(subnet.meta.object(), vpc.clone());
                if *local {
                    scope.routes.insert((vpc.clone(), subnet.spec.route_table.clone()));
                }
            }
        }
        let tables = scope.routes.iter().filter_map(|(_, table)| set.route_table(table.as_ref()?));
        for route in tables.flat_map(|table| &table.spec.routes) {
            if let Via::Port(port) = &route.via {
                scope.hops.insert(port.clone());
            }
        }
        scope.find_vteps(set, host);
        scope
    }

    fn find_vteps(&mut self, set: &ResourceSet, own_host: &Name) {
        let Some(own) = set.host(own_host).map(|host| &host.spec.vteps) else { return };
        let of_subnets = self.subnets.keys().flat_map(|subnet| set.hosts_of(subnet));
        let directories = self.vpcs.keys().filter_map(|vpc| set.vpc(vpc)).flat_map(|vpc| &vpc.spec.directory);
        let hosts: BTreeSet<&Name> = of_subnets.chain(directories).filter(|host| *host != own_host).collect();
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
            };
            plan.push((route.destination, hop.unwrap_or(NextHop::Blackhole)));
        }
        plan
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
