//! `unsafe` stays where it was argued for, and its comments say something.

use crate::tree::{assert_none, files, rust_files};

/// Folders of the crates that may contain `unsafe`.
const ALLOWED: &[&str] = &[
    "vdpa/guest-mem",
    "vdpa/virtqueue",
    "vdpa/virtio-driver",
    "dataplane/buf",
    "dataplane/cpu",
    "dataplane/sync",
    "dataplane/dpdk-sys",
    "dataplane/dpdk",
    "dataplane/kernel-io",
];

/// Phrases of SAFETY comments that pass a lint and tell a reader nothing.
const EMPTY_PHRASES: &[&str] = &[
    "see above",
    "as above",
    "same as above",
    "same",
    "safe",
    "sound",
    "this is safe",
    "obviously",
    "ffi call with correct arguments",
    "ffi call with valid arguments",
];

fn may_be_unsafe(path: &str) -> bool {
    ALLOWED.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
}

/// The line without its comment and without the contents of its string literals: enough to look for a keyword.
fn code_of(line: &str) -> String {
    let mut code = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = characters.next() {
        match c {
            '\\' if in_string => {
                characters.next();
            }
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if in_string => {}
            _ => code.push(c),
        }
    }
    code
}

/// Whether a line of code uses the keyword (attributes like `unsafe_code` are other words).
fn uses_unsafe(line: &str) -> bool {
    code_of(line).split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[test]
fn unsafe_is_used_only_in_the_crates_named_for_it() {
    let problems: Vec<String> = rust_files()
        .iter()
        .filter(|f| !may_be_unsafe(&f.path))
        .flat_map(|f| {
            f.text.lines().enumerate().filter_map(move |(i, line)| {
                let waiver = code_of(line).contains("allow(unsafe_code")
                    || code_of(line).contains("expect(unsafe_code");
                (waiver || uses_unsafe(line)).then(|| format!("{}:{}: {}", f.path, i + 1, line.trim()))
            })
        })
        .collect();
    assert_none(&problems, "move it into one of the crates listed in tests/tests/tidy/unsafety.rs");
}

#[test]
fn crates_with_unsafe_code_argue_for_it() {
    let files = rust_files();
    let argued = |folder: &str| {
        let sources = files.iter().filter(|f| f.path.starts_with(&format!("{folder}/src/")));
        sources.into_iter().any(|f| f.text.contains("//! # Safety boundary"))
    };
    let problems: Vec<&&str> = ALLOWED.iter().filter(|folder| !argued(folder)).collect();
    let problems: Vec<String> =
        problems.iter().map(|f| format!("{f}: no \"Safety boundary\" chapter")).collect();
    assert_none(
        &problems,
        "say what must hold, who establishes it, which functions are the entry, which tests attack it",
    );
}

#[test]
fn every_crate_inherits_the_workspace_lints() {
    let problems: Vec<String> = files(&["Cargo.toml"])
        .iter()
        .filter(|f| f.path.contains('/') && !f.text.replace(' ', "").contains("[lints]\nworkspace=true"))
        .map(|f| format!("{}: no `[lints] workspace = true`", f.path))
        .collect();
    assert_none(&problems, "the lints live once, in the root Cargo.toml");
}

#[test]
fn safety_comments_say_why() {
    let mut problems = Vec::new();
    for file in rust_files() {
        for (i, line) in file.text.lines().enumerate() {
            let Some((_, said)) = line.split_once("// SAFETY:") else { continue };
            let following = file.text.lines().nth(i + 1).unwrap_or_default().trim();
            let alone = !following.starts_with("//");
            let said = said.trim().to_lowercase();
            let said = said.trim_end_matches(['.', ',', ';']);
            if alone && (said.is_empty() || EMPTY_PHRASES.contains(&said)) {
                problems.push(format!("{}:{}: {}", file.path, i + 1, line.trim()));
            }
        }
    }
    // This file spells the phrases out.
    problems.retain(|p| !p.starts_with("tests/tests/tidy/"));
    assert_none(&problems, "say what makes this block sound, in words about this block");
}

#[test]
fn the_keyword_is_seen_only_where_it_is_code() {
    assert!(uses_unsafe("    unsafe { read(p) }"));
    assert!(uses_unsafe("pub unsafe fn f()"));
    assert!(!uses_unsafe("// unsafe is not allowed"));
    assert!(!uses_unsafe("let s = \"unsafe { }\";"));
    assert!(!uses_unsafe("#![deny(unsafe_code)]"));
}
