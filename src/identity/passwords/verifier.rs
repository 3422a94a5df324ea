//! Verifying a password against a user's hash: bounded in number and memory, off the serving threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Semaphore, watch};

use super::PasswordResult;
use super::cache::{CacheKey, CacheKeys, UnreadRejections, VerifiedCache};
use super::lockout::{AttemptResult, Lockout};
use super::timing::{ExtraWork, HashTime};
use crate::password::PasswordHash;
use crate::secret::Secret;
use crate::snapshot::{User, Users};

/// Verifications of one verifier that run or wait for their turn.  One more is not started.
pub(super) const MAX_PENDING: usize = 64;

/// The memory that hashes may use while they are computed, shared by all verifiers.
#[derive(Clone)]
pub(super) struct HashMemory {
    /// One permit for each KiB.
    free: Arc<Semaphore>,
    /// The whole of it.
    pub kib: u32,
}

impl HashMemory {
    /// Less than a quarter of the process's limit, which is in bytes.
    pub fn within(memory_limit: u64) -> Self {
        let kib = (memory_limit / 4).saturating_sub(1) / 1024;
        let max = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(max);
        let permits = usize::try_from(kib).unwrap_or(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(permits)), kib }
    }
}

/// Verifies the passwords of one listener.
pub(super) struct Verifier {
    cache_keys: CacheKeys,
    /// Verifications that run at the same time.
    running: Arc<Semaphore>,
    /// Verifications that run or wait.
    pending: Arc<Semaphore>,
    /// A verification waits for memory after it has a permit to run, so few of each listener wait here.
    pub memory: HashMemory,
    state: Arc<Mutex<VerifierState>>,
}

#[derive(Default)]
struct VerifierState {
    verified: VerifiedCache,
    rejected: UnreadRejections,
    /// The verifications that run or wait: twenty requests of one page cost one verification.
    in_flight: HashMap<CacheKey, watch::Receiver<Option<AttemptResult>>>,
    lockout: Lockout,
    /// How long the costliest hash took the last time.
    costliest: Option<HashTime>,
}

/// The state of a pair of user and password.
enum Lookup {
    Verified,
    /// It was rejected a moment ago, and no caller waited for the result.
    Rejected(AttemptResult),
    InFlight(watch::Receiver<Option<AttemptResult>>),
    /// Too many verifications are pending.
    Full,
}

impl VerifierState {
    /// Looks a pair up, and starts its verification if the result is not known.
    fn get_or_start(
        &mut self,
        key: CacheKey,
        start: impl FnOnce() -> Option<watch::Receiver<Option<AttemptResult>>>,
    ) -> Lookup {
        if self.verified.contains(&key) {
            return Lookup::Verified;
        }
        if let Some(result) = self.in_flight.get(&key) {
            return Lookup::InFlight(result.clone());
        }
        if let Some(result) = self.rejected.take(&key, Instant::now()) {
            return Lookup::Rejected(result);
        }
        let Some(result) = start() else {
            return Lookup::Full;
        };
        self.in_flight.insert(key, result.clone());
        Lookup::InFlight(result)
    }

    /// Records the result of a verification.
    fn record(
        &mut self,
        key: CacheKey,
        user: Option<&Arc<str>>,
        matches: bool,
        now: Instant,
    ) -> AttemptResult {
        let result = self.lockout.record(user, matches, now);
        if let (AttemptResult::Right, Some(user)) = (result, user) {
            self.verified.insert(key, user);
        }
        result
    }
}

impl Verifier {
    pub fn new(parallel: usize, memory: HashMemory) -> Result<Self, getrandom::Error> {
        Ok(Self {
            cache_keys: CacheKeys::new()?,
            running: Arc::new(Semaphore::new(parallel.max(1))),
            pending: Arc::new(Semaphore::new(MAX_PENDING)),
            memory,
            state: Arc::default(),
        })
    }

