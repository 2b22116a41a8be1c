//! V: the stream of messages, negotiation, and what has no queue or memory in it.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use towpath_tests::Result;
use towpath_tests::hostile::guest::{Options, RX, RawGuest, TX, eventfd};
use towpath_tests::hostile::stage::{LIMIT, Must, PASS, Stage};
use towpath_tests::hostile::wire::{NEED_REPLY, REPLY, Request, VERSION, Wire, message, u32s, u64s};
use towpath_tests::manifests::Port;
use virtio_driver::features;

/// A connection that says `bytes` with so many descriptors, and must be closed for it.
fn closed(stage: &mut Stage, name: &str, counter: &str, bytes: &[u8], descriptors: usize) {
    stage.try_case(name, Must::Count(&[(counter, 1)]), |_, port| {
        let (wire, fd) = (Wire::connect(&port.socket)?, eventfd()?);
        let fds: Vec<BorrowedFd<'_>> = (0..descriptors).map(|_| fd.as_fd()).collect();
        ensure!(wire.send_bytes(bytes, &fds), "the bytes were not taken");
        wire.until_closed(LIMIT)
    });
}

/// A front end that has negotiated; no queue of it runs.
fn negotiated(stage: &mut Stage, name: &str, must: Must<'_>, body: impl FnOnce(&mut RawGuest) -> Result<()>) {
    stage.try_case(name, must, |stage, port| {
        let mut guest = RawGuest::connect(port, &stage.peer_port(), Options::SPLIT)?;
        guest.negotiate()?;
        body(&mut guest)
    });
}

