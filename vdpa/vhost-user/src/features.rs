//! virtio feature bits: which are offered, what depends on what, and their names in words.
//!
//! Bits 0..=23 and 50..=127 belong to the network device (virtio 1.2, 5.1.3), 24..=41 to the transport and the rings
//! (virtio 1.2, 6), 26 and 30 to vhost-user itself.

use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};

/// The device takes packets with a partial checksum from the guest.
pub const VIRTIO_NET_F_CSUM: u64 = 1 << 0;
/// The guest takes packets with a partial checksum.
pub const VIRTIO_NET_F_GUEST_CSUM: u64 = 1 << 1;
/// The device tells the greatest MTU.
pub const VIRTIO_NET_F_MTU: u64 = 1 << 3;
/// The device has a MAC address in its configuration space.
pub const VIRTIO_NET_F_MAC: u64 = 1 << 5;
/// The guest takes TSO over IPv4.
pub const VIRTIO_NET_F_GUEST_TSO4: u64 = 1 << 7;
/// The guest takes TSO over IPv6.
pub const VIRTIO_NET_F_GUEST_TSO6: u64 = 1 << 8;
/// The guest takes TSO with ECN.
pub const VIRTIO_NET_F_GUEST_ECN: u64 = 1 << 9;
/// The device takes TSO over IPv4.
pub const VIRTIO_NET_F_HOST_TSO4: u64 = 1 << 11;
/// The device takes TSO over IPv6.
pub const VIRTIO_NET_F_HOST_TSO6: u64 = 1 << 12;
/// The device takes TSO with ECN.
pub const VIRTIO_NET_F_HOST_ECN: u64 = 1 << 13;
/// One packet may span several receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u64 = 1 << 15;
/// The configuration space has a status field.
pub const VIRTIO_NET_F_STATUS: u64 = 1 << 16;
/// The device has a control queue (the VMM's, in vhost-user).
pub const VIRTIO_NET_F_CTRL_VQ: u64 = 1 << 17;
/// The control queue sets receive modes.
pub const VIRTIO_NET_F_CTRL_RX: u64 = 1 << 18;
/// The guest announces itself when told to.
pub const VIRTIO_NET_F_GUEST_ANNOUNCE: u64 = 1 << 21;
/// Several queue pairs with automatic receive steering.
pub const VIRTIO_NET_F_MQ: u64 = 1 << 22;
/// Dirty pages are logged (vhost-user).
pub const VHOST_F_LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();
/// The header may be laid out over any descriptors (legacy; implied by VERSION_1).
pub const VIRTIO_F_ANY_LAYOUT: u64 = 1 << 27;
/// Descriptors may point to tables of descriptors.
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are suppressed by index.
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// Protocol features are negotiated (vhost-user).
pub const VHOST_USER_F_PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
/// virtio 1.0 or later.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Packed rings.
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available.
pub const VIRTIO_F_IN_ORDER: u64 = 1 << 35;
/// The guest takes UDP segmentation offload over IPv4.
pub const VIRTIO_NET_F_GUEST_USO4: u64 = 1 << 54;
/// The guest takes UDP segmentation offload over IPv6.
pub const VIRTIO_NET_F_GUEST_USO6: u64 = 1 << 55;
/// The device takes UDP segmentation offload.
pub const VIRTIO_NET_F_HOST_USO: u64 = 1 << 56;

/// Every feature with its name in words, in the order of a port's status.
const NAMES: &[(u64, &str)] = &[
    (VIRTIO_F_VERSION_1, "virtio 1"),
    (VIRTIO_F_RING_PACKED, "packed ring"),
    (VIRTIO_F_IN_ORDER, "in order"),
    (VIRTIO_F_INDIRECT_DESC, "indirect descriptors"),
    (VIRTIO_F_EVENT_IDX, "event index"),
    (VIRTIO_F_ANY_LAYOUT, "any header layout"),
    (VIRTIO_NET_F_MRG_RXBUF, "mergeable receive buffers"),
    (VIRTIO_NET_F_CSUM, "checksum offload from the guest"),
    (VIRTIO_NET_F_HOST_TSO4, "TSO over IPv4 from the guest"),
    (VIRTIO_NET_F_HOST_TSO6, "TSO over IPv6 from the guest"),
    (VIRTIO_NET_F_HOST_ECN, "TSO with ECN from the guest"),
    (VIRTIO_NET_F_HOST_USO, "USO from the guest"),
    (VIRTIO_NET_F_GUEST_CSUM, "checksum offload to the guest"),
    (VIRTIO_NET_F_GUEST_TSO4, "TSO over IPv4 to the guest"),
    (VIRTIO_NET_F_GUEST_TSO6, "TSO over IPv6 to the guest"),
    (VIRTIO_NET_F_GUEST_ECN, "TSO with ECN to the guest"),
    (VIRTIO_NET_F_GUEST_USO4, "USO over IPv4 to the guest"),
    (VIRTIO_NET_F_GUEST_USO6, "USO over IPv6 to the guest"),
    (VIRTIO_NET_F_MQ, "multiple queue pairs"),
    (VIRTIO_NET_F_CTRL_VQ, "control queue"),
    (VIRTIO_NET_F_CTRL_RX, "receive modes"),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, "guest announces itself"),
    (VIRTIO_NET_F_STATUS, "link status"),
    (VIRTIO_NET_F_MTU, "MTU"),
    (VIRTIO_NET_F_MAC, "MAC address"),
    (VHOST_F_LOG_ALL, "dirty log"),
    (VHOST_USER_F_PROTOCOL_FEATURES, "protocol features"),
];

