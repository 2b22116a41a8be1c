//! Split virtqueues (virtio 1.2 section 2.7).

use std::sync::{
    Arc,
    atomic::{Ordering, fence},
};

use crate::{
    cell::Window,
    features,
    memory::SharedMemory,
    queue::{
        AddError, InFlight, QueueConfig, RingAddresses, RingLayout, Segment, SetupError, Used, UsedError,
        Virtqueue, need_event,
    },
};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The second word of a descriptor: length, flags, next.
pub(crate) const fn word(len: u32, flags: u16, next: u16) -> u64 {
    len as u64 | (flags as u64) << 32 | (next as u64) << 48
}

/// The flag bits of a segment that has a successor or not.
pub(crate) const fn flags(segment: Segment, more: bool) -> u16 {
    (if segment.writable { WRITE } else { 0 }) | if more { NEXT } else { 0 }
}

/// One private word per head that belongs to a batch an in-order device ended with one used entry.
#[derive(Debug, Clone, Copy)]
struct InOrderBatch {
    last: u16,
    len: u32,
}

/// The driver's half of a split virtqueue.
#[derive(Debug)]
pub struct SplitQueue {
    addresses: RingAddresses,
    descriptors: Window,
    driver: Window,
    device: Window,
    tables: Option<Window>,
    tables_address: u64,
    indirect_entries: u16,
    size: u16,
    event_idx: bool,
    in_order: bool,
    /// Free descriptors, linked through `next`; with IN_ORDER simply the next ring position.
    free_head: u16,
    free: u16,
    next: Vec<u16>,
    in_flight: u16,
    buffers: Vec<InFlight>,
    /// Available index including what is not published yet, and what is.
    avail: u16,
    published: u16,
    /// Available index at the last kick decision.
    kicked: u16,
    /// Next used entry to take, and the device's index as last read.
    used: u16,
    used_seen: u16,
    /// IN_ORDER: the head that must come next, and the batch being taken apart.
    oldest: u16,
    batch: Option<InOrderBatch>,
}

impl SplitQueue {
    /// Takes the zeroed ring at `addresses` into use. `tables` is the guest address of `size * indirect_entries`
    /// descriptors, unused when `indirect_entries` is 0.
    ///
    /// # Errors
    ///
    /// [`SetupError`].
    pub fn new(
        memory: &Arc<SharedMemory>,
        addresses: RingAddresses,
        tables: u64,
        config: &QueueConfig,
    ) -> Result<Self, SetupError> {
        let size = config.size;
        if !(1..=32768).contains(&size) || !size.is_power_of_two() {
            return Err(SetupError::Size { size, layout: RingLayout::Split });
        }
        let n = usize::from(size);
        let window = |address, len: usize| {
            memory.fill(address, len, 0)?;
            Window::new(memory, address, len)?.ok_or(SetupError::Alignment { address })
        };
        let entries =
            if config.features & features::INDIRECT_DESC != 0 { config.indirect_entries } else { 0 };
        let tables_len = 16 * n * usize::from(entries);
        Ok(Self {
            addresses,
            descriptors: window(addresses.descriptors, 16 * n)?,
            driver: window(addresses.driver, 6 + 2 * n)?,
            device: window(addresses.device, 6 + 8 * n)?,
            tables: if entries > 0 { Some(window(tables, tables_len)?) } else { None },
            tables_address: tables,
            indirect_entries: entries,
            size,
            event_idx: config.features & features::EVENT_IDX != 0,
            in_order: config.features & features::IN_ORDER != 0,
            free_head: 0,
            free: size,
            next: (0..size).map(|i| (i + 1) & (size - 1)).collect(),
            in_flight: 0,
            buffers: vec![InFlight::default(); n],
            avail: 0,
            published: 0,
            kicked: 0,
            used: 0,
            used_seen: 0,
            oldest: 0,
            batch: None,
        })
    }

    #[inline]
    fn mask(&self) -> u16 {
        self.size - 1
    }

    #[inline]
    fn write_descriptor(&self, index: u16, address: u64, second: u64) {
        let offset = 16 * usize::from(index & self.mask());
        self.descriptors.store_u64(offset, address, Ordering::Relaxed);
        self.descriptors.store_u64(offset + 8, second, Ordering::Relaxed);
    }

