//! Whose an API key is, and what it may therefore: keys of configured users, of people of a directory and of providers, and of
//! service accounts; in process, under a clock that a test sets, on both databases.

use std::sync::Arc;

use envoy_auth_tokens::actor::Actor;
use envoy_auth_tokens::credential::{Kind, Principal};
use envoy_auth_tokens::keys::index::Index;
use envoy_auth_tokens::keys::store::SCHEMA;
use envoy_auth_tokens::keys::{
    CreateAccount, CreateKey, EditAccount, EditKey, Key, KeyLookup, KeyOwner, Role, SessionScope, StoredKey,
};
use envoy_auth_tokens::person::{Person, PersonId, PersonSource};
use envoy_auth_tokens::policy::Allow;
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::token::TokenDigest;
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::harness::slapd::{Slapd, password, person};
use crate::keys_people::{ldap as ldap_person, make_schema};
use crate::keys_store::{
    Database, Time, anything, ask, author, configured, digest, on_both_stores, settings, soon,
};
use crate::people::{ADMINS, ldap, with_admin};
use crate::people_of_providers::{
    corporate, log_in, person as of_provider, provider, rules as provider_rules,
};
use crate::people_sessions::{MINUTE, Process, snapshot};

const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const DISABLED: &str = "disabled_token";

/// Rules of a process without an admin listener, and without users.
const SIDECAR: &str = "keys: {store: \"sqlite:keys.db\"}\ncredentials: [bearer, session]\n";

/// Rules of a server that has `admin` and these users.
fn with_users(users: &str) -> String {
    format!(
        "keys: {{store: \"sqlite:keys.db\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\nusers: [{users}]\n\
         policies: {{read: {{}}, write: {{}}, admin: {{}}}}\n"
    )
}

fn user(name: &str, actor: &str, more: &str) -> String {
    let hash = bcrypt::hash(name, 4).expect("bcrypt");
    format!("{{username: {name}, password_hash: '{hash}', actor: {actor}{more}}}")
}

fn of(owner: KeyOwner, name: &str, role: Option<Role>) -> CreateKey {
    CreateKey { owner, role, ..ask(name) }
}

async fn create(process: &Process, request: CreateKey) -> (Key, Secret) {
    process.keys.create(&settings(), request, &author("admin"), &anything).await.unwrap()
}

/// A new key of a person.
async fn key_of(process: &Process, person: &PersonId, role: Option<Role>) -> Secret {
    let name = format!("{} {role:?}", person.subject);
    create(process, of(KeyOwner::Person(person.clone()), &name, role)).await.1
}

/// Whom a Check takes a token for, or the reason of the denial.
async fn check(process: &Process, token: &Secret) -> String {
    process.check("authorization", &format!("Bearer {}", token.expose())).await
}

async fn becomes(process: &Process, token: &Secret, expected: &str) {
    soon(expected, async || check(process, token).await == expected).await;
}

/// The uses of a key, as the store has them.
async fn uses(process: &Process, id: i64) -> (u64, Option<String>) {
    let key = process.keys.get(id).await.unwrap().unwrap();
    (key.uses, key.last_address)
}

on_both_stores! {
    the_keys_of_an_account_are_one_actor_and_follow_it
    a_key_that_is_disabled_is_denied_here_at_once_and_there_within_a_second
    what_psql_changes_counts
    the_key_of_a_user_is_theirs_and_ends_with_them
    of_policies_counts_what_both_have
    the_key_of_somebody_of_a_provider_outlives_their_session
    a_use_counts_where_a_check_authenticates
    a_store_of_the_first_version_goes_on
}

