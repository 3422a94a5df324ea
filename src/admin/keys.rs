//! The key API: list, create, show, rotate, revoke, delete.  Paths, bodies and messages are Grafana's.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::audit;
use super::auth::{self, Manager};
use super::body::JsonBody;
use super::error::{ApiError, InvalidKind};
use super::grant::Grant;
use super::{Admin, with_store_timeout};
use crate::actor::{Actor, MAX_NESTING, nests_too_deep};
use crate::config::Rules;
use crate::keys::name::is_name;
use crate::keys::service::{CreateKey, Settings};
use crate::keys::{Key, MAX_ACTOR_BYTES, MAX_OVERLAP, MAX_POLICIES, Role, Status};
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
    let mut keys = with_store_timeout(admin.keys.list()).await??;
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

/// `POST /api/auth/keys`
pub(super) async fn create(State(admin): State<Arc<Admin>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let members = ["name", "role", "secondsToLive", "actor", "policies"];
    let mut body = JsonBody::read(&parts, body, &members).await?;
    let rules = admin.authorizer.rules();
    let settings = rules.keys.as_ref().ok_or(ApiError::Internal)?;

    let name = body.required_text("name")?;
    if !is_name(&name) {
        return Err(ApiError::invalid(InvalidKind::Name, "name", NAMES));
    }
    let role = body.required_text("role")?;
    let seconds_to_live = body.whole_number("secondsToLive")?;
    let actor = body.object("actor")?.unwrap_or_default();
    check_actor(&actor, settings)?;
    let policies = body.texts("policies")?;
    check_policies(policies.as_deref().unwrap_or_default(), &rules)?;
    let unknown_role = || ApiError::invalid(InvalidKind::Role, "role", "expected Viewer, Editor or Admin");
    let role = Role::parse(&role).ok_or_else(unknown_role)?;
    audit::note_key(&parts, &name, role);
    manager.may_manage(role)?;
    manager.check_grant(&Grant { id: None, name: &name, role, actor: &actor }, &rules)?;
    check_headers(&name, role, &actor, &rules)?;
    let expires_at = expiry(seconds_to_live.unwrap_or(0), settings, admin.clock.now())?;
    if rules.has_name(&name) {
        let problem = "a user or a token of the configuration, or one of their actors, has this name";
        return Err(ApiError::invalid(InvalidKind::NameReserved, "name", problem));
    }
    let created_by = manager.id();
    let ask = CreateKey { name, role, expires_at, actor, policies, created_by };
    let (key, secret) = with_store_timeout(admin.keys.create(settings, ask)).await??;
    audit::changed(&parts, "API key created", &manager, None, Some(&key));
    Ok(with_secret(&key, &secret))
}

/// What a key may be called, for whoever gave it another name.
const NAMES: &str = "a name is 1 to 190 printable characters of one script without blanks at the ends";

/// Only members that the configuration lists, and not too much of them.
fn check_actor(actor: &Map<String, Value>, settings: &Settings) -> Result<(), ApiError> {
    let invalid = |problem| Err(ApiError::invalid(InvalidKind::Actor, "actor", problem));
    let listed = &settings.actor_members;
    if !actor.keys().all(|name| listed.iter().any(|listed| **listed == **name)) {
        return invalid(match &**listed {
            [] => "no members may be added: keys.actor_members lists none".to_owned(),
            listed => format!("only these members may be added (keys.actor_members): {}", listed.join(", ")),
        });
    }
    let bytes = serde_json::to_vec(actor).map_or(usize::MAX, |encoded| encoded.len());
    if bytes > MAX_ACTOR_BYTES {
        return invalid(format!("takes {bytes} bytes as JSON, and {MAX_ACTOR_BYTES} is the most"));
    }
    if nests_too_deep(actor) {
        return invalid(format!("nests lists and objects deeper than {MAX_NESTING} levels"));
    }
    Ok(())
}

/// Policies of the configuration, each once.
fn check_policies(policies: &[String], rules: &Rules) -> Result<(), ApiError> {
    if policies.len() > MAX_POLICIES {
        let problem = format!("has {} names, and {MAX_POLICIES} is the most", policies.len());
        return Err(ApiError::invalid(InvalidKind::Policies, "policies", problem));
    }
    if !policies.iter().all(|policy| rules.has_named_policy(policy)) {
        let problem = "expected names that stand under policies in the configuration";
        return Err(ApiError::invalid(InvalidKind::UnknownPolicy, "policies", problem));
    }
    let mut names = HashSet::new();
    if !policies.iter().all(|policy| names.insert(policy)) {
        return Err(ApiError::invalid(InvalidKind::Policies, "policies", "names one policy twice"));
    }
    Ok(())
}

