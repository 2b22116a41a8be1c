//! Names of resources and projects, references to resources, and keys.

use crate::fields::{Parsed, Refusal};
use crate::kind::Kind;
use std::fmt;
use std::sync::Arc;

/// Longest name, in bytes (a DNS name).
pub const NAME_MAX: usize = 253;
/// Longest part of a name between dots, and longest project name, in bytes (a DNS label).
pub const LABEL_MAX: usize = 63;
/// The project of a resource that names none.
pub const DEFAULT_PROJECT: &str = "default";

/// A DNS-like name: labels of lower-case ASCII letters, digits and inner hyphens, joined by dots.
///
/// Nothing else can be in one: no slash, no leading dot or hyphen, no control character (hostile case A-13), so a name is
/// safe as a file name and as an argument.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Parsed<Self> {
        let remedy = "use lower-case letters, digits, '-' and '.', starting and ending with a letter or digit, \
                      at most 253 characters and 63 between dots";
        let fault = |message: String| Err(Refusal::new(message, remedy));
        if text.is_empty() {
            return fault("a name cannot be empty".into());
        }
        if text.len() > NAME_MAX {
            return fault(format!("a name of {} bytes is longer than {NAME_MAX}", text.len()));
        }
        if let Some(wrong) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
            return fault(format!("'{}' cannot be in a name", crate::problem::quoted(&wrong.to_string())));
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > LABEL_MAX || label.starts_with('-') || label.ends_with('-') {
                return fault(format!("the part \"{label}\" is empty, too long or has a hyphen at an end"));
            }
        }
        Ok(Self(text.into()))
    }

    /// Checks the name of a project: one label.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse_project(text: &str) -> Parsed<Self> {
        let name = Self::parse(text)?;
        match text.contains('.') {
            true => Err(Refusal::new("a project has no dots in its name", "use letters, digits and '-'")),
            false => Ok(name),
        }
    }

    /// The project of resources that name none.
    pub fn default_project() -> Self {
        Self(DEFAULT_PROJECT.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A word of ours as a name.
    pub(crate) fn of_word(word: &'static str) -> Self {
        Self(word.into())
    }

    /// `prefix.name`: names that follow from others. The longest are longer than names that are written.
    pub(crate) fn prefixed(prefix: &'static str, name: &Self) -> Self {
        Self(format!("{prefix}.{name}").into())
    }

    /// The name of which [`Name::prefixed`] made this one.
    pub(crate) fn without_prefix(&self, prefix: &str) -> Option<Self> {
        let rest = self.0.strip_prefix(prefix)?.strip_prefix('.')?;
        Some(Self(rest.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A resource inside a kind that has projects: its project and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// The project.
    pub project: Name,
    /// The name in the project.
    pub name: Name,
}

impl ObjectName {
    /// Reads a reference written in a resource of `project`: `name`, or `project/name`.
    ///
    /// # Errors
    /// Says which part is no name.
    pub fn parse(text: &str, project: &Name) -> Parsed<Self> {
        match text.split_once('/') {
            Some((other, name)) => {
                Ok(Self { project: Name::parse_project(other)?, name: Name::parse(name)? })
            }
            None => Ok(Self { project: project.clone(), name: Name::parse(text)? }),
        }
    }

    /// The reference as a resource of `project` writes it.
    pub fn relative_to(&self, project: &Name) -> String {
        match self.project == *project {
            true => self.name.to_string(),
            false => self.to_string(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.project, self.name)
    }
}

/// What identifies a resource. Keys order by kind first, in dependency order: what is referred to comes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The project; absent for global kinds.
    pub project: Option<Name>,
    /// The name.
    pub name: Name,
}

impl Key {
    /// Key of a resource of a kind with projects.
    pub fn of(kind: Kind, object: &ObjectName) -> Self {
        Self { kind, project: Some(object.project.clone()), name: object.name.clone() }
    }

    /// Key of a host.
    pub fn host(name: &Name) -> Self {
        Self { kind: Kind::Host, project: None, name: name.clone() }
    }
}

impl fmt::Display for Key {
    /// `Port default/vm1-eth0`, `Host node-a`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.project {
            Some(project) => write!(formatter, "{} {project}/{}", self.kind, self.name),
            None => write!(formatter, "{} {}", self.kind, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_like() {
        for good in ["a", "vm1-eth0", "web.blue", "0", &format!("{0}.{0}.{0}", "a".repeat(63))] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        assert!(Name::parse_project("a.b").is_err());
    }

    #[test]
    fn a13_hostile_names_are_refused() {
        let long = "a".repeat(10 * 1024);
        let label = "a".repeat(64);
        for bad in [
            "",
            ".",
            "..",
            "../etc",
            "a/b",
            "a\0b",
            "a\nb",
            "-rf",
            "a-",
            "a.-b",
            "a..b",
            "A",
            "ünïcode",
            "раypal",
            "a b",
            "a\u{202e}b",
            "a\u{200b}",
            "%2e%2e",
            "a\\b",
            "a:b",
            &long,
            &label,
        ] {
            let refusal = Name::parse(bad).unwrap_err();
            assert!(!refusal.message.contains(['\n', '\0', '\u{202e}']), "{refusal:?}");
            assert!(refusal.message.len() < 200);
        }
    }

    #[test]
    fn references_stay_in_their_project_unless_written_out() {
        let blue = Name::parse("blue").unwrap();
        let local = ObjectName::parse("web", &blue).unwrap();
        assert_eq!((local.to_string(), local.relative_to(&blue)), ("blue/web".into(), "web".into()));
        let foreign = ObjectName::parse("green/web", &blue).unwrap();
        assert_eq!(foreign.relative_to(&blue), "green/web");
        for bad in ["green/", "/web", "a/b/c", "../web"] {
            assert!(ObjectName::parse(bad, &blue).is_err(), "{bad}");
        }
    }
}
