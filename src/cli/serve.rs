//! `serve`

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use tracing::level_filters::LevelFilter;

use super::{Complaint, ConfigFile};
use crate::app::{self, Options, ServeError};
use crate::clock::Clock;
use crate::shutdown::Signals;
use crate::telemetry::decision_log::LogDecisions;
use crate::telemetry::logging::{self, LogFormat};

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigFile,
    /// How long to go on answering after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    drain: Duration,
    /// Which decisions to log
    #[arg(long, value_enum, default_value = "all")]
    log_decisions: LogDecisions,
    /// How to write the log
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// How much to log: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: LevelFilter,
    /// Threads that answer; as many as the CPU limit allows when not given
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Serve gRPC reflection too
    #[arg(long)]
    reflection: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Complaint> {
        let logging = logging::init(self.log_format, self.log_level);
        let config = self.config.load()?;
        for warning in &config.warnings {
            tracing::warn!(place = %warning.place(), key = warning.key, "{}", warning.message);
        }
        let available = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = self.workers.map_or(available, NonZeroUsize::get);
        let options = Options {
            log_decisions: self.log_decisions,
            drain: self.drain,
            // The other half of the processors goes on answering Checks during a flood of passwords.
            parallel_passwords: workers.div_ceil(2),
            reflection: self.reflection,
            dropped_log_lines: Some(logging.dropped_lines()),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build()
            .map_err(|error| format!("error: cannot start {workers} threads: {error}"))?;
        let served = runtime.block_on(async {
            // A store that does not answer holds `build` up for seconds, and a signal is heard in these, too.
            let mut signals = Signals::listen().map_err(ServeError::Signals)?;
            let bound = tokio::select! {
                bound = app::build(config, options, Clock::system()) => bound?,
                signal = signals.next() => {
                    tracing::info!(signal, "stopped before anything was served");
                    return Ok(());
                }
            };
            bound.serve(signals).await
        });
        // A password that is still being verified must not hold the process up.
        runtime.shutdown_background();
        served.map_err(|error| format!("error: {error}"))
    }
}
