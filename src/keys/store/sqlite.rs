//! The store in a SQLite file: the default.

mod backup;
mod connections;
mod file;
mod origin;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;

pub use self::backup::{Backup, BackupError, back_up};
use self::connections::{Connections, ReadTransaction, Reader, WriteTransaction};
use super::rows::{self, ChangedRows, KeyRow, LookRow};
use super::statements::{Dialect, Statements};
use super::{
    Committed, CreateError, FollowerStore, ForgottenKeys, Gate, ListFilter, ListPage, ListPosition, NewKey,
    NumberedPage, OpenError, RotateError, Rotation, Store, StoreError, StoreFailure, Upkeep,
};
use crate::keys::store::source::{
    ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, Revision, SessionPage, Source,
};
use crate::keys::{GrantCheck, Key, StoredKey, StoredSession};
use crate::token::TokenDigest;

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
    connections: Arc<Connections>,
    reader: Reader,
}

impl SqliteStore {
    /// Opens the file, or creates it with mode 0600, and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]: it cannot be opened, is no database, or was written by a newer version.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { connections: Connections::open(path).await?, reader: Reader::Operations })
    }

    /// Opens an existing file for reading alone: nothing is created, and the schema stays as it is.
    pub fn open_read_only(path: &Path) -> Self {
        Self { connections: Connections::open_read_only(path), reader: Reader::Operations }
    }

    async fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.connections.read(self.reader).await
    }

    async fn write(&self) -> Result<WriteTransaction, StoreError> {
        self.connections.write().await
    }

    async fn key_by_id(connection: &mut SqliteConnection, id: i64) -> Result<Option<StoredKey>, sqlx::Error> {
        let query = sqlx::query_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(connection).await?;
        Ok(row.and_then(rows::key))
    }
}

/// Commits a transaction, which changed this number of rows, under the gate.
async fn commit<T>(
    gate: &Gate,
    transaction: WriteTransaction,
    value: T,
    rows: u64,
) -> Result<Committed<T>, StoreError> {
    let guard = gate.enter().await;
    transaction.commit().await?;
    Ok(Committed { value, is_change: rows > 0, guard })
}

#[async_trait]
impl Store for SqliteStore {
    fn for_follower(&self) -> FollowerStore {
        // Its connections are closed together with the others when the file is replaced.
        let store = Arc::new(Self { connections: Arc::clone(&self.connections), reader: Reader::Follower });
        let upkeep = (!self.connections.is_read_only()).then(|| Arc::clone(&store) as Arc<dyn Upkeep>);
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
        Ok(commit(gate, transaction, stored, 1).await?)
    }

    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, RotateError> {
        let &Rotation { id, digest, .. } = rotation;
        let mut transaction = self.write().await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        let (expires_at, until) = rotation.check(&stored.key, grant_check)?;
        let sql = "UPDATE api_keys SET previous_digest = digest, previous_until = ?2, digest = ?3, expires_at = ?4 WHERE id = ?1";
        let query = sqlx::query(sql).bind(id).bind(until.as_second()).bind(digest.as_bytes().as_slice());
        let query = query.bind(expires_at.map(Timestamp::as_second));
        query.execute(&mut *transaction).await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        Ok(commit(gate, transaction, stored, 1).await?)
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
        let rows = query.execute(&mut *transaction).await?.rows_affected();
        let stored = Self::key_by_id(&mut transaction, id).await?;
        Ok(commit(gate, transaction, stored, rows).await?)
    }

    async fn delete(&self, gate: &Gate, id: i64) -> Result<Committed<bool>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("DELETE FROM api_keys WHERE id = $1").bind(id);
        let is_deleted = query.execute(&mut *transaction).await?.rows_affected() > 0;
        Ok(commit(gate, transaction, is_deleted, u64::from(is_deleted)).await?)
    }

    async fn list_after(&self, filter: ListFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = sqlx::query_as(SQL.list_after.as_str()).bind(filter.live_at());
        let query = query.bind(&after.name).bind(after.id);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.end().await?;
        Ok(rows::list_page(rows))
    }

    async fn list_page(
        &self,
        filter: ListFilter,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = sqlx::query_scalar(SQL.list_count.as_str()).bind(filter.live_at());
        let total: i64 = query.fetch_one(&mut *transaction).await?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let query = sqlx::query_as(SQL.list_page.as_str()).bind(filter.live_at());
        let rows: Vec<KeyRow> = query.bind(limit).bind(offset).fetch_all(&mut *transaction).await?;
        transaction.end().await?;
        Ok(NumberedPage { keys: rows::keys(rows), total: total.unsigned_abs() })
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let mut transaction = self.read().await?;
        let stored = Self::key_by_id(&mut transaction, id).await?;
        transaction.end().await?;
        Ok(stored.map(|stored| stored.key))
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
        Ok(commit(gate, transaction, rows::digests(&ended), 1).await?)
    }

    async fn delete_session(&self, gate: &Gate, digest: &TokenDigest) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("DELETE FROM api_sessions WHERE digest = $1");
        let deleted = query.bind(digest.as_bytes().as_slice()).execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, (), deleted.rows_affected()).await?)
    }

    async fn accept_history(&self, gate: &Gate) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("UPDATE api_revision SET accepted = random()");
        query.execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, (), 0).await?)
    }

    async fn close(&self) {
        self.connections.close().await;
    }
}

#[async_trait]
impl Source for SqliteStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.connections.check_file().await
    }

    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        let mut transaction = self.read().await?;
        let revision = since.map_or(0, |since| since.revision.0);
        let query = sqlx::query_as(SQL.look.as_str()).bind(revision);
        let row: LookRow = query.fetch_one(&mut *transaction).await?;
        transaction.end().await?;
        Ok(row.into_look(since))
    }

    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        let mut transaction = self.read().await?;
        let pruned: i64 =
            sqlx::query_scalar("SELECT pruned FROM api_revision").fetch_one(&mut *transaction).await?;
        let query = sqlx::query_as(SQL.changes.as_str());
        let query = query.bind(from.revision.0).bind(from.entry).bind(until.0);
        let mut changed =
            ChangedRows { log: query.fetch_all(&mut *transaction).await?, ..Default::default() };
        let Some(last) = rows::last_entry(&changed.log) else {
            transaction.end().await?;
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
        transaction.end().await?;
        Ok(changed.into_page(pruned))
    }

    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        let query = sqlx::query_scalar(KEY_PAGE.as_str()).bind(after);
        let mut transaction = self.read().await?;
        let page: String = query.fetch_one(&mut *transaction).await?;
        transaction.end().await?;
        Ok(rows::key_page_of_json(&page)?)
    }

    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let query = sqlx::query_as(SQL.sessions.as_str()).bind(after);
        let mut transaction = self.read().await?;
        let page = query.fetch_all(&mut *transaction).await?;
        transaction.end().await?;
        Ok(rows::session_page(page))
    }

    async fn changed(&self) -> Result<(), StoreError> {
        std::future::pending().await
    }

    async fn close(&self) {
        self.connections.close_reader(self.reader).await;
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
        transaction.commit().await
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let sql = "UPDATE api_sessions SET last_used_at = ?2 WHERE digest = ?1 AND last_used_at <= ?2 - 60";
        for (digest, at) in used {
            let query = sqlx::query(sql).bind(digest.as_bytes().as_slice()).bind(at.as_second());
            query.execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM api_sessions WHERE last_used_at <= ?1 OR created_at <= ?2");
        let mut transaction = self.write().await?;
        let query = query.bind(used_until.as_second()).bind(opened_until.as_second());
        query.execute(&mut *transaction).await?;
        transaction.commit().await
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
