//! Every dependency's licence and source, against `deny.toml`. (`make deny` asks cargo-deny the same and more.)

use std::collections::BTreeSet;
use std::fs;

use crate::tree::{assert_none, metadata, root};

/// The licences of `[licenses] allow` in `deny.toml`.
fn allowed() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let list =
        text.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']')).expect("an allow list").0;
    let allowed: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(allowed.contains("Apache-2.0"), "deny.toml allows our own licence");
    allowed
}

/// Whether an SPDX expression can be satisfied with the allowed licences alone. `/` is how old manifests write OR.
fn acceptable(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        verdict |= all_of(words, allowed);
    }
    verdict
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut verdict = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        verdict &= one(words, allowed);
    }
    verdict
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let verdict = any_of(words, allowed);
        return words.next_if_eq(&")").is_some() && verdict;
    }
    let Some(licence) = words.next() else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or_default();
        return allowed.contains(&format!("{licence} WITH {exception}")) || allowed.contains(licence);
    }
    allowed.contains(licence)
}

#[test]
fn every_dependency_has_an_allowed_licence_and_source() {
    let allowed = allowed();
    let metadata = metadata(&["--filter-platform=x86_64-unknown-linux-gnu"]);
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or("?"),
            package["version"].as_str().unwrap_or("?")
        );
        let licence = package["license"].as_str().unwrap_or_default();
        if !acceptable(licence, &allowed) {
            problems.push(format!("{name}: licence {licence:?}"));
        }
        let source = package["source"].as_str();
        if source.is_some_and(|s| s != "registry+https://github.com/rust-lang/crates.io-index") {
            problems.push(format!("{name}: source {source:?}"));
        }
    }
    assert_none(&problems, "use another crate, or argue for the licence in deny.toml");
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed: BTreeSet<String> = ["MIT", "Apache-2.0"].map(str::to_owned).into();
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "MIT/GPL-2.0",
        "(MIT OR ISC) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(acceptable(good, &allowed), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND ISC", "BUSL-1.1"] {
        assert!(!acceptable(bad, &allowed), "{bad}");
    }
}
