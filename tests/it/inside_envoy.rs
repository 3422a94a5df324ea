//! The module inside Envoy's process: what is its own, and that it is the same product.
//!
//! The tables of checks, credentials, policies, denials, users and shadow mode run through it as well as through the
//! server (`Encoding::ALL`, `in_each_form`).  Here a generator compares the two request by request, and the rest is what
//! only a module has: bodies while it waits, Envoy's reloads, its own configuration.

mod fail_closed;
mod hot_restart;
mod many_connections;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::envoy::{Program, module_filter, per_route_module};
use crate::harness::http1::{self, Connection, basic};
use crate::harness::issuer::Issuer;
use crate::harness::postgres::Postgres;
use crate::harness::slapd::{Slapd, password};
use crate::harness::tools::{self, EnvoyRelease};
use crate::harness::{Encoding, Envoy, MAX_WAIT, Server, Shape, Stack, Upstream, wait_until};
use crate::keys_changes::on_each_database;
use crate::people;
use crate::users::settle;

const ALICE: &str = "alice-token-0123456789";
const CONFIG: &str = "
tokens:
- {name: alice, token: alice-token-0123456789, actor: {id: alice, role: Viewer}}
";

fn with_user() -> String {
    format!("{CONFIG}users: [{{username: carol, password: correct horse battery, actor: {{id: carol}}}}]\n")
}

