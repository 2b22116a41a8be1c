//! Workers over loopback ports: forwarding, drops, answers, handovers, fairness, and what a packet may not cost.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

use buf::{Checksum, Extent, Frame, Offload, Pool, Segment, SegmentKind};
use engine::{
    Armed, DropReason, OffloadCapabilities, PortIndex, RxQueue, RxReport, TxQueue, TxReport, Unobserved,
};
use packet::MacAddr;
use ports::loopback::{LoopbackRx, LoopbackTx, loopback};
use ports::null::{NullRx, NullTx};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use switch::{Clock, Control, Progress, SwitchConfig, Worker};
use tables::{Endpoint, Location, PortProfile};
use towpath_switch as switch;

/// Counts calls: time passes whenever somebody looks.
#[derive(Default)]
struct Ticks(u64);

impl Clock for Ticks {
    fn cycles(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

fn mac(port: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, (port >> 8) as u8, port as u8])
}

fn address(port: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, (port >> 8) as u8, port as u8)
}

/// A UDP packet of one port to another; the payload starts with `number`.
fn udp(from: u16, to: u16, number: u16) -> Vec<u8> {
    let mut frame = [mac(to).0, mac(from).0].concat();
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(address(from).octets());
    frame.extend(address(to).octets());
    frame.extend([3, 232, 3, 233, 0, 26, 0, 0]);
    frame.extend(number.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// The guest's side of a port.
struct Guest {
    sends: LoopbackTx,
    receives: LoopbackRx,
    pool: Pool,
}

impl Guest {
    fn send(&mut self, frame: &[u8]) {
        let report = self.sends.send(&[Frame::from_head(frame, Offload::NONE)]);
        assert_eq!(report.sent, 1);
        self.sends.flush();
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut burst = buf::Burst::new();
            self.receives.poll(&mut burst);
            if burst.is_empty() {
                return frames;
            }
            frames.extend((0..burst.len()).map(|index| burst.frame(index).unwrap().to_vec()));
            self.receives.complete();
        }
    }
}

struct World {
    control: Control,
    workers: Vec<Worker>,
    guests: Vec<Guest>,
}

impl World {
    fn new(workers: usize, ports: u16) -> Self {
        let mut world = Self::without_stepping(workers, ports);
        world.step();
        world
    }

    fn without_stepping(workers: usize, ports: u16) -> Self {
        let (control, workers) = Control::new(&SwitchConfig {
            workers,
            pool_chunks: 4096,
            secret: [1, 2],
            sessions: 1024,
            huge_pages: false,
            timeouts: tables::sessions::Timeouts::default(),
            now: 0,
        })
        .unwrap();
        let mut world = Self { control, workers, guests: Vec::new() };
        for port in 0..ports {
            let index = PortIndex(port);
            world.add_port(port);
            let pool = Pool::new(1024);
            let (rx, sends) = loopback(&pool, 256, || {});
            let (receives, tx) = loopback(&pool, 256, || {});
            world.control.attach_rx(index, 0, Box::new(rx)).unwrap();
            world.control.attach_tx(index, 0, Box::new(tx)).unwrap();
            world.guests.push(Guest { sends, receives, pool });
        }
        world
    }

    fn add_port(&mut self, port: u16) {
        let (index, ip) = (PortIndex(port), IpAddr::V4(address(port)));
        self.control.add_port(index, PortProfile::new(1, mac(port), 1500, &[ip], &[]));
        let location = Location::Local(index.0);
        self.control.place_mac(1, mac(port), location);
        self.control.place_endpoint(0, ip, Endpoint { mac: mac(port), subnet: 1, location });
    }

    fn step(&mut self) -> Progress {
        let mut total = Progress::default();
        for worker in 0..self.workers.len() {
            let progress = self.step_one(worker);
            total.packets += progress.packets;
            total.handovers += progress.handovers;
            total.polls += progress.polls;
        }
        total
    }

    fn step_one(&mut self, worker: usize) -> Progress {
        self.workers[worker].step(0, &mut Ticks::default(), &mut Unobserved)
    }

    fn drops(&self, port: u16) -> Vec<(DropReason, u64)> {
        self.control.counters(PortIndex(port)).unwrap().drops
    }
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u16> {
    frames.iter().map(|frame| u16::from_be_bytes([frame[42], frame[43]])).collect()
}

#[test]
fn packets_reach_the_port_with_their_destination_and_no_other() {
    let mut world = World::new(1, 3);
    for number in 0..100 {
        let frame = udp(0, 1 + number % 2, number);
        world.guests[0].send(&frame);
    }
    while world.step().packets > 0 {}
    assert_eq!(numbers(&world.guests[1].receive()), (0..100).step_by(2).collect::<Vec<_>>());
    assert_eq!(numbers(&world.guests[2].receive()), (1..100).step_by(2).collect::<Vec<_>>());
    assert!(world.guests[0].receive().is_empty());
    let sent = world.control.counters(PortIndex(0)).unwrap();
    assert_eq!((sent.rx_packets, sent.rx_bytes, sent.dropped()), (100, 6000, 0));
    assert_eq!(world.control.counters(PortIndex(1)).unwrap().tx_packets, 50);
}

#[test]
fn what_is_not_delivered_has_a_name() {
    let mut world = World::new(1, 2);
    let mut multicast = udp(0, 1, 0);
    multicast[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 0xfb]);
    for frame in [udp(0, 9, 0), udp(0, 0, 0), multicast, udp(1, 0, 0)] {
        world.guests[0].send(&frame);
    }
    world.step();
    use DropReason::{Hairpin, Multicast, SpoofedMac, UnknownUnicast};
    assert_eq!(world.drops(0), [(SpoofedMac, 1), (UnknownUnicast, 1), (Multicast, 1), (Hairpin, 1)]);
    assert!(world.guests.iter_mut().all(|guest| guest.receive().is_empty()));
}

#[test]
fn what_is_longer_than_the_receivers_mtu_is_dropped_and_nothing_else() {
    let mut world = World::new(1, 3);
    let with_length = |to: u16, length: usize, offload: Offload| {
        let mut frame = udp(0, to, 0);
        frame.resize(length, 0);
        frame[16..18].copy_from_slice(&(length as u16 - 14).to_be_bytes());
        frame[38..40].copy_from_slice(&(length as u16 - 34).to_be_bytes());
        (frame, offload)
    };
    let segments = |size: u16| Offload {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        segment: Some(Segment { kind: SegmentKind::Udp, ecn: false, size }),
        tunnel: 0,
    };
    let set_mtu = |world: &mut World, port: u16, mtu: u16| {
        let ip = IpAddr::V4(address(port));
        world.control.set_profile(PortIndex(port), PortProfile::new(1, mac(port), mtu, &[ip], &[]));
        world.step();
    };
    set_mtu(&mut world, 1, 1400);
    let send = |world: &mut World, (frame, offload): (Vec<u8>, Offload)| {
        let (head, body) = frame.split_at(frame.len().min(128));
        let body = [Extent::from_slice(body)];
        let length = body[0].len();
        world.guests[0].sends.send(&[Frame::new(head, &body, length, offload)]);
        world.guests[0].sends.flush();
        while world.step().packets > 0 {}
    };
    for mtu in [1400, 1500] {
        set_mtu(&mut world, 1, mtu);
        let limit = usize::from(mtu) + 14;
        let before: u64 = world.drops(0).iter().map(|(_, count)| count).sum();
        send(&mut world, with_length(1, limit, Offload::NONE));
        send(&mut world, with_length(1, limit + 1, Offload::NONE));
        // Longer than the MTU on the way, but not when it is cut.
        send(&mut world, with_length(1, 4000, segments(mtu - 28)));
        send(&mut world, with_length(1, 4000, segments(mtu - 27)));
        let lengths: Vec<_> = world.guests[1].receive().iter().map(Vec::len).collect();
        assert_eq!(lengths, [limit, 4000], "MTU {mtu}");
        assert_eq!(world.drops(0), [(DropReason::TooLarge, before + 2)]);
    }
    send(&mut world, with_length(2, 1514, Offload::NONE));
    assert_eq!(world.guests[2].receive().len(), 1, "one receiver's MTU is not another's");
}

#[test]
fn arp_is_answered_by_the_switch_and_goes_nowhere_else() {
    let mut world = World::new(1, 3);
    let mut request = [vec![0xff; 6], mac(0).0.to_vec(), vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    request.extend(mac(0).0);
    request.extend(address(0).octets());
    request.extend([0; 6]);
    request.extend(address(2).octets());
    request.resize(60, 0);
    world.guests[0].send(&request);
    world.step();
    let answers = world.guests[0].receive();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0][20..22], [0, 2], "a reply");
    assert_eq!(answers[0][22..28], mac(2).0);
    assert_eq!(answers[0][28..32], address(2).octets());
    assert!(world.guests[1].receive().is_empty() && world.guests[2].receive().is_empty());
}

