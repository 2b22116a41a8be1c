//! What a port offers to its front end.

use vhost::vhost_user::VhostUserProtocolFeatures;

use super::config::{MAX_MTU, MIN_MTU};
use crate::features::{
    SUPPORTED, SUPPORTED_PROTOCOL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    with_dependencies,
};

/// What a port offers to its front end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Features offered by GET_FEATURES.
    pub features: u64,
    /// Protocol features offered by GET_PROTOCOL_FEATURES.
    pub protocol: VhostUserProtocolFeatures,
    /// Queue pairs, 1 to 128.
    pub max_queue_pairs: u16,
    /// MAC address shown in the configuration space (feature MAC is offered only with one).
    pub mac: Option<[u8; 6]>,
    /// MTU shown in the configuration space, 68 to `max_mtu`.
    pub mtu: u16,
    /// The port's MTU: the greatest that a front end may set (NET_SET_MTU).
    pub max_mtu: u16,
}

impl SessionConfig {
    /// The offer of a port: everything supported that `feature_mask` leaves, without features whose dependency is gone
    /// (virtio 1.2, 5.1.3.1), and without MAC when the port has none.
    #[must_use]
    pub fn new(feature_mask: u64, max_queue_pairs: u16, mac: Option<[u8; 6]>, mtu: u16) -> Self {
        let mut features = SUPPORTED & feature_mask | VHOST_USER_F_PROTOCOL_FEATURES;
        if mac.is_none() {
            features &= !VIRTIO_NET_F_MAC;
        }
        if max_queue_pairs <= 1 {
            features &= !VIRTIO_NET_F_MQ;
        }
        Self {
            features: with_dependencies(features),
            protocol: SUPPORTED_PROTOCOL,
            max_queue_pairs: max_queue_pairs.clamp(1, 128),
            mac,
            mtu: mtu.clamp(MIN_MTU, MAX_MTU),
            max_mtu: mtu.clamp(MIN_MTU, MAX_MTU),
        }
    }

    /// Changes the port's MTU. What a front end set below it stays.
    pub(crate) fn set_mtu(&mut self, mtu: u16) {
        let (mtu, before) = (mtu.clamp(MIN_MTU, MAX_MTU), self.max_mtu);
        self.max_mtu = mtu;
        self.mtu = if self.mtu == before { mtu } else { self.mtu.min(mtu) };
    }

    /// Number of queues: two for each pair.
    #[must_use]
    pub fn max_queues(&self) -> u16 {
        self.max_queue_pairs.saturating_mul(2)
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self::new(u64::MAX, 128, None, 1500)
    }
}
