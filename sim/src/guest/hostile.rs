//! What a hostile guest does to its rings: every G case that a guest can bring about by writing into its own memory, and random writes besides.
//!
//! Each is counted by its case, so that a set of seeds shows that all were tried; what must come of each is said by `tests/hostile.rs`. G-01, G-28 and
//! G-50 are a front end's ([`crate::faults`]), so are G-48 and G-49; G-29 is the fault "guest floods"; G-43 and G-44 are compared for every packet
//! received.

pub use super::cases::Case;
use super::nic::{GUEST_BASE, Nic};
use crate::random::Random;
use virtio_driver::raw::{
    AVAIL, INDIRECT, NEXT, PackedDescriptor, RawPacked, RawSplit, SplitDescriptor, USED, WRITE,
};
use virtio_driver::{Queue, RingAddresses, RingLayout, Virtqueue, features};

/// Lengths at which mistakes are made.
const LENGTHS: [u32; 14] = [0, 1, 10, 11, 12, 13, 16, 60, 1514, 4096, 65_549, 65_562, 0x7fff_ffff, u32::MAX];

/// A ring of the guest and where its next chain goes.
struct Victim<'a> {
    nic: &'a Nic,
    queue: &'a Queue,
    ring: RingAddresses,
    receives: bool,
}

/// A descriptor to be: address, length, flags besides those that link.
type Desc = (u64, u32, u16);

type Written = Result<(), virtio_driver::MemoryError>;

/// Does one hostile thing to a random ring: which. Nothing if the ring has no such thing.
pub fn attack(nic: &Nic, random: &mut Random) -> Option<Case> {
    let pair = &nic.pairs[random.below(nic.pairs.len())];
    let receives = !random.chance(600);
    let queue = if receives { &pair.rx.queue } else { &pair.tx.queue };
    let victim = Victim { nic, queue, ring: queue.addresses(), receives };
    let case = random.pick(Case::ALL);
    // Every address is inside the guest's memory or refused: what cannot be written is not attacked.
    victim.attack(case, random)?.ok().map(|()| case)
}

