//! Which port of a VPC has which block of the ports of a NAT gateway's addresses.
//!
//! Nobody hands blocks out: every host computes the same from the same ports and addresses, in whatever order it heard of them. Each port likes the blocks
//! in an order of its own, made from its uid: the addresses by rendezvous (highest hash first), on each of them the blocks by double hashing, one of
//! each address in turn. Ports choose in the order of their uids, each the first block that it likes and that is left. What comes of that depends on who is there
//! alone.
//!
//! Kept up at the cost of what moves: a port that comes may take the block of one that chooses after it, which takes its next, and so on; a port that goes leaves
//! its block to the first of those that would have had it. With half of the blocks in use less than every second change moves anybody but its port, and even with
//! all in use a change moves about the logarithm of the number of ports. Another address takes from each port's list what it likes better, which is one port in so
//! many as there are addresses; another size of blocks moves all.

use crate::hash::{Hash, hash};
use model::Uid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A block: of which address, by its place in the gateway's list, and which of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) address: u16,
    pub(crate) block: u16,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Blocks {
    addresses: Vec<IpAddr>,
    /// Blocks of each address.
    of_each: u16,
    holders: BTreeMap<Slot, Uid>,
    /// The block of each port, and how many it likes better.
    ports: BTreeMap<Uid, (Slot, u32)>,
    /// Who would have each block, but for those who chose before.
    passed: BTreeMap<Slot, BTreeSet<Uid>>,
    /// Ports that there is no block left for.
    without: BTreeSet<Uid>,
}

/// The blocks that a port likes, best first.
struct Taste {
    addresses: Vec<(u16, Hash)>,
    of_each: u64,
    stride: u64,
}

impl Taste {
    fn at(&self, attempt: u32) -> Option<Slot> {
        let addresses = self.addresses.len() as u64;
        let (round, which) = (u64::from(attempt).checked_div(addresses)?, u64::from(attempt) % addresses);
        let (address, start) = *self.addresses.get(which as usize)?;
        if round >= self.of_each {
            return None;
        }
        let block = (start % self.of_each + round * self.stride) % self.of_each;
        Some(Slot { address, block: block as u16 })
    }

    fn find(&self, slot: Slot) -> Option<u32> {
        (0..)
            .map_while(|attempt| Some((attempt, self.at(attempt)?)))
            .find(|(_, at)| *at == slot)
            .map(|(at, _)| at)
    }
}

fn is_coprime(one: u64, other: u64) -> bool {
    let (mut one, mut other) = (one, other);
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one == 1
}

impl Blocks {
    /// So many blocks of each of these addresses, which are nobody's yet.
    pub(crate) fn new(addresses: Vec<IpAddr>, of_each: u16) -> Self {
        Self {
            addresses,
            of_each,
            holders: BTreeMap::new(),
            ports: BTreeMap::new(),
            passed: BTreeMap::new(),
            without: BTreeSet::new(),
        }
    }

    fn taste(&self, port: Uid) -> Taste {
        let rated = |(number, address): (usize, &IpAddr)| {
            (hash(&[port.as_bytes(), b"block", &crate::hash::bytes(*address)]), number as u16)
        };
        let mut rated: Vec<(Hash, u16)> = self.addresses.iter().enumerate().map(rated).collect();
        rated.sort_unstable_by(|one, other| other.cmp(one));
        let of_each = u64::from(self.of_each);
        // Any step that meets all blocks of an address before the first one again.
        let wanted = hash(&[port.as_bytes(), b"stride"]);
        let mut steps = (0..of_each).map(|more| 1 + (wanted % of_each + more) % of_each);
        let stride = steps.find(|step| is_coprime(*step, of_each)).unwrap_or(1);
        Taste { addresses: rated.into_iter().map(|(hash, number)| (number, hash)).collect(), of_each, stride }
    }

    /// The block of a port.
    pub(crate) fn of(&self, port: Uid) -> Option<Slot> {
        self.ports.get(&port).map(|(slot, _)| *slot)
    }

