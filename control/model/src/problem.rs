//! One thing that is wrong with a manifest or a configuration file, in words for the person who wrote it.

use serde::Serialize;
use std::fmt;

/// Longest value quoted in a problem, in characters. A longer one is cut: a 10 KiB name helps nobody on a terminal.
const QUOTED_CHARACTERS: usize = 80;

/// Something wrong, where it stands and what to do about it.
///
/// Text that came from a file is quoted with [`quoted`], so that a problem is always one line and cannot forge another
/// (hostile case A-14).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The file, as it was named by whoever loaded it; absent for what came over the API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column in the line, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The resource, as `Port default/vm1-eth0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Path of the field in its document, as `spec.ips[0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The refused value as written, shortened and with control characters escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Problem {
    /// A problem that is not yet tied to a place.
    pub fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: None,
            line: None,
            column: None,
            resource: None,
            field: None,
            value: None,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// Says in which file.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }

    /// Says at which line and column, both from 1.
    #[must_use]
    pub fn at(mut self, line: u32, column: u32) -> Self {
        self.line = Some(line);
        self.column = Some(column);
        self
    }

    /// Says which resource.
    #[must_use]
    pub fn of(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Says which field.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says which value; it is quoted here.
    #[must_use]
    pub fn value(mut self, value: &str) -> Self {
        self.value = Some(quoted(value));
        self
    }
}

/// `text` on one line: control and invisible characters escaped, cut after 80 characters.
pub fn quoted(text: &str) -> String {
    let mut out = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == QUOTED_CHARACTERS {
            out.push_str("...");
            return out;
        }
        if character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric() {
            out.push(character);
        } else {
            out.extend(character.escape_unicode());
        }
    }
    out
}

impl fmt::Display for Problem {
    /// `file:line:column: Port default/vm1: spec.ips[0] "10.0.2.9": message (remedy)`, without the parts not known.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(formatter, "{file}:")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(formatter, "{line}:{column}:")?;
            }
            write!(formatter, " ")?;
        }
        if let Some(resource) = &self.resource {
            write!(formatter, "{resource}: ")?;
        }
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => write!(formatter, "{field} \"{value}\": ")?,
            (Some(field), None) => write!(formatter, "{field}: ")?,
            (None, Some(value)) => write!(formatter, "\"{value}\": ")?,
            (None, None) => {}
        }
        write!(formatter, "{}; remedy: {}", self.message, self.remedy)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_one_line() {
        let problem = Problem::new("outside subnet web", "use an address of 10.0.1.0/24")
            .in_file("vm.yaml")
            .at(12, 9)
            .of("Port default/vm1")
            .field("spec.ips[0]")
            .value("10.0.2.9");
        assert_eq!(
            problem.to_string(),
            "vm.yaml:12:9: Port default/vm1: spec.ips[0] \"10.0.2.9\": outside subnet web; remedy: use an address of 10.0.1.0/24"
        );
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["line"], 12);
        assert_eq!(json["remedy"], "use an address of 10.0.1.0/24");
    }

    #[test]
    fn a14_values_cannot_forge_lines_or_terminal_sequences() {
        let hostile = "x\n2026-11-20 ERROR all is lost\u{1b}[31m\u{202e}\0";
        let text = Problem::new("m", "r").value(hostile).to_string();
        assert!(
            !text.contains('\n')
                && !text.contains('\u{1b}')
                && !text.contains('\u{202e}')
                && !text.contains('\0')
        );
        assert!(text.contains("\\u{a}"));
    }

    #[test]
    fn a13_a_long_value_is_cut() {
        let text = quoted(&"a".repeat(10 * 1024));
        assert_eq!(text.len(), QUOTED_CHARACTERS + 3);
    }
}
