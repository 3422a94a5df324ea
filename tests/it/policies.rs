//! Which policy governs a request, and whom it admits: each way around one is tried.

use serde_json::json;

use crate::harness::envoy::per_route_policy;
use crate::harness::{Encoding, Server, Shape, Stack, grpc, in_each_form};

const VIEWER: &str = "viewer-token-0123456789";
const EDITOR: &str = "editor-token-0123456789";
const ADMIN: &str = "admin-token-01234567890";

const TOKENS: &str = "
tokens:
- {token: viewer-token-0123456789, actor: {id: viewer, role: Viewer}}
- {token: editor-token-0123456789, actor: {id: editor, role: Editor}}
- {token: admin-token-01234567890, actor: {id: admin, role: Admin}}
";

fn with(rules: &str) -> String {
    format!("{TOKENS}{rules}")
}

/// The status of a request without Envoy in between, for what Envoy would not pass on.
fn ask(server: &Server, method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> i32 {
    let bearer = format!("Bearer {ADMIN}");
    let mut all = vec![("authorization", bearer.as_str())];
    all.extend_from_slice(headers);
    let answer = grpc::check(server, grpc::request(method, host, path, &all));
    if grpc::code(&answer) == 0 { 200 } else { grpc::refused(&answer).0 }
}

#[test]
fn envoys_route_names_the_policy() {
    let config = with(
        "
policies:
  admin: {allow: {role: Admin}}
  read: {allow: {role: [Viewer, Editor, Admin]}}
  open: {allow: {unauthenticated: true}}
",
    );
    for encoding in Encoding::ALL {
        let route = |prefix: &str, policy: &str| {
            json!({
                "match": { "path_separated_prefix": prefix },
                "route": { "cluster": "app" },
                "typed_per_filter_config": { "envoy.filters.http.ext_authz": per_route_policy(policy) },
            })
        };
        let routes = json!([
            route("/admin", "admin"),
            route("/read", "read"),
            route("/open", "open"),
            route("/unknown", "no-such-policy"),
            route("/case", "Admin"),
            route("/inline", "default"),
            { "match": { "prefix": "/" }, "route": { "cluster": "app" } },
        ]);
        let stack = Stack::shaped(Server::with(&config), Shape::plain().encoding(encoding).routes(routes));
        let refused = (403, "insufficient_scope".to_owned());
        let anonymous = (401, "unauthorized".to_owned());
        assert_eq!(stack.get("/admin/x").bearer(ADMIN).send().status, 200, "{encoding:?}");
        assert_eq!(stack.get("/admin/x").bearer(VIEWER).send().verdict(), refused);
        assert_eq!(stack.get("/admin/x").send().verdict(), anonymous);
        assert_eq!(stack.get("/read").bearer(VIEWER).send().status, 200);
        assert!(stack.get("/open").send().seen().all("x-actor").is_empty());
        assert_eq!(stack.get("/").bearer(VIEWER).send().status, 200, "no policy named: the default");
        for path in ["/unknown", "/case"] {
            assert_eq!(stack.get(path).bearer(ADMIN).send().verdict(), refused, "{path}");
            assert_eq!(stack.get(path).send().verdict(), refused, "{path}: denied before the credential");
        }
    }
}

/// In our log and in Envoy's.
fn is_error(line: &str) -> bool {
    line.contains("\"ERROR\"") || line.contains("[error]")
}

#[test]
fn an_unknown_policy_is_logged_as_a_mistake_of_the_configuration() {
    in_each_form(|| {
        let stack = Stack::shaped(Server::with(TOKENS), Shape::plain().policy("no-such-policy"));
        let answer = stack.get("/").bearer(ADMIN).header("x-request-id", "the-unknown-policy").send();
        assert_eq!(answer.status, 403);
        let line = stack.decision("the-unknown-policy");
        assert_eq!(line["decision"], "denied");
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains("policy"), "{line}");
        // The error names the place where this form of Envoy's configuration names policies.
        let place = if stack.is_inside() { "filter_config" } else { "context_extensions" };
        let mistake = |line: &str| {
            (is_error(line) && line.contains("no-such-policy") && line.contains(place)).then_some(())
        };
        stack.deciding_log().wait_for("naming the unknown policy as an error", mistake);
    });
}