async fn the_keys_of_an_account_are_one_actor_and_follow_it(db: Database) {
    let time = Time::new();
    let here = Process::start(&db, &time, &with_users("")).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    let request = CreateAccount {
        name: "ci".to_owned(),
        description: None,
        role: Role::Editor,
        actor: Map::from_iter([("team".to_owned(), json!("ops")), ("key_id".to_owned(), json!(0))]),
        policies: None,
        is_disabled: false,
    };
    let account = here.keys.create_account(&request, &author("admin"), &anything).await.unwrap();
    let owner = || KeyOwner::Account(account.id);
    let (one, one_secret) = create(&here, of(owner(), "one", None)).await;
    let (other, other_secret) = create(&here, of(owner(), "other", None)).await;
    for (key, secret) in [(&one, &one_secret), (&other, &other_secret)] {
        let principal = here.principal(secret).await.unwrap();
        let expected = json!({
            "id": "sa:ci", "name": "ci", "role": "Editor", "key": key.name, "key_id": key.id, "team": "ops"
        });
        assert_eq!(Value::Object(principal.actor.members().clone()), expected);
        assert_eq!(principal.owner_name().as_deref(), Some("account:ci"));
        becomes(&there, secret, "sa:ci Editor").await;
    }

    let edit = EditAccount { role: Some(Role::Viewer), ..EditAccount::default() };
    here.keys.edit_account(account.id, &edit, &author("admin"), &anything).await.unwrap();
    for secret in [&one_secret, &other_secret] {
        assert_eq!(check(&here, secret).await, "sa:ci Viewer");
        becomes(&there, secret, "sa:ci Viewer").await;
    }
    for (is_disabled, expected) in [(true, DISABLED), (false, "sa:ci Viewer")] {
        let edit = EditAccount { is_disabled: Some(is_disabled), ..EditAccount::default() };
        here.keys.edit_account(account.id, &edit, &author("admin"), &anything).await.unwrap();
        for secret in [&one_secret, &other_secret] {
            assert_eq!(check(&here, secret).await, expected);
            becomes(&there, secret, expected).await;
        }
    }
    here.keys.delete_account(account.id, &author("admin"), &anything).await.unwrap();
    for secret in [&one_secret, &other_secret] {
        assert_eq!(check(&here, secret).await, "unknown_token");
        becomes(&there, secret, "unknown_token").await;
    }
}

async fn a_key_that_is_disabled_is_denied_here_at_once_and_there_within_a_second(db: Database) {
    let time = Time::new();
    let here = Process::start(&db, &time, &with_users("")).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    let (key, secret) = create(&here, ask("deploy")).await;
    becomes(&there, &secret, "key:deploy Editor").await;
    for (is_disabled, expected) in [(true, DISABLED), (false, "key:deploy Editor"), (true, DISABLED)] {
        let edit = EditKey { is_disabled: Some(is_disabled), ..EditKey::default() };
        here.keys.edit(key.id, &edit, &author("admin"), &anything).await.unwrap();
        assert_eq!(check(&here, &secret).await, expected);
        becomes(&there, &secret, expected).await;
    }
    // What is dead for good is said first.
    here.keys.revoke(key.id, &author("admin"), &anything).await.unwrap();
    assert_eq!(check(&here, &secret).await, "revoked_token");
}

async fn what_psql_changes_counts(db: Database) {
    let time = Time::new();
    let process = Process::start(&db, &time, &with_users(&user("ann", "{id: ann, role: Admin}", ""))).await;
    let (key, secret) = create(&process, ask("deploy")).await;
    let id = key.id;
    let now = match db {
        Database::Sqlite(_) => "unixepoch()",
        Database::Postgres { .. } => "now()",
    };
    db.sql(&format!("UPDATE api_keys SET disabled_at = {now} WHERE id = {id}")).await;
    becomes(&process, &secret, DISABLED).await;
    db.sql(&format!("UPDATE api_keys SET disabled_at = NULL WHERE id = {id}")).await;
    becomes(&process, &secret, "key:deploy Editor").await;
    // Somebody's by now.
    db.sql(&format!(
        "UPDATE api_keys SET owner_source = 'config', owner_subject = 'ann', role = 'Viewer' WHERE id = {id}"
    ))
    .await;
    becomes(&process, &secret, "ann Viewer").await;
    db.sql(&format!("UPDATE api_keys SET owner_subject = 'nobody' WHERE id = {id}")).await;
    becomes(&process, &secret, DISABLED).await;
    let insert = format!(
        "INSERT INTO api_accounts (name, folded_name, role, created_at, created_by) \
         VALUES ('ci', 'ci', 'Editor', {now}, 'psql')"
    );
    db.sql(&insert).await;
    db.sql(&format!(
        "UPDATE api_keys SET owner_source = NULL, owner_subject = NULL, \
         account_id = (SELECT id FROM api_accounts WHERE name = 'ci') WHERE id = {id}"
    ))
    .await;
    becomes(&process, &secret, "sa:ci Editor").await;
    db.sql(&format!("UPDATE api_accounts SET disabled_at = {now}")).await;
    becomes(&process, &secret, DISABLED).await;
    db.sql("UPDATE api_accounts SET disabled_at = NULL, role = 'Viewer', name = 'cd'").await;
    becomes(&process, &secret, "sa:cd Viewer").await;
    db.sql("DELETE FROM api_accounts").await;
    becomes(&process, &secret, "unknown_token").await;
}

