//! How the follower reads a store: in pages, from where it stopped, and after the store has forgotten something.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use envoy_auth_tokens::keys::follower::Follower;
use envoy_auth_tokens::keys::store::source::{
    AccountPage, ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, PersonPage, Revision, SessionPage,
    Source,
};
use envoy_auth_tokens::keys::store::{FollowerStore, StoreError, StoreUrl};
use envoy_auth_tokens::keys::{Keys, StoreErrors};
use envoy_auth_tokens::secret::Secret;
use envoy_auth_tokens::token::{PlainToken, TokenDigest};

use crate::harness::postgres::Postgres;
use crate::harness::{sqlite, stored_keys};
use crate::keys_lost_changes::make_schema_2;
use crate::keys_store::{
    Database, Replica, Time, anything, ask, author, becomes, log_in, on_both_stores, settings, soon,
};

/// What the follower asked for, and something that happens in between.
#[derive(Default)]
struct Watch {
    /// Runs once, while the store is made ready.
    at_prepare: Mutex<Option<Hook>>,
    looks: AtomicUsize,
    /// The number of rows of each page.
    change_pages: Mutex<Vec<usize>>,
    key_pages: Mutex<Vec<usize>>,
    /// Runs once, before the page of this number.
    before_page: Mutex<Option<(usize, Hook)>>,
    /// Runs at the beginning of each page.
    at_page: Mutex<Option<Hook>>,
}

type Hook = Box<dyn FnMut() + Send>;

/// A source that is watched.
struct Watched {
    source: Arc<dyn Source>,
    watch: Arc<Watch>,
}

impl Watched {
    fn page(&self, pages: &Mutex<Vec<usize>>) {
        if let Some(hook) = self.watch.at_page.lock().unwrap().as_mut() {
            hook();
        }
        let number = pages.lock().unwrap().len();
        let mut before = self.watch.before_page.lock().unwrap();
        if let Some((_, mut hook)) = before.take_if(|(due, _)| *due == number) {
            hook();
        }
    }
}

#[async_trait]
impl Source for Watched {
    async fn prepare(&self) -> Result<(), StoreError> {
        let hook = self.watch.at_prepare.lock().unwrap().take();
        if let Some(mut hook) = hook {
            hook();
        }
        self.source.prepare().await
    }
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        self.watch.looks.fetch_add(1, Ordering::SeqCst);
        self.source.look(since).await
    }
    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        self.page(&self.watch.change_pages);
        let page = self.source.changes(from, until).await?;
        let rows = page.keys.len() + page.deleted_keys.len();
        self.watch.change_pages.lock().unwrap().push(rows);
        Ok(page)
    }
    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        self.page(&self.watch.key_pages);
        let page = self.source.keys(after).await?;
        self.watch.key_pages.lock().unwrap().push(page.keys.len());
        Ok(page)
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

/// A follower that is ticked by hand, and what it asks for.
struct Manual {
    keys: Arc<Keys>,
    follower: Follower,
    watch: Arc<Watch>,
}

impl Manual {
    async fn of(db: &Database, time: &Time) -> Self {
        let keys = Keys::open(&db.url(), time.clock()).await.unwrap();
        let FollowerStore { source, upkeep } = db.store().await.for_follower();
        let watch = Arc::new(Watch::default());
        let source = Arc::new(Watched { source, watch: Arc::clone(&watch) });
        let follower = Follower::with_store(Arc::clone(&keys), FollowerStore { source, upkeep });
        Self { keys, follower, watch }
    }

    async fn tick(&mut self) {
        self.follower.tick(tokio::time::Instant::now()).await;
    }

    /// The rows of each page since the last call: of changes, and of everything.
    fn pages(&self) -> (Vec<usize>, Vec<usize>) {
        let take = |pages: &Mutex<Vec<usize>>| std::mem::take(&mut *pages.lock().unwrap());
        (take(&self.watch.change_pages), take(&self.watch.key_pages))
    }
}

