//! One port's socket in either role, and the front end on it: reconnects by itself.
//!
//! The owner's loop polls what [`Endpoint::sockets`] names, sleeps no longer than [`Endpoint::deadline`], calls
//! [`Endpoint::on_ready`] and acts on [`Endpoint::next_event`]. One front end has the port until its session is closed
//! and all its queues are let go; only then the next one is taken.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::connection::{Connection, Interest};
use crate::connector::Connector;
use crate::listener::Listener;
use crate::parts::Parts;
use crate::refusal::{Refusal, Refusals};
use crate::session::{CloseReason, Event, Session, SessionConfig};

/// Connections looked at in one call.
const ACCEPTS_PER_CALL: usize = 16;

/// Which end listens.
#[derive(Debug)]
pub enum Role {
    /// towpathd listens.
    Server(Listener),
    /// The front end listens.
    Client(Connector),
}

/// A port's socket.
#[derive(Debug)]
pub struct Endpoint {
    role: Role,
    config: SessionConfig,
    connection: Option<Connection>,
    /// Of earlier connections, and of those that were turned away.
    refusals: Refusals,
    refused: Vec<Refusal>,
    connects: u64,
    link_up: bool,
}

impl Endpoint {
    /// A socket without a front end.
    #[must_use]
    pub fn new(role: Role, config: SessionConfig) -> Self {
        Self {
            role,
            config,
            connection: None,
            refusals: Refusals::default(),
            refused: Vec::new(),
            connects: 0,
            link_up: true,
        }
    }

    /// A socket whose front end was taken over.
    #[must_use]
    pub fn from_parts(role: Role, parts: Parts) -> Self {
        let mut endpoint = Self::new(role, parts.config.clone());
        endpoint.link_up = parts.link_up;
        endpoint.connection = Connection::from_parts(parts);
        endpoint
    }

    /// Accepts, connects, reads, handles and writes whatever is ready. `true` when there is more to do at once.
    pub fn on_ready(&mut self, now: Duration) -> bool {
        let more = self.connection.as_mut().is_some_and(|connection| connection.on_ready(now));
        self.take_connection(now);
        more
    }

    fn take_connection(&mut self, now: Duration) {
        // While workers still hold queues of the last front end, the next one waits in the backlog.
        if self.connection.as_ref().is_some_and(|connection| connection.session().is_over()) {
            return;
        }
        let socket = match &mut self.role {
            Role::Client(connector) if self.connection.is_none() => connector.connect(now),
            Role::Client(_) => None,
            Role::Server(listener) => {
                let mut taken = None;
                for _ in 0..ACCEPTS_PER_CALL {
                    let busy = self.connection.is_some() || taken.is_some();
                    match listener.accept(busy, now) {
                        Ok(Some(socket)) => taken = Some(socket),
                        Ok(None) => break,
                        Err(refusal) => {
                            self.refusals.count(refusal);
                            self.refused.push(refusal);
                        }
                    }
                }
                taken
            }
        };
        if let Some(socket) = socket {
            self.attach(socket, now);
        }
    }

    fn attach(&mut self, socket: OwnedFd, now: Duration) {
        self.connects = self.connects.saturating_add(1);
        let mut connection = Connection::new(socket, self.config.clone());
        connection.session_mut().set_link(self.link_up);
        connection.on_ready(now);
        self.connection = Some(connection);
    }

    /// The next thing for the owner.
    pub fn next_event(&mut self) -> Option<Event> {
        if let Some(refusal) = self.refused.pop() {
            return Some(Event::Refused(refusal));
        }
        let event = self.connection.as_mut()?.next_event()?;
        match &event {
            Event::Closed { .. } => {
                if let Some(connection) = self.connection.take() {
                    self.refusals.add(connection.session().refusals());
                }
            }
            Event::QueueReady(_) => {
                if let Role::Client(connector) = &mut self.role {
                    connector.lasted();
                }
            }
            _ => {}
        }
        Some(event)
    }

    /// Closes the front end's session, if there is one: its queues are stopped, then it is gone. The next front end may
    /// come; drop the endpoint after [`Event::Closed`] to end it.
    pub fn close(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.session_mut().close(CloseReason::Owner);
        }
    }

    /// The sockets to poll, and for what.
    pub fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Interest)> {
        let listening = match &self.role {
            Role::Server(listener) => {
                let read = listener.is_open()
                    && !self.connection.as_ref().is_some_and(|connection| connection.session().is_over());
                Some((listener.as_fd(), Interest { read, write: false }))
            }
            Role::Client(_) => None,
        };
        let connection =
            self.connection.as_ref().map(|connection| (connection.as_fd(), connection.interest()));
        listening.into_iter().chain(connection)
    }

    /// When [`Self::on_ready`] must be called even if no socket is ready.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let role = match &self.role {
            Role::Server(listener) => listener.resume_at(),
            Role::Client(connector) if self.connection.is_none() => Some(connector.next_attempt()),
            Role::Client(_) => None,
        };
        let connection = self.connection.as_ref().and_then(Connection::deadline);
        role.into_iter().chain(connection).min()
    }

    /// The front end's session, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.connection.as_ref().map(Connection::session)
    }

    /// The front end's session, to acknowledge to; call [`Self::on_ready`] afterwards.
    pub fn session_mut(&mut self) -> Option<&mut Session> {
        self.connection.as_mut().map(Connection::session_mut)
    }

    /// The front end's connection, for taking it apart after [`Event::Frozen`]; with the role, which stays usable.
    #[must_use]
    pub fn into_connection(self) -> (Role, Option<Connection>) {
        (self.role, self.connection)
    }

    /// Everything refused since the port was made.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        let mut all = self.refusals.clone();
        if let Some(session) = self.session() {
            all.add(session.refusals());
        }
        all
    }

    /// Front ends so far.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.connects
    }

    /// Sets the port's MTU, which this and every later front end finds in the configuration space unless it set a smaller one.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.config.set_mtu(mtu);
        if let Some(session) = self.session_mut() {
            session.set_mtu(mtu);
        }
    }

    /// Sets the features and the MAC address that later front ends are offered. The present one keeps what it was offered.
    pub fn set_offer(&mut self, feature_mask: u64, mac: Option<[u8; 6]>) {
        let SessionConfig { max_queue_pairs, max_mtu, .. } = self.config;
        self.config = SessionConfig::new(feature_mask, max_queue_pairs, mac, max_mtu);
    }

    /// Sets the link that this and every later front end finds in the configuration space.
    pub fn set_link(&mut self, up: bool) {
        self.link_up = up;
        if let Some(session) = self.session_mut() {
            session.set_link(up);
        }
    }

    /// Which end listens.
    #[must_use]
    pub fn role(&self) -> &Role {
        &self.role
    }
}
