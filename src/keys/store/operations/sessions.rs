//! Sessions: opening, ending and renewing them.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::rows::{self, DeletedSession, SessionRow};
use super::super::transaction::StoreTransaction;
use super::super::value::values;
use super::super::{Committed, EndedSessions, Gate, SessionLimit, StoreError};
use super::audit;
use crate::keys::StoredSession;
use crate::keys::audit::NewAuditRow;
use crate::person::PersonId;
use crate::token::TokenDigest;

/// Creates the sessions of one log-in, and ends the person's oldest ones beyond the limit.  Of how many log-ins ended the
/// rows of the audit say `count`.
pub async fn create(
    mut transaction: StoreTransaction,
    gate: &Gate,
    sessions: &[StoredSession],
    limit: SessionLimit,
    audit_rows: &[NewAuditRow],
) -> Result<Committed<EndedSessions>, StoreError> {
    let sql = transaction.sql();
    if let Some(StoredSession { person, .. }) = sessions.first() {
        let person = values![&*person.subject, person.source.as_str()];
        transaction.execute(&sql.sessions.lock_of_person, &person).await?;
    }
    transaction.lock(gate).await?;
    let mut ended = EndedSessions::default();
    for StoredSession { person, scope, .. } in sessions {
        let values = values![
            &*person.subject,
            person.source.as_str(),
            scope.as_str(),
            limit.used_after,
            limit.opened_after,
            limit.max_sessions.saturating_sub(1),
        ];
        let deleted: Vec<DeletedSession> = transaction.rows(&sql.sessions.end_oldest, &values).await?;
        let of_scope = rows::ended_sessions(&deleted);
        ended.digests.extend(of_scope.digests);
        ended.log_ins += of_scope.log_ins;
    }
    for session in sessions {
        transaction.execute(&sql.sessions.insert, &rows::session_values(session)).await?;
    }
    audit::write(&mut transaction, audit_rows).await?;
    transaction.commit(gate, ended, !sessions.is_empty()).await
}

/// Deletes a session and the others of its log-in.
pub async fn close(
    mut transaction: StoreTransaction,
    gate: &Gate,
    digest: &TokenDigest,
    audit_rows: &[NewAuditRow],
) -> Result<Committed<Vec<TokenDigest>>, StoreError> {
    let sql = transaction.sql();
    let closed: Vec<(Vec<u8>,)> = transaction.rows(&sql.sessions.close, &values![digest]).await?;
    if !closed.is_empty() {
        audit::write(&mut transaction, audit_rows).await?;
    }
    let digests = rows::digests(closed.iter().map(|(digest,)| digest));
    transaction.commit(gate, digests, !closed.is_empty()).await
}

/// Deletes all sessions of a person.  The row of the audit counts the log-ins that ended.
pub async fn end_all(
    mut transaction: StoreTransaction,
    gate: &Gate,
    person: &PersonId,
    used_after: Timestamp,
    opened_after: Timestamp,
    audit_row: Option<NewAuditRow>,
) -> Result<Committed<EndedSessions>, StoreError> {
    let sql = transaction.sql();
    let values = values![&*person.subject, person.source.as_str(), used_after, opened_after];
    let deleted: Vec<DeletedSession> = transaction.rows(&sql.sessions.end_all, &values).await?;
    let ended = rows::ended_sessions(&deleted);
    if let Some(row) = audit_row {
        audit::write(&mut transaction, &[row.count(ended.log_ins)]).await?;
    }
    transaction.commit(gate, ended, !deleted.is_empty()).await
}

/// Writes what a person's source said of them into the sessions of a log-in.
pub async fn update_claims(
    mut transaction: StoreTransaction,
    gate: &Gate,
    digest: &TokenDigest,
    claims: &Map<String, Value>,
    checked_at: Timestamp,
) -> Result<Committed<Vec<StoredSession>>, StoreError> {
    let sql = transaction.sql();
    let values = values![digest, rows::object_text(claims), checked_at];
    let updated: Vec<SessionRow> = transaction.rows(&sql.sessions.update_claims, &values).await?;
    let is_change = !updated.is_empty();
    transaction.commit(gate, rows::sessions(updated), is_change).await
}
