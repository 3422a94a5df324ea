//! The SQL that both databases share, written for each from the columns of [`rows`](super::rows).

mod accounts;
mod audit;
mod keys;

use self::accounts::AccountStatements;
use self::audit::AuditStatements;
use self::keys::KeyStatements;
use super::rows::{
    ChangeRow, Column, Kind, LookRow, NEW_SESSION_COLUMNS, PERSON_COLUMNS, PersonRow, SessionRow,
};
use crate::keys::store::source::MAX_PAGE;

/// One of the two databases.
#[derive(Clone, Copy, PartialEq, Eq)]
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

    /// The parameters for a row's columns of these names, numbered from 1 and separated by commas.
    fn parameters(self, columns: &[Column], names: &[&str]) -> String {
        let parameters = names.iter().zip(1..).map(|(name, number)| {
            let column = columns.iter().find(|column| column.name == *name);
            self.parameter(column.map_or(Kind::Plain, |column| column.kind), number)
        });
        parameters.collect::<Vec<_>>().join(", ")
    }

    /// What locks the rows of a SELECT.  SQLite locks the whole file.
    fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE",
        }
    }

    /// What keeps others from changing the rows of a SELECT.
    fn for_share(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR SHARE",
        }
    }

    /// The ids in the JSON array of this parameter.
    fn ids(self, number: usize) -> String {
        match self {
            Self::Sqlite => format!("SELECT value FROM json_each(${number})"),
            Self::Postgres => format!("SELECT json_array_elements_text(${number}::json)::bigint"),
        }
    }

    /// A column that is compared by its bytes.
    fn by_bytes(self, column: &str) -> String {
        match self {
            Self::Sqlite => column.to_owned(),
            // SQLite compares bytes.  PostgreSQL compares by the database's locale, unless a statement says otherwise.
            Self::Postgres => format!("{column} COLLATE \"C\""),
        }
    }

    /// The same, and leaves out those that another transaction holds.
    fn for_update_skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// The condition that a key is live at the instant of this parameter.  Instants are whole seconds: a fraction,
    /// which only another program can have written, is ignored.
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
    /// Which revision the store has, seen from revision `$1`.
    pub look: String,
    /// The next entries of the change log behind entry `$2` of revision `$1`, up to revision `$3`.
    pub changes: String,
    /// Changes the number with which an operator accepts the history of the store.
    pub accept_history: &'static str,
    /// Takes the lock of all changes.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "a SQLite file is locked as a whole"))]
    pub lock_changes: &'static str,
    /// Those of keys.
    pub keys: KeyStatements,
    /// Those of service accounts.
    pub accounts: AccountStatements,
    /// Those of the audit.
    pub audit: AuditStatements,
    /// Those of sessions.
    pub sessions: SessionStatements,
    /// Those of people.
    pub people: PersonStatements,
    /// Those of attempts to log in.
    pub attempts: AttemptStatements,
}

/// The rows of a table that a part of the change log names: from behind entry `$2` of revision `$1` up to entry `$4` of
/// revision `$3`.
const NAMED: &str = "FROM api_changes WHERE revision >= $1 AND (revision, seq) > ($1, $2) \
                     AND revision <= $3 AND (revision, seq) <= ($3, $4)";

impl Statements {
    pub fn new(dialect: Dialect) -> Self {
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
        Self {
            look: format!("SELECT {look} FROM ({state}) AS state"),
            changes: format!(
                "SELECT {change} FROM api_changes WHERE revision >= $1 AND (revision, seq) > ($1, $2) \
                 AND revision <= $3 ORDER BY revision, seq LIMIT {MAX_PAGE}"
            ),
            accept_history: match dialect {
                Dialect::Sqlite => "UPDATE api_revision SET accepted = random()",
                Dialect::Postgres => "UPDATE api_revision SET accepted = api_random()",
            },
            lock_changes: "SELECT value FROM api_revision FOR UPDATE",
            keys: KeyStatements::new(dialect),
            accounts: AccountStatements::new(dialect),
            audit: AuditStatements::new(dialect),
            sessions: SessionStatements::new(dialect),
            people: PersonStatements::new(dialect),
            attempts: AttemptStatements::new(dialect),
        }
    }
}

