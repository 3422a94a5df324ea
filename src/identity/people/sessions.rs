//! Sessions of people of the directory: how long their claims are valid, and rechecks with the directory about people
//! with sessions and with keys.
//!
//! A process that decides about people asks again when a session with due claims is used ([`People::in_session`]), and
//! once a minute about sessions that are used in other processes ([`People::check_used_sessions`]).  The answer is kept
//! in memory, written into the person's sessions, and recorded for the processes that do not decide about people.
//! Those accept due claims for [`RECHECK_GRACE`] of use and no longer ([`is_overdue`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::in_flight::{InFlight, WaitResult};
use super::memory::BoundedMap;
use super::principal::{claims, principal_of, principal_of_session, record_of, user_of};
use super::{MAX_REMEMBERED, People, lock};
use crate::clock::Clock;
use crate::config::{Bind, LdapSettings};
use crate::credential::{Kind, Principal};
use crate::deny_reason::DenyReason;
use crate::directory::{Directory, Entry, Lookup};
use crate::identity::Purpose;
use crate::keys::Keys;
use crate::keys::sessions::Session;
use crate::person::PersonId;
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;

/// How old the claims of a session may be before they are due: the directory is asked again.
pub const RECHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How much longer a session lives on due claims while the directory does not answer.
pub const RECHECK_GRACE: Duration = Duration::from_secs(60 * 60);
/// The life of a session after log-in where the directory cannot be asked without the password.
pub const DIRECT_SESSION_TTL: Duration = Duration::from_secs(60 * 60);
/// How long the directory is not asked about a person again after it did not answer.
const RECHECK_PAUSE: Duration = Duration::from_secs(10);
/// How long [`People::check_used_sessions`] starts questions.  The next call asks about the remaining people.
pub(super) const SWEEP_TIMEOUT: Duration = Duration::from_secs(20);
/// People about whom the directory is asked at the same time.
const MAX_RECHECKS: usize = 64;
/// The number of sessions that are examined before the task yields.
const SESSIONS_AT_A_TIME: usize = 1000;

/// A person of the directory, with the binding of the settings.
type BoundPerson = (PersonId, [u8; 32]);

/// The answer of the directory about a person who has a session.
#[derive(Clone)]
pub(super) enum Finding {
    /// The person's entry.
    Found(Arc<Entry>),
    /// The person is gone, or the current rules reject the person: why.
    Gone(&'static str),
}

/// The answer to a [`Recheck`].
#[derive(Clone)]
enum RecheckAnswer {
    /// What the directory said.
    Answered(Finding),
    /// It did not answer.
    Nothing,
}

/// Whether the cause of a question counts as a sign of the person's activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The person uses a session.
    Yes,
    /// The person only has a key.
    No,
}

/// The result of a recheck of a person with due claims.
pub(super) enum RecheckResult {
    /// The answer of the directory, now or within [`RECHECK_INTERVAL`].
    Answered(Finding),
    /// It did not answer, now or within [`RECHECK_PAUSE`].
    NoAnswer,
    /// It has not answered yet.
    Pending,
    /// It is not asked: too many questions are in progress, or the directory may not be asked.
    NotAsked,
}

/// The rechecks in progress, and the memory of earlier ones.
pub(super) struct Rechecks {
    in_flight: InFlight<BoundPerson, RecheckAnswer>,
    memory: Mutex<Memory>,
    /// Whether [`Memory::unended`] has an entry.  Checks need no lock as long as it has none.
    has_unended: AtomicBool,
}

