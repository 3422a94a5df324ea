//! The records of people in the store, for processes without an admin listener.
//!
//! A record is written at log-in and whenever the directory was asked again ([`super::sessions`]).  This module writes
//! records at the start and after each reload, since new rules may give a person another actor or reject the person.
//!
//! A provider cannot be asked again about its people.  Their records are valid for as long as they have a session or a
//! key.  The records of people of directories and providers end when the people were not seen for
//! `keys.person_max_idle`; their keys are disabled then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::owners::under_rules;
use super::{
    People, PersonRejection, RECHECK_GRACE, RECHECK_INTERVAL, principal_of_session, providers, record_of,
};
use crate::clock::Clock;
use crate::config::LdapSettings;
use crate::credential::{Kind, Principal};
use crate::keys::sessions::Session;
use crate::keys::store::StoreError;
use crate::keys::{Keys, StoredPerson, scoped_binding};
use crate::person::{PersonId, PersonSource};
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::token::TokenDigest;

/// The pause before another attempt to write records that the store did not accept.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often used and ended sessions are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the records of people up to date with the current rules and with the directory, for as long as it is polled.
pub async fn keep(snapshots: SnapshotStore, keys: Arc<Keys>, people: People, clock: Clock) {
    let mut replacements = snapshots.replacements();
    keys.first_read().await;
    let mut is_written = false;
    loop {
        if !is_written {
            replacements.mark_unchanged();
            let snapshot = snapshots.current();
            // The store has logged why.
            is_written = write_all(&snapshot, &keys, &clock).await.is_ok();
            // A person whose sessions could not be ended may have a record again.
            if let Some(settings) = &snapshot.ldap {
                people.retry_ending(settings, &keys).await;
            }
        }
        let pause = if is_written { SWEEP_INTERVAL } else { RETRY_INTERVAL };
        tokio::select! {
            changed = replacements.changed() => match changed {
                Ok(()) => is_written = false,
                Err(_) => return,
            },
            () = tokio::time::sleep(pause) => {
                if is_written {
                    sweep(&snapshots.current(), &keys, &people, &clock).await;
                }
            }
        }
    }
}

/// The periodic work: asks the directory again about people with used sessions ([`People::check_used_sessions`]) and
/// about owners of keys ([`People::check_owners`]).  Ends people of providers who have neither session nor key, and
/// people who were not seen for `keys.person_max_idle`.  The store logs an error; the next call tries again.
pub async fn sweep(snapshot: &Arc<Snapshot>, keys: &Arc<Keys>, people: &People, clock: &Clock) {
    if snapshot.ldap.is_none() && snapshot.providers.is_empty() {
        return;
    }
    let sessions = keys.sessions_of(|source| *source != PersonSource::Config);
    let (of_directory, of_providers): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|(_, session)| session.person.source == PersonSource::Ldap);
    let sessions = newest_of_each(of_providers);
    let _ = end_absent(&sessions, keys).await;
    let _ = write_ended(&sessions, snapshot, keys, clock).await;
    if let Some(settings) = &snapshot.ldap {
        people.check_used_sessions(of_directory, settings, snapshot, keys).await;
    }
    let _ = end_idle(snapshot, keys).await;
    if let Some(settings) = &snapshot.ldap {
        people.check_owners(keys.owners(), settings, snapshot, keys).await;
    }
}

/// Ends the people who were not seen for `keys.person_max_idle`.
async fn end_idle(snapshot: &Snapshot, keys: &Keys) -> Result<(), StoreError> {
    let Some(settings) = &snapshot.keys else { return Ok(()) };
    for person in keys.end_idle_people(settings.person_max_idle).await? {
        if keys.is_owner(&person) {
            tracing::info!(
                target: "audit",
                source = person.source.as_str(),
                user = &*person.subject,
                max_idle_seconds = settings.person_max_idle.as_secs(),
                "API keys disabled: their owner was not seen for long"
            );
        }
    }
    Ok(())
}