/// A message that is refused while the connection stays.
fn refused(stage: &mut Stage, name: &str, counter: &str, request: Request, payload: &[u8]) {
    negotiated(stage, name, Must::Count(&[(counter, 1)]), |guest| {
        guest.wire.refused(request, payload, &[])?;
        guest.wire.ask(Request::GET_FEATURES, &[], &[]).map(drop)
    });
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_01_to_v_04_v_29_the_stream() -> Result<()> {
    let mut stage = Stage::start()?;
    // V-01, V-31: half a message on as many ports as there are, a byte a second on some; judged at the end, when the deadline is over.
    let slow: Vec<Port> = stage.ports()[3..].to_vec();
    let begin = Instant::now();
    let wires = slow.iter().map(|port| Wire::connect(&port.socket)).collect::<Result<Vec<_>>>()?;
    let before = slow.iter().map(|port| stage.counts(port)).collect::<Result<Vec<_>>>()?;
    ensure!(wires.iter().all(|wire| wire.send_bytes(&[1, 0, 0, 0, 1], &[])), "half a header was not taken");
    let mut slowest = Duration::ZERO;
    while begin.elapsed() < Duration::from_secs(7) {
        // V-31: the control plane answers, a loris changes no deadline.
        let asked = Instant::now();
        stage.counts(&slow[0])?;
        slowest = slowest.max(asked.elapsed());
        for wire in &wires[..4] {
            let _ = wire.send_bytes(&[0], &[]);
        }
        stage.rounds(1)?;
        thread::sleep(Duration::from_secs(1));
    }
    ensure!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
    for (wire, (port, before)) in wires.iter().zip(slow.iter().zip(&before)) {
        wire.until_closed(LIMIT).context("V-01, V-31")?;
        let now = stage.counts(port)?;
        ensure!(before.is_empty() && now.len() == 1 && now.get("stalled") == Some(&1), "V-01, V-31: {now:?}");
    }
    drop(wires);
    let s = &mut stage;
    for length in 1..12 {
        s.try_case("V-01 a short header", PASS, |stage, port| {
            let bytes = message(Request::GET_FEATURES.into(), VERSION, &[]);
            let wire = Wire::connect(&port.socket)?;
            ensure!(wire.send_bytes(&bytes[..length], &[]));
            // It is heard before it hangs up.
            stage.until_phase(port, "Connected")
        });
    }
    v_02(s);
    for (request, right) in
        [(Request::SET_OWNER, 0), (Request::SET_FEATURES, 8u32), (Request::SET_VRING_ADDR, 40)]
    {
        for size in
            [0, right.wrapping_sub(1), right + 1, 4097, u32::MAX].into_iter().filter(|size| *size != right)
        {
            let header = u32s(&[request.into(), VERSION, size]);
            closed(s, "V-03", "payload_size", &header, 1);
        }
    }
    s.try_case("V-04 in the middle", Must::Count(&[("descriptor_position", 1)]), |stage, port| {
        let (wire, fd) = (Wire::connect(&port.socket)?, eventfd()?);
        let bytes = message(Request::SET_VRING_KICK.into(), VERSION, &[0; 8]);
        ensure!(wire.send_bytes(&bytes[..5], &[]));
        // Answered by the thread that reads sockets, in the round after this one: the first part is read, and the kernel joins no more.
        stage.counts(port)?;
        stage.counts(port)?;
        ensure!(wire.send_bytes(&bytes[5..], &[fd.as_fd()]));
        wire.until_closed(LIMIT)
    });
    closed(s, "V-04 truncated", "ancillary_truncated", &message(15, VERSION, &[]), 253);
    closed(s, "V-29 need_reply", "need_reply", &message(3, VERSION | NEED_REPLY, &[]), 0);
    closed(s, "V-29 a reply", "header_flags", &message(3, VERSION | REPLY, &[]), 0);
    closed(s, "V-29 reserved", "header_flags", &message(3, VERSION | 0x10, &[]), 0);
    closed(s, "V-29 version", "version", &message(3, 2, &[]), 0);
    for request in [0, 45, 200, u32::MAX] {
        closed(s, "V-29 unknown", "unknown_request", &message(request, VERSION, &[]), 0);
    }
    stage.finish(75)
}

/// Every message with any number of descriptors. The wrong numbers are refused; the right one may be refused for another reason.
fn v_02(stage: &mut Stage) {
    let one = [
        (Request::SET_VRING_KICK, u64s(&[0])),
        (Request::SET_VRING_CALL, u64s(&[0])),
        (Request::SET_VRING_ERR, u64s(&[0])),
        (Request::SET_LOG_BASE, u64s(&[4096, 0])),
        (Request::SET_LOG_FD, vec![]),
        (Request::SET_BACKEND_REQ_FD, vec![]),
        (Request::ADD_MEM_REG, vec![0; 40]),
        (Request::SET_MEM_TABLE, [u32s(&[1, 0]), vec![0; 32]].concat()),
    ];
    for (request, payload) in one {
        for count in [0, 2, 8, 253] {
            let counter = if count == 253 { "ancillary_truncated" } else { "descriptor_count" };
            closed(stage, "V-02", counter, &message(request.into(), VERSION, &payload), count);
        }
    }
    for (request, payload) in
        [(Request::GET_FEATURES, vec![]), (Request::SET_OWNER, vec![]), (Request::SET_VRING_NUM, vec![0; 8])]
    {
        for count in [1, 9, 253] {
            let counter = if count == 253 { "ancillary_truncated" } else { "descriptor_count" };
            closed(stage, "V-02", counter, &message(request.into(), VERSION, &payload), count);
        }
    }
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_10_v_11_v_32_to_v_37_negotiation_and_the_device() -> Result<()> {
    let mut stage = Stage::start()?;
    let s = &mut stage;
    refused(s, "V-10 not offered", "features_not_offered", Request::SET_FEATURES, &u64s(&[1 << 63]));
    for options in Options::LAYOUTS {
        s.case("V-10 running", options, Must::Count(&[("features_while_running", 1)]), |attack| {
            let other = u64s(&[features::VERSION_1 | features::NET_CSUM]);
            attack.guest.wire.refused(Request::SET_FEATURES, &other, &[])?;
            attack.sync()
        });
    }
    orders(s);
    refused(s, "V-32", "iotlb", Request::IOTLB_MSG, &[0; 32]);
    for request in [Request::POSTCOPY_LISTEN, Request::POSTCOPY_END] {
        refused(s, "V-33", "postcopy", request, &[]);
    }
    negotiated(s, "V-33 advise", Must::Count(&[("postcopy", 1)]), |guest| {
        // Its answer is a descriptor: there is none that says no.
        ensure!(guest.wire.send(Request::POSTCOPY_ADVISE, &[], &[]));
        guest.wire.until_closed(LIMIT)
    });
    for mac in [[0xff; 8], [0; 8], [1, 0, 0x5e, 0, 0, 1, 0, 0]] {
        refused(s, "V-35", "rarp_address", Request::SEND_RARP, &mac);
    }
    for mtu in [0, 67, 65_535, 1 << 32] {
        refused(s, "V-36 MTU", "mtu", Request::NET_SET_MTU, &u64s(&[mtu]));
    }
    for (offset, size) in [(0, 0u32), (0, 257), (256, 1), (u32::MAX, 2), (u32::MAX, u32::MAX)] {
        negotiated(s, "V-36 GET_CONFIG", Must::Count(&[("config_range", 1)]), |guest| {
            let reply = guest.wire.ask(Request::GET_CONFIG, &u32s(&[offset, size, 0]), &[])?;
            ensure!(reply.payload == [0; 12], "{reply:?}");
            Ok(())
        });
    }
    negotiated(s, "V-36 SET_CONFIG", Must::Count(&[("config_read_only", 1)]), |guest| {
        guest.wire.refused(Request::SET_CONFIG, &[u32s(&[0, 6, 0]), vec![9; 6]].concat(), &[])
    });
    s.try_case("V-37", PASS, |_, port| {
        // Credentials of this thread alone: nobody, in no group of the socket's owner.
        let refused = thread::scope(|scope| {
            let nobody = scope.spawn(|| -> Result<bool> {
                use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
                // SAFETY-free: raw system calls on this thread, which ends here.
                let (user, group) = (rustix::fs::Uid::from_raw(65_534), rustix::fs::Gid::from_raw(65_534));
                set_thread_groups(&[])?;
                set_thread_gid(group)?;
                set_thread_uid(user)?;
                Ok(Wire::connect(&port.socket).is_err())
            });
            nobody.join().map_err(|_| anyhow::anyhow!("the other user panicked"))?
        })?;
        ensure!(refused, "another user may connect");
        Ok(())
    });
    stage.finish(30)
}

/// V-11: whatever a queue needs, in any order that a front end may choose.
fn orders(stage: &mut Stage) {
    const PARTS: [usize; 5] = [0, 1, 2, 3, 4];
    for rotation in 0..PARTS.len() {
        for backwards in [false, true] {
            let mut order = PARTS;
            order.rotate_left(rotation);
            if backwards {
                order.reverse();
            }
            stage.try_case(&format!("V-11, V-07 {order:?}"), PASS, |stage, port| {
                let guest = RawGuest::connect(port, &stage.peer_port(), Options::SPLIT)?;
                guest.negotiate()?;
                for part in order {
                    for index in [RX, TX] {
                        give_part(&guest, index, part)?;
                    }
                }
                stage.until_phase(port, "Forwarding")?;
                let mut attack = towpath_tests::hostile::stage::Attack { guest, stage, port: port.clone() };
                attack.sync()
            });
        }
    }
}

fn give_part(guest: &RawGuest, index: usize, part: usize) -> Result<()> {
    use towpath_tests::hostile::guest::addresses;
    let (wire, number) = (&guest.wire, index as u32);
    match part {
        0 if index == RX => guest.give_memory(),
        0 => Ok(()),
        1 => wire.done(Request::SET_VRING_NUM, &u32s(&[number, 64]), &[]),
        2 => wire.done(Request::SET_VRING_ADDR, &addresses(number, 0, guest.ring_addresses(index)), &[]),
        3 => wire.done(Request::SET_VRING_KICK, &u64s(&[index as u64]), &[guest.kicks[index].as_fd()]),
        _ => wire.done(Request::SET_VRING_ENABLE, &u32s(&[number, 1]), &[]),
    }
}

/// A generator of numbers that is the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[test]
#[ignore = "needs the binaries built: run by `make test`"]
fn v_38_any_messages_in_any_order() -> Result<()> {
    let mut stage = Stage::start()?;
    for seed in 1..=60 {
        stage.try_case(&format!("V-38 seed {seed}"), Must::Survive, |stage, port| {
            let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
            let mut guest = RawGuest::connect(port, &stage.peer_port(), Options::LAYOUTS[seed as usize % 2])?;
            if numbers.below(4) > 0 {
                guest.negotiate()?;
                guest.give_memory()?;
                guest.start(RX)?;
                guest.start(TX)?;
                guest.send()?;
            }
            let event = eventfd()?;
            for _ in 0..200 {
                if !anything(&guest, &mut numbers, event.as_fd()) {
                    break;
                }
            }
            stage.rounds(1)
        });
    }
    stage.finish(60)
}

/// One message: most have the size and the descriptors that they should have, and values near what is meant.
fn anything(guest: &RawGuest, numbers: &mut Numbers, event: BorrowedFd<'_>) -> bool {
    let request = 1 + numbers.below(44) as u32;
    let state =
        u32s(&[numbers.below(3) as u32, [0, 1, 64, 63, 0x8000_8000, u32::MAX][numbers.below(6) as usize]]);
    let region = guest.regions()[numbers.below(3) as usize];
    let memory = guest.memory[numbers.below(3) as usize].fd();
    let addr = guest.ring_addresses(numbers.below(2) as usize);
    let (payload, fds): (Vec<u8>, Vec<BorrowedFd<'_>>) = match request {
        2 => (u64s(&[(1 << 32) | (1 << 30) | (numbers.next() & 0x7_1400_0000)]), vec![]),
        5 => (towpath_tests::hostile::guest::table(&[region]), vec![memory]),
        6 => (u64s(&[0x10_0000, 0]), vec![memory]),
        8 | 10 | 11 | 18 => (state, vec![]),
        9 => (
            towpath_tests::hostile::guest::addresses(numbers.below(3) as u32, numbers.below(2) as u32, addr),
            vec![],
        ),
        12..=14 => (u64s(&[numbers.below(3)]), vec![event]),
        16 | 19 | 20 | 39 => (u64s(&[numbers.next() >> numbers.below(64)]), vec![]),
        24 => (u32s(&[0, 6, 0]), vec![]),
        37 | 38 => {
            (towpath_tests::hostile::guest::single(region), if request == 37 { vec![memory] } else { vec![] })
        }
        1 | 3 | 4 | 15 | 17 | 34 | 36 | 40 => (vec![], vec![]),
        _ => ((0..numbers.below(64)).map(|_| numbers.next() as u8).collect(), vec![]),
    };
    let flags = VERSION | if numbers.below(3) == 0 { NEED_REPLY } else { 0 };
    guest.wire.send_bytes(&message(request, flags, &payload), &fds)
}
