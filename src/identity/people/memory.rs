//! What is remembered for a while, in a bounded number of entries.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// Entries with the time at which each was made.  One more than the limit drops the oldest.
///
/// Times are readings of [`Clock::elapsed`](crate::clock::Clock::elapsed).
pub(super) struct BoundedMap<K, V> {
    max: usize,
    entries: HashMap<K, (Duration, V)>,
    oldest_first: VecDeque<(Duration, K)>,
}

impl<K: Hash + Eq + Clone, V> BoundedMap<K, V> {
    /// A map of at most this many entries.
    pub fn new(max: usize) -> Self {
        Self { max, entries: HashMap::new(), oldest_first: VecDeque::new() }
    }

    /// The entry, unless it is as old as this.
    pub fn get(&self, key: &K, now: Duration, max_age: Duration) -> Option<&V> {
        let (made_at, value) = self.entries.get(key)?;
        (now.saturating_sub(*made_at) < max_age).then_some(value)
    }

    /// The entry, whatever its age.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|(_, value)| value)
    }

    /// Inserts an entry, or makes it anew.
    pub fn insert(&mut self, key: K, value: V, now: Duration) {
        self.entries.insert(key.clone(), (now, value));
        self.oldest_first.push_back((now, key));
        while self.entries.len() > self.max || self.oldest_first.len() > 2 * self.max {
            let Some((made_at, oldest)) = self.oldest_first.pop_front() else {
                return;
            };
            // It may have been made anew since.
            if self.entries.get(&oldest).is_some_and(|(at, _)| *at == made_at) {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Keeps these entries alone.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&K, &V) -> bool) {
        let Self { entries, oldest_first, .. } = self;
        entries.retain(|key, (_, value)| is_kept(key, value));
        oldest_first.retain(|(made_at, key)| entries.get(key).is_some_and(|(at, _)| at == made_at));
    }

    /// The number of entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// How often something happened within a length of time: at most `max` times.
pub(super) struct SlidingWindow {
    max: usize,
    length: Duration,
    times: VecDeque<Duration>,
}

impl SlidingWindow {
    /// A window in which nothing has happened.
    pub fn new(max: usize, length: Duration) -> Self {
        Self { max, length, times: VecDeque::new() }
    }

    /// Takes one of the places, if there is one.
    pub fn try_take(&mut self, now: Duration) -> bool {
        while self.times.front().is_some_and(|&time| now.saturating_sub(time) >= self.length) {
            self.times.pop_front();
        }
        if self.times.len() >= self.max {
            return false;
        }
        self.times.push_back(now);
        true
    }

    /// Gives the place back that was taken last.
    pub fn give_back(&mut self) {
        self.times.pop_back();
    }

    /// The places that are taken.
    pub fn taken(&self) -> usize {
        self.times.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_oldest_entry_goes_first_and_one_that_was_made_anew_stays() {
        let mut map = BoundedMap::new(3);
        for (second, key) in [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "d")] {
            map.insert(key, second, SECOND * second);
        }
        let has = |key| map.get(&key, SECOND * 5, SECOND * 100).is_some();
        assert_eq!(["a", "b", "c", "d"].map(has), [true, false, true, true]);
        assert_eq!(map.len(), 3);
    }

    #[test]
    fn an_entry_counts_until_it_is_as_old_as_asked_for() {
        let mut map = BoundedMap::new(3);
        map.insert("a", (), SECOND);
        assert!(map.get(&"a", SECOND * 10, SECOND * 10).is_some());
        assert!(map.get(&"a", SECOND * 11, SECOND * 10).is_none());
        assert!(map.get(&"a", SECOND, Duration::ZERO).is_none());
    }

    #[test]
    fn a_map_that_sees_one_key_for_ever_stays_small() {
        let mut map = BoundedMap::new(2);
        for second in 0..1000 {
            map.insert("a", second, SECOND * second);
        }
        assert_eq!(map.len(), 1);
        assert!(map.oldest_first.len() <= 4);
        map.retain(|_, _| false);
        assert_eq!((map.len(), map.oldest_first.len()), (0, 0));
    }

    #[test]
    fn a_window_has_as_many_places_as_it_has_within_its_length() {
        let mut window = SlidingWindow::new(2, SECOND * 10);
        let mut take = |second| window.try_take(SECOND * second);
        assert_eq!(
            [take(0), take(1), take(9), take(10), take(10), take(11)],
            [true, true, false, true, false, true]
        );
        window.give_back();
        assert!(window.try_take(SECOND * 12));
        assert_eq!(window.taken(), 2);
    }
}
