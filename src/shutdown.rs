//! The end of a server's life, and the signals that bring it; and the one that asks for other rules.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Says when to close.  Dropped without a word, it says so as well.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

/// Hears when to close: nothing new is accepted, and what is in flight is finished.
#[derive(Debug, Clone)]
pub struct Closing(watch::Receiver<bool>);

impl Shutdown {
    /// A life that begins.
    pub fn new() -> (Self, Closing) {
        let (sender, receiver) = watch::channel(false);
        (Self(sender), Closing(receiver))
    }

    /// From now on it closes.
    pub fn close(&self) {
        self.0.send_replace(true);
    }
}

impl Closing {
    /// Waits until it is time to close.
    pub async fn begun(&mut self) {
        // An error means that nobody leads any more: then it is time as well.
        let _ = self.0.wait_for(|closing| *closing).await;
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

/// SIGHUP.
pub struct SighupStream(Signal);

impl SighupStream {
    /// Begins to listen: from here on the signal no longer kills the process.
    ///
    /// # Errors
    /// The operating system does not let us.
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
