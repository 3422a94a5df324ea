//! Records of people.
//!
//! A process that decides about people (it has `admin`, and asks the directory) writes a record of each person: at
//! log-in, after each recheck with the directory, at its start and at a reload.  Processes that do not decide about
//! people take actors from the records.  The record of a person who left is not deleted at once: it says when the
//! person ended.
//!
//! People can have keys without sessions.  So a record also holds the last claims of the person, which the current
//! rules turn into a principal.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};

use super::sessions::{CachedPrincipal, Session, scoped_binding};
use super::store::StoreError;
use super::{Keys, Role, SessionScope, StoredPerson, whole_second};
use crate::actor::Actor;
use crate::credential::{Kind, Principal};
use crate::person::{self, PersonId, PersonSource};
use crate::token::TokenDigest;

/// The maximum number of records of people.  A further record evicts the one that ended longest ago or, if none has
/// ended, the one that was seen longest ago.
pub const MAX_PEOPLE: u32 = 100_000;
/// The number of people that one transaction ends.
const MAX_ENDED_AT_ONCE: u32 = 1000;
/// The record of a person who ended is deleted after this long.
pub const ENDED_PERSON_RETENTION: SignedDuration = SignedDuration::from_hours(400 * 24);

/// The record of a person, as the index holds it.
#[derive(Debug)]
pub struct PersonRecord {
    /// The role; `None` for none.
    pub role: Option<Role>,
    /// The digest of the data that must stay the same for the record to be valid.
    pub binding: TokenDigest,
    /// When the person ended; `None` if not.
    pub ended_at: Option<Timestamp>,
    /// Binds the person's sessions at Check.
    application_binding: TokenDigest,
    id: i64,
    principal: Arc<Principal>,
    /// The last claims of the person, as JSON, which takes the least memory; `None` for a configured user, and for an
    /// ended person.
    claims: Option<Box<str>>,
    /// The principal of the claims under the current rules.
    under_rules: ArcSwapOption<CachedPrincipal>,
}

impl PersonRecord {
    /// A person as recorded under this id; `None` when the actor is not valid.
    pub(super) fn new(id: i64, stored: StoredPerson) -> Option<Self> {
        let actor = Actor::configured(stored.actor).ok()?;
        let mut principal = Principal::new(Kind::Session, Arc::from(&*stored.person.subject), actor);
        let person = person::Person { id: stored.person, binding: stored.binding, claims: None };
        principal.person = Some(Arc::new(person));
        Some(Self {
            role: stored.role,
            binding: stored.binding,
            ended_at: stored.ended_at,
            application_binding: scoped_binding(&stored.binding, SessionScope::Application),
            id,
            principal: Arc::new(principal),
            claims: stored.claims.as_ref().map(claims_text),
            under_rules: ArcSwapOption::empty(),
        })
    }

    /// The id of the record.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// The actor.
    pub fn actor(&self) -> &Actor {
        &self.principal.actor
    }

    /// The principal of the person's sessions.  It is the same one as long as the record does not change, and with it
    /// the answer that is encoded for it.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The last claims of the person; `None` if there are none.
    pub fn claims(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(self.claims.as_deref()?).ok()
    }

    /// The principal that `make` builds from the claims, once under the snapshot of this version.
    pub fn principal_under(
        &self,
        snapshot_version: u64,
        make: impl FnOnce(Map<String, Value>) -> Option<Principal>,
    ) -> Option<Arc<Principal>> {
        if let Some(cached) = self.under_rules.load().as_ref()
            && cached.snapshot_version == snapshot_version
        {
            return Some(Arc::clone(&cached.principal));
        }
        let principal = Arc::new(make(self.claims()?)?);
        let cached = CachedPrincipal { snapshot_version, principal: Arc::clone(&principal) };
        self.under_rules.store(Some(Arc::new(cached)));
        Some(principal)
    }

    /// Whether a session of the person is still valid.
    fn holds(&self, session: &Session) -> bool {
        let binding = match session.scope {
            SessionScope::Admin => &self.binding,
            SessionScope::Application => &self.application_binding,
        };
        self.ended_at.is_none() && session.binding == *binding
    }

    /// Whether the record is the same, apart from the time when the person was seen.
    pub fn says_the_same(&self, record: &StoredPerson) -> bool {
        self.is_same(self.id, record)
    }

