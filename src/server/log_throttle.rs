//! Lines about clients, few enough to be read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Of lines of one kind, one in this time is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps clients that try again and again from filling the log.
#[derive(Debug)]
pub struct LogThrottle {
    begun: Instant,
    /// When the next line may be logged, in milliseconds from the beginning.
    next: AtomicU64,
    /// What was not logged since the last line.
    suppressed: AtomicU64,
}

impl LogThrottle {
    /// LogThrottle of one kind: the first may be logged.
    pub fn new() -> Self {
        Self { begun: Instant::now(), next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Whether a line may be logged now; if so, how many were not since the last one.
    pub fn next_line(&self) -> Option<u64> {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.begun.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(milliseconds(LOG_INTERVAL));
        let is_mine = now >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_counted_while_they_are_not_logged() {
        let log_throttle = LogThrottle::new();
        assert_eq!(log_throttle.next_line(), Some(0));
        // The interval is over.
        let end_interval = || log_throttle.next.store(0, Ordering::Relaxed);
        log_throttle.next.store(u64::MAX, Ordering::Relaxed);
        assert_eq!((log_throttle.next_line(), log_throttle.next_line()), (None, None));
        end_interval();
        assert_eq!(log_throttle.next_line(), Some(2));
        end_interval();
        assert_eq!(log_throttle.next_line(), Some(0));
    }
}
