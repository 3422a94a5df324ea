//! People of providers between two log-ins, in process and under a clock that a test sets: what becomes of their sessions and
//! of their records in the store.  Nobody is asked about them, so no provider is needed.

use std::sync::Arc;
use std::time::Duration;

use envoy_auth_tokens::config::{ClaimRole, Endpoints, ProviderSettings};
use envoy_auth_tokens::identity::people::{providers, record_of};
use envoy_auth_tokens::keys::{Role, StoreErrors};
use envoy_auth_tokens::person::{PersonId, PersonSource, ProviderName};
use envoy_auth_tokens::policy::Requirement;
use envoy_auth_tokens::snapshot::Snapshot;
use serde_json::{Map, Value, json};

use crate::keys_store::{Database, Lines, Time, on_both_stores, soon};
use crate::people_sessions::{MINUTE, OVER, Process, sidecar, snapshot};

const HOUR: i64 = 60 * MINUTE;
const ADMIN: &str =
    "keys: {store: \"sqlite:keys.db\"}\nadmin: {listen: \"127.0.0.1:0\"}\ncredentials: [bearer, session]\n";

/// A provider whose people have these roles by their groups.
pub(crate) fn provider(name: &str, binding: u8, roles: &[(&str, Role)]) -> ProviderSettings {
    let role = |&(group, role): &(&str, Role)| ClaimRole {
        requirement: Some(("groups".into(), Requirement::new("groups", &json!(group)).unwrap())),
        role,
    };
    ProviderSettings {
        name: name.parse().unwrap(),
        label: name.into(),
        endpoints: Endpoints::OpenIdConnect { issuer: "https://id.example.com".into() },
        client_id: "envoy-auth-tokens".into(),
        client_secret: None,
        scopes: Box::new([]),
        id: "sub".into(),
        members: Box::new([("team".into(), "team".into())]),
        roles: roles.iter().map(role).collect(),
        plain_ids: false,
        allowed_domains: Box::new([]),
        logout_url: None,
        ca: Box::new([]),
        timeout: Duration::from_secs(5),
        binding: [binding; 32],
    }
}

pub(crate) fn corporate() -> ProviderSettings {
    provider("corporate", 1, &[("admins", Role::Admin), ("staff", Role::Viewer)])
}

/// The rules of a server that has `admin` and these providers.
pub(crate) fn rules(time: &Time, previous: Option<&Snapshot>, providers: Vec<ProviderSettings>) -> Snapshot {
    let mut snapshot = snapshot(ADMIN, time, previous);
    snapshot.providers = providers.into_iter().map(Arc::new).collect();
    snapshot
}

fn carol() -> PersonId {
    person("corporate", "carol")
}

pub(crate) fn person(provider: &str, subject: &str) -> PersonId {
    let name: ProviderName = provider.parse().unwrap();
    PersonId { source: PersonSource::Provider(name), subject: subject.into() }
}

fn claims(subject: &str, group: &str) -> Map<String, Value> {
    let claims = json!({"sub": subject, "groups": [group], "team": "blue"});
    claims.as_object().unwrap().clone()
}

/// Logs somebody in, by what their provider says of them.
pub(crate) async fn log_in(
    process: &Process,
    time: &Time,
    provider: &str,
    subject: &str,
    group: &str,
) -> [String; 2] {
    let snapshot = process.snapshots.current();
    let settings = snapshot.provider(&provider.parse().unwrap()).expect("it is configured");
    let user = providers::user_of(claims(subject, group), time.now(), settings, &snapshot).unwrap();
    process.open_sessions(&user).await
}

/// Whether the record of a person says that they ended; `None` without a record.
fn has_ended(process: &Process, person: &PersonId) -> Option<bool> {
    process.keys.find_person(person).map(|person| person.ended_at.is_some())
}

async fn sessions_stored(db: &Database) -> i64 {
    db.number("SELECT count(*) FROM api_sessions").await
}

const LIVE: [&str; 2] = ["corporate:carol Admin"; 2];

