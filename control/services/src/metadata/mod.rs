//! The metadata service: HTTP of guests to 169.254.169.254 and `[fd00:ec2::254]`, ended here and forwarded to a service of the host.
//!
//! A guest's TCP ends in `smoltcp`, one stack for each port that has a connection, so that nothing of a guest reaches the host's own
//! network stack, and ports may have the same addresses. Each connection carries one request: its head is read strictly and written anew,
//! with the port, its project, its VPC and its address in header fields that the guest cannot set; then the service's answer is passed on
//! until the service closes. The service therefore must honour `Connection: close`.
//!
//! Everything is bounded: connections of a port and in all, bytes of a head, a body and an answer, buffers, and the time in which nothing
//! moves. A guest whose connections are all in use gets no answer to its SYN, and tries again by itself.
//!
//! The side of the service is an interface, [`Upstream`]: non-blocking, owned by whoever calls.

mod connection;
mod http;
mod stack;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use packet::MacAddr;

use crate::Refusal;
use crate::random::Random;
use stack::Stack;

/// Where guests find the service.
pub const ADDRESS_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The same in IPv6.
pub const ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// Its TCP port.
pub const PORT: u16 = 80;

/// Is this one of the service's addresses?
#[must_use]
pub fn is_address(address: IpAddr) -> bool {
    address == IpAddr::V4(ADDRESS_V4) || address == IpAddr::V6(ADDRESS_V6)
}

/// One connection to the service. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// The connection to the service broke, or could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the metadata service broke")]
pub struct Broken;

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least 1.
    Bytes(usize),
    /// Nothing now; [`Proxy::on_upstream`] is to be called when there is.
    Nothing,
    /// The service closed: there is nothing more.
    End,
}

/// The outgoing side: streams to services, none of whose calls waits. Changes are to be told as edges: a stream that can be read is not
/// read while its guest has no room, and is when the guest makes some.
pub trait Upstream {
    /// Begins to connect. `service` is the port's [`Identity::service`].
    ///
    /// # Errors
    ///
    /// It cannot even begin.
    fn open(&mut self, stream: StreamId, service: &str) -> Result<(), Broken>;
    /// Sends a part of `bytes` and returns how many; 0 when there is no room, or no connection yet. Then
    /// [`Proxy::on_upstream`] is to be called when that has changed.
    ///
    /// # Errors
    ///
    /// The connection broke.
    fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, Broken>;
    /// Receives into `buffer`, which is never empty.
    ///
    /// # Errors
    ///
    /// The connection broke.
    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> Result<Read, Broken>;
    /// Ends the stream, whatever is still on its way. Called once for each that was opened, also after it broke.
    fn close(&mut self, stream: StreamId);
}

/// Whose requests these are, and where they go. The plan's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `X-Towpath-Port`.
    pub port: String,
    /// `X-Towpath-Project`.
    pub project: String,
    /// `X-Towpath-Vpc`.
    pub vpc: String,
    /// The port's MAC address.
    pub mac: MacAddr,
    /// The gateway's, from which answers come.
    pub gateway_mac: MacAddr,
    /// The port's addresses; no others are served.
    pub addresses: Vec<IpAddr>,
    /// Bytes of the longest IP packet.
    pub mtu: u16,
    /// The service, as [`Upstream::open`] understands it.
    pub service: String,
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections of one port at once.
    pub port_connections: usize,
    /// Connections of all ports at once; each takes about 32 KiB.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: u64,
    /// Bytes of an answer; a longer one is cut off.
    pub answer: u64,
    /// How long nothing may move on a connection.
    pub idle: Duration,
    /// How long a connection may take in all: a guest that sends a byte now and then holds none for ever.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            port_connections: 8,
            connections: 1024,
            body: 64 * 1024,
            answer: 16 * 1024 * 1024,
            idle: Duration::from_secs(15),
            life: Duration::from_secs(120),
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests forwarded to a service.
    pub forwarded: u64,
    /// Requests answered here, with an error: malformed, too large, or the service did not answer.
    pub failed: u64,
    /// SYNs left alone because too many connections were open.
    pub refused: u64,
}

/// A frame for a port's guest.
pub type Frame = (u16, Vec<u8>);

/// The metadata service of all ports of a host. Ports are known by numbers of the caller's.
#[derive(Debug)]
pub struct Proxy {
    limits: Limits,
    identities: HashMap<u16, Identity>,
    /// Ports that have connections.
    stacks: HashMap<u16, Stack>,
    /// Which port a stream belongs to.
    streams: BTreeMap<StreamId, u16>,
    due: BTreeSet<(Duration, u16)>,
    connections: usize,
    shared: Shared,
}

