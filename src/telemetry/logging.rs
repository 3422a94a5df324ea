//! The log on standard error.

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Lines that wait to be written.
const MOST_LINES: usize = 16 * 1024;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Writes what is still to be written when it is dropped.
pub struct Logging {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
}

impl Logging {
    /// Counts lines that were dropped because nobody read them fast enough.
    pub fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Begins to log, at this level and above.
///
/// A thread of its own writes the lines.  When whoever reads them falls behind, lines are dropped and counted:
/// a log that nobody reads must not stop a gateway.
///
/// The level is ours alone.  Libraries never log below warnings: at their finest
/// they write down what they read, and a token may be in it.
pub fn init(format: LogFormat, level: LevelFilter) -> Logging {
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MOST_LINES).finish(std::io::stderr());
    let dropped = writer.error_counter();
    let ours = ["envoy_auth_tokens", "decision", "audit"].map(|target| (target, level));
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours);
    let writer = fmt::layer().with_writer(writer);
    let layer = match format {
        LogFormat::Text => writer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => writer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    log_panics();
    Logging { _worker: worker, dropped }
}

/// A panic's message may quote what was being read, so only its place is logged.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref().unwrap_or("unknown"), "panicked: please report this");
    }));
}
