//! Reloading: the configuration of the file is applied while the process runs, as a whole or not at all.  No Check
//! fails meanwhile.
//!
//! One thread waits for changes of the files ([`crate::watch`]), loads them, builds a [`Snapshot`] and publishes it.
//! The same thread drops the previous snapshot: building and dropping a hundred thousand tokens would delay a thread
//! that answers Checks.

use std::collections::HashSet;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{
    Config, Diagnostic, EnvoyHeaders, Errors, Files, Loaded, PipeHandling, Restrictions, ServerTls, Serves,
    Startup, Tls,
};
use crate::priority;
use crate::server::tls::Acceptors;
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::telemetry::Telemetry;
use crate::watch::{Cause, Watch, WatchHandle};

/// How often the reloader checks whether a replaced snapshot is still in use.
const RETIRE_INTERVAL: Duration = Duration::from_millis(20);
/// No decision takes longer than this.  A snapshot that is still in use is dropped by its last user.
const DECISION_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after a reload that panicked: the files may still be the same.
const PANIC_BACKOFF: Duration = Duration::from_secs(10);

/// The files of the current configuration, and the data with which the next configuration is compared.
#[derive(Debug)]
pub struct ConfigBaseline {
    /// The configuration's file.
    pub path: PathBuf,
    /// The files that were read for it.
    pub files: Files,
    /// Its restrictions of access.
    pub restrictions: Restrictions,
    /// The services of this process.
    pub serves: Serves,
}

/// An error for each listener's certificate that is not valid now and would replace a valid one.
fn dead_certificates(
    baseline: &ConfigBaseline,
    current: &Tls,
    later: &Tls,
    now: Timestamp,
) -> Option<Errors> {
    let listeners = [
        ("ext_authz.tls.cert", &current.ext_authz, &later.ext_authz),
        ("admin.tls.cert", &current.admin, &later.admin),
    ];
    let validity = |tls: &Option<ServerTls>| tls.as_ref().and_then(ServerTls::own_validity);
    let dead = listeners.into_iter().filter_map(|(key, current, later)| {
        let live = validity(current).filter(|live| is_valid(*live, now))?;
        let dead = validity(later).filter(|dead| !is_valid(*dead, now))?;
        let fault = if dead.1 <= now {
            format!("expired at {}", dead.1)
        } else {
            format!("is not valid before {}", dead.0)
        };
        let message = format!(
            "the certificate {fault}, and the current one is valid until {}: \
             put a valid certificate and its key in place",
            live.1
        );
        Some(Diagnostic { key: key.to_owned(), ..Diagnostic::about_file(&baseline.path, message) })
    });
    let dead: Vec<_> = dead.collect();
    (!dead.is_empty()).then(|| Errors::new(dead))
}

fn is_valid((from, until): (Timestamp, Timestamp), now: Timestamp) -> bool {
    from <= now && now < until
}

/// Applies the configuration whenever its files change.
pub struct Reloader {
    baseline: ConfigBaseline,
    /// The settings that hold until the process ends.
    startup: Startup,
    snapshots: SnapshotStore,
    acceptors: Acceptors,
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
    clock: Clock,
}

impl Reloader {
    /// A reloader of the configuration of this baseline, in a process that was started with these settings.
    pub fn new(
        baseline: ConfigBaseline,
        startup: Startup,
        snapshots: SnapshotStore,
        acceptors: Acceptors,
        authorizer: Arc<Authorizer>,
        telemetry: Arc<Telemetry>,
        clock: Clock,
    ) -> Self {
        Self { baseline, startup, snapshots, acceptors, authorizer, telemetry, clock }
    }

