//! Connections: stalls, floods, second front ends, credentials, both roles, files of sockets (V-01, V-30, V-31, V-37, L-07).

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::common::*;
use crate::harness::*;
use towpath_vhost_user::decoder::STALL_DEADLINE;
use towpath_vhost_user::{
    CloseReason, FrontendReq as R, ListenError, ListenOptions, Listener, Refusal, Role,
};

#[test]
fn v01_short_headers_and_stalls() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let before = held();
    for bytes in 1..12 {
        let mut front = Raw::connect(&path);
        for _ in 0..bytes {
            assert!(front.byte());
        }
        port.run();
        drop(front);
        port.run();
        assert_eq!(port.closed.pop(), Some(CloseReason::Disconnected));
        port.now += Duration::from_secs(1);
    }
    // An hour of silence in the middle of a header: the deadline ends it, and nobody waited for it.
    let mut front = Raw::connect(&path);
    front.byte();
    port.run();
    assert_eq!(port.device.endpoint().deadline(), Some(port.now + STALL_DEADLINE));
    port.now += STALL_DEADLINE - Duration::from_millis(1);
    port.run();
    assert!(!front.is_closed());
    port.now += Duration::from_secs(3600);
    port.run();
    assert!(front.is_closed());
    drop(front);
    assert_eq!(port.closed.pop(), Some(CloseReason::Refused(Refusal::Stalled)));
    // Silence at a message boundary is no stall.
    let mut front = Raw::connect(&path);
    front.message(&message(R::SET_OWNER, &[], vec![]));
    port.run();
    assert_eq!(port.device.endpoint().deadline(), None);
    port.now += Duration::from_secs(3600);
    port.run();
    assert!(!front.is_closed());
    drop(front);
    port.run();
    assert_eq!(held(), before);
}

#[test]
fn v30_floods_and_second_front_ends() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let memory = memfd(REGION_BYTES);
    let before = held();
    let mut owner = Raw::connect(&path);
    for step in handshake(&memory) {
        assert!(owner.message(&step));
    }
    port.run();
    assert_eq!(port.queues.len(), 2);
    // A second one is turned away, and the first keeps the port.
    let mut second = Raw::connect(&path);
    port.run();
    assert!(second.is_closed());
    assert_eq!(port.refused(Refusal::SecondFrontEnd), 1);
    // 1,000 more within a second: the rate holds, the rest is not even taken.
    let mut taken = 0;
    for _ in 0..1000 {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        taken += u64::from(rustix::net::connect(&socket, &address).is_ok());
        port.now += Duration::from_millis(1);
        port.run();
    }
    assert!(taken < 1000, "the backlog is full: {taken}");
    let turned_away = port.refused(Refusal::SecondFrontEnd);
    assert!((30..=40).contains(&turned_away), "a burst of 16 and 20 a second: {turned_away}");
    assert!(port.refused(Refusal::ConnectRate) > 0);
    assert!(port.device.endpoint().deadline().is_some(), "it says when it goes on");
    owner.message(&message(R::GET_QUEUE_NUM, &[], vec![]));
    port.run();
    let replies: Vec<_> = (0..4).map(|_| owner.reply()).collect();
    assert_eq!(replies.last(), Some(&u64s(&[4])), "features, protocol features, the log's, and this");
    assert_eq!(port.queues.len(), 2);
    drop((owner, second));
    port.now += Duration::from_secs(60);
    port.run();
    port.run();
    assert_eq!(port.closed.first(), Some(&CloseReason::Disconnected));
    assert_eq!(held(), before);
}

/// The next front end is taken when the worker has let the last one's queues go, not before.
#[test]
fn v30_the_next_front_end_waits_for_the_worker() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let memory = memfd(REGION_BYTES);
    let front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    port.run();
    port.hold = true;
    drop(front);
    let mut next = Raw::connect(&path);
    next.message(&message(R::GET_FEATURES, &[], vec![]));
    port.run();
    assert_eq!((port.held_back.len(), port.closed.len()), (2, 0));
    assert_eq!(held().maps, 1, "mapped while a worker may look");
    assert!(!next.is_closed());
    next.0.set_nonblocking(false).unwrap();
    port.let_go(0);
    port.let_go(1);
    port.run();
    assert_eq!(port.closed, [CloseReason::Disconnected]);
    assert_eq!(held().maps, 0);
    assert_eq!(next.reply(), u64s(&[port.device.endpoint().session().unwrap().config().features]));
    assert_eq!(port.device.endpoint().refusals().total(), 0);
}

/// V-31: 500 front ends that send a byte a second; an honest one is served meanwhile, each of them for 5 seconds.
#[test]
fn v31_slow_front_ends() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let before = held();
    let mut slow: Vec<_> = (0..500)
        .map(|i| {
            let path = folder.path().join(format!("{i}.sock"));
            let port = Port::server(&path);
            (Raw::connect(&path), port)
        })
        .collect();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let mut honest = Raw::connect(&path);
    for second in 0..8 {
        for (front, port) in &mut slow {
            let sent = front.byte();
            assert_eq!(sent, second <= 5, "second {second}");
            port.now = NOW + Duration::from_secs(second);
            port.run();
        }
        honest.message(&message(R::GET_FEATURES, &[], vec![]));
        port.run();
        honest.reply();
    }
    for (_, port) in &slow {
        assert_eq!(port.closed, [CloseReason::Refused(Refusal::Stalled)]);
    }
    drop((slow, port, honest));
    assert_eq!(held(), before);
}

