//! The metadata service: guests' TCP against a service of the test's, and guests that misbehave.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what is wrong ends the test"
)]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use packet::MacAddr;
use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use support::{GATEWAY_MAC, IP, IP6, MAC, ethernet, icmp6, ipv4};
use towpath_services::Refusal;
use towpath_services::metadata::{
    ADDRESS_V4, ADDRESS_V6, Broken, Frame, Identity, Limits, PORT, Proxy, Read, StreamId, Upstream,
};

const SECOND: Duration = Duration::from_secs(1);
const GUEST: u16 = 5;

/// One stream at the service.
#[derive(Debug, Default)]
struct Stream {
    request: Vec<u8>,
    answer: VecDeque<u8>,
    /// The service closes when the answer is out.
    ends: bool,
    broken: bool,
    closed: u32,
    /// Bytes taken in one call; `None` for all.
    trickle: Option<usize>,
}

/// Services of the host: they answer when the test says so.
#[derive(Debug, Default)]
struct Services {
    streams: BTreeMap<StreamId, Stream>,
    opened_for: Vec<String>,
    refuses: bool,
    trickle: Option<usize>,
}

impl Upstream for Services {
    fn open(&mut self, stream: StreamId, service: &str) -> Result<(), Broken> {
        if self.refuses {
            return Err(Broken);
        }
        self.opened_for.push(service.to_owned());
        let fresh = self.streams.insert(stream, Stream { trickle: self.trickle, ..Stream::default() });
        assert!(fresh.is_none(), "a stream's number is never used again");
        Ok(())
    }

    fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Result<usize, Broken> {
        let stream = self.streams.get_mut(&stream).expect("it was opened");
        assert_eq!(stream.closed, 0);
        if stream.broken {
            return Err(Broken);
        }
        let taken = stream.trickle.unwrap_or(usize::MAX).min(bytes.len());
        stream.request.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn read(&mut self, stream: StreamId, buffer: &mut [u8]) -> Result<Read, Broken> {
        let stream = self.streams.get_mut(&stream).expect("it was opened");
        assert!(stream.closed == 0 && !buffer.is_empty());
        let length = stream.trickle.unwrap_or(usize::MAX).min(buffer.len()).min(stream.answer.len());
        for (to, from) in buffer.iter_mut().zip(stream.answer.drain(..length)) {
            *to = from;
        }
        match length {
            0 if stream.broken => Err(Broken),
            0 if stream.ends => Ok(Read::End),
            0 => Ok(Read::Nothing),
            length => Ok(Read::Bytes(length)),
        }
    }

    fn close(&mut self, stream: StreamId) {
        let stream = self.streams.get_mut(&stream).expect("it was opened");
        stream.closed += 1;
        assert_eq!(stream.closed, 1, "closed once");
    }
}

impl Services {
    fn last(&mut self) -> (StreamId, &mut Stream) {
        let (id, stream) = self.streams.iter_mut().next_back().expect("a stream");
        (*id, stream)
    }

    fn all_closed(&self) -> bool {
        self.streams.values().all(|stream| stream.closed == 1)
    }
}

/// The guest's link.
#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Token(Vec<u8>);
struct Room<'a>(&'a mut VecDeque<Vec<u8>>);

