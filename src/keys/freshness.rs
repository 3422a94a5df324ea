//! How fresh the index is: when the store was last read, what of it is known, and how many keys there are.  Neither a
//! lock nor the store is asked.  Whether a key is live is decided in [`index`](super::index).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::index::Lifetime;
use super::sessions::Session;
use super::store::source::Revision;
use super::{IndexedKey, Key, KeyLookup, Keys, NEVER, StoredKey};
use crate::token::TokenDigest;

impl Keys {
    /// What is known of a token's digest at this instant.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        self.index.find(digest, now)
    }

    /// The key of a token's digest, dead or alive; `None` when no key has it.  That is no use of it.
    pub fn indexed(&self, digest: &TokenDigest) -> Option<IndexedKey> {
        self.index.key(digest)
    }

    /// From when to when a token's digest counts; `None` when no key has it.
    pub fn lifetime(&self, digest: &TokenDigest) -> Option<Lifetime> {
        self.index.lifetime(digest)
    }

    /// The key of a digest was used at this instant, from this address where it is known.  The address is looked at where
    /// the use is to be written: at most once a minute.
    pub fn record_use(&self, digest: &TokenDigest, now: Timestamp, address: impl FnOnce() -> Option<IpAddr>) {
        self.index.record_use(digest, now, address);
    }

    /// The live session of a cookie's digest.  It counts as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        self.index.find_session(digest, now)
    }

    /// Whether the index may lack a key that exists: the store was never read, or the index is
    /// [stale](Self::is_stale).
    pub fn is_unknowable(&self, max_staleness: Option<Duration>) -> bool {
        self.read_at.load(Ordering::Acquire) == NEVER || self.is_stale(max_staleness)
    }

    /// Whether the index may not be answered from: the store was last read longer ago than `max_staleness`
    /// ([`KeySettings`](super::KeySettings)), or its schema is for newer programs alone.
    /// False before the first reading: what the index holds then was made by this process.
    pub fn is_stale(&self, max_staleness: Option<Duration>) -> bool {
        self.schema_is_too_new.load(Ordering::Relaxed)
            || max_staleness.is_some_and(|limit| self.lag().is_some_and(|lag| lag > limit))
    }

    /// Whether the store was read at least once.
    pub fn was_read(&self) -> bool {
        *self.was_read.borrow()
    }

    /// Waits until the store was read at least once.
    pub async fn first_read(&self) {
        // The sender lives as long as we do: there is no error.
        let _ = self.was_read.subscribe().wait_for(|was_read| *was_read).await;
    }

    /// How old what the index holds is: the time since it last showed all that the store said, by a clock that nobody
    /// sets, and where the store is a copy how far that one was behind.  `None` before the first reading.
    pub fn lag(&self) -> Option<Duration> {
        let read_at = self.read_at.load(Ordering::Acquire);
        let now = milliseconds(self.clock.elapsed());
        (read_at != NEVER).then(|| Duration::from_millis(u64::try_from(now - read_at).unwrap_or(0)))
    }

    /// The index showed all that the store said at this reading of the clock, which was `age` old.
    pub(super) fn mark_read(&self, elapsed: Duration, age: Duration) {
        self.read_at.store(milliseconds(elapsed) - milliseconds(age), Ordering::Release);
        self.was_read.send_if_modified(|was_read| !std::mem::replace(was_read, true));
    }

    /// The store's newest change that the index shows; `None` before the first reading.
    pub fn revision(&self) -> Option<Revision> {
        self.was_read().then(|| Revision(self.revision.load(Ordering::Relaxed)))
    }

    /// How often the store's history was found rewritten.
    pub fn history_rewrites(&self) -> u64 {
        self.history_rewrites.load(Ordering::Relaxed)
    }

    /// The keys and sessions that are denied although the store takes them for live, since its history was rewritten.
    pub fn denied_by_history(&self) -> usize {
        self.index.denied_len()
    }

    /// The number of keys in the index, dead ones included.
    pub fn held(&self) -> usize {
        self.index.held()
    }

    /// When the next live key expires.  Takes time in proportion to the number of keys.
    pub fn next_expiry(&self, now: Timestamp) -> Option<Timestamp> {
        self.index.next_expiry(now)
    }

    /// Replaces a key's digest in the index, and leaves the store as it is.
    pub fn override_digest(&self, key: Key, digest: TokenDigest) {
        self.index.put(StoredKey { key, digest, previous: None });
    }
}

/// A reading of the clock, or an age.
fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}
