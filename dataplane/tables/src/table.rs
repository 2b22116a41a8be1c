//! Tables of lines: placement, growth, and the writer's and readers' halves that the tables of each kind share.
//!
//! A key belongs to its first line or, when that is full, its second (two hash functions). When both are full, a key of
//! either that has not moved yet moves to its own second line; when that fails too, or on average more keys than
//! [`Line::FULL`] are in a line, a table twice as large and with a new hash is built and published whole. Its readers take
//! it up at their next burst.

use std::sync::Arc;
use std::time::Duration;

use sync::{Published, Reader};

use crate::hash::Hash;
use crate::line::Line;

/// Lines of a new table.
const FIRST_LINES: usize = 16;
/// Keys that a batch looks up at a time.
pub(crate) const BATCH: usize = 32;

/// The lines.
pub(crate) struct Lines<L> {
    lines: Box<[L]>,
    first: Hash,
    second: Hash,
}

impl<L: Line> Lines<L> {
    fn new(count: usize, secret: [u64; 2], generation: u64) -> Self {
        debug_assert!(count.is_power_of_two() && count >= FIRST_LINES);
        Self {
            lines: (0..count).map(|_| L::default()).collect(),
            first: Hash::new(secret, generation.wrapping_mul(2)),
            second: Hash::new(secret, generation.wrapping_mul(2).wrapping_add(1)),
        }
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.lines.len().wrapping_sub(1)
    }

    #[inline(always)]
    fn first_of(&self, key: L::Key) -> usize {
        L::hash(key, &self.first) as usize & self.mask()
    }

    /// The second line; never the first.
    #[inline(always)]
    fn second_of(&self, key: L::Key, first: usize) -> usize {
        let second = L::hash(key, &self.second) as usize & self.mask();
        if second == first { first ^ 1 } else { second }
    }

    /// Asks for the first line of `key`, and returns which it is.
    #[inline(always)]
    pub(crate) fn prefetch(&self, key: L::Key) -> u32 {
        let first = self.first_of(key);
        if let Some(line) = self.lines.get(first) {
            cpu::prefetch_read(line);
        }
        first as u32
    }

    /// The value of `key`, whose first line is `first`, and how many lines were read.
    #[inline(always)]
    pub(crate) fn find_from(&self, key: L::Key, first: usize) -> (Option<L::Value>, usize) {
        let Some(line) = self.lines.get(first) else { return (None, 0) };
        match line.try_find(key) {
            Some((Some(value), _)) => (Some(value), 1),
            Some((None, false)) => (None, 1),
            Some((None, true)) | None => (self.find_in_both(key, first), 2),
        }
    }

    /// The value of a key that is perhaps elsewhere, or whose line was changing.
    #[cold]
    #[inline(never)]
    fn find_in_both(&self, key: L::Key, first: usize) -> Option<L::Value> {
        match self.lines.get(first)?.find(key) {
            (None, true) => self.lines.get(self.second_of(key, first))?.find(key).0,
            (found, _) => found,
        }
    }

    fn find(&self, key: L::Key) -> Option<L::Value> {
        self.find_from(key, self.first_of(key)).0
    }

    /// The line and slot a key is in.
    fn locate(&self, key: L::Key) -> Option<(&L, usize)> {
        let first = self.first_of(key);
        [first, self.second_of(key, first)].into_iter().find_map(|at| {
            let line = self.lines.get(at)?;
            Some((line, line.slot_of(key)?))
        })
    }

    /// Puts a new key where there is room; false if there is none.
    fn place(&self, key: L::Key, value: L::Value) -> bool {
        self.place_directly(key, value) || (self.make_room(key) && self.place_directly(key, value))
    }

    fn place_directly(&self, key: L::Key, value: L::Value) -> bool {
        let first = self.first_of(key);
        let (Some(line), Some(other)) = (self.lines.get(first), self.lines.get(self.second_of(key, first)))
        else {
            return false;
        };
        if let Some(slot) = line.empty_slot() {
            line.fill(slot, key, value);
            return true;
        }
        let Some(slot) = other.empty_slot() else { return false };
        other.fill(slot, key, value);
        line.one_more_elsewhere();
        true
    }

    /// Moves one key out of either line of `key` to its own second line, if one can be moved.
    fn make_room(&self, key: L::Key) -> bool {
        let first = self.first_of(key);
        [first, self.second_of(key, first)].into_iter().any(|at| {
            let Some(line) = self.lines.get(at) else { return false };
            (0..L::SLOTS).any(|slot| self.move_on(line, at, slot))
        })
    }

    /// Moves the key in this slot to its second line, if this is its first and there is room.
    fn move_on(&self, line: &L, at: usize, slot: usize) -> bool {
        let (Some(key), Some(value)) = (line.key(slot), line.value(slot)) else { return false };
        if self.first_of(key) != at {
            return false;
        }
        let Some(other) = self.lines.get(self.second_of(key, at)) else { return false };
        let Some(free) = other.empty_slot() else { return false };
        other.fill(free, key, value);
        line.one_more_elsewhere();
        line.clear(slot);
        true
    }

