/* What the bindings are generated from: the headers of the parts of DPDK that are used, and the shim. */

#ifndef TOWPATH_SHIM_H
#define TOWPATH_SHIM_H

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/*
 * DPDK's packet path consists of inline functions, which have no symbol to link to. Each function here is one of them as a symbol.
 * They are called once per burst; fields of an mbuf are read and written from Rust.
 */

/* rte_eth_rx_burst(). */
uint16_t towpath_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* rte_eth_tx_prepare(): how many of the first mbufs the device can take. Sets rte_errno when not all. */
uint16_t towpath_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* rte_eth_tx_burst(). */
uint16_t towpath_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);

/* rte_pktmbuf_alloc_bulk(): all or none; 0 or a negative errno. The mbufs are reset. */
int towpath_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count);

/* rte_ring_dequeue_burst(): how many objects there were. */
unsigned int towpath_ring_dequeue_burst(struct rte_ring *ring, void **objects, unsigned int count);

/* rte_errno, a macro over a thread local variable. */
int towpath_errno(void);

/* Constants that DPDK has as macros with casts and shifts, which the generator of the bindings does not follow. */
static const unsigned int TOWPATH_RING_SP_SC = RING_F_SP_ENQ | RING_F_SC_DEQ;
static const int TOWPATH_SOCKET_ANY = SOCKET_ID_ANY;

static const uint64_t TOWPATH_MBUF_F_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t TOWPATH_MBUF_F_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t TOWPATH_MBUF_F_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t TOWPATH_MBUF_F_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t TOWPATH_MBUF_F_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
static const uint64_t TOWPATH_MBUF_F_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t TOWPATH_MBUF_F_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t TOWPATH_MBUF_F_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t TOWPATH_MBUF_F_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t TOWPATH_MBUF_F_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t TOWPATH_MBUF_F_RX_OUTER_L4_CKSUM_MASK = RTE_MBUF_F_RX_OUTER_L4_CKSUM_MASK;
static const uint64_t TOWPATH_MBUF_F_RX_OUTER_L4_CKSUM_GOOD = RTE_MBUF_F_RX_OUTER_L4_CKSUM_GOOD;
static const uint64_t TOWPATH_MBUF_F_TX_TUNNEL_VXLAN = RTE_MBUF_F_TX_TUNNEL_VXLAN;
static const uint64_t TOWPATH_MBUF_F_TX_OUTER_IPV4 = RTE_MBUF_F_TX_OUTER_IPV4;
static const uint64_t TOWPATH_MBUF_F_TX_OUTER_IPV6 = RTE_MBUF_F_TX_OUTER_IPV6;
static const uint64_t TOWPATH_MBUF_F_TX_OUTER_IP_CKSUM = RTE_MBUF_F_TX_OUTER_IP_CKSUM;
static const uint64_t TOWPATH_MBUF_F_TX_OUTER_UDP_CKSUM = RTE_MBUF_F_TX_OUTER_UDP_CKSUM;
static const uint32_t TOWPATH_PTYPE_TUNNEL_MASK = RTE_PTYPE_TUNNEL_MASK;
static const uint64_t TOWPATH_ETH_RSS_IP_TCP_UDP = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint64_t TOWPATH_ETH_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t TOWPATH_ETH_RSS_VXLAN = RTE_ETH_RSS_VXLAN;
static const uint64_t TOWPATH_ETH_RSS_LEVEL_MASK = RTE_ETH_RSS_LEVEL_MASK;
static const uint64_t TOWPATH_ETH_RSS_LEVEL_OUTERMOST = RTE_ETH_RSS_LEVEL_OUTERMOST;
static const uint64_t TOWPATH_ETH_RSS_LEVEL_INNERMOST = RTE_ETH_RSS_LEVEL_INNERMOST;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_OUTER_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_OUTER_IPV4_CKSUM;
static const uint64_t TOWPATH_ETH_RX_OFFLOAD_OUTER_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_OUTER_UDP_CKSUM;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_VXLAN_TNL_TSO = RTE_ETH_TX_OFFLOAD_VXLAN_TNL_TSO;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_OUTER_IPV4_CKSUM;
static const uint64_t TOWPATH_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_OUTER_UDP_CKSUM;

#endif
