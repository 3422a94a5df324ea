//! The SQL that both databases share, written for each from the columns of [`rows`](super::rows).

use super::rows::{ChangeRow, Column, KeyRow, Kind, NEW_KEY_COLUMNS, SessionRow};

/// One of the two databases.
#[derive(Clone, Copy)]
pub(super) enum Dialect {
    Sqlite,
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "the build has one database"))]
    Postgres,
}

impl Dialect {
    /// The expressions that read columns, separated by commas.
    pub fn expressions(self, columns: &[Column]) -> String {
        self.list(columns, |expression, _| expression)
    }

    /// The same, each under the column's name.
    fn select(self, columns: &[Column]) -> String {
        self.list(
            columns,
            |expression, name| {
                if expression == name { expression } else { format!("{expression} AS {name}") }
            },
        )
    }

    fn list(self, columns: &[Column], item: impl Fn(String, &str) -> String) -> String {
        let items = columns.iter().map(|column| item(self.expression(column), column.name));
        items.collect::<Vec<_>>().join(", ")
    }

    fn expression(self, &Column { name, kind }: &Column) -> String {
        match (kind, self) {
            (Kind::Plain, _) | (Kind::Json | Kind::Time, Self::Sqlite) => name.to_owned(),
            (Kind::Json, Self::Postgres) => format!("{name}::text"),
            // SQLite's hex makes an empty text of NULL.
            (Kind::Digest, Self::Sqlite) => format!("nullif(hex({name}), '')"),
            (Kind::Digest, Self::Postgres) => format!("encode({name}, 'hex')"),
            (Kind::Time, Self::Postgres) => format!("floor(extract(epoch FROM {name}))::bigint"),
        }
    }

    /// The parameter of this number, for a value of a column.
    fn parameter(self, kind: Kind, number: usize) -> String {
        match (kind, self) {
            (_, Self::Sqlite) | (Kind::Plain | Kind::Digest, Self::Postgres) => format!("${number}"),
            (Kind::Json, Self::Postgres) => format!("${number}::json"),
            (Kind::Time, Self::Postgres) => format!("to_timestamp(${number})"),
        }
    }
}

/// The statements that differ between the databases by their columns alone.
pub(super) struct Statements {
    /// Every key.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite gives them in pages"))]
    pub keys: String,
    /// Every key, by the bytes of its name and then by id.
    pub keys_by_name: String,
    /// The key of id `$1`.
    pub key_by_id: String,
    /// The keys that changed after revision `$1` and still exist.
    pub changed_keys: String,
    /// Inserts the values of `NEW_KEY_COLUMNS` and gives the key's row.
    pub insert_key: String,
    /// Every session.
    pub sessions: String,
    /// The sessions that changed after revision `$1` and still exist.
    pub changed_sessions: String,
    /// The keys and sessions that changed after revision `$1`.
    pub changes: String,
}

impl Statements {
    pub fn new(dialect: Dialect) -> Self {
        let key = dialect.select(KeyRow::COLUMNS);
        let session = dialect.select(SessionRow::COLUMNS);
        let change = dialect.select(ChangeRow::COLUMNS);
        let name = match dialect {
            Dialect::Sqlite => "name",
            // SQLite compares bytes.  PostgreSQL compares by the database's locale, unless a statement says otherwise.
            Dialect::Postgres => "name COLLATE \"C\"",
        };
        let values = NEW_KEY_COLUMNS.iter().zip(1..).map(|(name, number)| {
            let column = KeyRow::COLUMNS.iter().find(|column| column.name == *name);
            dialect.parameter(column.map_or(Kind::Plain, |column| column.kind), number)
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let new = NEW_KEY_COLUMNS.join(", ");
        Self {
            keys: format!("SELECT {key} FROM api_keys"),
            keys_by_name: format!("SELECT {key} FROM api_keys ORDER BY {name}, id"),
            key_by_id: format!("SELECT {key} FROM api_keys WHERE id = $1"),
            changed_keys: format!(
                "SELECT {key} FROM api_keys WHERE id IN (SELECT key_id FROM api_changes WHERE revision > $1)"
            ),
            insert_key: format!("INSERT INTO api_keys ({new}) VALUES ({values}) RETURNING {key}"),
            sessions: format!("SELECT {session} FROM api_sessions"),
            changed_sessions: format!(
                "SELECT {session} FROM api_sessions \
                 WHERE digest IN (SELECT session FROM api_changes WHERE revision > $1)"
            ),
            changes: format!("SELECT DISTINCT {change} FROM api_changes WHERE revision > $1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_database_reads_and_writes_columns_in_its_own_way() {
        let sqlite = Statements::new(Dialect::Sqlite);
        let postgres = Statements::new(Dialect::Postgres);
        assert_eq!(
            sqlite.changes,
            "SELECT DISTINCT key_id, nullif(hex(session), '') AS session FROM api_changes WHERE revision > $1"
        );
        assert_eq!(
            postgres.changes,
            "SELECT DISTINCT key_id, encode(session, 'hex') AS session FROM api_changes WHERE revision > $1"
        );
        let insert =
            "INSERT INTO api_keys (name, role, actor, policies, digest, created_at, created_by, expires_at)";
        for (statements, values) in [
            (&sqlite, "$1, $2, $3, $4, $5, $6, $7, $8"),
            (&postgres, "$1, $2, $3::json, $4::json, $5, to_timestamp($6), $7, to_timestamp($8)"),
        ] {
            let expected = format!("{insert} VALUES ({values}) RETURNING id, name, role, actor");
            assert!(statements.insert_key.starts_with(&expected), "{}", statements.insert_key);
        }
    }

    #[test]
    fn every_column_of_a_new_key_is_a_column_of_keys() {
        for name in NEW_KEY_COLUMNS {
            assert!(KeyRow::COLUMNS.iter().any(|column| column.name == name), "{name}");
        }
    }
}
