//! Small numbers for what this host knows: ports, VPCs, subnets, route tables, tunnel end points, rules.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Add;

/// Gives out numbers: new ones first come first, then those given back, longest ago first, so that whatever still names one for a
/// moment does not mean another.
#[derive(Debug)]
pub(crate) struct Indices<N> {
    limit: N,
    /// Below this all were given out at some time.
    fresh: N,
    free: VecDeque<N>,
}

/// Numbers stay close together until so many wait to be used again.
const RESTING: usize = 16;

impl<N: Copy + PartialEq + From<u8> + Add<Output = N>> Indices<N> {
    /// Numbers below `limit`.
    pub(crate) fn new(limit: N) -> Self {
        Self { limit, fresh: N::from(0), free: VecDeque::new() }
    }

    pub(crate) fn take(&mut self) -> Option<N> {
        if self.fresh == self.limit || self.free.len() >= RESTING {
            return self.free.pop_front();
        }
        let number = self.fresh;
        self.fresh = number + N::from(1);
        Some(number)
    }

    pub(crate) fn give_back(&mut self, index: N) {
        self.free.push_back(index);
    }
}

/// Things of one kind, each with its number and its plan.
#[derive(Debug)]
pub(crate) struct Numbered<K, P> {
    indices: Indices<u16>,
    entries: BTreeMap<K, (u16, Option<P>)>,
    keys: BTreeMap<u16, K>,
    /// Numbers, and what was last said of them, of things that are let go of.
    leaving: Vec<(u16, Option<P>)>,
}

impl<K: Ord + Clone, P: PartialEq + Clone> Numbered<K, P> {
    pub(crate) fn new(limit: u16) -> Self {
        Self {
            indices: Indices::new(limit),
            entries: BTreeMap::new(),
            keys: BTreeMap::new(),
            leaving: Vec::new(),
        }
    }

    /// The number of a thing, if it has one.
    pub(crate) fn number(&self, key: &K) -> Option<u16> {
        self.entries.get(key).map(|(number, _)| *number)
    }

    /// The thing of a number.
    pub(crate) fn key(&self, number: u16) -> Option<&K> {
        self.keys.get(&number)
    }

    /// What was last said of a thing.
    pub(crate) fn plan(&self, key: &K) -> Option<(u16, &P)> {
        self.entries.get(key).and_then(|(number, plan)| Some((*number, plan.as_ref()?)))
    }

    /// Gives a thing a number unless it has one. False when there is none left.
    pub(crate) fn claim(&mut self, key: &K) -> bool {
        if self.entries.contains_key(key) {
            return true;
        }
        let Some(number) = self.indices.take() else { return false };
        self.entries.insert(key.clone(), (number, None));
        self.keys.insert(number, key.clone());
        true
    }

    /// Says what a thing is from now on; its number, if that is news.
    pub(crate) fn set(&mut self, key: &K, plan: &P) -> Option<u16> {
        let (number, known) = self.entries.get_mut(key)?;
        if known.as_ref() == Some(plan) {
            return None;
        }
        *known = Some(plan.clone());
        Some(*number)
    }

    /// Lets go of all that `keep` does not want. Their numbers mean nothing from now on, and are given to nothing else until
    /// [`Numbered::removed`].
    pub(crate) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let (keys, leaving) = (&mut self.keys, &mut self.leaving);
        self.entries.retain(|key, (number, plan)| {
            let stays = keep(key);
            if !stays {
                keys.remove(number);
                leaving.push((*number, plan.take()));
            }
            stays
        });
    }

    /// The numbers of what was let go of.
    pub(crate) fn removed(&mut self) -> Vec<u16> {
        let removed: Vec<u16> = self.leaving.drain(..).map(|(number, _)| number).collect();
        removed.iter().for_each(|number| self.indices.give_back(*number));
        removed
    }

    /// Has something else said wherever `amend` says so, also of what is let go of; the numbers and what is said of them.
    pub(crate) fn amend(&mut self, amend: impl Fn(&P) -> Option<P>) -> Vec<(u16, P)> {
        let mut amended = Vec::new();
        let leaving = self.leaving.iter_mut().map(|(number, plan)| (*number, plan));
        for (number, plan) in self.entries.values_mut().map(|(number, plan)| (*number, plan)).chain(leaving) {
            if let Some(other) = plan.as_ref().and_then(&amend) {
                *plan = Some(other.clone());
                amended.push((number, other));
            }
        }
        amended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rest_before_they_are_used_again() {
        let mut indices = Indices::new(20u16);
        assert_eq!([indices.take(), indices.take(), indices.take()], [Some(0), Some(1), Some(2)]);
        indices.give_back(1);
        assert_eq!(indices.take(), Some(3));
        (0..20).for_each(|_| {
            let number = indices.take();
            indices.give_back(number.unwrap_or(0));
        });
        let mut given = std::iter::from_fn(|| indices.take()).collect::<Vec<_>>();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 17, "all but the three that are in use");
        assert_eq!(indices.take(), None);
    }

    #[test]
    fn a_thing_keeps_its_number_as_long_as_it_is_wanted() {
        let mut numbered: Numbered<&str, u8> = Numbered::new(2);
        assert!(numbered.claim(&"a") && numbered.claim(&"b") && !numbered.claim(&"c"));
        assert_eq!(
            (numbered.set(&"a", &1), numbered.set(&"a", &1), numbered.set(&"a", &2)),
            (Some(0), None, Some(0))
        );
        assert_eq!(
            (numbered.plan(&"a"), numbered.plan(&"b"), numbered.key(1)),
            (Some((0, &2)), None, Some(&"b"))
        );
        numbered.retain(|key| *key != "a");
        assert!(numbered.number(&"a").is_none() && !numbered.claim(&"c"), "its number rests");
        assert_eq!(numbered.amend(|plan| (*plan == 2).then_some(9)), [(0, 9)]);
        assert_eq!((numbered.removed(), numbered.removed()), (vec![0], vec![]));
        assert!(numbered.claim(&"c"));
        assert_eq!((numbered.number(&"c"), numbered.number(&"a")), (Some(0), None));
    }
}
