//! Rows as both databases give them, and what they mean.

use std::borrow::Cow;
use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{Changes, CreateError, NewKey, Revision, RotateError, Snapshot, StoreError};
use crate::keys::{Key, Role, StoredKey, StoredSession};
use crate::token::TokenDigest;

/// A key's row: id, name, role, actor, policies, digest, previous_digest, previous_until,
/// created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by.
pub(super) type KeyRow = (
    i64,
    String,
    String,
    String,
    Option<String>,
    Vec<u8>,
    Option<Vec<u8>>,
    Option<i64>,
    i64,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// A session's row: digest, user_name, password_digest, created_at, last_used_at.
pub(super) type SessionRow = (Vec<u8>, String, Vec<u8>, i64, i64);

/// A change's row: key_id, session.
pub(super) type ChangeRow = (Option<i64>, Option<Vec<u8>>);

/// What a key's row means.
///
/// The schema's checks leave little that could be wrong with it.  Should somebody have written what
/// we cannot read all the same, the row is as good as absent: nobody passes by it, and others do not suffer.
pub(super) fn key(row: KeyRow) -> Option<StoredKey> {
    let id = row.0;
    let key = read_key(row);
    if key.is_none() {
        tracing::error!(key_id = id, "the key store has a row that cannot be read: this key does not count");
    }
    key
}

fn read_key(row: KeyRow) -> Option<StoredKey> {
    let (id, name, role, actor, policies, digest, previous_digest, previous_until, ..) = row;
    let (.., created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by) = row;
    let previous = match (previous_digest, previous_until) {
        (Some(digest), Some(until)) => Some((self::digest(&digest)?, instant(until)?)),
        _ => None,
    };
    // Most keys have no members of their own, and there may be very many keys.
    let actor = if actor == "{}" { Map::new() } else { serde_json::from_str(&actor).ok()? };
    Some(StoredKey {
        key: Key {
            id,
            name,
            role: Role::parse(&role)?,
            actor,
            policies: optional(policies, |text| serde_json::from_str(&text).ok())?,
            created_at: instant(created_at)?,
            created_by,
            expires_at: optional(expires_at, instant)?,
            last_used_at: optional(last_used_at, instant)?,
            revoked_at: optional(revoked_at, instant)?,
            revoked_by,
        },
        digest: self::digest(&digest)?,
        previous,
    })
}

/// Reads a value that may be absent; `None` when it is there and cannot be read.
fn optional<T, U>(value: Option<T>, read: impl FnOnce(T) -> Option<U>) -> Option<Option<U>> {
    match value {
        None => Some(None),
        Some(value) => read(value).map(Some),
    }
}

/// A key's row in a page of them as JSON: as a [`KeyRow`], but for digests in hexadecimal.
type JsonKeyRow<'p> = (
    i64,
    String,
    Cow<'p, str>,
    Cow<'p, str>,
    Option<Cow<'p, str>>,
    Cow<'p, str>,
    Cow<'p, str>,
    Option<i64>,
    i64,
    String,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<String>,
);

/// The keys of a page of rows as JSON, and the id of its last row; `None` when it has no row.
pub(super) fn page(page: &str) -> Result<(Vec<StoredKey>, Option<i64>), StoreError> {
    let unreadable = |_| StoreError("a row cannot be read".to_owned());
    let found: Vec<JsonKeyRow<'_>> = serde_json::from_str(page).map_err(unreadable)?;
    let last = found.last().map(|row| row.0);
    let bytes = |hex: &str| TokenDigest::from_hex(hex).map(|digest| digest.as_bytes().to_vec());
    let found = found.into_iter().map(|row| {
        let (id, name, role, actor, policies, digest, previous, until, ..) = row;
        let (.., created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by) = row;
        (
            id,
            name,
            role.into_owned(),
            actor.into_owned(),
            policies.map(Cow::into_owned),
            bytes(&digest).unwrap_or_default(),
            bytes(&previous),
            until,
            created_at,
            created_by,
            expires_at,
            last_used_at,
            revoked_at,
            revoked_by,
        )
    });
    Ok((found.filter_map(key).collect(), last))
}

/// What a session's row means.
pub(super) fn session(row: SessionRow) -> Option<StoredSession> {
    let (digest, user, password_digest, created_at, last_used_at) = row;
    Some(StoredSession {
        digest: self::digest(&digest)?,
        user,
        password_digest: self::digest(&password_digest)?,
        created_at: instant(created_at)?,
        last_used_at: instant(last_used_at)?,
    })
}

