//! AF_XDP on a veth pair: what the conformance suite cannot ask of a wire, and the host beside it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use buf::Offload;
use engine::{Armed, QueueFault, RxReport};
use ports::conformance::{Traffic, numbered, send_one, send_short};
use support::{
    End, Waiter, arp, arrived, bytes_of, collect, enter_namespace, frame, host, ip, open, plain,
    receive_when_there, send, udp, unreachable_for, until, until_up, veth,
};
use towpath_kernel_io::{Error, Interface, LinkState, Options};

fn xdp() -> Options {
    Options { xdp: true, ring_bytes: 4 << 20, ..Options::default() }
}

/// For a port: everything is handed over.
fn port() -> Options {
    Options { xdp: true, ring_bytes: 4 << 20, ..plain() }
}

fn ends() -> [End; 2] {
    enter_namespace();
    veth(1500);
    [open("near", &port()), open("far", &plain())]
}

fn frames(count: usize) -> Vec<Vec<u8>> {
    (0..count as u64).map(|number| numbered(number, 60)).collect()
}

#[test]
#[ignore = "needs root"]
fn tunnels_are_handed_over_and_everything_else_is_the_hosts_too() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &xdp());
    assert!(near.interface.info().device.starts_with("AF_XDP (native"), "{}", near.interface.info().device);
    let with_options = {
        let mut bytes = udp(false, 4789);
        bytes[14] = 0x46;
        bytes.splice(34..34, [1, 1, 1, 1]);
        let length = (bytes.len() - 14) as u16;
        bytes[16..18].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    // The program's: these never reach the kernel. The packet socket's: copies.
    let handed_over = [udp(false, 4789), udp(true, 4789)];
    let copied = [arp(), frame(false, 1, 0, &[0; 30]), frame(true, 58, 0, &[136; 30]), with_options];
    let hosts = [udp(false, 53), frame(false, 6, 0, &[0; 30])];
    let mut probe = open("near", &plain());
    for bytes in handed_over.iter().chain(&copied).chain(&hosts) {
        send(&mut *far.tx, bytes);
    }
    let last = hosts.last().unwrap();
    let seen_by_the_kernel = until(&mut *probe.rx, |bytes| bytes == last);
    assert!(seen_by_the_kernel.iter().eq(copied.iter().chain(&hosts[..1])), "{seen_by_the_kernel:x?}");
    arrived(&near.interface, 6);
    let received: Vec<Vec<u8>> = collect(&mut *near.rx).into_iter().map(|(bytes, _)| bytes).collect();
    assert!(received.iter().eq(handed_over.iter().chain(&copied)), "{received:x?}");
    assert_eq!(near.interface.statistics().rx_packets, 6);

    // The host goes on answering, and is silent for what the program left to it.
    let before = until(&mut *far.rx, |bytes| unreachable_for(bytes, false, 53));
    assert!(!before.iter().any(|bytes| unreachable_for(bytes, false, 4789)));

    // Without the interface the kernel gets everything again.
    drop(near);
    send(&mut *far.tx, &handed_over[0]);
    until(&mut *probe.rx, |bytes| bytes == handed_over[0]);
    until(&mut *far.rx, |bytes| unreachable_for(bytes, false, 4789));
}

#[test]
#[ignore = "needs root"]
fn sleepers_are_woken_by_both_sources() {
    host();
    let mut far = open("far", &plain());
    let mut near = open("near", &xdp());
    let waiter = Waiter::new(near.interface.event_fd(0).unwrap());
    for bytes in [udp(false, 4789), arp(), udp(true, 4789), arp()] {
        while waiter.wait(0) {}
        assert_eq!(near.rx.arm(), Armed::Quiet);
        assert!(!waiter.wait(0));
        send(&mut *far.tx, &bytes);
        assert!(waiter.wait(10_000), "an event comes with the packet");
        assert_eq!(near.rx.arm(), Armed::Ready);
        near.rx.disarm();
        assert_eq!(until(&mut *near.rx, |received| *received == bytes), Vec::<Vec<u8>>::new());
    }
}

