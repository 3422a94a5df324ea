//! No secret is ever printed: not at trace level, not in an answer, not in a metric, not in an error.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::harness::server::run;
use crate::harness::{Encoding, Server, Setup, Shape, Stack};

/// Right and wrong, each in a form that no other text contains.
const TOKEN: &str = "Ktoken-right-7Qx2mZpL9vW4";
const TOKEN_FROM_FILE: &str = "Kfile-right-3Rt8nBcX5yH1";
const EXPIRED: &str = "Kexpired-right-6Jd4sGfT2kM8";
const WRONG_TOKEN: &str = "Kunknown-wrong-1Pw9aEuV7oC3";
const MALFORMED: &str = "Kmalformed;wrong-5Nh6qYiD0bS2";
const PASSWORD: &str = "Kpassword-right-8Lz3xKrF4gU6";
const HASHED_PASSWORD: &str = "Khashed-right-2Vb7eOaJ9tN5";
const WRONG_PASSWORD: &str = "Kpassword-wrong-4Cm1uWsI6hQ0";
const QUERY_TOKEN: &str = "Kquery-wrong-9Fg5zTlE3rP7";
const COOKIE: &str = "Kcookie-other-0Xk2dMnB8wY4";

const SECRETS: [&str; 10] = [
    TOKEN,
    TOKEN_FROM_FILE,
    EXPIRED,
    WRONG_TOKEN,
    MALFORMED,
    PASSWORD,
    HASHED_PASSWORD,
    WRONG_PASSWORD,
    QUERY_TOKEN,
    COOKIE,
];

/// Fails if the text shows a secret, its middle, or the Basic credentials that it was sent in.
#[track_caller]
fn assert_no_secret(what: &str, text: &str) {
    for secret in SECRETS {
        let middle = &secret[secret.len() - 10..];
        let reversed: String = secret.chars().rev().collect();
        assert!(!text.contains(middle), "{what} shows {secret}:\n{}", around(text, middle));
        assert!(!text.contains(&reversed), "{what} shows {secret} backwards");
        let bytes: Vec<String> = secret.bytes().map(|byte| byte.to_string()).collect();
        assert!(!text.contains(&bytes.join(", ")), "{what} shows the bytes of {secret}");
        for user in ["api_key", "admin", "hashed", "nobody"] {
            let basic = STANDARD.encode(format!("{user}:{secret}"));
            assert!(!text.contains(&basic), "{what} shows Basic credentials with {secret}");
        }
    }
}

fn around<'a>(text: &'a str, found: &str) -> &'a str {
    text.lines().find(|line| line.contains(found)).unwrap_or(text)
}

fn config() -> String {
    let hash = bcrypt::hash(HASHED_PASSWORD, 4).expect("bcrypt");
    format!(
        "
tokens:
- {{name: right, token: {{$env: RIGHT_TOKEN}}, actor: {{id: alice, role: Viewer}}}}
- {{name: filed, token: {{$file: token}}, actor: {{id: filed}}}}
- {{name: late, token: {EXPIRED}, actor: {{id: late}}, expires: '2020-01-01T00:00:00Z'}}
users:
- {{username: admin, password: {{$env: ADMIN_PASSWORD}}}}
- {{username: hashed, password_hash: '{hash}'}}
credentials: [bearer, basic, {{header: x-api-key}}, {{query: _auth_token}}, {{cookie: auth_token}}]
policies: {{admin: {{allow: {{role: Admin}}}}}}
routes: [{{path_prefix: /admin, policy: admin}}, {{path_prefix: /open, allow: true}}]
default: {{}}
"
    )
}

fn setup() -> Setup {
    let setup = Server::with(&config()).env("RIGHT_TOKEN", TOKEN).env("ADMIN_PASSWORD", PASSWORD);
    setup.file("token", &format!("{TOKEN_FROM_FILE}\n"))
}

