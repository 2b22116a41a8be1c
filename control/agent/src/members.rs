//! Who is a member of groups that rules here name: by network, since that is what packets show.

use crate::action::Action;
use crate::agent::Agent;
use ipnet::IpNet;
use model::{Kind, ObjectName, PortSpec, Resource, Spec, Typed};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A network of a VPC.
type Entry = (u16, IpNet);

/// What puts the addresses of networks into groups. A network may be of several ports, and in a group because of each.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The group numbers of each network, as often as ports are the reason, in order.
    entries: HashMap<Entry, Vec<u16>>,
    /// The groups of networks that changed, each once, before they did.
    before: HashMap<Entry, Vec<u16>>,
}

fn each_once(groups: &[u16]) -> Vec<u16> {
    let mut groups = groups.to_vec();
    groups.dedup();
    groups
}

impl Members {
    fn change(&mut self, entry: Entry, change: impl FnOnce(&mut Vec<u16>)) {
        let groups = self.entries.entry(entry).or_default();
        self.before.entry(entry).or_insert_with(|| each_once(groups));
        change(groups);
        if groups.is_empty() {
            self.entries.remove(&entry);
        }
    }

    fn add(&mut self, entry: Entry, numbers: &[u16]) {
        self.change(entry, |groups| {
            groups.extend(numbers);
            groups.sort_unstable();
        });
    }

    fn remove(&mut self, entry: Entry, numbers: &[u16]) {
        self.change(entry, |groups| {
            for number in numbers {
                if let Ok(at) = groups.binary_search(number) {
                    groups.remove(at);
                }
            }
        });
    }

    /// What changed since this was last asked.
    pub(crate) fn changes(&mut self) -> Vec<Action> {
        let mut changed: Vec<(Entry, Vec<u16>)> = self.before.drain().collect();
        changed.sort_unstable();
        let entries = &self.entries;
        let action = |(entry, before): (Entry, Vec<u16>)| {
            let groups = entries.get(&entry).map(|groups| each_once(groups)).unwrap_or_default();
            let (vpc, prefix) = entry;
            match (groups.is_empty(), groups == before) {
                (_, true) => None,
                (true, _) => Some(Action::UnbindMember { vpc, prefix }),
                (false, _) => Some(Action::BindMember { vpc, prefix, groups }),
            }
        };
        changed.into_iter().filter_map(action).collect()
    }
}

/// The networks whose addresses are a port's: all that it may send from, but not those that stand for anybody.
fn networks(spec: &PortSpec) -> BTreeSet<IpNet> {
    let allowed = spec.allowed_addresses.iter().map(|allowed| allowed.ip);
    let own = spec.ips.iter().map(|address| IpNet::from(*address));
    own.chain(allowed.filter(|net| net.prefix_len() > 0)).collect()
}

fn as_port(member: &Resource) -> Option<Typed<'_, PortSpec>> {
    if let Spec::Port(spec) = &member.spec { Some(Typed { meta: &member.meta, spec }) } else { None }
}

impl Agent {
    /// Puts a port's networks into the groups that rules here name, or takes them out.
    pub(crate) fn enroll(&mut self, member: &Resource, on: bool) {
        if self.policies.names_none() {
            return;
        }
        let Some(port) = as_port(member) else { return };
        let Some(vpc) = self.subnets.plan(&port.spec.subnet).map(|(_, plan)| plan.vpc) else { return };
        let groups = self.set.groups_of(port).unwrap_or_default();
        let mut numbers: Vec<u16> =
            groups.iter().filter_map(|group| self.policies.number_of(group)).collect();
        numbers.sort_unstable();
        if !numbers.is_empty() {
            self.enroll_in(vpc, port.spec, &numbers, on);
        }
    }

    fn enroll_in(&mut self, vpc: u16, spec: &PortSpec, numbers: &[u16], on: bool) {
        for network in networks(spec) {
            match on {
                true => self.members.add((vpc, network), numbers),
                false => self.members.remove((vpc, network), numbers),
            }
        }
    }

    /// Puts all ports of a group into it, or takes them out, but for those that `others` says are seen to otherwise.
    pub(crate) fn enroll_all(
        &mut self,
        group: &ObjectName,
        number: u16,
        on: bool,
        others: impl Fn(&Resource, &ObjectName) -> bool,
    ) {
        let Some(vpc) = self.set.security_group(group).map(|group| &group.spec.vpc) else { return };
        let Some(vpc_number) = self.vpcs.number(vpc) else { return };
        let mut found: Vec<Arc<Resource>> = Vec::new();
        for subnet in self.set.subnets_of(vpc) {
            let name = subnet.meta.object();
            let is_in = |member: &&Arc<Resource>| {
                let groups = as_port(member).and_then(|port| self.set.groups_of(port));
                groups.is_some_and(|groups| groups.contains(group)) && !others(member, &name)
            };
            found.extend(self.set.members(Kind::Subnet, &name).filter(is_in).cloned());
        }
        for port in found.iter().filter_map(|member| as_port(member)) {
            self.enroll_in(vpc_number, port.spec, &[number], on);
        }
    }
}
