//! Documents that lead somewhere.

use std::path::Path;

use crate::tree::{assert_none, files, root};

/// Targets of `[text](target)` in a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

#[test]
fn relative_links_lead_to_files() {
    let mut problems = Vec::new();
    for file in files(&[".md"]) {
        let folder = root().join(Path::new(&file.path).parent().expect("a folder"));
        for (i, line) in file.text.lines().enumerate() {
            for target in targets(line) {
                let path = target.split('#').next().unwrap_or_default();
                let outside = target.contains("://") || target.starts_with("mailto:");
                if !outside && !path.is_empty() && !folder.join(path).exists() {
                    problems.push(format!("{}:{}: {target}", file.path, i + 1));
                }
            }
        }
    }
    assert_none(&problems, "mend the link or write the file");
}

#[test]
fn links_are_found() {
    let found: Vec<&str> = targets("see [a](b.md) and [c](d/e.md#f), not (g)").collect();
    assert_eq!(found, ["b.md", "d/e.md#f"]);
}
