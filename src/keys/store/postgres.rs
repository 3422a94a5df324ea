//! The store in PostgreSQL: for several replicas.

mod connections;
mod notifications;
mod schema;

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::connections::{Access, Connections, Database, Transaction, unnamed, unnamed_as, unnamed_scalar};
use self::notifications::Notifications;
use super::migrations::{SCHEMA, SchemaError};
use super::rows::{self, ChangedRows, DeletedSession, KeyRow, LookRow, PersonRow, SessionRow};
use super::statements::{Dialect, Statements};
use super::url::postgres as postgres_url;
use super::{
    Committed, CreateError, EndedSessions, FollowerStore, ForgottenKeys, Gate, GateGuard, ListFilter,
    ListPage, ListPosition, NewKey, NumberedPage, OpenError, OpenFailure, RecordedPerson, RotateError,
    Rotation, SECRET_BYTES, SessionLimit, Store, StoreError, StoreFailure, StoreUrl, Upkeep, UrlError,
};
use crate::keys::store::source::{
    ChangePage, Continuity, Cursor, KeyPage, LogPosition, Look, PersonPage, Revision, SessionPage, Source,
};
use crate::keys::{GrantCheck, Key, StoredKey, StoredPerson, StoredSession};
use crate::person::PersonId;
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

    /// Brings the schema up to date, and gives back its number.
    ///
    /// # Errors
    /// [`OpenError`]: the database does not answer within the timeouts, its schema is of no use to this version, another
    /// process holds the lock of migrations, or the role may not migrate.
    pub async fn migrate_once(url: &Secret) -> Result<i64, OpenError> {
        let store = Self::new(url, false)?;
        let migrated = timeout(MIGRATION_TIMEOUT, store.migrate()).await;
        let migrated = migrated.unwrap_or(Err(StoreError(StoreFailure::MigrationTimeout)));
        migrated.map(|before| SCHEMA.max(before)).map_err(|error| match error.0 {
            StoreFailure::Schema(error) => *error,
            failure => rejected(url, OpenFailure::Store(failure)),
        })
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
            Ok(before) => log_migration(before),
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
    /// Gives back the number of the schema that it was.
    ///
    /// After an error the connection may still hold the lock of migrations, so it is closed in every case.
    async fn migrate(&self) -> Result<i64, StoreError> {
        let target = self.database.target();
        let (mut connection, _) = connections::connect(&target).await?;
        let outcome = self.migrate_over(&mut connection).await;
        connections::close(connection).await;
        let before = outcome?;
        self.migrated.store(true, Ordering::Release);
        Ok(before)
    }

    async fn migrate_over(&self, connection: &mut PgConnection) -> Result<i64, StoreError> {
        let late = |_| StoreError(StoreFailure::Timeout(SCHEMA_TIMEOUT));
        let found = timeout(SCHEMA_TIMEOUT, schema::look(connection)).await.map_err(late)??;
        if found < SCHEMA {
            if self.is_read_only {
                return Err(SchemaError::Mismatch(OpenError::Older { found, known: SCHEMA }).into());
            }
            schema::migrate(connection, found).await?;
        }
        Ok(found)
    }

    /// Looks which schema there is where that is in doubt.
    async fn check_schema(&self) -> Result<(), StoreError> {
        if !self.is_schema_in_doubt.load(Ordering::Acquire) || !self.migrated.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut transaction = self.read().await?;
        let query = unnamed_scalar("SELECT max(version) FROM api_migrations");
        let found: Option<i64> = query.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        // Without one, somebody is restoring a backup, and would find our tables in the way.
        self.is_schema_in_doubt.store(found.is_none(), Ordering::Release);
        if found.is_some_and(|found| found < SCHEMA) {
            self.migrated.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// The error of a statement about a table that older schemas do not have.
    fn schema_doubted(&self, error: sqlx::Error) -> StoreError {
        // undefined_table
        if code(&error).as_deref() == Some("42P01") {
            self.is_schema_in_doubt.store(true, Ordering::Release);
        }
        error.into()
    }

    async fn begin(&self, access: Access) -> Result<Transaction, StoreError> {
        if !self.migrated.load(Ordering::Acquire) {
            return Err(StoreError(StoreFailure::NotReached));
        }
        self.connections.begin(access).await
    }

    async fn write(&self) -> Result<Transaction, StoreError> {
        self.begin(Access::Write).await
    }

    async fn read(&self) -> Result<Transaction, StoreError> {
        self.begin(Access::Read).await
    }

    async fn key_by_id(transaction: &mut Transaction, id: i64) -> Result<Option<StoredKey>, sqlx::Error> {
        let query = unnamed_as(SQL.key_by_id.as_str()).bind(id);
        let row: Option<KeyRow> = query.fetch_optional(&mut **transaction).await?;
        Ok(row.and_then(rows::key))
    }
}

/// Takes the lock that every change takes at its COMMIT, at once.  Rows that exist are locked before it, never after:
/// two transactions that each hold what the other waits for would end in an error.  The gate comes before it for the
/// same reason: a writer that commits holds the gate and waits for the lock.
async fn lock(gate: &Gate, transaction: &mut Transaction) -> Result<GateGuard, sqlx::Error> {
    let guard = gate.enter().await;
    sqlx::raw_sql("SELECT value FROM api_revision FOR UPDATE").execute(&mut **transaction).await?;
    Ok(guard)
}

/// Whether a column is missing (undefined_column): a backup of an older version was restored under this process, and is
/// to be brought up to date.  Where a table is missing, somebody may be restoring a backup, and
/// would find ours in the way.
fn is_of_schema(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some("42703")
}

/// The SQLSTATE of an error.
fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(DatabaseError::code)
}

/// Logs that the schema was brought up to date, where it was an older one.
fn log_migration(before: i64) {
    if (1..SCHEMA).contains(&before) {
        tracing::info!(before, schema = SCHEMA, "the key store's schema was brought up to date");
    }
}

fn rejected(url: &Secret, reason: OpenFailure) -> OpenError {
    OpenError::Rejected { store: StoreUrl::Postgres(url.clone()), reason }
}

/// Commits a transaction, which changed this number of rows, under the gate.
async fn commit<T>(
    gate: &Gate,
    transaction: Transaction,
    value: T,
    rows: u64,
) -> Result<Committed<T>, sqlx::Error> {
    commit_under(gate.enter().await, transaction, value, rows).await
}

/// The same, by who holds the gate.
async fn commit_under<T>(
    guard: GateGuard,
    transaction: Transaction,
    value: T,
    rows: u64,
) -> Result<Committed<T>, sqlx::Error> {
    transaction.commit().await?;
    Ok(Committed { value, is_change: rows > 0, guard })
}

#[async_trait]
impl Store for PostgresStore {
    fn for_follower(&self) -> FollowerStore {
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

    async fn create(&self, gate: &Gate, new: &NewKey) -> Result<Committed<StoredKey>, CreateError> {
        let mut transaction = self.write().await?;
        let guard = lock(gate, &mut transaction).await?;
        let sql = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE name = $1 AND revoked_at IS NULL \
                   AND (expires_at IS NULL OR expires_at >= to_timestamp($2) + interval '1 second'))";
        let taken: bool = unnamed_scalar(sql)
            .bind(&new.request.name)
            .bind(new.created_at.as_second())
            .fetch_one(&mut *transaction)
            .await?;
        if taken {
            return Err(CreateError::NameTaken);
        }
        if let Some(quota) = new.quota {
            let stored: i64 =
                unnamed_scalar("SELECT count(*) FROM api_keys").fetch_one(&mut *transaction).await?;
            if u64::try_from(stored).is_ok_and(|stored| stored >= quota) {
                return Err(CreateError::QuotaReached);
            }
        }
        let query = rows::bind_new_key(unnamed_as(SQL.insert_key.as_str()), new);
        let row: KeyRow = query.fetch_one(&mut *transaction).await?;
        let stored = rows::key(row).ok_or(StoreError(StoreFailure::UnreadableRow))?;
        Ok(commit_under(guard, transaction, stored, 1).await?)
    }

    async fn rotate(
        &self,
        gate: &Gate,
        rotation: &Rotation,
        grant_check: &GrantCheck<'_>,
    ) -> Result<Committed<StoredKey>, RotateError> {
        let &Rotation { id, digest, .. } = rotation;
        let mut transaction = self.write().await?;
        let query = unnamed("SELECT id FROM api_keys WHERE id = $1 FOR UPDATE").bind(id);
        query.execute(&mut *transaction).await?;
        let stored = Self::key_by_id(&mut transaction, id).await?.ok_or(RotateError::NotFound)?;
        let (expires_at, until) = rotation.check(&stored.key, grant_check)?;
        let sql = "UPDATE api_keys SET previous_digest = digest, previous_until = to_timestamp($2), digest = $3, \
                   expires_at = to_timestamp($4) WHERE id = $1";
        let query = unnamed(sql).bind(id).bind(until.as_second()).bind(digest.as_bytes().as_slice());
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
        let sql = "UPDATE api_keys SET revoked_at = to_timestamp($2), revoked_by = $3, previous_digest = NULL, \
                   previous_until = NULL WHERE id = $1 AND revoked_at IS NULL";
        let query = unnamed(sql).bind(id).bind(now.as_second()).bind(by);
        let rows = query.execute(&mut *transaction).await?.rows_affected();
        let stored = Self::key_by_id(&mut transaction, id).await?;
        Ok(commit(gate, transaction, stored, rows).await?)
    }

    async fn delete(&self, gate: &Gate, id: i64) -> Result<Committed<bool>, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed("DELETE FROM api_keys WHERE id = $1").bind(id);
        let is_deleted = query.execute(&mut *transaction).await?.rows_affected() > 0;
        Ok(commit(gate, transaction, is_deleted, u64::from(is_deleted)).await?)
    }

    async fn list_after(&self, filter: ListFilter, after: &ListPosition) -> Result<ListPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = unnamed_as(SQL.list_after.as_str()).bind(filter.live_at());
        let query = query.bind(&after.name).bind(after.id);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::list_page(rows))
    }

    async fn list_page(
        &self,
        filter: ListFilter,
        offset: u64,
        limit: u32,
    ) -> Result<NumberedPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = unnamed_scalar(SQL.list_count.as_str()).bind(filter.live_at());
        let total: i64 = query.fetch_one(&mut *transaction).await?;
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        let query = unnamed_as(SQL.list_page.as_str()).bind(filter.live_at());
        let query = query.bind(i64::from(limit)).bind(offset);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(NumberedPage { keys: rows::keys(rows), total: total.unsigned_abs() })
    }

    async fn get(&self, id: i64) -> Result<Option<Key>, StoreError> {
        let mut transaction = self.read().await?;
        let stored = Self::key_by_id(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(stored.map(|stored| stored.key))
    }

    async fn create_sessions(
        &self,
        gate: &Gate,
        sessions: &[StoredSession],
        limit: SessionLimit,
    ) -> Result<Committed<EndedSessions>, StoreError> {
        let mut transaction = self.write().await?;
        if let Some(StoredSession { person, .. }) = sessions.first() {
            let sql = "SELECT count(*) FROM ( \
                           SELECT 1 FROM api_sessions WHERE user_name = $1 AND source = $2 \
                           ORDER BY digest FOR UPDATE) AS locked";
            let query = unnamed(sql).bind(&*person.subject).bind(person.source.as_str());
            query.execute(&mut *transaction).await?;
        }
        let guard = lock(gate, &mut transaction).await?;
        let mut ended = EndedSessions::default();
        for StoredSession { person, scope, .. } in sessions {
            let deleted: Vec<DeletedSession> = unnamed_as(SQL.sessions.end_oldest.as_str())
                .bind(&*person.subject)
                .bind(person.source.as_str())
                .bind(scope.as_str())
                .bind(limit.used_after.as_second())
                .bind(limit.opened_after.as_second())
                .bind(i64::from(limit.max_sessions.saturating_sub(1)))
                .fetch_all(&mut *transaction)
                .await?;
            let of_scope = rows::ended_sessions(&deleted);
            ended.digests.extend(of_scope.digests);
            ended.log_ins += of_scope.log_ins;
        }
        for session in sessions {
            let query = rows::bind_session(unnamed(SQL.sessions.insert.as_str()), session);
            query.execute(&mut *transaction).await?;
        }
        Ok(commit_under(guard, transaction, ended, sessions.len() as u64).await?)
    }

    async fn close_session(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
    ) -> Result<Committed<Vec<TokenDigest>>, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed_scalar(SQL.sessions.close.as_str()).bind(digest.as_bytes().as_slice());
        let closed: Vec<Vec<u8>> = query.fetch_all(&mut *transaction).await?;
        Ok(commit(gate, transaction, rows::digests(&closed), closed.len() as u64).await?)
    }

    async fn end_sessions(
        &self,
        gate: &Gate,
        person: &PersonId,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Committed<EndedSessions>, StoreError> {
        let mut transaction = self.write().await?;
        let deleted: Vec<DeletedSession> = unnamed_as(SQL.sessions.end_all.as_str())
            .bind(&*person.subject)
            .bind(person.source.as_str())
            .bind(used_after.as_second())
            .bind(opened_after.as_second())
            .fetch_all(&mut *transaction)
            .await?;
        let rows = deleted.len() as u64;
        Ok(commit(gate, transaction, rows::ended_sessions(&deleted), rows).await?)
    }

    async fn update_claims(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<Committed<Vec<StoredSession>>, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed_as(SQL.sessions.update_claims.as_str()).bind(digest.as_bytes().as_slice());
        let query = query.bind(rows::object_text(claims)).bind(checked_at.as_second());
        let updated: Vec<SessionRow> = query.fetch_all(&mut *transaction).await?;
        let rows = updated.len() as u64;
        Ok(commit(gate, transaction, rows::sessions(updated), rows).await?)
    }

    async fn record_person(
        &self,
        gate: &Gate,
        person: &StoredPerson,
        max_people: u32,
    ) -> Result<Committed<RecordedPerson>, StoreError> {
        let mut transaction = self.write().await?;
        let PersonId { source, subject } = &person.person;
        let query = unnamed_as(SQL.people.find.as_str()).bind(source.as_str()).bind(&**subject);
        let before: Option<PersonRow> = query.fetch_optional(&mut *transaction).await?;
        let is_new = before.is_none();
        if let Some((id, before)) = before.and_then(rows::person).filter(|(_, before)| before.is_same(person))
        {
            let query = unnamed(SQL.people.see.as_str()).bind(id).bind(person.seen_at.as_second());
            query.execute(&mut *transaction).await?;
            let recorded = RecordedPerson { id, person: before, deleted: Vec::new() };
            return Ok(commit(gate, transaction, recorded, 0).await?);
        }
        let query = rows::bind_person(unnamed_as(SQL.people.record.as_str()), person);
        let row: PersonRow = query.fetch_one(&mut *transaction).await?;
        let (id, person) = rows::person(row).ok_or(StoreFailure::UnreadableRow)?;
        let mut deleted = Vec::new();
        if is_new {
            let query = unnamed_scalar("SELECT count(*) FROM api_people");
            let stored: i64 = query.fetch_one(&mut *transaction).await?;
            let too_many = stored - i64::from(max_people);
            if too_many > 0 {
                let query = unnamed_scalar(SQL.people.make_room.as_str()).bind(too_many).bind(id);
                deleted = query.fetch_all(&mut *transaction).await?;
            }
        }
        Ok(commit(gate, transaction, RecordedPerson { id, person, deleted }, 1).await?)
    }

    async fn end_person(
        &self,
        gate: &Gate,
        person: &PersonId,
        now: Timestamp,
        unless_opened_after: Option<Timestamp>,
    ) -> Result<Committed<Option<(i64, StoredPerson)>>, StoreError> {
        let mut transaction = self.write().await?;
        let sql = if unless_opened_after.is_some() { &SQL.people.end_absent } else { &SQL.people.end };
        let query = unnamed_as(sql.as_str()).bind(person.source.as_str());
        let mut query = query.bind(&*person.subject).bind(now.as_second());
        if let Some(opened_after) = unless_opened_after {
            query = query.bind(opened_after.as_second());
        }
        let ended: Option<PersonRow> = query.fetch_optional(&mut *transaction).await?;
        let rows = u64::from(ended.is_some());
        Ok(commit(gate, transaction, ended.and_then(rows::person), rows).await?)
    }

    async fn secret(
        &self,
        name: &str,
        new: &[u8; SECRET_BYTES],
        now: Timestamp,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreError> {
        // In a transaction that writes, each statement sees what others have committed before.
        let mut transaction = self.write().await?;
        let query = unnamed_scalar(SQL.attempts.secret).bind(name);
        let known: Result<Option<Vec<u8>>, sqlx::Error> = query.fetch_optional(&mut *transaction).await;
        let secret = match known.map_err(|error| self.schema_doubted(error))? {
            Some(known) => known,
            None => {
                let query = unnamed(SQL.attempts.make_secret.as_str()).bind(name).bind(new.as_slice());
                query.bind(now.as_second()).execute(&mut *transaction).await?;
                let query = unnamed_scalar(SQL.attempts.secret).bind(name);
                query.fetch_one(&mut *transaction).await?
            }
        };
        transaction.commit().await?;
        Ok(rows::secret(secret)?)
    }

    async fn use_state(&self, state: &TokenDigest, now: Timestamp) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed(SQL.attempts.use_state.as_str()).bind(state.as_bytes().as_slice());
        let inserted = query.bind(now.as_second()).execute(&mut *transaction).await;
        let inserted = inserted.map_err(|error| self.schema_doubted(error))?;
        transaction.commit().await?;
        Ok(inserted.rows_affected() > 0)
    }

    fn take_over(&self, url: &StoreUrl) -> Result<(), UrlError> {
        match url {
            StoreUrl::Postgres(url) => {
                self.database.replace(postgres_url::Target::parse(url.expose(), self.is_read_only)?);
                Ok(())
            }
            StoreUrl::Sqlite(_) => Ok(()),
        }
    }

    async fn accept_history(&self, gate: &Gate) -> Result<Committed<()>, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed("UPDATE api_revision SET accepted = api_random()");
        query.execute(&mut *transaction).await?;
        Ok(commit(gate, transaction, (), 0).await?)
    }

    async fn close(&self) {
        self.notifications.close().await;
        self.connections.close().await;
    }
}

