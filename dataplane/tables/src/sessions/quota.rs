//! What each port has, and may have.
//!
//! A port may have `sessions` of [`Quota`], `half_open` of them half-open. As the table fills up it may have less: `guaranteed` sessions whatever happens, beyond
//! them `share` times as many as are free (the dynamic threshold of A. K. Choudhury and E. L. Hahne, 1998). So some of the table stays free for others
//! however many a port, or several, ask for, and no reservation lies idle. A port at a limit gives up its own oldest half-open session, if it has one; nobody loses
//! an established session, nor any to another port.

use std::collections::VecDeque;

use super::{Quota, Refused};
use crate::atomic::{AtomicU32, Ordering::Relaxed};

/// Numbers a port may have: 0 to this, exclusive.
pub(super) const PORTS: usize = if cfg!(loom) { 2 } else { 1 << 15 };
/// Half-open sessions of one port and worker that are remembered in the order of their making.
const REMEMBERED: usize = 16_384;

/// What a port has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortCounts {
    /// Sessions it pays for.
    pub sessions: u32,
    /// Those that are half-open.
    pub half_open: u32,
    /// Half-open sessions that it lost to newer ones of its own.
    pub displaced: u32,
    /// Sessions that were refused to it.
    pub refused: u32,
}

#[derive(Default)]
struct Port {
    sessions: AtomicU32,
    half_open: AtomicU32,
    displaced: AtomicU32,
    refused: AtomicU32,
    answered: AtomicU32,
}

/// All ports' counts.
pub(super) struct Ports(Box<[Port]>);

impl Ports {
    pub(super) fn new(count: usize) -> Self {
        Self((0..count).map(|_| Port::default()).collect())
    }

    fn port(&self, port: u16) -> &Port {
        &self.0[usize::from(port) % self.0.len()]
    }

    pub(super) fn counts(&self, port: u16) -> PortCounts {
        let Port { sessions, half_open, displaced, refused, .. } = self.port(port);
        PortCounts {
            sessions: sessions.load(Relaxed),
            half_open: half_open.load(Relaxed),
            displaced: displaced.load(Relaxed),
            refused: refused.load(Relaxed),
        }
    }

    /// Whether the port may have another session, `free` records being left; half-open ones count `half_open` more.
    pub(super) fn admits(&self, port: u16, quota: &Quota, free: u32) -> Result<(), Refused> {
        let port = self.port(port);
        let sessions = port.sessions.load(Relaxed);
        if sessions >= quota.sessions || port.half_open.load(Relaxed) >= quota.half_open {
            Err(Refused::Quota)
        } else if sessions >= quota.guaranteed.max(free.saturating_mul(quota.share)) {
            Err(Refused::Share)
        } else {
            Ok(())
        }
    }

    /// Another half-open session.
    pub(super) fn add(&self, port: u16) {
        self.port(port).sessions.fetch_add(1, Relaxed);
        self.port(port).half_open.fetch_add(1, Relaxed);
    }

    /// A session that is not half-open, found in an older table.
    pub(super) fn add_open(&self, port: u16) {
        self.port(port).sessions.fetch_add(1, Relaxed);
    }

    pub(super) fn remove(&self, port: u16) {
        self.port(port).sessions.fetch_sub(1, Relaxed);
    }

    /// The port is another from now on. What it has counts on: it is removed, not forgotten.
    pub(super) fn begin(&self, port: u16) {
        self.port(port).displaced.store(0, Relaxed);
        self.port(port).refused.store(0, Relaxed);
    }

    /// A session is no longer half-open.
    pub(super) fn opened(&self, port: u16) {
        self.port(port).half_open.fetch_sub(1, Relaxed);
    }

    /// Somebody answered what the port began.
    pub(super) fn answered(&self, port: u16) {
        self.port(port).answered.fetch_add(1, Relaxed);
    }

    /// How often: it wraps.
    pub(super) fn answered_to(&self, port: u16) -> u32 {
        self.port(port).answered.load(Relaxed)
    }

    pub(super) fn displaced(&self, port: u16) {
        self.port(port).displaced.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self, port: u16) {
        self.port(port).refused.fetch_add(1, Relaxed);
    }
}

/// Half-open sessions that a worker made, by the port that pays, oldest first. Some are not half-open any more.
#[derive(Default)]
pub(super) struct Candidates(Vec<VecDeque<(u32, u32)>>);

impl Candidates {
    /// Remembers session `number` of second `created`.
    pub(super) fn push(
        &mut self,
        port: u16,
        number: u32,
        created: u32,
        is_half_open: impl Fn(u32, u32) -> bool,
    ) {
        let port = usize::from(port);
        if self.0.len() <= port {
            self.0.resize_with(port + 1, VecDeque::new);
        }
        let Some(queue) = self.0.get_mut(port) else { return };
        // Two are looked at for each that is added, so what is stale at the front goes faster than it comes.
        for _ in 0..2 {
            if queue.pop_front_if(|(number, created)| !is_half_open(*number, *created)).is_none() {
                break;
            }
        }
        if queue.len() >= REMEMBERED {
            queue.pop_front();
        }
        queue.push_back((number, created));
    }

    /// The oldest that may still be half-open, which is forgotten.
    pub(super) fn pop(&mut self, port: u16) -> Option<(u32, u32)> {
        self.0.get_mut(usize::from(port))?.pop_front()
    }
}
