//! Verifying passwords: dear on purpose, so bounded in number and memory, remembered, and off the serving threads.
//!
//! Checks and the admin listener have a verifier each: what strangers try at the gateway neither locks an
//! administrator out nor makes one wait.
//!
//! The time of an answer tells nothing.  Every no comes when whoever asks has waited as long as they ever wait, and a
//! verification that finds one goes on for as long as that of the dearest hash.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use crate::config::{User, Users};
use crate::credential::Principal;
use crate::password::PasswordHash;
use crate::secret::Secret;

/// The longest that a Check waits for a verification, whatever its deadline.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Verifications of one verifier that run or wait for their turn; one more is not begun.
const MOST_PENDING: usize = 64;
/// Verifications that the admin listener runs at the same time.
const PARALLEL_AT_ADMIN: usize = 1;
/// Pairs of user and password that are remembered; the oldest is forgotten first.
const MOST_REMEMBERED: usize = 10_000;
/// Wrong passwords within [`LOCK_TIME`] that lock a user name for [`LOCK_TIME`].
const FAILURES_TO_LOCK: usize = 5;
/// See [`FAILURES_TO_LOCK`].
const LOCK_TIME: Duration = Duration::from_secs(5 * 60);

/// What a verification found.
#[derive(Debug)]
pub enum Verdict {
    /// The user's own password.
    Right(Arc<Principal>),
    /// An unknown user or a wrong password.
    Wrong,
    /// The user is locked; whether the password is right nobody says.
    Locked,
    /// It could not be verified in time.  It goes on in the background, and what it finds is remembered.
    Unfinished,
}

impl Verdict {
    /// When whoever asks may hear it, if that is not at once: a no at the end of their wait, whatever its cause.
    fn told_at(&self, end: Instant) -> Option<Instant> {
        match self {
            Self::Wrong | Self::Locked => Some(end),
            Self::Right(_) | Self::Unfinished => None,
        }
    }
}

/// Who asks for a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordCaller {
    /// A Check, which waits for half of this deadline and 100 ms at most.
    Check {
        /// How long the client of the Check waits, where it says so.
        deadline: Option<Duration>,
    },
    /// The admin listener, which waits for 100 ms and asks again.
    Admin,
}

impl PasswordCaller {
    fn wait(self) -> Duration {
        match self {
            Self::Check { deadline } => {
                deadline.map_or(LONGEST_WAIT, |deadline| (deadline / 2).min(LONGEST_WAIT))
            }
            Self::Admin => LONGEST_WAIT,
        }
    }
}

/// Verifies passwords, and remembers which were right.
pub struct Passwords {
    checks: Verifier,
    admin: Verifier,
}

impl Passwords {
    /// Runs this many verifications for Checks at a time, and one for the admin listener.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn new(parallel: usize) -> Result<Self, getrandom::Error> {
        Self::within(parallel, u64::MAX)
    }

    /// The same where the process may use this much memory, in bytes: the hashes at work stay below a quarter of it,
    /// all together.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn within(parallel: usize, memory_limit: u64) -> Result<Self, getrandom::Error> {
        let room = Room::within(memory_limit);
        let checks = Verifier::new(parallel, room.clone())?;
        Ok(Self { checks, admin: Verifier::new(PARALLEL_AT_ADMIN, room)? })
    }

    /// Verifies a user's password.
    ///
    /// The answer comes within half of the deadline and at most 100 ms, and a no at the end of that time.
    pub async fn verify(
        &self,
        user: &str,
        password: &Secret,
        users: &Users,
        asker: PasswordCaller,
    ) -> Verdict {
        // Then there is nobody whom the time could tell from others.
        if users.is_empty() {
            return Verdict::Wrong;
        }
        let end = Instant::now() + asker.wait();
        let verifier = match asker {
            PasswordCaller::Check { .. } => &self.checks,
            PasswordCaller::Admin => &self.admin,
        };
        let verdict = verifier.verify(user, password, users, end).await;
        if let Some(at) = verdict.told_at(end) {
            tokio::time::sleep_until(at.into()).await;
        }
        verdict
    }

    /// Forgets what was remembered of users who have gone or whose password is another one now, and the failures
    /// of names that nobody has any more.
    pub fn forget_changed(&self, before: &Users, now: &Users) {
        for verifier in [&self.checks, &self.admin] {
            verifier.forget_changed(before, now);
        }
    }

    /// Tells the operator of users whose hash takes more memory than there is: their passwords are never verified.
    pub fn warn_of_hashes_too_large(&self, users: &Users) {
        let most = self.checks.room.kib;
        let mut names: Vec<_> =
            users.iter().filter(|(_, user)| user.hash_kib > most).map(|(name, _)| &**name).collect();
        if names.is_empty() {
            return;
        }
        names.sort_unstable();
        let largest = users.iter().map(|(_, user)| user.hash_kib).max();
        tracing::error!(
            users = names.join(", "),
            needed_kib = largest,
            most_kib = most,
            "the password hashes of these users need a quarter or more of the memory that the process may use: their \
             passwords are not verified, and are answered with 503; give them a hash that needs less (bcrypt needs 8 KiB), or \
             raise the memory limit"
        );
    }
}

