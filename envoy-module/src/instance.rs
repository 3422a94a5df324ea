//! A running configuration in this process: rules, keys and their follower, logs, metrics and probes, on separate
//! threads.
//!
//! Filters with the same settings share one instance, whatever the number of workers and listeners.  It starts with the
//! first filter, and ends with the last filter and its last request.

use std::collections::HashMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use envoy_auth_tokens::authorizer::Authorizer;
use envoy_auth_tokens::clock::Clock;
use envoy_auth_tokens::config::{Config, Errors, KeyStore, Listen, Loaded, PipeHandling, Serves, Startup};
use envoy_auth_tokens::decision::Decision;
use envoy_auth_tokens::deny_reason::DenyReason;
use envoy_auth_tokens::identity::Sources;
use envoy_auth_tokens::identity::passwords::Passwords;
use envoy_auth_tokens::identity::people::People;
use envoy_auth_tokens::keys::Keys;
use envoy_auth_tokens::keys::follower::FollowerThread;
use envoy_auth_tokens::keys::store::OpenError;
use envoy_auth_tokens::readiness::{self, ReadinessHandle};
use envoy_auth_tokens::reload::{self, ConfigBaseline, Reloader};
use envoy_auth_tokens::server::Listener;
use envoy_auth_tokens::server::connection_limit::LimitedListener;
use envoy_auth_tokens::server::tls::Acceptors;
use envoy_auth_tokens::snapshot::{Snapshot, SnapshotStore};
use envoy_auth_tokens::telemetry::decision_log::{DecisionLog, LogDecisions};
use envoy_auth_tokens::telemetry::logging::{LogWriter, WorkerGuard};
use envoy_auth_tokens::telemetry::{RoutePolicySource, Telemetry};
use envoy_auth_tokens::watch::WatchHandle;
use envoy_auth_tokens::{memory, probes};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::log::OpenLog;
use crate::settings::FilterSettings;

/// How long the first filter waits for the first reading of the key store.
const FIRST_READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the address of the probes is tried again while it is in use.
const BIND_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long closing the key store may take.
const CLOSE_STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads for decisions that wait; passwords and stores have their own threads.
const RUNTIME_THREADS: usize = 2;

/// The instances that run, by their settings.
static INSTANCES: LazyLock<Mutex<HashMap<FilterSettings, Weak<Instance>>>> = LazyLock::new(Mutex::default);

/// A running configuration.
pub struct Instance {
    /// Decides.
    pub authorizer: Arc<Authorizer>,
    /// Records decisions.
    pub telemetry: Arc<Telemetry>,
    /// The runtime for decisions that wait.
    pub runtime: Handle,
    /// Whether uses of keys are written, and the task that does so.
    pub records_use: bool,
    /// The work that ends with it.
    services: Option<Services>,
    _log: OpenLog,
}

/// The background work next to requests.
struct Services {
    runtime: Runtime,
    reloads: WatchHandle,
    keys: Option<(Arc<Keys>, FollowerThread)>,
    shutdown: CancellationToken,
    _lines: Option<WorkerGuard>,
}

