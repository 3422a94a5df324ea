//! Limits the log lines about misbehaving clients.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One line of a kind is logged in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps clients that try again and again from filling the log.
#[derive(Debug)]
pub struct LogThrottle {
    started: Instant,
    /// When the next line may be logged, in milliseconds since `started`.
    next: AtomicU64,
    /// How many lines were suppressed since the last one.
    suppressed: AtomicU64,
}

impl LogThrottle {
    /// The throttle of one kind of line: the first may be logged.
    pub fn new() -> Self {
        Self { started: Instant::now(), next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    /// If a line may be logged now: how many were suppressed since the last one.
    pub fn next_line(&self) -> Option<u64> {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.started.elapsed());
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
    fn lines_are_counted_while_they_are_suppressed() {
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
