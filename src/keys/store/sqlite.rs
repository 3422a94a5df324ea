//! The store in a SQLite file: the default.

mod backup;
mod connections;
mod file;
mod origin;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteConnection;
use zeroize::Zeroizing;

pub use self::backup::{Backup, BackupError, back_up};
use self::connections::{Connections, ReadTransaction, Reader, WriteTransaction};
use super::rows::{self, ChangedRows, DeletedSession, KeyRow, LookRow, PersonRow, SessionRow};
use super::statements::{Dialect, Statements};
use super::{
    Committed, CreateError, EndedSessions, FollowerStore, ForgottenKeys, Gate, ListFilter, ListPage,
    ListPosition, NewKey, NumberedPage, OpenError, RecordedPerson, RotateError, Rotation, SECRET_BYTES,
    SessionLimit, Store, StoreError, StoreFailure, Upkeep,
};
use crate::keys::store::source::{
    ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, PersonPage, Revision, SessionPage, Source,
};
use crate::keys::{GrantCheck, Key, StoredKey, StoredPerson, StoredSession};
use crate::person::PersonId;
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

    async fn create_sessions(
        &self,
        gate: &Gate,
        sessions: &[StoredSession],
        limit: SessionLimit,
    ) -> Result<Committed<EndedSessions>, StoreError> {
        let mut transaction = self.write().await?;
        let mut ended = EndedSessions::default();
        for StoredSession { person, scope, .. } in sessions {
            let deleted: Vec<DeletedSession> = sqlx::query_as(SQL.sessions.end_oldest.as_str())
                .bind(&*person.subject)
                .bind(person.source.as_str())
                .bind(scope.as_str())
                .bind(limit.used_after.as_second())
                .bind(limit.opened_after.as_second())
                .bind(limit.max_sessions.saturating_sub(1))
                .fetch_all(&mut *transaction)
                .await?;
            let of_scope = rows::ended_sessions(&deleted);
            ended.digests.extend(of_scope.digests);
            ended.log_ins += of_scope.log_ins;
        }
        for session in sessions {
            let query = rows::bind_session(sqlx::query(SQL.sessions.insert.as_str()), session);
            query.execute(&mut *transaction).await?;
        }
        commit(gate, transaction, ended, sessions.len() as u64).await
    }

    async fn close_session(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
    ) -> Result<Committed<Vec<TokenDigest>>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query_scalar(SQL.sessions.close.as_str()).bind(digest.as_bytes().as_slice());
        let closed: Vec<Vec<u8>> = query.fetch_all(&mut *transaction).await?;
        commit(gate, transaction, rows::digests(&closed), closed.len() as u64).await
    }

    async fn end_sessions(
        &self,
        gate: &Gate,
        person: &PersonId,
        used_after: Timestamp,
        opened_after: Timestamp,
    ) -> Result<Committed<EndedSessions>, StoreError> {
        let mut transaction = self.write().await?;
        let deleted: Vec<DeletedSession> = sqlx::query_as(SQL.sessions.end_all.as_str())
            .bind(&*person.subject)
            .bind(person.source.as_str())
            .bind(used_after.as_second())
            .bind(opened_after.as_second())
            .fetch_all(&mut *transaction)
            .await?;
        commit(gate, transaction, rows::ended_sessions(&deleted), deleted.len() as u64).await
    }

    async fn update_claims(
        &self,
        gate: &Gate,
        digest: &TokenDigest,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<Committed<Vec<StoredSession>>, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query_as(SQL.sessions.update_claims.as_str()).bind(digest.as_bytes().as_slice());
        let query = query.bind(rows::object_text(claims)).bind(checked_at.as_second());
        let updated: Vec<SessionRow> = query.fetch_all(&mut *transaction).await?;
        let rows = updated.len() as u64;
        commit(gate, transaction, rows::sessions(updated), rows).await
    }

    async fn record_person(
        &self,
        gate: &Gate,
        person: &StoredPerson,
        max_people: u32,
    ) -> Result<Committed<RecordedPerson>, StoreError> {
        let mut transaction = self.write().await?;
        let PersonId { source, subject } = &person.person;
        let query = sqlx::query_as(SQL.people.find.as_str()).bind(source.as_str()).bind(&**subject);
        let before: Option<PersonRow> = query.fetch_optional(&mut *transaction).await?;
        let is_new = before.is_none();
        if let Some((id, before)) = before.and_then(rows::person).filter(|(_, before)| before.is_same(person))
        {
            let query = sqlx::query(SQL.people.see.as_str()).bind(id).bind(person.seen_at.as_second());
            query.execute(&mut *transaction).await?;
            let recorded = RecordedPerson { id, person: before, deleted: Vec::new() };
            return commit(gate, transaction, recorded, 0).await;
        }
        let query = rows::bind_person(sqlx::query_as(SQL.people.record.as_str()), person);
        let row: PersonRow = query.fetch_one(&mut *transaction).await?;
        let (id, person) = rows::person(row).ok_or(StoreFailure::UnreadableRow)?;
        let mut deleted = Vec::new();
        if is_new {
            let stored: i64 =
                sqlx::query_scalar("SELECT count(*) FROM api_people").fetch_one(&mut *transaction).await?;
            let too_many = stored - i64::from(max_people);
            if too_many > 0 {
                let query = sqlx::query_scalar(SQL.people.make_room.as_str()).bind(too_many).bind(id);
                deleted = query.fetch_all(&mut *transaction).await?;
            }
        }
        commit(gate, transaction, RecordedPerson { id, person, deleted }, 1).await
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
        let query = sqlx::query_as(sql.as_str()).bind(person.source.as_str());
        let mut query = query.bind(&*person.subject).bind(now.as_second());
        if let Some(opened_after) = unless_opened_after {
            query = query.bind(opened_after.as_second());
        }
        let ended: Option<PersonRow> = query.fetch_optional(&mut *transaction).await?;
        let rows = u64::from(ended.is_some());
        commit(gate, transaction, ended.and_then(rows::person), rows).await
    }

    async fn secret(
        &self,
        name: &str,
        new: &[u8; SECRET_BYTES],
        now: Timestamp,
    ) -> Result<Zeroizing<[u8; SECRET_BYTES]>, StoreError> {
        let mut transaction = self.read().await?;
        let query = sqlx::query_scalar(SQL.attempts.secret).bind(name);
        let known: Option<Vec<u8>> = query.fetch_optional(&mut *transaction).await?;
        transaction.end().await?;
        if let Some(known) = known {
            return Ok(rows::secret(known)?);
        }
        let mut transaction = self.write().await?;
        let query = sqlx::query(SQL.attempts.make_secret.as_str()).bind(name).bind(new.as_slice());
        query.bind(now.as_second()).execute(&mut *transaction).await?;
        let query = sqlx::query_scalar(SQL.attempts.secret).bind(name);
        let made: Vec<u8> = query.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::secret(made)?)
    }

    async fn use_state(&self, state: &TokenDigest, now: Timestamp) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query(SQL.attempts.use_state.as_str()).bind(state.as_bytes().as_slice());
        let rows = query.bind(now.as_second()).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(rows > 0)
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
        let (has_keys, has_sessions, has_people) = rows::named(&changed.log);
        if has_keys {
            let query = sqlx::query_as(SQL.changed_keys.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.keys = query.fetch_all(&mut *transaction).await?;
        }
        if has_sessions {
            let query = sqlx::query_as(SQL.sessions.changed.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.sessions = query.fetch_all(&mut *transaction).await?;
        }
        if has_people {
            let query = sqlx::query_as(SQL.people.changed.as_str()).bind(from.revision.0).bind(from.entry);
            let query = query.bind(last.revision.0).bind(last.entry);
            changed.people = query.fetch_all(&mut *transaction).await?;
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
        let query = sqlx::query_as(SQL.sessions.page.as_str()).bind(after);
        let mut transaction = self.read().await?;
        let page = query.fetch_all(&mut *transaction).await?;
        transaction.end().await?;
        Ok(rows::session_page(page))
    }

    async fn people(&self, after: i64) -> Result<PersonPage, StoreError> {
        let query = sqlx::query_as(SQL.people.page.as_str()).bind(after);
        let mut transaction = self.read().await?;
        let page = query.fetch_all(&mut *transaction).await?;
        transaction.end().await?;
        Ok(rows::person_page(page))
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

    async fn forget_people(&self, ended_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query(SQL.people.forget.as_str()).bind(ended_until.as_second()).bind(limit);
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
        let query = sqlx::query_as(SQL.expire_idle.as_str()).bind(now.as_second());
        let query = query.bind(used_until.as_second()).bind(limit);
        let rows: Vec<KeyRow> = query.fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows::keys(rows))
    }

    async fn forget_states(&self, used_until: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let query = sqlx::query(SQL.attempts.forget_states.as_str()).bind(used_until.as_second());
        let deleted = query.bind(limit).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok(deleted)
    }

    async fn stamp(&self) -> Result<(), StoreError> {
        // Who reads the file reads what was written last: no copy is behind.
        Ok(())
    }
}