#[test]
fn a_key_that_is_nearly_policy_is_denied_and_logged_as_a_mistake_of_the_configuration() {
    let config = with("policies: {admin: {allow: {role: Admin}}}\ndefault: {allow: true}\n");
    let server = Server::with(&config).start();
    let check = |key: &str, also: bool| {
        let bearer = format!("Bearer {ADMIN}");
        let mut request = grpc::request("GET", "app.example", "/", &[("authorization", &bearer)]);
        let extensions = &mut request.attributes.as_mut().unwrap().context_extensions;
        extensions.insert(key.to_owned(), "admin".to_owned());
        if also {
            extensions.insert("policy".to_owned(), "admin".to_owned());
        }
        grpc::check(&server, request)
    };
    for (key, denied) in [
        ("Policy", true),
        ("polciy", true),
        ("plicy", true),
        ("policyy", true),
        ("virtual_host", false),
        ("policies", false),
    ] {
        for also in [false, true] {
            let answer = check(key, also);
            let code = answer.status.as_ref().expect("a status").code;
            assert_eq!(code, if denied { 7 } else { 0 }, "{key} {also} {answer:?}");
            if denied {
                let shown = format!("{answer:?}");
                assert!(shown.contains("context_key"), "{shown}");
            }
        }
    }
    let mistake = |line: &str| (line.contains("\"ERROR\"") && line.contains("polciy")).then_some(());
    server.log().wait_for("naming the key as an error", mistake);
}

#[test]
fn a_client_cannot_name_a_policy() {
    in_each_form(|| {
        let config = with("policies: {admin: {allow: {role: Admin}}, open: {allow: true}}\n");
        let stack = Stack::shaped(Server::with(&config), Shape::plain().policy("admin"));
        let request = stack.get("/?policy=open").bearer(VIEWER).header("policy", "open");
        let request = request.header("x-policy", "open").header("context_extensions", "policy=open");
        assert_eq!(request.send().status, 403);
    });
}

#[test]
fn the_first_route_that_matches_decides_and_the_default_decides_the_rest() {
    let config = with(
        "
policies: {write: {allow: {role: [Editor, Admin]}}}
routes:
- {path: /docs/secret, allow: {id: admin}}
- {path_prefix: /docs, methods: [GET], allow: true}
- {path_prefix: /docs, policy: write}
- {path_regex: '/v[0-9]+/x', allow: {role: Viewer}}
- {path: /never, allow: false}
default: {allow: {role: Admin}}
",
    );
    let cases = [
        ("GET", "/docs/a", None, 200),
        ("GET", "/docs/secret", None, 401),
        ("GET", "/docs/secret", Some(VIEWER), 403),
        ("GET", "/docs/secret", Some(ADMIN), 200),
        ("GET", "/docs/secret?x=/docs/a", Some(VIEWER), 403),
        ("GET", "/docs/%73ecret", Some(VIEWER), 403),
        ("GET", "/docs/Secret", None, 200),
        // A slash more: both the route that it falls through to and that of the other spelling must admit.
        ("GET", "/docs/secret/", None, 401),
        ("GET", "/docs/secret/", Some(VIEWER), 403),
        ("GET", "/docs/secret/", Some(ADMIN), 200),
        ("POST", "/docs/a", None, 401),
        ("POST", "/docs/a", Some(VIEWER), 403),
        ("POST", "/docs/a", Some(EDITOR), 200),
        ("GET", "/docsx", Some(EDITOR), 403),
        ("GET", "/docs", None, 200),
        ("GET", "/docs?", None, 200),
        ("GET", "/v12/x", Some(VIEWER), 200),
        ("GET", "/v12/x/y", Some(VIEWER), 403),
        ("GET", "/a/v12/x", Some(VIEWER), 403),
        ("GET", "/never", Some(ADMIN), 403),
        ("GET", "/other", Some(VIEWER), 403),
        ("GET", "/other", Some(ADMIN), 200),
        ("GET", "/other", None, 401),
    ];
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(&config, encoding);
        for (method, target, token, status) in cases {
            let request = stack.request(method, target);
            let request = if method == "POST" { request.body(Vec::new()) } else { request };
            let request = if let Some(token) = token { request.bearer(token) } else { request };
            assert_eq!(request.send().status, status, "{encoding:?} {method} {target} {token:?}");
        }
    }
}

