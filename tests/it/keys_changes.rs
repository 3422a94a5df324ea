//! What there is of a key, seen and changed; lists of some keys; many at once; from and to elsewhere; keys of one's own.

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::harness::grpc;
use crate::harness::http1::{Answer, Request};
use crate::harness::postgres::Postgres;
use crate::keys_api::{Api, ROOT, assert_message, config, created, post};

/// Runs the test with the URL of a store of each of the two databases, which another server may open, too.
pub(crate) fn on_each_database(test: impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    test(&format!("sqlite:{}", folder.path().join("keys.db").display()));
    let postgres = Postgres::shared();
    test(&postgres.url(&postgres.database()));
}

/// Runs a statement past the server.
pub(crate) fn sql(store: &str, statement: &str) {
    // The two have the present moment by other names.
    let now = if store.starts_with("sqlite:") { "unixepoch()" } else { "date_trunc('second', now())" };
    let statement = sqlx::AssertSqlSafe(statement.replace("NOW", now));
    grpc::block_on(async {
        if store.starts_with("sqlite:") {
            sqlx::SqliteConnection::connect(store).await.unwrap().execute(statement).await.unwrap();
        } else {
            sqlx::PgConnection::connect(store).await.unwrap().execute(statement).await.unwrap();
        }
    });
}

/// A service account that is simply there.
pub(crate) fn insert_account(store: &str, name: &str, role: &str) {
    sql(
        store,
        &format!(
            "INSERT INTO api_accounts (name, folded_name, role, created_at, created_by) \
             VALUES ('{name}', '{name}', '{role}', NOW, 'test')"
        ),
    );
}

fn patch(api: &Api, id: i64, body: Value) -> Answer {
    post(api.request("PATCH", &format!("/api/auth/keys/{id}")).basic("admin", "admin"), &body)
}

fn show(api: &Api, id: i64) -> Value {
    api.get(&format!("/api/auth/keys/{id}")).json()
}

#[track_caller]
fn assert_field(answer: &Answer, status: u16, field: &str) {
    assert_eq!(
        (answer.status, &answer.json()["details"][0]["field"]),
        (status, &json!(field)),
        "{}",
        answer.text()
    );
}

#[test]
fn every_member_of_a_key_is_seen_and_changed() {
    on_each_database(|store| {
        let api = Api::start(&config(store, ", actor_members: [team]", "", ""));
        let (id, token) = api.create(&json!({
            "name": "a", "role": "Viewer", "secondsToLive": 3600, "description": "For CI — runs at night",
            "actor": {"team": "ops"}, "policies": ["read"],
        }));
        let key = show(&api, id);
        let expected = [
            ("description", json!("For CI — runs at night")),
            ("actor", json!({"team": "ops"})),
            ("policies", json!(["read"])),
            ("createdBy", json!("the-admin")),
        ];
        for (member, value) in expected {
            assert_eq!(key[member], value, "{key}");
        }
        for absent in ["owner", "account", "isDisabled", "disabledAt", "revokedAt", "uses", "oldSecretUntil"]
        {
            assert!(key.get(absent).is_none(), "{key}");
        }
        assert_eq!(api.get("/api/auth/keys").json(), json!([key]));
        assert_eq!(api.get("/api/auth/keys?perpage=10").json(), json!([key]));

        // What is missing stays.
        let changed = patch(&api, id, json!({"name": "b", "role": "Editor"}));
        assert_eq!(changed.status, 200, "{}", changed.text());
        let mut expected = key.clone();
        expected["name"] = json!("b");
        expected["role"] = json!("Editor");
        assert_eq!(changed.json(), expected);
        assert_eq!(show(&api, id), expected);
        // And null clears.
        let cleared = patch(
            &api,
            id,
            json!({"description": null, "policies": null, "actor": null, "secondsToLive": 0}),
        )
        .json();
        for absent in ["description", "policies", "actor", "expiration"] {
            assert!(cleared.get(absent).is_none(), "{cleared}");
        }
        assert_eq!(api.check(&token), "", "it is no longer restricted");
        let ends =
            patch(&api, id, json!({"secondsToLive": 60})).json()["expiration"].as_str().unwrap().to_owned();
        let ends: jiff::Timestamp = ends.parse().unwrap();
        assert!((0..=60).contains(&ends.duration_since(jiff::Timestamp::now()).as_secs()));
        assert_eq!(patch(&api, id, json!({"DESCRIPTION": ""})).json().get("description"), None);
        // Nothing to change is no change.
        let lines = api.audit().len();
        assert_eq!(patch(&api, id, json!({})).status, 200);
        assert_eq!(api.audit().len(), lines);

        let rotated = api.post(&format!("/api/auth/keys/{id}/rotate"), &json!({"overlapSeconds": 30}));
        assert!(show(&api, id)["oldSecretUntil"].is_string(), "{}", rotated.text());
        assert_eq!(patch(&api, id, json!({"disabled": true})).json()["isDisabled"], true);
        let disabled = show(&api, id);
        assert!(disabled["disabledAt"].is_string());
        assert_ne!(api.check(&token), "");
        assert_eq!(api.names("/api/auth/keys"), ["b"], "a disabled key is live");
        assert_message(
            &api.post(&format!("/api/auth/keys/{id}/rotate"), &json!({})),
            409,
            "API key is disabled",
        );
        assert_message(
            &api.post("/api/auth/keys", &json!({"name": "B", "role": "Viewer"})),
            409,
            "API key name already exists",
        );
        assert_eq!(patch(&api, id, json!({"disabled": false})).json().get("isDisabled"), None);
        assert_eq!(api.check(&token), "");
        // By the name that answers have, too.
        assert_eq!(patch(&api, id, json!({"isDisabled": true})).json()["isDisabled"], true);
        let enabled = patch(&api, id, json!({"isDisabled": false, "disabled": false}));
        assert_eq!((enabled.status, enabled.json().get("isDisabled")), (200, None));
        assert_eq!(api.check(&token), "");

        api.post(&format!("/api/auth/keys/{id}/revoke"), &json!({}));
        let dead = show(&api, id);
        assert_eq!((&dead["isRevoked"], &dead["revokedBy"]), (&json!(true), &json!("the-admin")));
        for body in
            [json!({"name": "c"}), json!({"disabled": true}), json!({"description": "x", "role": "Viewer"})]
        {
            assert_message(&patch(&api, id, body), 409, "API key is revoked or expired");
        }
        assert_eq!(patch(&api, id, json!({"description": "it leaked"})).json()["description"], "it leaked");
    });
}

