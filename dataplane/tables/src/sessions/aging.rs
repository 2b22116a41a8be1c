//! What a worker does between bursts: looks at sessions whose time may be over, and takes their records back.

use super::pool::{CALLED, LIVE, RESTS};
use super::table::{EXPIRED, Sessions, parts};
use super::worker::LEASE;
use super::{SessionRef, SessionWorker};
use crate::atomic::AtomicU64;

/// Sessions looked at per step.
const LOOKS: usize = 64;
/// Sessions whose memory is asked for at once.
const TOGETHER: usize = 16;
/// Ticks of the wheel per step.
const TICKS: u32 = 4096;

impl SessionWorker {
    /// A session that lived a moment ago lives for `life` milliseconds, which is over before it was to be looked at.
    #[cold]
    pub(super) fn hasten(&mut self, session: u32, life: u32, now: u32) {
        let (family, record) = parts(session);
        let pool = &self.sessions.pools[family];
        if pool.worker(record) == self.number && pool.state(record) & LIVE != 0 {
            let sessions = &self.sessions;
            self.wheel.remove(session, |number| links(sessions, number));
            self.wheel.insert(session, now.wrapping_add(life), now, |number| links(sessions, number));
        } else {
            self.sessions.call(session);
        }
    }

    /// Takes a removed session out of the wheel and lets its record rest.
    pub(super) fn retire(&mut self, session: u32) {
        let (family, record) = parts(session);
        let sessions = &self.sessions;
        self.wheel.remove(session, |number| links(sessions, number));
        if sessions.pools[family].set_state(record, RESTS) & RESTS == 0 {
            self.limbo.rest(session);
        }
    }

    /// To be called once per burst, between packets: halves found before are not good any more. Looks at up to 64 sessions whose time may be over, and costs a few loads when
    /// there are none.
    #[inline]
    pub fn step(&mut self, now: u32) {
        self.now = now;
        self.sessions.quiescence.pass(self.number.into());
        self.sessions.calls(self.number.into(), &mut self.called);
        if !self.called.is_empty() {
            self.answer_calls();
        }
        self.age(now);
        if !self.limbo.is_empty() {
            self.reuse();
        }
    }

    #[inline]
    fn age(&mut self, now: u32) {
        let mut ticks = TICKS;
        for _ in 0..LOOKS / TOGETHER {
            if !self.wheel.turn(now, &mut ticks) {
                break;
            }
            self.look_at_due(now);
        }
    }

    /// Looks at some that are due. Nothing of them is in a cache, so that all of it is asked for before any is waited for.
    #[cold]
    fn look_at_due(&mut self, now: u32) {
        let sessions = &self.sessions;
        let mut due = [0; TOGETHER];
        let count = self.wheel.due(&mut due, |number| links(sessions, number));
        let due = &due[..count];
        due.iter().for_each(|session| sessions.ask_for(*session));
        due.iter().for_each(|session| sessions.ask_for_buckets(*session));
        for session in due {
            self.look_at(*session, now);
        }
    }

    #[cold]
    fn answer_calls(&mut self) {
        let from = self.called.len().saturating_sub(LOOKS);
        let mut called = std::mem::take(&mut self.called);
        for session in called.drain(from..) {
            let (family, record) = parts(session);
            self.sessions.pools[family].clear_state(record, CALLED);
            self.look_at(session, self.now);
        }
        self.called = called;
    }

    /// Removes a session whose time is over, or puts it where it will be.
    fn look_at(&mut self, session: u32, now: u32) {
        let (family, record) = parts(session);
        let state = self.sessions.pools[family].state(record);
        if state & LIVE == 0 {
            return self.retire(session);
        }
        let (seen, life) = self.sessions.life(session);
        if now.wrapping_sub(seen) as i32 >= life as i32 {
            return self.cut_as(SessionRef(session << 1), EXPIRED);
        }
        let sessions = &self.sessions;
        self.wheel.remove(session, |number| links(sessions, number));
        self.wheel.insert(session, seen.wrapping_add(life), now, |number| links(sessions, number));
    }

    #[cold]
    fn reuse(&mut self) {
        let (sessions, leases) = (&self.sessions, &mut self.leases);
        self.limbo.release(&sessions.quiescence, |session| {
            let (family, record) = parts(session);
            leases[family].push(record);
        });
        for (lease, pool) in leases.iter_mut().zip(&sessions.pools) {
            let keep = LEASE.min(pool.capacity() / 64).max(1) as usize;
            if lease.len() > 2 * keep {
                pool.give_back(&lease[keep..]);
                lease.truncate(keep);
            }
        }
    }

    /// When [`SessionWorker::step`] may have something to do, in milliseconds; `None`: not before somebody makes a session.
    pub fn next_deadline(&self) -> Option<u32> {
        if !self.called.is_empty() || !self.limbo.is_empty() {
            return Some(self.now);
        }
        self.wheel.next_deadline()
    }

    /// Says that this worker looks at nothing until its next [`SessionWorker::step`]: it goes to sleep.
    pub fn off_line(&mut self) {
        self.sessions.quiescence.off_line(self.number.into());
    }
}

pub(super) fn links(sessions: &Sessions, session: u32) -> &AtomicU64 {
    let (family, record) = parts(session);
    sessions.pools[family].links(record)
}
