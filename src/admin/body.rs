//! JSON bodies: the extractor and response [`Json`], the extractor [`JsonLines`], and how a request's body is read.
//!
//! A body is read member by member, so that an error can name the member at fault.  Member names compare as in Go,
//! which Grafana is written in: without regard to ASCII case.  Go's decoder also takes `ſ` for `s` and the Kelvin sign
//! for `k`, and the last of two members with one name.  Both let one body mean two things to two readers, so both are
//! errors here.  In bodies that Grafana has too, members of other names are ignored, as Grafana does: its clients send more
//! than is known here.  A name that is nearly a known one is a misspelling, and an error everywhere.

use std::collections::HashSet;
use std::fmt;

use axum::body::to_bytes;
use axum::extract::{FromRequest, OptionalFromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use utoipa::ToSchema;

use super::error::{ApiError, InvalidKind};
use super::{MAX_BODY_BYTES, MAX_LINES_BYTES};
use crate::config::nearest;

/// A JSON body.  As an extractor it takes a [`RequestBody`], or `Option<Json<…>>` where the body may be empty; as a
/// response it takes whatever serde can serialize.
pub(super) struct Json<T>(pub T);

/// A response with only a message.
#[derive(Serialize, ToSchema)]
pub(super) struct Message {
    pub message: &'static str,
}

/// The type of a request's body.
pub(super) trait RequestBody: Sized {
    /// The names of its members.
    const MEMBERS: &'static [&'static str];
    /// Whether every member of another name is an error.  Not where Grafana takes the same body: its clients send more
    /// members than are known here.  A name that resembles a known one is an error in any case.
    const IS_STRICT: bool = false;

    /// Reads the members.
    ///
    /// # Errors
    /// 400, which names the member at fault.
    fn read(members: &mut Members) -> Result<Self, ApiError>;
}

impl<T: RequestBody, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    /// # Errors
    /// 415 when `Content-Type` is another type, 413 when the body is too large, 400 when it is empty or invalid.
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        // An empty body needs no Content-Type; one that is there must be right all the same.
        let types = request.headers();
        let has_wrong_type = types.contains_key(CONTENT_TYPE) && !is_json(types);
        match read_body(request).await? {
            Some(body) => Ok(Self(body)),
            None if has_wrong_type => Err(ApiError::NotJson),
            None => Err(ApiError::Malformed),
        }
    }
}

impl<T: RequestBody, S: Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Option<Self>, ApiError> {
        Ok(read_body(request).await?.map(Self))
    }
}

/// A body of many lines, each a JSON object (`application/x-ndjson`).
pub(super) struct JsonLines<T>(pub Vec<T>);

/// How much of an unknown name an answer repeats.
const SHOWN_CHARACTERS: usize = 60;
/// The most lines of a body.
const MAX_LINES: usize = 1000;
/// How many lines are read before other work on the thread gets its turn.
const LINES_AT_ONCE: usize = 25;

impl<T: RequestBody + Send, S: Sync> FromRequest<S> for JsonLines<T> {
    type Rejection = ApiError;

    /// # Errors
    /// 415 when `Content-Type` is another type, 413 when the body is too large, 400 when it has no line, too many, or one
    /// that is invalid.
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !has_media_type(&parts.headers, "application/x-ndjson") {
            return Err(ApiError::NotJsonLines);
        }
        let bytes = to_bytes(body, MAX_LINES_BYTES).await.map_err(|_| ApiError::BodyTooLarge)?;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let invalid = |problem| ApiError::invalid(InvalidKind::Lines, "lines", problem);
        if text.is_empty() {
            return Err(invalid("expected a line for each key".to_owned()));
        }
        let lines = text.split(|byte| *byte == b'\n');
        let mut read = Vec::new();
        for (index, line) in lines.enumerate() {
            if index == MAX_LINES {
                return Err(invalid(format!("has more than {MAX_LINES} lines: send them in parts")));
            }
            let line = read_members(line);
            read.push(line.map_err(|error| ApiError::Line { number: index + 1, error: Box::new(error) })?);
            if index % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(Self(read))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_string(&self.0) {
            Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
            Err(_) => ApiError::Internal.into_response(),
        }
    }
}

