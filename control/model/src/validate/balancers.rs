//! Load balancers: the shared address is free, and targets are where it is.

use super::addresses::list;
use super::{Candidate, Candidates};
use crate::kind::Kind;
use crate::load_balancer::{LoadBalancerSpec, TargetAddress};
use crate::name::{Key, ObjectName};
use crate::net::not_for_interfaces;
use crate::problem::Problem;
use crate::resource::DraftSpec;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let balancers: Vec<(&Candidate, &LoadBalancerSpec)> = candidates
        .list
        .iter()
        .filter_map(|candidate| match &candidate.spec {
            DraftSpec::LoadBalancer(spec) => Some((candidate, spec)),
            _ => None,
        })
        .collect();
    if balancers.is_empty() {
        return;
    }
    let used = Used::gather(candidates);
    let mut shared: BTreeMap<(&ObjectName, IpAddr), &Candidate> = BTreeMap::new();
    for (candidate, spec) in &balancers {
        let other = shared.insert((&spec.vpc, spec.vip), candidate);
        let taken = other.or_else(|| used.addresses.get(&(&spec.vpc, spec.vip)).copied());
        let networks = networks_of(candidates, &spec.vpc);
        let refusal = match taken {
            Some(other) => Some(format!("is the address of {}", other.describe())),
            None => used.refusal(&networks, spec),
        };
        if let Some(message) = refusal {
            let remedy = format!("use a free address of {}", list(&networks));
            problems.push(candidate.problem("spec.vip", message, remedy));
        }
    }
    for (candidate, spec) in &balancers {
        targets(candidates, candidate, spec, &shared, problems);
    }
}

fn networks_of(candidates: &Candidates, vpc: &ObjectName) -> Vec<IpNet> {
    match candidates.find(&Key::of(Kind::Vpc, vpc)).map(|vpc| &vpc.spec) {
        Some(DraftSpec::Vpc(draft)) => draft.cidrs.clone(),
        _ => Vec::new(),
    }
}

/// What has addresses already.
struct Used<'a> {
    addresses: BTreeMap<(&'a ObjectName, IpAddr), &'a Candidate>,
    networks: BTreeMap<&'a ObjectName, Vec<IpNet>>,
}

impl<'a> Used<'a> {
    fn gather(candidates: &'a Candidates) -> Self {
        let mut used = Self { addresses: BTreeMap::new(), networks: BTreeMap::new() };
        let vpc_of = |subnet: &ObjectName| match &candidates.find(&Key::of(Kind::Subnet, subnet))?.spec {
            DraftSpec::Subnet(spec) => Some(&spec.vpc),
            _ => None,
        };
        for candidate in &candidates.list {
            let (vpc, addresses) = match &candidate.spec {
                DraftSpec::Subnet(spec) => {
                    used.networks.entry(&spec.vpc).or_default().extend(&spec.cidrs);
                    (Some(&spec.vpc), &spec.gateways)
                }
                DraftSpec::Port(draft) => (vpc_of(&draft.spec.subnet), &draft.spec.ips),
                DraftSpec::Endpoint(spec) => (vpc_of(&spec.subnet), &spec.ips),
                _ => continue,
            };
            let Some(vpc) = vpc else { continue };
            used.addresses.extend(addresses.iter().map(|address| ((vpc, *address), candidate)));
        }
        used
    }

    /// Why nobody may have that address.
    fn refusal(&self, networks: &[IpNet], spec: &LoadBalancerSpec) -> Option<String> {
        let inside = |net: &&IpNet| net.contains(&spec.vip);
        if !networks.is_empty() && !networks.iter().any(|net| inside(&net)) {
            return Some(format!("is outside of the networks of Vpc {} ({})", spec.vpc, list(networks)));
        }
        let subnet = self.networks.get(&spec.vpc)?.iter().find(inside)?;
        not_for_interfaces(subnet, spec.vip).map(str::to_owned)
    }
}

fn targets(
    candidates: &Candidates,
    candidate: &Candidate,
    spec: &LoadBalancerSpec,
    shared: &BTreeMap<(&ObjectName, IpAddr), &Candidate>,
    problems: &mut Vec<Problem>,
) {
    let networks = networks_of(candidates, &spec.vpc);
    let mut seen: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for (index, target) in spec.targets.iter().enumerate() {
        let mut refuse = |what: &str, message: String, remedy: String| {
            problems.push(candidate.problem(&format!("spec.targets[{index}].{what}"), message, remedy));
        };
        let (what, address) = match &target.at {
            TargetAddress::Ip(address) => {
                if let Some(other) = shared.get(&(&spec.vpc, *address)) {
                    let message = format!("is the shared address of {}", other.describe());
                    refuse("ip", message, "name its targets here".to_owned());
                } else if !networks.is_empty() && !networks.iter().any(|net| net.contains(address)) {
                    let message =
                        format!("is outside of the networks of Vpc {} ({})", spec.vpc, list(&networks));
                    refuse("ip", message, "use an address of the Vpc".to_owned());
                }
                ("ip", *address)
            }
            TargetAddress::Port(name) => {
                let port = candidates.find(&Key::of(Kind::Port, name));
                let Some(Candidate { spec: DraftSpec::Port(draft), .. }) = port else { continue };
                let subnet = candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet));
                let Some(Candidate { spec: DraftSpec::Subnet(subnet), .. }) = subnet else { continue };
                if subnet.vpc != spec.vpc {
                    let message = format!("is a port of Vpc {}, and this is of Vpc {}", subnet.vpc, spec.vpc);
                    refuse("port", message, format!("use a port of Vpc {}", spec.vpc));
                    continue;
                }
                let like = |address: &&IpAddr| address.is_ipv4() == spec.vip.is_ipv4();
                let Some(address) = draft.spec.ips.iter().find(like) else {
                    if draft.ips_written {
                        let message = "has no address of the vip's IP version".to_owned();
                        refuse("port", message, "give the port one, or use another vip".to_owned());
                    }
                    continue;
                };
                ("port", *address)
            }
        };
        if let Some(other) = seen.insert(address, index) {
            let message = format!("has the address {address}, as spec.targets[{other}]");
            refuse(what, message, "remove one of them".to_owned());
        }
    }
}