    /// The result for a user and password, at `end` at the latest.
    pub async fn verify(&self, name: &str, password: &Secret, users: &Users, end: Instant) -> PasswordResult {
        let user = users.get(name);
        // An unknown user costs as much as the costliest hash of a known one.
        let hash = match user {
            Some(user) => Some(&user.hash).filter(|_| user.hash_kib <= self.memory.kib),
            None => users.costliest_hash(self.memory.kib),
        };
        let Some(hash) = hash else {
            // There is not enough memory for it.
            tokio::time::sleep_until(end.into()).await;
            return PasswordResult::Unverified;
        };
        let key = self.cache_keys.key(hash, name, password);
        let lookup = self.state().get_or_start(key, || self.start(key, user, hash, password, users));
        let mut result = match lookup {
            Lookup::Verified => return right(user),
            Lookup::Rejected(result) => return of_attempt(result, user),
            Lookup::InFlight(result) => result,
            Lookup::Full => return PasswordResult::Unverified,
        };
        let finished = tokio::time::timeout_at(end.into(), result.wait_for(Option::is_some)).await;
        let result = match finished {
            Ok(Ok(result)) => *result,
            // The task panicked, or it is not done.
            Ok(Err(_)) | Err(_) => None,
        };
        result.map_or(PasswordResult::Unverified, |result| of_attempt(result, user))
    }

    /// Starts a verification in a task of its own, which outlives the request; `None` when too many are pending.
    fn start(
        &self,
        key: CacheKey,
        user: Option<&User>,
        hash: &PasswordHash,
        password: &Secret,
        users: &Users,
    ) -> Option<watch::Receiver<Option<AttemptResult>>> {
        let costliest = users.costliest_hash(self.memory.kib)?;
        let pending = Arc::clone(&self.pending).try_acquire_owned().ok()?;
        let (sender, receiver) = watch::channel(None);
        let verification = Verification {
            key,
            hash: hash.clone(),
            costliest: costliest.clone(),
            kib: users.most_memory_kib(self.memory.kib),
            password: password.clone(),
            user: user.map(|user| Arc::clone(&user.principal.name)),
            running: Arc::clone(&self.running),
            memory: self.memory.clone(),
            state: Arc::clone(&self.state),
        };
        tokio::spawn(async move {
            let _pending = pending;
            let state = Arc::clone(&verification.state);
            let result = verification.run().await;
            let mut state = lock(&state);
            state.in_flight.remove(&key);
            // No receiver is left when every caller is gone.
            if let (Err(_), Some(result @ (AttemptResult::Wrong | AttemptResult::Locked))) =
                (sender.send(result), result)
            {
                state.rejected.insert(key, result, Instant::now());
            }
        });
        Some(receiver)
    }

    /// Drops the cached passwords of users who are gone or have another hash now, and the failures of names that no
    /// longer exist.
    pub fn forget_changed(&self, before: &Users, now: &Users) {
        let is_unchanged = |name: &str| match (before.get(name), now.get(name)) {
            (Some(before), Some(now)) => before.hash.as_str() == now.hash.as_str(),
            (None, _) | (_, None) => false,
        };
        let mut state = self.state();
        state.verified.retain(is_unchanged);
        state.lockout.retain(|name| now.get(name).is_some());
    }

    fn state(&self) -> MutexGuard<'_, VerifierState> {
        lock(&self.state)
    }
}

/// The result of a right password: wrong for an unknown name.
fn right(user: Option<&User>) -> PasswordResult {
    user.map_or(PasswordResult::Wrong, |user| PasswordResult::Right(Arc::clone(&user.principal)))
}

fn of_attempt(result: AttemptResult, user: Option<&User>) -> PasswordResult {
    match result {
        AttemptResult::Right => right(user),
        AttemptResult::Wrong => PasswordResult::Wrong,
        AttemptResult::Locked => PasswordResult::Locked,
    }
}

/// One verification, with all that it needs.
struct Verification {
    key: CacheKey,
    hash: PasswordHash,
    costliest: PasswordHash,
    /// The memory that it acquires: that of the largest hash, so that all wait alike.
    kib: u32,
    password: Secret,
    /// The user's name; `None` when it is unknown.
    user: Option<Arc<str>>,
    running: Arc<Semaphore>,
    memory: HashMemory,
    state: Arc<Mutex<VerifierState>>,
}

