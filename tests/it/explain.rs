//! `explain` tells what the server decides: by the same code, from flags, requests and log lines.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use serde_json::{Map, Value, json};

use crate::harness::server::{Ran, Server, Setup, run};
use crate::harness::slapd::{
    GROUPS_OF_ANN, PASSWORDS, PEOPLE, READER, READER_PASSWORD, Slapd, password, person,
};
use crate::harness::{MAX_WAIT, grpc};

const CONFIG: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice, role: Viewer, level: 3}}
- name: reporting
  token: report-token-0123456789
  actor: {id: reporting, role: Admin}
  policies: [read]
- {name: old, token: old-token-0123456789ab, actor: {id: old}, expires: '2020-01-01T00:00:00Z'}
users: [{username: rob, password: a-long-password, actor: {id: rob, role: Admin}}]
credentials: [bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: auth_token}]
allow_cors_preflight: true
policies:
  read: {allow: {role: [Viewer, Admin]}}
  admin: {allow: {role: Admin, unauthenticated: false}}
routes:
- {host: '*.internal.example', path_prefix: /admin, allow: true}
- {path_prefix: /admin, methods: [GET, POST], policy: admin}
- {path_prefix: /admin, allow: false}
- {path_prefix: /open, allow: {unauthenticated: true}}
- {path_prefix: /read, policy: read}
default: {}
";

const SECRETS: [&str; 4] = ["alice-token-0123", "report-token-0123", "old-token-0123", "a-long-password"];

/// What `explain --json` prints with this on its standard input.
#[track_caller]
fn explain(setup: &Setup, arguments: &[&str], input: &str) -> Value {
    let ran = run(setup.command(["explain", "--json"].iter().chain(arguments)), input);
    assert_eq!(ran.code(), Some(0), "{arguments:?} {ran:?}");
    assert_secretless(&ran);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

fn assert_secretless(ran: &Ran) {
    for secret in SECRETS {
        assert!(!format!("{ran:?}").contains(secret), "{secret} in {ran:?}");
    }
}

/// The parts of an answer that matter to Envoy, from `explain` or from a Check.
#[derive(Debug, PartialEq)]
struct Outcome {
    code: i64,
    status: Option<i64>,
    body: Option<String>,
    set: BTreeSet<String>,
    removed: BTreeSet<String>,
    parameters: BTreeSet<String>,
    metadata: Value,
}

fn explained_outcome(explanation: &Value) -> Outcome {
    let answer = &explanation["answer"];
    let texts = |name: &str| -> BTreeSet<String> {
        let list = answer[name].as_array().unwrap_or_else(|| panic!("{name}: {explanation}"));
        list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    Outcome {
        code: answer["code"].as_i64().unwrap(),
        status: answer["status"].as_i64(),
        body: answer["body"].as_str().map(str::to_owned),
        set: texts("set_headers").into_iter().chain(texts("headers")).collect(),
        removed: texts("remove_headers"),
        parameters: texts("remove_query_parameters"),
        metadata: answer["metadata"].clone(),
    }
}

fn outcome_of(answer: &CheckResponse) -> Outcome {
    // What `explain` shows of a cookie header is only that it is there.
    let header = |option: &HeaderValueOption| {
        let header = option.header.as_ref().unwrap();
        match header.key.as_str() {
            "cookie" => "cookie: (the rest of it)".to_owned(),
            name => format!("{name}: {}", header.value),
        }
    };
    let metadata = answer.dynamic_metadata.as_ref().unwrap();
    let mut outcome = Outcome {
        code: grpc::code(answer).into(),
        status: None,
        body: None,
        set: BTreeSet::new(),
        removed: BTreeSet::new(),
        parameters: BTreeSet::new(),
        metadata: json_of(&metadata.fields.iter().collect()),
    };
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(ok) => {
            outcome.set = ok.headers.iter().map(header).collect();
            outcome.removed = ok.headers_to_remove.iter().cloned().collect();
            outcome.parameters = ok.query_parameters_to_remove.iter().cloned().collect();
        }
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            outcome.set = denied.headers.iter().map(header).collect();
            outcome.status = denied.status.as_ref().map(|status| status.code.into());
            outcome.body = Some(denied.body.clone());
        }
    }
    outcome
}

fn json_of(fields: &BTreeMap<&String, &envoy_types::pb::google::protobuf::Value>) -> Value {
    use envoy_types::pb::google::protobuf::value::Kind;
    fn value(found: &envoy_types::pb::google::protobuf::Value) -> Value {
        match found.kind.as_ref().unwrap() {
            Kind::NullValue(_) => Value::Null,
            Kind::NumberValue(number) if number.fract() == 0.0 => json!(*number as i64),
            Kind::NumberValue(number) => json!(number),
            Kind::StringValue(text) => json!(text),
            Kind::BoolValue(flag) => json!(flag),
            Kind::StructValue(inner) => json_of(&inner.fields.iter().collect()),
            Kind::ListValue(list) => list.values.iter().map(value).collect(),
        }
    }
    let members: Map<String, Value> =
        fields.iter().map(|(name, found)| ((*name).clone(), value(found))).collect();
    Value::Object(members)
}