/// The memory that hashes may take while they are at work.
#[derive(Clone)]
struct Room {
    /// One permit for each KiB.
    free: Arc<Semaphore>,
    kib: u32,
}

impl Room {
    /// Less than a quarter of the limit.
    fn within(memory_limit: u64) -> Self {
        let kib = (memory_limit / 4).saturating_sub(1) / 1024;
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(most);
        let permits = usize::try_from(kib).unwrap_or(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(permits)), kib }
    }
}

/// Verifies passwords for one of our listeners.
struct Verifier {
    /// Keys the digests of what is remembered, so that memory holds no password and nothing to guess from.
    key: Hmac<Sha256>,
    /// Verifications that run at the same time.
    running: Arc<Semaphore>,
    /// Verifications that run or wait.
    pending: Arc<Semaphore>,
    /// Whoever waits for it has their turn already, so that no listener has many who wait there.
    room: Room,
    memory: Arc<Mutex<Memory>>,
}

type PairDigest = [u8; 32];

#[derive(Default)]
struct Memory {
    /// The pairs that were right, each with its user's name.
    right: HashMap<PairDigest, Arc<str>>,
    /// The remembered digests, oldest first.
    order: VecDeque<PairDigest>,
    /// Those being verified, so that twenty requests of one page cost one verification.
    in_flight: HashMap<PairDigest, watch::Receiver<Option<Outcome>>>,
    /// Per configured user name: a guesser cannot make it grow.
    failures: HashMap<Arc<str>, Failures>,
    /// How long the dearest hash took the last time, with its cost.
    dearest_took: Option<(u64, Duration)>,
}

/// What a verification comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Right,
    Wrong,
    Locked,
}

#[derive(Default)]
struct Failures {
    recent: VecDeque<Instant>,
    locked_until: Option<Instant>,
}