#[async_trait]
impl Source for PostgresStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.check_schema().await?;
        if !self.migrated.load(Ordering::Acquire) {
            let late = |_| StoreError(StoreFailure::MigrationTimeout);
            log_migration(timeout(MIGRATION_TIMEOUT, self.migrate()).await.map_err(late)??);
        }
        Ok(())
    }

    async fn look(&self, since: Option<&Cursor>) -> Result<Look, StoreError> {
        let mut transaction = self.read().await?;
        let revision = since.map_or(0, |since| since.revision.0);
        let query = unnamed_as(SQL.look.as_str()).bind(revision);
        let row: Result<LookRow, sqlx::Error> = query.fetch_one(&mut *transaction).await;
        if row.as_ref().is_err_and(is_of_schema) {
            self.migrated.store(false, Ordering::Release);
            return Err(StoreError(StoreFailure::OlderSchema));
        }
        let row = row?;
        transaction.commit().await?;
        let look = row.into_look(since);
        if look.continuity == Continuity::Rewritten {
            self.is_schema_in_doubt.store(true, Ordering::Release);
        }
        Ok(look)
    }

    async fn changes(&self, from: LogPosition, until: Revision) -> Result<ChangePage, StoreError> {
        let mut transaction = self.read().await?;
        let pruned: i64 =
            unnamed_scalar("SELECT pruned FROM api_revision").fetch_one(&mut *transaction).await?;
        let query = unnamed_as(SQL.changes.as_str());
        let query = query.bind(from.revision.0).bind(from.entry).bind(until.0);
        let mut changed =
            ChangedRows { log: query.fetch_all(&mut *transaction).await?, ..Default::default() };
        let Some(last) = rows::last_entry(&changed.log) else {
            transaction.commit().await?;
            return Ok(changed.into_page(pruned));
        };
        let (has_keys, has_sessions, has_people) = rows::named(&changed.log);
        if has_keys {
            let query = unnamed_as(SQL.changed_keys.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.keys = query.fetch_all(&mut *transaction).await?;
        }
        if has_sessions {
            let query = unnamed_as(SQL.sessions.changed.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.sessions = query.fetch_all(&mut *transaction).await?;
        }
        if has_people {
            let query = unnamed_as(SQL.people.changed.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.people = query.fetch_all(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(changed.into_page(pruned))
    }

    async fn keys(&self, after: i64) -> Result<KeyPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = unnamed_as(SQL.keys.as_str()).bind(after);
        let page: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::key_page(page))
    }

    async fn sessions(&self, after: Option<TokenDigest>) -> Result<SessionPage, StoreError> {
        let mut transaction = self.read().await?;
        let after = after.map_or_else(Vec::new, |digest| digest.as_bytes().to_vec());
        let query = unnamed_as(SQL.sessions.page.as_str()).bind(after);
        let page: Result<Vec<SessionRow>, sqlx::Error> = query.fetch_all(&mut *transaction).await;
        if page.as_ref().is_err_and(is_of_schema) {
            self.migrated.store(false, Ordering::Release);
        }
        let page = page?;
        transaction.commit().await?;
        Ok(rows::session_page(page))
    }

    async fn people(&self, after: i64) -> Result<PersonPage, StoreError> {
        let mut transaction = self.read().await?;
        let query = unnamed_as(SQL.people.page.as_str()).bind(after);
        let page = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::person_page(page))
    }

    async fn changed(&self) -> Result<(), StoreError> {
        self.notifications.next().await
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
        let mut transaction = self.write().await?;
        unnamed(sql).bind(ids).bind(times).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
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
        let mut transaction = self.write().await?;
        unnamed(sql).bind(digests).bind(times).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn purge_sessions(&self, used_until: Timestamp, opened_until: Timestamp) -> Result<(), StoreError> {
        let sql = "DELETE FROM api_sessions WHERE digest IN ( \
                       SELECT digest FROM api_sessions \
                       WHERE last_used_at <= to_timestamp($1) OR created_at <= to_timestamp($2) \
                       ORDER BY digest FOR UPDATE)";
        let query = unnamed(sql).bind(used_until.as_second()).bind(opened_until.as_second());
        let mut transaction = self.write().await?;
        query.execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn forget_keys(&self, ended_until: Timestamp, limit: u32) -> Result<ForgottenKeys, StoreError> {
        // Another process may do the same at this moment: each deletes other keys.
        let sql = "WITH dead AS ( \
                       SELECT id FROM api_keys \
                       WHERE revoked_at <= to_timestamp($1) OR expires_at <= to_timestamp($1) \
                       ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED \
                   ) DELETE FROM api_keys USING dead WHERE api_keys.id = dead.id RETURNING revoked_at IS NOT NULL";
        let mut transaction = self.write().await?;
        let query = unnamed_scalar(sql).bind(ended_until.as_second()).bind(i64::from(limit));
        let were_revoked: Vec<bool> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(were_revoked.into_iter().collect())
    }

    async fn forget_people(&self, ended_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed(SQL.people.forget.as_str()).bind(ended_until.as_second()).bind(i64::from(limit));
        let deleted = query.execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(deleted)
    }

    async fn expire_idle(
        &self,
        now: Timestamp,
        used_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Key>, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed_as(SQL.expire_idle.as_str()).bind(now.as_second());
        let query = query.bind(used_until.as_second()).bind(i64::from(limit));
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::keys(rows))
    }

    async fn forget_states(&self, used_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let query = unnamed(SQL.attempts.forget_states.as_str()).bind(used_until.as_second());
        let deleted = query.bind(i64::from(limit)).execute(&mut *transaction).await;
        let deleted = deleted.map_err(|error| self.schema_doubted(error))?;
        transaction.commit().await?;
        Ok(deleted.rows_affected())
    }

    async fn stamp(&self) -> Result<(), StoreError> {
        // The one that holds the row is a writer, too.
        let sql = "UPDATE api_revision SET stamped_at = clock_timestamp() WHERE only_row IN ( \
                       SELECT only_row FROM api_revision \
                       WHERE stamped_at < clock_timestamp() - interval '4 seconds' FOR UPDATE SKIP LOCKED)";
        let mut transaction = self.write().await?;
        unnamed(sql).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }
}
