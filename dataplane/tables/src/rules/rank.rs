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

    /// Its upper and its lower half.
    pub(super) const fn halves(self) -> [u32; 2] {
        [(self.0 >> 32) as u32, self.0 as u32]
    }

    /// Of what [`Rank::halves`] gave.
    #[inline(always)]
    pub(super) const fn from_halves(high: u32, low: u32) -> Self {
        Self((high as u64) << 32 | low as u64)
    }

    #[cfg(test)]
    pub(super) const fn from_raw(raw: u64) -> Self {
        Self(raw)
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
