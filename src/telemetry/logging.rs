//! The log on standard error.

use std::io::Write;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::h2_events;

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
    lines: Option<Lines>,
}

impl Logging {
    /// Counts lines that were dropped because nobody read them fast enough.
    pub fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }

    /// Where lines at info go that are not written through `tracing`; `None` when the level is above info.
    pub fn lines(&self) -> Option<Lines> {
        self.lines.clone()
    }
}

/// The log, for whoever writes whole lines.
#[derive(Debug, Clone)]
pub struct Lines {
    writer: NonBlocking,
    /// How a line is written.
    pub format: LogFormat,
}

impl Lines {
    /// Hands one whole line, its end included, to the thread that writes; dropped and counted like any other.
    pub fn write(&self, line: &[u8]) {
        // A lossy writer has no error to tell.
        let _ = self.writer.clone().write_all(line);
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
    let ours = ["envoy_auth_tokens", "audit"].map(|target| (target, level));
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours);
    let lines = (level >= LevelFilter::INFO).then(|| Lines { writer: writer.clone(), format });
    let writer = fmt::layer().with_writer(writer);
    let layer = match format {
        LogFormat::Text => writer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => writer.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).with(h2_events::layer()).init();
    log_panics();
    Logging { _worker: worker, dropped, lines }
}

/// A panic's message may quote what was being read, so only its place is logged.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref().unwrap_or("unknown"), "panicked: please report this");
    }));
}
