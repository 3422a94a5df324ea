//! The admin server, over HTTP/1: Grafana's API for keys, log-in and log-out, and a web page.
//!
//! Every request passes the middleware `guard`: it limits the time and the size of the body, rejects foreign hosts
//! and cross-site changes, turns a panic into a response, logs denied changes to the audit log, and adds the security
//! headers.  There is no CORS, because only the page itself calls the API from a browser.
//!
//! A handler's parameters are extractors, which run in their order: the authenticated caller
//! (`Manager`, `KeyManager` or `Caller`), the attempted change for the audit log, the key's id, the
//! query, and a typed body (`Json`).  A handler returns what the response holds, or an `ApiError`.

mod accounts;
mod address;
mod audit;
mod audit_list;
mod auth;
pub(crate) mod body;
mod error;
mod grafana;
mod grant;
mod history;
mod host;
pub(crate) mod introspection;
mod keys;
mod login;
mod openapi;
mod page;
mod permissions;
mod query;
mod responses;
mod session;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, EXPECT, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, delete, get, post};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::Transport;
use crate::deny_reason::DenyReason;
use crate::keys::Keys;
use crate::provider::Providers;
use crate::server::connection_limit::LimitedListener;
use crate::server::http1;
use crate::server::tls::Acceptor;
use crate::telemetry::audit_log::{AuditLog, Reservation};
use address::{ClientText, client_address};
use audit::{ChangeAttempt, Denials};
use error::ApiError;

/// The largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The largest body of many lines, in bytes.
const MAX_LINES_BYTES: usize = 1024 * 1024;
/// The path of the call that takes such a body.
const IMPORT_PATH: &str = "/api/auth/keys/import";
/// How many bytes of a larger body are read and discarded: a client that is still sending does not read the response.
const MAX_DISCARDED_BYTES: usize = 32 * 1024 * 1024;
/// How long a client may take to send the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call of the store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many changes, log-ins and log-outs run at a time, those included whose client has disconnected.
const MAX_CHANGES: usize = 256;
/// How many of them are log-ins at providers: the rest is left for people who need no provider.
const MAX_PROVIDER_LOG_INS: usize = 64;
/// How many lists of all keys are written at a time: each holds a page of them in memory.
const MAX_LISTS: usize = 16;
/// How many connections are open at a time.
pub const MAX_CONNECTIONS: usize = 256;

/// The state that the handlers share.
pub struct Admin {
    authorizer: Arc<Authorizer>,
    keys: Arc<Keys>,
    clock: Clock,
    transport: Transport,
    changes: TaskTracker,
    change_permits: Arc<Semaphore>,
    list_permits: Arc<Semaphore>,
    audit_log: AuditLog,
    denials: Arc<Denials>,
    providers: Providers,
    log_in_limiter: login::Limiter,
    unknown_tokens: introspection::Limiter,
    log_in_permits: Semaphore,
}

impl Admin {
    /// The state of an admin server for these keys, with a listener that speaks `transport`.  Who may manage keys, and
    /// from which origins, is in the authorizer's snapshot.
    pub fn new(
        authorizer: Arc<Authorizer>,
        keys: Arc<Keys>,
        clock: Clock,
        transport: Transport,
        audit_log: AuditLog,
    ) -> Self {
        let (changes, change_permits) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CHANGES)));
        let list_permits = Arc::new(Semaphore::new(MAX_LISTS));
        let providers = Providers::new(clock.clone());
        let log_in_limiter = login::Limiter::new(clock.clone());
        let unknown_tokens = introspection::Limiter::new(clock.clone());
        Self {
            authorizer,
            keys,
            clock,
            transport,
            changes,
            change_permits,
            list_permits,
            audit_log,
            denials: Arc::default(),
            providers,
            log_in_limiter,
            unknown_tokens,
            log_in_permits: Semaphore::new(MAX_PROVIDER_LOG_INS),
        }
    }
}

/// Serves the API and the page, over TLS with an acceptor, until `shutdown`.  Then it waits for the requests in flight
/// for the changes whose client has disconnected, and for the rows of denials.
pub async fn serve(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    admin: Arc<Admin>,
    shutdown: CancellationToken,
) {
    let requests = async {
        http1::serve(listener, tls, router(Arc::clone(&admin)), shutdown).await;
        admin.changes.close();
        admin.changes.wait().await;
        admin.denials.close();
    };
    tokio::join!(requests, admin.denials.write(&admin.keys, &admin.audit_log));
}

