/* DPDK's inline functions as symbols: see shim.h. */

#include "shim.h"

#include <rte_ip.h>

uint16_t towpath_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_rx_burst(port, queue, mbufs, count);
}

uint16_t towpath_eth_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_prepare(port, queue, mbufs, count);
}

uint16_t towpath_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

int towpath_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

int towpath_raw_cksum_mbuf(const struct rte_mbuf *mbuf, uint32_t offset, uint32_t len, uint16_t *sum)
{
	return rte_raw_cksum_mbuf(mbuf, offset, len, sum);
}

int towpath_errno(void)
{
	return rte_errno;
}
