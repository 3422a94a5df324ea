//! Keys: creating, importing, changing, rotating, revoking, deleting, listing and finding them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::super::list::{
    BulkRevocation, FoundKey, KeyFilter, KeyOrder, ListPage, ListPosition, MAX_BULK, NumberedPage,
};
use super::super::rows::{self, KeyRow};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{ChangeError, Committed, Gate, ImportError, NewKey, Rotation, StoreError, StoreFailure};
use super::{accounts, audit, offset_value};
use crate::keys::audit::{Action, NewAuditRow};
use crate::keys::edit::{Changed, EditKey, EditProblem};
use crate::keys::name::folded;
use crate::keys::{
    Account, Author, GrantCheck, Key, KeyOwner, MAX_KEYS_OF_PERSON, Privileges, Status, StoredKey,
};
use crate::token::TokenDigest;

/// Creates a key.  Name, quota and what its maker may give are checked under the lock of all changes.
pub async fn create(
    mut transaction: StoreTransaction,
    gate: &Gate,
    new: &NewKey,
    quota: Option<u64>,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<StoredKey>, ChangeError> {
    let owner = &new.request.owner;
    let account = account_of(&mut transaction, owner).await?;
    grant_check(&privileges_of_new(new, account.as_ref()))?;
    transaction.lock(gate).await?;
    check_name(&mut transaction, &new.request.name, owner, None, new.created_at).await?;
    check_quota(&mut transaction, quota, 1).await?;
    let stored = insert(&mut transaction, new, new.created_at).await?;
    // An allow block may speak of the id that it got.
    grant_check(&Privileges::of_key(&stored.key, account.as_ref()))?;
    let row = NewAuditRow::of(author, Action::KEY_CREATED, new.created_at)
        .key(&Changed::created(&stored.key), account.as_ref());
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, stored, true).await?)
}

/// Inserts keys whose secrets were made elsewhere: all of them or none.
pub async fn import(
    mut transaction: StoreTransaction,
    gate: &Gate,
    new: &[NewKey],
    quota: Option<u64>,
    author: &Author,
    now: Timestamp,
) -> Result<Committed<Vec<StoredKey>>, ImportError> {
    let mut accounts = Vec::with_capacity(new.len());
    for (index, new) in new.iter().enumerate() {
        let account = account_of(&mut transaction, &new.request.owner).await;
        accounts.push(account.map_err(|error| ImportError::at(index, error))?);
    }
    transaction.lock(gate).await.map_err(ImportError::of_all)?;
    check_quota(&mut transaction, quota, new.len() as u64).await.map_err(ImportError::of_all)?;
    let mut imported = Vec::with_capacity(new.len());
    for (index, new) in new.iter().enumerate() {
        let sql = transaction.sql();
        let is_known = transaction.exists(sql.keys.knows_digest, &values![&new.digest]).await;
        if is_known.map_err(ImportError::of_all)? {
            return Err(ImportError::at(index, ChangeError::KnownDigest));
        }
        let name = &new.request.name;
        let is_free = check_name(&mut transaction, name, &new.request.owner, None, now).await;
        is_free.map_err(|error| ImportError::at(index, error))?;
        let stored = insert(&mut transaction, new, now).await;
        imported.push(stored.map_err(|error| ImportError::at(index, error))?);
    }
    let rows: Vec<NewAuditRow> = imported
        .iter()
        .zip(&accounts)
        .map(|(stored, account)| {
            NewAuditRow::of(author, Action::KEY_IMPORTED, now)
                .key(&Changed::created(&stored.key), account.as_ref())
        })
        .collect();
    audit::write(&mut transaction, &rows).await.map_err(ImportError::of_all)?;
    let is_change = !imported.is_empty();
    transaction.commit(gate, imported, is_change).await.map_err(ImportError::of_all)
}

/// Changes a key.  What it can do after the change is what its manager gives.
pub async fn edit(
    mut transaction: StoreTransaction,
    gate: &Gate,
    id: i64,
    edit: &EditKey,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
    let (before, account) = lock_key(&mut transaction, id, author).await?;
    let after = edit.apply(&before.key, now)?;
    grant_check(&Privileges::of_key(&before.key, account.as_ref()))?;
    grant_check(&Privileges::of_key(&after, account.as_ref()))?;
    transaction.lock(gate).await?;
    if folded(&after.name) != folded(&before.key.name) {
        check_name(&mut transaction, &after.name, &after.owner, Some(id), now).await?;
    }
    let sql = transaction.sql();
    transaction.execute(&sql.keys.update, &rows::changed_key_values(&after)).await?;
    let after = read(&mut transaction, id).await?;
    let changed = Changed::edited(&before.key, &after.key);
    let row = NewAuditRow::of(author, Action::KEY_CHANGED, now).key(&changed, account.as_ref());
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, Changed::edited(before, after), true).await?)
}

