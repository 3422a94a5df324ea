//! The schema of a database: which it is, and how it comes up to date.
//!
//! A process that finds it up to date takes no lock and needs no right but to the rows.

use std::time::{Duration, Instant};

use sqlx::error::DatabaseError;
use sqlx::migrate::Migration;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor, Row};

use super::super::OpenError;
use super::super::migrations::{self, POSTGRES, SCHEMA, SchemaError};
use super::connections::{unnamed, unnamed_as, unnamed_scalar};

/// How long to wait for another process that migrates.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The newest migration that was applied; 0 before the first.
///
/// # Errors
/// The schema is not one that this version can use.
async fn applied(connection: &mut PgConnection) -> Result<i64, SchemaError> {
    // By way of a table: a connection sees new tables when it locks one, and this one may have waited for another
    // process to make ours.
    let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE oid = to_regclass('api_migrations'))";
    let is_there: bool =
        unnamed_scalar(sql).fetch_one(&mut *connection).await.map_err(SchemaError::Database)?;
    if !is_there {
        return Ok(0);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        unnamed_as("SELECT version, checksum FROM api_migrations ORDER BY version")
            .fetch_all(&mut *connection)
            .await
            .map_err(SchemaError::Database)?;
    let newest = migrations::compare(POSTGRES, &applied)?;
    if newest > SCHEMA {
        let oldest_reader: i64 = unnamed_scalar("SELECT oldest_reader FROM api_revision")
            .fetch_one(&mut *connection)
            .await
            .map_err(SchemaError::Database)?;
        migrations::may_read(newest, oldest_reader)?;
    }
    Ok(newest)
}

/// The newest migration that was applied; 0 before the first.  Nothing is changed, and no lock is taken.
///
/// # Errors
/// The schema is not one that this version can use, or the database failed.
pub async fn look(connection: &mut PgConnection) -> Result<i64, SchemaError> {
    connection.execute(sqlx::raw_sql("BEGIN READ ONLY")).await.map_err(SchemaError::Database)?;
    let newest = applied(connection).await?;
    connection.execute(sqlx::raw_sql("COMMIT")).await.map_err(SchemaError::Database)?;
    Ok(newest)
}

/// Brings a schema up to date whose newest migration is this one, in one transaction.
///
/// After an error the transaction is still open: close the connection.
///
/// # Errors
/// The schema is not one that this version can use, another process holds the lock of migrations, the role may not
/// migrate, or the database failed.
pub async fn migrate(connection: &mut PgConnection, newest: i64) -> Result<(), SchemaError> {
    // One message of the simple protocol is a transaction of its own.
    let row = connection.fetch_one(sqlx::raw_sql("SELECT current_database()")).await;
    let database: String = row.and_then(|row| row.try_get(0)).map_err(SchemaError::Database)?;
    // The lock of the versions that let sqlx migrate: one of them may start at the same moment.
    let lock = 0x3d32_ad9e * i64::from(crc32fast::hash(database.as_bytes()));
    match apply_all(connection, lock).await {
        Err(SchemaError::Database(error) | SchemaError::Step(_, error)) if is_forbidden(&error) => {
            Err(SchemaError::Mismatch(OpenError::MayNotMigrate { found: newest, known: SCHEMA }))
        }
        Err(SchemaError::Database(error)) => {
            let code = error.as_database_error().and_then(DatabaseError::code);
            match code.as_deref() {
                // lock_not_available
                Some("55P03") => Err(holder(connection, lock).await?.unwrap_or(SchemaError::Database(error))),
                Some(_) | None => Err(SchemaError::Database(error)),
            }
        }
        applied => applied,
    }
}

/// Whether the role in the URL may not do this.
fn is_forbidden(error: &sqlx::Error) -> bool {
    // insufficient_privilege
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("42501")
}

