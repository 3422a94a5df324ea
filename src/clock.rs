//! The time, as a value that tests can set.
//!
//! [`Clock::now`] is the time of day.  It names instants: when a key expires, when a line was logged.  An administrator
//! or NTP may set it forwards and backwards.  [`Clock::elapsed`] only goes forwards, one second a second.  It measures
//! how long ago something happened in this process: a lag, a lock, an interval.

pub mod sliding_window;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

/// A clock.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    elapsed: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self::from_fns(Timestamp::now, since_boot)
    }

    /// A clock that its caller sets, for tests.  [`elapsed`](Self::elapsed) follows `now` forwards, and stands still
    /// while `now` is set back.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let now: Arc<dyn Fn() -> Timestamp + Send + Sync> = Arc::new(now);
        let (start, wall, latest) = (now(), Arc::clone(&now), AtomicU64::new(0));
        let elapsed = move || {
            let since = Duration::try_from(wall().duration_since(start)).unwrap_or(Duration::ZERO);
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            Duration::from_nanos(latest.fetch_max(nanos, Ordering::SeqCst).max(nanos))
        };
        Self { now, elapsed: Arc::new(elapsed) }
    }

    /// A clock whose two readings its caller sets apart from each other, for tests.
    pub fn from_fns(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        elapsed: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), elapsed: Arc::new(elapsed) }
    }

    /// The present instant, by the time of day.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// The time since a start that stays the same while the process runs.  Only the difference of two readings means
    /// something; a later reading is never less than an earlier one.  Setting the time of day does not change it,
    /// and time in which the machine sleeps counts.
    pub fn elapsed(&self) -> Duration {
        (self.elapsed)()
    }
}

/// The time since the machine started (clock_gettime(2), `CLOCK_BOOTTIME`).
///
/// [`std::time::Instant`] stands still while a virtual machine is suspended; then what was read from the key store
/// before would be taken for fresh.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // It is never negative, and there are less than 10⁹ nanoseconds.
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The instant of a text: a time of RFC 3339, or a day such as `2026-11-30`, which begins at midnight UTC.
pub fn parse_time_or_day(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    // A date with a time and without a zone is none: whose time would it be?
    let day: Date = (text.len() == "2026-11-30".len()).then(|| text.parse().ok()).flatten()?;
    day.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

impl fmt::Debug for Clock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;

    #[test]
    fn the_time_of_day_may_go_back_and_the_elapsed_time_never_does() {
        let second = Arc::new(AtomicI64::new(1_000));
        let time = Arc::clone(&second);
        let clock = Clock::from_fn(move || Timestamp::from_second(time.load(Ordering::SeqCst)).unwrap());
        let mut readings = Vec::new();
        for set_to in [1_000, 1_030, 430, 1_029, 1_031] {
            second.store(set_to, Ordering::SeqCst);
            assert_eq!(clock.now(), Timestamp::from_second(set_to).unwrap());
            readings.push(clock.elapsed().as_secs());
        }
        assert_eq!(readings, [0, 30, 30, 30, 31]);

        let apart = Clock::from_fns(|| Timestamp::UNIX_EPOCH, || Duration::from_secs(7));
        assert_eq!((apart.now(), apart.elapsed()), (Timestamp::UNIX_EPOCH, Duration::from_secs(7)));
    }

    #[test]
    fn the_systems_elapsed_time_goes_on() {
        let clock = Clock::system();
        let readings: Vec<_> = (0..10_000).map(|_| clock.elapsed()).collect();
        assert!(readings.is_sorted() && readings.first() < readings.last());
    }
}
