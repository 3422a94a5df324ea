//! What attempts to log in at a provider need of the store.
//!
//! An attempt goes with the browser, in a cookie that is sealed by a key of the store: it may come back to another replica.
//! Its **state** is good for once, on whichever replica it comes back.
//!
//! The key is made when it is first asked for, and stays as long as the store does.  A reader of the store can forge
//! attempts by it, and no session.  A process keeps it in memory for a minute at most, and no longer than the history of the
//! store goes on: after a restore all replicas soon have the same one again.  Attempts that were sealed by another key are
//! void, and people begin again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use zeroize::Zeroizing;

use super::store::{SECRET_BYTES, StoreError, StoreFailure, Upkeep};
use super::{Keys, OPERATION_TIMEOUT, whole_second, with_timeout};
use crate::token::TokenDigest;

/// How long it is remembered that a state was used.  An attempt lives for half of it, so that clocks of replicas may differ.
pub const USED_STATE_RETENTION: SignedDuration = SignedDuration::from_mins(20);
/// How old the key in memory may be: the store may have become another one, without a change that shows it.
const SEALING_KEY_MAX_AGE: Duration = Duration::from_secs(60);
/// The name of the key in the store.
const SEALING_KEY: &str = "login_attempts";

/// The key by which attempts are sealed.  Its memory is wiped on drop, and `Debug` does not show it.
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
    /// By the clock that nobody sets.
    read_at: Duration,
    /// How often the store's history had been rewritten by then.
    history_rewrites: u64,
}

impl Keys {
    /// The key by which attempts are sealed: the same on every replica.  The first call for a store makes it.
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

    /// Notes that the state of an attempt was used; false when it had been, here or on another replica.  It is forgotten
    /// after [`USED_STATE_RETENTION`].
    ///
    /// # Errors
    /// The store failed, or is only read: nobody knows whether it was used.
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