async fn the_key_of_a_user_is_theirs_and_ends_with_them(db: Database) {
    let time = Time::new();
    let (vi, ed) =
        (user("vi", "{id: vi, role: Viewer, team: ops}", ""), user("ed", "{id: ed, role: Editor}", ""));
    let none = user("none", "{id: none}", "");
    let here = Process::start(&db, &time, &with_users(&format!("{vi}, {ed}, {none}"))).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    for (subject, role, expected) in [
        ("vi", None, "vi Viewer"),
        ("vi", Some(Role::Viewer), "vi Viewer"),
        ("vi", Some(Role::Admin), "vi Viewer"),
        ("ed", None, "ed Editor"),
        ("ed", Some(Role::Viewer), "ed Viewer"),
        ("ed", Some(Role::Admin), "ed Editor"),
        ("none", None, "none "),
        // Who has no role gives none.
        ("none", Some(Role::Viewer), DISABLED),
        ("nobody", None, DISABLED),
    ] {
        let secret = key_of(&here, &configured(subject), role).await;
        assert_eq!(check(&here, &secret).await, expected, "{subject} {role:?}");
        becomes(&there, &secret, expected).await;
    }
    let ed_person = configured("ed");
    let (key, secret) = create(&here, of(KeyOwner::Person(ed_person), "mine", Some(Role::Editor))).await;
    let principal = here.principal(&secret).await.unwrap();
    let expected = json!({"id": "ed", "role": "Editor", "key": "mine", "key_id": key.id});
    assert_eq!(Value::Object(principal.actor.members().clone()), expected);
    assert_eq!((principal.kind, &*principal.name, principal.id), (Kind::Key, "mine", Some(key.id)));
    assert_eq!(principal.owner_name().as_deref(), Some("config:ed"));
    assert_eq!(principal.source().map(PersonSource::as_str), Some("config"));
    assert!(Arc::ptr_eq(&principal, &here.principal(&secret).await.unwrap()), "it is made once");

    // Their role and members of now count.
    let lower = user("ed", "{id: ed, role: Viewer, team: red}", "");
    here.reload(&with_users(&format!("{vi}, {lower}"))).await;
    assert_eq!(check(&here, &secret).await, "ed Viewer");
    assert_eq!(here.principal(&secret).await.unwrap().actor.member("team"), Some(&json!("red")));
    becomes(&there, &secret, "ed Viewer").await;
    // A process that has the user by itself goes by that.
    let own = SIDECAR.to_owned() + &format!("users: [{}]\n", user("ed", "{id: ed, role: Admin}", ""));
    let own = Process::start(&db, &time, &own).await;
    assert_eq!(check(&own, &secret).await, "ed Editor");

    here.reload(&with_users(&vi)).await;
    assert_eq!(check(&here, &secret).await, DISABLED);
    becomes(&there, &secret, DISABLED).await;
    assert_eq!(check(&own, &secret).await, "ed Editor");
    here.reload(&with_users(&format!("{vi}, {ed}"))).await;
    assert_eq!(check(&here, &secret).await, "ed Editor");
    becomes(&there, &secret, "ed Editor").await;
    // Nobody is idle who stands in the configuration.
    time.pass(400 * DAY);
    here.sweep().await;
    assert_eq!(check(&here, &secret).await, "ed Editor");
}

