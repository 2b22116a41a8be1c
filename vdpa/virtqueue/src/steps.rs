//! Tests of what loops may do with a [`Layout`]: every short sequence of steps on small rings, against a guest that keeps its own list of
//! what it offered.

use std::collections::VecDeque;
use std::sync::Arc;

use guest_mem::{ANONYMOUS_USER_OFFSET, GuestMemory};

use crate::chain::Walked;
use crate::config::{RingConfig, RingFeatures, RingLayout};
use crate::layout::{Layout, NEXT, Plain, Used};
use crate::packed::Packed;
use crate::split::Split;

const DESC: u64 = 0x10_0000;
const DRIVER: u64 = 0x20_0000;
const DEVICE: u64 = 0x30_0000;
const MEMORY: u64 = 0x40_0000;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// What the guest and we do, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The guest makes a chain of so many descriptors available.
    Offer(u16),
    /// A run of at most so many plain chains is fetched.
    Run(usize),
    /// The last so many of a run are put back at once.
    PutBack(usize),
    /// The chain at the cursor, plain or not, is fetched and passed.
    Chain,
    /// The last so many of those fetched are moved back.
    Unread(usize),
    /// All fetched are returned.
    Publish,
}

const STEPS: [Step; 11] = [
    Step::Offer(1),
    Step::Offer(2),
    Step::Run(1),
    Step::Run(2),
    Step::Run(32),
    Step::PutBack(1),
    Step::PutBack(2),
    Step::Chain,
    Step::Unread(1),
    Step::Unread(2),
    Step::Publish,
];

/// A chain as its guest knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chain {
    id: u16,
    descs: u16,
    addr: u64,
}

/// The guest's half, written from virtio 1.2 sections 2.7 and 2.8, for guests that keep the rules.
struct Guest {
    memory: Arc<GuestMemory>,
    is_split: bool,
    size: u16,
    /// Split: free descriptors. Packed: free positions (only how many).
    free: VecDeque<u16>,
    /// Split: the available index. Packed: position and wrap counter.
    avail: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
    serial: u64,
}

impl Guest {
    fn offer(&mut self, descs: u16) -> Option<Chain> {
        if self.free.len() < usize::from(descs) {
            return None;
        }
        let places: Vec<u16> = self.free.drain(..usize::from(descs)).collect();
        self.serial += 1;
        let addr = self.serial << 12;
        let last = usize::from(descs) - 1;
        if self.is_split {
            for (at, place) in places.iter().enumerate() {
                let next = places.get(at + 1).copied().unwrap_or(0);
                let flags = if at < last { NEXT } else { 0 };
                self.write(*place, addr + at as u64, 100 | u64::from(flags) << 32 | u64::from(next) << 48);
            }
            let slot = DRIVER + 4 + 2 * u64::from(self.avail & (self.size - 1));
            self.memory.store_u16(slot, places[0]).unwrap();
            self.avail = self.avail.wrapping_add(1);
            self.memory.store_u16(DRIVER + 2, self.avail).unwrap();
            return Some(Chain { id: places[0], descs: 1, addr });
        }
        let id = (self.serial * 7) as u16;
        for at in 0..=last {
            let bits = if self.wrap { AVAIL } else { USED };
            let flags = bits | if at < last { NEXT } else { 0 };
            self.write(self.avail, addr + at as u64, 100 | u64::from(id) << 32 | u64::from(flags) << 48);
            (self.avail, self.wrap) = self.after(self.avail, self.wrap, 1);
        }
        Some(Chain { id, descs, addr })
    }

    fn write(&self, index: u16, addr: u64, rest: u64) {
        let at = DESC + 16 * u64::from(index);
        self.memory.store_u64(at, addr).unwrap();
        self.memory.store_u64(at + 8, rest).unwrap();
    }

    fn after(&self, index: u16, wrap: bool, by: u16) -> (u16, bool) {
        let next = u32::from(index) + u32::from(by);
        let size = u32::from(self.size);
        if next >= size { ((next - size) as u16, !wrap) } else { (next as u16, wrap) }
    }