/// Writes the records that differ under the current rules.
///
/// # Errors
/// The store failed.
pub async fn write_all(snapshot: &Snapshot, keys: &Keys, clock: &Clock) -> Result<(), StoreError> {
    for (_, user) in snapshot.users.iter() {
        if let Some(record) = record_of(&user.principal, clock.now()) {
            write(keys, &record).await?;
        }
    }
    for person in keys.people(&PersonSource::Config) {
        let user = snapshot.users.get(&person.subject);
        if user.is_none_or(|user| record_of(&user.principal, clock.now()).is_none()) {
            keys.end_person(&person).await?;
        }
    }
    let sessions = keys.sessions_of(|source| *source != PersonSource::Config);
    let (of_directory, of_providers): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|(_, session)| session.person.source == PersonSource::Ldap);
    let mut sessions = newest_of_each(of_directory);
    for person in keys.people(&PersonSource::Ldap) {
        match &snapshot.ldap {
            Some(settings) => match sessions.remove(&person) {
                Some(session) => write_person(&session, settings, snapshot, keys, clock).await?,
                None => write_without_session(&person, snapshot, keys).await?,
            },
            None => {
                keys.end_person(&person).await?;
            }
        }
    }
    // People without a record, or with a record that ended.
    for (person, session) in sessions {
        let Some(settings) = &snapshot.ldap else {
            end_sessions(&person, "not_configured", keys).await?;
            continue;
        };
        // The record of a person without a recent answer of the directory stays ended.
        let age = clock.now().duration_since(session.checked_at).unsigned_abs();
        if age < RECHECK_INTERVAL + RECHECK_GRACE {
            write_person(&session, settings, snapshot, keys, clock).await?;
        }
    }
    let sessions = newest_of_each(of_providers);
    for session in sessions.values() {
        write_person_of_provider(session, snapshot, keys, clock).await?;
    }
    for person in keys.people_of_providers() {
        if !sessions.contains_key(&person) && keys.is_owner(&person) {
            write_without_session(&person, snapshot, keys).await?;
        }
    }
    end_absent(&sessions, keys).await
}

/// The session of each person that was checked last.
fn newest_of_each(sessions: Vec<(TokenDigest, Arc<Session>)>) -> HashMap<PersonId, Arc<Session>> {
    let mut newest: HashMap<PersonId, Arc<Session>> = HashMap::new();
    for (_, session) in sessions {
        let is_newer = |known: &Arc<Session>| known.checked_at < session.checked_at;
        if newest.get(&session.person).is_none_or(is_newer) {
            newest.insert(session.person.clone(), session);
        }
    }
    newest
}

/// Writes a record unless the store has the same.
async fn write(keys: &Keys, record: &StoredPerson) -> Result<(), StoreError> {
    let is_known = keys.find_person(&record.person).is_some_and(|person| person.says_the_same(record));
    if is_known { Ok(()) } else { keys.record_person(record).await }
}

/// Writes the current record of a person without a session, from the last claims.  That does not count as being seen.
async fn write_without_session(
    person: &PersonId,
    snapshot: &Snapshot,
    keys: &Keys,
) -> Result<(), StoreError> {
    let record = keys.find_person(person).filter(|record| record.ended_at.is_none());
    let Some(record) = record else { return Ok(()) };
    let claims = record.claims();
    // An older version wrote the record: for a person without a key it is written at the next log-in.
    if claims.is_none() && !keys.is_owner(person) {
        return Ok(());
    }
    let principal = under_rules(&record, person, snapshot);
    match principal.and_then(|principal| record_of(&principal, Timestamp::UNIX_EPOCH)) {
        Some(record) => write(keys, &StoredPerson { claims, ..record }).await,
        None => keys.end_person(person).await.map(drop),
    }
}

/// The record of a person with a session, as this principal.
fn record_in_session(principal: &Principal, session: &Session, clock: &Clock) -> Option<StoredPerson> {
    let record = record_of(principal, clock.now())?;
    Some(StoredPerson { claims: session.claims.clone(), ..record })
}

