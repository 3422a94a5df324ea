//! The store in PostgreSQL: for several replicas.

mod connections;
mod notifications;
mod schema;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use jiff::Timestamp;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use self::connections::{Access, Connections, Database, Transaction, unnamed};
use self::notifications::Notifications;
use super::migrations::{SCHEMA, SchemaChange, SchemaError};
use super::operations::{self, reading};
use super::rows::{self, KeyRow};
use super::statements::{Dialect, Statements};
use super::transaction::{self, Bind, Database as _, DatabaseTransaction, Rows, StoreTransaction};
use super::url::postgres as postgres_url;
use super::value::{Value, values};
use super::{
    FollowerStore, ForgottenKeys, ForgottenRows, Gate, GateGuard, KeyUse, OpenError, OpenFailure, StoreError,
    StoreFailure, StoreUrl, Upkeep, UrlError,
};
use crate::keys::Key;
use crate::keys::store::source::{
    AccountPage, ChangePage, Continuity, Cursor, KeyPage, LogPosition, Look, PersonPage, Revision,
    SessionPage, Source,
};
use crate::priority::yield_after;
use crate::secret::Secret;
use crate::token::TokenDigest;

/// The connections of one process for the operations of the API.
const MAX_CONNECTIONS: u32 = 4;
/// Those of the follower, besides the one that listens for notifications.
const FOLLOWER_CONNECTIONS: u32 = 2;
/// How long the first attempt to reach the server may take.  Later ones happen in the background.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the database may take to say which schema it has.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the migrations may take, those of another process before ours included.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);

static SQL: LazyLock<Statements> = LazyLock::new(|| Statements::new(Dialect::Postgres));

/// A PostgreSQL database.  It reconnects by itself after an outage.
pub struct PostgresStore {
    database: Arc<Database>,
    connections: Connections,
    notifications: Notifications,
    /// The schema was found to be one that this program can use.
    migrated: Arc<AtomicBool>,
    /// Something says that a backup was restored under this process.  It may be one of an older version, which the tables
    /// that are read all the time do not show.
    is_schema_in_doubt: Arc<AtomicBool>,
    is_read_only: bool,
}

impl PostgresStore {
    /// Reaches the database and brings its schema up to date.
    ///
    /// A server that does not answer is no error: [`Source::look`] tries again.
    ///
    /// # Errors
    /// [`OpenError`]: it answers with an error that a retry does not change, its schema is of no use to this version, or
    /// the role may not bring it up to date.
    pub async fn open(url: &Secret) -> Result<Self, OpenError> {
        Self::new(url, false)?.reach(url).await
    }

    /// Reaches a database that is only read: its schema stays as it is, and transactions cannot write.
    ///
    /// # Errors
    /// As with [`PostgresStore::open`].
    pub async fn open_read_only(url: &Secret) -> Result<Self, OpenError> {
        Self::new(url, true)?.reach(url).await
    }

    /// The same, and nothing is reached before the first reading.
    ///
    /// # Errors
    /// [`OpenError::Url`].
    pub fn open_read_only_later(url: &Secret) -> Result<Self, OpenError> {
        Self::new(url, true)
    }

    /// Brings the schema up to date, and gives back what it was and what it is now.
    ///
    /// # Errors
    /// [`OpenError`]: the database does not answer within the timeouts, its schema is of no use to this version, another
    /// process holds the lock of migrations, or the role may not migrate.
    pub async fn migrate_once(url: &Secret) -> Result<SchemaChange, OpenError> {
        let store = Self::new(url, false)?;
        let migrated = timeout(MIGRATION_TIMEOUT, store.migrate()).await;
        let migrated = migrated.unwrap_or(Err(StoreError(StoreFailure::MigrationTimeout)));
        migrated.map(|Migrated { change, .. }| change).map_err(|error| open_error(url, error))
    }

    /// The rights that a server that writes needs and the role in the URL does not have, for each table such as
    /// `INSERT, UPDATE ON api_keys`.  Nothing is changed.
    ///
    /// # Errors
    /// The database does not answer within the timeouts, or with an error.
    pub async fn missing_rights(url: &Secret) -> Result<Vec<String>, OpenError> {
        let target = postgres_url::Target::parse(url.expose(), false)?;
        let asked = async {
            let (mut connection, _) = connections::connect(&target).await?;
            let missing = schema::missing_rights(&mut connection).await;
            connections::close(connection).await;
            Ok::<_, StoreError>(missing?)
        };
        let late = Err(StoreError(StoreFailure::Timeout(SCHEMA_TIMEOUT)));
        timeout(SCHEMA_TIMEOUT, asked).await.unwrap_or(late).map_err(|error| open_error(url, error))
    }

