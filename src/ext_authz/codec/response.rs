//! From an answer to the bytes of a CheckResponse.
//!
//! Nothing is decided here.  Parts that many answers share are encoded once: denials (except redirects) for each
//! snapshot ([`ResponseEncoder`]), actor answers for each principal
//! ([`CachedActorAnswer`](crate::credential::CachedActorAnswer)).  An answer is then a few copies: protobuf lets the
//! parts of a message stand one after the other.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value as ProtoValue};
use serde_json::Value;

use super::frame;
use crate::answer::{ActorAnswer, AllowAnswer, Answer, Denial, DenialForm, DenyAnswer, MetadataValue};
use crate::deny_reason::DenyReason;
use crate::ext_authz::wire::{
    self, BoolValue, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, Status, check_response::HttpResponse, header_value_option::AppendAction,
};
use crate::snapshot::Snapshot;

/// Encodes answers of one snapshot.
pub struct ResponseEncoder {
    anonymous: Box<[u8]>,
    denials: Vec<EncodedDenial>,
}

/// One denial in each form: `status` and `denied_response`, encoded.
struct EncodedDenial {
    reason: DenyReason,
    json: Box<[u8]>,
    json_for_script: Box<[u8]>,
    grpc: Box<[u8]>,
}

impl ResponseEncoder {
    /// Encodes the parts that depend only on the snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        let encode =
            |reason, form| denied_response(Denial::new(reason, form, snapshot)).encode_to_vec().into();
        let denials = DenyReason::ALL.into_iter().map(|reason| EncodedDenial {
            reason,
            json: encode(reason, DenialForm::Json),
            json_for_script: encode(reason, DenialForm::JsonForScript),
            grpc: encode(reason, DenialForm::Grpc),
        });
        Self {
            anonymous: encode_actor_answer(&ActorAnswer::anonymous(&snapshot.actor_headers)),
            denials: denials.collect(),
        }
    }

    /// The framed response.
    pub fn encode(&self, answer: &Answer<'_>) -> Bytes {
        match answer {
            Answer::Allow(allow) => self.encode_allow(allow),
            Answer::Deny(deny) => self.encode_deny(deny),
        }
    }

    fn encode_deny(&self, deny: &DenyAnswer<'_>) -> Bytes {
        // A redirect is made of the request.
        if let Some(location) = deny.redirect {
            let denied = denied_response(Denial::redirect(deny.reason, location)).encode_to_vec();
            return add_deny_metadata(&denied, deny);
        }
        let denial = self.denials.iter().find(|denial| denial.reason == deny.reason);
        let denial = denial.expect("every denial is encoded ahead");
        let denied = match deny.form {
            DenialForm::Json => &denial.json,
            DenialForm::JsonForScript => &denial.json_for_script,
            DenialForm::Grpc => &denial.grpc,
        };
        add_deny_metadata(denied, deny)
    }

    fn encode_allow(&self, allow: &AllowAnswer<'_>) -> Bytes {
        let actor = match allow.actor.cache() {
            Some(cache) => cache.encoded(|| encode_actor_answer(&allow.actor)),
            None => &self.anonymous,
        };
        let (ok, metadata) = split_parts(actor);
        let changes = encode_changes(allow);
        let shadow = match allow.shadow {
            Some(shadow) => metadata_struct([shadow.metadata()]).encode_to_vec(),
            None => Vec::new(),
        };
        let policy_len = allow.policy.map_or(0, |policy| text_field_len("policy", policy));
        let metadata_len = metadata.len() + shadow.len() + policy_len;
        let ok_len = ok.len() + changes.len();

        let mut message = frame::begin(
            STATUS_OK.len() + message_len(OK_RESPONSE, ok_len) + message_len(METADATA, metadata_len),
        );
        message.put_slice(&STATUS_OK);
        put_message_head(&mut message, OK_RESPONSE, ok_len);
        message.put_slice(ok);
        message.put_slice(&changes);
        put_message_head(&mut message, METADATA, metadata_len);
        message.put_slice(metadata);
        message.put_slice(&shadow);
        if let Some(policy) = allow.policy {
            put_text_field(&mut message, "policy", policy);
        }
        frame::finish(message)
    }
}

