//! `serve`

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracing::level_filters::LevelFilter;

use super::{CliError, CommandOutcome, ConfigFile};
use crate::app::{self, Options, ServeError};
use crate::clock::Clock;
use crate::config::{Config, Loaded, PipeHandling, Serves, Severity, parse_size};
use crate::memory;
use crate::reload::{self, ConfigBaseline};
use crate::shutdown::{SighupStream, Signals};
use crate::snapshot::Snapshot;
use crate::telemetry::decision_log::{DecisionLog, LogDecisions};
use crate::telemetry::logging::{self, LogFormat, Logging};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// How long the server continues to answer after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Which decisions to log
    #[arg(long, value_enum, default_value = "all")]
    log_decisions: LogDecisions,
    /// Log one of N allowed decisions; denied and shadowed decisions are always logged
    #[arg(long, value_name = "N", default_value = "1")]
    log_sample: NonZeroU64,
    /// The format of the log
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// The lowest level to log: error, warn, info or debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
    /// Write the audit log (changes, log-ins, locks) as JSON to this file instead of the log; the file is reopened on
    /// SIGHUP and after it was moved
    #[arg(long, value_name = "PATH")]
    audit_log: Option<PathBuf>,
    /// The number of worker threads [default: the number of CPUs, or the CPU limit]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// The memory that the server may use, such as 128MiB, at least 32MiB [default: the limit of the cgroup, or the
    /// memory of the machine]
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    memory_limit: Option<u64>,
    /// Also serve gRPC reflection
    #[arg(long)]
    reflection: bool,
}

/// Below this the memory budgets are too small to serve requests.
const MIN_MEMORY: u64 = 32 * 1024 * 1024;

fn memory_size(text: &str) -> Result<u64, &'static str> {
    parse_size(text)
        .filter(|&bytes| bytes >= MIN_MEMORY)
        .ok_or("expected a size of 32MiB or more, such as 128MiB or 1GiB")
}

impl ServeArgs {
    pub(super) fn run(self) -> Result<CommandOutcome, CliError> {
        let logging = logging::init(self.log_format, self.log_level, self.audit_log.as_deref())?;
        match (self.log_format, self.serve(&logging)) {
            (_, Ok(())) => Ok(CommandOutcome::Success),
            (LogFormat::Text, Err(error)) => Err(error),
            // A log collector reads one JSON object a line, and nothing else.
            (LogFormat::Json, Err(error)) => {
                log(&error);
                Ok(CommandOutcome::Failure)
            }
        }
    }

    fn serve(self, logging: &Logging) -> Result<(), CliError> {
        if let Some(bytes) = self.memory_limit {
            memory::set_limit(bytes);
        }
        let available = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = self.workers.map_or(available, NonZeroUsize::get);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .map_err(|source| CliError::Workers { workers, source })?;
        // Before anything else: a SIGHUP while the configuration is read must not kill the process.
        let hangups = {
            let _runtime = runtime.enter();
            SighupStream::listen().map_err(CliError::Signals)?
        };
        let Loaded { outcome, files } = Config::load_recording_files(&self.config.path, PipeHandling::Read);
        let (startup, snapshot, restrictions) = {
            // It holds plain passwords: it is dropped as soon as they are hashed.
            let config = outcome?;
            let snapshot = Snapshot::build(&config, None).map_err(|error| error.about(&self.config.path))?;
            reload::log_warnings(&config.warnings);
            (config.startup, snapshot, config.restrictions)
        };
        let baseline =
            ConfigBaseline { path: self.config.path, files, restrictions, serves: Serves::Everything };
        let options = Options {
            decision_log: DecisionLog::new(self.log_decisions, self.log_sample, logging.lines()),
            drain: self.drain,
            // The other half of the processors answers Checks during a flood of passwords.
            parallel_passwords: workers.div_ceil(2),
            reflection: self.reflection,
            log: Some(logging.counters()),
            audit_log: logging.audit_log(),
        };
        let served = runtime.block_on(async {
            // A store that does not answer delays `build` for seconds, during which signals count, too.
            let mut signals = Signals::listen().map_err(ServeError::Signals)?;
            let bound = tokio::select! {
                bound = app::build(startup, snapshot, baseline, options, Clock::system()) => bound?,
                signal = signals.next() => {
                    tracing::info!(signal, "stopped before the server listened");
                    return Ok(());
                }
            };
            bound.serve(signals, hangups).await
        });
        // The process does not wait for a password that is still being verified.
        runtime.shutdown_background();
        Ok(served?)
    }
}

/// Writes an error to the log, an invalid configuration as one line a diagnostic.
fn log(error: &CliError) {
    let CliError::Configuration(errors) = error else {
        return tracing::error!("{error}");
    };
    errors.iter().for_each(|diagnostic| match diagnostic.severity {
        Severity::Error => {
            tracing::error!(place = %diagnostic.place(), key = diagnostic.key, "{}", diagnostic.message);
        }
        Severity::Warning => {
            tracing::warn!(place = %diagnostic.place(), key = diagnostic.key, "{}", diagnostic.message);
        }
    });
}