impl phy::RxToken for Token {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Token;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Token, Room<'_>)> {
        Some((Token(self.received.pop_front()?), Room(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(Room(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1450;
        capabilities
    }
}

fn identity() -> Identity {
    Identity {
        port: "vm1-eth0".into(),
        project: "default".into(),
        vpc: "blue".into(),
        mac: MAC,
        gateway_mac: GATEWAY_MAC,
        addresses: vec![IpAddr::V4(IP), IpAddr::V6(IP6)],
        mtu: 1450,
        service: "127.0.0.1:8775".into(),
    }
}

/// A guest, the proxy, the services and one clock.
struct Bench {
    proxy: Proxy,
    services: Services,
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    now: Duration,
    /// The guest hears nothing.
    deaf: bool,
    refusals: Vec<Refusal>,
    port: u16,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let mut wire = Wire::default();
        let now = SECOND * 10;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 3;
        let mut interface = Interface::new(config, &mut wire, Instant::from_secs(10));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::from(IpAddr::V4(IP)), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddress::from(IpAddr::V6(IP6)), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(Ipv4Addr::new(10, 0, 1, 1)).unwrap();
        interface.routes_mut().add_default_ipv6_route("fe80::1".parse().unwrap()).unwrap();
        let mut services = Services::default();
        let mut proxy = Proxy::new(limits, 9);
        proxy.set_port(GUEST, identity(), &mut services);
        Bench {
            proxy,
            services,
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            now,
            deaf: false,
            refusals: Vec::new(),
            port: 40_000,
        }
    }

    fn connect(&mut self, address: IpAddr) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 64 * 1024]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        self.port += 1;
        let remote = (IpAddress::from(address), PORT);
        self.sockets
            .get_mut::<Socket<'_>>(handle)
            .connect(self.interface.context(), remote, self.port)
            .unwrap();
        self.settle();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn send(&mut self, handle: SocketHandle, bytes: &[u8]) {
        assert_eq!(self.socket(handle).send_slice(bytes), Ok(bytes.len()));
        self.settle();
    }

    fn deliver(&mut self, frames: Vec<Frame>) {
        for (port, frame) in frames {
            assert_eq!(port, GUEST);
            assert_eq!((&frame[..6], &frame[6..12]), (&MAC.0[..], &GATEWAY_MAC.0[..]));
            assert!(frame.len() <= 1464);
            if !self.deaf {
                self.wire.received.push_back(frame[14..].to_vec());
            }
        }
    }

    /// Until nobody has anything to say at this moment.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never ends");
            let at = Instant::from_micros(self.now.as_micros() as i64);
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            let Some(packet) = self.wire.sent.pop_front() else {
                if self.wire.received.is_empty() { break } else { continue }
            };
            let kind = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
            let frame = ethernet(GATEWAY_MAC, MAC, kind, &packet);
            match self.proxy.on_frame(GUEST, &frame, self.now, &mut self.services) {
                Ok(frames) => self.deliver(frames),
                Err(refusal) => self.refusals.push(refusal),
            }
        }
    }

    /// The service has news.
    fn wake(&mut self) {
        let (id, _) = self.services.last();
        let frames = self.proxy.on_upstream(id, self.now, &mut self.services);
        self.deliver(frames);
        self.settle();
    }

    fn answer(&mut self, bytes: &[u8], ends: bool) {
        let (_, stream) = self.services.last();
        stream.answer.extend(bytes);
        stream.ends = ends;
        self.wake();
    }

    fn received(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let got = self.socket(handle).recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap_or_default();
            self.settle();
            if got.is_empty() {
                return all;
            }
            all.extend(got);
        }
    }

    /// Lets time pass, everything due done when it is.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.proxy.next_deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline > self.now || self.proxy.connections() > 0);
            self.now = deadline.max(self.now + Duration::from_micros(1));
            let frames = self.proxy.on_tick(self.now, &mut self.services);
            self.deliver(frames);
            self.settle();
        }
        self.now = end.max(self.now);
        self.settle();
    }

    /// The guest's side is over, and the proxy keeps nothing.
    fn assert_gone(&mut self) {
        self.pass(SECOND * 60);
        assert_eq!((self.proxy.connections(), self.proxy.next_deadline()), (0, None));
        assert!(self.services.all_closed());
    }
}

const REQUEST: &[u8] =
    b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Towpath-Port: other\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";

