//! The order of rules, as one number per rule.

use super::rule::{Action, Judgement, Rule};

/// Where a rule stands among all others, and what it says: priority, deny before allow, counter, then log. The least of the ranks
/// that match a packet decides about it. It depends on nothing but the rule, so that a rule that comes or goes changes no other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

const LOG: u64 = 1;
const COUNTER_SHIFT: u32 = 1;
const ALLOW: u64 = 1 << 33;
const PRIORITY_SHIFT: u32 = 34;

impl Rank {
    /// No rule: after all of them.
    pub(super) const NONE: Self = Self(u64::MAX);

    pub(super) fn of(rule: &Rule) -> Self {
        let allow = match rule.action {
            Action::Deny => 0,
            Action::Allow => ALLOW,
        };
        Self(
            u64::from(rule.priority) << PRIORITY_SHIFT
                | allow
                | u64::from(rule.counter) << COUNTER_SHIFT
                | u64::from(rule.log),
        )
    }

    /// What it says; `open` if no rule did.
    #[inline(always)]
    pub(super) fn judgement(self, open: bool) -> Judgement {
        if self == Self::NONE {
            return Judgement { allowed: open, rule: None, log: false };
        }
        let counter = (self.0 >> COUNTER_SHIFT) as u32;
        Judgement { allowed: self.0 & ALLOW != 0, rule: Some(counter), log: self.0 & LOG != 0 }
    }
}