/// What one may send whose headers say that a body follows.
fn bodies() -> [(&'static str, &'static str, &'static str); 4] {
    [
        ("POST", "content-length: 5\r\n", "hello"),
        ("POST", "transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("GET", "transfer-encoding: chunked\r\n", "0\r\n\r\n"),
        ("POST", "transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"),
    ]
}

#[test]
fn no_body_slips_past_while_a_password_is_verified() {
    let stack = Stack::encoded(&with_user(), Encoding::Inside);
    for round in 0..3 {
        for (method, header, body) in bodies() {
            let wrong = basic("carol", &format!("wrong-{round}"));
            let head = format!(
                "{method} /wrong HTTP/1.1\r\nhost: app.example\r\nauthorization: {wrong}\r\n{header}\r\n"
            );
            // The body comes with the head, and after it.
            for pause in [false, true] {
                let mut connection = TcpStream::connect(stack.address()).unwrap();
                connection.set_read_timeout(Some(MAX_WAIT)).unwrap();
                connection.write_all(head.as_bytes()).unwrap();
                if pause {
                    connection.flush().unwrap();
                    std::thread::yield_now();
                }
                connection.write_all(body.as_bytes()).unwrap();
                let head = http1::read_head(&mut BufReader::new(connection)).expect("an answer");
                let status = String::from_utf8_lossy(&head.first).into_owned();
                assert!(status.contains(" 401 ") || status.contains(" 503 "), "{method} {header}: {status}");
            }
        }
    }
    assert_eq!(stack.upstream.calls(), 0, "a request went on that nobody let pass");
}

#[test]
fn a_body_arrives_whole_behind_a_password() {
    let stack = Stack::encoded(&with_user(), Encoding::Inside);
    for (method, header, body) in bodies() {
        let right = basic("carol", "correct horse battery");
        let bytes = format!(
            "{method} / HTTP/1.1\r\nhost: app.example\r\nauthorization: {right}\r\n{header}\r\n{body}"
        );
        // Until the password is verified it may be 503.
        let answer = loop {
            let answer = Connection::to(stack.address()).exchange(bytes.as_bytes(), false);
            if answer.status != 503 {
                break answer;
            }
        };
        let seen = answer.seen();
        assert_eq!(seen.all("x-actor-id"), ["carol"]);
        assert_eq!(seen.body_bytes, if method == "GET" { 0 } else { 5 }, "{header}");
    }
}

#[test]
fn a_client_that_leaves_while_its_password_is_verified_harms_nobody() {
    let stack = Stack::encoded(&with_user(), Encoding::Inside);
    for guess in 0..20 {
        let wrong = basic("carol", &format!("guess-{guess}"));
        let mut connection = TcpStream::connect(stack.address()).unwrap();
        let head =
            format!("POST / HTTP/1.1\r\nhost: a\r\nauthorization: {wrong}\r\ncontent-length: 9\r\n\r\nab");
        connection.write_all(head.as_bytes()).unwrap();
        drop(connection);
    }
    assert_eq!(stack.get("/").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"]);
    assert_eq!(stack.upstream.calls(), 1);
}

/// A generator of numbers, which gives the same ones for the same seed (SplitMix64: Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, values: &[&'a T]) -> &'a T {
        values[self.below(values.len())]
    }
}

const DIFFERENTIAL: &str = r#"
tokens:
- {name: alice, token: alice-token-0123456789, actor: {id: alice, role: Viewer, teams: [a, "b,c"], n: 1.5, "ü": {x: null}}}
- {name: root, token: root-token-01234567890, actor: {id: root, role: Admin, name: Zoë}}
- {name: late, token: late-token-0123456789a, actor: {id: late}, expires: '2020-01-01T00:00:00Z'}
- {name: narrow, token: narrow-token-012345678, actor: {id: narrow}, policies: [read]}
credentials: [bearer, basic, {header: x-api-key}, {query: _auth_token}, {cookie: auth_token}]
allow_cors_preflight: true
actor_headers: {x-actor: "*", x-actor-id: id, x-actor-name: name, x-actor-role: role, x-teams: teams}
policies: {read: {allow: {role: [Viewer, Admin]}}, trial: {allow: {role: Admin}, enforce: false}}
routes:
- {path_prefix: /open, allow: {unauthenticated: true, role: [Viewer]}}
- {path_prefix: /trial, policy: trial}
- {path: /mine, methods: [GET, POST], policy: read}
- {host: "*.internal.example", path_prefix: /admin, allow: {role: Admin}}
- {path_prefix: /closed, allow: false}
default: {}
"#;

/// One request: its bytes, and whether its answer has no body.
fn generate(random: &mut Random, id: &str) -> (Vec<u8>, bool) {
    const METHODS: [&str; 9] = ["GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "MOVE", "get"];
    const PATHS: [&str; 20] = [
        "/",
        "/mine",
        "/mine/",
        "/Mine",
        "/open/x",
        "/open/../mine",
        "/a//b",
        "/closed",
        "/admin/x",
        "/admin;x=1",
        "/%2fadmin",
        "/%zz",
        "/trial/a",
        "/open%2f..%2fclosed",
        "/x.json",
        "/mine%20",
        "/named",
        "/named/x",
        "/open",
        "/ü",
    ];
    const QUERIES: [&str; 10] = [
        "_auth_token=alice-token-0123456789",
        "z=1&_auth_token=root-token-01234567890&a=2",
        "flag&_auth%5Ftoken=alice-token-0123456789&&b=%20x",
        "_auth_token=nobody-token-012345678&b=1",
        "_auth_token=&b=1",
        "_auth_token=alice-token-0123456789&_auth_token=root-token-01234567890",
        "b=2&a=1",
        "",
        "_method=DELETE",
        "_auth_token=late-token-0123456789a&_auth_token",
    ];
    const TOKENS: [&str; 8] = [
        "alice-token-0123456789",
        "alice-token-0123456789",
        "root-token-01234567890",
        "late-token-0123456789a",
        "narrow-token-012345678",
        "nobody-token-012345678",
        "two words",
        "semi;colon-0123456789",
    ];
    const HEADERS: [(&str, &str); 30] = [
        ("x-actor-id", "root"),
        ("X-Actor-Id", "root"),
        ("x_actor_id", "root"),
        ("x.actor.id", "root"),
        ("x-actor", "{}"),
        ("x-actor-name", "eve"),
        ("x-teams", "admins"),
        ("x-envoy-auth-failure-mode-allowed", "true"),
        ("x-envoy_auth.failure-mode-allowed", "true"),
        ("connection", "x-actor-id"),
        ("connection", "keep-alive, x-teams"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/closed"),
        ("x-script-name", "/open"),
        ("x-forwarded-host", "a.internal.example"),
        ("x-forwarded-host", "app.example"),
        ("forwarded", "host=evil"),
        ("content-type", "application/grpc"),
        ("content-type", "application/grpc-web"),
        ("content-type", "application/json"),
        ("origin", "https://app.example"),
        ("access-control-request-method", "PUT"),
        ("sec-fetch-mode", "cors"),
        ("sec-fetch-mode", "navigate"),
        ("accept", "text/html"),
        ("destination", "/closed/x"),
        ("destination", "http://app.example/open/y"),
        ("sec-fetch-site", "cross-site"),
        ("x-city", "Z\u{fc}rich"),
        ("te", "trailers"),
    ];
    let method = random.of(&METHODS);
    let mut target = random.of(&PATHS).to_owned();
    if random.one_in(3) {
        target = format!("{target}?{}", random.of(&QUERIES));
    }
    let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    let host = random.of(&[
        "app.example",
        "App.Example:8080",
        "a.internal.example",
        "a.internal.example.",
        "%61.x",
        "a,b",
    ]);
    head.extend(format!("host: {host}\r\nx-request-id: {id}\r\n").bytes());
    let mut line = |name: &str, value: &[u8]| {
        head.extend(name.bytes());
        head.extend(b": ");
        head.extend(value);
        head.extend(b"\r\n");
    };
    for _ in 0..[0, 1, 1, 1, 1, 2][random.below(6)] {
        let token = random.of(&TOKENS);
        match random.below(10) {
            0..=3 => line("authorization", format!("Bearer {token}").as_bytes()),
            4 => line("Authorization", basic("api_key", token).as_bytes()),
            5 => line("x-api-key", token.as_bytes()),
            6 => line("cookie", format!("a=1; auth_token={token}; b=\"2\"").as_bytes()),
            7 => line("cookie", format!("auth_token={token}").as_bytes()),
            8 => line(
                "authorization",
                random.of(&[&b""[..], b"Bearer", b"Negotiate YWJj", b"Bearer \xff\xfe", b"Basic %%%"]),
            ),
            _ => line("x-api-key", b""),
        }
    }
    for _ in 0..random.below(4) {
        let (name, value) = HEADERS[random.below(HEADERS.len())];
        line(name, value.as_bytes());
    }
    let body: &[u8] = match random.below(8) {
        0 => {
            line("content-length", b"5");
            b"\r\nhello"
        }
        1 => {
            line("transfer-encoding", b"chunked");
            b"\r\n5\r\nhello\r\n0\r\n\r\n"
        }
        2 => {
            line("transfer-encoding", b"chunked");
            b"\r\n0\r\n\r\n"
        }
        _ => b"\r\n",
    };
    head.extend(body);
    (head, method == "HEAD")
}

/// What client and upstream saw, but for what differs from Envoy to Envoy: times and ids.
fn exchange(address: SocketAddr, bytes: &[u8], is_head: bool) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
    let _ = stream.write_all(bytes);
    let mut stream = BufReader::new(stream);
    let Some(head) = http1::read_head(&mut stream) else {
        return "no answer".to_owned();
    };
    let body = if is_head { Some(Vec::new()) } else { http1::read_body(&mut stream, &head, true) };
    let mut headers: Vec<_> = head
        .lines
        .iter()
        .filter(|(name, _)| !matches!(name.as_slice(), b"date" | b"x-envoy-upstream-service-time"))
        .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    // A denial that goes out before the body has come closes the connection: the module's always does.
    headers.retain(|line| line != "connection: close");
    headers.sort();
    let body = body.unwrap_or_default();
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(mut seen) if seen["headers"].is_array() => {
            // Order among headers of different names is Envoy's own.
            let lines = seen["headers"].as_array_mut().unwrap();
            lines.sort_by_key(ToString::to_string);
            headers.retain(|line| !line.starts_with("content-length"));
            seen.to_string()
        }
        _ => body.escape_ascii().to_string(),
    };
    format!("{} {headers:?} {body}", head.first.escape_ascii())
}

/// The access log's entries by the ids of their requests.
fn accessed(envoy: &mut Envoy) -> BTreeMap<String, Value> {
    envoy.stop();
    let entries =
        envoy.log().lines().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
    let entries = entries.filter(|entry| entry["access"] == "log");
    entries.filter_map(|entry| Some((entry["request_id"].as_str()?.to_owned(), entry))).collect()
}

/// Sends so many random requests through ext_authz and through the module, and compares what everybody saw.
fn compare(release: EnvoyRelease, requests: usize, seed: u64) {
    let named = json!([
        {
            "match": { "prefix": "/named" },
            "route": { "cluster": "app" },
            "typed_per_filter_config": {
                "envoy.filters.http.ext_authz": crate::harness::envoy::per_route_policy("read"),
            },
        },
        { "match": { "prefix": "/" }, "route": { "cluster": "app" } },
    ]);
    let start = |encoding| {
        let shape = Shape::plain().encoding(encoding).release(release).routes(named.clone());
        Stack::shaped(Server::with(DIFFERENTIAL).quiet(), shape)
    };
    let (mut beside, mut inside) = (start(Encoding::Raw), start(Encoding::Inside));
    let mut random = Random(seed);
    let mut passed = 0;
    for number in 0..requests {
        let id = format!("case-{number}");
        let (bytes, is_head) = generate(&mut random, &id);
        let answers = [&beside, &inside].map(|stack| exchange(stack.address(), &bytes, is_head));
        assert_eq!(answers[0], answers[1], "seed {seed}, request {number}: {}", bytes.escape_ascii());
        passed += usize::from(answers[0].starts_with("HTTP/1.1 200"));
    }
    // A generator whose requests all fail compares nothing.
    assert!(passed > requests / 20 && passed < requests * 9 / 10, "{passed} of {requests} passed");
    assert_eq!(beside.upstream.calls(), inside.upstream.calls());
    println!("{release:?}: {requests} requests, {passed} passed, no difference");
    if release != EnvoyRelease::V1_40 {
        // Their metadata are flat.
        return;
    }
    let (logged, ours) = (accessed(&mut beside.envoy), accessed(&mut inside.envoy));
    assert_eq!(logged.len(), ours.len());
    for (id, mut entry) in logged {
        // Measures the round trip.
        if let Some(metadata) = entry["ext_authz"].as_object_mut() {
            metadata.remove("ext_authz_duration");
        }
        assert_eq!(entry["ext_authz"], ours[&id]["ext_authz"], "{id}: {entry}");
        assert_eq!(entry["status"], ours[&id]["status"], "{id}: {entry}");
    }
    beside.expecting_errors();
    inside.expecting_errors();
}

fn cases(otherwise: usize) -> usize {
    std::env::var("REQUESTS").map_or(otherwise, |requests| requests.parse().expect("a number of requests"))
}

#[test]
fn random_requests_are_answered_as_by_the_server() {
    compare(EnvoyRelease::V1_40, cases(2_000), 19);
}

#[test]
fn random_requests_are_answered_as_by_the_server_on_envoy_1_39() {
    compare(EnvoyRelease::V1_39, cases(200), 1_939);
}

#[test]
fn random_requests_are_answered_as_by_the_server_on_envoy_1_38() {
    compare(EnvoyRelease::V1_38, cases(200), 1_938);
}

/// A preflight passes without an actor and without a policy: nothing is said of it.
#[test]
fn a_preflight_has_no_metadata_in_either_form() {
    for encoding in [Encoding::Raw, Encoding::Inside] {
        let stack = Stack::encoded(DIFFERENTIAL, encoding);
        let preflight = http1::Request::new(stack.address(), "OPTIONS", "/preflight").host("app.example");
        let preflight = preflight.header("origin", "https://page.example");
        assert_eq!(preflight.header("access-control-request-method", "GET").send().status, 200);
        assert_eq!(stack.envoy.accessed("/preflight")["ext_authz"], Value::Null, "{encoding:?}");
    }
}

#[test]
fn older_envoys_get_flat_metadata() {
    for release in [EnvoyRelease::V1_38, EnvoyRelease::V1_39] {
        let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().inside().release(release));
        assert_eq!(stack.get("/yes").bearer(ALICE).send().status, 200);
        let metadata = &stack.envoy.accessed("/yes")["ext_authz"];
        assert_eq!(metadata["actor.id"], "alice", "{metadata}");
        assert_eq!(metadata["credential.kind"], "token", "{metadata}");
        assert_eq!(metadata["policy"], "default", "{metadata}");
        assert_eq!(stack.get("/no").send().status, 401);
        assert_eq!(stack.envoy.accessed("/no")["ext_authz"]["reason"], "no_credential");
    }
}

