//! Tables of lines: placement, growth, and the writer's and readers' halves that the tables of each kind share.
//!
//! A key belongs to its first line or, when that is full, its second (two hash functions). When both are full, keys of either
//! move to their other lines, one after another over up to [`Line::DEPTH`] lines. When that fails too, or on average more
//! keys than [`Line::FULL`] are in a line, a table an eighth larger and with a new hash is built and published whole; its readers
//! take it up at their next burst. A table that has lost most of its keys is replaced by a smaller one likewise.
//!
//! An eighth, and not twice, so that the memory per key is never far from its least: the number of lines is no power of
//! two, and a hash is brought into its range by a multiplication instead of a mask. The price is that a key is placed
//! nine times on average instead of twice while a table grows by insertions; [`Writer::reserve`] saves that.

use std::sync::Arc;
use std::time::Duration;

use sync::{Published, Reader};

use crate::hash::Hash;
use crate::line::{ATTEMPTS, Line, Look};

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
        debug_assert!(count >= FIRST_LINES && u32::try_from(count).is_ok());
        Self {
            lines: (0..count).map(|_| L::default()).collect(),
            first: Hash::new(secret, generation.wrapping_mul(2)),
            second: Hash::new(secret, generation.wrapping_mul(2).wrapping_add(1)),
        }
    }

    /// The line a hash falls into: its upper bits decide.
    #[inline(always)]
    fn line_of(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.lines.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn first_of(&self, key: L::Key) -> usize {
        self.line_of(L::hash(key, &self.first))
    }

    /// The second line; never the first.
    #[inline(always)]
    fn second_of(&self, key: L::Key, first: usize) -> usize {
        let second = self.line_of(L::hash(key, &self.second));
        if second != first {
            second
        } else if first == 0 {
            1
        } else {
            first - 1
        }
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

    /// Asks for the first line of a key that will be placed.
    #[inline]
    fn prefetch_write(&self, key: L::Key) {
        if let Some(line) = self.lines.get(self.first_of(key)) {
            cpu::prefetch_write_at(std::ptr::from_ref(line).cast());
        }
    }

    /// The value of `key`, whose first line is `first`, and how many lines were read.
    #[inline(always)]
    pub(crate) fn find_from(&self, key: L::Key, first: usize) -> (Option<L::Value>, usize) {
        let Some(line) = self.lines.get(first) else { return (None, 0) };
        match line.try_find(key) {
            Some(Look { value: Some(value), .. }) => (Some(value), 1),
            Some(look) if !look.elsewhere() => (None, 1),
            _ => (self.find_in_both(key, first), 2),
        }
    }

    /// The value of `key` as its first line, `first`, tells; nothing if it is perhaps elsewhere, or the line was changing. Then its second line is asked for.
    #[inline(always)]
    pub(crate) fn find_or_prefetch(&self, key: L::Key, first: usize) -> Option<Option<L::Value>> {
        let Some(line) = self.lines.get(first) else { return Some(None) };
        match line.try_find(key) {
            Some(Look { value: Some(value), .. }) => Some(Some(value)),
            Some(look) if !look.elsewhere() => Some(None),
            _ => {
                if let Some(other) = self.lines.get(self.second_of(key, first)) {
                    cpu::prefetch_read(other);
                }
                None
            }
        }
    }

    /// The value of a key that is perhaps elsewhere, or whose line was changing.
    #[cold]
    #[inline(never)]
    pub(crate) fn find_in_both(&self, key: L::Key, first: usize) -> Option<L::Value> {
        let (line, other) = (self.lines.get(first)?, self.lines.get(self.second_of(key, first))?);
        let attempt = || {
            let look = line.try_find(key)?;
            if look.value.is_some() || !look.elsewhere() {
                return Some(look.value);
            }
            let there = other.try_find(key)?;
            // A key that came back meanwhile was in neither line when it was looked for.
            (there.value.is_some() || line.is_unchanged(&look)).then_some(there.value)
        };
        (0..ATTEMPTS).find_map(|_| attempt()).flatten()
    }

    fn find(&self, key: L::Key) -> Option<L::Value> {
        self.find_from(key, self.first_of(key)).0
    }

    /// The line and slot a key is in. Only where some of its first line's keys are elsewhere a second line is read.
    fn locate(&self, key: L::Key) -> Option<(&L, usize)> {
        let first = self.first_of(key);
        let line = self.lines.get(first)?;
        if let Some(slot) = line.slot_of(key) {
            return Some((line, slot));
        }
        if !line.has_elsewhere() {
            return None;
        }
        let other = self.lines.get(self.second_of(key, first))?;
        Some((other, other.slot_of(key)?))
    }

    /// Puts a new key where there is room; false if there is none.
    fn place(&self, key: L::Key, value: L::Value) -> bool {
        if self.place_directly(key, value) {
            return true;
        }
        let first = self.first_of(key);
        let room = self.make_room(first, L::DEPTH) || self.make_room(self.second_of(key, first), L::DEPTH);
        room && self.place_directly(key, value)
    }

    fn place_directly(&self, key: L::Key, value: L::Value) -> bool {
        let first = self.first_of(key);
        let Some(line) = self.lines.get(first) else { return false };
        if let Some(slot) = line.empty_slot() {
            line.fill(slot, key, value);
            return true;
        }
        let Some(other) = self.lines.get(self.second_of(key, first)) else { return false };
        let Some(slot) = other.empty_slot() else { return false };
        other.fill(slot, key, value);
        line.one_more_elsewhere();
        true
    }

    /// Moves one key out of a line to its other line, if need be after one of that line's keys, and so on.
    fn make_room(&self, at: usize, depth: usize) -> bool {
        let Some(line) = self.lines.get(at) else { return false };
        // Back home first: so that few keys are elsewhere.
        let is_guest = |slot: &usize| line.key(*slot).is_some_and(|key| self.first_of(key) != at);
        if (0..L::SLOTS).filter(is_guest).chain(0..L::SLOTS).any(|slot| self.move_on(line, at, slot)) {
            return true;
        }
        depth > 1
            && (0..L::SLOTS).any(|slot| {
                line.key(slot).is_some_and(|key| self.make_room(self.other_of(key, at), depth - 1))
                    && (line.empty_slot().is_some() || self.move_on(line, at, slot))
            })
    }

    /// The line a key that is in one of its lines could be in instead.
    fn other_of(&self, key: L::Key, at: usize) -> usize {
        let first = self.first_of(key);
        if first == at { self.second_of(key, first) } else { first }
    }

    /// Moves the key in this slot to its other line, if there is room.
    fn move_on(&self, line: &L, at: usize, slot: usize) -> bool {
        let (Some(key), Some(value)) = (line.key(slot), line.value(slot)) else { return false };
        let Some(other) = self.lines.get(self.other_of(key, at)) else { return false };
        let Some(free) = other.empty_slot() else { return false };
        other.fill(free, key, value);
        if self.first_of(key) == at {
            line.one_more_elsewhere();
            line.clear(slot);
        } else {
            other.raise_version();
            line.clear(slot);
            other.one_fewer_elsewhere();
        }
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

    /// Places all of these, asking for the lines of some at a time; false if one finds no room.
    fn place_all(&self, mut entries: impl Iterator<Item = (L::Key, L::Value)>) -> bool {
        let mut some = Vec::with_capacity(BATCH);
        loop {
            some.clear();
            some.extend(entries.by_ref().take(BATCH));
            some.iter().for_each(|(key, _)| self.prefetch_write(*key));
            if !some.iter().all(|(key, value)| self.place(*key, *value)) {
                return false;
            }
            if some.len() < BATCH {
                return true;
            }
        }
    }
}

/// The least lines that hold this many keys.
fn lines_for<L: Line>(keys: usize) -> usize {
    let (entries, lines) = L::FULL;
    (keys * lines).div_ceil(entries)
}

/// The lines of the next larger table.
fn larger(lines: usize) -> usize {
    lines + lines.div_ceil(8)
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
        if lines_for::<L>(self.len) > self.current.lines.len() || !self.current.place(key, value) {
            self.rebuild(larger(self.current.lines.len()), Some((key, value)));
        }
        None
    }

    pub(crate) fn remove(&mut self, key: L::Key) -> Option<L::Value> {
        let value = self.current.remove(key)?;
        self.len -= 1;
        let (needed, count) = (larger(lines_for::<L>(self.len)), self.current.lines.len());
        if needed.max(FIRST_LINES) * 3 <= count * 2 {
            self.rebuild(needed, None);
        }
        Some(value)
    }

    /// Makes room for `additional` more keys at once. By an eighth at least, so that many small reservations cost what insertions do.
    pub(crate) fn reserve(&mut self, additional: usize) {
        let (count, now) = (lines_for::<L>(self.len + additional), self.current.lines.len());
        if count > now {
            self.rebuild(count.max(larger(now)), None);
        }
    }

    /// Asks for the line that will be written for `key`.
    #[inline]
    pub(crate) fn prefetch(&self, key: L::Key) {
        self.current.prefetch_write(key);
    }

    /// Bytes of the lines.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.current.lines)
    }

    /// Publishes a table of `count` lines, or more, with everything in it, and the new entry.
    fn rebuild(&mut self, count: usize, new: Option<(L::Key, L::Value)>) {
        let mut count = count.max(FIRST_LINES);
        loop {
            self.generation += 1;
            let lines = Lines::new(count, self.secret, self.generation);
            if lines.place_all(self.current.entries().chain(new)) {
                self.published.publish(lines);
                self.current = self.published.current();
                return;
            }
            // Each attempt has a new hash and less load, so that a second one is hardly ever needed.
            count = larger(count);
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

    pub(crate) fn is_current(&self) -> bool {
        self.0.is_current()
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

    /// Looks all keys up, 32 at a time: hashes all, prefetches all, compares all; then those that are not where they belong, whose second lines were
    /// asked for meanwhile. Hands each value with its position to `found` and returns how many lines were read. A key
    /// equal to the one before it, as in a guest's stream of packets to one other, costs a comparison.
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
                *to = table.prefetch(*key);
            }
            let (mut last, mut value) = (None, Some(None));
            let mut elsewhere = Pending::default();
            for (position, (first, key)) in firsts.iter().zip(keys).enumerate() {
                let is_new = last != Some(*key);
                if is_new {
                    last = Some(*key);
                    value = table.find_or_prefetch(*key, *first as usize);
                    lines_read += 1;
                }
                match value {
                    Some(value) => found(chunk * BATCH + position, value),
                    None => elsewhere.push(position, is_new),
                }
            }
            let find = |position: usize| {
                let (key, first) = keys.get(position).zip(firsts.get(position))?;
                table.find_in_both(*key, *first as usize)
            };
            lines_read += elsewhere.find_rest(find, |at, value| found(chunk * BATCH + at, value));
        }
        lines_read
    }
}

