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
