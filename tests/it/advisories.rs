//! Attacks of public advisories about others, through a real Envoy: we do not have them.
//!
//! `SECURITY.md` names each with its test.  Errors are let pass (`failure_mode_allow: true`), and nothing is normalised or
//! removed before us, unless a test says otherwise: what holds here is ours.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Encoding, Server, Shape, Stack, Upstream};
use crate::users::settle;

const ALICE: &str = "alice-token-0123456789";
const ROOT: &str = "root-token-01234567890";

const ACTORS: &str = "
tokens:
- {token: alice-token-0123456789, actor: {id: alice}}
- {token: root-token-01234567890, actor: {id: root, name: Root, role: Admin}}
";

/// A plain Envoy that lets errors pass, with the headers in this encoding.
fn lenient(config: &str, encoding: Encoding) -> Stack {
    let shape = Shape::plain().encoding(encoding).filter(json!({ "failure_mode_allow": true }));
    Stack::shaped(Server::with(&format!("{ACTORS}{config}")), shape)
}

/// The Envoy that the command `envoy` prints.
fn hardened(config: &str) -> Stack {
    Stack::printed(&format!("{ACTORS}{config}"), Upstream::start())
}

#[test]
fn a_dot_segment_selects_no_looser_rule() {
    let config = "
routes:
- {path_prefix: /user, allow: true}
- {path_prefix: /admin, allow: {role: Admin}}
default: {}
";
    let stacks = [lenient(config, Encoding::Raw), hardened(config)];
    for path in [
        "/user/../admin",
        "/user/%2e%2e/admin",
        "/user/%2E./admin",
        "/user/.%2e/admin",
        "/user/%2e%2e%2fadmin",
        "/user/..%2fadmin",
        "/user/..%5cadmin",
        "/user\\..\\admin",
        "/user/..;/admin",
        "/user/..;x=1/admin",
        "/user/%2e%2e;/admin",
        "/user/x/../../admin",
        "/user/./../admin",
        "/user//../../admin",
        "/user/%252e%252e/admin",
        "/user/..%252fadmin",
        "/./user/../admin",
        "/user/..",
    ] {
        for stack in &stacks {
            let before = stack.upstream.calls();
            for request in [stack.get(path), stack.get(path).bearer(ALICE)] {
                let answer = request.send();
                // Where it passes, the application gets the path that was decided about, and no other.
                if answer.status == 200 {
                    assert_eq!(answer.seen().path, "/", "{path}");
                }
            }
            assert!(path == "/user/.." || stack.upstream.calls() == before, "{path}");
        }
    }
    assert_eq!(stacks[1].get("/user/../admin").bearer(ROOT).send().seen().path, "/admin");
    assert_eq!(stacks[0].get("/user/x").send().status, 200);
}

