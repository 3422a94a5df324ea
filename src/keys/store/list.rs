//! Lists of keys in pages, each read by a transaction of its own.

use jiff::Timestamp;

use crate::keys::Key;

/// Which keys a list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFilter {
    /// Every key.
    All,
    /// The keys that are neither revoked nor expired at this instant.
    LiveAt(Timestamp),
}

impl ListFilter {
    /// The instant at which a listed key is live, in seconds since 1970; `None` for every key.
    pub(super) fn live_at(self) -> Option<i64> {
        match self {
            Self::All => None,
            Self::LiveAt(now) => Some(now.as_second()),
        }
    }
}

/// A place in the list: after the key of this name and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPosition {
    /// The name of the key before.
    pub name: String,
    /// Its id.
    pub id: i64,
}

/// The most keys of a page of the whole list.  A page is read and written on the threads that answer Checks, and this many
/// keep one of them for a fraction of a millisecond.
pub const LIST_PAGE: usize = 200;

impl ListPosition {
    /// Before every key.
    pub const START: Self = Self { name: String::new(), id: i64::MIN };
}

/// A page of the list, by the bytes of names and then by id.
#[derive(Debug, Clone, PartialEq)]
pub struct ListPage {
    /// At most [`LIST_PAGE`] keys.
    pub keys: Vec<Key>,
    /// After which key the next page begins; `None` when this one is the last.
    pub next: Option<ListPosition>,
}

/// A page of the list by its number, and how many keys the whole list has.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedPage {
    /// The keys, at most as many as were asked for.
    pub keys: Vec<Key>,
    /// The number of keys of the whole list at the same moment.
    pub total: u64,
}

/// How many dead keys were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ForgottenKeys {
    /// Those that had expired.
    pub expired: u64,
    /// Those that were revoked, expired or not.
    pub revoked: u64,
}

impl FromIterator<bool> for ForgottenKeys {
    /// From whether each of them was revoked.
    fn from_iter<I: IntoIterator<Item = bool>>(were_revoked: I) -> Self {
        let mut forgotten = Self::default();
        for was_revoked in were_revoked {
            let count = if was_revoked { &mut forgotten.revoked } else { &mut forgotten.expired };
            *count += 1;
        }
        forgotten
    }
}

impl ForgottenKeys {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.expired + self.revoked
    }
}

impl std::ops::AddAssign for ForgottenKeys {
    fn add_assign(&mut self, more: Self) {
        self.expired += more.expired;
        self.revoked += more.revoked;
    }
}
