//! Keys and sessions in both stores: each scenario runs on SQLite and on a real PostgreSQL.

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Config, ProcessEnvironment, Source as ConfigSource};
use envoy_auth_tokens::credential::Principal;
use envoy_auth_tokens::keys::edit::EditProblem;
use envoy_auth_tokens::keys::follower::Follower;
use envoy_auth_tokens::keys::sessions::{MAX_SESSIONS_PER_PERSON, NewSessions};
use envoy_auth_tokens::keys::store::history::Continuity;
use envoy_auth_tokens::keys::store::source::{
    AccountPage, ChangePage, Cursor, KeyPage, LogPosition, Look, PersonPage, Revision, SessionPage, Source,
};
use envoy_auth_tokens::keys::store::{
    ChangeError, EndedSessions, FollowerStore, Gate, KeyFilter, KeyOrder, KeyUse, ListPage, ListPosition,
    NewKey, OpenError, PostgresStore, RecordedPerson, Rotation, SCHEMA, SessionLimit, SqliteStore, Store,
    StoreError, StoreUrl,
};
use envoy_auth_tokens::keys::{
    Author, CreateKey, ExceedsGrant, Key, KeyLookup, KeyOwner, KeySettings, Keys, Privileges, Role,
    SessionScope, StoreErrors, StoredPerson, StoredSession,
};
use envoy_auth_tokens::person::{PersonId, PersonSource};
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::snapshot::{Snapshot, SnapshotStore};
use envoy_auth_tokens::token::{PlainToken, TokenDigest};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::task::JoinHandle;

use crate::harness::MAX_WAIT;
use crate::harness::postgres::{PASSWORD, Postgres};

/// When every scenario begins.
pub(crate) const START: i64 = 1_767_225_600;

/// A new database, with a way in past the program.
pub(crate) enum Database {
    Sqlite(tempfile::TempDir),
    Postgres { server: Arc<Postgres>, database: String },
}

impl Database {
    pub(crate) fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(crate) fn postgres() -> Self {
        let server = Postgres::shared();
        let database = server.database();
        Self::Postgres { server, database }
    }

    pub(crate) fn url(&self) -> StoreUrl {
        match self {
            Self::Sqlite(folder) => StoreUrl::Sqlite(folder.path().join("keys.db")),
            Self::Postgres { server, database } => StoreUrl::parse(&server.url(database)).unwrap(),
        }
    }

    /// Runs SQL past the program, as psql and sqlite3 do.
    pub(crate) async fn sql(&self, sql: &str) {
        match self {
            Self::Sqlite(_) => {
                let StoreUrl::Sqlite(path) = self.url() else { unreachable!() };
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = options.busy_timeout(MAX_WAIT).connect().await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres { server, database } => drop(server.psql(database, sql)),
        }
    }

    /// A number that the database knows.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        match self {
            Self::Sqlite(_) => {
                let StoreUrl::Sqlite(path) = self.url() else { unreachable!() };
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = options.busy_timeout(MAX_WAIT).connect().await.unwrap();
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap()
            }
            Self::Postgres { server, database } => server.psql(database, sql).parse().unwrap(),
        }
    }

    /// Inserts keys past the program, numbered `i` from 1 on: each with this name and this instant of its revocation.
    async fn insert_keys(&self, count: u32, name: &str, revoked_at: &str) {
        let (digest, time, numbers) = match self {
            Self::Sqlite(_) => (
                "randomblob(32)",
                "",
                format!("RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"),
            ),
            Self::Postgres { .. } => (
                "sha256(gen_random_uuid()::text::bytea)",
                "to_timestamp",
                format!("n (i) AS (SELECT generate_series(1, {count}))"),
            ),
        };
        self.sql(&format!(
            "WITH {numbers} INSERT INTO api_keys (name, role, digest, created_at, created_by, revoked_at) \
             SELECT {name}, 'Viewer', {digest}, {time}({START}), 'somebody', {time}({revoked_at}) FROM n"
        ))
        .await;
    }

    pub(crate) async fn store(&self) -> Box<dyn Store> {
        match self.url() {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open(&path).await.unwrap()),
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open(&url).await.unwrap()),
        }
    }

    pub(crate) async fn open(&self, time: &Time) -> Replica {
        let keys = Keys::open(&self.url(), time.clock()).await.unwrap();
        let replica = Replica::of(keys, time);
        replica.keys.first_read().await;
        replica
    }

    /// A replica that follows the store only when it is ticked.
    pub(crate) async fn open_ticked(&self, time: &Time) -> (Replica, Ticked) {
        let keys = Keys::open(&self.url(), time.clock()).await.unwrap();
        let follower = Follower::new(Arc::clone(&keys));
        let mut ticked = Ticked { follower, now: tokio::time::Instant::now() };
        ticked.tick().await;
        let follower = tokio::spawn(std::future::pending());
        (Replica { keys, time: time.clone(), follower }, ticked)
    }
}

/// The keys that are live at an instant.
fn live_at(now: Timestamp) -> KeyFilter {
    KeyFilter { live_at: Some(now), ..KeyFilter::default() }
}

/// Somebody who changes what is stored.
pub(crate) fn author(id: &str) -> Author {
    Author { id: id.to_owned(), credential: "token", address: "127.0.0.1".to_owned(), sees_only: None }
}

/// Whoever asks may give anything.
pub(crate) fn anything(_: &Privileges<'_>) -> Result<(), ExceedsGrant> {
    Ok(())
}

/// Every key of a list, page by page.
async fn list(keys: &Keys, filter: &KeyFilter) -> Vec<Key> {
    let (mut listed, mut next) = (Vec::new(), Some(ListPosition::START));
    while let Some(position) = next {
        let page = keys.list_after(filter, &position).await.unwrap();
        assert!(page.keys.len() <= 1000);
        listed.extend(page.keys);
        next = page.next;
    }
    listed
}

/// A follower for which time passes only when it is ticked.
pub(crate) struct Ticked {
    pub(crate) follower: Follower,
    pub(crate) now: tokio::time::Instant,
}

impl Ticked {
    /// A second later, the follower reads the store and writes the uses that it knows of.
    pub(crate) async fn tick(&mut self) {
        self.now += Duration::from_secs(1);
        self.follower.tick(self.now).await;
    }

    /// So much later, with a reading every half minute.
    async fn read_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now = end.min(self.now + Duration::from_secs(30));
            self.follower.tick(self.now).await;
        }
    }
}