#[test]
fn a_bad_change_names_the_member_at_fault() {
    let api =
        Api::start(&config("sqlite:keys.db", ", actor_members: [team], max_seconds_to_live: 600", "", ""));
    let (id, _) = api.create(&json!({"name": "a", "role": "Viewer", "secondsToLive": 60}));
    api.create(&json!({"name": "b", "role": "Viewer", "secondsToLive": 60}));
    let before = show(&api, id);
    for (body, status, field) in [
        (json!({"name": null}), 400, "name"),
        (json!({"name": " a"}), 400, "name"),
        (json!({"name": "the-admin"}), 409, "name"),
        (json!({"name": "B"}), 409, "name"),
        (json!({"role": null}), 400, "role"),
        (json!({"role": "Owner"}), 400, "role"),
        (json!({"policies": ["none"]}), 400, "policies"),
        (json!({"policies": "read"}), 400, "policies"),
        (json!({"actor": {"group": 1}}), 400, "actor"),
        (json!({"secondsToLive": 0}), 400, "secondsToLive"),
        (json!({"secondsToLive": null}), 400, "secondsToLive"),
        (json!({"secondsToLive": 601}), 400, "secondsToLive"),
        (json!({"disabled": null}), 400, "disabled"),
        (json!({"disabled": "yes"}), 400, "disabled"),
        (json!({"isDisabled": null}), 400, "isDisabled"),
        (json!({"disabled": true, "isDisabled": false}), 400, "isDisabled"),
        (json!({"disabled": false, "name": "c", "isDisable": false}), 400, "unknown member"),
        (json!({"description": "a\nb"}), 400, "description"),
        (json!({"description": "\u{202e}cba"}), 400, "description"),
        (json!({"description": "x".repeat(501)}), 400, "description"),
        (json!({"description": 1}), 400, "description"),
    ] {
        assert_field(&patch(&api, id, body), status, field);
    }
    assert_eq!(patch(&api, id, json!({"description": "é".repeat(500)})).status, 200);
    assert_eq!(patch(&api, id, json!({"description": null})).json(), before);
    assert_message(&patch(&api, 999, json!({})), 404, "API key not found");
}

