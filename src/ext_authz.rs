//! The door that Envoy knocks at: `envoy.service.auth.v3.Authorization/Check` over gRPC.
//!
//! The Check path is a service of our own on hyper's HTTP/2; everything else on this listener
//! (health, reflection) is tonic's.  Every CheckRequest gets an answer with gRPC status OK, denials
//! included: to Envoy a gRPC error is an outage, which it may be told to let pass.
//! Only a body that is no gRPC message, or does not arrive in time, is a gRPC error.

pub mod codec;
pub mod health;
pub mod incomplete;
pub mod reflection;
pub mod wiring;

/// The slice of the protocol, generated from `proto/ext_authz.proto`.
pub mod wire {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/ext_authz.rs"));
}

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::attributes::Attributes;
use crate::authorizer::Authorizer;
use crate::config::Rules;
use crate::decision::{Decision, DecisionContext};
use crate::deny_reason::DenyReason;
use crate::memory;
use crate::server::Stream;
use crate::server::connection_limit::{
    Answer, ConnectionActivity, ConnectionSlot, LimitedListener, RequestGuard,
};
use crate::server::header_block_limit::{HeaderBlockBudget, HeaderBlockLimiter};
use crate::server::tls::Acceptor;
use crate::server::write_timeout::WriteTimeout;
use crate::shutdown::Closing;
use crate::telemetry::traces::CheckSpan;
use crate::telemetry::{Telemetry, h2_events};
use codec::frame::{self, Budget, FrameError, Message};
use codec::request;
use codec::response::Answers;
use incomplete::IncompleteQueue;
use wiring::{WrongWiring, WrongWirings};

/// The path of the one method.
pub const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The service's name, for `grpc.health.v1.Health`.
pub const SERVICE_NAME: &str = "envoy.service.auth.v3.Authorization";

/// Streams that one Envoy worker may have open at a time, where memory allows; it opens another connection beyond that.
const MAX_CONCURRENT_STREAMS: u32 = 1024;
/// However little memory there is.
const MIN_CONCURRENT_STREAMS: u32 = 128;
/// The library keeps room for as many streams as a connection has ever had open.  This much memory for each of them
/// leaves enough for 64 such connections.
const STREAM_SHARE: u64 = 512 * 1024;
/// The largest header list of a gRPC request, in bytes.  Envoy's own are below 1 KiB, but its tracers copy headers of
/// the client's choice into it: what is denied here is an error to Envoy, which it may have been told to let pass.
const MAX_HEADER_LIST: u32 = 1024 * 1024;
/// Streams that Envoy may reset before we have looked at them.  It resets every Check that
/// outlives its timeout, and must not lose the connection for that.
const MAX_PENDING_RESETS: usize = 4096;
/// Streams that may break the protocol's rules, the number of open streams included, before their connection is
/// given up.
const MAX_BROKEN_STREAMS: usize = 1024;
/// Bytes that may arrive for one stream, and for one connection, before somebody has read them, where memory allows.
/// One connection's share is all that unread bytes can take.
const MAX_WINDOW: u32 = 1024 * 1024;
/// However little memory there is: the window that every connection of HTTP/2 begins with.
const MIN_WINDOW: u32 = 64 * 1024 - 1;
/// Bytes of an answer that wait to be taken; an answer of ours is far smaller.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// How often an idle connection is asked whether it is alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of messages that have not arrived whole, over all connections, where memory allows: as much as sixteen
/// messages of the default size, or four of the largest.
const MAX_ARRIVING_BYTES: usize = 256 * 1024 * 1024;
/// What a Check takes while it is open, its stream and its task included, at most.
const OPEN_CHECK_BYTES: u64 = 16 * 1024;
/// However little memory there is, so many Checks may be open: as many as one Envoy worker asks at a time.
const MIN_OPEN_CHECKS: u32 = MAX_CONCURRENT_STREAMS;
/// How long a Check may live, its answer taken by the client included.  Nobody waits for one that long.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a message may take to arrive; a shorter `grpc-timeout` goes before.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the rest of a message that was denied unread may go on arriving.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies that may be read on at a time after their answer.
const MAX_DRAINED_BODIES: usize = 1024;
/// Streams that are no Checks: over all connections, where memory allows and in any case, on each, and how long each
/// may live.
const MAX_OTHERS: usize = 1024;
const MIN_OTHERS: usize = 128;
/// So much memory for each of them leaves room for answers of reflection that nobody takes.
const OTHER_SHARE: u64 = 512 * 1024;
const MAX_OTHERS_OF_CONNECTION: usize = 64;
const OTHER_CALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The largest message of theirs, in bytes.
const MAX_OTHER_MESSAGE: usize = 16 * 1024;
/// How long the stream of one may live: who watches our health may do so for long, and then has to take the end of it.
const OTHER_STREAM_TIMEOUT: Duration =
    Duration::from_secs(READ_TIMEOUT.as_secs() + OTHER_CALL_TIMEOUT.as_secs() + CHECK_TIMEOUT.as_secs());