async fn apply_all(connection: &mut PgConnection, lock: i64) -> Result<(), SchemaError> {
    let seconds = LOCK_TIMEOUT.as_secs();
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '5s'; \
         SET LOCAL lock_timeout = '{seconds}s'"
    );
    connection.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await.map_err(SchemaError::Database)?;
    unnamed("SELECT pg_advisory_xact_lock($1)")
        .bind(lock)
        .execute(&mut *connection)
        .await
        .map_err(SchemaError::Database)?;
    // A longer wait for a table would block every later transaction on it.
    let sql = "SET LOCAL lock_timeout = '5s'";
    connection.execute(sqlx::raw_sql(sql)).await.map_err(SchemaError::Database)?;
    // Another process may have migrated meanwhile.
    let newest = applied(connection).await?;
    for migration in migrations::all(POSTGRES).into_iter().filter(|one| one.version > newest) {
        let number = migration.version;
        apply(connection, migration).await.map_err(|error| SchemaError::Step(number, error))?;
    }
    connection.execute(sqlx::raw_sql("COMMIT")).await.map_err(SchemaError::Database)?;
    Ok(())
}

async fn apply(connection: &mut PgConnection, migration: Migration) -> Result<(), sqlx::Error> {
    // The table of sqlx's own migrator, which older versions use.
    let sql = "CREATE TABLE IF NOT EXISTS api_migrations ( \
               version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
               installed_on TIMESTAMPTZ NOT NULL DEFAULT now(), success BOOLEAN NOT NULL, \
               checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)";
    connection.execute(sqlx::raw_sql(sql)).await?;
    let started = Instant::now();
    connection.execute(sqlx::raw_sql(migration.sql.clone())).await?;
    let sql = "INSERT INTO api_migrations (version, description, success, checksum, execution_time) \
               VALUES ($1, $2, true, $3, $4)";
    unnamed(sql)
        .bind(migration.version)
        .bind(migration.description.as_ref())
        .bind(migration.checksum.as_ref())
        .bind(i64::try_from(started.elapsed().as_nanos()).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// The rights on our tables that the role here does not have and that a server that writes needs, for each table such as
/// `INSERT, UPDATE ON api_keys`.
///
/// After an error the transaction is still open: close the connection.
///
/// # Errors
/// The database failed.
pub async fn missing_rights(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    // A right on the columns that we write may have been granted instead of one on the table.
    let sql = "SELECT format('%s ON %s', string_agg(rights.name, ', ' ORDER BY rights.name), tables.name) \
               FROM unnest(ARRAY['api_keys', 'api_sessions', 'api_people', 'api_changes', 'api_revision', \
                                 'api_accounts', 'api_secrets', 'api_used_states', 'api_audit']) AS tables (name), \
                    unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS rights (name) \
               WHERE CASE \
                   WHEN to_regclass(tables.name) IS NULL THEN false \
                   WHEN tables.name = 'api_audit' AND rights.name IN ('UPDATE', 'DELETE') THEN false \
                   WHEN rights.name = 'DELETE' THEN NOT has_table_privilege(tables.name, rights.name) \
                   ELSE NOT has_any_column_privilege(tables.name, rights.name) END \
               GROUP BY tables.name ORDER BY tables.name";
    connection.execute(sqlx::raw_sql("BEGIN READ ONLY")).await?;
    let missing = unnamed_scalar(sql).fetch_all(&mut *connection).await?;
    connection.execute(sqlx::raw_sql("COMMIT")).await?;
    Ok(missing)
}

/// Who holds the lock of migrations; `None` when it is free by now.
async fn holder(connection: &mut PgConnection, lock: i64) -> Result<Option<SchemaError>, SchemaError> {
    connection.execute(sqlx::raw_sql("ROLLBACK; BEGIN READ ONLY")).await.map_err(SchemaError::Database)?;
    let sql = "SELECT pid, coalesce(usename::text, '?') FROM pg_locks LEFT JOIN pg_stat_activity USING (pid) \
               WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND mode = 'ExclusiveLock' \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
               AND (classid::bigint << 32 | objid::bigint) = $1 LIMIT 1";
    let holder: Option<(i32, String)> =
        unnamed_as(sql).bind(lock).fetch_optional(&mut *connection).await.map_err(SchemaError::Database)?;
    connection.execute(sqlx::raw_sql("COMMIT")).await.map_err(SchemaError::Database)?;
    Ok(holder.map(|(pid, role)| SchemaError::Mismatch(OpenError::MigrationLock { pid, role })))
}
