//! A guest's memory: an immutable set of regions.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use buf::{Extent, ExtentMut};

use crate::error::{MapError, Space};
use crate::region::{Region, RegionSpec};
use crate::translate::RegionCache;

/// Regions a guest's memory may consist of. `GET_MAX_MEM_SLOTS` offers as many.
pub const MAX_REGIONS: usize = 64;

/// What the translation looks at: one region, without its owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) guest_addr: u64,
    pub(crate) size: u64,
    pub(crate) host: NonNull<u8>,
}

/// All memory of one guest, mapped. Never changes: adding or removing a region makes another `GuestMemory` that shares
/// the mappings of the unchanged regions. A region is unmapped when the last memory that holds it is dropped.
#[derive(Debug)]
pub struct GuestMemory {
    /// Unique in the process and never reused: what a [`RegionCache`] is valid for.
    id: u64,
    /// Sorted by guest address, without overlap.
    spans: Box<[Span]>,
    /// In the same order.
    regions: Box<[Arc<Region>]>,
}

// SAFETY: the raw pointers in `spans` point into mappings that `regions` keeps alive, and `Region` is Send.
unsafe impl Send for GuestMemory {}
// SAFETY: nothing in it changes after construction; bytes are accessed through raw pointers and atomics only.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps a memory table (vhost-user `SET_MEM_TABLE`): 1 to [`MAX_REGIONS`] regions in any order.
    ///
    /// # Errors
    ///
    /// [`MapError`]: nothing stays mapped and all descriptors are closed.
    pub fn map(specs: Vec<RegionSpec>) -> Result<Arc<Self>, MapError> {
        check_count(specs.len())?;
        let regions = specs.into_iter().map(|spec| Region::map(spec).map(Arc::new));
        Self::assemble(regions.collect::<Result<_, _>>()?)
    }

    /// This memory and one region more (vhost-user `ADD_MEM_REG`).
    ///
    /// # Errors
    ///
    /// [`MapError`]; this memory is not affected.
    pub fn with_region(&self, spec: RegionSpec) -> Result<Arc<Self>, MapError> {
        check_count(self.regions.len() + 1)?;
        let mut regions = self.regions.to_vec();
        regions.push(Arc::new(Region::map(spec)?));
        Self::assemble(regions)
    }

    /// This memory without one region (vhost-user `REM_MEM_REG`, which names it by all three values); may become empty.
    ///
    /// # Errors
    ///
    /// [`MapError::UnknownRegion`] when there is no such region.
    pub fn without_region(&self, guest_addr: u64, user_addr: u64, size: u64) -> Result<Arc<Self>, MapError> {
        let gone = |region: &Region| {
            (region.guest_addr(), region.user_addr(), region.size()) == (guest_addr, user_addr, size)
        };
        if !self.regions.iter().any(|region| gone(region)) {
            return Err(MapError::UnknownRegion { guest_addr, user_addr, size });
        }
        Self::assemble(self.regions.iter().filter(|region| !gone(region)).cloned().collect())
    }

    /// A memory of no regions: every translation fails. What a session starts from when it adds regions one by one.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { id: next_id(), spans: Box::new([]), regions: Box::new([]) })
    }

    fn assemble(mut regions: Vec<Arc<Region>>) -> Result<Arc<Self>, MapError> {
        for space in [Space::User, Space::Guest] {
            regions.sort_by_key(|region| region.start(space));
            for pair in regions.windows(2) {
                let [low, high] = pair else { continue };
                // Cannot wrap: `Region::map` checked the end of each.
                if low.start(space).saturating_add(low.size()) > high.start(space) {
                    let (first, second) = (low.start(space), high.start(space));
                    return Err(MapError::Overlap { space, first, second });
                }
            }
        }
        let span = |region: &Arc<Region>| Span {
            guest_addr: region.guest_addr(),
            size: region.size(),
            host: region.host(),
        };
        let spans = regions.iter().map(span).collect();
        Ok(Arc::new(Self { id: next_id(), spans, regions: regions.into_boxed_slice() }))
    }

    /// The regions, by guest address.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// What the front end would send to describe this memory, with descriptors of its own: for a second mapping (a guest's, in
    /// tests and the simulator) or for a successor process.
    ///
    /// # Errors
    ///
    /// [`MapError::Os`] when the process is out of descriptors.
    pub fn specs(&self) -> Result<Vec<RegionSpec>, MapError> {
        let spec = |region: &Arc<Region>| {
            let file: OwnedFd = region.file().try_clone_to_owned()?;
            Ok(RegionSpec {
                guest_addr: region.guest_addr(),
                user_addr: region.user_addr(),
                size: region.size(),
                file_offset: region.file_offset(),
                file,
            })
        };
        self.regions.iter().map(spec).collect()
    }

    /// Unique number of this memory; a [`RegionCache`] filled from it says so.
    #[inline(always)]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the peer took any region away. Look when [`fault_count`](crate::fault_count) changed.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.regions.iter().any(|region| region.is_dead())
    }

    /// First guest physical address beyond all regions; 0 when there are none.
    #[must_use]
    pub fn guest_end(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.guest_addr.saturating_add(span.size))
    }

    /// The region that holds `guest_addr`.
    #[inline]
    pub(crate) fn span_of(&self, guest_addr: u64) -> Option<&Span> {
        let after = self.spans.partition_point(|span| span.guest_addr <= guest_addr);
        let span = self.spans.get(after.checked_sub(1)?)?;
        (guest_addr - span.guest_addr < span.size).then_some(span)
    }

    /// Host address of `len` bytes at a guest physical address when they lie in one region.
    #[inline]
    pub(crate) fn host(&self, guest_addr: u64, len: usize) -> Option<NonNull<u8>> {
        let span = self.span_of(guest_addr)?;
        let offset = guest_addr - span.guest_addr;
        // SAFETY: offset < size, so the result lies in the span's mapping.
        (len as u64 <= span.size - offset).then(|| unsafe { span.host.add(offset as usize) })
    }

    /// `len` readable bytes at a guest physical address; `None` unless all lie in one region.
    #[must_use]
    pub fn translate(&self, guest_addr: u64, len: usize) -> Option<Extent<'_>> {
        let host = self.host(guest_addr, len)?;
        // SAFETY: `host` checked that the range lies in a mapping that `self` keeps, which the extent's lifetime borrows; it is shared with
        // the guest, so no reference to it exists.
        Some(unsafe { Extent::new(host.as_ptr(), len) })
    }

    /// `len` writable bytes at a guest physical address; `None` unless all lie in one region.
    #[must_use]
    pub fn translate_mut(&self, guest_addr: u64, len: usize) -> Option<ExtentMut<'_>> {
        let host = self.host(guest_addr, len)?;
        // SAFETY: as in `translate`; every region is mapped writable.
        Some(unsafe { ExtentMut::new(host.as_ptr(), len) })
    }

    /// Host address of `len` bytes at an address of the front end's own address space; `None` unless all lie in one region.
    /// For ring addresses (`SET_VRING_ADDR`), which must be contiguous. Valid while this memory lives; the guest writes there too.
    #[must_use]
    pub fn translate_user(&self, user_addr: u64, len: usize) -> Option<NonNull<u8>> {
        for region in &self.regions {
            let Some(offset) = user_addr.checked_sub(region.user_addr()) else { continue };
            if offset >= region.size() || len as u64 > region.size() - offset {
                continue;
            }
            // SAFETY: offset < size, so the result lies in the region's mapping.
            return Some(unsafe { region.host().add(offset as usize) });
        }
        None
    }

    /// The guest physical address of an address of the front end's own address space: for the dirty log of ring writes.
    #[must_use]
    pub fn guest_addr_of_user(&self, user_addr: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user_addr.checked_sub(region.user_addr())?;
            (offset < region.size()).then(|| region.guest_addr() + offset)
        })
    }

    /// The guest physical address of an address of ours: for the dirty log of what was written there.
    #[must_use]
    pub fn guest_addr_of_host(&self, host: *const u8) -> Option<u64> {
        self.spans.iter().find_map(|span| {
            let offset = (host as u64).checked_sub(span.host.as_ptr() as u64)?;
            (offset < span.size).then(|| span.guest_addr + offset)
        })
    }

    /// A translator with this memory and the caller's cache.
    #[inline(always)]
    pub fn translator<'m, 'c>(&'m self, cache: &'c mut RegionCache) -> crate::Translator<'m, 'c> {
        crate::Translator::new(self, cache)
    }
}

fn check_count(count: usize) -> Result<(), MapError> {
    match count {
        0 => Err(MapError::Empty),
        1..=MAX_REGIONS => Ok(()),
        _ => Err(MapError::TooManyRegions { count }),
    }
}

fn next_id() -> u64 {
    /// 0 is never handed out: it marks a cache that holds nothing.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
