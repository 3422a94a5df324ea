//! One Check, from the bytes of its message to the bytes of its answer: decode, decide, encode.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;

use super::codec::frame::FrameError;
use super::codec::request;
use super::codec::response::ResponseEncoder;
use crate::answer::Answer;
use crate::attributes::Attributes;
use crate::authorizer::Authorizer;
use crate::decision::Decision;
use crate::deny_reason::DenyReason;
use crate::telemetry::traces::CheckSpan;
use crate::telemetry::{CheckRecord, Telemetry};

/// Answers Checks, independent of the transport.
pub struct CheckHandler {
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
}

/// A Check that is being answered.
struct StartedCheck {
    at: Instant,
    span: Option<Box<CheckSpan>>,
}

impl StartedCheck {
    fn new(span: Option<Box<CheckSpan>>) -> Self {
        Self { at: Instant::now(), span }
    }
}

impl CheckHandler {
    /// A handler that decides by this authorizer and records every decision in this telemetry.
    pub fn new(authorizer: Arc<Authorizer>, telemetry: Arc<Telemetry>) -> Self {
        Self { authorizer, telemetry }
    }

    /// Where decisions are recorded.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Answers one message, without its gRPC prefix.  The answer has its prefix.  The span ends with it.
    ///
    /// A panic would reset the stream, which Envoy may be configured to let pass, so it becomes a denial here.
    pub async fn check(
        &self,
        message: &[u8],
        deadline: Option<Duration>,
        span: Option<Box<CheckSpan>>,
    ) -> Bytes {
        let started = StartedCheck::new(span);
        let answer = AssertUnwindSafe(self.decide(message, deadline, &started)).catch_unwind().await;
        answer.unwrap_or_else(|_| self.finish(&self.denied(DenyReason::Panicked), None, &started))
    }

    /// Denies a Check whose message is not read.
    pub fn deny(&self, deny_reason: DenyReason, span: Option<Box<CheckSpan>>) -> Bytes {
        self.finish(&self.denied(deny_reason), None, &StartedCheck::new(span))
    }

    /// Records a Check whose message cannot be read: its answer is a gRPC error.
    pub fn record_unreadable(&self, error: FrameError, span: Option<Box<CheckSpan>>) {
        self.telemetry.record_unreadable(error);
        if let Some(span) = span {
            span.unreadable();
        }
    }

    async fn decide(&self, message: &[u8], deadline: Option<Duration>, started: &StartedCheck) -> Bytes {
        let Ok(attributes) = request::decode(message) else {
            return self.finish(&self.denied(DenyReason::Undecodable), None, started);
        };
        let decision = self.authorizer.authorize(&attributes, deadline).await;
        self.finish(&decision, Some(&attributes), started)
    }

    /// Encodes the answer, and records the outcome of the decision.
    fn finish(&self, decision: &Decision, request: Option<&Attributes<'_>>, started: &StartedCheck) -> Bytes {
        let http = request.and_then(|request| request.http.as_ref());
        let snapshot = &decision.snapshot;
        let encoder = snapshot.grpc_encoder.get_or_init(|| ResponseEncoder::new(snapshot));
        let response = encoder.encode(&Answer::new(decision, http));
        let (elapsed, span) = (started.at.elapsed(), started.span.as_deref());
        self.telemetry.record(&CheckRecord { decision, request, elapsed, span });
        response
    }

    fn denied(&self, deny_reason: DenyReason) -> Decision {
        Decision::deny(self.authorizer.snapshot(), deny_reason)
    }
}