/// How long a connection may stay open before it has sent the 24 bytes with which HTTP/2 begins.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be held over all connections, as shares of the memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    /// Bytes of messages in pieces: a quarter, which is room for one of the largest at least.
    messages: usize,
    /// Bytes of incomplete header blocks: an eighth.
    blocks: usize,
    /// Checks that are open: a quarter.  Half of them may lack their message.
    open_checks: u32,
    /// Streams that are no Checks.
    others: usize,
    /// Streams that are open on one connection.
    streams: u32,
    /// Bytes that are unread on one connection: an eighth, if 128 connections fill theirs.
    window: u32,
}

impl Shares {
    fn of(limit: u64, max_request_bytes: usize) -> Self {
        let share = |part: u64| usize::try_from(limit / part).unwrap_or(usize::MAX);
        let whole = max_request_bytes.saturating_add(frame::PREFIX);
        let wanted = MAX_ARRIVING_BYTES.max(whole.saturating_mul(4));
        let open_checks = u32::try_from(limit / 4 / OPEN_CHECK_BYTES).unwrap_or(u32::MAX);
        let streams = u32::try_from(limit / STREAM_SHARE).unwrap_or(u32::MAX);
        let window = u32::try_from(limit / 1024).unwrap_or(u32::MAX);
        Self {
            messages: wanted.min(share(4)).max(whole),
            blocks: share(8),
            open_checks: open_checks.max(MIN_OPEN_CHECKS),
            others: share(OTHER_SHARE).clamp(MIN_OTHERS, MAX_OTHERS),
            streams: streams.clamp(MIN_CONCURRENT_STREAMS, MAX_CONCURRENT_STREAMS),
            window: window.clamp(MIN_WINDOW, MAX_WINDOW),
        }
    }
}

/// Answers Checks.
pub struct CheckService {
    authorizer: Arc<Authorizer>,
    telemetry: Arc<Telemetry>,
    max_request_bytes: usize,
    shares: Shares,
    arriving: Budget,
    unfinished: IncompleteQueue,
    discarded: BodyDrain,
    /// Of the snapshot last seen: rebuilt by the first Check under another.
    answers: ArcSwap<Answers>,
}

/// A request for a Check, less what its head has told.
struct IncomingCheck {
    body: Incoming,
    /// How long Envoy waits for the answer.
    deadline: Option<Duration>,
    span: Option<Box<CheckSpan>>,
}

/// A Check that is being answered.
struct StartedCheck {
    at: Instant,
    span: Option<Box<CheckSpan>>,
}