/// Reads a request's body; `None` when it is empty.
async fn read_body<T: RequestBody>(request: Request) -> Result<Option<T>, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::BodyTooLarge)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(&parts.headers) {
        return Err(ApiError::NotJson);
    }
    read_members(&bytes).map(Some)
}

/// Reads one JSON object.
///
/// # Errors
/// 400.
pub(super) fn read_members<T: RequestBody>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut members = Members::parse(bytes, T::MEMBERS, T::IS_STRICT)?;
    T::read(&mut members)
}

/// Whether the media type is `application/json`.  RFC 9110 section 8.3.1: type and subtype compare without regard to
/// case, and parameters may follow.
fn is_json(headers: &HeaderMap) -> bool {
    has_media_type(headers, "application/json")
}

/// Whether this is the media type.
pub(super) fn has_media_type(headers: &HeaderMap, expected: &str) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(Ok(media_type)) = types.next().map(HeaderValue::to_str) else {
        return false;
    };
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    types.next().is_none() && essence.eq_ignore_ascii_case(expected)
}

/// The known members of a JSON object.  Each is taken out once, with its type.
pub(crate) struct Members(Map<String, Value>);

impl Members {
    /// The members as they are understood, for the fuzzer.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn read(bytes: &[u8], known: &[&'static str]) -> Result<Map<String, Value>, ApiError> {
        Self::parse(bytes, known, false).map(|members| members.0)
    }

    fn parse(bytes: &[u8], known: &[&'static str], is_strict: bool) -> Result<Self, ApiError> {
        let Ok(JsonTree::Object(written)) = serde_json::from_slice(bytes) else {
            return Err(ApiError::Malformed);
        };
        let mut members = Map::new();
        let mut names = HashSet::new();
        for (name, value) in written {
            let folded = fold(&name);
            let field = known.iter().copied().find(|known| fold(known) == folded);
            if let Some(field) = field
                && !field.eq_ignore_ascii_case(&name)
            {
                let problem = format!("write the name in ASCII: {field}");
                return Err(ApiError::invalid(InvalidKind::AmbiguousMember, field, problem));
            }
            let duplicate = || duplicate_member(field.unwrap_or("unknown member"));
            if !names.insert(folded) {
                return Err(duplicate());
            }
            if field.is_none()
                && let Some(problem) = unknown_name(&name, known, is_strict)
            {
                return Err(ApiError::invalid(InvalidKind::UnknownMember, "unknown member", problem));
            }
            let value = value.into_value().map_err(|DuplicateName| duplicate())?;
            if let Some(field) = field {
                members.insert(field.to_owned(), value);
            }
        }
        Ok(Self(members))
    }

    /// Whether it is there, be it null.
    pub(super) fn contains(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }

    /// A boolean; `None` when it is null or missing.
    pub(super) fn boolean(&mut self, field: &'static str) -> Result<Option<bool>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(_) => Err(wrong_type(field, "true or false")),
        }
    }

    /// A member of which null says something else than its absence: `read` reads the others; `None` when it is missing.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn given<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        if self.contains(field) { read(self, field).map(Some) } else { Ok(None) }
    }

    /// A member that is missing or has a value: null is none.
    ///
    /// # Errors
    /// 400, and those of `read`.
    pub(super) fn not_null<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<Option<T>, ApiError>,
    ) -> Result<Option<T>, ApiError> {
        let is_there = self.contains(field);
        match read(self, field)? {
            None if is_there => Err(wrong_type(field, "a value: null clears nothing here")),
            value => Ok(value),
        }
    }

    /// A string; `None` when it is null or missing.
    pub(super) fn string(&mut self, field: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(field, "a string")),
        }
    }

    /// A string that is required.
    pub(super) fn required_string(&mut self, field: &'static str) -> Result<String, ApiError> {
        let missing = || ApiError::invalid(InvalidKind::MissingMember, field, "is missing");
        self.string(field)?.ok_or_else(missing)
    }

    /// An integer; `None` when it is null or missing.
    pub(super) fn integer(&mut self, field: &'static str) -> Result<Option<i64>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
            Some(_) => {
                Err(wrong_type(field, "a whole number of 64 bits, such as 86400 for a day in seconds"))
            }
        }
    }

    /// An object; `None` when it is null or missing.
    pub(super) fn object(&mut self, field: &'static str) -> Result<Option<Map<String, Value>>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(_) => Err(wrong_type(field, "an object")),
        }
    }

    /// A list of strings; `None` when it is null or missing.
    pub(super) fn strings(&mut self, field: &'static str) -> Result<Option<Vec<String>>, ApiError> {
        let list = match self.take(field) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(wrong_type(field, "a list of strings")),
        };
        let strings = list.into_iter().map(|element| match element {
            Value::String(text) => Ok(text),
            _ => Err(wrong_type(field, "a list of strings")),
        });
        strings.collect::<Result<_, _>>().map(Some)
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }
}

