//! Asking the directory about passwords: how often, and what is remembered of the answers.
//!
//! Checks and the admin listener have an [`Asker`] each, so that what strangers try at the gateway keeps no
//! administrator from logging in.  What is counted hangs on the entry that the directory found, not on the name that
//! was typed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use super::memory::{BoundedMap, SlidingWindow};
use crate::clock::Clock;
use crate::config::{Bind, LdapSettings};
use crate::directory::{Directory, Entry, NobodyReason, Verification};
use crate::distinguished_name::DistinguishedName;
use crate::keys::sessions::CachedPrincipal;
use crate::secret::Secret;

/// Questions of one listener that run or wait for an answer.  One more is not asked.
const MAX_PENDING: usize = 64;
/// Questions a second from Checks, over all names.
const MAX_QUESTIONS: usize = 20;
/// The time in which [`MAX_QUESTIONS`] counts.
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);
/// Wrong passwords a minute that Checks may bring to the directory, over all names.
const MAX_FAILED_BINDS: usize = 30;
/// The time in which [`MAX_FAILED_BINDS`] counts.
const FAILED_BIND_INTERVAL: Duration = Duration::from_secs(60);
/// How long a wrong password of an entry counts towards `ldap.max_wrong`.
const WRONG_INTERVAL: Duration = Duration::from_secs(30 * 60);
/// How long a pair that was wrong is denied without another question.
const WRONG_PAIR_TTL: Duration = Duration::from_secs(30);
/// How long nobody is asked after the directory did not answer.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// Pairs that are remembered, right ones and wrong ones; and entries whose wrong passwords are counted.
const MAX_ENTRIES: usize = 10_000;

/// A pair of name and password under the settings that were asked by: its HMAC, so that memory holds no password and
/// nothing to guess one from.
type PairKey = [u8; 32];

/// An entry whose password was right.
pub(super) struct KnownEntry {
    /// What the directory said.
    pub entry: Entry,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// The principal that it becomes under a snapshot.
    pub principal: ArcSwapOption<CachedPrincipal>,
}

/// What is known of a name and a password.
#[derive(Clone)]
pub(super) enum Answer {
    /// They belong together.
    Right(Arc<KnownEntry>),
    /// The password is wrong.
    Wrong,
    /// So many were wrong that this one was not tried.
    Locked,
    /// Nobody in the directory has the name, or nobody who counts.
    Nobody(NobodyReason),
    /// The directory was not asked, because too much was asked, or did not answer.
    Unavailable,
    /// It is not known yet.
    Pending,
}

/// What comes of a name and a password that are not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuestionResult {
    /// The password is right.
    Right,
    /// The password is wrong.
    Wrong,
    /// The name is nobody's.
    Nobody,
    /// The password was not tried: too many were wrong for the same entry.
    Locked,
    /// Nothing was asked, or the password not tried: too much is asked.
    Limited,
    /// The directory did not answer.
    Unavailable,
}

impl QuestionResult {
    /// Every result.
    pub const ALL: [Self; 6] =
        [Self::Right, Self::Wrong, Self::Nobody, Self::Locked, Self::Limited, Self::Unavailable];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Wrong => "wrong",
            Self::Nobody => "nobody",
            Self::Locked => "locked",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How often each result came.
#[derive(Default)]
pub(super) struct Counts([AtomicU64; QuestionResult::ALL.len()]);

impl Counts {
    fn add(&self, result: QuestionResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this result came.
    pub fn of(&self, result: QuestionResult) -> u64 {
        self.0[result as usize].load(Ordering::Relaxed)
    }
}

/// Asks for one listener.
pub(super) struct Asker {
    /// What came of questions.
    pub counts: Arc<Counts>,
    keys: Hmac<Sha256>,
    pending: Arc<Semaphore>,
    /// Whether strangers can ask: then questions are limited.
    is_limited: bool,
    memory: Arc<Mutex<Memory>>,
    clock: Clock,
}

struct Memory {
    right: BoundedMap<PairKey, Arc<KnownEntry>>,
    wrong: BoundedMap<PairKey, Answer>,
    in_flight: HashMap<PairKey, watch::Receiver<Option<Answer>>>,
    /// The wrong passwords of each entry.
    failures: BoundedMap<DistinguishedName, SlidingWindow>,
    questions: SlidingWindow,
    failed_binds: SlidingWindow,
    /// When the directory last did not answer.
    failed_at: Option<Duration>,
}

impl Asker {
    /// An asker that knows nothing.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(is_limited: bool, clock: Clock) -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        let keys = Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length");
        let memory = Memory {
            right: BoundedMap::new(MAX_ENTRIES),
            wrong: BoundedMap::new(MAX_ENTRIES),
            in_flight: HashMap::new(),
            failures: BoundedMap::new(MAX_ENTRIES),
            questions: SlidingWindow::new(MAX_QUESTIONS, QUESTION_INTERVAL),
            failed_binds: SlidingWindow::new(MAX_FAILED_BINDS, FAILED_BIND_INTERVAL),
            failed_at: None,
        };
        let pending = Arc::new(Semaphore::new(MAX_PENDING));
        let memory = Arc::new(Mutex::new(memory));
        Ok(Self { counts: Arc::default(), keys, pending, is_limited, memory, clock })
    }

