//! The migrations that create and change a store's schema: numbered SQL, built into the binary.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;

use super::{OpenError, StoreError, StoreFailure};

/// Migrations in order: number, name, SQL.
pub(super) type Numbered = [(i64, &'static str, &'static str)];

/// SQLite's.
pub(super) const SQLITE: &Numbered = &[
    (1, "keys and sessions", include_str!("sqlite_0001.sql")),
    (2, "the order of sessions", include_str!("sqlite_0002.sql")),
    (3, "the history of the store", include_str!("sqlite_0003.sql")),
    (4, "people", include_str!("sqlite_0004.sql")),
    (5, "attempts to log in", include_str!("sqlite_0005.sql")),
    (6, "owners and the audit", include_str!("sqlite_0006.sql")),
];
/// PostgreSQL's.
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: &Numbered = &[
    (1, "keys and sessions", include_str!("postgres_0001.sql")),
    (2, "the order of sessions", include_str!("postgres_0002.sql")),
    (3, "the history of the store", include_str!("postgres_0003.sql")),
    (4, "people", include_str!("postgres_0004.sql")),
    (5, "attempts to log in", include_str!("postgres_0005.sql")),
    (6, "owners and the audit", include_str!("postgres_0006.sql")),
];

/// The number of the newest migration: that of the schema which this program knows.
pub const SCHEMA: i64 = SQLITE[SQLITE.len() - 1].0;

/// The table of the migrations that were applied.  The database may be shared with a program that uses the same
/// library, so it is not the library's own.
const TABLE: &str = "api_migrations";

/// The schema of a store before it was brought up to date, and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaChange {
    /// The newest migration that was applied before; 0 for an empty store.
    pub from: i64,
    /// The newest one now: the same where nothing was to do.
    pub to: i64,
}

impl SchemaChange {
    /// What bringing this schema up to date comes to.  A newer one stays as it is.
    pub(super) fn since(from: i64) -> Self {
        Self { from, to: SCHEMA.max(from) }
    }

    /// Logs that the schema of a store that was there before is another one now.
    pub(super) fn log(self) {
        let Self { from, to } = self;
        if (1..to).contains(&from) {
            tracing::info!(before = from, schema = to, "the key store's schema was brought up to date");
        }
    }
}

/// Why a store's schema is not up to date.
#[derive(Debug)]
pub(super) enum SchemaError {
    /// It cannot be used, or not be brought up to date.
    Mismatch(OpenError),
    /// The migration of this number failed.
    Step(i64, sqlx::Error),
    /// The store did not answer, or answered with an error.
    Database(sqlx::Error),
}

/// The migrations, each with its checksum.
pub(super) fn all(numbered: &Numbered) -> Vec<Migration> {
    let migrations = numbered.iter().map(|&(number, name, sql)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    migrations.collect()
}

/// The newest of the migrations that were applied (number and checksum, in order); 0 before the first.
///
/// # Errors
/// [`OpenError::Foreign`]: they are not ours.
pub(super) fn compare(numbered: &Numbered, applied: &[(i64, Vec<u8>)]) -> Result<i64, SchemaError> {
    let known = all(numbered);
    let newest = applied.last().map_or(0, |&(number, _)| number);
    let foreign = |number| Err(SchemaError::Mismatch(OpenError::Foreign(number)));
    for (number, checksum) in applied.iter().filter(|(number, _)| *number <= SCHEMA) {
        if !known.iter().any(|ours| ours.version == *number && *ours.checksum == **checksum) {
            return foreign(*number);
        }
    }
    // They are applied in their order, none is left out.
    let missing = known
        .iter()
        .find(|ours| ours.version < newest && !applied.iter().any(|(number, _)| *number == ours.version));
    missing.map_or(Ok(newest), |ours| foreign(ours.version))
}

/// Whether this version may use a schema that a newer one made.
///
/// # Errors
/// [`OpenError::Newer`].
pub(super) fn may_read(newest: i64, oldest_reader: i64) -> Result<(), SchemaError> {
    if oldest_reader > SCHEMA {
        return Err(SchemaError::Mismatch(OpenError::Newer { found: newest, known: SCHEMA }));
    }
    tracing::warn!(
        schema = newest,
        known = SCHEMA,
        "a newer version has changed the key store's schema; this version continues to use the parts that it knows"
    );
    Ok(())
}

/// Brings the schema of a SQLite file up to date.
pub(super) async fn run(
    numbered: &Numbered,
    connection: &mut SqliteConnection,
) -> Result<SchemaChange, SchemaError> {
    connection.ensure_migrations_table(TABLE).await.map_err(failure)?;
    let applied = connection.list_applied_migrations(TABLE).await.map_err(failure)?;
    let applied: Vec<_> = applied.into_iter().map(|one| (one.version, one.checksum.into_owned())).collect();
    let newest = compare(numbered, &applied)?;
    if newest > SCHEMA {
        let sql = "SELECT oldest_reader FROM api_revision";
        let oldest_reader: i64 =
            sqlx::query_scalar(sql).fetch_one(&mut *connection).await.map_err(SchemaError::Database)?;
        may_read(newest, oldest_reader)?;
        return Ok(SchemaChange::since(newest));
    }
    let mut migrator = Migrator::with_migrations(all(numbered));
    migrator.dangerous_set_table_name(TABLE);
    migrator.run_direct(None, connection, false).await.map_err(failure)?;
    Ok(SchemaChange::since(newest))
}

fn failure(error: MigrateError) -> SchemaError {
    match error {
        MigrateError::Execute(error) => SchemaError::Database(error),
        MigrateError::ExecuteMigration(error, number) => SchemaError::Step(number, error),
        other => SchemaError::Database(sqlx::Error::Migrate(Box::new(other))),
    }
}

impl From<SchemaError> for StoreError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Mismatch(error) => Self(StoreFailure::Schema(Box::new(error))),
            SchemaError::Step(number, error) => Self(StoreFailure::migration(number, error.into())),
            SchemaError::Database(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_migrations_were_applied_and_whether_they_are_ours() {
        let ours: Vec<_> =
            all(SQLITE).iter().map(|one| (one.version, one.checksum.clone().into_owned())).collect();
        let other = |number| (number, vec![7]);
        let cases: [(Vec<(i64, Vec<u8>)>, Result<i64, i64>); 7] = [
            (vec![], Ok(0)),
            (ours[..2].to_vec(), Ok(2)),
            (ours.clone(), Ok(SCHEMA)),
            ([ours.clone(), vec![other(SCHEMA + 1)]].concat(), Ok(SCHEMA + 1)),
            (vec![ours[0].clone(), other(2)], Err(2)),
            (vec![other(0), ours[0].clone()], Err(0)),
            (vec![ours[0].clone(), other(SCHEMA + 1)], Err(2)),
        ];
        for (applied, expected) in cases {
            let found = compare(SQLITE, &applied).map_err(|error| match error {
                SchemaError::Mismatch(OpenError::Foreign(number)) => number,
                error => panic!("{error:?}"),
            });
            assert_eq!(found, expected, "{:?}", applied.iter().map(|(number, _)| number).collect::<Vec<_>>());
        }
    }
}
