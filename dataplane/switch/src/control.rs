//! The control side of a switch: ports, their queues, and the tables workers read. No threads and no I/O, so the daemon and the
//! simulator share it.

use crate::deliver::{OutputPort, SharedTx};
use crate::handover::mesh;
use crate::poll_set::{PollQueue, QueueId, SharedRx};
use crate::worker::{Command, Mailbox, Worker, WorkerParts};
use buf::Pool;
use crossbeam::queue::ArrayQueue;
use engine::{Announcement, CounterTotals, PortCounters, PortIndex, RxQueue, TxQueue};
use packet::MacAddr;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use sync::{Published, Shared};
use tables::{
    AddressEntry, AddressWriter, Endpoint, Location, MacTable, MacWriter, PortProfile, TokenBucket,
};

/// Announcements that may wait for the control plane.
const ANNOUNCEMENTS: usize = 1024;
/// Packets that may wait on their way from one worker to another.
const HANDOVERS: usize = 512;
/// Announcements a port may make per second, and at once.
const ANNOUNCEMENT_RATE: (u64, u64) = (10, 20);

/// What a switch is sized for.
#[derive(Clone, Copy, Debug)]
pub struct SwitchConfig {
    /// Workers, 1 to 16.
    pub workers: usize,
    /// 2 KiB pieces of memory for packets that outlive their burst.
    pub pool_chunks: usize,
    /// Key of the tables' hashes; drawn at random by the daemon.
    pub secret: [u64; 2],
}

/// What a queue that was asked for is.
struct Port {
    profile: Published<PortProfile>,
    mtu: u16,
    counters: Vec<Arc<PortCounters>>,
    home: usize,
    rx: Vec<SharedRx>,
    tx: Vec<SharedTx>,
    /// Which of them hold a queue. Workers are not disturbed to find that out.
    tx_attached: Vec<bool>,
    steering: Arc<[AtomicU8]>,
}

/// Commands that must be done before a removed port's index may be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal(Vec<u64>);

/// See the module's documentation.
pub struct Control {
    macs: MacWriter,
    addresses: AddressWriter,
    /// The subnet of each address placed, until the endpoint table takes the place of the address table.
    endpoints: BTreeMap<(u16, IpAddr), u16>,
    mailboxes: Vec<Mailbox>,
    queues_of: Vec<usize>,
    ports: BTreeMap<PortIndex, Port>,
    announcements: Arc<ArrayQueue<Announcement>>,
    pool: Pool,
}

impl Control {
    /// A switch without ports, and its workers.
    pub fn new(config: &SwitchConfig) -> (Self, Vec<Worker>) {
        let count = config.workers.clamp(1, 16);
        let (macs, addresses) = (MacWriter::new(config.secret), AddressWriter::new(config.secret));
        let announcements = Arc::new(ArrayQueue::new(ANNOUNCEMENTS));
        let pool = Pool::new(config.pool_chunks);
        let workers: Vec<Worker> = mesh(count, HANDOVERS)
            .into_iter()
            .enumerate()
            .map(|(index, links)| {
                Worker::new(WorkerParts {
                    index,
                    links,
                    macs: macs.reader(),
                    addresses: addresses.reader(),
                    pool: pool.clone(),
                    announcements: announcements.clone(),
                })
            })
            .collect();
        let mailboxes = workers.iter().map(Worker::mailbox).collect();
        let control = Self {
            macs,
            addresses,
            endpoints: BTreeMap::new(),
            mailboxes,
            queues_of: vec![0; count],
            ports: BTreeMap::new(),
            announcements,
            pool,
        };
        (control, workers)
    }

    /// Announcements made by ports, oldest first.
    pub fn announcements(&self) -> &Arc<ArrayQueue<Announcement>> {
        &self.announcements
    }

    /// The memory for packets that outlive their burst.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Makes a port without queues. It forwards nothing and nothing reaches it yet. `index` must be free.
    pub fn add_port(&mut self, index: PortIndex, profile: PortProfile) {
        let home = self
            .queues_of
            .iter()
            .enumerate()
            .min_by_key(|(_, queues)| **queues)
            .map_or(0, |(worker, _)| worker);
        let counters = self.mailboxes.iter().map(|_| Arc::default()).collect();
        let port = Port {
            mtu: profile.mtu,
            profile: Published::new(profile),
            counters,
            home,
            rx: Vec::new(),
            tx: Vec::new(),
            tx_attached: Vec::new(),
            steering: OutputPort::steering_table(),
        };
        self.ports.insert(index, port);
        self.publish_output(index);
    }

