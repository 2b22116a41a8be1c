//! Which rules hold for which ports. Ports with the same groups share one policy, the rules of all of these; rules and groups have
//! numbers that stay as long as they are in use here.

use crate::action::{Action, ShadowPlan};
use crate::agent::Agent;
use crate::index::Indices;
use crate::shadows::Shadow;
use model::security_group::{self, Protocol, SecurityGroupSpec, resolve};
use model::{ObjectName, ResourceSet, Typed};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tables::rules::{self, Family};

/// The groups of a port, in order, each once.
pub(crate) type PolicyKey = Arc<[ObjectName]>;

/// The number that no group has: nobody is in it.
const NOBODY: u16 = u16::MAX;

/// A rule with a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountedRule<'a> {
    /// Its group.
    pub group: &'a ObjectName,
    /// Whether it is one of the group's candidates, and not in force.
    pub shadow: bool,
    /// Its place among them.
    pub index: usize,
    /// What it says.
    pub rule: &'a security_group::Rule,
}

/// A policy in use.
#[derive(Debug)]
struct Policy {
    number: u16,
    /// How many ports it holds for.
    ports: usize,
    /// The groups that its rules name.
    names: BTreeSet<ObjectName>,
}

/// A group that rules in use name.
#[derive(Debug)]
struct Named {
    number: u16,
    /// By how many policies.
    policies: usize,
}

/// The rules of a group in use, in the order of its manifest, and where the hits of each are counted.
pub(crate) type Counted = Vec<(security_group::Rule, u32)>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Policies {
    policies: BTreeMap<PolicyKey, Policy>,
    numbers: Indices<u16>,
    /// The policies that each group is in.
    of_group: BTreeMap<ObjectName, BTreeSet<PolicyKey>>,
    named: BTreeMap<ObjectName, Named>,
    names: BTreeMap<u16, ObjectName>,
    group_numbers: Indices<u16>,
    pub(crate) counted: BTreeMap<ObjectName, Counted>,
    /// The candidates of those groups that have one.
    pub(crate) shadows: BTreeMap<ObjectName, Shadow>,
    pub(crate) groups_of_counters: BTreeMap<u32, ObjectName>,
    pub(crate) counters: Indices<u32>,
    /// What is in use by nothing any more, until it was said to be gone.
    leaving: Leaving,
}

#[derive(Debug, Default)]
struct Leaving {
    policies: BTreeSet<PolicyKey>,
    counters: Vec<u32>,
}

/// What an application changed of policies.
#[derive(Debug, Default)]
pub(crate) struct PolicyChanges {
    /// Policies to be set, in any order.
    pub(crate) set: BTreeSet<PolicyKey>,
    /// Counters that begin anew.
    pub(crate) counters: Vec<u32>,
    /// Numbers at which it is counted from now on what candidates would change.
    pub(crate) compared: Vec<u32>,
    /// Groups that are named from now on, and those that are not any more.
    pub(crate) named: Vec<(ObjectName, u16)>,
    pub(crate) dropped: Vec<(ObjectName, u16)>,
}

impl Policies {
    pub(crate) fn new() -> Self {
        Self {
            policies: BTreeMap::new(),
            numbers: Indices::new(NOBODY),
            of_group: BTreeMap::new(),
            named: BTreeMap::new(),
            names: BTreeMap::new(),
            group_numbers: Indices::new(NOBODY),
            counted: BTreeMap::new(),
            shadows: BTreeMap::new(),
            groups_of_counters: BTreeMap::new(),
            counters: Indices::new(u32::MAX),
            leaving: Leaving::default(),
        }
    }

    /// Whether rules here name no group.
    pub(crate) fn names_none(&self) -> bool {
        self.named.is_empty()
    }

    /// The number of a group that rules here name.
    pub(crate) fn number_of(&self, group: &ObjectName) -> Option<u16> {
        self.named.get(group).map(|named| named.number)
    }

    /// The number of a policy in use.
    pub(crate) fn policy(&self, key: &PolicyKey) -> Option<u16> {
        self.policies.get(key).map(|policy| policy.number)
    }

    /// A port more is under that policy. False when there is no number for it.
    pub(crate) fn take(&mut self, key: &PolicyKey, changes: &mut PolicyChanges) -> bool {
        if let Some(policy) = self.policies.get_mut(key) {
            policy.ports += 1;
            self.leaving.policies.remove(key);
            return true;
        }
        let Some(number) = self.numbers.take() else { return false };
        self.policies.insert(key.clone(), Policy { number, ports: 1, names: BTreeSet::new() });
        for group in key.iter() {
            self.of_group.entry(group.clone()).or_default().insert(key.clone());
        }
        changes.set.insert(key.clone());
        true
    }

    /// A port less is under that policy.
    pub(crate) fn leave(&mut self, key: &PolicyKey) {
        let Some(policy) = self.policies.get_mut(key) else { return };
        policy.ports = policy.ports.saturating_sub(1);
        if policy.ports == 0 {
            self.leaving.policies.insert(key.clone());
        }
    }