    fn remove(&self, key: L::Key) -> Option<L::Value> {
        let (line, slot) = self.locate(key)?;
        let value = line.value(slot);
        line.clear(slot);
        let first = self.lines.get(self.first_of(key))?;
        if !std::ptr::eq(first, line) {
            first.one_fewer_elsewhere();
        }
        value
    }

    fn entries(&self) -> impl Iterator<Item = (L::Key, L::Value)> {
        self.lines
            .iter()
            .flat_map(|line| (0..L::SLOTS).filter_map(|slot| Some((line.key(slot)?, line.value(slot)?))))
    }
}

/// The writer's half of a table.
pub(crate) struct Writer<L> {
    published: Published<Lines<L>>,
    current: Arc<Lines<L>>,
    secret: [u64; 2],
    generation: u64,
    len: usize,
}

impl<L: Line> Writer<L> {
    pub(crate) fn new(secret: [u64; 2]) -> Self {
        let published = Published::new(Lines::new(FIRST_LINES, secret, 0));
        let current = published.current();
        Self { published, current, secret, generation: 0, len: 0 }
    }

    pub(crate) fn reader(&self) -> TableReader<L> {
        TableReader(self.published.reader())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: L::Key) -> Option<L::Value> {
        self.current.find(key)
    }

    pub(crate) fn insert(&mut self, key: L::Key, value: L::Value) -> Option<L::Value> {
        if let Some((line, slot)) = self.current.locate(key) {
            let old = line.value(slot);
            line.set_value(slot, value);
            return old;
        }
        self.len += 1;
        let (entries, lines) = L::FULL;
        if self.len * lines > self.current.lines.len() * entries || !self.current.place(key, value) {
            self.grow(key, value);
        }
        None
    }

    pub(crate) fn remove(&mut self, key: L::Key) -> Option<L::Value> {
        let value = self.current.remove(key)?;
        self.len -= 1;
        Some(value)
    }

    /// Makes room for `additional` more keys at once.
    pub(crate) fn reserve(&mut self, additional: usize) {
        let (entries, lines) = L::FULL;
        let count = ((self.len + additional) * lines).div_ceil(entries).next_power_of_two();
        if count > self.current.lines.len() {
            self.rebuild(count, None);
        }
    }

    /// Bytes of the lines.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.current.lines)
    }

    /// Publishes a larger table with everything in it, and the new key.
    fn grow(&mut self, key: L::Key, value: L::Value) {
        self.rebuild(self.current.lines.len() * 2, Some((key, value)));
    }

    /// Publishes a table of `count` lines with everything in it, and the new entry.
    fn rebuild(&mut self, mut count: usize, new: Option<(L::Key, L::Value)>) {
        loop {
            self.generation += 1;
            let larger = Lines::new(count, self.secret, self.generation);
            // Each attempt has a new hash and half the load, so that a second one is hardly ever needed.
            count *= 2;
            let mut entries = self.current.entries().chain(new);
            if entries.all(|(key, value)| larger.place(key, value)) {
                drop(entries);
                self.published.publish(larger);
                self.current = self.published.current();
                return;
            }
        }
    }

    pub(crate) fn reclaim(&mut self) -> usize {
        self.published.reclaim()
    }

    pub(crate) fn synchronize(&mut self, limit: Duration) -> bool {
        self.published.synchronize(limit)
    }
}

/// A reader's half of a table.
pub(crate) struct TableReader<L>(Reader<Lines<L>>);

impl<L> Clone for TableReader<L> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<L: Line> TableReader<L> {
    #[inline(always)]
    pub(crate) fn refresh(&mut self) -> bool {
        self.0.refresh()
    }

    pub(crate) fn off_line(&mut self) {
        self.0.off_line();
    }

    /// The table taken up.
    #[inline(always)]
    pub(crate) fn lines(&self) -> &Lines<L> {
        self.0.get()
    }

    #[inline]
    pub(crate) fn lookup(&self, key: L::Key) -> Option<L::Value> {
        self.0.get().find(key)
    }

