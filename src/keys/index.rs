//! The index: every stored digest, for the Check path to look up without a lock.
//!
//! Readers never wait.  Whoever writes touches the entries of what changed, one writer at a time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::mpsc::UnboundedSender;

use super::store::Snapshot;
use super::{Role, StoredKey, StoredSession};
use crate::actor::Actor;
use crate::credential::{Kind, PolicyNames, Principal};
use crate::token::TokenDigest;

/// A session that nobody uses is dead after this long.
pub const SESSION_IDLE: SignedDuration = SignedDuration::from_hours(24);
/// A session is dead after this long, however much it is used.
pub const SESSION_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Live sessions that one user may have; one more ends the oldest.
pub const SESSIONS_PER_USER: u32 = 100;
/// A use is written down at most this often, in seconds.
const NOTE_EVERY: i64 = 60;

type ById = HashMap<i64, Arc<IndexEntry>, foldhash::fast::RandomState>;
type Digests<T> = papaya::HashMap<TokenDigest, Arc<T>, foldhash::fast::RandomState>;

/// What a token's digest is, of those that we issued.
#[derive(Debug)]
pub enum KeyLookup {
    /// None of ours.
    Unknown,
    /// A key's whose time is over, or one that was replaced and whose overlap is over.
    Expired,
    /// A key's that somebody revoked.
    Revoked,
    /// A key's that works.
    Live(Arc<Principal>),
}

/// Something that was used and whose use is to be written down.
#[derive(Debug)]
pub enum Note {
    /// A key, by its id.
    Key(i64, Arc<Use>),
    /// A session, by its digest.
    Session(TokenDigest, Arc<Session>),
}

/// When something was last used, in seconds since 1970.
#[derive(Debug)]
pub struct Use {
    last: AtomicI64,
    written: AtomicI64,
    /// A note is on its way to whoever writes.
    noted: AtomicBool,
}

impl Use {
    fn new(last_used_at: Option<Timestamp>) -> Arc<Self> {
        let last = last_used_at.map_or(i64::MIN, Timestamp::as_second);
        Arc::new(Self {
            last: AtomicI64::new(last),
            written: AtomicI64::new(last),
            noted: AtomicBool::new(false),
        })
    }

    /// Notes a use; true when it is time to write it down and nobody has been told so.
    fn note(&self, now: i64) -> bool {
        // A key in heavy use shares this line among all cores: it is written once a second.
        if self.last.load(Ordering::Relaxed) < now {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
        now.saturating_sub(self.written.load(Ordering::Relaxed)) >= NOTE_EVERY
            && !self.noted.load(Ordering::Relaxed)
            && !self.noted.swap(true, Ordering::AcqRel)
    }

    /// The last use.
    pub fn last(&self) -> Timestamp {
        Timestamp::from_second(self.last.load(Ordering::Relaxed)).unwrap_or(Timestamp::MIN)
    }

    /// The use of this instant is written down.
    pub fn wrote(&self, at: Timestamp) {
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
        self.noted.store(false, Ordering::Release);
    }

    /// Somebody else has seen a use and written it down.
    fn learn(&self, at: Timestamp) {
        self.last.fetch_max(at.as_second(), Ordering::Relaxed);
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
    }
}

/// A session of a user who logged in.
#[derive(Debug)]
pub struct Session {
    /// The user's name in the configuration.
    pub user: Box<str>,
    /// Binds it to the password that opened it: the SHA-256 of the stored password hash.
    pub password_digest: TokenDigest,
    /// When it was opened.
    pub created_at: Timestamp,
    used: Use,
}

impl Session {
    /// When it was last used, as far as this replica knows.
    pub fn last_used_at(&self) -> Timestamp {
        self.used.last()
    }

    /// Its use, to be written down.
    pub fn used(&self) -> &Use {
        &self.used
    }

    fn is_live(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.created_at);
        let idle = now.duration_since(self.last_used_at());
        age < SESSION_LIFE && idle < SESSION_IDLE
    }
}