/// Inserts this many keys past the program.
async fn insert_keys(db: &Database, keys: usize) {
    // The first opening makes the tables.
    db.store().await;
    match db {
        Database::Sqlite(_) => {
            let StoreUrl::Sqlite(path) = db.url() else { unreachable!() };
            sqlite::insert_keys(&path, keys);
        }
        Database::Postgres { server, database } => server.insert_keys(database, keys),
    }
}

fn stored(number: usize) -> TokenDigest {
    PlainToken::new(stored_keys::token(number).as_bytes()).unwrap().digest()
}

fn is_live(keys: &Keys, time: &Time, digest: &TokenDigest) -> bool {
    matches!(keys.find(digest, time.now()), envoy_auth_tokens::keys::KeyLookup::Live(_))
}

/// A copy of the database, to be put back under whoever has it open.
#[derive(Clone)]
pub(crate) enum Backup {
    Sqlite { file: std::path::PathBuf, copy: std::path::PathBuf },
    Postgres { server: Arc<Postgres>, database: String, dump: String },
}

impl Backup {
    pub(crate) fn of(db: &Database) -> Self {
        match db {
            Database::Sqlite(folder) => {
                let file = folder.path().join("keys.db");
                let copy = folder.path().join("backup.db");
                sqlite::online_backup(&file, &copy);
                Self::Sqlite { file, copy }
            }
            Database::Postgres { server, database } => Self::Postgres {
                server: Arc::clone(server),
                database: database.clone(),
                dump: server.dump(database),
            },
        }
    }

    pub(crate) fn restore(&self) {
        match self {
            Self::Sqlite { file, copy } => sqlite::online_restore(file, copy),
            Self::Postgres { server, database, dump } => server.restore_in_place(database, dump),
        }
    }
}

on_both_stores! {
    everything_is_read_in_pages_and_once
    keys_are_made_while_the_store_is_made_ready
    a_change_during_a_reading_of_everything_counts
    many_changes_are_read_in_pages_and_the_newest_first
    what_was_dead_stays_dead_when_the_store_is_restored
    the_same_revision_of_another_history_is_noticed
    a_restore_in_the_middle_of_a_reading_brings_no_revoked_key_back
    a_store_without_what_this_process_committed_is_noticed
    nothing_is_told_of_a_store_that_goes_on
    a_schema_for_newer_programs_answers_no_key
}

async fn everything_is_read_in_pages_and_once(db: Database) {
    insert_keys(&db, 2500).await;
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    assert_eq!(replica.pages(), (vec![], vec![MAX_PAGE, MAX_PAGE, 500]));
    assert_eq!(replica.keys.held(), 2500);
    assert!(is_live(&replica.keys, &time, &stored(1)) && is_live(&replica.keys, &time, &stored(2500)));

    // Nothing happened: one look, and no page.
    let looks = replica.watch.looks.load(Ordering::SeqCst);
    replica.tick().await;
    assert_eq!(replica.pages(), (vec![], vec![]));
    assert_eq!(replica.watch.looks.load(Ordering::SeqCst), looks + 1);
}

async fn keys_are_made_while_the_store_is_made_ready(db: Database) {
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    let (keys, runtime) = (Arc::clone(&replica.keys), tokio::runtime::Handle::current());
    // A writer uses what a file that is opened anew waits for: neither may wait for the other.
    let create = move || {
        let settings = settings();
        let admin = author("admin");
        let created = keys.create(&settings, ask("meanwhile"), &admin, &anything);
        tokio::task::block_in_place(|| drop(runtime.block_on(created).unwrap()));
    };
    *replica.watch.at_prepare.lock().unwrap() = Some(Box::new(create));
    replica.tick().await;
    assert_eq!(replica.keys.held(), 1);
    assert!(replica.watch.at_prepare.lock().unwrap().is_none(), "it never happened");
}