#[test]
fn s13_a_receiver_that_is_slow_loses_only_what_is_for_it() {
    let mut world = World::new(1, 3);
    for number in 0..250u16 {
        world.guests[0].send(&udp(0, 1, number));
    }
    while world.step().packets > 0 {}
    for number in 0..100u16 {
        world.guests[0].send(&udp(0, 1 + number % 2, number));
    }
    while world.step().packets > 0 {}
    assert_eq!(world.guests[2].receive().len(), 50);
    let received = world.guests[1].receive().len() as u64;
    assert_eq!(world.drops(0), [(DropReason::ReceiverFull, 300 - received)]);
    assert!(received >= 250);
}

#[test]
fn l15_a_removed_port_receives_nothing_and_its_index_is_free_after_all_workers_know() {
    let mut world = World::new(2, 2);
    let mut removals = vec![world.control.remove_port(PortIndex(1))];
    assert_eq!(world.control.finish_removals(&mut removals), []);
    world.guests[0].send(&udp(0, 1, 0));
    world.step();
    assert_eq!(world.control.finish_removals(&mut removals), [PortIndex(1)]);
    assert_eq!(removals, []);
    assert_eq!(world.drops(0), [(DropReason::ReceiverStopped, 1)]);
    assert!(world.guests[1].receive().is_empty());
}

