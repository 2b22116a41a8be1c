//! Addresses: networks inside networks, addresses inside networks, nothing twice.

use super::{Candidate, Candidates};
use crate::kind::Kind;
use crate::mac::MacAddr;
use crate::name::{Key, ObjectName};
use crate::net::{not_for_interfaces, nth_address};
use crate::port::PortDraft;
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::subnet::SubnetSpec;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// How many addresses are tried for a suggestion.
const TRIES_MAX: u128 = 100_000;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    subnets(candidates, problems);
    let mut stations = Stations {
        candidates,
        gateways: Gateways::gather(candidates),
        addresses: BTreeMap::new(),
        macs: BTreeMap::new(),
        virtual_macs: BTreeMap::new(),
        cursors: BTreeMap::new(),
    };
    for candidate in &candidates.list {
        if let Some(station) = Station::of(candidate) {
            stations.own_addresses(&station, problems);
        }
    }
    for (candidate, draft) in candidates.ports() {
        stations.missing_addresses(candidate, draft, problems);
        stations.allowed_addresses(candidate, draft, problems);
    }
}

/// Each network of a subnet lies in one of its VPC, and in no other subnet's.
fn subnets(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut nets: BTreeMap<&ObjectName, Vec<(IpNet, usize, usize)>> = BTreeMap::new();
    for (order, candidate) in candidates.list.iter().enumerate() {
        let DraftSpec::Subnet(spec) = &candidate.spec else { continue };
        let vpc = candidates.find(&Key::of(Kind::Vpc, &spec.vpc));
        for (index, cidr) in spec.cidrs.iter().enumerate() {
            nets.entry(&spec.vpc).or_default().push((*cidr, order, index));
            let Some(DraftSpec::Vpc(draft)) = vpc.map(|vpc| &vpc.spec) else { continue };
            if !draft.cidrs.iter().any(|outer| outer.contains(cidr)) {
                let outer = list(&draft.cidrs);
                let message = format!("is outside of the networks of Vpc {} ({outer})", spec.vpc);
                let field = format!("spec.cidrs[{index}]");
                problems.push(candidate.problem(
                    &field,
                    message,
                    "use a network inside one of them, or add it to the Vpc",
                ));
            }
        }
    }
    for nets in nets.values_mut() {
        // Networks are nested or apart, so in this order each can only lie in the last one that stood for itself.
        nets.sort_by_key(|(net, order, _)| (net.network(), net.prefix_len(), *order));
        let mut outer: Option<(IpNet, usize, usize)> = None;
        for inner in nets.iter() {
            match outer {
                Some(found) if found.0.contains(&inner.0) => overlap(candidates, found, *inner, problems),
                _ => outer = Some(*inner),
            }
        }
    }
}

/// Two networks of one VPC overlap; the resource that came later is blamed.
fn overlap(
    candidates: &Candidates,
    left: (IpNet, usize, usize),
    right: (IpNet, usize, usize),
    problems: &mut Vec<Problem>,
) {
    let (first, later) = if left.1 <= right.1 { (left, right) } else { (right, left) };
    if let (Some(other), Some(candidate)) = (candidates.list.get(first.1), candidates.list.get(later.1)) {
        let message = format!("overlaps {} of {}", first.0, other.describe());
        let field = format!("spec.cidrs[{}]", later.2);
        problems.push(candidate.problem(
            &field,
            message,
            "subnets of a Vpc have distinct networks; use another",
        ));
    }
}

pub(super) fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The gateways of all subnets, by VPC.
struct Gateways<'a> {
    addresses: BTreeSet<(&'a ObjectName, IpAddr)>,
    macs: BTreeMap<(&'a ObjectName, MacAddr), &'a Candidate>,
}

impl<'a> Gateways<'a> {
    fn gather(candidates: &'a Candidates) -> Self {
        let mut gateways = Self { addresses: BTreeSet::new(), macs: BTreeMap::new() };
        for candidate in &candidates.list {
            let DraftSpec::Subnet(spec) = &candidate.spec else { continue };
            gateways.addresses.extend(spec.gateways.iter().map(|gateway| (&spec.vpc, *gateway)));
            gateways.macs.insert((&spec.vpc, spec.gateway_mac), candidate);
        }
        gateways
    }
}

/// A Port or an Endpoint.
struct Station<'a> {
    candidate: &'a Candidate,
    subnet: &'a ObjectName,
    mac: MacAddr,
    ips: &'a [IpAddr],
}

