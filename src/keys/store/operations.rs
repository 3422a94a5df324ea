//! The operations of a store, written once for both databases.
//!
//! Each is one transaction.  Rows are locked in this order, so that no two transactions wait for each other: service
//! accounts, keys by their ids, sessions by their digests, and then the lock of all changes.

mod accounts;
mod attempts;
mod audit;
mod keys;
mod people;
pub(super) mod reading;
mod sessions;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

pub(super) use self::audit::forget as forget_audit;
pub(super) use self::keys::expire_idle;
use super::list::{
    AccountFilter, AccountList, BulkRevocation, FoundKey, KeyFilter, KeyOrder, ListPage, ListPosition,
    NumberedPage,
};
use super::transaction::Database;
use super::{
    ChangeError, Committed, EndedSessions, FollowerStore, Gate, ImportError, NewKey, RecordedPerson,
    Rotation, SECRET_BYTES, SessionLimit, Store, StoreError, StoreUrl, UrlError,
};
use crate::keys::audit::{AuditFilter, AuditPage, NewAuditRow};
use crate::keys::edit::{Changed, EditAccount, EditKey};
use crate::keys::{Account, Author, CreateAccount, GrantCheck, Key, StoredKey, StoredPerson, StoredSession};
use crate::person::PersonId;
use crate::token::TokenDigest;

#[async_trait]
impl<D: Database> Store for D {
    fn for_follower(&self) -> FollowerStore {
        self.follower_store()
    }

    async fn create(
        &self,
        gate: &Gate,
        new: &NewKey,
        quota: Option<u64>,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, ChangeError> {
        keys::create(self.begin_writing().await?, gate, new, quota, author, grant_check).await
    }

    async fn import(
        &self,
        gate: &Gate,
        new: &[NewKey],
        quota: Option<u64>,
        author: &Author,
        now: Timestamp,
    ) -> Result<Committed<Vec<StoredKey>>, ImportError> {
        let transaction = self.begin_writing().await.map_err(ImportError::of_all)?;
        keys::import(transaction, gate, new, quota, author, now).await
    }

    async fn edit(
        &self,
        gate: &Gate,
        id: i64,
        edit: &EditKey,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
        keys::edit(self.begin_writing().await?, gate, id, edit, now, author, grant_check).await
    }

    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
        keys::rotate(self.begin_writing().await?, gate, rotation, author, grant_check).await
    }

    async fn revoke(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
        keys::revoke(self.begin_writing().await?, gate, id, now, author, grant_check).await
    }