/// What Envoy says of a configuration with this filter, and these settings of a route.
fn validate(folder: &str, settings: &Value, route: Option<&Value>) -> (bool, String) {
    run_envoy(&["--mode", "validate"], folder, settings, route)
}

/// How Envoy ends with these arguments: whether well, and what it said.
fn run_envoy(arguments: &[&str], folder: &str, settings: &Value, route: Option<&Value>) -> (bool, String) {
    let mut routes = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 200 } }]);
    if let Some(route) = route {
        let settings = per_route_module(EnvoyRelease::V1_40, route);
        routes[0]["typed_per_filter_config"] = json!({ "auth": settings });
    }
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "ingress",
        "route_config": { "virtual_hosts": [{ "name": "a", "domains": ["*"], "routes": routes }] },
        "http_filters": [
            { "name": "auth", "typed_config": module_filter(settings) },
            {
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
            },
        ],
    });
    let config = json!({ "static_resources": { "listeners": [{
        "name": "ingress",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
        "filter_chains": [{
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    }] } });
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    fs::write(file.path(), config.to_string()).unwrap();
    // Who serves does not end by itself.
    let mut command = Command::new("timeout");
    command.arg(MAX_WAIT.as_secs().to_string()).arg(tools::envoy());
    command.args(arguments).args(["--log-level", "warning", "--config-path"]).arg(file.path());
    command.env("ENVOY_AUTH_TOKENS_FOLDER", folder);
    let ran = command.output().expect("Envoy starts");
    let output = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.success(), output)
}

