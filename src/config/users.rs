//! The section `users`: who logs in with HTTP Basic.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Map;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::plain;
use super::raw::{Node, Value};
use super::reader::{Fields, Reader};
use super::{Context, actors, is_label};
use crate::actor::Actor;
use crate::credential::{API_KEY_USER, Kind, Principal};
use crate::memory;
use crate::password::{self, PasswordError, PasswordHash};
use crate::secret::Secret;
use crate::token::TokenDigest;

/// The configured users by their names.
#[derive(Default, Clone)]
pub struct Users {
    by_name: HashMap<Arc<str>, User>,
    /// One user of each kind of hash, the dearest first.
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
    /// What the user's sessions are bound to: another password, another digest.
    pub password_digest: TokenDigest,
    /// Tells a reload that a plain password is still the same; `None` where the configuration has its hash.
    mark: Option<Mark>,
}

/// A digest of a plain password under its own stored hash, salt included: nothing without that hash.
type Mark = [u8; 32];

impl User {
    /// A user of this actor.
    pub fn new(hash: PasswordHash, password_digest: TokenDigest, principal: Principal) -> Self {
        let mut in_session =
            Principal::new(Kind::Session, Arc::clone(&principal.name), principal.actor.clone());
        in_session.policies = principal.policies.clone();
        let (principal, in_session) = (Arc::new(principal), Arc::new(in_session));
        let hash_kib = hash.memory_kib();
        Self { hash, hash_kib, principal, in_session, password_digest, mark: None }
    }

    /// Whether this is the plain password that the configuration had when it was hashed.
    fn had(&self, password: &Secret) -> bool {
        self.mark.is_some_and(|had| mark(&self.hash, password).as_slice().ct_eq(&had).into())
    }
}

impl Users {
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
        Self { by_name, kinds }
    }

    /// The hash that takes longest to verify, of those that take this much memory at most: an unknown user must not
    /// be answered sooner.
    pub fn dearest_hash(&self, most_kib: u32) -> Option<&PasswordHash> {
        let kind = self.kinds.iter().find(|kind| kind.memory_kib <= most_kib)?;
        self.get(&kind.user).map(|user| &user.hash)
    }

    /// The most memory that verifying one of these passwords takes, of those that take this much at most, in KiB.
    pub fn most_memory_kib(&self, most_kib: u32) -> u32 {
        let fitting = self.kinds.iter().map(|kind| kind.memory_kib).filter(|&kib| kib <= most_kib);
        fitting.max().unwrap_or(0)
    }

    /// The user of this name.
    pub fn get(&self, name: &str) -> Option<&User> {
        self.by_name.get(name)
    }

    /// Forgets the users whom the others do not have, or have with another password.
    pub fn keep_those_in(&mut self, others: &Self) {
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

/// Users whose passwords are not hashed yet.
pub struct PendingUsers(Vec<PendingUser>);

/// The names of users so far.
#[derive(Default)]
struct Names {
    written: HashSet<Arc<str>>,
    lower_case: HashSet<String>,
}

struct PendingUser {
    password: Password,
    principal: Principal,
}

enum Password {
    Plain(Secret),
    Hashed(PasswordHash),
}

impl PendingUsers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Principal> {
        self.0.iter().map(|user| &user.principal)
    }

    /// Hashes the plain passwords, each of which takes tens of milliseconds; those of users who are in force with
    /// the same password are not hashed anew.
    ///
    /// At a start every processor takes part, at a reload every other one: Checks are being answered.  The hashes at
    /// work stay below a quarter of the memory limit, but for one that alone needs more.
    ///
    /// # Errors
    /// A sentence that says why a password could not be hashed.
    pub fn hash(self, in_force: Option<&Users>) -> Result<Users, String> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = hashing_threads(processors, in_force.is_some(), memory::limit());
        let mut parts: Vec<Vec<PendingUser>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, user) in self.0.into_iter().enumerate() {
            parts[index % threads].push(user);
        }
        parts.retain(|part| !part.is_empty());
        let hashed: Vec<_> = std::thread::scope(|scope| {
            let workers = parts.into_iter().map(|part| scope.spawn(move || hash_all(part, in_force)));
            let workers: Vec<_> = workers.collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(Err(PasswordError::NotHashed))).collect()
        });
        let mut users = Vec::new();
        for part in hashed {
            users.extend(part.map_err(|error| format!("users: {error}"))?);
        }
        Ok(Users::new(users))
    }
}

fn hashing_threads(processors: usize, is_reload: bool, memory_limit: u64) -> usize {
    let threads = if is_reload { processors.div_ceil(2) } else { processors };
    let quarter_kib = (memory_limit / 4).saturating_sub(1) / 1024;
    let fitting = usize::try_from(quarter_kib / u64::from(password::NEW_HASH_KIB)).unwrap_or(usize::MAX);
    threads.min(fitting).max(1)
}

fn hash_all(users: Vec<PendingUser>, in_force: Option<&Users>) -> Result<Vec<User>, PasswordError> {
    let hashed = users.into_iter().map(|PendingUser { password, principal }| match password {
        Password::Plain(password) => {
            let before = in_force.and_then(|users| users.get(&principal.name));
            let (hash, password_digest) = match before.filter(|before| before.had(&password)) {
                Some(before) => (before.hash.clone(), before.password_digest),
                None => (PasswordHash::of(&password)?, password::fingerprint(&principal.name, &password)?),
            };
            let mark = Some(mark(&hash, &password));
            Ok(User { mark, ..User::new(hash, password_digest, principal) })
        }
        Password::Hashed(hash) => {
            let password_digest = hash.fingerprint();
            Ok(User::new(hash, password_digest, principal))
        }
    });
    hashed.collect()
}