/// Replaces a key's secret.
pub async fn rotate(
    mut transaction: StoreTransaction,
    gate: &Gate,
    rotation: &Rotation,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
    let &Rotation { id, ref digest, now, .. } = rotation;
    let (before, account) = lock_key(&mut transaction, id, author).await?;
    match before.key.status(now) {
        Status::Live => {}
        Status::Disabled => return Err(ChangeError::Disabled),
        Status::Expired | Status::Revoked => return Err(EditProblem::Dead.into()),
    }
    let (expires_at, until) = rotation.lives(&before.key);
    let after = Key { expires_at, ..before.key.clone() };
    grant_check(&Privileges::of_key(&after, account.as_ref()))?;
    let sql = transaction.sql();
    let values = values![id, until, digest, expires_at];
    transaction.execute(&sql.keys.rotate, &values).await?;
    let after = read(&mut transaction, id).await?;
    let changed = Changed::edited(&before.key, &after.key);
    let row = NewAuditRow::of(author, Action::KEY_ROTATED, now).key(&changed, account.as_ref());
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, Changed::edited(before, after), true).await?)
}

/// Revokes a key and deletes its previous secret.  A revoked key stays as it is.
pub async fn revoke(
    mut transaction: StoreTransaction,
    gate: &Gate,
    id: i64,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Changed<StoredKey>>, ChangeError> {
    let (before, account) = lock_key(&mut transaction, id, author).await?;
    grant_check(&Privileges::of_key(&before.key, account.as_ref()))?;
    if before.key.revoked_at.is_some() {
        let unchanged = Changed::edited(before.clone(), before);
        return Ok(transaction.commit(gate, unchanged, false).await?);
    }
    let sql = transaction.sql();
    let values = values![rows::ids_text(&[id]), now, author.id.as_str()];
    transaction.execute(&sql.keys.revoke, &values).await?;
    let after = read(&mut transaction, id).await?;
    let changed = Changed::edited(&before.key, &after.key);
    let row = NewAuditRow::of(author, Action::KEY_REVOKED, now).key(&changed, account.as_ref());
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, Changed::edited(before, after), true).await?)
}

/// Revokes the keys that are wanted and not dead yet: all of them, or none.  Gives them as they are then.
pub async fn revoke_many(
    mut transaction: StoreTransaction,
    gate: &Gate,
    wanted: &BulkRevocation,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Vec<StoredKey>>, ChangeError> {
    let sql = transaction.sql();
    let (found, parameters) = sql.keys.lock_for_revocation(&wanted.filter, now);
    let found: Vec<KeyRow> = transaction.rows(&found, &parameters).await?;
    if found.len() > MAX_BULK {
        return Err(ChangeError::TooManyKeys);
    }
    let before: Vec<StoredKey> = found.into_iter().filter_map(rows::key).collect();
    let accounts = accounts_of(&mut transaction, &before).await?;
    let account_of = |key: &Key| accounts.get(&key.owner.account()?);
    for stored in &before {
        grant_check(&Privileges::of_key(&stored.key, account_of(&stored.key)))?;
    }
    if wanted.is_dry_run || before.is_empty() {
        return Ok(transaction.commit(gate, before, false).await?);
    }
    let ids: Vec<i64> = before.iter().map(|stored| stored.key.id).collect();
    let values = values![rows::ids_text(&ids), now, author.id.as_str()];
    transaction.execute(&sql.keys.revoke, &values).await?;
    let after: Vec<KeyRow> = transaction.rows(&sql.keys.by_ids(), &values![rows::ids_text(&ids)]).await?;
    let after: Vec<StoredKey> = after.into_iter().filter_map(rows::key).collect();
    let rows: Vec<NewAuditRow> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| {
            NewAuditRow::of(author, Action::KEY_REVOKED, now)
                .key(&Changed::edited(&before.key, &after.key), account_of(&after.key))
        })
        .collect();
    audit::write(&mut transaction, &rows).await?;
    Ok(transaction.commit(gate, after, true).await?)
}