#[test]
fn a_service_accounts_key_is_the_accounts() {
    on_each_database(|store| {
        let api = Api::start(&config(store, "", ", allow: {role: [Editor, Admin]}", ""));
        insert_account(store, "ci", "Editor");
        let (id, _) = api.create(&json!({"name": "first", "account": "CI"}));
        api.create(&json!({"name": "lonely", "role": "Viewer"}));
        let key = show(&api, id);
        assert_eq!((&key["account"], key.get("role")), (&json!("ci"), None), "{key}");
        let number = &key["accountId"];
        for query in [
            "account=ci".to_owned(),
            "account=Ci".to_owned(),
            format!("account={number}"),
            "kind=account".to_owned(),
        ] {
            assert_eq!(api.names(&format!("/api/auth/keys?{query}")), ["first"], "{query}");
            assert_eq!(api.names(&format!("/api/auth/keys?perpage=5&{query}")), ["first"], "{query}");
        }
        assert_eq!(api.names("/api/auth/keys?role=Editor"), ["first"], "its role is the account's");
        // A mistyped name must not look like an account without keys.
        for query in ["account=none", "account=999999", "account=none&perpage=5&includeExpired=true"] {
            assert_field(&api.get(&format!("/api/auth/keys?{query}")), 400, "account");
        }
        assert_field(&api.get("/api/auth/keys?perpage=0"), 400, "perpage");
        // Two of an account have two names, and those of another owner are no matter.
        assert_field(&api.post("/api/auth/keys", &json!({"name": "First", "account": "ci"})), 409, "name");
        api.create(&json!({"name": "lonely", "account": "ci"}));
        for (body, field) in [
            (json!({"name": "x", "account": "ci", "role": "Viewer"}), "role"),
            (json!({"name": "x", "account": "ci", "policies": []}), "policies"),
            (json!({"name": "x", "account": "ci", "actor": {}}), "actor"),
            (json!({"name": "x", "account": "ci", "owner": "me"}), "owner"),
            (json!({"name": "x", "owner": "ann"}), "owner"),
            (json!({"name": "x", "account": "nobody"}), "account"),
        ] {
            assert_field(&api.post("/api/auth/keys", &body), 400, field);
        }
        for member in ["role", "policies", "actor"] {
            let value = if member == "role" { json!("Viewer") } else { Value::Null };
            assert_field(&patch(&api, id, json!({member: value})), 400, member);
        }
        assert_eq!(patch(&api, id, json!({"name": "second", "description": "x"})).json()["name"], "second");

        // To make one, to rotate one, to change one is to give what the account can do.
        sql(store, "UPDATE api_accounts SET role = 'Admin'");
        let ed =
            |method: &str, path: &str, body: Value| post(api.request(method, path).basic("ed", "ed"), &body);
        let path = format!("/api/auth/keys/{id}");
        for (method, path, body) in [
            ("POST", "/api/auth/keys".to_owned(), json!({"name": "x", "account": "ci"})),
            ("POST", format!("{path}/rotate"), json!({})),
            ("PATCH", path.clone(), json!({"secondsToLive": 0})),
            ("PATCH", path.clone(), json!({"disabled": true})),
            ("POST", format!("{path}/revoke"), json!({})),
            ("DELETE", path.clone(), json!({})),
        ] {
            assert_message(&ed(method, &path, body), 403, "Permission denied");
        }
        sql(store, "UPDATE api_accounts SET role = 'Viewer'");
        assert_eq!(ed("POST", &format!("{path}/rotate"), json!({})).status, 200);
    });
}

#[test]
fn a_list_has_conditions_an_order_and_pages() {
    on_each_database(|store| {
        let api = Api::start(&config(store, "", "", ""));
        let ids: Vec<i64> =
            [("b", "Editor", 0), ("C", "Viewer", 600), ("a", "Admin", 60), ("%_!", "Viewer", 0)]
                .map(|(name, role, life)| {
                    api.create(&json!({"name": name, "role": role, "secondsToLive": life})).0
                })
                .to_vec();
        let root = post(
            api.request("POST", "/api/auth/keys").bearer(ROOT),
            &json!({"name": "by root", "role": "Viewer"}),
        );
        assert_eq!(root.status, 200);
        // Whole seconds: each was made in another one, and used in another one.
        for (index, id) in ids.iter().enumerate() {
            let day = 10 - index;
            let before = |days: usize| {
                if store.starts_with("sqlite:") {
                    format!("NOW - 86400 * {days}")
                } else {
                    format!("NOW - interval '{days} days'")
                }
            };
            let used = if index == 3 { "NULL".to_owned() } else { before(5 - index) };
            sql(
                store,
                &format!(
                    "UPDATE api_keys SET created_at = {}, last_used_at = {used} WHERE id = {id}",
                    before(day)
                ),
            );
        }
        for (query, expected) in [
            ("", &["%_!", "C", "a", "b", "by root"][..]),
            ("sort=name", &["%_!", "C", "a", "b", "by root"]),
            ("sort=-name", &["by root", "b", "a", "C", "%_!"]),
            ("sort=created", &["b", "C", "a", "%_!", "by root"]),
            ("sort=-created", &["by root", "%_!", "a", "C", "b"]),
            ("sort=lastUsedAt", &["%_!", "by root", "b", "C", "a"]),
            ("sort=expiration", &["a", "C", "b", "%_!", "by root"]),
            ("sort=-role", &["a", "b", "by root", "%_!", "C"]),
            ("query=B", &["b", "by root"]),
            ("query=%25", &["%_!"]),
            ("query=_", &["%_!"]),
            ("role=Viewer", &["%_!", "C", "by root"]),
            ("kind=none", &["%_!", "C", "a", "b", "by root"]),
            ("kind=person", &[]),
            ("createdBy=root-actor", &["by root"]),
            ("expiringSeconds=120", &["a"]),
            ("expiringSeconds=86400", &["C", "a"]),
            ("unusedSeconds=345600", &["%_!", "C", "b"]),
            ("unusedSeconds=345600&role=Viewer", &["%_!", "C"]),
        ] {
            let paged = api.get(&format!("/api/auth/keys?perpage=100&{query}"));
            let names: Vec<_> =
                paged.json().as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
            assert_eq!(names, expected, "{query}");
            assert_eq!(paged.all("x-total-count"), [expected.len().to_string()], "{query}");
            if !query.starts_with("sort=") {
                assert_eq!(api.names(&format!("/api/auth/keys?{query}")), expected, "{query}, whole");
            }
        }
        let page = api.get("/api/auth/keys?perpage=2&page=2&sort=-created");
        let names: Vec<_> = page.json().as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
        assert_eq!((names, page.all("x-total-count")), (vec![json!("a"), json!("C")], vec!["5"]));
        for (query, field) in [
            ("sort=created", "sort"),
            ("sort=x&perpage=1", "sort"),
            ("kind=x", "kind"),
            ("unusedSeconds=1d", "unusedSeconds"),
        ] {
            assert_field(&api.get(&format!("/api/auth/keys?{query}")), 400, field);
        }
    });
}

