//! People of a directory: their passwords ([`verification`]), their sessions ([`sessions`]), their keys ([`owners`]),
//! and their principals ([`principal`]).  People of providers have only sessions ([`providers`]).
//!
//! The **claims** of a person are the last answer of the source: the directory's `Entry`, or the provider's ID token.
//! The current rules turn the claims into a principal, so a new role for a group takes effect at the next request, not
//! at the next log-in.

mod in_flight;
mod memory;
mod owners;
mod principal;
pub mod providers;
pub mod records;
pub mod sessions;
mod verification;

pub(super) use self::owners::DecidedBy;
pub use self::principal::{PersonRejection, fitting_role, principal_of, record_of};
pub use self::sessions::{DIRECT_SESSION_TTL, RECHECK_GRACE, RECHECK_INTERVAL};
pub use self::verification::QuestionResult;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use self::memory::BoundedMap;
use self::principal::{PersonParts, cached_principal, principal_of_session, user_of};
use self::sessions::Rechecks;
use self::verification::{Answer, PasswordVerifier};
use super::Purpose;
use crate::clock::Clock;
use crate::config::LdapSettings;
use crate::credential::Principal;
use crate::deny_reason::DenyReason;
use crate::directory::{Directory, RejectionReason};
use crate::keys::sessions::CachedPrincipal;
use crate::person::PersonId;
use crate::secret::Secret;
use crate::snapshot::{Snapshot, SnapshotStore};

/// The maximum number of people in each of the memories: recent answers of the directory, missing answers, and log
/// lines.
const MAX_REMEMBERED: usize = 10_000;
/// The minimum time between two log lines with the same reason about the same person.
const LOG_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// People of the directory.  Clones share the state.
#[derive(Clone)]
pub struct People {
    checks: Arc<Listener>,
    admin: Arc<Listener>,
    rechecks: Arc<Rechecks>,
    /// The reasons, with a name, that were logged recently.
    logged: Arc<Mutex<BoundedMap<String, ()>>>,
    /// The people who authenticated with a password and were recorded recently.
    seen: Arc<Mutex<BoundedMap<PersonId, ()>>>,
    /// The current rules; see [`People::follow`].
    snapshots: Arc<OnceLock<SnapshotStore>>,
    clock: Clock,
}

/// The separate state of each listener: a directory that hangs for one listener does not delay the other.
struct Listener {
    verifier: PasswordVerifier,
    /// Started at the first question.
    directory: Mutex<Option<Arc<Directory>>>,
    /// Whether the directory may be asked.
    may_query: bool,
    clock: Clock,
}

impl People {
    /// Empty state.  The directory is not asked before the first log-in.
    ///
    /// # Errors
    /// The operating system has no randomness.
    pub fn new(clock: Clock) -> Result<Self, getrandom::Error> {
        Self::with(clock, true)
    }

    fn with(clock: Clock, may_query: bool) -> Result<Self, getrandom::Error> {
        Ok(Self {
            checks: Arc::new(Listener::new(true, may_query, &clock)?),
            admin: Arc::new(Listener::new(false, may_query, &clock)?),
            rechecks: Arc::new(Rechecks::new()),
            logged: Arc::new(Mutex::new(BoundedMap::new(MAX_REMEMBERED))),
            seen: Arc::new(Mutex::new(BoundedMap::new(MAX_REMEMBERED))),
            snapshots: Arc::default(),
            clock,
        })
    }

    /// The same, but the directory is never asked and counts as unavailable.
    ///
    /// # Errors
    /// As [`People::new`].
    pub fn without_directory(clock: Clock) -> Result<Self, getrandom::Error> {
        Self::with(clock, false)
    }

    /// From now on records are written under the rules that are current at the time of writing, not at the start of the
    /// question.  Later calls have no effect.
    pub fn follow(&self, snapshots: SnapshotStore) {
        let _ = self.snapshots.set(snapshots);
    }

    /// The current rules, or these where nothing is followed.
    fn current(&self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        self.snapshots.get().map_or_else(|| Arc::clone(snapshot), SnapshotStore::current)
    }

    /// The number of questions of each listener, `check` and `admin`, with each result.
    pub fn questions(&self) -> impl Iterator<Item = (&'static str, QuestionResult, u64)> {
        [("check", &self.checks), ("admin", &self.admin)].into_iter().flat_map(|(name, listener)| {
            let counts = &listener.verifier.counts;
            QuestionResult::ALL.into_iter().map(move |result| (name, result, counts.of(result)))
        })
    }