/// What is wrong with a name that is none of the known ones; `None` where it is ignored.  It is ignored unless the call is
/// strict, or the name resembles a known one.
pub(super) fn unknown_name(name: &str, known: &[&str], is_strict: bool) -> Option<String> {
    let is_singular =
        |known: &str| known.strip_suffix("ies").is_some_and(|stem| fold(name) == fold(&format!("{stem}y")));
    let near = known.iter().copied().find(|known| is_singular(known));
    let near = near.or_else(|| nearest(name, known.iter().copied()));
    let list = is_strict.then(|| format!("none of {}", known.join(", ")));
    match (list, near) {
        (None, None) => None,
        (None, Some(near)) => Some(format!("`{}` is not known: did you mean `{near}`?", shown(name))),
        (Some(list), None) => Some(format!("`{}` is {list}", shown(name))),
        (Some(list), Some(near)) => Some(format!("`{}` is {list}: did you mean `{near}`?", shown(name))),
    }
}

/// A text that a client made up, for an answer.
pub(super) fn shown(name: &str) -> String {
    let begin: String = name.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if name.chars().count() > SHOWN_CHARACTERS { format!("{begin}…") } else { begin }
}

fn duplicate_member(field: &'static str) -> ApiError {
    let problem = "the same member name appears twice in one object (names compare without regard to case)";
    ApiError::invalid(InvalidKind::DuplicateMember, field, problem)
}

fn wrong_type(field: &'static str, expected: &str) -> ApiError {
    ApiError::invalid(InvalidKind::WrongType, field, format!("expected {expected}"))
}

/// The name with its case folded, as Unicode-aware readers see it.  To upper case first: `ſ` has a capital and no
/// small letter of its own, the Kelvin sign has a small letter and no capital.
fn fold(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// A JSON value with every member that was written; a map would keep one of two members with one name.
enum JsonTree {
    Scalar(Value),
    Array(Vec<JsonTree>),
    Object(Vec<(String, JsonTree)>),
}

/// An object has two members with one name.
struct DuplicateName;

impl JsonTree {
    fn into_value(self) -> Result<Value, DuplicateName> {
        Ok(match self {
            Self::Scalar(value) => value,
            Self::Array(elements) => {
                Value::Array(elements.into_iter().map(Self::into_value).collect::<Result<_, _>>()?)
            }
            Self::Object(members) => {
                let mut names = HashSet::new();
                let mut map = Map::new();
                for (name, value) in members {
                    if !names.insert(fold(&name)) {
                        return Err(DuplicateName);
                    }
                    map.insert(name, value.into_value()?);
                }
                Value::Object(map)
            }
        })
    }
}

impl<'de> Deserialize<'de> for JsonTree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonTreeVisitor)
    }
}

struct JsonTreeVisitor;

