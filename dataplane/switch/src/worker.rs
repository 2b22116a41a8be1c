//! A worker: the poll set it owns, the outputs it knows, and one step of its loop.

use crate::UPLINK;
use crate::aside::{Aside, Budgets, Exceptions, WaitingRoom};
use crate::clock::Clock;
use crate::deliver::{Delivery, Form, OutputPort, transmit};
use crate::guard::Guard;
use crate::handover::{Handover, Links};
use crate::kept::Kept;
use crate::pipeline::{self, Ingress};
use crate::poll_set::{PollQueue, PollSet, Polled, QueueId};
use crate::tables::Tables;
use crate::unsettled::Unsettled;
use buf::{BURST_PACKETS, Burst, OwnedPacket, Pool};
use crossbeam::queue::{ArrayQueue, SegQueue};
use engine::{
    Announcement, Armed, Batch, DropReason, Metadata, Observer, PortCounters, PortIndex, QueueFault,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use sync::Counter;
use tables::PortProfile;

/// Handed-over packets delivered per step and peer.
const HANDOVERS_PER_STEP: usize = 64;
/// Commands done per step: a control thread that leaves them without pause does not keep packets waiting.
const COMMANDS_PER_STEP: u32 = 1024;

/// A change of what a worker polls or delivers to.
pub enum Command {
    /// Polls a queue (again).
    AddQueue(Box<PollQueue>),
    /// Forgets a queue.
    RemoveQueue(QueueId),
    /// Sends a packet of the control thread's.
    Transmit(Handover),
    /// Sends one that has its outer headers, but for where its next hop is.
    TransmitTunnel {
        /// The next hop.
        neighbour: u16,
        /// The packet.
        packet: OwnedPacket,
    },
    /// Makes a port a destination, or changes how it is reached.
    SetOutput(PortIndex, OutputPort),
    /// Makes a port no destination any more.
    RemoveOutput(PortIndex),
}

/// Where control threads leave commands. Done in order, between bursts.
#[derive(Clone, Default)]
pub struct Mailbox(Arc<MailboxState>);

#[derive(Default)]
struct MailboxState {
    commands: SegQueue<Command>,
    sent: AtomicU64,
    done: AtomicU64,
}

impl Mailbox {
    /// Leaves a command; returns its number.
    pub fn send(&self, command: Command) -> u64 {
        self.0.commands.push(command);
        self.0.sent.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether the command of that number (and all before) took effect.
    pub fn is_done(&self, number: u64) -> bool {
        self.0.done.load(Ordering::Acquire) >= number
    }
}

/// What a worker did since it started. It is the only writer.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Packets taken from queues.
    pub packets: Counter,
    /// Cycles of polls that found packets, and of what was done with them.
    pub busy_cycles: Counter,
    /// Cycles of everything else: empty polls, commands.
    pub idle_cycles: Counter,
    /// Receive queues polled.
    pub queues: Counter,
    /// Bursts that were full.
    pub full_bursts: Counter,
    /// Bursts that held at least one packet.
    pub bursts: Counter,
    /// Announcements that did not fit the queue to the control plane.
    pub announcements_lost: Counter,
}

/// What a worker is made of.
pub struct WorkerParts {
    /// Its number, from 0.
    pub index: usize,
    /// Its ends of the handover rings (see [`crate::mesh`]).
    pub links: Links,
    /// What its stages read.
    pub tables: Tables,
    /// What it judges packets with.
    pub guard: Guard,
    /// Memory for packets that outlive their burst; shared by all workers.
    pub pool: Pool,
    /// Where announcements of addresses go; shared by all workers.
    pub announcements: Arc<ArrayQueue<Announcement>>,
    /// Where packets for the control thread go; shared by all workers.
    pub exceptions: Exceptions,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets taken.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u32,
    /// Queues looked at.
    pub polls: u32,
    /// Handed-over packets delivered.
    pub handovers: u32,
    /// Commands done.
    pub commands: u32,
    /// Workers that sleep and must be woken, as bits.
    pub wake: u64,
}

impl Progress {
    /// Whether there was anything to do.
    pub fn is_idle(&self) -> bool {
        self.packets == 0 && self.handovers == 0 && self.commands == 0
    }
}

/// See the crate's documentation.
pub struct Worker {
    index: usize,
    poll_set: PollSet,
    outputs: Vec<Option<OutputPort>>,
    tables: Tables,
    guard: Guard,
    links: Links,
    kept: Kept,
    pool: Pool,
    announcements: Arc<ArrayQueue<Announcement>>,
    exceptions: Exceptions,
    waiting: WaitingRoom,
    mailbox: Mailbox,
    counters: Arc<WorkerCounters>,
    metadata: Box<[Metadata; BURST_PACKETS]>,
    faults: Vec<(QueueId, QueueFault)>,
    unsettled: Unsettled,
}

impl Worker {
    /// A worker that polls nothing yet.
    pub fn new(parts: WorkerParts) -> Self {
        Self {
            index: parts.index,
            poll_set: PollSet::default(),
            outputs: Vec::new(),
            tables: parts.tables,
            guard: parts.guard,
            links: parts.links,
            kept: Kept::new(),
            pool: parts.pool,
            announcements: parts.announcements,
            exceptions: parts.exceptions,
            waiting: WaitingRoom::new(),
            mailbox: Mailbox::default(),
            counters: Arc::default(),
            metadata: Box::new([Metadata::default(); BURST_PACKETS]),
            faults: Vec::with_capacity(16),
            unsettled: Unsettled::default(),
        }
    }

    /// Where to leave commands for it.
    pub fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }

    /// What it did.
    pub fn counters(&self) -> Arc<WorkerCounters> {
        self.counters.clone()
    }

    /// Looks once at everything that is due at `now` (nanoseconds). Bounded: 1,024 commands, 64 handovers per peer, one burst per queue last found short, one
    /// burst of one queue last found full.
    pub fn step<C: Clock, O: Observer>(&mut self, now: u64, clock: &mut C, observer: &mut O) -> Progress {
        let mut progress = Progress { commands: self.do_commands(now), ..Progress::default() };
        self.tables.refresh(&mut self.guard, now);
        if !self.waiting.is_empty() {
            self.release_waiting(now);
        }
        let mut cycles = clock.cycles();
        progress.handovers = self.take_handovers();
        if progress.handovers > 0 {
            cycles = self.charge(cycles, clock, true);
        }
        // One of those that wait first: those found full in this step wait until the next.
        let full = self.poll_set.next_waiting();
        if let Some(at) = full {
            self.poll(at, now, &mut progress, &mut cycles, clock, observer);
        }
        for at in (0..self.poll_set.len()).filter(|at| Some(*at) != full) {
            if self.poll_set.short(at).is_some_and(|queue| queue.not_before <= now) {
                self.poll(at, now, &mut progress, &mut cycles, clock, observer);
            }
        }
        if self.unsettled.is_due(progress.packets > 0) {
            self.settle();
        }
        self.charge(cycles, clock, false);
        progress
    }

    /// Queues that broke since the last call. They are polled no more until they are added again.
    pub fn take_faults(&mut self) -> impl Iterator<Item = (QueueId, QueueFault)> + '_ {
        self.faults.drain(..)
    }

    /// When the worker has something to do that nobody wakes it for, in nanoseconds of [`Worker::step`]'s clock: it sleeps no longer than that. Whoever
    /// tells [`tables::Neighbours`] something wakes all workers.
    pub fn deadline(&self) -> Option<u64> {
        [self.waiting.deadline(), self.guard.deadline()].into_iter().flatten().min()
    }

    /// Asks every queue for an event with its next packet, before the worker sleeps, until [`Worker::deadline`] at most. [`Armed::Ready`] when there is
    /// something to do already; the worker then goes on as if it had not asked.
    pub fn arm(&mut self, now: u64) -> Armed {
        if let Some(asleep) = self.links.asleep.get(self.index) {
            asleep.store(true, Ordering::SeqCst);
        }
        let waiting = !self.mailbox.0.commands.is_empty()
            || !self.kept.is_empty()
            || !self.waiting.is_quiet(now, &self.tables.neighbours)
            || self.links.from.iter().any(|consumer| !consumer.is_empty());
        self.settle();
        let waiting = waiting || !self.unsettled.is_empty();
        let ready = waiting || self.poll_set.iter_mut().any(|queue| !is_quiet(queue, now));
        if ready {
            self.disarm();
            return Armed::Ready;
        }
        self.tables.off_line();
        self.guard.off_line();
        self.poll_set.iter_mut().for_each(|queue| queue.profile.off_line());
        Armed::Quiet
    }

    /// Ends what [`Worker::arm`] began: polling again, no events needed.
    pub fn disarm(&mut self) {
        if let Some(asleep) = self.links.asleep.get(self.index) {
            asleep.store(false, Ordering::SeqCst);
        }
        for queue in self.poll_set.iter_mut() {
            if let Some(mut guard) = queue.queue.try_take()
                && let Some(queue) = guard.as_mut()
            {
                queue.disarm();
            }
        }
    }

    /// Counts cycles spent asleep as idle.
    pub fn note_idle(&self, cycles: u64) {
        self.counters.idle_cycles.add(cycles);
    }

    fn poll<C: Clock, O: Observer>(
        &mut self,
        at: usize,
        now: u64,
        progress: &mut Progress,
        cycles: &mut u64,
        clock: &mut C,
        observer: &mut O,
    ) {
        let mut polled = self.poll_queue(at, now, progress, observer);
        progress.polls += 1;
        let before = *cycles;
        *cycles = self.charge(before, clock, polled.packets > 0);
        if polled.packets > 0
            && let Some(queue) = self.poll_set.get_mut(at)
        {
            polled.cycles = cycles.wrapping_sub(before);
            queue.counters.busy_cycles.add(polled.cycles);
        }
        if polled.packets > 0 || polled.more {
            self.counters.full_bursts.add(polled.more.into());
            self.poll_set.pay(at, &polled);
        }
    }

    /// Takes one burst from the queue at `at` and sees it through to the receivers.
    fn poll_queue<O: Observer>(
        &mut self,
        at: usize,
        now: u64,
        progress: &mut Progress,
        observer: &mut O,
    ) -> Polled {
        let (most, mut polled) = (self.poll_set.most(at), Polled::default());
        let Some(entry) = self.poll_set.get_mut(at) else { return polled };
        let PollQueue { id, queue, profile, counters, budgets, uplink, .. } = entry;
        let (id, counters, uplink) = (*id, &**counters, *uplink);
        let Some(mut guard) = queue.try_take() else { return polled };
        let Some(queue) = guard.as_deref_mut() else { return polled };
        let mut burst = Burst::limited(most);
        let report = queue.poll(&mut burst);
        let (count, bytes) = (burst.len() as u32, burst.bytes() as u32);
        polled = Polled { packets: count, bytes, more: report.more, ..polled };
        if report.refused > 0 {
            counters.count_drop(DropReason::BadChain, u64::from(report.refused));
            (0..report.refused).for_each(|_| observer.dropped(id.port, DropReason::BadChain));
        }
        if count > 0 {
            profile.refresh();
            if O::ACTIVE {
                (0..burst.len())
                    .filter_map(|index| burst.frame(index))
                    .for_each(|frame| observer.received(id.port, &frame));
            }
            let mut batch = Batch::new(&mut burst, &mut self.metadata, now);
            let mut around = Around {
                tables: &self.tables,
                guard: &mut self.guard,
                announcements: &self.announcements,
                announcements_lost: &self.counters.announcements_lost,
                waiting: &mut self.waiting,
                pool: &self.pool,
                exceptions: &self.exceptions,
            };
            let profile = (!uplink).then(|| profile.get());
            around.run(&mut batch, id.port, profile, (counters, budgets), observer);
            if batch.judged > 0 && !uplink {
                polled.in_vain = budgets.newcomers.in_vain(&batch, self.guard.table.answered_to(id.port.0));
            }
            if let Some(Some(own)) = self.outputs.get(usize::from(id.port.0)) {
                own.steer(&batch, id.pair);
            }
            let mut delivery = Delivery {
                outputs: &self.outputs,
                links: &mut self.links,
                kept: &mut self.kept,
                pool: &self.pool,
                worker: self.index,
                wake: &mut progress.wake,
                unsettled: &mut self.unsettled,
            };
            delivery.run(&mut batch, id.port, observer);
            for (reason, packets) in batch.drops() {
                counters.count_drop(reason, packets);
                (0..packets).for_each(|_| observer.dropped(id.port, reason));
            }
            counters.rx_packets.add(u64::from(count));
            counters.rx_bytes.add(u64::from(bytes));
            self.counters.packets.add(u64::from(count));
            self.counters.bursts.add(1);
            progress.packets += count;
            progress.bytes += bytes;
        }
        if count > 0 || report.refused > 0 {
            queue.complete();
            if !self.unsettled.note_rx(id) {
                queue.settle();
            }
        }
        drop(guard);
        if let Some(fault) = report.fault {
            entry.not_before = u64::MAX;
            self.faults.push((id, fault));
        }
        polled
    }

    fn do_commands(&mut self, now: u64) -> u32 {
        let mut done = 0;
        while done < COMMANDS_PER_STEP
            && let Some(command) = self.mailbox.0.commands.pop()
        {
            match command {
                Command::AddQueue(queue) => self.poll_set.add(*queue),
                Command::RemoveQueue(id) => drop(self.poll_set.remove(id)),
                Command::Transmit(packet) => {
                    if let Err(packet) = self.kept.push(packet) {
                        self.count_lost(packet.ingress, DropReason::HandoverFull);
                    }
                }
                Command::TransmitTunnel { neighbour, packet } => {
                    if !self.waiting.add(neighbour, UPLINK, now, packet, &self.exceptions.wanted) {
                        self.count_lost(UPLINK, DropReason::NeighbourUnresolved);
                    }
                }
                Command::SetOutput(port, output) => {
                    let at = usize::from(port.0);
                    if self.outputs.len() <= at {
                        self.outputs.resize(at + 1, None);
                    }
                    self.outputs[at] = Some(output);
                }
                Command::RemoveOutput(port) => self.remove_output(port),
            }
            done += 1;
        }
        if done > 0 {
            self.counters.queues.set(self.poll_set.len() as u64);
            self.mailbox.0.done.fetch_add(u64::from(done), Ordering::AcqRel);
        }
        done
    }

    /// Its counters stay until the index is used again: what it sent may still be on its way between workers, and be lost.
    fn remove_output(&mut self, port: PortIndex) {
        if let Some(Some(output)) = self.outputs.get_mut(usize::from(port.0)) {
            output.queues.clear();
            output.steering = None;
        }
    }

    /// Counts a packet of a port that found no room.
    #[cold]
    fn count_lost(&self, port: PortIndex, reason: DropReason) {
        if let Some(counters) = own_counters(&self.outputs, port) {
            counters.count_drop(reason, 1);
        }
    }

    /// Sends what waited for neighbours that are known by now, and forgets what waited too long.
    #[cold]
    fn release_waiting(&mut self, now: u64) {
        let Self { waiting, tables, kept, outputs, .. } = self;
        let uplink = tables.network.get().uplink.as_ref().map(|uplink| PortIndex(uplink.port));
        waiting.drain(now, &tables.neighbours, uplink, kept, |port, reason| {
            if let Some(counters) = own_counters(outputs, port) {
                counters.count_drop(reason, 1);
            }
        });
    }

    /// Delivers what other workers handed over and what was kept. A packet leaves its ring only once it was delivered or lost.
    fn take_handovers(&mut self) -> u32 {
        let Self { links, kept, outputs, unsettled, .. } = self;
        let mut taken = 0;
        if !kept.is_empty() {
            taken += kept.drain(|kept| deliver_one(kept, outputs, unsettled));
        }
        for consumer in &mut links.from {
            for _ in 0..HANDOVERS_PER_STEP {
                let Ok(handover) = consumer.peek() else { break };
                if !deliver_one(handover, outputs, unsettled) {
                    break;
                }
                let _ = consumer.pop();
                taken += 1;
            }
        }
        taken
    }

    /// Makes up for notifications that may have been missed, once for many bursts: it waits for all writes to be visible.
    #[cold]
    fn settle(&mut self) {
        let Self { unsettled, poll_set, outputs, .. } = self;
        unsettled.settle(
            |id| {
                let Some(entry) = poll_set.iter_mut().find(|entry| entry.id == id) else { return true };
                let Some(mut guard) = entry.queue.try_take() else { return false };
                if let Some(queue) = guard.as_mut() {
                    queue.settle();
                }
                true
            },
            |id| {
                let output = outputs.get(usize::from(id.port.0)).and_then(Option::as_ref);
                let Some(queue) = output.and_then(|output| output.queues.get(usize::from(id.pair))) else {
                    return true;
                };
                let Some(mut guard) = queue.try_take() else { return false };
                if let Some(queue) = guard.as_mut() {
                    queue.settle();
                }
                true
            },
        );
    }

    #[inline(always)]
    fn charge<C: Clock>(&self, since: u64, clock: &mut C, busy: bool) -> u64 {
        let now = clock.cycles();
        let counter = if busy { &self.counters.busy_cycles } else { &self.counters.idle_cycles };
        counter.add(now.wrapping_sub(since));
        now
    }
}

