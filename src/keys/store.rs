//! The stores of keys, sessions, people and service accounts: one trait, whose operations are written once
//! ([`operations`]) for SQLite and PostgreSQL.
//!
//! The database itself numbers every change to keys, sessions, people and service accounts.  In the transaction that
//! makes the change, triggers raise the number in one locked row, append to a change log (deletions too) and, in
//! PostgreSQL, NOTIFY.  So a change made with psql counts, and no change is skipped because transactions commit out of
//! order.  An update of only a key's `last_used_at`, `uses` or `description`, or of a person's `seen_at`, is not a
//! change.  An update of a session's `last_used_at` is a change, because use keeps a session alive.  The audit, the
//! secrets of a store and the states of log-in attempts are not in the log: processes do not keep them in memory for
//! longer than a minute ([`super::attempts`]).  Each revision has a random mark, which reveals a rewritten history
//! ([`super::store::source`]).

mod error;
pub mod history;
mod list;
mod migrations;
mod operations;
#[cfg(feature = "postgres")]
mod postgres;
mod rows;
pub mod source;
mod sqlite;
mod statements;
mod transaction;
mod url;
mod value;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, OwnedMutexGuard};
use zeroize::Zeroizing;

use self::source::Source;
use super::audit::{AuditFilter, AuditPage, NewAuditRow};
use super::edit::{Changed, EditAccount, EditKey};
use super::{
    Account, Author, CreateAccount, CreateKey, GrantCheck, Key, StoredKey, StoredPerson, StoredSession,
};
use crate::person::PersonId;
use crate::token::TokenDigest;

pub use error::{
    ChangeError, DatabaseFailure, HostFailure, ImportError, OpenError, OpenFailure, StoreError, StoreFailure,
};
pub use list::{
    AccountFilter, AccountList, AccountRef, BulkRevocation, ForgottenKeys, FoundKey, KeyFilter, KeyOrder,
    LIST_PAGE, ListPage, ListPosition, ListedAccount, MAX_BULK, NumberedPage, OwnerKind, SortKey,
};
pub use migrations::{SCHEMA, SchemaChange};
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use sqlite::{Backup, BackupError, SqliteStore, back_up};
pub use url::{StoreUrl, UrlError};

/// The length of a secret of the store.
pub const SECRET_BYTES: usize = 32;

/// A secret to be replaced.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The key.
    pub id: i64,
    /// The digest of its new secret.
    pub digest: TokenDigest,
    /// Until when the present secret works, at most.
    pub previous_until: Timestamp,
    /// The present time.
    pub now: Timestamp,
    /// The latest expiry that the key may have; `None` is no limit.
    pub expires_by: Option<Timestamp>,
}

impl Rotation {
    /// When a key expires after its rotation, and until when its present secret works.
    fn lives(&self, key: &Key) -> (Option<Timestamp>, Timestamp) {
        let expires_at = key.expires_at.into_iter().chain(self.expires_by).min();
        let until = self.previous_until;
        (expires_at, expires_at.map_or(until, |expires_at| expires_at.min(until)))
    }
}

/// A key to be created, or imported.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is to be.
    pub request: CreateKey,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// When it was disabled.
    pub disabled_at: Option<Timestamp>,
    /// When it was imported; `None` for a key that is made here.
    pub imported_at: Option<Timestamp>,
}

/// How often a key was used since that was last written, and where from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub id: i64,
    /// When it was used last.
    pub at: Timestamp,
    /// How often.
    pub uses: u64,
    /// The address of the last use, where it is known.
    pub address: Option<String>,
}

/// How many live sessions a person may have of each scope, and what is live.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimit {
    /// The most, those included that are about to be opened.
    pub max_sessions: u32,
    /// A live session was last used after this.
    pub used_after: Timestamp,
    /// A live session was opened after this.
    pub opened_after: Timestamp,
}

