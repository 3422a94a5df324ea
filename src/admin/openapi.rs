//! The OpenAPI document of the API, at `/openapi.json`.
//!
//! It is derived: `#[utoipa::path]` above each handler describes the call, `ToSchema` on its types the bodies.  What is
//! served is the file that a test makes of them (`openapi/document.rs`), so that the program holds the text and not what makes it.

#[cfg(test)]
pub(super) mod document;

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use serde_json::{Value, json};

use super::Admin;
use super::body::Json;

/// The document as the test wrote it; its server is the one that it is read from.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("openapi/openapi.json")).expect("a test writes it as JSON")
});

/// This document
///
/// It needs no credential.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getOpenApi",
    tag = "documents",
    security(()),
    responses((status = OK, description = "This document", body = Object)),
)]
pub(super) async fn show(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let mut document = DOCUMENT.clone();
    if let Some(url) = admin.public_url() {
        document["servers"] = json!([{ "url": url.to_string() }]);
    }
    Json(document)
}
