//! The session: one front end's state, as a machine without sockets, threads or clocks.
//!
//! Messages go in ([`Session::on_message`]); events for the owner ([`Session::next_event`]), replies for the front end
//! ([`Session::next_reply`]) and requests for the back end's own channel come out. What needs a worker or a mapping is an
//! event whose acknowledgement ([`Session::queue_stopped`], [`Session::memory_mapped`], [`Session::log_mapped`]) arrives
//! some time later: until then the message stays unanswered and those behind it wait in order. A worker is thus never
//! held by a message, only asked to let a queue go between two bursts.
//!
//! A queue runs when everything it needs is there (owner, features, memory, size, addresses inside of that memory, kick,
//! enabled), in whatever order it came: this is evaluated after every message. Anything that a running queue stands on
//! (memory, dirty log, its kick descriptor) changes by stopping the queue, changing it and starting it again.
//!
//! `progress` takes a message from its arrival to its answer; beside it one file per group of messages: `negotiation`,
//! `memory`, `vring`, `log`, `config`, `inflight`, `state`.

mod config;
mod descriptor;
mod event;
mod inflight;
mod log;
mod memory;
mod negotiation;
mod offer;
mod progress;
mod queue;
mod state;
mod vring;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vhost::vhost_user::VhostUserProtocolFeatures;
use vhost::vhost_user::message::BackendReq;

use crate::features::with_dependencies;
use crate::message::{Message, Outgoing, backend_request};
use crate::refusal::{Refusal, Refusals};

pub use config::MAX_MTU;
pub use event::{CloseReason, Event, InflightStart, QueueStart};
pub use inflight::InflightRegion;
pub use log::LogRegion;
pub use memory::{MAX_MEMORY_SLOTS, Region};
pub use offer::SessionConfig;
pub use queue::{Addresses, Kick, QueueState, QueueStatus};
pub use state::{STATE_VERSION, StateBlob};

use progress::{Outcome, Pending, Step, Then};
pub(crate) use queue::Run;

/// Messages that may wait behind a pending one. A front end that waits for its replies never has more than a handful.
const MAX_BACKLOG: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// All queues stopped for good, to be taken apart.
    Frozen,
    /// Waiting for workers to let go.
    Closing,
    Closed,
}

/// What a front end has told; the half of a session that survives being taken apart.
#[derive(Debug, Default)]
pub(crate) struct Negotiated {
    pub(crate) owner: bool,
    /// As acknowledged by SET_FEATURES.
    pub(crate) features: Option<u64>,
    pub(crate) protocol: Protocol,
    pub(crate) regions: Vec<Region>,
    pub(crate) queues: Vec<QueueState>,
    pub(crate) log: Option<LogRegion>,
    pub(crate) inflight: Option<InflightRegion>,
    pub(crate) status: u8,
    pub(crate) link_down: bool,
    pub(crate) channel: Option<OwnedFd>,
}

/// Protocol features, none by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol(pub(crate) VhostUserProtocolFeatures);

impl Default for Protocol {
    fn default() -> Self {
        Self(VhostUserProtocolFeatures::empty())
    }
}

/// One front end's session. See the module's text.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    front: Negotiated,
    phase: Phase,
    /// Whether the owner has `front.regions` mapped.
    mapped: bool,
    /// Whether the owner logs into `front.log`.
    logging: bool,
    repeats: memory::Repeats,
    transfer: state::Transfer,
    pending: Option<Pending>,
    backlog: VecDeque<Message>,
    events: VecDeque<Event>,
    replies: VecDeque<Outgoing>,
    channel_out: VecDeque<Vec<u8>>,
    refusals: Refusals,
}

