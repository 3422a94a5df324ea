//! Whether we are ready to decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says whether we are ready.
#[derive(Debug)]
pub struct Health(Arc<AtomicBool>);

/// Knows whether we are ready.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<AtomicBool>);

impl Health {
    /// Not ready yet.
    pub fn new() -> (Self, Readiness) {
        let is_ready = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&is_ready)), Readiness(is_ready))
    }

    /// From now on we decide.
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// From now on others should be asked.
    pub fn set_not_ready(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Readiness {
    /// Whether we are ready now.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
