//! The signals that end the process, and the one that reloads the configuration.
//!
//! A [`CancellationToken`](tokio_util::sync::CancellationToken) tells the listeners to close.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen: from here on the signals no longer kill the process.
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal, and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP.
pub struct SighupStream(Signal);

impl SighupStream {
    /// Starts to listen: from here on the signal no longer kills the process.
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        // None means that there will never be another one.
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