#[test]
fn a_queue_in_use_elsewhere_gets_its_packets_handed_over_in_order() {
    let mut world = World::new(2, 2);
    let (sender, receiver) = (PortIndex(0), PortIndex(1));
    let (sending, owning) = (world.control.home(sender).unwrap(), world.control.home(receiver).unwrap());
    assert_ne!(sending, owning, "ports spread over workers");
    let World { control, workers, guests } = &mut world;
    let mut step = |worker: usize| workers[worker].step(0, &mut Ticks::default(), &mut Unobserved);
    guests[0].send(&udp(0, 1, 0));
    // While somebody holds the receiver's queue, the sender's worker cannot.
    control.with_tx(receiver, 0, |_| step(sending)).unwrap();
    // Now it could, but what was handed over is still on its way.
    guests[0].send(&udp(0, 1, 1));
    step(sending);
    assert!(guests[1].receive().is_empty());
    assert_eq!(step(owning).handovers, 2);
    guests[0].send(&udp(0, 1, 2));
    step(sending);
    assert_eq!(numbers(&guests[1].receive()), [0, 1, 2]);
    assert_eq!(control.counters(receiver).unwrap().handed_over, 2);
    assert_eq!(control.pool().available(), 4096);
}

#[test]
fn packets_for_a_queue_that_a_control_thread_holds_wait_and_nobody_else_does() {
    let mut world = World::new(1, 3);
    let World { control, workers, guests } = &mut world;
    let mut step = || workers[0].step(0, &mut Ticks::default(), &mut Unobserved);
    for number in 0..20 {
        guests[0].send(&udp(0, 1 + number % 2, number));
    }
    control.with_tx(PortIndex(1), 0, |_| step()).unwrap();
    assert_eq!(numbers(&guests[2].receive()), (1..20).step_by(2).collect::<Vec<_>>());
    // While the queue is taken again, what comes waits behind what waits.
    guests[0].send(&udp(0, 1, 20));
    control.with_tx(PortIndex(1), 0, |_| step()).unwrap();
    assert!(guests[1].receive().is_empty());
    guests[0].send(&udp(0, 1, 22));
    assert_eq!(step().handovers, 11);
    assert_eq!(numbers(&guests[1].receive()), (0..23).step_by(2).collect::<Vec<_>>());
    assert_eq!(control.counters(PortIndex(0)).unwrap().dropped(), 0);
    assert_eq!(control.pool().available(), 4096);
}