struct Memory {
    /// The last answer of the directory, and when it was asked, in case the store cannot keep it.
    findings: BoundedMap<BoundPerson, (Timestamp, Finding)>,
    /// The people about whom it did not answer since its last answer.
    failures: BoundedMap<BoundPerson, ()>,
    /// The latest question got no answer, for a reason that does not concern its person.
    is_silent: bool,
    /// People with used sessions and due claims: the time of the claims, and since when this process knows.
    overdue: HashMap<BoundPerson, (Timestamp, Duration)>,
    /// People who are gone, but whose sessions or record could not be ended in the store: when the directory said so,
    /// and why.
    unended: HashMap<BoundPerson, (Timestamp, &'static str)>,
}

impl Rechecks {
    pub(super) fn new() -> Self {
        let memory = Memory {
            findings: BoundedMap::new(MAX_REMEMBERED),
            failures: BoundedMap::new(MAX_REMEMBERED),
            is_silent: false,
            overdue: HashMap::new(),
            unended: HashMap::new(),
        };
        Self { in_flight: InFlight::new(), memory: Mutex::new(memory), has_unended: AtomicBool::new(false) }
    }
}

/// Whether claims of one instant are due at another.  Claims from the future are due as well, beyond the tolerated
/// difference of clocks, since it is not known which clock stamped them.
fn is_due(checked_at: Timestamp, at: Timestamp) -> bool {
    at.duration_since(checked_at).unsigned_abs() >= RECHECK_INTERVAL
}

/// Whether a session was used for [`RECHECK_GRACE`] although its claims are due.  A process that decides about people
/// would have asked the directory by then and written the answer: there is no such process, or it cannot write, or the
/// directory does not answer.  A session that was idle overnight has the whole time.
pub fn is_overdue(session: &Session, clock: &Clock, now: Timestamp) -> bool {
    is_due(session.checked_at, now) && session.overdue_for(clock.elapsed()) >= RECHECK_GRACE
}

impl People {
    /// The principal of a session of the directory from its claims under the current rules; `None` when the session is
    /// over.
    ///
    /// # Errors
    /// The directory did not answer for so long that the claims are no longer valid.
    pub async fn in_session(
        &self,
        session: &Arc<Session>,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
        purpose: Purpose,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let Some(principal) = principal_of_session(session, settings, snapshot) else {
            return Ok(None);
        };
        if !is_due(session.checked_at, self.clock.now()) {
            return Ok(Some(principal));
        }
        if matches!(settings.bind, Bind::Direct { .. }) {
            let is_over = self.age(session.created_at) >= DIRECT_SESSION_TTL;
            return Ok((!is_over).then_some(principal));
        }
        let end = Instant::now() + purpose.timeout();
        // Without an answer the last one is used, which the store may not have kept.
        let last = self.last_finding(session, settings);
        let asked_at = last.as_ref().map_or(session.checked_at, |(asked_at, _)| *asked_at);
        let has_grace = self.age(asked_at) < RECHECK_INTERVAL + RECHECK_GRACE;
        let directory = || self.listener(purpose).directory();
        // Only the caller that starts a question waits for the answer: a directory that hangs must not delay the
        // others.
        let (person, name) = ((&session.person, Seen::Yes), || claims(session).map(|entry| entry.name));
        let recheck = self.recheck(person, name, directory, settings, snapshot, keys, end, !has_grace);
        let finding = match Box::pin(recheck).await {
            RecheckResult::Answered(finding) => Some(finding),
            RecheckResult::NoAnswer | RecheckResult::Pending | RecheckResult::NotAsked if has_grace => {
                last.map(|(_, finding)| finding)
            }
            RecheckResult::NoAnswer | RecheckResult::Pending | RecheckResult::NotAsked => {
                return Err(DenyReason::DirectoryUnavailable);
            }
        };
        Ok(match finding {
            // The rules may have changed since it was found.
            Some(Finding::Found(entry)) => {
                principal_of(&entry, settings, snapshot, Kind::Session).ok().map(Arc::new)
            }
            Some(Finding::Gone(_)) => None,
            None => Some(principal),
        })
    }

    /// Asks again about people with due claims whose sessions were used, here or by processes that do not decide about
    /// people.  Those processes use the records in the store.  If there is no answer about a person for another
    /// [`RECHECK_GRACE`], the record ends.  Where people bind directly, their sessions end an hour after log-in.
    /// `sessions` are all sessions of the directory.
    pub async fn check_used_sessions(
        &self,
        sessions: Vec<(TokenDigest, Arc<Session>)>,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
    ) {
        self.retry_ending(settings, keys).await;
        if matches!(settings.bind, Bind::Direct { .. }) {
            for (digest, session) in sessions {
                if self.age(session.created_at) >= DIRECT_SESSION_TTL {
                    // The store has logged an error; the next time it is tried again.
                    let _ = keys.close_session(&digest, &[]).await;
                }
            }
            return;
        }
        let due = self.overdue(due_people(sessions, self.clock.now()).await, settings);
        let end = Instant::now() + SWEEP_TIMEOUT;
        let mut may_query = true;
        for (session, overdue_for) in due {
            if may_query && Instant::now() < end {
                let directory = || self.admin.directory();
                let (person, name) =
                    ((&session.person, Seen::Yes), || claims(&session).map(|entry| entry.name));
                let recheck = self.recheck(person, name, directory, settings, snapshot, keys, end, true);
                match Box::pin(recheck).await {
                    RecheckResult::Answered(_) => continue,
                    // Without the directory each question costs its whole timeout.
                    RecheckResult::NoAnswer => may_query = !self.is_silent(),
                    RecheckResult::Pending => may_query = false,
                    RecheckResult::NotAsked => {}
                }
            }
            // There was an hour to ask.  The record ends only if the directory did not answer about this person, or not
            // at all.
            if overdue_for >= RECHECK_GRACE && self.is_unanswered(&session.person, settings) {
                let _ = keys.end_person(&session.person).await;
            }
        }
    }

