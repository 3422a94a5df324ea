//! Rows of the tables, as both databases give them, and the records that they stand for.
//!
//! A row's struct is the list of its columns: [`statements`](super::statements) selects what stands here.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Map;
use sqlx::query::QueryAs;
use sqlx::{ColumnIndex, Database, Decode, Encode, FromRow, Row, Type};

use super::{Changes, NewKey, Revision, StoreFailure};
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
        key_id: Option<i64> = Plain,
        session: Option<String> = Digest,
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

/// The sessions of rows.  One that is unreadable counts as absent.
pub(super) fn sessions(rows: Vec<SessionRow>) -> Vec<StoredSession> {
    rows.into_iter().filter_map(|row| row.try_into().ok()).collect()
}

/// The keys of a page: a JSON array of rows, each an array of its columns.  With them the id of the last row;
/// `None` when the page has no row.
pub(super) fn page(page: &str) -> Result<(Vec<StoredKey>, Option<i64>), StoreFailure> {
    let rows: Vec<KeyRow> = serde_json::from_str(page).map_err(|_| StoreFailure::UnreadableRow)?;
    let last = rows.last().map(|row| row.id);
    Ok((rows.into_iter().filter_map(key).collect(), last))
}

/// The entries of the change log since a revision, and what is left of the keys and sessions that they name.
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
    /// The changes up to this revision.  A key or session in the log that has no readable row is deleted.
    pub fn into_changes(self, revision: i64) -> Changes {
        let keys: Vec<StoredKey> = self.keys.into_iter().filter_map(key).collect();
        let sessions = sessions(self.sessions);
        let existing_keys: HashSet<i64> = keys.iter().map(|stored| stored.key.id).collect();
        let existing_sessions: HashSet<TokenDigest> = sessions.iter().map(|stored| stored.digest).collect();
        let (mut deleted_keys, mut deleted_sessions) = (Vec::new(), Vec::new());
        for ChangeRow { key_id, session } in self.log {
            deleted_keys.extend(key_id.filter(|id| !existing_keys.contains(id)));
            let session = session.and_then(|hex| TokenDigest::from_hex(&hex));
            deleted_sessions.extend(session.filter(|digest| !existing_sessions.contains(digest)));
        }
        Changes::Since { revision: Revision(revision), keys, deleted_keys, sessions, deleted_sessions }
    }
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
