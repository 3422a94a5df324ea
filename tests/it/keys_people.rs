//! People, and the sessions of one log-in, in both stores: each scenario runs on SQLite and on a real PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use envoy_auth_tokens::keys::people::PersonRecord;
use envoy_auth_tokens::keys::sessions::{MAX_SESSIONS_PER_PERSON, NewSessions, OpenedSessions, Session};
use envoy_auth_tokens::keys::store::source::Revision;
use envoy_auth_tokens::keys::store::{Gate, SCHEMA, StoreError, StoreFailure, StoreUrl, back_up};
use envoy_auth_tokens::keys::{Keys, Role, SessionScope, StoreErrors, StoredPerson};
use envoy_auth_tokens::person::{PersonId, PersonSource};
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::token::TokenDigest;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType};

use crate::harness::postgres::{Postgres, Rights};
use crate::keys_history::Backup;
use crate::keys_store::{Database, Replica, Time, at, configured, digest, log_in, on_both_stores, soon};

const DAY: i64 = 86_400;
const MAX_SESSIONS: usize = MAX_SESSIONS_PER_PERSON as usize;

pub(crate) fn ldap(subject: &str) -> PersonId {
    PersonId { source: PersonSource::Ldap, subject: subject.into() }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn binding(scope: SessionScope) -> TokenDigest {
    TokenDigest::of(scope.as_str().as_bytes())
}

/// Opens sessions of these scopes.
async fn open(keys: &Keys, person: &PersonId, scopes: &[SessionScope]) -> OpenedSessions {
    let bindings = scopes.iter().map(|scope| (*scope, binding(*scope))).collect();
    let claims = Some(object(json!({"name": "ann", "groups": ["cn=admins", "cn=\u{1f980}"]})));
    let opened = keys
        .open_sessions(&NewSessions { person: person.clone(), bindings, claims, checked_at: None }, &[])
        .await
        .unwrap();
    let of: Vec<SessionScope> = opened.cookies.iter().map(|(scope, _)| *scope).collect();
    assert_eq!(of, scopes);
    opened
}

/// A log-in to the page and to the application: both secrets.
async fn open_both(keys: &Keys, person: &PersonId) -> [Secret; 2] {
    let opened = open(keys, person, &[SessionScope::Admin, SessionScope::Application]).await;
    let cookies: Vec<Secret> = opened.cookies.into_iter().map(|(_, cookie)| cookie).collect();
    cookies.try_into().unwrap_or_else(|_| panic!("two cookies"))
}

fn session(replica: &Replica, cookie: &Secret) -> Arc<Session> {
    replica.keys.find_session(&digest(cookie), replica.time.now()).expect("a live session")
}

fn has(replica: &Replica, cookies: &[Secret]) -> Vec<bool> {
    cookies.iter().map(|cookie| replica.has_session(cookie)).collect()
}

fn record(person: PersonId, seen_at: Timestamp) -> StoredPerson {
    let actor = object(json!({"id": format!("ldap:{}", person.subject), "groups": ["a", {"b": null}]}));
    let binding = TokenDigest::of(b"settings");
    let claims = Some(object(json!({"groups": ["a"]})));
    StoredPerson { person, actor, role: Some(Role::Editor), binding, claims, seen_at, ended_at: None }
}

fn find(replica: &Replica, subject: &str) -> Option<Arc<PersonRecord>> {
    replica.keys.find_person(&ldap(subject))
}

async fn revision(db: &Database) -> i64 {
    db.number("SELECT value FROM api_revision").await
}

on_both_stores! {
    the_sessions_of_a_log_in_end_together
    each_session_of_a_log_in_lives_by_its_own_use
    too_many_sessions_of_one_scope_end_whole_log_ins_of_that_person
    log_ins_at_once_leave_no_scope_with_too_many
    all_sessions_of_a_person_end_and_nobody_elses
    claims_reach_both_sessions_of_a_log_in_and_every_replica
    a_person_is_known_to_every_replica
    that_a_person_was_seen_is_written_once_a_minute_and_is_no_change
    people_changed_behind_our_back_arrive
    people_make_room_for_new_ones
    people_who_ended_leave_after_four_hundred_days
    a_restored_store_is_read_whole_with_people_and_sessions
    what_only_newer_versions_know_does_not_count_and_harms_nobody
    a_process_that_only_reads_follows_people_and_writes_nothing
    a_store_of_schema_3_keeps_its_sessions_and_its_programs
}

async fn the_sessions_of_a_log_in_end_together(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (ann, other) = (ldap("ann"), open_both(&here.keys, &ldap("ann")).await);
    // Whichever of the two is closed, and wherever.
    for (closed, at_here) in [(0, true), (1, true), (0, false), (1, false)] {
        let pair = open_both(&here.keys, &ann).await;
        assert_ne!(pair[0].expose(), pair[1].expose());
        soon("known elsewhere", async || has(&there, &pair) == [true, true]).await;
        for replica in [&here, &there] {
            for (cookie, scope) in pair.iter().zip([SessionScope::Admin, SessionScope::Application]) {
                let session = session(replica, cookie);
                assert_eq!((&session.person, session.scope), (&ann, scope));
                assert_eq!(session.binding, binding(scope));
                assert_eq!((session.created_at, session.checked_at), (time.now(), time.now()));
                assert_eq!(session.claims.as_ref().unwrap()["groups"][1], "cn=\u{1f980}");
            }
        }
        let (closing, following) = if at_here { (&here, &there) } else { (&there, &here) };
        closing.keys.close_session(&digest(&pair[closed]), &[]).await.unwrap();
        assert_eq!(has(closing, &pair), [false, false]);
        soon("closed elsewhere", async || has(following, &pair) == [false, false]).await;
        closing.keys.close_session(&digest(&pair[closed]), &[]).await.unwrap();
    }
    for replica in [&here, &there] {
        assert_eq!(has(replica, &other), [true, true], "another log-in of the same person");
    }
    assert_eq!(db.number("SELECT count(*) FROM api_sessions WHERE parent IS NOT NULL").await, 1);

    // One for the application alone has nothing beside it.
    let alone = open(&here.keys, &ann, &[SessionScope::Application]).await.cookies.remove(0).1;
    assert_eq!(session(&here, &alone).scope, SessionScope::Application);
    here.keys.close_session(&digest(&alone), &[]).await.unwrap();
    assert!(!here.has_session(&alone));
    assert_eq!(has(&here, &other), [true, true]);
    assert_eq!(
        (here.keys.store_errors(), there.keys.store_errors()),
        <(StoreErrors, StoreErrors)>::default()
    );
}

async fn each_session_of_a_log_in_lives_by_its_own_use(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let pair = open_both(&replica.keys, &ldap("ann")).await;
    time.pass(23 * 3600);
    assert!(replica.has_session(&pair[1]));
    follower.tick().await;
    time.pass(2 * 3600);
    assert_eq!(has(&replica, &pair), [false, true]);
    // Whoever begins to follow removes the dead one, and the other goes on, here and there.
    let next = db.open(&time).await;
    let stored = async || db.number("SELECT count(*) FROM api_sessions").await == 1;
    soon("the dead one is removed", stored).await;
    follower.tick().await;
    assert_eq!((has(&replica, &pair), has(&next, &pair)), (vec![false, true], vec![false, true]));
    replica.keys.close_session(&digest(&pair[1]), &[]).await.unwrap();
    assert_eq!(db.number("SELECT count(*) FROM api_sessions").await, 0);
}

async fn too_many_sessions_of_one_scope_end_whole_log_ins_of_that_person(db: Database) {
    let time = Time::new();
    let here = db.open(&time).await;
    let keys = &here.keys;
    let password = TokenDigest::of(b"hash");
    // The same name elsewhere, and somebody else.
    let others = [log_in(keys, "ann", &password).await, log_in(keys, "bob", &password).await];
    let bob = open_both(keys, &ldap("bob")).await;
    let ann = ldap("ann");
    let mut pairs = Vec::new();
    for _ in 0..MAX_SESSIONS {
        pairs.push(open_both(keys, &ann).await);
    }
    assert!(pairs.iter().all(|pair| has(&here, pair) == [true, true]));
    // One more for the application ends the oldest log-in, and so the page's session of it.
    let alone = open(keys, &ann, &[SessionScope::Application]).await;
    assert_eq!(alone.ended, 1);
    assert_eq!((has(&here, &pairs[0]), has(&here, &pairs[1])), (vec![false; 2], vec![true; 2]));
    // Of the page's sessions there are 99 now, of the application's a hundred.
    let page = open(keys, &ann, &[SessionScope::Admin]).await;
    assert_eq!(page.ended, 0);
    let both = open(keys, &ann, &[SessionScope::Admin, SessionScope::Application]).await;
    assert_eq!(both.ended, 1, "the oldest log-in is the oldest of both scopes");
    assert_eq!((has(&here, &pairs[1]), has(&here, &pairs[2])), (vec![false; 2], vec![true; 2]));
    for opened in [&alone, &page, &both] {
        assert!(opened.cookies.iter().all(|(_, cookie)| here.has_session(cookie)));
    }
    assert_eq!((has(&here, &others), has(&here, &bob)), (vec![true; 2], vec![true; 2]));
    let stored = "SELECT count(*) FROM api_sessions WHERE user_name = 'ann' AND source = 'ldap'";
    assert_eq!(db.number(stored).await, 2 * i64::from(MAX_SESSIONS_PER_PERSON));
}

async fn log_ins_at_once_leave_no_scope_with_too_many(db: Database) {
    let time = Time::new();
    let replicas = [db.open(&time).await, db.open(&time).await];
    let mut opened = Vec::new();
    // Forty at once: each waits for a connection no longer than a busy machine lets it.
    for wave in 0..4 {
        let opening = (40 * wave..40 * (wave + 1)).map(|number| {
            let keys = Arc::clone(&replicas[number % 2].keys);
            tokio::spawn(async move {
                let both: &[SessionScope] = &[SessionScope::Admin, SessionScope::Application];
                let scopes = if number % 3 == 0 { &both[1..] } else { both };
                open(&keys, &ldap("ann"), scopes).await.cookies
            })
        });
        for log_in in opening.collect::<Vec<_>>() {
            opened.extend(log_in.await.unwrap());
        }
    }
    let count =
        async |what: &str| db.number(&format!("SELECT count(*) FROM api_sessions s WHERE {what}")).await;
    assert_eq!(count("scope = 'application'").await, i64::from(MAX_SESSIONS_PER_PERSON));
    let pairs = count("scope = 'admin'").await;
    assert!((40..=100).contains(&pairs), "{pairs}");
    // No log-in is left with half of its sessions.
    assert_eq!(count("parent IS NOT NULL").await, pairs);
    let of_a_pair = "parent IN (SELECT digest FROM api_sessions WHERE scope = 'admin')";
    assert_eq!(count(of_a_pair).await, pairs);
    let stored = usize::try_from(pairs).unwrap() + MAX_SESSIONS;
    for replica in &replicas {
        let live = async || opened.iter().filter(|(_, cookie)| replica.has_session(cookie)).count() == stored;
        soon("every replica knows the same", live).await;
        assert_eq!(replica.keys.store_errors(), StoreErrors::default());
    }
}

async fn all_sessions_of_a_person_end_and_nobody_elses(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let ann = ldap("ann");
    open_both(&here.keys, &ann).await;
    time.pass(DAY);
    let mut cookies = Vec::new();
    for _ in 0..2 {
        cookies.extend(open_both(&here.keys, &ann).await);
    }
    cookies.push(open(&here.keys, &ann, &[SessionScope::Application]).await.cookies.remove(0).1);
    let others = [
        log_in(&here.keys, "ann", &TokenDigest::of(b"hash")).await,
        open_both(&here.keys, &ldap("bob")).await[0].clone(),
    ];
    soon("known elsewhere", async || has(&there, &cookies) == [true; 5]).await;
    let ended = there.keys.end_sessions(&ann, None).await.unwrap();
    assert_eq!(ended, 3, "three log-ins: another one had died of age");
    assert_eq!(has(&there, &cookies), [false; 5]);
    soon("ended elsewhere", async || has(&here, &cookies) == [false; 5]).await;
    assert_eq!(has(&here, &others), [true, true]);
    let of_ann = "SELECT count(*) FROM api_sessions WHERE user_name = 'ann' AND source = 'ldap'";
    assert_eq!(db.number(of_ann).await, 0);
    let before = revision(&db).await;
    assert_eq!(there.keys.end_sessions(&ann, None).await.unwrap(), 0);
    assert_eq!(revision(&db).await, before, "nothing was changed");
}

async fn claims_reach_both_sessions_of_a_log_in_and_every_replica(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (pair, other) =
        (open_both(&here.keys, &ldap("ann")).await, open_both(&here.keys, &ldap("ann")).await);
    let known = |replica: &Replica, cookie: &Secret| {
        let session = session(replica, cookie);
        (session.claims.clone().unwrap(), session.checked_at)
    };
    soon("known elsewhere", async || has(&there, &pair) == [true; 2] && has(&there, &other) == [true; 2])
        .await;
    let (first, opened_at) = known(&here, &pair[0]);
    let mut expected = first.clone();
    // Of either of the two; the last time only the instant is another one.
    for (number, groups) in [(0, json!(["cn=users"])), (1, json!([])), (1, json!([]))] {
        time.pass(600);
        expected.insert("groups".to_owned(), groups);
        let now = time.now();
        here.keys.update_claims(&digest(&pair[number]), &expected, now).await.unwrap();
        for cookie in &pair {
            assert_eq!(known(&here, cookie), (expected.clone(), now));
        }
        let arrived = async || pair.iter().all(|cookie| known(&there, cookie) == (expected.clone(), now));
        soon("the claims arrive elsewhere", arrived).await;
    }
    assert_eq!(known(&here, &other[0]), (first.clone(), opened_at), "another log-in has its own");

    // What was said earlier never replaces what was said later, whoever writes it.
    let checked_at = time.now();
    there.keys.update_claims(&digest(&pair[0]), &first, at(checked_at.as_second() - 1)).await.unwrap();
    assert_eq!(known(&there, &pair[0]), (expected.clone(), checked_at));
    // A session that has ended stays so.
    there.keys.close_session(&digest(&other[0]), &[]).await.unwrap();
    there.keys.update_claims(&digest(&other[1]), &first, checked_at).await.unwrap();
    assert_eq!(has(&there, &other), [false; 2]);
    assert_eq!(db.number("SELECT count(*) FROM api_sessions").await, 2);
    assert_eq!(known(&db.open(&time).await, &pair[1]), (expected, checked_at));
}

async fn a_person_is_known_to_every_replica(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let ann = record(ldap("ann"), time.now());
    assert!(find(&here, "ann").is_none());
    here.keys.record_person(&ann).await.unwrap();
    let user = StoredPerson { person: configured("ann"), role: None, ..ann.clone() };
    here.keys.record_person(&user).await.unwrap();
    let person = find(&here, "ann").unwrap();
    assert_eq!((person.role, person.binding, person.ended_at), (Some(Role::Editor), ann.binding, None));
    assert_eq!(*person.actor().members(), ann.actor);
    let principal = person.principal();
    assert_eq!((principal.kind.as_str(), &*principal.name), ("session", "ann"));
    assert_eq!(here.keys.find_person(&configured("ann")).unwrap().role, None);
    soon("known elsewhere", async || there.keys.find_person(&configured("ann")).is_some()).await;
    assert_eq!(there.keys.people(&PersonSource::Ldap), [ldap("ann")]);
    assert_eq!(there.keys.people(&PersonSource::Config), [configured("ann")]);

    // The principal stays as long as the record does, and with it the answer that is encoded for it.
    let before = find(&there, "ann").unwrap();
    time.pass(600);
    there.keys.record_person(&StoredPerson { seen_at: time.now(), ..ann.clone() }).await.unwrap();
    assert!(Arc::ptr_eq(&before, &find(&there, "ann").unwrap()));

    // Each of its parts is a change.
    let member =
        |replica: &Replica| find(replica, "ann").and_then(|person| person.actor().member("zone").cloned());
    let mut changed = ann.clone();
    changed.actor.insert("zone".to_owned(), json!([1, "Zoë"]));
    there.keys.record_person(&changed).await.unwrap();
    soon("another actor", async || member(&here) == Some(json!([1, "Zoë"]))).await;
    changed.role = Some(Role::Admin);
    here.keys.record_person(&changed).await.unwrap();
    soon("another role", async || find(&there, "ann").unwrap().role == Some(Role::Admin)).await;
    changed.binding = TokenDigest::of(b"other settings");
    here.keys.record_person(&changed).await.unwrap();
    soon("another binding", async || find(&there, "ann").unwrap().binding == changed.binding).await;

    // To the second, once, and until they are back.
    assert!(there.keys.end_person(&ldap("ann")).await.unwrap());
    assert_eq!(find(&there, "ann").unwrap().ended_at, Some(time.now()));
    assert_eq!(there.keys.people(&PersonSource::Ldap), []);
    soon("ended elsewhere", async || here.keys.people(&PersonSource::Ldap).is_empty()).await;
    let ended_at = time.now();
    time.pass(60);
    assert!(!here.keys.end_person(&ldap("ann")).await.unwrap());
    assert!(!here.keys.end_person(&ldap("nobody")).await.unwrap());
    assert_eq!(find(&here, "ann").unwrap().ended_at, Some(ended_at));
    here.keys.record_person(&changed).await.unwrap();
    assert_eq!(here.keys.people(&PersonSource::Ldap), [ldap("ann")]);
    soon("back elsewhere", async || there.keys.people(&PersonSource::Ldap) == [ldap("ann")]).await;
    // A fraction of a second is not kept, so it is no change either.
    let ended_at = Some(Timestamp::from_millisecond(time.now().as_millisecond() + 999).unwrap());
    let gone = StoredPerson { ended_at, ..changed.clone() };
    here.keys.record_person(&gone).await.unwrap();
    let before = revision(&db).await;
    here.keys.record_person(&gone).await.unwrap();
    assert_eq!(revision(&db).await, before);
    assert_eq!(find(&here, "ann").unwrap().ended_at, Some(time.now()));

    // No actor, no person.
    let forged =
        StoredPerson { actor: object(json!({"id": "key:deploy"})), ..record(ldap("eve"), time.now()) };
    here.keys.record_person(&forged).await.unwrap();
    assert!(find(&here, "eve").is_none() && find(&db.open(&time).await, "eve").is_none());
    assert_eq!(
        (here.keys.store_errors(), there.keys.store_errors()),
        <(StoreErrors, StoreErrors)>::default()
    );
}

async fn that_a_person_was_seen_is_written_once_a_minute_and_is_no_change(db: Database) {
    let time = Time::new();
    let here = db.open(&time).await;
    let ann = record(ldap("ann"), time.now());
    here.keys.record_person(&ann).await.unwrap();
    let (before, start) = (revision(&db).await, time.now().as_second());
    let seen = match &db {
        Database::Sqlite(_) => "SELECT seen_at FROM api_people",
        Database::Postgres { .. } => "SELECT extract(epoch FROM seen_at)::bigint FROM api_people",
    };
    let mut written = Vec::new();
    for seconds in [0, 59, 1, 30, 30, 3600] {
        time.pass(seconds);
        here.keys.record_person(&StoredPerson { seen_at: time.now(), ..ann.clone() }).await.unwrap();
        written.push(db.number(seen).await - start);
    }
    assert_eq!(written, [0, 0, 60, 60, 120, 3720]);
    // Whoever is late takes nothing back.
    here.keys.record_person(&ann).await.unwrap();
    assert_eq!((db.number(seen).await - start, revision(&db).await), (3720, before));
    here.keys.record_person(&StoredPerson { role: None, ..ann }).await.unwrap();
    assert_eq!((db.number(seen).await - start, revision(&db).await), (3720, before + 1));
}

async fn people_changed_behind_our_back_arrive(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    for subject in ["ann", "bob", "carol"] {
        replica.keys.record_person(&record(ldap(subject), time.now())).await.unwrap();
    }
    db.sql("UPDATE api_people SET role = 'Viewer' WHERE subject = 'ann'").await;
    soon("another role", async || find(&replica, "ann").unwrap().role == Some(Role::Viewer)).await;
    // Her record is somebody else's from now on.
    db.sql("UPDATE api_people SET subject = 'dan' WHERE subject = 'ann'").await;
    soon("another subject", async || find(&replica, "dan").is_some() && find(&replica, "ann").is_none())
        .await;
    db.sql("DELETE FROM api_people WHERE subject = 'bob'").await;
    soon("deleted", async || find(&replica, "bob").is_none()).await;
    db.sql("BEGIN; DELETE FROM api_people; ROLLBACK").await;
    assert!(find(&replica, "carol").is_some());
    // Deleted and made anew at once: the record of another id.
    db.sql(
        "BEGIN; CREATE TEMPORARY TABLE kept AS SELECT * FROM api_people WHERE subject = 'carol'; \
         DELETE FROM api_people WHERE subject = 'carol'; \
         INSERT INTO api_people (source, subject, actor, role, binding, seen_at) \
         SELECT source, subject, actor, 'Admin', binding, seen_at FROM kept; DROP TABLE kept; COMMIT",
    )
    .await;
    soon("made anew", async || find(&replica, "carol").is_some_and(|carol| carol.role == Some(Role::Admin)))
        .await;
    db.sql(match db {
        Database::Sqlite(_) => "DELETE FROM api_people",
        Database::Postgres { .. } => "TRUNCATE api_people",
    })
    .await;
    soon("all are gone", async || replica.keys.people(&PersonSource::Ldap).is_empty()).await;
    assert_eq!(replica.keys.store_errors(), StoreErrors::default());
}

async fn people_make_room_for_new_ones(db: Database) {
    let store = db.store().await;
    let gate = Gate::default();
    let add = async |subject: &str, seen_at: i64, ended_at: Option<i64>, max: u32| {
        let stored = StoredPerson { ended_at: ended_at.map(at), ..record(ldap(subject), at(seen_at)) };
        let recorded = store.record_person(&gate, &stored, max).await.unwrap().value;
        let mut deleted = recorded.deleted;
        deleted.sort_unstable();
        (recorded.id, deleted)
    };
    let (ann, _) = add("ann", 300, None, 4).await;
    let (bob, _) = add("bob", 100, None, 4).await;
    let (carol, _) = add("carol", 50, Some(900), 4).await;
    let (dan, deleted) = add("dan", 500, Some(800), 4).await;
    assert!(deleted.is_empty(), "{deleted:?}");
    // Of those that ended the one that did longest ago, then of the others the one that was seen longest ago; never the
    // new one, however long ago that was seen.
    assert_eq!(add("eve", 1, None, 4).await.1, [dan]);
    let (frank, deleted) = add("frank", 2, None, 3).await;
    assert_eq!(deleted.len(), 2);
    assert_eq!(deleted[0], carol);
    assert_eq!(db.number("SELECT count(*) FROM api_people WHERE subject = 'eve'").await, 0);
    assert_eq!(add("grace", 400, None, 3).await.1, [frank]);
    // Who is recorded already needs no room.
    assert_eq!(add("ann", 600, None, 1).await, (ann, vec![]));
    assert_eq!(add("ann", 600, Some(600), 1).await, (ann, vec![]));
    assert_eq!(add("heidi", 700, None, 3).await.1, [ann]);
    assert_eq!(add("ivan", 700, None, 3).await.1, [bob]);
}

async fn people_who_ended_leave_after_four_hundred_days(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let keys = &replica.keys;
    for subject in ["ann", "bob", "carol"] {
        keys.record_person(&record(ldap(subject), time.now())).await.unwrap();
    }
    keys.end_person(&ldap("ann")).await.unwrap();
    time.pass(1);
    keys.end_person(&ldap("bob")).await.unwrap();
    time.pass(400 * DAY - 2);
    let hour = Duration::from_secs(3600);
    follower.now += hour;
    follower.tick().await;
    assert!(find(&replica, "ann").is_some());
    // To the second, looked at once an hour, and known at the next reading.
    time.pass(1);
    follower.tick().await;
    assert!(find(&replica, "ann").is_some());
    follower.now += hour;
    for _ in 0..2 {
        follower.tick().await;
    }
    assert!(find(&replica, "ann").is_none() && find(&replica, "bob").is_some());
    // A thousand at a time, and the store is read in between.
    let ended = match db {
        Database::Sqlite(_) => {
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
             INSERT INTO api_people (source, subject, actor, binding, seen_at, ended_at) \
             SELECT 'ldap', 'n' || i, '{}', randomblob(32), 0, 0 FROM n"
        }
        Database::Postgres { .. } => {
            "INSERT INTO api_people (source, subject, actor, binding, seen_at, ended_at) \
             SELECT 'ldap', 'n' || i, '{}', sha256(i::text::bytea), to_timestamp(0), to_timestamp(0) \
             FROM generate_series(1, 2500) AS i"
        }
    };
    db.sql(ended).await;
    follower.now += hour;
    for left in [1502, 502, 2] {
        follower.tick().await;
        assert_eq!(db.number("SELECT count(*) FROM api_people").await, left);
        // What the tick before has deleted is known.
        assert_eq!(find(&replica, "n1").is_some(), left == 1502);
    }
    follower.tick().await;
    assert!(find(&replica, "n2500").is_none());
    assert_eq!(keys.people(&PersonSource::Ldap), [ldap("carol")]);
    assert_eq!(keys.store_errors(), StoreErrors::default());
}

async fn a_restored_store_is_read_whole_with_people_and_sessions(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let keys = &replica.keys;
    for subject in ["ann", "bob"] {
        keys.record_person(&record(ldap(subject), time.now())).await.unwrap();
    }
    let (kept, closed) = (open_both(keys, &ldap("ann")).await, open_both(keys, &ldap("ann")).await);
    let backup = Backup::of(&db);
    keys.end_person(&ldap("ann")).await.unwrap();
    let bob = StoredPerson { role: Some(Role::Admin), ..record(ldap("bob"), time.now()) };
    keys.record_person(&bob).await.unwrap();
    keys.record_person(&record(ldap("carol"), time.now())).await.unwrap();
    keys.close_session(&digest(&closed[1]), &[]).await.unwrap();
    let late = open_both(keys, &ldap("bob")).await;
    let newest = revision(&db).await;
    soon("read", async || keys.revision() == Some(Revision(newest))).await;

    backup.restore();
    soon("noticed", async || keys.history_rewrites() == 1).await;
    let older = revision(&db).await;
    soon("read anew", async || keys.revision() == Some(Revision(older))).await;
    assert!(find(&replica, "ann").unwrap().ended_at.is_none());
    assert_eq!(find(&replica, "bob").unwrap().role, Some(Role::Editor));
    assert!(find(&replica, "carol").is_none());
    // Both sessions of the log-in that was closed are live again in the store, and the replica knows better.
    assert_eq!(keys.denied_by_history(), 2);
    assert_eq!(
        (has(&replica, &kept), has(&replica, &closed), has(&replica, &late)),
        (vec![true; 2], vec![false; 2], vec![false; 2])
    );
    let other = db.open(&time).await;
    assert_eq!((has(&other, &kept), has(&other, &closed)), (vec![true; 2], vec![true; 2]));
}

async fn what_only_newer_versions_know_does_not_count_and_harms_nobody(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let pair = open_both(&replica.keys, &ldap("ann")).await;
    let other = open_both(&replica.keys, &ldap("bob")).await;
    for subject in ["ann", "bob"] {
        replica.keys.record_person(&record(ldap(subject), time.now())).await.unwrap();
    }
    for table in ["api_sessions", "api_people"] {
        let name = if table == "api_people" { "subject" } else { "user_name" };
        db.sql(&format!("UPDATE {table} SET source = 'of the future' WHERE {name} = 'ann'")).await;
    }
    soon("they do not count", async || !replica.has_session(&pair[1]) && find(&replica, "ann").is_none())
        .await;
    for replica in [&replica, &db.open(&time).await] {
        assert_eq!((has(replica, &pair), has(replica, &other)), (vec![false; 2], vec![true; 2]));
        assert_eq!(replica.keys.people(&PersonSource::Ldap), [ldap("bob")]);
    }
    assert_eq!(replica.keys.store_errors(), StoreErrors::default());
}

async fn a_process_that_only_reads_follows_people_and_writes_nothing(db: Database) {
    let time = Time::new();
    let writer = db.open(&time).await;
    let pair = open_both(&writer.keys, &ldap("ann")).await;
    let keys = Keys::open_read_only(&db.url(), time.clock()).await.unwrap();
    let reader = Replica::of(keys, &time);
    reader.keys.first_read().await;
    assert_eq!(has(&reader, &pair), [true, true]);
    let ann = record(ldap("ann"), time.now());
    writer.keys.record_person(&ann).await.unwrap();
    soon("the person arrives", async || find(&reader, "ann").is_some()).await;
    let before = revision(&db).await;
    let keys = &reader.keys;
    let new = NewSessions { person: ldap("ann"), bindings: Vec::new(), claims: None, checked_at: None };
    let failures = [
        keys.open_sessions(&new, &[]).await.err(),
        keys.close_session(&digest(&pair[0]), &[]).await.err(),
        keys.end_sessions(&ldap("ann"), None).await.err(),
        keys.update_claims(&digest(&pair[0]), &Map::new(), time.now()).await.err(),
        keys.record_person(&ann).await.err(),
        keys.end_person(&ldap("ann")).await.err(),
        keys.end_person_without_session(&ldap("ann")).await.err(),
        keys.sealing_key().await.err(),
        keys.use_state(&TokenDigest::of(b"state")).await.err(),
    ];
    for failure in failures {
        assert!(matches!(failure, Some(StoreError(StoreFailure::ReadOnly))), "{failure:?}");
    }
    assert_eq!((revision(&db).await, has(&reader, &pair)), (before, vec![true; 2]));
    // Neither does it take what others have made.
    writer.keys.sealing_key().await.unwrap();
    let failure = keys.sealing_key().await.err();
    assert!(matches!(failure, Some(StoreError(StoreFailure::ReadOnly))), "{failure:?}");
    assert_eq!(db.number("SELECT count(*) FROM api_used_states").await, 0);
}

/// The migrations up to a schema, as its programs applied them.
pub(crate) async fn make_schema(db: &Database, schema: usize) {
    let (migrations, table) = match db {
        Database::Sqlite(_) => (
            [
                include_str!("../../src/keys/store/sqlite_0001.sql"),
                include_str!("../../src/keys/store/sqlite_0002.sql"),
                include_str!("../../src/keys/store/sqlite_0003.sql"),
                include_str!("../../src/keys/store/sqlite_0004.sql"),
            ],
            "version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMP NOT NULL DEFAULT \
             CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, checksum BLOB NOT NULL, execution_time BIGINT NOT NULL",
        ),
        Database::Postgres { .. } => (
            [
                include_str!("../../src/keys/store/postgres_0001.sql"),
                include_str!("../../src/keys/store/postgres_0002.sql"),
                include_str!("../../src/keys/store/postgres_0003.sql"),
                include_str!("../../src/keys/store/postgres_0004.sql"),
            ],
            "version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), \
             success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL",
        ),
    };
    if let StoreUrl::Sqlite(path) = db.url() {
        std::fs::File::create_new(path).unwrap();
        db.sql("PRAGMA journal_mode = WAL").await;
    }
    db.sql(&format!("CREATE TABLE api_migrations ({table})")).await;
    for (number, sql) in (1..).zip(&migrations[..schema]) {
        db.sql(sql).await;
        let migration =
            Migration::new(number, "old".into(), MigrationType::Simple, sql.into_sql_str(), false);
        let digits: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        let checksum =
            if matches!(db, Database::Sqlite(_)) { format!("x'{digits}'") } else { format!("'\\x{digits}'") };
        db.sql(&format!(
            "INSERT INTO api_migrations (version, description, success, checksum, execution_time) \
             VALUES ({number}, 'old', true, {checksum}, 0)"
        ))
        .await;
    }
}

/// What a program of schema 3 runs to open a session.
fn insert_of_schema_3(
    db: &Database,
    cookie: &Secret,
    user: &str,
    password: &TokenDigest,
    now: i64,
) -> String {
    let (bytes, time): (fn(&TokenDigest) -> String, String) = match db {
        Database::Sqlite(_) => (|digest| format!("x'{}'", digest.to_hex()), now.to_string()),
        Database::Postgres { .. } => {
            (|digest| format!("'\\x{}'::bytea", digest.to_hex()), format!("to_timestamp({now})"))
        }
    };
    format!(
        "INSERT INTO api_sessions (digest, user_name, password_digest, created_at, last_used_at, opened_after) \
         SELECT {}, '{user}', {}, {time}, {time}, value FROM api_revision",
        bytes(&digest(cookie)),
        bytes(password)
    )
}

async fn a_store_of_schema_3_keeps_its_sessions_and_its_programs(db: Database) {
    let time = Time::new();
    let now = time.now().as_second();
    make_schema(&db, 3).await;
    let password = TokenDigest::of(b"hash");
    let [before, after] = ["session_before", "session_after"].map(|cookie| Secret::new(cookie.to_owned()));
    db.sql(&insert_of_schema_3(&db, &before, "zoë", &password, now)).await;

    let replica = db.open(&time).await;
    assert_eq!(db.number("SELECT max(version) FROM api_migrations").await, SCHEMA);
    assert_eq!(db.number("SELECT oldest_reader FROM api_revision").await, 2);
    // A program of schema 3 goes on beside this one.
    db.sql(&insert_of_schema_3(&db, &after, "zoë", &password, now)).await;
    soon("the session arrives", async || replica.has_session(&after)).await;
    for cookie in [&before, &after] {
        let session = session(&replica, cookie);
        assert_eq!(
            (&session.person, session.scope, session.binding),
            (&configured("zoë"), SessionScope::Admin, password)
        );
        assert_eq!((&session.claims, session.checked_at), (&None, at(0)));
    }
    // They count, as the oldest, and end like others.
    for _ in 0..MAX_SESSIONS - 1 {
        log_in(&replica.keys, "zoë", &password).await;
    }
    assert_eq!(has(&replica, &[before, after.clone()]), [false, true]);
    replica.keys.close_session(&digest(&after), &[]).await.unwrap();
    assert!(!replica.has_session(&after));

    // It reads an entry of the log about a person as one about nothing, and sessions by the columns that it knows.
    let from = revision(&db).await;
    replica.keys.record_person(&record(ldap("ann"), time.now())).await.unwrap();
    let entry = format!(
        "SELECT count(*) FROM (SELECT revision, seq, key_id, session FROM api_changes WHERE revision > {from}) AS log \
         WHERE key_id IS NULL AND session IS NULL"
    );
    assert_eq!((revision(&db).await, db.number(&entry).await), (from + 1, 1));
    open_both(&replica.keys, &ldap("zoë")).await;
    let of_zoe = "SELECT count(*) FROM (SELECT user_name, password_digest, created_at, last_used_at FROM api_sessions) \
                  AS known WHERE user_name = 'zoë'";
    assert_eq!(db.number(of_zoe).await, i64::from(MAX_SESSIONS_PER_PERSON) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_has_people_sessions_and_what_attempts_need() {
    let time = Time::new();
    let db = Database::sqlite();
    let replica = db.open(&time).await;
    let pair = open_both(&replica.keys, &ldap("ann")).await;
    replica.keys.record_person(&record(ldap("ann"), time.now())).await.unwrap();
    let (key, state) = (replica.keys.sealing_key().await.unwrap(), TokenDigest::of(b"state"));
    assert!(replica.keys.use_state(&state).await.unwrap());
    let copy = Database::sqlite();
    let (StoreUrl::Sqlite(from), StoreUrl::Sqlite(to)) = (db.url(), copy.url()) else { unreachable!() };
    back_up(&from, &to).await.unwrap();
    let restored = copy.open(&time).await;
    assert_eq!(has(&restored, &pair), [true, true]);
    assert_eq!(*find(&restored, "ann").unwrap().actor().members(), record(ldap("ann"), time.now()).actor);
    assert_eq!(restored.keys.sealing_key().await.unwrap(), key);
    assert!(!restored.keys.use_state(&state).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_were_granted_table_by_table_hold_for_people() {
    let time = Time::new();
    let server = Postgres::shared();
    let db = Database::Postgres { database: server.database(), server: Arc::clone(&server) };
    let Database::Postgres { database, .. } = &db else { unreachable!() };
    make_schema(&db, 3).await;
    let (rows, reads) = (server.role(database, Rights::Login), server.role(database, Rights::Login));
    server.psql(
        database,
        &format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON api_keys, api_sessions, api_changes, api_revision TO {}; \
             GRANT SELECT ON api_keys, api_sessions, api_changes, api_revision TO {}; \
             GRANT SELECT ON api_migrations TO {0}, {1}",
            rows.name, reads.name
        ),
    );
    let url = |role| StoreUrl::parse(&server.url_as(role, server.address(), database)).unwrap();
    assert_eq!(Keys::migrate(&db.url()).await.unwrap().to, SCHEMA);
    let writer = Replica::of(Keys::open(&url(&rows), time.clock()).await.unwrap(), &time);
    writer.keys.first_read().await;
    writer.keys.record_person(&record(ldap("ann"), time.now())).await.unwrap();
    writer.keys.record_person(&StoredPerson { role: None, ..record(ldap("ann"), time.now()) }).await.unwrap();
    let pair = open_both(&writer.keys, &ldap("ann")).await;
    writer.keys.update_claims(&digest(&pair[1]), &Map::new(), time.now()).await.unwrap();
    writer.keys.end_person(&ldap("ann")).await.unwrap();
    writer.keys.sealing_key().await.unwrap();
    assert!(writer.keys.use_state(&TokenDigest::of(b"state")).await.unwrap());
    let reader = Replica::of(Keys::open_read_only(&url(&reads), time.clock()).await.unwrap(), &time);
    reader.keys.first_read().await;
    assert!(find(&reader, "ann").unwrap().ended_at.is_some());
    assert_eq!(has(&reader, &pair), [true, true]);
    assert_eq!(writer.keys.end_sessions(&ldap("ann"), None).await.unwrap(), 1);
    soon("ended elsewhere", async || has(&reader, &pair) == [false, false]).await;
    assert_eq!(
        (writer.keys.store_errors(), reader.keys.store_errors()),
        <(StoreErrors, StoreErrors)>::default()
    );
    for table in ["api_people", "api_secrets", "api_used_states"] {
        for (role, expected) in [(&reads, "SELECT"), (&rows, "DELETE INSERT SELECT UPDATE")] {
            let rights = format!(
                "SELECT string_agg(privilege_type, ' ' ORDER BY privilege_type) \
                 FROM information_schema.role_table_grants WHERE table_name = '{table}' AND grantee = '{}'",
                role.name
            );
            assert_eq!(server.psql(database, &rights), expected, "{table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_an_older_schema_under_a_running_process_is_brought_up_to_date() {
    for schema in [3, 4] {
        let time = Time::new();
        let server = Postgres::shared();
        let old = Database::Postgres { database: server.database(), server: Arc::clone(&server) };
        let db = Database::Postgres { database: server.database(), server: Arc::clone(&server) };
        let (Database::Postgres { database: from, .. }, Database::Postgres { database: to, .. }) =
            (&old, &db)
        else {
            unreachable!()
        };
        make_schema(&old, schema).await;
        let (cookie, password) = (Secret::new("session_before".to_owned()), TokenDigest::of(b"hash"));
        old.sql(&insert_of_schema_3(&old, &cookie, "zoë", &password, time.now().as_second())).await;
        let replica = db.open(&time).await;
        replica.keys.record_person(&record(ldap("ann"), time.now())).await.unwrap();
        let key = replica.keys.sealing_key().await.unwrap();

        server.restore_in_place(to, &server.dump(from));
        soon("read anew", async || replica.has_session(&cookie)).await;
        soon("of nobody there is a record", async || find(&replica, "ann").is_none()).await;
        assert_eq!(db.number("SELECT max(version) FROM api_migrations").await, SCHEMA);
        let recorded = async || replica.keys.record_person(&record(ldap("bob"), time.now())).await.is_ok();
        soon("people are recorded again", recorded).await;
        assert!(find(&replica, "bob").is_some());
        let other = replica.keys.sealing_key().await.unwrap();
        assert_ne!(other, key, "another store");
        assert_eq!(db.open(&time).await.keys.sealing_key().await.unwrap(), other);
        assert!(replica.keys.use_state(&TokenDigest::of(b"state")).await.unwrap());
    }
}
