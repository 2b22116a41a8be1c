//! A guest's network stack: `smoltcp` with a few programs on top whose results are checked.
//!
//! Each guest serves UDP echo and a TCP sink that compares what it gets with the pattern both ends know, answers pings, and as a client pings,
//! asks the echo service and sends transfers.

use crate::net::Station;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpCidr,
};
use std::collections::VecDeque;
use std::net::IpAddr;

/// The port of the TCP sink.
const SINK: u16 = 5001;
/// The port of UDP echo.
const ECHO: u16 = 7;
/// The identifier of a guest's pings.
const PING_ID: u16 = 0x7074;
/// TCP connections a guest serves at once.
const SINKS: usize = 2;

/// Byte `at` of every transfer.
#[must_use]
pub fn pattern(at: usize) -> u8 {
    (at % 251) as u8 ^ (at >> 11) as u8
}

/// The link of the stack: frames between it and the driver.
#[derive(Debug, Default)]
pub struct Wire {
    /// Frames for the stack.
    pub received: VecDeque<Vec<u8>>,
    /// Frames of the stack.
    pub sent: VecDeque<Vec<u8>>,
    room: usize,
    longest: usize,
}

/// A received frame.
#[derive(Debug)]
pub struct RxToken(Vec<u8>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame.
#[derive(Debug)]
pub struct TxToken<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let frame = self.received.pop_front()?;
        Some((RxToken(frame), TxToken(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        (self.sent.len() < self.room).then_some(TxToken(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.longest;
        // Everything is computed and verified; the driver leaves it to the device only on the wire.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

/// What a guest asks another guest's stack for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One ping.
    Ping(IpAddr),
    /// One UDP datagram, echoed.
    Echo(IpAddr),
    /// So many bytes over TCP.
    Transfer(IpAddr, usize),
}

/// What the programs achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Achieved {
    /// Pings answered.
    pub pings: u64,
    /// Echoes that came back unchanged.
    pub echoes: u64,
    /// Transfers whose every byte arrived.
    pub transfers: u64,
    /// Bytes received by TCP and right.
    pub bytes: u64,
    /// Bytes or messages whose content was wrong.
    pub wrong: u64,
}

impl Achieved {
    /// Adds another stack's.
    pub fn add(&mut self, other: &Self) {
        self.pings += other.pings;
        self.echoes += other.echoes;
        self.transfers += other.transfers;
        self.bytes += other.bytes;
        self.wrong += other.wrong;
    }
}

struct Sending {
    socket: SocketHandle,
    total: usize,
    sent: usize,
}

/// See the module's documentation.
pub struct Stack {
    interface: Interface,
    /// The link.
    pub wire: Wire,
    sockets: SocketSet<'static>,
    pings: SocketHandle,
    echo: SocketHandle,
    client: SocketHandle,
    sinks: Vec<(SocketHandle, usize)>,
    sending: Vec<Sending>,
    next_port: u16,
    sequence: u16,
    /// What the programs achieved.
    pub achieved: Achieved,
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000) as i64)
}

impl Stack {
    /// A stack with both addresses of `station`, /24 and /64, behind `gateway`, with frames of at most `longest` bytes.
    #[must_use]
    pub fn new(station: &Station, gateway: &Station, longest: usize, (seed, now): (u64, u64)) -> Self {
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(station.mac)));
        config.random_seed = seed;
        let mut wire = Wire { room: 64, longest, ..Wire::default() };
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|addresses| {
            // Two addresses fit by smoltcp's configuration.
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(station.v4), 24));
            let _ = addresses.push(IpCidr::new(IpAddress::Ipv6(station.v6), 64));
        });
        // There is room for two routes by smoltcp's configuration.
        let _ = interface.routes_mut().add_default_ipv4_route(gateway.v4);
        let _ = interface.routes_mut().add_default_ipv6_route(gateway.v6);
        let mut sockets = SocketSet::new(Vec::new());
        let packets = || vec![udp::PacketMetadata::EMPTY; 16];
        let mut echo = udp::Socket::new(
            udp::PacketBuffer::new(packets(), vec![0; 8192]),
            udp::PacketBuffer::new(packets(), vec![0; 8192]),
        );
        let mut client = udp::Socket::new(
            udp::PacketBuffer::new(packets(), vec![0; 8192]),
            udp::PacketBuffer::new(packets(), vec![0; 8192]),
        );
        let pings = ping_socket();
        // Fresh sockets can be bound.
        let _ = (echo.bind(ECHO), client.bind(1007));
        let (echo, client, pings) = (sockets.add(echo), sockets.add(client), sockets.add(pings));
        let sinks = (0..SINKS).map(|_| (sockets.add(tcp_socket()), 0)).collect();
        Self {
            interface,
            wire,
            sockets,
            pings,
            echo,
            client,
            sinks,
            sending: Vec::new(),
            next_port: 49_152 + (seed % 8192) as u16,
            sequence: 0,
            achieved: Achieved::default(),
        }
    }

    /// Starts a task.
    pub fn start(&mut self, task: Task) {
        match task {
            Task::Ping(address) => self.ping(address),
            Task::Echo(address) => {
                let (address, message) = (IpAddress::from(address), [0x5e; 300]);
                let _ = self
                    .sockets
                    .get_mut::<udp::Socket<'_>>(self.client)
                    .send_slice(&message, (address, ECHO));
            }
            Task::Transfer(address, total) => {
                self.next_port = self.next_port.wrapping_add(1).max(49_152);
                let mut socket = tcp_socket();
                let context = self.interface.context();
                if socket.connect(context, (IpAddress::from(address), SINK), self.next_port).is_ok() {
                    let socket = self.sockets.add(socket);
                    self.sending.push(Sending { socket, total, sent: 0 });
                }
            }
        }
    }

    fn ping(&mut self, address: IpAddr) {
        self.sequence = self.sequence.wrapping_add(1);
        let data = [0x42; 56];
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.pings);
        match address {
            IpAddr::V4(_) => {
                let request = Icmpv4Repr::EchoRequest { ident: PING_ID, seq_no: self.sequence, data: &data };
                let Ok(buffer) = socket.send(request.buffer_len(), address.into()) else { return };
                request.emit(&mut Icmpv4Packet::new_unchecked(buffer), &ChecksumCapabilities::default());
            }
            IpAddr::V6(target) => {
                let source = self.interface.ipv6_addr().unwrap_or(target);
                let request = Icmpv6Repr::EchoRequest { ident: PING_ID, seq_no: self.sequence, data: &data };
                let Ok(buffer) = socket.send(request.buffer_len(), address.into()) else { return };
                let mut packet = Icmpv6Packet::new_unchecked(buffer);
                request.emit(&source, &target, &mut packet, &ChecksumCapabilities::default());
            }
        }
    }

    /// Transfers on their way.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.sending.len()
    }

    /// Runs the stack and the programs once; frames go to [`Wire::sent`], at most about `room` of them.
    pub fn run(&mut self, now: u64, room: usize) {
        self.wire.room = room;
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
        self.serve_echo();
        self.count_pings();
        self.serve_sinks();
        self.drive_transfers();
        self.interface.poll(instant(now), &mut self.wire, &mut self.sockets);
    }

    /// When the stack wants to run again, in nanoseconds.
    pub fn next(&mut self, now: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some((at.total_micros().max(0) as u64) * 1000)
    }

    fn serve_echo(&mut self) {
        let echo = self.sockets.get_mut::<udp::Socket<'_>>(self.echo);
        while let Ok((message, from)) = echo.recv().map(|(message, from)| (message.to_vec(), from)) {
            let _ = echo.send_slice(&message, from.endpoint);
        }
        let client = self.sockets.get_mut::<udp::Socket<'_>>(self.client);
        while let Ok((message, _)) = client.recv() {
            if message == [0x5e; 300] {
                self.achieved.echoes += 1;
            } else {
                self.achieved.wrong += 1;
            }
        }
    }

    fn count_pings(&mut self) {
        let socket = self.sockets.get_mut::<icmp::Socket<'_>>(self.pings);
        while let Ok((message, _)) = socket.recv() {
            // ICMP and ICMPv6 both: type, code, checksum, identifier, sequence, data.
            let answer = matches!(message.first(), Some(0 | 129));
            let data = message.get(8..).unwrap_or(&[]);
            if answer && data == [0x42; 56] {
                self.achieved.pings += 1;
            } else if answer {
                self.achieved.wrong += 1;
            }
        }
    }

    fn serve_sinks(&mut self) {
        for (handle, at) in &mut self.sinks {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                *at = 0;
                let _ = socket.listen(SINK);
            }
            while socket.can_recv() {
                let (position, achieved) = (*at, &mut self.achieved);
                let read = socket.recv(|bytes| {
                    let wrong =
                        bytes.iter().zip(position..).filter(|(byte, at)| **byte != pattern(*at)).count();
                    achieved.wrong += wrong as u64;
                    achieved.bytes += (bytes.len() - wrong) as u64;
                    (bytes.len(), bytes.len())
                });
                match read {
                    Ok(count) if count > 0 => *at += count,
                    _ => break,
                }
            }
            if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                socket.close();
            }
        }
    }

    fn drive_transfers(&mut self) {
        let (sockets, achieved) = (&mut self.sockets, &mut self.achieved);
        self.sending.retain_mut(|sending| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(sending.socket);
            while socket.can_send() && sending.sent < sending.total {
                let (from, left) = (sending.sent, sending.total - sending.sent);
                let written = socket.send(|buffer| {
                    let count = buffer.len().min(left);
                    buffer[..count].iter_mut().zip(from..).for_each(|(byte, at)| *byte = pattern(at));
                    (count, count)
                });
                match written {
                    Ok(count) if count > 0 => sending.sent += count,
                    _ => break,
                }
            }
            if sending.sent == sending.total && socket.may_send() && socket.send_queue() == 0 {
                socket.close();
            }
            let over = matches!(socket.state(), tcp::State::TimeWait | tcp::State::Closed);
            if over {
                achieved.transfers += u64::from(sending.sent == sending.total);
                sockets.remove(sending.socket);
            }
            !over
        });
    }
}

fn ping_socket() -> icmp::Socket<'static> {
    let packets = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 4096]);
    let mut socket = icmp::Socket::new(packets(), packets());
    // A fresh socket can be bound.
    let _ = socket.bind(icmp::Endpoint::Ident(PING_ID));
    socket
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 16_384]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_timeout(Some(smoltcp::time::Duration::from_secs(20)));
    socket.set_ack_delay(None);
    socket
}
