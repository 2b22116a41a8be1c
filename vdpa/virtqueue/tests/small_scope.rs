//! Rings of 2 and 4 descriptors with every field at its edges, all combinations: whatever a guest writes, the device ends, answers with a chain, a named
//! refusal or a stopped queue, returns no buffer that was not made available, and writes nowhere but into the buffers and its own part of the ring.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;

use buf::{Burst, Frame, Offload};
use guest_mem::{ANONYMOUS_USER_OFFSET, GuestMemory};
use towpath_virtqueue::{DeviceRing, Headers, Ring, RingConfig, RingFeatures, RingLayout};

const DESC: u64 = 0x1000;
const DRIVER: u64 = 0x1100;
const DEVICE: u64 = 0x1200;
const MEMORY: u64 = 0x2000;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

struct World {
    guest: Arc<GuestMemory>,
    memory: Arc<GuestMemory>,
    layout: RingLayout,
    size: u16,
    runs: u64,
    packets: u64,
    refused: u64,
    stopped: u64,
}

impl World {
    fn new(layout: RingLayout, size: u16) -> Self {
        let memory = GuestMemory::anonymous(&[(0, MEMORY)]).unwrap();
        let guest = GuestMemory::map(memory.specs().unwrap()).unwrap();
        Self { guest, memory, layout, size, runs: 0, packets: 0, refused: 0, stopped: 0 }
    }

    fn ring(&self) -> Ring {
        let features =
            RingFeatures { layout: self.layout, indirect: true, mergeable: true, ..Default::default() };
        let config = RingConfig {
            size: self.size,
            features,
            header_len: 12,
            desc_addr: DESC + ANONYMOUS_USER_OFFSET,
            driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
            device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
            base: if self.layout == RingLayout::Packed { 0x8000 } else { 0 },
        };
        Ring::new(&config, Arc::clone(&self.memory)).unwrap()
    }

    /// Lays out a ring whose two first descriptors and two first heads are as given, and runs the device over it in one direction.
    fn run(&mut self, descs: [(u64, u32, u16, u16); 2], heads: [u16; 2], index: u16, write: bool) {
        self.guest.write(DESC, &[0; 0x100]).unwrap();
        for (at, (addr, len, flags, link)) in (0u64..).zip(descs) {
            let (third, fourth) =
                if self.layout == RingLayout::Split { (flags, link) } else { (link, flags | AVAIL) };
            let rest = u64::from(len) | u64::from(third) << 32 | u64::from(fourth) << 48;
            self.guest.store_u64(DESC + at * 16, addr).unwrap();
            self.guest.store_u64(DESC + at * 16 + 8, rest).unwrap();
        }
        if self.layout == RingLayout::Split {
            self.guest.store_u16(DRIVER + 2, index).unwrap();
            self.guest.store_u16(DRIVER + 4, heads[0]).unwrap();
            self.guest.store_u16(DRIVER + 6, heads[1]).unwrap();
            self.guest.store_u16(DEVICE + 2, 0).unwrap();
        }
        let mut ring = self.ring();
        let returned = if write { self.give(&mut ring) } else { self.take(&mut ring) };
        self.runs += 1;
        self.refused += ring.stats().refused_total();
        self.stopped += u64::from(ring.broken().is_some());
        assert!(returned <= usize::from(self.size), "{descs:x?} {heads:?} {index}");
        assert_eq!(ring.stats().chains, returned as u64);
    }

    fn take(&mut self, ring: &mut Ring) -> usize {
        let mut returned = 0;
        for _ in 0..3 {
            let (mut burst, mut headers) = (Burst::new(), Headers::new());
            let taken = ring.take(&self.memory, &mut burst, &mut headers);
            burst.load_heads();
            self.packets += burst.len() as u64;
            for index in 0..burst.len() {
                let packet = burst.packet(index).unwrap();
                assert!(packet.len() > 0 && packet.len() as u64 <= 64 * MEMORY);
                headers.read(index, &mut [0; 12]);
            }
            returned += ring.return_taken();
            if taken.is_err() {
                assert_eq!(ring.broken(), taken.err());
            }
        }
        returned
    }

    fn give(&mut self, ring: &mut Ring) -> usize {
        let bytes = [0x5a; 20];
        let mut returned = 0;
        for _ in 0..3 {
            let _ = ring.reserve(2);
            if ring.give(&[0; 12], &Frame::from_head(&bytes, Offload::NONE)).is_ok() {
                self.packets += 1;
            }
            returned += ring.publish();
        }
        returned
    }
}

