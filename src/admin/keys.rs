//! The key API: list, show, create, revoke, rotate, delete.  Paths, bodies and messages are Grafana's.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};
use utoipa::{IntoParams, ToSchema};

use super::audit::ChangeAttempt;
use super::auth::{Manager, Writable};
use super::body::{Json, Members, Message, RequestBody, parameter};
use super::error::{ApiError, InvalidKind};
use super::responses::{BodyErrors, CallerErrors, ConflictErrors, NotFoundErrors, PermissionErrors};
use super::{Admin, with_store_timeout};
use crate::actor::{Actor, MAX_NESTING, nests_too_deep};
use crate::deny_reason::DenyReason;
use crate::keys::name::is_name;
use crate::keys::store::source::MAX_PAGE;
use crate::keys::store::{KeyFilter, KeyOrder, ListPosition};
use crate::keys::{
    Changed, CreateKey, Key, KeyOwner, KeySettings, MAX_ACTOR_BYTES, MAX_OVERLAP, MAX_POLICIES, Power, Role,
};
use crate::secret::Secret;
use crate::snapshot::Snapshot;

/// How many keys a list has of which the response is one page.
pub(super) const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// A key as it is listed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub(super) struct ListedKey {
    id: i64,
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    /// Left out when it is its account's, or its owner's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = role_schema)]
    role: Option<&'static str>,
    /// Left out when the key never expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expiration: Option<String>,
    /// Left out when the key was never used; exact to a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    last_used_at: Option<String>,
    #[schema(format = DateTime)]
    created: String,
    /// Left out when it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_revoked: bool,
}

impl From<Key> for ListedKey {
    fn from(key: Key) -> Self {
        Self {
            id: key.id,
            name: key.name,
            role: key.role.map(Role::as_str),
            expiration: key.expires_at.map(|at| at.to_string()),
            last_used_at: key.last_used_at.map(|at| at.to_string()),
            created: key.created_at.to_string(),
            is_revoked: key.revoked_at.is_some(),
        }
    }
}

/// A key with its token, which no other response holds.
#[derive(Serialize, ToSchema)]
#[schema(as = Created)]
pub(super) struct IssuedKey {
    pub id: i64,
    #[schema(min_length = 1, max_length = 190)]
    pub name: String,
    /// The token.
    #[serde(serialize_with = "expose")]
    #[schema(value_type = String)]
    pub key: Secret,
}

pub(super) fn role_schema() -> Object {
    let roles = [Role::Viewer, Role::Editor, Role::Admin].map(Role::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(roles)).build()
}

fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// The query of `GET /api/auth/keys`.  A value that cannot be read counts as missing, as in Grafana.
#[derive(Debug, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The expired and the revoked ones, too.
    #[param(rename = "includeExpired", required = false)]
    include_expired: bool,
    /// So many at a time.
    #[param(rename = "perpage", minimum = 1, maximum = 1000, nullable = false)]
    per_page: Option<u32>,
    /// Which of the pages, from 1 on.
    #[param(minimum = 1, nullable = false)]
    page: Option<u64>,
}

impl ListQuery {
    /// # Errors
    /// 400: `perpage` is more than a page holds.
    fn parse(query: &str) -> Result<Self, ApiError> {
        let number = |name| {
            parameter(query, name).and_then(|value| value.parse::<u64>().ok()).filter(|&number| number > 0)
        };
        // The values that Go's ParseBool takes for true, as Grafana does.
        let include_expired = parameter(query, "includeExpired")
            .is_some_and(|value| matches!(&*value, "1" | "t" | "T" | "true" | "True" | "TRUE"));
        let per_page = match number("perpage").map(u32::try_from) {
            None => None,
            Some(Ok(per_page)) if per_page as usize <= MAX_PAGE => Some(per_page),
            Some(Ok(_) | Err(_)) => {
                let problem = format!("expected 1 to {MAX_PAGE}; without it the list is whole");
                return Err(ApiError::invalid(InvalidKind::PerPage, "perpage", problem));
            }
        };
        Ok(Self { include_expired, per_page, page: number("page") })
    }

    /// The page that is asked for: how many keys come before it, and how many it has at most.  `None` is the whole list.
    fn page(&self) -> Option<(u64, u32)> {
        let per_page = self.per_page?;
        Some(((self.page.unwrap_or(1) - 1).saturating_mul(per_page.into()), per_page))
    }

