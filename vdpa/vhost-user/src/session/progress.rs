//! How a message makes its way: handled, made to wait for workers and mappings, answered; and which queues run then.

use std::os::fd::OwnedFd;

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::FrontendReq;

use super::queue::{Kick, Run};
use super::{CloseReason, Event, InflightStart, LogRegion, Negotiated, Phase, Region, Session, state};
use crate::features::VHOST_F_LOG_ALL;
use crate::message::{Message, Outgoing, reply};
use crate::refusal::{Decision, Refusal};

/// How a handled message goes on.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Done; acknowledge if asked to.
    Done,
    /// Done; this is the answer.
    Reply(Vec<u8>, Vec<OwnedFd>),
    /// Stop one queue or all, then go on.
    Quiesce(Option<u16>, Then),
    /// Have the owner map these regions, then go on.
    Map(Vec<Region>),
    /// Have the owner map (or drop) the log, then go on.
    Log,
}

/// What to do when the queues asked for have stopped.
#[derive(Debug)]
pub(super) enum Then {
    Done,
    ReplyBase(u16),
    Features(u64),
    Memory(Vec<Region>),
    Log(LogRegion),
    Kick(u16, Kick),
    ResetDevice,
    ResetOwner,
    ResetStatus,
    Freeze,
    Close(CloseReason),
}

/// The message being answered.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) request: FrontendReq,
    pub(super) need_reply: bool,
    /// Sent on success whether asked for or not.
    pub(super) success: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) enum Step {
    Stopping(Then),
    Mapping(Vec<Region>),
    Logging,
}

#[derive(Debug)]
pub(super) struct Pending {
    /// Nothing when it is not a message that is waited for.
    pub(super) ticket: Option<Ticket>,
    pub(super) step: Step,
}

impl Session {
    pub(super) fn pump(&mut self) {
        while self.pending.is_none() && self.phase == Phase::Open {
            let Some(message) = self.backlog.pop_front() else { break };
            self.dispatch(message);
        }
    }

    pub(super) fn dispatch(&mut self, message: Message) {
        let request = message.request;
        let mut ticket = Ticket { request, need_reply: message.need_reply, success: None };
        // The acknowledgement of SET_PROTOCOL_FEATURES may already use what it negotiates.
        if message.need_reply && request != FrontendReq::SET_PROTOCOL_FEATURES && !self.has(Self::REPLY_ACK) {
            self.refused(Refusal::NeedReply);
            self.close(CloseReason::Refused(Refusal::NeedReply));
            return;
        }
        if request == FrontendReq::SET_LOG_BASE && self.has(VhostUserProtocolFeatures::LOG_SHMFD) {
            // Front ends wait for a reply whether they asked or not; one of them reads the log's geometry from it.
            ticket.success = Some(message.payload.clone());
        }
        let outcome = self.handle(message);
        self.complete(Some(ticket), outcome);
    }

    pub(super) const REPLY_ACK: VhostUserProtocolFeatures = VhostUserProtocolFeatures::REPLY_ACK;

    pub(super) fn has(&self, feature: VhostUserProtocolFeatures) -> bool {
        self.front.protocol.0.contains(feature)
    }

    pub(super) fn require(&self, feature: VhostUserProtocolFeatures) -> Result<(), Refusal> {
        if self.has(feature) { Ok(()) } else { Err(Refusal::NotNegotiated) }
    }

