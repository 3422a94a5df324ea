//! The store in a SQLite file: the default.

mod backup;
mod connections;
mod file;
mod origin;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

pub use self::backup::{Backup, BackupError, back_up};
use self::connections::{Connections, ReadTransaction, Reader, WriteTransaction};
use super::operations::{self, reading};
use super::rows::{self, KeyRow};
use super::statements::{Dialect, Statements};
use super::transaction::{Bind, Database, DatabaseTransaction, Rows, StoreTransaction};
use super::value::{Value, values};
use super::{
    FollowerStore, ForgottenKeys, ForgottenRows, Gate, GateGuard, KeyUse, OpenError, SchemaChange,
    StoreError, StoreUrl, Upkeep, UrlError,
};
use crate::keys::Key;
use crate::keys::store::source::{
    AccountPage, ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, PersonPage, Revision, SessionPage,
    Source,
};
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
        let (store, change) = Self::open_and_migrate(path).await?;
        change.log();
        Ok(store)
    }

    /// Brings the schema of the file up to date, or creates the file, and closes it.
    ///
    /// # Errors
    /// As with [`SqliteStore::open`].
    pub async fn migrate_once(path: &Path) -> Result<SchemaChange, OpenError> {
        let (store, change) = Self::open_and_migrate(path).await?;
        store.connections.close().await;
        Ok(change)
    }

    async fn open_and_migrate(path: &Path) -> Result<(Self, SchemaChange), OpenError> {
        let (connections, change) = Connections::open(path).await?;
        Ok((Self { connections, reader: Reader::Operations }, change))
    }

    /// Opens an existing file for reading alone: nothing is created, and the schema stays as it is.
    pub fn open_read_only(path: &Path) -> Self {
        Self { connections: Connections::open_read_only(path), reader: Reader::Operations }
    }

    async fn read(&self) -> Result<StoreTransaction, StoreError> {
        self.begin_reading().await
    }

    async fn write(&self) -> Result<StoreTransaction, StoreError> {
        self.begin_writing().await
    }
}

/// A transaction of either kind.
pub(super) struct SqliteTransaction(OpenTransaction);

enum OpenTransaction {
    Read(ReadTransaction),
    Write(WriteTransaction),
}

impl SqliteTransaction {
    fn connection(&mut self) -> &mut SqliteConnection {
        match &mut self.0 {
            OpenTransaction::Read(transaction) => transaction,
            OpenTransaction::Write(transaction) => transaction,
        }
    }
}

#[async_trait]
impl DatabaseTransaction for SqliteTransaction {
    fn sql(&self) -> &'static Statements {
        &SQL
    }

    async fn fetch(&mut self, sql: &str, values: &[Value]) -> Result<Rows, StoreError> {
        let query = sqlx::query(AssertSqlSafe(sql)).bind_all(values);
        Ok(Rows::Sqlite(query.fetch_all(self.connection()).await?))
    }

    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        Ok(sqlx::query(AssertSqlSafe(sql)).bind_all(values).execute(self.connection()).await?.rows_affected())
    }

    /// A transaction that writes holds the lock of the file from its beginning.
    async fn lock(&mut self, _gate: &Gate) -> Result<(), StoreError> {
        Ok(())
    }

    fn take_guard(&mut self) -> Option<GateGuard> {
        None
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        match self.0 {
            OpenTransaction::Read(transaction) => transaction.end().await,
            OpenTransaction::Write(transaction) => transaction.commit().await,
        }
    }
}

impl Database for SqliteStore {
    async fn begin_reading(&self) -> Result<StoreTransaction, StoreError> {
        let transaction = OpenTransaction::Read(self.connections.read(self.reader).await?);
        Ok(StoreTransaction::new(SqliteTransaction(transaction)))
    }

    async fn begin_writing(&self) -> Result<StoreTransaction, StoreError> {
        let transaction = OpenTransaction::Write(self.connections.write().await?);
        Ok(StoreTransaction::new(SqliteTransaction(transaction)))
    }

