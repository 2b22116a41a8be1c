//! One ring of a guest, written as bytes: any chain, the same for all layouts.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
pub use virtio_driver::raw::Desc;
use virtio_driver::raw::{
    AVAIL, INDIRECT, NEXT, PackedDescriptor, RawPacked, RawSplit, SplitDescriptor, USED, WRITE,
};
use virtio_driver::{Arena, RingAddresses, RingLayout, SharedMemory};

use crate::Result;

/// Bytes for tables.
const TABLES: u64 = 0x2000;

/// A ring of a guest.
#[derive(Clone, Debug)]
pub struct Ring {
    memory: Arc<SharedMemory>,
    /// Where its parts are.
    pub addresses: RingAddresses,
    /// Split or packed.
    pub layout: RingLayout,
    /// Descriptors.
    pub size: u16,
    /// Whether [`Ring::chain`] goes through tables.
    indirect: bool,
    /// Where tables are put, and where their room ends.
    tables: (u64, u64),
    table: u64,
    /// Split: the next descriptor. Packed: the next position.
    position: u16,
    wrap: bool,
    /// Split: the available index.
    available: u16,
    seen: u16,
    seen_wrap: bool,
    /// Packed: positions that each buffer id occupies.
    lengths: BTreeMap<u16, u16>,
}

impl Ring {
    /// Lays a ring out.
    ///
    /// # Errors
    /// The memory is too small.
    pub fn new(
        memory: &Arc<SharedMemory>,
        arena: &mut Arena,
        layout: RingLayout,
        size: u16,
        indirect: bool,
    ) -> Result<Self> {
        let addresses = RingAddresses::allocate(arena, layout, size)?;
        let table = arena.allocate(TABLES as usize, 16)?;
        Ok(Self {
            memory: Arc::clone(memory),
            addresses,
            layout,
            size,
            indirect,
            tables: (table, table + TABLES),
            table,
            position: 0,
            wrap: true,
            available: 0,
            seen: 0,
            seen_wrap: true,
            lengths: BTreeMap::new(),
        })
    }

