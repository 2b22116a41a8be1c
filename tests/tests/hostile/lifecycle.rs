//! L: front ends that come, go and change their mind while packets move.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use towpath_tests::Result;
use towpath_tests::hostile::guest::{Options, RX, RawGuest, TX, addresses, eventfd};
use towpath_tests::hostile::stage::{Attack, LIMIT, Must, PASS, Stage};
use towpath_tests::hostile::wire::{Request, Wire, u32s, u64s};
use virtio_driver::features;

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn l_03_every_message_while_the_queue_is_busy() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        s.case("L-03", options, Must::Survive, |attack| {
            let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
            // Another thread keeps the ring full; the ring's bytes are the only thing both know.
            let (mut ring, good) = (attack.guest.tx().clone(), attack.guest.good());
            let kick = attack.guest.kicks[TX].try_clone()?;
            for _ in 0..ring.size {
                ring.chain(&[good])?;
            }
            thread::scope(|scope| -> Result<()> {
                let sender = scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let back = ring.used().map_or(0, |used| used.len());
                        for _ in 0..back {
                            sent.fetch_add(u64::from(ring.chain(&[good]).is_ok()), Relaxed);
                        }
                        let _ = rustix::io::write(&kick, &1u64.to_ne_bytes());
                        thread::yield_now();
                    }
                });
                // On a machine that gives the sender little time, once more.
                let (mut said, end) = (say_everything(attack, 40 * crate::longer()), Instant::now() + LIMIT);
                while said.is_ok() && sent.load(Relaxed) <= 1_000 && Instant::now() < end {
                    said = say_everything(attack, 1);
                }
                stop.store(true, Relaxed);
                sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
                let sent = sent.load(Relaxed);
                said?;
                ensure!(sent > 1_000, "only {sent} packets were under way");
                Ok(())
            })?;
            // What was available at the end is taken; nothing is lost or twice in the ring.
            let counts = attack.stage.counts(&attack.port)?;
            ensure!(!counts.contains_key("ring_corrupt") && !counts.contains_key("bad_chain"), "{counts:?}");
            Ok(())
        });
    }
    stage.finish(4)
}

