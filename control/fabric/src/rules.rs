//! Security group rules: compiled and handed to the switch. What cannot be compiled changes nothing, and is remembered until it can.

use crate::fabric::Fabric;
use agent::ShadowPlan;
use ipnet::IpNet;
use services::metadata::Upstream;
use std::collections::BTreeMap;
use std::sync::Arc;
use switch::Control;
use tables::rules::{Candidate, Direction, Policy, PolicyError, Rule};

/// What the switch could not take: who judges by it judges as before.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    policies: BTreeMap<u16, String>,
    shadows: BTreeMap<u16, String>,
    members: BTreeMap<(u16, IpNet), String>,
}

fn compile(rules: Vec<Rule>) -> Result<Policy, PolicyError> {
    // Closed as soon as there is a rule: it may be of a group that nobody is in.
    let open_egress = rules.iter().all(|rule| rule.direction != Direction::Egress);
    Policy::compile(rules, open_egress)
}

impl<U: Upstream> Fabric<U> {
    /// Rules and memberships that are not as they should be here, one line each: they are too many, or too deeply nested. Ports under such rules
    /// are under those before; under none, if there are none: then nothing passes.
    pub fn refused_rules(&self) -> impl Iterator<Item = &str> {
        let Refused { policies, shadows, members } = &self.refused;
        policies.values().chain(shadows.values()).chain(members.values()).map(String::as_str)
    }

    /// Rules that counted nothing yet begin to count.
    pub(crate) fn start_counters(control: &Control, counters: &[u32]) {
        for counter in counters {
            control.rule_counters().prepare(*counter);
            control.rule_counters().reset(*counter);
        }
    }

    pub(crate) fn set_policy(
        &mut self,
        control: &mut Control,
        number: u16,
        name: &str,
        (rules, shadow): (Vec<Rule>, Option<ShadowPlan>),
    ) {
        let Refused { policies, shadows, .. } = &mut self.refused;
        let policy = match compile(rules) {
            Ok(policy) => {
                policies.remove(&number);
                Some(Arc::new(policy))
            }
            Err(error) => {
                policies.insert(number, format!("the rules of {name} are not in force: {error}"));
                control.policy(number)
            }
        };
        shadows.remove(&number);
        let candidate = shadow.and_then(|shadow| match compile(shadow.rules) {
            Ok(policy) => Some(Arc::new(Candidate { policy, totals: shadow.totals.into() })),
            Err(error) => {
                shadows.insert(number, format!("the shadow rules of {name} are not compared: {error}"));
                None
            }
        });
        control.set_rules(number, policy, candidate);
    }

    pub(crate) fn remove_policy(&mut self, control: &mut Control, number: u16) {
        control.set_policy(number, None);
        self.refused.policies.remove(&number);
        self.refused.shadows.remove(&number);
    }

    pub(crate) fn set_member(&mut self, control: &mut Control, vpc: u16, prefix: IpNet, groups: &[u16]) {
        match control.set_member(vpc, prefix, groups) {
            Ok(()) => drop(self.refused.members.remove(&(vpc, prefix))),
            Err(error) => {
                let name = self.vpcs.get(&vpc).map_or("?", |vpc| vpc.name.as_str());
                let said = format!("{prefix} of Vpc {name} is not in its security groups: {error}");
                self.refused.members.insert((vpc, prefix), said);
            }
        }
    }

    pub(crate) fn remove_member(&mut self, control: &mut Control, vpc: u16, prefix: IpNet) {
        control.remove_member(vpc, prefix);
        self.refused.members.remove(&(vpc, prefix));
    }
}
