//! What the compiler does not check about this repository, checked as tests.
//!
//! - `arrows`: which of our crates may import which (one table), read from `cargo metadata`.
//! - `unsafety`: `unsafe` only in the crates named for it, each with its "Safety boundary" chapter; SAFETY comments that say something.
//! - `source`: module docs, lengths of files, leftovers, paths of one machine.
//! - `licences`: every dependency's licence is one that `deny.toml` allows; every dependency comes from crates.io.
//! - `functions`: none longer than a screen, with a list of exceptions.
//! - `documents`: relative links in Markdown files lead somewhere.
//! - `hostile_cases`: every hostile case has its tests, and the table says where.
//!
//! None of them needs anything but cargo and the checkout.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod arrows;
mod documents;
mod functions;
mod hostile_cases;
mod licences;
mod source;
mod tree;
mod unsafety;
