//! A cache line of a table: how it is read while its writer changes it.
//!
//! # The protocol
//!
//! Each slot has a *marker*, one atomic word that is empty or says (at least part of) the key. The line has one control word:
//! in its upper 24 bits a version, in its lower 8 how many keys that belong here live in their second line.
//!
//! * Filling a slot: raise the version; write value and key; write the marker (release) last.
//! * Clearing a slot: empty the marker. What it said stays readable.
//! * A new value for a key: one store into its slot, or what `endpoint_line.rs` tells where a value is more than a word.
//! * A reader loads the version, looks for its key's marker (acquire), loads the value, and loads the version again. If it
//!   did not change, no slot was filled meanwhile, so the value belongs to the key, or did until just now.
//!
//! At any moment, wherever the writer was interrupted, all other entries of the line can be read: nothing is ever "being
//! written", and a reader repeats its look only if the writer filled a slot in between. Thus readers never wait for the writer.
//!
//! A key that moves to its second line is copied there, then counted in the first one's control word, then cleared in the first; so a
//! reader that goes from the first to the second cannot miss it on the way. A key that comes back is copied into the first line, the
//! first one's version is raised once more, and only then is the key cleared in the second; so a reader that finds it in neither
//! sees that the first one's version is not what it was, and looks again.
//!
//! In terms of the memory model: the version's store before a fill is a release, so that a reader that sees it also sees the
//! clearing before it; the fence after it orders it before the new contents, and the reader's fence orders its second load of
//! the version behind its loads of the contents. A reader that saw any part of the new contents therefore sees the new version.

use crate::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::atomic::{AtomicU32, fence};

/// One in the version's place.
const VERSION: u32 = 0x100;
/// The count of keys that live elsewhere; at its maximum it stays there.
const ELSEWHERE: u32 = 0xff;
/// How often a reader looks again before it takes the key for absent. Each time the writer has filled a slot in between.
pub(crate) const ATTEMPTS: usize = 16;

/// What one look at a line shows.
pub(crate) struct Look<V> {
    /// The value of the key looked for.
    pub(crate) value: Option<V>,
    control: u32,
}

impl<V> Look<V> {
    /// Whether keys that belong here live elsewhere.
    #[inline(always)]
    pub(crate) fn elsewhere(&self) -> bool {
        self.control & ELSEWHERE != 0
    }
}

/// The slots of one line. Only the writer calls what changes them, and it alone.
pub(crate) trait Line: Default + Send + Sync {
    /// What is looked for.
    type Key: Copy + Eq;
    /// What is found.
    type Value: Copy + Eq;
    /// Slots in a line.
    const SLOTS: usize;
    /// Entries per line above which a table grows, as a fraction.
    const FULL: (usize, usize);
    /// How many keys may move, one after another, to make room for one. Up to `SLOTS` to this power of lines are looked at.
    const DEPTH: usize;

    /// The control word.
    fn control(&self) -> &AtomicU32;
    /// The value of `key`, as far as one look shows.
    fn look(&self, key: Self::Key) -> Option<Self::Value>;
    /// The key in a slot.
    fn key(&self, slot: usize) -> Option<Self::Key>;
    /// The value in a slot.
    fn value(&self, slot: usize) -> Option<Self::Value>;
    /// Writes value, key and, last and with release, the marker.
    fn write(&self, slot: usize, key: Self::Key, value: Self::Value);
    /// Replaces the value: readers find the old one or the new one.
    fn set_value(&self, slot: usize, value: Self::Value);
    /// Empties the marker with release.
    fn clear(&self, slot: usize);
    /// A hash function applied to a key.
    fn hash(key: Self::Key, hash: &crate::hash::Hash) -> u32;

    /// One look for `key`; nothing if a slot was filled meanwhile.
    #[inline(always)]
    fn try_find(&self, key: Self::Key) -> Option<Look<Self::Value>> {
        let before = self.control().load(Acquire);
        let value = self.look(key);
        fence(Acquire);
        let control = self.control().load(Relaxed);
        ((before ^ control) & !ELSEWHERE == 0).then_some(Look { value, control })
    }

    /// No slot was filled since that look.
    fn is_unchanged(&self, look: &Look<Self::Value>) -> bool {
        fence(Acquire);
        (self.control().load(Relaxed) ^ look.control) & !ELSEWHERE == 0
    }

    /// The value of `key` in this line.
    #[cfg(all(test, loom))]
    fn find(&self, key: Self::Key) -> Option<Self::Value> {
        (0..ATTEMPTS).find_map(|_| self.try_find(key))?.value
    }

    /// Says, before a slot is written, that it will be.
    fn raise_version(&self) {
        let control = self.control().load(Relaxed);
        self.control().store(control.wrapping_add(VERSION), Release);
        fence(Release);
    }

    /// Puts a key into an empty slot.
    fn fill(&self, slot: usize, key: Self::Key, value: Self::Value) {
        self.raise_version();
        self.write(slot, key, value);
    }

    /// The slot of a key.
    fn slot_of(&self, key: Self::Key) -> Option<usize> {
        (0..Self::SLOTS).find(|slot| self.key(*slot) == Some(key))
    }

    /// A slot without a key.
    fn empty_slot(&self) -> Option<usize> {
        (0..Self::SLOTS).find(|slot| self.key(*slot).is_none())
    }

    /// Whether keys that belong here live elsewhere, as the writer knows.
    fn has_elsewhere(&self) -> bool {
        self.control().load(Relaxed) & ELSEWHERE != 0
    }

    /// One more key that belongs here lives elsewhere. Before it is cleared here.
    fn one_more_elsewhere(&self) {
        let control = self.control().load(Relaxed);
        if control & ELSEWHERE < ELSEWHERE {
            self.control().store(control + 1, Release);
        }
    }

    /// One fewer. After it was cleared there.
    fn one_fewer_elsewhere(&self) {
        let control = self.control().load(Relaxed);
        if (1..ELSEWHERE).contains(&(control & ELSEWHERE)) {
            self.control().store(control - 1, Release);
        }
    }
}
