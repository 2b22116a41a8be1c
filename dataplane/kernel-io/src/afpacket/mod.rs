//! AF_PACKET with memory-mapped rings (`TPACKET_V2`) and virtio-net headers.
//!
//! `TPACKET_V2` in both directions. Version 3 packs received frames of any length tightly, but shows a block only when it is full or a
//! timer of at least a millisecond ran out; on the way out it has slots of one size like version 2.
//!
//! A slot takes the largest frame there is, 64 KiB and its headers, because the kernel hands over what it joined (GRO) or what was never cut.

mod ring;
mod rx;
mod socket;
mod tx;

pub(crate) use ring::{Direction, LEAST_BYTES, MOST_BYTES, Ring};
pub(crate) use rx::PacketRx;
pub(crate) use socket::{Reception, join_fanout, reception, transmission};
pub(crate) use tx::{PacketTx, fits};
