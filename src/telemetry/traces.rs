//! Traces: one span per Check, joined to Envoy's, sent to a collector over OTLP/gRPC.
//!
//! They are configured by OpenTelemetry's own environment variables and begin when an endpoint is set.
//! A trace that cannot be sent costs no Check anything: a fault is a warning, and spans that the full queue
//! cannot take are dropped and counted.

mod export;
pub mod propagation;
mod settings;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::{Builder, Runtime};

use super::CheckRecord;
use super::decision_log::{printable, without_user_info};
use crate::attributes::Http;
use crate::decision::{Decision, Outcome};
use export::SpanQueue;
use propagation::Parent;
pub use settings::SettingsError;
use settings::TraceSettings;

/// The longest that the end of the process waits for spans to be sent.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The name of every span, and of the method (semantic conventions for gRPC).
const METHOD: &str = "envoy.service.auth.v3.Authorization/Check";

/// Sends spans.
#[derive(Debug)]
pub struct Traces {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    /// Lives as long as the connection to the collector.
    _runtime: ExportRuntime,
}

/// Why no traces are sent although an endpoint is set.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// A variable says what cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The library denies what the variables say.
    #[error(transparent)]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// There is no thread to send them.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Traces {
    /// Traces as the process environment wants them; `None` when it wants none.
    ///
    /// A mistake in the environment is a warning in the log, and then there are none: telemetry never keeps a
    /// gateway from starting.  Spans that are lost count as `dropped`.
    pub fn from_environment(dropped: Counter) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok();
        let traces = match TraceSettings::read(variable) {
            Ok(settings) => settings.map(|settings| Self::new(settings, dropped)).transpose(),
            Err(error) => Err(error.into()),
        };
        traces.unwrap_or_else(|error| {
            tracing::warn!(%error, "no traces are sent");
            None
        })
    }

    fn new(settings: TraceSettings, dropped: Counter) -> Result<Self, TracesError> {
        if let Some(warning) = settings.warning {
            tracing::warn!("{warning}");
        }
        let runtime = ExportRuntime::start()?;
        let exporter = {
            let _entered = runtime.0.as_ref().map(Runtime::enter);
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(settings.endpoint);
            match settings.tls {
                Some(tls) => exporter.with_tls_config(tls).build()?,
                None => exporter.build()?,
            }
        };
        let provider = SdkTracerProvider::builder()
            .with_span_processor(SpanQueue::before(exporter, settings.queue, dropped))
            .with_resource(resource(settings.names_itself))
            .build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"));
        let scope = scope.with_version(env!("CARGO_PKG_VERSION")).build();
        tracing::info!("sending traces");
        Ok(Self { tracer: provider.tracer_with_scope(scope), provider, _runtime: runtime })
    }

    /// The span of a Check that begins now, with its gRPC metadata.
    pub fn begin(&self, metadata: &HeaderMap) -> CheckSpan {
        let parent = propagation::parent(|name| metadata.get(name).map(HeaderValue::as_bytes));
        CheckSpan { tracer: self.tracer.clone(), started: SystemTime::now(), parent }
    }

    /// Sends what is still to be sent, for [`FLUSH_TIMEOUT`] at most, and sends nothing more.
    /// It blocks the thread.
    pub fn close(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans may be lost");
        }
    }
}

/// A runtime on a thread of its own, away from those that answer.  Dropped, it ends without being waited for,
/// because code that runs in a future must not block.
#[derive(Debug)]
struct ExportRuntime(Option<Runtime>);

impl ExportRuntime {
    fn start() -> std::io::Result<Self> {
        let mut runtime = Builder::new_multi_thread();
        runtime.worker_threads(1).thread_name("traces").enable_all();
        Ok(Self(Some(runtime.build()?)))
    }
}

impl Drop for ExportRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn resource(names_itself: bool) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    // What the environment says comes last, so that it wins.
    let mut ours = Resource::builder_empty().with_attribute(version);
    if names_itself {
        ours = ours.with_service_name(env!("CARGO_PKG_NAME"));
    }
    let theirs = Resource::builder().build();
    let theirs = theirs.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let theirs = theirs.filter(|attribute| !(names_itself && attribute.key.as_str() == "service.name"));
    ours.with_attributes(theirs).build()
}

/// A Check that is being answered.  Its span is made when it ends: only then is its trace known.
#[derive(Debug)]
pub struct CheckSpan {
    tracer: SdkTracer,
    started: SystemTime,
    /// The parent that the gRPC metadata names; without one the request's own headers are read.
    parent: Option<Parent>,
}