fn mark(hash: &PasswordHash, password: &Secret) -> Mark {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(hash.as_str().as_bytes()).expect("HMAC takes keys of every length");
    mac.update(password.expose().as_bytes());
    mac.finalize().into_bytes().into()
}

const USER: [&str; 5] = ["username", "password", "password_hash", "actor", "policies"];

/// Reads the section.  `is_tried` says of an Admin's actor whether strangers can try its password.
pub fn read<'t>(
    reader: &mut Reader<'t>,
    section: Option<&'t Node>,
    context: &Context<'_>,
    is_tried: &dyn Fn(&Actor) -> bool,
) -> PendingUsers {
    let what = "a list of users such as [{username: admin, password: {$env: ADMIN_PASSWORD}}]";
    let list = section.and_then(|node| reader.list(node, what)).unwrap_or_default();
    let mut names = Names::default();
    let mut users = Vec::with_capacity(list.len());
    for node in list {
        let what = "a user such as {username: admin, password: {$env: ADMIN_PASSWORD}}";
        let Some(fields) = reader.fields(node, what, &USER) else {
            continue;
        };
        let name = read_name(reader, fields, &mut names);
        // Each is read before any is given up, so that everything that is wrong is told.
        let password = read_password(reader, fields);
        let policies = actors::read_restriction(reader, fields.get("policies"), context);
        let actor = match (fields.get("actor"), &name) {
            (Some(node), _) => actors::read(reader, node, context),
            (None, Some(name)) => default_actor(name),
            (None, None) => None,
        };
        if let (Some(node), Some(actor)) = (fields.get("username"), &actor)
            && is_tried(actor)
        {
            reader.warn(
                &node.at,
                "whoever reaches the gateway can try this Admin's password: leave `basic` out of `credentials`, \
                 which the admin listener does not need",
            );
        }
        if let (Some(name), Some(password), Some(actor)) = (name, password, actor) {
            let mut principal = Principal::new(Kind::User, Arc::clone(&name), actor);
            principal.policies = policies;
            users.push(PendingUser { password, principal });
        }
    }
    PendingUsers(users)
}

fn read_name<'t>(reader: &mut Reader<'t>, fields: Fields<'t>, names: &mut Names) -> Option<Arc<str>> {
    let Some(node) = fields.get("username") else {
        reader.error(fields.at, "a user needs a `username`");
        return None;
    };
    let text = reader.text(node, "text: a user name")?;
    let problem = match text.as_str() {
        API_KEY_USER => "the user name `api_key` is taken: its password is a token",
        // RFC 7617 section 2: the first colon ends the user name.
        name if name.contains(':') => "a user name cannot hold a colon: HTTP Basic ends it there",
        name if !is_label(name) => "a user name has 1 to 190 printable characters without blanks at the ends",
        _ => "",
    };
    if !problem.is_empty() {
        reader.error(&node.at, problem);
        return None;
    }
    let name: Arc<str> = text.as_str().into();
    if !names.written.insert(Arc::clone(&name)) {
        reader.error(&node.at, "an earlier user has this name; user names are unique");
        return None;
    }
    if !names.lower_case.insert(name.to_lowercase()) {
        reader.warn(
            &node.at,
            "an earlier user's name differs from this one in case only: these are two users, and people will take \
             one for the other",
        );
    }
    Some(name)
}

fn read_password<'t>(reader: &mut Reader<'t>, fields: Fields<'t>) -> Option<Password> {
    match (fields.get("password"), fields.get("password_hash")) {
        (Some(node), None) => {
            let text = reader.text(node, "text: a password, best by {$env: NAME} or {$file: PATH}")?;
            if text.as_str().is_empty() {
                reader.error(&node.at, "a password has at least one character");
                return None;
            }
            if plain::rejects_reference(reader, node, text) {
                return None;
            }
            let user = fields.get("username").and_then(|node| match &node.value {
                Value::Text(name) => Some(name.as_str()),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::List(_)
                | Value::Map(_)
                | Value::Unresolved { .. } => None,
            });
            plain::warn_of_placeholder(reader, node, text, user.as_slice());
            plain::warn_of_short_password(reader, node, text);
            Some(Password::Plain(Secret::new(text.as_str().to_owned())))
        }
        (None, Some(node)) => {
            let text = reader.text(node, "text: a password hash of argon2id (a PHC string) or bcrypt")?;
            if plain::rejects_reference(reader, node, text) {
                return None;
            }
            match PasswordHash::parse(text.as_str()) {
                Ok(hash) => {
                    if hash.is_dear() {
                        reader.warn(
                            &node.at,
                            "each log-in with this hash takes more than 64 MiB, or longer than bcrypt's cost 13: \
                             strangers can make the server verify passwords",
                        );
                    }
                    Some(Password::Hashed(hash))
                }
                Err(error) => {
                    reader.error(&node.at, format!("{error}; `envoy-auth-tokens password` makes one"));
                    None
                }
            }
        }
        (None, None) => {
            reader.error(
                fields.at,
                "a user needs a `password` (best by {$env: NAME} or {$file: PATH}) or a `password_hash`",
            );
            None
        }
        (Some(_), Some(_)) => {
            reader.error(fields.at, "a user has a `password` or a `password_hash`, not both");
            None
        }
    }
}

/// `{id: <username>}`
fn default_actor(name: &str) -> Option<Actor> {
    let members = Map::from_iter([("id".to_owned(), name.into())]);
    // A user name has no colon, so its id cannot begin with `key:`.
    Actor::configured(members).ok()
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
