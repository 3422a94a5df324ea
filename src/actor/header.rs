//! The headers that tell the upstream about the actor.

use std::fmt::Write;

use serde_json::Value;

use super::{Actor, ascii_json};
use crate::attributes::NameLengthFilter;

/// The maximum size of an actor's headers together, names and values, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;

/// Up to this many names, comparing each costs less than hashing the one that is searched for.
const MAX_WITHOUT_HASHES: usize = 8;

/// One header that tells the upstream about the actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorHeader {
    /// The header's name: lower-case letters, digits and `-`.
    pub name: Box<str>,
    /// The part of the actor in the header.
    pub selector: Selector,
}

/// The part of an actor in a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// `"*"`: the whole actor as JSON.
    Whole,
    /// One member, or with dots a member of an object in it.
    Member(Box<str>),
}

impl ActorHeader {
    /// The header's value for this actor: printable ASCII, without blanks at either end.
    ///
    /// `None` without a value (null, absent, empty text, empty list): the header is removed.
    pub fn value(&self, actor: &Actor) -> Option<String> {
        let text = match &self.selector {
            Selector::Whole => actor.to_ascii_json(),
            Selector::Member(path) => member_text(actor.reach(path)?),
        };
        (!text.is_empty()).then_some(text)
    }
}

fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// The name as a lenient reader sees it: every byte except letters and digits is `-`, and case is ignored.
///
/// CGI and its descendants read `X_Actor`, `x.actor` and `x-actor` as one variable.
pub fn folds_onto(name: &[u8], actor_header: &str) -> bool {
    name.len() == actor_header.len()
        && name.iter().zip(actor_header.bytes()).all(|(&a, b)| fold(a) == fold(b))
}

/// The actor headers in their order, and a way to find the one that a header's name folds onto.
#[derive(Debug, Clone)]
pub struct ActorHeaders {
    headers: Box<[ActorHeader]>,
    lengths: NameLengthFilter,
    /// The folded names' hashes in order, each with its header's index.
    by_hash: Box<[(u64, usize)]>,
}

impl From<Vec<ActorHeader>> for ActorHeaders {
    fn from(headers: Vec<ActorHeader>) -> Self {
        let lengths = NameLengthFilter::of(headers.iter().map(|header| header.name.as_bytes()));
        let hashes = headers.iter().map(|header| folded_hash(header.name.as_bytes())).zip(0..);
        let mut by_hash: Box<[_]> = hashes.collect();
        by_hash.sort_unstable();
        Self { headers: headers.into(), lengths, by_hash }
    }
}

impl std::ops::Deref for ActorHeaders {
    type Target = [ActorHeader];

    fn deref(&self) -> &[ActorHeader] {
        &self.headers
    }
}

impl ActorHeaders {
    /// Each header with its value for this actor; `None` removes it.  Without an actor every header is removed.
    pub fn values(&self, actor: Option<&Actor>) -> impl Iterator<Item = (&str, Option<String>)> {
        self.headers.iter().map(move |header| (&*header.name, actor.and_then(|actor| header.value(actor))))
    }

    /// Whether the headers that are set fit into [`MAX_BYTES`].
    pub fn fit(&self, actor: &Actor) -> bool {
        let size = |(name, value): (&str, Option<String>)| value.map_or(0, |value| name.len() + value.len());
        self.values(Some(actor)).map(size).sum::<usize>() <= MAX_BYTES
    }

    /// The lengths of their names.
    pub fn lengths(&self) -> NameLengthFilter {
        self.lengths
    }

    /// The one that a name folds onto ([`folds_onto`]): of many, by its length and one hash.
    pub fn find_folded(&self, name: &[u8]) -> Option<&ActorHeader> {
        if !self.lengths.may_contain(name.len()) {
            return None;
        }
        if self.headers.len() <= MAX_WITHOUT_HASHES {
            return self.headers.iter().find(|header| folds_onto(name, &header.name));
        }
        let hash = folded_hash(name);
        let start = self.by_hash.partition_point(|(held, _)| *held < hash);
        let same_hash = self.by_hash[start..].iter().take_while(|(held, _)| *held == hash);
        same_hash.map(|(_, index)| &self.headers[*index]).find(|header| folds_onto(name, &header.name))
    }
}

/// FNV-1a of the folded name.
fn folded_hash(name: &[u8]) -> u64 {
    name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(fold(byte))).wrapping_mul(0x0100_0000_01b3)
    })
}

