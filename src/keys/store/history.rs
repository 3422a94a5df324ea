//! Whether a store's history continues from the last reading, or was rewritten by a restore, a replaced file or a
//! failover.
//!
//! [`HistoryRow::continuity`] decides by what the database says.  One more case counts as rewritten: a store that stands
//! at the cursor and lacks what this process has committed since (the follower).

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

/// How a store's history continues from a cursor.
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
    /// How the history continues from this cursor.
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
            // The log holds every revision that was not pruned: a missing entry was removed from outside.
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
