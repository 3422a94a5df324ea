//! Sessions of logged-in people.
//!
//! A session's secret is the value of a cookie.  One log-in may open two sessions, each with its own secret: one for
//! the admin listener and one for the application ([`SessionScope`]).  A session is bound to data that must stay the
//! same for it to live, such as the password that opened it.  It ends together with the other session of its log-in
//! when the person logs out.  It also ends when it was not used for a day, and after a week, or after 12 hours for
//! people of a provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::audit::{Action, NewAuditRow};
use super::store::{SessionLimit, StoreError, Upkeep};
use super::usage::LastUse;
use super::{Keys, OPERATION_TIMEOUT, SessionScope, StoredSession, generate, whole_second, with_timeout};
use crate::credential::Principal;
use crate::person::{PersonId, PersonSource};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// A session ends when it was not used for this long.
pub const SESSION_IDLE_TIMEOUT: SignedDuration = SignedDuration::from_hours(24);
/// A session ends after this long, however much it is used.
pub const SESSION_TTL: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A session of a provider ends after this long, since the provider is not asked about the person again.
pub const PROVIDER_SESSION_TTL: SignedDuration = SignedDuration::from_hours(12);
/// The maximum number of live sessions of one person and one scope.  A further session ends the oldest log-in.
pub const MAX_SESSIONS_PER_PERSON: u32 = 100;
/// The prefix of a session's secret.
const SESSION_PREFIX: &str = "session";

/// A session, as the index holds it.
#[derive(Debug)]
pub struct Session {
    /// The person.
    pub person: PersonId,
    /// Its scope.
    pub scope: SessionScope,
    /// The digest of the data that must stay the same for it to live.
    pub binding: TokenDigest,
    /// The last claims of the person.
    pub claims: Option<Map<String, Value>>,
    /// When the source was last asked.
    pub checked_at: Timestamp,
    /// When it was opened.
    pub created_at: Timestamp,
    /// The last principal that was made from it.
    pub principal: ArcSwapOption<CachedPrincipal>,
    last_use: Arc<LastUse>,
    /// Since when it is used with due claims, in milliseconds of the monotonic clock; [`NEVER`].
    overdue_since: AtomicU64,
}

/// [`Session::overdue_since`] of a session that was not used while its claims were due.
const NEVER: u64 = u64::MAX;

/// A principal, and the snapshot under which it was made: another snapshot may have other roles.
#[derive(Debug)]
pub struct CachedPrincipal {
    /// The version of the snapshot.
    pub snapshot_version: u64,
    /// The principal.
    pub principal: Arc<Principal>,
}

impl Session {
    /// A stored session that replaces one with the same digest.
    pub(super) fn new(stored: StoredSession, before: Option<&Self>) -> Self {
        let last_use = match before {
            Some(before) => {
                before.last_use.written_elsewhere(stored.last_used_at);
                Arc::clone(&before.last_use)
            }
            None => Arc::new(LastUse::new(Some(stored.last_used_at))),
        };
        let as_old = before.filter(|before| before.checked_at == stored.checked_at);
        let overdue_since = as_old.map_or(NEVER, |before| before.overdue_since.load(Ordering::Relaxed));
        // The data of the principal did not change: the principal is kept, with its encoded answer.
        let same = before.filter(|before| before.binding == stored.binding && before.claims == stored.claims);
        Self {
            person: stored.person,
            scope: stored.scope,
            binding: stored.binding,
            claims: stored.claims,
            checked_at: stored.checked_at,
            created_at: stored.created_at,
            principal: ArcSwapOption::new(same.and_then(|before| before.principal.load_full())),
            last_use,
            overdue_since: AtomicU64::new(overdue_since),
        }
    }

    /// How long it has been used with due claims, at this reading of [`Clock::elapsed`](crate::clock::Clock::elapsed).
    /// The first call starts this time, and newer claims end it.
    pub fn overdue_for(&self, elapsed: Duration) -> Duration {
        let now = u64::try_from(elapsed.as_millis()).unwrap_or(NEVER - 1);
        let mut since = self.overdue_since.load(Ordering::Relaxed);
        if since == NEVER {
            let noted = self.overdue_since.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
            since = noted.map_or_else(|earlier| earlier, |_| now);
        }
        Duration::from_millis(now.saturating_sub(since))
    }

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
        self.person == stored.person
            && self.scope == stored.scope
            && self.binding == stored.binding
            && self.claims == stored.claims
            && self.checked_at == stored.checked_at
            && self.created_at == stored.created_at
    }

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.created_at);
        let idle = now.duration_since(self.last_used_at());
        age < session_ttl(&self.person.source) && idle < SESSION_IDLE_TIMEOUT
    }
}

/// The maximum life of a session of a person of this source, independent of its use.
fn session_ttl(source: &PersonSource) -> SignedDuration {
    match source {
        PersonSource::Config | PersonSource::Ldap => SESSION_TTL,
        PersonSource::Provider(_) => PROVIDER_SESSION_TTL,
    }
}

