//! Errors of a key store.
//!
//! An operation fails with [`StoreError`], [`ChangeError`] or [`ImportError`]; opening a store fails with
//! [`OpenError`].  Errors of the database client are typed causes, except where their text may quote a URL (which
//! may hold a password) or a row: those have a variant without a cause.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;

use super::list::MAX_BULK;
use super::url::{StoreUrl, UrlError};
use crate::file_problem::Unreadable;
use crate::folder::FolderProblem;
use crate::keys::edit::EditProblem;
use crate::keys::{ExceedsGrant, MAX_KEYS_OF_PERSON};
use crate::token::TokenError;

/// The store cannot be read or written.  `Display` includes the text of the failure.
#[derive(Debug)]
pub struct StoreError(pub StoreFailure);

impl fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the key store: {}", self.0)
    }
}

impl Error for StoreError {
    /// The cause of the failure, whose own text `Display` shows already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A failure of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreFailure {
    /// The database answered with an error.
    #[error(transparent)]
    Database(DatabaseFailure),
    /// The role in the URL may not do this.
    #[error(
        "{0}: its role lacks a right. Grant it what a server that writes needs, or set `keys.read_only: true`, for which \
         SELECT is enough"
    )]
    Forbidden(DatabaseFailure),
    /// A migration failed.  All of them are one transaction, so none was made.
    #[error(
        "the migration to schema {number} failed ({failure}), and the schema is the one before: no migration was made"
    )]
    Migration {
        /// The number of the migration.
        number: i64,
        /// The cause.
        failure: Box<StoreFailure>,
    },
    /// A change does not fit on the disk of a SQLite file.
    #[error("the disk is full: free space where its file is, and changes work again")]
    DiskFull,
    /// There is no SQLite file at the path any more.
    #[error("its file was removed: nothing can be changed until there is one again")]
    FileRemoved,
    /// There is another SQLite file at the path.
    #[error("its file was replaced by another one, which is not open yet")]
    FileReplaced,
    /// The SQLite file that took the place of another one is empty, or still being copied.
    #[error("the file is incomplete: it may still be copied")]
    FileNotWhole,
    /// The SQLite file that took the place of another one cannot be opened.
    #[error("its file was replaced: {0}")]
    FileRejected(#[source] Arc<OpenError>),
    /// The file or the connection failed.
    #[error(transparent)]
    Io(io::Error),
    /// A SQLite file cannot be read.
    #[error("{}", Unreadable(.0))]
    File(#[source] io::Error),
    /// TLS failed, such as by a certificate that is not trusted.
    #[error("TLS: {0}")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// No connection was free, or none could be made, within the timeout.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The store was closed.
    #[error("the connection is closed")]
    Closed,
    /// The URL cannot be used.  The cause is not kept: it may quote the URL.
    #[error("its URL, or a file that it names, cannot be used")]
    Configuration,
    /// The database broke its own protocol.
    #[error("it sent an answer that this version does not understand")]
    Protocol,
    /// A row is not as the schema says.  The cause is not kept: it may quote the row.
    #[error("a row cannot be read")]
    UnreadableRow,
    /// None of the URL's hosts can be used.
    #[error("{}", list(.0))]
    Hosts(Vec<HostFailure>),
    /// The host is not as the URL wants it.
    #[error("it is not {0}, which target_session_attrs in the URL requires")]
    SessionAttributes(&'static str),
    /// The database was never reached, or its schema is not up to date.
    #[error("it has not been reached yet, or its schema is not up to date")]
    NotReached,
    /// It was opened for reading alone.
    #[error("it is read only here")]
    ReadOnly,
    /// The migrations took too long.
    #[error("its schema was not up to date in time")]
    MigrationTimeout,
    /// The schema is not one that this program can use.
    #[error(transparent)]
    Schema(Box<OpenError>),
    /// The connection that receives notifications was closed.
    #[error("the connection for change notifications was lost")]
    NotificationsLost,
    /// The connection that receives notifications no longer answers.
    #[error("the connection for change notifications is dead")]
    NotificationsDead,
    /// The operation took longer than this.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The copy that is read has not come as far as the one that was read before.
    #[error("the copy of the database that answers now is older than the one that answered before")]
    Behind,
    /// Its schema has become one of an older version: a dump from then was restored.
    #[error(
        "its schema is that of an older version, for example after the restore of an old dump: it must be \
         migrated"
    )]
    OlderSchema,
    /// Its schema is too new for this version.
    #[error(
        "its schema may be read only by programs that know schema {oldest_reader}, and this one knows {known}: \
         run the newer version"
    )]
    Outdated {
        /// The oldest schema whose programs may answer.
        oldest_reader: i64,
        /// The newest schema of this program.
        known: i64,
    },
    /// The operating system has no randomness for a new secret.
    #[error("no token could be made")]
    Randomness(#[source] getrandom::Error),
    /// A new secret, with its prefix, is no token.
    #[error("no token could be made")]
    Token(#[source] TokenError),
}

#[cfg(feature = "postgres")]
impl StoreFailure {
    /// Whether a retry does not change it: wrong user or password, no such database or schema, no permission (SQLSTATE
    /// classes 28, 3D, 3F, 42), or TLS that we do not trust or the database does not have.
    pub(super) fn is_final(&self) -> bool {
        if let Self::Hosts(hosts) = self {
            return hosts.iter().all(|host| host.failure.is_final());
        }
        if let Self::Migration { failure, .. } = self {
            return failure.is_final();
        }
        if let Self::Database(DatabaseFailure(error)) | Self::Forbidden(DatabaseFailure(error)) = self {
            let code = error.code();
            return code
                .is_some_and(|code| ["28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class)));
        }
        matches!(self, Self::Configuration | Self::Tls(_))
    }
}

impl StoreFailure {
    /// That of a migration.
    pub(super) fn migration(number: i64, failure: Self) -> Self {
        Self::Migration { number, failure: Box::new(failure) }
    }

    /// Whether the role here may not do this.
    pub(in crate::keys) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden(_))
    }
}

/// Why a host cannot be used.
#[derive(Debug)]
pub struct HostFailure {
    /// The host with its port.
    pub host: String,
    /// The cause.
    pub failure: StoreFailure,
}

fn list(hosts: &[HostFailure]) -> String {
    let texts: Vec<_> =
        hosts.iter().map(|HostFailure { host, failure }| format!("{host}: {failure}")).collect();
    texts.join("; ")
}

/// An error with which the database answered.  Neither `Display` nor `Debug` shows its details, which quote rows.
pub struct DatabaseFailure(Box<dyn sqlx::error::DatabaseError>);

impl fmt::Display for DatabaseFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.message())?;
        match self.0.code() {
            Some(code) => write!(formatter, " ({code})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for DatabaseFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DatabaseFailure({self})")
    }
}

