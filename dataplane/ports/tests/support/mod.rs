//! Two loopbacks back to back, with anything around the near ends.

use buf::{Offload, Pool};
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use towpath_ports::conformance::{Fixture, Taken, receive, send_one};
use towpath_ports::loopback::{LONGEST_FRAME, LoopbackRx, LoopbackTx, loopback};

const DEPTH: usize = 128;
const CHUNKS: usize = 1024;

/// `near` is under test, `far` the other end of both wires.
pub(crate) struct Wires<R, T> {
    pub(crate) near: (R, T),
    pub(crate) far: (LoopbackRx, LoopbackTx),
    pub(crate) pool: Pool,
    taken: VecDeque<Taken>,
    events: Arc<AtomicU32>,
}

/// Makes the wires and puts something around their near ends; it may use the pool.
pub(crate) fn wires<R, T>(
    around_rx: impl FnOnce(LoopbackRx, &Pool) -> R,
    around_tx: impl FnOnce(LoopbackTx, &Pool) -> T,
) -> Wires<R, T> {
    let pool = Pool::new(CHUNKS);
    let events = Arc::new(AtomicU32::new(0));
    let counter = events.clone();
    let (near_rx, far_tx) = loopback(&pool, DEPTH, move || {
        counter.fetch_add(1, SeqCst);
    });
    let (far_rx, near_tx) = loopback(&pool, DEPTH, || {});
    let near = (around_rx(near_rx, &pool), around_tx(near_tx, &pool));
    Wires { near, far: (far_rx, far_tx), pool, taken: VecDeque::new(), events }
}

impl<R: RxQueue, T: TxQueue> Fixture for Wires<R, T> {
    fn rx(&mut self) -> &mut dyn RxQueue {
        &mut self.near.0
    }

    fn tx(&mut self) -> &mut dyn TxQueue {
        &mut self.near.1
    }

    fn give(&mut self, pieces: &[&[u8]], offload: Offload) -> bool {
        send_one(&mut self.far.1, &pieces.concat(), pieces.len(), offload).sent == 1
    }

    fn take(&mut self) -> Option<Taken> {
        if self.taken.is_empty() {
            self.taken.extend(receive(&mut self.far.0).0);
        }
        self.taken.pop_front()
    }

    fn longest(&self) -> usize {
        LONGEST_FRAME
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    fn free_buffers(&self) -> Box<dyn Fn() -> usize> {
        let pool = self.pool.clone();
        Box::new(move || pool.available())
    }

    fn gives(&self) -> OffloadCapabilities {
        self.far.1.capabilities()
    }

    fn woken(&mut self) -> Option<bool> {
        Some(self.events.swap(0, SeqCst) > 0)
    }
}

pub(crate) fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).count_total
}