#[test]
#[ignore = "needs root"]
fn a_flood_over_a_full_ring_is_counted_and_leaks_nothing() {
    let [mut near, mut far] = ends();
    let mut sent = 0;
    for round in 0..4 {
        let mut before = 0;
        for chunk in frames(4000).chunks(25) {
            assert_eq!(send_short(&mut *far.tx, chunk).sent, 25);
            sent += 25;
            // Each chunk arrives before the next leaves: nothing is lost on the wire itself.
            arrived(&near.interface, sent);
            before = near.interface.statistics().rx_packets;
        }
        let taken = bytes_of(&receive_when_there(&mut *near.rx, 1024));
        assert!(taken.iter().eq(&frames(1024)), "round {round}: every chunk is in use again");
        assert!(collect(&mut *near.rx).is_empty());
        assert_eq!(before, (round + 1) * 1024);
    }
    assert_eq!(send_short(&mut *near.tx, &frames(500)).sent, 500);
    let taken = bytes_of(&receive_when_there(&mut *far.rx, 490));
    assert!(taken.iter().zip(&frames(500)).all(|(taken, sent)| taken == sent), "in order");
}

#[test]
#[ignore = "needs root"]
fn thousands_of_bursts_wear_nothing_out() {
    let [mut near, mut far] = ends();
    for round in 0..2000 {
        let burst = frames(1 + round % 33);
        assert_eq!(send_short(&mut *near.tx, &burst).sent as usize, burst.len(), "round {round}");
        assert_eq!(bytes_of(&receive_when_there(&mut *far.rx, burst.len())), burst);
        assert_eq!(send_short(&mut *far.tx, &burst).sent as usize, burst.len(), "round {round}");
        assert_eq!(bytes_of(&receive_when_there(&mut *near.rx, burst.len())), burst);
    }
    assert_eq!(near.interface.statistics().rx_dropped, 0);
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_is_removed_ends_its_queues_once() {
    let [mut near, mut far] = ends();
    let waiter = Waiter::new(near.interface.event_fd(0).unwrap());
    send_short(&mut *far.tx, &frames(10));
    arrived(&near.interface, 10);
    let mut burst = buf::Burst::new();
    near.rx.poll(&mut burst);
    assert_eq!(burst.len(), 10);
    ip("link del near");
    let bytes: Vec<Vec<u8>> = (0..10).map(|at| burst.frame(at).unwrap().to_vec()).collect();
    assert_eq!(bytes, frames(10), "the burst outlives the interface");
    near.rx.complete();
    assert_eq!(near.rx.arm(), Armed::Ready);
    let mut burst = buf::Burst::new();
    assert_eq!(near.rx.poll(&mut burst).fault, Some(QueueFault::Device));
    for _ in 0..3 {
        assert_eq!(near.rx.arm(), Armed::Quiet, "told once");
        let mut burst = buf::Burst::new();
        assert_eq!(near.rx.poll(&mut burst), RxReport::default());
    }
    while waiter.wait(0) {}
    assert!(!waiter.wait(20), "nobody is woken for nothing");
    assert_eq!(send_short(&mut *near.tx, &frames(5)).stopped, 5);
    assert!(matches!(near.interface.link_state(), Err(Error::Gone { .. })));
}

#[test]
#[ignore = "needs root"]
fn who_sleeps_is_woken_when_the_interface_is_removed() {
    let [mut near, _far] = ends();
    let waiter = Waiter::new(near.interface.event_fd(0).unwrap());
    assert_eq!(near.rx.arm(), Armed::Quiet);
    assert!(!waiter.wait(0));
    ip("link del near");
    assert!(waiter.wait(1000));
    assert_eq!(near.rx.arm(), Armed::Ready);
    near.rx.disarm();
    let mut burst = buf::Burst::new();
    assert_eq!(near.rx.poll(&mut burst).fault, Some(QueueFault::Device));
}

#[test]
#[ignore = "needs root"]
fn an_interface_that_goes_down_comes_back() {
    let [mut near, mut far] = ends();
    for _ in 0..2 {
        ip("link set near down");
        assert_eq!(near.interface.link_state().unwrap(), LinkState::Down);
        assert_eq!(near.rx.arm(), Armed::Quiet);
        send_short(&mut *near.tx, &frames(5));
        assert_eq!(send_short(&mut *near.tx, &frames(5)).stopped, 5);
        ip("link set near up");
        until_up(&near.interface);
        send_short(&mut *near.tx, &frames(1));
        while !collect(&mut *far.rx).is_empty() {}
        for (from, to) in [(&mut far.tx, &mut near.rx), (&mut near.tx, &mut far.rx)] {
            assert_eq!(send_short(&mut **from, &frames(20)).sent, 20);
            assert_eq!(bytes_of(&receive_when_there(&mut **to, 20)), frames(20));
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_opened_says_why() {
    enter_namespace();
    veth(9000);
    let open = |ifname: &str, options: &Options| Interface::open(ifname, options).map(drop).unwrap_err();
    assert!(matches!(open("near", &port()), Error::XdpMtu { mtu: 9000, .. }));
    ip("link set near mtu 1500");
    ip("link set far mtu 1500");
    let two = Options { queue_pairs: 2, ..port() };
    let (kept, queues) = Interface::open("near", &two).unwrap();
    assert_eq!((kept.info().queue_pairs, queues.len()), (1, 1), "veth has one receive queue");
    assert!(matches!(open("near", &port()), Error::XdpTaken { .. }));
    drop(kept);
    assert!(matches!(open("near", &port()), Error::XdpTaken { .. }), "queues hold the program");
    drop(queues);
    drop(support::open("near", &port()));
}

#[test]
#[ignore = "needs root"]
fn nothing_is_promised_that_is_not_kept() {
    let [mut near, mut far] = ends();
    assert_eq!(near.tx.capabilities(), engine::OffloadCapabilities::default());
    let bytes = Traffic::Tcp4.packet(1460);
    assert_eq!(send_one(&mut *near.tx, &bytes, 3, Offload::NONE).sent, 1);
    assert_eq!(bytes_of(&receive_when_there(&mut *far.rx, 1)), [bytes]);
    assert_eq!(send_one(&mut *near.tx, &Traffic::Tcp4.packet(1461), 1, Offload::NONE).too_large, 1);
    assert_eq!(send_one(&mut *near.tx, &[1; 13], 1, Offload::NONE).too_large, 1);
}

#[test]
#[ignore = "needs root"]
fn an_interface_may_be_down_when_it_is_opened() {
    enter_namespace();
    veth(1500);
    ip("link set near down");
    let (mut near, mut far) = (open("near", &port()), open("far", &plain()));
    ip("link set near up");
    until_up(&near.interface);
    assert_eq!(send_short(&mut *far.tx, &frames(20)).sent, 20);
    assert_eq!(bytes_of(&receive_when_there(&mut *near.rx, 20)), frames(20));
    assert_eq!(send_short(&mut *near.tx, &frames(20)).sent, 20);
    assert_eq!(bytes_of(&receive_when_there(&mut *far.rx, 20)), frames(20));
}

#[test]
#[ignore = "needs root"]
fn each_receive_queue_has_a_pair_of_its_own() {
    enter_namespace();
    ip("link add near numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2");
    ip("link set near up");
    ip("link set far up");
    let (interface, mut queues) =
        Interface::open("near", &Options { queue_pairs: 4, tunnel_port: Some(80), ..xdp() }).unwrap();
    assert_eq!((interface.info().queue_pairs, queues.len()), (2, 2));
    let mut far = open("far", &plain());
    let packets: Vec<Vec<u8>> = (0..64u8)
        .map(|flow| {
            let mut bytes = Traffic::Udp4.packet(100);
            bytes[35] = flow; // the source port's low byte
            bytes
        })
        .collect();
    let mut home = [None; 64];
    for round in 1..=3 {
        assert_eq!(send_short(&mut *far.tx, &packets).sent, 64);
        arrived(&interface, round * 64);
        let mut count = 0;
        for (pair, (rx, _)) in queues.iter_mut().enumerate() {
            for (bytes, _) in collect(&mut **rx) {
                count += 1;
                assert_eq!(*home[usize::from(bytes[35])].get_or_insert(pair), pair, "a flow moved");
            }
        }
        assert_eq!(count, 64, "each packet once");
    }
    assert!(home.contains(&Some(0)) && home.contains(&Some(1)), "both queues are used: {home:?}");
    for (_, tx) in &mut queues {
        assert_eq!(send_short(&mut **tx, &frames(3)).sent, 3);
    }
    receive_when_there(&mut *far.rx, 6);
}
