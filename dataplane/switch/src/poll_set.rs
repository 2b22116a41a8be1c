//! The receive queues of a worker and the order in which they are looked at.
//!
//! Queues last found short (less than a full burst) are all looked at in every step; of those last found full, one per step. So a quiet
//! queue waits for one burst of somebody else's, not for one of everybody's, and a busy one cannot starve it.

use crate::aside::Budgets;
use engine::{PortCounters, PortIndex, RxQueue};
use std::collections::VecDeque;
use std::sync::Arc;
use sync::{Reader, Shared};
use tables::PortProfile;

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

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct PollSet {
    queues: Vec<PollQueue>,
    /// For each of `queues`: whether it waits in `full`.
    is_full: Vec<bool>,
    full: VecDeque<usize>,
}

impl PollSet {
    pub(crate) fn add(&mut self, queue: PollQueue) {
        self.remove(queue.id);
        self.queues.push(queue);
        self.is_full.push(false);
        self.full.reserve(self.queues.len());
    }

    pub(crate) fn remove(&mut self, id: QueueId) -> Option<PollQueue> {
        let at = self.queues.iter().position(|queue| queue.id == id)?;
        // Indices change: whoever was found full is looked at once as if short.
        self.full.clear();
        self.is_full.swap_remove(at);
        self.is_full.fill(false);
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

    /// The queue at `at` if it was last found short.
    pub(crate) fn short(&mut self, at: usize) -> Option<&mut PollQueue> {
        if *self.is_full.get(at)? { None } else { self.queues.get_mut(at) }
    }

    /// The queue that has waited longest among those last found full.
    pub(crate) fn next_full(&mut self) -> Option<usize> {
        let at = self.full.pop_front()?;
        *self.is_full.get_mut(at)? = false;
        Some(at)
    }

    /// Says that the queue at `at` gave a full burst.
    pub(crate) fn found_full(&mut self, at: usize) {
        if let Some(is_full) = self.is_full.get_mut(at)
            && !*is_full
        {
            *is_full = true;
            self.full.push_back(at);
        }
    }
}