/// What the stages work with besides a batch and its port.
struct Around<'w> {
    tables: &'w Tables,
    guard: &'w mut Guard,
    announcements: &'w ArrayQueue<Announcement>,
    announcements_lost: &'w Counter,
    waiting: &'w mut WaitingRoom,
    pool: &'w Pool,
    exceptions: &'w Exceptions,
}

impl Around<'_> {
    /// Runs the stages: those for a port's packets, or without a profile those for the underlay's. What leaves the burst by them is set aside.
    #[inline(always)]
    fn run<O: Observer>(
        &mut self,
        batch: &mut Batch<'_, '_>,
        port: PortIndex,
        profile: Option<&PortProfile>,
        (counters, budgets): (&PortCounters, &mut Budgets),
        observer: &mut O,
    ) {
        if let Some(profile) = profile {
            let Budgets { announcements, errors, .. } = budgets;
            let (announcements, errors) = (announcements.of(0), errors.of(0));
            let mut ingress = Ingress { port, profile, counters, announcements, errors };
            pipeline::run(batch, &mut ingress, self.tables, self.guard, &mut |announcement| {
                if self.announcements.push(announcement).is_err() {
                    self.announcements_lost.add(1);
                }
            });
        } else {
            pipeline::run_underlay(batch, port, &mut budgets.errors, self.tables, self.guard);
        }
        if !batch.punts().is_empty() || !batch.held().is_empty() {
            let Self { exceptions, pool, .. } = *self;
            let mut aside = Aside { exceptions, waiting: self.waiting, pool, budgets, counters };
            let uplink = self.tables.network.get().uplink.as_ref().map(|uplink| PortIndex(uplink.port));
            aside.run(batch, port, uplink, observer);
        }
    }
}

