//! The rows of denials in the store.
//!
//! A denial changes nothing, so its row is written after it, by a task of its own: nobody waits for that.  A caller who is
//! known has ten rows a minute; callers who are not known share one a minute for each action and each name that is known.
//! What comes beyond is told by one more row at the end of the minute, which says how many it stands for.  What is held in
//! memory is bounded; a row that cannot be written is counted, and its line stands in the audit log.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::keys::Keys;
use crate::keys::audit::NewAuditRow;
use crate::telemetry::audit_log::AuditLog;

/// How many rows a known caller has a minute.
const ROWS_OF_CALLER: u32 = 10;
/// What is one row for strangers.
const ROWS_OF_STRANGERS: u32 = 1;
/// The minute.
const INTERVAL: Duration = Duration::from_secs(60);
/// How many callers, and kinds of denials of strangers, are told apart at a time.
const MAX_KINDS: usize = 10_000;
/// How many rows wait to be written.
const MAX_WAITING: usize = 1000;
/// How many rows are written at a time.
const BATCH: usize = 100;
/// How often the minutes are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Whose denials are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    /// Those of the actor of this id.
    Caller(String),
    /// Those of strangers with this message, and this user and source where they are known.
    Strangers(String, Option<String>, Option<String>),
}

/// A minute of denials of one kind.
#[derive(Debug)]
struct Minute {
    began_at: Instant,
    /// How many were written by themselves.
    written: u32,
    /// Those that were not: the last one, and how many they are.
    merged: Option<(NewAuditRow, i64)>,
}

#[derive(Debug, Default)]
struct Waiting {
    minutes: HashMap<Kind, Minute>,
    rows: Vec<NewAuditRow>,
    is_closed: bool,
}

/// The denials that are to be written into the store.
#[derive(Debug, Default)]
pub(in crate::admin) struct Denials {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

impl Denials {
    /// Takes a denial over.  `log` counts those for which there is no room.
    pub fn add(&self, row: NewAuditRow, log: &AuditLog) {
        let is_taken = self.lock().add(row, Instant::now());
        if !is_taken {
            log.count_rows_not_stored(1);
        }
        self.wake.notify_one();
    }

    /// Writes rows until [`Denials::close`], and those that are left then.
    pub async fn write(&self, keys: &Keys, log: &AuditLog) {
        loop {
            // A minute may end without a further denial.
            let _ = tokio::time::timeout(TICK, self.wake.notified()).await;
            let is_closed = {
                let mut waiting = self.lock();
                let now = Instant::now();
                waiting.end_minutes(|minute| now.duration_since(minute.began_at) >= INTERVAL, now);
                if waiting.is_closed {
                    waiting.end_minutes(|_| true, now);
                }
                waiting.is_closed
            };
            loop {
                let rows = self.lock().next();
                if rows.is_empty() {
                    break;
                }
                if keys.write_audit(&rows).await.is_err() {
                    log.count_rows_not_stored(rows.len() as u64);
                }
            }
            if is_closed {
                return;
            }
        }
    }

    /// Lets the writer end.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// A poisoned lock is used all the same: no holder panics in the middle of a change.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Takes a denial over; false where there is no room for it.
    fn add(&mut self, row: NewAuditRow, now: Instant) -> bool {
        let (kind, most) = match &row.by {
            Some(by) => (Kind::Caller(by.clone()), ROWS_OF_CALLER),
            None => {
                (Kind::Strangers(row.action.clone(), row.user.clone(), row.source.clone()), ROWS_OF_STRANGERS)
            }
        };
        let has_room = self.minutes.len() < MAX_KINDS;
        let minute = match self.minutes.entry(kind) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if has_room => {
                entry.insert(Minute { began_at: now, written: 0, merged: None })
            }
            Entry::Vacant(_) => return false,
        };
        if minute.written < most {
            if self.rows.len() >= MAX_WAITING {
                return false;
            }
            minute.written += 1;
            self.rows.push(row);
        } else {
            let count = minute.merged.as_ref().map_or(0, |(_, count)| *count);
            minute.merged = Some((row, count + 1));
        }
        true
    }

