//! Functions that fit a screen.

use crate::tree::{TextFile, assert_none, rust_files};

/// Lines of a function, from `fn` to its closing brace: on the packet path, elsewhere, in tests and benches.
const MAX_DATAPLANE: usize = 40;
const MAX: usize = 70;
const MAX_IN_TESTS: usize = 100;

/// Functions that may be longer, by file and name: how long, and why. One that shrinks leaves the list.
const EXCEPTIONS: &[(&str, &str, usize, &str)] = &[
    ("dataplane/switch/src/worker.rs", "poll_queue", 80, "what a burst borrows is given back in one order"),
    ("dataplane/packet/src/plain.rs", "parse_network", 60, "the shortest way through one kind of header"),
    (
        "dataplane/packet/src/ipv4.rs",
        "parse",
        45,
        "the fields of one header, and what was found in one place",
    ),
    ("dataplane/packet/src/ipv6.rs", "parse", 45, "the same"),
    ("dataplane/packet/src/ipv6.rs", "walk", 45, "a loop whose checks depend on their order (RFC 7112)"),
    ("dataplane/packet/src/ndp.rs", "parse_neighbor", 45, "the checks of RFC 4861 section 7.1, in its order"),
];

/// A function of a file.
struct Function<'a> {
    name: &'a str,
    lines: usize,
    in_tests: bool,
}

/// The name of the function that a line begins, with the line's indentation.
fn begins(line: &str) -> Option<(&str, &str)> {
    let code = line.trim_start();
    let indentation = &line[..line.len() - code.len()];
    let mut words = code.split_whitespace();
    let known = |word: &&str| {
        word.starts_with("pub")
            || ["const", "async", "unsafe", "extern", "\"C\"", "in", "crate)"].contains(word)
    };
    words.find(|word| !known(word)).filter(|word| *word == "fn")?;
    let name = words.next()?;
    Some((indentation, name.split(|c: char| !c.is_alphanumeric() && c != '_').next()?))
}

/// All functions of a file that have a body. Formatted code closes each at the indentation at which it began.
fn functions(file: &TextFile) -> Vec<Function<'_>> {
    let lines: Vec<&str> = file.text.lines().collect();
    let tests_from = lines.iter().position(|line| line.trim_start().starts_with("#[cfg(test)]"));
    let is_test = |at: usize| {
        tests_from.is_some_and(|from| at > from)
            || file.path.split('/').any(|part| part == "tests" || part == "benches")
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((indentation, name)) = begins(line) else { continue };
        let closes = |line: &&str| line.strip_prefix(indentation) == Some("}");
        let declares =
            |line: &&str| line.ends_with(';') && line.len() - line.trim_start().len() == indentation.len();
        let rest = &lines[at..];
        let end = rest
            .iter()
            .position(|line| closes(line) || declares(line) || (line == &rest[0] && line.ends_with('}')));
        found.push(Function { name, lines: end.unwrap_or(0) + 1, in_tests: is_test(at) });
    }
    found
}

/// What a function may have that is in no list.
fn limit(path: &str, function: &Function<'_>) -> usize {
    match function.in_tests {
        true => MAX_IN_TESTS,
        false if path.starts_with("dataplane/") => MAX_DATAPLANE,
        false => MAX,
    }
}

#[test]
fn functions_stay_short() {
    let files = rust_files();
    let mut problems = Vec::new();
    let mut seen = 0;
    for file in &files {
        for function in functions(file) {
            seen += 1;
            let excepted =
                EXCEPTIONS.iter().find(|(path, name, ..)| *path == file.path && *name == function.name);
            let limit = excepted.map_or_else(|| limit(&file.path, &function), |(_, _, lines, _)| *lines);
            if function.lines > limit {
                problems.push(format!(
                    "{}: fn {}: {} lines, at most {limit}",
                    file.path, function.name, function.lines
                ));
            }
        }
    }
    assert!(seen > 2_000, "{seen} functions in the whole tree: the search is broken");
    assert_none(&problems, "give each part that has a name of its own a function");
}

#[test]
fn exceptions_are_still_needed() {
    let files = rust_files();
    let problems: Vec<String> = EXCEPTIONS
        .iter()
        .filter(|(path, name, ..)| {
            let file = files.iter().find(|file| file.path == *path);
            let found = file.map(functions).unwrap_or_default();
            !found.iter().any(|function| function.name == *name && function.lines > limit(path, function))
        })
        .map(|(path, name, ..)| format!("{path}: fn {name} is as short as others, or gone"))
        .collect();
    assert_none(&problems, "remove its line in tests/tests/tidy/functions.rs");
}

#[test]
fn functions_are_measured_from_their_name_to_their_end() {
    let text = "impl A {\n    pub(crate) const fn one() -> u8 { 1 }\n    fn two(\n        a: u8,\n    ) {\n        b;\n    }\n    fn three(&self);\n}\n";
    let file = TextFile { path: "a.rs".to_owned(), text: text.to_owned() };
    let found: Vec<(&str, usize)> = functions(&file).iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(found, [("one", 1), ("two", 5), ("three", 1)]);
    assert!(begins("// fn four() {").is_none() && begins("let fn_five = 5;").is_none());
}
