//! The probes listener: `/live`, `/ready` and `/metrics` over HTTP/1.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::readiness::Readiness;
use crate::server::connection_limit::LimitedListener;
use crate::server::http1;
use crate::telemetry::{Telemetry, metrics};

/// Connections that are open at a time.
pub const MAX_CONNECTIONS: usize = 64;

#[derive(Clone)]
struct ProbeState {
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
}

/// Serves the probes until the shutdown.
pub async fn serve(
    listener: LimitedListener,
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(ProbeState { readiness, telemetry });
    http1::serve(listener, None, router, shutdown).await;
}

/// 200 for as long as the process answers at all.
async fn live() -> &'static str {
    "live\n"
}

/// 200 when the server decides, 503 when requests should go to others.
async fn ready(State(state): State<ProbeState>) -> (StatusCode, &'static str) {
    if state.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// The metrics, in the format that the client prefers.
async fn show_metrics(State(state): State<ProbeState>, headers: HeaderMap) -> impl IntoResponse {
    let format = metrics::Format::accepted(headers.get_all(ACCEPT));
    // Reads every key, and files of the operating system: not on a thread that answers Checks.
    let encode = move || state.telemetry.metrics().encode(format);
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded
        .map(|text| ([(CONTENT_TYPE, format.content_type())], text))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