/// Deletes a key.
pub async fn delete(
    mut transaction: StoreTransaction,
    gate: &Gate,
    id: i64,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Key>, ChangeError> {
    let (before, account) = lock_key(&mut transaction, id, author).await?;
    grant_check(&Privileges::of_key(&before.key, account.as_ref()))?;
    transaction.execute("DELETE FROM api_keys WHERE id = $1", &values![id]).await?;
    let deleted = Changed::deleted(&before.key);
    let row = NewAuditRow::of(author, Action::KEY_DELETED, now).key(&deleted, account.as_ref());
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, before.key, true).await?)
}

/// The first keys after a position.
pub async fn list_after(
    mut transaction: StoreTransaction,
    filter: &KeyFilter,
    after: &ListPosition,
) -> Result<ListPage, StoreError> {
    let (sql, values) = transaction.sql().keys.list_after(filter, &after.name, after.id);
    let rows: Vec<KeyRow> = transaction.rows(&sql, &values).await?;
    transaction.end().await?;
    Ok(rows::list_page(rows))
}

/// At most `limit` keys after the first `offset` ones, and the number of all.
pub async fn list_page(
    mut transaction: StoreTransaction,
    filter: &KeyFilter,
    order: KeyOrder,
    offset: u64,
    limit: u32,
) -> Result<NumberedPage, StoreError> {
    let (sql, values) = transaction.sql().keys.count(filter);
    let total = transaction.number(&sql, &values).await?;
    let (sql, values) = transaction.sql().keys.list_page(filter, order, offset_value(offset), limit);
    let rows: Vec<KeyRow> = transaction.rows(&sql, &values).await?;
    transaction.end().await?;
    Ok(NumberedPage { keys: rows::keys(rows), total: total.unsigned_abs() })
}

/// The first live keys of an id above `after`, with their digests.
pub async fn export_after(
    mut transaction: StoreTransaction,
    after: i64,
    now: Timestamp,
) -> Result<Vec<StoredKey>, StoreError> {
    let sql = transaction.sql();
    let rows: Vec<KeyRow> = transaction.rows(&sql.keys.export, &values![after, now]).await?;
    transaction.end().await?;
    Ok(rows.into_iter().filter_map(rows::key).collect())
}

/// One key.
pub async fn get(mut transaction: StoreTransaction, id: i64) -> Result<Option<Key>, StoreError> {
    let sql = transaction.sql();
    let row: Option<KeyRow> = transaction.row(&sql.keys.by_id, &values![id]).await?;
    transaction.end().await?;
    Ok(row.and_then(rows::key).map(|stored| stored.key))
}

/// The key of a secret.
pub async fn find_secret(
    mut transaction: StoreTransaction,
    digest: &TokenDigest,
) -> Result<Option<FoundKey>, StoreError> {
    let sql = transaction.sql();
    let row: Option<KeyRow> = transaction.row(&sql.keys.by_digest, &values![digest]).await?;
    transaction.end().await?;
    let found = row.and_then(rows::key);
    Ok(found.map(|stored| FoundKey { is_replaced: stored.digest != *digest, key: stored.key }))
}

/// Expires unused keys, each with a row in the audit.
pub async fn expire_idle(
    mut transaction: StoreTransaction,
    now: Timestamp,
    used_until: Timestamp,
    limit: u32,
) -> Result<Vec<Key>, StoreError> {
    let sql = transaction.sql();
    let values = values![now, used_until, limit];
    let rows: Vec<KeyRow> = transaction.rows(&sql.keys.expire_idle, &values).await?;
    let expired = rows::keys(rows);
    let rows: Vec<NewAuditRow> = expired
        .iter()
        .map(|key| {
            let row =
                NewAuditRow { at: now, action: Action::KEY_IDLE.0.to_owned(), ..NewAuditRow::default() };
            row.key(&Changed::created(key), None)
        })
        .collect();
    audit::write(&mut transaction, &rows).await?;
    transaction.end().await?;
    Ok(expired)
}

