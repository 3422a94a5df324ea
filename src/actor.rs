//! Actors: the JSON objects that say who a caller is.

pub mod header;

use std::fmt;
use std::io;

use serde::Serialize;
use serde_json::{Map, Value};

/// A JSON object that identifies the caller.  Members keep the order in which they were written.
#[derive(Clone, PartialEq)]
pub struct Actor {
    members: Map<String, Value>,
}

/// Why an object cannot be an actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActorError {
    /// Two members differ only in case: a reader that ignores case would see only one of them.
    #[error("members {0:?} and {1:?} differ only in case")]
    MembersDifferOnlyInCase(String, String),
    /// The id begins with `key:`, which is reserved for API keys.
    #[error("an id that begins with \"key:\" is reserved for API keys")]
    ReservedId,
    /// Lists and objects are nested too deep.
    #[error("lists and objects nest deeper than {MAX_NESTING} levels")]
    NestsTooDeep,
}

/// How deep lists and objects may be nested in an actor's member.  Envoy reads an answer whose messages
/// nest 100 levels at most, and each object in dynamic metadata takes three of them.
pub const MAX_NESTING: usize = 16;

impl Actor {
    /// An actor from the configuration.
    ///
    /// # Errors
    /// [`ActorError`]: members that differ only in case, an id that only an API key may have, or too much nesting.
    pub fn configured(members: Map<String, Value>) -> Result<Self, ActorError> {
        let mut folded = std::collections::HashMap::new();
        for name in members.keys() {
            if let Some(twin) = folded.insert(name.to_lowercase(), name) {
                return Err(ActorError::MembersDifferOnlyInCase(twin.clone(), name.clone()));
            }
        }
        if members.get("id").and_then(Value::as_str).is_some_and(|id| id.starts_with("key:")) {
            return Err(ActorError::ReservedId);
        }
        if nests_too_deep(&members) {
            return Err(ActorError::NestsTooDeep);
        }
        Ok(Self { members })
    }

    /// The actor of an API key.  Its own members never replace `id`, `name`, `role` and `key_id`.
    pub fn of_key(name: &str, role: &str, id: i64, own: &Map<String, Value>) -> Self {
        let mut members = Map::new();
        members.insert("id".to_owned(), Value::from(format!("key:{name}")));
        members.insert("name".to_owned(), Value::from(name));
        members.insert("role".to_owned(), Value::from(role));
        members.insert("key_id".to_owned(), Value::from(id));
        Self::with_own(members, own)
    }

    /// The actor of an API key of a service account: that of the account, and which key it is.  The account's own members
    /// never replace `id`, `name`, `role`, `key` and `key_id`.
    pub fn of_account_key(
        account: &str,
        role: &str,
        key: &str,
        key_id: i64,
        own: &Map<String, Value>,
    ) -> Self {
        let mut members = Map::new();
        members.insert("id".to_owned(), Value::from(format!("sa:{account}")));
        members.insert("name".to_owned(), Value::from(account));
        members.insert("role".to_owned(), Value::from(role));
        members.insert("key".to_owned(), Value::from(key));
        members.insert("key_id".to_owned(), Value::from(key_id));
        Self::with_own(members, own)
    }

    /// The actor of an API key of a person who has this actor: the person's actor, with the lower of the two roles of
    /// the person and the key, and with the key's id.  A key without a role has the role of the person.
    ///
    /// `None`: the key has a role, and the person's role is not one of Grafana's roles.
    pub fn of_own_key(&self, role: Option<&str>, key: &str, key_id: i64) -> Option<Self> {
        let mut members = self.members.clone();
        if let Some(role) = role {
            let theirs = members.get("role").and_then(Value::as_str);
            let rank = |role: &str| ["Viewer", "Editor", "Admin"].iter().position(|known| *known == role);
            let lower = match theirs {
                // A person without a role cannot give one.
                None => return None,
                Some(theirs) => {
                    if rank(theirs)? < rank(role)? {
                        theirs
                    } else {
                        role
                    }
                }
            };
            let lower = Value::from(lower);
            members.insert("role".to_owned(), lower);
        }
        members.insert("key".to_owned(), Value::from(key));
        members.insert("key_id".to_owned(), Value::from(key_id));
        Some(Self { members })
    }

    fn with_own(mut members: Map<String, Value>, own: &Map<String, Value>) -> Self {
        for (name, value) in own {
            members.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Self { members }
    }

    /// Whether it nests deeper than an answer may.  An API key of an older store can.
    pub fn nests_too_deep(&self) -> bool {
        nests_too_deep(&self.members)
    }

    /// The member of this name.
    pub fn member(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// Every member in its order.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// The member that a path such as `team.name` reaches.  A literal member `team.name` comes first.
    pub fn reach(&self, path: &str) -> Option<&Value> {
        reach(&self.members, path)
    }

    /// The whole actor as compact JSON in ASCII, members in their own order.
    pub fn to_ascii_json(&self) -> String {
        ascii_json(&self.members)
    }
}

/// An actor is not a secret, but it does not belong in a debug line: `Debug` shows only its size.
impl fmt::Debug for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Actor({} members)", self.members.len())
    }
}

