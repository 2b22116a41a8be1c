//! Manifests out of files.

use crate::fields::Refusal;
use crate::owner::Owner;
use crate::problem::Problem;
use crate::resource::{Document, read_document};
use crate::set::{Absent, Environment, ResourceSet};
use crate::yaml::{Budget, parse};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Greatest file read, in bytes.
pub const FILE_BYTES_MAX: u64 = 32 << 20;
/// Folders inside folders that are followed.
const FOLDER_DEPTH_MAX: usize = 8;

/// Documents that were read but not yet checked against each other.
#[derive(Debug)]
pub struct Manifests {
    pub(crate) owner: Owner,
    pub(crate) documents: Vec<Document>,
    pub(crate) problems: Vec<Problem>,
}

impl Manifests {
    /// No documents.
    pub fn none(owner: Owner) -> Self {
        Self { owner, documents: Vec::new(), problems: Vec::new() }
    }

    /// Reads files, and of folders every `.yaml`, `.yml` and `.json` file that is not hidden, in the order of their names.
    pub fn read_paths<P: AsRef<Path>>(paths: &[P], owner: Owner) -> Self {
        let mut manifests = Self::none(owner);
        for path in paths {
            manifests.read_path(path.as_ref(), 0);
        }
        manifests
    }

    /// Reads the documents of a text; `file` is what problems call it.
    pub fn read_text(text: &str, file: Option<&str>, owner: Owner) -> Self {
        let mut manifests = Self::none(owner);
        manifests.add_text(text, file);
        manifests
    }

    /// Puts the documents of `more` behind these.
    pub fn append(&mut self, more: Self) {
        self.documents.extend(more.documents);
        self.problems.extend(more.problems);
    }

    /// Number of documents read, whether right or wrong.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there was no document at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    fn add_text(&mut self, text: &str, file: Option<&str>) {
        let (documents, faults) = parse(text, &Budget::default());
        self.documents.extend(documents.iter().map(|node| read_document(node, file, self.owner)));
        self.problems.extend(faults.into_iter().map(|fault| {
            let mut problem =
                Problem::new(fault.message, fault.remedy).at(fault.position.line, fault.position.column);
            problem.file = file.map(str::to_owned);
            problem
        }));
    }

    fn refuse(&mut self, path: &Path, message: String, remedy: &str) {
        self.problems.push(Problem::new(message, remedy).in_file(display(path)));
    }

    fn read_path(&mut self, path: &Path, depth: usize) {
        let kind = match fs::metadata(path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) => return self.refuse(path, format!("cannot be read: {error}"), "correct the path"),
        };
        if kind.is_dir() {
            return self.read_folder(path, depth);
        }
        match read_file(path) {
            Ok(text) => self.add_text(&text, Some(&display(path))),
            Err(refusal) => self.refuse(path, refusal.message, &refusal.remedy),
        }
    }

    fn read_folder(&mut self, path: &Path, depth: usize) {
        if depth >= FOLDER_DEPTH_MAX {
            let message = format!("folders nested deeper than {FOLDER_DEPTH_MAX}");
            return self.refuse(path, message, "put the manifests higher up");
        }
        let listing = fs::read_dir(path).and_then(|entries| {
            let paths: Result<Vec<PathBuf>, _> =
                entries.map(|entry| entry.map(|entry| entry.path())).collect();
            paths
        });
        let mut paths = match listing {
            Ok(paths) => paths,
            Err(error) => {
                return self.refuse(path, format!("cannot be listed: {error}"), "correct its permissions");
            }
        };
        paths.sort();
        for path in paths {
            let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
            if !hidden && (manifest || path.is_dir()) {
                self.read_path(&path, depth + 1);
            }
        }
    }
}

/// A path for people: on one line, whatever is in it.
fn display(path: &Path) -> String {
    path.to_string_lossy().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Reads a regular file of at most 32 MiB of UTF-8.
///
/// # Errors
/// Says what the file is instead.
pub fn read_file(path: &Path) -> Result<String, Refusal> {
    let unreadable = |error: std::io::Error| {
        Refusal::new(format!("cannot be read: {error}"), "correct the path or its permissions")
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Refusal::new("is no regular file", "name a file"));
    }
    let too_big = || {
        let message = format!("is greater than {} MiB", FILE_BYTES_MAX >> 20);
        Refusal::new(message, "split it into several files")
    };
    if metadata.len() > FILE_BYTES_MAX {
        return Err(too_big());
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(too_big());
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        Refusal::new(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

/// Reads and validates manifests as the whole set.
///
/// # Errors
/// Everything that is wrong, in the order of files and lines.
pub fn load_paths<P: AsRef<Path>>(
    paths: &[P],
    environment: &Environment,
) -> Result<ResourceSet, Vec<Problem>> {
    let manifests = Manifests::read_paths(paths, Owner::Manifests);
    ResourceSet::default().apply(manifests, Absent::Remove, environment)
}

/// Reads and validates one file or folder as the whole set.
///
/// # Errors
/// As [`load_paths`].
pub fn load_path(path: &Path, environment: &Environment) -> Result<ResourceSet, Vec<Problem>> {
    load_paths(&[path], environment)
}

/// Reads and validates a text as the whole set; `file` is what problems call it.
///
/// # Errors
/// As [`load_paths`].
pub fn load_text(text: &str, file: &str, environment: &Environment) -> Result<ResourceSet, Vec<Problem>> {
    let manifests = Manifests::read_text(text, Some(file), Owner::Manifests);
    ResourceSet::default().apply(manifests, Absent::Remove, environment)
}
