//! Where the halves are: buckets of one line, twelve entries each.
//!
//! Word 0: tags, a byte of the hash each, of entries 0 to 7. Word 1: below, tags of entries 8 to 11; above, a header: a lock, how many entries
//! that belong here are elsewhere, and how far. Words 2 to 7: entries, two in each: the number of a half plus one.
//!
//! An entry is in its own bucket or, if that was full, in one of [`DETOURS`] others that its hash names; it never moves. So a look-up reads one line
//! unless the bucket says that some of its entries are elsewhere, and never more than `1 + DETOURS`, whatever the keys.
//!
//! Readers take no lock: they see an entry only when its half is complete, and compare the half's key. Whoever adds or removes a key holds the lock of its own
//! bucket, so of two who add the same key one sees the other's. Entries and tags of a bucket may be claimed by others meanwhile (they come from
//! elsewhere), so they change by compare-and-swap.

use super::memory::{Line, Region, line};
use crate::atomic::{AtomicU64, Ordering, relax};
use Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Entries of a bucket.
pub(super) const ENTRIES: usize = 12;
/// Buckets in which an entry may be instead of its own.
const DETOURS: u32 = 7;

const LOCKED: u64 = 1 << 32;
const FARTHEST_SHIFT: u32 = 40;
const FARTHEST: u64 = 0xff << FARTHEST_SHIFT;
const AWAY: u64 = 1 << 48;
const LOW_TAGS: u64 = 0xffff_ffff;
const ONES: u64 = 0x0101_0101_0101_0101;

pub(super) struct Index {
    buckets: Region<Line>,
}

/// The locks of one or two buckets, until dropped.
pub(super) struct Locks<'a> {
    index: &'a Index,
    buckets: [u32; 2],
}

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        let [first, second] = self.buckets;
        self.index.header(first).fetch_and(!LOCKED, Release);
        if second != first {
            self.index.header(second).fetch_and(!LOCKED, Release);
        }
    }
}

/// Bytes of `word` that equal `tag`, as their highest bits; now and then one above such a byte that does not.
#[inline(always)]
fn matches(word: u64, tag: u8) -> u64 {
    let difference = word ^ (u64::from(tag) * ONES);
    difference.wrapping_sub(ONES) & !difference & (ONES << 7)
}

#[inline(always)]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

impl Index {
    /// Buckets for so many sessions: nine entries in each when all are in use.
    pub(super) fn buckets_for(sessions: u32) -> u32 {
        (sessions * 2).div_ceil(9) + 8
    }

    pub(super) fn new(buckets: Region<Line>) -> Self {
        Self { buckets }
    }

    #[inline(always)]
    fn own(&self, hash: u64) -> u32 {
        (((hash & 0xffff_ffff) * self.buckets.len() as u64) >> 32) as u32
    }

    /// The bucket `distance` detours away.
    #[inline(always)]
    fn detour(&self, hash: u64, distance: u32) -> u32 {
        if distance == 0 {
            return self.own(hash);
        }
        let count = self.buckets.len() as u64;
        let stride = 1 + ((((hash >> 32) & 0xff_ffff) * (count - 1)) >> 24);
        ((u64::from(self.own(hash)) + u64::from(distance) * stride) % count) as u32
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> &[AtomicU64; 8] {
        &line(&self.buckets, number as usize).0
    }

    #[inline(always)]
    fn header(&self, bucket: u32) -> &AtomicU64 {
        &self.bucket(bucket)[1]
    }

    /// The number of the own bucket, which is asked for.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) -> u32 {
        let own = self.own(hash);
        #[cfg(not(loom))]
        cpu::prefetch_read(self.bucket(own));
        own
    }

    /// The first entry in the own bucket with the right tag: a good guess.
    #[inline(always)]
    pub(super) fn guess(&self, own: u32, hash: u64) -> Option<u32> {
        let bucket = self.bucket(own);
        let low = matches(bucket[0].load(Acquire), tag(hash));
        let slot = if low != 0 {
            low.trailing_zeros() / 8
        } else {
            let high = matches(bucket[1].load(Acquire) & LOW_TAGS, tag(hash));
            if high == 0 {
                return None;
            }
            8 + high.trailing_zeros() / 8
        };
        entry(bucket, slot as usize)
    }

