//! G, L: a guest that writes while the switch reads, and memory that goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::fs::FallocateFlags;
use towpath_tests::Result;
use towpath_tests::hostile::guest::{BASE, BUFFERS, HOLE, Options, PACKET, RX, SCRATCH, TX};
use towpath_tests::hostile::ring::{Desc, Ring};
use towpath_tests::hostile::stage::{Attack, Must, PASS, Stage};
use virtio_driver::SharedMemory;
use virtio_driver::features;
use virtio_driver::raw::{INDIRECT, NEXT, WRITE};

/// How long each race runs.
const RACE: Duration = Duration::from_millis(250);

/// Does `step` again and again on another thread while `body` runs.
fn while_doing<T>(mut step: impl FnMut(u64) + Send, body: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Relaxed) {
                step(number);
                number += 1;
                // Both cores are busy: the other side needs its turn.
                if number.is_multiple_of(64) {
                    thread::yield_now();
                }
            }
        });
        let result = body();
        stop.store(true, Relaxed);
        result
    })
}

/// Keeps the transmit ring full of `descs` for a while, and the peer's ring empty.
fn keep_sending(attack: &mut Attack<'_>, descs: &[Desc]) -> Result<u64> {
    let (begin, mut sent, mut free) =
        (Instant::now(), 0, usize::from(attack.guest.options.size) / descs.len());
    while begin.elapsed() < RACE {
        for _ in 0..free {
            attack.guest.tx().chain(descs)?;
            sent += 1;
        }
        attack.guest.kick(TX);
        // A ring that the races broke gives nothing back.
        free = attack.guest.tx().used().map_or(0, |used| used.len());
        while attack.stage.peer.try_receive()?.is_some() {}
    }
    Ok(sent)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_29_endless_refill_of_all_kinds() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        for (name, address, len) in [("good", PACKET, 60), ("bad", HOLE, 100), ("empty", PACKET, 0)] {
            s.case(&format!("G-29 {name} chains"), options, Must::Survive, |attack| {
                let desc = if name == "good" { attack.guest.good() } else { Desc::new(address, len) };
                let sent = keep_sending(attack, &[desc])?;
                ensure!(sent > 3 * 64, "{sent} chains");
                attack.stage.rounds(3)
            });
        }
        // Receive buffers that are bad, for ever, while the peer sends.
        s.case("G-29 bad buffers", options, Must::Survive, |attack| {
            let mut ring = attack.guest.rx().clone();
            (0..64).try_for_each(|_| ring.chain(&[Desc::writable(HOLE, 2048)]).map(drop))?;
            let refill = |_| {
                let back = ring.used().map_or(0, |used| used.len());
                for _ in 0..back {
                    let _ = ring.chain(&[Desc::writable(HOLE, 2048)]);
                }
            };
            while_doing(refill, || -> Result<()> {
                let begin = Instant::now();
                while begin.elapsed() < RACE {
                    attack.send_to_guest(8)?;
                    attack.stage.rounds(1)?;
                }
                Ok(())
            })?;
            let counts = attack.stage.counts(&attack.port)?;
            ensure!(counts.get("bad_buffer").is_some_and(|count| *count > 64), "{counts:?}");
            Ok(())
        });
    }
    stage.finish(16)
}