#[test]
fn many_keys_are_revoked_at_once_and_only_those_that_are_meant() {
    on_each_database(|store| {
        let api = Api::start(&config(store, "", ", allow: {role: [Editor, Admin]}", ""));
        let revoke = |user: &str, body: &Value| {
            post(api.request("POST", "/api/auth/keys/revoke").basic(user, user), body)
        };
        let names = |answer: &Answer| -> Vec<String> {
            assert_eq!(answer.status, 200, "{}", answer.text());
            let mut names: Vec<_> = answer
                .json()
                .as_array()
                .unwrap()
                .iter()
                .map(|key| key["name"].as_str().unwrap().to_owned())
                .collect();
            names.sort_unstable();
            names
        };
        let tokens: Vec<_> = ["ci-1", "ci-2", "CI-3", "other"]
            .iter()
            .map(|name| api.create(&json!({"name": name, "role": "Viewer"})).1)
            .collect();
        let ed = post(
            api.request("POST", "/api/auth/keys").basic("ed", "ed"),
            &json!({"name": "ci-ed", "role": "Editor"}),
        );
        assert_eq!(ed.status, 200);

        let shown = revoke("admin", &json!({"namePattern": "ci-*"}));
        assert_eq!(names(&shown), ["CI-3", "ci-1", "ci-2", "ci-ed"]);
        assert!(tokens.iter().all(|token| api.check(token).is_empty()), "they were only shown");
        assert_eq!(names(&revoke("admin", &json!({"createdBy": "ed"}))), ["ci-ed"]);
        assert_eq!(
            names(&revoke("admin", &json!({"namePattern": "ci-*", "createdBy": "the-admin"}))).len(),
            3
        );
        assert_eq!(
            names(&revoke("admin", &json!({"createdSince": "2100-01-01T00:00:00Z"}))),
            Vec::<String>::new()
        );
        assert_eq!(names(&revoke("admin", &json!({"createdSince": "2020-01-01T00:00:00Z"}))).len(), 5);
        assert_eq!(names(&revoke("admin", &json!({"unusedForSeconds": 86400}))), Vec::<String>::new());

        for (body, field) in [
            (json!({}), "namePattern"),
            (json!({"dryRun": false}), "namePattern"),
            (json!({"namePattern": ""}), "namePattern"),
            (json!({"namePattern": null}), "namePattern"),
            (json!({"namePatern": "*", "createdBy": "ed"}), "unknown member"),
            (json!({"createdSince": "yesterday"}), "createdSince"),
            (json!({"unusedForSeconds": -1}), "unusedForSeconds"),
            (json!({"account": "none"}), "account"),
            (json!({"namePattern": "*", "dryRun": "false"}), "dryRun"),
        ] {
            assert_field(&revoke("admin", &body), 400, field);
        }

        // One above the caller's role is too many.
        let (boss, boss_token) = api.create(&json!({"name": "ci-boss", "role": "Admin"}));
        let all = json!({"namePattern": "ci-*", "dryRun": false});
        assert_message(&revoke("ed", &all), 403, "Permission denied");
        assert!(tokens.iter().all(|token| api.check(token).is_empty()));
        assert_eq!(names(&revoke("admin", &all)), ["CI-3", "ci-1", "ci-2", "ci-boss", "ci-ed"]);
        let dead: Vec<_> = tokens.iter().chain([&boss_token]).map(|token| api.check(token)).collect();
        assert_eq!(dead[3], "");
        assert!([0, 1, 2, 4].iter().all(|&index| dead[index].starts_with("401")), "{dead:?}");
        assert_eq!(show(&api, boss)["revokedBy"], "the-admin");
        let revoked = api.audit().iter().filter(|line| line["message"] == "API key revoked").count();
        assert_eq!(revoked, 5);
        assert_eq!(names(&revoke("admin", &all)), Vec::<String>::new(), "no key twice");
    });
}

fn digest(token: &str) -> String {
    envoy_auth_tokens::token::TokenDigest::of(token.as_bytes()).to_hex()
}

