//! One request: headers → attributes → authorize → answer → headers, response, metadata.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use envoy_auth_tokens::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
use envoy_auth_tokens::decision::{Decision, Outcome};
use envoy_auth_tokens::deny_reason::DenyReason;
use envoy_auth_tokens::policy::Permit;
use envoy_auth_tokens::telemetry::CheckRecord;
use envoy_auth_tokens::telemetry::decision_log::printable;
use futures_util::FutureExt;

use crate::abi::{self, ChildSpan, ConfigHandle, Counter, HeadersStatus, Histogram, LogLevel, Stream};
use crate::changes::{AllowChanges, Changes, DenyChanges, Metadata};
use crate::instance::Instance;
use crate::metadata;
use crate::settings::FilterSettings;

/// The name of our spans.
const SPAN: &str = "envoy_auth_tokens.decide";

/// A filter of Envoy's configuration.
pub struct FilterConfig {
    instance: Arc<Instance>,
    stats: Stats,
}

/// Our counters in Envoy's stats.
#[derive(Debug, Clone, Copy)]
struct Stats {
    decisions: Option<Counter>,
    credentials: Option<Counter>,
    durations: Option<Histogram>,
}

impl FilterConfig {
    /// The filter with this `filter_config`.  An error is written into Envoy's log, and Envoy rejects the filter.
    pub fn new(handle: &ConfigHandle<'_>, settings: Option<&str>) -> Option<Self> {
        let instance =
            FilterSettings::read(settings).map_err(|error| error.to_string()).and_then(|settings| {
                Instance::of(settings, abi::is_validation()).map_err(|error| error.to_string())
            });
        let instance = instance.inspect_err(|error| {
            for line in error.lines() {
                abi::log(LogLevel::Error, &format!("envoy-auth-tokens: {line}"));
            }
        });
        let stats = Stats {
            decisions: handle.counter("decisions", &["outcome", "reason", "policy"]),
            credentials: handle.counter("credentials", &["kind"]),
            durations: handle.histogram("decision_duration_us"),
        };
        Some(Self { instance: instance.ok()?, stats })
    }
}

/// One request.
pub struct Filter {
    instance: Arc<Instance>,
    stats: Stats,
    state: Cell<State>,
    waiting: RefCell<Option<Waiting>>,
    /// The headers for the response of a request that passes.
    response: RefCell<Vec<(&'static str, String)>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no decision yet: the request waits.
    Undecided,
    /// It passes.
    Passed,
    /// It was answered, or its client is gone.
    Ended,
}

/// A request that waits for its decision.
struct Waiting {
    request: Arc<RequestCopy>,
    decision: Arc<Mutex<Option<Decision>>>,
    started: StartedDecision,
}

/// When a decision started, and its span if Envoy traces the request.
struct StartedDecision {
    at: Instant,
    span: Option<ChildSpan>,
}

/// The state of a request after its headers.
#[expect(clippy::large_enum_variant, reason = "a box would cost every request an allocation")]
enum Step {
    Decided(FinishedDecision),
    Waits,
}

/// A decision, with its changes.
struct FinishedDecision {
    decision: Decision,
    changes: Changes,
    microseconds: u64,
}

/// Proof that a request passes: [`let_pass`] alone makes it.
struct Passed(());

impl From<Passed> for HeadersStatus {
    fn from(_: Passed) -> Self {
        Self::Continue
    }
}

/// Envoy did not accept a change.
struct NotChanged;

impl Filter {
    /// The filter of a new request.
    pub fn new(config: &FilterConfig) -> Self {
        Self {
            instance: Arc::clone(&config.instance),
            stats: config.stats,
            state: Cell::new(State::Undecided),
            waiting: RefCell::default(),
            response: RefCell::default(),
        }
    }

    /// Whether the request passes, so that its body and trailers may pass as well.
    pub fn has_passed(&self) -> bool {
        self.state.get() == State::Passed
    }

    /// The request no longer waits for the answer.
    pub fn abandon(&self) {
        if self.state.get() == State::Undecided {
            self.state.set(State::Ended);
        }
        self.waiting.take();
    }