#[test]
fn a_configuration_with_a_mistake_is_rejected_in_our_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let in_folder = folder.path().to_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("config.yaml"), "SECRET: of-others\n").unwrap();

    fs::write(&path, CONFIG).unwrap();
    let good = json!({ "config": path });
    let (is_valid, output) = validate(in_folder, &good, Some(&json!({ "policy": "default" })));
    assert!(is_valid, "{output}");

    for (settings, route, said) in [
        (json!({ "config": elsewhere.path().join("config.yaml") }), None, "must name a file in"),
        (json!({ "config": path, "rules": [] }), None, "unknown field `rules`"),
        (json!({}), None, "missing field `config`"),
        (json!({ "config": path, "probes": "nowhere" }), None, "expected an IP address with a port"),
        (json!({ "config": folder.path().join("none.yaml") }), None, "cannot be read"),
        (good.clone(), Some(json!({})), "missing field `policy`"),
        (good.clone(), Some(json!({ "polciy": "default" })), "unknown field `polciy`"),
    ] {
        let (is_valid, output) = validate(in_folder, &settings, route.as_ref());
        assert!(!is_valid && output.contains(said), "{settings} {route:?}: {output}");
        assert!(!output.contains("of-others"), "{output}");
    }

    fs::write(&path, "tokens: [{token: a-secret-token-012345, actor: 7}]\nrealm: 'a\"b'\n").unwrap();
    // Neither an Envoy that validates takes it nor one that is to serve.
    for arguments in [&["--mode", "validate"][..], &["--disable-hot-restart"][..]] {
        let (is_valid, output) = run_envoy(arguments, in_folder, &good, None);
        assert!(!is_valid, "{output}");
        for said in ["tokens[0].actor", "realm", "config.yaml:1:", "Failed to initialize dynamic module"] {
            assert!(output.contains(said), "{said}: {output}");
        }
        assert!(!output.contains("a-secret-token"), "{output}");
    }
}

