//! The key API on the admin listener: every row of its table, each status and message, on each store.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::harness::http1::{Answer, Request, basic};
use crate::harness::postgres::Postgres;
use crate::harness::server::Server;
use crate::harness::{MAX_WAIT, grpc};

/// A token of the configuration with the role Admin.
pub(crate) const ROOT: &str = "root-token-0123456789";
/// The same, restricted to the policy `read`.
pub(crate) const RESTRICTED: &str = "restricted-token-0123456789";
/// A token whose actor has no role, and yet the team that one test lets in.
pub(crate) const ROLELESS: &str = "roleless-token-0123456789";

/// Users `admin`, `ed`, `vi` and `no` (without a role), each with their own name as password.
pub(crate) fn config(store: &str, keys: &str, admin: &str, rest: &str) -> String {
    let user = |name: &str, actor: &str| {
        let hash = bcrypt::hash(name, 4).expect("bcrypt");
        format!("- {{username: {name}, password_hash: '{hash}', actor: {actor}}}\n")
    };
    let users = [
        user("admin", "{id: the-admin, name: Addy, role: Admin}"),
        user("ed", "{id: ed, role: Editor}"),
        user("vi", "{id: vi, role: Viewer}"),
        user("no", "{id: no}"),
    ];
    format!(
        "keys: {{store: \"{store}\"{keys}}}
admin: {{listen: \"127.0.0.1:0\"{admin}}}
tokens:
- {{token: {ROOT}, name: root, actor: {{id: root-actor, name: Rooty, role: Admin}}}}
- {{token: {RESTRICTED}, name: restricted, actor: {{id: restricted, role: Admin}}, policies: [read]}}
- {{token: {ROLELESS}, name: roleless, actor: {{id: roleless, team: ops}}}}
users:
{}policies: {{read: {{}}, write: {{allow: {{role: Editor}}}}}}
default: {{allow: {{role: [Viewer, Editor, Admin]}}}}
{rest}",
        users.concat()
    )
}

/// A server with an admin listener.
pub(crate) struct Api {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
}

impl Api {
    pub(crate) fn start(config: &str) -> Self {
        let server = Server::with(config).start();
        let address = server.admin();
        Self { server, address }
    }

    /// On a fresh SQLite file, or on this PostgreSQL.
    pub(crate) fn on(store: &str) -> Self {
        Self::start(&config(store, "", "", ""))
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    /// As the user `admin`.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path).basic("admin", "admin").send()
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path).basic("admin", "admin").send()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        post(self.request("POST", path).basic("admin", "admin"), body)
    }

    /// A new key: its id and its token.
    #[track_caller]
    pub(crate) fn create(&self, body: &Value) -> (i64, String) {
        let answer = self.post("/api/auth/keys", body);
        assert_eq!(answer.status, 200, "{body} {}", answer.text());
        created(&answer)
    }

    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let list = self.get(path).json();
        list.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    }

    /// What a Check says of this token: `""` when it passes, else the message.
    #[track_caller]
    pub(crate) fn check(&self, token: &str) -> String {
        self.check_with(&[("authorization", &format!("Bearer {token}"))])
    }

    #[track_caller]
    pub(crate) fn check_with(&self, headers: &[(&str, &str)]) -> String {
        let answer = grpc::check(&self.server, grpc::request("GET", "app.example", "/", headers));
        if grpc::code(&answer) == 0 {
            return String::new();
        }
        let (status, body) = grpc::refused(&answer);
        let body: Value = serde_json::from_str(&body).unwrap();
        format!("{status} {}", body["message"].as_str().unwrap())
    }

    /// The audit lines so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let lines = self.server.log().lines();
        let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "audit").collect()
    }
}

pub(crate) fn post(request: Request, body: &Value) -> Answer {
    request.header("content-type", "application/json").body(body.to_string().into_bytes()).send()
}

/// The id and the token of an answer that holds them.
#[track_caller]
pub(crate) fn created(answer: &Answer) -> (i64, String) {
    let body = answer.json();
    let mut members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    members.sort_unstable();
    // Of a rotation with an overlap.
    members.retain(|member| *member != "oldSecretUntil");
    assert_eq!(members, ["id", "key", "name"]);
    (body["id"].as_i64().unwrap(), body["key"].as_str().unwrap().to_owned())
}

/// Status and message.
#[track_caller]
pub(crate) fn status_and_message(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    (answer.status, body["message"].as_str().unwrap_or_else(|| panic!("no message in {body}")).to_owned())
}

#[track_caller]
pub(crate) fn assert_message(answer: &Answer, status: u16, message: &str) {
    assert_eq!(status_and_message(answer), (status, message.to_owned()));
}

/// Runs the test on SQLite and on PostgreSQL.
pub(crate) fn on_each_store(test: impl Fn(&str)) {
    test("sqlite:keys.db");
    let postgres = Postgres::shared();
    test(&postgres.url(&postgres.database()));
}

#[test]
fn a_key_is_created_listed_used_and_deleted() {
    on_each_store(|store| {
        let api = Api::on(store);
        assert_eq!(api.get("/api/auth/keys").json(), json!([]));
        let body = json!({"name": "mykey", "role": "Admin", "secondsToLive": 86400});
        let answer = api.post("/api/auth/keys", &body);
        assert_eq!((answer.status, answer.all("content-type")), (200, vec!["application/json"]));
        assert_eq!(answer.json()["name"], "mykey");
        let (id, token) = created(&answer);
        assert!(token.starts_with("eat_") && token.len() == 4 + 38, "{}", token.len());

        let list = api.get("/api/auth/keys").json();
        let [key] = &list.as_array().unwrap()[..] else { panic!("{list}") };
        assert_eq!((&key["id"], &key["name"], &key["role"]), (&json!(id), &json!("mykey"), &json!("Admin")));
        let expiration: jiff::Timestamp = key["expiration"].as_str().unwrap().parse().unwrap();
        let created: jiff::Timestamp = key["created"].as_str().unwrap().parse().unwrap();
        assert_eq!(expiration.as_second() - created.as_second(), 86400);
        for absent in ["key", "secondsToLive", "lastUsedAt", "isRevoked"] {
            assert!(key.get(absent).is_none(), "{absent}");
        }
        assert_eq!(api.get(&format!("/api/auth/keys/{id}")).json(), *key);

        // The key passes, and manages keys by its own role.
        assert_eq!(api.check(&token), "");
        let by_key = api.request("GET", "/api/auth/keys").bearer(&token).send();
        assert_eq!((by_key.status, &by_key.json()[0]["name"]), (200, &json!("mykey")));
        let mut by_basic = api.request("GET", "/api/auth/actor").basic("api_key", &token).send().json();
        assert_eq!(by_basic.as_object_mut().unwrap().remove("permissions").unwrap()["manages"], "all");
        assert_eq!(by_basic, json!({"id": "key:mykey", "name": "mykey", "role": "Admin", "key_id": id}));

        let deleted = api.request("DELETE", &format!("/api/auth/keys/{id}")).bearer(&token).send();
        assert_message(&deleted, 200, "API key deleted");
        assert_eq!(api.check(&token), "401 Invalid API key");
        assert_message(&api.request("GET", "/api/auth/keys").bearer(&token).send(), 401, "Invalid API key");
        assert_message(&api.get(&format!("/api/auth/keys/{id}")), 404, "API key not found");
        assert_eq!(api.get("/api/auth/keys").json(), json!([]));
    });
}

#[test]
fn the_list_is_by_name_and_hides_the_dead_by_default() {
    on_each_store(|store| {
        let api = Api::on(store);
        for name in ["b", "a", "C", "é", "a b", "_"] {
            api.create(&json!({"name": name, "role": "Viewer"}));
        }
        let (revoked, _) = api.create(&json!({"name": "gone", "role": "Viewer"}));
        assert_eq!(api.post(&format!("/api/auth/keys/{revoked}/revoke"), &json!({})).status, 200);
        let (_, token) = api.create(&json!({"name": "late", "role": "Viewer", "secondsToLive": 1}));
        wait_until("it expires", || api.check(&token) == "401 Expired API key");

        let live = ["C", "_", "a", "a b", "b", "é"];
        assert_eq!(api.names("/api/auth/keys"), live);
        for no in ["false", "0", "", "yes"] {
            assert_eq!(api.names(&format!("/api/auth/keys?includeExpired={no}")), live, "{no}");
        }
        for yes in ["true", "1", "t", "TRUE"] {
            let all = ["C", "_", "a", "a b", "b", "gone", "late", "é"];
            assert_eq!(api.names(&format!("/api/auth/keys?includeExpired={yes}")), all, "{yes}");
        }
        let list = api.get("/api/auth/keys?includeExpired=true").json();
        assert_eq!((&list[5]["isRevoked"], list[5].get("expiration")), (&json!(true), None));
        assert!(list[6]["expiration"].is_string() && list[6].get("isRevoked").is_none());
        // A name is free again when its key is dead.
        api.create(&json!({"name": "gone", "role": "Viewer"}));
        api.create(&json!({"name": "late", "role": "Viewer"}));
    });
}

#[test]
fn all_keys_are_listed_unless_a_page_is_requested() {
    let api = Api::on("sqlite:keys.db");
    for number in 0..120 {
        api.create(&json!({"name": format!("key-{number:03}"), "role": "Viewer"}));
    }
    assert_eq!(api.names("/api/auth/keys").len(), 120, "Grafana cuts at 100, and does not say so");
    assert_eq!(api.names("/api/auth/keys?perpage=50").len(), 50);
    assert_eq!(api.names("/api/auth/keys?perpage=50&page=3")[0], "key-100");
    assert_eq!(api.names("/api/auth/keys?perpage=50&page=3").len(), 20);
    assert_eq!(api.names("/api/auth/keys?perpage=50&page=4"), [""; 0]);
    let page = api.get("/api/auth/keys?perpage=50&page=3");
    assert_eq!(page.all("x-total-count"), ["120"]);
    assert_message(&api.get("/api/auth/keys?perpage=1001"), 400, "bad request data");
}

