//! What an entry says: a few groups, or the number of a list of them.

use std::collections::HashMap;
use std::sync::Arc;

use packet::MacAddr;

use crate::location::{Endpoint, Location};

/// Groups that an entry itself has room for.
pub const INLINE: usize = 3;

/// The groups of one prefix. In the table it is an [`Endpoint`], which is 80 bits that readers see whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// So many, and which.
    Inline(usize, [u16; INLINE]),
    /// More: a list.
    List(u32),
}

impl Entry {
    /// An entry with these groups in itself; `None` if they are too many.
    pub(super) fn inline(groups: &[u16]) -> Option<Self> {
        let mut all = [0; INLINE];
        all.get_mut(..groups.len())?.copy_from_slice(groups);
        Some(Self::Inline(groups.len(), all))
    }

    pub(super) fn pack(self) -> Endpoint {
        let (kind, word) = match self {
            Self::Inline(count, [a, b, c]) => {
                (count as u16, u64::from(a) << 32 | u64::from(b) << 16 | u64::from(c))
            }
            Self::List(list) => (0, list.into()),
        };
        Endpoint { mac: MacAddr::from_u64(word), subnet: 0, location: Location::Local(kind) }
    }

    #[inline(always)]
    pub(super) fn unpack(endpoint: Endpoint) -> Option<Self> {
        let word = endpoint.mac.to_u64();
        match endpoint.location {
            Location::Local(0) => Some(Self::List(word as u32)),
            Location::Local(count) => {
                Some(Self::Inline(count.into(), [(word >> 32) as u16, (word >> 16) as u16, word as u16]))
            }
            Location::Remote(_) | Location::Directory(_) => None,
        }
    }

    /// Adds its groups; false if its list is not there.
    #[inline(always)]
    pub(super) fn groups(self, lists: &Lists, to: &mut Vec<u16>) -> bool {
        match self {
            Self::Inline(count, groups) => {
                to.extend(groups.iter().take(count));
                true
            }
            Self::List(list) => lists.get(list).map(|groups| to.extend_from_slice(groups)).is_some(),
        }
    }
}

/// Lists of groups by their numbers, which are never used again, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists(Vec<(u32, Arc<[u16]>)>);

impl Lists {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[inline]
    fn get(&self, number: u32) -> Option<&[u16]> {
        let at = self.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.0.get(at).map(|(_, groups)| &**groups)
    }
}

/// How many entries have each list: the writer's part.
#[derive(Debug, Default)]
pub(super) struct ListCounts {
    next: u32,
    by_groups: HashMap<Arc<[u16]>, (u32, u32)>,
}

impl ListCounts {
    /// One more entry has these groups, in order. Returns their list's number and, if it is new, what readers shall see.
    pub(super) fn add(&mut self, groups: &[u16], seen: &Lists) -> (u32, Option<Lists>) {
        if let Some((number, entries)) = self.by_groups.get_mut(groups) {
            *entries += 1;
            return (*number, None);
        }
        let (number, groups) = (self.next, Arc::<[u16]>::from(groups));
        self.next += 1;
        self.by_groups.insert(groups.clone(), (number, 1));
        let mut changed = seen.clone();
        changed.0.push((number, groups));
        (number, Some(changed))
    }

    /// One entry fewer has this list. Perhaps it was the last.
    pub(super) fn remove(&mut self, number: u32, seen: &Lists) -> Option<Lists> {
        let at = seen.0.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        let (_, groups) = seen.0.get(at)?;
        let (_, entries) = self.by_groups.get_mut(groups)?;
        *entries -= 1;
        if *entries > 0 {
            return None;
        }
        self.by_groups.remove(groups);
        let mut changed = seen.clone();
        changed.0.remove(at);
        Some(changed)
    }
}
