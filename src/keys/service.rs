//! Keys and sessions as the rest of the program sees them: found in memory, changed in the store.
//!
//! A change made here takes effect in the index before the call returns; everybody else's arrives by
//! [`Keys::follow`].  One lock puts the two in order, so that the index never goes back in time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use super::index::{Index, Note, SESSION_IDLE, SESSION_LIFE, SESSIONS_PER_USER, Session, Use};
use super::store::{
    Changes, CreateError, NewKey, OpenError, OpenFailure, PostgresStore, Revision, RotateError, SqliteStore,
    Store, StoreError, StoreFailure, StoreUrl,
};
use super::{GrantCheck, Key, Role, StoredKey, StoredSession};
use crate::clock::Clock;
use crate::secret::Secret;
use crate::token::{self, PlainToken, TokenDigest};

pub use super::index::KeyLookup;

/// How long a call of the admin API waits for the store.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the changes may take to be read.
const READING: Duration = Duration::from_secs(10);
/// How long everything may take to be read.
const READING_ALL: Duration = Duration::from_secs(180);
/// How often the store is asked for changes, whoever may have told of them or not.
const POLL: Duration = Duration::from_millis(500);
/// While the store is down it is asked again after this long, then after twice as long …
const RETRY: Duration = Duration::from_millis(250);
/// … and at least this often.
const RETRY_AT_MOST: Duration = Duration::from_secs(2);
/// How often uses are written down.
const WRITE_USES: Duration = Duration::from_secs(1);
/// How many uses are written at once.
const USES_AT_ONCE: usize = 1000;
/// How often dead sessions are removed.
const PURGE: Duration = Duration::from_secs(3600);
/// What a session's secret begins with.
const SESSION_PREFIX: &str = "session";

/// How keys are made and served.  A call that needs them takes those of its snapshot.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The longest life of a key in seconds; -1 is no limit, 0 is no keys at all.
    pub max_seconds_to_live: i64,
    /// What a key's token begins with.
    pub prefix: Box<str>,
    /// How many keys may be stored; `None` is no limit.
    pub quota: Option<u64>,
    /// The members that a key's creator may add to its actor.
    pub actor_members: Box<[Box<str>]>,
    /// How long keys are served while the store cannot be read; `None` is for ever.
    pub max_staleness: Option<Duration>,
}

/// A key that somebody asks for.
#[derive(Debug, Clone)]
pub struct CreateKey {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// The instant from which on it is dead.
    pub expires_at: Option<Timestamp>,
    /// Members of its actor beyond the four of every key.
    pub actor: Map<String, Value>,
    /// Its restriction.
    pub policies: Option<Vec<String>>,
    /// The id of the actor who asks.
    pub created_by: String,
}

/// The issued keys and the sessions.
pub struct Keys {
    store: Box<dyn Store>,
    index: Arc<Index>,
    clock: Clock,
    /// Which revision the index shows; `None` when everything is to be read.
    /// Whoever changes the store or reads changes from it holds this until the index shows it.
    shown: Mutex<Option<Revision>>,
    /// When the store was last read, in milliseconds since 1970.
    read_at: AtomicI64,
    was_read: watch::Sender<bool>,
    store_errors: AtomicU64,
    notes: Mutex<UnboundedReceiver<Note>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Keys({})", self.held())
    }
}

/// A session that was just opened.
pub struct OpenedSession {
    /// The cookie's value.
    pub cookie: Secret,
    /// How many older sessions of the same user ended for it, because there were too many.
    pub ended: usize,
}

