//! The store in a SQLite file: the default.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use rustix::fs::Access;
use rustix::io::Errno;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Sqlite, Transaction};

use super::migrations::{self, SchemaError};
use super::rows::{self, ChangedRows, KeyRow, LookRow};
use super::statements::{Dialect, Statements};
use super::{
    Committed, CreateError, FollowerStore, ForgottenKeys, Gate, ListFilter, ListPage, ListPosition, NewKey,
    NumberedPage, OpenError, OpenFailure, RotateError, Rotation, Store, StoreError, StoreFailure, StoreUrl,
    Upkeep,
};
use crate::folder::FolderProblem;
use crate::keys::source::{
    ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, Revision, SessionPage, Source,
};
use crate::keys::{GrantCheck, Key, Status, StoredKey, StoredSession};
use crate::token::TokenDigest;

/// How long an operation waits for another process's lock on the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);
/// How long opening may take: processes that open a new file at once lock each other out for a moment.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

static SQL: LazyLock<Statements> = LazyLock::new(|| Statements::new(Dialect::Sqlite));

/// A thousand keys with an id above `$1`, as one JSON array.  A row that the client reads costs several times what
/// SQLite takes to find it; as JSON, a million keys are read in seconds.
static KEY_PAGE: LazyLock<String> = LazyLock::new(|| {
    let columns = Dialect::Sqlite.expressions(KeyRow::COLUMNS);
    format!(
        "SELECT json_group_array(json_array({columns})) \
         FROM (SELECT * FROM api_keys WHERE id > $1 ORDER BY id LIMIT {MAX_PAGE})"
    )
});

/// A SQLite file in WAL mode, synced at every commit.
pub struct SqliteStore {
    /// One connection: SQLite has one writer at a time, and ours queue for it.
    writer: SqlitePool,
    /// In WAL mode readers wait for no writer.
    readers: SqlitePool,
    options: SqliteConnectOptions,
    is_read_only: bool,
}

impl SqliteStore {
    /// Opens the file, or creates it with mode 0600, and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: it cannot be opened, is no database, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let rejected = |reason: OpenFailure| {
            // The errors of SQLite and of the operating system name no folder.
            let reason = FolderProblem::of_file(path).map_or(reason, OpenFailure::Folder);
            OpenError::Rejected { store: StoreUrl::Sqlite(path.to_owned()), reason }
        };
        make_file(path).map_err(|error| rejected(OpenFailure::File(error)))?;

        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged write is on the disk, not only in the operating system's cache.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .disable_statement_logging();
        let store = Self::with_options(&options, 2);

        let deadline = tokio::time::Instant::now() + OPEN_TIMEOUT;
        loop {
            match store.migrate().await {
                Ok(()) => return Ok(store),
                Err(SchemaError::Database(error))
                    if is_busy(&error) && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(SchemaError::Database(error)) => return Err(rejected(OpenFailure::Store(error.into()))),
                Err(SchemaError::Mismatch(error)) => return Err(error),
            }
        }
    }

    /// Opens an existing file for reading alone: nothing is created, and the schema stays as it is.
    pub fn open_read_only(path: &Path) -> Self {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
        Self { is_read_only: true, ..Self::with_options(&options.disable_statement_logging(), 1) }
    }

    fn with_options(options: &SqliteConnectOptions, readers: u32) -> Self {
        let pool = |connections| {
            let pool =
                SqlitePoolOptions::new().max_connections(connections).max_lifetime(None).idle_timeout(None);
            pool.acquire_timeout(OPEN_TIMEOUT).connect_lazy_with(options.clone())
        };
        Self { writer: pool(1), readers: pool(readers), options: options.clone(), is_read_only: false }
    }

    /// The library's SQLite migrations take no lock, so all of them run in one transaction that holds the file's.
    async fn migrate(&self) -> Result<(), SchemaError> {
        let mut transaction = self.write().await.map_err(SchemaError::Database)?;
        migrations::run(migrations::SQLITE, &mut *transaction).await?;
        transaction.commit().await.map_err(SchemaError::Database)
    }

    /// A transaction that holds the write lock from its beginning.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    async fn key_by_id(
        transaction: &mut Transaction<'static, Sqlite>,
        id: i64,
    ) -> Result<Option<StoredKey>, sqlx::Error> {
        let query = sqlx::query_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(&mut **transaction).await?;
        Ok(row.and_then(rows::key))
    }
}

/// Makes the file unless it is there, and says whether it can be read and written.
///
/// A file that is there is not opened: closing it would take away every lock that SQLite holds on it in this process.
fn make_file(path: &Path) -> std::io::Result<()> {
    // SQLite gives its -wal and -shm files the mode of the file itself.
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if let Err(error) = options.create_new(true).open(path) {
        match rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK) {
            Ok(()) => {}
            // A link to a file that is not there yet.
            Err(Errno::NOENT) if error.kind() == ErrorKind::AlreadyExists => {
                options.create_new(false).create(true).open(path)?;
            }
            Err(_) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(denied) => return Err(denied.into()),
        }
    }
    Ok(())
}

