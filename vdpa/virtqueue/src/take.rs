//! Taking: the guest's transmit ring.

use buf::{BURST_PACKETS, Burst, Extent, Offload};
use guest_mem::{GuestMemory, RegionCache, Translator};

use crate::chain::{Direction, Piece, Scratch, WORK_LIMIT, Walk, Walked};
use crate::config::{MAX_FRAME, MAX_HEADER, RingFeatures};
use crate::error::{ChainError, RingError, RingStats};
use crate::headers::Headers;
use crate::layout::{FULL_ENOUGH, First, Layout, Run, Used};

/// Chains that may be taken before they are returned.
const MAX_TAKEN: usize = 2 * BURST_PACKETS;

/// What a ring keeps for taking.
#[derive(Debug)]
pub(crate) struct Taker {
    pub(crate) features: RingFeatures,
    pub(crate) header_len: usize,
    cache: RegionCache,
    scratch: Scratch,
    /// Taken and not returned, oldest first; the first `count` are valid.
    taken: [Used; MAX_TAKEN],
    count: usize,
    /// Descriptors walked in this burst.
    work: usize,
    /// The last call found many chains, so this one is likely to.
    busy: bool,
}

/// How an attempt at one chain ended.
enum Outcome {
    /// It is a packet of the burst, or was refused.
    Done(Used),
    /// It does not fit the burst any more: not taken.
    NoRoom,
}

impl Taker {
    pub(crate) fn new(features: RingFeatures, header_len: usize, scratch: Scratch) -> Self {
        let cache = RegionCache::default();
        Self {
            features,
            header_len,
            cache,
            scratch,
            taken: [Used::default(); MAX_TAKEN],
            count: 0,
            work: 0,
            busy: false,
        }
    }

    /// Chains to be returned.
    #[inline(always)]
    pub(crate) fn taken(&self) -> &[Used] {
        self.taken.get(..self.count).unwrap_or(&[])
    }