impl Error for DatabaseFailure {}

impl From<sqlx::Error> for StoreFailure {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) if is_full_disk(error.as_ref()) => Self::DiskFull,
            sqlx::Error::Database(error) if is_forbidden(error.as_ref()) => {
                Self::Forbidden(DatabaseFailure(error))
            }
            sqlx::Error::Database(error) => Self::Database(DatabaseFailure(error)),
            sqlx::Error::Io(error) if is_of_tls(&error) => Self::Tls(Box::new(error)),
            sqlx::Error::Io(error) => Self::Io(error),
            sqlx::Error::Tls(error) => Self::Tls(error),
            sqlx::Error::PoolTimedOut => Self::ConnectTimeout,
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => Self::Closed,
            sqlx::Error::Configuration(_) => Self::Configuration,
            sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed | sqlx::Error::InvalidSavePointStatement => {
                Self::Protocol
            }
            _ => Self::UnreadableRow,
        }
    }
}

/// Whether SQLite says SQLITE_FULL, or SQLITE_IOERR_SHMSIZE: then its -shm does not fit on the disk.
fn is_full_disk(error: &dyn DatabaseError) -> bool {
    let code = error.try_downcast_ref::<SqliteError>().and_then(DatabaseError::code);
    code.is_some_and(|code| matches!(&*code, "13" | "4874"))
}

