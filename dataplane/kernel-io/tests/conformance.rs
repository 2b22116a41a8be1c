//! AF_PACKET and AF_XDP on a veth pair, under the conformance suite.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::{Pair, measure, pair, plain};
use towpath_kernel_io::Options;

macro_rules! checks {
    ($make:expr; $($check:ident),+ $(,)?) => {
        $(
            #[test]
            #[ignore = "needs root"]
            fn $check() {
                ports::conformance::$check($make);
            }
        )+

        #[test]
        #[ignore = "needs root"]
        fn nothing_is_allocated_per_packet() {
            ports::conformance::nothing_is_allocated_per_packet($make, measure);
        }
    };
}

// A receiver without room is not seen by the sender, as on any wire, and slots cannot be counted when their mapping is gone: `rings.rs` and
// `xdp.rs` have tests of their own for both.

mod packet {
    use super::*;

    /// Packets of any length IP has, and room for 496 of them each way.
    fn make() -> Pair {
        pair(65_535, &plain(), 400)
    }

    checks!(
        make;
        all_lengths_arrive_whole,
        scattered_frames_arrive_whole,
        offloads_arrive_as_they_were_asked,
        bursts_of_any_size_keep_their_order,
        bursts_are_bounded_in_bytes,
        reports_add_up,
        too_large_frames_are_counted,
        arming_reports_what_is_there_and_what_comes,
    );
}

mod xdp {
    use super::*;

    /// Packets of up to 3,500 bytes: veth's driver leaves the rest of a page to itself.
    fn make() -> Pair {
        pair(3_400, &Options { xdp: true, ring_bytes: 4 << 20, ..plain() }, 400)
    }

    checks!(
        make;
        all_lengths_arrive_whole,
        scattered_frames_arrive_whole,
        offloads_arrive_as_they_were_asked,
        bursts_of_any_size_keep_their_order,
        bursts_are_bounded_in_bytes,
        reports_add_up,
        too_large_frames_are_counted,
        arming_reports_what_is_there_and_what_comes,
    );
}
