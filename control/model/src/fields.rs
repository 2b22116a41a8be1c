//! Typed values out of a [`yaml::Node`](crate::yaml::Node), with every problem collected.
//!
//! A [`Reader`] belongs to one document and gathers problems and the places of fields; [`Fields`] is one mapping of it.
//! Each accessor names the field it knows, so that [`Fields::finish`] can refuse the others and name the nearest known one.

use crate::problem::{Problem, quoted};
use crate::suggest::nearest;
use crate::yaml::{Entry, Node, Position, Value};
use std::collections::BTreeMap;

/// Why a value was refused: what is wrong and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: remedy.into() }
    }
}

/// Result of turning text into a value.
pub type Parsed<T> = Result<T, Refusal>;

/// Where the fields of one document stand, for problems found after it was read.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file, as named by whoever loaded it.
    pub file: Option<String>,
    /// Where the document starts.
    pub start: Position,
    places: BTreeMap<String, (Position, String)>,
}

impl Source {
    /// A problem of `resource` at `field`, placed and with the value as it was written.
    ///
    /// A field that was not written (a default) is placed at the nearest enclosing one that was.
    pub fn problem(&self, resource: &str, field: &str, refusal: Refusal) -> Problem {
        let mut problem = Problem::new(refusal.message, refusal.remedy).of(resource).field(field);
        problem.file.clone_from(&self.file);
        let mut position = self.start;
        let mut path = field;
        loop {
            if let Some((place, text)) = self.places.get(path) {
                position = *place;
                if path == field && !text.is_empty() {
                    problem.value = Some(text.clone());
                }
                break;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
        match position.line {
            0 => problem,
            line => problem.at(line, position.column),
        }
    }
}

/// Gathers what is read from one document.
#[derive(Debug, Default)]
pub struct Reader {
    /// The resource being read, once its name is known.
    pub resource: Option<String>,
    /// Problems so far.
    pub problems: Vec<Problem>,
    /// Places of the fields read.
    pub source: Source,
}

impl Reader {
    /// A reader for a document of `file` that starts at `start`.
    pub fn new(file: Option<&str>, start: Position) -> Self {
        let source = Source { file: file.map(str::to_owned), start, places: BTreeMap::new() };
        Self { resource: None, problems: Vec::new(), source }
    }

    /// Records a problem at a place.
    pub fn refuse(&mut self, position: Position, field: &str, value: Option<&str>, refusal: Refusal) {
        let mut problem = Problem::new(refusal.message, refusal.remedy).at(position.line, position.column);
        problem.file.clone_from(&self.source.file);
        problem.resource.clone_from(&self.resource);
        problem.field = (!field.is_empty()).then(|| field.to_owned());
        problem.value = value.map(quoted);
        self.problems.push(problem);
    }

    fn remember(&mut self, path: &str, node: &Node) {
        let text = match &node.value {
            Value::Scalar { text, .. } => quoted(text),
            _ => String::new(),
        };
        self.source.places.insert(path.to_owned(), (node.position, text));
    }

    /// The text of a scalar.
    fn scalar<'n>(&mut self, node: &'n Node, path: &str, expected: &str) -> Option<(&'n str, bool)> {
        match &node.value {
            Value::Scalar { text, plain } => Some((text, *plain)),
            other => {
                let message = format!("is {}, not {expected}", describe(other));
                self.refuse(node.position, path, None, Refusal::new(message, format!("write {expected}")));
                None
            }
        }
    }

    /// Reads a scalar with `parse`.
    pub fn parse<T>(&mut self, node: &Node, path: &str, parse: impl FnOnce(&str) -> Parsed<T>) -> Option<T> {
        let (text, _) = self.scalar(node, path, "a single value")?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.refuse(node.position, path, Some(text), refusal);
                None
            }
        }
    }
}

/// What a node is, in words.
fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Scalar { .. } => "a single value",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
    }
}

