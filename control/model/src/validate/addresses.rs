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
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How many addresses are tried for a suggestion.
const TRIES_MAX: u128 = 100_000;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    subnets(candidates, problems);
    let mut ports =
        Ports { candidates, addresses: BTreeMap::new(), macs: BTreeMap::new(), cursors: BTreeMap::new() };
    for (candidate, draft) in candidates.ports() {
        ports.own_addresses(candidate, draft, problems);
    }
    for (candidate, draft) in candidates.ports() {
        ports.missing_addresses(candidate, draft, problems);
        ports.allowed_addresses(candidate, draft, problems);
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

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

struct Ports<'a> {
    candidates: &'a Candidates,
    addresses: BTreeMap<(&'a ObjectName, IpAddr), &'a Candidate>,
    macs: BTreeMap<(&'a ObjectName, MacAddr), &'a Candidate>,
    /// Where the search for a free address of a network goes on.
    cursors: BTreeMap<(&'a ObjectName, IpNet), u128>,
}

impl<'a> Ports<'a> {
    fn subnet(&self, draft: &PortDraft) -> Option<&'a SubnetSpec> {
        match &self.candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet))?.spec {
            DraftSpec::Subnet(subnet) => Some(subnet),
            _ => None,
        }
    }

    /// Own addresses lie in the subnet and belong to one port; so do MAC addresses.
    fn own_addresses(&mut self, candidate: &'a Candidate, draft: &'a PortDraft, problems: &mut Vec<Problem>) {
        let spec = &draft.spec;
        if let Some(other) = self.macs.insert((&spec.subnet, spec.mac), candidate) {
            let message = format!("{} is the MAC address of {}", spec.mac, other.describe());
            problems.push(candidate.problem(
                "spec.mac",
                message,
                "give each port of a subnet its own, or remove the field",
            ));
        }
        let Some(subnet) = self.subnet(draft) else { return };
        if spec.mac == subnet.gateway_mac {
            let message = format!("{} is the MAC address of the subnet's gateway", spec.mac);
            problems.push(candidate.problem("spec.mac", message, "use another, or remove the field"));
        }
        for (index, address) in spec.ips.iter().enumerate() {
            let field = format!("spec.ips[{index}]");
            let networks = list(&subnet.cidrs);
            let refusal = match subnet.network_of(*address) {
                None => Some(format!("is outside of Subnet {} ({networks})", spec.subnet)),
                Some(_) if subnet.gateways.contains(address) => Some("is the subnet's gateway".to_owned()),
                Some(net) => not_for_interfaces(net, *address).map(str::to_owned),
            };
            if let Some(message) = refusal {
                let remedy = format!("use another address of {networks}");
                problems.push(candidate.problem(&field, message, remedy));
            } else if let Some(other) = self.addresses.insert((&subnet.vpc, *address), candidate) {
                let message = format!("is the address of {}", other.describe());
                problems.push(candidate.problem(
                    &field,
                    message,
                    format!("use another address of {networks}"),
                ));
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
        let Some(subnet) = self.subnet(draft) else { return };
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

    /// A virtual IP must not be what somebody else answers for: the gateway, or a port that is on a host.
    fn allowed_addresses(&self, candidate: &Candidate, draft: &PortDraft, problems: &mut Vec<Problem>) {
        let Some(subnet) = self.subnet(draft) else { return };
        for (index, allowed) in draft.spec.allowed_addresses.iter().enumerate() {
            let field = format!("spec.allowedAddresses[{index}]");
            if allowed.mac == Some(subnet.gateway_mac) {
                let message = "is the MAC address of the subnet's gateway";
                problems.push(candidate.problem(
                    &format!("{field}.mac"),
                    message,
                    "use another, or remove the field",
                ));
            }
            let Some(address) = allowed.single() else { continue };
            let field = format!("{field}.ip");
            if subnet.gateways.contains(&address) {
                problems.push(candidate.problem(&field, "is the subnet's gateway", "use another address"));
            } else if let Some(other) = self.addresses.get(&(&subnet.vpc, address)) {
                let bound = matches!(&other.spec, DraftSpec::Port(port) if port.spec.host.is_some());
                if bound && other.meta.key != candidate.meta.key {
                    let message = format!("is the own address of {}", other.describe());
                    let remedy =
                        "use an address that no port on a host has: it goes to whoever announced it last";
                    problems.push(candidate.problem(&field, message, remedy));
                }
            }
        }
    }
}
