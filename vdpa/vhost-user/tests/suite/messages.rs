//! Hostile messages: V-05 to V-29, V-32 to V-36. What is refused is named, and a session that stays goes on working.

use std::os::fd::OwnedFd;

use crate::common::*;
use towpath_vhost_user::features::*;
use towpath_vhost_user::session::MAX_MEMORY_SLOTS;
use towpath_vhost_user::{CloseReason, FrontendReq as R, Refusal, SessionConfig};

const NO: Option<u64> = Some(1);
const YES: Option<u64> = Some(0);

/// Sends with NEED_REPLY; the acknowledgement.
fn ask(b: &mut Bench, request: R, payload: &[u8], fds: Vec<OwnedFd>) -> Option<u64> {
    b.send(request, true, payload, fds).map(|reply| u64::from_ne_bytes(reply.try_into().unwrap()))
}

/// Negotiated, with memory, no queue.
fn bench() -> Bench {
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1);
    b.give_memory();
    b
}

/// The message is refused by name: with a reply when one was asked for, by closing when not.
fn refused(
    make: impl Fn() -> Bench,
    refusal: Refusal,
    request: R,
    payload: &[u8],
    fds: &dyn Fn() -> Vec<OwnedFd>,
) {
    let mut b = make();
    let before = b.running.len();
    let reply = ask(&mut b, request, payload, fds());
    assert_eq!(reply, NO, "{request:?} {payload:?}: {:?}", b.session.refusals());
    assert!(b.refused_only(refusal), "{request:?} {payload:?}: {:?}", b.session.refusals());
    assert_eq!((b.closed, b.running.len()), (None, before), "it stays, and so do its queues");
    let mut b = make();
    assert_eq!(b.send(request, false, payload, fds()), None);
    assert!(b.refused_only(refusal));
    assert_eq!(b.closed, Some(CloseReason::Refused(refusal)), "{request:?}: it cannot be told otherwise");
}

fn none() -> Vec<OwnedFd> {
    Vec::new()
}

#[test]
fn v05_queue_sizes() {
    for size in [0, 3, 255, 32769, 65536, 0x1_0000_0000u64 as u32, 0x1_0100, u32::MAX] {
        refused(bench, Refusal::QueueSize, R::SET_VRING_NUM, &u32s(&[0, size]), &none);
    }
    let packed = || {
        let mut b = Bench::default();
        b.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED);
        b
    };
    let mut b = packed();
    for size in [1, 3, 255, 32768] {
        assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[0, size]), none()), YES);
    }
    refused(packed, Refusal::QueueSize, R::SET_VRING_NUM, &u32s(&[0, 32769]), &none);
    // Said a million times it is as good as once.
    let mut b = bench();
    for _ in 0..1_000_000 {
        b.session.on_message(Bench::message(R::SET_VRING_NUM, false, &u32s(&[7, 128]), none()));
    }
    assert_eq!(b.session.queues().count(), 8);
    assert_eq!(b.session.refusals().total(), 0);
}

/// A size that is no power of two, given before the layout is known, keeps a split queue from starting.
#[test]
fn v05_size_before_features() {
    let mut b = Bench::default();
    b.send(R::SET_OWNER, false, &[], none());
    b.give_memory();
    b.give_queue(0, 100);
    b.send(R::SET_FEATURES, false, &u64s(&[VIRTIO_F_VERSION_1]), none());
    assert!(b.is_running(&[]) && b.refused_only(Refusal::QueueSize));
    b.send(R::SET_VRING_NUM, false, &u32s(&[0, 128]), none());
    assert!(b.is_running(&[0]));
}

#[test]
fn v06_queue_indices() {
    for index in [8, 255, 256, 0x1_0000, u32::MAX] {
        for request in [R::SET_VRING_NUM, R::SET_VRING_BASE, R::SET_VRING_ENABLE] {
            refused(bench, Refusal::QueueIndex, request, &u32s(&[index, 1]), &none);
        }
        refused(bench, Refusal::QueueIndex, R::SET_VRING_ADDR, &addr(index, 0, USER_BASE), &none);
        // Its answer is a value: there is none that says no.
        let mut b = bench();
        assert_eq!(b.send(R::GET_VRING_BASE, true, &u32s(&[index, 0]), none()), None);
        assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::QueueIndex)));
    }
    for value in [8, 255, 0x200, 0x1_0000, 1 << 63] {
        for request in [R::SET_VRING_KICK, R::SET_VRING_CALL, R::SET_VRING_ERR] {
            refused(bench, Refusal::QueueIndex, request, &u64s(&[value]), &|| vec![eventfd()]);
        }
    }
    let mut b = bench();
    assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[7, 1]), none()), YES, "the last one is there");
}

