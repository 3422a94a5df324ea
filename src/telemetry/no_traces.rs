//! Stands for [`traces`](self) in a program that was built without the feature `otel`: it sends none.

use std::convert::Infallible;

use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;

use super::CheckRecord;

/// The exporter of spans; there is none.
#[derive(Debug)]
pub struct Traces(Infallible);

/// The span of a Check; there is none.
#[derive(Debug)]
pub struct CheckSpan(Infallible);

impl Traces {
    /// None.  An environment that wants traces gets a warning.
    pub fn from_environment(_dropped: Counter) -> Option<Self> {
        for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
            if std::env::var_os(name).is_some_and(|value| !value.is_empty()) {
                tracing::warn!(
                    variable = name,
                    "no traces are sent: this program was built without the feature \
                     `otel`"
                );
            }
        }
        None
    }

    /// Never called.
    pub fn begin(&self, _metadata: &HeaderMap) -> CheckSpan {
        match self.0 {}
    }

    /// Never called.
    pub fn close(&self) {
        match self.0 {}
    }
}

impl CheckSpan {
    /// Never called.
    pub fn end(&self, _check: &CheckRecord<'_>) {
        match self.0 {}
    }

    /// Never called.
    pub fn unreadable(&self) {
        match self.0 {}
    }
}