    fn filter(&self, now: Timestamp) -> KeyFilter {
        KeyFilter { live_at: (!self.include_expired).then_some(now), ..KeyFilter::default() }
    }
}

impl<S: Sync> FromRequestParts<S> for ListQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

/// The id in the path.
#[derive(Clone, Copy)]
pub(super) struct KeyId(i64);

impl<S: Send + Sync> FromRequestParts<S> for KeyId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        let Path(id) = id.map_err(|_| ApiError::InvalidId)?;
        Ok(Self(id.parse().map_err(|_| ApiError::InvalidId)?))
    }
}

/// The keys, by name
///
/// All live ones, or a page of them when perpage asks for one. Names are compared by their bytes. A list that breaks
/// off on the way ends without its closing bracket and last chunk.
#[utoipa::path(
    get,
    path = "/api/auth/keys",
    operation_id = "listKeys",
    tag = "keys",
    params(ListQuery),
    responses(
        (
            status = OK, description = "The keys", body = Vec<ListedKey>,
            headers(("X-Total-Count" = u64, description = "With perpage: how many keys the whole list has"))
        ),
        CallerErrors,
        PermissionErrors,
    ),
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    _: Manager,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let filter = query.filter(admin.clock.now());
    let Some((offset, limit)) = query.page() else {
        return list_all(admin, filter, ListedKey::from).await;
    };
    let page =
        with_store_timeout(admin.keys.list_page(&filter, KeyOrder::default(), offset, limit)).await??;
    let keys: Vec<ListedKey> = page.keys.into_iter().map(ListedKey::from).collect();
    Ok(([(TOTAL_COUNT, page.total)], Json(keys)).into_response())
}

/// The whole list, each key as `item` shows it.  It is read and written page by page, the next page once the client has
/// taken the one before, so that no list takes more memory than a page.  Its status is sent once the first page was read.
pub(super) async fn list_all<T: Serialize + 'static>(
    admin: Arc<Admin>,
    filter: KeyFilter,
    item: impl Fn(Key) -> T + Send + 'static,
) -> Result<Response, ApiError> {
    let permit = Arc::clone(&admin.list_permits).acquire_owned();
    let permit = with_store_timeout(permit).await.map_err(|_| DenyReason::Overloaded)?;
    let list = ListStream {
        admin,
        filter,
        item,
        next: Some(ListPosition::START),
        is_first: true,
        _permit: permit.map_err(|_| ApiError::Internal)?,
    };
    let Some((first, list)) = list.next_page().await? else {
        return Err(ApiError::Internal);
    };
    if list.next.is_none() {
        return Ok(([(CONTENT_TYPE, "application/json")], first).into_response());
    }
    let rest = stream::try_unfold(list, ListStream::next_page);
    let body = Body::from_stream(stream::iter([Ok(first)]).chain(rest));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// A list of all keys that is being written.
struct ListStream<F> {
    admin: Arc<Admin>,
    filter: KeyFilter,
    /// How a key is shown.
    item: F,
    /// Where the next page begins; `None` after the last one.
    next: Option<ListPosition>,
    /// No page was written yet.
    is_first: bool,
    _permit: OwnedSemaphorePermit,
}

impl<T: Serialize, F: Fn(Key) -> T> ListStream<F> {
    /// The next page as a part of a JSON array, and what is left.
    async fn next_page(mut self) -> Result<Option<(Vec<u8>, Self)>, ApiError> {
        let Some(position) = &self.next else {
            return Ok(None);
        };
        let page = with_store_timeout(self.admin.keys.list_after(&self.filter, position)).await??;
        let mut text = Vec::new();
        for key in page.keys {
            text.push(if self.is_first { b'[' } else { b',' });
            self.is_first = false;
            serde_json::to_writer(&mut text, &(self.item)(key)).map_err(|_| ApiError::Internal)?;
        }
        self.next = page.next;
        if self.next.is_none() {
            text.extend_from_slice(if self.is_first { b"[]" } else { b"]" });
        }
        Ok(Some((text, self)))
    }
}

/// One key, live or dead
#[utoipa::path(
    get,
    path = "/api/auth/keys/{id}",
    operation_id = "getKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "The key", body = ListedKey),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(super) async fn show(
    State(admin): State<Arc<Admin>>,
    _: Manager,
    id: KeyId,
) -> Result<Json<ListedKey>, ApiError> {
    Ok(Json(admin.key(id).await?.into()))
}

