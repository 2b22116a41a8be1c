//! Packed virtqueues (virtio 1.2 section 2.8).

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
    split::{INDIRECT, flags},
};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const EVENT_ENABLE: u16 = 0;
const EVENT_DISABLE: u16 = 1;
const EVENT_DESC: u16 = 2;
const WRAP: u16 = 1 << 15;

/// The second word of a descriptor: length, buffer id, flags.
pub(crate) const fn word(len: u32, id: u16, flags: u16) -> u64 {
    len as u64 | (id as u64) << 32 | (flags as u64) << 48
}

/// AVAIL and USED as the driver writes them in a lap of this wrap counter: AVAIL equal to it, USED its inverse.
const fn avail_flags(wrap: bool) -> u16 {
    if wrap { AVAIL } else { USED }
}

/// The driver's half of a packed virtqueue.
#[derive(Debug)]
pub struct PackedQueue {
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
    /// Where the next descriptor goes, and the driver's wrap counter there.
    avail: u16,
    avail_wrap: bool,
    /// Where the next used descriptor appears, and the device's wrap counter there.
    used: u16,
    used_wrap: bool,
    free: u16,
    in_flight: u16,
    /// The head descriptor of the first unpublished buffer: its second word is held back, and with it the whole burst.
    held: Option<(u16, u64)>,
    /// Descriptors published since the last kick decision, and added but not published.
    since_kick: u16,
    unpublished: u16,
    /// Free buffer ids; with IN_ORDER they are used in turn instead.
    ids: Vec<u16>,
    next_id: u16,
    oldest_id: u16,
    batch: Option<(u16, u32)>,
    buffers: Vec<InFlight>,
}

impl PackedQueue {
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
        if !(1..=32768).contains(&size) {
            return Err(SetupError::Size { size, layout: RingLayout::Packed });
        }
        let n = usize::from(size);
        let window = |address, len: usize| {
            memory.fill(address, len, 0)?;
            Window::new(memory, address, len)?.ok_or(SetupError::Alignment { address })
        };
        let entries =
            if config.features & features::INDIRECT_DESC != 0 { config.indirect_entries } else { 0 };
        Ok(Self {
            addresses,
            descriptors: window(addresses.descriptors, 16 * n)?,
            driver: window(addresses.driver, 4)?,
            device: window(addresses.device, 4)?,
            tables: if entries > 0 { Some(window(tables, 16 * n * usize::from(entries))?) } else { None },
            tables_address: tables,
            indirect_entries: entries,
            size,
            event_idx: config.features & features::EVENT_IDX != 0,
            in_order: config.features & features::IN_ORDER != 0,
            avail: 0,
            avail_wrap: true,
            used: 0,
            used_wrap: true,
            free: size,
            in_flight: 0,
            held: None,
            since_kick: 0,
            unpublished: 0,
            ids: (0..size).rev().collect(),
            next_id: 0,
            oldest_id: 0,
            batch: None,
            buffers: vec![InFlight::default(); n],
        })
    }

    /// Position and wrap counter `steps` descriptors further; `steps` is at most the size.
    #[inline]
    fn advance(&self, position: u16, wrap: bool, steps: u16) -> (u16, bool) {
        let sum = position + steps;
        if sum >= self.size { (sum - self.size, !wrap) } else { (sum, wrap) }
    }

    #[inline]
    fn take_id(&mut self) -> u16 {
        if self.in_order {
            let id = self.next_id;
            self.next_id = self.advance(id, true, 1).0;
            return id;
        }
        // There are as many ids as descriptors, and a buffer takes at least one descriptor.
        self.ids.pop().unwrap_or(0)
    }

    /// Writes one descriptor at the avail position; the first of a burst is held back.
    #[inline]
    fn push(&mut self, address: u64, len: u32, id: u16, flags: u16) {
        let offset = 16 * usize::from(self.avail);
        let second = word(len, id, flags | avail_flags(self.avail_wrap));
        self.descriptors.store_u64(offset, address, Ordering::Relaxed);
        if self.held.is_none() {
            self.held = Some((self.avail, second));
        } else {
            self.descriptors.store_u64(offset + 8, second, Ordering::Relaxed);
        }
        (self.avail, self.avail_wrap) = self.advance(self.avail, self.avail_wrap, 1);
    }

    #[inline]
    fn offer(&mut self, id: u16, buffer: InFlight) {
        if let Some(slot) = self.buffers.get_mut(usize::from(id)) {
            *slot = buffer;
        }
        self.free -= buffer.descriptors;
        self.unpublished += buffer.descriptors;
        self.in_flight += 1;
    }

    #[inline]
    fn take(&mut self, id: u16, len: Option<u32>) -> Result<Used, UsedError> {
        let error = UsedError::NotInFlight { id: u32::from(id) };
        let slot = self.buffers.get_mut(usize::from(id)).ok_or(error)?;
        let buffer = std::mem::take(slot);
        if buffer.descriptors == 0 {
            return Err(error);
        }
        let used = buffer.used(u32::from(id), len.unwrap_or(buffer.writable))?;
        (self.used, self.used_wrap) = self.advance(self.used, self.used_wrap, buffer.descriptors);
        self.free += buffer.descriptors;
        self.in_flight -= 1;
        if self.in_order {
            self.oldest_id = self.advance(id, true, 1).0;
        } else {
            self.ids.push(id);
        }
        Ok(used)
    }

    /// The used descriptor at the used position, if there is one: id and length.
    #[inline]
    fn used_descriptor(&self) -> Option<(u16, u32)> {
        let second = self.descriptors.load_u64(16 * usize::from(self.used) + 8, Ordering::Acquire);
        let flags = (second >> 48) as u16;
        let is_used = (flags & AVAIL != 0) == self.used_wrap && (flags & USED != 0) == self.used_wrap;
        is_used.then_some(((second >> 32) as u16, second as u32))
    }
}

