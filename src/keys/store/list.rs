//! Lists of keys in pages, each read by a transaction of its own.

use jiff::Timestamp;

use crate::keys::{Account, Key, Role};
use crate::person::PersonId;

/// A filter of keys: all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyFilter {
    /// Neither revoked nor expired at this instant; disabled ones are.
    pub live_at: Option<Timestamp>,
    /// With this in their names, whatever its case.
    pub query: Option<String>,
    /// With a name that fits this, whatever its case; `*` stands for any text.
    pub name_pattern: Option<String>,
    /// With this role: an account's keys have the account's.
    pub role: Option<Role>,
    /// Of this kind of owner.
    pub kind: Option<OwnerKind>,
    /// Of this service account.
    pub account: Option<AccountRef>,
    /// Of people with this id in their source.
    pub owner: Option<String>,
    /// Of this person.
    pub person: Option<PersonId>,
    /// Created by the actor of this id.
    pub created_by: Option<String>,
    /// Created at this instant or later.
    pub created_since: Option<Timestamp>,
    /// Expiring at this instant or before.
    pub expires_by: Option<Timestamp>,
    /// Last used at this instant or before.  For a key that was never used, its import or else its creation is used.
    pub unused_since: Option<Timestamp>,
}

/// The kinds of owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// Keys without an owner.
    None,
    /// Those of service accounts.
    Account,
    /// Those of people.
    Person,
}

/// A service account by its id or its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountRef {
    /// Its id.
    Id(i64),
    /// Its name.
    Name(String),
}

/// The order of a list that is read by numbered pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeyOrder {
    /// By what.
    pub by: SortKey,
    /// The greatest first.
    pub is_descending: bool,
}

/// What a list is sorted by.  Keys of which it is the same are in the order of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortKey {
    /// The bytes of the name.
    #[default]
    Name,
    /// The time of creation.
    Created,
    /// The expiry; what never expires is the last.
    Expiration,
    /// The last use; what was never used is the first.
    LastUsed,
    /// The role.
    Role,
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

/// Which service accounts are wanted: all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccountFilter {
    /// With this in their names, whatever its case.
    pub query: Option<String>,
    /// Disabled ones alone.
    pub is_disabled: bool,
    /// Those with a key that expired and was not revoked.
    pub has_expired_keys: bool,
}

/// A service account as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedAccount {
    /// The account.
    pub account: Account,
    /// How many live keys it has.
    pub live_keys: u64,
}

/// A page of the service accounts, by the bytes of names, and how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct AccountList {
    /// The accounts, at most as many as were asked for.
    pub accounts: Vec<ListedAccount>,
    /// The number of all that are wanted, at the same moment.
    pub total: u64,
}

/// Which keys are to be revoked at once, and whether they are.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkRevocation {
    /// Which of those that are neither revoked nor expired.
    pub filter: KeyFilter,
    /// They are only shown.
    pub is_dry_run: bool,
}

/// The most keys that one call revokes.
pub const MAX_BULK: usize = 10_000;

/// A key by the digest of a secret.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundKey {
    /// The key.
    pub key: Key,
    /// The secret was replaced by a rotation.
    pub is_replaced: bool,
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
