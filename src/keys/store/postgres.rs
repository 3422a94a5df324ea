//! Keys and sessions in PostgreSQL: for several replicas.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Postgres, Transaction};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::migrations::{self, SchemaError};
use super::rows::{self, ChangeRow, KeyRow, SessionRow, store_error};
use super::url::{postgres_files, postgres_options};
use super::{
    Changes, CreateError, NewKey, OpenError, Revision, RotateError, Snapshot, Store, StoreError, StoreUrl,
};
use crate::keys::{GrantCheck, Key, Status, StoredKey, StoredSession};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// Where the triggers say that something changed.
const CHANNEL: &str = "envoy_auth_tokens";
/// How many connections one process takes, besides the one that listens.
const CONNECTIONS: u32 = 8;
/// How long a connection is waited for.
const CONNECTING: Duration = Duration::from_secs(4);
/// How long the first attempt to reach the server may take; the next ones are made in the background.
const OPENING: Duration = Duration::from_secs(5);
/// How long the schema may take to come up to date, and whoever does it before us.
const MIGRATING: Duration = Duration::from_secs(120);
/// After this long without a word the listening connection is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(20);
/// How long a connection may take to say that it is still there.
const ANSWERING: Duration = Duration::from_secs(1);
/// What every working connection asks of the server.  Whoever vanishes while it holds the lock of all changes
/// (its host lost, its process stopped) loses it; and whoever waits for a lock waits no longer than the caller,
/// so that nobody piles up behind it.
const SETTINGS: &str = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '5s'";

macro_rules! key_columns {
    () => {
        "id, name, role, actor::text, policies::text, digest, previous_digest, \
         floor(extract(epoch FROM previous_until))::bigint, floor(extract(epoch FROM created_at))::bigint, \
         created_by, floor(extract(epoch FROM expires_at))::bigint, \
         floor(extract(epoch FROM last_used_at))::bigint, floor(extract(epoch FROM revoked_at))::bigint, \
         revoked_by"
    };
}

macro_rules! session_columns {
    () => {
        "digest, user_name, password_digest, floor(extract(epoch FROM created_at))::bigint, \
         floor(extract(epoch FROM last_used_at))::bigint"
    };
}

/// A PostgreSQL database, reached again by itself when it was away.
pub struct PostgresStore {
    pool: PgPool,
    listener: Mutex<Option<PgListener>>,
    options: PgConnectOptions,
    /// The schema is known to be as it should be.
    migrated: AtomicBool,
}

impl PostgresStore {
    /// Reaches the database and brings its schema up to date.
    ///
    /// A server that does not answer is no error: [`Store::snapshot`] tries again.
    ///
    /// # Errors
    /// [`OpenError`]: it answers and will go on to deny, or a newer version made its schema.
    pub async fn open(url: &Secret) -> Result<Self, OpenError> {
        let store = Self::unmigrated(url)?;
        let shown = || StoreUrl::Postgres(url.clone()).to_string();
        for (parameter, path) in postgres_files(url.expose()) {
            // A file that is not there looks like a socket that is not there yet.
            if let Err(error) = tokio::fs::read(&path).await {
                let reason = format!("{parameter} {}: {error}", path.display());
                return Err(OpenError::Rejected { store: shown(), reason });
            }
        }
        match timeout(OPENING, store.migrate()).await {
            Ok(Ok(())) => {}
            Ok(Err(SchemaError::Wrong(error))) => return Err(error),
            Ok(Err(SchemaError::Database(error))) if is_final(&error) => {
                return Err(OpenError::Rejected { store: shown(), reason: store_error(&error).0 });
            }
            Ok(Err(SchemaError::Database(error))) => {
                let reason = store_error(&error).0;
                tracing::warn!(store = shown(), reason, "the key store does not answer yet");
            }
            Err(_) => tracing::warn!(store = shown(), "the key store does not answer yet"),
        }
        Ok(store)
    }

    /// A database whose schema stays as it is.  Whatever is read is read in a transaction that cannot write.
    ///
    /// # Errors
    /// [`OpenError::Url`].
    pub fn to_read(url: &Secret) -> Result<Self, OpenError> {
        let store = Self::unmigrated(url)?;
        store.migrated.store(true, Ordering::Release);
        Ok(store)
    }