    /// Whether it is split.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.layout == RingLayout::Split
    }

    /// Where its tables are.
    #[must_use]
    pub fn tables_at(&self) -> u64 {
        self.tables.0
    }

    /// The split ring as bytes.
    #[must_use]
    pub fn split(&self) -> RawSplit {
        RawSplit::new(&self.memory, self.addresses, self.size)
    }

    /// The packed ring as bytes.
    #[must_use]
    pub fn packed(&self) -> RawPacked {
        RawPacked::new(&self.memory, self.addresses)
    }

    /// The value of SET_VRING_BASE for a fresh ring.
    #[must_use]
    pub fn fresh_base(&self) -> u32 {
        if self.is_split() { 0 } else { 0x8000_8000 }
    }

    /// The base as a device must answer it that has done with everything made available.
    #[must_use]
    pub fn base(&self) -> u32 {
        if self.is_split() {
            return u32::from(self.available);
        }
        let half = u32::from(self.position) | u32::from(self.wrap) << 15;
        half | half << 16
    }

    /// Zeroes the ring and starts over, as a driver does after a reset.
    ///
    /// # Errors
    /// The memory is gone.
    pub fn reset(&mut self) -> Result<()> {
        let size = usize::from(self.size);
        let (driver, device) = if self.is_split() { (6 + 2 * size, 6 + 8 * size) } else { (4, 4) };
        self.memory.fill(self.addresses.descriptors, 16 * size, 0)?;
        self.memory.fill(self.addresses.driver, driver, 0)?;
        self.memory.fill(self.addresses.device, device, 0)?;
        (self.position, self.wrap, self.available, self.seen, self.seen_wrap) = (0, true, 0, 0, true);
        self.lengths.clear();
        Ok(())
    }

    /// Makes a chain available: directly, or by a table where the ring has them. The id that will come back.
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn chain(&mut self, descs: &[Desc]) -> Result<u16> {
        if !self.indirect {
            return self.direct(descs);
        }
        let table = self.table(descs)?;
        self.direct(&[table])
    }

    /// Writes a table; the descriptor that refers to it.
    ///
    /// # Errors
    /// The table is not in memory.
    pub fn table(&mut self, descs: &[Desc]) -> Result<Desc> {
        let bytes = 16 * descs.len() as u64;
        if self.table + bytes > self.tables.1 {
            self.table = self.tables.0;
        }
        ensure!(self.table + bytes <= self.tables.1, "a table of {} entries", descs.len());
        let at = self.table;
        self.table += bytes;
        self.write_table(at, descs)?;
        Ok(Desc::new(at, bytes as u32).with(INDIRECT))
    }

    /// Writes a table at a place of one's own.
    ///
    /// # Errors
    /// The table is not in memory.
    pub fn write_table(&self, table: u64, descs: &[Desc]) -> Result<()> {
        for (desc, index) in descs.iter().zip(0u16..) {
            if self.is_split() {
                let more = usize::from(index) + 1 < descs.len() || desc.next.is_some();
                let flags = desc.flags | if more { NEXT } else { 0 };
                let next = desc.next.unwrap_or(index + 1);
                let d = SplitDescriptor { address: desc.address, len: desc.len, flags, next };
                self.split().set_table_entry(table, index, d)?;
            } else {
                let d = PackedDescriptor { address: desc.address, len: desc.len, id: 0, flags: desc.flags };
                self.packed().set_table_entry(table, index, d)?;
            }
        }
        Ok(())
    }

    /// Makes a chain available in the ring itself.
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn direct(&mut self, descs: &[Desc]) -> Result<u16> {
        if self.is_split() { self.direct_split(descs) } else { self.direct_packed(descs) }
    }

    fn direct_split(&mut self, descs: &[Desc]) -> Result<u16> {
        let (raw, head) = (self.split(), self.position);
        for (index, desc) in descs.iter().enumerate() {
            let at = self.position;
            self.position = (self.position + 1) % self.size;
            let more = index + 1 < descs.len() || desc.next.is_some();
            let flags = desc.flags | if more { NEXT } else { 0 };
            let next = desc.next.unwrap_or(self.position);
            let d = SplitDescriptor { address: desc.address, len: desc.len, flags, next };
            raw.set_descriptor(at, d)?;
        }
        self.push_head(head)?;
        Ok(head)
    }

    /// Puts any head into a split ring's available ring and publishes it.
    ///
    /// # Errors
    /// The ring is not in memory.
    pub fn push_head(&mut self, head: u16) -> Result<()> {
        let raw = self.split();
        raw.set_available(self.available % self.size, head)?;
        self.available = self.available.wrapping_add(1);
        raw.set_available_index(self.available)?;
        Ok(())
    }

    fn direct_packed(&mut self, descs: &[Desc]) -> Result<u16> {
        let raw = self.packed();
        let id = self.position;
        let mut first = None;
        for (index, desc) in descs.iter().enumerate() {
            let more = index + 1 < descs.len();
            let bits = if self.wrap { AVAIL } else { USED };
            let flags = desc.flags | bits | if more { NEXT } else { 0 };
            let d = PackedDescriptor { address: desc.address, len: desc.len, id, flags };
            match index {
                0 => first = Some((self.position, d)),
                _ => raw.set_descriptor(self.position, d)?,
            }
            self.position += 1;
            if self.position == self.size {
                (self.position, self.wrap) = (0, !self.wrap);
            }
        }
        self.lengths.insert(id, descs.len() as u16);
        // The first becomes available last (virtio 1.2 section 2.8.6.1).
        if let Some((at, d)) = first {
            raw.set_descriptor(at, d)?;
        }
        Ok(id)
    }

    /// What came back since the last call: id and length.
    ///
    /// # Errors
    /// The device returned what was not out.
    pub fn used(&mut self) -> Result<Vec<(u16, u32)>> {
        let mut found = Vec::new();
        if self.is_split() {
            let raw = self.split();
            let index = raw.used_index()?;
            while self.seen != index {
                let (id, len) = raw.used(self.seen % self.size)?;
                found.push((u16::try_from(id)?, len));
                self.seen = self.seen.wrapping_add(1);
            }
            return Ok(found);
        }
        let raw = self.packed();
        loop {
            let d = raw.descriptor(self.seen)?;
            let bits = if self.seen_wrap { AVAIL | USED } else { 0 };
            if d.flags & (AVAIL | USED) != bits || self.lengths.is_empty() {
                return Ok(found);
            }
            let length = self.lengths.remove(&d.id).with_context(|| format!("id {} was not out", d.id))?;
            found.push((d.id, if d.flags & WRITE == 0 { 0 } else { d.len }));
            self.seen += length;
            if self.seen >= self.size {
                (self.seen, self.seen_wrap) = (self.seen - self.size, !self.seen_wrap);
            }
        }
    }
}
