//! A port taken over: its session, connection and listening socket go on in another owner, and the front end notices
//! nothing; and what a device does with memory.

use crate::common::*;
use crate::harness::*;
use towpath_vhost_user::{CloseReason, Device, Endpoint, FrontendReq as R, Refusal, Role};
use virtqueue::{DeviceRing, Notifier};

/// Takes the port apart as a daemon would that hands over, and puts it together as its successor.
fn take_over(mut port: Port) -> Port {
    port.device.endpoint_mut().session_mut().unwrap().freeze();
    port.run();
    assert_eq!(port.events.last().map(String::as_str), Some("Frozen"));
    assert!(port.queues.is_empty());
    assert_eq!(port.device.endpoint().deadline(), None, "half a message waits for the successor");
    let Port { device, .. } = port;
    let (role, connection) = device.into_endpoint().into_connection();
    let parts = connection.unwrap().into_parts().unwrap();
    assert!(parts.stream.is_some());
    let mut successor = Port::new(role);
    let (role, _) = std::mem::replace(
        &mut successor.device,
        Device::new(Endpoint::new(
            Role::Client(towpath_vhost_user::Connector::new("/none")),
            Default::default(),
        )),
    )
    .into_endpoint()
    .into_connection();
    successor.device = Device::new(Endpoint::from_parts(role, parts));
    successor.run();
    successor
}

/// In the middle of a message, with queues running and a dirty log: nothing is lost, nothing is sent twice.
#[test]
fn a_front_end_is_taken_over_in_the_middle_of_a_message() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let before = held();
    let mut port = Port::server(&path);
    let mut front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    let question = message(R::GET_VRING_BASE, &u32s(&[1, 0]), vec![]);
    front.send(&question.bytes[..15], &[]);
    port.run();
    for _ in 0..3 {
        front.reply();
    }
    for round in 0..3u16 {
        // The guest's ring went on meanwhile.
        let at = ring_at(1) - USER_BASE + 0x2_0000 + 2;
        rustix::io::pwrite(&memory, &(round + 1).to_le_bytes(), at).unwrap();
        port = take_over(port);
        assert_eq!(port.queues.len(), 2, "round {round}");
        assert!(port.queues[&0].call.is_some() && port.queues[&1].kick.is_some());
        assert_eq!(port.device.memory().regions().len(), 1);
        assert_eq!(held().maps, 1);
    }
    front.send(&question.bytes[15..], &[]);
    port.run();
    assert_eq!(front.reply(), u32s(&[1, 3]));
    assert_eq!(port.queues.len(), 1);
    let mut other = Raw::connect(&path);
    port.run();
    assert!(other.is_closed() && !front.is_closed(), "the listening socket came along");
    drop((front, other));
    port.run();
    assert_eq!(port.closed, [CloseReason::Disconnected]);
    drop(port);
    assert_eq!(held(), before);
}

/// Regions that stay are not mapped again; those that go are unmapped at once.
#[test]
fn memory_that_stays_is_not_mapped_again() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let (memory, more) = (memfd(REGION_BYTES), memfd(REGION_BYTES));
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    port.run();
    let first = port.device.memory().regions()[0].clone();
    let second = [0x100_0000, REGION_BYTES, USER_BASE + 0x100_0000, 0];
    front.message(&message(R::ADD_MEM_REG, &single(second), vec![dup(&more)]));
    port.run();
    assert_eq!((port.queues.len(), held().maps), (2, 2));
    assert!(std::sync::Arc::ptr_eq(&port.device.memory().regions()[0], &first));
    front.message(&message(R::REM_MEM_REG, &single(second), vec![]));
    port.run();
    assert_eq!((port.queues.len(), held().maps), (2, 1));
    assert!(std::sync::Arc::ptr_eq(&port.device.memory().regions()[0], &first));
    let stops = port.events.iter().filter(|event| *event == "StopQueue").count();
    let downs = port.events.iter().filter(|event| *event == "LinkDown").count();
    assert_eq!((stops, downs), (4, 0), "the link stays up while memory changes");
}

/// G-48, G-49: memory cut off under us is seen, and ends this session only.
#[test]
fn g49_memory_cut_off_ends_the_session() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let mut port = Port::server(&path);
    let mut front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    port.run();
    assert!(!port.device.is_memory_dead());
    rustix::fs::ftruncate(&memory, 0).unwrap();
    let queue = port.queues.get_mut(&1).unwrap();
    queue.ring.arm();
    assert!(port.device.is_memory_dead());
    port.device.close();
    port.run();
    assert_eq!(port.closed, [CloseReason::Owner]);
    assert!(front.is_closed());
    // The next front end works.
    let memory = memfd(REGION_BYTES);
    let front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    port.run();
    assert_eq!(port.queues.len(), 2);
}

