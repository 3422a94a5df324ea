//! From a decision to the bytes of a CheckResponse.
//!
//! Status, HTTP code and headers of every answer are chosen here and nowhere else.
//!
//! What depends on the actor is encoded once a snapshot of the rules and kept with the credential
//! ([`Principal::encoded`]); what depends on the rules alone is encoded once a snapshot, too ([`Answers`]).
//! An answer is then a few copies: protobuf lets the parts of a message stand one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::Guard;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_types::value::Kind as ValueKind;
use prost_types::{Struct, Value as ProtoValue};
use serde_json::Value;

use super::frame;
use crate::actor::MAX_NESTING;
use crate::actor::header::{ActorHeader, ActorHeaders, MAX_BYTES, folds_onto};
use crate::attributes::{Headers, Http, NameLengthFilter};
use crate::config::Unavailable;
use crate::credential::stripping::{CookieChange, CredentialStripping, Forward};
use crate::credential::{Encoded, Principal};
use crate::decision::{Decision, Outcome};
use crate::deny_reason::{Challenge, DenialDetails, DenyReason};
use crate::ext_authz::wire::{
    self, BoolValue, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption, HttpStatus,
    OkHttpResponse, Status, check_response::HttpResponse, header_value_option::AppendAction,
};
use crate::policy::Permit;
use crate::snapshot::Snapshot;

/// The header by which Envoy tells an upstream that it let a request pass without asking us.
/// A client must not be able to claim that.
const FAILURE_MODE_ALLOWED: &str = "x-envoy-auth-failure-mode-allowed";

/// Which form of a denial the caller can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// JSON.
    Http,
    /// A gRPC client, to whom Envoy passes the body on as `grpc-message`.
    Grpc,
}

/// Answers encoded ahead for one snapshot of the rules.
pub struct Answers {
    /// [`Snapshot::version`] of the snapshot.
    pub rules_version: u64,
    anonymous: Box<[u8]>,
    deny_reasons: Vec<EncodedDenial>,
}

/// One denial in both its forms: `status` and `denied_response`, encoded.
struct EncodedDenial {
    deny_reason: DenyReason,
    http: Box<[u8]>,
    grpc: Box<[u8]>,
}

/// The answer cannot be built within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor's headers exceed {MAX_BYTES} bytes, or it nests deeper than {MAX_NESTING} levels")]
pub struct AnswerTooLarge;

impl Answers {
    /// Encodes what depends on the rules alone.
    pub fn new(rules: &Snapshot) -> Self {
        let deny_reasons = DenyReason::ALL.iter().map(|&deny_reason| EncodedDenial {
            deny_reason,
            http: denial(deny_reason, Reader::Http, rules).encode_to_vec().into(),
            grpc: denial(deny_reason, Reader::Grpc, rules).encode_to_vec().into(),
        });
        Self {
            rules_version: rules.version,
            anonymous: encode_actor(None, &rules.actor_headers)
                .expect("there is no actor whose headers could be large"),
            deny_reasons: deny_reasons.collect(),
        }
    }

    /// The framed answer to a decision, and what it comes to: a denial after all when no other can be built.
    pub fn encode(&self, decision: &Decision, http: Option<&Http<'_>>) -> (Bytes, Outcome) {
        let policy = decision.context.policy.as_ref().map(|policy| policy.name().as_ref());
        let deny_reason = match (&decision.verdict, http) {
            (Ok(permit), Some(http)) => match self.encode_permit(permit, decision, http, policy) {
                Ok(answer) => return (answer, decision.outcome()),
                Err(AnswerTooLarge) => DenyReason::AnswerTooLarge,
            },
            // A permit is for an HTTP request: without one there is nothing to permit.
            (Ok(_), None) => DenyReason::NoHttp,
            (Err(deny_reason), _) => *deny_reason,
        };
        (self.encode_denial(deny_reason, reader(http), policy), Outcome::Denied(deny_reason))
    }