#[test]
fn v07_queue_messages_before_everything_else() {
    let mut b = Bench::default();
    b.give_queue(0, 256);
    assert!(b.is_running(&[]));
    b.give_memory();
    assert!(b.is_running(&[]));
    b.send(R::SET_FEATURES, false, &u64s(&[VIRTIO_F_VERSION_1]), none());
    assert!(b.is_running(&[]), "nobody owns it");
    b.send(R::SET_OWNER, false, &[], none());
    assert!(b.is_running(&[0]));
    assert_eq!(b.session.refusals().total(), 0);
}

#[test]
fn v08_base_of_a_queue_that_never_ran() {
    for (features, initial) in [(0, 0), (VIRTIO_F_RING_PACKED, 0x8000_8000)] {
        let mut b = Bench::default();
        b.negotiate(VIRTIO_F_VERSION_1 | features);
        let base = |b: &mut Bench, index| b.send(R::GET_VRING_BASE, false, &u32s(&[index, 0]), none());
        assert_eq!(base(&mut b, 5), Some(u32s(&[5, initial])));
        b.send(R::SET_VRING_BASE, false, &u32s(&[3, 0x1234]), none());
        assert_eq!(base(&mut b, 3), Some(u32s(&[3, 0x1234])));
    }
}

#[test]
fn v09_queue_counts() {
    for (pairs, answer) in [(1, 2), (2, 2), (3, 3), (128, 128), (200, 128)] {
        let mut b = Bench::new(SessionConfig::new(u64::MAX, pairs, None, 1500));
        b.negotiate(VIRTIO_F_VERSION_1);
        assert_eq!(b.send(R::GET_QUEUE_NUM, false, &[], none()), Some(u64s(&[answer])));
        let last = u32::from(b.session.config().max_queues()) - 1;
        assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[last, 256]), none()), YES);
        assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[last + 1, 256]), none()), NO, "{pairs}");
    }
    assert_eq!(SessionConfig::new(u64::MAX, 1, None, 1500).features & VIRTIO_NET_F_MQ, 0);
    let mut b = Bench::default();
    assert_eq!(b.send(R::GET_QUEUE_NUM, false, &[], none()), None, "MQ was not negotiated");
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::NotNegotiated)));
}

#[test]
fn v10_features() {
    let unoffered = 1u64 << 63;
    refused(bench, Refusal::FeaturesNotOffered, R::SET_FEATURES, &u64s(&[unoffered]), &none);
    let protocol = Bench::default().session.config().protocol.bits();
    for bits in [1 << 8, 1 << 63, u64::MAX] {
        let bits = u64s(&[protocol | bits]);
        refused(bench, Refusal::ProtocolFeaturesNotOffered, R::SET_PROTOCOL_FEATURES, &bits, &none);
    }
    let same = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES;
    let other = u64s(&[same | VIRTIO_F_EVENT_IDX]);
    refused(Bench::running, Refusal::FeaturesWhileRunning, R::SET_FEATURES, &other, &none);
    let fewer = u64s(&[9]);
    refused(Bench::running, Refusal::ProtocolFeaturesWhileRunning, R::SET_PROTOCOL_FEATURES, &fewer, &none);
    let mut b = Bench::running();
    assert_eq!(ask(&mut b, R::SET_FEATURES, &u64s(&[same]), none()), YES, "the same again is no change");
    assert!(b.events.is_empty());
    assert_eq!(ask(&mut b, R::SET_PROTOCOL_FEATURES, &u64s(&[protocol]), none()), YES);
    // The dirty log goes on and off under running queues.
    let log = u64s(&[0x1_0000, 0]);
    assert_eq!(b.send(R::SET_LOG_BASE, false, &log, vec![memfd(0x1_0000)]), Some(log.clone()));
    assert!(b.events.is_empty() && !b.logging);
    assert_eq!(ask(&mut b, R::SET_FEATURES, &u64s(&[same | VHOST_F_LOG_ALL]), none()), YES);
    assert!(b.logging && b.is_running(&[0, 1]));
    assert_eq!(ask(&mut b, R::SET_FEATURES, &u64s(&[same]), none()), YES);
    assert!(!b.logging && b.is_running(&[0, 1]));
    assert_eq!(b.events.iter().filter(|event| *event == "LogChanged").count(), 2);
}

