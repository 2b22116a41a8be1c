//! The checkout as the tidy tests see it: its files and what `cargo metadata` says of its packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// One text file of the checkout.
pub(crate) struct TextFile {
    /// Path relative to the root, with `/` between its parts.
    pub(crate) path: String,
    /// Its whole text.
    pub(crate) text: String,
}

/// Every file of the checkout whose name ends in one of `extensions`, build results and hidden folders left out (but `.ci`, `.config`).
pub(crate) fn files(extensions: &[&str]) -> Vec<TextFile> {
    let mut found = Vec::new();
    collect(root(), extensions, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file ends in {extensions:?}: the walk is broken");
    found
}

fn collect(folder: &Path, extensions: &[&str], found: &mut Vec<TextFile>) {
    for entry in fs::read_dir(folder).expect("a readable folder").map(|e| e.expect("a readable entry")) {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && ![".ci", ".config", ".cargo"].contains(&name.as_str());
        let kind = entry.file_type().expect("a file type");
        if kind.is_dir() {
            if !hidden && name != "target" {
                collect(&path, extensions, found);
            }
        } else if kind.is_file() && !hidden && extensions.iter().any(|e| name.ends_with(e)) {
            let relative = relative(&path);
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{relative}: {e}"));
            found.push(TextFile { path: relative, text });
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a path below the root").to_string_lossy().into_owned()
}

/// Rust sources; `generated` folders are nobody's style.
pub(crate) fn rust_files() -> Vec<TextFile> {
    files(&[".rs"]).into_iter().filter(|f| !f.path.split('/').any(|part| part == "generated")).collect()
}

/// `cargo metadata` with `arguments`, with the versions of Cargo.lock.
pub(crate) fn metadata(arguments: &[&str]) -> Value {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Fails the test with one line per problem, so that all are seen at once.
pub(crate) fn assert_none(problems: &[String], remedy: &str) {
    assert!(problems.is_empty(), "{} problem(s); {remedy}\n  {}", problems.len(), problems.join("\n  "));
}
