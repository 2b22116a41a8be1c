//! Guests and workers on one virtual clock: everything that happens between two acts of the control side.

use crate::check::accounts::{self, Account};
use crate::check::ledger::Ledger;
use crate::check::verdicts::{self, Seen, Watch, is_delivery};
use crate::check::{Checked, Violation, secrets, work};
use crate::cost::{self, VirtualClock};
use crate::guest::actor::{Acted, Guest};
use crate::guest::nic::NicError;
use crate::network::Network;
use crate::options::Kind;
use crate::random::Random;
use crate::trace::Trace;
use engine::{Armed, DropReason, PortIndex, QueueFault};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use switch::{QueueId, Worker};
use virtio_driver::Gso;
use virtqueue::Counter;

/// How long a worker waits until it looks again after it found nothing, in nanoseconds; doubles up to the last.
const IDLE_STEPS: [u64; 4] = [2_000, 4_000, 8_000, 16_000];
/// How often the books are compared, in steps.
const AUDIT_EVERY: u64 = 16;

/// Somebody's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// A worker's; stale if its generation has moved on.
    Worker(usize, u64),
    /// A guest's, likewise.
    Guest(usize, u64),
    /// The control side's.
    Control,
}

/// A worker with what its thread would hold.
pub struct Seat {
    /// The worker.
    pub worker: Worker,
    /// It does nothing before this time.
    pub delayed_until: u64,
    /// Its clock is off by so much.
    pub skew: i64,
    asleep: bool,
    generation: u64,
    idle: usize,
    idle_since: Option<u64>,
    clock: VirtualClock,
}

/// Numbers of a run.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Steps of workers and guests.
    pub steps: u64,
    /// Packets the switch took.
    pub packets: u64,
    /// Drops by reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Edges of the pipeline by name.
    pub edges: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// Counts a fault.
    pub fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    /// Counts packets that took an edge.
    pub fn edge(&mut self, name: &'static str, count: u64) {
        *self.edges.entry(name).or_default() += count;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.packets += other.packets;
        other.drops.iter().for_each(|(reason, count)| *self.drops.entry(*reason).or_default() += count);
        other.faults.iter().for_each(|(name, count)| *self.faults.entry(name).or_default() += count);
        other.edges.iter().for_each(|(name, count)| *self.edges.entry(name).or_default() += count);
    }
}

/// A guest's port in the switch.
#[derive(Clone, Debug, Default)]
pub struct Plug {
    /// Its index; nothing while there is none.
    pub port: Option<PortIndex>,
    /// The worker that polls it.
    pub home: usize,
    /// Interrupts raised, one counter per queue.
    pub interrupts: Vec<Counter>,
    /// Interrupts the guest has noticed.
    heard: u64,
    /// Kicks that will be lost.
    pub lost_kicks: u32,
}

/// See the module's documentation.
pub struct Scene {
    /// Virtual time, in nanoseconds.
    pub now: u64,
    turns: BinaryHeap<Reverse<(u64, u64, Turn)>>,
    order: u64,
    /// The workers.
    pub seats: Vec<Seat>,
    /// The guests.
    pub guests: Vec<Guest>,
    generations: Vec<u64>,
    /// By guest: its port.
    pub plugs: Vec<Plug>,
    /// The guest of every port index ever given out, latest.
    pub guest_of: BTreeMap<PortIndex, usize>,
    /// What the operator wants.
    pub network: Network,
    /// What was sent and what arrived.
    pub ledger: Ledger,
    /// The books.
    pub accounts: Vec<Account>,
    handovers_done: u64,
    /// Guests that reset their device.
    pub resets: Vec<usize>,
    /// By guest: its memory or rings were tampered with, so it is not to be believed until it starts again.
    pub tampered: Vec<bool>,
    /// Queues that broke.
    pub broken: Vec<(QueueId, QueueFault)>,
    /// What happened.
    pub trace: Trace,
    /// Numbers.
    pub stats: Stats,
    /// What chance decides here.
    pub random: Random,
}

fn driver_error(guest: usize, error: &NicError) -> Violation {
    let checker = if matches!(error, NicError::Written { .. }) { "memory" } else { "driver" };
    Violation::new(checker, format!("guest {guest}: {error}"))
}

