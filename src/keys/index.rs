//! The index: every stored digest, for the Check path to look up without a lock; and whether a digest is live, expired
//! (a replaced secret: its overlap is over), disabled or revoked; every service account; and every record of a person.
//!
//! Readers never wait.  One writer at a time replaces the changed entries.

mod accounts;
mod entry;
mod people;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use self::accounts::Accounts;
use self::entry::IndexEntry;
use self::people::People;
use super::known_dead::KnownDead;
use super::people::PersonRecord;
use super::sessions::Session;
use super::store::source::{AccountPage, ChangePage, KeyPage, PersonPage};
use super::usage::{LastUse, Used};
use super::{Account, Status, StoredKey, StoredPerson, StoredSession, WhyDenied};
use crate::credential::Principal;
use crate::person::{PersonId, PersonSource};
use crate::priority::yielding;
use crate::token::TokenDigest;

pub use self::entry::{Lifetime, PersonKey};

/// Ordered, so that a page of keys shows which keys are gone.  A tree never moves all entries at once.
type ById = BTreeMap<i64, Arc<IndexEntry>>;
type Digests<T> = papaya::HashMap<TokenDigest, Arc<T>, foldhash::fast::RandomState>;

/// The state of a token's digest in the index.
#[derive(Debug)]
pub enum KeyLookup {
    /// It belongs to no key.
    Unknown,
    /// The key has expired, or the secret was replaced and its overlap is over.
    Expired,
    /// The key is revoked.
    Revoked,
    /// The key or its service account is disabled, or the account is gone.
    Disabled,
    /// The key is live.
    Live(Arc<Principal>),
    /// The key is live, and its rights depend on its owner.
    OfPerson(PersonKey),
}

/// A key of the index, dead or alive, as far as the log and lists need it.
#[derive(Debug)]
pub struct IndexedKey {
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: Box<str>,
    /// The person who owns it.
    pub person: Option<PersonId>,
    /// Why it is not valid although it is neither revoked nor expired.  This does not check whether the owner still
    /// exists.
    pub why_denied: Option<WhyDenied>,
}

/// Every stored digest, and every record of a person.
pub struct Index {
    keys: Digests<IndexEntry>,
    sessions: Digests<Session>,
    people: People,
    accounts: Accounts,
    /// The number of unrevoked keys of each person.
    owners: Mutex<HashMap<PersonId, usize>>,
    /// The entry of each key, for writers.  Its lock is the writers' lock.
    by_id: Mutex<ById>,
    held: AtomicUsize,
    known_dead: KnownDead,
    used: UnboundedSender<Used>,
}

/// Why an entry changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The key was changed: the digests that it loses are dead.
    Change,
    /// A reading of everything found this state.
    Reading,
}

impl Index {
    /// An empty index that sends the entries whose use is to be written.
    pub fn new(used: UnboundedSender<Used>) -> Self {
        Self {
            keys: Digests::default(),
            sessions: Digests::default(),
            people: People::default(),
            accounts: Accounts::default(),
            owners: Mutex::default(),
            by_id: Mutex::default(),
            held: AtomicUsize::new(0),
            known_dead: KnownDead::default(),
            used,
        }
    }

    /// The validity of a digest; `None` when no key has it.
    pub fn lifetime(&self, digest: &TokenDigest) -> Option<Lifetime> {
        self.keys.pin().get(digest).map(|entry| entry.lifetime(digest))
    }

