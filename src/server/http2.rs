//! HTTP/2 for gRPC: the handshake, the settings, and a task for each stream, until the shutdown.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::Stream;
use super::activity::ConnectionActivity;
use super::connection_limit::{ConnectionSlot, LimitedListener};
use super::header_block_limit::{HeaderBlockBudget, HeaderBlockLimiter};
use super::tls::Acceptor;
use super::write_timeout::WriteTimeout;
use crate::telemetry::h2_events;

/// The largest header list of a request, in bytes.  Envoy's own are below 1 KiB, but its tracers copy headers of the
/// client's choice into it: what is rejected here is an error to Envoy, which it may be configured to let pass.
const MAX_HEADER_LIST: u32 = 1024 * 1024;
/// Streams that a client may reset before they were accepted.  Envoy resets every Check that outlives its timeout, and
/// must not lose the connection for that.
const MAX_PENDING_RESETS: usize = 4096;
/// Streams that may violate the protocol, including open ones, before their connection is closed.
const MAX_BROKEN_STREAMS: usize = 1024;
/// Bytes of a response that may wait for the client; our answers are far smaller.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// How often an idle connection is sent a PING.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the client may take to answer it.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may take to finish its handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the preface is that a client sends first (RFC 9113 section 3.4).
pub const PREFACE_LENGTH: usize = 24;
/// The preface.
pub const PREFACE: &[u8; PREFACE_LENGTH] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The settings that depend on the memory limit.
#[derive(Debug, Clone, Copy)]
pub struct Http2Settings {
    /// Streams that one connection may have open.
    pub max_concurrent_streams: u32,
    /// Unread bytes of one stream, and of one connection.
    pub window: u32,
}

/// Answers the requests of one connection.
pub trait StreamHandler: Send + Sync + 'static {
    /// The body of its responses.
    type Body: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static;
    /// Why a stream is reset instead of answered.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The maximum life of the stream of a request, until the client has read the answer.
    fn stream_timeout(&self, request: &Request<Incoming>) -> Duration;

    /// Answers a request.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Self::Error>> + Send + 'static;

    /// Reports that the first bytes of the client are not HTTP/2.
    fn report_preface(&self, preface: &[u8; PREFACE_LENGTH]);

    /// Reports a request that the HTTP/2 library reset because of its `:authority`.
    fn report_malformed_authority(&self);
}

/// The state that the connections of a listener share.
struct ListenerContext<N> {
    tls: Option<Arc<Acceptor>>,
    settings: Http2Settings,
    header_blocks: Arc<HeaderBlockBudget>,
    new_handler: N,
}

/// Serves a listener, over TLS where there is an acceptor, until the shutdown; then lets the streams that are open
/// finish.  A handler is made for each connection, from the client's address and the activity of the connection.
pub async fn serve<N, H>(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    settings: Http2Settings,
    header_blocks: HeaderBlockBudget,
    new_handler: N,
    shutdown: CancellationToken,
) where
    N: Fn(String, Arc<ConnectionActivity>) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    let context =
        Arc::new(ListenerContext { tls, settings, header_blocks: Arc::new(header_blocks), new_handler });
    listener.serve(shutdown, |stream, slot| serve_connection(stream, Arc::clone(&context), slot)).await;
}

async fn serve_connection<N, H>(stream: Stream, context: Arc<ListenerContext<N>>, slot: ConnectionSlot)
where
    N: Fn(String, Arc<ConnectionActivity>) -> H + Send + Sync + 'static,
    H: StreamHandler,
{
    let ConnectionSlot { activity, mut close } = slot;
    // A client that connects and sends nothing does not occupy a descriptor or delay the end of the process.
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(stream, context.tls.as_deref())) => handshake,
        _ = &mut close => return,
    };
    let Ok(Ok(stream)) = handshake else {
        return;
    };
    let handler = Arc::new((context.new_handler)(stream.stream.client(), Arc::clone(&activity)));
    if stream.preface != *PREFACE {
        handler.report_preface(&stream.preface);
        return;
    }
    let stream = HeaderBlockLimiter::new(stream, PREFACE_LENGTH, Arc::clone(&context.header_blocks));
    let stream = TokioIo::new(WriteTimeout::new(stream, activity));
    let executor = StreamExecutor::default();
    let builder = builder(executor.clone(), context.settings);
    let requests = Arc::clone(&handler);
    let service = service_fn(move |request: Request<Incoming>| {
        executor.set_timeout(requests.stream_timeout(&request));
        Arc::clone(&requests).call(request)
    });
    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
    let result = tokio::select! {
        result = drive(connection.as_mut(), &*handler) => result,
        _ = close => {
            connection.as_mut().graceful_shutdown();
            drive(connection, &*handler).await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

fn builder(executor: StreamExecutor, settings: Http2Settings) -> http2::Builder<StreamExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_BROKEN_STREAMS)
        .initial_stream_window_size(settings.window)
        .initial_connection_window_size(settings.window)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        // gRPC has no use for a date.
        .auto_date_header(false);
    builder
}

/// Drives a connection to its end, and reports the requests that the HTTP/2 library resets before they get here.
fn drive<C: Future>(
    mut connection: Pin<&mut C>,
    handler: &impl StreamHandler,
) -> impl Future<Output = C::Output> {
    std::future::poll_fn(move |context| {
        let polled = connection.as_mut().poll(context);
        for _ in 0..h2_events::take_malformed_authorities() {
            handler.report_malformed_authority();
        }
        polled
    })
}

/// Runs each stream of a connection in a task of its own, for as long as it may live.
#[derive(Debug, Clone, Default)]
struct StreamExecutor {
    /// The timeout of the stream that is started next, in seconds.  The library hands a request to the service and
    /// starts its stream in one go.
    timeout: Arc<AtomicU64>,
}

impl StreamExecutor {
    fn set_timeout(&self, timeout: Duration) {
        self.timeout.store(timeout.as_secs(), Ordering::Relaxed);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        // A client that never reads its answer would hold it and its stream.  Dropping the stream resets it.
        let timeout = Duration::from_secs(self.timeout.load(Ordering::Relaxed));
        tokio::spawn(tokio::time::timeout(timeout, stream));
    }
}

/// The handshake of TLS where there is one, then the preface of HTTP/2.
async fn handshake(stream: Stream, tls: Option<&Acceptor>) -> io::Result<PrefaceStream> {
    let stream = match tls {
        // Boxed, so that it does not make the task of a connection without TLS larger.
        Some(tls) => Box::pin(tls.accept(stream)).await?,
        None => stream,
    };
    PrefaceStream::read(stream).await
}

/// A connection whose client has sent as many bytes as the preface has.  The HTTP/2 library reads them again.
struct PrefaceStream {
    preface: [u8; PREFACE_LENGTH],
    /// How many of the preface's bytes have been read again.
    position: usize,
    stream: Stream,
}

impl PrefaceStream {
    async fn read(mut stream: Stream) -> io::Result<Self> {
        let mut preface = [0; PREFACE_LENGTH];
        stream.read_exact(&mut preface).await?;
        Ok(Self { preface, position: 0, stream })
    }
}

impl AsyncRead for PrefaceStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.preface[self.position..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.position += length;
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