#[test]
fn validation_opens_no_store_and_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml");
    let store = folder.path().join("keys.db");
    let config = format!("keys: {{store: 'sqlite:{}'}}\n{CONFIG}", store.display());
    fs::write(&path, config).unwrap();
    for read_only in [true, false] {
        let settings = json!({ "config": path, "read_only": read_only, "probes": "127.0.0.1:0" });
        let (is_valid, output) = validate(folder.path().to_str().unwrap(), &settings, None);
        assert!(is_valid, "{output}");
        let files: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["config.yaml"]);
    }
}

#[test]
fn what_the_server_serves_the_module_does_not_read() {
    // Files and variables that are not there: those of the server's own listeners and providers.
    let config = format!(
        "{CONFIG}
ext_authz: {{listen: 'unix:/run/nowhere.sock', tls: {{cert: none.crt, key: none.key}}}}
probes: {{listen: 127.0.0.1:1}}
admin: {{listen: 127.0.0.1:2, tls: {{cert: none.crt, key: none.key}}, public_url: 'https://keys.example'}}
keys: {{store: 'sqlite:keys.db'}}
oauth: [{{name: x, issuer: 'https://id.example', client_id: a, client_secret: {{$env: NOT_SET}}}}]
"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.yaml"), config).unwrap();
    let settings = json!({ "config": "config.yaml" });
    let (is_valid, output) = validate(folder.path().to_str().unwrap(), &settings, None);
    assert!(is_valid, "{output}");
}

#[test]
fn a_changed_file_counts_inside_and_a_wrong_one_does_not() {
    let stack = Stack::encoded(CONFIG, Encoding::Inside);
    let path = stack.server.config_path();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(stack.get("/").bearer("bobby-token-0123456789").send().status, 401);
    let bob = "\n- {name: bob, token: bobby-token-0123456789, actor: {id: bob}}\n";
    fs::write(&path, format!("{}{bob}", text.trim_end())).unwrap();
    wait_until("the new token counts", || {
        stack.get("/").bearer("bobby-token-0123456789").send().status == 200
    });
    fs::write(&path, format!("{text}\nrealm: 7\n")).unwrap();
    stack.envoy.log().wait_for("a diagnostic in Envoy's log", |line| {
        (line.contains("[error]") && line.contains("was not reloaded") && line.contains("realm"))
            .then_some(())
    });
    assert_eq!(stack.get("/").bearer("bobby-token-0123456789").send().status, 200);
}

#[test]
fn decisions_are_counted_in_envoys_stats() {
    let stack = Stack::encoded(CONFIG, Encoding::Inside);
    for _ in 0..3 {
        assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    }
    assert_eq!(stack.get("/").send().status, 401);
    let count = |name: &str| stack.envoy.counter(&format!("envoy_auth_tokens.{name}"));
    assert_eq!(count("decisions.outcome.allowed.reason.admitted.policy.default"), 3);
    assert_eq!(count("decisions.outcome.denied.reason.no_credential.policy.default"), 1);
    assert_eq!(count("credentials.kind.token"), 3);
}

