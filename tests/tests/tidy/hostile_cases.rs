//! Every hostile case has its tests, and `docs/hostile-cases.md` says where. The table is made from the tests; `TOWPATH_BLESS=1` writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use crate::tree::{files, root};

/// The families of cases that exist now, the last number of each, and the numbers that the list does not have.
const FAMILIES: [(&str, u32, &[u32]); 7] = [
    ("G", 50, &[]),
    ("V", 38, &[]),
    ("L", 19, &[]),
    ("P", 43, &[9, 22, 23, 24, 29, 39, 41]),
    ("O", 11, &[]),
    ("T", 25, &[]),
    ("S", 17, &[]),
];
const DOCUMENT: &str = "docs/hostile-cases.md";

/// Cases that the real process is not tried with, or not wholly, and why.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("G-33", "the control queue is the VMM's in vhost-user; comes with vDPA"),
    ("G-35", "control queue: comes with vDPA"),
    ("G-36", "control queue: comes with vDPA"),
    ("G-37", "control queue: comes with vDPA"),
    ("G-38", "control queue: comes with vDPA"),
    ("G-39", "control queue: comes with vDPA"),
    ("G-40", "control queue: comes with vDPA"),
    (
        "L-08",
        "a live migration is part of `make demo` and its test (`the_demo_passes`); zero-copy does not exist",
    ),
    (
        "L-12",
        "rules that change under live sessions: in one process and in the simulator; the demo changes them under a TCP connection",
    ),
    (
        "L-13",
        "sessions of several workers are explored by loom in `dataplane/tables`; the real process is not tried with it",
    ),
    (
        "L-14",
        "kill and restart is `after_a_kill_it_takes_its_sockets_again_and_guests_come_back`; upgrades and policy come later",
    ),
    ("L-15", "the last packets of a port that goes: in one process; not with rules against the real one yet"),
    (
        "L-16",
        "a port without its rules is closed: in one process and in the simulator; the real one is not tried with it yet",
    ),
    ("L-17", "upgrades come later"),
    ("P-36", "no gateway reads along in FTP or TFTP: both pass as they are"),
    (
        "P-43",
        "what the invalid path costs is counted in one process; `cargo bench -p towpath-stages` measures it",
    ),
    ("T-04", "groups follow from ports alone, compared with Linux (docs/conntrack.md) in one process"),
    ("T-05", "rules are judged in one process; the real one is not tried with them yet"),
    ("T-06", "rules are judged in one process; the real one is not tried with them yet"),
    ("T-07", "the switch's own services and groups; other packets under deny-all in one process"),
    (
        "T-09",
        "near, routed, by a tunnel and balanced: in one process and in the simulator; the real one is not tried with all yet",
    ),
    ("T-10", "rules are judged in one process; the real one is not tried with them yet"),
    ("T-13", "ARP and neighbour discovery are answered before any session is looked up"),
    ("T-14", "the demo cuts a live connection by a changed rule"),
    ("T-15", "the port, or the VPC, is part of a session's key: in one process"),
    ("T-17", "rules are judged in one process; the real one is not tried with them yet"),
    ("S-01", "`towpath-bench policy --part crafted` measures crafted first packets beside random ones"),
    ("S-02", "`towpath-bench policy --part crafted` measures later packets of sessions that would collide"),
    ("S-03", "turns by cycles in one process; `towpath-bench policy --part flood` measures what others get"),
    ("S-04", "in one process; `towpath-bench policy --part flood` measures what others get"),
    ("S-06", "manifests that are too large are refused before anything changes"),
    ("S-07", "a table that fills up is tried in one process"),
    ("S-08", "hops and addresses that lead back are tried in one process"),
    ("S-09", "budgets of copies are tried in one process"),
    ("S-10", "comes with quality of service; the token bucket alone is tried"),
    ("S-11", "comes with quality of service; the token bucket alone is tried"),
    ("S-12", "comes with quality of service: no two workers share a bucket yet"),
    ("S-13", "a receiver that takes nothing is tried in one process"),
    (
        "S-14",
        "what outlives its burst is copied to one bounded pool, of which no port has a share of its own yet",
    ),
    ("S-16", "not tried: a process that is refused memory ends"),
    ("S-17", "not tried: nothing here takes a core away for so long and no longer"),
    ("L-19", "clocks cannot be moved under one process; nothing that runs depends on the wall clock"),
];

