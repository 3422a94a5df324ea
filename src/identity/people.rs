//! People of a directory: their passwords ([`asking`]), the actors that they are, and their sessions.
//!
//! A person's **claims** are what the directory said when it was asked last: its [`Entry`].  The rules in force make a
//! principal of them: another role for a group counts at the next request, not at the next log-in.

mod asking;
mod memory;
pub mod records;

pub use self::asking::QuestionResult;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::watch;

use self::asking::{Answer, Asker};
use self::memory::BoundedMap;
use super::Purpose;
use crate::actor::Actor;
use crate::clock::Clock;
use crate::config::{Bind, LdapSettings};
use crate::credential::{Kind, Principal};
use crate::deny_reason::DenyReason;
use crate::directory::{Directory, Entry, Lookup, NobodyReason};
use crate::distinguished_name::DistinguishedName;
use crate::keys::sessions::{CachedPrincipal, Session};
use crate::keys::{Keys, Role, StoredPerson, scoped_binding};
use crate::person::{Claims, Person, PersonId, PersonSource};
use crate::secret::Secret;
use crate::snapshot::Snapshot;
use crate::token::TokenDigest;

/// How old the claims of a session may be before the directory is asked again.
pub const RECHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How much longer a session lives on old claims while the directory does not answer.
pub const RECHECK_GRACE: Duration = Duration::from_secs(60 * 60);
/// How long after log-in a session ends whose person cannot be asked about without the password.
pub const DIRECT_SESSION_TTL: Duration = Duration::from_secs(60 * 60);
/// How long nobody asks about a person again after the directory did not answer.
const RECHECK_PAUSE: Duration = Duration::from_secs(10);
/// How long [`People::check_used_sessions`] asks; about whom is left it asks the next time.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(20);
/// People about whom the directory is asked at the same time.
const MAX_RECHECKS: usize = 64;
/// People of whom is remembered what the directory said of late, or that it said nothing.
const MAX_REMEMBERED: usize = 10_000;
/// How often a line says the same of the same person.
const TELL_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// The longest id of a person, in characters.
const MAX_ID: usize = 190;
/// The most that is kept of what the directory says of a person, as JSON, in bytes.
const MAX_CLAIMS_BYTES: usize = 64 * 1024;

/// Beginnings of the ids of keys and of service accounts, which no person may have.
const RESERVED_IDS: [&str; 2] = ["key:", "sa:"];

/// Why somebody whom the directory has is nobody here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAPerson {
    /// No entry of `ldap.roles` fits.
    NoRole,
    /// The id begins like that of a key or a service account.
    ReservedId,
    /// A token or a user of the configuration has the id.
    ConfiguredId,
    /// The id is longer than 190 characters, or holds one that cannot be printed.
    IllegalId,
    /// The actor is not a legal one.
    IllegalActor,
    /// What the directory says of the person is longer than 64 KiB, as JSON.
    TooLarge,
}

impl NotAPerson {
    /// The word for the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRole => "no_role",
            Self::ReservedId => "reserved_id",
            Self::ConfiguredId => "configured_id",
            Self::IllegalId => "illegal_id",
            Self::IllegalActor => "illegal_actor",
            Self::TooLarge => "too_large",
        }
    }
}

/// What the directory says of somebody who has a session.
#[derive(Clone)]
enum Finding {
    Found(Arc<Entry>),
    /// The person is gone.
    Gone,
}

/// People of the directory.  A clone is the same.
#[derive(Clone)]
pub struct People {
    checks: Arc<Listener>,
    admin: Arc<Listener>,
    rechecks: Arc<Mutex<Rechecks>>,
    /// People who were right about their password and are nobody, so that a line says so once in a while.
    told: Arc<Mutex<BoundedMap<String, ()>>>,
    clock: Clock,
}

/// What each listener has of its own: a directory that hangs for the one does not keep the other waiting.
struct Listener {
    asker: Asker,
    /// Started when somebody is first asked about.
    directory: Mutex<Option<Arc<Directory>>>,
    /// Whether anything is asked at all.
    may_ask: bool,
    clock: Clock,
}

