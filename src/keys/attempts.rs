//! The data of log-in attempts at providers in the store.
//!
//! The browser holds an attempt in a cookie that is sealed with a key from the store, so that it may return to another
//! replica.  The **state** of an attempt is valid once, across all replicas.
//!
//! The key is created at the first use and stays in the store.  A reader of the store can forge attempts with it, but
//! no sessions.  A process keeps the key in memory for a minute at most, and drops it when the history of the store was
//! rewritten, so that after a restore all replicas soon have the same key again.  Attempts that were sealed with
//! another key are void, and people start again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use zeroize::Zeroizing;

use super::store::{SECRET_BYTES, StoreError, StoreFailure, Upkeep};
use super::{Keys, OPERATION_TIMEOUT, whole_second, with_timeout};
use crate::token::TokenDigest;

/// How long a used state is remembered.  An attempt lives for half of this time, so that the clocks of replicas may
/// differ.
pub const USED_STATE_RETENTION: SignedDuration = SignedDuration::from_mins(20);
/// The maximum age of the key in memory: the store may have been replaced without a visible change.
const SEALING_KEY_MAX_AGE: Duration = Duration::from_secs(60);
/// The name of the key in the store.
const SEALING_KEY: &str = "login_attempts";

/// The key that seals attempts.  Its memory is wiped on drop, and `Debug` does not show it.
#[derive(PartialEq, Eq)]
pub struct SealingKey(Zeroizing<[u8; SECRET_BYTES]>);

impl SealingKey {
    /// The key itself.  The caller must not show it.
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[REDACTED]")
    }
}

/// The key as it was read last.
pub(super) struct KnownKey {
    key: Arc<SealingKey>,
    /// By the monotonic clock.
    read_at: Duration,
    /// The number of rewrites of the store's history at that time.
    history_rewrites: u64,
}

impl Keys {
    /// The key that seals attempts: the same on every replica.  The first call for a store creates it.
    ///
    /// # Errors
    /// The store failed, or is only read.
    pub async fn sealing_key(&self) -> Result<Arc<SealingKey>, StoreError> {
        self.check_writable()?;
        let (read_at, history_rewrites) = (self.clock.elapsed(), self.history_rewrites());
        if let Some(known) = self.sealing_key.load().as_ref()
            && known.history_rewrites == history_rewrites
            && read_at.saturating_sub(known.read_at) < SEALING_KEY_MAX_AGE
        {
            return Ok(Arc::clone(&known.key));
        }
        let mut new = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(new.as_mut_slice()).map_err(StoreFailure::Randomness)?;
        let now = whole_second(self.clock.now());
        let read = with_timeout(OPERATION_TIMEOUT, self.store.secret(SEALING_KEY, &new, now)).await;
        let read =
            read.inspect_err(|error| self.write_failed("read the key of attempts to log in", error))?;
        let key = Arc::new(SealingKey(read));
        let known = KnownKey { key: Arc::clone(&key), read_at, history_rewrites };
        self.sealing_key.store(Some(Arc::new(known)));
        Ok(key)
    }

    /// Records that the state of an attempt was used; false if it was used before, here or on another replica.  The
    /// record is deleted after [`USED_STATE_RETENTION`].
    ///
    /// # Errors
    /// The store failed, or is read-only: it is not known whether the state was used.
    pub async fn use_state(&self, state: &TokenDigest) -> Result<bool, StoreError> {
        self.check_writable()?;
        let now = whole_second(self.clock.now());
        let used = with_timeout(OPERATION_TIMEOUT, self.store.use_state(state, now)).await;
        used.inspect_err(|error| self.write_failed("note that an attempt to log in came back", error))
    }

    /// Deletes at most `limit` states that were used long ago, and returns their number.
    pub(super) async fn forget_states(&self, upkeep: &dyn Upkeep, limit: u32) -> Result<u64, StoreError> {
        let forget = upkeep.forget_states(self.time_ago(USED_STATE_RETENTION), limit);
        let forgotten = with_timeout(OPERATION_TIMEOUT, forget).await;
        forgotten.inspect_err(|error| self.write_failed("delete states of attempts to log in", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_key() {
        let key = SealingKey(Zeroizing::new([0x2a; SECRET_BYTES]));
        assert_eq!(format!("{key:?}"), "[REDACTED]");
        assert_eq!(key.expose(), &[0x2a; SECRET_BYTES]);
    }
}
