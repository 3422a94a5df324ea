//! What the upstream learns of the actor, and that nobody but us can tell it.
//!
//! The Envoys here are plain: nothing is stripped before us.

use std::io::{Read, Write};

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use serde_json::json;

use crate::harness::envoy::per_route_disabled;
use crate::harness::{Encoding, Server, Shape, Stack, grpc, in_each_form};

const ALICE: &str = "alice-token-0123456789";

const CONFIG: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice}}
routes: [{path_prefix: /open, allow: true}]
default: {}
";

fn each_encoding(config: &str, test: impl Fn(&Stack, Encoding)) {
    for encoding in Encoding::ALL {
        test(&Stack::encoded(config, encoding), encoding);
    }
}

#[test]
fn a_client_cannot_say_who_it_is() {
    let spoofed = [
        ("x-actor-id", "root"),
        ("X-Actor-Id", "root"),
        ("X-ACTOR-ROLE", "Admin"),
        ("x-actor-name", ""),
        ("x-actor", r#"{"id":"root"}"#),
    ];
    each_encoding(CONFIG, |stack, encoding| {
        let seen = stack.get("/").bearer(ALICE).headers(&spoofed).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?}");
        assert_eq!(seen.all("x-actor"), [r#"{"id":"alice"}"#], "{encoding:?}");
        assert!(seen.all("x-actor-role").is_empty(), "{encoding:?}: the actor has no role");
        assert!(seen.all("x-actor-name").is_empty(), "{encoding:?}: the actor has no name");
        // Nor when nobody is there at all.
        let seen = stack.get("/open").headers(&spoofed).send().seen();
        for name in ["x-actor", "x-actor-id", "x-actor-name", "x-actor-role"] {
            assert!(seen.all(name).is_empty(), "{encoding:?} {name}");
        }
    });
}

#[test]
fn names_that_an_upstream_may_fold_onto_an_actor_header_are_removed_one_by_one() {
    let folded = [
        "x_actor_id",
        "X_Actor_Id",
        "x-actor_id",
        "x_actor-id",
        "x.actor.id",
        "x~actor~id",
        "x!actor#id",
        "x_actor",
        "X.Actor",
        "x_actor_role",
        "x_actor_name",
    ];
    each_encoding(CONFIG, |stack, encoding| {
        for name in folded {
            for target in ["/", "/open"] {
                let request = stack.get(target).header(name, "root");
                let request = if target == "/" { request.bearer(ALICE) } else { request };
                let seen = request.send().seen();
                assert!(seen.all(name).is_empty(), "{encoding:?} {name} {target}");
            }
        }
        let seen = stack.get("/").bearer(ALICE).header("x-actors", "a").header("xactorid", "b");
        let seen = seen.header("x-actor-id-2", "c").send().seen();
        assert_eq!(seen.all("x-actors"), ["a"]);
        assert_eq!(seen.all("xactorid"), ["b"]);
        assert_eq!(seen.all("x-actor-id-2"), ["c"]);
    });
}

#[test]
fn the_header_of_a_failed_open_envoy_cannot_be_forged() {
    each_encoding(CONFIG, |stack, _| {
        for target in ["/", "/open"] {
            let request = stack.get(target).header("x-envoy-auth-failure-mode-allowed", "true");
            let seen = request.bearer(ALICE).send().seen();
            assert!(seen.all("x-envoy-auth-failure-mode-allowed").is_empty());
        }
    });
}

#[test]
fn a_connection_header_that_names_an_actor_header_is_malformed() {
    // Envoy keeps `connection` on upgrades alone; a proxy behind it would drop what it names.
    let shape = || Shape::plain().manager(json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] }));
    for encoding in Encoding::ALL {
        let stack = Stack::shaped(Server::with(CONFIG), shape().encoding(encoding));
        let upgrade = |connection: &str| {
            let request = stack.get("/").bearer(ALICE).header("upgrade", "websocket");
            request.header("connection", connection).send()
        };
        for connection in ["upgrade, x-actor-id", "Upgrade,X-Actor", "upgrade , X-ACTOR-ROLE"] {
            let answer = upgrade(connection);
            assert_eq!(answer.verdict(), (400, "invalid_request".into()), "{encoding:?} {connection}");
        }
        assert_eq!(upgrade("upgrade, x-other").status, 101, "{encoding:?}");
        // Without an upgrade Envoy has already taken the header away, and the actor arrives.
        let seen = stack.get("/").bearer(ALICE).header("connection", "x-actor-id").send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"], "{encoding:?}");
        assert!(seen.all("connection").is_empty(), "{encoding:?}");
    }
    // Another gateway may show it on every request.
    let server = Server::with(CONFIG).start();
    let bearer = format!("Bearer {ALICE}");
    let headers = [("authorization", bearer.as_str()), ("connection", "keep-alive, x-actor-id")];
    let answer = grpc::check(&server, grpc::request("GET", "app.example", "/", &headers));
    assert_eq!(grpc::refused(&answer).0, 400);
}

