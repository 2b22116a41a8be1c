//! Which of many ranges a number is in: what longest prefix match becomes once the prefixes are known.
//!
//! Prefixes cut the numbers of a word into ranges in each of which the longest match is the same. The ranges' starts lie in order in one
//! array. A *node* divides the span of its starts into equal parts, a half to all as many as starts, and says for each part
//! where in the array to look; a look compares the few starts of that part, without a branch. A part with more starts than
//! one look compares has a node of its own, for the span of its own starts, whatever prefix they share. So a look-up reads a word of
//! the node and a line or two of the array, however many ranges there are, unless the prefixes are in clusters: then it is one word more
//! for each size of cluster. A part is at most a sixteenth of its node's span, so that there are eight nodes at most on the way
//! of a word of 32 bits, 16 for 64.

/// Least parts of a node.
const LEAST_PARTS: usize = 32;
/// In an entry: the rest is a node's number.
const NODE: u32 = 1 << 31;
/// Bits of an entry that say how many starts to compare.
const COUNT_BITS: u32 = 4;

/// A number that is looked up.
pub(crate) trait Word: Copy + Ord + Default {
    /// The least number.
    const MIN: Self;
    /// The greatest.
    const MAX: Self;
    /// The one after it, if there is one.
    fn next(self) -> Option<Self>;
    /// How far it is above `least`, 0 if below, in units of 2^`shift`.
    fn above(self, least: Self, shift: u32) -> u64;
}

macro_rules! word {
    ($type:ty) => {
        impl Word for $type {
            const MIN: Self = 0;
            const MAX: Self = <$type>::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline(always)]
            fn above(self, least: Self, shift: u32) -> u64 {
                u64::from(self.saturating_sub(least).wrapping_shr(shift))
            }
        }
    };
}

word!(u32);
word!(u64);

/// A range, up to the start of the next, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range<W> {
    pub(crate) start: W,
    pub(crate) result: u32,
}

/// A division of a span into equal parts.
#[derive(Clone, Copy, Debug)]
struct Node<W> {
    /// The least start in it.
    least: W,
    /// The number of its last part; whatever is above belongs there.
    last: u32,
    /// Where its parts' entries begin.
    entries: u32,
    /// Its parts are this power of two wide.
    shift: u32,
}

/// Where to look on: [`NODE`] and a node's number, or the range that the part begins in, and how many begin in the part.
pub(crate) type Entry = u32;

/// Sets of ranges. A look compares `LOOK` starts.
#[derive(Clone, Debug)]
pub(crate) struct Ranges<W, const LOOK: usize> {
    /// Where the ranges start; those of a set, in order, one after another.
    starts: Vec<W>,
    /// What they say.
    results: Vec<u32>,
    nodes: Vec<Node<W>>,
    entries: Vec<Entry>,
}

impl<W: Word, const LOOK: usize> Default for Ranges<W, LOOK> {
    fn default() -> Self {
        const { assert!(LOOK < 1 << COUNT_BITS) };
        Self { starts: Vec::new(), results: Vec::new(), nodes: Vec::new(), entries: Vec::new() }
    }
}

impl<W: Word, const LOOK: usize> Ranges<W, LOOK> {
    /// Adds a set of ranges, in order, the first of which starts at the least number; returns where to look in it.
    pub(crate) fn add(&mut self, ranges: &[Range<W>]) -> Entry {
        let first = self.starts.len();
        self.starts.extend(ranges.iter().map(|range| range.start));
        self.results.extend(ranges.iter().map(|range| range.result));
        self.entry(first, ranges.len().saturating_sub(1))
    }