/// Paths that a rule and an upstream may read differently.
const AMBIGUOUS: &[&str] = &[
    "//admin",
    "/open//x",
    "/open//",
    "/open/../admin",
    "/open/./x",
    "/open/..",
    "/.",
    "/open/%2e%2e/admin",
    "/open/%2E%2E/admin",
    "/open/.%2e/admin",
    "/open/%2e/x",
    "/open/..;/admin",
    "/open/..;x=1/admin",
    "/open/.;/x",
    "/open/%2e%2e;/admin",
    "/open/..%3b/admin",
    "/open;x=1/y",
    "/open/x;",
    "/open%3bx",
    "/open%3Bx",
    "/open/..%2fadmin",
    "/open%2fx",
    "/open%2Fx",
    "/open%5cx",
    "/open%5Cx",
    "/open\\..\\admin",
    "/open/x\\y",
    "/open%252fx",
    "/open%252e%252e",
    "/%2561dmin",
    "/open/%",
    "/open/%2",
    "/open/%zz",
    "/open/%00",
    "/open/%0a",
    "/open/%7f",
    "/open/%1f",
    "/open/%ff",
    "/open/%c3%28",
    "/open/%c0%af",
    "/open/%c2%85",
];

/// Paths that look odd and can be read in one way only.
const PLAIN: &[&str] = &[
    "/open/...",
    "/open/.hidden",
    "/open/a..b",
    "/open/%20x",
    "/open/100%25",
    "/open/%C3%A9",
    "/open/:memory:/x.json",
    "/open/a+b,c=d@e!",
    "/open/?next=//evil/../..;%2f%252f%zz",
];

#[test]
fn an_ambiguous_path_is_malformed_wherever_paths_decide() {
    let routed = with("routes: [{path_prefix: /open, allow: true}]\ndefault: {}\n");
    let named = with("policies: {open: {allow: true}}\n");
    for encoding in Encoding::ALL {
        let routes = Stack::encoded(&routed, encoding);
        let shape = Shape::plain().encoding(encoding).policy("open");
        let context = Stack::shaped(Server::with(&named), shape);
        for (what, stack) in [("routes", &routes), ("context_extensions", &context)] {
            for path in AMBIGUOUS {
                let answer = stack.get(path).bearer(ADMIN).send();
                let found = (answer.status, answer.text());
                assert_eq!(found.0, 400, "{encoding:?} {what} {path}: {}", found.1);
                assert_eq!(answer.error(), "invalid_request", "{encoding:?} {what} {path}");
            }
            for path in PLAIN {
                let answer = stack.get(path).send();
                assert_eq!(answer.status, 200, "{encoding:?} {what} {path}: {}", answer.text());
            }
            assert_eq!(stack.upstream.calls(), PLAIN.len());
        }
    }
}

#[test]
fn an_ambiguous_path_is_refused_before_the_credential_is_looked_at() {
    in_each_form(|| {
        let stack = Stack::start(&with("routes: [{path_prefix: /open, allow: true}]\ndefault: {}\n"));
        assert_eq!(stack.get("/open/../x").bearer("nobody-token-012345678").send().status, 400);
        assert_eq!(stack.get("/open/../x").send().status, 400);
    });
}