    /// Decides about a request after its headers have arrived, or starts the decision.
    pub fn request_headers(&self, stream: &mut Stream<'_>) -> HeadersStatus {
        let step = catch_unwind(AssertUnwindSafe(|| self.decide(stream)));
        match step.unwrap_or_else(|_| Step::Decided(self.panicked())) {
            Step::Decided(finished) => self
                .conclude(stream, &finished)
                .map_or(HeadersStatus::StopAllIterationAndWatermark, Into::into),
            Step::Waits => HeadersStatus::StopAllIterationAndWatermark,
        }
    }

    /// Changes the headers of the response.  Envoy rejects a change where there are no headers; then the client would
    /// not see it either.
    pub fn response_headers(&self, stream: &mut Stream<'_>) {
        for (name, value) in self.response.take() {
            stream.set_response_header(name, value.as_bytes());
        }
    }

    /// Continues a request after its decision.
    pub fn resume(&self, stream: &mut Stream<'_>) {
        if self.state.get() != State::Undecided {
            return;
        }
        let Some(Waiting { request, decision, started }) = self.waiting.take() else {
            return;
        };
        let finished = catch_unwind(AssertUnwindSafe(|| {
            let decision = decision.lock().unwrap_or_else(PoisonError::into_inner).take();
            let decision = decision.unwrap_or_else(|| self.instance.deny(DenyReason::Panicked));
            self.record(decision, &request.attributes(), started)
        }));
        let finished = finished.unwrap_or_else(|_| self.panicked());
        if self.conclude(stream, &finished).is_some() {
            stream.continue_decoding();
        }
    }

    /// The decision, if it is made at once, as is usual.
    fn decide(&self, stream: &Stream<'_>) -> Step {
        let started = StartedDecision { at: Instant::now(), span: stream.child_span(SPAN) };
        let policy = stream.route_settings().map(|route| route.policy.as_bytes());
        let headers = stream.request_headers();
        let attributes = attributes(headers, policy, self.client(stream));
        #[cfg(test)]
        assert!(
            !attributes.http.as_ref().is_some_and(|http| http.headers.has("x-panic-for-tests")),
            "as asked"
        );
        if !self.may_wait(&attributes) {
            let decision = pin!(self.instance.authorizer.authorize(&attributes, None));
            if let Poll::Ready(decision) = decision.poll(&mut Context::from_waker(Waker::noop())) {
                return Step::Decided(self.record(decision, &attributes, started));
            }
        }
        // Nothing of Envoy's memory is kept over the wait.
        self.decide_later(stream, Arc::new(RequestCopy::new(&attributes)), started)
    }

    /// The client's address, if it is logged.
    fn client<'s>(&self, stream: &'s Stream<'_>) -> ClientAddress<'s> {
        if self.instance.records_use {
            ClientAddress::new(without_port(stream.source_address()))
        } else {
            ClientAddress::UNKNOWN
        }
    }

    /// Whether the decision may wait for the verification of a password.
    fn may_wait(&self, attributes: &Attributes<'_>) -> bool {
        let authorization = attributes.http.as_ref().and_then(|http| http.headers.first("authorization"));
        let scheme = authorization.and_then(|value| value.get(..5));
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
    }

