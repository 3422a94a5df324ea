//! Policies that are not enforced: what they would deny passes, is told, and has no actor.

use serde_json::{Value, json};

use crate::harness::http1::basic;
use crate::harness::upstream::Seen;
use crate::harness::{Encoding, Request, Server, Shape, Stack, in_each_form};

const ALICE: &str = "alice-token-0123456789";
const BOB: &str = "bob-token-01234567890a";
const LATE: &str = "late-token-0123456789a";
const STRANGER: &str = "nobody-token-012345678";

const CONFIG: &str = "
tokens:
- {name: alices, token: alice-token-0123456789, actor: {id: alice, role: Editor}}
- {name: bobs, token: bob-token-01234567890a, actor: {id: bob}}
- {name: late, token: late-token-0123456789a, actor: {id: late}, expires: '2020-01-01T00:00:00Z'}
users: [{username: rob, password: a-long-password}]
credentials: [bearer, basic, {header: x-api-key}, {cookie: auth_token}]
policies:
  editors: {allow: {role: Editor}, enforce: false}
routes:
- {path_prefix: /closed, allow: {role: Editor}}
- {path_prefix: /inline, allow: {role: Editor}, enforce: false}
- {path_prefix: /named, policy: editors}
default: {enforce: false}
";

/// What a client sends that would like to be somebody.
const FORGED: [(&str, &str); 7] = [
    ("x-actor", r#"{"id":"root"}"#),
    ("x-actor-id", "root"),
    ("x-actor-name", "root"),
    ("x-actor-role", "Admin"),
    ("X_Actor_Id", "root"),
    ("x.actor.role", "Admin"),
    ("x-envoy-auth-failure-mode-allowed", "true"),
];

#[track_caller]
fn assert_no_actor(seen: &Seen, what: &str) {
    for (name, _) in FORGED {
        assert!(seen.all(name).is_empty(), "{what}: {name} reached the upstream");
    }
}

/// What stands in Envoy's access log of our dynamic metadata.
fn envoy_metadata(stack: &Stack, path: &str) -> Value {
    let mut metadata = stack.envoy.accessed(path)["ext_authz"].clone();
    // That is Envoy's own.
    metadata.as_object_mut().expect("dynamic metadata").remove("ext_authz_duration");
    metadata
}

#[test]
fn what_would_be_refused_passes_as_nobody_and_only_our_own_credentials_are_taken_out() {
    enum Then {
        Stripped,
        Left,
    }
    use Then::{Left, Stripped};
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let password = |user: &str| ("authorization", basic(user, "wrong"));
    let cookie = |token: &str| ("cookie", format!("auth_token={token}"));
    let cases = [
        ("not-admitted", bearer(BOB), "not_admitted", Stripped),
        ("expired", bearer(LATE), "expired_token", Stripped),
        ("unknown", bearer(STRANGER), "unknown_token", Left),
        ("malformed", ("authorization", "Bearer a b".to_owned()), "malformed_token", Left),
        ("other-scheme", ("authorization", "Negotiate abc".to_owned()), "no_credential", Left),
        ("bad-basic", ("authorization", "Basic !".to_owned()), "malformed_basic", Left),
        ("stranger", password("somebody"), "wrong_password", Left),
        ("header", ("x-api-key", BOB.to_owned()), "not_admitted", Stripped),
        ("strange-header", ("x-api-key", STRANGER.to_owned()), "unknown_token", Left),
        ("cookie", cookie(BOB), "not_admitted", Stripped),
        ("strange-cookie", cookie(STRANGER), "unknown_token", Left),
    ];
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        for (name, (header, value), reason, then) in &cases {
            let what = format!("{encoding:?} {name}");
            let path = format!("/named/{name}");
            let ask = || stack.get(&path).headers(&FORGED).header(header, value).header("x-request-id", name);
            let seen = ask().send().seen();
            assert_no_actor(&seen, &what);
            match then {
                Stripped => assert!(seen.all(header).is_empty(), "{what}: the credential went on"),
                Left => assert_eq!(seen.all(header), [value], "{what}"),
            }
            let line = stack.decision(name);
            let decided = ["decision", "reason", "policy"].map(|field| line[field].clone());
            let is_slow = line["reason"] == "password_unverified";
            if !is_slow {
                assert_eq!(decided, ["shadowed", reason, "editors"], "{what}");
                assert_eq!(envoy_metadata(&stack, &path)["shadow"]["reason"], **reason, "{what}");
            }
        }
        // Nothing at all, under a route's own policy and under the default one.
        for (path, policy) in [("/inline/x", "route-2"), ("/x", "default")] {
            assert_no_actor(&stack.get(path).headers(&FORGED).send().seen(), path);
            let expected = json!({ "policy": policy, "shadow": { "reason": "no_credential" } });
            assert_eq!(envoy_metadata(&stack, path), expected, "{encoding:?} {path}");
        }
        assert_eq!(stack.envoy.stat("denied"), 0);
    }
}