#[test]
fn paths_are_not_checked_where_no_rule_reads_them() {
    in_each_form(|| {
        let by_method = with("routes: [{methods: [GET], allow: true}]\ndefault: {}\n");
        for config in [TOKENS, &by_method] {
            let stack = Stack::start(config);
            for path in AMBIGUOUS {
                let answer = stack.get(path).bearer(VIEWER).send();
                assert_eq!(answer.seen().path, *path);
            }
        }
    });
}

#[test]
fn a_path_that_does_not_begin_with_a_slash_is_malformed() {
    let server = Server::with(&with("routes: [{path_prefix: /open, allow: true}]\ndefault: {}\n")).start();
    for path in ["*", "", "open", "?x=1", "http://h/open", "example.com:443", "/open#x"] {
        assert_eq!(ask(&server, "GET", "h", path, &[]), 400, "{path:?}");
    }
    assert_eq!(ask(&server, "GET", "h", "/open", &[]), 200);
}

#[test]
fn each_permitted_kind_lets_its_own_paths_through_and_no_others() {
    in_each_form(|| {
        let kinds = [
            ("empty_segment", vec!["//open", "/open//x", "/open//"]),
            ("encoded_slash", vec!["/open%2fx", "/open%5cx", "/open\\x"]),
            ("parameters", vec!["/open;x=1/y", "/open/x;", "/open%3bx"]),
        ];
        for (kind, _) in &kinds {
            let rules = format!(
                "routes: [{{path: /nowhere, allow: false}}]\ndefault: {{}}\npaths: {{permit: [{kind}]}}\n"
            );
            let stack = Stack::start(&with(&rules));
            for (other, paths) in &kinds {
                let status = if kind == other { 200 } else { 400 };
                for path in paths {
                    assert_eq!(stack.get(path).bearer(VIEWER).send().status, status, "permit {kind}: {path}");
                }
            }
            let never = [
                "/open/../x",
                "/open/%2e%2e/x",
                "/open/..;/x",
                "/open/..;x=1/x",
                "/open/.;/x",
                "/open%2f..%2fx",
                "/open\\..\\x",
                "/open/..%2fx",
                "/open/%252f",
                "/open/%00",
                "/open/%zz",
            ];
            for path in never {
                assert_eq!(stack.get(path).bearer(VIEWER).send().status, 400, "permit {kind}: {path}");
            }
        }
    });
}

#[test]
fn hosts_are_compared_without_case_port_and_trailing_dot() {
    in_each_form(|| {
        let config = with(
            "
routes:
- {host: api.example, allow: true}
- {host: '*.internal.example', allow: {role: Admin}}
default: {allow: false}
",
        );
        let stack = Stack::start(&config);
        let cases = [
            ("api.example", None, 200),
            ("API.Example", None, 200),
            ("api.example:8080", None, 200),
            ("api.example.", None, 200),
            ("api.example.:8080", None, 200),
            ("xapi.example", Some(ADMIN), 403),
            ("api.example.evil", Some(ADMIN), 403),
            ("a.internal.example", Some(ADMIN), 200),
            ("a.b.internal.example:80", Some(ADMIN), 200),
            ("A.INTERNAL.EXAMPLE.", Some(VIEWER), 403),
            ("a.internal.example", None, 401),
            ("internal.example", Some(ADMIN), 403),
            (".internal.example", Some(ADMIN), 400),
            ("api.example..", Some(ADMIN), 400),
            ("%61pi.example", Some(ADMIN), 400),
            ("api.example;x", Some(ADMIN), 400),
            ("api.example:", None, 200),
            ("xinternal.example", Some(ADMIN), 403),
            ("other.example", Some(ADMIN), 403),
        ];
        for (host, token, status) in cases {
            let request = stack.get("/").host(host);
            let request = if let Some(token) = token { request.bearer(token) } else { request };
            assert_eq!(request.send().status, status, "{host} {token:?}");
        }
    });
}