#[test]
fn v37_credentials() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let us = rustix::process::getuid();
    for (allowed, closed) in [(true, false), (false, true)] {
        let listener = Listener::bind(&ListenOptions::new(&path)).unwrap();
        let pid = rustix::process::getpid();
        let check = move |peer: &rustix::net::UCred| (peer.uid == us && peer.pid == pid) == allowed;
        let mut port = Port::new(Role::Server(listener.with_check(Box::new(check))));
        let mut front = Raw::connect(&path);
        port.run();
        assert_eq!(front.is_closed(), closed);
        assert_eq!(port.refused(Refusal::Credentials), u64::from(closed));
    }
}

#[test]
fn sockets_files() {
    let _alone = alone();
    let (folder, path) = socket_path();
    let options = ListenOptions { mode: 0o640, ..ListenOptions::new(&path) };
    let listener = Listener::bind(&options).unwrap();
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
    // A live socket is somebody's.
    assert!(matches!(Listener::bind(&options), Err(ListenError::InUse { .. })));
    assert!(UnixStream::connect(&path).is_ok(), "and stays so");
    drop(listener);
    assert!(!path.exists());
    // One that a dead process left behind is replaced.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists() && UnixStream::connect(&path).is_err());
    let listener = Listener::bind(&options).unwrap();
    assert!(UnixStream::connect(&path).is_ok());
    // A name that someone else has taken meanwhile is not removed.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&options), Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let long = folder.path().join("x".repeat(108));
    let error = Listener::bind(&ListenOptions::new(long)).unwrap_err();
    assert!(error.to_string().contains("longer than 107 bytes"), "{error}");
    let nowhere = folder.path().join("no/such/folder");
    assert!(matches!(Listener::bind(&ListenOptions::new(nowhere)), Err(ListenError::Io { .. })));
    let unowned =
        ListenOptions { owner: (Some(12345), Some(12345)), ..ListenOptions::new(folder.path().join("o")) };
    match Listener::bind(&unowned) {
        Ok(_) => assert!(rustix::process::getuid().is_root()),
        Err(error) => assert!(error.to_string().contains("setting the owner"), "{error}"),
    }
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["p.sock"], "nothing else is left behind");
}

/// towpathd as client: tries at growing distances, attaches when the front end listens, and again after it went.
#[test]
fn client_role_retries_and_reconnects() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::client(&path);
    let memory = memfd(REGION_BYTES);
    let before = held();
    assert_eq!(port.device.endpoint().deadline(), Some(Duration::ZERO), "at once");
    port.run();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let deadline = port.device.endpoint().deadline().unwrap();
        pauses.push((deadline - port.now).as_millis());
        port.now = deadline;
        port.run();
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    let listener = UnixListener::bind(&path).unwrap();
    for round in 1..=3 {
        // After a connection that was of use the next attempt has come already.
        port.now = port.device.endpoint().deadline().unwrap_or(port.now);
        port.run();
        let front = Raw(listener.accept().unwrap().0);
        for step in handshake(&memory) {
            front.message(&step);
        }
        port.run();
        assert_eq!(port.queues.len(), 2, "round {round}");
        drop(front);
        port.now += Duration::from_secs(1);
        port.run();
        assert_eq!(port.closed.pop(), Some(CloseReason::Disconnected));
    }
    drop((listener, port));
    assert_eq!(held().maps, before.maps);
}

/// L-07: 32 ports with running queues are closed at once.
#[test]
fn l07_shutdown_with_32_ports() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let memory = memfd(REGION_BYTES);
    let before = held();
    let mut ports: Vec<_> = (0..32)
        .map(|i| {
            let path = folder.path().join(format!("{i}.sock"));
            let mut port = Port::server(&path);
            let front = Raw::connect(&path);
            handshake(&memory).iter().for_each(|step| assert!(front.message(step)));
            port.run();
            assert_eq!(port.queues.len(), 2);
            (front, port)
        })
        .collect();
    assert_eq!(held().maps, 32);
    for (_, port) in &mut ports {
        port.device.close();
        port.run();
        assert_eq!(port.closed, [CloseReason::Owner]);
    }
    assert_eq!(held().maps, 0);
    drop(ports);
    assert_eq!(held(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Replies that nobody reads do not pile up.
#[test]
fn unread_replies_end_the_session() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    let protocol = u64s(&[towpath_vhost_user::features::SUPPORTED_PROTOCOL.bits()]);
    front.message(&message(R::SET_PROTOCOL_FEATURES, &protocol, vec![]));
    let ask = message(R::GET_CONFIG, &u32s(&[0, 256, 0]), vec![]);
    for _ in 0..20_000 {
        if !front.message(&ask) {
            break;
        }
        port.run();
        if !port.closed.is_empty() {
            break;
        }
    }
    assert_eq!(port.closed, [CloseReason::Refused(Refusal::Unread)]);
}