async fn of_policies_counts_what_both_have(db: Database) {
    let time = Time::new();
    let free = user("free", "{id: free, role: Editor}", "");
    let bound = user("bound", "{id: bound, role: Editor}", ", policies: [read, write]");
    let here = Process::start(&db, &time, &with_users(&format!("{free}, {bound}"))).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    let names =
        |names: &[&str]| -> Option<Vec<String>> { Some(names.iter().map(|&name| name.to_owned()).collect()) };
    for (number, (subject, of_key, expected)) in [
        ("free", None, None),
        ("free", names(&["read", "admin"]), names(&["admin", "read"])),
        ("bound", None, names(&["read", "write"])),
        ("bound", names(&["write", "admin"]), names(&["write"])),
        ("bound", names(&["admin"]), names(&[])),
    ]
    .into_iter()
    .enumerate()
    {
        let owner = KeyOwner::Person(configured(subject));
        let request = CreateKey { policies: of_key, ..of(owner, &format!("key {number}"), None) };
        let (_, secret) = create(&here, request).await;
        let principal = here.principal(&secret).await.unwrap();
        let policies = principal
            .policies
            .as_ref()
            .map(|names| names.iter().map(std::string::ToString::to_string).collect());
        assert_eq!(policies, expected, "{number}");
        // The record of a person cannot say that they count under some policies alone: elsewhere they count under none.
        if subject == "bound" {
            becomes(&there, &secret, DISABLED).await;
        } else {
            soon("known there", async || there.principal(&secret).await.is_some()).await;
            assert_eq!(there.principal(&secret).await.unwrap().policies, principal.policies, "{number}");
        }
    }
}

async fn the_key_of_somebody_of_a_provider_outlives_their_session(db: Database) {
    let time = Time::new();
    let here = Process::of(&db, &time, provider_rules(&time, None, vec![corporate()])).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    let carol = of_provider("corporate", "carol");
    let cookies = log_in(&here, &time, "corporate", "carol", "admins").await;
    let secret = key_of(&here, &carol, Some(Role::Editor)).await;
    let whole = key_of(&here, &carol, None).await;
    let is = async |role: &str, whole_role: &str| {
        assert_eq!(check(&here, &secret).await, format!("corporate:carol {role}"));
        assert_eq!(check(&here, &whole).await, format!("corporate:carol {whole_role}"));
        becomes(&there, &whole, &format!("corporate:carol {whole_role}")).await;
    };
    is("Editor", "Admin").await;
    time.pass(12 * HOUR);
    here.sweep().await;
    assert_eq!(here.session(&cookies).await, ["no_credential"; 2]);
    is("Editor", "Admin").await;

    // The rules of now make a person of what the provider said last, without a session.
    let lower = provider("corporate", 1, &[("staff", Role::Admin), ("admins", Role::Viewer)]);
    let current = here.snapshots.current();
    here.snapshots.replace(provider_rules(&time, Some(&current), vec![lower]));
    assert_eq!(check(&here, &whole).await, "corporate:carol Viewer", "before anything is written");
    here.write_records().await;
    is("Viewer", "Viewer").await;
    let current = here.snapshots.current();
    here.replace(provider_rules(&time, Some(&current), vec![corporate()])).await;
    is("Editor", "Admin").await;

    // Nobody says that she was seen: not a key that is used, not a reload.
    time.pass(30 * DAY - 12 * HOUR - 1);
    here.write_records().await;
    here.sweep().await;
    is("Editor", "Admin").await;
    time.pass(1);
    here.sweep().await;
    for secret in [&secret, &whole] {
        assert_eq!(check(&here, secret).await, DISABLED);
        becomes(&there, secret, DISABLED).await;
    }
    log_in(&here, &time, "corporate", "carol", "staff").await;
    is("Viewer", "Viewer").await;

    // Another issuer, or none: nobody knows who that is.
    for providers in [vec![provider("corporate", 2, &[("staff", Role::Viewer)])], vec![]] {
        let current = here.snapshots.current();
        let back = provider_rules(&time, Some(&current), vec![corporate()]);
        here.replace(provider_rules(&time, Some(&current), providers)).await;
        assert_eq!(check(&here, &whole).await, DISABLED);
        becomes(&there, &whole, DISABLED).await;
        here.replace(back).await;
        log_in(&here, &time, "corporate", "carol", "staff").await;
        is("Viewer", "Viewer").await;
    }
    // Nor somebody whom the rules give no role.
    let current = here.snapshots.current();
    let nobody = provider("corporate", 1, &[("others", Role::Admin)]);
    here.replace(provider_rules(&time, Some(&current), vec![nobody])).await;
    assert_eq!(check(&here, &whole).await, DISABLED);
    becomes(&there, &whole, DISABLED).await;
}