/// Those of sessions.  Where rows are locked, it is in the order of digests, as everywhere.
pub(super) struct SessionStatements {
    /// The next sessions with a digest above `$1`.
    pub page: String,
    /// The sessions that entries of the change log name.
    pub changed: String,
    /// Inserts the values of `NEW_SESSION_COLUMNS`.
    pub insert: String,
    /// Locks the sessions of the person `$1` in the source `$2`.
    pub lock_of_person: String,
    /// Deletes the log-ins of a person's live sessions beyond the newest `$6`: of the person `$1` in the source `$2`,
    /// with the scope `$3`, last used after `$4` and opened after `$5`.  Gives of each session what `end_all` gives.
    pub end_oldest: String,
    /// Deletes the session of digest `$1` and the others of its log-in, and gives their digests.
    pub close: String,
    /// Deletes the sessions of the person `$1` in the source `$2`.  Gives of each its digest, that of its log-in, and
    /// whether it was last used after `$3` and opened after `$4`.
    pub end_all: String,
    /// Writes the claims `$2` and the instant `$3` of the check into the session of digest `$1` and the others of its
    /// log-in, unless a later check is written there, and gives their rows.
    pub update_claims: String,
}

impl SessionStatements {
    fn new(dialect: Dialect) -> Self {
        let session = dialect.select(SessionRow::COLUMNS);
        let for_update = dialect.for_update();
        let new = NEW_SESSION_COLUMNS.join(", ");
        let values = dialect.parameters(SessionRow::COLUMNS, &NEW_SESSION_COLUMNS);
        let offset = match dialect {
            Dialect::Sqlite => "LIMIT -1 OFFSET $6",
            Dialect::Postgres => "OFFSET $6",
        };
        let is_live = |used: usize, opened: usize| {
            let (used, opened) = (dialect.parameter(Kind::Time, used), dialect.parameter(Kind::Time, opened));
            format!("last_used_at > {used} AND created_at > {opened}")
        };
        let (live, was_live) = (is_live(4, 5), is_live(3, 4));
        // The digest of the administrator's session stands for a log-in, whether that session is still there or not.
        let log_in = "SELECT coalesce(parent, digest) FROM api_sessions WHERE digest = $1";
        let of_log_in = format!(
            "SELECT digest FROM api_sessions WHERE digest = ({log_in}) OR parent = ({log_in}) \
             ORDER BY digest{for_update}"
        );
        let (claims, checked_at) = (dialect.parameter(Kind::Json, 2), dialect.parameter(Kind::Time, 3));
        Self {
            page: format!(
                "SELECT {session} FROM api_sessions WHERE digest > $1 ORDER BY digest LIMIT {MAX_PAGE}"
            ),
            changed: format!("SELECT {session} FROM api_sessions WHERE digest IN (SELECT session {NAMED})"),
            insert: format!(
                "INSERT INTO api_sessions ({new}, opened_after) SELECT {values}, value FROM api_revision"
            ),
            lock_of_person: format!(
                "SELECT digest FROM api_sessions WHERE user_name = $1 AND source = $2 ORDER BY digest{for_update}"
            ),
            end_oldest: format!(
                "DELETE FROM api_sessions WHERE user_name = $1 AND source = $2 AND coalesce(parent, digest) IN ( \
                     SELECT coalesce(parent, digest) FROM api_sessions \
                     WHERE user_name = $1 AND source = $2 AND scope = $3 AND {live} \
                     ORDER BY opened_after DESC, created_at DESC, digest {offset}) \
                 RETURNING digest, coalesce(parent, digest), true"
            ),
            close: format!("DELETE FROM api_sessions WHERE digest IN ({of_log_in}) RETURNING digest"),
            end_all: format!(
                "DELETE FROM api_sessions WHERE digest IN ( \
                     SELECT digest FROM api_sessions WHERE user_name = $1 AND source = $2 \
                     ORDER BY digest{for_update}) \
                 RETURNING digest, coalesce(parent, digest), {was_live}"
            ),
            update_claims: format!(
                "UPDATE api_sessions SET claims = {claims}, checked_at = {checked_at} \
                 WHERE digest IN ({of_log_in}) AND checked_at <= {checked_at} RETURNING {session}"
            ),
        }
    }
}