impl Session {
    /// A session at its beginning: nothing negotiated.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self::with(config, Negotiated::default(), Refusals::default())
    }

    pub(crate) fn with(config: SessionConfig, front: Negotiated, refusals: Refusals) -> Self {
        Self {
            config,
            front,
            phase: Phase::Open,
            mapped: false,
            logging: false,
            repeats: memory::Repeats::default(),
            transfer: state::Transfer::default(),
            pending: None,
            backlog: VecDeque::new(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            channel_out: VecDeque::new(),
            refusals,
        }
    }

    /// A session whose front end told everything earlier; the first events have its memory mapped and its queues started.
    pub(crate) fn restored(config: SessionConfig, front: Negotiated, refusals: Refusals) -> Self {
        let mut session = Self::with(config, front, refusals);
        if let Some(features) = session.features() {
            session.events.push_back(Event::FeaturesSettled { features, protocol: session.front.protocol.0 });
        }
        if session.front.regions.is_empty() {
            session.complete(None, Ok(Outcome::Done));
        } else {
            let regions = session.front.regions.clone();
            session.complete(None, Ok(Outcome::Map(regions)));
        }
        session
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.phase == Phase::Frozen
    }

    pub(crate) fn take(&mut self) -> (SessionConfig, Negotiated, Refusals) {
        let config = self.config.clone();
        (config, std::mem::take(&mut self.front), std::mem::take(&mut self.refusals))
    }

    /// Takes a whole message. Its effects are in the events and replies afterwards, or after an acknowledgement.
    pub fn on_message(&mut self, message: Message) {
        if self.phase != Phase::Open {
            return;
        }
        if self.backlog.len() >= MAX_BACKLOG {
            self.refused(Refusal::Backlog);
            self.close(CloseReason::Refused(Refusal::Backlog));
            return;
        }
        self.backlog.push_back(message);
        self.pump();
    }

    /// The stream was refused (by the decoder), or something else about the connection: counts it and closes.
    pub fn on_refusal(&mut self, refusal: Refusal) {
        if self.phase == Phase::Open {
            self.refused(refusal);
            self.close(CloseReason::Refused(refusal));
        }
    }

    /// Ends the session: running queues are stopped, then [`Event::Closed`] follows.
    pub fn close(&mut self, reason: CloseReason) {
        if !matches!(self.phase, Phase::Open | Phase::Frozen) {
            return;
        }
        self.phase = Phase::Closing;
        self.backlog.clear();
        self.replies.retain(|_| matches!(reason, CloseReason::Refused(_)));
        self.channel_out.clear();
        self.pending = None;
        self.complete(None, Ok(Outcome::Quiesce(None, Then::Close(reason))));
    }

    /// Stops all queues so that the session can be taken apart ([`Event::Frozen`], then [`Session::into_parts`]).
    /// Messages wait meanwhile. Call it when no message is pending ([`Session::is_waiting`]).
    pub fn freeze(&mut self) {
        if self.phase == Phase::Open && self.pending.is_none() {
            self.complete(None, Ok(Outcome::Quiesce(None, Then::Freeze)));
        }
    }

    /// The next thing for the owner.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next thing to send to the front end.
    pub fn next_reply(&mut self) -> Option<Outgoing> {
        self.replies.pop_front()
    }

    /// The next request to write to [`Session::channel`].
    pub fn next_request(&mut self) -> Option<Vec<u8>> {
        self.channel_out.pop_front()
    }

    /// The back end's own request channel, when the front end gave one. Non-blocking.
    #[must_use]
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.front.channel.as_ref().map(AsFd::as_fd)
    }

    /// Drops the request channel: its other end is gone.
    pub fn drop_channel(&mut self) {
        self.front.channel = None;
        self.channel_out.clear();
    }

    /// Whether a message is waiting for an acknowledgement: whoever reads the socket pauses, so that what a front end can
    /// make us hold is bounded.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether [`Event::Closed`] was given out or is about to be.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether no further message is taken: closing, closed, or frozen.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Acknowledged features, closed under their dependencies.
    #[must_use]
    pub fn features(&self) -> Option<u64> {
        self.front.features.map(with_dependencies)
    }

    /// Negotiated protocol features.
    #[must_use]
    pub fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.front.protocol.0
    }

    /// What this port offers.
    #[must_use]
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// Device status as the front end last set it.
    #[must_use]
    pub fn status(&self) -> u8 {
        self.front.status
    }

    /// Regions in force or being mapped.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.front.regions
    }

    /// Queues the front end has spoken of, by index.
    pub fn queues(&self) -> impl Iterator<Item = QueueStatus> + '_ {
        self.front.queues.iter().enumerate().map(|(index, queue)| queue.status(index))
    }

    /// What was refused so far.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The worker has let go of a queue, having consumed up to `base` (SET_VRING_BASE encoding).
    pub fn queue_stopped(&mut self, index: u16, base: u32) {
        if let Some(queue) = self.front.queues.get_mut(usize::from(index))
            && queue.run == Run::Stopping
        {
            queue.run = Run::Idle;
            queue.base = Some(base);
            self.advance();
        }
    }

    /// The worker has stopped a queue by itself because its ring is broken. It stays stopped until the front end sets it
    /// up anew; the front end is told by its error descriptor and by NEEDS_RESET in the status.
    pub fn queue_broken(&mut self, index: u16, base: u32) {
        let Some(queue) = self.front.queues.get_mut(usize::from(index)) else { return };
        match queue.run {
            Run::Stopping => self.queue_stopped(index, base),
            Run::Active => {
                queue.run = Run::Broken;
                queue.base = Some(base);
                queue.signal_error();
                if self.front.status != 0 {
                    self.front.status |= config::NEEDS_RESET;
                }
            }
            Run::Idle | Run::Broken => {}
        }
    }

    /// The owner could not build the ring of a queue it was told to start. Counted; the queue stays stopped until the
    /// front end sets it up anew.
    pub fn queue_refused(&mut self, index: u16, refusal: Refusal) {
        let base = self.front.queues.get(usize::from(index)).and_then(|queue| queue.base).unwrap_or(0);
        self.refused(refusal);
        self.queue_broken(index, base);
    }

    /// The owner has mapped the regions of [`Event::MapMemory`], or could not.
    pub fn memory_mapped(&mut self, result: Result<(), Refusal>) {
        match self.pending.take() {
            Some(Pending { ticket, step: Step::Mapping(regions) }) => {
                let outcome = result.map(|()| {
                    self.front.regions = regions;
                    self.mapped = true;
                    // Only parts put together have a log that nobody has mapped yet.
                    if self.log_wanted() == self.logging { Outcome::Done } else { Outcome::Log }
                });
                self.complete(ticket, outcome);
                self.pump();
            }
            other => self.pending = other,
        }
    }

    /// The owner logs as [`Event::LogChanged`] says, or could not.
    pub fn log_mapped(&mut self, result: Result<(), Refusal>) {
        match self.pending.take() {
            Some(Pending { ticket, step: Step::Logging }) => {
                self.complete(ticket, result.map(|()| Outcome::Done));
                self.pump();
            }
            other => self.pending = other,
        }
    }

    /// The link of the port went up or down: the guest is told through the configuration space (feature STATUS).
    pub fn set_link(&mut self, up: bool) {
        if self.front.link_down == up {
            self.front.link_down = !up;
            self.config_changed();
        }
    }

    /// The MTU of the port changed: the guest is told through the configuration space (feature MTU).
    pub fn set_mtu(&mut self, mtu: u16) {
        let before = self.config.mtu;
        self.config.set_mtu(mtu);
        if self.config.mtu != before {
            self.config_changed();
        }
    }

    fn config_changed(&mut self) {
        let negotiated = self.front.protocol.0.contains(VhostUserProtocolFeatures::CONFIG);
        if negotiated && self.front.channel.is_some() && self.channel_out.is_empty() {
            self.channel_out.push_back(backend_request(BackendReq::CONFIG_CHANGE_MSG, &[]));
        }
    }
}