    /// Ends minutes: what was merged in them becomes rows, each of which is the first of the next minute.
    fn end_minutes(&mut self, is_over: impl Fn(&Minute) -> bool, now: Instant) {
        let Self { minutes, rows, .. } = self;
        minutes.retain(|kind, minute| {
            if !is_over(minute) {
                return true;
            }
            let Some((row, count)) = minute.merged.take() else {
                return false;
            };
            rows.push(NewAuditRow { count: (count > 1).then_some(count), ..row });
            let written = match kind {
                Kind::Caller(_) => 0,
                Kind::Strangers(..) => 1,
            };
            *minute = Minute { began_at: now, written, merged: None };
            true
        });
    }

    /// The next rows to be written.
    fn next(&mut self) -> Vec<NewAuditRow> {
        let count = self.rows.len().min(BATCH);
        self.rows.drain(..count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(by: Option<&str>, action: &str, user: Option<&str>) -> NewAuditRow {
        NewAuditRow {
            by: by.map(str::to_owned),
            action: action.to_owned(),
            user: user.map(str::to_owned),
            ..NewAuditRow::default()
        }
    }

    fn counts(rows: &[NewAuditRow]) -> Vec<Option<i64>> {
        rows.iter().map(|row| row.count).collect()
    }

    #[test]
    fn a_caller_has_ten_rows_a_minute_and_one_for_the_rest() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        for _ in 0..25 {
            assert!(waiting.add(denial(Some("ann"), "API key not created", None), start));
        }
        assert!(waiting.add(denial(Some("bob"), "API key not created", None), start));
        assert_eq!(counts(&waiting.next()), vec![None; 11]);
        let over = |minute: &Minute| minute.began_at + INTERVAL <= start + INTERVAL;
        waiting.end_minutes(|_| false, start);
        assert!(waiting.next().is_empty());
        waiting.end_minutes(over, start + INTERVAL);
        assert_eq!(counts(&waiting.next()), [Some(15)]);
        assert_eq!(waiting.minutes.len(), 1, "bob is forgotten");
        // Ann's next minute.
        for _ in 0..11 {
            waiting.add(denial(Some("ann"), "API key not deleted", None), start + INTERVAL);
        }
        assert_eq!(waiting.next().len(), 10);
        waiting.end_minutes(|_| true, start + INTERVAL * 2);
        assert_eq!(counts(&waiting.next()), [None], "one row of one denial");
        waiting.end_minutes(|_| true, start + INTERVAL * 3);
        assert!(waiting.minutes.is_empty());
    }

    #[test]
    fn strangers_have_a_row_a_minute_for_each_name_and_action() {
        let (mut waiting, mut now) = (Waiting::default(), Instant::now());
        for _ in 0..50 {
            for (action, user) in
                [("log-in denied", Some("ann")), ("log-in denied", None), ("API key not created", None)]
            {
                assert!(waiting.add(denial(None, action, user), now));
            }
        }
        assert_eq!(counts(&waiting.next()), vec![None; 3]);
        for _ in 0..3 {
            now += INTERVAL;
            waiting.end_minutes(|_| true, now);
            let rows = waiting.next();
            assert_eq!(rows.len(), 3);
            assert!(rows.iter().all(|row| row.count >= Some(49)), "{rows:?}");
            // One of each kind more, in the minute that this row began: none of them is a row of its own.
            for _ in 0..49 {
                for (action, user) in
                    [("log-in denied", Some("ann")), ("log-in denied", None), ("API key not created", None)]
                {
                    waiting.add(denial(None, action, user), now);
                }
            }
            assert!(waiting.next().is_empty());
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let taken =
            (0..MAX_KINDS + 5).filter(|n| waiting.add(denial(Some(&n.to_string()), "x", None), now)).count();
        assert_eq!((taken, waiting.rows.len()), (MAX_WAITING, MAX_WAITING));
        assert!(waiting.minutes.len() <= MAX_KINDS);
        let mut batches = 0;
        while !waiting.next().is_empty() {
            batches += 1;
        }
        assert_eq!(batches, MAX_WAITING / BATCH);
    }
}
