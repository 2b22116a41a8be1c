//! Candidates for the rules of groups, and where what they would change is counted. A comparison is of two sets of rules: when either changes its counts begin anew.

use crate::agent::Agent;
use crate::policies::{Counted, Policies, PolicyChanges};
use engine::PortIndex;
use model::ObjectName;
use model::security_group::Rule;

/// The number of rules and groups that there is no number for: nothing is counted there.
const UNCOUNTED: u32 = u32::MAX;

/// The candidate of a group.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// Where all that is judged by it is counted.
    total: u32,
    /// Its rules.
    pub(crate) rules: Counted,
}

/// Where it is counted what a group's candidate would change ([`tables::rules::Comparisons`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// All that is judged by it, whatever rule decides.
    pub total: u32,
    /// What each of the rules in force decided, in their order.
    pub live: Vec<u32>,
    /// What each of the candidate's rules would decide, in their order.
    pub candidate: Vec<u32>,
}

impl Policies {
    /// Gives numbers to a group's candidate, if it has one; new ones, if the candidate or what it is compared with (`changed`) is another than before.
    pub(crate) fn shadow(
        &mut self,
        group: &ObjectName,
        shadow: Option<&[Rule]>,
        changed: bool,
        changes: &mut PolicyChanges,
    ) {
        let is_same = match (self.shadows.get(group), shadow) {
            (None, None) => true,
            (Some(known), Some(rules)) => !changed && known.rules.iter().map(|(rule, _)| rule).eq(rules),
            _ => false,
        };
        if is_same {
            return;
        }
        self.forget_shadow(group);
        let Some(rules) = shadow else { return };
        let total = self.number_for(group);
        let rules: Counted = rules.iter().map(|rule| (rule.clone(), self.number_for(group))).collect();
        let live = self.counted.get(group).into_iter().flatten();
        changes.compared.extend(live.chain(&rules).map(|(_, number)| *number).chain([total]));
        self.shadows.insert(group.clone(), Shadow { total, rules });
    }

    pub(crate) fn forget_shadow(&mut self, group: &ObjectName) {
        if let Some(Shadow { total, rules }) = self.shadows.remove(group) {
            let numbers = rules.into_iter().map(|(_, number)| number).chain([total]);
            self.forget(numbers.filter(|number| *number != UNCOUNTED));
        }
    }

    fn number_for(&mut self, group: &ObjectName) -> u32 {
        let number = self.counters.take();
        if let Some(number) = number {
            self.groups_of_counters.insert(number, group.clone());
        }
        number.unwrap_or(UNCOUNTED)
    }

    /// Where all that is judged by the candidates of these groups is counted; none, if they have none.
    pub(crate) fn totals(&self, groups: &[ObjectName]) -> Vec<u32> {
        groups.iter().filter_map(|group| self.shadows.get(group)).map(|shadow| shadow.total).collect()
    }
}

impl Agent {
    /// The groups that ports here are in and that have candidates, in order.
    pub fn compared(&self) -> impl Iterator<Item = &ObjectName> {
        self.policies.shadows.keys()
    }

    /// Where it is counted what a group's candidate would change; `None` of a group that has none, or that no port here is in.
    pub fn comparison_of(&self, group: &ObjectName) -> Option<Comparison> {
        let Shadow { total, rules } = self.policies.shadows.get(group)?;
        let numbers = |rules: &Counted| rules.iter().map(|(_, number)| *number).collect();
        let live = self.policies.counted.get(group).map(numbers).unwrap_or_default();
        Some(Comparison { total: *total, live, candidate: numbers(rules) })
    }

    /// Where all that is judged by a group's candidate is counted; `None` of a group that has none, or that no port here is in.
    pub fn total_of(&self, group: &ObjectName) -> Option<u32> {
        self.policies.shadows.get(group).map(|shadow| shadow.total)
    }

    /// The groups of a port here, in order; none of an unfiltered one.
    pub fn groups_of_port(&self, port: PortIndex) -> &[ObjectName] {
        let name = self.by_index.get(&port);
        let policy = name.and_then(|name| self.ports.get(name)).and_then(|port| port.policy.as_ref());
        policy.map_or(&[], |key| key)
    }
}
