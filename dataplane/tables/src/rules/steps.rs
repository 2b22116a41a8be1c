//! Which rule decides for each number of `key.rs`, where the remote address is settled: a function with steps.

use std::collections::BinaryHeap;

use super::key::{LAST, Span};
use super::rank::Rank;

/// From `first` on, up to the next step's, it is `rank`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) first: u32,
    pub(super) rank: Rank,
}

/// Steps in order, of which the first begins at 0 and no two neighbours say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Steps(Vec<Step>);

/// No rule for any number.
pub(super) const EMPTY: &[Step] = &[Step { first: 0, rank: Rank::NONE }];

impl Default for Steps {
    fn default() -> Self {
        Self(EMPTY.to_vec())
    }
}

impl Steps {
    /// The least rank, for each number, of these spans that contain it, in time of n log n. `spans` are given in any order and left in another.
    pub(super) fn of(spans: &mut [(Span, Rank)]) -> Self {
        if let [(span, rank)] = spans {
            return Self::of_one(*span, *rank);
        }
        spans.sort_unstable_by_key(|(span, _)| span.first);
        let mut ends: Vec<u32> = spans.iter().map(|(span, _)| span.last + 1).collect();
        ends.sort_unstable();
        let (mut steps, mut open) = (Self(Vec::with_capacity(spans.len() * 2 + 1)), BinaryHeap::new());
        let (mut spans, mut ends) = (spans.iter().peekable(), ends.into_iter().peekable());
        steps.push(0, Rank::NONE);
        loop {
            let (begin, end) = (spans.peek().map(|(span, _)| span.first), ends.peek().copied());
            let Some(at) = begin.into_iter().chain(end).min() else { break };
            while let Some((span, rank)) = spans.next_if(|(span, _)| span.first == at) {
                open.push((std::cmp::Reverse(*rank), span.last));
            }
            while ends.next_if_eq(&at).is_some() {}
            while open.peek().is_some_and(|(_, last)| *last < at) {
                open.pop();
            }
            steps.push(at, open.peek().map_or(Rank::NONE, |(rank, _)| rank.0));
        }
        steps
    }

    fn of_one(span: Span, rank: Rank) -> Self {
        let mut steps = Self(Vec::with_capacity(3));
        steps.push(0, Rank::NONE);
        steps.push(span.first, rank);
        steps.push(span.last + 1, Rank::NONE);
        steps
    }

    /// The lesser of the two ranks for each number.
    pub(super) fn least(one: &[Step], other: &[Step]) -> Self {
        let mut steps = Self(Vec::with_capacity(one.len() + other.len()));
        let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
        let (mut one_rank, mut other_rank) = (Rank::NONE, Rank::NONE);
        loop {
            let at = match (one.peek(), other.peek()) {
                (Some(step), Some(also)) => step.first.min(also.first),
                (Some(step), None) | (None, Some(step)) => step.first,
                (None, None) => break,
            };
            while let Some(step) = one.next_if(|step| step.first == at) {
                one_rank = step.rank;
            }
            while let Some(step) = other.next_if(|step| step.first == at) {
                other_rank = step.rank;
            }
            steps.push(at, one_rank.min(other_rank));
        }
        steps
    }

    /// From `first`, which is not before any before, it is `rank`.
    fn push(&mut self, first: u32, rank: Rank) {
        if first > LAST {
            return;
        }
        if self.0.last().is_some_and(|step| step.first == first) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|step| step.rank != rank) {
            self.0.push(Step { first, rank });
        }
    }

    pub(super) fn as_slice(&self) -> &[Step] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(steps: &Steps, key: u32) -> Rank {
        steps.0.iter().take_while(|step| step.first <= key).last().unwrap().rank
    }

    fn is_in_order(steps: &Steps) -> bool {
        steps.0.first().is_some_and(|step| step.first == 0)
            && steps.0.windows(2).all(|pair| pair[0].first < pair[1].first && pair[0].rank != pair[1].rank)
    }

    fn spans() -> impl Strategy<Value = Vec<(Span, Rank)>> {
        let edge = prop_oneof![0u32..40, LAST - 3..=LAST];
        let span = (edge.clone(), edge, 0u64..9).prop_map(|(one, other, rank)| {
            (Span { first: one.min(other), last: one.max(other) }, Rank::from_raw(rank))
        });
        proptest::collection::vec(span, 0..12)
    }

    proptest! {
        #[test]
        fn steps_are_the_least_of_the_spans_that_contain_a_number(one in spans(), other in spans()) {
            let least = |spans: &[(Span, Rank)], key| {
                spans.iter().filter(|(span, _)| (span.first..=span.last).contains(&key)).map(|(_, rank)| *rank).min().unwrap_or(Rank::NONE)
            };
            let (first, second) = (Steps::of(&mut one.clone()), Steps::of(&mut other.clone()));
            let both = Steps::least(first.as_slice(), second.as_slice());
            prop_assert!([&first, &second, &both].into_iter().all(is_in_order));
            for key in (0..42).chain(LAST - 5..=LAST) {
                prop_assert_eq!(at(&first, key), least(&one, key));
                prop_assert_eq!(at(&both, key), least(&one, key).min(least(&other, key)));
            }
        }
    }
}
