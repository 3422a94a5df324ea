//! The migrations that create and change a store's schema: numbered SQL, built into the binary.

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

use super::{OpenError, StoreError, StoreFailure};

/// Migrations in order: number, name, SQL.
pub(super) type Numbered = [(i64, &'static str, &'static str)];

/// SQLite's.
pub(super) const SQLITE: &Numbered = &[
    (1, "keys and sessions", include_str!("sqlite_0001.sql")),
    (2, "the order of sessions", include_str!("sqlite_0002.sql")),
    (3, "the history of the store", include_str!("sqlite_0003.sql")),
];
/// PostgreSQL's.
#[cfg(feature = "postgres")]
pub(super) const POSTGRES: &Numbered = &[
    (1, "keys and sessions", include_str!("postgres_0001.sql")),
    (2, "the order of sessions", include_str!("postgres_0002.sql")),
    (3, "the history of the store", include_str!("postgres_0003.sql")),
];

/// The number of the newest migration: that of the schema which this program knows.
pub const SCHEMA: i64 = SQLITE[SQLITE.len() - 1].0;

/// Why a store's schema is not up to date.
#[derive(Debug)]
pub(super) enum SchemaError {
    /// It is not a schema of this version: [`OpenError::Newer`] or [`OpenError::Foreign`].
    Mismatch(OpenError),
    /// The store did not answer, or answered with an error.
    Database(sqlx::Error),
}

/// Brings a store's schema up to date.
///
/// After an error the connection may still hold the lock of migrations: close it.
pub(super) async fn run<C: Migrate>(numbered: &Numbered, connection: &mut C) -> Result<(), SchemaError> {
    let migrations = numbered.iter().map(|&(number, name, sql)| {
        Migration::new(number, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // The database may be shared with a program that uses the same library.
    migrator.dangerous_set_table_name("api_migrations");
    let known = numbered.last().map_or(0, |&(number, ..)| number);
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) if found > known => {
            SchemaError::Mismatch(OpenError::Newer { found, known })
        }
        MigrateError::VersionMissing(number) | MigrateError::VersionMismatch(number) => {
            SchemaError::Mismatch(OpenError::Foreign(number))
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            SchemaError::Database(error)
        }
        other => SchemaError::Database(sqlx::Error::Migrate(Box::new(other))),
    })
}

impl From<SchemaError> for StoreError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Mismatch(error) => Self(StoreFailure::Schema(Box::new(error))),
            SchemaError::Database(error) => error.into(),
        }
    }
}