    /// Watches the files on a thread of its own until the handle stops it.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(mut self) -> std::io::Result<WatchHandle> {
        let (mut watch, handle) = Watch::new();
        let run = move || {
            priority::lower();
            loop {
                let cause = watch.wait(&self.baseline.files);
                if cause == Cause::Stopped {
                    break;
                }
                // A reload that panics must not be the last one.
                if panic::catch_unwind(AssertUnwindSafe(|| self.reload(cause))).is_err() {
                    self.telemetry.metrics().count_failed_reload();
                    thread::sleep(PANIC_BACKOFF);
                }
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(run)?;
        Ok(handle)
    }

    /// Loads the files and applies the configuration, unless it has an error.
    fn reload(&mut self, cause: Cause) {
        let started = Instant::now();
        let outcome = self.load().map(|(config, snapshot)| {
            let lost = match cause {
                Cause::Changed => self.baseline.restrictions.lost_in(&config.restrictions),
                Cause::Forced | Cause::Stopped => None,
            };
            (config, snapshot, lost)
        });
        let cause = match cause {
            Cause::Changed => "a file changed",
            Cause::Forced => "SIGHUP",
            Cause::Stopped => "the end",
        };
        match outcome {
            Ok((_, snapshot, Some(lost))) => self.hold_back(&snapshot, cause, &lost),
            Ok((config, snapshot, None)) => {
                let warnings = config.warnings.clone();
                let previous = self.apply(config, snapshot);
                self.log_success(cause, started.elapsed());
                log_warnings(&warnings);
                self.warn_of_new_headers(&previous);
                retire(previous);
            }
            Err(errors) => {
                self.telemetry.metrics().count_failed_reload();
                tracing::error!(
                    cause,
                    diagnostics = %errors,
                    "the configuration was not reloaded: the previous configuration stays active"
                );
            }
        }
    }

    /// Reads the files and builds a snapshot.
    fn load(&mut self) -> Result<(Config, Snapshot), Errors> {
        let Loaded { outcome, files } =
            Config::load_for(&self.baseline.path, PipeHandling::Rejected, self.baseline.serves);
        self.baseline.files = files;
        let config = outcome?;
        let current = self.snapshots.current();
        if let Some(errors) = dead_certificates(&self.baseline, &current.tls, &config.tls, self.clock.now()) {
            return Err(errors);
        }
        let snapshot = Snapshot::build(&config, Some(&current));
        let snapshot = snapshot.map_err(|error| error.about(&self.baseline.path))?;
        Ok((config, snapshot))
    }

    /// Keeps the current configuration, but removes the credentials that the later one lacks.
    fn hold_back(&self, later: &Snapshot, cause: &'static str, lost: &str) {
        let current = self.snapshots.current();
        let snapshot = current.without_credentials_missing_in(later);
        let tokens = current.tokens.len() - snapshot.tokens.len();
        let users = current.users.len() - snapshot.users.len();
        drop(current);
        let previous = self.publish(snapshot);
        self.telemetry.metrics().count_held_back_reload();
        tracing::error!(
            cause,
            file = %self.baseline.path.display(),
            removed_tokens = (tokens > 0).then_some(tokens),
            removed_users = (users > 0).then_some(users),
            "the reload was held back: {lost}. The current rules stay active{}. If the file is complete, send SIGHUP to \
             load it",
            removed(tokens, users)
        );
        retire(previous);
    }

    /// Applies a configuration, and logs the changes that need a restart.  Returns the previous snapshot.
    fn apply(&mut self, config: Config, mut snapshot: Snapshot) -> Arc<Snapshot> {
        for difference in self.startup.differences(&config.startup) {
            let (key, from, to) = (difference.key, difference.from, difference.to);
            tracing::warn!(
                key,
                from,
                to,
                "{key} changed: this needs a restart, and the old value is used until then"
            );
        }
        self.take_over_store(&config.startup);
        self.baseline.restrictions = config.restrictions;
        snapshot.keep_running_services(&self.snapshots.current(), &self.startup);
        let previous = self.publish(snapshot);
        let passwords = &self.authorizer.sources().passwords;
        passwords.warn_of_hashes_too_large(&self.snapshots.current().users);
        self.telemetry.metrics().count_reload(self.clock.now());
        previous
    }

    /// Gives the store another user, password or other options for the same database.  The store uses them once they
    /// work.
    fn take_over_store(&mut self, later: &Startup) {
        let keys = &self.authorizer.sources().keys;
        let (Some(current), Some(later), Some(keys)) = (&mut self.startup.keys, &later.keys, keys) else {
            return;
        };
        if current.url == later.url || !current.url.is_same_database(&later.url) {
            return;
        }
        let store = later.url.to_string();
        match keys.take_over(&later.url) {
            Ok(()) => {
                current.url = later.url.clone();
                tracing::info!(
                    store,
                    "the URL of the key store changed: it is tried, and taken over once a connection was made by it"
                );
            }
            Err(error) => {
                tracing::error!(store, %error, "the server cannot use the new URL of the key store");
            }
        }
    }

    /// Makes a snapshot the current one, for Checks, handshakes and metrics.  Returns the previous one.
    fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        // Handshakes that have started and open connections keep the certificate that they began with.
        self.acceptors.replace(&snapshot.tls);
        let previous = self.snapshots.replace(snapshot);
        let current = self.snapshots.current();
        self.authorizer.sources().passwords.forget_changed(&previous.users, &current.users);
        self.telemetry.metrics().show_snapshot(&current, self.clock.now());
        previous
    }