    /// Ends the sessions of people who are gone, where an earlier attempt failed in the store.
    pub async fn retry_ending(&self, settings: &LdapSettings, keys: &Keys) {
        let unended: Vec<_> = {
            let memory = lock(&self.rechecks.memory);
            memory
                .unended
                .iter()
                .map(|(person, (said_at, reason))| (person.clone(), *said_at, *reason))
                .collect()
        };
        for (person, said_at, reason) in unended {
            let (id, binding) = &person;
            let mut sessions = keys.sessions_of_person(id);
            // Under other settings the id may belong to another person, and a person who logged in since has a new
            // session.
            let is_past =
                *binding != settings.binding || sessions.any(|session| session.checked_at > said_at);
            if is_past || end_person_and_sessions(id, reason, keys).await {
                let mut memory = lock(&self.rechecks.memory);
                memory.unended.remove(&person);
                self.rechecks.has_unended.store(!memory.unended.is_empty(), Ordering::Relaxed);
            }
        }
    }

    /// Whether the directory said that the person is gone, but the record could not be ended in the store yet.
    pub(super) fn is_unended(&self, person: &PersonId, settings: &LdapSettings) -> bool {
        self.rechecks.has_unended.load(Ordering::Relaxed)
            && lock(&self.rechecks.memory).unended.contains_key(&(person.clone(), settings.binding))
    }

    /// The sessions with due claims, each with the time for which this process has known.
    fn overdue(
        &self,
        due: Vec<Arc<Session>>,
        settings: &LdapSettings,
    ) -> impl Iterator<Item = (Arc<Session>, Duration)> + use<> {
        let now = self.clock.elapsed();
        let mut memory = lock(&self.rechecks.memory);
        let mut overdue = HashMap::with_capacity(due.len());
        let since = due.iter().map(|session| {
            let person = (session.person.clone(), settings.binding);
            let known = memory.overdue.get(&person).filter(|(of, _)| *of == session.checked_at);
            let since = known.map_or(now, |(_, since)| *since);
            overdue.insert(person, (session.checked_at, since));
            now.saturating_sub(since)
        });
        let since: Vec<_> = since.collect();
        memory.overdue = overdue;
        due.into_iter().zip(since)
    }

    pub(super) fn is_silent(&self) -> bool {
        lock(&self.rechecks.memory).is_silent
    }

    /// Whether the directory did not answer about the person, or does not answer at all.
    fn is_unanswered(&self, person: &PersonId, settings: &LdapSettings) -> bool {
        let memory = lock(&self.rechecks.memory);
        let person = (person.clone(), settings.binding);
        memory.is_silent || memory.failures.get(&person, self.clock.elapsed(), RECHECK_GRACE).is_some()
    }

    /// Whether the directory answered about the person within this time.
    pub(super) fn was_found_within(
        &self,
        person: &PersonId,
        settings: &LdapSettings,
        max_age: Duration,
    ) -> bool {
        let person = (person.clone(), settings.binding);
        lock(&self.rechecks.memory).findings.get(&person, self.clock.elapsed(), max_age).is_some()
    }