impl Verification {
    /// `None` when the hash could not be computed.
    async fn run(self) -> Option<AttemptResult> {
        let _running = self.running.acquire().await.ok()?;
        let _memory = self.memory.free.acquire_many(self.kib).await.ok()?;
        let start = Instant::now();
        let matches = verify(&self.hash, &self.password).await?;
        let (cost, costliest_cost) = (self.hash.cost(), self.costliest.cost());
        let (result, extra_work) = {
            let mut state = lock(&self.state);
            let now = Instant::now();
            if cost == costliest_cost {
                state.costliest = Some(HashTime { cost, took: now.duration_since(start) });
            }
            let result = state.record(self.key, self.user.as_ref(), matches, now);
            (result, ExtraWork::new(result, cost, costliest_cost, state.costliest))
        };
        match extra_work {
            ExtraWork::None => {}
            ExtraWork::WaitFor(took) => tokio::time::sleep_until((start + took).into()).await,
            ExtraWork::VerifyCostliest => {
                let start = Instant::now();
                verify(&self.costliest, &self.password).await?;
                let time = HashTime { cost: costliest_cost, took: start.elapsed() };
                lock(&self.state).costliest = Some(time);
            }
        }
        Some(result)
    }
}

async fn verify(hash: &PasswordHash, password: &Secret) -> Option<bool> {
    let (hash, password) = (hash.clone(), password.clone());
    tokio::task::spawn_blocking(move || hash.verify(password.expose().as_bytes())).await.ok()
}

