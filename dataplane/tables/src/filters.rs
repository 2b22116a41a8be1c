//! Which rules each port of this host is under: one immutable snapshot, published whole, so that every packet sees all of the old rules or all of the new.

use crate::rules::Policy;
use std::sync::Arc;

/// What applies to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// Nobody has said yet: nothing passes.
    #[default]
    Closed,
    /// Everything passes, and there are no sessions.
    Unfiltered,
    /// Its rules.
    Rules {
        /// Their number; see [`Filters::policy`].
        policy: u16,
        /// The number of the port's VPC, in which addresses have their groups.
        vpc: u16,
    },
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    policies: Vec<Option<Arc<Policy>>>,
    ports: Vec<Filter>,
    filtered: usize,
}

impl Filters {
    /// What applies to the port of that index.
    #[inline]
    pub fn port(&self, index: u16) -> Filter {
        self.ports.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// Whether rules apply to any port.
    #[inline]
    pub fn any(&self) -> bool {
        self.filtered > 0
    }

    /// The compiled rules of that number.
    #[inline]
    pub fn policy(&self, number: u16) -> Option<&Policy> {
        self.policies.get(usize::from(number))?.as_deref()
    }

    /// The same, to be kept.
    pub fn shared_policy(&self, number: u16) -> Option<Arc<Policy>> {
        self.policies.get(usize::from(number))?.clone()
    }

    /// Says what applies to a port.
    pub fn set_port(&mut self, index: u16, filter: Filter) {
        let at = usize::from(index);
        if self.ports.len() <= at {
            self.ports.resize(at + 1, Filter::Closed);
        }
        if let Some(slot) = self.ports.get_mut(at) {
            self.filtered -= usize::from(matches!(slot, Filter::Rules { .. }));
            self.filtered += usize::from(matches!(filter, Filter::Rules { .. }));
            *slot = filter;
        }
    }

    /// Puts compiled rules at a number, or takes them away: ports that are still under them are closed.
    pub fn set_policy(&mut self, number: u16, policy: Option<Arc<Policy>>) {
        let at = usize::from(number);
        if self.policies.len() <= at {
            self.policies.resize(at + 1, None);
        }
        if let Some(slot) = self.policies.get_mut(at) {
            *slot = policy;
        }
    }

    /// The ports under the rules of that number.
    pub fn ports_under(&self, number: u16) -> impl Iterator<Item = u16> + '_ {
        (0..).zip(&self.ports).filter_map(move |(index, filter)| match filter {
            Filter::Rules { policy, .. } if *policy == number => Some(index),
            _ => None,
        })
    }
}
