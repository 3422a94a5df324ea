//! The gRPC service `envoy.service.auth.v3.Authorization`: receives a message within limits, and answers it.
//!
//! [`CheckService`] is a tonic service: it can be mounted in a `tonic::transport::Server` or in `Routes`, next to other
//! services.  Our own [`listener`](super::listener) calls it without tonic's router.
//!
//! The messages do not pass through tonic's codec.  That codec copies each message into a buffer of 8 KiB, boxes the
//! decoder and the body, and lends no borrowed message: a Check takes 75,010 instructions through it, and 47,815
//! instructions without it (`benches/README.md` says how they are counted).

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::body::{AnswerBody, BodyDrain, grpc_response, text_response};
use super::codec::frame::{self, Budget, FrameError, FramedMessage};
use super::handler::CheckHandler;
use super::incomplete::IncompleteQueue;
use super::limits::MemoryShares;
use super::metadata::Metadata;
use super::wiring::{WrongWiring, WrongWirings};
use crate::authorizer::Authorizer;
use crate::deny_reason::DenyReason;
use crate::memory;
use crate::server::activity::{ConnectionActivity, InFlightBody, InFlightRequest};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::CheckSpan;

/// The path of the only method.
pub const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The service's name, for tonic's router and for `grpc.health.v1.Health`.
pub const SERVICE_NAME: &str = "envoy.service.auth.v3.Authorization";

/// How long a message may take to arrive; a shorter `grpc-timeout` has precedence.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The answer to a gRPC call without a message.
pub(super) const NO_MESSAGE: &str = "A gRPC call carries a message, and this one has none.\n";

/// The service.  Clones share its limits.
#[derive(Clone)]
pub struct CheckService(Arc<ServiceState>);

struct ServiceState {
    handler: CheckHandler,
    max_request_bytes: usize,
    shares: MemoryShares,
    /// Bytes of messages that arrive in pieces.
    budget: Budget,
    /// Checks that lack their message.
    incomplete: IncompleteQueue,
    drain: BodyDrain,
    wrong_wirings: WrongWirings,
    /// Counts the requests that arrive through tower, as if they were from one connection.
    activity: Arc<ConnectionActivity>,
}

/// A Check whose head was read.
pub(super) struct CheckCall<B> {
    body: B,
    /// How long Envoy waits for the answer.
    deadline: Option<Duration>,
    span: Option<Box<CheckSpan>>,
}

/// A request that is not a Check: its answer, and its body, which is drained.
///
/// Envoy's `http_service` treats status 200 as a permission, so a client that does not speak gRPC gets another status.
pub(super) struct RejectedCall<B> {
    pub(super) status: StatusCode,
    pub(super) text: &'static str,
    pub(super) body: B,
}

impl CheckService {
    /// A service that decides by this authorizer, records in this telemetry, and reads messages of up to
    /// `max_request_bytes`.
    pub fn new(authorizer: Arc<Authorizer>, telemetry: Arc<Telemetry>, max_request_bytes: usize) -> Self {
        let memory_limit = memory::limit();
        if max_request_bytes as u64 > memory_limit / 4 {
            tracing::warn!(
                max_request_bytes,
                memory_limit,
                "ext_authz.max_request_bytes is more than a quarter of the memory limit: messages of that size may \
                 take more memory than there is; lower it, or raise the limit"
            );
        }
        let shares = MemoryShares::new(memory_limit, max_request_bytes);
        let wrong_wirings = WrongWirings::new(telemetry.metrics());
        Self(Arc::new(ServiceState {
            handler: CheckHandler::new(authorizer, telemetry),
            max_request_bytes,
            shares,
            budget: Budget::new(shares.message_bytes),
            incomplete: IncompleteQueue::new(shares.open_checks as usize / 2),
            drain: BodyDrain::new(),
            wrong_wirings,
            activity: ConnectionActivity::detached(),
        }))
    }

    /// Reads the head of a request that has the path of Check.
    pub(super) fn read_head<B>(
        &self,
        request: Request<B>,
        peer: &str,
    ) -> Result<CheckCall<B>, RejectedCall<B>> {
        match Metadata::from_request(&request) {
            Ok(metadata) => {
                let span = self.telemetry().begin_span(request.headers());
                Ok(CheckCall { body: request.into_body(), deadline: metadata.timeout, span })
            }
            Err(status) => Err(self.reject(status, WrongWiring::NotGrpc, request, peer)),
        }
    }

    /// Counts a request from a misconfigured client, and logs what to change.
    pub(super) fn reject<B>(
        &self,
        status: StatusCode,
        kind: WrongWiring,
        request: Request<B>,
        peer: &str,
    ) -> RejectedCall<B> {
        self.0.wrong_wirings.report(kind, peer);
        // An answer to HEAD has no body (RFC 9110 section 9.3.2).
        let text = if request.method() == Method::HEAD { "" } else { kind.advice() };
        RejectedCall { status, text, body: request.into_body() }
    }