    fn follower_store(&self) -> FollowerStore {
        // Its connections are closed together with the others when the file is replaced.
        let store = Arc::new(Self { connections: Arc::clone(&self.connections), reader: Reader::Follower });
        let upkeep = (!self.connections.is_read_only()).then(|| Arc::clone(&store) as Arc<dyn Upkeep>);
        FollowerStore { source: store, upkeep }
    }

    /// A file has neither user nor password.
    fn replace_url(&self, _url: &StoreUrl) -> Result<(), UrlError> {
        Ok(())
    }

    async fn close_connections(&self) {
        self.connections.close().await;
    }
}

#[async_trait]
impl Source for SqliteStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.connections.check_file().await
    }

    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        reading::look(self.read().await?, since).await
    }

    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        reading::changes(self.read().await?, from, until).await
    }

    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        let mut transaction = self.read().await?;
        let page: Option<(String,)> = transaction.row(&KEY_PAGE, &values![after]).await?;
        transaction.end().await?;
        Ok(rows::key_page_of_json(&page.map_or_else(String::new, |(page,)| page))?)
    }

    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        reading::sessions(self.read().await?, after).await
    }

    async fn people(&self, after: i64) -> Result<PersonPage, StoreError> {
        reading::people(self.read().await?, after).await
    }

    async fn accounts(&self, after: i64) -> Result<AccountPage, StoreError> {
        reading::accounts(self.read().await?, after).await
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
    async fn touch_keys(&self, used: &[KeyUse]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let sql = "UPDATE api_keys SET uses = uses + $3, last_address = CASE \
                       WHEN $4 IS NOT NULL AND coalesce(last_used_at, 0) <= $2 THEN $4 ELSE last_address END, \
                   last_used_at = max(coalesce(last_used_at, 0), $2) WHERE id = $1";
        for KeyUse { id, at, uses, address } in used {
            let uses = i64::try_from(*uses).unwrap_or(i64::MAX);
            transaction.execute(sql, &values![*id, *at, uses, address.as_deref()]).await?;
        }
        transaction.end().await
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        // Other processes write here too: all of them together write at most once a minute.
        let sql = "UPDATE api_sessions SET last_used_at = ?2 WHERE digest = ?1 AND last_used_at <= ?2 - 60";
        for (digest, at) in used {
            transaction.execute(sql, &values![digest, *at]).await?;
        }
        transaction.end().await
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        let sql = "DELETE FROM api_sessions WHERE last_used_at <= ?1 OR created_at <= ?2";
        transaction.execute(sql, &values![used_until, opened_until]).await?;
        transaction.end().await
    }

    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError> {
        let sql = "DELETE FROM api_keys WHERE id IN ( \
                       SELECT id FROM api_keys WHERE revoked_at <= ?1 OR expires_at <= ?1 ORDER BY id LIMIT ?2) \
                   RETURNING revoked_at IS NOT NULL";
        let mut transaction = self.write().await?;
        let were_revoked: Vec<(bool,)> = transaction.rows(sql, &values![ended_until, limit]).await?;
        transaction.end().await?;
        Ok(were_revoked.into_iter().map(|(was_revoked,)| was_revoked).collect())
    }

    async fn forget_people(&self, ended_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        reading::forget(self.write().await?, &SQL.people.forget, ended_until, limit).await
    }

    async fn expire_idle(
        &self,
        now: Timestamp,
        used_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError> {
        operations::expire_idle(self.write().await?, now, used_until, limit).await
    }

    async fn forget_states(&self, used_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        reading::forget(self.write().await?, &SQL.attempts.forget_states, used_until, limit).await
    }

    async fn forget_audit(&self, limit: u32) -> Result<ForgottenRows, StoreError> {
        operations::forget_audit(self.write().await?, limit).await
    }

    async fn stamp(&self) -> Result<(), StoreError> {
        // Who reads the file reads what was written last: no copy is behind.
        Ok(())
    }
}