/// The routes of the API.
fn api() -> Vec<(&'static str, MethodRouter<Arc<Admin>>)> {
    vec![
        ("/api/auth/keys", get(keys::list::list).post(keys::create::create)),
        ("/api/auth/keys/accept-history", post(history::accept)),
        ("/api/auth/keys/export", get(keys::export::export)),
        ("/api/auth/keys/find", post(keys::find::find)),
        (IMPORT_PATH, post(keys::import::import)),
        ("/api/auth/keys/revoke", post(keys::bulk::revoke)),
        (
            "/api/auth/keys/{id}",
            get(keys::list::show).patch(keys::changes::change).delete(keys::changes::delete),
        ),
        ("/api/auth/keys/{id}/revoke", post(keys::changes::revoke)),
        ("/api/auth/keys/{id}/rotate", post(keys::changes::rotate)),
        ("/api/auth/sessions", delete(session::end)),
        ("/api/auth/audit", get(audit_list::list)),
        ("/api/auth/introspect", post(introspection::introspect)),
        ("/api/serviceaccounts", post(accounts::create)),
        ("/api/serviceaccounts/search", get(accounts::search)),
        ("/api/serviceaccounts/{id}", get(accounts::show).patch(accounts::update).delete(accounts::delete)),
        ("/api/serviceaccounts/{id}/tokens", get(accounts::tokens::list).post(accounts::tokens::create)),
        ("/api/serviceaccounts/{id}/tokens/{tokenId}", delete(accounts::tokens::delete)),
        ("/api/auth/actor", get(permissions::show_actor)),
        ("/api/health", get(grafana::health)),
        ("/api/org", get(grafana::org)),
        ("/api/user", get(grafana::user)),
        ("/api/login/ping", get(grafana::ping)),
        ("/api/frontend/settings", get(grafana::settings)),
        ("/login", get(login::log_in_page).post(session::log_in)),
        ("/login/options", get(login::options)),
        ("/login/{name}", get(login::begin)),
        ("/login/{name}/callback", get(login::callback)),
        ("/logout", get(login::log_out_page).post(session::log_out)),
        ("/openapi.json", get(openapi::show)),
    ]
}

/// Everything, also below the path of `admin.public_url`: the proxy before this listener need not cut it off.
fn router(admin: Arc<Admin>) -> Router {
    let routes = routes(Arc::clone(&admin));
    Router::new().fallback(move |mut request: Request| {
        let (routes, admin) = (routes.clone(), Arc::clone(&admin));
        let prefix = admin.path_prefix();
        async move {
            match below(&prefix, request.uri()) {
                BelowPrefix::Not => {}
                // Relative addresses of the page need the slash.
                BelowPrefix::WithoutSlash => {
                    let mut response = Redirect::permanent(&format!("{prefix}/")).into_response();
                    admin.add_headers(&mut response);
                    return response;
                }
                BelowPrefix::Path(uri) => *request.uri_mut() = uri,
            }
            routes.oneshot(request).await.into_response()
        }
    })
}

/// The location of a path.
enum BelowPrefix {
    /// Not below the prefix.
    Not,
    /// It is the prefix itself.
    WithoutSlash,
    /// Below it: the rest.
    Path(Uri),
}

fn below(prefix: &str, uri: &Uri) -> BelowPrefix {
    let rest = uri.path().strip_prefix(prefix).filter(|_| !prefix.is_empty());
    match rest {
        Some("") => BelowPrefix::WithoutSlash,
        Some(path) if path.starts_with('/') => {
            let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            let mut parts = uri.clone().into_parts();
            parts.path_and_query = format!("{path}{query}").parse().ok();
            Uri::from_parts(parts).map_or(BelowPrefix::Not, BelowPrefix::Path)
        }
        Some(_) | None => BelowPrefix::Not,
    }
}