/// Where tests are, and the heading of their column.
const PLACES: [(&str, &[&str]); 4] = [
    ("real process", &["tests/tests/hostile/", "tests/tests/towpathd/", "tests/tests/fabric/"]),
    ("simulator", &["sim/tests/", "sim/src/hostile/", "sim/src/guest/hostile"]),
    (
        "rings, sessions, memory",
        &["vdpa/virtqueue/tests/", "vdpa/vhost-user/tests/", "vdpa/guest-mem/tests/"],
    ),
    (
        "packets, tables, stages, switch, services, manifests",
        &[
            "dataplane/packet/",
            "dataplane/tables/",
            "dataplane/stages/",
            "dataplane/switch/",
            "control/services/",
            "control/model/",
            "control/fabric/",
        ],
    ),
];

/// Numbers of a family that `text` names: as `G-05` anywhere, as `g_05` or `g05` in names.
fn named(text: &str, family: &str) -> BTreeSet<u32> {
    let lower = family.to_lowercase();
    let forms = [format!("{family}-"), format!("{lower}_"), lower];
    let mut found = BTreeSet::new();
    for form in &forms {
        for (at, _) in text.match_indices(form.as_str()) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_ascii_alphanumeric()) {
                continue;
            }
            let digits: String = text[at + form.len()..].chars().take_while(char::is_ascii_digit).collect();
            if digits.len() == 2 {
                found.extend(digits.parse::<u32>());
            }
        }
    }
    found
}

/// For each case the files that name it, by column.
fn tested() -> BTreeMap<(usize, u32), [Vec<String>; 4]> {
    let mut cases: BTreeMap<(usize, u32), [Vec<String>; 4]> = BTreeMap::new();
    for file in files(&[".rs"]) {
        let Some(place) =
            PLACES.iter().position(|(_, folders)| folders.iter().any(|f| file.path.starts_with(f)))
        else {
            continue;
        };
        for (index, (family, ..)) in FAMILIES.iter().enumerate() {
            for number in named(&file.text, family) {
                if let Some(column) = cases.entry((index, number)).or_default().get_mut(place) {
                    column.push(file.path.clone());
                }
            }
        }
    }
    cases
}

/// The last part of a path that says which file it is, as a link.
fn link(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs");
    format!("[{name}](../{path})")
}

fn document() -> String {
    let mut text = String::from(
        "# Hostile cases and where they are tested\n\n\
         What a hostile guest (G), a hostile front end (V), an unlucky moment (L), a packet (P), the underlay (O) or a tenant (T) can do to\n\
         the switch, and how it can be worn out (S), by the numbers of the project's list. Made from the tests by `TOWPATH_BLESS=1 cargo test -p towpath-tests --test tidy`; a test\n\
         compares it. A file is named when it names the case; the tests in it say what is done and what must come of it.\n\n\
         The oracle of all cases against the real process is in [stage.rs](../tests/src/hostile/stage.rs).\n\n\
         | case | real process | simulator | rings, sessions, memory | packets, tables, stages, switch, services, manifests |\n\
         |---|---|---|---|---|\n",
    );
    let cases = tested();
    for (index, (family, last, missing)) in FAMILIES.iter().enumerate() {
        for number in (1..=*last).filter(|number| !missing.contains(number)) {
            let case = format!("{family}-{number:02}");
            let columns = cases.get(&(index, number)).cloned().unwrap_or_default();
            let mut cells = columns.map(|files| files.iter().map(|f| link(f)).collect::<Vec<_>>().join(", "));
            if let (Some((_, reason)), Some(first)) =
                (EXCEPTIONS.iter().find(|(exception, _)| *exception == case), cells.first_mut())
            {
                *first = if first.is_empty() { reason.to_string() } else { format!("{first}; {reason}") };
            }
            writeln!(text, "| {case} | {} |", cells.join(" | ")).expect("a string can be written to");
        }
    }
    text
}

#[test]
fn every_case_runs_against_the_real_process_or_says_why_not() {
    let cases = tested();
    for (index, (family, last, missing)) in FAMILIES.iter().enumerate() {
        for number in (1..=*last).filter(|number| !missing.contains(number)) {
            let case = format!("{family}-{number:02}");
            let real = cases.get(&(index, number)).is_some_and(|[real, ..]| !real.is_empty());
            let excepted = EXCEPTIONS.iter().any(|(exception, _)| *exception == case);
            assert!(real || excepted, "{case} is tried in none of {:?}", PLACES.first());
        }
    }
}

#[test]
fn the_table_of_cases_is_what_the_tests_say() {
    let (file, made) = (root().join(DOCUMENT), document());
    if std::env::var_os("TOWPATH_BLESS").is_some() {
        fs::write(&file, &made).expect("the table can be written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == made, "{DOCUMENT} is not what the tests say: run the tidy tests with TOWPATH_BLESS=1");
}

#[test]
fn names_of_cases_are_found() {
    let text = "fn g05_and_g_06() {} // G-07, G-12 to G-15, MG-20, G-123";
    assert_eq!(named(text, "G").into_iter().collect::<Vec<_>>(), [5, 6, 7, 12, 15]);
}
