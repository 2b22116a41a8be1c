//! A guest's virtqueues as queues of a port: the guest's transmit ring is where packets come from ([`VhostRx`]), its receive ring
//! where they go ([`VhostTx`]).
//!
//! Rings know chains and buffers; here are the virtio-net header (virtio 1.2 section 5.1.6) and what the driver negotiated.

mod header;
mod rx;
mod tx;

pub use header::NetFeatures;
pub use rx::VhostRx;
pub use tx::VhostTx;
