//! Follows the store: reads the changes of other processes, and writes uses.
//!
//! The follower has its own thread, with a lower priority than the threads that answer Checks, and its own connections.
//! It reads the store's revision twice a second and at each notification of a change, and reads changes in steps of at
//! most a thousand rows.  After an error it continues from its cursor.  It reads everything only where the store cannot
//! name the changes: at the start, when the change log no longer reaches back far enough, and when the store's history
//! was rewritten.  After each step it reads the revision again, so that a revocation waits for one step at most, and so
//! that a restore during a reading is not mistaken for the previous history.

use std::collections::HashSet;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::retention::Retention;
use super::store::history::Continuity;
use super::store::source::{
    AccountPage, ChangePage, Cursor, KeyPage, LogPosition, Look, PersonPage, Revision, SessionPage, Source,
};
use super::store::{FollowerStore, SCHEMA, StoreError, StoreFailure, Upkeep};
use super::usage::PendingUses;
use super::{Keys, StoreOperation, with_timeout};
use crate::priority;
use crate::token::TokenDigest;

/// How long one reading of the store may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the store is read, with or without a notification.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after a failure is at most this long, then at most twice as long, and so on …
const MIN_RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// … up to this.
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// A replica waits for a random part of this time before it reads everything again, since all replicas need it at the
/// same moment.
const MAX_READING_DELAY: Duration = Duration::from_secs(1);
/// How often uses are written.
const WRITE_USES_INTERVAL: Duration = Duration::from_secs(1);
/// How often ended sessions are deleted.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);
/// How often a writer updates the time stamp that copies of the store read.
const STAMP_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last uses may take to be written when the follower stops, and how long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum number of keys that one log line names.
const MAX_NAMES: usize = 100;
/// The maximum number of reasons that are logged for one outage.
const MAX_REASONS: usize = 10;

/// Follows the store for one process.
pub struct Follower {
    keys: Arc<Keys>,
    store: FollowerStore,
    reader: Reader,
    uses: PendingUses,
    backoff: Backoff,
    /// The reasons that were logged for the current outage.
    logged_reasons: Vec<String>,
    write_uses_at: Instant,
    purge_at: Instant,
    stamp_at: Instant,
    retention: Retention,
}

/// How far the store was read.
#[derive(Default)]
struct Reader {
    /// Every change up to here is in the index, or in one of the windows; `None` before the first reading of the
    /// revision.
    cursor: Option<Cursor>,
    /// The parts of the change log that are still to be read.  The newest, at the end, is read first.
    windows: Vec<Window>,
    /// How far a reading of everything has come.
    reading: Option<Reading>,
    /// The number with which an operator accepts a rewritten history, as of the last reading of the revision.
    accepted: Option<i64>,
    /// The history was rewritten, and the log does not yet name the keys that are live again.
    is_rewritten: bool,
    /// The copy that is read is behind the cursor, and the log says so.
    is_behind: bool,
}

/// A part of the change log.
struct Window {
    from: LogPosition,
    until: Revision,
}

/// How far a reading of everything has come.
enum Reading {
    /// To the service account of this id.  They come first: a key without its account does not authenticate.
    Accounts(i64),
    /// To the key of this id.
    Keys(i64),
    /// To the session of this digest; with those that were found.
    Sessions(Option<TokenDigest>, HashSet<TokenDigest>),
    /// To the person whose record has this id.
    People(i64),
}

impl Reading {
    const START: Self = Self::Accounts(i64::MIN);
}

/// The digests that were read and are not in use yet.
enum Page {
    Changes(ChangePage),
    /// The service accounts with an id above this.
    Accounts(i64, AccountPage),
    /// The keys with an id above this.
    Keys(i64, KeyPage),
    Sessions(SessionPage),
    /// The people with an id above this.
    People(i64, PersonPage),
}

/// Reads the whole store once.
pub(super) async fn read_once(keys: &Arc<Keys>) -> Result<(), StoreError> {
    let mut follower = Follower::new(Arc::clone(keys));
    let read = follower.read().await;
    follower.store.source.close().await;
    read
}