/// Whether a member of an actor nests deeper than [`MAX_NESTING`].
pub fn nests_too_deep(members: &Map<String, Value>) -> bool {
    members.values().any(|value| nests_deeper_than(value, MAX_NESTING))
}

fn nests_deeper_than(value: &Value, levels: usize) -> bool {
    let inner_levels = levels.checked_sub(1);
    let is_deep = |inner: &Value| inner_levels.is_none_or(|levels| nests_deeper_than(inner, levels));
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        Value::Array(list) => inner_levels.is_none() || list.iter().any(is_deep),
        Value::Object(members) => inner_levels.is_none() || members.values().any(is_deep),
    }
}

/// The value that a path such as `team.name` reaches in an object.  A literal member `team.name` comes first.
pub fn reach<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    // Every dot may be where a member's name ends, since names may hold dots themselves.
    path.match_indices('.').find_map(|(dot, _)| {
        let inner = object.get(&path[..dot])?.as_object()?;
        reach(inner, &path[dot + 1..])
    })
}

/// Compact JSON with everything outside ASCII, and DEL, as `\u` escapes: legal as a header value.
pub fn ascii_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(128);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, AsciiFormatter);
    value.serialize(&mut serializer).expect("a JSON value serializes, and a Vec takes every byte");
    String::from_utf8(bytes).expect("the formatter writes ASCII")
}

struct AsciiFormatter;

impl serde_json::ser::Formatter for AsciiFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for character in fragment.chars() {
            if character.is_ascii() && character != '\x7f' {
                writer.write_all(&[character as u8])?;
                continue;
            }
            for unit in character.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn actor(json: &str) -> Actor {
        Actor::configured(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn json_is_compact_ascii_in_the_order_of_the_members() {
        let text = r#"{"z": 1, "a": "Zoë 🦀 \u007f \n\"", "list": [1.0, null, {"b": true}]}"#;
        assert_eq!(
            actor(text).to_ascii_json(),
            r#"{"z":1,"a":"Zo\u00eb \ud83e\udd80 \u007f \n\"","list":[1.0,null,{"b":true}]}"#
        );
    }

    #[test]
    fn a_path_reaches_into_objects_and_a_literal_member_comes_first() {
        let actor = actor(r#"{"a": {"b": {"c": 1}, "b.c": 2}, "x.y": 3, "x": {"y": 4}}"#);
        let reach = |path| actor.reach(path).and_then(Value::as_i64);
        assert_eq!(reach("a.b.c"), Some(2));
        assert_eq!(reach("x.y"), Some(3));
        assert_eq!(actor.reach("a.b.d"), None);
        assert_eq!(actor.reach("a."), None);
        assert_eq!(actor.reach(""), None);
    }

    #[test]
    fn what_cannot_be_an_actor() {
        let configured = |json| Actor::configured(serde_json::from_str(json).unwrap()).map(|_| ());
        assert_eq!(configured("{}"), Ok(()));
        assert_eq!(configured(r#"{"id": "key"}"#), Ok(()));
        assert_eq!(configured(r#"{"id": "key:x"}"#), Err(ActorError::ReservedId));
        let differ = ActorError::MembersDifferOnlyInCase("Id".to_owned(), "iD".to_owned());
        assert_eq!(configured(r#"{"Id": 1, "iD": 2}"#), Err(differ));
    }

    #[test]
    fn how_deep_an_actor_nests() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[1,{"b":2,"a":"#, "}]")] {
            let levels = open.matches(['[', '{']).count();
            let nested = |depth: usize, core: &str| {
                let depth = depth / levels;
                let json = format!(r#"{{"x": 1, "m": {}{core}{}}}"#, open.repeat(depth), close.repeat(depth));
                let members: Map<String, Value> = serde_json::from_str(&json).unwrap();
                assert_eq!(
                    nests_too_deep(&members),
                    Actor::of_key("k", "Viewer", 1, &members).nests_too_deep()
                );
                Actor::configured(members).map(|_| ())
            };
            assert_eq!(nested(16, "1"), Ok(()), "{open}");
            assert_eq!(nested(14, "[]"), Ok(()), "{open}");
            for too_deep in [18, 100] {
                assert_eq!(nested(too_deep, "1"), Err(ActorError::NestsTooDeep), "{open} {too_deep}");
            }
            assert_eq!(nested(16, "[]"), Err(ActorError::NestsTooDeep), "{open}");
        }
    }
}
