//! The index: every stored digest, for the Check path to look up without a lock; and whether a digest is live, expired
//! (a replaced secret: its overlap is over) or revoked; and every record of a person.
//!
//! Readers never wait.  One writer at a time changes the entries of what changed.

mod people;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;

use self::people::People;
use super::known_dead::KnownDead;
use super::people::PersonRecord;
use super::sessions::Session;
use super::store::source::{ChangePage, KeyPage, PersonPage};
use super::usage::{LastUse, Used};
use super::{Role, Status, StoredKey, StoredPerson, StoredSession};
use crate::actor::Actor;
use crate::credential::{Kind, PolicyNames, Principal, has_expired};
use crate::person::{PersonId, PersonSource};
use crate::token::TokenDigest;

/// In order, so that a page of keys shows which of them are gone; and a tree, which never moves all entries at once.
type ById = BTreeMap<i64, Arc<IndexEntry>>;
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
    fn status(&self, digest: &TokenDigest, now: Timestamp) -> Option<Status> {
        let until = match self.previous() {
            _ if self.digest == *digest => None,
            Some((previous, until)) if previous == *digest => Some(until),
            // A writer replaced the entry under this digest in the meantime.
            _ => return None,
        };
        Some(if self.revoked {
            Status::Revoked
        } else if has_expired(self.expires_at, now) || has_expired(until, now) {
            Status::Expired
        } else {
            Status::Live
        })
    }

    /// The same, with the principal of a live key.
    fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        match self.status(digest, now) {
            None => KeyLookup::Unknown,
            Some(Status::Revoked) => KeyLookup::Revoked,
            Some(Status::Expired) => KeyLookup::Expired,
            Some(Status::Live) => KeyLookup::Live(Arc::clone(self.principal())),
        }
    }
}

/// Every stored digest, and every record of a person.
pub struct Index {
    keys: Digests<IndexEntry>,
    sessions: Digests<Session>,
    people: People,
    /// The entry of each key, for writers.  Its lock is the writers' lock.
    by_id: Mutex<ById>,
    held: AtomicUsize,
    known_dead: KnownDead,
    used: UnboundedSender<Used>,
}

/// Why an entry changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Somebody changed the key: what it loses is dead.
    Change,
    /// A reading of everything found it so.
    Reading,
}

impl Index {
    /// An empty index that sends the entries whose use is to be written.
    pub fn new(used: UnboundedSender<Used>) -> Self {
        let (keys, sessions, people) = (Digests::default(), Digests::default(), People::default());
        let (by_id, held, known_dead) = (Mutex::default(), AtomicUsize::new(0), KnownDead::default());
        Self { keys, sessions, people, by_id, held, known_dead, used }
    }