#[test]
fn no_secret_is_ever_printed() {
    for encoding in Encoding::EXT_AUTHZ {
        let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
        let shape = Shape::plain().encoding(encoding).manager(upgrades);
        // Both processes are gone at the end: there are no counters left to ask for.
        let mut stack = Stack::shaped(setup().arg("--drain=0s"), shape).expecting_errors();
        let mut answers = String::new();
        for secret in SECRETS {
            for path in ["/", "/open", "/admin", "/open//x", "/open/%zz"] {
                let get = |suffix: &str| stack.get(&format!("{path}{suffix}"));
                let requests = [
                    get("").bearer(secret),
                    get("").header("authorization", secret),
                    get("").header("authorization", format!("Bearer {secret}, Bearer {secret}")),
                    get("").header("authorization", format!("Negotiate {secret}")),
                    get("").header("authorization", format!("Basic {secret}")),
                    get("").basic("api_key", secret),
                    get("").header("x-api-key", secret),
                    get("").header("x-api-key", secret).header("x-api-key", secret),
                    get(&format!("?_auth_token={secret}")),
                    get(&format!("?_auth_token={secret}&_auth_token={secret}")),
                    get(&format!("?a=1&%5Fauth_token={secret}")),
                    get("").header("cookie", format!("a=1; auth_token={secret}")),
                    get("").header("cookie", format!("eat_session={secret}; other={secret}")),
                    get("")
                        .header("connection", "upgrade, x-actor")
                        .header("upgrade", "websocket")
                        .bearer(secret),
                ];
                for request in requests {
                    let answer = request.send();
                    if answer.status != 200 {
                        answers.push_str(&format!("{answer:?}{}\n", answer.text()));
                    }
                }
            }
        }
        for (user, password) in [
            ("admin", PASSWORD),
            ("admin", WRONG_PASSWORD),
            ("hashed", HASHED_PASSWORD),
            ("hashed", WRONG_PASSWORD),
            ("nobody", PASSWORD),
        ] {
            let answer = crate::users::settle(|| stack.get("/").basic(user, password).send());
            if answer.status != 200 {
                answers.push_str(&format!("{answer:?}{}\n", answer.text()));
            }
        }
        // The right ones are right: the rest of this test means something.
        for token in [TOKEN, TOKEN_FROM_FILE] {
            assert_eq!(stack.get("/").bearer(token).send().status, 200);
        }
        assert_eq!(stack.get("/").bearer(EXPIRED).send().json()["message"], "Expired API key");

        assert_no_secret("an answer", &answers);
        assert_no_secret("/metrics", &stack.server.metrics());
        stack.server.terminate();
        assert_eq!(stack.server.wait().code(), Some(0));
        let log = stack.server.log().text();
        assert!(log.contains("denied") && log.contains("allowed"), "{log:.2000}");
        assert_no_secret("the log", &log);
        stack.envoy.stop();
        assert_no_secret("Envoy's access log", &stack.envoy.log().text());
    }
}

