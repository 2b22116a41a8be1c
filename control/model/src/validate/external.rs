//! External networks: each address outside is one port's, or one gateway's.

use super::addresses::list;
use super::{Candidate, Candidates};
use crate::external::{
    ExternalNetworkSpec, FIRST_PORT, FloatingIpSpec, NatGatewaySpec, PORTS_PER_PORT_MIN, SHARED_PORTS,
};
use crate::kind::Kind;
use crate::name::{Key, Name, ObjectName};
use crate::net::overlap;
use crate::port::PortSpec;
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::route_table::{Route, RouteTableSpec, Via};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut check = Check::new(candidates, problems);
    let mut networks: Vec<(&Candidate, &ExternalNetworkSpec)> = Vec::new();
    for candidate in &candidates.list {
        match &candidate.spec {
            DraftSpec::ExternalNetwork(spec) => {
                check.network(candidate, spec, &networks);
                networks.push((candidate, spec));
            }
            DraftSpec::NatGateway(spec) => check.gateway(candidate, spec),
            DraftSpec::FloatingIp(spec) => check.floating(candidate, spec),
            DraftSpec::RouteTable(table) => check.table(candidate, table),
            _ => {}
        }
    }
}

struct Check<'a> {
    candidates: &'a Candidates,
    problems: &'a mut Vec<Problem>,
    /// Who has an address outside, or a tunnel address.
    taken: BTreeMap<IpAddr, &'a Candidate>,
    /// The ports of each VPC that has a NAT gateway.
    ports: BTreeMap<&'a ObjectName, Vec<&'a PortSpec>>,
    /// Ports that have a floating IP, and in which network.
    called: BTreeMap<(&'a ObjectName, &'a Name), &'a Candidate>,
}

/// A network of each of two lists that overlap.
fn common<'a>(one: &'a [IpNet], other: &'a [IpNet]) -> Option<(&'a IpNet, &'a IpNet)> {
    one.iter().flat_map(|own| other.iter().map(move |net| (own, net))).find(|(own, net)| overlap(own, net))
}

fn family(is_ipv4: bool) -> &'static str {
    if is_ipv4 { "IPv4" } else { "IPv6" }
}

impl<'a> Check<'a> {
    fn new(candidates: &'a Candidates, problems: &'a mut Vec<Problem>) -> Self {
        let (mut taken, mut ports) = (BTreeMap::new(), BTreeMap::new());
        let mut subnets: BTreeMap<&ObjectName, &ObjectName> = BTreeMap::new();
        for candidate in &candidates.list {
            match &candidate.spec {
                DraftSpec::Host(spec) => taken.extend(spec.vteps.iter().map(|vtep| (*vtep, candidate))),
                DraftSpec::NatGateway(spec) => drop(ports.insert(&spec.vpc, Vec::new())),
                _ => {}
            }
        }
        if !ports.is_empty() {
            for (_, draft) in candidates.ports() {
                let subnet = &draft.spec.subnet;
                let vpc = subnets.get(subnet).copied().or_else(|| vpc_of(candidates, subnet));
                subnets.extend(vpc.map(|vpc| (subnet, vpc)));
                if let Some(of_vpc) = vpc.and_then(|vpc| ports.get_mut(vpc)) {
                    of_vpc.push(&draft.spec);
                }
            }
        }
        Self { candidates, problems, taken, ports, called: BTreeMap::new() }
    }

    fn refuse(
        &mut self,
        candidate: &Candidate,
        field: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(candidate.problem(field, message, remedy));
    }

    fn network(
        &mut self,
        candidate: &Candidate,
        spec: &ExternalNetworkSpec,
        others: &[(&Candidate, &ExternalNetworkSpec)],
    ) {
        if !spec.cidrs.iter().any(|cidr| cidr.contains(&spec.gateway)) {
            let message = format!("is in none of the networks ({})", list(&spec.cidrs));
            self.refuse(candidate, "spec.gateway", message, "write the router's address in one of them");
        }
        for (other, theirs) in others {
            if let Some((own, net)) = common(&spec.cidrs, &theirs.cidrs) {
                let message = format!("{own} overlaps {net} of {}", other.describe());
                let remedy = "an address is in one ExternalNetwork; change one of the two";
                self.refuse(candidate, "spec.cidrs", message, remedy);
            }
        }
    }

