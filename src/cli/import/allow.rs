//! Translates Datasette's allow blocks into ours.  They mean the same; a block that ours cannot express becomes "no
//! one".

use serde_json::{Value, json};

use crate::policy::Allow;

/// A block of Datasette's as one of ours.
///
/// # Errors
/// Why it cannot be expressed.
pub fn translate(block: &Value) -> Result<Value, &'static str> {
    if holds_reference(block) {
        return Err("Datasette follows no reference in an allow block, and here it would be one");
    }
    if Allow::new(block).is_err() {
        return Err("an allow block is true, false, or a mapping to scalars and lists of scalars");
    }
    Ok(block.clone())
}

/// The block that admits whom both admit; `None` when no single block can express it.
pub fn both(one: &Value, other: &Value) -> Option<Value> {
    let admits_no_one = |block: &Value| {
        *block == Value::Bool(false) || block.as_object().is_some_and(serde_json::Map::is_empty)
    };
    match (one, other) {
        _ if admits_no_one(one) || admits_no_one(other) => Some(Value::Bool(false)),
        (Value::Bool(true), other) => Some(other.clone()),
        (one, Value::Bool(true)) => Some(one.clone()),
        _ if implies(one, other) => Some(one.clone()),
        _ if implies(other, one) => Some(other.clone()),
        _ => both_members(one, other),
    }
}

/// Whether the other block admits everybody whom this one admits: each of its members admits no more than the other's
/// member of the same name.
fn implies(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else {
        return one == other;
    };
    one.iter().all(|(name, wanted)| match (wanted, other.get(name)) {
        (_, None) => false,
        (wanted, Some(other)) if wanted == other => true,
        // `true` means anonymous requests, and only where it is the only value.
        _ if name == "unauthenticated" => false,
        (_, Some(Value::String(any))) if any == "*" => true,
        (Value::String(any), Some(_)) if any == "*" => false,
        (wanted, Some(other)) => elements(wanted).iter().all(|value| elements(other).contains(value)),
    })
}

/// As [`both`], for blocks that have one member each, of the same name.
fn both_members(one: &Value, other: &Value) -> Option<Value> {
    let only = |block: &Value| {
        let members = block.as_object().filter(|members| members.len() == 1)?;
        members.iter().next().map(|(name, wanted)| (name.clone(), wanted.clone()))
    };
    let ((name, one), (other_name, other)) = (only(one)?, only(other)?);
    if name != other_name || name == "unauthenticated" {
        return None;
    }
    let common = match (&one, &other) {
        (Value::String(any), wanted) | (wanted, Value::String(any)) if any == "*" => wanted.clone(),
        // An actor with several values may pass each by another one; asking for a common one is stricter.
        _ => {
            let (one, other) = (elements(&one), elements(&other));
            let common: Vec<Value> = one.iter().filter(|value| other.contains(value)).cloned().collect();
            if common.is_empty() {
                return Some(Value::Bool(false));
            }
            common.into()
        }
    };
    Some(json!({name: common}))
}

fn elements(wanted: &Value) -> &[Value] {
    wanted.as_array().map_or(std::slice::from_ref(wanted), Vec::as_slice)
}

/// Whether it holds a mapping that we would read as a secret reference.
fn holds_reference(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.contains_key("$env")
                || members.contains_key("$file")
                || members.values().any(holds_reference)
        }
        Value::Array(list) => list.iter().any(holds_reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passes_both() {
        let root = json!({"id": "root"});
        for (one, other, expected) in [
            (json!(true), root.clone(), Some(root.clone())),
            (root.clone(), json!(true), Some(root.clone())),
            (root.clone(), json!({}), Some(json!(false))),
            (json!(false), json!(true), Some(json!(false))),
            (root.clone(), root.clone(), Some(root.clone())),
            (root.clone(), json!({"id": "*"}), Some(root.clone())),
            (json!({"id": ["*", "a"]}), json!({"id": "*"}), Some(json!({"id": ["*", "a"]}))),
            (json!({"id": ["a", "root"]}), root.clone(), Some(root.clone())),
            (json!({"id": ["a", "root"]}), json!({"id": ["root", "b"]}), Some(json!({"id": ["root"]}))),
            (json!({"id": "a"}), root.clone(), Some(json!(false))),
            (json!({"role": "a"}), root.clone(), None),
            (json!({"id": "root", "role": "a"}), root.clone(), Some(root.clone())),
            (json!({"id": "root", "role": "a"}), json!({"id": ["root", "b"]}), None),
            (root.clone(), json!({"id": ["root", "b"], "unauthenticated": true}), Some(root.clone())),
            (json!({"id": "*"}), json!({"id": ["*"], "role": "a"}), None),
            (json!({"unauthenticated": true}), json!({"unauthenticated": [true]}), None),
        ] {
            assert_eq!(both(&one, &other), expected, "{one} {other}");
        }
    }

    #[test]
    fn what_cannot_be_said() {
        for block in [json!("no"), json!(1), json!([]), json!({"id": {"$env": "ID"}}), json!({"$env": "ID"})]
        {
            assert!(translate(&block).is_err(), "{block}");
        }
        for block in [json!(true), json!({}), json!({"id": ["a", 1, null], "unauthenticated": true})] {
            assert_eq!(translate(&block), Ok(block));
        }
    }
}
