//! What of a device's abilities is used.

use crate::offload;
use dpdk_sys as d;
use dpdk_sys::{rte_eth_conf, rte_eth_dev_info};

/// The key of the receive hash (Toeplitz): the one of Microsoft's specification, whose spread is well known, and its beginning once more for
/// devices with longer keys. Drivers keep a pointer to it.
static RSS_KEY: [u8; RSS_KEY_MAX] = {
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    let mut key = [0; RSS_KEY_MAX];
    let mut at = 0;
    while at < RSS_KEY_MAX {
        key[at] = KEY[at % KEY.len()];
        at += 1;
    }
    key
};
/// The longest key that any device of DPDK 22.11 has is 52 bytes.
const RSS_KEY_MAX: usize = 64;

/// How a device is to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) queue_pairs: u16,
    pub(crate) mtu: u16,
    /// Frames may be longer than one mbuf.
    pub(crate) scatter: bool,
    /// See [`crate::DeviceOptions::ipv6_tunnels`].
    pub(crate) ipv6_tunnels: bool,
    /// Receive queues raise events.
    pub(crate) events: bool,
}

/// The configuration of a device with these abilities.
pub(crate) fn shape(info: &rte_eth_dev_info, wanted: Wanted) -> rte_eth_conf {
    let mut conf = rte_eth_conf::default();
    conf.rxmode.mtu = u32::from(wanted.mtu);
    conf.rxmode.offloads = info.rx_offload_capa
        & (d::TOWPATH_ETH_RX_OFFLOAD_IPV4_CKSUM
            | d::TOWPATH_ETH_RX_OFFLOAD_TCP_CKSUM
            | d::TOWPATH_ETH_RX_OFFLOAD_UDP_CKSUM
            | d::TOWPATH_ETH_RX_OFFLOAD_OUTER_IPV4_CKSUM
            | d::TOWPATH_ETH_RX_OFFLOAD_OUTER_UDP_CKSUM);
    if wanted.scatter {
        conf.rxmode.offloads |= d::TOWPATH_ETH_RX_OFFLOAD_SCATTER;
    }
    conf.txmode.offloads = offload::used(info.tx_offload_capa, wanted.ipv6_tunnels);
    let spread = spread(info);
    if wanted.queue_pairs > 1 && spread != 0 {
        conf.rxmode.mq_mode = d::RTE_ETH_MQ_RX_RSS;
        let rss = &mut conf.rx_adv_conf.rss_conf;
        rss.rss_hf = spread;
        // A device that does not say how long its key is keeps its own.
        if (1..=RSS_KEY_MAX).contains(&usize::from(info.hash_key_size)) {
            rss.rss_key = RSS_KEY.as_ptr().cast_mut();
            rss.rss_key_len = info.hash_key_size;
        }
    }
    conf.intr_conf.set_rxq(u32::from(wanted.events));
    conf
}

/// What the receive hash of a device is to cover; 0 when it has none.
///
/// Tunnels between two hosts differ in the outer source port, which is made of the inner flow: the outer headers are enough. A device that
/// hashes no UDP is asked to look inside the tunnel instead, if it can.
pub(crate) fn spread(info: &rte_eth_dev_info) -> u64 {
    let offered = info.flow_type_rss_offloads;
    let flows = offered & (d::TOWPATH_ETH_RSS_IP_TCP_UDP | d::TOWPATH_ETH_RSS_VXLAN);
    if flows & d::TOWPATH_ETH_RSS_IP_TCP_UDP == 0 {
        return 0;
    }
    let level = if flows & d::TOWPATH_ETH_RSS_UDP != 0 {
        d::TOWPATH_ETH_RSS_LEVEL_OUTERMOST
    } else {
        d::TOWPATH_ETH_RSS_LEVEL_INNERMOST
    };
    // A device without levels says so by their absence, and hashes what it thinks best.
    let has_levels = offered & d::TOWPATH_ETH_RSS_LEVEL_MASK == d::TOWPATH_ETH_RSS_LEVEL_MASK;
    flows | if has_levels { level } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted =
        Wanted { queue_pairs: 4, mtu: 1500, scatter: false, ipv6_tunnels: false, events: true };

    fn device(rss: u64, key: u8) -> rte_eth_dev_info {
        rte_eth_dev_info { flow_type_rss_offloads: rss, hash_key_size: key, ..Default::default() }
    }

    #[test]
    fn flows_are_spread_by_the_outer_headers_with_a_key_of_the_devices_length() {
        let all = d::TOWPATH_ETH_RSS_IP_TCP_UDP | d::TOWPATH_ETH_RSS_VXLAN;
        for length in [40, 52] {
            let conf = shape(&device(all | 1 << 60, length), WANTED);
            let rss = conf.rx_adv_conf.rss_conf;
            assert_eq!((conf.rxmode.mq_mode, rss.rss_hf), (d::RTE_ETH_MQ_RX_RSS, all));
            assert_eq!((rss.rss_key, rss.rss_key_len), (RSS_KEY.as_ptr().cast_mut(), length));
        }
        let unknown = shape(&device(all, 0), WANTED).rx_adv_conf.rss_conf;
        assert!(unknown.rss_key.is_null() && unknown.rss_hf == all, "its own key");
        let levels = all | d::TOWPATH_ETH_RSS_LEVEL_MASK;
        assert_eq!(spread(&device(levels, 40)), all | d::TOWPATH_ETH_RSS_LEVEL_OUTERMOST);
        let without_udp = levels & !d::TOWPATH_ETH_RSS_UDP;
        let inner = (all & !d::TOWPATH_ETH_RSS_UDP) | d::TOWPATH_ETH_RSS_LEVEL_INNERMOST;
        assert_eq!(spread(&device(without_udp, 40)), inner);
    }

    #[test]
    fn one_queue_needs_no_hash_and_some_devices_have_none() {
        let all = d::TOWPATH_ETH_RSS_IP_TCP_UDP;
        let one = shape(&device(all, 40), Wanted { queue_pairs: 1, ..WANTED });
        assert_eq!((one.rxmode.mq_mode, one.rx_adv_conf.rss_conf.rss_hf), (0, 0));
        assert_eq!(shape(&device(0, 40), WANTED).rxmode.mq_mode, 0);
        assert_eq!(spread(&device(d::TOWPATH_ETH_RSS_VXLAN, 40)), 0);
    }

    #[test]
    fn the_rest_is_what_was_wanted_of_what_there_is() {
        let mut info = device(0, 0);
        (info.rx_offload_capa, info.tx_offload_capa) = (u64::MAX, u64::MAX);
        let conf = shape(&info, Wanted { mtu: 9000, scatter: true, events: false, ..WANTED });
        assert_eq!((conf.rxmode.mtu, conf.intr_conf.rxq()), (9000, 0));
        assert_ne!(conf.rxmode.offloads & d::TOWPATH_ETH_RX_OFFLOAD_SCATTER, 0);
        assert_eq!(shape(&info, WANTED).rxmode.offloads & d::TOWPATH_ETH_RX_OFFLOAD_SCATTER, 0);
        assert_eq!(conf.txmode.offloads, offload::USED);
        assert_eq!(shape(&device(0, 0), WANTED).txmode.offloads, 0);
        assert_eq!(shape(&info, WANTED).intr_conf.rxq(), 1);
    }
}