#[test]
fn v10_feature_mask_and_dependencies() {
    let config = SessionConfig::new(!(VIRTIO_NET_F_CSUM | VIRTIO_F_RING_PACKED), 2, None, 1500);
    let gone = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_USO | VIRTIO_F_RING_PACKED | VIRTIO_NET_F_MAC;
    assert_eq!(config.features & gone, 0);
    let mut b = Bench::new(config);
    b.negotiate(0);
    assert_eq!(ask(&mut b, R::SET_FEATURES, &u64s(&[VIRTIO_NET_F_HOST_TSO4]), none()), NO);
    // A driver that takes TSO without checksums gets none of it.
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_ECN);
    assert_eq!(b.session.features(), Some(VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES));
}

#[test]
fn v12_region_counts() {
    let region = |i: u64| [i << 32, 0x1000, USER_BASE + (i << 32), 0];
    let nine: Vec<_> = (0..9).map(region).collect();
    let files = |n: usize| move || (0..n).map(|_| memfd(0x1000)).collect::<Vec<_>>();
    refused(bench, Refusal::RegionCount, R::SET_MEM_TABLE, &table(&nine), &files(9));
    refused(bench, Refusal::RegionCount, R::SET_MEM_TABLE, &table(&[]), &none);
    let cut = &table(&nine[..2])[..40];
    refused(bench, Refusal::RegionCount, R::SET_MEM_TABLE, cut, &files(2));
    for count in [1, 3, u32::MAX] {
        let mut lie = table(&nine[..2]);
        lie[..4].copy_from_slice(&count.to_ne_bytes());
        let mut b = bench();
        b.send(R::SET_MEM_TABLE, true, &lie, files(2)());
        assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::DescriptorCount)));
    }
    let mut b = bench();
    assert_eq!(ask(&mut b, R::SET_MEM_TABLE, &table(&nine[..8]), files(8)()), YES);
    assert_eq!(b.memory.len(), 8);
}

#[test]
fn v13_v16_region_numbers() {
    let file = || vec![memfd(0x4000)];
    let page = 0x1000;
    let cases = [
        (Refusal::RegionSize, [0, 0, USER_BASE, 0]),
        (Refusal::RegionFileShort, [0, 0x5000, USER_BASE, 0]),
        (Refusal::RegionFileShort, [0, page, USER_BASE, 0x4000]),
        (Refusal::RegionFileShort, [0, 0x2000, USER_BASE, 0x3000]),
        (Refusal::RegionFileShort, [0, 1 << 62, 1 << 40, 0]),
        (Refusal::RegionUnaligned, [1, page, USER_BASE, 0]),
        (Refusal::RegionUnaligned, [0, page + 1, USER_BASE, 0]),
        (Refusal::RegionUnaligned, [0, page, USER_BASE + 8, 0]),
        (Refusal::RegionUnaligned, [0, page, USER_BASE, 512]),
        (Refusal::RegionWrap, [u64::MAX - 0xfff, page, USER_BASE, 0]),
        (Refusal::RegionWrap, [0, page, u64::MAX - 0xfff, 0]),
        (Refusal::RegionWrap, [0, page, USER_BASE, u64::MAX - 0xfff]),
        (Refusal::RegionWrap, [1 << 63, 1 << 63, 0, 0]),
    ];
    for (refusal, region) in cases {
        refused(bench, refusal, R::SET_MEM_TABLE, &table(&[region]), &file);
        refused(bench, refusal, R::ADD_MEM_REG, &single(region), &file);
    }
}

#[test]
fn v14_overlapping_regions() {
    let first = [0x1_0000, 0x4000, USER_BASE, 0];
    let overlaps = [
        ("identical", first),
        ("guest", [0x1_3000, 0x1000, USER_BASE + 0x10_0000, 0]),
        ("user", [0x10_0000, 0x1000, USER_BASE + 0x3000, 0]),
        ("around", [0, 0x10_0000, USER_BASE + 0x100_0000, 0]),
    ];
    let files = || vec![memfd(0x10_0000), memfd(0x10_0000)];
    for (_, second) in overlaps {
        refused(bench, Refusal::RegionOverlap, R::SET_MEM_TABLE, &table(&[first, second]), &files);
    }
    let adjacent = [0x1_4000, 0x1000, USER_BASE + 0x4000, 0];
    let mut b = bench();
    assert_eq!(ask(&mut b, R::SET_MEM_TABLE, &table(&[first, adjacent]), files()), YES);
}

