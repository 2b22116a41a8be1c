//! Sessions: what was decided about a flow, for both of its directions.
//!
//! A session has two *halves*, one per direction, each found by its own key: where the packets enter (a local port, or a VPC by way of the
//! underlay) and their addresses, protocol and ports as seen there. A half says where its packets go ([`Way`]), which rewrite they get, and what the decision
//! rests on (epoch and stamp). Every packet after the first costs one look-up:
//!
//! 1. [`SessionWorker::look_up4`] and [`SessionWorker::look_up6`] find the halves of a burst, [`SessionWorker::check`] says whether one is still good for a packet,
//!    follows the connection, and gives the way;
//! 2. what has no session, or a stale one, is judged by the caller, which then calls [`SessionWorker::create`], [`SessionWorker::renew`] or
//!    [`SessionWorker::cut`];
//! 3. [`SessionWorker::step`], once per burst, ages a bounded number of sessions.
//!
//! The table is plain data in a memory file ([`Sessions::file`]): versioned, position independent, so that a later process finds every session
//! ([`Sessions::open`]). Half of a session: one line (`half.rs`); of an IPv6 session another half line for its longer key. What is needed
//! seldom lies apart (`pool.rs`). An IPv4 session takes at most 192 bytes with its share of the index, an IPv6 session 256.
//!
//! # Several workers
//!
//! Each half is written by packets of its direction, with plain stores; whoever meets a torn mixture of two writers sees the session as stale at
//! worst. Sessions are made and removed under the locks of the two buckets that their keys belong to, held for some tens of instructions (`index.rs`): two workers that meet both
//! directions of a new flow at once get one session. A removed session's record rests until every worker has begun another burst (`limbo.rs`).
//!
//! Times are milliseconds of `CLOCK_BOOTTIME`, as `u32`, which wrap after 49 days; no session is left alone for that long.

mod aging;
#[cfg(all(test, loom))]
mod explored;
mod follow;
mod fragments;
mod half;
mod hash;
mod index;
mod key;
mod limbo;
mod memory;
mod moved;
mod options;
mod pass;
mod pool;
mod quota;
mod table;
mod tcp;
mod wheel;
mod worker;

pub use fragments::FragmentKey;
pub use key::{AnyKey, Key, Key4, Key6, UNDERLAY, attachment_of_port, attachment_of_vpc};
pub use options::{Options, Quota, TcpTimeouts, Timeouts};
pub use pass::{Guess, Packet, Passage};
pub use quota::PortCounts;
pub use table::{Listed, Sessions, Statistics};
pub use tcp::TcpState;
pub use worker::SessionWorker;

use packet::MacAddr;
use packet::tcp::Segment;

/// Where packets of one direction of a session go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// The output, as the caller numbers outputs; below `u32::MAX - 1`.
    pub output: u32,
    /// If the packet is routed: its new destination MAC address, and the number (below 2^14) of the subnet it comes out in, whose gateway
    /// is its new source.
    pub rewrite: Option<(MacAddr, u16)>,
    /// Whether the packet's addresses and ports become those of the opposite half's key, reversed.
    pub translate: bool,
}

/// One half of a session; good until its worker's next [`SessionWorker::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionRef(pub(super) u32);

impl SessionRef {
    /// The half for the packets of who sent the first one.
    #[inline(always)]
    #[must_use]
    pub const fn is_initiator(self) -> bool {
        self.0 & 1 == 0
    }

    /// The half for the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn opposite(self) -> SessionRef {
        SessionRef(self.0 ^ 1)
    }

    /// As a look-up finds it.
    #[inline(always)]
    #[must_use]
    pub const fn found(self) -> Found {
        Found(self.0)
    }

    /// The session without its direction: equal for both halves of one.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 >> 1
    }
}

/// What a look-up found: a half of a session, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Found(pub(super) u32);

impl Found {
    /// No session.
    pub const NONE: Found = Found(u32::MAX);

    /// The half that was found.
    #[inline(always)]
    #[must_use]
    pub const fn session(self) -> Option<SessionRef> {
        if self.0 == u32::MAX { None } else { Some(SessionRef(self.0)) }
    }

