//! Raw bindings to DPDK 22.11.
