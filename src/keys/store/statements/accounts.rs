//! The statements about service accounts.

use super::super::list::AccountFilter;
use super::super::rows::{ACCOUNT_COLUMNS, AccountRow, Kind};
use super::super::value::Value;
use super::keys::escaped;
use super::{Dialect, NAMED};
use crate::keys::name::folded;
use crate::keys::store::source::MAX_PAGE;

/// Those of accounts.
pub struct AccountStatements {
    dialect: Dialect,
    columns: String,
    /// The next accounts with an id above `$1`.
    pub page: String,
    /// The accounts that entries of the change log name.
    pub changed: String,
    /// The account of id `$1`.
    pub by_id: String,
    /// The same, locked against changes until the transaction ends.
    pub share: String,
    /// The same, locked.
    pub lock: String,
    /// The account of the folded name `$1`.
    pub by_name: String,
    /// A row where an account other than `$2` has the folded name `$1`.
    pub name_taken: &'static str,
    /// A row where a deleted account had the folded name `$1`, as the audit says.
    pub name_was_used: &'static str,
    /// Inserts the values of `ACCOUNT_COLUMNS` and gives the row.
    pub insert: String,
    /// Writes what can be changed of the account of id `$1`: name `$2`, folded `$3`, description `$4`, role `$5`, actor
    /// `$6`, policies `$7`, since when it is disabled `$8`.
    pub update: String,
    /// The ids of the keys of the account `$1`, in order and locked.
    pub lock_keys: String,
    /// The accounts of the ids in the JSON array `$1`.
    pub by_ids: String,
}

impl AccountStatements {
    pub fn new(dialect: Dialect) -> Self {
        let columns = dialect.select(AccountRow::COLUMNS);
        let account = &columns;
        let values = dialect.parameters(AccountRow::COLUMNS, &ACCOUNT_COLUMNS);
        let new = ACCOUNT_COLUMNS.join(", ");
        let by_id = format!("SELECT {account} FROM api_accounts WHERE id = $1");
        let (for_update, for_share) = (dialect.for_update(), dialect.for_share());
        Self {
            dialect,
            page: format!("SELECT {account} FROM api_accounts WHERE id > $1 ORDER BY id LIMIT {MAX_PAGE}"),
            changed: format!("SELECT {account} FROM api_accounts WHERE id IN (SELECT account_id {NAMED})"),
            share: format!("{by_id}{for_share}"),
            lock: format!("{by_id}{for_update}"),
            by_id,
            by_name: format!("SELECT {account} FROM api_accounts WHERE folded_name = $1"),
            name_taken: "SELECT CAST(1 AS BIGINT) FROM api_accounts \
                         WHERE folded_name = $1 AND id <> coalesce(CAST($2 AS BIGINT), 0)",
            name_was_used: "SELECT CAST(1 AS BIGINT) FROM api_audit WHERE folded_name = $1 LIMIT 1",
            insert: format!("INSERT INTO api_accounts ({new}) VALUES ({values}) RETURNING {account}"),
            update: format!(
                "UPDATE api_accounts SET name = $2, folded_name = $3, description = $4, role = $5, actor = {}, \
                 policies = {}, disabled_at = {} WHERE id = $1",
                dialect.parameter(Kind::Json, 6),
                dialect.parameter(Kind::Json, 7),
                dialect.parameter(Kind::Time, 8)
            ),
            lock_keys: format!("SELECT id FROM api_keys WHERE account_id = $1 ORDER BY id{for_update}"),
            by_ids: format!("SELECT {account} FROM api_accounts WHERE id IN ({})", dialect.ids(1)),
            columns,
        }
    }

    /// So many accounts after the first ones, by the bytes of names; each with the number of its keys that are live at
    /// an instant.
    pub fn list(
        &self,
        filter: &AccountFilter,
        now: jiff::Timestamp,
        offset: i64,
        limit: u32,
    ) -> (String, Vec<Value>) {
        let (conditions, mut values) = self.conditions(filter, now);
        values.extend([limit.into(), offset.into()]);
        let by_name = self.dialect.by_bytes("name");
        let live = self.dialect.is_live(1);
        let sql = format!(
            "SELECT {columns}, coalesce(live_keys, 0) AS live_keys FROM api_accounts LEFT JOIN ( \
                 SELECT account_id AS keys_of, count(*) AS live_keys FROM api_keys \
                 WHERE account_id IS NOT NULL AND {live} GROUP BY account_id) AS live ON keys_of = id \
             WHERE {conditions} ORDER BY {by_name}, id LIMIT ${} OFFSET ${}",
            values.len() - 1,
            values.len(),
            columns = self.columns
        );
        (sql, values)
    }

    /// The number of such accounts.
    pub fn count(&self, filter: &AccountFilter, now: jiff::Timestamp) -> (String, Vec<Value>) {
        let (conditions, values) = self.conditions(filter, now);
        (format!("SELECT count(*) FROM api_accounts WHERE {conditions}"), values)
    }

    fn conditions(&self, filter: &AccountFilter, now: jiff::Timestamp) -> (String, Vec<Value>) {
        let mut values = vec![Value::from(now)];
        // The instant is used, so that the database knows its type.
        let mut all = vec![format!("{} IS NOT NULL", self.dialect.parameter(Kind::Time, 1))];
        if let Some(query) = &filter.query {
            values.push(format!("%{}%", escaped(&folded(query))).into());
            all.push(format!("folded_name LIKE ${} ESCAPE '!'", values.len()));
        }
        if filter.is_disabled {
            all.push("disabled_at IS NOT NULL".to_owned());
        }
        if filter.has_expired_keys {
            all.push(format!(
                "EXISTS (SELECT 1 FROM api_keys WHERE account_id = api_accounts.id AND revoked_at IS NULL \
                 AND expires_at <= {})",
                self.dialect.parameter(Kind::Time, 1)
            ));
        }
        (all.join(" AND "), values)
    }
}