    /// Ports that there should be a block for, and is none.
    pub(crate) fn without(&self) -> impl Iterator<Item = Uid> {
        self.without.iter().copied()
    }

    /// How many are ports'.
    pub(crate) fn in_use(&self) -> usize {
        self.holders.len()
    }

    /// A port comes; it and those whose blocks are others now are added to `moved`.
    pub(crate) fn insert(&mut self, port: Uid, moved: &mut BTreeSet<Uid>) {
        if self.ports.contains_key(&port) || self.without.contains(&port) {
            return;
        }
        let (mut port, mut taste, mut attempt) = (port, self.taste(port), 0);
        moved.insert(port);
        while let Some(slot) = taste.at(attempt) {
            match self.holders.get(&slot).copied() {
                Some(other) if other < port => {
                    self.passed.entry(slot).or_default().insert(port);
                    attempt += 1;
                }
                other => {
                    self.holders.insert(slot, port);
                    self.ports.insert(port, (slot, attempt));
                    let Some(other) = other else { return };
                    self.passed.entry(slot).or_default().insert(other);
                    let before = self.ports.remove(&other).map_or(0, |(_, attempt)| attempt);
                    moved.insert(other);
                    (port, taste, attempt) = (other, self.taste(other), before + 1);
                }
            }
        }
        self.without.insert(port);
    }

    /// A port goes; it and those whose blocks are others now are added to `moved`.
    pub(crate) fn remove(&mut self, port: Uid, moved: &mut BTreeSet<Uid>) {
        let taste = self.taste(port);
        let free = match self.ports.remove(&port) {
            Some((slot, attempt)) => {
                self.forget(port, &taste, 0..attempt);
                Some(slot)
            }
            None if self.without.remove(&port) => {
                self.forget(port, &taste, 0..u32::MAX);
                None
            }
            None => return,
        };
        moved.insert(port);
        let mut free = free;
        while let Some(slot) = free {
            self.holders.remove(&slot);
            let Some(next) = self.passed.get(&slot).and_then(BTreeSet::first).copied() else { return };
            let taste = self.taste(next);
            let attempt = taste.find(slot).unwrap_or(0);
            let before = self.ports.remove(&next);
            self.forget(next, &taste, attempt..before.map_or(u32::MAX, |(_, before)| before));
            self.without.remove(&next);
            self.holders.insert(slot, next);
            self.ports.insert(next, (slot, attempt));
            moved.insert(next);
            free = before.map(|(slot, _)| slot);
        }
    }

