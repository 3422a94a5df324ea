//! Authentication: the principal behind a credential.
//!
//! A token is looked up among the tokens of the configuration, then among the issued keys.  A key of a person is valid
//! as long as the person is ([`people`]).  A session is looked up in the store.  A password is verified against the
//! hash of a configured user ([`passwords`]).  If the configuration does not have the name, the directory verifies it
//! ([`people`]).

pub mod passwords;
pub mod people;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::attributes::ClientAddress;
use crate::clock::Clock;
use crate::config::{LdapSettings, UnknownCredentials};
use crate::credential::{Credential, Kind, Principal, SessionCookie};
use crate::deny_reason::DenyReason;
use crate::keys::index::{Lifetime, PersonKey};
use crate::keys::sessions::Session;
use crate::keys::{IndexedKey, KeyLookup, Keys, SessionScope, WhyDenied};
use crate::person::{PersonSource, normalized_name};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::token::{PlainToken, TokenDigest};
use passwords::{PasswordResult, Passwords};
use people::{DecidedBy, People, providers, sessions};

/// The maximum time that one attempt waits for the verification of a password, independent of the deadline.
const PASSWORD_ATTEMPT_TIMEOUT: Duration = Duration::from_millis(100);

/// The result of authentication.
#[derive(Debug)]
pub enum Identity {
    /// A principal.
    Authenticated(Arc<Principal>),
    /// Unknown, and the rules leave unknown tokens to the upstream: the request is anonymous.
    Unrecognized,
    /// A session that has ended: it does not count as a credential, and the request is anonymous.
    NoSession,
}

/// One of our credentials that is not valid now.
#[derive(Debug)]
pub struct RejectedCredential {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Box<str>,
    /// The id of a key.
    pub id: Option<i64>,
    /// Why a key that is neither revoked nor expired is denied.
    pub why_denied: Option<WhyDenied>,
}

/// The purpose of an authentication.  Both purposes have their own limits, except for the memory of hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A Check.
    Check {
        /// The deadline of the RPC, relative to its start; `None` if the client does not send one.
        deadline: Option<Duration>,
    },
    /// The admin listener, which waits longer and asks again: people do not retry.
    Admin,
}

impl Purpose {
    /// How long to wait for the verification of a password: for a Check half of its deadline, at most 100 ms.
    pub fn timeout(self) -> Duration {
        match self {
            Self::Check { deadline } => deadline
                .map_or(PASSWORD_ATTEMPT_TIMEOUT, |deadline| (deadline / 2).min(PASSWORD_ATTEMPT_TIMEOUT)),
            Self::Admin => PASSWORD_ATTEMPT_TIMEOUT,
        }
    }

    /// The scope of sessions that are accepted.
    fn session_scope(self) -> SessionScope {
        match self {
            Self::Check { .. } => SessionScope::Application,
            Self::Admin => SessionScope::Admin,
        }
    }
}

/// The sources of identities outside the snapshot, and the clock for expiry.
pub struct Sources {
    /// Verifies passwords.
    pub passwords: Passwords,
    /// The people of the directory.
    pub people: People,
    /// The issued keys and the sessions; `None` without a key store in the configuration.
    pub keys: Option<Arc<Keys>>,
    /// The time.
    pub clock: Clock,
}

