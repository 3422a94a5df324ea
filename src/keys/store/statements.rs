//! The SQL that both databases share, written for each from the columns of [`rows`](super::rows).

use super::rows::{ChangeRow, Column, KeyRow, Kind, LookRow, NEW_KEY_COLUMNS, SessionRow};
use crate::keys::store::source::MAX_PAGE;

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

    /// The condition that a key is live at the instant of this parameter.  Instants are whole seconds: a fraction, which
    /// only somebody else can have written, does not count.
    fn is_live(self, number: usize) -> String {
        let expires_later = match self {
            Self::Sqlite => format!("expires_at > ${number}"),
            Self::Postgres => format!("expires_at >= to_timestamp(${number}) + interval '1 second'"),
        };
        format!("revoked_at IS NULL AND (expires_at IS NULL OR {expires_later})")
    }
}

/// The statements that differ between the databases by their columns alone.
pub(super) struct Statements {
    /// Where the store stands, seen from revision `$1`.
    pub look: String,
    /// The next keys with an id above `$1`.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "SQLite gives them as JSON"))]
    pub keys: String,
    /// The next keys after that of name `$2` and id `$3`, by the bytes of names and then by id: those that are live at
    /// `$1`, or every one where that is NULL.
    pub list_after: String,
    /// `$2` such keys after the first `$3`.
    pub list_page: String,
    /// The number of such keys.
    pub list_count: String,
    /// Lets the first `$3` keys expire at `$1` that are live then and were last used, or else created, at `$2` or
    /// before, and gives their rows.
    pub expire_idle: String,
    /// The key of id `$1`.
    pub key_by_id: String,
    /// The next entries of the change log behind entry `$2` of revision `$1`, up to revision `$3`.
    pub changes: String,
    /// The keys that entries name, from behind entry `$2` of revision `$1` up to entry `$4` of revision `$3`.
    pub changed_keys: String,
    /// The sessions that they name.
    pub changed_sessions: String,
    /// Inserts the values of `NEW_KEY_COLUMNS` and gives the key's row.
    pub insert_key: String,
    /// The next sessions with a digest above `$1`.
    pub sessions: String,
}

impl Statements {
    pub fn new(dialect: Dialect) -> Self {
        let key = dialect.select(KeyRow::COLUMNS);
        let session = dialect.select(SessionRow::COLUMNS);
        let change = dialect.select(ChangeRow::COLUMNS);
        let look = dialect.expressions(LookRow::COLUMNS);
        let logged_mark = "SELECT log.mark FROM api_changes log \
                           WHERE log.revision = $1 AND log.mark IS NOT NULL LIMIT 1";
        // Only a copy of another database may be behind.
        let (identity, is_copy, age) = match dialect {
            Dialect::Sqlite => ("identity", "0", "NULL"),
            Dialect::Postgres => (
                "identity::text",
                "pg_is_in_recovery()::int::bigint",
                "CASE WHEN pg_is_in_recovery() \
                 THEN floor(extract(epoch FROM clock_timestamp() - stamped_at) * 1000)::bigint END",
            ),
        };
        let state = format!(
            "SELECT {identity} AS identity, value, mark, pruned, pruned_mark, accepted, oldest_reader, \
             {is_copy} AS is_copy, {age} AS age_ms, ({logged_mark}) AS logged_mark FROM api_revision"
        );
        let named = "FROM api_changes WHERE revision >= $1 AND (revision, seq) > ($1, $2) \
                     AND revision <= $3 AND (revision, seq) <= ($3, $4)";
        let name = match dialect {
            Dialect::Sqlite => "name",
            // SQLite compares bytes.  PostgreSQL compares by the database's locale, unless a statement says otherwise.
            Dialect::Postgres => "name COLLATE \"C\"",
        };
        let listed = format!("(CAST($1 AS BIGINT) IS NULL OR {})", dialect.is_live(1));
        let is_idle = {
            let used_until = dialect.parameter(Kind::Time, 2);
            format!("{} AND coalesce(last_used_at, created_at) <= {used_until}", dialect.is_live(1))
        };
        let expire = {
            let now = dialect.parameter(Kind::Time, 1);
            // A replaced secret never works longer than its key.
            format!(
                "UPDATE api_keys SET expires_at = {now}, \
                 previous_until = CASE WHEN previous_until > {now} THEN {now} ELSE previous_until END"
            )
        };
        let values = NEW_KEY_COLUMNS.iter().zip(1..).map(|(name, number)| {
            let column = KeyRow::COLUMNS.iter().find(|column| column.name == *name);
            dialect.parameter(column.map_or(Kind::Plain, |column| column.kind), number)
        });
        let values = values.collect::<Vec<_>>().join(", ");
        let new = NEW_KEY_COLUMNS.join(", ");
        Self {
            look: format!("SELECT {look} FROM ({state}) AS state"),
            keys: format!("SELECT {key} FROM api_keys WHERE id > $1 ORDER BY id LIMIT {MAX_PAGE}"),
            list_after: format!(
                "SELECT {key} FROM api_keys WHERE {listed} AND ({name}, id) > ($2, $3) \
                 ORDER BY {name}, id LIMIT {MAX_PAGE}"
            ),
            list_page: format!(
                "SELECT {key} FROM api_keys WHERE {listed} ORDER BY {name}, id LIMIT $2 OFFSET $3"
            ),
            list_count: format!("SELECT count(*) FROM api_keys WHERE {listed}"),
            expire_idle: match dialect {
                Dialect::Sqlite => format!(
                    "{expire} WHERE id IN (SELECT id FROM api_keys WHERE {is_idle} ORDER BY id LIMIT $3) \
                     RETURNING {key}"
                ),
                // Another process may do the same at this moment: each lets other keys expire.
                Dialect::Postgres => format!(
                    "WITH idle AS ( \
                         SELECT id AS idle_id FROM api_keys WHERE {is_idle} \
                         ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED \
                     ) {expire} FROM idle WHERE id = idle_id RETURNING {key}"
                ),
            },
            key_by_id: format!("SELECT {key} FROM api_keys WHERE id = $1"),
            changes: format!(
                "SELECT {change} FROM api_changes WHERE revision >= $1 AND (revision, seq) > ($1, $2) \
                 AND revision <= $3 ORDER BY revision, seq LIMIT {MAX_PAGE}"
            ),
            changed_keys: format!("SELECT {key} FROM api_keys WHERE id IN (SELECT key_id {named})"),
            changed_sessions: format!(
                "SELECT {session} FROM api_sessions WHERE digest IN (SELECT session {named})"
            ),
            insert_key: format!("INSERT INTO api_keys ({new}) VALUES ({values}) RETURNING {key}"),
            sessions: format!(
                "SELECT {session} FROM api_sessions WHERE digest > $1 ORDER BY digest LIMIT {MAX_PAGE}"
            ),
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
        let select = "SELECT revision, seq, key_id, ";
        assert!(sqlite.changes.starts_with(&format!("{select}nullif(hex(session), '') AS session FROM")));
        assert!(postgres.changes.starts_with(&format!("{select}encode(session, 'hex') AS session FROM")));
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
