//! What a worker judges packets with and changes while it does: its hands on the sessions, and its view of who is in which group.

use stages::police::DecisionLog;
use stages::shadow::Shadow;
use std::sync::Arc;
use tables::members::MemberReader;
use tables::sessions::{SessionWorker, Sessions};

/// See the module's documentation.
pub struct Guard {
    pub(crate) sessions: SessionWorker,
    pub(crate) table: Arc<Sessions>,
    pub(crate) members: MemberReader,
    pub(crate) log: DecisionLog,
    pub(crate) shadow: Shadow,
    pub(crate) now: u64,
}

impl Guard {
    /// Takes up what changed, and lets sessions whose time is over go; whether nothing is left that changed.
    #[inline(always)]
    pub(crate) fn refresh(&mut self, now: u64) -> bool {
        self.now = now;
        self.sessions.step(milliseconds(now));
        self.members.refresh();
        self.members.is_current()
    }

    /// When the next session may have to go, in nanoseconds of the worker's clock. Nobody is in a hurry for that: a worker that sleeps does so for a while.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let due = self.sessions.next_deadline()?;
        let left = due.wrapping_sub(milliseconds(self.now)) as i32;
        let left = u64::try_from(left).unwrap_or(0).max(NAP);
        Some(self.now.saturating_add(left * MILLISECOND))
    }

    /// Says that the worker looks at nothing until the next refresh.
    pub(crate) fn off_line(&mut self) {
        self.members.off_line();
        self.sessions.off_line();
    }
}

const MILLISECOND: u64 = 1_000_000;
/// Milliseconds that a worker sleeps at least before it looks after sessions.
const NAP: u64 = 50;

/// Nanoseconds of a worker's clock as sessions count time: they wrap.
pub(crate) fn milliseconds(now: u64) -> u32 {
    (now / MILLISECOND) as u32
}