    /// What is known at `end` at the latest of a normalised name and a password.
    pub async fn verify(
        &self,
        directory: &Arc<Directory>,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &Secret,
        end: Instant,
    ) -> Answer {
        // A bind without a password succeeds as nobody (RFC 4513 section 5.1.2).
        if password.expose().is_empty() {
            return Answer::Wrong;
        }
        let key = self.pair_key(settings, name, password);
        let mut answer = {
            let mut memory = self.memory();
            if let Some(known) = memory.known(&key, settings, self.clock.elapsed()) {
                return known;
            }
            match memory.in_flight.get(&key) {
                Some(answer) => answer.clone(),
                None => match self.ask(&mut memory, key, directory, settings, name, password) {
                    Some(answer) => answer,
                    None => return Answer::Unavailable,
                },
            }
        };
        match tokio::time::timeout_at(end.into(), answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or(Answer::Unavailable),
            // The task panicked.
            Ok(Err(_)) => Answer::Unavailable,
            Err(_) => Answer::Pending,
        }
    }

    /// Forgets the right passwords of a person, but for those of whose entry the directory says the same still.
    pub fn forget_others(&self, subject: &str, still: Option<&Entry>) {
        let is_same = |known: &Entry| {
            still.is_some_and(|still| {
                known.dn == still.dn && known.groups == still.groups && known.members == still.members
            })
        };
        self.memory().right.retain(|_, known| known.entry.subject != subject || is_same(&known.entry));
    }

