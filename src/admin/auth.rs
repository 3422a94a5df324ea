//! Who calls the API, and whether they may: by the same code that decides Checks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, HOST, ORIGIN};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::error::ApiError;
use super::grant::{self, Grant};
use super::{Admin, audit, host};
use crate::attributes::{Encoding, Header, Headers, Http};
use crate::config::{PublicUrl, Rules, Transport, session_cookie};
use crate::credential::{
    CredentialLocation, CredentialLocations, CrossSite, Principal, carries_bearer, cross_site,
};
use crate::deny_reason::DenyReason;
use crate::keys::{ExceedsGrant, Role};

/// How long the verification of a password may take.  A Check waits a tenth of a second and is asked again;
/// people and scripts who log in here do not ask again.
const LONGEST_VERIFICATION: Duration = Duration::from_secs(8);
/// How long every no to a password takes, unless its verification takes longer.
const NO_AFTER: Duration = Duration::from_millis(300);
/// How long to wait before asking again when there are too many verifications for another one to begin.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);

/// Somebody who may manage keys.
pub struct Manager {
    principal: Arc<Principal>,
}

impl Manager {
    /// The id of their actor, for the record.
    pub fn id(&self) -> String {
        actor_id(&self.principal)
    }

    /// The kind of their credential, for the record.
    pub fn kind(&self) -> &'static str {
        self.principal.kind.as_str()
    }

    /// Holds that nobody manages a key above their own role.
    ///
    /// # Errors
    /// 403: their role is below the key's, or they have none.
    pub fn may_manage(&self, role: Role) -> Result<(), ApiError> {
        if self.role() >= Some(role) { Ok(()) } else { Err(DenyReason::NotAdmitted.into()) }
    }

    /// Checks that the manager grants nothing that they do not have themselves.
    ///
    /// # Errors
    /// [`ExceedsGrant`]: the part of the grant that they do not have.
    pub(super) fn check_grant(&self, grant: &Grant<'_>, rules: &Rules) -> Result<(), ExceedsGrant> {
        grant::check(&self.principal.actor, self.role(), grant, rules)
    }

    /// Their role; the highest, if there are several.  None is below all others.
    fn role(&self) -> Option<Role> {
        match self.principal.actor.member("role")? {
            Value::String(role) => Role::parse(role),
            Value::Array(roles) => roles.iter().filter_map(Value::as_str).filter_map(Role::parse).max(),
            _ => None,
        }
    }
}

impl Admin {
    /// Somebody who may manage keys.
    ///
    /// # Errors
    /// 401 for whoever shows no credential that counts, 403 for whoever may not.
    pub(super) async fn manager(&self, parts: &Parts) -> Result<Manager, ApiError> {
        let principal = self.caller(parts).await?;
        // A restriction names policies of the configuration, and managing keys is under none of them:
        // who may make a key without a restriction has none.
        if principal.policies.is_some() {
            return Err(DenyReason::NotAdmitted.into());
        }
        let rules = self.authorizer.rules();
        let allow = rules.admin.as_ref().map(|admin| &admin.allow).ok_or(DenyReason::NotAdmitted)?;
        allow.admit(Some(Arc::clone(&principal))).map_err(DenyReason::from)?;
        Ok(Manager { principal })
    }

    /// Who calls: by bearer, basic or session, whatever `credentials` says, and never the anonymous.
    ///
    /// A live session goes before Basic and before schemes that are none of ours: a proxy in front may send its own,
    /// and people would never get past it.  A Bearer is meant for us, and decides by itself.
    pub(super) async fn caller(&self, parts: &Parts) -> Result<Arc<Principal>, ApiError> {
        let http = self.http(parts, headers(&parts.headers));
        let principal = match self.session_before_authorization(&http).await? {
            Some(principal) => principal,
            None => {
                let basic = CredentialLocation::Basic { cross_site: CrossSite::Deny };
                let locations =
                    CredentialLocations::new(vec![CredentialLocation::Bearer, basic, self.session_place()]);
                self.who(&http, &locations).await?.ok_or(DenyReason::NoCredential)?
            }
        };
        audit::note_caller(parts, &principal);
        Ok(principal)
    }