/// A key whose actor headers are too large for an answer would be denied at every Check.
fn check_headers(name: &str, role: Role, actor: &Map<String, Value>, rules: &Rules) -> Result<(), ApiError> {
    let key = Actor::of_key(name, role.as_str(), i64::MAX, actor);
    if rules.headers_fit(&key) {
        return Ok(());
    }
    let field = if actor.is_empty() { "name" } else { "actor" };
    let problem = "the key's actor headers are larger than an answer can hold: 8 KiB together";
    Err(ApiError::invalid(InvalidKind::HeadersTooLarge, field, problem))
}

/// The instant from which on the key is dead; `None` is never.  In whole seconds, as Grafana counts.
fn expiry(seconds_to_live: i64, settings: &Settings, now: Timestamp) -> Result<Option<Timestamp>, ApiError> {
    let invalid = |kind, problem: String| Err(ApiError::invalid(kind, "secondsToLive", problem));
    if seconds_to_live < 0 {
        return invalid(InvalidKind::NegativeLife, "expected a number of seconds above zero".into());
    }
    let longest = settings.max_seconds_to_live;
    if longest >= 0 && seconds_to_live == 0 {
        let expected = match longest {
            0 => "keys.max_seconds_to_live is 0: no keys are made here".to_owned(),
            longest => format!("expected 1 to {longest} (keys.max_seconds_to_live)"),
        };
        return invalid(InvalidKind::LifeNotSet, expected);
    }
    if longest >= 0 && seconds_to_live > longest {
        let expected = match longest {
            0 => "keys.max_seconds_to_live is 0: no keys are made here".to_owned(),
            longest => format!("expected at most {longest} (keys.max_seconds_to_live)"),
        };
        return invalid(InvalidKind::LifeTooLong, expected);
    }
    if seconds_to_live == 0 {
        return Ok(None);
    }
    let whole = Timestamp::from_second(now.as_second()).map_err(|_| ApiError::Internal)?;
    match whole.checked_add(SignedDuration::from_secs(seconds_to_live)) {
        Ok(expires_at) => Ok(Some(expires_at)),
        Err(_) => {
            let problem =
                "the key would expire after the year 9999; leave it out for a key that never expires";
            invalid(InvalidKind::LifeOverflow, problem.into())
        }
    }
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
    if !with_store_timeout(admin.keys.delete(key.id)).await?? {
        return Err(ApiError::KeyNotFound);
    }
    audit::changed(&parts, "API key deleted", &manager, Some(&key), None);
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
    let revoked = with_store_timeout(admin.keys.revoke(key.id, &manager.id())).await??;
    let revoked = revoked.ok_or(ApiError::KeyNotFound)?;
    audit::changed(&parts, "API key revoked", &manager, Some(&key), Some(&revoked));
    Ok(auth::json(&json!({"message": "API key revoked"})))
}

/// `POST /api/auth/keys/{id}/rotate`
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let manager = admin.manager(&parts).await?;
    let body = JsonBody::read_optional(&parts, body, &["overlapSeconds"]).await?;
    let overlap = body.unwrap_or_default().whole_number("overlapSeconds")?.unwrap_or(0);
    if !(0..=MAX_OVERLAP).contains(&overlap) {
        let problem = format!("expected 0 to {MAX_OVERLAP} (seven days)");
        return Err(ApiError::invalid(InvalidKind::Overlap, "overlapSeconds", problem));
    }
    let key = admin.managed_key(&parts, &manager, id).await?;
    let rules = admin.authorizer.rules();
    let settings = rules.keys.as_ref().ok_or(ApiError::Internal)?;
    if settings.max_seconds_to_live == 0 {
        let problem = "keys.max_seconds_to_live is 0: no keys are made here";
        return Err(ApiError::invalid(InvalidKind::LifeTooLong, "secondsToLive", problem));
    }
    // The row as it is when it changes, and the rules in force then.
    let may_give = |key: &Key| {
        let grant = Grant { id: Some(key.id), name: &key.name, role: key.role, actor: &key.actor };
        manager.check_grant(&grant, &admin.authorizer.rules())
    };
    let (rotated, secret) =
        with_store_timeout(admin.keys.rotate(settings, key.id, overlap, &may_give)).await??;
    audit::changed(&parts, "API key rotated", &manager, Some(&key), Some(&rotated));
    Ok(with_secret(&rotated, &secret))
}

impl Admin {
    async fn key(&self, id: i64) -> Result<Key, ApiError> {
        with_store_timeout(self.keys.get(id)).await??.ok_or(ApiError::KeyNotFound)
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
            (-1, -1, Err("negative_life")),
            (-1, 1_000_000_000_000_000_000, Err("life_overflow")),
            (-1, i64::MAX, Err("life_overflow")),
            (60, 60, Ok(Some("2026-11-21T00:01:00Z"))),
            (60, 61, Err("life_too_long")),
            (60, 0, Err("life_not_set")),
            (60, -1, Err("negative_life")),
            (0, 0, Err("life_not_set")),
            (0, 1, Err("life_too_long")),
        ];
        for (longest, seconds, expected) in cases {
            let found = expiry(seconds, &settings(longest), now).map(|at| at.map(|at| at.to_string()));
            let found = found.map_err(|error| error.reason());
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
