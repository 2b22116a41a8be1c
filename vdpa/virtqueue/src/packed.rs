//! The packed ring (virtio 1.2 section 2.8): one ring of descriptors that both sides write.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use guest_mem::{DirtyLog, GuestMemory};

use crate::area::Area;
use crate::chain::Walked;
use crate::config::{MAX_RING_SIZE, RingConfig};
use crate::error::{ChainError, RingError, SetupError};
use crate::inflight::InflightPart;
use crate::layout::{Descriptor, First, INDIRECT, Layout, NEXT, Plain, Used, WRITE, passed_event};

const DESCRIPTOR: usize = 16;
/// `VIRTQ_DESC_F_AVAIL` and `VIRTQ_DESC_F_USED`: compared with the wrap counter.
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Values of the flags of an event suppression structure (section 2.8.14).
const EVENTS_DISABLE: u16 = 1;
const EVENTS_AT: u16 = 2;

/// A place in the ring and the wrap counter there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    index: u16,
    wrap: bool,
}

impl Position {
    /// From half of a base.
    fn decode(half: u16) -> Self {
        Self { index: half & 0x7fff, wrap: half & 0x8000 != 0 }
    }

    /// The bits that say "available" here: AVAIL equals the wrap counter, USED does not.
    #[inline(always)]
    fn available(self) -> u16 {
        if self.wrap { AVAIL } else { USED }
    }

    fn encode(self) -> u16 {
        self.index | if self.wrap { 0x8000 } else { 0 }
    }

    /// `by` places on, at most the size of the ring.
    #[inline(always)]
    fn advance(&mut self, by: u16, size: u16) {
        // Both at most 32,768, so the sum does not fit 16 bits only when both are: use 32.
        let next = u32::from(self.index) + u32::from(by);
        if next >= u32::from(size) {
            self.wrap = !self.wrap;
            self.index = (next - u32::from(size)) as u16;
        } else {
            self.index = next as u16;
        }
    }

    /// `by` places back, at most the size of the ring.
    fn retreat(&mut self, by: u16, size: u16) {
        if self.index >= by {
            self.index -= by;
        } else {
            self.wrap = !self.wrap;
            self.index = (u32::from(self.index) + u32::from(size) - u32::from(by)) as u16;
        }
    }
}

/// The next chain, and how many ring positions are fetched and not returned (at most the size).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    at: Position,
    outstanding: u16,
}

/// Whether the second half of the descriptor at a position says that it is available.
#[inline(always)]
fn is_available(rest: u64, at: Position) -> bool {
    // Both bits in one comparison: AVAIL equals the wrap counter, USED does not.
    (rest >> 48) as u16 & (AVAIL | USED) == at.available()
}

/// Second half of the descriptor at `index`: length, id, flags.
#[inline(always)]
fn load_rest(ring: &Area, index: u16) -> u64 {
    // Acquire: the driver writes the flags last, so the other fields are read after them.
    u64::from_le(ring.u64(usize::from(index) * DESCRIPTOR + 8).load(Ordering::Acquire))
}

/// First half of the descriptor at `index`.
#[inline(always)]
fn load_addr(ring: &Area, index: u16) -> u64 {
    u64::from_le(ring.u64(usize::from(index) * DESCRIPTOR).load(Ordering::Relaxed))
}

/// The descriptor at a position, if it is available.
#[inline(always)]
fn fetch(ring: &Area, at: Position) -> Option<First> {
    let rest = load_rest(ring, at.index);
    is_available(rest, at).then(|| First { addr: load_addr(ring, at.index), rest, at: at.index })
}

/// The two halves of a descriptor, taken apart.
#[inline(always)]
fn unpack(addr: u64, rest: u64) -> Descriptor {
    let flags = (rest >> 48) as u16 & !(AVAIL | USED);
    Descriptor { addr, len: rest as u32, flags, link: (rest >> 32) as u16 }
}

/// The device's half of a packed ring.
#[derive(Debug)]
pub(crate) struct Packed {
    ring: Area,
    driver_event: Area,
    device_event: Area,
    size: u16,
    event_idx: bool,
    avail: Cursor,
    /// Where the next used descriptor goes.
    used: Position,
    /// Ring positions returned since the last decision on an interrupt.
    unsignalled: u32,
    /// Where it is told how far the ring came, for who comes after a crash.
    inflight: Option<InflightPart>,
}

