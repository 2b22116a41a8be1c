//! V: settings of queues, their descriptors, and stopping them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::ensure;
use rustix::event::EventfdFlags;
use towpath_tests::hostile::guest::{BUFFERS, Options, RX, RawGuest, SIZE, TX, addresses, eventfd};
use towpath_tests::hostile::ring::{Desc, Ring};
use towpath_tests::hostile::stage::{Holdings, LIMIT, Must, PASS, Stage};
use towpath_tests::hostile::wire::{NO_DESCRIPTOR, Request, u32s, u64s};
use towpath_tests::{Result, wait};

/// A front end with features and memory; no queue of it runs.
fn ready(
    stage: &mut Stage,
    name: &str,
    options: Options,
    must: Must<'_>,
    body: impl FnOnce(&mut RawGuest) -> Result<()>,
) {
    stage.try_case(name, must, |stage, port| {
        let mut guest = RawGuest::connect(port, &stage.peer_port(), options)?;
        guest.negotiate()?;
        guest.give_memory()?;
        body(&mut guest)
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_05_to_v_09_sizes_indices_and_order() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for size in [0, 3, 32_769, 65_536, 0x1_0000_u32 << 4, u32::MAX] {
        ready(s, "V-05", Options::SPLIT, Must::Count(&[("queue_size", 1)]), |guest| {
            guest.wire.refused(Request::SET_VRING_NUM, &u32s(&[0, size]), &[])?;
            guest.start(RX)
        });
    }
    let process = s.daemon().process().id();
    let again = 2_000 * crate::longer();
    ready(s, "V-05 again and again", Options::SPLIT, Must::Count(&[("queue_size", again)]), |guest| {
        let before = Holdings::of(process)?;
        for _ in 0..again {
            guest.wire.refused(Request::SET_VRING_NUM, &u32s(&[0, 65_536]), &[])?;
        }
        wait::until("nothing to be held", LIMIT, || Ok(Holdings::of(process)?.within(&before).then_some(())))
    });
    for index in [2, 3, 255, 256, 0x1_0000, u32::MAX] {
        for request in [
            Request::SET_VRING_NUM,
            Request::SET_VRING_BASE,
            Request::SET_VRING_ENABLE,
            Request::SET_VRING_ADDR,
            Request::SET_VRING_CALL,
        ] {
            // Two queue pairs are offered to a front end at the least; these are beyond all that a port can have.
            let beyond = if index < 256 { index + 256 } else { index };
            let value = if request == Request::SET_VRING_ENABLE { 1 } else { 64 };
            ready(
                s,
                "V-06, V-09",
                Options::SPLIT,
                Must::Count(&[("queue_index", 1)]),
                |guest| match request {
                    Request::SET_VRING_ADDR => {
                        guest.wire.refused(request, &addresses(beyond, 0, guest.ring_addresses(0)), &[])
                    }
                    Request::SET_VRING_CALL => {
                        let number = u64s(&[u64::from(beyond) << 9 | NO_DESCRIPTOR]);
                        guest.wire.refused(request, &number, &[])
                    }
                    _ => guest.wire.refused(request, &u32s(&[beyond, value]), &[]),
                },
            );
        }
    }
    ready(s, "V-06 GET_VRING_BASE", Options::SPLIT, Must::Count(&[("queue_index", 1)]), |guest| {
        // Its answer is a number: there is none that says no.
        ensure!(guest.wire.send(Request::GET_VRING_BASE, &u32s(&[0x1_0000, 0]), &[]));
        guest.wire.until_closed(LIMIT)
    });
    s.try_case("V-07", PASS, |stage, port| {
        // Everything about queues first: taken down, and nothing runs.
        let guest = RawGuest::connect(port, &stage.peer_port(), Options::SPLIT)?;
        let wire = &guest.wire;
        for index in 0..2u32 {
            let value = u64s(&[u64::from(index)]);
            ensure!(wire.send(Request::SET_VRING_NUM, &u32s(&[index, 64]), &[]));
            ensure!(wire.send(Request::SET_VRING_KICK, &value, &[guest.kicks[index as usize].as_fd()]));
            ensure!(wire.send(Request::SET_VRING_ENABLE, &u32s(&[index, 1]), &[]));
        }
        wire.ask(Request::GET_FEATURES, &[], &[])?;
        ensure!(stage.phase(port)? == "Connected");
        Ok(())
    });
    for options in Options::LAYOUTS {
        ready(s, "V-08", options, PASS, |guest| {
            let fresh = guest.tx().fresh_base();
            ensure!(guest.stop(TX)? == fresh);
            guest.wire.done(Request::SET_VRING_BASE, &u32s(&[TX as u32, 7]), &[])?;
            ensure!(guest.stop(TX)? == 7);
            Ok(())
        });
    }
    stage.finish(40)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_15_v_17_ring_addresses() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::LAYOUTS {
        type Change = fn(&RawGuest, [u64; 3]) -> [u64; 3];
        let wrong: [(&str, &str, Change); 6] = [
            ("V-15 unaligned", "ring_unaligned", |_, [d, used, avail]| [d + 8, used, avail]),
            ("V-15 outside", "ring_outside_memory", |_, [_, used, avail]| [0x1000, used, avail]),
            ("V-15 nowhere", "ring_outside_memory", |_, [d, _, avail]| [d, u64::MAX - 3, avail]),
            ("V-15 overlapping", "ring_overlap", |_, [d, _, avail]| [d, d, avail]),
            ("V-15 the same", "ring_overlap", |_, [d, used, _]| [d, used, used]),
            ("V-17 past the region", "ring_outside_memory", |guest, [_, used, avail]| {
                let last = guest.memory[2].user_base() + guest.memory[2].len() as u64;
                [last - 16 * u64::from(SIZE - 1), used, avail]
            }),
        ];
        for (name, counter, change) in wrong {
            s.try_case(name, Must::Count(&[(counter, 1)]), |stage, port| {
                let guest = RawGuest::connect(port, &stage.peer_port(), options)?;
                guest.negotiate()?;
                guest.give_memory()?;
                guest.start(RX)?;
                let payload = addresses(TX as u32, 0, change(&guest, guest.ring_addresses(TX)));
                let number = u64s(&[TX as u64]);
                guest.wire.done(Request::SET_VRING_NUM, &u32s(&[TX as u32, u32::from(SIZE)]), &[])?;
                guest.wire.done(
                    Request::SET_VRING_BASE,
                    &u32s(&[TX as u32, guest.rings[TX].fresh_base()]),
                    &[],
                )?;
                let _taken = guest.wire.acknowledged(Request::SET_VRING_ADDR, &payload, &[])?;
                guest.wire.done(Request::SET_VRING_KICK, &number, &[guest.kicks[TX].as_fd()])?;
                guest.wire.done(Request::SET_VRING_ENABLE, &u32s(&[TX as u32, 1]), &[])?;
                ensure!(stage.phase(port)? == "Connected", "a ring runs that is nowhere");
                Ok(())
            });
        }
    }
    for base in [0x8000_8040_u32, 0xffff_ffff] {
        ready(
            s,
            "V-15 a base beyond the ring",
            Options::PACKED,
            Must::Count(&[("ring_refused", 1)]),
            |guest| guest.start_from(TX, base),
        );
    }
    stage.finish(14)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_19_v_34_stopping_where_it_stands() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        s.case("V-19", options, PASS, |attack| {
            // More than the ring has, so that a packed ring's counters wrap.
            for _ in 0..100 {
                attack.sync()?;
                attack.until_used(TX, 1)?;
            }
            let base = attack.guest.stop(TX)?;
            ensure!(base == attack.guest.tx().base(), "V-19: {base:#x} after 100 packets");
            attack.guest.start_from(TX, base)?;
            attack.sync()?;
            for number in 0..70u64 {
                let at = BUFFERS + 0x1000 * (number % 32);
                attack.guest.rx().chain(&[Desc::writable(at, 2048)])?;
                attack.guest.kick(RX);
                attack.send_to_guest(1)?;
                attack.until_used(RX, 1)?;
            }
            let base = attack.guest.stop(RX)?;
            ensure!(base == attack.guest.rx().base(), "V-19: {base:#x} after 70 packets");
            Ok(())
        });
        for request in [Request::SET_STATUS, Request::RESET_DEVICE] {
            s.case("V-34", options, PASS, |attack| {
                let payload = if request == Request::SET_STATUS { u64s(&[0]) } else { vec![] };
                for _ in 0..6 {
                    let good = attack.guest.good();
                    (0..40).try_for_each(|_| attack.guest.tx().chain(&[good]).map(drop))?;
                    attack.guest.kick(TX);
                    attack.guest.wire.done(request, &payload, &[])?;
                    attack.arrive_at_most(40)?;
                    attack.guest.wire.done(Request::SET_FEATURES, &u64s(&[attack.guest.features()]), &[])?;
                    attack.guest.rings.iter_mut().try_for_each(Ring::reset)?;
                    attack.guest.start(RX)?;
                    attack.guest.start(TX)?;
                    attack.sync()?;
                }
                Ok(())
            });
        }
    }
    stage.finish(12)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_20_descriptors_that_are_no_events() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let (reading, writing) = std::io::pipe()?;
    drop(reading);
    let kinds: [(&str, OwnedFd); 5] = [
        ("a file", tempfile::tempfile()?.into()),
        ("a folder", File::open("/")?.into()),
        ("a socket", UnixStream::pair()?.0.into()),
        ("a closed pipe", writing.into()),
        ("/dev/zero", File::options().read(true).write(true).open("/dev/zero")?.into()),
    ];
    for (kind, fd) in &kinds {
        for request in [Request::SET_VRING_KICK, Request::SET_VRING_CALL, Request::SET_VRING_ERR] {
            s.case(
                &format!("V-20 {kind}"),
                Options::SPLIT,
                Must::Count(&[("event_descriptor", 1)]),
                |attack| {
                    attack.guest.wire.refused(request, &u64s(&[TX as u64]), &[fd.as_fd()])?;
                    attack.sync()
                },
            );
        }
    }
    // A counter that gives one at a time, and one whose writes would block.
    for flags in [EventfdFlags::SEMAPHORE, EventfdFlags::empty()] {
        for options in Options::LAYOUTS {
            s.case("V-20 odd counters", options, PASS, |attack| {
                let event = rustix::event::eventfd(0, flags | EventfdFlags::CLOEXEC)?;
                let number = u64s(&[TX as u64]);
                attack.guest.wire.done(Request::SET_VRING_CALL, &number, &[event.as_fd()])?;
                rustix::io::write(&event, &(u64::MAX - 2).to_ne_bytes())?;
                for _ in 0..10 {
                    attack.sync()?;
                    attack.until_used(TX, 1)?;
                }
                attack.guest.wire.done(Request::SET_VRING_KICK, &number, &[event.as_fd()])?;
                // Rung for ever, as it is never read empty by a semaphore's readers.
                attack.stage.rounds(3)?;
                let own = attack.guest.kicks[TX].as_fd();
                attack.guest.wire.done(Request::SET_VRING_KICK, &number, &[own])?;
                attack.sync()
            });
        }
    }
    // The kick of one queue as the call of the same: it rings itself.
    s.case("V-20 a queue that rings itself", Options::SPLIT, PASS, |attack| {
        let both = eventfd()?;
        let number = u64s(&[TX as u64]);
        attack.guest.wire.done(Request::SET_VRING_CALL, &number, &[both.as_fd()])?;
        attack.guest.wire.done(Request::SET_VRING_KICK, &number, &[both.as_fd()])?;
        attack.guest.kicks[TX] = both;
        (0..20).try_for_each(|_| attack.sync().and_then(|()| attack.until_used(TX, 1).map(drop)))?;
        attack.stage.rounds(3)
    });
    stage.finish(20)
}