/// Why an instance cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not valid.
    #[error("{0}")]
    Configuration(#[from] Errors),
    /// The key store cannot be opened, and a retry would not help.
    #[error(transparent)]
    Keys(#[from] OpenError),
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The operating system gives no thread.
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
}

impl Instance {
    /// The instance of these settings, which the first call starts.  While Envoy only validates, the configuration is
    /// read, and nothing else is started.
    ///
    /// # Errors
    /// [`StartError`]: it cannot start.
    pub fn of(settings: FilterSettings, is_validation: bool) -> Result<Arc<Self>, StartError> {
        let mut instances = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
        instances.retain(|_, instance| instance.strong_count() > 0);
        if let Some(instance) = instances.get(&settings).and_then(Weak::upgrade) {
            return Ok(instance);
        }
        let instance = Arc::new(Self::start(&settings, is_validation)?);
        instances.insert(settings, Arc::downgrade(&instance));
        Ok(instance)
    }

    /// A denial before the request was read.
    pub fn deny(&self, reason: DenyReason) -> Decision {
        Decision::deny(self.authorizer.snapshot(), reason)
    }

    fn start(settings: &FilterSettings, is_validation: bool) -> Result<Self, StartError> {
        let log = OpenLog::new();
        let serves = Serves::Decisions { read_only: settings.read_only };
        // A pipe can be read once, and the next filter configuration reads the file again.
        let Loaded { outcome, files } = Config::load_for(&settings.config, PipeHandling::Rejected, serves);
        let config = outcome?;
        let snapshot = Snapshot::build(&config, None).map_err(|error| error.about(&settings.config))?;
        reload::log_warnings(&config.warnings);
        let baseline = ConfigBaseline {
            path: settings.config.clone(),
            files,
            restrictions: config.restrictions,
            serves,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("envoy-auth-tok")
            .enable_all()
            .build()?;
        // Dropped in the right order even if the start fails half-way.
        runtime.handle().clone().block_on(Self::start_on(
            runtime,
            settings,
            config.startup,
            snapshot,
            baseline,
            is_validation,
            log,
        ))
    }

    async fn start_on(
        runtime: Runtime,
        settings: &FilterSettings,
        mut startup: Startup,
        snapshot: Snapshot,
        baseline: ConfigBaseline,
        is_validation: bool,
        log: OpenLog,
    ) -> Result<Self, StartError> {
        let runtime = BackgroundRuntime(Some(runtime));
        let started = Instant::now();
        let clock = Clock::system();
        if is_validation {
            startup.keys = None;
        }
        let (lines, guard) = match settings.log_decisions {
            LogDecisions::None => (None, None),
            LogDecisions::All | LogDecisions::Denied => {
                let (lines, guard) = LogWriter::standard_error(settings.log);
                (Some(lines), Some(guard))
            }
        };
        let decision_log = DecisionLog::new(settings.log_decisions, NonZeroU64::MIN, lines);
        let telemetry = Telemetry::new(decision_log, None);
        let telemetry = Arc::new(telemetry.with_policy_source(RoutePolicySource::FilterConfig));
        telemetry.metrics().show_snapshot(&snapshot, clock.now());
        telemetry.metrics().show_loaded(clock.now());
        telemetry.metrics().show_memory_limit(memory::limit());
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let passwords = Passwords::with_memory_limit(cores.div_ceil(2), memory::limit())?;
        passwords.warn_of_hashes_too_large(&snapshot.users);
        let records_use = matches!(&startup.keys, Some(KeyStore { read_only: false, .. }));
        let keys = match &startup.keys {
            Some(KeyStore { url, read_only: false }) => Some(Keys::open(url, clock.clone()).await?),
            Some(KeyStore { url, read_only: true }) => Some(Keys::open_read_only(url, clock.clone()).await?),
            None => None,
        };
        let acceptors = Acceptors::new(&snapshot.tls);
        let snapshots = SnapshotStore::new(snapshot);
        if let Some(keys) = &keys {
            telemetry.metrics().show_keys(Arc::clone(keys), clock.clone());
            let snapshots = snapshots.clone();
            keys.follow_settings(move || snapshots.current().keys.clone());
        }
        let people = People::new(clock.clone())?;
        let sources = Sources { passwords, people, keys: keys.clone(), clock: clock.clone() };
        let authorizer = Arc::new(Authorizer::new(snapshots.clone(), sources));
        telemetry.metrics().show_directory(Arc::clone(&authorizer));
        let reloader = Reloader::new(
            baseline,
            startup,
            snapshots.clone(),
            acceptors,
            Arc::clone(&authorizer),
            Arc::clone(&telemetry),
            clock,
        );
        let reloads = reloader.start()?;
        let shutdown = CancellationToken::new();
        let follower = keys.clone().map(FollowerThread::start).transpose()?;
        if let Some(keys) = &keys
            && timeout(FIRST_READ_TIMEOUT, keys.first_read()).await.is_err()
        {
            tracing::warn!(
                "the key store has not been read yet: requests with an API key get 503 until it is read"
            );
        }
        if let (Ok(Some(address)), false) = (settings.probes(), is_validation) {
            let (handle, readiness) = ReadinessHandle::new();
            serve_probes(address, readiness, Arc::clone(&telemetry), shutdown.clone()).await;
            let keys = keys.clone();
            tokio::spawn(async move {
                if let Some(keys) = keys {
                    readiness::until_ready(&keys, &snapshots, started).await;
                }
                handle.set_ready();
            });
        }
        tracing::info!(config = %settings.config.display(), "deciding");
        let runtime = runtime.into_inner();
        Ok(Self {
            authorizer,
            telemetry,
            runtime: runtime.handle().clone(),
            records_use,
            services: Some(Services { runtime, reloads, keys: keys.zip(follower), shutdown, _lines: guard }),
            _log: log,
        })
    }
}

/// Serves the probes.  Envoy does not depend on them: an address that cannot be bound is a warning, and is tried again.  The
/// Envoy before a hot restart has it until it ends, and so has the instance of a filter that was just replaced.
async fn serve_probes(
    address: Listen,
    readiness: readiness::Readiness,
    telemetry: Arc<Telemetry>,
    shutdown: CancellationToken,
) {
    let bound = Listener::bind(&address).await.inspect_err(|error| {
        tracing::warn!(
            %error,
            "cannot listen for probes: /live, /ready and /metrics are served once this address is free"
        );
    });
    let bound = bound.ok();
    tokio::spawn(async move {
        let listener = match bound {
            Some(listener) => listener,
            None => tokio::select! {
                listener = bind_in_the_end(&address) => listener,
                () = shutdown.cancelled() => return,
            },
        };
        tracing::info!(listener = "probes", address = %listener.address(&address), "listening");
        let closed = telemetry.metrics().closed_connections("probes");
        let listener = LimitedListener::new(listener, "probes", probes::MAX_CONNECTIONS, closed);
        probes::serve(listener, readiness, telemetry, shutdown).await;
    });
}

async fn bind_in_the_end(address: &Listen) -> Listener {
    loop {
        sleep(BIND_AGAIN_AFTER).await;
        if let Ok(listener) = Listener::bind(address).await {
            return listener;
        }
    }
}

impl Drop for Instance {
    /// Ends the background work, on a separate thread: the last request may end on a thread that must not wait.
    fn drop(&mut self) {
        let Some(services) = self.services.take() else {
            return;
        };
        let log = OpenLog::new();
        let end = move || {
            let Services { runtime, reloads, keys, shutdown, _lines } = services;
            reloads.stop();
            shutdown.cancel();
            if let Some((keys, follower)) = keys {
                runtime.block_on(async {
                    let closed = timeout(CLOSE_STORE_TIMEOUT, async {
                        follower.stop().await;
                        keys.close().await;
                    });
                    if closed.await.is_err() {
                        tracing::warn!(
                            "the key store did not close in time: the process goes on without waiting for it"
                        );
                    }
                });
            }
            runtime.shutdown_background();
            drop(log);
        };
        // Without a thread they end with the process.
        let _ = thread::Builder::new().name("envoy-auth-end".to_owned()).spawn(end);
    }
}

/// A runtime that may be dropped anywhere.
struct BackgroundRuntime(Option<Runtime>);

impl BackgroundRuntime {
    fn into_inner(mut self) -> Runtime {
        self.0.take().expect("it is taken once")
    }
}

impl Drop for BackgroundRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
