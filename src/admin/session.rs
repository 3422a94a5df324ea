//! Log-in and log-out.  A session is a cookie whose digest is stored.  A log-in gives two with a secret each: the one that
//! this listener reads, and where `credentials` lists the location `session`, the one that Checks read.  An
//! attacker who takes the application's from the application manages no key.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::AppendHeaders;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use super::audit::{ChangeAttempt, actor_id};
use super::auth::{Manager, Writable};
use super::body::{Json, Members, RequestBody, parameter};
use super::error::{ApiError, InvalidKind};
use super::host::RequestHost;
use super::query::check_names;
use super::responses::{BodyErrors, CallerErrors, LogOutErrors, PermissionErrors};
use super::{Admin, auth, with_store_timeout};
use crate::attributes::{ClientAddress, Encoding, Header, Headers, Http};
use crate::config::LoginHost;
use crate::credential::{
    API_KEY_USER, CredentialLocation, CredentialLocations, CrossSite, Principal, session_cookies,
};
use crate::deny_reason::DenyReason;
use crate::identity::people::{record_of, records};
use crate::keys::audit::{Action, NewAuditRow};
use crate::keys::{NewSessions, Role, SessionScope, scoped_binding};
use crate::person::{PersonId, PersonSource};
use crate::secret::Secret;
use crate::snapshot::Snapshot;

/// How long a browser keeps the cookie, in seconds: as long as a session can live.
const MAX_COOKIE_AGE: u32 = 7 * 24 * 60 * 60;

/// A person and their password.
#[derive(ToSchema)]
pub(super) struct LogIn {
    user: String,
    /// The requested return address
    return_to: Option<String>,
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

impl RequestBody for LogIn {
    const MEMBERS: &'static [&'static str] = &["user", "password", "return_to"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let user = members.required_string("user")?;
        let password = Secret::new(members.required_string("password")?);
        Ok(Self { user, password, return_to: members.string("return_to")? })
    }
}

/// The headers that set or clear the session cookies.
pub(super) type SetCookies = AppendHeaders<Vec<(HeaderName, HeaderValue)>>;

/// The message, and the address to which a browser goes.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionMessage {
    message: &'static str,
    /// Left out when it stays where it is
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect: Option<String>,
}

/// Open a session
///
/// It is two, with a secret each: one for this API, and one for Checks where `credentials` lists `session`.
#[utoipa::path(
    post,
    path = "/login",
    operation_id = "logIn",
    tag = "session",
    request_body = LogIn,
    security(()),
    responses(
        (
            status = OK, description = "The cookies of the session are set", body = SessionMessage,
            headers(("Set-Cookie" = String, description = "The session, once for each cookie"))
        ),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
    ),
)]
pub(super) async fn log_in(
    State(admin): State<Arc<Admin>>,
    _: Writable,
    RequestHost(host): RequestHost,
    attempt: ChangeAttempt,
    headers: HeaderMap,
    Json(LogIn { user, password, return_to }): Json<LogIn>,
) -> Result<(SetCookies, Json<SessionMessage>), ApiError> {
    let snapshot = admin.authorizer.snapshot();
    // An unknown name is not logged: it may be a password that was typed into the wrong field.
    if let Some(user) = snapshot.users.get(&user) {
        attempt.set_user(&user.principal.name);
    }
    let principal = admin.verify(&user, &password).await?;
    attempt.set_user(&principal.name);
    let cookies = admin.open_sessions(&principal, &snapshot, host.as_ref(), &headers, &attempt).await?;
    let hosts = admin.return_hosts();
    let return_to = return_to.and_then(|address| hosts.parse(&address, host.as_ref()));
    let redirect = return_to.filter(|address| hosts.receives_cookie(address, host.as_ref()));
    Ok((cookies, Json(SessionMessage { message: "Logged in", redirect })))
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
            status = OK, description = "The cookies are cleared", body = SessionMessage,
            headers(("Set-Cookie" = String, description = "An expired cookie, once for each"))
        ),
        LogOutErrors,
    ),
)]
pub(super) async fn log_out(
    State(admin): State<Arc<Admin>>,
    attempt: ChangeAttempt,
    headers: HeaderMap,
) -> Result<(SetCookies, Json<SessionMessage>), ApiError> {
    let mut redirect = None;
    let cleared = SessionScope::ALL.map(|scope| (scope, admin.session_cookie(scope)));
    // Where the store is only read, the session lives on in it.
    if !admin.keys.is_read_only() {
        let headers = auth::headers(&headers);
        for cookie in cleared.iter().flat_map(|(_, name)| session_cookies(&headers, name)) {
            // The session is closed in the store even when it is not in memory: another replica may have just opened it.
            let session = admin.keys.find_session(&cookie.digest, admin.clock.now());
            let rows: Vec<_> = session
                .iter()
                .map(|session| attempt.session_row(Action::LOGGED_OUT, &session.person, admin.clock.now()))
                .collect();
            with_store_timeout(admin.keys.close_session(&cookie.digest, &rows)).await??;
            // The one of the other scope is closed with it.
            if let Some(session) = session {
                attempt.log_logout(&session.person);
                redirect = redirect.or_else(|| admin.log_out_url(&session.person.source));
            }
        }
    }
    let cookies = cleared.into_iter().map(|(scope, name)| admin.cookie_header(scope, name, "", 0));
    Ok((
        AppendHeaders(cookies.collect::<Result<_, _>>()?),
        Json(SessionMessage { message: "Logged out", redirect }),
    ))
}