#[test]
fn a_leaked_token_is_found_by_its_digest() {
    on_each_database(|store| {
        let api = Api::on(store);
        let (id, first) = api.create(&json!({"name": "a", "role": "Viewer"}));
        let rotated = api.post(&format!("/api/auth/keys/{id}/rotate"), &json!({"overlapSeconds": 60}));
        let (_, second) = created(&rotated);
        let find = |sha256: &str| api.post("/api/auth/keys/find", &json!({"sha256": sha256}));
        for (token, secret) in [(&first, "replaced"), (&second, "current")] {
            let found = find(&digest(token)).json();
            assert_eq!((&found["secret"], &found["key"]), (&json!(secret), &show(&api, id)));
        }
        assert_eq!(find(&digest(&second).to_uppercase()).status, 200);
        assert_message(&find(&digest("eat_unknown")), 404, "API key not found");
        for text in ["", "abc", &"g".repeat(64)] {
            assert_field(&find(text), 400, "sha256");
        }
        api.post(&format!("/api/auth/keys/{id}/revoke"), &json!({}));
        assert_eq!(find(&digest(&second)).json()["key"]["isRevoked"], true);
    });
}

fn import(api: &Api, lines: &str) -> Answer {
    let request = api.request("POST", "/api/auth/keys/import").basic("admin", "admin");
    request.header("content-type", "application/x-ndjson").body(lines.as_bytes().to_vec()).send()
}

#[test]
fn keys_move_from_one_store_to_another() {
    on_each_database(|store| {
        let keys = ", actor_members: [team]";
        let api = Api::start(&config(store, keys, "", ""));
        insert_account(store, "ci", "Editor");
        let own = api.post("/api/auth/keys", &json!({"name": "mine", "owner": "me", "role": "Viewer"}));
        assert_eq!(own.status, 200, "{}", own.text());
        let (_, token) = api.create(&json!({
            "name": "a \"b\"", "role": "Viewer", "secondsToLive": 3600, "description": "x", "actor": {"team": "é"},
            "policies": ["read", "write"],
        }));
        let (paused, _) = api.create(&json!({"name": "paused", "role": "Editor"}));
        patch(&api, paused, json!({"disabled": true}));
        api.create(&json!({"name": "of ci", "account": "ci"}));
        let (gone, _) = api.create(&json!({"name": "gone", "role": "Editor"}));
        api.post(&format!("/api/auth/keys/{gone}/revoke"), &json!({}));
        let many: Vec<_> = (0..250).map(|n| format!("many {n:03}")).collect();
        let lines: String = many
            .iter()
            .map(|name| json!({"name": name, "role": "Viewer", "sha256": digest(name)}).to_string() + "\n")
            .collect();
        assert_eq!(import(&api, &lines).json(), json!({"created": 250}));

        let exported = api.get("/api/auth/keys/export");
        assert_eq!(exported.all("content-type"), ["application/x-ndjson"]);
        let exported = exported.text();
        assert_eq!(exported.lines().count(), 254);
        assert!(exported.contains(&digest(&token)) && !exported.contains("gone"));
        assert_field(&import(&api, &exported.lines().take(1).collect::<String>()), 409, "sha256");

        let other = tempfile::tempdir().unwrap();
        let there = format!("sqlite:{}", other.path().join("keys.db").display());
        let twin = Api::start(&config(&there, keys, "", ""));
        assert_field(&import(&twin, &exported), 400, "account");
        insert_account(&there, "ci", "Editor");
        assert_eq!(import(&twin, &exported).json(), json!({"created": 254}));
        assert_eq!(twin.get("/api/auth/keys/export").text(), exported);
        assert_eq!(twin.check(&token), "403 Permission denied", "it counts under its policies alone");
        assert_field(&import(&twin, &exported), 409, "sha256");
    });
}

#[test]
fn a_key_whose_owner_is_not_known_is_shown_as_denied() {
    on_each_database(|store| {
        let api = Api::on(store);
        let line = |name: &str, owner: &str, more: Value| {
            let mut line =
                json!({"name": name, "sha256": digest(name), "owner": owner, "ownerSource": "config"});
            line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            format!("{line}\n")
        };
        let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1)).to_string();
        let lines = [
            line("theirs", "vi", json!({})),
            line("of-nobody", "gone", json!({})),
            line("paused", "gone", json!({"disabled": true})),
            line("short", "gone", json!({"expiration": soon})),
        ];
        assert_eq!(import(&api, &lines.concat()).json(), json!({"created": 4}));
        assert_eq!(api.check("theirs"), "");
        assert_eq!(api.check("of-nobody"), "401 Disabled API key");
        crate::harness::wait_until("one has expired", || api.check("short") == "401 Expired API key");
        let list = api.get("/api/auth/keys?includeExpired=true").json();
        let shown: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|key| (key["name"].as_str().unwrap(), key["denied"].as_str()))
            .collect();
        let expected =
            [("of-nobody", Some("owner_gone")), ("paused", None), ("short", None), ("theirs", None)];
        assert_eq!(shown, expected);
        let found = api.post("/api/auth/keys/find", &json!({"sha256": digest("of-nobody")})).json();
        assert_eq!(found["key"]["denied"], "owner_gone");
        assert!(found["key"]["importedAt"].is_string(), "{found}");
    });
}