    /// Decides on a thread of the module, unless the decision is made at once.
    fn decide_later(&self, stream: &Stream<'_>, request: Arc<RequestCopy>, started: StartedDecision) -> Step {
        let (instance, copy) = (Arc::clone(&self.instance), Arc::clone(&request));
        let mut decision = Box::pin(async move {
            let attributes = copy.attributes();
            let decision =
                AssertUnwindSafe(instance.authorizer.authorize(&attributes, None)).catch_unwind().await;
            decision.unwrap_or_else(|_| instance.deny(DenyReason::Panicked))
        });
        // A remembered password is as fast as a token.
        let polled = {
            let _entered = self.instance.runtime.enter();
            decision.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        if let Poll::Ready(decision) = polled {
            return Step::Decided(self.record(decision, &request.attributes(), started));
        }
        let made = Arc::new(Mutex::new(None));
        self.waiting.replace(Some(Waiting { request, decision: Arc::clone(&made), started }));
        let scheduler = stream.scheduler();
        self.instance.runtime.spawn(async move {
            let decision = decision.await;
            *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(decision);
            scheduler.commit();
        });
        Step::Waits
    }

    /// Records a decision, ends its span, and copies its changes.
    fn record(
        &self,
        decision: Decision,
        attributes: &Attributes<'_>,
        started: StartedDecision,
    ) -> FinishedDecision {
        let changes = Changes::new(&decision, attributes.http.as_ref());
        let elapsed = started.at.elapsed();
        if let Some(span) = started.span {
            describe(&span, &decision);
        }
        let record = CheckRecord { decision: &decision, request: Some(attributes), elapsed, span: None };
        self.instance.telemetry.record(&record);
        FinishedDecision {
            decision,
            changes,
            microseconds: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// The denial for a panic.
    fn panicked(&self) -> FinishedDecision {
        let decision = self.instance.deny(DenyReason::Panicked);
        let changes = Changes::new(&decision, None);
        FinishedDecision { decision, changes, microseconds: 0 }
    }

    /// Applies a decision.  Returns the proof that the request passes, or denies it.
    fn conclude(&self, stream: &mut Stream<'_>, finished: &FinishedDecision) -> Option<Passed> {
        self.count(stream, finished);
        match (&finished.decision.verdict, &finished.changes) {
            (Ok(permit), Changes::Allow(changes)) => match let_pass(stream, permit, changes) {
                Ok(passed) => {
                    self.response.borrow_mut().clone_from(&changes.response);
                    self.state.set(State::Passed);
                    return Some(passed);
                }
                Err(NotChanged) => {
                    if let Changes::Deny(changes) = &self.panicked().changes {
                        self.deny(stream, changes, DenyReason::Panicked);
                    }
                }
            },
            (verdict, Changes::Deny(changes)) => {
                self.deny(stream, changes, verdict.as_ref().err().copied().unwrap_or(DenyReason::NoHttp));
            }
            // Changes are made of the verdict: there is no such pair.
            (Err(reason), Changes::Allow(_)) => {
                let decision = self.instance.deny(*reason);
                if let Changes::Deny(changes) = Changes::new(&decision, None) {
                    self.deny(stream, &changes, *reason);
                }
            }
        }
        None
    }

    fn deny(&self, stream: &mut Stream<'_>, changes: &DenyChanges, reason: DenyReason) {
        // First: Envoy calls other hooks while it answers.
        self.state.set(State::Ended);
        set_metadata(stream, &changes.metadata);
        let denial = &changes.denial;
        if changes.is_grpc {
            // `send_response` would send a gRPC client the status OK for every denial.
            let mut headers = vec![(":status", "200"), ("content-type", "application/grpc")];
            if !changes.is_head {
                headers.push(("grpc-message", &*denial.body));
            }
            headers.extend(denial.headers());
            stream.send_response_headers(&headers);
        } else {
            let headers: Vec<_> = denial.headers().collect();
            let details = format!("envoy_auth_tokens_denied{{{}}}", reason.as_str());
            stream.send_response(denial.status, &headers, &denial.body, &details);
        }
    }

    fn count(&self, stream: &Stream<'_>, finished: &FinishedDecision) {
        let outcome = finished.decision.outcome();
        let context = &finished.decision.context;
        if let Some(decisions) = self.stats.decisions {
            let policy = context.policy.as_ref().map_or("", |policy| policy.name());
            stream.count(decisions, &[outcome.as_str(), outcome.reason(), policy]);
        }
        if let (Some(credentials), Some(principal)) = (self.stats.credentials, &context.principal) {
            stream.count(credentials, &[principal.kind.as_str()]);
        }
        if let Some(durations) = self.stats.durations {
            stream.observe(durations, finished.microseconds);
        }
    }
}

/// Lets a request pass, with its changes.  Only this function makes a [`Passed`], and without one Envoy never
/// continues.
fn let_pass(stream: &mut Stream<'_>, _: &Permit, changes: &AllowChanges) -> Result<Passed, NotChanged> {
    // ext_authz sets, removes, and writes the path, in this order.
    for (name, value) in changes.set.iter() {
        if !stream.set_request_header(name, value.as_bytes()) {
            return Err(NotChanged);
        }
    }
    for name in &changes.remove {
        if !stream.remove_request_header(name) {
            return Err(NotChanged);
        }
    }
    if let Some(path) = &changes.path
        && !stream.set_request_header(":path", path)
    {
        return Err(NotChanged);
    }
    set_metadata(stream, &changes.metadata);
    Ok(Passed(()))
}

/// Sets the attributes of a span about a decision, as in the server's own spans.
fn describe(span: &ChildSpan, decision: &Decision) {
    let outcome = decision.outcome();
    span.set_tag("envoy_auth_tokens.decision", outcome.as_str());
    span.set_tag("envoy_auth_tokens.reason", outcome.reason());
    if let Some(policy) = &decision.context.policy {
        span.set_tag("envoy_auth_tokens.policy", policy.name());
    }
    if let Some(principal) = &decision.context.principal {
        span.set_tag("envoy_auth_tokens.credential.kind", principal.kind.as_str());
        span.set_tag("envoy_auth_tokens.credential.name", &printable(principal.name.as_bytes()));
        if let Some(id) = principal.id {
            span.set_tag("envoy_auth_tokens.key_id", &id.to_string());
        }
    }
    // A denial is an answer; only an internal error is an error of the span.
    if let Outcome::Denied(reason) = outcome
        && reason.details().status >= 500
    {
        span.set_tag("error", "true");
        span.set_tag("error.type", reason.as_str());
    }
}

/// An address without its port: Envoy 1.38 and 1.39 append one.
fn without_port(address: &[u8]) -> &[u8] {
    let colons = address.iter().filter(|&&byte| byte == b':').count();
    let end = |stop| address.iter().position(|&byte| byte == stop).unwrap_or(address.len());
    match address.first() {
        Some(b'[') => &address[1..end(b']')],
        Some(_) if colons == 1 => &address[..end(b':')],
        Some(_) | None => address,
    }
}

fn set_metadata(stream: &mut Stream<'_>, metadata: &Metadata) {
    match metadata {
        // ext_authz opens no namespace for nothing.
        Metadata::Struct(message) if message.is_empty() => {}
        Metadata::Struct(message) => stream.set_metadata_struct(metadata::NAMESPACE, message),
        Metadata::Flat(members) => {
            for (name, value) in members {
                stream.set_metadata_text(metadata::NAMESPACE, name, value);
            }
        }
    }
}

/// The attributes of a request with these headers, as Envoy's ext_authz tells them with `encode_raw_headers`.
fn attributes<'a>(
    headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    policy: Option<&'a [u8]>,
    client: ClientAddress<'a>,
) -> Attributes<'a> {
    let (mut method, mut host, mut path): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
    let headers = headers.into_iter().map(|(name, value)| {
        match name {
            b":method" => method = value,
            b":authority" => host = value,
            b":path" => path = value,
            _ => {}
        }
        Header { name, value }
    });
    let headers = Headers::new(Encoding::Lines, headers.collect());
    let http = Http { method, host, path, headers, client };
    Attributes { http: Some(http), policy, misspelled_policy: None }
}

/// A request that waits, copied.
struct RequestCopy {
    headers: Vec<(Box<[u8]>, Box<[u8]>)>,
    policy: Option<Box<[u8]>>,
    client: Box<[u8]>,
}

impl RequestCopy {
    fn new(attributes: &Attributes<'_>) -> Self {
        let headers = attributes.http.iter().flat_map(|http| http.headers.iter());
        let headers = headers.map(|header| (header.name.into(), header.value.into())).collect();
        let client = attributes.http.as_ref().map_or_else(Box::default, |http| http.client.text().into());
        Self { headers, policy: attributes.policy.map(Into::into), client }
    }

    fn attributes(&self) -> Attributes<'_> {
        let headers = self.headers.iter().map(|(name, value)| (&**name, &**value));
        attributes(headers, self.policy.as_deref(), ClientAddress::new(&self.client))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_reported_without_its_port() {
        for (reported, address) in [
            ("192.0.2.7:4711", "192.0.2.7"),
            ("192.0.2.7", "192.0.2.7"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1", "2001:db8::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(reported.as_bytes()), address.as_bytes(), "{reported}");
        }
    }
}
