//! YAML as policy files use it: a tree with the place of every value, read under a tight budget, one document at a time.
//!
//! Deliberately less than YAML: no tags, no merge keys, no keys that are not text. Scalars stay the text that was written, so that a
//! label called `no` or `1e3` is not turned into something else; a field that wants a number or a yes-or-no reads it itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span, StrInput, Tag};

/// Longest text that is read.
pub(crate) const MAX_BYTES: usize = 8 << 20;
/// Most documents in one text.
pub(crate) const MAX_DOCUMENTS: usize = 20_000;
/// Most values in one document, those that an alias repeats included.
const MAX_NODES: usize = 500_000;
/// Most values that the aliases of one document may repeat.
const MAX_REPEATED: usize = 20_000;
/// Deepest nesting.
const MAX_DEPTH: usize = 32;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) value: Content<'t>,
    pub(crate) place: Place,
}

#[derive(Clone, Debug)]
pub(crate) enum Content<'t> {
    Null,
    /// Text as written; `plain` is without quotes.
    Text {
        text: Cow<'t, str>,
        plain: bool,
    },
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) place: Place,
    pub(crate) node: Node<'t>,
}

impl Node<'_> {
    /// What a person calls it.
    pub(crate) const fn what(&self) -> &'static str {
        match self.value {
            Content::Null => "nothing",
            Content::Text { .. } => "text",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }

    /// Whether it says nothing: null, an empty list or map.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Content::Null => true,
            Content::Text { .. } => false,
            Content::List(list) => list.is_empty(),
            Content::Map(map) => map.is_empty(),
        }
    }

    /// This and everything below it, counted.
    fn weight(&self) -> usize {
        1 + match &self.value {
            Content::Null | Content::Text { .. } => 0,
            Content::List(list) => list.iter().map(Node::weight).sum(),
            Content::Map(map) => map.iter().map(|entry| 1 + entry.node.weight()).sum(),
        }
    }

    fn depth(&self) -> usize {
        match &self.value {
            Content::Null | Content::Text { .. } => 0,
            Content::List(list) => 1 + list.iter().map(Node::depth).max().unwrap_or(0),
            Content::Map(map) => 1 + map.iter().map(|entry| entry.node.depth()).max().unwrap_or(0),
        }
    }
}

/// Why a document could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct Unreadable {
    pub(crate) problem: String,
    pub(crate) place: Place,
}

fn unreadable(problem: impl Into<String>, place: Place) -> Unreadable {
    Unreadable {
        problem: problem.into(),
        place,
    }
}

fn place(mark: &granit_parser::Marker) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Place {
        line: number(mark.line()),
        column: number(mark.col().saturating_add(1)),
    }
}

/// A collection that is being read.
struct Frame<'t> {
    anchor: usize,
    place: Place,
    list: Vec<Node<'t>>,
    map: Vec<Entry<'t>>,
    /// `Some` for a map.
    keys: Option<BTreeMap<Cow<'t, str>, Place>>,
    key: Option<(Cow<'t, str>, Place)>,
}

/// Reads one document after the other.
pub(crate) struct Documents<'t> {
    parser: Parser<'t, StrInput<'t>>,
    stack: Vec<Frame<'t>>,
    anchors: BTreeMap<usize, Node<'t>>,
    root: Option<Node<'t>>,
    nodes: usize,
    repeated: usize,
    count: usize,
    over: bool,
}

