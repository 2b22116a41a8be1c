//! The split ring (virtio 1.2 section 2.7): descriptor table, available ring, used ring.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use guest_mem::{DirtyLog, GuestMemory};

use crate::area::Area;
use crate::chain::Walked;
use crate::config::{MAX_RING_SIZE, RingConfig};
use crate::error::{ChainError, RingError, SetupError};
use crate::layout::{Descriptor, FULL_ENOUGH, First, Layout, Plain, Used, passed_event};

const DESCRIPTOR: usize = 16;
/// Offsets in the available and the used ring: flags, index, entries.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const USED_ENTRY: usize = 8;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, and `VIRTQ_USED_F_NO_NOTIFY` in the other direction.
const NO_NOTIFICATION: u16 = 1;

/// A head that was not fetched since the rounds began anew.
const NO_ROUND: u8 = 0;

/// The device's half of a split ring.
#[derive(Debug)]
pub(crate) struct Split {
    table: Area,
    available: Area,
    used: Area,
    size: u16,
    mask: u16,
    event_idx: bool,
    /// The next chain to fetch.
    next_avail: u16,
    /// The driver's index as last loaded: it is loaded again only when these chains do not suffice.
    avail_seen: u16,
    /// Our index, as the driver sees it.
    next_used: u16,
    /// The head returned last.
    last_head: u16,
    /// Chains returned since the last decision on an interrupt.
    unsignalled: u32,
    /// The driver's flags when its index was last read.
    flags_seen: u16,
    /// By head: the `round` in which it was fetched last. A byte each, so that marking one does not wait for marking another.
    fetched_in: Box<[u8]>,
    /// Begins anew (1 to 255) whenever all chains are returned, so that none has to be unmarked: a head is out if it was fetched in this
    /// round.
    round: u8,
}

impl Split {
    fn load_available(&self) -> u16 {
        u16::from_le(self.available.u16(INDEX).load(Ordering::Acquire))
    }

    /// The driver wrote to `used_event` the index that it wants to hear of (behind the available ring).
    fn used_event(&self) -> u16 {
        let at = ENTRIES + 2 * usize::from(self.size);
        u16::from_le(self.available.u16(at).load(Ordering::Relaxed))
    }

    /// Offset of `avail_event`, by which we say which index we want to hear of (behind the used ring).
    fn avail_event(&self) -> usize {
        ENTRIES + USED_ENTRY * usize::from(self.size)
    }

    fn set_avail_event(&self, index: u16, log: Option<&Arc<DirtyLog>>) {
        self.used.u16(self.avail_event()).store(index.to_le(), Ordering::Relaxed);
        self.log_used(log, self.avail_event(), 2);
    }

    fn set_used_flags(&self, flags: u16, log: Option<&Arc<DirtyLog>>) {
        self.used.u16(FLAGS).store(flags.to_le(), Ordering::Relaxed);
        self.log_used(log, FLAGS, 2);
    }

    fn log_used(&self, log: Option<&Arc<DirtyLog>>, offset: usize, len: usize) {
        if let Some(log) = log {
            self.used.mark(log, offset, len);
        }
    }

    /// Offset of the used entry for chain number `index`.
    #[inline(always)]
    fn used_entry(&self, index: u16) -> usize {
        ENTRIES + USED_ENTRY * usize::from(index & self.mask)
    }

    #[inline(always)]
    fn write_used(&self, index: u16, chain: &Used) {
        let at = self.used_entry(index);
        self.used.u32(at).store(u32::from(chain.id()).to_le(), Ordering::Relaxed);
        self.used.u32(at + 4).store(chain.len().to_le(), Ordering::Relaxed);
    }

    #[cold]
    fn log_entries(&self, log: &DirtyLog, count: usize) {
        for offset in 0..count as u16 {
            self.used.mark(log, self.used_entry(self.next_used.wrapping_add(offset)), USED_ENTRY);
        }
    }

    fn mark(&mut self, head: u16, round: u8) {
        if let Some(slot) = self.fetched_in.get_mut(usize::from(head)) {
            *slot = round;
        }
    }

    /// Nothing is out any more.
    #[inline(always)]
    fn next_round(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == NO_ROUND {
            self.forget_rounds();
        }
    }

    /// As after as many bursts as it takes to get there.
    #[cfg(test)]
    pub(crate) fn begin_in_round(&mut self, round: u8) {
        self.round = round;
    }

    #[cold]
    fn forget_rounds(&mut self) {
        self.fetched_in.fill(NO_ROUND);
        self.round = 1;
    }
}

/// The available entry at a position below the size.
#[inline(always)]
fn load_head(available: &Area, position: u16) -> u16 {
    u16::from_le(available.u16(ENTRIES + 2 * usize::from(position)).load(Ordering::Relaxed))
}

