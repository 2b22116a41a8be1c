//! The guest's half of virtqueues, over shared memory it owns.
//!
//! A driver makes buffers available, takes used ones back and decides about notifications in both directions, for
//! split and packed rings (virtio 1.2 sections 2.7 and 2.8). It serves three masters:
//!
//! * the load generator, which must not be the bottleneck: cached indices, one publication per burst;
//! * the simulator, which moves in small steps: adding, publishing and kicking are separate calls, nothing here reads a
//!   clock, starts a thread or makes a system call once the memory is mapped;
//! * hostile guests: [`raw`] writes any descriptor or index, and [`SharedMemory`] any byte.
//!
//! ```
//! use towpath_virtio_driver::{Arena, Queue, QueueConfig, RingLayout, Segment, SharedMemory, Virtqueue, features};
//!
//! let memory = SharedMemory::new(1 << 20, Default::default())?.into_shared();
//! let mut arena = Arena::new(&memory);
//! let config = QueueConfig { size: 256, layout: RingLayout::Split, features: features::VERSION_1, ..Default::default() };
//! let mut queue = Queue::new(&memory, &mut arena, &config)?;
//! let buffer = arena.allocate(2048, 64)?;
//! queue.add(&[Segment::readable(buffer, 76)], 0)?;
//! queue.publish();
//! assert!(queue.needs_kick(), "nobody has suppressed notifications");
//! assert_eq!(queue.next_used()?, None, "no device is attached");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`RxQueue`] and [`TxQueue`] put a buffer pool and the virtio-net header on top.
//!
//! # Safety boundary
//!
//! * All access to shared memory is by raw pointer, never by reference: the device (another thread or process) may
//!   write to it at any time, and a hostile or broken one does.
//! * [`SharedMemory`] owns the mapping; every address is checked against its bounds once, when a ring is laid out or a
//!   buffer is touched. Rings keep the mapping alive by an `Arc` and mask each slot with their size, which is why their
//!   pointers stay inside. What a ring holds is read by one atomic load per word and never believed: an id or index that
//!   was not handed out is a [`UsedError`].
//! * Entry points with `unsafe` inside: `memory.rs` (mapping, reads, writes) and `cell.rs` (words in rings). The
//!   tests in `tests/model.rs` attack both with a device that answers at random.

#![allow(unsafe_code, reason = "shared memory is reached by raw pointers; see the Safety boundary chapter")]

mod arena;
mod cell;
pub mod features;
mod memory;
mod net_header;
mod null_device;
mod packed;
mod queue;
pub mod raw;
mod rx;
mod split;
mod tx;

pub use arena::Arena;
pub use memory::{MemoryError, MemoryOptions, SharedMemory};
pub use net_header::{Gso, NetHeader};
pub use null_device::NullDevice;
pub use packed::PackedQueue;
pub use queue::{
    AddError, Kick, Queue, QueueConfig, RingAddresses, RingLayout, Segment, SetupError, Used, UsedError,
    Virtqueue,
};
pub use rx::{RxConfig, RxError, RxFrame, RxQueue};
pub use split::SplitQueue;
pub use tx::{TxConfig, TxQueue, TxSlot};
