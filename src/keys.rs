//! API keys, service accounts, sessions and people.
//!
//! A key is a stored record whose secret is a token; only the digest of the token is stored.  Every replica holds all
//! digests in memory ([`index`]) and answers Checks from there ([`Keys::find`]).  A change goes to the database
//! ([`store`]) and then, before the call returns, to the replica's own index ([`manage`], [`sessions`], [`people`]).
//! Data about log-ins at providers that replicas share is only in the store ([`attempts`]).  Other replicas learn of it
//! by following the store ([`follower`]).  Background tasks write when keys and sessions were last used ([`usage`]),
//! and handle dead and unused keys (`retention`).
//!
//! ## One key, from the API to another replica
//!
//! 1. The admin API (`admin/keys/create.rs`) checks the caller and the request, and calls [`Keys::create`]
//!    (`keys/manage.rs`) with a [`CreateKey`].
//! 2. A secret is generated (`token.rs`).  The store inserts a row with its digest, and a row into the audit with the
//!    author: `keys/store/operations/keys.rs`, in a transaction of either database (`store/transaction.rs`), with the
//!    SQL of `store/statements/keys.rs`.  In the same transaction a trigger (`keys/store/*_0006.sql`) numbers the
//!    change, appends it to the change log and, in PostgreSQL, notifies.
//! 3. The row comes back as a [`StoredKey`] (`keys/store/rows.rs`) and goes into this replica's index
//!    (`keys/index.rs`).  Then the API replies: the key works here.
//! 4. Another replica's [`Follower`](follower::Follower) hears the notification, or polls.  It reads the changes
//!    since its own cursor ([`Source`](store::source::Source)) and puts them into its index.
//! 5. A Check there finds the digest ([`Keys::find`], called by `identity.rs`) and gets the key's principal.  This
//!    counts as a use: the index sends the entry to the follower, which writes `last_used_at`.
//!
//! ## One more column of a key
//!
//! A new column needs a migration for each database (`keys/store/*.sql`, listed in `migrations.rs`); a line in `KeyRow`
//! and its conversion (`rows.rs`, which also has the values of new and changed keys); a field of [`Key`], and of
//! [`CreateKey`] and [`EditKey`] if callers can set it (`record.rs`, `edit.rs`).
//!
//! ## The owner of a key
//!
//! A key has no owner, or belongs to a service account or a person ([`KeyOwner`]).  An account is one actor with many
//! keys.  The index finds it through the key's entry, so that a change of the account changes one entry, however many
//! keys it has.  A person's key only identifies the person; the rights of the person are determined at each Check
//! (`identity/people/owners.rs`).

pub mod attempts;
pub mod audit;
pub mod edit;
pub mod follower;
mod freshness;
pub mod index;
mod known_dead;
pub mod manage;
pub mod name;
pub mod people;
mod record;
mod retention;
pub mod sessions;
pub mod store;
pub mod usage;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use self::attempts::KnownKey;
use self::index::Index;
#[cfg(feature = "postgres")]
use self::store::PostgresStore;
use self::store::{
    Committed, Gate, OpenError, OpenFailure, SchemaChange, SqliteStore, Store, StoreError, StoreFailure,
    StoreUrl, UrlError,
};
use self::usage::Used;
use crate::clock::Clock;
use crate::secret::Secret;
use crate::token::{self, PlainToken, TokenDigest};

pub use self::attempts::SealingKey;
pub use self::edit::{Changed, EditAccount, EditKey};
pub use self::index::{IndexedKey, KeyLookup};
pub use self::record::{
    Account, Author, CreateAccount, CreateKey, ExceedsGrant, GrantCheck, Key, KeyOwner, Privileges, Role,
    SessionScope, Status, StoredKey, StoredPerson, StoredSession, WhyDenied,
};
pub use self::sessions::{NewSessions, OpenedSessions, scoped_binding};

/// The longest name of a key, in characters.
pub const MAX_NAME: usize = 190;
/// The longest overlap of a rotation, in seconds: how long the replaced secret continues to work.
pub const MAX_OVERLAP: i64 = 604_800;
/// The largest actor object of a key, as JSON, in bytes.
pub const MAX_ACTOR_BYTES: usize = 4096;
/// The most policies that a key's restriction may name.
pub const MAX_POLICIES: usize = 100;
/// The longest description of a key or an account, in characters.
pub const MAX_DESCRIPTION: usize = 500;
/// The most live keys of one person.
pub const MAX_KEYS_OF_PERSON: u32 = 50;