impl Victim<'_> {
    /// Does `case`; nothing if it does not concern this ring.
    fn attack(&self, case: Case, random: &mut Random) -> Option<Written> {
        let split = self.nic.config.layout() == RingLayout::Split;
        let indirect = self.nic.config.has(features::INDIRECT_DESC);
        Some(match case {
            Case::ZeroRing | Case::KickEarly | Case::SealedMemory => return None,
            Case::IndexJumps if split => self.jump(random),
            Case::WholeRing => self.whole_ring(random),
            Case::SameHead if split => self.same_head(random),
            Case::BadLink if split => self.bad_link(random),
            Case::Loop => self.endless(random),
            Case::TornIndex => self.half_an_index(random),
            Case::FlipLength | Case::FlipFlags => self.flip(case, random),
            Case::FlipTable if indirect => self.flip_table(random),
            Case::SplitEvents if split => self.split_events(random),
            Case::PackedEvents if !split => self.packed_events(random),
            Case::PackedLies if !split => self.packed_lies(random),
            Case::OutOfOrder if self.nic.config.has(features::IN_ORDER) => self.out_of_order(random),
            Case::BadTable | Case::TableOutside | Case::UnalignedTable | Case::NestedTable if indirect => {
                self.table(case, random)
            }
            Case::ForeignOffload if !self.receives => self.foreign_offload(random),
            Case::Scribble => self.scribble(random),
            Case::Garbage => self.garbage(random),
            _ => self.offer(&self.chain(case, random)?, random),
        })
    }

    /// A chain that is wrong, or odd and right, in its addresses, lengths or flags alone.
    fn chain(&self, case: Case, random: &mut Random) -> Option<Vec<Desc>> {
        let (write, end) = (self.direction(), self.end());
        let at = self.somewhere(random);
        let one = |address: u64, len: u32| vec![(address, len, write)];
        Some(match case {
            Case::ZeroLength => match random.below(3) {
                0 => one(at, 0),
                1 => vec![(at, 0, write), (at, 100, write)],
                _ => vec![(at, 20, write), (at, 0, write), (at, 100, write)],
            },
            Case::HugeTotal => {
                let lens = random.pick(&[[u32::MAX, 0], [0x8000_0000; 2], [u32::MAX, 2]]);
                lens.iter().map(|len| (GUEST_BASE, *len, write)).collect()
            }
            Case::NowhereEmpty => vec![(random.pick(&[0, u64::MAX, end]), 0, write), (at, 100, write)],
            Case::Wraps => one(u64::MAX - random.below(64) as u64, 100),
            Case::Outside => {
                one(random.pick(&[0, GUEST_BASE - 1, end, end + 4096, self.nic.memory.user_base()]), 100)
            }
            Case::CrossesRegions => {
                let pages = self.nic.memory.len() as u64 / 4096;
                let parts = random.pick(&[2, 3]);
                one(GUEST_BASE + pages / parts * 4096 - 50, 100)
            }
            Case::EndsBeyond => one(end - 99 + random.below(99) as u64, 100),
            Case::ScatteredHeader => {
                let pieces = random.pick(&[&[1, 11][..], &[4, 4, 4], &[1; 12]]);
                pieces.iter().chain(&[60]).map(|len| (at, *len, write)).collect()
            }
            Case::Short if !self.receives => one(at, random.pick(&[0, 1, 11, 12, 13])),
            Case::TooLong => {
                let piece = (self.nic.memory.len() as u32 - 4096).min(65_562);
                (0..2 + random.below(3)).map(|_| (GUEST_BASE, piece, write)).collect()
            }
            Case::RuntBuffers if self.receives => one(at, random.pick(&[0, 1, 11, 12, 13])),
            Case::TooLittleRoom if self.receives => one(at, 14 + random.below(80) as u32),
            Case::ReservedFlags => vec![(at, 100, write | random.pick(&[8, 0x20, 0x4000, INDIRECT]))],
            Case::WrongDirection => match random.below(2) {
                0 => vec![(at, 100, write ^ WRITE)],
                _ => vec![(at, 20, write), (at, 100, write ^ WRITE)],
            },
            Case::OnRings => {
                let part = random.pick(&[self.ring.descriptors, self.ring.driver, self.ring.device]);
                one(part + random.below(32) as u64, 100)
            }
            Case::AnyLength => {
                let n = 100 + random.below(2000) as u32;
                let len = random.pick(&[0, 1, n - 1, n + 1, 0x7fff_ffff, u32::MAX]);
                let len = if random.chance(500) { random.pick(&LENGTHS) } else { len };
                one(at, len)
            }
            _ => return None,
        })
    }

    fn size(&self) -> u16 {
        self.nic.config.size
    }

    fn end(&self) -> u64 {
        GUEST_BASE + self.nic.memory.len() as u64
    }

    /// The flag that buffers of this ring have.
    fn direction(&self) -> u16 {
        if self.receives { WRITE } else { 0 }
    }

    /// An address with 4 KiB of the guest's memory behind it.
    fn somewhere(&self, random: &mut Random) -> u64 {
        GUEST_BASE + random.below(self.nic.memory.len() - 4096) as u64
    }

    fn split(&self) -> RawSplit {
        RawSplit::new(&self.nic.memory, self.ring, self.size())
    }

    fn packed(&self) -> RawPacked {
        RawPacked::new(&self.nic.memory, self.ring)
    }

    /// Makes a chain available where the device looks next.
    fn offer(&self, chain: &[Desc], random: &mut Random) -> Written {
        match self.nic.config.layout() {
            RingLayout::Split => {
                let head = self.write_split(chain, random)?;
                self.publish_split(&[head])
            }
            RingLayout::Packed => self.offer_packed(chain, None),
        }
    }

    /// Writes a chain somewhere into the table of a split ring: its head.
    fn write_split(&self, chain: &[Desc], random: &mut Random) -> Result<u16, virtio_driver::MemoryError> {
        let (raw, size) = (self.split(), self.size());
        let head = random.below(usize::from(size)) as u16;
        for ((address, len, flags), step) in chain.iter().copied().zip(0..) {
            let (at, next) = ((head + step) % size, (head + step + 1) % size);
            let flags = flags | if usize::from(step) + 1 < chain.len() { NEXT } else { 0 };
            raw.set_descriptor(at, SplitDescriptor { address, len, flags, next })?;
        }
        Ok(head)
    }

    fn publish_split(&self, heads: &[u16]) -> Written {
        let raw = self.split();
        let mut at = raw.available_index()?;
        for head in heads {
            raw.set_available(at % self.size(), *head)?;
            at = at.wrapping_add(1);
        }
        raw.set_available_index(at)
    }

    /// Where a packed ring's next chain goes, and the wrap counter there: behind what is available or used from where the driver stands.
    fn packed_place(&self) -> Result<(u16, bool), virtio_driver::MemoryError> {
        let base = self.queue.resume_base();
        let (mut slot, mut wrap) = ((base & 0x7fff) as u16 % self.size(), base & 0x8000 != 0);
        for _ in 0..self.size() {
            if (self.packed().descriptor(slot)?.flags & AVAIL != 0) != wrap {
                break;
            }
            slot += 1;
            if slot >= self.size() {
                (slot, wrap) = (0, !wrap);
            }
        }
        Ok((slot, wrap))
    }

    /// The same for a packed ring, its first descriptor last; `id`: the buffer's, or that of its slot.
    fn offer_packed(&self, chain: &[Desc], id: Option<u16>) -> Written {
        let (start, wrap) = self.packed_place()?;
        for (step, (address, len, flags)) in chain.iter().copied().enumerate().rev() {
            let at = start + step as u16;
            let wrap = wrap ^ (at >= self.size());
            let more = if step + 1 < chain.len() { NEXT } else { 0 };
            let flags = flags | more | if wrap { AVAIL } else { USED };
            let d = PackedDescriptor { address, len, id: id.unwrap_or(start), flags };
            self.packed().set_descriptor(at % self.size(), d)?;
        }
        Ok(())
    }

    fn jump(&self, random: &mut Random) -> Written {
        let (raw, size) = (self.split(), self.size());
        let at = raw.available_index()?;
        let jump = random.pick(&[1, size, size.wrapping_add(1), 0x8000, 0xffff]);
        if random.chance(300) {
            raw.set_used_index(at.wrapping_sub(jump))
        } else {
            raw.set_available_index(at.wrapping_add(jump))
        }
    }

    fn whole_ring(&self, random: &mut Random) -> Written {
        let desc = (self.somewhere(random), 100, self.direction());
        match self.nic.config.layout() {
            RingLayout::Split => {
                let heads: Vec<u16> = (0..self.size()).collect();
                for head in &heads {
                    let (address, len, flags) = desc;
                    self.split().set_descriptor(*head, SplitDescriptor { address, len, flags, next: 0 })?;
                }
                self.publish_split(&heads)
            }
            RingLayout::Packed => (0..self.size()).try_for_each(|_| self.offer_packed(&[desc], None)),
        }
    }

    fn same_head(&self, random: &mut Random) -> Written {
        let chain = [(self.somewhere(random), 100, self.direction())];
        let head = self.write_split(&chain, random)?;
        self.publish_split(&[head, head])
    }

    fn bad_link(&self, random: &mut Random) -> Written {
        let beyond = random.pick(&[self.size(), self.size() + 1, 0xffff]);
        if random.chance(300) {
            return self.publish_split(&[beyond]);
        }
        let (address, flags) = (self.somewhere(random), self.direction() | NEXT);
        self.split().set_descriptor(0, SplitDescriptor { address, len: 20, flags, next: beyond })?;
        self.publish_split(&[0])
    }

    fn endless(&self, random: &mut Random) -> Written {
        let (address, flags, len) = (self.somewhere(random), self.direction() | NEXT, random.below(2) as u32);
        if self.nic.config.layout() == RingLayout::Packed {
            return self.offer_packed(&vec![(address, len, flags); usize::from(self.size())], None);
        }
        let next = random.below(2) as u16;
        self.split().set_descriptor(0, SplitDescriptor { address, len, flags, next: 1 })?;
        self.split().set_descriptor(1, SplitDescriptor { address, len, flags, next })?;
        self.publish_split(&[0])
    }

    /// One of the two bytes of the available index, or of a descriptor's flags.
    fn half_an_index(&self, random: &mut Random) -> Written {
        let at = match self.nic.config.layout() {
            RingLayout::Split => self.ring.driver + 2,
            RingLayout::Packed => self.ring.descriptors + 16 * u64::from(self.packed_place()?.0) + 14,
        };
        self.nic.memory.write(at + random.below(2) as u64, &[random.number() as u8])
    }

    /// The length or the flags of a descriptor that may be available already.
    fn flip(&self, case: Case, random: &mut Random) -> Written {
        let slot = random.below(usize::from(self.size())) as u16;
        let (other, flag) = (random.pick(&LENGTHS), random.pick(&[NEXT, WRITE, INDIRECT]));
        let change = |len: &mut u32, flags: &mut u16| match case {
            Case::FlipLength => *len = other,
            _ => *flags ^= flag,
        };
        match self.nic.config.layout() {
            RingLayout::Split => {
                let mut d = self.split().descriptor(slot)?;
                change(&mut d.len, &mut d.flags);
                self.split().set_descriptor(slot, d)
            }
            RingLayout::Packed => {
                let mut d = self.packed().descriptor(slot)?;
                change(&mut d.len, &mut d.flags);
                self.packed().set_descriptor(slot, d)
            }
        }
    }

    /// A table is made available, then changed behind the switch's back.
    fn flip_table(&self, random: &mut Random) -> Written {
        let table = self.somewhere(random);
        self.entry(table, 0, (table, 100, self.direction()), NEXT)?;
        self.entry(table, 1, (table, 100, self.direction()), 0)?;
        self.offer(&[(table, 32, INDIRECT)], random)?;
        let wrong = random.pick(&[(u64::MAX, 100, 0), (table, u32::MAX, 0), (table, 100, 7)]);
        self.entry(table, random.below(2) as u16, wrong, NEXT)
    }

    fn entry(&self, table: u64, index: u16, (address, len, flags): Desc, link: u16) -> Written {
        match self.nic.config.layout() {
            RingLayout::Split => {
                let d = SplitDescriptor { address, len, flags: flags | link, next: index + 1 };
                self.split().set_table_entry(table, index, d)
            }
            RingLayout::Packed => {
                let d = PackedDescriptor { address, len, id: 0, flags };
                self.packed().set_table_entry(table, index, d)
            }
        }
    }

    fn table(&self, case: Case, random: &mut Random) -> Written {
        let (at, write) = (self.somewhere(random), self.direction());
        let (table, len, flags) = match case {
            Case::BadTable => (at, random.pick(&[0, 8, 17, 16 * 1025, 16 * 65_535]), INDIRECT),
            Case::TableOutside => (random.pick(&[0, 1 << 40, u64::MAX - 8, self.end() - 15]), 16, INDIRECT),
            Case::NestedTable => (at, 16, INDIRECT | random.pick(&[0, 0, WRITE])),
            _ => (at | 3, 16, INDIRECT),
        };
        let inner = if case == Case::NestedTable { INDIRECT } else { write };
        if case != Case::TableOutside {
            self.entry(table, 0, (at, 100, inner), 0)?;
        }
        self.offer(&[(table, len, flags)], random)
    }

    /// A net header that asks for anything.
    fn foreign_offload(&self, random: &mut Random) -> Written {
        let at = self.somewhere(random);
        let mut header = [0; 12];
        random.fill(&mut header);
        header[1] = random.pick(&[0, 1, 3, 4, 5, 0x81, 0x7f]);
        self.nic.memory.write(at, &header)?;
        self.offer(&[(at, 100 + random.below(2000) as u32, 0)], random)
    }

    fn split_events(&self, random: &mut Random) -> Written {
        self.split().set_available_flags(random.number() as u16)?;
        self.split().set_used_event(random.number() as u16)
    }

    fn packed_events(&self, random: &mut Random) -> Written {
        self.packed().set_driver_event(random.number() as u16, random.number() as u16)
    }

    fn packed_lies(&self, random: &mut Random) -> Written {
        if random.chance(500) {
            let id = random.pick(&[self.size(), 0xffff, 0]);
            return self.offer_packed(&[(self.somewhere(random), 100, self.direction())], Some(id));
        }
        let slot = random.below(usize::from(self.size())) as u16;
        let any = random.number() as u16;
        self.packed().set_flags(slot, random.pick(&[0x8080, 0, AVAIL, USED, any]))
    }

    /// Buffers made available in another order than the ring's (virtio 1.2 section 2.7.9 forbids it).
    fn out_of_order(&self, random: &mut Random) -> Written {
        let desc = (self.somewhere(random), 100, self.direction());
        if self.nic.config.layout() == RingLayout::Packed {
            return [5, 3].iter().try_for_each(|id| self.offer_packed(&[desc], Some(*id)));
        }
        for head in [5, 3] {
            let (address, len, flags) = desc;
            self.split().set_descriptor(head, SplitDescriptor { address, len, flags, next: 0 })?;
        }
        self.publish_split(&[5, 3])
    }

    /// Random bytes in one of the ring's areas.
    fn scribble(&self, random: &mut Random) -> Written {
        let area = random.pick(&[self.ring.descriptors, self.ring.driver, self.ring.device]);
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        let at = area + random.below(usize::from(self.size()) * 4) as u64;
        self.nic.memory.write(at, &bytes[..1 + random.below(8)])
    }

    /// Random bytes anywhere.
    fn garbage(&self, random: &mut Random) -> Written {
        let mut bytes = [0; 64];
        random.fill(&mut bytes);
        self.nic.memory.write(GUEST_BASE + random.below(self.nic.memory.len() - 64) as u64, &bytes)
    }
}
