//! How polling workers and control threads share things: workers never wait, never free, and pay at most a load per burst.
//!
//! * [`Published`] and [`Reader`]: a value replaced as a whole by a control thread and read by workers. A reader looks at a
//!   generation once per burst; replaced values are dropped by the writer, on its thread ([`Published::reclaim`]), and
//!   [`Published::synchronize`] waits until no reader that is on line can still see an older one.
//! * [`Shared`]: something that one thread at a time may touch (a virtqueue). A worker *tries*; when the thing is taken it goes on.
//!   A control thread *asks* first, so a worker that polls without pause lets it in within one burst.
//! * [`Arena`] and [`Region`]: plain data in a memory file, so that a later process finds it.
//! * [`Counter`]: written by one thread with plain loads and stores, read by any.
//!
//! # Safety boundary
//!
//! `unsafe` is in `shared.rs` and `arena.rs` alone, whose texts say what must hold and which tests attack it. Published values need none: the reference
//! counts of `Arc` do what quiescent-state reclamation needs, because the writer keeps a count of its own until the readers are done
//! (see `docs/adr/0004-quiescence.md`).

#![allow(unsafe_code, reason = "the ownership word of shared.rs, the mapping of arena.rs")]

mod arena;
mod counter;
mod published;
mod shared;

pub use arena::{Arena, Line, Plain, Region};
pub use counter::Counter;
pub use published::{Published, Reader};
pub use shared::{ControlGuard, Shared, WorkerGuard};