/// A clock that a scenario sets.
#[derive(Clone)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    pub(crate) fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::from_fn(move || time.now())
    }

    pub(crate) fn now(&self) -> Timestamp {
        at(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// One process of several: its keys and its follower.
pub(crate) struct Replica {
    pub(crate) keys: Arc<Keys>,
    pub(crate) time: Time,
    pub(crate) follower: JoinHandle<Infallible>,
}

impl Replica {
    pub(crate) fn of(keys: Arc<Keys>, time: &Time) -> Self {
        let follower = tokio::spawn(Arc::clone(&keys).follow());
        Self { keys, time: time.clone(), follower }
    }

    pub(crate) async fn create(&self, name: &str) -> (Key, Secret) {
        self.keys.create(&settings(), ask(name), &author("admin"), &anything).await.unwrap()
    }

    pub(crate) fn find(&self, secret: &Secret) -> &'static str {
        match self.keys.find(&digest(secret), self.time.now()) {
            KeyLookup::Unknown => "unknown",
            KeyLookup::Expired => "expired",
            KeyLookup::Revoked => "revoked",
            KeyLookup::Disabled => "disabled",
            KeyLookup::OfPerson(_) => "of a person",
            KeyLookup::Live(_) => {
                self.keys.record_use(&digest(secret), self.time.now(), || None);
                "live"
            }
        }
    }

    pub(crate) fn principal(&self, secret: &Secret) -> Arc<Principal> {
        match self.keys.find(&digest(secret), self.time.now()) {
            KeyLookup::Live(principal) => principal,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn has_session(&self, secret: &Secret) -> bool {
        self.keys.find_session(&digest(secret), self.time.now()).is_some()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

pub(crate) fn settings() -> KeySettings {
    KeySettings {
        max_seconds_to_live: -1,
        prefix: "eat".into(),
        quota: None,
        actor_members: Box::new([]),
        max_staleness: None,
        ready_without_store: None,
        forget_after: None,
        max_idle: None,
        default_seconds_to_live: 0,
        person_max_idle: Duration::from_secs(30 * 24 * 3600),
        tell_expiry: None,
    }
}

pub(crate) fn ask(name: &str) -> CreateKey {
    CreateKey {
        name: name.to_owned(),
        description: None,
        owner: KeyOwner::None,
        role: Some(Role::Editor),
        expires_at: None,
        actor: Map::new(),
        policies: None,
    }
}

fn until(name: &str, expires_at: i64) -> CreateKey {
    CreateKey { expires_at: Some(at(expires_at)), ..ask(name) }
}

pub(crate) fn digest(secret: &Secret) -> TokenDigest {
    PlainToken::new(secret.expose().as_bytes()).unwrap().digest()
}

pub(crate) fn configured(user: &str) -> PersonId {
    PersonId { source: PersonSource::Config, subject: user.into() }
}

/// Opens an administrator's session of a configured user, and returns its secret.
pub(crate) async fn log_in(keys: &Keys, user: &str, password: &TokenDigest) -> Secret {
    let bindings = vec![(SessionScope::Admin, *password)];
    let new = NewSessions { person: configured(user), bindings, claims: None, checked_at: None };
    keys.open_sessions(&new, &[]).await.unwrap().cookies.remove(0).1
}

/// Waits until something is so, and says how long it took.
pub(crate) async fn soon(what: &str, is_so: impl AsyncFn() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < MAX_WAIT, "{what}: not within {MAX_WAIT:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed()
}

pub(crate) async fn becomes(replica: &Replica, secret: &Secret, expected: &str) -> Duration {
    // A busy machine that runs a hundred tests beside this one is given more than the promise.
    let what = format!("a secret that is {} becomes {expected}", replica.find(secret));
    soon(&what, async || replica.find(secret) == expected).await
}

/// Runs each scenario on both stores.
macro_rules! on_both_stores {
    ($($scenario:ident)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::keys_store::Database::sqlite()).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $scenario() {
                super::$scenario($crate::keys_store::Database::postgres()).await;
            })*
        }
    };
}
pub(crate) use on_both_stores;

on_both_stores! {
    a_key_is_live_then_expired_then_revoked_then_unknown
    what_a_key_stands_for
    what_is_stored_comes_back
    a_replaced_secret_works_for_its_overlap_and_then_is_expired
    a_dead_key_is_not_rotated
    revoking_kills_the_replaced_secret_and_happens_once
    a_name_is_free_again_when_its_key_is_dead
    of_two_creations_of_one_name_one_wins
    a_hundred_creations_at_once_lose_nothing
    the_quota_counts_every_stored_key_and_holds_under_a_rush
    an_id_is_never_used_again
    what_was_revoked_never_works_again_whatever_happens_at_once
    changes_arrive_elsewhere
    changes_behind_our_back_arrive
    a_row_that_cannot_be_read_does_not_count_and_harms_no_other
    each_process_writes_the_uses_of_a_key_once_a_minute
    a_list_is_read_in_pages_in_the_order_of_bytes
    dead_keys_are_deleted_when_they_are_dead_for_long_enough
    two_who_delete_dead_keys_delete_different_ones
    unused_keys_expire_once_the_uses_of_an_outage_are_written
    an_imported_key_is_unused_since_its_import
    each_key_that_expires_unused_has_a_line_in_the_audit_log
    sessions_live_by_use_and_end_in_time
    the_oldest_session_of_a_user_ends_when_there_are_too_many
    log_ins_at_once_leave_no_session_too_many
    sessions_of_an_older_schema_are_the_oldest
    the_change_log_stays_short
    a_restart_finds_everything
    a_newer_store_is_refused
    a_newer_store_that_older_programs_may_read_is_used
    a_store_of_somebody_else_is_refused
    many_processes_open_a_new_store_at_once
    keys_may_be_served_for_so_long_without_reading
    setting_the_time_of_day_changes_nothing_about_how_long_keys_are_served
    a_panic_while_following_is_logged_and_followed_by_a_new_start
    names_are_only_names
}

async fn a_key_is_live_then_expired_then_revoked_then_unknown(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (key, secret) = replica
        .keys
        .create(&settings(), until("reporting", START + 60), &author("admin"), &anything)
        .await
        .unwrap();
    assert!(secret.expose().starts_with("eat_"));
    assert_eq!(replica.find(&secret), "live");
    assert_eq!(replica.find(&Secret::new("eat_unknown".to_owned())), "unknown");
    assert_eq!(replica.keys.held(), 1);

    time.pass(59);
    assert_eq!(replica.find(&secret), "live");
    time.pass(1);
    assert_eq!(replica.find(&secret), "expired");

    let revoked = replica.keys.revoke(key.id, &author("admin"), &anything).await.unwrap().after.unwrap();
    assert_eq!(revoked.revoked_at, Some(at(START + 60)));
    assert_eq!(replica.find(&secret), "revoked");

    assert_eq!(replica.keys.delete(key.id, &author("admin"), &anything).await.unwrap().id, key.id);
    assert_eq!(replica.find(&secret), "unknown");
    assert_eq!(replica.keys.held(), 0);

    let deleted = replica.keys.delete(key.id, &author("admin"), &anything).await;
    assert!(matches!(deleted, Err(ChangeError::NotFound)));
    assert_eq!(replica.keys.get(key.id).await.unwrap(), None);
    let revoked = replica.keys.revoke(key.id, &author("admin"), &anything).await;
    assert!(matches!(revoked, Err(ChangeError::NotFound)));
    let rotated = replica.keys.rotate(&settings(), key.id, 0, &author("admin"), &anything).await;
    assert!(matches!(rotated, Err(ChangeError::NotFound)));
    for id in [0, -1, i64::MAX, i64::MIN] {
        assert_eq!(replica.keys.get(id).await.unwrap(), None);
    }
}

async fn what_a_key_stands_for(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let own = json!({"zone": 1, "id": "forged", "team": {"b": [1, 2.5], "a": null}});
    let full = CreateKey {
        role: Some(Role::Admin),
        actor: own.as_object().unwrap().clone(),
        policies: Some(vec!["read".to_owned(), "write".to_owned()]),
        ..until("deploy", START + 600)
    };
    let (key, secret) = replica.keys.create(&settings(), full, &author("admin"), &anything).await.unwrap();
    let principal = replica.principal(&secret);
    let expected = format!(
        r#"{{"id":"key:deploy","name":"deploy","role":"Admin","key_id":{},"zone":1,"team":{{"b":[1,2.5],"a":null}}}}"#,
        key.id
    );
    assert_eq!(principal.actor.to_ascii_json(), expected);
    assert_eq!((principal.kind.as_str(), &*principal.name, principal.id), ("key", "deploy", Some(key.id)));
    assert!(
        principal.counts_under("read")
            && principal.counts_under("write")
            && !principal.counts_under("default")
    );
    assert_eq!(principal.expires_at, Some(at(START + 600)));

    // The principal, and the answer that is encoded for it, is kept as long as the key does not change.
    time.pass(1);
    replica.create("another").await;
    assert!(Arc::ptr_eq(&principal, &replica.principal(&secret)));

    let (_, nowhere) = replica
        .keys
        .create(
            &settings(),
            CreateKey { policies: Some(Vec::new()), ..ask("nowhere") },
            &author("admin"),
            &anything,
        )
        .await
        .unwrap();
    assert!(!replica.principal(&nowhere).counts_under("read"));

    // The same, read from the store by somebody else.
    let other = db.open(&time).await;
    assert_eq!(other.principal(&secret).actor.to_ascii_json(), expected);
    assert!(!other.principal(&secret).counts_under("default"));
    assert!(!other.principal(&nowhere).counts_under("read"));
}

async fn what_is_stored_comes_back(db: Database) {
    let store = db.store().await;
    let digest_of = |text: &str| PlainToken::new(text.as_bytes()).unwrap().digest();
    let own = json!({"z": "Zoë \u{1f980}", "a": [true, null], "big": 9_007_199_254_740_993_i64});
    let new = NewKey {
        request: CreateKey {
            name: "b".to_owned(),
            description: Some("what it is for".to_owned()),
            owner: KeyOwner::None,
            role: Some(Role::Viewer),
            actor: own.as_object().unwrap().clone(),
            policies: Some(vec!["read".to_owned()]),
            expires_at: Some(at(253_402_207_200)),
        },
        created_by: "user:zoë".to_owned(),
        disabled_at: None,
        imported_at: None,
        digest: digest_of("one"),
        // What is below a second is not kept.
        created_at: Timestamp::from_millisecond(START * 1000 + 999).unwrap(),
    };
    let gate = Gate::default();
    let one = store.create(&gate, &new, None, &author("user:zoë"), &anything).await.unwrap().value;
    assert_eq!(one.key.created_at, at(START));
    let plain = CreateKey {
        name: "a".to_owned(),
        actor: Map::new(),
        policies: None,
        expires_at: None,
        ..new.request.clone()
    };
    let plain = NewKey { request: plain, digest: digest_of("two"), ..new.clone() };
    let two = store.create(&gate, &plain, None, &author("user:zoë"), &anything).await.unwrap().value;

    assert_eq!(store.get(one.key.id).await.unwrap().as_ref(), Some(&one.key));
    let members: Vec<&String> = one.key.actor.keys().collect();
    assert_eq!(members, ["z", "a", "big"]);
    let listed = store.list_after(&KeyFilter::default(), &ListPosition::START).await.unwrap();
    assert_eq!(listed, ListPage { keys: vec![two.key.clone(), one.key.clone()], next: None });

    let session = StoredSession {
        digest: digest_of("cookie"),
        person: configured("zoë"),
        scope: SessionScope::Admin,
        parent: None,
        binding: digest_of("hash"),
        claims: None,
        checked_at: at(START),
        created_at: at(START),
        last_used_at: at(START),
    };
    let zoe = PersonId { source: PersonSource::Ldap, subject: "zoë,ou=people \u{1f980}".into() };
    let other = StoredSession {
        digest: digest_of("another-cookie"),
        person: zoe.clone(),
        scope: SessionScope::Application,
        parent: Some(digest_of("gone-parent")),
        binding: digest_of("settings"),
        claims: Some(own.as_object().unwrap().clone()),
        checked_at: at(START + 1),
        ..session.clone()
    };
    let limit = SessionLimit { max_sessions: 1, used_after: at(START - 1), opened_after: at(START - 1) };
    for session in [&session, &other] {
        let created = store.create_sessions(&gate, std::slice::from_ref(session), limit, &[]).await.unwrap();
        assert_eq!(created.value, EndedSessions::default());
    }
    let person = StoredPerson {
        person: zoe.clone(),
        actor: own.as_object().unwrap().clone(),
        role: Some(Role::Viewer),
        binding: digest_of("settings"),
        claims: own.as_object().cloned(),
        seen_at: at(START + 2),
        ended_at: None,
    };
    let plain = StoredPerson { person: configured("zoë"), actor: Map::new(), role: None, ..person.clone() };
    let mut ids = Vec::new();
    for person in [&person, &plain] {
        let recorded = store.record_person(&gate, person, 2).await.unwrap().value;
        assert_eq!((&recorded.person, recorded.deleted), (person, vec![]));
        ids.push(recorded.id);
    }
    let source = store.for_follower().source;
    let before = source.look(None).await.unwrap().cursor;
    let page = source.keys(i64::MIN).await.unwrap();
    assert_eq!((page.keys, page.next), (vec![one.clone(), two.clone()], None));
    assert_eq!(source.keys(one.key.id).await.unwrap().keys, std::slice::from_ref(&two));
    let page = source.sessions(None).await.unwrap();
    let mut sessions = vec![session.clone(), other.clone()];
    sessions.sort_by_key(|session| *session.digest.as_bytes());
    assert_eq!((&page.sessions, page.next), (&sessions, None));
    assert_eq!(source.sessions(Some(sessions[0].digest)).await.unwrap().sessions, sessions[1..]);
    let page = source.people(i64::MIN).await.unwrap();
    assert_eq!((page.people, page.next), (vec![(ids[0], person.clone()), (ids[1], plain.clone())], None));
    assert_eq!(source.people(ids[0]).await.unwrap().people, [(ids[1], plain.clone())]);

    let rotation = Rotation {
        id: two.key.id,
        digest: digest_of("three"),
        previous_until: at(START + 9),
        now: at(START),
        expires_by: None,
    };
    let rotated =
        store.rotate(&gate, &rotation, &author("admin"), &anything).await.unwrap().value.after.unwrap();
    assert_eq!(rotated.digest, digest_of("three"));
    assert_eq!(rotated.previous, Some((digest_of("two"), at(START + 9))));
    let deleted = store.delete(&gate, one.key.id, at(START), &author("admin"), &anything).await;
    assert_eq!(deleted.unwrap().value.id, one.key.id);
    let closed = async || store.close_session(&gate, &session.digest, &[]).await.unwrap().value;
    assert_eq!((closed().await, closed().await), (vec![session.digest], vec![]));
    let ended = store.end_person(&gate, &zoe, at(START + 3), None).await.unwrap().value;
    // What the source said of them is not kept any longer.
    let person = StoredPerson { claims: None, ended_at: Some(at(START + 3)), ..person };
    assert_eq!(ended, Some((ids[0], person.clone())));
    assert_eq!(store.end_person(&gate, &zoe, at(START + 4), None).await.unwrap().value, None);
    // The one who ended makes room.
    let third = StoredPerson { person: configured("third"), ..plain.clone() };
    let recorded = store.record_person(&gate, &third, 2).await.unwrap().value;
    let expected = RecordedPerson { id: recorded.id, person: third.clone(), deleted: vec![ids[0]] };
    assert_eq!(recorded, expected);

    let look = source.look(Some(&before)).await.unwrap();
    assert_eq!(look.continuity, Continuity::Continues);
    assert!(look.cursor.revision > before.revision);
    let from = LogPosition::after(before.revision);
    let page = source.changes(from, look.cursor.revision).await.unwrap();
    assert_eq!((page.keys, page.deleted_keys), (vec![rotated], vec![one.key.id]));
    assert_eq!((page.sessions, page.deleted_sessions), (vec![], vec![session.digest]));
    assert_eq!(page.people, [(recorded.id, third)]);
    assert_eq!(page.deleted_people, [ids[0], ids[0]], "it ended, and was deleted");
    assert_eq!(page.next, None);

    let now = look.cursor;
    let nothing = source.changes(LogPosition::after(now.revision), now.revision).await.unwrap();
    assert!(nothing.keys.is_empty() && nothing.deleted_keys.is_empty(), "{nothing:?}");
    // A store that was put back to an older state has other changes under the same numbers.
    let continuity = async |cursor: Cursor| source.look(Some(&cursor)).await.unwrap().continuity;
    assert_eq!(continuity(now.clone()).await, Continuity::Continues);
    let later = Revision(now.revision.0 + 1);
    assert_eq!(continuity(Cursor { revision: later, ..now.clone() }).await, Continuity::Rewritten);
    let mark = now.mark.wrapping_add(1);
    assert_eq!(continuity(Cursor { mark, ..now.clone() }).await, Continuity::Rewritten);
    let mark = before.mark.wrapping_add(1);
    assert_eq!(continuity(Cursor { mark, ..before.clone() }).await, Continuity::Rewritten);
    assert_eq!(continuity(Cursor { store: "another".into(), ..now }).await, Continuity::Rewritten);
}

async fn a_replaced_secret_works_for_its_overlap_and_then_is_expired(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (key, first) = here
        .keys
        .create(&settings(), until("rotated", START + 1000), &author("admin"), &anything)
        .await
        .unwrap();
    let (same, second) =
        here.keys.rotate(&settings(), key.id, 100, &author("admin"), &anything).await.unwrap();
    let same = same.after.unwrap();
    assert_eq!((same.id, &same.name, same.expires_at), (key.id, &key.name, key.expires_at));
    becomes(&there, &second, "live").await;
    for replica in [&here, &there] {
        assert_eq!((replica.find(&first), replica.find(&second)), ("live", "live"));
    }
    time.pass(99);
    assert_eq!(here.find(&first), "live");
    time.pass(1);
    for replica in [&here, &there] {
        assert_eq!((replica.find(&first), replica.find(&second)), ("expired", "live"));
    }

    // One replaced secret at a time: the one before it is gone.
    let (_, third) = here.keys.rotate(&settings(), key.id, 500, &author("admin"), &anything).await.unwrap();
    assert_eq!((here.find(&first), here.find(&second), here.find(&third)), ("unknown", "live", "live"));
    becomes(&there, &first, "unknown").await;

    // Without an overlap the old one is dead at once, and never works beyond the key's own expiry.
    let (_, fourth) = here.keys.rotate(&settings(), key.id, 0, &author("admin"), &anything).await.unwrap();
    assert_eq!((here.find(&third), here.find(&fourth)), ("expired", "live"));
    let (_, fifth) =
        here.keys.rotate(&settings(), key.id, 604_800, &author("admin"), &anything).await.unwrap();
    time.pass(899);
    assert_eq!((here.find(&fourth), here.find(&fifth)), ("live", "live"));
    time.pass(1);
    assert_eq!((here.find(&fourth), here.find(&fifth)), ("expired", "expired"));
}

async fn a_dead_key_is_not_rotated(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (expired, _) = replica
        .keys
        .create(&settings(), until("expired", START + 10), &author("admin"), &anything)
        .await
        .unwrap();
    let (revoked, secret) = replica.create("revoked").await;
    replica.keys.revoke(revoked.id, &author("admin"), &anything).await.unwrap();
    assert!(matches!(
        replica.keys.rotate(&settings(), revoked.id, 0, &author("admin"), &anything).await,
        Err(ChangeError::Edit(EditProblem::Dead))
    ));
    assert_eq!(replica.find(&secret), "revoked");
    time.pass(9);
    replica.keys.rotate(&settings(), expired.id, 0, &author("admin"), &anything).await.unwrap();
    time.pass(1);
    assert!(matches!(
        replica.keys.rotate(&settings(), expired.id, 0, &author("admin"), &anything).await,
        Err(ChangeError::Edit(EditProblem::Dead))
    ));
}

async fn revoking_kills_the_replaced_secret_and_happens_once(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (key, first) = here.create("revoked").await;
    let (_, second) = here.keys.rotate(&settings(), key.id, 1000, &author("admin"), &anything).await.unwrap();
    becomes(&there, &second, "live").await;
    here.keys.revoke(key.id, &author("zoë"), &anything).await.unwrap();
    assert_eq!((here.find(&first), here.find(&second)), ("unknown", "revoked"));
    becomes(&there, &second, "revoked").await;
    assert_eq!(there.find(&first), "unknown");

    time.pass(10);
    let again = here.keys.revoke(key.id, &author("somebody else"), &anything).await.unwrap().after.unwrap();
    assert_eq!((again.revoked_at, again.revoked_by.as_deref()), (Some(at(START)), Some("zoë")));
}

async fn a_name_is_free_again_when_its_key_is_dead(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (first, _) = replica
        .keys
        .create(&settings(), until("name", START + 10), &author("admin"), &anything)
        .await
        .unwrap();
    let is_taken = async |name: &str| {
        let created = replica.keys.create(&settings(), ask(name), &author("admin"), &anything).await;
        matches!(created, Err(ChangeError::NameTaken))
    };
    assert!(is_taken("name").await);
    // Names that a reader takes for one are one.
    assert!(is_taken("Name").await && is_taken("ｎａｍｅ").await);
    time.pass(9);
    assert!(is_taken("name").await);
    time.pass(1);
    let (second, secret) = replica.create("name").await;
    replica.keys.revoke(second.id, &author("admin"), &anything).await.unwrap();
    let (third, live) = replica.create("name").await;
    assert_eq!((replica.find(&secret), replica.find(&live)), ("revoked", "live"));
    let listed = list(&replica.keys, &KeyFilter::default()).await;
    let listed: Vec<(&str, i64)> = listed.iter().map(|key| (key.name.as_str(), key.id)).collect();
    let expected = [("name", first.id), ("name", second.id), ("name", third.id)];
    assert_eq!(listed, expected);
}

async fn of_two_creations_of_one_name_one_wins(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    for round in 0..20 {
        let name = format!("contested-{round}");
        let (settings, admin) = (settings(), author("admin"));
        let (one, other) = tokio::join!(
            here.keys.create(&settings, ask(&name), &admin, &anything),
            there.keys.create(&settings, ask(&name), &admin, &anything)
        );
        let (won, lost) = if one.is_ok() { (one, other) } else { (other, one) };
        assert!(won.is_ok(), "{won:?}");
        assert!(matches!(lost, Err(ChangeError::NameTaken)), "{lost:?}");
    }
    assert_eq!(list(&here.keys, &KeyFilter::default()).await.len(), 20);
}

async fn a_hundred_creations_at_once_lose_nothing(db: Database) {
    let time = Time::new();
    let replicas = [db.open(&time).await, db.open(&time).await];
    let creations = (0..100).map(|number| {
        let keys = Arc::clone(&replicas[number % 2].keys);
        tokio::spawn(async move {
            keys.create(&settings(), ask(&format!("key-{number}")), &author("admin"), &anything)
                .await
                .unwrap()
        })
    });
    let mut made = Vec::new();
    for creation in creations.collect::<Vec<_>>() {
        made.push(creation.await.unwrap());
    }
    let mut ids: Vec<i64> = made.iter().map(|(key, _)| key.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    for replica in &replicas {
        assert_eq!(list(&replica.keys, &KeyFilter::default()).await.len(), 100);
        soon("all are held", async || replica.keys.held() == 100).await;
        assert!(made.iter().all(|(_, secret)| replica.find(secret) == "live"));
        assert_eq!(replica.keys.store_errors(), StoreErrors::default());
    }
}

async fn the_quota_counts_every_stored_key_and_holds_under_a_rush(db: Database) {
    let time = Time::new();
    let limited = || KeySettings { quota: Some(5), ..settings() };
    let replicas = [db.open(&time).await, db.open(&time).await];
    let creations = (0..20).map(|number| {
        let keys = Arc::clone(&replicas[number % 2].keys);
        tokio::spawn(async move {
            keys.create(&limited(), ask(&format!("key-{number}")), &author("admin"), &anything).await
        })
    });
    let mut made = Vec::new();
    for creation in creations.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            Ok((key, _)) => made.push(key.id),
            Err(ChangeError::QuotaReached) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made.len(), 5);
    let [here, _] = &replicas;
    here.keys.revoke(made[0], &author("admin"), &anything).await.unwrap();
    assert!(matches!(
        here.keys.create(&limited(), ask("another"), &author("admin"), &anything).await,
        Err(ChangeError::QuotaReached)
    ));
    here.keys.delete(made[0], &author("admin"), &anything).await.unwrap();
    here.keys.create(&limited(), ask("another"), &author("admin"), &anything).await.unwrap();
}

async fn an_id_is_never_used_again(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (first, _) = replica.create("first").await;
    let (second, _) = replica.create("second").await;
    assert!(second.id > first.id);
    replica.keys.delete(second.id, &author("admin"), &anything).await.unwrap();
    replica.keys.delete(first.id, &author("admin"), &anything).await.unwrap();
    drop(replica);
    let (third, _) = db.open(&time).await.create("third").await;
    assert!(third.id > second.id);
}

async fn what_was_revoked_never_works_again_whatever_happens_at_once(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    for round in 0..15 {
        let (key, first) = here.create(&format!("key-{round}")).await;
        let rotate = async |replica: &Replica| {
            replica.keys.rotate(&settings(), key.id, 1000, &author("admin"), &anything).await.ok()
        };
        let revoke = async {
            here.keys.revoke(key.id, &author("admin"), &anything).await.unwrap();
            assert_ne!(here.find(&first), "live");
        };
        let (a, b, c, d, ()) =
            tokio::join!(rotate(&here), rotate(&there), rotate(&here), rotate(&there), revoke);
        let secrets: Vec<Secret> =
            [a, b, c, d].into_iter().flatten().map(|(_, secret)| secret).chain([first]).collect();
        for secret in &secrets {
            assert_ne!(here.find(secret), "live");
            soon("dead elsewhere", async || there.find(secret) != "live").await;
        }
        // Nor does a later reading bring one back.
        for replica in [&here, &there] {
            Follower::new(Arc::clone(&replica.keys)).tick(tokio::time::Instant::now()).await;
        }
        for (replica, secret) in secrets.iter().flat_map(|secret| [(&here, secret), (&there, secret)]) {
            assert_ne!(replica.find(secret), "live");
        }
    }
}

async fn changes_arrive_elsewhere(db: Database) {
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let mut took = Vec::new();
    for round in 0..10 {
        let (key, secret) = here.create(&format!("key-{round}")).await;
        took.push(becomes(&there, &secret, "live").await);
        there.keys.revoke(key.id, &author("admin"), &anything).await.unwrap();
        took.push(becomes(&here, &secret, "revoked").await);
        here.keys.delete(key.id, &author("admin"), &anything).await.unwrap();
        took.push(becomes(&there, &secret, "unknown").await);
    }
    took.sort_unstable();
    println!("known elsewhere: median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
}

async fn changes_behind_our_back_arrive(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (key, secret) = replica.create("key").await;
    let (_, other) = replica.create("other").await;
    let now = match db {
        Database::Sqlite(_) => "unixepoch()",
        Database::Postgres { .. } => "now()",
    };
    let (id, principal) = (key.id, replica.principal(&secret));
    db.sql(&format!("UPDATE api_keys SET role = 'Viewer' WHERE id = {id}")).await;
    let role = async || replica.principal(&secret).actor.member("role") == Some(&Value::from("Viewer"));
    soon("another role", role).await;
    assert!(!Arc::ptr_eq(&principal, &replica.principal(&secret)));

    db.sql(&format!("UPDATE api_keys SET revoked_at = {now} WHERE id = {id}")).await;
    becomes(&replica, &secret, "revoked").await;
    db.sql(&format!("UPDATE api_keys SET revoked_at = NULL, expires_at = {now} WHERE id = {id}")).await;
    // Our clock is set to a time before the database's.
    becomes(&replica, &secret, "live").await;
    db.sql(&format!("DELETE FROM api_keys WHERE id = {id}")).await;
    becomes(&replica, &secret, "unknown").await;

    let token = Secret::new("made-by-hand".to_owned());
    let (bytes, created) = match db {
        Database::Sqlite(_) => (format!("x'{}'", digest(&token).to_hex()), "0"),
        Database::Postgres { .. } => (format!("'\\x{}'", digest(&token).to_hex()), "to_timestamp(0)"),
    };
    let insert = "INSERT INTO api_keys (name, role, digest, created_at, created_by)";
    db.sql(&format!("{insert} VALUES ('by hand', 'Admin', {bytes}, {created}, 'me')")).await;
    becomes(&replica, &token, "live").await;

    // A transaction that is taken back never happened, and takes nothing with it.
    db.sql("BEGIN; DELETE FROM api_keys; ROLLBACK").await;
    let everything = match db {
        Database::Sqlite(_) => "DELETE FROM api_keys",
        Database::Postgres { .. } => "TRUNCATE api_keys",
    };
    assert_eq!((replica.find(&token), replica.find(&other)), ("live", "live"));
    db.sql(everything).await;
    becomes(&replica, &token, "unknown").await;
    becomes(&replica, &other, "unknown").await;
    soon("nothing is held", async || replica.keys.held() == 0).await;
}

async fn a_row_that_cannot_be_read_does_not_count_and_harms_no_other(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (broken, broken_secret) = replica.create("broken").await;
    let (sound, sound_secret) = replica.create("sound").await;
    let policies = "UPDATE api_keys SET policies = '[1]' WHERE id =";
    db.sql(&format!("{policies} {}", broken.id)).await;
    becomes(&replica, &broken_secret, "unknown").await;
    db.sql(&format!("UPDATE api_keys SET role = 'Admin' WHERE id = {}", sound.id)).await;
    let role = async || replica.principal(&sound_secret).actor.member("role") == Some(&Value::from("Admin"));
    soon("the other changes", role).await;
    assert_eq!(db.open(&time).await.find(&broken_secret), "unknown");
    assert_eq!(list(&replica.keys, &KeyFilter::default()).await.len(), 1);
}

async fn each_process_writes_the_uses_of_a_key_once_a_minute(db: Database) {
    let time = Time::new();
    let (here, mut at_here) = db.open_ticked(&time).await;
    let (there, mut at_there) = db.open_ticked(&time).await;
    let (key, secret) = here.create("used").await;
    at_there.tick().await;
    let revision = db.number("SELECT value FROM api_revision").await;
    let written = async || {
        let key = here.keys.get(key.id).await.unwrap().unwrap();
        (key.last_used_at.map(|last| last.as_second() - START), key.uses)
    };
    // Both replicas write what they know of.
    let mut tick = async || {
        at_here.tick().await;
        at_there.tick().await;
    };
    assert_eq!(written().await, (None, 0));
    assert_eq!(there.find(&secret), "live");
    tick().await;
    assert_eq!(written().await, (Some(0), 1), "the first use");

    time.pass(59);
    assert_eq!((there.find(&secret), there.find(&secret)), ("live", "live"));
    tick().await;
    assert_eq!(written().await, (Some(0), 1), "less than a minute later");
    time.pass(1);
    assert_eq!(there.find(&secret), "live");
    tick().await;
    assert_eq!(written().await, (Some(60), 4), "a minute later, with those in between");

    // The other one writes on its own, and an address where it knows one.
    time.pass(30);
    here.keys.record_use(&digest(&secret), time.now(), || Some([192, 0, 2, 7].into()));
    tick().await;
    assert_eq!(written().await, (Some(90), 5));
    let last_address = async || here.keys.get(key.id).await.unwrap().unwrap().last_address;
    assert_eq!(last_address().await.as_deref(), Some("192.0.2.7"));
    // An earlier use, written later, takes neither time nor address back, and counts.
    let earlier = KeyUse { id: key.id, at: at(START + 70), uses: 1, address: Some("192.0.2.8".to_owned()) };
    db.store().await.for_follower().upkeep.unwrap().touch_keys(&[earlier]).await.unwrap();
    assert_eq!(written().await, (Some(90), 6));
    assert_eq!(last_address().await.as_deref(), Some("192.0.2.7"));

    // A use is no change, and a denied key is not used.
    assert_eq!(db.number("SELECT value FROM api_revision").await, revision);
    here.keys.revoke(key.id, &author("admin"), &anything).await.unwrap();
    time.pass(600);
    assert_eq!(here.find(&secret), "revoked");
    tick().await;
    assert_eq!(written().await, (Some(90), 6));
}

async fn sessions_live_by_use_and_end_in_time(db: Database) {
    const HOUR: i64 = 3600;
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let password = digest(&Secret::new("a-password-hash".to_owned()));
    let cookie = log_in(&here.keys, "zoë", &password).await;
    let session = here.keys.find_session(&digest(&cookie), time.now()).unwrap();
    assert_eq!((&session.person, session.binding), (&configured("zoë"), password));
    soon("known elsewhere", async || there.has_session(&cookie)).await;

    // Used here alone, it lives on elsewhere too.
    for hours in [23, 23] {
        time.pass(hours * HOUR);
        assert!(here.has_session(&cookie));
        let now = time.now();
        let known_there = async || {
            let session = there.keys.find_session(&digest(&cookie), now);
            session.is_some_and(|session| session.last_used_at() == now)
        };
        soon("its use", known_there).await;
    }
    let idle = log_in(&here.keys, "idle", &password).await;
    time.pass(24 * HOUR - 1);
    assert!(here.has_session(&cookie));
    time.pass(1);
    assert!(!here.has_session(&idle));

    // However much it is used, it ends after seven days.
    while time.now() < at(START + 7 * 24 * HOUR - 1) {
        assert!(here.has_session(&cookie), "{}", time.now());
        time.pass((START + 7 * 24 * HOUR - 1 - time.now().as_second()).min(20 * HOUR));
    }
    assert!(here.has_session(&cookie));
    time.pass(1);
    assert!(!here.has_session(&cookie));

    let closed = log_in(&here.keys, "closed", &password).await;
    soon("known elsewhere", async || there.has_session(&closed)).await;
    there.keys.close_session(&digest(&closed), &[]).await.unwrap();
    there.keys.close_session(&digest(&closed), &[]).await.unwrap();
    assert!(!there.has_session(&closed));
    soon("closed elsewhere", async || !here.has_session(&closed)).await;

    // Whoever begins to follow removes the dead ones.
    let next = db.open(&time).await;
    let stored = async || db.number("SELECT count(*) FROM api_sessions").await == 0;
    soon("the dead are removed", stored).await;
    assert_eq!(next.keys.store_errors(), StoreErrors::default());
}

async fn the_oldest_session_of_a_user_ends_when_there_are_too_many(db: Database) {
    const HOUR: i64 = 3600;
    let most = usize::try_from(MAX_SESSIONS_PER_PERSON).unwrap();
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let password = digest(&Secret::new("a-password-hash".to_owned()));
    let open = async |user: &str| log_in(&here.keys, user, &password).await;

    // Somebody else's, and one that is used day by day while the others die.
    let other = open("other").await;
    let old = open("zoë").await;
    let mut idle = Vec::new();
    for _ in 1..most {
        idle.push(open("zoë").await);
    }
    assert!(idle.iter().chain([&old, &other]).all(|session| here.has_session(session)));
    time.pass(23 * HOUR);
    assert!(here.has_session(&old) && here.has_session(&other));
    let uses = format!(
        "SELECT count(*) FROM api_sessions WHERE last_used_at > {}",
        match db {
            Database::Sqlite(_) => START.to_string(),
            Database::Postgres { .. } => format!("to_timestamp({START})"),
        }
    );
    soon("the uses are written", async || db.number(&uses).await == 2).await;
    time.pass(2 * HOUR);

    // The dead ones take no place: all within one second, they end in the order in which they were opened.
    let mut opened = vec![old];
    for _ in 0..2 * most {
        let session = open("zoë").await;
        opened.push(session);
        let live = opened.iter().rev().take(most);
        let ended = opened.iter().rev().skip(most);
        assert!(live.into_iter().all(|session| here.has_session(session)), "{}", opened.len());
        assert!(!ended.into_iter().any(|session| here.has_session(session)), "{}", opened.len());
    }
    assert!(here.has_session(&other));
    soon("elsewhere too", async || {
        let live: Vec<bool> = opened.iter().map(|session| there.has_session(session)).collect();
        live.iter().rev().take(most).all(|live| *live) && !live.iter().rev().skip(most).any(|live| *live)
    })
    .await;
    let count = "SELECT count(*) FROM api_sessions WHERE user_name = 'zoë'";
    let dead = idle.len();
    assert_eq!(db.number(count).await, i64::try_from(dead + most).unwrap());
}

async fn log_ins_at_once_leave_no_session_too_many(db: Database) {
    let most = usize::try_from(MAX_SESSIONS_PER_PERSON).unwrap();
    let time = Time::new();
    let replicas = [db.open(&time).await, db.open(&time).await];
    let password = digest(&Secret::new("a-password-hash".to_owned()));
    let mut opened = Vec::new();
    // Seventy at once: each waits for a connection no longer than a busy machine lets it.
    for _ in 0..2 {
        let opening = (0..most / 2 + 20).map(|number| {
            let keys = Arc::clone(&replicas[number % 2].keys);
            tokio::spawn(async move { log_in(&keys, "zoë", &password).await })
        });
        for session in opening.collect::<Vec<_>>() {
            opened.push(session.await.unwrap());
        }
    }
    let stored = db.number("SELECT count(*) FROM api_sessions").await;
    assert_eq!(stored, i64::from(MAX_SESSIONS_PER_PERSON));
    for replica in &replicas {
        let live = async || opened.iter().filter(|session| replica.has_session(session)).count() == most;
        soon("every replica knows the same", live).await;
    }
}

async fn sessions_of_an_older_schema_are_the_oldest(db: Database) {
    let time = Time::new();
    let here = db.open(&time).await;
    let password = digest(&Secret::new("a-password-hash".to_owned()));
    let open = async || log_in(&here.keys, "zoë", &password).await;
    let old = [open().await, open().await];
    db.sql("UPDATE api_sessions SET opened_after = 0").await;
    // The clock was set back meanwhile.
    time.pass(-60);
    let mut new = Vec::new();
    for _ in 0..MAX_SESSIONS_PER_PERSON {
        new.push(open().await);
    }
    assert!(!old.iter().any(|session| here.has_session(session)));
    assert!(new.iter().all(|session| here.has_session(session)));
}

async fn the_change_log_stays_short(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let store = db.store().await;
    let (_, secret) = replica.create("first").await;
    let (random, series) = match db {
        Database::Sqlite(_) => (
            "randomblob(32)",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)",
        ),
        Database::Postgres { .. } => {
            ("sha256(i::text::bytea)", "WITH n (i) AS (SELECT generate_series(1, 200))")
        }
    };
    let zero = if matches!(db, Database::Sqlite(_)) { "0" } else { "to_timestamp(0)" };
    let columns = "INSERT INTO api_keys (name, role, digest, created_at, created_by)";
    let insert = match db {
        Database::Sqlite(_) => {
            format!("{columns} {series} SELECT 'n' || i, 'Viewer', {random}, {zero}, '' FROM n")
        }
        Database::Postgres { .. } => {
            format!("{series} {columns} SELECT 'n' || i, 'Viewer', {random}, {zero}, '' FROM n")
        }
    };
    db.sql(&insert).await;
    let source = store.for_follower().source;
    let before = source.look(None).await.unwrap().cursor;
    assert_eq!(source.keys(i64::MIN).await.unwrap().keys.len(), 201);
    // A hundred and twenty thousand entries, in more than a thousand transactions.
    let update_all = "UPDATE api_keys SET created_by = 'x' WHERE id <= 120;";
    let update_one = "UPDATE api_keys SET created_by = 'y' WHERE id = 1;";
    let repeat = |update: &str| match db {
        Database::Sqlite(_) => update.repeat(1000),
        Database::Postgres { .. } => {
            format!("DO $$ BEGIN FOR i IN 1..1000 LOOP {update} COMMIT; END LOOP; END $$")
        }
    };
    db.sql(&repeat(update_all)).await;
    let entries = "SELECT count(*) FROM api_changes";
    assert!(db.number(entries).await >= 120_000, "the last hour stays");
    let (hours, minutes) = match db {
        Database::Sqlite(_) => ("at - 7200", "at - 1800"),
        Database::Postgres { .. } => ("at - interval '2 hours'", "at - interval '30 minutes'"),
    };
    db.sql(&format!("UPDATE api_changes SET at = {minutes}")).await;
    db.sql(&repeat(update_one)).await;
    assert!(db.number(entries).await >= 121_000, "half an hour is not an hour");
    db.sql(&format!("UPDATE api_changes SET at = {hours}")).await;
    db.sql(&repeat(update_one)).await;
    let logged = db.number(entries).await;
    assert!((100_000..102_000).contains(&logged), "{logged}");
    let look = source.look(Some(&before)).await.unwrap();
    assert_eq!(look.continuity, Continuity::Pruned);
    db.sql(update_one).await;
    let look = source.look(Some(&look.cursor)).await.unwrap();
    assert_eq!(look.continuity, Continuity::Continues);

    db.sql("DELETE FROM api_keys WHERE name = 'first'").await;
    becomes(&replica, &secret, "unknown").await;
    assert_eq!(replica.keys.held(), 200);
}

async fn a_restart_finds_everything(db: Database) {
    let time = Time::new();
    let (secret, revoked, cookie);
    let password = digest(&Secret::new("a-password-hash".to_owned()));
    {
        let before = db.open(&time).await;
        secret = before.create("live").await.1;
        let key;
        (key, revoked) = before.create("revoked").await;
        before.keys.revoke(key.id, &author("admin"), &anything).await.unwrap();
        cookie = log_in(&before.keys, "zoë", &password).await;
    }
    let keys = Keys::open(&db.url(), time.clock()).await.unwrap();
    assert!(!keys.was_read() && keys.is_unknowable(None) && keys.lag().is_none());
    let after = Replica::of(keys, &time);
    after.keys.first_read().await;
    assert!(after.keys.was_read() && !after.keys.is_unknowable(None));
    assert_eq!((after.find(&secret), after.find(&revoked)), ("live", "revoked"));
    assert!(after.has_session(&cookie));
}

async fn a_newer_store_is_refused(db: Database) {
    db.store().await;
    let (yes, checksum) = match db {
        Database::Sqlite(_) => ("true", "x'00'"),
        Database::Postgres { .. } => ("true", "'\\x00'"),
    };
    let columns = "INSERT INTO api_migrations (version, description, success, checksum, execution_time)";
    db.sql(&format!("{columns} VALUES (7, 'of the future', {yes}, {checksum}, 0)")).await;
    db.sql("UPDATE api_revision SET oldest_reader = 7").await;
    let error = Keys::open(&db.url(), Clock::system()).await.err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 7, known: SCHEMA }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
}

async fn a_newer_store_that_older_programs_may_read_is_used(db: Database) {
    let time = Time::new();
    let (_, secret) =
        db.open(&time).await.keys.create(&settings(), ask("old"), &author("admin"), &anything).await.unwrap();
    let (yes, checksum) = match db {
        Database::Sqlite(_) => ("true", "x'00'"),
        Database::Postgres { .. } => ("true", "'\\x00'"),
    };
    let columns = "INSERT INTO api_migrations (version, description, success, checksum, execution_time)";
    db.sql(&format!("{columns} VALUES (7, 'of the future', {yes}, {checksum}, 0)")).await;
    let tables = ["api_keys", "api_sessions", "api_people", "api_revision", "api_changes"];
    for table in tables.into_iter().chain(["api_secrets", "api_used_states"]) {
        db.sql(&format!("ALTER TABLE {table} ADD COLUMN of_the_future INTEGER NOT NULL DEFAULT 7")).await;
    }
    let replica = db.open(&time).await;
    assert_eq!(replica.find(&secret), "live");
    let (key, secret) =
        replica.keys.create(&settings(), ask("new"), &author("admin"), &anything).await.unwrap();
    assert_eq!(replica.find(&secret), "live");
    replica.keys.revoke(key.id, &author("somebody"), &anything).await.unwrap();
    assert_eq!(db.open(&time).await.find(&secret), "revoked");
    replica.keys.sealing_key().await.unwrap();
    assert!(replica.keys.use_state(&TokenDigest::of(b"state")).await.unwrap());
}

async fn a_store_of_somebody_else_is_refused(db: Database) {
    db.store().await;
    let other = if matches!(db, Database::Sqlite(_)) { "x'00'" } else { "'\\x00'" };
    db.sql(&format!("UPDATE api_migrations SET checksum = {other} WHERE version = 1")).await;
    let error = Keys::open(&db.url(), Clock::system()).await.err().unwrap();
    assert!(matches!(error, OpenError::Foreign(1)), "{error}");
}

async fn many_processes_open_a_new_store_at_once(db: Database) {
    let url = db.url();
    let openings = (0..8).map(|number| {
        let url = url.clone();
        tokio::spawn(async move {
            let keys = Keys::open(&url, Clock::system()).await.unwrap();
            let replica = Replica::of(keys, &Time::new());
            replica.keys.first_read().await;
            replica.create(&format!("key-{number}")).await;
        })
    });
    for opening in openings.collect::<Vec<_>>() {
        opening.await.unwrap();
    }
    assert_eq!(db.open(&Time::new()).await.keys.held(), 8);
}

async fn keys_may_be_served_for_so_long_without_reading(db: Database) {
    let time = Time::new();
    let limit = Some(Duration::from_secs(30));
    let (replica, _) = db.open_ticked(&time).await;
    time.pass(30);
    assert_eq!(replica.keys.lag(), Some(Duration::from_secs(30)));
    assert!(!replica.keys.is_unknowable(limit));
    time.pass(1);
    assert!(replica.keys.is_unknowable(limit));
    let again = Replica::of(Arc::clone(&replica.keys), &time);
    soon("read again", async || !again.keys.is_unknowable(limit)).await;
}

async fn setting_the_time_of_day_changes_nothing_about_how_long_keys_are_served(db: Database) {
    let (day, elapsed) = (Time::new(), Arc::new(AtomicI64::new(0)));
    let (now, seconds) = (day.clone(), Arc::clone(&elapsed));
    let since_boot = move || Duration::from_secs(seconds.load(Ordering::SeqCst).unsigned_abs());
    let keys = Keys::open(&db.url(), Clock::from_fns(move || now.now(), since_boot)).await.unwrap();
    Follower::new(Arc::clone(&keys)).tick(tokio::time::Instant::now()).await;
    let limit = Some(Duration::from_secs(30));
    elapsed.store(1, Ordering::SeqCst);
    // Forwards by an hour, and to ten minutes before the beginning.
    for set_by in [3600, -4200] {
        day.pass(set_by);
        assert_eq!(keys.lag(), Some(Duration::from_secs(1)));
        assert!(!keys.is_stale(limit) && !keys.is_unknowable(limit));
    }
    elapsed.store(31, Ordering::SeqCst);
    assert!(keys.is_stale(limit) && keys.is_unknowable(limit));
}

async fn a_list_is_read_in_pages_in_the_order_of_bytes(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let keys = &replica.keys;
    // Pages end between keys of one name.
    let name = "CASE i % 4 WHEN 0 THEN 'b' WHEN 1 THEN 'A' WHEN 2 THEN 'ä' ELSE 'Z' END";
    let revoked_at = format!("CASE WHEN i % 10 = 0 THEN {START} END");
    db.insert_keys(2500, name, &revoked_at).await;
    let (expired, _) =
        keys.create(&settings(), until("c", START + 10), &author("admin"), &anything).await.unwrap();
    time.pass(10);

    let all = list(keys, &KeyFilter::default()).await;
    assert_eq!(all.len(), 2501);
    assert!(all.is_sorted_by(|one, other| (&one.name, one.id) < (&other.name, other.id)));
    let live = list(keys, &live_at(time.now())).await;
    assert_eq!(live.len(), 2250);
    assert!(live.iter().all(|key| key.revoked_at.is_none() && key.id != expired.id));
    assert_eq!(list(keys, &live_at(at(START + 9))).await.len(), 2251);

    for (offset, limit) in [(0, 1), (990, 20), (2000, 1000), (2501, 1), (u64::MAX, 1000)] {
        let page = keys.list_page(&KeyFilter::default(), KeyOrder::default(), offset, limit).await.unwrap();
        let expected: Vec<&Key> =
            all.iter().skip(usize::try_from(offset).unwrap()).take(limit as usize).collect();
        assert_eq!((page.keys.iter().collect(), page.total), (expected, 2501), "{offset} {limit}");
    }
    let page = keys.list_page(&live_at(time.now()), KeyOrder::default(), 1500, 1000).await.unwrap();
    assert_eq!((&page.keys[..], page.total), (&live[1500..], 2250));
}

const DAY: i64 = 86_400;

async fn dead_keys_are_deleted_when_they_are_dead_for_long_enough(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let keys = &replica.keys;
    let forget_after = Arc::new(Mutex::new(None));
    let present = Arc::clone(&forget_after);
    keys.follow_settings(move || Some(KeySettings { forget_after: *present.lock().unwrap(), ..settings() }));
    let (expired, expired_secret) =
        keys.create(&settings(), until("expired", START + 10), &author("admin"), &anything).await.unwrap();
    let (revoked, _) = replica.create("revoked").await;
    keys.revoke(revoked.id, &author("admin"), &anything).await.unwrap();
    // Dead since it expired, not since it was revoked.
    let (both, _) =
        keys.create(&settings(), until("both", START + 20), &author("admin"), &anything).await.unwrap();
    let (late, _) =
        keys.create(&settings(), until("late", START + 40 * DAY), &author("admin"), &anything).await.unwrap();
    let (unlimited, _) = replica.create("unlimited").await;
    time.pass(30);
    keys.revoke(both.id, &author("admin"), &anything).await.unwrap();
    let ids = async || -> Vec<i64> {
        list(keys, &KeyFilter::default()).await.into_iter().map(|key| key.id).collect()
    };
    let rest = [late.id, unlimited.id];

    time.pass(30 * DAY - 30);
    follower.tick().await;
    assert_eq!(ids().await.len(), 5, "nothing is deleted without the setting");
    *forget_after.lock().unwrap() = Some(Duration::from_secs(30 * 86_400));
    follower.read_for(Duration::from_secs(3590)).await;
    assert_eq!(ids().await.len(), 5, "it is looked at once an hour");
    follower.read_for(Duration::from_secs(10)).await;
    assert_eq!(ids().await, [both.id, expired.id, rest[0], rest[1]]);
    time.pass(10);
    follower.read_for(Duration::from_secs(3600)).await;
    assert_eq!(ids().await, [both.id, rest[0], rest[1]]);
    follower.tick().await;
    assert_eq!(replica.find(&expired_secret), "unknown");
    time.pass(9);
    follower.read_for(Duration::from_secs(3600)).await;
    assert_eq!(ids().await, [both.id, rest[0], rest[1]], "to the second");
    time.pass(1);
    follower.read_for(Duration::from_secs(3600)).await;
    assert_eq!(ids().await, rest);

    // A thousand at a time, and the store is read in between.
    db.insert_keys(2500, "'dead'", &START.to_string()).await;
    follower.read_for(Duration::from_secs(3600 - 1)).await;
    for left in [1502, 502, 2] {
        follower.tick().await;
        assert_eq!(ids().await.len(), left);
    }
    follower.tick().await;
    assert_eq!((ids().await, keys.held()), (rest.to_vec(), 2));
    assert_eq!(keys.store_errors(), StoreErrors::default());
}

async fn two_who_delete_dead_keys_delete_different_ones(db: Database) {
    let store = async || db.store().await.for_follower().upkeep.unwrap();
    let (one, other) = (store().await, store().await);
    db.insert_keys(1500, "'dead'", &START.to_string()).await;
    let (one, other) = tokio::join!(one.forget_keys(at(START), 1000), other.forget_keys(at(START), 1000));
    let deleted = one.unwrap().total() + other.unwrap().total();
    let left = db.number("SELECT count(*) FROM api_keys").await;
    assert_eq!(deleted, 1500 - u64::try_from(left).unwrap());
    assert!(deleted >= 1000, "{deleted}");
}

async fn unused_keys_expire_once_the_uses_of_an_outage_are_written(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let keys = &replica.keys;
    let max_idle = Some(Duration::from_secs(86_400));
    keys.follow_settings(move || Some(KeySettings { max_idle, ..settings() }));
    let (used, used_secret) = replica.create("used").await;
    let (unused, _) = replica.create("unused").await;
    let (_, replaced) = replica.create("rotated").await;
    let (dead, _) =
        keys.create(&settings(), until("dead", START + 5), &author("admin"), &anything).await.unwrap();
    time.pass(3600);
    assert_eq!(replica.find(&used_secret), "live");
    follower.tick().await;
    let expiry = async |id: i64| keys.get(id).await.unwrap().unwrap().expires_at;

    // A use is written down within a minute: so much later than a day.
    time.pass(DAY + 59 - 3600);
    follower.read_for(Duration::from_secs(7200)).await;
    assert_eq!(expiry(unused.id).await, None);
    let rotated =
        list(keys, &KeyFilter::default()).await.into_iter().find(|key| key.name == "rotated").unwrap();
    keys.rotate(&settings(), rotated.id, 7200, &author("admin"), &anything).await.unwrap();
    time.pass(1);
    // The store did not answer for a while: other processes may still have uses to write.
    follower.now += Duration::from_secs(61);
    follower.read_for(Duration::from_secs(599)).await;
    assert_eq!(expiry(unused.id).await, None);
    follower.read_for(Duration::from_secs(3600)).await;
    let now = time.now();
    assert_eq!((expiry(unused.id).await, expiry(rotated.id).await), (Some(now), Some(now)));
    assert_eq!((expiry(used.id).await, expiry(dead.id).await), (None, Some(at(START + 5))));
    follower.tick().await;
    assert_eq!((replica.find(&replaced), replica.find(&used_secret)), ("expired", "live"));
    // The use just now is the last one.
    time.pass(DAY + 60);
    follower.tick().await;
    follower.read_for(Duration::from_secs(3600)).await;
    assert_eq!(expiry(used.id).await, Some(time.now()));
    assert_eq!(keys.store_errors(), StoreErrors::default());
}

async fn an_imported_key_is_unused_since_its_import(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let keys = &replica.keys;
    let max_idle = Some(Duration::from_secs(86_400));
    keys.follow_settings(move || Some(KeySettings { max_idle, ..settings() }));
    let new = |name: &str| NewKey {
        digest: PlainToken::new(name.as_bytes()).unwrap().digest(),
        request: ask(name),
        created_at: at(START - 400 * DAY),
        created_by: "elsewhere".to_owned(),
        disabled_at: None,
        imported_at: Some(time.now()),
    };
    let imported = keys.import(&settings(), &[new("old"), new("used")], &author("admin")).await.unwrap();
    let [old, used] = [imported[0].id, imported[1].id];
    assert_eq!((imported[0].created_at, imported[0].last_used_at), (at(START - 400 * DAY), None));
    assert_eq!(imported[0].imported_at, Some(at(START)));
    let unused_for = async |seconds: i64| {
        let unused_since = Some(at(time.now().as_second() - seconds));
        let filter = KeyFilter { unused_since, ..KeyFilter::default() };
        list(keys, &filter).await.into_iter().map(|key| key.id).collect::<Vec<_>>()
    };
    let expiry = async |id: i64| keys.get(id).await.unwrap().unwrap().expires_at;

    follower.read_for(Duration::from_secs(7200)).await;
    assert_eq!((expiry(old).await, expiry(used).await), (None, None), "the day has only begun");
    assert_eq!(unused_for(1).await, Vec::<i64>::new());
    time.pass(3600);
    assert_eq!(unused_for(3600).await, [old, used]);
    let used_at = time.now();
    keys.record_use(&new("used").digest, used_at, || None);
    follower.tick().await;
    assert_eq!(unused_for(3600).await, [old]);

    time.pass(DAY + 60 - 3600);
    follower.read_for(Duration::from_secs(7200)).await;
    assert_eq!((expiry(old).await, expiry(used).await), (Some(time.now()), None));
}

/// What is written of events.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// The lines of the audit log.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        let lines = std::str::from_utf8(&bytes).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "audit").collect()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A process lets unused keys expire once it could read the store for ten minutes, by a clock that nobody sets, so no test
/// of the binary sees it.  This one has what the binary has, the text of a configuration and the events of the log, and a
/// follower for which time passes.
async fn each_key_that_expires_unused_has_a_line_in_the_audit_log(db: Database) {
    let time = Time::new();
    let (replica, mut follower) = db.open_ticked(&time).await;
    let source =
        ConfigSource { file: Path::new("config.yaml"), environment: &ProcessEnvironment, now: time.now() };
    let config = Config::parse("keys: {store: \"sqlite:keys.db\", max_idle: 90d}", &source);
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    let snapshots = SnapshotStore::new(Snapshot::build(&config, None).unwrap());
    replica.keys.follow_settings(move || snapshots.current().keys.clone());

    let (unused, unused_secret) = replica.create("unused").await;
    let (_, secret) = replica.create("in use").await;
    let last_use = match db {
        Database::Sqlite(_) => format!("{}", START - 91 * DAY),
        Database::Postgres { .. } => format!("to_timestamp({})", START - 91 * DAY),
    };
    let set = |column: &str| format!("UPDATE api_keys SET {column} = {last_use} WHERE id = {};", unused.id);
    db.sql(&(set("created_at") + &set("last_used_at"))).await;

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true);
    let capture = tracing::subscriber::set_default(subscriber.with_writer(move || writer.clone()).finish());
    follower.read_for(Duration::from_secs(590)).await;
    assert_eq!(lines.audit(), Vec::<Value>::new());
    follower.read_for(Duration::from_secs(3700)).await;
    drop(capture);
    assert_eq!((replica.find(&unused_secret), replica.find(&secret)), ("expired", "live"));
    let lines = lines.audit();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let told = ["message", "max_idle", "key.name", "key.role", "key.expires", "last_used"];
    let expected = [
        "API key expired because it was not used",
        "90d",
        "unused",
        "Editor",
        "2026-01-01T00:00:00Z",
        "2025-10-02T00:00:00Z",
    ];
    assert_eq!(told.map(|field| line[field].as_str().unwrap()), expected, "{line}");
    assert_eq!(line["key.id"], unused.id);
}

