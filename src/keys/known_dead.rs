//! Digests that this process knows to be dead, in case the store loses this state.
//!
//! A store can lose the state that keys were revoked, deleted or rotated: after a restore from a backup, a replacement
//! by an older file, or a failover to a server without the last commits.  The index remembers it.  Such a digest stays
//! denied until an operator accepts the store's history (`keys accept-history`) or the process ends.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::token::TokenDigest;

/// The maximum number of digests that are remembered after they left the index; the oldest are dropped first.
pub const MAX_REMEMBERED: usize = 100_000;

/// Digests that are denied whatever the store says.
#[derive(Default)]
pub(super) struct KnownDead {
    /// Digests that left the index: of deleted keys, replaced secrets, and ended sessions.
    departed: Mutex<VecDeque<TokenDigest>>,
    /// The denied digests, since the history was rewritten.
    denied: papaya::HashSet<TokenDigest, foldhash::fast::RandomState>,
    /// Their number, so that a lookup under an ordinary history costs one load.
    denied_len: AtomicUsize,
}

impl KnownDead {
    /// Remembers a digest that leaves the index.
    pub fn remember(&self, digest: TokenDigest) {
        let mut departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner);
        if departed.len() == MAX_REMEMBERED {
            departed.pop_front();
        }
        departed.push_back(digest);
    }

    /// Denies the digests that left the index, and these.
    pub fn deny(&self, digests: impl IntoIterator<Item = TokenDigest>) {
        let departed = self.departed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let denied = self.denied.pin();
        for digest in departed.into_iter().chain(digests) {
            denied.insert(digest);
        }
        self.denied_len.store(denied.len(), Ordering::Release);
    }

    /// Whether a digest is denied whatever the store says.
    pub fn is_denied(&self, digest: &TokenDigest) -> bool {
        self.denied_len.load(Ordering::Acquire) != 0 && self.denied.pin().contains(digest)
    }

    /// Denies only those for which this is true.
    pub fn retain(&self, mut is_needed: impl FnMut(&TokenDigest) -> bool) {
        let denied = self.denied.pin();
        denied.retain(|digest| is_needed(digest));
        self.denied_len.store(denied.len(), Ordering::Release);
    }

    /// The number of denied digests.
    pub fn denied_len(&self) -> usize {
        self.denied_len.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        TokenDigest::from_bytes(bytes)
    }

    #[test]
    fn what_is_dead_is_denied_once_the_history_was_rewritten_and_never_without_bound() {
        let known = KnownDead::default();
        for number in 0..MAX_REMEMBERED + 2 {
            known.remember(digest(number));
        }
        assert!(!known.is_denied(&digest(2)), "the store remembers by itself");
        known.deny([digest(MAX_REMEMBERED + 7)]);
        assert_eq!(known.denied_len(), MAX_REMEMBERED + 1);
        assert!(known.is_denied(&digest(2)) && known.is_denied(&digest(MAX_REMEMBERED + 7)));
        assert!(!known.is_denied(&digest(1)), "the oldest are forgotten");
        known.retain(|kept| *kept == digest(5));
        assert!(known.is_denied(&digest(5)) && !known.is_denied(&digest(6)));
        known.retain(|_| false);
        assert!(!known.is_denied(&digest(5)));
    }
}
