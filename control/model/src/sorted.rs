//! An ordered list whose copies share what is equal, so that a set of a million resources is copied, changed and compared at
//! the cost of the change.
//!
//! Items lie in chunks behind reference counts. A copy shares all chunks; a change copies one; a comparison skips every chunk that
//! both lists share.

use std::cmp::Ordering;
use std::sync::Arc;

/// Items of a chunk: what a change copies. A list of a million has two thousand chunks, what a copy of it copies.
const CHUNK: usize = 512;

type Chunk<T> = Arc<Vec<Arc<T>>>;

/// A sorted list without two items that compare as equal. The order is the caller's, the same for every call.
#[derive(Debug)]
pub(crate) struct Sorted<T> {
    /// None is empty.
    chunks: Vec<Chunk<T>>,
    len: usize,
}

impl<T> Clone for Sorted<T> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

/// What two lists differ in: an item of the one, of the other, or two that compare as equal and are not the same.
pub(crate) type Difference<'a, T> = (Option<&'a Arc<T>>, Option<&'a Arc<T>>);

impl<T> Sorted<T> {
    /// A list of items in their order.
    pub(crate) fn from_sorted(items: Vec<Arc<T>>) -> Self {
        let len = items.len();
        let mut items = items.into_iter();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK));
        loop {
            let chunk: Vec<Arc<T>> = items.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Self { chunks, len };
            }
            chunks.push(Arc::new(chunk));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// The items from the first that is not `before`.
    pub(crate) fn beginning_at(&self, before: impl Fn(&T) -> bool) -> impl Iterator<Item = &Arc<T>> {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| before(last)));
        let skipped = self.chunks.get(chunk).map_or(0, |chunk| chunk.partition_point(|item| before(item)));
        self.chunks.iter().skip(chunk).flat_map(|chunk| chunk.iter()).skip(skipped)
    }

    /// The item that `compare` finds equal; it says where an item stands to the one looked for.
    pub(crate) fn find(&self, compare: impl Fn(&T) -> Ordering) -> Option<&Arc<T>> {
        let (chunk, place) = self.place(&compare);
        self.chunks.get(chunk)?.get(place.ok()?)
    }

    /// The chunk where an item is or belongs, and its place in it.
    fn place(&self, compare: &impl Fn(&T) -> Ordering) -> (usize, Result<usize, usize>) {
        let past = self
            .chunks
            .partition_point(|chunk| chunk.first().is_some_and(|first| compare(first) != Ordering::Greater));
        let chunk = past.saturating_sub(1);
        let place = self.chunks.get(chunk).map(|chunk| chunk.binary_search_by(|item| compare(item)));
        (chunk, place.unwrap_or(Err(0)))
    }

    /// Puts an item in; the one it takes the place of.
    pub(crate) fn insert(&mut self, item: Arc<T>, order: impl Fn(&T, &T) -> Ordering) -> Option<Arc<T>> {
        let (index, place) = self.place(&|other| order(other, &item));
        if self.chunks.is_empty() {
            self.chunks.push(Arc::default());
        }
        let chunk = Arc::make_mut(self.chunks.get_mut(index)?);
        match place {
            Ok(place) => return Some(std::mem::replace(chunk.get_mut(place)?, item)),
            Err(place) => chunk.insert(place, item),
        }
        if chunk.len() > 2 * CHUNK {
            let upper = chunk.split_off(CHUNK);
            self.chunks.insert(index + 1, Arc::new(upper));
        }
        self.len += 1;
        None
    }

    /// Takes the item out that `compare` finds equal.
    pub(crate) fn remove(&mut self, compare: impl Fn(&T) -> Ordering) -> Option<Arc<T>> {
        let (index, place) = self.place(&compare);
        let place = place.ok()?;
        let chunk = Arc::make_mut(self.chunks.get_mut(index)?);
        let removed = chunk.remove(place);
        self.len -= 1;
        let left = chunk.len();
        let following = self.chunks.get(index + 1).map(|following| following.len());
        if left == 0 {
            self.chunks.remove(index);
        } else if following.is_some_and(|following| left + following <= CHUNK / 2) {
            let following = self.chunks.remove(index + 1);
            Arc::make_mut(self.chunks.get_mut(index)?).extend(following.iter().cloned());
        }
        Some(removed)
    }

    /// What must change to get from this list to `newer`, in the order of the items. Items that are one and the same are no
    /// difference; others are, even if they say the same.
    pub(crate) fn differences<'a>(
        &'a self,
        newer: &'a Self,
        order: impl Fn(&T, &T) -> Ordering,
    ) -> Vec<Difference<'a, T>> {
        let mut found = Vec::new();
        let (mut old, mut new) = (Cursor::new(&self.chunks), Cursor::new(&newer.chunks));
        loop {
            if let (Some(left), Some(right)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(left, right)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            let (left, right) = (old.item(), new.item());
            let ordering = match (left, right) {
                (None, None) => return found,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) if Arc::ptr_eq(left, right) => {
                    old.step();
                    new.step();
                    continue;
                }
                (Some(left), Some(right)) => order(left, right),
            };
            if ordering != Ordering::Greater {
                old.step();
            }
            if ordering != Ordering::Less {
                new.step();
            }
            found.push((
                left.filter(|_| ordering != Ordering::Greater),
                right.filter(|_| ordering != Ordering::Less),
            ));
        }
    }
}