#[test]
fn values_are_spelled_so_that_none_can_look_like_another() {
    let config = r#"
tokens:
- token: alice-token-0123456789
  actor:
    id: 42
    name: "Zoë, 100% \\ \"x\""
    admin: true
    ratio: 1.5
    padded: "  in the middle  "
    groups: [finance, "a,b", 7, "50%", "é"]
    mixed: [a, {b: 1}]
    team: {lead: {name: Ada}, size: 3}
    "a.b": literal
    a: {b: nested}
    nothing: null
    empty: ""
    none: []
    lines: "one\ntwo"
actor_headers:
  x-actor: "*"
  x-actor-id: id
  x-actor-name: name
  x-actor-admin: admin
  x-actor-ratio: ratio
  x-actor-padded: padded
  x-actor-groups: groups
  x-actor-mixed: mixed
  x-actor-team: team
  x-actor-lead: team.lead.name
  x-actor-dotted: a.b
  x-actor-nothing: nothing
  x-actor-empty: empty
  x-actor-none: none
  x-actor-absent: team.nobody.name
  x-actor-lines: lines
"#;
    each_encoding(config, |stack, encoding| {
        let spoof = |name| (name, "spoofed");
        let names = ["x-actor-nothing", "x-actor-empty", "x-actor-none", "x-actor-absent", "x-actor-groups"];
        let seen = stack.get("/").bearer(ALICE).headers(&names.map(spoof)).send().seen();
        let expected = [
            ("x-actor-id", "42"),
            ("x-actor-name", r#"Zo%C3%AB%2C 100%25 \ "x""#),
            ("x-actor-admin", "true"),
            ("x-actor-ratio", "1.5"),
            ("x-actor-padded", "%20%20in the middle%20%20"),
            ("x-actor-groups", "finance,a%2Cb,7,50%25,%C3%A9"),
            ("x-actor-mixed", r#"["a",{"b":1}]"#),
            ("x-actor-team", r#"{"lead":{"name":"Ada"},"size":3}"#),
            ("x-actor-lead", "Ada"),
            ("x-actor-dotted", "literal"),
            ("x-actor-lines", "one%0Atwo"),
        ];
        for (name, value) in expected {
            assert_eq!(seen.all(name), [value], "{encoding:?} {name}");
        }
        for name in ["x-actor-nothing", "x-actor-empty", "x-actor-none", "x-actor-absent"] {
            assert!(seen.all(name).is_empty(), "{encoding:?} {name}");
        }
        let whole = seen.all("x-actor");
        assert_eq!(whole.len(), 1);
        assert!(whole[0].is_ascii() && whole[0].contains(r#""name":"Zo\u00eb, 100% \\ \"x\"""#), "{whole:?}");
        let order = ["\"id\":42", "\"groups\":", "\"team\":", "\"nothing\":null", "\"lines\":"];
        let places: Vec<_> = order.iter().map(|member| whole[0].find(member).unwrap()).collect();
        assert!(places.is_sorted(), "members keep their order: {whole:?}");
    });
}

#[test]
fn actor_headers_are_named_by_the_operator() {
    let config = "
tokens: [{token: alice-token-0123456789, actor: {id: alice, role: Viewer}}]
actor_headers: {x-webauth-user: id}
";
    each_encoding(config, |stack, _| {
        let request = stack.get("/").bearer(ALICE).header("X_WebAuth_User", "root");
        let seen = request.header("x-actor-id", "the client's own").send().seen();
        assert_eq!(seen.all("x-webauth-user"), ["alice"]);
        assert!(seen.all("x_webauth_user").is_empty());
        assert_eq!(seen.all("x-actor-id"), ["the client's own"]);
        assert!(seen.all("x-actor").is_empty());
    });
}

#[test]
fn each_actor_header_is_set_for_good_or_removed_and_never_both() {
    let server = Server::with(CONFIG).start();
    let bearer = format!("Bearer {ALICE}");
    let cases = [("/", vec![("authorization", bearer.as_str())]), ("/open", Vec::new())];
    for (path, headers) in cases {
        let answer = grpc::check(&server, grpc::request("GET", "app.example", path, &headers));
        let pass = grpc::pass(&answer);
        for name in ["x-actor", "x-actor-id", "x-actor-name", "x-actor-role"] {
            let set = pass
                .headers
                .iter()
                .filter(|option| option.header.as_ref().is_some_and(|header| header.key == name));
            let removed = pass.headers_to_remove.iter().filter(|removed| *removed == name);
            assert_eq!(set.count() + removed.count(), 1, "{path} {name}");
        }
        for option in &pass.headers {
            // Some data planes read one of them, some the other, released Envoys the first.
            #[allow(deprecated, reason = "released Envoys read it")]
            let append = option.append.as_ref().map(|append| append.value);
            assert_eq!(append, Some(false), "{option:?}");
            assert_eq!(option.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd, "{option:?}");
            let header = option.header.as_ref().expect("every option names its header");
            assert!(header.raw_value.is_empty() && !header.key.is_empty(), "{option:?}");
        }
    }
}

#[test]
fn an_envoy_with_strict_mutation_rules_never_finds_fault() {
    for encoding in Encoding::ALL {
        let shape = Shape::plain().encoding(encoding).filter(json!({
            "validate_mutations": true,
            "decoder_header_mutation_rules": {
                "disallow_all": true,
                "disallow_is_error": true,
                "allow_expression": { "regex": "x-actor(-[a-z-]+)?|authorization" },
            },
        }));
        let stack = Stack::shaped(Server::with(CONFIG), shape);
        assert_eq!(stack.get("/").bearer(ALICE).send().seen().all("x-actor-id"), ["alice"]);
        assert_eq!(stack.get("/open?a=1").header("cookie", "a=1").send().status, 200);
        assert_eq!(stack.get("/").send().status, 401);
        assert_eq!(stack.envoy.stat("invalid"), 0);
    }
}

#[test]
fn a_header_of_ours_does_not_choose_the_route_of_somebody_else() {
    // With clear_route_cache the routes are matched again, after our changes.
    let routes = json!([
        {
            "match": { "prefix": "/", "headers": [{ "name": "x-actor-id", "string_match": { "exact": "root" } }] },
            "direct_response": { "status": 418 },
        },
        { "match": { "prefix": "/" }, "route": { "cluster": "app" } },
    ]);
    let shape = Shape::plain().routes(routes).filter(json!({ "clear_route_cache": true }));
    let stack = Stack::shaped(Server::with(CONFIG), shape);
    let seen = stack.get("/").bearer(ALICE).header("x-actor-id", "root").send().seen();
    assert_eq!(seen.all("x-actor-id"), ["alice"]);
}

#[test]
fn where_the_filter_is_off_nobody_asks_us_and_nothing_is_stripped() {
    in_each_form(|| {
        // Why deploy/envoy.yaml strips by itself.
        let routes = json!([{
            "match": { "prefix": "/" },
            "route": { "cluster": "app" },
            "typed_per_filter_config": { "envoy.filters.http.ext_authz": per_route_disabled() },
        }]);
        let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().routes(routes));
        let seen = stack.get("/").header("x-actor-id", "root").send().seen();
        assert_eq!(seen.all("x-actor-id"), ["root"]);
        assert!(stack.decisions().is_empty());
    });
}

#[test]
fn envoys_access_log_learns_who_it_was_and_by_what() {
    in_each_form(|| {
        let stack = Stack::start(
            "
tokens: [{name: reporting, token: alice-token-0123456789, actor: {id: alice, groups: [a, b]}}]
routes: [{path_prefix: /open, allow: true}, {path_prefix: /r, policy: readers}]
policies: {readers: {allow: {id: alice}}}
default: {}
",
        );
        assert_eq!(stack.get("/r/1").bearer(ALICE).send().status, 200);
        let metadata = &stack.envoy.accessed("/r/1")["ext_authz"];
        assert_eq!(metadata["actor"], json!({ "id": "alice", "groups": ["a", "b"] }));
        assert_eq!(metadata["credential"]["kind"], "token");
        assert_eq!(metadata["credential"]["name"], "reporting");
        assert_eq!(metadata["policy"], "readers");

        assert_eq!(stack.get("/open/1").send().status, 200);
        let metadata = &stack.envoy.accessed("/open/1")["ext_authz"];
        assert!(metadata["actor"].is_null() && metadata["credential"].is_null(), "{metadata}");
        assert_eq!(metadata["policy"], "route-1");

        assert_eq!(stack.get("/r/2").bearer("nobody-token-012345678").send().status, 401);
        let entry = stack.envoy.accessed("/r/2");
        assert!(entry["ext_authz"]["reason"].is_string(), "{entry}");
        assert_eq!(entry["ext_authz"]["policy"], "readers");
        assert!(entry["details"].as_str().unwrap().contains("_denied"), "{entry}");
    });
}

#[test]
fn an_upgraded_connection_knows_its_actor() {
    in_each_form(|| {
        let shape = Shape::plain().manager(json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] }));
        let stack = Stack::shaped(Server::with(CONFIG), shape);
        let upgrade = || stack.get("/").header("connection", "upgrade").header("upgrade", "websocket");
        let (answer, mut stream) = upgrade().bearer(ALICE).keep();
        assert_eq!(answer.status, 101);
        stream.get_mut().write_all(b"hello").unwrap();
        let mut echoed = [0; 5];
        stream.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"hello");
        assert_eq!(upgrade().send().verdict(), (401, "unauthorized".into()));
        assert_eq!(upgrade().bearer("nobody-token-012345678").send().status, 401);
    });
}

