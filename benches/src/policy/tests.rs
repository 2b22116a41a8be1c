//! What the benchmark of rules and sessions is made of.

use std::collections::BTreeSet;

use super::{site::tuple, *};

#[test]
fn figures_are_compared_with_what_is_wanted() {
    let row = |value| Row::new("x", "y", [value; 3], value);
    assert_eq!(row(1.0).wanted(Wanted::AtMost(1.0)).pass, Some(true));
    assert_eq!(row(1.1).wanted(Wanted::AtMost(1.0)).pass, Some(false));
    assert_eq!(row(0.9).wanted(Wanted::AtLeast(1.0)).pass, Some(false));
}

#[test]
fn each_session_has_ports_of_its_own() {
    let tuples: BTreeSet<[u16; 2]> = (0..100_000).map(tuple).collect();
    assert_eq!(tuples.len(), 100_000);
}

#[test]
fn crafted_packets_are_beside_rules_of_every_width_and_no_two_are_alike() {
    let layers = crafted::layers();
    let policy = tables::rules::Policy::compile(layers.clone(), false);
    assert!(policy.is_ok(), "{:?}", policy.err());
    let widths: BTreeSet<usize> =
        layers.iter().flat_map(|rule| &rule.ports).map(ExactSizeIterator::len).collect();
    assert_eq!(widths, (0..14).map(|bit| 1 << bit).collect());
    let tuples: BTreeSet<[u16; 2]> = (0..100_000).map(crafted::beside).collect();
    assert!(tuples.len() > 95_000, "{} of 100,000", tuples.len());
    assert!(tuples.iter().flatten().all(|port| *port >= 0x8000), "none is a service's");
}