/// Those of people.
pub(super) struct PersonStatements {
    /// The next people with an id above `$1`.
    pub page: String,
    /// The people that entries of the change log name.
    pub changed: String,
    /// The row of the person `$2` in the source `$1`, locked.
    pub find: String,
    /// The number of all.
    pub count: &'static str,
    /// Inserts the values of `PERSON_COLUMNS`, or writes them into the row of the same person, and gives the row.
    pub record: String,
    /// Writes that the person of id `$1` was seen at `$2`, unless that was within the last minute.
    pub see: String,
    /// Writes that the person `$2` in the source `$1` ended at `$3`, unless they have ended, and gives the row.
    pub end: String,
    /// The same, unless they have a session that was opened after `$4`.
    pub end_absent: String,
    /// Writes that the first `$3` people of directories and providers ended at `$1` who have not and were seen last at `$2` or
    /// before, and gives their rows.
    pub end_idle: String,
    /// Deletes `$1` people: of those that ended, and then of the others, those that did, or were seen, longest ago.
    /// Never the one of id `$2`.  Gives their ids.
    pub evict: String,
    /// Deletes the first `$2` people that ended at `$1` or before.
    pub forget: String,
}

impl PersonStatements {
    fn new(dialect: Dialect) -> Self {
        let person = dialect.select(PersonRow::COLUMNS);
        let for_update = dialect.for_update();
        let skip_locked = dialect.for_update_skip_locked();
        let columns = PERSON_COLUMNS.join(", ");
        let values = dialect.parameters(PersonRow::COLUMNS, &PERSON_COLUMNS);
        let time = |number| dialect.parameter(Kind::Time, number);
        let end = format!(
            "UPDATE api_people SET ended_at = {}, claims = NULL \
             WHERE source = $1 AND subject = $2 AND ended_at IS NULL",
            time(3)
        );
        let (later, minute_before) = match dialect {
            Dialect::Sqlite => ("max", "$2 - 60"),
            Dialect::Postgres => ("greatest", "to_timestamp($2 - 60)"),
        };
        Self {
            page: format!("SELECT {person} FROM api_people WHERE id > $1 ORDER BY id LIMIT {MAX_PAGE}"),
            changed: format!("SELECT {person} FROM api_people WHERE id IN (SELECT person_id {NAMED})"),
            find: format!("SELECT {person} FROM api_people WHERE source = $1 AND subject = $2{for_update}"),
            count: "SELECT count(*) FROM api_people",
            record: format!(
                "INSERT INTO api_people ({columns}) VALUES ({values}) \
                 ON CONFLICT (source, subject) DO UPDATE SET actor = excluded.actor, role = excluded.role, \
                 binding = excluded.binding, claims = excluded.claims, ended_at = excluded.ended_at, \
                 seen_at = {later}(api_people.seen_at, excluded.seen_at) RETURNING {person}"
            ),
            see: format!(
                "UPDATE api_people SET seen_at = {} WHERE id = $1 AND seen_at <= {minute_before}",
                time(2)
            ),
            end: format!("{end} RETURNING {person}"),
            end_absent: format!(
                "{end} AND NOT EXISTS (SELECT 1 FROM api_sessions s \
                     WHERE s.user_name = $2 AND s.source = $1 AND s.created_at > {}) RETURNING {person}",
                time(4)
            ),
            end_idle: format!(
                "WITH idle AS ( \
                     SELECT id FROM api_people WHERE source <> 'config' AND ended_at IS NULL AND seen_at <= {} \
                     ORDER BY id LIMIT $3{skip_locked} \
                 ) UPDATE api_people SET ended_at = {}, claims = NULL WHERE id IN (SELECT id FROM idle) \
                 RETURNING {person}",
                time(2),
                time(1)
            ),
            // In a subquery of the WHERE, PostgreSQL may run it more than once, and a LIMIT holds for each time.
            evict: format!(
                "WITH gone AS ( \
                     SELECT id FROM api_people WHERE id <> $2 \
                     ORDER BY ended_at IS NULL, ended_at, seen_at, id LIMIT $1{skip_locked} \
                 ) DELETE FROM api_people WHERE id IN (SELECT id FROM gone) RETURNING id"
            ),
            forget: format!(
                "WITH gone AS ( \
                     SELECT id FROM api_people WHERE ended_at <= {} ORDER BY id LIMIT $2{skip_locked} \
                 ) DELETE FROM api_people WHERE id IN (SELECT id FROM gone)",
                time(1)
            ),
        }
    }
}

