//! Queues whose last notification may have been missed.
//!
//! Whether a guest wants an interrupt must be read after our index became visible to it. Waiting for that after every burst costs, between
//! distant cores, more than the burst; so queues only look ([`engine::RxQueue::complete`], [`engine::TxQueue::flush`]), and are settled after
//! [`IDLE_STEPS`] steps without packets, before sleeping, and at the latest after [`STEPS`] steps with packets.

use crate::poll_set::QueueId;
use arrayvec::ArrayVec;

/// Steps with packets after which queues are settled all the same: a missed interrupt is late by microseconds.
const STEPS: u32 = 32;
/// Steps without packets before queues are settled. Not the first: looking at a guest's ring takes its line away just when it answers.
const IDLE_STEPS: u32 = 16;
/// Queues kept in mind; they are settled at the end of the step that fills this, and any beyond it in that step at once.
const QUEUES: usize = 64;

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Unsettled {
    rx: ArrayVec<QueueId, QUEUES>,
    tx: ArrayVec<QueueId, QUEUES>,
    steps: u32,
    idle_steps: u32,
    full: bool,
}

impl Unsettled {
    /// Keeps a receive queue in mind; false when there is no room: it is to be settled now.
    #[must_use]
    #[inline(always)]
    pub(crate) fn note_rx(&mut self, id: QueueId) -> bool {
        note(&mut self.rx, &mut self.full, id)
    }

    /// The same for a transmit queue.
    #[must_use]
    #[inline(always)]
    pub(crate) fn note_tx(&mut self, id: QueueId) -> bool {
        note(&mut self.tx, &mut self.full, id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rx.is_empty() && self.tx.is_empty()
    }

    /// Whether to settle after a step, which had packets or not.
    #[inline(always)]
    pub(crate) fn is_due(&mut self, busy: bool) -> bool {
        if self.is_empty() {
            return false;
        }
        if busy {
            self.steps += 1;
            self.idle_steps = 0;
        } else {
            self.idle_steps += 1;
        }
        self.full || self.steps >= STEPS || self.idle_steps >= IDLE_STEPS
    }

    /// Settles all; those for which it says false stay for the next time.
    pub(crate) fn settle(
        &mut self,
        mut rx: impl FnMut(QueueId) -> bool,
        mut tx: impl FnMut(QueueId) -> bool,
    ) {
        self.rx.retain(|id| !rx(*id));
        self.tx.retain(|id| !tx(*id));
        self.steps = 0;
        self.idle_steps = 0;
        self.full = self.rx.is_full() || self.tx.is_full();
    }
}

/// Adds `id` if it is not there; false when there is no room. Says in `full` when the last place is taken.
#[inline(always)]
fn note(list: &mut ArrayVec<QueueId, QUEUES>, full: &mut bool, id: QueueId) -> bool {
    if list.contains(&id) {
        return true;
    }
    let added = list.try_push(id).is_ok();
    *full |= list.is_full();
    added
}