/// All features that this back end can offer.
pub const SUPPORTED: u64 = {
    let mut all = 0;
    let mut i = 0;
    while i < NAMES.len() {
        all |= NAMES[i].0;
        i += 1;
    }
    all
};

/// All protocol features that this back end can offer. IOTLB (which needs no bit but BACKEND_REQ) and PAGEFAULT
/// (postcopy) are not among them.
pub const SUPPORTED_PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::RARP)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::MTU)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::STATUS)
    .union(VhostUserProtocolFeatures::DEVICE_STATE);

/// `(feature, any of these must be there as well)`: virtio 1.2, 5.1.3.1, and 1.3 for USO.
const DEPENDENCIES: &[(u64, u64)] = &[
    (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_GUEST_CSUM),
    (VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4 | VIRTIO_NET_F_GUEST_TSO6),
    (VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_CSUM),
    (VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_HOST_TSO6),
    (VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_VQ),
    (VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ),
];

/// Removes every feature whose dependency is missing (virtio 1.2, 5.1.3.1): without CSUM there is no TSO, without TSO
/// no ECN.
#[must_use]
pub fn with_dependencies(mut features: u64) -> u64 {
    // Chains are two long; the loop ends when nothing changes.
    loop {
        let before = features;
        for &(feature, any_of) in DEPENDENCIES {
            if features & any_of == 0 {
                features &= !feature;
            }
        }
        if features == before {
            return features;
        }
    }
}

/// The names in words of the bits set in `features`; a bit without a name appears as `bit N`.
#[must_use]
pub fn names(features: u64) -> Vec<String> {
    let mut names: Vec<String> =
        NAMES.iter().filter(|(bit, _)| features & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    names.extend(
        (0..64).filter(|bit| features & !SUPPORTED & (1 << bit) != 0).map(|bit| format!("bit {bit}")),
    );
    names
}

/// The names in words of protocol features.
#[must_use]
pub fn protocol_names(features: VhostUserProtocolFeatures) -> Vec<String> {
    features.iter_names().map(|(name, _)| name.to_ascii_lowercase().replace('_', " ")).collect()
}

/// The feature of the given name in words (as [`names`] gives it), for masks written by people.
#[must_use]
pub fn by_name(name: &str) -> Option<u64> {
    NAMES.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|&(bit, _)| bit)
}

/// The names in words of all features that this back end can offer.
pub fn all_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_checksum_takes_segmentation_and_ecn_with_it() {
        let left = with_dependencies(SUPPORTED & !VIRTIO_NET_F_CSUM);
        for gone in
            [VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_USO]
        {
            assert_eq!(left & gone, 0, "{:?}", names(gone));
        }
        assert_ne!(left & VIRTIO_NET_F_GUEST_TSO4, 0);
        assert_eq!(with_dependencies(SUPPORTED), SUPPORTED);
        assert_eq!(with_dependencies(SUPPORTED & !VIRTIO_NET_F_CTRL_VQ) & VIRTIO_NET_F_MQ, 0);
        let one_tso = SUPPORTED & !VIRTIO_NET_F_GUEST_TSO6;
        assert_ne!(with_dependencies(one_tso) & VIRTIO_NET_F_GUEST_ECN, 0, "ECN needs one of the two");
    }

    #[test]
    fn every_bit_has_a_name_and_names_lead_back() {
        for &(bit, name) in NAMES {
            assert_eq!(bit.count_ones(), 1);
            assert_eq!(by_name(name), Some(bit));
        }
        assert_eq!(
            names(VIRTIO_F_RING_PACKED | VIRTIO_NET_F_MRG_RXBUF | 1 << 63),
            ["packed ring", "mergeable receive buffers", "bit 63"]
        );
        assert_eq!(
            protocol_names(VhostUserProtocolFeatures::REPLY_ACK | VhostUserProtocolFeatures::MQ),
            ["mq", "reply ack"]
        );
    }
}