#[test]
fn a_request_is_forwarded_with_the_ports_identity_and_its_answer_comes_back() {
    for (address, peer) in
        [(IpAddr::V4(ADDRESS_V4), IpAddr::V4(IP)), (IpAddr::V6(ADDRESS_V6), IpAddr::V6(IP6))]
    {
        let mut bench = Bench::new(Limits::default());
        let socket = bench.connect(address);
        bench.send(socket, REQUEST);
        assert_eq!(bench.services.opened_for, ["127.0.0.1:8775"]);
        let expected = format!(
            "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Towpath-Port: vm1-eth0\r\nX-Towpath-Project: default\r\n\
             X-Towpath-Vpc: blue\r\nX-Forwarded-For: {peer}\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(String::from_utf8(bench.services.last().1.request.clone()).unwrap(), expected);
        bench.answer(ANSWER, true);
        assert_eq!(bench.received(socket), ANSWER);
        assert_eq!(bench.socket(socket).state(), State::CloseWait);
        bench.socket(socket).close();
        bench.settle();
        assert_eq!(bench.proxy.connections(), 0, "nothing is kept when both have closed");
        assert_eq!(bench.proxy.counts().forwarded, 1);
        bench.assert_gone();
    }
}

#[test]
fn heads_bodies_and_answers_come_in_any_pieces() {
    let mut bench = Bench::new(Limits::default());
    bench.services.trickle = Some(7);
    let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
    let body: Vec<u8> = (0..40_000u32).map(|i| (i % 251) as u8).collect();
    let head = format!("PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    for piece in head.as_bytes().chunks(5) {
        bench.send(socket, piece);
    }
    bench.send(socket, &body);
    // The service takes seven bytes a call; it is asked again when it says that it has room.
    for _ in 0..10_000 {
        if bench.services.last().1.request.ends_with(&body) {
            break;
        }
        bench.wake();
        // Acknowledgements may be delayed.
        bench.pass(Duration::from_millis(10));
    }
    assert!(bench.services.last().1.request.ends_with(&body));
    let answer: Vec<u8> = (0..100_000u32).map(|i| (i % 253) as u8).collect();
    bench.services.last().1.trickle = None;
    bench.answer(&answer, true);
    let mut received = bench.received(socket);
    for _ in 0..1000 {
        bench.pass(Duration::from_millis(10));
        received.extend(bench.received(socket));
    }
    assert_eq!(received, answer);
    bench.socket(socket).close();
    bench.assert_gone();
}

/// A guest may leave its segments to be cut and their checksums to be completed; here they arrive as they are.
#[test]
fn a_large_send_is_taken_in_one_piece() {
    let mut bench = Bench::new(Limits::default());
    let segment = |sequence: u32, acknowledged: u32, flags: u8, data: &[u8]| {
        let header =
            [&[0x9c, 0x40, 0, 80][..], &sequence.to_be_bytes(), &acknowledged.to_be_bytes()].concat();
        let segment = [&header[..], &[0x50, flags, 0x20, 0, 0xba, 0xad, 0, 0], data].concat();
        ethernet(GATEWAY_MAC, MAC, 0x0800, &ipv4(IP, ADDRESS_V4, 6, &segment))
    };
    let opened = bench.proxy.on_frame(GUEST, &segment(0, 0, 2, &[]), bench.now, &mut bench.services).unwrap();
    let theirs = u32::from_be_bytes(opened[0].1[38..42].try_into().unwrap()).wrapping_add(1);
    let body = vec![b'b'; 6000];
    let request = [b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n", &body[..]].concat();
    bench.proxy.on_frame(GUEST, &segment(1, theirs, 0x18, &request), bench.now, &mut bench.services).unwrap();
    assert!(bench.services.last().1.request.ends_with(&body));
}

#[test]
fn one_connection_carries_one_request() {
    let mut bench = Bench::new(Limits::default());
    let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(
        socket,
        &[REQUEST, b"GET /second HTTP/1.1\r\nHost: a\r\nX-Towpath-Port: other\r\n\r\n"].concat(),
    );
    bench.send(socket, b"GET /third HTTP/1.1\r\n\r\n");
    let request = String::from_utf8(bench.services.last().1.request.clone()).unwrap();
    assert!(request.ends_with("Connection: close\r\n\r\n") && !request.contains("second"));
    assert_eq!(bench.services.streams.len(), 1);
    bench.answer(ANSWER, true);
    assert_eq!(bench.received(socket), ANSWER);
    bench.socket(socket).close();
    bench.assert_gone();
}

#[test]
fn what_cannot_be_forwarded_is_answered_here() {
    let too_large = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".to_vec();
    let cases = [
        (b"NONSENSE\r\n\r\n".to_vec(), "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), "501"),
        (too_large, "413"),
        ([b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 9000]].concat(), "431"),
    ];
    for (request, status) in cases {
        let mut bench = Bench::new(Limits::default());
        let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
        bench.send(socket, &request);
        let answer = String::from_utf8(bench.received(socket)).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(bench.services.streams.is_empty());
        bench.socket(socket).close();
        bench.assert_gone();
        assert_eq!(bench.proxy.counts().failed, 1);
    }
}

#[test]
fn a_service_that_fails_is_a_bad_gateway_and_never_half_an_answer() {
    // It cannot be reached, breaks, or closes without a word.
    for case in 0..3 {
        let mut bench = Bench::new(Limits::default());
        bench.services.refuses = case == 0;
        let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
        bench.send(socket, REQUEST);
        if case > 0 {
            let (_, stream) = bench.services.last();
            (stream.broken, stream.ends) = (case == 1, case == 2);
            bench.wake();
        }
        assert!(bench.received(socket).starts_with(b"HTTP/1.1 502 "), "{case}");
        bench.socket(socket).close();
        bench.assert_gone();
    }
    let mut bench = Bench::new(Limits::default());
    let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(socket, REQUEST);
    bench.answer(&ANSWER[..20], false);
    bench.services.last().1.broken = true;
    bench.wake();
    assert_eq!(bench.socket(socket).state(), State::Closed, "reset, not closed");
    bench.assert_gone();
}

#[test]
fn silence_ends_a_connection() {
    // A service that never answers.
    let mut bench = Bench::new(Limits::default());
    let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(socket, REQUEST);
    bench.pass(SECOND * 14);
    assert_eq!(bench.received(socket), b"");
    bench.pass(SECOND * 2);
    assert!(bench.received(socket).starts_with(b"HTTP/1.1 504 "));
    bench.assert_gone();
    // A guest that sends half a head, one that sends nothing, one that takes nothing.
    let mut bench = Bench::new(Limits::default());
    let half = bench.connect(IpAddr::V4(ADDRESS_V4));
    let silent = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(half, b"GET / HT");
    bench.pass(SECOND * 16);
    assert!(bench.received(half).starts_with(b"HTTP/1.1 408 "));
    assert_eq!(bench.socket(silent).state(), State::Closed);
    bench.assert_gone();
    let mut bench = Bench::new(Limits::default());
    let deaf = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(deaf, REQUEST);
    bench.deaf = true;
    bench.answer(&[b'x'; 100_000], true);
    bench.assert_gone();
    assert!(bench.wire.received.is_empty());
}

#[test]
fn v31_a_byte_now_and_then_holds_no_connection_for_ever() {
    // Bytes of a head that never ends; bytes behind a request that was answered.
    for answered in [false, true] {
        let mut bench = Bench::new(Limits::default());
        let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
        if answered {
            bench.send(socket, b"NONSENSE\r\n\r\n");
        }
        let begin = bench.now;
        while bench.proxy.connections() > 0 {
            assert!(bench.now < begin + SECOND * 150, "{answered}");
            if bench.socket(socket).can_send() {
                bench.send(socket, b"x");
            }
            bench.pass(SECOND * 5);
        }
        assert!(bench.now > begin + SECOND * 100, "{answered}");
        bench.assert_gone();
    }
}

#[test]
fn a_guest_that_goes_frees_everything() {
    for close in [false, true] {
        let mut bench = Bench::new(Limits::default());
        let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
        bench.send(socket, REQUEST);
        if close {
            // Half closed: the answer still comes.
            bench.socket(socket).close();
            bench.settle();
            assert_eq!(bench.proxy.connections(), 1);
            bench.answer(ANSWER, true);
            assert_eq!(bench.received(socket), ANSWER);
        } else {
            bench.socket(socket).abort();
            bench.settle();
            assert_eq!(bench.proxy.connections(), 0);
        }
        bench.assert_gone();
    }
    let mut bench = Bench::new(Limits::default());
    let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
    bench.send(socket, REQUEST);
    bench.proxy.remove_port(GUEST, &mut bench.services);
    assert!(bench.services.all_closed());
    assert_eq!((bench.proxy.connections(), bench.proxy.next_deadline()), (0, None));
    let (id, _) = bench.services.last();
    assert_eq!(bench.proxy.on_upstream(id, bench.now, &mut bench.services), []);
}

#[test]
fn s06_connections_are_bounded_per_port_and_in_all() {
    let limits = Limits { port_connections: 3, ..Limits::default() };
    for limits in [limits, Limits { connections: 3, ..Limits::default() }] {
        let mut bench = Bench::new(limits);
        let sockets: Vec<SocketHandle> = (0..3).map(|_| bench.connect(IpAddr::V4(ADDRESS_V4))).collect();
        let late = bench.connect(IpAddr::V4(ADDRESS_V4));
        assert_eq!((bench.refusals.last(), bench.proxy.connections()), (Some(&Refusal::TooMany), 3));
        assert_eq!(bench.socket(late).state(), State::SynSent, "neither accepted nor reset: it tries again");
        assert_eq!(bench.proxy.counts().refused, bench.refusals.len() as u64);
        bench.socket(sockets[0]).abort();
        bench.pass(SECOND * 2);
        assert_eq!(bench.socket(late).state(), State::Established);
        assert_eq!(bench.proxy.connections(), 3);
    }
}

#[test]
fn many_requests_in_a_row_never_wait_for_old_connections() {
    let mut bench = Bench::new(Limits { port_connections: 2, ..Limits::default() });
    for _ in 0..200 {
        let socket = bench.connect(IpAddr::V4(ADDRESS_V4));
        bench.send(socket, REQUEST);
        bench.answer(ANSWER, true);
        assert_eq!(bench.received(socket), ANSWER);
        bench.socket(socket).close();
        bench.settle();
        bench.sockets.remove(socket);
    }
    assert_eq!((bench.proxy.counts().forwarded, bench.refusals.len()), (200, 0));
}

#[test]
fn a_syn_flood_costs_its_own_port_only() {
    let mut bench = Bench::new(Limits { port_connections: 4, ..Limits::default() });
    let syn = |port: u16| {
        let mut segment =
            [&port.to_be_bytes()[..], &PORT.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0]]
                .concat();
        segment.extend([0, 0, 0, 0]);
        ethernet(GATEWAY_MAC, MAC, 0x0800, &ipv4(IP, ADDRESS_V4, 6, &segment))
    };
    let mut answers = 0;
    for port in 0..5000 {
        answers += bench
            .proxy
            .on_frame(GUEST, &syn(port), bench.now, &mut bench.services)
            .map_or(0, |frames| frames.len());
    }
    assert_eq!((answers, bench.proxy.connections()), (4, 4));
    bench.deaf = true;
    bench.assert_gone();
}

#[test]
fn o06_only_this_port_and_only_the_service() {
    let mut bench = Bench::new(Limits::default());
    let segment = [0x9c, 0x41, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0];
    let syn = |source: Ipv4Addr, destination: Ipv4Addr| ipv4(source, destination, 6, &segment);
    let other = Ipv4Addr::new(10, 0, 1, 99);
    let mut fragment = syn(IP, ADDRESS_V4);
    fragment[6] = 0x20;
    let udp = ipv4(IP, ADDRESS_V4, 17, &[0, 53, 0, 80, 0, 8, 0, 0]);
    let cases = [
        (
            ethernet(GATEWAY_MAC, MacAddr([2, 0, 0, 0, 0, 99]), 0x0800, &syn(IP, ADDRESS_V4)),
            Refusal::ForeignHardware,
        ),
        (ethernet(GATEWAY_MAC, MAC, 0x0800, &syn(other, ADDRESS_V4)), Refusal::ForeignAddress),
        (ethernet(GATEWAY_MAC, MAC, 0x0800, &syn(IP, other)), Refusal::NotForUs),
        (ethernet(GATEWAY_MAC, MAC, 0x0800, &udp), Refusal::NotForUs),
        (ethernet(GATEWAY_MAC, MAC, 0x0800, &syn(IP, ADDRESS_V4)[..30]), Refusal::Headers),
    ];
    for (frame, refusal) in cases {
        assert_eq!(bench.proxy.on_frame(GUEST, &frame, bench.now, &mut bench.services), Err(refusal));
    }
    let frame = ethernet(GATEWAY_MAC, MAC, 0x0800, &fragment);
    assert!(bench.proxy.on_frame(GUEST, &frame, bench.now, &mut bench.services).is_err());
    let good = ethernet(GATEWAY_MAC, MAC, 0x0800, &syn(IP, ADDRESS_V4));
    assert_eq!(bench.proxy.on_frame(6, &good, bench.now, &mut bench.services), Err(Refusal::NotForUs));
    assert_eq!(bench.proxy.connections(), 0);
    // Another port of the service's is refused by a reset, at no lasting cost.
    let mut elsewhere = syn(IP, ADDRESS_V4);
    elsewhere[23] = 81;
    let reset = bench
        .proxy
        .on_frame(GUEST, &ethernet(GATEWAY_MAC, MAC, 0x0800, &elsewhere), bench.now, &mut bench.services)
        .unwrap();
    assert_eq!((reset.len(), reset[0].1[14 + 20 + 13] & 4, bench.proxy.connections()), (1, 4, 0));
}

#[test]
fn the_service_answers_pings() {
    let mut bench = Bench::new(Limits::default());
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4];
    let checksum = !support::sum(&[&echo]);
    echo[2..4].copy_from_slice(&checksum.to_be_bytes());
    let frame = ethernet(GATEWAY_MAC, MAC, 0x0800, &ipv4(IP, ADDRESS_V4, 1, &echo));
    let answer = bench.proxy.on_frame(GUEST, &frame, bench.now, &mut bench.services).unwrap();
    assert_eq!((answer[0].1[34], &answer[0].1[38..]), (0, &echo[4..]));
    let packet = icmp6(IP6, ADDRESS_V6, 64, &[128, 0, 0, 0, 0, 1, 0, 1, 9]);
    let answer = bench
        .proxy
        .on_frame(GUEST, &ethernet(GATEWAY_MAC, MAC, 0x86dd, &packet), bench.now, &mut bench.services)
        .unwrap();
    assert_eq!((answer[0].1[54], answer[0].1[62]), (129, 9));
    assert_eq!(bench.proxy.connections(), 0);
}

proptest! {
    /// Segments of any content: nothing panics, connections stay bounded, and in the end everything is gone.
    #[test]
    fn p35_any_segments_stay_within_bounds(segments in proptest::collection::vec(
        (any::<[u8; 16]>(), proptest::collection::vec(any::<u8>(), 0..60), any::<bool>()), 0..60
    )) {
        let mut bench = Bench::new(Limits { port_connections: 2, ..Limits::default() });
        for (mut header, payload, known) in segments {
            header[2..4].copy_from_slice(&PORT.to_be_bytes());
            if known {
                // From one port, so that some meet a connection.
                header[..2].copy_from_slice(&[1, 1]);
            }
            header[12] = 0x50;
            let segment = [&header[..], &[0, 0, 0, 0], &payload].concat();
            let frame = ethernet(GATEWAY_MAC, MAC, 0x0800, &ipv4(IP, ADDRESS_V4, 6, &segment));
            if let Ok(frames) = bench.proxy.on_frame(GUEST, &frame, bench.now, &mut bench.services) {
                prop_assert!(frames.len() <= 8);
            }
            prop_assert!(bench.proxy.connections() <= 2);
        }
        bench.deaf = true;
        bench.assert_gone();
    }
}