    /// A group's rules are others: the policies that they are in are to be set.
    pub(crate) fn rules_changed(&mut self, group: &ObjectName, changes: &mut PolicyChanges) {
        let in_use = self.of_group.get(group).into_iter().flatten();
        let in_use = in_use.filter(|key| !self.leaving.policies.contains(*key));
        changes.set.extend(in_use.cloned());
    }

    /// Gives numbers to the rules of a group, the same as before to those that it had.
    fn count(&mut self, group: &ObjectName, rules: &[security_group::Rule], started: &mut Vec<u32>) {
        let plain = |rule: &security_group::Rule| security_group::Rule { log: false, ..rule.clone() };
        let mut before: BTreeMap<security_group::Rule, Vec<u32>> = BTreeMap::new();
        for (rule, counter) in self.counted.remove(group).unwrap_or_default().into_iter().rev() {
            before.entry(plain(&rule)).or_default().push(counter);
        }
        let mut counted = Vec::with_capacity(rules.len());
        for rule in rules {
            let kept = before.get_mut(&plain(rule)).and_then(Vec::pop);
            let counter = kept.or_else(|| {
                let counter = self.counters.take()?;
                self.groups_of_counters.insert(counter, group.clone());
                started.push(counter);
                Some(counter)
            });
            counted.push((rule.clone(), counter.unwrap_or(u32::MAX)));
        }
        self.forget(before.into_values().flatten());
        self.counted.insert(group.clone(), counted);
    }

    pub(crate) fn forget(&mut self, counters: impl Iterator<Item = u32>) {
        for counter in counters {
            self.groups_of_counters.remove(&counter);
            self.leaving.counters.push(counter);
        }
    }

    /// Numbers what the policies to be set need, and says which groups they name.
    pub(crate) fn prepare(&mut self, set: &ResourceSet, changes: &mut PolicyChanges) {
        let groups: BTreeSet<ObjectName> = changes.set.iter().flat_map(|key| key.iter().cloned()).collect();
        for group in &groups {
            let Some(spec) = set.security_group(group).map(|group| group.spec) else { continue };
            let counted = self.counted.get(group);
            let changed = counted.is_none_or(|counted| !counted.iter().map(|(rule, _)| rule).eq(&spec.rules));
            if changed {
                self.count(group, &spec.rules, &mut changes.counters);
            }
            self.shadow(group, spec.shadow.as_deref(), changed, changes);
        }
        for key in &changes.set {
            let groups = key.iter().filter_map(|group| set.security_group(group));
            let names: BTreeSet<ObjectName> = groups.flat_map(|group| named_by(group)).collect();
            self.rename(key, names, &mut changes.named);
        }
    }

    /// A policy's rules name these groups from now on.
    fn rename(&mut self, key: &PolicyKey, names: BTreeSet<ObjectName>, first: &mut Vec<(ObjectName, u16)>) {
        let Some(policy) = self.policies.get_mut(key) else { return };
        let before = std::mem::replace(&mut policy.names, names.clone());
        for group in names.difference(&before) {
            if let Some(named) = self.named.get_mut(group) {
                named.policies += 1;
            } else if let Some(number) = self.group_numbers.take() {
                self.named.insert(group.clone(), Named { number, policies: 1 });
                self.names.insert(number, group.clone());
                first.push((group.clone(), number));
            }
        }
        for group in before.difference(&names) {
            if let Some(named) = self.named.get_mut(group) {
                named.policies = named.policies.saturating_sub(1);
            }
        }
    }

    /// What to do to have a policy's rules judge.
    pub(crate) fn plan(&self, set: &ResourceSet, key: &PolicyKey) -> Option<Action> {
        let policy = self.policy(key)?;
        let rules = |candidate: bool| {
            let mut rules = Vec::new();
            for group in key.iter().filter_map(|group| set.security_group(group)) {
                let name = group.meta.object();
                let shadow = self.shadows.get(&name).filter(|_| candidate).map(|shadow| &shadow.rules);
                let counted = shadow.or_else(|| self.counted.get(&name)).into_iter().flatten();
                rules.extend(counted.map(|(rule, counter)| self.compiled(group, rule, *counter)));
            }
            rules
        };
        let totals = self.totals(key);
        let shadow = (!totals.is_empty()).then(|| ShadowPlan { rules: rules(true), totals });
        let names: Vec<String> = key.iter().map(ToString::to_string).collect();
        Some(Action::SetPolicy { policy, name: names.join(","), rules: rules(false), shadow })
    }

