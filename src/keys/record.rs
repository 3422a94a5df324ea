//! The records: a key, its status, a session, a person.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::credential::has_expired;
use crate::person::PersonId;
use crate::token::TokenDigest;

/// The role of a key, as in Grafana.  Nobody manages a key above their own role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and writes.
    Editor,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's name, as the API and actors show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "Viewer",
            Self::Editor => "Editor",
            Self::Admin => "Admin",
        }
    }

    /// The role of this name, in this case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// A key as it is shown: all but its secret.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Never reused, even when the key is deleted.
    pub id: i64,
    /// Unique among keys that are neither revoked nor expired.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Members of the actor beyond `id`, `name`, `role` and `key_id`.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The id of the actor who created it.
    pub created_by: String,
    /// From this instant on it is expired; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The id of the actor who revoked it.
    pub revoked_by: Option<String>,
}

/// A request to create a key.
#[derive(Debug, Clone)]
pub struct CreateKey {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// When it expires; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// Members of its actor beyond those of every key.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// The id of the actor who creates it.
    pub created_by: String,
}

/// Why somebody may not give a key: it can do what they cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExceedsGrant {
    /// A role above their own.
    #[error("the key's role is above your own")]
    Role,
    /// A member of its actor with a value that their own actor has not.
    #[error("the key's actor has a member with a value that your own actor has not; an Admin may give it")]
    Member,
    /// An allow block names this key, by its name or id.
    #[error("an allow block of the configuration names this key; an Admin may give it")]
    Name,
}

/// Checks, in the transaction that rotates a key, whether the caller may give what the key can do.
pub type GrantCheck<'c> = dyn Fn(&Key) -> Result<(), ExceedsGrant> + Send + Sync + 'c;

/// The status of a key at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It authenticates.
    Live,
    /// It expired.
    Expired,
    /// It was revoked, expired or not.
    Revoked,
}

impl Key {
    /// The key's status at this instant.
    pub fn status(&self, now: Timestamp) -> Status {
        if self.revoked_at.is_some() {
            Status::Revoked
        } else if has_expired(self.expires_at, now) {
            Status::Expired
        } else {
            Status::Live
        }
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    /// Everything but its secret.
    pub key: Key,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// The digest of the secret before the last rotation, and when that secret expires.
    pub previous: Option<(TokenDigest, Timestamp)>,
}

/// What a session is good for.  A log-in may open one of each, with secrets of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SessionScope {
    /// The admin listener.
    Admin,
    /// The application: Checks.
    Application,
}

impl SessionScope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Admin, Self::Application];

    /// The scope's word in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Application => "application",
        }
    }

    /// The scope of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }
}

/// A session as it is stored: a person who logged in.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// The digest of the cookie's value, which is its secret.
    pub digest: TokenDigest,
    /// Who logged in.
    pub person: PersonId,
    /// What it is good for.
    pub scope: SessionScope,
    /// The session of [`SessionScope::Admin`] that the same log-in opened; `None` for that one itself, and where it
    /// opened none.
    pub parent: Option<TokenDigest>,
    /// The digest of whatever must stay the same for the session to live, such as the hash of the password that opened
    /// it.
    pub binding: TokenDigest,
    /// What the person's source said of them when it was asked last; `None` where it says nothing.
    pub claims: Option<Map<String, Value>>,
    /// When it was asked last.
    pub checked_at: Timestamp,
    /// When it was opened ([`SESSION_TTL`](super::sessions::SESSION_TTL)).
    pub created_at: Timestamp,
    /// When it was last used, to a minute ([`SESSION_IDLE_TIMEOUT`](super::sessions::SESSION_IDLE_TIMEOUT)).
    pub last_used_at: Timestamp,
}

/// A person as the process that decides people recorded them, for those that decide none.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredPerson {
    /// Who it is.
    pub person: PersonId,
    /// The actor.
    pub actor: Map<String, Value>,
    /// The role; `None` for none.
    pub role: Option<Role>,
    /// The digest of whatever must stay the same for this record to hold.
    pub binding: TokenDigest,
    /// When the person was last seen, to a minute.
    pub seen_at: Timestamp,
    /// When the person ended: left, was disabled, or had no role any more.  `None` while they have not.
    pub ended_at: Option<Timestamp>,
}

impl StoredPerson {
    /// Whether the two differ in nothing but when the person was seen.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.person == other.person
            && self.actor == other.actor
            && self.role == other.role
            && self.binding == other.binding
            && self.ended_at == other.ended_at
    }
}
