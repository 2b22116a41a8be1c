//! Style that lints do not know: module docs, lengths, leftovers.

use crate::tree::{TextFile, assert_none, files, rust_files};

/// Lines of a file before its tests. The aim is 400.
const MAX_FILE_LINES: usize = 800;

/// Left behind by somebody who meant to come back. Written so that this file does not find itself.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
];

/// Folders that exist on the machine of whoever wrote the line only.
const MACHINE_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/Us", "ers/")];

/// The lines of a file that are production code: everything before its test module, or nothing in files that are tests.
fn production(file: &TextFile) -> Vec<&str> {
    file.text.lines().take_while(|l| !l.trim_start().starts_with("#[cfg(test)]")).collect()
}

#[test]
fn every_file_says_what_it_is() {
    let problems: Vec<String> = rust_files()
        .iter()
        .filter(|f| {
            let first =
                f.text.lines().find(|l| !l.is_empty() && !l.starts_with("#!") && !l.starts_with("// SPDX"));
            !first.is_some_and(|l| l.starts_with("//!"))
        })
        .map(|f| f.path.clone())
        .collect();
    assert_none(&problems, "begin each with a module doc (//!)");
}

#[test]
fn files_stay_short() {
    let problems: Vec<String> = rust_files()
        .iter()
        .map(|f| (f, production(f).len()))
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(f, lines)| format!("{}: {lines} lines before its tests", f.path))
        .collect();
    assert_none(&problems, "a file that long holds several things: give each its own");
}

#[test]
fn nothing_is_left_to_be_done() {
    let mut problems = Vec::new();
    for file in
        files(&[".rs", ".toml", ".md", ".sh", ".proto", ".yaml", ".mk", "Makefile", "run", ".service"])
    {
        for (i, line) in file.text.lines().enumerate() {
            if let Some(word) = LEFTOVERS.iter().find(|w| line.contains(**w)) {
                problems.push(format!("{}:{}: {word}", file.path, i + 1));
            }
        }
    }
    assert_none(&problems, "finish it, or open an issue and leave no mark here");
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let mut problems = Vec::new();
    for file in files(&[
        ".rs", ".toml", ".md", ".sh", ".proto", ".yaml", ".json", ".mk", "Makefile", "run", ".service",
    ]) {
        for (i, line) in file.text.lines().enumerate() {
            if MACHINE_PATHS.iter().any(|p| line.contains(p)) {
                problems.push(format!("{}:{}: {}", file.path, i + 1, line.trim()));
            }
        }
    }
    assert_none(&problems, "write a path relative to the checkout, or one that every Linux machine has");
}