    async fn revoke_many(
        &self,
        gate: &Gate,
        wanted: &BulkRevocation,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Vec<StoredKey>>, ChangeError> {
        keys::revoke_many(self.begin_writing().await?, gate, wanted, now, author, grant_check).await
    }

    async fn delete(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Key>, ChangeError> {
        keys::delete(self.begin_writing().await?, gate, id, now, author, grant_check).await
    }

    async fn list_after(&self, filter: &KeyFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        keys::list_after(self.begin_reading().await?, filter, after).await
    }

    async fn list_page(
        &self,
        filter: &KeyFilter,
        order: KeyOrder,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        keys::list_page(self.begin_reading().await?, filter, order, offset, limit).await
    }

    async fn export_after(&self, after: i64, now: Timestamp) -> Result<Vec<StoredKey>, StoreError> {
        keys::export_after(self.begin_reading().await?, after, now).await
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        keys::get(self.begin_reading().await?, id).await
    }

    async fn find_secret(&self, digest: &TokenDigest) -> Result<Option<FoundKey>, StoreError> {
        keys::find_secret(self.begin_reading().await?, digest).await
    }

    async fn create_account(
        &self,
        gate: &Gate,
        new: &CreateAccount,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Account>, ChangeError> {
        accounts::create(self.begin_writing().await?, gate, new, now, author, grant_check).await
    }

    async fn edit_account(
        &self,
        gate: &Gate,
        id: i64,
        edit: &EditAccount,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<Changed<Account>>, ChangeError> {
        accounts::edit(self.begin_writing().await?, gate, id, edit, now, author, grant_check).await
    }

    async fn delete_account(
        &self,
        gate: &Gate,
        id: i64,
        now: Timestamp,
        author: &Author,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<(Account, Vec<i64>)>, ChangeError> {
        accounts::delete(self.begin_writing().await?, gate, id, now, author, grant_check).await
    }

    async fn list_accounts(
        &self,
        filter: &AccountFilter,
        now: Timestamp,
        offset: u64,
        limit: u32,
    ) -> Result<AccountList, StoreError> {
        accounts::list(self.begin_reading().await?, filter, now, offset, limit).await
    }

    async fn account(&self, id: i64) -> Result<Option<Account>, StoreError> {
        accounts::get(self.begin_reading().await?, id).await
    }

    async fn account_named(&self, name: &str) -> Result<Option<Account>, StoreError> {
        accounts::named(self.begin_reading().await?, name).await
    }

    async fn accounts_of_ids(&self, ids: &[i64]) -> Result<Vec<Account>, StoreError> {
        accounts::of_ids(self.begin_reading().await?, ids).await
    }

    async fn audit_rows(
        &self,
        filter: &AuditFilter,
        offset: u64,
        limit: u32,
    ) -> Result<AuditPage, StoreError> {
        audit::page(self.begin_reading().await?, filter, offset, limit).await
    }

    async fn write_audit(&self, rows: &[NewAuditRow]) -> Result<(), StoreError> {
        let mut transaction = self.begin_writing().await?;
        audit::write(&mut transaction, rows).await?;
        transaction.end().await
    }

    async fn create_sessions(
        &self,
        gate: &Gate,
        sessions: &[StoredSession],
        limit: SessionLimit,
        audit: &[NewAuditRow],
    ) -> Result<Committed<EndedSessions>, StoreError> {
        sessions::create(self.begin_writing().await?, gate, sessions, limit, audit).await
    }

    async fn close_session(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        audit: &[NewAuditRow],
    ) -> Result<Committed<Vec<TokenDigest>>, StoreError> {
        sessions::close(self.begin_writing().await?, gate, digest, audit).await
    }

    async fn end_sessions(
        &self,
        gate: &Gate,
        person: &PersonId,
        used_after: Timestamp,
        opened_after: Timestamp,
        audit: Option<NewAuditRow>,
    ) -> Result<Committed<EndedSessions>, StoreError> {
        sessions::end_all(self.begin_writing().await?, gate, person, used_after, opened_after, audit).await
    }

    async fn update_claims(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<Committed<Vec<StoredSession>>, StoreError> {
        sessions::update_claims(self.begin_writing().await?, gate, digest, claims, checked_at).await
    }

    async fn record_person(
        &self,
        gate: &Gate,
        person: &StoredPerson,
        max_people: u32,
    ) -> Result<Committed<RecordedPerson>, StoreError> {
        people::record(self.begin_writing().await?, gate, person, max_people).await
    }

    async fn end_person(
        &self,
        gate: &Gate,
        person: &PersonId,
        now: Timestamp,
        unless_opened_after: Option<Timestamp>,
    ) -> Result<Committed<Option<(i64, StoredPerson)>>, StoreError> {
        people::end(self.begin_writing().await?, gate, person, now, unless_opened_after).await
    }

    async fn end_idle_people(
        &self,
        gate: &Gate,
        now: Timestamp,
        seen_until: Timestamp,
        limit: u32,
    ) -> Result<Committed<Vec<(i64, StoredPerson)>>, StoreError> {
        people::end_idle(self.begin_writing().await?, gate, now, seen_until, limit).await
    }

    async fn secret(
        &self,
        name: &str,
        new: &[u8; SECRET_BYTES],
        now: Timestamp,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreError> {
        if let Some(known) = attempts::known_secret(self.begin_reading().await?, name).await? {
            return Ok(known);
        }
        attempts::make_secret(self.begin_writing().await?, name, new, now).await
    }

    async fn use_state(&self, state: &TokenDigest, now: Timestamp) -> Result<bool, StoreError> {
        attempts::use_state(self.begin_writing().await?, state, now).await
    }

    fn take_over(&self, url: &StoreUrl) -> Result<(), UrlError> {
        self.replace_url(url)
    }

    async fn accept_history(&self, gate: &Gate, audit: &[NewAuditRow]) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.begin_writing().await?;
        transaction.execute(transaction.sql().accept_history, &[]).await?;
        audit::write(&mut transaction, audit).await?;
        transaction.commit(gate, (), false).await
    }

    async fn close(&self) {
        self.close_connections().await;
    }
}

/// The number of rows that come before a page, as the databases take it.
fn offset_value(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}
