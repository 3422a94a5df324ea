//! What a service manager hears of us (sd_notify(3)): with `Type=notify` systemd knows when we serve.
//!
//! Nothing is said when nobody listens (`NOTIFY_SOCKET` is unset), and a service manager that cannot hear
//! us must not stop us: it is told in the log, and we go on.

use std::time::Duration;

use sd_notify::NotifyState;

/// We serve.
pub fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// We go on answering for a while, and end.
pub fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Says that we are alive, as often as `WatchdogSec=` wants to hear it.  A runtime whose threads are all stuck
/// says nothing, and is restarted.
pub fn keep_watchdog_quiet() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    // sd_watchdog_enabled(3): every half of the time.
    let mut beats = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    tokio::spawn(async move {
        loop {
            beats.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told how we are");
    }
}
