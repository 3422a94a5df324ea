//! Records of people.
//!
//! A process that decides people (it has `admin`, and asks the directory) records of each who they are: at log-in, when the
//! directory is asked again, at its start and reload.  Processes that decide none take actors from the records.  A person
//! who left is not deleted at once: the record says when they ended.
//!
//! People have keys without having sessions.  So a record also holds what the person's source said of them last, of which the
//! rules in force make a principal.

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

/// The most people of whom there are records.  For one more the one is evicted that ended longest ago or, where none
/// has, that was seen longest ago.
pub const MAX_PEOPLE: u32 = 100_000;
/// How many people end in one transaction.
const MAX_ENDED_AT_ONCE: u32 = 1000;
/// The record of a person who ended is deleted after this long.
pub const ENDED_PERSON_RETENTION: SignedDuration = SignedDuration::from_hours(400 * 24);

/// The record of a person, as the index holds it.
#[derive(Debug)]
pub struct PersonRecord {
    /// The role; `None` for none.
    pub role: Option<Role>,
    /// Binds the record to what must stay the same for it to hold.
    pub binding: TokenDigest,
    /// When the person ended; `None` while they have not.
    pub ended_at: Option<Timestamp>,
    /// Binds the person's sessions at Check.
    application_binding: TokenDigest,
    id: i64,
    principal: Arc<Principal>,
    /// What the source said of the person when it was asked last, as JSON, which takes the least memory; `None` for a configured
    /// user, and once they have ended.
    claims: Option<Box<str>>,
    /// What the rules in force make of the claims.
    under_rules: ArcSwapOption<CachedPrincipal>,
}

impl PersonRecord {
    /// A person as they are recorded under this id; `None` when the actor cannot be one.
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

    /// What the person's source said of them when it was asked last; `None` where it says nothing.
    pub fn claims(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(self.claims.as_deref()?).ok()
    }

    /// What `make` makes of the claims, once under the snapshot of this version.
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

    /// Whether a session of the person still counts.
    fn holds(&self, session: &Session) -> bool {
        let binding = match session.scope {
            SessionScope::Admin => &self.binding,
            SessionScope::Application => &self.application_binding,
        };
        self.ended_at.is_none() && session.binding == *binding
    }

    /// Whether the record says the same, apart from when the person was seen.
    pub fn says_the_same(&self, record: &StoredPerson) -> bool {
        self.is_same(self.id, record)
    }

    /// Whether this is what is stored under this id of the same person, apart from when they were seen.
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
    /// Records a person.  That they were seen is written once a minute, and told to nobody; all else takes effect on
    /// every replica.
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

    /// Writes that a person has ended by now.  False when they had, or when there is no record of them.
    ///
    /// # Errors
    /// The store failed.
    pub async fn end_person(&self, person: &PersonId) -> Result<bool, StoreError> {
        self.end_person_unless(person, None).await
    }

    /// The same, unless the store has a session of the person that is not too old to live, whether this process knows of it
    /// yet or not.
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

    /// Writes that people of directories and providers ended who were not seen for this long.  Gives who they are.
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

    /// The principal of a session by the record of its person, for processes that decide no people; `None` when there is
    /// none, or the session is over.
    pub fn recorded_principal(&self, session: &Session) -> Option<Arc<Principal>> {
        let person = self.find_person(&session.person).filter(|person| person.holds(session))?;
        Some(Arc::clone(person.principal()))
    }

    /// The people of a source of whom there is a record and who have not ended.  Takes time in proportion to the number
    /// of all records.
    pub fn people(&self, source: &PersonSource) -> Vec<PersonId> {
        self.index.people(|other| other == source)
    }

    /// The same of every provider, whether the configuration has it or not.
    pub fn people_of_providers(&self) -> Vec<PersonId> {
        self.index.people(|source| matches!(source, PersonSource::Provider(_)))
    }
}
