//! Readiness: whether requests should go to this server.
//!
//! A server that is not ready may answer.  Before it has read the key store it decides about tokens and users, and
//! answers 503 about keys (`app.rs`).  A replica that has read the keys should continue to get requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::keys::Keys;
use crate::snapshot::SnapshotStore;

/// How often `keys.ready_without_store` of the current configuration is read, until the store was read.
const READY_WITHOUT_STORE_INTERVAL: Duration = Duration::from_secs(1);

/// Changes whether the server is ready.
#[derive(Debug)]
pub struct ReadinessHandle(Arc<AtomicBool>);

/// Reads whether the server is ready.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<AtomicBool>);

impl ReadinessHandle {
    /// A server that is not ready yet.
    pub fn new() -> (Self, Readiness) {
        let is_ready = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&is_ready)), Readiness(is_ready))
    }

    /// From now on requests may go to this server.
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// From now on requests should go to other servers.
    pub fn set_not_ready(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Readiness {
    /// Whether the server is ready now.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Waits until the key store was read, or until `keys.ready_without_store` has passed since `started`.
///
/// A reload may change that setting, so the current configuration is used.
pub async fn until_ready(keys: &Keys, snapshots: &SnapshotStore, started: Instant) {
    let mut interval = tokio::time::interval(READY_WITHOUT_STORE_INTERVAL);
    loop {
        tokio::select! {
            () = keys.first_read() => return,
            _ = interval.tick() => {
                let snapshot = snapshots.current();
                let limit = snapshot.keys.as_ref().and_then(|settings| settings.ready_without_store);
                if limit.is_some_and(|limit| started.elapsed() >= limit) {
                    tracing::warn!("ready although the key store has not been read yet: the time of \
                        keys.ready_without_store has passed");
                    return;
                }
            }
        }
    }
}
