//! The connections to one SQLite file, through which every reading and every change goes.
//!
//! After a failed transaction the connection is closed.  SQLite ends a transaction by itself after some errors, such as
//! a full disk, and the client library does not notice: it would count the ended transaction as open forever, and start
//! no further one.
//!
//! The path may come to name another file, or none.  Connections continue with the file that they opened, so an
//! acknowledged change would be lost.  The file is compared before and after each change and twice a second
//! ([`Connections::check_file`]).  Connections to two files of one path must never be open at once in one process: they
//! would share one `-shm`, whose locks do not hold within a process.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::Access;
use rustix::io::Errno;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::migrations::{self, SchemaChange, SchemaError};
use super::super::{OpenError, OpenFailure, StoreError, StoreFailure, StoreUrl};
use super::file::{FileId, HEADER_BYTES, check_readable, is_whole, sidecar_path};
use super::origin;
use crate::folder::FolderProblem;

/// How long an operation waits for another process's lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);
/// How long opening, and the wait for a connection, may take: processes that open a new file at once lock each other
/// out for a moment.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How many operations may read at once.
const OPERATION_READERS: u32 = 2;

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// An operation of the API.
    Operations,
    /// The follower, which waits for no operation.
    Follower,
}

/// The connections to one file.
pub struct Connections {
    path: PathBuf,
    options: SqliteConnectOptions,
    is_read_only: bool,
    /// One connection: SQLite has one writer at a time, and ours queue for it.
    writer: Arc<Slots>,
    /// In WAL mode readers wait for no writer.
    readers: Arc<Slots>,
    follower: Arc<Slots>,
    state: Mutex<State>,
    /// Held while the file is compared and replaced.
    check: tokio::sync::Mutex<()>,
}

/// Which file the connections are to.
enum State {
    /// A file that is opened for reading alone, by the first reading.
    NotOpened,
    Open(Opened),
    /// No connection is open.
    Closed(Closed),
}

/// Why no connection is open.
#[derive(Clone)]
enum Closed {
    /// There is no file at the path.
    Removed,
    /// There is another one, which is not open yet.
    Replaced,
    /// There is another one, which cannot be opened.
    Rejected(Arc<OpenError>),
}

impl From<Closed> for StoreFailure {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Removed => Self::FileRemoved,
            Closed::Replaced => Self::FileReplaced,
            Closed::Rejected(error) => Self::FileRejected(error),
        }
    }
}

/// What a file that is to be opened may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Any store, or none: it is created then.
    Any,
    /// A whole store: one that is empty or still being copied is an error.
    Whole,
}

/// The file of the connections, with its sidecar files.
#[derive(Clone, Copy)]
struct Opened {
    file: FileId,
    wal: Option<FileId>,
    shm: Option<FileId>,
}

impl Opened {
    /// This file at this path, with its sidecar files.
    fn at(path: &Path, file: FileId) -> Self {
        let found = |suffix| FileId::of(&sidecar_path(path, suffix)).ok().flatten();
        Self { file, wal: found("-wal"), shm: found("-shm") }
    }
}

/// A number of connections, each open or yet to be opened.
struct Slots {
    permits: Arc<Semaphore>,
    size: u32,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Slots {
    fn new(size: u32) -> Arc<Self> {
        let permits = usize::try_from(size).unwrap_or(usize::MAX);
        Arc::new(Self { permits: Arc::new(Semaphore::new(permits)), size, idle: Mutex::default() })
    }

    /// Waits until no connection is in use, and blocks further use until the permit is dropped.
    async fn all(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        let permits = Arc::clone(&self.permits).acquire_many_owned(self.size).await;
        permits.map_err(|_| StoreError(StoreFailure::Closed))
    }
}

/// A lock that is held for no longer than a few instructions, which leave what it guards whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection in use.  It is closed when it is dropped, unless it was given back.
struct Lease {
    /// `Some` until it was given back or is dropped.
    connection: Option<SqliteConnection>,
    slots: Arc<Slots>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    fn give_back(mut self) {
        lock(&self.slots.idle).extend(self.connection.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (connection, permit) = (self.connection.take(), self.permit.take());
        if let (Some(connection), Ok(runtime)) = (connection, tokio::runtime::Handle::try_current()) {
            // Closed before another one can be opened in its place.
            runtime.spawn(async move {
                close(connection).await;
                drop(permit);
            });
        }
    }
}

impl Deref for Lease {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().expect("it is taken by methods alone that take the lease")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("it is taken by methods alone that take the lease")
    }
}

/// A transaction that sees the file as it is when it first reads.
pub struct ReadTransaction(Lease);

impl ReadTransaction {
    /// Ends it.
    pub async fn end(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(&mut *self.0).await?;
        self.0.give_back();
        Ok(())
    }
}

impl Deref for ReadTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.0
    }
}