    /// A port would have none of these any more.
    fn forget(&mut self, port: Uid, taste: &Taste, attempts: std::ops::Range<u32>) {
        for slot in attempts.map_while(|attempt| taste.at(attempt)) {
            if let Some(ports) = self.passed.get_mut(&slot) {
                ports.remove(&port);
                if ports.is_empty() {
                    self.passed.remove(&slot);
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use model::{Key, Kind, Name};
    use proptest::prelude::*;

    fn uid(number: u32) -> Uid {
        let name = Name::parse(&format!("p{number}")).unwrap();
        Uid::derived(&Key { kind: Kind::Port, project: Some(Name::default_project()), name })
    }

    fn addresses(count: u8) -> Vec<IpAddr> {
        (0..count).map(|last| IpAddr::from([198, 51, 100, 10 + last])).collect()
    }

    /// Each in turn takes what it likes best of what is left.
    fn naive(of: &Blocks, ports: &BTreeSet<Uid>) -> BTreeMap<Uid, Slot> {
        let mut taken = BTreeSet::new();
        let mut chosen = BTreeMap::new();
        for port in ports {
            let taste = of.taste(*port);
            let slot = (0..).map_while(|attempt| taste.at(attempt)).find(|slot| taken.insert(*slot));
            chosen.extend(slot.map(|slot| (*port, slot)));
        }
        chosen
    }

    #[test]
    fn each_port_likes_each_block_once() {
        for (count, of_each) in [(1, 1), (1, 63), (3, 64), (2, 1008), (4, 6)] {
            let blocks = Blocks::new(addresses(count), of_each);
            for number in 0..20 {
                let taste = blocks.taste(uid(number));
                let all: Vec<Slot> = (0..).map_while(|attempt| taste.at(attempt)).collect();
                let each: BTreeSet<Slot> = all.iter().copied().collect();
                assert_eq!((all.len(), each.len()), (usize::from(count) * usize::from(of_each), all.len()));
                assert_eq!(taste.find(all[all.len() / 2]), Some(all.len() as u32 / 2));
            }
        }
    }

    proptest! {
        #[test]
        fn it_depends_on_who_is_there_alone(
            count in 1..5u8,
            of_each in prop_oneof![1..6u16, Just(63)],
            changes in prop::collection::vec((0..30u32, any::<bool>()), 1..120),
        ) {
            let mut blocks = Blocks::new(addresses(count), of_each);
            let mut there = BTreeSet::new();
            for (number, comes) in changes {
                let before: BTreeMap<Uid, Slot> = blocks.ports.iter().map(|(port, (slot, _))| (*port, *slot)).collect();
                let mut moved = BTreeSet::new();
                match comes {
                    true => { there.insert(uid(number)); blocks.insert(uid(number), &mut moved) }
                    false => { there.remove(&uid(number)); blocks.remove(uid(number), &mut moved) }
                }
                let after = naive(&blocks, &there);
                prop_assert_eq!(&blocks.ports.iter().map(|(port, (slot, _))| (*port, *slot)).collect::<BTreeMap<_, _>>(), &after);
                let holders: BTreeMap<Slot, Uid> = after.iter().map(|(port, slot)| (*slot, *port)).collect();
                prop_assert_eq!(holders.len(), after.len(), "no two share one");
                prop_assert_eq!(&blocks.holders, &holders);
                let without: BTreeSet<Uid> = there.iter().filter(|port| !after.contains_key(port)).copied().collect();
                prop_assert_eq!(&blocks.without, &without);
                let differ = before.keys().chain(after.keys()).filter(|port| before.get(port) != after.get(port));
                prop_assert!(differ.into_iter().all(|port| moved.contains(port)), "whoever moved is said");
            }
            let mut moved = BTreeSet::new();
            there.iter().for_each(|port| blocks.remove(*port, &mut moved));
            prop_assert!(blocks.passed.is_empty() && blocks.holders.is_empty() && blocks.without.is_empty());
        }
    }

    /// How many others move, on average, when a port comes or goes.
    fn movers(count: u8, of_each: u16, ports: u32) -> f64 {
        let mut blocks = Blocks::new(addresses(count), of_each);
        let mut moved = BTreeSet::new();
        (0..ports).for_each(|number| blocks.insert(uid(number), &mut moved));
        let mut others = 0;
        for number in 0..ports {
            let mut moved = BTreeSet::new();
            blocks.remove(uid(number), &mut moved);
            blocks.insert(uid(number + 10_000), &mut moved);
            blocks.remove(uid(number + 10_000), &mut moved);
            others += moved.len() - 2;
            blocks.insert(uid(number), &mut BTreeSet::new());
        }
        others as f64 / f64::from(ports)
    }

    #[test]
    fn few_move_when_one_comes_or_goes() {
        let (half, full) = (movers(4, 63, 126), movers(4, 63, 252));
        assert!(half < 1.5, "three changes with half of the blocks in use: {half}");
        assert!(full < 24.0, "three changes with all blocks in use: {full}");
    }

    #[test]
    fn another_address_takes_its_share_alone() {
        let of = |count| {
            let mut blocks = Blocks::new(addresses(count), 63);
            (0..100).for_each(|number| blocks.insert(uid(number), &mut BTreeSet::new()));
            (0..100).map(move |number| blocks.of(uid(number)).unwrap()).collect::<Vec<Slot>>()
        };
        let (before, after) = (of(4), of(5));
        let stayed = before.iter().zip(&after).filter(|(before, after)| before == after).count();
        assert!((55..=95).contains(&stayed), "{stayed} of 100 stay");
    }
}