impl CheckSpan {
    /// Ends with an answer.
    pub fn end(&self, check: &CheckRecord<'_>) {
        let Some(mut span) = self.sampled(check.http()) else {
            return;
        };
        span.set_attribute(KeyValue::new("rpc.response.status_code", "OK"));
        if let Some(http) = check.http() {
            describe_request(&mut span, http);
        }
        describe_decision(&mut span, check.decision);
        // A denial is an answer; only what is our own fault is an error.
        if let Outcome::Denied(deny_reason) = check.decision.outcome()
            && deny_reason.details().status >= 500
        {
            fail(&mut span, deny_reason.as_str());
        }
        span.end();
    }

    /// Ends with a gRPC error, because the message could not be read.
    pub fn unreadable(&self) {
        if let Some(mut span) = self.sampled(None) {
            fail(&mut span, "unreadable_check");
            span.end();
        }
    }

    /// The span, when it is to be recorded: else nothing is described.
    fn sampled(&self, http: Option<&Http<'_>>) -> Option<Span> {
        let forwarded = || http.and_then(|http| propagation::parent(|name| http.headers.first(name)));
        let context = match self.parent.clone().or_else(forwarded) {
            Some(Parent::Span(parent)) => Context::new().with_remote_span_context(parent),
            Some(Parent::Unsampled) => return None,
            None => Context::new(),
        };
        let builder =
            self.tracer.span_builder(METHOD).with_kind(SpanKind::Server).with_start_time(self.started);
        let mut span = self.tracer.build_with_context(builder, &context);
        if !span.is_recording() {
            return None;
        }
        span.set_attribute(KeyValue::new("rpc.system.name", "grpc"));
        span.set_attribute(KeyValue::new("rpc.method", METHOD));
        Some(span)
    }
}

fn fail(span: &mut Span, reason: &'static str) {
    span.set_attribute(KeyValue::new("error.type", reason));
    span.set_status(Status::error(reason));
}

/// The request, without headers and query: they may hold a secret.
fn describe_request(span: &mut Span, http: &Http<'_>) {
    let method = printable(http.method);
    if is_standard_method(&method) {
        span.set_attribute(KeyValue::new("http.request.method", method.into_owned()));
    } else {
        span.set_attribute(KeyValue::new("http.request.method", "_OTHER"));
        span.set_attribute(KeyValue::new("http.request.method_original", method.into_owned()));
    }
    span.set_attribute(KeyValue::new("url.domain", owned(printable(domain(http.host)))));
    span.set_attribute(KeyValue::new("url.path", owned(printable(http.path_without_query()))));
}

fn describe_decision(span: &mut Span, decision: &Decision) {
    let outcome = decision.outcome();
    span.set_attribute(KeyValue::new("envoy_auth_tokens.decision", outcome.as_str()));
    span.set_attribute(KeyValue::new("envoy_auth_tokens.reason", outcome.reason()));
    if let Some(policy) = &decision.context.policy {
        span.set_attribute(KeyValue::new("envoy_auth_tokens.policy", policy.name().to_string()));
    }
    if let Some(principal) = &decision.context.principal {
        span.set_attribute(KeyValue::new("envoy_auth_tokens.credential.kind", principal.kind.as_str()));
        let name = owned(printable(principal.name.as_bytes()));
        span.set_attribute(KeyValue::new("envoy_auth_tokens.credential.name", name));
        if let Some(id) = principal.id {
            span.set_attribute(KeyValue::new("envoy_auth_tokens.key_id", id));
        }
    }
}

fn owned(text: Cow<'_, str>) -> String {
    text.into_owned()
}

/// The methods that the semantic conventions list.
fn is_standard_method(method: &str) -> bool {
    const STANDARD: [&str; 10] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
    STANDARD.contains(&method)
}

/// A host without its port.
fn domain(host: &[u8]) -> &[u8] {
    let host = without_user_info(host);
    match host.iter().rposition(|&byte| byte == b':') {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_a_host_without_port_and_password() {
        for (host, expected) in [
            ("api.example", "api.example"),
            ("api.example:8443", "api.example"),
            ("user:secret@api.example:8443", "api.example"),
            ("[::1]:8443", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(domain(host.as_bytes()), expected.as_bytes(), "{host}");
        }
    }
}
