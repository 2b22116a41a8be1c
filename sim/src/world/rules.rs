//! Planted bugs of rules and members: what they make of an action.

use crate::plant::Plant;
use agent::Action;
use ipnet::IpNet;
use switch::Control;
use tables::rules::{self, Direction, Remote, Rule};

/// What a bug makes of an action about rules; nothing if it forgets it. `begun`: the first configuration is there.
pub(super) fn spoil(plant: Plant, action: Action, control: &Control, begun: bool) -> Option<Action> {
    Some(match (plant, action) {
        (Plant::StalePolicy, Action::SetPolicy { policy, .. })
            if begun && control.policy(policy).is_some() =>
        {
            return None;
        }
        (Plant::StaleMember, Action::UnbindMember { .. }) => return None,
        (Plant::IgnoreMember, Action::BindMember { .. }) if begun => return None,
        (Plant::ForgetRules, Action::OpenPort { index, mut plan }) => {
            plan.profile.policy = None;
            Action::OpenPort { index, plan }
        }
        (Plant::OthersRules, Action::OpenPort { index, mut plan }) => {
            plan.profile.policy = plan.profile.policy.map(|_| 0);
            Action::OpenPort { index, plan }
        }
        (_, Action::SetPolicy { policy, name, mut rules, shadow }) => {
            spoil_rules(plant, &mut rules);
            Action::SetPolicy { policy, name, rules, shadow }
        }
        (_, action) => action,
    })
}

fn spoil_rules(plant: Plant, rules: &mut Vec<Rule>) {
    match plant {
        Plant::IgnorePriority => rules.iter_mut().for_each(|rule| rule.priority = 0),
        Plant::AllowFirst => {
            let denies = rules.iter_mut().filter(|rule| rule.action == rules::Action::Deny);
            denies.for_each(|rule| rule.priority = rule.priority.saturating_add(1));
        }
        Plant::GroupIsAnybody => rules.iter_mut().for_each(|rule| {
            if let Remote::Group(_) = rule.remote {
                rule.remote = Remote::Any;
            }
        }),
        Plant::WidePrefix => rules.iter_mut().for_each(|rule| {
            if let Remote::Prefix(prefix) = rule.remote
                && let Ok(wider) = IpNet::new(prefix.addr(), prefix.prefix_len().saturating_sub(8))
            {
                rule.remote = Remote::Prefix(wider);
            }
        }),
        Plant::PortTooFar => rules.iter_mut().flat_map(|rule| &mut rule.ports).for_each(|range| {
            *range = *range.start()..=range.end().saturating_add(1);
        }),
        Plant::AnyType => rules.iter_mut().for_each(|rule| rule.icmp = None),
        Plant::OpenIngress if rules.iter().all(|rule| rule.direction == Direction::Egress) => {
            rules.push(open(Vec::new(), None));
        }
        Plant::StatelessReplies => rules.push(open(vec![30_000..=65_535], Some(17))),
        _ => {}
    }
}

/// Lets everybody in, after all other rules.
fn open(ports: Vec<std::ops::RangeInclusive<u16>>, protocol: Option<u8>) -> Rule {
    Rule {
        direction: Direction::Ingress,
        action: rules::Action::Allow,
        priority: u16::MAX,
        protocol,
        family: None,
        ports,
        icmp: None,
        remote: Remote::Any,
        log: false,
        counter: 0,
    }
}
