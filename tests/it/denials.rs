//! What a client that is turned away gets to know: the whole of it, and nothing more.

use bytes::Bytes;
use serde_json::json;

use crate::harness::http1::basic;
use crate::harness::server::decision_where;
use crate::harness::{Answer, Encoding, Server, Shape, Stack, grpc, http2, in_each_form};

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice}}
- {token: late-token-0123456789a, actor: {id: late}, expires: '2020-01-01T00:00:00Z'}
routes: [{path: /admin, allow: {id: root}}, {path_prefix: /open, allow: true}]
default: {}
";

const USERS: &str = "
users: [{username: rob, password: a-long-password}]
credentials: [bearer, basic, {cookie: auth_token}]
";

/// Status, body and challenges, and what every denial has in common.
#[track_caller]
fn assert_refusal(answer: &Answer, status: u16, error: &str, message: &str, challenges: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json(), json!({ "error": error, "message": message }));
    assert_eq!(answer.all("www-authenticate"), challenges);
    assert_eq!(answer.all("content-type"), ["application/json"]);
    assert_eq!(answer.all("cache-control"), ["no-store"]);
}

#[test]
fn every_refusal_says_what_the_table_says() {
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        let invalid_request = [r#"Bearer realm="api", error="invalid_request""#];
        let invalid_token = [r#"Bearer realm="api", error="invalid_token""#];
        let scope = [r#"Bearer realm="api", error="insufficient_scope""#];
        let send = |target: &str, authorization: &[&str]| {
            let lines: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
            stack.get(target).headers(&lines).send()
        };
        let alice = format!("Bearer {ALICE}");
        let answer = send("/", &[&alice, &alice]);
        assert_refusal(&answer, 400, "invalid_request", "Malformed request", &invalid_request);
        let answer = send("/a//b", &[&alice]);
        assert_refusal(&answer, 400, "invalid_request", "Malformed request", &invalid_request);
        let answer = send("/", &[]);
        assert_refusal(&answer, 401, "unauthorized", "Unauthorized", &[r#"Bearer realm="api""#]);
        let answer = send("/", &["Bearer"]);
        assert_refusal(&answer, 401, "invalid_token", "Malformed credential", &invalid_token);
        let answer = send("/", &["Bearer nobody-token-012345678"]);
        assert_refusal(&answer, 401, "invalid_token", "Invalid API key", &invalid_token);
        let answer = send("/", &["Bearer late-token-0123456789a"]);
        assert_refusal(&answer, 401, "invalid_token", "Expired API key", &invalid_token);
        let answer = send("/admin", &[&alice]);
        assert_refusal(&answer, 403, "insufficient_scope", "Permission denied", &scope);
        assert_eq!(stack.upstream.calls(), 0);
    }
}

#[test]
fn users_are_challenged_for_their_password() {
    in_each_form(|| {
        let stack = Stack::start(&format!("{CONFIG}{USERS}"));
        let basic_challenge = r#"Basic realm="api""#;
        let answer = stack.get("/").send();
        let both = [r#"Bearer realm="api""#, basic_challenge];
        assert_refusal(&answer, 401, "unauthorized", "Unauthorized", &both);
        let answer = crate::users::settle(|| stack.get("/").basic("rob", "wrong").send());
        let both = [r#"Bearer realm="api", error="invalid_token""#, basic_challenge];
        assert_refusal(&answer, 401, "invalid_token", "Invalid username or password", &both);
        let answer = stack.get("/").header("authorization", "Basic dXNlcg==").send();
        assert_eq!(answer.json()["message"], "Invalid Basic Auth Header");
        assert_eq!(answer.all("www-authenticate")[0], r#"Bearer realm="api", error="invalid_token""#);
    });
}

#[test]
fn the_realm_is_the_operators() {
    in_each_form(|| {
        let stack = Stack::start(&format!("{CONFIG}\nrealm: my shop\n"));
        assert_eq!(stack.get("/").send().all("www-authenticate"), [r#"Bearer realm="my shop""#]);
    });
}

#[test]
fn nothing_that_the_client_sent_comes_back() {
    in_each_form(|| {
        let stack = Stack::start(&format!("{CONFIG}{USERS}"));
        let mark = "Echo-Mark-5318008";
        let requests = [
            stack.get(&format!("/{mark}?{mark}={mark}")).bearer(mark).header("x-request-id", mark),
            stack.get(&format!("/{mark}")).basic(mark, mark),
            stack.get(&format!("/{mark}//{mark}")).header("origin", mark),
            stack.get("/").header("authorization", format!("{mark} {mark}")),
            stack.post("/").host(mark).header("cookie", format!("auth_token={mark}")).header("origin", mark),
        ];
        for request in requests {
            let answer = request.send();
            assert!(answer.status >= 400);
            assert!(!format!("{answer:?}{}", answer.text()).contains(mark), "{answer:?} {}", answer.text());
        }
    });
}

#[test]
fn a_head_request_is_refused_without_a_body() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        let answer = stack.request("HEAD", "/").send();
        assert_eq!((answer.status, answer.body.len()), (401, 0));
        assert_eq!(answer.all("www-authenticate"), [r#"Bearer realm="api""#]);
        assert_eq!(stack.request("HEAD", "/").bearer(ALICE).send().status, 200);
    });
}

#[test]
fn a_grpc_client_is_refused_in_its_own_terms() {
    for encoding in Encoding::ALL {
        let shape = Shape::plain().encoding(encoding).grpc_upstream();
        let stack = Stack::shaped(Server::with(&format!("{CONFIG}{USERS}")), shape);
        let call = |path: &str, content_type: &str, authorization: Option<&str>| {
            let request = http::Request::post(format!("http://app.example{path}"));
            let mut request = request.header("content-type", content_type).header("te", "trailers");
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            // An empty message: the length-prefixed form of gRPC over HTTP/2.
            let body = Bytes::from_static(&[0; 5]);
            http2::send(stack.address(), request.body(()).unwrap(), Some(body)).unwrap()
        };
        let alice = format!("Bearer {ALICE}");
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let answer = call("/grpc.health.v1.Health/Check", content_type, None);
            let response = (answer.status, answer.grpc_status(), answer.grpc_message());
            assert_eq!(response, (200, Some("16"), Some("Unauthorized")), "{encoding:?}");
            let answer = call("/admin", content_type, Some(&alice));
            let response = (answer.status, answer.grpc_status(), answer.grpc_message());
            assert_eq!(response, (200, Some("7"), Some("Permission denied")), "{encoding:?}");
            assert!(answer.body.is_empty());
            // Envoy makes INTERNAL (13) of 400 by itself.
            let twice = format!("{alice}, {alice}");
            let answer = call("/grpc.health.v1.Health/Check", content_type, Some(&twice));
            let response = (answer.status, answer.grpc_status(), answer.grpc_message());
            assert_eq!(response, (200, Some("3"), Some("Malformed request")), "{encoding:?}");
        }
        let answer = call("/grpc.health.v1.Health/Check", "application/grpc", Some(&alice));
        assert_eq!((answer.status, answer.grpc_status()), (200, Some("0")), "{encoding:?}: {answer:?}");
        assert!(answer.trailers.contains_key("grpc-status"), "a real answer with trailers: {answer:?}");

        // grpc-web is HTTP for browsers.
        for content_type in ["application/grpc-web", "application/grpc-web-text+proto"] {
            let answer = call("/grpc.health.v1.Health/Check", content_type, None);
            assert_eq!(answer.status, 401, "{encoding:?} {content_type}");
            let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(body, json!({ "error": "unauthorized", "message": "Unauthorized" }));
        }
    }
}

#[test]
fn another_site_cannot_use_a_cookie_or_a_remembered_password_to_change_anything() {
    let config = format!("{CONFIG}{USERS}");
    let cookie = ("cookie", format!("auth_token={ALICE}"));
    let password = ("authorization", basic("rob", "a-long-password"));
    let key = ("authorization", basic("api_key", ALICE));
    let site = "sec-fetch-site";
    let cases: &[(&str, &[(&str, &str)], u16)] = &[
        ("POST", &[], 200),
        ("POST", &[(site, "same-origin")], 200),
        ("POST", &[(site, "none")], 200),
        ("POST", &[(site, "same-site")], 200),
        ("POST", &[(site, "cross-site")], 403),
        ("POST", &[(site, "Same-Origin")], 403),
        ("POST", &[(site, "anything")], 403),
        ("POST", &[(site, "same-origin"), ("origin", "https://evil.example")], 200),
        ("POST", &[(site, "cross-site"), ("origin", "http://app.example")], 403),
        ("POST", &[("origin", "http://app.example")], 200),
        ("POST", &[("origin", "https://evil.example")], 403),
        ("POST", &[("origin", "http://app.example.evil.example")], 403),
        ("POST", &[("origin", "null")], 403),
        ("PUT", &[(site, "cross-site")], 403),
        ("DELETE", &[(site, "cross-site")], 403),
        ("PATCH", &[("origin", "https://evil.example")], 403),
        ("GET", &[(site, "cross-site")], 200),
        ("HEAD", &[(site, "cross-site")], 200),
        ("OPTIONS", &[(site, "cross-site")], 200),
        ("GET", &[("origin", "https://evil.example")], 200),
    ];
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(&config, encoding);
        // The first password check may take longer than its deadline: it is remembered afterwards.
        crate::users::settle(|| stack.get("/").basic("rob", "a-long-password").send());
        for credential in [&cookie, &password, &key] {
            for (method, headers, status) in cases {
                let request = stack.request(method, "/").header(credential.0, &credential.1);
                let answer = request.headers(headers).body(Vec::new()).send();
                let what = format!("{encoding:?} {method} {} {headers:?}", credential.0);
                assert_eq!(answer.status, *status, "{what}");
                if *status == 403 {
                    assert_eq!(answer.json()["message"], "Permission denied", "{what}");
                }
            }
        }
        // Two lines of it are no answer.
        let twice = [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")];
        let request = stack.post("/").header(cookie.0, &cookie.1).headers(&twice).body(Vec::new());
        assert_eq!(request.send().status, 403, "{encoding:?}");
        // A Bearer token is never sent by a browser on its own.
        let request = stack.post("/").bearer(ALICE).header(site, "cross-site").body(Vec::new());
        assert_eq!(request.send().status, 200, "{encoding:?}");
    }
}

#[test]
fn a_websocket_from_another_site_is_refused_although_it_is_a_get() {
    in_each_form(|| {
        let shape = Shape::plain().manager(json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] }));
        let stack = Stack::shaped(Server::with(&format!("{CONFIG}{USERS}")), shape);
        let upgrade = |origin: &str| {
            let request = stack.get("/").header("connection", "upgrade").header("upgrade", "websocket");
            request.header("origin", origin).header("cookie", format!("auth_token={ALICE}")).send().status
        };
        assert_eq!(upgrade("https://evil.example"), 403);
        assert_eq!(upgrade("http://app.example"), 101);
    });
}

#[test]
fn the_operator_may_let_other_sites_use_a_place() {
    in_each_form(|| {
        let config = format!(
            "{CONFIG}
users: [{{username: rob, password: a-long-password}}]
credentials: [{{cookie: auth_token, allow_cross_site: true}}, bearer, basic]
"
        );
        let stack = Stack::start(&config);
        let cross = || stack.post("/").header("sec-fetch-site", "cross-site").body(Vec::new());
        assert_eq!(cross().header("cookie", format!("auth_token={ALICE}")).send().status, 200);
        assert_eq!(cross().basic("api_key", ALICE).send().status, 403);
    });
}

#[test]
fn a_cors_preflight_passes_only_where_the_operator_says_so_and_only_if_it_is_one() {
    let preflight = |stack: &Stack| {
        let request = stack.request("OPTIONS", "/").header("origin", "https://spa.example");
        request.header("access-control-request-method", "POST")
    };
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        assert_eq!(preflight(&stack).send().verdict(), (401, "unauthorized".into()));
        assert_eq!(stack.request("OPTIONS", "/").send().status, 401);
        assert_eq!(stack.request("OPTIONS", "/").bearer(ALICE).send().status, 200);

        let stack = Stack::encoded(&format!("{CONFIG}\nallow_cors_preflight: true\n"), encoding);
        let seen = preflight(&stack).header("x-actor-id", "root").send().seen();
        assert!(seen.all("x-actor-id").is_empty() && seen.all("x-actor").is_empty(), "{encoding:?}");
        let options = || stack.request("OPTIONS", "/");
        assert_eq!(options().send().status, 401, "{encoding:?}: neither header");
        assert_eq!(options().header("origin", "https://spa.example").send().status, 401);
        assert_eq!(options().header("access-control-request-method", "GET").send().status, 401);
        let get = stack.get("/").header("origin", "https://spa.example");
        assert_eq!(get.header("access-control-request-method", "GET").send().status, 401);
    }
}

#[test]
fn each_decision_is_one_line_that_says_why() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        let send = |target: &str, id: &str| stack.get(target).header("x-request-id", id);
        assert_eq!(send("/open/x?q=1", "line-open").send().status, 200);
        assert_eq!(send("/x?q=1", "line-pass").bearer(ALICE).send().status, 200);
        assert_eq!(send("/admin", "line-scope").bearer(ALICE).send().status, 403);
        assert_eq!(send("/x", "line-none").send().status, 401);

        let line = stack.decision("line-pass");
        assert_eq!(line["message"], "allowed");
        assert_eq!(line["decision"], "allowed");
        assert_eq!(line["policy"], "default");
        assert_eq!(line["credential.kind"], "token");
        assert_eq!(line["credential.name"], "token-1");
        assert_eq!(line["method"], "GET");
        assert_eq!(line["host"], "app.example");
        assert_eq!(line["path"], "/x", "without its query");
        assert!(line["duration_us"].is_u64(), "{line}");
        let line = stack.decision("line-scope");
        assert_eq!((&line["decision"], &line["policy"]), (&json!("denied"), &json!("route-1")));
        assert!(line["reason"].is_string());
        let line = stack.decision("line-none");
        assert_eq!((&line["message"], &line["decision"]), (&json!("denied"), &json!("denied")));
        let line = stack.decision("line-open");
        assert_eq!((&line["decision"], &line["policy"]), (&json!("allowed"), &json!("route-2")));
        assert_eq!(stack.decisions().len(), 4);
    });
}

