//! Two devices joined to each other, as a fixture of the conformance suite.

use buf::Offload;
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use ports::conformance::{Fixture, Taken, receive, send_one};
use std::collections::VecDeque;
use towpath_dpdk::{DpdkRx, DpdkTx, EthDev, Mempool};

/// Two devices joined to each other: `near` is under test, `far` the other end.
pub(crate) struct Joined {
    pub(crate) near: (DpdkRx, DpdkTx),
    pub(crate) far: (DpdkRx, DpdkTx),
    pub(crate) taken: VecDeque<Taken>,
    pub(crate) pool: Mempool,
    pub(crate) shortest: usize,
    pub(crate) longest: usize,
    pub(crate) depth: usize,
    pub(crate) _devices: [EthDev; 2],
}

impl Fixture for Joined {
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

    fn shortest(&self) -> usize {
        self.shortest
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn free_buffers(&self) -> Box<dyn Fn() -> usize> {
        let pool = self.pool.clone();
        Box::new(move || pool.available())
    }

    fn gives(&self) -> OffloadCapabilities {
        self.far.1.capabilities()
    }

    fn woken(&mut self) -> Option<bool> {
        None
    }
}