    fn new(url: &Secret, is_read_only: bool) -> Result<Self, OpenError> {
        let database = Arc::new(Database::new(postgres_url::Target::parse(url.expose(), is_read_only)?));
        Ok(Self {
            connections: Connections::new(Arc::clone(&database), MAX_CONNECTIONS),
            notifications: Notifications::new(Arc::clone(&database)),
            database,
            migrated: Arc::default(),
            is_schema_in_doubt: Arc::default(),
            is_read_only,
        })
    }

    async fn reach(self, url: &Secret) -> Result<Self, OpenError> {
        for (parameter, path) in postgres_url::files(url.expose()) {
            // The client reports a missing file like a server that is not up yet.
            if let Err(error) = tokio::fs::read(&path).await {
                return Err(rejected(url, OpenFailure::UrlFile { parameter, path, error }));
            }
        }
        let late = Err(StoreError(StoreFailure::ConnectTimeout));
        match timeout(OPEN_TIMEOUT, self.migrate()).await.unwrap_or(late) {
            Ok(migrated) => migrated.log(),
            Err(StoreError(StoreFailure::Schema(error))) => return Err(*error),
            Err(StoreError(failure)) if failure.is_final() => {
                return Err(rejected(url, OpenFailure::Store(failure)));
            }
            Err(StoreError(failure)) => {
                let store = StoreUrl::Postgres(url.clone()).to_string();
                tracing::warn!(store, reason = failure.to_string(), "the key store does not answer yet");
            }
        }
        Ok(self)
    }

    /// Brings the schema up to date, or looks whether it is where nothing is written, on a connection of its own.
    /// Looks which rights the role has.
    ///
    /// After an error the connection may still hold the lock of migrations, so it is closed in every case.
    async fn migrate(&self) -> Result<Migrated, StoreError> {
        let target = self.database.target();
        let (mut connection, _) = connections::connect(&target).await?;
        let outcome = self.migrate_over(&mut connection).await;
        connections::close(connection).await;
        let migrated = outcome?;
        self.migrated.store(true, Ordering::Release);
        Ok(migrated)
    }

    async fn migrate_over(&self, connection: &mut PgConnection) -> Result<Migrated, StoreError> {
        let late = |_| StoreError(StoreFailure::Timeout(SCHEMA_TIMEOUT));
        let found = timeout(SCHEMA_TIMEOUT, schema::look(connection)).await.map_err(late)??;
        if found < SCHEMA {
            if self.is_read_only {
                return Err(SchemaError::Mismatch(OpenError::Older { found, known: SCHEMA }).into());
            }
            schema::migrate(connection, found).await?;
        }
        let missing_rights = if self.is_read_only {
            Vec::new()
        } else {
            timeout(SCHEMA_TIMEOUT, schema::missing_rights(connection)).await.map_err(late)??
        };
        Ok(Migrated { change: SchemaChange::since(found), missing_rights })
    }

    /// Looks which schema there is where that is in doubt.
    async fn check_schema(&self) -> Result<(), StoreError> {
        if !self.is_schema_in_doubt.load(Ordering::Acquire) || !self.migrated.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut transaction = self.read().await?;
        let found: Option<(Option<i64>,)> =
            transaction.row("SELECT max(version) FROM api_migrations", &[]).await?;
        transaction.end().await?;
        let found = found.and_then(|(found,)| found);
        // Without a schema a backup may be in the middle of a restore, and our tables would be in the way.
        self.is_schema_in_doubt.store(found.is_none(), Ordering::Release);
        if found.is_some_and(|found| found < SCHEMA) {
            self.migrated.store(false, Ordering::Release);
        }
        Ok(())
    }

    async fn begin(&self, access: Access) -> Result<StoreTransaction, StoreError> {
        if !self.migrated.load(Ordering::Acquire) {
            return Err(StoreError(StoreFailure::NotReached));
        }
        Ok(StoreTransaction::new(PostgresTransaction {
            transaction: self.connections.begin(access).await?,
            guard: None,
            migrated: Arc::clone(&self.migrated),
            is_schema_in_doubt: Arc::clone(&self.is_schema_in_doubt),
        }))
    }

    async fn write(&self) -> Result<StoreTransaction, StoreError> {
        self.begin(Access::Write).await
    }

    async fn read(&self) -> Result<StoreTransaction, StoreError> {
        self.begin(Access::Read).await
    }
}