    #[inline]
    fn offer(&mut self, head: u16, buffer: InFlight) {
        if let Some(slot) = self.buffers.get_mut(usize::from(head)) {
            *slot = buffer;
        }
        self.free -= buffer.descriptors;
        self.in_flight += 1;
        let slot = usize::from(self.avail & self.mask());
        self.driver.store_u16(4 + 2 * slot, head, Ordering::Relaxed);
        self.avail = self.avail.wrapping_add(1);
    }

    /// The successor of a descriptor in the free list, which the driver keeps privately.
    #[inline]
    fn after(&self, index: u16) -> u16 {
        self.next.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Returns a chain to the free list. In order, chains come back in ring order, so the list never changes.
    #[inline]
    fn release(&mut self, head: u16, descriptors: u16) {
        self.free += descriptors;
        self.in_flight -= 1;
        if self.in_order {
            self.oldest = (head + descriptors) & self.mask();
            return;
        }
        let mut last = head;
        for _ in 1..descriptors {
            last = self.after(last);
        }
        let free_head = self.free_head;
        if let Some(next) = self.next.get_mut(usize::from(last)) {
            *next = free_head;
        }
        self.free_head = head;
    }

    #[inline]
    fn take(&mut self, head: u32, len: Option<u32>) -> Result<Used, UsedError> {
        let error = UsedError::NotInFlight { id: head };
        let slot = self.buffers.get_mut(head as usize).ok_or(error)?;
        let buffer = std::mem::take(slot);
        if buffer.descriptors == 0 {
            return Err(error);
        }
        let used = buffer.used(head, len.unwrap_or(buffer.writable))?;
        self.used = self.used.wrapping_add(1);
        self.release(head as u16, buffer.descriptors);
        Ok(used)
    }

    #[inline]
    fn next_in_order(&mut self) -> Result<Used, UsedError> {
        let batch = match self.batch {
            Some(batch) => batch,
            None => {
                let (id, len) = self.used_entry();
                let last = u16::try_from(id).map_err(|_| UsedError::NotInFlight { id })?;
                let known = self.buffers.get(usize::from(last)).is_some_and(|b| b.descriptors > 0);
                if !known {
                    return Err(UsedError::NotInFlight { id });
                }
                *self.batch.insert(InOrderBatch { last, len })
            }
        };
        let head = self.oldest;
        if head == batch.last {
            self.batch = None;
            return self.take(u32::from(head), Some(batch.len));
        }
        self.take(u32::from(head), None)
    }

    #[inline]
    fn used_entry(&self) -> (u32, u32) {
        let slot = usize::from(self.used & self.mask());
        // The used ring's entries start at byte 4 of an area aligned to 8: two 4-byte loads.
        let id = self.device.load_u32(4 + 8 * slot, Ordering::Relaxed);
        let len = self.device.load_u32(8 + 8 * slot, Ordering::Relaxed);
        (id, len)
    }
}

impl Virtqueue for SplitQueue {
    #[inline]
    fn size(&self) -> u16 {
        self.size
    }

    fn addresses(&self) -> RingAddresses {
        self.addresses
    }

    #[inline]
    fn free_descriptors(&self) -> u16 {
        self.free
    }

    #[inline]
    fn in_flight(&self) -> u16 {
        self.in_flight
    }