/// Writes the current record of a person with a session of the directory.  Sessions that were opened under other
/// settings end, since their ids may now belong to other people.
async fn write_person(
    session: &Session,
    settings: &LdapSettings,
    snapshot: &Snapshot,
    keys: &Keys,
    clock: &Clock,
) -> Result<(), StoreError> {
    let binding = scoped_binding(&TokenDigest::from_bytes(settings.binding), session.scope);
    if session.binding != binding {
        end_sessions(&session.person, "other_settings", keys).await?;
    }
    let principal = principal_of_session(session, settings, snapshot);
    match principal.and_then(|principal| record_in_session(&principal, session, clock)) {
        Some(record) => write(keys, &record).await,
        None => keys.end_person(&session.person).await.map(drop),
    }
}

/// Writes the current record of a person with a session of a provider.  The sessions of a rejected person end.
async fn write_person_of_provider(
    session: &Session,
    snapshot: &Snapshot,
    keys: &Keys,
    clock: &Clock,
) -> Result<(), StoreError> {
    match provider_principal(session, snapshot) {
        Ok(principal) => match record_in_session(&principal, session, clock) {
            Some(record) => write(keys, &record).await,
            None => keys.end_person(&session.person).await.map(drop),
        },
        Err(reason) => {
            let ended = keys.end_sessions_because(&session.person, reason).await?;
            keys.end_person(&session.person).await?;
            tracing::info!(
                target: "audit",
                source = session.person.source.as_str(),
                user = &*session.person.subject,
                reason,
                ended_sessions = ended,
                "sessions ended: the provider was removed from the configuration or replaced, or the person has no role"
            );
            Ok(())
        }
    }
}

/// The principal of a provider's session under the current rules.
///
/// # Errors
/// Why there is none: the word for the audit log.
fn provider_principal(session: &Session, snapshot: &Snapshot) -> Result<Arc<Principal>, &'static str> {
    let settings = match &session.person.source {
        PersonSource::Provider(name) => snapshot.provider(name).ok_or("not_configured")?,
        PersonSource::Config | PersonSource::Ldap => return Err("not_configured"),
    };
    if let Some(principal) = providers::principal_of_session(session, snapshot) {
        return Ok(principal);
    }
    if session.binding != scoped_binding(&TokenDigest::from_bytes(settings.binding), session.scope) {
        return Err("other_settings");
    }
    let claims = session.claims.as_ref().ok_or(PersonRejection::NoId.as_str())?;
    let principal = providers::principal_of(claims, settings, snapshot, Kind::Session);
    principal.map(Arc::new).map_err(PersonRejection::as_str)
}

/// Ends the people of providers who have neither a key nor one of these sessions, which are all sessions of providers.
async fn end_absent(sessions: &HashMap<PersonId, Arc<Session>>, keys: &Keys) -> Result<(), StoreError> {
    for person in keys.people_of_providers() {
        if !sessions.contains_key(&person) && !keys.is_owner(&person) {
            // Another replica may have opened a session meanwhile.
            keys.end_person_without_session(&person).await?;
        }
    }
    Ok(())
}

/// Writes the ended records of people with one of these sessions again: the previous session was over while they logged
/// in.
async fn write_ended(
    sessions: &HashMap<PersonId, Arc<Session>>,
    snapshot: &Snapshot,
    keys: &Keys,
    clock: &Clock,
) -> Result<(), StoreError> {
    for (person, session) in sessions {
        let has_ended = keys.find_person(person).is_some_and(|person| person.ended_at.is_some());
        if has_ended
            && let Ok(principal) = provider_principal(session, snapshot)
            && let Some(record) = record_in_session(&principal, session, clock)
        {
            write(keys, &record).await?;
        }
    }
    Ok(())
}

/// Ends the sessions of a person whom the current rules reject.
async fn end_sessions(person: &PersonId, reason: &'static str, keys: &Keys) -> Result<(), StoreError> {
    let ended = keys.end_sessions_because(person, reason).await?;
    tracing::info!(
        target: "audit",
        source = person.source.as_str(),
        user = &*person.subject,
        reason,
        ended_sessions = ended,
        "sessions ended: the directory was removed from the configuration or replaced"
    );
    Ok(())
}
