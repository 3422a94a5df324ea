//! The stages of a server's life, and the signals that end it.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// A stage.  They come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Requests are answered.
    Serving,
    /// We are NOT_SERVING to whoever asks for our health, and answer all the same.
    Draining,
    /// Nothing new is accepted; what is in flight is finished.
    Closing,
}

/// Moves on from stage to stage.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<Stage>);

/// Follows the stages.
#[derive(Debug, Clone)]
pub struct Stages(watch::Receiver<Stage>);

impl Shutdown {
    /// A life that begins.
    pub fn new() -> (Self, Stages) {
        let (sender, receiver) = watch::channel(Stage::Serving);
        (Self(sender), Stages(receiver))
    }

    /// Moves on to a stage.
    pub fn enter(&self, stage: Stage) {
        self.0.send_replace(stage);
    }
}

impl Stages {
    /// Waits for [`Stage::Closing`].  When nobody leads any more, it is time as well.
    pub async fn closing(&mut self) {
        let _ = self.0.wait_for(|stage| *stage >= Stage::Closing).await;
    }
}

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen: from here on the signals no longer kill the process.
    ///
    /// # Errors
    /// The operating system does not let us.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal and says its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
