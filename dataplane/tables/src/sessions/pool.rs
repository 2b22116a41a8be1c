//! The records of one family: halves, what is needed of them seldom, and which are free.
//!
//! Apart from its lines (`half.rs`) a session has five *cold* words and a word of links for the timing wheel:
//!
//! | cold word | upper | lower |
//! |---|---|---|
//! | 0 | worker that ages it, 8 bits | bytes of the initiator, 56 bits |
//! | 1 | state ([`LIVE`] ...), 8 bits | bytes of the responder, 56 bits |
//! | 2 | port that pays, 16 bits | packets of the initiator, 48 bits |
//! | 3 | second of its making, lower 16 bits | packets of the responder, 48 bits |
//! | 4 | upper 8 bits of that second | counters of the rules, 28 bits each |

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::half::{COUNT, KEY, REMOVED, WAY, counted, join, split};
use super::index::Index;
use super::key::Key;
use super::memory::{Line, Region, line};
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use Ordering::{AcqRel, Acquire, Relaxed};

/// Cold words of a session.
pub(super) const COLD: usize = 5;

const STATE: usize = 1;
const OWNER: usize = 2;
const BYTES: u64 = (1 << 56) - 1;
const PACKETS: u64 = (1 << 48) - 1;
const RULE: u64 = (1 << 28) - 1;

/// The session is in the table.
pub(super) const LIVE: u64 = 1 << 56;
/// It counts as half-open.
pub(super) const HALF_OPEN: u64 = 1 << 57;
/// It waits for its worker to look at it.
pub(super) const CALLED: u64 = 1 << 58;
/// It was removed and its record rests.
pub(super) const RESTS: u64 = 1 << 59;

/// What is known of a session beside its halves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cold {
    pub(super) worker: u8,
    pub(super) owner: u16,
    /// Seconds, of which 24 bits are kept.
    pub(super) created: u32,
    pub(super) rules: [u32; 2],
}

/// The session that has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Present {
    /// It has both; the half of the first.
    Both(u32),
    /// Its other key is another.
    One(u32),
}

/// Why a record was not put into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdded {
    Present(Present),
    Crowded,
}

pub(super) struct Pool {
    pub(super) index: Index,
    lines: Region<Line>,
    lines_each: usize,
    cold: Region<AtomicU64>,
    links: Region<AtomicU64>,
    capacity: u32,
    /// Records that were used and are free.
    used: Mutex<Vec<u32>>,
    /// Records from this one on were never used.
    fresh: AtomicU32,
    free: AtomicU32,
    live: AtomicU32,
}

