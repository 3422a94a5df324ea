//! Malformed authorities, which the HTTP/2 library reports in its debug log alone.
//!
//! A request whose authority no URI may have, such as Envoy sends for a cluster named `outbound|9000||host`, is reset by
//! the library before it reaches us.  The library writes a line about that, in the task of the connection: a layer
//! that reads that library's lines alone counts it, and the connection takes the count after every poll.

use std::cell::Cell;
use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Where the library writes it, and how the line begins.
const TARGET: &str = "h2::server";
const BEGINNING: &str = "malformed headers: malformed authority";

thread_local! {
    static MALFORMED_AUTHORITIES: Cell<u32> = const { Cell::new(0) };
}

/// How many requests on this thread had such an authority since the last call.
pub fn take_malformed_authorities() -> u32 {
    MALFORMED_AUTHORITIES.take()
}

/// The layer that counts them.
pub fn layer<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> {
    AuthorityCounter.with_filter(Targets::new().with_target(TARGET, LevelFilter::DEBUG))
}

struct AuthorityCounter;

impl<S: Subscriber> Layer<S> for AuthorityCounter {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut reports = ReportsMalformedAuthority(false);
        event.record(&mut reports);
        if reports.0 {
            MALFORMED_AUTHORITIES.set(MALFORMED_AUTHORITIES.get().saturating_add(1));
        }
    }
}

/// Whether an event reports a malformed authority.
struct ReportsMalformedAuthority(bool);

impl Visit for ReportsMalformedAuthority {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let mut rest = PrefixMatcher(BEGINNING);
            // Writing stops with an error as soon as the result is known.
            let _ = write!(rest, "{value:?}");
            self.0 = rest.0.is_empty();
        }
    }
}

/// Compares what is written with a prefix, whose unmatched rest it holds.  The text itself is never built: a client
/// chooses how long it is.
struct PrefixMatcher(&'static str);

impl Write for PrefixMatcher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = text.len().min(self.0.len());
        let (expected, rest) = self.0.split_at_checked(length).ok_or(fmt::Error)?;
        if !text.starts_with(expected) {
            return Err(fmt::Error);
        }
        self.0 = rest;
        if rest.is_empty() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn one_line_of_one_target_counts() {
        let subscriber = tracing_subscriber::registry().with(layer());
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(take_malformed_authorities(), 0);
            tracing::debug!(target: "h2::server", "malformed headers: malformed authority ({:?}): {}", "a|b", "no");
            tracing::debug!(target: "h2::server", "malformed headers: malformed path ({:?}): {}", "a|b", "no");
            tracing::debug!(target: "h2::server", "malformed headers");
            tracing::debug!(target: "h2::client", "malformed headers: malformed authority");
            tracing::trace!(target: "h2::server", "malformed headers: malformed authority");
            tracing::debug!("malformed headers: malformed authority");
            assert_eq!((take_malformed_authorities(), take_malformed_authorities()), (1, 0));
        });
    }
}
