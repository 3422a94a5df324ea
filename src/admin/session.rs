//! Log-in and log-out.  A session is a cookie whose digest is stored; Checks accept it too, where `credentials` lists
//! the location `session`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::audit::ChangeAttempt;
use super::auth::Writable;
use super::body::{Json, Members, Message, RequestBody};
use super::error::ApiError;
use super::responses::{BodyErrors, CallerErrors, LogOutErrors, PermissionErrors};
use super::{Admin, auth, with_store_timeout};
use crate::attributes::{Encoding, Header, Headers, Http};
use crate::config::is_secure;
use crate::credential::{
    API_KEY_USER, CredentialLocation, CredentialLocations, CrossSite, Principal, cookie,
};
use crate::deny_reason::DenyReason;
use crate::secret::Secret;
use crate::token::PlainToken;

/// How long a browser keeps the cookie, in seconds: as long as a session can live.
const MAX_COOKIE_AGE: u32 = 7 * 24 * 60 * 60;

/// A user of the configuration and their password.
#[derive(ToSchema)]
pub(super) struct LogIn {
    user: String,
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

impl RequestBody for LogIn {
    const MEMBERS: &'static [&'static str] = &["user", "password"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let user = members.required_string("user")?;
        Ok(Self { user, password: Secret::new(members.required_string("password")?) })
    }
}

/// The header that sets or clears the session cookie.
type SetCookie = [(HeaderName, HeaderValue); 1];

/// Open a session
#[utoipa::path(
    post,
    path = "/login",
    operation_id = "logIn",
    tag = "session",
    request_body = LogIn,
    security(()),
    responses(
        (
            status = OK, description = "The session's cookie is set", body = Message,
            headers(("Set-Cookie" = String, description = "The session"))
        ),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
    ),
)]
pub(super) async fn log_in(
    State(admin): State<Arc<Admin>>,
    _: Writable,
    attempt: ChangeAttempt,
    Json(LogIn { user, password }): Json<LogIn>,
) -> Result<(SetCookie, Json<Message>), ApiError> {
    let snapshot = admin.authorizer.snapshot();
    // An unknown name is not logged: it may be a password that was typed into the wrong field.
    if let Some(user) = snapshot.users.get(&user) {
        attempt.set_user(&user.principal.name);
    }
    let principal = admin.verify(&user, &password).await?;
    let user = snapshot.users.get(&principal.name).ok_or(DenyReason::WrongPassword)?;
    let session = admin.keys.open_session(&principal.name, &user.password_digest);
    let session = with_store_timeout(session).await??;
    attempt.log_login(&principal.name, session.ended);
    let cookie = admin.set_cookie(session.cookie.expose(), MAX_COOKIE_AGE)?;
    Ok((cookie, Json(Message { message: "Logged in" })))
}

/// Close the session
#[utoipa::path(
    post,
    path = "/logout",
    operation_id = "logOut",
    tag = "session",
    security(()),
    responses(
        (
            status = OK, description = "The cookie is cleared", body = Message,
            headers(("Set-Cookie" = String, description = "An expired cookie"))
        ),
        LogOutErrors,
    ),
)]
pub(super) async fn log_out(
    State(admin): State<Arc<Admin>>,
    attempt: ChangeAttempt,
    headers: HeaderMap,
) -> Result<(SetCookie, Json<Message>), ApiError> {
    if admin.keys.is_read_only() {
        // The session lives on in the store, which this process does not write.
        return Ok((admin.set_cookie("", 0)?, Json(Message { message: "Logged out" })));
    }
    let headers = auth::headers(&headers);
    let digests: Vec<_> = cookie::values(&headers, admin.session_cookie())
        .filter_map(|value| PlainToken::new(value).ok())
        .map(|token| token.digest())
        .take(2)
        .collect();
    for digest in digests {
        // The session is closed in the store even when it is not in memory: another replica may have just opened it.
        let session = admin.keys.find_session(&digest, admin.clock.now());
        with_store_timeout(admin.keys.close_session(&digest)).await??;
        if let Some(session) = session {
            attempt.log_logout(&session.user);
        }
    }
    Ok((admin.set_cookie("", 0)?, Json(Message { message: "Logged out" })))
}

impl Admin {
    /// Verifies a password by the code that authenticates Basic credentials, with its lock after wrong passwords and
    /// its equal time for unknown users.
    async fn verify(&self, user: &str, password: &Secret) -> Result<Arc<Principal>, DenyReason> {
        // Basic credentials give these names another meaning.  No user can have them, nor the empty name.
        let user = if user == API_KEY_USER || user.contains(':') { "" } else { user };
        let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
        let value = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let header = Header { name: b"authorization", value: value.as_bytes() };
        let http = Http {
            method: b"POST",
            host: b"",
            path: b"/login",
            headers: Headers::new(Encoding::Lines, vec![header]),
        };
        let locations =
            CredentialLocations::new(vec![CredentialLocation::Basic { cross_site: CrossSite::Deny }]);
        self.authenticate_in(&http, &locations).await?.ok_or(DenyReason::WrongPassword)
    }

    /// `HttpOnly`: no script reads the cookie.  `SameSite=Strict`: no request from another site carries it.
    fn set_cookie(&self, value: &str, max_age: u32) -> Result<SetCookie, ApiError> {
        let name = self.session_cookie();
        let is_secure = is_secure(self.transport, self.public_url().as_ref());
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}");
        let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| ApiError::Internal)?;
        cookie.set_sensitive(true);
        Ok([(SET_COOKIE, cookie)])
    }
}
