//! DPDK devices as ports.
