//! What happens over time: queues that stop late, memory that changes, resets, ends.

use crate::common::*;
use towpath_vhost_user::features::*;
use towpath_vhost_user::{CloseReason, Event, FrontendReq as R, Refusal, Session, SessionConfig};

fn region(guest: u64, user: u64) -> Vec<u8> {
    table(&[[guest, REGION_BYTES, user, 0]])
}

/// While a worker holds a queue, the message that wants it waits, and those behind it wait in order.
#[test]
fn messages_wait_in_order_for_a_worker() {
    let mut b = Bench::running();
    b.hold = true;
    b.bases.insert(0, 77);
    assert_eq!(b.send(R::GET_VRING_BASE, false, &u32s(&[0, 0]), vec![]), None);
    assert!(b.session.is_waiting() && b.stopping.contains(&0) && b.is_running(&[1]));
    for _ in 0..3 {
        assert_eq!(b.send(R::GET_QUEUE_NUM, false, &[], vec![]), None, "not before its turn");
    }
    assert_eq!(b.send(R::NET_SET_MTU, true, &u64s(&[1400]), vec![]), None);
    b.release(0);
    assert_eq!(b.reply(R::GET_VRING_BASE), Some(u32s(&[0, 77])));
    for _ in 0..3 {
        assert_eq!(b.reply(R::GET_QUEUE_NUM), Some(u64s(&[4])));
    }
    assert_eq!(b.reply(R::NET_SET_MTU), Some(u64s(&[0])));
    assert!(!b.session.is_waiting());
}

#[test]
fn a_backlog_has_an_end() {
    let mut b = Bench::running();
    b.hold = true;
    b.send(R::GET_VRING_BASE, false, &u32s(&[0, 0]), vec![]);
    for _ in 0..2000 {
        b.session.on_message(Bench::message(R::GET_QUEUE_NUM, false, &[], vec![]));
    }
    b.settle();
    assert_eq!(b.count(Refusal::Backlog), 1);
    assert_eq!(b.closed, None, "a worker still has queues");
    b.release(0);
    b.release(1);
    assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::Backlog)));
}

/// V-18: all the same, one region moved, all gone.
#[test]
fn v18_memory_changes_under_running_queues() {
    let mut b = Bench::running();
    b.bases.extend([(0, 10), (1, 11)]);
    let ok = Some(u64s(&[0]));
    assert_eq!(
        b.send(R::SET_MEM_TABLE, true, &region(0x4000_0000, USER_BASE), vec![memfd(REGION_BYTES)]),
        ok
    );
    assert_eq!(b.events, ["StopQueue", "StopQueue", "MapMemory", "QueueReady", "QueueReady"]);
    assert_eq!((b.running[&0].base, b.running[&1].base), (10, 11), "they go on where they stopped");
    // Elsewhere: the rings are not in it.
    let elsewhere = region(0x4000_0000, USER_BASE + (1 << 40));
    assert_eq!(b.send(R::SET_MEM_TABLE, true, &elsewhere, vec![memfd(REGION_BYTES)]), ok);
    assert!(b.is_running(&[]));
    assert_eq!(b.count(Refusal::RingOutsideMemory), 2);
    assert_eq!(b.send(R::SET_MEM_TABLE, true, &region(0, USER_BASE), vec![memfd(REGION_BYTES)]), ok);
    assert!(b.is_running(&[0, 1]));
}

/// A memory that cannot be mapped leaves the old one in force.
#[test]
fn v18_a_mapping_that_fails_changes_nothing() {
    let mut b = Bench::running();
    let message = |need_reply| {
        let payload = region(0, USER_BASE);
        Bench::message(R::SET_MEM_TABLE, need_reply, &payload, vec![memfd(REGION_BYTES)])
    };
    for need_reply in [true, false] {
        b.session.on_message(message(need_reply));
        while let Some(event) = b.session.next_event() {
            match event {
                Event::StopQueue { index } => {
                    b.running.remove(&index);
                    b.session.queue_stopped(index, 5);
                }
                Event::MapMemory { .. } => b.session.memory_mapped(Err(Refusal::RegionMap)),
                Event::QueueReady(start) => drop(b.running.insert(start.index, *start)),
                Event::Closed { reason } => b.closed = Some(reason),
                Event::Refused(refusal) => assert_eq!(refusal, Refusal::RegionMap),
                other => panic!("{other:?}"),
            }
        }
        if need_reply {
            assert_eq!(b.reply(R::SET_MEM_TABLE), Some(u64s(&[1])));
            assert!(b.is_running(&[0, 1]) && b.running[&0].base == 5);
            assert_eq!(b.session.regions()[0].guest_addr, 0x4000_0000);
        } else {
            assert_eq!(b.closed, Some(CloseReason::Refused(Refusal::RegionMap)));
        }
    }
}

