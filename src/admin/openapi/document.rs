//! What the handlers and their types say of themselves, as an OpenAPI document.
//!
//! `UPDATE_FIXTURES=1 cargo test --lib openapi` writes the file that is served.  Read it before you commit it.

use std::path::Path;

use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{RefOr, Required};
use utoipa::{Modify, OpenApi};

use crate::admin::error::ErrorBody;
use crate::admin::{
    accounts, audit_list, grafana, history, introspection, keys, login, openapi, page, permissions, session,
};

/// The document, whose server is the one that it is read from.
pub(in crate::admin) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "envoy-auth-tokens: API keys",
        description = "Issues, lists, rotates, revokes and deletes API keys. Paths and bodies are those of Grafana's \
                       authentication HTTP API. Beyond the statuses of each operation, every one may answer 421 (the \
                       the listener does not serve the host) and 500 (a fault of the server), with the body of an error."
    ),
    servers((url = "/", description = "This server")),
    security(("bearer" = []), ("basic" = []), ("session" = [])),
    tags(
        (name = "keys", description = "API keys"),
        (name = "service accounts", description = "Service accounts, and their keys, which Grafana calls tokens"),
        (name = "introspection", description = "What a token is, by RFC 7662"),
        (name = "audit", description = "Who did what to keys, service accounts and sessions"),
        (name = "session", description = "Log-in and log-out, and who the caller is"),
        (name = "grafana", description = "What clients of Grafana's API ask before they do anything else"),
        (name = "documents", description = "The page for people, and this document"),
    ),
    paths(
        keys::list::list,
        keys::create::create,
        keys::bulk::revoke,
        keys::find::find,
        keys::import::import,
        keys::export::export,
        keys::list::show,
        keys::changes::change,
        keys::changes::delete,
        keys::changes::revoke,
        keys::changes::rotate,
        history::accept,
        accounts::search,
        accounts::create,
        accounts::show,
        accounts::update,
        accounts::delete,
        accounts::tokens::list,
        accounts::tokens::create,
        accounts::tokens::delete,
        audit_list::list,
        introspection::introspect,
        permissions::show_actor,
        grafana::health,
        grafana::org,
        grafana::user,
        grafana::ping,
        grafana::settings,
        login::log_in_page,
        login::options,
        login::begin,
        login::callback,
        login::log_out_page,
        session::log_in,
        session::log_out,
        session::end,
        openapi::show,
        page::show,
    ),
    components(schemas(ErrorBody)),
    modifiers(&SecuritySchemes, &OptionalBody),
)]
struct Document;

/// Adds the ways in which a caller is authenticated.
struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = Http::builder().scheme(HttpAuthScheme::Bearer);
        let bearer = bearer.description(Some("A configured token or an API key."));
        let basic = Http::builder().scheme(HttpAuthScheme::Basic);
        let basic = basic.description(Some("A user's name and password, or the name api_key and a token."));
        let session = ApiKeyValue::with_description(
            "eat_session",
            "What POST /login gives; __Host-eat_session where browsers reach this server over TLS: its own, or that of \
             a proxy (admin.public_url is https).",
        );
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
        components.add_security_scheme("basic", SecurityScheme::Http(basic.build()));
        components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    }
}

/// Says that the body of a rotation may be empty: utoipa takes `Option` for a body that may be `null`.
struct OptionalBody;

impl Modify for OptionalBody {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let path = document.paths.paths.get_mut("/api/auth/keys/{id}/rotate");
        let operation = path.and_then(|path| path.post.as_mut());
        if let Some(RefOr::T(body)) = operation.and_then(|operation| operation.request_body.as_mut()) {
            body.required = Some(Required::False);
        }
    }
}

#[test]
fn the_file_is_what_the_handlers_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/openapi/openapi.json");
    let said = document().to_pretty_json().unwrap() + "\n";
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &said).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap();
    assert!(file == said, "{} is behind: run with UPDATE_FIXTURES=1", path.display());
}
