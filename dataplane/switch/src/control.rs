//! The control side of a switch: ports, their queues, and the tables workers read. No threads and no I/O, so the daemon and the
//! simulator share it.

use crate::aside::{Budgets, Exceptions};
use crate::deliver::{OutputPort, SharedTx};
use crate::departed::Departed;
use crate::fabric::Fabric;
use crate::guard::{Guard, milliseconds};
use crate::handover::{Links, mesh};
use crate::newcomers::Newcomers;
use crate::poll_set::{PollQueue, QueueId, SharedRx};
use crate::tables::Writers;
use crate::worker::{Command, Mailbox, Worker, WorkerParts};
use buf::Pool;
use crossbeam::queue::ArrayQueue;
use engine::{Announcement, CounterTotals, PortCounters, PortIndex, RxQueue, TxQueue};
use stages::police::{Decision, DecisionLog};
use stages::shadow::{Difference, Shadow};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use sync::{Published, Shared};
use tables::members::MemberReader;
use tables::sessions::{Options, Sessions, Timeouts};
use tables::{Filter, PortProfile, Shares, TokenBucket};

/// Announcements that may wait for the control plane.
const ANNOUNCEMENTS: usize = 1024;
/// Decisions of rules that may wait to be logged.
const DECISIONS: usize = 1024;
/// Differences between candidates and rules in force that may wait to be listed.
const DIFFERENCES: usize = 1024;
/// Packets that may wait on their way from one worker to another.
const HANDOVERS: usize = 512;
/// Announcements a port may make per second, and at once.
const ANNOUNCEMENT_RATE: (u64, u64) = (10, 20);
/// ICMP errors a port is sent per second, and at once (RFC 1812 section 4.3.2.8).
const ERROR_RATE: (u64, u64) = (100, 200);
/// Packets of a port that the control thread looks at, likewise.
const PUNT_RATE: (u64, u64) = (1_000, 500);
/// The same for an uplink, where all hosts' neighbour messages come in; and for what comes by all tunnel end points together.
const UPLINK_PUNT_RATE: (u64, u64) = (10_000, 1_000);
/// Of that, what comes by one tunnel end point: a host of many ports that sends as much as it may leaves others theirs.
const TUNNEL_PUNT_RATE: (u64, u64) = (2_000, 250);
/// Tunnel end points that have budgets of their own. Of more, a few share one.
const TUNNEL_SHARES: u16 = 256;

/// What a switch is sized for.
#[derive(Clone, Copy, Debug)]
pub struct SwitchConfig {
    /// Workers, 1 to 16.
    pub workers: usize,
    /// 2 KiB pieces of memory for packets that outlive their burst.
    pub pool_chunks: usize,
    /// Key of the tables' hashes; drawn at random by the daemon.
    pub secret: [u64; 2],
    /// Sessions of IPv4 that ports under rules may have, all together; a quarter as many of IPv6.
    pub sessions: u32,
    /// Whether sessions take reserved 2 MiB pages, if there are enough.
    pub huge_pages: bool,
    /// How long sessions live after their last packet.
    pub timeouts: Timeouts,
    /// What the workers' clock says, in nanoseconds.
    pub now: u64,
}

impl SwitchConfig {
    fn session_options(&self) -> Options {
        let (ipv4, ipv6) = (self.sessions, (self.sessions / 4).max(1));
        Options {
            ipv4,
            ipv6,
            timeouts: self.timeouts,
            huge_pages: self.huge_pages,
            ..Options::new(self.secret)
        }
    }
}

impl SwitchConfig {
    fn guard(
        &self,
        worker: u8,
        table: &Arc<Sessions>,
        members: MemberReader,
        log: DecisionLog,
        shadow: Shadow,
    ) -> io::Result<Guard> {
        let sessions = table.worker(worker, milliseconds(self.now)).ok_or(io::ErrorKind::QuotaExceeded)?;
        Ok(Guard { sessions, table: table.clone(), members, log, shadow, now: self.now })
    }
}

/// What a queue that was asked for is.
pub(crate) struct Port {
    profile: Published<PortProfile>,
    mtu: u16,
    counters: Vec<Arc<PortCounters>>,
    pub(crate) home: usize,
    rx: Vec<SharedRx>,
    tx: Vec<SharedTx>,
    /// Which of them hold a queue. Workers are not disturbed to find that out.
    tx_attached: Vec<bool>,
    steering: Arc<[AtomicU8]>,
    uplink: bool,
}

impl Port {
    /// The worker that polls queue pair `pair`: those of an uplink are spread over all.
    fn home_of(&self, pair: u16, workers: usize) -> usize {
        if self.uplink { usize::from(pair) % workers.max(1) } else { self.home }
    }
}

