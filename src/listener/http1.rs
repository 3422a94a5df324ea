//! HTTP/1 for the doors that people, orchestrators and collectors knock at: within limits, until it is time to close.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tower::{Service, ServiceExt};

use super::Stream;
use super::limit::Limited;
use super::stall::Unstalled;
use super::tls::Acceptor;
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
pub async fn serve<S, B>(listener: Limited, tls: Option<Arc<Acceptor>>, service: S, closing: Closing)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let connection = |stream, mut closing: Closing| {
        let (tls, service) = (tls.clone(), service.clone());
        async move {
            let stream = match &tls {
                Some(tls) => tokio::select! {
                    made = tls.accept(stream) => made.ok(),
                    () = closing.begun() => None,
                },
                None => Some(stream),
            };
            if let Some(stream) = stream {
                serve_connection(stream, service, closing).await;
            }
        }
    };
    listener.serve(closing, connection).await;
}

async fn serve_connection<S, B>(stream: Stream, service: S, mut closing: Closing)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: Body<Data: Send, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    let in_flight = Arc::new(());
    let held = Arc::clone(&in_flight);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, held) = (service.clone(), Arc::clone(&held));
        async move {
            let response = service.oneshot(request).await;
            drop(held);
            response
        }
    });
    let mut builder = http1::Builder::new();
    // Whoever sends a request's head slowly holds a connection; not for long, and not with much.
    builder.timer(TokioTimer::new()).header_read_timeout(LONGEST).max_buf_size(LARGEST_HEAD);
    let stream = TokioIo::new(Unstalled::new(stream));
    let mut connection = std::pin::pin!(builder.serve_connection(stream, answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.begun() => {
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
