//! Telling the operator: metrics, the decision log, the log.

pub mod decision_log;
pub mod logging;
pub mod metrics;

use std::time::Duration;

use crate::attributes::Http;
use crate::decision::{Decision, Refusal};
use decision_log::LogDecisions;
use metrics::Metrics;

/// Hears of every decision.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    log_decisions: LogDecisions,
}

impl Telemetry {
    /// Telemetry that logs these decisions.
    pub fn new(log_decisions: LogDecisions) -> Self {
        Self { metrics: Metrics::new(), log_decisions }
    }

    /// The metrics, to be shown.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes note of an answered Check: the decision, what was refused in the end, and how long it took.
    pub fn record(
        &self,
        decision: &Decision,
        refusal: Option<Refusal>,
        http: Option<&Http<'_>>,
        elapsed: Duration,
    ) {
        self.metrics.count(decision, refusal, elapsed);
        if self.log_decisions.includes(refusal) {
            decision_log::write(decision, refusal, http, elapsed);
        }
    }

    /// Takes note of a request whose message could not be read: the answer was a gRPC error.
    pub fn record_unreadable(&self, error: impl std::error::Error) {
        self.metrics.count_unreadable();
        tracing::warn!(%error, "a Check could not be read");
    }
}
