//! Service accounts: creating, changing, deleting and listing them.

use jiff::Timestamp;

use super::super::list::{AccountFilter, AccountList};
use super::super::rows::{self, AccountRow, ListedAccountRow};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{ChangeError, Committed, Gate, StoreError, StoreFailure};
use super::{audit, offset_value};
use crate::keys::audit::{Action, NewAuditRow};
use crate::keys::edit::{Changed, EditAccount};
use crate::keys::name::folded;
use crate::keys::{Account, Author, CreateAccount, GrantCheck, KeyOwner, Privileges};

/// Creates an account.  The name of a deleted one is not given again while the audit remembers it.
pub async fn create(
    mut transaction: StoreTransaction,
    gate: &Gate,
    new: &CreateAccount,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Account>, ChangeError> {
    grant_check(&Privileges {
        owner: &KeyOwner::Account(0),
        key_id: None,
        key_name: None,
        account_name: Some(&new.name),
        role: Some(new.role),
        actor: &new.actor,
        expires_at: None,
    })?;
    transaction.lock(gate).await?;
    check_name(&mut transaction, &new.name, None).await?;
    let sql = transaction.sql();
    let values = rows::new_account_values(new, &author.id, now);
    let row: Option<AccountRow> = transaction.row(&sql.accounts.insert, &values).await?;
    let account = row.and_then(rows::account).ok_or(StoreError(StoreFailure::UnreadableRow))?;
    let row = NewAuditRow::of(author, Action::ACCOUNT_CREATED, now).account(&Changed::created(&account));
    audit::write(&mut transaction, &[row]).await?;
    Ok(transaction.commit(gate, account, true).await?)
}

/// Changes an account, and with it what each of its keys can do.
pub async fn edit(
    mut transaction: StoreTransaction,
    gate: &Gate,
    id: i64,
    edit: &EditAccount,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<Changed<Account>>, ChangeError> {
    let before = lock(&mut transaction, id).await?;
    let after = edit.apply(&before, now);
    let owner = KeyOwner::Account(id);
    grant_check(&Privileges::of_account(&before, &owner))?;
    grant_check(&Privileges::of_account(&after, &owner))?;
    transaction.lock(gate).await?;
    if folded(&after.name) != folded(&before.name) {
        check_name(&mut transaction, &after.name, Some(id)).await?;
    }
    let sql = transaction.sql();
    transaction.execute(&sql.accounts.update, &rows::changed_account_values(&after)).await?;
    let after = read(&mut transaction, id).await?.ok_or(ChangeError::AccountNotFound)?;
    let changed = Changed::edited(&before, &after);
    let row = NewAuditRow::of(author, Action::ACCOUNT_CHANGED, now).account(&changed);
    // The name that it had is not given again: policies may speak of it.
    let freed = (folded(&after.name) != folded(&before.name)).then(|| folded(&before.name));
    audit::write_about(&mut transaction, &[row], freed.as_deref()).await?;
    Ok(transaction.commit(gate, Changed::edited(before, after), true).await?)
}

/// Deletes an account and its keys.  Gives it, and the ids of the keys.
pub async fn delete(
    mut transaction: StoreTransaction,
    gate: &Gate,
    id: i64,
    now: Timestamp,
    author: &Author,
    grant_check: &GrantCheck<'_>,
) -> Result<Committed<(Account, Vec<i64>)>, ChangeError> {
    let account = lock(&mut transaction, id).await?;
    let owner = KeyOwner::Account(id);
    grant_check(&Privileges::of_account(&account, &owner))?;
    let sql = transaction.sql();
    let keys: Vec<(i64,)> = transaction.rows(&sql.accounts.lock_keys, &values![id]).await?;
    let keys: Vec<i64> = keys.into_iter().map(|(id,)| id).collect();
    transaction.execute("DELETE FROM api_keys WHERE account_id = $1", &values![id]).await?;
    transaction.execute("DELETE FROM api_accounts WHERE id = $1", &values![id]).await?;
    let row = NewAuditRow::of(author, Action::ACCOUNT_DELETED, now)
        .account(&Changed::deleted(&account))
        .count(keys.len());
    audit::write_about(&mut transaction, &[row], Some(&folded(&account.name))).await?;
    Ok(transaction.commit(gate, (account, keys), true).await?)
}

/// A page of the accounts.
pub async fn list(
    mut transaction: StoreTransaction,
    filter: &AccountFilter,
    now: Timestamp,
    offset: u64,
    limit: u32,
) -> Result<AccountList, StoreError> {
    let (sql, values) = transaction.sql().accounts.count(filter, now);
    let total = transaction.number(&sql, &values).await?;
    let (sql, values) = transaction.sql().accounts.list(filter, now, offset_value(offset), limit);
    let rows: Vec<ListedAccountRow> = transaction.rows(&sql, &values).await?;
    transaction.end().await?;
    Ok(AccountList { accounts: rows::listed_accounts(rows), total: total.unsigned_abs() })
}

/// One account.
pub async fn get(mut transaction: StoreTransaction, id: i64) -> Result<Option<Account>, StoreError> {
    let account = read(&mut transaction, id).await?;
    transaction.end().await?;
    Ok(account)
}

/// The account of a name.
pub async fn named(mut transaction: StoreTransaction, name: &str) -> Result<Option<Account>, StoreError> {
    let sql = transaction.sql();
    let row: Option<AccountRow> = transaction.row(&sql.accounts.by_name, &values![folded(name)]).await?;
    transaction.end().await?;
    Ok(row.and_then(rows::account))
}

/// The accounts of these ids.
pub async fn of_ids(mut transaction: StoreTransaction, ids: &[i64]) -> Result<Vec<Account>, StoreError> {
    let accounts = read_all(&mut transaction, ids).await?;
    transaction.end().await?;
    Ok(accounts)
}

/// The account of an id, locked against changes until the transaction ends.
pub async fn share(transaction: &mut StoreTransaction, id: i64) -> Result<Option<Account>, StoreError> {
    let sql = transaction.sql();
    let row: Option<AccountRow> = transaction.row(&sql.accounts.share, &values![id]).await?;
    Ok(row.and_then(rows::account))
}

/// The accounts of these ids.
pub async fn read_all(transaction: &mut StoreTransaction, ids: &[i64]) -> Result<Vec<Account>, StoreError> {
    let sql = transaction.sql();
    let rows: Vec<AccountRow> = transaction.rows(&sql.accounts.by_ids, &values![rows::ids_text(ids)]).await?;
    Ok(rows.into_iter().filter_map(rows::account).collect())
}

async fn lock(transaction: &mut StoreTransaction, id: i64) -> Result<Account, ChangeError> {
    let sql = transaction.sql();
    let row: Option<AccountRow> = transaction.row(&sql.accounts.lock, &values![id]).await?;
    row.and_then(rows::account).ok_or(ChangeError::AccountNotFound)
}

async fn read(transaction: &mut StoreTransaction, id: i64) -> Result<Option<Account>, StoreError> {
    let sql = transaction.sql();
    let row: Option<AccountRow> = transaction.row(&sql.accounts.by_id, &values![id]).await?;
    Ok(row.and_then(rows::account))
}

/// Checks that no other account has the name, and that no deleted one had it.
async fn check_name(
    transaction: &mut StoreTransaction,
    name: &str,
    id: Option<i64>,
) -> Result<(), ChangeError> {
    let sql = transaction.sql();
    if transaction.exists(sql.accounts.name_taken, &values![folded(name), id]).await? {
        return Err(ChangeError::AccountNameTaken);
    }
    if transaction.exists(sql.accounts.name_was_used, &values![folded(name)]).await? {
        return Err(ChangeError::AccountNameWasUsed);
    }
    Ok(())
}
