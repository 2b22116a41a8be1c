//! A burst against a list of byte vectors: packets of one extent and of several in any order, heads loaded at any moment, answers and
//! offloads in between. What is uninitialised in a burst would show up as other bytes than the list's (and under a sanitizer as itself).

#![allow(unsafe_code, reason = "`Burst::added` is what drivers call")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use proptest::prelude::*;
use std::sync::LazyLock;
use towpath_buf::{
    BURST_BYTES, BURST_EXTENTS, BURST_PACKETS, Burst, Checksum, Extent, HEAD_BYTES, HEAD_ROOM, Offload,
};

/// Where all extents lie.
static BYTES: LazyLock<Vec<u8>> =
    LazyLock::new(|| (0..70_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect());

#[derive(Clone, Debug)]
enum Step {
    /// A packet of extents of these lengths.
    Commit(Vec<usize>, bool),
    /// Packets of one extent each.
    Add(Vec<usize>),
    /// Extents pushed and forgotten.
    Abandon(Vec<usize>),
    /// Extents pushed while packets of one are added: there is no place for those.
    AddWhileOpen(Vec<usize>, usize),
    Load,
    Offload(usize, bool),
    Replace(usize, usize),
    Prepend(usize, usize),
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..200, 2 => 126usize..131, 1 => 1_000usize..1_600, 1 => Just(66_000)]
}

fn step() -> impl Strategy<Value = Step> {
    let parts = || prop::collection::vec(prop_oneof![6 => 1usize..90, 1 => Just(0), 1 => length()], 0..5);
    let many = prop::collection::vec(Just(1usize), 60..200);
    prop_oneof![
        4 => (parts(), any::<bool>()).prop_map(|(parts, asks)| Step::Commit(parts, asks)),
        1 => many.prop_map(|parts| Step::Commit(parts, false)),
        4 => prop::collection::vec(length(), 0..33).prop_map(Step::Add),
        1 => parts().prop_map(Step::Abandon),
        1 => (parts(), length()).prop_map(|(parts, len)| Step::AddWhileOpen(parts, len)),
        3 => Just(Step::Load),
        1 => (0usize..34, any::<bool>()).prop_map(|(at, asks)| Step::Offload(at, asks)),
        1 => (0usize..34, 0usize..150).prop_map(|(at, len)| Step::Replace(at, len)),
        1 => (0usize..34, 0usize..130).prop_map(|(at, len)| Step::Prepend(at, len)),
    ]
}

const ASKS: Offload =
    Offload { checksum: Checksum::Partial { start: 34, offset: 6 }, segment: None, tunnel: 0 };

/// What a packet is supposed to be.
struct Model {
    bytes: Vec<u8>,
    head: usize,
    room: usize,
    offload: Offload,
}

struct World {
    burst: Burst<'static>,
    packets: Vec<Model>,
    loaded: usize,
    extents: usize,
    bytes: usize,
    /// Where the next extent begins.
    at: usize,
}