async fn a_use_counts_where_a_check_authenticates(db: Database) {
    let time = Time::new();
    let config = with_users(&user("ann", "{id: ann, role: Admin}", ""));
    let here = Process::start(&db, &time, &config).await;
    let (plain, plain_secret) = create(&here, ask("plain")).await;
    let (own, own_secret) = create(&here, of(KeyOwner::Person(configured("ann")), "own", None)).await;
    let (idle, idle_secret) = create(&here, ask("idle")).await;
    let edit = EditKey { is_disabled: Some(true), ..EditKey::default() };
    here.keys.edit(idle.id, &edit, &author("admin"), &anything).await.unwrap();
    let authorization = |secret: &Secret| format!("Bearer {}", secret.expose());
    for (address, expected) in [
        ("192.0.2.7", Some("192.0.2.7")),
        ("::ffff:192.0.2.8", Some("192.0.2.8")),
        ("2001:db8::1", Some("2001:db8::1")),
        // Such as the path of a socket: the one of before stays.
        ("@socket", Some("2001:db8::1")),
    ] {
        time.pass(MINUTE);
        for (id, secret) in [(plain.id, &plain_secret), (own.id, &own_secret)] {
            let before = uses(&here, id).await.0;
            here.check_from(address, &authorization(secret)).await;
            soon("written", async || uses(&here, id).await.0 == before + 1).await;
            assert_eq!(uses(&here, id).await.1.as_deref(), expected, "{address}");
        }
        here.check_from(address, &authorization(&idle_secret)).await;
    }
    // The user is gone: the key does not authenticate, and was not used.
    here.reload(&with_users("")).await;
    time.pass(MINUTE);
    assert_eq!(check(&here, &own_secret).await, DISABLED);
    // Under a policy that is not enforced it is looked whether a credential is ours, which is no use.
    here.reload(&format!("{}default: {{allow: {{id: nobody}}, enforce: false}}\n", with_users(""))).await;
    let before = uses(&here, plain.id).await.0;
    check(&here, &plain_secret).await;
    soon("written", async || uses(&here, plain.id).await.0 > before).await;
    assert_eq!(uses(&here, plain.id).await.0, before + 1);
    assert_eq!((uses(&here, own.id).await.0, uses(&here, idle.id).await.0), (4, 0));
}