fn is_quiet(entry: &mut PollQueue, now: u64) -> bool {
    if entry.not_before > now {
        return true;
    }
    match entry.queue.try_take() {
        // Taken by a control thread, which is about to change it: look again.
        None => false,
        Some(mut guard) => guard.as_mut().is_none_or(|queue| queue.arm() == Armed::Quiet),
    }
}

/// Delivers a packet that waited, or counts it as lost; `false` when its queue is somebody else's just now.
fn deliver_one(handover: &Handover, outputs: &[Option<OutputPort>], unsettled: &mut Unsettled) -> bool {
    let output = outputs.get(usize::from(handover.output.0)).and_then(Option::as_ref);
    let queue = output.and_then(|output| Some((output, output.queues.get(usize::from(handover.pair))?)));
    let mut reason = Some(DropReason::ReceiverStopped);
    if let Some((output, queue)) = queue {
        let Some(mut guard) = queue.try_take() else { return false };
        if let Some(queue) = guard.as_deref_mut() {
            let report = handover
                .packet
                .with_frame(|frame| transmit(queue, &output.counters, &[frame], Form::Adapted));
            if !unsettled.note_tx(handover.queue()) {
                queue.settle();
            }
            reason = lost_for(&report);
        }
    }
    if let (Some(reason), Some(counters)) = (reason, own_counters(outputs, handover.ingress)) {
        counters.count_drop(reason, 1);
    }
    true
}

fn own_counters(outputs: &[Option<OutputPort>], port: PortIndex) -> Option<&PortCounters> {
    outputs.get(usize::from(port.0))?.as_ref().map(|output| &*output.counters)
}

fn lost_for(report: &engine::TxReport) -> Option<DropReason> {
    match (report.full, report.too_large, report.stopped) {
        (0, 0, 0) => None,
        (_, 0, 0) => Some(DropReason::ReceiverFull),
        (_, _, 0) => Some(DropReason::TooLarge),
        _ => Some(DropReason::ReceiverStopped),
    }
}
