//! HTTP/1 for the admin API and the probes: within limits, until the shutdown.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::Stream;
use super::activity::{InFlightBody, InFlightRequest};
use super::connection_limit::{ConnectionSlot, LimitedListener};
use super::tls::Acceptor;
use super::write_timeout::WriteTimeout;

/// How long a request's head may take to arrive, an idle connection's next one included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection with requests in flight may take to close at the shutdown.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long any other connection may take, which may have a response to write.
const IDLE_CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Serves a listener, over TLS where there is an acceptor, until the shutdown; then lets the requests in flight
/// finish.
pub async fn serve<S, B>(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    service: S,
    shutdown: CancellationToken,
) where
    S: Service<Request<TrackedBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let connection = |stream, mut slot: ConnectionSlot| {
        let (tls, service) = (tls.clone(), service.clone());
        async move {
            let stream = match &tls {
                Some(tls) => tokio::select! {
                    accepted = tls.accept(stream) => accepted.ok(),
                    _ = &mut slot.close => None,
                },
                None => Some(stream),
            };
            if let Some(stream) = stream {
                serve_connection(stream, service, slot).await;
            }
        }
    };
    listener.serve(shutdown, connection).await;
}

async fn serve_connection<S, B>(stream: Stream, service: S, slot: ConnectionSlot)
where
    S: Service<Request<TrackedBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let ConnectionSlot { activity, close } = slot;
    let peer = stream.peer();
    let stream = TokioIo::new(WriteTimeout::new(stream, Arc::clone(&activity)));
    let in_flight = TaskTracker::new();
    let tracker = in_flight.clone();
    let answer = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (service, token) = (service.clone(), tracker.token());
        let in_flight = Arc::new(InFlightRequest::new(Arc::clone(&activity)));
        let request = request.map(|body| TrackedBody::new(body, Arc::clone(&in_flight)));
        async move {
            let response = service.oneshot(request).await;
            drop(token);
            in_flight.mark_answered();
            response.map(|response| response.map(|body| InFlightBody::new(body, in_flight)))
        }
    });
    let mut builder = http1::Builder::new();
    // A client that sends a request's head slowly holds its connection for a limited time, and little memory.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = close => {
            connection.as_mut().graceful_shutdown();
            // Browsers open connections ahead and send nothing on them: the shutdown does not wait for those.
            let timeout = if in_flight.is_empty() { IDLE_CLOSE_TIMEOUT } else { CLOSE_TIMEOUT };
            tokio::time::timeout(timeout, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// The body of a request, which marks its request as received when it has arrived whole.
#[derive(Debug)]
pub struct TrackedBody {
    body: Incoming,
    request: Arc<InFlightRequest>,
}

impl TrackedBody {
    fn new(body: Incoming, request: Arc<InFlightRequest>) -> Self {
        if body.is_end_stream() {
            request.mark_received();
        }
        Self { body, request }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.request.mark_received();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
