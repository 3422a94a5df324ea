//! Whether the `-wal` next to a file belongs to it.
//!
//! SQLite applies any `-wal` next to a file.  A backup that is put in the place of a file whose server was killed would
//! take over the other file's last changes: the restore would be undone, or the file destroyed.  So a file says, in the
//! table `api_file`, which file of the file system it was when a server opened it last.  A copy says the same and is
//! another one; a backup of ours says nothing.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::super::{OpenFailure, StoreFailure};
use super::file::{FileId, sidecar_path};

/// What a file says about which file it is.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// No program that notes it had it open.
    Unknown,
    /// No program opened it since it was written as a backup.
    Nowhere,
    /// This one.
    At(String),
}

/// Checks that the `-wal` next to a file, if there is one, belongs to it.  Nothing is changed, except the `-shm`.
///
/// Not while this process has the file open: it says what the file alone holds.
pub async fn check_wal(path: &Path, file: FileId) -> Result<(), OpenFailure> {
    let wal = sidecar_path(path, "-wal");
    let is_empty = std::fs::metadata(&wal).map_or(true, |metadata| metadata.len() == 0);
    let expected = Origin::At(file.to_string());
    if is_empty {
        return Ok(());
    }
    let alone = read(path, true).await;
    if alone.as_ref().is_ok_and(|alone| *alone == expected) {
        return Ok(());
    }
    match (alone, read(path, false).await) {
        // It is being noted right now, or was when the process was killed.
        (_, Ok(whole)) if whole == expected => Ok(()),
        // An older program wrote both.  The power may have failed while the file took over the -wal.
        (Ok(Origin::Unknown) | Err(_), Ok(Origin::Unknown)) => Ok(()),
        (Err(_), Err(failure)) => Err(OpenFailure::Store(failure)),
        (Ok(_) | Err(_), _) => Err(OpenFailure::FormerWal(wal)),
    }
}

/// What a file says, with or without its `-wal`.
async fn read(path: &Path, is_alone: bool) -> Result<Origin, StoreFailure> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(is_alone);
    let mut connection = options.disable_statement_logging().connect().await?;
    let read = origin_of(&mut connection).await;
    let _ = connection.close().await;
    Ok(read?)
}

async fn origin_of(connection: &mut SqliteConnection) -> Result<Origin, sqlx::Error> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'api_file'";
    let is_noted: bool = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
    if !is_noted {
        return Ok(Origin::Unknown);
    }
    let origin = sqlx::query_scalar("SELECT origin FROM api_file").fetch_optional(connection).await?;
    Ok(origin.map_or(Origin::Nowhere, Origin::At))
}

/// Notes in a file, in a transaction that holds the write lock, which one it is; true where that was not noted before.
pub async fn note(connection: &mut SqliteConnection, file: FileId) -> Result<bool, sqlx::Error> {
    if origin_of(connection).await? == Origin::At(file.to_string()) {
        return Ok(false);
    }
    forget(connection).await?;
    let query = sqlx::query("INSERT INTO api_file (origin) VALUES ($1)").bind(file.to_string());
    query.execute(connection).await?;
    Ok(true)
}

/// Marks a file as never opened.
pub async fn forget(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let sql = "CREATE TABLE IF NOT EXISTS api_file (origin TEXT NOT NULL); DELETE FROM api_file";
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}
