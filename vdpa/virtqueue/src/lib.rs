//! The device's half of virtqueues (virtio 1.2 sections 2.6 to 2.8): split and packed rings behind one trait, [`DeviceRing`].
//!
//! A [`Ring`] is made from a [`RingConfig`] (values of the vhost-user `SET_VRING_*` messages) and the guest's memory, and used by one thread in one
//! direction:
//!
//! ```no_run
//! # use buf::{Burst, Frame}; use std::sync::Arc;
//! # use towpath_virtqueue::{DeviceRing, GiveError, Headers, Notifier, Ring, RingError};
//! # fn step(tx: &mut Ring, rx: &mut Ring, call: &dyn Notifier) -> Result<(), RingError> {
//! // A guest transmits: chains become packets of a burst.
//! let memory = Arc::clone(tx.memory()); // the burst borrows this, not the ring
//! let (mut burst, mut headers) = (Burst::new(), Headers::new());
//! tx.take(&memory, &mut burst, &mut headers)?; // all first lines are being fetched now
//! burst.load_heads(); // private heads: what is checked is what is sent
//! let mut header = [0u8; 12];
//! for index in 0..headers.len() {
//!     headers.read(index, &mut header); // needed only when offloads were negotiated
//! }
//! // Another guest receives.
//! rx.reserve(burst.len())?; // buffers of the whole burst are being fetched for writing
//! header[10] = 1; // num_buffers; the ring sets it when a frame takes more than one
//! for index in 0..burst.len() {
//!     if let Some(frame) = burst.frame(index) {
//!         match rx.give(&header, &frame) {
//!             Ok(()) => {}
//!             Err(GiveError::NoBuffers) => {} // hold or drop: nothing happened
//!             Err(GiveError::TooSmall) => {}  // drop
//!             Err(GiveError::Ring(error)) => return Err(error),
//!         }
//!     }
//! }
//! rx.publish(); // visible at once
//! tx.return_taken(); // only after all copies were made
//! if rx.interrupt_due() {
//!     call.notify();
//! }
//! # Ok(()) }
//! ```
//!
//! * **Bad chain, good ring**: the chain goes back to the guest with length 0 and is counted by [`ChainError`] in [`RingStats`].
//! * **Bad ring**: [`RingError`]; the queue is stopped until it is made anew (`DEVICE_NEEDS_RESET`). What was taken is still returned.
//! * **Truncated memory**: [`RingError::MemoryGone`] from the first burst after it.
//! * **Stop** (`GET_VRING_BASE`, `RING_RESET`): return and publish, then [`DeviceRing::base`].
//! * **Restart**: a split ring continues at the used index found in memory: what a crashed back end had taken and not returned is seen again.
//! * **Live migration**: [`DeviceRing::set_dirty_log`] at any time between two calls.
//!
//! The virtio-net header is the caller's; rings know only its length, and where `num_buffers` is.
//!
//! # Safety boundary
//!
//! What must hold: no access to guest memory leaves the mappings of the ring's `GuestMemory`, and none happens after it is unmapped.
//!
//! * A ring keeps the `Arc<GuestMemory>` for as long as it holds addresses in it (`area`, `give`), and replaces both together
//!   (`DeviceRing::set_memory`). Extents handed out by `take` borrow the memory passed in, which is compared with the ring's own.
//! * `area` is the only access to the ring itself: atomic loads and stores at offsets below a length that was translated once.
//! * Each descriptor is fetched by two 8-byte loads and lives in a private copy from then on. The fast loop leaves what is not a plain chain to the
//!   general walk, which fetches it anew and uses nothing of the first look. An indirect table is copied whole before its first entry is looked at. Every buffer address goes through `guest_mem::Translator`.
//! * Positions, counts of outstanding chains and reserved buffers are our own state, never re-read from the guest.
//!
//! Attacked by: `tests/hostile_{rings,chains}.rs` (G-01 to G-29, G-43, G-44, G-48), `tests/small_scope.rs` (all edges, G-45), `tests/mutators.rs` (G-30 to G-34),
//! `tests/notify.rs` (G-42, G-46, S-15, V-20), `tests/in_order.rs` (G-47), `tests/ahead.rs` (buffers reserved from burst to burst), `steps` (every short
//! sequence of what loops do with a ring), `tests/differential.rs` against
//! `virtio-queue` and a model of section 2.8, and the fuzz target `tests/fuzz/targets/rings.rs`.
#![allow(unsafe_code, reason = "touches rings and buffers shared with guests")]

mod area;
mod chain;
mod config;
mod error;
mod give;
mod headers;
mod inflight;
mod layout;
mod notify;
mod packed;
mod ring;
mod split;
#[cfg(test)]
mod steps;
mod take;

pub use config::{MAX_FRAME, MAX_HEADER, MAX_RING_SIZE, RingConfig, RingFeatures, RingLayout};
pub use error::{ChainError, GiveError, RingError, RingStats, SetupError};
pub use headers::Headers;
pub use inflight::InflightPart;
pub use notify::{CallFd, Counter, Notifier};
pub use ring::{DeviceRing, Ring};
