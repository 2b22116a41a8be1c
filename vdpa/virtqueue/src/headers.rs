//! Where the virtio-net headers of a burst are.

use std::mem::MaybeUninit;

use buf::{BURST_PACKETS, Extent};

use crate::config::MAX_HEADER;

/// The virtio-net headers of the packets that one `take` added to a burst, in the same order. A ring does not know what is in them; the caller
/// reads those it needs, after it has the whole burst (all lines are on their way by then). Each may be read once: the
/// guest can change it between two looks.
pub struct Headers<'m> {
    count: usize,
    header_len: usize,
    /// Bit n: header n was scattered over pieces and gathered in `private`.
    gathered: u32,
    wanted: bool,
    extents: [MaybeUninit<Extent<'m>>; BURST_PACKETS],
    private: [MaybeUninit<[u8; MAX_HEADER]>; BURST_PACKETS],
}

const _: () = assert!(BURST_PACKETS <= u32::BITS as usize);

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers").field("count", &self.count).field("header_len", &self.header_len).finish()
    }
}

impl Default for Headers<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'m> Headers<'m> {
    /// No headers. Costs nothing: its storage is not initialised.
    #[inline(always)]
    #[must_use]
    pub fn new() -> Self {
        Self {
            count: 0,
            header_len: 0,
            gathered: 0,
            wanted: true,
            extents: [const { MaybeUninit::uninit() }; BURST_PACKETS],
            private: [const { MaybeUninit::uninit() }; BURST_PACKETS],
        }
    }

    /// No headers, and whether they will be read. If not, none are collected and their lines are left where they are: for drivers that
    /// negotiated no offload, whose headers are all zero.
    #[inline(always)]
    #[must_use]
    pub fn if_read(wanted: bool) -> Self {
        Self { wanted, ..Self::new() }
    }

    /// Whether they are collected.
    #[inline(always)]
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// How many there are.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of each.
    #[inline(always)]
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Copies header `index` into private memory, as many bytes as both have; returns how many (0 when there is no such header).
    #[inline(always)]
    pub fn read(&self, index: usize, target: &mut [u8]) -> usize {
        if index >= self.count {
            return 0;
        }
        if self.gathered & (1 << index) != 0 {
            return self.read_private(index, target);
        }
        let Some(extent) = self.extents.get(index) else { return 0 };
        // SAFETY: index < count and it was not gathered, so `push` or a writer of `slots` wrote the extent.
        unsafe { extent.assume_init() }.read(target)
    }

    #[cold]
    fn read_private(&self, index: usize, target: &mut [u8]) -> usize {
        let Some(bytes) = self.private.get(index).filter(|_| index < self.count) else { return 0 };
        // SAFETY: index < count and its bit in `gathered` is set, so `push_private` wrote these bytes.
        let bytes = unsafe { bytes.assume_init_ref() };
        let len = self.header_len.min(target.len()).min(MAX_HEADER);
        for (to, from) in target.iter_mut().zip(bytes.iter().take(len)) {
            *to = *from;
        }
        len
    }

    #[inline(always)]
    pub(crate) fn reset(&mut self, header_len: usize) {
        self.count = 0;
        self.gathered = 0;
        self.header_len = header_len.min(MAX_HEADER);
    }

    /// Where the next headers go, each of `header_len` bytes; [`added`](Self::added) says how many went there.
    #[inline(always)]
    pub(crate) fn slots(&mut self) -> std::slice::IterMut<'_, MaybeUninit<Extent<'m>>> {
        let start = self.count.min(BURST_PACKETS);
        self.extents[start..].iter_mut()
    }

    /// Appends `count` headers.
    ///
    /// # Safety
    ///
    /// The first `count` of [`slots`](Self::slots) were written.
    #[inline(always)]
    pub(crate) unsafe fn added(&mut self, count: usize) {
        self.count += count;
    }

    /// Appends a header in one piece, of `header_len` bytes.
    pub(crate) fn push(&mut self, extent: Extent<'m>) {
        if let Some(slot) = self.extents.get_mut(self.count) {
            slot.write(extent);
            self.count += 1;
        }
    }

    /// Appends a header that was gathered.
    pub(crate) fn push_private(&mut self, bytes: [u8; MAX_HEADER]) {
        if let Some(slot) = self.private.get_mut(self.count) {
            slot.write(bytes);
            self.gathered |= 1 << self.count;
            self.count += 1;
        }
    }
}
