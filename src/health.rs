//! Whether we are ready to decide.

use std::sync::Arc;

use tokio::sync::watch;

/// Says whether we are ready.  Dropped without a word, it says that we are not.
#[derive(Debug)]
pub struct Health(watch::Sender<bool>);

/// Hears whether we are ready.
#[derive(Debug, Clone)]
pub struct Readiness(watch::Receiver<bool>);

/// Nobody says any more whether we are ready.
#[derive(Debug, thiserror::Error)]
#[error("nobody says any more whether we are ready")]
pub struct Gone;

impl Health {
    /// Not ready yet.
    pub fn new() -> (Arc<Self>, Readiness) {
        let (sender, receiver) = watch::channel(false);
        (Arc::new(Self(sender)), Readiness(receiver))
    }

    /// From now on we decide.
    pub fn set_ready(&self) {
        self.0.send_replace(true);
    }

    /// From now on others should be asked.
    pub fn set_not_ready(&self) {
        self.0.send_replace(false);
    }
}

impl Readiness {
    /// Whether we are ready now.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it may be otherwise.
    ///
    /// # Errors
    /// [`Gone`]: it will never be otherwise.
    pub async fn changed(&mut self) -> Result<(), Gone> {
        self.0.changed().await.map_err(|_| Gone)
    }
}