    /// After the last set: makes room for a look at the end.
    pub(crate) fn finish(&mut self) {
        self.starts.extend([W::MAX; LOOK]);
        self.starts.shrink_to_fit();
        self.results.shrink_to_fit();
        self.nodes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// An entry for numbers from within range `first` on, with `count` more ranges.
    fn entry(&mut self, first: usize, count: usize) -> Entry {
        let starts = self.starts.get(first + 1..).and_then(|starts| starts.get(..count)).unwrap_or_default();
        let (Some(least), Some(greatest)) = (starts.first(), starts.last()) else {
            return (first as Entry) << COUNT_BITS;
        };
        if count <= LOOK {
            return (first as Entry) << COUNT_BITS | count as Entry;
        }
        let (least, greatest) = (*least, *greatest);
        let parts = count.max(LEAST_PARTS) as u64;
        let shift = (0..u64::BITS).find(|shift| greatest.above(least, *shift) < parts).unwrap_or_default();
        let last = greatest.above(least, shift);
        // How many begin in each part, and then an entry for each.
        let mut counts = vec![0usize; last as usize + 1];
        for start in starts {
            if let Some(count) = counts.get_mut(start.above(least, shift) as usize) {
                *count += 1;
            }
        }
        let (node, entries) = (self.nodes.len(), self.entries.len());
        self.nodes.push(Node { least, last: last as u32, entries: entries as u32, shift });
        self.entries.resize(entries + counts.len(), 0);
        let mut first = first;
        for (part, count) in counts.into_iter().enumerate() {
            let entry = self.entry(first, count);
            if let Some(to) = self.entries.get_mut(entries + part) {
                *to = entry;
            }
            first += count;
        }
        NODE | node as Entry
    }

    /// The entry that `entry`, if it is a node's, has for `word`.
    #[inline(always)]
    pub(crate) fn step(&self, entry: Entry, word: W) -> Entry {
        self.entry_at(entry, word).copied().unwrap_or(entry)
    }

    #[inline(always)]
    fn entry_at(&self, entry: Entry, word: W) -> Option<&Entry> {
        if entry & NODE == 0 {
            return None;
        }
        let node = self.nodes.get((entry & !NODE) as usize)?;
        let part = word.above(node.least, node.shift).min(node.last.into());
        self.entries.get(node.entries as usize + part as usize)
    }

    /// Asks for what [`Ranges::step`] reads.
    #[inline(always)]
    pub(crate) fn prefetch_step(&self, entry: Entry, word: W) {
        if let Some(entry) = self.entry_at(entry, word) {
            cpu::prefetch_read(entry);
        }
    }

    /// Asks for what [`Ranges::find`] reads of an entry that is no node's.
    #[inline(always)]
    pub(crate) fn prefetch_find(&self, entry: Entry) {
        let first = ((entry & !NODE) >> COUNT_BITS) as usize;
        if let (Some(start), Some(last), Some(result)) =
            (self.starts.get(first + 1), self.starts.get(first + LOOK), self.results.get(first))
        {
            cpu::prefetch_read(start);
            cpu::prefetch_read(last);
            cpu::prefetch_read(result);
        }
    }

    /// What the range of `word` says, looked for from `entry` on.
    #[inline(always)]
    pub(crate) fn find(&self, mut entry: Entry, word: W) -> u32 {
        while entry & NODE != 0 {
            match self.entry_at(entry, word) {
                Some(next) => entry = *next,
                None => return 0,
            }
        }
        let (first, count) = ((entry >> COUNT_BITS) as usize, entry & ((1 << COUNT_BITS) - 1));
        let looked_at = self.starts.get(first + 1..).and_then(|starts| starts.first_chunk::<LOOK>());
        let Some(looked_at) = looked_at else { return 0 };
        let mut passed = 0;
        for (position, start) in (0..).zip(looked_at) {
            passed += u32::from((position < count) & (*start <= word));
        }
        self.results.get(first + passed as usize).copied().unwrap_or_default()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(self.starts.as_slice())
            + size_of_val(self.results.as_slice())
            + size_of_val(self.nodes.as_slice())
            + size_of_val(self.entries.as_slice())
    }
}

/// Builds a set of ranges out of nested ones, given in order of their starts, the outer one first.
pub(crate) struct Sweep<W> {
    ranges: Vec<Range<W>>,
    /// The last number of each range that is open, and what it says.
    open: Vec<(W, u32)>,
}

impl<W: Word> Sweep<W> {
    /// Nothing is in any range: `otherwise`.
    pub(crate) fn new(otherwise: u32) -> Self {
        Self { ranges: vec![Range { start: W::MIN, result: otherwise }], open: vec![(W::MAX, otherwise)] }
    }

    /// What is said at `start`, which is not before any start given earlier.
    pub(crate) fn at(&mut self, start: W) -> u32 {
        while let [.., (_, outer), (last, _)] = *self.open
            && last < start
        {
            self.open.pop();
            if let Some(next) = last.next() {
                self.cut(next, outer);
            }
        }
        self.open.last().map_or(0, |(_, result)| *result)
    }

    /// From `start` to `last` it is `result`.
    pub(crate) fn push(&mut self, start: W, last: W, result: u32) {
        self.at(start);
        self.cut(start, result);
        self.open.push((last, result));
    }

    fn cut(&mut self, start: W, result: u32) {
        if self.ranges.last().is_some_and(|range| range.start == start) {
            self.ranges.pop();
        }
        if self.ranges.last().is_none_or(|range| range.result != result) {
            self.ranges.push(Range { start, result });
        }
    }

    /// The ranges.
    pub(crate) fn finish(mut self) -> Vec<Range<W>> {
        while let [.., (_, outer), (last, _)] = *self.open {
            self.open.pop();
            if let Some(next) = last.next() {
                self.cut(next, outer);
            }
        }
        self.ranges
    }
}
