//! Who is behind a credential.

pub mod passwords;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Rules, UnknownCredentials};
use crate::credential::{Credential, Principal};
use crate::deny_reason::DenyReason;
use crate::keys::{KeyLookup, Keys};
use crate::secret::Secret;
use crate::token::TokenDigest;
use passwords::{PasswordCaller, Passwords, Verdict};

/// Who a credential stands for.
#[derive(Debug)]
pub enum Identity {
    /// Somebody we know.
    Authenticated(Arc<Principal>),
    /// Nobody we know, and the rules leave such tokens to the upstream: the request is anonymous.
    NotOurs,
    /// A session that is over: it is no credential, and the request is anonymous.
    SessionOver,
}

/// What the engine asks about credentials, beyond the rules.
pub struct Sources {
    /// Verifies passwords.
    pub passwords: Passwords,
    /// The keys that we issued; `None` when there are none.
    pub keys: Option<Arc<Keys>>,
    /// The time.
    pub clock: Clock,
}

impl Sources {
    /// Finds out who is behind the credential: a look-up or two by digest, or the verification of a password.
    ///
    /// # Errors
    /// Unknown, expired, revoked or wrong is a [`DenyReason`], and so is what cannot be known in time.
    pub async fn identify(
        &self,
        credential: &Credential,
        rules: &Rules,
        asker: PasswordCaller,
    ) -> Result<Identity, DenyReason> {
        match credential {
            Credential::Token { digest, issued_format } => self.token(digest, *issued_format, rules),
            // Boxed: the task of every Check need not be as large as that of the few that wait.
            Credential::Password { user, password } => {
                Box::pin(self.password(user, password, rules, asker)).await
            }
            Credential::Session { digest, issued_format } => self.session(digest, *issued_format, rules),
        }
    }

    /// Whether the credential is one of ours, dead or alive, or cannot be told from one.
    pub fn recognises(&self, credential: &Credential, rules: &Rules) -> bool {
        match credential {
            Credential::Token { digest, issued_format } => {
                let identity = self.token(digest, *issued_format, rules);
                !matches!(identity, Ok(Identity::NotOurs) | Err(DenyReason::UnknownToken))
            }
            // Whatever the password: one that is nearly right is nobody else's business either.
            Credential::Password { user, .. } => rules.users.get(user).is_some(),
            Credential::Session { .. } => true,
        }
    }

    /// What the configuration knows goes before what was issued.
    fn token(
        &self,
        digest: &TokenDigest,
        issued_format: bool,
        rules: &Rules,
    ) -> Result<Identity, DenyReason> {
        if let Some(principal) = rules.tokens.get(digest) {
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
                // It may have been revoked since the store was last read: beyond `max_staleness` nobody can know.
                KeyLookup::Live(_) if keys.is_stale(now, max_staleness(rules)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Live(principal) => return Ok(Identity::Authenticated(principal)),
                KeyLookup::Expired => return Err(DenyReason::ExpiredToken),
                KeyLookup::Revoked => return Err(DenyReason::RevokedToken),
                KeyLookup::Unknown if issued_format && keys.is_unknowable(now, max_staleness(rules)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Unknown => {}
            }
        }
        match rules.unknown_credentials {
            UnknownCredentials::Deny => Err(DenyReason::UnknownToken),
            UnknownCredentials::Anonymous => Ok(Identity::NotOurs),
        }
    }

    async fn password(
        &self,
        user: &str,
        password: &Secret,
        rules: &Rules,
        asker: PasswordCaller,
    ) -> Result<Identity, DenyReason> {
        match self.passwords.verify(user, password, &rules.users, asker).await {
            Verdict::Right(principal) => Ok(Identity::Authenticated(principal)),
            Verdict::Locked => Err(DenyReason::UserLocked),
            Verdict::Wrong => Err(DenyReason::WrongPassword),
            Verdict::Unfinished => Err(DenyReason::PasswordUnverified),
        }
    }

    /// A session is its user by the rules in force now: it dies when the user is gone or the password changes.
    /// It ends in the store as well, by a log-out elsewhere: what holds of a key's staleness holds of it.
    fn session(
        &self,
        digest: &TokenDigest,
        issued_format: bool,
        rules: &Rules,
    ) -> Result<Identity, DenyReason> {
        let Some(keys) = &self.keys else {
            return Ok(Identity::SessionOver);
        };
        let now = self.clock.now();
        let Some(session) = keys.find_session(digest, now) else {
            // It may have been opened, or used, where we cannot look.
            let may_be_one = issued_format && keys.is_unknowable(now, max_staleness(rules));
            return if may_be_one { Err(DenyReason::KeysUnavailable) } else { Ok(Identity::SessionOver) };
        };
        let user = rules.users.get(&session.user);
        match user.filter(|user| user.password_digest == session.password_digest) {
            None => Ok(Identity::SessionOver),
            Some(_) if keys.is_stale(now, max_staleness(rules)) => Err(DenyReason::KeysUnavailable),
            Some(user) => Ok(Identity::Authenticated(Arc::clone(&user.in_session))),
        }
    }
}

fn max_staleness(rules: &Rules) -> Option<Duration> {
    rules.keys.as_ref().and_then(|settings| settings.max_staleness)
}
