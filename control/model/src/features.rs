//! Names of the virtio features that a port can withhold from its guest.

use crate::fields::{Parsed, Refusal};
use crate::suggest::nearest;

/// The features a port offers unless its manifest withholds them, in words, as `towpath describe port` shows them. Those that need one that is
/// withheld go with it (virtio 1.2, 5.1.3.1): without checksum offload there is no TSO.
pub const FEATURES: [&str; 26] = [
    "virtio 1",
    "packed ring",
    "in order",
    "indirect descriptors",
    "event index",
    "any header layout",
    "mergeable receive buffers",
    "checksum offload from the guest",
    "TSO over IPv4 from the guest",
    "TSO over IPv6 from the guest",
    "TSO with ECN from the guest",
    "USO from the guest",
    "checksum offload to the guest",
    "TSO over IPv4 to the guest",
    "TSO over IPv6 to the guest",
    "TSO with ECN to the guest",
    "USO over IPv4 to the guest",
    "USO over IPv6 to the guest",
    "multiple queue pairs",
    "control queue",
    "receive modes",
    "guest announces itself",
    "link status",
    "MTU",
    "MAC address",
    "dirty log",
];

/// Reads the name of a feature; letter case does not matter.
///
/// # Errors
/// Names the nearest known feature.
pub(crate) fn parse_feature(text: &str) -> Parsed<&'static str> {
    if text.eq_ignore_ascii_case("protocol features") {
        return Err(Refusal::new("cannot be withheld: vhost-user itself needs it", "remove it"));
    }
    FEATURES.into_iter().find(|name| name.eq_ignore_ascii_case(text)).ok_or_else(|| {
        let near = nearest(text, FEATURES).unwrap_or_default();
        Refusal::new(
            "unknown feature",
            format!("nearest known feature: {near:?}; `towpath describe port` shows what a guest negotiated"),
        )
    })
}
