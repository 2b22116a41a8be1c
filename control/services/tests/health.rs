//! Health checks against guests that are well, that are not, and that mean harm; in virtual time.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: what is wrong ends the test"
)]

mod support;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use support::{GATEWAY_MAC, IP, IP6, MAC, ethernet};
use towpath_services::Refusal;
use towpath_services::health::{
    Check, LOCAL_PORTS, MOST_TARGETS, Outcome, Place, Prober, Protocol, Station, TargetId, Verdict,
};

const SECOND: Duration = Duration::from_secs(1);
const PORT: u16 = 5;
const LISTENS_AT: u16 = 8080;

/// What a guest does with a connection.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// Nobody listens.
    Refuses,
    /// Takes it, says nothing, and closes when the other does.
    Accepts,
    /// Answers what it is asked with these bytes.
    Says(&'static [u8]),
    /// One byte of an answer per second.
    Drips,
    /// An endless header.
    Pours,
    /// Breaks off as soon as it is asked.
    HangsUp,
    /// Is not there.
    Dead,
}

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

fn gateway(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { "10.0.1.1".parse().unwrap() } else { "fd00:10:0:1::1".parse().unwrap() }
}

fn station(address: IpAddr) -> Station {
    Station { port: PORT, mac: MAC, gateway_mac: GATEWAY_MAC, gateway: gateway(address), address, mtu: 1450 }
}

fn id(target: IpAddr) -> TargetId {
    let shared = if target.is_ipv4() { "10.0.100.1" } else { "fd00:10::100" };
    TargetId { vpc: 3, shared: shared.parse().unwrap(), target }
}

fn tcp() -> Check {
    Check {
        protocol: Protocol::Tcp,
        port: LISTENS_AT,
        interval: SECOND * 5,
        timeout: SECOND * 2,
        unhealthy_after: 3,
        healthy_after: 2,
    }
}

fn http() -> Check {
    Check { protocol: Protocol::Http { path: "/healthz?full=1".into() }, ..tcp() }
}

/// One guest, who is a target, and who checks it.
struct Bench {
    prober: Prober,
    habit: Habit,
    place: Place,
    target: IpAddr,
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    listener: SocketHandle,
    asked: Vec<u8>,
    now: Duration,
    next_drip: Duration,
    dripped: usize,
    frames: usize,
    refusals: Vec<Refusal>,
}

impl Bench {
    fn new(check: Check, habit: Habit) -> Self {
        Self::at(check, habit, IpAddr::V4(IP))
    }