/// The key to create.
#[derive(ToSchema)]
#[schema(as = NewKey, rename_all = "camelCase")]
pub(super) struct NewKeyBody {
    /// Printable, of one script, without blanks at the ends, and no name of a live key, a user or a configured token.
    #[schema(min_length = 1, max_length = 190)]
    name: String,
    #[schema(schema_with = role_schema)]
    role: Role,
    /// Without it, or with 0, the key never expires, where keys.max_seconds_to_live lets it.
    #[schema(minimum = 0)]
    seconds_to_live: Option<i64>,
    /// More members of the key's actor, of those that keys.actor_members lists.
    #[schema(value_type = Option<Object>)]
    actor: Map<String, Value>,
    #[schema(schema_with = policies_schema)]
    policies: Option<Vec<String>>,
}

pub(super) fn policies_schema() -> ArrayBuilder {
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(ObjectBuilder::new().schema_type(Type::String))
        .max_items(Some(MAX_POLICIES))
        .unique_items(true)
        .description(Some("The only policies under which the key counts."))
}

impl RequestBody for NewKeyBody {
    const MEMBERS: &'static [&'static str] = &["name", "role", "secondsToLive", "actor", "policies"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let name = members.required_string("name")?;
        if !is_name(&name) {
            let problem = "a name is 1 to 190 printable characters of one script without blanks at the ends";
            return Err(ApiError::invalid(InvalidKind::Name, "name", problem));
        }
        let role = members.required_string("role")?;
        let seconds_to_live = members.integer("secondsToLive")?;
        let actor = members.object("actor")?.unwrap_or_default();
        let policies = members.strings("policies")?;
        let invalid_role =
            || ApiError::invalid(InvalidKind::Role, "role", "expected Viewer, Editor or Admin");
        let role = Role::parse(&role).ok_or_else(invalid_role)?;
        Ok(Self { name, role, seconds_to_live, actor, policies })
    }
}

