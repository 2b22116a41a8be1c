//! Guests that attach by a vhost-user handshake, whole or broken off.

use super::queues::regions;
use super::{Attached, World};
use crate::check::Violation;
use crate::frontend::{Call, FrontEnd, Message, break_rule, handshake};
use crate::guest::hostile::Case;
use crate::queues::{SimRx, SimTx};
use engine::PortIndex;
use guest_mem::RegionSpec;
use ports::vhost::{NetFeatures, VhostRx, VhostTx};
use std::sync::Arc;
use vhost_user::{DeviceEvent, ReadyQueue, SessionConfig};
use virtqueue::Counter;

impl World {
    pub(super) fn session_config(&self, guest: usize) -> SessionConfig {
        let port = &self.scene.network.ports[guest];
        SessionConfig::new(u64::MAX, self.options.guests[guest].nic.pairs, Some(port.station.mac), 1500)
    }

    pub(super) fn attach_by_handshake(&mut self, guest: usize, specs: Vec<RegionSpec>) -> anyhow::Result<()> {
        let config = self.session_config(guest);
        let mut front = FrontEnd::connect(config.clone())?;
        let Some(nic) = &self.scene.guests[guest].nic else { return Ok(()) };
        let messages = handshake(nic, specs, &config)?;
        self.scene.plug_in(guest, Vec::new());
        for message in &messages {
            front.send(message, usize::MAX)?;
            self.hear(guest, &mut front)?;
        }
        let running = self.scene.plugs[guest].interrupts.len();
        let pairs = usize::from(self.options.guests[guest].nic.pairs);
        if running != pairs {
            let what = format!("guest {guest}: {running} of {pairs} receive queues run after the handshake");
            return Err(Violation::new("handshake", what).into());
        }
        self.scene.stats.edge("handshakes", 1);
        self.attached[guest] =
            Some(Attached { memory: Arc::clone(front.device.memory()), front: Some(front) });
        Ok(())
    }

    /// Does what the device of a session says; `true` when the session is over.
    pub(super) fn hear(&mut self, guest: usize, front: &mut FrontEnd) -> anyhow::Result<bool> {
        let Some(index) = self.scene.plugs[guest].port else { return Ok(true) };
        let mut over = false;
        while let Some(event) = front.next_event(self.scene.now) {
            match event {
                DeviceEvent::QueueReady(ready) => self.start_queue(guest, index, *ready),
                DeviceEvent::StopQueue { index: queue } => {
                    let base = self.stop_queue(guest, index, queue);
                    front.device.queue_stopped(queue, base.unwrap_or(0));
                }
                DeviceEvent::Closed { .. } => over = true,
                DeviceEvent::Refused { .. } if front.breaks_rules => {
                    self.scene.stats.edge("refused by a session", 1);
                }
                DeviceEvent::Refused { refusal, detail } => {
                    let what = format!("guest {guest}: {refusal} {}", detail.unwrap_or_default());
                    return Err(Violation::new("handshake", what).into());
                }
                _ => {}
            }
        }
        Ok(over)
    }

    /// A front end that breaks the rule of `case`: none of its queues may run. The guest is not attached.
    ///
    /// # Errors
    ///
    /// One does.
    pub fn break_handshake(&mut self, guest: usize, case: Case) -> anyhow::Result<()> {
        let Some((mut front, mut messages)) = self.call_on(guest)? else { return Ok(()) };
        front.breaks_rules = true;
        break_rule(&mut messages, case)?;
        let mut over = false;
        for message in &messages {
            if !over {
                front.send(message, usize::MAX)?;
                over = self.hear(guest, &mut front)?;
            }
        }
        if !self.scene.plugs[guest].interrupts.is_empty() || self.has_queue(guest) {
            let what = format!("guest {guest}: {}: a queue runs", case.name());
            return Err(Violation::new("handshake", what).into());
        }
        self.scene.stats.case(case);
        self.abandon(guest, front, over)
    }

    /// A new session with a guest's VMM, and all that it is going to say.
    /// Nothing if its driver is off.
    fn call_on(&self, guest: usize) -> anyhow::Result<Option<(FrontEnd, Vec<Message>)>> {
        let Some(nic) = self.scene.guests[guest].nic.as_ref() else { return Ok(None) };
        let config = self.session_config(guest);
        let front = FrontEnd::connect(config.clone())?;
        let regions = regions(nic, self.options.guests[guest].regions)?;
        Ok(Some((front, handshake(nic, regions, &config)?)))
    }

    fn has_queue(&self, guest: usize) -> bool {
        let Some(index) = self.scene.plugs[guest].port else { return false };
        let host = self.scene.plugs[guest].host;
        (0..self.options.guests[guest].nic.pairs).any(|pair| {
            let rx = self.hosts[host].control.with_rx(index, pair, |_| ());
            rx.or(self.hosts[host].control.with_tx(index, pair, |_| ())).is_some()
        })
    }

    /// The front end goes away: the session must end, unless it is over, and leave no queue behind.
    fn abandon(&mut self, guest: usize, mut front: FrontEnd, over: bool) -> anyhow::Result<()> {
        self.gone.push(Arc::downgrade(front.device.memory()));
        front.hang_up();
        let closed = self.hear(guest, &mut front)? || over;
        self.scene.plug_in(guest, Vec::new());
        if closed && !self.has_queue(guest) {
            self.scene.drain(guest)?;
            return Ok(());
        }
        let what = format!("guest {guest}: the session goes on although its front end is gone");
        Err(Violation::new("handshake", what).into())
    }

    pub(super) fn start_queue(&mut self, guest: usize, index: PortIndex, ready: ReadyQueue) {
        let net = NetFeatures::from_bits(self.options.guests[guest].nic.features);
        let counter = Counter::default();
        let call = Arc::new(Call { counter: counter.clone(), call: ready.call });
        let pair = ready.index / 2;
        if ready.index.is_multiple_of(2) {
            let queue = SimTx::new(VhostTx::new(ready.ring, net, call), guest, &self.mischief);
            self.control_of(guest).attach_tx(index, pair, Box::new(queue));
            let mut interrupts = std::mem::take(&mut self.scene.plugs[guest].interrupts);
            interrupts.push(counter);
            self.scene.plug_in(guest, interrupts);
        } else {
            let queue = VhostRx::new(ready.ring, net, call);
            let queue = SimRx::new(queue, usize::from(pair), &self.scene.polled, &self.mischief);
            self.control_of(guest).attach_rx(index, pair, Box::new(queue));
        }
    }

    /// A front end that goes away after any number of bytes.
    ///
    /// # Errors
    ///
    /// The session does not end.
    pub fn break_off_handshake(&mut self, guest: usize) -> anyhow::Result<()> {
        let cut = self.random.below(8192);
        self.break_off_after(guest, |total| cut % total).map(drop)
    }

    /// A front end that goes away after `cut` bytes, which may depend on how many a handshake has; that many. The guest is not attached.
    ///
    /// # Errors
    ///
    /// The session does not end, or leaves a queue behind.
    pub fn break_off_after(
        &mut self,
        guest: usize,
        cut: impl FnOnce(usize) -> usize,
    ) -> anyhow::Result<usize> {
        let Some((mut front, messages)) = self.call_on(guest)? else { return Ok(0) };
        let total: usize = messages.iter().map(Message::len).sum();
        let mut left = cut(total);
        for message in &messages {
            front.send(message, left)?;
            self.hear(guest, &mut front)?;
            left = left.saturating_sub(message.len());
        }
        self.abandon(guest, front, false)?;
        Ok(total)
    }
}
