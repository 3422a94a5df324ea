//! RFC 7662: what a token is, for whoever may ask.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::http1::{Answer, Request};
use crate::harness::server::Server;
use crate::harness::wait_until;

const CONFIG: &str = "
keys: {store: \"sqlite:keys.db\"}
admin: {listen: \"127.0.0.1:0\", introspect: {id: [gateway, other]}}
tokens:
- {token: root-token-01234567890, name: root, actor: {id: root, role: Admin}}
- {token: gateway-token-01234567, name: gateway, actor: {id: gateway}}
- {token: other-token-0123456789, name: other, actor: {id: other}}
- {token: restricted-token-01234, name: restricted, actor: {id: gateway}, policies: [read]}
- {token: stranger-token-0123456, name: stranger, actor: {id: stranger, team: ops}, expires: 2126-01-01T00:00:00Z}
- {token: expired-token-01234567, name: expired, actor: {id: expired}, expires: 2020-01-01T00:00:00Z}
users: [{username: ada, password: correct-horse-battery, actor: {id: ada, role: Viewer}}]
policies: {read: {}, write: {}}
default: {}
";
const ROOT: &str = "root-token-01234567890";
const GATEWAY: &str = "gateway-token-01234567";

struct Api {
    _server: Server,
    address: SocketAddr,
}

impl Api {
    fn start() -> Self {
        let server = Server::with(CONFIG).start();
        let address = server.admin();
        wait_until("the store was read", || Request::new(address, "GET", "/api/health").send().status == 200);
        Self { _server: server, address }
    }

    fn ask_as(&self, caller: &str, form: &str) -> Answer {
        let request = Request::new(self.address, "POST", "/api/auth/introspect").bearer(caller);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body(form.as_bytes().to_vec()).send()
    }

    fn ask(&self, form: &str) -> Value {
        let answer = self.ask_as(GATEWAY, form);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let request = Request::new(self.address, "POST", path).bearer(ROOT);
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string().into_bytes()).send();
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()
    }

    /// A new key: its id and its token.
    fn key(&self, body: Value) -> (i64, String) {
        let made = self.post("/api/auth/keys", body);
        (made["id"].as_i64().unwrap(), made["key"].as_str().unwrap().to_owned())
    }
}

const NOTHING: &str = r#"{"active":false}"#;

#[test]
fn whoever_may_ask_learns_what_a_token_is() {
    let api = Api::start();
    let (id, key) = api.key(json!({"name": "ci", "role": "Editor", "secondsToLive": 600}));
    let mut state = api.ask(&format!("token={key}&token_type_hint=access_token"));
    let (exp, iat) = (state["exp"].take().as_i64().unwrap(), state["iat"].take().as_i64().unwrap());
    assert_eq!(exp - iat, 600);
    let expected = json!({
        "active": true, "token_type": "Bearer", "sub": "key:ci", "client_id": "ci", "exp": null, "iat": null,
        "actor": {"id": "key:ci", "name": "ci", "role": "Editor", "key_id": id},
    });
    assert_eq!(state, expected);

    let expected = json!({
        "active": true, "token_type": "Bearer", "sub": "stranger", "client_id": "stranger", "exp": 4_922_899_200_i64,
        "actor": {"id": "stranger", "team": "ops"},
    });
    assert_eq!(api.ask("token=stranger-token-0123456"), expected);

    // What is restricted counts under its own policies alone.
    let (_, reader) = api.key(json!({"name": "reader", "role": "Viewer", "policies": ["write", "read"]}));
    for (policy, is_active) in
        [("", false), ("&policy=read", true), ("&policy=write", true), ("&policy=x", false)]
    {
        let state = api.ask(&format!("token={reader}{policy}"));
        assert_eq!(state["active"], is_active, "{policy}");
        let scope = is_active.then_some("read write");
        assert_eq!(state.get("scope").and_then(Value::as_str), scope, "{policy}");
    }
    assert_eq!(api.ask(&format!("token={key}&policy=whatever"))["active"], true);

    // A service account's key is its account.
    let account = api.post("/api/serviceaccounts", json!({"name": "deploy", "role": "Viewer"}));
    let tokens = format!("/api/serviceaccounts/{}/tokens", account["id"]);
    let token = api.post(&tokens, json!({"name": "one"}))["key"].as_str().unwrap().to_owned();
    let state = api.ask(&format!("token={token}"));
    assert_eq!((&state["sub"], &state["client_id"]), (&json!("sa:deploy"), &json!("one")));
    assert!(state.get("exp").is_none());

    // A secret that a rotation replaced says when it ends.
    let rotated = api.post(&format!("/api/auth/keys/{id}/rotate"), json!({"overlapSeconds": 60}));
    let old = api.ask(&format!("token={key}"))["exp"].as_i64().unwrap();
    assert!(old < exp, "{old} {exp}");
    let new = rotated["key"].as_str().unwrap();
    assert_eq!(api.ask(&format!("token={new}"))["exp"], exp);

    api.post(&format!("/api/auth/keys/{id}/revoke"), json!({}));
    for dead in [&key, new, "expired-token-01234567", "nobody-knows-this-token", "no+token", "%00"] {
        assert_eq!(api.ask_as(GATEWAY, &format!("token={dead}")).text(), NOTHING, "{dead}");
    }
    // No password and no session.
    assert_eq!(api.ask_as(GATEWAY, "token=correct-horse-battery").text(), NOTHING);

    // To ask is no use.
    let unused = Request::new(api.address, "GET", "/api/auth/keys?query=reader").bearer(ROOT).send().json();
    assert!(unused[0].get("lastUsedAt").is_none() && unused[0]["name"] == "reader", "{unused}");
}

#[test]
fn nobody_else_may_ask() {
    let api = Api::start();
    let form = "token=stranger-token-0123456";
    let ask = |caller: &str| api.ask_as(caller, form).status;
    assert_eq!(ask(GATEWAY), 200);
    assert_eq!(ask(ROOT), 403, "an Admin may manage keys, and not ask");
    assert_eq!(ask("stranger-token-0123456"), 403);
    assert_eq!(ask("restricted-token-01234"), 403, "it counts under no policy here");
    assert_eq!(ask("nobody-knows-this-token"), 401);
    let request = || Request::new(api.address, "POST", "/api/auth/introspect");
    let form_type = "application/x-www-form-urlencoded";
    assert_eq!(request().header("content-type", form_type).body(form.into()).send().status, 401);
    let session = request().basic("ada", "correct-horse-battery").header("content-type", form_type);
    assert_eq!(session.body(form.into()).send().status, 403);
    for (media_type, body, status) in [
        ("application/json", r#"{"token": "x"}"#, 415),
        (form_type, "", 400),
        (form_type, "token=", 400),
        (form_type, "token=a&token=a", 400),
        (form_type, "token=%ff", 400),
        (&*format!("{form_type}; charset=UTF-8"), form, 200),
    ] {
        let request = request().bearer(GATEWAY).header("content-type", media_type);
        assert_eq!(request.body(body.into()).send().status, status, "{media_type} {body}");
    }
    assert_eq!(Request::new(api.address, "GET", "/api/auth/introspect").bearer(GATEWAY).send().status, 405);
}

#[test]
fn who_guesses_is_stopped_and_nobody_else() {
    let api = Api::start();
    // Several at a time, so that twenty fit into a second on a machine that is busy.
    let guess = |guesser: usize| {
        let mut guesses =
            (0..500).map(|guess| api.ask_as(GATEWAY, &format!("token=guess-{guesser}-{guess}")));
        guesses.find(|answer| answer.status == 429)
    };
    let stopped = std::thread::scope(|scope| {
        let guess = &guess;
        let guessers: Vec<_> = (0..8).map(|guesser| scope.spawn(move || guess(guesser))).collect();
        guessers.into_iter().filter_map(|guesser| guesser.join().unwrap()).last()
    });
    let stopped = stopped.expect("more than twenty guesses within a second");
    assert_eq!(stopped.json()["message"], "Too many unknown tokens: ask again in a second");
    assert_eq!(stopped.all("retry-after"), ["1"]);
    assert_eq!(api.ask_as("other-token-0123456789", "token=stranger-token-0123456").status, 200);
    wait_until("the second is over", || api.ask_as(GATEWAY, "token=stranger-token-0123456").status == 200);
}

#[test]
fn without_the_setting_nobody_may_ask() {
    let config = CONFIG.replace(", introspect: {id: [gateway, other]}", "");
    let server = Server::with(&config).start();
    let request = Request::new(server.admin(), "POST", "/api/auth/introspect").bearer(GATEWAY);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(request.body(b"token=x".to_vec()).send().status, 403);
}