#[test]
fn v19_the_base_is_where_the_worker_stopped() {
    let mut b = Bench::running();
    b.bases.extend([(0, 4242), (1, 65535)]);
    for (index, base) in [(0, 4242), (1, 65535)] {
        let reply = b.send(R::GET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
        assert_eq!(reply, Some(u32s(&[index, base])));
        let again = b.send(R::GET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
        assert_eq!(again, Some(u32s(&[index, base])), "asked again it is the same");
    }
    assert!(b.is_running(&[]));
    b.send(R::SET_VRING_KICK, false, &u64s(&[1]), vec![eventfd()]);
    assert!(b.is_running(&[1]) && b.running[&1].base == 65535);
}

/// V-34: resets while a worker is in the middle of a burst.
#[test]
fn v34_resets_under_running_queues() {
    let ok = Some(u64s(&[0]));
    for (request, payload) in
        [(R::SET_STATUS, u64s(&[0])), (R::RESET_DEVICE, vec![]), (R::RESET_OWNER, vec![])]
    {
        let mut b = Bench::running();
        b.send(R::SET_STATUS, true, &u64s(&[15]), vec![]);
        b.hold = true;
        assert_eq!(b.send(request, true, &payload, vec![]), None, "{request:?}: not before they let go");
        assert_eq!(b.stopping.len(), 2);
        b.release(1);
        assert!(b.session.is_waiting());
        b.release(0);
        assert_eq!(b.reply(request), ok);
        b.hold = false;
        b.send(R::SET_FEATURES, false, &u64s(&[VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES]), vec![]);
        assert!(b.is_running(&[]), "{request:?}: nothing starts by itself");
        b.give_queue(0, 128);
        assert!(b.is_running(&[0]), "{request:?}");
        assert_eq!(b.session.refusals().total(), 0);
    }
}

/// L-02: descriptors that were replaced or closed by the front end are not written to any more.
#[test]
fn l02_a_replaced_call_descriptor_is_let_go() {
    let mut b = Bench::running();
    let old = b.running[&0].call.clone().unwrap();
    let new = eventfd();
    b.send(R::SET_VRING_CALL, false, &u64s(&[0]), vec![dup(&new)]);
    assert!(!std::sync::Arc::ptr_eq(b.running[&0].call.as_ref().unwrap(), &old));
    assert_eq!(std::sync::Arc::strong_count(&old), 1, "only this test still has it");
    b.send(R::GET_VRING_BASE, false, &u32s(&[0, 0]), vec![]);
    b.session.close(CloseReason::Owner);
    b.settle();
    assert_eq!(b.closed, Some(CloseReason::Owner));
    assert!(b.session.channel().is_none() && b.session.regions().is_empty());
}

/// L-05: the owner closes at any point of a message that waits.
#[test]
fn l05_closed_while_a_message_waits() {
    type Begin = fn(&mut Bench);
    let begins: [(&str, Begin); 4] = [
        ("base", |b| drop(b.send(R::GET_VRING_BASE, false, &u32s(&[0, 0]), vec![]))),
        ("memory", |b| {
            let payload = region(0, USER_BASE);
            b.send(R::SET_MEM_TABLE, true, &payload, vec![memfd(REGION_BYTES)]);
        }),
        ("reset", |b| drop(b.send(R::RESET_DEVICE, true, &[], vec![]))),
        ("nothing", |_| ()),
    ];
    for (name, begin) in begins {
        let mut b = Bench::running();
        b.hold = true;
        begin(&mut b);
        b.session.close(CloseReason::Owner);
        b.session.close(CloseReason::Disconnected);
        b.settle();
        assert_eq!(b.closed, None, "{name}: a worker still has queues");
        assert_eq!(b.stopping.len(), 2, "{name}");
        assert_eq!(b.send(R::GET_FEATURES, false, &[], vec![]), None, "{name}: nothing is handled any more");
        b.release(0);
        b.release(1);
        assert_eq!(b.closed, Some(CloseReason::Owner), "{name}: the first reason counts");
        b.session.queue_stopped(0, 1);
        b.session.memory_mapped(Ok(()));
        b.session.log_mapped(Ok(()));
        b.settle();
    }
    // Between the last queue's stop and the mapping.
    let mut b = Bench::running();
    let payload = region(0, USER_BASE);
    b.session.on_message(Bench::message(R::SET_MEM_TABLE, true, &payload, vec![memfd(REGION_BYTES)]));
    let mut mapped = false;
    while let Some(event) = b.session.next_event() {
        match event {
            Event::StopQueue { index } => b.session.queue_stopped(index, 0),
            Event::MapMemory { .. } => {
                mapped = true;
                b.session.close(CloseReason::Owner);
                b.session.memory_mapped(Ok(()));
            }
            Event::Closed { reason } => b.closed = Some(reason),
            other => panic!("{other:?}"),
        }
    }
    assert!(mapped);
    assert_eq!(b.closed, Some(CloseReason::Owner));
}

/// L-06: after every refusal that leaves the session open, the next message works.
#[test]
fn l06_a_refused_message_leaves_nothing_behind() {
    let bad: Vec<(R, Vec<u8>)> = vec![
        (R::SET_VRING_NUM, u32s(&[0, 3])),
        (R::SET_VRING_NUM, u32s(&[99, 256])),
        (R::SET_VRING_ADDR, addr(0, 4, USER_BASE)),
        (R::SET_VRING_BASE, u32s(&[0, 1])),
        (R::SET_VRING_ENABLE, u32s(&[0, 7])),
        (R::SET_FEATURES, u64s(&[u64::MAX])),
        (R::SET_PROTOCOL_FEATURES, u64s(&[u64::MAX])),
        (R::NET_SET_MTU, u64s(&[1])),
        (R::SEND_RARP, u64s(&[u64::MAX])),
        (R::SET_CONFIG, u32s(&[0, 0, 0])),
        (R::GET_CONFIG, u32s(&[0, 0, 0])),
        (R::REM_MEM_REG, vec![0; 40]),
        (R::CHECK_DEVICE_STATE, vec![]),
        (R::IOTLB_MSG, vec![0; 32]),
    ];
    let mut b = Bench::running();
    for (request, payload) in &bad {
        let reply = b.send(*request, true, payload, vec![]);
        assert!(reply.is_some_and(|reply| reply != u64s(&[0])), "{request:?}");
        assert_eq!(b.send(R::GET_QUEUE_NUM, false, &[], vec![]), Some(u64s(&[4])), "{request:?}");
        assert!(b.is_running(&[0, 1]) && !b.session.is_waiting(), "{request:?}");
    }
    assert_eq!(b.session.refusals().total(), bad.len() as u64);
    assert_eq!(b.refused.len(), bad.len());
}

/// L-11: a queue starts without a kick ever being sent, before and after the kick descriptor, and a disabled one never.
#[test]
fn l11_started_without_a_kick() {
    let mut b = Bench::running();
    b.send(R::SET_VRING_ENABLE, false, &u32s(&[0, 0]), vec![]);
    assert!(b.is_running(&[1]));
    b.send(R::SET_VRING_KICK, false, &u64s(&[0]), vec![eventfd()]);
    assert!(b.is_running(&[1]), "a kick descriptor does not enable");
    b.send(R::SET_VRING_ENABLE, false, &u32s(&[0, 1]), vec![]);
    assert!(b.is_running(&[0, 1]));
    // Another kick descriptor under a running queue: stopped and started with it.
    b.bases.insert(1, 9);
    b.send(R::SET_VRING_KICK, false, &u64s(&[0x100 | 1]), vec![]);
    assert!(b.is_running(&[0, 1]) && b.running[&1].kick.is_none() && b.running[&1].base == 9);
}

/// Rings start enabled when protocol features are not acknowledged.
#[test]
fn enabled_without_protocol_features() {
    let mut b = Bench::default();
    b.send(R::SET_OWNER, false, &[], vec![]);
    b.send(R::SET_FEATURES, false, &u64s(&[VIRTIO_F_VERSION_1]), vec![]);
    b.give_memory();
    b.send(R::SET_VRING_NUM, false, &u32s(&[0, 256]), vec![]);
    b.send(R::SET_VRING_ADDR, false, &addr(0, 0, ring_at(0)), vec![]);
    b.send(R::SET_VRING_KICK, false, &u64s(&[0]), vec![eventfd()]);
    assert!(b.is_running(&[0]));
}

/// A ring that breaks is told by the error descriptor and the status, and works again when it is set up anew.
#[test]
fn a_broken_ring_stays_stopped_until_it_is_set_up_anew() {
    let mut b = Bench::running();
    let err = eventfd();
    b.send(R::SET_VRING_ERR, false, &u64s(&[1]), vec![dup(&err)]);
    b.send(R::SET_STATUS, true, &u64s(&[15]), vec![]);
    b.running.remove(&1);
    b.session.queue_broken(1, 40);
    b.settle();
    let mut count = [0; 8];
    assert_eq!(rustix::io::read(&err, &mut count), Ok(8));
    assert_eq!(b.send(R::GET_STATUS, false, &[], vec![]), Some(u64s(&[0x4f])), "NEEDS_RESET");
    b.send(R::SET_VRING_ENABLE, false, &u32s(&[1, 1]), vec![]);
    b.send(R::SET_VRING_CALL, false, &u64s(&[1]), vec![eventfd()]);
    assert!(b.is_running(&[0]), "not by enabling it again");
    assert_eq!(b.send(R::GET_VRING_BASE, false, &u32s(&[1, 0]), vec![]), Some(u32s(&[1, 40])));
    b.give_queue(1, 256);
    assert!(b.is_running(&[0, 1]));
}

/// V-22 and the order of a migration: log first, then features, then addresses; off again afterwards.
#[test]
fn v22_logging_starts_before_the_answer() {
    let mut b = Bench::running();
    let log = u64s(&[0x1_0000, 0x23]);
    assert_eq!(b.send(R::SET_LOG_BASE, false, &log, vec![memfd(0x2_0000)]), Some(log.clone()));
    b.hold = true;
    let on = VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF | VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL;
    assert_eq!(b.send(R::SET_FEATURES, true, &u64s(&[on]), vec![]), None);
    b.release(0);
    assert_eq!(b.session.next_reply().map(|reply| reply.bytes), None, "one queue may still write unlogged");
    b.release(1);
    assert!(b.logging);
    assert_eq!(b.reply(R::SET_FEATURES), Some(u64s(&[0])));
    assert!(b.is_running(&[0, 1]));
    // A bigger log in place of the first, under way.
    b.hold = false;
    b.events.clear();
    let bigger = u64s(&[0x1_8000, 0]);
    assert_eq!(b.send(R::SET_LOG_BASE, false, &bigger, vec![memfd(0x2_0000)]), Some(bigger.clone()));
    assert_eq!(b.events, ["StopQueue", "StopQueue", "LogChanged", "QueueReady", "QueueReady"]);
    assert_eq!(b.send(R::SET_VRING_ADDR, true, &addr(0, 1, ring_at(0)), vec![]), Some(u64s(&[0])));
    assert_eq!(b.session.refusals().total(), 0);
}

/// LOG_ALL before its log: logging starts when the log comes.
#[test]
fn v22_features_before_the_log() {
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1 | VHOST_F_LOG_ALL);
    b.give_memory();
    b.give_queue(0, 256);
    assert!(b.is_running(&[0]) && !b.logging);
    b.send(R::SET_LOG_BASE, false, &u64s(&[0x1_0000, 0]), vec![memfd(0x1_0000)]);
    assert!(b.is_running(&[0]) && b.logging);
}

/// Link and MTU changes go to the guest by the back end's own channel.
#[test]
fn configuration_changes_are_told() {
    use std::io::Read;
    let mut b = Bench::running();
    b.session.set_link(false);
    assert!(b.session.next_request().is_none(), "there is no channel");
    let (ours, mut front) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(b.send(R::SET_BACKEND_REQ_FD, true, &[], vec![ours.into()]), Some(u64s(&[0])));
    b.session.set_link(true);
    b.session.set_link(true);
    let request = b.session.next_request().unwrap();
    assert_eq!(request, u32s(&[2, 1, 0]), "CONFIG_CHANGE_MSG");
    assert!(b.session.next_request().is_none());
    rustix::net::send(b.session.channel().unwrap(), &request, rustix::net::SendFlags::NOSIGNAL).unwrap();
    let mut read = [0; 12];
    front.read_exact(&mut read).unwrap();
    b.session.set_mtu(1400);
    b.session.set_link(false);
    assert!(b.session.next_request().is_some() && b.session.next_request().is_none(), "one tells of both");
    let config = b.send(R::GET_CONFIG, false, &u32s(&[6, 6, 0]), vec![]).unwrap();
    assert_eq!(config[12..], [0, 0, 4, 0, 0x78, 5], "link down, 4 pairs, MTU 1400");
}

/// Device state: saved by one session, loaded by another, which then goes on where the first stopped.
#[test]
fn device_state_moves_to_another_session() {
    use std::io::{Read, Write};
    let mut b = Bench::running();
    b.bases.extend([(0, 1234), (1, 5678)]);
    let save = u32s(&[0, 0]);
    let load = u32s(&[1, 0]);
    let pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        (reader, writer)
    };
    let (_, writer) = pipe();
    assert_eq!(b.send(R::SET_DEVICE_STATE_FD, false, &save, vec![writer.into()]), Some(u64s(&[0x101])));
    assert_eq!(b.count(Refusal::StateRunning), 1);
    for index in 0..2 {
        b.send(R::GET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
    }
    let (mut reader, writer) = pipe();
    assert_eq!(b.send(R::SET_DEVICE_STATE_FD, false, &save, vec![writer.into()]), Some(u64s(&[0x100])));
    assert_eq!(b.send(R::CHECK_DEVICE_STATE, false, &[], vec![]), Some(u64s(&[0])));
    let mut blob = Vec::new();
    reader.read_to_end(&mut blob).unwrap();
    let transfer = |bytes: &[u8]| {
        let mut b = Bench::default();
        b.negotiate(VIRTIO_F_VERSION_1 | VIRTIO_NET_F_MRG_RXBUF);
        let (reader, mut writer) = pipe();
        assert_eq!(b.send(R::SET_DEVICE_STATE_FD, false, &load, vec![reader.into()]), Some(u64s(&[0x100])));
        writer.write_all(bytes).unwrap();
        drop(writer);
        let checked = b.send(R::CHECK_DEVICE_STATE, false, &[], vec![]).unwrap();
        (b, checked == u64s(&[0]))
    };
    let (mut there, loaded) = transfer(&blob);
    assert!(loaded);
    assert_eq!(there.send(R::GET_VRING_BASE, false, &u32s(&[1, 0]), vec![]), Some(u32s(&[1, 5678])));
    // L-10: truncated at each byte, each bit flipped, too long: refused whole.
    for cut in 0..blob.len() {
        assert!(!transfer(&blob[..cut]).1, "{cut} bytes");
    }
    for bit in 0..blob.len() * 8 {
        let mut flipped = blob.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (mut b, loaded) = transfer(&flipped);
        assert!(!loaded, "bit {bit}");
        assert_eq!(b.send(R::GET_VRING_BASE, false, &u32s(&[1, 0]), vec![]), Some(u32s(&[1, 0])));
        assert_eq!(b.count(Refusal::StateContent), 1);
    }
    for more in [1, 4, 4096] {
        assert!(!transfer(&[&blob[..], &vec![0; more]].concat()).1);
    }
    // Features beyond what is offered, or other than negotiated, in a blob that is whole.
    let state = |features| towpath_vhost_user::session::StateBlob { features, bases: vec![1, 2] }.encode();
    assert!(!transfer(&state(1 << 63)).1 && !transfer(&state(VIRTIO_F_VERSION_1)).1);
    let bases = vec![0; 9];
    let features = b.session.features().unwrap();
    assert!(
        !transfer(&towpath_vhost_user::session::StateBlob { features, bases }.encode()).1,
        "9 queues of 8"
    );
    // A pipe whose writer does not come to an end is not waited for; a file is no pipe; unknown directions are refused.
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1);
    let (reader, _writer) = pipe();
    b.send(R::SET_DEVICE_STATE_FD, false, &load, vec![reader.into()]).unwrap();
    assert_eq!(b.send(R::CHECK_DEVICE_STATE, false, &[], vec![]), Some(u64s(&[1])));
    for (payload, fd) in
        [(save.clone(), memfd(1)), (u32s(&[2, 0]), pipe().1.into()), (u32s(&[0, 1]), pipe().1.into())]
    {
        assert_eq!(b.send(R::SET_DEVICE_STATE_FD, false, &payload, vec![fd]), Some(u64s(&[0x101])));
    }
    assert_eq!(b.count(Refusal::StateTransfer), 3);
    assert_eq!(b.closed, None);
}

