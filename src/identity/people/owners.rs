//! The owners of API keys: who they are now.
//!
//! A person's key only names its owner.  A user of the configuration is looked up in the snapshot.  People of
//! directories and providers, who usually have no session, are looked up in their records; the current rules turn the
//! claims of a record into a principal.  A process that does not decide about people uses the actor of the record
//! ([`crate::keys::people`]).
//!
//! The directory is asked about owners once an hour ([`People::check_owners`]).  A record ends when the person is no
//! longer in the directory, when the rules reject the person, and when the person was not seen for
//! `keys.person_max_idle`.  A log-in and the use of a session of the directory count as being seen; the use of a key
//! does not.  From then on the keys are disabled, until the person logs in again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::principal::{entry_of, principal_of, record_of};
use super::providers;
use super::sessions::{RecheckResult, SWEEP_TIMEOUT, Seen};
use super::{People, lock};
use crate::config::{Bind, LdapSettings};
use crate::credential::{Kind, Principal};
use crate::keys::Keys;
use crate::keys::people::PersonRecord;
use crate::keys::store::StoreError;
use crate::person::{PersonId, PersonSource};
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;

/// How long an answer of the directory about the owner of a key is valid.
pub const OWNER_RECHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// The minimum time between two records of the same person who authenticates with a password.
pub(super) const SEEN_INTERVAL: Duration = Duration::from_secs(60);

/// Which process decides about people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::identity) enum DecidedBy {
    /// This process.
    Us,
    /// Another process, which writes records.
    Records,
}

/// The principal of a person's record under the current rules; `None` when the rules reject the person, or the claims
/// are not known.
pub(super) fn under_rules(
    record: &PersonRecord,
    person: &PersonId,
    snapshot: &Snapshot,
) -> Option<Arc<Principal>> {
    let is_bound_to = |binding: [u8; 32]| record.binding == TokenDigest::from_bytes(binding);
    let principal = match &person.source {
        PersonSource::Config => None,
        PersonSource::Ldap => {
            let settings = snapshot.ldap.as_ref().filter(|settings| is_bound_to(settings.binding))?;
            record.principal_under(snapshot.version, |claims| {
                principal_of(&entry_of(&claims)?, settings, snapshot, Kind::User).ok()
            })
        }
        PersonSource::Provider(name) => {
            let settings = snapshot.provider(name).filter(|settings| is_bound_to(settings.binding))?;
            record.principal_under(snapshot.version, |claims| {
                providers::principal_of(&claims, settings, snapshot, Kind::User).ok()
            })
        }
    };
    // Claims that give another id under the current rules belong to another person.
    principal.filter(|principal| principal.person.as_ref().is_some_and(|made| made.id == *person))
}

impl People {
    /// The current principal of the owner of a key; `None` when the owner is gone.
    pub(in crate::identity) fn owner(
        &self,
        person: &PersonId,
        snapshot: &Snapshot,
        keys: &Keys,
        decided_by: DecidedBy,
    ) -> Option<Arc<Principal>> {
        let record = || keys.find_person(person).filter(|record| record.ended_at.is_none());
        match (&person.source, decided_by) {
            (PersonSource::Config, _) => match (snapshot.users.get(&person.subject), decided_by) {
                (Some(user), _) => Some(Arc::clone(&user.principal)),
                (None, DecidedBy::Us) => None,
                (None, DecidedBy::Records) => record().map(|record| Arc::clone(record.principal())),
            },
            (PersonSource::Ldap | PersonSource::Provider(_), DecidedBy::Records) => {
                record().map(|record| Arc::clone(record.principal()))
            }
            (PersonSource::Ldap, DecidedBy::Us) => {
                let is_gone = snapshot.ldap.as_ref().is_none_or(|settings| self.is_unended(person, settings));
                if is_gone { None } else { under_rules(&*record()?, person, snapshot) }
            }
            (PersonSource::Provider(_), DecidedBy::Us) => under_rules(&*record()?, person, snapshot),
        }
    }

    /// Records a person who authenticated with a password of the directory: such a person may create keys without a
    /// session.
    ///
    /// # Errors
    /// The store failed.
    pub(in crate::identity) async fn see(
        &self,
        principal: &Principal,
        keys: &Keys,
    ) -> Result<(), StoreError> {
        let Some(record) = record_of(principal, self.clock.now()) else {
            return Ok(());
        };
        let (id, now) = (record.person.clone(), self.clock.elapsed());
        let is_recorded = keys.find_person(&id).is_some_and(|known| known.says_the_same(&record));
        if is_recorded && lock(&self.seen).get(&id, now, SEEN_INTERVAL).is_some() {
            return Ok(());
        }
        keys.record_person(&record).await?;
        lock(&self.seen).insert(id, (), now);
        Ok(())
    }

    /// Asks the directory about the owners of keys about whom it gave no answer within the last hour.  The records of
    /// people who are gone end.  Where people bind directly the directory cannot be asked without their password.
    pub async fn check_owners(
        &self,
        owners: Vec<PersonId>,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
    ) {
        if matches!(settings.bind, Bind::Direct { .. }) {
            return;
        }
        let binding = TokenDigest::from_bytes(settings.binding);
        let end = Instant::now() + SWEEP_TIMEOUT;
        for person in owners {
            if person.source != PersonSource::Ldap
                || self.was_found_within(&person, settings, OWNER_RECHECK_INTERVAL)
            {
                continue;
            }
            let record = keys.find_person(&person);
            let record = record.filter(|record| record.ended_at.is_none() && record.binding == binding);
            let Some(entry) = record.and_then(|record| entry_of(&record.claims()?)) else {
                continue;
            };
            let directory = || self.admin.directory();
            let name = || Some(entry.name);
            let recheck =
                self.recheck((&person, Seen::No), name, directory, settings, snapshot, keys, end, true);
            match Box::pin(recheck).await {
                RecheckResult::Answered(_) | RecheckResult::NotAsked => {}
                // Without the directory each question costs its whole timeout.
                RecheckResult::NoAnswer if self.is_silent() => return,
                RecheckResult::NoAnswer => {}
                RecheckResult::Pending => return,
            }
            if Instant::now() >= end {
                return;
            }
        }
    }
}