/// Those of attempts to log in.
pub(super) struct AttemptStatements {
    /// The secret of the name `$1`.
    pub secret: &'static str,
    /// Inserts the secret `$2` of the name `$1`, made at `$3`, unless there is one of the name.
    pub make_secret: String,
    /// Inserts the state of the digest `$1`, used at `$2`, unless it is there.
    pub use_state: String,
    /// Deletes the first `$2` states that were used at `$1` or before.
    pub forget_states: String,
}

impl AttemptStatements {
    fn new(dialect: Dialect) -> Self {
        let time = |number| dialect.parameter(Kind::Time, number);
        let skip_locked = dialect.for_update_skip_locked();
        Self {
            secret: "SELECT value FROM api_secrets WHERE name = $1",
            make_secret: format!(
                "INSERT INTO api_secrets (name, value, created_at) VALUES ($1, $2, {}) ON CONFLICT (name) DO NOTHING",
                time(3)
            ),
            use_state: format!(
                "INSERT INTO api_used_states (digest, used_at) VALUES ($1, {}) ON CONFLICT (digest) DO NOTHING",
                time(2)
            ),
            forget_states: format!(
                "WITH gone AS ( \
                     SELECT digest FROM api_used_states WHERE used_at <= {} ORDER BY used_at LIMIT $2{skip_locked} \
                 ) DELETE FROM api_used_states WHERE digest IN (SELECT digest FROM gone)",
                time(1)
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
        let rest = " AS session, person_id, account_id";
        assert!(sqlite.changes.starts_with(&format!("{select}nullif(hex(session), ''){rest}")));
        assert!(postgres.changes.starts_with(&format!("{select}encode(session, 'hex'){rest}")));
        for (statements, values) in
            [(&sqlite, "$1, $2, $3, $4, $5, $6, $7"), (&postgres, "$1, $2, $3, $4, $5, $6::json, $7::json")]
        {
            let columns = "name, folded_name, description, account_id, role, actor, policies";
            let insert = &statements.keys.insert;
            assert!(insert.contains(&format!("({columns}, ")), "{insert}");
            assert!(insert.contains(&format!("VALUES ({values}, ")), "{insert}");
            assert!(insert.contains(" RETURNING id, name, "), "{insert}");
        }
    }

    #[test]
    fn every_column_of_a_new_row_is_a_column_of_its_table() {
        use super::super::rows::{ACCOUNT_COLUMNS, AccountRow, KeyRow, NEW_KEY_COLUMNS};
        let tables: [(&[&str], &[Column]); 4] = [
            (&NEW_KEY_COLUMNS, KeyRow::COLUMNS),
            (&ACCOUNT_COLUMNS, AccountRow::COLUMNS),
            (&NEW_SESSION_COLUMNS, SessionRow::COLUMNS),
            (&PERSON_COLUMNS, PersonRow::COLUMNS),
        ];
        for (names, columns) in tables {
            for name in names {
                // The folded form is written, and never read back.
                let is_column = columns.iter().any(|column| column.name == *name);
                assert!(is_column || *name == "folded_name", "{name}");
            }
        }
    }
}
