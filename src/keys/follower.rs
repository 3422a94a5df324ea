//! Following the store: reading what others changed, and writing down what was used.
//!
//! The follower reads the changes since the revision that the index shows, twice a second and whenever the store
//! notifies of one.  After an error it reads the whole contents, since the changes in between may be lost.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::store::{Changes, Revision, StoreError, StoreFailure};
use super::usage::PendingUses;
use super::{Keys, with_timeout};

/// How long reading the changes may take.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading the whole contents may take.
const CONTENTS_TIMEOUT: Duration = Duration::from_secs(180);
/// How often the store is read, with or without a notification.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// After a failure the store is read again after this long, then after twice as long, and so on …
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// … up to this.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// How often uses are written.
const WRITE_USES_INTERVAL: Duration = Duration::from_secs(1);
/// How often ended sessions are deleted.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);

/// Follows the store for one process.
pub struct Follower {
    keys: Arc<Keys>,
    uses: PendingUses,
    backoff: Backoff,
    write_uses_at: Instant,
    purge_at: Instant,
}

impl Keys {
    /// Follows the store until the future is dropped.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        Follower::new(self).run().await
    }
}

impl Follower {
    /// A follower whose first tick reads the store, writes uses and deletes ended sessions.
    pub fn new(keys: Arc<Keys>) -> Self {
        let now = Instant::now();
        Self {
            keys,
            uses: PendingUses::default(),
            backoff: Backoff::default(),
            write_uses_at: now,
            purge_at: now,
        }
    }

    /// Reads the store once and, where they are due at `now` and the store could be read, writes the uses and
    /// deletes ended sessions.  Returns how long to wait for a notification before the next tick.
    pub async fn tick(&mut self, now: Instant) -> Duration {
        let read = self.keys.read().await;
        self.report(&read);
        self.uses.receive(&mut *self.keys.used.lock().await);
        if read.is_ok() && now >= self.write_uses_at {
            self.write_uses_at = now + WRITE_USES_INTERVAL;
            self.keys.write_uses(&mut self.uses).await;
        }
        if read.is_ok() && now >= self.purge_at {
            self.purge_at = now + PURGE_INTERVAL;
            self.keys.purge_sessions().await;
        }
        self.backoff.interval()
    }

    /// Ticks for ever.
    ///
    /// A panic does not end it: a replica that hears of no revocation is worse than one that starts again.  A panic
    /// is logged and counted as an error of the store, and the follower starts again with the whole contents.
    pub async fn run(mut self) -> Infallible {
        loop {
            let ended = AssertUnwindSafe(self.run_until_panic()).catch_unwind().await;
            let Err(_panic) = ended;
            self.keys.count_store_error();
            self.backoff.failed();
            let pause = self.backoff.interval();
            tracing::error!(
                seconds = pause.as_secs_f64(),
                "a panic while following the key store: please report this; it begins again"
            );
            sleep(pause).await;
            self.keys.require_full_read().await;
        }
    }

    async fn run_until_panic(&mut self) -> Infallible {
        let keys = Arc::clone(&self.keys);
        let mut notified = Box::pin(keys.notified_after(Duration::ZERO));
        loop {
            let interval = self.tick(Instant::now()).await;
            tokio::select! {
                result = &mut notified => {
                    if result.is_err() {
                        // Notifications may have been missed.
                        keys.require_full_read().await;
                    }
                    let pause = if result.is_ok() { Duration::ZERO } else { interval };
                    notified.set(keys.notified_after(pause));
                }
                () = sleep(interval) => {}
            }
        }
    }

    /// Logs the beginning and the end of an outage, and counts the errors in between.
    fn report(&mut self, read: &Result<(), StoreError>) {
        match read {
            Ok(()) => {
                if let Some(since) = self.backoff.succeeded() {
                    let seconds = since.elapsed().as_secs();
                    tracing::info!(seconds, keys = self.keys.held(), "the key store is back");
                }
            }
            Err(error) => {
                self.keys.count_store_error();
                let is_first = self.backoff.failed();
                if is_first {
                    let (keys, reason) = (self.keys.held(), error.0.to_string());
                    tracing::error!(
                        keys,
                        reason,
                        "the key store cannot be read: known keys go on from memory"
                    );
                }
            }
        }
    }
}

impl Keys {
    /// Waits this long, and then for a notification of the store.
    async fn notified_after(&self, pause: Duration) -> Result<(), StoreError> {
        sleep(pause).await;
        self.store.changed().await
    }

    /// Lets the next reading be of the whole contents.
    async fn require_full_read(&self) {
        *self.index_revision.lock().await = None;
    }

    /// Brings the index up to the store's present revision.
    pub(super) async fn read(&self) -> Result<(), StoreError> {
        let mut revision = self.index_revision.lock().await;
        let read_at = self.clock.now();
        // An error leaves `None`: the next reading is of the whole contents.
        *revision = Some(match revision.take() {
            Some(since) => match with_timeout(CHANGES_TIMEOUT, self.store.changes(since)).await? {
                Changes::Unknown => self.read_contents().await?,
                Changes::Since { revision, keys, deleted_keys, sessions, deleted_sessions } => {
                    keys.into_iter().for_each(|key| self.index.put(key));
                    deleted_keys.into_iter().for_each(|id| self.index.remove(id));
                    sessions.into_iter().for_each(|session| self.index.put_session(session));
                    deleted_sessions.iter().for_each(|digest| self.index.remove_session(digest));
                    revision
                }
            },
            None => self.read_contents().await?,
        });
        self.read_at.store(read_at.as_millisecond(), Ordering::Release);
        self.was_read.send_if_modified(|was_read| !std::mem::replace(was_read, true));
        Ok(())
    }

    async fn read_contents(&self) -> Result<Revision, StoreError> {
        let contents = with_timeout(CONTENTS_TIMEOUT, self.store.contents()).await?;
        let revision = contents.revision;
        // A million entries take a moment, in which this thread has other tasks.
        let index = Arc::clone(&self.index);
        let replaced = tokio::task::spawn_blocking(move || index.replace(contents)).await;
        replaced.map_err(StoreFailure::Index)?;
        Ok(revision)
    }
}

/// How often the store is read: less often while it fails.
#[derive(Default)]
struct Backoff {
    failing_since: Option<Instant>,
    failures: u32,
}

impl Backoff {
    /// Counts a failure; true for the first one of an outage.
    fn failed(&mut self) -> bool {
        let is_first = self.failing_since.is_none();
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert_with(Instant::now);
        is_first
    }

    /// Ends an outage, and returns when it began.
    fn succeeded(&mut self) -> Option<Instant> {
        self.failures = 0;
        self.failing_since.take()
    }

    /// How long to wait before the next reading.
    fn interval(&self) -> Duration {
        match self.failures {
            0 => POLL_INTERVAL,
            failures => {
                let doubled = MIN_RETRY_INTERVAL.saturating_mul(1 << (failures - 1).min(8));
                doubled.min(MAX_RETRY_INTERVAL)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_read_less_often_and_one_that_is_back_as_before() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.interval(), POLL_INTERVAL);
        let mut intervals = Vec::new();
        for number in 0..40 {
            assert_eq!(backoff.failed(), number == 0);
            intervals.push(backoff.interval().as_millis());
        }
        assert_eq!(intervals[..5], [250, 500, 1000, 2000, 2000]);
        assert_eq!(intervals[39], 2000);
        assert!(backoff.succeeded().is_some());
        assert!(backoff.succeeded().is_none());
        assert_eq!(backoff.interval(), POLL_INTERVAL);
    }
}
