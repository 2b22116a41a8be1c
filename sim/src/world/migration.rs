//! Guests that are migrated: what the switch writes is logged, and they go on on another host.

use super::World;
use crate::check::dirty::Migration;
use crate::plant::Plant;
use crate::queues::{SimRx, SimTx};
use guest_mem::DirtyLog;
use std::any::Any;
use std::sync::Arc;

/// What comes next in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// The guest stops where it is.
    Leave,
    /// It goes on on the other host.
    GoOn,
    /// The operator says that it is where it is.
    End,
}

impl World {
    /// Plans what follows when a migration has begun.
    pub fn plan_migration(&mut self, guest: usize) {
        let now = self.scene.now;
        let leave = now + self.random.between(20_000, 300_000);
        // Some are taken back: the guest never leaves.
        if self.random.chance(850) {
            self.moves.push((leave, guest, Move::Leave));
        }
        self.moves.push((leave + self.random.between(300_000, 2_000_000), guest, Move::End));
    }

    /// Takes the steps of migrations that are due.
    pub(super) fn go_on_moving(&mut self) -> anyhow::Result<()> {
        let now = self.scene.now;
        let (due, later): (Vec<_>, Vec<_>) = self.moves.drain(..).partition(|(at, ..)| *at <= now);
        self.moves = later;
        for (_, guest, step) in due {
            match step {
                Move::Leave => {
                    let gap = self.random.below(100_000) as u64;
                    self.leave(guest, now + gap)?;
                }
                Move::GoOn => self.go_on(guest)?,
                Move::End => crate::operator::end_migration(self, guest)?,
            }
        }
        Ok(())
    }

    /// Logs what the switch writes to a guest, until `until`.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn start_migration(&mut self, guest: usize, until: u64) -> anyhow::Result<()> {
        // What was written before is not logged, and read now.
        self.scene.drain(guest)?;
        self.end_migration(guest)?;
        let Some(nic) = &mut self.scene.guests[guest].nic else { return Ok(()) };
        nic.written = Some(Vec::new());
        let end = nic.memory.guest_base() + nic.memory.len() as u64;
        let migration = Migration::new(guest, until, end)?;
        self.set_log(guest, Some(&migration.log));
        self.migrations.push(migration);
        Ok(())
    }

    /// Ends a guest's migration, if there is one: all that it finds written since must be marked.
    ///
    /// # Errors
    ///
    /// Something is not.
    pub fn end_migration(&mut self, guest: usize) -> anyhow::Result<()> {
        let Some(at) = self.migrations.iter().position(|migration| migration.guest == guest) else {
            return Ok(());
        };
        let migration = self.migrations.swap_remove(at);
        self.scene.drain(guest)?;
        self.set_log(guest, None);
        let written = self.scene.guests[guest].nic.as_mut().and_then(|nic| nic.written.take());
        if !self.scene.lies(guest) {
            migration.check(&written.unwrap_or_default())?;
        }
        Ok(())
    }

    /// A guest stops on the host that it moves from; it goes on at `at` on the one that it moves to.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn leave(&mut self, guest: usize, at: u64) -> anyhow::Result<()> {
        let plug = &self.scene.plugs[guest];
        let (Some(index), Some(_), host) = (plug.port, plug.other, plug.host) else { return Ok(()) };
        self.unplug(guest)?;
        let uptime = self.uptime();
        self.hosts[host].services.set_running(index, false, uptime);
        self.moves.push((at, guest, Move::GoOn));
        Ok(())
    }

    /// A guest that left a host goes on on the other, with its stack as it was; if it is not to move any more, where it was.
    pub(super) fn go_on(&mut self, guest: usize) -> anyhow::Result<()> {
        let plug = &mut self.scene.plugs[guest];
        let Some(index) = plug.port else { return Ok(()) };
        let mut place = (plug.host, index);
        if let Some(other) = plug.other.replace(place) {
            place = other;
            self.scene.stats.edge("guest goes on on another host", 1);
            // Some hear of it later.
            let (old, hosts) = (plug.host, self.hosts.len());
            let third = (0..hosts).find(|host| *host != old && *host != place.0);
            // Mostly one that has to be told by who was left.
            let deaf = third.filter(|_| self.random.chance(700));
            let deaf = deaf.unwrap_or_else(|| self.random.below(hosts));
            self.hosts[deaf].busy_until = self.scene.now + self.random.below(2_000_000) as u64;
        } else {
            plug.other = None;
        }
        let home = self.hosts[place.0].control.home(place.1).unwrap_or(0);
        self.unplug(guest)?;
        let plug = &mut self.scene.plugs[guest];
        (plug.host, plug.port, plug.home) = (place.0, Some(place.1), place.0 * self.options.workers + home);
        self.scene.network.change(guest, |port| port.host = place.0);
        self.scene.policies.reopened(self.scene.now);
        self.scene.ledger.moved();
        let stack = self.scene.guests[guest].stack.take();
        self.restart(guest, true)?;
        if stack.is_some() {
            self.scene.guests[guest].stack = stack;
        }
        self.begins(place.0, place.1)
    }

    pub(super) fn set_log(&self, guest: usize, log: Option<&Arc<DirtyLog>>) {
        let Some(index) = self.scene.plugs[guest].port else { return };
        let host = self.scene.plugs[guest].host;
        for pair in 0..self.options.guests[guest].nic.pairs {
            self.hosts[host].control.with_rx(index, pair, |queue| {
                if let Some(queue) = (queue as &mut dyn Any).downcast_mut::<SimRx>() {
                    queue.real.set_dirty_log(log.cloned());
                }
            });
            if self.mischief.is(Plant::ForgetLog) && pair + 1 == self.options.guests[guest].nic.pairs {
                continue;
            }
            self.hosts[host].control.with_tx(index, pair, |queue| {
                if let Some(queue) = (queue as &mut dyn Any).downcast_mut::<SimTx>() {
                    queue.real.set_dirty_log(log.cloned());
                }
            });
        }
    }
}
