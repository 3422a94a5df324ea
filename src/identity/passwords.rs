//! Verifying the passwords of configured users.
//!
//! A hash is costly on purpose, so verifications are bounded in number and memory and run off the serving threads
//! (`verifier.rs`); right passwords are cached (`cache.rs`); wrong ones lock their user out (`lockout.rs`); and the
//! time of an answer tells nothing (`timing.rs`).
//!
//! Checks and the admin listener have a verifier each: attempts at the gateway neither lock an administrator out nor
//! delay one.  Both share the memory for hashes.

mod cache;
mod lockout;
mod timing;
mod verifier;

use std::sync::Arc;
use std::time::Instant;

use self::verifier::{HashMemory, Verifier};
use super::Purpose;
use crate::credential::Principal;
use crate::secret::Secret;
use crate::snapshot::Users;

/// Verifications that the admin listener runs at the same time.
const ADMIN_PARALLEL: usize = 1;

/// The result of verifying a user's password.
#[derive(Debug)]
pub enum PasswordResult {
    /// The password is right.
    Right(Arc<Principal>),
    /// The user is unknown or the password wrong.
    Wrong,
    /// The user is locked out for every password, except one that is cached as right.
    Locked,
    /// It could not be verified in time.  The verification continues in the background, and its result is cached.
    Unverified,
}

/// Verifies passwords, and caches those that were right.
pub struct Passwords {
    checks: Verifier,
    admin: Verifier,
}

impl Passwords {
    /// Runs at most this many verifications for Checks at a time, and one for the admin listener.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(parallel: usize) -> Result<Self, getrandom::Error> {
        Self::with_memory_limit(parallel, u64::MAX)
    }

    /// The same for a process with a memory limit, in bytes: hashes use less than a quarter of it, all together.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn with_memory_limit(parallel: usize, memory_limit: u64) -> Result<Self, getrandom::Error> {
        let memory = HashMemory::within(memory_limit);
        let checks = Verifier::new(parallel, memory.clone())?;
        Ok(Self { checks, admin: Verifier::new(ADMIN_PARALLEL, memory)? })
    }

    /// Verifies a user's password.
    ///
    /// The result comes within the [timeout](Purpose::timeout) of its purpose, and a rejection at the end of it.
    pub async fn verify(
        &self,
        user: &str,
        password: &Secret,
        users: &Users,
        purpose: Purpose,
    ) -> PasswordResult {
        // Without users, the time cannot tell one from others.
        if users.is_empty() {
            return PasswordResult::Wrong;
        }
        let end = Instant::now() + purpose.timeout();
        let verifier = match purpose {
            Purpose::Check { .. } => &self.checks,
            Purpose::Admin => &self.admin,
        };
        let result = verifier.verify(user, password, users, end).await;
        if let Some(at) = timing::answer_at(&result, end) {
            tokio::time::sleep_until(at.into()).await;
        }
        result
    }

    /// Drops the cached passwords of users who are gone or whose password changed, and the failures of names that no
    /// longer exist.
    pub fn forget_changed(&self, before: &Users, now: &Users) {
        for verifier in [&self.checks, &self.admin] {
            verifier.forget_changed(before, now);
        }
    }

    /// Logs the users whose hash needs more memory than there is: their passwords are never verified.
    pub fn warn_of_hashes_too_large(&self, users: &Users) {
        let max_kib = self.checks.memory.kib;
        let mut names: Vec<_> =
            users.iter().filter(|(_, user)| user.hash_kib > max_kib).map(|(name, _)| &**name).collect();
        if names.is_empty() {
            return;
        }
        names.sort_unstable();
        let largest = users.iter().map(|(_, user)| user.hash_kib).max();
        tracing::error!(
            users = names.join(", "),
            needed_kib = largest,
            max_kib,
            "the password hashes of these users need a quarter or more of the memory that the process may use: their \
             passwords are not verified, and are answered with 503; give them a hash that needs less (bcrypt needs 8 KiB), or \
             raise the memory limit"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Actor;
    use crate::credential::Kind;
    use crate::password::PasswordHash;
    use crate::snapshot::User;

    pub(super) fn principal(name: &str) -> Principal {
        Principal::new(Kind::User, name.into(), Actor::configured(serde_json::Map::new()).unwrap())
    }

    pub(super) fn users(names: &[(&str, &str)]) -> Users {
        let user = |&(name, password): &(&str, &str)| {
            let hash = PasswordHash::parse(&bcrypt::hash(password, 4).unwrap()).unwrap();
            let fingerprint = hash.fingerprint();
            User::new(hash, fingerprint, principal(name))
        };
        Users::new(names.iter().map(user))
    }

    pub(super) const CHECK: Purpose = Purpose::Check { deadline: None };

    pub(super) async fn verify(
        passwords: &Passwords,
        users: &Users,
        user: &str,
        password: &str,
    ) -> &'static str {
        verify_for(CHECK, passwords, users, user, password).await
    }

    pub(super) async fn verify_for(
        purpose: Purpose,
        passwords: &Passwords,
        users: &Users,
        user: &str,
        password: &str,
    ) -> &'static str {
        let secret = Secret::new(password.to_owned());
        // A verification may take longer than a Check waits: then the caller comes back, as Envoy does.
        for _ in 0..600 {
            match passwords.verify(user, &secret, users, purpose).await {
                PasswordResult::Right(_) => return "right",
                PasswordResult::Wrong => return "wrong",
                PasswordResult::Locked => return "locked",
                PasswordResult::Unverified => {}
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

    #[tokio::test]
    async fn what_is_remembered_is_bound_to_the_stored_hash() {
        let passwords = Passwords::new(2).unwrap();
        assert_eq!(verify(&passwords, &users(&[("alice", "hunter2")]), "alice", "hunter2").await, "right");
        assert_eq!(verify(&passwords, &users(&[("alice", "changed")]), "alice", "hunter2").await, "wrong");
    }

    #[tokio::test]
    async fn failures_at_checks_and_at_admin_are_counted_apart() {
        let passwords = Passwords::new(2).unwrap();
        let users = users(&[("alice", "hunter2"), ("bob", "hunter3")]);
        let verify = async |purpose, user: &str, password: &str| {
            verify_for(purpose, &passwords, &users, user, password).await
        };
        for guess in ["a", "b", "c", "d", "e"] {
            assert_eq!(verify(CHECK, "alice", guess).await, "wrong");
            assert_eq!(verify(Purpose::Admin, "bob", guess).await, "wrong");
        }
        for (user, password, at_checks, at_admin) in [
            ("alice", "hunter2", "locked", "right"),
            ("alice", "f", "locked", "wrong"),
            ("bob", "hunter3", "right", "locked"),
            ("bob", "f", "wrong", "locked"),
            ("carol", "hunter2", "wrong", "wrong"),
        ] {
            assert_eq!(verify(CHECK, user, password).await, at_checks, "{user} {password}");
            assert_eq!(verify(Purpose::Admin, user, password).await, at_admin, "{user} {password}");
        }
    }
}