    /// Whether this is the stored record with this id of the same person, apart from the time when the person was seen.
    pub(super) fn is_same(&self, id: i64, stored: &StoredPerson) -> bool {
        self.id == id
            && *self.actor().members() == stored.actor
            && self.role == stored.role
            && self.binding == stored.binding
            && self.claims.as_deref() == stored.claims.as_ref().map(claims_text).as_deref()
            && self.ended_at == stored.ended_at
    }
}

fn claims_text(claims: &Map<String, Value>) -> Box<str> {
    serde_json::to_string(claims).expect("a JSON object serializes").into()
}

impl Keys {
    /// Records a person.  The time when the person was seen is written once a minute and not propagated; everything
    /// else takes effect on every replica.
    ///
    /// # Errors
    /// The store failed.
    pub async fn record_person(&self, person: &StoredPerson) -> Result<(), StoreError> {
        let (seen_at, ended_at) = (whole_second(person.seen_at), person.ended_at.map(whole_second));
        let person = StoredPerson { seen_at, ended_at, ..person.clone() };
        let record = self.store.record_person(&self.gate, &person, MAX_PEOPLE);
        let recorded = self.change(record, |recorded| {
            self.index.put_person(recorded.id, recorded.person.clone());
            recorded.deleted.iter().for_each(|id| self.index.remove_person(*id));
        });
        recorded.await.inspect_err(|error| self.write_failed("record a person", error))?;
        Ok(())
    }

    /// Records that a person has ended now.  False if the person had ended before, or has no record.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_person(&self, person: &PersonId) -> Result<bool, StoreError> {
        self.end_person_unless(person, None).await
    }

    /// The same, unless the store has a session of the person that is not too old, even if this process does not know
    /// it yet.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_person_without_session(&self, person: &PersonId) -> Result<bool, StoreError> {
        let (_, opened_after) = self.live_sessions_after(&person.source);
        self.end_person_unless(person, Some(opened_after)).await
    }

    async fn end_person_unless(
        &self,
        person: &PersonId,
        opened_after: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        let now = whole_second(self.clock.now());
        let end = self.store.end_person(&self.gate, person, now, opened_after);
        let ended = self.change(end, |ended| {
            if let Some((id, person)) = ended {
                self.index.put_person(*id, person.clone());
            }
        });
        let ended = ended.await.inspect_err(|error| self.write_failed("end a person", error))?;
        Ok(ended.is_some())
    }

    /// Records that people of directories and providers who were not seen for this long have ended.  Returns them.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_idle_people(&self, max_idle: Duration) -> Result<Vec<PersonId>, StoreError> {
        let max_idle = SignedDuration::try_from(max_idle).unwrap_or(SignedDuration::MAX);
        let mut all = Vec::new();
        loop {
            let now = whole_second(self.clock.now());
            let end = self.store.end_idle_people(&self.gate, now, self.time_ago(max_idle), MAX_ENDED_AT_ONCE);
            let ended = self.change(end, |ended| {
                for (id, person) in ended {
                    self.index.put_person(*id, person.clone());
                }
            });
            let ended = ended.await.inspect_err(|error| self.write_failed("end people who left", error))?;
            let is_last = ended.len() < MAX_ENDED_AT_ONCE as usize;
            all.extend(ended.into_iter().map(|(_, person)| person.person));
            if is_last {
                return Ok(all);
            }
        }
    }

    /// The people who have keys that are not revoked.
    pub fn owners(&self) -> Vec<PersonId> {
        self.index.owners()
    }

    /// Whether a person has keys that are not revoked.
    pub fn is_owner(&self, person: &PersonId) -> bool {
        self.index.is_owner(person)
    }

    /// The record of a person, ended or not.
    pub fn find_person(&self, person: &PersonId) -> Option<Arc<PersonRecord>> {
        self.index.find_person(person)
    }

    /// The principal of a session from the record of its person, for processes that do not decide about people; `None`
    /// when there is no record, or the session is over.
    pub fn recorded_principal(&self, session: &Session) -> Option<Arc<Principal>> {
        let person = self.find_person(&session.person).filter(|person| person.holds(session))?;
        Some(Arc::clone(person.principal()))
    }

    /// The people of a source with a record that has not ended.  Takes time in proportion to the number of all records.
    pub fn people(&self, source: &PersonSource) -> Vec<PersonId> {
        self.index.people(|other| other == source)
    }

    /// The same of every provider, whether the configuration has it or not.
    pub fn people_of_providers(&self) -> Vec<PersonId> {
        self.index.people(|source| matches!(source, PersonSource::Provider(_)))
    }
}