/// A key as it is held: small, because there may be a million.
///
/// What the door needs of a key is made at its first use, and kept.
struct IndexEntry {
    id: i64,
    name: Box<str>,
    role: Role,
    revoked: bool,
    expires_at: Option<Timestamp>,
    digest: TokenDigest,
    extra: Option<Box<Extra>>,
    used: Arc<Use>,
    principal: OnceLock<Arc<Principal>>,
}

/// What most keys do not have.
#[derive(PartialEq)]
struct Extra {
    actor: Map<String, Value>,
    policies: Option<PolicyNames>,
    previous: Option<(TokenDigest, Timestamp)>,
}

impl IndexEntry {
    fn new(stored: StoredKey, used: Arc<Use>) -> Self {
        let StoredKey { key, digest, previous } = stored;
        let policies = key.policies.map(|names| names.into_iter().map(Arc::from).collect());
        let extra = Extra { actor: key.actor, policies, previous };
        let plain = extra.actor.is_empty() && extra.policies.is_none() && extra.previous.is_none();
        Self {
            id: key.id,
            name: key.name.into_boxed_str(),
            role: key.role,
            revoked: key.revoked_at.is_some(),
            expires_at: key.expires_at,
            digest,
            extra: (!plain).then(|| Box::new(extra)),
            used,
            principal: OnceLock::new(),
        }
    }

    fn previous(&self) -> Option<(TokenDigest, Timestamp)> {
        self.extra.as_ref().and_then(|extra| extra.previous)
    }

    fn digests(&self) -> impl Iterator<Item = TokenDigest> {
        [Some(self.digest), self.previous().map(|(digest, _)| digest)].into_iter().flatten()
    }

