//! Verification of passwords with the directory: its limits, and the memory of the answers.
//!
//! Checks and the admin listener have a [`PasswordVerifier`] each, so that attempts at the gateway do not keep an
//! administrator from logging in.  Wrong passwords are counted by the entry that the directory found, not by the name
//! that was typed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::in_flight::{InFlight, WaitResult};
use super::lock;
use super::memory::{BoundedMap, WindowFull, Windows};
use crate::clock::Clock;
use crate::clock::sliding_window::SlidingWindow;
use crate::config::{Bind, LdapSettings};
use crate::directory::{Directory, DirectoryError, Entry, RejectionReason, Verification};
use crate::distinguished_name::DistinguishedName;
use crate::keys::sessions::CachedPrincipal;
use crate::secret::Secret;

/// The maximum number of questions of one listener in progress.
const MAX_PENDING: usize = 64;
/// The maximum number of questions from Checks within [`QUESTION_INTERVAL`], over all names.
const MAX_QUESTIONS_PER_SECOND: usize = 20;
/// The window of [`MAX_QUESTIONS_PER_SECOND`].
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of wrong passwords that Checks may send to the directory within [`FAILED_BIND_INTERVAL`], over
/// all names.
const MAX_FAILED_BINDS_PER_MINUTE: usize = 30;
/// The window of [`MAX_FAILED_BINDS_PER_MINUTE`].
const FAILED_BIND_INTERVAL: Duration = Duration::from_secs(60);
/// How long a wrong password of an entry counts towards `ldap.max_wrong`.
const WRONG_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// How long a bind without an answer limits further binds of its entry: the directory may have counted it as wrong, and
/// an outage must not lock a user out.
const UNANSWERED_INTERVAL: Duration = Duration::from_secs(60);
/// How long a wrong pair is denied without another question.
const WRONG_PAIR_TTL: Duration = Duration::from_secs(30);
/// How long no question is asked after the directory did not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// The maximum number of remembered pairs, for right and for wrong ones each.
const MAX_PAIRS: usize = 10_000;
/// The maximum number of entries with counted wrong passwords.  A bind with a further entry is not sent.
const MAX_COUNTED_ENTRIES: usize = 10_000;

/// A pair of name and password under the current settings, as an HMAC: the memory holds no password and nothing from
/// which one could be guessed.
type PairKey = [u8; 32];

/// An entry whose password was right.
pub(super) struct KnownEntry {
    /// The directory's entry.
    pub entry: Entry,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Its principal under a snapshot.
    pub principal: ArcSwapOption<CachedPrincipal>,
}

/// The answer for a name and a password.
#[derive(Clone)]
pub(super) enum Answer {
    /// The password is right.
    Right(Arc<KnownEntry>),
    /// The password is wrong.
    Wrong,
    /// Too many passwords were wrong, so this one was not tried.
    Locked,
    /// The name is not in the directory, or its entry cannot be used.
    Rejected(RejectionReason),
    /// The directory was not asked because of a limit, or did not answer.
    Unavailable,
    /// It is not known yet.
    Pending,
}

/// The result of a question about a name and a password that are not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionResult {
    /// The password is right.
    Right,
    /// The password is wrong.
    Wrong,
    /// The name is not in the directory, or its entry cannot be used.
    UnknownUser,
    /// The password was not tried: too many passwords were wrong for the same entry.
    Locked,
    /// The password was not tried because of a limit of questions.
    Limited,
    /// The directory did not answer.
    Unavailable,
}

impl QuestionResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::Right, Self::Wrong, Self::UnknownUser, Self::Locked, Self::Limited, Self::Unavailable];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::UnknownUser => "unknown_user",
            Self::Locked => "locked",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The number of questions by result.
#[derive(Default)]
pub(super) struct Counts([AtomicU64; QuestionResult::ALL.len()]);