#[test]
fn an_import_is_whole_or_not_at_all_and_names_the_line() {
    let api = Api::start(&config("sqlite:keys.db", ", max_seconds_to_live: 3600", "", ""));
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(600)).to_string();
    let good =
        |name: &str| json!({"name": name, "role": "Viewer", "sha256": digest(name), "expiration": soon});
    let with = |member: &str, value: Value| {
        let mut line = good("x");
        line[member] = value;
        line.to_string()
    };
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(7200)).to_string();
    for (line, status, field) in [
        (with("sha256", json!("abc")), 400, "sha256"),
        (with("sha256", json!(digest("a"))), 409, "sha256"),
        (with("sha256", json!(digest(ROOT))), 409, "sha256"),
        (with("name", json!("a")), 409, "name"),
        (with("name", json!("root")), 409, "name"),
        (with("role", json!(null)), 400, "role"),
        (with("role", json!("Owner")), 400, "role"),
        (with("expiration", json!(null)), 400, "expiration"),
        (with("expiration", json!(later)), 400, "expiration"),
        (with("expiraton", json!(soon)), 400, "unknown member"),
        (with("owner", json!("ann")), 400, "ownerSource"),
        (with("created", json!(later)), 400, "created"),
        (with("createdBy", json!("")), 400, "createdBy"),
        (with("policies", json!(["none"])), 400, "policies"),
        (with("account", json!("none")), 400, "account"),
        ("not json".to_owned(), 400, "line"),
        (String::new(), 400, "line"),
    ] {
        let answer = import(&api, &format!("{}\n{line}\n{}\n", good("a"), good("c")));
        assert_field(&answer, status, field);
        let problem = answer.json()["details"][0]["problem"].as_str().unwrap().to_owned();
        assert!(problem.starts_with("line 2: "), "{problem}");
    }
    let many: String = (0..1001).map(|n| format!("{}\n", good(&format!("k{n}")))).collect();
    assert_field(&import(&api, &many), 400, "lines");
    assert_field(&import(&api, ""), 400, "lines");
    assert_eq!(api.get("/api/auth/keys?includeExpired=true").json(), json!([]));
    let most: String = many.lines().take(1000).map(|line| format!("{line}\n")).collect();
    assert_eq!(import(&api, &most).json(), json!({"created": 1000}));
    // By a key or a token no person has keys.
    let mut own = good("hers");
    (own["owner"], own["ownerSource"]) = (json!("vi"), json!("config"));
    let by_token = api.request("POST", "/api/auth/keys/import").bearer(ROOT);
    let by_token =
        by_token.header("content-type", "application/x-ndjson").body(own.to_string().into_bytes()).send();
    assert_field(&by_token, 403, "owner");
    assert_eq!(import(&api, &own.to_string()).json(), json!({"created": 1}));
}

