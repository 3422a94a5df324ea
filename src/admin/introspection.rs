//! `POST /api/auth/introspect`: token introspection for admitted callers (RFC 7662).
//!
//! Answered from memory, by the code that decides Checks, and counted as no use.  A caller who asks about many tokens that
//! nobody knows is stopped: they are guesses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::audit::actor_id;
use super::auth::Caller;
use super::body::{Json, has_media_type};
use super::error::{ApiError, InvalidKind, MissingRight};
use super::responses::{BodyErrors, CallerErrors, PermissionErrors, TooManyErrors};
use super::{Admin, MAX_BODY_BYTES};
use crate::clock::Clock;
use crate::clock::sliding_window::SlidingWindow;
use crate::credential::Principal;
use crate::deny_reason::DenyReason;
use crate::keys::index::Lifetime;
use crate::secret::Secret;
use crate::token::PlainToken;

/// Unknown tokens that a caller may ask about within [`WINDOW`].
const MAX_UNKNOWN: usize = 20;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Callers whose unknown tokens are counted at a time.
const MAX_CALLERS: usize = 10_000;

/// Counts the unknown tokens of each caller.
pub(super) struct Limiter {
    callers: Mutex<HashMap<String, SlidingWindow>>,
    clock: Clock,
}

impl Limiter {
    /// A limiter that has counted nothing.
    pub fn new(clock: Clock) -> Self {
        Self { callers: Mutex::default(), clock }
    }

    /// Looks a token up for a caller, and counts it where it is unknown; `None` when there were too many: a caller who guesses
    /// learns nothing of the next ones, known or not.
    fn look_up<T>(
        &self,
        caller: &str,
        look_up: impl FnOnce() -> T,
        is_unknown: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        // Nothing within waits.
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.elapsed();
        if callers.get_mut(caller).is_some_and(|window| window.taken(now) >= MAX_UNKNOWN) {
            return None;
        }
        let found = look_up();
        if is_unknown(&found) {
            if callers.len() >= MAX_CALLERS {
                callers.retain(|_, window| window.taken(now) > 0);
            }
            if callers.len() >= MAX_CALLERS && !callers.contains_key(caller) {
                return None;
            }
            let window = callers.entry(caller.to_owned()).or_insert_with(|| SlidingWindow::new(WINDOW));
            window.try_take(now, MAX_UNKNOWN);
        }
        Some(found)
    }
}

/// The question.
#[derive(ToSchema)]
#[schema(as = IntrospectionRequest)]
pub(super) struct Introspection {
    /// A token of the configuration, or an API key
    #[schema(value_type = String, format = Password)]
    token: Secret,
    /// The policy under which the token must be valid; a restricted token is valid only under its own policies
    policy: Option<String>,
    /// Ignored
    #[expect(dead_code, reason = "it describes the body")]
    token_type_hint: Option<String>,
}

/// The members of a form that a question has.
pub(crate) struct FormMembers {
    pub token: Zeroizing<String>,
    pub policy: Option<String>,
}

/// Reads a form (`application/x-www-form-urlencoded`).  What it has else is ignored (RFC 7662 section 2.1).
///
/// # Errors
/// 400: a member is missing, is there twice (RFC 6749 section 3.2), or is no UTF-8.
pub(crate) fn parse_form(body: &[u8]) -> Result<FormMembers, ApiError> {
    let invalid = |kind, field, problem: &str| Err(ApiError::invalid(kind, field, problem));
    let body = std::str::from_utf8(body).map_err(|_| ApiError::Malformed)?;
    let decode = |text: &str| {
        let text = Zeroizing::new(text.replace('+', " "));
        percent_decode_str(&text).decode_utf8().map(|text| Zeroizing::new(text.into_owned()))
    };
    let (mut token, mut policy) = (None, None);
    for pair in body.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Ok(name) = decode(name) else { continue };
        let (field, member) = match &**name {
            "token" => ("token", &mut token),
            "policy" => ("policy", &mut policy),
            _ => continue,
        };
        let Ok(value) = decode(value) else {
            return invalid(InvalidKind::WrongType, field, "expected text in UTF-8");
        };
        if member.replace(value).is_some() {
            return invalid(InvalidKind::DuplicateMember, field, "stands there twice");
        }
    }
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return invalid(InvalidKind::MissingMember, "token", "is missing");
    };
    let policy = policy.map(|policy| policy.to_string()).filter(|policy| !policy.is_empty());
    Ok(FormMembers { token, policy })
}

