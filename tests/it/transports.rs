//! Every way in which a request can reach us: sizes, bodies, protocols, sockets, cluster names.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, attribute_context};
use serde_json::json;

use crate::harness::upstream::Seen;
use crate::harness::{Encoding, MAX_WAIT, Server, Shape, Stack, grpc, http2};

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
credentials: [bearer, basic, {header: x-api-key}]
";

#[test]
fn head_and_options_need_a_token_like_any_other_method() {
    let stack = Stack::start(CONFIG);
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        let request = || stack.request(method, "/").body(Vec::new());
        assert_eq!(request().send().status, 401, "{method}");
        let answer = request().bearer(ALICE).send();
        assert_eq!(answer.status, 200, "{method}");
        if method != "HEAD" {
            assert_eq!(answer.seen().method, method);
        }
    }
}

#[test]
fn a_request_over_http_2_is_a_request() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let request = || http::Request::get("http://app.example/h2?q=1");
        let send = |request: http::request::Builder| {
            http2::send(stack.address(), request.body(()).unwrap(), None).unwrap()
        };
        let answer = send(request().header("authorization", format!("Bearer {ALICE}")));
        let seen = Seen::of(&serde_json::from_slice(&answer.body).unwrap());
        assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?}");
        assert_eq!(seen.path, "/h2?q=1");
        let answer = send(request());
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers["www-authenticate"], r#"Bearer realm="api""#);
        let twice = request().header("authorization", format!("Bearer {ALICE}"));
        let answer = send(twice.header("authorization", "Bearer another-token"));
        assert_eq!(answer.status, 400, "{encoding:?}");
    }
}

#[test]
fn a_huge_header_is_answered_like_a_small_one() {
    let limits = json!({ "max_request_headers_kb": 96 });
    for encoding in Encoding::ALL {
        let shape = Shape::plain().encoding(encoding).manager(limits.clone());
        let stack = Stack::shaped(Server::with(CONFIG), shape);
        let huge = "h".repeat(60 * 1024);
        let answer = stack.get("/").bearer(&huge).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?}");
        let answer = stack.get("/").header("x-api-key", &huge).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?}");
        let answer = stack.get("/").basic("api_key", &huge[..40 * 1024]).send();
        assert_eq!(answer.verdict(), (401, "invalid_token".into()), "{encoding:?}");
        let answer = stack.get("/").header("x-big", &huge).send();
        assert_eq!(answer.verdict(), (401, "unauthorized".into()), "{encoding:?}");
        let edge = stack.get("/").bearer(&"e".repeat(4096)).send();
        assert_eq!(edge.json()["message"], "Invalid API key", "4 KiB is still a token");
        let beyond = stack.get("/").bearer(&"e".repeat(4097)).send();
        assert_eq!(beyond.json()["message"], "Malformed credential");
        // A good token beside much else.  Envoy itself would not send more than 60 KiB on.
        let big = stack.get("/").bearer(ALICE).header("x-big", &huge[..50 * 1024]).send();
        assert_eq!(big.seen().all("x-actor-id"), ["alice"], "{encoding:?}");
        assert!(!stack.server.log().text().contains(&huge[..300]), "{encoding:?}: it is logged");
    }
}

#[test]
fn ninety_headers_are_no_trouble() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let many = (0..80).fold(stack.get("/").bearer(ALICE), |request, number| {
            request.header(&format!("x-h-{number}"), "v")
        });
        assert_eq!(many.send().seen().all("x-h-79"), ["v"], "{encoding:?}");
    }
}

#[test]
fn a_body_does_not_matter_however_it_is_sent() {
    let megabytes = vec![b'b'; 5 * 1024 * 1024];
    let bodies = [
        json!({}),
        json!({ "with_request_body": { "max_request_bytes": 1024, "allow_partial_message": true } }),
        json!({ "with_request_body": { "max_request_bytes": 8388608 } }),
        json!({ "with_request_body": { "max_request_bytes": 8388608, "pack_as_bytes": true } }),
    ];
    for filter in bodies {
        for encoding in Encoding::ALL {
            let shape = Shape::plain().encoding(encoding).filter(filter.clone());
            let stack = Stack::shaped(Server::with(CONFIG), shape);
            for body in [b"small".to_vec(), megabytes.clone()] {
                let length = body.len();
                let claimed = ("x-envoy-auth-partial-body", "true");
                let answer =
                    stack.post("/").bearer(ALICE).header(claimed.0, claimed.1).body(body.clone()).send();
                assert_eq!(answer.seen().body_bytes, length as u64, "{encoding:?} {filter}");
                let refused = stack.post("/").body(body).send();
                assert_eq!(refused.verdict(), (401, "unauthorized".into()), "{encoding:?} {filter}");
            }
        }
    }
}

