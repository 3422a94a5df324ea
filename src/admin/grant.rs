//! Privilege escalation: a caller cannot grant a key more than the caller has.
//!
//! Creating a key grants what the key can do; so do changing and enabling one, and rotating one, because the manager then
//! holds its new secret.  The same holds for service accounts.  An Admin may grant everything.

use serde_json::Value;

use crate::credential::Principal;
use crate::keys::name::folded;
use crate::keys::{ExceedsGrant, KeyOwner, Privileges, Role};
use crate::policy::Allow;
use crate::policy::allow::Requirement;
use crate::snapshot::Snapshot;

/// The members of a key's actor that the server always sets: a key's own members of these names are ignored.
const RESERVED_MEMBERS: [&str; 4] = ["id", "name", "role", "key_id"];
/// The members of an actor by which an allow block can name one key or account.
const NAMING_MEMBERS: [&str; 5] = ["id", "name", "key", "key_id", "account"];

/// Checks that a manager with this principal and role may grant the rights of a key or an account.
///
/// # Errors
/// [`ExceedsGrant`]: the part of it that the manager does not have.
pub(super) fn check(
    manager: &Principal,
    role: Option<Role>,
    privileges: &Privileges<'_>,
    snapshot: &Snapshot,
) -> Result<(), ExceedsGrant> {
    check_life(manager, privileges)?;
    if role == Some(Role::Admin) {
        return Ok(());
    }
    match privileges.owner {
        // A person's key never has more rights than the person, now and later, except for those that its name gives.
        KeyOwner::Person(person) => {
            if manager.person.as_ref().is_none_or(|manager| manager.id != *person) {
                return Err(ExceedsGrant::Owner);
            }
        }
        KeyOwner::None | KeyOwner::Account(_) => {
            if role < privileges.role {
                return Err(ExceedsGrant::Role);
            }
            let granted =
                privileges.actor.iter().filter(|(name, _)| !RESERVED_MEMBERS.contains(&name.as_str()));
            for (name, value) in granted {
                if !manager.actor.member(name).is_some_and(|own| includes(own, value)) {
                    return Err(ExceedsGrant::Member);
                }
            }
        }
    }
    let policies = snapshot.policies.iter().filter_map(|policy| policy.allow());
    let admin = snapshot.admin.iter().flat_map(|admin| admin.allow_blocks());
    if policies.chain(admin).any(|allow| names_key(allow, privileges)) {
        return Err(ExceedsGrant::Name);
    }
    Ok(())
}

/// Checks that a manager with this principal and role may end a key or an account: revoke it, disable it, delete it.
///
/// # Errors
/// [`ExceedsGrant`]: it is above the manager's role.
pub(super) fn check_end(
    manager: &Principal,
    role: Option<Role>,
    privileges: &Privileges<'_>,
) -> Result<(), ExceedsGrant> {
    if let KeyOwner::Person(person) = privileges.owner
        && manager.person.as_ref().is_some_and(|manager| manager.id == *person)
    {
        return Ok(());
    }
    // A person's key without a role may do what that person may, which is not known here.
    let needed = match privileges.owner {
        KeyOwner::Person(_) => privileges.role.or(Some(Role::Admin)),
        KeyOwner::None | KeyOwner::Account(_) => privileges.role,
    };
    if role < needed { Err(ExceedsGrant::Role) } else { Ok(()) }
}

/// A key or a token makes no key that lives longer than itself.
fn check_life(manager: &Principal, privileges: &Privileges<'_>) -> Result<(), ExceedsGrant> {
    let is_longer = match (manager.expires_at, privileges.expires_at) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(own), Some(given)) => given > own,
    };
    if is_longer && privileges.key_name.is_some() { Err(ExceedsGrant::Life) } else { Ok(()) }
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

/// Whether an allow block names this key or this account, by a name or an id.
fn names_key(allow: &Allow, privileges: &Privileges<'_>) -> bool {
    let members = match allow {
        Allow::Everyone | Allow::NoOne => return false,
        Allow::Members { members, .. } => members,
    };
    members.iter().filter(|(member, _)| NAMING_MEMBERS.contains(&&**member)).any(|(_, requirement)| {
        match requirement {
            Requirement::Present => false,
            Requirement::AnyOf(values) => values.iter().any(|value| is_key(value, privileges)),
        }
    })
}

/// Whether a value of an allow block is a name or the id of this key or account.
fn is_key(value: &Value, privileges: &Privileges<'_>) -> bool {
    let mut names = [privileges.key_name, privileges.account_name].into_iter().flatten();
    match value {
        Value::String(text) => {
            let text = folded(text);
            let bare =
                ["key:", "sa:"].into_iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(&text);
            let is_name = |name: &str| bare == folded(name) || text == folded(name);
            names.any(is_name) || privileges.key_id.is_some_and(|id| text == id.to_string())
        }
        Value::Number(number) => {
            let is_id = privileges.key_id.is_some_and(|id| number.as_f64() == Some(id as f64));
            is_id || names.any(|name| number.to_string() == name)
        }
        Value::Array(values) => values.iter().any(|value| is_key(value, privileges)),
        Value::Object(members) => members.values().any(|value| is_key(value, privileges)),
        Value::Null | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

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
        let privileges = Privileges {
            owner: &KeyOwner::None,
            key_id: Some(7),
            key_name: Some("deploy"),
            account_name: None,
            role: Some(Role::Viewer),
            actor: &actor,
            expires_at: None,
        };
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
            assert_eq!(names_key(&Allow::new(&allow).unwrap(), &privileges), expected, "{allow}");
        }
    }
}
