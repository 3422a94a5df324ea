//! Notifies the service manager (sd_notify(3)): with `Type=notify` systemd knows when the server serves.
//!
//! Nothing is sent where `NOTIFY_SOCKET` is unset.  An error is logged and stops nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The server answers, and is ready.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// The server answers, and is not ready before it has read the key store.  What is ordered after it may start: tokens
/// and users pass.
pub fn waiting_for_key_store() {
    notify(&[NotifyState::Ready, NotifyState::Status("waiting for the key store")]);
}

/// The server answers for a while longer, and ends.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Notifies the watchdog as often as `WatchdogSec=` wants.  A runtime whose threads are all stuck sends nothing, and the
/// service manager restarts it.
pub fn start_watchdog() {
    let Some(timeout) = sd_notify::watchdog_enabled() else {
        return;
    };
    // sd_watchdog_enabled(3): every half of the time.
    let mut interval = tokio::time::interval((timeout / 2).max(Duration::from_millis(1)));
    tokio::spawn(async move {
        loop {
            interval.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot send the state of the server to the service manager");
    }
}
