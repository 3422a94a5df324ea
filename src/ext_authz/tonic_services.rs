//! Health and reflection, which tonic serves within our limits.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Code;
use tonic::service::Routes;
use tower::ServiceExt;

use super::body::{
    AnswerBody, BodyDrain, DrainedBody, GRPC_STATUS, PrependedBody, grpc_response, status_trailers,
    text_response,
};
use super::codec::frame::{self, FrameError};
use super::service::{NO_MESSAGE, READ_TIMEOUT};
use crate::server::activity::InFlightRequest;

/// Calls that one connection may have open.
pub(super) const MAX_CALLS_PER_CONNECTION: usize = 64;
/// How long a call may last: `Watch` of health never ends by itself.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// The largest message of a client, in bytes.
pub(super) const MAX_MESSAGE: usize = 16 * 1024;
/// The maximum length of a metadata value that is kept, in bytes.
const MAX_METADATA_VALUE: usize = 64;
/// The message of a call that reached [`CALL_TIMEOUT`].
const CALL_TIMED_OUT: &str = "the call has lasted as long as one may: call again";

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Health and reflection.
pub(super) struct TonicServices {
    routes: Routes,
    /// Calls that all connections may have open.
    permits: Arc<Semaphore>,
    drain: BodyDrain,
}

impl TonicServices {
    /// These services, with `max_calls` open at a time.
    pub(super) fn new(routes: Routes, max_calls: usize, drain: BodyDrain) -> Self {
        Self { routes, permits: Arc::new(Semaphore::new(max_calls)), drain }
    }

    /// Answers a call, with a permit of its connection and one of all connections.
    pub(super) async fn call(
        &self,
        request: Request<Incoming>,
        connection_permits: &Arc<Semaphore>,
        in_flight: &InFlightRequest,
    ) -> Response<ListenerBody> {
        let (head, body) = request.into_parts();
        let mut body = DrainedBody::new(body, self.drain.clone());
        let permit = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned();
        let (Ok(of_connection), Ok(of_all)) = (permit(connection_permits), permit(&self.permits)) else {
            let error = AnswerBody::from_error(FrameError::OverBudget);
            return grpc_response(StatusCode::SERVICE_UNAVAILABLE, error).map(ListenerBody::Answer);
        };
        // tonic answers a call without a message with status 200 and an error in the trailers.
        let first = tokio::time::timeout(READ_TIMEOUT, frame::first_data(&mut body)).await;
        let Ok(Some(first)) = first else {
            return text_response(StatusCode::BAD_REQUEST, NO_MESSAGE).map(ListenerBody::Answer);
        };
        in_flight.mark_received();
        let body = http_body_util::BodyExt::boxed(PrependedBody::new(first, body));
        let response = self.routes.clone().oneshot(Request::from_parts(head, body)).await;
        let mut response = response.unwrap_or_else(|never| match never {});
        // tonic's answers to a malformed call, in addition to status 200.
        let code = response.headers().get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
        if matches!(code, Some(Code::OutOfRange | Code::Unimplemented | Code::Internal)) {
            *response.status_mut() = StatusCode::BAD_REQUEST;
        }
        response.map(|body| {
            let timeout = Box::pin(tokio::time::sleep(CALL_TIMEOUT));
            ListenerBody::Tonic(Box::new(TonicBody { body, timeout, _permits: [of_connection, of_all] }))
        })
    }
}

/// The request without the metadata that tonic does not read: a stream of these may live long.
pub(super) fn without_metadata(mut request: Request<Incoming>) -> Request<Incoming> {
    let sent = std::mem::take(request.headers_mut());
    for name in [CONTENT_TYPE, TE, GRPC_ENCODING] {
        if let Some(value) = sent.get(&name).filter(|value| value.len() <= MAX_METADATA_VALUE) {
            // Copied: a value is a part of the buffer that all headers arrived in.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                request.headers_mut().insert(name, value);
            }
        }
    }
    request
}

/// The body of a response on the ext_authz listener.
pub(super) enum ListenerBody {
    /// A body of this crate.
    Answer(AnswerBody),
    /// A body of tonic.  Boxed, so that it does not make the others larger.
    Tonic(Box<TonicBody>),
}

impl Body for ListenerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match &mut *self {
            Self::Answer(body) => Pin::new(body).poll_frame(context),
            Self::Tonic(body) => body.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Answer(body) => body.is_end_stream(),
            Self::Tonic(body) => body.body.is_end_stream(),
        }
    }
}

/// A body of tonic, with the timeout of its call.
pub(super) struct TonicBody {
    body: tonic::body::Body,
    timeout: Pin<Box<Sleep>>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl TonicBody {
    /// The next frame.  After the timeout the last one says UNAVAILABLE, so that a client of `Watch` calls again.
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending() && self.timeout.as_mut().poll(context).is_ready() {
            self.body = tonic::body::Body::empty();
            return Poll::Ready(Some(Ok(Frame::trailers(status_trailers(
                Code::Unavailable,
                CALL_TIMED_OUT,
            )))));
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_that_has_lasted_too_long_ends_with_unavailable() {
        let permits = Arc::new(Semaphore::new(2));
        let permit = || Arc::clone(&permits).try_acquire_owned().unwrap();
        // A stream on which nothing happens.
        let (_sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let silent = futures_util::stream::unfold(receiver, |mut receiver| async move {
            Some((Ok::<_, tonic::Status>(Frame::data(receiver.recv().await?)), receiver))
        });
        let watch = TonicBody {
            body: tonic::body::Body::new(http_body_util::StreamBody::new(Box::pin(silent))),
            timeout: Box::pin(tokio::time::sleep(Duration::from_millis(1))),
            _permits: [permit(), permit()],
        };
        let collected = http_body_util::BodyExt::collect(ListenerBody::Tonic(Box::new(watch))).await.unwrap();
        assert_eq!(collected.trailers().expect("trailers")[GRPC_STATUS], "14");
        assert_eq!(permits.available_permits(), 2);
    }
}