#[test]
fn no_error_of_a_bad_configuration_shows_a_secret() {
    let broken = [
        // Each line has a secret near or in what is wrong.
        format!("tokens: [{{token: {TOKEN}, actor: 7}}]"),
        format!("tokens: [{{token: {TOKEN}, actr: {{id: a}}}}]"),
        format!("tokens: [{{tokn: {TOKEN}, actor: {{id: a}}}}]"),
        format!("tokens:\n- {TOKEN}"),
        format!("tokens: {TOKEN}"),
        format!("tokens: [{{token: [{TOKEN}], actor: {{id: a}}}}]"),
        format!("tokens: [{{token: {{$env: X, y: {TOKEN}}}, actor: {{id: a}}}}]"),
        format!("tokens: [{{token: '{MALFORMED}', actor: {{id: a}}}}]"),
        format!("tokens: [{{token: '{TOKEN} {TOKEN}', actor: {{id: a}}}}]"),
        format!("tokens:\n- {{token: {TOKEN}, actor: {{id: a}}}}\n- {{token: {TOKEN}, actor: {{id: b}}}}"),
        format!("tokens: [{{token: {TOKEN}, sha256: {TOKEN}, actor: {{id: a}}}}]"),
        format!("tokens: [{{sha256: {TOKEN}, actor: {{id: a}}}}]"),
        format!("tokens: [{{token: {TOKEN}, actor: {{id: a}}, expires: {TOKEN}}}]"),
        format!("users: [{{username: a, password: {PASSWORD}, password_hash: {PASSWORD}}}]"),
        format!("users: [{{username: a, password_hash: {PASSWORD}}}]"),
        format!("users: [{{username: api_key, password: {PASSWORD}}}]"),
        format!("users: [{{username: a, passwrd: {PASSWORD}}}]"),
        format!("{TOKEN}: 1"),
        format!("tokens: [{{token: {TOKEN}, actor: {{id: a}}}}"),
        format!("tokens: [{{token: \"{TOKEN}, actor: {{id: a}}}}]"),
        format!("\ttokens: {TOKEN}"),
        format!("tokens: !env {TOKEN}"),
        format!("tokens: &{TOKEN} [*{TOKEN}]"),
        format!("{{\"plugins\": {{\"datasette-auth-tokens\": [{{\"token\": \"{TOKEN}\"}}]}}}}"),
        format!("{{\"plugins\": {{\"datasette-auth-tokens\": \"{TOKEN}\"}}}}"),
        "tokens: [{token: {$env: RIGHT_TOKEN}, actor: 7}]".to_owned(),
        "tokens: [{token: {$file: two-lines}, actor: {id: a}}]".to_owned(),
        "tokens: [{token: {$env: TOO_LONG}, actor: {id: a}}]".to_owned(),
        "realm: {$env: QUOTED}".to_owned(),
        "default: {allow: {$env: RIGHT_TOKEN}}".to_owned(),
        "routes: [{path_regex: {$env: REGEX}, allow: true}]\ndefault: {}".to_owned(),
        "routes: [{path: /x, policy: {$env: RIGHT_TOKEN}}]\ndefault: {}".to_owned(),
        "actor_headers: {x-actor: {$env: RIGHT_TOKEN}, x_bad: id}".to_owned(),
    ];
    for config in broken {
        let setup = Server::with(&config)
            .env("RIGHT_TOKEN", TOKEN)
            .env("TOO_LONG", &TOKEN.repeat(400))
            .env("QUOTED", &format!("\"{TOKEN}\""))
            .env("REGEX", &format!("({TOKEN}"))
            .file("two-lines", &format!("{TOKEN_FROM_FILE}\n{TOKEN_FROM_FILE}\n"));
        let ran = setup.run(["check"]);
        assert_eq!(ran.code(), Some(1), "{config}\n{ran:?}");
        assert_no_secret(&format!("check of\n{config}\n"), &format!("{}{}", ran.stdout, ran.stderr));
        let ran = setup.start_in_vain();
        assert_ne!(ran.code(), Some(0), "{config}");
        assert_no_secret(&format!("serve with\n{config}\n"), &ran.stderr);
    }
}

#[test]
fn no_command_shows_a_secret_that_it_was_given() {
    let setup = setup();
    for input in SECRETS {
        let commands: [&[&str]; 6] = [
            &["explain", "--path", "/", "--token-file", "-"],
            &["explain", "--path", "/", "--token-file", "-", "--json"],
            &["explain", "--path", "/", "--user", "admin", "--password-file", "-"],
            &["explain", "--path", "/", "--user", "hashed", "--password-file", "-", "--json"],
            &["token", "hash"],
            &["password"],
        ];
        for arguments in commands {
            let ran = run(setup.command(arguments), input);
            assert_no_secret(&format!("{arguments:?}"), &format!("{}{}", ran.stdout, ran.stderr));
        }
        let path = format!("/?_auth_token={input}");
        let header = format!("x-api-key: {input}");
        let ran = setup.run(["explain", "--path", &path, "--header", &header]);
        assert_no_secret("explain with a query and a header", &format!("{}{}", ran.stdout, ran.stderr));
    }
    let ran = setup.run(["check"]);
    assert_eq!(ran.code(), Some(0), "{ran:?}");
    assert_no_secret("check", &format!("{}{}", ran.stdout, ran.stderr));
}
