//! The freshness and the content of the index: when the store was last read, lookups of digests, and the number of
//! keys.  No function here takes a lock or asks the store.  Whether a key is live is decided in
//! [`index`](super::index).

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
    /// The state of a token's digest at this instant.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        self.index.find(digest, now)
    }

    /// The key of a token's digest, dead or alive; `None` when no key has it.  This does not count as a use.
    pub fn indexed(&self, digest: &TokenDigest) -> Option<IndexedKey> {
        self.index.key(digest)
    }

    /// The validity of a token's digest; `None` when no key has it.
    pub fn lifetime(&self, digest: &TokenDigest) -> Option<Lifetime> {
        self.index.lifetime(digest)
    }

    /// Records that the key of a digest was used at this instant, from this address if it is known.  The address is
    /// read only when the use is due to be written, at most once a minute.
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

    /// Whether the index must not be used: the last reading of the store is older than `max_staleness`
    /// ([`KeySettings`](super::KeySettings)), or its schema is too new for this version.  False before the first
    /// reading: the index then holds only keys that this process created.
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

    /// The age of the index: the time since it was last up to date, by the monotonic clock, plus the lag of a store
    /// that is a copy.  `None` before the first reading.
    pub fn lag(&self) -> Option<Duration> {
        let read_at = self.read_at.load(Ordering::Acquire);
        let now = milliseconds(self.clock.elapsed());
        (read_at != NEVER).then(|| Duration::from_millis(u64::try_from(now - read_at).unwrap_or(0)))
    }

    /// Records that the index was up to date at this reading of the clock, with data of this age.
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

    /// The number of keys and sessions that are denied although the store shows them as live, since its history was
    /// rewritten.
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