impl World {
    fn extent(&mut self, len: usize) -> &'static [u8] {
        let start = self.at % (BYTES.len() - len);
        self.at += 977;
        &BYTES[start..start + len]
    }

    fn push(&mut self, parts: &[usize]) -> (Vec<u8>, usize) {
        let (mut bytes, mut open) = (Vec::new(), 0);
        for len in parts {
            let part = self.extent(*len);
            let pushed = self.burst.push_extent(Extent::from_slice(part)).is_ok();
            assert_eq!(pushed, part.is_empty() || self.extents + open < BURST_EXTENTS);
            if pushed {
                bytes.extend_from_slice(part);
                open += usize::from(!part.is_empty());
            }
        }
        assert_eq!((self.burst.open_bytes(), self.burst.open_extents().len()), (bytes.len(), open));
        (bytes, open)
    }

    fn accept(&mut self, bytes: Vec<u8>, extents: usize, offload: Offload) {
        self.bytes += bytes.len();
        self.extents += extents;
        self.packets.push(Model { bytes, head: 0, room: HEAD_ROOM, offload });
    }

    fn commit(&mut self, parts: &[usize], asks: bool) {
        let (bytes, extents) = self.push(parts);
        let offload = if asks { ASKS } else { Offload::NONE };
        let fits = !bytes.is_empty() && self.packets.len() < BURST_PACKETS;
        assert_eq!(self.burst.commit(offload), fits);
        if fits {
            self.accept(bytes, extents, offload);
        }
    }

    fn add(&mut self, lens: &[usize]) {
        let parts: Vec<&[u8]> = lens.iter().map(|len| self.extent(*len)).collect();
        let slots = self.burst.single_slots();
        assert_eq!(slots.len(), (BURST_PACKETS - self.packets.len()).min(BURST_EXTENTS - self.extents));
        let mut bytes = 0;
        let mut added = 0;
        for (slot, part) in slots.iter_mut().zip(&parts) {
            slot.write(Extent::from_slice(part));
            (bytes, added) = (bytes + part.len(), added + 1);
        }
        // SAFETY: the first `added` slots were just written, with extents of 1 to 66,000 bytes.
        unsafe { self.burst.added(added, bytes) };
        parts[..added].iter().for_each(|part| self.accept(part.to_vec(), 1, Offload::NONE));
    }

    fn do_step(&mut self, step: &Step) {
        match step {
            Step::Commit(parts, asks) => self.commit(parts, *asks),
            Step::Add(lens) => self.add(lens),
            Step::Abandon(parts) => {
                self.push(parts);
                self.burst.abandon();
            }
            Step::AddWhileOpen(parts, len) => {
                let (bytes, extents) = self.push(parts);
                if extents > 0 {
                    assert!(self.burst.single_slots().is_empty());
                    // SAFETY: nothing was written, and nothing is said to have been.
                    unsafe { self.burst.added(0, 0) };
                }
                if self.burst.commit(Offload::NONE) {
                    self.accept(bytes, extents, Offload::NONE);
                }
                self.add(&[*len]);
            }
            Step::Load => {
                self.burst.load_heads();
                for packet in &mut self.packets[self.loaded..] {
                    packet.head = packet.bytes.len().min(HEAD_BYTES);
                }
                self.loaded = self.packets.len();
            }
            Step::Offload(at, asks) => {
                let offload = if *asks { ASKS } else { Offload::NONE };
                self.burst.set_offload(*at, offload);
                if let Some(packet) = self.packets.get_mut(*at) {
                    packet.offload = offload;
                }
            }
            Step::Replace(at, len) => {
                self.burst.replace(*at, &BYTES[..*len]);
                if let Some(packet) = self.packets[..self.loaded].get_mut(*at) {
                    packet.bytes = BYTES[..(*len).min(HEAD_BYTES)].to_vec();
                    (packet.head, packet.room) = (packet.bytes.len(), HEAD_ROOM);
                    packet.offload = Offload::NONE;
                }
            }
            Step::Prepend(at, len) => {
                if let Some(packet) = self.packets[..self.loaded].get_mut(*at) {
                    let fits = packet.room >= *len;
                    assert_eq!(self.burst.packets_mut()[*at].prepend(&BYTES[7..7 + len]), fits);
                    if fits {
                        packet.bytes.splice(..0, BYTES[7..7 + len].iter().copied());
                        (packet.head, packet.room) = (packet.head + len, packet.room - len);
                    }
                }
            }
        }
    }

    fn check(&self, mask: u32) {
        let burst = &self.burst;
        assert_eq!((burst.len(), burst.bytes()), (self.packets.len(), self.bytes));
        assert_eq!(burst.is_full(), self.packets.len() == BURST_PACKETS || self.bytes >= BURST_BYTES);
        assert_eq!(burst.packets().len(), self.loaded);
        for (index, packet) in self.packets.iter().enumerate() {
            assert_eq!(burst.offload(index), packet.offload, "packet {index}");
            if index >= self.loaded {
                assert!(burst.packet(index).is_none() && burst.frame(index).is_none());
                continue;
            }
            let (seen, frame) = (burst.packet(index).unwrap(), burst.frame(index).unwrap());
            assert_eq!((seen.len(), seen.head()), (packet.bytes.len(), &packet.bytes[..packet.head]));
            assert_eq!((frame.to_vec(), frame.offload), (packet.bytes.clone(), packet.offload));
        }
        let chosen: Vec<&Model> =
            (0..self.loaded).filter(|at| mask >> at & 1 != 0).map(|at| &self.packets[at]).collect();
        let (frames, longest) = burst.frames(mask);
        assert_eq!(longest, chosen.iter().map(|packet| packet.bytes.len()).max().unwrap_or(0));
        assert_eq!(frames.len(), chosen.len());
        for (frame, packet) in frames.iter().zip(chosen) {
            assert_eq!((frame.to_vec(), frame.offload), (packet.bytes.clone(), packet.offload));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn burst_is_a_list_of_packets(steps in prop::collection::vec(step(), 1..24), mask: u32) {
        let burst = Burst::new();
        let mut world = World { burst, packets: Vec::new(), loaded: 0, extents: 0, bytes: 0, at: 0 };
        for step in &steps {
            world.do_step(step);
        }
        world.check(mask);
        world.do_step(&Step::Load);
        world.check(mask);
        world.check(u32::MAX);
    }
}
