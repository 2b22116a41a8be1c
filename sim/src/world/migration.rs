//! Guests that are migrated: what the switch writes is logged.

use super::World;
use crate::check::dirty::Migration;
use crate::plant::Plant;
use crate::queues::{SimRx, SimTx};
use guest_mem::DirtyLog;
use std::any::Any;
use std::sync::Arc;

impl World {
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