fn routes(admin: Arc<Admin>) -> Router {
    let api = api().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    let files = [("/login/page.css", get(login::style)), ("/login/page.js", get(login::script))];
    // As clients of Grafana write it.
    let api = api.route("/api/serviceaccounts/", post(accounts::create));
    let api = files.into_iter().fold(api, |router, (path, methods)| router.route(path, methods));
    api.merge(page::routes())
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

/// The middleware that every request passes.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let client = client_address(&parts, admin.authorizer.snapshot().admin.as_deref());
    parts.extensions.insert(ClientText(Arc::clone(&client)));
    let attempt = ChangeAttempt::from_request(&admin, client, &mut parts);
    let request = match admin.receive(parts, body).await {
        Ok(request) => request,
        Err(error) => {
            let mut response = error.into_response();
            if let Some(attempt) = attempt {
                attempt.log_denial(&response);
            }
            admin.add_headers(&mut response);
            return response;
        }
    };
    let mut response = match attempt {
        Some(attempt) => admin.run_change(attempt, request, next).await,
        None => respond(request, next).await,
    };
    admin.add_headers(&mut response);
    response
}

/// The handler's response; status 500 when it panics.
async fn respond(request: Request, next: Next) -> Response {
    let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    response.unwrap_or_else(|_| ApiError::Internal.into_response())
}

impl Admin {
    /// Runs a change in a task of its own, because hyper drops the future of a client that disconnects.
    ///
    /// A change does not start without a place in the audit log for its line; the response waits a little for the
    /// line to be written.
    async fn run_change(&self, attempt: ChangeAttempt, request: Request, next: Next) -> Response {
        let (permit, reservation) = match self.reserve_change() {
            Ok(reserved) => reserved,
            Err(error) => {
                let response = error.into_response();
                attempt.log_denial(&response);
                return response;
            }
        };
        let audit_log = self.audit_log.clone();
        let change = self.changes.spawn(async move {
            let response = respond(request, next).await;
            attempt.log_denial(&response);
            drop((permit, reservation));
            audit_log.flush().await;
            response
        });
        change.await.unwrap_or_else(|_| ApiError::Internal.into_response())
    }

    /// Reserves the resources of a change: one of [`MAX_CHANGES`] permits, and a place for its line in the audit log.
    fn reserve_change(&self) -> Result<(OwnedSemaphorePermit, Reservation), ApiError> {
        let permit = Arc::clone(&self.change_permits).try_acquire_owned();
        let permit = permit.map_err(|_| DenyReason::Overloaded)?;
        let reservation = self.audit_log.reserve().ok_or(ApiError::AuditUnavailable)?;
        Ok((permit, reservation))
    }

    /// Checks host and origin, and reads the body whole.
    async fn receive(&self, mut parts: Parts, body: Body) -> Result<Request, ApiError> {
        self.check_host(&mut parts)?;
        self.check_origin(&parts)?;
        let expects_continue = parts.headers.contains_key(EXPECT);
        let most = if parts.uri.path() == IMPORT_PATH { MAX_LINES_BYTES } else { MAX_BODY_BYTES };
        let body = tokio::time::timeout(BODY_TIMEOUT, read_body(body, most, expects_continue)).await;
        let body = body.map_err(|_| ApiError::BodyTimeout)??;
        Ok(Request::from_parts(parts, Body::from(body)))
    }

