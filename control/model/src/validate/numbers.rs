//! What must be unique or fit: uids, VNIs, sockets, MTUs.

use super::{Candidate, Candidates};
use crate::host::HostSpec;
use crate::kind::Kind;
use crate::name::{Key, Name, ObjectName};
use crate::port::Attachment;
use crate::problem::Problem;
use crate::resource::DraftSpec;
use crate::set::{Environment, ResourceSet, Typed};
use crate::vpc::{MTU_MIN_V4, MTU_MIN_V6, MTU_WITHOUT_UPLINK, Vni, VpcSpec};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What VXLAN adds to a packet over IPv4, in bytes: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20 (RFC 7348, 5).
const OVERHEAD_V4: u16 = 50;
/// The same over IPv6, whose header has 40 bytes.
const OVERHEAD_V6: u16 = 70;

/// Checks all of them.
pub(super) fn check(candidates: &Candidates, environment: &Environment, problems: &mut Vec<Problem>) {
    uids(candidates, problems);
    vnis(candidates, problems);
    sockets(candidates, problems);
    mtus(candidates, environment, problems);
}

fn uids(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for candidate in &candidates.list {
        if let Some(other) = seen.insert(candidate.meta.uid, candidate) {
            let message = format!("has the uid of {}", other.describe());
            problems.push(candidate.problem(
                "metadata.uid",
                message,
                "remove the uid, and it gets one of its own",
            ));
        }
    }
}

fn vpcs(candidates: &Candidates) -> impl Iterator<Item = (&Candidate, &crate::vpc::VpcDraft)> {
    candidates.list.iter().filter_map(|candidate| match &candidate.spec {
        DraftSpec::Vpc(draft) => Some((candidate, draft)),
        _ => None,
    })
}

fn vnis(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let used: BTreeSet<Vni> = vpcs(candidates).filter_map(|(_, draft)| draft.vni).collect();
    let mut free = (1..=Vni::MAX).filter_map(Vni::new).filter(|vni| !used.contains(vni));
    let mut seen: BTreeMap<Vni, &Candidate> = BTreeMap::new();
    for (candidate, draft) in vpcs(candidates) {
        let mut suggest = || {
            free.next()
                .map_or_else(|| "remove a Vpc".to_owned(), |vni| format!("write vni: {vni}, which is free"))
        };
        match draft.vni {
            None => {
                let message = "is missing, and without a store there is nobody to assign and remember one";
                problems.push(candidate.problem("spec.vni", message, suggest()));
            }
            Some(vni) => match seen.get(&vni) {
                Some(other) => {
                    let message = format!("is the VNI of {}", other.describe());
                    problems.push(candidate.problem("spec.vni", message, suggest()));
                }
                None => {
                    seen.insert(vni, candidate);
                }
            },
        }
    }
}

/// A path is one socket of a host, whichever port it belongs to.
fn sockets(candidates: &Candidates, problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<(Option<&Name>, &str), &Candidate> = BTreeMap::new();
    for (candidate, draft) in candidates.ports() {
        let Some(Attachment::VhostUser(vhost)) = &draft.spec.attachment else { continue };
        let hosts = match (&draft.spec.host, &draft.spec.migrating_to) {
            (None, _) => vec![None],
            (Some(host), None) => vec![Some(host)],
            (Some(host), Some(target)) => vec![Some(host), Some(target)],
        };
        let taken = hosts.iter().find_map(|host| seen.get(&(*host, vhost.socket.as_str())).copied());
        if let Some(other) = taken {
            let message = format!("is the socket of {}", other.describe());
            let remedy = "give each port its own socket, or remove the field to get one";
            problems.push(candidate.problem("spec.attachment.vhostUser.socket", message, remedy));
        }
        for host in hosts {
            seen.entry((host, vhost.socket.as_str())).or_insert(candidate);
        }
    }
}

/// What one host's uplink leaves for the packets of a VPC.
struct Room {
    host: Name,
    uplink: u16,
    overhead: u16,
}

impl Room {
    fn bytes(&self) -> u16 {
        self.uplink.saturating_sub(self.overhead)
    }

    /// The arithmetic, for people.
    fn words(&self) -> String {
        let family = if self.overhead == OVERHEAD_V6 { "IPv6" } else { "IPv4" };
        let (host, uplink, overhead, room) = (&self.host, self.uplink, self.overhead, self.bytes());
        format!("uplink of {host}: {uplink} - {overhead} (VXLAN over {family}) = {room}")
    }
}

/// The least room among hosts.
fn least_room<'a>(
    hosts: impl Iterator<Item = &'a Name>,
    spec: impl Fn(&Name) -> Option<HostSpec>,
    environment: &Environment,
) -> Option<Room> {
    let room = |host: &Name| {
        let uplink = *environment.uplink_mtus.get(host)?;
        let overhead = match spec(host).and_then(|spec| spec.vteps.first().copied()) {
            Some(IpAddr::V6(_)) => OVERHEAD_V6,
            _ => OVERHEAD_V4,
        };
        Some(Room { host: host.clone(), uplink, overhead })
    };
    hosts.filter_map(room).min_by_key(Room::bytes)
}

/// Least MTU of a VPC with these networks.
fn smallest(cidrs: &[IpNet]) -> u16 {
    if cidrs.iter().any(|cidr| matches!(cidr, IpNet::V6(_))) { MTU_MIN_V6 } else { MTU_MIN_V4 }
}

fn mtus(candidates: &Candidates, environment: &Environment, problems: &mut Vec<Problem>) {
    if environment.uplink_mtus.is_empty() {
        return;
    }
    let mut hosts: BTreeMap<ObjectName, BTreeSet<&Name>> = BTreeMap::new();
    for (_, draft) in candidates.ports() {
        let subnet = candidates.find(&Key::of(Kind::Subnet, &draft.spec.subnet));
        let Some(DraftSpec::Subnet(subnet)) = subnet.map(|subnet| &subnet.spec) else { continue };
        let of_vpc = hosts.entry(subnet.vpc.clone()).or_default();
        of_vpc.extend(draft.spec.host.iter().chain(&draft.spec.migrating_to));
    }
    let spec = |host: &Name| match candidates.find(&Key::host(host)).map(|found| &found.spec) {
        Some(DraftSpec::Host(spec)) => Some(spec.clone()),
        _ => None,
    };
    for (candidate, draft) in vpcs(candidates) {
        let mut of_vpc = hosts.remove(&candidate.meta.object()).unwrap_or_default();
        of_vpc.extend(&draft.directory);
        let Some(room) = least_room(of_vpc.into_iter(), spec, environment) else { continue };
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

/// MTU of a VPC of a valid set.
pub(crate) fn mtu_of(set: &ResourceSet, vpc: Typed<'_, VpcSpec>, environment: &Environment) -> u16 {
    if let Some(mtu) = vpc.spec.mtu {
        return mtu;
    }
    if environment.uplink_mtus.is_empty() {
        return MTU_WITHOUT_UPLINK;
    }
    let object = vpc.meta.object();
    let in_vpc = |subnet: &ObjectName| set.subnet(subnet).is_some_and(|subnet| subnet.spec.vpc == object);
    let ports = set.ports().filter(|port| in_vpc(&port.spec.subnet));
    let of_ports = ports.flat_map(|port| port.spec.host.iter().chain(&port.spec.migrating_to));
    let spec = |host: &Name| set.host(host).map(|host| host.spec.clone());
    let room = least_room(of_ports.chain(&vpc.spec.directory), spec, environment);
    room.map_or(MTU_WITHOUT_UPLINK, |room| room.bytes())
}
