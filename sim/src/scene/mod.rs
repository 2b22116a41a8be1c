//! Guests and workers on one virtual clock: everything that happens between two acts of the control side.

mod guests;
mod link;
mod stats;
mod workers;

pub use stats::Stats;

use crate::check::accounts::{self, Account};
use crate::check::ledger::Ledger;
use crate::check::policy::Policies;
use crate::check::steering::{Place, Steering};
use crate::check::{Checked, Violation};
use crate::cost::VirtualClock;
use crate::guest::actor::Guest;
use crate::network::Network;
use crate::options::Kind;
use crate::queues::Polled;
use crate::random::Random;
use crate::trace::Trace;
use crate::underlay::Underlay;
use engine::{PortCounters, PortIndex, QueueFault};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use switch::{QueueId, UPLINK, Worker};
use virtqueue::Counter;

/// Somebody's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// A worker's; stale if its generation has moved on.
    Worker(usize, u64),
    /// A guest's, likewise.
    Guest(usize, u64),
    /// The underlay's.
    Fabric,
    /// The control side's.
    Control,
}

/// A worker with what its thread would hold.
pub struct Seat {
    /// The worker.
    pub worker: Worker,
    /// Its host.
    pub host: usize,
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

/// A guest's port in the switch.
#[derive(Clone, Debug, Default)]
pub struct Plug {
    /// Its index; nothing while there is none.
    pub port: Option<PortIndex>,
    /// The host it is on.
    pub host: usize,
    /// The seat of the worker that polls it.
    pub home: usize,
    /// While it moves: the other host that has it, and its index there.
    pub other: Option<(usize, PortIndex)>,
    /// Interrupts raised, one counter per queue.
    pub interrupts: Vec<Counter>,
    /// Interrupts the guest has noticed.
    heard: u64,
    /// It has not had a turn since the last.
    pub interrupted: bool,
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
    /// By host: the guest of every port index ever given out, latest.
    pub guest_of: BTreeMap<Place, usize>,
    /// Workers of each host.
    pub workers: usize,
    /// The underlay, if there are several hosts.
    pub fabric: Option<Underlay>,
    /// What the operator wants.
    pub network: Network,
    /// What was sent and what arrived.
    pub ledger: Ledger,
    /// What rules say, and what they let pass.
    pub policies: Policies,
    /// On which queue pairs guests send.
    pub steering: Steering,
    /// The queue pair that is polled.
    pub polled: Polled,
    /// The books.
    pub accounts: Vec<Account>,
    handovers_done: u64,
    /// By port: its counters, by worker, and how many packets each worker had given the control thread at the end of its last step.
    pub shards: BTreeMap<Place, Vec<(Arc<PortCounters>, u64)>>,
    /// Frames that control sides sent of their own.
    pub injected: u64,
    /// Guests that reset their device.
    pub resets: Vec<usize>,
    /// By guest: its memory or rings were tampered with, so it is not to be believed until it starts again.
    pub tampered: Vec<bool>,
    /// Queues that broke.
    pub broken: Vec<(usize, QueueId, QueueFault)>,
    /// What happened.
    pub trace: Trace,
    /// Numbers.
    pub stats: Stats,
    /// What chance decides here.
    pub random: Random,
}

impl Scene {
    /// Workers and guests before anything happened.
    #[must_use]
    pub fn new(
        workers: Vec<Vec<Worker>>,
        guests: Vec<Guest>,
        network: Network,
        (trace, fabric): (Trace, Option<Underlay>),
        random: Random,
    ) -> Self {
        let (count, uplinks) = (guests.len(), network.hosts.len());
        let mut accounts: Vec<Account> =
            guests.iter().map(|guest| Account::new(guest.options.kind != Kind::Hostile)).collect();
        accounts.extend((0..uplinks).map(|_| Account::new(true)));
        let per_host = workers.first().map_or(0, Vec::len);
        let seat = |(host, worker)| Seat {
            worker,
            host,
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
            seats: workers
                .into_iter()
                .enumerate()
                .flat_map(|(host, workers)| workers.into_iter().map(move |worker| (host, worker)))
                .map(seat)
                .collect(),
            workers: per_host,
            fabric,
            guests,
            generations: vec![0; count],
            plugs: vec![Plug::default(); count],
            guest_of: BTreeMap::new(),
            network,
            ledger: Ledger::new(count, uplinks),
            policies: Policies::default(),
            steering: Steering::default(),
            polled: Polled::default(),
            accounts,
            handovers_done: 0,
            shards: BTreeMap::new(),
            injected: 0,
            resets: Vec::new(),
            tampered: vec![false; count],
            broken: Vec::new(),
            trace,
            stats: Stats::default(),
            random,
        };
        (0..scene.seats.len()).for_each(|worker| scene.push(0, Turn::Worker(worker, 0)));
        (0..count).for_each(|guest| scene.push(1_000 * guest as u64, Turn::Guest(guest, 0)));
        if scene.fabric.is_some() {
            scene.push(0, Turn::Fabric);
        }
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
                Turn::Fabric => {
                    self.fabric_turn()?;
                    return Ok(false);
                }
                Turn::Control => return Ok(true),
                Turn::Worker(..) | Turn::Guest(..) => {}
            }
        }
    }

    /// Schedules a guest's next turn in place of any other.
    pub fn again_guest(&mut self, guest: usize, after: u64) {
        self.generations[guest] += 1;
        let generation = self.generations[guest];
        self.push(after, Turn::Guest(guest, generation));
    }

    /// The place of a host's uplink among those that send: behind the guests.
    #[must_use]
    pub fn wire(&self, host: usize) -> usize {
        self.guests.len() + host
    }

    /// Who sends by a port, and on how many queue pairs.
    #[must_use]
    pub fn sender(&self, place: Place) -> Option<(usize, usize)> {
        if place.1 == UPLINK {
            let pairs = self.fabric.as_ref().map_or(0, |fabric| fabric.lines[place.0].len());
            return Some((self.wire(place.0), pairs));
        }
        let guest = *self.guest_of.get(&place)?;
        Some((guest, usize::from(self.guests[guest].options.nic.pairs)))
    }

    /// Whether what a guest says it sends and receives means nothing.
    #[must_use]
    pub fn lies(&self, guest: usize) -> bool {
        self.tampered[guest] || !self.guests[guest].is_sound()
    }

    /// Compares the books.
    ///
    /// # Errors
    ///
    /// They do not agree.
    pub fn audit(&self) -> Checked {
        accounts::check_conservation(
            &self.accounts,
            self.injected,
            self.handovers_done,
            self.fabric.is_some(),
        )?;
        accounts::check_observed(&self.accounts, &BTreeMap::new())
    }

    /// Forgets interrupts of rings that are gone.
    pub fn plug_in(&mut self, guest: usize, interrupts: Vec<Counter>) {
        let plug = &mut self.plugs[guest];
        plug.heard = interrupts.iter().map(Counter::count).sum();
        plug.interrupts = interrupts;
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
