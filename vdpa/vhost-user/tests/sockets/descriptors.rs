//! Descriptors in messages: exact counts, nothing leaks, whatever a front end does (V-02 to V-04, V-25, L-01).

use std::os::fd::AsFd;

use crate::common::*;
use crate::harness::*;
use towpath_vhost_user::{CloseReason, FrontendReq as R, Refusal, Session, SessionConfig};

/// The payload bytes a request has, for requests of one size.
fn payload_bytes(request: R) -> usize {
    match request {
        R::SET_MEM_TABLE | R::SET_VRING_ADDR | R::ADD_MEM_REG | R::REM_MEM_REG => 40,
        R::SET_LOG_BASE => 16,
        R::GET_CONFIG | R::SET_CONFIG => 13,
        R::GET_INFLIGHT_FD | R::SET_INFLIGHT_FD => 24,
        R::GET_FEATURES
        | R::SET_OWNER
        | R::RESET_OWNER
        | R::GET_PROTOCOL_FEATURES
        | R::GET_QUEUE_NUM
        | R::GET_MAX_MEM_SLOTS
        | R::RESET_DEVICE
        | R::GET_STATUS
        | R::CHECK_DEVICE_STATE
        | R::SET_BACKEND_REQ_FD
        | R::SET_LOG_FD => 0,
        _ => 8,
    }
}

fn right_count(request: R) -> std::ops::RangeInclusive<usize> {
    match request {
        R::SET_VRING_KICK
        | R::SET_VRING_CALL
        | R::SET_VRING_ERR
        | R::SET_LOG_BASE
        | R::SET_LOG_FD
        | R::SET_BACKEND_REQ_FD
        | R::SET_INFLIGHT_FD
        | R::ADD_MEM_REG
        | R::SET_DEVICE_STATE_FD => 1..=1,
        R::REM_MEM_REG | R::GPU_SET_SOCKET => 0..=1,
        _ => 0..=0,
    }
}

#[test]
fn v02_v04_every_message_with_any_number_of_descriptors() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let (memory, event) = (memfd(0x1000), eventfd());
    let before = held();
    for request in (1..=44).filter_map(|code| R::try_from(code).ok()) {
        for count in [0, 1, 2, 8, 9, 10, 253] {
            let front = Raw::connect(&path);
            let fds: Vec<_> =
                (0..count).map(|i| if i % 2 == 0 { event.as_fd() } else { memory.as_fd() }).collect();
            let mut payload = vec![0; payload_bytes(request)];
            if request == R::SET_MEM_TABLE {
                // As many regions as the payload has room for: one.
                payload[0] = 1;
            }
            let sent = [u32s(&[request.into(), 1, payload.len() as u32]), payload].concat();
            assert!(front.send(&sent, &fds));
            port.now += std::time::Duration::from_secs(1);
            port.run();
            let right = if request == R::SET_MEM_TABLE { 1..=1 } else { right_count(request) };
            let counted = [Refusal::DescriptorCount, Refusal::AncillaryTruncated];
            let wrong = counted.map(CloseReason::Refused);
            match port.closed.last() {
                Some(reason) if wrong.contains(reason) => {
                    assert!(!right.contains(&count), "{request:?} with {count}: {reason:?}");
                }
                other => assert!(right.contains(&count), "{request:?} with {count}: {other:?}"),
            }
            drop(front);
            port.run();
            assert_eq!(held(), before, "{request:?} with {count} descriptors");
            port.closed.clear();
        }
    }
    assert!(port.refused(Refusal::AncillaryTruncated) >= 44, "10 and 253 are more than any message carries");
}

#[test]
fn v03_wrong_sizes_close_the_descriptors_too() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let event = eventfd();
    let before = held();
    for size in [0, 7, 9, 4097, 0x7fff_ffff, u32::MAX] {
        let front = Raw::connect(&path);
        let header = u32s(&[R::SET_VRING_KICK.into(), 1, size]);
        assert!(front.send(&header, &[event.as_fd(), event.as_fd()]));
        port.now += std::time::Duration::from_secs(1);
        port.run();
        assert_eq!(port.closed, [CloseReason::Refused(Refusal::PayloadSize)]);
        port.closed.clear();
        drop(front);
        assert_eq!(held(), before);
    }
}

