//! Packets for a transmit queue that their own worker could not have.
//!
//! A queue's home worker shares it with other workers and with control threads, each for a moment. Packets that meet such a moment wait here and
//! are delivered, before any later one of the same queue, in the worker's next steps: nobody waits for them and none is lost.

use crate::handover::Handover;
use crate::poll_set::QueueId;
use arrayvec::ArrayVec;
use std::collections::VecDeque;

/// Packets that may wait.
const CAPACITY: usize = 512;
/// Queues that one pass may find taken; what is for others then waits for the next pass.
const BLOCKED: usize = 16;

/// See the module's documentation.
pub(crate) struct Kept(VecDeque<Handover>);

impl Kept {
    pub(crate) fn new() -> Self {
        Self(VecDeque::with_capacity(CAPACITY))
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether something waits for that queue, so that what comes now must wait behind it.
    #[cold]
    pub(crate) fn holds(&self, queue: QueueId) -> bool {
        self.0.iter().any(|kept| kept.queue() == queue)
    }

    /// Keeps a packet; gives it back when there is no room.
    pub(crate) fn push(&mut self, handover: Handover) -> Result<(), Handover> {
        if self.0.len() >= CAPACITY {
            return Err(handover);
        }
        self.0.push_back(handover);
        Ok(())
    }

    /// Shows each packet to `deliver`, oldest first; those it refuses stay, with all behind them for the same queue. Returns how many went.
    pub(crate) fn drain(&mut self, mut deliver: impl FnMut(&Handover) -> bool) -> u32 {
        let mut blocked: ArrayVec<QueueId, BLOCKED> = ArrayVec::new();
        let mut gone = 0;
        self.0.retain(|kept| {
            if blocked.is_full() || blocked.contains(&kept.queue()) {
                return true;
            }
            if deliver(kept) {
                gone += 1;
                return false;
            }
            // There is room: it was not full.
            let _ = blocked.try_push(kept.queue());
            true
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buf::{Frame, Offload, Pool};
    use engine::PortIndex;

    fn handover(pool: &Pool, port: u16, number: u8) -> Handover {
        let bytes = [number; 60];
        let packet = pool.copy(&Frame::from_head(&bytes, Offload::NONE)).unwrap();
        Handover { output: PortIndex(port), pair: 0, ingress: PortIndex(9), packet }
    }

    fn number(kept: &Handover) -> u8 {
        kept.packet.with_frame(|frame| frame.to_vec()[0])
    }

    #[test]
    fn what_waits_for_a_queue_stays_in_order_and_keeps_nothing_else_waiting() {
        let pool = Pool::new(64);
        let mut kept = Kept::new();
        for (at, port) in [1, 2, 1, 2, 1].into_iter().enumerate() {
            kept.push(handover(&pool, port, at as u8)).unwrap();
        }
        assert!(kept.holds(QueueId { port: PortIndex(1), pair: 0 }));
        let mut tries = Vec::new();
        let mut went = Vec::new();
        // Port 1 is free again only after its first packet was tried: the others stay behind that one.
        let gone = kept.drain(|kept| {
            tries.push(number(kept));
            let free = kept.output == PortIndex(2);
            if free {
                went.push(number(kept));
            }
            free
        });
        assert_eq!((gone, &tries[..], &went[..]), (2, &[0, 1, 3][..], &[1, 3][..]));
        assert!(!kept.holds(QueueId { port: PortIndex(2), pair: 0 }));
        went.clear();
        assert_eq!(
            kept.drain(|kept| {
                went.push(number(kept));
                true
            }),
            3
        );
        assert_eq!(went, [0, 2, 4]);
        assert!(kept.is_empty());
        drop(kept);
        assert_eq!(pool.available(), 64);
    }

    #[test]
    fn its_room_is_bounded() {
        let pool = Pool::new(CAPACITY + 1);
        let mut kept = Kept::new();
        (0..CAPACITY).for_each(|_| kept.push(handover(&pool, 1, 0)).unwrap());
        assert!(kept.push(handover(&pool, 1, 0)).is_err());
    }
}