async fn a_change_during_a_reading_of_everything_counts(db: Database) {
    insert_keys(&db, 2500).await;
    let time = Time::new();
    let store = db.store().await;
    let first = store.for_follower().source.keys(i64::MIN).await.unwrap().keys;
    let (revoked, deleted) = (first[3].clone(), first[4].clone());
    let (revoked_id, deleted_id) = (revoked.key.id, deleted.key.id);

    let mut replica = Manual::of(&db, &time).await;
    let runtime = tokio::runtime::Handle::current();
    let db = Arc::new(db);
    let (changing, keys, clock) = (Arc::clone(&db), Arc::clone(&replica.keys), time.clone());
    let hook = move || {
        assert!(is_live(&keys, &clock, &revoked.digest) && is_live(&keys, &clock, &deleted.digest));
        let sql = format!(
            "UPDATE api_keys SET revoked_at = created_at WHERE id = {revoked_id}; \
             DELETE FROM api_keys WHERE id = {deleted_id};"
        );
        tokio::task::block_in_place(|| runtime.block_on(changing.sql(&sql)));
    };
    *replica.watch.before_page.lock().unwrap() = Some((1, Box::new(hook)));
    replica.tick().await;
    assert_eq!(replica.keys.held(), 2499);
    let (revoked, deleted) = (first[3].digest, first[4].digest);
    assert!(!is_live(&replica.keys, &time, &revoked) && !is_live(&replica.keys, &time, &deleted));
    let (changes, everything) = replica.pages();
    assert_eq!(everything, [MAX_PAGE, MAX_PAGE, 500]);
    assert_eq!(changes.iter().sum::<usize>(), 2);
}

