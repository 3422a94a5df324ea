//! Dynamic metadata: a `google.protobuf.Struct`, or flat members for an Envoy that does not accept structs.
//!
//! It has the same place as that of ext_authz, so that access logs, RBAC and rate limits work with both.

use envoy_auth_tokens::answer::MetadataValue;
use serde_json::Value;

/// The namespace.
pub const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Appends fields of a `google.protobuf.Struct` to an encoded one.
pub fn put_fields<'v>(message: &mut Vec<u8>, fields: impl IntoIterator<Item = (&'v str, MetadataValue<'v>)>) {
    for (name, value) in fields {
        put_field(message, name, |field| put_metadata_value(field, &value));
    }
}

/// Numbers of fields: `Struct.fields`, its entries' `key` and `value`, and the kinds of `Value`.
const FIELDS: u8 = 1;
const KEY: u8 = 1;
const VALUE: u8 = 2;
const NULL: u8 = 1;
const NUMBER: u8 = 2;
const TEXT: u8 = 3;
const BOOL: u8 = 4;
const STRUCT: u8 = 5;
const LIST: u8 = 6;
/// `ListValue.values`.
const VALUES: u8 = 1;
/// Wire types.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;

fn put_field(message: &mut Vec<u8>, name: &str, put_value: impl FnOnce(&mut Vec<u8>)) {
    put_message(message, FIELDS, |entry| {
        put_bytes(entry, KEY, name.as_bytes());
        put_message(entry, VALUE, put_value);
    });
}

fn put_metadata_value(message: &mut Vec<u8>, value: &MetadataValue<'_>) {
    match value {
        MetadataValue::Text(text) => put_bytes(message, TEXT, text.as_bytes()),
        MetadataValue::Composed(text) => put_bytes(message, TEXT, text.as_bytes()),
        MetadataValue::Integer(number) => put_value(message, &Value::from(*number)),
        MetadataValue::Members(members) => put_members(message, members),
        MetadataValue::Object(fields) => put_message(message, STRUCT, |object| {
            for (name, value) in fields {
                put_field(object, name, |field| put_metadata_value(field, value));
            }
        }),
    }
}

fn put_value(message: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => message.extend([tag(NULL, VARINT), 0]),
        Value::Bool(value) => message.extend([tag(BOOL, VARINT), u8::from(*value)]),
        Value::Number(number) => {
            message.push(tag(NUMBER, FIXED64));
            message.extend(number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::String(text) => put_bytes(message, TEXT, text.as_bytes()),
        Value::Array(list) => put_message(message, LIST, |values| {
            for value in list {
                put_message(values, VALUES, |element| put_value(element, value));
            }
        }),
        Value::Object(members) => put_members(message, members),
    }
}

fn put_members(message: &mut Vec<u8>, members: &serde_json::Map<String, Value>) {
    put_message(message, STRUCT, |object| {
        for (name, value) in members {
            put_field(object, name, |field| put_value(field, value));
        }
    });
}

fn put_message(message: &mut Vec<u8>, field: u8, put: impl FnOnce(&mut Vec<u8>)) {
    let mut nested = Vec::with_capacity(64);
    put(&mut nested);
    put_bytes(message, field, &nested);
}

fn put_bytes(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(tag(field, LENGTH_DELIMITED));
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

fn tag(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

/// The same as flat members with texts: `actor.id`, `credential.kind`.  Lists and what is below a member of an object are
/// compact JSON.
pub fn flat<'v>(fields: impl IntoIterator<Item = (&'v str, MetadataValue<'v>)>) -> Vec<(String, String)> {
    let mut members = Vec::new();
    for (name, value) in fields {
        flatten(&mut members, name, &value.to_json());
    }
    members
}

fn flatten(members: &mut Vec<(String, String)>, name: &str, value: &Value) {
    match value {
        Value::Object(object) if !name.contains('.') => {
            for (member, value) in object {
                flatten(members, &format!("{name}.{member}"), value);
            }
        }
        Value::String(text) => members.push((name.to_owned(), text.clone())),
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            members.push((name.to_owned(), value.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_struct_has_the_bytes_of_protobuf() {
        let mut message = Vec::new();
        put_fields(&mut message, [("reason", MetadataValue::Text("no_credential"))]);
        let expected = [b"\x0a\x19\x0a\x06reason\x12\x0f\x1a\x0dno_credential".as_slice()].concat();
        assert_eq!(message, expected);
        let members = json!({"n": 1.5, "b": true, "z": null, "l": ["x"]});
        let mut message = Vec::new();
        put_fields(&mut message, [("a", MetadataValue::Members(members.as_object().unwrap()))]);
        let fields = [
            b"\x0a\x0e\x0a\x01n\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf8\x3f".as_slice(),
            b"\x0a\x07\x0a\x01b\x12\x02\x20\x01",
            b"\x0a\x07\x0a\x01z\x12\x02\x08\x00",
            b"\x0a\x0c\x0a\x01l\x12\x07\x32\x05\x0a\x03\x1a\x01x",
        ]
        .concat();
        let length = u8::try_from(fields.len()).unwrap();
        let expected =
            [&[0x0a, length + 7, 0x0a, 1, b'a', 0x12, length + 2, 0x2a, length][..], &fields].concat();
        assert_eq!(message, expected);
    }

    #[test]
    fn flat_members_are_texts() {
        let members = json!({"id": "alice", "n": 1, "deep": {"x": 1}, "l": ["a"], "z": null});
        let credential = vec![("kind", MetadataValue::Text("token"))];
        let flat = flat([
            ("actor", MetadataValue::Members(members.as_object().unwrap())),
            ("credential", MetadataValue::Object(credential)),
            ("policy", MetadataValue::Text("default")),
        ]);
        let flat: Vec<_> = flat.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            flat,
            [
                ("actor.id", "alice"),
                ("actor.n", "1"),
                ("actor.deep", r#"{"x":1}"#),
                ("actor.l", r#"["a"]"#),
                ("credential.kind", "token"),
                ("policy", "default"),
            ]
        );
    }
}
