//! The index: every stored digest, for the Check path to look up without a lock.
//!
//! Readers never wait.  One writer at a time changes the entries of what changed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;

use super::sessions::Session;
use super::store::Contents;
use super::usage::{LastUse, Used};
use super::{Role, StoredKey, StoredSession};
use crate::actor::Actor;
use crate::credential::{Kind, PolicyNames, Principal, has_expired};
use crate::token::TokenDigest;

type ById = HashMap<i64, Arc<IndexEntry>, foldhash::fast::RandomState>;
type Digests<T> = papaya::HashMap<TokenDigest, Arc<T>, foldhash::fast::RandomState>;

/// What the index knows of a token's digest.
#[derive(Debug)]
pub enum KeyLookup {
    /// It belongs to no key.
    Unknown,
    /// The key has expired, or the secret was replaced and its overlap is over.
    Expired,
    /// The key is revoked.
    Revoked,
    /// The key is live.
    Live(Arc<Principal>),
}

/// A key in the index: small, because there may be a million.
///
/// Its principal is made at the first use, and kept.
struct IndexEntry {
    id: i64,
    name: Box<str>,
    role: Role,
    revoked: bool,
    expires_at: Option<Timestamp>,
    digest: TokenDigest,
    optional: Option<Box<OptionalFields>>,
    last_use: Arc<LastUse>,
    principal: OnceLock<Arc<Principal>>,
}

/// The fields that most keys do not have.
#[derive(PartialEq)]
struct OptionalFields {
    actor: Map<String, Value>,
    policies: Option<PolicyNames>,
    previous: Option<(TokenDigest, Timestamp)>,
}

impl IndexEntry {
    fn new(stored: StoredKey, last_use: Arc<LastUse>) -> Self {
        let StoredKey { key, digest, previous } = stored;
        let policies = key.policies.map(|names| names.into_iter().map(Arc::from).collect());
        let optional = OptionalFields { actor: key.actor, policies, previous };
        let is_empty =
            optional.actor.is_empty() && optional.policies.is_none() && optional.previous.is_none();
        Self {
            id: key.id,
            name: key.name.into_boxed_str(),
            role: key.role,
            revoked: key.revoked_at.is_some(),
            expires_at: key.expires_at,
            digest,
            optional: (!is_empty).then(|| Box::new(optional)),
            last_use,
            principal: OnceLock::new(),
        }
    }

    fn previous(&self) -> Option<(TokenDigest, Timestamp)> {
        self.optional.as_ref().and_then(|optional| optional.previous)
    }

    fn digests(&self) -> impl Iterator<Item = TokenDigest> {
        [Some(self.digest), self.previous().map(|(digest, _)| digest)].into_iter().flatten()
    }

    /// Whether the two differ in nothing but their last use.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.role == other.role
            && self.revoked == other.revoked
            && self.expires_at == other.expires_at
            && self.digest == other.digest
            && self.optional == other.optional
    }

    fn principal(&self) -> &Arc<Principal> {
        self.principal.get_or_init(|| {
            let none = Map::new();
            let own = self.optional.as_ref().map_or(&none, |optional| &optional.actor);
            let actor = Actor::of_key(&self.name, self.role.as_str(), self.id, own);
            let mut principal = Principal::new(Kind::Key, Arc::from(&*self.name), actor);
            principal.id = Some(self.id);
            principal.policies = self.optional.as_ref().and_then(|optional| optional.policies.clone());
            principal.expires_at = self.expires_at;
            Arc::new(principal)
        })
    }

    /// What this digest of the key is now; `None` when it is no digest of it.
    fn find(&self, digest: &TokenDigest, now: Timestamp) -> Option<KeyLookup> {
        let until = match self.previous() {
            _ if self.digest == *digest => None,
            Some((previous, until)) if previous == *digest => Some(until),
            // A writer replaced the entry under this digest in the meantime.
            _ => return None,
        };
        Some(if self.revoked {
            KeyLookup::Revoked
        } else if has_expired(self.expires_at, now) || has_expired(until, now) {
            KeyLookup::Expired
        } else {
            KeyLookup::Live(Arc::clone(self.principal()))
        })
    }
}

/// Every stored digest.
pub struct Index {
    keys: Digests<IndexEntry>,
    sessions: Digests<Session>,
    /// The entry of each key, for writers.  Its lock is the writers' lock.
    by_id: Mutex<ById>,
    held: AtomicUsize,
    used: UnboundedSender<Used>,
}

impl Index {
    /// An empty index that sends the entries whose use is to be written.
    pub fn new(used: UnboundedSender<Used>) -> Self {
        let (keys, sessions) = (Digests::default(), Digests::default());
        Self { keys, sessions, by_id: Mutex::default(), held: AtomicUsize::new(0), used }
    }

