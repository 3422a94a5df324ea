//! The records of people in the store, for processes without an admin listener.
//!
//! A record is written at log-in and whenever the directory was asked again (`people.rs`), and here: at the start and
//! after each reload, when the rules may make another actor of a person, or nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{People, RECHECK_GRACE, RECHECK_INTERVAL, principal_of_session, record_of};
use crate::clock::Clock;
use crate::config::LdapSettings;
use crate::keys::sessions::Session;
use crate::keys::store::StoreError;
use crate::keys::{Keys, StoredPerson, scoped_binding};
use crate::person::{PersonId, PersonSource};
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::token::TokenDigest;

/// The pause before records are written again that the store did not take.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whose sessions were used.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps the records of people in step with the rules in force and with the directory, for as long as it is polled.
pub async fn keep(snapshots: SnapshotStore, keys: Arc<Keys>, people: People, clock: Clock) {
    let mut replacements = snapshots.replacements();
    keys.first_read().await;
    let mut is_written = false;
    loop {
        if !is_written {
            replacements.mark_unchanged();
            // The store has logged why.
            is_written = write_all(&snapshots.current(), &keys, &clock).await.is_ok();
        }
        let pause = if is_written { SWEEP_INTERVAL } else { RETRY_INTERVAL };
        tokio::select! {
            changed = replacements.changed() => match changed {
                Ok(()) => is_written = false,
                Err(_) => return,
            },
            () = tokio::time::sleep(pause) => {
                let snapshot = snapshots.current();
                if let (true, Some(settings)) = (is_written, &snapshot.ldap) {
                    people.check_used_sessions(settings, &snapshot, &keys).await;
                }
            }
        }
    }
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
    for person in keys.people(PersonSource::Config) {
        let user = snapshot.users.get(&person.subject);
        if user.is_none_or(|user| record_of(&user.principal, clock.now()).is_none()) {
            keys.end_person(&person).await?;
        }
    }
    let mut sessions = newest_sessions(keys);
    for person in keys.people(PersonSource::Ldap) {
        match &snapshot.ldap {
            // Somebody without a session is written down at the next log-in.
            Some(settings) => {
                if let Some(session) = sessions.remove(&person) {
                    write_person(&session, settings, snapshot, keys, clock).await?;
                }
            }
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
        let age = Duration::try_from(clock.now().duration_since(session.checked_at)).unwrap_or_default();
        if age < RECHECK_INTERVAL + RECHECK_GRACE {
            write_person(&session, settings, snapshot, keys, clock).await?;
        }
    }
    Ok(())
}

/// The session of each person of the directory that was checked last.
fn newest_sessions(keys: &Keys) -> HashMap<PersonId, Arc<Session>> {
    let mut sessions: HashMap<PersonId, Arc<Session>> = HashMap::new();
    for (_, session) in keys.sessions_of(PersonSource::Ldap) {
        let is_newer = |known: &Arc<Session>| known.checked_at < session.checked_at;
        if sessions.get(&session.person).is_none_or(is_newer) {
            sessions.insert(session.person.clone(), session);
        }
    }
    sessions
}

/// Writes a record unless the store has the same.
async fn write(keys: &Keys, record: &StoredPerson) -> Result<(), StoreError> {
    let is_known = keys.find_person(&record.person).is_some_and(|person| person.says_the_same(record));
    if is_known { Ok(()) } else { keys.record_person(record).await }
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
    match principal.and_then(|principal| record_of(&principal, clock.now())) {
        Some(record) => write(keys, &record).await,
        None => keys.end_person(&session.person).await.map(drop),
    }
}

/// Ends the sessions of somebody who is nobody under the rules in force.
async fn end_sessions(person: &PersonId, reason: &'static str, keys: &Keys) -> Result<(), StoreError> {
    let ended = keys.end_sessions(person).await?;
    tracing::info!(
        target: "audit",
        source = person.source.as_str(),
        user = &*person.subject,
        reason,
        ended_sessions = ended,
        "sessions ended: the configuration knows the directory no longer, or another one"
    );
    Ok(())
}