on_both_stores! {
    a_session_lives_twelve_hours_here_and_where_nobody_is_decided
    a_person_without_a_session_ends_and_is_back_at_the_next_log_in
    a_session_that_was_just_opened_elsewhere_keeps_its_person
    another_role_counts_after_a_reload_and_none_ends_the_sessions
    a_provider_that_leaves_takes_its_people_with_it
    another_binding_ends_what_was_opened_under_the_old_one
    a_start_writes_what_the_rules_say
}

async fn a_session_lives_twelve_hours_here_and_where_nobody_is_decided(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let cookies = log_in(&admin, &time, "corporate", "carol", "admins").await;
    assert_eq!(admin.session(&cookies).await, LIVE);
    soon("known there", async || other.check("cookie", &cookies[1]).await == LIVE[1]).await;
    for _ in 0..12 {
        time.pass(HOUR - 1);
        admin.sweep().await;
        assert_eq!(admin.session(&cookies).await, LIVE);
        assert_eq!(other.check("cookie", &cookies[1]).await, LIVE[1]);
    }
    time.pass(11);
    assert_eq!(admin.session(&cookies).await, LIVE, "a second before the end");
    assert_eq!(other.check("cookie", &cookies[1]).await, LIVE[1]);
    time.pass(1);
    // Each goes by its own clock, though the record is as it was.
    assert_eq!(has_ended(&other, &carol()), Some(false));
    assert_eq!(admin.session(&cookies).await, OVER);
    assert_eq!(other.check("cookie", &cookies[1]).await, OVER[1]);
    // What died of age is no log-in that an administrator ends.
    assert_eq!(admin.keys.end_sessions(&carol(), None).await.unwrap(), 0);
}

async fn a_person_without_a_session_ends_and_is_back_at_the_next_log_in(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let first = log_in(&admin, &time, "corporate", "carol", "admins").await;
    log_in(&admin, &time, "corporate", "dan", "staff").await;
    time.pass(HOUR);
    let second = log_in(&admin, &time, "corporate", "carol", "admins").await;
    time.pass(11 * HOUR);
    admin.sweep().await;
    // Dan's only one is over, and carol has another.
    assert_eq!(admin.session(&first).await, OVER);
    assert_eq!(admin.session(&second).await, LIVE);
    let dan = person("corporate", "dan");
    assert_eq!((has_ended(&admin, &carol()), has_ended(&admin, &dan)), (Some(false), Some(true)));
    soon("told there", async || has_ended(&other, &dan) == Some(true)).await;
    time.pass(HOUR);
    admin.sweep().await;
    assert_eq!(has_ended(&admin, &carol()), Some(true));

    let third = log_in(&admin, &time, "corporate", "carol", "staff").await;
    let viewer = ["corporate:carol Viewer"; 2];
    assert_eq!(admin.session(&third).await, viewer);
    soon("known there", async || other.check("cookie", &third[1]).await == viewer[1]).await;
    // Whoever logs out, or is logged out, has ended as well.
    admin.keys.end_sessions(&carol(), None).await.unwrap();
    assert_eq!(has_ended(&admin, &carol()), Some(false));
    admin.sweep().await;
    assert_eq!(has_ended(&admin, &carol()), Some(true));
    // It is done once.
    let changes = async || db.number("SELECT value FROM api_revision").await;
    let before = changes().await;
    admin.sweep().await;
    admin.write_records().await;
    assert_eq!(changes().await, before);
    assert_eq!(admin.keys.store_errors(), StoreErrors::default());
}