/// A port that is being removed: what must be done before its index may be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    index: PortIndex,
    commands: Vec<u64>,
    /// The walk that removes its sessions, once every worker forgot the port.
    walk: Option<u64>,
}

/// See the module's documentation.
pub struct Control {
    pub(crate) tables: Writers,
    pub(crate) fabric: Fabric,
    pub(crate) mailboxes: Vec<Mailbox>,
    queues_of: Vec<usize>,
    pub(crate) ports: BTreeMap<PortIndex, Port>,
    announcements: Arc<ArrayQueue<Announcement>>,
    exceptions: Exceptions,
    pub(crate) pool: Pool,
    pub(crate) own_frames: u64,
    pub(crate) decisions: Arc<ArrayQueue<Decision>>,
    pub(crate) differences: Arc<ArrayQueue<Difference>>,
    departed: Departed,
    pub(crate) ports_under: BTreeMap<u16, BTreeSet<u16>>,
    pub(crate) members: MemberReader,
    pub(crate) sessions: Arc<Sessions>,
}

impl Control {
    /// A switch without ports, and its workers.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the sessions.
    pub fn new(config: &SwitchConfig) -> io::Result<(Self, Vec<Worker>)> {
        let count = config.workers.clamp(1, 16);
        let tables = Writers::new(config.secret);
        let members = tables.members_of_control();
        let mut control = Self {
            tables,
            fabric: Fabric::default(),
            mailboxes: Vec::new(),
            queues_of: vec![0; count],
            ports: BTreeMap::new(),
            announcements: Arc::new(ArrayQueue::new(ANNOUNCEMENTS)),
            exceptions: Exceptions::new(),
            pool: Pool::new(config.pool_chunks),
            own_frames: 0,
            decisions: Arc::new(ArrayQueue::new(DECISIONS)),
            differences: Arc::new(ArrayQueue::new(DIFFERENCES)),
            departed: Departed::default(),
            ports_under: BTreeMap::new(),
            members,
            sessions: Sessions::create(&config.session_options())?,
        };
        let workers = (0u8..).zip(mesh(count, HANDOVERS));
        let workers = workers.map(|(number, links)| control.make_worker(config, number, links));
        let workers = workers.collect::<io::Result<Vec<Worker>>>()?;
        control.mailboxes = workers.iter().map(Worker::mailbox).collect();
        Ok((control, workers))
    }

    fn make_worker(&self, config: &SwitchConfig, number: u8, links: Links) -> io::Result<Worker> {
        let log = DecisionLog::new(self.decisions.clone());
        let shadow = Shadow::new(self.tables.comparisons.clone(), self.differences.clone());
        let members = self.tables.members.reader();
        Ok(Worker::new(WorkerParts {
            index: usize::from(number),
            links,
            tables: self.tables.readers(),
            guard: config.guard(number, &self.sessions, members, log, shadow)?,
            pool: self.pool.clone(),
            announcements: self.announcements.clone(),
            exceptions: self.exceptions.clone(),
        }))
    }

    /// Announcements made by ports, oldest first.
    pub fn announcements(&self) -> &Arc<ArrayQueue<Announcement>> {
        &self.announcements
    }

    /// Packets that workers leave to the control thread.
    pub fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// The memory for packets that outlive their burst.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Makes a port without queues. It forwards nothing and nothing reaches it yet. `index` must be free.
    pub fn add_port(&mut self, index: PortIndex, profile: PortProfile) {
        self.add(index, profile, false);
    }

    pub(crate) fn add(&mut self, index: PortIndex, profile: PortProfile, uplink: bool) {
        let home = self
            .queues_of
            .iter()
            .enumerate()
            .min_by_key(|(_, queues)| **queues)
            .map_or(0, |(worker, _)| worker);
        let counters = self.mailboxes.iter().map(|_| Arc::default()).collect();
        let filter = filter_of(&profile);
        let port = Port {
            mtu: profile.mtu,
            profile: Published::new(profile),
            counters,
            home,
            rx: Vec::new(),
            tx: Vec::new(),
            tx_attached: Vec::new(),
            steering: OutputPort::steering_table(),
            uplink,
        };
        self.ports.insert(index, port);
        self.set_filter(index, filter);
        self.publish_output(index);
    }

    /// Replaces what a port may send, and the MTU of what it is given.
    pub fn set_profile(&mut self, index: PortIndex, profile: PortProfile) {
        let Some(port) = self.ports.get_mut(&index) else { return };
        let before = std::mem::replace(&mut port.mtu, profile.mtu);
        let (mtu, filter) = (profile.mtu, filter_of(&profile));
        port.profile.publish(profile);
        self.set_filter(index, filter);
        if mtu != before {
            self.publish_output(index);
        }
    }