/// One mapping being read. Call [`Fields::finish`] when all known fields were asked for.
#[derive(Debug)]
pub struct Fields<'n> {
    path: String,
    /// Where the mapping starts.
    pub position: Position,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Opens `node`, whose path is `path` (empty for the document itself). An empty value is an empty mapping.
    pub fn open(node: &'n Node, path: &str, reader: &mut Reader) -> Option<Self> {
        reader.remember(path, node);
        let entries: &[Entry] = match &node.value {
            Value::Mapping(entries) => entries,
            Value::Null => &[],
            other => {
                let message = format!("is {}, not a mapping of fields", describe(other));
                let remedy = "write `field: value` lines or {field: value}";
                reader.refuse(node.position, path, None, Refusal::new(message, remedy));
                return None;
            }
        };
        Some(Self { path: path.to_owned(), position: node.position, entries, known: Vec::new() })
    }

    /// Path of a field of this mapping.
    pub fn path(&self, name: &str) -> String {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{}.{name}", self.path),
        }
    }

    /// The node of a field; `None` when it is absent or empty.
    pub fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        self.written(name).filter(|node| node.value != Value::Null)
    }

    /// The node of a field that was written, even if its value is empty.
    pub fn written(&mut self, name: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }

    /// The names of the fields written, in their order.
    pub fn names(&self) -> impl Iterator<Item = &'n str> + use<'n> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// The entries themselves, for a mapping whose keys are the user's own (labels). Nothing is unknown there.
    pub fn entries(&self) -> &'n [Entry] {
        self.entries
    }

    /// A scalar field read with `parse`.
    pub fn parse<T>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<T> {
        let node = self.node(name)?;
        let path = self.path(name);
        reader.remember(&path, node);
        reader.parse(node, &path, parse)
    }

    /// A scalar field that must be there.
    pub fn required<T>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        remedy: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<T> {
        let absent = self.node(name).is_none();
        if absent {
            self.missing(reader, name, remedy);
        }
        self.parse(reader, name, parse)
    }

    /// Records that a field is missing.
    pub fn missing(&self, reader: &mut Reader, name: &str, remedy: &str) {
        reader.refuse(self.position, &self.path(name), None, Refusal::new("is missing", remedy));
    }

    /// A boolean field: `true` or `false` without quotes.
    pub fn boolean(&mut self, reader: &mut Reader, name: &'static str) -> Option<bool> {
        let node = self.node(name)?;
        let path = self.path(name);
        reader.remember(&path, node);
        let (text, plain) = reader.scalar(node, &path, "true or false")?;
        match (plain, text) {
            (true, "true" | "True" | "TRUE") => Some(true),
            (true, "false" | "False" | "FALSE") => Some(false),
            _ => {
                let refusal =
                    Refusal::new("is neither true nor false", "write true or false, without quotes");
                reader.refuse(node.position, &path, Some(text), refusal);
                None
            }
        }
    }

    /// A whole number in `range`, without quotes.
    pub fn integer(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let node = self.node(name)?;
        let path = self.path(name);
        reader.remember(&path, node);
        reader.integer(node, &path, &range)
    }

    /// A list of scalars, each read with `parse`; `None` when absent. Refused items are left out and reported.
    pub fn list<T>(
        &mut self,
        reader: &mut Reader,
        name: &'static str,
        mut parse: impl FnMut(&str) -> Parsed<T>,
    ) -> Option<Vec<T>> {
        let items = self.items(reader, name)?;
        Some(items.into_iter().filter_map(|(path, node)| reader.parse(node, &path, &mut parse)).collect())
    }

    /// The items of a list with their paths; `None` when absent.
    pub fn items(&mut self, reader: &mut Reader, name: &'static str) -> Option<Vec<(String, &'n Node)>> {
        let node = self.node(name)?;
        let path = self.path(name);
        reader.remember(&path, node);
        let Value::Sequence(items) = &node.value else {
            let message = format!("is {}, not a list", describe(&node.value));
            reader.refuse(node.position, &path, None, Refusal::new(message, "write a list: [a, b]"));
            return None;
        };
        let items: Vec<_> =
            items.iter().enumerate().map(|(index, item)| (format!("{path}[{index}]"), item)).collect();
        for (path, item) in &items {
            reader.remember(path, item);
        }
        Some(items)
    }

    /// A mapping inside this one; `None` when absent.
    pub fn mapping(&mut self, reader: &mut Reader, name: &'static str) -> Option<Fields<'n>> {
        let node = self.node(name)?;
        Fields::open(node, &self.path(name), reader)
    }

    /// Refuses a field that a later version will know.
    pub fn unsupported(&mut self, reader: &mut Reader, name: &'static str, message: &str, remedy: &str) {
        if let Some(node) = self.node(name) {
            let value = match &node.value {
                Value::Scalar { text, .. } => Some(text.as_str()),
                _ => None,
            };
            reader.refuse(node.position, &self.path(name), value, Refusal::new(message, remedy));
        }
    }

    /// Refuses every field nobody asked for, naming the nearest known one.
    pub fn finish(self, reader: &mut Reader) {
        for entry in self.entries {
            let key = entry.key.as_str();
            if self.known.contains(&key) {
                continue;
            }
            let remedy = match nearest(key, self.known.iter().copied()) {
                Some(near) => format!("nearest known field: {near}; known: {}", self.known.join(", ")),
                None => "no field is known here; remove it".to_owned(),
            };
            reader.refuse(
                entry.position,
                &self.path(&quoted(key)),
                None,
                Refusal::new("unknown field", remedy),
            );
        }
    }
}

