//! One connection of a guest and the stream to the service that belongs to it.

use std::net::IpAddr;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, State};

use super::http::{self, Status};
use super::stack::Surroundings;
use super::{Limits, Read, StreamId, Upstream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The head has not come whole.
    Head,
    /// The request goes to the service, its answer to the guest.
    Relay,
    /// All is said; what the guest still sends is thrown away.
    Closing,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: SocketHandle,
    phase: Phase,
    stream: Option<StreamId>,
    /// What came of the head; later what is to be sent to the service.
    pending: Vec<u8>,
    /// Bytes of the body that are still to come from the guest.
    body: u64,
    /// Bytes of the answer so far.
    answered: u64,
    /// When it began, and when something last moved; `None` while it listens.
    times: Option<(Duration, Duration)>,
}

impl Connection {
    pub(super) fn new(socket: SocketHandle) -> Self {
        Connection {
            socket,
            phase: Phase::Head,
            stream: None,
            pending: Vec::new(),
            body: 0,
            answered: 0,
            times: None,
        }
    }

    pub(super) fn stream(&self) -> Option<StreamId> {
        self.stream
    }

    /// When nothing has moved for too long, or it has taken too long in all.
    pub(super) fn deadline(&self, limits: &Limits) -> Option<Duration> {
        self.times.map(|(began, active)| (active + limits.idle).min(began + limits.life))
    }

    /// Ends the stream.
    pub(super) fn end<U: Upstream>(&mut self, around: &mut Surroundings<'_, U>) {
        if let Some(stream) = self.stream.take() {
            around.upstream.close(stream);
            around.closed.push(stream);
        }
    }

    /// Moves what can be moved; did anything?
    pub(super) fn step<U: Upstream>(
        &mut self,
        socket: &mut Socket<'_>,
        now: Duration,
        around: &mut Surroundings<'_, U>,
    ) -> bool {
        if socket.state() == State::Listen {
            self.times = None;
            return false;
        }
        let (began, active) = *self.times.get_or_insert((now, now));
        if socket.state() != State::Closed && now >= began + around.limits.life {
            self.abort(socket, around);
            return true;
        }
        let moved = match self.phase {
            Phase::Head => self.head(socket, around),
            Phase::Relay => self.relay(socket, around),
            Phase::Closing => drain(socket),
        };
        if moved {
            self.times = Some((began, now));
        } else if now >= active + around.limits.idle && socket.state() != State::Closed {
            self.times = Some((began, now));
            self.give_up(socket, around);
            return true;
        }
        moved
    }

    /// Nothing has moved for too long: the guest is told why, or, if it does not even take that, left.
    fn give_up<U: Upstream>(&mut self, socket: &mut Socket<'_>, around: &mut Surroundings<'_, U>) {
        match self.phase {
            Phase::Head if !self.pending.is_empty() => self.fail(socket, Status::RequestTimeout, around),
            Phase::Relay if self.answered == 0 => self.fail(socket, Status::GatewayTimeout, around),
            _ => self.abort(socket, around),
        }
    }

    /// Ends both sides at once.
    fn abort<U: Upstream>(&mut self, socket: &mut Socket<'_>, around: &mut Surroundings<'_, U>) {
        self.end(around);
        self.phase = Phase::Closing;
        socket.abort();
    }

    /// Answers with an error and closes.
    fn fail<U: Upstream>(
        &mut self,
        socket: &mut Socket<'_>,
        status: Status,
        around: &mut Surroundings<'_, U>,
    ) {
        around.shared.counts.failed += 1;
        // The buffer is empty at this point and far larger.
        let _ = socket.send_slice(&status.response());
        self.close(socket, around);
    }

    fn close<U: Upstream>(&mut self, socket: &mut Socket<'_>, around: &mut Surroundings<'_, U>) {
        self.end(around);
        self.pending = Vec::new();
        self.phase = Phase::Closing;
        socket.close();
    }

