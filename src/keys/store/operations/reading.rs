//! What the follower reads, and the deletions that it makes.

use jiff::Timestamp;

use super::super::StoreError;
use super::super::rows::{self, AccountRow, ChangedRows, LookRow, PersonRow, SessionRow};
use super::super::source::{
    AccountPage, ChangePage, Cursor, LogPosition, Look, PersonPage, Revision, SessionPage,
};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use crate::token::TokenDigest;

/// Which revision the store has, seen from a cursor.
pub async fn look(mut transaction: StoreTransaction, since: Option<&Cursor>) -> Result<Look, StoreError> {
    let revision = since.map_or(0, |since| since.revision.0);
    let sql = transaction.sql();
    let row: Option<LookRow> = transaction.row(&sql.look, &values![revision]).await?;
    transaction.end().await?;
    Ok(row.ok_or(super::super::StoreFailure::UnreadableRow)?.into_look(since))
}

/// The changes from a position in the log up to a revision.
pub async fn changes(
    mut transaction: StoreTransaction,
    from: LogPosition,
    until: Revision,
) -> Result<ChangePage, StoreError> {
    let sql = transaction.sql();
    let pruned = transaction.number("SELECT pruned FROM api_revision", &[]).await?;
    let part = values![from.revision.0, from.entry, until.0];
    let log = transaction.rows(&sql.changes, &part).await?;
    let mut changed = ChangedRows { log, ..ChangedRows::default() };
    let Some(last) = rows::last_entry(&changed.log) else {
        transaction.end().await?;
        return Ok(changed.into_page(pruned));
    };
    let part = values![from.revision.0, from.entry, last.revision.0, last.entry];
    if changed.log.iter().any(|row| row.key_id.is_some()) {
        changed.keys = transaction.rows(&sql.keys.changed, &part).await?;
    }
    if changed.log.iter().any(|row| row.session.is_some()) {
        changed.sessions = transaction.rows(&sql.sessions.changed, &part).await?;
    }
    if changed.log.iter().any(|row| row.person_id.is_some()) {
        changed.people = transaction.rows(&sql.people.changed, &part).await?;
    }
    if changed.log.iter().any(|row| row.account_id.is_some()) {
        changed.accounts = transaction.rows(&sql.accounts.changed, &part).await?;
    }
    transaction.end().await?;
    Ok(changed.into_page(pruned))
}

/// The sessions with a digest above this.
pub async fn sessions(
    mut transaction: StoreTransaction,
    after: Option<TokenDigest>,
) -> Result<SessionPage, StoreError> {
    let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
    let sql = transaction.sql();
    let page: Vec<SessionRow> = transaction.rows(&sql.sessions.page, &values![after.as_slice()]).await?;
    transaction.end().await?;
    Ok(rows::session_page(page))
}

/// The people whose records have an id above this.
pub async fn people(mut transaction: StoreTransaction, after: i64) -> Result<PersonPage, StoreError> {
    let sql = transaction.sql();
    let page: Vec<PersonRow> = transaction.rows(&sql.people.page, &values![after]).await?;
    transaction.end().await?;
    Ok(rows::person_page(page))
}

/// The service accounts with an id above this.
pub async fn accounts(mut transaction: StoreTransaction, after: i64) -> Result<AccountPage, StoreError> {
    let sql = transaction.sql();
    let page: Vec<AccountRow> = transaction.rows(&sql.accounts.page, &values![after]).await?;
    transaction.end().await?;
    Ok(rows::account_page(page))
}

/// Deletes at most `limit` rows that ended at an instant or before, by a statement that takes the two.
pub async fn forget(
    mut transaction: StoreTransaction,
    sql: &str,
    ended_until: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let deleted = transaction.execute(sql, &values![ended_until, limit]).await?;
    transaction.end().await?;
    Ok(deleted)
}
