//! The syntax tree of a file: values with their locations.
//!
//! Nothing is interpreted here.  Duplicate keys reach the tree, so that they are reported with all other problems.  Only
//! a text that is neither YAML nor JSON is an error of this module.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use zeroize::Zeroizing;

use super::syntax::{MAX_DEPTH, MAX_REPEATED, MAX_VALUES, SyntaxError};

/// A value and its location.
pub struct Node {
    /// The location.
    pub at: Location,
    /// The value.
    pub value: Value,
}

/// A value of JSON, or a secret reference that cannot be resolved.
pub enum Value {
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A finite number.
    Number(Number),
    /// A text, from the file or from a secret reference.
    Text(Text),
    /// A list.
    List(Vec<Node>),
    /// A mapping, its entries in their order, duplicates included.
    Map(Vec<Entry>),
    /// A secret reference that cannot be resolved.
    Unresolved {
        /// The reason.
        why: String,
        /// The mapping in the file.
        written: Box<[Entry]>,
    },
}

/// One entry of a mapping.
pub struct Entry {
    /// The key.
    pub key: Box<str>,
    /// The key's location.
    pub at: Location,
    /// The value.
    pub value: Node,
}

/// A text.  It may be a secret, so its memory is wiped when it is dropped.
pub struct Text {
    text: Zeroizing<String>,
    reference: Option<Box<[Entry]>>,
}

impl Text {
    /// A text of the file.
    pub fn written(text: String) -> Self {
        Self { text: Zeroizing::new(text), reference: None }
    }

    /// The text that a secret reference resolved to, with the mapping in the file.
    pub fn referred(text: Zeroizing<String>, reference: Box<[Entry]>) -> Self {
        Self { text, reference: Some(reference) }
    }

    /// The text itself.  It may be a secret: the caller must not show it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The mapping of the secret reference; `None` for a text of the file.
    pub fn reference(&self) -> Option<&[Entry]> {
        self.reference.as_deref()
    }
}

impl Value {
    /// The kind of value, for messages such as "found a list".
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing (null)",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Unresolved { .. } => "a secret reference",
        }
    }
}

impl Node {
    /// The value as JSON.  An unresolved reference, which is an error already, is null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null | Value::Unresolved { .. } => serde_json::Value::Null,
            Value::Bool(value) => serde_json::Value::Bool(*value),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => serde_json::Value::String(text.as_str().to_owned()),
            Value::List(list) => list.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(to_members(entries)),
        }
    }
}

/// The entries as the members of a JSON object, in their order.
pub fn to_members(entries: &[Entry]) -> serde_json::Map<String, serde_json::Value> {
    entries.iter().map(|entry| (entry.key.to_string(), entry.value.to_json())).collect()
}

/// A location in the file.
#[derive(Clone, Copy)]
pub struct Location {
    /// The line, from 1; 0 when it is not known.
    pub line: u32,
    /// The column, in characters from 1.
    pub column: u32,
    /// The byte offset of the value, or of the alias in its place.
    pub offset: u32,
    start: u32,
    end: u32,
}

impl Location {
    /// The location of everything that is read without positions.
    const UNKNOWN: Self = Self { line: 0, column: 0, offset: 0, start: 0, end: 0 };

    /// The byte range of the scalar itself, at its anchor if it has one.
    pub fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn of<T>(spanned: &Spanned<T>) -> Self {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let used = spanned.referenced;
        let defined = spanned.defined.span();
        let start = defined.byte_offset().unwrap_or(0);
        Self {
            line: narrow(used.line()),
            column: narrow(used.column()),
            offset: narrow(used.span().byte_offset().unwrap_or(0)),
            start: narrow(start),
            end: narrow(start + defined.byte_len().unwrap_or(0)),
        }
    }
}

/// Whether the text looks like JSON: its first character that is not a blank is `{` or `[`.
pub fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Reads JSON, several times faster than YAML, without positions.
///
/// # Errors
/// It is not JSON.  It may be YAML.
pub fn from_json(text: &str) -> Result<Node, serde_json::Error> {
    serde_json::from_str::<Content<WithoutPositions>>(text).map(Node::from)
}