    fn gateway(&mut self, candidate: &'a Candidate, spec: &'a NatGatewaySpec) {
        for (index, address) in spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}]");
            self.address(candidate, &field, &spec.external, *address);
            if !spec.is_like(*address) {
                let message = "is of another IP version than the first";
                self.refuse(candidate, &field, message, "use a NatGateway for each IP version");
            }
        }
        self.apart(candidate, "spec.external", &spec.external, &spec.vpc);
        self.capacity(candidate, spec);
    }

    fn spec_of(&self, name: &Name) -> Option<&'a ExternalNetworkSpec> {
        let key = Key { kind: Kind::ExternalNetwork, project: None, name: name.clone() };
        match &self.candidates.find(&key)?.spec {
            DraftSpec::ExternalNetwork(spec) => Some(spec),
            _ => None,
        }
    }

    /// An address of an external network that nobody else has.
    fn address(&mut self, candidate: &'a Candidate, field: &str, network: &Name, address: IpAddr) {
        if let Some(spec) = self.spec_of(network) {
            if let Some(why) = spec.refusal(address) {
                let message = format!(
                    "{why}: {}",
                    Key { kind: Kind::ExternalNetwork, project: None, name: network.clone() }
                );
                let remedy = format!("use a free address of {}", list(&spec.cidrs));
                self.refuse(candidate, field, message, remedy);
            } else if spec.gateway.is_ipv4() != address.is_ipv4() {
                let message = format!(
                    "is of {}, and the gateway of ExternalNetwork {network} of {}",
                    family(address.is_ipv4()),
                    family(spec.gateway.is_ipv4())
                );
                let remedy = "use another ExternalNetwork for this IP version; each has one gateway";
                self.refuse(candidate, field, message, remedy);
            }
        }
        match self.taken.get(&address) {
            Some(other) if matches!(other.spec, DraftSpec::Host(_)) => {
                let message = format!("is a tunnel address of {}", other.describe());
                self.refuse(candidate, field, message, "use another address");
            }
            Some(other) => {
                let message = format!("belongs to {} already", other.describe());
                self.refuse(candidate, field, message, "use another address");
            }
            None => drop(self.taken.insert(address, candidate)),
        }
    }

    /// A VPC and what is outside of it have no address in common.
    fn apart(&mut self, candidate: &Candidate, field: &str, network: &Name, vpc: &ObjectName) {
        let found = self.candidates.find(&Key::of(Kind::Vpc, vpc)).map(|found| &found.spec);
        let (Some(DraftSpec::Vpc(draft)), Some(spec)) = (found, self.spec_of(network)) else { return };
        if let Some((own, other)) = common(&draft.cidrs, &spec.cidrs) {
            let message = format!("{other} of ExternalNetwork {network} overlaps {own} of Vpc {vpc}");
            let remedy = "renumber the Vpc: what is outside of it has other addresses";
            self.refuse(candidate, field, message, remedy);
        }
    }

    fn floating(&mut self, candidate: &'a Candidate, spec: &'a FloatingIpSpec) {
        let FloatingIpSpec { external: network, address, port: name } = spec;
        self.address(candidate, "spec.address", network, *address);
        if let Some(other) = self.called.insert((name, network), candidate) {
            let message =
                format!("Port {name} has {} in ExternalNetwork {network} already", other.describe());
            self.refuse(candidate, "spec.port", message, "a port has one in each network; remove one");
        }
        let Some(Candidate { spec: DraftSpec::Port(draft), .. }) =
            self.candidates.find(&Key::of(Kind::Port, name))
        else {
            return;
        };
        let port = &draft.spec;
        if let Some(vpc) = vpc_of(self.candidates, &port.subnet) {
            self.apart(candidate, "spec.external", network, vpc);
        }
        if draft.ips_written && !port.ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4()) {
            let message = format!("Port {name} has no {} address", family(address.is_ipv4()));
            self.refuse(
                candidate,
                "spec.address",
                message,
                "give the Port one (spec.ips), or use another port",
            );
        }
        if port.unfiltered {
            let message = format!("Port {name} is unfiltered: it has no sessions, which translate addresses");
            let remedy = "use SecurityGroups that let everything pass instead of unfiltered";
            self.refuse(candidate, "spec.port", message, remedy);
        }
    }

    /// Each port of the VPC has a block of its own.
    fn capacity(&mut self, candidate: &Candidate, spec: &NatGatewaySpec) {
        let ports = self.ports.get(&spec.vpc).into_iter().flatten();
        let count = ports.filter(|port| spec.serves(port)).count();
        if count <= spec.capacity() {
            return;
        }
        let message = format!(
            "has room for {} (ports {FIRST_PORT} to 65535), and Vpc {} has {count} ports under rules",
            spec.room(),
            spec.vpc
        );
        let addresses = count.div_ceil(spec.blocks_per_address());
        let blocks = count.div_ceil(spec.addresses.len());
        let remedy = match usize::from(SHARED_PORTS) / blocks {
            fewer if fewer >= usize::from(PORTS_PER_PORT_MIN) => {
                format!("write {addresses} addresses, or portsPerPort: {fewer}")
            }
            _ => format!("write {addresses} addresses"),
        };
        self.refuse(candidate, "spec.addresses", message, remedy);
    }

    fn table(&mut self, candidate: &Candidate, table: &RouteTableSpec) {
        for (index, Route { destination, via }) in table.routes.iter().enumerate() {
            let field = |what: &str| format!("spec.routes[{index}].via.{what}");
            match via {
                Via::NatGateway(name) => {
                    let found =
                        self.candidates.find(&Key::of(Kind::NatGateway, name)).map(|found| &found.spec);
                    let Some(DraftSpec::NatGateway(gateway)) = found else { continue };
                    if gateway.vpc != table.vpc {
                        let message =
                            format!("serves Vpc {}, and this table is for Vpc {}", gateway.vpc, table.vpc);
                        let remedy = format!("use a NatGateway of Vpc {}", table.vpc);
                        self.refuse(candidate, &field("natGateway"), message, remedy);
                    }
                    let v4 = gateway.addresses.first().map(IpAddr::is_ipv4);
                    self.leads(candidate, &field("natGateway"), destination, v4);
                }
                Via::External(name) => {
                    self.apart(candidate, &field("external"), name, &table.vpc);
                    let v4 = self.spec_of(name).map(|network| network.gateway.is_ipv4());
                    self.leads(candidate, &field("external"), destination, v4);
                }
                Via::Port(_) | Via::Peering(_) | Via::Blackhole => {}
            }
        }
    }

    /// A route outside leads where packets of its family have addresses.
    fn leads(&mut self, candidate: &Candidate, field: &str, destination: &IpNet, v4: Option<bool>) {
        let is_v4 = matches!(destination, IpNet::V4(_));
        if let Some(v4) = v4.filter(|v4| *v4 != is_v4) {
            let message =
                format!("has addresses of {}, and {destination} is of {}", family(v4), family(is_v4));
            self.refuse(candidate, field, message, "use one of the destination's IP version");
        }
    }
}

fn vpc_of<'a>(candidates: &'a Candidates, subnet: &ObjectName) -> Option<&'a ObjectName> {
    match &candidates.find(&Key::of(Kind::Subnet, subnet))?.spec {
        DraftSpec::Subnet(subnet) => Some(&subnet.vpc),
        _ => None,
    }
}