    /// The framed answer that denies.
    fn encode_denial(&self, deny_reason: DenyReason, reader: Reader, policy: Option<&str>) -> Bytes {
        let answer = self.deny_reasons.iter().find(|answer| answer.deny_reason == deny_reason);
        let answer = answer.expect("every denial is encoded ahead");
        let denied = match reader {
            Reader::Http => &answer.http,
            Reader::Grpc => &answer.grpc,
        };
        let reason = deny_reason.as_str();
        let metadata_len =
            text_field_len("reason", reason) + policy.map_or(0, |policy| text_field_len("policy", policy));
        let mut message = frame::begin(denied.len() + message_len(METADATA, metadata_len));
        message.put_slice(denied);
        put_message_head(&mut message, METADATA, metadata_len);
        put_text_field(&mut message, "reason", reason);
        if let Some(policy) = policy {
            put_text_field(&mut message, "policy", policy);
        }
        frame::finish(message)
    }

    /// The framed answer that lets the request pass.  Only a permit leads here.
    fn encode_permit(
        &self,
        permit: &Permit,
        decision: &Decision,
        http: &Http<'_>,
        policy: Option<&str>,
    ) -> Result<Bytes, AnswerTooLarge> {
        let rules = &decision.rules;
        let held = permit.principal().map(|principal| actor_answer(principal, rules)).transpose()?;
        let encoded = match &held {
            Some(held) => &held.as_ref().expect("an answer that was found or made just now").bytes,
            None => &self.anonymous,
        };
        let (ok, metadata) = split_parts(encoded);
        let extra = request_changes(http, decision);
        let shadow = match decision.context.shadowed {
            Some(deny_reason) => shadow_metadata(deny_reason, decision.context.principal.as_deref())?,
            None => Vec::new(),
        };
        let policy_len = policy.map_or(0, |policy| text_field_len("policy", policy));
        let metadata_len = metadata.len() + shadow.len() + policy_len;
        let ok_len = ok.len() + extra.len();

        let mut message = frame::begin(
            STATUS_OK.len() + message_len(OK_RESPONSE, ok_len) + message_len(METADATA, metadata_len),
        );
        message.put_slice(&STATUS_OK);
        put_message_head(&mut message, OK_RESPONSE, ok_len);
        message.put_slice(ok);
        message.put_slice(&extra);
        put_message_head(&mut message, METADATA, metadata_len);
        message.put_slice(metadata);
        message.put_slice(&shadow);
        if let Some(policy) = policy {
            put_text_field(&mut message, "policy", policy);
        }
        Ok(frame::finish(message))
    }
}

/// `CheckResponse.status` with code 0, spelled out: no reader need guess what its absence means.
const STATUS_OK: [u8; 2] = [0x0a, 0x00];
/// Field numbers of CheckResponse.
const OK_RESPONSE: u32 = 3;
const METADATA: u32 = 4;
/// Field number of OkHttpResponse.headers_to_remove.
const HEADERS_TO_REMOVE: u32 = 5;
/// Field number of OkHttpResponse.query_parameters_to_remove.
const PARAMETERS_TO_REMOVE: u32 = 8;

/// The encoded part of an answer that depends on the actor alone, made at the first request that needs it under
/// these rules.
fn actor_answer(
    principal: &Principal,
    rules: &Snapshot,
) -> Result<Guard<Option<Arc<Encoded>>>, AnswerTooLarge> {
    let held = principal.encoded.load();
    if held.as_ref().is_some_and(|held| held.rules_version == rules.version) {
        return Ok(held);
    }
    let bytes = encode_actor(Some(principal), &rules.actor_headers)?;
    let encoded = Some(Arc::new(Encoded { rules_version: rules.version, bytes }));
    principal.encoded.store(encoded.clone());
    // This very answer is returned: a Check under other rules may store its own meanwhile.
    Ok(Guard::from_inner(encoded))
}

/// OkHttpResponse and dynamic metadata as far as they depend on the actor, one after the other,
/// with the length of the first in front.
fn encode_actor(
    principal: Option<&Principal>,
    actor_headers: &[ActorHeader],
) -> Result<Box<[u8]>, AnswerTooLarge> {
    let mut ok = OkHttpResponse::default();
    let mut size = 0;
    for actor_header in actor_headers {
        match principal.and_then(|principal| actor_header.value(&principal.actor)) {
            Some(value) => {
                size += actor_header.name.len() + value.len();
                ok.headers.push(set_header(&actor_header.name, value));
            }
            None => ok.headers_to_remove.push(actor_header.name.to_string()),
        }
    }
    if size > MAX_BYTES {
        return Err(AnswerTooLarge);
    }
    let metadata = principal.map(actor_metadata).transpose()?.unwrap_or_default();
    let ok = ok.encode_to_vec();
    let length = u32::try_from(ok.len()).map_err(|_| AnswerTooLarge)?;
    Ok([length.to_le_bytes().as_slice(), &ok, &metadata.encode_to_vec()].concat().into())
}