/// A transaction that notices when a backup of an older version was restored under this process.
pub(super) struct PostgresTransaction {
    transaction: Transaction,
    guard: Option<GateGuard>,
    migrated: Arc<AtomicBool>,
    is_schema_in_doubt: Arc<AtomicBool>,
}

impl PostgresTransaction {
    /// A statement failed: where a column is missing the schema is to be brought up to date.  Where a table is missing,
    /// a backup may be in the middle of a restore, and our tables would be in the way: the schema is read first.
    fn failed(&self, error: sqlx::Error) -> StoreError {
        match code(&error).as_deref() {
            // undefined_column
            Some("42703") => {
                self.migrated.store(false, Ordering::Release);
                return StoreError(StoreFailure::OlderSchema);
            }
            // undefined_table
            Some("42P01") => self.is_schema_in_doubt.store(true, Ordering::Release),
            Some(_) | None => {}
        }
        error.into()
    }
}

#[async_trait]
impl DatabaseTransaction for PostgresTransaction {
    fn sql(&self) -> &'static Statements {
        &SQL
    }

    async fn fetch(&mut self, sql: &str, values: &[Value]) -> Result<Rows, StoreError> {
        let mut count = 0;
        let rows = unnamed(AssertSqlSafe(sql)).bind_all(values).fetch(&mut *self.transaction);
        let rows = rows.inspect_ok(|_| {
            yield_after(count);
            count += 1;
        });
        let rows = rows.try_collect().await;
        rows.map(Rows::Postgres).map_err(|error| self.failed(error))
    }

    async fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        let done = unnamed(AssertSqlSafe(sql)).bind_all(values).execute(&mut *self.transaction).await;
        Ok(done.map_err(|error| self.failed(error))?.rows_affected())
    }

    /// The gate comes before the lock of all changes: a writer that commits holds the gate and waits for the lock.
    async fn lock(&mut self, gate: &Gate) -> Result<(), StoreError> {
        if self.guard.is_none() {
            self.guard = Some(gate.enter().await);
        }
        sqlx::raw_sql(SQL.lock_changes).execute(&mut *self.transaction).await?;
        Ok(())
    }

    fn take_guard(&mut self) -> Option<GateGuard> {
        self.guard.take()
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.transaction.commit().await?)
    }
}

/// The SQLSTATE of an error.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// A database whose schema is up to date.
struct Migrated {
    change: SchemaChange,
    /// The rights that a server that writes needs and the role does not have; none where it only reads.
    missing_rights: Vec<String>,
}

impl Migrated {
    fn log(self) {
        self.change.log();
        if !self.missing_rights.is_empty() {
            // It serves all the same: after rights were taken away by mistake, a restart must not deny every key.
            tracing::error!(
                missing = self.missing_rights.join("; "),
                "the role in the URL of the key store lacks rights of a server that writes: what needs them fails. Grant it \
                 these rights, or set `keys.read_only: true`, for which SELECT is enough"
            );
        }
    }
}

fn open_error(url: &Secret, error: StoreError) -> OpenError {
    match error.0 {
        StoreFailure::Schema(error) => *error,
        failure => rejected(url, OpenFailure::Store(failure)),
    }
}

fn rejected(url: &Secret, reason: OpenFailure) -> OpenError {
    OpenError::Rejected { store: StoreUrl::Postgres(url.clone()), reason }
}

impl transaction::Database for PostgresStore {
    async fn begin_reading(&self) -> Result<StoreTransaction, StoreError> {
        self.read().await
    }

    async fn begin_writing(&self) -> Result<StoreTransaction, StoreError> {
        self.write().await
    }

    fn follower_store(&self) -> FollowerStore {
        let store = Arc::new(Self {
            connections: Connections::new(Arc::clone(&self.database), FOLLOWER_CONNECTIONS),
            notifications: Notifications::new(Arc::clone(&self.database)),
            database: Arc::clone(&self.database),
            migrated: Arc::clone(&self.migrated),
            is_schema_in_doubt: Arc::clone(&self.is_schema_in_doubt),
            is_read_only: self.is_read_only,
        });
        let upkeep: Option<Arc<dyn Upkeep>> =
            if self.is_read_only { None } else { Some(Arc::clone(&store) as _) };
        FollowerStore { source: store, upkeep }
    }

    fn replace_url(&self, url: &StoreUrl) -> Result<(), UrlError> {
        match url {
            StoreUrl::Postgres(secret) => {
                let target = postgres_url::Target::parse(secret.expose(), self.is_read_only)?;
                self.database.propose(target, url.to_string());
                Ok(())
            }
            StoreUrl::Sqlite(_) => Ok(()),
        }
    }

    async fn close_connections(&self) {
        self.notifications.close().await;
        self.connections.close().await;
    }
}

