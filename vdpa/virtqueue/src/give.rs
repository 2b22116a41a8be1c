//! Giving: the guest's receive ring.

use std::ptr::NonNull;
use std::sync::Arc;

use buf::{ExtentMut, Frame, FrameReader};
use guest_mem::{DirtyLog, GuestMemory, RegionCache, Translator};

use crate::chain::{Direction, Piece, Scratch, WORK_LIMIT, Walk};
use crate::config::RingFeatures;
use crate::error::{ChainError, GiveError, RingError, RingStats};
use crate::layout::FULL_ENOUGH;
use crate::layout::{FETCH, First, Layout, Plain, Used, WRITE};

/// Chains that may be reserved or filled before they are published.
const MAX_RESERVED: usize = 256;
/// Pieces of memory that the reserved chains of more than one piece may have together.
const MAX_PIECES: usize = 1088;
/// Bytes of the longest frame that any receive buffer must hold where buffers are not merged: an untagged Ethernet frame (virtio 1.2 section 5.1.6.3.1
/// asks for 1526 bytes, the header's 12 included). A smaller buffer goes back empty: left where it is, it would keep all behind it from use.
const PLAIN_FRAME: usize = 1514;
/// How many frames ahead of the one being copied all lines of the next are asked for, on both sides. With only the first lines asked
/// for, 1,514 bytes took 165 cycles (near) and 690 (far) from a guest that writes its payload, with this 147 and 480.
const COPY_AHEAD: usize = 4;
/// Offset of `num_buffers` in the virtio-net header (virtio 1.2 section 5.1.6).
const NUM_BUFFERS: usize = 10;

/// Where the bytes of a reserved chain go. 16 bytes, four to a line.
#[derive(Debug, Clone, Copy)]
struct Target {
    /// The first piece.
    host: NonNull<u8>,
    /// Bytes a chain of one piece can hold; 0 for any other.
    plain: u32,
    /// The pieces of any other in the arena. Of a bad chain, which has none: its [`ChainError`].
    first_piece: u16,
    pieces: u16,
}

impl Target {
    /// A target for no bytes.
    const fn nowhere(error: ChainError) -> Self {
        Self { host: NonNull::dangling(), plain: 0, first_piece: error as u16, pieces: 0 }
    }

    /// What is wrong with a bad chain.
    fn error(&self) -> ChainError {
        ChainError::ALL.get(usize::from(self.first_piece)).copied().unwrap_or(ChainError::TooShort)
    }
}

/// What a ring keeps for giving.
#[derive(Debug)]
pub(crate) struct Giver {
    pub(crate) features: RingFeatures,
    header_len: usize,
    /// Chains in ring order: first the filled ones, then up to `fetched` the reserved ones.
    filled: usize,
    fetched: usize,
    cache: RegionCache,
    targets: Box<[Target]>,
    used: Box<[Used]>,
    pieces: Vec<Piece>,
    /// The arena was too full for a chain.
    out_of_pieces: bool,
    /// Descriptors walked since the last publish.
    work: usize,
    scratch: Scratch,
}

// SAFETY: the raw addresses in it are of guest memory that the ring owning this keeps mapped (`Queue::memory`); they belong to no thread.
unsafe impl Send for Giver {}

impl Giver {
    pub(crate) fn new(features: RingFeatures, header_len: usize, scratch: Scratch) -> Self {
        Self {
            features,
            header_len,
            filled: 0,
            fetched: 0,
            cache: RegionCache::default(),
            targets: vec![Target::nowhere(ChainError::TooShort); MAX_RESERVED].into_boxed_slice(),
            used: vec![Used::default(); MAX_RESERVED].into_boxed_slice(),
            pieces: Vec::with_capacity(MAX_PIECES),
            out_of_pieces: false,
            work: 0,
            scratch,
        }
    }

    /// Chains reserved and not filled.
    #[inline(always)]
    pub(crate) fn reserved(&self) -> usize {
        self.fetched - self.filled
    }

