//! Authentication and authorization of the API's callers, by the code that decides Checks.
//!
//! Extractors: [`Manager`] (may manage all keys), [`KeyManager`] (may manage keys, even if only their own), [`Caller`]
//! (has a credential that counts), [`TokenOrSession`] (whether there is one that is cheap to check), and [`Writable`]
//! (the store may be changed).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{HOST, HeaderValue, ORIGIN};
use axum::http::request::Parts;
use serde_json::Value;

use super::address::ClientText;
use super::audit::{ChangeAttempt, actor_id};
use super::error::{ApiError, InvalidKind, MissingRight, OwnRole};
use super::grant;
use super::host::HostKind;
use super::{Admin, host};
use crate::attributes::{ClientAddress, Encoding, Header, Headers, Http};
use crate::config::{LoginHost, PublicUrl, Transport, is_secure, session_cookies};
use crate::credential::{
    CredentialLocation, CredentialLocations, CrossSite, Principal, carries_bearer, cross_site,
};
use crate::deny_reason::DenyReason;
use crate::identity::Purpose;
use crate::keys::{Author, ExceedsGrant, KeyOwner, Privileges, Role, SessionScope};
use crate::person::PersonId;
use crate::return_to::ReturnHosts;
use crate::snapshot::Snapshot;

/// How long a password's verification may take, in several attempts.  A Check makes one, because Envoy's client tries
/// again; a person who logs in here does not.
const VERIFICATION_TIMEOUT: Duration = Duration::from_secs(8);
/// The shortest time after which a wrong password is denied.
const MIN_DENIAL_TIME: Duration = Duration::from_millis(300);
/// How long to wait when too many verifications are running to start another one.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// The authenticated caller.  As an extractor it denies with 401 when there is no credential that counts.
pub(super) struct Caller(Arc<Principal>);

impl Caller {
    /// The principal.
    pub fn principal(&self) -> &Principal {
        &self.0
    }

    /// The same, to be held.
    pub fn shared(&self) -> Arc<Principal> {
        Arc::clone(&self.0)
    }

    /// Denies an API key that is restricted to policies: nothing but Checks is decided by policies.
    ///
    /// # Errors
    /// 403: the caller is restricted.
    pub fn check_unrestricted(&self) -> Result<(), ApiError> {
        if self.0.policies.is_some() { Err(MissingRight::Unrestricted.into()) } else { Ok(()) }
    }
}

impl FromRequestParts<Arc<Admin>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        let principal = admin.authenticate(parts).await?;
        if let Some(attempt) = parts.extensions.get::<ChangeAttempt>() {
            attempt.set_caller(&principal);
        }
        Ok(Self(principal))
    }
}

/// A caller who manages keys.  As an extractor it is one whom `admin.allow` admits, and denies with 401 when there is no
/// credential that counts, and with 403 when the caller is restricted to policies or not admitted.
pub(super) struct Manager {
    caller: Caller,
    /// The only person whose keys are visible; `None`: all keys are.
    sees_only: Option<PersonId>,
}

/// A caller who manages keys, be it their own alone: one whom `admin.allow` admits, or a person whom `admin.self_service`
/// does.  As an extractor it denies as [`Manager`] does.
pub(super) struct KeyManager(pub Manager);

impl FromRequestParts<Arc<Admin>> for Manager {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, admin).await?;
        match Self::admitted(caller, &admin.authorizer.snapshot())? {
            Self { sees_only: Some(_), .. } => Err(MissingRight::ManageAllKeys.into()),
            manager => Ok(manager),
        }
    }
}

impl FromRequestParts<Arc<Admin>> for KeyManager {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, admin).await?;
        Manager::admitted(caller, &admin.authorizer.snapshot()).map(Self)
    }
}

impl Manager {
    /// The caller as a manager of all keys, or of their own.
    ///
    /// # Errors
    /// 403: they are restricted to policies, or not admitted.
    pub fn admitted(caller: Caller, snapshot: &Snapshot) -> Result<Self, ApiError> {
        // Managing keys is under no policy, and a manager could create a key without the restriction.
        caller.check_unrestricted()?;
        let rules = snapshot.admin.as_ref().ok_or(MissingRight::ManageKeys)?;
        if rules.allow.admit(Some(Arc::clone(&caller.0))).is_ok() {
            return Ok(Self { caller, sees_only: None });
        }
        // A key or a token cannot own a key.
        let Some(person) = &caller.0.person else {
            return Err(MissingRight::ManageKeys.into());
        };
        rules.self_service.admit(Some(Arc::clone(&caller.0))).map_err(|_| MissingRight::ManageKeys)?;
        let sees_only = Some(person.id.clone());
        Ok(Self { caller, sees_only })
    }