impl<'t> Documents<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
            max_buffered_comment_events: 64usize,
        };
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            stack: Vec::new(),
            anchors: BTreeMap::new(),
            root: None,
            nodes: 0,
            repeated: 0,
            count: 0,
            over: false,
        }
    }

    /// Forgets what was read of this document.
    fn reset(&mut self) {
        self.stack.clear();
        self.anchors.clear();
        self.root = None;
        self.nodes = 0;
        self.repeated = 0;
    }

    /// Reads up to the end of a document. `Ok(None)`: the text ends here.
    fn document(&mut self) -> Result<Option<Node<'t>>, Unreadable> {
        self.reset();
        while let Some(event) = self.parser.next_event() {
            let (event, span) = event.map_err(|error| unreadable(error.info(), place(error.marker())))?;
            let at = place(&span.start);
            match event {
                Event::StreamEnd => return Ok(None),
                Event::DocumentEnd => return Ok(self.root.take().or_else(|| Some(null(at)))),
                event => self.event(event, &span, at)?,
            }
        }
        Ok(None)
    }

    fn event(&mut self, event: Event<'t>, span: &Span, at: Place) -> Result<(), Unreadable> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.tagged(tag.as_deref(), at)?;
                self.grow(1, at)?;
                let plain = style == ScalarStyle::Plain;
                let value = if plain && matches!(text.as_ref(), "" | "~" | "null" | "Null" | "NULL") {
                    Content::Null
                } else {
                    Content::Text { text, plain }
                };
                self.put(Node { value, place: at }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tagged(tag.as_deref(), at)?;
                self.open(anchor, at, None)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tagged(tag.as_deref(), at)?;
                self.open(anchor, at, Some(BTreeMap::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(frame) = self.stack.pop() else {
                    return Err(unreadable("a collection ends that was not begun", at));
                };
                let value = if frame.keys.is_some() {
                    Content::Map(frame.map)
                } else {
                    Content::List(frame.list)
                };
                self.put(
                    Node {
                        value,
                        place: frame.place,
                    },
                    frame.anchor,
                )
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(unreadable("an alias of something that is not finished", at));
                };
                let weight = node.weight();
                self.repeated = self.repeated.saturating_add(weight);
                if self.repeated > MAX_REPEATED {
                    return Err(unreadable(
                        format!("aliases repeat more than {MAX_REPEATED} values"),
                        at,
                    ));
                }
                if self.stack.len() + node.depth() > MAX_DEPTH {
                    return Err(unreadable(format!("deeper than {MAX_DEPTH} levels"), at));
                }
                self.grow(weight, at)?;
                self.put(node, 0)
            }
            Event::UnresolvedAlias(name) => Err(unreadable(format!("there is no anchor '{name}'"), at)),
            // Start of the text and of a document, comments: nothing to keep.
            _ => {
                let _ = span;
                Ok(())
            }
        }
    }

    /// Only the tags of what YAML would have found out itself pass.
    fn tagged(&self, tag: Option<&Tag>, at: Place) -> Result<(), Unreadable> {
        match tag {
            Some(tag) if !matches!(tag.core_suffix(), Some("str" | "seq" | "map")) => Err(unreadable(
                format!("the tag '{}' is not read", tag.original()),
                at,
            )),
            _ => Ok(()),
        }
    }

    fn grow(&mut self, by: usize, at: Place) -> Result<(), Unreadable> {
        self.nodes = self.nodes.saturating_add(by);
        if self.nodes > MAX_NODES {
            return Err(unreadable(format!("more than {MAX_NODES} values"), at));
        }
        Ok(())
    }

    fn open(
        &mut self,
        anchor: usize,
        at: Place,
        keys: Option<BTreeMap<Cow<'t, str>, Place>>,
    ) -> Result<(), Unreadable> {
        self.grow(1, at)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(unreadable(format!("deeper than {MAX_DEPTH} levels"), at));
        }
        self.stack.push(Frame {
            anchor,
            place: at,
            list: Vec::new(),
            map: Vec::new(),
            keys,
            key: None,
        });
        Ok(())
    }

    /// A finished value goes where it belongs.
    fn put(&mut self, node: Node<'t>, anchor: usize) -> Result<(), Unreadable> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let Some(keys) = &mut frame.keys else {
            frame.list.push(node);
            return Ok(());
        };
        if let Some((key, place)) = frame.key.take() {
            frame.map.push(Entry { key, place, node });
            return Ok(());
        }
        let key = match node.value {
            Content::Text { text, plain } if plain && text == "<<" => {
                return Err(unreadable(
                    format!("merge keys ('{text}') are not read"),
                    node.place,
                ));
            }
            Content::Text { text, .. } => text,
            Content::Null => Cow::Borrowed(""),
            Content::List(_) | Content::Map(_) => {
                return Err(unreadable("a key must be text", node.place));
            }
        };
        if let Some(first) = keys.insert(key.clone(), node.place) {
            return Err(unreadable(
                format!("the key '{key}' is there twice, first in line {}", first.line),
                node.place,
            ));
        }
        frame.key = Some((key, node.place));
        Ok(())
    }
}

fn null<'t>(place: Place) -> Node<'t> {
    Node {
        value: Content::Null,
        place,
    }
}

impl<'t> Iterator for Documents<'t> {
    type Item = Result<Node<'t>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        self.count += 1;
        if self.count > MAX_DOCUMENTS {
            self.over = true;
            return Some(Err(unreadable(
                format!("more than {MAX_DOCUMENTS} documents"),
                Place::default(),
            )));
        }
        match self.document() {
            Ok(Some(node)) => Some(Ok(node)),
            Ok(None) => {
                self.over = true;
                None
            }
            Err(error) => {
                // The documents behind it are still to be had, unless the input itself has ended.
                self.over = !matches!(self.parser.proceed_next_document(), Ok(true));
                Some(Err(error))
            }
        }
    }
}

