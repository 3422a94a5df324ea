//! How many log-ins at providers begin in a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::clock::sliding_window::SlidingWindow;

/// Attempts that may start within [`WINDOW`].
const MAX_STARTED: usize = 10;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts attempts as they start.
pub(in crate::admin) struct Limiter {
    started: Mutex<SlidingWindow>,
    clock: Clock,
}

impl Limiter {
    /// A limiter that has counted nothing.
    pub fn new(clock: Clock) -> Self {
        Self { started: Mutex::new(SlidingWindow::new(WINDOW)), clock }
    }

    /// Counts one more; false when there were too many.
    pub fn admit(&self) -> bool {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.try_take(self.clock.elapsed(), MAX_STARTED)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn ten_begin_within_any_second() {
        let now = Arc::new(AtomicI64::new(0));
        let time = Arc::clone(&now);
        let limiter = Limiter::new(Clock::from_fn(move || {
            Timestamp::from_millisecond(time.load(Ordering::SeqCst)).unwrap()
        }));
        let admitted = |count| (0..count).filter(|_| limiter.admit()).count();
        assert_eq!(admitted(4), 4);
        now.store(600, Ordering::SeqCst);
        assert_eq!(admitted(20), 6);
        now.store(1_000, Ordering::SeqCst);
        assert_eq!(admitted(20), 4);
    }
}