#[test]
fn bytes_in_a_body_are_bytes() {
    let filter = json!({ "with_request_body": { "max_request_bytes": 65536, "pack_as_bytes": true } });
    let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().filter(filter));
    let answer = stack.post("/").bearer(ALICE).body(vec![0xff; 4096]).send();
    assert_eq!(answer.seen().body_bytes, 4096);
}

/// A server that takes messages of 64 KiB, behind an Envoy that lets pass what it cannot ask about.
fn small_messages_fail_open() -> Stack {
    let shape = Shape::plain().filter(json!({
        "with_request_body": { "max_request_bytes": 33554432 },
        "failure_mode_allow": true,
    }));
    // `ext_authz` carries the limit, so this setup writes its own listeners.
    let setup = Server::with(
        "ext_authz: {listen: '127.0.0.1:0', max_request_bytes: 64KiB}
probes: {listen: '127.0.0.1:0'}
tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
default: {allow: true, enforce: false}
",
    )
    .own_listeners();
    Stack::shaped(setup, shape)
}

#[test]
fn a_message_over_the_limit_is_a_denial_and_nobody_passes() {
    let stack = small_messages_fail_open();
    assert_eq!(stack.post("/").bearer(ALICE).body(vec![b'b'; 1024]).send().status, 200);
    for length in [64 * 1024, 1024 * 1024, 20 * 1024 * 1024] {
        let answer = stack.post("/").body(vec![b'b'; length]).header("x-actor-id", "root").send();
        assert_eq!(answer.status, 413, "{length}");
        assert_eq!(answer.json(), json!({"error": "request_too_large", "message": "Request too large"}));
        assert!(answer.all("www-authenticate").is_empty(), "no credential would help");
    }
    assert_eq!(stack.upstream.calls(), 1);
    assert_eq!(stack.envoy.stat("error"), 0);
    assert_eq!(stack.post("/").bearer(ALICE).body(vec![b'b'; 1024]).send().status, 200, "alive");
    let metrics = stack.server.metrics();
    assert!(metrics.contains("outcome=\"denied\",reason=\"request_too_large\",policy=\"\"} 3"), "{metrics}");
}

#[test]
fn messages_over_the_limit_cost_no_other_check_and_no_connection() {
    send_long_messages(10, 10, 4 * 1024 * 1024);
}

#[test]
#[ignore = "takes minutes: make test-bodies"]
fn two_thousand_messages_over_the_limit_cost_no_other_check_and_no_connection() {
    send_long_messages(50, 40, 20_000_000);
}

/// So many clients send so many bodies of this length each through one worker of Envoy, while another one asks.
fn send_long_messages(clients: usize, turns: usize, length: usize) {
    let stack = small_messages_fail_open();
    let address = stack.address();
    let sent = AtomicUsize::new(0);
    let mut others = 0;
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                for _ in 0..turns {
                    let request = crate::harness::Request::new(address, "POST", "/large");
                    let status = request.body(vec![b'b'; length]).send().status;
                    // Counted before it is judged, so that the other one does not wait for it.
                    sent.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(status, 413);
                }
            });
        }
        while others < 100 || sent.load(Ordering::Relaxed) < clients * turns {
            assert_eq!(stack.get("/").bearer(ALICE).send().status, 200, "{others}");
            others += 1;
        }
    });
    eprintln!("{others} other Checks");
    assert_eq!(stack.envoy.counter("cluster.ext_authz.upstream_cx_total"), 1, "one connection for all");
    assert_eq!(stack.envoy.counter("cluster.ext_authz.upstream_cx_destroy_remote_with_active_rq"), 0);
    assert_eq!(stack.envoy.stat("error"), 0);
}

#[test]
fn routes_that_answer_by_themselves_are_protected_too() {
    let routes = json!([
        { "match": { "prefix": "/teapot" }, "direct_response": { "status": 418 } },
        { "match": { "prefix": "/moved" }, "redirect": { "path_redirect": "/elsewhere" } },
        { "match": { "prefix": "/" }, "route": { "cluster": "app" } },
    ]);
    let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().routes(routes));
    for (target, passed) in [("/teapot", 418), ("/moved", 301), ("/", 200)] {
        assert_eq!(stack.get(target).send().status, 401, "{target}");
        assert_eq!(stack.get(target).bearer(ALICE).send().status, passed, "{target}");
    }
}

#[test]
fn many_requests_on_one_connection_are_judged_one_by_one() {
    let stack = Stack::start(CONFIG);
    let mut connection = crate::harness::http1::Connection::to(stack.address());
    for turn in 0..50 {
        let (header, status) = match turn % 3 {
            0 => (format!("authorization: Bearer {ALICE}\r\n"), 200),
            1 => (String::new(), 401),
            _ => ("authorization: Bearer nobody-token-012345678\r\n".to_owned(), 401),
        };
        let request = format!("GET /{turn} HTTP/1.1\r\nhost: app.example\r\n{header}\r\n");
        assert_eq!(connection.exchange(request.as_bytes(), false).status, status, "{turn}");
    }
}

