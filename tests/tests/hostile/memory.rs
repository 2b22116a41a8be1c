//! V: memory tables, the dirty log and in-flight regions.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::ensure;
use rustix::fs::{MemfdFlags, OFlags, SealFlags};
use towpath_tests::hostile::guest::{
    BASE, BUFFERS, HOLE, Options, REGION, RX, RawGuest, THIRD, TX, single, table,
};
use towpath_tests::hostile::ring::Desc;
use towpath_tests::hostile::stage::{Holdings, LIMIT, Must, PASS, Stage};
use towpath_tests::hostile::wire::{Request, u32s, u64s};
use towpath_tests::{Result, wait};
use virtio_driver::features;

fn memfd(bytes: u64) -> Result<OwnedFd> {
    let fd = rustix::fs::memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&fd, bytes)?;
    Ok(fd)
}

/// A front end with features; it has no memory yet.
fn negotiated(
    stage: &mut Stage,
    name: &str,
    options: Options,
    must: Must<'_>,
    body: impl FnOnce(&mut RawGuest) -> Result<()>,
) {
    stage.try_case(name, must, |stage, port| {
        let mut guest = RawGuest::connect(port, &stage.peer_port(), options)?;
        guest.negotiate()?;
        body(&mut guest)
    });
}

/// A table that is refused; afterwards the right one is taken.
fn refused(stage: &mut Stage, name: &str, counter: &str, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    negotiated(stage, name, Options::SPLIT, Must::Count(&[(counter, 1)]), |guest| {
        guest.wire.refused(Request::SET_MEM_TABLE, payload, fds)?;
        guest.give_memory()?;
        guest.start(RX)
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_12_to_v_18_v_23_v_24_g_50_memory_tables() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let file = memfd(REGION)?;
    let fd = file.as_fd();
    refused(s, "V-12 none", "region_count", &u32s(&[0, 0]), &[]);
    let nine: Vec<[u64; 4]> = (0..9).map(|at| [at << 22, REGION, at << 22, 0]).collect();
    negotiated(s, "V-12 nine", Options::SPLIT, Must::Survive, |guest| {
        ensure!(guest.wire.send(Request::SET_MEM_TABLE, &table(&nine), &[fd; 9]));
        guest.wire.until_closed(LIMIT)
    });
    for (claimed, descriptors) in [(1, 2), (2, 1), (u32::MAX, 1)] {
        negotiated(s, "V-12 miscounted", Options::SPLIT, Must::Count(&[("descriptor_count", 1)]), |guest| {
            let payload = [u32s(&[claimed, 0]), u64s(&[0, REGION, 0, 0])].concat();
            ensure!(guest.wire.send(Request::SET_MEM_TABLE, &payload, &[fd; 2][..descriptors]));
            guest.wire.until_closed(LIMIT)
        });
    }
    for (name, counter, region) in [
        ("V-13 size 0", "region_size", [0, 0, 0, 0]),
        ("V-13, V-16 beyond the file", "region_file_short", [0, 2 * REGION, 0, 0]),
        ("V-16 offset beyond", "region_file_short", [0, REGION, 0, REGION]),
        ("V-13 unaligned", "region_unaligned", [1, REGION, 0, 0]),
        ("V-13 unaligned", "region_unaligned", [0, REGION - 1, 0, 0]),
        ("V-13 huge", "region_file_short", [0, 1 << 62, 0, 0]),
        ("V-13 wraps", "region_wrap", [u64::MAX - 4095, REGION, 0, 0]),
        ("V-13 wraps", "region_wrap", [0, REGION, u64::MAX - 4095, 0]),
        ("V-16 wraps", "region_wrap", [0, REGION, 0, u64::MAX - 4095]),
        ("V-13 all there is", "region_wrap", [4096, u64::MAX - 4095, 4096, 4096]),
    ] {
        refused(s, name, counter, &table(&[region]), &[fd]);
    }
    for (name, other) in [
        ("V-14 guest", [REGION - 4096, REGION, 8 * REGION, 0]),
        ("V-14 user", [8 * REGION, REGION, REGION - 4096, 0]),
        ("V-14 identical", [0, REGION, 0, 0]),
    ] {
        refused(s, name, "region_overlap", &table(&[[0, REGION, 0, 0], other]), &[fd, fd]);
    }
    negotiated(s, "V-14 adjacent", Options::SPLIT, PASS, |guest| {
        let regions = [[0, REGION, 0, 0], [REGION, REGION, REGION, 0]];
        guest.wire.done(Request::SET_MEM_TABLE, &table(&regions), &[fd, fd])
    });
    let (pipe, _other) = std::io::pipe()?;
    let sealed = memfd(REGION)?;
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::FUTURE_WRITE)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let readable: OwnedFd =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    for (name, counter, fd) in [
        ("V-24 /dev/null", "region_file", File::options().read(true).write(true).open("/dev/null")?.into()),
        ("V-24 a pipe", "region_file", pipe.into()),
        ("G-50 sealed", "region_file_read_only", sealed),
        ("G-50 read-only", "region_file_read_only", readable),
    ] {
        let fd: OwnedFd = fd;
        refused(s, name, counter, &table(&[[0, REGION, 0, 0]]), &[fd.as_fd()]);
    }
    for options in Options::LAYOUTS {
        running(s, options);
        slots(s, options);
    }
    stage.finish(35)
}

/// V-18: another table while queues run.
fn running(stage: &mut Stage, options: Options) {
    stage.case("V-18 the same", options, PASS, |attack| {
        for _ in 0..50 {
            attack.guest.give_memory()?;
            attack.sync()?;
            attack.until_used(TX, 1)?;
        }
        Ok(())
    });
    stage.case("V-18 one region moved", options, PASS, |attack| {
        let fds = attack.guest.memory.each_ref().map(|memory| memory.fd());
        let mut regions = attack.guest.regions();
        regions[2][0] += 16 * REGION;
        attack.guest.wire.done(Request::SET_MEM_TABLE, &table(&regions), &fds)?;
        attack.sync()
    });
    stage.case("V-18 the rings gone", options, Must::Count(&[("ring_outside_memory", 2)]), |attack| {
        let region = attack.guest.regions()[2];
        let fd = attack.guest.memory[2].fd();
        attack.guest.wire.done(Request::SET_MEM_TABLE, &table(&[region]), &[fd])?;
        attack.guest.send()?;
        attack.stage.rounds(2)?;
        ensure!(attack.stage.phase(&attack.port)? == "Connected");
        attack.arrive_at_most(0)
    });
    let refused = Must::Count(&[("bad_chain", 1)]);
    stage.case("V-18 a packet's memory gone", options, refused, |attack| {
        let regions = attack.guest.regions();
        let fds = [attack.guest.memory[0].fd(), attack.guest.memory[1].fd()];
        attack.guest.wire.done(Request::SET_MEM_TABLE, &table(&regions[..2]), &fds)?;
        attack.guest.tx().chain(&[Desc::new(THIRD, 100)])?;
        attack.sync()
    });
}

/// V-23: regions one by one.
fn slots(stage: &mut Stage, options: Options) {
    stage.case("V-23, L-04", options, PASS, |attack| {
        let file = memfd(REGION)?;
        for _ in 0..50 {
            let region = [64 * REGION, REGION, 64 * REGION, 0];
            attack.guest.wire.done(Request::ADD_MEM_REG, &single(region), &[file.as_fd()])?;
            attack.sync()?;
            attack.until_used(TX, 1)?;
            attack.guest.wire.done(Request::REM_MEM_REG, &single(region), &[])?;
            attack.sync()?;
            attack.until_used(TX, 1)?;
        }
        Ok(())
    });
    let counted = Must::Count(&[("region_overlap", 2), ("region_slots", 1), ("region_unknown", 1)]);
    stage.case("V-23 wrong ones", options, counted, |attack| {
        let file = memfd(REGION)?;
        let wire = &attack.guest.wire;
        let place = |at: u64| [(64 + at) * REGION, REGION, (64 + at) * REGION, 0];
        // Another file in the place of one that is there; a part of it.
        wire.refused(Request::ADD_MEM_REG, &single(attack.guest.regions()[0]), &[file.as_fd()])?;
        wire.refused(Request::ADD_MEM_REG, &single([BASE + 4096, 4096, 1 << 40, 0]), &[file.as_fd()])?;
        for at in 0..61 {
            wire.done(Request::ADD_MEM_REG, &single(place(at)), &[file.as_fd()])?;
        }
        wire.refused(Request::ADD_MEM_REG, &single(place(61)), &[file.as_fd()])?;
        wire.refused(Request::REM_MEM_REG, &single(place(61)), &[])?;
        attack.sync()
    });
    stage.case("V-23 in use", options, Must::Count(&[("ring_outside_memory", 2)]), |attack| {
        let region = attack.guest.regions()[0];
        attack.guest.wire.done(Request::REM_MEM_REG, &single(region), &[])?;
        ensure!(attack.stage.phase(&attack.port)? == "Connected");
        Ok(())
    });
}

/// Bytes of a log for all memory, which ends with the third region.
const LOG: u64 = (THIRD + REGION) / 4096 / 8;

/// Waits until the log names the pages of a range, and no others of the first region but the rings'.
fn logged(log: &OwnedFd, offset: u64, address: u64) -> Result<()> {
    let page = address / 4096;
    wait::until("the page in the log", LIMIT, || {
        let mut byte = [0];
        rustix::io::pread(log, &mut byte, offset + page / 8)?;
        Ok((byte[0] & 1 << (page % 8) != 0).then_some(()))
    })
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_21_v_22_l_09_the_dirty_log() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let log = memfd(LOG + 4096)?;
    for (name, counter, size, offset) in [
        ("V-21 wraps", "log_range", u64::MAX, 4096),
        ("V-21 size 0", "log_range", 0, 0),
        ("V-21 too small", "log_too_small", LOG - 1, 0),
        ("V-21 beyond the file", "log_file", LOG, 8192),
    ] {
        negotiated(s, name, Options::SPLIT, Must::Count(&[(counter, 1)]), |guest| {
            guest.give_memory()?;
            ensure!(guest.wire.send(Request::SET_LOG_BASE, &u64s(&[size, offset]), &[log.as_fd()]));
            guest.wire.until_closed(LIMIT)
        });
    }
    for options in Options::LAYOUTS {
        for offset in [0, 8, 4088] {
            s.case("V-22, V-10 LOG_ALL toggled, L-09", options, PASS, |attack| {
                let log = memfd(LOG + 4096)?;
                let bits = attack.guest.features();
                let all = bits | features::LOG_ALL;
                attack.guest.wire.ask(Request::SET_LOG_BASE, &u64s(&[LOG, offset]), &[log.as_fd()])?;
                for round in 0..5u64 {
                    attack.guest.wire.done(Request::SET_FEATURES, &u64s(&[all]), &[])?;
                    // A part of no bytes and one of some.
                    let at = BUFFERS + 0x2000 * round;
                    attack.guest.rx().chain(&[Desc::writable(HOLE, 0), Desc::writable(at, 2048)])?;
                    attack.give_one()?;
                    logged(&log, offset, at)?;
                    logged(&log, offset, attack.guest.rx().addresses.device)?;
                    attack.guest.wire.done(Request::SET_FEATURES, &u64s(&[bits]), &[])?;
                    rustix::fs::ftruncate(&log, 0)?;
                    rustix::fs::ftruncate(&log, LOG + 4096)?;
                    // Off: written without a mark.
                    attack.guest.rx().chain(&[Desc::writable(at, 2048)])?;
                    attack.give_one()?;
                    attack.sync()?;
                    let mut whole = vec![0; (LOG + 4096) as usize];
                    rustix::io::pread(&log, &mut whole, 0)?;
                    ensure!(
                        whole.iter().all(|byte| *byte == 0),
                        "L-09: written to after it was switched off"
                    );
                }
                Ok(())
            });
        }
    }
    stage.finish(10)
}

/// Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD.
fn inflight(size: u64, offset: u64, queues: u16, entries: u16) -> Vec<u8> {
    [u64s(&[size, offset]), queues.to_ne_bytes().to_vec(), entries.to_ne_bytes().to_vec()].concat()
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_25_to_v_28_in_flight_regions() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    let process = s.daemon().process().id();
    for options in Options::LAYOUTS {
        negotiated(s, "V-25", options, PASS, |guest| {
            let before = Holdings::of(process)?;
            for _ in 0..2_000 * crate::longer() {
                let reply = guest.wire.ask(Request::GET_INFLIGHT_FD, &inflight(0, 0, 2, 256), &[])?;
                ensure!(reply.fds.len() == 1, "{reply:?}");
            }
            wait::until("nothing to be held", LIMIT, || {
                Ok(Holdings::of(process)?.within(&before).then_some(()))
            })
        });
        for (name, counter, size, queues, entries) in [
            ("V-26 no queues", "inflight_geometry", 1 << 20, 0, 256),
            ("V-26 too many", "inflight_geometry", 1 << 20, 1000, 256),
            ("V-26 no entries", "inflight_geometry", 1 << 20, 2, 0),
            ("V-26 too long", "inflight_geometry", 1 << 20, 2, 65_535),
            ("V-26 too small", "inflight_file", 64, 2, 256),
        ] {
            negotiated(s, name, options, Must::Count(&[(counter, 1)]), |guest| {
                sizes(guest)?;
                let region = memfd(1 << 20)?;
                let payload = inflight(size, 0, queues, entries);
                guest.wire.refused(Request::SET_INFLIGHT_FD, &payload, &[region.as_fd()])
            });
        }
        negotiated(s, "V-27", options, Must::Count(&[("inflight_geometry", 1)]), |guest| {
            sizes(guest)?;
            let reply = guest.wire.ask(Request::GET_INFLIGHT_FD, &inflight(0, 0, 2, 256), &[])?;
            let size = u64::from_ne_bytes(reply.payload[..8].try_into()?);
            guest.wire.done(Request::SET_INFLIGHT_FD, &inflight(size, 0, 2, 256), &[reply.fds[0].as_fd()])?;
            guest.wire.refused(Request::SET_VRING_NUM, &u32s(&[0, 1024]), &[])
        });
        poisoned(s, options);
    }
    stage.finish(16)
}

/// SET_VRING_NUM of both queues, which an in-flight region is judged by.
fn sizes(guest: &RawGuest) -> Result<()> {
    (0..2).try_for_each(|index| guest.wire.done(Request::SET_VRING_NUM, &u32s(&[index, 256]), &[]))
}

/// V-28: whatever is in the region, also when it changes, packets move. A header that contradicts its size is refused.
fn poisoned(stage: &mut Stage, options: Options) {
    stage.case("V-28", options, Must::Count(&[("inflight_content", 4)]), |attack| {
        let reply = attack.guest.wire.ask(Request::GET_INFLIGHT_FD, &inflight(0, 0, 2, 256), &[])?;
        let size = u64::from_ne_bytes(reply.payload[..8].try_into()?);
        let (region, payload) = (&reply.fds[0], inflight(size, 0, 2, 256));
        let mut right = vec![0; size as usize];
        rustix::io::pread(region, &mut right, 0)?;
        for value in [0xff_u8, 0x01, 0x7f, 0x80] {
            let bases = [attack.guest.stop(RX)?, attack.guest.stop(TX)?];
            let set = |guest: &RawGuest| {
                guest.wire.acknowledged(Request::SET_INFLIGHT_FD, &payload, &[region.as_fd()])
            };
            rustix::io::pwrite(region, &vec![value; size as usize], 0)?;
            ensure!(set(&attack.guest)? != 0, "a region of {value:#x} was taken");
            // Right headers, which is all that is believed; entries and indices are lies.
            let part = size as usize / 2;
            let lie: Vec<u8> = (0..size as usize)
                .map(|at| if (8..12).contains(&(at % part)) { right[at] } else { value })
                .collect();
            rustix::io::pwrite(region, &lie, 0)?;
            ensure!(set(&attack.guest)? == 0, "a region with right headers was refused");
            attack.guest.start_from(RX, bases[0])?;
            attack.guest.start_from(TX, bases[1])?;
            attack.sync()?;
            rustix::io::pwrite(region, &vec![!value; size as usize], 0)?;
            attack.sync()?;
        }
        Ok(())
    });
}