#[test]
fn a_host_that_can_be_read_in_two_ways_is_malformed_where_hosts_decide() {
    let hosts = [
        "",
        "user@api.example",
        "api.example,evil.example",
        "api.example/x",
        "api.example x",
        "api.example:port",
        "api.example:80:80",
        "api.example:",
    ];
    let strict = Server::with(&with("routes: [{host: api.example, allow: true}]\ndefault: {}\n")).start();
    let careless = Server::with(TOKENS).start();
    for host in hosts {
        if !matches!(host, "api.example:" | "api.example:80:80") {
            assert_eq!(ask(&strict, "GET", host, "/", &[]), 400, "{host:?}");
        }
        assert_eq!(ask(&careless, "GET", host, "/", &[]), 200, "{host:?}");
    }
    assert_eq!(ask(&strict, "GET", "api.example:80", "/", &[]), 200);
}

#[test]
fn methods_are_upper_case_and_get_covers_head() {
    in_each_form(|| {
        let config = with(
            "
routes:
- {path_prefix: /r, methods: [GET], allow: true}
- {path_prefix: /w, methods: [POST, PUT], allow: {role: Editor}}
default: {allow: false}
",
        );
        let stack = Stack::start(&config);
        assert_eq!(stack.get("/r").send().status, 200);
        assert_eq!(stack.request("HEAD", "/r").send().status, 200);
        assert_eq!(stack.request("OPTIONS", "/r").send().status, 401);
        assert_eq!(stack.request("DELETE", "/r").bearer(EDITOR).send().status, 403);
        assert_eq!(stack.post("/w").body(Vec::new()).bearer(EDITOR).send().status, 200);
        assert_eq!(stack.request("PUT", "/w").body(Vec::new()).bearer(EDITOR).send().status, 200);
        assert_eq!(stack.request("PATCH", "/w").body(Vec::new()).bearer(EDITOR).send().status, 403);
        for method in ["get", "Get", "gET", "post"] {
            assert_eq!(ask(&stack.server, method, "h", "/r", &[]), 400, "{method}");
        }
        for name in ["x-http-method-override", "x-http-method", "x-method-override", "X-HTTP-Method-Override"]
        {
            for value in ["DELETE", "GET"] {
                let answer = stack.get("/r").header(name, value).send();
                assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{name}: {value}");
            }
            assert_eq!(stack.get("/r").header(name, "").send().status, 200, "an empty value says nothing");
        }
    });
}

#[test]
fn methods_are_not_checked_where_no_rule_reads_them() {
    in_each_form(|| {
        let stack = Stack::start(&with("routes: [{path_prefix: /r, allow: true}]\ndefault: {}\n"));
        let seen = stack.get("/r").header("x-http-method-override", "DELETE").send().seen();
        assert_eq!(seen.all("x-http-method-override"), ["DELETE"]);
        assert_eq!(ask(&stack.server, "get", "h", "/r", &[]), 200);
    });
}