/// Create a key
#[utoipa::path(
    post,
    path = "/api/auth/keys",
    operation_id = "createKey",
    tag = "keys",
    request_body = NewKeyBody,
    responses(
        (status = OK, description = "The key, whose token is shown this once", body = IssuedKey),
        CallerErrors,
        PermissionErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(super) async fn create(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    Json(new): Json<NewKeyBody>,
) -> Result<Json<IssuedKey>, ApiError> {
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    let NewKeyBody { name, role, seconds_to_live, actor, policies } = new;
    check_actor(&actor, settings)?;
    check_policies(policies.as_deref().unwrap_or_default(), &snapshot)?;
    attempt.set_key(&name, Some(role));
    manager.check_role(role)?;
    check_headers(&name, role, &actor, &snapshot)?;
    let expires_at = expiry(seconds_to_live.unwrap_or(0), settings, admin.clock.now())?;
    if snapshot.has_name(&name) {
        let problem = "a user or a token of the configuration, or one of their actors, has this name";
        return Err(ApiError::invalid(InvalidKind::NameReserved, "name", problem));
    }
    let new = CreateKey {
        name,
        description: None,
        owner: KeyOwner::Nobody,
        role: Some(role),
        expires_at,
        actor,
        policies,
    };
    let author = manager.author(&attempt);
    let grant_check = |power: &Power<'_>| manager.check_grant(power, &snapshot);
    let (key, secret) = with_store_timeout(admin.keys.create(settings, new, &author, &grant_check)).await??;
    attempt.log_change("API key created", manager.principal(), None, Some(&key));
    Ok(Json(IssuedKey { id: key.id, name: key.name, key: secret }))
}

/// Checks that `actor` has only members that the configuration lists, and is not too large.
pub(super) fn check_actor(actor: &Map<String, Value>, settings: &KeySettings) -> Result<(), ApiError> {
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

/// Checks that `policies` names policies of the configuration, each once.
pub(super) fn check_policies(policies: &[String], snapshot: &Snapshot) -> Result<(), ApiError> {
    if policies.len() > MAX_POLICIES {
        let problem = format!("has {} names, and {MAX_POLICIES} is the most", policies.len());
        return Err(ApiError::invalid(InvalidKind::Policies, "policies", problem));
    }
    if !policies.iter().all(|policy| snapshot.has_named_policy(policy)) {
        let problem = "expected names that stand under policies in the configuration";
        return Err(ApiError::invalid(InvalidKind::UnknownPolicy, "policies", problem));
    }
    let mut names = HashSet::new();
    if !policies.iter().all(|policy| names.insert(policy)) {
        return Err(ApiError::invalid(InvalidKind::Policies, "policies", "names one policy twice"));
    }
    Ok(())
}

/// Checks that the key's actor headers fit into the answer to a Check: otherwise every Check would be denied.
fn check_headers(
    name: &str,
    role: Role,
    actor: &Map<String, Value>,
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    let key = Actor::of_key(name, role.as_str(), i64::MAX, actor);
    if snapshot.headers_fit(&key) {
        return Ok(());
    }
    let field = if actor.is_empty() { "name" } else { "actor" };
    let problem = "the key's actor headers are larger than an answer can hold: 8 KiB together";
    Err(ApiError::invalid(InvalidKind::HeadersTooLarge, field, problem))
}

/// The instant at which the key expires; `None` is never.  In whole seconds, as Grafana counts.
pub(super) fn expiry(
    seconds_to_live: i64,
    settings: &KeySettings,
    now: Timestamp,
) -> Result<Option<Timestamp>, ApiError> {
    let invalid = |kind, problem: String| Err(ApiError::invalid(kind, "secondsToLive", problem));
    if seconds_to_live < 0 {
        return invalid(InvalidKind::NegativeLife, "expected a number of seconds above zero".into());
    }
    let max = settings.max_seconds_to_live;
    if max >= 0 && seconds_to_live == 0 {
        let expected = match max {
            0 => "keys.max_seconds_to_live is 0: no keys are made here".to_owned(),
            max => format!("expected 1 to {max} (keys.max_seconds_to_live)"),
        };
        return invalid(InvalidKind::LifeNotSet, expected);
    }
    if max >= 0 && seconds_to_live > max {
        let expected = match max {
            0 => "keys.max_seconds_to_live is 0: no keys are made here".to_owned(),
            max => format!("expected at most {max} (keys.max_seconds_to_live)"),
        };
        return invalid(InvalidKind::LifeTooLong, expected);
    }
    if seconds_to_live == 0 {
        return Ok(None);
    }
    let now = Timestamp::from_second(now.as_second()).map_err(|_| ApiError::Internal)?;
    match now.checked_add(SignedDuration::from_secs(seconds_to_live)) {
        Ok(expires_at) => Ok(Some(expires_at)),
        Err(_) => {
            let problem =
                "the key would expire after the year 9999; leave it out for a key that never expires";
            invalid(InvalidKind::LifeOverflow, problem.into())
        }
    }
}

/// Delete a key
#[utoipa::path(
    delete,
    path = "/api/auth/keys/{id}",
    operation_id = "deleteKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "It is deleted", body = Message),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(super) async fn delete(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
) -> Result<Json<Message>, ApiError> {
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let author = manager.author(&attempt);
    let end_check = |power: &Power<'_>| manager.check_end(power);
    let key = with_store_timeout(admin.keys.delete(key.id, &author, &end_check)).await??;
    attempt.log_change("API key deleted", manager.principal(), Some(&key), None);
    Ok(Json(Message { message: "API key deleted" }))
}

/// Revoke a key, which stays in the list of the dead
#[utoipa::path(
    post,
    path = "/api/auth/keys/{id}/revoke",
    operation_id = "revokeKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    responses(
        (status = OK, description = "It is revoked, now or before", body = Message),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
    ),
)]
pub(super) async fn revoke(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
) -> Result<Json<Message>, ApiError> {
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let author = manager.author(&attempt);
    let end_check = |power: &Power<'_>| manager.check_end(power);
    let Changed { before, after } =
        with_store_timeout(admin.keys.revoke(key.id, &author, &end_check)).await??;
    attempt.log_change("API key revoked", manager.principal(), before.as_ref(), after.as_ref());
    Ok(Json(Message { message: "API key revoked" }))
}

/// How a key is rotated; the body may be empty.
#[derive(Default, ToSchema)]
#[schema(rename_all = "camelCase")]
pub(super) struct Rotation {
    /// How long the replaced token goes on working.
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 604_800, default = 0)]
    overlap_seconds: i64,
}

impl RequestBody for Rotation {
    const MEMBERS: &'static [&'static str] = &["overlapSeconds"];

    fn read(members: &mut Members) -> Result<Self, ApiError> {
        let overlap_seconds = members.integer("overlapSeconds")?.unwrap_or(0);
        if !(0..=MAX_OVERLAP).contains(&overlap_seconds) {
            let problem = format!("expected 0 to {MAX_OVERLAP} (seven days)");
            return Err(ApiError::invalid(InvalidKind::Overlap, "overlapSeconds", problem));
        }
        Ok(Self { overlap_seconds })
    }
}

