//! What the follower reads: which revision the store has, what changed since, and everything.
//!
//! Reading goes in steps of at most [`MAX_PAGE`] rows, each a transaction of its own, so that neither the reader nor
//! the store is held up by how much there is.  Nothing in here is a database's: another origin of keys can implement
//! [`Source`] as well.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::keys::{Account, StoredKey, StoredPerson, StoredSession};
use crate::token::TokenDigest;

pub use super::history::{Continuity, Cursor, Revision};

/// The most rows of one page.
pub const MAX_PAGE: usize = 1000;

/// Which revision the store has.
#[derive(Debug, Clone)]
pub struct Look {
    /// The newest change.
    pub cursor: Cursor,
    /// How the store's history goes on from the reader's cursor.
    pub continuity: Continuity,
    /// A number that changes whenever an operator accepts a rewritten history.
    pub accepted: i64,
    /// How old the newest write is, where that says how far a copy is behind; `None` where reading is enough.
    pub age: Option<Duration>,
    /// The oldest schema whose programs may answer by what the store holds.
    pub oldest_reader: i64,
}

/// A place in the change log, before the entry that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// The revision of the entry before.
    pub revision: Revision,
    /// Its number among the entries of all revisions.
    pub entry: i64,
}

impl LogPosition {
    /// Behind every entry of this revision.
    pub fn after(revision: Revision) -> Self {
        Self { revision, entry: i64::MAX }
    }

    /// The newest revision of which nothing is left to read.
    pub fn complete_revision(self) -> Revision {
        Revision(if self.entry == i64::MAX { self.revision.0 } else { self.revision.0 - 1 })
    }
}

/// The next changes in the log.
#[derive(Debug, Clone, Default)]
pub struct ChangePage {
    /// New and changed keys, as they are now.
    pub keys: Vec<StoredKey>,
    /// Ids of deleted keys.
    pub deleted_keys: Vec<i64>,
    /// New and changed sessions, as they are now.
    pub sessions: Vec<StoredSession>,
    /// Digests of deleted sessions.
    pub deleted_sessions: Vec<TokenDigest>,
    /// New and changed people, as they are now, by the ids of their records.
    pub people: Vec<(i64, StoredPerson)>,
    /// Ids of deleted records of people.
    pub deleted_people: Vec<i64>,
    /// New and changed service accounts, as they are now.
    pub accounts: Vec<Account>,
    /// Ids of deleted service accounts.
    pub deleted_accounts: Vec<i64>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<LogPosition>,
    /// The newest revision that is no longer in the log.
    pub pruned: Revision,
}

/// The next keys by id.
#[derive(Debug, Clone, Default)]
pub struct KeyPage {
    /// The keys.  One with an id up to `next` that is not here does not exist.
    pub keys: Vec<StoredKey>,
    /// The greatest id that the page covers; `None`: it covers all that are left.
    pub next: Option<i64>,
}

/// The next sessions by digest.
#[derive(Debug, Clone, Default)]
pub struct SessionPage {
    /// The sessions.
    pub sessions: Vec<StoredSession>,
    /// The greatest digest that the page covers; `None`: it covers all that are left.
    pub next: Option<TokenDigest>,
}

/// The next people by the ids of their records.
#[derive(Debug, Clone, Default)]
pub struct PersonPage {
    /// The people.  A record with an id up to `next` that is not here does not exist.
    pub people: Vec<(i64, StoredPerson)>,
    /// The greatest id that the page covers; `None`: it covers all that are left.
    pub next: Option<i64>,
}

/// The next service accounts by id.
#[derive(Debug, Clone, Default)]
pub struct AccountPage {
    /// The accounts.  One with an id up to `next` that is not here does not exist.
    pub accounts: Vec<Account>,
    /// The greatest id that the page covers; `None`: it covers all that are left.
    pub next: Option<i64>,
}

/// What keys, sessions, people and service accounts are read from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Makes the store ready to be read, which may take minutes: a schema is brought up to date, a file that was replaced
    /// is opened.  To be called before each reading.
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Which revision the store has, seen from this cursor; without one its continuity is [`Continuity::Continues`].
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError>;

    /// The changes from a position in the log up to a revision.
    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError>;

    /// The keys with an id above this.
    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError>;

    /// The sessions with a digest above this.
    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError>;

    /// The people whose records have an id above this.
    async fn people(&self, after: i64) -> Result<PersonPage, StoreError>;

    /// The service accounts with an id above this.
    async fn accounts(&self, after: i64) -> Result<AccountPage, StoreError>;

    /// Waits for a notification that something changed.  An error means that notifications are lost.  A source without
    /// notifications waits forever: the follower polls it.
    async fn changed(&self) -> Result<(), StoreError>;

    /// Closes every connection as soon as it is idle.
    async fn close(&self);
}