#[test]
fn an_allow_block_admits_whom_it_describes() {
    in_each_form(|| {
        let config = "
tokens:
- {token: actor-token-0123456789, actor: {id: 7, name: ada, groups: [a, b], nothing: null, flag: true, ratio: 1.0}}
routes:
- {path: /scalar, allow: {name: ada}}
- {path: /list, allow: {name: [bob, ada]}}
- {path: /shared, allow: {groups: [x, b]}}
- {path: /any, allow: {name: [nobody], groups: [a]}}
- {path: /star, allow: {name: '*'}}
- {path: /star-null, allow: {nothing: '*'}}
- {path: /star-absent, allow: {absent: '*'}}
- {path: /star-in-list, allow: {name: ['*']}}
- {path: /empty, allow: {}}
- {path: /false, allow: false}
- {path: /true, allow: true}
- {path: /number, allow: {id: 7.0}}
- {path: /number-text, allow: {id: '7'}}
- {path: /integer, allow: {ratio: 1}}
- {path: /bool, allow: {flag: true}}
- {path: /bool-number, allow: {flag: 1}}
- {path: /unauthenticated, allow: {unauthenticated: true}}
- {path: /unauthenticated-no, allow: {unauthenticated: false}}
- {path: /case, allow: {name: Ada}}
default: {}
";
        let stack = Stack::start(config);
        let cases = [
            ("/scalar", 200, 401),
            ("/list", 200, 401),
            ("/shared", 200, 401),
            ("/any", 200, 401),
            ("/star", 200, 401),
            ("/star-null", 200, 401),
            ("/star-absent", 403, 401),
            ("/star-in-list", 403, 401),
            ("/empty", 403, 401),
            ("/false", 403, 401),
            ("/true", 200, 200),
            ("/number", 200, 401),
            ("/number-text", 403, 401),
            ("/integer", 200, 401),
            ("/bool", 200, 401),
            ("/bool-number", 403, 401),
            ("/unauthenticated", 403, 200),
            ("/unauthenticated-no", 403, 401),
            ("/case", 403, 401),
            ("/default", 200, 401),
        ];
        for (path, actor, anonymous) in cases {
            assert_eq!(stack.get(path).bearer("actor-token-0123456789").send().status, actor, "{path}");
            assert_eq!(stack.get(path).send().status, anonymous, "{path}, anonymous");
        }
    });
}

#[test]
fn a_restricted_token_counts_under_its_own_policies_only() {
    let config = "
tokens:
- {token: free-token-01234567890, actor: {id: free, role: Admin}}
- {token: read-token-01234567890, actor: {id: reader, role: Admin}, policies: [read]}
- {token: none-token-01234567890, actor: {id: none, role: Admin}, policies: []}
users:
- {username: rob, password: a-long-password, actor: {id: rob, role: Admin}, policies: [read]}
policies:
  read: {allow: {role: Admin}}
  write: {allow: {role: Admin}}
  open: {allow: true}
routes:
- {path: /read, policy: read}
- {path: /write, policy: write}
- {path: /open, policy: open}
- {path: /inline, allow: {role: Admin}}
default: {}
";
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(config, encoding);
        let cases = [
            ("read-token-01234567890", "/read", 200),
            ("read-token-01234567890", "/write", 403),
            ("read-token-01234567890", "/inline", 403),
            ("read-token-01234567890", "/by-default", 403),
            ("none-token-01234567890", "/read", 403),
            ("none-token-01234567890", "/by-default", 403),
            ("free-token-01234567890", "/write", 200),
            ("free-token-01234567890", "/by-default", 200),
        ];
        for (token, path, status) in cases {
            let answer = stack.get(path).bearer(token).send();
            assert_eq!(answer.status, status, "{encoding:?} {token} {path}");
            if status == 403 {
                assert_eq!(answer.error(), "insufficient_scope");
            }
        }
        // Where anybody may pass it passes as nobody.
        let seen = stack.get("/open").bearer("read-token-01234567890").header("x-actor-id", "x");
        assert!(seen.send().seen().all("x-actor-id").is_empty(), "{encoding:?}");
        let seen = stack.get("/open").bearer("free-token-01234567890").send().seen();
        assert_eq!(seen.all("x-actor-id"), ["free"], "{encoding:?}");
        let login =
            |path: &str| crate::users::settle(|| stack.get(path).basic("rob", "a-long-password").send());
        assert_eq!(login("/read").status, 200);
        assert_eq!(login("/write").status, 403);
    }
}

#[test]
fn a_regex_stands_for_the_whole_path_whatever_it_is_made_of() {
    in_each_form(|| {
        let config = with(
            "
routes: [{path_regex: '/a|/b/.*', allow: true}, {path_regex: '(?i)/UP', allow: true}]
default: {allow: false}
",
        );
        let stack = Stack::start(&config);
        for (path, status) in [
            ("/a", 200),
            ("/b/x", 200),
            ("/a/secret", 401),
            ("/x/b/y", 401),
            ("/b", 401),
            ("/a%0a", 400),
            ("/up", 200),
            ("/a?x=/b/", 200),
        ] {
            assert_eq!(stack.get(path).send().status, status, "{path}");
        }
    });
}

