//! The bytes of a CheckRequest through decoding, deciding and encoding.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use url::{Position, Url};

use super::{authorizer, holds, read_config, wait_for};
use crate::answer::Answer;
use crate::attributes::{Attributes, COMPARISONS, Encoding, Http};
use crate::authorizer::Authorizer;
use crate::config::Unavailable;
use crate::credential::stripping::is_own_cookie;
use crate::decision::{Decision, Outcome};
use crate::deny_reason::DenyReason;
use crate::ext_authz::codec::response::{self, ResponseEncoder};
use crate::ext_authz::codec::{frame, request};
use crate::ext_authz::wire::{self, check_response::HttpResponse};
use crate::return_to::MAX_RETURN_TO;
use crate::snapshot::Snapshot;

/// All that rules can look at, and every place.
const EVERYTHING: &str = r#"
tokens:
- {token: good-token-alice-1, actor: {id: alice, name: "Zoë, 100%", role: Admin, teams: [a, "b,c"]}}
- {token: good-token-bot-22, actor: {bot_id: my-bot, name: null, teams: []}, policies: [read]}
- {token: good-token-gone-3, actor: {id: gone}, expires: 2001-01-01T00:00:00Z}
users:
- {username: carol, password_hash: "$2b$04$Bi8fSFGkjKURlEPwTA1t3.lgXFu29nQ8HDTfxxDJfUW.8jl9OUwIW"}
credentials: [bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: tok}]
actor_headers: {x-actor: "*", x-actor-id: id, x-actor-role: role, x-actor-teams: teams, x-actor-name: name}
allow_cors_preflight: true
policies:
  read: {allow: {role: "*", bot_id: my-bot}}
  closed: {allow: false}
routes:
- {path: "/open", allow: true}
- {path_prefix: /admin, methods: [GET, POST], allow: {role: Admin}}
- {path_regex: '/r/\d+', policy: read}
- {host: "*.internal", policy: read}
default: {}
"#;

/// Only a request with this one token passes, in one of these locations, none of which encodes it.
const CLOSED: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
credentials: [bearer, {header: x-api-key}, {cookie: tok}]
"#;
/// The only setting in which a denial may be a redirect.
const REDIRECTS: &str = "redirecting";
const ONLY_TOKEN: &[u8] = b"good-token-alice-1";

/// Every request without a bad credential passes, in every spelling.
const OPEN: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
credentials: [{cookie: tok}, {query: _auth_token}, {query: t}, {header: x-api-key}, bearer]
unknown_credentials: anonymous
policies: {p: {allow: true}}
routes: [{path_prefix: /a, methods: [GET], allow: true}]
default: {allow: true}
paths: {permit: [empty_segment, encoded_slash, parameters, encoded_delimiter], case: ignore}
"#;

/// What is denied passes, and credentials stay.
const SHADOWED: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice, role: Viewer}}]
credentials: [bearer, {cookie: tok}, {query: _auth_token}]
forward_credentials: true
default: {allow: {role: Admin}, enforce: false}
"#;

/// A browser without a credential is sent to the log-in page of one of two hosts.
const REDIRECTING: &str = r#"
tokens: [{token: good-token-alice-1, actor: {id: alice}}]
users: [{username: carol, password_hash: "$2b$04$Bi8fSFGkjKURlEPwTA1t3.lgXFu29nQ8HDTfxxDJfUW.8jl9OUwIW"}]
keys: {store: "sqlite:keys.db"}
admin:
  public_url: https://keys.example.com
  login_redirect: true
  login_hosts: ["in.example.com:8443"]
session: {domain: example.com}
credentials: [bearer, session, {query: _auth_token}]
routes: [{path_prefix: /open, allow: true}]
default: {}
"#;
const LOG_IN_HOST: &str = "in.example.com:8443";
const DOMAIN: &str = "example.com";

struct Setting {
    name: &'static str,
    authorizer: Authorizer,
    encoder: ResponseEncoder,
}

static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let texts = [
        ("everything", EVERYTHING),
        ("closed", CLOSED),
        ("open", OPEN),
        ("shadowed", SHADOWED),
        (REDIRECTS, REDIRECTING),
    ];
    let setting = |(name, text)| {
        let authorizer = authorizer(read_config(text));
        let encoder = ResponseEncoder::new(&authorizer.snapshot());
        Setting { name, authorizer, encoder }
    };
    texts.into_iter().map(setting).collect()
});