#[test]
fn two_hundred_requests_at_once_all_get_their_own_answer() {
    let stack = Stack::start(CONFIG);
    std::thread::scope(|scope| {
        for client in 0..20 {
            let stack = &stack;
            scope.spawn(move || {
                for turn in 0..10 {
                    let good = (client + turn) % 2 == 0;
                    let request = stack.get(&format!("/{client}/{turn}"));
                    let request = if good { request.bearer(ALICE) } else { request };
                    assert_eq!(request.send().status, if good { 200 } else { 401 });
                }
            });
        }
    });
    assert_eq!(stack.envoy.stat("ok"), 100);
    assert_eq!(stack.envoy.stat("denied"), 100);
}

#[test]
fn the_tcp_filter_is_refused_because_it_shows_no_request() {
    let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().tcp_filter());
    for _ in 0..2 {
        let mut stream = TcpStream::connect(stack.address()).unwrap();
        stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
        // Envoy may close before or after it has read this.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{read:?} {}", answer.escape_ascii());
    }
    assert_eq!(stack.upstream.calls(), 0);
    assert_eq!(stack.envoy.stat("denied"), 2);
    assert_eq!(stack.server.probe("/live").status, 200, "the server lives on");
}

#[test]
fn a_check_without_a_request_is_refused_and_never_an_error() {
    let server = Server::with(
        "tokens: [{token: alice-token-0123456789, actor: {id: alice}}]
policies: {open: {allow: true}}
default: {allow: true}
",
    )
    .start();
    let empty = CheckRequest::default();
    let attributes = CheckRequest { attributes: Some(AttributeContext::default()) };
    let mut without_http = attributes.clone();
    without_http.attributes.as_mut().unwrap().request = Some(attribute_context::Request::default());
    let mut policy_only = attributes.clone();
    let extensions = &mut policy_only.attributes.as_mut().unwrap().context_extensions;
    extensions.insert("policy".to_owned(), "open".to_owned());
    for request in [empty, attributes, without_http, policy_only] {
        let answer = grpc::check(&server, request.clone());
        assert_eq!(grpc::code(&answer), 3, "{request:?}");
        let (status, body) = grpc::refused(&answer);
        assert_eq!(status, 400);
        assert_eq!(body, r#"{"error": "invalid_request", "message": "Malformed request"}"#);
    }
    // The same server lets a real request pass.
    let answer = grpc::check(&server, grpc::request("GET", "h", "/", &[]));
    assert_eq!(grpc::code(&answer), 0);
}

/// Sends bytes as the message of a Check and gives back the gRPC status.
fn send_message(server: &Server, framed: &[u8]) -> (Option<String>, Bytes) {
    let target = format!("http://{}/envoy.service.auth.v3.Authorization/Check", server.tcp());
    let request = http::Request::post(target);
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let body = Bytes::copy_from_slice(framed);
    let answer = http2::send(server.tcp(), request.body(()).unwrap(), Some(body)).unwrap();
    (answer.grpc_status().map(str::to_owned), answer.body)
}

#[test]
fn a_misframed_message_is_a_grpc_error_and_bytes_inside_a_message_never_are() {
    let server = Server::with(CONFIG).start();
    // Framed rightly: an empty CheckRequest is an answer, a denial.
    let (status, body) = send_message(&server, &[0, 0, 0, 0, 0]);
    assert_eq!(status.as_deref(), Some("0"));
    assert!(body.len() > 5, "an answer has a message");
    // Framed wrongly.
    let broken: [&[u8]; 3] = [&[0, 0, 0], &[0, 0, 0, 0, 9, 1], &[1, 0, 0, 0, 0]];
    for framed in broken {
        let (status, body) = send_message(&server, framed);
        assert!(body.is_empty(), "{framed:?}");
        assert_ne!(status.as_deref(), Some("0"), "{framed:?}");
        assert!(status.is_some(), "{framed:?}");
    }
    // Bytes that are no UTF-8 in path, host and header, as a hand-written CheckRequest.
    let http = [
        // HttpRequest.method = 2, .path = 4, .host = 5
        &[0x12, 3][..],
        b"GET",
        &[0x22, 2],
        b"/\xff",
        &[0x2a, 2],
        b"h\xfe",
    ]
    .concat();
    let nested = |field: u8, inner: &[u8]| {
        let length = u8::try_from(inner.len()).unwrap();
        [&[field << 3 | 2, length][..], inner].concat()
    };
    // CheckRequest.attributes = 1, AttributeContext.request = 4, Request.http = 2
    let message = nested(1, &nested(4, &nested(2, &http)));
    let framed = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat();
    let (status, body) = send_message(&server, &framed);
    assert_eq!(status.as_deref(), Some("0"));
    assert!(body.windows(12).any(|window| window == b"unauthorized"), "{}", body.escape_ascii());
    assert_eq!(server.probe("/live").status, 200);
}

#[test]
fn another_grpc_method_does_not_exist() {
    let server = Server::with(CONFIG).start();
    for path in
        ["/envoy.service.auth.v3.Authorization/Other", "/envoy.service.auth.v2.Authorization/Check", "/"]
    {
        let request = http::Request::post(format!("http://{}{path}", server.tcp()));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let body = Bytes::from_static(&[0; 5]);
        let answer = http2::send(server.tcp(), request.body(()).unwrap(), Some(body)).unwrap();
        assert_eq!(answer.status, 404, "{path}: to a gRPC client UNIMPLEMENTED");
        assert_eq!(answer.grpc_status(), None, "{path}");
    }
}

#[test]
fn a_cluster_name_with_a_bar_needs_an_authority_of_its_own() {
    // Envoy sends the cluster's name as `:authority` unless it is told another: no such name is a legal one.
    let name = "outbound|9000||ext-authz.example";
    let unnamed = Stack::shaped(Server::with(CONFIG), Shape::plain().cluster(name, None)).expecting_errors();
    let answer = unnamed.get("/").bearer(ALICE).send();
    assert!(matches!(answer.status, 200 | 403), "let through by the token or not at all: {answer:?}");
    assert_eq!(unnamed.get("/").send().status / 100, 4, "nobody passes without a token");
    assert_eq!(unnamed.get("/").bearer("nobody-token-012345678").send().status / 100, 4);
    let counted = "envoy_auth_tokens_wrong_wiring_total{kind=\"authority\"} 3";
    assert!(unnamed.server.metrics().contains(counted), "{}", unnamed.server.metrics());

    let shape = Shape::plain().cluster(name, Some("ext-authz.local"));
    let named = Stack::shaped(Server::with(CONFIG), shape);
    assert_eq!(named.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(named.get("/").send().status, 401);
    let odd = Shape::plain().cluster("ext_authz-v2.svc", None);
    assert_eq!(Stack::shaped(Server::with(CONFIG), odd).get("/").bearer(ALICE).send().status, 200);
}

#[test]
fn envoy_reaches_us_over_a_unix_socket() {
    let folder = tempfile::TempDir::new().unwrap();
    let socket = folder.path().join("ext_authz.sock");
    let setup = Server::with(CONFIG).listen(format!("unix:{}", socket.display()));
    let shape = Shape::plain().cluster("ext_authz", Some("ext-authz.local"));
    let stack = Stack::shaped(setup, shape);
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/").send().status, 401);
}

#[test]
fn envoy_reaches_us_over_an_abstract_socket() {
    let name = format!("envoy-auth-tokens-test-{}", std::process::id());
    let setup = Server::with(CONFIG).listen(format!("unix:@{name}"));
    let shape = Shape::plain().cluster("ext_authz", Some("ext-authz.local"));
    let stack = Stack::shaped(setup, shape);
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/").send().status, 401);
}

#[test]
fn without_us_nobody_passes() {
    let mut stack = Stack::start(CONFIG).expecting_errors();
    assert_eq!(stack.get("/").bearer(ALICE).send().status, 200);
    stack.server.kill();
    let answer = stack.get("/").bearer(ALICE).send();
    assert_eq!(answer.status, 403);
    assert_eq!(stack.upstream.calls(), 1);
}

#[test]
fn a_websocket_over_http_2_is_an_upgrade_like_any_other() {
    let config = CONFIG.replace("x-api-key}]", "x-api-key}, {cookie: auth_token}]");
    for encoding in Encoding::ALL {
        let shape = Shape::plain().encoding(encoding).manager(json!({
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "http2_protocol_options": { "allow_connect": true },
        }));
        let stack = Stack::shaped(Server::with(&config), shape);
        let connect = |name: &str, value: &str, origin: &str| {
            let request = http::Request::connect("http://app.example/chat");
            let request = request.extension(h2::ext::Protocol::from_static("websocket"));
            let request = request.header(name, value).header("origin", origin);
            http2::connect(stack.address(), request.body(()).unwrap())
        };
        let own = "http://app.example";
        let cookie = format!("auth_token={ALICE}");
        assert_eq!(connect("authorization", &format!("Bearer {ALICE}"), own), 200, "{encoding:?}");
        assert_eq!(connect("authorization", "", own), 401, "{encoding:?}");
        assert_eq!(connect("cookie", &cookie, own), 200, "{encoding:?}");
        assert_eq!(connect("cookie", &cookie, "https://evil.example"), 403, "{encoding:?}");
    }
}