impl<'de> Visitor<'de> for JsonTreeVisitor {
    type Value = JsonTree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<JsonTree, E> {
        Ok(JsonTree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<JsonTree, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(JsonTree::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<JsonTree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(JsonTree::Object(members))
    }
}

/// The first value of this name in a query, as HTML forms write it: a `+` is a blank.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(&value.replace('+', " ")).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parameter_is_read_as_forms_write_it() {
        for (query, expected) in [
            ("a=1&q=x%20y+z&q=2", Some("x y z")),
            ("q=%2B%26", Some("+&")),
            ("q", Some("")),
            ("q=a=b", Some("a=b")),
            ("qq=1", None),
        ] {
            assert_eq!(parameter(query, "q").as_deref(), expected, "{query}");
        }
    }

    const KNOWN: [&str; 5] = ["name", "role", "secondsToLive", "actor", "policies"];

    fn parse(text: &str) -> Result<Value, (&'static str, Option<&'static str>)> {
        match Members::parse(text.as_bytes(), &KNOWN, false) {
            Ok(members) => Ok(Value::Object(members.0)),
            Err(error) => Err((error.reason(), error.field())),
        }
    }

    #[test]
    fn names_compare_as_in_go() {
        for (text, expected) in [
            (r#"{"name":"a"}"#, json!({"name": "a"})),
            (r#"{"Name":"a","ROLE":"Admin"}"#, json!({"name": "a", "role": "Admin"})),
            (r#"{"secondstolive":60}"#, json!({"secondsToLive": 60})),
            (r#"{"SECONDSTOLIVE":60}"#, json!({"secondsToLive": 60})),
            (r#"{"\u006eame":"a"}"#, json!({"name": "a"})),
            // What Grafana's clients send besides, or may send.
            (r#"{"unknown":{"a":1},"":null}"#, json!({})),
            (r#"{"serviceAccountId":1,"orgId":1,"isDisabled":true,"login":"a","uid":"b"}"#, json!({})),
            (r#"{"expires":1,"avatarUrl":"","teams":[],"tokens":0,"global":true}"#, json!({})),
            // In `actor` names are the client's own and stay as they are.
            (r#"{"actor":{"Team":"x","tEAMs":1}}"#, json!({"actor": {"Team": "x", "tEAMs": 1}})),
            (r#"{"actor":[{"a":1},{"a":2}]}"#, json!({"actor": [{"a": 1}, {"a": 2}]})),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_name_that_could_be_read_in_two_ways_is_an_error() {
        let ambiguous = |field| Err(("ambiguous_member", Some(field)));
        let duplicate = |field| Err(("duplicate_member", Some(field)));
        for (text, expected) in [
            ("{\"\u{17f}econdsToLive\":60}", ambiguous("secondsToLive")),
            ("{\"second\u{17f}tolive\":60}", ambiguous("secondsToLive")),
            ("{\"policie\u{17f}\":[]}", ambiguous("policies")),
            (r#"{"\u017feconds\u0054oLive":60}"#, ambiguous("secondsToLive")),
            (r#"{"name":"a","name":"a"}"#, duplicate("name")),
            (r#"{"name":"a","Name":"b"}"#, duplicate("name")),
            (r#"{"secondsToLive":60,"secondstolive":null}"#, duplicate("secondsToLive")),
            (r#"{"name":"a","\u006eame":"b"}"#, duplicate("name")),
            ("{\"secondsToLive\":60,\"\u{17f}econdstolive\":null}", ambiguous("secondsToLive")),
            (r#"{"x":1,"x":1}"#, duplicate("unknown member")),
            (r#"{"x":1,"X":1}"#, duplicate("unknown member")),
            (r#"{"x":{"y":[{"z":1,"Z":1}]}}"#, duplicate("unknown member")),
            (r#"{"actor":{"team":1,"team":1}}"#, duplicate("actor")),
            (r#"{"actor":{"team":1,"Team":1}}"#, duplicate("actor")),
            ("{\"actor\":{\"token\":1,\"to\u{212a}en\":1}}", duplicate("actor")),
            ("{\"actor\":{\"teams\":1,\"team\u{17f}\":1}}", duplicate("actor")),
            ("{\"actor\":{\"é\":1,\"É\":1}}", duplicate("actor")),
            (r#"{"actor":{"a":{"b":[[{"c":1,"c":2}]]}}}"#, duplicate("actor")),
            (r#"{"policies":[{"c":1,"C":2}]}"#, duplicate("policies")),
            (r#"["name"]"#, Err(("malformed", None))),
            (r#""name""#, Err(("malformed", None))),
            ("null", Err(("malformed", None))),
            ("{} {}", Err(("malformed", None))),
            ("{'name':1}", Err(("malformed", None))),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        let kelvin = Members::parse("{\"to\u{212a}en\":1}".as_bytes(), &["token"], false).map(|_| ());
        assert_eq!(kelvin.unwrap_err().reason(), "ambiguous_member");
        let deep = "[".repeat(10_000);
        assert_eq!(parse(&format!("{{\"x\":{deep}")), Err(("malformed", None)));
    }

    #[test]
    fn a_misspelt_member_is_an_error_that_names_the_known_one() {
        for (written, meant) in [
            ("secondToLive", "secondsToLive"),
            ("secondsToLiv", "secondsToLive"),
            ("seconds_to_live", "secondsToLive"),
            ("seconds-to-live", "secondsToLive"),
            ("SecondToLive", "secondsToLive"),
            ("rol", "role"),
            ("roles", "role"),
            ("nam", "name"),
            (" name", "name"),
            ("actors", "actor"),
            ("policy", "policies"),
            ("polices", "policies"),
        ] {
            let text = json!({ "name": "a", written: null }).to_string();
            let error = Members::parse(text.as_bytes(), &KNOWN, false).err().expect(written);
            assert_eq!(
                (error.reason(), error.field()),
                ("unknown_member", Some("unknown member")),
                "{written}"
            );
            let problem = format!("`{written}` is not known: did you mean `{meant}`?");
            assert_eq!(error.problem(), Some(problem));
        }
    }

    #[test]
    fn an_unknown_member_is_named_where_none_may_be() {
        for (text, expected) in [
            (r#"{"name":"a","overlap":1}"#.to_owned(), "`overlap` is none of name, role".to_owned()),
            (r#"{"nmae":"a"}"#.to_owned(), "`nmae` is none of name, role: did you mean `name`?".to_owned()),
            (r#"{"a\u0007\u0062":1}"#.to_owned(), "`a\\u{7}b` is none of name, role".to_owned()),
            (format!("{{\"{}\":1}}", "x".repeat(61)), format!("`{}…` is none of name, role", "x".repeat(60))),
        ] {
            let error = Members::parse(text.as_bytes(), &["name", "role"], true).err().expect("an error");
            assert_eq!((error.reason(), error.field()), ("unknown_member", Some("unknown member")), "{text}");
            assert_eq!(error.problem(), Some(expected), "{text}");
        }
        assert!(Members::parse(br#"{"NAME":"a"}"#, &["name", "role"], true).is_ok());
    }

    #[test]
    fn a_member_of_another_type_is_named_in_the_error() {
        let members = || {
            let text = r#"{"name":5,"role":null,"secondsToLive":"1d","actor":[],"policies":["a",1]}"#;
            Members::parse(text.as_bytes(), &KNOWN, false).unwrap()
        };
        let wrong = |field| Some(("wrong_type", Some(field)));
        let fault = |error: ApiError| (error.reason(), error.field());
        assert_eq!(members().string("name").err().map(fault), wrong("name"));
        assert!(matches!(members().string("role"), Ok(None)));
        assert_eq!(
            members().required_string("role").err().map(fault),
            Some(("missing_member", Some("role")))
        );
        assert_eq!(members().integer("secondsToLive").err().map(fault), wrong("secondsToLive"));
        assert_eq!(members().object("actor").err().map(fault), wrong("actor"));
        assert_eq!(members().strings("policies").err().map(fault), wrong("policies"));
        for (number, expected) in [("60", Some(60)), ("-1", Some(-1)), ("60.0", None), ("1e3", None)] {
            let text = format!("{{\"secondsToLive\":{number}}}");
            let read = Members::parse(text.as_bytes(), &KNOWN, false).unwrap().integer("secondsToLive");
            assert_eq!(read.ok().flatten(), expected, "{number}");
        }
    }
}