/// The handle of the follower's thread.
pub struct FollowerThread {
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl FollowerThread {
    /// Starts to follow the store.
    ///
    /// # Errors
    /// The operating system gives no thread, or no event queue.
    pub fn start(keys: Arc<Keys>) -> std::io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let follow = move || {
            priority::lower();
            runtime.block_on(async {
                let mut follower = Follower::new(keys);
                tokio::select! {
                    // Also when the other end is dropped.
                    _ = stopped => {}
                    never = follower.run() => match never {},
                }
                follower.finish().await;
            });
        };
        let thread = thread::Builder::new().name("keys".to_owned()).spawn(follow)?;
        Ok(Self { stop, thread })
    }

    /// Stops the follower, which writes the last uses, and waits for its end.
    pub async fn stop(self) {
        // A thread that has ended already has nothing left to stop.
        let _ = self.stop.send(());
        // A panic outside of the loop that catches them has nothing left to stop.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

impl Keys {
    /// Follows the store until the future is dropped, in the runtime of the caller.
    pub async fn follow(self: Arc<Self>) -> Infallible {
        Follower::new(self).run().await
    }
}

impl Follower {
    /// A follower whose first tick reads the store, writes uses and deletes ended sessions.  Its connections belong to
    /// the runtime of the caller.
    pub fn new(keys: Arc<Keys>) -> Self {
        let store = keys.store.for_follower();
        Self::with_store(keys, store)
    }

    /// The same, with these parts.
    pub fn with_store(keys: Arc<Keys>, store: FollowerStore) -> Self {
        let now = Instant::now();
        Self {
            keys,
            store,
            reader: Reader::default(),
            uses: PendingUses::default(),
            backoff: Backoff::default(),
            logged_reasons: Vec::new(),
            write_uses_at: now,
            purge_at: now,
            stamp_at: now,
            retention: Retention::new(now),
        }
    }

    /// Reads the store until the index is up to date.  If the store could be read, it also writes the uses and deletes
    /// ended sessions, where they are due at `now`.  Returns how long to wait for a notification before the next tick.
    pub async fn tick(&mut self, now: Instant) -> Duration {
        let read = self.read().await;
        self.report(&read);
        self.uses.receive(&mut *self.keys.used.lock().await);
        if let (Ok(()), Some(upkeep)) = (read, self.store.upkeep.clone()) {
            self.write(&*upkeep, now).await;
        }
        self.backoff.interval(random_part())
    }

    /// Writes what is due at this instant.
    async fn write(&mut self, upkeep: &dyn Upkeep, now: Instant) {
        if now >= self.write_uses_at {
            self.write_uses_at = now + WRITE_USES_INTERVAL;
            self.keys.write_uses(upkeep, &mut self.uses).await;
        }
        if now >= self.purge_at {
            self.purge_at = now + PURGE_INTERVAL;
            self.keys.purge_sessions(upkeep).await;
        }
        if now >= self.stamp_at {
            self.stamp_at = now + STAMP_INTERVAL;
            if let Err(error) = with_timeout(READ_TIMEOUT, upkeep.stamp()).await {
                self.keys.write_failed("write that this process is there", &error);
            }
        }
        self.retention.run(&self.keys, upkeep, now).await;
    }

    /// Ticks forever.
    ///
    /// A panic does not end it: a replica that sees no revocation is worse than one that starts again.  A panic
    /// is logged and counted as an error of the store, and the follower starts again with the whole contents.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let ended = AssertUnwindSafe(self.run_until_panic()).catch_unwind().await;
            let Err(_panic) = ended;
            self.keys.count_store_error(StoreOperation::Read);
            self.backoff.failed();
            let pause = self.backoff.interval(1.0);
            tracing::error!(
                seconds = pause.as_secs_f64(),
                "a panic while following the key store: please report this; it begins again"
            );
            sleep(pause).await;
            self.reader.read_everything();
        }
    }

