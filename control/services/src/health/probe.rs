//! One check: a connection from a gateway to a target, ended by `smoltcp`, with a stack of its own while it lasts.
//!
//! Whatever a target does costs at most what its port may send to the control thread, some kilobytes, and the check's time: of an answer the first bytes are kept, and what
//! follows is thrown away.

use std::net::IpAddr;
use std::time::Duration;

use packet::MacAddr;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::{Check, Outcome, Protocol, Station};
use crate::frame;
use crate::wire::{Wire, instant};

/// Bytes of a connection's buffers. A request is shorter.
const RECEIVE_BUFFER: usize = 1024;
const SEND_BUFFER: usize = 1024;
/// How much of an answer is taken before the connection is broken off.
const MOST_ANSWER: usize = 64 * 1024;
/// `HTTP/1.1 200`, and what follows it.
const STATUS_LINE: usize = 13;
/// Times that a stack is asked in one go.
const ROUNDS: usize = 16;

/// See the module's documentation.
pub(super) struct Probe {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    macs: (MacAddr, MacAddr),
    /// The caller's number of the target's port.
    pub(super) port: u16,
    /// The port of the gateway's address that it is from.
    pub(super) local: u16,
    target: IpAddr,
    gateway: IpAddr,
    until: Duration,
    request: Option<Vec<u8>>,
    start: Vec<u8>,
    taken: usize,
    said: bool,
}

/// What came of letting a check do what it can.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Frames for the target's port.
    pub(super) frames: Vec<Vec<u8>>,
    /// How it ended, said once.
    pub(super) outcome: Option<Outcome>,
    /// When it is to be run again; `None` when it is over.
    pub(super) due: Option<Duration>,
}

