//! Telling the operator: metrics, the decision log, the log.

pub mod decision_log;
pub mod logging;
pub mod metrics;

use std::time::Duration;

use crate::attributes::Attributes;
use crate::decision::{Decision, Outcome, Refusal};
use decision_log::DecisionLog;
use metrics::Metrics;
use tracing_appender::non_blocking::ErrorCounter;

/// Hears of every decision.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    decisions: DecisionLog,
}

impl Telemetry {
    /// Telemetry with this log of decisions, that counts the log lines that were dropped.
    pub fn new(decisions: DecisionLog, dropped_log_lines: Option<ErrorCounter>) -> Self {
        Self { metrics: Metrics::new(dropped_log_lines), decisions }
    }

    /// The metrics, to be shown.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes note of an answered Check: the decision, what it came to, and how long it took.
    pub fn record(
        &self,
        decision: &Decision,
        outcome: Outcome,
        request: Option<&Attributes<'_>>,
        elapsed: Duration,
    ) {
        self.metrics.count(decision, outcome, elapsed);
        self.decisions.note(decision, outcome, request, elapsed);
        // Only an operator can name a policy: the mistake is told whatever is logged of decisions.
        if outcome == Outcome::Refused(Refusal::UnknownPolicy) {
            let policy = request.and_then(|request| request.policy).map(decision_log::shown);
            tracing::error!(
                policy = policy.as_deref(),
                "Envoy's context_extensions name a policy that the configuration does not have"
            );
        }
    }

    /// Takes note of a request whose message could not be read: the answer was a gRPC error.
    pub fn record_unreadable(&self, error: impl std::error::Error) {
        self.metrics.count_unreadable();
        tracing::warn!(%error, "a Check could not be read");
    }
}