#[test]
fn a_prefix_is_whole_segments_and_the_root_is_everything() {
    in_each_form(|| {
        let config = with(
            "
routes:
- {path_prefix: /api, methods: [HEAD], allow: true}
- {path_prefix: /api/v1, allow: true}
- {path_prefix: '/caf\u{e9}', allow: true}
- {path_prefix: '/with%20blank', allow: true}
- {path_prefix: /, allow: {role: Admin}}
default: {allow: false}
",
        );
        let stack = Stack::start(&config);
        for (method, path, token, status) in [
            ("GET", "/api/v1", None, 200),
            ("GET", "/api/v1/", None, 200),
            ("GET", "/api/v1/x", None, 200),
            ("GET", "/api/v10", None, 401),
            ("GET", "/api", None, 401),
            ("HEAD", "/api", None, 200),
            ("GET", "/caf%C3%A9/x", None, 200),
            ("GET", "/with%20blank", None, 200),
            ("GET", "/with%2520blank", None, 400),
            ("GET", "/", Some(ADMIN), 200),
            ("GET", "/anything", Some(ADMIN), 200),
            ("GET", "/anything", Some(VIEWER), 403),
        ] {
            let request = stack.request(method, path);
            let request = if let Some(token) = token { request.bearer(token) } else { request };
            assert_eq!(request.send().status, status, "{method} {path} {token:?}");
        }
    });
}

#[test]
fn an_empty_policy_name_is_an_unknown_one() {
    let server = Server::with(&with("default: {allow: true}\n")).start();
    let mut request = grpc::request("GET", "h", "/", &[]);
    let extensions = &mut request.attributes.as_mut().unwrap().context_extensions;
    extensions.insert("policy".to_owned(), String::new());
    assert_eq!(grpc::refused(&grpc::check(&server, request)).0, 403);
    let mut request = grpc::request("GET", "h", "/", &[]);
    let extensions = &mut request.attributes.as_mut().unwrap().context_extensions;
    extensions.insert("other".to_owned(), "policy".to_owned());
    assert_eq!(grpc::code(&grpc::check(&server, request)), 0);
}

#[test]
fn an_absolute_target_is_judged_by_the_host_and_path_that_it_names() {
    in_each_form(|| {
        let config = with(
            "
routes: [{host: open.example, path_prefix: /open, allow: true}]
default: {allow: {role: Admin}}
",
        );
        let stack = Stack::start(&config);
        assert_eq!(stack.get("http://open.example/open/x").host("other.example").send().status, 200);
        assert_eq!(stack.get("http://other.example/open/x").host("open.example").send().status, 401);
        assert_eq!(stack.get("http://open.example/closed").host("open.example").send().status, 401);
    });
}

#[test]
fn an_ipv6_host_is_a_host() {
    let server = Server::with(&with("routes: [{host: api.example, allow: true}]\ndefault: {}\n")).start();
    for host in ["[::1]", "[::1]:8080", "127.0.0.1", "127.0.0.1:80"] {
        assert_eq!(ask(&server, "GET", host, "/", &[]), 200, "{host}");
    }
}

#[test]
fn every_member_of_a_route_must_match() {
    in_each_form(|| {
        let config = with(
            "
routes:
- {host: '*.example', path_prefix: /files, path_regex: '.*\\.txt', methods: [GET], allow: true}
default: {allow: false}
",
        );
        let stack = Stack::start(&config);
        for (host, method, path, status) in [
            ("a.example", "GET", "/files/x.txt", 200),
            ("a.example", "GET", "/files/x.bin", 401),
            ("a.example", "GET", "/other/x.txt", 401),
            ("a.example", "DELETE", "/files/x.txt", 401),
            ("a.test", "GET", "/files/x.txt", 401),
        ] {
            assert_eq!(stack.request(method, path).host(host).send().status, status, "{method} {host}{path}");
        }
    });
}