/// The target.
pub fn run(data: &[u8]) {
    let decoded = request::decode(data);
    check_reading(data, decoded.as_ref().ok());
    for setting in SETTINGS.iter() {
        let decision = match &decoded {
            Ok(attributes) => wait_for(setting.authorizer.authorize(attributes, None)),
            Err(_) => denied(setting, DenyReason::Undecodable),
        };
        let http = decoded.as_ref().ok().and_then(|attributes| attributes.http.as_ref());
        let framed = setting.encoder.encode(&Answer::new(&decision, http));
        check_answer(setting.name, data, http, &decision, &framed);
    }
    if let Ok(Attributes { http: Some(http), .. }) = &decoded {
        SETTINGS.iter().for_each(|setting| check_work(setting, http));
    }
}

fn denied(setting: &Setting, deny_reason: DenyReason) -> Decision {
    Decision::deny(setting.authorizer.snapshot(), deny_reason)
}

/// What a decision reads of a request.
#[derive(Debug, PartialEq, Eq)]
struct DecisionInputs {
    policy: Option<Vec<u8>>,
    http: Option<(Vec<u8>, Vec<u8>, Vec<u8>, Encoding, Vec<(Vec<u8>, Vec<u8>)>)>,
}

/// Our reader against the one that prost generates.
fn check_reading(data: &[u8], decoded: Option<&Attributes<'_>>) {
    let generated = match wire::CheckRequest::decode(data) {
        Ok(generated) => generated,
        Err(error) => {
            // It counts the levels of messages and groups together, and ours those of groups.
            let is_deep = error.to_string().contains("recursion limit");
            assert!(decoded.is_none() || is_deep, "read although it is no CheckRequest: {error}");
            return;
        }
    };
    let Some(decoded) = decoded else {
        let http = generated.attributes.and_then(|attributes| attributes.request?.http).unwrap_or_default();
        let lines = http.header_map.map(|map| map.headers.len()).unwrap_or_default();
        assert!(http.headers.len() > 16_384 || lines > 16_384, "a CheckRequest that is not read");
        return;
    };
    let http = decoded.http.as_ref().map(|http| {
        let headers = http.headers.iter().map(|header| (header.name.to_vec(), header.value.to_vec()));
        let headers = each_key_once(http.headers.encoding(), headers.collect());
        (http.method.to_vec(), http.host.to_vec(), http.path.to_vec(), http.headers.encoding(), headers)
    });
    let ours = DecisionInputs { policy: decoded.policy.map(<[u8]>::to_vec), http };
    assert_eq!(ours, seen_by_generated(generated));
}

fn seen_by_generated(request: wire::CheckRequest) -> DecisionInputs {
    let attributes = request.attributes.unwrap_or_default();
    let policies = attributes.context_extensions.iter().filter(|entry| entry.key == b"policy"[..]);
    let policy = policies.last().map(|entry| entry.value.to_vec());
    let http = attributes.request.and_then(|request| request.http).map(|http| {
        let lines = http.header_map.map(|map| map.headers).unwrap_or_default();
        let (encoding, headers): (_, Vec<_>) = if lines.is_empty() {
            let pairs = http.headers.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec()));
            (Encoding::Joined, pairs.collect())
        } else {
            let value = |line: &wire::RawHeader| match line.raw_value.to_vec() {
                empty if empty.is_empty() => line.value.to_vec(),
                raw => raw,
            };
            (Encoding::Lines, lines.iter().map(|line| (line.key.to_vec(), value(line))).collect())
        };
        let headers = each_key_once(encoding, headers);
        (http.method.to_vec(), http.host.to_vec(), http.path.to_vec(), encoding, headers)
    });
    DecisionInputs { policy, http }
}

/// Of a map's entries with one key the last one counts.
fn each_key_once(encoding: Encoding, headers: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    if encoding == Encoding::Lines {
        return headers;
    }
    let last: HashMap<_, _> = headers.iter().zip(0..).map(|((name, _), at)| (name.clone(), at)).collect();
    headers
        .into_iter()
        .zip(0..)
        .filter(|((name, _), at)| last[name] == *at)
        .map(|(header, _)| header)
        .collect()
}

fn check_answer(setting: &str, data: &[u8], http: Option<&Http<'_>>, decision: &Decision, framed: &Bytes) {
    let outcome = decision.outcome();
    // Deeper than 100 levels the generated reader does not go.
    let answer = response::decode(frame::message(framed)).expect("a CheckResponse");
    let code = answer.status.expect("every answer has a status").code;
    assert!(answer.dynamic_metadata.is_some(), "{setting}: every answer says why");
    let is_denied = matches!(outcome, Outcome::Denied(_));
    match answer.http_response.expect("every answer says what becomes of the request") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(code, 0, "{setting}: an OK response with an error");
            assert!(
                decision.verdict.is_ok() && !is_denied,
                "{setting}: passes without a permit: {outcome:?}"
            );
            let http = http.expect("a permit is for an HTTP request");
            assert!(setting != "closed" || holds(data, ONLY_TOKEN), "passes without the only token");
            check_changes(setting, http, decision, &ok);
        }
        HttpResponse::DeniedResponse(denied) => {
            check_denial(setting, http, decision, code, &denied);
            assert!(is_denied, "{setting}: {outcome:?} is denied");
            assert!(decision.verdict.is_err(), "{setting}: a permit is denied: {outcome:?}");
        }
        HttpResponse::ErrorResponse(denied) => {
            check_denial(setting, http, decision, code, &denied);
            assert!(
                decision.snapshot.unavailable == Unavailable::Error,
                "{setting}: an error of the client's making"
            );
        }
    }
}

