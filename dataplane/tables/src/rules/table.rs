//! What readers look at: flat arrays.

use std::net::IpAddr;

use super::policy::Policy;
use super::rank::Rank;
use super::rule::PolicyError;
use super::steps::{EMPTY, Step};
use crate::prefixes::Prefixes;

/// First keys that are compared without a branch.
const LOOK: usize = 8;

/// Steps, one function after another. A function is: the number of its steps; the first numbers of all but the first step; the ranks.
#[derive(Clone, Debug)]
pub(super) struct Arena(Box<[u32]>);

impl Arena {
    /// The rank that the function at `offset` gives for `key`.
    #[inline(always)]
    pub(super) fn find(&self, offset: u32, key: u32) -> Rank {
        self.try_find(offset as usize, key).unwrap_or(Rank::NONE)
    }

    #[inline(always)]
    fn try_find(&self, offset: usize, key: u32) -> Option<Rank> {
        let words = self.0.get(offset..)?;
        let (count, words) = words.split_first()?;
        let firsts = *count as usize - 1;
        let step = if firsts <= LOOK {
            // Beyond the first numbers are ranks, which do not count.
            let looked_at = words.first_chunk::<LOOK>()?;
            let mut passed = 0;
            for (at, first) in (0..).zip(looked_at) {
                passed += u32::from((at < firsts as u32) & (*first <= key));
            }
            passed as usize
        } else {
            words.get(..firsts)?.partition_point(|first| *first <= key)
        };
        let at = firsts + 2 * step;
        let [high, low] = words.get(at..)?.first_chunk::<2>()?;
        Some(Rank::from_halves(*high, *low))
    }

    /// Asks for what [`Arena::find`] reads first.
    #[inline(always)]
    pub(super) fn prefetch(&self, offset: u32) {
        if let Some(word) = self.0.get(offset as usize) {
            cpu::prefetch_read(word);
        }
        if let Some(word) = self.0.get(offset as usize + 16) {
            cpu::prefetch_read(word);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Makes an arena. Its first function is the empty one.
pub(super) struct Emitter(Vec<u32>);

impl Emitter {
    pub(super) fn new() -> Self {
        let mut emitter = Self(Vec::new());
        emitter.push(EMPTY);
        emitter
    }

    /// Where these steps are from now on.
    ///
    /// # Errors
    ///
    /// [`Policy::MAX_BYTES`].
    pub(super) fn steps(&mut self, steps: &[Step]) -> Result<u32, PolicyError> {
        let bytes = size_of_val(self.0.as_slice()) + steps.len() * size_of::<[u32; 3]>();
        if bytes > Policy::MAX_BYTES {
            return Err(PolicyError::TooLarge { bytes, bound: Policy::MAX_BYTES });
        }
        Ok(if steps == EMPTY { 0 } else { self.push(steps) })
    }

    fn push(&mut self, steps: &[Step]) -> u32 {
        let offset = self.0.len() as u32;
        self.0.push(steps.len() as u32);
        self.0.extend(steps.iter().skip(1).map(|step| step.first));
        self.0.extend(steps.iter().flat_map(|step| step.rank.halves()));
        offset
    }

    pub(super) fn finish(mut self) -> Arena {
        // For the look at the last function.
        self.0.extend([0; LOOK]);
        Arena(self.0.into())
    }
}

/// The rules of one direction and family.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// Those for any remote.
    pub(super) any: u32,
    /// Those for members of a group, in order of the groups.
    pub(super) groups: Box<[(u16, u32)]>,
    /// Those for prefixes: each table is looked through.
    pub(super) prefixes: Box<[Prefixes]>,
}

impl Table {
    #[inline]
    pub(super) fn judge(&self, arena: &Arena, remote: IpAddr, groups: &[u16], key: u32) -> Rank {
        let mut rank = arena.find(self.any, key);
        for prefixes in &self.prefixes {
            rank = rank.min(arena.find(prefixes.find(remote), key));
        }
        if !self.groups.is_empty() {
            rank = rank.min(self.judge_groups(arena, groups, key));
        }
        rank
    }

    #[inline]
    pub(super) fn judge_groups(&self, arena: &Arena, groups: &[u16], key: u32) -> Rank {
        let mut rank = Rank::NONE;
        for group in groups {
            if let Ok(at) = self.groups.binary_search_by_key(group, |(group, _)| *group)
                && let Some((_, offset)) = self.groups.get(at)
            {
                rank = rank.min(arena.find(*offset, key));
            }
        }
        rank
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.groups) + self.prefixes.iter().map(Prefixes::memory_bytes).sum::<usize>()
    }
}