/// One request: method, host, path, header lines, Envoy's policy.
type SentRequest =
    (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

const ALICE: (&str, &str) = ("authorization", "Bearer alice-token-0123456789");
const REPORTING: (&str, &str) = ("x-api-key", "report-token-0123456789");

const REQUESTS: &[SentRequest] = &[
    ("GET", "h", "/", &[ALICE], None),
    ("GET", "h", "/", &[], None),
    ("GET", "h", "/open/x", &[], None),
    ("GET", "h", "/open/x", &[ALICE], None),
    ("GET", "A.Internal.Example:8080", "/admin/x?b=c", &[], None),
    ("GET", "h", "/admin/x", &[ALICE], None),
    ("POST", "h", "/admin/x", &[("authorization", "Basic cm9iOmEtbG9uZy1wYXNzd29yZA==")], None),
    ("DELETE", "h", "/admin/x", &[ALICE], None),
    ("GET", "h", "/read", &[REPORTING], None),
    ("GET", "h", "/", &[REPORTING], None),
    ("GET", "h", "/", &[REPORTING], Some("read")),
    ("GET", "h", "/", &[ALICE], Some("admin")),
    ("GET", "h", "/", &[ALICE], Some("nobody")),
    ("GET", "h", "/a//b", &[ALICE], None),
    ("get", "h", "/", &[ALICE], None),
    ("GET", "", "/", &[ALICE], None),
    ("GET", "h", "/", &[ALICE, ("x-http-method-override", "DELETE")], None),
    ("GET", "h", "/", &[ALICE, ("connection", "x-actor")], None),
    ("GET", "h", "/", &[ALICE, ("X_Actor", "evil"), ("x-actor-id", "evil")], None),
    ("GET", "h", "/", &[("authorization", "Bearer old-token-0123456789ab")], None),
    ("GET", "h", "/", &[("authorization", "Bearer unknown")], None),
    ("GET", "h", "/", &[("authorization", "Bearer a b")], None),
    ("GET", "h", "/", &[("authorization", "Negotiate abc"), REPORTING], None),
    ("GET", "h", "/?_auth_token=alice-token-0123456789&x=1", &[], None),
    ("GET", "h", "/?_auth_token=a&_auth_token=b", &[], None),
    ("GET", "h", "/", &[("cookie", "a=1; auth_token=alice-token-0123456789; b=2")], None),
    (
        "POST",
        "h",
        "/",
        &[("cookie", "auth_token=alice-token-0123456789"), ("sec-fetch-site", "cross-site")],
        None,
    ),
    ("OPTIONS", "h", "/admin", &[("origin", "http://o"), ("access-control-request-method", "PUT")], None),
    ("GET", "h", "/", &[("content-type", "application/grpc")], None),
];

fn check_request(sent: &SentRequest, raw: bool) -> CheckRequest {
    let (method, host, path, headers, policy) = sent;
    let mut request = grpc::request(method, host, path, if raw { &[] } else { headers });
    let attributes = request.attributes.as_mut().unwrap();
    if let Some(policy) = policy {
        attributes.context_extensions.insert("policy".to_owned(), (*policy).to_owned());
    }
    if raw {
        let lines = headers.iter().map(|(name, value)| HeaderValue {
            key: (*name).to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        });
        let map = HeaderMap { headers: lines.collect() };
        attributes.request.as_mut().unwrap().http.as_mut().unwrap().header_map = Some(map);
    }
    request
}

/// The same as protobuf writes JSON.
fn check_request_json(sent: &SentRequest, raw: bool) -> Value {
    use base64::Engine as _;
    let (method, host, path, headers, policy) = sent;
    let mut http = json!({"method": method, "host": host, "path": path});
    if raw {
        let encode = |value: &str| base64::engine::general_purpose::STANDARD.encode(value);
        let lines: Vec<_> =
            headers.iter().map(|(key, value)| json!({"key": key, "rawValue": encode(value)})).collect();
        http["headerMap"] = json!({"headers": lines});
    } else {
        http["headers"] = headers.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    }
    let mut attributes = json!({"request": {"http": http}});
    if let Some(policy) = policy {
        attributes["contextExtensions"] = json!({"policy": policy});
    }
    json!({"attributes": attributes})
}

#[test]
fn explain_and_a_check_agree_about_every_request() {
    let setup = Server::with(CONFIG);
    let server = Server::with(CONFIG).start();
    for sent in REQUESTS {
        for raw in [true, false] {
            // A password may take longer than one Check.
            let begun = std::time::Instant::now();
            let checked = loop {
                let answer = grpc::check(&server, check_request(sent, raw));
                if grpc::code(&answer) != 14 || begun.elapsed() > MAX_WAIT {
                    break answer;
                }
            };
            let explanation =
                explain(&setup, &["--request", "-"], &check_request_json(sent, raw).to_string());
            assert_eq!(
                explained_outcome(&explanation),
                outcome_of(&checked),
                "{sent:?} raw {raw}: {explanation}"
            );
            let reason = &explanation["answer"]["metadata"]["reason"];
            assert_eq!(
                explanation["reason"],
                if reason.is_null() { json!("admitted") } else { reason.clone() }
            );
        }
    }
}

#[test]
fn each_step_is_shown_with_its_line() {
    let setup = Server::with(CONFIG).file("alice", "alice-token-0123456789");
    let alice = setup.folder().join("alice");
    let path = setup.write();
    let text = std::fs::read_to_string(&path).unwrap();
    let line_of = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    let explanation = explain(&setup, &["--path", "/admin/x", "--token-file", alice.to_str().unwrap()], "");

    assert_eq!(explanation["selection"]["by"], "route");
    let routes = explanation["selection"]["routes"].as_array().unwrap();
    let seen: Vec<_> =
        routes.iter().map(|route| (&route["key"], &route["matches"], &route["differs"])).collect();
    assert_eq!(
        json!(seen),
        json!([["routes[0]", false, "host"], ["routes[1]", true, null]]),
        "the later ones were not asked"
    );
    assert_eq!(routes[1]["line"], line_of("[GET, POST]"));
    assert_eq!(explanation["selection"]["at"]["key"], "policies.admin");
    assert_eq!(explanation["selection"]["at"]["line"], line_of("admin: {allow"));
    assert_eq!(explanation["locations"][0]["carries"], "token");
    assert_eq!(explanation["locations"][0]["line"], line_of("credentials:"));
    assert_eq!(explanation["locations"][1]["carries"], "not_asked");
    assert_eq!(explanation["credential"]["name"], "token-1");
    assert_eq!(explanation["credential"]["at"]["key"], "tokens[0]");
    assert_eq!(explanation["credential"]["at"]["line"], line_of("id: alice"));
    assert_eq!(explanation["admission"]["at"]["key"], "policies.admin.allow");
    assert!(explanation["admission"]["says"].as_str().unwrap().contains("no member"), "{explanation}");

    let ran = setup.run(["explain", "--path", "/read", "--token-file", alice.to_str().unwrap()]);
    assert_secretless(&ran);
    let position = |part: &str, column: usize| format!("({}:{}:{column})", path.display(), line_of(part));
    for found in [
        "routes[3] does not match: another path",
        "routes[4] matches",
        "the allow block's `role` admits the actor",
        "decision     allowed",
        &position("id: alice", 3),
        &position("read: {allow", 18),
    ] {
        assert!(ran.stdout.contains(found), "no {found}:\n{}", ran.stdout);
    }
}

#[test]
fn an_expired_token_is_named_and_a_wrong_password_too() {
    let setup = Server::with(CONFIG);
    let expired = explain(&setup, &["--path", "/", "--token-file", "-"], "old-token-0123456789ab");
    assert_eq!(expired["reason"], "expired_token");
    assert_eq!(expired["identity"]["at"]["key"], "tokens[2]");
    assert!(expired["identity"]["says"].as_str().unwrap().contains("dead since 2020-01-01"), "{expired}");
    let wrong = explain(&setup, &["--path", "/", "--user", "rob", "--password-file", "-"], "another");
    assert_eq!(wrong["reason"], "wrong_password");
    assert_eq!(wrong["identity"]["at"]["key"], "users[0]");
}

#[test]
fn with_exit_code_a_denial_ends_with_3() {
    let setup = Server::with(CONFIG);
    assert_eq!(setup.run(["explain", "--path", "/", "--exit-code"]).code(), Some(3));
    assert_eq!(setup.run(["explain", "--path", "/open", "--exit-code"]).code(), Some(0));
    assert_eq!(setup.run(["explain", "--path", "/"]).code(), Some(0));
}

#[test]
fn a_request_is_read_from_json_and_what_is_none_is_refused_without_being_shown() {
    let setup = Server::with(CONFIG);
    let request = json!({
        "method": "POST", "host": "h", "path": "/read/x?y=z", "policy": "admin",
        "headers": {"Cookie": ["a=1", "auth_token=alice-token-0123456789"]},
    });
    let read = explain(&setup, &["--request", "-"], &request.to_string());
    assert_eq!(read["selection"]["by"], "context_extensions");
    assert_eq!(read["reason"], "not_admitted");
    assert_eq!(read["request"]["path"], "/read/x", "no query");
    assert_eq!(read["request"]["headers"], json!(["cookie", "cookie"]));
    // The secret may come from elsewhere.
    let file = setup.folder().join("request.json");
    std::fs::write(&file, r#"{"path": "/"}"#).unwrap();
    let file = file.to_str().unwrap();
    let read = explain(&setup, &["--request", file, "--token-file", "-"], "alice-token-0123456789");
    assert_eq!(read["decision"], "allowed");

    for wrong in [
        "alice-token-0123456789",
        "[]",
        r#"{"path": 7}"#,
        r#"{}"#,
        r#"{"path": "/", "heders": {}}"#,
        r#"{"path": "/", "headers": "alice-token-0123456789"}"#,
        r#"{"path": "/", "headers": {"x": {"y": "alice-token-0123456789"}}}"#,
        r#"{"attributes": {"request": {}}}"#,
        r#"{"attributes": {"request": {"http": {"headerMap": {"headers": [{"key": "a", "rawValue": "~"}]}}}}}"#,
    ] {
        let ran = run(setup.command(["explain", "--request", "-"]), wrong);
        assert_eq!(ran.code(), Some(1), "{wrong}: {ran:?}");
        assert!(ran.stderr.contains("the request cannot be read"), "{wrong}: {ran:?}");
        assert_secretless(&ran);
    }
    let ran = run(setup.command(["explain", "--request", "-", "--path", "/"]), "{}");
    assert_eq!(ran.code(), Some(2), "{ran:?}");
}

#[test]
fn a_line_of_the_decision_log_is_decided_again() {
    let setup = Server::with(CONFIG);
    let server = Server::with(CONFIG).start();
    let mut agreeing = 0;
    for (number, sent) in REQUESTS.iter().enumerate() {
        let id = format!("request-{number}");
        let mut request = check_request(sent, false);
        let http = request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
        http.headers.insert("x-request-id".to_owned(), id.clone());
        grpc::check(&server, request);
        let line = server.decision(&id);
        if line["reason"] == "unknown_policy" {
            let ran = run(setup.command(["explain", "--log-line", "-"]), &line.to_string());
            assert_eq!(ran.code(), Some(1));
            assert!(ran.stderr.contains("does not have its name"), "{ran:?}");
            continue;
        }
        let explanation = explain(&setup, &["--log-line", "-"], &line.to_string());
        let logged = &explanation["logged"];
        assert_eq!((&logged["reason"], &logged["decision"]), (&line["reason"], &line["decision"]));
        let not_in_the_line = [
            "method_override",
            "connection_names_actor_header",
            "duplicate_credential",
            "malformed_token",
            "expired_token",
            "cross_site",
            "password_unverified",
        ];
        if not_in_the_line.contains(&line["reason"].as_str().unwrap()) {
            assert_eq!(logged["agrees"], Value::Null, "{sent:?} {line} {explanation}");
            continue;
        }
        assert_eq!(logged["agrees"], true, "{sent:?} {line} {explanation}");
        assert_eq!(
            (&explanation["decision"], &explanation["reason"]),
            (&line["decision"], &line["reason"]),
            "{sent:?}"
        );
        assert_eq!(explanation["policy"], line["policy"], "{sent:?}");
        assert_eq!(explanation["credential"]["name"], line["credential.name"], "{sent:?}");
        assert!(!explanation.to_string().contains("stand-in"), "{explanation}");
        agreeing += 1;
    }
    // The others are of the reasons above, one or two of each.
    assert!(agreeing >= 18, "{agreeing} of {}", REQUESTS.len());
}

#[test]
fn a_line_of_the_text_log_is_read_as_well() {
    let setup = Server::with(CONFIG);
    let server = Server::with(CONFIG).text_log().start();
    let headers = [("x-request-id", "r"), ("authorization", ALICE.1)];
    grpc::check(&server, grpc::request("GET", "h", "/admin/a b\"c", &headers));
    let line = server
        .log()
        .wait_for("the decision", |line| line.contains("request_id=\"r\"").then(|| line.to_owned()));
    assert!(!line.starts_with('{'), "{line}");
    let explanation = explain(&setup, &["--log-line", "-"], &line);
    assert_eq!(explanation["logged"]["agrees"], true, "{line}\n{explanation}");
    assert_eq!(
        (&explanation["reason"], &explanation["request"]["path"]),
        (&json!("not_admitted"), &json!("/admin/a b\"c"))
    );
}

#[test]
fn an_unknown_policy_is_named_as_one() {
    let setup = Server::with(CONFIG);
    let explanation = explain(&setup, &["--path", "/", "--policy", "nope"], "");
    assert_eq!(explanation["reason"], "unknown_policy");
    let notes = explanation["notes"].to_string();
    assert!(notes.contains("nope") && notes.contains("does not have") && notes.contains("admin"), "{notes}");
    let ran = run(setup.command(["explain", "--path", "/", "--policy", "nope"]), "");
    assert!(ran.stdout.contains("\"nope\"") && ran.stdout.contains("does not have"), "{ran:?}");
    let without = Server::with("tokens: [{token: other-token-0123456789, name: o, actor: {id: o}}]\n");
    let ran = run(without.command(["explain", "--path", "/", "--policy", "nope"]), "");
    assert!(ran.stdout.contains("no section `policies`"), "{ran:?}");
}

#[test]
fn a_line_that_would_be_decided_otherwise_now_says_so() {
    let server = Server::with(CONFIG).start();
    let headers = [("x-request-id", "r"), ("authorization", ALICE.1)];
    grpc::check(&server, grpc::request("GET", "h", "/admin", &headers));
    let line = server.decision("r").to_string();
    let now = Server::with(&CONFIG.replace("admin: {allow: {role: Admin,", "admin: {allow: {role: Viewer,"));
    let explanation_now = explain(&now, &["--log-line", "-"], &line);
    assert_eq!(explanation_now["logged"]["agrees"], false);
    let says = explanation_now["logged"]["says"].as_str().unwrap();
    assert!(
        says.starts_with("logged: denied not_admitted under admin; now: allowed admitted under admin"),
        "{says}"
    );
    // Whoever is no longer configured is nobody.
    let without = Server::with("tokens: [{token: other-token-0123456789, name: o, actor: {id: o}}]\n");
    let gone = explain(&without, &["--log-line", "-"], &line);
    assert_eq!(gone["reason"], "unknown_token");
    let says = gone["identity"]["says"].as_str().unwrap();
    assert!(says.starts_with("a credential that is unknown now: the line names the token `"), "{says}");
    // The line of an unknown token has nothing about it.
    let unknown = [("x-request-id", "u"), ("authorization", "Bearer unknown-token-0123456789")];
    grpc::check(&server, grpc::request("GET", "h", "/admin", &unknown));
    let unknown = explain(&now, &["--log-line", "-"], &server.decision("u").to_string());
    assert_eq!((&unknown["reason"], &unknown["logged"]["agrees"]), (&json!("unknown_token"), &json!(true)));
    assert_eq!(unknown["identity"]["says"], "an unknown token: the line has no other information about it");
    for wrong in ["allowed GET /", "{}", r#"{"decision": "allowed"}"#] {
        let ran = run(now.command(["explain", "--log-line", "-"]), wrong);
        assert_eq!(ran.code(), Some(1), "{ran:?}");
        assert!(ran.stderr.contains("not a line of the decision log"), "{ran:?}");
    }
}

#[test]
fn issued_keys_are_looked_up_with_keys_and_the_store_is_not_changed() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = folder.path().join("keys.db");
    let config = format!(
        "keys: {{store: 'sqlite:{}'}}\nadmin: {{listen: '127.0.0.1:0'}}\n\
         tokens: [{{token: root-token-0123456789, actor: {{id: root, role: Admin}}}}]\n\
         policies: {{write: {{allow: {{role: Editor}}}}}}\nroutes: [{{path: /write, policy: write}}]\ndefault: {{}}\n",
        store.display()
    );
    let setup = Server::with(&config);
    let ran = run(setup.command(["explain", "--path", "/", "--keys"]), "");
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("keys.db") && !store.exists(), "nothing is created: {ran:?}");

    let server = Server::with(&config).start();
    let admin = format!("http://{}", server.admin());
    let keys = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::server::BINARY);
        command.args(["keys"]).args(arguments).args(["--url", &admin, "--token-file", "-"]);
        let ran = run(command, "root-token-0123456789");
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        ran.stdout.trim_end().to_owned()
    };
    let key = keys(&["create", "deploys", "--role", "Viewer"]);

    let blind = explain(&setup, &["--path", "/", "--token-file", "-"], &key);
    assert_eq!(blind["reason"], "unknown_token");
    assert!(blind["notes"][0].as_str().unwrap().contains("--keys"), "{blind}");
    assert!(blind["identity"]["says"].as_str().unwrap().contains("with a correct checksum"), "{blind}");
    let seeing = explain(&setup, &["--path", "/", "--keys", "--token-file", "-"], &key);
    assert_eq!((&seeing["decision"], &seeing["notes"]), (&json!("allowed"), &json!([])), "{seeing}");
    assert_eq!(seeing["credential"]["kind"], "key");
    let mistyped = format!("{key}x");
    let unknown = explain(&setup, &["--path", "/", "--keys", "--token-file", "-"], &mistyped);
    assert!(
        unknown["identity"]["says"].as_str().unwrap().ends_with("neither has the key store"),
        "{unknown}"
    );

    // The line of a key: without the store nobody knows it.
    let bearer = format!("Bearer {key}");
    let headers = [("x-request-id", "k"), ("authorization", bearer.as_str())];
    grpc::check(&server, grpc::request("GET", "h", "/write", &headers));
    let line = server.decision("k").to_string();
    let ran = run(setup.command(["explain", "--log-line", "-"]), &line);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.contains("`deploys`") && ran.stderr.contains("--keys"), "{ran:?}");
    let again = explain(&setup, &["--log-line", "-", "--keys"], &line);
    assert_eq!(
        (&again["logged"]["agrees"], &again["reason"]),
        (&json!(true), &json!("not_admitted")),
        "{again}"
    );

    // Which of the three it is that disables it.
    let id = seeing["credential"]["id"].to_string();
    let account = "INSERT INTO api_accounts (name, folded_name, role, created_at, created_by, disabled_at) \
                   VALUES ('robots', 'robots', 'Viewer', 0, 'test', 1)";
    crate::harness::sqlite::sql(&store, account);
    for (change, expected) in [
        ("UPDATE api_keys SET disabled_at = 1", "that is disabled"),
        (
            "UPDATE api_keys SET disabled_at = NULL, account_id = (SELECT id FROM api_accounts)",
            "whose service account is disabled",
        ),
        (
            "UPDATE api_keys SET account_id = NULL, owner_source = 'config', owner_subject = 'nobody'",
            "whose owner is gone, disabled, or was not seen for too long",
        ),
    ] {
        crate::harness::sqlite::sql(&store, change);
        let denied = explain(&setup, &["--path", "/", "--keys", "--token-file", "-"], &key);
        assert_eq!(denied["reason"], "disabled_token", "{change}");
        assert_eq!(denied["identity"]["says"], format!("an API key (`deploys`, id {id}) {expected}"));
    }
    crate::harness::sqlite::sql(&store, "UPDATE api_keys SET owner_source = NULL, owner_subject = NULL");

    keys(&["revoke", &id]);
    let revoked = explain(&setup, &["--path", "/", "--keys", "--token-file", "-"], &key);
    assert_eq!(revoked["reason"], "revoked_token");
    assert_eq!(revoked["identity"]["says"], format!("an API key (`deploys`, id {id}) that was revoked"));
    let since = explain(&setup, &["--log-line", "-", "--keys"], &line);
    assert_eq!(
        (&since["logged"]["agrees"], &since["reason"]),
        (&json!(false), &json!("revoked_token")),
        "{since}"
    );
    assert!(!format!("{blind}{seeing}{again}{since}").contains(&key));
}

