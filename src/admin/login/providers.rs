//! Log-in at a provider: the beginning and the callback.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};

use super::attempt::{ATTEMPT_TTL, Attempt, AttemptError};
use super::html::{self, Depth};
use super::options::ReturnQuery;
use crate::admin::audit::ChangeAttempt;
use crate::admin::body::parameter;
use crate::admin::error::{ApiError, Failure};
use crate::admin::host::RequestHost;
use crate::admin::{Admin, auth, with_store_timeout};
use crate::config::{LoginHost, ProviderSettings};
use crate::identity::people::{PersonRejection, providers};
use crate::keys::attempts::SealingKey;
use crate::provider::{AuthorizationRequest, ProviderError, Redemption};
use crate::snapshot::Snapshot;

/// Begin a log-in at a provider
///
/// The browser is sent to the provider, which sends it back to the callback.
#[utoipa::path(
    get,
    path = "/login/{name}",
    operation_id = "beginLogIn",
    tag = "session",
    security(()),
    params(
        ("name" = String, Path, description = "The provider's name"),
        ("return_to" = Option<String>, Query, description = "Where the browser wants to go on to"),
    ),
    responses(
        (
            status = SEE_OTHER, description = "To the provider",
            headers(("Location" = String), ("Set-Cookie" = String, description = "The attempt, for ten minutes"))
        ),
        (status = NOT_FOUND, description = "There is no such provider: a page says so", body = String, content_type = "text/html"),
        (
            status = SERVICE_UNAVAILABLE, description = "The provider or the store does not answer, or too many people log in at once: \
                a page says so", body = String, content_type = "text/html"
        ),
    ),
)]
pub(in crate::admin) async fn begin(
    State(admin): State<Arc<Admin>>,
    RequestHost(host): RequestHost,
    audit: ChangeAttempt,
    Path(name): Path<String>,
    ReturnQuery(return_to): ReturnQuery,
    parts: Parts,
) -> Response {
    let snapshot = admin.authorizer.snapshot();
    let Some(log_in) = LogIn::new(&admin, &snapshot, host, &name, Depth::Begin) else {
        return no_such_provider(Depth::Begin);
    };
    audit.set_source(&log_in.settings.name);
    let return_to = return_to.and_then(|address| admin.return_hosts().parse(&address, log_in.host.as_ref()));
    match log_in.begin(return_to, &parts).await {
        Ok((url, cookies)) => (StatusCode::SEE_OTHER, [(LOCATION, url)], cookies).into_response(),
        Err(error) => log_in.failed(&error).into_response(),
    }
}

/// Finish a log-in at a provider
///
/// The provider sends the browser here.
#[utoipa::path(
    get,
    path = "/login/{name}/callback",
    operation_id = "finishLogIn",
    tag = "session",
    security(()),
    params(
        ("name" = String, Path, description = "The provider's name"),
        ("code" = Option<String>, Query, description = "What is redeemed at the provider"),
        ("state" = Option<String>, Query, description = "The attempt"),
        ("iss" = Option<String>, Query, description = "The provider's issuer (RFC 9207)"),
        ("error" = Option<String>, Query, description = "The provider's reason for denying the log-in"),
    ),
    responses(
        (
            status = OK, description = "A page that goes on by itself", body = String, content_type = "text/html",
            headers(("Set-Cookie" = String, description = "The session, once for each cookie; the attempt is cleared"))
        ),
        (status = BAD_REQUEST, description = "It belongs to no attempt of this browser", body = String, content_type = "text/html"),
        (status = FORBIDDEN, description = "The provider or the configuration does not let the person in", body = String, content_type = "text/html"),
        (status = NOT_FOUND, description = "There is no such provider", body = String, content_type = "text/html"),
        (status = SERVICE_UNAVAILABLE, description = "The provider or the store does not answer", body = String, content_type = "text/html"),
    ),
)]
pub(in crate::admin) async fn callback(
    State(admin): State<Arc<Admin>>,
    RequestHost(host): RequestHost,
    audit: ChangeAttempt,
    Path(name): Path<String>,
    parts: Parts,
) -> Response {
    let snapshot = admin.authorizer.snapshot();
    let Some(log_in) = LogIn::new(&admin, &snapshot, host, &name, Depth::Callback) else {
        return no_such_provider(Depth::Callback);
    };
    audit.set_source(&log_in.settings.name);
    let query = parts.uri.query().unwrap_or_default();
    let state = parameter(query, "state").unwrap_or_default();
    let attempt = match log_in.attempt(&state, &parts).await {
        Ok(attempt) => attempt,
        Err(error) => return log_in.failed(&error),
    };
    // It is over, however it ends.
    let cleared = admin.attempt_cookie(&attempt.cookie_name(admin.attempt_prefix()), "", 0);
    match log_in.finish(&attempt, &parts, &audit).await {
        Ok(page) => (AppendHeaders([cleared]), page).into_response(),
        Err(error) => (AppendHeaders([cleared]), log_in.failed(&error)).into_response(),
    }
}

