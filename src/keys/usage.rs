//! When keys and sessions were last used.
//!
//! A Check records a use in the index's entry.  At most once a minute, and never twice at a time, it also sends the
//! entry to the follower, which writes the time to the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;

use super::store::{StoreError, Upkeep};
use super::{Keys, OPERATION_TIMEOUT, StoreOperation, with_timeout};
use crate::token::TokenDigest;

/// A use is written at most this often, in seconds.
const WRITE_INTERVAL: i64 = 60;
/// Uses that one call of the store writes.
const MAX_BATCH: usize = 1000;

/// When a key or session was last used, in seconds since 1970.
#[derive(Debug)]
pub struct LastUse {
    last: AtomicI64,
    written: AtomicI64,
    /// The entry is on its way to the follower.
    is_sent: AtomicBool,
}

impl LastUse {
    /// The last use according to the store; `None` when there was none.
    pub fn new(stored: Option<Timestamp>) -> Self {
        let last = stored.map_or(i64::MIN, Timestamp::as_second);
        Self { last: AtomicI64::new(last), written: AtomicI64::new(last), is_sent: AtomicBool::new(false) }
    }

    /// Records a use; true when the entry is to be sent to the follower.
    pub(super) fn record(&self, now: i64) -> bool {
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

    /// The use of this instant was written.
    fn written(&self, at: Timestamp) {
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
        self.is_sent.store(false, Ordering::Release);
    }

    /// Another replica wrote this use.
    pub(super) fn written_elsewhere(&self, at: Timestamp) {
        self.last.fetch_max(at.as_second(), Ordering::Relaxed);
        self.written.fetch_max(at.as_second(), Ordering::Relaxed);
    }
}

/// An entry whose last use is to be written.
#[derive(Debug)]
pub enum Used {
    /// A key, by its id.
    Key(i64, Arc<LastUse>),
    /// A session, by its digest.
    Session(TokenDigest, Arc<LastUse>),
}

/// The uses that the follower has not written yet.
#[derive(Default)]
pub(super) struct PendingUses {
    keys: HashMap<i64, Arc<LastUse>>,
    sessions: HashMap<TokenDigest, Arc<LastUse>>,
    /// The last attempt to write them failed, and was logged.
    is_failing: bool,
}

impl PendingUses {
    /// Takes over what Checks have sent.
    pub fn receive(&mut self, used: &mut UnboundedReceiver<Used>) {
        while let Ok(used) = used.try_recv() {
            match used {
                Used::Key(id, last_use) => drop(self.keys.insert(id, last_use)),
                Used::Session(digest, last_use) => drop(self.sessions.insert(digest, last_use)),
            }
        }
    }
}

impl Keys {
    /// Writes the pending uses.  What could not be written stays pending.
    pub(super) async fn write_uses(&self, upkeep: &dyn Upkeep, uses: &mut PendingUses) {
        match try_write_uses(upkeep, uses).await {
            Ok(()) => uses.is_failing = false,
            Err(error) => {
                self.count_store_error(StoreOperation::Write);
                if !std::mem::replace(&mut uses.is_failing, true) {
                    tracing::warn!(
                        reason = error.0.to_string(),
                        "when keys were last used cannot be written: it will be later"
                    );
                }
            }
        }
    }
}

async fn try_write_uses(upkeep: &dyn Upkeep, uses: &mut PendingUses) -> Result<(), StoreError> {
    let keys = uses.keys.iter().map(|(id, last_use)| (*id, last_use.at()));
    let mut keys: Vec<(i64, Timestamp)> = keys.collect();
    keys.sort_unstable_by_key(|(id, _)| *id);
    for batch in keys.chunks(MAX_BATCH) {
        with_timeout(OPERATION_TIMEOUT, upkeep.touch_keys(batch)).await?;
        for (id, at) in batch {
            if let Some(last_use) = uses.keys.remove(id) {
                last_use.written(*at);
            }
        }
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
