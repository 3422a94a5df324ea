//! What holds for every Check, whatever it carries: the same code that answers Envoy, asked in process.

#![allow(deprecated, reason = "Envoy reads `append`, which its protocol calls deprecated")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use envoy_auth_tokens::authorizer::Authorizer;
use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Config, ProcessEnvironment, Source};
use envoy_auth_tokens::ext_authz::codec::frame;
use envoy_auth_tokens::ext_authz::handler::CheckHandler;
use envoy_auth_tokens::identity::Sources;
use envoy_auth_tokens::snapshot::{Snapshot, SnapshotStore};
use envoy_auth_tokens::telemetry::Telemetry;
use envoy_auth_tokens::telemetry::decision_log::DecisionLog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::auth::v3 as full;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::google::protobuf;
use proptest::prelude::*;
use prost::Message;

use crate::harness::grpc::block_on;

const ACTOR_HEADERS: [&str; 5] = ["x-actor", "x-actor-id", "x-actor-role", "x-actor-teams", "x-actor-name"];

const CONFIG: &str = r#"
tokens:
- {token: good-token-alice-1, actor: {id: alice, name: "Zoë, 100%", role: Admin, teams: [a, "b,c"]}}
- {token: good-token-bot-22, actor: {bot_id: my-bot, name: null, teams: []}, policies: [read]}
- {token: good-token-gone-3, actor: {id: gone}, expires: 2001-01-01T00:00:00Z}
users:
- {username: carol, password_hash: "$2b$04$Bi8fSFGkjKURlEPwTA1t3.lgXFu29nQ8HDTfxxDJfUW.8jl9OUwIW"}
credentials:
- bearer
- basic
- {header: x-api-key}
- {query: _auth_token}
- {cookie: tok}
actor_headers: {x-actor: "*", x-actor-id: id, x-actor-role: role, x-actor-teams: teams, x-actor-name: name}
allow_cors_preflight: true
policies:
  read: {allow: {role: "*", bot_id: my-bot}}
  closed: {allow: false}
routes:
- {path: "/open", allow: true}
- {path_prefix: /admin, methods: [GET, POST], allow: {role: Admin}}
- {host: "*.internal", policy: read}
default: {}
"#;

/// Nobody anonymous passes: whatever does not carry a good token is denied.
const CLOSED: &str = "tokens: [{token: good-token-alice-1, actor: {id: alice}}]";

fn service(config: &str) -> CheckHandler {
    let now = "2026-11-21T00:00:00Z".parse().unwrap();
    let source = Source { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now };
    let config = Config::parse(config, &source).unwrap_or_else(|errors| panic!("{errors}"));
    let authorizer = Authorizer::new(
        SnapshotStore::new(Snapshot::build(&config, None).unwrap()),
        Sources::without_keys(Clock::from_fn(move || now)).unwrap(),
    );
    CheckHandler::new(Arc::new(authorizer), Arc::new(Telemetry::new(DecisionLog::silent(), None)))
}

fn answer(service: &CheckHandler, message: Vec<u8>) -> full::CheckResponse {
    let framed = block_on(service.check(&message, None, None));
    assert!(framed.len() > 5, "an empty message would let the request pass");
    full::CheckResponse::decode(frame::message(&framed)).expect("a CheckResponse")
}

#[derive(Debug, Clone)]
struct GeneratedRequest {
    method: String,
    host: String,
    path: String,
    policy: Option<String>,
    /// As sent, line by line.
    lines: Vec<(String, Vec<u8>)>,
}

impl GeneratedRequest {
    /// The lines as Envoy hands them over: those of `authorization` are always joined.
    fn raw_lines(&self) -> Vec<(String, Vec<u8>)> {
        let joined: Vec<&[u8]> = self.all("authorization").collect();
        let mut lines = self.lines.clone();
        lines.retain(|(name, _)| name != "authorization");
        if !joined.is_empty() {
            lines.push(("authorization".to_owned(), joined.join(b",".as_slice())));
        }
        lines
    }

    /// One entry a name, joined with commas, bytes that are not UTF-8 replaced.
    fn joined(&self) -> Vec<(String, String)> {
        let names: BTreeSet<&String> = self.lines.iter().map(|(name, _)| name).collect();
        let join = |name: &String| {
            let value = self.all(name).collect::<Vec<_>>().join(b",".as_slice());
            let value = String::from_utf8_lossy(&value).replace(char::REPLACEMENT_CHARACTER, "!");
            (name.clone(), value)
        };
        names.into_iter().map(join).collect()
    }

    fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.lines.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_slice())
    }

    fn is_utf8(&self) -> bool {
        self.lines.iter().all(|(_, value)| std::str::from_utf8(value).is_ok())
    }

    fn message(&self, raw: bool) -> Vec<u8> {
        use full::attribute_context::{HttpRequest, Request};
        let header = |(key, raw_value)| core::HeaderValue { key, value: String::new(), raw_value };
        let header_map =
            raw.then(|| core::HeaderMap { headers: self.raw_lines().into_iter().map(header).collect() });
        let http = HttpRequest {
            method: self.method.clone(),
            host: self.host.clone(),
            path: self.path.clone(),
            headers: if raw { Default::default() } else { self.joined().into_iter().collect() },
            header_map,
            ..HttpRequest::default()
        };
        let context_extensions = self.policy.iter().map(|name| ("policy".to_owned(), name.clone()));
        let context = full::AttributeContext {
            request: Some(Request { time: None, http: Some(http) }),
            context_extensions: context_extensions.collect(),
            ..full::AttributeContext::default()
        };
        full::CheckRequest { attributes: Some(context) }.encode_to_vec()
    }
}

/// Requests made of what matters, in every mixture.
fn generated_request() -> impl Strategy<Value = GeneratedRequest> {
    let of = |texts: &[&str]| {
        proptest::sample::select(texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    };
    let method = of(&["GET", "HEAD", "POST", "OPTIONS", "DELETE", "get", "", "CONNECT"]);
    let host = of(&["h", "a.internal", "A.Internal:8080", "internal", "", "a@b", "h,i", "[::1]:80"]);
    let path = of(&[
        "/",
        "/open",
        "/open/",
        "/open/..",
        "/admin",
        "/admin/x?a=b",
        "/administrator",
        "/admin//x",
        "/admin/%2e%2e/open",
        "/x;y",
        "/%zz",
        "*",
        "",
        "/open?_auth_token=good-token-alice-1",
        "/?_auth%5Ftoken=good-token-bot-22&b=%20",
        "/?_auth_token=bad",
        "/?_auth_token=good-token-alice-1&_auth_token=x",
        "/a%2fb",
        "/#",
    ]);
    let policy = proptest::option::weighted(0.2, of(&["read", "closed", "nobody", ""]));
    let name = of(&[
        "authorization",
        "authorization",
        "authorization",
        "x-api-key",
        "cookie",
        "connection",
        "x-actor",
        "x_actor_id",
        "x.actor.role",
        "X-Actor-Name",
        "origin",
        "sec-fetch-site",
        "upgrade",
        "access-control-request-method",
        "content-type",
        "x-http-method-override",
        "x-envoy-auth-failure-mode-allowed",
        "x-request-id",
        "x-other",
    ]);
    let value = prop_oneof![
        8 => of(&[
            "Bearer good-token-alice-1", "bearer  good-token-bot-22", "Bearer good-token-gone-3", "Bearer bad-token",
            "Bearer", "Bearer a b", "Basic YXBpX2tleTpnb29kLXRva2VuLWFsaWNlLTE=", "Basic Y2Fyb2w6d3Jvbmc=", "Basic !",
            "Negotiate abc", "good-token-alice-1", "good-token-bot-22", "bad-token", "", "x-actor-id", "close",
            "tok=good-token-alice-1; a=1", "a=1; tok=bad-token", "eat_session=s; b=2", "http://h", "http://evil", "null",
            "same-origin", "cross-site", "application/grpc", "application/grpc-web+proto", "POST", "websocket",
        ]).prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    let lines = proptest::collection::vec((name, value), 0..6);
    (method, host, path, policy, lines).prop_map(|(method, host, path, policy, lines)| GeneratedRequest {
        method,
        host,
        path,
        policy,
        lines,
    })
}

/// A credential that could make an actor stands somewhere in the request.
fn shows_a_good_token(generated: &GeneratedRequest) -> bool {
    let everything = [generated.path.as_bytes().to_vec()]
        .into_iter()
        .chain(generated.lines.iter().map(|(_, value)| value.clone()));
    let mut texts = everything.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    texts.any(|text| {
        ["good-token-alice-1", "good-token-bot-22", "YXBpX2tleTpnb29kLXRva2VuLWFsaWNlLTE="]
            .iter()
            .any(|token| text.contains(token))
    })
}

fn assert_legal(name: &str, value: &str) {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(!name.is_empty() && name.bytes().all(legal), "{name:?}");
    assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{name}: {value:?}");
    assert_eq!(value.trim(), value, "{name}");
    assert!(!value.is_empty(), "{name}");
}

fn assert_well_formed(generated: &GeneratedRequest, answer: &full::CheckResponse) {
    let code = answer.status.as_ref().expect("a status").code;
    match answer.http_response.as_ref().expect("a response") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(code, 0);
            let set: Vec<&str> =
                ok.headers.iter().map(|option| option.header.as_ref().unwrap().key.as_str()).collect();
            for name in ACTOR_HEADERS {
                let times = set.iter().filter(|set| **set == name).count();
                let removed = ok.headers_to_remove.iter().any(|removed| removed == name);
                assert_eq!(
                    times + usize::from(removed),
                    1,
                    "{name} is set or removed, never both, never neither"
                );
            }
            for option in &ok.headers {
                let header = option.header.as_ref().unwrap();
                if header.key != "cookie" {
                    assert_legal(&header.key, &header.value);
                }
                assert!(header.raw_value.is_empty());
                assert!(!option.append.as_ref().expect("append is said").value);
                assert_eq!(
                    option.append_action,
                    core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd as i32
                );
                let shown = generated.lines.iter().any(|(name, _)| *name == header.key);
                assert!(
                    ACTOR_HEADERS.contains(&header.key.as_str()) || shown,
                    "{} was not asked for",
                    header.key
                );
            }
            for name in &ok.headers_to_remove {
                let shown = generated.lines.iter().any(|(found, _)| found == name);
                assert!(ACTOR_HEADERS.contains(&name.as_str()) || shown, "{name} was not in the request");
            }
            if set.contains(&"x-actor") {
                assert!(shows_a_good_token(generated), "an actor out of nothing");
            }
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(code, 0);
            let status = denied.status.as_ref().expect("a status").code;
            assert!([400, 401, 403, 503].contains(&status), "{status}: {answer:?}");
            for option in &denied.headers {
                let header = option.header.as_ref().unwrap();
                assert_legal(&header.key, &header.value);
                assert!(
                    option.append.as_ref().is_none_or(|append| !append.value),
                    "Envoy drops what appends"
                );
            }
            let has_challenge =
                denied.headers.iter().any(|option| option.header.as_ref().unwrap().key == "www-authenticate");
            assert_eq!(has_challenge, status != 503);
        }
        HttpResponse::ErrorResponse(_) => {
            panic!("an error_response lets Envoy choose to fail open")
        }
    }
    assert!(answer.dynamic_metadata.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_answer_is_well_formed_and_both_encodings_agree(generated in generated_request()) {
        thread_local!(static SERVICE: CheckHandler = service(CONFIG));
        SERVICE.with(|service| {
            let raw = answer(service, generated.message(true));
            let joined = answer(service, generated.message(false));
            assert_well_formed(&generated, &raw);
            assert_well_formed(&generated, &joined);
            // Bytes that are not UTF-8 have become others in the map, so only the rest must agree;
            // and a password that is being verified for one may be known to be wrong for the other, or lock its user.
            let unverified = |answer: &full::CheckResponse| answer.status.as_ref().unwrap().code == 14;
            if generated.is_utf8() && !unverified(&raw) && !unverified(&joined) {
                assert_eq!(without_order(before_a_lock(raw)), without_order(before_a_lock(joined)));
            }
        });
    }

    #[test]
    fn a_policy_that_is_not_enforced_makes_nobody_an_actor_who_would_not_be_one(generated in generated_request(), raw in any::<bool>()) {
        thread_local!(static ENFORCED: CheckHandler = service(CONFIG));
        thread_local!(static SHADOW: CheckHandler = service(&not_enforced(CONFIG)));
        let message = generated.message(raw);
        let enforced = ENFORCED.with(|service| answer(service, message.clone()));
        let shadow = SHADOW.with(|service| answer(service, message));
        assert_well_formed(&generated, &shadow);
        assert_shadow_of(&enforced, &shadow);
    }

    #[test]
    fn no_bytes_make_a_check_fail_or_pass(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        thread_local!(static SERVICE: CheckHandler = service(CLOSED));
        SERVICE.with(|service| {
            let answer = answer(service, bytes);
            assert_ne!(answer.status.expect("a status").code, 0);
        });
    }

    #[test]
    fn no_damage_to_a_message_makes_a_check_fail(
        generated in generated_request(),
        raw in any::<bool>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        thread_local!(static SERVICE: CheckHandler = service(CONFIG));
        let mut message = generated.message(raw);
        let index = at.index(message.len());
        if cut { message.truncate(index) } else { message[index] = byte }
        SERVICE.with(|service| {
            let answer = answer(service, message);
            let code = answer.status.expect("a status").code;
            let passes = matches!(answer.http_response, Some(HttpResponse::OkResponse(_)));
            assert_eq!(code == 0, passes);
            assert_ne!(code, 13, "a panic");
        });
    }
}

/// The same configuration with no policy enforced.
fn not_enforced(config: &str) -> String {
    let text = config
        .replace("my-bot}}\n", "my-bot}, enforce: false}\n")
        .replace("allow: false}", "allow: false, enforce: false}")
        .replace("allow: true}", "allow: true, enforce: false}")
        .replace("allow: {role: Admin}}", "allow: {role: Admin}, enforce: false}")
        .replace("default: {}", "default: {enforce: false}");
    assert_eq!(text.matches("enforce: false").count(), 5, "{text}");
    text
}

/// Reasons that precede a policy, or that no policy can answer for.
const ALWAYS_ENFORCED: [&str; 7] = [
    "path_",
    "illegal_host",
    "illegal_method",
    "method_override",
    "unknown_policy",
    "context_key",
    "connection_names_actor_header",
];

fn assert_shadow_of(enforced: &full::CheckResponse, shadow: &full::CheckResponse) {
    let metadata_of =
        |answer: &full::CheckResponse| answer.dynamic_metadata.clone().unwrap_or_default().fields;
    let text = |value: Option<&protobuf::Value>| match value.and_then(|value| value.kind.clone()) {
        Some(protobuf::value::Kind::StringValue(text)) => text,
        other => panic!("no text: {other:?}"),
    };
    let (enforced_metadata, shadow_metadata) = (metadata_of(enforced), metadata_of(shadow));
    match (&enforced.http_response, &shadow.http_response) {
        (Some(HttpResponse::OkResponse(_)), _) => {
            assert_eq!(without_order(enforced.clone()), without_order(shadow.clone()));
        }
        (_, Some(HttpResponse::OkResponse(ok))) => {
            let set = ok.headers.iter().filter_map(|option| option.header.as_ref());
            let set: Vec<_> = set.map(|header| header.key.as_str()).filter(|key| *key != "cookie").collect();
            assert_eq!(set, [""; 0], "nobody has earned a header");
            assert!(!shadow_metadata.contains_key("actor") && !shadow_metadata.contains_key("credential"));
            let Some(protobuf::value::Kind::StructValue(would_be)) = &shadow_metadata["shadow"].kind else {
                panic!("{shadow:?}");
            };
            let reasons = [text(enforced_metadata.get("reason")), text(would_be.fields.get("reason"))];
            // A password that is being verified for one may be known to be wrong for the other.
            if !reasons.contains(&"password_unverified".to_owned()) {
                assert_eq!(reasons[0], reasons[1]);
            }
        }
        (_, _) => {
            let reason = text(shadow_metadata.get("reason"));
            assert!(ALWAYS_ENFORCED.iter().any(|enforced| reason.starts_with(enforced)), "{reason}");
        }
    }
}

/// The same as before its user was locked: only the reason differs.
fn before_a_lock(mut answer: full::CheckResponse) -> full::CheckResponse {
    let fields = answer.dynamic_metadata.as_mut().map(|metadata| &mut metadata.fields);
    if let Some(reason) = fields.and_then(|fields| fields.get_mut("reason"))
        && let Some(protobuf::value::Kind::StringValue(reason)) = &mut reason.kind
        && reason == "user_locked"
    {
        "wrong_password".clone_into(reason);
    }
    answer
}

/// What two answers to one request may differ in: the order of what is removed.
fn without_order(mut answer: full::CheckResponse) -> full::CheckResponse {
    if let Some(HttpResponse::OkResponse(ok)) = &mut answer.http_response {
        ok.headers_to_remove.sort();
        ok.headers_to_remove.dedup();
        // What remains of several cookie lines is joined as they were handed over.
        ok.headers.retain(|option| option.header.as_ref().is_some_and(|header| header.key != "cookie"));
    }
    answer
}
