//! Reloading: other rules while the process runs, whole or not at all, and without a Check that fails.
//!
//! A thread of its own reads the files, checks what they say, puts it into force and drops what was in force
//! before: a hundred thousand tokens are nothing that a thread which answers Checks should make or drop.

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
    Config, Diagnostic, Errors, Files, Loaded, Pipes, Restrictions, ServerTls, Startup, Tls,
};
use crate::server::tls::Acceptors;
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::telemetry::Telemetry;
use crate::watch::{Caller, Cause, Watch};

/// How often it is asked whether rules that were replaced are still needed.
const RETIRE: Duration = Duration::from_millis(20);
/// Nobody decides for longer than this: whoever still holds old rules drops them himself.
const DECISION_TIMEOUT: Duration = Duration::from_secs(30);

/// By how much a reload is nicer than whoever answers Checks (nice(2)): of a processor that they keep busy it gets about
/// a tenth.
const NICENESS: i32 = 10;

/// How long to rest when a reload panicked: the files may be the same still.
const AFTER_PANIC: Duration = Duration::from_secs(10);

/// Where the configuration in force comes from.
#[derive(Debug)]
pub struct Origin {
    /// The configuration's file.
    pub path: PathBuf,
    /// The files that were read for it.
    pub files: Files,
}

/// What of the configuration in force a later one is compared with.
#[derive(Debug)]
pub struct InForce {
    restrictions: Restrictions,
    /// From when until when each listener's certificate is valid: of `ext_authz` and `admin`.
    certificates: [Option<(Timestamp, Timestamp)>; 2],
}

impl InForce {
    /// That of a configuration that is put into force.
    pub fn of(restrictions: Restrictions, tls: &Tls) -> Self {
        let certificates = [&tls.ext_authz, &tls.admin];
        let certificates = certificates.map(|tls| tls.as_ref().and_then(ServerTls::own_validity));
        Self { restrictions, certificates }
    }

    /// An error for each certificate that nobody accepts at this instant, and that would replace one that is valid.
    fn dead_certificates(&self, origin: &Origin, tls: &Tls, now: Timestamp) -> Option<Errors> {
        let later = [("ext_authz.tls.cert", &tls.ext_authz), ("admin.tls.cert", &tls.admin)];
        let dead = later.into_iter().zip(&self.certificates).filter_map(|((key, tls), live)| {
            let live = live.filter(|live| is_valid(*live, now))?;
            let dead = tls.as_ref()?.own_validity().filter(|dead| !is_valid(*dead, now))?;
            let (fault, until) = if dead.1 <= now {
                (format!("expired at {}", dead.1), live.1)
            } else {
                (format!("is not valid before {}", dead.0), live.1)
            };
            let message = format!(
                "the certificate {fault}, and the one in force is valid until {until}: \
                 put a valid certificate and its key in place"
            );
            Some(Diagnostic { key: key.to_owned(), ..Diagnostic::about_file(&origin.path, message) })
        });
        let dead: Vec<_> = dead.collect();
        (!dead.is_empty()).then(|| Errors::new(dead))
    }
}

fn is_valid((from, until): (Timestamp, Timestamp), now: Timestamp) -> bool {
    from <= now && now < until
}

/// Puts into force what the files say, whenever they say something else.
pub struct Reloader {
    origin: Origin,
    in_force: InForce,
    /// What holds until the process ends.
    startup: Startup,
    acceptors: Acceptors,
    snapshots: SnapshotStore,
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
    clock: Clock,
}

impl Reloader {
    /// A reloader of what is in force: loaded from this origin, and started with these settings.
    #[expect(clippy::too_many_arguments, reason = "the wiring gives each of them once")]
    pub fn new(
        origin: Origin,
        in_force: InForce,
        startup: Startup,
        acceptors: Acceptors,
        snapshots: SnapshotStore,
        authorizer: Arc<Authorizer>,
        telemetry: Arc<Telemetry>,
        clock: Clock,
    ) -> Self {
        Self { origin, in_force, startup, acceptors, snapshots, authorizer, telemetry, clock }
    }

