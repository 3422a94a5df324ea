//! How many log-ins at providers begin in a second.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// Attempts that may begin within [`WINDOW`].
const MAX_BEGUN: usize = 10;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// Counts attempts as they begin.
pub(in crate::admin) struct Limiter {
    /// When the last ones began, by [`Clock::elapsed`].
    begun: Mutex<VecDeque<Duration>>,
    clock: Clock,
}

impl Limiter {
    /// A limiter that has counted nothing.
    pub fn new(clock: Clock) -> Self {
        Self { begun: Mutex::default(), clock }
    }

    /// Counts one more; false when there were too many.
    pub fn admit(&self) -> bool {
        let now = self.clock.elapsed();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        while begun.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            begun.pop_front();
        }
        let is_admitted = begun.len() < MAX_BEGUN;
        if is_admitted {
            begun.push_back(now);
        }
        is_admitted
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