    /// The manager as the author of a change.
    pub fn author(&self, attempt: &ChangeAttempt) -> Author {
        Author {
            id: actor_id(self.principal()),
            credential: self.principal().kind.as_str(),
            address: attempt.address().to_owned(),
            sees_only: self.sees_only.clone(),
        }
    }

    /// The manager's principal.
    pub fn principal(&self) -> &Principal {
        self.caller.principal()
    }

    /// The only person whose keys are visible to the manager; `None`: all keys are.
    pub fn sees_only(&self) -> Option<&PersonId> {
        self.sees_only.as_ref()
    }

    /// Whether a key of this owner exists for the manager.
    pub fn sees(&self, owner: &KeyOwner) -> bool {
        self.sees_only.as_ref().is_none_or(|person| owner.person() == Some(person))
    }

    /// The manager as the owner of keys.
    ///
    /// # Errors
    /// 403: they came by a key or a token, which own no keys.
    pub fn owner(&self) -> Result<KeyOwner, ApiError> {
        let person = self.principal().person.as_ref().ok_or_else(|| {
            let problem = "a key or a token cannot own keys: log in with a password";
            ApiError::invalid(InvalidKind::NotAPerson, "owner", problem)
        })?;
        Ok(KeyOwner::Person(person.id.clone()))
    }

    /// Checks that the manager's role is not below that of a key: whether they may manage it at all.  [`grant`] asks again
    /// in the transaction that changes it.
    ///
    /// # Errors
    /// 403: it is below, or the manager has no role.
    pub fn check_role(&self, role: Role) -> Result<(), ApiError> {
        let own = self.role();
        if own >= Some(role) {
            Ok(())
        } else {
            Err(MissingRight::Role { needed: role.as_str(), own: OwnRole(own) }.into())
        }
    }

    /// Checks that the manager grants nothing that they do not have themselves.
    ///
    /// # Errors
    /// [`ExceedsGrant`]: the part of the grant that they do not have.
    pub fn check_grant(&self, privileges: &Privileges<'_>, snapshot: &Snapshot) -> Result<(), ExceedsGrant> {
        if !self.sees(privileges.owner) {
            return Err(ExceedsGrant::OwnAlone);
        }
        grant::check(self.principal(), self.role(), privileges, snapshot)
    }

    /// Checks that the manager's role is not below that of a key or an account, so that the manager may revoke it.
    ///
    /// # Errors
    /// [`ExceedsGrant`].
    pub fn check_end(&self, privileges: &Privileges<'_>) -> Result<(), ExceedsGrant> {
        if !self.sees(privileges.owner) {
            return Err(ExceedsGrant::OwnAlone);
        }
        grant::check_end(self.principal(), self.role(), privileges)
    }

    /// The manager's role, the highest one if there are several.  `None` is below every role.
    pub fn role(&self) -> Option<Role> {
        match self.principal().actor.member("role")? {
            Value::String(role) => Role::parse(role),
            Value::Array(roles) => roles.iter().filter_map(Value::as_str).filter_map(Role::parse).max(),
            _ => None,
        }
    }
}

/// A store that may be changed.  As an extractor it denies with 403 where the store is only read.
pub(super) struct Writable;

impl FromRequestParts<Arc<Admin>> for Writable {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        if admin.keys.is_read_only() { Err(ApiError::ReadOnly) } else { Ok(Self) }
    }
}

/// Whether the request carries a token or a session that counts.  As an extractor it denies nothing and verifies no
/// password.
pub(super) struct TokenOrSession(pub bool);

impl FromRequestParts<Arc<Admin>> for TokenOrSession {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Self::Rejection> {
        let http = admin.http(parts, headers(&parts.headers));
        let location =
            if carries_bearer(&http) { CredentialLocation::Bearer } else { admin.session_location() };
        let principal =
            admin.authorizer.authenticate_at(&http, &CredentialLocations::new(vec![location])).await;
        Ok(Self(matches!(principal, Ok(Some(_)))))
    }
}

