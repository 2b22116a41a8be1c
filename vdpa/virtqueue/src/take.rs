//! Taking: the guest's transmit ring.

use buf::{BURST_BYTES, BURST_PACKETS, Burst, Extent, Offload};
use guest_mem::{GuestMemory, RegionCache, Translator};

use crate::chain::{Direction, Piece, Scratch, WORK_LIMIT, Walk, Walked};
use crate::config::{MAX_FRAME, MAX_HEADER, RingFeatures};
use crate::error::{ChainError, RingError, RingStats};
use crate::headers::Headers;
use crate::layout::{FETCH, FULL_ENOUGH, First, Layout, Plain, Used};

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
    /// It is a packet of the burst, or was refused for what is wrong with it.
    Done(Used, Option<ChainError>),
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
        let room = burst.room().min(MAX_TAKEN - self.count);
        if self.busy {
            layout.prefetch_now(room);
        }
        self.busy = false;
        let end = self.count + layout.available(room)?;
        let start = self.count;
        self.work = 0;
        while self.count < end && !burst.is_full() && self.work <= WORK_LIMIT {
            if headers.is_wanted() {
                self.plain_run::<L, true>(end, layout, memory, burst, headers);
            } else {
                self.plain_run::<L, false>(end, layout, memory, burst, headers);
            }
            if self.count == end || burst.is_full() {
                break;
            }
            // Not plain, or none left.
            let mut cursor = layout.cursor();
            let Some(first) = layout.fetch(&cursor)? else { break };
            let Outcome::Done(used, error) = self.chain(layout, &first, memory, burst, headers)? else {
                break;
            };
            // A chain that breaks the ring counts as that alone: it never goes back.
            layout.advance(&mut cursor, &first, used.descs())?;
            error.into_iter().for_each(|error| stats.count(error));
            layout.set_cursor(cursor);
            if let Some(slot) = self.taken.get_mut(self.count) {
                *slot = used;
                self.count += 1;
            }
        }
        self.busy = self.count - start >= FULL_ENOUGH;
        Ok(())
    }

    /// The common case, as many in a row as there are: one readable buffer in one region, header and frame together. The loop writes an
    /// extent and what to return, and no more.
    #[inline(always)]
    fn plain_run<'m, L: Layout, const HEADERS: bool>(
        &mut self,
        end: usize,
        layout: &mut L,
        memory: &'m GuestMemory,
        burst: &mut Burst<'m>,
        headers: &mut Headers<'m>,
    ) {
        let mut chains = [Plain::default(); FETCH];
        let room_for_bytes = BURST_BYTES.saturating_sub(burst.bytes());
        let places = self.taken.get_mut(self.count..end).unwrap_or(&mut []);
        let extents = burst.single_slots();
        let room = places.len().min(extents.len()).min(FETCH);
        let fetched = layout.fetch_plain(0, chains.get_mut(..room).unwrap_or(&mut []));
        let chains = chains.get(..fetched).unwrap_or(&[]);
        let header_len = self.header_len;
        let mut cache = self.cache;
        let mut translator = Translator::new(memory, &mut cache);
        let mut headers_at = headers.slots();
        let (mut passed, mut bytes) = (0, 0);
        for ((chain, used), extent) in chains.iter().zip(places).zip(extents) {
            // One comparison for "longer than the header" and "not too long".
            let frame_len = (chain.len() as usize).wrapping_sub(header_len);
            if frame_len.wrapping_sub(1) >= MAX_FRAME || bytes >= room_for_bytes {
                break;
            }
            let Some(host) = translator.address(chain.addr, chain.len()) else { break };
            // SAFETY: `address` found all header_len + frame_len bytes of the chain in one mapping that `memory` keeps for 'm; it is
            // shared with the guest, so no reference to it exists.
            let (header, frame) = unsafe {
                let host = host.as_ptr();
                (Extent::new(host, header_len), Extent::new(host.add(header_len), frame_len))
            };
            frame.prefetch();
            if HEADERS {
                header.prefetch();
                let Some(slot) = headers_at.next() else { break };
                slot.write(header);
            }
            *used = chain.used();
            extent.write(frame);
            passed += 1;
            bytes += frame_len;
        }
        // SAFETY: the loop wrote the first `passed` extents, of 1 to MAX_FRAME bytes, and as many headers.
        unsafe {
            burst.added(passed, bytes);
            if HEADERS {
                headers.added(passed);
            }
        }
        self.cache = cache;
        self.count += passed;
        if let Some(others) = chains.get(passed..).filter(|others| !others.is_empty()) {
            layout.put_back(others);
        }
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
    ) -> Result<Outcome, RingError> {
        let error = match self.walk(layout, first, memory, burst, headers) {
            Ok(walked) if burst.commit(Offload::NONE) => {
                return Ok(Outcome::Done(layout.finish(first, &walked), None));
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
        self.work += usize::from(used.descs());
        Ok(Outcome::Done(used, Some(error)))
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
            _ if !headers.is_wanted() => {}
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