/// How long an operation waits for the store.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings of keys.  A call uses the settings of its snapshot.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// The maximum life of a key in seconds; -1: no limit, 0: no keys at all.
    pub max_seconds_to_live: i64,
    /// The prefix of a key's token.
    pub prefix: Box<str>,
    /// The maximum number of stored keys; `None` is no limit.
    pub quota: Option<u64>,
    /// The members that a key's creator may add to its actor.
    pub actor_members: Box<[Box<str>]>,
    /// How long keys are served while the store cannot be read; `None`: forever.
    pub max_staleness: Option<Duration>,
    /// How long a process that has never read the store is not ready; `None` is until it has read it.
    pub ready_without_store: Option<Duration>,
    /// How long after its end a key is deleted; `None`: never.
    pub forget_after: Option<Duration>,
    /// A key that was not used for this long expires; `None`: never.
    pub max_idle: Option<Duration>,
    /// The default life of a key in seconds; 0: it never expires.
    pub default_seconds_to_live: i64,
    /// How long the keys of a person of a directory or a provider work after the person was last seen.
    pub person_max_idle: Duration,
    /// How long before the expiry of a credential a response header reports it; `None`: never.
    pub tell_expiry: Option<Duration>,
}

/// How often the store failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreErrors {
    /// Failed readings.
    pub read: u64,
    /// Failed changes.
    pub write: u64,
}

/// The kind of an operation on the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreOperation {
    Read,
    Write,
}

/// [`Keys::read_at`] before the first reading.
const NEVER: i64 = i64::MIN;

/// The issued keys, the sessions and the people: looked up in memory, changed in the store.
pub struct Keys {
    store: Box<dyn Store>,
    /// Nothing is written to the store.
    read_only: bool,
    index: Arc<Index>,
    clock: Clock,
    /// Held by every change and every reading of a page until the index shows the result.
    gate: Gate,
    /// When the index was last up to date with the store, in milliseconds of the monotonic clock; [`NEVER`].
    read_at: AtomicI64,
    /// The revision of the store at that time.
    revision: AtomicI64,
    /// The schema of the store is too new for this version.
    schema_is_too_new: AtomicBool,
    history_rewrites: AtomicU64,
    /// The number of changes that this process has committed since the follower last looked, counted under the gate.
    commits: AtomicU64,
    was_read: watch::Sender<bool>,
    read_errors: AtomicU64,
    write_errors: AtomicU64,
    excess_audit_rows: AtomicU64,
    /// The channel of used keys and sessions from the index to the follower.
    used: Mutex<UnboundedReceiver<Used>>,
    /// Returns the current settings; see [`Keys::follow_settings`].
    settings: OnceLock<Box<PresentSettings>>,
    sealing_key: ArcSwapOption<KnownKey>,
}

type PresentSettings = dyn Fn() -> Option<KeySettings> + Send + Sync;

impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Keys({})", self.held())
    }
}