/// A source in which a look panics as long as somebody wants it to.
struct Panicking {
    source: Arc<dyn Source>,
    panics: Arc<AtomicBool>,
}

#[async_trait]
impl Source for Panicking {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.source.prepare().await
    }
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "this panic belongs to a test");
        self.source.look(since).await
    }
    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        self.source.changes(from, until).await
    }
    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        self.source.keys(after).await
    }
    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        self.source.sessions(after).await
    }
    async fn people(&self, after: i64) -> Result<PersonPage, StoreError> {
        self.source.people(after).await
    }
    async fn accounts(&self, after: i64) -> Result<AccountPage, StoreError> {
        self.source.accounts(after).await
    }
    async fn changed(&self) -> Result<(), StoreError> {
        self.source.changed().await
    }
    async fn close(&self) {
        self.source.close().await;
    }
}

async fn a_panic_while_following_is_logged_and_followed_by_a_new_start(db: Database) {
    let time = Time::new();
    let panics = Arc::new(AtomicBool::new(false));
    let keys = Keys::open(&db.url(), time.clock()).await.unwrap();
    let FollowerStore { source, upkeep } = db.store().await.for_follower();
    let source = Arc::new(Panicking { source, panics: Arc::clone(&panics) });
    let mut follower = Follower::with_store(Arc::clone(&keys), FollowerStore { source, upkeep });
    let follower = tokio::spawn(async move { follower.run().await });
    let replica = Replica { keys, time: time.clone(), follower };
    replica.keys.first_read().await;
    let (key, secret) = replica.create("a").await;

    panics.store(true, Ordering::SeqCst);
    soon("a panic is counted", async || replica.keys.store_errors().read > 0).await;
    // Neither Checks nor changes are affected.
    assert_eq!(replica.find(&secret), "live");
    replica.create("b").await;
    db.sql(&format!("UPDATE api_keys SET revoked_at = created_at WHERE id = {}", key.id)).await;
    let before = replica.keys.store_errors().read;
    soon("it panics again", async || replica.keys.store_errors().read > before).await;

    panics.store(false, Ordering::SeqCst);
    soon("what happened meanwhile is known", async || replica.find(&secret) == "revoked").await;
    assert!(!replica.follower.is_finished());
    // Uses are still written down.
    let (used, other) = replica.create("c").await;
    assert_eq!(replica.find(&other), "live");
    let last_used_at = async || replica.keys.get(used.id).await.unwrap().unwrap().last_used_at;
    soon("its use is written", async || last_used_at().await.is_some()).await;
}

