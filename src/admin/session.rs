//! Log-in and log-out.  A session is a cookie whose digest is in the store; a Check takes it too, where
//! `credentials` has the location `session`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::SET_COOKIE;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

use super::body::JsonBody;
use super::error::ApiError;
use super::{Admin, audit, auth, with_store_timeout};
use crate::attributes::{Encoding, Header, Headers, Http};
use crate::config::is_secure;
use crate::credential::{
    API_KEY_USER, CredentialLocation, CredentialLocations, CrossSite, Principal, cookie,
};
use crate::deny_reason::DenyReason;
use crate::secret::Secret;
use crate::token::PlainToken;

/// How long a browser keeps the cookie, in seconds: as long as a session can live.
const LONGEST: u32 = 7 * 24 * 60 * 60;

/// `POST /login`
pub(super) async fn log_in(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let mut body = JsonBody::read(&parts, body, &["user", "password"]).await?;
    let user = body.required_text("user")?;
    let password = Secret::new(body.required_text("password")?);
    let rules = admin.authorizer.rules();
    // A name that we do not know is not written down: somebody may have typed a password there.
    if let Some(user) = rules.users.get(&user) {
        audit::note_user(&parts, &user.principal.name);
    }
    let principal = admin.verify(&user, &password).await?;
    let user = rules.users.get(&principal.name).ok_or(DenyReason::WrongPassword)?;
    let opened =
        with_store_timeout(admin.keys.open_session(&principal.name, &user.password_digest)).await??;
    audit::logged_in(&parts, &principal.name, opened.ended);
    let mut response = auth::json(&json!({"message": "Logged in"}));
    admin.set_cookie(&mut response, opened.cookie.expose(), LONGEST);
    Ok(response)
}

/// `POST /logout`
pub(super) async fn log_out(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let headers = auth::headers(&parts.headers);
    let name = admin.session_cookie();
    let digests: Vec<_> = cookie::values(&headers, name)
        .filter_map(|value| PlainToken::new(value).ok())
        .map(|token| token.digest())
        .take(2)
        .collect();
    for digest in digests {
        // A session that another replica has just opened may not have reached us yet: the store knows.
        let session = admin.keys.find_session(&digest, admin.clock.now());
        with_store_timeout(admin.keys.close_session(&digest)).await??;
        if let Some(session) = session {
            audit::logged_out(&parts, &session.user);
        }
    }
    let mut response = auth::json(&json!({"message": "Logged out"}));
    admin.set_cookie(&mut response, "", 0);
    Ok(response)
}

impl Admin {
    /// Verifies a password by the very code that takes it as Basic: the same lock, the same time for unknown users.
    async fn verify(&self, user: &str, password: &Secret) -> Result<Arc<Principal>, DenyReason> {
        // In Basic these names mean something else.  No user can have them, nor the empty one.
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
        self.who(&http, &locations).await?.ok_or(DenyReason::WrongPassword)
    }

    /// `HttpOnly`: no script reads it.  `SameSite=Strict`: no other site's request carries it.
    fn set_cookie(&self, response: &mut Response, value: &str, seconds: u32) {
        let name = self.session_cookie();
        let is_secure = is_secure(self.transport, self.public_url().as_ref());
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
        if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
            cookie.set_sensitive(true);
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
    }
}
