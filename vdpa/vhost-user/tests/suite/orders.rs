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