impl Virtqueue for PackedQueue {
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
        let id = self.take_id();
        for &segment in front {
            self.push(segment.address, segment.len, id, flags(segment, true));
        }
        self.push(last.address, last.len, id, flags(*last, false));
        self.offer(id, InFlight::new(segments, segments.len() as u16, token));
        Ok(())
    }

    fn add_indirect(&mut self, segments: &[Segment], token: u32) -> Result<(), AddError> {
        let entries = usize::from(self.indirect_entries);
        if self.tables.is_none() || segments.len() > entries {
            return Err(AddError::Indirect { segments: segments.len(), entries: self.indirect_entries });
        }
        if segments.is_empty() {
            return Err(AddError::Empty);
        }
        if self.free == 0 {
            return Err(AddError::Full { wanted: 1, free: 0 });
        }
        let id = self.take_id();
        let table = usize::from(id) * entries * 16;
        if let Some(tables) = &self.tables {
            for (i, segment) in segments.iter().enumerate() {
                // In a table only WRITE counts; order is position (2.8.7).
                let second = word(segment.len, 0, flags(*segment, false));
                tables.store_u64(table + 16 * i, segment.address, Ordering::Relaxed);
                tables.store_u64(table + 16 * i + 8, second, Ordering::Relaxed);
            }
        }
        self.push(self.tables_address + table as u64, 16 * segments.len() as u32, id, INDIRECT);
        self.offer(id, InFlight::new(segments, 1, token));
        Ok(())
    }

    #[inline]
    fn publish(&mut self) {
        if let Some((slot, second)) = self.held.take() {
            self.descriptors.store_u64(16 * usize::from(slot) + 8, second, Ordering::Release);
            // A full lap of descriptors at most can be published, so this cannot pass the size of the index space.
            self.since_kick = self.since_kick.saturating_add(self.unpublished);
            self.unpublished = 0;
        }
    }

    #[inline]
    fn needs_kick(&mut self) -> bool {
        let added = std::mem::take(&mut self.since_kick);
        if added == 0 {
            return false;
        }
        // The descriptors must be visible before the device's wish is read (2.8.21.3.1).
        fence(Ordering::SeqCst);
        let event = self.device.load_u32(0, Ordering::Relaxed);
        let (off_wrap, flags) = (event as u16, (event >> 16) as u16 & 3);
        if flags != EVENT_DESC || !self.event_idx {
            return flags != EVENT_DISABLE;
        }
        let mut event = off_wrap & !WRAP;
        if (off_wrap & WRAP != 0) != self.avail_wrap {
            event = event.wrapping_sub(self.size);
        }
        need_event(event, self.avail, self.avail.wrapping_sub(added))
    }

    #[inline]
    fn has_used(&mut self) -> bool {
        self.batch.is_some() || self.used_descriptor().is_some()
    }

    #[inline]
    fn next_used(&mut self) -> Result<Option<Used>, UsedError> {
        if !self.in_order {
            let Some((id, len)) = self.used_descriptor() else { return Ok(None) };
            return self.take(id, Some(len)).map(Some);
        }
        let (last, len) = match self.batch.or_else(|| self.used_descriptor()) {
            Some(batch) => batch,
            None => return Ok(None),
        };
        let known = self.buffers.get(usize::from(last)).is_some_and(|b| b.descriptors > 0);
        if !known {
            return Err(UsedError::NotInFlight { id: u32::from(last) });
        }
        let id = self.oldest_id;
        if id == last {
            self.batch = None;
            return self.take(id, Some(len)).map(Some);
        }
        self.batch = Some((last, len));
        self.take(id, None).map(Some)
    }

    #[inline]
    fn prefetch_used(&self, buffers: u16) {
        for ahead in (0..buffers.min(self.size)).step_by(4) {
            self.descriptors.prefetch(16 * usize::from(self.advance(self.used, true, ahead).0));
        }
    }

    #[inline]
    fn prefetch_available(&self, buffers: u16) {
        for ahead in (0..buffers.min(self.size)).step_by(4) {
            self.descriptors.prefetch_write(16 * usize::from(self.advance(self.avail, true, ahead).0));
        }
    }

    fn suppress_interrupts(&mut self) {
        self.driver.store_u32(0, u32::from(EVENT_DISABLE) << 16, Ordering::Relaxed);
    }

    fn request_interrupt(&mut self, buffers: u16) -> bool {
        let (flags, off_wrap) = if self.event_idx {
            // Positions count descriptors; one per buffer is the earliest that can be meant.
            let (slot, wrap) = self.advance(self.used, self.used_wrap, buffers.max(1).min(self.size) - 1);
            (EVENT_DESC, slot | if wrap { WRAP } else { 0 })
        } else {
            (EVENT_ENABLE, 0)
        };
        self.driver.store_u32(0, u32::from(off_wrap) | u32::from(flags) << 16, Ordering::Relaxed);
        // The wish must be visible before the ring is looked at once more (2.8.21.2).
        fence(Ordering::SeqCst);
        self.has_used()
    }

    fn resume_base(&self) -> u32 {
        let half = u32::from(self.used) | if self.used_wrap { u32::from(WRAP) } else { 0 };
        half | half << 16
    }
}
