//! Wrappers around any queue: faults on purpose, and captures.

pub mod capture;
pub mod fault;
