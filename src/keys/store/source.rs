//! What the follower reads: where the store stands, what changed since, and everything.
//!
//! Reading goes in steps of at most [`MAX_PAGE`] rows, each a transaction of its own, so that neither the reader nor
//! the store is held up by how much there is.  Nothing in here is a database's: another origin of keys can implement
//! [`Source`] as well.

use std::time::Duration;

use async_trait::async_trait;

use super::StoreError;
use crate::keys::{StoredKey, StoredSession};
use crate::token::TokenDigest;

/// The most rows of one page.
pub const MAX_PAGE: usize = 1000;

/// The number of a change.  Numbers become visible in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Revision(pub i64);

/// A point in a store's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The identity of the store, which a copy keeps.
    pub store: Box<str>,
    /// The newest change.
    pub revision: Revision,
    /// A random number that belongs to the revision.  Two histories that part and reach the same revision differ in it.
    pub mark: i64,
}

/// Where the store stands.
#[derive(Debug, Clone)]
pub struct Look {
    /// The newest change.
    pub cursor: Cursor,
    /// How the store's history goes on from the reader's cursor.
    pub continuity: Continuity,
    /// Another number whenever somebody accepts a history that was rewritten.
    pub accepted: i64,
    /// How old the newest write is, where that says how far a copy is behind; `None` where reading is enough.
    pub age: Option<Duration>,
    /// The oldest schema whose programs may answer by what the store holds.
    pub oldest_reader: i64,
}

/// How a store's history goes on from a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// The cursor is part of it, and every later change is in the log.
    Continues,
    /// A copy that follows another store has not come as far as the cursor.
    Behind,
    /// The log no longer reaches back to the cursor.
    Pruned,
    /// The cursor is no part of it: the store was restored from a backup, replaced, or failed over and lost commits.
    Rewritten,
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

/// What keys and sessions are read from.
#[async_trait]
pub trait Source: Send + Sync {
    /// Where the store stands, seen from this cursor; without one its continuity is [`Continuity::Continues`].
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError>;

    /// The changes from a position in the log up to a revision.
    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError>;

    /// The keys with an id above this.
    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError>;

    /// The sessions with a digest above this.
    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError>;

    /// Waits for a notification that something changed.  An error means that notifications are lost.  A source
    /// without notifications waits for ever: the follower polls it.
    async fn changed(&self) -> Result<(), StoreError>;

    /// Closes every connection as soon as it is idle.
    async fn close(&self);
}

/// What a database says of its present state, seen from a cursor.
pub(super) struct HistoryRow {
    /// The newest change.
    pub cursor: Cursor,
    /// The newest revision that is no longer in the log, with its mark.
    pub pruned: (i64, i64),
    /// The mark that the log holds for the reader's revision.
    pub logged_mark: Option<i64>,
    /// Whether the database follows another one.
    pub is_copy: bool,
}

impl HistoryRow {
    /// How the history goes on from this cursor.
    pub fn continuity(&self, since: &Cursor) -> Continuity {
        let now = &self.cursor;
        if now.store != since.store {
            return Continuity::Rewritten;
        }
        let of_mark = |mark: i64| {
            if mark == since.mark { Continuity::Continues } else { Continuity::Rewritten }
        };
        match since.revision.cmp(&now.revision) {
            std::cmp::Ordering::Greater if self.is_copy => Continuity::Behind,
            std::cmp::Ordering::Greater => Continuity::Rewritten,
            std::cmp::Ordering::Equal => of_mark(now.mark),
            std::cmp::Ordering::Less if since.revision.0 < self.pruned.0 => Continuity::Pruned,
            std::cmp::Ordering::Less if since.revision.0 == self.pruned.0 => of_mark(self.pruned.1),
            // The log holds every revision that was not pruned: one without an entry was taken out by somebody.
            std::cmp::Ordering::Less => self.logged_mark.map_or(Continuity::Pruned, of_mark),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(store: &str, revision: i64, mark: i64) -> Cursor {
        Cursor { store: store.into(), revision: Revision(revision), mark }
    }

    #[test]
    fn a_history_goes_on_is_pruned_or_was_rewritten() {
        let cases = [
            (cursor("a", 9, 90), None, false, Continuity::Continues),
            (cursor("a", 9, 91), None, false, Continuity::Rewritten),
            (cursor("b", 9, 90), None, false, Continuity::Rewritten),
            (cursor("a", 10, 100), None, false, Continuity::Rewritten),
            (cursor("a", 10, 100), None, true, Continuity::Behind),
            (cursor("a", 8, 80), Some(80), false, Continuity::Continues),
            (cursor("a", 8, 80), Some(81), false, Continuity::Rewritten),
            (cursor("a", 8, 80), None, false, Continuity::Pruned),
            (cursor("a", 5, 50), None, false, Continuity::Continues),
            (cursor("a", 5, 51), None, false, Continuity::Rewritten),
            (cursor("a", 4, 40), None, false, Continuity::Pruned),
        ];
        for (since, logged_mark, is_copy, expected) in cases {
            let row = HistoryRow { cursor: cursor("a", 9, 90), pruned: (5, 50), logged_mark, is_copy };
            assert_eq!(row.continuity(&since), expected, "{since:?}");
        }
    }
}
