//! Giving: the guest's receive ring.

use std::ptr::NonNull;
use std::sync::Arc;

use buf::{ExtentMut, Frame, FrameReader};
use guest_mem::{DirtyLog, GuestMemory, RegionCache, Translator};

use crate::chain::{Direction, Piece, Scratch, Walk};
use crate::config::RingFeatures;
use crate::error::{ChainError, GiveError, RingError, RingStats};
use crate::layout::{First, Layout, Used, WRITE};

/// Chains that may be reserved or filled before they are published.
const MAX_RESERVED: usize = 256;
/// Pieces of memory that the reserved chains of more than one piece may have together.
const MAX_PIECES: usize = 1088;
/// Offset of `num_buffers` in the virtio-net header (virtio 1.2 section 5.1.6).
const NUM_BUFFERS: usize = 10;

/// A chain fetched from the ring: its buffers, found and checked.
#[derive(Debug, Clone, Copy)]
struct Reserved {
    used: Used,
    /// Bytes it can hold; 0 for a bad chain.
    capacity: u32,
    /// Its first piece; the only one when `pieces` is 0.
    first: Piece,
    /// Its pieces in the arena.
    first_piece: u16,
    pieces: u16,
}

/// What a ring keeps for giving.
#[derive(Debug)]
pub(crate) struct Giver {
    pub(crate) features: RingFeatures,
    pub(crate) header_len: usize,
    cache: RegionCache,
    scratch: Scratch,
    /// Chains in ring order: filled ones, then reserved ones.
    chains: Vec<Reserved>,
    filled: usize,
    pieces: Vec<Piece>,
}

// SAFETY: the raw addresses in it are of guest memory that the ring owning this keeps mapped (`Queue::memory`); they belong to no thread.
unsafe impl Send for Giver {}

impl Giver {
    pub(crate) fn new(features: RingFeatures, header_len: usize, scratch: Scratch) -> Self {
        let (chains, pieces) = (Vec::with_capacity(MAX_RESERVED), Vec::with_capacity(MAX_PIECES));
        Self { features, header_len, cache: RegionCache::default(), scratch, chains, filled: 0, pieces }
    }

    /// Chains reserved and not filled.
    #[inline(always)]
    pub(crate) fn reserved(&self) -> usize {
        self.chains.len() - self.filled
    }

    /// Fetches chains until `want` are reserved or the ring or the room for them ends; asks for their first lines.
    #[inline(always)]
    pub(crate) fn reserve<L: Layout>(
        &mut self,
        want: usize,
        layout: &mut L,
        memory: &GuestMemory,
        stats: &mut RingStats,
    ) -> Result<usize, RingError> {
        let missing = want.saturating_sub(self.reserved()).min(MAX_RESERVED - self.chains.len());
        if missing == 0 {
            return Ok(self.reserved());
        }
        for _ in 0..layout.available(missing)? {
            let Some(first) = layout.first()? else { break };
            let chain = match self.plain::<L>(&first, memory) {
                Some(chain) => chain,
                None => match self.chain(layout, &first, memory, stats)? {
                    Some(chain) => chain,
                    None => break,
                },
            };
            layout.consume(&first, chain.used.descs)?;
            self.chains.push(chain);
        }
        Ok(self.reserved())
    }

    /// The common case: one writable buffer in the region last used.
    #[inline(always)]
    fn plain<L: Layout>(&mut self, first: &First, memory: &GuestMemory) -> Option<Reserved> {
        let desc = &first.desc;
        if desc.flags != WRITE || desc.len as usize <= self.header_len {
            return None;
        }
        let host = Translator::new(memory, &mut self.cache).address(desc.addr, desc.len)?;
        cpu::prefetch_write_at(host.as_ptr());
        // The header ends in another line than it starts in more often than not; the frame's first line is what is written first.
        cpu::prefetch_write_at(host.as_ptr().wrapping_add(self.header_len.min(desc.len as usize)));
        Some(Reserved {
            used: Used { id: L::id(first), descs: 1, len: 0 },
            capacity: desc.len,
            first: Piece { guest_addr: desc.addr, host, len: desc.len },
            first_piece: 0,
            pieces: 0,
        })
    }