/// The key of an id, and its account, both locked.  Keys that are not visible to the author are not found.
async fn lock_key(
    transaction: &mut StoreTransaction,
    id: i64,
    author: &Author,
) -> Result<(StoredKey, Option<Account>), ChangeError> {
    let sql = transaction.sql();
    // The owner of a key never changes, and an account's row is locked before the rows of its keys.
    let row: Option<KeyRow> = transaction.row(&sql.keys.by_id, &values![id]).await?;
    let owner = row.and_then(rows::key).ok_or(ChangeError::NotFound)?.key.owner;
    if !author.sees(&owner) {
        return Err(ChangeError::NotFound);
    }
    let account = match account_of(transaction, &owner).await {
        Err(ChangeError::AccountNotFound) => return Err(ChangeError::NotFound),
        account => account?,
    };
    let row: Option<KeyRow> = transaction.row(&sql.keys.lock, &values![id]).await?;
    let stored = row.and_then(rows::key).ok_or(ChangeError::NotFound)?;
    Ok((stored, account))
}

/// The account of a key, locked against changes until the transaction ends.
async fn account_of(
    transaction: &mut StoreTransaction,
    owner: &KeyOwner,
) -> Result<Option<Account>, ChangeError> {
    match owner.account() {
        None => Ok(None),
        Some(id) => accounts::share(transaction, id).await?.map(Some).ok_or(ChangeError::AccountNotFound),
    }
}

/// The accounts of these keys, by their ids.
async fn accounts_of(
    transaction: &mut StoreTransaction,
    keys: &[StoredKey],
) -> Result<HashMap<i64, Account>, StoreError> {
    let mut ids: Vec<i64> = keys.iter().filter_map(|stored| stored.key.owner.account()).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let accounts = accounts::read_all(transaction, &ids).await?;
    Ok(accounts.into_iter().map(|account| (account.id, account)).collect())
}

fn privileges_of_new<'k>(new: &'k NewKey, account: Option<&'k Account>) -> Privileges<'k> {
    let request = &new.request;
    Privileges {
        owner: &request.owner,
        key_id: None,
        key_name: Some(&request.name),
        account_name: account.map(|account| &*account.name),
        role: account.map_or(request.role, |account| Some(account.role)),
        actor: account.map_or(&request.actor, |account| &account.actor),
        expires_at: request.expires_at,
    }
}

async fn check_quota(
    transaction: &mut StoreTransaction,
    quota: Option<u64>,
    more: u64,
) -> Result<(), ChangeError> {
    let Some(quota) = quota else {
        return Ok(());
    };
    let stored = transaction.number("SELECT count(*) FROM api_keys", &[]).await?.unsigned_abs();
    if stored.saturating_add(more) > quota { Err(ChangeError::QuotaReached) } else { Ok(()) }
}

/// Checks that no other live key of this owner has the name.
async fn check_name(
    transaction: &mut StoreTransaction,
    name: &str,
    owner: &KeyOwner,
    id: Option<i64>,
    now: Timestamp,
) -> Result<(), ChangeError> {
    let sql = transaction.sql();
    let person = owner.person();
    let values = values![
        folded(name),
        now,
        owner.account(),
        person.map(|person| person.source.as_str()),
        person.map(|person| &*person.subject),
        id,
    ];
    let is_taken = transaction.exists(&sql.keys.name_taken, &values).await?;
    if is_taken { Err(ChangeError::NameTaken) } else { Ok(()) }
}

/// Inserts a key whose name is free.  The lock of all changes is held.
async fn insert(
    transaction: &mut StoreTransaction,
    new: &NewKey,
    now: Timestamp,
) -> Result<StoredKey, ChangeError> {
    let sql = transaction.sql();
    if let Some(person) = new.request.owner.person() {
        let values = values![now, person.source.as_str(), &*person.subject];
        let live = transaction.number(&sql.keys.count_of_person, &values).await?;
        if live >= i64::from(MAX_KEYS_OF_PERSON) {
            return Err(ChangeError::PersonQuotaReached);
        }
    }
    let row: Option<KeyRow> = transaction.row(&sql.keys.insert, &rows::new_key_values(new)).await?;
    Ok(row.and_then(rows::key).ok_or(StoreError(StoreFailure::UnreadableRow))?)
}

async fn read(transaction: &mut StoreTransaction, id: i64) -> Result<StoredKey, ChangeError> {
    let sql = transaction.sql();
    let row: Option<KeyRow> = transaction.row(&sql.keys.by_id, &values![id]).await?;
    row.and_then(rows::key).ok_or(ChangeError::NotFound)
}
