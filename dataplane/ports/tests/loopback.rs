//! The loopback driver, two of them back to back, under the conformance suite.

use buf::{Offload, Pool};
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use towpath_ports::conformance::{Fixture, Taken, receive};
use towpath_ports::loopback::{LONGEST_FRAME, LoopbackRx, LoopbackTx, loopback};

const DEPTH: usize = 128;
const CHUNKS: usize = 1024;

/// `near` is under test, `far` the other end of both wires.
struct Wires {
    near: (LoopbackRx, LoopbackTx),
    far: (LoopbackRx, LoopbackTx),
    taken: std::collections::VecDeque<Taken>,
    pool: Pool,
    events: Arc<AtomicU32>,
}

fn make() -> Wires {
    let pool = Pool::new(CHUNKS);
    let events = Arc::new(AtomicU32::new(0));
    let counter = events.clone();
    let (near_rx, far_tx) = loopback(&pool, DEPTH, move || {
        counter.fetch_add(1, SeqCst);
    });
    let (far_rx, near_tx) = loopback(&pool, DEPTH, || {});
    Wires { near: (near_rx, near_tx), far: (far_rx, far_tx), taken: Default::default(), pool, events }
}

impl Fixture for Wires {
    fn rx(&mut self) -> &mut dyn RxQueue {
        &mut self.near.0
    }

    fn tx(&mut self) -> &mut dyn TxQueue {
        &mut self.near.1
    }

    fn give(&mut self, pieces: &[&[u8]], offload: Offload) -> bool {
        towpath_ports::conformance::send_one(&mut self.far.1, &pieces.concat(), pieces.len(), offload).sent
            == 1
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

fn measure(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).count_total
}

towpath_ports::conformance_tests!(make, measure);