impl Packed {
    /// Tells in `part` from now on how far the ring came; with `resume` it goes on from where that says a process before this one came to.
    pub(crate) fn track(&mut self, part: InflightPart, resume: bool) {
        if let Some((old, next)) = part.read(self.size).filter(|_| resume) {
            let (old, next) =
                (Position { index: old.0, wrap: old.1 }, Position { index: next.0, wrap: next.1 });
            // Still available as it was: nothing from there on was returned. Used, or even available again: all of it was.
            let returned = !is_available(load_rest(&self.ring, old.index), old);
            self.used = if returned { next } else { old };
            self.avail = Cursor { at: self.used, outstanding: 0 };
        }
        part.begin(self.size, (self.used.index, self.used.wrap));
        self.inflight = Some(part);
    }

    /// `Layout::publish` with an in-flight region: each used descriptor is announced there and then seen at once, so that a process that dies
    /// between two leaves nothing half done.
    #[cold]
    fn publish_tracked(&mut self, chains: &[Used], as_batch: bool, log: Option<&Arc<DirtyLog>>) {
        let Some(part) = &self.inflight else { return };
        let start = self.used;
        let mut at = start;
        let mut descs = 0;
        for (chain, rest) in chains.iter().zip((0..chains.len()).rev()) {
            let before = at;
            descs += u32::from(chain.descs());
            at.advance(chain.descs(), self.size);
            if !as_batch {
                part.intend((before.index, before.wrap), (at.index, at.wrap));
                self.write_used(before, chain);
            } else if rest == 0 {
                // The last speaks for all, in the first one's place.
                part.intend((start.index, start.wrap), (at.index, at.wrap));
                self.write_used(start, chain);
            }
        }
        if let Some(log) = log {
            self.log_used(log, start, chains);
        }
        self.used = at;
        // At most the size of the ring, by `advance`.
        self.avail.outstanding -= descs as u16;
        self.unsignalled = self.unsignalled.saturating_add(descs);
    }

    /// The descriptor at `index`, which is not the first of its chain.
    fn load(&self, index: u16) -> Descriptor {
        let rest = load_rest(&self.ring, index);
        unpack(load_addr(&self.ring, index), rest)
    }

    /// The position `step` behind a chain's first.
    #[inline(always)]
    fn place(&self, first: &First, step: u16) -> u16 {
        let mut position = Position { index: first.at, wrap: false };
        position.advance(step, self.size);
        position.index
    }

    #[inline(always)]
    fn write_used(&self, at: Position, chain: &Used) {
        let mut flags = if at.wrap { AVAIL | USED } else { 0 };
        if chain.len() > 0 {
            flags |= WRITE;
        }
        let rest = u64::from(chain.len()) | u64::from(chain.id()) << 32 | u64::from(flags) << 48;
        self.ring.u64(usize::from(at.index) * DESCRIPTOR + 8).store(rest.to_le(), Ordering::Release);
    }

    #[cold]
    fn log_used(&self, log: &DirtyLog, start: Position, chains: &[Used]) {
        let mut at = start;
        for chain in chains {
            self.ring.mark(log, usize::from(at.index) * DESCRIPTOR, DESCRIPTOR);
            at.advance(chain.descs(), self.size);
        }
    }

    fn set_device_event(&self, at: u16, flags: u16, log: Option<&Arc<DirtyLog>>) {
        let value = u32::from(at) | u32::from(flags) << 16;
        self.device_event.u32(0).store(value.to_le(), Ordering::Relaxed);
        if let Some(log) = log {
            self.device_event.mark(log, 0, 4);
        }
    }
}

impl Layout for Packed {
    const INDIRECT_AFTER_NEXT: bool = false;

    type Cursor = Cursor;

