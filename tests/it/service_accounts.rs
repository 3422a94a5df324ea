//! Service accounts and their tokens by Grafana's HTTP API, and the audit, on each store.

use std::net::SocketAddr;

use envoy_auth_tokens::keys::audit::{Action, AuditFilter};
use envoy_auth_tokens::keys::store::{AccountFilter, ChangeError};
use envoy_auth_tokens::keys::{
    CreateAccount, CreateKey, EditAccount, ExceedsGrant, KeyOwner, Privileges, Role,
};
use serde_json::{Map, Value, json};

use crate::harness::grpc;
use crate::harness::http1::{Answer, Request};
use crate::harness::postgres::Postgres;
use crate::harness::server::Server;
use crate::keys_store::{Database, START, Time, anything, ask, author, becomes, on_both_stores, settings};

/// Users `admin`, `ed` and `vi` with their own name as password, and a token that is restricted to a policy.
fn config(store: &str, keys: &str) -> String {
    let user = |name: &str, role: &str| {
        let hash = bcrypt::hash(name, 4).expect("bcrypt");
        format!("- {{username: {name}, password_hash: '{hash}', actor: {{id: {name}, role: {role}}}}}\n")
    };
    let users = [user("admin", "Admin"), user("ed", "Editor"), user("vi", "Viewer")].concat();
    format!(
        "keys: {{store: \"{store}\", actor_members: [team]{keys}}}
admin: {{listen: \"127.0.0.1:0\", allow: {{role: [Viewer, Editor, Admin]}}}}
tokens:
- {{token: restricted-token-0123456789, name: restricted, actor: {{id: restricted, role: Admin}}, policies: [read]}}
- {{token: robot-token-0123456789, name: robot, actor: {{id: robot, name: Robby, role: Viewer}}}}
users:
{users}policies: {{read: {{}}, write: {{allow: {{role: Editor}}}}, secret: {{allow: {{id: \"sa:vault\"}}}}}}
default: {{allow: {{role: [Viewer, Editor, Admin]}}}}
"
    )
}

struct Api {
    server: Server,
    address: SocketAddr,
}

impl Api {
    fn on(store: &str) -> Self {
        Self::with(&config(store, ""))
    }

    fn with(config: &str) -> Self {
        let server = Server::with(config).start();
        let address = server.admin();
        Self { server, address }
    }

    fn call(&self, user: &str, method: &str, path: &str, body: &Value) -> Answer {
        let request = Request::new(self.address, method, path).basic(user, user);
        if body.is_null() {
            return request.send();
        }
        request.header("content-type", "application/json").body(body.to_string().into_bytes()).send()
    }

    /// As `admin`.
    fn get(&self, path: &str) -> Value {
        let answer = self.call("admin", "GET", path, &Value::Null);
        assert_eq!(answer.status, 200, "{path} {}", answer.text());
        answer.json()
    }

    /// Status and body.
    fn meet(&self, user: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        let answer = self.call(user, method, path, &body);
        (answer.status, answer.json())
    }

    /// Status and message, and the member at fault.
    fn denied(&self, user: &str, method: &str, path: &str, body: Value) -> (u16, String, String) {
        let (status, answer) = self.meet(user, method, path, body);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (status, text(&answer["message"]), text(&answer["details"][0]["field"]))
    }

    fn account(&self, body: Value) -> i64 {
        let (status, account) = self.meet("admin", "POST", "/api/serviceaccounts", body);
        assert_eq!(status, 201, "{account}");
        account["id"].as_i64().unwrap()
    }

    fn token(&self, account: i64, body: Value) -> (i64, String) {
        let path = format!("/api/serviceaccounts/{account}/tokens");
        let (status, token) = self.meet("admin", "POST", &path, body);
        assert_eq!(status, 200, "{token}");
        (token["id"].as_i64().unwrap(), token["key"].as_str().unwrap().to_owned())
    }

    /// The actor of a token, as it sees itself; `None` when it does not count.
    fn actor(&self, token: &str) -> Option<Value> {
        let answer = Request::new(self.address, "GET", "/api/auth/actor").bearer(token).send();
        let mut actor = answer.json();
        actor.as_object_mut().unwrap().remove("permissions");
        (answer.status == 200).then_some(actor)
    }

    fn passes(&self, token: &str) -> bool {
        let headers = [("authorization", &*format!("Bearer {token}"))];
        let answer = grpc::check(&self.server, grpc::request("GET", "app.example", "/", &headers));
        grpc::code(&answer) == 0
    }
}

fn on_postgres(test: fn(&str)) {
    let postgres = Postgres::shared();
    test(&postgres.url(&postgres.database()));
}

macro_rules! on_each_store {
    ($($scenario:ident)*) => {
        mod api_on_sqlite {
            $(#[test]
            fn $scenario() {
                super::$scenario("sqlite:keys.db");
            })*
        }
        mod api_on_postgres {
            $(#[test]
            fn $scenario() {
                super::on_postgres(super::$scenario);
            })*
        }
    };
}

on_each_store! {
    an_account_lives_as_in_grafana
    what_cannot_be_is_said_as_grafana_says_it
    nobody_gives_more_than_they_have
    who_changed_what_stands_in_the_audit
}

fn an_account_lives_as_in_grafana(store: &str) {
    let api = Api::on(store);
    let body = json!({
        "name": "CI runner", "role": "Editor", "isDisabled": false, "description": "builds", "actor": {"team": "ops"},
        "policies": ["read"],
    });
    let (status, mut made) = api.meet("admin", "POST", "/api/serviceaccounts/", body);
    let id = made["id"].as_i64().unwrap();
    let created = made.as_object_mut().unwrap().remove("createdAt");
    assert!(created.is_some_and(|at| at.as_str().unwrap().ends_with('Z')));
    let expected = json!({
        "id": id, "name": "CI runner", "login": "sa-1-ci-runner", "orgId": 1, "isDisabled": false, "role": "Editor",
        "tokens": 0, "avatarUrl": "", "teams": [], "createdBy": "admin", "description": "builds",
        "actor": {"team": "ops"}, "policies": ["read"],
    });
    assert_eq!((status, made), (201, expected));
    let viewer = api.account(json!({"name": "by default"}));
    assert_eq!(api.get(&format!("/api/serviceaccounts/{viewer}"))["role"], "Viewer");

    let (token, secret) = api.token(id, json!({"name": "one", "role": "Admin", "secondsToLive": 600}));
    let (other, forever) = api.token(id, json!({"name": "two", "description": "for ever"}));
    let expected = |name: &str, key: i64| {
        json!({
            "id": "sa:CI runner", "name": "CI runner", "role": "Editor", "key": name, "key_id": key, "team": "ops",
        })
    };
    assert_eq!(api.actor(&secret), Some(expected("one", token)));
    assert_eq!(api.actor(&forever), Some(expected("two", other)));
    let listed = api.get(&format!("/api/serviceaccounts/{id}/tokens?accesscontrol=true"));
    let [first, second] = &listed.as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!(
        (&first["id"], &first["name"], &first["hasExpired"]),
        (&json!(token), &json!("one"), &json!(false))
    );
    let left = first["secondsUntilExpiration"].as_u64().unwrap();
    assert!((1..=600).contains(&left) && first["expiration"].is_string(), "{first}");
    assert_eq!((&second["expiration"], &second["secondsUntilExpiration"]), (&Value::Null, &json!(0)));
    assert_eq!((&second["description"], &second["isRevoked"]), (&json!("for ever"), &json!(false)));
    assert_eq!(api.get(&format!("/api/serviceaccounts/{id}?accesscontrol=true"))["tokens"], 2);

    // A change of the account is one of each of its tokens, at once.
    let path = format!("/api/serviceaccounts/{id}");
    let edit =
        json!({"name": "builder", "role": "Viewer", "policies": null, "actor": null, "serviceAccountId": id});
    let (status, changed) = api.meet("admin", "PATCH", &path, edit);
    assert_eq!((status, &changed["message"]), (200, &json!("Service account updated")));
    assert_eq!((&changed["id"], &changed["name"]), (&json!(id), &json!("builder")));
    let account = &changed["serviceaccount"];
    assert_eq!((&account["role"], &account["tokens"]), (&json!("Viewer"), &json!(2)));
    assert!(account.get("policies").is_none() && account.get("actor").is_none(), "{account}");
    assert_eq!(account["description"], "builds", "what is left out stays");
    assert_eq!(api.actor(&secret).unwrap()["id"], "sa:builder");
    assert!(api.passes(&secret));
    let (status, _) = api.meet("admin", "PATCH", &path, json!({"isDisabled": true}));
    assert!(status == 200 && !api.passes(&secret) && !api.passes(&forever));
    // What is shown of its tokens is what a Check does.
    let denied = || {
        let listed = api.get(&format!("{path}/tokens"));
        let all = api.get("/api/auth/keys?account=builder");
        let page = api.get("/api/auth/keys?account=builder&perpage=10");
        let lists = [&listed, &all, &page].map(|list| list.as_array().unwrap().clone()).concat();
        assert_eq!(lists.len(), 6);
        let mut words: Vec<Value> = lists.iter().map(|key| key["denied"].clone()).collect();
        words.push(api.get(&format!("/api/auth/keys/{token}"))["denied"].clone());
        words
    };
    assert_eq!(denied(), vec![json!("account_disabled"); 7]);
    api.meet("admin", "PATCH", &path, json!({"isDisabled": false}));
    assert!(api.passes(&secret));
    assert_eq!(denied(), vec![Value::Null; 7]);

    // The search: by name, in pages, and what is disabled or has dead tokens.
    let search = |query: &str| {
        let found = api.get(&format!("/api/serviceaccounts/search?{query}"));
        let names: Vec<String> = found["serviceAccounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|account| account["name"].as_str().unwrap().to_owned())
            .collect();
        (found["totalCount"].as_u64().unwrap(), names, found["page"].clone(), found["perPage"].clone())
    };
    let page = |total, names: &[&str], page: u64, per_page: u64| {
        (total, names.iter().map(|name| (*name).to_owned()).collect(), json!(page), json!(per_page))
    };
    assert_eq!(search(""), page(2, &["builder", "by default"], 1, 1000));
    assert_eq!(search("query=DEF&perpage=10"), page(1, &["by default"], 1, 10));
    assert_eq!(search("query=y+d"), page(1, &["by default"], 1, 1000));
    assert_eq!(search("perpage=1&page=2"), page(2, &["by default"], 2, 1));
    assert_eq!(search("perpage=1&page=3"), page(2, &[], 3, 1));
    assert_eq!(search("disabled=true&expiredTokens=true"), page(0, &[], 1, 1000));

    // A token of an account is a key like others.
    let key = api.get(&format!("/api/auth/keys/{token}"));
    assert_eq!((&key["account"], &key["accountId"]), (&json!("builder"), &json!(id)), "{key}");
    assert!(key.get("role").is_none());
    let deleted = json!({"message": "Service account token deleted"});
    assert_eq!(api.meet("admin", "DELETE", &format!("{path}/tokens/{other}"), Value::Null), (200, deleted));
    assert!(api.actor(&forever).is_none() && api.actor(&secret).is_some());
    let deleted = json!({"message": "Service account deleted"});
    assert_eq!(api.meet("admin", "DELETE", &path, Value::Null), (200, deleted));
    assert!(!api.passes(&secret));
    assert_eq!(api.meet("admin", "GET", &path, Value::Null).0, 404);
    assert_eq!(api.get("/api/auth/keys?includeExpired=true"), json!([]), "its keys are gone with it");
}

fn what_cannot_be_is_said_as_grafana_says_it(store: &str) {
    let api = Api::with(&config(store, ", max_seconds_to_live: 3600"));
    let id = api.account(json!({"name": "ci"}));
    let other = api.account(json!({"name": "other"}));
    let (token, _) = api.token(other, json!({"name": "t", "secondsToLive": 60}));
    let gone = api.account(json!({"name": "gone"}));
    api.meet("admin", "DELETE", &format!("/api/serviceaccounts/{gone}"), Value::Null);
    let all = "/api/serviceaccounts".to_owned();
    let one = format!("{all}/{id}");
    let tokens = format!("{one}/tokens");
    let bad = "bad request data";
    for (method, path, body, status, message, field) in [
        ("POST", &all, json!({}), 400, bad, "name"),
        ("POST", &all, json!({"name": ""}), 400, bad, "name"),
        ("POST", &all, json!({"name": "x", "role": "None"}), 400, "Invalid role specified", "role"),
        ("POST", &all, json!({"name": "x", "isDisabled": "no"}), 400, bad, "isDisabled"),
        ("POST", &all, json!({"name": "x", "actor": {"boss": 1}}), 400, bad, "actor"),
        ("POST", &all, json!({"name": "x", "policies": ["unknown"]}), 400, bad, "policies"),
        ("POST", &all, json!({"name": "ci"}), 400, "service account already exists", "name"),
        ("POST", &all, json!({"name": "CI"}), 400, "service account already exists", "name"),
        ("POST", &all, json!({"name": "gone"}), 400, bad, "name"),
        (
            "POST",
            &all,
            json!({"name": "robby"}),
            409,
            "service account name belongs to a configured user or token",
            "name",
        ),
        ("PATCH", &one, json!({"name": "other"}), 400, "service account already exists", "name"),
        ("PATCH", &one, json!({"name": "gone"}), 400, bad, "name"),
        ("PATCH", &one, json!({"role": "King"}), 400, "Invalid role specified", "role"),
        ("PATCH", &format!("{all}/x"), json!({}), 400, "Service Account ID is invalid", ""),
        ("PATCH", &format!("{all}/{gone}"), json!({}), 404, "service account not found", ""),
        ("GET", &format!("{all}/x"), Value::Null, 400, "Service Account ID is invalid", ""),
        ("GET", &format!("{all}/{gone}"), Value::Null, 404, "service account not found", ""),
        ("DELETE", &format!("{all}/{gone}"), Value::Null, 404, "service account not found", ""),
        ("GET", &format!("{all}/{gone}/tokens"), Value::Null, 404, "service account not found", ""),
        ("GET", &format!("{all}/search?perpage=1001"), Value::Null, 400, bad, "perpage"),
        (
            "POST",
            &tokens,
            json!({"name": "t"}),
            400,
            "Number of seconds before expiration should be set",
            "secondsToLive",
        ),
        (
            "POST",
            &tokens,
            json!({"name": "t", "secondsToLive": 3601}),
            400,
            "Number of seconds before expiration is greater than the global limit",
            "secondsToLive",
        ),
        (
            "POST",
            &tokens,
            json!({"name": "t", "secondsToLive": -1}),
            400,
            "Negative value for secondsToLive",
            "secondsToLive",
        ),
        (
            "POST",
            &format!("{all}/{other}/tokens"),
            json!({"name": "T", "secondsToLive": 60}),
            400,
            "service account token with given name already exists in the organization",
            "name",
        ),
        (
            "POST",
            &format!("{all}/{gone}/tokens"),
            json!({"name": "t", "secondsToLive": 60}),
            404,
            "service account not found",
            "",
        ),
        ("DELETE", &format!("{tokens}/x"), Value::Null, 400, "Token ID is invalid", ""),
        ("DELETE", &format!("{tokens}/{token}"), Value::Null, 404, "service account token not found", ""),
        (
            "DELETE",
            &format!("{all}/{gone}/tokens/{token}"),
            Value::Null,
            404,
            "service account not found",
            "",
        ),
    ] {
        let expected = (status, message.to_owned(), field.to_owned());
        assert_eq!(api.denied("admin", method, path, body.clone()), expected, "{method} {path} {body}");
    }
    assert_eq!(api.get(&format!("{all}/{other}"))["tokens"], 1, "nothing was deleted");
    // The same name under another account is another name.
    api.token(id, json!({"name": "t", "secondsToLive": 3600}));
    // Without a credential, and with one that is restricted to policies.
    for (method, path) in [("GET", format!("{all}/search")), ("POST", all), ("DELETE", one), ("POST", tokens)]
    {
        let request = || Request::new(api.address, method, &path);
        assert_eq!(request().send().status, 401, "{method} {path}");
        assert_eq!(request().bearer("restricted-token-0123456789").send().status, 403, "{method} {path}");
    }
}

fn nobody_gives_more_than_they_have(store: &str) {
    let api = Api::on(store);
    let admins = api.account(json!({"name": "admins", "role": "Admin"}));
    let editors = api.account(json!({"name": "editors", "role": "Editor"}));
    let team = api.account(json!({"name": "team", "role": "Viewer", "actor": {"team": "ops"}}));
    let vault = api.account(json!({"name": "vault", "role": "Viewer"}));
    let (admins_token, _) = api.token(admins, json!({"name": "t"}));
    let (team_token, _) = api.token(team, json!({"name": "t"}));
    let all = "/api/serviceaccounts".to_owned();
    let at = |account: i64| format!("{all}/{account}");
    let tokens = |account: i64| format!("{all}/{account}/tokens");
    for (user, method, path, body, expected) in [
        ("vi", "POST", all.clone(), json!({"name": "a", "role": "Viewer"}), 201),
        ("vi", "POST", all.clone(), json!({"name": "b", "role": "Editor"}), 403),
        ("ed", "POST", all.clone(), json!({"name": "c", "role": "Editor"}), 201),
        ("ed", "POST", all.clone(), json!({"name": "d", "role": "Admin"}), 403),
        ("ed", "POST", all.clone(), json!({"name": "e", "actor": {"team": "ops"}}), 403),
        ("ed", "POST", tokens(editors), json!({"name": "ed's"}), 200),
        ("vi", "POST", tokens(editors), json!({"name": "vi's"}), 403),
        ("ed", "POST", tokens(admins), json!({"name": "ed's"}), 403),
        // The account's whole power, not its role alone.
        ("ed", "POST", tokens(team), json!({"name": "ed's"}), 403),
        ("ed", "POST", tokens(vault), json!({"name": "ed's"}), 403),
        ("ed", "PATCH", at(team), json!({"description": "x"}), 403),
        ("ed", "PATCH", at(vault), json!({"role": "Viewer"}), 403),
        ("ed", "PATCH", at(editors), json!({"role": "Admin"}), 403),
        ("ed", "PATCH", at(editors), json!({"name": "vault"}), 403),
        ("ed", "PATCH", at(editors), json!({"actor": {"team": "ops"}}), 403),
        ("ed", "PATCH", at(admins), json!({"role": "Viewer"}), 403),
        ("ed", "PATCH", at(admins), json!({"isDisabled": true}), 403),
        ("ed", "DELETE", at(admins), Value::Null, 403),
        ("ed", "DELETE", format!("{}/{admins_token}", tokens(admins)), Value::Null, 403),
        // To end is not to give.
        ("ed", "PATCH", at(team), json!({"isDisabled": true}), 200),
        ("ed", "PATCH", at(team), json!({"isDisabled": false}), 403),
        ("ed", "DELETE", format!("{}/{team_token}", tokens(team)), Value::Null, 200),
        ("vi", "DELETE", at(editors), Value::Null, 403),
        ("ed", "DELETE", at(team), Value::Null, 200),
        ("admin", "POST", tokens(vault), json!({"name": "admin's"}), 200),
    ] {
        let (status, answer) = api.meet(user, method, &path, body.clone());
        assert_eq!(status, expected, "{user} {method} {path} {body}: {answer}");
    }
    // A key makes no token that lives longer than itself.
    let (_, hour) = api.token(admins, json!({"name": "an hour", "secondsToLive": 3600}));
    let make = |name: &str, life: i64| {
        let body = json!({"name": name, "secondsToLive": life}).to_string().into_bytes();
        let request = Request::new(api.address, "POST", &tokens(editors)).bearer(&hour);
        request.header("content-type", "application/json").body(body).send().status
    };
    assert_eq!((make("longer", 7200), make("for ever", 0), make("shorter", 1800)), (403, 403, 200));
}

fn who_changed_what_stands_in_the_audit(store: &str) {
    let api = Api::on(store);
    let id = api.account(json!({"name": "ci", "role": "Editor"}));
    let path = format!("/api/serviceaccounts/{id}");
    let (token, _) = api.token(id, json!({"name": "one"}));
    api.meet("admin", "PATCH", &path, json!({"role": "Viewer"}));
    assert_eq!(api.meet("vi", "POST", "/api/serviceaccounts", json!({"name": "x", "role": "Admin"})).0, 403);
    api.meet("admin", "DELETE", &format!("{path}/tokens/{token}"), Value::Null);
    api.meet("ed", "DELETE", &path, Value::Null);
    let audit = |query: &str| {
        let answer = api.call("admin", "GET", &format!("/api/auth/audit?{query}"), &Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let total: usize = answer.all("x-total-count")[0].parse().unwrap();
        let rows = answer.json().as_array().unwrap().clone();
        (total, rows)
    };
    let actions = |query: &str| {
        let (total, rows) = audit(query);
        assert_eq!(total, rows.len());
        let actions = rows.iter().map(|row| row["action"].as_str().unwrap().to_owned());
        // Denials are written by a task of their own.
        actions.filter(|action| !action.contains(" not ")).collect::<Vec<_>>()
    };
    let all = [
        "service account deleted",
        "API key deleted",
        "service account changed",
        "API key created",
        "service account created",
    ];
    assert_eq!(actions(""), all);
    assert_eq!(actions(&format!("account={id}")), all);
    assert_eq!(actions("account=ci"), all);
    assert_eq!(actions("key=one"), ["API key deleted", "API key created"]);
    assert_eq!(actions(&format!("key={token}&actor=admin")), ["API key deleted", "API key created"]);
    assert_eq!(actions("actor=ed"), ["service account deleted"]);
    assert_eq!(actions("action=service+account+changed"), ["service account changed"]);
    assert_eq!(actions("action=service%20account%20changed&actor=ed"), [""; 0]);
    assert_eq!(actions("from=2126-01-01T00:00:00Z"), [""; 0]);
    assert_eq!(
        (actions("from=2026-01-01&to=2126-01-01"), actions("to=2026-01-01")),
        (all.map(str::to_owned).to_vec(), vec![])
    );
    for (query, field, part) in [
        (
            "acount=ci",
            "unknown parameter",
            "is none of from, to, actor, key, account, action, perpage, page: did you mean `account`?",
        ),
        ("x=1", "unknown parameter", "`x` is none of from, to, actor, key, account, action, perpage, page"),
        ("action=created", "action", "did you mean `API key created`, `service account created`"),
        ("action=nothing", "action", "the actions are `API key created`, "),
        ("from=2026-13-01", "from", "or a day such as 2026-11-30"),
        ("account=ci&account=cd", "parameter", "`account` appears twice"),
        ("page=x", "page", "1 or more"),
    ] {
        let (status, answer) = api.meet("admin", "GET", &format!("/api/auth/audit?{query}"), Value::Null);
        assert_eq!((status, &answer["details"][0]["field"]), (400, &json!(field)), "{query}: {answer}");
        assert!(answer["details"][0]["problem"].as_str().unwrap().contains(part), "{query}: {answer}");
    }
    // Lists that Grafana has: its clients send more parameters than are known here.
    for path in ["/api/auth/keys?", "/api/serviceaccounts/search?"] {
        for (query, status) in
            [("accesscontrol=true", 200), ("x=1&_=2", 200), ("perPage=5", 400), ("pagee=2", 400)]
        {
            let (found, answer) = api.meet("admin", "GET", &format!("{path}{query}"), Value::Null);
            assert_eq!(found, status, "{path}{query}: {answer}");
        }
    }
    assert_eq!(api.meet("admin", "GET", "/api/auth/keys/export?x=1", Value::Null).0, 400);
    let (status, answer) =
        api.meet("admin", "DELETE", "/api/auth/sessions?user=a&source=config&sourc=x", Value::Null);
    assert_eq!((status, &answer["details"][0]["field"]), (400, &json!("unknown parameter")), "{answer}");
    assert_eq!(actions("from=2026-01-01T00:00:00Z&to=2126-01-01T00:00:00Z"), all);
    let (total, page) = audit("perpage=2&page=2&to=2126-01-01T00:00:00Z&account=ci");
    assert_eq!((total, page.len(), &page[0]["action"]), (5, 2, &json!("service account changed")));
    let changed = &page[0];
    assert_eq!((&changed["by"], &changed["credentialKind"]), (&json!("admin"), &json!("user")), "{changed}");
    assert_eq!((&changed["accountId"], &changed["accountName"]), (&json!(id), &json!("ci")));
    assert_eq!(changed["before"], json!({"name": "ci", "role": "Editor"}));
    assert_eq!(changed["after"], json!({"name": "ci", "role": "Viewer"}));
    assert_eq!(changed["address"], "127.0.0.1");
    assert!(changed.get("status").is_none() && changed.get("keyId").is_none());

    // The denial arrives soon, and says why.
    let denied = || audit("action=service+account+not+created").1.first().cloned();
    crate::harness::wait_until("the denial is stored", || denied().is_some());
    let denied = denied().unwrap();
    assert_eq!((&denied["by"], &denied["status"]), (&json!("vi"), &json!(403)), "{denied}");
    assert_eq!((&denied["reason"], &denied["accountName"]), (&json!("not_admitted"), &json!("x")));

    for (user, query, expected) in
        [("ed", "", 403), ("vi", "", 403), ("admin", "from=yesterday", 400), ("admin", "perpage=1001", 400)]
    {
        let status = api.call(user, "GET", &format!("/api/auth/audit?{query}"), &Value::Null).status;
        assert_eq!(status, expected, "{user} {query}");
    }
    let lines = api.server.log().lines();
    let is_line = |line: &&String| line.contains("\"audit\"") && line.contains("service account changed");
    let line: Value = serde_json::from_str(lines.iter().find(is_line).expect("a line")).unwrap();
    let fields = line.get("fields").unwrap_or(&line);
    assert_eq!((&fields["account.name"], &fields["account.id"]), (&json!("ci"), &json!(id)), "{line}");
}

on_both_stores! {
    a_token_that_is_made_while_its_account_gets_stronger_was_made_before
    of_a_deletion_and_a_new_token_nothing_stays
    a_thousand_accounts_with_a_hundred_thousand_keys_are_listed
}

fn editors(name: &str) -> CreateAccount {
    CreateAccount {
        name: name.to_owned(),
        description: None,
        role: Role::Editor,
        actor: Map::new(),
        policies: None,
        is_disabled: false,
    }
}

fn of_account(name: &str, account: i64) -> CreateKey {
    CreateKey { owner: KeyOwner::Account(account), role: None, ..ask(name) }
}

/// What an Editor may give.
fn up_to_editor(privileges: &Privileges<'_>) -> Result<(), ExceedsGrant> {
    if privileges.role > Some(Role::Editor) { Err(ExceedsGrant::Role) } else { Ok(()) }
}

/// How often two at once are tried.
const RACES: usize = 200;

async fn a_token_that_is_made_while_its_account_gets_stronger_was_made_before(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (mut made, mut denied) = (0, 0);
    for round in 0..RACES {
        let name = format!("account {round}");
        let account = here.keys.create_account(&editors(&name), &author("admin"), &anything).await.unwrap();
        let stronger = EditAccount { role: Some(Role::Admin), ..EditAccount::default() };
        let (settings, ed, admin) = (settings(), author("ed"), author("admin"));
        let create = here.keys.create(&settings, of_account("t", account.id), &ed, &up_to_editor);
        let edit = there.keys.edit_account(account.id, &stronger, &admin, &anything);
        // Each begins first in half of the rounds.
        let (created, edited) = if round % 2 == 0 {
            tokio::join!(create, edit)
        } else {
            let (edited, created) = tokio::join!(edit, create);
            (created, edited)
        };
        edited.unwrap();
        let filter = AuditFilter { account_id: Some(account.id), ..AuditFilter::default() };
        let rows = here.keys.audit_rows(&filter, 0, 10).await.unwrap().rows;
        let position = |action: Action| rows.iter().position(|row| row.row.action == action.0);
        let (key, change) = (position(Action::KEY_CREATED), position(Action::ACCOUNT_CHANGED).unwrap());
        match created {
            // The newest row stands first.
            Ok(_) => {
                made += 1;
                assert!(key.unwrap() > change, "an Editor made a token of an Admin's account: {rows:?}");
            }
            Err(ChangeError::ExceedsGrant(ExceedsGrant::Role)) => {
                denied += 1;
                assert_eq!(key, None, "{rows:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made + denied, RACES);
    println!("made before: {made}, denied after: {denied}");
}

async fn of_a_deletion_and_a_new_token_nothing_stays(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let mut made = Vec::new();
    for round in 0..RACES {
        let name = format!("account {round}");
        let account = here.keys.create_account(&editors(&name), &author("admin"), &anything).await.unwrap();
        let (settings, ed, admin) = (settings(), author("ed"), author("admin"));
        let create = here.keys.create(&settings, of_account("t", account.id), &ed, &up_to_editor);
        let delete = there.keys.delete_account(account.id, &admin, &anything);
        // Each begins first in half of the rounds.
        let (created, deleted) = if round % 2 == 0 {
            tokio::join!(create, delete)
        } else {
            let (deleted, created) = tokio::join!(delete, create);
            (created, deleted)
        };
        let (_, keys) = deleted.unwrap();
        match created {
            Ok((key, secret)) => {
                assert_eq!(keys, 1, "the deletion came after it");
                assert!(here.keys.get(key.id).await.unwrap().is_none());
                made.push(secret);
            }
            Err(ChangeError::AccountNotFound) => assert_eq!(keys, 0),
            Err(error) => panic!("{error}"),
        }
    }
    println!("made before: {}", made.len());
    for secret in &made {
        becomes(&here, secret, "unknown").await;
    }
    assert_eq!(db.number("SELECT count(*) FROM api_keys").await, 0);
    assert_eq!(db.number("SELECT count(*) FROM api_accounts").await, 0);
    // None of their names is given again.
    let again = here.keys.create_account(&editors("ACCOUNT 7"), &author("admin"), &anything).await;
    assert!(matches!(again, Err(ChangeError::AccountNameWasUsed)), "{again:?}");
}

async fn a_thousand_accounts_with_a_hundred_thousand_keys_are_listed(db: Database) {
    const ACCOUNTS: i64 = 1_000;
    const KEYS: i64 = 100_000;
    let time = Time::new();
    let replica = db.open(&time).await;
    let (digest, to_time, accounts, keys) = match &db {
        Database::Sqlite(_) => {
            let numbers = |count| {
                format!("RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
            };
            ("randomblob(32)", "", numbers(ACCOUNTS), numbers(KEYS))
        }
        Database::Postgres { .. } => {
            let numbers = |count| format!("n (i) AS (SELECT generate_series(1, {count}))");
            ("sha256(gen_random_uuid()::text::bytea)", "to_timestamp", numbers(ACCOUNTS), numbers(KEYS))
        }
    };
    db.sql(&format!(
        "WITH {accounts} INSERT INTO api_accounts (name, folded_name, role, created_at, created_by) \
         SELECT 'team ' || i, 'team ' || i, 'Viewer', {to_time}({START}), 'somebody' FROM n"
    ))
    .await;
    // Each tenth key is dead: half of these revoked, half expired.
    db.sql(&format!(
        "WITH {keys} INSERT INTO api_keys \
         (name, digest, role, created_at, created_by, account_id, revoked_at, expires_at) \
         SELECT 'key ' || i, {digest}, 'Viewer', {to_time}({START} - 10), 'somebody', (i - 1) % {ACCOUNTS} + 1, \
         CASE WHEN i > {KEYS} - 5 * {ACCOUNTS} THEN {to_time}({START}) END, \
         CASE WHEN i <= 5 * {ACCOUNTS} THEN {to_time}({START}) END FROM n"
    ))
    .await;
    let list = async |filter: AccountFilter, offset, limit| {
        replica.keys.list_accounts(&filter, offset, limit).await.unwrap()
    };
    let all = list(AccountFilter::default(), 0, 1000).await;
    assert_eq!((all.total, all.accounts.len()), (1000, 1000));
    assert!(all.accounts.iter().all(|listed| listed.live_keys == 90), "{:?}", all.accounts[0]);
    let by_bytes = all.accounts.windows(2).all(|two| two[0].account.name < two[1].account.name);
    assert!(by_bytes);
    let page = list(AccountFilter::default(), 990, 20).await;
    assert_eq!((page.total, page.accounts.len()), (1000, 10));
    assert_eq!(page.accounts[..], all.accounts[990..]);
    let found = list(AccountFilter { query: Some("TEAM 99".into()), ..AccountFilter::default() }, 0, 5).await;
    assert_eq!((found.total, found.accounts.len()), (11, 5));
    let dead = list(AccountFilter { has_expired_keys: true, ..AccountFilter::default() }, 0, 1).await;
    assert_eq!((dead.total, dead.accounts.len()), (1000, 1));
    let disabled = list(AccountFilter { is_disabled: true, ..AccountFilter::default() }, 0, 1).await;
    assert_eq!((disabled.total, disabled.accounts.len()), (0, 0));
}