impl Sources {
    /// Sources without keys and sessions, which verify one password at a time.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn without_keys(clock: Clock) -> Result<Self, getrandom::Error> {
        Ok(Self { passwords: Passwords::new(1)?, people: People::new(clock.clone())?, keys: None, clock })
    }

    /// Authenticates a credential: one or two lookups by digest, or the verification of a password.  A live key or
    /// session is marked as used by the client of this address.
    ///
    /// # Errors
    /// The reason to deny: unknown, expired, revoked, disabled, wrong, locked, or not known in time.
    pub fn identify<'i>(
        &'i self,
        credential: &'i Credential,
        client: &ClientAddress<'_>,
        snapshot: &'i Arc<Snapshot>,
        purpose: Purpose,
    ) -> Identification<'i> {
        match credential {
            Credential::Token { digest, issued_format } => {
                let found = self.find_token(digest, *issued_format, snapshot);
                if let (Ok(FoundToken::Key { used_at, .. }), Some(keys)) = (&found, &self.keys) {
                    keys.record_use(digest, *used_at, || client.ip());
                }
                Identification::Known(found.map(Into::into))
            }
            Credential::Password { user, password } => {
                Identification::Waiting(Box::pin(self.password(user, password, snapshot, purpose)))
            }
            Credential::Sessions(cookies) => match self.session(cookies, snapshot, purpose) {
                Ok(LiveSession::Known(identity)) => Identification::Known(Ok(identity)),
                Ok(LiveSession::OfDirectory(session)) => {
                    Identification::Waiting(Box::pin(self.directory_session(session, snapshot, purpose)))
                }
                Err(reason) => Identification::Known(Err(reason)),
            },
        }
    }

    /// Whether the credential is one of ours, valid or not, or cannot be distinguished from one.  This does not count
    /// as a use.
    pub fn recognises(&self, credential: &Credential, snapshot: &Snapshot) -> bool {
        match credential {
            Credential::Token { digest, issued_format } => {
                let found = self.find_token(digest, *issued_format, snapshot);
                *issued_format
                    || !matches!(found, Ok(FoundToken::Unrecognized) | Err(DenyReason::UnknownToken))
            }
            // Also with a wrong password: a mistyped one must not reach the upstream.
            Credential::Password { user, .. } => {
                let is_directory_asked = snapshot.ldap.as_ref().is_some_and(|settings| settings.at_check);
                is_directory_asked || snapshot.users.get(user).is_some()
            }
            Credential::Sessions(_) => true,
        }
    }

    /// The credential that was denied for this reason, for the log; `None` if it is not known.  This does not count as
    /// a use.
    pub fn rejected(
        &self,
        credential: &Credential,
        reason: DenyReason,
        snapshot: &Snapshot,
    ) -> Option<RejectedCredential> {
        let is_dead =
            matches!(reason, DenyReason::ExpiredToken | DenyReason::RevokedToken | DenyReason::DisabledKey);
        let digest = match credential {
            Credential::Token { digest, .. } if is_dead => digest,
            Credential::Token { .. } | Credential::Password { .. } | Credential::Sessions(_) => return None,
        };
        if let Some(principal) = snapshot.tokens.get(digest) {
            let (kind, name) = (principal.kind, Box::from(&*principal.name));
            return Some(RejectedCredential { kind, name, id: None, why_denied: None });
        }
        let keys = self.keys.as_ref()?;
        let key = keys.indexed(digest)?;
        let is_disabled = reason == DenyReason::DisabledKey;
        let why_denied = if is_disabled { self.why_denied(&key, keys, snapshot) } else { None };
        Some(RejectedCredential { kind: Kind::Key, name: key.name, id: Some(key.id), why_denied })
    }

    /// For each id the reason why a Check denies the key although it is neither revoked nor expired.  This does not
    /// count as a use.
    pub fn denied_keys(&self, ids: &[i64], snapshot: &Snapshot) -> HashMap<i64, WhyDenied> {
        let Some(keys) = &self.keys else {
            return HashMap::new();
        };
        let of_key = |digest| self.why_denied(&keys.indexed(&digest)?, keys, snapshot);
        let found = ids.iter().zip(keys.digests(ids));
        found.filter_map(|(id, digest)| Some((*id, of_key(digest?)?))).collect()
    }

    fn why_denied(&self, key: &IndexedKey, keys: &Keys, snapshot: &Snapshot) -> Option<WhyDenied> {
        key.why_denied.or_else(|| {
            let decided_by = self.people_decided_by(snapshot);
            let owner = self.people.owner(key.person.as_ref()?, snapshot, keys, decided_by);
            owner.is_none().then_some(WhyDenied::OwnerGone)
        })
    }

    /// The principal of a live token, and its validity.  This does not count as a use.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    pub fn inspect(
        &self,
        token: PlainToken<'_>,
        snapshot: &Snapshot,
    ) -> Result<(Arc<Principal>, Lifetime), DenyReason> {
        let digest = token.digest();
        match self.find_token(&digest, token.has_issued_format(), snapshot)? {
            FoundToken::Unrecognized => Err(DenyReason::UnknownToken),
            FoundToken::Configured(principal) => {
                let expires_at = principal.expires_at;
                Ok((principal, Lifetime { created_at: None, expires_at }))
            }
            FoundToken::Key { principal, .. } => {
                let lifetime = self.keys.as_ref().and_then(|keys| keys.lifetime(&digest));
                // It ended at this moment.
                Ok((principal, lifetime.ok_or(DenyReason::RevokedToken)?))
            }
        }
    }

    /// Tokens of the configuration come before issued keys.
    fn find_token(
        &self,
        digest: &TokenDigest,
        issued_format: bool,
        snapshot: &Snapshot,
    ) -> Result<FoundToken, DenyReason> {
        if let Some(principal) = snapshot.tokens.get(digest) {
            let is_expired = principal.expires_at.is_some() && principal.is_expired(self.clock.now());
            return if is_expired {
                Err(DenyReason::ExpiredToken)
            } else {
                Ok(FoundToken::Configured(Arc::clone(principal)))
            };
        }
        if let Some(keys) = &self.keys {
            let now = self.clock.now();
            match keys.find(digest, now) {
                // The last reading of the store is older than `max_staleness`: the key may have been revoked since.
                KeyLookup::Live(_) | KeyLookup::OfPerson(_) if keys.is_stale(max_staleness(snapshot)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Live(principal) => return Ok(FoundToken::Key { principal, used_at: now }),
                KeyLookup::OfPerson(key) => {
                    let principal =
                        self.key_of_person(&key, keys, snapshot).ok_or(DenyReason::DisabledKey)?;
                    return Ok(FoundToken::Key { principal, used_at: now });
                }
                KeyLookup::Disabled => return Err(DenyReason::DisabledKey),
                KeyLookup::Expired => return Err(DenyReason::ExpiredToken),
                KeyLookup::Revoked => return Err(DenyReason::RevokedToken),
                KeyLookup::Unknown if issued_format && keys.is_unknowable(max_staleness(snapshot)) => {
                    return Err(DenyReason::KeysUnavailable);
                }
                KeyLookup::Unknown => {}
            }
        }
        match snapshot.unknown_credentials {
            UnknownCredentials::Anonymous if !issued_format => Ok(FoundToken::Unrecognized),
            // A token in our format does not belong to the upstream: it was deleted, or is from another store.
            UnknownCredentials::Deny | UnknownCredentials::Anonymous => Err(DenyReason::UnknownToken),
        }
    }

    /// The principal of a person's key; `None` when the person is gone or has no role for the key.
    fn key_of_person(&self, key: &PersonKey, keys: &Keys, snapshot: &Snapshot) -> Option<Arc<Principal>> {
        let owner = self.people.owner(key.person()?, snapshot, keys, self.people_decided_by(snapshot))?;
        key.principal(&owner)
    }

    async fn password(
        &self,
        user: &str,
        password: &Secret,
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<Identity, DenyReason> {
        if let Some((name, settings)) = person_to_ask_about(user, snapshot, purpose) {
            let principal = self.people.verify(&name, password, settings, snapshot, purpose).await?;
            if let (Purpose::Admin, Some(keys)) = (purpose, &self.keys)
                && self.decides_people(snapshot)
            {
                // Without this record a key that the person creates now would have no owner.  On an error the store has
                // logged it, and does not create a key either.
                let _ = self.people.see(&principal, keys).await;
            }
            return Ok(Identity::Authenticated(principal));
        }
        match self.passwords.verify(user, password, &snapshot.users, purpose).await {
            PasswordResult::Right(principal) => Ok(Identity::Authenticated(principal)),
            PasswordResult::Locked => Err(DenyReason::UserLocked),
            PasswordResult::Wrong => Err(DenyReason::WrongPassword),
            PasswordResult::Unverified => Err(DenyReason::PasswordUnverified),
        }
    }

    /// A session of a configured user is authenticated by the current snapshot: it ends when the user is removed or the
    /// password changes.  A log-out elsewhere ends it in the store, so staleness applies to sessions as it does to
    /// keys.
    fn session(
        &self,
        cookies: &[SessionCookie],
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<LiveSession, DenyReason> {
        let none = Ok(LiveSession::Known(Identity::NoSession));
        let Some(keys) = &self.keys else {
            return none;
        };
        let now = self.clock.now();
        let live = |cookie: &SessionCookie| {
            let session = keys.find_session(&cookie.digest, now)?;
            (session.scope == purpose.session_scope()).then_some((session, cookie.digest))
        };
        let mut sessions = cookies.iter().filter_map(live);
        // With two live sessions it is not known which one is meant.
        let only_one = sessions.next().filter(|(_, digest)| sessions.all(|(_, other)| other == *digest));
        let Some((session, _)) = only_one else {
            // It may have been opened, or used, since the store was last read.
            let may_be_one = cookies.iter().any(|cookie| cookie.issued_format)
                && keys.is_unknowable(max_staleness(snapshot));
            return if may_be_one { Err(DenyReason::KeysUnavailable) } else { none };
        };
        let principal = match (&session.person.source, &snapshot.ldap) {
            (PersonSource::Config, _) => match snapshot.users.get(&session.person.subject) {
                Some(user) if *user.binding(session.scope) == session.binding => {
                    Some(Arc::clone(&user.in_session))
                }
                None if !self.decides_people(snapshot) => keys.recorded_principal(&session),
                Some(_) | None => None,
            },
            (PersonSource::Ldap, _) if !self.decides_people(snapshot) => {
                let principal = keys.recorded_principal(&session);
                if principal.is_some() && sessions::is_overdue(&session, &self.clock, now) {
                    return Err(DenyReason::DirectoryUnavailable);
                }
                principal
            }
            (PersonSource::Ldap, Some(_)) if keys.is_stale(max_staleness(snapshot)) => {
                return Err(DenyReason::KeysUnavailable);
            }
            (PersonSource::Ldap, Some(_)) => return Ok(LiveSession::OfDirectory(session)),
            // The directory was removed from the configuration.
            (PersonSource::Ldap, None) => None,
            (PersonSource::Provider(_), _) if !self.decides_people(snapshot) => {
                keys.recorded_principal(&session)
            }
            (PersonSource::Provider(_), _) => providers::principal_of_session(&session, snapshot),
        };
        match principal {
            None => none,
            Some(_) if keys.is_stale(max_staleness(snapshot)) => Err(DenyReason::KeysUnavailable),
            Some(principal) => Ok(LiveSession::Known(Identity::Authenticated(principal))),
        }
    }

    /// A session of the directory, where this process decides about people.
    async fn directory_session(
        &self,
        session: Arc<Session>,
        snapshot: &Arc<Snapshot>,
        purpose: Purpose,
    ) -> Result<Identity, DenyReason> {
        let (Some(settings), Some(keys)) = (&snapshot.ldap, &self.keys) else {
            return Ok(Identity::NoSession);
        };
        let principal = self.people.in_session(&session, settings, snapshot, keys, purpose).await?;
        Ok(principal.map_or(Identity::NoSession, Identity::Authenticated))
    }

    /// Which process decides about people: one with an admin listener, unless it only reads the store.
    fn people_decided_by(&self, snapshot: &Snapshot) -> DecidedBy {
        let may_write = self.keys.as_ref().is_some_and(|keys| !keys.is_read_only());
        if snapshot.serves_admin && may_write { DecidedBy::Us } else { DecidedBy::Records }
    }

    fn decides_people(&self, snapshot: &Snapshot) -> bool {
        self.people_decided_by(snapshot) == DecidedBy::Us
    }
}

/// The result of a token lookup.
enum FoundToken {
    /// A token of the configuration.
    Configured(Arc<Principal>),
    /// The token of an API key.
    Key {
        /// The key's principal.
        principal: Arc<Principal>,
        /// The instant at which it was live.
        used_at: Timestamp,
    },
    /// Unknown, and left to the upstream.
    Unrecognized,
}

impl From<FoundToken> for Identity {
    fn from(found: FoundToken) -> Self {
        match found {
            FoundToken::Configured(principal) | FoundToken::Key { principal, .. } => {
                Self::Authenticated(principal)
            }
            FoundToken::Unrecognized => Self::Unrecognized,
        }
    }
}

/// The result of authentication, at once or later.  The wait is boxed: few Checks wait, and their future would make
/// every future larger.
pub enum Identification<'w> {
    /// Known at once.
    Known(Result<Identity, DenyReason>),
    /// A password is verified, or a directory is asked.
    Waiting(Wait<'w>),
}

/// An authentication that takes a while.
pub type Wait<'w> = Pin<Box<dyn Future<Output = Result<Identity, DenyReason>> + Send + 'w>>;

/// The result of the lookup of a request's sessions.
enum LiveSession {
    /// The result is known.
    Known(Identity),
    /// The directory may have to be asked.
    OfDirectory(Arc<Session>),
}

/// The normalised name and the directory to ask about it, for a name that no configured user has in any spelling.
fn person_to_ask_about<'s>(
    user: &str,
    snapshot: &'s Snapshot,
    purpose: Purpose,
) -> Option<(String, &'s Arc<LdapSettings>)> {
    let settings = snapshot.ldap.as_ref()?;
    let may_ask = match purpose {
        Purpose::Check { .. } => settings.at_check,
        Purpose::Admin => true,
    };
    if !may_ask || snapshot.users.get(user).is_some() {
        return None;
    }
    let name = normalized_name(user).filter(|name| !snapshot.users.has_normalized(name))?;
    Some((name, settings))
}

fn max_staleness(snapshot: &Snapshot) -> Option<Duration> {
    snapshot.keys.as_ref().and_then(|settings| settings.max_staleness)
}