#[test]
fn people_have_keys_of_their_own_and_see_no_others() {
    on_each_database(|store| {
        let admin = ", self_service: {role: [Viewer, Editor]}";
        let rest = "routes: [{path: /named, allow: {key: special}}]\n";
        let api = Api::start(&config(store, ", actor_members: [team]", admin, rest));
        insert_account(store, "ci", "Viewer");
        let (others, _) = api.create(&json!({"name": "nobody's", "role": "Viewer"}));
        let as_vi =
            |method: &str, path: &str, body: &Value| post(api.request(method, path).basic("vi", "vi"), body);
        let get = |user: &str, path: &str| api.request("GET", path).basic(user, user).send();

        let made = as_vi("POST", "/api/auth/keys", &json!({"name": "laptop"}));
        let (id, token) = created(&made);
        let (lower, _) = created(&as_vi(
            "POST",
            "/api/auth/keys",
            &json!({"name": "ci", "role": "Viewer", "policies": ["read"], "owner": "me"}),
        ));
        let key = get("vi", &format!("/api/auth/keys/{id}")).json();
        assert_eq!(
            (&key["owner"], &key["ownerSource"], key.get("role")),
            (&json!("vi"), &json!("config"), None)
        );
        let names = |answer: Answer| -> Vec<Value> {
            answer.json().as_array().unwrap().iter().map(|key| key["name"].clone()).collect()
        };
        assert_eq!(names(get("vi", "/api/auth/keys")), ["ci", "laptop"]);
        let page = get("vi", "/api/auth/keys?perpage=1");
        assert_eq!(page.all("x-total-count"), ["2"]);
        assert_eq!(names(get("ed", "/api/auth/keys")), Vec::<Value>::new());
        assert_eq!(names(get("vi", "/api/auth/keys?owner=ed")), Vec::<Value>::new());
        // Which accounts there are is no matter of theirs.
        assert_eq!(names(get("vi", "/api/auth/keys?account=none")), Vec::<Value>::new());
        assert_eq!(api.names("/api/auth/keys?owner=vi"), ["ci", "laptop"]);
        assert_eq!(api.names("/api/auth/keys?kind=person"), ["ci", "laptop"]);

        // Their own, they change, rotate and end.
        let path = format!("/api/auth/keys/{id}");
        let changed = as_vi(
            "PATCH",
            &path,
            &json!({"name": "desk", "description": "mine", "secondsToLive": 600, "role": "Viewer"}),
        );
        assert_eq!((changed.status, &changed.json()["role"]), (200, &json!("Viewer")));
        assert_eq!(as_vi("PATCH", &path, &json!({"role": null})).json().get("role"), None);
        assert_eq!(as_vi("POST", &format!("{path}/rotate"), &json!({})).status, 200);
        let found = as_vi("POST", "/api/auth/keys/find", &json!({"sha256": digest(&token)}));
        assert_eq!(found.json()["secret"], "replaced", "{}", found.text());
        assert_eq!(as_vi("PATCH", &path, &json!({"disabled": true})).status, 200);
        assert_eq!(as_vi("PATCH", &path, &json!({"disabled": false})).status, 200);
        assert_eq!(as_vi("POST", &format!("/api/auth/keys/{lower}/revoke"), &json!({})).status, 200);
        assert_eq!(as_vi("DELETE", &format!("/api/auth/keys/{lower}"), &json!({})).status, 200);

        // Nothing above themselves.
        for (body, status, field) in [
            (json!({"name": "x", "role": "Editor"}), 403, Some("caller")),
            (json!({"name": "x", "role": "Admin"}), 403, Some("caller")),
            (json!({"name": "x", "account": "ci"}), 403, Some("owner")),
            (json!({"name": "x", "actor": {"team": "ops"}}), 400, Some("actor")),
            (json!({"name": "x", "policies": ["none"]}), 400, Some("policies")),
            (json!({"name": "x", "owner": "ed"}), 400, Some("owner")),
            (json!({"name": "special"}), 403, Some("name")),
            (json!({"name": "ed"}), 409, Some("name")),
            (json!({"name": "Desk"}), 409, Some("name")),
        ] {
            let answer = as_vi("POST", "/api/auth/keys", &body);
            assert_eq!(answer.status, status, "{body} {}", answer.text());
            assert_eq!(answer.json()["details"][0]["field"].as_str(), field, "{body}");
        }
        assert_eq!(as_vi("PATCH", &path, &json!({"role": "Editor"})).status, 403);
        assert_eq!(as_vi("PATCH", &path, &json!({"name": "special"})).status, 403);
        assert_field(&as_vi("PATCH", &path, &json!({"actor": {"team": "ops"}})), 400, "actor");

        // Others' do not exist for them.
        let theirs = format!("/api/auth/keys/{others}");
        let hers = path.clone();
        let (_, others_token) = created(&api.post(&format!("{theirs}/rotate"), &json!({})));
        for (user, path) in [("vi", &theirs), ("ed", &hers)] {
            let call = |method: &str, path: &str, body: &Value| {
                post(api.request(method, path).basic(user, user), body)
            };
            assert_message(&get(user, path), 404, "API key not found");
            assert_message(&call("PATCH", path, &json!({"description": "x"})), 404, "API key not found");
            assert_message(&call("DELETE", path, &json!({})), 404, "API key not found");
            assert_message(&call("POST", &format!("{path}/revoke"), &json!({})), 404, "API key not found");
            assert_message(&call("POST", &format!("{path}/rotate"), &json!({})), 404, "API key not found");
        }
        let find = as_vi("POST", "/api/auth/keys/find", &json!({"sha256": digest(&others_token)}));
        assert_message(&find, 404, "API key not found");
        let lines = api.request("POST", "/api/auth/keys/import").basic("vi", "vi");
        let lines = lines.header("content-type", "application/x-ndjson").body(b"{}".to_vec()).send();
        assert_message(&lines, 403, "Permission denied");
        assert_message(&get("vi", "/api/auth/keys/export"), 403, "Permission denied");
        assert_message(
            &as_vi("POST", "/api/auth/keys/revoke", &json!({"namePattern": "*"})),
            403,
            "Permission denied",
        );
        let history = as_vi("POST", "/api/auth/keys/accept-history", &json!({}));
        assert_message(&history, 403, "Permission denied");
        assert_message(&get("no", "/api/auth/keys"), 403, "Permission denied");

        // An Admin sees them and ends them, and makes none for them.
        assert_eq!(api.get(&hers).json()["name"], "desk");
        assert_eq!(patch(&api, id, json!({"disabled": true})).status, 200);
        assert_eq!(api.delete(&hers).status, 200);
        assert_field(
            &post(api.request("POST", "/api/auth/keys").bearer(ROOT), &json!({"name": "x", "owner": "me"})),
            403,
            "owner",
        );
    });
}

#[test]
fn a_person_has_fifty_live_keys() {
    let api = Api::start(&config("sqlite:keys.db", "", ", self_service: {role: Viewer}", ""));
    let create =
        |name: &str| post(api.request("POST", "/api/auth/keys").basic("vi", "vi"), &json!({"name": name}));
    let ids: Vec<i64> = (0..50).map(|n| created(&create(&format!("k{n}"))).0).collect();
    let full = create("one more");
    assert_eq!(full.status, 403);
    assert!(full.json()["message"].as_str().unwrap().contains("50 live keys"), "{}", full.text());
    let revoke = format!("/api/auth/keys/{}/revoke", ids[7]);
    assert_eq!(post(api.request("POST", &revoke).basic("vi", "vi"), &json!({})).status, 200);
    assert_eq!(create("one more").status, 200);
}