    /// Adds the headers of every response.
    fn add_headers(&self, response: &mut Response) {
        let status = response.status();
        let headers = response.headers_mut();
        // The page has a policy of its own; no other response is meant to be rendered.
        headers
            .entry(CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        for (name, value) in [
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
            (X_FRAME_OPTIONS, "DENY"),
            // No page that opened this one reads its address, which may hold a code of a provider.
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1 requires a challenge.  It does not offer `Basic`, which is accepted all the
            // same: a browser would open a password dialog of its own above the page's.
            let challenge = format!("Bearer realm=\"{}\"", self.authorizer.snapshot().realm);
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
    }
}

/// Reads a body of so many bytes at `most` whole.  The rest of one that is too large is discarded, because the client reads no response while it
/// sends; unless it waits for `100 Continue` (RFC 9110 section 10.1.1), which it does not get.
async fn read_body(body: Body, most: usize, expects_continue: bool) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    if expects_continue && announced > most as u64 {
        return Err(ApiError::BodyTooLarge);
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut received = 0;
    while let Some(chunk) = stream.next().await {
        // The connection broke, so the response is not read.
        let chunk = chunk.map_err(|_| ApiError::Malformed)?;
        received += chunk.len();
        if received <= most {
            bytes.extend_from_slice(&chunk);
        } else if received > MAX_DISCARDED_BYTES {
            return Err(ApiError::BodyTooLarge);
        }
    }
    if received > most { Err(ApiError::BodyTooLarge) } else { Ok(bytes.into()) }
}

/// Reads every body of the calls about keys, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_bodies(bytes: &[u8]) {
    keys::read_all(bytes);
}

/// Limits a call of the store to [`STORE_TIMEOUT`].
async fn with_store_timeout<T>(call: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(STORE_TIMEOUT, call).await.map_err(|_| ApiError::StoreTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::sync::atomic::{AtomicI64, Ordering};

    use crate::attributes::{Attributes, ClientAddress, Encoding, Header, Headers, Http};
    use crate::config::{Config, ProcessEnvironment, Source};
    use crate::identity::Sources;
    use crate::identity::passwords::Passwords;
    use crate::identity::people::People;
    use crate::keys::sessions::NewSessions;
    use crate::keys::{SessionScope, scoped_binding};
    use crate::person::{PersonId, PersonSource};
    use crate::snapshot::{Snapshot, SnapshotStore};
    use crate::token::TokenDigest;
    use axum::http::header::AUTHORIZATION;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    #[test]
    fn every_path_is_in_the_document() {
        let document = serde_json::to_value(openapi::document::document()).unwrap();
        let mut documented: Vec<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served: Vec<&str> = api().into_iter().map(|(path, _)| path).chain(["/"]).collect();
        documented.sort_unstable();
        served.sort_unstable();
        assert_eq!(documented, served);
        let operations = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|item| item.as_object().unwrap().values());
        let mut ids = std::collections::HashSet::new();
        for operation in operations {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "two operations are called {id}");
            let tags = document["tags"].as_array().unwrap();
            assert!(tags.iter().any(|tag| tag["name"] == operation["tags"][0]), "{operation}");
            assert!(operation["summary"].is_string(), "{operation}");
        }
        let body = |path: &str| &document["paths"][path]["post"]["requestBody"]["required"];
        assert_eq!(
            (body("/api/auth/keys"), body("/api/auth/keys/{id}/rotate")),
            (&json!(true), &json!(false))
        );
    }

    const CONFIG: &str = r#"
keys: {store: "sqlite:keys.db"}
admin: {}
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
default: {allow: {role: [Viewer, Editor, Admin]}}
"#;

    /// An admin server whose clock moves only by `advance`.
    struct TestServer {
        router: Router,
        admin: Arc<Admin>,
        keys: Arc<Keys>,
        authorizer: Arc<Authorizer>,
        now: Arc<AtomicI64>,
        _folder: tempfile::TempDir,
    }

    impl TestServer {
        async fn start() -> Self {
            Self::with_config(CONFIG).await
        }

        async fn with_config(config: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let now = Arc::new(AtomicI64::new(1_800_000_000_750));
            let time = Arc::clone(&now);
            let clock =
                Clock::from_fn(move || Timestamp::from_millisecond(time.load(Ordering::Relaxed)).unwrap());
            let file = folder.path().join("config.yaml");
            let source =
                Source { file: Path::new(&file), environment: &ProcessEnvironment, now: clock.now() };
            let config = Config::parse(config, &source).unwrap();
            let snapshot = Snapshot::build(&config, None).unwrap();
            let keys = Keys::open(&config.startup.keys.unwrap().url, clock.clone()).await.unwrap();
            let passwords = Passwords::new(1).unwrap();
            let people = People::new(clock.clone()).unwrap();
            let sources = Sources { passwords, people, keys: Some(Arc::clone(&keys)), clock: clock.clone() };
            let authorizer = Arc::new(Authorizer::new(SnapshotStore::new(snapshot), sources));
            let (authorizer_, keys_) = (Arc::clone(&authorizer), Arc::clone(&keys));
            let admin = Admin::new(authorizer_, keys_, clock, Transport::Plain, AuditLog::silent());
            let admin = Arc::new(admin);
            Self { router: router(Arc::clone(&admin)), admin, keys, authorizer, now, _folder: folder }
        }

        fn advance(&self, milliseconds: i64) {
            self.now.fetch_add(milliseconds, Ordering::Relaxed);
        }

