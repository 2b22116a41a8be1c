//! A packet of a TCP connection: read from the session's halves, followed by [`tcp`](super::tcp), written into its sender's half.

use super::half::{JUDGED, SEQUENCE, TIME, join, split};
use super::table::{Sessions, half_parts, peer};
use super::tcp::{self, Peer, SENT_FIN, Step};
use super::{Facts, SessionRef};
use crate::atomic::{AtomicU64, Ordering::Relaxed};

/// What becomes of it.
pub(super) enum Followed {
    Passes,
    Invalid,
    /// It opens the connection anew: a first packet.
    Reopened,
}

/// What its half is to remember of a packet that passes.
pub(super) struct Passed {
    pub(super) acknowledged: u32,
    /// When the session was last kept alive, in milliseconds.
    pub(super) seen: u32,
    /// How long it lives from now on, in milliseconds, if that is shorter than it was.
    pub(super) shorter: Option<u32>,
}

/// Follows it. All but what `passed` says is written.
#[inline(always)]
pub(super) fn follow(
    sessions: &Sessions,
    session: SessionRef,
    own: &[AtomicU64; 8],
    facts: &Facts,
    passed: &mut Passed,
) -> Followed {
    let Some(segment) = &facts.tcp else { return Followed::Invalid };
    let (family, half) = half_parts(session.0);
    let (before, other) = (peer(own), peer(sessions.pool(family).half(half ^ 1)));
    match tcp::step(session.is_initiator(), before, &other, segment) {
        Step::Accept(after) => {
            passed.acknowledged = after.acknowledged;
            passed.shorter = note(sessions, session, own, (before, after), &other);
            Followed::Passes
        }
        Step::Ignore(after) => {
            passed.shorter = note(sessions, session, own, (before, after), &other);
            // It does not keep the session alive.
            passed.seen = split(own[TIME].load(Relaxed)).1;
            Followed::Passes
        }
        Step::Invalid => Followed::Invalid,
        Step::Reopen => Followed::Reopened,
    }
}

/// Writes what a TCP packet said into its half, but for what it acknowledged; how long the session lives now, if that is shorter.
#[inline(always)]
fn note(
    sessions: &Sessions,
    session: SessionRef,
    own: &[AtomicU64; 8],
    (before, after): (Peer, Peer),
    other: &Peer,
) -> Option<u32> {
    own[SEQUENCE].store(join(after.end, after.edge), Relaxed);
    if after.flags != before.flags {
        own[JUDGED].store(own[JUDGED].load(Relaxed) & !0xffff | u64::from(after.flags), Relaxed);
    }
    let ends = after.acknowledged != before.acknowledged && other.flags & SENT_FIN != 0;
    if ends || after.flags != before.flags { turned(sessions, session, before, after) } else { None }
}

/// The flags of a TCP half changed, or it acknowledged the other's end: the connection may stand elsewhere. How long it lives there, if that is shorter.
#[cold]
fn turned(sessions: &Sessions, session: SessionRef, before: Peer, after: Peer) -> Option<u32> {
    let (family, half) = half_parts(session.0);
    let other = peer(sessions.pools[family].half(half ^ 1));
    let state = |sender: &Peer| match session.is_initiator() {
        true => tcp::state(sender, &other),
        false => tcp::state(&other, sender),
    };
    let (old, new) = (state(&before), state(&after));
    if old.is_half_open() && !new.is_half_open() {
        sessions.opened(session.number());
    }
    let tcp = &sessions.timeouts.tcp;
    Some(new.timeout(tcp)).filter(|life| *life < old.timeout(tcp))
}