    /// Any other chain; a bad one has no capacity. `None` when there is no room for its pieces before the next publish.
    #[cold]
    #[inline(never)]
    fn chain<L: Layout>(
        &mut self,
        layout: &L,
        first: &First,
        memory: &GuestMemory,
        stats: &mut RingStats,
    ) -> Result<Option<Reserved>, RingError> {
        let start = self.pieces.len();
        let mut walk = Walk {
            direction: Direction::Write,
            indirect: self.features.indirect,
            scratch: &mut self.scratch,
            translator: Translator::new(memory, &mut self.cache),
            header_len: self.header_len,
            total: 0,
        };
        let pieces = &mut self.pieces;
        let mut show = |piece: Piece| {
            if pieces.len() == MAX_PIECES {
                return Err(ChainError::TooManyPieces);
            }
            cpu::prefetch_write_at(piece.host.as_ptr());
            pieces.push(piece);
            Ok(())
        };
        let walked = walk.run(layout, first, &mut show);
        let capacity = u32::try_from(walk.total).unwrap_or(u32::MAX);
        let error = match walked {
            // Less than a header cannot start a frame, and a driver that hands out such crumbs is broken.
            Ok(walked) if capacity as usize > self.header_len => {
                let count = self.pieces.len() - start;
                let first_piece = *self.pieces.get(start).unwrap_or(&NOWHERE);
                return Ok(Some(Reserved {
                    used: layout.finish(first, &walked),
                    capacity,
                    first: first_piece,
                    first_piece: start as u16,
                    pieces: count as u16,
                }));
            }
            Ok(_) => ChainError::TooShort,
            Err(error) => error,
        };
        self.pieces.truncate(start);
        if error == ChainError::TooManyPieces && start > 0 {
            return Ok(None);
        }
        stats.count(error);
        let used = layout.measure(first)?;
        Ok(Some(Reserved { used, capacity: 0, first: NOWHERE, first_piece: 0, pieces: 0 }))
    }

