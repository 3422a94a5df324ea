//! Privilege escalation: nobody grants a key more than they have themselves.
//!
//! Creating a key grants what the key can do, and so does rotating one, because the manager then holds its new secret.
//! An Admin may grant everything.

use serde_json::{Map, Value};

use crate::actor::Actor;
use crate::keys::name::folded;
use crate::keys::{ExceedsGrant, Role};
use crate::policy::Allow;
use crate::policy::allow::Requirement;
use crate::snapshot::Snapshot;

/// The members of a key's actor that the server sets: a key's own members of these names are ignored.
const RESERVED_MEMBERS: [&str; 4] = ["id", "name", "role", "key_id"];
/// The members of an actor by which an allow block can name one key or account.
const NAMING_MEMBERS: [&str; 5] = ["id", "name", "key", "key_id", "account"];

/// What a manager grants by a key.
pub(super) struct Grant<'k> {
    /// The key's id; `None` for a key that is not created yet.
    pub id: Option<i64>,
    /// The key's name.
    pub name: &'k str,
    /// The key's role.
    pub role: Role,
    /// The members that are added to the key's actor.
    pub actor: &'k Map<String, Value>,
}

/// Checks that a manager with this actor and role may make this grant.
///
/// # Errors
/// [`ExceedsGrant`]: the part of the grant that the manager does not have.
pub(super) fn check(
    manager: &Actor,
    role: Option<Role>,
    grant: &Grant<'_>,
    snapshot: &Snapshot,
) -> Result<(), ExceedsGrant> {
    if role == Some(Role::Admin) {
        return Ok(());
    }
    if role < Some(grant.role) {
        return Err(ExceedsGrant::Role);
    }
    let granted = grant.actor.iter().filter(|(name, _)| !RESERVED_MEMBERS.contains(&name.as_str()));
    for (name, value) in granted {
        if !manager.member(name).is_some_and(|own| includes(own, value)) {
            return Err(ExceedsGrant::Member);
        }
    }
    let policies = snapshot.policies.iter().filter_map(|policy| policy.allow());
    let admin = snapshot.admin.as_ref().and_then(|admin| admin.allow.allow());
    if policies.chain(admin).any(|allow| names_key(allow, grant)) {
        return Err(ExceedsGrant::Name);
    }
    Ok(())
}

/// Whether a manager whose member has the value `own` has the value `granted`: the same one, or each of its elements.
fn includes(own: &Value, granted: &Value) -> bool {
    let has = |wanted: &Value| match own {
        Value::Array(elements) => elements.contains(wanted),
        scalar => scalar == wanted,
    };
    match granted {
        _ if own == granted => true,
        Value::Array(elements) => !elements.is_empty() && elements.iter().all(has),
        scalar => has(scalar),
    }
}

/// Whether an allow block names this key, by its name or id.
fn names_key(allow: &Allow, grant: &Grant<'_>) -> bool {
    let members = match allow {
        Allow::Everyone | Allow::NoOne => return false,
        Allow::Members { members, .. } => members,
    };
    members.iter().filter(|(member, _)| NAMING_MEMBERS.contains(&&**member)).any(|(_, requirement)| {
        match requirement {
            Requirement::Present => false,
            Requirement::AnyOf(values) => values.iter().any(|value| is_key(value, grant)),
        }
    })
}

/// Whether a value of an allow block is the name or the id of this key.
fn is_key(value: &Value, grant: &Grant<'_>) -> bool {
    match value {
        Value::String(text) => {
            let text = folded(text);
            let bare =
                ["key:", "sa:"].into_iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text);
            let name = folded(grant.name);
            bare == name || text == name || grant.id.is_some_and(|id| text == id.to_string())
        }
        Value::Number(number) => {
            let is_id = grant.id.is_some_and(|id| number.as_f64() == Some(id as f64));
            is_id || number.to_string() == grant.name
        }
        Value::Array(values) => values.iter().any(|value| is_key(value, grant)),
        Value::Object(members) => members.values().any(|value| is_key(value, grant)),
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manager_has_a_value_or_each_of_its_elements() {
        for (own, granted, expected) in [
            (json!("ops"), json!("ops"), true),
            (json!("ops"), json!(["ops"]), true),
            (json!(["ops", "dev"]), json!("ops"), true),
            (json!(["ops", "dev"]), json!(["dev"]), true),
            (json!(["ops", "dev"]), json!(["dev", "ops"]), true),
            (json!(["ops", "dev"]), json!(["dev", "boss"]), false),
            (json!("ops"), json!("Ops"), false),
            (json!("ops"), json!(null), false),
            (json!("ops"), json!([]), false),
            (json!([]), json!([]), true),
            (json!([]), json!("ops"), false),
            (json!("1"), json!(1), false),
            (json!(true), json!(true), true),
            (json!({"a": 1}), json!({"a": 1}), true),
            (json!({"a": 1}), json!({"a": 2}), false),
            (json!([["ops"]]), json!("ops"), false),
            (json!([["ops"]]), json!([["ops"]]), true),
        ] {
            assert_eq!(includes(&own, &granted), expected, "{own} {granted}");
        }
    }

    #[test]
    fn an_allow_block_names_a_key_by_its_name_or_id() {
        let actor = Map::new();
        let grant = Grant { id: Some(7), name: "deploy", role: Role::Viewer, actor: &actor };
        for (allow, expected) in [
            (json!({"id": "key:deploy"}), true),
            (json!({"id": ["root", "key:deploy"]}), true),
            (json!({"id": "sa:deploy"}), true),
            (json!({"id": "deploy"}), true),
            (json!({"name": "deploy"}), true),
            (json!({"name": ["x", "Deploy"]}), true),
            (json!({"key": "deploy"}), true),
            (json!({"account": "deploy"}), true),
            (json!({"key_id": 7}), true),
            (json!({"key_id": [1, 7.0]}), true),
            (json!({"key_id": "7"}), true),
            (json!({"role": "x", "id": "key:deploy"}), true),
            (json!({"id": "key:deploy-2", "key_id": 8, "role": "deploy"}), false),
            (json!({"id": "*", "team": "deploy"}), false),
            (json!(true), false),
            (json!(false), false),
        ] {
            assert_eq!(names_key(&Allow::new(&allow).unwrap(), &grant), expected, "{allow}");
        }
    }
}
