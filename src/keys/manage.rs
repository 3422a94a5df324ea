//! Creating, listing, rotating, revoking and deleting keys.
//!
//! An operation waits five seconds for the store at most.  Its change takes effect in the index before it returns.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::store::{
    CreateError, ListFilter, ListPage, ListPosition, NewKey, NumberedPage, RotateError, Rotation, StoreError,
};
use super::{
    CreateKey, GrantCheck, Key, KeySettings, Keys, OPERATION_TIMEOUT, generate, whole_second, with_timeout,
};
use crate::secret::Secret;

/// How long reading one page of a list may take: the store may have to look through a million keys for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

impl Keys {
    /// Creates a key, and returns it with its secret, which is stored nowhere.
    ///
    /// # Errors
    /// [`CreateError`]: the name is taken, the quota is reached, or the store failed.
    pub async fn create(
        &self,
        settings: &KeySettings,
        request: CreateKey,
    ) -> Result<(Key, Secret), CreateError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let created_by = without_nul(&request.created_by);
        let new = NewKey {
            request: CreateKey { created_by, ..request },
            digest,
            created_at: self.clock.now(),
            quota: settings.quota,
        };
        let create = self.store.create(&self.gate, &new);
        let created = self.change(create, |stored| self.index.put(stored.clone())).await;
        if let Err(CreateError::Store(error)) = &created {
            self.write_failed("create a key", error);
        }
        Ok((created?.key, secret))
    }

    /// Replaces a key's secret.  The present one works for `overlap_seconds` more, and never beyond the key's expiry.
    /// With a longest life in the settings, the key's expiry is at most that far from now.
    ///
    /// # Errors
    /// [`RotateError`]: there is no such key, it is dead, `grant_check` fails, or the store failed.
    pub async fn rotate(
        &self,
        settings: &KeySettings,
        id: i64,
        overlap_seconds: i64,
        grant_check: &GrantCheck<'_>,
    ) -> Result<(Key, Secret), RotateError> {
        let (secret, digest) = generate(&settings.prefix)?;
        let now = self.clock.now();
        let previous_until =
            now.checked_add(SignedDuration::from_secs(overlap_seconds)).unwrap_or(Timestamp::MAX);
        let max_life = settings.max_seconds_to_live;
        let expires_by = (max_life >= 0).then(|| {
            whole_second(now).checked_add(SignedDuration::from_secs(max_life)).unwrap_or(Timestamp::MAX)
        });
        let rotation = Rotation { id, digest, previous_until, now, expires_by };
        let rotate = self.store.rotate(&self.gate, &rotation, grant_check);
        let rotated = self.change(rotate, |stored| self.index.put(stored.clone())).await;
        if let Err(RotateError::Store(error)) = &rotated {
            self.write_failed("rotate a key", error);
        }
        Ok((rotated?.key, secret))
    }

    /// Revokes a key, and deletes its previous secret.  A revoked key stays as it is.
    /// `None` when there is no such key.
    ///
    /// # Errors
    /// The store failed.
    pub async fn revoke(&self, id: i64, by: &str) -> Result<Option<Key>, StoreError> {
        let by = without_nul(by);
        let revoke = self.store.revoke(&self.gate, id, &by, self.clock.now());
        let revoked = self.change(revoke, |stored| {
            if let Some(stored) = stored {
                self.index.put(stored.clone());
            }
        });
        let revoked = revoked.await.inspect_err(|error| self.write_failed("revoke a key", error))?;
        Ok(revoked.map(|stored| stored.key))
    }

    /// Deletes a key; false when there is no such key.
    ///
    /// # Errors
    /// The store failed.
    pub async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        let deleted = self.change(self.store.delete(&self.gate, id), |_| self.index.remove(id));
        deleted.await.inspect_err(|error| self.write_failed("delete a key", error))
    }

    /// Accepts the store's history after it was rewritten: what this and other processes held back since, because they
    /// knew it to be dead, counts as the store says.  It takes effect at the next look at the store.
    ///
    /// # Errors
    /// The store failed.
    pub async fn accept_history(&self) -> Result<(), StoreError> {
        let accepted = self.change(self.store.accept_history(&self.gate), |()| {});
        accepted.await.inspect_err(|error| self.write_failed("accept the history of the store", error))
    }

    /// The first keys after a position, at most [`LIST_PAGE`](super::store::LIST_PAGE).
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_after(&self, filter: ListFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        let listed = with_timeout(LIST_TIMEOUT, self.store.list_after(filter, after)).await;
        listed.inspect_err(|error| self.read_failed("list the keys", error))
    }

    /// At most `limit` keys after the first `offset` ones, and the number of all.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_page(
        &self,
        filter: ListFilter,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        let listed = with_timeout(LIST_TIMEOUT, self.store.list_page(filter, offset, limit)).await;
        listed.inspect_err(|error| self.read_failed("list the keys", error))
    }

    /// A key; `None` when there is no such key.
    ///
    /// # Errors
    /// The store failed.
    pub async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let key = with_timeout(OPERATION_TIMEOUT, self.store.get(id)).await;
        key.inspect_err(|error| self.read_failed("read a key", error))
    }
}

/// PostgreSQL stores every character but NUL, and an actor's id may be any text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