#[test]
fn a_request_that_names_another_path_host_or_method_is_denied_where_rules_read_them() {
    in_each_form(|| {
        let config = with(
            "
routes:
- {host: app.example, path_prefix: /public, methods: [GET, POST], allow: true}
default: {allow: {role: Admin}}
",
        );
        let shape = || Shape::plain().filter(serde_json::json!({ "failure_mode_allow": true }));
        let stack = Stack::shaped(Server::with(&config), shape());
        let permitting = format!("{config}overrides: {{permit: [x-script-name, x-forwarded-host]}}\n");
        let permitting = Stack::shaped(Server::with(&permitting), shape());
        let cases = [
            ("X-Script-Name", "/public", false),
            ("SCRIPT_NAME", "/public", false),
            ("x.original.url", "/admin", false),
            ("X-Rewrite-URL", "/admin", false),
            ("x-forwarded-prefix", "/admin", false),
            ("x-forwarded-host", "admin.example", false),
            ("x-forwarded-host", "app.example", true),
            ("Forwarded", "for=192.0.2.1;host=admin.example", false),
            ("Forwarded", "for=192.0.2.1;host=app.example", true),
            ("X.HTTP.Method.Override", "DELETE", false),
            ("x-forwarded-proto", "https", true),
        ];
        for (name, value, passes) in cases {
            let request = stack.get("/public/a").host("app.example").header(name, value);
            assert_eq!(request.send().status, if passes { 200 } else { 400 }, "{name}: {value}");
        }
        let posted = |target: &str| stack.post(target).host("app.example").body(Vec::new()).send().status;
        assert_eq!(posted("/public/a?_method=DELETE"), 400);
        assert_eq!(posted("/public/a?method=DELETE"), 200);
        for (name, status) in [("x-script-name", 200), ("x_script_name", 400), ("x-forwarded-host", 200)] {
            let request = permitting.get("/public/a").host("app.example").header(name, "other.example");
            assert_eq!(request.send().status, status, "{name}");
        }
        // CONNECT has no path, and is not ambiguous for that.
        assert_eq!(ask(&stack.server, "CONNECT", "app.example:443", "", &[]), 200, "an Admin, under default");
    });
}

#[test]
fn the_target_of_copy_and_move_is_decided_as_well() {
    let config = with(
        "
routes:
- {path_prefix: /admin, allow: {role: Admin}}
- {path_prefix: /read-only, methods: [DELETE], allow: {role: Admin}}
default: {}
",
    );
    let server = Server::with(&config).start();
    let viewer = format!("Bearer {VIEWER}");
    let cases = [
        ("MOVE", "/own/a", Some("/own/b"), 200),
        ("COPY", "/own/a", Some("http://h/own/b"), 200),
        ("MOVE", "/own/a", Some("/admin/b"), 403),
        ("COPY", "/own/a", Some("/admin/b"), 403),
        ("COPY", "/own/a", Some("https://h/admin/b"), 403),
        ("COPY", "/own/a", Some("https://h/%61dmin/b"), 403),
        ("move", "/own/a", Some("/admin/b"), 400),
        ("MOVE", "/read-only/a", Some("/own/b"), 403),
        ("COPY", "/read-only/a", Some("/own/b"), 200),
        ("MOVE", "/own/a", None, 400),
        ("MOVE", "/own/a", Some("b"), 400),
        ("MOVE", "/own/a", Some("//admin/b"), 400),
        ("MOVE", "/own/a", Some("/own/../admin/b"), 400),
    ];
    for (method, path, destination, status) in cases {
        let mut headers = vec![("authorization", viewer.as_str())];
        headers.extend(destination.map(|destination| ("destination", destination)));
        assert_eq!(ask(&server, method, "h", path, &headers), status, "{method} {path} {destination:?}");
    }
}
