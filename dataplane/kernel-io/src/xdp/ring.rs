//! The rings of an AF_XDP socket: indices that run freely, and entries between them.

use crate::sys::Mapping;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Asks to be told by a system call (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKEUP: u32 = 1;

/// A packet in a ring (`struct xdp_desc`), or a piece of memory for one (a number).
pub(crate) trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for libc::xdp_desc {}

/// One ring, in memory shared with the kernel. We are either its producer or its consumer.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    words: Arc<Words>,
    entries: u32,
    /// Our index: produced or consumed up to here.
    ours: u32,
    /// What we last saw of the kernel's index.
    theirs: u32,
    kind: PhantomData<T>,
}

/// Where a ring's words are.
#[derive(Debug)]
pub(crate) struct Words {
    map: Mapping,
    at: libc::xdp_ring_offset,
}

impl Words {
    fn word(&self, offset: u64) -> &AtomicU32 {
        // SAFETY: `Ring::new` checked that these offsets are aligned and inside the mapping; both sides touch the words with single loads
        // and stores only.
        unsafe { AtomicU32::from_ptr(self.map.start().add(offset as usize).cast()) }
    }

    /// Entries produced and not consumed.
    pub(crate) fn filled(&self) -> u32 {
        let produced = self.word(self.at.producer).load(Ordering::Relaxed);
        produced.wrapping_sub(self.word(self.at.consumer).load(Ordering::Relaxed))
    }
}

impl<T: Entry> Ring<T> {
    /// Maps the ring of `entries` (a power of two) that the socket has at `page`.
    pub(crate) fn new(
        socket: &OwnedFd,
        at: libc::xdp_ring_offset,
        entries: u32,
        page: u64,
    ) -> io::Result<Self> {
        let bytes = at.desc as usize + entries as usize * size_of::<T>();
        let map = Mapping::of(socket, bytes, page as i64)?;
        let words = [at.producer, at.consumer, at.flags];
        let whole = words.iter().all(|word| word.is_multiple_of(4) && *word as usize + 4 <= bytes);
        if !whole || !at.desc.is_multiple_of(8) || !entries.is_power_of_two() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { words: Arc::new(Words { map, at }), entries, ours: 0, theirs: 0, kind: PhantomData })
    }

    /// Its words, for who only counts.
    pub(crate) fn words(&self) -> Arc<Words> {
        self.words.clone()
    }

    fn entry(&self, index: u32) -> *mut T {
        let at = (index & (self.entries - 1)) as usize * size_of::<T>();
        // SAFETY: an entry below `entries`, which `new` mapped.
        unsafe { self.words.map.start().add(self.words.at.desc as usize + at).cast() }
    }

    /// Whether the other side wants a system call.
    #[inline(always)]
    pub(crate) fn wants_call(&self) -> bool {
        self.words.word(self.words.at.flags).load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    /// As a consumer: the next entry, if there is one. [`Ring::release`] gives it back.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<T> {
        if self.ours == self.theirs {
            self.theirs = self.words.word(self.words.at.producer).load(Ordering::Acquire);
            // More than there can be is nothing.
            if self.ours == self.theirs || self.theirs.wrapping_sub(self.ours) > self.entries {
                self.theirs = self.ours;
                return None;
            }
        }
        // SAFETY: produced (by the acquiring load) and not consumed; any bits are an entry.
        let entry = unsafe { self.entry(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        Some(entry)
    }

    /// As a consumer: whether there is a next entry.
    #[inline(always)]
    pub(crate) fn has_next(&self) -> bool {
        self.ours != self.theirs
            || self.words.word(self.words.at.producer).load(Ordering::Acquire) != self.ours
    }

    /// As a consumer: gives everything taken back.
    #[inline(always)]
    pub(crate) fn release(&self) {
        self.words.word(self.words.at.consumer).store(self.ours, Ordering::Release);
    }

    /// As a producer: writes an entry; false when the ring is full. Shown by [`Ring::publish`].
    #[inline(always)]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.ours.wrapping_sub(self.theirs) >= self.entries {
            self.theirs = self.words.word(self.words.at.consumer).load(Ordering::Acquire);
            if self.ours.wrapping_sub(self.theirs) >= self.entries {
                return false;
            }
        }
        // SAFETY: an entry that the kernel consumed, or never saw.
        unsafe { self.entry(self.ours).write(entry) };
        self.ours = self.ours.wrapping_add(1);
        true
    }

    /// As a producer: shows what was pushed.
    #[inline(always)]
    pub(crate) fn publish(&self) {
        self.words.word(self.words.at.producer).store(self.ours, Ordering::Release);
    }

    /// As a producer: entries that the kernel has not consumed.
    pub(crate) fn outstanding(&self) -> u32 {
        self.ours.wrapping_sub(self.words.word(self.words.at.consumer).load(Ordering::Acquire))
    }
}
