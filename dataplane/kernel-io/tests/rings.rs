//! AF_PACKET on a veth pair: what the conformance suite cannot ask of a wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use buf::{Checksum, Offload, Segment, SegmentKind};
use engine::{Armed, QueueFault};
use ports::conformance::{Traffic, numbered, receive, receive_all, send_one, send_short};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use support::{
    End, Waiter, arrived, enter_namespace, ip, open, plain, receive_when_there, tc, until_up, veth,
};
use towpath_kernel_io::{Error, Interface, LinkState, Options, Statistics};

/// The smallest rings: 31 packets.
fn small() -> Options {
    Options { ring_bytes: 2 << 20, ..plain() }
}

fn ends(mtu: u32, options: &Options) -> [End; 2] {
    enter_namespace();
    veth(mtu);
    ["near", "far"].map(|ifname| open(ifname, options))
}

fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count as u64).map(|number| numbered(number, 60)).collect()
}

#[test]
#[ignore = "needs root"]
fn a_flood_over_a_full_ring_is_counted_and_leaks_nothing() {
    let [mut near, mut far] = ends(1500, &small());
    let flood = frames(1000);
    let mut dropped = 0;
    for round in 1..=5u64 {
        // More than the sender's ring holds too.
        assert_eq!(send_short(&mut *far.tx, &flood).sent, 1000);
        arrived(&near.interface, round * 1000);
        let taken = receive_all(&mut *near.rx, flood.len());
        assert_eq!(taken.len(), 31, "round {round}: every slot of the ring is in use again");
        assert!(taken.iter().map(|frame| &frame.bytes).eq(&flood[..31]), "the first ones, in order");
        dropped += 1000 - 31;
        let expected = Statistics { rx_packets: round * 31, rx_dropped: dropped, ..Statistics::default() };
        assert_eq!(near.interface.statistics(), expected);
    }
    assert_eq!(far.interface.statistics(), Statistics::default(), "nobody hears what he says");
}