    /// Collects the head, and begins to forward when it is there.
    fn head<U: Upstream>(&mut self, socket: &mut Socket<'_>, around: &mut Surroundings<'_, U>) -> bool {
        let room = http::MAX_HEAD.saturating_sub(self.pending.len());
        let read = socket.recv(|bytes| {
            let taken = bytes.get(..room).unwrap_or(bytes);
            self.pending.extend_from_slice(taken);
            (taken.len(), taken.len())
        });
        if !matches!(read, Ok(1..)) {
            // The guest closed, or will send no more: there is no request.
            let over = !socket.may_recv() && !matches!(socket.state(), State::SynReceived | State::Closed);
            if over {
                self.close(socket, around);
            }
            return over;
        }
        let Some(peer) = socket.remote_endpoint().map(|endpoint| IpAddr::from(endpoint.addr)) else {
            return true;
        };
        match http::read(&self.pending, around.identity, peer, around.limits.body) {
            Ok(None) => {}
            Ok(Some(head)) => self.forward(socket, head, around),
            Err(status) => self.fail(socket, status, around),
        }
        true
    }

    fn forward<U: Upstream>(
        &mut self,
        socket: &mut Socket<'_>,
        head: http::Head,
        around: &mut Surroundings<'_, U>,
    ) {
        let stream = StreamId(around.shared.next_stream);
        around.shared.next_stream += 1;
        if around.upstream.open(stream, &around.identity.service).is_err() {
            self.fail(socket, Status::BadGateway, around);
            return;
        }
        around.shared.counts.forwarded += 1;
        around.opened.push(stream);
        self.stream = Some(stream);
        // What came behind the head is body as far as there is one; more would be a second request, which is not read.
        let behind = self.pending.get(head.length..).unwrap_or_default();
        let body = behind.get(..usize::try_from(head.body).unwrap_or(usize::MAX)).unwrap_or(behind);
        self.body = head.body - body.len() as u64;
        self.pending = [&head.rewritten, body].concat();
        self.phase = Phase::Relay;
    }

    /// Passes on what there is, both ways.
    fn relay<U: Upstream>(&mut self, socket: &mut Socket<'_>, around: &mut Surroundings<'_, U>) -> bool {
        let Some(stream) = self.stream else {
            self.abort(socket, around);
            return true;
        };
        let result = self.send(stream, socket, around.upstream).and_then(|sent| {
            let (read, ended) = self.receive(stream, socket, around.upstream)?;
            Ok((sent || read, ended))
        });
        match result {
            Ok((_, true)) | Err(_) if self.answered == 0 => self.fail(socket, Status::BadGateway, around),
            Ok((_, true)) => self.close(socket, around),
            // Cut off in the middle: the guest must not take it for the whole.
            Err(_) => self.abort(socket, around),
            Ok(_) if self.answered > around.limits.answer || socket.state() == State::Closed => {
                self.abort(socket, around);
            }
            Ok((moved, false)) => return moved,
        }
        true
    }

    /// From the guest to the service.
    fn send<U: Upstream>(
        &mut self,
        stream: StreamId,
        socket: &mut Socket<'_>,
        upstream: &mut U,
    ) -> Result<bool, super::Broken> {
        let mut moved = false;
        while !self.pending.is_empty() {
            let written = upstream.write(stream, &self.pending)?.min(self.pending.len());
            if written == 0 {
                return Ok(moved);
            }
            self.pending.drain(..written);
            moved = true;
        }
        if self.body == 0 {
            return Ok(moved | drain(socket));
        }
        let left = usize::try_from(self.body).unwrap_or(usize::MAX);
        let taken = socket.recv(|bytes| {
            let bytes = bytes.get(..left).unwrap_or(bytes);
            self.pending.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        });
        let taken = taken.unwrap_or(0);
        self.body -= taken as u64;
        Ok(moved || taken > 0)
    }

    /// From the service to the guest; did anything move, and was that all?
    fn receive<U: Upstream>(
        &mut self,
        stream: StreamId,
        socket: &mut Socket<'_>,
        upstream: &mut U,
    ) -> Result<(bool, bool), super::Broken> {
        let read = socket.send(|room| {
            if room.is_empty() {
                return (0, Ok(Read::Nothing));
            }
            let length = room.len();
            match upstream.read(stream, room) {
                Ok(Read::Bytes(bytes)) => (bytes.min(length), Ok(Read::Bytes(bytes.min(length)))),
                other => (0, other),
            }
        });
        match read {
            Ok(read) => match read? {
                Read::Bytes(bytes) => {
                    self.answered += bytes as u64;
                    Ok((bytes > 0, false))
                }
                Read::Nothing => Ok((false, false)),
                Read::End => Ok((true, true)),
            },
            // The guest is gone; its socket says so next.
            Err(_) => Ok((false, false)),
        }
    }
}

/// Throws away what the guest sends.
fn drain(socket: &mut Socket<'_>) -> bool {
    socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|length| length > 0)
}
