//! The records of people in the store, for processes without an admin listener.
//!
//! A record is written at log-in and whenever the directory was asked again ([`super::sessions`]), and here: at the start and
//! after each reload, when the rules may make another actor of a person, or nobody.
//!
//! Of people of providers nobody can be asked about.  A record of theirs holds for as long as they have a session, or a key.
//! The records of people of directories and providers end when they were not seen for `keys.person_max_idle`: their keys are
//! disabled then.

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

/// The pause before records are written again that the store did not take.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whose sessions were used, and whose have ended.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the records of people in step with the rules in force and with the directory, for as long as it is polled.
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
            // Whose sessions the store did not let end may have a record again.
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

/// Does what time makes necessary: asks the directory again about people whose sessions were used
/// ([`People::check_used_sessions`]) and about owners of keys ([`People::check_owners`]), and ends people of providers who
/// have neither session nor key, and those who were not seen for long.  The store has logged an
/// error; the next time it is tried again.
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

/// Writes the records that differ from what the rules say.
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
    // Those who have no record, or one that ended.
    for (person, session) in sessions {
        let Some(settings) = &snapshot.ldap else {
            end_sessions(&person, "not_configured", keys).await?;
            continue;
        };
        // Of somebody of whom nothing was heard for too long it ended for that.
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

/// Writes down who somebody without a session is now, by what their source said of them last.  That does not count as their
/// being seen.
async fn write_without_session(
    person: &PersonId,
    snapshot: &Snapshot,
    keys: &Keys,
) -> Result<(), StoreError> {
    let record = keys.find_person(person).filter(|record| record.ended_at.is_none());
    let Some(record) = record else { return Ok(()) };
    let claims = record.claims();
    // A program of an older version wrote the record: who has no key is written down at the next log-in.
    if claims.is_none() && !keys.is_owner(person) {
        return Ok(());
    }
    let principal = under_rules(&record, person, snapshot);
    match principal.and_then(|principal| record_of(&principal, Timestamp::UNIX_EPOCH)) {
        Some(record) => write(keys, &StoredPerson { claims, ..record }).await,
        None => keys.end_person(person).await.map(drop),
    }
}

/// The record of somebody with a session, as this principal.
fn record_in_session(principal: &Principal, session: &Session, clock: &Clock) -> Option<StoredPerson> {
    let record = record_of(principal, clock.now())?;
    Some(StoredPerson { claims: session.claims.clone(), ..record })
}

/// Writes down who somebody with a session of the directory is now.  Of sessions that were opened under other settings
/// nobody knows whose they are now: they end.
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

/// Writes down who somebody with a session of a provider is now.  The sessions of somebody who is nobody end.
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

/// The principal of a provider's session under the rules in force.
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

/// Ends the people of providers who have none of these sessions, which are all of providers, and no key.
async fn end_absent(sessions: &HashMap<PersonId, Arc<Session>>, keys: &Keys) -> Result<(), StoreError> {
    for person in keys.people_of_providers() {
        if !sessions.contains_key(&person) && !keys.is_owner(&person) {
            // Another replica may have opened one by now.
            keys.end_person_without_session(&person).await?;
        }
    }
    Ok(())
}

/// Writes again the records that ended of people who have one of these sessions: the last one was over while they logged in.
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

/// Ends the sessions of somebody who is nobody under the rules in force.
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