impl<S: Sync> FromRequest<S> for Introspection {
    type Rejection = ApiError;

    /// # Errors
    /// 415 when `Content-Type` is another type, 413 when the body is too large, 400 when it is invalid.
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if !has_media_type(&parts.headers, "application/x-www-form-urlencoded") {
            return Err(ApiError::NotForm);
        }
        let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::BodyTooLarge)?;
        let FormMembers { token, policy } = parse_form(&body)?;
        Ok(Self { token: Secret::new(token.to_string()), policy, token_type_hint: None })
    }
}

/// A caller who may ask.  As an extractor it denies with 401 when there is no credential that counts, and with 403 when the
/// caller is restricted to policies or `admin.introspect` does not admit them.
pub(super) struct Introspector(Caller);

impl FromRequestParts<Arc<Admin>> for Introspector {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, admin: &Arc<Admin>) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, admin).await?;
        caller.check_unrestricted()?;
        let snapshot = admin.authorizer.snapshot();
        let rules = snapshot.admin.as_ref().ok_or(MissingRight::Introspect)?;
        rules.introspect.admit(Some(caller.shared())).map_err(|_| MissingRight::Introspect)?;
        Ok(Self(caller))
    }
}

/// The state of a token.  For an inactive token there are no other members.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = Introspection)]
pub(super) struct TokenState {
    /// Whether a Check would take it, under the policy that the question names
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    token_type: Option<&'static str>,
    /// The id of its actor
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    sub: Option<String>,
    /// Its name
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    client_id: Option<String>,
    /// The policies to which it is restricted, with blanks between them; left out where it is not
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    scope: Option<String>,
    /// When it expires, in seconds since 1970; left out where it does not
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    exp: Option<i64>,
    /// When its key was created, in seconds since 1970; left out for a token of the configuration
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    iat: Option<i64>,
    /// Its actor, as upstreams get it
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    actor: Option<Map<String, Value>>,
}

impl TokenState {
    fn active(principal: &Principal, lifetime: Lifetime) -> Self {
        let scope = principal.policies.as_ref().map(|names| names.join(" "));
        Self {
            active: true,
            token_type: Some("Bearer"),
            sub: Some(actor_id(principal)),
            client_id: Some(principal.name.to_string()),
            scope,
            exp: lifetime.expires_at.map(jiff::Timestamp::as_second),
            iat: lifetime.created_at.map(jiff::Timestamp::as_second),
            actor: Some(principal.actor.members().clone()),
        }
    }
}

