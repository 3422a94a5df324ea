//! The rules for names, values and lives of keys and service accounts, for every caller.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use utoipa::openapi::schema::{ArrayBuilder, Object, ObjectBuilder, SchemaType, Type};

use crate::actor::{Actor, MAX_NESTING, nests_too_deep};
use crate::admin::auth::Manager;
use crate::admin::body::Members;
use crate::admin::error::{ApiError, InvalidKind};
use crate::keys::name::{is_description, is_name};
use crate::keys::{KeySettings, MAX_ACTOR_BYTES, MAX_DESCRIPTION, MAX_POLICIES, Role};
use crate::snapshot::{NameOwner, Snapshot};

/// Reads a name that is required.
///
/// # Errors
/// 400: it is missing, or none.
pub(in crate::admin) fn read_name(members: &mut Members) -> Result<String, ApiError> {
    let name = members.required_string("name")?;
    check_spelling(&name)?;
    Ok(name)
}

/// Checks that a text can be a name.
///
/// # Errors
/// 400.
pub(in crate::admin) fn check_spelling(name: &str) -> Result<(), ApiError> {
    if is_name(name) {
        return Ok(());
    }
    let problem = "a name is 1 to 190 printable characters of one script without blanks at the ends";
    Err(ApiError::invalid(InvalidKind::Name, "name", problem))
}

/// Checks that the configuration does not use the name; an Admin may use the name of a user.
///
/// # Errors
/// 409.
pub(in crate::admin) fn check_name(
    name: &str,
    manager: &Manager,
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    let reserved = |problem: &str| Err(ApiError::invalid(InvalidKind::NameReserved, "name", problem));
    match snapshot.name_owner(name) {
        None => Ok(()),
        Some(NameOwner::User) if manager.role() == Some(Role::Admin) => Ok(()),
        Some(NameOwner::User) => {
            reserved("a user of the configuration has this name, and an Admin alone may give it")
        }
        Some(NameOwner::Actor) => {
            reserved("a user or a token of the configuration, or one of their actors, has this name")
        }
    }
}

/// Reads a role; `None` where there is none.
///
/// # Errors
/// 400.
pub(in crate::admin) fn read_role(
    members: &mut Members,
    field: &'static str,
) -> Result<Option<Role>, ApiError> {
    members.string(field)?.map(|text| parse_role(&text)).transpose()
}

/// The role of this name.
///
/// # Errors
/// 400.
pub(in crate::admin) fn parse_role(text: &str) -> Result<Role, ApiError> {
    let invalid = || ApiError::invalid(InvalidKind::Role, "role", "expected Viewer, Editor or Admin");
    Role::parse(text).ok_or_else(invalid)
}

/// Reads a description; an empty one is none.
///
/// # Errors
/// 400.
pub(in crate::admin) fn read_description(
    members: &mut Members,
    field: &'static str,
) -> Result<Option<String>, ApiError> {
    let description = members.string(field)?.filter(|text| !text.is_empty());
    if description.as_deref().is_none_or(is_description) {
        return Ok(description);
    }
    let problem = format!("a description has at most {MAX_DESCRIPTION} printable characters in one line");
    Err(ApiError::invalid(InvalidKind::Description, field, problem))
}

/// Checks that `actor` has only members that the configuration lists, and is not too large.
///
/// # Errors
/// 400.
pub(in crate::admin) fn check_actor(
    actor: &Map<String, Value>,
    settings: &KeySettings,
) -> Result<(), ApiError> {
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
///
/// # Errors
/// 400.
pub(in crate::admin) fn check_policies(policies: &[String], snapshot: &Snapshot) -> Result<(), ApiError> {
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

/// Checks that the headers of a key with this actor fit into the answer to a Check: otherwise every Check would be denied.
/// `field` is the member that is to be shorter.
///
/// # Errors
/// 400.
pub(in crate::admin) fn check_headers(
    actor: &Actor,
    field: &'static str,
    snapshot: &Snapshot,
) -> Result<(), ApiError> {
    if snapshot.headers_fit(actor) {
        return Ok(());
    }
    let problem = "the key's actor headers are larger than an answer can hold: 8 KiB together";
    Err(ApiError::invalid(InvalidKind::HeadersTooLarge, field, problem))
}

/// The instant at which the key expires; `None`: never.  In whole seconds, as in Grafana.
///
/// # Errors
/// 400: it is below zero, beyond the maximum, or after the last instant.
pub(in crate::admin) fn expiry(
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

/// One of the roles, for the document.
pub(in crate::admin) fn role_schema() -> Object {
    let roles = [Role::Viewer, Role::Editor, Role::Admin].map(Role::as_str);
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(roles)).build()
}

/// A list of policies, or null, for the document.
pub(in crate::admin) fn policies_schema() -> ArrayBuilder {
    ArrayBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
        .items(ObjectBuilder::new().schema_type(Type::String))
        .max_items(Some(MAX_POLICIES))
        .unique_items(true)
        .description(Some("The only policies under which the key counts."))
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
}
