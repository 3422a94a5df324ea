//! Locking users out after wrong passwords.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wrong passwords within [`LOCKOUT_TIME`] that lock a user out.
const MAX_FAILURES: usize = 5;
/// How long a failure counts, and how long a user is locked out.
const LOCKOUT_TIME: Duration = Duration::from_secs(5 * 60);

/// The result of an attempt to authenticate with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptResult {
    Right,
    Wrong,
    /// The user is locked out, whether or not the password is right.
    Locked,
}

/// The failures of each user.  Only configured users are counted, so a client cannot make it grow.
#[derive(Default)]
pub(super) struct Lockout {
    users: HashMap<Arc<str>, Failures>,
}

#[derive(Default)]
struct Failures {
    recent: VecDeque<Instant>,
    locked_until: Option<Instant>,
}

impl Lockout {
    /// Records an attempt.  `user` is `None` for an unknown name.
    pub fn record(&mut self, user: Option<&Arc<str>>, matches: bool, now: Instant) -> AttemptResult {
        let Some(user) = user else {
            return AttemptResult::Wrong;
        };
        let failures = self.users.entry(Arc::clone(user)).or_default();
        if failures.locked_until.is_some_and(|until| now < until) {
            return AttemptResult::Locked;
        }
        if !matches {
            failures.add(now, user);
            return AttemptResult::Wrong;
        }
        AttemptResult::Right
    }

    /// Keeps only the failures of these users.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        self.users.retain(|user, _| is_kept(user));
    }

    #[cfg(test)]
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(|user| &**user)
    }
}

impl Failures {
    fn add(&mut self, now: Instant, user: &str) {
        self.recent.retain(|&failed| now.duration_since(failed) < LOCKOUT_TIME);
        self.recent.push_back(now);
        if self.recent.len() >= MAX_FAILURES {
            self.recent.clear();
            self.locked_until = Some(now + LOCKOUT_TIME);
            tracing::warn!(target: "audit", user, seconds = LOCKOUT_TIME.as_secs(), "user locked after wrong passwords");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_counts_recent_failures_alone_and_ends() {
        let mut lockout = Lockout::default();
        let name: Arc<str> = "alice".into();
        let start = Instant::now();
        let mut guess = |second: u64, matches: bool| {
            lockout.record(Some(&name), matches, start + Duration::from_secs(second))
        };
        // Four failures, and a fifth when the first is old: no lock.
        for second in [0, 1, 2, 3, 300] {
            assert_eq!(guess(second, false), AttemptResult::Wrong);
        }
        assert_eq!(guess(300, true), AttemptResult::Right);
        let fifth = "the fifth within five minutes: the right one between them does not help";
        assert_eq!(guess(300, false), AttemptResult::Wrong, "{fifth}");
        for (second, matches) in [(301, true), (302, false), (599, true)] {
            assert_eq!(guess(second, matches), AttemptResult::Locked, "{second}");
        }
        assert_eq!(guess(600, true), AttemptResult::Right, "five minutes after the fifth failure");
    }
}
