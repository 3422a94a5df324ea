//! The store in PostgreSQL: for several replicas.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::error::is_of_tls;
use super::migrations::{self, SchemaError};
use super::rows::{self, ChangedRows, KeyRow, LookRow};
use super::statements::{Dialect, Statements};
use super::url::postgres as postgres_url;
use super::{
    Committed, CreateError, FollowerStore, ForgottenKeys, Gate, GateGuard, ListFilter, ListPage,
    ListPosition, NewKey, NumberedPage, OpenError, OpenFailure, RotateError, Rotation, Store, StoreError,
    StoreFailure, StoreUrl, Upkeep,
};
use crate::keys::store::source::{
    ChangePage, Cursor, KeyPage, LogPosition, Look, Revision, SessionPage, Source,
};
use crate::keys::{GrantCheck, Key, Status, StoredKey, StoredSession};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// The channel that the triggers notify of changes.
const CHANNEL: &str = "envoy_auth_tokens";
/// The connections of one process for the operations of the API.
const MAX_CONNECTIONS: u32 = 8;
/// Those of the follower, besides the one that listens for notifications.
const FOLLOWER_CONNECTIONS: u32 = 2;
/// How long an operation waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the first attempt to reach the server may take.  Later ones happen in the background.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the migrations may take, those of another process before ours included.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(120);
/// A listening connection that was idle for this long is pinged.
const IDLE_INTERVAL: Duration = Duration::from_secs(20);
/// How long a connection may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// The settings of every connection of the pool.  A client that vanishes while it holds the lock of all changes
/// (its host lost, its process stopped) loses the lock.  A wait for a lock ends when the caller's does, so that no
/// queue grows behind it.
const SESSION_SETTINGS: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '5s'";

static SQL: LazyLock<Statements> = LazyLock::new(|| Statements::new(Dialect::Postgres));

/// A PostgreSQL database.  It reconnects by itself after an outage.
pub struct PostgresStore {
    pool: PgPool,
    listener: Mutex<Option<PgListener>>,
    options: PgConnectOptions,
    /// The schema is up to date.
    migrated: Arc<AtomicBool>,
    is_read_only: bool,
}

impl PostgresStore {
    /// Reaches the database and brings its schema up to date.
    ///
    /// A server that does not answer is no error: [`Source::look`] tries again.
    ///
    /// # Errors
    /// [`OpenError`]: it answers with an error that a retry does not change, or a newer version made its schema.
    pub async fn open(url: &Secret) -> Result<Self, OpenError> {
        let store = Self::unmigrated(url)?;
        let rejected = |reason| OpenError::Rejected { store: StoreUrl::Postgres(url.clone()), reason };
        for (parameter, path) in postgres_url::files(url.expose()) {
            // The client reports a missing file like a server that is not up yet.
            if let Err(error) = tokio::fs::read(&path).await {
                return Err(rejected(OpenFailure::UrlFile { parameter, path, error }));
            }
        }
        match timeout(OPEN_TIMEOUT, store.migrate()).await {
            Ok(Ok(())) => {}
            Ok(Err(SchemaError::Mismatch(error))) => return Err(error),
            Ok(Err(SchemaError::Database(error))) if is_final(&error) => {
                return Err(rejected(OpenFailure::Store(error.into())));
            }
            Ok(Err(SchemaError::Database(error))) => {
                let store = StoreUrl::Postgres(url.clone()).to_string();
                let reason = StoreFailure::from(error).to_string();
                tracing::warn!(store, reason, "the key store does not answer yet");
            }
            Err(_) => {
                let store = StoreUrl::Postgres(url.clone()).to_string();
                tracing::warn!(store, "the key store does not answer yet");
            }
        }
        Ok(store)
    }

    /// Opens a database for reading alone: the schema stays as it is, and transactions cannot write.
    ///
    /// # Errors
    /// [`OpenError::Url`].
    pub fn open_read_only(url: &Secret) -> Result<Self, OpenError> {
        let store = Self::unmigrated(url)?;
        store.migrated.store(true, Ordering::Release);
        Ok(Self { is_read_only: true, ..store })
    }