#[test]
#[ignore = "needs root"]
fn tags_that_the_kernel_takes_out_are_put_back() {
    let [mut near, mut far] = ends(9000, &plain());
    for tags in [vec![0x8100u16], vec![0x88a8], vec![0x88a8, 0x8100], vec![0x8100, 0x8100]] {
        for traffic in Traffic::ALL {
            let plain = traffic.packet(3000);
            let mut bytes = plain[..12].to_vec();
            for (at, tag) in tags.iter().enumerate() {
                bytes.extend(tag.to_be_bytes());
                bytes.extend((0x6000 | (100 + at as u16)).to_be_bytes());
            }
            bytes.extend(&plain[12..]);
            let Checksum::Partial { start, offset } = traffic.partial() else { unreachable!() };
            let mut offload = Offload::NONE;
            offload.checksum = Checksum::Partial { start: start + 4 * tags.len() as u16, offset };
            for (from, to) in [(&mut far.tx, &mut near.rx), (&mut near.tx, &mut far.rx)] {
                for asked in [Offload::NONE, offload] {
                    assert_eq!(send_one(&mut **from, &bytes, 2, asked).sent, 1);
                    let taken = receive_when_there(&mut **to, 1);
                    assert_eq!(taken[0].bytes, bytes, "{tags:x?} {traffic:?}");
                    assert_eq!(taken[0].offload, asked, "{tags:x?} {traffic:?}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn large_packets_cross_whole_both_ways() {
    let [mut near, mut far] = ends(1500, &plain());
    for (traffic, kind) in [
        (Traffic::Tcp4, SegmentKind::TcpV4),
        (Traffic::Tcp6, SegmentKind::TcpV6),
        (Traffic::Udp4, SegmentKind::Udp),
    ] {
        // Up to the longest frame that the kernel does not cut itself (`gso_max_size`).
        let headers = usize::from(traffic.l4_offset()) + 20;
        for payload in [1449, 20_000, 65_000 - headers, 65_535 - headers] {
            let bytes = traffic.packet(payload);
            let mut offload = Offload::NONE;
            offload.checksum = traffic.partial();
            offload.segment = Some(Segment { kind, ecn: false, size: 1400 });
            for (from, to) in [(&mut far.tx, &mut near.rx), (&mut near.tx, &mut far.rx)] {
                assert_eq!(send_one(&mut **from, &bytes, 20, offload).sent, 1, "{payload}");
                let taken = receive_when_there(&mut **to, 1);
                assert!(taken[0].bytes == bytes, "{traffic:?}, {payload} bytes are other bytes");
                assert_eq!(taken[0].offload, offload);
            }
        }
    }
    let too_long = Traffic::Tcp4.packet(1461);
    assert_eq!(send_one(&mut *near.tx, &too_long, 1, Offload::NONE).too_large, 1, "the MTU is 1,500");
    let mut offload = Offload::NONE;
    offload.checksum = Traffic::Tcp4.partial();
    offload.segment = Some(Segment { kind: SegmentKind::TcpV4, ecn: false, size: 1461 });
    let uncut = Traffic::Tcp4.packet(5000);
    assert_eq!(send_one(&mut *near.tx, &uncut, 1, offload).too_large, 1, "its segments are too long");
    assert_eq!(send_one(&mut *near.tx, &[1; 13], 1, Offload::NONE).too_large, 1, "no Ethernet frame");
}

#[test]
#[ignore = "needs root"]
fn what_is_longer_than_a_slot_is_refused_and_counted() {
    let [mut near, mut far] = ends(1500, &plain());
    let bytes = Traffic::Tcp6.packet(60_000);
    let mut long = vec![1, 4, 74, 0, 0x78, 0x05, 54, 0, 16, 0]; // TCP over IPv6 in segments of 1,400 bytes
    long.extend(&bytes);
    long.resize(10 + 80_000, 7);
    ip("link set far gso_max_size 200000");
    support::send_raw("far", &long);
    assert_eq!(send_one(&mut *far.tx, &bytes, 1, Offload::NONE).too_large, 1);
    arrived(&near.interface, 1);
    let (taken, report) = receive(&mut *near.rx);
    assert_eq!((taken.len(), report.refused), (0, 1));
    assert_eq!(near.interface.statistics().rx_truncated, 1);
}

#[test]
#[ignore = "needs root"]
fn flows_are_spread_over_queue_pairs_and_stay_together() {
    enter_namespace();
    veth(1500);
    let options = Options { queue_pairs: 4, ..plain() };
    let (interface, mut queues) = Interface::open("near", &options).unwrap();
    let mut far = open("far", &plain());
    assert_eq!((queues.len(), interface.info().queue_pairs), (4, 4));
    let packets: Vec<Vec<u8>> = (0..64u8)
        .map(|flow| {
            let mut bytes = Traffic::Udp4.packet(100);
            bytes[35] = flow; // the source port's low byte
            bytes
        })
        .collect();
    let mut home = HashMap::new();
    for round in 1..=3 {
        for chunk in packets.chunks(32) {
            assert_eq!(send_short(&mut *far.tx, chunk).sent, 32);
        }
        arrived(&interface, round * packets.len() as u64);
        let mut count = 0;
        for (pair, (rx, _)) in queues.iter_mut().enumerate() {
            for frame in receive_all(&mut **rx, packets.len()) {
                count += 1;
                assert_eq!(*home.entry(frame.bytes[35]).or_insert(pair), pair, "a flow moved");
            }
        }
        assert_eq!(count, packets.len(), "each packet once");
    }
    let used: HashSet<usize> = home.values().copied().collect();
    assert!(used.len() > 1, "64 flows went to {used:?}");
    for (_, tx) in &mut queues {
        assert_eq!(send_short(&mut **tx, &frames(3)).sent, 3);
    }
    assert_eq!(receive_when_there(&mut *far.rx, 12).len(), 12, "every transmit queue works");
    assert!(interface.event_fd(3).is_some() && interface.event_fd(4).is_none());
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_removed_ends_its_queues_once() {
    let [mut near, mut far] = ends(1500, &plain());
    let waiters = [&near, &far].map(|end| Waiter::new(end.interface.event_fd(0).unwrap()));
    assert_eq!(far.rx.arm(), Armed::Quiet);
    assert_eq!(send_short(&mut *far.tx, &frames(10)).sent, 10);
    arrived(&near.interface, 10);
    let mut burst = buf::Burst::new();
    near.rx.poll(&mut burst);
    assert_eq!(burst.len(), 10);
    ip("link del near");
    let bytes: Vec<Vec<u8>> = (0..10).map(|at| burst.frame(at).unwrap().to_vec()).collect();
    assert_eq!(bytes, frames(10), "the burst outlives the interface");
    near.rx.complete();
    assert!(waiters[1].wait(1000), "whoever sleeps is woken");
    assert_eq!(near.rx.arm(), Armed::Ready);
    assert_eq!(receive(&mut *near.rx).1.fault, Some(QueueFault::Device));
    for _ in 0..3 {
        assert_eq!(near.rx.arm(), Armed::Quiet, "told once");
        assert!(!waiters[0].wait(0), "nobody is woken for nothing");
        assert_eq!(receive(&mut *near.rx).1, engine::RxReport::default());
    }
    assert_eq!(send_short(&mut *near.tx, &frames(5)).stopped, 5);
    assert!(matches!(near.interface.link_state(), Err(Error::Gone { .. })));
    assert!(matches!(near.interface.refresh(), Err(Error::Gone { .. })));

    // The other end is found out by sending, without anybody having slept.
    let report = send_short(&mut *far.tx, &frames(5));
    assert_eq!(report.sent + report.stopped, 5);
    assert_eq!(send_short(&mut *far.tx, &frames(5)).stopped, 5);
    assert_eq!(receive(&mut *far.rx).1.fault, Some(QueueFault::Device));
    assert_eq!(far.interface.statistics().tx_lost, u64::from(report.sent));
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_goes_down_comes_back() {
    let [mut near, mut far] = ends(1500, &plain());
    let waiter = Waiter::new(near.interface.event_fd(0).unwrap());
    until_up(&near.interface);
    for _ in 0..2 {
        assert_eq!(near.rx.arm(), Armed::Quiet);
        ip("link set near down");
        assert_eq!(near.interface.link_state().unwrap(), LinkState::Down);
        assert!(waiter.wait(1000), "whoever sleeps is woken");
        for _ in 0..3 {
            near.rx.disarm();
            assert_eq!(near.rx.arm(), Armed::Quiet);
            assert!(!waiter.wait(0), "and sleeps again");
        }
        assert_eq!(receive(&mut *near.rx).1, engine::RxReport::default(), "that is no fault");
        let lost = near.interface.statistics().tx_lost;
        assert_eq!(send_short(&mut *near.tx, &frames(5)).sent, 5, "nobody knows yet");
        assert_eq!(near.interface.statistics().tx_lost, lost + 5);
        assert_eq!(send_short(&mut *near.tx, &frames(5)).stopped, 5);
        ip("link set near up");
        until_up(&near.interface);
        send_short(&mut *near.tx, &frames(1));
        let _ = receive_all(&mut *far.rx, 100);
        for (from, to) in [(&mut far.tx, &mut near.rx), (&mut near.tx, &mut far.rx)] {
            assert_eq!(send_short(&mut **from, &frames(20)).sent, 20);
            let taken = receive_when_there(&mut **to, 20);
            assert!(taken.iter().map(|frame| &frame.bytes).eq(&frames(20)), "nothing old comes with them");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_link_that_takes_nothing_fills_the_ring_and_no_more() {
    let [mut near, mut far] = ends(1500, &small());
    tc("qdisc add dev near root tbf rate 800bit burst 1600 limit 1000000");
    let mut total = engine::TxReport::default();
    for _ in 0..10 {
        total.merge(send_short(&mut *near.tx, &frames(32)));
    }
    assert_eq!(total.sent + total.full, 320, "{total:?}");
    let through = receive_all(&mut *far.rx, 320).len() as u32;
    assert!((31..=31 + through + 31).contains(&total.sent), "{total:?}, {through} got through");
    let again = (0..1000).take_while(|_| send_short(&mut *near.tx, &frames(1)).full == 0).count();
    assert!(again < 40, "it is full as long as the link lets nothing through");
    tc("qdisc del dev near root");
    let patience = Instant::now() + Duration::from_secs(10);
    while send_short(&mut *near.tx, &frames(31)).sent < 31 {
        assert!(Instant::now() < patience, "every slot comes back");
        let _ = receive_all(&mut *far.rx, 320);
    }
    receive_when_there(&mut *far.rx, 31);
    assert_eq!(near.interface.statistics().tx_lost, 0);
}

#[test]
#[ignore = "needs root"]
fn a_new_mtu_holds_once_it_was_looked_for() {
    let [mut near, far] = ends(1500, &plain());
    let bytes = numbered(1, 3000);
    assert_eq!(send_one(&mut *near.tx, &bytes, 1, Offload::NONE).too_large, 1);
    ip("link set near mtu 9000");
    ip("link set far mtu 9000");
    assert!(near.interface.refresh().unwrap());
    assert!(!near.interface.refresh().unwrap());
    assert_eq!(near.interface.info().mtu, 9000);
    assert_eq!(send_one(&mut *near.tx, &bytes, 1, Offload::NONE).sent, 1);
    ip("link set near name renamed");
    until_up(&near.interface);
    drop(far);
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_when_all_is_dropped() {
    let sockets = || {
        let list = std::fs::read_to_string("/proc/thread-self/net/packet").unwrap();
        list.lines().count() - 1
    };
    let [near, far] = ends(1500, &Options { ring_bytes: 2 << 20, ..Options::default() });
    assert_eq!(sockets(), 4, "one for each queue");
    drop(near.interface);
    assert_eq!(sockets(), 4, "queues hold their sockets");
    drop((near.rx, near.tx, far));
    assert_eq!(sockets(), 0);
}

#[test]
#[ignore = "needs root"]
fn an_interface_may_be_down_when_it_is_opened() {
    enter_namespace();
    veth(1500);
    ip("link set near down");
    let options = Options { queue_pairs: 3, ..plain() };
    let (interface, mut queues) = match Interface::open("near", &options) {
        // Kernels before 6.11 can do this for one queue only.
        Err(Error::Down { .. }) => Interface::open("near", &plain()).unwrap(),
        opened => opened.unwrap(),
    };
    let mut far = open("far", &plain());
    assert_eq!(interface.link_state().unwrap(), LinkState::Down);
    ip("link set near up");
    until_up(&interface);
    assert_eq!(send_short(&mut *far.tx, &frames(20)).sent, 20);
    arrived(&interface, 20);
    let taken: usize = queues.iter_mut().map(|(rx, _)| receive_all(&mut **rx, 20).len()).sum();
    assert_eq!(taken, 20, "each packet once");
}

#[test]
#[ignore = "needs root"]
fn frames_for_others_are_asked_for_while_somebody_wants_them() {
    enter_namespace();
    veth(1500);
    let promiscuity = || {
        let output = std::process::Command::new("ip").args(["-d", "link", "show", "near"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let count = text.split("promiscuity ").nth(1).unwrap().split(' ').next().unwrap();
        count.parse::<u32>().unwrap()
    };
    let quiet = open("near", &plain());
    assert_eq!(promiscuity(), 0);
    let curious = open("near", &Options { promiscuous: true, ..plain() });
    assert_eq!(promiscuity(), 1);
    drop((curious, quiet));
    assert_eq!(promiscuity(), 0);
}