    /// Takes a port away with its queues, which are dropped here. Its index is free when [`Control::finish_removals`] says so.
    pub fn remove_port(&mut self, index: PortIndex) -> Removal {
        self.set_filter(index, Filter::Closed);
        if let Some(port) = self.ports.remove(&index) {
            for (pair, queue) in port.rx.iter().enumerate() {
                drop(queue.take().take());
                let home = port.home_of(pair as u16, self.mailboxes.len());
                self.forget_queue(QueueId { port: index, pair: pair as u16 }, home);
            }
            port.tx.iter().for_each(|queue| drop(queue.take().take()));
        }
        let commands = self.mailboxes.iter().map(|mailbox| mailbox.send(Command::RemoveOutput(index)));
        Removal { index, commands: commands.collect(), walk: None }
    }

    /// Does some more for ports that are being removed, about a millisecond's work; those that every worker forgot, and of which no session is left, are taken
    /// out of the list and returned.
    pub fn finish_removals(&mut self, removals: &mut Vec<Removal>) -> Vec<PortIndex> {
        for Removal { index, commands, walk } in removals.iter_mut().filter(|removal| removal.walk.is_none())
        {
            if self.mailboxes.iter().zip(commands).all(|(mailbox, number)| mailbox.is_done(*number)) {
                *walk = Some(self.departed.add(index.0));
            }
        }
        self.departed.step(&self.sessions);
        let departed = &self.departed;
        let over = removals.extract_if(.., |removal| removal.walk.is_some_and(|walk| departed.is_over(walk)));
        over.map(|removal| removal.index).collect()
    }

    /// Starts polling `queue` as receive queue `pair` of a port, on the port's home worker; returns that worker.
    pub fn attach_rx(&mut self, index: PortIndex, pair: u16, queue: Box<dyn RxQueue>) -> Option<usize> {
        let workers = self.mailboxes.len();
        let port = self.ports.get_mut(&index)?;
        let home = port.home_of(pair, workers);
        // A receive queue has one worker for good.
        grow(&mut port.rx, pair, true);
        let slot = port.rx.get(usize::from(pair))?;
        *slot.take() = Some(queue);
        let entry = PollQueue {
            id: QueueId { port: index, pair },
            queue: slot.clone(),
            profile: port.profile.reader(),
            counters: port.counters.get(home)?.clone(),
            uplink: port.uplink,
            budgets: budgets(port.uplink, self.sessions.answered_to(index.0)),
            not_before: 0,
        };
        self.mailboxes.get(home)?.send(Command::AddQueue(Box::new(entry)));
        *self.queues_of.get_mut(home)? += 1;
        Some(home)
    }

    /// Takes a receive queue away, between two bursts.
    pub fn detach_rx(&mut self, index: PortIndex, pair: u16) -> Option<Box<dyn RxQueue>> {
        let port = self.ports.get(&index)?;
        let queue = port.rx.get(usize::from(pair))?.take().take()?;
        let home = port.home_of(pair, self.mailboxes.len());
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
        self.tables.reclaim();
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
            let mut output =
                OutputPort::new(queues.clone(), port.home, port.mtu, counters.clone(), &port.steering);
            if port.uplink {
                (output.uplink, output.steering) = (true, None);
            }
            mailbox.send(Command::SetOutput(index, output));
        }
    }
}

/// What applies to a port of that profile.
fn filter_of(profile: &PortProfile) -> Filter {
    match profile.policy {
        Some(policy) => Filter::Rules { policy, vpc: profile.vpc },
        None => Filter::Unfiltered,
    }
}

fn budgets(uplink: bool, answered: u32) -> Budgets {
    let bucket = |(rate, burst)| TokenBucket::new(rate, burst);
    let shares = |(rate, burst)| Shares::new(if uplink { TUNNEL_SHARES } else { 1 }, rate, burst);
    Budgets {
        announcements: shares(if uplink { TUNNEL_PUNT_RATE } else { ANNOUNCEMENT_RATE }),
        errors: shares(ERROR_RATE),
        punts: bucket(if uplink { UPLINK_PUNT_RATE } else { PUNT_RATE }),
        tunnels: bucket(UPLINK_PUNT_RATE),
        newcomers: Newcomers::new(answered),
    }
}

/// Adds slots up to `pair`.
fn grow<T>(slots: &mut Vec<Arc<Shared<Option<T>>>>, pair: u16, one_worker: bool) {
    while slots.len() <= usize::from(pair) {
        slots.push(Arc::new(if one_worker { Shared::for_one_worker(None) } else { Shared::new(None) }));
    }
}
