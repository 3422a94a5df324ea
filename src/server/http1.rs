//! HTTP/1 for the doors that people, orchestrators and collectors knock at: within limits, until it is time to close.

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
use tower::{Service, ServiceExt};

use super::Stream;
use super::connection_limit::{Answer, ConnectionSlot, LimitedListener, RequestGuard};
use super::tls::Acceptor;
use super::write_timeout::WriteTimeout;
use crate::shutdown::Closing;

/// How long a request's head may take to arrive, an idle connection's next one included; and how long requests in
/// flight are waited for when it is time to close.
const LONGEST: Duration = Duration::from_secs(10);
/// How long an answer may take to be written when it is time to close.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The largest head of a request, in bytes.
const LARGEST_HEAD: usize = 64 * 1024;

/// Serves a listener, over TLS where there is an acceptor, until it is time to close; then lets the requests in
/// flight finish.
pub async fn serve<S, B>(listener: LimitedListener, tls: Option<Arc<Acceptor>>, service: S, closing: Closing)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let connection = |stream, mut place: ConnectionSlot| {
        let (tls, service) = (tls.clone(), service.clone());
        async move {
            let stream = match &tls {
                Some(tls) => tokio::select! {
                    made = tls.accept(stream) => made.ok(),
                    _ = &mut place.leave => None,
                },
                None => Some(stream),
            };
            if let Some(stream) = stream {
                serve_connection(stream, service, place).await;
            }
        }
    };
    listener.serve(closing, connection).await;
}

async fn serve_connection<S, B>(stream: Stream, service: S, place: ConnectionSlot)
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
{
    let ConnectionSlot { activity, leave } = place;
    let peer = stream.peer();
    let stream = TokioIo::new(WriteTimeout::new(stream, Arc::clone(&activity)));
    let in_flight = Arc::new(());
    let held = Arc::clone(&in_flight);
    let answer = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        let (service, held) = (service.clone(), Arc::clone(&held));
        let guard = Arc::new(RequestGuard::begin(Arc::clone(&activity)));
        let request = request.map(|body| RequestBody::new(body, Arc::clone(&guard)));
        async move {
            let response = service.oneshot(request).await;
            drop(held);
            guard.answered();
            response.map(|response| response.map(|body| Answer::new(body, guard)))
        }
    });
    let mut builder = http1::Builder::new();
    // Whoever sends a request's head slowly holds a connection; not for long, and not with much.
    builder.timer(TokioTimer::new()).header_read_timeout(LONGEST).max_buf_size(LARGEST_HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = leave => {
            connection.as_mut().graceful_shutdown();
            // The service holds it once, and every request in flight once more.  Browsers open connections
            // ahead and say nothing on them: nobody waits for those.
            let patience = if Arc::strong_count(&in_flight) > 2 { LONGEST } else { LAST_WORDS };
            tokio::time::timeout(patience, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// The body of a request; when it has arrived whole, the request's turn is told.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    guard: Arc<RequestGuard>,
}

impl RequestBody {
    fn new(body: Incoming, guard: Arc<RequestGuard>) -> Self {
        if body.is_end_stream() {
            guard.arrived();
        }
        Self { body, guard }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.guard.arrived();
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
