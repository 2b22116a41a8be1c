//! Two devices joined to each other, as a fixture of the conformance suite.

use buf::Offload;
use engine::{OffloadCapabilities, RxQueue, TxQueue};
use ports::conformance::{Fixture, Taken, receive, send_one};
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
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
    /// Waits for the events of `near`'s receive queue; absent where it raises none.
    pub(crate) events: Option<OwnedFd>,
    pub(crate) _devices: [EthDev; 2],
}

/// What waits for the events of a device's first receive queue, if it raises any.
pub(crate) fn events(device: &EthDev) -> Option<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, device.event_fd(0)?, epoll::EventData::new_u64(0), flags).unwrap();
    Some(epoll)
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
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut found = Vec::with_capacity(4);
        epoll::wait(self.events.as_ref()?, rustix::buffer::spare_capacity(&mut found), Some(&now)).unwrap();
        Some(!found.is_empty())
    }
}
