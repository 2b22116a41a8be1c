//! The arrows between our crates: architecture.md's list, in one table.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{assert_none, metadata};

/// Each of our packages (without the `towpath-` prefix) and those of ours it may import in its production code.
///
/// A new arrow is a design decision: say why in the commit that adds it here. Leaves import nothing of ours, so that they can be
/// reasoned about (and model checked) alone; nothing imports a binary.
const ALLOWED: &[(&str, &[&str])] = &[
    // Leaves.
    ("cpu", &[]),
    ("sync", &[]),
    ("dpdk-sys", &[]),
    ("virtio-driver", &[]),
    ("guest-agent", &[]),
    // Packets and the contracts.
    ("buf", &["cpu"]),
    ("packet", &["buf"]),
    ("engine", &["buf", "packet", "sync", "cpu"]),
    ("tables", &["packet", "sync", "cpu"]),
    ("stages", &["engine", "packet", "tables", "buf", "cpu", "sync"]),
    // The guest-facing half knows nothing of forwarding.
    ("guest-mem", &["buf", "sync"]),
    ("virtqueue", &["guest-mem", "buf", "cpu"]),
    ("vhost-user", &["virtqueue", "guest-mem"]),
    // Drivers and the switch.
    ("ports", &["engine", "virtqueue", "guest-mem", "buf", "packet", "cpu", "sync"]),
    ("dpdk", &["engine", "buf", "dpdk-sys", "packet"]),
    ("kernel-io", &["engine", "buf", "packet", "sync", "cpu"]),
    ("switch", &["stages", "ports", "engine", "tables", "packet", "buf", "cpu", "sync"]),
    // Control.
    ("model", &["packet"]),
    ("agent", &["model", "tables", "engine", "packet"]),
    // What the switch answers itself knows wire formats and nothing of ports, plans or workers.
    ("services", &["packet", "buf"]),
    ("fabric", &["agent", "switch", "services", "tables", "engine", "packet", "buf"]),
    ("api", &["model"]),
    ("cli", &["api", "model"]),
];

/// May import any of ours but these: binaries that put the rest together.
const ASSEMBLIES: &[(&str, &[&str])] = &[
    ("towpathd", &["sim", "bench", "tests", "cli", "guest-agent"]),
    ("sim", &["dpdk", "dpdk-sys", "kernel-io", "towpathd", "bench", "tests", "cli", "guest-agent"]),
    ("bench", &["towpathd", "tests", "guest-agent"]),
    ("benches", &["towpathd", "tests", "guest-agent"]),
    ("tests", &["towpathd"]),
];

fn short(name: &str) -> &str {
    name.strip_prefix("towpath-").unwrap_or(name)
}

/// Package name to the packages of ours it depends on, by kind of dependency (`None`: production).
fn ours() -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().expect("a name")).collect();
    packages
        .iter()
        .map(|package| {
            let arrows = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter_map(|d| {
                    let name = d["name"].as_str().expect("a name");
                    names.contains(name).then(|| (short(name).to_owned(), d["kind"] != "dev"))
                })
                .collect();
            (short(package["name"].as_str().expect("a name")).to_owned(), arrows)
        })
        .collect()
}

fn verdict(from: &str, to: &str, production: bool) -> Result<(), String> {
    let listed = ALLOWED.iter().find(|(name, _)| *name == from);
    let assembly = ASSEMBLIES.iter().find(|(name, _)| *name == from);
    match (listed, assembly) {
        // Tests may look sideways for an oracle, never up at a binary.
        _ if !production => match to {
            "towpathd" | "tests" => {
                Err(format!("{from} -> {to} (dev): tests that need the daemon live in tests/"))
            }
            _ => Ok(()),
        },
        (Some((_, allowed)), _) if allowed.contains(&to) => Ok(()),
        (Some((_, allowed)), _) => Err(format!("{from} -> {to}: may import {allowed:?} only")),
        (None, Some((_, never))) if never.contains(&to) => Err(format!("{from} -> {to}: never")),
        (None, Some(_)) => Ok(()),
        (None, None) => Err(format!("{from}: not in the table of arrows")),
    }
}

#[test]
fn our_crates_import_only_what_the_table_allows() {
    let ours = ours();
    assert!(ours.contains_key("buf") && ours.contains_key("towpathd"), "cargo metadata lost our packages");
    let problems: Vec<String> = ours
        .iter()
        .flat_map(|(from, arrows)| arrows.iter().map(move |(to, production)| verdict(from, to, *production)))
        .filter_map(Result::err)
        .collect();
    assert_none(&problems, "either import less, or argue for the arrow in tests/tests/tidy/arrows.rs");
}

#[test]
fn the_table_names_only_packages_that_exist() {
    let ours = ours();
    let problems: Vec<String> = ALLOWED
        .iter()
        .filter(|(name, _)| !ours.contains_key(*name))
        .map(|(name, _)| format!("{name} is in the table and not in the workspace"))
        .collect();
    assert_none(&problems, "remove its row from tests/tests/tidy/arrows.rs");
}

#[test]
fn a_forbidden_arrow_is_refused() {
    assert!(verdict("stages", "dpdk", true).is_err());
    assert!(verdict("engine", "ports", true).is_err());
    assert!(verdict("sim", "dpdk", true).is_err());
    assert!(verdict("buf", "towpathd", false).is_err());
    assert!(verdict("unheard-of", "buf", true).is_err());
    assert!(verdict("engine", "buf", true).is_ok());
}