/// The query of `DELETE /api/auth/sessions`.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PersonQuery {
    /// The name of a user, or the id that the directory or a provider has for the person
    user: String,
    /// Where the person comes from: config, ldap, or a provider's name
    #[param(value_type = String)]
    source: PersonSource,
}

impl<S: Sync> FromRequestParts<S> for PersonQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        check_names(query, &["user", "source"])?;
        let required = |field| {
            let value = parameter(query, field).filter(|value| !value.is_empty());
            value.ok_or_else(|| ApiError::invalid(InvalidKind::MissingMember, field, "it is required"))
        };
        let (user, source) = (required("user")?, required("source")?);
        let source = PersonSource::parse(&source)
            .ok_or_else(|| ApiError::invalid(InvalidKind::Source, "source", "expected `config` or `ldap`"))?;
        Ok(Self { user, source })
    }
}

/// How many sessions ended.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedSessions {
    /// Log-ins that are over
    ended: usize,
}

/// End the sessions of a person
///
/// For an Admin: every log-in of the person ends, on every replica.
#[utoipa::path(
    delete,
    path = "/api/auth/sessions",
    operation_id = "endSessions",
    tag = "session",
    params(PersonQuery),
    responses(
        (status = OK, description = "They are over", body = EndedSessions),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn end(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    PersonQuery { user, source }: PersonQuery,
) -> Result<Json<EndedSessions>, ApiError> {
    manager.check_role(Role::Admin)?;
    let person = PersonId { source, subject: user.into() };
    let row = NewAuditRow::of(&manager.author(&attempt), Action::SESSIONS_ENDED, admin.clock.now());
    let ended = with_store_timeout(admin.keys.end_sessions(&person, Some(row.person(&person)))).await??;
    attempt.log_ended_sessions(manager.principal(), &person, ended);
    Ok(Json(EndedSessions { ended }))
}

impl Admin {
    /// Opens the sessions of an authenticated person: the page's and, where Checks take sessions, the application's;
    /// under a log-in host the latter alone.  Returns their cookies.  `snapshot` has the rules by which the principal
    /// was made.
    ///
    /// # Errors
    /// The store failed.
    pub(super) async fn open_sessions(
        &self,
        principal: &Principal,
        snapshot: &Snapshot,
        host: Option<&LoginHost>,
        headers: &HeaderMap,
        attempt: &ChangeAttempt,
    ) -> Result<SetCookies, ApiError> {
        let person = principal.person.as_ref().ok_or(DenyReason::WrongPassword)?;
        let mut scopes = Vec::new();
        if host.is_none() {
            scopes.push(SessionScope::Admin);
        }
        if snapshot.locations.reads_sessions() {
            scopes.push(SessionScope::Application);
        }
        // Processes without an admin listener know the person by this record alone, so it comes first.
        if let Some(record) = record_of(principal, self.clock.now()) {
            with_store_timeout(self.keys.record_person(&record)).await??;
        }
        // What is remembered of a password was said a while ago.
        let claims = person.claims.as_ref();
        let new = NewSessions {
            person: person.id.clone(),
            bindings: scopes.iter().map(|scope| (*scope, scoped_binding(&person.binding, *scope))).collect(),
            claims: claims.map(|claims| claims.members.clone()),
            checked_at: claims.map(|claims| claims.checked_at),
        };
        let row = attempt.session_row(Action::LOGGED_IN, &person.id, self.clock.now());
        let row = NewAuditRow { by: Some(actor_id(principal)), ..row };
        let opened = with_store_timeout(self.keys.open_sessions(&new, &[row])).await??;
        // A reload meanwhile wrote the records under the new rules, and then this log-in wrote one under the former
        // rules.
        let mut version = snapshot.version;
        loop {
            let current = self.authorizer.snapshot();
            if std::mem::replace(&mut version, current.version) == current.version {
                break;
            }
            with_store_timeout(records::write_all(&current, &self.keys, &self.clock)).await??;
        }
        attempt.log_login(&person.id, opened.ended);
        self.close_replaced(&auth::headers(headers), &scopes).await;
        let cookies = opened.cookies.iter().map(|(scope, secret)| {
            self.cookie_header(*scope, self.session_cookie(*scope), secret.expose(), MAX_COOKIE_AGE)
        });
        Ok(AppendHeaders(cookies.collect::<Result<_, _>>()?))
    }

    /// Closes the sessions with cookies that a log-in replaces in the browser: they could no longer be logged out.
    async fn close_replaced(&self, headers: &Headers<'_>, scopes: &[SessionScope]) {
        for scope in scopes {
            for cookie in session_cookies(headers, self.session_cookie(*scope)) {
                if self.keys.find_session(&cookie.digest, self.clock.now()).is_some() {
                    // The store has logged an error; the session ends by itself later.
                    let _ = with_store_timeout(self.keys.close_session(&cookie.digest, &[])).await;
                }
            }
        }
    }

    /// The address to which a browser goes when a person of this source logs out.
    fn log_out_url(&self, source: &PersonSource) -> Option<String> {
        let PersonSource::Provider(name) = source else {
            return None;
        };
        let snapshot = self.authorizer.snapshot();
        snapshot.provider(name)?.logout_url.as_deref().map(str::to_owned)
    }

    /// Verifies a password by the code that authenticates Basic credentials, with its lock after wrong passwords.  An unknown
    /// name takes as long as a user of the configuration does; of a directory's names SECURITY.md says what can be told.
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
            client: ClientAddress::UNKNOWN,
        };
        let locations =
            CredentialLocations::new(vec![CredentialLocation::Basic { cross_site: CrossSite::Deny }]);
        self.authenticate_in(&http, &locations).await?.ok_or(DenyReason::WrongPassword)
    }

    /// With `session.domain` the application's is for every host under the domain.
    ///
    /// `HttpOnly`: no script reads the cookie.  `SameSite=Strict`: no request from another site carries the one that
    /// manages keys.  `Lax`: a link from another site leads into the application; what else such a request may do,
    /// [`cross_site`](crate::credential::cross_site) decides at Check.
    fn cookie_header(
        &self,
        scope: SessionScope,
        name: &str,
        value: &str,
        max_age: u32,
    ) -> Result<(HeaderName, HeaderValue), ApiError> {
        let same_site = match scope {
            SessionScope::Admin => "Strict",
            SessionScope::Application => "Lax",
        };
        let secure = if self.is_secure() { "; Secure" } else { "" };
        let snapshot = self.authorizer.snapshot();
        let domain = match (scope, &snapshot.session.domain) {
            (SessionScope::Application, Some(domain)) if self.is_secure() => format!("; Domain={domain}"),
            (SessionScope::Application, _) | (SessionScope::Admin, _) => String::new(),
        };
        let cookie = format!(
            "{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite={same_site}{secure}{domain}"
        );
        let mut cookie = HeaderValue::from_str(&cookie).map_err(|_| ApiError::Internal)?;
        cookie.set_sensitive(true);
        Ok((SET_COOKIE, cookie))
    }
}
