//! Queue settings: SET_VRING_NUM, BASE, ADDR, KICK, CALL, ERR, ENABLE and GET_VRING_BASE.
//!
//! They are recorded in any order and before or after features and memory (DPDK's virtio-user sets call descriptors
//! before features, QEMU enables before features): whether a queue can run is judged afterwards.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::message::{VhostUserVringAddrFlags, VhostUserVringState};

use super::queue::{Addresses, Kick, MAX_QUEUE_SIZE, QueueState, Run};
use super::{Event, Outcome, Session, Then, descriptor};
use crate::features::VIRTIO_F_RING_PACKED;
use crate::message::{Message, NO_DESCRIPTOR, Reader, VRING_INDEX_MASK};
use crate::refusal::Refusal;

impl Session {
    /// The queue of an index that a message names, made at its first mention. Below the offered number only (V-06).
    fn queue(&mut self, index: u32) -> Result<(u16, &mut QueueState), Refusal> {
        let index =
            u16::try_from(index).ok().filter(|i| *i < self.config.max_queues()).ok_or(Refusal::QueueIndex)?;
        let place = usize::from(index);
        if self.front.queues.len() <= place {
            self.front.queues.resize_with(place.saturating_add(1), QueueState::default);
        }
        self.front.queues.get_mut(place).map(|queue| (index, queue)).ok_or(Refusal::QueueIndex)
    }

    fn vring_state(message: &Message) -> Result<(u32, u32), Refusal> {
        let VhostUserVringState { index, num } = Reader(&message.payload).vring_state()?;
        Ok((index, num))
    }

    fn is_packed(&self) -> bool {
        self.front.features.is_some_and(|features| features & VIRTIO_F_RING_PACKED != 0)
    }

    /// SET_VRING_NUM: 1 to 32,768; a power of two unless the ring is packed (V-05), and not above the in-flight region's
    /// queue size (V-27).
    pub(super) fn set_vring_num(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let (index, num) = Self::vring_state(message)?;
        let size = u16::try_from(num).ok().filter(|_| num != 0 && num <= MAX_QUEUE_SIZE);
        let size = size.ok_or(Refusal::QueueSize)?;
        // Before SET_FEATURES the layout is unknown: judged when the queue starts.
        if self.front.features.is_some() && !self.is_packed() && !size.is_power_of_two() {
            return Err(Refusal::QueueSize);
        }
        if self.front.inflight.as_ref().is_some_and(|inflight| size > inflight.queue_size) {
            return Err(Refusal::InflightGeometry);
        }
        let (_, queue) = self.queue(index)?;
        if queue.run == Run::Active && queue.size != Some(size) {
            return Err(Refusal::QueueRunning);
        }
        queue.size = Some(size);
        queue.judged = false;
        Ok(Outcome::Done)
    }

    /// SET_VRING_BASE: where to go on. A split ring has a 16-bit index; a packed one index and wrap counter of both sides.
    pub(super) fn set_vring_base(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let (index, base) = Self::vring_state(message)?;
        if self.front.features.is_some() && !self.is_packed() && base > u32::from(u16::MAX) {
            return Err(Refusal::QueueValue);
        }
        let (_, queue) = self.queue(index)?;
        if queue.run == Run::Active {
            return Err(Refusal::QueueRunning);
        }
        queue.base = Some(base);
        Ok(Outcome::Done)
    }