/// The sessions that a log-in opens.
#[derive(Debug, Clone)]
pub struct NewSessions {
    /// The person.
    pub person: PersonId,
    /// A session for each scope, with its binding.  [`SessionScope::Admin`] comes first if it is present.
    pub bindings: Vec<(SessionScope, TokenDigest)>,
    /// The claims of the person; `None` if there are none.
    pub claims: Option<Map<String, Value>>,
    /// When the source was asked; `None`: now.
    pub checked_at: Option<Timestamp>,
}

/// Sessions that were just opened.
pub struct OpenedSessions {
    /// The values of the cookies, in the order of the bindings.
    pub cookies: Vec<(SessionScope, Secret)>,
    /// The number of older log-ins of the person that ended because there were too many.
    pub ended: usize,
}

/// The binding of a session of a scope.  Each scope has its own, so that an older version without scopes does not
/// accept a session of the application for managing keys.
pub fn scoped_binding(binding: &TokenDigest, scope: SessionScope) -> TokenDigest {
    match scope {
        SessionScope::Admin => *binding,
        SessionScope::Application => {
            TokenDigest::of(&[b"application ".as_slice(), binding.as_bytes()].concat())
        }
    }
}

impl Keys {
    /// Opens the sessions of one log-in, with these rows in the audit.  If the person has [`MAX_SESSIONS_PER_PERSON`]
    /// live sessions of a scope, the oldest log-in ends.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open_sessions(
        &self,
        new: &NewSessions,
        audit: &[NewAuditRow],
    ) -> Result<OpenedSessions, StoreError> {
        let now = whole_second(self.clock.now());
        let (mut cookies, mut sessions) = (Vec::new(), Vec::<StoredSession>::new());
        let checked_at = new.checked_at.map_or(now, whole_second);
        for &(scope, binding) in &new.bindings {
            let (cookie, digest) = generate(SESSION_PREFIX)?;
            let parent = sessions.iter().find(|session| session.scope == SessionScope::Admin);
            sessions.push(StoredSession {
                digest,
                person: new.person.clone(),
                scope,
                parent: parent.map(|parent| parent.digest),
                binding,
                claims: new.claims.clone(),
                checked_at,
                created_at: now,
                last_used_at: now,
            });
            cookies.push((scope, cookie));
        }
        let (used_after, opened_after) = self.live_sessions_after(&new.person.source);
        let limit = SessionLimit { max_sessions: MAX_SESSIONS_PER_PERSON, used_after, opened_after };
        let create = self.store.create_sessions(&self.gate, &sessions, limit, audit);
        let created = self.change(create, |ended| {
            ended.digests.iter().for_each(|digest| self.index.remove_session(digest));
            sessions.iter().for_each(|session| self.index.put_session(session.clone()));
        });
        let ended = created.await.inspect_err(|error| self.write_failed("open a session", error))?;
        Ok(OpenedSessions { cookies, ended: ended.log_ins })
    }

    /// The sessions of people of these sources that are not too old, whether recently used or not.  Takes time in
    /// proportion to the number of all sessions.
    pub fn sessions_of(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<(TokenDigest, Arc<Session>)> {
        let mut sessions = self.index.sessions_of(is_source);
        let now = self.clock.now();
        sessions.retain(|(_, session)| {
            now.duration_since(session.created_at) < session_ttl(&session.person.source)
        });
        sessions
    }

    /// The sessions of a person, dead or alive.  Takes time in proportion to the number of all sessions.
    pub fn sessions_of_person(&self, person: &PersonId) -> impl Iterator<Item = Arc<Session>> {
        let digests = self.index.sessions_of_person(person);
        digests.into_iter().filter_map(|digest| self.index.session(&digest))
    }

    /// Closes a session and the other one of its log-in, with these rows in the audit; no error when there is none.
    ///
    /// # Errors
    /// The store failed.
    pub async fn close_session(&self, digest: &TokenDigest, audit: &[NewAuditRow]) -> Result<(), StoreError> {
        let close = self.store.close_session(&self.gate, digest, audit);
        let closed = self.change(close, |closed| {
            closed.iter().chain([digest]).for_each(|digest| self.index.remove_session(digest));
        });
        closed.await.inspect_err(|error| self.write_failed("close a session", error))?;
        Ok(())
    }

    /// Ends all sessions of a person.  Returns the number of live log-ins, which is also in the row of the audit.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_sessions(
        &self,
        person: &PersonId,
        audit: Option<NewAuditRow>,
    ) -> Result<usize, StoreError> {
        let (used_after, opened_after) = self.live_sessions_after(&person.source);
        let end = self.store.end_sessions(&self.gate, person, used_after, opened_after, audit);
        let ended = self.change(end, |ended| {
            ended.digests.iter().for_each(|digest| self.index.remove_session(digest));
        });
        let ended = ended.await.inspect_err(|error| self.write_failed("end sessions", error))?;
        Ok(ended.log_ins)
    }

    /// Ends all sessions of a person who is rejected, with this reason, one word, in the audit.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_sessions_because(
        &self,
        person: &PersonId,
        reason: &'static str,
    ) -> Result<usize, StoreError> {
        let row = NewAuditRow {
            at: self.clock.now(),
            action: Action::SESSIONS_ENDED.0.to_owned(),
            reason: Some(reason.to_owned()),
            ..NewAuditRow::default()
        };
        self.end_sessions(person, Some(row.person(person))).await
    }

    /// Writes the claims of a person, and their time, into a session and the other session of its log-in.  Newer claims
    /// and ended sessions stay unchanged.
    ///
    /// # Errors
    /// The store failed.
    pub async fn update_claims(
        &self,
        digest: &TokenDigest,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<(), StoreError> {
        let update = self.store.update_claims(&self.gate, digest, claims, checked_at);
        let updated = self.change(update, |updated| {
            updated.iter().for_each(|session| self.index.put_session(session.clone()));
        });
        updated.await.inspect_err(|error| self.write_failed("write the claims of a session", error))?;
        Ok(())
    }

    /// The same for every log-in of a person.
    ///
    /// # Errors
    /// The store failed.
    pub async fn update_claims_of(
        &self,
        person: &PersonId,
        claims: &Map<String, Value>,
        checked_at: Timestamp,
    ) -> Result<(), StoreError> {
        for digest in self.index.sessions_of_person(person) {
            // The other one of its log-in may have brought them along.
            let session = self.index.session(&digest);
            if session.is_some_and(|session| session.checked_at < whole_second(checked_at)) {
                self.update_claims(&digest, claims, checked_at).await?;
            }
        }
        Ok(())
    }

    /// A live session of a person of this source was last used after the first of these instants, and opened after the
    /// second.
    pub(super) fn live_sessions_after(&self, source: &PersonSource) -> (Timestamp, Timestamp) {
        (self.time_ago(SESSION_IDLE_TIMEOUT), self.time_ago(session_ttl(source)))
    }

    /// Deletes the ended sessions from the store.  Sessions of providers end earlier; they are deleted a day after
    /// their last use.
    pub(super) async fn purge_sessions(&self, upkeep: &dyn Upkeep) {
        let (used_until, opened_until) = (self.time_ago(SESSION_IDLE_TIMEOUT), self.time_ago(SESSION_TTL));
        let purge = upkeep.purge_sessions(used_until, opened_until);
        if let Err(error) = with_timeout(OPERATION_TIMEOUT, purge).await {
            self.write_failed("remove dead sessions", &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Actor;
    use crate::credential::Kind;
    use crate::person::PersonSource;

    fn stored() -> StoredSession {
        let at = Timestamp::from_second(1_000_000).unwrap();
        StoredSession {
            digest: TokenDigest::of(b"cookie"),
            person: PersonId { source: PersonSource::Ldap, subject: "ann".into() },
            scope: SessionScope::Application,
            parent: None,
            binding: TokenDigest::of(b"settings"),
            claims: Some(Map::from_iter([("name".to_owned(), Value::from("ann"))])),
            checked_at: at,
            created_at: at,
            last_used_at: at,
        }
    }

    #[test]
    fn a_use_that_is_not_written_yet_outlives_a_change_and_so_does_the_principal_of_the_same_claims() {
        let before = Session::new(stored(), None);
        let used_at = Timestamp::from_second(1_000_900).unwrap();
        assert!(before.last_use().record(used_at.as_second()));
        let principal = Arc::new(Principal::new(
            Kind::Session,
            "ann".into(),
            Actor::configured(Map::new()).expect("an actor without members"),
        ));
        before.principal.store(Some(Arc::new(CachedPrincipal { snapshot_version: 1, principal })));

        // Its claims are due for ten seconds, and then newer ones come.
        let overdue = |session: &Session, second| session.overdue_for(Duration::from_secs(second)).as_secs();
        assert_eq!([overdue(&before, 100), overdue(&before, 110)], [0, 10]);
        let used = StoredSession { last_used_at: used_at, ..stored() };
        assert_eq!(overdue(&Session::new(used, Some(&before)), 111), 11);

        let checked = StoredSession { checked_at: used_at, ..stored() };
        assert!(!before.is_same(&checked));
        let after = Session::new(checked, Some(&before));
        assert_eq!([overdue(&after, 120), overdue(&after, 121)], [0, 1]);
        assert_eq!((after.last_used_at(), after.checked_at), (used_at, used_at));
        assert!(!after.last_use().record(used_at.as_second() + 600), "it is on its way already");
        assert!(after.principal.load().is_some());

        let others = Some(Map::from_iter([("name".to_owned(), Value::from("bob"))]));
        let after = Session::new(StoredSession { claims: others, ..stored() }, Some(&before));
        assert!(after.principal.load().is_none(), "made of other claims");
        let binding = TokenDigest::of(b"other settings");
        let after = Session::new(StoredSession { binding, ..stored() }, Some(&before));
        assert!(after.principal.load().is_none(), "bound to other settings");
    }
}