    /// Replaces what a port may send, and the MTU of what it is given.
    pub fn set_profile(&mut self, index: PortIndex, profile: PortProfile) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        let before = std::mem::replace(&mut port.mtu, profile.mtu);
        let mtu = profile.mtu;
        port.profile.publish(profile);
        if mtu != before {
            self.publish_output(index);
        }
    }

    /// Takes a port away with its queues, which are dropped here. Its index is free when [`Control::is_removed`] says so.
    pub fn remove_port(&mut self, index: PortIndex) -> Removal {
        if let Some(port) = self.ports.remove(&index) {
            for (pair, queue) in port.rx.iter().enumerate() {
                drop(queue.take().take());
                self.forget_queue(QueueId { port: index, pair: pair as u16 }, port.home);
            }
            port.tx.iter().for_each(|queue| drop(queue.take().take()));
        }
        Removal(self.mailboxes.iter().map(|mailbox| mailbox.send(Command::RemoveOutput(index))).collect())
    }

    /// Whether every worker forgot the port.
    pub fn is_removed(&self, removal: &Removal) -> bool {
        self.mailboxes.iter().zip(&removal.0).all(|(mailbox, number)| mailbox.is_done(*number))
    }

    /// Starts polling `queue` as receive queue `pair` of a port, on the port's home worker; returns that worker.
    pub fn attach_rx(&mut self, index: PortIndex, pair: u16, queue: Box<dyn RxQueue>) -> Option<usize> {
        let port = self.ports.get_mut(&index)?;
        // A receive queue has one worker for good.
        grow(&mut port.rx, pair, true);
        let slot = port.rx.get(usize::from(pair))?;
        *slot.take() = Some(queue);
        let entry = PollQueue {
            id: QueueId { port: index, pair },
            queue: slot.clone(),
            profile: port.profile.reader(),
            counters: port.counters.get(port.home)?.clone(),
            announcements: TokenBucket::new(ANNOUNCEMENT_RATE.0, ANNOUNCEMENT_RATE.1),
            not_before: 0,
        };
        self.mailboxes.get(port.home)?.send(Command::AddQueue(Box::new(entry)));
        *self.queues_of.get_mut(port.home)? += 1;
        Some(port.home)
    }

    /// Takes a receive queue away, between two bursts.
    pub fn detach_rx(&mut self, index: PortIndex, pair: u16) -> Option<Box<dyn RxQueue>> {
        let port = self.ports.get(&index)?;
        let queue = port.rx.get(usize::from(pair))?.take().take()?;
        let home = port.home;
        self.forget_queue(QueueId { port: index, pair }, home);
        Some(queue)
    }

    /// Starts delivering to `queue` as transmit queue `pair` of a port.
    pub fn attach_tx(&mut self, index: PortIndex, pair: u16, queue: Box<dyn TxQueue>) -> Option<()> {
        let port = self.ports.get_mut(&index)?;
        grow(&mut port.tx, pair, self.mailboxes.len() == 1);
        *port.tx.get(usize::from(pair))?.take() = Some(queue);
        port.tx_attached.resize(port.tx.len(), false);
        *port.tx_attached.get_mut(usize::from(pair))? = true;
        self.publish_output(index);
        Some(())
    }

    /// Takes a transmit queue away, between two bursts.
    pub fn detach_tx(&mut self, index: PortIndex, pair: u16) -> Option<Box<dyn TxQueue>> {
        let port = self.ports.get_mut(&index)?;
        let queue = port.tx.get(usize::from(pair))?.take().take()?;
        *port.tx_attached.get_mut(usize::from(pair))? = false;
        self.publish_output(index);
        Some(queue)
    }

    /// Shows a receive queue to `look`, between two bursts.
    pub fn with_rx<R>(
        &self,
        index: PortIndex,
        pair: u16,
        look: impl FnOnce(&mut dyn RxQueue) -> R,
    ) -> Option<R> {
        let slot = self.ports.get(&index)?.rx.get(usize::from(pair))?;
        slot.take().as_deref_mut().map(look)
    }

    /// Shows a transmit queue to `look`, between two bursts.
    pub fn with_tx<R>(
        &self,
        index: PortIndex,
        pair: u16,
        look: impl FnOnce(&mut dyn TxQueue) -> R,
    ) -> Option<R> {
        let slot = self.ports.get(&index)?.tx.get(usize::from(pair))?;
        slot.take().as_deref_mut().map(look)
    }

    /// Frames to `mac` in `space` (a subnet, or `tables::vpc_space`) go to `location`. Places that are not local are not reached yet.
    pub fn place_mac(&mut self, space: u16, mac: MacAddr, location: Location) {
        match location {
            Location::Local(_) => drop(self.macs.insert(MacTable::key(space, mac), location.pack())),
            Location::Remote(_) | Location::Directory(_) => self.forget_mac(space, mac),
        }
    }

    /// Frames to `mac` in `space` go nowhere.
    pub fn forget_mac(&mut self, space: u16, mac: MacAddr) {
        self.macs.remove(MacTable::key(space, mac));
    }

    /// `address` in `vpc` is `endpoint`.
    pub fn place_endpoint(&mut self, vpc: u16, address: IpAddr, endpoint: Endpoint) {
        self.forget_endpoint(vpc, address);
        let Endpoint { mac, subnet, location } = endpoint;
        if let Location::Local(port) = location {
            self.endpoints.insert((vpc, address), subnet);
            self.addresses.insert(subnet, address, AddressEntry { mac, port });
        }
    }

    /// Nobody has `address` in `vpc`.
    pub fn forget_endpoint(&mut self, vpc: u16, address: IpAddr) {
        if let Some(subnet) = self.endpoints.remove(&(vpc, address)) {
            self.addresses.remove(subnet, address);
        }
    }

    /// Frames to `mac` in `subnet` go to `port`.
    pub fn bind_mac(&mut self, subnet: u16, mac: MacAddr, port: PortIndex) {
        self.macs.insert(MacTable::key(subnet, mac), u32::from(port.0));
    }

    /// Ends that, if they still go to `port`.
    pub fn unbind_mac(&mut self, subnet: u16, mac: MacAddr, port: PortIndex) {
        let key = MacTable::key(subnet, mac);
        if self.macs.get(key) == Some(u32::from(port.0)) {
            self.macs.remove(key);
        }
    }

    /// Who asks for `address` in `subnet` is told `mac`.
    pub fn bind_address(&mut self, subnet: u16, address: IpAddr, mac: MacAddr, port: PortIndex) {
        self.addresses.insert(subnet, address, AddressEntry { mac, port: port.0 });
    }

    /// Ends that, if it is still `port` that has it.
    pub fn unbind_address(&mut self, subnet: u16, address: IpAddr, port: PortIndex) {
        if self.addresses.get(subnet, address).is_some_and(|entry| entry.port == port.0) {
            self.addresses.remove(subnet, address);
        }
    }

    /// What a port did, all workers together.
    pub fn counters(&self, index: PortIndex) -> Option<CounterTotals> {
        self.ports.get(&index).map(|port| CounterTotals::of(port.counters.iter().map(|shard| &**shard)))
    }

    /// One worker's counters of a port.
    pub fn shard(&self, index: PortIndex, worker: usize) -> Option<&Arc<PortCounters>> {
        self.ports.get(&index)?.counters.get(worker)
    }

    /// The worker that polls a port.
    pub fn home(&self, index: PortIndex) -> Option<usize> {
        self.ports.get(&index).map(|port| port.home)
    }

    /// Frees replaced values that no worker looks at any more. To be called now and then.
    pub fn reclaim(&mut self) {
        self.ports.values_mut().for_each(|port| {
            port.profile.reclaim();
        });
        self.macs.reclaim();
        self.addresses.reclaim();
    }

    fn forget_queue(&mut self, id: QueueId, home: usize) {
        if let (Some(mailbox), Some(queues)) = (self.mailboxes.get(home), self.queues_of.get_mut(home)) {
            mailbox.send(Command::RemoveQueue(id));
            *queues = queues.saturating_sub(1);
        }
    }

    /// Tells all workers how a port is reached: by its first queue pairs, up to the first that is not attached.
    fn publish_output(&self, index: PortIndex) {
        let Some(port) = self.ports.get(&index) else { return };
        let attached = port.tx.iter().zip(&port.tx_attached).take_while(|(_, attached)| **attached);
        let queues: Vec<SharedTx> = attached.map(|(queue, _)| queue.clone()).collect();
        for (mailbox, counters) in self.mailboxes.iter().zip(&port.counters) {
            let output =
                OutputPort::new(queues.clone(), port.home, port.mtu, counters.clone(), &port.steering);
            mailbox.send(Command::SetOutput(index, output));
        }
    }
}

/// Adds slots up to `pair`.
fn grow<T>(slots: &mut Vec<Arc<Shared<Option<T>>>>, pair: u16, one_worker: bool) {
    while slots.len() <= usize::from(pair) {
        slots.push(Arc::new(if one_worker { Shared::for_one_worker(None) } else { Shared::new(None) }));
    }
}