async fn a_store_of_the_first_version_goes_on(db: Database) {
    let time = Time::new();
    make_schema(&db, 1).await;
    let snapshot = snapshot(&with_users(&user("ann", "{id: ann, role: Admin}", "")), &time, None);
    let password = *snapshot.users.get("ann").unwrap().binding(SessionScope::Admin);
    let (bytes, instant): (fn(&TokenDigest) -> String, fn(i64) -> String) = match &db {
        Database::Sqlite(_) => (|digest| format!("x'{}'", digest.to_hex()), |second| second.to_string()),
        Database::Postgres { .. } => {
            (|digest| format!("'\\x{}'::bytea", digest.to_hex()), |second| format!("to_timestamp({second})"))
        }
    };
    let now = time.now().as_second();
    let [plain, dead, replaced, rotated, cookie] = ["plain", "dead", "replaced", "rotated", "session"]
        .map(|name| Secret::new(format!("{name}-0123456789abcdef")));
    let (made, later, ended) = (instant(now - DAY), instant(now + DAY), instant(now - HOUR));
    let nothing = "NULL".to_owned();
    for (name, actor, secret, previous, revoked) in [
        ("plain", "{\"team\": \"ops\"}", &plain, None, &nothing),
        ("dead", "{}", &dead, None, &ended),
        ("rotated", "{}", &rotated, Some(&replaced), &nothing),
    ] {
        let (previous, until) = match previous {
            Some(previous) => (bytes(&digest(previous)), later.clone()),
            None => (nothing.clone(), nothing.clone()),
        };
        db.sql(&format!(
            "INSERT INTO api_keys (name, role, actor, digest, previous_digest, previous_until, created_at, created_by, \
             expires_at, revoked_at) VALUES ('{name}', 'Editor', '{actor}', {}, {previous}, {until}, {made}, 'ann', \
             {later}, {revoked})",
            bytes(&digest(secret))
        ))
        .await;
    }
    db.sql(&format!(
        "INSERT INTO api_sessions (digest, user_name, password_digest, created_at, last_used_at) \
         VALUES ({}, 'ann', {}, {made}, {ended})",
        bytes(&digest(&cookie)),
        bytes(&password)
    ))
    .await;

    let process = Process::of(&db, &time, snapshot).await;
    assert_eq!(db.number("SELECT max(version) FROM api_migrations").await, SCHEMA);
    for (secret, expected) in [
        (&plain, "key:plain Editor"),
        (&dead, "revoked_token"),
        (&replaced, "key:rotated Editor"),
        (&rotated, "key:rotated Editor"),
    ] {
        assert_eq!(check(&process, secret).await, expected);
    }
    let cookies = [format!("eat_session={}", cookie.expose()), String::new()];
    assert_eq!(process.session(&cookies).await[0], "ann Admin");
    let principal = process.principal(&plain).await.unwrap();
    assert_eq!((principal.actor.member("team"), principal.owner_name()), (Some(&json!("ops")), None));

    // What came with later versions.
    let id = principal.id.unwrap();
    let description = Some(Some("the nightly backup".to_owned()));
    let edit = EditKey { is_disabled: Some(true), description, ..EditKey::default() };
    process.keys.edit(id, &edit, &author("ann"), &anything).await.unwrap();
    assert_eq!(check(&process, &plain).await, DISABLED);
    let own = key_of(&process, &configured("ann"), Some(Role::Viewer)).await;
    assert_eq!(check(&process, &own).await, "ann Viewer");
    time.pass(DAY);
    assert_eq!(check(&process, &rotated).await, "expired_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_is_asked_about_owners_once_an_hour() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let here = Process::start(&db, &time, &with_admin("sqlite:keys.db", &ldap(&slapd, ""), "")).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    // Nobody knows ann yet.
    let early = key_of(&here, &ldap_person("ann"), Some(Role::Viewer)).await;
    assert_eq!(check(&here, &early).await, DISABLED);
    // A password at the admin listener is enough, without a session.
    assert_eq!(here.basic_at_admin("ann", &password("ann")).await, "ldap:ann Admin");
    let secret = key_of(&here, &ldap_person("ann"), None).await;
    assert_eq!(check(&here, &early).await, "ldap:ann Viewer");
    assert_eq!(check(&here, &secret).await, "ldap:ann Admin");
    becomes(&there, &secret, "ldap:ann Admin").await;
    let principal = here.principal(&secret).await.unwrap();
    assert_eq!(principal.owner_name().as_deref(), Some("ldap:ann"));
    assert_eq!(principal.actor.member("name"), Some(&json!("Ann Example")));

    here.sweep().await;
    let asked = slapd.searches();
    assert!(asked > 0, "at the start");
    // A group has a member.
    slapd.administrator().join(ADMINS, &person("bob"));
    slapd.administrator().leave(ADMINS, &person("ann"));
    for _ in 0..59 {
        time.pass(MINUTE);
        here.sweep().await;
        assert_eq!(check(&here, &secret).await, "ldap:ann Admin");
    }
    assert_eq!(slapd.searches(), asked);
    time.pass(MINUTE);
    here.sweep().await;
    becomes(&here, &secret, "ldap:ann Viewer").await;
    becomes(&there, &secret, "ldap:ann Viewer").await;

    // A directory that does not answer takes nobody's keys.
    slapd.stop();
    time.pass(3 * HOUR);
    here.sweep().await;
    assert_eq!(check(&here, &secret).await, "ldap:ann Viewer");
    slapd.resume();
    let asked = slapd.searches();
    time.pass(MINUTE);
    here.sweep().await;
    assert!(slapd.searches() > asked);

    // Nobody says that she was seen: neither a key that is used nor the directory.
    let mut days = 0;
    while check(&here, &secret).await == "ldap:ann Viewer" {
        time.pass(DAY);
        here.sweep().await;
        days += 1;
        assert!(days <= 30, "she was seen {days} days ago");
    }
    assert_eq!(days, 30);
    assert_eq!(check(&here, &secret).await, DISABLED);
    time.pass(HOUR);
    here.sweep().await;
    becomes(&there, &secret, DISABLED).await;
    assert_eq!(here.basic_at_admin("ann", &password("ann")).await, "ldap:ann Viewer");
    assert_eq!(check(&here, &secret).await, "ldap:ann Viewer");
    becomes(&there, &secret, "ldap:ann Viewer").await;

    // Gone.
    slapd.administrator().delete(&person("ann"));
    time.pass(HOUR);
    here.sweep().await;
    for secret in [&secret, &early] {
        becomes(&here, secret, DISABLED).await;
        becomes(&there, secret, DISABLED).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_whom_the_directory_disabled_loses_their_keys_and_other_rules_count_at_once() {
    let slapd = Slapd::start();
    let (time, db) = (Time::new(), Database::sqlite());
    let config = with_admin("sqlite:keys.db", &ldap(&slapd, ""), "");
    let here = Process::start(&db, &time, &config).await;
    let there = Process::start(&db, &time, SIDECAR).await;
    assert_eq!(here.basic_at_admin("bob", &password("bob")).await, "ldap:bob Viewer");
    let secret = key_of(&here, &ldap_person("bob"), None).await;
    becomes(&there, &secret, "ldap:bob Viewer").await;
    // Another role for his groups, without asking anybody.
    let current = here.snapshots.current();
    let stronger = config.replace("role: Viewer}", "role: Editor}");
    here.snapshots.replace(snapshot(&stronger, &time, Some(&current)));
    assert_eq!(check(&here, &secret).await, "ldap:bob Editor");
    here.reload(&config).await;
    assert_eq!(check(&here, &secret).await, "ldap:bob Viewer");

    slapd.administrator().set(&person("bob"), "pwdAccountLockedTime", &["000001010000Z"]);
    time.pass(HOUR);
    here.sweep().await;
    becomes(&here, &secret, DISABLED).await;
    becomes(&there, &secret, DISABLED).await;
    // The configuration knows the directory no longer.
    slapd.administrator().set(&person("bob"), "pwdAccountLockedTime", &[]);
    time.pass(MINUTE);
    assert_eq!(here.basic_at_admin("bob", &password("bob")).await, "ldap:bob Viewer");
    assert_eq!(check(&here, &secret).await, "ldap:bob Viewer");
    here.reload(&with_users("")).await;
    assert_eq!(check(&here, &secret).await, DISABLED);
    becomes(&there, &secret, DISABLED).await;
}

/// Whether this actor is admitted.
fn admits(allow: &Value, actor: &Actor) -> bool {
    Allow::new(allow).expect("it is a legal block").admits(actor)
}

fn role_of(number: u8) -> Option<Role> {
    [None, Some(Role::Viewer), Some(Role::Editor), Some(Role::Admin)][usize::from(number)]
}

proptest! {
    /// An actor gets through keys of theirs only what they, or a lower role with their other members, could.
    #[test]
    fn nobody_gets_through_their_keys_what_they_could_not(
        own_role in 0_u8..4,
        key_role in 0_u8..4,
        team in prop::option::of("[ab]"),
        key_name in "[ab]",
        own_policies in prop::option::of(prop::collection::vec("[pqr]", 0..3)),
        key_policies in prop::option::of(prop::collection::vec("[pqr]", 0..3)),
        wanted_role in "Viewer|Editor|Admin",
        wanted_team in "[ab]",
        policy in "[pqr]",
    ) {
        let (own_role, key_role) = (role_of(own_role), role_of(key_role));
        let id = PersonId { source: PersonSource::Config, subject: "ann".into() };
        let actor = |role: Option<Role>| {
            let mut members = Map::from_iter([("id".to_owned(), json!("ann"))]);
            members.extend(role.map(|role| ("role".to_owned(), json!(role.as_str()))));
            members.extend(team.as_ref().map(|team| ("team".to_owned(), json!(team))));
            Actor::configured(members).unwrap()
        };
        let mut owner = Principal::new(Kind::User, "ann".into(), actor(own_role));
        owner.policies = own_policies.as_ref().map(|names| names.iter().map(|name| Arc::from(&**name)).collect());
        owner.person = Some(Arc::new(Person { id: id.clone(), binding: TokenDigest::of(b""), claims: None }));
        let owner = Arc::new(owner);

        let (sender, _receiver) = tokio::sync::mpsc::unbounded_channel();
        let index = Index::new(sender);
        let digest = TokenDigest::of(b"the secret");
        index.put(StoredKey { key: stored(&key_name, &id, key_role, key_policies), digest, previous: None });
        let KeyLookup::OfPerson(key) = index.find(&digest, Timestamp::UNIX_EPOCH) else { panic!("it is a person's") };
        let Some(principal) = key.principal(&owner) else {
            // Nothing is admitted.
            prop_assert!(key_role.is_some() && own_role.is_none());
            return Ok(());
        };
        let lower = [Role::Viewer, Role::Editor, Role::Admin].into_iter().filter(|role| own_role.is_some_and(|own| *role <= own)).map(Some);
        let could_be: Vec<Actor> = lower.chain([own_role]).map(actor).collect();
        for allow in [
            json!({"id": "ann"}),
            json!({"role": wanted_role}),
            json!({"team": wanted_team}),
            json!({"role": wanted_role, "team": wanted_team}),
            json!({"role": "*"}),
        ] {
            if admits(&allow, &principal.actor) {
                prop_assert!(could_be.iter().any(|actor| admits(&allow, actor)), "{allow}");
            }
        }
        if principal.counts_under(&policy) {
            prop_assert!(owner.counts_under(&policy));
        }
        if let Some(role) = principal.actor.member("role").and_then(Value::as_str) {
            let role = Role::parse(role);
            prop_assert!(role <= own_role && key_role.is_none_or(|most| role <= Some(most)));
        }
    }
}

fn stored(name: &str, owner: &PersonId, role: Option<Role>, policies: Option<Vec<String>>) -> Key {
    Key {
        id: 1,
        name: name.to_owned(),
        description: None,
        owner: KeyOwner::Person(owner.clone()),
        role,
        actor: Map::new(),
        policies,
        created_at: Timestamp::UNIX_EPOCH,
        created_by: "ann".to_owned(),
        imported_at: None,
        expires_at: None,
        previous_until: None,
        last_used_at: None,
        uses: 0,
        last_address: None,
        disabled_at: None,
        revoked_at: None,
        revoked_by: None,
    }
}