#[test]
fn workers_share_one_instance_and_its_passwords() {
    let config = with_user();
    let stack = Stack::shaped(Server::with(&config), Shape::plain().inside().workers(4));
    let deciding = || {
        let lines = stack.envoy.log().lines();
        lines.iter().filter(|line| line.contains("envoy-auth-tokens: deciding")).count()
    };
    wait_until("the instance says that it decides", || deciding() == 1);
    let wrong = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (stack, wrong) = (&stack, &wrong);
            scope.spawn(move || {
                for round in 0..50 {
                    let (answer, expected): (_, &[u16]) = match (thread + round) % 4 {
                        0 => (stack.get("/").bearer(ALICE).send(), &[200]),
                        1 => (stack.get("/").send(), &[401]),
                        2 => (
                            stack.post("/").bearer("nobody-token-012345678").body(vec![0; 10]).send(),
                            &[401],
                        ),
                        _ => (
                            stack.post("/").basic("carol", "correct horse battery").body(vec![0; 10]).send(),
                            &[200, 503],
                        ),
                    };
                    wrong.fetch_add(usize::from(!expected.contains(&answer.status)), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(wrong.into_inner(), 0);
    assert_eq!(deciding(), 1);
}

#[test]
fn a_key_revoked_at_the_server_is_dead_inside_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    revoke("SQLite", &format!("sqlite:{}", folder.path().join("keys.db").display()));
    let postgres = Postgres::shared();
    revoke("PostgreSQL", &postgres.url(&postgres.database()));
}

/// Revokes 100 keys at the server, and waits until each is dead inside Envoy, which is busy with others.
fn revoke(place: &str, store: &str) {
    const REVOCATIONS: usize = 100;
    let issuer = Issuer::start(store);
    let upstream = Upstream::start();
    let shape = Shape::plain().module(json!({}));
    let envoy = Envoy::start(&shape, &issuer.server, &upstream);
    let status = |token: &str| {
        http1::Request::new(envoy.address(), "GET", "/").host("app.example").bearer(token).send().status
    };
    let keys: Vec<_> = (0..REVOCATIONS).map(|number| issuer.create(&format!("key-{number}"))).collect();
    let (_, kept) = issuer.create("kept");
    wait_until("the module knows the last key", || status(&kept) == 200);
    let is_over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut answered = 0_usize;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(status(&kept), 200, "a key that nobody revoked");
                answered += 1;
            }
            answered
        });
        let mut times = Vec::new();
        for (id, token) in &keys {
            assert_eq!(status(token), 200);
            issuer.revoke(*id);
            let acknowledged = Instant::now();
            while status(token) == 200 {
                assert!(acknowledged.elapsed() < MAX_WAIT, "{place}: a revoked key lives");
            }
            times.push(acknowledged.elapsed());
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(load.join().expect("the load went well") > 0);
        times
    });
    let mut times: Vec<Duration> = times;
    times.sort();
    println!(
        "{place}: median {:?}, worst {:?} of {REVOCATIONS}",
        times[REVOCATIONS / 2],
        times[REVOCATIONS - 1]
    );
}

#[test]
fn a_use_of_a_key_is_written_with_the_address_of_its_client() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(&format!("sqlite:{}", folder.path().join("keys.db").display()));
    let upstream = Upstream::start();
    let writes = |release| Shape::plain().module(json!({ "read_only": false })).release(release);
    // What ext_authz tells is the other end of the connection; the module sees whom Envoy takes for the client.
    let cases = [
        ("beside", Shape::plain().encoding(Encoding::Raw), "127.0.0.1"),
        ("1.38", writes(EnvoyRelease::V1_38), "192.0.2.7"),
        ("1.39", writes(EnvoyRelease::V1_39), "192.0.2.7"),
        ("1.40", writes(EnvoyRelease::V1_40), "192.0.2.7"),
    ];
    for (form, shape, forwarded) in cases {
        let envoy = Envoy::start(&shape, &issuer.server, &upstream);
        for (header, expected) in [(None, "127.0.0.1"), (Some("192.0.2.7"), forwarded)] {
            let (id, token) = issuer.create(&format!("{form} {header:?}"));
            let ask = || {
                let request =
                    http1::Request::new(envoy.address(), "GET", "/").host("app.example").bearer(&token);
                let request = match header {
                    Some(address) => request.header("x-forwarded-for", address),
                    None => request,
                };
                request.send().status == 200
            };
            wait_until("the key counts", ask);
            let key = || issuer.list().into_iter().find(|key| key["id"] == id).unwrap();
            wait_until("its use is written", || !key()["lastAddress"].is_null());
            assert_eq!(key()["lastAddress"], expected, "{form} {header:?}");
        }
    }
}

