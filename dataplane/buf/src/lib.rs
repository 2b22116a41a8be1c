//! Packets while a worker holds them.
//!
//! ```text
//!   guest memory / mbuf / heap                      worker's private memory
//!   +--------------------------+   first 128 bytes  +-------------------------------+
//!   | headers | payload ...    | -----------------> | Packet: fields | room | head  |   authoritative: what was checked
//!   +--------------------------+   (single fetch)   +-------------------------------+   is what is sent
//!              ^ the rest stays where it is:
//!              +---- Extent, Extent, ...  -------------------- copied once, into the receiver's buffers
//! ```
//!
//! * [`Extent`] and [`ExtentMut`] are runs of bytes that somebody else may change at any moment. They never become `&[u8]`;
//!   they can be split, copied, and read into private memory.
//! * [`Packet`] is a private head (room for outer headers, then up to [`HEAD_BYTES`] of the frame) and the number of extents that
//!   follow. [`Burst`] holds up to [`BURST_PACKETS`] of them, the extents of all, and an [`Offload`] for each that has one.
//! * [`Frame`] is what a driver transmits: head, then a range of the body. A segment of a large packet is a `Frame` too.
//! * [`OwnedPacket`] is for what must outlive its burst; it comes from a bounded [`Pool`].
//!
//! # Safety boundary
//!
//! * Only [`Extent::new`] and [`ExtentMut::new`] mint extents, and they are `unsafe`: the caller (`guest-mem`, `virtqueue`, `dpdk`) promises
//!   that the bytes stay mapped for the lifetime `'m` and that the range lies inside memory meant for packets.
//! * Bytes behind an extent may be written by a guest while we copy. Copies go through [`copy::copy_bytes`], which reads
//!   and writes through raw pointers only, so no reference to shared memory ever exists. What a racing guest can change is the
//!   payload it sends, which is its own to choose.
//! * Uninitialised storage in [`Burst`] is read only below its counters. [`Burst::added`] is `unsafe`: the caller (`virtqueue`) wrote as many
//!   extents as it says. The tests `burst_*` and `tests/burst_model.rs` attack that.
#![allow(unsafe_code, reason = "the one place where bytes of others are touched")]

mod burst;
pub mod copy;
mod extent;
mod frame;
mod offload;
mod owned;
mod sum;

pub use burst::{
    BURST_BYTES, BURST_EXTENTS, BURST_PACKETS, Burst, HEAD_BYTES, HEAD_ROOM, MAX_HEAD_BYTES, Packet,
    TUNNEL_BYTES, TooManyExtents,
};
pub use extent::{Extent, ExtentMut};
pub use frame::{Frame, FrameReader};
pub use offload::{Checksum, Offload, Segment, SegmentKind};
pub use owned::{OwnedPacket, Pool};
pub use sum::{BodySum, fold};