    /// Verifies the password of a person in the directory.  `name` is normalised, and not that of a configured user.
    ///
    /// # Errors
    /// The password is wrong, the user is unknown, or the answer is not known in time.
    pub async fn verify(
        &self,
        name: &str,
        password: &Secret,
        settings: &Arc<LdapSettings>,
        snapshot: &Snapshot,
        purpose: Purpose,
    ) -> Result<Arc<Principal>, DenyReason> {
        let end = Instant::now() + purpose.timeout();
        let listener = self.listener(purpose);
        let directory = listener.directory().ok_or(DenyReason::DirectoryUnavailable)?;
        let answer = listener.verifier.verify(&directory, settings, name, password, end).await;
        let denial = match answer {
            Answer::Right(known) => {
                let cached = known.principal.load();
                if let Some(cached) = cached.as_ref()
                    && cached.snapshot_version == snapshot.version
                {
                    return Ok(Arc::clone(&cached.principal));
                }
                match user_of(&known.entry, known.asked_at, settings, snapshot) {
                    Ok(principal) => {
                        let principal = Arc::new(principal);
                        known.principal.store(Some(Arc::new(CachedPrincipal {
                            snapshot_version: snapshot.version,
                            principal: Arc::clone(&principal),
                        })));
                        return Ok(principal);
                    }
                    Err(reason) => {
                        self.log_rejection(Some(&known.entry.subject), reason.as_str());
                        DenyReason::WrongPassword
                    }
                }
            }
            Answer::Wrong => DenyReason::WrongPassword,
            Answer::Rejected(reason) => {
                match logged_rejection(reason) {
                    LoggedRejection::WithName => self.log_rejection(Some(name), reason.as_str()),
                    LoggedRejection::WithoutName => self.log_rejection(None, reason.as_str()),
                    LoggedRejection::Nothing => {}
                }
                DenyReason::WrongPassword
            }
            Answer::Locked => DenyReason::UserLocked,
            Answer::Unavailable => DenyReason::DirectoryUnavailable,
            Answer::Pending => DenyReason::DirectoryPending,
        };
        if matches!(denial, DenyReason::WrongPassword | DenyReason::UserLocked) {
            // The same time as for a wrong password of a configured user.
            tokio::time::sleep_until(end.into()).await;
        }
        Err(denial)
    }

    fn listener(&self, purpose: Purpose) -> &Listener {
        match purpose {
            Purpose::Check { .. } => &self.checks,
            Purpose::Admin => &self.admin,
        }
    }

    /// Logs why a person is rejected, at most once in [`LOG_INTERVAL`] for the same reason and person.
    fn log_rejection(&self, user: Option<&str>, reason: &'static str) {
        let (key, now) = (format!("{reason} {}", user.unwrap_or_default()), self.clock.elapsed());
        let mut logged = lock(&self.logged);
        if logged.get(&key, now, LOG_INTERVAL).is_none() {
            logged.insert(key, (), now);
            tracing::warn!(target: "audit", source = "ldap", user, reason, "person of the directory denied");
        }
    }
}

impl Listener {
    fn new(is_limited: bool, may_query: bool, clock: &Clock) -> Result<Self, getrandom::Error> {
        let verifier = PasswordVerifier::new(is_limited, clock.clone())?;
        Ok(Self { verifier, directory: Mutex::default(), may_query, clock: clock.clone() })
    }

    /// The client, which is started at the first use; `None` when the directory may not be asked, or the operating
    /// system gives no thread.
    fn directory(&self) -> Option<Arc<Directory>> {
        if !self.may_query {
            return None;
        }
        let mut directory = lock(&self.directory);
        if directory.is_none() {
            match Directory::start_with_clock(self.clock.clone()) {
                Ok(started) => *directory = Some(Arc::new(started)),
                Err(error) => {
                    tracing::error!(reason = %error, "cannot start the thread for requests to the directory");
                }
            }
        }
        directory.clone()
    }
}

/// What is logged about a rejected name.
enum LoggedRejection {
    /// The reason and the name: the name leads to an entry.
    WithName,
    /// Only the reason: it concerns the directory, not the name.
    WithoutName,
    /// Nothing.
    Nothing,
}

/// Logs only rejections that an operator can act on.  A name without an entry is not logged: it may be a password that
/// was typed into the wrong field.
fn logged_rejection(reason: RejectionReason) -> LoggedRejection {
    match reason {
        RejectionReason::SeveralEntries
        | RejectionReason::Unreadable
        | RejectionReason::OtherEntry
        | RejectionReason::Disabled
        | RejectionReason::NoId
        | RejectionReason::SeveralIds
        | RejectionReason::InvalidEntry
        | RejectionReason::TooManyGroups
        | RejectionReason::Alias => LoggedRejection::WithName,
        RejectionReason::Referral => LoggedRejection::WithoutName,
        RejectionReason::InvalidName | RejectionReason::UnusablePassword | RejectionReason::Unknown => {
            LoggedRejection::Nothing
        }
    }
}

/// No code panics in the middle of a change while it holds a lock, so a poisoned state is consistent.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
