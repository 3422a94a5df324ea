//! A limit of events within a length of time.
//!
//! Times are readings of [`Clock::elapsed`](super::Clock::elapsed).

use std::collections::VecDeque;
use std::time::Duration;

/// The events within a length of time.
pub struct SlidingWindow {
    length: Duration,
    times: VecDeque<Duration>,
}

impl SlidingWindow {
    /// An empty window.
    pub fn new(length: Duration) -> Self {
        Self { length, times: VecDeque::new() }
    }

    /// Takes one of `max` places, if one is free.
    pub fn try_take(&mut self, now: Duration, max: usize) -> bool {
        if self.taken(now) >= max {
            return false;
        }
        self.times.push_back(now);
        true
    }

    /// Gives back the place that was taken at this time.
    pub fn give_back(&mut self, taken_at: Duration) {
        if let Some(place) = self.times.iter().rposition(|&time| time == taken_at) {
            self.times.remove(place);
        }
    }

    /// Whether no place is taken, including expired ones.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The places that are taken.
    pub fn taken(&mut self, now: Duration) -> usize {
        while self.times.front().is_some_and(|&time| now.saturating_sub(time) >= self.length) {
            self.times.pop_front();
        }
        self.times.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_window_has_as_many_places_as_it_is_asked_for_within_its_length() {
        let mut window = SlidingWindow::new(SECOND * 10);
        let mut take = |second, max| window.try_take(SECOND * second, max);
        assert_eq!(
            [take(0, 2), take(1, 2), take(9, 2), take(10, 2), take(10, 2), take(11, 2)],
            [true, true, false, true, false, true]
        );
        // Another number counts for places that were taken before.
        assert_eq!([take(11, 1), take(11, 3), take(11, 3)], [false, true, false]);
        window.give_back(SECOND * 10);
        window.give_back(SECOND * 10);
        assert_eq!(window.taken(SECOND * 12), 2, "a place is given back once");
        assert_eq!(window.taken(SECOND * 20), 2, "the one that was taken first was given back");
        assert_eq!(window.taken(SECOND * 21), 0);
    }
}