    /// Looks all keys up, 32 at a time: hashes all, prefetches all, compares all. Hands each value to `found` in order and
    /// returns how many lines were read. A key equal to the one before it, as in a guest's stream of packets to one other,
    /// costs a comparison.
    #[inline(always)]
    pub(crate) fn lookup_batch(
        &self,
        keys: &[L::Key],
        mut found: impl FnMut(usize, Option<L::Value>),
    ) -> usize {
        let table = self.0.get();
        let mut lines_read = 0;
        for (chunk, keys) in keys.chunks(BATCH).enumerate() {
            let mut firsts = [0u32; BATCH];
            let mut last = None;
            for (to, key) in firsts.iter_mut().zip(keys) {
                if last == Some(*key) {
                    continue;
                }
                last = Some(*key);
                let first = table.first_of(*key);
                *to = first as u32;
                if let Some(line) = table.lines.get(first) {
                    cpu::prefetch_read(line);
                }
            }
            let mut last = None;
            let mut value = None;
            for (position, (first, key)) in firsts.iter().zip(keys).enumerate() {
                if last != Some(*key) {
                    last = Some(*key);
                    let lines;
                    (value, lines) = table.find_from(*key, *first as usize);
                    lines_read += lines;
                }
                found(chunk * BATCH + position, value);
            }
        }
        lines_read
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::address::AddressLine;
    use crate::atomic::Ordering::Relaxed;
    use crate::mac::MacLine;

    /// Tables grow because they are full, not because a key found no place.
    #[test]
    fn keys_find_a_place_until_the_table_is_full() {
        let (entries, lines) = MacLine::FULL;
        for secret in 0..50 {
            let mut writer = Writer::<MacLine>::new([secret, 9]);
            for key in 1..=4096 * entries as u64 / lines as u64 {
                writer.insert(key << 3, 1);
            }
            assert_eq!(writer.current.lines.len(), 4096, "secret {secret}");
            assert_eq!(writer.generation, 8, "secret {secret}");
        }
    }

    /// What is counted as elsewhere is elsewhere, and nothing once all is removed.
    #[test]
    fn keys_elsewhere_are_counted() {
        fn check<L: Line>(keys: impl Iterator<Item = L::Key> + Clone, value: L::Value) {
            let elsewhere = |writer: &Writer<L>| -> usize {
                writer.current.lines.iter().map(|line| (line.control().load(Relaxed) & 0xff) as usize).sum()
            };
            let mut writer = Writer::<L>::new([1, 2]);
            for key in keys.clone() {
                writer.insert(key, value);
            }
            let table = &writer.current;
            let away = table.lines.iter().enumerate().map(|(at, line)| {
                (0..L::SLOTS)
                    .filter_map(|slot| line.key(slot))
                    .filter(|key| table.first_of(*key) != at)
                    .count()
            });
            let away: usize = away.sum();
            assert_eq!(elsewhere(&writer), away);
            assert!(away > 0, "the test needs keys that did not fit");
            for key in keys {
                assert!(writer.remove(key).is_some());
            }
            assert_eq!((elsewhere(&writer), writer.len()), (0, 0));
        }
        check::<MacLine>((1..2_500).map(|key: u64| key << 7), 1);
        let key = |number: u32| crate::address::AddressKey::new(3, std::net::IpAddr::V4(number.into()));
        check::<AddressLine>(
            (1..760).map(key),
            crate::AddressEntry { mac: packet::MacAddr([2; 6]), port: 1 },
        );
    }
}

/// Every interleaving and every reordering that the memory model allows, by loom:
/// `RUSTFLAGS="--cfg loom" cargo test --release -p towpath-tables --lib`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::mac::MacLine;
    use loom::thread;

    /// A slot is emptied and filled with another key while a reader looks for the first.
    #[test]
    fn a_reused_slot_never_lends_its_value() {
        loom::model(|| {
            let line = Arc::new(MacLine::default());
            line.fill(0, 7, 70);
            let reader = {
                let line = line.clone();
                thread::spawn(move || line.find(7).0)
            };
            line.clear(0);
            line.fill(0, 8, 80);
            line.clear(0);
            line.fill(0, 7, 71);
            let found = reader.join().unwrap();
            assert!(matches!(found, None | Some(70 | 71)), "{found:?}");
            assert_eq!(line.find(7).0, Some(71));
        });
    }

    /// A value is replaced under a reader.
    #[test]
    fn a_replaced_value_is_one_or_the_other() {
        loom::model(|| {
            let line = Arc::new(MacLine::default());
            line.fill(0, 7, 70);
            let reader = {
                let line = line.clone();
                thread::spawn(move || (line.find(7).0, line.find(7).0))
            };
            line.set_value(0, 71);
            let seen = reader.join().unwrap();
            assert!(matches!(seen, (Some(70), Some(70 | 71)) | (Some(71), Some(71))), "{seen:?}");
        });
    }

    /// Two keys with the same first line and different second lines.
    fn neighbours(table: &Lines<MacLine>) -> [u64; 2] {
        let first = table.first_of(1);
        let other = (2..).find(|key| table.first_of(*key) == first).unwrap_or_default();
        [1, other]
    }

    /// A key moves to its second line, and another takes its slot, while a reader looks for it.
    #[test]
    fn a_moving_key_is_never_missed() {
        loom::model(|| {
            let table = Arc::new(Lines::<MacLine>::new(FIRST_LINES, [1, 2], 0));
            let [stays, comes] = neighbours(&table);
            assert!(table.place(stays, 70));
            let reader = {
                let table = table.clone();
                thread::spawn(move || table.find(stays))
            };
            let at = table.first_of(stays);
            assert!(table.lines.get(at).is_some_and(|line| table.move_on(line, at, 0)));
            assert!(table.place(comes, 80));
            assert_eq!(reader.join().unwrap(), Some(70));
            assert_eq!((table.find(stays), table.find(comes)), (Some(70), Some(80)));
        });
    }
}
