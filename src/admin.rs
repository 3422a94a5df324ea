//! The door for whoever manages keys: Grafana's key API, log-in and log-out, and the page, over HTTP/1.
//!
//! Everything that comes in passes `guard` first, which holds what is true of every request: it ends in
//! time, its body is small, no other site caused it when it can change something, a panic is an answer, a
//! denied change is told in the audit log, and every answer has its security headers.  There is no CORS: only the page itself calls us from a browser.

mod address;
mod audit;
pub mod auth;
pub(crate) mod body;
pub mod error;
mod grafana;
mod host;
pub mod keys;
pub mod openapi;
pub mod page;
mod power;
pub mod session;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, EXPECT, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::authorizer::Authorizer;
use crate::clock::Clock;
use crate::config::Transport;
use crate::deny_reason::DenyReason;
use crate::keys::service::Keys;
use crate::server::connection_limit::LimitedListener;
use crate::server::http1;
use crate::server::tls::Acceptor;
use crate::shutdown::Closing;
use crate::telemetry::audit_log::AuditLog;
use audit::Attempt;
use error::ApiError;

/// The largest body of a request, in bytes.
const MOST_BYTES: usize = 64 * 1024;
/// So much of a larger body is read and thrown away: whoever is still sending does not hear the answer.
const MOST_THROWN_AWAY: usize = 32 * 1024 * 1024;
/// How long a request may take to arrive, and how long a store may take to answer.
const LONGEST: Duration = Duration::from_secs(10);
/// Changes, log-ins and log-outs that are carried out at a time, those included whose client has gone.
const MAX_CHANGES: usize = 256;
/// Connections that are open at a time.
pub const MAX_CONNECTIONS: usize = 256;

/// Manages keys and sessions.
pub struct Admin {
    authorizer: Arc<Authorizer>,
    keys: Arc<Keys>,
    clock: Clock,
    transport: Transport,
    changes: TaskTracker,
    change_permits: Arc<Semaphore>,
    audit_log: AuditLog,
}

impl Admin {
    /// An admin of these keys, behind a listener that speaks this.  Who may, and from which origin, it reads
    /// from the authorizer's rules.
    pub fn new(
        authorizer: Arc<Authorizer>,
        keys: Arc<Keys>,
        clock: Clock,
        transport: Transport,
        audit_log: AuditLog,
    ) -> Self {
        let (changes, change_permits) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CHANGES)));
        Self { authorizer, keys, clock, transport, changes, change_permits, audit_log }
    }
}

/// Serves the API and the page, over TLS where there is an acceptor, until it is time to close; then lets the
/// requests in flight finish, and the changes whose client has gone.
pub async fn serve(
    listener: LimitedListener,
    tls: Option<Arc<Acceptor>>,
    admin: Arc<Admin>,
    closing: Closing,
) {
    http1::serve(listener, tls, router(Arc::clone(&admin)), closing).await;
    admin.changes.close();
    admin.changes.wait().await;
}

/// Every path of the API and what answers there.
fn api() -> Vec<(&'static str, MethodRouter<Arc<Admin>>)> {
    vec![
        ("/api/auth/keys", get(keys::list).post(keys::create)),
        ("/api/auth/keys/{id}", get(keys::show).delete(keys::delete)),
        ("/api/auth/keys/{id}/revoke", post(keys::revoke)),
        ("/api/auth/keys/{id}/rotate", post(keys::rotate)),
        ("/api/auth/actor", get(auth::show_actor)),
        ("/api/health", get(grafana::health)),
        ("/api/org", get(grafana::org)),
        ("/api/user", get(grafana::user)),
        ("/api/login/ping", get(grafana::ping)),
        ("/api/frontend/settings", get(grafana::settings)),
        ("/login", post(session::log_in)),
        ("/logout", post(session::log_out)),
        ("/openapi.json", get(openapi::show)),
    ]
}

fn router(admin: Arc<Admin>) -> Router {
    let api = api().into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    api.merge(page::routes())
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin)
}

/// What is true of every request and every answer.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let attempt = Attempt::begin(&admin, &mut parts);
    let admitted = match admin.admit(parts, body).await {
        Ok(request) => request,
        Err(error) => {
            let mut response = error.into_response();
            if let Some(attempt) = attempt {
                attempt.end(&response);
            }
            admin.put_headers(&mut response);
            return response;
        }
    };
    let mut response = match attempt {
        Some(attempt) => admin.carry_out(attempt, admitted, next).await,
        None => answer(admitted, next).await,
    };
    admin.put_headers(&mut response);
    response
}

