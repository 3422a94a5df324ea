//! A copy of a SQLite file that a server may have open.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

use super::super::{OpenFailure, StoreFailure};
use super::file::{FileId, check_readable, sidecar_path};
use super::origin;
use crate::file_problem::Unwritable;
use crate::folder::FolderProblem;

/// How long a backup waits for a lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup {
    /// The number of keys, dead ones included.
    pub keys: u64,
    /// The revision of the store.
    pub revision: i64,
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no file to be copied.
    #[error("there is no key store at {}: a server creates it when it starts", .0.display())]
    NoStore(PathBuf),
    /// The file cannot be read.
    #[error("the key store {} cannot be read: {reason}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        reason: OpenFailure,
    },
    /// There is something where the backup is to be.
    #[error("{} exists already: a backup does not overwrite a file", .0.display())]
    Exists(PathBuf),
    /// The backup's path cannot be given to SQLite.
    #[error("the path {} of the backup is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
    /// The backup's folder.
    #[error("no backup can be written: {0}")]
    Folder(FolderProblem),
    /// The backup cannot be written.
    #[error("the backup {} cannot be written: {}", path.display(), Unwritable(.source))]
    Write {
        /// The backup.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// SQLite cannot write the backup.
    #[error("the backup {} cannot be written: {reason}", path.display())]
    Copy {
        /// The backup.
        path: PathBuf,
        /// The cause.
        #[source]
        reason: StoreFailure,
    },
    /// The copy is not whole.
    #[error("the copy of the key store {} is incomplete: {problem}", path.display())]
    NotWhole {
        /// The file that was copied.
        path: PathBuf,
        /// The error of SQLite.
        problem: String,
    },
}

/// The copy while it is written, under a name of its own.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        for suffix in ["", "-journal"] {
            let _ = std::fs::remove_file(sidecar_path(&self.0, suffix));
        }
    }
}

/// Copies the store in a SQLite file, as it is at one moment, to a new file of mode 0600, which is on the disk when this
/// returns.  A server may have the file open; it is neither stopped nor changed.
///
/// # Errors
/// [`BackupError`].  No file is left at the backup's path then.
pub async fn back_up(store: &Path, to: &Path) -> Result<Backup, BackupError> {
    let source = |reason| BackupError::Source { path: store.to_owned(), reason };
    let write = |source| BackupError::Write { path: to.to_owned(), source };
    let copy = |error: sqlx::Error| BackupError::Copy { path: to.to_owned(), reason: error.into() };
    if let Some(problem) = FolderProblem::of_file(to) {
        return Err(BackupError::Folder(problem));
    }
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let file = FileId::of(store).map_err(|error| source(OpenFailure::File(error)))?;
    let file = file.ok_or_else(|| BackupError::NoStore(store.to_owned()))?;
    check_readable(store).map_err(|error| source(OpenFailure::File(error)))?;
    origin::check_wal(store, file).await.map_err(source)?;

    let unfinished = Unfinished(sidecar_path(to, &format!(".unfinished-{}", std::process::id())));
    // SQLite writes into an empty file, and would make one that others can read.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished.0).map_err(write)?;
    let path = unfinished.0.to_str().ok_or_else(|| BackupError::NotUtf8(to.to_owned()))?;
    // Opened for writing so that no sidecar file stays, if no server has the file open.
    let options = SqliteConnectOptions::new().filename(store).busy_timeout(BUSY_TIMEOUT);
    let opened = options.disable_statement_logging().connect().await;
    let mut connection = opened.map_err(|error| source(OpenFailure::Store(error.into())))?;
    let query = sqlx::query("VACUUM INTO $1").bind(path);
    let copied = query.execute(&mut connection).await;
    let _ = connection.close().await;
    copied.map_err(copy)?;

    let options = SqliteConnectOptions::new()
        .filename(&unfinished.0)
        .journal_mode(SqliteJournalMode::Memory)
        .synchronous(SqliteSynchronous::Off);
    let mut connection = options.disable_statement_logging().connect().await.map_err(copy)?;
    let finished = finish(&mut connection).await;
    let _ = connection.close().await;
    let (backup, problem) = finished.map_err(copy)?;
    if problem != "ok" {
        return Err(BackupError::NotWhole { path: store.to_owned(), problem });
    }

    File::open(&unfinished.0).and_then(|file| file.sync_all()).map_err(write)?;
    match renameat_with(CWD, &unfinished.0, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // Some file systems can give a second name only.
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::hard_link(&unfinished.0, to).map_err(write)?,
        Err(Errno::EXIST) => return Err(BackupError::Exists(to.to_owned())),
        Err(error) => return Err(write(error.into())),
    }
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(write)?;
    Ok(backup)
}

/// Marks the copy as never opened, and returns its content, and whether it is complete.
async fn finish(connection: &mut SqliteConnection) -> Result<(Backup, String), sqlx::Error> {
    origin::forget(connection).await?;
    let problem = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await?;
    let sql = "SELECT (SELECT count(*) FROM api_keys), value FROM api_revision";
    let (keys, revision): (i64, i64) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok((Backup { keys: keys.try_into().unwrap_or_default(), revision }, problem))
}
