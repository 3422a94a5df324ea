//! Clients are told some time before their token or key expires (`keys.tell_expiry`), by a real Envoy.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Encoding, Request, Server, Shape, Stack, Upstream, wait_until};

const HEADER: &str = "x-token-expires";
const DAY: i64 = 86_400;

fn seconds_from_now(seconds: i64) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    now + SignedDuration::from_secs(seconds)
}

fn config(keys: &str, soon: Timestamp) -> String {
    let later = seconds_from_now(40 * DAY);
    format!(
        "keys: {{store: \"sqlite:keys.db\"{keys}}}
admin: {{listen: \"127.0.0.1:0\"}}
tokens:
- {{token: root-token-0123456789, actor: {{id: root, role: Admin}}}}
- {{token: soon-token-0123456789, actor: {{id: soon}}, expires: {soon}}}
- {{token: later-token-0123456789, actor: {{id: later}}, expires: {later}}}
- {{token: bound-token-0123456789, actor: {{id: bound}}, expires: {soon}, policies: [other]}}
policies: {{other: {{}}, shadow: {{allow: {{id: nobody}}, enforce: false}}}}
routes: [{{path_prefix: /open, allow: true}}, {{path_prefix: /shadow, policy: shadow}}]
default: {{}}
"
    )
}

/// The token of a new key that lives for so long.
fn key(server: &Server, name: &str, seconds_to_live: Option<i64>) -> (String, Option<String>) {
    let body = json!({"name": name, "role": "Viewer", "secondsToLive": seconds_to_live});
    let send = |request: Request| request.bearer("root-token-0123456789").send();
    let request = Request::new(server.admin(), "POST", "/api/auth/keys");
    let created =
        send(request.header("content-type", "application/json").body(body.to_string().into_bytes()));
    assert_eq!(created.status, 200, "{}", created.text());
    let (id, token) = (created.json()["id"].clone(), created.json()["key"].as_str().unwrap().to_owned());
    let shown = send(Request::new(server.admin(), "GET", &format!("/api/auth/keys/{id}"))).json();
    (token, shown["expiration"].as_str().map(str::to_owned))
}

#[test]
fn a_client_is_told_when_its_token_or_key_expires_soon() {
    let soon = seconds_from_now(3600);
    for encoding in Encoding::ALL {
        let stack = Stack::before(
            Server::with(&config(", tell_expiry: 14d", soon)),
            Shape::plain().encoding(encoding),
            Upstream::saying("x-token-expires: whenever\r\nx-other: kept\r\n"),
        );
        let told = |target: &str, token: &str| {
            let answer = stack.get(target).bearer(token).send();
            assert_eq!(answer.status, 200, "{target} {token}");
            assert_eq!(answer.all("x-other"), ["kept"]);
            assert!(answer.seen().all(HEADER).is_empty(), "the application is not told");
            answer.all(HEADER).join(" and ")
        };
        // What the application says is replaced where we say something.
        let soon_text = soon.to_string();
        assert_eq!(told("/", "soon-token-0123456789"), soon_text);
        assert_eq!(told("/open", "soon-token-0123456789"), soon_text);
        for token in ["later-token-0123456789", "root-token-0123456789"] {
            assert_eq!(told("/", token), "whenever", "{token}");
        }
        let (short, expires) = key(&stack.server, "short", Some(13 * DAY));
        let (long, _) = key(&stack.server, "long", Some(15 * DAY));
        let (endless, _) = key(&stack.server, "endless", None);
        // The module hears of them from the store.
        wait_until("the last one is known", || stack.get("/").bearer(&endless).send().status == 200);
        // The second time from what was encoded at the first.
        for _ in 0..2 {
            assert_eq!(
                Some(told("/", &short)),
                expires.as_ref().map(|expires| expires.parse::<Timestamp>().unwrap().to_string())
            );
            assert_eq!(told("/", &long), "whenever");
            assert_eq!(told("/", &endless), "whenever");
        }
        // Nobody whose actor does not count.
        assert_eq!(told("/open", "bound-token-0123456789"), "whenever");
        assert_eq!(told("/shadow", "soon-token-0123456789"), "whenever");
        let anonymous = stack.get("/open").send();
        assert_eq!((anonymous.status, anonymous.all(HEADER)), (200, vec!["whenever"]));

        // What Envoy is told holds whenever it is: for access logs.
        told("/of-long", &long);
        let credential = &crate::people::metadata(&stack, "/of-long", 200)["credential"];
        assert!(
            credential["expires"].as_str().is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            "{credential}"
        );
    }
}

#[test]
fn nobody_is_told_unless_it_is_on() {
    let soon = seconds_from_now(3600);
    for keys in ["", ", tell_expiry: off", ", tell_expiry: 1m"] {
        let stack = Stack::start(&config(keys, soon));
        let answer = stack.get("/").bearer("soon-token-0123456789").send();
        assert_eq!((answer.status, answer.all(HEADER)), (200, vec![]), "{keys}");
    }
}

#[test]
fn the_printed_envoy_takes_it_from_what_the_application_says() {
    let soon = seconds_from_now(3600);
    for (keys, said) in [(", tell_expiry: 14d", vec![]), ("", vec!["whenever"])] {
        let upstream = Upstream::saying("x-token-expires: whenever\r\n");
        let stack = Stack::printed(&config(keys, soon), upstream);
        let all = |token: &str| -> Vec<String> {
            let answer = stack.get("/").bearer(token).send();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.all(HEADER).iter().map(|&value| value.to_owned()).collect()
        };
        assert_eq!(all("root-token-0123456789"), said, "{keys}");
        let expected = if said.is_empty() { soon.to_string() } else { "whenever".to_owned() };
        assert_eq!(all("soon-token-0123456789"), [expected], "{keys}");
    }
}

#[test]
fn a_disabled_key_is_told_so() {
    let stack = Stack::start(&config("", seconds_from_now(3600)));
    let (token, _) = key(&stack.server, "deploy", None);
    assert_eq!(stack.get("/").bearer(&token).send().status, 200);
    // Past the program, as an operator may: what disables it over HTTP is tested beside the API.
    let database = stack.server.folder().join("keys.db");
    crate::harness::sqlite::sql(&database, "UPDATE api_keys SET disabled_at = unixepoch()");
    wait_until("the key is disabled", || stack.get("/").bearer(&token).send().status != 200);
    let denied = stack.get("/").bearer(&token).header("x-request-id", "disabled").send();
    assert_eq!(denied.status, 401);
    assert_eq!(denied.json(), json!({"error": "invalid_token", "message": "Disabled API key"}));
    assert_eq!(denied.all("www-authenticate"), [r#"Bearer realm="api", error="invalid_token""#]);
    let line: Value = stack.server.decision("disabled");
    assert_eq!((&line["decision"], &line["reason"]), (&json!("denied"), &json!("disabled_token")));
    assert!(stack.server.metrics().contains("reason=\"disabled_token\""));
    // Whose token it is stands in the line, whatever it died of.
    let named = |line: &Value| {
        let name = |field: &str| line[field].as_str().map(str::to_owned);
        (name("reason"), name("credential.kind"), name("credential.name"), line["credential.id"].as_i64())
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(named(&line), (text("disabled_token"), text("key"), text("deploy"), Some(1)));
    for (change, reason) in [
        ("disabled_at = NULL, expires_at = unixepoch() - 1", "expired_token"),
        ("revoked_at = unixepoch()", "revoked_token"),
    ] {
        crate::harness::sqlite::sql(&database, &format!("UPDATE api_keys SET {change}"));
        let last = || {
            assert_eq!(stack.get("/").bearer(&token).send().status, 401);
            stack.server.decisions().pop().expect("it was logged")
        };
        wait_until(reason, || last()["reason"] == reason);
        assert_eq!(named(&last()), (text(reason), text("key"), text("deploy"), Some(1)));
    }
    // Nobody knows whose this one is.
    let unknown = stack.get("/").bearer("unknown-token-0123456789").header("x-request-id", "unknown");
    assert_eq!(unknown.send().status, 401);
    assert_eq!(named(&stack.server.decision("unknown")), (text("unknown_token"), None, None, None));
}