#[test]
fn keys_beget_no_keys() {
    on_each_database(|store| {
        let admin = ", allow: {role: [Editor, Admin]}, self_service: {id: '*'}";
        let api = Api::start(&config(store, "", admin, ""));
        // A key and a token make keys under `admin.allow` alone, whatever `self_service` admits.
        let (_, viewer) = api.create(&json!({"name": "viewer", "role": "Viewer"}));
        let (short, editor) = api.create(&json!({"name": "editor", "role": "Editor", "secondsToLive": 600}));
        let (long, _) = api.create(&json!({"name": "long", "role": "Viewer"}));
        let by = |token: &str, method: &str, path: &str, body: &Value| {
            post(api.request(method, path).bearer(token), body)
        };
        assert_message(
            &by(&viewer, "POST", "/api/auth/keys", &json!({"name": "x"})),
            403,
            "Permission denied",
        );
        assert_field(
            &by(&editor, "POST", "/api/auth/keys", &json!({"name": "x", "owner": "me"})),
            403,
            "owner",
        );
        // And none that lives longer than itself.
        let endless = json!({"name": "x", "role": "Viewer"});
        assert_field(&by(&editor, "POST", "/api/auth/keys", &endless), 403, "secondsToLive");
        let longer = json!({"name": "x", "role": "Viewer", "secondsToLive": 700});
        assert_field(&by(&editor, "POST", "/api/auth/keys", &longer), 403, "secondsToLive");
        let shorter = json!({"name": "x", "role": "Viewer", "secondsToLive": 60});
        assert_eq!(by(&editor, "POST", "/api/auth/keys", &shorter).status, 200);
        let itself = format!("/api/auth/keys/{short}");
        assert_field(&by(&editor, "PATCH", &itself, &json!({"secondsToLive": 0})), 403, "secondsToLive");
        assert_field(
            &by(&editor, "POST", &format!("/api/auth/keys/{long}/rotate"), &json!({})),
            403,
            "secondsToLive",
        );
        assert_eq!(
            by(&editor, "POST", &format!("/api/auth/keys/{long}/revoke"), &json!({})).status,
            200,
            "to end gives nothing"
        );
        // Neither has anybody who came by a restricted credential.
        let restricted = api.request("GET", "/api/auth/keys").bearer(crate::keys_api::RESTRICTED).send();
        assert_message(&restricted, 403, "Permission denied");
    });
}

#[test]
fn everybody_learns_what_they_may_do() {
    let keys = ", actor_members: [team, group], max_seconds_to_live: 3600";
    let admin = ", allow: {role: [Admin], team: ops}, self_service: {role: [Viewer, Editor]}";
    let api = Api::start(&config("sqlite:keys.db", keys, admin, ""));
    let permissions = |request: Request| request.send().json()["permissions"].clone();
    let ask = || api.request("GET", "/api/auth/actor");
    let (_, restricted) =
        api.create(&json!({"name": "r", "role": "Admin", "policies": [], "secondsToLive": 60}));
    let (_, key) = api.create(&json!({"name": "k", "role": "Admin", "secondsToLive": 60}));
    for (request, expected) in [
        (
            ask().basic("admin", "admin"),
            json!({
                "manages": "all", "ownKeys": true, "maxOwnKeys": 50, "roles": ["Viewer", "Editor", "Admin"],
                "maxSecondsToLive": 3600, "policies": ["read", "write"], "actorMembers": ["team", "group"],
                "accounts": true, "bulk": true, "admin": true, "audit": true, "readOnly": false,
            }),
        ),
        (
            ask().basic("ed", "ed"),
            json!({
                "manages": "own", "ownKeys": true, "maxOwnKeys": 50, "roles": ["Viewer", "Editor"],
                "maxSecondsToLive": 3600, "policies": ["read", "write"], "actorMembers": [],
                "accounts": false, "bulk": false, "admin": false, "audit": false, "readOnly": false,
            }),
        ),
        (
            ask().bearer(crate::keys_api::ROLELESS),
            json!({
                "manages": "all", "ownKeys": false, "maxOwnKeys": 50, "roles": [],
                "maxSecondsToLive": 3600, "policies": ["read", "write"], "actorMembers": ["team"],
                "accounts": true, "bulk": true, "admin": false, "audit": false, "readOnly": false,
            }),
        ),
        (
            ask().bearer(&restricted),
            json!({
                "manages": "none", "ownKeys": false, "maxOwnKeys": 50, "roles": [],
                "maxSecondsToLive": 3600, "policies": [], "actorMembers": [],
                "accounts": false, "bulk": false, "admin": false, "audit": false, "readOnly": false,
            }),
        ),
    ] {
        let mut found = permissions(request);
        // What is proposed is a setting of its own.
        found.as_object_mut().unwrap().remove("defaultSecondsToLive");
        assert_eq!(found, expected);
    }
    assert!(permissions(ask().bearer(&key))["latestExpiration"].is_string());
    assert_eq!(permissions(ask().basic("no", "no"))["manages"], "none");
}
