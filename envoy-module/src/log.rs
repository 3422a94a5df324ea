//! Our log lines in Envoy's log.
//!
//! The library's `tracing` events become lines of Envoy's log component `dynamic_modules`, with Envoy's level and
//! destination.  The module's threads may outlive their instance for a moment.  Without an instance nothing is written,
//! since Envoy may be shutting down.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use envoy_auth_tokens::telemetry::logging;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::abi::{self, LogLevel};

/// Instances that may log.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Lines are written for as long as one of these lives.
#[derive(Debug)]
pub struct OpenLog(());

impl OpenLog {
    pub fn new() -> Self {
        OPEN.fetch_add(1, Ordering::AcqRel);
        Self(())
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Receives the lines of this process' copy of the library, once.
pub fn start() {
    // An error means that they are taken already.
    if tracing::subscriber::set_global_default(EnvoyLog).is_ok() {
        logging::log_panics();
    }
}

struct EnvoyLog;

impl Subscriber for EnvoyLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries never log below warnings: at finer levels they write what they read.
        let is_ours = metadata.target().starts_with("envoy_auth_tokens");
        *metadata.level() <= if is_ours { Level::INFO } else { Level::WARN }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if OPEN.load(Ordering::Acquire) == 0 {
            return;
        }
        let level = match *event.metadata().level() {
            Level::ERROR => LogLevel::Error,
            Level::WARN => LogLevel::Warn,
            Level::INFO => LogLevel::Info,
            Level::DEBUG => LogLevel::Debug,
            Level::TRACE => LogLevel::Trace,
        };
        let mut line = Line::default();
        event.record(&mut line);
        abi::log(level, &format!("envoy-auth-tokens: {}{}", line.message, line.fields));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, and the fields behind it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            // A String takes all that is written.
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}