#[test]
fn a_worker_with_packets_that_wait_does_not_sleep() {
    let mut world = World::new(1, 2);
    let World { control, workers, guests } = &mut world;
    guests[0].send(&udp(0, 1, 7));
    control.with_tx(PortIndex(1), 0, |_| workers[0].step(0, &mut Ticks::default(), &mut Unobserved)).unwrap();
    assert_eq!(workers[0].arm(0), Armed::Ready);
    workers[0].step(0, &mut Ticks::default(), &mut Unobserved);
    assert_eq!(numbers(&guests[1].receive()), [7]);
    assert_eq!(workers[0].arm(0), Armed::Quiet);
}

#[test]
fn two_workers_and_a_control_thread_at_one_queue_lose_nothing() {
    const ROUNDS: u16 = 100;
    const WINDOW: u16 = 50;
    // Not stepped here: a receive queue belongs to the thread that first polls it.
    let mut world = World::without_stepping(2, 3);
    let World { control, workers, guests } = &mut world;
    let stop = AtomicBool::new(false);
    let receiver = PortIndex(2);
    let mut received = [Vec::new(), Vec::new()];
    let (_further, tx) = loopback(&Pool::new(8), 8, || {});
    let mut further: Option<Box<dyn TxQueue>> = Some(Box::new(tx));
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    worker.step(0, &mut Ticks::default(), &mut Unobserved);
                    std::thread::yield_now();
                }
            });
        }
        for round in 0..ROUNDS {
            for number in round * WINDOW..(round + 1) * WINDOW {
                guests[0].send(&udp(0, 2, number));
                guests[1].send(&udp(1, 2, number));
            }
            // Nobody sends on this pair, so nothing is steered to it.
            control.attach_tx(receiver, 1, further.take().unwrap()).unwrap();
            further = control.detach_tx(receiver, 1);
            let wanted = usize::from((round + 1) * WINDOW);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            while received.iter().any(|numbers| numbers.len() < wanted)
                && std::time::Instant::now() < deadline
            {
                control.with_tx(receiver, 0, |_| std::hint::black_box(())).unwrap();
                for frame in guests[2].receive() {
                    received[usize::from(frame[11])].extend(numbers(&[frame]));
                }
            }
        }
        stop.store(true, Relaxed);
    });
    for (port, received) in received.iter().enumerate() {
        assert_eq!(control.counters(PortIndex(port as u16)).unwrap().drops, []);
        assert_eq!(*received, (0..ROUNDS * WINDOW).collect::<Vec<_>>(), "from port {port}, in order");
    }
}

#[test]
fn what_a_removed_port_had_handed_over_is_counted_when_it_is_lost() {
    let mut world = World::new(2, 2);
    let (sender, receiver) = (PortIndex(0), PortIndex(1));
    let (sending, owning) = (world.control.home(sender).unwrap(), world.control.home(receiver).unwrap());
    let shard = world.control.shard(sender, owning).unwrap().clone();
    let World { control, workers, guests } = &mut world;
    let mut step = |worker: usize| workers[worker].step(0, &mut Ticks::default(), &mut Unobserved);
    guests[0].send(&udp(0, 1, 0));
    control.with_tx(receiver, 0, |_| step(sending)).unwrap();
    control.remove_port(sender);
    control.detach_tx(receiver, 0);
    assert_eq!(step(owning).handovers, 1);
    assert_eq!(shard.dropped(DropReason::ReceiverStopped), 1);
    assert_eq!(control.pool().available(), 4096);
}

#[test]
fn a_flood_does_not_keep_a_quiet_queue_waiting() {
    let mut world = World::new(1, 2);
    for flooding in 2..10 {
        world.add_port(flooding);
        let index = PortIndex(flooding);
        world.control.attach_rx(index, 0, Box::new(NullRx::endless(udp(flooding, 9, 0)))).unwrap();
        world.control.attach_tx(index, 0, Box::new(NullTx)).unwrap();
    }
    for _ in 0..20 {
        world.step();
    }
    world.guests[0].send(&udp(0, 1, 7));
    let progress = world.step();
    assert_eq!(numbers(&world.guests[1].receive()), [7], "one burst of somebody else's at most");
    assert!(progress.packets <= 33, "{progress:?}");
}

