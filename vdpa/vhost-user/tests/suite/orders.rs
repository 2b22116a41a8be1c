//! V-11: the orders of messages that real front ends use, replayed.
//!
//! DPDK 22.11's virtio-user and QEMU 7.2 as recorded here; Cloud Hypervisor's as its `vu_common_ctrl.rs` has it.

use crate::common::*;
use towpath_vhost_user::features::*;
use towpath_vhost_user::{FrontendReq as R, VhostUserProtocolFeatures};

/// DPDK 22.11.11 virtio-user, split and packed: call descriptors before features, addresses after the base, status asked
/// twice, enabled last.
#[test]
fn v11_dpdk_virtio_user() {
    for (packed, base) in [(0, 0u32), (VIRTIO_F_RING_PACKED, 0x8000)] {
        let mut b = Bench::default();
        b.send(R::SET_OWNER, false, &[], vec![]);
        let features = b.send(R::GET_FEATURES, false, &[], vec![]).unwrap();
        let features = u64::from_ne_bytes(features.try_into().unwrap());
        let protocol = b.send(R::GET_PROTOCOL_FEATURES, false, &[], vec![]).unwrap();
        assert_eq!(u64::from_ne_bytes(protocol.try_into().unwrap()) & 0x10009, 0x10009);
        b.send(R::SET_PROTOCOL_FEATURES, false, &u64s(&[0x10009]), vec![]);
        for index in 0..2 {
            b.send(R::SET_VRING_CALL, false, &u64s(&[index]), vec![eventfd()]);
        }
        let acked = 0x9_4000_8000 | packed;
        assert_eq!(acked & !features, 0);
        b.send(R::SET_FEATURES, false, &u64s(&[acked]), vec![]);
        assert_eq!(b.send(R::SET_STATUS, true, &u64s(&[0xb]), vec![]), Some(u64s(&[0])));
        for _ in 0..2 {
            assert_eq!(b.send(R::GET_STATUS, false, &[], vec![]), Some(u64s(&[0xb])));
        }
        let payload = table(&[[USER_BASE, REGION_BYTES, USER_BASE, 0]]);
        assert_eq!(b.send(R::SET_MEM_TABLE, true, &payload, vec![memfd(REGION_BYTES)]), Some(u64s(&[0])));
        for index in 0..2 {
            b.send(R::SET_VRING_NUM, false, &u32s(&[index, 256]), vec![]);
            b.send(R::SET_VRING_BASE, false, &u32s(&[index, base]), vec![]);
            b.send(R::SET_VRING_ADDR, false, &addr(index, 0, ring_at(index)), vec![]);
            b.send(R::SET_VRING_KICK, false, &u64s(&[index.into()]), vec![eventfd()]);
            assert!(b.running.is_empty(), "not enabled yet");
        }
        b.send(R::SET_VRING_ENABLE, false, &u32s(&[0, 1]), vec![]);
        assert!(b.is_running(&[0]));
        b.send(R::SET_VRING_ENABLE, false, &u32s(&[1, 1]), vec![]);
        assert!(b.is_running(&[0, 1]));
        assert!(b.running[&0].call.is_some() && b.running[&1].kick.is_some());
        assert_eq!((b.running[&0].base, b.running[&0].is_packed()), (base, packed != 0));
        assert_eq!(b.session.refusals().total(), 0);
        assert_eq!(b.session.protocol_features().bits(), 0x10009);
        assert!(b.session.protocol_features().contains(VhostUserProtocolFeatures::STATUS));
    }
}

