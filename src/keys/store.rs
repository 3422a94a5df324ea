//! The stores of keys and sessions: one trait, implemented for SQLite and PostgreSQL.
//!
//! The database itself numbers every change to keys and sessions.  In the transaction that makes the change,
//! triggers raise the number in one locked row, append to a change log (deletions too) and, in PostgreSQL, NOTIFY.
//! So a change made with psql counts, and no change is skipped because transactions commit out of order.
//! An update of a key's `last_used_at` alone is no change.  A session's is one, because use keeps a session alive.

mod error;
mod migrations;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
mod sqlite;
mod statements;
mod url;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{CreateKey, GrantCheck, Key, StoredKey, StoredSession};
use crate::token::TokenDigest;

pub use error::{
    CreateError, DatabaseFailure, OpenError, OpenFailure, RotateError, StoreError, StoreFailure,
};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use url::{StoreUrl, UrlError};

/// The number of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub i64);

/// Everything in the store at one revision.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// The revision that this is.
    pub revision: Revision,
    /// Every key, in batches: each batch is freed when the index has it, and no list of a million is copied.
    pub keys: Vec<Vec<StoredKey>>,
    /// Every session.
    pub sessions: Vec<StoredSession>,
}

/// What changed since a revision.
#[derive(Debug, Clone)]
pub enum Changes {
    /// These.  A key or session that is not listed is unchanged.
    Since {
        /// The revision after them.
        revision: Revision,
        /// New and changed keys.
        keys: Vec<StoredKey>,
        /// Ids of deleted keys.
        deleted_keys: Vec<i64>,
        /// New and changed sessions.
        sessions: Vec<StoredSession>,
        /// Digests of deleted sessions.
        deleted_sessions: Vec<TokenDigest>,
    },
    /// The change log no longer reaches back so far: read the contents.
    Unknown,
}

/// A key to be created.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What its creator asks for.
    pub request: CreateKey,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// The present time.
    pub created_at: Timestamp,
    /// The maximum number of stored keys, dead ones included; `None` is no limit.
    pub quota: Option<u64>,
}

/// A store of keys and sessions.  A change that a method acknowledges survives a kill of the process.
#[async_trait]
pub trait Store: Send + Sync {
    /// Every key and session, read in one transaction.
    async fn contents(&self) -> Result<Contents, StoreError>;

    /// The changes since a revision, read in one transaction.
    async fn changes(&self, since: Revision) -> Result<Changes, StoreError>;

    /// Waits for a notification that something changed.  An error means that the connection for notifications is
    /// lost.  SQLite has no notifications and waits for ever: the follower polls it.
    async fn changed(&self) -> Result<(), StoreError>;

    /// Creates a key.  Name and quota are checked in the same transaction, under one lock.
    async fn create(&self, new: &NewKey) -> Result<StoredKey, CreateError>;

    /// Replaces a key's secret.  The present secret works until `previous_until`, and never beyond the key's expiry;
    /// a secret that was replaced earlier is dead.  An expiry later than `expires_by` becomes `expires_by`.
    /// `grant_check` sees the key in the same transaction, and its error takes the change back.
    async fn rotate(
        &self,
        id: i64,
        digest: TokenDigest,
        previous_until: Timestamp,
        now: Timestamp,
        expires_by: Option<Timestamp>,
        grant_check: &GrantCheck<'_>,
    ) -> Result<StoredKey, RotateError>;

    /// Revokes a key and deletes its previous secret.  A revoked key stays as it is.
    /// `None` when there is no such key.
    async fn revoke(&self, id: i64, by: &str, now: Timestamp) -> Result<Option<StoredKey>, StoreError>;

    /// Deletes a key; false when there is no such key.
    async fn delete(&self, id: i64) -> Result<bool, StoreError>;

    /// Every key, by name and then by id, with its last use.
    async fn list(&self) -> Result<Vec<Key>, StoreError>;

    /// One key with its last use.
    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError>;

    /// Writes when keys were last used.  An earlier time never replaces a later one.
    async fn touch_keys(&self, used: &[(i64, Timestamp)]) -> Result<(), StoreError>;

    /// Creates a session, and deletes the oldest live ones of its user so that at most `max_sessions` are left, this
    /// one included.  A session is live when it was last used, and opened, after these instants.  Returns the
    /// digests of the deleted ones.  They are counted in the same transaction, under the lock of all changes.
    async fn create_session(
        &self,
        session: &StoredSession,
        max_sessions: u32,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Vec<TokenDigest>, StoreError>;

    /// Writes when sessions were last used.
    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError>;

    /// Deletes a session; no error when there is none.
    async fn delete_session(&self, digest: &TokenDigest) -> Result<(), StoreError>;

    /// Deletes sessions last used, or opened, at these instants or before.
    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError>;

    /// Closes every connection as soon as it is idle.  From then on every method fails.
    /// Afterwards no `-wal` stands beside a SQLite file, unless another process has it open.
    async fn close(&self);
}