    /// A rule in the numbers of this host.
    fn compiled(
        &self,
        group: Typed<'_, SecurityGroupSpec>,
        rule: &security_group::Rule,
        counter: u32,
    ) -> rules::Rule {
        let action = match rule.action {
            security_group::Action::Allow => rules::Action::Allow,
            security_group::Action::Deny => rules::Action::Deny,
        };
        let remote = match &rule.remote {
            security_group::Remote::Any => rules::Remote::Any,
            security_group::Remote::Cidr(cidr) => rules::Remote::Prefix(*cidr),
            security_group::Remote::Group(reference) => {
                let remote = resolve(reference, &group.meta.object().project, &group.spec.vpc);
                match (self.number_of(&remote), action) {
                    (Some(number), _) => rules::Remote::Group(number),
                    // Who is in a group without a number is not known: none is allowed, and any may be denied.
                    (None, rules::Action::Allow) => rules::Remote::Group(NOBODY),
                    (None, rules::Action::Deny) => rules::Remote::Any,
                }
            }
        };
        rules::Rule {
            direction: match rule.direction {
                security_group::Direction::Ingress => rules::Direction::Ingress,
                security_group::Direction::Egress => rules::Direction::Egress,
            },
            action,
            priority: rule.priority,
            protocol: rule.protocol.map(|protocol| protocol.0),
            family: match rule.protocol {
                Some(Protocol::ICMP) => Some(Family::Ipv4),
                Some(Protocol::ICMPV6) => Some(Family::Ipv6),
                _ => None,
            },
            ports: rule.ports.iter().map(|range| (*range).into()).collect(),
            icmp: rule.icmp,
            remote,
            log: rule.log,
            counter,
        }
    }

    /// Lets go of policies that no port is under, and of groups that no rule names any more.
    pub(crate) fn settle(&mut self, changes: &mut PolicyChanges, actions: &mut Vec<Action>) {
        for key in std::mem::take(&mut self.leaving.policies) {
            self.rename(&key, BTreeSet::new(), &mut Vec::new());
            let Some(policy) = self.policies.remove(&key) else { continue };
            actions.push(Action::RemovePolicy { policy: policy.number });
            self.numbers.give_back(policy.number);
            for group in key.iter() {
                let Some(keys) = self.of_group.get_mut(group) else { continue };
                keys.remove(&key);
                if keys.is_empty() {
                    self.of_group.remove(group);
                    let counted = self.counted.remove(group).unwrap_or_default();
                    self.forget(counted.into_iter().map(|(_, counter)| counter));
                    self.forget_shadow(group);
                }
            }
        }
        for counter in self.leaving.counters.drain(..) {
            self.counters.give_back(counter);
        }
        changes.dropped = self
            .named
            .extract_if(.., |_, named| named.policies == 0)
            .map(|(group, named)| (group, named.number))
            .collect();
        for (_, number) in &changes.dropped {
            self.names.remove(number);
            self.group_numbers.give_back(*number);
        }
    }
}

/// The groups that the rules of a group name.
fn named_by(group: Typed<'_, SecurityGroupSpec>) -> impl Iterator<Item = ObjectName> {
    let project = group.meta.object().project;
    group.spec.rules.iter().chain(group.spec.shadow.iter().flatten()).filter_map(move |rule| {
        match &rule.remote {
            security_group::Remote::Group(reference) => Some(resolve(reference, &project, &group.spec.vpc)),
            _ => None,
        }
    })
}

impl Agent {
    /// The policy that a port is to be under; `None` of an unfiltered one.
    pub(crate) fn policy_key(&self, name: &ObjectName) -> Option<PolicyKey> {
        let port = self.set.port(name).filter(|port| port.spec.is_on(&self.host) && !port.spec.unfiltered)?;
        Some(self.set.groups_of(port)?.into_iter().collect())
    }

    /// The rule that a number stands for.
    pub fn rule_of(&self, counter: u32) -> Option<CountedRule<'_>> {
        let group = self.policies.groups_of_counters.get(&counter)?;
        let find = |rules: &'_ Counted| rules.iter().position(|(_, other)| *other == counter);
        let live = self.policies.counted.get(group);
        let shadow = self.policies.shadows.get(group).map(|shadow| &shadow.rules);
        [(live, false), (shadow, true)].into_iter().find_map(|(rules, shadow)| {
            let index = find(rules?)?;
            rules?.get(index).map(|(rule, _)| CountedRule { group, shadow, index, rule })
        })
    }

    /// Where the hits of a group's rules are counted, in the order of its rules; `None` of a group that no port here is in.
    pub fn counters_of(&self, group: &ObjectName) -> Option<impl Iterator<Item = u32>> {
        self.policies.counted.get(group).map(|counted| counted.iter().map(|(_, counter)| *counter))
    }

    /// All rules in force here: their group, place, and where their hits are counted.
    pub fn counted_rules(&self) -> impl Iterator<Item = (&ObjectName, usize, &security_group::Rule, u32)> {
        self.policies.counted.iter().flat_map(|(group, rules)| {
            rules.iter().enumerate().map(move |(index, (rule, number))| (group, index, rule, *number))
        })
    }

    /// The group that rules here name by a number.
    pub fn group_of(&self, number: u16) -> Option<&ObjectName> {
        self.policies.names.get(&number)
    }
}