impl CheckService {
    /// A service that asks this authorizer, tells this telemetry, and reads messages up to a size.
    pub fn new(authorizer: Arc<Authorizer>, telemetry: Arc<Telemetry>, max_request_bytes: usize) -> Self {
        let answers = ArcSwap::from_pointee(Answers::new(&authorizer.rules()));
        let limit = memory::limit();
        let shares = Shares::of(limit, max_request_bytes);
        if max_request_bytes as u64 > limit / 4 {
            tracing::warn!(
                max_request_bytes,
                memory_limit = limit,
                "ext_authz.max_request_bytes is more than a quarter of the memory limit: messages of that size may \
                 take more memory than there is; lower it, or raise the limit"
            );
        }
        let (arriving, discarded) = (Budget::new(shares.messages), BodyDrain::new());
        let unfinished = IncompleteQueue::new(shares.open_checks as usize / 2);
        Self { authorizer, telemetry, max_request_bytes, shares, arriving, unfinished, discarded, answers }
    }

    /// Answers one message.  The answer is framed, and the span ends with it.
    ///
    /// A panic in a handler would reset the stream, which Envoy may be told to let pass: here it denies.
    pub async fn check(
        &self,
        message: &[u8],
        deadline: Option<Duration>,
        span: Option<Box<CheckSpan>>,
    ) -> Bytes {
        let begun = StartedCheck { at: Instant::now(), span };
        let answered = AssertUnwindSafe(self.answer(message, deadline, &begun)).catch_unwind().await;
        answered.unwrap_or_else(|_| self.finish(&self.denied(DenyReason::Panicked), None, &begun))
    }

    /// Decode, decide, encode.
    async fn answer(&self, message: &[u8], deadline: Option<Duration>, begun: &StartedCheck) -> Bytes {
        let Ok(attributes) = request::decode(message) else {
            return self.finish(&self.denied(DenyReason::Undecodable), None, begun);
        };
        let decision = self.authorizer.authorize(&attributes, deadline).await;
        self.finish(&decision, Some(&attributes), begun)
    }

    fn finish(&self, decision: &Decision, request: Option<&Attributes<'_>>, begun: &StartedCheck) -> Bytes {
        let http = request.and_then(|request| request.http.as_ref());
        let (answer, outcome) = self.answers(&decision.rules).encode(decision, http);
        self.telemetry.record(decision, outcome, request, begun.at.elapsed());
        if let Some(span) = &begun.span {
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
    fn answers(&self, rules: &Rules) -> arc_swap::Guard<Arc<Answers>> {
        let answers = self.answers.load();
        if answers.rules_version == rules.version {
            return answers;
        }
        // These very answers are returned: another Check may store those of other rules meanwhile.
        let answers = Arc::new(Answers::new(rules));
        self.answers.store(Arc::clone(&answers));
        arc_swap::Guard::from_inner(answers)
    }

    #[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn call<'a>(
        &'a self,
        IncomingCheck { mut body, deadline, span }: IncomingCheck,
        guard: &'a RequestGuard,
    ) -> impl Future<Output = Response<AnswerBody>> + Send + 'a {
        async move {
            if guard.crowds(self.shares.open_checks) {
                let begun = StartedCheck { at: Instant::now(), span };
                let denial = self.finish(&self.denied(DenyReason::Overloaded), None, &begun);
                self.discarded.read_on(body);
                return answer(StatusCode::OK, AnswerBody::Message(denial));
            }
            // Nobody waits for an answer beyond the deadline, so nobody is waited for either.
            let patience = deadline.map_or(READ_TIMEOUT, |deadline| deadline.min(READ_TIMEOUT));
            let message = {
                // Not in a variable of its own: it would be held twice.
                let mut reading = std::pin::pin!(tokio::time::timeout(
                    patience,
                    frame::read(&mut body, self.max_request_bytes, &self.arriving),
                ));
                let mut place = None;
                std::future::poll_fn(|context| {
                    if let Poll::Ready(message) = reading.as_mut().poll(context) {
                        return Poll::Ready(message.unwrap_or(Err(FrameError::TooSlow)));
                    }
                    // Nearly all come with their message, and never wait.
                    let place = place.get_or_insert_with(|| self.unfinished.join());
                    place.poll_lost(context).map(|()| Err(FrameError::Crowded))
                })
                .await
            };
            let body = match message {
                Ok(Message { bytes, held: _until_answered }) => {
                    guard.arrived();
                    AnswerBody::Message(self.check(&bytes, deadline, span).await)
                }
                // What a client of Envoy can bring about is a denial: an error is what failure_mode_allow lets pass.
                Err(error @ (FrameError::TooLong | FrameError::Crowded)) => {
                    let deny_reason = match error {
                        FrameError::TooLong => DenyReason::RequestTooLarge,
                        _ => DenyReason::Overloaded,
                    };
                    let begun = StartedCheck { at: Instant::now(), span };
                    let answer = self.finish(&self.denied(deny_reason), None, &begun);
                    self.discarded.read_on(body);
                    AnswerBody::Message(answer)
                }
                Err(error) => {
                    self.telemetry.record_unreadable(error);
                    if let Some(span) = span {
                        span.unreadable();
                    }
                    self.discarded.read_on(body);
                    return match error {
                        FrameError::Empty => plain(StatusCode::BAD_REQUEST, NO_MESSAGE),
                        // A gRPC client reads the trailers; whoever reads the status alone is told no.
                        FrameError::Unreadable
                        | FrameError::Misframed
                        | FrameError::Compressed
                        | FrameError::TooSlow
                        | FrameError::TooLong
                        | FrameError::Crowded => answer(StatusCode::BAD_REQUEST, AnswerBody::error(error)),
                    };
                }
            };
            answer(StatusCode::OK, body)
        }
    }
}

