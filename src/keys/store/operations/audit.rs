//! The audit: writing, reading and forgetting its rows.

use super::super::rows::{self, AuditRowColumns};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{ForgottenRows, StoreError};
use super::offset_value;
use crate::keys::audit::{AuditFilter, AuditPage, NewAuditRow};

/// Writes rows, in their order.
pub async fn write(transaction: &mut StoreTransaction, new: &[NewAuditRow]) -> Result<(), StoreError> {
    write_about(transaction, new, None).await
}

/// The same, with the folded name of an account that is not given again.
pub async fn write_about(
    transaction: &mut StoreTransaction,
    new: &[NewAuditRow],
    folded_name: Option<&str>,
) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let sql = transaction.sql();
    let rows = rows::new_audit_rows(new, folded_name);
    transaction.execute(&sql.audit.insert, &values![rows]).await?;
    Ok(())
}

/// A page, the newest rows first, and the number of all.
pub async fn page(
    mut transaction: StoreTransaction,
    filter: &AuditFilter,
    offset: u64,
    limit: u32,
) -> Result<AuditPage, StoreError> {
    let (sql, values) = transaction.sql().audit.count(filter);
    let total = transaction.number(&sql, &values).await?.unsigned_abs();
    let (sql, values) = transaction.sql().audit.page(filter, offset_value(offset), limit);
    let rows: Vec<AuditRowColumns> = transaction.rows(&sql, &values).await?;
    transaction.end().await?;
    Ok(AuditPage { rows: rows::audit_rows(rows), total })
}

/// Deletes at most `limit` rows that are not kept any more.
pub async fn forget(mut transaction: StoreTransaction, limit: u32) -> Result<ForgottenRows, StoreError> {
    let sql = transaction.sql();
    let deleted: Vec<(i64,)> = transaction.rows(&sql.audit.forget, &values![limit]).await?;
    transaction.end().await?;
    let excess = deleted.iter().filter(|(was_excess,)| *was_excess != 0).count() as u64;
    Ok(ForgottenRows { old: deleted.len() as u64 - excess, excess })
}
