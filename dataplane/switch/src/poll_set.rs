//! The receive queues of a worker and the order in which they are looked at.
//!
//! Queues last found short (less than a full burst) are all looked at in every step; of those last found full, one per step. So a quiet
//! queue waits for one burst of somebody else's, not for one of everybody's, and a busy one cannot starve it.
//!
//! Of those last found full it is the turn of the one that has paid least: each pays for its bursts what they cost, in cycles, so that queues that could each use
//! all of the worker get equal parts of its time, whatever their packets cost. Who was not there for a while begins at what the others have paid. Packets that were
//! judged in vain cost a multiple ([`newcomers`](crate::newcomers)), are taken a few at a time, and their queue waits for its turn however few they were. Nothing is
//! dropped for it: they stay in the guest's ring. If nobody else waits it is always a queue's turn.

use crate::aside::Budgets;
use crate::newcomers::DEAR;
use buf::BURST_PACKETS;
use engine::{PortCounters, PortIndex, RxQueue};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use sync::{Reader, Shared};
use tables::PortProfile;

/// Cycles that a burst costs its queue at most: a worker that was interrupted meanwhile spent them on somebody else.
const MOST: u64 = 1 << 18;
/// At least, for each packet: what the rings alone cost. Where the clock does not run during a burst, as in tests, this is the price.
const LEAST_PER_PACKET: u64 = 32;
/// And so many bytes are copied in a cycle, at most.
const LEAST_BYTES_PER_CYCLE: u64 = 16;
/// Packets of a burst after one that had some judged in vain: others wait for no more than these.
const MOST_IN_VAIN: usize = 8;

/// A receive queue that control threads may take away from its worker.
pub type SharedRx = Arc<Shared<Option<Box<dyn RxQueue>>>>;

/// A receive queue: port and queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId {
    /// The port.
    pub port: PortIndex,
    /// The queue pair, from 0.
    pub pair: u16,
}

/// A receive queue with what a worker needs to know to poll it.
pub struct PollQueue {
    /// Which one it is.
    pub id: QueueId,
    /// The queue; `None` inside while it is stopped.
    pub queue: SharedRx,
    /// What its port may send.
    pub profile: Reader<PortProfile>,
    /// This worker's counters of the port.
    pub counters: Arc<PortCounters>,
    /// Whether it is the underlay's.
    pub uplink: bool,
    /// What its port may still ask for.
    pub budgets: Budgets,
    /// Not polled before this time, in nanoseconds of the worker's clock.
    pub not_before: u64,
}

/// What a poll took, and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Polled {
    /// Packets.
    pub(crate) packets: u32,
    /// Their bytes.
    pub(crate) bytes: u32,
    /// How many of them were judged in vain and were too many.
    pub(crate) in_vain: u32,
    /// Whether there may be more: a full burst.
    pub(crate) more: bool,
    /// Cycles.
    pub(crate) cycles: u64,
}

impl Polled {
    /// What the queue pays: its cycles, within bounds that no burst leaves. Those of packets judged in vain count [`DEAR`] times.
    fn price(&self) -> u64 {
        let packets = u64::from(self.packets);
        let least = LEAST_PER_PACKET * packets + u64::from(self.bytes) / LEAST_BYTES_PER_CYCLE;
        let cycles = self.cycles.clamp(least.max(1), MOST);
        cycles + cycles * (DEAR - 1) * u64::from(self.in_vain) / packets.max(1)
    }
}

/// How a queue stands.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// What it has paid: a time in cycles that only passes for who is served.
    paid: u64,
    /// Whether it waits for its turn.
    waits: bool,
    /// Whether its last packets were judged in vain.
    in_vain: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct PollSet {
    queues: Vec<PollQueue>,
    /// For each of `queues`.
    turns: Vec<Turn>,
    /// Those that wait: what they paid, in which order they came, which they are.
    waiting: BinaryHeap<Reverse<(u64, u64, usize)>>,
    came: u64,
    /// What the one had paid whose turn it was last. Who has paid less has not been there.
    present: u64,
}

impl PollSet {
    pub(crate) fn add(&mut self, queue: PollQueue) {
        self.remove(queue.id);
        self.queues.push(queue);
        self.turns.push(Turn { paid: self.present, ..Turn::default() });
        self.waiting.reserve(self.queues.len());
    }

    pub(crate) fn remove(&mut self, id: QueueId) -> Option<PollQueue> {
        let at = self.queues.iter().position(|queue| queue.id == id)?;
        // Indices change: whoever waited is looked at once as if it did not.
        self.waiting.clear();
        self.turns.swap_remove(at);
        self.turns.iter_mut().for_each(|turn| turn.waits = false);
        Some(self.queues.swap_remove(at))
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PollQueue> {
        self.queues.iter_mut()
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut PollQueue> {
        self.queues.get_mut(at)
    }

    /// The queue at `at` if it does not wait for its turn.
    pub(crate) fn short(&mut self, at: usize) -> Option<&mut PollQueue> {
        if self.turns.get(at)?.waits { None } else { self.queues.get_mut(at) }
    }

    /// Of those that wait, the queue whose turn it is: the one that paid least.
    pub(crate) fn next_waiting(&mut self) -> Option<usize> {
        let Reverse((paid, _, at)) = self.waiting.pop()?;
        self.present = self.present.max(paid);
        self.turns.get_mut(at)?.waits = false;
        Some(at)
    }

    /// How many packets the queue at `at` may give at most.
    #[inline(always)]
    pub(crate) fn most(&self, at: usize) -> usize {
        if self.turns.get(at).is_some_and(|turn| turn.in_vain) { MOST_IN_VAIN } else { BURST_PACKETS }
    }

    /// Makes the queue at `at` pay for what was taken from it. It waits for its turn if there is more, or it paid dearly.
    #[inline]
    pub(crate) fn pay(&mut self, at: usize, polled: &Polled) {
        let Some(turn) = self.turns.get_mut(at) else { return };
        turn.in_vain = polled.in_vain > 0;
        turn.paid = turn.paid.max(self.present) + polled.price();
        if polled.more || turn.in_vain {
            turn.waits = true;
            self.came += 1;
            self.waiting.push(Reverse((turn.paid, self.came, at)));
        } else {
            // It is looked at in every step, whatever it pays: it owes no more than a burst.
            turn.paid = turn.paid.min(self.present + MOST);
        }
    }
}