#[test]
fn a_password_of_ours_goes_no_further_even_when_it_is_wrong_and_one_of_somebody_elses_does() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        let ask = |user: &str, id: &str| {
            // Until the verification has come to its end, that is the reason.
            for attempt in 0.. {
                let id = format!("{id}-{attempt}");
                let request = stack.get("/named/x").basic(user, "wrong").header("x-request-id", &id);
                let seen = request.headers(&FORGED).send().seen();
                let line = stack.decision(&id);
                if line["reason"] != "password_unverified" {
                    assert_eq!(
                        (&line["decision"], &line["reason"]),
                        (&json!("shadowed"), &json!("wrong_password"))
                    );
                    return seen;
                }
                assert!(attempt < 1000, "the password is never verified");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            unreachable!("the loop ends by returning")
        };
        let seen = ask("rob", "ours");
        assert_no_actor(&seen, "rob");
        assert!(seen.all("authorization").is_empty());
        let seen = ask("somebody", "theirs");
        assert_no_actor(&seen, "somebody");
        assert_eq!(seen.all("authorization"), [basic("somebody", "wrong")]);
    });
}

#[test]
fn an_admitted_actor_passes_as_if_the_policy_were_enforced() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        let seen = stack.get("/named/yes").bearer(ALICE).headers(&FORGED).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert!(seen.all("authorization").is_empty() && seen.all("x-actor-name").is_empty());
        let metadata = envoy_metadata(&stack, "/named/yes");
        assert_eq!((&metadata["actor"]["id"], &metadata["policy"]), (&json!("alice"), &json!("editors")));
        assert!(metadata["shadow"].is_null(), "{metadata}");
    });
}

#[test]
fn rules_that_read_the_actor_never_meet_one_that_was_not_admitted() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        assert_eq!(stack.get("/named/bob").bearer(BOB).send().status, 200);
        let expected = json!({
            "policy": "editors",
            "shadow": {
                "reason": "not_admitted",
                "actor": { "id": "bob" },
                "credential": { "kind": "token", "name": "bobs" },
            },
        });
        assert_eq!(envoy_metadata(&stack, "/named/bob"), expected);
    });
}

#[test]
fn what_is_refused_before_a_policy_is_known_is_refused_and_so_are_other_policies() {
    in_each_form(|| {
        let shape = Shape::plain().manager(json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] }));
        let stack = Stack::shaped(Server::with(CONFIG), shape);
        let refused = |request: Request, status: u16| {
            let answer = request.bearer(ALICE).send();
            assert_eq!(answer.status, status, "{}", answer.text());
        };
        refused(stack.get("/named//x"), 400);
        refused(stack.get("/named/%2e%2e/closed"), 400);
        // It would take the removal of the actor headers back.
        let upgrade = |stack: &Stack| stack.get("/named/x").header("upgrade", "websocket");
        refused(upgrade(&stack).header("connection", "upgrade, x-actor-id"), 400);
        assert_eq!(upgrade(&stack).header("connection", "upgrade, x-actor-id").send().status, 400);
        assert_eq!(upgrade(&stack).header("connection", "upgrade").send().status, 101);
        assert_eq!(stack.get("/closed").bearer(BOB).send().status, 403);
        assert_eq!(stack.get("/closed").send().status, 401);

        let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().policy("no-such-policy"));
        refused(stack.get("/named/x"), 403);
        let stack = Stack::shaped(Server::with(CONFIG), Shape::plain().policy("editors"));
        assert_no_actor(&stack.get("/closed").bearer(BOB).headers(&FORGED).send().seen(), "chosen by Envoy");
    });
}

#[test]
fn a_location_with_two_values_may_hold_a_credential_of_ours_and_is_emptied() {
    let joined = format!("Bearer {STRANGER}, Bearer {BOB}");
    let cases = [
        ("authorization", vec![joined]),
        ("x-api-key", vec![STRANGER.to_owned(), BOB.to_owned()]),
        ("cookie", vec![format!("auth_token={STRANGER}; auth_token={BOB}")]),
    ];
    for encoding in Encoding::ALL {
        let stack = Stack::encoded(CONFIG, encoding);
        for (header, values) in &cases {
            let id = format!("twice-{header}");
            let values: Vec<_> = values.iter().map(|value| (*header, value.as_str())).collect();
            let request = stack.get("/named/x").headers(&values).header("x-request-id", &id);
            let seen = request.send().seen();
            assert!(seen.all(header).is_empty(), "{encoding:?} {header}: one of ours went on");
            let line = stack.decision(&id);
            assert_eq!(line["decision"], "shadowed", "{header}");
        }
    }
}