#[test]
fn v15_v17_ring_addresses() {
    let end = USER_BASE + REGION_BYTES;
    let at = |descriptor: u64, used: u64, available: u64| {
        [u32s(&[0, 0]), u64s(&[descriptor, used, available, 0])].concat()
    };
    let user = USER_BASE;
    let stopped = [
        (Refusal::RingOutsideMemory, at(user - 0x1000, user + 0x2000, user + 0x4000)),
        (Refusal::RingOutsideMemory, at(0, user + 0x2000, user + 0x4000)),
        (Refusal::RingOutsideMemory, at(end - 16, user + 0x2000, user + 0x4000)),
        (Refusal::RingOutsideMemory, at(user, end - 2048, user + 0x4000)),
        (Refusal::RingOutsideMemory, at(user, u64::MAX - 3, user + 0x4000)),
        (Refusal::RingOutsideMemory, at(user, user + 0x2000, end)),
        (Refusal::RingOverlap, at(user, user, user + 0x4000)),
        (Refusal::RingOverlap, at(user, user + 0x2000, user + 0x27f0)),
        (Refusal::RingOverlap, at(user, user + 0x2000, user + 0xffe)),
    ];
    for (refusal, payload) in stopped {
        let mut b = bench();
        b.give_queue(1, 256);
        b.send(R::SET_VRING_NUM, false, &u32s(&[0, 256]), none());
        b.send(R::SET_VRING_KICK, false, &u64s(&[0]), vec![eventfd()]);
        b.send(R::SET_VRING_ENABLE, false, &u32s(&[0, 1]), none());
        b.send(R::SET_VRING_ADDR, false, &payload, none());
        assert!(b.is_running(&[1]), "{refusal:?}: only the other queue runs");
        assert!(b.refused_only(refusal), "{:?}", b.session.refusals());
        b.send(R::SET_VRING_CALL, false, &u64s(&[0]), vec![eventfd()]);
        assert!(b.refused_only(refusal), "counted once for each change");
        b.send(R::SET_VRING_ADDR, false, &addr(0, 0, ring_at(0)), none());
        assert!(b.is_running(&[0, 1]), "good addresses make it run");
    }
    for payload in
        [at(user + 8, user + 0x2000, user + 0x4000), at(user, user + 2, user), at(user, user + 4, user + 1)]
    {
        refused(bench, Refusal::RingUnaligned, R::SET_VRING_ADDR, &payload, &none);
    }
    let flags = [u32s(&[0, 2]), u64s(&[user, user + 0x2000, user + 0x4000, 0])].concat();
    refused(bench, Refusal::QueueValue, R::SET_VRING_ADDR, &flags, &none);
    // A ring across the border of two regions that adjoin in both address spaces is not contiguous for us.
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1);
    let (low, high) = ([0, 0x1000, user, 0], [0x1000, REGION_BYTES, user + 0x1000, 0]);
    b.send(R::SET_MEM_TABLE, false, &table(&[low, high]), vec![memfd(0x1000), memfd(REGION_BYTES)]);
    b.give_queue(0, 256);
    assert!(b.is_running(&[0]), "descriptors fill the first region to its end");
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1);
    b.send(R::SET_MEM_TABLE, false, &table(&[low, high]), vec![memfd(0x1000), memfd(REGION_BYTES)]);
    b.give_queue(0, 512);
    assert!(b.is_running(&[]) && b.refused_only(Refusal::RingOutsideMemory));
}