async fn a_session_that_was_just_opened_elsewhere_keeps_its_person(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let snapshot = admin.snapshots.current();
    let settings = Arc::clone(&snapshot.providers[0]);
    let user = providers::user_of(claims("carol", "admins"), time.now(), &settings, &snapshot).unwrap();
    admin.keys.record_person(&record_of(&user, time.now()).unwrap()).await.unwrap();
    // One that has read the record, and no session since.
    let (behind, _) = db.open_ticked(&time).await;
    let cookies = admin.open_sessions(&user).await;
    assert!(behind.keys.sessions_of(|_| true).is_empty());
    assert!(!behind.keys.end_person_without_session(&carol()).await.unwrap());
    assert_eq!(has_ended(&admin, &carol()), Some(false));
    time.pass(12 * HOUR - 1);
    assert!(!behind.keys.end_person_without_session(&carol()).await.unwrap());

    // One that ended her all the same, between record and session: the next sweep sees the session.
    assert!(behind.keys.end_person(&carol()).await.unwrap());
    soon("told", async || has_ended(&admin, &carol()) == Some(true)).await;
    admin.sweep().await;
    assert_eq!(has_ended(&admin, &carol()), Some(false));
    assert_eq!(admin.session(&cookies).await, LIVE);
    time.pass(1);
    assert!(behind.keys.end_person_without_session(&carol()).await.unwrap());
}

async fn another_role_counts_after_a_reload_and_none_ends_the_sessions(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let [cookies, dan] = [
        log_in(&admin, &time, "corporate", "carol", "admins").await,
        log_in(&admin, &time, "corporate", "dan", "staff").await,
    ];
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let capture = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let reload = async |roles: &[(&str, Role)]| {
        let current = admin.snapshots.current();
        admin.replace(rules(&time, Some(&current), vec![provider("corporate", 1, roles)])).await;
    };
    reload(&[("admins", Role::Editor), ("staff", Role::Viewer)]).await;
    let editor = ["corporate:carol Editor"; 2];
    assert_eq!(admin.session(&cookies).await, editor);
    soon("told there", async || other.check("cookie", &cookies[1]).await == editor[1]).await;
    assert_eq!(lines.audit(), Vec::<Value>::new());

    reload(&[("staff", Role::Viewer)]).await;
    assert_eq!(admin.session(&cookies).await, OVER);
    assert_eq!(admin.session(&dan).await, ["corporate:dan Viewer"; 2]);
    assert_eq!(has_ended(&admin, &carol()), Some(true));
    soon("told there", async || other.check("cookie", &cookies[1]).await == OVER[1]).await;
    let told = lines.audit();
    let [line] = &told[..] else { panic!("{told:?}") };
    assert!(line["message"].as_str().unwrap().starts_with("sessions ended: "), "{line}");
    assert_eq!(
        (&line["source"], &line["user"], &line["reason"], &line["ended_sessions"]),
        (&json!("corporate"), &json!("carol"), &json!("no_role"), &json!(1))
    );
    // For good: the provider is the one to say who she is by now.
    reload(&[("admins", Role::Admin), ("staff", Role::Viewer)]).await;
    assert_eq!(admin.session(&cookies).await, OVER);
    assert_eq!(has_ended(&admin, &carol()), Some(true));
    assert_eq!(lines.audit().len(), 1);
    drop(capture);
    assert_eq!(sessions_stored(&db).await, 2, "dan's");
}

async fn a_provider_that_leaves_takes_its_people_with_it(db: Database) {
    let time = Time::new();
    let both = || vec![corporate(), provider("partners", 2, &[("staff", Role::Viewer)])];
    let admin = Process::of(&db, &time, rules(&time, None, both())).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let carol_here = log_in(&admin, &time, "corporate", "carol", "admins").await;
    let carol_there = log_in(&admin, &time, "partners", "carol", "staff").await;
    let namesake = person("partners", "carol");
    // Somebody who has no session any more, and a record yet.
    log_in(&admin, &time, "corporate", "dan", "staff").await;
    admin.keys.end_sessions(&person("corporate", "dan"), None).await.unwrap();

    let current = admin.snapshots.current();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let capture = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    admin.replace(rules(&time, Some(&current), both().split_off(1))).await;
    drop(capture);
    assert_eq!(admin.session(&carol_here).await, OVER);
    assert_eq!(admin.session(&carol_there).await, ["partners:carol Viewer"; 2]);
    assert_eq!((has_ended(&admin, &carol()), has_ended(&admin, &namesake)), (Some(true), Some(false)));
    assert_eq!(has_ended(&admin, &person("corporate", "dan")), Some(true));
    soon("told there", async || other.check("cookie", &carol_here[1]).await == OVER[1]).await;
    let told: Vec<_> =
        lines.audit().iter().map(|line| (line["source"].clone(), line["reason"].clone())).collect();
    assert_eq!(told, [(json!("corporate"), json!("not_configured"))]);

    // All of them, and the last provider; back, it brings nobody back.
    let current = admin.snapshots.current();
    admin.replace(rules(&time, Some(&current), Vec::new())).await;
    assert_eq!(
        (admin.session(&carol_there).await, has_ended(&admin, &namesake)),
        (OVER.map(str::to_owned), Some(true))
    );
    assert_eq!(sessions_stored(&db).await, 0);
    let current = admin.snapshots.current();
    admin.replace(rules(&time, Some(&current), both())).await;
    assert_eq!(admin.session(&carol_here).await, OVER);
    assert_eq!((has_ended(&admin, &carol()), has_ended(&admin, &namesake)), (Some(true), Some(true)));
    assert_eq!(admin.keys.store_errors(), StoreErrors::default());
}