    /// Looks for `chains` as used, in this order, and for none behind them.
    fn collect(&mut self, chains: &[Chain]) {
        for chain in chains {
            let id = self.next_used().unwrap_or_else(|| panic!("{chain:?} did not come back"));
            assert_eq!(id, chain.id);
            if self.is_split {
                self.used = self.used.wrapping_add(1);
                let mut at = Some(id);
                while let Some(index) = at {
                    let rest = self.memory.load_u64(DESC + 16 * u64::from(index) + 8).unwrap();
                    self.free.push_back(index);
                    at = ((rest >> 32) as u16 & NEXT != 0).then_some((rest >> 48) as u16);
                }
            } else {
                (self.used, self.used_wrap) = self.after(self.used, self.used_wrap, chain.descs);
                self.free.extend((0..chain.descs).map(|_| 0));
            }
        }
        assert_eq!(self.next_used(), None, "something came back that was not fetched");
    }

    fn next_used(&self) -> Option<u16> {
        if self.is_split {
            let at = DEVICE + 4 + 8 * u64::from(self.used & (self.size - 1));
            let more = self.memory.load_u16(DEVICE + 2).unwrap() != self.used;
            return more.then(|| self.memory.load_u32(at).unwrap() as u16);
        }
        let rest = self.memory.load_u64(DESC + 16 * u64::from(self.used) + 8).unwrap();
        let bits = (rest >> 48) as u16 & (AVAIL | USED);
        (bits == if self.used_wrap { AVAIL | USED } else { 0 }).then_some((rest >> 32) as u16)
    }
}

/// A ring, its guest, and what must be true of both.
struct World<L> {
    layout: L,
    guest: Guest,
    offered: VecDeque<Chain>,
    fetched: Vec<(Chain, Used)>,
    /// The last run, while nothing came after it.
    run: Vec<Plain>,
}

impl<L: Layout> World<L> {
    /// A ring that stands at `start`: an index, or a position with its wrap counter in bit 15.
    fn new(memory: &Arc<GuestMemory>, layout: RingLayout, size: u16, start: u16) -> Self {
        let is_split = layout == RingLayout::Split;
        for area in [DESC, DRIVER, DEVICE] {
            memory.write(area, &[0; 0x80]).unwrap();
        }
        let (at, wrap) = if is_split { (start, true) } else { (start & 0x7fff, start & 0x8000 != 0) };
        if is_split {
            memory.store_u16(DRIVER + 2, start).unwrap();
            memory.store_u16(DEVICE + 2, start).unwrap();
        } else {
            // Used in the lap before: both bits as the other wrap counter has them, behind us as ours.
            for index in 0..size {
                let lap = if index < at { wrap } else { !wrap };
                let flags = if lap { AVAIL | USED } else { 0 };
                memory.store_u64(DESC + 16 * u64::from(index) + 8, u64::from(flags) << 48).unwrap();
            }
        }
        let config = RingConfig {
            size,
            features: RingFeatures { layout, ..Default::default() },
            header_len: 12,
            desc_addr: DESC + ANONYMOUS_USER_OFFSET,
            driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
            device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
            base: if is_split { 0 } else { u32::from(start) | u32::from(start) << 16 },
        };
        let guest = Guest {
            memory: Arc::clone(memory),
            is_split,
            size,
            free: (0..size).collect(),
            avail: at,
            wrap,
            used: at,
            used_wrap: wrap,
            serial: 0,
        };
        let layout = L::new(&config, memory).unwrap();
        Self { layout, guest, offered: VecDeque::new(), fetched: Vec::new(), run: Vec::new() }
    }

    /// Does a step; false if it is none here.
    fn step(&mut self, step: Step) -> bool {
        let run = std::mem::take(&mut self.run);
        match step {
            Step::Offer(descs) => match self.guest.offer(descs) {
                Some(chain) => self.offered.push_back(chain),
                None => return false,
            },
            Step::Run(want) => self.fetch_run(want),
            Step::PutBack(count) if count <= run.len() => {
                self.layout.put_back(&run[run.len() - count..]);
                self.forget(count);
            }
            Step::Chain => self.fetch_chain(),
            Step::Unread(count) if count <= self.fetched.len() => {
                let last = &self.fetched[self.fetched.len() - count..];
                let last: Vec<Used> = last.iter().map(|(_, used)| *used).collect();
                self.layout.unread(&last);
                self.forget(count);
            }
            Step::Publish if !self.fetched.is_empty() => {
                let used: Vec<Used> = self.fetched.iter().map(|(_, used)| *used).collect();
                self.layout.publish(&used, false, None);
                let chains: Vec<Chain> = self.fetched.drain(..).map(|(chain, _)| chain).collect();
                self.guest.collect(&chains);
            }
            Step::PutBack(_) | Step::Unread(_) | Step::Publish => return false,
        }
        self.check_base();
        true
    }