/// A ring that cannot be built leaves its queue stopped, and the others alone.
#[test]
fn a_ring_that_cannot_be_built_stays_stopped() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    let packed = u64s(&[1 << 32 | 1 << 34 | 1 << 30]);
    for mut step in handshake(&memory) {
        if step.request == R::SET_FEATURES {
            step = message(R::SET_FEATURES, &packed, vec![]);
        }
        // Beyond the ring of 256.
        if step.request == R::SET_VRING_BASE && step.bytes[12] == 0 {
            step = message(R::SET_VRING_BASE, &u32s(&[0, 0x8100]), vec![]);
        }
        front.message(&step);
    }
    port.run();
    assert!(port.queues.len() == 1 && port.queues.contains_key(&1));
    assert_eq!(port.refused(Refusal::RingRefused), 1);
    front.message(&message(R::GET_VRING_BASE, &u32s(&[0, 0]), vec![]));
    front.message(&message(R::SET_VRING_BASE, &u32s(&[0, 0x8010]), vec![]));
    front.message(&message(R::SET_VRING_KICK, &u64s(&[0]), vec![eventfd()]));
    port.run();
    assert_eq!(port.queues.len(), 2, "{:?}", port.events);
}

/// The call descriptor of a queue tells the guest, also after it was replaced; a replaced one is left alone (L-02).
#[test]
fn l02_notifications_go_to_the_descriptor_in_force() {
    let _alone = alone();
    let (_folder, path) = socket_path();
    let memory = memfd(REGION_BYTES);
    let mut port = Port::server(&path);
    let front = Raw::connect(&path);
    for step in handshake(&memory) {
        front.message(&step);
    }
    let flags = rustix::event::EventfdFlags::NONBLOCK;
    let [old, new] = [0, 0].map(|count| rustix::event::eventfd(count, flags).unwrap());
    front.message(&message(R::SET_VRING_CALL, &u64s(&[1]), vec![dup(&old)]));
    port.run();
    let count = |fd: &std::os::fd::OwnedFd| {
        let mut bytes = [0; 8];
        rustix::io::read(fd, &mut bytes).map_or(0, |_| u64::from_ne_bytes(bytes))
    };
    assert_eq!(port.events.last().map(String::as_str), Some("CallChanged"));
    port.call(1).notify();
    assert_eq!((count(&old), count(&new)), (1, 0));
    front.message(&message(R::SET_VRING_CALL, &u64s(&[1]), vec![dup(&new)]));
    port.run();
    port.call(1).notify();
    assert_eq!((count(&old), count(&new)), (0, 1));
}

/// A port built from nothing but memory, addresses and eventfds: no message is ever sent.
#[test]
fn a_port_is_built_without_a_handshake() {
    use std::sync::Arc;
    use towpath_vhost_user::features::VIRTIO_F_VERSION_1;
    use towpath_vhost_user::session::{Addresses, Kick, Region, SessionConfig};
    use towpath_vhost_user::{Parts, QueueParts};

    let _alone = alone();
    let before = held();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut parts = Parts::new(SessionConfig::default());
    parts.owner = true;
    parts.features = Some(VIRTIO_F_VERSION_1);
    let (guest_addr, user_addr) = (0x10_0000, USER_BASE);
    let file = Arc::new(memfd(REGION_BYTES));
    parts.regions.push(Region { guest_addr, size: REGION_BYTES, user_addr, mmap_offset: 0, file });
    for index in 0..2 {
        let at = ring_at(index);
        parts.queues.push(QueueParts {
            size: Some(256),
            addresses: Some(Addresses {
                descriptor: at,
                driver: at + 0x1_0000,
                device: at + 0x2_0000,
                log: None,
            }),
            kick: Kick::Descriptor(Arc::new(eventfd())),
            call: Some(Arc::new(eventfd())),
            ..QueueParts::default()
        });
    }
    parts.stream = Some(ours.into());
    let nowhere = Role::Client(towpath_vhost_user::Connector::new("/none"));
    let mut port = Port::new(Role::Client(towpath_vhost_user::Connector::new("/none")));
    port.device = Device::new(Endpoint::from_parts(nowhere, parts));
    port.run();
    assert_eq!(port.queues.len(), 2);
    assert!(port.queues[&1].kick.is_some() && port.queues[&1].call.is_some());
    assert_eq!(port.device.memory().guest_end(), guest_addr + REGION_BYTES);
    drop(theirs);
    port.run();
    assert_eq!(port.closed, [CloseReason::Disconnected]);
    drop(port);
    assert_eq!(held(), before);
}