async fn names_are_only_names(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let long = "x".repeat(10_240);
    let names = ["'; DROP TABLE api_keys; --", "$1 ?1 %s {}", "\u{202e}שלום", "🦀🦀", "a\"b\\c", &long];
    for name in names {
        let (key, secret) = replica.create(name).await;
        assert_eq!(replica.keys.get(key.id).await.unwrap().unwrap().name, name);
        assert_eq!(&*replica.principal(&secret).name, name);
    }
    assert_eq!(db.open(&time).await.keys.held(), names.len());
    // An actor's id may be any text, and PostgreSQL holds no NUL.
    let (key, _) = replica.keys.create(&settings(), ask("by nul"), &author("a\0b"), &anything).await.unwrap();
    assert_eq!(key.created_by, "a\u{fffd}b");
    replica.keys.revoke(key.id, &author("\0"), &anything).await.unwrap();
}

#[tokio::test]
async fn the_sqlite_file_is_ours_alone_and_holds_no_secret() {
    let db = Database::sqlite();
    let Database::Sqlite(folder) = &db else { unreachable!() };
    let replica = db.open(&Time::new()).await;
    let (key, first) = replica.create("key").await;
    let (_, second) =
        replica.keys.rotate(&settings(), key.id, 60, &author("admin"), &anything).await.unwrap();
    for name in ["keys.db", "keys.db-wal", "keys.db-shm"] {
        let path = folder.path().join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let bytes = std::fs::read(&path).unwrap();
        for secret in [&first, &second] {
            let secret = secret.expose().as_bytes();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "this is no database, however long the text may be made\n".repeat(100)).unwrap();
    let cases = [
        (text, "not a database"),
        (folder.path().to_owned(), "directory"),
        (folder.path().join("missing/keys.db"), "does not exist"),
    ];
    for (path, expected) in cases {
        let opened = Keys::open(&StoreUrl::Sqlite(path.clone()), Clock::system()).await;
        let error = opened.err().unwrap().to_string();
        assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
    }
}

#[tokio::test]
async fn what_postgresql_refuses_for_good_is_an_error_without_the_password() {
    let server = Postgres::shared();
    let database = server.database();
    let url = server.url(&database);
    let cases = [
        (url.replace(PASSWORD, "hunter2-but-wrong"), "password authentication failed"),
        (url.replace(&database, "nowhere"), "does not exist"),
        (url.replace("//keys:", "//nobody:"), "password authentication failed"),
    ];
    for (url, expected) in cases {
        let opened = Keys::open(&StoreUrl::parse(&url).unwrap(), Clock::system()).await;
        let error = opened.err().unwrap();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_postgresql_is_down_keys_go_on_from_memory_and_what_happened_arrives_after() {
    let server = Postgres::start();
    let database = server.database();
    let url = StoreUrl::parse(&server.url(&database)).unwrap();
    let time = Time::new();
    let replica = Replica::of(Keys::open(&url, time.clock()).await.unwrap(), &time);
    replica.keys.first_read().await;
    let (revoked, revoked_secret) = replica.create("revoked meanwhile").await;
    let (kept, secret) = replica.create("kept").await;

    server.stop();
    soon("the outage is noticed", async || replica.keys.store_errors().read > 0).await;
    assert_eq!((replica.find(&secret), replica.find(&revoked_secret)), ("live", "live"));
    assert!(!replica.keys.is_unknowable(None));
    let errors = [
        replica
            .keys
            .create(&settings(), ask("new"), &author("admin"), &anything)
            .await
            .err()
            .unwrap()
            .to_string(),
        replica
            .keys
            .rotate(&settings(), kept.id, 0, &author("admin"), &anything)
            .await
            .err()
            .unwrap()
            .to_string(),
        replica.keys.revoke(kept.id, &author("admin"), &anything).await.err().unwrap().to_string(),
        replica.keys.get(kept.id).await.err().unwrap().to_string(),
    ];
    for error in errors {
        assert!(error.starts_with("the key store: ") && !error.contains("hunter2"), "{error}");
    }
    // Nothing of what failed has happened.
    assert_eq!(replica.find(&secret), "live");

    server.resume();
    let revoke = format!("UPDATE api_keys SET revoked_at = now() WHERE id = {}", revoked.id);
    server.psql(&database, &revoke);
    let took = becomes(&replica, &revoked_secret, "revoked").await;
    println!("a revocation made during the outage arrived after {took:?}");
    soon("changes are possible again", async || {
        replica.keys.create(&settings(), ask("new"), &author("admin"), &anything).await.is_ok()
    })
    .await;

    // And NOTIFY works again as well.
    let other = Replica::of(Keys::open(&url, time.clock()).await.unwrap(), &time);
    other.keys.first_read().await;
    other.keys.revoke(kept.id, &author("admin"), &anything).await.unwrap();
    becomes(&replica, &secret, "revoked").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_comes_later_is_waited_for() {
    let server = Postgres::start();
    let database = server.database();
    server.stop();
    let time = Time::new();
    let url = StoreUrl::parse(&server.url(&database)).unwrap();
    let replica = Replica::of(Keys::open(&url, time.clock()).await.unwrap(), &time);
    assert!(!replica.keys.was_read() && replica.keys.is_unknowable(None));
    assert!(matches!(
        replica.keys.create(&settings(), ask("early"), &author("admin"), &anything).await,
        Err(ChangeError::Store(_))
    ));
    server.resume();
    replica.keys.first_read().await;
    assert!(!replica.keys.is_unknowable(None));
    replica.create("late").await;
}
