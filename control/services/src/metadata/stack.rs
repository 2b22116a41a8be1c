//! The TCP/IP stack that one port's guest talks to.

use std::net::IpAddr;
use std::time::Duration;

use packet::{Fragment, HEAD_LENGTH, Headers, L4, MacAddr, ethernet, icmp, tcp};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::connection::Connection;
use super::{ADDRESS_V4, ADDRESS_V6, Identity, Limits, PORT, Shared, StreamId, Upstream, is_address};
use crate::wire::{Wire, instant};
use crate::{Refusal, frame};

/// Bytes of a connection's buffers: what a guest may send ahead, and what waits to be acknowledged by it.
const RECEIVE_BUFFER: usize = 8 * 1024;
const SEND_BUFFER: usize = 16 * 1024;
/// Times that a stack and its connections are asked in one go. Each fills or empties buffers, so what is left is for the next call.
const ROUNDS: usize = 64;
/// No call is needed for as long as this.
const NEVER: Duration = Duration::from_secs(3600);

/// A guest's packet to the service.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    pub(super) ip: &'a [u8],
    /// It asks for a new connection.
    pub(super) opens: bool,
}

impl<'a> Packet<'a> {
    pub(super) fn parse(identity: &Identity, bytes: &'a [u8]) -> Result<Self, Refusal> {
        let headers = frame::headers(bytes)?;
        let link = ethernet::View::new(bytes).ok_or(Refusal::Headers)?;
        if !headers.is_ip() {
            return Err(Refusal::NotForUs);
        }
        if headers.fragment != Fragment::Whole {
            return Err(Refusal::Fragmented);
        }
        let source = headers.source_ip(bytes).ok_or(Refusal::Headers)?;
        let destination = headers.destination_ip(bytes).ok_or(Refusal::Headers)?;
        if !is_address(destination) {
            return Err(Refusal::NotForUs);
        }
        if link.source() != identity.mac {
            return Err(Refusal::ForeignHardware);
        }
        if !identity.addresses.contains(&source) {
            return Err(Refusal::ForeignAddress);
        }
        let opens = match headers.l4 {
            L4::Tcp => opens(bytes, &headers)?,
            L4::Icmp | L4::Icmpv6 if is_echo(bytes, &headers) => false,
            _ => return Err(Refusal::NotForUs),
        };
        let ip =
            bytes.get(usize::from(headers.l3_offset)..headers.l3_end() as usize).ok_or(Refusal::Headers)?;
        Ok(Packet { ip, opens })
    }
}

/// Is it a SYN to the service's port?
fn opens(bytes: &[u8], headers: &Headers) -> Result<bool, Refusal> {
    const SYN: u8 = 0x02;
    const SYN_ACK_RST_FIN: u8 = 0x17;
    let at = usize::from(headers.l4_offset) + tcp::FLAGS_OFFSET;
    let flags = bytes.get(..HEAD_LENGTH).unwrap_or(bytes).get(at).ok_or(Refusal::Headers)?;
    Ok(flags & SYN_ACK_RST_FIN == SYN && headers.destination_port == PORT)
}

/// A ping, which the stack answers.
fn is_echo(bytes: &[u8], headers: &Headers) -> bool {
    let kind = icmp::type_and_code(bytes, headers);
    matches!((headers.l4, kind), (L4::Icmp, Some((8, 0))) | (L4::Icmpv6, Some((128, 0))))
}

/// What a run needs of its surroundings.
pub(super) struct Surroundings<'a, U> {
    pub(super) identity: &'a Identity,
    pub(super) limits: &'a Limits,
    pub(super) shared: &'a mut Shared,
    pub(super) upstream: &'a mut U,
    /// Streams that began and ended.
    pub(super) opened: &'a mut Vec<StreamId>,
    pub(super) closed: &'a mut Vec<StreamId>,
}

/// The stack of one port.
pub(super) struct Stack {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    macs: (MacAddr, MacAddr),
    /// When it is to be run again.
    pub(super) due: Duration,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("connections", &self.connections)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

impl Stack {
    pub(super) fn new(identity: &Identity, seed: u64, now: Duration) -> Self {
        let mut wire = Wire::new(identity.mtu);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|addresses| {
            // There is room for two, and these are the first.
            let _ = addresses.push(IpCidr::new(IpAddress::from(IpAddr::V4(ADDRESS_V4)), 32));
            let _ = addresses.push(IpCidr::new(IpAddress::from(IpAddr::V6(ADDRESS_V6)), 128));
        });
        Stack {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            macs: (identity.mac, identity.gateway_mac),
            due: now,
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.connections.iter().filter_map(Connection::stream)
    }

    /// Sees to it that a SYN finds a listening socket. `may_grow`: one more connection is allowed.
    pub(super) fn listen(&mut self, may_grow: bool) -> bool {
        let sockets = &self.sockets;
        if self.connections.iter().any(|one| sockets.get::<Socket<'_>>(one.socket).state() == State::Listen) {
            return true;
        }
        if !may_grow {
            return false;
        }
        let buffer = |bytes: usize| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        if socket.listen(PORT).is_err() {
            return false;
        }
        // What is sent is whole already: nothing is gained by waiting for more.
        socket.set_nagle_enabled(false);
        self.connections.push(Connection::new(self.sockets.add(socket)));
        true
    }

    pub(super) fn receive(&mut self, ip: &[u8]) {
        self.wire.receive(ip);
    }

    /// Does all there is to do now, and returns the frames for the guest.
    pub(super) fn run<U: Upstream>(
        &mut self,
        now: Duration,
        around: &mut Surroundings<'_, U>,
    ) -> Vec<Vec<u8>> {
        let at = instant(now);
        let mut moved = true;
        for _ in 0..ROUNDS {
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            moved = false;
            for connection in &mut self.connections {
                let socket = self.sockets.get_mut::<Socket<'_>>(connection.socket);
                moved |= connection.step(socket, now, around);
            }
            if !moved {
                break;
            }
        }
        self.interface.poll(at, &mut self.wire, &mut self.sockets);
        self.clean(around);
        let idle = self.connections.iter().filter_map(|connection| connection.deadline(around.limits)).min();
        let tcp = self
            .interface
            .poll_at(at, &self.sockets)
            .map(|at| Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
        let more = moved.then_some(now);
        self.due = [more, idle, tcp].into_iter().flatten().min().unwrap_or(now + NEVER).max(now);
        let macs = self.macs;
        self.wire.sent().map(|packet| frame::of_ip(macs, &packet)).collect()
    }

    /// Forgets connections that are over. What TCP calls TIME-WAIT ends at once: a guest is a hop away, and ten seconds for each of a few
    /// connections would be a limit on requests. A socket that listens alone is not kept either.
    fn clean<U: Upstream>(&mut self, around: &mut Surroundings<'_, U>) {
        let sockets = &mut self.sockets;
        let mut forget = |connections: &mut Vec<Connection>, is_over: &dyn Fn(State) -> bool| {
            connections.retain_mut(|connection| {
                let over = is_over(sockets.get::<Socket<'_>>(connection.socket).state());
                if over {
                    sockets.remove(connection.socket);
                    connection.end(around);
                }
                !over
            });
            connections.iter().all(|one| sockets.get::<Socket<'_>>(one.socket).state() == State::Listen)
        };
        if forget(&mut self.connections, &|state| matches!(state, State::Closed | State::TimeWait)) {
            forget(&mut self.connections, &|_| true);
        }
    }
}