    /// What is known of a digest at this instant.  A live key counts as used.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        let keys = self.keys.pin();
        let Some(entry) = keys.get(digest) else {
            return KeyLookup::Unknown;
        };
        let lookup = entry.find(digest, now).unwrap_or(KeyLookup::Unknown);
        if matches!(lookup, KeyLookup::Live(_)) && entry.last_use.record(now.as_second()) {
            // The receiver lives as long as the index does: there is no error.
            let _ = self.used.send(Used::Key(entry.id, Arc::clone(&entry.last_use)));
        }
        lookup
    }

    /// The live session of a digest.  It counts as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        let session = Arc::clone(self.sessions.pin().get(digest)?);
        if !session.is_live(now) {
            return None;
        }
        if session.last_use().record(now.as_second()) {
            let _ = self.used.send(Used::Session(*digest, Arc::clone(session.last_use())));
        }
        Some(session)
    }

    /// The number of keys, dead ones included.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// When the next live key expires.  Looks at every key.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let keys = self.keys.pin();
        let not_revoked = keys.values().filter(|entry| !entry.revoked);
        not_revoked.filter_map(|entry| entry.expires_at).filter(|&expires_at| expires_at > now).min()
    }

    /// Inserts a key, or replaces it.
    pub fn put(&self, stored: StoredKey) {
        self.put_locked(&mut self.lock(), stored);
    }

    /// Removes a key.
    pub fn remove(&self, id: i64) {
        self.remove_locked(&mut self.lock(), id);
    }

    /// Inserts a session, or replaces it.
    pub fn put_session(&self, stored: StoredSession) {
        let sessions = self.sessions.pin();
        if let Some(session) = sessions.get(&stored.digest)
            && session.is_same(&stored)
        {
            session.last_use().written_elsewhere(stored.last_used_at);
            return;
        }
        sessions.insert(stored.digest, Arc::new(stored.into()));
    }

    /// Removes a session.
    pub fn remove_session(&self, digest: &TokenDigest) {
        self.sessions.pin().remove(digest);
    }

    /// Replaces everything.  Entries that stay the same are kept.
    pub fn replace(&self, contents: Contents) {
        let mut by_id = self.lock();
        if by_id.is_empty() {
            let count = contents.keys.iter().map(Vec::len).sum();
            by_id.reserve(count);
            self.keys.pin().reserve(count);
        } else {
            let existing: HashSet<i64, foldhash::fast::RandomState> =
                contents.keys.iter().flatten().map(|stored| stored.key.id).collect();
            let gone: Vec<i64> = by_id.keys().copied().filter(|id| !existing.contains(id)).collect();
            for id in gone {
                self.remove_locked(&mut by_id, id);
            }
        }
        for stored in contents.keys.into_iter().flatten() {
            self.put_locked(&mut by_id, stored);
        }
        drop(by_id);

        let existing: HashSet<TokenDigest> = contents.sessions.iter().map(|session| session.digest).collect();
        self.sessions.pin().retain(|digest, _| existing.contains(digest));
        for session in contents.sessions {
            self.put_session(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        // A panic leaves no entry half written, because an entry is swapped in whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_locked(&self, by_id: &mut ById, stored: StoredKey) {
        let id = stored.key.id;
        let before = by_id.get(&id).map(Arc::clone);
        let last_use = match &before {
            Some(before) => Arc::clone(&before.last_use),
            None => Arc::new(LastUse::new(stored.key.last_used_at)),
        };
        let after = Arc::new(IndexEntry::new(stored, last_use));
        if before.as_ref().is_some_and(|before| before.is_same(&after)) {
            // The principal stays the same, and with it the answer that is encoded for it.
            return;
        }
        let keys = self.keys.pin();
        for digest in after.digests() {
            keys.insert(digest, Arc::clone(&after));
        }
        // After the insertion, so that a secret that goes on working is never unknown in between.
        for digest in before.iter().flat_map(|before| before.digests()) {
            let _ = keys.remove_if(&digest, |_, entry| entry.id == id && !Arc::ptr_eq(entry, &after));
        }
        by_id.insert(id, after);
        self.held.store(by_id.len(), Ordering::Relaxed);
    }

    fn remove_locked(&self, by_id: &mut ById, id: i64) {
        let Some(before) = by_id.remove(&id) else {
            return;
        };
        self.held.store(by_id.len(), Ordering::Relaxed);
        let keys = self.keys.pin();
        for digest in before.digests() {
            let _ = keys.remove_if(&digest, |_, entry| entry.id == id);
        }
    }
}
