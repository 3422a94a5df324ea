//! What operators see: metrics, the decision log, the audit log, the log, traces.

pub mod audit_log;
pub mod decision_log;
pub mod h2_events;
pub mod logging;
pub mod metrics;
mod traceparent;
#[cfg(feature = "otel")]
pub mod traces;
#[cfg(not(feature = "otel"))]
#[path = "telemetry/no_traces.rs"]
pub mod traces;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::attributes::{Attributes, Http};
use crate::decision::{Decision, Outcome};
use crate::deny_reason::DenyReason;
use crate::policy::SelectError;
use decision_log::DecisionLog;
use logging::LogCounters;
use metrics::Metrics;
use traces::{CheckSpan, Traces};

/// One answered Check, for metrics, decision log and span.
pub struct CheckRecord<'a> {
    /// The decision.
    pub decision: &'a Decision,
    /// The request; none when its message was not read.
    pub request: Option<&'a Attributes<'a>>,
    /// The time from the message's last byte to the answer.
    pub elapsed: Duration,
    /// The span that ends with this answer, where traces are sent.
    pub span: Option<&'a CheckSpan>,
}

impl CheckRecord<'_> {
    fn http(&self) -> Option<&Http<'_>> {
        self.request.and_then(|request| request.http.as_ref())
    }
}

/// Where a route of Envoy names its policy: errors about a wrong name point there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutePolicySource {
    /// In `context_extensions`, for the filter ext_authz.
    ContextExtensions,
    /// In the route's `filter_config`, for the module inside Envoy.
    FilterConfig,
}

/// Records what the server does.
#[derive(Debug)]
pub struct Telemetry {
    metrics: Metrics,
    decisions: DecisionLog,
    traces: Option<Traces>,
    policy_source: RoutePolicySource,
}

impl Telemetry {
    /// Telemetry with this log of decisions, and the log's own counters.
    pub fn new(decisions: DecisionLog, log: Option<LogCounters>) -> Self {
        Self {
            metrics: Metrics::new(log),
            decisions,
            traces: None,
            policy_source: RoutePolicySource::ContextExtensions,
        }
    }

    /// The same, for an Envoy whose routes name their policies there.
    pub fn with_policy_source(self, policy_source: RoutePolicySource) -> Self {
        Self { policy_source, ..self }
    }

    /// The same, sending these traces.
    pub fn with_traces(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// The span of a Check that starts now, with its gRPC metadata; `None` if no traces are sent.
    // Boxed, so that the task of every Check stays as small as without traces.
    pub fn begin_span(&self, metadata: &HeaderMap) -> Option<Box<CheckSpan>> {
        self.traces.as_ref().map(|traces| Box::new(traces.begin(metadata)))
    }

    /// Sends the spans that are still to be sent, for a few seconds at most.
    pub async fn close(self: Arc<Self>) {
        if self.traces.is_some() {
            let flush = move || self.traces.as_ref().map(Traces::close);
            // A panic there has been logged, and there is nothing more to send.
            let _ = tokio::task::spawn_blocking(flush).await;
        }
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Records an answered Check in metrics, decision log and span.
    pub fn record(&self, check: &CheckRecord<'_>) {
        self.metrics.count(check.decision, check.elapsed);
        self.decisions.write(check);
        if let Some(span) = check.span {
            span.end(check);
        }
        self.log_wrong_context(check);
    }

    /// Logs a mistake in Envoy's configuration, whichever decisions are logged: no client can cause it.
    fn log_wrong_context(&self, check: &CheckRecord<'_>) {
        let outcome = check.decision.outcome();
        if outcome == Outcome::Denied(DenyReason::Selection(SelectError::UnknownPolicy)) {
            let policy = check.request.and_then(|request| request.policy).map(decision_log::printable);
            let policy = policy.as_deref();
            match self.policy_source {
                RoutePolicySource::ContextExtensions => tracing::error!(
                    policy,
                    "the context_extensions of an Envoy route name a policy that the configuration does not have: correct \
                     the name there, or add the policy to `policies`"
                ),
                RoutePolicySource::FilterConfig => tracing::error!(
                    policy,
                    "the filter_config of an Envoy route names a policy that the configuration does not have: correct the \
                     name there, or add the policy to `policies`"
                ),
            }
        }
        if outcome == Outcome::Denied(DenyReason::ContextKey) {
            let key =
                check.request.and_then(|request| request.misspelled_policy).map(decision_log::printable);
            tracing::error!(
                key = key.as_deref(),
                "the context_extensions of an Envoy route have a key that is similar to `policy`: rename the key to `policy`"
            );
        }
    }

    /// Records a Check whose message could not be read: the answer was a gRPC error.
    pub fn record_unreadable(&self, error: impl std::error::Error) {
        self.metrics.count_unreadable();
        tracing::warn!(%error, "a Check could not be read");
    }
}
