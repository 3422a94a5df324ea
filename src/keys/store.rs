//! Where keys and sessions are kept: one trait, SQLite and PostgreSQL behind it.
//!
//! The database itself numbers every change to keys and sessions: triggers raise one revision row under lock,
//! append to a change log, deletions too, and (PostgreSQL) NOTIFY, in the transaction that makes the change.
//! So a change made with psql counts, and none is skipped because transactions commit out of order.
//! Writing a key's `last_used_at` alone is no change.  A session's is one: it lives on by being used.

mod migrations;
mod postgres;
mod rows;
mod sqlite;
mod url;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{ExceedsGrant, GrantCheck, Key, Role, StoredKey, StoredSession};
use crate::token::TokenDigest;

pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use url::{StoreUrl, UrlError};

/// The number of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub i64);

/// Everything in the store at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The revision that this is.
    pub revision: Revision,
    /// Every key, in batches: each is freed when it was taken over, and no list of a million is ever copied.
    pub keys: Vec<Vec<StoredKey>>,
    /// Every session.
    pub sessions: Vec<StoredSession>,
}

/// What changed since a revision.
#[derive(Debug, Clone)]
pub enum Changes {
    /// These did.  What is neither here nor gone is as it was.
    Since {
        /// The revision that it is now.
        revision: Revision,
        /// Keys that are new or different, as they are now.
        keys: Vec<StoredKey>,
        /// Ids of keys that are gone.
        deleted_keys: Vec<i64>,
        /// Sessions that are new or different, as they are now.
        sessions: Vec<StoredSession>,
        /// Sessions that are gone.
        deleted_sessions: Vec<TokenDigest>,
    },
    /// The change log no longer reaches back so far: read everything.
    Unknown,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Members of its actor beyond the four of every key.
    pub actor: Map<String, Value>,
    /// Its restriction.
    pub policies: Option<Vec<String>>,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// Now.
    pub created_at: Timestamp,
    /// Who makes it.
    pub created_by: String,
    /// The instant from which on it is dead.
    pub expires_at: Option<Timestamp>,
    /// How many keys may be stored, the dead ones too; `None` is no limit.
    pub quota: Option<u64>,
}

/// The store cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the key store: {0}")]
pub struct StoreError(pub String);

/// Why a store cannot be opened, and waiting will not mend it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer version of this program wrote it.
    #[error(
        "the key store was written by a newer version: its schema is number {found}, and this version knows \
         {known} at most. Run the newer version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The newest migration that was applied.
        found: i64,
        /// The newest one that we know.
        known: i64,
    },
    /// A migration was applied that is not the one we have under its number.
    #[error("the key store's schema number {0} is not the one that this program makes: is it its store?")]
    Foreign(i64),
    /// It answers, but not to us: no permission, no such database, no database file.
    #[error("the key store {store} cannot be opened: {reason}")]
    Rejected {
        /// The store, without user info.
        store: String,
        /// What it said.
        reason: String,
    },
    /// Its URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
}

/// Why a key was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A key that is neither revoked nor expired has this name.
    #[error("API key name already exists")]
    NameTaken,
    /// There are as many keys as there may be.
    #[error("api_key Quota reached")]
    QuotaReached,
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// There is no such key.
    #[error("API key not found")]
    NotFound,
    /// It is revoked or expired.
    #[error("API key is revoked or expired")]
    Dead,
    /// Whoever asks may not give what the key can do.
    #[error(transparent)]
    ExceedsGrant(#[from] ExceedsGrant),
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A place where keys and sessions are kept.  What a method acknowledges survives a kill.
#[async_trait]
pub trait Store: Send + Sync {
    /// Everything, read in one transaction.
    async fn snapshot(&self) -> Result<Snapshot, StoreError>;

    /// What changed since a revision, read in one transaction.
    async fn changes(&self, since: Revision) -> Result<Changes, StoreError>;

    /// Waits until somebody says that something changed, or the connection that would tell is lost.
    /// SQLite has nobody to say so and waits for ever; the poll of whoever follows finds what changed.
    async fn changed(&self) -> Result<(), StoreError>;

    /// Makes a key.  Name and quota are checked in the transaction that makes it, under one lock.
    async fn create(&self, new: &NewKey) -> Result<StoredKey, CreateError>;

    /// Replaces a key's secret.  The present one goes on working until `previous_until`, and never beyond the
    /// key's expiry; a secret replaced before that is dead.  The key's expiry becomes `expires_by` where it is later
    /// or never.  `may_give` is asked in the same transaction about the key as it is then.
    async fn rotate(
        &self,
        id: i64,
        digest: TokenDigest,
        previous_until: Timestamp,
        now: Timestamp,
        expires_by: Option<Timestamp>,
        may_give: &GrantCheck<'_>,
    ) -> Result<StoredKey, RotateError>;

    /// Revokes a key, and forgets its previous secret.  One that was revoked stays as it was.
    /// `None` when there is no such key.
    async fn revoke(&self, id: i64, by: &str, now: Timestamp) -> Result<Option<StoredKey>, StoreError>;

    /// Deletes a key; false when there is no such key.
    async fn delete(&self, id: i64) -> Result<bool, StoreError>;

    /// Every key, by name and then by id, with its last use.
    async fn list(&self) -> Result<Vec<Key>, StoreError>;

    /// One key with its last use.
    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError>;

    /// Writes when keys were last used; an earlier time never replaces a later one.
    async fn touch_keys(&self, used: &[(i64, Timestamp)]) -> Result<(), StoreError>;

    /// Keeps a session, and forgets the oldest live ones of its user so that no more than `most` are left, this one
    /// included.  Live are those last used, and opened, after these instants.  Gives the digests of the forgotten.
    /// They are counted in the transaction that keeps the new one, under the lock of all changes.
    async fn create_session(
        &self,
        session: &StoredSession,
        most: u32,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Vec<TokenDigest>, StoreError>;

    /// Writes when sessions were last used.
    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError>;

    /// Forgets a session; no error when it is gone.
    async fn delete_session(&self, digest: &TokenDigest) -> Result<(), StoreError>;

    /// Forgets sessions last used, or opened, at these instants or before.
    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError>;

    /// Gives back every connection, once nobody uses it any more; from then on everything fails.
    /// A SQLite file that nobody else has open is whole afterwards, without a `-wal` beside it.
    async fn close(&self);
}