    /// The entry for which `wanted` holds, among those with the right tag.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let own = self.bucket(self.own(hash));
        if let Some(found) = find_in(own, tag(hash), &mut wanted) {
            return Some(found);
        }
        let farthest = own[1].load(Relaxed) >> FARTHEST_SHIFT & 0xff;
        (1..=farthest as u32)
            .find_map(|distance| find_in(self.bucket(self.detour(hash, distance)), tag(hash), &mut wanted))
    }

    /// Locks the own buckets of two keys.
    pub(super) fn lock(&self, hashes: [u64; 2]) -> Locks<'_> {
        let mut buckets = hashes.map(|hash| self.own(hash));
        buckets.sort_unstable();
        self.lock_one(buckets[0]);
        if buckets[1] != buckets[0] {
            self.lock_one(buckets[1]);
        }
        Locks { index: self, buckets }
    }

    fn lock_one(&self, bucket: u32) {
        let mut tries = 0;
        while self.header(bucket).fetch_or(LOCKED, Acquire) & LOCKED != 0 {
            relax(tries);
            tries += 1;
        }
    }

    /// Frees all locks: their holders are gone with the process before.
    pub(super) fn unlock_all(&self) {
        for bucket in self.buckets.iter() {
            bucket.0[1].fetch_and(!LOCKED, Relaxed);
        }
    }

    /// Adds an entry under the lock of its own bucket; false if there is no room.
    pub(super) fn insert(&self, hash: u64, value: u32) -> bool {
        for distance in 0..=DETOURS {
            if !claim(self.bucket(self.detour(hash, distance)), tag(hash), value) {
                continue;
            }
            if distance > 0 {
                let header = self.header(self.own(hash));
                header.fetch_add(AWAY, Relaxed);
                let farthest = header.load(Relaxed) & FARTHEST;
                let farther = (u64::from(distance) << FARTHEST_SHIFT).saturating_sub(farthest);
                header.fetch_add(farther, Release);
            }
            return true;
        }
        false
    }

    /// Removes an entry under the lock of its own bucket.
    pub(super) fn remove(&self, hash: u64, value: u32) {
        let header = self.header(self.own(hash));
        let farthest = (header.load(Relaxed) >> FARTHEST_SHIFT & 0xff) as u32;
        for distance in 0..=farthest {
            if !release(self.bucket(self.detour(hash, distance)), value) {
                continue;
            }
            if distance > 0 && header.fetch_sub(AWAY, Relaxed) >> 48 == 1 {
                header.fetch_and(!FARTHEST, Relaxed);
            }
            return;
        }
    }

    /// All entries, with what removes them.
    pub(super) fn retain(&self, keep: impl Fn(u32) -> bool) {
        for bucket in self.buckets.iter() {
            for slot in 0..ENTRIES {
                if entry(&bucket.0, slot).is_some_and(|value| !keep(value)) {
                    clear(&bucket.0, slot);
                }
            }
        }
    }
}

#[inline(always)]
fn entry(bucket: &[AtomicU64; 8], slot: usize) -> Option<u32> {
    let word = bucket[2 + slot / 2 % 6].load(Acquire);
    ((word >> (slot % 2 * 32)) as u32).checked_sub(1)
}

#[inline(always)]
fn find_in(bucket: &[AtomicU64; 8], tag: u8, wanted: &mut impl FnMut(u32) -> bool) -> Option<u32> {
    for (base, word) in [(0, bucket[0].load(Acquire)), (8, bucket[1].load(Acquire) & LOW_TAGS)] {
        let mut candidates = matches(word, tag);
        while candidates != 0 {
            let slot = base + (candidates.trailing_zeros() / 8) as usize;
            if let Some(found) = entry(bucket, slot).filter(|found| wanted(*found)) {
                return Some(found);
            }
            candidates &= candidates - 1;
        }
    }
    None
}

/// Takes a free entry of a bucket.
fn claim(bucket: &[AtomicU64; 8], tag: u8, value: u32) -> bool {
    for slot in 0..ENTRIES {
        let word = &bucket[2 + slot / 2];
        let shift = slot % 2 * 32;
        let mut present = word.load(Relaxed);
        while (present >> shift) as u32 == 0 {
            let wanted = present | (u64::from(value) + 1) << shift;
            match word.compare_exchange(present, wanted, AcqRel, Relaxed) {
                Ok(_) => {
                    bucket[slot / 8].fetch_add(u64::from(tag) << (slot % 8 * 8), Release);
                    return true;
                }
                Err(other) => present = other,
            }
        }
    }
    false
}

/// Frees the entry that has this value.
fn release(bucket: &[AtomicU64; 8], value: u32) -> bool {
    let slot = (0..ENTRIES).find(|slot| entry(bucket, *slot) == Some(value));
    slot.inspect(|slot| clear(bucket, *slot)).is_some()
}

fn clear(bucket: &[AtomicU64; 8], slot: usize) {
    bucket[slot / 8].fetch_and(!(0xff << (slot % 8 * 8)), AcqRel);
    bucket[2 + slot / 2].fetch_and(!(0xffff_ffff << (slot % 2 * 32)), Release);
}