/// A digest's 32 bytes.
pub(super) fn digest(bytes: &[u8]) -> Option<TokenDigest> {
    Some(TokenDigest::from_bytes(bytes.try_into().ok()?))
}

/// The digests among these.
pub(super) fn digests(found: &[Vec<u8>]) -> Vec<TokenDigest> {
    found.iter().filter_map(|bytes| digest(bytes)).collect()
}

fn instant(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}

/// Everything, as rows.
pub(super) fn snapshot(revision: i64, keys: Vec<Vec<StoredKey>>, sessions: Vec<SessionRow>) -> Snapshot {
    Snapshot {
        revision: Revision(revision),
        keys,
        sessions: sessions.into_iter().filter_map(session).collect(),
    }
}

/// What the change log names, and what is left of it.
#[derive(Default)]
pub(super) struct Changed {
    /// The log's rows.
    pub log: Vec<ChangeRow>,
    /// The keys among them that are there.
    pub keys: Vec<KeyRow>,
    /// The sessions among them that are there.
    pub sessions: Vec<SessionRow>,
}

impl Changed {
    /// What changed.  Whatever the log names and cannot be found, or cannot be read, is gone.
    pub fn since(self, revision: i64) -> Changes {
        let keys: Vec<StoredKey> = self.keys.into_iter().filter_map(key).collect();
        let sessions: Vec<StoredSession> = self.sessions.into_iter().filter_map(session).collect();
        let here: HashSet<i64> = keys.iter().map(|stored| stored.key.id).collect();
        let open: HashSet<TokenDigest> = sessions.iter().map(|stored| stored.digest).collect();
        let (ids, digests): (Vec<_>, Vec<_>) = self.log.into_iter().unzip();
        let digests = digests.into_iter().flatten().filter_map(|bytes| digest(&bytes));
        Changes::Since {
            revision: Revision(revision),
            keys,
            deleted_keys: ids.into_iter().flatten().filter(|id| !here.contains(id)).collect(),
            sessions,
            deleted_sessions: digests.filter(|digest| !open.contains(digest)).collect(),
        }
    }
}

/// The members of a key's own actor as JSON text.
pub(super) fn actor_text(actor: &Map<String, Value>) -> String {
    serde_json::to_string(actor).expect("a JSON object serializes")
}

/// A restriction as JSON text.
pub(super) fn policies_text(policies: Option<&[String]>) -> Option<String> {
    policies.map(|policies| serde_json::to_string(policies).expect("a list of texts serializes"))
}

/// The key that was just made.
pub(super) fn made(id: i64, new: &NewKey) -> StoredKey {
    StoredKey {
        key: Key {
            id,
            name: new.name.clone(),
            role: new.role,
            actor: new.actor.clone(),
            policies: new.policies.clone(),
            created_at: whole(new.created_at),
            created_by: new.created_by.clone(),
            expires_at: new.expires_at.map(whole),
            last_used_at: None,
            revoked_at: None,
            revoked_by: None,
        },
        digest: new.digest,
        previous: None,
    }
}

/// The whole second of an instant: what is stored of it.
fn whole(instant: Timestamp) -> Timestamp {
    Timestamp::from_second(instant.as_second()).unwrap_or(instant)
}

/// What may be said of a database's error.
///
/// Configuration errors may quote the URL, and a row's details its digests: neither is repeated.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    StoreError(match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} ({code})", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::Io(error) if is_of_tls(error) => format!("TLS: {error}"),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => format!("TLS: {error}"),
        sqlx::Error::PoolTimedOut => "no connection in time".to_owned(),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => "the connection is closed".to_owned(),
        sqlx::Error::Configuration(_) => "its URL, or a file that it names, cannot be used".to_owned(),
        sqlx::Error::Protocol(_) => "it answered what is not understood".to_owned(),
        // What is left is a row that is not as the schema says.
        _ => "a row cannot be read".to_owned(),
    })
}

/// Whether TLS was reached and failed, such as by a certificate that is not trusted.
pub(super) fn is_of_tls(error: &std::io::Error) -> bool {
    match error.get_ref() {
        Some(inner) => inner.is::<rustls::Error>(),
        None => false,
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        store_error(&error)
    }
}

impl From<sqlx::Error> for CreateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(store_error(&error))
    }
}

impl From<sqlx::Error> for RotateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(store_error(&error))
    }
}