    #[inline]
    fn add(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError> {
        if segments.len() > usize::from(self.free) {
            return Err(AddError::Full { wanted: segments.len(), free: self.free });
        }
        let Some((last, front)) = segments.split_last() else { return Err(AddError::Empty) };
        let head = self.free_head;
        let mut index = head;
        for &segment in front {
            let next = self.after(index);
            self.write_descriptor(index, segment.address, word(segment.len, flags(segment, true), next));
            index = next;
        }
        self.write_descriptor(index, last.address, word(last.len, flags(*last, false), 0));
        self.free_head = self.after(index);
        self.offer(head, InFlight::new(segments, segments.len() as u16, token));
        Ok(())
    }

    fn add_indirect(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError> {
        let entries = usize::from(self.indirect_entries);
        let Some(tables) = self.tables.as_ref().filter(|_| segments.len() <= entries) else {
            return Err(AddError::Indirect { segments: segments.len(), entries: self.indirect_entries });
        };
        if segments.is_empty() {
            return Err(AddError::Empty);
        }
        if self.free == 0 {
            return Err(AddError::Full { wanted: 1, free: 0 });
        }
        let head = self.free_head;
        let table = usize::from(head) * entries * 16;
        for (i, &segment) in segments.iter().enumerate() {
            let more = i + 1 < segments.len();
            tables.store_u64(table + 16 * i, segment.address, Ordering::Relaxed);
            let next = if more { i as u16 + 1 } else { 0 };
            tables.store_u64(
                table + 16 * i + 8,
                word(segment.len, flags(segment, more), next),
                Ordering::Relaxed,
            );
        }
        let len = 16 * segments.len() as u32;
        self.write_descriptor(head, self.tables_address + table as u64, word(len, INDIRECT, 0));
        self.free_head = self.after(head);
        self.offer(head, InFlight::new(segments, 1, token));
        Ok(())
    }

    #[inline]
    fn publish(&mut self) {
        if self.published != self.avail {
            self.published = self.avail;
            self.driver.store_u16(2, self.avail, Ordering::Release);
        }
    }

    #[inline]
    fn needs_kick(&mut self) -> bool {
        let (old, new) = (self.kicked, self.published);
        if old == new {
            return false;
        }
        self.kicked = new;
        // The index must be visible before the device's wish is read (2.7.13.4).
        fence(Ordering::SeqCst);
        if self.event_idx {
            let event = self.device.load_u16(4 + 8 * usize::from(self.size), Ordering::Relaxed);
            need_event(event, new, old)
        } else {
            self.device.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0
        }
    }

    #[inline]
    fn has_used(&mut self) -> bool {
        if self.used == self.used_seen {
            self.used_seen = self.device.load_u16(2, Ordering::Acquire);
        }
        self.used != self.used_seen
    }

    #[inline]
    fn next_used(&mut self) -> Result<Option<Used>, UsedError> {
        if !self.has_used() {
            return Ok(None);
        }
        let moved = self.used_seen.wrapping_sub(self.used);
        if moved > self.in_flight {
            return Err(UsedError::IndexJump { moved, in_flight: self.in_flight });
        }
        if self.in_order {
            return self.next_in_order().map(Some);
        }
        let (id, len) = self.used_entry();
        self.take(id, Some(len)).map(Some)
    }

    #[inline]
    fn prefetch_used(&self, buffers: u16) {
        self.device.prefetch(0);
        for ahead in (0..buffers).step_by(8) {
            self.device.prefetch(4 + 8 * usize::from(self.used.wrapping_add(ahead) & self.mask()));
        }
    }

    #[inline]
    fn prefetch_available(&self, buffers: u16) {
        self.driver.prefetch_write(4 + 2 * usize::from(self.avail & self.mask()));
        // Right in order; otherwise a guess, since the free list is mostly in order too.
        for ahead in (0..buffers).step_by(4) {
            self.descriptors
                .prefetch_write(16 * usize::from(self.free_head.wrapping_add(ahead) & self.mask()));
        }
    }

    fn suppress_interrupts(&mut self) {
        if self.event_idx {
            let event = self.used.wrapping_sub(1);
            self.driver.store_u16(4 + 2 * usize::from(self.size), event, Ordering::Relaxed);
        } else {
            self.driver.store_u16(0, NO_INTERRUPT, Ordering::Relaxed);
        }
    }

    fn request_interrupt(&mut self, buffers: u16) -> bool {
        if self.event_idx {
            let event = self.used.wrapping_add(buffers.max(1) - 1);
            self.driver.store_u16(4 + 2 * usize::from(self.size), event, Ordering::Relaxed);
        } else {
            self.driver.store_u16(0, 0, Ordering::Relaxed);
        }
        // The wish must be visible before the index is looked at once more (2.7.7.1).
        fence(Ordering::SeqCst);
        self.used_seen = self.device.load_u16(2, Ordering::Acquire);
        self.used != self.used_seen
    }

    fn resume_base(&self) -> u32 {
        u32::from(self.device.load_u16(2, Ordering::Acquire))
    }
}
