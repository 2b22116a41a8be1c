//! AF_PACKET on a veth pair, under the conformance suite.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Pair, measure, pair, plain};

/// Packets of any length IP has, and room for 496 of them each way.
fn make() -> Pair {
    pair(65_535, &plain(), 400)
}

macro_rules! checks {
    ($($check:ident),+ $(,)?) => {
        $(
            #[test]
            #[ignore = "needs root"]
            fn $check() {
                ports::conformance::$check(make);
            }
        )+
    };
}

// A receiver without room is not seen by the sender, as on any wire, and slots cannot be counted when their mapping is gone: `rings.rs` has
// tests of its own for both.
checks!(
    all_lengths_arrive_whole,
    scattered_frames_arrive_whole,
    offloads_arrive_as_they_were_asked,
    bursts_of_any_size_keep_their_order,
    bursts_are_bounded_in_bytes,
    reports_add_up,
    too_large_frames_are_counted,
    arming_reports_what_is_there_and_what_comes,
);

#[test]
#[ignore = "needs root"]
fn nothing_is_allocated_per_packet() {
    ports::conformance::nothing_is_allocated_per_packet(make, measure);
}