    /// Receives the message of a Check, and answers it.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn holds its arguments twice, which makes the task of each Check larger"
    )]
    pub(super) fn respond<'a, B>(
        &'a self,
        CheckCall { mut body, deadline, span }: CheckCall<B>,
        in_flight: &'a InFlightRequest,
    ) -> impl Future<Output = Response<AnswerBody>> + Send + 'a
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        async move {
            let handler = &self.0.handler;
            if in_flight.exceeds(self.0.shares.open_checks) {
                let denial = handler.deny(DenyReason::Overloaded, span);
                self.0.drain.drain(body);
                return grpc_response(StatusCode::OK, AnswerBody::Message(denial));
            }
            let error = match self.receive(&mut body, deadline).await {
                Ok(FramedMessage { bytes, held: _until_answered }) => {
                    in_flight.mark_received();
                    let answer = handler.check(&bytes, deadline, span).await;
                    return grpc_response(StatusCode::OK, AnswerBody::Message(answer));
                }
                Err(error) => error,
            };
            let response = match error {
                // A client of Envoy can cause these, so they are denials: failure_mode_allow would let an error pass.
                FrameError::TooLong => {
                    let denial = handler.deny(DenyReason::RequestTooLarge, span);
                    grpc_response(StatusCode::OK, AnswerBody::Message(denial))
                }
                FrameError::OverBudget => {
                    let denial = handler.deny(DenyReason::Overloaded, span);
                    grpc_response(StatusCode::OK, AnswerBody::Message(denial))
                }
                FrameError::Empty => {
                    handler.record_unreadable(error, span);
                    text_response(StatusCode::BAD_REQUEST, NO_MESSAGE)
                }
                // A gRPC client reads the trailers.  A client that only reads the status does not see a permission.
                FrameError::Unreadable
                | FrameError::Misframed
                | FrameError::Compressed
                | FrameError::TimedOut => {
                    handler.record_unreadable(error, span);
                    grpc_response(StatusCode::BAD_REQUEST, AnswerBody::from_error(error))
                }
            };
            self.0.drain.drain(body);
            response
        }
    }

    /// Reads the message of a Check within its time, unless too many others wait for theirs.
    async fn receive<B>(
        &self,
        body: &mut B,
        deadline: Option<Duration>,
    ) -> Result<FramedMessage<'_>, FrameError>
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        // The client does not wait beyond its deadline, nor does the server.
        let timeout = deadline.map_or(READ_TIMEOUT, |deadline| deadline.min(READ_TIMEOUT));
        // No separate variable: the future would hold the message twice.
        let mut reading = std::pin::pin!(tokio::time::timeout(
            timeout,
            frame::read(body, self.0.max_request_bytes, &self.0.budget),
        ));
        let mut slot = None;
        std::future::poll_fn(|context| {
            if let Poll::Ready(message) = reading.as_mut().poll(context) {
                return Poll::Ready(message.unwrap_or(Err(FrameError::TimedOut)));
            }
            // Nearly all messages come with the head, and never wait.
            let slot = slot.get_or_insert_with(|| self.0.incomplete.push());
            slot.poll_evicted(context).map(|()| Err(FrameError::OverBudget))
        })
        .await
    }

    pub(super) fn shares(&self) -> MemoryShares {
        self.0.shares
    }

    pub(super) fn drain(&self) -> &BodyDrain {
        &self.0.drain
    }

    pub(super) fn wrong_wirings(&self) -> &WrongWirings {
        &self.0.wrong_wirings
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        self.0.handler.telemetry()
    }
}

impl NamedService for CheckService {
    const NAME: &'static str = SERVICE_NAME;
}

/// For other servers.  The server sets the timeouts of whole calls and the limits of connections.
impl<B> Service<Request<B>> for CheckService
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    type Response = Response<InFlightBody<AnswerBody, InFlightRequest>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The peer's address is in an extension with a type of that server.
        const PEER: &str = "unknown";
        let service = self.clone();
        let in_flight = InFlightRequest::new(Arc::clone(&self.0.activity));
        let path = request.uri().path();
        let call = if path == CHECK_PATH {
            self.read_head(request, PEER)
        } else {
            // The router sends every method of this service here: a gRPC client reads 404 as UNIMPLEMENTED.
            let kind = WrongWiring::of_path(path);
            Err(self.reject(StatusCode::NOT_FOUND, kind, request, PEER))
        };
        Box::pin(async move {
            let response = match call {
                Ok(call) => service.respond(call, &in_flight).await,
                Err(RejectedCall { status, text, body }) => {
                    service.drain().drain(body);
                    text_response(status, text)
                }
            };
            in_flight.mark_answered();
            Ok(response.map(|body| InFlightBody::new(body, in_flight)))
        })
    }
}
