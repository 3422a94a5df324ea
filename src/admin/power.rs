//! Who may give what: nobody gives a key a power that they do not have themselves.
//!
//! To make a key is to give, and so is to rotate one: whoever rotates holds its new secret.  An Admin may give all.

use serde_json::{Map, Value};

use crate::actor::Actor;
use crate::config::Rules;
use crate::keys::name::folded;
use crate::keys::{ExceedsGrant, Role};
use crate::policy::Allow;
use crate::policy::allow::Requirement;

/// The four members that the server writes itself; a key's own never replace them.
const SERVERS_OWN: [&str; 4] = ["id", "name", "role", "key_id"];
/// The members of an actor by which an allow block can mean one key or account.
const NAMING: [&str; 5] = ["id", "name", "key", "key_id", "account"];

/// What a key can do.
pub(super) struct Power<'k> {
    /// Its id; `None` when it has none yet.
    pub id: Option<i64>,
    /// Its name.
    pub name: &'k str,
    /// Its role.
    pub role: Role,
    /// Its own members.
    pub actor: &'k Map<String, Value>,
}

/// Whether somebody with this actor and role may give this.
///
/// # Errors
/// [`ExceedsGrant`]: what they have not.
pub(super) fn may_give(
    giver: &Actor,
    role: Option<Role>,
    power: &Power<'_>,
    rules: &Rules,
) -> Result<(), ExceedsGrant> {
    if role == Some(Role::Admin) {
        return Ok(());
    }
    if role < Some(power.role) {
        return Err(ExceedsGrant::Role);
    }
    let given = power.actor.iter().filter(|(name, _)| !SERVERS_OWN.contains(&name.as_str()));
    for (name, value) in given {
        if !giver.member(name).is_some_and(|own| includes(own, value)) {
            return Err(ExceedsGrant::Member);
        }
    }
    let policies = rules.policies.iter().filter_map(|policy| policy.allow());
    let admin = rules.admin.as_ref().and_then(|admin| admin.allow.allow());
    if policies.chain(admin).any(|allow| speaks_of(allow, power)) {
        return Err(ExceedsGrant::Name);
    }
    Ok(())
}

/// Whether somebody whose member is `own` has this value: the same, or each element of it.
fn includes(own: &Value, given: &Value) -> bool {
    let has = |requirement: &Value| match own {
        Value::Array(elements) => elements.contains(requirement),
        scalar => scalar == requirement,
    };
    match given {
        _ if own == given => true,
        Value::Array(elements) => !elements.is_empty() && elements.iter().all(has),
        scalar => has(scalar),
    }
}

/// Whether an allow block means this key by its name or id.
fn speaks_of(allow: &Allow, power: &Power<'_>) -> bool {
    let members = match allow {
        Allow::Everyone | Allow::NoOne => return false,
        Allow::Members { members, .. } => members,
    };
    members.iter().filter(|(member, _)| NAMING.contains(&&**member)).any(|(_, requirement)| match requirement
    {
        Requirement::Present => false,
        Requirement::AnyOf(values) => values.iter().any(|value| names(value, power)),
    })
}

fn names(value: &Value, power: &Power<'_>) -> bool {
    match value {
        Value::String(text) => {
            let text = folded(text);
            let bare =
                ["key:", "sa:"].into_iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text);
            let name = folded(power.name);
            bare == name || text == name || power.id.is_some_and(|id| text == id.to_string())
        }
        Value::Number(number) => {
            let is_id = power.id.is_some_and(|id| number.as_f64() == Some(id as f64));
            is_id || number.to_string() == power.name
        }
        Value::Array(values) => values.iter().any(|value| names(value, power)),
        Value::Object(members) => members.values().any(|value| names(value, power)),
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_somebody_has() {
        for (own, given, expected) in [
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
            assert_eq!(includes(&own, &given), expected, "{own} {given}");
        }
    }

    #[test]
    fn keys_that_an_allow_block_means() {
        let actor = Map::new();
        let power = Power { id: Some(7), name: "deploy", role: Role::Viewer, actor: &actor };
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
            assert_eq!(speaks_of(&Allow::new(&allow).unwrap(), &power), expected, "{allow}");
        }
    }
}
