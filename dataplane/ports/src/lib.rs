//! Port drivers, and the conformance suite every driver passes.
//!
//! * [`null`]: takes everything, yields nothing or always the same.
//! * [`loopback`]: a wire inside the process.
//! * [`conformance`]: what any pair of queues is held to.

pub mod conformance;
pub mod loopback;
pub mod null;
