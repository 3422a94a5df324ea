//! Whether the server is ready: whether others should ask it.
//!
//! A server that is not ready may answer.  Before it has read the key store it decides about tokens and users, and
//! says of keys that it cannot know (`app.rs`).  A warm replica knows the keys, so it should go on being asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
