//! The cache of passwords that were verified: a hash is computed once, not for every request.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::lockout::AttemptResult;
use crate::password::PasswordHash;
use crate::secret::Secret;

/// Pairs of user and password in the cache.  One more evicts the oldest.
pub(super) const MAX_ENTRIES: usize = 10_000;
/// Rejections that wait for their caller to ask again.  One more evicts the oldest.
const MAX_REJECTIONS: usize = 1024;
/// How long a rejection waits for its caller to ask again.  The caller was told to do so after a second.
const REJECTION_TTL: Duration = Duration::from_secs(5);

/// A pair of user and password: its HMAC, so that memory holds no password and nothing to guess one from.
pub(super) type CacheKey = [u8; 32];

/// Makes cache keys with its own random key.
pub(super) struct CacheKeys(Hmac<Sha256>);

impl CacheKeys {
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut_slice())?;
        Ok(Self(Hmac::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length")))
    }

    /// The stored hash is part of the key: when the hash changes, older entries no longer match.
    pub fn key(&self, hash: &PasswordHash, user: &str, password: &Secret) -> CacheKey {
        let mut mac = self.0.clone();
        for part in [hash.as_str(), user, password.expose()] {
            mac.update(&part.len().to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

/// The pairs of user and password that were verified and right.
#[derive(Default)]
pub(super) struct VerifiedCache {
    /// The user's name of each pair.
    users: HashMap<CacheKey, Arc<str>>,
    oldest_first: VecDeque<CacheKey>,
}

impl VerifiedCache {
    pub fn contains(&self, key: &CacheKey) -> bool {
        self.users.contains_key(key)
    }

    pub fn insert(&mut self, key: CacheKey, user: &Arc<str>) {
        if self.users.insert(key, Arc::clone(user)).is_none() {
            self.oldest_first.push_back(key);
        }
        while self.oldest_first.len() > MAX_ENTRIES {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.users.remove(&oldest);
            }
        }
    }

    /// Keeps only the pairs of these users.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        let Self { users, oldest_first } = self;
        users.retain(|_, user| is_kept(user));
        oldest_first.retain(|key| users.contains_key(key));
    }

    #[cfg(test)]
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.values().map(|user| &**user)
    }

    #[cfg(test)]
    pub fn lengths(&self) -> (usize, usize) {
        (self.users.len(), self.oldest_first.len())
    }

    #[cfg(test)]
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// The rejections that no caller waited for.
///
/// A caller with a wait shorter than a verification asks again.  Without this cache each retry could start a
/// verification that ends too late for it.
#[derive(Default)]
pub(super) struct UnreadRejections(VecDeque<(Instant, CacheKey, AttemptResult)>);

impl UnreadRejections {
    pub fn insert(&mut self, key: CacheKey, result: AttemptResult, now: Instant) {
        self.0.push_back((now, key, result));
        while self.0.len() > MAX_REJECTIONS {
            self.0.pop_front();
        }
    }

    /// Takes the rejection of a pair: it answers one caller, and the next one starts a verification.
    pub fn take(&mut self, key: &CacheKey, now: Instant) -> Option<AttemptResult> {
        self.0.retain(|(made_at, _, _)| now.duration_since(*made_at) < REJECTION_TTL);
        let index = self.0.iter().position(|(_, other, _)| other == key)?;
        self.0.remove(index).map(|(_, _, result)| result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_answers_one_caller_for_five_seconds() {
        let mut rejections = UnreadRejections::default();
        let start = Instant::now();
        rejections.insert([1; 32], AttemptResult::Wrong, start);
        rejections.insert([2; 32], AttemptResult::Locked, start + Duration::from_secs(1));
        let second = |second: u64| start + Duration::from_secs(second);
        assert_eq!(rejections.take(&[3; 32], second(2)), None);
        assert_eq!(rejections.take(&[1; 32], second(4)), Some(AttemptResult::Wrong));
        assert_eq!(rejections.take(&[1; 32], second(4)), None, "taken");
        assert_eq!(rejections.take(&[2; 32], second(6)), None, "too late");
        for _ in 0..=MAX_REJECTIONS {
            rejections.insert([4; 32], AttemptResult::Wrong, second(7));
        }
        assert_eq!(rejections.0.len(), MAX_REJECTIONS);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut cache = VerifiedCache::default();
        for number in 0..MAX_ENTRIES + 10 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_le_bytes());
            cache.insert(key, &"alice".into());
        }
        assert_eq!(cache.lengths(), (MAX_ENTRIES, MAX_ENTRIES));
    }
}
