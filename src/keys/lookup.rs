//! What a Check asks: neither a lock nor the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;

use super::sessions::Session;
use super::{Key, KeyLookup, Keys, StoredKey};
use crate::token::TokenDigest;

impl Keys {
    /// What is known of a token's digest at this instant.  A live key counts as used.
    pub fn find(&self, digest: &TokenDigest, now: Timestamp) -> KeyLookup {
        self.index.find(digest, now)
    }

    /// The live session of a cookie's digest.  It counts as used.
    pub fn find_session(&self, digest: &TokenDigest, now: Timestamp) -> Option<Arc<Session>> {
        self.index.find_session(digest, now)
    }

    /// Whether the index may lack a key that exists: the store was never read, or the index is
    /// [stale](Self::is_stale).
    pub fn is_unknowable(&self, now: Timestamp, max_staleness: Option<Duration>) -> bool {
        self.lag(now).is_none() || self.is_stale(now, max_staleness)
    }

    /// Whether the store was last read longer ago than `max_staleness` ([`KeySettings`](super::KeySettings)).
    /// False before the first reading: what the index holds then was made by this process.
    pub fn is_stale(&self, now: Timestamp, max_staleness: Option<Duration>) -> bool {
        max_staleness.is_some_and(|limit| self.lag(now).is_some_and(|lag| lag > limit))
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

    /// How long ago the store was last read; `None` when it never was.
    pub fn lag(&self, now: Timestamp) -> Option<Duration> {
        let read_at = self.read_at.load(Ordering::Acquire);
        let lag = now.as_millisecond().saturating_sub(read_at).max(0);
        (read_at != 0).then(|| Duration::from_millis(lag.unsigned_abs()))
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
