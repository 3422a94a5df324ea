//! The ext_authz listener: Checks, health and reflection on one port, and 404 for every other path.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::body::text_response;
use super::metadata::Metadata;
use super::service::{CHECK_PATH, CheckCall, CheckService, READ_TIMEOUT, RejectedCall};
use super::tonic_services::{
    CALL_TIMEOUT, ListenerBody, MAX_CALLS_PER_CONNECTION, TonicServices, without_metadata,
};
use super::wiring::WrongWiring;
use super::{health, reflection};
use crate::server::activity::{ConnectionActivity, InFlightBody, InFlightRequest};
use crate::server::connection_limit::LimitedListener;
use crate::server::header_block_limit::HeaderBlockBudget;
use crate::server::http2::{self, Http2Settings, PREFACE_LENGTH, StreamHandler};
use crate::server::tls::Acceptor;

/// The maximum life of the stream of a Check, until the client has read the answer.  Envoy never waits that long.
const CHECK_STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum life of the stream of another call: a health call may last, and the client must read its end.
const TONIC_STREAM_TIMEOUT: Duration =
    Duration::from_secs(READ_TIMEOUT.as_secs() + CALL_TIMEOUT.as_secs() + CHECK_STREAM_TIMEOUT.as_secs());

/// Serves connections, over TLS if there is an acceptor, until the shutdown.  Then it lets the open connections finish.
pub async fn serve(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    checks: CheckService,
    routes: Routes,
    shutdown: CancellationToken,
) {
    let shares = checks.shares();
    let settings = Http2Settings { max_concurrent_streams: shares.streams, window: shares.window };
    let closed = checks.telemetry().metrics().closed_connections("ext_authz");
    let header_blocks = HeaderBlockBudget::new(shares.header_block_bytes, closed);
    let tonic = TonicServices::new(routes, shares.tonic_calls, checks.drain().clone());
    let services = Arc::new(Services { is_tls: tls.is_some(), checks, tonic });
    let connection = move |peer: String, activity| Connection {
        services: Arc::clone(&services),
        peer: peer.into(),
        activity,
        tonic_permits: Arc::new(Semaphore::new(MAX_CALLS_PER_CONNECTION)),
    };
    http2::serve(listener, tls, settings, header_blocks, connection, shutdown).await;
}

/// What the listener serves.
struct Services {
    is_tls: bool,
    checks: CheckService,
    tonic: TonicServices,
}

/// One connection, for its requests.
struct Connection {
    services: Arc<Services>,
    peer: Box<str>,
    activity: Arc<ConnectionActivity>,
    /// Calls of health and reflection that it may have open.
    tonic_permits: Arc<Semaphore>,
}

/// Which service a request goes to.
enum Dispatch {
    Check(CheckCall<Incoming>),
    /// Boxed, so that the rare request does not make the task of every Check larger.
    Tonic(Box<Request<Incoming>>),
    Rejected(RejectedCall<Incoming>),
}

/// A request beyond the limit: its stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("too many requests are open")]
struct TooManyStreams;

impl Connection {
    /// Reads the head of a request.
    fn dispatch(&self, request: Request<Incoming>) -> Dispatch {
        let (checks, peer) = (&self.services.checks, &self.peer);
        let path = request.uri().path();
        if path == CHECK_PATH {
            return checks.read_head(request, peer).map_or_else(Dispatch::Rejected, Dispatch::Check);
        }
        if !health::PATHS.contains(&path) && !reflection::PATHS.contains(&path) {
            let kind = WrongWiring::of_path(path);
            return Dispatch::Rejected(checks.reject(StatusCode::NOT_FOUND, kind, request, peer));
        }
        match Metadata::from_request(&request) {
            Ok(_) => Dispatch::Tonic(Box::new(without_metadata(request))),
            Err(status) => Dispatch::Rejected(checks.reject(status, WrongWiring::NotGrpc, request, peer)),
        }
    }
}

impl StreamHandler for Connection {
    type Body = InFlightBody<ListenerBody, InFlightRequest>;
    type Error = TooManyStreams;

    fn stream_timeout(&self, request: &Request<Incoming>) -> Duration {
        if request.uri().path() == CHECK_PATH { CHECK_STREAM_TIMEOUT } else { TONIC_STREAM_TIMEOUT }
    }

    /// The head is read before there is a future: a future is moved several times on its way into a task, and every
    /// byte of it is copied each time.
    fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, TooManyStreams>> + Send + 'static {
        let in_flight = InFlightRequest::new(Arc::clone(&self.activity));
        let dispatch = self.dispatch(request);
        async move {
            let Services { checks, tonic, .. } = &*self.services;
            // Answers are held until the client reads them, so they are limited as well.
            if in_flight.exceeds(checks.shares().open_checks.saturating_mul(2)) {
                return Err(TooManyStreams);
            }
            let response = match dispatch {
                Dispatch::Check(call) => checks.respond(call, &in_flight).await.map(ListenerBody::Answer),
                Dispatch::Tonic(request) => {
                    Box::pin(tonic.call(*request, &self.tonic_permits, &in_flight)).await
                }
                Dispatch::Rejected(RejectedCall { status, text, body }) => {
                    checks.drain().drain(body);
                    text_response(status, text).map(ListenerBody::Answer)
                }
            };
            in_flight.mark_answered();
            Ok(response.map(|body| InFlightBody::new(body, in_flight)))
        }
    }

    fn report_preface(&self, preface: &[u8; PREFACE_LENGTH]) {
        if let Some(kind) = WrongWiring::of_preface(preface, self.services.is_tls) {
            self.services.checks.wrong_wirings().report(kind, &self.peer);
        }
    }

    fn report_malformed_authority(&self) {
        self.services.checks.wrong_wirings().report(WrongWiring::Authority, &self.peer);
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
    fn a_check_takes_less_than_a_kibibyte_of_its_task() {
        let size = size_of_made(<Connection as StreamHandler>::call);
        assert!(size <= 1024, "{size} bytes, each of which is copied several times on its way into the task");
    }
}
