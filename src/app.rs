//! The wiring of the server: [`build`] binds every listener, [`Bound::serve`] serves until a signal.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::{KeyStore, Listen, Startup};
use crate::ext_authz::{self, CheckService};
use crate::identity::Sources;
use crate::identity::passwords::Passwords;
use crate::identity::people::{People, records};
use crate::keys::Keys;
use crate::keys::follower::FollowerThread;
use crate::keys::store::OpenError;
use crate::memory;
use crate::probes;
use crate::readiness::{self, ReadinessHandle};
use crate::reload::{ConfigBaseline, Reloader};
use crate::server::BindError;
use crate::server::activation::{ActivationError, InheritedSockets};
use crate::server::connection_limit::{LimitedListener, within_descriptors, within_memory};
use crate::server::tls::Acceptors;
use crate::service_manager;
use crate::shutdown::{SighupStream, Signals};
use crate::snapshot::{Snapshot, SnapshotStore};
use crate::telemetry::Telemetry;
use crate::telemetry::audit_log::AuditLog;
use crate::telemetry::decision_log::DecisionLog;
use crate::telemetry::logging::LogCounters;
use crate::telemetry::traces::Traces;

/// How long open connections may take to finish their requests during a shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the first reading of the key store before Checks are answered without it.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long closing the key store may take.
const CLOSE_STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of the command line, in addition to the configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where decisions are logged, and which.
    pub decision_log: DecisionLog,
    /// How long to continue to answer after the first signal.
    pub drain: Duration,
    /// Passwords that are verified at the same time.
    pub parallel_passwords: usize,
    /// Whether to serve gRPC reflection.
    pub reflection: bool,
    /// The log's counters; `None` where nothing is logged.
    pub log: Option<LogCounters>,
    /// Where changes, log-ins and locks are recorded.
    pub audit_log: AuditLog,
}

/// A server with all ports bound that does not answer yet.
pub struct Bound {
    /// The address of ext_authz, with the port that the operating system chose.
    pub ext_authz: Listen,
    /// The address of the probes.
    pub probes: Listen,
    ext_authz_listener: LimitedListener,
    probes_listener: LimitedListener,
    admin: Option<BoundAdmin>,
    acceptors: Acceptors,
    keys: Option<Arc<Keys>>,
    people: People,
    snapshots: SnapshotStore,
    service: CheckService,
    telemetry: Arc<Telemetry>,
    reloader: Reloader,
    options: Options,
    clock: Clock,
}

/// The admin listener, bound.
struct BoundAdmin {
    listener: LimitedListener,
    address: Listen,
    admin: Arc<Admin>,
}