    /// Asks the directory about a person, by the name that `name` returns.  `waits_for_others`: whether to wait for the
    /// answer to a question that another caller started.
    #[expect(clippy::too_many_arguments, reason = "what a question needs, and how long to wait for it")]
    pub(super) async fn recheck(
        &self,
        (person, seen): (&PersonId, Seen),
        name: impl FnOnce() -> Option<String>,
        directory: impl FnOnce() -> Option<Arc<Directory>>,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
        end: Instant,
        waits_for_others: bool,
    ) -> RecheckResult {
        let person = (person.clone(), settings.binding);
        let answer = {
            let memory = lock(&self.rechecks.memory);
            let now = self.clock.elapsed();
            if let Some((_, finding)) = memory.findings.get(&person, now, RECHECK_INTERVAL) {
                return RecheckResult::Answered(finding.clone());
            }
            match self.rechecks.in_flight.get(&person) {
                Some(answer) if waits_for_others => answer,
                Some(_) => return RecheckResult::Pending,
                None => {
                    if memory.failures.get(&person, now, RECHECK_PAUSE).is_some() {
                        return RecheckResult::NoAnswer;
                    }
                    if self.rechecks.in_flight.len() >= MAX_RECHECKS {
                        return RecheckResult::NotAsked;
                    }
                    let (Some(name), Some(directory)) = (name(), directory()) else {
                        return RecheckResult::NotAsked;
                    };
                    let recheck = Recheck {
                        person: person.clone(),
                        seen,
                        name,
                        directory,
                        settings: Arc::clone(settings),
                        snapshot: Arc::clone(snapshot),
                        keys: Arc::clone(keys),
                        people: self.clone(),
                    };
                    self.rechecks.in_flight.begin(person.clone(), recheck.ask())
                }
            }
        };
        match answer.until(end).await {
            WaitResult::Answered(RecheckAnswer::Answered(finding)) => RecheckResult::Answered(finding),
            WaitResult::Answered(RecheckAnswer::Nothing) => RecheckResult::NoAnswer,
            WaitResult::Pending => RecheckResult::Pending,
            WaitResult::Failed => {
                lock(&self.rechecks.memory).failures.insert(person, (), self.clock.elapsed());
                RecheckResult::NoAnswer
            }
        }
    }

    /// The last answer of the directory about the person of a session, if it is newer than the claims.
    fn last_finding(&self, session: &Session, settings: &LdapSettings) -> Option<(Timestamp, Finding)> {
        let memory = lock(&self.rechecks.memory);
        let (person, max_age) =
            ((session.person.clone(), settings.binding), RECHECK_INTERVAL + RECHECK_GRACE);
        let last = memory.findings.get(&person, self.clock.elapsed(), max_age);
        last.filter(|(asked_at, _)| *asked_at > session.checked_at).cloned()
    }

    /// The distance of an instant from now, in either direction.
    fn age(&self, at: Timestamp) -> Duration {
        self.clock.now().duration_since(at).unsigned_abs()
    }
}

/// For each person whose sessions were used while the claims were due, the session that was checked last.
async fn due_people(sessions: Vec<(TokenDigest, Arc<Session>)>, now: Timestamp) -> Vec<Arc<Session>> {
    let mut people: HashMap<PersonId, (Arc<Session>, Timestamp)> = HashMap::new();
    for (number, (_, session)) in sessions.into_iter().enumerate() {
        if number % SESSIONS_AT_A_TIME == SESSIONS_AT_A_TIME - 1 {
            tokio::task::yield_now().await;
        }
        let used_at = session.last_used_at();
        match people.get_mut(&session.person) {
            Some((newest, last_used_at)) => {
                *last_used_at = used_at.max(*last_used_at);
                if newest.checked_at < session.checked_at {
                    *newest = session;
                }
            }
            None => {
                people.insert(session.person.clone(), (session, used_at));
            }
        }
    }
    // Claims from the future are always due: the time of a use cannot be compared with them.
    let is_of_future = |checked_at: Timestamp| checked_at > now && is_due(checked_at, now);
    let was_due = |checked_at: Timestamp, used_at: Timestamp| {
        is_of_future(checked_at) || (used_at > checked_at && is_due(checked_at, used_at))
    };
    let due = people.into_values().filter(|(session, used_at)| was_due(session.checked_at, *used_at));
    due.map(|(session, _)| session).collect()
}

/// A question about the person of a session, with all that it needs.
struct Recheck {
    person: BoundPerson,
    seen: Seen,
    name: String,
    directory: Arc<Directory>,
    settings: Arc<LdapSettings>,
    snapshot: Arc<Snapshot>,
    keys: Arc<Keys>,
    people: People,
}

impl Recheck {
    async fn ask(self) -> RecheckAnswer {
        let asked_at = self.people.clock.now();
        let finding = match self.directory.find(&self.settings, &self.name).await {
            // Another person may have the name by now.
            Ok(Lookup::Found(entry)) if *entry.subject == *self.person.0.subject => {
                let snapshot = self.people.current(&self.snapshot);
                match user_of(&entry, asked_at, &self.settings, &snapshot) {
                    Ok(_) => Finding::Found(Arc::new(entry)),
                    Err(reason) => Finding::Gone(reason.as_str()),
                }
            }
            Ok(Lookup::Found(_)) => Finding::Gone("other_person"),
            Ok(Lookup::Rejected(reason)) => Finding::Gone(reason.as_str()),
            Err(error) => {
                tracing::warn!(reason = %error, "the directory did not answer a request about a person who has a \
                    session or a key");
                let mut memory = lock(&self.people.rechecks.memory);
                memory.is_silent = error.is_outage();
                memory.failures.insert(self.person.clone(), (), self.people.clock.elapsed());
                return RecheckAnswer::Nothing;
            }
        };
        // Stored before the write to the store, so that callers do not wait for the store.
        {
            let mut memory = lock(&self.people.rechecks.memory);
            memory.is_silent = false;
            memory.failures.remove(&self.person);
            let now = self.people.clock.elapsed();
            memory.findings.insert(self.person.clone(), (asked_at, finding.clone()), now);
        }
        // Remembered passwords may have the previous groups.
        let still = match &finding {
            Finding::Found(entry) => Some(&**entry),
            Finding::Gone(_) => None,
        };
        for listener in [&self.people.checks, &self.people.admin] {
            listener.verifier.forget_others(&self.person.0.subject, still);
        }
        let answer = RecheckAnswer::Answered(finding.clone());
        tokio::spawn(async move { self.write_down(&finding, asked_at).await });
        answer
    }