#[test]
fn a_regular_expression_admits_no_path_out_of_its_folder() {
    let config = "
routes:
- {path_regex: \"/public/.*\", allow: true}
- {path_regex: \"/admin/.*\", allow: {role: Admin}}
default: {allow: false}
";
    let stacks = [lenient(config, Encoding::Joined), hardened(config)];
    for path in [
        "/public/../admin/secrets",
        "/public/%2e%2e/admin/secrets",
        "/public/..%2fadmin/secrets",
        "/public/..;/admin/secrets",
        "/public/x/../../admin/secrets",
        "/public/..\\admin/secrets",
        "/public/%2e%2e%5cadmin/secrets",
        "/public//../../admin/secrets",
    ] {
        for stack in &stacks {
            for request in [stack.get(path), stack.get(path).bearer(ALICE)] {
                let status = request.send().status;
                assert!(matches!(status, 307 | 400 | 401 | 403), "{path}: {status}");
            }
            assert_eq!(stack.upstream.calls(), 0, "{path}");
        }
    }
    assert_eq!(stacks[1].get("/public/../admin/secrets").bearer(ROOT).send().seen().path, "/admin/secrets");
}

#[test]
fn an_actor_header_without_a_value_is_removed() {
    let config = "
routes:
- {path: /anybody, allow: true}
- {path: /shadow, policy: shadow}
default: {}
policies: {shadow: {allow: {role: Admin}, enforce: false}}
";
    let forged = [
        ("X-Actor", r#"{"id":"root","role":"Admin"}"#),
        ("X-Actor-Id", "root"),
        ("X-Actor-Name", "Root"),
        ("X-Actor-Role", "Admin"),
    ];
    let stacks = [lenient(config, Encoding::Raw), lenient(config, Encoding::Joined), hardened(config)];
    for stack in &stacks {
        // Alice has an id and nothing else.
        let seen = stack.get("/x").bearer(ALICE).headers(&forged).send().seen();
        assert_eq!(seen.all("x-actor-id"), ["alice"]);
        assert_eq!(seen.all("x-actor"), [r#"{"id":"alice"}"#]);
        for name in ["x-actor-name", "x-actor-role"] {
            assert!(seen.all(name).is_empty(), "{name}: {seen:?}");
        }
        // Nobody has nothing, where anybody may pass and where a policy is not enforced yet.
        for path in ["/anybody", "/shadow"] {
            let seen = stack.get(path).headers(&forged).send().seen();
            for (name, _) in forged {
                assert!(seen.all(name).is_empty(), "{path} {name}: {seen:?}");
            }
        }
    }
}

#[test]
fn a_forwarded_prefix_decides_nothing() {
    let config = "
routes:
- {path_prefix: /public, allow: true}
- {path_prefix: /admin, allow: {role: Admin}}
default: {}
";
    let names = ["X-Forwarded-Prefix", "X_Forwarded_Prefix", "X.Forwarded.Prefix", "x-forwarded-PREFIX"];
    let others = ["X-Forwarded-Uri", "X-Forwarded-Path", "X-Original-Url", "X-Rewrite-Url", "X-Script-Name"];
    let stacks = [lenient(config, Encoding::Raw), lenient(config, Encoding::Joined), hardened(config)];
    for (index, stack) in stacks.iter().enumerate() {
        for name in names.iter().chain(&others) {
            for value in ["/public", "/public/", "/admin", "/"] {
                // It opens nothing that is closed …
                for request in [stack.get("/admin"), stack.get("/admin").bearer(ALICE)] {
                    let status = request.header(name, value).send().status;
                    assert!(matches!(status, 400 | 401 | 403), "{name}: {value}: {status}");
                }
                // … and where the path is open, the application never reads it: it is denied, or taken away early.
                let answer = stack.get("/public").header(name, value).send();
                if answer.status == 200 {
                    assert_eq!(index, 2, "{name}: {value}: taken away by the hardened Envoy alone");
                    assert!(answer.seen().all(name).is_empty(), "{name}: {value}");
                }
            }
        }
    }
}

#[test]
fn an_alias_of_a_header_is_that_header() {
    let config = "
routes:
- {host: app.example, path_prefix: /public, methods: [GET], allow: true}
default: {}
";
    let alias = |name: &str, by: char| name.replace('-', &by.to_string());
    for stack in [lenient(config, Encoding::Raw), lenient(config, Encoding::Joined)] {
        for by in ['_', '.', '~', '!', '\'', '+'] {
            // Who it is.
            let forged =
                ["x-actor", "x-actor-id", "x-actor-name", "x-actor-role"].map(|name| alias(name, by));
            let mixed = ["X-Actor_Id", "x_actor-role"].map(str::to_owned);
            let lines: Vec<_> = forged.iter().chain(&mixed).map(|name| (name.as_str(), "root")).collect();
            for request in
                [stack.get("/public").headers(&lines), stack.get("/x").bearer(ALICE).headers(&lines)]
            {
                let seen = request.send().seen();
                for (name, _) in &lines {
                    assert!(seen.all(name).is_empty(), "{name}: {seen:?}");
                }
            }
            // Which host, path and method.
            for (name, value) in [
                ("x-forwarded-host", "admin.example"),
                ("x-original-url", "/admin"),
                ("x-http-method-override", "DELETE"),
            ] {
                let status = stack.get("/public").header(&alias(name, by), value).send().status;
                assert_eq!(status, 400, "{name} by {by}");
            }
            // And what no rule reads decides nothing.
            for (name, value) in [("x-forwarded-proto", "https"), ("x-forwarded-for", "127.0.0.1")] {
                let status = stack.get("/x").header(&alias(name, by), value).send().status;
                assert_eq!(status, 401, "{name} by {by}");
            }
        }
    }
    let stack = hardened(config);
    assert_eq!(stack.get("/x").header("X_Actor_Id", "root").bearer(ALICE).send().status, 400);
    assert!(
        stack.get("/x").header("X.Actor.Id", "root").bearer(ALICE).send().seen().all("x.actor.id").is_empty()
    );
}

#[test]
fn a_decision_that_is_not_ready_in_time_is_a_denial() {
    // bcrypt of "right-password-012", of a cost that takes longer than we let a Check wait.
    let config = "
users:
- {username: slow, password_hash: \"$2b$14$abcdefghijklmnopqrstuuEtwSkCjYKo6uNQoStZlDH.sbYPbcqX2\", actor: {id: slow, role: Viewer}}
routes:
- {path: /admin, allow: {role: Admin}}
default: {}
";
    let stack = lenient(config, Encoding::Raw);
    let ask = |path: &str, user: &str, password: &str| stack.get(path).basic(user, password).send();
    // Nobody passes on the way to an answer …
    for (path, user, password) in [
        ("/admin", "slow", "right-password-012"),
        ("/x", "slow", "right-password-012"),
        ("/x", "slow", "wrong-password"),
        ("/x", "nobody", "right-password-012"),
    ] {
        assert_eq!(ask(path, user, password).status, 503, "{path} {user} {password}");
    }
    assert_eq!(stack.upstream.calls(), 0);
    // … and the answer, when it is there, is that of the rules.
    assert_eq!(settle(|| ask("/x", "slow", "right-password-012")).seen().all("x-actor-id"), ["slow"]);
    assert_eq!(ask("/admin", "slow", "right-password-012").status, 403);
    assert_eq!(stack.upstream.calls(), 1);
}

#[test]
fn a_malformed_cookie_passes_nobody() {
    let config = "
keys: {store: \"sqlite:keys.db\"}
credentials: [bearer, session, {cookie: auth_token}]
routes: [{path: /anybody, allow: true}]
default: {}
";
    let cookies: [&[u8]; 24] = [
        b"eat_app",
        b"eat_app=",
        b"eat_app=%ff",
        b"eat_app=\"",
        b"eat_app=\"a",
        b"eat_app=a; eat_app=b",
        b"eat_app=\xff\xfe",
        b"eat_app=a,b",
        b"eat_app=..",
        b"eat_app = a",
        b"=eat_app",
        b"=",
        b";;;",
        b"; ; =; ,",
        b"\xff",
        b"auth_token",
        b"auth_token=",
        b"auth_token==",
        b"auth_token=\xc3\x28",
        b"auth_token=a; auth_token=b",
        b"auth_token=\"alice-token-0123456789",
        b"auth_token=alice-token-0123456789\"",
        b"AUTH_TOKEN=alice-token-0123456789",
        b"auth_token=%61lice-token-0123456789",
    ];
    let long = [b"eat_app=".as_slice(), &[b'a'; 9000]].concat();
    let stacks = [lenient(config, Encoding::Raw), lenient(config, Encoding::Joined), hardened(config)];
    for stack in &stacks {
        for cookie in cookies.iter().copied().chain([long.as_slice()]) {
            let shown = String::from_utf8_lossy(cookie);
            let forged = [("x-actor-id", "root"), ("x-actor-role", "Admin")];
            let status = stack.get("/x").header("cookie", cookie).headers(&forged).send().status;
            assert!(matches!(status, 400 | 401), "{shown:?}: {status}");
            // Where anybody may pass, they pass as nobody or not at all.
            let answer = stack.get("/anybody").header("cookie", cookie).headers(&forged).send();
            if answer.status == 200 {
                let seen = answer.seen();
                assert!(
                    seen.all("x-actor-id").is_empty() && seen.all("x-actor-role").is_empty(),
                    "{shown:?}"
                );
            }
            // Beside a good credential it changes nobody's name.
            let answer = stack.get("/x").bearer(ALICE).header("cookie", cookie).headers(&forged).send();
            if answer.status == 200 {
                assert_eq!(answer.seen().all("x-actor-id"), ["alice"], "{shown:?}");
            }
        }
        assert_eq!(stack.get("/x").header("cookie", format!("auth_token={ALICE}")).send().status, 200);
    }
}

#[test]
fn security_md_names_each_of_these_tests() {
    let table = include_str!("../../SECURITY.md").lines().filter(|line| line.starts_with("| "));
    let named = table.filter_map(|line| line.split("`advisories::").nth(1)?.split('`').next());
    let named: BTreeSet<&str> = named.collect();
    let tests = include_str!("advisories.rs").split("#[test]\nfn ").skip(1);
    let tests: BTreeSet<&str> = tests.filter_map(|text| text.split('(').next()).collect();
    let this = BTreeSet::from(["security_md_names_each_of_these_tests"]);
    assert_eq!(named, &tests - &this, "the table of SECURITY.md and the tests here");
}