/// Why a server cannot start, or stops by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The sockets that the service manager passes do not match the configuration.
    #[error(transparent)]
    Activation(#[from] ActivationError),
    /// The key store cannot be opened, and a retry would not help.
    #[error(transparent)]
    Keys(#[from] OpenError),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// Signals cannot be received.
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    /// The operating system gives no thread.
    #[error("cannot start the thread that reloads the configuration: {0}")]
    Reload(std::io::Error),
    /// The operating system gives no thread.
    #[error("cannot start the thread that follows the key store: {0}")]
    Follower(std::io::Error),
    /// A listener stopped by itself.
    #[error("the listener {0} stopped without a reason: please report this")]
    ListenerStopped(&'static str),
    /// The reflection service cannot be built.
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Builds a server from a configuration (its startup settings, its snapshot and its baseline), and binds every
/// port.
///
/// # Errors
/// [`ServeError`]: then no request was answered.
pub async fn build(
    startup: Startup,
    snapshot: Snapshot,
    baseline: ConfigBaseline,
    options: Options,
    clock: Clock,
) -> Result<Bound, ServeError> {
    let telemetry = Telemetry::new(options.decision_log.clone(), options.log.clone());
    let traces = Traces::from_environment(telemetry.metrics().dropped_spans());
    let telemetry = Arc::new(telemetry.with_traces(traces));
    telemetry.metrics().show_snapshot(&snapshot, clock.now());
    telemetry.metrics().show_loaded(clock.now());
    telemetry.metrics().show_memory_limit(memory::limit());
    let acceptors = Acceptors::new(&snapshot.tls);
    let passwords = Passwords::with_memory_limit(options.parallel_passwords, memory::limit())?;
    passwords.warn_of_hashes_too_large(&snapshot.users);
    let keys = match &startup.keys {
        Some(KeyStore { url, read_only: false }) => Some(Keys::open(url, clock.clone()).await?),
        Some(KeyStore { url, read_only: true }) => Some(Keys::open_read_only(url, clock.clone()).await?),
        None => None,
    };
    if let Some(keys) = &keys {
        telemetry.metrics().show_keys(Arc::clone(keys), clock.clone());
    }
    let snapshots = SnapshotStore::new(snapshot);
    if let Some(keys) = &keys {
        let snapshots = snapshots.clone();
        keys.follow_settings(move || snapshots.current().keys.clone());
    }
    let people = People::new(clock.clone())?;
    let sources = Sources { passwords, people: people.clone(), keys: keys.clone(), clock: clock.clone() };
    let authorizer = Arc::new(Authorizer::new(snapshots.clone(), sources));
    telemetry.metrics().show_directory(Arc::clone(&authorizer));
    let max_request_bytes = startup.ext_authz.max_request_bytes;
    let service = CheckService::new(Arc::clone(&authorizer), Arc::clone(&telemetry), max_request_bytes);

    let mut inherited = InheritedSockets::from_environment()?;
    let ext_authz_listener = inherited.listener(&startup.ext_authz.listen).await?;
    let probes_listener = inherited.listener(&startup.probes.listen).await?;
    let limited = |listener, name, most| {
        LimitedListener::new(listener, name, most, telemetry.metrics().closed_connections(name))
    };
    let admin = match (&startup.admin, &keys) {
        (Some(admin), Some(keys)) => {
            let listener = inherited.listener(&admin.listen).await?;
            let (authorizer, keys) = (Arc::clone(&authorizer), Arc::clone(keys));
            Some(BoundAdmin {
                address: listener.address(&admin.listen),
                listener: limited(listener, "admin", admin::MAX_CONNECTIONS),
                admin: Arc::new(Admin::new(
                    authorizer,
                    keys,
                    clock.clone(),
                    admin.transport,
                    options.audit_log.clone(),
                )),
            })
        }
        // A valid configuration has no `admin` without `keys`.
        (Some(_), None) | (None, Some(_)) | (None, None) => None,
    };
    inherited.finish()?;
    let reloader = Reloader::new(
        baseline,
        startup.clone(),
        snapshots.clone(),
        acceptors.clone(),
        authorizer,
        Arc::clone(&telemetry),
        clock.clone(),
    );
    let max_connections =
        within_memory(within_descriptors(startup.ext_authz.max_connections), memory::limit());
    Ok(Bound {
        ext_authz: ext_authz_listener.address(&startup.ext_authz.listen),
        probes: probes_listener.address(&startup.probes.listen),
        ext_authz_listener: limited(ext_authz_listener, "ext_authz", max_connections),
        probes_listener: limited(probes_listener, "probes", probes::MAX_CONNECTIONS),
        admin,
        acceptors,
        keys,
        people,
        snapshots,
        service,
        telemetry,
        reloader,
        options,
        clock,
    })
}

impl Bound {
    /// Serves until SIGTERM or SIGINT, drains, and finishes the requests in flight.  A second signal cuts the drain
    /// short.  SIGHUP forces a reload and reopens the audit log.
    ///
    /// # Errors
    /// [`ServeError`]: a listener stopped by itself, files cannot be watched, or reflection cannot be served.
    pub async fn serve(self, mut signals: Signals, mut hangups: SighupStream) -> Result<(), ServeError> {
        let started = Instant::now();
        let shutdown = CancellationToken::new();
        // The listeners close however this function ends.
        let _closes_listeners = shutdown.clone().drop_guard();
        let (health, readiness) = ReadinessHandle::new();
        let (routes, grpc_health) = ext_authz::health::routes().await;
        let routes = if self.options.reflection { ext_authz::reflection::add_to(routes)? } else { routes };
        let drain = self.options.drain;

        for (listener, address) in [("ext_authz", &self.ext_authz), ("probes", &self.probes)] {
            tracing::info!(listener, %address, "listening");
        }
        let admin_shutdown = shutdown.clone();
        let Acceptors { ext_authz: ext_authz_tls, admin: admin_tls } = self.acceptors;
        let bound_admin = self.admin;
        let has_admin = bound_admin.is_some();
        if let Some(BoundAdmin { address, .. }) = &bound_admin {
            tracing::info!(listener = "admin", %address, "listening");
        }
        let admin = async move {
            match bound_admin {
                Some(BoundAdmin { listener, admin, .. }) => {
                    admin::serve(listener, admin_tls, admin, admin_shutdown).await;
                }
                None => admin_shutdown.cancelled().await,
            }
        };
        let telemetry = Arc::clone(&self.telemetry);
        let probes = probes::serve(self.probes_listener, readiness, self.telemetry, shutdown.clone());
        let mut probes = tokio::spawn(probes);
        let checks =
            ext_authz::serve(self.ext_authz_listener, ext_authz_tls, self.service, routes, shutdown.clone());
        let mut admin = tokio::spawn(admin);
        let reloads = self.reloader.start().map_err(ServeError::Reload)?;
        let follower = match &self.keys {
            Some(keys) => Some(FollowerThread::start(Arc::clone(keys)).map_err(ServeError::Follower)?),
            None => None,
        };
        let mut tasks = JoinSet::new();
        if let (Some(keys), true) = (&self.keys, has_admin)
            && !keys.is_read_only()
        {
            tasks.spawn(records::keep(self.snapshots.clone(), Arc::clone(keys), self.people, self.clock));
        }
        // Keys get 503 until the store was read.  After a while that is better than no answer.
        let early_signal = match &self.keys {
            Some(keys) => first_reading(keys, &mut signals).await,
            None => None,
        };
        // Until then connections wait, so that clients with a key see no 503 at a restart.
        let mut checks = tokio::spawn(checks);
        let audit_log = self.options.audit_log;
        let at_hangup = || {
            audit_log.reopen();
            reloads.force();
        };
        let (signal, drain) = match early_signal {
            // No Check was answered, so there is no traffic to drain.
            Some(signal) => (signal, Duration::ZERO),
            None => {
                let (keys, snapshots) = (self.keys.as_deref(), &self.snapshots);
                let serve = async {
                    if let Some(keys) = keys.filter(|keys| !keys.was_read()) {
                        service_manager::waiting_for_key_store();
                        readiness::until_ready(keys, snapshots, started).await;
                    }
                    // The log line comes last: a process that waits for it finds the probes ready.
                    health.set_ready();
                    grpc_health.set_serving().await;
                    tracing::info!("serving");
                    service_manager::ready();
                    std::future::pending::<Infallible>().await
                };
                service_manager::start_watchdog();
                // A listener that stops by itself is a bug: the process ends, so that it is restarted.
                let signal = tokio::select! {
                    never = serve => match never {},
                    signal = next_shutdown_signal(&mut signals, &mut hangups, at_hangup) => signal,
                    _ = &mut checks => return Err(ServeError::ListenerStopped("ext_authz")),
                    _ = &mut probes => return Err(ServeError::ListenerStopped("probes")),
                    _ = &mut admin => return Err(ServeError::ListenerStopped("admin")),
                };
                (signal, drain)
            }
        };
        tracing::info!(signal, drain_seconds = drain.as_secs_f64(), "draining");
        health.set_not_ready();
        grpc_health.set_not_serving().await;
        service_manager::stopping();
        reloads.stop();
        let ignore = || {
            audit_log.reopen();
            tracing::info!("SIGHUP is ignored, but for the audit log: the server is leaving");
        };
        tokio::select! {
            () = tokio::time::sleep(drain) => {}
            signal = next_shutdown_signal(&mut signals, &mut hangups, ignore) => tracing::info!(signal, "drain cut short"),
        }
        shutdown.cancel();
        let finished =
            tokio::time::timeout(SHUTDOWN_TIMEOUT, async { (checks.await, probes.await, admin.await) }).await;
        tasks.shutdown().await;
        if let (Some(keys), Some(follower)) = (&self.keys, follower) {
            close_store(keys, follower).await;
        }
        telemetry.close().await;
        match finished {
            Ok(_) => tracing::info!("stopped"),
            Err(_) => {
                tracing::warn!(seconds = SHUTDOWN_TIMEOUT.as_secs(), "stopped with connections still open");
            }
        }
        Ok(())
    }
}

/// Waits for the next signal that ends the process, and calls `at_hangup` at each SIGHUP meanwhile.
async fn next_shutdown_signal(
    signals: &mut Signals,
    hangups: &mut SighupStream,
    at_hangup: impl Fn(),
) -> &'static str {
    loop {
        tokio::select! {
            signal = signals.next() => return signal,
            () = hangups.next() => at_hangup(),
        }
    }
}

/// Stops the follower and closes the key store.  A SQLite store is one complete file afterwards.
async fn close_store(keys: &Keys, follower: FollowerThread) {
    let closed = tokio::time::timeout(CLOSE_STORE_TIMEOUT, async {
        follower.stop().await;
        keys.close().await;
    });
    if closed.await.is_err() {
        tracing::warn!(
            seconds = CLOSE_STORE_TIMEOUT.as_secs(),
            "the key store did not close in time: the process stops without waiting for it"
        );
    }
}

/// Waits for the first reading of the key store until a timeout.  Returns the signal that arrived meanwhile.
async fn first_reading(keys: &Keys, signals: &mut Signals) -> Option<&'static str> {
    tokio::select! {
        read = tokio::time::timeout(FIRST_READ_TIMEOUT, keys.first_read()) => {
            if read.is_err() {
                tracing::warn!("the server answers but is not ready: the key store has not been read yet");
            }
            None
        }
        signal = signals.next() => Some(signal),
    }
}