impl Counts {
    fn add(&self, result: QuestionResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of questions with this result.
    pub fn of(&self, result: QuestionResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }
}

/// Verifies passwords for one listener.
pub(super) struct PasswordVerifier {
    /// The results of questions.
    pub counts: Arc<Counts>,
    keys: Hmac<Sha256>,
    pending: Arc<Semaphore>,
    /// Whether any client can cause questions: then they are limited.
    is_limited: bool,
    memory: Arc<Mutex<Memory>>,
    in_flight: InFlight<PairKey, Answer>,
    clock: Clock,
}

struct Memory {
    right: BoundedMap<PairKey, Arc<KnownEntry>>,
    wrong: BoundedMap<PairKey, Answer>,
    /// The wrong passwords of each entry.  A bind takes a place before it is sent, and releases it when the password
    /// was right, so concurrent questions cannot exceed the limit.
    failures: Windows<DistinguishedName>,
    /// The unanswered binds of each entry.
    unanswered: Windows<DistinguishedName>,
    questions: SlidingWindow,
    /// The wrong passwords of all entries.  A question takes a place before it is asked, so that the limit reveals
    /// nothing about the name.
    failed_binds: SlidingWindow,
    /// When the directory last did not answer.
    failed_at: Option<Duration>,
    /// When a missing answer was last logged.
    logged_at: Option<Duration>,
    /// How long the directory took for the last bind that it answered.
    bind_time: Duration,
}

impl PasswordVerifier {
    /// A verifier with empty memory.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(is_limited: bool, clock: Clock) -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        let keys = Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length");
        let memory = Memory {
            right: BoundedMap::new(MAX_PAIRS),
            wrong: BoundedMap::new(MAX_PAIRS),
            failures: Windows::new(MAX_COUNTED_ENTRIES, WRONG_INTERVAL),
            unanswered: Windows::new(MAX_COUNTED_ENTRIES, UNANSWERED_INTERVAL),
            questions: SlidingWindow::new(QUESTION_INTERVAL),
            failed_binds: SlidingWindow::new(FAILED_BIND_INTERVAL),
            failed_at: None,
            logged_at: None,
            bind_time: Duration::ZERO,
        };
        let pending = Arc::new(Semaphore::new(MAX_PENDING));
        let (memory, in_flight) = (Arc::new(Mutex::new(memory)), InFlight::new());
        Ok(Self { counts: Arc::default(), keys, pending, is_limited, memory, in_flight, clock })
    }

    /// The answer for a normalised name and a password, at `end` at the latest.
    pub async fn verify(
        &self,
        directory: &Arc<Directory>,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &Secret,
        end: Instant,
    ) -> Answer {
        // A bind without a password succeeds as anonymous (RFC 4513 section 5.1.2).
        if password.expose().is_empty() {
            return Answer::Wrong;
        }
        let key = self.pair_key(settings, name, password);
        let answer = {
            let mut memory = self.memory();
            if let Some(known) = memory.known(&key, settings, self.clock.elapsed()) {
                return known;
            }
            match self.in_flight.get(&key) {
                Some(answer) => answer,
                None => match self.may_query(&mut memory) {
                    Ok(places) => {
                        let question = PasswordQuestion {
                            key,
                            directory: Arc::clone(directory),
                            settings: Arc::clone(settings),
                            name: name.to_owned(),
                            password: password.clone(),
                            is_limited: self.is_limited,
                            counts: Arc::clone(&self.counts),
                            memory: Arc::clone(&self.memory),
                            clock: self.clock.clone(),
                        };
                        self.in_flight.begin(key, question.ask(places))
                    }
                    Err(why) => {
                        self.counts.add(why);
                        return Answer::Unavailable;
                    }
                },
            }
        };
        match answer.until(end).await {
            WaitResult::Answered(answer) => answer,
            WaitResult::Failed => Answer::Unavailable,
            WaitResult::Pending => Answer::Pending,
        }
    }

    /// Forgets the right passwords of a person, except those with an entry that is unchanged in the directory.
    pub fn forget_others(&self, subject: &str, still: Option<&Entry>) {
        let is_same = |known: &Entry| {
            still.is_some_and(|still| {
                known.dn == still.dn && known.groups == still.groups && known.members == still.members
            })
        };
        self.memory().right.retain(|_, known| known.entry.subject != subject || is_same(&known.entry));
    }

    /// Takes the places of one more question, about any person.
    ///
    /// # Errors
    /// A limit is reached, or the directory did not answer a moment ago.
    fn may_query(&self, memory: &mut Memory) -> Result<TakenPlaces, QuestionResult> {
        let now = self.clock.elapsed();
        if memory.failed_at.is_some_and(|at| now.saturating_sub(at) < OUTAGE_PAUSE) {
            return Err(QuestionResult::Unavailable);
        }
        let pending = Arc::clone(&self.pending).try_acquire_owned().map_err(|_| QuestionResult::Limited)?;
        let mut failed_binds = Vec::new();
        if self.is_limited {
            if !memory.questions.try_take(now, MAX_QUESTIONS_PER_SECOND)
                || !memory.failed_binds.try_take(now, MAX_FAILED_BINDS_PER_MINUTE)
            {
                return Err(QuestionResult::Limited);
            }
            failed_binds.push(now);
        }
        Ok(TakenPlaces {
            failed_binds,
            entries: Vec::new(),
            bind_began: None,
            refused: None,
            _pending: pending,
        })
    }

