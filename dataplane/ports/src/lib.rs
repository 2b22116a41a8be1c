//! Port drivers, and the conformance suite every driver passes.
//!
//! * [`vhost`]: the virtqueues of a guest.
//! * [`null`]: takes everything, yields nothing or always the same.
//! * [`loopback`]: a wire inside the process.
//! * [`mod@pcap`]: reads and writes pcap-ng files.
//! * [`wrap`]: faults and captures, around any of them.
//! * [`conformance`]: what any pair of queues is held to.

pub mod conformance;
pub mod loopback;
pub mod null;
pub mod pcap;
pub mod vhost;
pub mod wrap;