    /// Copies `header` and `frame` into the next chain or, mergeable, chains. See `DeviceRing::give`.
    #[inline(always)]
    pub(crate) fn give<L: Layout>(
        &mut self,
        header: &[u8],
        frame: &Frame<'_, '_>,
        layout: &mut L,
        memory: &GuestMemory,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> Result<(), GiveError> {
        let total = header.len() + frame.len();
        if self.reserved() == 0 {
            self.reserve(1, layout, memory, stats)?;
        }
        match self.chains.get_mut(self.filled) {
            Some(chain) if chain.pieces == 0 && chain.capacity as usize >= total => {
                chain.used.len = total as u32;
                let (host, len) = (chain.first.host, chain.first.len as usize);
                // SAFETY: the piece lies in a mapping of the ring's memory, which its owner keeps while this chain is reserved.
                let extent = unsafe { ExtentMut::new(host.as_ptr(), len) };
                let (mut head, rest) = extent.split_at(header.len());
                head.write(header);
                let copied = frame.reader().copy_to(rest);
                debug_assert_eq!(copied, frame.len());
                if let Some(log) = log {
                    log.mark(chain.first.guest_addr, total as u64);
                }
                self.filled += 1;
                Ok(())
            }
            _ => self.give_over(header, frame, layout, memory, log, stats),
        }
    }

    /// Everything but one plain chain that is large enough.
    #[cold]
    #[inline(never)]
    fn give_over<L: Layout>(
        &mut self,
        header: &[u8],
        frame: &Frame<'_, '_>,
        layout: &mut L,
        memory: &GuestMemory,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> Result<(), GiveError> {
        let total = header.len() + frame.len();
        let count = self.gather(total, layout, memory, log, stats)?;
        let mut bytes = [0u8; crate::config::MAX_HEADER];
        let header = match bytes.get_mut(..header.len()) {
            Some(copy) => {
                copy.copy_from_slice(header);
                if let (true, Some(field)) = (count > 1, copy.get_mut(NUM_BUFFERS..NUM_BUFFERS + 2)) {
                    field.copy_from_slice(&(count as u16).to_le_bytes());
                }
                &*copy
            }
            None => header,
        };
        let mut source = Source { header, frame: frame.reader() };
        for _ in 0..count {
            self.fill(&mut source, log);
        }
        debug_assert!(source.header.is_empty() && source.frame.remaining() == 0);
        Ok(())
    }

    /// Reserves chains for `total` bytes, sorts out bad ones in front; how many chains the frame needs.
    fn gather<L: Layout>(
        &mut self,
        total: usize,
        layout: &mut L,
        memory: &GuestMemory,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> Result<usize, GiveError> {
        let (mut count, mut room) = (0, 0u64);
        loop {
            if self.reserved() <= count && self.reserve(count + 1, layout, memory, stats)? <= count {
                if self.chains.len() < MAX_RESERVED && self.pieces.len() < MAX_PIECES {
                    return Err(GiveError::NoBuffers);
                }
                if self.filled == 0 {
                    return Err(GiveError::TooSmall);
                }
                // Full of filled chains: hand them over early and look again.
                self.publish(layout, log, stats);
                (count, room) = (0, 0);
                continue;
            }
            let Some(chain) = self.chains.get(self.filled + count) else { return Err(GiveError::NoBuffers) };
            if chain.capacity == 0 {
                // Bad. Buffers of a frame must follow each other, so those before it go back empty as well.
                self.filled += count + 1;
                (count, room) = (0, 0);
                continue;
            }
            room += u64::from(chain.capacity);
            count += 1;
            if room >= total as u64 {
                return Ok(count);
            }
            if !self.features.mergeable {
                return Err(GiveError::TooSmall);
            }
        }
    }

    /// Fills the next reserved chain.
    fn fill(&mut self, source: &mut Source<'_, '_, '_>, log: Option<&Arc<DirtyLog>>) {
        let Some(chain) = self.chains.get_mut(self.filled) else { return };
        let first = usize::from(chain.first_piece);
        let single = [chain.first];
        let pieces = match chain.pieces {
            0 => &single[..],
            count => self.pieces.get(first..first + usize::from(count)).unwrap_or(&[]),
        };
        let mut written = 0;
        for piece in pieces {
            // SAFETY: the piece lies in a mapping of the ring's memory, which its owner keeps while this chain is reserved.
            let extent = unsafe { ExtentMut::new(piece.host.as_ptr(), piece.len as usize) };
            let count = source.copy_to(extent);
            if let Some(log) = log {
                log.mark(piece.guest_addr, count as u64);
            }
            written += count;
        }
        chain.used.len = written as u32;
        self.filled += 1;
    }

    /// Returns the filled chains to the guest; gives the reserved ones back to the ring.
    #[inline(always)]
    pub(crate) fn publish<L: Layout>(
        &mut self,
        layout: &mut L,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> usize {
        self.release(layout);
        let count = self.filled;
        let mut used = [Used::default(); MAX_BATCH];
        for chunk in self.chains.chunks(MAX_BATCH) {
            for (slot, chain) in used.iter_mut().zip(chunk) {
                *slot = chain.used;
            }
            layout.publish(used.get(..chunk.len()).unwrap_or(&[]), false, log);
        }
        stats.chains += count as u64;
        self.chains.clear();
        self.pieces.clear();
        self.filled = 0;
        count
    }

    /// Gives the reserved chains back to the ring.
    #[inline(always)]
    pub(crate) fn release<L: Layout>(&mut self, layout: &mut L) {
        while self.chains.len() > self.filled {
            if let Some(chain) = self.chains.pop() {
                layout.unread(&[chain.used]);
            }
        }
    }
}

/// Entries handed to `Layout::publish` at once.
const MAX_BATCH: usize = 64;

/// A piece of no bytes.
const NOWHERE: Piece = Piece { guest_addr: 0, host: NonNull::dangling(), len: 0 };

/// Header and frame as one stream of bytes.
struct Source<'h, 'a, 'm> {
    header: &'h [u8],
    frame: FrameReader<'a, 'm>,
}

impl Source<'_, '_, '_> {
    fn copy_to(&mut self, mut target: ExtentMut<'_>) -> usize {
        let count = target.write(self.header);
        self.header = self.header.get(count..).unwrap_or(&[]);
        let (_, rest) = target.split_at(count);
        count + self.frame.copy_to(rest)
    }
}