/// Positions of a batch that are looked up once more, and whether their keys are those of the ones before.
#[derive(Default)]
pub(crate) struct Pending {
    positions: u32,
    new: u32,
}

impl Pending {
    const FITS: () = assert!(BATCH <= u32::BITS as usize);

    #[inline(always)]
    pub(crate) fn push(&mut self, position: usize, is_new: bool) {
        let () = Self::FITS;
        self.positions |= 1 << (position % BATCH);
        self.new |= u32::from(is_new) << (position % BATCH);
    }

    /// Gives `found` what `find` finds at each position, each key once; returns how many were looked for.
    #[inline(always)]
    pub(crate) fn find_rest<V: Copy>(
        &self,
        find: impl Fn(usize) -> Option<V>,
        mut found: impl FnMut(usize, Option<V>),
    ) -> usize {
        let (mut value, mut lines_read) = (None, 0);
        for (position, is_new) in self.iter() {
            if is_new {
                value = find(position);
                lines_read += 1;
            }
            found(position, value);
        }
        lines_read
    }

    /// In order. The key of one that is not new is that of the one before.
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let (mut positions, new) = (self.positions, self.new);
        std::iter::from_fn(move || {
            let position = positions.trailing_zeros();
            (positions != 0).then(|| {
                positions &= positions - 1;
                (position as usize, new >> position & 1 != 0)
            })
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::atomic::Ordering::Relaxed;
    use crate::endpoint_line::{Ipv4Key, Ipv4Line, Ipv6Key, Ipv6Line};
    use crate::mac::MacLine;
    use packet::MacAddr;

    /// Tables grow because they are full, not because a key found no place; and they take no more memory than they say.
    #[test]
    fn keys_find_a_place_until_the_table_is_full() {
        fn check<L: Line>(keys: usize, key: impl Fn(u64) -> L::Key, value: L::Value) {
            for secret in 0..20 {
                let mut writer = Writer::<L>::new([secret, 9]);
                let (mut lines, mut generation) = (FIRST_LINES, 0);
                for number in 1..=keys {
                    writer.insert(key(number as u64), value);
                    if lines_for::<L>(number) > lines {
                        (lines, generation) = (larger(lines), generation + 1);
                    }
                    let now = (writer.current.lines.len(), writer.generation);
                    if lines < 100 && now.1 > generation {
                        // In a small table five keys may well share two lines; then it grows.
                        (lines, generation) = now;
                    }
                    assert_eq!(now, (lines, generation), "secret {secret}, {number} keys");
                }
            }
        }
        let endpoint =
            crate::Endpoint { mac: MacAddr([2; 6]), subnet: 1, location: crate::Location::Local(1) };
        check::<MacLine>(30_000, |number| number << 3, 1);
        check::<Ipv4Line>(30_000, |number| Ipv4Key { vpc: 1, address: number as u32 }, endpoint);
        check::<Ipv6Line>(30_000, |number| Ipv6Key { vpc: 1, high: 7, low: number << 9 }, endpoint);
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
        let endpoint =
            crate::Endpoint { mac: MacAddr([2; 6]), subnet: 1, location: crate::Location::Local(1) };
        check::<Ipv4Line>((1..2_000).map(|address| Ipv4Key { vpc: 3, address }), endpoint);
        check::<Ipv6Line>((1..1_500).map(|low| Ipv6Key { vpc: 3, high: 1, low }), endpoint);
    }
}

/// Every interleaving and every reordering that the memory model allows, by loom:
/// `RUSTFLAGS="--cfg loom" cargo test --release -p towpath-tables --lib`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::endpoint_line::{Ipv4Key, Ipv4Line};
    use crate::mac::MacLine;
    use crate::{Endpoint, Location};
    use loom::thread;
    use packet::MacAddr;

    /// A slot is emptied and filled with another key while a reader looks for the first.
    #[test]
    fn a_reused_slot_never_lends_its_value() {
        loom::model(|| {
            let line = Arc::new(MacLine::default());
            line.fill(0, 7, 70);
            let reader = {
                let line = line.clone();
                thread::spawn(move || line.find(7))
            };
            line.clear(0);
            line.fill(0, 8, 80);
            line.clear(0);
            line.fill(0, 7, 71);
            let found = reader.join().unwrap();
            assert!(matches!(found, None | Some(70 | 71)), "{found:?}");
            assert_eq!(line.find(7), Some(71));
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
                thread::spawn(move || (line.find(7), line.find(7)))
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

    /// A key comes back from its second line while a reader looks for it.
    #[test]
    fn a_key_that_comes_back_is_never_missed() {
        loom::model(|| {
            let table = Arc::new(Lines::<MacLine>::new(FIRST_LINES, [1, 2], 0));
            let [stays, _] = neighbours(&table);
            assert!(table.place(stays, 70));
            let first = table.first_of(stays);
            let second = table.second_of(stays, first);
            let move_from = |at: usize| table.lines.get(at).is_some_and(|line| table.move_on(line, at, 0));
            assert!(move_from(first));
            let reader = {
                let table = table.clone();
                thread::spawn(move || table.find(stays))
            };
            assert!(move_from(second));
            assert_eq!(reader.join().unwrap(), Some(70));
            assert_eq!(table.lines.get(first).map(|line| line.find(stays)), Some(Some(70)));
        });
    }

    /// An endpoint, which is more than a word, is replaced under a reader.
    #[test]
    fn a_replaced_endpoint_is_one_or_another() {
        loom::model(|| {
            let key = Ipv4Key { vpc: 1, address: 7 };
            let line = Arc::new(Ipv4Line::default());
            line.fill(0, key, made(1));
            let reader = {
                let line = line.clone();
                thread::spawn(move || line.find(key))
            };
            line.set_value(0, made(2));
            let seen = reader.join().unwrap();
            assert!([1, 2].map(|number| Some(made(number))).contains(&seen), "{seen:?}");
            assert_eq!(line.find(key), Some(made(2)));
        });
    }

    /// It is replaced twice: the line's spare word is written again. Most interleavings, not all: there are too many.
    #[test]
    fn an_endpoint_replaced_twice_is_one_of_three() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let key = Ipv4Key { vpc: 1, address: 7 };
            let line = Arc::new(Ipv4Line::default());
            line.fill(0, key, made(1));
            let reader = {
                let line = line.clone();
                thread::spawn(move || line.find(key))
            };
            line.set_value(0, made(2));
            line.set_value(0, made(3));
            let seen = reader.join().unwrap();
            assert!([1, 2, 3].map(|number| Some(made(number))).contains(&seen), "{seen:?}");
        });
    }

    fn made(number: u16) -> Endpoint {
        let location = Location::Remote(number);
        Endpoint { mac: MacAddr::from_u64(number.into()), subnet: number, location }
    }
}