    /// SET_VRING_ADDR: where the ring's parts are. On a running queue only the dirty log's part may change.
    pub(super) fn set_vring_addr(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let addr = Reader(&message.payload).vring_addr()?;
        let flags = VhostUserVringAddrFlags::from_bits(addr.flags).ok_or(Refusal::QueueValue)?;
        let log = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG).then_some(addr.log);
        let addresses =
            Addresses { descriptor: addr.descriptor, driver: addr.available, device: addr.used, log };
        if addr.descriptor % 16 != 0 || addr.available % 2 != 0 || addr.used % 4 != 0 {
            return Err(Refusal::RingUnaligned);
        }
        let (_, queue) = self.queue(addr.index)?;
        if queue.run == Run::Active && queue.addresses.map(|old| Addresses { log, ..old }) != Some(addresses)
        {
            return Err(Refusal::QueueRunning);
        }
        queue.addresses = Some(addresses);
        queue.judged = false;
        Ok(Outcome::Done)
    }

    /// Index and descriptor of SET_VRING_KICK, CALL and ERR.
    fn vring_descriptor(message: Message) -> Result<(u32, Option<Arc<OwnedFd>>), Refusal> {
        let value = Reader(&message.payload).u64()?;
        if value & !(VRING_INDEX_MASK | NO_DESCRIPTOR) != 0 {
            return Err(Refusal::QueueIndex);
        }
        let index = u32::try_from(value & VRING_INDEX_MASK).map_err(|_| Refusal::QueueIndex)?;
        let fd = message.fds.into_iter().next().map(descriptor::event).transpose()?;
        Ok((index, fd.map(Arc::new)))
    }

    /// SET_VRING_KICK: starts the ring. A running queue is stopped and started again with the new descriptor.
    pub(super) fn set_vring_kick(&mut self, message: Message) -> Result<Outcome, Refusal> {
        let (index, fd) = Self::vring_descriptor(message)?;
        let kick = fd.map_or(Kick::Polled, Kick::Descriptor);
        let (index, queue) = self.queue(index)?;
        if queue.run == Run::Active {
            return Ok(Outcome::Quiesce(Some(index), Then::Kick(index, kick)));
        }
        self.apply_kick(index, kick)
    }

    pub(super) fn apply_kick(&mut self, index: u16, kick: Kick) -> Result<Outcome, Refusal> {
        let (_, queue) = self.queue(u32::from(index))?;
        queue.stop();
        queue.kick = kick;
        Ok(Outcome::Done)
    }

    /// SET_VRING_CALL: how the guest is notified. May change at any time; QEMU does so when the guest masks an interrupt.
    pub(super) fn set_vring_call(&mut self, message: Message) -> Result<Outcome, Refusal> {
        let (index, call) = Self::vring_descriptor(message)?;
        let (index, queue) = self.queue(index)?;
        queue.call.clone_from(&call);
        if queue.run == Run::Active {
            self.events.push_back(Event::CallChanged { index, call });
        }
        Ok(Outcome::Done)
    }

    /// SET_VRING_ERR: how the front end hears of a broken ring.
    pub(super) fn set_vring_err(&mut self, message: Message) -> Result<Outcome, Refusal> {
        let (index, err) = Self::vring_descriptor(message)?;
        self.queue(index)?.1.err = err;
        Ok(Outcome::Done)
    }

    /// SET_VRING_ENABLE: 1 or 0. Disabling is acknowledged once the worker has let go.
    pub(super) fn set_vring_enable(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let (index, num) = Self::vring_state(message)?;
        if num > 1 {
            return Err(Refusal::QueueValue);
        }
        let (index, queue) = self.queue(index)?;
        queue.enabled = num == 1;
        if !queue.enabled && queue.run == Run::Active {
            return Ok(Outcome::Quiesce(Some(index), Then::Done));
        }
        Ok(Outcome::Done)
    }

    /// GET_VRING_BASE: stops the ring; the answer is where it really stopped (V-19), and for a queue that never ran what
    /// was set, or the initial value (V-08).
    pub(super) fn get_vring_base(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let (index, _) = Self::vring_state(message)?;
        let (index, queue) = self.queue(index)?;
        queue.stop();
        Ok(Outcome::Quiesce(Some(index), Then::ReplyBase(index)))
    }

    pub(super) fn reply_base(&mut self, index: u16) -> Outcome {
        let features = self.front.features.unwrap_or(0);
        if let Some(region) = self.front.inflight.as_ref().filter(|_| self.is_packed()) {
            region.forget(index);
        }
        let base =
            self.front.queues.get(usize::from(index)).map_or(0, |queue| queue.base_or_initial(features));
        let payload = [u32::from(index).to_ne_bytes(), base.to_ne_bytes()].concat();
        Outcome::Reply(payload, Vec::new())
    }
}
