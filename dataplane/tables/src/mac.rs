//! Who has a MAC address of a subnet, or among the local ports of a VPC.

use std::time::Duration;

use packet::MacAddr;

use crate::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::atomic::{AtomicU32, AtomicU64};
use crate::hash::Hash;
use crate::line::Line;
use crate::table::{TableReader, Writer};

/// Words that writer and readers of a MAC table share: keys are (space, MAC address), values [`Location::pack`](crate::Location::pack).
///
/// A space is a subnet (below 2^14: who may be reached inside it, here and elsewhere) or `0x8000 | VPC` (the VPC's ports on this host: whom
/// the underlay may reach).
pub struct MacTable;

impl MacTable {
    /// What a look-up gives for a key that has no value. No value is this.
    pub const ABSENT: u32 = u32::MAX;

    /// The key of a MAC address in a space. Key 0, nobody's MAC address in space 0, is never in a table.
    #[inline(always)]
    #[must_use]
    pub const fn key(space: u16, mac: MacAddr) -> u64 {
        (space as u64) << 48 | mac.to_u64()
    }
}

const SLOTS: usize = 5;
/// The marker of an empty slot.
const EMPTY: u64 = 0;

/// Five keys, which are their own markers, and their values.
#[repr(C, align(64))]
#[derive(Default)]
pub(crate) struct MacLine {
    control: AtomicU32,
    values: [AtomicU32; SLOTS],
    keys: [AtomicU64; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<MacLine>() == 64);

impl Line for MacLine {
    type Key = u64;
    type Value = u32;
    const SLOTS: usize = SLOTS;
    const FULL: (usize, usize) = (7, 2);
    const DEPTH: usize = 5;

    #[inline(always)]
    fn control(&self) -> &AtomicU32 {
        &self.control
    }

    #[inline(always)]
    fn look(&self, key: u64) -> Option<u32> {
        let mut found = SLOTS;
        // All five, without a branch: which slot it is cannot be predicted.
        for (slot, stored) in self.keys.iter().enumerate() {
            if stored.load(Acquire) == key {
                found = slot;
            }
        }
        match self.values.get(found) {
            Some(value) if key != EMPTY => Some(value.load(Relaxed)),
            _ => None,
        }
    }

    fn key(&self, slot: usize) -> Option<u64> {
        self.keys.get(slot).map(|key| key.load(Relaxed)).filter(|key| *key != EMPTY)
    }

    fn value(&self, slot: usize) -> Option<u32> {
        self.values.get(slot).map(|value| value.load(Relaxed))
    }

    fn write(&self, slot: usize, key: u64, value: u32) {
        if let (Some(to), Some(marker)) = (self.values.get(slot), self.keys.get(slot)) {
            to.store(value, Relaxed);
            marker.store(key, Release);
        }
    }

    fn set_value(&self, slot: usize, value: u32) {
        if let Some(to) = self.values.get(slot) {
            to.store(value, Release);
        }
    }

    fn clear(&self, slot: usize) {
        if let Some(marker) = self.keys.get(slot) {
            marker.store(EMPTY, Release);
        }
    }

    #[inline(always)]
    fn hash(key: u64, hash: &Hash) -> u32 {
        hash.of_one(key)
    }
}

/// The writer's half, for one control thread.
pub struct MacWriter(Writer<MacLine>);

impl MacWriter {
    /// An empty table. `secret` keys its hash: random, and not for guests to know.
    #[must_use]
    pub fn new(secret: [u64; 2]) -> Self {
        Self(Writer::new(secret))
    }

    /// A reader's half, for one worker.
    #[must_use]
    pub fn reader(&self) -> MacReader {
        MacReader(self.0.reader())
    }

    /// From now on `key` has `value`; returns what it had. Readers see one or the other at any moment.
    ///
    /// Key 0 and the value [`MacTable::ABSENT`] mean that there is nothing: with either, nothing is changed.
    pub fn insert(&mut self, key: u64, value: u32) -> Option<u32> {
        debug_assert!(key != EMPTY && value != MacTable::ABSENT, "not an entry: {key:#x} -> {value}");
        if key == EMPTY || value == MacTable::ABSENT {
            return None;
        }
        self.0.insert(key, value)
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<u32> {
        self.0.get(key)
    }

    /// From now on `key` has no value; returns what it had.
    pub fn remove(&mut self, key: u64) -> Option<u32> {
        self.0.remove(key)
    }

    /// Keys in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No key is in the table.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for this many more keys at once, where insertions would by and by.
    pub fn reserve(&mut self, additional: usize) {
        self.0.reserve(additional);
    }

    /// Asks for the line that a change of `key` will write: before some changes in a row.
    #[inline]
    pub fn prefetch(&self, key: u64) {
        self.0.prefetch(key);
    }

    /// Bytes that readers of the present table look at. An outgrown one comes on top until they left it.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }

    /// Frees outgrown tables that no reader looks at any more; returns how many are still looked at.
    pub fn reclaim(&mut self) -> usize {
        self.0.reclaim()
    }

    /// Waits until no reader that is on line looks at an outgrown table; false after `limit`. A removed key may be seen by
    /// a reader that is between two bursts until then.
    pub fn synchronize(&mut self, limit: Duration) -> bool {
        self.0.synchronize(limit)
    }
}

/// A reader's half, for one worker.
#[derive(Clone)]
pub struct MacReader(TableReader<MacLine>);

impl MacReader {
    /// Takes up a table that has grown. Once per burst: one load when it has not.
    #[inline(always)]
    pub fn refresh(&mut self) -> bool {
        self.0.refresh()
    }

    /// Whether no replaced table is left to be taken up.
    pub fn is_current(&self) -> bool {
        self.0.is_current()
    }

    /// Says that this reader looks at nothing until it refreshes again.
    pub fn off_line(&mut self) {
        self.0.off_line();
    }

    /// The value of one key. For many use [`MacReader::lookup_batch`].
    #[inline]
    #[must_use]
    pub fn lookup(&self, key: u64) -> Option<u32> {
        self.0.lookup(key)
    }

    /// Writes the value of each key, or [`MacTable::ABSENT`], to the same position of `out`; positions that only one of
    /// them has are left alone. Returns how many cache lines were read: at most two per key, none
    /// for a key equal to the one before it.
    #[inline]
    pub fn lookup_batch(&self, keys: &[u64], out: &mut [u32]) -> usize {
        self.0.lookup_batch(keys, |position, value| {
            if let Some(out) = out.get_mut(position) {
                *out = value.unwrap_or(MacTable::ABSENT);
            }
        })
    }
}