#[test]
fn people_of_a_directory_are_shown_without_a_password_and_decided_with_one() {
    let slapd = Slapd::start();
    let config = |more: &str| {
        format!(
            "ldap:
  url: {}
  ca: {}
  bind_dn: {READER}
  bind_password: {READER_PASSWORD}
  search_base: {PEOPLE}
  search_filter: (uid=%s)
  roles:
  - {{group: \"{}\", role: Admin}}
  - {{group: \"cn=staff,ou=groups,dc=example,dc=org\", role: Viewer}}
{more}users: [{{username: rob, password: a-long-password, actor: {{id: rob, role: Admin}}}}]
default: {{}}
",
            slapd.tls_url(),
            slapd.ca_file().display(),
            GROUPS_OF_ANN[0],
        )
    };
    let setup = Server::with(&config(""));
    let show = |name: &str| {
        let ran = run(setup.command(["explain", "--user", name, "--connect", "--json"]), "");
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        assert!(!format!("{ran:?}").contains(PASSWORDS), "{ran:?}");
        serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    };
    let ann = show("ANN ");
    assert_eq!((&ann["name"], &ann["source"], &ann["id"]), (&json!("ann"), &json!("ldap"), &json!("ann")));
    assert_eq!(ann["entry"], json!(person("ann")));
    assert_eq!(ann["groups"].as_array().map(Vec::len), Some(GROUPS_OF_ANN.len()), "{ann}");
    assert_eq!((&ann["role"]["role"], &ann["role"]["at"]["key"]), (&json!("Admin"), &json!("ldap.roles[0]")));
    assert!(ann["role"]["at"]["line"].is_u64(), "{ann}");
    assert_eq!((&ann["actor"]["id"], &ann["actor"]["role"]), (&json!("ldap:ann"), &json!("Admin")));
    assert_eq!(ann["rejected"], Value::Null);
    assert_eq!(show("bob")["role"]["at"]["key"], json!("ldap.roles[1]"));
    for (name, reason) in [
        ("nobody", "unknown"),
        ("*", "unknown"),
        ("carol", "no_role"),
        ("dora", "disabled"),
        ("frida", "several_ids"),
        ("sa:deploy", "reserved_id"),
        ("double", "several_entries"),
        ("Rob", "configured_name"),
        ("an\u{ad}n", "invalid_name"),
    ] {
        assert_eq!(show(name)["rejected"]["reason"], json!(reason), "{name}");
    }
    let rob = show("rob");
    assert_eq!((&rob["source"], &rob["actor"]["role"]), (&json!("config"), &json!("Admin")));
    assert_eq!(slapd.binds_of_people(), 0, "no password was needed");

    // As text, and with an exit code for scripts.
    let ran = setup.run(["explain", "--user", "ann", "--connect", "--exit-code"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let row = |title: &str, text: &str| format!("{title:<12} {text}");
    for line in [row("entry", &person("ann")), row("group", GROUPS_OF_ANN[1]), row("role", "Admin  (")] {
        assert!(ran.stdout.lines().any(|shown| shown.starts_with(&line)), "{line}\n{}", ran.stdout);
    }
    assert_eq!(setup.run(["explain", "--user", "carol", "--connect", "--exit-code"]).code(), Some(3));

    // A decision: asked alone when it may be.
    let decide = |arguments: &[&str], password: &str| {
        let given = ["--path", "/", "--user", "ann", "--password-file", "-"];
        let given: Vec<_> = given.iter().chain(arguments).copied().collect();
        explain(&setup, &given, password)
    };
    let searches = slapd.searches();
    let unasked = decide(&[], &password("ann"));
    assert_eq!(
        (&unasked["decision"], &unasked["reason"]),
        (&json!("denied"), &json!("directory_unavailable"))
    );
    assert!(unasked["notes"].to_string().contains("--connect"), "{unasked}");
    assert_eq!(slapd.searches(), searches, "nobody was asked");
    let asked = decide(&["--connect"], &password("ann"));
    assert_eq!(
        (&asked["decision"], &asked["actor"]["id"]),
        (&json!("allowed"), &json!("ldap:ann")),
        "{asked}"
    );
    let wrong = decide(&["--connect"], "wrong");
    assert_eq!(
        (&wrong["decision"], &wrong["reason"]),
        (&json!("denied"), &json!("wrong_password")),
        "{wrong}"
    );

    // What cannot be asked.
    for (arguments, part) in [
        (&["--user", "ann"][..], "--path"),
        (&["--connect"], "--path is missing"),
        (&["--path", "/", "--user", "ann"], "--user needs --password-file"),
        (&["--path", "/", "--user", "ann", "--connect"], "--user needs --password-file"),
    ] {
        let ran = run(setup.command(["explain"].iter().chain(arguments)), "");
        assert!(ran.code() != Some(0) && ran.stderr.contains(part), "{arguments:?} {ran:?}");
    }
    slapd.stop();
    let ran = setup.run(["explain", "--user", "ann", "--connect"]);
    assert_eq!(ran.code(), Some(1), "{ran:?}");
    assert!(ran.stderr.starts_with("error: ldaps://") && !ran.stderr.contains("uid="), "{ran:?}");
    // Programs read the same as JSON.
    let ran = setup.run(["explain", "--user", "ann", "--connect", "--json", "--exit-code"]);
    assert_eq!((ran.code(), ran.stderr.as_str()), (Some(1), ""), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let error = told["error"].as_str().unwrap();
    assert!(error.starts_with("ldaps://") && error.contains("cannot be reached"), "{told}");
    assert!(!error.contains("uid="), "{told}");
}

#[test]
fn a_directory_that_checks_do_not_ask_is_named_and_so_is_the_way_to_ask_it() {
    let slapd = Slapd::start_for_everybody();
    let config = |more: &str| {
        format!(
            "ldap:
  url: {}
  search_base: {PEOPLE}
  search_filter: (uid=%s)
  roles: [{{group: \"*\", role: Viewer}}]
  at_check: false
{more}users: [{{username: rob, password: a-long-password, actor: {{id: rob, role: Admin}}}}]
default: {{}}
",
            slapd.url(),
        )
    };
    let setup = Server::with(&config(""));
    let decide = |setup: &Setup, arguments: &[&str]| {
        let given = ["--path", "/", "--user", "ann", "--password-file", "-"];
        let given: Vec<_> = given.iter().chain(arguments).copied().collect();
        explain(setup, &given, &password("ann"))
    };
    for arguments in [&[][..], &["--connect"]] {
        let told = decide(&setup, arguments);
        assert_eq!(
            (&told["decision"], &told["reason"]),
            (&json!("denied"), &json!("wrong_password")),
            "{told}"
        );
        let identity = told["identity"]["says"].as_str().unwrap();
        assert!(
            identity.contains("the directory was not asked, since with `ldap.at_check: false`"),
            "{told}"
        );
        let notes = told["notes"].to_string();
        assert!(notes.contains("a running server decides the same") && notes.contains("--connect"), "{told}");
    }
    assert_eq!((slapd.searches(), slapd.binds_of_people()), (0, 0));
    // Whom nobody can ask about is not offered.
    let direct = Server::with(&config(&format!("  bind_dn: \"uid=%s,{PEOPLE}\"\n")));
    let told = decide(&direct, &[]);
    assert!(!told["notes"].to_string().contains("--connect"), "{told}");
    // Of a user of the configuration nothing is said of the directory.
    let rob = explain(&setup, &["--path", "/", "--user", "rob", "--password-file", "-"], "wrong");
    assert!(!rob.to_string().contains("at_check"), "{rob}");

    // As it is offered.  There is no `bind_dn`, and none is spoken of.
    let shown = explain(&setup, &["--user", "ann", "--connect"], "");
    assert_eq!(shown["entry"], json!(person("ann")));
    let nobody = explain(&setup, &["--user", "nobody", "--connect"], "");
    let says = nobody["rejected"]["says"].as_str().unwrap();
    assert!(says.contains("without a bind") && says.contains("there is no `bind_dn`"), "{nobody}");
    let ran = setup.run(["explain", "--user", "ann"]);
    assert!(ran.code() == Some(1) && ran.stderr.contains("--user NAME --connect"), "{ran:?}");
}

#[test]
fn a_line_about_somebody_of_a_directory_is_decided_again() {
    let slapd = Slapd::start();
    let config = format!(
        "ldap:
  url: {}
  ca: {}
  bind_dn: {READER}
  bind_password: {READER_PASSWORD}
  search_base: {PEOPLE}
  search_filter: (uid=%s)
  roles: [{{group: \"cn=staff,ou=groups,dc=example,dc=org\", role: Viewer}}]
default: {{allow: {{role: Viewer}}}}
",
        slapd.tls_url(),
        slapd.ca_file().display(),
    );
    let server = Server::with(&config).start();
    let basic = crate::harness::http1::basic("bob", &password("bob"));
    let headers = [("authorization", basic.as_str())];
    // The first answer may come before the directory's.
    crate::harness::wait_until("bob passes", || {
        grpc::code(&grpc::check(&server, grpc::request("GET", "h", "/", &headers))) == 0
    });
    let line = server
        .log()
        .wait_for("a decision", |line| line.contains("\"decision\":\"allowed\"").then(|| line.to_owned()));
    let setup = Server::with(&config);
    let ran = run(setup.command(["explain", "--log-line", "-"]), &line);
    assert!(ran.code() == Some(1) && ran.stderr.contains("--connect"), "{ran:?}");
    let again = explain(&setup, &["--log-line", "-", "--connect"], &line);
    assert_eq!(
        (&again["logged"]["agrees"], &again["actor"]["id"]),
        (&json!(true), &json!("ldap:bob")),
        "{again}"
    );
    slapd.administrator().leave("cn=staff,ou=groups,dc=example,dc=org", &person("bob"));
    let again = explain(&setup, &["--log-line", "-", "--connect"], &line);
    assert_eq!(again["logged"]["agrees"], json!(false), "{again}");
}

/// The commands of this program that a text names in backticks.
fn named_commands(text: &str) -> impl Iterator<Item = &str> {
    let programs = ["explain ", "keys ", "accounts ", "token ", "check", "health", "envoy-auth-tokens "];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(move |text| programs.iter().any(|program| text.starts_with(program)))
}

#[test]
fn the_commands_that_a_reason_advises_exist_and_have_all_their_arguments() {
    let config = format!("{CONFIG}keys: {{store: 'sqlite:keys.db'}}\nadmin: {{listen: '127.0.0.1:0'}}\n");
    let server = Server::with(&config).start();
    // Of the running server's folder, where the key store is.
    let setup = Server::with(
        &config.replace("sqlite:keys.db", &format!("sqlite:{}/keys.db", server.folder().display())),
    );
    let token = server.folder().join("token");
    std::fs::write(&token, "alice-token-0123456789").unwrap();
    let mut commands = Vec::new();
    for reason in envoy_auth_tokens::deny_reason::DenyReason::ALL {
        let ran = run(setup.command(["explain", "--json", "--reason", reason.as_str()]), "");
        let advice: Value = serde_json::from_str(&ran.stdout).unwrap();
        let texts = format!("{} {}", advice["meaning"].as_str().unwrap(), advice["remedy"].as_str().unwrap());
        commands.extend(named_commands(&texts).map(str::to_owned));
    }
    commands.sort();
    commands.dedup();
    assert!(commands.iter().any(|command| command.starts_with("explain --path / ")), "{commands:?}");
    for command in commands {
        let words =
            command.split(' ').map(|word| if word == "FILE" { token.to_str().unwrap() } else { word });
        // A command without arguments is only named.
        let is_named = !command.contains(" --") && !command.contains(char::is_uppercase);
        let mut process = setup.command(words.chain(is_named.then_some("--help")));
        process.env("ENVOY_AUTH_TOKENS_TOKEN_FILE", &token);
        process.env("ENVOY_AUTH_TOKENS_ADMIN_URL", format!("http://{}", server.admin()));
        let ran = run(process, "");
        assert_ne!(ran.code(), Some(2), "`{command}` cannot be parsed: {ran:?}");
        if command.contains("--token-file") {
            assert_eq!(ran.code(), Some(0), "{ran:?}");
            assert!(ran.stdout.contains("\nidentity     token `token-1`"), "{ran:?}");
        }
    }
}