/// A session taken apart and put together goes on: same features, memory, queues and bases, no message needed.
#[test]
fn parts_go_on_where_the_session_stopped() {
    let mut b = Bench::running();
    b.bases.extend([(0, 100), (1, 200)]);
    b.send(R::SET_STATUS, true, &u64s(&[15]), vec![]);
    b.send(R::SET_VRING_NUM, true, &u32s(&[5, 3]), vec![]);
    let (kick, call) = (b.running[&0].kick.clone().unwrap(), b.running[&1].call.clone().unwrap());
    let session = std::mem::replace(&mut b.session, Session::new(SessionConfig::default()));
    let mut session = *session.into_parts().unwrap_err();
    session.freeze();
    std::mem::swap(&mut b.session, &mut session);
    b.settle();
    assert_eq!(b.events.last().map(String::as_str), Some("Frozen"));
    let parts = std::mem::replace(&mut b.session, session).into_parts().unwrap();
    assert_eq!(parts.queues.len(), 2);
    let mut there = Bench::with(Session::from_parts(parts));
    assert_eq!(there.events, ["FeaturesSettled", "MapMemory", "QueueReady", "QueueReady"]);
    assert!(there.is_running(&[0, 1]));
    assert_eq!((there.running[&0].base, there.running[&1].base), (100, 200));
    assert!(same_file(there.running[&0].kick.as_ref().unwrap(), &*kick));
    assert!(same_file(there.running[&1].call.as_ref().unwrap(), &*call));
    assert_eq!(there.send(R::GET_STATUS, false, &[], vec![]), Some(u64s(&[15])));
    assert_eq!(there.count(Refusal::QueueSize), 1, "counters come along");
    there.bases.insert(1, 300);
    assert_eq!(there.send(R::GET_VRING_BASE, true, &u32s(&[1, 0]), vec![]), Some(u32s(&[1, 300])));
}

/// A port that logs when it is taken over logs from its first packet on.
#[test]
fn parts_bring_the_dirty_log() {
    let mut b = Bench::default();
    b.negotiate(VIRTIO_F_VERSION_1 | VHOST_F_LOG_ALL);
    b.give_memory();
    b.send(R::SET_LOG_BASE, false, &u64s(&[0x1_0000, 0]), vec![memfd(0x1_0000)]);
    b.give_queue(0, 256);
    b.session.freeze();
    b.settle();
    let parts =
        std::mem::replace(&mut b.session, Session::new(SessionConfig::default())).into_parts().unwrap();
    let there = Bench::with(Session::from_parts(parts));
    assert_eq!(there.events, ["FeaturesSettled", "MapMemory", "LogChanged", "QueueReady"]);
    assert!(there.logging);
}