    pub(super) fn handle(&mut self, message: Message) -> Result<Outcome, Refusal> {
        use FrontendReq as R;
        match message.request {
            R::GET_FEATURES => Ok(Outcome::u64(self.config.features)),
            R::SET_FEATURES => self.set_features(&message),
            R::GET_PROTOCOL_FEATURES => Ok(Outcome::u64(self.config.protocol.bits())),
            R::SET_PROTOCOL_FEATURES => self.set_protocol_features(&message),
            R::SET_OWNER => self.set_owner(),
            R::RESET_OWNER => Ok(Outcome::Quiesce(None, Then::ResetOwner)),
            R::RESET_DEVICE => self.reset_device(),
            R::GET_QUEUE_NUM => self.get_queue_num(),
            R::SET_STATUS => self.set_status(&message),
            R::GET_STATUS => self.get_status(),
            R::SET_BACKEND_REQ_FD => self.set_channel(message),
            R::SET_MEM_TABLE => self.set_mem_table(message),
            R::GET_MAX_MEM_SLOTS => self.get_max_mem_slots(),
            R::ADD_MEM_REG => self.add_mem_reg(message),
            R::REM_MEM_REG => self.rem_mem_reg(&message),
            R::SET_VRING_NUM => self.set_vring_num(&message),
            R::SET_VRING_BASE => self.set_vring_base(&message),
            R::SET_VRING_ADDR => self.set_vring_addr(&message),
            R::SET_VRING_KICK => self.set_vring_kick(message),
            R::SET_VRING_CALL => self.set_vring_call(message),
            R::SET_VRING_ERR => self.set_vring_err(message),
            R::SET_VRING_ENABLE => self.set_vring_enable(&message),
            R::GET_VRING_BASE => self.get_vring_base(&message),
            R::SET_LOG_BASE => self.set_log_base(message),
            R::SET_LOG_FD => self.set_log_fd(message),
            R::GET_CONFIG => self.get_config(&message),
            R::SET_CONFIG => self.set_config(&message),
            R::NET_SET_MTU => self.net_set_mtu(&message),
            R::SEND_RARP => self.send_rarp(&message),
            R::GET_INFLIGHT_FD => self.get_inflight_fd(&message),
            R::SET_INFLIGHT_FD => self.set_inflight_fd(message),
            R::SET_DEVICE_STATE_FD => self.set_device_state_fd(message),
            R::CHECK_DEVICE_STATE => self.check_device_state(),
            R::IOTLB_MSG => Err(Refusal::Iotlb),
            R::POSTCOPY_ADVISE | R::POSTCOPY_LISTEN | R::POSTCOPY_END => Err(Refusal::Postcopy),
            R::SET_VRING_ENDIAN
            | R::CREATE_CRYPTO_SESSION
            | R::CLOSE_CRYPTO_SESSION
            | R::GPU_SET_SOCKET
            | R::VRING_KICK
            | R::GET_SHARED_OBJECT
            | R::GET_SHMEM_CONFIG => Err(Refusal::NotOffered),
        }
    }

    /// Carries an outcome as far as it goes: to a reply, or to the next acknowledgement that it needs.
    pub(super) fn complete(&mut self, ticket: Option<Ticket>, outcome: Result<Outcome, Refusal>) {
        match outcome {
            Ok(Outcome::Done) => {
                if let Some(ticket) = ticket {
                    self.acknowledge(ticket);
                }
                self.evaluate();
            }
            Ok(Outcome::Reply(payload, fds)) => {
                if let Some(ticket) = ticket {
                    self.replies.push_back(reply(ticket.request, &payload, fds));
                }
                self.evaluate();
            }
            Ok(Outcome::Quiesce(which, then)) => {
                self.ask_to_stop(which);
                self.pending = Some(Pending { ticket, step: Step::Stopping(then) });
                self.advance();
            }
            Ok(Outcome::Map(regions)) => {
                self.events.push_back(Event::MapMemory { regions: regions.clone() });
                self.pending = Some(Pending { ticket, step: Step::Mapping(regions) });
            }
            Ok(Outcome::Log) => {
                self.logging = self.log_wanted();
                let log = if self.logging { self.front.log.clone() } else { None };
                self.events.push_back(Event::LogChanged { log });
                self.pending = Some(Pending { ticket, step: Step::Logging });
            }
            Err(refusal) => self.refuse(ticket, refusal),
        }
    }

    /// Goes on with what waits for queues to stop, once they all have.
    pub(super) fn advance(&mut self) {
        if self.front.queues.iter().any(|queue| queue.run == Run::Stopping) {
            return;
        }
        match self.pending.take() {
            Some(Pending { ticket, step: Step::Stopping(then) }) => {
                let outcome = self.resume(then);
                self.complete(ticket, outcome);
                self.pump();
            }
            other => self.pending = other,
        }
    }

    pub(super) fn resume(&mut self, then: Then) -> Result<Outcome, Refusal> {
        match then {
            Then::Done => Ok(Outcome::Done),
            Then::ReplyBase(index) => Ok(self.reply_base(index)),
            Then::Features(features) => Ok(self.apply_features(features)),
            Then::Memory(regions) => Ok(Outcome::Map(regions)),
            Then::Log(log) => Ok(self.apply_log(log)),
            Then::Kick(index, kick) => self.apply_kick(index, kick),
            Then::ResetDevice => Ok(self.apply_reset_device()),
            Then::ResetOwner => Ok(self.apply_reset_owner()),
            Then::ResetStatus => Ok(self.apply_reset_status()),
            Then::Freeze => {
                self.phase = Phase::Frozen;
                self.events.push_back(Event::Frozen);
                Ok(Outcome::Done)
            }
            Then::Close(reason) => {
                self.phase = Phase::Closed;
                self.front = Negotiated::default();
                self.transfer = state::Transfer::default();
                self.events.push_back(Event::Closed { reason });
                Ok(Outcome::Done)
            }
        }
    }