impl Keys {
    /// Opens the store, or creates it (SQLite), and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: what waiting cannot mend.  A PostgreSQL that does not answer is waited for by
    /// [`Keys::follow`].
    pub async fn open(url: &StoreUrl, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let store: Box<dyn Store> = match url {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open(path).await?),
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open(url).await?),
        };
        Ok(Self::over(store, clock))
    }

    /// Reads a store once and changes nothing in it, not even its schema: beside a server that runs.
    ///
    /// # Errors
    /// [`OpenError`]: it is not there, does not answer, or is none that this version can read.
    pub async fn read_once(url: &StoreUrl, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let store: Box<dyn Store> = match url {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open_read_only(path)),
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open_read_only(url)?),
        };
        let keys = Self::over(store, clock);
        let read = keys.read().await;
        read.map_err(|error| OpenError::Rejected {
            store: url.clone(),
            reason: OpenFailure::Store(error.0),
        })?;
        Ok(keys)
    }

    /// Lets another digest stand for a key in memory, and leaves the store as it is.
    pub fn lend(&self, key: Key, digest: TokenDigest) {
        self.index.put(StoredKey { key, digest, previous: None });
    }

    /// The keys of a store that is open.
    pub fn over(store: Box<dyn Store>, clock: Clock) -> Arc<Self> {
        let (sender, receiver) = unbounded_channel();
        Arc::new(Self {
            store,
            index: Arc::new(Index::new(sender)),
            clock,
            shown: Mutex::new(None),
            read_at: AtomicI64::new(0),
            was_read: watch::Sender::new(false),
            store_errors: AtomicU64::new(0),
            notes: Mutex::new(receiver),
        })
    }

    // ---- The Check path: no lock, no await.

    /// What a token's digest is at this instant.  A key that works is noted as used.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        self.index.find(digest, now)
    }

    /// The live session of a cookie's digest.  It is noted as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        self.index.find_session(digest, now)
    }

    /// Whether a token that looks like a key may be one without our knowing: the store was never read, or its
    /// last reading is longer ago than `max_staleness` ([`Settings::max_staleness`]).
    pub fn is_unknowable(&self, now: Timestamp, max_staleness: Option<Duration>) -> bool {
        self.lag(now).is_none() || self.is_stale(now, max_staleness)
    }

    /// Whether the last reading of the store is longer ago than `max_staleness` ([`Settings::max_staleness`]).
    /// False before the first one: what is held then was made here.
    pub fn is_stale(&self, now: Timestamp, max_staleness: Option<Duration>) -> bool {
        max_staleness.is_some_and(|limit| self.lag(now).is_some_and(|lag| lag > limit))
    }

    /// Whether the store was read at least once.
    pub fn was_read(&self) -> bool {
        *self.was_read.borrow()
    }

    /// Waits until the store was read at least once.
    pub async fn first_read(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.was_read.subscribe().wait_for(|was_read| *was_read).await;
    }

    /// Gives the store back, once the calls that are under way have ended; later ones fail.  Whoever follows must
    /// have stopped.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// How many keys are held, the dead ones too.
    pub fn held(&self) -> usize {
        self.index.held()
    }

    /// How long ago the store was last read; `None` when it never was.
    pub fn lag(&self, now: Timestamp) -> Option<Duration> {
        let read_at = self.read_at.load(Ordering::Acquire);
        let lag = now.as_millisecond().saturating_sub(read_at).max(0);
        (read_at != 0).then(|| Duration::from_millis(lag.unsigned_abs()))
    }

    /// When the next key expires of those that are alive.  It looks at each.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.index.next_expiry(now)
    }

    /// How often the store failed.
    pub fn store_errors(&self) -> u64 {
        self.store_errors.load(Ordering::Relaxed)
    }

    // ---- The admin API: every call waits at most five seconds for the store.

    /// Makes a key.  The secret is nowhere but in the answer.
    ///
    /// # Errors
    /// [`CreateError`]: the name is taken, the quota is reached, or the store does not answer.
    pub async fn create(&self, settings: &Settings, ask: CreateKey) -> Result<(Key, Secret), CreateError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let new = NewKey {
            name: ask.name,
            role: ask.role,
            actor: ask.actor,
            policies: ask.policies,
            digest,
            created_at: self.clock.now(),
            created_by: without_nul(&ask.created_by),
            expires_at: ask.expires_at,
            quota: settings.quota,
        };
        let made = self.in_order(self.store.create(&new), |made| self.index.put(made.clone())).await;
        if let Err(CreateError::Store(error)) = &made {
            self.failed("create a key", error);
        }
        Ok((made?.key, secret))
    }

    /// Replaces a key's secret.  The present one goes on working for this long, and not beyond the key's expiry.
    /// Where keys have a longest life, this one lives no longer than that from now on.
    ///
    /// # Errors
    /// [`RotateError`]: there is no such key, it is dead, or the store does not answer.
    pub async fn rotate(
        &self,
        settings: &Settings,
        id: i64,
        overlap_seconds: i64,
        may_give: &GrantCheck<'_>,
    ) -> Result<(Key, Secret), RotateError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let now = self.clock.now();
        let until = now.checked_add(SignedDuration::from_secs(overlap_seconds)).unwrap_or(Timestamp::MAX);
        let longest = settings.max_seconds_to_live;
        let expires_by = (longest >= 0).then(|| {
            let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
            whole.checked_add(SignedDuration::from_secs(longest)).unwrap_or(Timestamp::MAX)
        });
        let rotated = self.store.rotate(id, digest, until, now, expires_by, may_give);
        let rotated = self.in_order(rotated, |stored| self.index.put(stored.clone())).await;
        if let Err(RotateError::Store(error)) = &rotated {
            self.failed("rotate a key", error);
        }
        Ok((rotated?.key, secret))
    }

    /// Revokes a key, its replaced secret included.  One that was revoked stays as it was.
    /// `None` when there is no such key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn revoke(&self, id: i64, by: &str) -> Result<Option<Key>, StoreError> {
        let by = without_nul(by);
        let revoked = self.store.revoke(id, &by, self.clock.now());
        let revoked = self.in_order(revoked, |stored| {
            if let Some(stored) = stored {
                self.index.put(stored.clone());
            }
        });
        let revoked = revoked.await.inspect_err(|error| self.failed("revoke a key", error))?;
        Ok(revoked.map(|stored| stored.key))
    }

    /// Deletes a key; false when there is no such key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        let deleted = self.in_order(self.store.delete(id), |_| self.index.remove(id));
        deleted.await.inspect_err(|error| self.failed("delete a key", error))
    }

    /// Every key, by name and then by id.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self) -> Result<Vec<Key>, StoreError> {
        // A million keys take longer to list than one takes to find.
        in_time(READING, self.store.list()).await.inspect_err(|error| self.failed("list the keys", error))
    }

    /// One key; `None` when there is no such key.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        in_time(PATIENCE, self.store.get(id)).await.inspect_err(|error| self.failed("read a key", error))
    }

    /// Opens a session for a user, bound to the digest of the stored password hash.
    /// The answer is the cookie's value.  Where the user has [`SESSIONS_PER_USER`] live ones, the oldest ends.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn open_session(
        &self,
        user: &str,
        password_digest: &TokenDigest,
    ) -> Result<OpenedSession, StoreError> {
        let (cookie, digest) = generate(SESSION_PREFIX)?;
        let now = self.clock.now();
        let session = StoredSession {
            digest,
            user: user.to_owned(),
            password_digest: *password_digest,
            created_at: now,
            last_used_at: now,
        };
        let (used_after, opened_after) = (self.before(SESSION_IDLE), self.before(SESSION_LIFE));
        let created = self.store.create_session(&session, SESSIONS_PER_USER, used_after, opened_after);
        let created = self.in_order(created, |ended| {
            ended.iter().for_each(|digest| self.index.remove_session(digest));
            self.index.put_session(session.clone());
        });
        let ended = created.await.inspect_err(|error| self.failed("open a session", error))?;
        Ok(OpenedSession { cookie, ended: ended.len() })
    }

    /// Closes a session; no error when it is gone.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn close_session(&self, digest: &TokenDigest) -> Result<(), StoreError> {
        let closed = self.store.delete_session(digest);
        let closed = self.in_order(closed, |()| self.index.remove_session(digest));
        closed.await.inspect_err(|error| self.failed("close a session", error))
    }

    /// Changes the store and then the index, and lets nobody read the store in between: what was read before
    /// the change would undo it.
    async fn in_order<T, E: From<StoreError>>(
        &self,
        change: impl Future<Output = Result<T, E>>,
        show: impl FnOnce(&T),
    ) -> Result<T, E> {
        in_time(PATIENCE, async {
            let _shown = self.shown.lock().await;
            let changed = change.await?;
            show(&changed);
            Ok(changed)
        })
        .await
    }

    fn failed(&self, what: &str, error: &StoreError) {
        self.store_errors.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(reason = error.0.to_string(), "could not {what}: the key store failed");
    }

    // ---- Following the store.

    /// Follows the store's changes until dropped, and writes down what was used.
    ///
    /// A panic does not end it: a replica that hears of no revocation any more is worse than one that begins
    /// again.  It is told, counted as an error of the store, and followed by a new start with a full reading.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        let mut uses = Uses::default();
        let mut outage = Outage::default();
        loop {
            let ended =
                AssertUnwindSafe(self.follow_until_panic(&mut uses, &mut outage)).catch_unwind().await;
            let Err(_panic) = ended;
            self.store_errors.fetch_add(1, Ordering::Relaxed);
            outage.begin();
            let pause = outage.next_pause();
            tracing::error!(
                seconds = pause.as_secs_f64(),
                "a panic while following the key store: please report this; it begins again"
            );
            sleep(pause).await;
            *self.shown.lock().await = None;
        }
    }

    async fn follow_until_panic(&self, uses: &mut Uses, outage: &mut Outage) -> Infallible {
        let keys = self;
        let mut notes = keys.notes.lock().await;
        let mut purge_at = Instant::now();
        let mut write_at = Instant::now();
        let mut changed = Box::pin(keys.changed(Duration::ZERO));
        loop {
            let read = keys.read().await;
            keys.tell(outage, &read);
            let pause = outage.next_pause();

            uses.collect(&mut notes);
            if read.is_ok() && Instant::now() >= write_at {
                write_at = Instant::now() + WRITE_USES;
                keys.write_uses(uses).await;
            }
            if read.is_ok() && Instant::now() >= purge_at {
                purge_at = Instant::now() + PURGE;
                keys.purge().await;
            }

            tokio::select! {
                told = &mut changed => {
                    if told.is_err() {
                        // What was told meanwhile nobody heard.
                        *keys.shown.lock().await = None;
                    }
                    changed.set(keys.changed(if told.is_ok() { Duration::ZERO } else { pause }));
                }
                () = sleep(pause) => {}
            }
        }
    }

    async fn changed(&self, pause: Duration) -> Result<(), StoreError> {
        sleep(pause).await;
        self.store.changed().await
    }

    /// Brings the index up to the store's present revision.
    async fn read(&self) -> Result<(), StoreError> {
        let mut shown = self.shown.lock().await;
        let read_at = self.clock.now();
        // After an error everything is read: nobody knows what happened meanwhile.
        *shown = Some(match shown.take() {
            Some(since) => match in_time(READING, self.store.changes(since)).await? {
                Changes::Unknown => self.read_all().await?,
                Changes::Since { revision, keys, deleted_keys, sessions, deleted_sessions } => {
                    keys.into_iter().for_each(|key| self.index.put(key));
                    deleted_keys.into_iter().for_each(|id| self.index.remove(id));
                    sessions.into_iter().for_each(|session| self.index.put_session(session));
                    deleted_sessions.iter().for_each(|digest| self.index.remove_session(digest));
                    revision
                }
            },
            None => self.read_all().await?,
        });
        self.read_at.store(read_at.as_millisecond(), Ordering::Release);
        self.was_read.send_if_modified(|was_read| !std::mem::replace(was_read, true));
        Ok(())
    }

    async fn read_all(&self) -> Result<Revision, StoreError> {
        let snapshot = in_time(READING_ALL, self.store.snapshot()).await?;
        let revision = snapshot.revision;
        // A million entries take a moment, in which this thread has other things to do.
        let index = Arc::clone(&self.index);
        let replaced = tokio::task::spawn_blocking(move || index.replace(snapshot)).await;
        replaced.map_err(StoreFailure::Index)?;
        Ok(revision)
    }

    /// Tells of an outage once, and of its end.
    fn tell(&self, outage: &mut Outage, read: &Result<(), StoreError>) {
        match (read, outage.since) {
            (Ok(()), None) => {}
            (Ok(()), Some(since)) => {
                let seconds = since.elapsed().as_secs();
                tracing::info!(seconds, keys = self.held(), "the key store is back");
                *outage = Outage::default();
            }
            (Err(error), since) => {
                self.store_errors.fetch_add(1, Ordering::Relaxed);
                outage.begin();
                if since.is_none() {
                    let (keys, reason) = (self.held(), error.0.to_string());
                    tracing::error!(
                        keys,
                        reason,
                        "the key store cannot be read: known keys go on from memory"
                    );
                }
            }
        }
    }

    async fn write_uses(&self, uses: &mut Uses) {
        let mut keys: Vec<(i64, Timestamp)> = uses.keys.iter().map(|(id, used)| (*id, used.last())).collect();
        keys.sort_unstable_by_key(|(id, _)| *id);
        for batch in keys.chunks(USES_AT_ONCE) {
            match in_time(PATIENCE, self.store.touch_keys(batch)).await {
                Ok(()) => batch.iter().for_each(|(id, at)| {
                    uses.keys.remove(id).iter().for_each(|used| used.wrote(*at));
                }),
                Err(error) => return self.uses_not_written(uses, &error),
            }
        }
        let sessions: Vec<(TokenDigest, Timestamp)> =
            uses.sessions.iter().map(|(digest, session)| (*digest, session.last_used_at())).collect();
        for batch in sessions.chunks(USES_AT_ONCE) {
            match in_time(PATIENCE, self.store.touch_sessions(batch)).await {
                Ok(()) => batch.iter().for_each(|(digest, at)| {
                    uses.sessions.remove(digest).iter().for_each(|session| session.used().wrote(*at));
                }),
                Err(error) => return self.uses_not_written(uses, &error),
            }
        }
        uses.failing = false;
    }

    /// They are kept, and written later.
    fn uses_not_written(&self, uses: &mut Uses, error: &StoreError) {
        self.store_errors.fetch_add(1, Ordering::Relaxed);
        if !std::mem::replace(&mut uses.failing, true) {
            tracing::warn!(
                reason = error.0.to_string(),
                "when keys were last used cannot be written: it will be later"
            );
        }
    }

    /// The instant that is so long ago.
    fn before(&self, age: SignedDuration) -> Timestamp {
        self.clock.now().checked_sub(age).unwrap_or(Timestamp::MIN)
    }

    async fn purge(&self) {
        let purged = self.store.purge_sessions(self.before(SESSION_IDLE), self.before(SESSION_LIFE));
        if let Err(error) = in_time(PATIENCE, purged).await {
            self.failed("remove dead sessions", &error);
        }
    }
}