    fn unmigrated(url: &Secret) -> Result<Self, OpenError> {
        let options = postgres_options(url.expose())?.disable_statement_logging();
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("envoy-auth-tokens"),
        };
        let pool = working().connect_lazy_with(options.clone());
        Ok(Self { pool, listener: Mutex::default(), options, migrated: AtomicBool::new(false) })
    }

    /// Brings the schema up to date, on a connection of its own.
    ///
    /// The lock of those who migrate belongs to the connection: it is closed whatever happens.
    async fn migrate(&self) -> Result<(), SchemaError> {
        let late = |_| SchemaError::Database(sqlx::Error::PoolTimedOut);
        let connecting = timeout(CONNECTING, self.options.connect()).await.map_err(late)?;
        let mut connection = connecting.map_err(SchemaError::Database)?;
        let outcome = migrations::run(migrations::POSTGRES, &mut connection).await;
        let _ = connection.close().await;
        outcome?;
        self.migrated.store(true, Ordering::Release);
        Ok(())
    }

    /// The pool, once the schema is as it should be.
    fn pool(&self) -> Result<&PgPool, StoreError> {
        if self.migrated.load(Ordering::Acquire) {
            Ok(&self.pool)
        } else {
            Err(StoreError("it has not been reached yet".to_owned()))
        }
    }

    async fn write(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        // The isolation level is said, because a database may have another default: after the lock,
        // what others committed before it has to be seen.
        Ok(self.pool()?.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?)
    }

    async fn read(&self) -> Result<Transaction<'static, Postgres>, StoreError> {
        Ok(self.pool()?.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    async fn one_key(
        transaction: &mut Transaction<'static, Postgres>,
        id: i64,
    ) -> Result<Option<StoredKey>, sqlx::Error> {
        let sql = concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = $1");
        let row: Option<KeyRow> = sqlx::query_as(sql).bind(id).fetch_optional(&mut **transaction).await?;
        Ok(row.and_then(rows::key))
    }

    async fn listen(&self) -> Result<PgListener, sqlx::Error> {
        // A pool of its own each time: the listener before may never give back a connection that went silent.
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECTING);
        let pool = pool.connect_lazy_with(self.options.clone());
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok(listener)
        };
        timeout(CONNECTING, listening).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }
}

/// The connections that work.
///
/// One whose peer vanished without a word never answers again, and the library's own questions wait for ever:
/// ours do not, neither before nor after use.
fn working() -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECTING)
        .after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SETTINGS).execute(connection).await.map(drop) })
        })
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(answers(connection)))
        .after_release(|connection, _| Box::pin(answers(connection)))
}

/// Whether a connection is still there; no error, because it is replaced then.
async fn answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    Ok(matches!(timeout(ANSWERING, connection.ping()).await, Ok(Ok(()))))
}

/// Takes the lock that every change takes, before anything is looked at.
async fn lock(transaction: &mut Transaction<'static, Postgres>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT value FROM api_revision FOR UPDATE").execute(&mut **transaction).await?;
    Ok(())
}