fn member_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => scalar_text(value),
        Value::Array(list) if list.iter().all(is_scalar) => {
            list.iter().map(scalar_text).collect::<Vec<_>>().join(",")
        }
        Value::Array(_) | Value::Object(_) => ascii_json(value),
    }
}

/// A null has no text, so a list that contains one is written as JSON.
fn is_scalar(value: &Value) -> bool {
    matches!(value, Value::Bool(_) | Value::Number(_) | Value::String(_))
}

fn scalar_text(value: &Value) -> String {
    match value {
        Value::String(text) => percent_encode(text),
        other => other.to_string(),
    }
}

/// Percent-encodes `%`, `,`, everything outside printable ASCII, and blanks at either end,
/// so that no value can look like another.
fn percent_encode(text: &str) -> String {
    let inner = text.trim_matches(' ');
    let start = text.len() - text.trim_start_matches(' ').len();
    let end = start + inner.len();
    let mut encoded = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let outer_blank = byte == b' ' && !(start..end).contains(&index);
        if matches!(byte, b' '..=b'~') && byte != b'%' && byte != b',' && !outer_blank {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes every character");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::tests::actor;
    use super::*;

    #[test]
    fn the_text_of_a_member() {
        let cases: &[(&str, Option<&str>)] = &[
            (r#""alice""#, Some("alice")),
            (r#""a b""#, Some("a b")),
            (r#"" a b ""#, Some("%20a b%20")),
            (r#""  ""#, Some("%20%20")),
            (r#""100%,""#, Some("100%25%2C")),
            (r#""Zoë""#, Some("Zo%C3%AB")),
            (r#""a\r\nx-evil: 1""#, Some("a%0D%0Ax-evil: 1")),
            (r#""\u007f\u0000""#, Some("%7F%00")),
            (r#""\t""#, Some("%09")),
            ("1", Some("1")),
            ("1.5", Some("1.5")),
            ("-3", Some("-3")),
            ("true", Some("true")),
            ("false", Some("false")),
            ("null", None),
            (r#""""#, None),
            ("[]", None),
            (r#"[""]"#, None),
            (r#"["a", "b,c", 1, true]"#, Some("a,b%2Cc,1,true")),
            (r#"["a", null]"#, Some(r#"["a",null]"#)),
            (r#"["ë", ["b"]]"#, Some(r#"["\u00eb",["b"]]"#)),
            (r#"{"b": "ë"}"#, Some(r#"{"b":"\u00eb"}"#)),
            ("{}", Some("{}")),
        ];
        for (json, expected) in cases {
            let header = ActorHeader { name: "x-actor-m".into(), selector: Selector::Member("m".into()) };
            let found = header.value(&actor(&format!(r#"{{"m": {json}}}"#)));
            assert_eq!(found.as_deref(), *expected, "{json}");
        }
    }

    #[test]
    fn the_whole_actor_and_an_absent_member() {
        let whole = ActorHeader { name: "x-actor".into(), selector: Selector::Whole };
        assert_eq!(whole.value(&actor("{}")).as_deref(), Some("{}"));
        assert_eq!(whole.value(&actor(r#"{"bot_id": "my-bot"}"#)).as_deref(), Some(r#"{"bot_id":"my-bot"}"#));
        let absent = ActorHeader { name: "x-actor-id".into(), selector: Selector::Member("id".into()) };
        assert_eq!(absent.value(&actor("{}")), None);
    }

    #[test]
    fn names_that_fold_onto_an_actor_header() {
        for name in ["x-actor-id", "X-Actor-Id", "x_actor_id", "x.actor.id", "x!ACTOR~id"] {
            assert!(folds_onto(name.as_bytes(), "x-actor-id"), "{name}");
        }
        for name in ["x-actor", "x-actor-id2", "xxactor-id", "x-actor-i0"] {
            assert!(!folds_onto(name.as_bytes(), "x-actor-id"), "{name}");
        }
    }

    #[test]
    fn a_name_finds_the_header_that_it_folds_onto() {
        let member = |name: String| ActorHeader { name: name.into(), selector: Selector::Whole };
        let headers =
            ActorHeaders::from((0..32).map(|index| member(format!("x-actor-{index}"))).collect::<Vec<_>>());
        for header in headers.iter() {
            for name in [header.name.to_uppercase(), header.name.replace('-', "_"), header.name.to_string()] {
                assert_eq!(headers.find_folded(name.as_bytes()), Some(header), "{name}");
            }
        }
        for name in ["", "x-actor-32", "x-actor-0x", "x--ctor-0"] {
            assert_eq!(headers.find_folded(name.as_bytes()), None, "{name}");
        }
    }
}