/// A place in a list.
struct Cursor<'a, T> {
    chunks: &'a [Chunk<T>],
    place: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(chunks: &'a [Chunk<T>]) -> Self {
        Self { chunks, place: 0 }
    }

    /// The chunk that begins here.
    fn whole_chunk(&self) -> Option<&'a Chunk<T>> {
        self.chunks.first().filter(|_| self.place == 0)
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.place = 0;
    }

    fn item(&self) -> Option<&'a Arc<T>> {
        self.chunks.first()?.get(self.place)
    }

    fn step(&mut self) {
        self.place += 1;
        if self.chunks.first().is_some_and(|chunk| self.place >= chunk.len()) {
            self.skip_chunk();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::BTreeMap;

    /// A key and what it says.
    type Item = (u32, u8);

    fn order(left: &Item, right: &Item) -> Ordering {
        left.0.cmp(&right.0)
    }

    fn sorted(items: &BTreeMap<u32, u8>) -> Sorted<Item> {
        Sorted::from_sorted(items.iter().map(|(key, value)| Arc::new((*key, *value))).collect())
    }

    /// A run of neighbouring keys that are put in (`Some`) or taken out.
    fn runs() -> impl Strategy<Value = Vec<(u32, u32, Option<u8>)>> {
        prop::collection::vec((0..6000u32, 0..1500u32, prop::option::of(0..3u8)), 0..6)
    }

    fn change(list: &mut Sorted<Item>, model: &mut BTreeMap<u32, u8>, runs: &[(u32, u32, Option<u8>)]) {
        for (start, count, value) in runs {
            for key in *start..start + count {
                let (had, model_had) = match value {
                    Some(value) => (list.insert(Arc::new((key, *value)), order), model.insert(key, *value)),
                    None => (list.remove(|item| item.0.cmp(&key)), model.remove(&key)),
                };
                assert_eq!(had.map(|item| item.1), model_had);
            }
        }
        assert_eq!(list.len(), model.len());
        assert!(list.iter().map(|item| **item).eq(model.iter().map(|(key, value)| (*key, *value))));
        assert!(list.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= 2 * CHUNK));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn a_list_is_a_map_and_its_differences_lead_from_one_to_the_other(first in runs(), second in runs(), probe in 0..8000u32) {
            let mut model = BTreeMap::new();
            let mut list = Sorted::default();
            change(&mut list, &mut model, &first);
            let (old, before) = (list.clone(), model.clone());
            change(&mut list, &mut model, &second);
            prop_assert!(old.iter().map(|item| **item).eq(before.iter().map(|(key, value)| (*key, *value))), "a copy stays");
            prop_assert_eq!(list.find(|item| item.0.cmp(&probe)).map(|item| item.1), model.get(&probe).copied());
            let rest: Vec<u32> = list.beginning_at(|item| item.0 < probe).map(|item| item.0).collect();
            prop_assert_eq!(rest, model.range(probe..).map(|(key, _)| *key).collect::<Vec<_>>());
            let mut rebuilt = before;
            for (old, new) in old.differences(&list, order) {
                if let Some(old) = old {
                    prop_assert_eq!(rebuilt.remove(&old.0), Some(old.1));
                }
                if let Some(new) = new {
                    prop_assert_eq!(rebuilt.insert(new.0, new.1), None);
                }
            }
            prop_assert_eq!(&rebuilt, &model);
            // Lists that share nothing differ in everything.
            prop_assert_eq!(list.differences(&sorted(&model), order).len(), model.len());
        }
    }

    #[test]
    fn one_change_among_a_million_costs_a_chunk() {
        let old = Sorted::from_sorted((0..1_000_000).map(|key| Arc::new((2 * key, 0))).collect());
        let mut new = old.clone();
        new.insert(Arc::new((777_777, 1)), order);
        new.remove(|item| item.0.cmp(&1_500_000));
        let (compared, chunks) = (Cell::new(0), old.chunks.len());
        let differences = old.differences(&new, |left, right| {
            compared.set(compared.get() + 1);
            order(left, right)
        });
        assert_eq!((differences.len(), chunks), (2, 1954));
        assert!(compared.get() <= 2, "{} comparisons", compared.get());
        let copied =
            old.chunks.iter().filter(|chunk| !new.chunks.iter().any(|other| Arc::ptr_eq(chunk, other)));
        assert_eq!(copied.count(), 2);
    }
}