#[test]
fn a_listener_may_leave_and_come_back() {
    let server = Server::with(CONFIG).start();
    let upstream = Upstream::start();
    let folder = tempfile::tempdir().unwrap();
    let lds = folder.path().join("lds.json");
    let shape = Shape::plain().module(json!({ "log_decisions": "all", "log": "json" }));
    let mut config = shape.config(&server, &upstream);
    let listener = config["static_resources"]["listeners"][0].take();
    // A port of its own each time: the old listener may still drain.
    let write = |names: &[&str]| {
        let listeners = names.iter().map(|name| {
            let mut listener = listener.clone();
            if *name == "broken" {
                // A configuration that is not there.
                let text = listener.to_string().replace("config.yaml", "none.yaml");
                listener = serde_json::from_str(&text).unwrap();
            }
            listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
            listener["name"] = json!(name);
            listener
        });
        let response = json!({ "version_info": names.concat(), "resources": listeners.collect::<Vec<_>>() });
        let new = folder.path().join("new");
        fs::write(&new, response.to_string()).unwrap();
        fs::rename(new, &lds).unwrap();
    };
    write(&["first", "second"]);
    config["static_resources"].as_object_mut().unwrap().remove("listeners");
    config["node"] = json!({ "id": "n", "cluster": "c" });
    config["dynamic_resources"] = json!({ "lds_config": { "resource_api_version": "V3", "path_config_source": {
        "path": lds, "watched_directory": { "path": folder.path() },
    } } });
    let folder_of_config = server.folder().display().to_string();
    let program = Program {
        environment: vec![("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), folder_of_config)],
        ..Program::default()
    };
    let envoy = Envoy::running(&config.to_string(), &program);
    let passes = |name: &str| {
        let address = envoy.listener(name);
        address.is_some_and(|address| {
            let request = |token| http1::Request::new(address, "GET", "/").host("app.example").bearer(token);
            request(ALICE).send().status == 200 && request("nobody-token-012345678").send().status == 401
        })
    };
    wait_until("both decide", || passes("first") && passes("second"));
    write(&["second"]);
    wait_until("the first is gone", || envoy.listener("first").is_none());
    assert!(passes("second"));
    write(&[]);
    wait_until("both are gone", || envoy.listener("second").is_none());
    write(&["third"]);
    wait_until("the third decides", || passes("third"));
    // A listener whose configuration is wrong does not come, and the others stay.
    write(&["third", "broken"]);
    envoy.log().wait_for("why the fourth does not come", |line| {
        line.contains("listener 'broken' config rejected").then_some(())
    });
    assert!(passes("third") && envoy.listener("broken").is_none());
}

#[test]
fn the_printed_configuration_runs_with_the_module_inside() {
    let upstream = Upstream::start();
    let server = Server::with(CONFIG).start();
    let (theirs, module) = (upstream.address().to_string(), tools::module());
    let printed = |setup: &crate::harness::Setup, arguments: &[&str]| {
        let ran = setup.run(arguments);
        assert_eq!(ran.code(), Some(0), "{ran:?}");
        ran.stdout
    };
    let setup = Server::with(CONFIG);
    let module = module.to_str().unwrap();
    let arguments =
        ["envoy", "--inside", "--module", module, "--listen", "127.0.0.1:0", "--upstream", &theirs];
    let config = printed(&setup, &arguments);
    let admin = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }\n";
    let folder = setup.folder().display().to_string();
    let program =
        Program { environment: vec![("ENVOY_AUTH_TOKENS_FOLDER".to_owned(), folder)], ..Program::default() };
    let envoy = Envoy::running(&format!("{admin}{config}"), &program);
    let request = || http1::Request::new(envoy.address(), "GET", "/").host("app.example");
    let seen = request().bearer(ALICE).header("x-actor-id", "root").send().seen();
    assert_eq!(seen.all("x-actor-id"), ["alice"]);
    assert_eq!(request().send().status, 401);
    drop(server);

    let filter = printed(&setup, &["envoy", "--inside", "--module", module, "--part", "filter"]);
    assert!(config.contains(filter.lines().nth(1).unwrap().trim()), "{filter}");
    // Envoy has another working directory.
    let relative = printed(&setup, &["envoy", "--inside", "--module", "libx.so", "--part", "filter"]);
    let absolute = std::env::current_dir().unwrap().join("libx.so");
    assert!(relative.contains(absolute.to_str().unwrap()), "{relative}");
    let ran = setup.run(["envoy", "--inside", "--part", "cluster"]);
    assert!(ran.code() != Some(0) && ran.stderr.contains("needs no cluster"), "{ran:?}");
}

#[test]
fn the_example_is_what_the_command_prints() {
    let example = fs::read_to_string(tools::root().join("deploy/envoy-module.yaml")).unwrap();
    let config = fs::read_to_string(tools::root().join("deploy/config.yaml")).unwrap();
    let setup = Server::with(&config).own_listeners();
    fs::create_dir(setup.folder().join("secrets")).unwrap();
    let setup = setup.file("secrets/ci-token", "ci-token-0123456789abc\n");
    // Not OAUTH_SECRET: the module does not read it.
    let setup = setup
        .env("BOT_TOKEN", "bot-token-01234567890")
        .env("ADMIN_PASSWORD", "a-long-password")
        .env("LDAP_PASSWORD", "another-password");
    let ran = setup.run(["envoy", "--inside"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let here = setup.folder().join("config.yaml");
    let printed = ran.stdout.replace(here.to_str().unwrap(), "/etc/envoy-auth-tokens/config.yaml");
    assert_eq!(example, printed, "print deploy/envoy-module.yaml anew");
}

#[test]
fn the_documents_name_every_setting_of_the_filter() {
    let document = fs::read_to_string(tools::root().join("docs/inside-envoy.md")).unwrap();
    for key in ["config", "read_only", "probes", "log_decisions", "log"] {
        assert!(document.contains(&format!("| `{key}` |")), "{key}");
    }
}

#[test]
fn probes_are_served_where_the_filter_says_so() {
    let server = Server::with(CONFIG).start();
    let upstream = Upstream::start();
    let shape = Shape::plain().module(json!({ "probes": "127.0.0.1:0" }));
    let envoy = Envoy::start(&shape, &server, &upstream);
    let address = envoy.log().wait_for("where the probes are", |line| {
        let (_, address) = line.split_once("listener=\"probes\" address=")?;
        address.split_whitespace().next()?.parse().ok()
    });
    let ask = |path| http1::Request::new(address, "GET", path).header("connection", "close").send();
    assert_eq!(ask("/live").status, 200);
    wait_until("it is ready", || ask("/ready").status == 200);
    assert!(ask("/metrics").text().contains("envoy_auth_tokens_"));
    // A second Envoy finds the port taken, decides all the same, and has it once it is free.
    let shape = Shape::plain().module(json!({ "probes": address.to_string() }));
    let second = Envoy::start(&shape, &server, &upstream);
    second.log().wait_for("a warning", |line| line.contains("cannot listen for probes").then_some(()));
    let request = http1::Request::new(second.address(), "GET", "/").host("a").bearer(ALICE);
    assert_eq!(request.send().status, 200);
    drop(envoy);
    wait_until("the second one's probes", || {
        let request = http1::Request::new(address, "GET", "/ready").header("connection", "close");
        request.try_send().is_some_and(|answer| answer.status == 200)
    });
}

#[test]
fn people_of_a_directory_and_their_sessions_count_inside() {
    let slapd = Slapd::start();
    on_each_database(|store| {
        let setup = people::setup(&people::with_admin(store, &people::ldap(&slapd, ""), ""));
        // One worker: whoever waits for the directory in it would keep everybody waiting.
        let stack = Stack::shaped(setup, Shape::plain().inside().workers(1)).expecting_errors();
        let admin = stack.server.admin();
        let actor = |answer: &http1::Answer| answer.seen().all("x-actor-id").concat();
        let ask = |user: &str, sent: &str| stack.get("/").basic(user, sent).send();
        assert_eq!(actor(&settle(|| ask("Ann", &password("ann")))), "ldap:ann");
        assert_eq!(settle(|| ask("ann", "wrong")).verdict(), (401, "invalid_token".into()));

        // A session that the server opened, until it ends it.
        let [_, application] = people::cookies(&people::log_in(admin, "bob", &password("bob")));
        let get = || stack.get("/").header("cookie", &application).send();
        wait_until("the session counts", || get().status == 200);
        assert_eq!(actor(&get()), "ldap:bob");
        let ended = http1::Request::new(admin, "DELETE", "/api/auth/sessions?user=bob&source=ldap")
            .bearer(people::ROOT)
            .send();
        assert_eq!(ended.status, 200, "{}", ended.text());
        wait_until("the session has ended", || get().status == 401);

        // The directory hangs: who asks it gets 503, and nobody else waits.
        slapd.freeze();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask("gus", &password("gus")));
            while !waiting.is_finished() {
                assert_eq!(actor(&stack.get("/").bearer(people::ROOT).send()), "root");
            }
            assert_eq!(waiting.join().unwrap().status, 503);
        });
        // Who is remembered passes.
        assert_eq!(actor(&ask("ann", &password("ann"))), "ldap:ann");
        slapd.thaw();
    });
}