    /// What is known of a digest at this instant.  A live key counts as used.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        let keys = self.keys.pin();
        let Some(entry) = keys.get(digest) else {
            return KeyLookup::Unknown;
        };
        let mut lookup = entry.find(digest, now);
        if matches!(lookup, KeyLookup::Live(_)) && self.known_dead.is_denied(digest) {
            lookup = KeyLookup::Revoked;
        }
        if matches!(lookup, KeyLookup::Live(_)) && entry.last_use.record(now.as_second()) {
            // The receiver lives as long as the index does: there is no error.
            let _ = self.used.send(Used::Key(entry.id, Arc::clone(&entry.last_use)));
        }
        lookup
    }

    /// The live session of a digest.  It counts as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        let session = Arc::clone(self.sessions.pin().get(digest)?);
        if !session.is_live(now) || self.known_dead.is_denied(digest) {
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

    /// Inserts a key that somebody created or changed, or replaces it.
    pub fn put(&self, stored: StoredKey) {
        self.put_locked(&mut self.lock(), stored, Cause::Change);
    }

    /// Removes a key that somebody deleted.
    pub fn remove(&self, id: i64) {
        self.remove_locked(&mut self.lock(), id, Cause::Change);
    }

    /// Inserts a session, or replaces it.
    pub fn put_session(&self, stored: StoredSession) {
        let sessions = self.sessions.pin();
        let before = sessions.get(&stored.digest);
        if let Some(session) = before
            && session.is_same(&stored)
        {
            session.last_use().written_elsewhere(stored.last_used_at);
            return;
        }
        let digest = stored.digest;
        sessions.insert(digest, Arc::new(Session::new(stored, before.map(|before| &**before))));
    }

    /// Removes a session that ended.
    pub fn remove_session(&self, digest: &TokenDigest) {
        if self.sessions.pin().remove(digest).is_some() {
            self.known_dead.remember(*digest);
        }
    }

    /// The record of a person.
    pub fn find_person(&self, person: &PersonId) -> Option<Arc<PersonRecord>> {
        self.people.find(person)
    }

    /// The people of such sources who have not ended.
    pub fn people(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<PersonId> {
        self.people.not_ended(is_source)
    }

    /// The session of a digest, dead or alive.  It does not count as used.
    pub fn session(&self, digest: &TokenDigest) -> Option<Arc<Session>> {
        self.sessions.pin().get(digest).map(Arc::clone)
    }

    /// The sessions of such sources, dead or alive.  Looks at every session.
    pub fn sessions_of(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<(TokenDigest, Arc<Session>)> {
        let sessions = self.sessions.pin();
        let of_source = sessions.iter().filter(|(_, session)| is_source(&session.person.source));
        of_source.map(|(digest, session)| (*digest, Arc::clone(session))).collect()
    }

    /// The digests of a person's sessions, dead or alive.  Looks at every session.
    pub fn sessions_of_person(&self, person: &PersonId) -> Vec<TokenDigest> {
        let sessions = self.sessions.pin();
        let of_person = sessions.iter().filter(|(_, session)| session.person == *person);
        of_person.map(|(digest, _)| *digest).collect()
    }

    /// Inserts the record of a person, or replaces it.
    pub fn put_person(&self, id: i64, stored: StoredPerson) {
        self.people.put(id, stored);
    }

    /// Removes the record of a person.
    pub fn remove_person(&self, id: i64) {
        self.people.remove(id);
    }

    /// Takes over a page of changes.
    pub fn apply_changes(&self, page: ChangePage) {
        for stored in page.keys {
            self.put(stored);
        }
        for id in page.deleted_keys {
            self.remove(id);
        }
        for session in page.sessions {
            self.put_session(session);
        }
        for digest in page.deleted_sessions {
            self.remove_session(&digest);
        }
        for (id, person) in page.people {
            self.put_person(id, person);
        }
        for id in page.deleted_people {
            self.remove_person(id);
        }
    }

    /// Takes over a page of all people: those whose records have an id above `after`, up to where the page ends.
    pub fn apply_people(&self, after: i64, page: PersonPage) {
        self.people.apply(after, page);
    }

    /// Takes over a page of all keys: those with an id above `after`, up to where the page ends.  Entries that stay the
    /// same are kept.
    pub fn apply_keys(&self, after: i64, page: KeyPage) {
        let mut by_id = self.lock();
        let covered = (Bound::Excluded(after), page.next.map_or(Bound::Unbounded, Bound::Included));
        let existing: HashSet<i64> = page.keys.iter().map(|stored| stored.key.id).collect();
        let gone: Vec<i64> =
            by_id.range(covered).map(|(id, _)| *id).filter(|id| !existing.contains(id)).collect();
        for id in gone {
            self.remove_locked(&mut by_id, id, Cause::Reading);
        }
        for stored in page.keys {
            self.put_locked(&mut by_id, stored, Cause::Reading);
        }
    }

    /// Removes the sessions that a reading of all did not find.
    pub fn retain_sessions(&self, existing: &HashSet<TokenDigest>) {
        self.sessions.pin().retain(|digest, _| existing.contains(digest));
    }

    /// Denies from now on, whatever the store says, what is dead at this instant.
    pub fn deny_dead(&self, now: Timestamp) {
        let keys = self.keys.pin();
        let is_dead =
            |digest: &TokenDigest, entry: &IndexEntry| entry.status(digest, now) != Some(Status::Live);
        let dead = keys.iter().filter(|(digest, entry)| is_dead(digest, entry)).map(|(digest, _)| *digest);
        self.known_dead.deny(dead);
    }

    /// Of what is denied whatever the store says, denies only what the store takes for live.  Returns the names of at
    /// most `max_names` such keys, and the number of all.
    pub fn retain_denied_but_live(&self, now: Timestamp, max_names: usize) -> (Vec<Box<str>>, usize) {
        let (keys, sessions) = (self.keys.pin(), self.sessions.pin());
        let mut names = Vec::new();
        self.known_dead.retain(|digest| match keys.get(digest) {
            Some(entry) if entry.status(digest, now) == Some(Status::Live) => {
                if names.len() < max_names {
                    names.push(entry.name.clone());
                }
                true
            }
            Some(_) => false,
            None => sessions.get(digest).is_some_and(|session| session.is_live(now)),
        });
        (names, self.known_dead.denied_len())
    }

    /// Denies nothing any more that the store takes for live.
    pub fn accept_history(&self) {
        self.known_dead.retain(|_| false);
    }

    /// The number of digests that are denied although the store takes them for live.
    pub fn denied_len(&self) -> usize {
        self.known_dead.denied_len()
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        // A panic leaves no entry half written, because an entry is swapped in whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_locked(&self, by_id: &mut ById, stored: StoredKey, cause: Cause) {
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
            let removed = keys.remove_if(&digest, |_, entry| entry.id == id && !Arc::ptr_eq(entry, &after));
            if cause == Cause::Change && matches!(removed, Ok(Some(_))) {
                self.known_dead.remember(digest);
            }
        }
        by_id.insert(id, after);
        self.held.store(by_id.len(), Ordering::Relaxed);
    }

    fn remove_locked(&self, by_id: &mut ById, id: i64, cause: Cause) {
        let Some(before) = by_id.remove(&id) else {
            return;
        };
        self.held.store(by_id.len(), Ordering::Relaxed);
        let keys = self.keys.pin();
        for digest in before.digests() {
            let removed = keys.remove_if(&digest, |_, entry| entry.id == id);
            if cause == Cause::Change && matches!(removed, Ok(Some(_))) {
                self.known_dead.remember(digest);
            }
        }
    }
}