/// A log-in at a provider, at either of its two requests.
struct LogIn<'r> {
    admin: &'r Admin,
    snapshot: &'r Snapshot,
    settings: &'r Arc<ProviderSettings>,
    host: Option<LoginHost>,
    depth: Depth,
}

/// Why a log-in cannot continue.
#[derive(Debug, thiserror::Error)]
enum LogInError {
    #[error("too many log-ins at the same time")]
    TooMany,
    #[error("the request is not a navigation of a browser")]
    NotNavigated,
    #[error("it does not belong to a log-in that this browser began")]
    Attempt(AttemptError),
    #[error("its state was used before")]
    Used,
    /// The provider sent the browser back with an error (RFC 6749 section 4.1.2.1).
    #[error("the provider says {0}")]
    Denied(&'static str),
    #[error("the provider sent neither a code nor an error")]
    NoCode,
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the person may not log in: {}", .0.as_str())]
    Rejected(PersonRejection),
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Errors of a provider's answer to a browser; every other text is `other`.
const PROVIDER_ERRORS: [&str; 12] = [
    "access_denied",
    "invalid_request",
    "unauthorized_client",
    "unsupported_response_type",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "interaction_required",
    "login_required",
    "account_selection_required",
    "consent_required",
    "invalid_request_object",
];

impl LogInError {
    /// The HTTP status and the reason for the audit log.
    fn answer(&self) -> Failure {
        let (status, reason) = match self {
            Self::TooMany => (StatusCode::SERVICE_UNAVAILABLE, "too_many_log_ins"),
            Self::NotNavigated => (StatusCode::FORBIDDEN, "not_navigated"),
            Self::Attempt(AttemptError::Unknown) => (StatusCode::BAD_REQUEST, "unknown_attempt"),
            Self::Attempt(AttemptError::Expired) => (StatusCode::BAD_REQUEST, "expired_attempt"),
            Self::Attempt(AttemptError::Other) => (StatusCode::BAD_REQUEST, "other_attempt"),
            Self::Used => (StatusCode::BAD_REQUEST, "used_attempt"),
            Self::Denied("server_error" | "temporarily_unavailable") => {
                (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable")
            }
            Self::Denied(_) => (StatusCode::FORBIDDEN, "provider_denied"),
            Self::NoCode => (StatusCode::BAD_REQUEST, "no_code"),
            Self::Provider(error) if error.is_outage() => (StatusCode::SERVICE_UNAVAILABLE, error.reason()),
            Self::Provider(error) => (StatusCode::FORBIDDEN, error.reason()),
            Self::Rejected(reason) => (StatusCode::FORBIDDEN, reason.as_str()),
            Self::Api(error) => return error.failure(),
        };
        Failure { status, reason }
    }

    /// The text for the person.
    fn text(&self, label: &str) -> String {
        match self {
            Self::TooMany => "Too many people log in at once.  Try again in a moment.".to_owned(),
            Self::NotNavigated => "A log-in begins by a link.".to_owned(),
            Self::Api(ApiError::ReadOnly) => {
                "Log-in is not possible here: this server only reads the key store.".to_owned()
            }
            Self::Attempt(_) | Self::Used => {
                "This log-in is over, or it began in another browser.  Begin again.".to_owned()
            }
            Self::Denied("server_error" | "temporarily_unavailable") => {
                format!("Log-in with {label} is not possible at the moment.  Try again later.")
            }
            Self::Denied("access_denied") => format!("{label} did not let you in, or you cancelled."),
            Self::Denied(_) | Self::NoCode => {
                format!("{label} did not accept the log-in.  An administrator finds the reason in the log.")
            }
            Self::Provider(error) if error.is_outage() => {
                format!("{label} does not answer as it should.  Try again in a while.")
            }
            Self::Provider(_) => {
                format!(
                    "What {label} said cannot be accepted.  An administrator finds the reason in the log."
                )
            }
            Self::Rejected(reason) => match reason {
                PersonRejection::NoRole => {
                    format!(
                        "{label} knows you, but nothing of what it says gives you access here.  Ask an administrator."
                    )
                }
                PersonRejection::EmailNotVerified => {
                    format!("{label} has not verified your email address, which is needed here.")
                }
                PersonRejection::OtherDomain => {
                    "People with an email address of your domain have no access here.".to_owned()
                }
                PersonRejection::NoId
                | PersonRejection::NotOneId
                | PersonRejection::ReservedId
                | PersonRejection::ConfiguredId
                | PersonRejection::IllegalId
                | PersonRejection::IllegalActor
                | PersonRejection::TooLarge => {
                    format!(
                        "{label} knows you, but what it says of you cannot be used here.  Ask an administrator."
                    )
                }
            },
            Self::Api(ApiError::Store(_) | ApiError::StoreTimeout) => {
                "Log-in is not possible at the moment: the key store does not answer.  Try again later."
                    .to_owned()
            }
            Self::Api(error) => format!("{error}."),
        }
    }
}

impl<'r> LogIn<'r> {
    /// The log-in at the provider of this name; `None` when there is none.
    fn new(
        admin: &'r Admin,
        snapshot: &'r Snapshot,
        host: Option<LoginHost>,
        name: &str,
        depth: Depth,
    ) -> Option<Self> {
        let settings = snapshot.provider(&name.parse().ok()?)?;
        Some(Self { admin, snapshot, settings, host, depth })
    }

    async fn begin(
        &self,
        return_to: Option<String>,
        parts: &Parts,
    ) -> Result<(String, AppendHeaders<Vec<(HeaderName, HeaderValue)>>), LogInError> {
        let admin = self.admin;
        if admin.keys.is_read_only() {
            return Err(ApiError::ReadOnly.into());
        }
        // An image or a script on another site cannot start a log-in.
        let mode = parts.headers.get("sec-fetch-mode");
        if mode.is_some_and(|mode| mode != "navigate") {
            return Err(LogInError::NotNavigated);
        }
        if !admin.log_in_limiter.admit() {
            return Err(LogInError::TooMany);
        }
        let _permit = admin.log_in_permits.try_acquire().map_err(|_| LogInError::TooMany)?;
        let (key, now) = (self.sealing_key().await?, admin.clock.now());
        let host = self.host.as_ref().map(LoginHost::authority);
        let attempt = Attempt::begin(self.settings, host, return_to, now).map_err(|_| ApiError::Internal)?;
        let request = AuthorizationRequest {
            redirect_uri: &self.redirect_uri()?,
            state: &attempt.state,
            nonce: &attempt.nonce,
            verifier: &attempt.verifier,
        };
        let url = admin.providers.authorization_url(self.settings, &request).await?;
        let prefix = admin.attempt_prefix();
        let superfluous = Attempt::superfluous(&auth::headers(&parts.headers), prefix, key.expose(), now);
        let mut cookies: Vec<_> = superfluous.iter().map(|name| admin.attempt_cookie(name, "", 0)).collect();
        let name = attempt.cookie_name(prefix);
        let value = attempt.seal(key.expose(), &name).map_err(|_| ApiError::Internal)?;
        cookies.push(admin.attempt_cookie(&name, &value, ATTEMPT_TTL.as_secs()));
        Ok((url, AppendHeaders(cookies)))
    }

    /// The attempt of this state.  From now on it is used.
    async fn attempt(&self, state: &str, parts: &Parts) -> Result<Attempt, LogInError> {
        let (key, headers) = (self.sealing_key().await?, auth::headers(&parts.headers));
        let host = self.host.as_ref().map(LoginHost::authority);
        let (prefix, now) = (self.admin.attempt_prefix(), self.admin.clock.now());
        let attempt = Attempt::find(&headers, prefix, state, self.settings, host, key.expose(), now);
        let attempt = attempt.map_err(LogInError::Attempt)?;
        let is_first = with_store_timeout(self.admin.keys.use_state(&attempt.state_digest())).await?;
        if is_first.map_err(ApiError::from)? { Ok(attempt) } else { Err(LogInError::Used) }
    }

    async fn finish(
        &self,
        attempt: &Attempt,
        parts: &Parts,
        audit: &ChangeAttempt,
    ) -> Result<Response, LogInError> {
        let admin = self.admin;
        let query = parts.uri.query().unwrap_or_default();
        let _permit = admin.log_in_permits.try_acquire().map_err(|_| LogInError::TooMany)?;
        let issuer = parameter(query, "iss");
        admin.providers.check_issuer(self.settings, issuer.as_deref()).await?;
        if let Some(error) = parameter(query, "error") {
            let known = PROVIDER_ERRORS.into_iter().find(|known| *known == error);
            return Err(LogInError::Denied(known.unwrap_or("other")));
        }
        let code = parameter(query, "code").filter(|code| !code.is_empty()).ok_or(LogInError::NoCode)?;
        let redemption = Redemption {
            code: &code,
            redirect_uri: &self.redirect_uri()?,
            verifier: &attempt.verifier,
            nonce: &attempt.nonce,
        };
        let asked_at = admin.clock.now();
        let claims = admin.providers.redeem(self.settings, &redemption).await?;
        if let Ok(subject) = providers::subject_of(&claims, self.settings) {
            audit.set_user(&subject.into());
        }
        let names = claims.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let principal = providers::user_of(claims, asked_at, self.settings, self.snapshot);
        if let Err(reason) = &principal {
            let provider = self.settings.name.as_str();
            tracing::warn!(
                provider,
                reason = reason.as_str(),
                claims = names,
                "a person of a provider may not log in"
            );
        }
        let principal = Arc::new(principal.map_err(LogInError::Rejected)?);
        let opened =
            admin.open_sessions(&principal, self.snapshot, self.host.as_ref(), &parts.headers, audit);
        let cookies = opened.await?;
        Ok((cookies, self.going_on(attempt.return_to.as_deref())).into_response())
    }

    /// The page after a log-in.
    fn going_on(&self, return_to: Option<&str>) -> Response {
        let (root, hosts) = (self.depth.root(), self.admin.return_hosts());
        // The rules may have changed since the attempt started.
        let return_to = return_to.and_then(|address| hosts.parse(address, self.host.as_ref()));
        match return_to.as_deref() {
            Some(address) if hosts.receives_cookie(address, self.host.as_ref()) => {
                html::going_on(self.depth, address)
            }
            // The log-in page says why the browser is not sent back.
            Some(address) => {
                let query = format!(
                    "return_to={}",
                    percent_encoding::utf8_percent_encode(address, percent_encoding::NON_ALPHANUMERIC)
                );
                html::going_on(self.depth, &format!("{root}login?{query}"))
            }
            None if self.host.is_some() => html::going_on(self.depth, "/"),
            None => html::going_on(self.depth, root),
        }
    }

    fn failed(&self, error: &LogInError) -> Response {
        let failure = error.answer();
        // Other errors are only in the audit log, which merges the lines that any client can cause.
        if matches!(error, LogInError::Provider(_) | LogInError::Denied(_)) {
            tracing::warn!(provider = self.settings.name.as_str(), reason = %error, "a log-in at a provider \
                failed");
        }
        let try_again = format!("{}login", self.depth.root());
        html::failure(self.depth, failure, &error.text(&self.settings.label), &try_again)
    }

    async fn sealing_key(&self) -> Result<Arc<SealingKey>, LogInError> {
        let key = with_store_timeout(self.admin.keys.sealing_key()).await?;
        Ok(key.map_err(ApiError::from)?)
    }

    /// The address to which the provider sends the browser: it is fixed by the configuration, and registered there.
    fn redirect_uri(&self) -> Result<String, LogInError> {
        let admin = self.snapshot.admin.as_ref();
        let url = admin.and_then(|admin| admin.public_url.as_ref()).ok_or(ApiError::Internal)?;
        let base = match &self.host {
            Some(host) => format!("{}://{}", url.scheme(), host.authority()),
            None => url.to_string(),
        };
        Ok(format!("{base}/login/{}/callback", self.settings.name))
    }
}

/// A page that says that no provider has this name.
fn no_such_provider(depth: Depth) -> Response {
    let failure = Failure { status: StatusCode::NOT_FOUND, reason: "unknown_provider" };
    html::failure(depth, failure, "There is no such way to log in.", &format!("{}login", depth.root()))
}

impl Admin {
    /// The beginning of the names of attempts' cookies.
    pub(super) fn attempt_prefix(&self) -> &'static str {
        let [host, plain] = crate::credential::stripping::LOG_IN_COOKIES;
        if self.is_secure() { host } else { plain }
    }

    fn attempt_cookie(&self, name: &str, value: &str, max_age: i64) -> (HeaderName, HeaderValue) {
        let secure = if self.is_secure() { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
        let mut cookie =
            HeaderValue::from_str(&cookie).expect("names and values of attempts are of base64url");
        cookie.set_sensitive(true);
        (SET_COOKIE, cookie)
    }
}
