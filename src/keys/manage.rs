//! Creating, changing, rotating, revoking, deleting, listing and finding keys.
//!
//! An operation waits five seconds for the store at most.  Its change takes effect in the index before it returns.

mod accounts;
mod audit;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::edit::{Changed, EditKey};
use super::store::{
    BulkRevocation, ChangeError, FoundKey, ImportError, KeyFilter, KeyOrder, ListPage, ListPosition, NewKey,
    NumberedPage, Rotation, StoreError,
};
use super::{
    Author, CreateKey, GrantCheck, Key, KeySettings, Keys, OPERATION_TIMEOUT, StoredKey, generate,
    whole_second, with_timeout,
};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// How long reading one page of a list may take: the store may have to scan a million keys.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

impl Keys {
    /// Creates a key, and returns it with its secret, which is not stored.
    ///
    /// # Errors
    /// [`ChangeError`]: the name is taken, the quota is reached, there is no such account, `grant_check` fails, or the
    /// store failed.
    pub async fn create(
        &self,
        settings: &KeySettings,
        request: CreateKey,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<(Key, Secret), ChangeError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let author = storable(author);
        let created_at = self.clock.now();
        let new = NewKey {
            request,
            digest,
            created_at,
            created_by: author.id.clone(),
            disabled_at: None,
            imported_at: None,
        };
        let create = self.store.create(&self.gate, &new, settings.quota, &author, grant_check);
        let created = self.change(create, |stored| self.index.put(stored.clone())).await;
        let stored = self.log_failure("create a key", created)?;
        Ok((stored.key, secret))
    }

    /// Inserts keys whose secrets were made elsewhere: all of them or none.  Returns them.
    ///
    /// # Errors
    /// [`ImportError`]: which of them is wrong, or that the store failed.
    pub async fn import(
        &self,
        settings: &KeySettings,
        new: &[NewKey],
        author: &Author,
    ) -> Result<Vec<Key>, ImportError> {
        let author = storable(author);
        let import = self.store.import(&self.gate, new, settings.quota, &author, self.clock.now());
        let imported = self.change(import, |imported| {
            for stored in imported {
                self.index.put(stored.clone());
            }
        });
        let imported = imported.await.inspect_err(|error| {
            if let ChangeError::Store(error) = &error.error {
                self.write_failed("import keys", error);
            }
        })?;
        Ok(imported.into_iter().map(|stored| stored.key).collect())
    }