#[test]
fn each_bad_creation_is_denied_with_its_own_message() {
    on_each_store(|store| {
        let keys = ", actor_members: [team]";
        let api = Api::start(&config(store, keys, "", ""));
        let malformed = (400, "bad request data");
        let reserved = (409, "API key name belongs to a configured user or token");
        let deep: Value = (0..30).fold(json!(1), |inner, _| json!([inner]));
        let cases: Vec<(Value, (u16, &str))> = vec![
            (json!({}), malformed),
            (json!({"role": "Admin"}), malformed),
            (json!({"name": "", "role": "Admin"}), malformed),
            (json!({"name": null, "role": "Admin"}), malformed),
            (json!({"name": 5, "role": "Admin"}), malformed),
            (json!({"name": ["a"], "role": "Admin"}), malformed),
            (json!({"name": " a", "role": "Admin"}), malformed),
            (json!({"name": "a\u{3000}", "role": "Admin"}), malformed),
            (json!({"name": "a\nb", "role": "Admin"}), malformed),
            (json!({"name": "a\u{0}b", "role": "Admin"}), malformed),
            (json!({"name": "\u{202e}nimda", "role": "Admin"}), malformed),
            (json!({"name": "ad\u{200b}min", "role": "Admin"}), malformed),
            (json!({"name": "admin\u{2060}", "role": "Admin"}), malformed),
            (json!({"name": "ad\u{ad}min", "role": "Admin"}), malformed),
            (json!({"name": "\u{301}admin", "role": "Admin"}), malformed),
            (json!({"name": "a".repeat(191), "role": "Admin"}), malformed),
            (json!({"name": "a".repeat(10 * 1024), "role": "Admin"}), malformed),
            // 190 characters, and headers that no answer can hold.
            (json!({"name": "🔑".repeat(190), "role": "Admin"}), malformed),
            (json!({"name": "a"}), malformed),
            (json!({"name": "a", "role": null}), malformed),
            (json!({"name": "a", "role": 1}), malformed),
            (json!({"name": "a", "role": ["Admin"]}), malformed),
            (json!({"name": "a", "role": "Admin", "secondsToLive": "1"}), malformed),
            (json!({"name": "a", "role": "Admin", "secondsToLive": 1.5}), malformed),
            (json!({"name": "a", "role": "Admin", "secondsToLive": 1e18}), malformed),
            (
                json!({"name": "a", "role": "Admin", "secondsToLive": 1_000_000_000_000_000_000_i64}),
                malformed,
            ),
            (json!({"name": "a", "role": "Admin", "secondsToLive": i64::MAX}), malformed),
            (json!({"name": "a", "role": "Admin", "secondsToLive": u64::MAX}), malformed),
            (json!({"name": "a", "role": "Admin", "secondsToLive": true}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"id": "root"}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"team": 1, "other": 2}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"Team": 1}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"team": "x".repeat(5000)}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"team": nested_lists(17)}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": {"team": nested_lists(100)}}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": ["team"]}), malformed),
            (json!({"name": "a", "role": "Admin", "actor": "team"}), malformed),
            (json!({"name": "a", "role": "Admin", "policies": ["read", "nobody"]}), malformed),
            (json!({"name": "a", "role": "Admin", "policies": ["default"]}), malformed),
            (json!({"name": "a", "role": "Admin", "policies": "read"}), malformed),
            (json!({"name": "a", "role": "Admin", "policies": [1]}), malformed),
            (json!(["a", "Admin"]), malformed),
            (json!("a"), malformed),
            (json!(null), malformed),
            (json!({"name": "a", "role": ""}), (400, "Invalid role specified")),
            (json!({"name": "a", "role": "admin"}), (400, "Invalid role specified")),
            (json!({"name": "a", "role": "Owner", "secondsToLive": -1}), (400, "Invalid role specified")),
            (
                json!({"name": "a", "role": "Admin", "secondsToLive": -1}),
                (400, "Negative value for secondsToLive"),
            ),
            (
                json!({"name": "a", "role": "Admin", "secondsToLive": i64::MIN}),
                (400, "Negative value for secondsToLive"),
            ),
            (json!({"name": "the-admin", "role": "Viewer"}), reserved),
            (json!({"name": "THE-admin", "role": "Viewer"}), reserved),
            (json!({"name": "the-\u{ff41}dmin", "role": "Viewer"}), reserved),
            (json!({"name": "\u{430}dmin", "role": "Viewer"}), malformed),
            (json!({"name": "Addy", "role": "Viewer"}), reserved),
            (json!({"name": "root", "role": "Viewer"}), reserved),
            (json!({"name": "Rooty", "role": "Viewer"}), reserved),
            (json!({"name": "root-actor", "role": "Viewer"}), reserved),
        ];
        for (body, (status, message)) in cases {
            let answer = api.post("/api/auth/keys", &body);
            assert_eq!(status_and_message(&answer), (status, message.to_owned()), "{body}");
        }
        for body in [
            "",
            "{",
            "nonsense",
            "{\"name\": \"a\", \"role\": \"Admin\"",
            "{\"name\": \"\\ud800\", \"role\": \"Admin\"}",
        ] {
            let request = api.request("POST", "/api/auth/keys").basic("admin", "admin");
            let answer = request.header("content-type", "application/json").body(body.into()).send();
            assert_eq!(status_and_message(&answer), (400, "bad request data".to_owned()), "{body}");
        }
        let not_utf8 = b"{\"name\": \"\xff\", \"role\": \"Admin\"}".to_vec();
        let request = api.request("POST", "/api/auth/keys").basic("admin", "admin");
        assert_message(
            &request.header("content-type", "application/json").body(not_utf8).send(),
            400,
            "bad request data",
        );
        let nothing = api.request("POST", "/api/auth/keys").basic("admin", "admin").send();
        assert_message(&nothing, 400, "bad request data");
        assert_eq!(api.get("/api/auth/keys?includeExpired=true").json(), json!([]));

        // What none of these is.
        let (_, token) = api.create(&json!({
            "name": "a", "role": "Editor", "secondsToLive": null, "unknown": deep,
            "actor": {"team": "ops"}, "policies": ["read", "write"],
        }));
        let actor = api.request("GET", "/api/auth/actor").bearer(&token).send().json();
        assert_eq!((&actor["team"], &actor["id"]), (&json!("ops"), &json!("key:a")));
        assert_eq!(api.check(&token), "403 Permission denied", "it counts under its policies alone");
        assert_message(
            &api.post("/api/auth/keys", &json!({"name": "a", "role": "Viewer"})),
            409,
            "API key name already exists",
        );
        assert_message(
            &api.post("/api/auth/keys", &json!({"name": "A", "role": "Viewer", "secondsToLive": 0})),
            409,
            "API key name already exists",
        );
        // The name of a user is an Admin's to give.
        assert_eq!(api.post("/api/auth/keys", &json!({"name": "Admin", "role": "Viewer"})).status, 200);
    });
}