/// The framed denial: the response for the client, and the metadata.
fn add_deny_metadata(denied: &[u8], deny: &DenyAnswer<'_>) -> Bytes {
    let reason = deny.reason.as_str();
    let policy_len = deny.policy.map_or(0, |policy| text_field_len("policy", policy));
    let metadata_len = text_field_len("reason", reason) + policy_len;
    let mut message = frame::begin(denied.len() + message_len(METADATA, metadata_len));
    message.put_slice(denied);
    put_message_head(&mut message, METADATA, metadata_len);
    put_text_field(&mut message, "reason", reason);
    if let Some(policy) = deny.policy {
        put_text_field(&mut message, "policy", policy);
    }
    frame::finish(message)
}

/// `CheckResponse.status` with code 0, written explicitly, so that readers do not depend on the default.
const STATUS_OK: [u8; 2] = [0x0a, 0x00];
/// Field numbers of CheckResponse.
const OK_RESPONSE: u32 = 3;
const METADATA: u32 = 4;
/// Field number of OkHttpResponse.headers.
const HEADERS: u32 = 2;
/// Field number of OkHttpResponse.response_headers_to_add.
const RESPONSE_HEADERS: u32 = 6;
/// Field number of OkHttpResponse.headers_to_remove.
const HEADERS_TO_REMOVE: u32 = 5;
/// Field number of OkHttpResponse.query_parameters_to_remove.
const PARAMETERS_TO_REMOVE: u32 = 8;

/// OkHttpResponse and dynamic metadata as far as they depend on the actor, one after the other,
/// with the length of the first in front.
fn encode_actor_answer(actor: &ActorAnswer<'_>) -> Box<[u8]> {
    let mut ok = OkHttpResponse::default();
    for (name, value) in actor.headers() {
        match value {
            Some(value) => ok.headers.push(set_header(name, value)),
            None => ok.headers_to_remove.push(name.to_owned()),
        }
    }
    let metadata = metadata_struct(actor.metadata().into_iter().flatten());
    let ok = ok.encode_to_vec();
    let length = u32::try_from(ok.len()).expect("the actor's headers are limited, and the others are names");
    [length.to_le_bytes().as_slice(), &ok, &metadata.encode_to_vec()].concat().into()
}

fn split_parts(encoded: &[u8]) -> (&[u8], &[u8]) {
    let (length, parts) = encoded.split_first_chunk().expect("the length stands in front");
    parts.split_at(u32::from_le_bytes(*length) as usize)
}

/// Fields of OkHttpResponse that depend on the request.
fn encode_changes(allow: &AllowAnswer<'_>) -> Vec<u8> {
    let changes = &allow.request;
    let mut fields = Vec::with_capacity(64);
    for (name, value) in changes.set_headers() {
        put_set_header(&mut fields, HEADERS, name, value);
    }
    for (name, value) in allow.response_headers() {
        put_set_header(&mut fields, RESPONSE_HEADERS, name, &value);
    }
    for name in changes.remove_headers() {
        put_text(&mut fields, HEADERS_TO_REMOVE, name);
    }
    for name in changes.remove_query_parameters() {
        put_text(&mut fields, PARAMETERS_TO_REMOVE, name);
    }
    fields
}

/// A header that replaces whatever the client sent.
///
/// Envoy reads `append` and ignores `append_action` here, other data planes the other way round: both are set.
fn set_header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value }),
        append: Some(BoolValue { value: false }),
        append_action: AppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

/// The denial without its metadata.
fn denied_response(denial: Denial) -> CheckResponse {
    let set = denial.headers.into_iter().map(|(name, value)| set_header(name, value));
    let add = denial.challenges.into_iter().map(|value| add_header("www-authenticate", value));
    let response = DeniedHttpResponse {
        status: Some(HttpStatus { code: denial.status.into() }),
        headers: set.chain(add).collect(),
        body: denial.body,
    };
    CheckResponse {
        status: Some(Status { code: denial.code as i32 }),
        http_response: Some(if denial.is_error {
            HttpResponse::ErrorResponse(response)
        } else {
            HttpResponse::DeniedResponse(response)
        }),
        dynamic_metadata: None,
    }
}

/// A header that may appear next to another of its name: Envoy drops headers of denials with `append: true`, and keeps
/// repeated headers without it.
fn add_header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value }),
        append: None,
        append_action: AppendAction::AppendIfExistsOrAdd.into(),
    }
}

