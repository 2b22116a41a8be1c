//! A session taken apart: everything a port consists of, as plain state and descriptors.
//!
//! A port made from parts needs no handshake: that is how the next process takes over a running switch, and how tests and
//! the simulator make ports. Putting parts together has the memory mapped and the queues started by the same events as a
//! handshake would.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vhost::vhost_user::VhostUserProtocolFeatures;

use crate::decoder::Decoder;
use crate::refusal::Refusals;
use crate::session::{
    Addresses, InflightRegion, Kick, LogRegion, Negotiated, Protocol, QueueState, Region, Run, Session,
    SessionConfig,
};

/// One queue of [`Parts`].
#[derive(Clone, Debug, Default)]
pub struct QueueParts {
    /// Entries.
    pub size: Option<u16>,
    /// Where to go on, in SET_VRING_BASE encoding.
    pub base: Option<u32>,
    /// The ring's parts in the front end's address space.
    pub addresses: Option<Addresses>,
    /// How the guest tells of buffers; the queue runs only with one.
    pub kick: Kick,
    /// How the guest is told.
    pub call: Option<Arc<OwnedFd>>,
    /// How the front end hears of a broken ring.
    pub err: Option<Arc<OwnedFd>>,
    /// As SET_VRING_ENABLE.
    pub enabled: bool,
}

/// Everything a port with a front end consists of.
#[derive(Debug)]
pub struct Parts {
    /// What the port offers.
    pub config: SessionConfig,
    /// Whether the front end said SET_OWNER.
    pub owner: bool,
    /// Acknowledged features.
    pub features: Option<u64>,
    /// Negotiated protocol features.
    pub protocol: VhostUserProtocolFeatures,
    /// Memory, with its files.
    pub regions: Vec<Region>,
    /// Queues by index.
    pub queues: Vec<QueueParts>,
    /// Dirty log.
    pub log: Option<LogRegion>,
    /// In-flight region.
    pub inflight: Option<InflightRegion>,
    /// Device status.
    pub status: u8,
    /// Whether the guest was last told that its link is up.
    pub link_up: bool,
    /// The back end's own request channel.
    pub channel: Option<OwnedFd>,
    /// Counters of refusals.
    pub refusals: Refusals,
    /// The connection. A port without a front end's process (tests, the simulator) has one end of a socket pair; closing
    /// the other ends the session.
    pub stream: Option<OwnedFd>,
    /// What was already read of the next message.
    pub decoder: Decoder,
}

impl Parts {
    /// Parts of a port that nobody attached to: the beginning for a port built without a handshake.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        Self {
            config,
            owner: false,
            features: None,
            protocol: VhostUserProtocolFeatures::empty(),
            regions: Vec::new(),
            queues: Vec::new(),
            log: None,
            inflight: None,
            status: 0,
            link_up: true,
            channel: None,
            refusals: Refusals::default(),
            stream: None,
            decoder: Decoder::new(),
        }
    }
}

impl Session {
    /// Takes a frozen session apart; gives it back when it is not frozen (see [`Session::freeze`]). The connection is the
    /// caller's to add.
    ///
    /// # Errors
    /// The session itself, if a queue still runs or a message is pending.
    pub fn into_parts(mut self) -> Result<Parts, Box<Session>> {
        if !self.is_frozen() {
            return Err(Box::new(self));
        }
        let (config, front, refusals) = self.take();
        Ok(Parts {
            config,
            owner: front.owner,
            features: front.features,
            protocol: front.protocol.0,
            regions: front.regions,
            queues: front.queues.into_iter().map(QueueParts::from).collect(),
            log: front.log,
            inflight: front.inflight,
            status: front.status,
            link_up: !front.link_down,
            channel: front.channel,
            refusals,
            stream: None,
            decoder: Decoder::new(),
        })
    }

    /// Puts a session together. Its first events have the memory mapped, and then the queues started that can run. The
    /// connection and what was read of it ([`Parts::stream`], [`Parts::decoder`]) are for the caller to take out first.
    #[must_use]
    pub fn from_parts(parts: Parts) -> Session {
        let front = Negotiated {
            owner: parts.owner,
            features: parts.features,
            protocol: Protocol(parts.protocol),
            regions: parts.regions,
            queues: parts.queues.into_iter().map(QueueState::from).collect(),
            log: parts.log,
            inflight: parts.inflight,
            status: parts.status,
            link_down: !parts.link_up,
            channel: parts.channel,
        };
        Session::restored(parts.config, front, parts.refusals)
    }
}

impl From<QueueState> for QueueParts {
    fn from(queue: QueueState) -> Self {
        Self {
            size: queue.size,
            base: queue.base,
            addresses: queue.addresses,
            kick: if queue.run == Run::Broken { Kick::None } else { queue.kick },
            call: queue.call,
            err: queue.err,
            enabled: queue.enabled,
        }
    }
}

impl From<QueueParts> for QueueState {
    fn from(parts: QueueParts) -> Self {
        Self {
            size: parts.size,
            base: parts.base,
            addresses: parts.addresses,
            kick: parts.kick,
            call: parts.call,
            err: parts.err,
            enabled: parts.enabled,
            ..Self::default()
        }
    }
}
