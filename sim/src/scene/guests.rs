//! Turns of guests, and what is booked of them.

use super::Scene;
use crate::check::{Checked, Violation, secrets};
use crate::guest::actor::Acted;
use crate::guest::nic::NicError;
use virtio_driver::Gso;

fn driver_error(guest: usize, error: &NicError) -> Violation {
    let checker = if matches!(error, NicError::Written { .. }) { "memory" } else { "driver" };
    Violation::new(checker, format!("guest {guest}: {error}"))
}

impl Scene {
    /// A guest's turn.
    ///
    /// # Errors
    ///
    /// A checker found something.
    pub fn guest_turn(&mut self, guest: usize) -> Checked {
        self.stats.steps += 1;
        self.plugs[guest].interrupted = false;
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
                (Gso::None, false) => "delivery > guest, whole",
                (Gso::None, true) => "delivery > guest, checksum left",
                _ => "delivery > guest, to be cut",
            };
            self.stats.edge(edge, 1);
            if self.ledger.arrived(guest, packet, &self.network)? {
                self.stats.edge("delivery > guest, cut", 1);
            }
            self.check_rules(guest, &packet.bytes)?;
            for edge in self.ledger.services.edges.drain(..) {
                self.stats.edge(edge, 1);
            }
        }
        acted.attacks.iter().for_each(|case| self.stats.case(*case));
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

    /// Compares what a guest got with what rules said since it was sent.
    fn check_rules(&mut self, to: usize, bytes: &[u8]) -> Checked {
        let Some(sent) = self.ledger.accepted.take().and_then(|at| self.ledger.first_of(at)) else {
            return Ok(());
        };
        // What the switch itself answers is under no rules.
        if sent.guest >= self.guests.len() + self.network.hosts.len() {
            return Ok(());
        }
        let from = (sent.guest < self.guests.len()).then_some(sent.guest);
        self.policies.delivered(&self.network, (from, to), sent.epoch, bytes)
    }

    pub(super) fn kick(&mut self, guest: usize) {
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
            secrets::check(guest, &self.ledger.revealed, &nic.memory)?;
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
}
