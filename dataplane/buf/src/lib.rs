//! Packet buffers: extents, bursts, owned packets, offloads.
