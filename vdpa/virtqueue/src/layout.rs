//! What the two ring layouts have in common, as seen by the loops in `take` and `give`.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use guest_mem::{DirtyLog, GuestMemory};

use crate::chain::Walked;
use crate::config::RingConfig;
use crate::error::{ChainError, RingError, SetupError};

/// Descriptor flags (virtio 1.2 sections 2.7.5 and 2.8.1).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Chains in a burst from which on it is worth preparing the next: below, the driver may still be writing what would be fetched.
pub(crate) const FULL_ENOUGH: usize = 16;

/// A descriptor. The flags are those above plus reserved ones; bits that only mark availability are gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    /// Split: `next`. Packed: the buffer id.
    pub(crate) link: u16,
}

/// The first descriptor of a chain as it was fetched, once: the two halves it consists of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct First {
    pub(crate) addr: u64,
    /// Length, flags and link, at places that differ between the layouts.
    pub(crate) rest: u64,
    /// Split: the head. Packed: the position in the ring.
    pub(crate) at: u16,
}

/// A chain of one descriptor with usual flags, as it was fetched, once. Two words: the address; bits 0 to 31 the length, above them what
/// [`Used`] has in its lower half.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plain {
    pub(crate) addr: u64,
    rest: u64,
}

/// Chains fetched in one go.
pub(crate) const FETCH: usize = 32;

impl Plain {
    /// A chain whose second word has its length and anything above.
    #[inline(always)]
    pub(crate) fn new(addr: u64, len: u64, id: u16) -> Self {
        Self { addr, rest: len & u64::from(u32::MAX) | Used::new(id, 1).0 << 32 }
    }

    /// Length in bytes.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.rest as u32
    }

    /// How it is returned, with nothing written.
    #[inline(always)]
    pub(crate) fn used(&self) -> Used {
        Used(self.rest >> 32)
    }
}

/// A chain as it is returned to the driver. One word, so that noting one is one store: bits 0 to 15 the id, 16 to 31 the ring positions,
/// 32 to 63 the bytes written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used(u64);

impl Used {
    /// A chain of `descs` ring positions (split: 1), in which nothing was written.
    #[inline(always)]
    pub(crate) fn new(id: u16, descs: u16) -> Self {
        Self(u64::from(id) | u64::from(descs) << 16)
    }

    /// Split: the head. Packed: the buffer id.
    #[inline(always)]
    pub(crate) fn id(self) -> u16 {
        self.0 as u16
    }

    /// Packed: ring positions the chain occupies. Split: 1.
    #[inline(always)]
    pub(crate) fn descs(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bytes written to the chain.
    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same with so many bytes written.
    #[inline(always)]
    #[must_use]
    pub(crate) fn written(self, bytes: u32) -> Self {
        Self(self.0 & u64::from(u32::MAX) | u64::from(bytes) << 32)
    }
}

/// One of the two ring layouts. Holds raw addresses into guest memory: its owner keeps the memory they came from alive and calls
/// [`Layout::attach`] before that changes.
pub(crate) trait Layout: Sized {
    /// Makes the ring.
    fn new(config: &RingConfig, memory: &GuestMemory) -> Result<Self, SetupError>;

    /// Looks the ring up in another memory.
    fn attach(&mut self, memory: &GuestMemory) -> Result<(), SetupError>;

    /// Where the ring stands, in the encoding of `GET_VRING_BASE`.
    fn base(&self) -> u32;

    /// Where the next chain starts. Loops keep it in registers and write it back.
    type Cursor: Copy;

    /// The ring's cursor.
    fn cursor(&self) -> Self::Cursor;

    /// Moves the ring to where a loop got to.
    fn set_cursor(&mut self, cursor: Self::Cursor);

    /// How many chains may be fetched from the cursor on, at most `want`: an upper bound.
    fn available(&mut self, want: usize) -> Result<usize, RingError>;

    /// Fetches the first descriptor of the chain at the cursor, which is below the bound that `available` gave; `None` when there is none.
    fn fetch(&self, cursor: &Self::Cursor) -> Result<Option<First>, RingError>;

