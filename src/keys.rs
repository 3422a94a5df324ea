//! API keys: what we issued, as opposed to what we were told.
//!
//! A key is a stored record whose secret is a token.  What is kept of the token is its digest.
//! Every replica holds all digests in memory ([`index`]) and answers Checks from there;
//! the database ([`store`]) tells it what changed.

pub mod index;
pub mod name;
pub mod service;
pub mod store;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::token::TokenDigest;

/// The longest name of a key, in characters.
pub const MAX_NAME: usize = 190;
/// The longest that a replaced secret goes on working, in seconds.
pub const MAX_OVERLAP: i64 = 604_800;
/// The most that the members of a key's own actor object may take, encoded as JSON, in bytes.
pub const MAX_ACTOR_BYTES: usize = 4096;
/// The most policies that a key's restriction may name.
pub const MAX_POLICIES: usize = 100;

/// What a key may do at most, as in Grafana.  Nobody manages a key above their own role.
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
    /// The role's name, as the API and actors write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "Viewer",
            Self::Editor => "Editor",
            Self::Admin => "Admin",
        }
    }

    /// The role of this name; case matters.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Admin].into_iter().find(|role| role.as_str() == text)
    }
}

/// A key as it is shown: everything but its secret.  Times are whole seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Never used again, even when the key is deleted.
    pub id: i64,
    /// Unique among keys that are neither revoked nor expired.
    pub name: String,
    /// What it may do at most.
    pub role: Role,
    /// Members of the actor beyond `id`, `name`, `role` and `key_id`.
    pub actor: Map<String, Value>,
    /// The only policies under which its actor counts; `None` is no restriction.
    pub policies: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The id of the actor who made it.
    pub created_by: String,
    /// The instant from which on it is dead; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, within a minute.
    pub last_used_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The id of the actor who revoked it.
    pub revoked_by: Option<String>,
}

/// What somebody would give with a key and does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExceedsGrant {
    /// A role above their own.
    #[error("the key's role is above your own")]
    Role,
    /// A member of its actor with a value that their own actor has not.
    #[error("the key's actor has a member with a value that your own actor has not; an Admin may give it")]
    Member,
    /// An allow block means this very key, by its name or id.
    #[error("an allow block of the configuration names this key; an Admin may give it")]
    Name,
}

/// What is held against a key's row in the transaction that gives it another secret.
pub type GrantCheck<'c> = dyn Fn(&Key) -> Result<(), ExceedsGrant> + Send + Sync + 'c;

/// What a key is at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Live,
    /// Its time is over.
    Expired,
    /// Somebody revoked it.  This goes before expired.
    Revoked,
}

impl Key {
    /// What the key is at this instant: decided by the clock, not by a job that runs now and then.
    pub fn status(&self, now: Timestamp) -> Status {
        if self.revoked_at.is_some() {
            Status::Revoked
        } else if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            Status::Expired
        } else {
            Status::Live
        }
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredKey {
    /// What is shown of it.
    pub key: Key,
    /// The digest of its secret.
    pub digest: TokenDigest,
    /// The secret before the last rotation, and the instant from which on that one is dead.
    pub previous: Option<(TokenDigest, Timestamp)>,
}

/// A session: a user who logged in.  Its secret is the cookie's value, of which the digest is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredSession {
    /// The digest of the cookie's value.
    pub digest: TokenDigest,
    /// The user's name in the configuration.
    pub user: String,
    /// Binds the session to the password that opened it.  When the user's password changes, the session is dead.
    pub password_digest: TokenDigest,
    /// When it was opened; it is dead seven days later.
    pub created_at: Timestamp,
    /// When it was last used, within a minute; it is dead 24 hours later.
    pub last_used_at: Timestamp,
}