/// Flips one field between two values while chains are offered.
fn flipping(
    stage: &mut Stage,
    name: &str,
    options: Options,
    descs: &[Desc],
    flip: impl Fn(&Ring, &SharedMemory, bool) + Send + Sync,
) {
    stage.case(name, options, Must::Survive, |attack| {
        let (ring, memory) = (attack.guest.tx().clone(), Arc::clone(&attack.guest.memory[0]));
        while_doing(|number| flip(&ring, &memory, number % 2 == 0), || keep_sending(attack, descs))?;
        attack.stage.rounds(3)
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_30_to_g_34_fields_that_change_while_they_are_read() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    s.case("G-30", Options { size: 512, ..Options::SPLIT }, Must::Survive, |attack| {
        let good = attack.guest.good();
        (0..254).try_for_each(|_| attack.guest.tx().direct(&[good]).map(drop))?;
        let raw = attack.guest.tx().split();
        let flip =
            |number: u64| drop(raw.set_available_index(if number.is_multiple_of(2) { 0xff } else { 0x100 }));
        let mut came = 0;
        while_doing(flip, || -> Result<()> {
            let begin = Instant::now();
            while begin.elapsed() < RACE {
                attack.guest.kick(TX);
                while attack.stage.peer.try_receive()?.is_some() {
                    came += 1;
                }
            }
            Ok(())
        })?;
        // Nothing but what was there under either value; head 0 twice at most, in the two slots never written.
        ensure!(came <= 256, "{came} packets");
        Ok(())
    });
    for options in Options::ALL {
        // The first descriptors of the ring, or of the tables behind it: length, address, flags.
        let place = move |ring: &Ring, index: u64| {
            16 * index + if options.indirect { ring.tables_at() } else { ring.addresses.descriptors }
        };
        let good = [Desc::new(PACKET, 20), Desc::new(PACKET + 20, 54)];
        flipping(s, "G-31", options, &good, move |ring, memory, odd| {
            for index in 0..8 {
                let _ = memory
                    .write_array(place(ring, index) + 8, &(if odd { 64u32 } else { 65_535 }).to_le_bytes());
            }
        });
        flipping(s, "G-32", options, &good, move |ring, memory, odd| {
            for index in 0..8 {
                let address = if odd { PACKET } else { HOLE };
                let _ = memory.write_array(place(ring, index), &address.to_le_bytes());
                let _ = memory.write_array(SCRATCH + 14, &(if odd { 1u16 } else { 0xffff }).to_le_bytes());
            }
        });
        flipping(s, "G-34", options, &good, move |ring, memory, odd| {
            let offset = if ring.is_split() { 12 } else { 14 };
            for index in 0..8 {
                let flags = if odd { NEXT | INDIRECT } else { WRITE };
                let _ = memory.write_array(place(ring, index) + offset, &flags.to_le_bytes());
            }
        });
    }
    stage.finish(13)
}

/// Values that each field gets in turn, around what would be right.
fn values(right: u32) -> [u32; 6] {
    [0, 1, right.wrapping_sub(1), right + 1, 0x7fff_ffff, u32::MAX]
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_41_every_length_of_the_guest_takes_every_value() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let offloads = features::NET_CSUM | features::NET_HOST_TSO4 | features::NET_HOST_USO;
    for options in Options::ALL {
        s.case("G-41 descriptors", options.with(features::NET_MRG_RXBUF), Must::Survive, |attack| {
            let good = attack.guest.good();
            for len in values(good.len) {
                attack.guest.tx().chain(&[Desc { len, ..good }])?;
                attack.guest.tx().chain(&[Desc::new(PACKET, 20), Desc::new(PACKET + 20, len)])?;
                attack.guest.rx().chain(&[Desc::writable(BUFFERS, len)])?;
            }
            if options.indirect {
                for len in values(16) {
                    attack.guest.tx().direct(&[Desc::new(SCRATCH, len).with(INDIRECT)])?;
                    attack.guest.rx().direct(&[Desc::new(SCRATCH, len).with(INDIRECT)])?;
                }
            }
            attack.guest.kick(TX);
            attack.send_to_guest(8)?;
            attack.stage.rounds(2)?;
            while attack.stage.peer.try_receive()?.is_some() {}
            let before = attack.guest.tx().used()?.len();
            attack.guest.send()?;
            attack.until_used(TX, 1)?;
            ensure!(before > 0);
            Ok(())
        });
        s.case("G-41 the header", options.with(offloads), Must::Survive, |attack| {
            let right = [54, 500, 34, 16, 0];
            for kind in [0u8, 1, 3, 4, 5, 0x81, 255] {
                for (field, right) in right.into_iter().enumerate() {
                    for value in values(right) {
                        let mut header = [0u8; 12];
                        header[0] = 1;
                        header[1] = kind;
                        header[2 + 2 * field..4 + 2 * field].copy_from_slice(&(value as u16).to_le_bytes());
                        attack.guest.write(PACKET, &header)?;
                        attack.guest.send()?;
                        attack.until_used(TX, 1)?;
                    }
                }
            }
            while attack.stage.peer.try_receive()?.is_some() {}
            attack.guest.write(PACKET, &[0; 12])?;
            attack.sync()
        });
    }
    stage.finish(8)
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn g_48_g_49_memory_that_goes_away() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    for options in Options::ALL {
        s.case("G-48 holes in the file", options, Must::Survive, |attack| {
            attack.sync()?;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(attack.guest.memory[0].fd(), flags, 0, 0x10_0000)?;
            attack.guest.kick(TX);
            attack.send_to_guest(4)?;
            attack.stage.rounds(3)
        });
        // All of it, or only what a packet or a receive buffer is in. A packet that reads as zeroes is dropped for what it is, besides.
        for (name, left) in [("all", 0), ("the packet", PACKET - BASE), ("the buffers", BUFFERS - BASE)] {
            s.case(&format!("G-49 {name}"), options, Must::Least(&[("memory_gone", 1)]), |attack| {
                attack.sync()?;
                let buffer = Desc::writable(BUFFERS, 2048);
                attack.guest.rx().chain(&[buffer])?;
                let good = attack.guest.good();
                attack.guest.tx().chain(&[good])?;
                // The guest's own mapping is not to be touched any more, so nothing is said by the ring.
                rustix::fs::ftruncate(attack.guest.memory[0].fd(), left)?;
                attack.guest.kick(TX);
                attack.guest.kick(RX);
                attack.send_to_guest(1)?;
                attack.guest.wire.until_closed(towpath_tests::hostile::stage::LIMIT)
            });
        }
    }
    s.case("G-49 unused memory", Options::SPLIT, PASS, |attack| {
        rustix::fs::ftruncate(attack.guest.memory[2].fd(), 0)?;
        attack.sync()
    });
    stage.finish(17)
}
