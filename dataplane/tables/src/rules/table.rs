//! What readers look at: flat arrays.

use std::net::IpAddr;

use super::policy::Policy;
use super::rank::Rank;
use super::rule::PolicyError;
use super::steps::{EMPTY, Step};
use crate::prefixes::Prefixes;

/// First numbers of steps that are compared at once, without a branch.
const LOOK: usize = 8;
/// Words of a full leaf: first numbers, and ranks.
const LEAF: usize = 3 * LOOK;
/// Above all first numbers.
const NEVER: u32 = i32::MAX as u32;
/// Bits of a handle that say how many levels there are above the leaves.
const LEVEL_BITS: u32 = 3;
/// Words of each level from the top: a look at one says which of the next's to look at, one more than it compares.
const WIDTHS: [usize; 6] = {
    let mut widths = [LOOK; 6];
    let mut level = 1;
    while level < widths.len() {
        widths[level] = LOOK * (widths[level - 1] + 1);
        level += 1;
    }
    widths
};

/// Steps, one function after another, each as a tree of looks. A leaf has eight first numbers and up to as many ranks; a level
/// above has the first numbers of the leaves, or of the looks of the level below, but the first. So up to 8 steps are found by one look, 72 by two, 584 by three.
#[derive(Clone, Debug)]
pub(super) struct Arena(Box<[u32]>);

/// How many of eight first numbers are at most `key`.
#[inline(always)]
fn passed(words: &[u32; LOOK], key: u32) -> usize {
    let mut passed = 0;
    for first in words {
        passed += u32::from(*first as i32 <= key as i32);
    }
    passed as usize
}

impl Arena {
    /// The rank that the function with this handle gives for `key`.
    #[inline(always)]
    pub(super) fn find(&self, handle: u32, key: u32) -> Rank {
        let at = (handle >> LEVEL_BITS) as usize;
        let levels = handle & ((1 << LEVEL_BITS) - 1);
        let leaf = if levels == 0 { Some(at) } else { self.leaf(at, levels as usize, key) };
        leaf.and_then(|leaf| self.rank(leaf, key)).unwrap_or(Rank::NONE)
    }

    /// The leaf for `key`.
    #[inline(always)]
    fn leaf(&self, mut at: usize, levels: usize, key: u32) -> Option<usize> {
        let mut look = 0;
        for width in WIDTHS.iter().take(levels) {
            look = look * LOOK + passed(self.0.get(at + look * LOOK..)?.first_chunk()?, key);
            at += width;
        }
        Some(at + look * LEAF)
    }

    #[inline(always)]
    fn rank(&self, leaf: usize, key: u32) -> Option<Rank> {
        let words = self.0.get(leaf..)?;
        // The first of them is at most `key`: it is the first of all, 0, or the level above said so.
        let step = passed(words.first_chunk()?, key).checked_sub(1)?;
        let [high, low] = words.get(LOOK + 2 * step..)?.first_chunk::<2>()?;
        Some(Rank::from_halves(*high, *low))
    }

    /// Asks for what [`Arena::find`] reads first.
    #[inline(always)]
    pub(super) fn prefetch(&self, handle: u32) {
        let at = (handle >> LEVEL_BITS) as usize;
        if let (Some(first), Some(second)) = (self.0.get(at), self.0.get(at + cpu::CACHE_LINE / 4)) {
            cpu::prefetch_read(first);
            cpu::prefetch_read(second);
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

    /// The handle that these steps have from now on.
    ///
    /// # Errors
    ///
    /// [`Policy::MAX_BYTES`].
    pub(super) fn steps(&mut self, steps: &[Step]) -> Result<u32, PolicyError> {
        if steps == EMPTY {
            return Ok(0);
        }
        let handle = self.push(steps);
        let bytes = size_of_val(self.0.as_slice());
        if bytes > Policy::MAX_BYTES {
            return Err(PolicyError::TooLarge { bytes, bound: Policy::MAX_BYTES });
        }
        Ok(handle)
    }

    fn push(&mut self, steps: &[Step]) -> u32 {
        // From the lowest level to the top.
        let mut levels: Vec<Vec<u32>> = Vec::new();
        let mut firsts: Vec<u32> = if steps.len() > LOOK {
            steps.iter().step_by(LOOK).skip(1).map(|step| step.first).collect()
        } else {
            Vec::new()
        };
        while !firsts.is_empty() {
            let above = if firsts.len() > LOOK {
                firsts.iter().step_by(LOOK).skip(1).copied().collect()
            } else {
                Vec::new()
            };
            levels.push(std::mem::replace(&mut firsts, above));
        }
        let handle = (self.0.len() as u32) << LEVEL_BITS | levels.len() as u32;
        for (level, width) in levels.iter().rev().zip(WIDTHS) {
            self.0.extend(level);
            self.0.extend(std::iter::repeat_n(NEVER, width - level.len()));
        }
        for leaf in steps.chunks(LOOK) {
            self.0.extend(leaf.iter().map(|step| step.first));
            self.0.extend(std::iter::repeat_n(NEVER, LOOK - leaf.len()));
            self.0.extend(leaf.iter().flat_map(|step| step.rank.halves()));
        }
        handle
    }

    pub(super) fn finish(self) -> Arena {
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