#[test]
fn an_actor_as_deep_as_one_may_be_makes_an_answer_that_envoy_can_read() {
    in_each_form(|| {
        // A protobuf message may nest 100 deep, and each list of an actor is three messages, each object four.
        let lists = format!("{}1{}", "[".repeat(16), "]".repeat(16));
        let objects = format!("{}1{}", "{a: ".repeat(16), "}".repeat(16));
        for nested in [&lists, &objects] {
            let config = format!("tokens: [{{token: {ALICE}, actor: {{id: alice, deep: {nested}}}}}]\n");
            let shape = Shape::plain().filter(json!({ "failure_mode_allow": true }));
            let stack = Stack::shaped(Server::with(&config), shape);
            let seen = stack.get("/").bearer(ALICE).header("x-actor-id", "root").send().seen();
            assert_eq!(seen.all("x-actor-id"), ["alice"], "{nested}");
            assert_eq!(stack.envoy.stat("error"), 0, "{nested}");
            assert_eq!(grpc::code(&grpc::check(&stack.server, grpc::bearer(ALICE))), 0, "{nested}");
        }
        for nested in [format!("[{lists}]"), format!("{{a: {objects}}}"), format!("[{objects}]")] {
            let config = format!("tokens: [{{token: {ALICE}, actor: {{id: alice, deep: {nested}}}}}]\n");
            let refused = Server::with(&config).run(["check"]);
            assert_eq!(refused.code(), Some(1), "{nested}");
        }
    });
}