#[test]
fn another_sites_request_passes_without_our_cookie() {
    in_each_form(|| {
        let stack = Stack::start(CONFIG);
        let cross = |token: &str, id: &str| {
            let request = stack.post("/x").header("sec-fetch-site", "cross-site").header("x-request-id", id);
            request.header("cookie", format!("a=1; auth_token={token}")).body(Vec::new()).send().seen()
        };
        assert_eq!(cross(ALICE, "ours").all("cookie"), ["a=1"]);
        assert_eq!(cross(STRANGER, "theirs").all("cookie"), [format!("a=1; auth_token={STRANGER}")]);
        for id in ["ours", "theirs"] {
            assert_eq!(stack.decision(id)["reason"], "cross_site");
        }
    });
}

#[test]
fn keys_that_cannot_be_looked_up_stop_nothing_that_is_not_enforced() {
    // Nobody listens at port 1, and `error` would leave the decision to Envoy.
    let config = format!(
        "keys: {{store: 'postgres://eat:none@127.0.0.1:1/keys', ready_without_store: 0s, unavailable: error}}\n{CONFIG}"
    );
    let stack = Stack::start(&config).expecting_errors();
    // In the format of our own keys.
    let issued = envoy_auth_tokens::token::generate("eat").unwrap();
    let seen = stack.get("/named/key").bearer(issued.expose()).headers(&FORGED).send().seen();
    assert_no_actor(&seen, "a key");
    assert!(seen.all("authorization").is_empty(), "it may be one of ours");
    assert_eq!(envoy_metadata(&stack, "/named/key")["shadow"]["reason"], "keys_unavailable");
    assert_eq!(stack.envoy.stat("error"), 0);
    // Where the policy is enforced, it is an error.
    assert_eq!(stack.get("/closed/key").bearer(issued.expose()).send().status, 503);
    assert_eq!(stack.envoy.stat("error"), 1);
}

#[test]
fn what_passes_only_because_nothing_is_enforced_is_counted_and_logged_as_such() {
    let setup = Server::with(CONFIG).arg("--log-decisions=denied").arg("--drain=0s");
    let mut stack = Stack::shaped(setup, Shape::plain());
    assert_eq!(stack.get("/named/x").bearer(BOB).send().status, 200);
    assert_eq!(stack.get("/named/x").bearer(BOB).send().status, 200);
    assert_eq!(stack.get("/named/x").bearer(ALICE).send().status, 200);
    assert_eq!(stack.get("/closed").send().status, 401);
    let metrics = stack.server.metrics();
    for sample in [
        r#"decisions_total{outcome="shadowed",reason="not_admitted",policy="editors"} 2"#,
        r#"decisions_total{outcome="allowed",reason="admitted",policy="editors"} 1"#,
        r#"decisions_total{outcome="denied",reason="no_credential",policy="route-1"} 1"#,
        "envoy_auth_tokens_policies_not_enforced 3",
    ] {
        assert!(metrics.contains(sample), "{sample}\n{metrics}");
    }
    stack.server.terminate();
    stack.server.wait();
    let decisions = stack.decisions();
    let decisions: Vec<_> = decisions.iter().map(|line| line["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["shadowed", "shadowed", "denied"]);
}

#[test]
fn check_and_log_warn_of_policies_that_are_not_enforced() {
    let setup = Server::with(CONFIG);
    let ran = setup.run(["check"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let server = setup.start();
    for policy in ["editors", "route-2", "default"] {
        let warning = format!("policy `{policy}` is not enforced");
        assert!(ran.stderr.contains(&warning), "{ran:?}");
        server
            .log()
            .wait_for(&warning, |line| (line.contains(&warning) && line.contains("WARN")).then_some(()));
    }
    assert!(!ran.stderr.contains("`route-1` is not enforced"), "{ran:?}");
}

#[test]
fn explain_says_that_the_request_would_pass_and_why_it_should_not() {
    let setup = Server::with(CONFIG).file("token", BOB);
    let token = setup.folder().join("token");
    let arguments = ["explain", "--path", "/named/x", "--token-file", token.to_str().unwrap()];
    let ran = setup.run(arguments.into_iter().chain(["--json"]));
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    let explanation: Value = serde_json::from_str(&ran.stdout).unwrap();
    let explanation = ["decision", "reason", "passes_as"].map(|member| explanation[member].clone());
    assert_eq!(explanation, ["shadowed", "not_admitted", "anonymous"]);
    let ran = setup.run(arguments);
    assert!(ran.stdout.contains("passes as    anonymous"), "{ran:?}");
}