#[test]
fn settings_of_a_running_queue_are_refused() {
    for (request, payload) in [
        (R::SET_VRING_NUM, u32s(&[0, 128])),
        (R::SET_VRING_BASE, u32s(&[0, 0])),
        (R::SET_VRING_ADDR, addr(0, 0, ring_at(0) + 0x100)),
    ] {
        refused(Bench::running, Refusal::QueueRunning, request, &payload, &none);
    }
    let mut b = Bench::running();
    assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[0, 256]), none()), YES, "the same is no change");
    let logged = addr(0, 1, ring_at(0));
    assert_eq!(ask(&mut b, R::SET_VRING_ADDR, &logged, none()), YES, "QEMU starts to log the used ring");
    assert!(b.is_running(&[0, 1]) && b.events.is_empty());
    refused(bench, Refusal::QueueValue, R::SET_VRING_ENABLE, &u32s(&[0, 2]), &none);
    refused(bench, Refusal::QueueValue, R::SET_VRING_BASE, &u32s(&[0, 0x1_0000]), &none);
}

/// Descriptors that are no eventfds, for kick, call and error.
#[test]
fn v20_event_descriptors() {
    let path = |path: &str| -> OwnedFd { std::fs::File::open(path).unwrap().into() };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
    let bad: Vec<OwnedFd> = vec![
        path("/"),
        path("/dev/zero"),
        path("/proc/self/exe"),
        memfd(8),
        writer.into(),
        socket.into(),
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
    ];
    for fd in &bad {
        for request in [R::SET_VRING_KICK, R::SET_VRING_CALL, R::SET_VRING_ERR] {
            refused(bench, Refusal::EventDescriptor, request, &u64s(&[0]), &|| vec![dup(fd)]);
        }
    }
    // Whatever is an eventfd can be written without blocking: a full counter and semaphore mode as well.
    let semaphore = rustix::event::eventfd(0, rustix::event::EventfdFlags::SEMAPHORE).unwrap();
    rustix::io::write(&semaphore, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let mut b = Bench::running();
    b.send(R::SET_VRING_CALL, false, &u64s(&[0]), vec![dup(&semaphore)]);
    let call = b.running[&0].call.clone().unwrap();
    let full = rustix::io::write(&*call, &1u64.to_ne_bytes());
    assert_eq!(full, Err(rustix::io::Errno::AGAIN), "full, not blocked");
    b.send(R::SET_VRING_CALL, false, &u64s(&[0x100]), none());
    assert!(b.running[&0].call.is_none(), "no descriptor: the guest polls");
}

#[test]
fn v21_log_ranges() {
    let region_end = 0x4000_0000 + REGION_BYTES;
    let needed = region_end / 4096 / 8;
    let cases = [
        (Refusal::LogRange, [0, 0]),
        (Refusal::LogRange, [u64::MAX, 1]),
        (Refusal::LogRange, [1 << 63, 1 << 63]),
        (Refusal::LogTooSmall, [needed - 1, 0]),
        (Refusal::LogFile, [needed, 0x10_0000]),
        (Refusal::LogFile, [1 << 40, 0]),
    ];
    for (refusal, log) in cases {
        for need_reply in [false, true] {
            // A front end that believed in a log that is not there would lose memory: it is told by closing.
            let mut b = bench();
            assert_eq!(b.send(R::SET_LOG_BASE, need_reply, &u64s(&log), vec![memfd(0x10_0000)]), None);
            assert_eq!(b.closed, Some(CloseReason::Refused(refusal)));
        }
    }
    let mut b = bench();
    assert!(b.send(R::SET_LOG_BASE, false, &u64s(&[needed, 0]), vec![memfd(0x10_0000)]).is_some());
    // More memory than the log has bits for is refused while it is there.
    let more = single([0x1_0000_0000, 0x1000, USER_BASE + (1 << 32), 0]);
    b.send(R::ADD_MEM_REG, true, &more, vec![memfd(0x1000)]);
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::LogTooSmall)));
    let mut b = bench();
    b.send(R::SET_LOG_BASE, false, &u64s(&[needed]), none());
    assert!(b.closed.is_some(), "a log without a descriptor is of no use");
}