/// The two halves of the descriptor at an index below the size.
#[inline(always)]
fn load(table: &Area, index: u16) -> (u64, u64) {
    let at = usize::from(index) * DESCRIPTOR;
    let addr = u64::from_le(table.u64(at).load(Ordering::Relaxed));
    (addr, u64::from_le(table.u64(at + 8).load(Ordering::Relaxed)))
}

/// The two halves of a descriptor, taken apart.
#[inline(always)]
fn unpack(addr: u64, rest: u64) -> Descriptor {
    Descriptor { addr, len: rest as u32, flags: (rest >> 32) as u16, link: (rest >> 48) as u16 }
}

impl Layout for Split {
    const INDIRECT_AFTER_NEXT: bool = true;

    /// Number of the next chain; below the driver's index by construction of the loops.
    type Cursor = u16;

    fn new(config: &RingConfig, memory: &GuestMemory) -> Result<Self, SetupError> {
        let size = config.size;
        if size == 0 || size > MAX_RING_SIZE || !size.is_power_of_two() {
            return Err(SetupError::Size(size));
        }
        let entries = usize::from(size);
        let event = if config.features.event_idx { 2 } else { 0 };
        let table = Area::find("descriptor table", config.desc_addr, entries * DESCRIPTOR, 16, memory)?;
        let available =
            Area::find("available ring", config.driver_addr, ENTRIES + 2 * entries + event, 2, memory)?;
        let used_len = ENTRIES + USED_ENTRY * entries + event;
        let used = Area::find("used ring", config.device_addr, used_len, 4, memory)?;
        Area::check_disjoint(&[&table, &available, &used])?;
        // After a crash of a back end the used index is what it really returned; everything behind it is still to be done.
        let next_used = u16::from_le(used.u16(INDEX).load(Ordering::Acquire));
        Ok(Self {
            table,
            available,
            used,
            size,
            mask: size - 1,
            event_idx: config.features.event_idx,
            next_avail: next_used,
            avail_seen: next_used,
            next_used,
            last_head: 0,
            unsignalled: 0,
            flags_seen: 0,
            fetched_in: vec![NO_ROUND; entries].into_boxed_slice(),
            round: 1,
        })
    }

    fn attach(&mut self, memory: &GuestMemory) -> Result<(), SetupError> {
        // All or nothing: the owner keeps only one memory mapped.
        let (table, available) = (self.table.find_again(memory)?, self.available.find_again(memory)?);
        self.used = self.used.find_again(memory)?;
        (self.table, self.available) = (table, available);
        Ok(())
    }

    fn base(&self) -> u32 {
        u32::from(self.next_avail)
    }

    #[inline(always)]
    fn available(&mut self, want: usize) -> Result<usize, RingError> {
        let mut count = self.avail_seen.wrapping_sub(self.next_avail);
        if usize::from(count) < want {
            let index = self.load_available();
            if index.wrapping_sub(self.next_used) > self.size {
                return Err(RingError::AvailableJump { index, used: self.next_used, size: self.size });
            }
            self.avail_seen = index;
            // They are neighbours: the line is here now.
            self.flags_seen = u16::from_le(self.available.u16(FLAGS).load(Ordering::Relaxed));
            count = index.wrapping_sub(self.next_avail);
            // An index that went backwards is behind what we fetched already.
            if count > self.size {
                return Err(RingError::AvailableJump { index, used: self.next_used, size: self.size });
            }
            // A few, which nobody asked for ahead: the entry and the descriptor are fetched at the same time, not one after the other.
            if (1..FULL_ENOUGH as u16).contains(&count) {
                self.prefetch_now(usize::from(count));
            }
        }
        Ok(usize::from(count).min(want))
    }

    #[inline(always)]
    fn cursor(&self) -> u16 {
        self.next_avail
    }

    #[inline(always)]
    fn set_cursor(&mut self, cursor: u16) {
        self.next_avail = cursor;
    }

    fn fetch(&self, cursor: &u16) -> Result<Option<First>, RingError> {
        let head = load_head(&self.available, cursor & self.mask);
        match self.fetched_in.get(usize::from(head)) {
            Some(round) if *round == self.round => Err(RingError::DuplicateHead { head }),
            Some(_) => {
                let (addr, rest) = load(&self.table, head);
                Ok(Some(First { addr, rest, at: head }))
            }
            None => Err(RingError::Head { head, size: self.size }),
        }
    }

    #[inline(always)]
    fn fetch_plain(&mut self, flags: u16, out: &mut [Plain]) -> usize {
        let (table, available, mask, round) = (self.table, self.available, self.mask, self.round);
        let (mut next, mut count) = (self.next_avail, 0);
        for slot in out {
            let head = load_head(&available, next & mask);
            // Below the size of the ring, and not out already.
            let Some(mark) = self.fetched_in.get_mut(usize::from(head)) else { break };
            if *mark == round {
                break;
            }
            let (addr, rest) = load(&table, head);
            if (rest >> 32) as u16 != flags {
                break;
            }
            *mark = round;
            *slot = Plain::new(addr, rest, head);
            next = next.wrapping_add(1);
            count += 1;
        }
        self.next_avail = next;
        count
    }

