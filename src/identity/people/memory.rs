//! Bounded memory for values that expire.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::clock::sliding_window::SlidingWindow;

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

    /// The entry, if it is younger than this.
    pub fn get(&self, key: &K, now: Duration, max_age: Duration) -> Option<&V> {
        let (made_at, value) = self.entries.get(key)?;
        (now.saturating_sub(*made_at) < max_age).then_some(value)
    }

    /// Removes an entry.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Inserts an entry, or renews it.
    pub fn insert(&mut self, key: K, value: V, now: Duration) {
        self.entries.insert(key.clone(), (now, value));
        self.oldest_first.push_back((now, key));
        while self.entries.len() > self.max || self.oldest_first.len() > 2 * self.max {
            let Some((made_at, oldest)) = self.oldest_first.pop_front() else {
                return;
            };
            // It may have been renewed since.
            if self.entries.get(&oldest).is_some_and(|(at, _)| *at == made_at) {
                self.entries.remove(&oldest);
            }
        }
    }

    /// Keeps only these entries.
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

/// A [`SlidingWindow`] for each of a bounded number of keys.  A window with a taken place is not evicted.
pub(super) struct Windows<K> {
    max_keys: usize,
    length: Duration,
    windows: HashMap<K, SlidingWindow>,
    /// When empty windows were last removed.
    cleaned_at: Option<Duration>,
}

impl<K: Hash + Eq + Clone> Windows<K> {
    /// How often empty windows are removed while the limit is reached.
    const CLEAN_INTERVAL: Duration = Duration::from_secs(1);

    /// Windows of this length for at most this many keys.
    pub fn new(max_keys: usize, length: Duration) -> Self {
        Self { max_keys, length, windows: HashMap::new(), cleaned_at: None }
    }

    /// Takes one of the `max` places of a key.
    ///
    /// # Errors
    /// No place is free, or the limit of keys is reached.
    pub fn try_take(&mut self, key: &K, now: Duration, max: usize) -> Result<(), WindowFull> {
        if let Some(window) = self.windows.get_mut(key) {
            return if window.try_take(now, max) { Ok(()) } else { Err(WindowFull::AllTaken) };
        }
        let is_cleaned = |at: Duration| now.saturating_sub(at) < Self::CLEAN_INTERVAL;
        if self.windows.len() >= self.max_keys && !self.cleaned_at.is_some_and(is_cleaned) {
            self.cleaned_at = Some(now);
            self.windows.retain(|_, window| window.taken(now) > 0);
        }
        if self.windows.len() >= self.max_keys {
            return Err(WindowFull::TooManyKeys);
        }
        let mut window = SlidingWindow::new(self.length);
        if !window.try_take(now, max) {
            return Err(WindowFull::AllTaken);
        }
        self.windows.insert(key.clone(), window);
        Ok(())
    }

    /// Releases the place of a key that was taken at this time.
    pub fn give_back(&mut self, key: &K, taken_at: Duration) {
        let Some(window) = self.windows.get_mut(key) else { return };
        window.give_back(taken_at);
        if window.is_empty() {
            self.windows.remove(key);
        }
    }

    /// The number of taken places of a key.
    pub fn taken(&mut self, key: &K, now: Duration) -> usize {
        self.windows.get_mut(key).map_or(0, |window| window.taken(now))
    }
}

/// Why no place is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowFull {
    /// All places of the key are taken.
    AllTaken,
    /// The limit of keys is reached.
    TooManyKeys,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_oldest_entry_goes_first_and_a_renewed_one_stays() {
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
    fn a_window_with_a_place_that_is_taken_makes_room_for_no_other() {
        let mut windows = Windows::new(2, SECOND * 10);
        let mut take = |key, second| windows.try_take(&key, SECOND * second, 1);
        assert_eq!([take("ann", 0), take("bob", 5)], [Ok(()); 2]);
        for second in [5, 6, 9] {
            assert_eq!(take("carol", second), Err(WindowFull::TooManyKeys));
            assert_eq!([take("ann", second), take("bob", second)], [Err(WindowFull::AllTaken); 2]);
        }
        assert_eq!([take("carol", 10), take("dora", 14)], [Ok(()), Err(WindowFull::TooManyKeys)]);
        assert_eq!(take("dora", 15), Ok(()));
        windows.give_back(&"dora", SECOND * 15);
        assert_eq!(
            windows.try_take(&"emil", SECOND * 15, 1),
            Ok(()),
            "nothing is left of what was given back"
        );
        assert_eq!((windows.taken(&"emil", SECOND * 15), windows.taken(&"dora", SECOND * 15)), (1, 0));
        assert_eq!(windows.try_take(&"carol", SECOND * 15, 2), Ok(()), "more places than before");
    }
}
