//! Lines about clients, few enough to be read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Of lines of one kind, one in this time is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps clients that try again and again from filling the log.
#[derive(Debug)]
pub struct Complaints {
    begun: Instant,
    /// When the next line may be logged, in milliseconds from the beginning.
    next: AtomicU64,
    /// What was not logged since the last line.
    unsaid: AtomicU64,
}

impl Complaints {
    /// Complaints of one kind: the first may be logged.
    pub fn new() -> Self {
        Self { begun: Instant::now(), next: AtomicU64::new(0), unsaid: AtomicU64::new(0) }
    }

    /// Whether a line may be logged now; if so, how many were not since the last one.
    pub fn may_speak(&self) -> Option<u64> {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = milliseconds(self.begun.elapsed());
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(milliseconds(LOG_INTERVAL));
        let is_mine = now >= next
            && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_mine {
            return Some(self.unsaid.swap(0, Ordering::Relaxed));
        }
        self.unsaid.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for Complaints {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_counted_while_they_are_not_logged() {
        let complaints = Complaints::new();
        assert_eq!(complaints.may_speak(), Some(0));
        // The interval is over.
        let end_interval = || complaints.next.store(0, Ordering::Relaxed);
        complaints.next.store(u64::MAX, Ordering::Relaxed);
        assert_eq!((complaints.may_speak(), complaints.may_speak()), (None, None));
        end_interval();
        assert_eq!(complaints.may_speak(), Some(2));
        end_interval();
        assert_eq!(complaints.may_speak(), Some(0));
    }
}
