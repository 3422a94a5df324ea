//! The activity of a connection: its requests in flight, and when it was last used.
//!
//! [`connection_limit`](super::connection_limit) reads it to choose the connection that it closes, and services read it
//! to deny requests when too many are open.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};

/// How long a client may leave its response unread before the response no longer keeps its connection open.
const RESPONSE_READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that a connection may always have open.
const MIN_REQUESTS_PER_CONNECTION: u32 = 8;

/// The activity of one connection.
#[derive(Debug)]
pub struct ConnectionActivity {
    listener: Arc<ListenerActivity>,
    /// Whether the head of a request has ever arrived.
    had_request: AtomicBool,
    /// When it was last used, in microseconds since the listener started: accepted, answered, or read after it was
    /// slow.
    last_used: AtomicU64,
    /// Requests whose head has arrived and whose response has not been taken.
    open_requests: AtomicU32,
    /// Requests that have arrived whole and are being answered.
    answering: AtomicU32,
    /// Responses that the client has not taken yet.
    sending: AtomicU32,
}

/// The activity of all connections of a listener.
#[derive(Debug)]
pub(super) struct ListenerActivity {
    started: Instant,
    /// Requests whose head has arrived and whose response has not been taken.
    open_requests: AtomicU32,
}

impl ListenerActivity {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), open_requests: AtomicU32::new(0) }
    }

    /// Microseconds since the listener started.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl ConnectionActivity {
    /// The activity of a connection that was accepted now.
    pub(super) fn new(listener: Arc<ListenerActivity>) -> Self {
        let last_used = AtomicU64::new(listener.now());
        let [open_requests, answering, sending] = [0; 3].map(AtomicU32::new);
        Self { listener, had_request: AtomicBool::new(false), last_used, open_requests, answering, sending }
    }

    /// The activity of a connection that does not belong to one of our listeners.
    pub fn detached() -> Arc<Self> {
        Arc::new(Self::new(Arc::new(ListenerActivity::new())))
    }

    /// The client does not read the bytes that wait for it.
    pub(super) fn write_blocked(&self) {
        self.sending.fetch_add(1, Ordering::Relaxed);
    }

    /// The client has read bytes again.
    pub(super) fn write_resumed(&self) {
        self.sending.fetch_sub(1, Ordering::Relaxed);
        self.last_used.store(self.listener.now(), Ordering::Relaxed);
    }

    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }

    /// Its rank among the connections that may be closed, the lowest first; `None` while it must not be closed.
    /// Connections that never sent the head of a request are first, then those that were unused for the longest time.
    pub(super) fn eviction_rank(&self, now: u64) -> Option<(bool, u64)> {
        let last_used = self.last_used.load(Ordering::Relaxed);
        let is_read = self.sending.load(Ordering::Relaxed) > 0
            && Duration::from_micros(now.saturating_sub(last_used)) < RESPONSE_READ_TIMEOUT;
        let may_be_closed = !self.is_answering() && !is_read;
        may_be_closed.then(|| (self.had_request.load(Ordering::Relaxed), last_used))
    }
}

/// A request from its head to the end of its response.  It is counted until it is dropped.
#[derive(Debug)]
pub struct InFlightRequest {
    connection: Arc<ConnectionActivity>,
    stage: AtomicU8,
}

const RECEIVING: u8 = 0;
const ANSWERING: u8 = 1;
const SENDING: u8 = 2;

impl InFlightRequest {
    /// A request whose head has arrived.
    pub fn new(connection: Arc<ConnectionActivity>) -> Self {
        if !connection.had_request.load(Ordering::Relaxed) {
            connection.had_request.store(true, Ordering::Relaxed);
        }
        connection.listener.open_requests.fetch_add(1, Ordering::Relaxed);
        connection.open_requests.fetch_add(1, Ordering::Relaxed);
        Self { connection, stage: AtomicU8::new(RECEIVING) }
    }

    /// Whether more requests are open on the listener than `max_open`, and more on this connection than each may have
    /// even then: a client with few requests is not denied because another one has many.
    pub fn exceeds(&self, max_open: u32) -> bool {
        let connection = &self.connection;
        connection.listener.open_requests.load(Ordering::Relaxed) > max_open
            && connection.open_requests.load(Ordering::Relaxed) > MIN_REQUESTS_PER_CONNECTION
    }

    /// The whole request has arrived.
    pub fn mark_received(&self) {
        if self.stage.load(Ordering::Relaxed) == RECEIVING {
            self.stage.store(ANSWERING, Ordering::Relaxed);
            self.connection.answering.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// There is a response, which the client now reads.
    pub fn mark_answered(&self) {
        let connection = &self.connection;
        connection.sending.fetch_add(1, Ordering::Relaxed);
        if self.stage.load(Ordering::Relaxed) == ANSWERING {
            connection.answering.fetch_sub(1, Ordering::Relaxed);
        }
        self.stage.store(SENDING, Ordering::Relaxed);
        connection.last_used.store(connection.listener.now(), Ordering::Relaxed);
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        match *self.stage.get_mut() {
            ANSWERING => {
                self.connection.answering.fetch_sub(1, Ordering::Relaxed);
            }
            SENDING => {
                self.connection.sending.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        self.connection.open_requests.fetch_sub(1, Ordering::Relaxed);
        self.connection.listener.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response, which keeps its request in flight until it is dropped.
#[derive(Debug)]
pub struct InFlightBody<B, R> {
    body: B,
    _request: R,
}

impl<B, R> InFlightBody<B, R> {
    /// This body, and the request that it answers.
    pub fn new(body: B, request: R) -> Self {
        Self { body, _request: request }
    }
}

impl<B: Body + Unpin, R: Unpin> Body for InFlightBody<B, R> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl ConnectionActivity {
        /// Sets when the connection was last of use.
        pub(in crate::server) fn set_last_used(&self, micros: u64) {
            self.last_used.store(micros, Ordering::Relaxed);
        }

        pub(in crate::server) fn last_used(&self) -> u64 {
            self.last_used.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_connection_with_few_open_requests_never_exceeds_the_limit() {
        let many = ConnectionActivity::detached();
        let few = Arc::new(ConnectionActivity::new(Arc::clone(&many.listener)));
        let held: Vec<_> = (0..100).map(|_| InFlightRequest::new(Arc::clone(&many))).collect();
        let own: Vec<_> =
            (0..MIN_REQUESTS_PER_CONNECTION).map(|_| InFlightRequest::new(Arc::clone(&few))).collect();
        assert!(held[0].exceeds(107) && !held[0].exceeds(108));
        assert!(own.iter().all(|request| !request.exceeds(0)));
        let one_more = InFlightRequest::new(Arc::clone(&few));
        assert!(one_more.exceeds(108) && !one_more.exceeds(109));
        drop(held);
        assert!(!one_more.exceeds(9) && one_more.exceeds(8));
    }

    #[test]
    fn a_client_that_takes_its_response_slowly_keeps_its_connection_for_as_long_as_it_takes_some() {
        let activity = ConnectionActivity::detached();
        drop(InFlightRequest::new(Arc::clone(&activity)));
        activity.set_last_used(0);
        let timeout = u64::try_from(RESPONSE_READ_TIMEOUT.as_micros()).unwrap();
        assert_eq!(activity.eviction_rank(1), Some((true, 0)));
        activity.write_blocked();
        assert_eq!(activity.eviction_rank(timeout - 1), None);
        assert_eq!(activity.eviction_rank(timeout), Some((true, 0)));
        activity.write_resumed();
        assert!(activity.eviction_rank(timeout).is_some(), "nothing waits to be taken");
    }
}