async fn another_binding_ends_what_was_opened_under_the_old_one(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let cookies = log_in(&admin, &time, "corporate", "carol", "admins").await;
    soon("known there", async || other.check("cookie", &cookies[1]).await == LIVE[1]).await;
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let capture = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    let current = admin.snapshots.current();
    let moved = || ProviderSettings { binding: [9; 32], ..corporate() };
    admin.replace(rules(&time, Some(&current), vec![moved()])).await;
    drop(capture);
    assert_eq!(admin.session(&cookies).await, OVER);
    assert_eq!(has_ended(&admin, &carol()), Some(true));
    soon("told there", async || other.check("cookie", &cookies[1]).await == OVER[1]).await;
    assert_eq!(sessions_stored(&db).await, 0);
    let told = lines.audit();
    assert_eq!(told.iter().map(|line| &line["reason"]).collect::<Vec<_>>(), ["other_settings"]);
    let again = log_in(&admin, &time, "corporate", "carol", "admins").await;
    assert_eq!(admin.session(&again).await, LIVE);
    soon("known there", async || other.check("cookie", &again[1]).await == LIVE[1]).await;
    // The same settings end nothing.
    let current = admin.snapshots.current();
    admin.replace(rules(&time, Some(&current), vec![moved()])).await;
    assert_eq!(admin.session(&again).await, LIVE);
}

async fn a_start_writes_what_the_rules_say(db: Database) {
    let time = Time::new();
    let admin = Process::of(&db, &time, rules(&time, None, vec![corporate()])).await;
    let other = Process::start(&db, &time, sidecar()).await;
    let cookies = log_in(&admin, &time, "corporate", "carol", "admins").await;
    log_in(&admin, &time, "corporate", "dan", "staff").await;
    drop(admin);
    // Meanwhile dan's sessions end of age, and somebody empties the records.
    time.pass(HOUR);
    db.sql("DELETE FROM api_people WHERE subject = 'carol'").await;
    soon("nobody there", async || other.check("cookie", &cookies[1]).await == OVER[1]).await;
    let earlier = match db {
        Database::Sqlite(_) => "created_at - 43200",
        Database::Postgres { .. } => "created_at - interval '12 hours'",
    };
    db.sql(&format!("UPDATE api_sessions SET created_at = {earlier} WHERE user_name = 'dan'")).await;

    let roles = [("admins", Role::Editor), ("staff", Role::Viewer)];
    let again = rules(&time, None, vec![provider("corporate", 1, &roles)]);
    let admin = Process::of(&db, &time, again).await;
    let editor = "corporate:carol Editor";
    assert_eq!(admin.session(&cookies).await, [editor; 2]);
    let recorded = admin.keys.find_person(&carol()).unwrap();
    assert_eq!(recorded.actor().member("team"), Some(&json!("blue")));
    assert_eq!((recorded.role, recorded.ended_at), (Some(Role::Editor), None));
    soon("known there", async || other.check("cookie", &cookies[1]).await == editor).await;
    assert_eq!(has_ended(&admin, &person("corporate", "dan")), Some(true));
}