    /// Changes a key.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such key for the author, it cannot be changed so, the name is taken, `grant_check`
    /// fails for what it can do before or after, or the store failed.
    pub async fn edit(
        &self,
        id: i64,
        edit: &EditKey,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Changed<Key>, ChangeError> {
        let author = storable(author);
        let edit = self.store.edit(&self.gate, id, edit, self.clock.now(), &author, grant_check);
        let edited = self.change(edit, |changed| self.put_changed(changed)).await;
        Ok(keys_of(self.log_failure("change a key", edited)?))
    }

    /// Replaces a key's secret.  The current one works for `overlap_seconds` more, and never beyond the key's expiry.
    /// If the settings have a maximum life, the key's expiry is at most that far from now.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such key for the author, it is dead or disabled, `grant_check` fails, or the store
    /// failed.
    pub async fn rotate(
        &self,
        settings: &KeySettings,
        id: i64,
        overlap_seconds: i64,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<(Changed<Key>, Secret), ChangeError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let now = self.clock.now();
        let previous_until =
            now.checked_add(SignedDuration::from_secs(overlap_seconds)).unwrap_or(Timestamp::MAX);
        let max_life = settings.max_seconds_to_live;
        let expires_by = (max_life >= 0).then(|| {
            whole_second(now).checked_add(SignedDuration::from_secs(max_life)).unwrap_or(Timestamp::MAX)
        });
        let rotation = Rotation { id, digest, previous_until, now, expires_by };
        let author = storable(author);
        let rotate = self.store.rotate(&self.gate, &rotation, &author, grant_check);
        let rotated = self.change(rotate, |changed| self.put_changed(changed)).await;
        Ok((keys_of(self.log_failure("rotate a key", rotated)?), secret))
    }

    /// Revokes a key, and deletes its previous secret.  A revoked key stays as it is.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such key for the author, `grant_check` fails, or the store failed.
    pub async fn revoke(
        &self,
        id: i64,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Changed<Key>, ChangeError> {
        let author = storable(author);
        let revoke = self.store.revoke(&self.gate, id, self.clock.now(), &author, grant_check);
        let revoked = self.change(revoke, |changed| self.put_changed(changed)).await;
        Ok(keys_of(self.log_failure("revoke a key", revoked)?))
    }

    /// Revokes the keys that match: all of them, or none.  Returns the revoked keys, or in a dry run the unchanged
    /// keys.
    ///
    /// # Errors
    /// [`ChangeError`]: they are too many, `grant_check` fails for one, or the store failed.
    pub async fn revoke_many(
        &self,
        wanted: &BulkRevocation,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Vec<Key>, ChangeError> {
        let author = storable(author);
        let revoke = self.store.revoke_many(&self.gate, wanted, self.clock.now(), &author, grant_check);
        let revoked = self.change(revoke, |revoked| {
            for stored in revoked {
                self.index.put(stored.clone());
            }
        });
        let revoked = revoked.await;
        let revoked = self.log_failure("revoke keys", revoked)?;
        Ok(revoked.into_iter().map(|stored| stored.key).collect())
    }

    /// Deletes a key, and returns it as it was.
    ///
    /// # Errors
    /// [`ChangeError`]: there is no such key for the author, `grant_check` fails, or the store failed.
    pub async fn delete(
        &self,
        id: i64,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Key, ChangeError> {
        let author = storable(author);
        let delete = self.store.delete(&self.gate, id, self.clock.now(), &author, grant_check);
        let deleted = self.change(delete, |_| self.index.remove(id)).await;
        self.log_failure("delete a key", deleted)
    }

    /// The first keys after a position, at most [`LIST_PAGE`](super::store::LIST_PAGE), by the bytes of names.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_after(&self, filter: &KeyFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        let listed = with_timeout(LIST_TIMEOUT, self.store.list_after(filter, after)).await;
        listed.inspect_err(|error| self.read_failed("list the keys", error))
    }

    /// At most `limit` keys after the first `offset` ones in this order, and the number of all.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_page(
        &self,
        filter: &KeyFilter,
        order: KeyOrder,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        let listed = with_timeout(LIST_TIMEOUT, self.store.list_page(filter, order, offset, limit)).await;
        listed.inspect_err(|error| self.read_failed("list the keys", error))
    }

    /// The first keys of an id above `after` that are neither revoked nor expired, with the digests of their secrets, at most
    /// [`LIST_PAGE`](super::store::LIST_PAGE).
    ///
    /// # Errors
    /// The store failed.
    pub async fn export_after(&self, after: i64) -> Result<Vec<StoredKey>, StoreError> {
        let exported = with_timeout(LIST_TIMEOUT, self.store.export_after(after, self.clock.now())).await;
        exported.inspect_err(|error| self.read_failed("export the keys", error))
    }

    /// A key; `None` when there is no such key.
    ///
    /// # Errors
    /// The store failed.
    pub async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let key = with_timeout(OPERATION_TIMEOUT, self.store.get(id)).await;
        key.inspect_err(|error| self.read_failed("read a key", error))
    }

    /// The key of a secret, the current or the previous one; `None` when there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn find_secret(&self, digest: &TokenDigest) -> Result<Option<FoundKey>, StoreError> {
        let found = with_timeout(OPERATION_TIMEOUT, self.store.find_secret(digest)).await;
        found.inspect_err(|error| self.read_failed("find a key", error))
    }

    /// The digests of the current secrets of these keys, in the same order; `None` for a key that this process does not
    /// know.
    pub fn digests(&self, ids: &[i64]) -> Vec<Option<TokenDigest>> {
        self.index.digests(ids)
    }

    fn put_changed(&self, changed: &Changed<StoredKey>) {
        if let Some(stored) = &changed.after {
            self.index.put(stored.clone());
        }
    }

    /// Logs and counts a change that the store failed to make.
    fn log_failure<T>(&self, what: &str, changed: Result<T, ChangeError>) -> Result<T, ChangeError> {
        changed.inspect_err(|error| {
            if let ChangeError::Store(error) = error {
                self.write_failed(what, error);
            }
        })
    }
}

fn keys_of(changed: Changed<StoredKey>) -> Changed<Key> {
    let key = |stored: Option<StoredKey>| stored.map(|stored| stored.key);
    Changed { before: key(changed.before), after: key(changed.after) }
}

/// The author in a form that every store takes: PostgreSQL stores every character but NUL, and an actor's id may be any
/// text.
fn storable(author: &Author) -> Author {
    Author { id: author.id.replace('\0', "\u{fffd}"), ..author.clone() }
}