impl DerefMut for ReadTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.0
    }
}

/// A transaction that holds the write lock from its beginning.  Dropped, it is taken back.
pub struct WriteTransaction {
    lease: Lease,
    connections: Arc<Connections>,
}

impl WriteTransaction {
    /// Commits it.
    ///
    /// # Errors
    /// It was not committed, or it was committed into a file that is no longer at the path.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        sqlx::raw_sql("COMMIT").execute(&mut *self.lease).await?;
        let still_there = self.connections.compare_and_note();
        self.lease.give_back();
        still_there.inspect_err(|error| {
            let (path, reason) = (self.connections.path.display(), error.0.to_string());
            tracing::error!(%path, reason, "a change to the key store is lost: it was not acknowledged");
        })
    }
}

impl Deref for WriteTransaction {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.lease
    }
}

impl DerefMut for WriteTransaction {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.lease
    }
}

impl Connections {
    /// Opens the file, or creates it with mode 0600, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<(Arc<Self>, SchemaChange), OpenError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged write is on the disk, not only in the operating system's cache.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let connections = Self::new(path, options, false);
        let change = connections.open_file(Expect::Any).await?;
        Ok((connections, change))
    }

    /// An existing file for reading alone, which is opened by the first reading: nothing is created, and the schema
    /// stays as it is.
    pub fn open_read_only(path: &Path) -> Arc<Self> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
        Self::new(path, options, true)
    }

    fn new(path: &Path, options: SqliteConnectOptions, is_read_only: bool) -> Arc<Self> {
        Arc::new(Self {
            path: path.to_owned(),
            options: options.disable_statement_logging(),
            is_read_only,
            writer: Slots::new(1),
            readers: Slots::new(OPERATION_READERS),
            follower: Slots::new(1),
            state: Mutex::new(State::NotOpened),
            check: tokio::sync::Mutex::default(),
        })
    }

    /// Whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn readers(&self, reader: Reader) -> &Arc<Slots> {
        match reader {
            Reader::Operations => &self.readers,
            Reader::Follower => &self.follower,
        }
    }

    /// Begins to read.
    pub async fn read(&self, reader: Reader) -> Result<ReadTransaction, StoreError> {
        let mut lease = self.lease(self.readers(reader)).await?;
        sqlx::raw_sql("BEGIN").execute(&mut *lease).await?;
        Ok(ReadTransaction(lease))
    }

    /// Begins a change.
    pub async fn write(self: &Arc<Self>) -> Result<WriteTransaction, StoreError> {
        let mut lease = self.lease(&self.writer).await?;
        if let Err(error) = self.compare() {
            // The connection is as good as before.
            lease.give_back();
            return Err(error);
        }
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *lease).await?;
        Ok(WriteTransaction { lease, connections: Arc::clone(self) })
    }

    async fn lease(&self, slots: &Arc<Slots>) -> Result<Lease, StoreError> {
        let permit = timeout(OPEN_TIMEOUT, Arc::clone(&slots.permits).acquire_owned()).await;
        let permit = permit
            .map_err(|_| StoreFailure::ConnectTimeout)?
            .map_err(|_| StoreError(StoreFailure::Closed))?;
        let idle = lock(&slots.idle).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        Ok(Lease { connection: Some(connection), slots: Arc::clone(slots), permit: Some(permit) })
    }

    /// One more connection to the file that is open.
    async fn connect(&self) -> Result<SqliteConnection, StoreError> {
        if self.is_read_only && matches!(*lock(&self.state), State::NotOpened) {
            let file =
                FileId::of(&self.path).map_err(StoreFailure::File)?.ok_or(StoreFailure::FileRemoved)?;
            check_readable(&self.path).map_err(StoreFailure::File)?;
            if let Err(reason) = origin::check_wal(&self.path, file).await {
                let error = OpenError::Rejected { store: StoreUrl::Sqlite(self.path.clone()), reason };
                return Err(StoreFailure::Schema(Box::new(error)).into());
            }
            *lock(&self.state) = State::Open(Opened::at(&self.path, file));
        }
        // Before, since connections to two files must not be open at once, and after, since the path is looked up twice.
        self.compare()?;
        let connection = self.options.connect().await?;
        if let Err(error) = self.compare() {
            close(connection).await;
            return Err(error);
        }
        Ok(connection)
    }

    /// Whether the path still names the file that is open.
    fn compare(&self) -> Result<(), StoreError> {
        let opened = match &*lock(&self.state) {
            State::Open(opened) => opened.file,
            State::NotOpened => return Err(StoreFailure::NotReached.into()),
            State::Closed(closed) => return Err(StoreFailure::from(closed.clone()).into()),
        };
        match FileId::of(&self.path).map_err(StoreFailure::Io)? {
            Some(found) if found == opened => Ok(()),
            Some(_) => Err(StoreFailure::FileReplaced.into()),
            None => Err(StoreFailure::FileRemoved.into()),
        }
    }

    /// The same; and where it does, notes which `-wal` and `-shm` are its own.
    ///
    /// They are looked up before the comparison: a file that took the path while they were may have brought them, and is
    /// still there when the path is compared.  The other way round, the `-wal` of another store would be taken for ours,
    /// and removed with it.
    fn compare_and_note(&self) -> Result<(), StoreError> {
        let opened = match &*lock(&self.state) {
            State::Open(opened) => Some(opened.file),
            State::NotOpened | State::Closed(_) => None,
        };
        let found = opened.map(|file| Opened::at(&self.path, file));
        self.compare()?;
        if let (State::Open(opened), Some(found)) = (&mut *lock(&self.state), found) {
            *opened = found;
        }
        Ok(())
    }

    fn set(&self, state: State) {
        *lock(&self.state) = state;
    }

    /// Remembers why the new file cannot be opened; true where that is news.
    fn reject(&self, error: &Arc<OpenError>) -> bool {
        let before =
            std::mem::replace(&mut *lock(&self.state), State::Closed(Closed::Rejected(Arc::clone(error))));
        match before {
            State::Closed(Closed::Rejected(before)) => before.to_string() != error.to_string(),
            State::Closed(Closed::Removed | Closed::Replaced) | State::Open(_) | State::NotOpened => true,
        }
    }

    /// Compares the file at the path with the one that is open.  Where it is another one, closes every connection and
    /// opens the other one; where there is none, closes them, and a later call opens the one that appears.
    ///
    /// # Errors
    /// The file is not there, or cannot be opened.  Nothing can be read or written until a later call succeeds.
    pub async fn check_file(&self) -> Result<(), StoreError> {
        let _check = self.check.lock().await;
        let opened = match &*lock(&self.state) {
            State::NotOpened => return Ok(()),
            State::Open(opened) => Some(*opened),
            State::Closed(_) => None,
        };
        if let Some(opened) = opened {
            let Err(error) = self.compare_and_note() else { return Ok(()) };
            let closed = match error.0 {
                StoreFailure::FileRemoved => Closed::Removed,
                StoreFailure::FileReplaced => Closed::Replaced,
                // It is not known whether it is there.
                _ => return Err(error),
            };
            let (path, reason) = (self.path.display(), error.0.to_string());
            tracing::error!(%path, reason, "the file of the key store was removed or replaced");
            let _exclusive = self.acquire_all().await?;
            self.retire(opened).await;
            self.set(State::Closed(closed));
        }
        if FileId::of(&self.path).map_err(StoreFailure::Io)?.is_none() {
            self.set(State::Closed(Closed::Removed));
            return Err(StoreFailure::FileRemoved.into());
        }
        if self.is_read_only {
            self.set(State::NotOpened);
            return Ok(());
        }
        let _exclusive = self.acquire_all().await?;
        let opened = self.open_file(Expect::Whole).await;
        let change = opened.map_err(|error| {
            let error = Arc::new(error);
            if self.reject(&error) {
                let (path, reason) = (self.path.display(), error.to_string());
                tracing::error!(%path, reason, "the new file of the key store cannot be opened: the server tries \
                    again");
            }
            StoreFailure::FileRejected(error)
        })?;
        change.log();
        tracing::info!(path = %self.path.display(), "the key store's new file is open");
        Ok(())
    }

    /// Waits until no connection is in use, and blocks further use until the permits are dropped.
    async fn acquire_all(&self) -> Result<[OwnedSemaphorePermit; 3], StoreError> {
        let all =
            async { Ok([self.follower.all().await?, self.readers.all().await?, self.writer.all().await?]) };
        timeout(OPEN_TIMEOUT, all).await.map_err(|_| StoreFailure::Timeout(OPEN_TIMEOUT))?
    }

    fn take_idle(&self) -> Vec<SqliteConnection> {
        let mut idle: Vec<_> = lock(&self.readers.idle).drain(..).collect();
        idle.extend(lock(&self.follower.idle).drain(..));
        // The last connection to close moves the -wal into the file.
        idle.extend(lock(&self.writer.idle).drain(..));
        idle
    }

    /// Closes every connection to a file that is no longer at its path, and leaves none of its sidecar files next to
    /// another file: the content of the `-wal` is moved into the file, wherever it is now, and `-wal` and `-shm` are
    /// removed.
    ///
    /// SQLite would leave them, since it sees that its file was moved; and the next program that opens the path would apply
    /// them to another file.
    async fn retire(&self, opened: Opened) {
        let mut idle = self.take_idle();
        if !self.is_read_only {
            let is_empty = match idle.first_mut() {
                Some(connection) => {
                    let emptied = empty_wal(connection).await;
                    // Another process that does the same waits for this lock, and finds them gone.  Closing gives it up.
                    let _ = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
                    emptied.map_err(|error| StoreError::from(error).0.to_string())
                }
                None => Err("no connection to it is left".to_owned()),
            };
            if let Err(error) = self.remove_sidecar_files(opened, is_empty) {
                let path = self.path.display();
                tracing::error!(%path, %error, "the -wal and -shm files of the old key store cannot be removed");
            }
        }
        for connection in idle {
            close(connection).await;
        }
    }

    /// Removes the `-wal` and `-shm` of a file that was at the path, unless they are already another file's.  A `-wal`
    /// that holds what the file does not is kept under another name.
    fn remove_sidecar_files(&self, opened: Opened, wal_is_empty: Result<(), String>) -> io::Result<()> {
        let (wal, shm) = (sidecar_path(&self.path, "-wal"), sidecar_path(&self.path, "-shm"));
        if opened.wal.is_some() && FileId::of(&wal)? == opened.wal {
            match wal_is_empty {
                Err(reason) if std::fs::metadata(&wal)?.len() > 0 => {
                    let kept = sidecar_path(&self.path, "-wal.of-former-file");
                    let kept_as = kept.display();
                    tracing::error!(
                        reason,
                        %kept_as,
                        "the last changes could not be moved into the old file of the key store: its -wal file \
                    is kept"
                    );
                    std::fs::rename(&wal, &kept)?;
                }
                Ok(()) | Err(_) => std::fs::remove_file(&wal)?,
            }
        }
        if opened.shm.is_some() && FileId::of(&shm)? == opened.shm {
            std::fs::remove_file(&shm)?;
        }
        Ok(())
    }

    /// Opens the file at the path and brings its schema up to date.  No connection is open before.
    async fn open_file(&self, expect: Expect) -> Result<SchemaChange, OpenError> {
        let path = &self.path;
        let rejected = |reason: OpenFailure| {
            // The errors of SQLite and of the operating system name no folder.
            let reason = FolderProblem::of_file(path).map_or(reason, OpenFailure::Folder);
            OpenError::Rejected { store: StoreUrl::Sqlite(path.clone()), reason }
        };
        let failed = |failure| rejected(OpenFailure::Store(failure));
        let file =
            look_into(path, expect).map_err(rejected)?.ok_or_else(|| failed(StoreFailure::FileNotWhole))?;
        origin::check_wal(path, file).await.map_err(rejected)?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let (connection, change) = loop {
            match self.connect_and_migrate(file).await {
                Ok(opened) => break opened,
                Err(SchemaError::Database(error)) if is_busy(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(SchemaError::Database(error)) => return Err(failed(error.into())),
                Err(SchemaError::Step(number, error)) => {
                    return Err(failed(StoreFailure::migration(number, error.into())));
                }
                Err(SchemaError::Mismatch(error)) => return Err(error),
            }
        };
        let opened = Opened::at(path, file);
        if FileId::of(path).map_err(|error| rejected(OpenFailure::File(error)))? != Some(file) {
            close(connection).await;
            return Err(failed(StoreFailure::FileReplaced));
        }
        self.set(State::Open(opened));
        lock(&self.writer.idle).push(connection);
        Ok(change)
    }

    /// The library's SQLite migrations take no lock, so all of them run in one transaction that holds the file's.
    async fn connect_and_migrate(
        &self,
        file: FileId,
    ) -> Result<(SqliteConnection, SchemaChange), SchemaError> {
        let mut connection = self.options.connect().await.map_err(SchemaError::Database)?;
        let migrated = async {
            let started = connection.begin_with("BEGIN IMMEDIATE").await;
            let mut transaction = started.map_err(SchemaError::Database)?;
            let change = migrations::run(migrations::SQLITE, &mut transaction).await?;
            let is_new = origin::note(&mut transaction, file).await.map_err(SchemaError::Database)?;
            transaction.commit().await.map_err(SchemaError::Database)?;
            if is_new {
                // Into the file itself.  Where another process reads, it gets there later.
                let _ = empty_wal(&mut connection).await;
            }
            Ok(change)
        };
        match migrated.await {
            Ok(change) => Ok((connection, change)),
            Err(error) => {
                close(connection).await;
                Err(error)
            }
        }
    }

    /// Closes every connection as soon as it is idle.  From then on nothing can be read or written.
    pub async fn close(&self) {
        let _check = self.check.lock().await;
        // An operation that uses one for longer is not waited for.
        let _exclusive = self.acquire_all().await;
        let opened = match &*lock(&self.state) {
            State::Open(opened) => Some(*opened),
            State::NotOpened | State::Closed(_) => None,
        };
        match (opened, self.compare()) {
            (Some(opened), Err(StoreError(StoreFailure::FileRemoved | StoreFailure::FileReplaced))) => {
                self.retire(opened).await;
            }
            (Some(_) | None, _) => {
                for connection in self.take_idle() {
                    close(connection).await;
                }
            }
        }
        for slots in [&self.follower, &self.readers, &self.writer] {
            slots.permits.close();
        }
    }

    /// Closes the connections of one reader as soon as they are idle.
    pub async fn close_reader(&self, reader: Reader) {
        let slots = self.readers(reader);
        if let Ok(_exclusive) = slots.all().await {
            let idle: Vec<_> = lock(&slots.idle).drain(..).collect();
            for connection in idle {
                close(connection).await;
            }
        }
    }
}