#[test]
fn an_error_names_the_member_at_fault_and_the_audit_line_the_reason() {
    let api =
        Api::start(&config("sqlite:keys.db", ", actor_members: [team], max_seconds_to_live: 60", "", ""));
    let (id, _) = api.create(&json!({"name": "boss", "role": "Admin", "secondsToLive": 60}));
    let life = "expected at most 60 (keys.max_seconds_to_live)";
    let policy = "expected names that stand under policies in the configuration";
    let new = |member: &str, value: Value| {
        let mut body = json!({"name": "x", "role": "Viewer", "secondsToLive": 60});
        body[member] = value;
        ("/api/auth/keys".to_owned(), body.to_string())
    };
    let overlap =
        |value: Value| (format!("/api/auth/keys/{id}/rotate"), json!({"overlapSeconds": value}).to_string());
    let raw = |body: &str| ("/api/auth/keys".to_owned(), body.to_owned());
    let many: Vec<_> = (0..9000).map(|_| "read").collect();
    let cases = [
        (new("name", json!(5)), "wrong_type", "name", "expected a string"),
        (new("name", json!(null)), "missing_member", "name", "is missing"),
        (new("name", json!("a ")), "invalid_name", "name", "a name is 1 to 190 printable characters"),
        (new("role", json!("Owner")), "invalid_role", "role", "expected Viewer, Editor or Admin"),
        (new("secondsToLive", json!("1d")), "wrong_type", "secondsToLive", "expected a whole number"),
        (new("secondsToLive", json!(61)), "life_too_long", "secondsToLive", life),
        (new("secondsToLive", json!(0)), "life_not_set", "secondsToLive", "expected 1 to 60"),
        (new("secondsToLive", json!(-1)), "negative_life", "secondsToLive", "above zero"),
        (new("actor", json!({"group": 1})), "invalid_actor", "actor", "(keys.actor_members): team"),
        (new("actor", json!({"team": "x".repeat(5000)})), "invalid_actor", "actor", "4096 is the most"),
        (new("policies", json!(["none"])), "unknown_policy", "policies", policy),
        (new("policies", json!(["read", "read"])), "invalid_policies", "policies", "one policy twice"),
        (new("policies", json!(many)), "invalid_policies", "policies", "100 is the most"),
        (overlap(json!(604_801)), "invalid_overlap", "overlapSeconds", "expected 0 to 604800"),
        (overlap(json!("1h")), "wrong_type", "overlapSeconds", "expected a whole number"),
        (raw(r#"{"name":"x","Name":"y","role":"Viewer"}"#), "duplicate_member", "name", "appears twice"),
        (
            raw("{\"name\":\"x\",\"role\":\"Viewer\",\"second\u{17f}ToLive\":6}"),
            "ambiguous_member",
            "secondsToLive",
            "ASCII",
        ),
        (
            raw(r#"{"name":"x","role":"Viewer","actor":{"team":1,"Team":1}}"#),
            "duplicate_member",
            "actor",
            "twice",
        ),
    ];
    for ((path, body), reason, field, problem) in cases {
        let request = api.request("POST", &path).basic("admin", "admin");
        let answer = request.header("content-type", "application/json").body(body.clone().into()).send();
        assert_eq!(answer.status, 400, "{body}");
        let details = &answer.json()["details"][0];
        assert_eq!(details["field"], field, "{body}");
        assert!(details["problem"].as_str().unwrap().contains(problem), "{details}");
        let is_logged = || api.audit().iter().any(|line| line["reason"] == reason);
        wait_until(reason, is_logged);
    }
    let answer = api.post("/login", &json!({"USER": "vi", "pass": "vi"}));
    assert_eq!(answer.json()["details"][0]["field"], "password");
    assert_eq!(api.post("/login", &json!({"USER": "vi", "Password": "vi"})).status, 200);
    // As Go reads it.
    let made = api.post("/api/auth/keys", &json!({"Name": "go", "ROLE": "Viewer", "secondstolive": 60}));
    assert_eq!(made.status, 200);
    let list = api.get("/api/auth/keys").json();
    assert!(list.as_array().unwrap().iter().all(|key| key["expiration"].is_string()), "{list}");
}

#[test]
fn nobody_grants_more_than_they_may_do_themselves() {
    on_each_store(|store| {
        let rest = "routes:
- {path: /a, allow: {id: 'key:deploy'}}
- {path: /b, allow: {role: Admin, name: [other, ci]}}
- {path: /c, allow: {groups: ops}}
";
        let admin = ", allow: {role: [Editor, Admin]}, introspect: {id: 'key:asker'}";
        let config = config(store, ", actor_members: [groups]", admin, rest);
        let token = "gina-token-0123456789";
        let gina =
            format!("tokens:\n- {{token: {token}, actor: {{id: gina, role: Editor, groups: [dev, qa]}}}}");
        let api = Api::start(&config.replacen("tokens:", &gina, 1));
        let new =
            |name: &str, groups: Value| json!({"name": name, "role": "Viewer", "actor": {"groups": groups}});
        let make = |body: &Value| post(api.request("POST", "/api/auth/keys").bearer(token), body);
        for (body, field) in [
            (new("k", json!(["ops"])), "actor"),
            (new("k", json!("ops")), "actor"),
            (new("k", json!(["dev", "ops"])), "actor"),
            (new("k", json!(null)), "actor"),
            (new("k", json!([])), "actor"),
            (json!({"name": "deploy", "role": "Viewer"}), "name"),
            (json!({"name": "Deploy", "role": "Viewer"}), "name"),
            (json!({"name": "ci", "role": "Viewer"}), "name"),
            // Neither what the section `admin` gives it.
            (json!({"name": "asker", "role": "Viewer"}), "name"),
        ] {
            let answer = make(&body);
            assert_message(&answer, 403, "Permission denied");
            assert_eq!(answer.json()["details"][0]["field"], field, "{body}");
        }
        for body in
            [new("mine", json!(["dev"])), new("mine-2", json!("qa")), json!({"name": "x", "role": "Editor"})]
        {
            assert_eq!(make(&body).status, 200, "{body}");
        }
        // To rotate is to give.
        for body in [new("strong", json!(["ops"])), json!({"name": "deploy", "role": "Viewer"})] {
            let (id, old) = api.create(&body);
            let path = format!("/api/auth/keys/{id}/rotate");
            assert_message(
                &post(api.request("POST", &path).bearer(token), &json!({})),
                403,
                "Permission denied",
            );
            assert_eq!(api.check(&old), "", "its secret is still the old one");
            assert_eq!(api.post(&path, &json!({})).status, 200);
        }
        let (id, _) = api.create(&new("weak", json!(["qa"])));
        let rotated =
            post(api.request("POST", &format!("/api/auth/keys/{id}/rotate")).bearer(token), &json!({}));
        assert_eq!(rotated.status, 200);
    });
}

#[test]
fn a_rotation_gives_no_longer_life_than_the_maximum() {
    on_each_store(|store| {
        let folder = tempfile::tempdir().unwrap();
        let store =
            store.replace("sqlite:keys.db", &format!("sqlite:{}", folder.path().join("k.db").display()));
        let api = Api::start(&config(&store, "", "", ""));
        let (endless, _) = api.create(&json!({"name": "endless", "role": "Viewer"}));
        let (short, _) = api.create(&json!({"name": "short", "role": "Viewer", "secondsToLive": 60}));
        drop(api);
        let api = Api::start(&config(&store, ", max_seconds_to_live: 3600", "", ""));
        let expiration = |id: i64| api.get(&format!("/api/auth/keys/{id}")).json()["expiration"].clone();
        let before = expiration(short);
        for id in [endless, short] {
            assert_eq!(api.post(&format!("/api/auth/keys/{id}/rotate"), &json!({})).status, 200);
        }
        let ends: jiff::Timestamp = expiration(endless).as_str().unwrap().parse().unwrap();
        assert!(ends.duration_since(jiff::Timestamp::now()).as_secs() <= 3600);
        assert_eq!(expiration(short), before);
        drop(api);
        let api = Api::start(&config(&store, ", max_seconds_to_live: 0", "", ""));
        assert_eq!(api.post(&format!("/api/auth/keys/{short}/rotate"), &json!({})).status, 400);
    });
}

#[test]
fn the_endpoints_that_grafana_clients_call_first_answer() {
    let api = Api::start(&config("sqlite:keys.db", "", ", org_name: Ours", ""));
    let version = env!("CARGO_PKG_VERSION");
    let health = |request: Request| request.send().json();
    wait_until("the store was read", || api.request("GET", "/api/health").send().status == 200);
    assert_eq!(health(api.request("GET", "/api/health")), json!({"database": "ok", "version": version}));
    let wrong = api.request("GET", "/api/health").bearer("no-token-of-ours-0123");
    assert_eq!(health(wrong), json!({"database": "ok", "version": version}));
    assert!(health(api.request("GET", "/api/health").bearer(ROOT))["commit"].is_string());
    let ask = |path: &str| api.request("GET", path).basic("vi", "vi").send().json();
    assert_eq!(ask("/api/org"), json!({"id": 1, "name": "Ours"}));
    assert_eq!(ask("/api/login/ping"), json!({"message": "Logged in"}));
    assert_eq!(ask("/api/frontend/settings")["buildInfo"]["version"], version);
    let user = ask("/api/user");
    assert_eq!((&user["login"], &user["isGrafanaAdmin"]), (&json!("vi"), &json!(false)));
    for path in ["/api/org", "/api/user", "/api/login/ping", "/api/frontend/settings"] {
        assert_eq!(api.request("GET", path).send().status, 401, "{path}");
        assert_eq!(api.request("GET", path).bearer(RESTRICTED).send().status, 403, "{path}");
    }
}

#[test]
fn a_body_must_be_declared_as_json() {
    let api = Api::on("sqlite:keys.db");
    let send = |content_type: Option<&str>, body: &str| {
        let request = api.request("POST", "/api/auth/keys").basic("admin", "admin");
        let request =
            content_type.into_iter().fold(request, |request, value| request.header("content-type", value));
        request.body(body.into()).send()
    };
    let key = |name: &str| json!({"name": name, "role": "Viewer"}).to_string();
    let wrong = "Content-Type must be application/json";
    assert_message(&send(Some("text/plain"), &key("a")), 415, wrong);
    assert_message(&send(Some("application/x-www-form-urlencoded"), &key("a")), 415, wrong);
    assert_message(&send(Some("application/x-www-form-urlencoded"), ""), 415, wrong);
    assert_message(&send(Some("application/jsonx"), &key("a")), 415, wrong);
    assert_message(&send(None, &key("a")), 415, wrong);
    assert_message(&send(None, ""), 400, "bad request data");
    for (index, right) in
        ["application/json", "Application/JSON; charset=utf-8", "application/json;"].iter().enumerate()
    {
        assert_eq!(send(Some(right), &key(&format!("key {index}"))).status, 200, "{right}");
    }
}

#[test]
fn names_of_all_kinds_are_kept_as_they_are_and_their_headers_are_legal() {
    on_each_store(|store| {
        let api = Api::on(store);
        let names = [
            "🔑 emoji 👩‍👩‍👧",
            "מפתח שלי",
            "مفتاح",
            "Robert'); DROP TABLE api_keys; --",
            "\" OR 1=1 --",
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "%0d%0aset-cookie: a=b",
            "{{7*7}} ${jndi:ldap://x}",
            "a,b;c=d\\",
            "../../etc/passwd",
        ];
        for name in names {
            let (id, token) = api.create(&json!({"name": name, "role": "Viewer"}));
            assert_eq!(api.get(&format!("/api/auth/keys/{id}")).json()["name"], name);
            let request =
                grpc::request("GET", "app.example", "/", &[("authorization", &format!("Bearer {token}"))]);
            let answer = grpc::check(&api.server, request);
            let headers: Vec<_> =
                grpc::pass(&answer).headers.iter().filter_map(|option| option.header.clone()).collect();
            let value = |name: &str| headers.iter().find(|header| header.key == name).unwrap().value.clone();
            assert!(
                headers.iter().all(|header| header.value.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
            );
            let decoded = percent_encoding::percent_decode_str(&value("x-actor-name"))
                .decode_utf8()
                .unwrap()
                .into_owned();
            assert_eq!(decoded, name);
            let actor: Value = serde_json::from_str(&value("x-actor")).unwrap();
            assert_eq!(
                (&actor["name"], &actor["role"], &actor["key_id"]),
                (&json!(name), &json!("Viewer"), &json!(id))
            );
        }
        let mut expected: Vec<_> = names.to_vec();
        expected.sort_unstable();
        assert_eq!(api.names("/api/auth/keys"), expected);
    });
}

#[test]
fn malformed_and_unknown_ids_have_answers_of_their_own() {
    on_each_store(|store| {
        let api = Api::on(store);
        api.create(&json!({"name": "a", "role": "Viewer"}));
        for (id, status, message) in [
            ("0", 404, "API key not found"),
            ("-1", 404, "API key not found"),
            ("999999", 404, "API key not found"),
            ("9223372036854775807", 404, "API key not found"),
            ("9223372036854775808", 400, "id is invalid"),
            ("abc", 400, "id is invalid"),
            ("1.0", 400, "id is invalid"),
            ("1e3", 400, "id is invalid"),
            ("%20", 400, "id is invalid"),
            ("%ff", 400, "id is invalid"),
            ("1%00", 400, "id is invalid"),
            ("1;drop", 400, "id is invalid"),
        ] {
            let path = format!("/api/auth/keys/{id}");
            assert_message(&api.get(&path), status, message);
            assert_message(&api.delete(&path), status, message);
            assert_message(&api.post(&format!("{path}/revoke"), &json!({})), status, message);
            assert_message(&api.post(&format!("{path}/rotate"), &json!({})), status, message);
        }
        assert_eq!(api.names("/api/auth/keys"), ["a"]);
    });
}

#[test]
fn no_key_lives_longer_than_max_seconds_to_live() {
    on_each_store(|store| {
        let api = Api::start(&config(store, ", max_seconds_to_live: 86400", "", ""));
        let create = |seconds: Value| {
            api.post("/api/auth/keys", &json!({"name": "n", "role": "Viewer", "secondsToLive": seconds}))
        };
        let unset = "Number of seconds before expiration should be set";
        let greater = "Number of seconds before expiration is greater than the global limit";
        assert_message(&create(json!(null)), 400, unset);
        assert_message(&create(json!(0)), 400, unset);
        assert_message(&api.post("/api/auth/keys", &json!({"name": "n", "role": "Viewer"})), 400, unset);
        assert_message(&create(json!(86401)), 400, greater);
        assert_message(&create(json!(1_000_000_000_000_000_000_i64)), 400, greater);
        assert_message(&create(json!(-1)), 400, "Negative value for secondsToLive");
        assert_eq!(create(json!(86400)).status, 200, "equal is fine");
        // The limit comes before the name.
        assert_message(&create(json!(86401)), 400, greater);
        assert_message(&create(json!(1)), 409, "API key name already exists");
    });
    let none = Api::start(&config("sqlite:keys.db", ", max_seconds_to_live: 0", "", ""));
    let create = |seconds: i64| {
        none.post("/api/auth/keys", &json!({"name": "n", "role": "Viewer", "secondsToLive": seconds}))
    };
    assert_eq!((create(0).status, create(1).status), (400, 400), "no keys at all");
}

#[test]
fn a_quota_counts_the_dead_too_and_comes_last() {
    on_each_store(|store| {
        let api = Api::start(&config(store, ", max: 2", "", ""));
        let (first, _) = api.create(&json!({"name": "a", "role": "Viewer"}));
        let (second, _) = api.create(&json!({"name": "b", "role": "Viewer"}));
        let third = json!({"name": "c", "role": "Viewer"});
        assert_message(&api.post("/api/auth/keys", &third), 403, "api_key Quota reached");
        assert_message(
            &api.post("/api/auth/keys", &json!({"name": "a", "role": "Viewer"})),
            409,
            "API key name already exists",
        );
        assert_message(
            &api.post(&format!("/api/auth/keys/{first}/revoke"), &json!({})),
            200,
            "API key revoked",
        );
        assert_message(&api.post("/api/auth/keys", &third), 403, "api_key Quota reached");
        assert_message(&api.delete(&format!("/api/auth/keys/{second}")), 200, "API key deleted");
        let (id, _) = api.create(&third);
        assert!(id > second, "an id is never used again");
    });
}

#[test]
fn a_revoked_key_is_dead_at_once_with_its_old_secret() {
    on_each_store(|store| {
        let api = Api::on(store);
        let (id, old) = api.create(&json!({"name": "a", "role": "Viewer"}));
        let path = format!("/api/auth/keys/{id}");
        let rotated = api.post(&format!("{path}/rotate"), &json!({"overlapSeconds": 3600}));
        let (_, new) = created(&rotated);
        assert_eq!((api.check(&old), api.check(&new)), (String::new(), String::new()));
        for _ in 0..2 {
            let revoked = api.request("POST", &format!("{path}/revoke")).basic("admin", "admin").send();
            assert_message(&revoked, 200, "API key revoked");
            assert_eq!(api.check(&new), "401 Revoked API key");
            assert!(api.check(&old).starts_with("401 "));
        }
        assert_message(&api.request("GET", "/api/auth/keys").bearer(&new).send(), 401, "Revoked API key");
        assert_eq!(api.get(&path).json()["isRevoked"], json!(true));
        assert_message(
            &api.post(&format!("{path}/rotate"), &json!({})),
            409,
            "API key is revoked or expired",
        );
    });
}

#[test]
fn a_rotation_gives_another_secret_and_keeps_the_expiry() {
    on_each_store(|store| {
        let api = Api::on(store);
        let (id, first) = api.create(&json!({"name": "a", "role": "Viewer", "secondsToLive": 600}));
        let path = format!("/api/auth/keys/{id}");
        let before = api.get(&path).json()["expiration"].clone();
        // Without a body, as from `curl -X POST`.
        let rotated = api.request("POST", &format!("{path}/rotate")).basic("admin", "admin").send();
        let (same, second) = created(&rotated);
        assert_eq!((same, rotated.json()["name"].clone()), (id, json!("a")));
        assert_ne!(first, second);
        assert_eq!(api.check(&second), "");
        assert_eq!(api.check(&first), "401 Expired API key");
        assert_eq!(api.get(&path).json()["expiration"], before);

        // Both for a while; of the old ones only the last.
        let (_, third) = created(&api.post(&format!("{path}/rotate"), &json!({"OverlapSeconds": 600})));
        assert_eq!((api.check(&second), api.check(&third)), (String::new(), String::new()));
        let (_, fourth) = created(&api.post(&format!("{path}/rotate"), &json!({"overlapSeconds": 1})));
        assert!(api.check(&second).starts_with("401 "), "one old secret at a time");
        assert_eq!(api.check(&fourth), "");
        wait_until("the overlap is over", || api.check(&third) == "401 Expired API key");
        assert_eq!(api.check(&fourth), "");

        for wrong in [json!(-1), json!(604_801), json!("1"), json!(1.5), json!(1e18), json!([])] {
            let answer = api.post(&format!("{path}/rotate"), &json!({"overlapSeconds": wrong}));
            assert_message(&answer, 400, "bad request data");
        }
        assert_message(&api.post(&format!("{path}/rotate"), &json!([1])), 400, "bad request data");
        // A misspelt overlap would let the present one die at once.
        let misspelt = api.post(&format!("{path}/rotate"), &json!({"overlap": 3600}));
        assert_message(&misspelt, 400, "bad request data");
        assert_eq!(
            misspelt.json()["details"],
            json!([{"field": "unknown member", "problem": "`overlap` is none of overlapSeconds"}])
        );
        let text = api.request("POST", &format!("{path}/rotate")).basic("admin", "admin");
        let answer = text.header("content-type", "text/plain").body(b"{}".to_vec()).send();
        assert_message(&answer, 415, "Content-Type must be application/json");
        assert_eq!(api.check(&fourth), "", "nothing of that rotated it");
        assert_eq!(api.post(&format!("{path}/rotate"), &json!({"overlapSeconds": 604_800})).status, 200);
    });
}

#[test]
fn who_may_manage_and_who_may_not() {
    on_each_store(|store| {
        let api = Api::on(store);
        let (id, _) = api.create(&json!({"name": "a", "role": "Viewer"}));
        let key = format!("/api/auth/keys/{id}");
        let calls = [
            ("GET", "/api/auth/keys".to_owned()),
            ("POST", "/api/auth/keys".to_owned()),
            ("GET", key.clone()),
            ("DELETE", key.clone()),
            ("POST", format!("{key}/revoke")),
            ("POST", format!("{key}/rotate")),
            ("PATCH", key.clone()),
            ("POST", "/api/auth/keys/revoke".to_owned()),
            ("POST", "/api/auth/keys/find".to_owned()),
            ("POST", "/api/auth/keys/import".to_owned()),
            ("GET", "/api/auth/keys/export".to_owned()),
        ];
        for (method, path) in &calls {
            let ask = || api.request(method, path);
            assert_message(&ask().send(), 401, "Unauthorized");
            assert_eq!(ask().send().all("www-authenticate"), [r#"Bearer realm="api""#]);
            assert_message(&ask().bearer("unknown-token").send(), 401, "Invalid API key");
            assert_message(&ask().bearer("a b").send(), 401, "Malformed credential");
            assert_message(
                &ask().header("authorization", "Basic !").send(),
                401,
                "Invalid Basic Auth Header",
            );
            assert_message(&ask().header("authorization", "Negotiate x").send(), 401, "Unauthorized");
            assert_message(&ask().bearer(ROOT).bearer(ROOT).send(), 400, "Malformed request");
            assert_message(&ask().basic("admin", "wrong").send(), 401, "Invalid username or password");
            assert_message(&ask().basic("nobody", "admin").send(), 401, "Invalid username or password");
            assert_message(&ask().header("cookie", "eat_session=unknown").send(), 401, "Unauthorized");
            assert_message(&ask().basic("ed", "ed").send(), 403, "Permission denied");
            assert_message(&ask().basic("vi", "vi").send(), 403, "Permission denied");
            assert_message(&ask().bearer(RESTRICTED).send(), 403, "Permission denied");
            assert_message(&ask().bearer(ROLELESS).send(), 403, "Permission denied");
            // A key in the query or in another header is read nowhere.
            assert_message(
                &api.request(method, &format!("{path}?api_key={ROOT}")).send(),
                401,
                "Unauthorized",
            );
        }
        // Everybody may know who they are.
        let actor = |request: Request| {
            let mut actor = request.send().json();
            assert!(actor.as_object_mut().unwrap().remove("permissions").is_some(), "{actor}");
            actor
        };
        let ask = || api.request("GET", "/api/auth/actor");
        assert_eq!(actor(ask().basic("vi", "vi")), json!({"id": "vi", "role": "Viewer"}));
        assert_eq!(actor(ask().bearer(RESTRICTED)), json!({"id": "restricted", "role": "Admin"}));
        assert_eq!(
            actor(ask().basic("api_key", ROOT)),
            json!({"id": "root-actor", "name": "Rooty", "role": "Admin"})
        );
        assert_message(&ask().send(), 401, "Unauthorized");
        assert_eq!(api.get(&key).status, 200, "nothing happened to it");
    });
}

#[test]
fn a_misspelt_member_makes_nothing_and_other_unknown_members_are_ignored() {
    on_each_store(|store| {
        let api = Api::on(store);
        let (status, account) = {
            let answer = api.post("/api/serviceaccounts", &json!({"name": "ci", "orgId": 1, "login": "x"}));
            (answer.status, answer.json()["id"].to_string())
        };
        assert_eq!(status, 201);
        let tokens = format!("/api/serviceaccounts/{account}/tokens");
        let of_account = format!("/api/serviceaccounts/{account}");
        for (method, path, body, written, meant) in [
            (
                "POST",
                "/api/auth/keys",
                json!({"name": "a", "role": "Viewer", "secondToLive": 60}),
                "secondToLive",
                "secondsToLive",
            ),
            (
                "POST",
                "/api/auth/keys",
                json!({"name": "a", "role": "Viewer", "policy": ["p"]}),
                "policy",
                "policies",
            ),
            ("POST", "/api/serviceaccounts", json!({"name": "b", "rol": "Editor"}), "rol", "role"),
            ("PATCH", &of_account, json!({"disabled": true}), "disabled", "isDisabled"),
            (
                "POST",
                &tokens,
                json!({"name": "a", "seconds_to_live": 60}),
                "seconds_to_live",
                "secondsToLive",
            ),
        ] {
            let answer = post(api.request(method, path).bearer(ROOT), &body);
            assert_message(&answer, 400, "bad request data");
            let problem = format!("`{written}` is not known: did you mean `{meant}`?");
            let details = json!([{"field": "unknown member", "problem": problem}]);
            assert_eq!(answer.json()["details"], details, "{body}");
        }
        assert_eq!(api.get("/api/auth/keys").json(), json!([]));
        assert_eq!(api.get("/api/serviceaccounts/search").json()["totalCount"], 1);
        for (path, body) in [
            ("/api/auth/keys", json!({"name": "a", "role": "Viewer", "orgId": 1, "uid": "x"})),
            (&tokens, json!({"name": "a", "role": "Admin", "serviceAccountId": 7})),
        ] {
            assert_eq!(api.post(path, &body).status, 200, "{body}");
        }
    });
}

#[test]
fn a_denial_names_the_right_that_is_missing_and_nothing_else() {
    let admin = ", allow: {role: [Viewer, Editor, Admin], team: ops}, self_service: {id: no}";
    let api = Api::start(&config("sqlite:keys.db", "", admin, ""));
    let (guarded, _) = api.create(&json!({"name": "guarded", "role": "Admin"}));
    let (_, restricted) = api.create(&json!({"name": "restricted key", "role": "Admin", "policies": []}));
    let why = |request: Request, method: &str| {
        let answer = if method == "GET" { request.send() } else { post(request, &json!({})) };
        assert_message(&answer, 403, "Permission denied");
        let details = answer.json()["details"].clone();
        assert_eq!(
            (details.as_array().unwrap().len(), &details[0]["field"]),
            (1, &json!("caller")),
            "{details}"
        );
        details[0]["problem"].as_str().unwrap().to_owned()
    };
    let rotate = format!("/api/auth/keys/{guarded}/rotate");
    let list = "/api/auth/keys";
    let as_user =
        |user: &str, method: &str, path: &str| why(api.request(method, path).basic(user, user), method);
    let admin_only = "this needs the role Admin, and you have the role Editor";
    assert_eq!(as_user("ed", "GET", "/api/auth/audit"), admin_only);
    assert_eq!(as_user("ed", "GET", "/api/auth/keys/export"), admin_only);
    assert_eq!(as_user("ed", "POST", &rotate), "the key's role is above your own");
    assert_eq!(
        why(api.request("POST", "/api/auth/introspect").basic("ed", "ed"), "GET"),
        "you may not ask about tokens: admin.introspect does not admit you"
    );
    let editor = post(api.request("POST", list).basic("ed", "ed"), &json!({"name": "x", "role": "Admin"}));
    assert_eq!(editor.json()["details"][0]["problem"], admin_only);
    let roleless = post(api.request("POST", list).bearer(ROLELESS), &json!({"name": "x", "role": "Viewer"}));
    assert_eq!(roleless.json()["details"][0]["problem"], "this needs the role Viewer, and you have no role");
    let none = "your key is restricted to policies, and such a key cannot use this API";
    assert_eq!(why(api.request("GET", list).bearer(&restricted), "GET"), none);
    // Who has keys of their own alone is told neither what others have nor whom admin.allow admits.
    let own = "you may manage only your own keys: admin.allow does not admit you";
    for path in ["/api/auth/audit", "/api/auth/keys/export", "/api/serviceaccounts/search"] {
        assert_eq!(as_user("no", "GET", path), own);
    }
    assert_message(
        &post(api.request("POST", &rotate).basic("no", "no"), &json!({})),
        404,
        "API key not found",
    );
    let other = Api::on("sqlite:keys.db");
    let none = "you may not manage API keys: neither admin.allow nor admin.self_service admits you";
    assert_eq!(why(other.request("GET", list).basic("ed", "ed"), "GET"), none);
}

#[test]
fn nobody_manages_a_key_above_their_own_role() {
    let admin = ", allow: {role: [Viewer, Editor, Admin], team: ops}";
    on_each_store(|store| {
        let api = Api::start(&config(store, "", admin, ""));
        let as_user = |user: &str, method: &str, path: &str, body: Value| {
            post(api.request(method, path).basic(user, user), &body)
        };
        let new = |name: &str, role: &str| json!({"name": name, "role": role});
        for (user, role, status) in [
            ("vi", "Viewer", 200),
            ("vi", "Editor", 403),
            ("vi", "Admin", 403),
            ("ed", "Viewer", 200),
            ("ed", "Editor", 200),
            ("ed", "Admin", 403),
            ("admin", "Admin", 200),
        ] {
            let answer = as_user(user, "POST", "/api/auth/keys", new(&format!("{user}'s {role}"), role));
            assert_eq!(answer.status, status, "{user} {role}");
            if status == 403 {
                assert_message(&answer, 403, "Permission denied");
            }
        }
        // No role is below Viewer; a wrong role is wrong for everybody.
        let roleless = post(api.request("POST", "/api/auth/keys").bearer(ROLELESS), &new("x", "Viewer"));
        assert_message(&roleless, 403, "Permission denied");
        assert_message(
            &as_user("vi", "POST", "/api/auth/keys", new("x", "Owner")),
            400,
            "Invalid role specified",
        );

        let (id, token) = api.create(&new("guarded", "Admin"));
        for (method, path) in [("DELETE", ""), ("POST", "/revoke"), ("POST", "/rotate")] {
            let path = format!("/api/auth/keys/{id}{path}");
            for user in ["vi", "ed"] {
                assert_message(&as_user(user, method, &path, json!({})), 403, "Permission denied");
            }
            assert_message(&api.request(method, &path).bearer(ROLELESS).send(), 403, "Permission denied");
        }
        assert_eq!(api.check(&token), "");
        // A key manages by its own role, whoever made it.
        let (_, editor) = api.create(&new("editor", "Editor"));
        let by_editor = |role| {
            post(api.request("POST", "/api/auth/keys").bearer(&editor), &new(&format!("by {role}"), role))
        };
        assert_eq!((by_editor("Editor").status, by_editor("Admin").status), (200, 403));
        // A restricted one manages none.
        let (_, restricted) = api.create(&json!({"name": "restricted key", "role": "Admin", "policies": []}));
        let mint = post(api.request("POST", "/api/auth/keys").bearer(&restricted), &new("minted", "Viewer"));
        assert_message(&mint, 403, "Permission denied");
        assert_eq!(api.request("GET", "/api/auth/actor").bearer(&restricted).send().status, 200);
    });
}

#[test]
fn credentials_of_the_configuration_do_not_matter_to_the_api() {
    let api = Api::start(&config(
        "sqlite:keys.db",
        "",
        "",
        "credentials: [{header: x-api-key}]\nunknown_credentials: anonymous\n",
    ));
    assert_eq!(api.get("/api/auth/keys").status, 200);
    assert_eq!(api.request("GET", "/api/auth/keys").bearer(ROOT).send().status, 200);
    assert_message(
        &api.request("GET", "/api/auth/keys").header("x-api-key", ROOT).send(),
        401,
        "Unauthorized",
    );
    assert_message(
        &api.request("GET", "/api/auth/actor").bearer("unknown-token").send(),
        401,
        "Invalid API key",
    );
}

#[test]
fn a_user_logs_in_and_out() {
    on_each_store(|store| {
        let api = Api::start(&config(store, "", "", "credentials: [session]\n"));
        let log_in = |user: &str, password: &str| {
            post(api.request("POST", "/login"), &json!({"user": user, "password": password}))
        };
        let answer = log_in("admin", "admin");
        assert_message(&answer, 200, "Logged in");
        let [cookie, application] = answer.all("set-cookie")[..] else { panic!("{answer:?}") };
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Strict");
        let (name, value) = pair.split_once('=').unwrap();
        assert!(name == "eat_session" && value.len() > 32, "{name}");
        let (application, attributes) = application.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Lax");
        let (name, secret) = application.split_once('=').unwrap();
        assert!(name == "eat_app" && secret.len() > 32 && secret != value, "{name}");

        // One counts here, the other in a Check, as the user; neither does the other's work, under either name.
        let with = |pair: &str| {
            api.request("GET", "/api/auth/keys").header("cookie", format!("other=1; {pair}")).send()
        };
        assert_eq!(with(pair).status, 200);
        assert_eq!(api.check_with(&[("cookie", application)]), "");
        for other in [pair.to_owned(), format!("eat_app={value}")] {
            assert_eq!(api.check_with(&[("cookie", &other)]), "401 Unauthorized", "{other}");
        }
        for other in [application.to_owned(), format!("eat_session={secret}")] {
            assert_message(&with(&other), 401, "Unauthorized");
        }
        let made = post(
            api.request("POST", "/api/auth/keys").header("cookie", pair),
            &json!({"name": "a", "role": "Admin"}),
        );
        assert_eq!(made.status, 200);
        for twice in [format!("{pair}; {pair}"), format!("eat_session=x; {pair}; {pair}x")] {
            assert_eq!(with(&twice).status, 200, "{twice}");
        }
        assert_message(&with(&format!("{pair}x")), 401, "Unauthorized");

        let wrong = log_in("admin", "wrong");
        let unknown = log_in("nobody", "admin");
        for answer in
            [&wrong, &unknown, &log_in("api_key", ROOT), &log_in("admin:admin", ""), &log_in("", "")]
        {
            assert_message(answer, 401, "Invalid username or password");
            assert!(answer.all("set-cookie").is_empty());
        }
        assert_eq!(wrong.body, unknown.body);
        for body in [
            json!({}),
            json!({"user": "admin"}),
            json!({"user": 1, "password": "x"}),
            json!(["admin", "admin"]),
        ] {
            assert_message(&post(api.request("POST", "/login"), &body), 400, "bad request data");
        }
        let form = api.request("POST", "/login").header("content-type", "application/x-www-form-urlencoded");
        let form = form.body(b"user=admin&password=admin".to_vec()).send();
        assert_message(&form, 415, "Content-Type must be application/json");

        let another = log_in("admin", "admin");
        let [another, another_application] =
            [0, 1].map(|index| another.all("set-cookie")[index].split(';').next().unwrap().to_owned());
        assert_message(&with(&format!("{pair}; {another}")), 401, "Unauthorized");
        let both = format!("{application}; {another_application}");
        assert_eq!(api.check_with(&[("cookie", &both)]), "401 Unauthorized", "nobody knows which is meant");
        let gone = api.request("POST", "/logout").header("cookie", pair).send();
        assert_message(&gone, 200, "Logged out");
        assert_eq!(
            gone.all("set-cookie"),
            [
                "eat_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict",
                "eat_app=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
            ]
        );
        assert_message(&with(pair), 401, "Unauthorized");
        assert_eq!(api.check_with(&[("cookie", application)]), "401 Unauthorized", "it ended with the other");
        assert_eq!(with(&another).status, 200, "the other log-in goes on");
        assert_eq!(api.check_with(&[("cookie", &another_application)]), "");
        // Whoever has the application's cookie alone can end both.
        let gone = api.request("POST", "/logout").header("cookie", &another_application).send();
        assert_message(&gone, 200, "Logged out");
        assert_message(&with(&another), 401, "Unauthorized");
        assert_eq!(api.check_with(&[("cookie", &another_application)]), "401 Unauthorized");
        assert_message(&api.request("POST", "/logout").send(), 200, "Logged out");
    });
}

#[test]
fn a_live_session_goes_before_all_of_authorization_but_a_bearer() {
    let api = Api::on("sqlite:keys.db");
    let log_in = || {
        let answer = post(api.request("POST", "/login"), &json!({"user": "admin", "password": "admin"}));
        answer.all("set-cookie")[0].split(';').next().unwrap().to_owned()
    };
    let (live, dead) = (log_in(), log_in());
    assert_eq!(api.request("POST", "/logout").header("cookie", &dead).send().status, 200);
    let basic = |pair: &str| {
        let (user, password) = pair.split_once(':').unwrap();
        basic(user, password)
    };
    let by_key = basic(&format!("api_key:{ROOT}"));
    let bearer = format!("Bearer {ROOT}");
    let ask = |cookie: &str, authorization: &[&str]| {
        let request = api.request("GET", "/api/auth/actor").header("cookie", cookie);
        let request =
            authorization.iter().fold(request, |request, value| request.header("authorization", value));
        let answer = request.send();
        match answer.status {
            200 => answer.json()["id"].as_str().unwrap().to_owned(),
            _ => answer.json()["message"].as_str().unwrap().to_owned(),
        }
    };
    let (wrong, malformed) = ("Invalid username or password", "Malformed request");
    // authorization, with the live session, with the dead one.
    let cases: [(&[&str], &str, &str); 21] = [
        (&[], "the-admin", "Unauthorized"),
        (&[""], "the-admin", "Unauthorized"),
        (&[&basic("outer:pw")], "the-admin", wrong),
        (&[&basic("admin:another-password")], "the-admin", wrong),
        (&[&basic("vi:vi")], "the-admin", "vi"),
        (&[&basic("vi:vi").replace("Basic", "bAsIc")], "the-admin", "vi"),
        (&[&by_key], "the-admin", "root-actor"),
        (&["Basic !"], "the-admin", "Invalid Basic Auth Header"),
        (&["Basic"], "the-admin", "Invalid Basic Auth Header"),
        (&["Negotiate YII="], "the-admin", "Unauthorized"),
        (&["Digest username=\"outer\", realm=\"bearer\""], "the-admin", "Unauthorized"),
        (&["Bearerish x"], "the-admin", "Unauthorized"),
        (&[&basic("outer:pw"), &basic("vi:vi")], "the-admin", malformed),
        (&["Negotiate a", "Digest b"], "the-admin", "Unauthorized"),
        (&[&bearer], "root-actor", "root-actor"),
        (&[&bearer.replace("Bearer", "beArer")], "root-actor", "root-actor"),
        (&["Bearer unknown-token"], "Invalid API key", "Invalid API key"),
        (&["Bearer"], "Malformed credential", "Malformed credential"),
        (&[&basic("outer:pw"), &bearer], malformed, malformed),
        (&[&format!("{}, {bearer}", basic("outer:pw"))], malformed, malformed),
        (&[&format!("Negotiate a, {bearer}")], malformed, malformed),
    ];
    for (authorization, with_live, with_dead) in cases {
        assert_eq!(ask(&live, authorization), with_live, "{authorization:?}, live");
        assert_eq!(ask(&dead, authorization), with_dead, "{authorization:?}, dead");
    }
    let twice = format!("{live}; {dead}");
    assert_eq!(ask(&twice, &[&basic("vi:vi")]), "the-admin", "the only one that lives counts");
    let twice = format!("{live}; {}", log_in());
    assert_eq!(ask(&twice, &[]), "Unauthorized", "nobody knows which of two sessions is meant");

    // A change is made, and is told of, as the session's user, whoever the proxy is.
    let body = json!({"name": "a", "role": "Admin"});
    let outer = basic("vi:vi");
    let request = || api.request("POST", "/api/auth/keys").header("authorization", &outer);
    assert_eq!(post(request().header("cookie", &live), &body).status, 200);
    api.server.log().wait_for("an audit line of the session's user", |line| {
        let line: Value = serde_json::from_str(line).ok()?;
        (line["message"] == "API key created" && line["by"] == "the-admin").then_some(())
    });
    assert_eq!(post(request().header("cookie", &dead), &json!({"name": "b", "role": "Admin"})).status, 403);
    // And no other site makes one.
    let cross = request().header("cookie", &live).header("sec-fetch-site", "cross-site");
    assert_eq!(post(cross, &json!({"name": "c", "role": "Admin"})).status, 403);

    let health = |cookie: &str| {
        api.request("GET", "/api/health")
            .header("cookie", cookie)
            .header("authorization", &outer)
            .send()
            .json()
    };
    assert!(health(&live)["commit"].is_string() && health(&dead).get("commit").is_none());
}

#[test]
fn no_user_has_more_than_a_hundred_live_sessions() {
    on_each_store(|store| {
        let api = Api::start(&config(store, "", "", "credentials: [session]\n"));
        let log_in = |user: &str| {
            let answer = post(api.request("POST", "/login"), &json!({"user": user, "password": user}));
            [0, 1].map(|index| answer.all("set-cookie")[index].split(';').next().unwrap().to_owned())
        };
        let is_live = |[admin, application]: &[String; 2]| {
            let here = api.request("GET", "/api/auth/actor").header("cookie", admin).send().status == 200;
            assert_eq!(
                api.check_with(&[("cookie", application)]).is_empty(),
                here,
                "a Check and this listener agree"
            );
            here
        };
        let other = log_in("ed");
        let sessions: Vec<[String; 2]> = (0..103).map(|_| log_in("vi")).collect();
        let live: Vec<bool> = sessions.iter().map(is_live).collect();
        assert_eq!(live.iter().position(|live| *live), Some(3));
        assert!(live[3..].iter().all(|live| *live) && is_live(&other));
        let ended = api.audit().into_iter().filter_map(|line| line["ended_sessions"].as_u64()).sum::<u64>();
        assert_eq!(ended, 3, "the log-ins that ended others say so");
    });
}

#[test]
fn five_wrong_passwords_lock_the_log_in_too() {
    let api = Api::on("sqlite:keys.db");
    let log_in =
        |password: &str| post(api.request("POST", "/login"), &json!({"user": "vi", "password": password}));
    for guess in 0..5 {
        assert_eq!(log_in(&format!("guess {guess}")).status, 401);
    }
    assert_message(&log_in("vi"), 401, "Invalid username or password");
    api.server.log().wait_for("a line about the lock", |line| {
        (line.contains("lock") && line.contains("vi")).then_some(())
    });
    assert_eq!(post(api.request("POST", "/login"), &json!({"user": "ed", "password": "ed"})).status, 200);
}

#[test]
fn guesses_at_the_gateway_lock_nobody_out_here_nor_the_other_way_round() {
    let api = Api::on("sqlite:keys.db");
    let log_in = |user: &str, password: &str| {
        status_and_message(&post(api.request("POST", "/login"), &json!({"user": user, "password": password})))
    };
    let check = |user: &str, password: &str| {
        let mut verdict = String::new();
        crate::harness::wait_until("the password is verified", || {
            verdict = api.check_with(&[("authorization", &basic(user, password))]);
            !verdict.starts_with("503")
        });
        verdict
    };
    let (wrong, no) = ("401 Invalid username or password", (401, "Invalid username or password".to_owned()));
    for guess in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(check("admin", guess), wrong);
        assert_eq!(log_in("vi", guess), no);
    }
    assert_eq!(check("admin", "admin"), wrong, "locked there");
    assert_eq!(log_in("admin", "admin"), (200, "Logged in".to_owned()));
    assert_eq!(api.get("/api/auth/keys").status, 200);
    assert_eq!(log_in("vi", "vi"), no, "locked here");
    assert_eq!(check("vi", "vi"), "");

    // The log tells what the answers do not.
    for (member, value) in [("target", "audit"), ("decision", "denied")] {
        for reason in ["wrong_password", "user_locked"] {
            api.server.log().wait_for("a line with the reason", |line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line[member] == value && line["reason"] == reason).then_some(())
            });
        }
    }
}

#[test]
fn under_a_public_url_of_https_the_cookie_is_the_hosts_own() {
    let admin = ", public_url: \"https://keys.example.com\", hosts: [behind-a-proxy]";
    let api = Api::start(&config("sqlite:keys.db", "", admin, "credentials: [session]\n"));
    let answer = post(api.request("POST", "/login"), &json!({"user": "admin", "password": "admin"}));
    let [cookie, application] = answer.all("set-cookie")[..] else { panic!("{answer:?}") };
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert!(pair.starts_with("__Host-eat_session="));
    assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Strict; Secure");
    let (application, attributes) = application.split_once("; ").unwrap();
    assert!(application.starts_with("__Host-eat_app="));
    assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure");
    assert_eq!(api.check_with(&[("cookie", application)]), "");
    let plain = application.trim_start_matches("__Host-");
    assert_eq!(api.check_with(&[("cookie", plain)]), "401 Unauthorized");
    let create = |origin: &str| {
        let request = api.request("POST", "/api/auth/keys").header("cookie", pair).header("origin", origin);
        post(request.host("behind-a-proxy:9192"), &json!({"name": origin, "role": "Viewer"})).status
    };
    assert_eq!(create("https://keys.example.com"), 200);
    assert_eq!(create("http://behind-a-proxy:9192"), 200);
    assert_eq!(create("http://keys.example.com"), 403);
    assert_eq!(create("https://keys.example.com:8443"), 403);
}

#[test]
fn another_sites_request_changes_nothing_whatever_its_credential() {
    let api = Api::start(&config("sqlite:keys.db", "", ", hosts: [app.example]", ""));
    let request = |method: &str, path: &str| api.request(method, path).host("app.example");
    let cases: [(&[(&str, &str)], bool); 14] = [
        (&[], true),
        (&[("sec-fetch-site", "same-origin")], true),
        (&[("sec-fetch-site", "none")], true),
        (&[("sec-fetch-site", "same-site")], false),
        (&[("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "")], false),
        (&[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], false),
        (&[("sec-fetch-site", "same-origin"), ("origin", "https://evil.example")], true),
        (&[("sec-fetch-site", "cross-site"), ("origin", "http://app.example")], false),
        (&[("origin", "http://app.example")], true),
        (&[("origin", "https://evil.example")], false),
        (&[("origin", "http://app.example.evil.example")], false),
        (&[("origin", "http://app.example:8080")], false),
        (&[("origin", "null")], false),
    ];
    for (index, (headers, passes)) in cases.iter().enumerate() {
        let body = json!({"name": format!("key {index}"), "role": "Viewer"});
        let create = post(request("POST", "/api/auth/keys").headers(headers).bearer(ROOT), &body);
        let log_in =
            post(request("POST", "/login").headers(headers), &json!({"user": "admin", "password": "admin"}));
        let log_out = request("POST", "/logout").headers(headers).send();
        for answer in [create, log_in, log_out] {
            if *passes {
                assert_eq!(answer.status, 200, "{headers:?}");
            } else {
                assert_message(&answer, 403, "Permission denied");
            }
        }
        assert_eq!(request("GET", "/api/auth/keys").headers(headers).bearer(ROOT).send().status, 200);
    }
    assert_eq!(api.names("/api/auth/keys").len(), cases.iter().filter(|(_, passes)| *passes).count());
}

#[test]
fn under_a_name_that_is_not_the_listeners_nobody_is_answered() {
    let api = Api::on("sqlite:keys.db");
    let message = "This listener does not serve this host: add it to admin.hosts, set admin.public_url, or add the host of an application to admin.login_hosts";
    for host in ["evil.example", "evil.example:9192", "localhost.evil.example", ""] {
        for (method, path) in
            [("GET", "/"), ("GET", "/api/health"), ("GET", "/api/auth/keys"), ("POST", "/login")]
        {
            let request = api.request(method, path).host(host).header("origin", format!("http://{host}"));
            assert_message(&request.bearer(ROOT).send(), 421, message);
        }
    }
    let forged = "GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let twice = "GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    let none = "GET / HTTP/1.0\r\n\r\n";
    for raw in [forged, twice, none] {
        let mut stream = TcpStream::connect(api.address).unwrap();
        stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
        stream.write_all(raw.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 421") || answer.starts_with("HTTP/1.0 421"),
            "{raw:?}: {answer:?}"
        );
    }
    for host in ["localhost", "127.0.0.1", "[::1]:80"] {
        assert_eq!(api.request("GET", "/api/health").host(host).send().status, 200, "{host}");
    }
}

#[test]
fn every_answer_has_its_security_headers_and_none_lets_another_origin_in() {
    let api = Api::on("sqlite:keys.db");
    let answers = [
        api.get("/"),
        api.get("/openapi.json"),
        api.get("/api/auth/keys"),
        api.request("GET", "/api/auth/keys").header("origin", "https://evil.example").send(),
        api.request("OPTIONS", "/api/auth/keys")
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "POST")
            .send(),
        api.get("/nothing"),
        api.request("PUT", "/api/auth/keys").send(),
        api.post("/api/auth/keys", &json!({})),
        api.request("POST", "/logout").header("sec-fetch-site", "cross-site").send(),
        api.post("/api/auth/keys", &json!({"name": "a".repeat(70_000)})),
        post(api.request("POST", "/login"), &json!({"user": "admin", "password": "admin"})),
    ];
    for answer in answers {
        let policy = answer.all("content-security-policy");
        assert!(
            policy.len() == 1 && policy[0].contains("default-src 'none'") && !policy[0].contains("unsafe")
        );
        assert!(policy[0].contains("frame-ancestors 'none'"), "{policy:?}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.all(name), [value], "{name} of {} {}", answer.status, answer.text());
        }
        let cors = |(name, _): &&(String, String)| name.to_lowercase().starts_with("access-control");
        assert_eq!(answer.headers.iter().find(cors), None);
        if answer.status >= 400 {
            assert_eq!(answer.all("content-type"), ["application/json"]);
            assert!(!status_and_message(&answer).1.is_empty());
        }
    }
}

#[test]
fn unknown_paths_and_wrong_methods() {
    let api = Api::on("sqlite:keys.db");
    for path in [
        "/nothing",
        "/api",
        "/api/auth",
        "/api/auth/keys/1/2/3",
        "/metrics",
        "/login/x/y",
        "//",
        "/page.html",
    ] {
        assert_message(&api.get(path), 404, "Not found");
        assert_message(&api.post(path, &json!({})), 404, "Not found");
    }
    for (method, path, allowed) in [
        ("PUT", "/api/auth/keys", "GET,HEAD,POST"),
        ("OPTIONS", "/api/auth/keys", "GET,HEAD,POST"),
        ("POST", "/api/auth/keys/1", "DELETE,GET,HEAD,PATCH"),
        ("GET", "/api/auth/keys/revoke", "POST"),
        ("GET", "/api/auth/keys/find", "POST"),
        ("GET", "/api/auth/keys/import", "POST"),
        ("POST", "/api/auth/keys/export", "GET,HEAD"),
        ("GET", "/api/auth/keys/1/revoke", "POST"),
        ("GET", "/api/auth/keys/1/rotate", "POST"),
        ("POST", "/api/auth/actor", "GET,HEAD"),
        ("PUT", "/login", "GET,HEAD,POST"),
        ("DELETE", "/logout", "GET,HEAD,POST"),
        ("POST", "/login/options", "GET,HEAD"),
        ("POST", "/login/x", "GET,HEAD"),
        ("POST", "/login/x/callback", "GET,HEAD"),
        ("POST", "/openapi.json", "GET,HEAD"),
        ("POST", "/", "GET,HEAD"),
        ("TRACE", "/", "GET,HEAD"),
        ("patch", "/", "GET,HEAD"),
    ] {
        let answer = api.request(method, path).basic("admin", "admin").send();
        assert_message(&answer, 405, "Method not allowed");
        let mut methods: Vec<_> = answer.all("allow")[0].split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods.join(","), allowed, "{method} {path}");
    }
    let head = api.request("HEAD", "/api/auth/keys").basic("admin", "admin").send();
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[test]
fn bodies_that_are_too_large_or_never_come() {
    let api = Api::on("sqlite:keys.db");
    let too_large = "Request body is too large";
    let padded = |bytes: usize| {
        let empty = json!({"name": format!("key {bytes}"), "role": "Viewer", "pad": ""}).to_string();
        let padding = "x".repeat(bytes - empty.len());
        json!({"name": format!("key {bytes}"), "role": "Viewer", "pad": padding})
    };
    assert_eq!(api.post("/api/auth/keys", &padded(64 * 1024)).status, 200);
    assert_message(&api.post("/api/auth/keys", &padded(64 * 1024 + 1)), 413, too_large);
    assert_message(&api.post("/api/auth/keys", &padded(10 * 1024 * 1024)), 413, too_large);
    assert_message(&post(api.request("POST", "/login"), &padded(10 * 1024 * 1024)), 413, too_large);
    assert_message(&api.post("/api/auth/keys/1/rotate", &padded(10 * 1024 * 1024)), 413, too_large);

    // Whoever asks before sending need not send.
    let announced = send_raw(
        &api,
        "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10485760\r\nexpect: 100-continue\r\n\r\n",
    );
    assert!(announced.starts_with("HTTP/1.1 413"), "{announced}");
    // In chunks, without saying how much it will be.
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(65536)).repeat(20);
    let head =
        "POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunked = send_raw(&api, &format!("{head}{chunks}0\r\n\r\n"));
    assert!(chunked.starts_with("HTTP/1.1 413"), "{}", &chunked[..100]);

    thread::scope(|scope| {
        for path in ["/login", "/api/auth/keys", "/api/auth/keys/1/rotate"] {
            let api = &api;
            scope.spawn(move || {
                let slow = send_raw(
                    api,
                    &format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{{"),
                );
                assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
                assert!(slow.contains("Request took too long"));
            });
        }
        // A head that never ends: the connection does.
        scope.spawn(|| {
            let answer = send_raw(&api, "GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ");
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
        });
    });
    assert_eq!(api.get("/api/auth/keys").status, 200);
}

/// What comes back for these bytes, until the server closes or has answered.
fn send_raw(api: &Api, bytes: &str) -> String {
    let mut stream = TcpStream::connect(api.address).unwrap();
    stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
    let _ = stream.write_all(bytes.as_bytes());
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..read]);
        if answer.ends_with(b"}") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for what time brings.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + MAX_WAIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: in vain");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_creations_of_one_name_and_a_hundred_at_once() {
    on_each_store(|store| {
        let api = Api::on(store);
        let statuses = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let body = json!({"name": "wanted", "role": "Viewer"});
                    let status = post(api.request("POST", "/api/auth/keys").bearer(ROOT), &body).status;
                    statuses.lock().unwrap().push(status);
                });
            }
        });
        let mut statuses = statuses.into_inner().unwrap();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);

        let tokens = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for part in 0..10 {
                let (api, tokens) = (&api, &tokens);
                scope.spawn(move || {
                    for number in 0..10 {
                        let body = json!({"name": format!("key {part} {number}"), "role": "Viewer"});
                        let answer = post(api.request("POST", "/api/auth/keys").bearer(ROOT), &body);
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        tokens.lock().unwrap().push(created(&answer));
                    }
                });
            }
        });
        let tokens = tokens.into_inner().unwrap();
        let ids: BTreeSet<_> = tokens.iter().map(|(id, _)| *id).collect();
        assert_eq!((ids.len(), api.names("/api/auth/keys").len()), (100, 101));
        for (_, token) in &tokens {
            assert_eq!(api.check(token), "");
        }
    });
}