impl<'a> Station<'a> {
    fn of(candidate: &'a Candidate) -> Option<Self> {
        let (subnet, mac, ips) = match &candidate.spec {
            DraftSpec::Port(PortDraft { spec, .. }) => (&spec.subnet, spec.mac, &spec.ips),
            DraftSpec::Endpoint(spec) => (&spec.subnet, spec.mac, &spec.ips),
            _ => return None,
        };
        Some(Self { candidate, subnet, mac, ips })
    }
}

/// All of a VPC's. A frame that comes from another host is delivered by VPC and MAC address, so these are unique in a VPC, not
/// only in a subnet; link-local IPv6 addresses follow from them, and are with that.
struct Stations<'a> {
    candidates: &'a Candidates,
    gateways: Gateways<'a>,
    addresses: BTreeMap<(&'a ObjectName, IpAddr), &'a Candidate>,
    macs: BTreeMap<(&'a ObjectName, MacAddr), &'a Candidate>,
    /// Those that single allowed addresses go by; ports of one subnet may share one.
    virtual_macs: BTreeMap<(&'a ObjectName, MacAddr), (&'a ObjectName, &'a Candidate)>,
    /// Where the search for a free address of a network goes on.
    cursors: BTreeMap<(&'a ObjectName, IpNet), u128>,
}

impl<'a> Stations<'a> {
    fn subnet(&self, name: &ObjectName) -> Option<&'a SubnetSpec> {
        match &self.candidates.find(&Key::of(Kind::Subnet, name))?.spec {
            DraftSpec::Subnet(subnet) => Some(subnet),
            _ => None,
        }
    }

    /// Own addresses lie in the subnet and belong to one station of the VPC; so do MAC addresses.
    fn own_addresses(&mut self, station: &Station<'a>, problems: &mut Vec<Problem>) {
        let &Station { candidate, subnet: name, mac, ips } = station;
        let Some(subnet) = self.subnet(name) else { return };
        let mut refuse_mac = |message: String, remedy: &str| {
            problems.push(candidate.problem("spec.mac", message, remedy));
        };
        if let Some(other) = self.macs.insert((&subnet.vpc, mac), candidate) {
            let message = format!("{mac} is the MAC address of {}", other.describe());
            refuse_mac(message, "give each port and endpoint of a Vpc its own");
        }
        match self.gateways.macs.get(&(&subnet.vpc, mac)) {
            Some(other) if other.meta.object() == *name => {
                refuse_mac(format!("{mac} is the MAC address of the subnet's gateway"), "use another");
            }
            Some(other) => {
                let message = format!("{mac} is the MAC address of the gateway of {}", other.describe());
                refuse_mac(message, "use another");
            }
            None => {}
        }
        for (index, address) in ips.iter().enumerate() {
            let field = format!("spec.ips[{index}]");
            let networks = list(&subnet.cidrs);
            let refusal = match subnet.network_of(*address) {
                None => Some(format!("is outside of Subnet {name} ({networks})")),
                Some(_) if subnet.gateways.contains(address) => Some("is the subnet's gateway".to_owned()),
                Some(net) => not_for_interfaces(net, *address).map(str::to_owned),
            };
            let refusal = refusal.or_else(|| {
                let other = self.addresses.insert((&subnet.vpc, *address), candidate)?;
                Some(format!("is the address of {}", other.describe()))
            });
            if let Some(message) = refusal {
                let remedy = format!("use another address of {networks}");
                problems.push(candidate.problem(&field, message, remedy));
            }
        }
    }

    /// Nobody assigns addresses without a store: the problem names ones that are free.
    fn missing_addresses(
        &mut self,
        candidate: &'a Candidate,
        draft: &'a PortDraft,
        problems: &mut Vec<Problem>,
    ) {
        if draft.ips_written {
            return;
        }
        let Some(subnet) = self.subnet(&draft.spec.subnet) else { return };
        let free: Vec<String> =
            subnet.cidrs.iter().filter_map(|net| self.free_address(subnet, net)).collect();
        let message = "is missing, and without a store there is nobody to assign and remember an address";
        let remedy = match free.is_empty() {
            true => format!("write an address; none was found free in {}", list(&subnet.cidrs)),
            false => format!("write ips: [{}], which is free", free.join(", ")),
        };
        problems.push(candidate.problem("spec.ips", message, remedy));
    }

    fn free_address(&mut self, subnet: &'a SubnetSpec, net: &IpNet) -> Option<String> {
        let cursor = self.cursors.entry((&subnet.vpc, *net)).or_insert(1);
        for _ in 0..TRIES_MAX {
            let address = nth_address(net, *cursor)?;
            *cursor += 1;
            let usable = !subnet.gateways.contains(&address) && not_for_interfaces(net, address).is_none();
            if usable && !self.addresses.contains_key(&(&subnet.vpc, address)) {
                return Some(match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("\"{address}\""),
                });
            }
        }
        None
    }

    /// A virtual IP must not be what somebody else answers for: a gateway, a port that is on a host, an Endpoint.
    fn allowed_addresses(
        &mut self,
        candidate: &'a Candidate,
        draft: &'a PortDraft,
        problems: &mut Vec<Problem>,
    ) {
        let Some(subnet) = self.subnet(&draft.spec.subnet) else { return };
        for (index, allowed) in draft.spec.allowed_addresses.iter().enumerate() {
            let field = format!("spec.allowedAddresses[{index}]");
            if let Some(mac) = allowed.mac
                && let Some(message) =
                    self.mac_refusal(candidate, draft, subnet, mac, allowed.single().is_some())
            {
                let remedy = "use another (VRRP: another group), or remove the field";
                problems.push(candidate.problem(&format!("{field}.mac"), message, remedy));
            }
            let Some(address) = allowed.single() else { continue };
            let field = format!("{field}.ip");
            if subnet.gateways.contains(&address) {
                problems.push(candidate.problem(&field, "is the subnet's gateway", "use another address"));
            } else if self.gateways.addresses.contains(&(&subnet.vpc, address)) {
                let message = "is the gateway of another subnet of the Vpc";
                problems.push(candidate.problem(&field, message, "use another address"));
            } else if let Some(other) = self.addresses.get(&(&subnet.vpc, address)) {
                let bound = match &other.spec {
                    DraftSpec::Port(port) => port.spec.host.is_some(),
                    _ => true,
                };
                if bound && other.meta.key != candidate.meta.key {
                    let message = format!("is the own address of {}", other.describe());
                    let remedy =
                        "use an address that no port on a host has: it goes to whoever announced it last";
                    problems.push(candidate.problem(&field, message, remedy));
                }
            }
        }
    }

    /// What speaks against a port using `mac` besides its own; `announced`: for an address that it may announce.
    fn mac_refusal(
        &mut self,
        candidate: &'a Candidate,
        draft: &'a PortDraft,
        subnet: &'a SubnetSpec,
        mac: MacAddr,
        announced: bool,
    ) -> Option<String> {
        let (vpc, own) = (&subnet.vpc, &draft.spec.subnet);
        if mac == subnet.gateway_mac {
            return Some("is the MAC address of the subnet's gateway".to_owned());
        }
        if let Some(other) = self.gateways.macs.get(&(vpc, mac)) {
            return Some(format!("is the MAC address of the gateway of {}", other.describe()));
        }
        if !announced || mac == draft.spec.mac {
            return None;
        }
        if let Some(other) = self.macs.get(&(vpc, mac)) {
            return Some(format!("is the own MAC address of {}", other.describe()));
        }
        let (first, other) = *self.virtual_macs.entry((vpc, mac)).or_insert((own, candidate));
        (first != own).then(|| format!("is used by {} in Subnet {first} of the same Vpc", other.describe()))
    }
}