/// The answer of a handler; a panic is one.
async fn answer(request: Request, next: Next) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| ApiError::Internal.into_response())
}

impl Admin {
    /// Carries out a change whole, with its line in the audit log, whether or not the client is still there: hyper
    /// drops what it is doing for a client that hangs up.  Nothing begins for which the audit log has no place, and the
    /// answer waits a little for the line to be written.
    async fn carry_out(&self, attempt: Attempt, request: Request, next: Next) -> Response {
        let begun = Arc::clone(&self.change_permits).try_acquire_owned();
        let begun = begun.map_err(|_| ApiError::from(DenyReason::Overloaded));
        let begun = begun.and_then(|permit| {
            let place = self.audit_log.reserve().ok_or(ApiError::AuditUnavailable)?;
            Ok((permit, place))
        });
        let (permit, place) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                let response = error.into_response();
                attempt.end(&response);
                return response;
            }
        };
        let audit_log = self.audit_log.clone();
        let change = self.changes.spawn(async move {
            let response = answer(request, next).await;
            attempt.end(&response);
            drop((permit, place));
            audit_log.flush().await;
            response
        });
        change.await.unwrap_or_else(|_| ApiError::Internal.into_response())
    }

    /// What holds for every request before somebody looks at it; gives it back with its body, which has arrived whole.
    async fn admit(&self, parts: Parts, body: Body) -> Result<Request, ApiError> {
        self.check_host(&parts)?;
        self.check_origin(&parts)?;
        let expects = parts.headers.contains_key(EXPECT);
        let body =
            tokio::time::timeout(LONGEST, read(body, expects)).await.map_err(|_| ApiError::TooSlow)??;
        Ok(Request::from_parts(parts, Body::from(body)))
    }

    fn put_headers(&self, response: &mut Response) {
        let status = response.status();
        let headers = response.headers_mut();
        // The page has a policy of its own; nothing else of ours is to be looked at as a page.
        headers
            .entry(CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
        for (name, value) in [
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CACHE_CONTROL, "no-store"),
            (X_FRAME_OPTIONS, "DENY"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 section 11.6.1 wants a challenge.  `Basic` is taken and yet not named:
            // a browser would ask for a password in a window of its own, over the page's.
            let challenge = format!("Bearer realm=\"{}\"", self.authorizer.rules().realm);
            if let Ok(challenge) = HeaderValue::from_str(&challenge) {
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
        }
    }
}

/// Reads a body whole.  Of one that is too large the rest is thrown away, because whoever is sending does not
/// listen yet; unless they wait for leave to send it (RFC 9110 section 10.1.1), which they do not get.
async fn read(body: Body, expects: bool) -> Result<Bytes, ApiError> {
    let announced = body.size_hint().lower();
    if expects && announced > MOST_BYTES as u64 {
        return Err(ApiError::TooLarge);
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut seen = 0;
    while let Some(chunk) = stream.next().await {
        // The connection broke: nobody hears the answer.
        let chunk = chunk.map_err(|_| ApiError::Malformed)?;
        seen += chunk.len();
        if seen <= MOST_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if seen > MOST_THROWN_AWAY {
            return Err(ApiError::TooLarge);
        }
    }
    if seen > MOST_BYTES { Err(ApiError::TooLarge) } else { Ok(bytes.into()) }
}

/// Waits for the store, and not for ever.
async fn within<T>(asking: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(LONGEST, asking).await.map_err(|_| ApiError::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;
    use std::sync::atomic::{AtomicI64, Ordering};

    use axum::http::header::AUTHORIZATION;
    use jiff::Timestamp;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use crate::attributes::{Attributes, Encoding, Header, Headers, Http};
    use crate::config::{Config, ProcessEnvironment, Source};
    use crate::identity::Sources;
    use crate::identity::passwords::Passwords;

    #[test]
    fn every_path_is_in_the_document() {
        let document = openapi::document();
        let mut documented: Vec<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let mut served: Vec<&str> = api().into_iter().map(|(path, _)| path).chain(["/"]).collect();
        documented.sort_unstable();
        served.sort_unstable();
        assert_eq!(documented, served);
    }

    const CONFIG: &str = r#"
keys: {store: "sqlite:keys.db"}
admin: {}
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
default: {allow: {role: [Viewer, Editor, Admin]}}
"#;

    /// An admin whose clock stands until it is moved.
    struct Stage {
        router: Router,
        admin: Arc<Admin>,
        keys: Arc<Keys>,
        authorizer: Arc<Authorizer>,
        now: Arc<AtomicI64>,
        _folder: tempfile::TempDir,
    }

    impl Stage {
        async fn set() -> Self {
            Self::with(CONFIG).await
        }

        async fn with(config: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let now = Arc::new(AtomicI64::new(1_800_000_000_750));
            let time = Arc::clone(&now);
            let clock =
                Clock::from_fn(move || Timestamp::from_millisecond(time.load(Ordering::Relaxed)).unwrap());
            let file = folder.path().join("config.yaml");
            let source =
                Source { file: Path::new(&file), environment: &ProcessEnvironment, now: clock.now() };
            let Config { startup, rules, .. } = Config::parse(config, &source).unwrap();
            let keys = Keys::open(&startup.keys.unwrap(), clock.clone()).await.unwrap();
            let passwords = Passwords::new(1).unwrap();
            let sources = Sources { passwords, keys: Some(Arc::clone(&keys)), clock: clock.clone() };
            let authorizer = Arc::new(Authorizer::new(rules, sources));
            let (authorizer_, keys_) = (Arc::clone(&authorizer), Arc::clone(&keys));
            let admin = Admin::new(authorizer_, keys_, clock, Transport::Plain, AuditLog::silent());
            let admin = Arc::new(admin);
            Self { router: router(Arc::clone(&admin)), admin, keys, authorizer, now, _folder: folder }
        }

        fn pass(&self, milliseconds: i64) {
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

        async fn check(&self, token: &str) -> Result<(), crate::deny_reason::DenyReason> {
            self.check_with("authorization", &format!("Bearer {token}")).await
        }

        async fn check_with(&self, name: &str, value: &str) -> Result<(), crate::deny_reason::DenyReason> {
            let header = Header { name: name.as_bytes(), value: value.as_bytes() };
            let headers = Headers::new(Encoding::Lines, vec![header]);
            let http = Http { method: b"GET", host: b"h", path: b"/", headers };
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
    async fn nothing_is_changed_for_which_the_audit_log_has_no_place() {
        let stage = Stage::set().await;
        let (id, _) = stage.create(json!({"name": "a", "role": "Viewer"})).await;
        let places: Vec<_> = std::iter::from_fn(|| stage.admin.audit_log.reserve()).collect();
        let key = format!("/api/auth/keys/{id}");
        for (method, path, body) in [
            ("POST", "/api/auth/keys", r#"{"name": "b", "role": "Viewer"}"#),
            ("POST", &*format!("{key}/revoke"), ""),
            ("POST", &*format!("{key}/rotate"), ""),
            ("DELETE", &*key, ""),
            ("POST", "/login", r#"{"user": "a", "password": "b"}"#),
        ] {
            let (status, told) = stage.call(method, path, ROOT, body).await;
            let expected = json!({"message": "The audit log cannot be written: nothing was changed"});
            assert_eq!((status, told), (503, expected), "{method} {path}");
        }
        assert_eq!(stage.names().await, ["a"]);
        drop(places);
        assert_eq!(stage.call("DELETE", &key, ROOT, "").await.0, 200);
    }

    #[tokio::test]
    async fn a_change_too_many_is_denied_before_anything_is_done() {
        let stage = Stage::set().await;
        let permits = Arc::clone(&stage.admin.change_permits);
        let held = permits.try_acquire_many(u32::try_from(MAX_CHANGES).unwrap()).unwrap();
        let create = || {
            let body = r#"{"name": "a", "role": "Viewer"}"#;
            stage.call("POST", "/api/auth/keys", "root-token-0123456789", body)
        };
        let (status, body) = create().await;
        assert_eq!((status, body["message"].as_str()), (503, Some("Too many requests at once")));
        let listed = || stage.call("GET", "/api/auth/keys", "root-token-0123456789", "");
        assert_eq!(listed().await, (200, json!([])), "what changes nothing goes on");
        drop(held);
        assert_eq!(create().await.0, 200);
    }

    #[tokio::test]
    async fn an_expired_key_is_dead_from_the_very_second_on_in_check_and_list_alike() {
        let stage = Stage::set().await;
        let (_, token) = stage.create(json!({"name": "e", "role": "Editor", "secondsToLive": 60})).await;
        // 60 seconds of the clock's, counted from the second in which it was made.
        for (pass, alive) in [(0, true), (59_000, true), (249, true), (1, false), (1_000, false)] {
            stage.pass(pass);
            let checked = stage.check(&token).await;
            assert_eq!(checked.is_ok(), alive, "{checked:?}");
            assert_eq!(stage.names().await.is_empty(), !alive);
            let (status, answer) = stage.call("GET", "/api/auth/actor", &token, "").await;
            if alive {
                assert_eq!((status, &answer["role"]), (200, &json!("Editor")));
            } else {
                assert_eq!((status, answer), (401, json!({"message": "Expired API key"})));
            }
        }
        // Its name is free from that second on.
        stage.create(json!({"name": "e", "role": "Editor"})).await;
    }

    #[tokio::test]
    async fn a_session_that_may_have_ended_counts_no_longer_than_a_key_that_may_have() {
        let stage = Stage::with(
            r#"
keys: {store: "sqlite:keys.db", max_staleness: 30s}
admin: {}
tokens: [{token: root-token-0123456789, actor: {id: root, role: Admin}}]
users: [{username: ada, password_hash: "$2b$04$abcdefghijklmnopqrstuuJHGGN8GWpy5lsqcHuHVVT0gH5fVj21S"}]
credentials: [bearer, session]
"#,
        )
        .await;
        let keys = &stage.keys;
        let mut follower = tokio::spawn(Arc::clone(keys).follow());
        keys.first_read().await;
        let (_, key) = stage.create(json!({"name": "k", "role": "Viewer"})).await;
        let password = stage.authorizer.rules().users.get("ada").unwrap().password_digest;
        let session = keys.open_session("ada", &password).await.unwrap().cookie;
        let gone = keys.open_session("ada", &password).await.unwrap().cookie;
        keys.close_session(&crate::token::PlainToken::new(gone.expose().as_bytes()).unwrap().digest())
            .await
            .unwrap();
        let outdated =
            keys.open_session("ada", &crate::token::TokenDigest::of(b"another")).await.unwrap().cookie;
        let cookie = async |value: &str| stage.check_with("cookie", &format!("eat_session={value}")).await;
        let unavailable = Err(crate::deny_reason::DenyReason::KeysUnavailable);
        let none = Err(crate::deny_reason::DenyReason::NoCredential);

        follower.abort();
        assert!((&mut follower).await.unwrap_err().is_cancelled());
        // To the last millisecond, and not one longer.
        for (pass, live, unknown) in [(30_000, Ok(()), none), (1, unavailable, unavailable)] {
            stage.pass(pass);
            assert_eq!(stage.check(&key).await, live);
            assert_eq!(cookie(session.expose()).await, live);
            assert_eq!(cookie(gone.expose()).await, unknown);
            // Known to be dead, and what cannot be one of ours.
            assert_eq!(cookie(outdated.expose()).await, none);
            assert_eq!(cookie("an-old-cookie").await, none);
            assert_eq!(stage.check(ROOT).await, Ok(()));
        }
        let (status, answer) = stage.call("GET", "/api/auth/actor", &key, "").await;
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
        let stage = Stage::set().await;
        let (id, old) = stage.create(json!({"name": "e", "role": "Editor", "secondsToLive": 100})).await;
        let path = format!("/api/auth/keys/{id}/rotate");
        let (_, made) = stage.call("POST", &path, ROOT, r#"{"overlapSeconds": 10}"#).await;
        let new = made["key"].as_str().unwrap().to_owned();
        stage.pass(9_000);
        assert!(stage.check(&old).await.is_ok() && stage.check(&new).await.is_ok());
        stage.pass(1_000);
        assert_eq!(stage.check(&old).await, Err(crate::deny_reason::DenyReason::ExpiredToken));
        let (_, made) = stage.call("POST", &path, ROOT, r#"{"overlapSeconds": 604800}"#).await;
        let newest = made["key"].as_str().unwrap().to_owned();
        stage.pass(89_000);
        assert!(stage.check(&new).await.is_ok() && stage.check(&newest).await.is_ok());
        stage.pass(1_000);
        for token in [&new, &newest] {
            assert_eq!(stage.check(token).await, Err(crate::deny_reason::DenyReason::ExpiredToken));
        }
        assert_eq!(stage.call("POST", &path, ROOT, "").await.0, 409);
    }
}