fn metadata_struct<'a>(fields: impl IntoIterator<Item = (&'static str, MetadataValue<'a>)>) -> Struct {
    Struct {
        fields: fields.into_iter().map(|(name, value)| (name.to_owned(), metadata_value(value))).collect(),
    }
}

fn metadata_value(value: MetadataValue<'_>) -> ProtoValue {
    let kind = match value {
        MetadataValue::Text(text) => ValueKind::StringValue(text.to_owned()),
        MetadataValue::Composed(text) => ValueKind::StringValue(text),
        MetadataValue::Integer(number) => return proto_value(&Value::from(number)),
        MetadataValue::Members(members) => {
            let fields = members.iter().map(|(name, value)| (name.clone(), proto_value(value)));
            ValueKind::StructValue(Struct { fields: fields.collect() })
        }
        MetadataValue::Object(fields) => ValueKind::StructValue(metadata_struct(fields)),
    };
    ProtoValue { kind: Some(kind) }
}

/// JSON as google.protobuf.Value, whose only number is a double.
fn proto_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Null => ValueKind::NullValue(0),
        Value::Bool(value) => ValueKind::BoolValue(*value),
        Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => ValueKind::StringValue(text.clone()),
        Value::Array(list) => {
            ValueKind::ListValue(prost_types::ListValue { values: list.iter().map(proto_value).collect() })
        }
        Value::Object(members) => {
            let fields = members.iter().map(|(name, value)| (name.clone(), proto_value(value)));
            ValueKind::StructValue(Struct { fields: fields.collect() })
        }
    };
    ProtoValue { kind: Some(kind) }
}

/// A field of OkHttpResponse with the result of [`set_header`].
fn put_set_header(buffer: &mut Vec<u8>, field: u32, name: &str, value: &str) {
    /// Field numbers of HeaderValueOption and of HeaderValue.
    const HEADER: u32 = 1;
    const APPEND: u32 = 2;
    const APPEND_ACTION: u32 = 3;
    const HEADER_KEY: u32 = 1;
    const HEADER_VALUE: u32 = 2;
    let action = AppendAction::OverwriteIfExistsOrAdd as u64;
    let header_len = message_len(HEADER_KEY, name.len()) + message_len(HEADER_VALUE, value.len());
    let action_len = key_len(APPEND_ACTION) + encoded_len_varint(action);
    put_message_head(buffer, field, message_len(HEADER, header_len) + message_len(APPEND, 0) + action_len);
    put_message_head(buffer, HEADER, header_len);
    put_text(buffer, HEADER_KEY, name);
    put_text(buffer, HEADER_VALUE, value);
    put_message_head(buffer, APPEND, 0);
    encode_key(APPEND_ACTION, WireType::Varint, buffer);
    encode_varint(action, buffer);
}