#[test]
fn v23_memory_slots() {
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1);
    let region = |i: u64| [i << 24, 0x20_0000, USER_BASE + (i << 24), 0];
    for i in 0..MAX_MEMORY_SLOTS as u64 {
        assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(i)), vec![memfd(0x20_0000)]), YES);
    }
    assert_eq!(b.memory.len(), MAX_MEMORY_SLOTS);
    assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(64)), vec![memfd(0x20_0000)]), NO);
    assert_eq!(b.count(Refusal::RegionSlots), 1);
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(64)), none()), NO);
    assert_eq!(b.count(Refusal::RegionUnknown), 1);
    let mut other_user = region(3);
    other_user[2] += 0x1000;
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(other_user), none()), NO);
    assert_eq!(
        ask(&mut b, R::REM_MEM_REG, &single(region(5)), vec![memfd(1)]),
        YES,
        "a descriptor is closed"
    );
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(5)), none()), NO, "gone is gone");
    assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(3)), vec![memfd(0x20_0000)]), NO, "there already");
    assert_eq!(b.count(Refusal::RegionOverlap), 1);
    // QEMU before 8.0 tells of every region once for each queue pair.
    let again = memfd(0x20_0000);
    assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(5)), vec![dup(&again)]), YES);
    let mapped = b.memory.len();
    assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(5)), vec![dup(&again)]), YES, "the same file");
    assert_eq!(b.memory.len(), mapped, "nothing is mapped twice");
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(5)), none()), YES);
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(5)), none()), YES, "told twice, removed twice");
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(5)), none()), NO, "and no more");
    // The rings lie in the first region: without it their queues stop, and start again when it is back.
    b.give_queue(0, 256);
    b.give_queue(1, 256);
    assert!(b.is_running(&[0, 1]));
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(9)), none()), YES);
    assert!(b.is_running(&[0, 1]), "another region does not matter");
    assert_eq!(ask(&mut b, R::REM_MEM_REG, &single(region(0)), none()), YES);
    assert!(b.is_running(&[]), "stopped before the region went");
    assert_eq!(b.count(Refusal::RingOutsideMemory), 2);
    assert_eq!(ask(&mut b, R::ADD_MEM_REG, &single(region(0)), vec![memfd(0x20_0000)]), YES);
    assert!(b.is_running(&[0, 1]));
}

#[test]
fn v24_memory_files() {
    let region = [0x1_0000_0000, 0x2000, USER_BASE + (1 << 32), 0];
    let path = |path: &str| -> OwnedFd { std::fs::File::open(path).unwrap().into() };
    let (pipe, _writer) = std::io::pipe().unwrap();
    for fd in [path("/dev/null"), path("/dev/zero"), path("/"), pipe.into(), eventfd()] {
        refused(bench, Refusal::RegionFile, R::ADD_MEM_REG, &single(region), &|| vec![dup(&fd)]);
    }
    let sealed = memfd(0x2000);
    rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::WRITE).unwrap();
    let read_only = {
        use std::os::fd::AsRawFd;
        let writable = memfd(0x2000);
        path(&format!("/proc/self/fd/{}", writable.as_raw_fd()))
    };
    for fd in [sealed, read_only] {
        refused(bench, Refusal::RegionFileReadOnly, R::ADD_MEM_REG, &single(region), &|| vec![dup(&fd)]);
    }
}

#[test]
fn v26_v27_inflight_geometry() {
    let with_sizes = || {
        let mut b = bench();
        b.send(R::SET_VRING_NUM, false, &u32s(&[0, 256]), none());
        b.send(R::SET_VRING_NUM, false, &u32s(&[1, 256]), none());
        b
    };
    let inflight = |size: u64, offset: u64, queues: u16, entries: u16| {
        [u64s(&[size, offset]), queues.to_ne_bytes().to_vec(), entries.to_ne_bytes().to_vec()].concat()
    };
    // 16 bytes and 16 for each entry, in units of 64.
    let needed = 2 * (16 + 256 * 16 + 48);
    let file = || vec![memfd(needed)];
    for payload in [
        inflight(needed, 0, 0, 256),
        inflight(needed, 0, 9, 256),
        inflight(needed, 0, u16::MAX, 256),
        inflight(needed, 0, 2, 0),
        inflight(needed, 0, 2, 65535),
        inflight(needed, 0, 2, 128),
    ] {
        refused(with_sizes, Refusal::InflightGeometry, R::SET_INFLIGHT_FD, &payload, &file);
    }
    refused(bench, Refusal::InflightGeometry, R::SET_INFLIGHT_FD, &inflight(needed, 0, 2, 256), &file);
    for payload in
        [inflight(needed - 1, 0, 2, 256), inflight(needed, 1, 2, 256), inflight(needed, u64::MAX, 2, 256)]
    {
        refused(with_sizes, Refusal::InflightFile, R::SET_INFLIGHT_FD, &payload, &file);
    }
    let mut b = with_sizes();
    assert_eq!(ask(&mut b, R::SET_INFLIGHT_FD, &inflight(needed, 0, 2, 256), file()), YES);
    assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[0, 1024]), none()), NO);
    assert_eq!(b.count(Refusal::InflightGeometry), 1);
    assert_eq!(ask(&mut b, R::SET_VRING_NUM, &u32s(&[0, 128]), none()), YES);
    for asked in [inflight(0, 0, 0, 256), inflight(0, 0, 2, 0), inflight(0, 0, 100, 16)] {
        let mut b = with_sizes();
        assert_eq!(b.send(R::GET_INFLIGHT_FD, true, &asked, none()), None);
        assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::InflightGeometry)));
    }
}