/// No code panics in the middle of a change while it holds the lock, so a poisoned state is consistent.
fn lock(state: &Mutex<VerifierState>) -> MutexGuard<'_, VerifierState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::Purpose;
    use crate::identity::passwords::Passwords;
    use crate::identity::passwords::tests::{CHECK, principal, users, verify, verify_for};

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
            assert_eq!(verify_for(Purpose::Admin, &passwords, &before, name, password).await, "right");
            assert_eq!(verify_for(Purpose::Admin, &passwords, &before, name, "guess").await, "wrong");
        }
        passwords.forget_changed(&before, &Users::new([bob, carol]));
        for verifier in [&passwords.checks, &passwords.admin] {
            let state = verifier.state();
            assert_eq!(state.verified.users().collect::<Vec<_>>(), ["carol"]);
            assert_eq!(state.verified.lengths(), (1, 1));
            let mut failed: Vec<_> = state.lockout.users().collect();
            failed.sort_unstable();
            assert_eq!(failed, ["bob", "carol"]);
        }
    }

    #[tokio::test]
    async fn a_flood_at_one_listener_does_not_delay_the_other() {
        let passwords = Passwords::new(2).unwrap();
        let users = users(&[("alice", "hunter2")]);
        let secret = Secret::new("hunter2".to_owned());
        let end = || Instant::now() + Duration::from_secs(60);
        for (flooded, other) in [(&passwords.checks, &passwords.admin), (&passwords.admin, &passwords.checks)]
        {
            // As many as may run, and as many as may wait.
            let running = flooded.running.available_permits();
            let _running = flooded.running.try_acquire_many(u32::try_from(running).unwrap()).unwrap();
            let waiting = flooded.pending.try_acquire_many(u32::try_from(MAX_PENDING).unwrap()).unwrap();
            assert!(matches!(
                flooded.verify("alice", &secret, &users, end()).await,
                PasswordResult::Unverified
            ));
            assert!(matches!(other.verify("alice", &secret, &users, end()).await, PasswordResult::Right(_)));
            drop(waiting);
            // What is remembered at one is not known at the other.
            assert_eq!(flooded.state().verified.lengths().0, 0);
            other.state().verified.clear();
        }
    }

    #[tokio::test]
    async fn who_asks_again_after_the_verification_gets_its_result() {
        let passwords = Passwords::new(1).unwrap();
        let users = users(&[("alice", "hunter2")]);
        let guess = Secret::new("guess".to_owned());
        let verifier = &passwords.checks;
        for _ in 0..3 {
            // It cannot begin before its caller is gone.
            let held = verifier.running.acquire().await.unwrap();
            let result = verifier.verify("alice", &guess, &users, Instant::now()).await;
            assert!(matches!(result, PasswordResult::Unverified));
            drop(held);
            while !verifier.state().in_flight.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // Nobody waits now either: it is known.
            let result = verifier.verify("alice", &guess, &users, Instant::now()).await;
            assert!(matches!(result, PasswordResult::Wrong));
        }
    }

    #[tokio::test]
    async fn the_first_verification_measures_how_long_the_dearest_hash_takes() {
        let hash = |cost: u32| PasswordHash::parse(&bcrypt::hash("hunter2", cost).unwrap()).unwrap();
        let user = |name: &str, cost| User::new(hash(cost), hash(cost).fingerprint(), principal(name));
        let users = Users::new([user("cheap", 4), user("dear", 5)]);
        let costliest = hash(5).cost();
        // A wrong password of the cheap hash, of the dear one, and an unknown user; then a right one of each.
        for (name, password, is_measured) in [
            ("cheap", "guess", true),
            ("dear", "guess", true),
            ("nobody", "guess", true),
            ("dear", "hunter2", true),
            ("cheap", "hunter2", false),
        ] {
            let passwords = Passwords::new(1).unwrap();
            verify(&passwords, &users, name, password).await;
            let measured = passwords.checks.state().costliest.map(|time| time.cost);
            assert_eq!(measured, is_measured.then_some(costliest), "{name} {password}");
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
            let memory = HashMemory::within(limit);
            assert_eq!(memory.kib, kib, "{limit}");
            assert_eq!(memory.free.available_permits(), usize::try_from(kib).unwrap());
            assert!(u64::from(kib) * 1024 < (limit / 4).max(1), "{limit}");
        }
    }

    #[tokio::test]
    async fn a_hash_without_memory_is_never_computed() {
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
        let passwords = Passwords::with_memory_limit(2, 4 * 1024 * 1024).unwrap();
        let ask = async |users: &Users, purpose, name: &str, password: &str| {
            let password = Secret::new(password.to_owned());
            passwords.verify(name, &password, users, purpose).await
        };
        for purpose in [CHECK, Purpose::Admin] {
            for (users, name) in [(&both, "large"), (&alone, "large"), (&alone, "nobody")] {
                assert!(
                    matches!(ask(users, purpose, name, "hunter2").await, PasswordResult::Unverified),
                    "{name}"
                );
            }
            assert_eq!(verify_for(purpose, &passwords, &both, "small", "hunter2").await, "right");
            assert_eq!(verify_for(purpose, &passwords, &both, "small", "guess").await, "wrong");
            assert_eq!(verify_for(purpose, &passwords, &both, "nobody", "guess").await, "wrong");
        }
        assert_eq!((both.most_memory_kib(1023), both.most_memory_kib(2048)), (bcrypt.memory_kib(), 2048));
        assert_eq!(both.costliest_hash(1023).unwrap().as_str(), bcrypt.as_str());
        assert!(alone.costliest_hash(2047).is_none() && alone.costliest_hash(2048).is_some());
    }

    #[tokio::test]
    async fn both_listeners_share_the_memory_within_its_limit() {
        let memory = HashMemory::within(4 * 1024 * 1024);
        let (checks, admin) = (Verifier::new(8, memory.clone()).unwrap(), Verifier::new(1, memory).unwrap());
        assert!(Arc::ptr_eq(&checks.memory.free, &admin.memory.free));
        let held = checks.memory.free.try_acquire_many(checks.memory.kib).unwrap();
        let users = users(&[("alice", "hunter2")]);
        let secret = Secret::new("hunter2".to_owned());
        for verifier in [&checks, &admin] {
            let result = verifier.verify("alice", &secret, &users, Instant::now()).await;
            assert!(matches!(result, PasswordResult::Unverified), "it waits for memory");
        }
        drop(held);
        for verifier in [&checks, &admin] {
            let end = Instant::now() + Duration::from_secs(60);
            assert!(matches!(verifier.verify("alice", &secret, &users, end).await, PasswordResult::Right(_)));
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
                .verify("alice", &password, &users, Purpose::Check { deadline: Some(Duration::ZERO) })
                .await
        };
        for number in 0..MAX_PENDING {
            assert!(matches!(guess(number).await, PasswordResult::Unverified));
        }
        for number in MAX_PENDING..MAX_PENDING * 10 {
            assert!(matches!(guess(number).await, PasswordResult::Unverified));
            let waiting = passwords.checks.state().in_flight.len();
            assert!(waiting <= MAX_PENDING, "{waiting} run or wait");
        }
        assert_eq!(passwords.checks.running.available_permits(), 0, "one runs, and no other beside it");
    }
}