async fn many_changes_are_read_in_pages_and_the_newest_first(db: Database) {
    insert_keys(&db, 3500).await;
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    drop(replica.pages());

    db.sql("UPDATE api_keys SET created_by = 'somebody else'").await;
    let last = stored(3500);
    assert!(is_live(&replica.keys, &time, &last));
    // After the second page of the many changes somebody revokes a key.
    let db = Arc::new(db);
    let (changing, runtime) = (Arc::clone(&db), tokio::runtime::Handle::current());
    let revoke = move || {
        let sql = "UPDATE api_keys SET revoked_at = created_at WHERE id = (SELECT max(id) FROM api_keys)";
        tokio::task::block_in_place(|| runtime.block_on(changing.sql(sql)));
    };
    *replica.watch.before_page.lock().unwrap() = Some((2, Box::new(revoke)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (seeing, keys, clock) = (Arc::clone(&seen), Arc::clone(&replica.keys), time.clone());
    let see = move || seeing.lock().unwrap().push(is_live(&keys, &clock, &last));
    *replica.watch.at_page.lock().unwrap() = Some(Box::new(see));
    replica.tick().await;
    let (changes, everything) = replica.pages();
    assert_eq!(everything, [0; 0], "what changed is known: nothing else is read");
    assert_eq!(changes, [MAX_PAGE, MAX_PAGE, MAX_PAGE, 1, 500], "the revocation goes before the rest");
    assert_eq!(*seen.lock().unwrap(), [true, true, true, true, false]);
}

async fn what_was_dead_stays_dead_when_the_store_is_restored(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    let (revoked, revoked_secret) = replica.create("revoked").await;
    let (deleted, deleted_secret) = replica.create("deleted").await;
    let (rotated, replaced_secret) = replica.create("rotated").await;
    let (_, kept_secret) = replica.create("kept").await;
    let password = PlainToken::new(b"hash").unwrap().digest();
    let closed = log_in(&replica.keys, "zoë", &password).await;
    let backup = Backup::of(&db);

    replica.keys.revoke(revoked.id, &author("admin"), &anything).await.unwrap();
    replica.keys.delete(deleted.id, &author("admin"), &anything).await.unwrap();
    let (_, new_secret) =
        replica.keys.rotate(&settings(), rotated.id, 0, &author("admin"), &anything).await.unwrap();
    let (_, late_secret) = replica.create("late").await;
    let digest = PlainToken::new(closed.expose().as_bytes()).unwrap().digest();
    replica.keys.close_session(&digest, &[]).await.unwrap();
    let find = |replica: &Replica| {
        [&revoked_secret, &deleted_secret, &replaced_secret, &kept_secret, &new_secret, &late_secret]
            .map(|secret: &Secret| replica.find(secret))
    };
    assert_eq!(find(&replica), ["revoked", "unknown", "expired", "live", "live", "live"]);
    // The follower has seen all of it.
    let revision = db.number("SELECT value FROM api_revision").await;
    soon("read", async || replica.keys.revision() == Some(Revision(revision))).await;
    assert_eq!(replica.keys.history_rewrites(), 0);

    backup.restore();
    soon("noticed", async || replica.keys.history_rewrites() == 1).await;
    let older = db.number("SELECT value FROM api_revision").await;
    assert!(older < revision, "{older} {revision}");
    soon("read anew", async || replica.keys.revision() == Some(Revision(older))).await;
    // The store takes them for live, and the replica knows better.
    assert_eq!(find(&replica), ["revoked", "revoked", "revoked", "live", "unknown", "unknown"]);
    assert!(!replica.has_session(&closed));
    assert_eq!(replica.keys.denied_by_history(), 4);

    // Changes go on, under the new history.
    let (_, after_secret) = replica.create("after").await;
    assert_eq!(replica.find(&after_secret), "live");
    replica.keys.revoke(rotated.id, &author("admin"), &anything).await.unwrap();
    let other = db.open(&time).await;
    assert_eq!(find(&other), ["live", "live", "revoked", "live", "unknown", "unknown"]);
    assert!(other.has_session(&closed));

    db.sql("UPDATE api_revision SET accepted = accepted + 1").await;
    becomes(&replica, &revoked_secret, "live").await;
    assert_eq!(find(&replica), ["live", "live", "revoked", "live", "unknown", "unknown"]);
    assert!(replica.has_session(&closed));
    assert_eq!((replica.keys.denied_by_history(), replica.keys.history_rewrites()), (0, 1));
}

async fn the_same_revision_of_another_history_is_noticed(db: Database) {
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    let one = Replica::of(Keys::open(&db.url(), time.clock()).await.unwrap(), &time);
    let (_, first) = one.create("first").await;
    let backup = Backup::of(&db);
    let (second_key, second) = one.create("second").await;
    one.keys.revoke(second_key.id, &author("admin"), &anything).await.unwrap();
    drop(one);
    replica.tick().await;
    let digest = |secret: &Secret| PlainToken::new(secret.expose().as_bytes()).unwrap().digest();
    let revision = replica.keys.revision();

    backup.restore();
    let one = Replica::of(Keys::open(&db.url(), time.clock()).await.unwrap(), &time);
    let (_, third) = one.create("third").await;
    let (_, fourth) = one.create("fourth").await;
    replica.tick().await;
    assert_eq!((replica.keys.revision(), replica.keys.history_rewrites()), (revision, 1));
    for (secret, expected) in [(&first, true), (&second, false), (&third, true), (&fourth, true)] {
        assert_eq!(is_live(&replica.keys, &time, &digest(secret)), expected);
    }
}

async fn a_restore_in_the_middle_of_a_reading_brings_no_revoked_key_back(db: Database) {
    insert_keys(&db, 2500).await;
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    let backup = Backup::of(&db);
    let (db, runtime) = (Arc::new(db), tokio::runtime::Handle::current());
    let update =
        |what: &str, number: usize| format!("UPDATE api_keys SET {what} WHERE name = 'stored key {number}'");
    for ((is_pruned, number), rewrites) in [(true, 1), (false, 2)].into_iter().zip(1..) {
        db.sql(&update("revoked_at = created_at", number)).await;
        replica.tick().await;
        assert!(!is_live(&replica.keys, &time, &stored(number)));
        db.sql("UPDATE api_keys SET created_by = 'somebody'").await;
        if is_pruned {
            db.sql("UPDATE api_revision SET pruned = value, pruned_mark = mark; DELETE FROM api_changes")
                .await;
        }
        // Before the first page, of keys or of changes, the backup takes the store's place and has changes of its own
        // under the numbers that are read.
        let (backup, changing, runtime) = (backup.clone(), Arc::clone(&db), runtime.clone());
        let touch = update("created_by = 'another'", number);
        let restore = move || {
            tokio::task::block_in_place(|| {
                backup.restore();
                (0..5 * rewrites).for_each(|_| runtime.block_on(changing.sql(&touch)));
            });
        };
        drop(replica.pages());
        *replica.watch.before_page.lock().unwrap() = Some((0, Box::new(restore)));
        replica.tick().await;
        let pages = replica.pages();
        assert_eq!((pages.0.is_empty(), pages.1.len() > 3), (is_pruned, is_pruned), "{pages:?}");
        assert_eq!(replica.keys.history_rewrites(), rewrites);
        assert!(!is_live(&replica.keys, &time, &stored(number)), "{is_pruned}");
        assert!(is_live(&replica.keys, &time, &stored(2500)));
    }
}

async fn a_store_without_what_this_process_committed_is_noticed(db: Database) {
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    let create = async |keys: &Keys, name: &str| {
        keys.create(&settings(), ask(name), &author("admin"), &anything).await.unwrap()
    };
    let (kept, secret) = create(&replica.keys, "kept").await;
    replica.tick().await;
    // The backup is further than the follower has looked, and the follower does not look before the restore: the store
    // goes on from where it stood then.
    let (unseen, unseen_secret) = create(&replica.keys, "unseen").await;
    let backup = Backup::of(&db);
    replica.keys.revoke(unseen.id, &author("admin"), &anything).await.unwrap();
    replica.keys.revoke(kept.id, &author("admin"), &anything).await.unwrap();
    let (_, lost) = create(&replica.keys, "lost").await;
    backup.restore();
    replica.tick().await;
    let digest = |secret: &Secret| PlainToken::new(secret.expose().as_bytes()).unwrap().digest();
    assert_eq!(replica.keys.history_rewrites(), 1);
    assert!(!is_live(&replica.keys, &time, &digest(&lost)), "nobody else knows it");
    for revoked in [&secret, &unseen_secret] {
        assert!(!is_live(&replica.keys, &time, &digest(revoked)), "its revocation was acknowledged");
    }

    // What changes nothing is no reason.
    assert!(replica.keys.delete(i64::MAX, &author("admin"), &anything).await.is_err());
    assert!(replica.keys.revoke(i64::MAX, &author("admin"), &anything).await.is_err());
    replica.keys.close_session(&digest(&secret), &[]).await.unwrap();
    replica.tick().await;
    assert_eq!(replica.keys.history_rewrites(), 1);
}

async fn nothing_is_told_of_a_store_that_goes_on(db: Database) {
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    drop(replica.pages());
    let other = db.open(&time).await;
    for round in 0..20 {
        let (key, secret) = other.create(&format!("key-{round}")).await;
        replica.tick().await;
        other.keys.rotate(&settings(), key.id, 0, &author("admin"), &anything).await.unwrap();
        other.keys.delete(key.id, &author("admin"), &anything).await.unwrap();
        replica.tick().await;
        drop(secret);
    }
    // The log is cut below what the replica has read, and a table is emptied at once.
    db.sql("UPDATE api_revision SET pruned = value, pruned_mark = mark; DELETE FROM api_changes").await;
    replica.tick().await;
    let (_, secret) = other.create("after").await;
    replica.tick().await;
    let digest = PlainToken::new(secret.expose().as_bytes()).unwrap().digest();
    assert!(is_live(&replica.keys, &time, &digest));
    assert_eq!(replica.pages().1, [0; 0], "nothing made reading everything necessary");
    // Further than the log reaches: everything is read, without an error.
    other.create("unseen").await;
    db.sql("UPDATE api_revision SET pruned = value, pruned_mark = mark; DELETE FROM api_changes").await;
    replica.tick().await;
    assert_eq!((replica.pages().1, replica.keys.held()), (vec![2], 2));
    assert_eq!((replica.keys.history_rewrites(), replica.keys.store_errors()), (0, StoreErrors::default()));
}

async fn a_schema_for_newer_programs_answers_no_key(db: Database) {
    let time = Time::new();
    let replica = db.open(&time).await;
    assert!(!replica.keys.is_stale(None));
    db.sql("UPDATE api_revision SET oldest_reader = 1000").await;
    soon("it answers no key any more", async || replica.keys.is_stale(None)).await;
    assert!(replica.keys.is_unknowable(None));
    db.sql("UPDATE api_revision SET oldest_reader = 2").await;
    soon("it answers again", async || !replica.keys.is_stale(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_make_nothing_be_read_again() {
    let server = Postgres::start();
    let db = Database::Postgres { database: server.database(), server: Arc::new(server) };
    let Database::Postgres { server, database } = &db else { unreachable!() };
    insert_keys(&db, 1500).await;
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    assert_eq!(replica.pages().1, [MAX_PAGE, 500]);
    for _ in 0..3 {
        assert!(server.terminate_connections(database) > 0);
        db.sql("UPDATE api_keys SET created_by = 'x' WHERE id = (SELECT min(id) FROM api_keys)").await;
        // The first attempt may find the connection dead.
        replica.tick().await;
        replica.tick().await;
    }
    let (changes, everything) = replica.pages();
    assert_eq!((changes.iter().sum::<usize>(), everything.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_in_the_middle_of_a_reading_is_brought_up_to_date() {
    let db = Database::postgres();
    insert_keys(&db, 1500).await;
    let time = Time::new();
    let mut replica = Manual::of(&db, &time).await;
    replica.tick().await;
    db.sql("UPDATE api_keys SET created_by = 'somebody'").await;
    let Database::Postgres { server, database } = &db else { unreachable!() };
    let (server, database) = (Arc::clone(server), database.clone());
    let restore = move || {
        tokio::task::block_in_place(|| {
            server.psql(&database, "DROP SCHEMA public CASCADE; CREATE SCHEMA public");
            make_schema_2(&server, &database);
            server.insert_keys(&database, 3);
        });
    };
    *replica.watch.before_page.lock().unwrap() = Some((1, Box::new(restore)));
    // The page cannot be read, and the next reading finds the schema brought up to date.
    for (held, rewrites) in [(1500, 0), (3, 1)] {
        replica.tick().await;
        assert_eq!((replica.keys.held(), replica.keys.history_rewrites()), (held, rewrites));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_holds_up_its_own_rows_alone() {
    let server = Postgres::start();
    let db = Database::Postgres { database: server.database(), server: Arc::new(server) };
    let Database::Postgres { server, database } = &db else { unreachable!() };
    let time = Time::new();
    let (here, there) = (db.open(&time).await, db.open(&time).await);
    let (locked, locked_secret) = here.create("locked").await;
    let (other, other_secret) = here.create("other").await;
    let (third, third_secret) = here.create("third").await;
    becomes(&there, &third_secret, "live").await;
    let mut psql = server.session(database);
    psql.run("BEGIN");
    psql.run(&format!("UPDATE api_keys SET created_by = 'somebody' WHERE id = {}", locked.id));

    let keys = Arc::clone(&here.keys);
    let waiting = tokio::spawn(async move { keys.revoke(locked.id, &author("admin"), &anything).await });
    // While that one waits, changes are made here, and those of others arrive.
    let (_, secret) = here.create("new").await;
    becomes(&there, &secret, "live").await;
    here.keys.revoke(other.id, &author("admin"), &anything).await.unwrap();
    assert_eq!(here.find(&other_secret), "revoked");
    there.keys.revoke(third.id, &author("admin"), &anything).await.unwrap();
    becomes(&here, &third_secret, "revoked").await;
    assert!(!waiting.is_finished(), "the row is still locked");
    psql.run("COMMIT");
    waiting.await.unwrap().unwrap();
    assert_eq!(here.find(&locked_secret), "revoked");
    becomes(&there, &locked_secret, "revoked").await;
}