    /// Warns of headers that the configuration of a running Envoy may not name.  The module inside Envoy needs no names.
    fn warn_of_new_headers(&self, previous: &Snapshot) {
        match self.baseline.serves {
            Serves::Everything => {}
            Serves::Decisions { .. } => return,
        }
        let headers = |snapshot: &Snapshot| {
            let has_keys = self.startup.keys.is_some();
            EnvoyHeaders::new(
                &snapshot.locations,
                snapshot.forward_credentials,
                has_keys,
                &snapshot.actor_headers,
            )
        };
        let (now, before) = (headers(&self.snapshots.current()), headers(previous));
        let added = now.added_to(&before).join(", ");
        if !added.is_empty() {
            tracing::warn!(
                headers = added,
                "the configuration uses new headers that the running Envoy does not know: {added}. Print Envoy's \
                 configuration again: envoy-auth-tokens envoy"
            );
        }
    }

    fn log_success(&self, cause: &'static str, elapsed: Duration) {
        let snapshot = self.snapshots.current();
        let policies: HashSet<_> = snapshot.policies.iter().map(|policy| policy.name()).collect();
        tracing::info!(
            cause,
            tokens = snapshot.tokens.len(),
            users = snapshot.users.len(),
            policies = policies.len(),
            routes = snapshot.policies.routes().len(),
            milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            "the configuration was reloaded"
        );
    }
}

/// The removed credentials as the end of a sentence; empty if there are none.
fn removed(tokens: usize, users: usize) -> String {
    let counted = [(tokens, "token", "tokens"), (users, "user", "users")];
    let counted = counted.iter().filter(|(count, ..)| *count > 0);
    let counted: Vec<_> = counted
        .map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many }))
        .collect();
    match (counted.is_empty(), tokens + users) {
        (true, _) => String::new(),
        (false, 1) => format!(", but {} that the file no longer has was removed", counted.join(" and ")),
        (false, _) => format!(", but {} that the file no longer has were removed", counted.join(" and ")),
    }
}

/// Logs the warnings of a configuration.
pub fn log_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!(place = %warning.place(), key = warning.key, "{}", warning.message);
    }
}

/// Drops a snapshot on this thread, once no request uses it any more.
fn retire(snapshot: Arc<Snapshot>) {
    let started = Instant::now();
    while Arc::strong_count(&snapshot) > 1 && started.elapsed() < DECISION_TIMEOUT {
        thread::sleep(RETIRE_INTERVAL);
    }
    drop(snapshot);
}