/// Creates the file with mode 0600, where it may be created, and says which one it is; `None` for one that is not
/// whole.
///
/// A process that closes a file gives up every lock of the process on it.  So this must be a whole file while no connection is
/// open; any other one that is there is not opened.
fn look_into(path: &Path, expect: Expect) -> Result<Option<FileId>, OpenFailure> {
    if expect == Expect::Any
        && let Some(file) = FileId::of(path).map_err(OpenFailure::File)?
    {
        if path.is_dir() {
            return Err(OpenFailure::File(Errno::ISDIR.into()));
        }
        let access = rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK);
        return access.map(|()| Some(file)).map_err(|error| OpenFailure::File(error.into()));
    }
    // SQLite gives its -wal and -shm files the mode of the file itself.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(expect == Expect::Any).truncate(false).mode(0o600);
    let mut file = options.open(path).map_err(OpenFailure::File)?;
    let metadata = file.metadata().map_err(OpenFailure::File)?;
    if expect == Expect::Whole {
        let mut header = [0; HEADER_BYTES];
        match file.read_exact(&mut header) {
            Ok(()) if is_whole(&header, metadata.len()) => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(OpenFailure::File(error)),
        }
    }
    Ok(Some(FileId::from(&metadata)))
}

/// Moves what is in the `-wal` into the file, and makes the `-wal` empty.
async fn empty_wal(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let query = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)");
    let (is_busy, _, _): (bool, i64, i64) = query.fetch_one(connection).await?;
    if is_busy { Err(sqlx::Error::PoolTimedOut) } else { Ok(()) }
}