fn check_denial(
    setting: &str,
    http: Option<&Http<'_>>,
    decision: &Decision,
    code: i32,
    denied: &wire::DeniedHttpResponse,
) {
    assert_ne!(code, 0, "{setting}: a denial with the status of a permit");
    let status = denied.status.as_ref().map_or(0, |status| status.code);
    denied.headers.iter().for_each(check_header);
    if status == 302 {
        assert_eq!(setting, REDIRECTS, "a redirect where there are none");
        assert_eq!(decision.outcome(), Outcome::Denied(DenyReason::NoCredential));
        check_redirect(http.expect("a redirect is for an HTTP request"), denied);
    } else {
        assert!((400..600).contains(&status), "{setting}: a denial with status {status}");
    }
}

/// A browser is sent to a page of ours alone, and back to where it came from alone, without a credential.
fn check_redirect(http: &Http<'_>, denied: &wire::DeniedHttpResponse) {
    assert_eq!(http.method, b"GET");
    assert!(!http.is_grpc() && denied.body.is_empty());
    let headers: Vec<_> = denied.headers.iter().filter_map(|option| option.header.as_ref()).collect();
    let [cache, location] = headers[..] else { panic!("{headers:?}") };
    assert_eq!((&*cache.key, &*cache.value), ("cache-control", "no-store"));
    assert_eq!(location.key, "location");
    let page = Url::parse(&location.value).expect("a URL");
    let page_host = &page[Position::BeforeHost..Position::AfterPort];
    assert!(["keys.example.com", LOG_IN_HOST].contains(&page_host), "{page}");
    assert_eq!((page.scheme(), page.path(), page.fragment()), ("https", "/login", None));
    let parameters: Vec<_> = page.query_pairs().collect();
    let [(name, return_to)] = &parameters[..] else {
        assert!(parameters.is_empty(), "{page}");
        return;
    };
    assert_eq!(name, "return_to");
    assert!(return_to.len() <= MAX_RETURN_TO && return_to.is_ascii());
    // A name that is not valid in the DNS is not in a URL; no browser can come from there.
    let Ok(back) = Url::parse(return_to) else { return };
    let host = back.host_str().expect("a host");
    if page_host == LOG_IN_HOST {
        assert_eq!(&back[Position::BeforeHost..Position::AfterPort], LOG_IN_HOST);
    } else {
        assert!(host == DOMAIN || host.ends_with(&format!(".{DOMAIN}")), "{back}");
    }
    assert_eq!((back.scheme(), back.username(), back.password()), ("https", "", None));
    assert!(back.query_pairs().all(|(name, _)| name != "_auth_token"), "{back}");
}

/// What the header is set to can be sent.
pub(super) fn check_header(option: &wire::HeaderValueOption) {
    let header = option.header.as_ref().expect("a header has a name");
    let is_legal = |byte: u8| byte >= b' ' && byte != 0x7f;
    assert!(header.value.bytes().all(is_legal), "{}: a value that no header can hold", header.key);
}

/// What becomes of a request that passes.
fn check_changes(setting: &str, http: &Http<'_>, decision: &Decision, ok: &wire::OkHttpResponse) {
    let snapshot: &Snapshot = &decision.snapshot;
    ok.headers.iter().for_each(check_header);
    let set: Vec<&str> =
        ok.headers.iter().filter_map(|option| option.header.as_ref()).map(|header| &*header.key).collect();
    let removed: BTreeSet<&str> = ok.headers_to_remove.iter().map(String::as_str).collect();
    for actor_header in snapshot.actor_headers.iter() {
        let name = &*actor_header.name;
        let times_set = set.iter().filter(|set| **set == name).count();
        let is_removed = removed.contains(name);
        assert!(
            times_set == usize::from(!is_removed),
            "{setting}: {name} is set {times_set} times, removed: {is_removed}"
        );
    }
    for name in &set {
        let is_actor_header = snapshot.actor_headers.iter().any(|actor_header| *actor_header.name == **name);
        assert!(is_actor_header || *name == "cookie", "{setting}: {name} is set");
    }
    if decision.context.principal.is_none() || decision.context.shadowed.is_some() {
        let is_cookie = |name: &&str| *name == "cookie";
        assert!(set.iter().all(is_cookie), "{setting}: {set:?} are set without an actor");
    }
    for name in &removed {
        assert!(
            !name.is_empty() && !name.starts_with(':') && *name != "host",
            "{setting}: {name} is removed"
        );
        let is_actor_header = snapshot.actor_headers.iter().any(|actor_header| *actor_header.name == **name);
        assert!(is_actor_header || http.headers.has(name), "{setting}: {name} is removed and was not shown");
    }
    let cookies =
        ok.headers.iter().filter_map(|option| option.header.as_ref()).filter(|header| header.key == "cookie");
    for cookie in cookies {
        // A piece without `=` is no cookie of that name.
        let mut pairs = cookie.value.split(';').filter_map(|pair| pair.split_once('='));
        assert!(pairs.all(|(name, _)| !is_own_cookie(name.trim().as_bytes())), "{setting}: a session stays");
    }
}