/// Each message that may come at any time, some times over, the queues running before and after.
fn say_everything(attack: &mut Attack<'_>, rounds: u64) -> Result<()> {
    let bits = attack.guest.features();
    for round in 0..rounds {
        let guest = &attack.guest;
        let number = u64s(&[TX as u64]);
        guest.wire.done(Request::SET_VRING_CALL, &number, &[eventfd()?.as_fd()])?;
        guest.wire.done(Request::SET_VRING_ERR, &number, &[eventfd()?.as_fd()])?;
        guest.wire.done(Request::SET_VRING_KICK, &number, &[guest.kicks[TX].as_fd()])?;
        guest.wire.done(Request::SET_VRING_ENABLE, &u32s(&[TX as u32, 0]), &[])?;
        guest.wire.done(Request::SET_VRING_ENABLE, &u32s(&[TX as u32, 1]), &[])?;
        guest.wire.done(Request::SET_VRING_ADDR, &addresses(TX as u32, 0, guest.ring_addresses(TX)), &[])?;
        guest.wire.refused(Request::SET_VRING_NUM, &u32s(&[TX as u32, 32]), &[])?;
        guest.wire.done(Request::SET_FEATURES, &u64s(&[bits | features::LOG_ALL]), &[])?;
        guest.wire.done(Request::SET_FEATURES, &u64s(&[bits]), &[])?;
        guest.give_memory()?;
        guest.wire.ask(Request::GET_STATUS, &[], &[])?;
        guest.wire.ask(Request::GET_CONFIG, &[u32s(&[0, 6, 0]), vec![0; 6]].concat(), &[])?;
        guest.wire.done(Request::SEND_RARP, &[2, 0, 0, 0, 1, 3, 0, 0], &[])?;
        guest.wire.done(Request::NET_SET_MTU, &u64s(&[1500]), &[])?;
        let base = guest.stop(TX)?;
        guest.start_from(TX, base)?;
        let base = guest.stop(RX)?;
        guest.start_from(RX, base)?;
        while attack.stage.peer.try_receive()?.is_some() {}
        if round % 10 == 0 {
            attack.stage.rounds(1)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn l_05_l_06_l_10_l_11_v_30_ends_and_beginnings() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    // L-06: after each refused message the next works.
    let counted = Must::Count(&[("queue_size", 30), ("region_count", 30), ("mtu", 30), ("queue_value", 30)]);
    s.case("L-06", Options::SPLIT, counted, |attack| {
        for _ in 0..30 {
            let wire = &attack.guest.wire;
            wire.refused(Request::SET_VRING_NUM, &u32s(&[TX as u32, 0]), &[])?;
            wire.refused(Request::SET_MEM_TABLE, &u32s(&[0, 0]), &[])?;
            wire.refused(Request::NET_SET_MTU, &u64s(&[3]), &[])?;
            wire.refused(Request::SET_VRING_ENABLE, &u32s(&[TX as u32, 2]), &[])?;
            attack.sync()?;
            attack.until_used(TX, 1)?;
        }
        Ok(())
    });
    for options in Options::ALL {
        s.try_case("L-11 buffers before, and no kick ever", PASS, |stage, port| {
            let mut guest = RawGuest::connect(port, &stage.peer_port(), options)?;
            let good = guest.good();
            (0..3).try_for_each(|_| guest.tx().chain(&[good]).map(drop))?;
            guest.negotiate()?;
            guest.give_memory()?;
            guest.start(RX)?;
            guest.start(TX)?;
            let mut attack = Attack { guest, stage, port: port.clone() };
            attack.arrive(3)
        });
    }
    let bad: [Vec<u8>; 4] = [vec![], vec![0; 40], b"TPVU".repeat(10), vec![0xff; 2000]];
    for blob in bad {
        s.try_case("L-10", Must::Count(&[("state_content", 1)]), |stage, port| {
            let guest = RawGuest::connect(port, &stage.peer_port(), Options::SPLIT)?;
            guest.negotiate()?;
            let (reading, writing) = std::io::pipe()?;
            // Load, stopped.
            guest.wire.ask(Request::SET_DEVICE_STATE_FD, &u32s(&[1, 0]), &[reading.as_fd()])?;
            rustix::io::write(writing.as_fd(), &blob)?;
            drop(writing);
            let answer = guest.wire.ask(Request::CHECK_DEVICE_STATE, &[], &[])?.number()?;
            ensure!(answer != 0, "a state was taken that is none");
            Ok(())
        });
    }
    // V-30: a second front end on a live port, and many.
    s.case("V-30", Options::SPLIT, Must::Survive, |attack| {
        // Each beyond the first few waits for its turn.
        for _ in 0..40 {
            drop(Wire::connect(&attack.port.socket));
        }
        attack.sync()?;
        let counts = attack.stage.counts(&attack.port)?;
        ensure!(counts.contains_key("second_front_end") && counts.contains_key("connect_rate"), "{counts:?}");
        attack.stage.rounds(2)
    });
    port_removed(&mut stage)?;
    stage.finish(10)
}

/// L-05: a port is taken away while its front end talks without pause. Both ends are quick, and the port can come again.
fn port_removed(stage: &mut Stage) -> Result<()> {
    for _ in 0..5 {
        let port = stage.next_port();
        let guest = RawGuest::attach(&port, &stage.peer_port(), Options::SPLIT)?;
        let all = stage.ports().to_vec();
        let left: Vec<_> = all.iter().filter(|other| other.name != port.name).cloned().collect();
        let stop = AtomicBool::new(false);
        let took = thread::scope(|scope| -> Result<Duration> {
            scope.spawn(|| {
                let mut said = 0;
                while !stop.load(Relaxed) && guest.give_memory().is_ok() {
                    said += 1;
                }
                said
            });
            stage.daemon().write_ports(&left)?;
            let begin = Instant::now();
            let reloaded = stage.daemon().reload();
            stop.store(true, Relaxed);
            reloaded?;
            guest.wire.until_closed(LIMIT)?;
            Ok(begin.elapsed())
        })?;
        ensure!(took < Duration::from_secs(3), "L-05: it took {took:?}");
        drop(guest);
        stage.daemon().write_ports(&all)?;
        stage.daemon().reload()?;
        let mut again = towpath_tests::frontend::Frontend::attach_within(&port.socket, LIMIT)?;
        stage.until_phase(&port, "Forwarding")?;
        let peer = stage.peer_port();
        towpath_tests::frontend::ping_pong((&mut again, &port), (&mut stage.peer, &peer), 3, LIMIT)?;
    }
    Ok(())
}