/// Whether PostgreSQL says insufficient_privilege.  SQLite has no roles, and no such code.
fn is_forbidden(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "42501")
}

/// Whether TLS was reached and failed, such as by a certificate that is not trusted.
pub(super) fn is_of_tls(error: &io::Error) -> bool {
    match error.get_ref() {
        Some(inner) => inner.is::<rustls::Error>(),
        None => false,
    }
}

impl From<StoreFailure> for StoreError {
    fn from(failure: StoreFailure) -> Self {
        Self(failure)
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

/// Why a store cannot be opened.  Trying again later does not help.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer version of this program wrote it.
    #[error(
        "the key store was written by a newer version: its schema is number {found}, and this version knows \
         schemas up to {known}. Run the newer version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The newest migration that was applied.
        found: i64,
        /// The newest one of this version.
        known: i64,
    },
    /// An older version made it, and it is only read here.
    #[error(
        "the key store's schema is number {found}, and this version needs number {known}; with `read_only` it is not \
         changed here: start a server that writes, or run `envoy-auth-tokens keys migrate`"
    )]
    Older {
        /// The newest migration that was applied.
        found: i64,
        /// The newest one of this version.
        known: i64,
    },
    /// It must be migrated, and the role may not do that.
    #[error(
        "the key store's schema is number {found}, and this version needs number {known}, but the role in its URL may not \
         change it: run `envoy-auth-tokens keys migrate` with a role that may (`--store-file FILE` reads its URL from a file). A \
         server that is running then continues without a restart; start the others again. If the role in the URL is only \
         to read, set `keys.read_only: true`, too"
    )]
    MayNotMigrate {
        /// The newest migration that was applied.
        found: i64,
        /// The newest one of this version.
        known: i64,
    },
    /// It must be migrated, and another process holds the lock of migrations.
    #[error(
        "the schema of the key store must be migrated, and process {pid} of the role {role} holds the lock: wait \
         until it ends, or end it with SELECT pg_terminate_backend({pid})"
    )]
    MigrationLock {
        /// The process of PostgreSQL.
        pid: i32,
        /// Its role.
        role: String,
    },
    /// A migration was applied that differs from ours of the same number.
    #[error(
        "the schema of the key store has the number {0}, but not the tables of this program: the URL may \
         name another program's database"
    )]
    Foreign(i64),
    /// It is there and cannot be used: no permission, no such database, no database file.
    #[error("the key store {store} cannot be opened: {reason}")]
    Rejected {
        /// The store; shown without user info.
        store: StoreUrl,
        /// The cause.
        #[source]
        reason: OpenFailure,
    },
    /// Its URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlError),
}

/// What went wrong while a store was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// The folder of a SQLite file.
    #[error("{0}")]
    Folder(FolderProblem),
    /// The SQLite file itself.
    #[error("{}", Unreadable(.0))]
    File(#[source] io::Error),
    /// The `-wal` next to a SQLite file may belong to a previous file.
    #[error(
        "{} may contain changes of another file: the database file was replaced while a server had it open. If it is a backup, \
         remove that -wal and the -shm next to it, and start again. If both were copied together, let SQLite join \
         them: sqlite3 FILE 'PRAGMA wal_checkpoint(TRUNCATE)'",
        .0.display()
    )]
    FormerWal(PathBuf),
    /// A file that a parameter of a PostgreSQL URL names.
    #[error("{parameter} {}: {}", path.display(), Unreadable(.error))]
    UrlFile {
        /// The parameter.
        parameter: String,
        /// The file's path.
        path: PathBuf,
        /// Why it cannot be read.
        #[source]
        error: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(StoreFailure),
}

