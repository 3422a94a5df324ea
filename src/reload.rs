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
    Config, Diagnostic, Errors, Files, Loaded, Restrictions, Rules, ServerTls, Startup, Tls, session_cookie,
};
use crate::server::tls::Acceptors;
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
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
    clock: Clock,
}

impl Reloader {
    /// A reloader of what is in force: loaded from this origin, and started with these settings.
    pub fn new(
        origin: Origin,
        in_force: InForce,
        startup: Startup,
        acceptors: Acceptors,
        authorizer: Arc<Authorizer>,
        telemetry: Arc<Telemetry>,
        clock: Clock,
    ) -> Self {
        Self { origin, in_force, startup, acceptors, authorizer, telemetry, clock }
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

    /// Loads what the files say now, and puts it into force unless something is wrong with it.
    fn reload(&mut self, cause: Cause) {
        let begun = Instant::now();
        let Loaded { outcome, files } = Config::load_after(&self.origin.path, Some(&self.authorizer.rules()));
        self.origin.files = files;
        let outcome = outcome.and_then(|config| {
            match self.in_force.dead_certificates(&self.origin, &config.tls, self.clock.now()) {
                Some(errors) => Err(errors),
                None => Ok(config),
            }
        });
        let lost = |config: &Config| match cause {
            Cause::Changed => self.in_force.restrictions.lost_in(&config.restrictions),
            Cause::Forced | Cause::Stopped => None,
        };
        let cause = match cause {
            Cause::Changed => "a file changed",
            Cause::Forced => "SIGHUP",
            Cause::Stopped => "the end",
        };
        match outcome.map(|config| (lost(&config), config)) {
            Ok((Some(lost), config)) => self.hold_back(&config, cause, &lost),
            Ok((None, config)) => {
                let warnings = config.warnings.clone();
                let old = self.apply(config);
                self.tell_success(cause, begun.elapsed());
                tell_warnings(&warnings);
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

    /// Leaves in force what is, but for the credentials that the new configuration does not have any more.
    fn hold_back(&self, config: &Config, cause: &'static str, lost: &str) {
        let in_force = self.authorizer.rules();
        let rules = in_force.without_credentials_missing_in(&config.rules);
        let tokens = in_force.tokens.len() - rules.tokens.len();
        let users = in_force.users.len() - rules.users.len();
        let old = self.authorizer.replace(rules);
        drop(in_force);
        let rules = self.authorizer.rules();
        self.authorizer.sources().passwords.forget_changed(&old.users, &rules.users);
        self.telemetry.metrics().show_credentials(&rules, self.clock.now());
        self.telemetry.metrics().count_held_back_reload();
        drop(rules);
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

    /// Puts a configuration into force: whatever can change while the process runs changes here.
    /// What cannot is named.  Gives back the rules that were in force.
    fn apply(&mut self, config: Config) -> Arc<Rules> {
        let Config { startup, mut rules, tls, warnings: _, files: _, restrictions, sha256 } = config;
        self.in_force = InForce::of(restrictions, &tls);
        for difference in self.startup.differences(&startup) {
            let (key, from, to) = (difference.key, difference.from, difference.to);
            tracing::warn!(
                key,
                from,
                to,
                "{key} changed: this needs a restart, and the old one stays in force"
            );
        }
        let in_force = self.authorizer.rules();
        // A section whose service runs on until the restart keeps its rules as well.
        if rules.keys.is_none() {
            rules.keys.clone_from(&in_force.keys);
            rules.unavailable = in_force.unavailable;
        }
        if rules.admin.is_none() {
            rules.admin.clone_from(&in_force.admin);
        }
        // So does the listener that sets the session cookie: Checks look for the one that it sets.
        if let (Some(listener), Some(admin)) = (&self.startup.admin, &rules.admin) {
            let cookie = session_cookie(listener.transport, admin.public_url.as_ref());
            rules.locations.set_session_cookie(cookie);
        }

        let sources = self.authorizer.sources();
        // From here on handshakes are made with the new certificates; open connections live on.
        self.acceptors.replace(&tls);
        // From here on Checks are decided by the new rules, each by all of them.
        let old = self.authorizer.replace(rules);
        let rules = self.authorizer.rules();
        sources.passwords.forget_changed(&old.users, &rules.users);
        sources.passwords.warn_of_hashes_too_large(&rules.users);
        self.telemetry.metrics().show_rules(&rules, self.clock.now());
        self.telemetry.metrics().show_configuration(&sha256);
        self.telemetry.metrics().show_certificates(&tls);
        self.telemetry.metrics().count_reload();
        old
    }

    fn tell_success(&self, cause: &'static str, elapsed: Duration) {
        let rules = self.authorizer.rules();
        let policies: HashSet<_> = rules.policies.iter().map(|policy| policy.name()).collect();
        tracing::info!(
            cause,
            tokens = rules.tokens.len(),
            users = rules.users.len(),
            policies = policies.len(),
            routes = rules.policies.routes().len(),
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
pub fn tell_warnings(warnings: &[Diagnostic]) {
    for warning in warnings {
        tracing::warn!(place = %warning.place(), key = warning.key, "{}", warning.message);
    }
}

/// Drops rules on this thread, once nobody decides by them any more.
fn retire(rules: Arc<Rules>) {
    let begun = Instant::now();
    while Arc::strong_count(&rules) > 1 && begun.elapsed() < DECISION_TIMEOUT {
        thread::sleep(RETIRE);
    }
    drop(rules);
}