/// Whether the server has answered, and will give the same answer as long as nobody changes anything:
/// wrong user or password, no such database or schema, no permission (SQLSTATE classes 28, 3D, 3F, 42), or
/// TLS that we do not trust or it does not have.
fn is_final(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => rows::is_of_tls(error),
        error => {
            let code = error.as_database_error().and_then(DatabaseError::code);
            code.is_some_and(|code| ["28", "3D", "3F", "42"].iter().any(|class| code.starts_with(class)))
        }
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        use futures_util::TryStreamExt;

        if !self.migrated.load(Ordering::Acquire) {
            let late = |_| StoreError("its schema did not come up to date in time".to_owned());
            timeout(MIGRATING, self.migrate()).await.map_err(late)??;
        }
        let mut transaction = self.read().await?;
        let revision: i64 =
            sqlx::query_scalar("SELECT value FROM api_revision").fetch_one(&mut *transaction).await?;
        let sql = concat!("SELECT ", key_columns!(), " FROM api_keys");
        let mut keys = Vec::new();
        {
            let found = sqlx::query_as::<_, KeyRow>(sql).fetch(&mut *transaction);
            let mut found = found.try_chunks(1000);
            while let Some(page) = found.try_next().await.map_err(|error| error.1)? {
                keys.push(page.into_iter().filter_map(rows::key).collect());
            }
        }
        let sql = concat!("SELECT ", session_columns!(), " FROM api_sessions");
        let sessions: Vec<SessionRow> = sqlx::query_as(sql).fetch_all(&mut *transaction).await?;
        Ok(rows::snapshot(revision, keys, sessions))
    }

    async fn changes(&self, since: Revision) -> Result<Changes, StoreError> {
        // As a rule nothing changed, and one question is enough.
        let revision: i64 =
            sqlx::query_scalar("SELECT value FROM api_revision").fetch_one(self.pool()?).await?;
        if revision == since.0 {
            return Ok(rows::Changed::default().since(revision));
        }
        let mut transaction = self.read().await?;
        let (revision, pruned): (i64, i64) =
            sqlx::query_as("SELECT value, pruned FROM api_revision").fetch_one(&mut *transaction).await?;
        if since.0 < pruned || since.0 > revision {
            return Ok(Changes::Unknown);
        }
        let sql = "SELECT DISTINCT key_id, session FROM api_changes WHERE revision > $1";
        let log: Vec<ChangeRow> = sqlx::query_as(sql).bind(since.0).fetch_all(&mut *transaction).await?;
        let sql = concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys WHERE id IN (SELECT key_id FROM api_changes WHERE revision > $1)"
        );
        let keys: Vec<KeyRow> = sqlx::query_as(sql).bind(since.0).fetch_all(&mut *transaction).await?;
        let sql = concat!(
            "SELECT ",
            session_columns!(),
            " FROM api_sessions WHERE digest IN (SELECT session FROM api_changes WHERE revision > $1)"
        );
        let sessions: Vec<SessionRow> =
            sqlx::query_as(sql).bind(since.0).fetch_all(&mut *transaction).await?;
        Ok(rows::Changed { log, keys, sessions }.since(revision))
    }

    async fn changed(&self) -> Result<(), StoreError> {
        let mut slot = self.listener.lock().await;
        let Some(listener) = slot.as_mut() else {
            *slot = Some(self.listen().await?);
            // What changed before we listened nobody told us.
            return Ok(());
        };
        loop {
            match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(_))) => {
                    // Ten changes at once are one reason to read.
                    while listener.next_buffered().is_some() {}
                    return Ok(());
                }
                Ok(Ok(None)) => {
                    *slot = None;
                    return Err(StoreError("the connection that tells of changes was lost".to_owned()));
                }
                Ok(Err(error)) => {
                    *slot = None;
                    return Err(error.into());
                }
                // A peer that vanished without a word is found by asking.
                Err(_) => {
                    let asked = timeout(CONNECTING, sqlx::query("SELECT 1").execute(&mut *listener)).await;
                    if !matches!(asked, Ok(Ok(_))) {
                        *slot = None;
                        return Err(StoreError("the connection that tells of changes is dead".to_owned()));
                    }
                }
            }
        }
    }

    async fn create(&self, new: &NewKey) -> Result<StoredKey, CreateError> {
        let mut transaction = self.write().await?;
        lock(&mut transaction).await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at >= to_timestamp($2) + interval '1 second'))";
        let taken: bool = sqlx::query_scalar(sql)
            .bind(&new.name)
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
        let sql = "INSERT INTO api_keys (name, role, actor, policies, digest, created_at, created_by, expires_at) \
                   VALUES ($1, $2, $3::json, $4::json, $5, to_timestamp($6), $7, to_timestamp($8)) RETURNING id";
        let id: i64 = sqlx::query_scalar(sql)
            .bind(&new.name)
            .bind(new.role.as_str())
            .bind(rows::actor_text(&new.actor))
            .bind(rows::policies_text(new.policies.as_deref()))
            .bind(new.digest.as_bytes().as_slice())
            .bind(new.created_at.as_second())
            .bind(&new.created_by)
            .bind(new.expires_at.map(Timestamp::as_second))
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(rows::made(id, new))
    }

    async fn rotate(
        &self,
        id: i64,
        digest: TokenDigest,
        previous_until: Timestamp,
        now: Timestamp,
        expires_by: Option<Timestamp>,
        may_give: &GrantCheck<'_>,
    ) -> Result<StoredKey, RotateError> {
        let mut transaction = self.write().await?;
        lock(&mut transaction).await?;
        let stored = Self::one_key(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        if stored.key.status(now) != Status::Live {
            return Err(RotateError::Dead);
        }
        may_give(&stored.key)?;
        let expires_at = stored.key.expires_at.into_iter().chain(expires_by).min();
        let until = expires_at.map_or(previous_until, |expires_at| expires_at.min(previous_until));
        let sql = "UPDATE api_keys SET previous_digest = digest, previous_until = to_timestamp($2), digest = $3, \
                   expires_at = to_timestamp($4) WHERE id = $1";
        let query = sqlx::query(sql).bind(id).bind(until.as_second()).bind(digest.as_bytes().as_slice());
        let query = query.bind(expires_at.map(Timestamp::as_second));
        query.execute(&mut *transaction).await?;
        let stored = Self::one_key(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        transaction.commit().await?;
        Ok(stored)
    }

    async fn revoke(&self, id: i64, by: &str, now: Timestamp) -> Result<Option<StoredKey>, StoreError> {
        let mut transaction = self.write().await?;
        let sql = "UPDATE api_keys SET revoked_at = to_timestamp($2), revoked_by = $3, previous_digest = NULL, \
                   previous_until = NULL WHERE id = $1 AND revoked_at IS NULL";
        let query = sqlx::query(sql).bind(id).bind(now.as_second()).bind(by);
        query.execute(&mut *transaction).await?;
        let stored = Self::one_key(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stored)
    }

    async fn delete(&self, id: i64) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM api_keys WHERE id = $1").bind(id);
        Ok(query.execute(self.pool()?).await?.rows_affected() > 0)
    }

    async fn list(&self) -> Result<Vec<Key>, StoreError> {
        // By bytes, as SQLite does, whatever the database's own order is.
        let sql = concat!("SELECT ", key_columns!(), " FROM api_keys ORDER BY name COLLATE \"C\", id");
        let found: Vec<KeyRow> = sqlx::query_as(sql).fetch_all(self.pool()?).await?;
        Ok(found.into_iter().filter_map(rows::key).map(|stored| stored.key).collect())
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let sql = concat!("SELECT ", key_columns!(), " FROM api_keys WHERE id = $1");
        let row: Option<KeyRow> = sqlx::query_as(sql).bind(id).fetch_optional(self.pool()?).await?;
        Ok(row.and_then(rows::key).map(|stored| stored.key))
    }

    async fn touch_keys(&self, used: &[(i64, Timestamp)]) -> Result<(), StoreError> {
        let (ids, times): (Vec<i64>, Vec<i64>) = used.iter().map(|(id, at)| (*id, at.as_second())).unzip();
        // Other replicas write here too: at most once a minute holds for all of them together.
        // Rows are locked in order, so that two replicas never wait for each other.
        let sql = "WITH due AS ( \
                       SELECT k.id, to_timestamp(u.at) AS at FROM api_keys k \
                       JOIN unnest($1::bigint[], $2::bigint[]) AS u (id, at) ON u.id = k.id \
                       WHERE k.last_used_at IS NULL OR k.last_used_at <= to_timestamp(u.at) - interval '60 seconds' \
                       ORDER BY k.id FOR UPDATE OF k \
                   ) UPDATE api_keys SET last_used_at = due.at FROM due WHERE api_keys.id = due.id";
        sqlx::query(sql).bind(ids).bind(times).execute(self.pool()?).await?;
        Ok(())
    }

    async fn create_session(
        &self,
        session: &StoredSession,
        most: u32,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Vec<TokenDigest>, StoreError> {
        let mut transaction = self.write().await?;
        lock(&mut transaction).await?;
        let sql = "SELECT digest FROM api_sessions WHERE user_name = $1 \
                   AND last_used_at > to_timestamp($2) AND created_at > to_timestamp($3) \
                   ORDER BY opened_after DESC, created_at DESC, digest OFFSET $4";
        let ended: Vec<Vec<u8>> = sqlx::query_scalar(sql)
            .bind(&session.user)
            .bind(used_after.as_second())
            .bind(opened_after.as_second())
            .bind(i64::from(most.saturating_sub(1)))
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
        transaction.commit().await?;
        Ok(rows::digests(&ended))
    }

    async fn touch_sessions(&self, used: &[(TokenDigest, Timestamp)]) -> Result<(), StoreError> {
        // The statement's trigger takes the lock of all changes before any row's: nobody waits crosswise.
        let (digests, times): (Vec<&[u8]>, Vec<i64>) =
            used.iter().map(|(digest, at)| (digest.as_bytes().as_slice(), at.as_second())).unzip();
        let sql = "UPDATE api_sessions s SET last_used_at = to_timestamp(u.at) \
                   FROM unnest($1::bytea[], $2::bigint[]) AS u (digest, at) \
                   WHERE s.digest = u.digest AND s.last_used_at <= to_timestamp(u.at) - interval '60 seconds'";
        sqlx::query(sql).bind(digests).bind(times).execute(self.pool()?).await?;
        Ok(())
    }

    async fn delete_session(&self, digest: &TokenDigest) -> Result<(), StoreError> {
        let query = sqlx::query("DELETE FROM api_sessions WHERE digest = $1");
        query.bind(digest.as_bytes().as_slice()).execute(self.pool()?).await?;
        Ok(())
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let sql = "DELETE FROM api_sessions \
                   WHERE last_used_at <= to_timestamp($1) OR created_at <= to_timestamp($2)";
        let query = sqlx::query(sql).bind(used_until.as_second()).bind(opened_until.as_second());
        query.execute(self.pool()?).await?;
        Ok(())
    }

    async fn close(&self) {
        drop(self.listener.lock().await.take());
        self.pool.close().await;
    }
}
