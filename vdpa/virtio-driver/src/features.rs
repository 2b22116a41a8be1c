//! Feature bits as masks, named as in virtio 1.2 sections 5.1.3 and 6.

/// The device handles packets with partial checksum (5.1.3).
pub const NET_CSUM: u64 = 1 << 0;
/// The driver handles packets with partial checksum.
pub const NET_GUEST_CSUM: u64 = 1 << 1;
/// Maximum MTU reported by the device.
pub const NET_MTU: u64 = 1 << 3;
/// The device has a MAC address.
pub const NET_MAC: u64 = 1 << 5;
/// The driver receives TSOv4.
pub const NET_GUEST_TSO4: u64 = 1 << 7;
/// The driver receives TSOv6.
pub const NET_GUEST_TSO6: u64 = 1 << 8;
/// The driver receives TSO with ECN.
pub const NET_GUEST_ECN: u64 = 1 << 9;
/// The device receives TSOv4.
pub const NET_HOST_TSO4: u64 = 1 << 11;
/// The device receives TSOv6.
pub const NET_HOST_TSO6: u64 = 1 << 12;
/// The device receives TSO with ECN.
pub const NET_HOST_ECN: u64 = 1 << 13;
/// Mergeable receive buffers.
pub const NET_MRG_RXBUF: u64 = 1 << 15;
/// The configuration status field is available.
pub const NET_STATUS: u64 = 1 << 16;
/// The control queue is available.
pub const NET_CTRL_VQ: u64 = 1 << 17;
/// Several queue pairs.
pub const NET_MQ: u64 = 1 << 22;
/// The driver receives USOv4 (virtio 1.3, numbers already used by Linux and QEMU).
pub const NET_GUEST_USO4: u64 = 1 << 54;
/// The driver receives USOv6.
pub const NET_GUEST_USO6: u64 = 1 << 55;
/// The device receives USO.
pub const NET_HOST_USO: u64 = 1 << 56;
/// The header carries a hash: it is 20 bytes long.
pub const NET_HASH_REPORT: u64 = 1 << 57;

/// Arbitrary descriptor layouts (legacy).
pub const ANY_LAYOUT: u64 = 1 << 27;
/// Indirect descriptors (2.7.5.3, 2.8.7).
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Event index suppression (2.7.7, 2.8.10).
pub const EVENT_IDX: u64 = 1 << 29;
/// vhost-user protocol features are negotiated (vhost-user, not seen by the guest).
pub const VHOST_USER_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Compliance with virtio 1.
pub const VERSION_1: u64 = 1 << 32;
/// Device accesses go through a platform translation.
pub const ACCESS_PLATFORM: u64 = 1 << 33;
/// Packed ring layout (2.8).
pub const RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available (2.7.9, 2.8.12).
pub const IN_ORDER: u64 = 1 << 35;
/// vhost: log all writes (dirty log).
pub const LOG_ALL: u64 = 1 << 26;

/// The length of the net header that these features imply (virtio 1.2 section 5.1.6): 10 (legacy), 12, or 20 bytes.
#[must_use]
pub const fn net_header_len(features: u64) -> usize {
    if features & NET_HASH_REPORT != 0 {
        20
    } else if features & (VERSION_1 | NET_MRG_RXBUF) != 0 {
        12
    } else {
        10
    }
}