    fn new(config: &RingConfig, memory: &GuestMemory) -> Result<Self, SetupError> {
        let size = config.size;
        if size == 0 || size > MAX_RING_SIZE {
            return Err(SetupError::Size(size));
        }
        let (low, high) = (config.base as u16, (config.base >> 16) as u16);
        // Front ends that know only 16 bits leave the used half 0; then nothing is in flight.
        let used = Position::decode(if high == 0 { low } else { high });
        if used.index >= size || Position::decode(low).index >= size {
            return Err(SetupError::Base { base: config.base, size });
        }
        let ring =
            Area::find("descriptor ring", config.desc_addr, usize::from(size) * DESCRIPTOR, 16, memory)?;
        let driver_event = Area::find("driver event structure", config.driver_addr, 4, 4, memory)?;
        let device_event = Area::find("device event structure", config.device_addr, 4, 4, memory)?;
        Area::check_disjoint(&[&ring, &driver_event, &device_event])?;
        Ok(Self {
            ring,
            driver_event,
            device_event,
            size,
            event_idx: config.features.event_idx,
            avail: Cursor { at: used, outstanding: 0 },
            used,
            unsignalled: 0,
            inflight: None,
        })
    }

    fn attach(&mut self, memory: &GuestMemory) -> Result<(), SetupError> {
        // All or nothing: the owner keeps only one memory mapped.
        let (ring, driver_event) = (self.ring.find_again(memory)?, self.driver_event.find_again(memory)?);
        self.device_event = self.device_event.find_again(memory)?;
        (self.ring, self.driver_event) = (ring, driver_event);
        Ok(())
    }

    fn base(&self) -> u32 {
        u32::from(self.avail.at.encode()) | u32::from(self.used.encode()) << 16
    }

    #[inline(always)]
    fn available(&mut self, want: usize) -> Result<usize, RingError> {
        Ok(want.min(usize::from(self.size - self.avail.outstanding)))
    }

    #[inline(always)]
    fn cursor(&self) -> Cursor {
        self.avail
    }

    #[inline(always)]
    fn set_cursor(&mut self, cursor: Cursor) {
        self.avail = cursor;
    }

    fn fetch(&self, cursor: &Cursor) -> Result<Option<First>, RingError> {
        if cursor.outstanding >= self.size {
            return Ok(None);
        }
        Ok(fetch(&self.ring, cursor.at))
    }

    #[inline(always)]
    fn fetch_plain(&mut self, flags: u16, out: &mut [Plain]) -> usize {
        let (ring, size) = (self.ring, self.size);
        let Cursor { mut at, outstanding } = self.avail;
        // Flags, and both bits that say "available", in one comparison.
        let mut wanted = flags | at.available();
        let mut count = 0;
        // Chains of several descriptors may have been passed since `available` said how many there can be, and a guest can make their
        // descriptors look available again: more than the ring has are never out.
        for slot in out.iter_mut().take(usize::from(size - outstanding)) {
            let rest = load_rest(&ring, at.index);
            if (rest >> 48) as u16 != wanted {
                break;
            }
            *slot = Plain::new(load_addr(&ring, at.index), rest, (rest >> 32) as u16);
            at.index += 1;
            if at.index == size {
                at = Position { index: 0, wrap: !at.wrap };
                wanted = flags | at.available();
            }
            count += 1;
        }
        self.avail = Cursor { at, outstanding: outstanding + count as u16 };
        count
    }

    fn put_back(&mut self, chains: &[Plain]) {
        self.avail.outstanding -= chains.len() as u16;
        self.avail.at.retreat(chains.len() as u16, self.size);
    }

    fn descriptor(first: &First) -> Descriptor {
        unpack(first.addr, first.rest)
    }

    fn follow(&self, first: &First, _previous: &Descriptor, step: u16) -> Result<Descriptor, ChainError> {
        if step >= self.size {
            return Err(ChainError::TooLong);
        }
        Ok(self.load(self.place(first, step)))
    }

    fn finish(&self, _first: &First, walked: &Walked) -> Used {
        Used::new(walked.last_link, walked.descs)
    }

    fn measure(&self, first: &First) -> Result<Used, RingError> {
        let mut last = Self::descriptor(first);
        for step in 1..=self.size {
            if last.flags & NEXT == 0 {
                return Ok(Used::new(last.link, step));
            }
            last = self.load(self.place(first, step));
        }
        Err(RingError::EndlessChain { position: first.at, size: self.size })
    }