impl Verifier {
    fn new(parallel: usize, room: Room) -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self {
            key: Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length"),
            running: Arc::new(Semaphore::new(parallel.max(1))),
            pending: Arc::new(Semaphore::new(MOST_PENDING)),
            room,
            memory: Arc::default(),
        })
    }

    /// What is known of the pair at this instant at the latest.
    async fn verify(&self, user: &str, password: &Secret, users: &Users, end: Instant) -> Verdict {
        let found = users.get(user);
        // An unknown user costs as much as the dearest known one.
        let hash = match found {
            Some(user) => Some(&user.hash).filter(|_| user.hash_kib <= self.room.kib),
            None => users.dearest_hash(self.room.kib),
        };
        let Some(hash) = hash else {
            // No verification of it can begin.
            tokio::time::sleep_until(end.into()).await;
            return Verdict::Unfinished;
        };
        let digest = self.digest(hash, user, password);
        let begun = self.memory().begin(digest, || {
            let dearest = users.dearest_hash(self.room.kib)?;
            let turn = Arc::clone(&self.pending).try_acquire_owned().ok()?;
            let (sender, receiver) = watch::channel(None);
            let verification = Verification {
                digest,
                hash: hash.clone(),
                dearest: dearest.clone(),
                kib: users.most_memory_kib(self.room.kib),
                password: password.clone(),
                name: found.map(|user| Arc::clone(&user.principal.name)),
                running: Arc::clone(&self.running),
                room: self.room.clone(),
                memory: Arc::clone(&self.memory),
            };
            // It goes on whatever becomes of the request that asked for it.
            tokio::spawn(async move {
                let _turn = turn;
                let memory = Arc::clone(&verification.memory);
                let outcome = verification.run().await;
                lock(&memory).in_flight.remove(&digest);
                // Whoever asked may be gone: then nobody needs to hear it.
                let _ = sender.send(outcome);
            });
            Some(receiver)
        });
        let mut outcome = match begun {
            Begun::Remembered => return right(found),
            Begun::InFlight(outcome) => outcome,
            Begun::Full => return Verdict::Unfinished,
        };
        let finished = tokio::time::timeout_at(end.into(), outcome.wait_for(Option::is_some)).await;
        let outcome = match finished {
            Ok(Ok(outcome)) => *outcome,
            // The verifying task died, or it is not done: we cannot know.
            Ok(Err(_)) | Err(_) => None,
        };
        match outcome {
            None => Verdict::Unfinished,
            Some(Outcome::Right) => right(found),
            Some(Outcome::Wrong) => Verdict::Wrong,
            Some(Outcome::Locked) => Verdict::Locked,
        }
    }

    fn forget_changed(&self, before: &Users, now: &Users) {
        let is_gone = |name: &str| now.get(name).is_none();
        let is_as_before = |name: &str| match (before.get(name), now.get(name)) {
            (Some(before), Some(now)) => before.hash.as_str() == now.hash.as_str(),
            (None, _) | (_, None) => false,
        };
        let mut memory = self.memory();
        let Memory { right, order, failures, .. } = &mut *memory;
        right.retain(|_, name| is_as_before(name));
        order.retain(|digest| right.contains_key(digest));
        failures.retain(|name, _| !is_gone(name));
    }

    /// Binds the pair to the stored hash: when the hash changes, what was remembered no longer counts.
    fn digest(&self, hash: &PasswordHash, user: &str, password: &Secret) -> PairDigest {
        let mut mac = self.key.clone();
        for part in [hash.as_str(), user, password.expose()] {
            mac.update(&part.len().to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

/// The password is right: of nobody, when nobody has the name.
fn right(user: Option<&User>) -> Verdict {
    user.map_or(Verdict::Wrong, |user| Verdict::Right(Arc::clone(&user.principal)))
}

/// One verification, with all that it needs.
struct Verification {
    digest: PairDigest,
    hash: PasswordHash,
    dearest: PasswordHash,
    /// The room that it takes: as much as the hash that takes most, so that all wait alike.
    kib: u32,
    password: Secret,
    /// The user's name, unless nobody has it.
    name: Option<Arc<str>>,
    running: Arc<Semaphore>,
    room: Room,
    memory: Arc<Mutex<Memory>>,
}

impl Verification {
    /// `None` when it cannot be done.
    async fn run(self) -> Option<Outcome> {
        let _turn = self.running.acquire().await.ok()?;
        let _room = self.room.free.acquire_many(self.kib).await.ok()?;
        let begun = Instant::now();
        let matches = verify(&self.hash, &self.password).await?;
        let (cost, dearest_cost) = (self.hash.cost(), self.dearest.cost());
        let (outcome, padding) = {
            let mut memory = lock(&self.memory);
            let now = Instant::now();
            if cost == dearest_cost {
                memory.dearest_took = Some((cost, now.duration_since(begun)));
            }
            let outcome = memory.judge(self.digest, self.name.as_ref(), matches, now);
            (outcome, Padding::of(outcome, cost, dearest_cost, memory.dearest_took))
        };
        match padding {
            Padding::None => {}
            Padding::Until(took) => tokio::time::sleep_until((begun + took).into()).await,
            Padding::Dearest => {
                let begun = Instant::now();
                verify(&self.dearest, &self.password).await?;
                lock(&self.memory).dearest_took = Some((dearest_cost, begun.elapsed()));
            }
        }
        Some(outcome)
    }
}

async fn verify(hash: &PasswordHash, password: &Secret) -> Option<bool> {
    let (hash, password) = (hash.clone(), password.clone());
    tokio::task::spawn_blocking(move || hash.verify(password.expose().as_bytes())).await.ok()
}

/// What a verification does beyond its own hash, so that a no takes as long as that of the dearest hash.
#[derive(Debug, PartialEq, Eq)]
enum Padding {
    None,
    /// It is over when it has taken as long as the dearest hash took the last time.
    Until(Duration),
    /// Nobody knows how long that is: the dearest hash is verified as well.
    Dearest,
}

impl Padding {
    fn of(outcome: Outcome, cost: u64, dearest_cost: u64, dearest_took: Option<(u64, Duration)>) -> Self {
        match (outcome, dearest_took) {
            (Outcome::Right, _) => Self::None,
            (Outcome::Wrong | Outcome::Locked, _) if cost == dearest_cost => Self::None,
            (Outcome::Wrong | Outcome::Locked, Some((of, took))) if of == dearest_cost => Self::Until(took),
            (Outcome::Wrong | Outcome::Locked, _) => Self::Dearest,
        }
    }
}

enum Begun {
    Remembered,
    InFlight(watch::Receiver<Option<Outcome>>),
    Full,
}

impl Memory {
    fn begin(
        &mut self,
        digest: PairDigest,
        spawn: impl FnOnce() -> Option<watch::Receiver<Option<Outcome>>>,
    ) -> Begun {
        if self.right.contains_key(&digest) {
            return Begun::Remembered;
        }
        if let Some(outcome) = self.in_flight.get(&digest) {
            return Begun::InFlight(outcome.clone());
        }
        let Some(outcome) = spawn() else {
            return Begun::Full;
        };
        self.in_flight.insert(digest, outcome.clone());
        Begun::InFlight(outcome)
    }

    /// Takes note of a verification's outcome and says what it counts for: nothing, while the name is locked.
    fn judge(&mut self, digest: PairDigest, name: Option<&Arc<str>>, matches: bool, now: Instant) -> Outcome {
        let Some(name) = name else {
            return Outcome::Wrong;
        };
        let failures = self.failures.entry(Arc::clone(name)).or_default();
        if failures.locked_until.is_some_and(|until| now < until) {
            return Outcome::Locked;
        }
        if !matches {
            failures.count(now, name);
            return Outcome::Wrong;
        }
        self.remember(digest, name);
        Outcome::Right
    }

    fn remember(&mut self, digest: PairDigest, name: &Arc<str>) {
        if self.right.insert(digest, Arc::clone(name)).is_none() {
            self.order.push_back(digest);
        }
        while self.order.len() > MOST_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.right.remove(&oldest);
            }
        }
    }
}

impl Failures {
    fn count(&mut self, now: Instant, name: &str) {
        self.recent.retain(|&failed| now.duration_since(failed) < LOCK_TIME);
        self.recent.push_back(now);
        if self.recent.len() >= FAILURES_TO_LOCK {
            self.recent.clear();
            self.locked_until = Some(now + LOCK_TIME);
            tracing::warn!(target: "audit", user = name, seconds = LOCK_TIME.as_secs(), "user locked after wrong passwords");
        }
    }
}

/// Nothing that holds the lock can panic half way through a change, so a poisoned one is as good as new.
fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Actor;
    use crate::credential::Kind;

    fn principal(name: &str) -> Principal {
        Principal::new(Kind::User, name.into(), Actor::configured(serde_json::Map::new()).unwrap())
    }

    fn users(names: &[(&str, &str)]) -> Users {
        let user = |&(name, password): &(&str, &str)| {
            let hash = PasswordHash::parse(&bcrypt::hash(password, 4).unwrap()).unwrap();
            let fingerprint = hash.fingerprint();
            User::new(hash, fingerprint, principal(name))
        };
        Users::new(names.iter().map(user))
    }

    const CHECK: PasswordCaller = PasswordCaller::Check { deadline: None };

    async fn verify(passwords: &Passwords, users: &Users, user: &str, password: &str) -> &'static str {
        verify_for(CHECK, passwords, users, user, password).await
    }

    async fn verify_for(
        asker: PasswordCaller,
        passwords: &Passwords,
        users: &Users,
        user: &str,
        password: &str,
    ) -> &'static str {
        let secret = Secret::new(password.to_owned());
        // A verification may take longer than a Check waits: then the asker comes back, as Envoy does.
        for _ in 0..600 {
            match passwords.verify(user, &secret, users, asker).await {
                Verdict::Right(_) => return "right",
                Verdict::Wrong => return "wrong",
                Verdict::Locked => return "locked",
                Verdict::Unfinished => {}
            }
        }
        panic!("the verification did not end within a minute");
    }

    #[tokio::test]
    async fn the_right_password_and_no_other() {
        let passwords = Passwords::new(2).unwrap();
        let users = users(&[("alice", "hunter2"), ("bob", "hunter3")]);
        assert_eq!(verify(&passwords, &users, "alice", "hunter2").await, "right");
        assert_eq!(verify(&passwords, &users, "alice", "hunter3").await, "wrong");
        assert_eq!(verify(&passwords, &users, "carol", "hunter2").await, "wrong");
        assert_eq!(verify(&passwords, &Users::new([]), "alice", "hunter2").await, "wrong");
    }

    #[tokio::test]
    async fn five_wrong_passwords_lock_a_name_but_not_what_is_remembered() {
        let passwords = Passwords::new(2).unwrap();
        let two = users(&[("alice", "hunter2"), ("bob", "hunter3")]);
        assert_eq!(verify(&passwords, &two, "alice", "hunter2").await, "right");
        for guess in ["a", "b", "c", "d", "e"] {
            assert_eq!(verify(&passwords, &two, "alice", guess).await, "wrong");
            assert_eq!(verify(&passwords, &two, "bob", guess).await, "wrong");
        }
        assert_eq!(verify(&passwords, &two, "alice", "hunter2").await, "right", "remembered");
        assert_eq!(verify(&passwords, &two, "bob", "hunter3").await, "locked");
    }

    #[test]
    fn a_lock_counts_recent_failures_alone_and_ends() {
        let mut memory = Memory::default();
        let name: Arc<str> = "alice".into();
        let begun = Instant::now();
        let mut guess = |second: u64, matches: bool| {
            memory.judge([0; 32], Some(&name), matches, begun + Duration::from_secs(second))
        };
        // Four failures, and a fifth when the first is old: no lock.
        for second in [0, 1, 2, 3, 300] {
            assert_eq!(guess(second, false), Outcome::Wrong);
        }
        assert_eq!(guess(300, true), Outcome::Right);
        let fifth = "the fifth within five minutes: the right one between them does not help";
        assert_eq!(guess(300, false), Outcome::Wrong, "{fifth}");
        for (second, matches) in [(301, true), (302, false), (599, true)] {
            assert_eq!(guess(second, matches), Outcome::Locked, "{second}");
        }
        assert_eq!(guess(600, true), Outcome::Right, "five minutes after the fifth failure");
    }

    #[tokio::test]
    async fn what_is_remembered_is_bound_to_the_stored_hash() {
        let passwords = Passwords::new(2).unwrap();
        assert_eq!(verify(&passwords, &users(&[("alice", "hunter2")]), "alice", "hunter2").await, "right");
        assert_eq!(verify(&passwords, &users(&[("alice", "changed")]), "alice", "hunter2").await, "wrong");
    }

    #[tokio::test]
    async fn what_was_remembered_of_a_changed_or_removed_user_is_forgotten_and_no_other() {
        let passwords = Passwords::new(2).unwrap();
        let before = users(&[("alice", "hunter2"), ("bob", "hunter3"), ("carol", "hunter4")]);
        for (name, password) in [("alice", "hunter2"), ("bob", "hunter3"), ("carol", "hunter4")] {
            assert_eq!(verify(&passwords, &before, name, password).await, "right");
            assert_eq!(verify(&passwords, &before, name, "guess").await, "wrong");
        }
        let changed = users(&[("bob", "other")]);
        let carol = before.get("carol").unwrap();
        let carol = User::new(carol.hash.clone(), carol.password_digest, principal("carol"));
        let bob = changed.get("bob").unwrap();
        let bob = User::new(bob.hash.clone(), bob.password_digest, principal("bob"));
        for (name, password) in [("alice", "hunter2"), ("bob", "hunter3"), ("carol", "hunter4")] {
            assert_eq!(verify_for(PasswordCaller::Admin, &passwords, &before, name, password).await, "right");
            assert_eq!(verify_for(PasswordCaller::Admin, &passwords, &before, name, "guess").await, "wrong");
        }
        passwords.forget_changed(&before, &Users::new([bob, carol]));
        for verifier in [&passwords.checks, &passwords.admin] {
            let memory = verifier.memory();
            assert_eq!(memory.right.values().map(|name| &**name).collect::<Vec<_>>(), ["carol"]);
            assert_eq!(memory.order.len(), 1);
            let mut failed: Vec<_> = memory.failures.keys().map(|name| &**name).collect();
            failed.sort_unstable();
            assert_eq!(failed, ["bob", "carol"]);
        }
    }

    #[tokio::test]
    async fn failures_at_checks_and_at_admin_are_counted_apart() {
        let passwords = Passwords::new(2).unwrap();
        let users = users(&[("alice", "hunter2"), ("bob", "hunter3")]);
        let verify = async |asker, user: &str, password: &str| {
            verify_for(asker, &passwords, &users, user, password).await
        };
        for guess in ["a", "b", "c", "d", "e"] {
            assert_eq!(verify(CHECK, "alice", guess).await, "wrong");
            assert_eq!(verify(PasswordCaller::Admin, "bob", guess).await, "wrong");
        }
        for (user, password, at_checks, at_admin) in [
            ("alice", "hunter2", "locked", "right"),
            ("alice", "f", "locked", "wrong"),
            ("bob", "hunter3", "right", "locked"),
            ("bob", "f", "wrong", "locked"),
            ("carol", "hunter2", "wrong", "wrong"),
        ] {
            assert_eq!(verify(CHECK, user, password).await, at_checks, "{user} {password}");
            assert_eq!(verify(PasswordCaller::Admin, user, password).await, at_admin, "{user} {password}");
        }
    }

    #[tokio::test]
    async fn a_flood_at_one_listener_holds_up_nobody_at_the_other() {
        let passwords = Passwords::new(2).unwrap();
        let users = users(&[("alice", "hunter2")]);
        let secret = Secret::new("hunter2".to_owned());
        let end = || Instant::now() + Duration::from_secs(60);
        for (flooded, other) in [(&passwords.checks, &passwords.admin), (&passwords.admin, &passwords.checks)]
        {
            // As many as may run, and as many as may wait.
            let running = flooded.running.available_permits();
            let _running = flooded.running.try_acquire_many(u32::try_from(running).unwrap()).unwrap();
            let waiting = flooded.pending.try_acquire_many(u32::try_from(MOST_PENDING).unwrap()).unwrap();
            assert!(matches!(flooded.verify("alice", &secret, &users, end()).await, Verdict::Unfinished));
            assert!(matches!(other.verify("alice", &secret, &users, end()).await, Verdict::Right(_)));
            drop(waiting);
            // What is remembered at one is not known at the other.
            assert_eq!(flooded.memory().right.len(), 0);
            other.memory().right.clear();
        }
    }

    #[test]
    fn every_no_is_told_at_the_end_of_the_wait_and_nothing_else() {
        let begun = Instant::now();
        let right = Verdict::Right(Arc::new(principal("alice")));
        for deadline in [None, Some(0), Some(50), Some(200), Some(10_000)] {
            let asker = PasswordCaller::Check { deadline: deadline.map(Duration::from_millis) };
            let end = begun + asker.wait();
            for no in [Verdict::Wrong, Verdict::Locked] {
                assert_eq!(no.told_at(end), Some(end), "{no:?}");
            }
            for other in [&right, &Verdict::Unfinished] {
                assert_eq!(other.told_at(end), None, "{other:?}");
            }
        }
        let wait = |milliseconds| {
            PasswordCaller::Check { deadline: Some(Duration::from_millis(milliseconds)) }.wait()
        };
        assert_eq!(
            [wait(0), wait(50), wait(200), wait(9999)].map(|wait| wait.as_millis()),
            [0, 25, 100, 100]
        );
        assert_eq!((CHECK.wait(), PasswordCaller::Admin.wait()), (LONGEST_WAIT, LONGEST_WAIT));
    }

    #[test]
    fn a_no_takes_as_long_as_the_dearest_hash() {
        let took = Duration::from_millis(70);
        for no in [Outcome::Wrong, Outcome::Locked] {
            // Own cost, the dearest one's, what is known of that.
            assert_eq!(Padding::of(no, 10, 30, Some((30, took))), Padding::Until(took));
            assert_eq!(Padding::of(no, 10, 30, None), Padding::Dearest);
            assert_eq!(Padding::of(no, 10, 30, Some((10, took))), Padding::Dearest, "known of another hash");
            assert_eq!(Padding::of(no, 30, 30, Some((30, took))), Padding::None);
            assert_eq!(Padding::of(no, 30, 30, None), Padding::None);
        }
        for principal in [None, Some((30, took))] {
            assert_eq!(
                Padding::of(Outcome::Right, 10, 30, principal),
                Padding::None,
                "a yes waits for nothing"
            );
        }
    }

    #[tokio::test]
    async fn how_long_the_dearest_hash_takes_is_learned_from_whoever_asks_first() {
        let hash = |cost: u32| PasswordHash::parse(&bcrypt::hash("hunter2", cost).unwrap()).unwrap();
        let user = |name: &str, cost| User::new(hash(cost), hash(cost).fingerprint(), principal(name));
        let users = Users::new([user("cheap", 4), user("dear", 5)]);
        let dearest = hash(5).cost();
        // A wrong password of the cheap hash, of the dear one, and an unknown user; then a right one of each.
        for (name, password, is_learned) in [
            ("cheap", "guess", true),
            ("dear", "guess", true),
            ("nobody", "guess", true),
            ("dear", "hunter2", true),
            ("cheap", "hunter2", false),
        ] {
            let passwords = Passwords::new(1).unwrap();
            verify(&passwords, &users, name, password).await;
            let learned = passwords.checks.memory().dearest_took.map(|(cost, _)| cost);
            assert_eq!(learned, is_learned.then_some(dearest), "{name} {password}");
        }
    }

    #[test]
    fn hashes_at_work_stay_below_a_quarter_of_the_memory_limit() {
        const MIB: u64 = 1024 * 1024;
        for (limit, kib) in [
            (0, 0),
            (4096, 0),
            (4100, 1),
            (128 * MIB, 32 * 1024 - 1),
            (256 * MIB, 64 * 1024 - 1),
            (256 * MIB + 4, 64 * 1024),
            (u64::MAX, u32::MAX),
        ] {
            let room = Room::within(limit);
            assert_eq!(room.kib, kib, "{limit}");
            assert_eq!(room.free.available_permits(), usize::try_from(kib).unwrap());
            assert!(u64::from(kib) * 1024 < (limit / 4).max(1), "{limit}");
        }
    }

    #[tokio::test]
    async fn a_hash_without_room_is_never_at_work() {
        let argon2 = |kib: u32| {
            let text = format!(
                "$argon2id$v=19$m={kib},t=1,p=1$c29tZXNhbHQxMjM0$yJKRhPYqj+FOMIqkMSLjSRyrGNcBSvFLJVyuRDsvx6Q"
            );
            PasswordHash::parse(&text).unwrap()
        };
        let user = |name: &str, hash: PasswordHash| {
            let fingerprint = hash.fingerprint();
            User::new(hash, fingerprint, principal(name))
        };
        let bcrypt = PasswordHash::parse(&bcrypt::hash("hunter2", 4).unwrap()).unwrap();
        let both = Users::new([user("small", bcrypt.clone()), user("large", argon2(2048))]);
        let alone = Users::new([user("large", argon2(2048))]);
        // 1 MiB less a KiB for hashes.
        let passwords = Passwords::within(2, 4 * 1024 * 1024).unwrap();
        let ask = async |users: &Users, asker, name: &str, password: &str| {
            let password = Secret::new(password.to_owned());
            passwords.verify(name, &password, users, asker).await
        };
        for asker in [CHECK, PasswordCaller::Admin] {
            for (users, name) in [(&both, "large"), (&alone, "large"), (&alone, "nobody")] {
                assert!(matches!(ask(users, asker, name, "hunter2").await, Verdict::Unfinished), "{name}");
            }
            assert_eq!(verify_for(asker, &passwords, &both, "small", "hunter2").await, "right");
            assert_eq!(verify_for(asker, &passwords, &both, "small", "guess").await, "wrong");
            assert_eq!(verify_for(asker, &passwords, &both, "nobody", "guess").await, "wrong");
        }
        assert_eq!((both.most_memory_kib(1023), both.most_memory_kib(2048)), (bcrypt.memory_kib(), 2048));
        assert_eq!(both.dearest_hash(1023).unwrap().as_str(), bcrypt.as_str());
        assert!(alone.dearest_hash(2047).is_none() && alone.dearest_hash(2048).is_some());
    }

    #[tokio::test]
    async fn both_listeners_share_the_room_and_nobody_takes_more_than_there_is() {
        let room = Room::within(4 * 1024 * 1024);
        let (checks, admin) = (Verifier::new(8, room.clone()).unwrap(), Verifier::new(1, room).unwrap());
        assert!(Arc::ptr_eq(&checks.room.free, &admin.room.free));
        let held = checks.room.free.try_acquire_many(checks.room.kib).unwrap();
        let users = users(&[("alice", "hunter2")]);
        let secret = Secret::new("hunter2".to_owned());
        for verifier in [&checks, &admin] {
            let verdict = verifier.verify("alice", &secret, &users, Instant::now()).await;
            assert!(matches!(verdict, Verdict::Unfinished), "it waits for room");
        }
        drop(held);
        for verifier in [&checks, &admin] {
            let end = Instant::now() + Duration::from_secs(60);
            assert!(matches!(verifier.verify("alice", &secret, &users, end).await, Verdict::Right(_)));
        }
    }

    #[tokio::test]
    async fn a_flood_of_guesses_fills_the_queue_and_nothing_else() {
        let passwords = Passwords::new(1).unwrap();
        // Dear enough not to be done before the flood is over: each takes a quarter of a second.
        let hash = PasswordHash::parse(&bcrypt::hash("hunter2", 12).unwrap()).unwrap();
        let fingerprint = hash.fingerprint();
        let users = Users::new([User::new(hash, fingerprint, principal("alice"))]);
        let guess = async |number: usize| {
            let password = Secret::new(format!("guess-{number}"));
            passwords
                .verify("alice", &password, &users, PasswordCaller::Check { deadline: Some(Duration::ZERO) })
                .await
        };
        for number in 0..MOST_PENDING {
            assert!(matches!(guess(number).await, Verdict::Unfinished));
        }
        for number in MOST_PENDING..MOST_PENDING * 10 {
            assert!(matches!(guess(number).await, Verdict::Unfinished));
            let waiting = passwords.checks.memory().in_flight.len();
            assert!(waiting <= MOST_PENDING, "{waiting} run or wait");
        }
        assert_eq!(passwords.checks.running.available_permits(), 0, "one runs, and no other beside it");
    }

    #[test]
    fn memory_is_bounded() {
        let mut memory = Memory::default();
        for number in 0..MOST_REMEMBERED + 10 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            memory.remember(digest, &"alice".into());
        }
        assert_eq!((memory.right.len(), memory.order.len()), (MOST_REMEMBERED, MOST_REMEMBERED));
    }
}
