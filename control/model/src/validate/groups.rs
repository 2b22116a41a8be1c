//! Security groups: each is used inside its own VPC.

use super::{Candidate, Candidates, project_of};
use crate::kind::Kind;
use crate::name::{Key, ObjectName};
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::security_group::{
    GROUPS_MAX, GROUPS_PER_NETWORK_MAX, NETWORK_LENGTHS_MAX, Remote, SecurityGroupSpec, is_default_group_of,
    means_default, resolve,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, problems: &mut Vec<Problem>) {
    networks(candidates, problems);
    let mut count = 0;
    for candidate in &candidates.list {
        match &candidate.spec {
            DraftSpec::SecurityGroup(group) => {
                count += 1;
                if count == GROUPS_MAX + 1 {
                    let message = format!("there are more than {GROUPS_MAX} SecurityGroups");
                    let remedy = "let ports with the same rules share a group";
                    problems.push(candidate.problem("metadata.name", message, remedy));
                }
                name(candidate, group, problems);
                for (field, rule) in group.all_rules() {
                    if let Remote::Group(remote) = &rule.remote {
                        let field = format!("{field}.remote.group");
                        of_vpc(candidates, candidate, &field, (remote, &group.vpc), "this rule is", problems);
                    }
                }
            }
            DraftSpec::Port(draft) => {
                let subnet = candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet));
                let Some(Candidate { spec: DraftSpec::Subnet(subnet), .. }) = subnet else { continue };
                for (index, group) in draft.spec.security_groups.iter().enumerate() {
                    let field = format!("spec.securityGroups[{index}]");
                    of_vpc(candidates, candidate, &field, (group, &subnet.vpc), "this port is", problems);
                }
            }
            _ => {}
        }
    }
}

/// What ports may send from besides their own addresses makes members of groups; of these there is not any number.
fn networks(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut groups: BTreeMap<(&ObjectName, IpNet), BTreeSet<ObjectName>> = BTreeMap::new();
    let mut lengths: BTreeMap<(&ObjectName, bool), BTreeSet<u8>> = BTreeMap::new();
    for (candidate, draft) in candidates.ports() {
        let spec = &draft.spec;
        let subnet = candidates.find(&Key::of(Kind::Subnet, &spec.subnet));
        let Some(Candidate { spec: DraftSpec::Subnet(subnet), .. }) = subnet else { continue };
        let (vpc, project) = (&subnet.vpc, project_of(candidate));
        for (index, net) in spec.allowed_addresses.iter().map(|allowed| allowed.ip).enumerate() {
            if net.prefix_len() == 0 || spec.unfiltered {
                continue;
            }
            let mut refuse = |message: String, remedy: &str| {
                let field = format!("spec.allowedAddresses[{index}].ip");
                problems.push(candidate.problem(&field, message, remedy));
            };
            let in_groups = groups.entry((vpc, net)).or_default();
            let before = in_groups.len();
            in_groups.extend(spec.security_groups.iter().map(|group| resolve(group, &project, vpc)));
            if before <= GROUPS_PER_NETWORK_MAX && in_groups.len() > GROUPS_PER_NETWORK_MAX {
                let most = GROUPS_PER_NETWORK_MAX;
                let message =
                    format!("is in more than {most} groups, those of all ports that may send from it");
                refuse(message, "let these ports share groups");
            }
            if net.prefix_len() == net.max_prefix_len() {
                continue;
            }
            let lengths = lengths.entry((vpc, net.addr().is_ipv4())).or_default();
            if lengths.insert(net.prefix_len()) && lengths.len() == NETWORK_LENGTHS_MAX + 1 {
                let most = NETWORK_LENGTHS_MAX;
                let message = format!(
                    "is of one length too many: ports of Vpc {vpc} may send from networks of {most} lengths"
                );
                refuse(message, "write it as networks of a length that is there already");
            }
        }
    }
}

/// The names of groups `default` belong to their VPCs, and to the projects of these.
fn name(candidate: &Candidate, group: &SecurityGroupSpec, problems: &mut Vec<Problem>) {
    let own = candidate.meta.object();
    if own.name.as_str() == "default" {
        let message = format!("is the group of Vpc {}, which only its own project can write", group.vpc);
        let remedy = format!("write it in project {}, or give the group another name", group.vpc.project);
        problems.push(candidate.problem("metadata.name", message, remedy));
    } else if let Some(vpc) = is_default_group_of(&own)
        && vpc != group.vpc
    {
        let message = format!("is kept for the group of Vpc {vpc}, and this one is for Vpc {}", group.vpc);
        problems.push(candidate.problem("metadata.name", message, "give the group another name"));
    }
}

/// What is referred to is a group of that VPC.
fn of_vpc(
    candidates: &Candidates,
    candidate: &Candidate,
    field: &str,
    (reference, vpc): (&ObjectName, &ObjectName),
    what: &str,
    problems: &mut Vec<Problem>,
) {
    if means_default(reference, &project_of(candidate), vpc) {
        return;
    }
    let found = candidates.find(&Key::of(Kind::SecurityGroup, reference));
    if let Some(Candidate { spec: DraftSpec::SecurityGroup(group), .. }) = found
        && group.vpc != *vpc
    {
        let message = format!("is a group of Vpc {}, and {what} of Vpc {vpc}", group.vpc);
        let remedy = format!("use a SecurityGroup of Vpc {vpc}");
        problems.push(candidate.problem(field, message, remedy));
    }
}