    /// Fetches chains until `want` are reserved or the ring or the room for them ends; asks for their first lines.
    #[inline(always)]
    pub(crate) fn reserve<L: Layout>(
        &mut self,
        want: usize,
        layout: &mut L,
        memory: &GuestMemory,
    ) -> Result<usize, RingError> {
        let missing = want.saturating_sub(self.reserved()).min(MAX_RESERVED - self.fetched);
        if missing == 0 {
            return Ok(self.reserved());
        }
        let end = self.fetched + layout.available(missing)?;
        while self.fetched < end && self.work <= WORK_LIMIT {
            self.plain_run(end, layout, memory);
            if self.fetched == end {
                break;
            }
            // Not plain, or none left.
            let mut cursor = layout.cursor();
            let Some(first) = layout.fetch(&cursor)? else { break };
            let Some((target, used)) = self.chain(layout, &first, memory)? else {
                self.out_of_pieces = true;
                break;
            };
            layout.advance(&mut cursor, &first, used.descs())?;
            layout.set_cursor(cursor);
            if let (Some(to), Some(entry)) =
                (self.targets.get_mut(self.fetched), self.used.get_mut(self.fetched))
            {
                (*to, *entry) = (target, used);
                self.fetched += 1;
            }
        }
        Ok(self.reserved())
    }

    /// The common case, as many in a row as there are: one writable buffer in one region, with room for more than a header. (Less cannot start a
    /// frame, and a driver that hands out such crumbs is broken.)
    #[inline(always)]
    fn plain_run<L: Layout>(&mut self, end: usize, layout: &mut L, memory: &GuestMemory) {
        let mut chains = [Plain::default(); FETCH];
        let room = end.saturating_sub(self.fetched).min(FETCH);
        let fetched = layout.fetch_plain(WRITE, chains.get_mut(..room).unwrap_or(&mut []));
        let chains = chains.get(..fetched).unwrap_or(&[]);
        let header_len = self.header_len;
        let mut cache = self.cache;
        let mut translator = Translator::new(memory, &mut cache);
        let targets = self.targets.get_mut(self.fetched..end).unwrap_or(&mut []);
        let entries = self.used.get_mut(self.fetched..end).unwrap_or(&mut []);
        let mut passed = 0;
        for ((chain, target), used) in chains.iter().zip(targets).zip(entries) {
            let len = chain.len();
            if len as usize <= header_len {
                break;
            }
            let Some(host) = translator.address(chain.addr, len) else { break };
            // The header ends in another line than the frame starts in more often than not.
            cpu::prefetch_write_at(host.as_ptr());
            cpu::prefetch_write_at(host.as_ptr().wrapping_add(header_len));
            *target = Target { host, plain: len, first_piece: 0, pieces: 0 };
            *used = chain.used();
            passed += 1;
        }
        self.cache = cache;
        self.fetched += passed;
        if let Some(others) = chains.get(passed..).filter(|others| !others.is_empty()) {
            layout.put_back(others);
        }
    }