/// What of a request grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// The headers come again and again, each time in another spelling.
    Headers,
    /// Their values do, and the last byte of each.
    Values,
    /// The path does, and its query.
    Path,
}

/// Entries of the smaller of two requests: a map of as many is read by a table, whatever the larger one is.
const ENTRIES: usize = 160;

/// The work for a request that has grown against that for one that has grown four times as much.
fn check_work(setting: &Setting, http: &Http<'_>) {
    let entries = http.headers.iter().count();
    let bytes = http.path.len() + http.headers.iter().map(|header| header.value.len()).sum::<usize>();
    if entries == 0 || entries > ENTRIES || bytes > 512 {
        return;
    }
    for (growth, copies) in
        [(Growth::Headers, ENTRIES.div_ceil(entries)), (Growth::Values, 64), (Growth::Path, 64)]
    {
        let (less, more) = (work(setting, http, growth, copies), work(setting, http, growth, 4 * copies));
        assert!(more <= 5 * less + 10_000, "{}, {growth:?}: {less} steps become {more}", setting.name);
    }
}

fn work(setting: &Setting, http: &Http<'_>, growth: Growth, copies: usize) -> usize {
    let message = grown(http, growth, copies).encode_to_vec();
    let before = COMPARISONS.get();
    let attributes = request::decode(&message).expect("what was just encoded");
    let decision = wait_for(setting.authorizer.authorize(&attributes, None));
    let _ = setting.encoder.encode(&Answer::new(&decision, attributes.http.as_ref()));
    COMPARISONS.get() - before
}

fn grown(http: &Http<'_>, growth: Growth, copies: usize) -> wire::CheckRequest {
    let (of_headers, of_values, of_path) = match growth {
        Growth::Headers => (copies, 1, 1),
        Growth::Values => (1, copies, 1),
        Growth::Path => (1, 1, copies),
    };
    let mut path = again_and_again(http.path_without_query(), of_path);
    if let Some(query) = http.query() {
        path.push(b'?');
        path.extend(vec![query; of_path].join(&b'&'));
    }
    let (mut headers, mut lines) = (Vec::new(), Vec::new());
    for copy in 0..of_headers {
        for header in http.headers.iter() {
            let key = spelling(header.name, copy).into();
            let value = again_and_again(header.value, of_values).into();
            match http.headers.encoding() {
                Encoding::Joined => headers.push(wire::Entry { key, value }),
                Encoding::Lines => lines.push(wire::RawHeader { key, value: Bytes::new(), raw_value: value }),
            }
        }
    }
    let header_map = (!lines.is_empty()).then_some(wire::HeaderMap { headers: lines });
    let http = wire::HttpRequest {
        method: http.method.to_vec().into(),
        headers,
        path: path.into(),
        host: http.host.to_vec().into(),
        header_map,
    };
    let request = wire::Request { http: Some(http) };
    let attributes = wire::AttributeContext { request: Some(request), ..wire::AttributeContext::default() };
    wire::CheckRequest { attributes: Some(attributes) }
}

/// The text so many times, and its last byte as often again.
fn again_and_again(text: &[u8], times: usize) -> Vec<u8> {
    let mut all = text.repeat(times);
    all.extend(text.last().into_iter().flat_map(|&last| std::iter::repeat_n(last, times - 1)));
    all
}

/// A name with its letters in upper case where the number has a bit.
fn spelling(name: &[u8], number: usize) -> Vec<u8> {
    let letter =
        |(place, &byte): (usize, &u8)| match number.checked_shr(u32::try_from(place).unwrap_or(u32::MAX)) {
            Some(bits) if bits & 1 == 1 => byte.to_ascii_uppercase(),
            Some(_) | None => byte,
        };
    name.iter().enumerate().map(letter).collect()
}