    fn put_back(&mut self, chains: &[Plain]) {
        chains.iter().for_each(|chain| self.mark(chain.used().id(), NO_ROUND));
        self.next_avail = self.next_avail.wrapping_sub(chains.len() as u16);
    }

    fn descriptor(first: &First) -> Descriptor {
        unpack(first.addr, first.rest)
    }

    fn follow(&self, _first: &First, previous: &Descriptor, _step: u16) -> Result<Descriptor, ChainError> {
        if previous.link >= self.size {
            return Err(ChainError::Next);
        }
        let (addr, rest) = load(&self.table, previous.link);
        Ok(unpack(addr, rest))
    }

    fn finish(&self, first: &First, _walked: &Walked) -> Used {
        Used::new(first.at, 1)
    }

    fn measure(&self, first: &First) -> Result<Used, RingError> {
        Ok(Used::new(first.at, 1))
    }

    fn indirect(table: &[[u8; 16]], index: usize) -> Result<Descriptor, ChainError> {
        let entry = table.get(index).ok_or(ChainError::Next)?;
        let value = u128::from_le_bytes(*entry);
        Ok(unpack(value as u64, (value >> 64) as u64))
    }

    fn advance(&mut self, cursor: &mut u16, first: &First, _descs: u16) -> Result<(), RingError> {
        self.mark(first.at, self.round);
        *cursor = cursor.wrapping_add(1);
        Ok(())
    }

    fn unread(&mut self, chains: &[Used]) {
        for chain in chains {
            self.mark(chain.id(), NO_ROUND);
        }
        self.next_avail = self.next_avail.wrapping_sub(chains.len() as u16);
    }

    #[inline(always)]
    fn publish(&mut self, chains: &[Used], as_batch: bool, log: Option<&Arc<DirtyLog>>) {
        let Some(last) = chains.last() else { return };
        let mut index = self.next_used;
        if as_batch {
            self.write_used(index, last);
            index = index.wrapping_add(chains.len() as u16);
        } else {
            for chain in chains {
                self.write_used(index, chain);
                index = index.wrapping_add(1);
            }
        }
        self.next_round();
        self.used.u16(INDEX).store(index.to_le(), Ordering::Release);
        if let Some(log) = log {
            // After the writes: whoever sees (and clears) a mark sees what was written.
            self.log_entries(log, if as_batch { 1 } else { chains.len() });
            self.used.mark(log, INDEX, 2);
        }
        self.next_used = index;
        self.last_head = last.id();
        self.unsignalled = self.unsignalled.saturating_add(chains.len() as u32);
    }

    #[inline(always)]
    fn prefetch_next(&self, count: usize, _written: bool) {
        let ready = usize::from(self.avail_seen.wrapping_sub(self.next_avail)).min(count);
        if ready > 0 {
            self.prefetch_now(ready);
        }
    }

    #[inline(always)]
    fn prefetch_now(&self, count: usize) {
        self.available.prefetch(ENTRIES + 2 * usize::from(self.next_avail & self.mask));
        // Drivers hand out descriptors in the order of the table nearly always; a wrong guess costs a few lines.
        let guess = usize::from(self.last_head) + 1;
        for step in (0..count + 3).step_by(4) {
            self.table.prefetch(((guess + step) & usize::from(self.mask)) * DESCRIPTOR);
        }
    }

    fn suppress_kicks(&mut self, log: Option<&Arc<DirtyLog>>) {
        if self.event_idx {
            // An index just behind us is passed again only after 65,535 more chains.
            self.set_avail_event(self.next_avail.wrapping_sub(1), log);
        } else {
            self.set_used_flags(NO_NOTIFICATION, log);
        }
    }

    fn request_kick(&mut self, log: Option<&Arc<DirtyLog>>) -> bool {
        if self.event_idx {
            self.set_avail_event(self.next_avail, log);
        } else {
            self.set_used_flags(0, log);
        }
        // The driver writes its index, then reads ours; we write ours, then read its: one of the two sees the other.
        fence(Ordering::SeqCst);
        self.load_available() != self.next_avail
    }

    #[inline(always)]
    fn interrupt_wanted(&self) -> bool {
        if !self.event_idx {
            return u16::from_le(self.available.u16(FLAGS).load(Ordering::Relaxed)) & NO_NOTIFICATION == 0;
        }
        let Ok(count) = u16::try_from(self.unsignalled) else { return true };
        passed_event(self.used_event(), self.next_used, self.next_used.wrapping_sub(count))
    }

    fn interrupt_hinted(&self) -> bool {
        if self.event_idx { self.interrupt_wanted() } else { self.flags_seen & NO_NOTIFICATION == 0 }
    }

    #[inline(always)]
    fn unsignalled(&mut self) -> &mut u32 {
        &mut self.unsignalled
    }

    fn size(&self) -> u16 {
        self.size
    }
}