impl Scene {
    /// Workers and guests before anything happened.
    #[must_use]
    pub fn new(
        workers: Vec<Worker>,
        guests: Vec<Guest>,
        network: Network,
        trace: Trace,
        random: Random,
    ) -> Self {
        let count = guests.len();
        let accounts = guests.iter().map(|guest| Account::new(guest.options.kind != Kind::Hostile)).collect();
        let seat = |worker| Seat {
            worker,
            delayed_until: 0,
            skew: 0,
            asleep: false,
            generation: 0,
            idle: 0,
            idle_since: None,
            clock: VirtualClock(0),
        };
        let mut scene = Self {
            now: 1_000_000_000,
            turns: BinaryHeap::new(),
            order: 0,
            seats: workers.into_iter().map(seat).collect(),
            guests,
            generations: vec![0; count],
            plugs: vec![Plug::default(); count],
            guest_of: BTreeMap::new(),
            network,
            ledger: Ledger::new(count),
            accounts,
            handovers_done: 0,
            resets: Vec::new(),
            tampered: vec![false; count],
            broken: Vec::new(),
            trace,
            stats: Stats::default(),
            random,
        };
        (0..scene.seats.len()).for_each(|worker| scene.push(0, Turn::Worker(worker, 0)));
        (0..count).for_each(|guest| scene.push(1_000 * guest as u64, Turn::Guest(guest, 0)));
        scene
    }

    fn push(&mut self, after: u64, turn: Turn) {
        self.order += 1;
        self.turns.push(Reverse((self.now + after, self.order, turn)));
    }

    /// Gives the control side a turn.
    pub fn call_control(&mut self, after: u64) {
        self.push(after, Turn::Control);
    }

