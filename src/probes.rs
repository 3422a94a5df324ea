//! The door for whoever watches us: `/live`, `/ready` and `/metrics` over HTTP/1.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::config::Listen;
use crate::health::Readiness;
use crate::listener::{Listener, Stream};
use crate::shutdown::Closing;
use crate::telemetry::{Telemetry, metrics};

#[derive(Clone)]
struct Watched {
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
}

/// Serves the probes until it is time to close.
pub async fn serve(
    listener: Listener,
    address: Listen,
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
    mut closing: Closing,
) {
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(Watched { readiness, telemetry });
    let served = axum::serve(Accepting { listener, address }, router)
        .with_graceful_shutdown(async move { closing.begun().await })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the probes are gone");
    }
}

/// 200 for as long as the process answers at all.
async fn live() -> &'static str {
    "live\n"
}

/// 200 when we decide, 503 when others should be asked.
async fn ready(State(watched): State<Watched>) -> (StatusCode, &'static str) {
    if watched.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// In the format that the asker prefers.
async fn show_metrics(State(watched): State<Watched>, headers: HeaderMap) -> impl IntoResponse {
    let format = metrics::Format::accepted(headers.get_all(ACCEPT));
    ([(CONTENT_TYPE, format.content_type())], watched.telemetry.metrics().encode(format))
}

/// Our listener, as axum wants one.
struct Accepting {
    listener: Listener,
    address: Listen,
}

impl axum::serve::Listener for Accepting {
    type Io = Stream;
    type Addr = Listen;

    async fn accept(&mut self) -> (Stream, Listen) {
        (self.listener.accept().await, self.address.clone())
    }

    fn local_addr(&self) -> std::io::Result<Listen> {
        Ok(self.address.clone())
    }
}