    /// Who a live session stands for, unless a Bearer comes with it.
    ///
    /// # Errors
    /// It cannot be known whether the session lives, or there are two of them.
    async fn session_before_authorization(
        &self,
        http: &Http<'_>,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        if carries_bearer(http) {
            return Ok(None);
        }
        self.authorizer.who(http, &CredentialLocations::new(vec![self.session_place()])).await
    }

    /// Our own cookie.
    fn session_place(&self) -> CredentialLocation {
        CredentialLocation::Session { cookie: self.session_cookie() }
    }

    /// Whether a token or a session that counts comes with the request.  No password is verified.
    pub(super) async fn has_token_or_session(&self, parts: &Parts) -> bool {
        let http = self.http(parts, headers(&parts.headers));
        let location = if carries_bearer(&http) { CredentialLocation::Bearer } else { self.session_place() };
        matches!(self.authorizer.who(&http, &CredentialLocations::new(vec![location])).await, Ok(Some(_)))
    }

    /// As the authorizer's `who`, and patient with passwords.
    pub(super) async fn who(
        &self,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let begun = Instant::now();
        loop {
            let asked = Instant::now();
            match self.authorizer.who(http, locations).await {
                // It goes on in the background, and asking again is waiting for the same verification.
                Err(DenyReason::PasswordUnverified) if begun.elapsed() < LONGEST_VERIFICATION => {
                    if asked.elapsed() < QUEUE_PAUSE {
                        tokio::time::sleep(QUEUE_PAUSE).await;
                    }
                }
                answer => {
                    if let Some(at) = no_told_at(&answer, begun) {
                        tokio::time::sleep_until(at.into()).await;
                    }
                    return answer;
                }
            }
        }
    }

    /// The name of the session cookie by the rules in force.
    pub(super) fn session_cookie(&self) -> &'static str {
        session_cookie(self.transport, self.public_url().as_ref())
    }

    /// Where browsers find us, when that is not where we listen.
    pub(super) fn public_url(&self) -> Option<PublicUrl> {
        self.authorizer.rules().admin.as_ref().and_then(|admin| admin.public_url.clone())
    }

    /// Denies a request under a name that is not this listener's, whatever it asks for.
    ///
    /// # Errors
    /// 421.
    pub(super) fn check_host(&self, parts: &Parts) -> Result<(), ApiError> {
        let rules = self.authorizer.rules();
        let is_ours = rules.admin.as_ref().is_some_and(|admin| host::is_ours(parts, admin));
        if is_ours { Ok(()) } else { Err(ApiError::WrongHost) }
    }

    /// Denies a request that may change something when another site caused it, whatever its credential.
    ///
    /// # Errors
    /// 403.
    pub(super) fn check_origin(&self, parts: &Parts) -> Result<(), ApiError> {
        let http = self.http(parts, headers(&parts.headers));
        if self.transport == Transport::Tls && self.is_from_insecure_page(&http) {
            return Err(DenyReason::CrossSite.into());
        }
        cross_site::check(&http, &self.session_place()).map_err(|error| DenyReason::from(error).into())
    }

    /// Whether a page that came without TLS caused this.  Whoever sits on the network can be such a page of
    /// any host, ours included; only a public URL can say that it is ours all the same.
    fn is_from_insecure_page(&self, http: &Http<'_>) -> bool {
        let is_insecure = |origin: &[u8]| {
            origin.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://"))
                && self.public_url().is_none_or(|url| url.to_string().as_bytes() != origin)
        };
        !matches!(http.method, b"GET" | b"HEAD" | b"OPTIONS") && http.headers.all("origin").any(is_insecure)
    }

    /// The request as Envoy would tell of it.
    fn http<'p>(&self, parts: &'p Parts, headers: Headers<'p>) -> Http<'p> {
        let sent = parts.headers.get(HOST).map(axum::http::HeaderValue::as_bytes);
        let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
        let mut host = authority.or(sent).unwrap_or_default();
        // A proxy may have changed the host; a browser that comes by the public URL is on our own page all the same.
        if let Some(origin) = parts.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok())
            && self
                .public_url()
                .is_some_and(|url| origin.parse().is_ok_and(|origin: PublicUrl| origin == url))
            && let Some((_, authority)) = origin.split_once("://")
        {
            host = authority.as_bytes();
        }
        let path = parts.uri.path_and_query().map_or(&b"/"[..], |path| path.as_str().as_bytes());
        Http { method: parts.method.as_str().as_bytes(), host, path, headers }
    }
}

/// When a no to a password is told, whatever its cause: so the time tells nothing.
fn no_told_at<T>(answer: &Result<T, DenyReason>, begun: Instant) -> Option<Instant> {
    let is_no = matches!(answer, Err(DenyReason::WrongPassword | DenyReason::UserLocked));
    is_no.then(|| begun + NO_AFTER)
}

/// The id of an actor, for the record.
pub(super) fn actor_id(principal: &Principal) -> String {
    match principal.actor.member("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => principal.name.to_string(),
    }
}

/// The headers, one entry a line.
pub(super) fn headers(map: &HeaderMap) -> Headers<'_> {
    let entries =
        map.iter().map(|(name, value)| Header { name: name.as_str().as_bytes(), value: value.as_bytes() });
    Headers::new(Encoding::Lines, entries.collect())
}

/// `GET /api/auth/actor`: the caller's own actor, restricted or not.
pub(super) async fn show_actor(
    State(admin): State<Arc<Admin>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let principal = admin.caller(&parts).await?;
    Ok(json(principal.actor.members()))
}

/// An answer of JSON.
pub(super) fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(_) => ApiError::Internal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_no_to_a_password_is_told_at_one_time_and_nothing_else_waits() {
        let begun = Instant::now();
        for deny_reason in DenyReason::ALL {
            let answer: Result<(), _> = Err(deny_reason);
            let is_no = deny_reason.details().message == "Invalid username or password";
            assert_eq!(no_told_at(&answer, begun), is_no.then(|| begun + NO_AFTER), "{deny_reason:?}");
        }
        assert_eq!(no_told_at(&Ok(()), begun), None);
    }
}