    fn at(check: Check, habit: Habit, target: IpAddr) -> Self {
        let mut wire = Wire::default();
        let now = SECOND * 100;
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = 3;
        let mut interface = Interface::new(config, &mut wire, Instant::from_secs(100));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::from(IpAddr::V4(IP)), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddress::from(IpAddr::V6(IP6)), 64)).unwrap();
        });
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || SocketBuffer::new(vec![0; 64 * 1024]);
        let listener = sockets.add(Socket::new(buffer(), buffer()));
        let mut prober = Prober::new(9);
        assert!(prober.set(id(target), check, now));
        let place = Place::Here(station(target));
        Self {
            prober,
            habit,
            place,
            target,
            interface,
            wire,
            sockets,
            listener,
            asked: Vec::new(),
            now,
            next_drip: now,
            dripped: 0,
            frames: 0,
            refusals: Vec::new(),
        }
    }

    fn deliver(&mut self, frames: Vec<(u16, Vec<u8>)>) {
        for (port, frame) in frames {
            assert_eq!(port, PORT);
            assert_eq!((&frame[..6], &frame[6..12]), (&MAC.0[..], &GATEWAY_MAC.0[..]));
            self.frames += 1;
            if self.habit != Habit::Dead {
                self.wire.received.push_back(frame[14..].to_vec());
            }
        }
    }

    fn act(&mut self) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.listener);
        if matches!(socket.state(), State::Closed | State::TimeWait) && self.habit != Habit::Refuses {
            socket.abort();
            socket.listen(LISTENS_AT).unwrap();
            (self.dripped, self.asked) = (0, Vec::new());
        }
        if matches!(self.habit, Habit::Refuses | Habit::Dead) && socket.state() == State::Listen {
            socket.abort();
        }
        if let Ok(got) = socket.recv(|bytes| (bytes.len(), bytes.to_vec())) {
            self.asked.extend(got);
        }
        let is_asked = !self.asked.is_empty();
        match self.habit {
            Habit::Says(answer) if is_asked => {
                self.asked.clear();
                let _ = socket.send_slice(answer);
                socket.close();
            }
            Habit::Drips if is_asked && socket.may_send() && self.now >= self.next_drip => {
                self.next_drip = self.now + SECOND;
                let _ = socket.send_slice(&b"HTTP/1.1 200 OK"[self.dripped..=self.dripped]);
                self.dripped += 1;
            }
            Habit::Pours => {
                let _ = socket.send_slice(b"HTTP/1.1 200 OK\r\n");
                while socket.can_send() && socket.send_slice(&[b'x'; 1000]).is_ok_and(|sent| sent > 0) {}
            }
            Habit::HangsUp if is_asked => {
                self.asked.clear();
                socket.abort();
            }
            _ => {}
        }
        if socket.state() == State::CloseWait {
            socket.close();
        }
    }

    /// Until nobody has anything to say at this moment.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never ends");
            self.act();
            let at = Instant::from_micros(self.now.as_micros() as i64);
            self.interface.poll(at, &mut self.wire, &mut self.sockets);
            let Some(packet) = self.wire.sent.pop_front() else {
                if self.wire.received.is_empty() { break } else { continue }
            };
            let kind = if packet[0] >> 4 == 6 { 0x86dd } else { 0x0800 };
            let frame = ethernet(GATEWAY_MAC, MAC, kind, &packet);
            match self.prober.on_frame(PORT, &frame, self.now) {
                Ok(frames) => self.deliver(frames),
                Err(refusal) => self.refusals.push(refusal),
            }
        }
    }

    /// Lets time pass, everything due done when it is.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.prober.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline.max(self.now + Duration::from_micros(1));
            let place = self.place;
            let frames = self.prober.on_tick(self.now, |_| place);
            self.deliver(frames);
            self.settle();
            self.prober.speak(self.now);
        }
        self.now = end.max(self.now);
        self.settle();
    }

    fn verdict(&self) -> (Verdict, Option<Outcome>) {
        let health = self.prober.health(&id(self.target)).unwrap();
        (health.verdict, health.last)
    }

    /// Until the verdict is another, at most so long; how long it took.
    fn until(&mut self, wanted: Verdict, most: Duration) -> Duration {
        let began = self.now;
        while self.verdict().0 != wanted {
            assert!(self.now - began <= most, "still {:?}", self.verdict());
            self.pass(Duration::from_millis(100));
        }
        self.now - began
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

#[test]
fn who_takes_connections_or_answers_is_up_at_once() {
    for target in [IpAddr::V4(IP), IpAddr::V6(IP6)] {
        let cases: [(Check, Habit, Outcome); 3] = [
            (tcp(), Habit::Accepts, Outcome::Connects),
            (http(), Habit::Says(OK), Outcome::Status(200)),
            (http(), Habit::Says(b"HTTP/1.0 302 Found\r\n\r\n"), Outcome::Status(302)),
        ];
        for (check, habit, outcome) in cases {
            let mut bench = Bench::at(check, habit, target);
            assert_eq!(bench.verdict(), (Verdict::Unknown, None));
            assert!(bench.prober.health(&id(target)).unwrap().is_up(), "unknown counts as up");
            bench.pass(SECOND * 2);
            assert_eq!(bench.verdict(), (Verdict::Up, Some(outcome)));
            assert_eq!(bench.prober.changes(), [id(target)]);
            bench.pass(SECOND * 60);
            assert_eq!((bench.verdict(), bench.prober.changes()), ((Verdict::Up, Some(outcome)), vec![]));
            assert_eq!(bench.refusals, []);
        }
    }
}

#[test]
fn a_request_is_one_that_servers_understand() {
    let mut bench = Bench::new(http(), Habit::Accepts);
    bench.pass(SECOND * 2);
    let expected = format!(
        "GET /healthz?full=1 HTTP/1.1\r\nHost: {IP}:8080\r\nUser-Agent: towpath-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(String::from_utf8(bench.asked.clone()).unwrap(), expected);
}

#[test]
fn who_is_not_well_is_down_after_so_many_checks_and_up_again_after_so_many() {
    let bad: [(Check, Habit, Outcome); 9] = [
        (tcp(), Habit::Refuses, Outcome::Refused),
        (tcp(), Habit::Dead, Outcome::NoConnection),
        (http(), Habit::Refuses, Outcome::Refused),
        (http(), Habit::Dead, Outcome::NoConnection),
        (http(), Habit::Accepts, Outcome::NoAnswer),
        (http(), Habit::Drips, Outcome::NoAnswer),
        (http(), Habit::HangsUp, Outcome::Ended),
        (http(), Habit::Says(b"SSH-2.0-OpenSSH_9.6\r\n"), Outcome::NotHttp),
        (http(), Habit::Says(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Outcome::Status(503)),
    ];
    for (check, habit, outcome) in bad {
        let well = if check == tcp() { Habit::Accepts } else { Habit::Says(OK) };
        let mut bench = Bench::new(check, well);
        bench.until(Verdict::Up, SECOND * 2);
        bench.pass(SECOND * 7);
        bench.habit = habit;
        // The third bad check ends at most a timeout after it began.
        let took = bench.until(Verdict::Down, SECOND * 18);
        assert!(took >= SECOND * 10, "{outcome:?} {took:?}");
        assert_eq!(bench.verdict(), (Verdict::Down, Some(outcome)));
        let since = bench.prober.health(&id(bench.target)).unwrap().since;
        assert!(bench.now - since <= Duration::from_millis(100), "just now");
        bench.pass(SECOND * 30);
        bench.habit = well;
        bench.asked.clear();
        let took = bench.until(Verdict::Up, SECOND * 12);
        assert!(took >= SECOND * 5, "{outcome:?} {took:?}");
        assert_eq!(bench.prober.changes().len(), 1);
    }
}

#[test]
fn now_and_then_a_bad_check_changes_nothing() {
    let mut bench = Bench::new(tcp(), Habit::Accepts);
    bench.until(Verdict::Up, SECOND * 2);
    for _ in 0..5 {
        bench.habit = Habit::Refuses;
        bench.pass(SECOND * 10);
        bench.habit = Habit::Accepts;
        bench.pass(SECOND * 5);
        assert_eq!(bench.verdict().0, Verdict::Up);
    }
}

#[test]
fn a_target_that_pours_or_drips_costs_a_bounded_number_of_frames() {
    for (habit, outcome) in [(Habit::Pours, Outcome::Status(200)), (Habit::Drips, Outcome::NoAnswer)] {
        let mut bench = Bench::new(http(), habit);
        bench.pass(SECOND * 2);
        bench.frames = 0;
        bench.pass(SECOND * 50);
        // Ten checks; of each 64 KiB at most are taken, a window of 1 KiB at a time.
        assert!((10..=10 * 140).contains(&bench.frames), "{}", bench.frames);
        assert_eq!(bench.verdict().1, Some(outcome));
    }
}

#[test]
fn what_is_of_no_check_is_refused() {
    let mut bench = Bench::new(tcp(), Habit::Dead);
    let frames = loop {
        let due = bench.prober.next_deadline().unwrap();
        let place = bench.place;
        let frames = bench.prober.on_tick(due, |_| place);
        bench.prober.speak(due);
        bench.now = due;
        if !frames.is_empty() {
            break frames;
        }
    };
    let question = &frames[0].1;
    let local = u16::from_be_bytes([question[34], question[35]]);
    assert!(LOCAL_PORTS.contains(&local));
    let answer = |source: IpAddr, to: u16, flags: u8| {
        let IpAddr::V4(source) = source else { panic!() };
        let mut packet = question[14..].to_vec();
        packet[12..16].copy_from_slice(&source.octets());
        packet[16..20].copy_from_slice(&[10, 0, 1, 1]);
        packet[20..24].copy_from_slice(&[LISTENS_AT.to_be_bytes(), to.to_be_bytes()].concat());
        let sequence = u32::from_be_bytes(question[38..42].try_into().unwrap());
        packet[28..32].copy_from_slice(&(sequence + 1).to_be_bytes());
        packet[33] = flags;
        ethernet(GATEWAY_MAC, MAC, 0x0800, &packet)
    };
    const RST_ACK: u8 = 0x14;
    let target = IpAddr::V4(IP);
    let other = "10.0.1.99".parse().unwrap();
    let refused = [
        (PORT + 1, answer(target, local, RST_ACK), Refusal::NotForUs),
        (PORT, answer(target, local ^ 1, RST_ACK), Refusal::NotForUs),
        (PORT, answer(target, 80, RST_ACK), Refusal::NotForUs),
        (PORT, answer(other, local, RST_ACK), Refusal::ForeignAddress),
        (PORT, answer(target, local, RST_ACK)[..40].to_vec(), Refusal::Headers),
    ];
    for (port, frame, refusal) in refused {
        assert_eq!(bench.prober.on_frame(port, &frame, bench.now), Err(refusal));
    }
    assert_eq!(bench.verdict(), (Verdict::Unknown, None));
    // A storm of resets ends this check and no other.
    for _ in 0..1000 {
        let _ = bench.prober.on_frame(PORT, &answer(target, local, RST_ACK), bench.now);
    }
    assert_eq!(bench.verdict(), (Verdict::Unknown, Some(Outcome::Refused)));
    bench.prober.remove(&id(target));
    assert_eq!((bench.prober.health(&id(target)), bench.prober.next_deadline()), (None, None));
}

#[test]
fn there_is_a_most() {
    let mut prober = Prober::new(1);
    let target = |number: usize| id(IpAddr::from([10, 1, (number >> 8) as u8, number as u8]));
    assert!((0..MOST_TARGETS).all(|number| prober.set(target(number), tcp(), SECOND)));
    assert!(!prober.set(target(MOST_TARGETS), tcp(), SECOND));
    assert!(prober.set(target(0), http(), SECOND), "one that is there may be changed");
    prober.remove(&target(1));
    assert!(prober.set(target(MOST_TARGETS), tcp(), SECOND));
    // All at once are under way, and end by themselves.
    let here = |id: &TargetId| Place::Here(Station { address: id.target, ..station(id.target) });
    let mut now = SECOND;
    let mut sent = 0;
    while now < SECOND * 17 {
        now = prober.next_deadline().unwrap().max(now);
        sent += prober.on_tick(now, here).len();
        prober.speak(now);
    }
    assert!(sent >= 3 * MOST_TARGETS);
    let down = |number| prober.health(&target(number)).is_some_and(|health| health.verdict == Verdict::Down);
    assert_eq!((0..=MOST_TARGETS).filter(|number| down(*number)).count(), MOST_TARGETS);
}

/// Two hosts that look after the same target, which lives at the first; for the second that is behind tunnel end point 4.
struct Two {
    holder: Bench,
    other: Prober,
    place: Place,
    /// The words of the holder reach the other.
    linked: bool,
}

impl Two {
    fn new(habit: Habit) -> Self {
        let holder = Bench::new(tcp(), habit);
        let mut other = Prober::new(2);
        other.set(id(holder.target), tcp(), holder.now);
        Self { holder, other, place: Place::There(4), linked: true }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.holder.now + time;
        while self.holder.now < end {
            let here = self.holder.place;
            self.holder.now += Duration::from_millis(50);
            let now = self.holder.now;
            let frames = self.holder.prober.on_tick(now, |_| here);
            self.holder.deliver(frames);
            self.holder.settle();
            for (vpc, payload) in self.holder.prober.speak(now) {
                if self.linked {
                    let place = self.place;
                    self.other.on_word((vpc, 4), &payload, now, |_| place).unwrap();
                }
            }
            let place = self.place;
            assert_eq!(self.other.on_tick(now, |_| place), [], "it is not asked from here");
            assert_eq!(self.other.speak(now), [], "and nothing said of it");
        }
    }

    fn seen(&self) -> (Verdict, Option<Outcome>) {
        let health = self.other.health(&id(self.holder.target)).unwrap();
        (health.verdict, health.last)
    }
}

#[test]
fn other_hosts_hear_it_and_miss_who_falls_silent() {
    let mut two = Two::new(Habit::Accepts);
    two.linked = false;
    two.pass(SECOND * 20);
    assert_eq!(two.seen(), (Verdict::Unknown, None), "whose host never spoke counts as up");
    two.linked = true;
    two.pass(SECOND * 3);
    assert_eq!(two.seen(), (Verdict::Up, Some(Outcome::Connects)));
    assert_eq!(two.other.by_word_of(&id(two.holder.target)), Some(4));
    two.other.changes();
    two.holder.habit = Habit::Refuses;
    for _ in 0..18 * 20 {
        two.pass(Duration::from_millis(50));
        // At once, not with the next round.
        assert_eq!(two.seen().0, two.holder.verdict().0);
    }
    assert_eq!(two.seen(), (Verdict::Down, Some(Outcome::Refused)));
    assert_eq!(two.other.changes(), [id(two.holder.target)]);
    two.holder.habit = Habit::Accepts;
    two.pass(SECOND * 12);
    assert_eq!(two.seen(), (Verdict::Up, Some(Outcome::Connects)));
    two.linked = false;
    two.pass(SECOND * 4);
    assert_eq!(two.seen().0, Verdict::Up, "a word or two may be lost");
    two.pass(SECOND * 5);
    assert_eq!(two.seen(), (Verdict::Down, Some(Outcome::Silent)));
    two.linked = true;
    two.pass(SECOND * 3);
    assert_eq!(two.seen(), (Verdict::Up, Some(Outcome::Connects)));
}

#[test]
fn nobody_is_believed_about_others_targets() {
    let mut two = Two::new(Habit::Refuses);
    let mut words = Vec::new();
    for _ in 0..400 {
        let here = two.holder.place;
        two.holder.now += Duration::from_millis(50);
        let frames = two.holder.prober.on_tick(two.holder.now, |_| here);
        two.holder.deliver(frames);
        two.holder.settle();
        words.extend(two.holder.prober.speak(two.holder.now));
    }
    assert_eq!(two.holder.verdict().0, Verdict::Down);
    let (vpc, payload) = words.last().unwrap();
    let now = two.holder.now;
    for (from, place) in [
        ((*vpc, 5), Place::There(4)),
        ((*vpc + 1, 4), Place::There(4)),
        ((*vpc, 4), two.holder.place),
        ((*vpc, 4), Place::Nowhere),
    ] {
        two.other.on_word(from, payload, now, |_| place).unwrap();
        assert_eq!(two.seen(), (Verdict::Unknown, None));
    }
    assert_eq!(two.other.on_word((*vpc, 4), b"TPH2....", now, |_| Place::There(4)), Err(Refusal::Format));
    two.other.on_word((*vpc, 4), payload, now, |_| Place::There(4)).unwrap();
    assert_eq!(two.seen().0, Verdict::Down);
    // It moves to this host: what another knew of it there is of no use.
    let place = two.holder.place;
    two.other.on_tick(now + SECOND * 8, |_| place);
    assert_eq!(two.seen().0, Verdict::Unknown);
}

proptest! {
    #[test]
    fn whatever_a_guest_sends_the_check_ends(
        changes in proptest::collection::vec((14..66usize, any::<u8>()), 0..12),
        cut in 0..80usize,
    ) {
        let mut bench = Bench::new(http(), Habit::Says(OK));
        let end = bench.now + SECOND * 30;
        while bench.now < end {
            bench.now = bench.prober.next_deadline().unwrap().max(bench.now + Duration::from_millis(1));
            let place = bench.place;
            let frames = bench.prober.on_tick(bench.now, |_| place);
            bench.prober.speak(bench.now);
            bench.deliver(frames);
            for _ in 0..20 {
                bench.act();
                let at = Instant::from_micros(bench.now.as_micros() as i64);
                bench.interface.poll(at, &mut bench.wire, &mut bench.sockets);
                let Some(packet) = bench.wire.sent.pop_front() else { break };
                let mut frame = ethernet(GATEWAY_MAC, MAC, 0x0800, &packet);
                for (at, value) in &changes {
                    // Not what it is found by.
                    if let Some(byte) = frame.get_mut(*at)
                        && !(26..38).contains(at)
                    {
                        *byte = *value;
                    }
                }
                frame.truncate(frame.len().saturating_sub(cut.saturating_sub(60)));
                if let Ok(frames) = bench.prober.on_frame(PORT, &frame, bench.now) {
                    prop_assert!(frames.len() <= 8);
                    bench.deliver(frames);
                }
            }
        }
        prop_assert!(bench.verdict().1.is_some());
    }
}