#[test]
fn v04_descriptors_in_the_middle_of_a_message() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let event = eventfd();
    let before = held();
    let step = message(R::SET_VRING_KICK, &u64s(&[0]), vec![]);
    let late = Some(CloseReason::Refused(Refusal::DescriptorPosition));
    for (cut, read_between) in (1..step.bytes.len()).flat_map(|cut| [(cut, false), (cut, true)]) {
        let front = Raw::connect(&path);
        assert!(front.send(&step.bytes[..cut], &[]));
        if read_between {
            port.run();
        }
        assert!(front.send(&step.bytes[cut..], &[event.as_fd()]));
        port.now += std::time::Duration::from_secs(1);
        port.run();
        drop(front);
        port.run();
        assert_eq!(held(), before);
        // Within a header that was not looked at yet the kernel joins both pieces, and nobody can tell.
        let reason = port.closed.pop();
        let joined = !read_between && cut < 12 && reason == Some(CloseReason::Disconnected);
        assert!(joined || reason == late, "cut at {cut}: {reason:?}");
    }
    // With its first byte they are right, in however many pieces the rest comes.
    let front = Raw::connect(&path);
    for (place, byte) in step.bytes.iter().enumerate() {
        let fds = [event.as_fd()];
        assert!(front.send(&[*byte], if place == 0 { &fds } else { &[] }));
        port.run();
    }
    assert_eq!(port.closed, []);
    assert_eq!(port.device.endpoint().session().unwrap().queues().count(), 1);
    drop(front);
    port.run();
    assert_eq!(held(), before);
}

/// L-01: the front end goes away after each byte of its handshake. Nothing stays; the next one works.
#[test]
fn l01_disconnect_at_each_byte_of_the_handshake() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let memory = memfd(REGION_BYTES);
    let mut total = 0;
    let mut enabled = Vec::new();
    for step in handshake(&memory) {
        total += step.bytes.len();
        if step.request == R::SET_VRING_ENABLE {
            enabled.push(total);
        }
    }
    let before = held();
    for end in 0..=total {
        let front = Raw::connect(&path);
        let mut left = end;
        for mut step in handshake(&memory) {
            if left == 0 {
                break;
            }
            step.bytes.truncate(left);
            left -= step.bytes.len();
            assert!(front.message(&step), "{:?}", step.request);
        }
        port.now += std::time::Duration::from_secs(1);
        port.run();
        assert_eq!(port.queues.len(), enabled.iter().filter(|at| **at <= end).count());
        drop(front);
        port.run();
        assert_eq!(port.closed, [CloseReason::Disconnected], "after {end} of {total} bytes");
        port.closed.clear();
        assert!(port.queues.is_empty());
        assert_eq!(held(), before, "after {end} of {total} bytes");
    }
    assert_eq!(port.device.endpoint().refusals().total(), 0);
    assert_eq!(port.device.endpoint().connects(), total as u64 + 1);
}

/// V-25: descriptors of in-flight regions go with their replies.
#[test]
fn v25_asking_for_inflight_regions_keeps_none() {
    let _alone = alone();
    let mut session = Session::new(SessionConfig::default());
    let protocol = u64s(&[towpath_vhost_user::features::SUPPORTED_PROTOCOL.bits()]);
    session.on_message(Bench::message(R::SET_PROTOCOL_FEATURES, false, &protocol, vec![]));
    let asked = [u64s(&[0, 0]), 1u16.to_ne_bytes().to_vec(), 256u16.to_ne_bytes().to_vec()].concat();
    let before = held();
    for _ in 0..100_000 {
        session.on_message(Bench::message(R::GET_INFLIGHT_FD, false, &asked, vec![]));
        let reply = session.next_reply().unwrap();
        assert_eq!((reply.fds.len(), reply.bytes.len()), (1, 32));
    }
    assert_eq!(held(), before);
}

/// Runs something while this process cannot open one more descriptor.
fn without_descriptors(run: impl FnOnce()) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let event = eventfd();
    let limit = getrlimit(Resource::Nofile);
    let open: Vec<_> =
        std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().file_name()).collect();
    // The lowest limit that leaves every open descriptor in place; whatever is free below is taken.
    let highest: u64 = open.iter().map(|fd| fd.to_str().unwrap().parse().unwrap()).max().unwrap();
    setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 1), maximum: limit.maximum }).unwrap();
    let filled: Vec<_> = std::iter::from_fn(|| event.try_clone().ok()).collect();
    run();
    drop(filled);
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// Out of descriptors it is said so, and only the message that brought one more suffers.
#[test]
fn out_of_descriptors_is_named() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    let event = eventfd();
    port.run();
    without_descriptors(|| {
        front.message(&message(R::GET_FEATURES, &[], vec![]));
        port.run();
        assert_eq!(port.closed, [], "what brings none goes on");
        let kick = message(R::SET_VRING_KICK, &u64s(&[0]), vec![]);
        front.send(&kick.bytes, &[event.as_fd()]);
        port.run();
    });
    assert_eq!(port.closed, [CloseReason::Refused(Refusal::OutOfDescriptors)]);
    let _next = Raw::connect(&path);
    port.run();
    assert!(port.device.endpoint().session().is_some());
}

/// a connection that cannot be accepted for want of a descriptor waits, without keeping the port busy.
#[test]
fn out_of_descriptors_keeps_listening() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    without_descriptors(|| port.run());
    assert!(port.device.endpoint().session().is_none());
    assert_eq!(port.refused(Refusal::OutOfDescriptors), 1);
    assert!(port.device.endpoint().sockets().all(|(_, interest)| !interest.read), "or it would spin");
    port.now = port.device.endpoint().deadline().unwrap();
    port.run();
    assert!(port.device.endpoint().session().is_some());
    drop(front);
}
