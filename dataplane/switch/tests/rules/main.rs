//! Ports under rules: what passes, what does not, and what becomes of live sessions when something changes.
#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod balancing;
mod changes;
mod families;
mod frames;
mod outside;
mod passing;
mod shadow;
mod turns;
mod world;