    /// The last `count` are to be fetched again.
    fn forget(&mut self, count: usize) {
        let start = self.fetched.len() - count;
        self.fetched.drain(start..).rev().for_each(|(chain, _)| self.offered.push_front(chain));
    }

    fn fetch_run(&mut self, want: usize) {
        let bound = self.layout.available(want).unwrap();
        let mut run = vec![Plain::default(); bound];
        let count = self.layout.fetch_plain(0, &mut run);
        run.truncate(count);
        let is_plain = |chain: &&Chain| self.is_plain(chain);
        let expected = self.offered.iter().take(want).take_while(is_plain).count();
        assert_eq!(count, expected, "of {:?}", self.offered);
        for plain in &run {
            let chain = self.offered.pop_front().unwrap();
            assert_eq!((plain.addr, plain.len(), plain.used().id()), (chain.addr, 100, chain.id));
            assert_eq!((plain.used().descs(), plain.used().len()), (1, 0));
            self.fetched.push((chain, plain.used()));
        }
        self.run = run;
    }

    /// Whether it has one descriptor. A split chain occupies one place whatever it has.
    fn is_plain(&self, chain: &Chain) -> bool {
        let rest = self.guest.memory.load_u64(DESC + 16 * u64::from(chain.id) + 8);
        if self.guest.is_split { (rest.unwrap() >> 32) as u16 & NEXT == 0 } else { chain.descs == 1 }
    }

    fn fetch_chain(&mut self) {
        let mut cursor = self.layout.cursor();
        if self.layout.available(1).unwrap() == 0 {
            assert!(self.offered.is_empty(), "{:?}", self.offered);
            return;
        }
        let Some(first) = self.layout.fetch(&cursor).unwrap() else {
            assert!(self.offered.is_empty(), "{:?}", self.offered);
            return;
        };
        let chain = self.offered.pop_front().unwrap();
        assert_eq!(first.addr, chain.addr);
        let walked = Walked { last_link: chain.id, descs: chain.descs };
        let used = self.layout.finish(&first, &walked);
        assert_eq!((used.id(), used.descs()), (chain.id, chain.descs));
        self.layout.advance(&mut cursor, &first, used.descs()).unwrap();
        self.layout.set_cursor(cursor);
        self.fetched.push((chain, used));
    }

    /// The ring stands where the guest's list says.
    fn check_base(&self) {
        let fetched = self.fetched.iter().map(|(chain, _)| chain.descs).sum();
        let expected = if self.guest.is_split {
            u32::from(self.guest.used.wrapping_add(fetched))
        } else {
            let encode = |(index, wrap)| u32::from(index | if wrap { 0x8000 } else { 0u16 });
            let used = (self.guest.used, self.guest.used_wrap);
            encode(self.guest.after(used.0, used.1, fetched)) | encode(used) << 16
        };
        assert_eq!(self.layout.base(), expected);
    }
}

/// Every sequence of at most `depth` steps from `path` on; how many.
fn explore(depth: usize, path: &mut Vec<Step>, run: &mut impl FnMut(&[Step]) -> bool) -> u64 {
    let mut count = 0;
    for step in STEPS {
        path.push(step);
        if run(path) {
            count += 1;
            if path.len() < depth {
                count += explore(depth, path, run);
            }
        }
        path.pop();
    }
    count
}

fn explore_layout<L: Layout>(layout: RingLayout, size: u16, start: u16, prepare: impl Fn(&mut L)) {
    let memory = GuestMemory::anonymous(&[(0, MEMORY)]).unwrap();
    let count = explore(6, &mut Vec::new(), &mut |path| {
        let mut world = World::<L>::new(&memory, layout, size, start);
        prepare(&mut world.layout);
        // Only the last step can be none: the others were tried before.
        path.iter().all(|step| world.step(*step))
    });
    assert!(count > 10_000, "{layout:?} {size}: {count}");
}