/// Reads on what nobody reads any more, within limits, so that its stream is not reset: the HTTP/2 library counts what
/// still arrives for streams that were, and ends their connection.
#[derive(Debug, Clone)]
struct BodyDrain(Arc<Semaphore>);

impl BodyDrain {
    fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_DRAINED_BODIES)))
    }

    fn read_on(&self, body: Incoming) {
        if body.is_end_stream() {
            return;
        }
        // Beyond the limit the stream is reset after all.
        if let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(DRAIN_TIMEOUT, frame::discard(body)).await;
                drop(permit);
            });
        }
    }
}

/// The body of a call that another service reads; what it leaves is read on.
struct DrainedBody {
    body: Option<Incoming>,
    discarded: BodyDrain,
}

impl Body for DrainedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.discarded.read_on(body);
        }
    }
}

fn answer(status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// What a call's head says about it.
#[derive(Default)]
struct Metadata {
    /// Whether it is a gRPC call.
    is_grpc: bool,
    /// Whether the caller can read what a gRPC answer ends with (gRPC over HTTP/2, "TE").
    expects_trailers: bool,
    /// How long the caller waits.
    timeout: Option<Duration>,
}

impl Metadata {
    /// Reads them in one pass, which costs less than to look for each.  Of two headers of one name the first counts.
    fn of(headers: &HeaderMap) -> Self {
        let (mut content_type, mut te, mut timeout) = (None, None, None);
        for (name, value) in headers {
            let first = match name.as_str() {
                "content-type" => &mut content_type,
                "te" => &mut te,
                "grpc-timeout" => &mut timeout,
                _ => continue,
            };
            first.get_or_insert(value.as_bytes());
        }
        Self {
            is_grpc: content_type.is_some_and(is_grpc),
            expects_trailers: te == Some(b"trailers"),
            timeout: timeout.and_then(grpc_timeout),
        }
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';')),
        None => false,
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// What answers on this listener.
struct ConnectionServices {
    tls: Option<Arc<Acceptor>>,
    checks: Arc<CheckService>,
    others: Routes,
    /// Places for streams that are no Checks.
    places: Arc<Semaphore>,
    wrong_wirings: WrongWirings,
    blocks: Arc<HeaderBlockBudget>,
}

/// Serves connections, over TLS where there is an acceptor, until it is time to close; then lets those that
/// are open finish.
pub async fn serve(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    checks: Arc<CheckService>,
    others: Routes,
    closing: Closing,
) {
    let metrics = checks.telemetry.metrics();
    let wrong_wirings = WrongWirings::new(metrics);
    let blocks = HeaderBlockBudget::new(checks.shares.blocks, metrics.closed_connections("ext_authz"));
    let (places, blocks) = (Arc::new(Semaphore::new(checks.shares.others)), Arc::new(blocks));
    let services = Arc::new(ConnectionServices { tls, checks, others, places, wrong_wirings, blocks });
    listener.serve(closing, |stream, place| serve_connection(stream, Arc::clone(&services), place)).await;
}

/// The streams of a connection, each a task.
#[derive(Debug, Clone, Default)]
struct Streams {
    /// Whether the request that was dispatched last is a Check.  The library dispatches a request and starts its
    /// stream in one go, so that it tells which stream is being started.
    is_check: Arc<AtomicBool>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // A client that never takes its answer would hold it and its stream.  Dropped, the stream is reset.
        let longest =
            if self.is_check.load(Ordering::Relaxed) { CHECK_TIMEOUT } else { OTHER_STREAM_TIMEOUT };
        tokio::spawn(tokio::time::timeout(longest, stream));
    }
}