/// Give a key another token
///
/// Its expiry stays, unless it is later than keys.max_seconds_to_live from now. The old token works for
/// overlapSeconds more, and no longer than the key.
#[utoipa::path(
    post,
    path = "/api/auth/keys/{id}/rotate",
    operation_id = "rotateKey",
    tag = "keys",
    params(("id" = i64, Path, description = "The id of the key")),
    request_body = Rotation,
    responses(
        (status = OK, description = "The key, whose new token is shown this once", body = IssuedKey),
        CallerErrors,
        PermissionErrors,
        NotFoundErrors,
        BodyErrors,
        ConflictErrors,
    ),
)]
pub(super) async fn rotate(
    State(admin): State<Arc<Admin>>,
    manager: Manager,
    _: Writable,
    attempt: ChangeAttempt,
    id: KeyId,
    body: Option<Json<Rotation>>,
) -> Result<Json<IssuedKey>, ApiError> {
    let Rotation { overlap_seconds } = body.map(|Json(body)| body).unwrap_or_default();
    let key = admin.managed_key(id, &manager, &attempt).await?;
    let snapshot = admin.authorizer.snapshot();
    let settings = snapshot.keys.as_ref().ok_or(ApiError::Internal)?;
    if settings.max_seconds_to_live == 0 {
        let problem = "keys.max_seconds_to_live is 0: no keys are made here";
        return Err(ApiError::invalid(InvalidKind::LifeTooLong, "secondsToLive", problem));
    }
    // In the store's transaction: the key's row and the rules as they are then.
    let grant_check = |power: &Power<'_>| manager.check_grant(power, &admin.authorizer.snapshot());
    let author = manager.author(&attempt);
    let rotation = admin.keys.rotate(settings, key.id, overlap_seconds, &author, &grant_check);
    let (Changed { before, after }, secret) = with_store_timeout(rotation).await??;
    attempt.log_change("API key rotated", manager.principal(), before.as_ref(), after.as_ref());
    let rotated = after.ok_or(ApiError::Internal)?;
    Ok(Json(IssuedKey { id: rotated.id, name: rotated.name, key: secret }))
}

impl Admin {
    async fn key(&self, KeyId(id): KeyId) -> Result<Key, ApiError> {
        with_store_timeout(self.keys.get(id)).await??.ok_or(ApiError::KeyNotFound)
    }

    /// The key that a manager is about to change.  Its role never changes, and its id is never used again.
    async fn managed_key(
        &self,
        id: KeyId,
        manager: &Manager,
        attempt: &ChangeAttempt,
    ) -> Result<Key, ApiError> {
        let key = self.key(id).await?;
        attempt.set_key(&key.name, key.role);
        if let Some(role) = key.role {
            manager.check_role(role)?;
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn seconds_to_live_become_an_expiry_or_an_error() {
        let settings = |max_seconds_to_live| KeySettings {
            max_seconds_to_live,
            prefix: "eat".into(),
            quota: None,
            actor_members: [].into(),
            max_staleness: None,
            ready_without_store: None,
            forget_after: None,
            max_idle: None,
            default_seconds_to_live: 0,
            person_max_idle: Duration::from_secs(0),
            tell_expiry: None,
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
        for (max, seconds, expected) in cases {
            let expires_at = expiry(seconds, &settings(max), now).map(|at| at.map(|at| at.to_string()));
            let expires_at = expires_at.map_err(|error| error.reason());
            assert_eq!(expires_at, expected.map(|at| at.map(str::to_owned)), "{max} {seconds}");
        }
    }

    #[test]
    fn a_page_is_a_range_of_the_list() {
        for (query, expected) in [
            ("", None),
            ("perpage=100", Some((0, 100))),
            ("perpage=100&page=3", Some((200, 100))),
            ("page=3", None),
            ("perpage=0&page=2", None),
            ("perpage=x", None),
            ("perpage=1000", Some((0, 1000))),
            ("perpage=2&page=18446744073709551615", Some((u64::MAX, 2))),
        ] {
            let query_ = ListQuery::parse(query).unwrap();
            assert_eq!(query_.page(), expected, "{query}");
        }
        for query in ["perpage=1001", "perpage=18446744073709551615"] {
            assert_eq!(ListQuery::parse(query).unwrap_err().reason(), "invalid_perpage", "{query}");
        }
    }
}