fn split_parts(encoded: &[u8]) -> (&[u8], &[u8]) {
    let (length, parts) = encoded.split_first_chunk().expect("the length stands in front");
    parts.split_at(u32::from_le_bytes(*length) as usize)
}

/// What this request needs beyond the actor's headers: encoded fields of OkHttpResponse.
///
/// Nothing is named here that the request did not show: an Envoy with strict mutation rules would answer 500.
fn request_changes(http: &Http<'_>, decision: &Decision) -> Vec<u8> {
    let rules = &decision.rules;
    let forward = match &decision.context.passed_through {
        _ if rules.forward_credentials => Forward::Everything,
        Some(location) => Forward::Only(location),
        None => Forward::Nothing,
    };
    let removal = CredentialStripping::of(http, &rules.locations, forward);
    let mut fields = Vec::with_capacity(64);
    match removal.cookie {
        CookieChange::None => {}
        CookieChange::Remove => put_text(&mut fields, HEADERS_TO_REMOVE, "cookie"),
        CookieChange::Set(rest) => {
            let change =
                OkHttpResponse { headers: vec![set_header("cookie", rest)], ..OkHttpResponse::default() };
            change.encode(&mut fields).expect("a Vec takes every byte");
        }
    }
    for name in removal.headers {
        put_text(&mut fields, HEADERS_TO_REMOVE, name);
    }
    put_look_alikes(&mut fields, &http.headers, &rules.actor_headers);
    for name in removal.parameters {
        // A name that is not UTF-8 cannot be ours: names are compared decoded, and raw ones are ASCII in a URL.
        if let Ok(name) = std::str::from_utf8(name) {
            put_text(&mut fields, PARAMETERS_TO_REMOVE, name);
        }
    }
    fields
}