    /// Begins to watch the files, on a thread of its own, until the caller says stop.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(mut self) -> std::io::Result<Caller> {
        let (mut watch, caller) = Watch::new();
        let run = move || {
            give_way();
            loop {
                let cause = watch.wait(&self.origin.files);
                if cause == Cause::Stopped {
                    break;
                }
                // Whatever happens to one reload, the next one may mend it.
                if panic::catch_unwind(AssertUnwindSafe(|| self.reload(cause))).is_err() {
                    self.telemetry.metrics().count_failed_reload();
                    thread::sleep(AFTER_PANIC);
                }
            }
        };
        thread::Builder::new().name("reload".to_owned()).spawn(run)?;
        Ok(caller)
    }

    /// Loads the files and puts the configuration into force, unless something is wrong with it.
    fn reload(&mut self, cause: Cause) {
        let started = Instant::now();
        let outcome = self.load().map(|(config, snapshot)| {
            let lost = match cause {
                Cause::Changed => self.in_force.restrictions.lost_in(&config.restrictions),
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
                let old = self.apply(config, snapshot);
                self.log_success(cause, started.elapsed());
                log_warnings(&warnings);
                retire(old);
            }
            Err(errors) => {
                self.telemetry.metrics().count_failed_reload();
                tracing::error!(
                    cause,
                    diagnostics = %errors,
                    "the configuration was not reloaded, and what was in force stays in force"
                );
            }
        }
    }

    /// Reads the files, and builds a snapshot of what they say.
    fn load(&mut self) -> Result<(Config, Snapshot), Errors> {
        let path = &self.origin.path;
        let Loaded { outcome, files } = Config::load_noting_files(path, Pipes::Rejected);
        self.origin.files = files;
        let config = outcome?;
        if let Some(errors) = self.in_force.dead_certificates(&self.origin, &config.tls, self.clock.now()) {
            return Err(errors);
        }
        let snapshot = Snapshot::build(&config, Some(&self.snapshots.current()));
        let snapshot = snapshot.map_err(|error| error.about(&self.origin.path))?;
        Ok((config, snapshot))
    }

    /// Keeps the configuration in force, less the credentials that the new one lacks.
    fn hold_back(&self, later: &Snapshot, cause: &'static str, lost: &str) {
        let in_force = self.snapshots.current();
        let snapshot = in_force.without_credentials_missing_in(later);
        let tokens = in_force.tokens.len() - snapshot.tokens.len();
        let users = in_force.users.len() - snapshot.users.len();
        drop(in_force);
        let old = self.publish(snapshot);
        self.telemetry.metrics().count_held_back_reload();
        tracing::error!(
            cause,
            file = %self.origin.path.display(),
            removed_tokens = tokens,
            removed_users = users,
            "the reload was held back, and the rules in force stay: {lost}; tokens and users that the file does not \
             have any more are removed; send SIGHUP to put the file into force as it is, or write it again with what it has lost"
        );
        retire(old);
    }

    /// Puts a configuration into force.  What cannot change while the process runs is named in the log.
    /// Gives back the snapshot that was in force.
    fn apply(&mut self, config: Config, mut snapshot: Snapshot) -> Arc<Snapshot> {
        for difference in self.startup.differences(&config.startup) {
            let (key, from, to) = (difference.key, difference.from, difference.to);
            tracing::warn!(
                key,
                from,
                to,
                "{key} changed: this needs a restart, and the old one stays in force"
            );
        }
        snapshot.keep_running_services(&self.snapshots.current(), &self.startup);
        self.in_force = InForce::of(config.restrictions, &config.tls);
        // From here on handshakes are made with the new certificates; open connections live on.
        self.acceptors.replace(&config.tls);
        let old = self.publish(snapshot);
        let snapshot = self.snapshots.current();
        self.authorizer.sources().passwords.warn_of_hashes_too_large(&snapshot.users);
        self.telemetry.metrics().show_rules(&snapshot, self.clock.now());
        self.telemetry.metrics().show_configuration(&config.sha256);
        self.telemetry.metrics().show_certificates(&config.tls);
        self.telemetry.metrics().count_reload();
        old
    }

    /// Makes a snapshot the current one, and gives back the one before.
    fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let old = self.snapshots.replace(snapshot);
        let current = self.snapshots.current();
        self.authorizer.sources().passwords.forget_changed(&old.users, &current.users);
        self.telemetry.metrics().show_credentials(&current, self.clock.now());
        old
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

/// Lets this thread, and those that it starts, have what others leave of a processor: a sidecar often has one alone,
/// and Checks would wait for a reload by whole slices of time, milliseconds each.
fn give_way() {
    // Without it everything works, more slowly; some sandboxes do not want anybody to set priorities.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "reloads do not give way to Checks");
    }
}

/// Logs what looks wrong and is served all the same.
pub fn log_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!(place = %warning.place(), key = warning.key, "{}", warning.message);
    }
}

/// Drops rules on this thread, once nobody decides by them any more.
fn retire(snapshot: Arc<Snapshot>) {
    let begun = Instant::now();
    while Arc::strong_count(&snapshot) > 1 && begun.elapsed() < DECISION_TIMEOUT {
        thread::sleep(RETIRE);
    }
    drop(snapshot);
}
