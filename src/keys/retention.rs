//! Retention of stored data: unused keys expire (`keys.max_idle`).  Dead keys (`keys.forget_after`), old ended records
//! of people, old rows of the audit, and old states of log-in attempts are deleted.
//!
//! States are deleted every ten minutes, everything else once an hour, by every process that may write to the store:
//! the store gives each process different rows.  One call changes at most a thousand rows, and the follower reads the
//! store between two calls.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::audit::MAX_ROWS;
use super::people::ENDED_PERSON_RETENTION;
use super::store::{ForgottenKeys, ForgottenRows, Upkeep};
use super::{KeySettings, Keys, OPERATION_TIMEOUT, Role, with_timeout};

/// How often to look for keys that are dead for long enough, and for unused ones.
const INTERVAL: Duration = Duration::from_secs(3600);
/// How often to look for states that were used long enough ago.  The store holds at most the attempts of the life of an
/// attempt, the time for which a state is remembered, and this interval: 10 a second for each process within 40
/// minutes.
const STATES_INTERVAL: Duration = Duration::from_secs(600);
/// How many keys, records of people or states are deleted at once.
const FORGET_BATCH: u32 = 1000;
/// How many keys expire at once: each has a line in the audit log.
const EXPIRE_BATCH: u32 = 100;
/// How long the store must have been readable before a missing use means that there was no use: after an outage every
/// process writes the uses from that time.
const USES_ARRIVE_WITHIN: Duration = Duration::from_secs(600);
/// A longer pause between two readings was an outage.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// A use is written within this time.
const USE_IS_WRITTEN_WITHIN: Duration = Duration::from_secs(60);

/// When the keys of one store are scanned, and the progress of the scan.
#[derive(Debug)]
pub(super) struct Retention {
    expire_at: Instant,
    forget_at: Instant,
    forget_people_at: Instant,
    forget_states_at: Instant,
    forget_audit_at: Instant,
    /// Whether it was logged that this role may not delete rows of the audit.
    is_audit_kept: bool,
    /// The rows of the audit that were deleted since this round began.
    forgotten_rows: ForgottenRows,
    readable_since: Instant,
    readable_at: Instant,
    /// The keys that were deleted since this round began.
    forgotten: ForgottenKeys,
}

/// Whether a round of batches is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Unfinished,
    Over,
}

impl Round {
    /// Whether fewer rows were deleted than the size of a batch.
    fn after(deleted: u64) -> Self {
        if deleted < u64::from(FORGET_BATCH) { Self::Over } else { Self::Unfinished }
    }

    /// When the next batch is due.
    fn next_at(self, now: Instant, interval: Duration) -> Instant {
        match self {
            Self::Unfinished => now,
            Self::Over => now + interval,
        }
    }
}

impl Retention {
    /// The first round is due at once, except for unused keys.
    pub fn new(now: Instant) -> Self {
        Self {
            expire_at: now,
            forget_at: now,
            forget_people_at: now,
            forget_states_at: now,
            forget_audit_at: now,
            is_audit_kept: false,
            forgotten_rows: ForgottenRows::default(),
            readable_since: now,
            readable_at: now,
            forgotten: ForgottenKeys::default(),
        }
    }

    /// Does the work that is due.  Called at each successful reading of the store.
    pub async fn run(&mut self, keys: &Keys, upkeep: &dyn Upkeep, now: Instant) {
        if now.duration_since(self.readable_at) > MAX_PAUSE {
            self.readable_since = now;
        }
        self.readable_at = now;
        if now >= self.forget_people_at {
            self.forget_people_at = keys.forget_people(upkeep).await.next_at(now, INTERVAL);
        }
        if now >= self.forget_states_at {
            // The store has logged an error.
            let forgotten = keys.forget_states(upkeep, FORGET_BATCH).await.unwrap_or_default();
            self.forget_states_at = Round::after(forgotten).next_at(now, STATES_INTERVAL);
        }
        if now >= self.forget_audit_at {
            let round = self.forget_audit(keys, upkeep).await;
            self.forget_audit_at = round.next_at(now, INTERVAL);
        }
        let may_expire = now.duration_since(self.readable_since) >= USES_ARRIVE_WITHIN;
        let (expire, forget) = (may_expire && now >= self.expire_at, now >= self.forget_at);
        if !expire && !forget {
            return;
        }
        let Some(settings) = keys.present_settings() else {
            return;
        };
        if expire {
            self.expire_at = keys.expire_idle(upkeep, &settings).await.next_at(now, INTERVAL);
        }
        if forget {
            let round = keys.forget_dead(upkeep, &settings, &mut self.forgotten).await;
            self.forget_at = round.next_at(now, INTERVAL);
            if round == Round::Over {
                let ForgottenKeys { expired, revoked } = std::mem::take(&mut self.forgotten);
                if expired + revoked > 0 {
                    tracing::info!(expired, revoked, "expired and revoked keys were deleted from the store");
                }
            }
        }
    }
}

