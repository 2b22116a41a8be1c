//! YAML (and so JSON) text into trees whose every node knows its line and column.
//!
//! `serde` stops at the first error and hides spans, while a person wants all problems with their places, so the parser's
//! events are read here directly. A document with a syntax error is given up and the next one is read. What may be spent is
//! bounded by a [`Budget`]: neither a bomb of aliases nor deep nesting costs more than its text allows.

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag, options};
use std::collections::{BTreeMap, BTreeSet};

/// What reading one file may cost.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Most nodes of all documents together, copies made for aliases included.
    pub nodes: usize,
    /// Deepest nesting, through aliases too.
    pub depth: usize,
    /// Most problems reported before reading stops.
    pub faults: usize,
}

impl Default for Budget {
    /// Room for some 100,000 ports in one file.
    fn default() -> Self {
        Self { nodes: 4_000_000, depth: 32, faults: 1000 }
    }
}

/// A place in a text; line and column count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

impl Position {
    fn of(span: &Span) -> Self {
        Self::marker(span.start.line(), span.start.col())
    }

    fn marker(line: usize, column: usize) -> Self {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self { line: narrow(line), column: narrow(column.saturating_add(1)) }
    }
}

/// One value of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it starts. For a copy made by an alias: where the alias stands.
    pub position: Position,
    /// What it is.
    pub value: Value,
}