    /// Forgets them.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Adds chains to `burst` until either is exhausted; asks for the lines of all of them. See `DeviceRing::take`.
    #[inline(always)]
    pub(crate) fn take<'m, L: Layout>(
        &mut self,
        layout: &mut L,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
        stats: &mut RingStats,
    ) -> Result<(), RingError> {
        headers.reset(self.header_len);
        let room = (BURST_PACKETS - burst.len()).min(MAX_TAKEN - self.count);
        if self.busy {
            layout.prefetch_now(room);
        }
        self.busy = false;
        let end = self.count + layout.available(room)?;
        let start = self.count;
        self.work = 0;
        while self.count < end && !burst.is_full() && self.work <= WORK_LIMIT {
            self.plain_run(end, layout, memory, burst, headers);
            if self.count == end || burst.is_full() {
                break;
            }
            // Not plain, or none left.
            let mut cursor = layout.cursor();
            let Some(first) = layout.fetch(&cursor)? else { break };
            let Outcome::Done(used) = self.chain(layout, &first, memory, burst, headers, stats)? else {
                break;
            };
            layout.advance(&mut cursor, &first, used.descs)?;
            layout.set_cursor(cursor);
            if let Some(slot) = self.taken.get_mut(self.count) {
                *slot = used;
                self.count += 1;
            }
        }
        self.busy = self.count - start >= FULL_ENOUGH;
        Ok(())
    }

    /// The common case, as many in a row as there are: one readable buffer in one region, header and frame together. Everything this loop
    /// needs stays in registers; what is in memory is written once.
    #[inline(always)]
    fn plain_run<'m, L: Layout>(
        &mut self,
        end: usize,
        layout: &mut L,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) {
        let header_len = self.header_len;
        let wanted = headers.is_wanted();
        let mut cache = self.cache;
        let mut translator = Translator::new(memory, &mut cache);
        let mut run = layout.run();
        let mut passed = 0;
        let places = self.taken.get_mut(self.count..end).unwrap_or(&mut []);
        let mut slots = places.iter_mut().zip(headers.slots());
        burst.extend_packets(|| {
            // First whether there is one: what lies behind the last, the driver may be writing.
            let (used, header_slot) = slots.next()?;
            let first = run.fetch()?;
            // One comparison for "longer than the header" and "not too long".
            let frame_len = (first.len() as usize).wrapping_sub(header_len);
            if L::flags(&first) != 0 || frame_len.wrapping_sub(1) >= MAX_FRAME {
                return None;
            }
            let extent = translator.translate(first.addr, first.len())?;
            *used = Used { id: L::id(&first), descs: 1, len: 0 };
            let (header, frame) = extent.split_at(header_len);
            if wanted {
                header.prefetch();
            }
            frame.prefetch();
            header_slot.write(header);
            run.pass(&first);
            passed += 1;
            Some(frame)
        });
        // SAFETY: the closure wrote one slot for each chain it passed, in order.
        unsafe { headers.added(passed) };
        self.cache = cache;
        self.count += passed;
        drop(run);
        layout.pass(passed as u16);
    }

    /// Any other chain.
    #[inline(never)]
    fn chain<'m, L: Layout>(
        &mut self,
        layout: &L,
        first: &First,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
        stats: &mut RingStats,
    ) -> Result<Outcome, RingError> {
        let error = match self.walk(layout, first, memory, burst, headers) {
            Ok(walked) if burst.commit(Offload::NONE) => {
                return Ok(Outcome::Done(layout.finish(first, &walked)));
            }
            Ok(_) => ChainError::TooShort,
            Err(error) => error,
        };
        burst.abandon();
        // Alone it would fit: not the chain's fault.
        if error == ChainError::TooManyPieces && !burst.is_empty() {
            return Ok(Outcome::NoRoom);
        }
        let used = layout.measure(first)?;
        stats.count(error);
        self.work += usize::from(used.descs);
        Ok(Outcome::Done(used))
    }

    /// Walks a chain, pushes its frame's extents and its header.
    fn walk<'m, L: Layout>(
        &mut self,
        layout: &L,
        first: &First,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) -> Result<Walked, ChainError> {
        let mut gather = Gather { want: self.header_len, bytes: [0; MAX_HEADER], filled: 0, whole: None };
        let mut walk = Walk {
            direction: Direction::Read,
            indirect: self.features.indirect,
            scratch: &mut self.scratch,
            translator: Translator::new(memory, &mut self.cache),
            header_len: self.header_len,
            total: 0,
            steps: 0,
        };
        let walked = walk.run(layout, first, &mut |piece: Piece| {
            // SAFETY: the piece lies in a mapping of `memory` (`Translator::pieces`), which is borrowed for 'm.
            let extent = unsafe { Extent::new(piece.host.as_ptr(), piece.len as usize) };
            let frame = gather.header(extent);
            frame.prefetch();
            burst.push_extent(frame).map_err(|_| ChainError::TooManyPieces)
        });
        self.work += walk.steps;
        let walked = walked?;
        if burst.open_bytes() == 0 {
            return Err(ChainError::TooShort);
        }
        if burst.open_bytes() > MAX_FRAME {
            return Err(ChainError::TooLarge);
        }
        match gather.whole {
            Some(header) => headers.push(header),
            None => headers.push_private(gather.bytes),
        }
        Ok(walked)
    }
}

/// Splits the header off the first pieces of a chain.
struct Gather<'m> {
    want: usize,
    bytes: [u8; MAX_HEADER],
    filled: usize,
    /// The header, when it lies in one piece.
    whole: Option<Extent<'m>>,
}

impl<'m> Gather<'m> {
    /// Takes from `extent` what is missing of the header; returns the rest.
    fn header(&mut self, extent: Extent<'m>) -> Extent<'m> {
        let (part, rest) = extent.split_at(self.want - self.filled);
        if part.is_empty() {
            return rest;
        }
        if part.len() == self.want {
            part.prefetch();
            self.whole = Some(part);
        } else if let Some(target) = self.bytes.get_mut(self.filled..self.filled + part.len()) {
            part.read(target);
        }
        self.filled += part.len();
        rest
    }
}