/// Uses that are to be written down.
#[derive(Default)]
struct Uses {
    keys: HashMap<i64, Arc<Use>>,
    sessions: HashMap<TokenDigest, Arc<Session>>,
    failing: bool,
}

impl Uses {
    fn collect(&mut self, notes: &mut UnboundedReceiver<Note>) {
        while let Ok(note) = notes.try_recv() {
            match note {
                Note::Key(id, used) => drop(self.keys.insert(id, used)),
                Note::Session(digest, session) => drop(self.sessions.insert(digest, session)),
            }
        }
    }
}

/// A time during which the store cannot be read.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    tries: u32,
}

impl Outage {
    /// It begins, or goes on.
    fn begin(&mut self) {
        self.tries = self.tries.saturating_add(1);
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long to wait before the store is asked again.
    fn next_pause(&self) -> Duration {
        match self.tries {
            0 => POLL,
            tries => RETRY.saturating_mul(1 << (tries - 1).min(8)).min(RETRY_AT_MOST),
        }
    }
}

async fn in_time<T, E: From<StoreError>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = |_| StoreError(StoreFailure::Timeout(limit));
    timeout(limit, work).await.map_err(late)?
}

fn generate(prefix: &str) -> Result<(Secret, TokenDigest), StoreError> {
    let secret = token::generate(prefix).map_err(StoreFailure::Randomness)?;
    let token = PlainToken::new(secret.expose().as_bytes()).map_err(StoreFailure::Token)?;
    let digest = token.digest();
    Ok((secret, digest))
}

/// PostgreSQL holds every character but one, and an actor's id may be any text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