#[test]
fn v28_poisoned_inflight_region() {
    let needed = 2 * 64 * (1 + 16) + 2 * 64;
    let payload = [u64s(&[needed, 0]), 2u16.to_ne_bytes().to_vec(), 64u16.to_ne_bytes().to_vec()].concat();
    let poison = |version: u16, entries: u16, rest: u8| {
        let file = memfd(needed);
        let bytes = vec![rest; needed as usize];
        rustix::io::pwrite(&file, &bytes, 0).unwrap();
        for queue in 0..2 {
            let header = [version.to_ne_bytes(), entries.to_ne_bytes()].concat();
            rustix::io::pwrite(&file, &header, queue * 1088 + 8).unwrap();
        }
        file
    };
    for (version, entries) in [(0xffff, 64), (2, 64), (1, 65), (1, 0), (0, 64)] {
        let make = || {
            let mut b = bench();
            b.send(R::SET_VRING_NUM, false, &u32s(&[0, 64]), none());
            b
        };
        refused(make, Refusal::InflightContent, R::SET_INFLIGHT_FD, &payload, &|| {
            vec![poison(version, entries, 0xff)]
        });
    }
    // Entries are not believed: whatever they say, the queue starts as if there were none.
    let mut b = bench();
    b.send(R::SET_VRING_NUM, false, &u32s(&[0, 64]), none());
    let file = poison(1, 64, 0xff);
    assert_eq!(ask(&mut b, R::SET_INFLIGHT_FD, &payload, vec![dup(&file)]), YES);
    b.give_queue(0, 64);
    assert!(b.is_running(&[0]));
}

#[test]
fn v29_replies_and_requests() {
    let mut b = Bench::default();
    b.send(R::GET_FEATURES, true, &[], none());
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::NeedReply)), "REPLY_ACK was not negotiated");
    let mut b = Bench::default();
    assert_eq!(b.send(R::SET_PROTOCOL_FEATURES, true, &u64s(&[8]), none()), Some(u64s(&[0])));
    assert_eq!(b.send(R::SET_OWNER, true, &[], none()), Some(u64s(&[0])));
    let mut b = Bench::default();
    b.send(R::SET_PROTOCOL_FEATURES, true, &u64s(&[1]), none());
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::NeedReply)));
}

#[test]
fn v32_iotlb_is_not_offered() {
    refused(bench, Refusal::Iotlb, R::IOTLB_MSG, &[0; 32], &none);
    let mut b = bench();
    for _ in 0..10_000 {
        assert_eq!(ask(&mut b, R::IOTLB_MSG, &[0xff; 32], none()), NO);
    }
    assert_eq!((b.count(Refusal::Iotlb), b.closed), (10_000, None));
}

#[test]
fn v33_postcopy_is_not_offered() {
    for request in [R::POSTCOPY_LISTEN, R::POSTCOPY_END] {
        refused(bench, Refusal::Postcopy, request, &[], &none);
    }
    let mut b = bench();
    b.send(R::POSTCOPY_ADVISE, true, &[], none());
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::Postcopy)), "its answer is a descriptor");
    for request in [R::SET_VRING_ENDIAN, R::CREATE_CRYPTO_SESSION, R::VRING_KICK] {
        refused(bench, Refusal::NotOffered, request, &[0; 8], &none);
    }
}

#[test]
fn v35_rarp_addresses() {
    let mut b = bench();
    for mac in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0; 6]] {
        let payload = [&mac[..], &[0, 0]].concat();
        assert_eq!(ask(&mut b, R::SEND_RARP, &payload, none()), NO);
        assert_eq!(b.send(R::SEND_RARP, false, &payload, none()), None);
    }
    assert_eq!((b.count(Refusal::RarpAddress), b.closed), (6, None), "nobody is harmed by none");
    assert!(!b.events.iter().any(|event| event == "Rarp"));
    assert_eq!(ask(&mut b, R::SEND_RARP, &[2, 0, 0, 0, 1, 10, 0, 0], none()), YES);
    assert!(b.events.iter().any(|event| event == "Rarp"));
}