/// What all stacks share.
#[derive(Debug)]
struct Shared {
    random: Random,
    next_stream: u64,
    counts: Counts,
}

impl Proxy {
    /// Serves no port yet. `seed` makes TCP's initial sequence numbers: take a random one.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Proxy {
            limits,
            identities: HashMap::new(),
            stacks: HashMap::new(),
            streams: BTreeMap::new(),
            due: BTreeSet::new(),
            connections: 0,
            shared: Shared { random: Random::new(seed), next_stream: 0, counts: Counts::default() },
        }
    }

    /// Serves a port. If it was served as another, its connections are gone.
    pub fn set_port(&mut self, port: u16, identity: Identity, upstream: &mut impl Upstream) {
        if self.identities.get(&port) != Some(&identity) {
            self.remove_port(port, upstream);
            self.identities.insert(port, identity);
        }
    }

    /// Serves a port no more; its connections are gone without a word.
    pub fn remove_port(&mut self, port: u16, upstream: &mut impl Upstream) {
        self.identities.remove(&port);
        if let Some(stack) = self.stacks.remove(&port) {
            self.connections -= stack.connections();
            self.due.remove(&(stack.due, port));
            for stream in stack.streams() {
                self.streams.remove(&stream);
                upstream.close(stream);
            }
        }
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// A guest's frame to the service; returns frames for it. Each frame answered costs about as much as a frame sent.
    ///
    /// # Errors
    ///
    /// It is not from this port, not to the service, malformed, or one connection too many.
    pub fn on_frame(
        &mut self,
        port: u16,
        frame: &[u8],
        now: Duration,
        upstream: &mut impl Upstream,
    ) -> Result<Vec<Frame>, Refusal> {
        let identity = self.identities.get(&port).ok_or(Refusal::NotForUs)?;
        let packet = stack::Packet::parse(identity, frame)?;
        let room = self.connections < self.limits.connections;
        let stack = match self.stacks.entry(port) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if packet.opens && !room => {
                self.shared.counts.refused += 1;
                return Err(Refusal::TooMany);
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Stack::new(identity, self.shared.random.next(), now))
            }
        };
        let before = stack.connections();
        if packet.opens && !stack.listen(before < self.limits.port_connections && room) {
            self.shared.counts.refused += 1;
            return Err(Refusal::TooMany);
        }
        self.connections += stack.connections() - before;
        stack.receive(packet.ip);
        Ok(self.run(port, now, upstream))
    }

    /// A stream can be read or written again, is connected, or broke.
    pub fn on_upstream(
        &mut self,
        stream: StreamId,
        now: Duration,
        upstream: &mut impl Upstream,
    ) -> Vec<Frame> {
        match self.streams.get(&stream) {
            Some(&port) => self.run(port, now, upstream),
            None => Vec::new(),
        }
    }

    /// When [`Proxy::on_tick`] has something to do; `None` while no port has connections.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Does what is due: sends again, gives up.
    pub fn on_tick(&mut self, now: Duration, upstream: &mut impl Upstream) -> Vec<Frame> {
        let due: Vec<u16> =
            self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, port)| *port).collect();
        due.into_iter().flat_map(|port| self.run(port, now, upstream)).collect()
    }

    /// Lets a port's stack do all it can now.
    fn run(&mut self, port: u16, now: Duration, upstream: &mut impl Upstream) -> Vec<Frame> {
        let (Some(stack), Some(identity)) = (self.stacks.get_mut(&port), self.identities.get(&port)) else {
            return Vec::new();
        };
        self.due.remove(&(stack.due, port));
        let before = stack.connections();
        let mut opened = Vec::new();
        let mut closed = Vec::new();
        let frames = stack.run(
            now,
            &mut stack::Surroundings {
                identity,
                limits: &self.limits,
                shared: &mut self.shared,
                upstream,
                opened: &mut opened,
                closed: &mut closed,
            },
        );
        self.connections = self.connections + stack.connections() - before;
        self.streams.extend(opened.into_iter().map(|stream| (stream, port)));
        for stream in closed {
            self.streams.remove(&stream);
        }
        if stack.connections() == 0 {
            self.stacks.remove(&port);
        } else {
            self.due.insert((stack.due, port));
        }
        frames.into_iter().map(|frame| (port, frame)).collect()
    }
}