    fn indirect(table: &[[u8; 16]], index: usize) -> Result<Descriptor, ChainError> {
        let entry = table.get(index).ok_or(ChainError::Next)?;
        let value = u128::from_le_bytes(*entry);
        // Only WRITE has a meaning here (section 2.8.7); entries follow each other to the end of the table.
        let mut flags = (value >> 112) as u16 & (WRITE | INDIRECT);
        if index + 1 < table.len() {
            flags |= NEXT;
        }
        Ok(Descriptor { addr: value as u64, len: (value >> 64) as u32, flags, link: (index + 1) as u16 })
    }

    fn advance(&mut self, cursor: &mut Cursor, first: &First, descs: u16) -> Result<(), RingError> {
        if descs > self.size - cursor.outstanding {
            return Err(RingError::EndlessChain { position: first.at, size: self.size });
        }
        cursor.outstanding += descs;
        cursor.at.advance(descs, self.size);
        Ok(())
    }

    fn unread(&mut self, chains: &[Used]) {
        for chain in chains {
            self.avail.outstanding -= chain.descs();
            self.avail.at.retreat(chain.descs(), self.size);
        }
    }

    #[inline(always)]
    fn publish(&mut self, chains: &[Used], as_batch: bool, log: Option<&Arc<DirtyLog>>) {
        let (Some((first, others)), Some(last)) = (chains.split_first(), chains.last()) else { return };
        let start = self.used;
        let mut at = start;
        if self.inflight.is_some() {
            return self.publish_tracked(chains, as_batch, log);
        }
        // Together at most the size of the ring, by `advance`.
        let descs = chains.iter().fold(0, |sum, chain| sum + u32::from(chain.descs()));
        if as_batch {
            at.advance(descs as u16, self.size);
        } else {
            at.advance(first.descs(), self.size);
            for chain in others {
                self.write_used(at, chain);
                at.advance(chain.descs(), self.size);
            }
        }
        // The first goes last: until then the driver sees none of them.
        self.write_used(start, if as_batch { last } else { first });
        if let Some(log) = log {
            // After the writes: whoever sees (and clears) a mark sees what was written.
            self.log_used(log, start, chains);
        }
        self.used = at;
        self.avail.outstanding -= descs as u16;
        self.unsignalled = self.unsignalled.saturating_add(descs);
    }

    #[inline(always)]
    fn prefetch_next(&self, count: usize, written: bool) {
        let mut at = self.avail.at;
        for _ in (0..count + 3).step_by(4) {
            let offset = usize::from(at.index) * DESCRIPTOR;
            if written {
                self.ring.prefetch_write(offset);
            } else {
                self.ring.prefetch(offset);
            }
            at.advance(4.min(self.size), self.size);
        }
    }

    #[inline(always)]
    fn prefetch_now(&self, count: usize) {
        self.prefetch_next(count, false);
    }

    fn suppress_kicks(&mut self, log: Option<&Arc<DirtyLog>>) {
        self.set_device_event(0, EVENTS_DISABLE, log);
    }

    fn request_kick(&mut self, log: Option<&Arc<DirtyLog>>) -> bool {
        if self.event_idx {
            self.set_device_event(self.avail.at.encode(), EVENTS_AT, log);
        } else {
            self.set_device_event(0, 0, log);
        }
        // Our wish before the driver's descriptors; the driver writes descriptors before it reads our wish.
        fence(Ordering::SeqCst);
        is_available(load_rest(&self.ring, self.avail.at.index), self.avail.at)
    }

    #[inline(always)]
    fn interrupt_wanted(&self) -> bool {
        let event = u32::from_le(self.driver_event.u32(0).load(Ordering::Relaxed));
        let (at, flags) = (Position::decode(event as u16), (event >> 16) as u16);
        match flags {
            EVENTS_DISABLE => false,
            EVENTS_AT if self.event_idx => {
                let Ok(count) = u16::try_from(self.unsignalled) else { return true };
                let new = self.used.index;
                let event =
                    if at.wrap == self.used.wrap { at.index } else { at.index.wrapping_sub(self.size) };
                passed_event(event, new, new.wrapping_sub(count))
            }
            // Enabled; reserved values and EVENTS_AT without EVENT_IDX count as that, at most one interrupt per burst either way.
            _ => true,
        }
    }

    fn unsignalled(&mut self) -> &mut u32 {
        &mut self.unsignalled
    }

    fn size(&self) -> u16 {
        self.size
    }
}
