//! Verifying passwords: dear on purpose, so bounded in number, remembered, and off the serving threads.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};

use crate::config::Users;
use crate::credential::Known;
use crate::password::PasswordHash;
use crate::secret::Secret;

/// The longest that a Check waits for a verification, whatever its deadline.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// Verifications that run or wait for their turn; one more is not begun.
const MOST_PENDING: usize = 64;
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
    Right(Arc<Known>),
    /// An unknown user, a wrong password, or a locked user.
    Wrong,
    /// It could not be verified in time.  It goes on in the background, and what it finds is remembered.
    Unfinished,
}

/// Verifies passwords, and remembers which were right.
pub struct Passwords {
    /// Keys the digests of what is remembered, so that memory holds no password and nothing to guess from.
    key: Hmac<Sha256>,
    /// Verifications that run at the same time.
    running: Arc<Semaphore>,
    /// Verifications that run or wait.
    pending: Arc<Semaphore>,
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
    in_flight: HashMap<PairDigest, watch::Receiver<Option<bool>>>,
    /// Per configured user name: a guesser cannot make it grow.
    failures: HashMap<Arc<str>, Failures>,
}

#[derive(Default)]
struct Failures {
    recent: VecDeque<Instant>,
    locked_until: Option<Instant>,
}

impl Passwords {
    /// A verifier that runs this many verifications at a time.
    ///
    /// # Errors
    /// The operating system has no randomness to give.
    pub fn new(parallel: usize) -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self {
            key: Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length"),
            running: Arc::new(Semaphore::new(parallel.max(1))),
            pending: Arc::new(Semaphore::new(MOST_PENDING)),
            memory: Arc::default(),
        })
    }

    /// Verifies a user's password.
    ///
    /// The answer comes within half of the deadline and at most 100 ms.  An unknown user costs as much
    /// time as the dearest known one, and a locked one as much as ever: the time tells nothing.
    pub async fn verify(
        &self,
        user: &str,
        password: &Secret,
        users: &Users,
        deadline: Option<Duration>,
    ) -> Verdict {
        let found = users.get(user);
        let Some(hash) = found.map(|user| &user.hash).or_else(|| users.dearest_hash()) else {
            return Verdict::Wrong;
        };
        let digest = self.digest(hash, user, password);
        let begun =
            self.memory().begin(digest, || self.spawn(digest, hash, found.map(|user| &user.known), password));
        let mut outcome = match begun {
            Begun::Remembered => watch::channel(Some(true)).1,
            Begun::InFlight(outcome) => outcome,
            Begun::Full => return Verdict::Unfinished,
        };
        let wait = deadline.map_or(LONGEST_WAIT, |deadline| (deadline / 2).min(LONGEST_WAIT));
        let finished = tokio::time::timeout(wait, outcome.wait_for(Option::is_some)).await;
        let right = match finished {
            Ok(Ok(outcome)) => outcome.unwrap_or(false),
            // The verifying task died, or it is not done: we cannot know.
            Ok(Err(_)) | Err(_) => return Verdict::Unfinished,
        };
        match found {
            Some(user) if right => Verdict::Right(Arc::clone(&user.known)),
            Some(_) | None => Verdict::Wrong,
        }
    }

    /// Forgets what was remembered of users who have gone or whose password is another one now, and the failures
    /// of names that nobody has any more.
    pub fn forget_changed(&self, before: &Users, now: &Users) {
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

    /// Starts a verification that goes on whatever becomes of the request that asked for it.
    fn spawn(
        &self,
        digest: PairDigest,
        hash: &PasswordHash,
        known: Option<&Arc<Known>>,
        password: &Secret,
    ) -> Option<watch::Receiver<Option<bool>>> {
        let place = Arc::clone(&self.pending).try_acquire_owned().ok()?;
        let (sender, receiver) = watch::channel(None);
        let (running, memory) = (Arc::clone(&self.running), Arc::clone(&self.memory));
        let (hash, password) = (hash.clone(), password.clone());
        let name = known.map(|known| Arc::clone(&known.name));
        tokio::spawn(async move {
            let _place = place;
            let verified = match running.acquire().await {
                Ok(_turn) => {
                    tokio::task::spawn_blocking(move || hash.verify(password.expose().as_bytes())).await
                }
                Err(_) => Ok(false),
            };
            let right = verified
                .ok()
                .map(|matches| lock(&memory).finish(digest, name.as_ref(), matches, Instant::now()));
            if right.is_none() {
                lock(&memory).in_flight.remove(&digest);
            }
            // Whoever asked may be gone: then nobody needs to hear it.
            let _ = sender.send(right);
        });
        Some(receiver)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }
}