async fn close(connection: SqliteConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection to the key store's file did not close well");
    }
}

/// Whether this is SQLITE_BUSY or SQLITE_LOCKED, with any extended code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::thread;

    use super::*;

    /// Two folders change places behind a link, so that the file and its `-wal` are others at the same moment.
    #[test]
    fn the_wal_of_a_file_that_took_the_place_of_ours_is_never_taken_for_ours() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["ours", "other"] {
            fs::create_dir(at(folder)).unwrap();
            fs::write(at(folder).join("keys.db"), "").unwrap();
            fs::write(at(folder).join("keys.db-wal"), "").unwrap();
        }
        let path = at("link").join("keys.db");
        let ours = FileId::of(&at("ours").join("keys.db")).unwrap().unwrap();
        let wal = FileId::of(&at("ours").join("keys.db-wal")).unwrap();
        // The moment is between two calls of the operating system: most rounds miss it.
        for _ in 0..500 {
            for (folder, link) in [("ours", "link"), ("other", "next link")] {
                let _ = fs::remove_file(at(link));
                symlink(at(folder), at(link)).unwrap();
            }
            let connections = Connections::new(&path, SqliteConnectOptions::new(), false);
            connections.set(State::Open(Opened::at(&path, ours)));
            thread::scope(|scope| {
                scope.spawn(|| fs::rename(at("next link"), at("link")).unwrap());
                while connections.compare_and_note().is_ok() {}
            });
            let noted = match &*lock(&connections.state) {
                State::Open(opened) => opened.wal,
                State::NotOpened | State::Closed(_) => None,
            };
            assert_eq!(noted, wal);
        }
    }
}
