//! Which rules each port of this host is under: one immutable snapshot, published whole, so that every packet sees all of the old rules or all of the new.

use crate::rules::{Candidate, Policy};
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

/// Entries that are copied together when one changes.
const PIECE: usize = 128;

/// A list in pieces, which copies share until they change them: a change costs a piece, however long the list is.
#[derive(Clone, Debug)]
struct Pieces<T>(Vec<Arc<Vec<T>>>);

impl<T> Default for Pieces<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + Default> Pieces<T> {
    #[inline]
    fn get(&self, at: u16) -> Option<&T> {
        self.0.get(usize::from(at) / PIECE)?.get(usize::from(at) % PIECE)
    }

    fn get_mut(&mut self, at: u16) -> Option<&mut T> {
        let piece = usize::from(at) / PIECE;
        if self.0.len() <= piece {
            self.0.resize_with(piece + 1, || Arc::new(vec![T::default(); PIECE]));
        }
        Arc::make_mut(self.0.get_mut(piece)?).get_mut(usize::from(at) % PIECE)
    }
}

/// The rules of a policy, and those that might replace them.
#[derive(Clone, Debug, Default)]
struct Rules {
    live: Option<Arc<Policy>>,
    candidate: Option<Arc<Candidate>>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    policies: Pieces<Rules>,
    ports: Pieces<Filter>,
    filtered: usize,
}

impl Filters {
    /// What applies to the port of that index.
    #[inline]
    pub fn port(&self, index: u16) -> Filter {
        self.ports.get(index).copied().unwrap_or_default()
    }

    /// Whether rules apply to any port.
    #[inline]
    pub fn any(&self) -> bool {
        self.filtered > 0
    }

    /// The compiled rules of that number.
    #[inline]
    pub fn policy(&self, number: u16) -> Option<&Policy> {
        self.policies.get(number)?.live.as_deref()
    }

    /// The rules that are compared with those of that number.
    #[inline]
    pub fn candidate(&self, number: u16) -> Option<&Candidate> {
        self.policies.get(number)?.candidate.as_deref()
    }

    /// The compiled rules of that number, to be kept.
    pub fn shared_policy(&self, number: u16) -> Option<Arc<Policy>> {
        self.policies.get(number)?.live.clone()
    }

    /// Says what applies to a port.
    pub fn set_port(&mut self, index: u16, filter: Filter) {
        if let Some(slot) = self.ports.get_mut(index) {
            self.filtered -= usize::from(matches!(slot, Filter::Rules { .. }));
            self.filtered += usize::from(matches!(filter, Filter::Rules { .. }));
            *slot = filter;
        }
    }

    /// Puts compiled rules at a number, or takes them away: ports that are still under them are closed.
    pub fn set_policy(&mut self, number: u16, policy: Option<Arc<Policy>>) {
        if let Some(slot) = self.policies.get_mut(number) {
            slot.live = policy;
        }
    }

    /// Says which rules those of a number are compared with, if with any.
    pub fn set_candidate(&mut self, number: u16, candidate: Option<Arc<Candidate>>) {
        if let Some(slot) = self.policies.get_mut(number) {
            slot.candidate = candidate;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_what_they_had_and_share_the_rest() {
        let mut filters = Filters::default();
        assert_eq!((filters.port(3), filters.any()), (Filter::Closed, false));
        let rules = Filter::Rules { policy: 40_000, vpc: 1 };
        for port in [3, 4, 32_767] {
            filters.set_port(port, rules);
        }
        let policy = Arc::new(Policy::compile([], true).unwrap());
        filters.set_policy(40_000, Some(policy.clone()));
        let before = filters.clone();
        filters.set_port(3, Filter::Unfiltered);
        filters.set_policy(40_000, None);
        filters.set_candidate(
            40_000,
            Some(Arc::new(Candidate { policy: (*policy).clone(), totals: [7].into() })),
        );
        assert_eq!([3, 4, 5].map(|port| before.port(port)), [rules, rules, Filter::Closed]);
        assert!(before.policy(40_000).is_some() && before.candidate(40_000).is_none());
        assert_eq!([3, 4, 32_767].map(|port| filters.port(port)), [Filter::Unfiltered, rules, rules]);
        assert!(filters.policy(40_000).is_none() && filters.candidate(40_000).is_some());
        let pieces = before.ports.0.iter().zip(&filters.ports.0);
        assert_eq!(pieces.filter(|(before, after)| !Arc::ptr_eq(before, after)).count(), 1);
        for port in [3, 4, 32_767] {
            filters.set_port(port, Filter::Closed);
        }
        assert!(!filters.any() && before.any());
    }
}