/// Whether this is SQLITE_BUSY or SQLITE_LOCKED, with any extended code.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    code.and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Commits a transaction under the gate.
async fn commit<T>(
    gate: &Gate,
    transaction: Transaction<'static, Sqlite>,
    value: T,
) -> Result<Committed<T>, sqlx::Error> {
    let guard = gate.enter().await;
    transaction.commit().await?;
    Ok(Committed { value, guard })
}

#[async_trait]
impl Store for SqliteStore {
    fn for_follower(&self) -> FollowerStore {
        let store = Arc::new(Self::with_options(&self.options, 1));
        let upkeep: Option<Arc<dyn Upkeep>> =
            if self.is_read_only { None } else { Some(Arc::clone(&store) as _) };
        FollowerStore { source: store, upkeep }
    }

    async fn create(&self, gate: &Gate, new: &NewKey) -> Result<Committed<StoredKey>, CreateError> {
        let mut transaction = self.write().await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE name = ?1 AND revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at > ?2))";
        let taken: bool = sqlx::query_scalar(sql)
            .bind(&new.request.name)
            .bind(new.created_at.as_second())
            .fetch_one(&mut *transaction)
            .await?;
        if taken {
            return Err(CreateError::NameTaken);
        }
        if let Some(quota) = new.quota {
            let stored: i64 =
                sqlx::query_scalar("SELECT count(*) FROM api_keys").fetch_one(&mut *transaction).await?;
            if u64::try_from(stored).is_ok_and(|stored| stored >= quota) {
                return Err(CreateError::QuotaReached);
            }
        }
        let query = rows::bind_new_key(sqlx::query_as(SQL.insert_key.as_str()), new);
        let row: KeyRow = query.fetch_one(&mut *transaction).await?;
        let stored = rows::key(row).ok_or(StoreError(StoreFailure::UnreadableRow))?;
        Ok(commit(gate, transaction, stored).await?)
    }

    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, RotateError> {
        let &Rotation { id, digest, previous_until, now, expires_by } = rotation;
        let mut transaction = self.write().await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        if stored.key.status(now) != Status::Live {
            return Err(RotateError::Dead);
        }
        grant_check(&stored.key)?;
        let expires_at = stored.key.expires_at.into_iter().chain(expires_by).min();
        let until = expires_at.map_or(previous_until, |expires_at| expires_at.min(previous_until));
        let sql = "UPDATE api_keys SET previous_digest = digest, previous_until = ?2, digest = ?3, expires_at = ?4 WHERE id = ?1";
        let query = sqlx::query(sql).bind(id).bind(until.as_second()).bind(digest.as_bytes().as_slice());
        let query = query.bind(expires_at.map(Timestamp::as_second));
        query.execute(&mut *transaction).await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        Ok(commit(gate, transaction, stored).await?)
    }

    async fn revoke(
        &self,
        gate: &Gate,
        id: i64,
        by: &str,
        now: Timestamp,
    ) -> Result<Committed<Option<StoredKey>>, StoreError> {
        let mut transaction = self.write().await?;
        let sql = "UPDATE api_keys SET revoked_at = ?2, revoked_by = ?3, previous_digest = NULL, \
                   previous_until = NULL WHERE id = ?1 AND revoked_at IS NULL";
        let query = sqlx::query(sql).bind(id).bind(now.as_second()).bind(by);
        query.execute(&mut *transaction).await?;
        let stored = Self::key_by_id(&mut transaction, id).await?;
        Ok(commit(gate, transaction, stored).await?)
    }

    async fn delete(&self, gate: &Gate, id: i64) -> Result<Committed<bool>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("DELETE FROM api_keys WHERE id = $1").bind(id);
        let is_deleted = query.execute(&mut *transaction).await?.rows_affected() > 0;
        Ok(commit(gate, transaction, is_deleted).await?)
    }

    async fn list_after(&self, filter: ListFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        let query = sqlx::query_as(SQL.list_after.as_str()).bind(filter.live_at());
        let query = query.bind(&after.name).bind(after.id);
        let rows: Vec<KeyRow> = query.fetch_all(&self.readers).await?;
        Ok(rows::list_page(rows))
    }

    async fn list_page(
        &self,
        filter: ListFilter,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let query = sqlx::query_scalar(SQL.list_count.as_str()).bind(filter.live_at());
        let total: i64 = query.fetch_one(&mut *transaction).await?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let query = sqlx::query_as(SQL.list_page.as_str()).bind(filter.live_at());
        let rows: Vec<KeyRow> = query.bind(limit).bind(offset).fetch_all(&mut *transaction).await?;
        Ok(NumberedPage { keys: rows::keys(rows), total: total.unsigned_abs() })
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let query = sqlx::query_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(&self.readers).await?;
        Ok(row.and_then(rows::key).map(|stored| stored.key))
    }

    async fn create_session(
        &self,
        gate: &Gate,
        session: &StoredSession,
        max_sessions: u32,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Committed<Vec<TokenDigest>>, StoreError> {
        let mut transaction = self.write().await?;
        let sql = "SELECT digest FROM api_sessions WHERE user_name = ?1 AND last_used_at > ?2 AND created_at > ?3 \
                   ORDER BY opened_after DESC, created_at DESC, digest LIMIT -1 OFFSET ?4";
        let ended: Vec<Vec<u8>> = sqlx::query_scalar(sql)
            .bind(&session.user)
            .bind(used_after.as_second())
            .bind(opened_after.as_second())
            .bind(max_sessions.saturating_sub(1))
            .fetch_all(&mut *transaction)
            .await?;
        for digest in &ended {
            let query = sqlx::query("DELETE FROM api_sessions WHERE digest = ?1").bind(digest);
            query.execute(&mut *transaction).await?;
        }
        let sql = "INSERT INTO api_sessions \
                   (digest, user_name, password_digest, created_at, last_used_at, opened_after) \
                   SELECT ?1, ?2, ?3, ?4, ?5, value FROM api_revision";
        let query = sqlx::query(sql)
            .bind(session.digest.as_bytes().as_slice())
            .bind(&session.user)
            .bind(session.password_digest.as_bytes().as_slice())
            .bind(session.created_at.as_second())
            .bind(session.last_used_at.as_second());
        query.execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, rows::digests(&ended)).await?)
    }

    async fn delete_session(&self, gate: &Gate, digest: &TokenDigest) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("DELETE FROM api_sessions WHERE digest = $1");
        query.bind(digest.as_bytes().as_slice()).execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, ()).await?)
    }

    async fn close(&self) {
        self.readers.close().await;
        // The last connection to close moves the -wal into the file, so it must be one that may write.
        self.writer.close().await;
    }
}