        async fn call(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
            let request = Request::builder().method(method).uri(path).header("host", "localhost");
            let request = request.header("content-type", "application/json");
            let request = request.header(AUTHORIZATION, format!("Bearer {token}"));
            let request = request.body(Body::from(body.to_owned())).unwrap();
            let response = self.router.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
            (status, serde_json::from_slice(&bytes).unwrap())
        }

        async fn check(&self, token: &str) -> Result<(), DenyReason> {
            self.check_with("authorization", &format!("Bearer {token}")).await
        }

        async fn check_with(&self, name: &str, value: &str) -> Result<(), DenyReason> {
            let header = Header { name: name.as_bytes(), value: value.as_bytes() };
            let headers = Headers::new(Encoding::Lines, vec![header]);
            let http =
                Http { method: b"GET", host: b"h", path: b"/", headers, client: ClientAddress::UNKNOWN };
            let request = Attributes { http: Some(http), policy: None, misspelled_policy: None };
            self.authorizer.authorize(&request, None).await.verdict.map(|_| ())
        }

        async fn create(&self, body: Value) -> (i64, String) {
            let (status, made) = self.call("POST", "/api/auth/keys", ROOT, &body.to_string()).await;
            assert_eq!(status, 200, "{made}");
            (made["id"].as_i64().unwrap(), made["key"].as_str().unwrap().to_owned())
        }

        async fn names(&self) -> Vec<String> {
            let (_, list) = self.call("GET", "/api/auth/keys", ROOT, "").await;
            list.as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
        }
    }

    const ROOT: &str = "root-token-0123456789";

