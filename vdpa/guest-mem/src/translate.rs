//! Translation of guest physical addresses with a cache that lives in the caller.

use std::ptr::NonNull;

use buf::{Extent, ExtentMut};

use crate::memory::{GuestMemory, Span};

/// The region a ring last found an address in. Each ring owns one, so that no line is shared and two rings whose buffers lie in different
/// regions do not evict each other.
#[derive(Debug, Clone, Copy)]
pub struct RegionCache {
    /// The [`GuestMemory`] the other fields are from; 0 for none.
    memory_id: u64,
    guest_addr: u64,
    /// 0 when nothing is cached: then no address hits.
    size: u64,
    host: NonNull<u8>,
}

// SAFETY: the pointer is only used together with the memory it came from (`Translator::new` compares their numbers), which is Sync.
unsafe impl Send for RegionCache {}
// SAFETY: as for Send; `&RegionCache` gives nothing out.
unsafe impl Sync for RegionCache {}

impl Default for RegionCache {
    fn default() -> Self {
        Self { memory_id: 0, guest_addr: 0, size: 0, host: NonNull::dangling() }
    }
}

/// A memory and a cache known to belong together: made once per burst, used for each of its descriptors.
#[derive(Debug)]
pub struct Translator<'m, 'c> {
    memory: &'m GuestMemory,
    cache: &'c mut RegionCache,
}

impl<'m, 'c> Translator<'m, 'c> {
    /// Joins the two; a cache filled from another memory is emptied first.
    #[inline(always)]
    pub fn new(memory: &'m GuestMemory, cache: &'c mut RegionCache) -> Self {
        if cache.memory_id != memory.id() {
            *cache = RegionCache { memory_id: memory.id(), ..RegionCache::default() };
        }
        Self { memory, cache }
    }

    /// The memory.
    #[inline(always)]
    pub fn memory(&self) -> &'m GuestMemory {
        self.memory
    }

    /// Host address of `len` bytes when they lie in one region.
    #[inline(always)]
    fn host(&mut self, guest_addr: u64, len: u32) -> Option<NonNull<u8>> {
        let offset = guest_addr.wrapping_sub(self.cache.guest_addr);
        // Nothing cached has size 0, into which no bytes fit.
        if let Some(last) = self.cache.size.checked_sub(u64::from(len))
            && offset <= last
            && len > 0
        {
            // SAFETY: offset + len <= size of the cached region, which belongs to `self.memory` (`new`) and is mapped for its whole size.
            return Some(unsafe { self.cache.host.add(offset as usize) });
        }
        let span = miss(self.memory, guest_addr)?;
        (self.cache.guest_addr, self.cache.size, self.cache.host) = (span.guest_addr, span.size, span.host);
        let offset = guest_addr - span.guest_addr;
        // SAFETY: `miss` found the region that holds the address, so offset < size.
        (u64::from(len) <= span.size - offset).then(|| unsafe { span.host.add(offset as usize) })
    }

    /// `len` readable bytes at a guest physical address; `None` unless all lie in one region.
    #[inline(always)]
    pub fn translate(&mut self, guest_addr: u64, len: u32) -> Option<Extent<'m>> {
        let host = self.host(guest_addr, len)?;
        // SAFETY: `host` checked that the range lies in a mapping that `memory` keeps for 'm; it is shared with the guest, so
        // no reference to it exists.
        Some(unsafe { Extent::new(host.as_ptr(), len as usize) })
    }

    /// `len` writable bytes at a guest physical address; `None` unless all lie in one region.
    #[inline(always)]
    pub fn translate_mut(&mut self, guest_addr: u64, len: u32) -> Option<ExtentMut<'m>> {
        let host = self.host(guest_addr, len)?;
        // SAFETY: as in `translate`; every region is mapped writable.
        Some(unsafe { ExtentMut::new(host.as_ptr(), len as usize) })
    }

    /// The first of `len` readable bytes at a guest physical address: as many as lie in one region, at least one unless `len` is 0.
    #[inline]
    pub fn prefix(&mut self, guest_addr: u64, len: u32) -> Option<Extent<'m>> {
        let span = self.memory.span_of(guest_addr)?;
        let here = u64::from(len).min(span.size - (guest_addr - span.guest_addr));
        self.translate(guest_addr, here as u32)
    }

    /// Host address of `len` bytes in one region, for callers that keep it longer than a burst (and the memory with it).
    #[inline(always)]
    pub fn address(&mut self, guest_addr: u64, len: u32) -> Option<NonNull<u8>> {
        self.host(guest_addr, len)
    }

    /// Calls `piece(address, len)` for each run of host memory that holds part of `len` bytes at `guest_addr`: several when they cross
    /// regions that adjoin in guest addresses but not here. `false` when a byte lies in no region; pieces may have been seen by then.
    #[inline(always)]
    pub fn pieces(&mut self, guest_addr: u64, len: u32, mut piece: impl FnMut(NonNull<u8>, u32)) -> bool {
        if len == 0 {
            return true;
        }
        if let Some(host) = self.host(guest_addr, len) {
            piece(host, len);
            return true;
        }
        self.scattered(guest_addr, len, piece)
    }

    /// A buffer that does not lie in one region.
    #[cold]
    #[inline(never)]
    fn scattered(&mut self, guest_addr: u64, len: u32, mut piece: impl FnMut(NonNull<u8>, u32)) -> bool {
        let (mut at, mut left) = (guest_addr, len);
        while left > 0 {
            let Some(span) = self.memory.span_of(at) else { return false };
            let rest_of_region = span.size - (at - span.guest_addr);
            let step = u64::from(left).min(rest_of_region) as u32;
            let Some(host) = self.host(at, step) else { return false };
            piece(host, step);
            left -= step;
            let Some(next) = at.checked_add(u64::from(step)) else { return left == 0 };
            at = next;
        }
        true
    }
}

/// Searches all regions. Takes and returns values, so that a cache that is a local variable stays in registers.
#[cold]
#[inline(never)]
fn miss(memory: &GuestMemory, guest_addr: u64) -> Option<Span> {
    memory.span_of(guest_addr).copied()
}
