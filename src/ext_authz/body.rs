//! Bodies of answers, and bodies of requests that are only drained.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use tokio::sync::Semaphore;
use tonic::Code;

use super::codec::frame::{self, FrameError};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How long the rest of an unread, denied message may take to arrive.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies that may be drained at a time.
const MAX_DRAINED_BODIES: usize = 1024;

/// The body of an answer: at most one gRPC message, then its status in the trailers.
pub enum AnswerBody {
    /// The message, framed, then status OK.
    Message(Bytes),
    /// The trailers alone.
    Trailers(HeaderMap),
    /// A text, and no trailers.
    Text(Bytes),
    /// The end of the body.
    End,
}

impl AnswerBody {
    /// The gRPC status of a message that could not be read, with the code that gRPC prescribes.
    pub(super) fn from_error(error: FrameError) -> Self {
        let code = match error {
            FrameError::Unreadable | FrameError::Misframed | FrameError::Empty => Code::Internal,
            FrameError::Compressed => Code::Unimplemented,
            FrameError::TooLong | FrameError::OverBudget => Code::ResourceExhausted,
            FrameError::TimedOut => Code::DeadlineExceeded,
        };
        Self::Trailers(status_trailers(code, &error.to_string()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match std::mem::replace(&mut *self, Self::End) {
            Self::Message(framed) => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
                *self = Self::Trailers(trailers);
                Poll::Ready(Some(Ok(Frame::data(framed))))
            }
            Self::Trailers(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Self::Text(text) => Poll::Ready(Some(Ok(Frame::data(text)))),
            Self::End => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::End)
    }
}

/// Trailers with this gRPC status and message.
pub(super) fn status_trailers(code: Code, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(code as i32));
    if let Ok(message) = HeaderValue::from_str(message) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers
}

/// A response that a gRPC client reads.
pub(super) fn grpc_response(status: StatusCode, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// A response for a client that does not speak gRPC: a text, and a status that Envoy does not treat as a permission.
pub(super) fn text_response(status: StatusCode, text: &'static str) -> Response<AnswerBody> {
    let body = match text {
        "" => AnswerBody::End,
        text => AnswerBody::Text(Bytes::from_static(text.as_bytes())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Reads and drops the rest of bodies that were answered early, within limits, so that their streams are not reset: the
/// HTTP/2 library counts bytes that arrive on reset streams, and closes the connection.
#[derive(Debug, Clone)]
pub(super) struct BodyDrain(Arc<Semaphore>);

impl BodyDrain {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_DRAINED_BODIES)))
    }

    /// Drains a body in a separate task.
    pub(super) fn drain<B>(&self, body: B)
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
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

/// The body of a request that another service reads.  The unread rest is drained.
pub(super) struct DrainedBody<B>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    body: Option<B>,
    drain: BodyDrain,
}

impl<B> DrainedBody<B>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    pub(super) fn new(body: B, drain: BodyDrain) -> Self {
        Self { body: Some(body), drain }
    }
}

impl<B> Body for DrainedBody<B>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}

impl<B> Drop for DrainedBody<B>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.drain.drain(body);
        }
    }
}

/// A body whose first bytes were read already.
#[derive(Debug)]
pub(super) struct PrependedBody<B> {
    first: Option<Bytes>,
    rest: B,
}

impl<B> PrependedBody<B> {
    /// These bytes, then this body.
    pub(super) fn new(first: Bytes, rest: B) -> Self {
        Self { first: Some(first), rest }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for PrependedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
