//! Authenticating credentials: who is behind one.
//!
//! A token is looked up among those of the configuration and then among the issued keys; a session among those of
//! the store; a password is verified against the hash of a configured user ([`passwords`]).  A further source of
//! people, such as a directory, is a module beside [`passwords`] with a field in [`Sources`]: `Sources::password`
//! consults it about the names that the configuration does not have.

pub mod passwords;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::UnknownCredentials;
use crate::credential::{Credential, Principal};
use crate::deny_reason::DenyReason;
use crate::keys::{KeyLookup, Keys};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;
use passwords::{PasswordResult, Passwords};

/// The longest that one attempt waits for the verification of a password, whatever the deadline.
const PASSWORD_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(100);

/// Who a credential stands for.
#[derive(Debug)]
pub enum Identity {
    /// This principal.
    Authenticated(Arc<Principal>),
    /// Unknown, and the rules leave unknown tokens to the upstream: the request is anonymous.
    Unrecognized,
    /// A session that has ended: it is no credential, and the request is anonymous.
    NoSession,
}

/// What a credential is authenticated for.  Of the limits the two share the memory of hashes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A Check.
    Check {
        /// The deadline of the RPC, from its beginning; `None` where the client sends none.
        deadline: Option<Duration>,
    },
    /// The admin listener, whose client retries.
    Admin,
}

impl Purpose {
    /// How long it waits for the verification of a password: half of a Check's deadline, at most 100 ms.
    pub fn timeout(self) -> Duration {
        match self {
            Self::Check { deadline } => deadline
                .map_or(PASSWORD_ATTEMPT_TIMEOUT, |deadline| (deadline / 2).min(PASSWORD_ATTEMPT_TIMEOUT)),
            Self::Admin => PASSWORD_ATTEMPT_TIMEOUT,
        }
    }
}

/// The sources of identities beyond the snapshot, and the clock that decides what has expired.
pub struct Sources {
    /// Verifies passwords.
    pub passwords: Passwords,
    /// The issued keys and the sessions; `None` when the configuration has no store of them.
    pub keys: Option<Arc<Keys>>,
    /// The time.
    pub clock: Clock,
}

impl Sources {
    /// Authenticates a credential: a lookup or two by digest, or the verification of a password.
    ///
    /// # Errors
    /// The reason to deny: unknown, expired, revoked, wrong, locked, or not known in time.
    pub async fn identify(
        &self,
        credential: &Credential,
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<Identity, DenyReason> {
        match credential {
            Credential::Token { digest, issued_format } => self.token(digest, *issued_format, snapshot),
            // Boxed, so that the future of every Check is not as large as that of the few that wait.
            Credential::Password { user, password } => {
                Box::pin(self.password(user, password, snapshot, purpose)).await
            }
            Credential::Session { digest, issued_format } => self.session(digest, *issued_format, snapshot),
        }
    }

    /// Whether the credential is one of ours, valid or not, or cannot be distinguished from one.
    pub fn recognises(&self, credential: &Credential, snapshot: &Snapshot) -> bool {
        match credential {
            Credential::Token { digest, issued_format } => {
                let identity = self.token(digest, *issued_format, snapshot);
                !matches!(identity, Ok(Identity::Unrecognized) | Err(DenyReason::UnknownToken))
            }
            // Whatever the password: a mistyped one is not for the upstream either.
            Credential::Password { user, .. } => snapshot.users.get(user).is_some(),
            Credential::Session { .. } => true,
        }
    }

    /// Tokens of the configuration come before issued keys.
    fn token(
        &self,
        digest: &TokenDigest,
        issued_format: bool,
        snapshot: &Snapshot,
    ) -> Result<Identity, DenyReason> {
        if let Some(principal) = snapshot.tokens.get(digest) {
            let is_expired = principal.expires_at.is_some() && principal.is_expired(self.clock.now());
            return if is_expired {
                Err(DenyReason::ExpiredToken)
            } else {
                Ok(Identity::Authenticated(Arc::clone(principal)))
            };
        }
        if let Some(keys) = &self.keys {
            let now = self.clock.now();
            match keys.find(digest, now) {
                // It may have been revoked since the store was last read, which is longer ago than `max_staleness`.
                KeyLookup::Live(_) if keys.is_stale(max_staleness(snapshot)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Live(principal) => return Ok(Identity::Authenticated(principal)),
                KeyLookup::Expired => return Err(DenyReason::ExpiredToken),
                KeyLookup::Revoked => return Err(DenyReason::RevokedToken),
                KeyLookup::Unknown if issued_format && keys.is_unknowable(max_staleness(snapshot)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Unknown => {}
            }
        }
        match snapshot.unknown_credentials {
            UnknownCredentials::Deny => Err(DenyReason::UnknownToken),
            UnknownCredentials::Anonymous => Ok(Identity::Unrecognized),
        }
    }

    async fn password(
        &self,
        user: &str,
        password: &Secret,
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<Identity, DenyReason> {
        match self.passwords.verify(user, password, &snapshot.users, purpose).await {
            PasswordResult::Right(principal) => Ok(Identity::Authenticated(principal)),
            PasswordResult::Locked => Err(DenyReason::UserLocked),
            PasswordResult::Wrong => Err(DenyReason::WrongPassword),
            PasswordResult::Unverified => Err(DenyReason::PasswordUnverified),
        }
    }

    /// A session is authenticated as its user by the snapshot in force now: it ends when the user is removed or the
    /// password changes.  A log-out elsewhere ends it in the store, so a session is subject to staleness, as keys are.
    fn session(
        &self,
        digest: &TokenDigest,
        issued_format: bool,
        snapshot: &Snapshot,
    ) -> Result<Identity, DenyReason> {
        let Some(keys) = &self.keys else {
            return Ok(Identity::NoSession);
        };
        let now = self.clock.now();
        let Some(session) = keys.find_session(digest, now) else {
            // It may have been opened, or used, since the store was last read.
            let may_be_one = issued_format && keys.is_unknowable(max_staleness(snapshot));
            return if may_be_one { Err(DenyReason::KeysUnavailable) } else { Ok(Identity::NoSession) };
        };
        let user = snapshot.users.get(&session.user);
        match user.filter(|user| user.password_digest == session.password_digest) {
            None => Ok(Identity::NoSession),
            Some(_) if keys.is_stale(max_staleness(snapshot)) => Err(DenyReason::KeysUnavailable),
            Some(user) => Ok(Identity::Authenticated(Arc::clone(&user.in_session))),
        }
    }
}

fn max_staleness(snapshot: &Snapshot) -> Option<Duration> {
    snapshot.keys.as_ref().and_then(|settings| settings.max_staleness)
}