    fn pair_key(&self, settings: &LdapSettings, name: &str, password: &Secret) -> PairKey {
        let mut mac = self.keys.clone();
        for part in [&settings.binding[..], name.as_bytes(), password.expose().as_bytes()] {
            mac.update(&part.len().to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

impl Memory {
    /// The remembered answer for a pair.
    fn known(&self, key: &PairKey, settings: &LdapSettings, now: Duration) -> Option<Answer> {
        if let Some(known) = self.right.get(key, now, settings.remember) {
            return Some(Answer::Right(Arc::clone(known)));
        }
        self.wrong.get(key, now, WRONG_PAIR_TTL).cloned()
    }

    /// Takes the places of one more bind.
    fn may_bind(
        &mut self,
        places: &mut TakenPlaces,
        dn: &DistinguishedName,
        settings: &LdapSettings,
        is_limited: bool,
        now: Duration,
    ) -> Result<(), NotBound> {
        // The question's own binds before this one were not answered either.
        if self.unanswered.taken(dn, now) + places.entries.len() >= settings.max_wrong {
            return Err(NotBound::Limited);
        }
        // The question itself took a place for the first bind.
        let takes_another = is_limited && !places.entries.is_empty();
        if takes_another && !self.failed_binds.try_take(now, MAX_FAILED_BINDS_PER_MINUTE) {
            return Err(NotBound::Limited);
        }
        let taken = self.failures.try_take(dn, now, settings.max_wrong).map_err(|error| match error {
            WindowFull::AllTaken => NotBound::Locked,
            WindowFull::TooManyKeys => NotBound::Limited,
        });
        match taken {
            Ok(()) => places.entries.push((dn.clone(), now)),
            Err(_) if takes_another => self.failed_binds.give_back(now),
            Err(_) => {}
        }
        if takes_another && taken.is_ok() {
            places.failed_binds.push(now);
        }
        taken
    }

    /// The last bind of the question was not answered: for a while it counts against the entry like a wrong password.
    fn hold_back(&mut self, places: &TakenPlaces, settings: &LdapSettings, now: Duration) {
        for (dn, taken_at) in &places.entries {
            self.failures.give_back(dn, *taken_at);
            // At the limit of entries one more changes nothing.
            let _ = self.unanswered.try_take(dn, now, settings.max_wrong);
        }
    }

    /// No bind of the question was wrong.
    fn give_back(&mut self, places: &TakenPlaces) {
        for (dn, taken_at) in &places.entries {
            self.failures.give_back(dn, *taken_at);
        }
        for taken_at in &places.failed_binds {
            self.failed_binds.give_back(*taken_at);
        }
    }
}

/// Why a bind was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NotBound {
    /// Too many passwords of this entry were wrong.
    Locked,
    /// Too many passwords of all entries were wrong.
    Limited,
}

/// The places that a question has taken in the limits.
struct TakenPlaces {
    /// When each of its places among the failed binds of all entries was taken.
    failed_binds: Vec<Duration>,
    /// The binds that were sent: the entry, and when the place among its wrong passwords was taken.
    entries: Vec<(DistinguishedName, Duration)>,
    /// When the last bind was sent.
    bind_began: Option<Instant>,
    /// Why a bind was not sent.
    refused: Option<NotBound>,
    _pending: OwnedSemaphorePermit,
}

/// A question about a password, with all that it needs.
struct PasswordQuestion {
    key: PairKey,
    directory: Arc<Directory>,
    settings: Arc<LdapSettings>,
    name: String,
    password: Secret,
    is_limited: bool,
    counts: Arc<Counts>,
    memory: Arc<Mutex<Memory>>,
    clock: Clock,
}

impl PasswordQuestion {
    async fn ask(self, places: TakenPlaces) -> Answer {
        let places = Arc::new(Mutex::new(places));
        let may_bind = {
            let (memory, places) = (Arc::clone(&self.memory), Arc::clone(&places));
            let (settings, clock, is_limited) =
                (Arc::clone(&self.settings), self.clock.clone(), self.is_limited);
            Box::new(move |dn: &DistinguishedName| {
                let mut places = lock(&places);
                let may = lock(&memory).may_bind(&mut places, dn, &settings, is_limited, clock.elapsed());
                places.refused = may.err();
                places.bind_began = Some(Instant::now());
                may.is_ok()
            })
        };
        let asked_at = self.clock.now();
        let result = self.directory.verify(&self.settings, &self.name, &self.password, may_bind).await;
        let (sent, refused, bind_time) = {
            let places = lock(&places);
            let mut memory = lock(&self.memory);
            match &result {
                Ok(Verification::Right(_) | Verification::Rejected(_)) => memory.give_back(&places),
                Ok(Verification::Wrong(_)) => self.log_lock(&mut memory, &places),
                Ok(Verification::NotTried(_)) if places.entries.is_empty() => memory.give_back(&places),
                // Other servers did not answer before.
                Ok(Verification::NotTried(_)) | Err(_) => {
                    memory.hold_back(&places, &self.settings, self.clock.elapsed());
                }
            }
            // The search for groups does not belong to the bind.
            let is_bind = match &result {
                Ok(Verification::Wrong(_)) => true,
                Ok(Verification::Right(_)) => self.settings.group_search.is_none(),
                Ok(Verification::NotTried(_) | Verification::Rejected(_)) | Err(_) => false,
            };
            if let (true, Some(began)) = (is_bind, places.bind_began) {
                memory.bind_time = began.elapsed();
            }
            (places.entries.len(), places.refused, memory.bind_time)
        };
        let (count, answer) = match result {
            Ok(Verification::Right(entry)) => {
                let known = Arc::new(KnownEntry { entry, asked_at, principal: ArcSwapOption::empty() });
                (QuestionResult::Right, Answer::Right(known))
            }
            Ok(Verification::Wrong(_)) => (QuestionResult::Wrong, Answer::Wrong),
            Ok(Verification::NotTried(_)) => match refused {
                Some(NotBound::Locked) => (QuestionResult::Locked, Answer::Locked),
                Some(NotBound::Limited) | None => (QuestionResult::Limited, Answer::Unavailable),
            },
            Ok(Verification::Rejected(reason)) => (QuestionResult::UnknownUser, Answer::Rejected(reason)),
            Err(error) => {
                self.failed(&error);
                (QuestionResult::Unavailable, Answer::Unavailable)
            }
        };
        self.counts.add(count);
        // A name without an entry, or with a locked one, is denied after the same time as a wrong password.
        if sent == 0 && matches!(answer, Answer::Rejected(_) | Answer::Locked) {
            tokio::time::sleep(bind_time.min(self.settings.timeout)).await;
        }
        let (mut memory, now) = (lock(&self.memory), self.clock.elapsed());
        match &answer {
            Answer::Right(known) => memory.right.insert(self.key, Arc::clone(known), now),
            Answer::Wrong | Answer::Locked | Answer::Rejected(_) => {
                memory.wrong.insert(self.key, answer.clone(), now);
            }
            Answer::Unavailable | Answer::Pending => {}
        }
        answer
    }

    /// Logs that an entry is now locked.
    fn log_lock(&self, memory: &mut Memory, places: &TakenPlaces) {
        let Some((dn, _)) = places.entries.last() else { return };
        if memory.failures.taken(dn, self.clock.elapsed()) != self.settings.max_wrong {
            return;
        }
        // With direct binds the name may not exist: it may be a password in the wrong field.
        let is_found = !matches!(self.settings.bind, Bind::Direct { .. });
        tracing::warn!(
            target: "audit",
            source = "ldap",
            user = is_found.then_some(&*self.name),
            seconds = WRONG_INTERVAL.as_secs(),
            "user locked after wrong passwords: the directory is not asked"
        );
    }

    fn failed(&self, error: &DirectoryError) {
        let (mut memory, now) = (lock(&self.memory), self.clock.elapsed());
        if memory.logged_at.is_none_or(|at| now.saturating_sub(at) >= OUTAGE_PAUSE) {
            memory.logged_at = Some(now);
            tracing::warn!(reason = %error, "the directory did not answer");
        }
        if error.is_outage() {
            memory.failed_at = Some(now);
        }
    }
}