    /// As a word to be kept, and to be given to [`SessionWorker::still`].
    #[must_use]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Whether there is one.
    #[inline(always)]
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.0 != u32::MAX
    }

    /// Whether there is none.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == u32::MAX
    }
}

impl From<SessionRef> for Found {
    fn from(session: SessionRef) -> Found {
        Found(session.0)
    }
}

/// What a check must know of a packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Its destination MAC address as it came ([`MacAddr::to_u64`]).
    pub destination_mac: u64,
    /// Bytes, for the counters.
    pub length: u32,
    /// If it is TCP: its header. A session of TCP refuses packets without.
    pub tcp: Option<Segment>,
}

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The session is good for this packet.
    Pass(Way),
    /// The half has no way yet, or rests on something that changed, or the packet has another destination MAC address than it was judged for:
    /// judge again, then [`SessionWorker::renew_half`] or [`SessionWorker::cut`]. Nothing was written.
    Stale(SessionRef),
    /// The packet does not belong into the connection (RFC 9293 section 3.10.7.4): out of window, impossible flags. Drop it; nothing was written.
    Invalid(SessionRef),
    /// There is no session for this packet, or no longer (it opens the connection anew): judge it as a first packet.
    Gone,
}

/// One direction of a session to be made.
#[derive(Clone, Copy, Debug)]
pub struct Side<K> {
    /// What its packets look like.
    pub key: K,
    /// The destination MAC address they have, and where they go; `None`: nobody asked yet, so the first packet will.
    pub way: Option<(MacAddr, Way)>,
    /// The sum of the counters that the decision rests on.
    pub stamp: u32,
}

/// A session to be made.
#[derive(Clone, Copy, Debug)]
pub struct New<K> {
    /// The local port whose quota pays.
    pub owner: u16,
    /// The direction of the first packet.
    pub initiator: Side<K>,
    /// The other direction.
    pub responder: Side<K>,
    /// The host's epoch, read before anything was judged.
    pub epoch: u32,
    /// The first packet, which is counted.
    pub facts: Facts,
    /// The counters of the egress and the ingress rule that let it pass; below 2^28.
    pub rules: [u32; 2],
    /// Milliseconds.
    pub now: u32,
}

impl<K> New<K> {
    fn with_keys<L>(&self, initiator: L, responder: L) -> New<L> {
        let side = |side: &Side<K>, key| Side { key, way: side.way, stamp: side.stamp };
        New {
            owner: self.owner,
            initiator: side(&self.initiator, initiator),
            responder: side(&self.responder, responder),
            epoch: self.epoch,
            facts: self.facts,
            rules: self.rules,
            now: self.now,
        }
    }
}

/// What became of a session to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was made; the initiator's half.
    New(SessionRef),
    /// Somebody else made it meanwhile: the half that has the key of [`New::initiator`]. Check the packet against it.
    Existing(SessionRef),
    /// One of the two keys belongs to a session whose other key is another (an end has moved): the half of that session. Renew it with the new sides or cut it.
    Clash(SessionRef),
}

/// Why a session was not made; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Every record is in use, and the port has no half-open session of its own to give up.
    #[error(
        "the session table is full: raise limits.sessions, or lower what the ports named by `towpath sessions` may have"
    )]
    TableFull,
    /// The port has as many sessions as it may have, and no half-open one to give up.
    #[error("the port has as many sessions as it may have")]
    Quota,
    /// The port has more than its share of a table that fills up, and no half-open session to give up.
    #[error("the table fills up and the port has more than its share of it")]
    Share,
    /// Both buckets of a key, and those it may be moved to, are full.
    #[error("the index has no room where this flow belongs")]
    Crowded,
    /// The packet cannot begin a TCP connection, nor be picked up from the middle of one.
    #[error("the packet cannot begin a connection")]
    Invalid,
    /// The answer would look like the packet itself.
    #[error("the packet's answer would be itself")]
    Mirror,
}