fn lock(mutex: &Mutex<Vec<u32>>) -> MutexGuard<'_, Vec<u32>> {
    // Nothing panics while holding it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    pub(super) fn new(
        index: Index,
        lines: Region<Line>,
        lines_each: usize,
        cold: Region<AtomicU64>,
        links: Region<AtomicU64>,
        capacity: u32,
    ) -> Self {
        let used = Mutex::new(Vec::with_capacity(capacity as usize));
        Self {
            index,
            lines,
            lines_each,
            cold,
            links,
            capacity,
            used,
            fresh: AtomicU32::new(0),
            free: AtomicU32::new(capacity),
            live: AtomicU32::new(0),
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Records that no worker has.
    pub(super) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// All lines: see [`Pool::half`].
    #[inline(always)]
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// A half: `half` is twice the record's number, plus one for the responder's.
    #[inline(always)]
    pub(super) fn half(&self, half: u32) -> &[AtomicU64; 8] {
        // A branch that goes one way for a burst, instead of a multiplication in front of the load.
        let at = if self.lines_each == 2 { half as usize } else { (half + (half >> 1)) as usize };
        &line(&self.lines, at).0
    }

    /// Asks for all of a record.
    pub(super) fn prefetch_whole(&self, record: u32) {
        #[cfg(not(loom))]
        cpu::prefetch_write_at(std::ptr::from_ref(self.cold(record, STATE)).cast());
        self.prefetch(record << 1, false);
        self.prefetch(record << 1 | 1, false);
    }

    /// Asks for what a look-up and a check read: the half, which is written, too; the rest of an IPv6 key; for TCP (`both`) the other half.
    #[inline(always)]
    pub(super) fn prefetch(&self, half: u32, both: bool) {
        #[cfg(not(loom))]
        {
            cpu::prefetch_write_at(std::ptr::from_ref(self.half(half)).cast());
            if both {
                cpu::prefetch_read(self.half(half ^ 1));
            }
            if self.lines_each == 3 {
                cpu::prefetch_read(line(&self.lines, (half >> 1) as usize * 3 + 2));
            }
        }
        let _ = (half, both);
    }

    /// Whether the half has this key.
    #[inline(always)]
    pub(super) fn has_key(&self, half: u32, words: &[u64; 5]) -> bool {
        let own = self.half(half);
        let differs = (own[KEY].load(Relaxed) ^ words[0]) | (own[KEY + 1].load(Relaxed) ^ words[1]);
        differs == 0 && (self.lines_each == 2 || self.has_rest(half, words))
    }

    #[inline(always)]
    fn has_rest(&self, half: u32, words: &[u64; 5]) -> bool {
        let rest = self.rest(half);
        (0..3).fold(0, |differs, word| differs | (rest[word].load(Relaxed) ^ words[2 + word])) == 0
    }

    /// The last three words of an IPv6 key.
    #[inline(always)]
    fn rest(&self, half: u32) -> [&AtomicU64; 3] {
        let third = &line(&self.lines, (half >> 1) as usize * self.lines_each + 2).0;
        let at = (half & 1) as usize * 4;
        [&third[at], &third[at + 1], &third[at + 2]]
    }

    pub(super) fn key<K: Key>(&self, half: u32) -> K {
        let own = self.half(half);
        let mut words = [own[KEY].load(Relaxed), own[KEY + 1].load(Relaxed), 0, 0, 0];
        if self.lines_each == 3 {
            let rest = self.rest(half);
            (0..3).for_each(|word| words[2 + word] = rest[word].load(Relaxed));
        }
        K::from_words(words)
    }

    pub(super) fn set_key(&self, half: u32, words: &[u64; 5]) {
        let own = self.half(half);
        own[KEY].store(words[0], Relaxed);
        own[KEY + 1].store(words[1], Relaxed);
        if self.lines_each == 3 {
            let rest = self.rest(half);
            (0..3).for_each(|word| rest[word].store(words[2 + word], Relaxed));
        }
    }

    #[inline(always)]
    fn cold(&self, record: u32, word: usize) -> &AtomicU64 {
        &self.cold[record as usize * COLD + word]
    }

    /// Of a record that is not in the table yet: everything but its being in it.
    pub(super) fn set_cold(&self, record: u32, cold: &Cold) {
        let Cold { worker, owner, created, rules } = *cold;
        self.cold(record, 0).store(u64::from(worker) << 56, Relaxed);
        self.cold(record, STATE).store(0, Relaxed);
        self.cold(record, OWNER).store(u64::from(owner) << 48, Relaxed);
        self.cold(record, 3).store(u64::from(created & 0xffff) << 48, Relaxed);
        self.cold(record, 4).store(u64::from(created >> 16 & 0xff) << 56, Relaxed);
        self.set_rules(record, rules);
    }

    pub(super) fn get_cold(&self, record: u32) -> Cold {
        let word = |at| self.cold(record, at).load(Relaxed);
        let rules = word(4);
        Cold {
            worker: (word(0) >> 56) as u8,
            owner: (word(OWNER) >> 48) as u16,
            created: (rules >> 56) as u32 & 0xff << 16 | (word(3) >> 48) as u32,
            rules: [(rules >> 28 & RULE) as u32, (rules & RULE) as u32],
        }
    }

    pub(super) fn set_rules(&self, record: u32, rules: [u32; 2]) {
        let word = self.cold(record, 4);
        let [egress, ingress] = rules.map(|rule| u64::from(rule) & RULE);
        word.store(word.load(Relaxed) & !BYTES | egress << 28 | ingress, Relaxed);
    }

    pub(super) fn worker(&self, record: u32) -> u8 {
        (self.cold(record, 0).load(Relaxed) >> 56) as u8
    }

    /// State bits.
    #[inline(always)]
    pub(super) fn state(&self, record: u32) -> u64 {
        self.cold(record, STATE).load(Acquire)
    }

    /// Sets state bits; those that were set before.
    pub(super) fn set_state(&self, record: u32, bits: u64) -> u64 {
        self.cold(record, STATE).fetch_or(bits, AcqRel)
    }

    /// Clears state bits; those that were set before. Who finds one set is the one who cleared it.
    pub(super) fn clear_state(&self, record: u32, bits: u64) -> u64 {
        self.cold(record, STATE).fetch_and(!bits, AcqRel)
    }

    /// Adds to the counters of a half.
    pub(super) fn add_count(&self, half: u32, packets: u64, bytes: u64) {
        let side = (half & 1) as usize;
        self.cold(half >> 1, side).fetch_add(bytes, Relaxed);
        self.cold(half >> 1, 2 + side).fetch_add(packets, Relaxed);
    }

    /// Packets and bytes of a half so far.
    pub(super) fn counts(&self, half: u32) -> (u64, u64) {
        let side = (half & 1) as usize;
        let (packets, bytes) = counted(split(self.half(half)[COUNT].load(Relaxed)).1);
        let word = |at| self.cold(half >> 1, at).load(Relaxed);
        (packets + (word(2 + side) & PACKETS), bytes + (word(side) & BYTES))
    }

    /// The half that has this key.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, words: &[u64; 5]) -> Option<u32> {
        self.index.find(hash, |half| self.has_key(half, words))
    }

    /// The session that has one of these keys, or both. Where one is found alone, somebody may be adding or taking out the other at this moment: then it is looked
    /// at again under the locks.
    pub(super) fn present_for_sure<K: Key>(&self, keys: [K; 2], hashes: [u64; 2]) -> Option<Present> {
        match self.present(keys, hashes) {
            Some(Present::One(_)) => {
                let _locks = self.index.lock(hashes);
                self.present(keys, hashes)
            }
            sure => sure,
        }
    }

    /// The session that has one of these keys, or both; for sure under the locks of both.
    pub(super) fn present<K: Key>(&self, keys: [K; 2], hashes: [u64; 2]) -> Option<Present> {
        match [0, 1].map(|side| self.find(hashes[side], &keys[side].words())) {
            [None, None] => None,
            [Some(first), Some(second)] if first == second ^ 1 => Some(Present::Both(first)),
            [Some(half), _] | [None, Some(half)] => Some(Present::One(half)),
        }
    }

    /// Puts a filled record into the table, half-open, unless one of its keys is there: of two workers that add the same keys, in whichever order, one does.
    pub(super) fn add<K: Key>(&self, record: u32, keys: [K; 2], hashes: [u64; 2]) -> Result<(), NotAdded> {
        let _locks = self.index.lock(hashes);
        if let Some(present) = self.present(keys, hashes) {
            return Err(NotAdded::Present(present));
        }
        self.set_state(record, LIVE | HALF_OPEN);
        if !self.index.insert(hashes[0], record << 1) {
            self.clear_state(record, LIVE | HALF_OPEN);
            return Err(NotAdded::Crowded);
        }
        if !self.index.insert(hashes[1], record << 1 | 1) {
            self.index.remove(hashes[0], record << 1);
            self.clear_state(record, LIVE | HALF_OPEN);
            return Err(NotAdded::Crowded);
        }
        self.live.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Takes a record out of the table; its state before, if this call did.
    pub(super) fn take<K: Key>(&self, record: u32, hash: impl Fn(K) -> u64) -> Option<u64> {
        let halves = [record << 1, record << 1 | 1];
        let keys = halves.map(|half| self.key::<K>(half));
        let hashes = keys.map(hash);
        let _locks = self.index.lock(hashes);
        // Whoever makes and removes sessions of these keys is kept out; before, the record may have become another session's.
        if halves.map(|half| self.key::<K>(half)) != keys {
            return None;
        }
        let before = self.clear_state(record, LIVE | HALF_OPEN);
        if before & LIVE == 0 {
            return None;
        }
        self.live.fetch_sub(1, Relaxed);
        for (half, hash) in halves.into_iter().zip(hashes) {
            self.index.remove(hash, half);
            self.half(half)[WAY].store(join(REMOVED, 0), Relaxed);
        }
        Some(before)
    }

    #[inline(always)]
    pub(super) fn links(&self, record: u32) -> &AtomicU64 {
        &self.links[record as usize]
    }

    /// Hands out up to `wanted` free records; those used last first, then new ones.
    pub(super) fn lease(&self, into: &mut Vec<u32>, wanted: u32) {
        let mut used = lock(&self.used);
        let before = into.len();
        let from = used.len().saturating_sub(wanted as usize);
        into.extend(used.drain(from..));
        let missing = wanted - (into.len() - before) as u32;
        let fresh = self.fresh.load(Relaxed);
        let taken = missing.min(self.capacity - fresh);
        into.extend((fresh..fresh + taken).rev());
        self.fresh.store(fresh + taken, Relaxed);
        self.free.fetch_sub((into.len() - before) as u32, Relaxed);
    }

    /// Takes records back.
    pub(super) fn give_back(&self, records: &[u32]) {
        lock(&self.used).extend_from_slice(records);
        self.free.fetch_add(records.len() as u32, Relaxed);
    }

    /// After a process before: what is not in the table is free. The numbers of those that are.
    pub(super) fn recover(&self) -> Vec<u32> {
        let (live, free): (Vec<u32>, Vec<u32>) =
            (0..self.capacity).partition(|record| self.state(*record) & LIVE != 0);
        self.index.unlock_all();
        self.index.retain(|half| half >> 1 < self.capacity && self.state(half >> 1) & LIVE != 0);
        self.free.store(free.len() as u32, Relaxed);
        self.live.store(live.len() as u32, Relaxed);
        self.fresh.store(self.capacity, Relaxed);
        *lock(&self.used) = free;
        live
    }

    /// Sessions in the table.
    pub(super) fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Records that may be in the table: those ever used.
    pub(super) fn ever_used(&self) -> u32 {
        self.fresh.load(Relaxed)
    }
}