#[async_trait]
impl Source for PostgresStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.database.try_proposal();
        self.check_schema().await?;
        if !self.migrated.load(Ordering::Acquire) {
            let late = |_| StoreError(StoreFailure::MigrationTimeout);
            timeout(MIGRATION_TIMEOUT, self.migrate()).await.map_err(late)??.log();
        }
        Ok(())
    }

    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        let look = reading::look(self.read().await?, since).await?;
        if look.continuity == Continuity::Rewritten {
            self.is_schema_in_doubt.store(true, Ordering::Release);
        }
        Ok(look)
    }

    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        reading::changes(self.read().await?, from, until).await
    }

    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        let mut transaction = self.read().await?;
        let page: Vec<KeyRow> = transaction.rows(&SQL.keys.page, &values![after]).await?;
        transaction.end().await?;
        Ok(rows::key_page(page))
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
        self.notifications.next().await
    }

    async fn close(&self) {
        self.close_connections().await;
    }
}

#[async_trait]
impl Upkeep for PostgresStore {
    async fn touch_keys(&self, used: &[KeyUse]) -> Result<(), StoreError> {
        let used: Vec<_> = used
            .iter()
            .map(|KeyUse { id, at, uses, address }| {
                json!({"id": id, "at": at.as_second(), "uses": uses, "address": address})
            })
            .collect();
        // Rows are locked in the order of ids, so that two replicas never wait for each other.
        let sql = "WITH used AS ( \
                       SELECT k.id, to_timestamp(u.at) AS at, u.uses, u.address FROM api_keys k \
                       JOIN json_to_recordset($1::json) AS u (id bigint, at bigint, uses bigint, address text) \
                       ON u.id = k.id ORDER BY k.id FOR UPDATE OF k \
                   ) UPDATE api_keys SET uses = api_keys.uses + used.uses, last_address = CASE \
                         WHEN used.address IS NOT NULL AND (last_used_at IS NULL OR last_used_at <= used.at) \
                         THEN used.address ELSE last_address END, \
                     last_used_at = greatest(last_used_at, used.at) FROM used WHERE api_keys.id = used.id";
        let mut transaction = self.write().await?;
        transaction.execute(sql, &values![serde_json::Value::Array(used).to_string()]).await?;
        transaction.end().await
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        let used: Vec<_> = used
            .iter()
            .map(|(digest, at)| json!({"digest": digest.to_hex(), "at": at.as_second()}))
            .collect();
        // Other replicas write here too: all of them together write at most once a minute.
        // Rows are locked in the order of digests, as everywhere.
        let sql = "WITH due AS ( \
                       SELECT s.digest, to_timestamp(u.at) AS at FROM api_sessions s \
                       JOIN json_to_recordset($1::json) AS u (digest text, at bigint) \
                       ON s.digest = decode(u.digest, 'hex') \
                       WHERE s.last_used_at <= to_timestamp(u.at) - interval '60 seconds' \
                       ORDER BY s.digest FOR UPDATE OF s \
                   ) UPDATE api_sessions SET last_used_at = due.at FROM due WHERE api_sessions.digest = due.digest";
        let mut transaction = self.write().await?;
        transaction.execute(sql, &values![serde_json::Value::Array(used).to_string()]).await?;
        transaction.end().await
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let sql = "DELETE FROM api_sessions WHERE digest IN ( \
                       SELECT digest FROM api_sessions \
                       WHERE last_used_at <= to_timestamp($1) OR created_at <= to_timestamp($2) \
                       ORDER BY digest FOR UPDATE)";
        let mut transaction = self.write().await?;
        transaction.execute(sql, &values![used_until, opened_until]).await?;
        transaction.end().await
    }

    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError> {
        // Another process may do the same at this moment: each deletes other keys.
        let sql = "WITH dead AS ( \
                       SELECT id FROM api_keys \
                       WHERE revoked_at <= to_timestamp($1) OR expires_at <= to_timestamp($1) \
                       ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED \
                   ) DELETE FROM api_keys USING dead WHERE api_keys.id = dead.id RETURNING revoked_at IS NOT NULL";
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
        // The one that holds the row is a writer, too.
        let sql = "UPDATE api_revision SET stamped_at = clock_timestamp() WHERE only_row IN ( \
                       SELECT only_row FROM api_revision \
                       WHERE stamped_at < clock_timestamp() - interval '4 seconds' FOR UPDATE SKIP LOCKED)";
        let mut transaction = self.write().await?;
        transaction.execute(sql, &[]).await?;
        transaction.end().await
    }
}