/// Writes documents with `---` between them. What could be read as anything but text is quoted, also for readers of YAML 1.1.
pub(crate) fn write(documents: &[Value]) -> String {
    let mut out = String::new();
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            out.push_str("---\n");
        }
        block(&mut out, document, 0);
    }
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 || indent == 0 {
                    pad(out, indent);
                }
                scalar(out, key);
                out.push(':');
                nested(out, value, indent + 2);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    pad(out, indent);
                }
                out.push_str("- ");
                block(out, value, indent + 2);
            }
        }
        _ => {
            leaf(out, value);
            out.push('\n');
        }
    }
}

/// A value behind `key:`.
fn nested(out: &mut String, value: &Value, indent: usize) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if is_block {
        out.push('\n');
        pad(out, indent);
        block(out, value, indent);
    } else {
        out.push(' ');
        leaf(out, value);
        out.push('\n');
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn leaf(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => scalar(out, text),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Words that some reader of YAML takes for something else.
const WORDS: [&str; 11] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf",
];

fn scalar(out: &mut String, text: &str) {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    if plain {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        let hidden = c.is_control()
            || matches!(c, '\u{85}' | '\u{a0}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if hidden => {
                let _ = write!(out, "\\U{:08X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value(node: &Node<'_>) -> Value {
        match &node.value {
            Content::Null => Value::Null,
            Content::Text { text, .. } => Value::String(text.clone().into_owned()),
            Content::List(list) => Value::Array(list.iter().map(value).collect()),
            Content::Map(map) => Value::Object(
                map.iter()
                    .map(|entry| (entry.key.clone().into_owned(), value(&entry.node)))
                    .collect(),
            ),
        }
    }

    fn read(text: &str) -> Vec<Result<Value, Unreadable>> {
        Documents::new(text)
            .map(|document| document.map(|node| value(&node)))
            .collect()
    }

    #[test]
    fn words_and_numbers_stay_what_was_written() {
        assert_eq!(
            read("no: 1e3\nyes: 0o17\nNO: \"~\"\nempty:\n"),
            [Ok(json!({"no": "1e3", "yes": "0o17", "NO": "~", "empty": null}))]
        );
        assert_eq!(read("\u{feff}a: b\n"), [Ok(json!({"a": "b"}))]);
    }

    #[test]
    fn what_is_not_read_says_where() {
        for (text, words, line, column) in [
            ("a: 1\nb: 2\na: 3\n", "'a' is there twice, first in line 1", 3, 1),
            ("a: &x {b: c}\nd:\n  <<: *x\n", "merge keys", 3, 3),
            ("a: !!binary aGk=\n", "tag", 1, 13),
            ("a: !secret b\n", "tag", 1, 12),
            ("? [a, b]\n: c\n", "key must be text", 1, 3),
            ("a: [1, 2\n", "", 1, 4),
            ("a:\n\t- b\n", "tabs", 2, 2),
            ("a: *nobody\n", "", 1, 4),
        ] {
            let documents = read(text);
            let error = documents[0].as_ref().unwrap_err();
            assert!(error.problem.contains(words), "{text:?}: {error}");
            assert_eq!(
                (error.place.line, error.place.column),
                (line, column),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn what_follows_a_bad_document_is_read() {
        let documents = read("a: 1\n---\nb: [\n---\na: 1\na: 2\n---\nc: 3\n");
        assert_eq!(documents.len(), 4);
        assert_eq!(documents[0], Ok(json!({"a": "1"})));
        assert!(documents[1].is_err() && documents[2].is_err());
        assert_eq!(documents[3], Ok(json!({"c": "3"})));
    }

    #[test]
    fn writing_quotes_what_others_would_misread() {
        let text = write(&[
            json!({"a": "no", "b": "1e3", "c": ["x", {"d": []}], "e": "plain", "f": "a: b # c", "g": true, "h": "\u{1b}[0m"}),
        ]);
        assert_eq!(
            text,
            "a: \"no\"\nb: \"1e3\"\nc:\n  - x\n  - d: []\ne: plain\nf: \"a: b # c\"\ng: true\nh: \"\\U0000001B[0m\"\n"
        );
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<String>().prop_map(Value::String), Just(Value::Null)];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                proptest::collection::btree_map("[ -~]{0,8}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn what_is_written_is_read_back(documents in proptest::collection::vec(tree(), 1..4)) {
            let text = write(&documents);
            let back: Result<Vec<_>, _> = read(&text).into_iter().collect();
            prop_assert_eq!(back, Ok(documents), "{}", text);
        }

        #[test]
        fn text_never_panics(text in "[a-c:&*{}\\[\\]?!|>\"' \n\t#,<-]{0,60}") {
            let _ = read(&text);
        }
    }
}