/// All combinations of two descriptors with fields at their edges, in the direction that suits half of them.
fn explore(layout: RingLayout, size: u16) -> World {
    let mut world = World::new(layout, size);
    let addrs = [0, MEMORY - 1, MEMORY - 40, MEMORY, u64::MAX];
    let lens = [0, 1, 13, 40, u32::MAX];
    let flags = [0, 1, 2, 3, 4, 5, 6, 0x100];
    let links = [0, 1, size - 1, size, u16::MAX];
    let second =
        [(0x100, 40, 0, 0), (0x100, 40, 2, 1), (0x100, 40, 1, 0), (0x100, 40, 3, 1), (DESC, 32, 4, 0)];
    let indices: &[(u16, [u16; 2])] = match layout {
        RingLayout::Split => &[
            (1, [0, 1]),
            (2, [0, 1]),
            (2, [1, 0]),
            (2, [0, 0]),
            (1, [size, 0]),
            (size + 1, [0, 1]),
            (u16::MAX, [0, 1]),
        ],
        RingLayout::Packed => &[(0, [0, 0])],
    };
    for addr in addrs {
        for len in lens {
            for flags in flags {
                for link in links {
                    for second in second {
                        for (index, heads) in indices {
                            for write in [false, true] {
                                world.run([(addr, len, flags, link), second], *heads, *index, write);
                            }
                        }
                    }
                }
            }
        }
    }
    world
}

#[test]
fn every_edge_of_small_rings_has_an_answer() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for size in [2, 4] {
            let world = explore(layout, size);
            let (runs, third) = (world.runs, world.runs / 30);
            assert!(runs >= 10_000, "{runs}");
            assert!(
                world.packets > third && world.refused > third,
                "{layout:?} {size}: all kinds of ends were reached"
            );
            assert!(world.stopped > third || layout == RingLayout::Packed);
        }
    }
}

/// A table entry at every edge, in a table of two.
#[test]
fn every_edge_of_small_tables_has_an_answer() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let mut world = World::new(layout, 4);
        for addr in [0, MEMORY - 40, MEMORY - 1, MEMORY, u64::MAX] {
            for len in [0, 1, 12, 13, 40, u32::MAX] {
                for flags in [0u16, 1, 2, 3, 4, 5, 0x8000, 0xffff] {
                    for link in [0u16, 1, 2, 3, u16::MAX] {
                        for table_len in [16, 17, 32, 48, 0x1000] {
                            let rest = u64::from(len)
                                | if layout == RingLayout::Split {
                                    u64::from(flags) << 32 | u64::from(link) << 48
                                } else {
                                    u64::from(link) << 32 | u64::from(flags) << 48
                                };
                            world.guest.store_u64(0x800, addr).unwrap();
                            world.guest.store_u64(0x808, rest).unwrap();
                            world.guest.store_u64(0x810, 0x100).unwrap();
                            world.guest.store_u64(0x818, 40).unwrap();
                            let outer = (0x800, table_len, 4, 0);
                            world.run([outer, (0, 0, 0, 0)], [0, 1], 1, false);
                            world.run([outer, (0, 0, 0, 0)], [0, 1], 1, true);
                        }
                    }
                }
            }
        }
        assert!(world.packets > 50 && world.refused > 1000, "{} {}", world.packets, world.refused);
    }
}

/// In every state that the flags and wrap counters of a packed ring of two can be in (G-45).
#[test]
fn g45_packed_flags_in_every_state() {
    for size in [1u16, 2] {
        let mut world = World::new(RingLayout::Packed, size);
        for bits in 0..1u32 << (4 * size) {
            for base in [0x8000u32, 0x0000, 0x8001, 0x0001, 0x8000_8000, 0x0001_8000, 0x7fff, 0xffff_ffff] {
                for at in 0..size {
                    let nibble = bits >> (4 * at);
                    let mut flags = (nibble & 3) as u16;
                    flags |= if nibble & 4 != 0 { AVAIL } else { 0 } | if nibble & 8 != 0 { USED } else { 0 };
                    let rest = 40 | u64::from(at + 7) << 32 | u64::from(flags) << 48;
                    world.guest.store_u64(DESC + u64::from(at) * 16, 0x100).unwrap();
                    world.guest.store_u64(DESC + u64::from(at) * 16 + 8, rest).unwrap();
                }
                let features =
                    RingFeatures { layout: RingLayout::Packed, mergeable: true, ..Default::default() };
                let config = RingConfig {
                    size,
                    features,
                    header_len: 12,
                    desc_addr: DESC + ANONYMOUS_USER_OFFSET,
                    driver_addr: DRIVER + ANONYMOUS_USER_OFFSET,
                    device_addr: DEVICE + ANONYMOUS_USER_OFFSET,
                    base,
                };
                let Ok(mut ring) = Ring::new(&config, Arc::clone(&world.memory)) else {
                    let used = if base >> 16 == 0 { base } else { base >> 16 };
                    assert!(used & 0x7fff >= u32::from(size) || base & 0x7fff >= u32::from(size), "{base:x}");
                    continue;
                };
                let returned = world.take(&mut ring) + world.give(&mut ring);
                // Each round trip flips what we wrote to used, so no chain is seen again.
                assert!(returned <= 2 * usize::from(size), "{bits:x} {base:x}: {returned}");
                world.runs += 1;
            }
        }
        assert!(world.packets > 0 && world.runs > 10);
    }
}
