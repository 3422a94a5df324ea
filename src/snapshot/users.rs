//! Users and their passwords' hashes.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::config::{self, ConfiguredPassword};
use crate::credential::{Kind, Principal};
use crate::keys::{SessionScope, scoped_binding};
use crate::memory;
use crate::password::{self, PasswordError, PasswordHash};
use crate::person::{Person, PersonId, PersonSource, comparable_name};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// The configured users by their names.
#[derive(Default, Clone)]
pub struct Users {
    by_name: HashMap<Arc<str>, User>,
    /// The names in the form in which names of a directory are compared with them.
    comparable: HashSet<String>,
    /// One user of each kind of hash, the costliest first.
    kinds: Vec<HashKind>,
}

/// Hashes that cost the same.
#[derive(Clone)]
struct HashKind {
    cost: u64,
    memory_kib: u32,
    /// A user who has one.
    user: Arc<str>,
}

/// One user.
#[derive(Clone)]
pub struct User {
    /// The password's hash.
    pub hash: PasswordHash,
    /// The memory that verifying it takes, in KiB.
    pub hash_kib: u32,
    /// The actor, and the policies that restrict it.
    pub principal: Arc<Principal>,
    /// The same in a session.
    pub in_session: Arc<Principal>,
    /// The binding of the user's sessions at the admin listener; it changes with the password.
    pub password_digest: TokenDigest,
    /// The binding of the user's sessions at Check.
    application_binding: TokenDigest,
    /// Shows a reload whether a plain password is still the same; `None` if the configuration has its hash.
    keyed_digest: Option<PasswordDigest>,
}

/// A digest of a plain password under its own stored hash, including the salt: useless without that hash.
type PasswordDigest = [u8; 32];

impl User {
    /// A user of this actor.
    pub fn new(
        hash: PasswordHash,
        password_digest: TokenDigest,
        principal: impl Into<Arc<Principal>>,
    ) -> Self {
        let configured = principal.into();
        let id = PersonId { source: PersonSource::Config, subject: (&*configured.name).into() };
        let person = Arc::new(Person { id, binding: password_digest, claims: None });
        let of_kind = |kind| {
            let mut principal = Principal::new(kind, Arc::clone(&configured.name), configured.actor.clone());
            principal.policies = configured.policies.clone();
            principal.person = Some(Arc::clone(&person));
            Arc::new(principal)
        };
        let (principal, in_session) = (of_kind(Kind::User), of_kind(Kind::Session));
        let hash_kib = hash.memory_kib();
        let application_binding = scoped_binding(&password_digest, SessionScope::Application);
        Self {
            hash,
            hash_kib,
            principal,
            in_session,
            password_digest,
            application_binding,
            keyed_digest: None,
        }
    }

    /// The binding of the user's sessions of a scope.
    pub fn binding(&self, scope: SessionScope) -> &TokenDigest {
        match scope {
            SessionScope::Admin => &self.password_digest,
            SessionScope::Application => &self.application_binding,
        }
    }

    /// Whether this is the plain password that the configuration had when it was hashed.
    fn had(&self, password: &Secret) -> bool {
        self.keyed_digest.is_some_and(|had| keyed_digest(&self.hash, password).as_slice().ct_eq(&had).into())
    }
}