/// Introspects a token
///
/// RFC 7662, for those whom admin.introspect admits. It knows tokens of the configuration and API keys, no sessions and no
/// passwords, and is no use of the token.
#[utoipa::path(
    post,
    path = "/api/auth/introspect",
    operation_id = "introspect",
    tag = "introspection",
    request_body(content = Introspection, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = OK, description = "What it is, or that it is nothing that counts", body = TokenState),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
        TooManyErrors,
    ),
)]
pub(super) async fn introspect(
    State(admin): State<Arc<Admin>>,
    Introspector(caller): Introspector,
    Introspection { token, policy, .. }: Introspection,
) -> Result<Json<TokenState>, ApiError> {
    let snapshot = admin.authorizer.snapshot();
    let caller = actor_id(caller.principal());
    let look_up = || {
        // What no token can be is no token of ours.
        let token = PlainToken::new(token.expose().as_bytes()).map_err(|_| DenyReason::UnknownToken)?;
        admin.authorizer.sources().inspect(token, &snapshot)
    };
    let is_unknown = |found: &Result<_, DenyReason>| matches!(found, Err(DenyReason::UnknownToken));
    let found = admin.unknown_tokens.look_up(&caller, look_up, is_unknown);
    let found = found.ok_or(ApiError::TooManyUnknown)?;
    if matches!(found, Err(DenyReason::KeysUnavailable)) {
        return Err(DenyReason::KeysUnavailable.into());
    }
    let Ok((principal, lifetime)) = found else {
        return Ok(Json(TokenState::default()));
    };
    let counts = principal.policies.is_none() || policy.is_some_and(|policy| principal.counts_under(&policy));
    Ok(Json(if counts { TokenState::active(&principal, lifetime) } else { TokenState::default() }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_form_has_one_token_and_may_name_a_policy() {
        let parse = |form: &str| {
            let form = parse_form(form.as_bytes()).map_err(|error| (error.reason(), error.field()))?;
            Ok((form.token.to_string(), form.policy))
        };
        let read = |token: &str, policy: Option<&str>| Ok((token.to_owned(), policy.map(str::to_owned)));
        for (form, expected) in [
            ("token=abc", read("abc", None)),
            ("token_type_hint=access_token&token=a%2Bb&unknown", read("a+b", None)),
            ("token=a+b&policy=read%20all", read("a b", Some("read all"))),
            ("t%6Fken=abc&policy=", read("abc", None)),
            ("&&token=a=b&", read("a=b", None)),
            ("%ff=1&token=abc", read("abc", None)),
            ("", Err(("missing_member", Some("token")))),
            ("token", Err(("missing_member", Some("token")))),
            ("Token=abc", Err(("missing_member", Some("token")))),
            ("token=a&token=a", Err(("duplicate_member", Some("token")))),
            ("token=a&t%6fken=b", Err(("duplicate_member", Some("token")))),
            ("token=a&policy=b&policy=b", Err(("duplicate_member", Some("policy")))),
            ("token=%ff", Err(("wrong_type", Some("token")))),
        ] {
            assert_eq!(parse(form), expected, "{form}");
        }
        assert_eq!(parse_form(b"token=\xff").err().map(|error| error.reason()), Some("malformed"));
    }

    #[test]
    fn a_caller_who_guesses_learns_nothing_of_the_next_tokens() {
        let now = Arc::new(AtomicI64::new(0));
        let time = Arc::clone(&now);
        let limiter = Limiter::new(Clock::from_fn(move || {
            Timestamp::from_millisecond(time.load(Ordering::SeqCst)).unwrap()
        }));
        let ask = |caller: &str, is_known: bool| limiter.look_up(caller, || is_known, |known| !known);
        for _ in 0..100 {
            assert_eq!(ask("a", true), Some(true), "what is known is not counted");
        }
        assert_eq!((0..30).filter(|_| ask("a", false).is_some()).count(), 20);
        assert_eq!((ask("a", true), ask("b", true), ask("b", false)), (None, Some(true), Some(false)));
        now.store(999, Ordering::SeqCst);
        assert_eq!(ask("a", true), None);
        now.store(1_000, Ordering::SeqCst);
        assert_eq!((ask("a", true), ask("a", false)), (Some(true), Some(false)));
    }

    #[test]
    fn callers_are_counted_up_to_a_bound() {
        let now = Arc::new(AtomicI64::new(0));
        let time = Arc::clone(&now);
        let limiter = Limiter::new(Clock::from_fn(move || {
            Timestamp::from_millisecond(time.load(Ordering::SeqCst)).unwrap()
        }));
        let guess = |caller: usize| limiter.look_up(&caller.to_string(), || (), |()| true).is_some();
        assert!((0..MAX_CALLERS).all(guess));
        assert!(!guess(MAX_CALLERS) && guess(0), "a new caller has no place, an old one goes on");
        now.store(1_000, Ordering::SeqCst);
        assert!(guess(MAX_CALLERS));
        assert_eq!(limiter.callers.lock().unwrap().len(), 1);
    }
}