impl Admin {
    /// Authenticates the caller by Bearer, Basic or session, regardless of `credentials`.
    ///
    /// A live session takes precedence over Basic and over unknown schemes, because a proxy in front may send its own
    /// `Authorization` with every request.  A Bearer token is never the proxy's, and decides alone.
    async fn authenticate(&self, parts: &Parts) -> Result<Arc<Principal>, ApiError> {
        let http = self.http(parts, headers(&parts.headers));
        if let Some(principal) = self.authenticate_session(&http).await? {
            return Ok(principal);
        }
        let basic = CredentialLocation::Basic { cross_site: CrossSite::Deny };
        let locations =
            CredentialLocations::new(vec![CredentialLocation::Bearer, basic, self.session_location()]);
        let principal = self.authenticate_in(&http, &locations).await?;
        Ok(principal.ok_or(DenyReason::NoCredential)?)
    }

    /// Authenticates by the session alone; `None` when there is no live one, or a Bearer token comes with it.
    ///
    /// # Errors
    /// The state of the session cannot be known, or there are two session cookies.
    async fn authenticate_session(&self, http: &Http<'_>) -> Result<Option<Arc<Principal>>, DenyReason> {
        if carries_bearer(http) {
            return Ok(None);
        }
        self.authorizer.authenticate_at(http, &CredentialLocations::new(vec![self.session_location()])).await
    }

    /// Authenticates by a credential in one of these locations; waits for the verification of a password.
    ///
    /// # Errors
    /// The denial that a Check would meet.
    pub(super) async fn authenticate_in(
        &self,
        http: &Http<'_>,
        locations: &CredentialLocations,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let started = Instant::now();
        loop {
            let call_started = Instant::now();
            match self.authorizer.authenticate_at(http, locations).await {
                // The verification continues in the background, and the next call waits for it.
                Err(DenyReason::PasswordUnverified | DenyReason::DirectoryPending)
                    if started.elapsed() < VERIFICATION_TIMEOUT =>
                {
                    if call_started.elapsed() < RETRY_INTERVAL {
                        tokio::time::sleep(RETRY_INTERVAL).await;
                    }
                }
                result => {
                    if let Some(at) = denial_time(&result, started) {
                        tokio::time::sleep_until(at.into()).await;
                    }
                    return result;
                }
            }
        }
    }

    /// The location of the session cookie.
    fn session_location(&self) -> CredentialLocation {
        CredentialLocation::Session { cookies: self.session_cookies(SessionScope::Admin) }
    }