    /// The state of a digest at this instant.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        let keys = self.keys.pin();
        let Some(entry) = keys.get(digest) else {
            return KeyLookup::Unknown;
        };
        let lookup = entry.find(digest, now);
        if matches!(lookup, KeyLookup::Live(_) | KeyLookup::OfPerson(_)) && self.known_dead.is_denied(digest)
        {
            return KeyLookup::Revoked;
        }
        lookup
    }

    /// The key of a digest, dead or alive; `None` when no key has it.
    pub fn key(&self, digest: &TokenDigest) -> Option<IndexedKey> {
        let keys = self.keys.pin();
        let entry = keys.get(digest)?;
        let is_held_back = || !entry.is_revoked && self.known_dead.is_denied(digest);
        Some(IndexedKey {
            id: entry.id,
            name: entry.name.clone(),
            person: entry.person().cloned(),
            why_denied: entry.why_denied().or_else(|| is_held_back().then_some(WhyDenied::HeldBack)),
        })
    }

    /// The digests of the current secrets of these keys, in the same order; `None` for an unknown key.
    pub fn digests(&self, ids: &[i64]) -> Vec<Option<TokenDigest>> {
        let by_id = self.lock();
        ids.iter().map(|id| by_id.get(id).map(|entry| entry.digest)).collect()
    }

    /// Records that the key of a digest was used at this instant, from this address if it is known.  The address is
    /// read only when the use is due to be written, at most once a minute.
    pub fn record_use(&self, digest: &TokenDigest, now: Timestamp, address: impl FnOnce() -> Option<IpAddr>) {
        let keys = self.keys.pin();
        if let Some(entry) = keys.get(digest)
            && entry.last_use.record(now.as_second())
        {
            let used = Used::Key { id: entry.id, last_use: Arc::clone(&entry.last_use), address: address() };
            // The receiver lives as long as the index does: there is no error.
            let _ = self.used.send(used);
        }
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

    /// When the next valid key expires.  Takes time in proportion to the number of keys.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        let keys = self.keys.pin();
        let usable = keys.values().filter(|entry| entry.is_usable());
        usable.filter_map(|entry| entry.expires_at).filter(|&expires_at| expires_at > now).min()
    }

    /// The people who have keys that are not revoked.
    pub fn owners(&self) -> Vec<PersonId> {
        self.lock_owners().keys().cloned().collect()
    }

    /// Whether a person has a key that is not revoked.
    pub fn is_owner(&self, person: &PersonId) -> bool {
        self.lock_owners().contains_key(person)
    }

    /// Inserts or replaces a key that was created or changed.
    pub fn put(&self, stored: StoredKey) {
        self.put_locked(&mut self.lock(), stored, Cause::Change);
    }

    /// Removes a key that was deleted.
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

    /// The people of these sources who have not ended.
    pub fn people(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<PersonId> {
        self.people.not_ended(is_source)
    }

    /// The session of a digest, dead or alive.  It does not count as used.
    pub fn session(&self, digest: &TokenDigest) -> Option<Arc<Session>> {
        self.sessions.pin().get(digest).map(Arc::clone)
    }

    /// The sessions of these sources, dead or alive.  Takes time in proportion to the number of sessions.
    pub fn sessions_of(&self, is_source: impl Fn(&PersonSource) -> bool) -> Vec<(TokenDigest, Arc<Session>)> {
        let sessions = self.sessions.pin();
        let of_source = sessions.iter().filter(|(_, session)| is_source(&session.person.source));
        of_source.map(|(digest, session)| (*digest, Arc::clone(session))).collect()
    }

    /// The digests of a person's sessions, dead or alive.  Takes time in proportion to the number of sessions.
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

    /// Inserts or replaces a service account: each of its keys acts as this account from now on.
    pub fn put_account(&self, account: Account) {
        self.accounts.put(account);
    }

    /// Removes a service account: its keys no longer authenticate.
    pub fn remove_account(&self, id: i64) {
        self.accounts.remove(id);
    }

    /// Applies a page of all service accounts: those with an id above `after`, up to the end of the page.
    pub fn apply_accounts(&self, after: i64, page: AccountPage) {
        self.accounts.apply(after, page);
    }

    /// Applies a page of changes.
    pub fn apply_changes(&self, page: ChangePage) {
        // Before the keys: a new account's first key works at once.
        for account in page.accounts {
            self.put_account(account);
        }
        for stored in yielding(page.keys) {
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
        for id in page.deleted_accounts {
            self.remove_account(id);
        }
    }

    /// Applies a page of all people: the records with an id above `after`, up to the end of the page.
    pub fn apply_people(&self, after: i64, page: PersonPage) {
        self.people.apply(after, page);
    }

    /// Applies a page of all keys: those with an id above `after`, up to the end of the page.  Unchanged entries are
    /// kept.
    pub fn apply_keys(&self, after: i64, page: KeyPage) {
        let mut by_id = self.lock();
        let covered = (Bound::Excluded(after), page.next.map_or(Bound::Unbounded, Bound::Included));
        let existing: HashSet<i64> = page.keys.iter().map(|stored| stored.key.id).collect();
        let gone: Vec<i64> =
            by_id.range(covered).map(|(id, _)| *id).filter(|id| !existing.contains(id)).collect();
        for id in gone {
            self.remove_locked(&mut by_id, id, Cause::Reading);
        }
        for stored in yielding(page.keys) {
            self.put_locked(&mut by_id, stored, Cause::Reading);
        }
    }

    /// Removes the sessions that a reading of all did not find.
    pub fn retain_sessions(&self, existing: &HashSet<TokenDigest>) {
        self.sessions.pin().retain(|digest, _| existing.contains(digest));
    }

    /// Denies the digests that are dead at this instant from now on, whatever the store says.
    pub fn deny_dead(&self, now: Timestamp) {
        let keys = self.keys.pin();
        let is_dead =
            |digest: &TokenDigest, entry: &IndexEntry| entry.status(digest, now) != Some(Status::Live);
        let dead = keys.iter().filter(|(digest, entry)| is_dead(digest, entry)).map(|(digest, _)| *digest);
        self.known_dead.deny(dead);
    }

    /// Reduces the denied digests to those that the store shows as live.  Returns names and ids of at most `max_names`
    /// such keys, and the number of all.
    pub fn retain_denied_but_live(&self, now: Timestamp, max_names: usize) -> (Vec<String>, usize) {
        let (keys, sessions) = (self.keys.pin(), self.sessions.pin());
        let mut names = Vec::new();
        self.known_dead.retain(|digest| match keys.get(digest) {
            Some(entry) if entry.status(digest, now) == Some(Status::Live) => {
                if names.len() < max_names {
                    names.push(format!("{} (id {})", entry.name, entry.id));
                }
                true
            }
            Some(_) => false,
            None => sessions.get(digest).is_some_and(|session| session.is_live(now)),
        });
        (names, self.known_dead.denied_len())
    }

    /// Stops denying digests that the store shows as live.
    pub fn accept_history(&self) {
        self.known_dead.retain(|_| false);
    }

    /// The number of digests that are denied although the store shows them as live.
    pub fn denied_len(&self) -> usize {
        self.known_dead.denied_len()
    }

    fn lock(&self) -> MutexGuard<'_, ById> {
        // A panic leaves no entry half written, because an entry is swapped in whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_owners(&self) -> MutexGuard<'_, HashMap<PersonId, usize>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry replaced another one.
    fn count_owners(&self, before: Option<&IndexEntry>, after: Option<&IndexEntry>) {
        let (before, after) = (before.and_then(IndexEntry::owner), after.and_then(IndexEntry::owner));
        if before == after {
            return;
        }
        let mut owners = self.lock_owners();
        if let Some(person) = after {
            *owners.entry(person.clone()).or_default() += 1;
        }
        if let Some(person) = before
            && let Some(number) = owners.get_mut(person)
        {
            *number -= 1;
            if *number == 0 {
                owners.remove(person);
            }
        }
    }

    fn put_locked(&self, by_id: &mut ById, stored: StoredKey, cause: Cause) {
        let id = stored.key.id;
        let before = by_id.get(&id).map(Arc::clone);
        let last_use = match &before {
            Some(before) => Arc::clone(&before.last_use),
            None => Arc::new(LastUse::new(stored.key.last_used_at)),
        };
        let account = stored.key.owner.account().map(|id| self.accounts.slot(id));
        let after = Arc::new(IndexEntry::new(stored, account, last_use));
        if before.as_ref().is_some_and(|before| before.is_same(&after)) {
            // The principal stays the same, and with it the answer that is encoded for it.
            return;
        }
        let keys = self.keys.pin();
        for digest in after.digests() {
            keys.insert(digest, Arc::clone(&after));
        }
        // After the insertion, so that a secret that continues to work is never unknown in between.
        for digest in before.iter().flat_map(|before| before.digests()) {
            let removed = keys.remove_if(&digest, |_, entry| entry.id == id && !Arc::ptr_eq(entry, &after));
            if cause == Cause::Change && matches!(removed, Ok(Some(_))) {
                self.known_dead.remember(digest);
            }
        }
        self.count_owners(before.as_deref(), Some(&after));
        by_id.insert(id, after);
        self.held.store(by_id.len(), Ordering::Relaxed);
    }

    fn remove_locked(&self, by_id: &mut ById, id: i64, cause: Cause) {
        let Some(before) = by_id.remove(&id) else {
            return;
        };
        self.held.store(by_id.len(), Ordering::Relaxed);
        self.count_owners(Some(&before), None);
        let keys = self.keys.pin();
        for digest in before.digests() {
            let removed = keys.remove_if(&digest, |_, entry| entry.id == id);
            if cause == Cause::Change && matches!(removed, Ok(Some(_))) {
                self.known_dead.remember(digest);
            }
        }
    }
}