    /// Any other chain; a bad one has no capacity. `None` when there is no room for its pieces before the next publish.
    #[inline(never)]
    fn chain<L: Layout>(
        &mut self,
        layout: &L,
        first: &First,
        memory: &GuestMemory,
    ) -> Result<Option<(Target, Used)>, RingError> {
        let start = self.pieces.len();
        let mut walk = Walk {
            direction: Direction::Write,
            indirect: self.features.indirect,
            scratch: &mut self.scratch,
            translator: Translator::new(memory, &mut self.cache),
            header_len: self.header_len,
            total: 0,
            steps: 0,
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
        self.work += walk.steps;
        let capacity = u32::try_from(walk.total).unwrap_or(u32::MAX);
        let error = match (walked, self.pieces.get(start)) {
            (Ok(walked), Some(piece)) if capacity as usize > self.header_len => {
                let pieces = (self.pieces.len() - start) as u16;
                let target = Target { host: piece.host, plain: 0, first_piece: start as u16, pieces };
                return Ok(Some((target, layout.finish(first, &walked))));
            }
            (Ok(_), _) => ChainError::TooShort,
            (Err(error), _) => error,
        };
        self.pieces.truncate(start);
        if error == ChainError::TooManyPieces && start > 0 {
            return Ok(None);
        }
        let used = layout.measure(first)?;
        self.work += usize::from(used.descs());
        Ok(Some((Target::nowhere(error), used)))
    }

    /// Copies frames, each behind its header, into plain chains already reserved, as long as each fits the next; how many frames and
    /// bytes. See `DeviceRing::give_run`.
    #[inline(always)]
    pub(crate) fn give_run(
        &mut self,
        frames: &[Frame<'_, '_>],
        mut header: impl FnMut(&Frame<'_, '_>) -> [u8; 12],
    ) -> (usize, usize) {
        const HEADER: usize = 12;
        let targets = self.targets.get(self.filled..self.fetched).unwrap_or(&[]);
        let entries = self.used.get_mut(self.filled..self.fetched).unwrap_or(&mut []);
        let (mut given, mut bytes) = (0, 0);
        for (at, ((frame, target), used)) in frames.iter().zip(targets).zip(entries).enumerate() {
            let ahead = at + COPY_AHEAD;
            if let (Some(frame), Some(target)) = (frames.get(ahead), targets.get(ahead))
                && frame.body_len() > 0
            {
                frame.prefetch_body();
                prefetch_write(target.host, (HEADER + frame.len()).min(target.plain as usize));
            }
            let len = frame.len();
            let total = HEADER + len;
            if total > target.plain as usize {
                break;
            }
            // SAFETY: the target lies in a mapping of the ring's memory, which its owner keeps while this chain is reserved, and has at
            // least `total` bytes.
            let (mut head, rest) = unsafe {
                let start = target.host.as_ptr();
                (ExtentMut::new(start, HEADER), ExtentMut::new(start.add(HEADER), len))
            };
            head.write(&header(frame));
            frame.copy_whole(rest);
            *used = used.written(total as u32);
            given += 1;
            bytes += total;
        }
        self.filled += given;
        (given, bytes - given * HEADER)
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
        let at = self.filled;
        if at < self.fetched
            && let (Some(target), Some(used)) = (self.targets.get(at), self.used.get_mut(at))
            && let Some(room) = (target.plain as usize).checked_sub(header.len())
            && room >= frame.len()
        {
            let total = header.len() + frame.len();
            // SAFETY: the target lies in a mapping of the ring's memory, which its owner keeps while this chain is reserved.
            let extent = unsafe { ExtentMut::new(target.host.as_ptr(), target.plain as usize) };
            let (mut head, rest) = extent.split_at(header.len());
            match <&[u8; 12]>::try_from(header) {
                // The length nearly every driver negotiates, known at compile time.
                Ok(header) => head.write(header),
                Err(_) => head.write(header),
            };
            frame.copy_to(rest);
            *used = used.written(total as u32);
            self.filled = at + 1;
            if let Some(log) = log {
                mark(log, memory, target.host, total);
            }
            return Ok(());
        }
        self.give_over(header, frame, layout, memory, log, stats)
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
        self.ask_for(self.filled, total);
        for left in (0..count).rev() {
            if left > 0 {
                self.ask_for(self.filled + 1, source.frame.remaining());
            }
            self.fill(&mut source, memory, log);
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
        let mut usual = 2048;
        loop {
            // As many at once as buffers of the size seen last would need, so that their lines travel together.
            let more = 1 + (total as u64).saturating_sub(room) / usual;
            if self.reserved() <= count && self.reserve(count + more as usize, layout, memory)? <= count {
                // A guest that makes bad chains available as fast as they come back must not keep us here: so much per burst.
                if self.work > WORK_LIMIT || (self.fetched < MAX_RESERVED && !self.out_of_pieces) {
                    return Err(GiveError::NoBuffers);
                }
                if self.filled == 0 {
                    return Err(GiveError::TooSmall);
                }
                // Our room is taken by filled chains: hand them over early and look again.
                self.hand_over(layout, log, stats);
                (count, room) = (0, 0);
                continue;
            }
            let Some(target) = self.targets.get(self.filled + count) else {
                return Err(GiveError::NoBuffers);
            };
            let capacity = self.capacity(target);
            let is_plain = total <= self.header_len + PLAIN_FRAME;
            let is_runt = !self.features.mergeable && is_plain && (capacity as usize) < total;
            if capacity == 0 || is_runt {
                stats.count(if capacity == 0 { target.error() } else { ChainError::Runt });
                // Buffers of a frame must follow each other, so those before it go back empty as well.
                self.filled += count + 1;
                self.work += 1;
                (count, room) = (0, 0);
                continue;
            }
            usual = u64::from(capacity);
            room += usual;
            count += 1;
            if room >= total as u64 {
                return Ok(count);
            }
            if !self.features.mergeable {
                return Err(GiveError::TooSmall);
            }
        }
    }

    /// Bytes that a reserved chain can hold; 0 for a bad one.
    fn capacity(&self, target: &Target) -> u32 {
        let first = usize::from(target.first_piece);
        let pieces = self.pieces.get(first..first + usize::from(target.pieces)).unwrap_or(&[]);
        pieces.iter().fold(target.plain, |sum, piece| sum.saturating_add(piece.len))
    }

    /// Asks for the lines of a reserved chain, of which at most `most` bytes will be written: those of pages that follow each other in the
    /// frame seldom do so in memory.
    fn ask_for(&self, at: usize, most: usize) {
        if let Some(target) = self.targets.get(at) {
            prefetch_write(target.host, most.min(target.plain as usize));
        }
    }

    /// Fills the next reserved chain.
    fn fill(&mut self, source: &mut Source<'_, '_, '_>, memory: &GuestMemory, log: Option<&Arc<DirtyLog>>) {
        let at = self.filled;
        let (Some(target), Some(used)) = (self.targets.get(at), self.used.get_mut(at)) else { return };
        let first = usize::from(target.first_piece);
        let single = [Piece { host: target.host, len: target.plain }];
        let pieces = match target.pieces {
            0 => &single[..],
            count => self.pieces.get(first..first + usize::from(count)).unwrap_or(&[]),
        };
        let mut written = 0;
        for piece in pieces {
            // SAFETY: the piece lies in a mapping of the ring's memory, which its owner keeps while this chain is reserved.
            let extent = unsafe { ExtentMut::new(piece.host.as_ptr(), piece.len as usize) };
            let count = source.copy_to(extent);
            if let Some(log) = log {
                mark(log, memory, piece.host, count);
            }
            written += count;
        }
        *used = used.written(written as u32);
        self.filled = at + 1;
    }

    /// Returns the filled chains to the guest; gives the reserved ones back to the ring. A burst ends here, and with it what it may cost.
    #[inline(always)]
    pub(crate) fn publish<L: Layout>(
        &mut self,
        layout: &mut L,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> usize {
        self.work = 0;
        self.hand_over(layout, log, stats)
    }

    #[inline(always)]
    fn hand_over<L: Layout>(
        &mut self,
        layout: &mut L,
        log: Option<&Arc<DirtyLog>>,
        stats: &mut RingStats,
    ) -> usize {
        self.release(layout);
        let count = self.filled;
        layout.publish(self.used.get(..count).unwrap_or(&[]), false, log);
        if count >= FULL_ENOUGH {
            layout.prefetch_next(count, true);
        }
        stats.chains += count as u64;
        (self.filled, self.fetched) = (0, 0);
        self.forget_pieces();
        count
    }

    /// Gives the reserved chains back to the ring.
    #[inline(always)]
    pub(crate) fn release<L: Layout>(&mut self, layout: &mut L) {
        if self.fetched > self.filled {
            layout.unread(self.used.get(self.filled..self.fetched).unwrap_or(&[]));
            self.fetched = self.filled;
            self.forget_pieces();
        }
    }

    /// Empties the arena when no chain has pieces in it any more.
    #[inline(always)]
    fn forget_pieces(&mut self) {
        if self.fetched == 0 {
            self.pieces.clear();
            self.out_of_pieces = false;
        }
    }
}

/// Asks for the lines of `len` bytes that will be written.
#[inline(always)]
fn prefetch_write(host: NonNull<u8>, len: usize) {
    for offset in (0..len).step_by(cpu::CACHE_LINE) {
        cpu::prefetch_write_at(host.as_ptr().wrapping_add(offset));
    }
}

/// Marks what was written at an address of ours.
#[cold]
fn mark(log: &DirtyLog, memory: &GuestMemory, host: NonNull<u8>, len: usize) {
    if let Some(guest_addr) = memory.guest_addr_of_host(host.as_ptr()) {
        log.mark(guest_addr, len as u64);
    }
}

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