impl Users {
    /// Hashes the plain passwords of the configuration, each of which takes tens of milliseconds.  A user of
    /// `previous` who has the same password keeps the hash, and with it everything that is bound to it.
    ///
    /// At the start every processor is used, at a reload every other one, because Checks are being answered.
    /// Concurrent hashes together stay below a quarter of the memory limit; a single one may need more.
    ///
    /// # Errors
    /// A password cannot be hashed.
    pub(super) fn build(
        users: &[config::ConfiguredUser],
        previous: Option<&Self>,
    ) -> Result<Self, PasswordError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = hashing_threads(processors, previous.is_some(), memory::limit());
        let mut parts: Vec<Vec<&config::ConfiguredUser>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, user) in users.iter().enumerate() {
            parts[index % threads].push(user);
        }
        parts.retain(|part| !part.is_empty());
        let hashed: Vec<_> = std::thread::scope(|scope| {
            let workers = parts.into_iter().map(|part| scope.spawn(move || hash_all(part, previous)));
            let workers: Vec<_> = workers.collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(Err(PasswordError::NotHashed))).collect()
        });
        let mut users = Vec::new();
        for part in hashed {
            users.extend(part?);
        }
        Ok(Self::new(users))
    }

    /// Users, each under the name of its credential.
    pub fn new(users: impl IntoIterator<Item = User>) -> Self {
        let by_name: HashMap<Arc<str>, User> =
            users.into_iter().map(|user| (Arc::clone(&user.principal.name), user)).collect();
        let kind = |(name, user): (&Arc<str>, &User)| HashKind {
            cost: user.hash.cost(),
            memory_kib: user.hash_kib,
            user: Arc::clone(name),
        };
        let mut kinds: Vec<_> = by_name.iter().map(kind).collect();
        kinds.sort_unstable_by_key(|kind| Reverse((kind.cost, kind.memory_kib)));
        kinds.dedup_by_key(|kind| (kind.cost, kind.memory_kib));
        let comparable = by_name.keys().map(|name| comparable_name(name)).collect();
        Self { by_name, comparable, kinds }
    }

    /// The costliest hash within this memory limit: an unknown user must not be answered sooner.
    pub fn costliest_hash(&self, most_kib: u32) -> Option<&PasswordHash> {
        let kind = self.kinds.iter().find(|kind| kind.memory_kib <= most_kib)?;
        self.get(&kind.user).map(|user| &user.hash)
    }

    /// The maximum memory of a verification within this limit, in KiB.
    pub fn most_memory_kib(&self, most_kib: u32) -> u32 {
        let fitting = self.kinds.iter().map(|kind| kind.memory_kib).filter(|&kib| kib <= most_kib);
        fitting.max().unwrap_or(0)
    }

    /// The user of this name.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// Whether a user has this normalised name, in any spelling ([`comparable_name`]).
    pub fn has_normalized(&self, name: &str) -> bool {
        // Of a normalised one in ASCII this is the same.
        if name.is_ascii() {
            self.comparable.contains(name)
        } else {
            self.comparable.contains(&comparable_name(name))
        }
    }

    /// Removes the users whom the others do not have or have with another password.
    pub fn retain_present_in(&mut self, others: &Self) {
        let is_kept = |name: &str, user: &User| {
            others.get(name).is_some_and(|other| other.password_digest == user.password_digest)
        };
        let kept = self.by_name.drain().filter(|(name, user)| is_kept(name, user));
        *self = Self::new(kept.map(|(_, user)| user).collect::<Vec<_>>());
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Every user, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &User)> {
        self.by_name.iter()
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Users({})", self.len())
    }
}

fn hashing_threads(processors: usize, is_reload: bool, memory_limit: u64) -> usize {
    let threads = if is_reload { processors.div_ceil(2) } else { processors };
    let quarter_kib = (memory_limit / 4).saturating_sub(1) / 1024;
    let fitting = usize::try_from(quarter_kib / u64::from(password::NEW_HASH_KIB)).unwrap_or(usize::MAX);
    threads.min(fitting).max(1)
}

fn hash_all(
    users: Vec<&config::ConfiguredUser>,
    previous: Option<&Users>,
) -> Result<Vec<User>, PasswordError> {
    let hashed = users.into_iter().map(|config::ConfiguredUser { password, principal }| match password {
        ConfiguredPassword::Plain(password) => {
            let before = previous.and_then(|users| users.get(&principal.name));
            let (hash, password_digest) = match before.filter(|before| before.had(password)) {
                Some(before) => (before.hash.clone(), before.password_digest),
                None => (PasswordHash::of(password)?, password::fingerprint(&principal.name, password)?),
            };
            let keyed_digest = Some(keyed_digest(&hash, password));
            Ok(User { keyed_digest, ..User::new(hash, password_digest, Arc::clone(principal)) })
        }
        ConfiguredPassword::Hashed(hash) => {
            let password_digest = hash.fingerprint();
            Ok(User::new(hash.clone(), password_digest, Arc::clone(principal)))
        }
    });
    hashed.collect()
}

fn keyed_digest(hash: &PasswordHash, password: &Secret) -> PasswordDigest {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(hash.as_str().as_bytes()).expect("HMAC takes keys of every length");
    mac.update(password.expose().as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashing_at_load_stays_below_a_quarter_of_the_memory_limit() {
        const MIB: u64 = 1024 * 1024;
        for (processors, is_reload, limit, threads) in [
            (1, false, u64::MAX, 1),
            (16, false, u64::MAX, 16),
            (16, true, u64::MAX, 8),
            (3, true, u64::MAX, 2),
            // 19 MiB each.
            (16, false, 256 * MIB, 3),
            (16, true, 256 * MIB, 3),
            (2, false, 256 * MIB, 2),
            (16, false, 128 * MIB, 1),
            (16, false, 4 * 38 * MIB, 1),
            (16, false, 4 * 38 * MIB + 4, 2),
            (16, true, 0, 1),
        ] {
            assert_eq!(
                hashing_threads(processors, is_reload, limit),
                threads,
                "{processors} {is_reload} {limit}"
            );
        }
        assert_eq!(
            PasswordHash::of(&Secret::new("x".to_owned())).unwrap().memory_kib(),
            password::NEW_HASH_KIB
        );
    }
}