impl Probe {
    /// Begins; [`Probe::run`] sends the first frame. `None` if the addresses do not fit together.
    pub(super) fn begin(
        station: &Station,
        check: &Check,
        (local, seed): (u16, u64),
        now: Duration,
    ) -> Option<Self> {
        let mut wire = Wire::new(station.mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        let (gateway, target) = (station.gateway, station.address);
        interface.update_ip_addrs(|addresses| {
            let length = if gateway.is_ipv4() { 32 } else { 128 };
            // There is room for two, and this is the first.
            let _ = addresses.push(IpCidr::new(IpAddress::from(gateway), length));
        });
        let buffer = |bytes: usize| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        socket.set_nagle_enabled(false);
        let (to, from) = ((IpAddress::from(target), check.port), (IpAddress::from(gateway), local));
        socket.connect(interface.context(), to, from).ok()?;
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let request = match &check.protocol {
            Protocol::Tcp => None,
            Protocol::Http { path } => Some(request(path, target, check.port)),
        };
        Some(Self {
            interface,
            wire,
            sockets,
            socket,
            macs: (station.mac, station.gateway_mac),
            port: station.port,
            local,
            target,
            gateway,
            until: now + check.timeout,
            request,
            start: Vec::new(),
            taken: 0,
            said: false,
        })
    }

    /// Whether packets between these are its own.
    pub(super) fn is_between(&self, source: IpAddr, destination: IpAddr) -> bool {
        (self.target, self.gateway) == (source, destination)
    }

    /// Brings it an IP packet of its own.
    pub(super) fn receive(&mut self, ip: &[u8]) {
        self.wire.receive(ip);
    }

    /// Does all there is to do now.
    pub(super) fn run(&mut self, now: Duration) -> Progress {
        let at = instant(now);
        let mut progress = Progress::default();
        for _ in 0..ROUNDS {
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            let before = self.taken;
            let outcome = self.step();
            progress.outcome = progress.outcome.or(outcome);
            if self.taken == before && outcome.is_none() {
                break;
            }
        }
        if now >= self.until {
            progress.outcome = progress.outcome.or_else(|| self.give_up());
        }
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        // What remains is to part: a target that has more to say than fits, or does not stop, is hung up on.
        if now >= self.until || self.taken > MOST_ANSWER {
            socket.abort();
        }
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        let macs = self.macs;
        progress.frames.extend(self.wire.sent().map(|packet| frame::of_ip(macs, &packet)));
        let state = self.sockets.get::<Socket<'_>>(self.socket).state();
        if !(self.said && matches!(state, State::Closed | State::TimeWait)) {
            let tcp = self.interface.poll_at(at, &self.sockets);
            let tcp = tcp.map(|at| Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
            // Asked again at once, it has nothing to do that time does not bring.
            let soon = now + Duration::from_millis(1);
            progress.due = Some(tcp.map_or(self.until, |tcp| tcp.min(self.until)).max(soon));
        }
        progress
    }

    /// Asks, and reads what came; how the check ended, if that is known now.
    fn step(&mut self) -> Option<Outcome> {
        let asked = self.has_asked();
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        let (start, said) = (&mut self.start, self.said);
        let taken = socket.recv(|bytes| {
            let room = STATUS_LINE.saturating_sub(start.len());
            start.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
            (bytes.len(), bytes.len())
        });
        self.taken += taken.unwrap_or(0);
        if said {
            return None;
        }
        let outcome = match (socket.state(), &self.request) {
            (State::SynSent | State::SynReceived, _) => None,
            (State::Closed, _) if self.start.is_empty() && !asked => Some(Outcome::Refused),
            (_, None) => Some(Outcome::Connects),
            (state, Some(request)) => {
                let over = matches!(state, State::Closed | State::CloseWait);
                if self.taken == 0 && !over && !asked {
                    // The buffer is empty and longer.
                    let _ = socket.send_slice(request);
                    self.request = Some(Vec::new());
                    None
                } else {
                    status(&self.start, over)
                }
            }
        };
        if outcome.is_some() {
            self.said = true;
            self.sockets.get_mut::<Socket<'_>>(self.socket).close();
        }
        outcome
    }

    /// Whether the request is out, which goes out as soon as there is a connection.
    fn has_asked(&self) -> bool {
        self.request.as_ref().is_some_and(Vec::is_empty)
    }

    /// Its time is over.
    fn give_up(&mut self) -> Option<Outcome> {
        if std::mem::replace(&mut self.said, true) {
            return None;
        }
        let asked = self.has_asked();
        Some(if asked { Outcome::NoAnswer } else { Outcome::NoConnection })
    }
}

/// What the start of an answer says; `None` while it says nothing yet.
fn status(start: &[u8], over: bool) -> Option<Outcome> {
    const VERSION: &[u8] = b"HTTP/1.";
    let known = start.len().min(VERSION.len());
    if start.get(..known) != VERSION.get(..known) {
        return Some(Outcome::NotHttp);
    }
    let Some(line) = start.first_chunk::<STATUS_LINE>() else {
        return match (over, start.is_empty()) {
            (false, _) => None,
            (true, true) => Some(Outcome::Ended),
            (true, false) => Some(Outcome::NotHttp),
        };
    };
    let [.., version, space, a, b, c, end] = *line;
    let digits = [a, b, c].iter().all(u8::is_ascii_digit);
    let fits = version.is_ascii_digit() && space == b' ' && digits && matches!(end, b' ' | b'\r' | b'\n');
    let value = [a, b, c].iter().fold(0, |value, digit| value * 10 + u16::from(digit.wrapping_sub(b'0')));
    Some(if fits { Outcome::Status(value) } else { Outcome::NotHttp })
}

fn request(path: &str, target: IpAddr, port: u16) -> Vec<u8> {
    let host = match target {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let host = if port == 80 { host } else { format!("{host}:{port}") };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: towpath-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{Outcome, status};

    #[test]
    fn the_first_bytes_say_the_status() {
        assert_eq!(status(b"HTTP/1.1 200 ", false), Some(Outcome::Status(200)));
        assert_eq!(status(b"HTTP/1.0 503\r", false), Some(Outcome::Status(503)));
        for unsaid in [&b""[..], b"H", b"HTTP/1.", b"HTTP/1.1 200"] {
            assert_eq!(status(unsaid, false), None);
        }
        assert_eq!(status(b"", true), Some(Outcome::Ended));
        for other in [&b"SSH-2"[..], b"HTTP/2 200 OK", b"HTTP/1.1 2000", b"HTTP/1.1  200 ", b"HTTP/1.x 200 "]
        {
            assert_eq!(status(other, false), Some(Outcome::NotHttp), "{other:?}");
        }
        assert_eq!(status(b"HTTP/1.1", true), Some(Outcome::NotHttp));
    }
}