/// Reads one YAML 1.2 document without positions, which takes half the time of [`from_yaml`].
///
/// # Errors
/// As [`from_yaml`]; a syntax error has its position here, too.
pub fn from_yaml_without_positions(text: &str) -> Result<Node, SyntaxError> {
    parse_yaml::<WithoutPositions>(text)
}

/// Reads one YAML 1.2 document with positions.
///
/// # Errors
/// [`SyntaxError`]: it is not YAML, or uses a part of YAML that configurations do not support: application tags, several
/// documents, keys that are not text, more than [`MAX_VALUES`] values.
pub fn from_yaml(text: &str) -> Result<Node, SyntaxError> {
    parse_yaml::<WithPositions>(text)
}

fn parse_yaml<M: PositionMode>(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // Its snippets show neighbouring lines, in which secrets may stand.
        with_snippet: false,
        emit_comments: false,
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::AsOrdinary,
        strict_booleans: true,
        reject_unsupported_tags: true,
        // YAML 1.2 calls these numbers, but people take them for names: they stay text.
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_nodes: MAX_VALUES,
            max_events: 4 * MAX_VALUES,
            max_total_scalar_bytes: 1 << 30,
        },
    };
    serde_saphyr::from_str_with_options::<M::Value>(text, options)
        .map(Into::into)
        .map_err(|error| SyntaxError::new(&error))
}

/// Whether values are read with their positions.
trait PositionMode {
    type Value: DeserializeOwned + Into<Node>;
    type Key: DeserializeOwned + Into<EntryKey>;
}

/// JSON: no positions.
struct WithoutPositions;

impl PositionMode for WithoutPositions {
    type Value = Content<Self>;
    type Key = String;
}

/// YAML: every value and every key with its position.
struct WithPositions;

impl PositionMode for WithPositions {
    type Value = Spanned<Content<Self>>;
    type Key = Spanned<String>;
}

struct Content<M>(Value, PhantomData<M>);

struct EntryKey(String, Location);

impl From<String> for EntryKey {
    fn from(text: String) -> Self {
        Self(text, Location::UNKNOWN)
    }
}

impl From<Spanned<String>> for EntryKey {
    fn from(spanned: Spanned<String>) -> Self {
        let at = Location::of(&spanned);
        Self(spanned.value, at)
    }
}

impl From<Content<WithoutPositions>> for Node {
    fn from(content: Content<WithoutPositions>) -> Self {
        Self { at: Location::UNKNOWN, value: content.0 }
    }
}

impl From<Spanned<Content<WithPositions>>> for Node {
    fn from(spanned: Spanned<Content<WithPositions>>) -> Self {
        Self { at: Location::of(&spanned), value: spanned.value.0 }
    }
}

impl<'de, M: PositionMode> Deserialize<'de> for Content<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor(PhantomData))
    }
}

struct ContentVisitor<M>(PhantomData<M>);

impl<M> ContentVisitor<M> {
    fn content<E>(value: Value) -> Result<Content<M>, E> {
        Ok(Content(value, PhantomData))
    }
}