    async fn run_until_panic(&mut self) -> Infallible {
        let source = Arc::clone(&self.store.source);
        let mut notified = Box::pin(notified_after(&*source, Duration::ZERO));
        loop {
            let interval = self.tick(Instant::now()).await;
            tokio::select! {
                result = &mut notified => {
                    let pause = if result.is_ok() { Duration::ZERO } else { interval };
                    notified.set(notified_after(&*source, pause));
                }
                () = sleep(interval) => {}
            }
        }
    }

    /// Writes the last uses and closes the connections.
    async fn finish(mut self) {
        if let Some(upkeep) = self.store.upkeep.clone() {
            self.uses.receive(&mut *self.keys.used.lock().await);
            let written = self.keys.write_uses(&*upkeep, &mut self.uses);
            // Late uses are a loss of minutes in `last_used_at`.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, written).await;
        }
        // Connections that do not close in time are cut when the process ends.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.store.source.close()).await;
    }

    /// Reads until the index is up to date.
    async fn read(&mut self) -> Result<(), StoreError> {
        // The first step only reads the revision.  A page that another store does not have would fail forever, and the
        // revision shows that.
        let mut is_page_due = false;
        loop {
            // Not under the gate: a writer that waits for the gate may use the connection that this step needs.
            self.store.source.prepare().await?;
            let gate = self.keys.gate.enter().await;
            let page = if is_page_due { self.read_page().await? } else { None };
            is_page_due = true;
            let started = self.keys.clock.elapsed();
            let look = self.look().await?;
            self.check_schema(look.oldest_reader)?;
            // Under another history the page may show a key as live that was revoked in this one.  The page is used
            // when it is read again, after the dead digests were recorded.
            if let (Some(page), Continuity::Continues) = (page, look.continuity) {
                self.apply(page);
            }
            drop(gate);
            let age = self.note(look).await?;
            if self.reader.windows.is_empty() && self.reader.reading.is_none() {
                self.complete(started, age);
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Records what is to be read.  Returns the age of the store's newest write.
    async fn note(&mut self, look: Look) -> Result<Duration, StoreError> {
        if let Some(accepted) = self.reader.accepted.replace(look.accepted)
            && accepted != look.accepted
        {
            let denied = self.keys.index.denied_len();
            self.keys.index.accept_history();
            tracing::info!(
                denied,
                "the history of the key store was accepted: what was held back works again"
            );
        }
        let Look { cursor, continuity, age, .. } = look;
        match (&self.reader.cursor, continuity) {
            (None, _) => self.reader.read_everything(),
            (Some(_), Continuity::Behind) => {
                if !std::mem::replace(&mut self.reader.is_behind, true) {
                    tracing::warn!(
                        "the copy of the key store that is read now is older than the one that was read before"
                    );
                }
                return Err(StoreError(StoreFailure::Behind));
            }
            (Some(since), Continuity::Continues) => {
                if since.revision != cursor.revision {
                    let from = LogPosition::after(since.revision);
                    self.reader.windows.push(Window { from, until: cursor.revision });
                }
            }
            (Some(_), Continuity::Pruned) => {
                tracing::info!(
                    "the change log of the key store no longer reaches back: all keys are read again"
                );
                sleep(MAX_READING_DELAY.mul_f64(random_part())).await;
                self.reader.read_everything();
            }
            (Some(since), Continuity::Rewritten) => {
                self.keys.history_rewrites.fetch_add(1, Ordering::Relaxed);
                self.keys.index.deny_dead(self.keys.clock.now());
                tracing::error!(
                    known_revision = since.revision.0,
                    revision = cursor.revision.0,
                    known_store = &*since.store,
                    store = &*cursor.store,
                    "the history of the key store was rewritten (restored from a backup, replaced, or failed over \
                     without its last changes): all keys are read again, and the keys that this process knew as \
                     revoked or deleted stay denied"
                );
                self.reader.is_rewritten = true;
                self.reader.read_everything();
            }
        }
        self.reader.is_behind = false;
        self.reader.cursor = Some(cursor);
        Ok(age.unwrap_or_default())
    }

    /// Reads the store's revision, under the gate.
    ///
    /// A store without the commits of this process was rewritten, even if it continues from the cursor: each commit
    /// raises the revision.
    async fn look(&self) -> Result<Look, StoreError> {
        let since = self.reader.cursor.as_ref();
        let mut look = with_timeout(READ_TIMEOUT, self.store.source.look(since)).await?;
        let commits = self.keys.commits.swap(0, Ordering::AcqRel);
        if look.continuity == Continuity::Continues
            && since.is_some_and(|since| look.cursor.revision.0.abs_diff(since.revision.0) < commits)
        {
            look.continuity = Continuity::Rewritten;
        }
        Ok(look)
    }

    /// A newer schema that narrows access may have rules that this version does not know.
    fn check_schema(&self, oldest_reader: i64) -> Result<(), StoreError> {
        let schema_is_too_new = oldest_reader > SCHEMA;
        self.keys.schema_is_too_new.store(schema_is_too_new, Ordering::Relaxed);
        if schema_is_too_new {
            return Err(StoreError(StoreFailure::Outdated { oldest_reader, known: SCHEMA }));
        }
        Ok(())
    }

    /// Reads the next page, if there is one.
    async fn read_page(&self) -> Result<Option<Page>, StoreError> {
        let source = &*self.store.source;
        if let Some(window) = self.reader.windows.last() {
            let page = source.changes(window.from, window.until);
            return Ok(Some(Page::Changes(with_timeout(READ_TIMEOUT, page).await?)));
        }
        Ok(match &self.reader.reading {
            Some(Reading::Accounts(after)) => {
                Some(Page::Accounts(*after, with_timeout(READ_TIMEOUT, source.accounts(*after)).await?))
            }
            Some(Reading::Keys(after)) => {
                Some(Page::Keys(*after, with_timeout(READ_TIMEOUT, source.keys(*after)).await?))
            }
            Some(Reading::Sessions(after, _)) => {
                Some(Page::Sessions(with_timeout(READ_TIMEOUT, source.sessions(*after)).await?))
            }
            Some(Reading::People(after)) => {
                Some(Page::People(*after, with_timeout(READ_TIMEOUT, source.people(*after)).await?))
            }
            None => None,
        })
    }

    /// Applies a page to the index, and records where the next one begins.
    fn apply(&mut self, page: Page) {
        let index = &self.keys.index;
        match page {
            Page::Changes(page) => {
                let Some(window) = self.reader.windows.last_mut() else { return };
                if page.pruned > window.from.complete_revision() {
                    tracing::info!(
                        "the change log of the key store was cut while it was read: all keys are read again"
                    );
                    self.reader.read_everything();
                    return;
                }
                match page.next {
                    Some(next) => window.from = next,
                    None => drop(self.reader.windows.pop()),
                }
                index.apply_changes(page);
            }
            Page::Accounts(after, page) => {
                self.reader.reading = Some(match page.next {
                    Some(next) => Reading::Accounts(next),
                    None => Reading::Keys(i64::MIN),
                });
                index.apply_accounts(after, page);
            }
            Page::Keys(after, page) => {
                self.reader.reading = Some(match page.next {
                    Some(next) => Reading::Keys(next),
                    None => Reading::Sessions(None, HashSet::new()),
                });
                index.apply_keys(after, page);
            }
            Page::Sessions(page) => {
                let Some(Reading::Sessions(after, found)) = &mut self.reader.reading else { return };
                found.extend(page.sessions.iter().map(|session| session.digest));
                page.sessions.into_iter().for_each(|session| index.put_session(session));
                *after = page.next;
                if after.is_none() {
                    index.retain_sessions(found);
                    self.reader.reading = Some(Reading::People(i64::MIN));
                }
            }
            Page::People(after, page) => {
                self.reader.reading = page.next.map(Reading::People);
                index.apply_people(after, page);
            }
        }
    }

    /// The index is up to date as of the start of the last reading of the revision.
    fn complete(&mut self, started: Duration, age: Duration) {
        if std::mem::take(&mut self.reader.is_rewritten) {
            let (names, number) = self.keys.index.retain_denied_but_live(self.keys.clock.now(), MAX_NAMES);
            if number > 0 {
                tracing::error!(
                    denied_digests = number,
                    keys = names.join(", "),
                    "keys or sessions that were dead are live again in the rewritten key store: this process denies them \
                     until it restarts or its history is accepted. First revoke again, by their ids, the keys that are \
                     named here and all others that were revoked since the backup was made; then run \
                     `envoy-auth-tokens keys accept-history`"
                );
            }
        }
        if let Some(cursor) = &self.reader.cursor {
            self.keys.revision.store(cursor.revision.0, Ordering::Relaxed);
        }
        self.keys.mark_read(started, age);
    }

    /// Logs each reason of an outage once, and its end, and counts the errors in between.
    fn report(&mut self, read: &Result<(), StoreError>) {
        match read {
            Ok(()) => {
                if let Some(since) = self.backoff.succeeded() {
                    self.logged_reasons.clear();
                    let seconds = since.elapsed().as_secs();
                    tracing::info!(seconds, keys = self.keys.held(), "the key store is back");
                }
            }
            Err(error) => {
                self.keys.count_store_error(StoreOperation::Read);
                self.backoff.failed();
                let (keys, reason) = (self.keys.held(), error.0.to_string());
                if self.logged_reasons.len() < MAX_REASONS && !self.logged_reasons.contains(&reason) {
                    tracing::error!(
                        keys,
                        reason,
                        "the key store cannot be read: the server uses the keys in memory"
                    );
                    self.logged_reasons.push(reason);
                }
            }
        }
    }
}

impl Reader {
    /// Starts to read everything from the beginning.
    fn read_everything(&mut self) {
        self.windows.clear();
        self.reading = Some(Reading::START);
    }
}

/// Waits this long, and then for a notification of the store.
async fn notified_after(source: &dyn Source, pause: Duration) -> Result<(), StoreError> {
    sleep(pause).await;
    source.changed().await
}

/// A random number from one half to one, so that replicas that failed together do not come back together.
fn random_part() -> f64 {
    // Without randomness replicas return at the same time, which is slower but correct.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}

/// How often the store is read: less often while it fails.
#[derive(Default)]
struct Backoff {
    failing_since: Option<Instant>,
    failures: u32,
}

impl Backoff {
    /// Counts a failure.
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert_with(Instant::now);
    }

    /// Ends an outage, and returns when it began.
    fn succeeded(&mut self) -> Option<Instant> {
        self.failures = 0;
        self.failing_since.take()
    }

    /// How long to wait before the next reading: after a failure, this part of the current pause.
    fn interval(&self, part: f64) -> Duration {
        match self.failures {
            0 => POLL_INTERVAL,
            failures => {
                let doubled = MIN_RETRY_INTERVAL.saturating_mul(1 << (failures - 1).min(8));
                doubled.min(MAX_RETRY_INTERVAL).mul_f64(part)
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
        assert_eq!(backoff.interval(1.0), POLL_INTERVAL);
        let mut intervals = Vec::new();
        for _ in 0..40 {
            backoff.failed();
            intervals.push(backoff.interval(1.0).as_millis());
        }
        assert_eq!(intervals[..5], [250, 500, 1000, 2000, 2000]);
        assert_eq!(intervals[39], 2000);
        assert!(backoff.succeeded().is_some());
        assert!(backoff.succeeded().is_none());
        assert_eq!(backoff.interval(1.0), POLL_INTERVAL);
    }

    #[test]
    fn replicas_that_failed_together_come_back_apart() {
        let parts: Vec<f64> = (0..100).map(|_| random_part()).collect();
        assert!(parts.iter().all(|part| (0.5..=1.0).contains(part)));
        assert!(parts.iter().any(|part| *part < 0.7) && parts.iter().any(|part| *part > 0.8), "{parts:?}");
    }
}
