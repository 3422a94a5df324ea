//! Rows of the tables, as both databases give them, and the records that they stand for.
//!
//! A row's struct is the list of its columns: [`statements`](super::statements) selects what stands here.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Map;
use sqlx::query::QueryAs;
use sqlx::{ColumnIndex, Database, Decode, Encode, FromRow, Row, Type};

use super::{ListPage, ListPosition, NewKey, StoreFailure};
use crate::keys::store::history::{Continuity, HistoryRow};
use crate::keys::store::source::{
    ChangePage, Cursor, KeyPage, LogPosition, Look, MAX_PAGE, Revision, SessionPage,
};
use crate::keys::{Key, Role, StoredKey, StoredSession};
use crate::token::TokenDigest;

/// A column of a table.
pub(super) struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a column holds, as far as the two databases store or write it differently.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A number or a text.
    Plain,
    /// JSON; read as its text.
    Json,
    /// 32 bytes; read as hexadecimal.
    Digest,
    /// An instant; read and written as whole seconds since 1970.
    Time,
}

/// Defines a row: a struct with a field for each column, in the order in which the columns are selected.
///
/// `Deserialize` reads the same columns from a JSON array.  sqlx's `derive(FromRow)` would do half of this, and
/// would compile the whole client twice: once for its macros.
macro_rules! row {
    ($(#[$doc:meta])* $row:ident { $($column:ident: $type:ty = $kind:ident,)* }) => {
        $(#[$doc])*
        #[derive(serde::Deserialize)]
        pub(super) struct $row {
            $($column: $type,)*
        }

        impl $row {
            /// The columns, in the order of the fields.
            pub(super) const COLUMNS: &'static [Column] =
                &[$(Column { name: stringify!($column), kind: Kind::$kind },)*];
        }

        impl<'r, R: Row> FromRow<'r, R> for $row
        where
            &'static str: ColumnIndex<R>,
            i64: Decode<'r, R::Database> + Type<R::Database>,
            String: Decode<'r, R::Database> + Type<R::Database>,
        {
            fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
                Ok(Self { $($column: row.try_get(stringify!($column))?,)* })
            }
        }
    };
}

row! {
    /// A row of `api_keys`.  Digests are hexadecimal, times are seconds since 1970.
    KeyRow {
        id: i64 = Plain,
        name: String = Plain,
        role: String = Plain,
        actor: String = Json,
        policies: Option<String> = Json,
        digest: String = Digest,
        previous_digest: Option<String> = Digest,
        previous_until: Option<i64> = Time,
        created_at: i64 = Time,
        created_by: String = Plain,
        expires_at: Option<i64> = Time,
        last_used_at: Option<i64> = Time,
        revoked_at: Option<i64> = Time,
        revoked_by: Option<String> = Plain,
    }
}

row! {
    /// A row of `api_sessions`.
    SessionRow {
        digest: String = Digest,
        user_name: String = Plain,
        password_digest: String = Digest,
        created_at: i64 = Time,
        last_used_at: i64 = Time,
    }
}

row! {
    /// A row of `api_changes`: a key or a session that was created, changed or deleted.
    ChangeRow {
        revision: i64 = Plain,
        seq: i64 = Plain,
        key_id: Option<i64> = Plain,
        session: Option<String> = Digest,
    }
}

row! {
    /// What `api_revision` says, seen from a revision; the statement names the columns.
    LookRow {
        identity: String = Plain,
        value: i64 = Plain,
        mark: i64 = Plain,
        pruned: i64 = Plain,
        pruned_mark: i64 = Plain,
        accepted: i64 = Plain,
        oldest_reader: i64 = Plain,
        is_copy: i64 = Plain,
        age_ms: Option<i64> = Plain,
        logged_mark: Option<i64> = Plain,
    }
}

impl LookRow {
    /// Where the store stands, seen from the cursor whose revision the statement was given.
    pub fn into_look(self, since: Option<&Cursor>) -> Look {
        let age = self.age_ms.map(|age| Duration::from_millis(u64::try_from(age).unwrap_or(0)));
        let (accepted, oldest_reader) = (self.accepted, self.oldest_reader);
        let row = HistoryRow {
            cursor: Cursor {
                store: self.identity.into_boxed_str(),
                revision: Revision(self.value),
                mark: self.mark,
            },
            pruned: (self.pruned, self.pruned_mark),
            logged_mark: self.logged_mark,
            is_copy: self.is_copy != 0,
        };
        let continuity = since.map_or(Continuity::Continues, |since| row.continuity(since));
        Look { cursor: row.cursor, continuity, accepted, age, oldest_reader }
    }
}

/// A row holds a value that the schema does not allow.
pub(super) struct UnreadableRow;

impl TryFrom<KeyRow> for StoredKey {
    type Error = UnreadableRow;

    fn try_from(row: KeyRow) -> Result<Self, UnreadableRow> {
        let previous = match (row.previous_digest, row.previous_until) {
            (Some(digest), Some(until)) => Some((read_digest(&digest)?, instant(until)?)),
            _ => None,
        };
        // Most keys have no members of their own, and there may be very many keys.
        let actor = if row.actor == "{}" { Map::new() } else { json(&row.actor)? };
        Ok(Self {
            key: Key {
                id: row.id,
                name: row.name,
                role: Role::parse(&row.role).ok_or(UnreadableRow)?,
                actor,
                policies: row.policies.as_deref().map(json).transpose()?,
                created_at: instant(row.created_at)?,
                created_by: row.created_by,
                expires_at: row.expires_at.map(instant).transpose()?,
                last_used_at: row.last_used_at.map(instant).transpose()?,
                revoked_at: row.revoked_at.map(instant).transpose()?,
                revoked_by: row.revoked_by,
            },
            digest: read_digest(&row.digest)?,
            previous,
        })
    }
}

impl TryFrom<SessionRow> for StoredSession {
    type Error = UnreadableRow;

    fn try_from(row: SessionRow) -> Result<Self, UnreadableRow> {
        Ok(Self {
            digest: read_digest(&row.digest)?,
            user: row.user_name,
            password_digest: read_digest(&row.password_digest)?,
            created_at: instant(row.created_at)?,
            last_used_at: instant(row.last_used_at)?,
        })
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, UnreadableRow> {
    serde_json::from_str(text).map_err(|_| UnreadableRow)
}

fn read_digest(hex: &str) -> Result<TokenDigest, UnreadableRow> {
    TokenDigest::from_hex(hex).ok_or(UnreadableRow)
}

fn instant(second: i64) -> Result<Timestamp, UnreadableRow> {
    Timestamp::from_second(second).map_err(|_| UnreadableRow)
}

/// The key of a row.
///
/// The checks of the schema leave little that could be wrong with a row.  One that is unreadable all the same
/// counts as absent: it authenticates nobody, and other keys do not suffer.
pub(super) fn key(row: KeyRow) -> Option<StoredKey> {
    let id = row.id;
    let key = StoredKey::try_from(row).ok();
    if key.is_none() {
        tracing::error!(key_id = id, "the key store has a row that cannot be read: this key does not count");
    }
    key
}

/// The keys of rows.
pub(super) fn keys(rows: Vec<KeyRow>) -> Vec<Key> {
    rows.into_iter().filter_map(key).map(|stored| stored.key).collect()
}

/// A page of the list.  The next one begins after the last row, readable or not.
pub(super) fn list_page(rows: Vec<KeyRow>) -> ListPage {
    let last = rows.last().filter(|_| rows.len() >= MAX_PAGE);
    let next = last.map(|row| ListPosition { name: row.name.clone(), id: row.id });
    ListPage { keys: keys(rows), next }
}

/// The sessions of rows.  One that is unreadable counts as absent.
fn sessions(rows: Vec<SessionRow>) -> Vec<StoredSession> {
    rows.into_iter().filter_map(|row| row.try_into().ok()).collect()
}

/// A page of all sessions.
pub(super) fn session_page(rows: Vec<SessionRow>) -> SessionPage {
    let is_last = rows.len() < MAX_PAGE;
    // A digest is 32 bytes by the schema: the page after one that is not would be the same page again.
    let next = rows.last().and_then(|row| TokenDigest::from_hex(&row.digest)).filter(|_| !is_last);
    SessionPage { sessions: sessions(rows), next }
}

/// A page of all keys.
pub(super) fn key_page(rows: Vec<KeyRow>) -> KeyPage {
    let next = rows.last().map(|row| row.id).filter(|_| rows.len() >= MAX_PAGE);
    KeyPage { keys: rows.into_iter().filter_map(key).collect(), next }
}

/// A page of all keys from JSON: an array of rows, each an array of its columns.
pub(super) fn key_page_of_json(page: &str) -> Result<KeyPage, StoreFailure> {
    let rows: Vec<KeyRow> = serde_json::from_str(page).map_err(|_| StoreFailure::UnreadableRow)?;
    Ok(key_page(rows))
}

/// A page of the change log, and what is left of the keys and sessions that it names.
#[derive(Default)]
pub(super) struct ChangedRows {
    /// The entries.
    pub log: Vec<ChangeRow>,
    /// The keys that still exist.
    pub keys: Vec<KeyRow>,
    /// The sessions that still exist.
    pub sessions: Vec<SessionRow>,
}

impl ChangedRows {
    /// The changes.  A key or session in the log that has no readable row is deleted.
    pub fn into_page(self, pruned: i64) -> ChangePage {
        let next = last_entry(&self.log).filter(|_| self.log.len() >= MAX_PAGE);
        let keys: Vec<StoredKey> = self.keys.into_iter().filter_map(key).collect();
        let sessions = sessions(self.sessions);
        let existing_keys: HashSet<i64> = keys.iter().map(|stored| stored.key.id).collect();
        let existing_sessions: HashSet<TokenDigest> = sessions.iter().map(|stored| stored.digest).collect();
        let (mut deleted_keys, mut deleted_sessions) = (Vec::new(), Vec::new());
        for ChangeRow { key_id, session, .. } in self.log {
            deleted_keys.extend(key_id.filter(|id| !existing_keys.contains(id)));
            let session = session.and_then(|hex| TokenDigest::from_hex(&hex));
            deleted_sessions.extend(session.filter(|digest| !existing_sessions.contains(digest)));
        }
        let pruned = Revision(pruned);
        ChangePage { keys, deleted_keys, sessions, deleted_sessions, next, pruned }
    }
}

/// Where the last of these entries stands.
pub(super) fn last_entry(log: &[ChangeRow]) -> Option<LogPosition> {
    log.last().map(|row| LogPosition { revision: Revision(row.revision), entry: row.seq })
}

/// Whether the entries name keys, and whether they name sessions.
pub(super) fn named(log: &[ChangeRow]) -> (bool, bool) {
    (log.iter().any(|row| row.key_id.is_some()), log.iter().any(|row| row.session.is_some()))
}

/// The columns of `api_keys` for which a new key has a value, in the order in which [`bind_new_key`] binds them.
/// The others have a default.
pub(super) const NEW_KEY_COLUMNS: [&str; 8] =
    ["name", "role", "actor", "policies", "digest", "created_at", "created_by", "expires_at"];

/// Binds the values of [`NEW_KEY_COLUMNS`].
pub(super) fn bind_new_key<'q, DB, O>(
    query: QueryAs<'q, DB, O, DB::Arguments>,
    new: &NewKey,
) -> QueryAs<'q, DB, O, DB::Arguments>
where
    DB: Database,
    i64: Encode<'q, DB> + Type<DB>,
    String: Encode<'q, DB> + Type<DB>,
    Vec<u8>: Encode<'q, DB> + Type<DB>,
    Option<i64>: Encode<'q, DB>,
    Option<String>: Encode<'q, DB>,
{
    let NewKey { request, digest, created_at, quota: _ } = new;
    let actor = serde_json::to_string(&request.actor).expect("a JSON object serializes");
    let policies = request.policies.as_ref();
    let policies = policies.map(|names| serde_json::to_string(names).expect("a list of strings serializes"));
    query
        .bind(request.name.clone())
        .bind(request.role.as_str().to_owned())
        .bind(actor)
        .bind(policies)
        .bind(digest.as_bytes().to_vec())
        .bind(created_at.as_second())
        .bind(request.created_by.clone())
        .bind(request.expires_at.map(Timestamp::as_second))
}

/// The digests of these columns, each of 32 bytes.
pub(super) fn digests(columns: &[Vec<u8>]) -> Vec<TokenDigest> {
    let bytes = columns.iter().filter_map(|column| column.as_slice().try_into().ok());
    bytes.map(TokenDigest::from_bytes).collect()
}