    /// Takes the next turn; `true` if it is the control side's, which the caller takes.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn turn(&mut self) -> Result<bool, Violation> {
        loop {
            let Some(Reverse((at, _, turn))) = self.turns.pop() else { return Ok(true) };
            self.now = self.now.max(at);
            match turn {
                Turn::Worker(worker, generation) if self.seats[worker].generation == generation => {
                    self.worker_turn(worker)?;
                    return Ok(false);
                }
                Turn::Guest(guest, generation) if self.generations[guest] == generation => {
                    self.guest_turn(guest)?;
                    return Ok(false);
                }
                Turn::Control => return Ok(true),
                Turn::Worker(..) | Turn::Guest(..) => {}
            }
        }
    }

    fn again_worker(&mut self, worker: usize, after: u64) {
        self.seats[worker].generation += 1;
        let generation = self.seats[worker].generation;
        self.push(after, Turn::Worker(worker, generation));
    }

    /// Schedules a guest's next turn in place of any other.
    pub fn again_guest(&mut self, guest: usize, after: u64) {
        self.generations[guest] += 1;
        let generation = self.generations[guest];
        self.push(after, Turn::Guest(guest, generation));
    }

    /// Wakes a worker that sleeps.
    pub fn wake(&mut self, worker: usize) {
        if self.seats[worker].asleep {
            self.again_worker(worker, cost::WAKE_NS);
        }
    }

    /// Wakes all.
    pub fn wake_all(&mut self) {
        (0..self.seats.len()).for_each(|worker| self.wake(worker));
    }

    fn worker_turn(&mut self, worker: usize) -> Checked {
        let (now, seat) = (self.now, &mut self.seats[worker]);
        if now < seat.delayed_until {
            let after = seat.delayed_until - now;
            self.again_worker(worker, after);
            return Ok(());
        }
        if std::mem::take(&mut seat.asleep) {
            seat.worker.disarm();
            seat.idle_since = None;
        }
        let (idle, took) = self.step(worker)?;
        let seat = &mut self.seats[worker];
        if !idle {
            (seat.idle, seat.idle_since) = (0, None);
            self.again_worker(worker, took);
            return Ok(());
        }
        let since = *seat.idle_since.get_or_insert(now);
        if now - since >= cost::SPIN_NS
            && seat.worker.arm(now.saturating_add_signed(seat.skew)) == Armed::Quiet
        {
            seat.asleep = true;
            self.stats.edge("worker sleeps", 1);
            self.again_worker(worker, cost::SLEEP_NS);
            return Ok(());
        }
        let pause = IDLE_STEPS[seat.idle.min(IDLE_STEPS.len() - 1)];
        seat.idle += 1;
        self.again_worker(worker, took + pause);
        Ok(())
    }

    /// One step of a worker, with everything that is compared after it; whether it was idle and how long it took.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn step(&mut self, worker: usize) -> Result<(bool, u64), Violation> {
        let liars = self.guest_of.iter().filter(|(_, guest)| self.lies(**guest));
        let hostile = liars.map(|(port, _)| *port).collect();
        let mut watch = Watch { hostile, seen: Vec::new() };
        let seat = &mut self.seats[worker];
        let now = self.now.saturating_add_signed(seat.skew);
        let progress = seat.worker.step(now, &mut seat.clock, &mut watch);
        self.broken.extend(seat.worker.take_faults());
        let took = cost::of_step(&progress);
        seat.clock.0 += took;
        self.stats.steps += 1;
        self.stats.packets += u64::from(progress.packets);
        self.handovers_done += u64::from(progress.handovers);
        let numbers =
            [progress.packets, progress.bytes, progress.polls, progress.handovers, progress.commands];
        let numbers = numbers.map(u64::from);
        self.trace.event(
            self.now,
            "step",
            &[worker as u64, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]],
        );
        let queues: usize = self.guests.iter().map(|guest| usize::from(guest.options.nic.pairs)).sum();
        work::check(&progress, queues as u64, self.seats.len())?;
        self.take_seen(watch.seen)?;
        if self.stats.steps.is_multiple_of(AUDIT_EVERY) {
            self.audit()?;
        }
        let woken: Vec<usize> =
            (0..self.seats.len()).filter(|other| progress.wake >> other & 1 != 0).collect();
        woken.into_iter().for_each(|other| self.wake(other));
        self.interrupt();
        self.stats.edge("handed over", u64::from(progress.handovers));
        Ok((progress.is_idle(), took))
    }

    /// Whether what a guest says it sends and receives means nothing.
    #[must_use]
    pub fn lies(&self, guest: usize) -> bool {
        self.tampered[guest] || !self.guests[guest].is_sound()
    }

    fn take_seen(&mut self, seen: Vec<Seen>) -> Checked {
        for event in &seen {
            match event {
                Seen::Received { port, key, .. } => {
                    self.trace.event(self.now, "taken", &[u64::from(port.0), *key]);
                    self.stats.edge("taken", 1);
                    if let Some(guest) = self.guest_of.get(port) {
                        self.accounts[*guest].taken += 1;
                    }
                }
                Seen::Forwarded { port, output, key } => {
                    self.trace.event(self.now, "forwarded", &[u64::from(port.0), *key]);
                    let back = matches!(output, engine::Output::Port(target) if target == port);
                    self.stats.edge(if back { "answered" } else { "forwarded" }, 1);
                }
                Seen::Dropped { port, reason } => {
                    self.trace.event(self.now, reason.name(), &[u64::from(port.0)]);
                    *self.stats.drops.entry(*reason).or_default() += 1;
                    let edge = if is_delivery(*reason) { "lost in delivery" } else { "dropped by a stage" };
                    self.stats.edge(edge, 1);
                    if let Some(guest) = self.guest_of.get(port) {
                        *self.accounts[*guest].observed.entry(*reason).or_default() += 1;
                    }
                }
            }
        }
        let guest_of = |port: PortIndex| self.guest_of.get(&port).copied();
        verdicts::check(seen, &mut self.ledger, &self.network, guest_of)
    }

    /// Compares the books.
    ///
    /// # Errors
    ///
    /// They do not agree.
    pub fn audit(&self) -> Checked {
        accounts::check_conservation(&self.accounts, self.handovers_done)?;
        accounts::check_observed(&self.accounts, &BTreeMap::new())
    }

    /// Guests that were interrupted get their turn soon.
    fn interrupt(&mut self) {
        for guest in 0..self.guests.len() {
            let plug = &mut self.plugs[guest];
            let raised = plug.interrupts.iter().map(Counter::count).sum();
            if raised > plug.heard {
                plug.heard = raised;
                self.stats.edge("interrupts", 1);
                self.again_guest(guest, cost::WAKE_NS);
            }
        }
    }

    /// Forgets interrupts of rings that are gone.
    pub fn plug_in(&mut self, guest: usize, interrupts: Vec<Counter>) {
        let plug = &mut self.plugs[guest];
        plug.heard = interrupts.iter().map(Counter::count).sum();
        plug.interrupts = interrupts;
    }

    /// A guest's turn.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn guest_turn(&mut self, guest: usize) -> Checked {
        self.stats.steps += 1;
        if self.tampered[guest] {
            self.again_guest(guest, 100_000);
            return Ok(());
        }
        let acted =
            self.guests[guest].act(self.now, &self.network).map_err(|error| driver_error(guest, &error))?;
        let busy = acted.busy;
        self.account(guest, acted)?;
        let now = self.now;
        let actor = &mut self.guests[guest];
        let think = actor.options.think;
        let after = if now < actor.stalled_until {
            actor.stalled_until - now
        } else if actor.quiet {
            let timer = actor.stack.as_mut().and_then(|stack| stack.next(now)).unwrap_or(u64::MAX);
            let limit = if busy { think } else { 2_000_000 };
            timer.saturating_sub(now).clamp(1_000, limit)
        } else if !busy && actor.random.chance(30) {
            actor.random.between(200_000, 2_000_000)
        } else {
            actor.random.between(think / 2, think * 2)
        };
        self.again_guest(guest, after);
        Ok(())
    }

    /// Books what a guest did, and rings for it.
    ///
    /// # Errors
    ///
    /// It got what it should not.
    pub fn account(&mut self, guest: usize, acted: Acted) -> Checked {
        self.accounts[guest].returned += acted.returned;
        for packet in &acted.received {
            self.trace.frame(self.now, "received", guest, packet.pair, &packet.bytes);
            let edge = match (packet.header.gso, packet.header.needs_csum) {
                (Gso::None, false) => "received, whole",
                (Gso::None, true) => "received, checksum left",
                _ => "received, to be cut",
            };
            self.stats.edge(edge, 1);
            if self.ledger.arrived(guest, packet, &self.network)? {
                self.stats.edge("received, cut", 1);
            }
        }
        if acted.resets {
            self.resets.push(guest);
        }
        // What a liar sends is known from what the switch takes.
        let lies = self.lies(guest);
        for packet in acted.sent.iter().filter(|_| !lies) {
            self.trace.frame(self.now, "sent", guest, packet.pair, &packet.frame);
            self.ledger.sent(guest, &packet.header, &packet.frame, packet.expect, self.network.epoch);
        }
        for _ in acted.kicks {
            self.kick(guest);
        }
        Ok(())
    }

    fn kick(&mut self, guest: usize) {
        let plug = &mut self.plugs[guest];
        if plug.port.is_none() {
            return;
        }
        if plug.lost_kicks > 0 {
            plug.lost_kicks -= 1;
            self.stats.edge("kicks lost", 1);
            return;
        }
        self.stats.edge("kicks", 1);
        let home = plug.home;
        self.wake(home);
    }

    /// A guest receives all there is and looks at its memory, before its rings go or at the end.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn drain(&mut self, guest: usize) -> Checked {
        if let Some(nic) = &self.guests[guest].nic {
            secrets::check(guest, self.guests.len(), &nic.memory)?;
        }
        if self.lies(guest) {
            return Ok(());
        }
        let acted = self.guests[guest].drain().map_err(|error| driver_error(guest, &error))?;
        self.account(guest, acted)?;
        match &self.guests[guest].nic {
            Some(nic) => nic.check_guards().map_err(|error| driver_error(guest, &error)),
            None => Ok(()),
        }
    }

    /// Compares the books with what guests saw. All rings are drained.
    ///
    /// # Errors
    ///
    /// They do not agree.
    pub fn check_guests(&mut self) -> Checked {
        for (account, uncertain) in self.accounts.iter_mut().zip(&self.ledger.uncertain) {
            account.exact &= !uncertain;
        }
        accounts::check_guests(&self.accounts, &self.ledger.arrivals)
    }
}
