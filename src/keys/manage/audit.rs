//! The audit in the store, and the history that an Admin accepts.

use super::super::audit::{Action, AuditFilter, AuditPage, NewAuditRow};
use super::super::store::StoreError;
use super::super::{Author, Keys, OPERATION_TIMEOUT, with_timeout};
use super::{LIST_TIMEOUT, storable};

impl Keys {
    /// At most `limit` rows after the first `offset` ones, the newest first, and the number of all.
    ///
    /// # Errors
    /// The store failed.
    pub async fn audit_rows(
        &self,
        filter: &AuditFilter,
        offset: u64,
        limit: u32,
    ) -> Result<AuditPage, StoreError> {
        let rows = with_timeout(LIST_TIMEOUT, self.store.audit_rows(filter, offset, limit)).await;
        rows.inspect_err(|error| self.read_failed("read the audit", error))
    }

    /// Writes rows that belong to no change, such as those of denials.
    ///
    /// # Errors
    /// The store failed, or is read-only: the rows are only in the audit log.
    pub async fn write_audit(&self, rows: &[NewAuditRow]) -> Result<(), StoreError> {
        self.check_writable()?;
        let written = with_timeout(OPERATION_TIMEOUT, self.store.write_audit(rows)).await;
        written.inspect_err(|error| self.write_failed("write the audit", error))
    }

    /// Accepts the store's history after it was rewritten: digests that this and other processes denied since, because
    /// they knew them to be dead, are valid again where the store shows them as live.  It takes effect at the next
    /// reading of the store.
    ///
    /// # Errors
    /// The store failed.
    pub async fn accept_history(&self, author: &Author) -> Result<(), StoreError> {
        let row = NewAuditRow::of(&storable(author), Action::HISTORY_ACCEPTED, self.clock.now());
        let rows = [row];
        let accepted = self.change(self.store.accept_history(&self.gate, &rows), |()| {});
        accepted.await.inspect_err(|error| self.write_failed("accept the history of the store", error))
    }
}