impl<'de, M: PositionMode> Visitor<'de> for ContentVisitor<M> {
    type Value = Content<M>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Self::content(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Self::content(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Self::content(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Self::content(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("not finite"))?;
        Self::content(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Self::content(Value::Text(Text::written(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Self::content(Value::Text(Text::written(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element::<M::Value>()? {
            list.push(element.into());
        }
        Self::content(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = members.next_key::<M::Key>()? {
            let EntryKey(key, at) = key.into();
            let value = members.next_value::<M::Value>()?.into();
            entries.push(Entry { key: key.into(), at, value });
        }
        Self::content(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line, each value with its line, column and bytes.
    fn describe(node: &Node) -> String {
        let Location { line, column, .. } = node.at;
        let span = node.at.span();
        let place = format!("{line}:{column} {}-{}", span.start, span.end);
        match &node.value {
            Value::List(list) => {
                let list: Vec<_> = list.iter().map(describe).collect();
                format!("{place} [{}]", list.join(", "))
            }
            Value::Map(entries) => {
                let describe = |entry: &Entry| {
                    format!(
                        "{} at {}:{}: {}",
                        entry.key,
                        entry.at.line,
                        entry.at.column,
                        describe(&entry.value)
                    )
                };
                let entries: Vec<_> = entries.iter().map(describe).collect();
                format!("{place} {{{}}}", entries.join(", "))
            }
            _ => format!("{place} {}", node.to_json()),
        }
    }

    fn yaml(text: &str) -> String {
        match from_yaml(text) {
            Ok(node) => describe(&node),
            Err(error) => format!("{}:{}: {}", error.line, error.column, error.message),
        }
    }

    #[test]
    fn every_value_has_its_place() {
        let cases = [
            ("", "1:1 0-0 null"),
            ("a: 1", "1:1 0-0 {a at 1:1: 1:4 3-4 1}"),
            ("ä: \"x\\ty\" # z", "1:1 0-0 {ä at 1:1: 1:4 4-10 \"x\\ty\"}"),
            (
                "- yes\n- 007\n- 1_0\n- ~",
                "1:1 0-0 [1:3 2-5 \"yes\", 2:3 8-11 \"007\", 3:3 14-17 \"1_0\", 4:3 20-21 null]",
            ),
            ("a: |\n  x\n  y\n", "1:1 0-0 {a at 1:1: 2:3 7-13 \"x\\ny\\n\"}"),
            ("a: &x secret\nb: *x", "1:1 0-0 {a at 1:1: 1:7 6-12 \"secret\", b at 2:1: 2:4 6-12 \"secret\"}"),
            ("a: 1\na: 2", "1:1 0-0 {a at 1:1: 1:4 3-4 1, a at 2:1: 2:4 8-9 2}"),
            ("<<: {a: 1}", "1:1 0-0 {<< at 1:1: 1:5 4-5 {a at 1:6: 1:9 8-9 1}}"),
        ];
        for (text, expected) in cases {
            assert_eq!(yaml(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_yaml_is_said_in_words_of_our_own() {
        let cases = [
            (
                "a: b: hunter2",
                "1:5: a `:` where a key is not possible; put text that contains `: ` in quotes",
            ),
            (
                "a: !hunter2 x",
                "1:13: tags (`!name`) are not supported; a secret reference is {$env: NAME} or {$file: PATH}",
            ),
            (
                "a: *hunter2",
                "1:4: an alias (`*name`) without an anchor (`&name`); put text that begins with `*` in quotes",
            ),
            ("a: &x [*x]", "1:8: an alias is inside its own anchor"),
            ("a: .inf", "1:4: a number must be finite; put it in quotes if it is a text"),
            ("a: 1\n---\nb: 2", "3:1: a second document begins here; a configuration is one document"),
            ("~: 1", "1:1: a key is expected; found nothing (null)"),
            ("? [hunter2]\n: 1", "1:3: a key is text; found a list or a mapping"),
        ];
        for (text, expected) in cases {
            assert_eq!(yaml(text), expected, "{text:?}");
        }
        let deep = yaml(&format!("{}{}", "[".repeat(100), "]".repeat(100)));
        assert!(deep.contains("too large or too deep"), "{deep}");
    }

    #[test]
    fn json_gives_the_same_values_as_yaml() {
        let text = r#"{"a": [1, -2, 1.5, true, null, "x\u00eb"], "b": {"c": {}, "c": 1}}"#;
        let json = from_json(text).ok().unwrap();
        let yaml = from_yaml(text).ok().unwrap();
        assert_eq!(json.to_json(), yaml.to_json());
        assert!(looks_like_json(text) && looks_like_json("\n [") && !looks_like_json("a: {}"));
    }

    #[test]
    fn an_alias_bomb_is_stopped() {
        let mut text = "a0: &a0 [x, x]\n".to_owned();
        for level in 1..40 {
            text.push_str(&format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
        }
        assert!(yaml(&text).contains("too large or too deep"), "{}", yaml(&text));
    }
}
