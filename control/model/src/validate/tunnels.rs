//! Tunnel end points, and the MTU they leave.

use super::{Candidate, Candidates, vpcs};
use crate::kind::Kind;
use crate::name::{Key, Name, ObjectName};
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::underlay::{Span, Underlay};
use crate::vpc::{MTU_MIN_V4, MTU_MIN_V6};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    vteps(candidates, problems);
    mtus(candidates, problems);
}

/// A tunnel end point is one Host's, or it is not ours.
fn vteps(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut hosts: BTreeMap<IpAddr, &Candidate> = BTreeMap::new();
    for candidate in &candidates.list {
        let DraftSpec::Host(spec) = &candidate.spec else { continue };
        for (index, vtep) in spec.vteps.iter().enumerate() {
            if let Some(other) = hosts.insert(*vtep, candidate) {
                let message = format!("is the tunnel end point of {}", other.describe());
                let remedy = "give each host its own address";
                problems.push(candidate.problem(&format!("spec.vteps[{index}]"), message, remedy));
            }
        }
    }
    for candidate in &candidates.list {
        let DraftSpec::Endpoint(spec) = &candidate.spec else { continue };
        if let Some(host) = hosts.get(&spec.vtep) {
            let message = format!("is the tunnel end point of {}", host.describe());
            let remedy = "an Endpoint is what no towpathd realizes; write a Port for what is on that host";
            problems.push(candidate.problem("spec.vtep", message, remedy));
        }
    }
}

/// Least MTU of a VPC with these networks.
fn smallest(cidrs: &[IpNet]) -> u16 {
    if cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) { MTU_MIN_V6 } else { MTU_MIN_V4 }
}

/// The span of each VPC.
fn spans(candidates: &Candidates) -> BTreeMap<&ObjectName, Span> {
    let mut spans: BTreeMap<&ObjectName, Span> = BTreeMap::new();
    let vpc_of = |subnet: &ObjectName| match &candidates.find(&Key::of(Kind::Subnet, subnet))?.spec {
        DraftSpec::Subnet(spec) => Some(&spec.vpc),
        _ => None,
    };
    for candidate in &candidates.list {
        match &candidate.spec {
            DraftSpec::Port(draft) => {
                let Some(vpc) = vpc_of(&draft.spec.subnet) else { continue };
                let hosts = draft.spec.host.iter().chain(&draft.spec.migrating_to);
                spans.entry(vpc).or_default().count_hosts(hosts, true);
            }
            DraftSpec::Endpoint(spec) => {
                let Some(vpc) = vpc_of(&spec.subnet) else { continue };
                spans.entry(vpc).or_default().count_foreign(spec.vtep, true);
            }
            _ => {}
        }
    }
    spans
}

fn mtus(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let spec = |host: &Name| match candidates.find(&Key::host(host)).map(|found| &found.spec) {
        Some(DraftSpec::Host(spec)) => Some(spec.clone()),
        _ => None,
    };
    let (spans, nowhere) = (spans(candidates), Span::default());
    for (candidate, draft) in vpcs(candidates) {
        let span = spans.get(&candidate.meta.object()).unwrap_or(&nowhere);
        let underlay = Underlay::new(span, &draft.directory, spec);
        if let Some([one, other]) = underlay.strangers() {
            let message = format!(
                "is on Host {one}, which has tunnel end points of IPv4 only, and on Host {other}, which has some of IPv6 only"
            );
            let remedy = "give one of them an address of the other family too (spec.vteps)";
            problems.push(candidate.problem("metadata.name", message, remedy));
        }
        let Some(room) = underlay.room() else { continue };
        let smallest = smallest(&draft.cidrs);
        if room.bytes() < smallest {
            let message = format!("{}, less than the {smallest} its networks need", room.words());
            problems.push(candidate.problem("spec.mtu", message, "raise the MTU of that uplink"));
        } else if let Some(mtu) = draft.mtu
            && mtu > room.bytes()
        {
            let message = format!("{mtu} does not fit; {}", room.words());
            let remedy =
                format!("write at most {}, remove the field, or raise the MTU of that uplink", room.bytes());
            problems.push(candidate.problem("spec.mtu", message, remedy));
        }
    }
}
