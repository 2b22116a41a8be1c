//! Ownership, features, protocol features, status and resets.

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::{Event, Outcome, Session, Then, descriptor};
use crate::features::VHOST_F_LOG_ALL;
use crate::message::{Message, Reader};
use crate::refusal::Refusal;

impl Session {
    /// SET_OWNER. Said again by some front ends; once is as good as twice.
    pub(super) fn set_owner(&mut self) -> Result<Outcome, Refusal> {
        self.front.owner = true;
        Ok(Outcome::Done)
    }

    /// SET_FEATURES: a subset of what is offered. While a queue runs only LOG_ALL may change (V-10); QEMU sends the same
    /// bits again for every queue pair.
    pub(super) fn set_features(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let features = Reader(&message.payload).u64()?;
        if features & !self.config.features != 0 {
            return Err(Refusal::FeaturesNotOffered);
        }
        let changed = self.front.features.unwrap_or(0) ^ features;
        if self.any_active() {
            if changed & !VHOST_F_LOG_ALL != 0 {
                return Err(Refusal::FeaturesWhileRunning);
            }
            if changed == 0 {
                return Ok(Outcome::Done);
            }
            return Ok(Outcome::Quiesce(None, Then::Features(features)));
        }
        Ok(self.apply_features(features))
    }

    pub(super) fn apply_features(&mut self, features: u64) -> Outcome {
        self.front.features = Some(features);
        for queue in &mut self.front.queues {
            queue.judged = false;
        }
        if let Some(features) = self.features() {
            self.events.push_back(Event::FeaturesSettled { features, protocol: self.front.protocol.0 });
        }
        if self.log_wanted() == self.logging { Outcome::Done } else { Outcome::Log }
    }

    /// SET_PROTOCOL_FEATURES: a subset of what is offered.
    pub(super) fn set_protocol_features(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let bits = Reader(&message.payload).u64()?;
        let features =
            VhostUserProtocolFeatures::from_bits(bits).ok_or(Refusal::ProtocolFeaturesNotOffered)?;
        if !self.config.protocol.contains(features) {
            return Err(Refusal::ProtocolFeaturesNotOffered);
        }
        if self.any_active() && features != self.front.protocol.0 {
            return Err(Refusal::ProtocolFeaturesWhileRunning);
        }
        self.front.protocol.0 = features;
        if message.need_reply && !self.has(Self::REPLY_ACK) {
            return Err(Refusal::NeedReply);
        }
        Ok(Outcome::Done)
    }

    /// GET_QUEUE_NUM. QEMU and DPDK compare it with queue pairs, Cloud Hypervisor and the `vhost` crate with queues; at
    /// least 2, so that the latter can use the one pair there always is. An index beyond what is offered is refused by
    /// itself.
    pub(super) fn get_queue_num(&mut self) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::MQ)?;
        Ok(Outcome::u64(u64::from(self.config.max_queue_pairs.max(2))))
    }

    /// SET_STATUS (virtio 1.2, 2.1). 0 resets the device: its queues stop.
    pub(super) fn set_status(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::STATUS)?;
        let status = u8::try_from(Reader(&message.payload).u64()?).map_err(|_| Refusal::StatusValue)?;
        if status == 0 {
            return Ok(Outcome::Quiesce(None, Then::ResetStatus));
        }
        self.put_status(status);
        Ok(Outcome::Done)
    }

    fn put_status(&mut self, status: u8) {
        if self.front.status != status {
            self.front.status = status;
            self.events.push_back(Event::Status { status });
        }
    }

    /// GET_STATUS: the last SET_STATUS, and NEEDS_RESET when a ring broke.
    pub(super) fn get_status(&mut self) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::STATUS)?;
        Ok(Outcome::u64(u64::from(self.front.status)))
    }

    /// RESET_DEVICE: rings and features back to the beginning; owner, protocol features and memory stay.
    pub(super) fn reset_device(&mut self) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::RESET_DEVICE)?;
        Ok(Outcome::Quiesce(None, Then::ResetDevice))
    }

    pub(super) fn apply_reset_device(&mut self) -> Outcome {
        self.front.queues.clear();
        self.front.features = None;
        self.front.inflight = None;
        self.put_status(0);
        if self.logging { Outcome::Log } else { Outcome::Done }
    }

    /// RESET_OWNER, which the specification deprecates and suggests to take as "disable all rings".
    pub(super) fn apply_reset_owner(&mut self) -> Outcome {
        for queue in &mut self.front.queues {
            queue.stop();
            queue.enabled = false;
        }
        Outcome::Done
    }

    /// Status 0: the driver let the device go (virtio 1.2, 2.4). Rings stop. Where they stopped is kept: QEMU resets the
    /// status before it asks for the bases, and a migration needs them. Notifications and whether rings are enabled are
    /// the front end's and stay as well.
    pub(super) fn apply_reset_status(&mut self) -> Outcome {
        for queue in &mut self.front.queues {
            queue.stop();
        }
        self.put_status(0);
        Outcome::Done
    }

    /// SET_BACKEND_REQ_FD: the stream on which we tell of configuration changes.
    pub(super) fn set_channel(&mut self, message: Message) -> Result<Outcome, Refusal> {
        self.require(VhostUserProtocolFeatures::BACKEND_REQ)?;
        let fd = message.fds.into_iter().next().ok_or(Refusal::DescriptorCount)?;
        let fd = descriptor::socket(fd).ok_or(Refusal::RequestChannel)?;
        self.front.channel = Some(fd);
        self.channel_out.clear();
        Ok(Outcome::Done)
    }
}