/// Sessions that were deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndedSessions {
    /// Their digests.
    pub digests: Vec<TokenDigest>,
    /// The number of log-ins that ended with them.
    pub log_ins: usize,
}

/// Rows of the audit that were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForgottenRows {
    /// Those that were older than rows are kept.
    pub old: u64,
    /// Those beyond the most that are kept.
    pub excess: u64,
}

/// A person as recorded, with what was evicted for them.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedPerson {
    /// The id of the record.
    pub id: i64,
    /// The record.
    pub person: StoredPerson,
    /// The ids of the records that were deleted because there were too many.
    pub deleted: Vec<i64>,
}

/// The order in which changes and readings reach the index.
///
/// The writer of a change holds it from before the COMMIT until the index shows the change; a reader holds it from
/// before the reading until the index shows what was read.  So the index never goes back in time.  A store takes it
/// when it holds every row that it changes and at most waits for the lock of all changes, so that open transactions of
/// other clients do not delay the follower.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Mutex<()>>);

/// Holds a [`Gate`].
#[derive(Debug)]
pub struct GateGuard(#[expect(dead_code, reason = "it is held, not read")] OwnedMutexGuard<()>);

impl Gate {
    /// Waits for the gate.
    pub async fn enter(&self) -> GateGuard {
        GateGuard(Arc::clone(&self.0).lock_owned().await)
    }
}

/// A value that was committed.  The index shows it before the guard is dropped.
#[derive(Debug)]
pub struct Committed<T> {
    /// What was committed.
    pub value: T,
    /// Whether it is a change, which raised the store's revision.
    pub is_change: bool,
    /// The gate, held since before the COMMIT.
    pub guard: GateGuard,
}

/// What the follower uses of a store, over connections of its own.
pub struct FollowerStore {
    /// What it reads.
    pub source: Arc<dyn Source>,
    /// What it writes; `None` where nothing is written.
    pub upkeep: Option<Arc<dyn Upkeep>>,
}

/// What the follower writes into a store.
#[async_trait]
pub trait Upkeep: Send + Sync {
    /// Writes how keys were used: adds the uses, and an earlier time never replaces a later one.  To be called once for
    /// each use.
    async fn touch_keys(&self, used: &[KeyUse]) -> Result<(), StoreError>;

    /// Writes when sessions were last used.
    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError>;

    /// Deletes sessions last used, or opened, at these instants or before.
    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError>;

    /// Deletes at most `limit` keys that expired, or were revoked, at this instant or before.  Those that another
    /// transaction holds are left for the next call.
    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError>;

    /// Expires at most `limit` live keys at `now` that were last used at `used_until` or before.  For a key that was
    /// never used, its import or else its creation is used.  Each key has a row in the audit.  Returns the expired
    /// keys.  Concurrent callers get different keys.
    async fn expire_idle(
        &self,
        now: Timestamp,
        used_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError>;

    /// Deletes at most `limit` people that ended at this instant or before, and returns their number.  Those that another
    /// transaction holds are left for the next call.
    async fn forget_people(&self, ended_until: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Deletes at most `limit` states that were used at this instant or before, and returns their number.  Those that
    /// another transaction holds are left for the next call.
    async fn forget_states(&self, used_until: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Deletes at most `limit` of the oldest rows of the audit beyond its limits ([`audit`](crate::keys::audit)).
    async fn forget_audit(&self, limit: u32) -> Result<ForgottenRows, StoreError>;

    /// Writes a time stamp, so that copies of the store can report their age.  At most once in a few seconds, however
    /// many processes call it.
    async fn stamp(&self) -> Result<(), StoreError>;
}

/// A store of keys, sessions and people, for the operations of the API.  A change that a method acknowledges survives a kill
/// of the process.  Each that changes what the index shows takes the [`Gate`] before it commits.
#[async_trait]
pub trait Store: Send + Sync {
    /// The same store for the follower.  The connections are made in the runtime of the caller.
    fn for_follower(&self) -> FollowerStore;

    /// Creates a key.  Name, quota and `grant_check` are checked in the same transaction, under one lock.
    async fn create(
        &self,
        gate: &Gate,
        new: &NewKey,
        quota: Option<u64>,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, ChangeError>;

    /// Inserts keys whose secrets were made elsewhere: all of them or none.
    async fn import(
        &self,
        gate: &Gate,
        new: &[NewKey],
        quota: Option<u64>,
        author: &Author,
        now: Timestamp,
    ) -> Result<Committed<Vec<StoredKey>>, ImportError>;

    /// Changes a key.  `grant_check` sees it as it was and as it becomes, in the same transaction.
    async fn edit(
        &self,
        gate: &Gate,
        id: i64,
        edit: &EditKey,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError>;

    /// Replaces a key's secret.  The present secret works until `previous_until`, and never beyond the key's expiry;
    /// a secret that was replaced earlier is dead.  An expiry later than `expires_by` becomes `expires_by`.
    /// `grant_check` sees the key in the same transaction, and its error takes the change back.
    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError>;

    /// Revokes a key and deletes its previous secret.  A revoked key stays as it is.
    async fn revoke(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError>;

    /// Revokes the keys that match: all of them, or none.  Returns the revoked keys, or in a dry run the unchanged
    /// keys.
    async fn revoke_many(
        &self,
        gate: &Gate,
        wanted: &BulkRevocation,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Vec<StoredKey>>, ChangeError>;

    /// Deletes a key, and returns the deleted key.
    async fn delete(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Key>, ChangeError>;

    /// The first keys after a position, at most [`LIST_PAGE`], with their last use.
    async fn list_after(&self, filter: &KeyFilter, after: &ListPosition) -> Result<ListPage, StoreError>;

    /// At most `limit` keys after the first `offset` ones, with their last use, and the number of all.
    async fn list_page(
        &self,
        filter: &KeyFilter,
        order: KeyOrder,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError>;

    /// The first keys of an id above `after` that are neither revoked nor expired at this instant, at most [`LIST_PAGE`].
    async fn export_after(&self, after: i64, now: Timestamp) -> Result<Vec<StoredKey>, StoreError>;

    /// One key with its last use.
    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError>;

    /// The key of a secret, the present one or the one before.
    async fn find_secret(&self, digest: &TokenDigest) -> Result<Option<FoundKey>, StoreError>;

    /// Creates a service account.
    async fn create_account(
        &self,
        gate: &Gate,
        new: &CreateAccount,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Account>, ChangeError>;

    /// Changes a service account.  `grant_check` sees it as it was and as it becomes, in the same transaction.
    async fn edit_account(
        &self,
        gate: &Gate,
        id: i64,
        edit: &EditAccount,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<Account>>, ChangeError>;

    /// Deletes a service account and its keys.  Returns the deleted account, and the ids of the keys.
    async fn delete_account(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<(Account, Vec<i64>)>, ChangeError>;

    /// At most `limit` service accounts after the first `offset` ones, with how many keys of theirs live at `now`.
    async fn list_accounts(
        &self,
        filter: &AccountFilter,
        now: Timestamp,
        offset: u64,
        limit: u32,
    ) -> Result<AccountList, StoreError>;

    /// One service account.
    async fn account(&self, id: i64) -> Result<Option<Account>, StoreError>;

    /// The service account of this name.
    async fn account_named(&self, name: &str) -> Result<Option<Account>, StoreError>;

    /// The service accounts of these ids.
    async fn accounts_of_ids(&self, ids: &[i64]) -> Result<Vec<Account>, StoreError>;

    /// At most `limit` rows of the audit after the first `offset` ones, the newest first.
    async fn audit_rows(
        &self,
        filter: &AuditFilter,
        offset: u64,
        limit: u32,
    ) -> Result<AuditPage, StoreError>;

    /// Writes rows of the audit that belong to no change.
    async fn write_audit(&self, rows: &[NewAuditRow]) -> Result<(), StoreError>;

    /// Creates the sessions of one log-in, all of one person.  Before that it ends that person's oldest log-ins so that
    /// of each scope no more live sessions are left than the limit says, the new ones included.  They are counted in the
    /// same transaction, under the lock of all changes.  Returns what it ended.
    async fn create_sessions(
        &self,
        gate: &Gate,
        sessions: &[StoredSession],
        limit: SessionLimit,
        audit: &[NewAuditRow],
    ) -> Result<Committed<EndedSessions>, StoreError>;

    /// Deletes a session and the others of its log-in, and returns their digests; no error when there is none, and then no
    /// row in the audit.
    async fn close_session(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        audit: &[NewAuditRow],
    ) -> Result<Committed<Vec<TokenDigest>>, StoreError>;

    /// Deletes all sessions of a person.  Of the log-ins it counts those with a live session: one last used, and opened,
    /// after these instants; so does the row of the audit.
    async fn end_sessions(
        &self,
        gate: &Gate,
        person: &PersonId,
        used_after: Timestamp,
        opened_after: Timestamp,
        audit: Option<NewAuditRow>,
    ) -> Result<Committed<EndedSessions>, StoreError>;

    /// Writes the claims of a person, and their time, into a session and the others of its log-in, unless newer claims
    /// are there.  Returns the changed sessions.
    async fn update_claims(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<Committed<Vec<StoredSession>>, StoreError>;

    /// Records a person, whether there is a record of them or not.  Where only `seen_at` differs, that is written at most
    /// once a minute, and is no change.  For a new one people are evicted so that at most `max_people` are left, this one
    /// included: of those that ended, and then of the others, those that did, or were seen, longest ago.
    async fn record_person(
        &self,
        gate: &Gate,
        person: &StoredPerson,
        max_people: u32,
    ) -> Result<Committed<RecordedPerson>, StoreError>;

    /// Writes that a person ended at this instant, unless they have ended, or have a session that was opened after
    /// `unless_opened_after`; returns the record and its id.  `None` when there is none, or nothing was written.
    async fn end_person(
        &self,
        gate: &Gate,
        person: &PersonId,
        now: Timestamp,
        unless_opened_after: Option<Timestamp>,
    ) -> Result<Committed<Option<(i64, StoredPerson)>>, StoreError>;

    /// Writes that at most `limit` people of directories and providers ended at `now` who were seen last at `seen_until` or
    /// before; returns their records, each with its id.  Those that another transaction holds are left for the next call.
    async fn end_idle_people(
        &self,
        gate: &Gate,
        now: Timestamp,
        seen_until: Timestamp,
        limit: u32,
    ) -> Result<Committed<Vec<(i64, StoredPerson)>>, StoreError>;

    /// The secret of this name.  Where there is none it becomes `new`; of several callers at once one makes it, and all
    /// get the same.
    async fn secret(
        &self,
        name: &str,
        new: &[u8; SECRET_BYTES],
        now: Timestamp,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreError>;

    /// Records that a state was used at this instant; false if it was used before.  Of several concurrent callers one
    /// gets true.
    async fn use_state(&self, state: &TokenDigest, now: Timestamp) -> Result<bool, StoreError>;

    /// Makes further connections by this URL, which leads to the same database ([`StoreUrl::is_same_database`]) and may
    /// have another user, password or options, once the follower has made one by it.
    ///
    /// # Errors
    /// The URL cannot be used.
    fn take_over(&self, _url: &StoreUrl) -> Result<(), UrlError> {
        Ok(())
    }

    /// Accepts the store's current history: every process sees this at its next reading.
    async fn accept_history(&self, gate: &Gate, audit: &[NewAuditRow]) -> Result<Committed<()>, StoreError>;

    /// Closes every connection as soon as it is idle.  From then on every method fails.  Afterwards there is no `-wal`
    /// next to a SQLite file, unless another process has it open.
    async fn close(&self);
}