/// QEMU 7.2 with two queue pairs, as recorded from a boot whose firmware drives one of them: every pair negotiates,
/// rings are enabled before features, the status is reset before the bases are asked for.
#[test]
fn v11_qemu_7_2() {
    let mut b = Bench::default();
    let features = b.send(R::GET_FEATURES, false, &[], vec![]).unwrap();
    assert_ne!(u64::from_ne_bytes(features.try_into().unwrap()) & VIRTIO_NET_F_MQ, 0);
    let (channel, _front) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut channel = Some(channel.into());
    for pair in 0..2u64 {
        b.send(R::GET_PROTOCOL_FEATURES, false, &[], vec![]).unwrap();
        b.send(R::SET_PROTOCOL_FEATURES, false, &u64s(&[0x1_b03f]), vec![]);
        if pair == 0 {
            assert_eq!(b.send(R::GET_QUEUE_NUM, false, &[], vec![]), Some(u64s(&[4])));
        }
        assert_eq!(b.send(R::GET_MAX_MEM_SLOTS, false, &[], vec![]), Some(u64s(&[64])));
        if let Some(channel) = channel.take() {
            let ack = b.send(R::SET_BACKEND_REQ_FD, true, &[], vec![channel]);
            assert_eq!(ack, Some(u64s(&[0])));
            b.send(R::SET_OWNER, false, &[], vec![]);
        }
        b.send(R::GET_FEATURES, false, &[], vec![]).unwrap();
        for index in [2 * pair, 2 * pair + 1] {
            b.send(R::SET_VRING_CALL, false, &u64s(&[index]), vec![eventfd()]);
            b.send(R::SET_VRING_ERR, false, &u64s(&[index]), vec![eventfd()]);
        }
    }
    let enable = |b: &mut Bench| {
        for (index, on) in [(0, 1), (1, 1), (2, 0), (3, 0)] {
            b.send(R::SET_VRING_ENABLE, false, &u32s(&[index, on]), vec![]);
        }
    };
    enable(&mut b);
    enable(&mut b);
    let start = |b: &mut Bench| {
        b.send(R::SET_VRING_ENABLE, false, &u32s(&[0, 1]), vec![]);
        b.send(R::SET_VRING_ENABLE, false, &u32s(&[1, 1]), vec![]);
        b.send(R::SET_FEATURES, false, &u64s(&[0x1_4000_0000]), vec![]);
        b.send(R::GET_STATUS, false, &[], vec![]).unwrap();
        b.send(R::SET_STATUS, false, &u64s(&[8]), vec![]);
    };
    start(&mut b);
    let region = [0, REGION_BYTES, USER_BASE, 0];
    assert_eq!(b.send(R::ADD_MEM_REG, true, &single(region), vec![memfd(REGION_BYTES)]), Some(u64s(&[0])));
    for round in 0..2 {
        for index in 0..2 {
            b.send(R::SET_VRING_NUM, false, &u32s(&[index, 256]), vec![]);
            b.send(R::SET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
            b.send(R::SET_VRING_ADDR, false, &addr(index, 0, ring_at(index)), vec![]);
            b.send(R::SET_VRING_KICK, false, &u64s(&[index.into()]), vec![eventfd()]);
            b.send(R::SET_VRING_CALL, false, &u64s(&[index.into()]), vec![eventfd()]);
        }
        assert!(b.is_running(&[0, 1]), "round {round}: {:?}", b.events);
        b.send(R::SET_STATUS, false, &u64s(&[15]), vec![]);
        // The guest reboots: the worker stops at 6, and that is what QEMU hears after it has reset the status.
        b.bases.insert(1, 6);
        b.send(R::SET_STATUS, false, &u64s(&[0]), vec![]);
        assert!(b.is_running(&[]));
        for (index, base) in [(0, 0), (1, 6)] {
            let reply = b.send(R::GET_VRING_BASE, false, &u32s(&[index, 0]), vec![]);
            assert_eq!(reply, Some(u32s(&[index, base])));
        }
        start(&mut b);
    }
    assert_eq!(b.session.refusals().total(), 0);
}

/// Cloud Hypervisor: acknowledgements for everything once negotiated, sizes of all queues first, an in-flight region,
/// addresses before bases, everything enabled at the end, the request channel last; later a pause and a resume.
#[test]
fn v11_cloud_hypervisor() {
    let mut b = Bench::default();
    b.send(R::SET_OWNER, false, &[], vec![]);
    b.send(R::GET_FEATURES, false, &[], vec![]).unwrap();
    let offered = b.send(R::GET_PROTOCOL_FEATURES, false, &[], vec![]).unwrap();
    let wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::DEVICE_STATE
        | VhostUserProtocolFeatures::CONFIG;
    assert_eq!(u64::from_ne_bytes(offered.try_into().unwrap()) & wanted.bits(), wanted.bits());
    b.send(R::SET_PROTOCOL_FEATURES, false, &u64s(&[wanted.bits()]), vec![]);
    // From here on every message asks for a reply.
    assert_eq!(b.send(R::GET_QUEUE_NUM, true, &[], vec![]), Some(u64s(&[4])));
    let config = b.send(R::GET_CONFIG, true, &[u32s(&[0, 24, 1]), vec![0; 24]].concat(), vec![]).unwrap();
    assert_eq!(config[..12], u32s(&[0, 24, 1]));
    assert_eq!(config[12..24], [2, 0, 0, 0, 1, 10, 1, 0, 4, 0, 0xdc, 5], "MAC, link up, 4 pairs, MTU 1500");
    let ok = Some(u64s(&[0]));
    let acked = VHOST_USER_F_PROTOCOL_FEATURES | VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_NET_F_MAC;
    assert_eq!(b.send(R::SET_FEATURES, true, &u64s(&[acked]), vec![]), ok);
    let payload = table(&[[0, REGION_BYTES, USER_BASE, 0]]);
    assert_eq!(b.send(R::SET_MEM_TABLE, true, &payload, vec![memfd(REGION_BYTES)]), ok);
    for index in 0..2 {
        assert_eq!(b.send(R::SET_VRING_NUM, true, &u32s(&[index, 256]), vec![]), ok);
    }
    let asked =
        [u64s(&[0, 0]), 2u16.to_ne_bytes().to_vec(), 256u16.to_ne_bytes().to_vec(), vec![0; 4]].concat();
    let (granted, fds) = {
        b.session.on_message(Bench::message(R::GET_INFLIGHT_FD, true, &asked, vec![]));
        let reply = b.session.next_reply().unwrap();
        (reply.bytes[12..].to_vec(), reply.fds)
    };
    assert_eq!(granted.len(), 24, "with the padding it was asked with");
    assert_eq!(b.send(R::SET_INFLIGHT_FD, true, &granted, fds), ok);
    for index in 0..2 {
        assert_eq!(b.send(R::SET_VRING_ADDR, true, &addr(index, 0, ring_at(index)), vec![]), ok);
        assert_eq!(b.send(R::SET_VRING_BASE, true, &u32s(&[index, 9]), vec![]), ok);
        assert_eq!(b.send(R::SET_VRING_CALL, true, &u64s(&[index.into()]), vec![eventfd()]), ok);
        assert_eq!(b.send(R::SET_VRING_KICK, true, &u64s(&[index.into()]), vec![eventfd()]), ok);
    }
    assert!(b.is_running(&[]));
    for index in 0..2 {
        assert_eq!(b.send(R::SET_VRING_ENABLE, true, &u32s(&[index, 1]), vec![]), ok);
    }
    assert!(b.is_running(&[0, 1]));
    for (on, running) in [(0, &[][..]), (1, &[0, 1][..])] {
        for index in 0..2 {
            assert_eq!(b.send(R::SET_VRING_ENABLE, true, &u32s(&[index, on]), vec![]), ok);
        }
        assert!(b.is_running(running));
    }
    for index in 0..2 {
        assert_eq!(b.send(R::SET_VRING_ENABLE, true, &u32s(&[index, 0]), vec![]), ok);
        assert_eq!(b.send(R::GET_VRING_BASE, true, &u32s(&[index, 0]), vec![]), Some(u32s(&[index, 9])));
    }
    assert_eq!(b.session.refusals().total(), 0);
}

/// What a queue needs, in every order of its six messages (with memory and features in between as well).
#[test]
fn v11_any_order_of_what_a_queue_needs() {
    let steps = 7;
    let mut order: Vec<usize> = (0..steps).collect();
    let mut tried = 0;
    permutations(&mut order, 0, &mut |order| {
        tried += 1;
        let mut b = Bench::default();
        b.send(R::SET_OWNER, false, &[], vec![]);
        for (done, step) in order.iter().enumerate() {
            assert!(b.is_running(&[]), "{order:?}: runs after {done} steps");
            let index = 0;
            match step {
                0 => b.send(R::SET_FEATURES, false, &u64s(&[0x1_4000_0000]), vec![]),
                1 => b.send(
                    R::SET_MEM_TABLE,
                    false,
                    &table(&[[0, REGION_BYTES, USER_BASE, 0]]),
                    vec![memfd(REGION_BYTES)],
                ),
                2 => b.send(R::SET_VRING_NUM, false, &u32s(&[index, 64]), vec![]),
                3 => b.send(R::SET_VRING_ADDR, false, &addr(index, 0, ring_at(index)), vec![]),
                4 => b.send(R::SET_VRING_KICK, false, &u64s(&[0]), vec![eventfd()]),
                5 => b.send(R::SET_VRING_ENABLE, false, &u32s(&[index, 1]), vec![]),
                _ => b.send(R::SET_VRING_CALL, false, &u64s(&[0]), vec![eventfd()]),
            };
            if order[..=done].iter().filter(|step| **step != 6).count() == 6 && *step != 6 {
                assert!(b.is_running(&[0]), "{order:?}");
                break;
            }
        }
        assert_eq!(b.session.refusals().total(), 0);
    });
    assert_eq!(tried, 5040);
}

fn permutations(items: &mut [usize], from: usize, visit: &mut dyn FnMut(&[usize])) {
    if from == items.len() {
        return visit(items);
    }
    for place in from..items.len() {
        items.swap(from, place);
        permutations(items, from + 1, visit);
        items.swap(from, place);
    }
}