    /// Writes the finding to the store, under the current rules.  If a reload changes the rules meanwhile, it writes
    /// again under the new ones.
    async fn write_down(&self, finding: &Finding, asked_at: Timestamp) {
        loop {
            let snapshot = self.people.current(&self.snapshot);
            // The finding does not apply to another directory.
            let is_same = |settings: &&Arc<LdapSettings>| settings.binding == self.settings.binding;
            let Some(settings) = snapshot.ldap.as_ref().filter(is_same) else { return };
            match finding {
                Finding::Found(entry) => match user_of(entry, asked_at, settings, &snapshot) {
                    Ok(principal) => self.write(&principal, asked_at).await,
                    Err(reason) => self.end(reason.as_str(), asked_at).await,
                },
                Finding::Gone(reason) => self.end(reason, asked_at).await,
            }
            if self.people.current(&self.snapshot).version == snapshot.version {
                return;
            }
        }
    }

    /// Writes the record of the person.  If the store fails, it logs the error, and the finding stays in memory.
    async fn write(&self, principal: &Principal, asked_at: Timestamp) {
        // The record keeps the later time.
        let seen_at = match self.seen {
            Seen::Yes => asked_at,
            Seen::No => Timestamp::UNIX_EPOCH,
        };
        if let Some(record) = record_of(principal, seen_at)
            && self.keys.record_person(&record).await.is_ok()
            && let Some(claims) = principal.person.as_ref().and_then(|person| person.claims.as_ref())
        {
            let _ = self.keys.update_claims_of(&self.person.0, &claims.members, asked_at).await;
        }
    }

    /// Ends the record and the sessions of the person.  If the store fails, this is tried again.
    async fn end(&self, reason: &'static str, said_at: Timestamp) {
        if !end_person_and_sessions(&self.person.0, reason, &self.keys).await {
            let mut memory = lock(&self.people.rechecks.memory);
            if memory.unended.len() < MAX_REMEMBERED {
                memory.unended.insert(self.person.clone(), (said_at, reason));
                self.people.rechecks.has_unended.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Ends the record and the sessions of a person who is gone.  False when the store failed; it has logged why.
async fn end_person_and_sessions(person: &PersonId, reason: &'static str, keys: &Keys) -> bool {
    let record = keys.end_person(person).await;
    let (Ok(_), Ok(ended)) = (record, keys.end_sessions_because(person, reason).await) else {
        return false;
    };
    tracing::info!(
        target: "audit",
        source = person.source.as_str(),
        user = &*person.subject,
        reason,
        ended_sessions = ended,
        "sessions ended: the person is no longer in the directory, or has no role"
    );
    true
}