impl Reader {
    /// A whole number in `range`, without quotes.
    pub fn integer(&mut self, node: &Node, path: &str, range: &std::ops::RangeInclusive<u64>) -> Option<u64> {
        let (text, plain) = self.scalar(node, path, "a whole number")?;
        let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
        let refusal = match text.parse::<u64>() {
            Ok(_) if !plain => Refusal::new("is text in quotes, not a number", "remove the quotes"),
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(_) => Refusal::new("out of range", remedy),
            Err(_) => Refusal::new("not a whole number", remedy),
        };
        self.refuse(node.position, path, Some(text), refusal);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::{Budget, parse};

    fn read<T>(text: &str, body: impl FnOnce(&mut Fields<'_>, &mut Reader) -> T) -> (T, Vec<String>) {
        let (documents, faults) = parse(text, &Budget::default());
        assert_eq!(faults, []);
        let mut reader = Reader::new(Some("f.yaml"), documents[0].position);
        let mut fields = Fields::open(&documents[0], "", &mut reader).unwrap();
        let value = body(&mut fields, &mut reader);
        fields.finish(&mut reader);
        (value, reader.problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let (_, problems) = read("a: \"7\"\nb: [1]\nc: maybe\nad: 1\ne: 300\n", |fields, reader| {
            assert_eq!(fields.integer(reader, "a", 0..=9), None);
            assert_eq!(fields.boolean(reader, "b"), None);
            assert_eq!(fields.boolean(reader, "c"), None);
            assert_eq!(fields.integer(reader, "e", 1..=255), None);
            fields.required(reader, "d", "write it", |text| Ok(text.to_owned()));
        });
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert!(problems[0].starts_with("f.yaml:1:4: a \"7\": is text in quotes"));
        assert!(problems[1].starts_with("f.yaml:2:4: b: is a list, not true or false"));
        assert!(
            problems[3].starts_with(
                "f.yaml:5:4: e \"300\": out of range; remedy: write a whole number from 1 to 255"
            )
        );
        assert!(problems[4].contains("d: is missing; remedy: write it"));
        assert!(
            problems[5]
                .starts_with("f.yaml:4:1: ad: unknown field; remedy: nearest known field: a; known: a, b")
        );
    }

    #[test]
    fn null_is_absent_and_an_empty_mapping_is_a_mapping() {
        let (seen, problems) = read("a: null\nb:\n", |fields, reader| {
            let a = fields.integer(reader, "a", 0..=1);
            let b = fields.mapping(reader, "b").is_some();
            (a, b, fields.written("b").is_some())
        });
        assert_eq!((seen, problems), ((None, false, true), vec![]));
    }

    #[test]
    fn a_default_is_placed_at_the_nearest_written_field() {
        let (documents, _) = parse("spec:\n  ips: [1.2.3.4]\n", &Budget::default());
        let mut reader = Reader::new(Some("f"), documents[0].position);
        let mut root = Fields::open(&documents[0], "", &mut reader).unwrap();
        let mut spec = root.mapping(&mut reader, "spec").unwrap();
        spec.list(&mut reader, "ips", |text| Ok(text.to_owned()));
        let place = |field| reader.source.problem("Port a/b", field, Refusal::new("m", "r")).to_string();
        assert_eq!(place("spec.ips[0]"), "f:2:9: Port a/b: spec.ips[0] \"1.2.3.4\": m; remedy: r");
        assert_eq!(place("spec.mac"), "f:2:3: Port a/b: spec.mac: m; remedy: r");
    }
}
