//! The rows of denials in the store.
//!
//! A denial changes nothing, so its row is written after it, by a separate task: no request waits for it.  A caller who
//! is known has ten rows a minute; callers who are not known share one a minute for each action and each name that is
//! known.  What comes beyond is folded at the end of the minute: a row stands for denials of one action, says how many
//! they are, and of all else (why, which key, from which address) only what is the same for all of them.  A known
//! caller has a row for each action and reason, ten a minute at most, and one more that only says how many more there
//! were.  What is held in memory is bounded; a row that cannot be written is counted, and its line is in the audit log.

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
/// The kind of a merged row for unauthenticated callers.
const ROWS_OF_STRANGERS: u32 = 1;
/// The maximum number of kinds of denials of one caller that are distinguished without a separate row.
const MAX_FOLDS: usize = 10;
/// The action of the row that stands for all others.
pub(super) const FURTHER_DENIALS: &str = "further changes denied";
/// The minute.
const INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of callers, and of kinds of denials of unauthenticated callers, that are distinguished at a time.
const MAX_KINDS: usize = 10_000;
/// How many rows wait to be written.
const MAX_WAITING: usize = 1000;
/// How many rows are written at a time.
const BATCH: usize = 100;
/// How often the minutes are looked at.
const TICK: Duration = Duration::from_secs(1);

/// The callers with denials that are counted together.
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
    /// Those that were not.
    folds: Vec<Fold>,
}

/// Denials that become one row.
#[derive(Debug)]
struct Fold {
    /// The values that are equal in all of them; the time is that of the last one.
    row: NewAuditRow,
    /// How many they are.
    count: i64,
}

impl Fold {
    fn is_of(&self, row: &NewAuditRow) -> bool {
        self.row.action == row.action && self.row.status == row.status && self.row.reason == row.reason
    }

    /// One more of the same action.
    fn add(&mut self, more: &NewAuditRow) {
        fn keep_same<T: PartialEq>(kept: &mut Option<T>, other: &Option<T>) {
            if kept != other {
                *kept = None;
            }
        }
        let row = &mut self.row;
        row.at = more.at;
        keep_same(&mut row.status, &more.status);
        keep_same(&mut row.reason, &more.reason);
        keep_same(&mut row.credential, &more.credential);
        keep_same(&mut row.address, &more.address);
        keep_same(&mut row.user, &more.user);
        keep_same(&mut row.source, &more.source);
        keep_same(&mut row.account_id, &more.account_id);
        keep_same(&mut row.account_name, &more.account_name);
        keep_same(&mut row.key_id, &more.key_id);
        keep_same(&mut row.key_name, &more.key_name);
        self.count += 1;
    }
}

impl Minute {
    fn new(began_at: Instant, written: u32) -> Self {
        Self { began_at, written, folds: Vec::new() }
    }

    /// Takes over a denial that has no row of its own.
    fn fold(&mut self, row: NewAuditRow) {
        let is_stranger = row.by.is_none();
        if let Some(fold) = self.folds.iter_mut().find(|fold| is_stranger || fold.is_of(&row)) {
            fold.add(&row);
            return;
        }
        if self.folds.len() < MAX_FOLDS {
            self.folds.push(Fold { row, count: 1 });
            return;
        }
        let further = NewAuditRow {
            at: row.at,
            action: FURTHER_DENIALS.to_owned(),
            by: row.by,
            credential: row.credential,
            address: row.address,
            ..NewAuditRow::default()
        };
        match self.folds.iter_mut().find(|fold| fold.is_of(&further)) {
            Some(fold) => fold.add(&further),
            None => self.folds.push(Fold { row: further, count: 1 }),
        }
    }
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
    /// Takes a denial over.  `log` counts those that are over the limit.
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
    /// Takes a denial over; false where that is over the limit.
    fn add(&mut self, row: NewAuditRow, now: Instant) -> bool {
        let (kind, most) = match &row.by {
            Some(by) => (Kind::Caller(by.clone()), ROWS_OF_CALLER),
            None => {
                (Kind::Strangers(row.action.clone(), row.user.clone(), row.source.clone()), ROWS_OF_STRANGERS)
            }
        };
        let has_capacity = self.minutes.len() < MAX_KINDS;
        let minute = match self.minutes.entry(kind) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) if has_capacity => entry.insert(Minute::new(now, 0)),
            Entry::Vacant(_) => return false,
        };
        if minute.written < most {
            if self.rows.len() >= MAX_WAITING {
                return false;
            }
            minute.written += 1;
            self.rows.push(row);
        } else {
            minute.fold(row);
        }
        true
    }

    /// Ends minutes: what was folded in them becomes rows, which for strangers are the first of the next minute.
    fn end_minutes(&mut self, is_over: impl Fn(&Minute) -> bool, now: Instant) {
        let Self { minutes, rows, .. } = self;
        minutes.retain(|kind, minute| {
            if !is_over(minute) {
                return true;
            }
            if minute.folds.is_empty() {
                return false;
            }
            let folded = minute.folds.drain(..);
            rows.extend(
                folded.map(|Fold { row, count }| NewAuditRow { count: (count > 1).then_some(count), ..row }),
            );
            let written = match kind {
                Kind::Caller(_) => 0,
                Kind::Strangers(..) => 1,
            };
            *minute = Minute::new(now, written);
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
    fn a_row_that_stands_for_several_says_only_what_is_true_of_all() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let of = |action: &str, reason: &str, key_id| NewAuditRow {
            status: Some(403),
            reason: Some(reason.to_owned()),
            address: Some("192.0.2.1".to_owned()),
            key_id: Some(key_id),
            ..denial(Some("ann"), action, None)
        };
        (0..10).for_each(|_| assert!(waiting.add(of("API key not created", "not_admitted", 1), now)));
        assert_eq!(waiting.next().len(), 10);
        for (action, reason, key_id) in [
            ("API key not created", "not_admitted", 1),
            ("API key not revoked", "not_admitted", 7),
            ("API key not revoked", "not_admitted", 7),
            ("API key not deleted", "not_admitted", 8),
            ("API key not deleted", "key_not_found", 9),
            ("API key not deleted", "not_admitted", 9),
        ] {
            waiting.add(of(action, reason, key_id), now);
        }
        waiting.end_minutes(|_| true, now);
        let rows = waiting.next();
        let told: Vec<_> = rows
            .iter()
            .map(|row| (&*row.action, row.reason.as_deref().unwrap_or_default(), row.key_id, row.count))
            .collect();
        let expected = [
            ("API key not created", "not_admitted", Some(1), None),
            ("API key not revoked", "not_admitted", Some(7), Some(2)),
            ("API key not deleted", "not_admitted", None, Some(2)),
            ("API key not deleted", "key_not_found", Some(9), None),
        ];
        assert_eq!(told, expected);
        assert!(rows.iter().all(|row| row.address.as_deref() == Some("192.0.2.1")), "{rows:?}");

        // A caller who tries everything has no more than ten rows of both kinds, and one for the rest.
        for number in 0..100 {
            waiting.add(of("API key not deleted", &format!("reason-{number}"), number), now);
        }
        assert_eq!(waiting.next().len(), 10);
        waiting.end_minutes(|_| true, now);
        let rows = waiting.next();
        let last = NewAuditRow {
            address: Some("192.0.2.1".to_owned()),
            count: Some(80),
            ..denial(Some("ann"), FURTHER_DENIALS, None)
        };
        assert_eq!((rows.len(), rows.last()), (11, Some(&last)));
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