#[test]
fn v36_mtu_and_configuration_space() {
    let mut b = bench();
    for mtu in [0, 67, 1501, 65535, 65536 + 1500, u64::MAX] {
        assert_eq!(ask(&mut b, R::NET_SET_MTU, &u64s(&[mtu]), none()), NO, "{mtu}");
    }
    assert_eq!((b.count(Refusal::Mtu), b.closed), (6, None));
    assert_eq!(ask(&mut b, R::NET_SET_MTU, &u64s(&[1400]), none()), YES);
    let get = |b: &mut Bench, offset: u32, size: u32| {
        b.send(R::GET_CONFIG, false, &u32s(&[offset, size, 0]), none())
    };
    assert_eq!(get(&mut b, 10, 2).unwrap()[12..], 1400u16.to_le_bytes());
    // The port's own changes: what the front end set holds as long as it is the smaller one.
    for (port, told) in [(9000, 1400), (1300, 1300), (9000, 9000)] {
        b.session.set_mtu(port);
        assert_eq!(get(&mut b, 10, 2).unwrap()[12..], u16::to_le_bytes(told), "a port of {port}");
    }
    assert_eq!(ask(&mut b, R::NET_SET_MTU, &u64s(&[9000]), none()), YES);
    assert_eq!(get(&mut b, 0, 256).unwrap().len(), 12 + 256);
    for (offset, size) in [(0, 0), (0, 257), (256, 1), (255, 2), (u32::MAX, 2), (2, u32::MAX)] {
        assert_eq!(get(&mut b, offset, size), Some(vec![0; 12]), "an answer of size 0 says no");
    }
    assert_eq!(b.count(Refusal::ConfigRange), 6);
    let set = |offset: u32, bytes: &[u8]| [u32s(&[offset, bytes.len() as u32, 0]), bytes.to_vec()].concat();
    refused(bench, Refusal::ConfigReadOnly, R::SET_CONFIG, &set(0, &[2, 0, 0, 0, 1, 11]), &none);
    refused(bench, Refusal::ConfigRange, R::SET_CONFIG, &set(250, &[0; 7]), &none);
    refused(bench, Refusal::ConfigRange, R::SET_CONFIG, &[u32s(&[0, 6, 0]), vec![0; 5]].concat(), &none);
    assert_eq!(ask(&mut b, R::SET_CONFIG, &set(0, &[2, 0, 0, 0, 1, 10]), none()), YES, "as it is");
}

#[test]
fn status_values() {
    let mut b = bench();
    assert_eq!(ask(&mut b, R::SET_STATUS, &u64s(&[15]), none()), YES);
    assert_eq!(b.send(R::GET_STATUS, false, &[], none()), Some(u64s(&[15])));
    refused(bench, Refusal::StatusValue, R::SET_STATUS, &u64s(&[256]), &none);
}

/// Requests of protocol features that were not negotiated.
#[test]
fn requests_without_their_protocol_feature() {
    let bare = || {
        let mut b = Bench::default();
        b.send(R::SET_OWNER, false, &[], none());
        b.send(R::SET_PROTOCOL_FEATURES, false, &u64s(&[8]), none());
        b
    };
    for (request, payload) in [
        (R::SET_STATUS, u64s(&[1])),
        (R::NET_SET_MTU, u64s(&[1500])),
        (R::SEND_RARP, u64s(&[2])),
        (R::RESET_DEVICE, vec![]),
        (R::SET_CONFIG, u32s(&[0, 1, 0])),
        (R::REM_MEM_REG, vec![0; 40]),
    ] {
        refused(bare, Refusal::NotNegotiated, request, &payload, &none);
    }
    let socket = || vec![std::os::unix::net::UnixStream::pair().unwrap().0.into()];
    refused(bare, Refusal::NotNegotiated, R::SET_BACKEND_REQ_FD, &[], &socket);
    refused(bench, Refusal::RequestChannel, R::SET_BACKEND_REQ_FD, &[], &|| vec![memfd(1)]);
}