/// Removes headers that a careless upstream would take for an actor header, and the failure-mode claim.
fn put_look_alikes(fields: &mut Vec<u8>, headers: &Headers<'_>, actor_headers: &ActorHeaders) {
    let lengths = actor_headers.lengths().and(NameLengthFilter::of([FAILURE_MODE_ALLOWED.as_bytes()]));
    for header in headers.with_name_lengths(lengths) {
        // Pseudo headers are no headers that an upstream could take for one of ours, and cannot be removed.
        if header.name.first() == Some(&b':') {
            continue;
        }
        // The actor header itself is set or removed whatever the request shows.
        let is_look_alike = folds_onto(header.name, FAILURE_MODE_ALLOWED)
            || actor_headers
                .folded_onto_by(header.name)
                .is_some_and(|actor_header| !header.name.eq_ignore_ascii_case(actor_header.name.as_bytes()));
        if is_look_alike && let Ok(name) = std::str::from_utf8(header.name) {
            put_text(fields, HEADERS_TO_REMOVE, name);
        }
    }
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

fn reader(http: Option<&Http<'_>>) -> Reader {
    let content_type = http.and_then(|http| http.headers.first("content-type")).unwrap_or_default();
    let begins_with = |prefix: &[u8]| {
        content_type.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    };
    if begins_with(b"application/grpc") && !begins_with(b"application/grpc-web") {
        Reader::Grpc
    } else {
        Reader::Http
    }
}

/// The answer to a denial, but for its metadata.
fn denial(deny_reason: DenyReason, reader: Reader, rules: &Snapshot) -> CheckResponse {
    let DenialDetails { status, code, error, message, challenge, is_outage, .. } = *deny_reason.details();
    let mut headers = vec![set_header("cache-control", "no-store".to_owned())];
    let body = match reader {
        Reader::Http => {
            headers.push(set_header("content-type", "application/json".to_owned()));
            format!(r#"{{"error": "{error}", "message": "{message}"}}"#)
        }
        Reader::Grpc => {
            // Envoy derives a status from ours of HTTP where we name none, and 400 becomes INTERNAL.
            headers.push(set_header("grpc-status", (code as i32).to_string()));
            message.to_owned()
        }
    };
    let realm = &rules.realm;
    let mut challenge_with = |value| headers.push(add_header("www-authenticate", value));
    match challenge {
        Challenge::None => {}
        Challenge::BearerError | Challenge::BearerErrorAndBasic => {
            challenge_with(format!(r#"Bearer realm="{realm}", error="{error}""#));
        }
        Challenge::BearerAndBasic => challenge_with(format!(r#"Bearer realm="{realm}""#)),
    }
    match challenge {
        Challenge::BearerErrorAndBasic | Challenge::BearerAndBasic
            if rules.locations.reads_basic() && !rules.users.is_empty() =>
        {
            challenge_with(format!(r#"Basic realm="{realm}""#));
        }
        Challenge::None
        | Challenge::BearerError
        | Challenge::BearerErrorAndBasic
        | Challenge::BearerAndBasic => {}
    }
    if status == 503 {
        headers.push(set_header("retry-after", "1".to_owned()));
    }
    let response = DeniedHttpResponse { status: Some(HttpStatus { code: status.into() }), headers, body };
    CheckResponse {
        status: Some(Status { code: code as i32 }),
        http_response: Some(if is_outage && rules.unavailable == Unavailable::Error {
            HttpResponse::ErrorResponse(response)
        } else {
            HttpResponse::DeniedResponse(response)
        }),
        dynamic_metadata: None,
    }
}

/// A header that may stand beside another of its name: Envoy drops denials' headers that say `append: true`,
/// and keeps repeated ones that say nothing.
fn add_header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value }),
        append: None,
        append_action: AppendAction::AppendIfExistsOrAdd.into(),
    }
}

/// `actor` and `credential` for Envoy's access log, RBAC and rate limits.  Never a secret.
///
/// An answer that nests deeper than protobuf lets a reader go is an error to Envoy, which it may let pass.
fn actor_metadata(principal: &Principal) -> Result<Struct, AnswerTooLarge> {
    if principal.actor.nests_too_deep() {
        return Err(AnswerTooLarge);
    }
    let text = |text: &str| ProtoValue { kind: Some(ValueKind::StringValue(text.to_owned())) };
    let mut credential = BTreeMap::from([
        ("kind".to_owned(), text(principal.kind.as_str())),
        ("name".to_owned(), text(&principal.name)),
    ]);
    if let Some(id) = principal.id {
        credential.insert("id".to_owned(), proto_value(&Value::from(id)));
    }
    let fields = principal.actor.members().iter().map(|(name, value)| (name.clone(), proto_value(value)));
    let object = |fields| ProtoValue { kind: Some(ValueKind::StructValue(Struct { fields })) };
    let fields = BTreeMap::from([
        ("actor".to_owned(), object(fields.collect())),
        ("credential".to_owned(), object(credential)),
    ]);
    Ok(Struct { fields })
}

/// `shadow`: why the request would have been denied, and who was known behind it.
///
/// An actor that the policy does not admit stands here alone: rules that read `actor` must not meet it.
fn shadow_metadata(
    deny_reason: DenyReason,
    principal: Option<&Principal>,
) -> Result<Vec<u8>, AnswerTooLarge> {
    let mut shadow = principal.map(actor_metadata).transpose()?.unwrap_or_default();
    let reason = ProtoValue { kind: Some(ValueKind::StringValue(deny_reason.as_str().to_owned())) };
    shadow.fields.insert("reason".to_owned(), reason);
    let shadow = ProtoValue { kind: Some(ValueKind::StructValue(shadow)) };
    Ok(Struct { fields: BTreeMap::from([("shadow".to_owned(), shadow)]) }.encode_to_vec())
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

/// The whole answer that a message holds, for whoever must read one back: `explain` and the tests.
///
/// # Errors
/// The bytes are no CheckResponse.
pub fn decode(message: &[u8]) -> Result<wire::CheckResponse, prost::DecodeError> {
    wire::CheckResponse::decode(message)
}
