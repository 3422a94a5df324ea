//! The key API: list, create, show, rotate, revoke, delete.  Paths, bodies and messages are Grafana's.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::audit;
use super::auth::{self, Manager};
use super::error::ApiError;
use super::{Admin, MOST_BYTES, within};
use crate::actor::Actor;
use crate::config::Rules;
use crate::keys::name::is_name;
use crate::keys::service::{Ask, Settings};
use crate::keys::{Key, MAX_ACTOR_BYTES, MAX_OVERLAP, Role, Status};
use crate::secret::Secret;

/// A key as it is listed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'k> {
    id: i64,
    name: &'k str,
    role: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    created: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_revoked: bool,
}

impl<'k> Item<'k> {
    fn new(key: &'k Key) -> Self {
        Self {
            id: key.id,
            name: &key.name,
            role: key.role.as_str(),
            expiration: key.expires_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
            created: key.created_at.to_string(),
            is_revoked: key.revoked_at.is_some(),
        }
    }
}

/// `GET /api/auth/keys`
pub(super) async fn list(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    admin.manager(&parts).await?;
    let query = parts.uri.query().unwrap_or_default();
    // What Go's ParseBool takes for true, as Grafana does.
    let include_dead = parameter(query, "includeExpired")
        .is_some_and(|value| matches!(&*value, "1" | "t" | "T" | "true" | "True" | "TRUE"));
    let mut keys = within(admin.keys.list()).await??;
    let now = admin.clock.now();
    keys.retain(|key| include_dead || key.status(now) == Status::Live);
    // Databases sort text each in its own way.
    keys.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
    let (skipped, shown) = page(query, keys.len());
    let items: Vec<_> = keys.iter().skip(skipped).take(shown).map(Item::new).collect();
    Ok(auth::json(&items))
}

/// How many items are left out in front, and how many are shown: all, unless the query asks for a page.
fn page(query: &str, all: usize) -> (usize, usize) {
    let number = |name| {
        parameter(query, name).and_then(|value| value.parse::<usize>().ok()).filter(|&number| number > 0)
    };
    match (number("perpage"), number("page")) {
        (Some(per_page), page) => ((page.unwrap_or(1) - 1).saturating_mul(per_page), per_page),
        (None, _) => (0, all),
    }
}

/// The first value of this name in a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// `GET /api/auth/keys/{id}`
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    admin.manager(&parts).await?;
    let key = admin.key(read_id(id)?).await?;
    Ok(auth::json(&Item::new(&key)))
}

/// The body of a creation.  Members of other names are passed over, as Grafana does.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    name: Option<String>,
    role: Option<String>,
    seconds_to_live: Option<i64>,
    actor: Option<Map<String, Value>>,
    policies: Option<Vec<String>>,
}

/// `POST /api/auth/keys`
pub(super) async fn create(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let creation: Creation = read_json(&parts, body).await?;
    let rules = admin.authorizer.rules();
    let settings = admin.keys.settings();

    let name = creation.name.filter(|name| is_name(name)).ok_or(ApiError::Malformed)?;
    let role = creation.role.ok_or(ApiError::Malformed)?;
    let actor = creation.actor.unwrap_or_default();
    check_actor(&actor, &settings)?;
    let policies = creation.policies;
    if !policies.iter().flatten().all(|policy| rules.has_named_policy(policy)) {
        return Err(ApiError::Malformed);
    }
    let role = Role::parse(&role).ok_or(ApiError::InvalidRole)?;
    audit::note_key(&parts, &name, role);
    manager.may_manage(role)?;
    check_headers(&name, role, &actor, &rules)?;
    let expires_at = expiry(creation.seconds_to_live.unwrap_or(0), &settings, admin.clock.now())?;
    if rules.has_name(&name) {
        return Err(ApiError::NameTaken);
    }
    let created_by = manager.id();
    let ask = Ask { name, role, expires_at, actor, policies, created_by };
    let (key, secret) = within(admin.keys.create(ask)).await??;
    audit::changed("API key created", &manager, &key);
    Ok(with_secret(&key, &secret))
}

/// Only members that the configuration lists, and not too much of them.
fn check_actor(actor: &Map<String, Value>, settings: &Settings) -> Result<(), ApiError> {
    let is_listed = |name: &String| settings.actor_members.iter().any(|listed| **listed == **name);
    let bytes = serde_json::to_vec(actor).map_or(usize::MAX, |encoded| encoded.len());
    if actor.keys().all(is_listed) && bytes <= MAX_ACTOR_BYTES { Ok(()) } else { Err(ApiError::Malformed) }
}

/// A key whose actor headers are too large for an answer would be refused at every Check.
fn check_headers(name: &str, role: Role, actor: &Map<String, Value>, rules: &Rules) -> Result<(), ApiError> {
    let actor = Actor::of_key(name, role.as_str(), i64::MAX, actor);
    if rules.headers_fit(&actor) { Ok(()) } else { Err(ApiError::Malformed) }
}

/// The instant from which on the key is dead; `None` is never.  In whole seconds, as Grafana counts.
fn expiry(seconds_to_live: i64, settings: &Settings, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    if seconds_to_live < 0 {
        return Err(ApiError::NegativeLife);
    }
    let longest = settings.max_seconds_to_live;
    if longest >= 0 && seconds_to_live == 0 {
        return Err(ApiError::LifeNotSet);
    }
    if longest >= 0 && seconds_to_live > longest {
        return Err(ApiError::LifeTooLong);
    }
    if seconds_to_live == 0 {
        return Ok(None);
    }
    let whole = Timestamp::from_second(now.as_second()).map_err(|_| ApiError::Internal)?;
    whole.checked_add(SignedDuration::from_secs(seconds_to_live)).map(Some).map_err(|_| ApiError::Malformed)
}

