//! Chains as bytes, the same for all layouts.

use super::{ATTACKER, Ring};
use crate::guest::nic::{GUEST_BASE, Nic};
use crate::net::frame::{Fill, Flow, UDP, packet};
use crate::world::World;
use anyhow::Context;
pub use virtio_driver::raw::Desc;
use virtio_driver::raw::{
    AVAIL, INDIRECT, NEXT, PackedDescriptor, RawPacked, RawSplit, SplitDescriptor, USED,
};
use virtio_driver::{RingAddresses, RingLayout, Virtqueue};

/// The attacker's rings, fresh.
pub struct Offer<'w> {
    world: &'w mut World,
    /// The layout.
    pub layout: RingLayout,
    indirect: bool,
    ring: RingAddresses,
    position: u16,
    /// Where a right packet lies, header first, and its length with it.
    pub packet: (u64, u32),
    /// Free memory of the guest: for tables.
    pub scratch: u64,
}

impl<'w> Offer<'w> {
    /// Looks a ring of the attacker up and puts a right packet into its memory.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn new(world: &'w mut World, indirect: bool, which: Ring) -> anyhow::Result<Self> {
        let scene = &world.scene;
        let (from, to) = (scene.network.ports[ATTACKER].station, scene.network.ports[1].station);
        let flow = Flow { from, to, v6: false, protocol: UDP, ports: (30_001, 30_001) };
        let bytes = [&[0; 12][..], &packet(&flow, 9, &[7; 100], Fill::Whole)].concat();
        let nic = scene.guests[ATTACKER].nic.as_ref().context("the attacker is off")?;
        // Between the driver's buffers, which nobody uses: it is silent.
        let at = GUEST_BASE + nic.memory.len() as u64 - 0x3000;
        nic.memory.write(at, &bytes)?;
        let queue = match which {
            Ring::Transmit => &nic.pairs[0].tx.queue,
            Ring::Receive => &nic.pairs[0].rx.queue,
        };
        let (layout, ring) = (nic.config.layout(), queue.addresses());
        let packet = (at, bytes.len() as u32);
        Ok(Self { world, layout, indirect, ring, position: 0, packet, scratch: at + 0x1000 })
    }

    /// The attacker's driver.
    ///
    /// # Errors
    ///
    /// It is off.
    pub fn nic(&self) -> anyhow::Result<&Nic> {
        self.world.scene.guests[ATTACKER].nic.as_ref().context("the attacker is off")
    }

    /// Descriptors of a ring.
    pub const SIZE: u16 = 64;

    /// A chain that is right in every respect.
    #[must_use]
    pub fn good(&self) -> Vec<Desc> {
        vec![Desc::new(self.packet.0, self.packet.1)]
    }

    /// The first address beyond the guest's memory.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn end(&self) -> anyhow::Result<u64> {
        Ok(GUEST_BASE + self.nic()?.memory.len() as u64)
    }

    /// Makes a chain available: directly, or by a table where the layout has them.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn chain(&mut self, descs: &[Desc]) -> anyhow::Result<()> {
        if !self.indirect {
            return self.direct(descs);
        }
        let table = self.scratch;
        self.scratch += 16 * descs.len() as u64;
        for (index, desc) in descs.iter().enumerate() {
            self.entry(table, index as u16, desc, index + 1 < descs.len())?;
        }
        self.direct(&[Desc::new(table, 16 * descs.len() as u32).with(INDIRECT)])
    }

    /// Writes an entry of a table.
    ///
    /// # Errors
    ///
    /// The table is not in the guest's memory.
    pub fn entry(&self, table: u64, index: u16, desc: &Desc, more: bool) -> anyhow::Result<()> {
        let nic = self.nic()?;
        let split = RawSplit::new(&nic.memory, self.ring, Self::SIZE);
        match self.layout {
            RingLayout::Split => {
                let flags = desc.flags | if more { NEXT } else { 0 };
                let next = desc.next.unwrap_or(index + 1);
                let d = SplitDescriptor { address: desc.address, len: desc.len, flags, next };
                split.set_table_entry(table, index, d)?;
            }
            RingLayout::Packed => {
                let d = PackedDescriptor { address: desc.address, len: desc.len, id: 0, flags: desc.flags };
                RawPacked::new(&nic.memory, self.ring).set_table_entry(table, index, d)?;
            }
        }
        Ok(())
    }

    /// Makes a chain available in the ring itself.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn direct(&mut self, descs: &[Desc]) -> anyhow::Result<()> {
        let start = self.position;
        let nic = self.nic()?;
        match self.layout {
            RingLayout::Split => {
                let raw = RawSplit::new(&nic.memory, self.ring, Self::SIZE);
                for (desc, at) in descs.iter().zip(start..) {
                    let last = usize::from(at - start) + 1 == descs.len() && desc.next.is_none();
                    let flags = desc.flags | if last { 0 } else { NEXT };
                    let next = desc.next.unwrap_or(at + 1);
                    let d = SplitDescriptor { address: desc.address, len: desc.len, flags, next };
                    raw.set_descriptor(at, d)?;
                }
                let index = raw.available_index()?;
                raw.set_available(index % Self::SIZE, start)?;
                raw.set_available_index(index.wrapping_add(1))?;
            }
            RingLayout::Packed => {
                let raw = RawPacked::new(&nic.memory, self.ring);
                // The first becomes available last (virtio 1.2 section 2.8.6.1).
                for (index, desc) in descs.iter().enumerate().rev() {
                    let (at, more) = (start + index as u16, index + 1 < descs.len());
                    let flags = desc.flags | AVAIL | if more { NEXT } else { 0 };
                    let d = PackedDescriptor { address: desc.address, len: desc.len, id: start, flags };
                    raw.set_descriptor(at, d)?;
                }
            }
        }
        self.position += descs.len() as u16;
        Ok(())
    }

    /// The split ring as bytes.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn split(&self) -> anyhow::Result<RawSplit> {
        Ok(RawSplit::new(&self.nic()?.memory, self.ring, Self::SIZE))
    }

    /// The packed ring as bytes.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn packed(&self) -> anyhow::Result<RawPacked> {
        Ok(RawPacked::new(&self.nic()?.memory, self.ring))
    }

    /// Where the parts of the ring are.
    #[must_use]
    pub fn ring(&self) -> RingAddresses {
        self.ring
    }

    /// Kicks.
    pub fn wake(&mut self) {
        self.world.scene.wake_all();
    }

    /// Somebody's turn.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn turn(&mut self) -> anyhow::Result<()> {
        self.world.turn()
    }

    /// The descriptor that the next chain starts with, or whose table its next does.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.position
    }

    /// Writes a descriptor that is available already again, or the first entry of its table.
    ///
    /// # Errors
    ///
    /// The attacker is off.
    pub fn overwrite(&self, at: u16, desc: &Desc) -> anyhow::Result<()> {
        if self.indirect {
            return self.entry(self.scratch - 16, 0, desc, false);
        }
        let nic = self.nic()?;
        match self.layout {
            RingLayout::Split => {
                let d = SplitDescriptor { address: desc.address, len: desc.len, flags: desc.flags, next: 0 };
                RawSplit::new(&nic.memory, self.ring, Self::SIZE).set_descriptor(at, d)?;
            }
            RingLayout::Packed => {
                let raw = RawPacked::new(&nic.memory, self.ring);
                // Once it is used, that is the device's word.
                if raw.descriptor(at)?.flags & (AVAIL | USED) == AVAIL {
                    let flags = desc.flags | AVAIL;
                    let d = PackedDescriptor { address: desc.address, len: desc.len, id: at, flags };
                    raw.set_descriptor(at, d)?;
                }
            }
        }
        Ok(())
    }
}