#[async_trait]
impl Source for SqliteStore {
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        let revision = since.map_or(0, |since| since.revision.0);
        let query = sqlx::query_as(SQL.look.as_str()).bind(revision);
        let row: LookRow = query.fetch_one(&self.readers).await?;
        Ok(row.into_look(since))
    }

    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        let mut transaction = self.readers.begin().await?;
        let pruned: i64 =
            sqlx::query_scalar("SELECT pruned FROM api_revision").fetch_one(&mut *transaction).await?;
        let query = sqlx::query_as(SQL.changes.as_str());
        let query = query.bind(from.revision.0).bind(from.entry).bind(until.0);
        let mut changed =
            ChangedRows { log: query.fetch_all(&mut *transaction).await?, ..Default::default() };
        let Some(last) = rows::last_entry(&changed.log) else {
            return Ok(changed.into_page(pruned));
        };
        let (has_keys, has_sessions) = rows::named(&changed.log);
        if has_keys {
            let query = sqlx::query_as(SQL.changed_keys.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.keys = query.fetch_all(&mut *transaction).await?;
        }
        if has_sessions {
            let query = sqlx::query_as(SQL.changed_sessions.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.sessions = query.fetch_all(&mut *transaction).await?;
        }
        Ok(changed.into_page(pruned))
    }

    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        let query = sqlx::query_scalar(KEY_PAGE.as_str()).bind(after);
        let page: String = query.fetch_one(&self.readers).await?;
        Ok(rows::key_page_of_json(&page)?)
    }

    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let query = sqlx::query_as(SQL.sessions.as_str()).bind(after);
        Ok(rows::session_page(query.fetch_all(&self.readers).await?))
    }

    async fn changed(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn close(&self) {
        Store::close(self).await;
    }
}

#[async_trait]
impl Upkeep for SqliteStore {
    async fn touch_keys(&self, used: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        // Other processes write here too: all of them together write at most once a minute.
        let sql = "UPDATE api_keys SET last_used_at = ?2 \
                   WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at <= ?2 - 60)";
        for (id, at) in used {
            sqlx::query(sql).bind(id).bind(at.as_second()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let sql = "UPDATE api_sessions SET last_used_at = ?2 WHERE digest = ?1 AND last_used_at <= ?2 - 60";
        for (digest, at) in used {
            let query = sqlx::query(sql).bind(digest.as_bytes().as_slice()).bind(at.as_second());
            query.execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM api_sessions WHERE last_used_at <= ?1 OR created_at <= ?2");
        query.bind(used_until.as_second()).bind(opened_until.as_second()).execute(&self.writer).await?;
        Ok(())
    }

    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError> {
        let sql = "DELETE FROM api_keys WHERE id IN ( \
                       SELECT id FROM api_keys WHERE revoked_at <= ?1 OR expires_at <= ?1 ORDER BY id LIMIT ?2) \
                   RETURNING revoked_at IS NOT NULL";
        let mut transaction = self.write().await?;
        let query = sqlx::query_scalar(sql).bind(ended_until.as_second()).bind(limit);
        let were_revoked: Vec<bool> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(were_revoked.into_iter().collect())
    }

    async fn expire_idle(
        &self,
        now: Timestamp,
        used_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query_as(SQL.expire_idle.as_str()).bind(now.as_second());
        let query = query.bind(used_until.as_second()).bind(limit);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::keys(rows))
    }

    async fn stamp(&self) -> Result<(), StoreError> {
        // Who reads the file reads what was written last: no copy is behind.
        Ok(())
    }
}
