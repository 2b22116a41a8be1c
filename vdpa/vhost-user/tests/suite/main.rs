//! The session against the vhost-user specification, real front ends' orders, and hostile front ends.
//! Cases are numbered as in the list of hostile cases: V for messages, L for lifecycle.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod lifecycle;
mod messages;
mod model;
mod orders;