#[test]
fn every_short_sequence_of_steps_on_small_packed_rings() {
    for (size, start) in [(1, 0x8000), (1, 0), (2, 0x8001), (3, 0x8002), (3, 1), (4, 3)] {
        explore_layout::<Packed>(RingLayout::Packed, size, start, |_| {});
    }
}

#[test]
fn every_short_sequence_of_steps_on_small_split_rings() {
    for (size, start) in [(1, 0), (1, u16::MAX), (2, 1), (4, u16::MAX - 1)] {
        // In its first rounds, and when they begin anew.
        for round in [1, 254] {
            explore_layout::<Split>(RingLayout::Split, size, start, |layout| layout.begin_in_round(round));
        }
    }
}

/// Thousands of steps on rings of every kind of size: through many laps and all rounds, and from just before the end of the largest.
#[test]
fn long_sequences_of_steps_on_rings_up_to_the_largest() {
    fn walk<L: Layout>(layout: RingLayout, size: u16, start: u16) {
        let memory = GuestMemory::anonymous(&[(0, MEMORY)]).unwrap();
        let mut world = World::<L>::new(&memory, layout, size, start);
        let (mut state, mut published) = (u64::from(size), 0);
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let step = STEPS[(state >> 33) as usize % STEPS.len()];
            published += u32::from(world.step(step) && step == Step::Publish);
        }
        assert!(published > 300, "{layout:?} {size}: {published}");
    }
    for (size, start) in
        [(1, 0), (3, 0x8001), (5, 4), (7, 0x8000), (256, 0x80fe), (32_768, 0xfffd), (32_768, 0x7ffe)]
    {
        walk::<Packed>(RingLayout::Packed, size, start);
    }
    for (size, start) in
        [(1, 0), (2, 3), (8, u16::MAX - 2), (256, 7), (32_768, u16::MAX - 5), (32_768, 0x7ffe)]
    {
        walk::<Split>(RingLayout::Split, size, start);
    }
}

/// A chain of `count` descriptors at the cursor is passed, as if all were there.
fn pass_chain(layout: &mut Packed, count: u16) {
    let mut cursor = layout.cursor();
    let first = layout.fetch(&cursor).unwrap().unwrap();
    layout.advance(&mut cursor, &first, count).unwrap();
    layout.set_cursor(cursor);
}

/// A guest that rewrites its descriptors while a burst is taken can make all of them look available for the next lap: no more are fetched
/// than the ring has, whatever was asked for before the burst's first chain was seen.
#[test]
fn g31_g45_a_packed_run_never_fetches_more_than_the_ring_has() {
    for size in [1u16, 2, 3, 4, 8, 32] {
        for long in 1..=size {
            let memory = GuestMemory::anonymous(&[(0, MEMORY)]).unwrap();
            let mut world = World::<Packed>::new(&memory, RingLayout::Packed, size, 0x8000);
            let mark_all = |wraps: &dyn Fn(u16) -> bool| {
                for index in 0..size {
                    let flags = if wraps(index) { AVAIL } else { USED };
                    let rest = 100 | u64::from(index) << 32 | u64::from(flags) << 48;
                    memory.store_u64(DESC + 16 * u64::from(index) + 8, rest).unwrap();
                }
            };
            mark_all(&|_| true);
            let bound = world.layout.available(32).unwrap();
            pass_chain(&mut world.layout, long);
            // Behind the long chain still of this lap, from the ring's start on of the next.
            mark_all(&|index| index >= long % size && long < size);
            let mut run = vec![Plain::default(); bound.saturating_sub(1)];
            let count = world.layout.fetch_plain(0, &mut run);
            assert!(count <= usize::from(size - long), "{size} {long}: {count}");
            assert_eq!(world.layout.available(32), Ok(usize::from(size - long) - count));
            let mut used = vec![Used::new(0, long)];
            used.extend(run[..count].iter().map(Plain::used));
            world.layout.publish(&used, true, None);
            assert!(world.layout.base() >> 16 & 0x7fff < u32::from(size), "the used position left the ring");
        }
    }
}
