//! When to look at a session again: two wheels of 256 lists (G. Varghese, A. Lauck, "Hashed and Hierarchical Timing Wheels", 1987).
//!
//! A session is looked at when its time would be over if no packet had come since it was put here; if some came, it is put where its time is over now. So
//! packets never touch the wheel. Ticks are 64 ms; the first wheel reaches 16 s, the second 70 minutes, what takes longer is looked at in between.
//!
//! The lists go through a word of each session in the table ([`super::pool::Pool::links`]): the number after it and the one before it, or the list's.

use crate::atomic::{AtomicU64, Ordering::Relaxed};

const SLOTS: u32 = 256;
const TICK_SHIFT: u32 = 6;
const TURN_SHIFT: u32 = 8;

/// No session.
const NONE: u32 = u32::MAX;
/// In the place of the one before: the list's number.
const HEAD: u32 = 1 << 31;
/// A session that is in no list.
pub(super) const UNLINKED: u64 = u64::MAX;

pub(super) struct Wheel {
    heads: Vec<u32>,
    /// The tick whose list is being emptied.
    tick: u32,
    count: u32,
}

impl Wheel {
    pub(super) fn new(now: u32) -> Self {
        Self { heads: vec![NONE; 2 * SLOTS as usize], tick: now >> TICK_SHIFT, count: 0 }
    }

    /// The list of what is due at `time`.
    fn slot(&self, time: u32, now: u32) -> usize {
        let ahead = time.wrapping_sub(now) as i32;
        // Ticks wrap with the clock, so what is ahead is counted from the present tick.
        let behind = (now >> TICK_SHIFT).wrapping_sub(self.tick) & (u32::MAX >> TICK_SHIFT);
        let ticks = (ahead.max(0) as u32 >> TICK_SHIFT) + behind.min(1 << 20) + 1;
        let goal = self.tick.wrapping_add(ticks);
        if ticks < SLOTS {
            return (goal % SLOTS) as usize;
        }
        let turns = (goal >> TURN_SHIFT).wrapping_sub(self.tick >> TURN_SHIFT).clamp(1, SLOTS - 1);
        (SLOTS + ((self.tick >> TURN_SHIFT).wrapping_add(turns)) % SLOTS) as usize
    }

    /// Puts a session that is in no list where `time` is.
    pub(super) fn insert<'a>(
        &mut self,
        number: u32,
        time: u32,
        now: u32,
        links: impl Fn(u32) -> &'a AtomicU64,
    ) {
        let slot = self.slot(time, now);
        let next = self.heads[slot];
        links(number).store(u64::from(HEAD | slot as u32) << 32 | u64::from(next), Relaxed);
        if next != NONE {
            let word = links(next);
            word.store(u64::from(number) << 32 | word.load(Relaxed) & 0xffff_ffff, Relaxed);
        }
        self.heads[slot] = number;
        self.count += 1;
    }

    /// Takes a session out of its list, if it is in one; whether it was.
    pub(super) fn remove<'a>(&mut self, number: u32, links: impl Fn(u32) -> &'a AtomicU64) -> bool {
        let word = links(number).load(Relaxed);
        if word == UNLINKED {
            return false;
        }
        let (before, next) = ((word >> 32) as u32, word as u32);
        if before & HEAD != 0 {
            self.heads[(before & !HEAD) as usize % (2 * SLOTS as usize)] = next;
        } else {
            let word = links(before);
            word.store(word.load(Relaxed) & !0xffff_ffff | u64::from(next), Relaxed);
        }
        if next != NONE {
            let word = links(next);
            word.store(u64::from(before) << 32 | word.load(Relaxed) & 0xffff_ffff, Relaxed);
        }
        links(number).store(UNLINKED, Relaxed);
        self.count -= 1;
        true
    }

    /// The present lists: of this turn and of this tick.
    #[inline]
    fn present(&self) -> [u32; 2] {
        let turn = (SLOTS + (self.tick >> TURN_SHIFT) % SLOTS) as usize;
        [turn, (self.tick % SLOTS) as usize].map(|slot| self.heads[slot])
    }

    /// Turns the wheel to where something is due, by at most `ticks`, of which it takes what it used; whether something is.
    #[inline]
    pub(super) fn turn(&mut self, now: u32, ticks: &mut u32) -> bool {
        let goal = now >> TICK_SHIFT;
        loop {
            if self.present() != [NONE; 2] {
                return true;
            }
            if self.tick == goal || *ticks == 0 {
                return false;
            }
            *ticks -= 1;
            if self.count == 0 {
                self.tick = goal;
                return false;
            }
            self.tick = self.tick.wrapping_add(1) & (u32::MAX >> TICK_SHIFT);
        }
    }

    /// Some that are due, which stay where they are; how many.
    pub(super) fn due<'a>(&self, into: &mut [u32], links: impl Fn(u32) -> &'a AtomicU64) -> usize {
        let mut count = 0;
        for mut next in self.present() {
            while next != NONE
                && let Some(place) = into.get_mut(count)
            {
                *place = next;
                count += 1;
                next = links(next).load(Relaxed) as u32;
            }
        }
        count
    }

    /// When something may be due, in milliseconds: at most a turn of the first wheel from `now` on. `None` if there is nothing.
    pub(super) fn next_deadline(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        let left = SLOTS - self.tick % SLOTS;
        let ahead = (0..left).find(|ahead| self.heads[((self.tick + ahead) % SLOTS) as usize] != NONE);
        let turn = self.heads[(SLOTS + (self.tick >> TURN_SHIFT) % SLOTS) as usize];
        let ahead = if turn == NONE { ahead.unwrap_or(left) } else { 0 };
        Some(self.tick.wrapping_add(ahead) << TICK_SHIFT)
    }
}
