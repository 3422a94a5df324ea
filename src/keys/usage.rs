//! The last use of keys and sessions, and the number and the source address of uses of keys.
//!
//! A Check records a use in the entry of the index.  At most once a minute, and never twice at a time, it also sends
//! the entry to the follower, which writes the recorded uses to the store.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use super::store::{KeyUse, StoreError, Upkeep};
use super::{Keys, OPERATION_TIMEOUT, StoreOperation, with_timeout};
use crate::token::TokenDigest;

/// A use is written at most this often, in seconds.
const WRITE_INTERVAL: i64 = 60;
/// The number of uses that one call writes to the store.
const MAX_BATCH: usize = 1000;

/// When a key or session was last used, in seconds since 1970.
#[derive(Debug)]
pub struct LastUse {
    last: AtomicI64,
    written: AtomicI64,
    /// Uses that are not written yet.
    uses: AtomicU64,
    /// Whether the entry was sent to the follower.
    is_sent: AtomicBool,
}

impl LastUse {
    /// The last use according to the store; `None` if there was none.
    pub fn new(stored: Option<Timestamp>) -> Self {
        let last = stored.map_or(i64::MIN, Timestamp::as_second);
        Self {
            last: AtomicI64::new(last),
            written: AtomicI64::new(last),
            uses: AtomicU64::new(0),
            is_sent: AtomicBool::new(false),
        }
    }

    /// Records a use; true when the entry must be sent to the follower.
    pub(super) fn record(&self, now: i64) -> bool {
        self.uses.fetch_add(1, Ordering::Relaxed);
        // All cores share the cache line of a key in heavy use: it is written once a second.
        if self.last.load(Ordering::Relaxed) < now {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
        now.saturating_sub(self.written.load(Ordering::Relaxed)) >= WRITE_INTERVAL
            && !self.is_sent.load(Ordering::Relaxed)
            && !self.is_sent.swap(true, Ordering::AcqRel)
    }

    /// The last use.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_second(self.last.load(Ordering::Relaxed)).unwrap_or(Timestamp::MIN)
    }

    /// Records that the use of this instant was written.
    fn written(&self, at: Timestamp) {
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
        self.is_sent.store(false, Ordering::Release);
    }

    /// Takes the uses that are to be written.
    fn take_uses(&self) -> u64 {
        self.uses.swap(0, Ordering::Relaxed)
    }

    /// Returns uses that could not be written.
    fn give_back_uses(&self, uses: u64) {
        self.uses.fetch_add(uses, Ordering::Relaxed);
    }

    /// Records a use that another replica wrote.
    pub(super) fn written_elsewhere(&self, at: Timestamp) {
        self.last.fetch_max(at.as_second(), Ordering::Relaxed);
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
    }
}

/// An entry with a use to write.
#[derive(Debug)]
pub enum Used {
    /// A key.
    Key {
        /// Its id.
        id: i64,
        /// Its recorded uses.
        last_use: Arc<LastUse>,
        /// The address of this use, if it is known.
        address: Option<IpAddr>,
    },
    /// A session, by its digest.
    Session(TokenDigest, Arc<LastUse>),
}

/// The uses that the follower has not written yet.
#[derive(Default)]
pub(super) struct PendingUses {
    keys: HashMap<i64, (Arc<LastUse>, Option<IpAddr>)>,
    sessions: HashMap<TokenDigest, Arc<LastUse>>,
    /// Whether the last attempt to write them failed and was logged.
    is_failing: bool,
}

impl PendingUses {
    /// Receives the entries that Checks have sent.
    pub fn receive(&mut self, used: &mut UnboundedReceiver<Used>) {
        while let Ok(used) = used.try_recv() {
            match used {
                Used::Key { id, last_use, address } => drop(self.keys.insert(id, (last_use, address))),
                Used::Session(digest, last_use) => drop(self.sessions.insert(digest, last_use)),
            }
        }
    }
}

impl Keys {
    /// Writes the pending uses.  Uses that could not be written stay pending.
    pub(super) async fn write_uses(&self, upkeep: &dyn Upkeep, uses: &mut PendingUses) {
        match try_write_uses(upkeep, uses).await {
            Ok(()) => uses.is_failing = false,
            Err(error) => {
                self.count_store_error(StoreOperation::Write);
                if !std::mem::replace(&mut uses.is_failing, true) {
                    tracing::warn!(
                        reason = error.0.to_string(),
                        "the last use of keys cannot be written now: the server writes it later"
                    );
                }
            }
        }
    }
}

async fn try_write_uses(upkeep: &dyn Upkeep, uses: &mut PendingUses) -> Result<(), StoreError> {
    let mut ids: Vec<i64> = uses.keys.keys().copied().collect();
    ids.sort_unstable();
    for batch in ids.chunks(MAX_BATCH) {
        let used: Vec<KeyUse> = batch
            .iter()
            .filter_map(|id| {
                let (last_use, address) = uses.keys.get(id)?;
                let address = address.map(|address| address.to_string());
                Some(KeyUse { id: *id, at: last_use.at(), uses: last_use.take_uses(), address })
            })
            .collect();
        let written = with_timeout(OPERATION_TIMEOUT, upkeep.touch_keys(&used)).await;
        for KeyUse { id, at, uses: number, .. } in &used {
            if written.is_err() {
                if let Some((last_use, _)) = uses.keys.get(id) {
                    last_use.give_back_uses(*number);
                }
            } else if let Some((last_use, _)) = uses.keys.remove(id) {
                last_use.written(*at);
            }
        }
        written?;
    }
    let sessions = uses.sessions.iter().map(|(digest, last_use)| (*digest, last_use.at()));
    let sessions: Vec<(TokenDigest, Timestamp)> = sessions.collect();
    for batch in sessions.chunks(MAX_BATCH) {
        with_timeout(OPERATION_TIMEOUT, upkeep.touch_sessions(batch)).await?;
        for (digest, at) in batch {
            if let Some(last_use) = uses.sessions.remove(digest) {
                last_use.written(*at);
            }
        }
    }
    Ok(())
}