    /// Fetches chains of one descriptor each that has exactly these flags, moves past them, and ends before anything else. `out` is not
    /// longer than what is left of the bound that [`Layout::available`] gave, each chain passed since counting as one. A loop of its own, apart from what is done with them, because then all it needs is in
    /// registers.
    fn fetch_plain(&mut self, flags: u16, out: &mut [Plain]) -> usize;

    /// Moves back over chains that `fetch_plain` fetched last.
    fn put_back(&mut self, chains: &[Plain]);

    /// All of it.
    fn descriptor(first: &First) -> Descriptor;

    /// Fetches the descriptor after `previous`, which is the `step`th (from 1) of the chain.
    fn follow(&self, first: &First, previous: &Descriptor, step: u16) -> Result<Descriptor, ChainError>;

    /// The buffer of a chain that was walked to its end.
    fn finish(&self, first: &First, walked: &Walked) -> Used;

    /// Measures a chain that is not worth walking: the buffer to return.
    fn measure(&self, first: &First) -> Result<Used, RingError>;

    /// Fetches entry `index` of a private copy of an indirect table of `count` entries; sets NEXT when another follows, whose index
    /// is then in `link`.
    fn indirect(table: &[[u8; 16]], index: usize) -> Result<Descriptor, ChainError>;

    /// Whether direct descriptors may precede one that refers to a table.
    const INDIRECT_AFTER_NEXT: bool;

    /// Moves a cursor past the chain of `descs` descriptors.
    fn advance(&mut self, cursor: &mut Self::Cursor, first: &First, descs: u16) -> Result<(), RingError>;

    /// Moves back over the chains that were passed last.
    fn unread(&mut self, chains: &[Used]);

    /// Returns all chains that were fetched and not moved back to the driver, oldest first, and makes them visible at once. With
    /// `as_batch` one entry speaks for all (`VIRTIO_F_IN_ORDER`).
    fn publish(&mut self, chains: &[Used], as_batch: bool, log: Option<&Arc<DirtyLog>>);

    /// Hints that the places of the next `count` chains will be read soon, as far as they are known to be there, and `written` soon
    /// after. Said when a burst ends, so that the lines are here when the next begins.
    fn prefetch_next(&self, count: usize, written: bool);

    /// Hints that `count` chains are looked for now and are likely to be there, so that the lines of all of them travel at once and not each
    /// after the one before told of it.
    fn prefetch_now(&self, count: usize);

    /// Asks the driver not to kick.
    fn suppress_kicks(&mut self, log: Option<&Arc<DirtyLog>>);

    /// Asks the driver to kick for the next chain; whether one is available already.
    fn request_kick(&mut self, log: Option<&Arc<DirtyLog>>) -> bool;

    /// Whether the driver wants to be interrupted for what was published and not signalled, as it can be seen now.
    fn interrupt_wanted(&self) -> bool;

    /// The same by what was read with other things of late, if that says it: no read of its own.
    #[inline(always)]
    fn interrupt_hinted(&self) -> bool {
        self.interrupt_wanted()
    }

    /// Chains or descriptors published since the driver was last interrupted, or found to want nothing.
    fn unsignalled(&mut self) -> &mut u32;

    /// See `DeviceRing::interrupt_hint`.
    #[inline(always)]
    fn interrupt_hint(&mut self) -> bool {
        let due = *self.unsignalled() != 0 && self.interrupt_hinted();
        if due {
            *self.unsignalled() = 0;
        }
        due
    }

    /// See `DeviceRing::interrupt_due`.
    fn interrupt_due(&mut self) -> bool {
        if *self.unsignalled() == 0 {
            return false;
        }
        // Our index before the driver's wish: the driver wishes, then looks at our index.
        fence(Ordering::SeqCst);
        let due = self.interrupt_wanted();
        *self.unsignalled() = 0;
        due
    }

    /// Size of the ring.
    fn size(&self) -> u16;
}

/// `vring_need_event` (virtio 1.2 section 2.7.10): whether moving from `old` to `new` passed `event`.
#[inline(always)]
pub(crate) fn passed_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