impl Retention {
    /// Deletes the rows of the audit that are too old or too many.
    async fn forget_audit(&mut self, keys: &Keys, upkeep: &dyn Upkeep) -> Round {
        match with_timeout(OPERATION_TIMEOUT, upkeep.forget_audit(FORGET_BATCH)).await {
            Ok(ForgottenRows { old, excess }) => {
                self.is_audit_kept = false;
                self.forgotten_rows.old += old;
                self.forgotten_rows.excess += excess;
                keys.count_excess_rows(excess);
                let round = Round::after(old + excess);
                if round == Round::Over {
                    std::mem::take(&mut self.forgotten_rows).tell();
                }
                round
            }
            Err(error) if error.0.is_forbidden() => {
                if !std::mem::replace(&mut self.is_audit_kept, true) {
                    tracing::warn!(
                        reason = error.0.to_string(),
                        "old rows of the audit stay in the store: the database role of this server may not run \
                         api_forget_audit"
                    );
                }
                Round::Over
            }
            Err(error) => {
                keys.write_failed("delete old rows of the audit", &error);
                Round::Over
            }
        }
    }
}

impl ForgottenRows {
    /// Logs the deletions.
    fn tell(self) {
        let Self { old, excess } = self;
        if excess > 0 {
            tracing::warn!(
                rows = excess,
                max_rows = MAX_ROWS,
                "rows of the audit were deleted before 400 days: the store has more rows than its limit"
            );
        }
        if old > 0 {
            tracing::info!(rows = old, "old rows of the audit were deleted from the store");
        }
    }
}

impl Keys {
    /// Gives the current settings to the background tasks.  Until then no key is deleted or expires because it was not
    /// used.  Later calls have no effect.
    pub fn follow_settings(&self, present: impl Fn() -> Option<KeySettings> + Send + Sync + 'static) {
        let _ = self.settings.set(Box::new(present));
    }

    fn present_settings(&self) -> Option<KeySettings> {
        self.settings.get().and_then(|present| present())
    }

    /// Deletes old ended records of people.
    async fn forget_people(&self, upkeep: &dyn Upkeep) -> Round {
        let forget = upkeep.forget_people(self.time_ago(ENDED_PERSON_RETENTION), FORGET_BATCH);
        match with_timeout(OPERATION_TIMEOUT, forget).await {
            Ok(people) => {
                if people > 0 {
                    tracing::info!(people, "old ended records of people were deleted from the store");
                }
                Round::after(people)
            }
            Err(error) => {
                self.write_failed("delete old ended records of people", &error);
                Round::Over
            }
        }
    }

    /// Expires unused keys.
    async fn expire_idle(&self, upkeep: &dyn Upkeep, settings: &KeySettings) -> Round {
        let Some(max_idle) = settings.max_idle else {
            return Round::Over;
        };
        let used_until = self.time_ago(signed(max_idle.saturating_add(USE_IS_WRITTEN_WITHIN)));
        let expire = upkeep.expire_idle(self.clock.now(), used_until, EXPIRE_BATCH);
        match with_timeout(OPERATION_TIMEOUT, expire).await {
            Ok(expired) => {
                for key in &expired {
                    tracing::info!(
                        target: "audit",
                        max_idle = as_configured(max_idle),
                        key.id = key.id,
                        key.name = key.name,
                        key.role = key.role.map(Role::as_str),
                        key.expires = key.expires_at.map(|at| at.to_string()),
                        last_used = key.last_used_at.map(|at| at.to_string()),
                        "API key expired because it was not used"
                    );
                }
                if expired.len() < EXPIRE_BATCH as usize { Round::Over } else { Round::Unfinished }
            }
            Err(error) => {
                self.write_failed("let unused keys expire", &error);
                Round::Over
            }
        }
    }

    /// Deletes keys that are dead for long enough, and adds their number to `forgotten`.
    async fn forget_dead(
        &self,
        upkeep: &dyn Upkeep,
        settings: &KeySettings,
        forgotten: &mut ForgottenKeys,
    ) -> Round {
        let Some(forget_after) = settings.forget_after else {
            return Round::Over;
        };
        let forget = upkeep.forget_keys(self.time_ago(signed(forget_after)), FORGET_BATCH);
        match with_timeout(OPERATION_TIMEOUT, forget).await {
            Ok(batch) => {
                *forgotten += batch;
                let ForgottenKeys { expired, revoked } = batch;
                if batch.total() > 0 {
                    tracing::info!(
                        target: "audit",
                        expired,
                        revoked,
                        forget_after = as_configured(forget_after),
                        "dead API keys deleted"
                    );
                }
                Round::after(batch.total())
            }
            Err(error) => {
                self.write_failed("delete dead keys", &error);
                Round::Over
            }
        }
    }
}

/// A duration in the format of the configuration, such as `90d`.  humantime would write months, with 30.44 days each.
fn as_configured(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)).unwrap_or((1, "s"));
    format!("{}{name}", seconds / unit)
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_operators_write_them() {
        for (seconds, expected) in
            [(90 * 86_400, "90d"), (86_400, "1d"), (36 * 3600, "36h"), (86_460, "1441m"), (86_401, "86401s")]
        {
            assert_eq!(as_configured(Duration::from_secs(seconds)), expected);
        }
    }
}