impl Keys {
    /// Opens the store, or creates it (SQLite), and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: an error that a retry does not fix.  If PostgreSQL does not answer, [`Keys::follow`] retries.
    pub async fn open(url: &StoreUrl, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let store: Box<dyn Store> = match url {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open(path).await?),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open(url).await?),
        };
        Ok(Self::with_store(store, clock))
    }

    /// Opens the store read-only: its schema stays as it is, and nothing is ever written.
    ///
    /// # Errors
    /// [`OpenError`]: an error that a retry does not fix.
    pub async fn open_read_only(url: &StoreUrl, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let store: Box<dyn Store> = match url {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open_read_only(path)),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open_read_only(url).await?),
        };
        Ok(Self::new(store, true, clock))
    }

    /// Reads a store once and changes nothing in it, not even its schema: a server may be running on it.
    ///
    /// # Errors
    /// [`OpenError`]: the store does not exist, does not answer, or has a schema that this version cannot read.
    pub async fn read_once(url: &StoreUrl, clock: Clock) -> Result<Arc<Self>, OpenError> {
        let store: Box<dyn Store> = match url {
            StoreUrl::Sqlite(path) => Box::new(SqliteStore::open_read_only(path)),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => Box::new(PostgresStore::open_read_only_later(url)?),
        };
        let keys = Self::new(store, true, clock);
        let read = follower::read_once(&keys).await;
        read.map_err(|error| OpenError::Rejected {
            store: url.clone(),
            reason: OpenFailure::Store(error.0),
        })?;
        Ok(keys)
    }

    /// The keys of an open store.  The index is empty until the store is read.
    pub fn with_store(store: Box<dyn Store>, clock: Clock) -> Arc<Self> {
        Self::new(store, false, clock)
    }

    fn new(store: Box<dyn Store>, read_only: bool, clock: Clock) -> Arc<Self> {
        let (sender, receiver) = unbounded_channel();
        Arc::new(Self {
            store,
            read_only,
            index: Arc::new(Index::new(sender)),
            clock,
            gate: Gate::default(),
            read_at: AtomicI64::new(NEVER),
            revision: AtomicI64::new(0),
            schema_is_too_new: AtomicBool::new(false),
            history_rewrites: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            was_read: watch::Sender::new(false),
            read_errors: AtomicU64::new(0),
            write_errors: AtomicU64::new(0),
            excess_audit_rows: AtomicU64::new(0),
            used: Mutex::new(receiver),
            settings: OnceLock::new(),
            sealing_key: ArcSwapOption::empty(),
        })
    }

    /// Closes the store after the operations in progress; later ones fail.  Stop the follower first.
    pub async fn close(&self) {
        self.store.close().await;
    }

    /// Migrates the schema of a store.  Returns the previous and the current version.
    ///
    /// # Errors
    /// [`OpenError`]: the store does not answer, has a schema that this version cannot use, or may not be changed.
    pub async fn migrate(url: &StoreUrl) -> Result<SchemaChange, OpenError> {
        match url {
            StoreUrl::Sqlite(path) => SqliteStore::migrate_once(path).await,
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => PostgresStore::migrate_once(url).await,
        }
    }

    /// The rights that a writing server needs and that the role in the URL does not have, for each table such as
    /// `INSERT, UPDATE ON api_keys`; none where the store has no roles.  Nothing is changed.
    ///
    /// # Errors
    /// [`OpenError`]: the store does not answer, or answers with an error.
    pub async fn missing_rights(url: &StoreUrl) -> Result<Vec<String>, OpenError> {
        match url {
            StoreUrl::Sqlite(_) => Ok(Vec::new()),
            #[cfg(feature = "postgres")]
            StoreUrl::Postgres(url) => PostgresStore::missing_rights(url).await,
        }
    }

    /// Switches to a URL of the same database with another user, password or other options, after a connection with it
    /// succeeded.  The result is logged.  If the connection fails, the previous URL stays in use.
    ///
    /// # Errors
    /// The URL cannot be used.
    pub fn take_over(&self, url: &StoreUrl) -> Result<(), UrlError> {
        self.store.take_over(url)
    }

    /// Whether the store is only read (`keys.read_only`).
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// How often the store failed.
    pub fn store_errors(&self) -> StoreErrors {
        let count = |errors: &AtomicU64| errors.load(Ordering::Relaxed);
        StoreErrors { read: count(&self.read_errors), write: count(&self.write_errors) }
    }

    /// The rows of the audit that this process deleted because there were too many.
    pub fn excess_audit_rows(&self) -> u64 {
        self.excess_audit_rows.load(Ordering::Relaxed)
    }

    fn count_excess_rows(&self, rows: u64) {
        self.excess_audit_rows.fetch_add(rows, Ordering::Relaxed);
    }

    fn count_store_error(&self, operation: StoreOperation) {
        let errors = match operation {
            StoreOperation::Read => &self.read_errors,
            StoreOperation::Write => &self.write_errors,
        };
        errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs a reading of the store that failed.
    fn read_failed(&self, what: &str, error: &StoreError) {
        self.operation_failed(StoreOperation::Read, what, error);
    }

    /// Counts and logs a change to the store that failed.
    fn write_failed(&self, what: &str, error: &StoreError) {
        self.operation_failed(StoreOperation::Write, what, error);
    }

    fn operation_failed(&self, operation: StoreOperation, what: &str, error: &StoreError) {
        self.count_store_error(operation);
        tracing::warn!(reason = error.0.to_string(), "could not {what}: the key store failed");
    }

    /// Changes the store, and then the index, before any other reading or change.
    async fn change<T, E: From<StoreError>>(
        &self,
        change: impl Future<Output = Result<Committed<T>, E>>,
        update_index: impl FnOnce(&T),
    ) -> Result<T, E> {
        self.check_writable()?;
        let Committed { value, is_change, guard } = with_timeout(OPERATION_TIMEOUT, change).await?;
        if is_change {
            self.commits.fetch_add(1, Ordering::AcqRel);
        }
        update_index(&value);
        drop(guard);
        Ok(value)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        if self.read_only { Err(StoreError(StoreFailure::ReadOnly)) } else { Ok(()) }
    }

    /// The current time minus this.
    fn time_ago(&self, age: SignedDuration) -> Timestamp {
        self.clock.now().checked_sub(age).unwrap_or(Timestamp::MIN)
    }
}

/// An instant in whole seconds, as stores hold it.
fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The result of an operation, or [`StoreFailure::Timeout`].
async fn with_timeout<T, E: From<StoreError>>(
    limit: Duration,
    operation: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, operation).await.map_err(|_| StoreError(StoreFailure::Timeout(limit)))?
}

/// A new secret with this prefix, and its digest.
fn generate(prefix: &str) -> Result<(Secret, TokenDigest), StoreError> {
    let secret = token::generate(prefix).map_err(StoreFailure::Randomness)?;
    let token = PlainToken::new(secret.expose().as_bytes()).map_err(StoreFailure::Token)?;
    let digest = token.digest();
    Ok((secret, digest))
}