/// Bytes that a nested message takes with its key and length.
fn message_len(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

fn put_message_head(buffer: &mut impl BufMut, field: u32, length: usize) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

fn put_text(buffer: &mut impl BufMut, field: u32, text: &str) {
    put_message_head(buffer, field, text.len());
    buffer.put_slice(text.as_bytes());
}

/// Field number of Struct.fields, a map whose entries are a key and a value.
const FIELDS: u32 = 1;
const KEY: u32 = 1;
const VALUE: u32 = 2;
/// Field number of Value.string_value.
const STRING_VALUE: u32 = 3;

/// An entry `name: text` of a google.protobuf.Struct.
fn put_text_field(buffer: &mut BytesMut, name: &str, text: &str) {
    let value_len = message_len(STRING_VALUE, text.len());
    put_message_head(buffer, FIELDS, message_len(KEY, name.len()) + message_len(VALUE, value_len));
    put_text(buffer, KEY, name);
    put_message_head(buffer, VALUE, value_len);
    put_text(buffer, STRING_VALUE, text);
}

fn text_field_len(name: &str, text: &str) -> usize {
    let value_len = message_len(STRING_VALUE, text.len());
    message_len(FIELDS, message_len(KEY, name.len()) + message_len(VALUE, value_len))
}

/// Decodes a response: `explain` and the tests show what Envoy receives.
///
/// # Errors
/// The bytes are no CheckResponse.
pub fn decode(message: &[u8]) -> Result<wire::CheckResponse, prost::DecodeError> {
    wire::CheckResponse::decode(message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
    use crate::config::SessionRules;
    use crate::deny_reason::GrpcCode;
    use crate::fuzzing::{authorizer, read_config, wait_for};
    use crate::return_to::LogInRedirect;

    const CONFIG: &str = r#"
tokens:
- {token: good-token-alice-1, actor: {id: alice, teams: [a, b], deep: {n: 1}}}
- {token: good-token-bob-22, actor: {id: bob}}
users:
- {username: carol, password_hash: "$2b$04$Bi8fSFGkjKURlEPwTA1t3.lgXFu29nQ8HDTfxxDJfUW.8jl9OUwIW"}
credentials: [bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: tok}]
actor_headers: {x-actor: "*", x-actor-id: id, x-actor-role: role}
routes:
- {path_prefix: /trial, allow: {id: alice}, enforce: false}
- {path_prefix: /closed, allow: false}
default: {allow: {id: alice, unauthenticated: true}}
"#;

    fn pairs(options: &[HeaderValueOption]) -> Vec<(String, String)> {
        let headers = options.iter().map(|option| option.header.clone().unwrap());
        headers.map(|header| (header.key, header.value)).collect()
    }

    fn owned<'a>(pairs: impl Iterator<Item = (&'a str, impl AsRef<str>)>) -> Vec<(String, String)> {
        pairs.map(|(name, value)| (name.to_owned(), value.as_ref().to_owned())).collect()
    }

    #[test]
    fn a_response_says_what_the_answer_says() {
        let authorizer = authorizer(read_config(CONFIG));
        let encoder = ResponseEncoder::new(&authorizer.snapshot());
        let requests: [(&str, &[(&str, &str)]); 10] = [
            ("/", &[]),
            ("/?a=1&_auth_token=good-token-alice-1", &[("x_actor_id", "eve"), ("X-Actor", "eve")]),
            (
                "/",
                &[("cookie", "a=1; tok=good-token-alice-1"), ("x-envoy-auth-failure-mode-allowed", "true")],
            ),
            ("/", &[("cookie", "tok=good-token-alice-1"), ("x-api-key", "")]),
            ("/", &[("authorization", "Bearer good-token-bob-22")]),
            (
                "/closed",
                &[("authorization", "Bearer good-token-alice-1"), ("content-type", "application/grpc")],
            ),
            ("/closed", &[]),
            ("/closed", &[("sec-fetch-mode", "cors")]),
            ("/trial", &[("authorization", "Bearer good-token-bob-22")]),
            ("/trial", &[("authorization", "Bearer nobody-has-this-1")]),
        ];
        let mut allowed = 0;
        for (path, headers) in requests {
            let entries =
                headers.iter().map(|(name, value)| Header { name: name.as_bytes(), value: value.as_bytes() });
            let headers = Headers::new(Encoding::Lines, entries.collect());
            let http = Http {
                method: b"GET",
                host: b"example.com",
                path: path.as_bytes(),
                headers,
                client: ClientAddress::UNKNOWN,
            };
            let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
            // The second time the actor's part is encoded already.
            for _ in 0..2 {
                let decision = wait_for(authorizer.authorize(&request, None));
                let answer = Answer::new(&decision, request.http.as_ref());
                let response = decode(frame::message(&encoder.encode(&answer))).unwrap();
                assert_eq!(response.dynamic_metadata.unwrap(), metadata_struct(answer.metadata()), "{path}");
                match (&answer, response.http_response.unwrap()) {
                    (Answer::Allow(allow), HttpResponse::OkResponse(ok)) => {
                        allowed += 1;
                        assert_eq!(response.status.unwrap().code, 0);
                        // The encoded order is that of the parts.
                        assert_eq!(pairs(&ok.headers), owned(allow.set_headers()), "{path}");
                        assert!(ok.headers.iter().all(|option| *option == set_header_like(option)), "{path}");
                        assert_eq!(
                            ok.headers_to_remove,
                            allow.remove_headers().collect::<Vec<_>>(),
                            "{path}"
                        );
                        let parameters: Vec<_> = allow.remove_query_parameters().collect();
                        assert_eq!(ok.query_parameters_to_remove, parameters, "{path}");
                    }
                    (Answer::Deny(deny), HttpResponse::DeniedResponse(denied)) => {
                        let denial = Denial::new(deny.reason, deny.form, &decision.snapshot);
                        assert_eq!(response.status.unwrap().code, denial.code as i32, "{path}");
                        assert_eq!(denied.status.unwrap().code, i32::from(denial.status), "{path}");
                        assert_eq!(pairs(&denied.headers), owned(denial.headers()), "{path}");
                        assert_eq!(denied.body, denial.body, "{path}");
                    }
                    (_, other) => panic!("{path}: {other:?}"),
                }
            }
        }
        assert_eq!(allowed, 12);
    }

    /// The response to a GET of this path with one header, under these rules.
    fn response(snapshot: Snapshot, path: &str, header: (&str, &str)) -> CheckResponse {
        let authorizer = authorizer(snapshot);
        let encoder = ResponseEncoder::new(&authorizer.snapshot());
        let entry = Header { name: header.0.as_bytes(), value: header.1.as_bytes() };
        let headers = Headers::new(Encoding::Lines, vec![entry]);
        let http = Http {
            method: b"GET",
            host: b"App.Example.com",
            path: path.as_bytes(),
            headers,
            client: ClientAddress::UNKNOWN,
        };
        let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
        let decision = wait_for(authorizer.authorize(&request, None));
        decode(frame::message(&encoder.encode(&Answer::new(&decision, request.http.as_ref())))).unwrap()
    }

    fn denied(response: CheckResponse) -> (i32, Vec<(String, String)>, String) {
        match response.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => {
                assert_eq!(response.status.unwrap().code, GrpcCode::Unauthenticated as i32);
                (denied.status.unwrap().code, pairs(&denied.headers), denied.body)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_script_is_not_asked_for_a_password() {
        let challenges = |mode: &str| {
            let response = response(read_config(CONFIG), "/closed", ("sec-fetch-mode", mode));
            let (status, headers, body) = denied(response);
            assert_eq!(status, 401);
            assert!(body.contains("Unauthorized"), "{body}");
            let challenges = headers.into_iter().filter(|(name, _)| name == "www-authenticate");
            challenges.map(|(_, value)| value).collect::<Vec<_>>()
        };
        let [bearer, basic] = [r#"Bearer realm="api""#, r#"Basic realm="api""#];
        assert_eq!(challenges("navigate"), [bearer, basic]);
        for mode in ["cors", "no-cors", "same-origin", "websocket", ""] {
            assert_eq!(challenges(mode), [bearer], "{mode}");
        }
    }

    #[test]
    fn a_redirect_is_a_denial_with_a_place_to_go() {
        let config = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
keys: {store: "sqlite:keys.db"}
credentials: [session, bearer, {query: t}]
routes:
- {path_prefix: /trial, enforce: false, allow: {id: alice}}
default: {}
"#;
        let snapshot = || {
            let mut snapshot = read_config(config);
            let session = SessionRules {
                domain: Some("example.com".into()),
                log_in_url: Some("https://keys.example.com".parse().unwrap()),
            };
            let redirect = LogInRedirect::new(None, &session, &snapshot.locations);
            snapshot.log_in_redirect = redirect.map(Arc::new);
            snapshot
        };
        let navigate = ("sec-fetch-mode", "navigate");
        let (status, headers, body) = denied(response(snapshot(), "/a?t=&b=1", navigate));
        let location =
            "https://keys.example.com/?return_to=https%3A%2F%2Fapp.example.com%2Fa%3Fb%3D1".to_owned();
        let expected = [("cache-control", "no-store".to_owned()), ("location", location)];
        assert_eq!(
            (status, headers, body),
            (302, expected.map(|(n, v)| (n.to_owned(), v)).to_vec(), String::new())
        );
        let metadata = response(snapshot(), "/", navigate).dynamic_metadata.unwrap();
        let texts = [("reason", "no_credential"), ("policy", "default")];
        assert_eq!(metadata, metadata_struct(texts.map(|(name, text)| (name, MetadataValue::Text(text)))));
        // A script, a credential that is bad, and what is not enforced.
        assert_eq!(denied(response(snapshot(), "/", ("sec-fetch-mode", "cors"))).0, 401);
        assert_eq!(denied(response(snapshot(), "/?t=unknown-token", navigate)).0, 401);
        let passes = response(snapshot(), "/trial", navigate);
        assert_eq!(passes.status.unwrap().code, 0);
    }

    fn set_header_like(option: &HeaderValueOption) -> HeaderValueOption {
        let header = option.header.clone().unwrap();
        set_header(&header.key, header.value)
    }
}