    fn unmigrated(url: &Secret) -> Result<Self, OpenError> {
        let options = postgres_url::options(url.expose())?.disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("envoy-auth-tokens"),
        };
        let pool = pool_options(MAX_CONNECTIONS).connect_lazy_with(options.clone());
        Ok(Self { pool, listener: Mutex::default(), options, migrated: Arc::default(), is_read_only: false })
    }

    /// Brings the schema up to date, on a connection of its own.
    ///
    /// The connection holds the lock of migrations, so it is closed in every case.
    async fn migrate(&self) -> Result<(), SchemaError> {
        let late = |_| SchemaError::Database(sqlx::Error::PoolTimedOut);
        let connecting = timeout(CONNECT_TIMEOUT, self.options.connect()).await.map_err(late)?;
        let mut connection = connecting.map_err(SchemaError::Database)?;
        let outcome = migrations::run(migrations::POSTGRES, &mut connection).await;
        let _ = connection.close().await;
        outcome?;
        self.migrated.store(true, Ordering::Release);
        Ok(())
    }

    /// The pool, once the schema is up to date.
    fn pool(&self) -> Result<&PgPool, StoreError> {
        if self.migrated.load(Ordering::Acquire) {
            Ok(&self.pool)
        } else {
            Err(StoreError(StoreFailure::NotReached))
        }
    }

    async fn write(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        // The isolation level is explicit, because a database may have another default.  After the lock, the
        // transaction must see what others committed before it.
        Ok(self.pool()?.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?)
    }

    async fn read(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool()?.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    async fn key_by_id(
        transaction: &mut Transaction<'static, Postgres>,
        id: i64,
    ) -> Result<Option<StoredKey>, sqlx::Error> {
        let query = sqlx::query_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(&mut **transaction).await?;
        Ok(row.and_then(rows::key))
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A new pool each time: the previous listener may never return a connection whose peer vanished.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
        let pool = pool.connect_lazy_with(self.options.clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        timeout(CONNECT_TIMEOUT, listening).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// The pool of connections for operations.
///
/// A connection whose peer vanished never answers again, and the library's own ping has no timeout: ours has one,
/// before and after use.
fn pool_options(max_connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(CONNECT_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION_SETTINGS).execute(connection).await.map(drop) })
        })
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(is_alive(connection)))
        .after_release(|connection, _| Box::pin(is_alive(connection)))
}

