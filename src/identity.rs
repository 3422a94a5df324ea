//! Authenticating credentials: who is behind one.
//!
//! A token is looked up among those of the configuration and then among the issued keys; a key of a person counts for as long
//! as they do ([`people`]).  A session is looked up among those of the store; a password is verified against the hash of a configured user ([`passwords`]), and where the
//! configuration does not have the name, by the directory ([`people`]).

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

/// A credential of ours that no longer counts, or not now.
#[derive(Debug)]
pub struct RejectedCredential {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Box<str>,
    /// The id of a key.
    pub id: Option<i64>,
    /// Why a key is denied that is neither revoked nor expired.
    pub why_denied: Option<WhyDenied>,
}

/// What a credential is authenticated for.  Of the limits the two share the memory of hashes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A Check.
    Check {
        /// The deadline of the RPC, from its beginning; `None` where the client sends none.
        deadline: Option<Duration>,
    },
    /// The admin listener, which asks again until the answer is there: a person does not retry.
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

    /// The sessions that count.
    fn session_scope(self) -> SessionScope {
        match self {
            Self::Check { .. } => SessionScope::Application,
            Self::Admin => SessionScope::Admin,
        }
    }
}

/// The sources of identities beyond the snapshot, and the clock that decides what has expired.
pub struct Sources {
    /// Verifies passwords.
    pub passwords: Passwords,
    /// The people of the directory.
    pub people: People,
    /// The issued keys and the sessions; `None` when the configuration has no store of them.
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

    /// Authenticates a credential: a lookup or two by digest, or the verification of a password.  A key or session that is
    /// live was used, by the client of this address.
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

    /// Whether the credential is one of ours, valid or not, or cannot be distinguished from one.  That is no use of it.
    pub fn recognises(&self, credential: &Credential, snapshot: &Snapshot) -> bool {
        match credential {
            Credential::Token { digest, issued_format } => {
                let found = self.find_token(digest, *issued_format, snapshot);
                *issued_format
                    || !matches!(found, Ok(FoundToken::Unrecognized) | Err(DenyReason::UnknownToken))
            }
            // Whatever the password: a mistyped one is not for the upstream either.
            Credential::Password { user, .. } => {
                let is_directory_asked = snapshot.ldap.as_ref().is_some_and(|settings| settings.at_check);
                is_directory_asked || snapshot.users.get(user).is_some()
            }
            Credential::Sessions(_) => true,
        }
    }

    /// The credential of ours that was denied for this reason, for the log; `None` where it is not known which one it is.
    /// That is no use of it.
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

    /// Why a Check denies each of these keys although it is neither revoked nor expired, by their ids.  That is no use of
    /// them.
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

    /// The principal of a token that is live, and from when to when it counts.  That is no use of it.
    ///
    /// # Errors
    /// As those of [`identify`](Self::identify).
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
                // It ended at this very moment.
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
                // It may have been revoked since the store was last read, which is longer ago than `max_staleness`.
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
            // In our own format it is no token of the upstream's: it was forgotten, deleted, or is of another store.
            UnknownCredentials::Deny | UnknownCredentials::Anonymous => Err(DenyReason::UnknownToken),
        }
    }

    /// The principal of a person's key; `None` when the person is gone, or gives the key nothing that it could be.
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
                // Without it a key that the person makes now would be nobody's.  The store has logged an error, and makes no
                // key then.
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

    /// A configured user's session is authenticated by the snapshot in force now: it ends when the user is removed or the
    /// password changes.  A log-out elsewhere ends it in the store, so a session is subject to staleness, as keys are.
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
        // Of two that live, nobody knows which one is meant.
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
            // The directory left the configuration.
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

    /// A session of the directory, whose people this process decides about.
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

    /// Who knows who people are: a process with an admin listener does, unless it only reads the store.
    fn people_decided_by(&self, snapshot: &Snapshot) -> DecidedBy {
        let may_write = self.keys.as_ref().is_some_and(|keys| !keys.is_read_only());
        if snapshot.serves_admin && may_write { DecidedBy::Us } else { DecidedBy::Records }
    }

    fn decides_people(&self, snapshot: &Snapshot) -> bool {
        self.people_decided_by(snapshot) == DecidedBy::Us
    }
}

/// What a token is.
enum FoundToken {
    /// One of the configuration.
    Configured(Arc<Principal>),
    /// That of an API key.
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

/// Who a credential stands for, at once or after a while.  The wait is boxed, so that the future of every Check is not as
/// large as that of the few that wait.
pub enum Identification<'w> {
    /// It is known.
    Known(Result<Identity, DenyReason>),
    /// A password is verified, or a directory is asked.
    Waiting(Wait<'w>),
}

/// An authentication that takes a while.
pub type Wait<'w> = Pin<Box<dyn Future<Output = Result<Identity, DenyReason>> + Send + 'w>>;

/// What the sessions of a request are.
enum LiveSession {
    /// Whose it is, or that there is none, is known.
    Known(Identity),
    /// The directory may have to be asked.
    OfDirectory(Arc<Session>),
}

/// The name, normalised, and the directory to ask about it: of names that no configured user has in any spelling.
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
