//! A guest's rings as the switch gets them: the real ones in a thin wrapper that can be told to misbehave ([`crate::plant`]).

use crate::plant::{Mischief, RxMischief, TxMischief};
use buf::{Burst, Frame};
use engine::{Armed, OffloadCapabilities, RxQueue, RxReport, TxQueue, TxReport};
use ports::vhost::{VhostRx, VhostTx};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What a worker polls: the queue pair at this moment, and how many bursts it found. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Polled(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    pair: AtomicUsize,
    bursts: AtomicU64,
}

impl Polled {
    /// The pair.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.pair.load(Relaxed)
    }

    /// Pair `pair` is polled, and found packets or not.
    pub fn note(&self, pair: usize, found: bool) {
        self.0.pair.store(pair, Relaxed);
        self.0.bursts.fetch_add(u64::from(found), Relaxed);
    }

    /// Polls that found packets since this was last asked.
    #[must_use]
    pub fn take_bursts(&self) -> u64 {
        self.0.bursts.swap(0, Relaxed)
    }
}

/// Where packets come from.
pub struct SimRx {
    /// The real queue.
    pub real: VhostRx,
    pair: usize,
    polled: Polled,
    mischief: Option<RxMischief>,
}

/// Where they go.
pub struct SimTx {
    /// The real queue.
    pub real: VhostTx,
    mischief: Option<TxMischief>,
}

impl SimRx {
    /// Wraps the queue of pair `pair`; `polled` is told when it is polled.
    #[must_use]
    pub fn new(real: VhostRx, pair: usize, polled: &Polled, mischief: &Mischief) -> Self {
        Self { real, pair, polled: polled.clone(), mischief: mischief.rx() }
    }
}

impl SimTx {
    /// Wraps a queue of `guest`.
    #[must_use]
    pub fn new(real: VhostTx, guest: usize, mischief: &Mischief) -> Self {
        Self { real, mischief: mischief.tx(guest) }
    }
}

impl RxQueue for SimRx {
    fn poll<'q>(&'q mut self, burst: &mut Burst<'q>) -> RxReport {
        self.polled.0.pair.store(self.pair, Relaxed);
        let polled = &self.polled.0;
        let report = match &mut self.mischief {
            None => self.real.poll(burst),
            Some(mischief) => mischief.poll(&mut self.real, burst),
        };
        polled.bursts.fetch_add(u64::from(!burst.is_empty()), Relaxed);
        report
    }

    fn complete(&mut self) {
        match &mut self.mischief {
            None => self.real.complete(),
            Some(mischief) => mischief.complete(&mut self.real),
        }
    }

    fn arm(&mut self) -> Armed {
        match &mut self.mischief {
            None => self.real.arm(),
            Some(mischief) => mischief.arm(&mut self.real),
        }
    }

    fn disarm(&mut self) {
        self.real.disarm();
    }
}

impl TxQueue for SimTx {
    fn capabilities(&self) -> OffloadCapabilities {
        match &self.mischief {
            None => self.real.capabilities(),
            Some(mischief) => mischief.capabilities(&self.real),
        }
    }

    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        match &mut self.mischief {
            None => self.real.send(frames),
            Some(mischief) => mischief.send(&mut self.real, frames),
        }
    }

    fn flush(&mut self) {
        match &mut self.mischief {
            None => self.real.flush(),
            Some(mischief) => mischief.flush(&mut self.real),
        }
    }
}