/// Why a key or a service account was not created, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such key, or the caller does not see it.
    #[error("API key not found")]
    NotFound,
    /// There is no such service account.
    #[error("service account not found")]
    AccountNotFound,
    /// A live key of the same owner has this name.
    #[error("API key name already exists")]
    NameTaken,
    /// A service account has this name.
    #[error("service account already exists")]
    AccountNameTaken,
    /// A service account had this name, and policies may still speak of it.
    #[error("a service account that was deleted or renamed had this name: choose another one")]
    AccountNameWasUsed,
    /// As many keys are stored as may be.
    #[error("api_key Quota reached")]
    QuotaReached,
    /// The person has as many live keys as a person may have.
    #[error("a person has at most {MAX_KEYS_OF_PERSON} live keys: revoke one first")]
    PersonQuotaReached,
    /// Its secret is not replaced while it is disabled.
    #[error("API key is disabled: enable it first")]
    Disabled,
    /// It cannot be changed so.
    #[error(transparent)]
    Edit(#[from] EditProblem),
    /// The caller may not grant what it can do.
    #[error(transparent)]
    ExceedsGrant(#[from] ExceedsGrant),
    /// A key, a replaced secret or a session has this digest.
    #[error("a key or a session has this digest")]
    KnownDigest,
    /// More keys are meant than one call revokes.
    #[error("more than {MAX_BULK} keys are meant: narrow the criteria")]
    TooManyKeys,
    /// The store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why keys were not imported: none of them was.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ImportError {
    /// The position of the key in question; `None` when it is all of them.
    pub index: Option<usize>,
    /// The problem.
    #[source]
    pub error: ChangeError,
}

impl ImportError {
    /// That of one key.
    pub(super) fn at(index: usize, error: ChangeError) -> Self {
        Self { index: Some(index), error }
    }

    /// That of all of them.
    pub(super) fn of_all(error: impl Into<ChangeError>) -> Self {
        Self { index: None, error: error.into() }
    }
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> Self {
        Self::of_all(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_clients_error_quotes_neither_urls_nor_rows() {
        let broken = || io::Error::other("no route");
        for (error, expected) in [
            (sqlx::Error::Io(broken()), "the key store: no route"),
            (sqlx::Error::Tls(Box::new(broken())), "the key store: TLS: no route"),
            (sqlx::Error::PoolTimedOut, "the key store: no connection in time"),
            (sqlx::Error::PoolClosed, "the key store: the connection is closed"),
            (
                sqlx::Error::Configuration("postgres://u:secret@db".into()),
                "the key store: its URL, or a file that it names, cannot be used",
            ),
            (
                sqlx::Error::Protocol("secret".to_owned()),
                "the key store: it sent an answer that this version does not understand",
            ),
            (sqlx::Error::ColumnNotFound("secret".to_owned()), "the key store: a row cannot be read"),
        ] {
            let error = StoreError::from(error);
            assert_eq!(error.to_string(), expected);
            let debugged = format!("{error:?}");
            assert!(!debugged.contains("secret"), "{debugged}");
        }
        let late = StoreError(StoreFailure::Timeout(Duration::from_secs(5)));
        assert_eq!(late.to_string(), "the key store: no answer within 5 s");
    }

    #[test]
    fn a_migration_that_fails_is_named() {
        let failure = StoreFailure::migration(4, StoreFailure::ConnectTimeout);
        assert_eq!(
            failure.to_string(),
            "the migration to schema 4 failed (no connection in time), and the schema is the one before: no migration was \
             made"
        );
    }

    #[test]
    fn the_cause_of_a_tls_failure_is_kept() {
        let error = StoreError::from(sqlx::Error::Tls(Box::new(rustls::Error::HandshakeNotComplete)));
        let source = error.source().expect("there is a cause");
        assert!(source.is::<rustls::Error>(), "{source}");
    }
}