/// HTTP/2 within its limits.
fn http2(streams: Streams, shares: Shares) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(shares.streams)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_BROKEN_STREAMS)
        .initial_stream_window_size(shares.window)
        .initial_connection_window_size(shares.window)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        // gRPC has no use for a date.
        .auto_date_header(false);
    builder
}

/// A connection, for its requests.
struct Connection {
    services: Arc<ConnectionServices>,
    peer: Box<str>,
    activity: Arc<ConnectionActivity>,
    /// Places for its streams that are no Checks.
    places: Arc<Semaphore>,
}

impl Connection {
    /// Goes on with it, and reports the requests that the HTTP/2 library resets before they get here.
    fn drive<C: Future>(&self, mut connection: Pin<&mut C>) -> impl Future<Output = C::Output> {
        std::future::poll_fn(move |context| {
            let polled = connection.as_mut().poll(context);
            for _ in 0..h2_events::take_malformed_authorities() {
                self.services.wrong_wirings.report(WrongWiring::Authority, &self.peer);
            }
            polled
        })
    }
}

async fn serve_connection(stream: Stream, services: Arc<ConnectionServices>, place: ConnectionSlot) {
    let ConnectionSlot { activity, mut leave } = place;
    // Whoever connects and says nothing keeps neither a descriptor nor the end of the process waiting.
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, services.tls.as_deref())) => handshake,
        _ = &mut leave => return,
    };
    let Ok(Ok(stream)) = handshake else {
        return;
    };
    let peer = stream.stream.client();
    if let Some(kind) = WrongWiring::of_preface(&stream.preface, services.tls.is_some()) {
        services.wrong_wirings.report(kind, &peer);
        return;
    }
    let places = Arc::new(Semaphore::new(MAX_OTHERS_OF_CONNECTION));
    let stream = HeaderBlockLimiter::new(stream, PREFACE_LENGTH, Arc::clone(&services.blocks));
    let stream = TokioIo::new(WriteTimeout::new(stream, Arc::clone(&activity)));
    let connection_state = Arc::new(Connection { services, peer: peer.into(), activity, places });
    let shared = Arc::clone(&connection_state);
    let streams = Streams::default();
    let builder = http2(streams.clone(), connection_state.services.checks.shares);
    let answer = service_fn(move |request: Request<Incoming>| {
        streams.is_check.store(request.uri().path() == CHECK_PATH, Ordering::Relaxed);
        dispatch(Arc::clone(&shared), request)
    });
    let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
    let ended = tokio::select! {
        ended = connection_state.drive(connection.as_mut()) => ended,
        _ = leave => {
            connection.as_mut().graceful_shutdown();
            connection_state.drive(connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// A connection after its handshakes: that of TLS where there is one, and the preface of HTTP/2.
async fn handshake(stream: Stream, tls: Option<&Acceptor>) -> io::Result<PrefaceStream> {
    let stream = match tls {
        // Boxed, so that a handshake that is not made does not make the task of a connection larger.
        Some(tls) => Box::pin(tls.accept(stream)).await?,
        None => stream,
    };
    PrefaceStream::by(stream).await
}

/// How long HTTP/2's preface is.
const PREFACE_LENGTH: usize = 24;

/// A connection whose client has sent as many bytes as HTTP/2's preface has (RFC 9113 section 3.4).
/// Whether they are the preface is for the HTTP/2 library to say: it reads them again.
struct PrefaceStream {
    preface: [u8; PREFACE_LENGTH],
    /// How many of the preface's bytes have been read again.
    read: usize,
    stream: Stream,
}

impl PrefaceStream {
    async fn by(mut stream: Stream) -> io::Result<Self> {
        let mut preface = [0; PREFACE_LENGTH];
        stream.read_exact(&mut preface).await?;
        Ok(Self { preface, read: 0, stream })
    }
}

impl AsyncRead for PrefaceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.preface[self.read..];
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        self.read += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PrefaceStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What a request asks for.
enum Dispatch {
    Check(IncomingCheck),
    /// No gRPC call, or none that is served here.  Envoy's `http_service` takes status 200 for a permission: whoever
    /// speaks no gRPC gets another one.
    Denied(StatusCode, &'static str, Incoming),
    /// Something else.  Boxed, so that the rare request does not make the task of every Check larger.
    Other(Box<Request<Incoming>>),
}

impl Dispatch {
    fn by(request: Request<Incoming>, connection: &Connection) -> Self {
        let Connection { services, peer, .. } = connection;
        let path = request.uri().path();
        let is_check = path == CHECK_PATH;
        // An answer to HEAD has no body (RFC 9110 section 9.3.2).
        let is_head = request.method() == Method::HEAD;
        let told = |sentence| if is_head { "" } else { sentence };
        if !is_check && !health::PATHS.contains(&path) && !reflection::PATHS.contains(&path) {
            let kind = WrongWiring::of_path(path);
            services.wrong_wirings.report(kind, peer);
            return Self::Denied(StatusCode::NOT_FOUND, told(kind.advice()), request.into_body());
        }
        let headers = request.headers();
        let metadata = Metadata::of(headers);
        let denied = if request.method() != Method::POST {
            Some(StatusCode::METHOD_NOT_ALLOWED)
        } else if !metadata.is_grpc || !metadata.expects_trailers {
            Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        } else {
            None
        };
        if let Some(status) = denied {
            services.wrong_wirings.report(WrongWiring::NotGrpc, peer);
            return Self::Denied(status, told(WrongWiring::NotGrpc.advice()), request.into_body());
        }
        if !is_check {
            return Self::Other(Box::new(without_metadata(request)));
        }
        let (deadline, span) = (metadata.timeout, services.checks.telemetry.begin_span(headers));
        Self::Check(IncomingCheck { body: request.into_body(), deadline, span })
    }
}

/// A request too many: its stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("too many requests are open")]
struct TooManyStreams;

/// The answer to a request.  Its head is read before there is a future: a future is moved about and put into a task,
/// so that every byte of it is copied several times.
fn dispatch(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer<AnswerBody, RequestGuard>>, TooManyStreams>> {
    let guard = RequestGuard::begin(Arc::clone(&connection.activity));
    let dispatch = Dispatch::by(request, &connection);
    async move {
        let checks = &connection.services.checks;
        // An answer is held until it is taken: at some point there is room for none.
        if guard.crowds(checks.shares.open_checks.saturating_mul(2)) {
            return Err(TooManyStreams);
        }
        let response = match dispatch {
            Dispatch::Check(arriving) => checks.call(arriving, &guard).await,
            Dispatch::Denied(status, sentence, body) => {
                checks.discarded.read_on(body);
                plain(status, sentence)
            }
            Dispatch::Other(request) => Box::pin(other(&connection, *request, &guard)).await,
        };
        guard.answered();
        Ok(response.map(|body| Answer::new(body, guard)))
    }
}

/// The answer of health and reflection, which are tonic's.
async fn other(
    connection: &Connection,
    request: Request<Incoming>,
    guard: &RequestGuard,
) -> Response<AnswerBody> {
    let services = &connection.services;
    let (head, body) = request.into_parts();
    let mut body = DrainedBody { body: Some(body), discarded: services.checks.discarded.clone() };
    let place = |places: &Arc<Semaphore>| Arc::clone(places).try_acquire_owned();
    let (Ok(of_connection), Ok(of_all)) = (place(&connection.places), place(&services.places)) else {
        return answer(StatusCode::SERVICE_UNAVAILABLE, AnswerBody::error(FrameError::Crowded));
    };
    // tonic answers a call without a message with status 200 and an error in the trailers.
    let first = tokio::time::timeout(READ_TIMEOUT, frame::first_data(&mut body)).await;
    let Ok(Some(first)) = first else {
        return plain(StatusCode::BAD_REQUEST, NO_MESSAGE);
    };
    guard.arrived();
    let body = http_body_util::BodyExt::boxed(wiring::After::new(first, body));
    let response = services.others.clone().oneshot(Request::from_parts(head, body)).await;
    let mut response = response.unwrap_or_else(|never| match never {});
    let code = response.headers().get(GRPC_STATUS).map(HeaderValue::as_bytes);
    if code.is_some_and(|code| matches!(code, b"11" | b"12" | b"13")) {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response.map(|body| {
        let end = Box::pin(tokio::time::sleep(OTHER_CALL_TIMEOUT));
        AnswerBody::Other(Box::new(OtherBody { body, end, _places: [of_connection, of_all] }))
    })
}

/// The request without the metadata that nobody reads: a stream of these may live long.
fn without_metadata(mut request: Request<Incoming>) -> Request<Incoming> {
    let sent = std::mem::take(request.headers_mut());
    for name in [CONTENT_TYPE, TE, GRPC_ENCODING] {
        if let Some(value) = sent.get(&name).filter(|value| value.len() <= MAX_KEPT_VALUE) {
            // A value is a part of the buffer that all of them arrived in.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                request.headers_mut().insert(name, value);
            }
        }
    }
    request
}

/// The longest value of such a header, in bytes.
const MAX_KEPT_VALUE: usize = 64;

/// An answer for whoever speaks no gRPC: a sentence, and a status that nobody takes for a permission.
fn plain(status: StatusCode, sentence: &'static str) -> Response<AnswerBody> {
    let body = match sentence {
        "" => AnswerBody::End,
        sentence => AnswerBody::Sentence(Bytes::from_static(sentence.as_bytes())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

const NO_MESSAGE: &str = "A gRPC call carries a message, and this one has none.\n";

/// The body of a gRPC answer: at most one message, then its status in the trailers.
pub enum AnswerBody {
    /// The message, framed, then status OK.
    Message(Bytes),
    /// The trailers.
    Trailers(HeaderMap),
    /// A text, and no trailers.
    Sentence(Bytes),
    /// Nothing more.
    End,
    /// What tonic answers.
    Other(Box<OtherBody>),
}

/// What tonic answers, for as long as it may last.
pub struct OtherBody {
    body: tonic::body::Body,
    end: Pin<Box<Sleep>>,
    _places: [OwnedSemaphorePermit; 2],
}

impl OtherBody {
    /// The next frame; the last one says UNAVAILABLE where the time is over, so that who watches begins anew.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() && self.end.as_mut().poll(context).is_ready() {
            self.body = tonic::body::Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(status("14", OVER)))));
        }
        frame
    }
}

/// Why a call of health or reflection ends by itself.
const OVER: &str = "the call has lasted as long as one may: call again";

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

impl AnswerBody {
    /// The gRPC status of a message that could not be read (grpc's own choice of codes for each).
    fn error(error: FrameError) -> Self {
        let code = match error {
            FrameError::Unreadable | FrameError::Misframed | FrameError::Empty => "13",
            FrameError::Compressed => "12",
            FrameError::TooLong | FrameError::Crowded => "8",
            FrameError::TooSlow => "4",
        };
        Self::Trailers(status(code, &error.to_string()))
    }
}

/// Trailers with this gRPC status and message.
fn status(code: &'static str, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static(code));
    if let Ok(message) = HeaderValue::from_str(message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if let Self::Other(other) = &mut *self {
            return other.poll_frame(context);
        }
        match std::mem::replace(&mut *self, Self::End) {
            Self::Message(framed) => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                *self = Self::Trailers(trailers);
                Poll::Ready(Some(Ok(Frame::data(framed))))
            }
            Self::Trailers(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Self::Sentence(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
            Self::End | Self::Other(..) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::Trailers(_) | Self::Sentence(_) => false,
            Self::End => true,
            Self::Other(other) => other.body.is_end_stream(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function of these arguments makes.
    fn size_of_made<A, B, Made>(_: impl Fn(A, B) -> Made) -> usize {
        size_of::<Made>()
    }

    #[test]
    fn shares_fit_the_memory_limit() {
        const MIB: u64 = 1024 * 1024;
        let default = 16 * 1024 * 1024;
        for limit in [32 * MIB, 64 * MIB, 128 * MIB, 256 * MIB, 1024 * MIB, u64::MAX] {
            let shares = Shares::of(limit, default);
            assert!(shares.messages >= default + frame::PREFIX, "{limit}");
            assert!(shares.messages as u64 <= (limit / 4).max(default as u64 + 5), "{limit}");
            assert!(shares.blocks as u64 <= limit / 8, "{limit}");
            assert!(shares.open_checks >= 1024, "{limit}");
            assert!((65_535..=1024 * 1024).contains(&shares.window), "{limit}");
        }
        let of_sidecar = Shares {
            messages: 32 << 20,
            blocks: 16 << 20,
            open_checks: 2048,
            others: 256,
            streams: 256,
            window: 128 << 10,
        };
        assert_eq!(Shares::of(128 * MIB, default), of_sidecar);
        assert_eq!(Shares::of(64 << 30, default).messages, 256 << 20);
        assert_eq!(Shares::of(64 << 30, 256 << 20).messages, (256 << 20) * 4 + 20);
    }

    #[test]
    fn a_check_takes_less_than_a_kibibyte_of_its_task() {
        let size = size_of_made(dispatch);
        assert!(size <= 1024, "{size} bytes, each of which is copied several times on its way into the task");
    }

    #[tokio::test]
    async fn a_watch_that_has_lasted_too_long_ends_with_unavailable() {
        let places = Arc::new(Semaphore::new(2));
        let place = || Arc::clone(&places).try_acquire_owned().unwrap();
        // A stream on which nothing happens.
        let (_sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let silent = futures_util::stream::unfold(receiver, |mut receiver| async move {
            Some((Ok::<_, tonic::Status>(Frame::data(receiver.recv().await?)), receiver))
        });
        let other = OtherBody {
            body: tonic::body::Body::new(http_body_util::StreamBody::new(Box::pin(silent))),
            end: Box::pin(tokio::time::sleep(Duration::from_millis(1))),
            _places: [place(), place()],
        };
        let collected = http_body_util::BodyExt::collect(AnswerBody::Other(Box::new(other))).await.unwrap();
        assert_eq!(collected.trailers().expect("trailers")[GRPC_STATUS], "14");
        assert_eq!(places.available_permits(), 2);
    }
}