    /// Asks in a task of its own, which outlives the request; `None` when too much is asked already.
    fn ask(
        &self,
        memory: &mut Memory,
        key: PairKey,
        directory: &Arc<Directory>,
        settings: &Arc<LdapSettings>,
        name: &str,
        password: &Secret,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        let now = self.clock.elapsed();
        if memory.failed_at.is_some_and(|at| now.saturating_sub(at) < OUTAGE_PAUSE) {
            self.counts.add(QuestionResult::Unavailable);
            return None;
        }
        let pending = Arc::clone(&self.pending).try_acquire_owned().ok();
        let Some(pending) = pending.filter(|_| !self.is_limited || memory.questions.try_take(now)) else {
            self.counts.add(QuestionResult::Limited);
            return None;
        };
        let (sender, receiver) = watch::channel(None);
        memory.in_flight.insert(key, receiver.clone());
        let question = Question {
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
        tokio::spawn(async move {
            let _pending = pending;
            let ends = InFlight { key, memory: Arc::clone(&question.memory) };
            let answer = question.ask().await;
            drop(ends);
            // No receiver is left when every caller is gone.
            let _ = sender.send(Some(answer));
        });
        Some(receiver)
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
    /// What is remembered of a pair.
    fn known(&self, key: &PairKey, settings: &LdapSettings, now: Duration) -> Option<Answer> {
        if let Some(known) = self.right.get(key, now, settings.remember) {
            return Some(Answer::Right(Arc::clone(known)));
        }
        self.wrong.get(key, now, WRONG_PAIR_TTL).cloned()
    }

    /// Takes the place of a wrong password, which is given back if it is not one: so no number of questions at a time
    /// brings more of them to the directory.
    fn may_bind(
        &mut self,
        dn: &DistinguishedName,
        settings: &LdapSettings,
        is_limited: bool,
        now: Duration,
    ) -> Result<(), NotBound> {
        if self.failures.get_mut(dn).is_none() {
            self.failures.insert(dn.clone(), SlidingWindow::new(settings.max_wrong, WRONG_INTERVAL), now);
        }
        let Some(failures) = self.failures.get_mut(dn) else {
            return Err(NotBound::Limited);
        };
        if !failures.try_take(now) {
            return Err(NotBound::Locked);
        }
        if is_limited && !self.failed_binds.try_take(now) {
            failures.give_back();
            return Err(NotBound::Limited);
        }
        Ok(())
    }

    fn was_not_wrong(&mut self, dn: &DistinguishedName, is_limited: bool) {
        if let Some(failures) = self.failures.get_mut(dn) {
            failures.give_back();
        }
        if is_limited {
            self.failed_binds.give_back();
        }
    }
}

/// Why a password was not tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NotBound {
    /// Too many of this entry were wrong.
    Locked,
    /// Too many of all entries were wrong.
    Limited,
}

/// Takes a question out of those in flight when it ends, however that is.
struct InFlight {
    key: PairKey,
    memory: Arc<Mutex<Memory>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        lock(&self.memory).in_flight.remove(&self.key);
    }
}

/// One question, with all that it needs.
struct Question {
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

impl Question {
    async fn ask(self) -> Answer {
        // The entry whose place among the wrong passwords is taken, or why none was.
        let bound: Arc<Mutex<Option<Result<DistinguishedName, NotBound>>>> = Arc::default();
        let may_bind = {
            let (memory, bound) = (Arc::clone(&self.memory), Arc::clone(&bound));
            let (settings, clock, is_limited) =
                (Arc::clone(&self.settings), self.clock.clone(), self.is_limited);
            Box::new(move |dn: &DistinguishedName| {
                let may = lock(&memory).may_bind(dn, &settings, is_limited, clock.elapsed());
                *lock(&bound) = Some(may.map(|()| dn.clone()));
                may.is_ok()
            })
        };
        let asked_at = self.clock.now();
        let result = self.directory.verify(&self.settings, &self.name, &self.password, may_bind).await;
        let bound = lock(&bound).take();
        let mut memory = lock(&self.memory);
        let now = self.clock.elapsed();
        if let (Some(Ok(dn)), false) = (&bound, matches!(result, Ok(Verification::Wrong(_)))) {
            memory.was_not_wrong(dn, self.is_limited);
        }
        self.counts.add(match &result {
            Ok(Verification::Right(_)) => QuestionResult::Right,
            Ok(Verification::Wrong(_)) => QuestionResult::Wrong,
            Ok(Verification::Nobody(_)) => QuestionResult::Nobody,
            Ok(Verification::NotTried(_)) => match bound {
                Some(Err(NotBound::Locked)) => QuestionResult::Locked,
                Some(Err(NotBound::Limited) | Ok(_)) | None => QuestionResult::Limited,
            },
            Err(_) => QuestionResult::Unavailable,
        });
        let answer = match result {
            Ok(Verification::Right(entry)) => {
                let known = Arc::new(KnownEntry { entry, asked_at, principal: ArcSwapOption::empty() });
                memory.right.insert(self.key, Arc::clone(&known), now);
                return Answer::Right(known);
            }
            Ok(Verification::Wrong(dn)) => {
                let taken = memory.failures.get_mut(&dn).map_or(0, |failures| failures.taken());
                if taken == self.settings.max_wrong {
                    // Where people bind directly, nobody may have the name: it may be a password in the wrong field.
                    let is_found = !matches!(self.settings.bind, Bind::Direct { .. });
                    tracing::warn!(
                        target: "audit",
                        source = "ldap",
                        user = is_found.then_some(&*self.name),
                        seconds = WRONG_INTERVAL.as_secs(),
                        "user locked after wrong passwords: the directory is not asked"
                    );
                }
                Answer::Wrong
            }
            Ok(Verification::NotTried(_)) => match bound {
                Some(Err(NotBound::Locked)) => Answer::Locked,
                Some(Err(NotBound::Limited) | Ok(_)) | None => return Answer::Unavailable,
            },
            Ok(Verification::Nobody(reason)) => Answer::Nobody(reason),
            Err(error) => {
                if memory.failed_at.is_none_or(|at| now.saturating_sub(at) >= OUTAGE_PAUSE) {
                    tracing::warn!(reason = %error, "the directory did not answer");
                }
                memory.failed_at = Some(now);
                return Answer::Unavailable;
            }
        };
        memory.wrong.insert(self.key, answer.clone(), now);
        answer
    }
}

/// Nothing that holds a lock can panic half way through a change, so a poisoned state is sound.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
