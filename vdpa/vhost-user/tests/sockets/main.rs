//! Sessions on real sockets: descriptors, connections, both roles, and `vhost`'s front end as the other side.
//!
//! The tests count this process's descriptors and mappings, so they run one at a time, also under `cargo test`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod descriptors;
mod frontend;
mod harness;
mod takeover;
