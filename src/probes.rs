//! The door for whoever watches us: `/live`, `/ready` and `/metrics` over HTTP/1.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::readiness::Readiness;
use crate::server::connection_limit::LimitedListener;
use crate::server::http1;
use crate::shutdown::Closing;
use crate::telemetry::{Telemetry, metrics};

/// Connections that are open at a time.
pub const MAX_CONNECTIONS: usize = 64;

#[derive(Clone)]
struct Watched {
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
}

/// Serves the probes until it is time to close.
pub async fn serve(
    listener: LimitedListener,
    readiness: Readiness,
    telemetry: Arc<Telemetry>,
    closing: Closing,
) {
    let router = Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .with_state(Watched { readiness, telemetry });
    http1::serve(listener, None, router, closing).await;
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
    // Every key is looked at, and files of the operating system are read: no Check waits for that.
    let encode = move || watched.telemetry.metrics().encode(format);
    let encoded = tokio::task::spawn_blocking(encode).await;
    encoded
        .map(|text| ([(CONTENT_TYPE, format.content_type())], text))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}
