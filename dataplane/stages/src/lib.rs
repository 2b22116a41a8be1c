//! The stages of a packet's way, one file each; `switch` has the list of them in order.
//!
//! A stage is a function over a [`Batch`](engine::Batch): it reads what earlier stages found out, writes its own fields of
//! [`Metadata`](engine::Metadata) and drops what must not go on. It never allocates, locks, logs or reads a clock. Every file has
//! the same order inside: what it does and why it is a stage of its own, its drop reasons, the loop over the batch, helpers, tests.
//!
//! To add one: copy `forward.rs`, the shortest; a `mod` line here; its drop reasons in `engine::DropReason`; a line in
//! `switch::pipeline`; a row in `benches/stages.rs`.

pub mod answers;
pub mod arrive;
pub mod balance;
pub mod broadcast;
pub mod decapsulate;
pub mod encapsulate;
pub mod external;
pub mod forward;
mod nat;
pub mod neighbours;
pub mod parse;
pub mod police;
pub mod policy;
pub mod port_security;
pub mod route;
pub mod sessions;
pub mod shadow;
mod translate;
mod tuple;

#[cfg(test)]
mod testing;