/// `DELETE /api/auth/keys/{id}`
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let key = admin.managed_key(&parts, &manager, id).await?;
    if !within(admin.keys.delete(key.id)).await?? {
        return Err(ApiError::KeyNotFound);
    }
    audit::changed("API key deleted", &manager, &key);
    Ok(auth::json(&json!({"message": "API key deleted"})))
}

/// `POST /api/auth/keys/{id}/revoke`
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let key = admin.managed_key(&parts, &manager, id).await?;
    let revoked = within(admin.keys.revoke(key.id, &manager.id())).await??;
    audit::changed("API key revoked", &manager, &revoked.ok_or(ApiError::KeyNotFound)?);
    Ok(auth::json(&json!({"message": "API key revoked"})))
}

/// The body of a rotation, which need not be there.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    overlap_seconds: Option<i64>,
}

/// `POST /api/auth/keys/{id}/rotate`
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let rotation: Rotation = read_optional_json(&parts, body).await?.unwrap_or_default();
    let overlap = rotation.overlap_seconds.unwrap_or(0);
    if !(0..=MAX_OVERLAP).contains(&overlap) {
        return Err(ApiError::Malformed);
    }
    let key = admin.managed_key(&parts, &manager, id).await?;
    let (key, secret) = within(admin.keys.rotate(key.id, overlap)).await??;
    audit::changed("API key rotated", &manager, &key);
    Ok(with_secret(&key, &secret))
}

impl Admin {
    async fn key(&self, id: i64) -> Result<Key, ApiError> {
        within(self.keys.get(id)).await??.ok_or(ApiError::KeyNotFound)
    }

    /// The key that somebody is about to change.  Its role never changes, and its id is never used again.
    async fn managed_key(
        &self,
        parts: &Parts,
        manager: &Manager,
        id: Result<Path<String>, PathRejection>,
    ) -> Result<Key, ApiError> {
        let key = self.key(read_id(id)?).await?;
        audit::note_key(parts, &key.name, key.role);
        manager.may_manage(key.role)?;
        Ok(key)
    }
}

fn read_id(id: Result<Path<String>, PathRejection>) -> Result<i64, ApiError> {
    let Path(text) = id.map_err(|_| ApiError::InvalidId)?;
    text.parse().map_err(|_| ApiError::InvalidId)
}

/// The only answer that ever holds a token.
fn with_secret(key: &Key, secret: &Secret) -> Response {
    auth::json(&json!({"id": key.id, "name": key.name, "key": secret.expose()}))
}

/// A body of JSON.
///
/// # Errors
/// 415 when it says that it is something else, 400 when it is not what it should be.
pub(super) async fn read_json<T: DeserializeOwned>(
    parts: &Parts,
    body: axum::body::Body,
) -> Result<T, ApiError> {
    match read_optional_json(parts, body).await? {
        Some(value) => Ok(value),
        // Nothing at all has no wrong type, unless it says so.
        None if parts.headers.contains_key(CONTENT_TYPE) && !is_json(parts) => Err(ApiError::NotJson),
        None => Err(ApiError::Malformed),
    }
}

/// The same, and `None` for an empty body.
async fn read_optional_json<T: DeserializeOwned>(
    parts: &Parts,
    body: axum::body::Body,
) -> Result<Option<T>, ApiError> {
    let bytes = to_bytes(body, MOST_BYTES).await.map_err(|_| ApiError::TooLarge)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if !is_json(parts) {
        return Err(ApiError::NotJson);
    }
    // serde would take a list for an object whose members stand in order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::Malformed);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|_| ApiError::Malformed)
}

/// RFC 9110 section 8.3.1: type and subtype, in any case, before any parameter.
fn is_json(parts: &Parts) -> bool {
    let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
    let Some(Ok(media_type)) = types.next().map(axum::http::HeaderValue::to_str) else {
        return false;
    };
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    types.next().is_none() && essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives() {
        let settings = |max_seconds_to_live| Settings {
            max_seconds_to_live,
            prefix: "eat".into(),
            quota: None,
            actor_members: [].into(),
            max_staleness: None,
        };
        let now: Timestamp = "2026-11-21T00:00:00.75Z".parse().unwrap();
        let cases = [
            (-1, 0, Ok(None)),
            (-1, 60, Ok(Some("2026-11-21T00:01:00Z"))),
            (-1, -1, Err(ApiError::NegativeLife)),
            (-1, 1_000_000_000_000_000_000, Err(ApiError::Malformed)),
            (-1, i64::MAX, Err(ApiError::Malformed)),
            (60, 60, Ok(Some("2026-11-21T00:01:00Z"))),
            (60, 61, Err(ApiError::LifeTooLong)),
            (60, 0, Err(ApiError::LifeNotSet)),
            (60, -1, Err(ApiError::NegativeLife)),
            (0, 0, Err(ApiError::LifeNotSet)),
            (0, 1, Err(ApiError::LifeTooLong)),
        ];
        for (longest, seconds, expected) in cases {
            let found = expiry(seconds, &settings(longest), now).map(|at| at.map(|at| at.to_string()));
            assert_eq!(found, expected.map(|at| at.map(str::to_owned)), "{longest} {seconds}");
        }
    }

    #[test]
    fn pages() {
        for (query, expected) in [
            ("", (0, 250)),
            ("perpage=100", (0, 100)),
            ("perpage=100&page=3", (200, 100)),
            ("page=3", (0, 250)),
            ("perpage=0&page=2", (0, 250)),
            ("perpage=x", (0, 250)),
            ("perpage=2&page=18446744073709551615", (usize::MAX, 2)),
        ] {
            assert_eq!(page(query, 250), expected, "{query}");
        }
    }
}