enum Begun {
    Remembered,
    InFlight(watch::Receiver<Option<bool>>),
    Full,
}

impl Memory {
    fn begin(
        &mut self,
        digest: PairDigest,
        spawn: impl FnOnce() -> Option<watch::Receiver<Option<bool>>>,
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
    fn finish(&mut self, digest: PairDigest, name: Option<&Arc<str>>, matches: bool, now: Instant) -> bool {
        self.in_flight.remove(&digest);
        let Some(name) = name else {
            return false;
        };
        let failures = self.failures.entry(Arc::clone(name)).or_default();
        if failures.locked_until.is_some_and(|until| now < until) {
            return false;
        }
        if !matches {
            failures.count(now, name);
            return false;
        }
        self.remember(digest, name);
        true
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
    use crate::config::User;
    use crate::credential::Kind;

    fn known(name: &str) -> Known {
        Known::new(Kind::User, name.into(), Actor::configured(serde_json::Map::new()).unwrap())
    }

    fn users(names: &[(&str, &str)]) -> Users {
        let user = |&(name, password): &(&str, &str)| {
            let hash = PasswordHash::parse(&bcrypt::hash(password, 4).unwrap()).unwrap();
            let fingerprint = hash.fingerprint();
            User::new(hash, fingerprint, known(name))
        };
        Users::new(names.iter().map(user))
    }

    async fn verify(passwords: &Passwords, users: &Users, user: &str, password: &str) -> &'static str {
        let secret = Secret::new(password.to_owned());
        // A verification may take longer than a Check waits: then the asker comes back, as Envoy does.
        for _ in 0..600 {
            match passwords.verify(user, &secret, users, None).await {
                Verdict::Right(_) => return "right",
                Verdict::Wrong => return "wrong",
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
        assert_eq!(verify(&passwords, &two, "bob", "hunter3").await, "wrong", "locked");
    }

    #[test]
    fn a_lock_counts_recent_failures_alone_and_ends() {
        let mut memory = Memory::default();
        let name: Arc<str> = "alice".into();
        let begun = Instant::now();
        let mut guess = |second: u64, matches: bool| {
            memory.finish([0; 32], Some(&name), matches, begun + Duration::from_secs(second))
        };
        // Four failures, and a fifth when the first is old: no lock.
        for second in [0, 1, 2, 3, 300] {
            assert!(!guess(second, false));
        }
        assert!(guess(300, true));
        assert!(
            !guess(300, false),
            "the fifth within five minutes: the right one between them does not help"
        );
        assert!(!guess(301, true), "locked");
        assert!(!guess(599, true), "still locked");
        assert!(guess(600, true), "five minutes after the fifth failure");
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
        let carol = User::new(carol.hash.clone(), carol.password_digest, known("carol"));
        let bob = changed.get("bob").unwrap();
        let bob = User::new(bob.hash.clone(), bob.password_digest, known("bob"));
        passwords.forget_changed(&before, &Users::new([bob, carol]));
        let memory = passwords.memory();
        assert_eq!(memory.right.values().map(|name| &**name).collect::<Vec<_>>(), ["carol"]);
        assert_eq!(memory.order.len(), 1);
        let mut failed: Vec<_> = memory.failures.keys().map(|name| &**name).collect();
        failed.sort_unstable();
        assert_eq!(failed, ["bob", "carol"]);
    }

    #[tokio::test]
    async fn a_flood_of_guesses_fills_the_queue_and_nothing_else() {
        let passwords = Passwords::new(1).unwrap();
        // Dear enough not to be done before the flood is over: each takes a quarter of a second.
        let hash = PasswordHash::parse(&bcrypt::hash("hunter2", 12).unwrap()).unwrap();
        let fingerprint = hash.fingerprint();
        let users = Users::new([User::new(hash, fingerprint, known("alice"))]);
        let guess = async |number: usize| {
            let password = Secret::new(format!("guess-{number}"));
            passwords.verify("alice", &password, &users, Some(Duration::ZERO)).await
        };
        for number in 0..MOST_PENDING {
            assert!(matches!(guess(number).await, Verdict::Unfinished));
        }
        for number in MOST_PENDING..MOST_PENDING * 10 {
            assert!(matches!(guess(number).await, Verdict::Unfinished));
            let waiting = passwords.memory().in_flight.len();
            assert!(waiting <= MOST_PENDING, "{waiting} run or wait");
        }
        assert_eq!(passwords.running.available_permits(), 0, "one runs, and no other beside it");
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
