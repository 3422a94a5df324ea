//! The log on standard error.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder};

pub use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::audit_log::{self, AuditLog, AuditLogError};
use super::h2_events;

/// Lines that may wait to be written.
const MAX_LINES: usize = 16 * 1024;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object on each line.
    Json,
}

/// Writes the remaining lines when it is dropped.
pub struct Logging {
    _worker: WorkerGuard,
    counters: LogCounters,
    lines: Option<LogWriter>,
}

/// The counters of the log.
#[derive(Debug, Clone)]
pub struct LogCounters {
    dropped: ErrorCounter,
    unwritten: Arc<AtomicU64>,
    audit_log: AuditLog,
}

impl LogCounters {
    /// Lines that were lost: the queue was full, or they could not be written.
    pub fn lost_lines(&self) -> u64 {
        let dropped = u64::try_from(self.dropped.dropped_lines()).unwrap_or(u64::MAX);
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        dropped.saturating_add(unwritten).saturating_add(self.audit_log.lost())
    }

    /// Denials that are in the audit log and not in the store.
    pub fn denials_not_stored(&self) -> u64 {
        self.audit_log.rows_not_stored()
    }

    /// Lines of the audit log that wait to be written.
    pub fn waiting_audit_lines(&self) -> u64 {
        u64::try_from(self.audit_log.waiting()).unwrap_or(u64::MAX)
    }
}

impl Logging {
    /// Counts lines that were lost, and those that wait.
    pub fn counters(&self) -> LogCounters {
        self.counters.clone()
    }

    /// Where changes, log-ins and locks are recorded.
    pub fn audit_log(&self) -> AuditLog {
        self.counters.audit_log.clone()
    }

    /// Where lines at info go that are not written through `tracing`; `None` when the level is above info.
    pub fn lines(&self) -> Option<LogWriter> {
        self.lines.clone()
    }
}

/// The log, for callers that write whole lines.
#[derive(Debug, Clone)]
pub struct LogWriter {
    writer: NonBlocking,
    /// How a line is written.
    pub format: LogFormat,
}

impl LogWriter {
    /// Whole lines to standard error, for a process whose log is another's.  A thread writes them for as long as the guard
    /// lives.
    pub fn standard_error(format: LogFormat) -> (Self, WorkerGuard) {
        let stderr = StandardError { unwritten: Arc::default() };
        let (writer, worker) =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_LINES).finish(stderr);
        (Self { writer, format }, worker)
    }

    /// Hands one whole line, its end included, to the thread that writes; dropped and counted like any other.
    pub fn write(&self, line: &[u8]) {
        // A lossy writer returns no error.
        let _ = self.writer.clone().write_all(line);
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.counters.audit_log.close();
    }
}

/// Standard error, where a line that cannot be written is counted.
struct StandardError {
    unwritten: Arc<AtomicU64>,
}

impl Write for StandardError {
    /// Takes a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if io::stderr().write_all(line).is_err() {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log, at this level and above; and the audit log, at any level, to a file of its own where one is named.
///
/// A thread of its own writes the lines.  When the reader falls behind, lines are dropped and counted:
/// a log that is not read must not stop a gateway.
///
/// The level is that of our own lines.  Libraries never log below warnings: at their finest levels they write what
/// they read, and a token may be in it.
///
/// # Errors
/// [`AuditLogError`]: the audit log's file cannot be opened.
pub fn init(
    format: LogFormat,
    level: LevelFilter,
    audit_log: Option<&Path>,
) -> Result<Logging, AuditLogError> {
    let audit_format = if audit_log.is_some() { LogFormat::Json } else { format };
    let audit_log = AuditLog::start(audit_log)?;
    let unwritten = Arc::new(AtomicU64::new(0));
    let stderr = StandardError { unwritten: Arc::clone(&unwritten) };
    let (writer, worker) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_LINES).finish(stderr);
    let counters = LogCounters { dropped: writer.error_counter(), unwritten, audit_log: audit_log.clone() };
    let ours = [("envoy_auth_tokens", level), (audit_log::TARGET, LevelFilter::OFF)];
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(ours);
    let lines = (level >= LevelFilter::INFO).then(|| LogWriter { writer: writer.clone(), format });
    let audit_filter = Targets::new().with_target(audit_log::TARGET, LevelFilter::INFO);
    let layer = layer(format, writer).with_filter(filter);
    let audit_layer = self::layer(audit_format, audit_log).with_filter(audit_filter);
    tracing_subscriber::registry().with(layer).with(audit_layer).with(h2_events::layer()).init();
    log_panics();
    Ok(Logging { _worker: worker, counters, lines })
}

/// Writes events as lines of this form.
fn layer<S, W>(format: LogFormat, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'s> tracing_subscriber::registry::LookupSpan<'s>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => {
            let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
            let no_color = std::env::var_os("NO_COLOR");
            lines.with_ansi(is_coloured(is_terminal, no_color.as_deref())).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    }
}

/// On a terminal, unless `NO_COLOR` is there and not empty (no-color.org).
fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// A panic's message may quote what was being read, so only its place is logged.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref().unwrap_or("unknown"), "panicked: please report this");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_and_where_they_are_asked_for() {
        for (is_terminal, no_color, expected) in [
            (true, None, true),
            (true, Some(""), true),
            (true, Some("1"), false),
            (true, Some("0"), false),
            (false, None, false),
        ] {
            assert_eq!(
                is_coloured(is_terminal, no_color.map(OsStr::new)),
                expected,
                "{is_terminal} {no_color:?}"
            );
        }
    }
}