    /// Whether nothing of what is held differs.
    fn is_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.role == other.role
            && self.revoked == other.revoked
            && self.expires_at == other.expires_at
            && self.digest == other.digest
            && self.extra == other.extra
    }

    fn principal(&self) -> &Arc<Principal> {
        self.principal.get_or_init(|| {
            let none = Map::new();
            let own = self.extra.as_ref().map_or(&none, |extra| &extra.actor);
            let actor = Actor::of_key(&self.name, self.role.as_str(), self.id, own);
            let mut principal = Principal::new(Kind::Key, Arc::from(&*self.name), actor);
            principal.id = Some(self.id);
            principal.policies = self.extra.as_ref().and_then(|extra| extra.policies.clone());
            principal.expires_at = self.expires_at;
            Arc::new(principal)
        })
    }

    /// What this digest of the key is now.
    fn find(&self, digest: &TokenDigest, now: Timestamp) -> Option<KeyLookup> {
        let until = match self.previous() {
            _ if self.digest == *digest => None,
            Some((previous, until)) if previous == *digest => Some(until),
            // It was changed between two looks at it.
            _ => return None,
        };
        let over = |instant: Option<Timestamp>| instant.is_some_and(|instant| now >= instant);
        Some(if self.revoked {
            KeyLookup::Revoked
        } else if over(self.expires_at) || over(until) {
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
    /// For whoever writes: which entries a key has.  Its lock is the writers' lock.
    by_id: Mutex<ById>,
    held: AtomicUsize,
    notes: UnboundedSender<Note>,
}

impl Index {
    /// An empty index that tells of uses here.
    pub fn new(notes: UnboundedSender<Note>) -> Self {
        let (keys, sessions) = (Digests::default(), Digests::default());
        Self { keys, sessions, by_id: Mutex::default(), held: AtomicUsize::new(0), notes }
    }

    /// What a digest is at this instant.  A key that works is noted as used.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        let keys = self.keys.pin();
        let Some(held) = keys.get(digest) else {
            return KeyLookup::Unknown;
        };
        let found = held.find(digest, now).unwrap_or(KeyLookup::Unknown);
        if matches!(found, KeyLookup::Live(_)) && held.used.note(now.as_second()) {
            // An error would mean that nobody writes uses down any more: then there is nothing to tell.
            let _ = self.notes.send(Note::Key(held.id, Arc::clone(&held.used)));
        }
        found
    }

    /// The live session of a digest.  It is noted as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        let session = Arc::clone(self.sessions.pin().get(digest)?);
        if !session.is_live(now) {
            return None;
        }
        if session.used.note(now.as_second()) {
            let _ = self.notes.send(Note::Session(*digest, Arc::clone(&session)));
        }
        Some(session)
    }

    /// How many keys there are.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// When the next key expires of those that are alive.  It looks at each.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let keys = self.keys.pin();
        let alive = keys.values().filter(|held| !held.revoked);
        alive.filter_map(|held| held.expires_at).filter(|&expires_at| expires_at > now).min()
    }

    /// Takes a key over as it is now.
    pub fn put(&self, stored: StoredKey) {
        self.put_locked(&mut self.write(), stored);
    }

    /// Forgets a key.
    pub fn remove(&self, id: i64) {
        self.remove_locked(&mut self.write(), id);
    }

    /// Takes a session over as it is now.
    pub fn put_session(&self, stored: StoredSession) {
        let sessions = self.sessions.pin();
        if let Some(held) = sessions.get(&stored.digest)
            && *held.user == *stored.user
            && held.password_digest == stored.password_digest
            && held.created_at == stored.created_at
        {
            held.used.learn(stored.last_used_at);
            return;
        }
        let last = stored.last_used_at.as_second();
        let session = Session {
            user: stored.user.into_boxed_str(),
            password_digest: stored.password_digest,
            created_at: stored.created_at,
            used: Use {
                last: AtomicI64::new(last),
                written: AtomicI64::new(last),
                noted: AtomicBool::new(false),
            },
        };
        sessions.insert(stored.digest, Arc::new(session));
    }

    /// Forgets a session.
    pub fn remove_session(&self, digest: &TokenDigest) {
        self.sessions.pin().remove(digest);
    }

    /// Takes everything over as it is now.  What stays the same is not touched.
    pub fn replace(&self, snapshot: Snapshot) {
        let mut by_id = self.write();
        if by_id.is_empty() {
            let coming = snapshot.keys.iter().map(Vec::len).sum();
            by_id.reserve(coming);
            self.keys.pin().reserve(coming);
        } else {
            let here: HashSet<i64, foldhash::fast::RandomState> =
                snapshot.keys.iter().flatten().map(|stored| stored.key.id).collect();
            let gone: Vec<i64> = by_id.keys().copied().filter(|id| !here.contains(id)).collect();
            for id in gone {
                self.remove_locked(&mut by_id, id);
            }
        }
        for stored in snapshot.keys.into_iter().flatten() {
            self.put_locked(&mut by_id, stored);
        }
        drop(by_id);

        let open: HashSet<TokenDigest> = snapshot.sessions.iter().map(|session| session.digest).collect();
        self.sessions.pin().retain(|digest, _| open.contains(digest));
        for session in snapshot.sessions {
            self.put_session(session);
        }
    }

    fn write(&self) -> MutexGuard<'_, ById> {
        // Whoever panicked left no entry half written: each is swapped in whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_locked(&self, by_id: &mut ById, stored: StoredKey) {
        let id = stored.key.id;
        let before = by_id.get(&id).map(Arc::clone);
        let used = match &before {
            Some(before) => Arc::clone(&before.used),
            None => Use::new(stored.key.last_used_at),
        };
        let held = Arc::new(IndexEntry::new(stored, used));
        if before.as_ref().is_some_and(|before| before.is_as(&held)) {
            // The answer that the door has encoded for it stays, too.
            return;
        }
        let keys = self.keys.pin();
        for digest in held.digests() {
            keys.insert(digest, Arc::clone(&held));
        }
        // Only now: a secret that goes on working is never unknown in between.
        for digest in before.iter().flat_map(|before| before.digests()) {
            let _ = keys.remove_if(&digest, |_, entry| entry.id == id && !Arc::ptr_eq(entry, &held));
        }
        by_id.insert(id, held);
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
