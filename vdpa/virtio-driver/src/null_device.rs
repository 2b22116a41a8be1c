//! A device that does nothing as fast as possible: it returns transmitted buffers unread and fills receive buffers
//! without copying a packet. A load generator measured against it shows its own ceiling.
//!
//! It serves this crate's queues only (single descriptors, no indirect tables) and trusts them.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    cell::Window,
    memory::{MemoryError, SharedMemory},
    net_header::NetHeader,
    queue::{QueueConfig, RingAddresses, RingLayout},
    raw::{AVAIL, USED},
};

/// The device's half of one queue.
#[derive(Debug)]
pub struct NullDevice {
    memory: Arc<SharedMemory>,
    descriptors: Window,
    driver: Window,
    device: Window,
    layout: RingLayout,
    size: u16,
    /// Next descriptor (packed) or available entry (split), the wrap counter there, and the index as last read (split).
    next: u16,
    wrap: bool,
    seen: u16,
}

impl NullDevice {
    /// The device of a ring with these addresses; asks the driver not to kick.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] when the ring is not in `memory` or not aligned as [`RingAddresses::allocate`] aligns it.
    pub fn new(
        memory: &Arc<SharedMemory>,
        addresses: RingAddresses,
        config: &QueueConfig,
    ) -> Result<Self, MemoryError> {
        let n = usize::from(config.size);
        let window = |address, len| {
            Window::new(memory, address, len)?.ok_or(MemoryError::OutOfRange {
                address,
                len,
                base: memory.guest_base(),
                size: memory.len(),
            })
        };
        let (driver, device) =
            if config.layout == RingLayout::Split { (6 + 2 * n, 6 + 8 * n) } else { (4, 4) };
        let this = Self {
            memory: Arc::clone(memory),
            descriptors: window(addresses.descriptors, 16 * n)?,
            driver: window(addresses.driver, driver)?,
            device: window(addresses.device, device)?,
            layout: config.layout,
            size: config.size,
            next: 0,
            wrap: true,
            seen: 0,
        };
        match this.layout {
            RingLayout::Split => this.device.store_u16(0, 1, Ordering::Relaxed),
            RingLayout::Packed => this.device.store_u32(0, 1 << 16, Ordering::Relaxed),
        }
        Ok(this)
    }

    /// Returns up to `lengths.len()` transmitted buffers, noting the length of each packet (net header included);
    /// returns how many there were.
    #[inline]
    pub fn take(&mut self, lengths: &mut [u32]) -> usize {
        self.serve(lengths.len(), |at, _, len| {
            if let Some(slot) = lengths.get_mut(at) {
                *slot = len;
            }
            0
        })
    }

    /// Fills one receive buffer per length (net header included): writes the header, nothing else. Returns how many
    /// buffers there were.
    #[inline]
    pub fn fill(&mut self, lengths: &[u32]) -> usize {
        let memory = Arc::clone(&self.memory);
        let header = NetHeader { num_buffers: 1, ..NetHeader::default() }.encode();
        self.serve(lengths.len(), |at, address, room| {
            // Only a queue of another memory could make this fail; it is then received as garbage.
            let _written = memory.write(address, &header);
            lengths.get(at).copied().unwrap_or(0).min(room)
        })
    }

    /// Uses up to `limit` buffers; `use_buffer` is told position, address and length and says the length to report.
    #[inline]
    fn serve(&mut self, limit: usize, use_buffer: impl FnMut(usize, u64, u32) -> u32) -> usize {
        match self.layout {
            RingLayout::Split => self.serve_split(limit, use_buffer),
            RingLayout::Packed => self.serve_packed(limit, use_buffer),
        }
    }

    #[inline]
    fn serve_split(&mut self, limit: usize, mut use_buffer: impl FnMut(usize, u64, u32) -> u32) -> usize {
        if usize::from(self.seen.wrapping_sub(self.next)) < limit {
            self.seen = self.driver.load_u16(2, Ordering::Acquire);
        }
        let count = usize::from(self.seen.wrapping_sub(self.next)).min(limit);
        for at in 0..count {
            let slot = usize::from(self.next & (self.size - 1));
            let head = self.driver.load_u16(4 + 2 * slot, Ordering::Relaxed) & (self.size - 1);
            let address = self.descriptors.load_u64(16 * usize::from(head), Ordering::Relaxed);
            let len = self.descriptors.load_u64(16 * usize::from(head) + 8, Ordering::Relaxed) as u32;
            let used = use_buffer(at, address, len);
            self.device.store_u32(4 + 8 * slot, u32::from(head), Ordering::Relaxed);
            self.device.store_u32(8 + 8 * slot, used, Ordering::Relaxed);
            self.next = self.next.wrapping_add(1);
        }
        if count > 0 {
            self.device.store_u16(2, self.next, Ordering::Release);
        }
        count
    }

    #[inline]
    fn serve_packed(&mut self, limit: usize, mut use_buffer: impl FnMut(usize, u64, u32) -> u32) -> usize {
        let mut first = None;
        for at in 0..limit {
            let offset = 16 * usize::from(self.next);
            let second = self.descriptors.load_u64(offset + 8, Ordering::Acquire);
            let flags = (second >> 48) as u16;
            if (flags & AVAIL != 0) != self.wrap || (flags & USED != 0) == self.wrap {
                self.publish_packed(first);
                return at;
            }
            let address = self.descriptors.load_u64(offset, Ordering::Relaxed);
            let used = use_buffer(at, address, second as u32);
            let flags = if self.wrap { AVAIL | USED } else { 0 };
            let word = u64::from(used) | second & 0xffff_0000_0000 | u64::from(flags) << 48;
            // The first used descriptor is written last, so that the burst appears at once.
            if first.is_none() {
                first = Some((offset, word));
            } else {
                self.descriptors.store_u64(offset + 8, word, Ordering::Release);
            }
            self.next += 1;
            if self.next == self.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        self.publish_packed(first);
        limit
    }

    #[inline]
    fn publish_packed(&self, first: Option<(usize, u64)>) {
        if let Some((offset, word)) = first {
            self.descriptors.store_u64(offset + 8, word, Ordering::Release);
        }
    }
}