#[test]
fn every_change_and_every_log_in_is_an_audit_line_without_secrets() {
    let api = Api::on("sqlite:keys.db");
    let (id, token) = api.create(&json!({"name": "<b>é", "role": "Editor", "secondsToLive": 3600}));
    let (_, rotated) = created(&api.post(&format!("/api/auth/keys/{id}/rotate"), &json!({})));
    api.post(&format!("/api/auth/keys/{id}/revoke"), &json!({}));
    api.request("DELETE", &format!("/api/auth/keys/{id}")).bearer(ROOT).send();
    let in_ = post(api.request("POST", "/login"), &json!({"user": "admin", "password": "admin"}));
    let cookie = in_.all("set-cookie")[0].split(';').next().unwrap().to_owned();
    post(api.request("POST", "/login"), &json!({"user": "admin", "password": "a-wrong-password"}));
    post(api.request("POST", "/login"), &json!({"user": "a-password-in-the-wrong-field", "password": "x"}));
    api.request("POST", "/logout").header("cookie", &cookie).send();
    api.request("POST", "/logout").header("cookie", &cookie).send();

    api.server.log().wait_for("the last line", |line| line.contains("logged out").then_some(()));
    let lines: Vec<_> = api
        .audit()
        .into_iter()
        .map(|line| {
            let text = |name: &str| {
                line.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
            };
            let known = [
                text("message"),
                text("by").or_else(|| text("user")),
                text("key.id"),
                text("key.name"),
                text("key.role"),
            ];
            known.into_iter().flatten().collect::<Vec<_>>().join(" | ")
        })
        .collect();
    assert_eq!(
        lines,
        [
            format!("API key created | the-admin | {id} | <b>é | Editor"),
            format!("API key rotated | the-admin | {id} | <b>é | Editor"),
            format!("API key revoked | the-admin | {id} | <b>é | Editor"),
            format!("API key deleted | root-actor | {id} | <b>é | Editor"),
            "logged in | admin".to_owned(),
            "log-in denied | admin".to_owned(),
            "log-in denied".to_owned(),
            "logged out | admin".to_owned(),
        ]
    );
    let log = api.server.log().text();
    let value = cookie.split('=').nth(1).unwrap();
    for secret in [&token, &rotated, value, ROOT, "a-wrong-password", "a-password-in-the-wrong-field"] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// Sends a whole request and hangs up a little later, each time at another moment, from at once to three times what a
/// request takes.
fn hang_up(api: &Api, turn: u32, whole: Duration, method: &str, path: &str, body: &str) {
    let mut stream = TcpStream::connect(api.address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {ROOT}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        api.address,
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    thread::sleep(whole * (turn % 60) / 20);
}

#[test]
fn a_client_that_hangs_up_leaves_no_change_without_its_audit_line() {
    const TURNS: u32 = 200;
    // How many arrive depends on the machine.
    const LEAST: usize = TURNS as usize / 4;
    on_each_store(|store| {
        let api = Api::on(store);
        let begun = Instant::now();
        api.create(&json!({"name": "first", "role": "Viewer"}));
        let whole = begun.elapsed();
        let audited = |message: &str, member: &str| -> BTreeSet<String> {
            let lines = api.audit().into_iter().filter(|line| line["message"] == message);
            lines.map(|line| line[member].to_string()).collect()
        };
        // While many changes wait for the store, a list may be told to come again.
        let keys = || {
            let mut list = api.get("/api/auth/keys?includeExpired=true");
            crate::harness::wait_until("a list", || {
                let is_there = list.status == 200;
                if !is_there {
                    assert_eq!(list.status, 503, "{}", list.text());
                    list = api.get("/api/auth/keys?includeExpired=true");
                }
                is_there
            });
            list.json().as_array().unwrap().clone()
        };
        let ids = |wanted: &dyn Fn(&Value) -> bool| -> BTreeSet<String> {
            keys().iter().filter(|key| wanted(key)).map(|key| key["id"].to_string()).collect()
        };
        let settle = |what: &str, least: usize, store: &dyn Fn() -> BTreeSet<String>, message: &str| {
            // Early on both are empty, and equal.
            crate::harness::wait_until(what, || {
                let changed = store();
                changed.len() > least && audited(message, "key.id") == changed
            });
        };

        for turn in 0..TURNS {
            let body = json!({"name": format!("key-{turn}"), "role": "Viewer"}).to_string();
            hang_up(&api, turn, whole, "POST", "/api/auth/keys", &body);
        }
        // One that is closed before the server has read it has not arrived: nothing is done, and nothing is told.
        settle("a line for each key, and a key for each line", LEAST, &|| ids(&|_| true), "API key created");
        assert!(keys().len() > LEAST, "{}", keys().len());

        let all: Vec<_> = ids(&|_| true).into_iter().collect();
        for (turn, id) in (0..).zip(&all) {
            hang_up(&api, turn, whole, "POST", &format!("/api/auth/keys/{id}/rotate"), "{}");
        }
        for (turn, id) in (0..).zip(&all) {
            hang_up(&api, turn, whole, "POST", &format!("/api/auth/keys/{id}/revoke"), "{}");
        }
        let revoked = || ids(&|key| key["isRevoked"] == true);
        settle("a line for each revocation", all.len() / 4, &revoked, "API key revoked");
        assert!(revoked().len() > all.len() / 4);
        for (turn, id) in (0..).zip(&all) {
            hang_up(&api, turn, whole, "DELETE", &format!("/api/auth/keys/{id}"), "");
        }
        let deleted = || {
            let left = ids(&|_| true);
            all.iter().filter(|id| !left.contains(*id)).cloned().collect()
        };
        settle("a line for each deletion", all.len() / 4, &deleted, "API key deleted");
        assert!(deleted().len() > all.len() / 4);
        let rotated = audited("API key rotated", "key.id");
        assert!(rotated.len() > all.len() / 4, "{}", rotated.len());
        let log_in = json!({"user": "vi", "password": "vi"}).to_string();
        for turn in 0..TURNS {
            hang_up(&api, turn, whole, "POST", "/login", &log_in);
        }
        let logged_in = || api.audit().iter().filter(|line| line["message"] == "logged in").count();
        crate::harness::wait_until("the log-ins", || logged_in() > LEAST);
    });
}

#[test]
fn every_refused_change_is_an_audit_line_without_secrets() {
    let admin = ", allow: {role: [Editor, Admin], team: ops}";
    let api = Api::start(&config("sqlite:keys.db", ", max: 2", admin, ""));
    let (id, token) = api.create(&json!({"name": "boss", "role": "Admin"}));
    let (dead, dead_token) = api.create(&json!({"name": "dead", "role": "Viewer"}));
    api.post(&format!("/api/auth/keys/{dead}/revoke"), &json!({}));

    let key = format!("/api/auth/keys/{id}");
    let new = |name: &str, role: &str| json!({"name": name, "role": role});
    let ask = |method: &str, path: &str| api.request(method, path);
    let create = || ask("POST", "/api/auth/keys");
    // By role, restriction, rule, site; and without a credential that counts.
    post(create().basic("ed", "ed"), &new("mine", "Admin"));
    post(ask("POST", &format!("{key}/rotate")).basic("ed", "ed"), &json!({}));
    ask("POST", &format!("{key}/revoke")).bearer(ROLELESS).send();
    ask("DELETE", &key).bearer(RESTRICTED).send();
    post(create().basic("vi", "vi"), &new("mine", "Viewer"));
    post(create().bearer(ROOT).header("sec-fetch-site", "cross-site"), &new("mine", "Viewer"));
    ask("DELETE", &key).send();
    ask("DELETE", &key).bearer(&dead_token).send();
    ask("DELETE", &key).bearer("a-secret-that-nobody-knows").send();
    // What is asked for cannot be.
    let root = || create().bearer(ROOT);
    post(root(), &new("boss", "Viewer"));
    post(root(), &new("third", "Viewer"));
    post(root(), &new("third", "Owner"));
    post(root(), &new("ad\u{200b}min", "Viewer"));
    post(root(), &json!({"name": "third", "role": "Viewer", "secondsToLive": -1}));
    root().header("content-type", "text/plain").body(b"{}".to_vec()).send();
    ask("DELETE", "/api/auth/keys/999").bearer(ROOT).send();
    ask("DELETE", "/api/auth/keys/abc").bearer(ROOT).send();
    ask("POST", &format!("/api/auth/keys/{dead}/rotate")).bearer(ROOT).send();
    post(ask("POST", "/login"), &json!({"user": "vi", "password": "a-wrong-password"}));
    post(ask("POST", "/login"), &json!({"user": "a-password-in-the-wrong-field", "password": "x"}));
    post(
        ask("POST", "/login").header("sec-fetch-site", "cross-site"),
        &json!({"user": "vi", "password": "vi"}),
    );
    ask("POST", "/logout").header("sec-fetch-site", "cross-site").send();
    // None of these would have changed anything.
    ask("GET", "/api/auth/keys").send();
    ask("POST", "/nothing").send();
    ask("PUT", "/api/auth/keys").send();
    ask("POST", &format!("{key}/nothing")).send();

    let refused = || api.audit().into_iter().filter(|line| line.get("reason").is_some());
    wait_until("the last line", || refused().count() >= 22);
    let summary = |line: &Value| {
        let members = [
            "message",
            "by",
            "credential.kind",
            "user",
            "key.id",
            "key.name",
            "key.role",
            "status",
            "reason",
        ];
        let text = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
        members.iter().filter_map(|name| line.get(name).map(text)).collect::<Vec<_>>().join(" | ")
    };
    let lines: Vec<_> = refused().map(|line| summary(&line)).collect();
    assert_eq!(
        lines,
        [
            "API key not created | ed | user | mine | Admin | 403 | not_admitted".to_owned(),
            format!("API key not rotated | ed | user | {id} | boss | Admin | 403 | not_admitted"),
            format!("API key not revoked | roleless | token | {id} | boss | Admin | 403 | not_admitted"),
            format!("API key not deleted | restricted | token | {id} | 403 | not_admitted"),
            "API key not created | vi | user | 403 | not_admitted".to_owned(),
            "API key not created | 403 | cross_site".to_owned(),
            "API key not deleted | 401 | no_credential".to_owned(),
            "API key not deleted | 401 | revoked_token".to_owned(),
            "API key not deleted | 401 | unknown_token".to_owned(),
            "API key not created | root-actor | token | boss | Viewer | 409 | name_taken".to_owned(),
            "API key not created | root-actor | token | third | Viewer | 403 | quota_reached".to_owned(),
            "API key not created | root-actor | token | 400 | invalid_role".to_owned(),
            "API key not created | root-actor | token | 400 | invalid_name".to_owned(),
            "API key not created | root-actor | token | third | Viewer | 400 | negative_life".to_owned(),
            "API key not created | root-actor | token | 415 | not_json".to_owned(),
            "API key not deleted | root-actor | token | 999 | 404 | key_not_found".to_owned(),
            "API key not deleted | root-actor | token | 400 | invalid_id".to_owned(),
            format!("API key not rotated | root-actor | token | {dead} | dead | Viewer | 409 | dead_key"),
            "log-in denied | vi | 401 | wrong_password".to_owned(),
            "log-in denied | 401 | wrong_password".to_owned(),
            "log-in denied | 403 | cross_site".to_owned(),
            "log-out denied | 403 | cross_site".to_owned(),
        ]
    );
    let log = api.server.log().text();
    for secret in [
        &token,
        &dead_token,
        ROOT,
        RESTRICTED,
        ROLELESS,
        "a-secret-that-nobody-knows",
        "a-wrong-password",
        "a-password-in-the-wrong-field",
    ] {
        assert!(!log.contains(secret), "{secret}");
    }
}

/// Takes the tables away, so that nothing can be read or written; and gives them back.
fn rename_tables(url: &str, from: &str, to: &str) {
    let tables = ["keys", "sessions", "revision", "changes", "accounts", "audit"];
    let statements = tables.map(|table| format!("ALTER TABLE {from}_{table} RENAME TO {to}_{table}"));
    grpc::block_on(async {
        for statement in statements {
            let statement = sqlx::AssertSqlSafe(statement);
            if url.starts_with("sqlite:") {
                sqlx::SqliteConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
            } else {
                sqlx::PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
            }
        }
    });
}

/// A line for an import with another name, and this member.
fn json_line(line: &Value, member: &str, value: &Value) -> String {
    let mut line = line.clone();
    line["name"] = json!("twin");
    line[member] = value.clone();
    line.to_string()
}

/// The document says which statuses there are; here each of them is met, on each store.
#[test]
fn every_documented_status_occurs_and_the_document_names_every_method() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keys.db").display());
    let postgres = Postgres::shared();
    for store in [sqlite, postgres.url(&postgres.database())] {
        let api = Api::start(&config(
            &store,
            ", max_staleness: 1s",
            ", allow: {role: [Editor, Admin]}, introspect: {id: root-actor}",
            "",
        ));
        let document = api.request("GET", "/openapi.json").send().json();
        let mut documented = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                let statuses = operation["responses"].as_object().unwrap().keys();
                documented
                    .extend(statuses.map(|status| format!("{} {path} {status}", method.to_uppercase())));
            }
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let path = path.replace("{id}", "1").replace("{tokenId}", "1");
                let is_served = api.request(method, &path).send().status != 405;
                assert_eq!(is_served, item.get(method.to_lowercase()).is_some(), "{method} {path}");
            }
        }

        let mut met = BTreeSet::new();
        let (live, token) = api.create(&json!({"name": "live", "role": "Admin"}));
        let (dead, _) = api.create(&json!({"name": "dead", "role": "Viewer"}));
        let (gone, deleted) = api.create(&json!({"name": "gone", "role": "Viewer"}));
        assert_eq!(api.delete(&format!("/api/auth/keys/{gone}")).status, 200);
        let mut meet = |method: &str,
                        path: &str,
                        id: &str,
                        request: &dyn Fn(Request) -> Request,
                        body: &str| {
            let (id, token) = id.split_once('/').unwrap_or((id, ""));
            let ask = request(api.request(method, &path.replace("{id}", id).replace("{tokenId}", token)));
            let answer = if body.is_empty() { ask.send() } else { ask.body(body.as_bytes().to_vec()).send() };
            let path = path.split('?').next().unwrap_or_default();
            let occurrence = format!("{method} {path} {}", answer.status);
            assert!(documented.contains(&occurrence), "{occurrence} is not documented: {}", answer.text());
            met.insert(occurrence);
        };
        let root = |request: Request| request.bearer(ROOT);
        let nobody = |request: Request| request;
        let twice = |request: Request| request.bearer(ROOT).bearer(ROOT);
        let restricted = |request: Request| request.bearer(RESTRICTED);
        let json = |request: Request| request.bearer(ROOT).header("content-type", "application/json");
        let text = |request: Request| request.bearer(ROOT).header("content-type", "text/plain");
        let strange = |request: Request| request.header("sec-fetch-site", "cross-site");
        let huge = "x".repeat(100_000);
        let (live, dead) = (live.to_string(), dead.to_string());

        let keys = "/api/auth/keys";
        meet("GET", keys, "", &root, "");
        meet("GET", keys, "", &twice, "");
        meet("GET", keys, "", &nobody, "");
        meet("GET", keys, "", &restricted, "");
        meet("POST", keys, "", &json, r#"{"name": "another", "role": "Viewer"}"#);
        meet("POST", keys, "", &json, r#"{"name": "live", "role": "Viewer"}"#);
        meet("POST", keys, "", &json, "{}");
        meet("POST", keys, "", &nobody, "{}");
        meet("POST", keys, "", &restricted, "{}");
        meet("POST", keys, "", &json, &huge);
        meet("POST", keys, "", &text, "{}");
        for (method, path) in [("GET", ""), ("POST", "/revoke"), ("POST", "/rotate"), ("DELETE", "")] {
            let path = &format!("/api/auth/keys/{{id}}{path}");
            meet(method, path, "abc", &root, "");
            meet(method, path, "999999", &root, "");
            meet(method, path, &live, &nobody, "");
            meet(method, path, &live, &restricted, "");
        }
        meet("GET", "/api/auth/keys/{id}", &live, &root, "");
        let rotate = "/api/auth/keys/{id}/rotate";
        meet("POST", rotate, &live, &json, "{}");
        meet("POST", rotate, &live, &text, "{}");
        meet("POST", rotate, &live, &json, &huge);
        meet("POST", "/api/auth/keys/{id}/revoke", &dead, &root, "");
        meet("POST", rotate, &dead, &root, "");
        meet("DELETE", "/api/auth/keys/{id}", &dead, &root, "");
        let (change, bulk, find) = ("/api/auth/keys/{id}", "/api/auth/keys/revoke", "/api/auth/keys/find");
        let sha256 = format!(r#"{{"sha256": "{}"}}"#, "0".repeat(64));
        for (path, body) in
            [(change, r#"{"description": "x"}"#), (bulk, r#"{"account": "none"}"#), (find, &sha256)]
        {
            let method = if path == change { "PATCH" } else { "POST" };
            meet(method, path, &live, &json, body);
            meet(method, path, &live, &json, "[]");
            meet(method, path, &live, &nobody, body);
            meet(method, path, &live, &restricted, body);
            meet(method, path, &live, &json, &huge);
            meet(method, path, &live, &text, body);
        }
        meet("POST", bulk, "", &json, r#"{"namePattern": "none"}"#);
        meet("PATCH", change, "999999", &json, "{}");
        meet("PATCH", change, &live, &json, r#"{"name": "another"}"#);
        let known = api.request("GET", "/api/auth/keys/export").bearer(ROOT).send().text();
        let known: Value = serde_json::from_str(known.lines().next().unwrap()).unwrap();
        let known = json_line(&known, "sha256", &known["sha256"]);
        let found = format!(r#"{{"sha256": {}}}"#, serde_json::from_str::<Value>(&known).unwrap()["sha256"]);
        meet("POST", find, "", &json, &found);
        let import = "/api/auth/keys/import";
        let lines = |request: Request| request.bearer(ROOT).header("content-type", "application/x-ndjson");
        let fresh = format!(r#"{{"name": "imported", "role": "Viewer", "sha256": "{}"}}"#, "1".repeat(64));
        meet("POST", import, "", &lines, &fresh);
        meet("POST", import, "", &lines, &known);
        meet("POST", import, "", &lines, "{}");
        meet("POST", import, "", &lines, &"x".repeat(1024 * 1024 + 1));
        meet("POST", import, "", &text, &fresh);
        meet("POST", import, "", &nobody, &fresh);
        meet("POST", import, "", &restricted, &fresh);
        let export = "/api/auth/keys/export";
        meet("GET", export, "", &root, "");
        meet("GET", export, "", &twice, "");
        meet("GET", export, "", &nobody, "");
        meet("GET", export, "", &restricted, "");
        let history = "/api/auth/keys/accept-history";
        meet("POST", history, "", &root, "");
        meet("POST", history, "", &twice, "");
        meet("POST", history, "", &nobody, "");
        meet("POST", history, "", &restricted, "");
        let made = api.request("POST", "/api/serviceaccounts").bearer(ROOT);
        let made =
            made.header("content-type", "application/json").body(br#"{"name": "deploy"}"#.to_vec()).send();
        let account = made.json()["id"].to_string();
        let (accounts, one) = ("/api/serviceaccounts", "/api/serviceaccounts/{id}");
        let (tokens, token_of) =
            ("/api/serviceaccounts/{id}/tokens", "/api/serviceaccounts/{id}/tokens/{tokenId}");
        let (search, audit) = ("/api/serviceaccounts/search", "/api/auth/audit");
        for path in [search, audit] {
            meet("GET", path, "", &root, "");
            meet("GET", path, "", &nobody, "");
            meet("GET", path, "", &restricted, "");
            meet("GET", &format!("{path}?perpage=1001"), "", &root, "");
        }
        let of_accounts = [
            ("POST", accounts, "", r#"{"name": "another"}"#),
            ("PATCH", one, &*account, r#"{"description": "x"}"#),
            ("POST", tokens, &account, r#"{"name": "one"}"#),
        ];
        for (method, path, id, body) in of_accounts {
            meet(method, path, id, &json, body);
            meet(method, path, id, &json, body);
            meet(method, path, id, &json, "[]");
            meet(method, path, id, &nobody, body);
            meet(method, path, id, &restricted, body);
            meet(method, path, id, &json, &huge);
            meet(method, path, id, &text, body);
        }
        for (method, path, body) in [
            ("GET", one, ""),
            ("PATCH", one, r#"{"description": "x"}"#),
            ("DELETE", one, ""),
            ("GET", tokens, ""),
            ("POST", tokens, r#"{"name": "two"}"#),
        ] {
            meet(method, path, "abc", &json, body);
            meet(method, path, "999999", &json, body);
            meet(method, path, &account, &nobody, body);
            meet(method, path, &account, &restricted, body);
        }
        meet("PATCH", one, &account, &json, r#"{"name": "another"}"#);
        meet("GET", one, &account, &root, "");
        meet("GET", tokens, &account, &root, "");
        let listed =
            api.request("GET", &format!("/api/serviceaccounts/{account}/tokens")).bearer(ROOT).send();
        let token_id = format!("{account}/{}", listed.json()[0]["id"]);
        meet("DELETE", token_of, &token_id, &nobody, "");
        meet("DELETE", token_of, &token_id, &restricted, "");
        meet("DELETE", token_of, "abc/1", &root, "");
        meet("DELETE", token_of, &format!("{account}/999999"), &root, "");
        meet("DELETE", token_of, &token_id, &root, "");
        let gone = api.request("GET", "/api/serviceaccounts/search?query=another").bearer(ROOT).send();
        meet("DELETE", one, &gone.json()["serviceAccounts"][0]["id"].to_string(), &root, "");
        let introspect = "/api/auth/introspect";
        let form = |request: Request| {
            request.bearer(ROOT).header("content-type", "application/x-www-form-urlencoded")
        };
        meet("POST", introspect, "", &form, "token=x");
        meet("POST", introspect, "", &form, "");
        meet("POST", introspect, "", &form, &huge);
        meet("POST", introspect, "", &text, "token=x");
        meet("POST", introspect, "", &nobody, "token=x");
        meet("POST", introspect, "", &restricted, "token=x");
        for number in 0..=20 {
            meet("POST", introspect, "", &form, &format!("token=unknown-{number}"));
        }
        let sessions = "/api/auth/sessions?user=vi&source=config";
        meet("DELETE", sessions, "", &root, "");
        meet("DELETE", "/api/auth/sessions?user=vi", "", &root, "");
        meet("DELETE", sessions, "", &nobody, "");
        meet("DELETE", sessions, "", &restricted, "");
        meet("GET", "/api/auth/actor", "", &root, "");
        meet("GET", "/api/auth/actor", "", &twice, "");
        meet("GET", "/api/auth/actor", "", &nobody, "");
        let for_grafana = ["/api/org", "/api/user", "/api/login/ping", "/api/frontend/settings"];
        for path in for_grafana {
            meet("GET", path, "", &root, "");
            meet("GET", path, "", &twice, "");
            meet("GET", path, "", &nobody, "");
            meet("GET", path, "", &restricted, "");
        }
        meet("GET", "/api/health", "", &nobody, "");
        meet("POST", "/login", "", &json, r#"{"user": "vi", "password": "vi"}"#);
        meet("POST", "/login", "", &json, r#"{"user": "vi", "password": "wrong"}"#);
        meet("POST", "/login", "", &json, "{}");
        meet("POST", "/login", "", &text, "{}");
        meet("POST", "/login", "", &strange, "{}");
        meet("POST", "/login", "", &json, &huge);
        meet("POST", "/logout", "", &nobody, "");
        meet("POST", "/logout", "", &strange, "");
        for path in ["/openapi.json", "/", "/login", "/login/options", "/logout"] {
            meet("GET", path, "", &nobody, "");
        }

        rename_tables(&store, "api", "lost");
        let session = |request: Request| {
            request.header("cookie", "eat_session=eat_0123456789ABCDEFGHIJKLMNOPQRSTUVbWNrGg")
        };
        let unknowable = |request: Request| request.bearer(&deleted);
        wait_until("the keys are too stale", || {
            unknowable(api.request("GET", "/api/auth/actor")).send().status == 503
        });
        meet("GET", "/api/auth/actor", "", &unknowable, "");
        for path in for_grafana {
            meet("GET", path, "", &unknowable, "");
        }
        wait_until("the store was not read for long", || {
            api.request("GET", "/api/health").send().status == 503
        });
        meet("GET", "/api/health", "", &nobody, "");
        meet("GET", keys, "", &root, "");
        meet("POST", keys, "", &json, r#"{"name": "never", "role": "Viewer"}"#);
        for (method, path) in [("GET", ""), ("POST", "/revoke"), ("POST", "/rotate"), ("DELETE", "")] {
            meet(method, &format!("/api/auth/keys/{{id}}{path}"), &live, &root, "");
        }
        meet("PATCH", change, &live, &json, r#"{"description": "y"}"#);
        meet("POST", bulk, "", &json, r#"{"namePattern": "none"}"#);
        meet("POST", find, "", &json, &found);
        meet("POST", import, "", &lines, &fresh);
        meet("GET", export, "", &root, "");
        for path in [search, audit] {
            meet("GET", path, "", &root, "");
        }
        for (method, path, id, body) in of_accounts {
            meet(method, path, id, &json, body);
        }
        for (method, path) in [("GET", one), ("DELETE", one), ("GET", tokens)] {
            meet(method, path, &account, &root, "");
        }
        meet("DELETE", token_of, &token_id, &root, "");
        meet("POST", introspect, "", &form, &format!("token={deleted}"));
        meet("POST", history, "", &root, "");
        meet("DELETE", sessions, "", &root, "");
        meet("POST", "/login", "", &json, r#"{"user": "vi", "password": "vi"}"#);
        meet("POST", "/logout", "", &session, "");
        let down = api.request("GET", keys).bearer(ROOT).send();
        assert_message(&down, 503, "Keys are unavailable");
        assert_eq!(down.all("retry-after"), ["1"]);
        // What the configuration and the memory know goes on.
        assert_eq!(api.check(ROOT), "");
        let _ = token;
        rename_tables(&store, "lost", "api");
        wait_until("the store is back", || api.get(keys).status == 200);

        let slow: Vec<_> = thread::scope(|scope| {
            let requests = [
                ("POST", "/api/auth/keys", ""),
                ("POST", rotate, live.as_str()),
                ("PATCH", change, live.as_str()),
                ("POST", bulk, ""),
                ("POST", find, ""),
                ("POST", import, ""),
                ("POST", accounts, ""),
                ("PATCH", one, account.as_str()),
                ("POST", tokens, account.as_str()),
                ("POST", introspect, ""),
                ("POST", "/login", ""),
            ];
            let requests = requests.map(|(method, path, id)| {
                let api = &api;
                scope.spawn(move || {
                    let target = path.replace("{id}", id);
                    let head =
                        format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n");
                    let answer = send_raw(api, &head);
                    format!("{method} {path} {}", answer.split(' ').nth(1).unwrap_or("nothing"))
                })
            });
            requests.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        met.extend(slow);
        // Log-in at a provider needs one: the tests in log_in.rs meet these.
        let missing: Vec<_> =
            documented.difference(&met).filter(|occurrence| !occurrence.contains("/login/{name}")).collect();
        assert!(missing.is_empty(), "documented, and never met: {missing:?}");
        assert_eq!(met.difference(&documented).next(), None);
    }
}

#[test]
fn a_dead_store_says_so_and_checks_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("keys.db").display());
    let postgres = Postgres::shared();
    for store in [sqlite, postgres.url(&postgres.database())] {
        let api = Api::on(&store);
        let (_, token) = api.create(&json!({"name": "a", "role": "Admin"}));
        rename_tables(&store, "api", "lost");
        assert_message(&api.get("/api/auth/keys"), 503, "Keys are unavailable");
        assert_message(
            &api.post("/api/auth/keys", &json!({"name": "b", "role": "Admin"})),
            503,
            "Keys are unavailable",
        );
        let metrics = api.server.metrics();
        assert!(metrics.contains("# TYPE envoy_auth_tokens_keys_store_errors_total counter"), "{metrics}");
        for operation in ["read", "write"] {
            let sample = format!("envoy_auth_tokens_keys_store_errors_total{{operation=\"{operation}\"}} ");
            let counted = metrics.lines().find_map(|line| line.strip_prefix(&sample));
            assert!(counted.unwrap().parse::<u64>().unwrap() > 0, "{operation} {metrics}");
        }
        assert_eq!(api.check(&token), "");
        // Nothing but memory is needed for these.
        assert_eq!(api.request("GET", "/api/auth/actor").bearer(&token).send().status, 200);
        assert_message(&api.request("GET", "/api/auth/keys").send(), 401, "Unauthorized");
        assert_message(&api.post("/api/auth/keys", &json!({})), 400, "bad request data");
        rename_tables(&store, "lost", "api");
        wait_until("the store is back", || api.get("/api/auth/keys").status == 200);
    }
}

#[test]
fn the_end_waits_for_requests_and_not_for_silent_connections() {
    let config = config("sqlite:keys.db", "", "", "");
    let mut server = Server::with(&config).arg("--drain").arg("0s").start();
    let mut silent = TcpStream::connect(server.admin()).unwrap();
    // This one has been used, and is kept open.
    let mut used = TcpStream::connect(server.admin()).unwrap();
    used.write_all(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert!(used.read(&mut [0; 64]).unwrap() > 0);
    // And this one's request is still coming.
    let mut late = TcpStream::connect(server.admin()).unwrap();
    let head = "POST /login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 33\r\nexpect: 100-continue\r\n\r\n";
    late.write_all(head.as_bytes()).unwrap();
    let mut buffer = [0; 1024];
    let read = late.read(&mut buffer).unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100"), "it is being read");
    server.terminate();
    assert_eq!(silent.read(&mut [0; 64]).unwrap(), 0, "the server closes");
    late.write_all(br#"{"user":"admin","password":"xyz"}"#).unwrap();
    let read = late.read(&mut buffer).unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&buffer[..read]));
    assert!(server.wait().success());
}

/// So many lists, each in the one before.
fn nested_lists(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}
