//! Sessions of users who logged in.
//!
//! A session's secret is the value of a cookie.  It is bound to the password that opened it, and ends when the user
//! logs out, when nobody uses it for a day, and after a week.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::store::{StoreError, Upkeep};
use super::usage::LastUse;
use super::{Keys, OPERATION_TIMEOUT, StoredSession, generate, with_timeout};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// A session that nobody uses ends after this long.
pub const SESSION_IDLE_TIMEOUT: SignedDuration = SignedDuration::from_hours(24);
/// A session ends after this long, however much it is used.
pub const SESSION_TTL: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Live sessions of one user.  One more ends the oldest.
pub const MAX_SESSIONS_PER_USER: u32 = 100;
/// The prefix of a session's secret.
const SESSION_PREFIX: &str = "session";

/// A session, as the index holds it.
#[derive(Debug)]
pub struct Session {
    /// The user's name in the configuration.
    pub user: Box<str>,
    /// Binds it to the password that opened it: the SHA-256 of the stored password hash.
    pub password_digest: TokenDigest,
    /// When it was opened.
    pub created_at: Timestamp,
    last_use: Arc<LastUse>,
}

impl From<StoredSession> for Session {
    fn from(stored: StoredSession) -> Self {
        Self {
            user: stored.user.into_boxed_str(),
            password_digest: stored.password_digest,
            created_at: stored.created_at,
            last_use: Arc::new(LastUse::new(Some(stored.last_used_at))),
        }
    }
}

impl Session {
    /// When it was last used, as far as this replica knows.
    pub fn last_used_at(&self) -> Timestamp {
        self.last_use.at()
    }

    /// Its last use.
    pub(super) fn last_use(&self) -> &Arc<LastUse> {
        &self.last_use
    }

    /// Whether this is the stored session, apart from its last use.
    pub(super) fn is_same(&self, stored: &StoredSession) -> bool {
        *self.user == *stored.user
            && self.password_digest == stored.password_digest
            && self.created_at == stored.created_at
    }

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.created_at);
        let idle = now.duration_since(self.last_used_at());
        age < SESSION_TTL && idle < SESSION_IDLE_TIMEOUT
    }
}

/// A session that was just opened.
pub struct OpenedSession {
    /// The cookie's value.
    pub cookie: Secret,
    /// How many older sessions of the user ended because there were too many.
    pub ended: usize,
}

impl Keys {
    /// Opens a session for a user, bound to the digest of the stored password hash.
    /// Where the user has [`MAX_SESSIONS_PER_USER`] live ones, the oldest ends.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open_session(
        &self,
        user: &str,
        password_digest: &TokenDigest,
    ) -> Result<OpenedSession, StoreError> {
        let (cookie, digest) = generate(SESSION_PREFIX)?;
        let now = self.clock.now();
        let session = StoredSession {
            digest,
            user: user.to_owned(),
            password_digest: *password_digest,
            created_at: now,
            last_used_at: now,
        };
        let used_after = self.time_ago(SESSION_IDLE_TIMEOUT);
        let opened_after = self.time_ago(SESSION_TTL);
        let create =
            self.store.create_session(&self.gate, &session, MAX_SESSIONS_PER_USER, used_after, opened_after);
        let created = self.change(create, |ended| {
            ended.iter().for_each(|digest| self.index.remove_session(digest));
            self.index.put_session(session.clone());
        });
        let ended = created.await.inspect_err(|error| self.write_failed("open a session", error))?;
        Ok(OpenedSession { cookie, ended: ended.len() })
    }

    /// Closes a session; no error when there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn close_session(&self, digest: &TokenDigest) -> Result<(), StoreError> {
        let close = self.store.delete_session(&self.gate, digest);
        let closed = self.change(close, |()| self.index.remove_session(digest));
        closed.await.inspect_err(|error| self.write_failed("close a session", error))
    }

    /// Deletes the sessions that have ended from the store.
    pub(super) async fn purge_sessions(&self, upkeep: &dyn Upkeep) {
        let purge = upkeep.purge_sessions(self.time_ago(SESSION_IDLE_TIMEOUT), self.time_ago(SESSION_TTL));
        if let Err(error) = with_timeout(OPERATION_TIMEOUT, purge).await {
            self.write_failed("remove dead sessions", &error);
        }
    }
}