#[test]
fn a_worker_that_is_armed_is_quiet_and_ready_when_something_came() {
    let mut world = World::new(1, 2);
    assert_eq!(world.workers[0].arm(0), Armed::Quiet);
    world.workers[0].disarm();
    world.guests[0].send(&udp(0, 1, 7));
    assert_eq!(world.workers[0].arm(0), Armed::Ready);
    world.step();
    assert_eq!(numbers(&world.guests[1].receive()), [7]);
}

/// A queue whose looks at the guest's wish always come too early: only `settle` sees it.
struct Late<Q> {
    queue: Q,
    /// Set while something waits for being settled.
    waits: Arc<AtomicBool>,
}

impl<Q> Late<Q> {
    fn new(queue: Q) -> (Box<Self>, Arc<AtomicBool>) {
        let waits = Arc::new(AtomicBool::new(false));
        (Box::new(Self { queue, waits: waits.clone() }), waits)
    }
}

impl<Q: TxQueue> TxQueue for Late<Q> {
    fn capabilities(&self) -> OffloadCapabilities {
        self.queue.capabilities()
    }
    fn send(&mut self, frames: &[Frame<'_, '_>]) -> TxReport {
        self.queue.send(frames)
    }
    fn flush(&mut self) {
        self.queue.flush();
        self.waits.store(true, Relaxed);
    }
    fn settle(&mut self) {
        self.waits.store(false, Relaxed);
    }
}

impl<Q: RxQueue> RxQueue for Late<Q> {
    fn poll<'q>(&'q mut self, burst: &mut buf::Burst<'q>) -> RxReport {
        self.queue.poll(burst)
    }
    fn complete(&mut self) {
        self.queue.complete();
        self.waits.store(true, Relaxed);
    }
    fn settle(&mut self) {
        self.waits.store(false, Relaxed);
    }
    fn arm(&mut self) -> Armed {
        self.queue.arm()
    }
    fn disarm(&mut self) {
        self.queue.disarm();
    }
}

#[test]
fn g42_no_wish_for_an_interrupt_is_missed_however_many_queues_were_used_in_a_step() {
    const PORTS: u16 = 150;
    let mut world = World::without_stepping(1, 0);
    let pool = Pool::new(4096);
    let (mut waits, mut ends) = (Vec::new(), Vec::new());
    for port in 0..PORTS {
        world.add_port(port);
        let (rx, sends) = loopback(&pool, 8, || {});
        let (receives, tx) = loopback(&pool, 8, || {});
        let ((rx, rx_waits), (tx, tx_waits)) = (Late::new(rx), Late::new(tx));
        world.control.attach_rx(PortIndex(port), 0, rx).unwrap();
        world.control.attach_tx(PortIndex(port), 0, tx).unwrap();
        waits.push((rx_waits, tx_waits));
        ends.push((sends, receives));
    }
    while world.step_one(0).commands > 0 {}
    for (port, (sends, _)) in (0..PORTS).zip(&mut ends) {
        sends.send(&[Frame::from_head(&udp(port, (port + 1) % PORTS, port), Offload::NONE)]);
        sends.flush();
    }
    assert_eq!(world.step().packets, u32::from(PORTS));
    for _ in 0..64 {
        world.step();
    }
    let waiting = waits.iter().filter(|(rx, tx)| rx.load(Relaxed) || tx.load(Relaxed)).count();
    assert_eq!(waiting, 0, "queues with an interrupt that nobody will send");
}

#[test]
fn a_packet_costs_no_allocation() {
    let mut world = World::new(1, 2);
    let frames: Vec<_> = (0..32).map(|number| udp(0, 1, number)).collect();
    let round = |world: &mut World| {
        frames.iter().for_each(|frame| world.guests[0].send(frame));
        let allocations = allocation_counter::measure(|| {
            assert_eq!(world.step().packets, 32);
        });
        assert_eq!(world.guests[1].receive().len(), 32);
        allocations.count_total
    };
    round(&mut world);
    for _ in 0..50 {
        assert_eq!(round(&mut world), 0);
    }
    assert_eq!(world.guests[1].pool.available(), 1024);
}