/// Whether a connection answers.  No error: one that does not is replaced.
async fn is_alive(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(matches!(timeout(PING_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
}

/// Takes the lock that every change takes at its COMMIT, at once.  Rows that exist are locked before it, never after:
/// two transactions that each hold what the other waits for would end in an error.  The gate comes before it for the
/// same reason: whoever commits holds the gate and waits for the lock.
async fn lock(
    gate: &Gate,
    transaction: &mut Transaction<'static, Postgres>,
) -> Result<GateGuard, sqlx::Error> {
    let guard = gate.enter().await;
    sqlx::query("SELECT value FROM api_revision FOR UPDATE").execute(&mut **transaction).await?;
    Ok(guard)
}

/// Whether the server answered with an error that a retry does not change: wrong user or password, no such database or schema, no permission (SQLSTATE classes 28, 3D, 3F, 42), or
/// TLS that we do not trust or it does not have.
fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => is_of_tls(error),
        error => {
            let code = error.as_database_error().and_then(DatabaseError::code);
            code.is_some_and(|code| ["28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class)))
        }
    }
}

/// Commits a transaction under the gate.
async fn commit<T>(
    gate: &Gate,
    transaction: Transaction<'static, Postgres>,
    value: T,
) -> Result<Committed<T>, sqlx::Error> {
    commit_under(gate.enter().await, transaction, value).await
}

/// The same, by who holds the gate.
async fn commit_under<T>(
    guard: GateGuard,
    transaction: Transaction<'static, Postgres>,
    value: T,
) -> Result<Committed<T>, sqlx::Error> {
    transaction.commit().await?;
    Ok(Committed { value, guard })
}

#[async_trait]
impl Store for PostgresStore {
    fn for_follower(&self) -> FollowerStore {
        let store = Arc::new(Self {
            pool: pool_options(FOLLOWER_CONNECTIONS).connect_lazy_with(self.options.clone()),
            listener: Mutex::default(),
            options: self.options.clone(),
            migrated: Arc::clone(&self.migrated),
            is_read_only: self.is_read_only,
        });
        let upkeep: Option<Arc<dyn Upkeep>> =
            if self.is_read_only { None } else { Some(Arc::clone(&store) as _) };
        FollowerStore { source: store, upkeep }
    }

    async fn create(&self, gate: &Gate, new: &NewKey) -> Result<Committed<StoredKey>, CreateError> {
        let mut transaction = self.write().await?;
        let guard = lock(gate, &mut transaction).await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at >= to_timestamp($2) + interval '1 second'))";
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
        Ok(commit_under(guard, transaction, stored).await?)
    }

    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, RotateError> {
        let &Rotation { id, digest, previous_until, now, expires_by } = rotation;
        let mut transaction = self.write().await?;
        let query = sqlx::query("SELECT id FROM api_keys WHERE id = $1 FOR UPDATE").bind(id);
        query.execute(&mut *transaction).await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        if stored.key.status(now) != Status::Live {
            return Err(RotateError::Dead);
        }
        grant_check(&stored.key)?;
        let expires_at = stored.key.expires_at.into_iter().chain(expires_by).min();
        let until = expires_at.map_or(previous_until, |expires_at| expires_at.min(previous_until));
        let sql = "UPDATE api_keys SET previous_digest = digest, previous_until = to_timestamp($2), digest = $3, \
                   expires_at = to_timestamp($4) WHERE id = $1";
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
        let sql = "UPDATE api_keys SET revoked_at = to_timestamp($2), revoked_by = $3, previous_digest = NULL, \
                   previous_until = NULL WHERE id = $1 AND revoked_at IS NULL";
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
        let mut transaction = self.read().await?;
        let query = sqlx::query_as(SQL.list_after.as_str()).bind(filter.live_at());
        let query = query.bind(&after.name).bind(after.id);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
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
        let query = query.bind(i64::from(limit)).bind(offset);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        Ok(NumberedPage { keys: rows::keys(rows), total: total.unsigned_abs() })
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let query = sqlx::query_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(self.pool()?).await?;
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
        let sql = "SELECT digest FROM api_sessions WHERE user_name = $1 ORDER BY digest FOR UPDATE";
        sqlx::query(sql).bind(&session.user).execute(&mut *transaction).await?;
        let guard = lock(gate, &mut transaction).await?;
        let sql = "SELECT digest FROM api_sessions WHERE user_name = $1 \
                   AND last_used_at > to_timestamp($2) AND created_at > to_timestamp($3) \
                   ORDER BY opened_after DESC, created_at DESC, digest OFFSET $4";
        let ended: Vec<Vec<u8>> = sqlx::query_scalar(sql)
            .bind(&session.user)
            .bind(used_after.as_second())
            .bind(opened_after.as_second())
            .bind(i64::from(max_sessions.saturating_sub(1)))
            .fetch_all(&mut *transaction)
            .await?;
        if !ended.is_empty() {
            let query = sqlx::query("DELETE FROM api_sessions WHERE digest = ANY($1)").bind(&ended);
            query.execute(&mut *transaction).await?;
        }
        let sql = "INSERT INTO api_sessions \
                   (digest, user_name, password_digest, created_at, last_used_at, opened_after) \
                   SELECT $1, $2, $3, to_timestamp($4), to_timestamp($5), value FROM api_revision";
        let query = sqlx::query(sql)
            .bind(session.digest.as_bytes().as_slice())
            .bind(&session.user)
            .bind(session.password_digest.as_bytes().as_slice())
            .bind(session.created_at.as_second())
            .bind(session.last_used_at.as_second());
        query.execute(&mut *transaction).await?;
        Ok(commit_under(guard, transaction, rows::digests(&ended)).await?)
    }

    async fn delete_session(&self, gate: &Gate, digest: &TokenDigest) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query("DELETE FROM api_sessions WHERE digest = $1");
        query.bind(digest.as_bytes().as_slice()).execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, ()).await?)
    }

    async fn close(&self) {
        drop(self.listener.lock().await.take());
        self.pool.close().await;
    }
}