    /// The name of the cookie of a session's scope under the current snapshot.
    pub(super) fn session_cookie(&self, scope: SessionScope) -> &'static str {
        self.session_cookies(scope)[0]
    }

    fn session_cookies(&self, scope: SessionScope) -> &'static [&'static str] {
        let snapshot = self.authorizer.snapshot();
        session_cookies(scope, self.transport, self.public_url().as_ref(), &snapshot.session)
    }

    /// The person who is logged in under this host: by the session of the page, or under a log-in host by the application's.
    ///
    /// # Errors
    /// It cannot be known.
    pub(super) async fn logged_in(
        &self,
        parts: &Parts,
        host: Option<&LoginHost>,
    ) -> Result<Option<Arc<Principal>>, DenyReason> {
        let http = self.http(parts, headers(&parts.headers));
        let (scope, purpose) = match host {
            None => (SessionScope::Admin, Purpose::Admin),
            Some(_) => (SessionScope::Application, Purpose::Check { deadline: None }),
        };
        let location = CredentialLocation::Session { cookies: self.session_cookies(scope) };
        self.authorizer.authenticate_for(purpose, &http, &CredentialLocations::new(vec![location])).await
    }

    /// The hosts that browsers are sent back to.
    pub(super) fn return_hosts(&self) -> ReturnHosts {
        let snapshot = self.authorizer.snapshot();
        let login_hosts = snapshot.admin.as_ref().map_or(&[][..], |admin| &admin.login_hosts);
        ReturnHosts::new(self.public_url().as_ref(), login_hosts, &snapshot.session)
    }

    /// The path of `admin.public_url`, empty or such as `/keys`.
    pub(super) fn path_prefix(&self) -> String {
        self.public_url().map(|url| url.path().to_owned()).unwrap_or_default()
    }

    /// Whether browsers connect over TLS.
    pub(super) fn is_secure(&self) -> bool {
        is_secure(self.transport, self.public_url().as_ref())
    }

    /// The URL that browsers use, when it is not the listener's own address.
    pub(super) fn public_url(&self) -> Option<PublicUrl> {
        self.authorizer.snapshot().admin.as_ref().and_then(|admin| admin.public_url.clone())
    }

    /// Denies a request whose host is not one of the listener's names, or is a log-in host and the request no log-in.
    ///
    /// # Errors
    /// 421.
    pub(super) fn check_host(&self, parts: &mut Parts) -> Result<(), ApiError> {
        let snapshot = self.authorizer.snapshot();
        match snapshot.admin.as_ref().and_then(|admin| host::kind_of(parts, admin)) {
            Some(HostKind::Listener) => Ok(()),
            Some(HostKind::LogIn(login_host)) if host::is_log_in_path(parts.uri.path()) => {
                parts.extensions.insert(login_host);
                Ok(())
            }
            Some(HostKind::LogIn(_)) => Err(ApiError::LogInHost),
            None => Err(ApiError::WrongHost),
        }
    }

    /// Denies a request that may change something and was caused by another site, whatever its credential.
    ///
    /// # Errors
    /// 403.
    pub(super) fn check_origin(&self, parts: &Parts) -> Result<(), ApiError> {
        let http = self.http(parts, headers(&parts.headers));
        if self.transport == Transport::Tls && self.is_from_insecure_page(&http) {
            return Err(DenyReason::CrossSite.into());
        }
        cross_site::check(&http, &self.session_location()).map_err(|error| DenyReason::from(error).into())
    }

    /// Whether a page that was loaded without TLS caused this request.  An attacker on the network can forge such a
    /// page of any host, this one included; only `admin.public_url` can allow it.
    fn is_from_insecure_page(&self, http: &Http<'_>) -> bool {
        let is_insecure = |origin: &[u8]| {
            origin.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://"))
                && self.public_url().is_none_or(|url| url.origin().as_bytes() != origin)
        };
        !matches!(http.method, b"GET" | b"HEAD" | b"OPTIONS") && http.headers.all("origin").any(is_insecure)
    }

    /// The request in the form of a Check's attributes.
    fn http<'p>(&self, parts: &'p Parts, headers: Headers<'p>) -> Http<'p> {
        let host_header = parts.headers.get(HOST).map(HeaderValue::as_bytes);
        let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
        let mut host = authority.or(host_header).unwrap_or_default();
        // A proxy may have replaced the host.  A request from the public URL's origin is same-origin all the same.
        if let Some(origin) = parts.headers.get(ORIGIN).and_then(|origin| origin.to_str().ok())
            && self.public_url().is_some_and(|url| {
                origin.parse().is_ok_and(|origin: PublicUrl| origin.origin() == url.origin())
            })
            && let Some((_, authority)) = origin.split_once("://")
        {
            host = authority.as_bytes();
        }
        let client = parts.extensions.get::<ClientText>();
        let client =
            client.map_or(ClientAddress::UNKNOWN, |ClientText(text)| ClientAddress::new(text.as_bytes()));
        let path = parts.uri.path_and_query().map_or(&b"/"[..], |path| path.as_str().as_bytes());
        Http { method: parts.method.as_str().as_bytes(), host, path, headers, client }
    }
}

/// When to deny a wrong password.  It is one time for every cause, so that the time reveals none.
fn denial_time<T>(result: &Result<T, DenyReason>, started: Instant) -> Option<Instant> {
    let is_denied = matches!(result, Err(DenyReason::WrongPassword | DenyReason::UserLocked));
    is_denied.then(|| started + MIN_DENIAL_TIME)
}

/// The headers in the form of a Check's attributes.
pub(super) fn headers(map: &HeaderMap) -> Headers<'_> {
    let entries =
        map.iter().map(|(name, value)| Header { name: name.as_str().as_bytes(), value: value.as_bytes() });
    Headers::new(Encoding::Lines, entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_denial_of_a_password_takes_the_same_time_and_nothing_else_waits() {
        let started = Instant::now();
        for deny_reason in DenyReason::ALL {
            let result: Result<(), _> = Err(deny_reason);
            let is_denied = deny_reason.details().message == "Invalid username or password";
            let expected = is_denied.then(|| started + MIN_DENIAL_TIME);
            assert_eq!(denial_time(&result, started), expected, "{deny_reason:?}");
        }
        assert_eq!(denial_time(&Ok(()), started), None);
    }
}