/// What a node can be.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as text: the field that reads it knows its type.
    Scalar {
        /// Its text after escapes.
        text: String,
        /// Whether it was written without quotes, so that it may be a number or a boolean.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping with distinct keys, in the order written.
    Mapping(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub position: Position,
    /// Its value.
    pub value: Node,
}

/// Something wrong with the text itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub position: Position,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Reads all documents of `text`. Empty documents are left out, broken ones reported; a document with a fault that does
/// not break its structure (a repeated key, a foreign tag) is both returned and reported.
pub fn parse(text: &str, budget: &Budget) -> (Vec<Node>, Vec<Fault>) {
    let options = options! {
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: budget.depth,
        block_nesting_limit: budget.depth,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { budget: *budget, ..Builder::default() };
    while let Some(next) = parser.next_event() {
        let outcome = match next {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => builder.event(event, &span),
            Err(error) => Err(scan_fault(&error)),
        };
        if let Err(fault) = outcome {
            builder.abandon(fault);
            if builder.exhausted() || !matches!(parser.proceed_next_document(), Ok(true)) {
                break;
            }
        }
    }
    (builder.documents, builder.faults)
}

/// A fault out of the parser's own error.
fn scan_fault(error: &ScanError) -> Fault {
    let marker = error.marker();
    Fault {
        position: Position::marker(marker.line(), marker.col()),
        message: format!("not valid YAML: {}", error.info()),
        remedy: "correct the syntax; the rest of this document was not read",
    }
}

/// A collection not yet closed.
struct Frame {
    node: Node,
    anchor: usize,
    /// The key that waits for its value, in a mapping.
    key: Option<(String, Position)>,
    /// Keys seen, in a mapping.
    keys: BTreeSet<String>,
    size: Size,
}

/// What a copy of a node costs.
#[derive(Debug, Clone, Copy)]
struct Size {
    nodes: usize,
    depth: usize,
}

/// Builds trees out of events.
#[derive(Default)]
struct Builder {
    budget: Budget,
    nodes: usize,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, (Node, Size)>,
    documents: Vec<Node>,
    faults: Vec<Fault>,
}

impl Builder {
    /// Gives up the document being built.
    fn abandon(&mut self, fault: Fault) {
        self.faults.push(fault);
        self.stack.clear();
        self.anchors.clear();
    }

    fn exhausted(&self) -> bool {
        self.nodes > self.budget.nodes || self.faults.len() >= self.budget.faults
    }

    fn spend(&mut self, nodes: usize, position: Position) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.exhausted() {
            return Err(Fault {
                position,
                message: format!(
                    "more than {} values or {} faults in one file",
                    self.budget.nodes, self.budget.faults
                ),
                remedy: "split the file, and write repeated parts out instead of nesting aliases; reading stopped here",
            });
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let position = Position::of(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1, position)?;
                let plain = style == ScalarStyle::Plain
                    && tag.as_deref().is_none_or(|tag| tag.core_suffix() != Some("str"));
                self.check_tag(tag.as_deref(), position);
                let value = match plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    true => Value::Null,
                    false => Value::Scalar { text: text.into_owned(), plain },
                };
                self.complete(Node { position, value }, Size { nodes: 1, depth: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), position);
                self.open(Value::Sequence(Vec::new()), position, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), position);
                self.open(Value::Mapping(Vec::new()), position, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(frame) => self.complete(frame.node, frame.size, frame.anchor),
                None => Ok(()),
            },
            Event::Alias(id) => self.alias(id, position),
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, value: Value, position: Position, anchor: usize) -> Result<(), Fault> {
        self.spend(1, position)?;
        if self.stack.len() >= self.budget.depth {
            return Err(self.too_deep(position));
        }
        let node = Node { position, value };
        let size = Size { nodes: 1, depth: 1 };
        self.stack.push(Frame { node, anchor, key: None, keys: BTreeSet::new(), size });
        Ok(())
    }

    fn alias(&mut self, id: usize, position: Position) -> Result<(), Fault> {
        let Some((_, size)) = self.anchors.get(&id) else {
            return Err(Fault {
                position,
                message: "an alias inside the value it stands for".into(),
                remedy: "write the value out",
            });
        };
        let size = *size;
        self.spend(size.nodes, position)?;
        if self.stack.len().saturating_add(size.depth) > self.budget.depth {
            return Err(self.too_deep(position));
        }
        let copy = self.anchors.get(&id).map(|(node, _)| Node { position, value: node.value.clone() });
        copy.map_or(Ok(()), |copy| self.complete(copy, size, 0))
    }

    fn too_deep(&self, position: Position) -> Fault {
        Fault {
            position,
            message: format!("nested deeper than {} levels", self.budget.depth),
            remedy: "no field of any resource is that deep; correct the indentation or the aliases",
        }
    }

    fn check_tag(&mut self, tag: Option<&Tag>, position: Position) {
        if let Some(tag) = tag
            && !tag.is_yaml_core_schema()
        {
            self.faults.push(Fault {
                position,
                message: format!("tag {} has no meaning here", crate::problem::quoted(&tag.original())),
                remedy: "remove the tag",
            });
        }
    }

    /// Puts a finished node into its parent, or makes it a document.
    fn complete(&mut self, node: Node, size: Size, anchor: usize) -> Result<(), Fault> {
        if anchor != 0 {
            self.spend(size.nodes, node.position)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(frame) = self.stack.last_mut() else {
            if node.value != Value::Null {
                self.documents.push(node);
            }
            return Ok(());
        };
        frame.size.nodes = frame.size.nodes.saturating_add(size.nodes);
        frame.size.depth = frame.size.depth.max(size.depth.saturating_add(1));
        match &mut frame.node.value {
            Value::Sequence(items) => items.push(node),
            Value::Mapping(entries) => match (frame.key.take(), node.value) {
                (Some((key, position)), value) => {
                    let value = Node { position: node.position, value };
                    if frame.keys.insert(key.clone()) {
                        entries.push(Entry { key, position, value });
                    } else {
                        self.faults.push(Fault {
                            position,
                            message: format!(
                                "key \"{}\" is written twice in one mapping",
                                crate::problem::quoted(&key)
                            ),
                            remedy: "keep one of them",
                        });
                    }
                }
                (None, Value::Scalar { text, .. }) => frame.key = Some((text, node.position)),
                (None, Value::Null) => frame.key = Some(("null".into(), node.position)),
                (None, Value::Sequence(_) | Value::Mapping(_)) => {
                    return Err(Fault {
                        position: node.position,
                        message: "a list or mapping stands where a key is expected".into(),
                        remedy: "keys are plain words; the rest of this document was not read",
                    });
                }
            },
            Value::Null | Value::Scalar { .. } => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Node {
        let (mut documents, faults) = parse(text, &Budget::default());
        assert_eq!(faults, []);
        assert_eq!(documents.len(), 1);
        documents.remove(0)
    }

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Value::Mapping(entries) = &node.value else { panic!("{node:?}") };
        &entries.iter().find(|entry| entry.key == key).unwrap().value
    }

    #[test]
    fn nodes_know_their_places() {
        let root = one("kind: Port\nspec:\n  ips: [10.0.1.10, \"fd00::1\"]\n");
        let ips = entry(entry(&root, "spec"), "ips");
        let Value::Sequence(items) = &ips.value else { panic!() };
        assert_eq!(items[1].position, Position { line: 3, column: 20 });
        assert_eq!(items[1].value, Value::Scalar { text: "fd00::1".into(), plain: false });
    }

    #[test]
    fn json_is_yaml() {
        let root =
            one("{\"kind\": \"Vpc\",\n\t\"spec\": {\"vni\": 7, \"cidrs\": [\"10.0.0.0/8\"], \"mtu\": null}}");
        assert_eq!(entry(entry(&root, "spec"), "vni").value, Value::Scalar { text: "7".into(), plain: true });
        assert_eq!(entry(entry(&root, "spec"), "mtu").value, Value::Null);
    }

    #[test]
    fn empty_documents_are_left_out_and_order_is_kept() {
        let (documents, faults) = parse("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n", &Budget::default());
        assert_eq!((documents.len(), faults.len()), (2, 0));
        assert_eq!(documents[1].position.line, 7);
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next() {
        let (documents, faults) =
            parse("a: [1\n---\nb: 2\n---\nc: {d: *nobody}\n---\ne: 3\n", &Budget::default());
        assert_eq!(documents.len(), 2, "{documents:?}");
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].message.contains("not valid YAML"));
    }

    #[test]
    fn repeated_keys_and_foreign_tags_are_reported_with_the_rest() {
        let (documents, faults) = parse("a: 1\na: 2\nb: !exec ls\n? [x]\n: 1\n", &Budget::default());
        assert_eq!(documents.len(), 0);
        let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert_eq!(faults[0].position, Position { line: 2, column: 1 });
    }

    #[test]
    fn an_alias_bomb_stops_at_the_budget() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..20 {
            let refs = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        let budget = Budget { nodes: 100_000, ..Budget::default() };
        let (documents, faults) = parse(&text, &budget);
        assert_eq!(documents.len(), 0);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].message.contains("more than 100000 values"), "{faults:?}");
    }

    #[test]
    fn deep_nesting_is_refused_directly_and_through_aliases() {
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let (documents, faults) = parse(&deep, &Budget::default());
        assert_eq!((documents.len(), faults.len()), (0, 1));
        let half = |inner: &str| format!("{}{inner}{}", "[".repeat(20), "]".repeat(20));
        let (documents, faults) =
            parse(&format!("a: &a {}\nb: {}\n", half("x"), half("*a")), &Budget::default());
        assert_eq!((documents.len(), faults.len()), (0, 1));
        assert!(faults[0].message.contains("deeper"));
    }

    #[test]
    fn an_alias_copies_its_value_at_its_own_place() {
        let root = one("a: &x {k: v}\nb: *x\n");
        assert_eq!(entry(entry(&root, "b"), "k"), entry(entry(&root, "a"), "k"));
        assert_eq!(entry(&root, "b").position.line, 2);
    }

    #[test]
    fn a_value_cannot_contain_itself() {
        let (documents, faults) = parse("a: &x [*x]\n", &Budget::default());
        assert_eq!((documents.len(), faults.len()), (0, 1));
    }
}
