//! The statements about the audit.

use super::super::rows::{AuditRowColumns, Kind};
use super::super::value::Value;
use super::Dialect;
use crate::keys::audit::{AuditFilter, MAX_ROWS, RETENTION_DAYS};

/// The columns of a new row with their types in PostgreSQL.  A row is an object of these members.
const NEW: [(&str, &str); 17] = [
    ("at", "bigint"),
    ("action", "text"),
    ("actor_id", "text"),
    ("credential", "text"),
    ("address", "text"),
    ("key_id", "bigint"),
    ("key_name", "text"),
    ("account_id", "bigint"),
    ("account_name", "text"),
    ("user_name", "text"),
    ("source", "text"),
    ("before", "json"),
    ("after", "json"),
    ("status", "bigint"),
    ("reason", "text"),
    ("count", "bigint"),
    ("folded_name", "text"),
];

/// Those of the audit.
pub struct AuditStatements {
    dialect: Dialect,
    columns: String,
    /// Inserts the rows of the JSON array `$1`, in their order.
    pub insert: String,
    /// Deletes at most `$1` of the oldest rows that are not kept, and gives of each 1 where it was not too old, but one too
    /// many, else 0.
    pub forget: String,
}

impl AuditStatements {
    pub fn new(dialect: Dialect) -> Self {
        let names = NEW.map(|(name, _)| name).join(", ");
        let insert = match dialect {
            Dialect::Sqlite => {
                let values = NEW.map(|(name, _)| format!("value ->> '{name}'")).join(", ");
                format!("INSERT INTO api_audit ({names}) SELECT {values} FROM json_each($1)")
            }
            Dialect::Postgres => {
                let types = NEW.map(|(name, kind)| format!("{name} {kind}")).join(", ");
                let values =
                    NEW.map(
                        |(name, _)| {
                            if name == "at" { "to_timestamp(at)".to_owned() } else { name.to_owned() }
                        },
                    );
                format!(
                    "INSERT INTO api_audit ({names}) SELECT {} FROM json_to_recordset($1::json) AS new ({types})",
                    values.join(", ")
                )
            }
        };
        let seconds = RETENTION_DAYS * 86_400;
        let forget = match dialect {
            Dialect::Sqlite => format!(
                "DELETE FROM api_audit WHERE id IN (SELECT id FROM api_audit WHERE at < unixepoch() - {seconds} \
                 OR id <= (SELECT max(id) FROM api_audit) - {MAX_ROWS} ORDER BY id LIMIT $1) \
                 RETURNING at >= unixepoch() - {seconds}"
            ),
            // Its two limits are written there, because a role that may not delete rows may run it.
            Dialect::Postgres => {
                "SELECT was_excess::int::bigint FROM api_forget_audit($1) AS gone (was_excess)".to_owned()
            }
        };
        Self { dialect, columns: dialect.select(AuditRowColumns::COLUMNS), insert, forget }
    }

    /// So many rows after the first ones, the newest first.
    pub fn page(&self, filter: &AuditFilter, offset: i64, limit: u32) -> (String, Vec<Value>) {
        let (conditions, mut values) = self.conditions(filter);
        values.extend([limit.into(), offset.into()]);
        let sql = format!(
            "SELECT {} FROM api_audit WHERE {conditions} ORDER BY id DESC LIMIT ${} OFFSET ${}",
            self.columns,
            values.len() - 1,
            values.len()
        );
        (sql, values)
    }

    /// The number of such rows.
    pub fn count(&self, filter: &AuditFilter) -> (String, Vec<Value>) {
        let (conditions, values) = self.conditions(filter);
        (format!("SELECT count(*) FROM api_audit WHERE {conditions}"), values)
    }

    fn conditions(&self, filter: &AuditFilter) -> (String, Vec<Value>) {
        let AuditFilter { from, to, by, key_id, key_name, account_id, account_name, action } = filter;
        let wanted: [(&str, Kind, Option<Value>); 8] = [
            ("at >=", Kind::Time, from.map(Into::into)),
            ("at <", Kind::Time, to.map(Into::into)),
            ("actor_id =", Kind::Plain, by.as_deref().map(Into::into)),
            ("key_id =", Kind::Plain, key_id.map(Into::into)),
            ("key_name =", Kind::Plain, key_name.as_deref().map(Into::into)),
            ("account_id =", Kind::Plain, account_id.map(Into::into)),
            ("account_name =", Kind::Plain, account_name.as_deref().map(Into::into)),
            ("action =", Kind::Plain, action.as_deref().map(Into::into)),
        ];
        let (mut all, mut values) = (vec!["1 = 1".to_owned()], Vec::new());
        for (condition, kind, value) in wanted {
            if let Some(value) = value {
                values.push(value);
                all.push(format!("{condition} {}", self.dialect.parameter(kind, values.len())));
            }
        }
        (all.join(" AND "), values)
    }
}