/// An answer that is waited for: `Some(None)` when the directory did not answer.
type AwaitedFinding = watch::Receiver<Option<Option<Finding>>>;

struct Rechecks {
    in_flight: HashMap<PersonId, AwaitedFinding>,
    /// What was said last and when it was asked, in case that the store cannot keep it.
    findings: BoundedMap<PersonId, (Timestamp, Finding)>,
    /// About whom it was asked in vain of late.
    failures: BoundedMap<PersonId, ()>,
}

impl People {
    /// People of whom nothing is known yet.  Nobody is asked before somebody comes.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(clock: Clock) -> Result<Self, getrandom::Error> {
        Self::with(clock, true)
    }

    fn with(clock: Clock, may_ask: bool) -> Result<Self, getrandom::Error> {
        let rechecks = Rechecks {
            in_flight: HashMap::new(),
            findings: BoundedMap::new(MAX_REMEMBERED),
            failures: BoundedMap::new(MAX_REMEMBERED),
        };
        Ok(Self {
            checks: Arc::new(Listener::new(true, may_ask, &clock)?),
            admin: Arc::new(Listener::new(false, may_ask, &clock)?),
            rechecks: Arc::new(Mutex::new(rechecks)),
            told: Arc::new(Mutex::new(BoundedMap::new(MAX_REMEMBERED))),
            clock,
        })
    }

    /// The same, of whom nobody is ever asked: the directory does not answer.
    ///
    /// # Errors
    /// As [`People::new`].
    pub fn unasked(clock: Clock) -> Result<Self, getrandom::Error> {
        Self::with(clock, false)
    }

    /// How often questions of each listener, `check` and `admin`, had each result.
    pub fn questions(&self) -> impl Iterator<Item = (&'static str, QuestionResult, u64)> {
        [("check", &self.checks), ("admin", &self.admin)].into_iter().flat_map(|(name, listener)| {
            let counts = &listener.asker.counts;
            QuestionResult::ALL.into_iter().map(move |result| (name, result, counts.of(result)))
        })
    }

    /// Verifies the password of somebody in the directory.  `name` is normalised, and no configured user's.
    ///
    /// # Errors
    /// A wrong password, nobody, or not known in time.
    pub async fn verify(
        &self,
        name: &str,
        password: &Secret,
        settings: &Arc<LdapSettings>,
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<Arc<Principal>, DenyReason> {
        let end = Instant::now() + purpose.timeout();
        let listener = self.listener(purpose);
        let directory = listener.directory().ok_or(DenyReason::DirectoryUnavailable)?;
        let answer = listener.asker.verify(&directory, settings, name, password, end).await;
        let denial = match answer {
            Answer::Right(known) => {
                let cached = known.principal.load();
                if let Some(cached) = cached.as_ref()
                    && cached.snapshot_version == snapshot.version
                {
                    return Ok(Arc::clone(&cached.principal));
                }
                match user_of(&known.entry, known.asked_at, settings, snapshot) {
                    Ok(principal) => {
                        let principal = Arc::new(principal);
                        known.principal.store(Some(Arc::new(CachedPrincipal {
                            snapshot_version: snapshot.version,
                            principal: Arc::clone(&principal),
                        })));
                        return Ok(principal);
                    }
                    Err(reason) => {
                        self.tell(&known.entry.subject, reason.as_str());
                        DenyReason::WrongPassword
                    }
                }
            }
            Answer::Wrong => DenyReason::WrongPassword,
            Answer::Nobody(reason) => {
                if is_worth_telling(reason) {
                    self.tell(name, reason.as_str());
                }
                DenyReason::WrongPassword
            }
            Answer::Locked => DenyReason::UserLocked,
            Answer::Unavailable => DenyReason::DirectoryUnavailable,
            Answer::Pending => DenyReason::DirectoryPending,
        };
        if matches!(denial, DenyReason::WrongPassword | DenyReason::UserLocked) {
            // As a wrong password of a configured user.
            tokio::time::sleep_until(end.into()).await;
        }
        Err(denial)
    }

    /// The principal of a directory's session by the claims and the rules in force; `None` when the session is over.
    ///
    /// # Errors
    /// The directory was not heard of for so long that the claims do not count any more.
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
        let age = self.age(session.checked_at);
        if age < RECHECK_INTERVAL {
            return Ok(Some(principal));
        }
        if matches!(settings.bind, Bind::Direct { .. }) {
            let is_over = self.age(session.created_at) >= DIRECT_SESSION_TTL;
            return Ok((!is_over).then_some(principal));
        }
        let end = Instant::now() + purpose.timeout();
        let directory = || self.listener(purpose).directory();
        let recheck = self.recheck(session, directory, settings, snapshot, keys, end);
        // Without an answer the last one counts, which the store may not have been able to keep.
        let (asked_at, finding) = match Box::pin(recheck).await {
            Some(finding) => (self.clock.now(), Some(finding)),
            None => match self.last_finding(session) {
                Some((asked_at, finding)) => (asked_at, Some(finding)),
                None => (session.checked_at, None),
            },
        };
        if self.age(asked_at) >= RECHECK_INTERVAL + RECHECK_GRACE {
            return Err(DenyReason::DirectoryUnavailable);
        }
        Ok(match finding {
            // The rules may have changed since it was found.
            Some(Finding::Found(entry)) => {
                principal_of(&entry, settings, snapshot, Kind::Session).ok().map(Arc::new)
            }
            Some(Finding::Gone) => None,
            None => Some(principal),
        })
    }

    /// Asks again about people whose sessions were used, here or by processes that decide about no people, when what the
    /// directory said of them is too old to go by.  Those processes go by the records in the store: where nothing was
    /// heard for too long the record ends, and where people bind directly their sessions do, an hour after log-in.
    pub async fn check_used_sessions(
        &self,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
    ) {
        let sessions = keys.sessions_of(PersonSource::Ldap);
        if matches!(settings.bind, Bind::Direct { .. }) {
            for (digest, session) in sessions {
                if self.age(session.created_at) >= DIRECT_SESSION_TTL {
                    // The store has logged an error; the next time it is tried again.
                    let _ = keys.close_session(&digest).await;
                }
            }
            return;
        }
        // Of each person the session that knows most, and the last use of any.
        let mut people: HashMap<PersonId, (Arc<Session>, Timestamp)> = HashMap::new();
        for (_, session) in sessions.into_iter().filter(|(_, session)| claims(session).is_some()) {
            let used_at = session.last_used_at();
            let person = people.entry(session.person.clone());
            let (newest, last_used_at) = person.or_insert_with(|| (Arc::clone(&session), used_at));
            *last_used_at = used_at.max(*last_used_at);
            if newest.checked_at < session.checked_at {
                *newest = session;
            }
        }
        let end = Instant::now() + SWEEP_TIMEOUT;
        let mut has_answered = true;
        for (person, (session, last_used_at)) in people {
            let used_for = Duration::try_from(last_used_at.duration_since(session.checked_at));
            if used_for.unwrap_or_default() < RECHECK_INTERVAL {
                continue;
            }
            // Whoever did not answer about one does not about the next; the time left is for what needs none.
            if has_answered && Instant::now() < end {
                let directory = || self.admin.directory();
                let recheck = self.recheck(&session, directory, settings, snapshot, keys, end);
                has_answered = Box::pin(recheck).await.is_some();
            }
            if !has_answered && self.age(session.checked_at) >= RECHECK_INTERVAL + RECHECK_GRACE {
                let _ = keys.end_person(&person).await;
            }
        }
    }

    /// What the directory says now, or said of late, of the person of a session; `None` when it did not answer in time.
    async fn recheck(
        &self,
        session: &Arc<Session>,
        directory: impl FnOnce() -> Option<Arc<Directory>>,
        settings: &Arc<LdapSettings>,
        snapshot: &Arc<Snapshot>,
        keys: &Arc<Keys>,
        end: Instant,
    ) -> Option<Finding> {
        let mut answer = {
            let mut rechecks = lock(&self.rechecks);
            let now = self.clock.elapsed();
            if let Some((_, finding)) = rechecks.findings.get(&session.person, now, RECHECK_INTERVAL) {
                return Some(finding.clone());
            }
            match rechecks.in_flight.get(&session.person) {
                Some(answer) => answer.clone(),
                None => {
                    let has_failed = rechecks.failures.get(&session.person, now, RECHECK_PAUSE).is_some();
                    if has_failed || rechecks.in_flight.len() >= MAX_RECHECKS {
                        return None;
                    }
                    let question = Question {
                        person: session.person.clone(),
                        name: claims(session)?.name,
                        directory: directory()?,
                        settings: Arc::clone(settings),
                        snapshot: Arc::clone(snapshot),
                        keys: Arc::clone(keys),
                        people: self.clone(),
                    };
                    let (sender, receiver) = watch::channel(None);
                    rechecks.in_flight.insert(session.person.clone(), receiver.clone());
                    tokio::spawn(question.ask(sender));
                    receiver
                }
            }
        };
        match tokio::time::timeout_at(end.into(), answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().flatten(),
            // The task panicked, or it is not done.
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// What the directory said last of the person of a session, if that is newer than what the session knows.
    fn last_finding(&self, session: &Session) -> Option<(Timestamp, Finding)> {
        let rechecks = lock(&self.rechecks);
        let max_age = RECHECK_INTERVAL + RECHECK_GRACE;
        let last = rechecks.findings.get(&session.person, self.clock.elapsed(), max_age);
        last.filter(|(asked_at, _)| *asked_at > session.checked_at).cloned()
    }

    fn listener(&self, purpose: Purpose) -> &Listener {
        match purpose {
            Purpose::Check { .. } => &self.checks,
            Purpose::Admin => &self.admin,
        }
    }

    fn age(&self, at: Timestamp) -> Duration {
        Duration::try_from(self.clock.now().duration_since(at)).unwrap_or_default()
    }

    /// Says once in a while why somebody is nobody.
    fn tell(&self, user: &str, reason: &'static str) {
        let (key, now) = (format!("{reason} {user}"), self.clock.elapsed());
        let mut told = lock(&self.told);
        if told.get(&key, now, TELL_INTERVAL).is_none() {
            told.insert(key, (), now);
            tracing::warn!(target: "audit", source = "ldap", user, reason, "person of the directory denied");
        }
    }
}

impl Listener {
    fn new(is_limited: bool, may_ask: bool, clock: &Clock) -> Result<Self, getrandom::Error> {
        let asker = Asker::new(is_limited, clock.clone())?;
        Ok(Self { asker, directory: Mutex::default(), may_ask, clock: clock.clone() })
    }

    /// The client, which is started when it is first needed; `None` when nobody may be asked, or the operating system gives
    /// no thread.
    fn directory(&self) -> Option<Arc<Directory>> {
        if !self.may_ask {
            return None;
        }
        let mut directory = lock(&self.directory);
        if directory.is_none() {
            match Directory::start_with_clock(self.clock.clone()) {
                Ok(started) => *directory = Some(Arc::new(started)),
                Err(error) => {
                    tracing::error!(reason = %error, "cannot start the thread that asks the directory");
                }
            }
        }
        directory.clone()
    }
}

/// A question about the person of a session, with all that it needs.
struct Question {
    person: PersonId,
    name: String,
    directory: Arc<Directory>,
    settings: Arc<LdapSettings>,
    snapshot: Arc<Snapshot>,
    keys: Arc<Keys>,
    people: People,
}

impl Question {
    /// Asks, says what was found, and writes it down.
    async fn ask(self, sender: watch::Sender<Option<Option<Finding>>>) {
        let asked_at = self.people.clock.now();
        let found = match self.directory.find(&self.settings, &self.name).await {
            // Somebody else may have the name by now.
            Ok(Lookup::Found(entry)) if *entry.subject == *self.person.subject => {
                let principal = user_of(&entry, asked_at, &self.settings, &self.snapshot);
                principal.map(|principal| (Arc::new(entry), principal)).map_err(NotAPerson::as_str)
            }
            Ok(Lookup::Found(_)) => Err("other_person"),
            Ok(Lookup::Nobody(reason)) => Err(reason.as_str()),
            Err(error) => {
                tracing::warn!(reason = %error, "the directory did not answer about the person of a session");
                let mut rechecks = lock(&self.people.rechecks);
                rechecks.in_flight.remove(&self.person);
                rechecks.failures.insert(self.person.clone(), (), self.people.clock.elapsed());
                drop(rechecks);
                // No receiver is left when every caller is gone.
                let _ = sender.send(Some(None));
                return;
            }
        };
        let finding = match &found {
            Ok((entry, _)) => Finding::Found(Arc::clone(entry)),
            Err(_) => Finding::Gone,
        };
        // Before the store has it: nobody waits for that, and who asks meanwhile is told.
        {
            let mut rechecks = lock(&self.people.rechecks);
            rechecks.in_flight.remove(&self.person);
            let now = self.people.clock.elapsed();
            rechecks.findings.insert(self.person.clone(), (asked_at, finding.clone()), now);
        }
        // What is remembered of a password may have the groups of before.
        let still = found.as_ref().ok().map(|(entry, _)| &**entry);
        for listener in [&self.people.checks, &self.people.admin] {
            listener.asker.forget_others(&self.person.subject, still);
        }
        let _ = sender.send(Some(Some(finding)));
        match found {
            Ok((_, principal)) => self.write(&principal, asked_at).await,
            Err(reason) => self.end(reason).await,
        }
    }

    /// Writes down who the person is.  What the store cannot keep now is kept in memory, and the store logs it.
    async fn write(&self, principal: &Principal, asked_at: Timestamp) {
        if let Some(record) = record_of(principal, asked_at)
            && self.keys.record_person(&record).await.is_ok()
            && let Some(claims) = principal.person.as_ref().and_then(|person| person.claims.as_ref())
        {
            let _ = self.keys.update_claims_of(&self.person, &claims.members, asked_at).await;
        }
    }

    async fn end(&self, reason: &'static str) {
        let ended = self.keys.end_sessions(&self.person).await;
        let _ = self.keys.end_person(&self.person).await;
        tracing::info!(
            target: "audit",
            source = self.person.source.as_str(),
            user = &*self.person.subject,
            reason,
            ended_sessions = ended.ok(),
            "sessions ended: the directory has the person no longer, or with no role"
        );
    }
}

/// Whether an operator can do something about somebody who is nobody.  What anybody can bring about by a name of nobody
/// is not told: it may be a password in the wrong field.
fn is_worth_telling(reason: NobodyReason) -> bool {
    match reason {
        NobodyReason::SeveralEntries
        | NobodyReason::Unreadable
        | NobodyReason::OtherEntry
        | NobodyReason::Disabled
        | NobodyReason::NoId
        | NobodyReason::SeveralIds
        | NobodyReason::InvalidEntry
        | NobodyReason::TooManyGroups
        | NobodyReason::Alias
        | NobodyReason::Referral => true,
        NobodyReason::InvalidName | NobodyReason::UnusablePassword | NobodyReason::Unknown => false,
    }
}

/// What the directory said of the person of a session; `None` when it cannot be read.
fn claims(session: &Session) -> Option<Entry> {
    serde_json::from_value(Value::Object(session.claims.clone()?)).ok()
}

/// The principal of a session by its claims, made once under each snapshot; `None` when it is over.
fn principal_of_session(
    session: &Session,
    settings: &LdapSettings,
    snapshot: &Snapshot,
) -> Option<Arc<Principal>> {
    if let Some(cached) = session.principal.load().as_ref()
        && cached.snapshot_version == snapshot.version
    {
        return Some(Arc::clone(&cached.principal));
    }
    let binding = TokenDigest::from_bytes(settings.binding);
    if session.binding != scoped_binding(&binding, session.scope) {
        return None;
    }
    let principal = Arc::new(principal_of(&claims(session)?, settings, snapshot, Kind::Session).ok()?);
    let cached = CachedPrincipal { snapshot_version: snapshot.version, principal: Arc::clone(&principal) };
    session.principal.store(Some(Arc::new(cached)));
    Some(principal)
}

/// The record of a person that other processes go by; `None` for a principal that is no person, or that counts under some
/// policies alone: a record cannot say so, and without it they count under none elsewhere.
pub fn record_of(principal: &Principal, now: Timestamp) -> Option<StoredPerson> {
    let person = principal.person.as_ref().filter(|_| principal.policies.is_none())?;
    let role = principal.actor.member("role").and_then(Value::as_str).and_then(Role::parse);
    Some(StoredPerson {
        person: person.id.clone(),
        actor: principal.actor.members().clone(),
        role,
        binding: person.binding,
        seen_at: now,
        ended_at: None,
    })
}

/// The principal that an entry becomes under the rules in force.
///
/// # Errors
/// Why it is nobody's.
pub fn principal_of(
    entry: &Entry,
    settings: &LdapSettings,
    snapshot: &Snapshot,
    kind: Kind,
) -> Result<Principal, NotAPerson> {
    let subject = &*entry.subject;
    if RESERVED_IDS.iter().any(|reserved| subject.starts_with(reserved)) {
        return Err(NotAPerson::ReservedId);
    }
    // What the store takes, and an index of PostgreSQL.
    if subject.chars().count() > MAX_ID || subject.chars().any(char::is_control) {
        return Err(NotAPerson::IllegalId);
    }
    let role = role(&entry.groups, settings).ok_or(NotAPerson::NoRole)?;
    let id = if settings.plain_ids { subject.to_owned() } else { format!("ldap:{subject}") };
    if snapshot.has_actor_id(&id) {
        return Err(NotAPerson::ConfiguredId);
    }
    let mut members = Map::from_iter([("id".to_owned(), Value::String(id))]);
    for (member, value) in &entry.members {
        members.entry(member).or_insert_with(|| value.clone());
    }
    members.insert("role".to_owned(), Value::String(role.as_str().to_owned()));
    let actor = Actor::configured(members).map_err(|_| NotAPerson::IllegalActor)?;
    if serde_json::to_vec(entry).is_ok_and(|claims| claims.len() > MAX_CLAIMS_BYTES) {
        return Err(NotAPerson::TooLarge);
    }
    let mut principal = Principal::new(kind, subject.into(), actor);
    principal.person = Some(Arc::new(Person {
        id: PersonId { source: PersonSource::Ldap, subject: subject.into() },
        binding: TokenDigest::from_bytes(settings.binding),
        claims: None,
    }));
    Ok(principal)
}

/// The principal of a user whose entry this was at `asked_at`, with what a session of theirs is made of.
fn user_of(
    entry: &Entry,
    asked_at: Timestamp,
    settings: &LdapSettings,
    snapshot: &Snapshot,
) -> Result<Principal, NotAPerson> {
    let mut principal = principal_of(entry, settings, snapshot, Kind::User)?;
    // An entry is an object.
    if let (Some(person), Ok(Value::Object(members))) = (&principal.person, serde_json::to_value(entry)) {
        let claims = Some(Claims { members, checked_at: asked_at });
        principal.person = Some(Arc::new(Person { claims, ..(**person).clone() }));
    }
    Ok(principal)
}

/// The position of the first entry of `ldap.roles` that fits.
pub fn fitting_role(groups: &[String], settings: &LdapSettings) -> Option<usize> {
    let groups: Vec<DistinguishedName> = groups.iter().filter_map(|group| group.parse().ok()).collect();
    let fits = |group: &Option<DistinguishedName>| group.as_ref().is_none_or(|group| groups.contains(group));
    settings.roles.iter().position(|entry| fits(&entry.group))
}

fn role(groups: &[String], settings: &LdapSettings) -> Option<Role> {
    settings.roles.get(fitting_role(groups, settings)?).map(|entry| entry.role)
}

/// Nothing that holds a lock can panic half way through a change, so a poisoned state is sound.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