    pub(super) fn ask_to_stop(&mut self, which: Option<u16>) {
        for (index, queue) in (0u16..).zip(self.front.queues.iter_mut()) {
            if queue.run == Run::Active && which.is_none_or(|only| only == index) {
                queue.run = Run::Stopping;
                self.events.push_back(Event::StopQueue { index });
            }
        }
    }

    pub(super) fn any_active(&self) -> bool {
        self.front.queues.iter().any(|queue| matches!(queue.run, Run::Active | Run::Stopping))
    }

    pub(super) fn log_wanted(&self) -> bool {
        self.front.log.is_some() && self.front.features.is_some_and(|f| f & VHOST_F_LOG_ALL != 0)
    }

    pub(super) fn acknowledge(&mut self, ticket: Ticket) {
        if let Some(payload) = ticket.success {
            self.replies.push_back(reply(ticket.request, &payload, Vec::new()));
        } else if ticket.need_reply && self.has(Self::REPLY_ACK) {
            self.replies.push_back(reply(ticket.request, &0u64.to_ne_bytes(), Vec::new()));
        }
    }

    pub(super) fn refused(&mut self, refusal: Refusal) {
        self.refusals.count(refusal);
        self.events.push_back(Event::Refused(refusal));
    }

    /// Counts, and does what the refusal's decision says.
    pub(super) fn refuse(&mut self, ticket: Option<Ticket>, refusal: Refusal) {
        self.refused(refusal);
        let nack = ticket.and_then(|ticket| self.nack(&ticket));
        match (refusal.decision(), nack) {
            (Decision::NackOrClose | Decision::NackOrIgnore, Some(nack)) => self.replies.push_back(nack),
            (Decision::NackOrIgnore, None) => {}
            (Decision::Close | Decision::NackOrClose, _) => {
                self.close(CloseReason::Refused(refusal));
                return;
            }
        }
        self.evaluate();
    }

    /// A reply that says no, where the message has one.
    pub(super) fn nack(&self, ticket: &Ticket) -> Option<Outgoing> {
        use FrontendReq as R;
        let payload: Vec<u8> = match ticket.request {
            R::GET_CONFIG => vec![0; 12],
            R::SET_DEVICE_STATE_FD => (crate::message::NO_DESCRIPTOR | 1).to_ne_bytes().to_vec(),
            R::CHECK_DEVICE_STATE => 1u64.to_ne_bytes().to_vec(),
            // Their reply is a value: there is none that says no.
            R::GET_FEATURES
            | R::GET_PROTOCOL_FEATURES
            | R::GET_QUEUE_NUM
            | R::GET_MAX_MEM_SLOTS
            | R::GET_STATUS
            | R::GET_VRING_BASE
            | R::GET_INFLIGHT_FD
            | R::GET_SHARED_OBJECT
            | R::GET_SHMEM_CONFIG
            | R::POSTCOPY_ADVISE => return None,
            _ if ticket.need_reply && self.has(Self::REPLY_ACK) => 1u64.to_ne_bytes().to_vec(),
            _ => return None,
        };
        Some(reply(ticket.request, &payload, Vec::new()))
    }

    /// Starts every queue that can run.
    pub(super) fn evaluate(&mut self) {
        if self.pending.is_some() || self.phase != Phase::Open {
            return;
        }
        let Some(features) = self.front.features else { return };
        if !self.front.owner || !self.mapped {
            return;
        }
        for index in 0..self.front.queues.len() {
            let Some(queue) = self.front.queues.get_mut(index) else { break };
            match queue.ready(features, &self.front.regions) {
                Ok(false) => {}
                Ok(true) => {
                    queue.run = Run::Active;
                    let resume = !std::mem::replace(&mut queue.ran, true);
                    if let Some(mut start) = queue.start(index, features) {
                        let region = self.front.inflight.as_ref().filter(|_| start.is_packed());
                        start.inflight = region.and_then(|region| {
                            let offset = region.packed_part(start.index)?;
                            Some(InflightStart { region: region.clone(), offset, resume })
                        });
                        self.events.push_back(Event::QueueReady(Box::new(start)));
                    }
                }
                Err(refusal) => {
                    // Judged again when its addresses, its size or the memory change.
                    queue.judged = true;
                    self.refused(refusal);
                }
            }
        }
    }
}
impl Outcome {
    pub(super) fn u64(value: u64) -> Self {
        Self::Reply(value.to_ne_bytes().to_vec(), Vec::new())
    }
}
