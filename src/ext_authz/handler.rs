//! One Check, from the bytes of its message to the bytes of its answer: decode, decide, encode.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;

use super::codec::frame::FrameError;
use super::codec::request;
use super::codec::response::Answers;
use crate::attributes::Attributes;
use crate::authorizer::Authorizer;
use crate::decision::{Decision, DecisionContext};
use crate::deny_reason::DenyReason;
use crate::snapshot::Snapshot;
use crate::telemetry::Telemetry;
use crate::telemetry::traces::CheckSpan;

/// Answers Checks, whatever carries them.
pub struct CheckHandler {
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
    /// Of the snapshot last seen: rebuilt by the first Check under another.
    answers: ArcSwap<Answers>,
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
        let answers = ArcSwap::from_pointee(Answers::new(&authorizer.rules()));
        Self { authorizer, telemetry, answers }
    }

    /// Where decisions are recorded.
    pub fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// Answers one message, without its gRPC prefix.  The answer has its prefix.  The span ends with it.
    ///
    /// A panic would reset the stream, which Envoy may be configured to let pass: here it denies.
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

    /// Encodes the answer, and records what the decision came to.
    fn finish(&self, decision: &Decision, request: Option<&Attributes<'_>>, started: &StartedCheck) -> Bytes {
        let http = request.and_then(|request| request.http.as_ref());
        let (answer, outcome) = self.answers(&decision.rules).encode(decision, http);
        self.telemetry.record(decision, outcome, request, started.at.elapsed());
        if let Some(span) = &started.span {
            span.answered(decision, outcome, request);
        }
        answer
    }

    fn denied(&self, deny_reason: DenyReason) -> Decision {
        Decision {
            rules: self.authorizer.rules(),
            verdict: Err(deny_reason),
            context: DecisionContext::default(),
        }
    }

    /// The answers encoded ahead for these rules.
    fn answers(&self, rules: &Snapshot) -> arc_swap::Guard<Arc<Answers>> {
        let answers = self.answers.load();
        if answers.rules_version == rules.version {
            return answers;
        }
        // These very answers are returned: another Check may store those of other rules meanwhile.
        let answers = Arc::new(Answers::new(rules));
        self.answers.store(Arc::clone(&answers));
        arc_swap::Guard::from_inner(answers)
    }
}
