//! Turns of workers, and what is compared after each step.

use super::{Scene, Turn};
use crate::check::verdicts::{self, Checks, Seen, Watch, edge_of};
use crate::check::{Checked, Violation, work};
use crate::cost;
use engine::{Armed, PortIndex};
use std::collections::BTreeMap;
use switch::UPLINK;
use virtqueue::Counter;

/// How long a worker waits until it looks again after it found nothing, in nanoseconds; doubles up to the last.
const IDLE_STEPS: [u64; 4] = [2_000, 4_000, 8_000, 16_000];
/// Commands that a worker does in one step, at most; the rest waits for the next.
const COMMANDS_PER_STEP: u32 = 1024;
/// How often the books are compared, in steps.
const AUDIT_EVERY: u64 = 16;

impl Scene {
    pub(super) fn again_worker(&mut self, worker: usize, after: u64) {
        self.seats[worker].generation += 1;
        let generation = self.seats[worker].generation;
        self.push(after, Turn::Worker(worker, generation));
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

    pub(super) fn worker_turn(&mut self, worker: usize) -> Checked {
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
            let due =
                seat.worker.deadline().map(|due| due.saturating_sub(now.saturating_add_signed(seat.skew)));
            self.stats.edge("worker sleeps", 1);
            self.again_worker(worker, due.unwrap_or(cost::SLEEP_NS).min(cost::SLEEP_NS));
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
        let host = self.seats[worker].host;
        let liars = self.guest_of.iter().filter(|((of, _), guest)| *of == host && self.lies(**guest));
        let hostile = liars.map(|((_, port), _)| *port).collect();
        let mut watch = Watch { hostile, seen: Vec::new(), polled: self.polled.clone() };
        let seat = &mut self.seats[worker];
        let now = self.now.saturating_add_signed(seat.skew);
        let progress = seat.worker.step(now, &mut seat.clock, &mut watch);
        self.broken.extend(seat.worker.take_faults().map(|(queue, fault)| (host, queue, fault)));
        let took = cost::of_step(&progress, self.polled.take_bursts());
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
        let uplink = self.fabric.as_ref().map_or(0, |fabric| fabric.lines[host].len());
        work::check(&progress, (queues + uplink) as u64, self.workers)?;
        self.take_seen(worker, watch.seen, progress.commands < COMMANDS_PER_STEP)?;
        if self.stats.steps.is_multiple_of(AUDIT_EVERY) {
            self.audit()?;
        }
        self.take_uplink(host)?;
        let first = host * self.workers;
        let woken: Vec<usize> = (0..self.workers).filter(|other| progress.wake >> other & 1 != 0).collect();
        woken.into_iter().for_each(|other| self.wake(first + other));
        self.interrupt();
        self.stats.edge("delivery > other worker, or kept", u64::from(progress.handovers));
        Ok((progress.is_idle(), took))
    }

    pub(super) fn take_seen(&mut self, worker: usize, seen: Vec<Seen>, up_to_date: bool) -> Checked {
        let host = self.seats[worker].host;
        for event in &seen {
            match event {
                Seen::Received { port, frame, .. } => {
                    self.trace.event(self.now, "taken", &[u64::from(port.0), frame.key]);
                    self.stats.edge(if *port == UPLINK { "uplink > parse" } else { "ring > parse" }, 1);
                    if let Some((sender, _)) = self.sender((host, *port)) {
                        self.accounts[sender].taken += 1;
                    }
                }
                Seen::Forwarded { port, frame, .. } => {
                    self.trace.event(self.now, "forwarded", &[u64::from(port.0), frame.key]);
                    self.stats.edge("stages > delivery", 1);
                }
                Seen::Dropped { port, reason } => {
                    self.trace.event(self.now, reason.name(), &[u64::from(port.0)]);
                    *self.stats.drops.entry(*reason).or_default() += 1;
                    edge_of(*reason).into_iter().for_each(|edge| self.stats.edge(edge, 1));
                    if let Some((sender, _)) = self.sender((host, *port)) {
                        *self.accounts[sender].observed.entry(*reason).or_default() += 1;
                    }
                }
            }
        }
        let mut given: BTreeMap<PortIndex, u64> = BTreeMap::new();
        for ((_, port), shards) in self.shards.iter_mut().filter(|((of, _), _)| *of == host) {
            if let Some((shard, before)) = shards.get_mut(worker % self.workers) {
                let now = shard.punted.get();
                given.insert(*port, now - std::mem::replace(before, now));
            }
        }
        self.stats.edge("control thread < given", given.values().sum());
        let uplink = self.fabric.as_ref().map(|fabric| fabric.lines[host].len());
        let (guests, guest_of) = (&self.guests, &self.guest_of);
        let guest_of = |port: PortIndex| {
            if port == UPLINK {
                return Some((guests.len() + host, uplink?));
            }
            let guest = *guest_of.get(&(host, port))?;
            Some((guest, usize::from(guests[guest].options.nic.pairs)))
        };
        let stats = &mut self.stats;
        let mut checks = Checks {
            host,
            ledger: &mut self.ledger,
            steering: &mut self.steering,
            up_to_date,
            network: &self.network,
            policies: &mut self.policies,
            now: self.now,
            guest_of: &guest_of,
            punted: &|port| given.get(&port).copied().unwrap_or(0),
            edge: &mut |edge| stats.edge(edge, 1),
        };
        verdicts::check(seen, &mut checks)?;
        for edge in self.policies.edges.drain(..) {
            self.stats.edge(edge, 1);
        }
        Ok(())
    }

    /// Guests that were interrupted get their turn soon.
    pub(super) fn interrupt(&mut self) {
        for guest in 0..self.guests.len() {
            let plug = &mut self.plugs[guest];
            let raised = plug.interrupts.iter().map(Counter::count).sum();
            if raised > plug.heard {
                (plug.heard, plug.interrupted) = (raised, true);
                self.stats.edge("interrupts", 1);
                self.again_guest(guest, cost::WAKE_NS);
            }
        }
    }
}
