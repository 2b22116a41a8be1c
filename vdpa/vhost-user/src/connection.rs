//! A session on its socket.
//!
//! The owner's loop polls the socket as [`Connection::interest`] says and calls [`Connection::on_ready`]; after
//! acknowledging something to the session it calls it as well. One call handles a bounded number of messages, so that
//! one front end cannot keep the others waiting.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::net::SendFlags;

use crate::parts::Parts;
use crate::refusal::Refusal;
use crate::session::{CloseReason, Event, Session, SessionConfig};
use crate::transport::{Received, Transport};

/// Messages handled in one call.
const MESSAGES_PER_CALL: usize = 64;

/// What to poll a socket for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Readable.
    pub read: bool,
    /// Writable.
    pub write: bool,
}

/// A front end's connection.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    session: Session,
}

impl Connection {
    /// A connection just made.
    #[must_use]
    pub fn new(socket: std::os::fd::OwnedFd, config: SessionConfig) -> Self {
        Self { transport: Transport::new(socket), session: Session::new(config) }
    }

    /// A connection taken over, in the middle of anything. Nothing if the parts have no stream.
    #[must_use]
    pub fn from_parts(mut parts: Parts) -> Option<Self> {
        let socket = parts.stream.take()?;
        let transport = Transport::resume(socket, std::mem::take(&mut parts.decoder));
        Some(Self { transport, session: Session::from_parts(parts) })
    }

    /// Takes a frozen connection apart (see [`Session::freeze`]).
    ///
    /// # Errors
    /// The connection itself, if it is not frozen, or replies are not sent yet.
    pub fn into_parts(self) -> Result<Parts, Box<Self>> {
        if self.transport.has_unsent() {
            return Err(Box::new(self));
        }
        match self.session.into_parts() {
            Ok(mut parts) => {
                let (socket, decoder) = self.transport.into_parts();
                parts.stream = Some(socket);
                parts.decoder = decoder;
                Ok(parts)
            }
            Err(session) => Err(Box::new(Self { transport: self.transport, session: *session })),
        }
    }

    /// Reads, handles and writes what there is. Also to be called when [`Self::deadline`] passes, and after
    /// acknowledgements. `true` when there is more to do at once.
    pub fn on_ready(&mut self, now: Duration) -> bool {
        if self.session.is_over() {
            // The last replies (a refusal's) may still go; that they cannot changes nothing.
            let _closed_already = self.write();
            return false;
        }
        let more = match self.read(now) {
            Ok(more) => more,
            Err(reason) => {
                self.end(reason);
                false
            }
        };
        if let Err(reason) = self.write() {
            self.end(reason);
        }
        more && !self.session.is_over()
    }

    fn read(&mut self, now: Duration) -> Result<bool, CloseReason> {
        if self.session.is_waiting() {
            // Messages behind a pending one stay in the socket; only its end is looked for.
            return if self.transport.is_at_end() { Err(CloseReason::Disconnected) } else { Ok(false) };
        }
        for _ in 0..MESSAGES_PER_CALL {
            match self.transport.receive(now)? {
                Received::Message(message) => self.session.on_message(message),
                Received::Nothing => {
                    let stalled = self.transport.deadline().is_some_and(|deadline| deadline <= now);
                    return if stalled { Err(CloseReason::Refused(Refusal::Stalled)) } else { Ok(false) };
                }
            }
            self.write()?;
            if self.session.is_waiting() || self.session.is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self) -> Result<(), CloseReason> {
        while let Some(outgoing) = self.session.next_reply() {
            self.transport.send(outgoing)?;
        }
        self.transport.flush()?;
        while let Some(request) = self.session.next_request() {
            let Some(channel) = self.session.channel() else { break };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // A request is shorter than any socket buffer: it goes whole, or the other end does not read or is gone.
            if rustix::net::send(channel, &request, flags) != Ok(request.len()) {
                self.session.drop_channel();
            }
        }
        Ok(())
    }

    fn end(&mut self, reason: CloseReason) {
        match reason {
            CloseReason::Refused(refusal) => self.session.on_refusal(refusal),
            other => self.session.close(other),
        }
    }

    /// What to poll the socket for. A hang-up is always of interest.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest {
            read: !self.session.is_waiting() && !self.session.is_over(),
            write: self.transport.has_unsent(),
        }
    }

    /// When [`Self::on_ready`] must be called even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        // A session that is over reads no more: half a message is of no interest then.
        self.transport.deadline().filter(|_| !self.session.is_over())
    }

    /// The next thing for the owner.
    pub fn next_event(&mut self) -> Option<Event> {
        self.session.next_event()
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, to acknowledge to; call [`Self::on_ready`] afterwards.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}
