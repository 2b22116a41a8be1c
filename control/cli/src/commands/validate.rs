//! `towpath validate -f PATH...`

use crate::Failed;
use crate::args::Format;
use crate::output::structured;
use model::{Absent, Environment, Kind, Manifests, Owner, Problem, ResourceSet};
use serde_json::json;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Validates manifests as one set. Problems go to standard error, one line each; with `-o json` or `yaml` all goes to
/// standard output.
pub(crate) fn run(files: &[PathBuf], format: Format, out: &mut dyn Write) -> Result<(), Failed> {
    let result = load(files);
    let problems = result.as_ref().err().map_or(&[][..], Vec::as_slice);
    let counts = result.as_ref().map(counts).unwrap_or_default();
    let resources: serde_json::Map<_, _> =
        counts.iter().map(|(kind, count)| (kind.as_str().to_owned(), json!(count))).collect();
    let value = json!({ "valid": problems.is_empty(), "resources": resources, "problems": problems });
    if structured(out, format, &value)? {
        return if problems.is_empty() { Ok(()) } else { Err(Failed::Reported) };
    }
    if problems.is_empty() {
        let words: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let words = if words.is_empty() { "no resources".to_owned() } else { words.join(", ") };
        writeln!(out, "valid: {words}")?;
        return Ok(());
    }
    let mut stderr = io::stderr().lock();
    for problem in problems {
        writeln!(stderr, "{problem}")?;
    }
    let plural = if problems.len() == 1 { "problem" } else { "problems" };
    writeln!(stderr, "{} {plural}; nothing would be applied", problems.len())?;
    Err(Failed::Reported)
}

fn load(files: &[PathBuf]) -> Result<ResourceSet, Vec<Problem>> {
    let mut manifests = Manifests::none(Owner::Manifests);
    for path in files {
        match path == Path::new("-") {
            true => manifests.append(read_stdin()?),
            false => manifests.append(Manifests::read_paths(&[path], Owner::Manifests)),
        }
    }
    ResourceSet::default().apply(manifests, Absent::Remove, &Environment::default())
}

fn read_stdin() -> Result<Manifests, Vec<Problem>> {
    let mut text = String::new();
    let limit = model::load::FILE_BYTES_MAX;
    match io::stdin().lock().take(limit).read_to_string(&mut text) {
        Ok(read) if u64::try_from(read).is_ok_and(|read| read < limit) => {
            Ok(Manifests::read_text(&text, Some("<stdin>"), Owner::Manifests))
        }
        Ok(_) => Err(vec![
            Problem::new(format!("greater than {} MiB", limit >> 20), "split it").in_file("<stdin>"),
        ]),
        Err(error) => {
            Err(vec![Problem::new(format!("cannot be read: {error}"), "send UTF-8 text").in_file("<stdin>")])
        }
    }
}

fn counts(set: &ResourceSet) -> Vec<(Kind, usize)> {
    // Without what comes by itself.
    let written = |kind: Kind| set.of_kind(kind).filter(|resource| resource.meta.owner != Owner::Daemon);
    let count = |kind: Kind| (kind, written(kind).count());
    Kind::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}