#[test]
fn what_a_client_sends_cannot_break_a_log_line_or_fill_the_log() {
    in_each_form(|| {
        let stack = Stack::start(&format!("{CONFIG}\n"));
        let path = format!("/{}", "p".repeat(3000));
        let answer = stack.get(&path).header("x-request-id", "long-path").send();
        assert_eq!(answer.status, 401);
        let line = stack.decision("long-path");
        assert!(line["path"].as_str().unwrap().len() <= 260, "{line}");
        let long = "l".repeat(3000);
        let request = stack.get("/long-fields").host(&long).header("x-request-id", &long);
        assert_eq!(request.send().status, 401);
        let line = decision_where(stack.deciding_log(), "path", "/long-fields");
        assert!(line.to_string().len() < 2000, "{line}");
        let answer = stack.get("/%0a%0d%1b[31m\"x").header("x-request-id", "odd-path").send();
        assert_eq!(answer.status, 400);
        let line = stack.decision("odd-path");
        assert!(line["path"].as_str().unwrap().starts_with("/%0a"), "{line}");
    });
}

#[test]
fn a_line_for_people_cannot_be_forged_either() {
    let mut server = Server::with(CONFIG).text_log().arg("--drain=0s").start();
    let forged = "/x\n2026-01-01T00:00:00Z  INFO decision: allowed decision=\"allowed\"\u{1b}[31m\u{202e}";
    let headers = [("x-request-id", "forged\r\nline"), ("authorization", "Bearer x\u{7}y")];
    for (method, host, path) in [("GET", "h", forged), ("GET", forged, "/"), (forged, "h", "/")] {
        let answer = grpc::check(&server, grpc::request(method, host, path, &headers));
        assert_ne!(grpc::code(&answer), 0);
    }
    server.terminate();
    server.wait();
    let bytes = server.log().text();
    assert!(bytes.contains("denied"), "{bytes}");
    assert!(!bytes.lines().any(|line| line.starts_with("2026-01-01") || line.starts_with("line")), "{bytes}");
    assert!(!bytes.contains('\u{1b}') && !bytes.contains('\u{7}') && !bytes.contains('\r'), "{bytes}");
}