    #[tokio::test]
    async fn nothing_is_changed_when_the_audit_log_has_no_place_for_the_line() {
        let server = TestServer::start().await;
        let (id, _) = server.create(json!({"name": "a", "role": "Viewer"})).await;
        let reservations: Vec<_> = std::iter::from_fn(|| server.admin.audit_log.reserve()).collect();
        let key = format!("/api/auth/keys/{id}");
        for (method, path, body) in [
            ("POST", "/api/auth/keys", r#"{"name": "b", "role": "Viewer"}"#),
            ("POST", &*format!("{key}/revoke"), ""),
            ("POST", &*format!("{key}/rotate"), ""),
            ("DELETE", &*key, ""),
            ("POST", "/login", r#"{"user": "a", "password": "b"}"#),
        ] {
            let (status, response) = server.call(method, path, ROOT, body).await;
            let expected = json!({"message": "The audit log cannot be written: nothing was changed"});
            assert_eq!((status, response), (503, expected), "{method} {path}");
        }
        assert_eq!(server.names().await, ["a"]);
        drop(reservations);
        assert_eq!(server.call("DELETE", &key, ROOT, "").await.0, 200);
    }

    #[tokio::test]
    async fn a_change_too_many_is_denied_before_anything_is_done() {
        let server = TestServer::start().await;
        let permits = Arc::clone(&server.admin.change_permits);
        let held = permits.try_acquire_many(u32::try_from(MAX_CHANGES).unwrap()).unwrap();
        let create = || {
            let body = r#"{"name": "a", "role": "Viewer"}"#;
            server.call("POST", "/api/auth/keys", "root-token-0123456789", body)
        };
        let (status, body) = create().await;
        assert_eq!((status, body["message"].as_str()), (503, Some("Too many requests at once")));
        let listed = || server.call("GET", "/api/auth/keys", "root-token-0123456789", "");
        assert_eq!(listed().await, (200, json!([])), "what changes nothing goes on");
        drop(held);
        assert_eq!(create().await.0, 200);
    }

    #[tokio::test]
    async fn an_expired_key_is_dead_from_the_very_second_on_in_check_and_list_alike() {
        let server = TestServer::start().await;
        let (_, token) = server.create(json!({"name": "e", "role": "Editor", "secondsToLive": 60})).await;
        // 60 seconds of the clock's, counted from the second in which it was made.
        for (advance, alive) in [(0, true), (59_000, true), (249, true), (1, false), (1_000, false)] {
            server.advance(advance);
            let checked = server.check(&token).await;
            assert_eq!(checked.is_ok(), alive, "{checked:?}");
            assert_eq!(server.names().await.is_empty(), !alive);
            let (status, answer) = server.call("GET", "/api/auth/actor", &token, "").await;
            if alive {
                assert_eq!((status, &answer["role"]), (200, &json!("Editor")));
            } else {
                assert_eq!((status, answer), (401, json!({"message": "Expired API key"})));
            }
        }
        // Its name is free from that second on.
        server.create(json!({"name": "e", "role": "Editor"})).await;
    }

    #[tokio::test]
    async fn a_session_that_may_have_ended_counts_no_longer_than_a_key_that_may_have() {
        let server = TestServer::with_config(
            r#"
keys: {store: "sqlite:keys.db", max_staleness: 30s}
admin: {}
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
users: [{username: ada, password_hash: "$2b$04$abcdefghijklmnopqrstuuJHGGN8GWpy5lsqcHuHVVT0gH5fVj21S"}]
credentials: [bearer, session]
"#,
        )
        .await;
        let keys = &server.keys;
        let mut follower = tokio::spawn(Arc::clone(keys).follow());
        keys.first_read().await;
        let (_, key) = server.create(json!({"name": "k", "role": "Viewer"})).await;
        let password = server.authorizer.snapshot().users.get("ada").unwrap().password_digest;
        let open = async |binding: TokenDigest| {
            let person = PersonId { source: PersonSource::Config, subject: "ada".into() };
            let scope = SessionScope::Application;
            let bindings = vec![(scope, scoped_binding(&binding, scope))];
            let opened = keys
                .open_sessions(&NewSessions { person, bindings, claims: None, checked_at: None }, &[])
                .await;
            opened.unwrap().cookies.remove(0).1
        };
        let session = open(password).await;
        let gone = open(password).await;
        keys.close_session(&TokenDigest::of(gone.expose().as_bytes()), &[]).await.unwrap();
        let outdated = open(TokenDigest::of(b"another")).await;
        let cookie = async |value: &str| server.check_with("cookie", &format!("eat_app={value}")).await;
        let unavailable = Err(DenyReason::KeysUnavailable);
        let none = Err(DenyReason::NoCredential);

        follower.abort();
        assert!((&mut follower).await.unwrap_err().is_cancelled());
        // To the last millisecond, and not one longer.
        for (advance, live, unknown) in [(30_000, Ok(()), none), (1, unavailable, unavailable)] {
            server.advance(advance);
            assert_eq!(server.check(&key).await, live);
            assert_eq!(cookie(session.expose()).await, live);
            assert_eq!(cookie(gone.expose()).await, unknown);
            // Known to be dead, and what cannot be one of ours.
            assert_eq!(cookie(outdated.expose()).await, none);
            assert_eq!(cookie("an-old-cookie").await, none);
            assert_eq!(server.check(ROOT).await, Ok(()));
        }
        let (status, answer) = server.call("GET", "/api/auth/actor", &key, "").await;
        assert_eq!((status, answer), (503, json!({"message": "Keys are unavailable"})));

        let follower = tokio::spawn(Arc::clone(keys).follow());
        while cookie(session.expose()).await == unavailable {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(cookie(session.expose()).await, Ok(()));
        assert_eq!(cookie(gone.expose()).await, none);
        follower.abort();
    }

    #[tokio::test]
    async fn a_replaced_secret_is_dead_when_its_overlap_or_its_key_is_over() {
        let server = TestServer::start().await;
        let (id, old) = server.create(json!({"name": "e", "role": "Editor", "secondsToLive": 100})).await;
        let path = format!("/api/auth/keys/{id}/rotate");
        let (_, made) = server.call("POST", &path, ROOT, r#"{"overlapSeconds": 10}"#).await;
        let new = made["key"].as_str().unwrap().to_owned();
        server.advance(9_000);
        assert!(server.check(&old).await.is_ok() && server.check(&new).await.is_ok());
        server.advance(1_000);
        assert_eq!(server.check(&old).await, Err(DenyReason::ExpiredToken));
        let (_, made) = server.call("POST", &path, ROOT, r#"{"overlapSeconds": 604800}"#).await;
        let newest = made["key"].as_str().unwrap().to_owned();
        server.advance(89_000);
        assert!(server.check(&new).await.is_ok() && server.check(&newest).await.is_ok());
        server.advance(1_000);
        for token in [&new, &newest] {
            assert_eq!(server.check(token).await, Err(DenyReason::ExpiredToken));
        }
        assert_eq!(server.call("POST", &path, ROOT, "").await.0, 409);
    }
}