#[async_trait]
impl Source for PostgresStore {
    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        if !self.migrated.load(Ordering::Acquire) {
            let late = |_| StoreError(StoreFailure::MigrationTimeout);
            timeout(MIGRATION_TIMEOUT, self.migrate()).await.map_err(late)??;
        }
        let mut transaction = self.read().await?;
        let revision = since.map_or(0, |since| since.revision.0);
        let query = sqlx::query_as(SQL.look.as_str()).bind(revision);
        let row: LookRow = query.fetch_one(&mut *transaction).await?;
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
        let mut transaction = self.read().await?;
        let query = sqlx::query_as(SQL.keys.as_str()).bind(after);
        let page: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        Ok(rows::key_page(page))
    }

    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        let mut transaction = self.read().await?;
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let query = sqlx::query_as(SQL.sessions.as_str()).bind(after);
        Ok(rows::session_page(query.fetch_all(&mut *transaction).await?))
    }

    async fn changed(&self) -> Result<(), StoreError> {
        let mut slot = self.listener.lock().await;
        let Some(listener) = slot.as_mut() else {
            *slot = Some(self.listen().await?);
            // Changes before this moment came without a notification.
            return Ok(());
        };
        loop {
            match timeout(IDLE_INTERVAL, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {
                    // Ten notifications at once are one reason to read.
                    while listener.next_buffered().is_some() {}
                    return Ok(());
                }
                Ok(Ok(None)) => {
                    *slot = None;
                    return Err(StoreError(StoreFailure::NotificationsLost));
                }
                Ok(Err(error)) => {
                    *slot = None;
                    return Err(error.into());
                }
                // A ping finds a peer that vanished.
                Err(_) => {
                    let answer =
                        timeout(CONNECT_TIMEOUT, sqlx::query("SELECT 1").execute(&mut *listener)).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        *slot = None;
                        return Err(StoreError(StoreFailure::NotificationsDead));
                    }
                }
            }
        }
    }

    async fn close(&self) {
        Store::close(self).await;
    }
}

#[async_trait]
impl Upkeep for PostgresStore {
    async fn touch_keys(&self, used: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        let (ids, times): (Vec<i64>, Vec<i64>) = used.iter().map(|(id, at)| (*id, at.as_second())).unzip();
        // Other replicas write here too: all of them together write at most once a minute.
        // Rows are locked in the order of ids, so that two replicas never wait for each other.
        let sql = "WITH due AS ( \
                       SELECT k.id, to_timestamp(u.at) AS at FROM api_keys k \
                       JOIN unnest($1::bigint[], $2::bigint[]) AS u (id, at) ON u.id = k.id \
                       WHERE k.last_used_at IS NULL OR k.last_used_at <= to_timestamp(u.at) - interval '60 seconds' \
                       ORDER BY k.id FOR UPDATE OF k \
                   ) UPDATE api_keys SET last_used_at = due.at FROM due WHERE api_keys.id = due.id";
        sqlx::query(sql).bind(ids).bind(times).execute(self.pool()?).await?;
        Ok(())
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        // Rows are locked in the order of digests, as everywhere.
        let (digests, times): (Vec<&[u8]>, Vec<i64>) =
            used.iter().map(|(digest, at)| (digest.as_bytes().as_slice(), at.as_second())).unzip();
        let sql = "WITH due AS ( \
                       SELECT s.digest, to_timestamp(u.at) AS at FROM api_sessions s \
                       JOIN unnest($1::bytea[], $2::bigint[]) AS u (digest, at) ON u.digest = s.digest \
                       WHERE s.last_used_at <= to_timestamp(u.at) - interval '60 seconds' \
                       ORDER BY s.digest FOR UPDATE OF s \
                   ) UPDATE api_sessions SET last_used_at = due.at FROM due WHERE api_sessions.digest = due.digest";
        sqlx::query(sql).bind(digests).bind(times).execute(self.pool()?).await?;
        Ok(())
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let sql = "DELETE FROM api_sessions WHERE digest IN ( \
                       SELECT digest FROM api_sessions \
                       WHERE last_used_at <= to_timestamp($1) OR created_at <= to_timestamp($2) \
                       ORDER BY digest FOR UPDATE)";
        let query = sqlx::query(sql).bind(used_until.as_second()).bind(opened_until.as_second());
        query.execute(self.pool()?).await?;
        Ok(())
    }

    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError> {
        // Another process may do the same at this moment: each deletes other keys.
        let sql = "WITH dead AS ( \
                       SELECT id FROM api_keys \
                       WHERE revoked_at <= to_timestamp($1) OR expires_at <= to_timestamp($1) \
                       ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED \
                   ) DELETE FROM api_keys USING dead WHERE api_keys.id = dead.id RETURNING revoked_at IS NOT NULL";
        let mut transaction = self.write().await?;
        let query = sqlx::query_scalar(sql).bind(ended_until.as_second()).bind(i64::from(limit));
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
        let query = query.bind(used_until.as_second()).bind(i64::from(limit));
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::keys(rows))
    }

    async fn stamp(&self) -> Result<(), StoreError> {
        // Whoever holds the row is a writer, too.
        let sql = "UPDATE api_revision SET stamped_at = clock_timestamp() WHERE only_row IN ( \
                       SELECT only_row FROM api_revision \
                       WHERE stamped_at < clock_timestamp() - interval '4 seconds' FOR UPDATE SKIP LOCKED)";
        sqlx::query(sql).execute(self.pool()?).await?;
        Ok(())
    }
}
